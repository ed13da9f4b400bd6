"""Plots that lay modules beside each other: accuracy, cost, differences. Reached as ``ecaviz.plots.<name>``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .looks import Style, family_style, shares_map
from .texts import as_written, names_as_written
from .themes import current
from .views import Picture, axes_or_current, numbers, strip_spines

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .results import Difference

__all__ = ["accuracy_by_module", "accuracy_by_parameters", "cost_by_channels", "differences", "matrix_grid"]


@names_as_written
def accuracy_by_module(
    table: pd.DataFrame, runs: pd.DataFrame | None = None, *, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Accuracy of each module, best first: a dot a seed, the mean, and its interval over seeds.

    Args:
        table: What :func:`ecaviz.survey.accuracies` gives.
        runs: What :func:`ecaviz.results.runs` gives, for the dots; None for none.
        title: Replaces the title.
        ax: Where to draw.
    """
    ax = axes_or_current(ax)
    table = table.sort_values("mean")
    for y, row in enumerate(table.itertuples()):
        style = family_style(row.name)
        ax.plot([100 * row.low, 100 * row.high], [y, y], color=style.colour, lw=3, alpha=0.4, solid_capstyle="butt")
        ax.plot(100 * row.mean, y, ls="", marker=style.marker, ms=8, color=style.colour, mec=current().ink, mew=0.8)
        if runs is not None:
            seeds = 100 * runs.loc[runs["name"] == row.model, "accuracy"].to_numpy()
            ax.plot(seeds, np.full(len(seeds), y), ls="", marker="|", ms=9, color=current().ink, mew=1)
    ax.set_yticks(range(len(table)), [f"{row.title} ({row.seeds})" for row in table.itertuples()])
    ax.set_ylabel("module (seeds)")
    ax.set_xlabel("accuracy on the held-out procedural images (%)")
    ax.grid(axis="x", color=current().grid, lw=0.6)
    ax.set_axisbelow(True)
    strip_spines(ax)
    what = "accuracy by module: each seed (|), their mean, and its interval"
    ax.set_title(what if title is None else title, loc="left", fontsize="medium")
    return ax


