"""Plots of what kernels do to patterns over the channels. Reached as ``ecaviz.plots.<name>``.

plots.kernel_response(site.kernel)                       # |H(f)| of one kernel, and what fresh kernels have
plots.kernel_responses(ecaviz.frequency_responses(model))  # all sites
plots.kernel_null(ecaviz.kernel_null(model), "centre_share")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .coverage_plots import check_frame, column, finish
from .looks import GATE_MAP, family_style, layer_labels, masked_map
from .texts import names_as_written
from .themes import current
from .views import View, axes_or_current, colour_bar, numbers, strip_spines

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from .responses import FrequencyResponse

__all__ = ["kernel_null", "kernel_response", "kernel_responses"]

LEVEL = 0.05
FREQUENCY = "frequency f (cycles per channel)"
NAMES = {
    "balance": ("balance", "balance: share of ∫|H|² below f = 0.25", 0.5, (0, 1)),
    "centre_share": ("centre share", "centre share |w₀| / Σ|w|", None, None),
    "symmetry": ("symmetry", "symmetry ‖(w + reversed w)/2‖² / ‖w‖²", None, (0, 1)),
    "sum": ("sum", "sum Σw (logit per descriptor)", 0.0, None),
    "sum_share": ("sum share", "sum share Σw / (√k·‖w‖)", 0.0, (-1, 1)),
    "norm": ("norm", "norm ‖w‖ (logit per descriptor)", None, None),
}
"""Of each measure its name, its axis, the value to draw a line at, and the ends that it cannot pass."""


@names_as_written
def kernel_response(
    kernel: FrequencyResponse | Any,
    *,
    null: pd.DataFrame | None = None,
    relative: bool = True,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""\|H(f)\| of one kernel over the frequency, and in grey what fresh kernels of the same k have there.

    The band holds the middle 95 % of fresh kernels at each frequency by itself, so that more than 5 % of them leave it
    somewhere; the balance in the title is the one number to judge by, and :func:`ecaviz.kernel_null` judges.

    Args:
        kernel: k weights, such as ``site.kernel``, or what :func:`ecaviz.frequency_response` gives.
        null: What :func:`ecaviz.responses.null_band` gives for this k and this ``relative``; None to make it.
        relative: Draw \|H(f)\|/‖w‖, the shape alone: its square is 1 in the mean. Else \|H(f)\|, which also tells how
            large the weights are.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: ``kernel`` is no vector of odd length, or the null lacks columns.
    """
    from .responses import frequency_response, null_band  # here: they bring torch, which no other plot needs

    response = kernel if hasattr(kernel, "response") else frequency_response(kernel)
    k = len(response.kernel)
    null = null_band(k, relative=relative) if null is None else null
    check_frame(null, "frequency null_low null_median null_high", "kernel_response", "ecaviz.responses.null_band")
    ax = axes_or_current(ax)
    size = float(response.kernel.norm())
    f, gain = numbers(response.frequencies), numbers(response.magnitude)
    gain = gain / size if relative and size else gain
    band = {name: column(null, f"null_{name}") for name in ("low", "median", "high")}
    at, style = column(null, "frequency"), family_style("eca")
    ax.fill_between(at, band["low"], band["high"], color=current().band, lw=0, zorder=1)
    ax.plot(at, band["median"], color=current().muted, ls="--", lw=1, label="their median", zorder=2)
    ax.plot(f, gain, color=style.colour, lw=2.2, label="this kernel", zorder=3)
    ax.axvline(0.25, color=current().ink, lw=0.8, ls=":", zorder=1.5)
    top = 1.08 * max(gain.max(), band["high"].max())
    ax.set_xlim(0, 0.5)
    ax.set_ylim(0, top)
    ax.set_xticks([0, 0.125, 0.25, 0.375, 0.5], ["0\nall alike", "0.125", "0.25", "0.375", "0.5\nalternating"])
    ax.set_xlabel(FREQUENCY)
    ax.set_ylabel("gain |H(f)| / ‖w‖" if relative else "gain |H(f)| (logit per descriptor)")
    strip_spines(ax)
    what = f"k = {k}: {_percent(response.balance)} of the energy lies below f = 0.25" if size else f"k = {k}: w = 0"
    if int((response.kernel != 0).sum()) == 1:
        what = f"k = {k}, one weight: flat, every frequency passes alike"
    view = View(ax)
    view.title(what if title is None else title)
    median, own = ax.get_lines()[:2]
    view.legend(
        [own, Patch(color=current().band, lw=0), median],
        ["this kernel", "middle 95 % of fresh kernels", "their median"],
        3,
    )
    return ax


