"""The browser's half of an explorer's picture, screen.js, on an empty page, with a kernel that these tests play."""

from __future__ import annotations

from pathlib import Path

import pytest

import ecaviz

pytestmark = pytest.mark.browser

KERNEL = """async source => {
    class Model {
        constructor(state) { this.state = {...state}; this.heard = []; this.sent = []; }
        get(name) { return this.state[name]; }
        set(name, value) { this.tell({[name]: value}); }
        save_changes() {}
        send(content) { this.sent.push(content); }
        on(names, act) { names.split(' ').forEach(name => this.heard.push([name, act])); }
        off() { this.heard = []; }
        tell(state) {
            Object.assign(this.state, state);
            this.emit([...Object.keys(state).map(name => `change:${name}`), 'change']);
        }
        emit(names, ...said) {
            for (const name of names) for (const [one, act] of this.heard) if (one === name) act(...said);
        }
    }
    window.urls = new Set();
    const {createObjectURL, revokeObjectURL} = URL;
    URL.createObjectURL = blob => { const url = createObjectURL(blob); urls.add(url); return url; };
    URL.revokeObjectURL = url => { urls.delete(url); revokeObjectURL(url); };
    window.slider = new Model({value: 0});
    window.bytes = text => new DataView(new TextEncoder().encode(text).buffer);
    window.screen_ = new Model({controls: ['IPY_MODEL_slider'], rest: 'light', key: '0|light', frame: bytes('whole 0'),
        frame_key: '0|light', partial: false, width: 100, alt: '', answers: 1, dark: false, page_dark: false});
    screen_.widget_manager = {get_model: async () => slider};
    const module = createObjectURL(new Blob([source], {type: 'text/javascript'}));
    await (await import(module)).default.render({model: screen_, el: document.body});
    window.image = document.querySelector('img');
}"""


class Played:
    """A page with one picture, "whole 0", and one slider; what is sent as a PNG is any text."""

    def __init__(self, page):
        self.page, self.answers = page, 1
        page.route("**/*", lambda route: route.fulfill(body="<body></body>", content_type="text/html"))
        page.goto("http://localhost/")
        page.evaluate(KERNEL, Path(ecaviz.__file__).with_name("screen.js").read_text("utf-8"))

    def move(self, value: int) -> None:
        """The user moves the slider."""
        self.page.evaluate("value => slider.tell({value})", value)

    def tell(self, **state) -> None:
        """The kernel sets traits of the picture."""
        self.page.evaluate(
            "state => screen_.tell('frame' in state ? {...state, frame: bytes(state.frame)} : state)", state
        )

    def show(self, value: int, frame: str | None = None, *, partial: bool = False, rest: str = "light") -> None:
        """The kernel answers a move; with a frame, or with one that the browser has."""
        self.answers += 1
        key = f"{value}|{rest}"
        sent = {} if frame is None else {"frame": frame, "frame_key": key}
        state = {"rest": rest, "dark": rest == "dark", "partial": partial, "key": key, "alt": f"picture of {key}"}
        self.tell(**sent, **state, answers=self.answers)

    def send(self, content: dict, png: str = "") -> None:
        """The kernel sends a message."""
        self.page.evaluate("([content, png]) => screen_.emit(['msg:custom'], content, [bytes(png)])", [content, png])

    def shown(self) -> str:
        """The picture that is shown."""
        return self.page.evaluate("async () => image.src ? await (await fetch(image.src)).text() : ''")

    def kept(self) -> int:
        """How many pictures the browser keeps."""
        return self.page.evaluate("() => urls.size")

    def asked(self) -> list[str]:
        """The keys of frames that the kernel was asked for."""
        return self.page.evaluate("() => screen_.sent.filter(one => 'want' in one).map(one => one.want)")

    def waits(self) -> str:
        """What is said to those who wait."""
        return self.page.locator('[role="status"]').inner_text()

    def paper(self) -> str:
        """What is behind the picture."""
        return self.page.evaluate("() => image.style.background")

    def turn(self, theme: str) -> None:
        """The page becomes light or dark."""
        self.page.evaluate("light => { document.body.dataset.jpThemeLight = light; }", str(theme == "light").lower())


@pytest.fixture
def played(browser):
    page = browser.new_page()
    yield Played(page)
    page.close()


