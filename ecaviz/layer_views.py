"""The views that only the picture of the layers has: which images open and close a channel most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from .looks import shortened
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

    @property
    def name(self) -> str:
        """Its number and, if it has one, its class."""
        return f"{self.image} {self.label}".strip()


class ExtremeImages(View):
    """Two rows of images side by side, those that open a channel most and those that close it most, with their gates.

    Args:
        ax: Where to draw.
        count: The most images of each kind.
    """

    GAP = 0.3
    """Between the two, in widths of an image."""

    def __init__(self, ax: Axes, count: int = 4):
        super().__init__(ax)
        self.count = count
        self.starts = [0.0, count + self.GAP]
        ax.set(xlim=(0, 2 * count + self.GAP), ylim=(1, 0), aspect="equal", anchor="SW")
        ax.axis("off")
        places = [start + i for start in self.starts for i in range(count)]
        self.images = [
            ax.imshow(np.zeros((1, 1, 3), np.uint8), extent=(x + 0.04, x + 0.96, 0.98, 0.06), interpolation="nearest")
            for x in places
        ]
        ax.set(xlim=(0, 2 * count + self.GAP), ylim=(1, 0))  # which each image has set to its own
        self.words = [ax.text(x + 0.5, 1.02, "", ha="center", va="top", fontsize=7.5) for x in places]
        for start, text in zip(self.starts, ("opened most, gate ω", "closed most, gate ω"), strict=True):
            ax.text(start + 0.04, 0.0, text, ha="left", va="bottom", fontsize="small")
        ax.set_title("", loc="left", fontsize="medium", pad=18)
        self.moving += [*self.images, *self.words]
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
        shown = [(one.image, one.gate) for one in opening], [(one.image, one.gate) for one in closing]
        if shown == self._shown:
            return
        for k, part in enumerate((opening, closing)):
            for i in range(self.count):
                place = k * self.count + i
                image, words = self.images[place], self.words[place]
                there = i < len(part)
                image.set_visible(there)
                words.set_visible(there)
                if there:
                    image.set_data(part[i].picture)
                    words.set_text(f"{part[i].gate:.3f}\n{shortened(part[i].name, 11)}")
        self._shown = shown