@names_as_written
def accuracy_by_parameters(
    table: pd.DataFrame,
    *,
    x: str = "extra",
    y: str = "mean",
    scale: float = 100.0,
    labels: tuple[str, str] = ("parameters beyond the plain network", "accuracy (%)"),
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The ECA paper's first figure: accuracy against the parameters that the attention adds; 0 has a place of its own.

    Args:
        table: What :func:`ecaviz.survey.accuracies` gives; rows without a number are left out.
        x: Column of the added parameters, shown on a scale that is linear below 10 and logarithmic above.
        y: Column of the accuracies.
        scale: Factor that makes them per cent.
        labels: Names of the two axes.
        title: Replaces the title.
        ax: Where to draw.

    Source: Wang et al., CVPR 2020, Figure 1 (there against the parameters of the whole network).
    """
    ax = axes_or_current(ax)
    table = table.dropna(subset=[y])
    has_interval = y == "mean" and "low" in table
    for row in table.itertuples():
        style = family_style(row.name)
        at, value = getattr(row, x), scale * getattr(row, y)
        if has_interval and not np.isnan(row.low):
            ax.plot([at, at], [scale * row.low, scale * row.high], color=style.colour, lw=1.2, alpha=0.6, zorder=1)
        ax.plot(at, value, ls="", marker=style.marker, ms=9, color=style.colour, mec=current().ink, mew=0.8, zorder=2)
    ax.set_xscale("symlog", linthresh=10, linscale=0.6)
    ax.set_xlim(-3, max(20.0, 6 * float(table[x].max())))
    values = scale * table[y].to_numpy()
    room = 0.12 * (values.max() - values.min() or 1.0)
    low, high = values.min() - room, values.max() + room
    if has_interval:
        low, high = min(low, scale * table["low"].min() - room / 4), max(high, scale * table["high"].max() + room / 4)
    ax.set_ylim(low, high)
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    ax.grid(color=current().grid, lw=0.6)
    ax.set_axisbelow(True)
    strip_spines(ax)
    ax.set_title("accuracy against parameters" if title is None else title, loc="left", fontsize="medium")
    _name_points(ax, table[x].to_numpy(dtype=float), values, table["title"].tolist())
    return ax


def _name_points(ax: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
    """Write a name beside every point, none on another: of a few places about the point, the first that is free."""
    figure = ax.figure.get_figure(root=True)
    as_written(ax)
    figure.draw_without_rendering()  # the layout moves the Axes, and with them the points
    points = ax.transData.transform(np.column_stack([x, y])) * 72 / figure.dpi
    left_end, right_end = (ax.get_window_extent().x0 * 72 / figure.dpi, ax.get_window_extent().x1 * 72 / figure.dpi)
    taken = [(px - 5, py - 5, px + 5, py + 5) for px, py in points]
    for i in np.argsort(-points[:, 1]):
        px, py = points[i]
        width, height = 5.2 * len(names[i]) + 2, 9.0
        places = [
            (px + 8, py - height / 2),
            (px - 8 - width, py - height / 2),
            (px - width / 2, py + 7),
            (px - width / 2, py - 7 - height),
            (px + 6, py + 6),
            (px + 6, py - 6 - height),
            (px - 6 - width, py + 6),
            (px - 6 - width, py - 6 - height),
            (px - width / 2, py + 17),
            (px - width / 2, py - 17 - height),
        ]
        boxes = [(left, low, left + width, low + height) for left, low in places]
        inside = [box for box in boxes if box[0] >= left_end + 2 and box[2] <= right_end + 30] or boxes
        free = next((box for box in inside if not any(_meet(box, other) for other in taken)), inside[0])
        taken.append(free)
        ax.annotate(
            names[i],
            (x[i], y[i]),
            (free[0] - px, free[1] - py),
            textcoords="offset points",
            fontsize="small",
            color=current().ink,
            annotation_clip=False,
        )


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@names_as_written
def cost_by_channels(
    table: pd.DataFrame, value: str = "parameters", *, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Parameters, or multiply-adds, of one module by C, a line a module; modules without any are named in the legend.

    Args:
        table: What :func:`ecaviz.survey.costs` gives.
        value: "parameters" or "multiply_adds".
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: ``value`` is neither.
    """
    if value not in ("parameters", "multiply_adds"):
        raise ValueError(f'cost_by_channels: value must be "parameters" or "multiply_adds", got {value!r}.')
    ax = axes_or_current(ax)
    channels = sorted(table["channels"].unique())
    for name, rows in table.groupby("name", sort=False):
        style: Style = family_style(name)
        values = rows.sort_values("channels")[value].to_numpy()
        label = rows["title"].iloc[0] + (": none" if not values.any() else "")
        shown = values if values.any() else [np.nan] * len(values)
        ax.plot(
            range(len(channels)),
            shown,
            color=style.colour,
            ls=style.line,
            marker=style.marker,
            ms=5,
            lw=1.3,
            label=label,
        )
    ax.set_yscale("log")
    sides = table.drop_duplicates("channels").set_index("channels")["side"]
    ax.set_xticks(range(len(channels)), [f"{c}\n{sides[c]}×{sides[c]}" for c in channels])
    ax.set_xlim(-0.2, len(channels) - 0.8)
    ax.set_xlabel("channels C, and the size of the maps there in ResNet-50")
    ax.set_ylabel(value.replace("_", "-") + " of one module")
    ax.grid(axis="y", color=current().grid, lw=0.6)
    strip_spines(ax)
    what = f"{value.replace('_', '-')} by C"
    ax.set_title(what if title is None else title, loc="left", fontsize="medium")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize="small", frameon=False, handlelength=3)
    return ax


