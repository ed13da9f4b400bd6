"""What a :class:`ecaviz.PictureExplorer` shows: one picture, its classes, its gates, and what is usual for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .looks import family_style, shortened, signed_map
from .themes import current
from .views import GateHeatmap, Photograph, View, colour_bar, nice_top, see_through, set_limits

__all__ = ["DifferenceHeatmap", "NamedBars", "PicturePanels", "PictureScene"]


@dataclass(frozen=True)
class PictureScene:
    """What :class:`PicturePanels` draws.

    Attributes:
        picture: uint8 H×W×3: the picture as the network gets it.
        caption: What it is.
        classes: First classes with their probabilities, the first first; none where the network names none.
        gates: ω by site, C numbers each.
        limits: Ends of the scale of gates.
        differences: ω − the mean of all images, by site.
        reach: Of the scale of differences: −reach … reach.
        nearest: Classes with their distances, the nearest first; none where that cannot be told.
        among: How many classes there are.
        own: The class that the picture is known to be of; empty if none is.
        where: At which layer, in words.
        why: Why there are no nearest classes.
        silence: Why there are no first classes.
        marked: The site that they are at; None for all.
    """

    picture: np.ndarray
    caption: str
    classes: Sequence[tuple[str, float]]
    gates: Mapping[str, np.ndarray]
    limits: tuple[float, float]
    differences: Mapping[str, np.ndarray]
    reach: float
    nearest: Sequence[tuple[str, float]]
    among: int
    own: str
    where: str
    why: str
    silence: str = "This network names no classes."
    marked: str | None = None


class DifferenceHeatmap(GateHeatmap):
    """Layers × channels of signed numbers: the colours diverge at zero."""

    def __init__(self, ax: Axes, label: str):
        super().__init__(ax, colorbar=False)
        self.image.set_cmap(signed_map())
        self._colorbar = True  # its ticks move with the limits
        colour_bar(ax, self.image, label)


class NamedBars(View):
    """Horizontal bars, the name and the number of each above it.

    Args:
        ax: Where to draw.
        most: The most bars.
        label: Name of the axis.
        unit: How a number is written.
        letters: The most letters of a name.
        colour: Of the bars; None for that of ECA.
        hatch: Of the bars.
        limit: Largest value of the axis; None for one that fits.
    """

    def __init__(
        self,
        ax: Axes,
        most: int,
        label: str,
        unit: str = "{:.1f}",
        *,
        letters: int = 40,
        colour: str | None = None,
        hatch: str = "",
        limit: float | None = None,
    ):
        super().__init__(ax)
        self.most, self.unit, self.letters, self.limit = most, unit, letters, limit
        rows = range(most)
        colour = colour or family_style("eca").colour
        look = {"fc": to_rgba(colour, 0.55), "ec": current().ink, "lw": 0, "hatch": hatch}
        self.bars = [ax.add_patch(Rectangle((0, y - 0.02), 0, 0.42, **look)) for y in rows]
        self.names = [
            ax.text(0, y - 0.06, "", ha="left", va="bottom", fontsize="small", color=current().ink) for y in rows
        ]
        self.note = ax.text(
            0.02,
            0.96,
            "",
            ha="left",
            va="top",
            fontsize="small",
            color=current().ink,
            transform=ax.transAxes,
            linespacing=1.4,
        )
        self.axis = ax.axvline(0, color=current().ink, lw=0.8)
        ax.set_ylim(most - 0.35, -0.65)
        ax.set_yticks([])
        ax.set_xlabel(label)
        ax.spines[:].set_visible(False)
        self.moving += [self.axis, *self.bars, *self.names, self.note]

    def update(self, values: Sequence[tuple[str, float]], *, marked: str = "", note: str = "", title: str = "") -> None:
        """Show other bars.

        Args:
            values: Names and lengths.
            marked: A name that is set in bold type, with a star.
            note: What is said in place of bars.
            title: What is seen.
        """
        for i, (bar, text) in enumerate(zip(self.bars, self.names, strict=True)):
            name, value = values[i] if i < len(values) else ("", 0.0)
            own = bool(name) and name == marked
            bar.set_width(value)
            star = "★ " if own else ""
            text.set_text(f"{star}{shortened(name, self.letters)}  {self.unit.format(value)}" if name else "")
            text.set_fontweight("bold" if own else "normal")
        top = self.limit or nice_top(max((value for _, value in values), default=1.0))
        set_limits(self.ax, x=(0.0, top))
        for text in self.names:
            text.set_x(0.012 * top)
        self.axis.set_visible(bool(values))
        self.ax.xaxis.set_visible(bool(values))
        self.frame = (top, bool(values))
        self.note.set_text(note)
        self.title(title)


class PicturePanels:
    """The picture above its first classes; its gates above their difference from the mean; the nearest classes."""

    size = (11.8, 6.6)
    first, nearest = 5, 12

    def __init__(self, figure: Figure):
        self.figure = figure
        grid = figure.add_gridspec(2, 3, width_ratios=(0.78, 1.2, 0.82), height_ratios=(1, 0.85))
        parts = [figure.add_subfigure(grid[place], facecolor="none") for place in ((0, 0), (1, 0), (0, 1), (1, 1))]
        parts.append(figure.add_subfigure(grid[:, 2], facecolor="none"))
        self.photograph = Photograph(parts[0].add_axes((0.07, 0.04, 0.88, 0.84)))
        self.classes = NamedBars(
            parts[1].add_axes((0.07, 0.17, 0.86, 0.70)),
            self.first,
            "probability (%)",
            "{:.1f} %",
            letters=32,
            limit=100.0,
        )
        self.gates = GateHeatmap(parts[2].add_axes((0.25, 0.15, 0.57, 0.74)))
        self.differences = DifferenceHeatmap(parts[3].add_axes((0.25, 0.17, 0.57, 0.71)), "ω − mean")
        self.distances = NamedBars(
            parts[4].add_axes((0.06, 0.085, 0.88, 0.84)),
            self.nearest,
            "distance (standard deviations inside a class)",
            "{:.2f}",
            letters=32,
            colour=current().faint,
            hatch="///",
        )
        self.views: list[View] = [self.photograph, self.classes, self.gates, self.differences, self.distances]
        see_through(figure)

    def update(self, scene: PictureScene) -> None:
        """Show another scene."""
        self.photograph.update(scene.picture, title=scene.caption)
        said = "the network's first classes" if scene.classes else ""
        note = "" if scene.classes else scene.silence
        self.classes.update([(name, 100 * share) for name, share in scene.classes], note=note, title=said)
        self.gates.update(scene.gates, limits=scene.limits, marked=scene.marked, title="gates of this picture")
        self.differences.update(
            scene.differences,
            limits=(-scene.reach, scene.reach),
            marked=scene.marked,
            title="their difference from the mean of all images",
        )
        of = f" of {scene.among}" if scene.among > self.nearest else ""
        self.distances.update(
            list(scene.nearest)[: self.nearest],
            marked=scene.own,
            note=scene.why,
            title=f"nearest classes{of}, by the gates:\n{scene.where}" if scene.nearest else "nearest classes",
        )
