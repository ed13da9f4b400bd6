"""The artists behind the plots: each view is built once and then updated with new data.

A plot of :mod:`ecaviz.plots` is a view that was built and updated once; an explorer keeps the view and updates it at
each move. So the figure in a notebook and the picture in a widget are drawn by the same lines of code.

Every view has ``ax`` and ``update(…)``, takes numpy arrays, and writes its own title, axis names and units. Here are
those of gates; those of kernels and matrices are in :mod:`ecaviz.kernel_views`, the colours in :mod:`ecaviz.looks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .looks import GATE_MAP, MOST_SERIES, Style, layer_labels, series_styles, styles
from .themes import current

__all__ = [
    "FULL",
    "ClassCurves",
    "Distribution",
    "GateDistribution",
    "GateHeatmap",
    "Photograph",
    "Picture",
    "View",
    "axes_or_current",
    "bin_of",
    "colour_bar",
    "counts_of",
    "fitted",
    "layer_axis",
    "nice_top",
    "numbers",
    "see_through",
    "set_limits",
    "spread",
    "strip_spines",
    "styles",
]


# ---------------------------------------------------------------------------------------------------------------- axes


def axes_or_current(ax: Axes | None) -> Axes:
    """The Axes given, or pyplot's current one."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.gca()


def set_limits(ax: Axes, *, x: tuple[float, float] | None = None, y: tuple[float, float] | None = None) -> None:
    """Set limits only where they differ: what is not touched need not be drawn anew."""
    if x is not None and tuple(ax.get_xlim()) != x:
        ax.set_xlim(*x)
    if y is not None and tuple(ax.get_ylim()) != y:
        ax.set_ylim(*y)


def colour_bar(ax: Axes, image, label: str) -> None:
    """A colour bar as tall as the picture, whatever its aspect, that every layout engine makes room for."""
    bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.03, 0, 0.035, 1)))
    bar.set_label(label)


def strip_spines(ax: Axes) -> None:
    """Leave the left and the bottom spine."""
    ax.spines[["top", "right"]].set_visible(False)


def layer_axis(ax: Axes, sites: Sequence[str]) -> None:
    """Name the layers along the horizontal axis, one a unit from 0 on; of more than 24 not every one."""
    names = layer_labels(list(sites))
    step = -(-len(names) // 24)
    look = {"rotation": 40, "ha": "right", "rotation_mode": "anchor", "fontsize": "small"}
    ax.set_xticks(range(0, len(names), step), names[::step], **look)
    ax.set_xlabel("layer, from input to output")
    ax.set_xlim(-0.6, len(names) - 0.4)
    strip_spines(ax)


def nice_top(value: float) -> float:
    """The next of 1, 2, 5, 10 × 10ⁿ: axes that grow in steps keep their ticks from move to move."""
    if not value > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-12)))


def see_through(figure: Figure) -> None:
    """Leave the axes of a figure without a face of their own, so that whatever is behind it is seen."""
    for ax in figure.axes:
        for one in (ax, *ax.child_axes):
            one.set_facecolor("none")


class View:
    """What all views share: the Axes, the title, and which artists a move may change without touching the axes.

    Attributes:
        ax: Where it draws.
        moving: The artists that a move changes; the rest (axes, ticks, labels, legend) stays for most moves, so that an
            explorer can keep it as a background and draw these alone.
        heading: The title, one of them.
        light: Those of them that are quick to draw and that some moves change alone; they are drawn last.
        frame: What that background depends on, all of it; None if it is not told.
    """

    def __init__(self, ax: Axes):
        self.ax = ax
        self.heading = ax.set_title("", loc="left", fontsize="medium")
        self.frame: tuple | None = None
        self.moving: list[Artist] = [self.heading, *ax.spines.values()]  # spines: what moves must not hide them
        self.light: list[Artist] = []

    def title(self, text: str) -> None:
        """Set the title, at the left."""
        self.heading.set_text(text)

    def legend(self, handles: Sequence[Artist], labels: Sequence[str], columns: int) -> None:
        """A legend between the title and the axes, where no data can be."""
        rows = -(-len(handles) // columns)
        self.ax.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=columns,
            fontsize="small",
            frameon=False,
            borderaxespad=0.1,
            borderpad=0.2,
            labelspacing=0.2,
            columnspacing=1.2,
            handlelength=2.2,
        )
        self.ax.set_title(self.heading.get_text(), loc="left", fontsize="medium", pad=8 + 12.5 * rows)


