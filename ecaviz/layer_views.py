"""The views that only the picture of the layers has: which images open and close a channel most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from .quick_artists import ShortTexts
from .views import View

__all__ = ["Extreme", "ExtremeImages"]


@dataclass(frozen=True, eq=False)
class Extreme:
    """One of the images that open or close a channel most.

    Attributes:
        image: Its number.
        label: Its class; empty if it has none.
        gate: The gate ω of the channel for it.
        picture: uint8 S×S×3.
    """

    image: int
    label: str
    gate: float
    picture: np.ndarray


class ExtremeImages(View):
    """A row of images: those that open a channel most and, after a gap, those that close it most, with their gates.

    Args:
        ax: Where to draw.
        count: The most images of each kind.
    """

    GAP = 0.3
    """Between the two, in widths of an image."""

    def __init__(self, ax: Axes, count: int = 4):
        super().__init__(ax)
        self.count = count
        starts = 0.0, count + self.GAP
        width = 2 * count + self.GAP
        self.sheet = ax.imshow(np.zeros((1, 1, 4), np.uint8), extent=(0, width, 1, 0), interpolation="nearest")
        ax.set(aspect="equal", anchor="SW")
        ax.axis("off")
        self.gates = ShortTexts(
            ax, [(start + i + 0.47, 1.04) for start in starts for i in range(count)], fontsize="small"
        )
        for start, text in zip(starts, ("opened most, gate ω:", "closed most, gate ω:"), strict=True):
            ax.text(start, -0.06, text, ha="left", va="bottom", fontsize="small")
        ax.set_title("", loc="left", fontsize="medium", pad=20)
        self.moving = [self.heading, self.sheet, self.gates]
        self.frame = ()
        self._shown: tuple | None = None

    def update(self, opening: Sequence[Extreme], closing: Sequence[Extreme], *, title: str = "") -> None:
        """Show other images, at most ``count`` of each.

        Args:
            opening: Those of the largest gates, the largest first.
            closing: Those of the smallest gates, the smallest first.
            title: What is seen.
        """
        self.title(title)
        parts = opening, closing
        shown = tuple(tuple((one.image, one.gate) for one in part) for part in parts)
        if shown == self._shown:
            return
        side = len(opening[0].picture)
        words = [""] * (2 * self.count)
        sheet = np.zeros((side, round((2 * self.count + self.GAP) * side), 4), np.uint8)
        for k, part in enumerate(parts):
            for i, one in enumerate(part[: self.count]):
                x = round((k * (self.count + self.GAP) + i) * side)
                sheet[:, x : x + side - 6, :3] = one.picture[:, 3:-3]
                sheet[:, x : x + side - 6, 3] = 255  # between the images is nothing
                words[k * self.count + i] = f"{one.gate:.3f}"
        self.sheet.set_data(sheet)
        self.gates.set_words(words)
        self._shown = shown
