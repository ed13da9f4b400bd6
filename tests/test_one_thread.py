"""What browsers say is handled in the thread that made an explorer, whichever thread it comes in from."""

import asyncio
import contextvars
import threading

import pytest
from test_explorers import Drawn, make

import ecaviz

widgets = pytest.importorskip("ipywidgets", reason="the extra `lab` is not installed")
from ecaviz.one_thread import OneThread  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_loop")

asked_by = contextvars.ContextVar("asked_by", default="nobody")


def tell(widget, **state):
    """What a browser says when a control is moved."""
    widget.comm.handle_msg({"content": {"data": {"method": "update", "state": state}}})


def press(button):
    """What a browser says when a button is pressed."""
    data = {"method": "custom", "content": {"event": "click"}}
    button.comm.handle_msg({"content": {"data": data}, "buffers": []})


def beside(*actions):
    """Run the actions in a thread of its own, one after the other, while this one waits; its context says "beside"."""

    def run():
        asked_by.set("beside")
        for action in actions:
            action()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return thread.ident


async def settled():
    """Until everything that waited for this thread is done."""
    for _ in range(10):
        await asyncio.sleep(0)


def heard(*members):
    """A list that grows by thread, asker and value whenever one of the widgets changes."""
    said = []
    for one in members:
        one.observe(lambda change: said.append((threading.get_ident(), asked_by.get(), change["new"])), "value")
    return said


def test_a_message_of_another_thread_is_handled_in_its_own():
    async def run():
        slider = widgets.IntSlider()
        OneThread([slider])
        said = heard(slider)
        other = beside(lambda: tell(slider, value=3))
        assert said == [], "it was handled in the thread it came in from"
        await settled()
        return other, said

    other, said = asyncio.run(run())
    assert said == [(threading.get_ident(), "beside", 3)]
    assert other != threading.get_ident()


def test_a_message_of_its_own_thread_is_handled_at_once():
    async def run():
        slider = widgets.IntSlider()
        OneThread([slider])
        tell(slider, value=3)
        return slider.value

    assert asyncio.run(run()) == 3


def test_without_a_loop_nothing_waits():
    slider = widgets.IntSlider()
    OneThread([slider])
    said = heard(slider)
    other = beside(lambda: tell(slider, value=3))
    assert said == [(other, "beside", 3)]


def test_a_loop_that_has_ended_keeps_nothing_waiting():
    async def made():
        slider = widgets.IntSlider()
        OneThread([slider])
        return slider

    slider = asyncio.run(made())
    said = heard(slider)
    beside(lambda: tell(slider, value=3))
    assert [value for *_, value in said] == [3]


def test_newer_values_take_the_place_of_those_that_wait():
    async def run():
        slider, other = widgets.IntSlider(), widgets.IntSlider()
        OneThread([slider, other])
        said = heard(slider, other)
        beside(*(lambda i=i: tell(slider, value=i) for i in range(1, 6)), lambda: tell(other, value=7))
        await settled()
        return [value for *_, value in said]

    assert asyncio.run(run()) == [5, 7]


def test_what_was_said_of_another_trait_is_not_lost():
    async def run():
        slider = widgets.IntSlider()
        OneThread([slider])
        beside(lambda: tell(slider, max=500, value=3), lambda: tell(slider, value=400))
        await settled()
        return slider.max, slider.value

    assert asyncio.run(run()) == (500, 400)


def test_the_order_of_moves_of_two_controls_stays():
    async def run():
        slider, other = widgets.IntSlider(), widgets.IntSlider()
        OneThread([slider, other])
        said = heard(slider, other)
        beside(lambda: tell(slider, value=1), lambda: tell(other, value=2), lambda: tell(slider, value=3))
        await settled()
        return [value for *_, value in said]

    assert asyncio.run(run()) == [1, 2, 3]


def test_presses_are_not_put_together():
    async def run():
        button = widgets.Button()
        OneThread([button])
        pressed = []
        button.on_click(pressed.append)
        beside(*[lambda: press(button)] * 3)
        await settled()
        return len(pressed)

    assert asyncio.run(run()) == 3