class Picture(Figure):
    """A figure that pyplot does not know: shown in a notebook as the last expression of a cell, and never twice."""

    def _repr_png_(self) -> bytes:
        from io import BytesIO

        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


# --------------------------------------------------------------------------------------------------------- the numbers


def numbers(values: Any) -> np.ndarray:
    """A tensor on any device, or anything that numpy understands, as floats."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()  # numpy has no bfloat16
    return np.asarray(values, dtype=float)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of the items, evenly spread, the first among them."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


FULL = (0.0, 1.0)


def fitted(*gates: np.ndarray, share: float = 1.0) -> tuple[float, float]:
    """Limits about 0.5, the gate of a logit of 0, that hold a share of these: 0.5 ± 0.05, 0.1, 0.2 … 0.5."""
    away = np.concatenate([np.abs(np.asarray(part, dtype=np.float32).ravel() - 0.5) for part in gates])
    reach = float(np.nanmax(away)) if share == 1 else float(np.nanquantile(away, share))
    half = next((step for step in (0.05, 0.1, 0.2, 0.3, 0.4) if reach <= step), 0.5)
    return 0.5 - half, 0.5 + half


def bin_of(values: np.ndarray, bins: int, limits: tuple[float, float]) -> np.ndarray:
    """The bin of each value, of ``bins`` equal ones between the limits; what lies beyond is in the outermost."""
    low, high = limits
    return np.clip(((values - low) * (bins / (high - low))).astype(np.int64), 0, bins - 1)


def counts_of(gates: np.ndarray, bins: int = 64, limits: tuple[float, float] = FULL) -> np.ndarray:
    """How many gates are in each of ``bins`` equal bins over ``limits``; the outermost hold those beyond."""
    flat = np.asarray(gates).ravel()
    return np.bincount(bin_of(flat[~np.isnan(flat)], bins, limits), minlength=bins)


# -------------------------------------------------------------------------------------------------------- gates: views


class GateHeatmap(View):
    """Layers × channels, one row a layer. Rows of different C are stretched to one width: x is the channel index / C.

    A row of C channels gives each of them 1/C of the width. Rows of more than ``columns`` channels are shown as the
    means of neighbours, and the axis says so.

    Args:
        ax: Where to draw.
        colorbar: Whether to add a colour bar.
        columns: The most cells a row.
    """

    def __init__(self, ax: Axes, *, colorbar: bool = True, columns: int = 256):
        super().__init__(ax)
        self.columns = columns
        self.image = ax.imshow(
            np.zeros((1, 1)),
            vmin=0,
            vmax=1,
            cmap=GATE_MAP,
            aspect="auto",
            extent=(0, 1, 0.5, -0.5),
            interpolation="nearest",
        )
        self.marks = [
            ax.add_patch(Rectangle((0, -0.5), 1, 1, fill=False, visible=False, clip_on=False, **look))
            for look in ({"ec": current().paper, "lw": 3.5, "zorder": 3}, {"ec": current().ink, "lw": 1.5, "zorder": 4})
        ]
        self.moving += [self.image, *self.marks]
        self.light = list(self.marks)
        self._rows: tuple | None = None
        self._given: tuple[Mapping[str, np.ndarray] | None, bool] = None, False
        self._colorbar = colorbar
        if colorbar:
            colour_bar(ax, self.image, "gate ω")

    def update(
        self,
        gates: Mapping[str, np.ndarray],
        *,
        sort: bool = False,
        marked: str | None = None,
        limits: tuple[float, float] = FULL,
        title: str = "",
    ) -> None:
        """Show other gates.

        Args:
            gates: C numbers by site.
            sort: Whether each row is sorted from its smallest gate to its largest.
            marked: A site to be framed.
            limits: Ends of the colour scale.
            title: What is seen.
        """
        values = [np.asarray(row, dtype=np.float32) for row in gates.values()]
        longest = max(len(row) for row in values)
        width = min(longest, self.columns)
        if self._given[0] is not gates or self._given[1] != sort:  # a move to another layer leaves them as they are
            self.image.set_data(np.stack([_stretched(np.sort(row) if sort else row, width) for row in values]))
            self._given = gates, sort
        if self.image.get_clim() != limits:
            self.image.set_clim(*limits)
        rows = tuple((name, len(row)) for name, row in zip(gates, values, strict=True))
        if rows != self._rows:
            self._rows = rows
            self.image.set_extent((0, 1, len(rows) - 0.5, -0.5))
            self.ax.set_ylim(len(rows) - 0.5, -0.5)
            step = -(-len(rows) // 24)
            labels = [f"{label} ({c})" for label, (_, c) in zip(layer_labels(list(gates)), rows, strict=True)]
            self.ax.set_yticks(range(0, len(rows), step), labels[::step], fontsize="small")
            self.ax.set_ylabel("layer (channels C)")
        what = "sorted channels / C" if sort else "channel index / C"
        what += f" (means of up to {-(-longest // width)})" if longest > width else ""
        if self.ax.get_xlabel() != what:
            self.ax.set_xlabel(what)
        self.frame = (rows, what, limits if self._colorbar else None)
        self.title(title)
        place = None if marked is None else list(gates).index(marked) - 0.5
        for patch in self.marks:
            if patch.get_visible() != (marked is not None) or place not in (None, patch.get_y()):
                patch.set_visible(marked is not None)
                patch.set_y(place or 0)


def _stretched(row: np.ndarray, width: int) -> np.ndarray:
    """A row of C numbers at ``width`` cells: repeated where C is smaller, means of neighbours where it is larger."""
    if len(row) <= width:
        return row[np.arange(width) * len(row) // width]
    starts = np.arange(width) * len(row) // width
    return np.add.reduceat(row, starts) / np.diff(np.append(starts, len(row)))


@dataclass(frozen=True)
class Distribution:
    """One series of a :class:`GateDistribution`.

    Attributes:
        label: Name in the legend.
        family: Family that decides the style.
        counts: Gates in each of equal bins between the limits.
        style: A style of its own; None for that of the family.
    """

    label: str
    family: str
    counts: np.ndarray
    style: Style | None = None


class GateDistribution(View):
    """Step histograms of gates: share of the gates in each bin, in per cent.

    Args:
        ax: Where to draw.
        series: How many histograms.
        bins: How many bins.
    """

    def __init__(self, ax: Axes, series: int = 1, bins: int = 64):
        super().__init__(ax)
        self.bins = bins
        edges = np.linspace(0, 1, bins + 1)
        look = {"fill": True, "ec": current().ink, "lw": 0}  # the edge is the colour of the hatching
        self.fills = [ax.stairs(np.zeros(bins), edges, **look) for _ in range(series)]
        self.lines = [ax.stairs(np.zeros(bins), edges, lw=1.6) for _ in range(series)]
        ax.set_xlabel("gate ω")
        ax.set_ylabel("share of gates (%)")
        ax.axvline(0.5, color=current().hues["silver"], lw=0.8, zorder=0)
        strip_spines(ax)
        self.moving += [*self.fills, *self.lines]
        self._labels: tuple | None = None

    def update(self, parts: Sequence[Distribution], *, limits: tuple[float, float] = FULL, title: str = "") -> None:
        """Show other distributions, as many as the view was built for.

        Args:
            parts: Label, family and counts of each.
            limits: What the bins lie between.
            title: What is seen.
        """
        top = 0.0
        edges = np.linspace(*limits, self.bins + 1)
        own = styles(part.family for part in parts)
        look = [part.style or style for part, style in zip(parts, own, strict=True)]
        for fill, line, part, style in zip(self.fills, self.lines, parts, look, strict=True):
            share = 100 * part.counts / max(part.counts.sum(), 1)
            top = max(top, share.max())
            fill.set_data(share, edges)
            line.set_data(share, edges)
            fill.set_facecolor(to_rgba(style.colour, 0.25))
            fill.set_hatch(style.hatch or None)
            line.set_edgecolor(style.colour)
            line.set_linestyle(style.line)
            line.set_label(part.label)
        top = nice_top(top * 1.02)
        set_limits(self.ax, x=limits, y=(0.0, top))
        self.title(title)
        labels = tuple((part.label, part.family) for part in parts)
        self.frame = (limits, top, labels)
        if labels != self._labels:
            self._labels = labels
            from matplotlib.lines import Line2D

            handles = [Line2D([], [], color=s.colour, ls=s.line, lw=1.6) for s in look]
            self.legend(handles, [part.label for part in parts], 1)


class ClassCurves(View):
    """Gate by channel index: a few classes and the mean of all, as the ECA paper draws it.

    Args:
        ax: Where to draw.
        most: The most curves besides the mean.
    """

    def __init__(self, ax: Axes, most: int = MOST_SERIES):
        super().__init__(ax)
        self.lines = [
            ax.plot([], [], color=style.colour, ls=style.line, lw=1.1)[0]
            for style in islice(cycle(series_styles()), most)
        ]
        self.mean = ax.plot([], [], color=current().ink, lw=1.8, label="mean of all", zorder=1.5, alpha=0.75)[0]
        ax.set_ylabel("gate ω")
        strip_spines(ax)
        self.mark = ax.axvline(0, color=current().ink, lw=0.9, ls=(0, (4, 2)), zorder=2.5, visible=False)
        self.moving += [*self.lines, self.mean, self.mark]
        self.light = [self.mark]
        self._order = np.arange(0)
        self._labels: tuple | None = None

    def update(
        self,
        curves: Mapping[str, np.ndarray],
        mean: np.ndarray,
        *,
        sort: bool = False,
        limits: tuple[float, float] = FULL,
        title: str = "",
    ) -> None:
        """Show other curves.

        Args:
            curves: C numbers by class.
            mean: C numbers: the mean of all classes.
            sort: Whether channels are put in the order of ``mean``; one order for all curves.
            limits: Ends of the vertical axis.
            title: What is seen.
        """
        if len(curves) > len(self.lines):
            raise ValueError(f"class_curves: at most {len(self.lines)} classes can be told apart, got {len(curves)}.")
        order = np.argsort(mean, kind="stable") if sort else slice(None)
        x = np.arange(len(mean))
        for line, (label, values) in zip(self.lines, curves.items(), strict=False):
            line.set_data(x, np.asarray(values)[order])
            line.set_label(label)
            line.set_visible(True)
        for line in self.lines[len(curves) :]:
            line.set_visible(False)
        self.mean.set_data(x, np.asarray(mean)[order])
        self._order = np.arange(len(mean))[order]
        set_limits(self.ax, x=(0.0, float(max(len(mean) - 1, 1))), y=limits)
        what = "channel, in the order of the mean gate" if sort else "channel index"
        if self.ax.get_xlabel() != what:
            self.ax.set_xlabel(what)
        self.title(title)
        self.frame = (len(mean), limits, what, tuple(curves))
        if tuple(curves) != self._labels:
            self._labels = tuple(curves)
            handles = [*self.lines[: len(curves)], self.mean]
            self.legend(handles, [*curves, "mean of all"], min(len(handles), 3))

    def point_at(self, channel: int) -> None:
        """Mark a channel by a vertical line."""
        place = int(np.flatnonzero(self._order == channel)[0])
        if not self.mark.get_visible() or list(self.mark.get_xdata()) != [place, place]:
            self.mark.set_visible(True)
            self.mark.set_xdata([place, place])


class Photograph(View):
    """A picture, or a few side by side, with a line of text."""

    def __init__(self, ax: Axes):
        super().__init__(ax)
        self.image = ax.imshow(np.zeros((1, 1, 3), dtype=np.uint8), interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        self.moving.append(self.image)
        self._image: np.ndarray | None = None

    def update(self, image: np.ndarray, *, title: str = "") -> None:
        """Show another picture.

        Args:
            image: uint8 H×W×3.
            title: What is seen.
        """
        if image is self._image:
            self.title(title)
            return
        height, width = image.shape[:2]
        self.image.set_data(image)
        extent = [-0.5, width - 0.5, height - 0.5, -0.5]
        if list(self.image.get_extent()) != extent:
            self.image.set_extent(extent)
        set_limits(self.ax, x=(-0.5, width - 0.5), y=(height - 0.5, -0.5))
        self.title(title)
        self._image = image