@names_as_written
def kernel_responses(table: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    r"""\|H(f)\|/‖w‖ of all sites of a model: site × frequency, light where a pattern passes well.

    Beside the name of each site stands its balance, and whether it smooths or sharpens more than chance gives.

    Args:
        table: What :func:`ecaviz.frequency_responses` gives.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: The table has no rows or lacks columns, or its sites have different frequencies.
    """
    columns = "site depth channels k frequency relative balance verdict"
    check_frame(table, columns, "kernel_responses", "ecaviz.frequency_responses")
    grid = table.pivot(index="depth", columns="frequency", values="relative")
    if len(table) != grid.size:
        raise ValueError("kernel_responses: every site needs a gain at each of the same frequencies.")
    sites = table.drop_duplicates("depth").sort_values("depth")
    f = grid.columns.to_numpy(dtype=float)
    steps = (
        np.concatenate([f[:1], (f[1:] + f[:-1]) / 2, f[-1:]]) if len(f) > 1 else np.array([f[0] - 0.01, f[0] + 0.01])
    )
    ax = axes_or_current(ax)
    values = grid.to_numpy(dtype=float)
    image = ax.pcolormesh(
        steps,
        np.arange(len(sites) + 1) - 0.5,
        np.ma.masked_invalid(values),
        cmap=masked_map(GATE_MAP),
        vmin=0,
        vmax=max(float(np.nanmax(values, initial=0)), 1),
    )
    ax.axvline(0.25, color="white", lw=1.2, ls=":")
    for edge in range(1, len(sites)):
        ax.axhline(edge - 0.5, color="white", lw=1)
    ax.set_ylim(len(sites) - 0.5, -0.5)
    names = layer_labels(sites["site"].tolist())
    ticks = []
    for name, row in zip(names, sites.itertuples(), strict=True):
        said = "w = 0" if np.isnan(row.balance) else _percent(row.balance)
        said += f", {row.verdict}" if row.verdict in ("smooths", "sharpens") else ""
        ticks.append(f"{name} (C={row.channels}, k={row.k}): {said}")
    ax.set_yticks(range(len(sites)), ticks)
    ax.set_xticks([tick for tick in (0, 0.125, 0.25, 0.375, 0.5) if steps[0] <= tick <= steps[-1]])
    ax.set_xlabel(FREQUENCY)
    ax.set_ylabel("layer: share of ∫|H|² below f = 0.25")
    colour_bar(ax, image, "gain |H(f)| / ‖w‖")
    verbs = [f"{(sites['verdict'] == name).sum()} {name[:-1]}" for name in ("smooths", "sharpens")]
    what = f"{len(sites)} kernels: beyond chance, {' and '.join(verbs)}"
    ax.set_title(what if title is None else title, loc="left", fontsize="medium")
    return ax


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


@names_as_written
def kernel_null(
    table: pd.DataFrame, measure: str = "balance", *, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """One measure of all sites of a model, and what fresh kernels of the same k have.

    Grey: the middle 95 % of fresh kernels, with their median. A marker is filled where the site is beyond chance, that
    is where p ≤ 0.05 after Holm's correction for the number of sites; a value outside the grey need not be.

    Args:
        table: What :func:`ecaviz.kernel_null` gives.
        measure: One of its measures.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: The table has no rows, lacks columns or has no such measure.
    """
    columns = "site depth channels k measure value null_low null_median null_high p_adjusted draws"
    check_frame(table, columns, "kernel_null", "ecaviz.kernel_null")
    own = table[table["measure"] == measure].sort_values("depth")
    if not len(own):
        known = ", ".join(map(str, table["measure"].unique()))
        raise ValueError(f"kernel_null: the table has no measure {measure!r}; it has: {known}.")
    name, axis, line, ends = NAMES.get(measure, (measure, measure, None, None))
    ax = axes_or_current(ax)
    y = np.arange(len(own))
    low, median, high, value = (column(own, part) for part in ("null_low", "null_median", "null_high", "value"))
    ax.hlines(y, low, high, color=current().band, lw=11, zorder=1)
    ax.vlines(median, y - 0.24, y + 0.24, color=current().muted, lw=1.4, zorder=2)
    if line is not None:
        ax.axvline(line, color=current().ink, lw=0.8, ls=":", zorder=1.5)
    sure = column(own, "p_adjusted") <= LEVEL
    colour = family_style("eca").colour
    look = {"ls": "", "marker": "o", "ms": 7, "mec": colour, "mew": 1.6, "zorder": 3, "clip_on": False}
    for kept, fill in ((sure, colour), (~sure, current().paper)):
        if kept.any():  # layouts take a line without points for one that is everywhere
            ax.plot(value[kept], y[kept], mfc=fill, **look)
    names = layer_labels(own["site"].tolist())
    ticks = [f"{n} (C={c}, k={k})" for n, c, k in zip(names, own["channels"], own["k"], strict=True)]
    ax.set_yticks(y, ticks)
    ax.set_ylim(len(own) - 0.5, -0.5)
    ax.set_ylabel("layer")
    ax.set_xlabel(axis)
    if ends is not None:
        ax.set_xlim(*ends)
    finish(ax, "x")
    what = f"{name}: beyond chance at {int(sure.sum())} of {len(own)} sites"
    draws = int(own["draws"].min())
    if 2 * len(own) > LEVEL * (draws + 1):
        what = f"{name}: {draws} draws are too few to tell at {len(own)} sites"
    small = {"ls": "", "marker": "o", "ms": 6, "mec": colour, "mew": 1.4}
    texts = {
        "middle 95 % of fresh kernels, and their median": Patch(color=current().band, lw=0),
        "p ≤ 0.05, corrected for the sites": Line2D([], [], mfc=colour, **small),
        "p > 0.05": Line2D([], [], mfc=current().paper, **small),
    }
    view = View(ax)
    view.title(what if title is None else title)
    view.legend(list(texts.values()), list(texts), 1)
    return ax