def test_a_frame_that_is_here_is_shown_before_the_kernel_answers(played):
    assert played.shown() == "whole 0"
    played.move(1)
    assert played.shown() == "whole 0"
    played.show(1, "whole 1")
    assert played.shown() == "whole 1"
    played.move(0)
    assert played.shown() == "whole 0"
    played.send({"ahead": "2|light"}, "whole 2")
    assert played.shown() == "whole 0"
    played.move(2)
    assert played.shown() == "whole 2"
    assert played.asked() == []


def test_a_frame_that_was_sent_before_the_page_was_opened_is_asked_for_and_shown(played):
    for _ in range(2):
        played.move(1)
        played.show(1)
        assert played.asked() == ["1|light"]
        played.send({"ahead": "1|light"}, "whole 1")
        assert played.shown() == "whole 1"
        played.move(0)
        played.show(0)
        assert played.shown() == "whole 0"


def test_a_frame_that_was_asked_for_and_is_late_takes_no_other_ones_place(played):
    played.show(2, "whole 2")
    played.move(1)
    played.show(1)
    assert played.asked() == ["1|light"]
    played.move(2)
    played.send({"ahead": "1|light"}, "whole 1")
    assert played.shown() == "whole 2"


def test_a_frame_that_comes_again_takes_the_place_of_the_one_that_is_shown(played):
    """As where a second view of the explorer is opened."""
    for fine in (False, True):
        for _ in range(2):
            played.send({"ahead": "0|light", "fine": fine}, f"fine: {fine}")
            played.page.wait_for_timeout(400)  # longer than it takes until it is shown
            assert played.shown() == f"fine: {fine}"
            played.send({"ahead": "0|light", "fine": fine}, f"fine, again: {fine}")
            assert played.shown() == f"fine, again: {fine}", "what is shown was let go of"
            assert played.kept() == 1 + fine


def test_of_pictures_that_are_not_whole_one_is_kept(played):
    for value in range(1, 6):
        played.move(value)
        played.show(value, f"part {value}", partial=True)
        assert played.shown() == f"part {value}"
        assert played.kept() == 2, "a picture that is not whole was kept"
    played.show(5, "whole 5")
    assert played.shown() == "whole 5"
    played.move(6)
    played.show(6, "part 6", partial=True)
    assert played.kept() == 3
    for _ in range(2):
        played.move(5)
        played.show(5)
        assert played.shown() == "whole 5", "a whole picture was dropped"
        played.move(6)
        played.show(6, partial=True)  # the same bytes are not sent again
        assert played.shown() == "part 6"
    assert played.asked() == []


def test_computing_is_said_while_the_network_runs_and_not_after_it_failed(played):
    said = played.page.get_by_text("computing …")
    assert played.waits() == ""
    played.move(1)
    said.wait_for()
    played.show(1, "part 1", partial=True)
    said.wait_for()
    assert played.page.locator('[aria-busy="true"]').count() == 1
    played.answers += 1
    played.tell(answers=played.answers)  # the error is shown
    played.tell(partial=False)
    assert played.waits() == ""
    played.page.wait_for_timeout(400)  # longer than what it takes to say it
    assert played.waits() == ""
    assert played.page.locator('[aria-busy="true"]').count() == 0
    assert played.shown() == "part 1"


def test_picture_and_paper_change_together_with_the_theme(played):
    """A light picture on a dark page lies on white, until the dark one is there."""
    white, none = "rgb(255, 255, 255)", ""
    played.turn("light")
    played.move(1)
    played.show(1, "light 1")
    assert (played.shown(), played.paper()) == ("light 1", none)
    played.turn("dark")
    played.page.wait_for_function("() => screen_.get('page_dark')")
    assert (played.shown(), played.paper()) == ("light 1", white)
    played.show(1, rest="dark")  # sent before this page was opened
    assert (played.shown(), played.paper()) == ("light 1", white)
    played.send({"ahead": "1|light", "fine": True}, "light and fine")
    assert played.paper() == white
    played.send({"ahead": "1|dark"}, "dark 1")
    assert (played.shown(), played.paper()) == ("dark 1", none)
    played.show(1)  # the button “dark”: a light picture on a dark page
    assert (played.shown(), played.paper()) == ("light 1", white)
    played.turn("light")
    played.page.wait_for_function("() => !screen_.get('page_dark')")
    assert played.paper() == none
