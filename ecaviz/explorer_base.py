"""What all explorers share: controls, a line for errors, the picture, its words; and the makers of controls."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ipywidgets as widgets
import traitlets

from .canvas import DPI, Canvas
from .frames import bundled
from .views import Picture

__all__ = ["WIDE", "Explorer", "dropdown", "layout_of", "number", "numbered", "slider"]


class _Image(widgets.Image):
    """An image with words: ipywidgets shows no image that has a tooltip but, as its images do, no description."""

    description = traitlets.Unicode("").tag(sync=True)


class Explorer(widgets.VBox):
    """Controls, a line for errors, the picture, and a line that says in words what is seen.

    Attributes:
        state: The traits; set them and the picture follows.
        controls: The control of each trait, by its name.
        picture: The picture, PNG.
        error: The line for errors: empty while all is well.
        caption: What is seen, in words.
    """

    undrawn: frozenset[str] = frozenset()
    """Traits that the picture does not show: what moves them alone draws nothing."""

    ahead: str = ""
    """Name of the control whose frames are rendered ahead (:mod:`ecaviz.frames`); empty for none."""

    def __init__(self, state: traitlets.HasTraits, panels: type, controls: dict[str, widgets.Widget], **options: Any):
        self.state, self.controls, self._panels = state, controls, panels
        self._canvas = Canvas(panels)
        self._syncing = False
        self._drawn = self._values()
        self.picture = _Image(format="png", layout=widgets.Layout(max_width="100%", align_self="flex-start"))
        self.error, self.caption = widgets.HTML(), widgets.HTML()
        rows = widgets.Box(list(controls.values()), layout=widgets.Layout(flex_flow="row wrap", align_items="center"))
        super().__init__([rows, self.error, self.picture, self.caption], **options)
        self._draw()
        for name, control in controls.items():
            control.observe(partial(self._moved, name), "value")
        state.observe(self._changed)

    def figure(self) -> Picture:
        """The same picture as a matplotlib figure of its own, for notebooks without a kernel and for saving."""
        figure = Picture(figsize=self._panels.size, dpi=DPI)
        self._panels(figure).update(self.state.scene())
        return figure

    def drawn(self, state: traitlets.HasTraits) -> tuple[bytes, str]:
        """The picture of a state like this one's, PNG, and its words; the widget itself stays as it is."""
        scene = state.scene()
        return self._canvas.png(scene), _plain(state.describe(scene))

    def _moved(self, name: str, change: Any) -> None:
        if not self._syncing:
            self._guarded(setattr, self.state, name, change["new"])

    def _changed(self, _change: Any) -> None:
        """Draw once for a trait and those that follow it: when the first of them tells, all are set."""
        values = self._values()
        if values != self._drawn:
            self._drawn = values
            self._guarded(self._draw)

    def _values(self) -> dict[str, Any]:
        return {name: value for name, value in self.state.trait_values().items() if name not in self.undrawn}

    def _draw(self) -> None:
        self._syncing = True
        try:
            self.sync()
        finally:
            self._syncing = False
        scene = self._scene()
        png, text = self._canvas.png(scene), self.state.describe(scene)
        with self.hold_sync():
            self.picture.value = png
            self.picture.tooltip = _plain(text)
            self.caption.value = text
        self.error.value = ""

    def _scene(self) -> Any:
        """What is to be drawn now."""
        return self.state.scene()

    def _guarded(self, action: Callable, *arguments: Any) -> None:
        """The one place where the errors of moves end up: in the widget, in words, until the next good move."""
        try:
            action(*arguments)
        except Exception as error:
            text = html.escape(str(error) or type(error).__name__)
            self.error.value = f'<p role="alert" style="color: #B00020; margin: 0.2em 0">{text}</p>'

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
                control.value = value

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live widget, and the picture as it is now for wherever there is no kernel."""
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle["text/plain"] = f"{type(self).__name__}: {_plain(self.caption.value)}"
        bundle["image/png"] = base64.b64encode(self.picture.value).decode("ascii")
        return bundle | bundled(self)


def _plain(text: str) -> str:
    """HTML without its tags."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))).strip()


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
