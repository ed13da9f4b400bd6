"""An explorer on a page, of JupyterLab or of the dashboard: its controls, its picture and its words, for the tests.

Nothing here imports Playwright.
"""

from __future__ import annotations

CONTROLS = {  # the labels of sliders, of dropdowns, and of check boxes
    "LayerExplorer": (
        {"layer", "channel", "image"},
        {"left", "right", "show", "class", "scale of ω"},
        {"sort channels"},
    ),
    "KernelExplorer": ({"layer", "kernel size k", "draw", "image"}, {"model", "surgery on", "mode"}, set()),
    "CoverageExplorer": (
        {"layer", "channels C", "kernel size k", "reduction r", "channel i"},
        {"model", "matrix"},
        set(),
    ),
    "ModuleExplorer": ({"channels C"}, {"left", "right"}, set()),
    "RuleExplorer": ({"γ", "b"}, {"network"}, set()),
    "PictureExplorer": ({"or image", "nearest classes at"}, set(), set()),
}
FIRST = {  # what has to be chosen before a control does something
    "LayerExplorer": {
        "class": [("show", "mean of one class")],
        "image": [("show", "one image")],
        "scale of ω": [("left", "shapes-eca-k3"), ("right", "shapes-eca-k3")],
    },
    "KernelExplorer": {"draw": [("mode", "random")], "kernel size k": [("mode", "resize")]},
}
WORDLESS = {  # controls that change the picture and nothing that is said of it
    "LayerExplorer": {"scale of ω", "sort channels"},
    "CoverageExplorer": {"matrix"},
}

FINGERPRINT = """async image => {
    await image.decode();
    const digest = await crypto.subtle.digest('SHA-256', await (await fetch(image.src)).arrayBuffer());
    return Array.from(new Uint8Array(digest), byte => byte.toString(16)).join(' ');
}"""
# A notebook keeps only the cells near the screen in the page: go to the last one that shows a widget.
TO_WIDGET = """async () => {
    const book = window.jupyterapp.shell.currentWidget.content;
    const view = 'application/vnd.jupyter.widget-view+json';
    const shows = cell => (cell.model.outputs?.toJSON() ?? [])
        .some(output => view in (output.data ?? {}) && 'image/png' in output.data);
    const index = book.widgets.findLastIndex(shows);
    if (index < 0) return false;
    book.activeCellIndex = index;
    await book.scrollToItem(index, 'start');
    return true;
}"""
START = """box => box.querySelector('select, [tabindex="0"]').focus({preventScroll: true})"""
HAS_FOCUS = """box => box.contains(document.activeElement)
    && document.activeElement.matches('select, .noUi-handle, input[type=checkbox]')"""
# ipywidgets writes the spaces of an option as no-break spaces.
CHOICE = r"""(box, words) =>
    [box.selectedIndex, Array.from(box.options).findIndex(one => one.text.replace(/\s/g, ' ') === words)]"""
VALUE = """box => box.querySelector('select')?.selectedIndex
    ?? box.querySelector('input[type=checkbox]')?.checked
    ?? box.querySelector('.widget-readout').innerText"""


def pixels(picture) -> str:
    """A fingerprint of the picture's bytes."""
    for attempt in range(5):
        try:
            return picture.evaluate(FINGERPRINT)
        except Exception:  # the picture was replaced, and its address revoked, while it was read
            if attempt == 4:
                raise
            picture.page.wait_for_timeout(50)
    raise AssertionError("unreachable")


def shown_in(notebook, explorer: str = "") -> Shown:
    """The last explorer of a notebook that JupyterLab shows."""
    page = notebook.page
    assert page.evaluate(TO_WIDGET), "no cell shows a widget"
    assert page.locator(".jupyter-widgets-error-widget").count() == 0, "a widget could not be shown"
    return Shown(page, boxes(page).last, explorer)


def boxes(page):
    """The outputs that show an explorer."""
    return page.locator(".jp-OutputArea-output").filter(has=page.locator("img.widget-image"))


