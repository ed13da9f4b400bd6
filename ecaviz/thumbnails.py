"""A page of small pictures to choose from, with the mouse or by keyboard, of stock ipywidgets.

Each is a button whose picture is a background of CSS: one style sheet for the page, with the pictures inside it, so
that nothing is asked of the network and no JavaScript is needed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image

__all__ = ["Thumbnails"]

SIDE = 64
"""Side of a picture on the screen, in CSS pixels."""

STYLE = """<style>
.{name} {{ display: flex; flex-flow: row wrap; }}
.{name} .jupyter-button {{
  width: {width}px; height: {height}px; margin: 3px; padding: {top}px 1px 0; line-height: 15px; font-size: 11px;
  background: transparent no-repeat center 3px / {side}px {side}px; border: none; border-radius: 2px;
}}
.{name} .jupyter-button:hover {{ text-decoration: underline; }}
.{name} .jupyter-button:focus-visible {{ outline: 2px dashed #0072B2; outline-offset: 2px; }}
.{name} .jupyter-button.ecaviz-chosen {{
  box-shadow: 0 0 0 3px var(--jp-ui-font-color0, #000); font-weight: bold;
}}
{pictures}
</style>"""


class Thumbnails(widgets.VBox):
    """Buttons with pictures, a page of them, and what leads to the other pages.

    Attributes:
        kind: Whether classes or images are shown; None where there are no classes.
        before: Leads to the page before.
        after: Leads to the next page.
        buttons: As many as fit on a page; those left over are hidden.

    Args:
        state: Has the traits ``thumbnails`` and ``page``, ``pages``, ``thumbnails_shown()`` and ``choose(slot)``.
        kinds: What ``thumbnails`` may be.
        guarded: Calls a function and shows its errors.
    """

    def __init__(self, state: Any, kinds: tuple[str, ...], guarded: Callable[..., None]):
        self.state, self._guarded = state, guarded
        self.kind = None
        if len(kinds) > 1:
            self.kind = widgets.ToggleButtons(
                options=kinds,
                value=state.thumbnails,
                tooltips=[f"choose from thumbnails of the {kind}" for kind in kinds],
                style={"button_width": "70px"},
                layout=widgets.Layout(width="max-content", margin="2px 14px 2px 2px"),
            )
            self.kind.observe(lambda change: guarded(setattr, state, "thumbnails", change["new"]), "value")
        self.before = self._step("previous", "chevron-left", -1)
        self.after = self._step("next", "chevron-right", 1)
        self.where = widgets.Label()
        self.buttons = [widgets.Button() for _ in range(state.per_page)]
        for slot, button in enumerate(self.buttons):
            button.on_click(lambda _, slot=slot: guarded(state.choose, slot))
        self._name = f"ecaviz-thumbnails-{self.buttons[0].model_id}"
        self._grid = widgets.Box(self.buttons)
        self._grid.add_class(self._name)
        self._style, self._pictures = widgets.HTML(layout=widgets.Layout(display="none")), None
        lead = [widgets.Label("choose from"), self.kind] if self.kind else []
        lead += [self.before, self.where, self.after]
        row = widgets.HBox(lead, layout=widgets.Layout(align_items="center"))
        super().__init__([row, self._grid, self._style])
        self.sync()
        state.observe(lambda _: guarded(self.sync), ["thumbnails", "page"])

    def _step(self, description: str, icon: str, by: int) -> widgets.Button:
        button = widgets.Button(
            description=description,
            icon=icon,
            tooltip=f"{description} page of thumbnails",
            layout=widgets.Layout(width="90px"),
        )
        button.on_click(partial(self._turn, by))
        return button

    def _turn(self, by: int, _button: Any) -> None:
        self._guarded(setattr, self.state, "page", self.state.page + by)

    def sync(self) -> None:
        """Show what the state says; what is shown already is not sent again."""
        state, shown = self.state, self.state.thumbnails_shown()
        if self.kind is not None:
            self.kind.value = state.thumbnails
        self.before.disabled, self.after.disabled = state.page == 0, state.page == state.pages - 1
        self.where.value = f"page {state.page + 1} of {state.pages}"
        if (pictures := (state.thumbnails, state.page)) != self._pictures:
            rules = [
                f".{self._name} .ecaviz-slot-{slot} {{ background-image: url({_address(one.picture)}); }}"
                for slot, one in enumerate(shown)
            ]
            self._style.value = STYLE.format(
                name=self._name, side=SIDE, width=SIDE + 14, top=SIDE + 5, height=SIDE + 22, pictures="\n".join(rules)
            )
            self._pictures = pictures
        for slot, button in enumerate(self.buttons):
            there = slot < len(shown)
            button.layout.visibility = None if there else "hidden"  # keeps its place: the height stays the same
            if there:
                one = shown[slot]
                button.description, button.tooltip = one.text, one.words + (" (chosen)" if one.chosen else "")
            classes = (f"ecaviz-slot-{slot}", *(["ecaviz-chosen"] if there and shown[slot].chosen else []))
            if button._dom_classes != classes:
                button._dom_classes = classes


def _address(picture: np.ndarray) -> str:
    """A picture as a data: URI."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
