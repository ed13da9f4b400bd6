"""Plots of kernels and of interaction matrices. Reached as ``ecaviz.plots.<name>``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import kernel_views
from .coverage_plots import check_frame, finish
from .looks import family_style, ink_on, layer_labels, masked_map, setting, signed_map
from .texts import names_as_written
from .themes import current
from .views import axes_or_current, colour_bar, fitted, numbers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from torch import Tensor

    from .interaction import InteractionMatrix, Structure

__all__ = ["gates_by_kernel", "interaction", "kernel", "learned_kernels", "weights_by_start"]


# ------------------------------------------------------------------------------------------------------------- kernels


@names_as_written
def kernel(weights: Tensor, resized: Tensor | None = None, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """One kernel, weight by offset; beside it, if given, its resized version.

    Args:
        weights: k weights, such as ``site.kernel``.
        resized: What :func:`ecaviz.kernels.resize_kernel` made of it.
        title: Replaces the title.
        ax: Where to draw.
    """
    w = numbers(weights)
    other = None if resized is None else numbers(resized)
    ax = axes_or_current(ax)
    what = f"kernel, k = {len(w)}" + ("" if other is None else f", resized to k = {len(other)}")
    kernel_views.KernelStems(ax).update(w, other, title=what if title is None else title)
    return ax


@names_as_written
def learned_kernels(table: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """The learned kernels of a model: layer × offset, the colour centred at zero, the weights written in.

    Args:
        table: What :func:`ecaviz.kernels.learned_kernels` gives.
        title: Replaces the title.
        ax: Where to draw. Cells beyond a layer's k are grey.
    """
    sites = table.drop_duplicates("site")
    reach = int(table["offset"].abs().max())
    grid = np.full((len(sites), 2 * reach + 1), np.nan)
    rows = {name: i for i, name in enumerate(sites["site"])}
    grid[table["site"].map(rows), table["offset"] + reach] = table["weight"]
    limit = np.nanmax(np.abs(grid)) or 1.0
    ax = axes_or_current(ax)
    image = ax.imshow(
        grid,
        cmap=masked_map(signed_map()),
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        extent=(-reach - 0.5, reach + 0.5, len(sites) - 0.5, -0.5),
    )
    if grid.size <= 200:
        for (i, j), value in np.ndenumerate(grid):
            if not np.isnan(value):
                colour = ink_on(image.to_rgba(value))
                ax.text(j - reach, i, f"{value:.2f}", ha="center", va="center", fontsize="x-small", color=colour)
    names = layer_labels(sites["site"].tolist())
    ax.set_yticks(
        range(len(names)), [f"{n} (C={c}, k={k})" for n, c, k in zip(names, sites["channels"], sites["k"], strict=True)]
    )
    ax.set_xticks(range(-reach, reach + 1))
    ax.set_xlabel("offset (channels)")
    ax.set_ylabel("layer")
    colour_bar(ax, image, "weight w")
    ax.set_title("learned kernels" if title is None else title, loc="left", fontsize="medium")
    return ax


@names_as_written
def weights_by_start(table: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Every trained weight against the one that its training started from.

    Args:
        table: What :func:`ecaviz.kernels.learned_kernels` gives, of one model or several, with one more column, start:
            the weight at the same place before the training.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: The table has no rows or lacks columns.
    """
    check_frame(table, "weight start", "weights_by_start", "ecaviz.kernels.learned_kernels; start is a column to add")
    ax = axes_or_current(ax)
    style = family_style("eca")
    ax.axline((0, 0), slope=1, color=current().muted, lw=1, ls="--", label="left as it was", zorder=1)
    marks = {"marker": style.marker, "ms": 4.5, "mfc": "none", "mec": style.colour, "mew": 1.1}
    ax.plot(table["start"], table["weight"], ls="", label="a weight", **marks)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel("weight at the start")
    ax.set_ylabel("trained weight")
    finish(ax)
    what = f"{len(table)} weights, correlation {table['start'].corr(table['weight']):.2f}"
    ax.set_title(what if title is None else title, loc="left", fontsize="medium")
    ax.legend(loc="upper left", fontsize="small", frameon=False)
    return ax


@names_as_written
def gates_by_kernel(
    original: Tensor,
    other: Tensor,
    *,
    kernel_size: int | None = None,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The gates another kernel makes against those of the trained one: a density, since there are many.

    Args:
        original: Gates of the trained kernel, N×C.
        other: Gates of the other one, such as :func:`ecaviz.kernels.gates_for_kernel` gives, N×C.
        kernel_size: Of the other, for the label.
        limits: Ends of both axes; None to fit them to the data.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: The shapes differ.
    """
    x, y = numbers(original), numbers(other)
    ax = axes_or_current(ax)
    label = "gate ω of the other kernel" if kernel_size is None else f"gate ω with k = {kernel_size}"
    view = kernel_views.GatePairs(ax)
    view.update(x, y, limits=limits or fitted(x, y), label=label)
    ax.set_title(f"mean |Δω| = {np.abs(y - x).mean():.3f}" if title is None else title, loc="left", fontsize="medium")
    return ax


# --------------------------------------------------------------------------------------------------------- interaction


@names_as_written
def interaction(
    matrix: InteractionMatrix | Structure | Tensor,
    *,
    absolute: bool = False,
    cells: int = 256,
    reduce: str = "max",
    limit: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""An interaction matrix J = ∂z/∂y as a heat map, centred at zero; or which pairs a form allows to interact.

    A matrix of more than ``cells`` channels is shown at reduced resolution, and the title says how.

    Args:
        matrix: What :func:`ecaviz.interaction_matrix` gives; what :func:`ecaviz.influence` gives, which is unsigned; a
            :class:`ecaviz.interaction.Structure`, drawn as the share of pairs; or a tensor C×C.
        absolute: Draw \|J\|, which can be read without colour.
        cells: The most cells a side.
        reduce: "max" (of each block the entry largest in absolute value) or "mean". A structure always takes the mean.
        limit: End of the colour scale; None for the largest value.
        title: Replaces the first line of the title.
        ax: Where to draw.

    Raises:
        ValueError: ``reduce`` is neither, or the matrix is not square.
    """
    ax = axes_or_current(ax)
    if hasattr(matrix, "partners"):
        kind, reduce = "share", "mean"
        what = f"pairs that can interact: {setting(matrix)}, C={matrix.channels}: {matrix.structural:.2%}"
        label = "share of pairs"
    elif hasattr(matrix, "participation"):
        kind, label = "size", "‖∂z/∂x‖"
        what = f"influence: {setting(matrix)}, C={matrix.channels}, mean over {matrix.images} images"
    else:
        label = "|∂z/∂y|" if absolute else "∂z/∂y"
        kind = "size" if absolute else "signed"
        what = "|J|" if absolute else "J"
        if hasattr(matrix, "form"):
            over = f" over {matrix.images} images" if matrix.images else ""
            where = f" of {matrix.site}" if matrix.site else ""
            what += f"{where}: {setting(matrix)}, C={matrix.channels} ({matrix.kind}{over})"
    values = numbers(getattr(matrix, "matrix", matrix))
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise ValueError(f"interaction: a matrix C×C was expected, got shape {values.shape}.")
    shown, side = kernel_views.pool(np.abs(values) if absolute else values, cells, reduce)
    what = what if title is None else title
    if side > 1:
        how = "mean" if reduce == "mean" else "largest entry"
        what += f"\neach cell: the {how} of {side}×{side} pairs"
    kernel_views.Interaction(ax, kind, label=label).update(shown, len(values), limit=limit, title=what)
    return ax