class Shown:
    """One explorer on the page.

    Args:
        page: Playwright's page.
        box: The locator of the output that shows it.
        explorer: The name of its class; what :data:`FIRST` and :data:`WORDLESS` say of it holds.
    """

    def __init__(self, page, box, explorer: str = ""):
        self.page, self.box, self.explorer = page, box, explorer
        self.picture = box.locator("img.widget-image").last
        self.picture.scroll_into_view_if_needed()

    def control(self, kind: str, label: str):
        """The slider, dropdown or checkbox that the words stand beside."""
        box = self.box.locator(f".widget-{kind}").filter(has=self.page.get_by_text(label, exact=True))
        assert box.count() == 1, f"{box.count()} of kind {kind} are labelled {label!r}"
        return box

    def labels(self, kind: str) -> set[str]:
        """What stands beside the sliders, the dropdowns or the check boxes."""
        text = ".widget-checkbox span" if kind == "checkbox" else f".widget-{kind} > .widget-label"
        return set(self.box.locator(text).all_inner_texts())

    def words(self) -> str:
        """What is said beside the picture."""
        return "\n".join(self.box.locator(".ecaviz-words").all_inner_texts())

    def height(self) -> float:
        """Of the whole explorer, in pixels of the page."""
        return self.box.bounding_box()["height"]

    def changes(self, before: str, what: str, seconds: float = 20) -> str:
        """Wait until the picture is another one; its fingerprint."""
        for _ in range(int(seconds / 0.05)):
            after = pixels(self.picture)
            if after != before:
                return after
            self.page.wait_for_timeout(50)
        raise AssertionError(f"the picture did not change within {seconds:.0f} s after {what}")

    def prepare(self, label: str) -> None:
        """Choose what a control needs, and wait until the picture stands still."""
        for choice in FIRST.get(self.explorer, {}).get(label, []):
            before = pixels(self.picture)
            if self.choose(*choice):
                self.changes(before, f"choosing {choice[1]!r} of {choice[0]!r}")
        self.still()

    def still(self) -> str:
        """Wait until the picture is drawn finely, as it is when nothing moves any more; its fingerprint."""
        fine = "image => image.complete && image.naturalWidth > 1.5 * image.width"
        now, before = pixels(self.picture), None
        while now != before:
            self.page.wait_for_function(fine, arg=self.picture.element_handle(), timeout=30_000)
            self.page.wait_for_timeout(200)
            now, before = pixels(self.picture), now
        return now

    def choose(self, label: str, option: str) -> bool:
        """Choose what a dropdown offers, by its words; whether it was another before."""
        select = self.control("dropdown", label).locator("select")
        before, index = select.evaluate(CHOICE, option)
        assert index >= 0, f"{label!r} does not offer {option!r}"
        select.select_option(index=index)
        return index != before

    def tab_to(self, kind: str, label: str):
        """Go from the explorer's first control to another with the Tab key alone."""
        control = self.control(kind, label)
        self.box.evaluate(START)
        for _ in range(60):
            if control.evaluate(HAS_FOCUS):
                return control
            self.page.keyboard.press("Tab")
        raise AssertionError(f"the {kind} {label!r} is not reached with the Tab key")

    def move_each(self, screenshot=None) -> None:
        """Move every slider, dropdown and check box: picture and words follow, and what is below stays where it is.

        Args:
            screenshot: Called with the first word of the label and the kind after each move.

        Raises:
            AssertionError: A control that should be there is not, or does not do that; the message names it.
        """
        sliders, dropdowns, boxes = CONTROLS[self.explorer]
        for kind, labels in {"dropdown": dropdowns, "slider": sliders, "checkbox": boxes}.items():
            assert self.labels(kind) == labels
            for label in sorted(labels):
                self.move(kind, label)
                if screenshot:
                    screenshot(f"{label.split()[0]}-{kind}")
        self.still()  # what the last move asked for is there: no picture that is not whole becomes fine

    def move(self, kind: str, label: str) -> None:
        """Move one control by one step, with the keyboard alone."""
        what = f"the {kind} {label!r}"
        self.prepare(label)
        before, words, height = pixels(self.picture), self.words(), self.height()
        control = self.tab_to(kind, label)
        was = control.evaluate(VALUE)
        # One of the arrows may be at the end of the control.
        for key in ("Space",) if kind == "checkbox" else ("ArrowUp", "ArrowDown"):
            self.page.keyboard.press(key)
            self.page.wait_for_timeout(100)
            if control.evaluate(VALUE) != was:
                break
        assert control.evaluate(VALUE) != was, f"{what} does not follow"
        self.changes(before, what)
        if label not in WORDLESS.get(self.explorer, ()):
            self._until(lambda: self.words() != words, f"the words beside the picture stayed after {what}: {words}")
        grown = self.height() - height  # less than a pixel is how a finer picture was rounded
        assert abs(grown) < 1, f"the explorer grew by {grown} pixels after {what}"

    def _until(self, holds, problem: str, seconds: float = 10) -> None:
        for _ in range(int(seconds / 0.05)):
            if holds():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(problem)
