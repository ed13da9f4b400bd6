"""Artists for what an explorer draws at every move, where matplotlib's own would take most of the time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.path import Path
from matplotlib.textpath import TextPath, text_to_path
from matplotlib.transforms import Affine2D

from .themes import current

__all__ = ["ShortTexts"]


class ShortTexts(PathCollection):
    """Texts of a few characters, each centred below its place, drawn all at once as the outlines of their characters.

    A text that changes takes matplotlib half a millisecond or more, most of it for layout and hinting; these take a
    fortieth of that. There is no kerning, no mathematics, no second line.

    Args:
        ax: Where to draw.
        places: A pair (x, y) for each text, in the data of the axes: the middle of its upper edge.
        fontsize: In points, or matplotlib's name of a size.
    """

    def __init__(self, ax: Axes, places: Sequence[tuple[float, float]], fontsize: float | str = "small"):
        super().__init__([], offsets=places, offset_transform=ax.transData, facecolor=current().ink, linewidth=0)
        points = Affine2D().scale(1 / 72)
        self.set_transform(points + ax.get_figure(root=True).dpi_scale_trans)
        self._font = FontProperties(size=fontsize)
        self.words: tuple[str, ...] = ("",) * len(places)
        self.set_words(self.words)
        ax.add_collection(self, autolim=False)
        self.set_clip_on(False)  # like other texts

    def set_words(self, words: Sequence[str]) -> None:
        """Write other texts.

        Args:
            words: One for each place; empty for none.

        Raises:
            ValueError: They are more or fewer than the places.
        """
        if len(words) != len(self.words):
            raise ValueError(
                f"ShortTexts: {len(self.words)} texts were expected, one for each place, got {len(words)}."
            )
        self.words = tuple(words)
        self.set_paths([_written(word, self._font) for word in words])
        self.stale = True


def _written(word: str, font: FontProperties) -> Path:
    """The outline of a word in points, its upper edge in the middle of the origin."""
    if not word.strip():
        return Path(np.empty((0, 2)))
    size, file = font.get_size_in_points(), findfont(font)  # which file "sans-serif" is can be set anew
    outlines = [_outline(one, file, size) for one in word]
    steps = np.cumsum([0.0, *(step for _, _, step in outlines)])
    vertices = np.concatenate([at + np.array((x, 0.0)) for (at, _, _), x in zip(outlines, steps[:-1], strict=True)])
    vertices -= (steps[-1] / 2, _outline("0", file, size)[0][:, 1].max())
    return Path(vertices, np.concatenate([codes for _, codes, _ in outlines]))


@lru_cache(maxsize=1024)
def _outline(character: str, file: str, size: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Vertices and codes of a character's outline in a font file, and how far the next one is, in points."""
    font = FontProperties(fname=file, size=size)
    path = TextPath((0, 0), character, prop=font)
    step, _, _ = text_to_path.get_text_width_height_descent(character, font, False)
    return np.asarray(path.vertices), np.asarray(path.codes), float(step)
