"""What all explorers share: controls in groups, the picture, what is seen in words and numbers; and makers of controls.

How a move is answered: the controls set the traits of the state, and the picture follows. A frame that the browser has
already (:mod:`ecaviz.screen`) is shown there at once, but where other controls may follow the one that was moved: then
when the kernel has answered. Any other is drawn at 1×, and only what the move changed. When nothing has moved for
``REST`` seconds it is drawn again at 2×, and then the frames that the next moves can lead to are drawn and sent before
they are asked for: those of the control that was moved last, and of the control ``ahead``, in turn. A move that comes
meanwhile goes first.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import html
import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import traitlets
from PIL import Image

from . import themes
from .canvas import DPI, Canvas, png_of
from .frames import bundled, choices
from .one_thread import OneThread
from .screen import Frame, Screen, plain, token, worded
from .texts import as_written
from .views import Picture
from .whole_files import replace_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["WIDE", "Explorer", "dropdown", "layout_of", "number", "numbered", "slider"]

REST = 0.2
"""Seconds without a move until the picture is drawn finely."""
BREATH = 0.005
"""Seconds between two panels that are drawn at rest, for moves to come in."""
FINE = 2
"""How finely, in pixels for each CSS pixel."""
KINDS = {"png": "image/png", "svg": "image/svg+xml", "pdf": "application/pdf", "csv": "text/csv"}
ROWS = 200
"""The most rows of the table under a picture; the file has all."""


class Explorer(widgets.VBox):
    """Controls, the picture, and what is seen: in words, and as a table where that is asked for.

    Attributes:
        state: The traits; set them and the picture follows.
        controls: The control of each trait, by its name.
        picture: The picture; ``picture.value`` is its PNG.
        error: The line for errors: empty while all is well.
        caption: What is seen, in words.
        tools: Buttons that save the picture and the numbers, and show the numbers, by name: "png", "svg", "csv",
            "numbers", "dark".

    Args:
        state: Has ``scene()``, ``describe(scene)`` and ``table(scene)``.
        panels: What draws the scene.
        controls: The controls by trait, in groups by the name of the group. What is no trait is shown alone.
        chooser: Shown between the controls and the picture.
    """

    ahead: str = ""
    """Name of the control whose frames are rendered ahead, here and in reports; empty for none."""

    most_ahead = 16
    """The most frames of one control that are rendered while nothing moves, the nearest."""

    leading: frozenset[str] = frozenset()
    """Controls that others may follow to a picture that is there already: the kernel answers before one is shown."""

    undrawn: frozenset[str] = frozenset()
    """Traits that the picture does not show: what moves them alone draws nothing."""

    _refining: asyncio.Task | None = None  # here, since a widget is closed even where its making failed

    height = "5.4em"
    """Room for the words; longer ones are scrolled, so that nothing below them moves."""

    def __init__(
        self,
        state: traitlets.HasTraits,
        panels: type,
        controls: Mapping[str, Mapping[str, widgets.Widget]],
        chooser: widgets.Widget | None = None,
        **options: Any,
    ):
        self.state, self._panels = state, panels
        shown = [(name, one) for group in controls.values() for name, one in group.items()]
        self.controls = {name: one for name, one in shown if state.has_trait(name)}
        self._canvases: dict[tuple[str, int, bool], Canvas] = {}
        self._beside: dict[str, tuple[Any, int]] = {}
        self._syncing = False
        self._last = self.ahead
        self._drawn = self._values()
        drawn = [one for name, one in self.controls.items() if name not in self.undrawn]
        self.picture = Screen(drawn, round(panels.size[0] * DPI))
        self.error, self.caption, self.numbers = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.tools = _tools()
        words = widgets.VBox(
            [self.error, self.caption],
            layout=widgets.Layout(height=self.height, overflow="auto", flex="0 0 auto"),
            tabbable=True,  # to be scrolled by keyboard
        )
        words.add_class("ecaviz-words")
        self.numbers.add_class("ecaviz-numbers")
        rows = widgets.Box(
            [_group(name, list(group.values())) for name, group in controls.items()],
            layout=widgets.Layout(flex_flow="row wrap"),
        )
        row = widgets.Box(list(self.tools.values()), layout=widgets.Layout(flex_flow="row wrap"))
        above = [rows] if chooser is None else [rows, chooser]
        super().__init__([*above, self.picture, words, row, self.numbers], **options)
        self.add_class("ecaviz-explorer")
        OneThread(_all_of(self))
        self._draw()
        for name, control in self.controls.items():
            control.observe(partial(self._moved, name), "value")
        state.observe(self._changed)
        for kind in ("png", "svg", "csv"):
            self.tools[kind].on_click(lambda _, kind=kind: self._guarded(self._offer, kind))
        self.tools["numbers"].observe(lambda _: self._guarded(self._tell_numbers), "value")
        self.tools["dark"].observe(lambda _: self._guarded(self._draw), "value")
        self.picture.observe(lambda change: self.tools["dark"].set_trait("value", change["new"]), "page_dark")
        self.picture.observe(lambda _: self._refine(), "viewed")

    # ------------------------------------------------------------------------------------------------- what is seen

    @property
    def theme(self) -> str:
        """The look of the picture, "light" or "dark"; it follows the page, and the button "dark"."""
        return "dark" if self.tools["dark"].value else "light"

    @property
    def panels(self) -> Any:
        """What drew the last picture that was not shown before."""
        return self._canvas().panels

    def figure(self) -> Picture:
        """The same picture as a matplotlib figure of its own, for notebooks without a kernel and for saving."""
        with themes.theme(self.theme) as look:
            figure = Picture(figsize=self._panels.size, dpi=DPI, facecolor=look.paper)
            self._panels(figure).update(self.state.scene())
            as_written(figure)
        return figure

    def drawn(self, state: traitlets.HasTraits) -> tuple[bytes, str]:
        """The picture of a state like this one's, PNG, on paper, and its words; the widget itself stays as it is."""
        self._leave_off()  # it draws on the same canvas
        scene = state.scene()
        found = _on_paper(self._canvas(apart=True).png(scene), self.theme), plain(state.describe(scene))
        self._refine()
        return found

    def table(self) -> pd.DataFrame:
        """The numbers that are seen, tidy: one observation a row."""
        return self.state.table(self.state.scene())

    def save(self, path: str | Path) -> Path:
        """Write the picture or the numbers to a file, whole or not at all.

        Args:
            path: Where to; the suffix says what: .png (2×), .svg or .pdf for the picture, .csv for the numbers.

        Returns:
            The path.

        Raises:
            ValueError: Another suffix.
            OSError: It cannot be written: no room, no permission.
        """
        path = Path(path)
        replace_file(path, self._file(path.suffix[1:].lower()))
        return path

    def _file(self, kind: str) -> bytes:
        if kind not in KINDS:
            raise ValueError(f"save: a file .{', .'.join(KINDS)} was expected, got {f'.{kind}' if kind else 'none'}.")
        if kind == "csv":
            return self.table().to_csv(index=False).encode("utf-8")
        file = io.BytesIO()
        with themes.theme(self.theme):
            self.figure().savefig(file, format=kind, dpi=FINE * DPI)
        return file.getvalue()

    def _offer(self, kind: str) -> None:
        """Have the browser save it."""
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(self).__name__).lower()
        self.picture.save(f"{name}.{kind}", KINDS[kind], self._file(kind))

    def _tell_numbers(self) -> None:
        """The table under the picture, where it is asked for."""
        if not self.tools["numbers"].value:
            self.numbers.value = ""
            return
        table = self.table()
        shown = table.head(ROWS).to_html(index=False, float_format="{:.4g}".format, na_rep="–", border=0)
        more = f"<p>{ROWS} of {len(table):,} rows; “save CSV” has all.</p>" if len(table) > ROWS else ""
        self.numbers.value = f'<div role="region" aria-label="numbers" tabindex="0">{shown}</div>{more}'

    # ------------------------------------------------------------------------------------------------------- a move

    def _moved(self, name: str, change: Any) -> None:
        if not self._syncing:
            self._last = name
            self._guarded(self._set, name, change["new"])

    def _set(self, name: str, value: Any) -> None:
        try:
            setattr(self.state, name, value)
        except Exception:
            self._sync()  # a move that is refused: the control goes back
            raise

    def _changed(self, _change: Any) -> None:
        """Draw once for a trait and those that follow it: when the first of them tells, all are set."""
        values = self._values()
        if values != self._drawn:
            self._drawn = values
            self._guarded(self._draw)

    def _values(self, state: traitlets.HasTraits | None = None) -> dict[str, Any]:
        return {name: value for name, value in (state or self.state).trait_values().items() if name not in self.undrawn}

    def _draw(self) -> None:
        self._leave_off()
        self._sync()
        rest = self._rest(self._drawn)
        frame, whole = self.picture.sent(self.picture.now(rest)), True
        if frame is None:
            self._prepare()
            scene, whole = self._scene(), self._whole()
            frame = Frame(self._canvas().png(scene), self.state.describe(scene))
        self.picture.show(frame, rest, dark=self.theme == "dark", partial=not whole)
        self.caption.value, self.error.value = frame.words, ""
        if whole and not self._refine():
            self._tell_numbers()

    def _sync(self) -> None:
        self._syncing = True
        try:
            self.sync()
        finally:
            self._syncing = False

    def _canvas(self, scale: int = 1, *, apart: bool = False) -> Canvas:
        """What the picture is drawn on; what is not shown now is drawn apart."""
        key = self.theme, scale, apart
        if key not in self._canvases:
            self._canvases[key] = Canvas(self._panels, scale=scale, theme=self.theme)
        return self._canvases[key]

    def _rest(self, values: Mapping[str, Any]) -> str:
        """What the picture depends on beside the controls; what is no number or word is told apart by a number.

        What the leading controls say is in it too: the browser hears of it with the kernel's answer, not before.
        """
        said = [self.theme]
        for name, value in values.items():
            if name in self.controls and name not in self.leading:
                continue
            if not isinstance(value, str | int | float | None):
                before, stamp = self._beside.get(name, (None, 0))
                self._beside[name] = value, stamp + (value is not before)
                value = f"#{self._beside[name][1]}"
            said.append(f"{name}={value}")
        return ", ".join(said)

    def _prepare(self) -> None:
        """What has to be done before the picture is drawn."""

    def _scene(self) -> Any:
        """What is to be drawn now."""
        return self.state.scene()

    def _whole(self) -> bool:
        """Whether what is drawn now is all, and nothing that takes long will follow."""
        return True

    def _guarded(self, action: Callable, *arguments: Any) -> None:
        """The one place where the errors of moves end up: in the widget, in words, until the next good move."""
        try:
            action(*arguments)
        except Exception as error:
            text = html.escape(str(error) or type(error).__name__)
            self.error.value = f'<p role="alert" class="ecaviz-error">{text}</p>'
            self.picture.answers += 1

    def sync(self) -> None:
        """Make the controls say what the state says."""
        layer = self.controls.get("layer")
        if layer is not None and layer.options != (options := numbered(self.state.names)):
            with layer.hold_sync():
                layer.options = options
                layer.value = self.state.layer
        for name, control in self.controls.items():
            value = getattr(self.state, name)
            if control.value != value:
                if isinstance(value, int) and value > getattr(control, "max", value):
                    control.max = value  # else it would say another number
                control.value = value

    # --------------------------------------------------------------------------------------------- while nothing moves

    def _refine(self) -> bool:
        """Draw finely, and ahead, as soon as nothing moves, where a browser shows it; whether that was begun."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if self.picture.viewed:
            self._refining = loop.create_task(self._refined(self.picture.key))
        return self.picture.viewed

    def _leave_off(self) -> None:
        task, self._refining = self._refining, None
        if task is not None and not task.get_loop().is_closed():
            task.cancel()

    async def _refined(self, key: str) -> None:
        try:
            await asyncio.sleep(REST)
            self._tell_numbers()
            if not self.picture.shown.fine:
                self.picture.send_fine(key, await self._drawn_slowly(self._canvas(FINE), self.state.scene()))
            for other, state in self._others():
                with contextlib.suppress(Exception):  # what cannot be drawn is told when it is asked for
                    scene = state.scene()
                    png = await self._drawn_slowly(self._canvas(apart=True), scene)
                    self.picture.send_ahead(other, Frame(png, state.describe(scene)))
                await asyncio.sleep(BREATH)
        except Exception as error:
            self._guarded(_raise, error)

    async def _drawn_slowly(self, canvas: Canvas, scene: Any) -> bytes:
        """Draw panel by panel; a move comes in between two of them, and stops it."""
        for _ in canvas.steps(scene):
            await asyncio.sleep(BREATH)
        return await asyncio.get_running_loop().run_in_executor(None, png_of, canvas.pixels().copy())

    def _worth(self, name: str, state: Any) -> bool:
        """Whether a state that a move of this control leads to is drawn ahead."""
        return True

    def _others(self) -> Iterator[tuple[str, Any]]:
        """Key and state of each frame that one move leads to and the browser has not, the likeliest first."""
        moves = [self._nearest(name) for name in dict.fromkeys((self._last, self.ahead))]
        for name, i, value in filter(None, itertools.chain(*itertools.zip_longest(*moves))):
            control = self.controls[name]
            said = worded(i if hasattr(control, "index") else value)
            tokens = [said if one is control else token(one) for one in self.picture.controls]
            then = self._drawn | {name: value}
            key = "|".join([*tokens, self._rest(then)])
            if self.picture.sent(key) is not None:
                continue
            state = copy.copy(self.state)
            with contextlib.suppress(Exception):  # a value that is refused
                setattr(state, name, value)
            # Where other traits follow, the key is another.
            if self._values(state) == then and self._worth(name, state):
                yield key, state

    def _nearest(self, name: str) -> list[tuple[str, int, Any]]:
        """The moves of a control whose frames are drawn ahead: its name, number and value, the nearest first."""
        control = self.controls.get(name)
        values = [value for _, value in choices(control)] if control is not None and not control.disabled else []
        now = getattr(self.state, name, None)
        if now not in values:
            return []
        near = sorted(range(len(values)), key=lambda i: abs(i - values.index(now)))
        return [(name, i, values[i]) for i in near[1 : 1 + self.most_ahead]]

    def close(self) -> None:
        """Close the widget and all that is in it; what was to be drawn finely is not drawn any more."""
        self._leave_off()
        if self.comm is not None and hasattr(self, "picture"):
            self.picture.clear()
            self._canvases.clear()
            for one in list(_all_of(self))[:-1]:
                one.close()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live widget, and the picture as it is now, on paper, for wherever there is no kernel."""
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle["text/plain"] = f"{type(self).__name__}: {plain(self.caption.value)}"
        bundle["image/png"] = base64.b64encode(_on_paper(self.picture.shown.quick, self.theme)).decode("ascii")
        return bundle | bundled(self)