@names_as_written
def differences(
    found: Sequence[Difference],
    labels: Sequence[str] | None = None,
    published: Sequence[float] | None = None,
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Paired differences in accuracy with their intervals: filled where the interval leaves zero out, else open.

    Args:
        found: What :func:`ecaviz.results.paired_difference` gives.
        labels: A text for each; None for the names of the models.
        published: What a paper prints for each, in points; drawn beside it.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: There is none, or the numbers of differences, labels and published values differ.
    """
    counts = {len(part) for part in (found, labels, published) if part is not None}
    if not found or len(counts) != 1:
        raise ValueError(f"differences: one or more of each, and equally many, were expected; got {sorted(counts)}.")
    ax = axes_or_current(ax)
    rows = list(range(len(found)))[::-1]
    for y, one in zip(rows, found, strict=True):
        ax.plot([100 * one.low, 100 * one.high], [y, y], color=current().ink, lw=1.6)
        ax.plot([100 * d for d in one.by_seed], [y] * len(one.by_seed), ls="", marker="|", ms=9, color=current().muted)
        face = current().ink if one.significant else current().paper
        ax.plot(100 * one.mean, y, ls="", marker="o", ms=9, mfc=face, mec=current().ink, mew=1.4)
        said = "" if one.significant else ", not significant"
        ax.annotate(
            f"{100 * one.mean:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f}{said})",
            (100 * one.mean, y),
            (0, 9),
            textcoords="offset points",
            ha="center",
            fontsize="small",
        )
    if published is not None:
        ax.plot(
            published, [y - 0.22 for y in rows], ls="", marker="D", ms=6, mfc="none", mec=current().hues["blue"],
            mew=1.6,
            label="published (ImageNet; baselines not retrained)",
        )  # fmt: skip
        ax.legend(loc="lower right", fontsize="small")
    ax.axvline(0, color=current().muted, lw=1)
    names = [f"{one.first} − {one.second}" for one in found] if labels is None else list(labels)
    ax.set_yticks(rows, names)
    ax.set_ylim(-0.6, len(found) - 0.35)
    ax.set_xlabel("difference in accuracy (points)")
    strip_spines(ax)
    level = 100 * found[0].level
    what = f"differences: seeds (|), mean, {level:.3g} % interval"
    ax.set_title(what if title is None else title, loc="left", fontsize="medium")
    return ax


@names_as_written
def matrix_grid(
    matrices: Mapping[str, Any], *, columns: int = 7, title: str | None = None, figure: Figure | None = None
) -> Figure:
    """Several C×C matrices beside each other, each on a scale of its own from 0 to its largest entry: dark is large.

    Args:
        matrices: C×C by name, 0 and above, such as ``structure.matrix`` or ``influence.matrix``.
        columns: Matrices a row.
        title: Of the whole.
        figure: Where to draw; None for a new one.

    Raises:
        ValueError: There is none, or one that is not square.
    """
    if not matrices:
        raise ValueError("matrix_grid: there is no matrix to draw.")
    columns = min(columns, len(matrices))
    rows = -(-len(matrices) // columns)
    figure = Picture(figsize=(2.3 * columns, 2.55 * rows + 0.4), layout="constrained") if figure is None else figure
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(matrices) :]:
        ax.set_visible(False)
    for i, (ax, (name, matrix)) in enumerate(zip(axes.flat, matrices.items(), strict=False)):
        values = numbers(matrix)
        if values.ndim != 2 or values.shape[0] != values.shape[1]:
            raise ValueError(f"matrix_grid: {name}: a matrix C×C was expected, got shape {values.shape}.")
        ax.imshow(values, cmap=shares_map(), vmin=0, vmax=values.max() or 1.0)
        ax.set_title(name, fontsize="medium", loc="left")
        ax.set(xticks=[0, len(values) - 1], yticks=[0, len(values) - 1])
        ax.tick_params(labelsize="small")
        if i % columns == 0:
            ax.set_ylabel("gate i")
        if i + columns >= len(matrices):
            ax.set_xlabel("channel j")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize="large")
    return figure
