"""What the explorers show: several views in one figure, built once and updated at each move.

Each figure here is made of panels (sub-figures), so that a move draws anew only the panels that it changed. The numbers
come as a *scene*, a frozen dataclass; :mod:`ecaviz.explorers` makes it from what the controls say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from .coverage_views import share_of_pairs
from .kernel_views import Interaction
from .layer_views import Extreme, ExtremeImages
from .looks import family_style
from .module_views import CostCurves, SeedDots
from .views import (
    FULL,
    ClassCurves,
    Distribution,
    GateDistribution,
    GateHeatmap,
    Photograph,
    View,
    counts_of,
    see_through,
)

if TYPE_CHECKING:
    from .interaction import Structure

__all__ = [
    "LayerPanels",
    "LayerScene",
    "LayerSide",
    "ModulePanels",
    "ModuleScene",
    "ModuleSide",
]

# -------------------------------------------------------------------------------------------------------------- layers


@dataclass(frozen=True)
class LayerSide:
    """One model of a :class:`LayerScene`.

    Attributes:
        label: Name of the model, with its k or r.
        family: Family of the chosen site.
        site: Name of the chosen site.
        gates: What the heat map shows: C numbers by site.
        values: The gates whose distribution is shown, any shape.
        curves: C numbers by name: the curves of the chosen site.
        mean: C numbers: the mean of all images at the chosen site.
        channel: The chosen channel of that site.
        opening: The images that open it most.
        closing: The images that close it most.
    """

    label: str
    family: str
    site: str
    gates: Mapping[str, np.ndarray]
    values: np.ndarray
    curves: Mapping[str, np.ndarray]
    mean: np.ndarray
    channel: int
    opening: Sequence[Extreme]
    closing: Sequence[Extreme]


@dataclass(frozen=True)
class LayerScene:
    """What :class:`LayerPanels` draws.

    Attributes:
        left: One model.
        right: The other.
        what: What the gates are of: "mean of 240 images", "image 3: disc".
        picture: uint8 H×W×3: the image, or a few of them.
        caption: Of the picture.
        sort: Whether channels are sorted.
        limits: Ends of the scale of gates in the heat maps and curves.
        spread: Ends of the scale of gates in the distribution.
    """

    left: LayerSide
    right: LayerSide
    what: str
    picture: np.ndarray
    caption: str
    sort: bool = False
    limits: tuple[float, float] = FULL
    spread: tuple[float, float] = FULL


class LayerPanels:
    """Two models side by side: heat maps of layers × channels, curves of one layer, its distributions, an image.

    Below them, for each model, the images that open and close one channel of that layer most.
    """

    size = (11.8, 7.7)

    def __init__(self, figure: Figure):
        self.figure = figure
        grid = figure.add_gridspec(3, 4, width_ratios=(1, 0.37, 0.63, 0.74), height_ratios=(1, 0.9, 0.42))
        columns = slice(0, 1), slice(1, 3), slice(3, 4)
        cells = [grid[row, column] for row in range(2) for column in columns] + [grid[2, :2], grid[2, 2:]]
        parts = [figure.add_subfigure(cell, facecolor="none") for cell in cells]
        heat = [part.add_axes((0.34, 0.16, 0.635, 0.74)) for part in parts[:2]]
        self.heatmaps = [GateHeatmap(ax, colorbar=False) for ax in heat]
        photo = parts[2].add_axes((0.30, 0.08, 0.66, 0.80))
        self.photograph = Photograph(photo)
        self.bar = parts[2].add_axes((0.04, 0.16, 0.035, 0.74))
        parts[2].colorbar(self.heatmaps[0].image, cax=self.bar).set_label("gate ω")
        curves = [part.add_axes((0.15, 0.17, 0.82, 0.60)) for part in parts[3:5]]
        self.curves = [ClassCurves(ax, most=4) for ax in curves]
        self.distribution = GateDistribution(parts[5].add_axes((0.18, 0.17, 0.76, 0.60)), 2)
        self.extremes = [ExtremeImages(part.add_axes((0.03, 0.17, 0.955, 0.5))) for part in parts[6:]]
        self._given: dict[Callable, tuple] = {}
        self.views: list[View] = [*self.heatmaps, *self.curves, self.distribution, self.photograph, *self.extremes]
        see_through(figure)

    def update(self, scene: LayerScene) -> None:
        """Show another scene."""
        sides = (scene.left, scene.right)
        common = {"sort": scene.sort, "limits": scene.limits}
        for side, heatmap, curves, extremes in zip(sides, self.heatmaps, self.curves, self.extremes, strict=True):
            self._once(heatmap.update, side.gates, marked=side.site, title=side.label, **common)
            title = f"{side.site} (C={len(side.mean)})"
            self._once(curves.update, side.curves, side.mean, title=title, **common)
            curves.point_at(side.channel)
            title = f"{side.label}: images by channel {side.channel} of {side.site}"
            extremes.update(side.opening, side.closing, title=title)
        title = f"gates of that layer: {scene.what}"
        data = [part for side in sides for part in (side.label, side.family, side.values)]
        self._once(self._distribute, *data, limits=scene.spread, title=title)
        self.photograph.update(scene.picture, title=scene.caption)

    def _distribute(self, *data: Any, limits: tuple[float, float], title: str) -> None:
        parts = [Distribution(a, b, counts_of(c, limits=limits)) for a, b, c in (data[:3], data[3:])]
        self.distribution.update(parts, limits=limits, title=title)

    def _once(self, update: Callable[..., None], *data: Any, **options: Any) -> None:
        """Update a view, unless it was given the same objects and options the last time."""
        before, said = self._given.get(update, ((), {}))
        if len(before) != len(data) or any(a is not b for a, b in zip(before, data, strict=True)) or said != options:
            update(*data, **options)
            self._given[update] = data, options


# ------------------------------------------------------------------------------------------------------------- modules


@dataclass(frozen=True)
class ModuleSide:
    """One module of a :class:`ModuleScene`.

    Attributes:
        name: What :func:`ecaviz.attention.build` knows it by.
        title: As it is written.
        structure: What it allows at the chosen C.
        parameters: Its parameters at every C that can be chosen.
        accuracies: Accuracy of its bundled network by seed, per cent.
        interval: Of their mean, per cent.
    """

    name: str
    title: str
    structure: Structure
    parameters: Sequence[int]
    accuracies: dict[int, float]
    interval: tuple[float, float]


@dataclass(frozen=True)
class ModuleScene:
    """What :class:`ModulePanels` draws.

    Attributes:
        left: One module.
        right: The other.
        channels: Every C that can be chosen.
        now: The chosen C.
        difference: Accuracy of the right one less that of the left one, in words.
        limits: Ends of the axis of accuracies, per cent.
    """

    left: ModuleSide
    right: ModuleSide
    channels: Sequence[int]
    now: int
    difference: str
    limits: tuple[float, float]


class ModulePanels:
    """Two modules: who may talk to whom in each, what they cost by C, and what their bundled networks reach."""

    size = (10.4, 7.2)
    cells = 128

    def __init__(self, figure: Figure):
        self.figure = figure
        parts = figure.subfigures(2, 2, height_ratios=(1.12, 1), facecolor="none").ravel()
        self.pairs = [
            Interaction(part.add_axes((0.18, 0.13, 0.62, 0.74)), "share", label="share of pairs in a cell")
            for part in parts[:2]
        ]
        for view in self.pairs:
            view.ax.set_xlabel("channel j (its maps)")
        self.costs = CostCurves(parts[2].add_axes((0.16, 0.17, 0.78, 0.64)), "parameters of one module")
        self.seeds = SeedDots(parts[3].add_axes((0.16, 0.17, 0.78, 0.64)))
        self._seen: dict[tuple, tuple[np.ndarray, int]] = {}
        self.views: list[View] = [*self.pairs, self.costs, self.seeds]
        see_through(figure)

    def update(self, scene: ModuleScene) -> None:
        """Show another scene."""
        sides = (scene.left, scene.right)
        for side, view in zip(sides, self.pairs, strict=True):
            one = side.structure
            shown, block = self._matrix(side.name, one)
            how = f"each cell: {block}×{block} pairs" if block > 1 else "each cell: one pair"
            title = f"{side.title}: {one.pairs:,} of {one.channels**2:,} pairs ({one.structural:.2%})"
            view.update(shown, one.channels, title=f"{title}\n{how}")
        looks = [family_style(side.name) for side in sides]
        names = [side.title for side in sides]
        self.costs.update(
            scene.channels, [side.parameters for side in sides], looks, names, scene.now, title="parameters by C"
        )
        self.seeds.update(
            [side.accuracies for side in sides],
            [side.interval for side in sides],
            looks,
            names,
            scene.limits,
            title=f"bundled networks, by seed: {names[1]} − {names[0]}\n{scene.difference}",
        )

    def _matrix(self, name: str, structure: Structure) -> tuple[np.ndarray, int]:
        key = (name, structure.channels)
        if key not in self._seen:
            self._seen[key] = share_of_pairs(structure, self.cells)
        return self._seen[key]
