"""Frames rendered ahead: an explorer's picture at every value of one control, for pages that have no kernel.

A report shows them behind one slider (:mod:`ecaviz.report`); nothing in the live widget moves while they are drawn.
"""

from __future__ import annotations

import base64
import copy
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ipywidgets as widgets

    from .explorer_base import Explorer

__all__ = ["ASKED", "MIME_TYPE", "Frames", "bundled", "choices", "rendered_ahead"]

ASKED = "ECAVIZ_FRAMES"
"""The environment variable of a kernel whose explorers are to bring their frames."""

MIME_TYPE = "application/vnd.ecaviz.frames+json"


@dataclass(frozen=True)
class Frames:
    """The pictures of an explorer at the values of one control.

    Attributes:
        control: The control, as it is labelled.
        values: Its values in words, in its order.
        pictures: A PNG for each.
        words: What each shows, as plain text.
        now: Number of the present value.
    """

    control: str
    values: tuple[str, ...]
    pictures: tuple[bytes, ...]
    words: tuple[str, ...]
    now: int

    def to_json(self) -> dict[str, Any]:
        """The same for a mime bundle; pictures in base64."""
        return {
            "control": self.control,
            "values": list(self.values),
            "pictures": [base64.b64encode(picture).decode("ascii") for picture in self.pictures],
            "words": list(self.words),
            "now": self.now,
        }


def rendered_ahead(explorer: Explorer, most: int = 24) -> Frames:
    """An explorer's picture at every value of its control ``ahead``.

    Each is drawn of a copy of the state: neither the traits nor the widget move, whatever is raised. A value that the
    explorer has no picture of, and would say in words why, is left out.

    Args:
        explorer: One whose ``ahead`` names a control.
        most: Of more values as many are taken, evenly spaced, the present one among them.

    Raises:
        ValueError: The explorer has no such control, or no picture of its present value.
    """
    from traitlets import TraitError  # a report imports this module where Jupyter need not be

    if explorer.ahead not in explorer.controls:
        raise ValueError(
            f"{type(explorer).__name__}: ahead is {explorer.ahead!r}; the name of a control was expected, one of "
            f"{', '.join(explorer.controls)}."
        )
    control = explorer.controls[explorer.ahead]
    pairs = choices(control)
    now = [value for _, value in pairs].index(getattr(explorer.state, explorer.ahead))
    drawn = {}
    for i in _spaced(len(pairs), now, most):
        state = copy.copy(explorer.state)  # has the same traits, and nobody observes it
        try:
            setattr(state, explorer.ahead, pairs[i][1])
            drawn[i] = explorer.drawn(state)
        except (ValueError, TraitError):
            if i == now:
                raise
    pictures, words = zip(*drawn.values(), strict=True)
    return Frames(control.description, tuple(pairs[i][0] for i in drawn), pictures, words, list(drawn).index(now))


def bundled(explorer: Explorer) -> dict[str, Any]:
    """The frames for the explorer's mime bundle; nothing where none are asked for or none would differ."""
    control = explorer.controls.get(explorer.ahead)
    if ASKED not in os.environ or control is None or control.disabled or len(choices(control)) < 2:
        return {}
    return {MIME_TYPE: rendered_ahead(explorer).to_json()}


def choices(control: widgets.Widget) -> list[tuple[str, Any]]:
    """Label and value of all that a slider or a dropdown can be set to."""
    if not hasattr(control, "options") and not hasattr(control, "step"):
        return []
    if hasattr(control, "options"):
        return [one if isinstance(one, tuple) else (str(one), one) for one in control.options]
    count = int((control.max - control.min) / control.step + 1e-9) + 1
    values = sorted({control.value, *(control.min + i * control.step for i in range(count))})
    return [(f"{value:g}", value) for value in values]


def _spaced(count: int, now: int, most: int) -> list[int]:
    """Numbers below ``count``, all or ``most`` of them: evenly spaced, the nearest moved to ``now``."""
    if count <= most:
        return list(range(count))
    spaced = [round(i * (count - 1) / (most - 1)) for i in range(most)]
    spaced[min(range(most), key=lambda i: abs(spaced[i] - now))] = now
    return spaced