def test_what_waits_comes_before_what_comes_in_the_own_thread():
    async def run():
        slider = widgets.IntSlider()
        OneThread([slider])
        said = heard(slider)
        beside(lambda: tell(slider, value=5))
        tell(slider, value=7)
        await settled()
        return [value for *_, value in said]

    assert asyncio.run(run()) == [5, 7]


def test_what_waits_for_a_closed_widget_is_not_handled():
    async def run():
        slider = widgets.IntSlider()
        OneThread([slider])
        said = heard(slider)
        beside(lambda: tell(slider, value=5))
        slider.close()
        await settled()
        return said

    assert asyncio.run(run()) == []


def test_in_the_event_loop_of_windows_nothing_waits(monkeypatch):
    import IPython

    class Shell:
        class kernel:  # noqa: N801
            eventloop = "qt"

        class events:  # noqa: N801
            trigger = staticmethod(lambda name: None)

    async def run():
        slider = widgets.IntSlider()
        OneThread([slider])
        said = heard(slider)
        monkeypatch.setattr(IPython, "get_ipython", Shell)
        beside(lambda: tell(slider, value=5))
        return [value for *_, value in said]

    assert asyncio.run(run()) == [5]


def of_all(widget):
    for one in getattr(widget, "children", ()):
        yield from of_all(one)
    yield widget


@pytest.mark.parametrize(
    "explorer",
    [
        lambda: ecaviz.LayerExplorer([make("se", "se-4", reduction=4), make("eca", "eca-5", kernel_size=5)], Drawn()),
        lambda: ecaviz.KernelExplorer(make("eca", "eca-5", kernel_size=5), Drawn()),
        lambda: ecaviz.PictureExplorer("shapes-se-r16", at_most=12),
        ecaviz.CoverageExplorer,
        ecaviz.ModuleExplorer,
        ecaviz.RuleExplorer,
    ],
    ids=["Layer", "Kernel", "Picture", "Coverage", "Module", "Rule"],
)
def test_every_widget_of_an_explorer_waits_for_its_thread(explorer):
    async def run():
        shown = explorer()
        handled = []
        waited = [one for one in of_all(shown) if one.comm is not None]
        for one in waited:
            one._handle_msg = lambda message, one=one: handled.append((threading.get_ident(), one))
        beside(*(lambda one=one: tell(one) for one in waited))
        assert handled == []
        await settled()
        await asyncio.sleep(0.05)
        for one in waited:
            del one._handle_msg
        shown.close()
        return waited, handled

    waited, handled = asyncio.run(run())
    assert [one for _, one in handled] == waited
    assert len(waited) > 10
    assert {ident for ident, _ in handled} == {threading.get_ident()}


def test_an_upload_and_a_move_that_come_in_at_once_do_not_run_the_network_together():
    """The network's hooks would catch each other's gates: no layer would be seen whole."""
    from ecaviz.image_files import to_pil
    from ecaviz.images import shapes

    async def run():
        explorer = ecaviz.PictureExplorer("shapes-se-r16", at_most=12)
        running, most = [], []
        run_one = explorer.state._run

        def counted(*arguments):
            running.append(arguments)
            most.append(len(running))
            try:
                return run_one(*arguments)
            finally:
                running.pop()

        explorer.state._run = counted
        picture = to_pil(shapes("test", n=40)[33][0])
        for i in range(1, 6):
            other = threading.Thread(target=lambda: tell(explorer.controls["site"], index=0))
            move = threading.Thread(target=lambda i=i: tell(explorer.controls["image"], value=i))
            other.start(), move.start()
            explorer.show(picture)
            other.join(), move.join()
            await asyncio.sleep(0.1)
        error, most_at_once = explorer.error.value, max(most)
        explorer.close()
        return error, most_at_once

    assert asyncio.run(run()) == ("", 1)