def _all_of(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    """The widget and all that is in it, what is in it first."""
    for one in getattr(widget, "children", ()):
        yield from _all_of(one)
    yield widget


def _raise(error: Exception) -> None:
    raise error


def _on_paper(png: bytes, theme: str) -> bytes:
    """A picture whose margins are not transparent."""
    picture = Image.open(io.BytesIO(png), formats=("PNG",))
    with themes.theme(theme) as look:
        paper = Image.new("RGBA", picture.size, look.paper)
    paper.alpha_composite(picture)
    file = io.BytesIO()
    paper.convert("RGB").save(file, "PNG", compress_level=6)
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------------ controls


def _group(name: str, members: Sequence[widgets.Widget]) -> widgets.Box:
    """Controls that belong together, behind the name of the group."""
    title = widgets.Label(name, layout=widgets.Layout(width="max-content"))
    title.add_class("ecaviz-group")
    layout = widgets.Layout(flex_flow="row wrap", align_items="center", margin="0 12px 0 0")
    return widgets.Box([title, *members], layout=layout)


def _tools() -> dict[str, widgets.Widget]:
    narrow = widgets.Layout(width="max-content")
    saved = {"png": "the picture, 2×", "svg": "the picture as lines and text", "csv": "all numbers that are seen"}
    buttons: dict[str, widgets.Widget] = {
        kind: widgets.Button(description=f"save {kind.upper()}", tooltip=f"{what}, as a file", layout=narrow)
        for kind, what in saved.items()
    }
    buttons["numbers"] = widgets.ToggleButton(
        description="numbers", tooltip="a table of what is seen, under the picture", layout=narrow
    )
    buttons["dark"] = widgets.ToggleButton(
        description="dark", tooltip="light marks for dark pages; it follows the page's own theme", layout=narrow
    )
    return buttons


def numbered(labels: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Options of a control that sets a number, shown by its label."""
    return tuple((label, i) for i, label in enumerate(labels))


WIDE = {"description_width": "initial"}
"""Style of a control whose description takes the room it needs."""


def layout_of(width: str) -> widgets.Layout:
    """Of a control as wide as that."""
    return widgets.Layout(width=width, margin="2px 14px 2px 2px")


def _selection(kind: type, description: str, options: Sequence, value: Any, tooltip: str, width: str):
    return kind(
        options=options, value=value, description=description, tooltip=tooltip, style=WIDE, layout=layout_of(width)
    )


dropdown = partial(_selection, widgets.Dropdown, width="auto")
slider = partial(_selection, widgets.SelectionSlider, width="360px")


def number(description: str, most: int, tooltip: str, width: str, value: int = 0) -> widgets.IntSlider:
    """A slider for a whole number from 0; its number can be typed."""
    return widgets.IntSlider(
        value=value,
        min=0,
        max=most,
        description=description,
        tooltip=tooltip,
        style=WIDE,
        layout=layout_of(width),
    )
