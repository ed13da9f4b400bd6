"""Plots of locality: energy of J near the diagonal against its null. Reached as ``ecaviz.plots.<name>``.

plots.band_energy(locality.band_test(matrix))
plots.locality(coverages.locality_table(model, images), k=3)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .coverage_plots import check_frame, column, finish, in_turn, percent, places_of, positive, series_of
from .looks import series_styles
from .texts import names_as_written
from .themes import current
from .views import Picture, axes_or_current, numbers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .locality import BandTest

__all__ = ["band_energy", "locality"]

ORDERS = {
    "given": ("order as given", "blue", "o"),
    "seriated": ("seriated", "orange", "D"),
}
"""Name, hue and marker of each ordering of the channels."""


@names_as_written
def band_energy(
    tests: BandTest | Sequence[BandTest], *, labels: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    r"""Share of ‖J‖² within \|i−j\| ≤ (k−1)/2 as k grows, and what its null gives.

    A ribbon is the null's interval, the thin line in it the null's mean. A marker is filled where p ≤ 0.05 after
    Bonferroni's correction for the number of sizes; the title says so where the draws are too few for that.

    Args:
        tests: One or several of what :func:`ecaviz.locality.band_test` or ``seriated_test`` gives.
        labels: A text for each; None for their orderings.
        ax: Where to draw.

    Raises:
        ValueError: There is none, or the numbers of tests and labels differ.
    """
    tests = [tests] if hasattr(tests, "energy") else list(tests)
    if not tests:
        raise ValueError("band_energy: there is no test to draw; ecaviz.locality.band_test makes one.")
    if labels is None:
        labels = [f"{ORDERS.get(test.ordering, [test.ordering])[0]}, C = {test.channels}" for test in tests]
        if len(set(labels)) < len(labels):  # one ordering against two nulls
            labels = [f"{label}, null: {test.null}" for label, test in zip(labels, tests, strict=True)]
    if len(labels) != len(tests):
        raise ValueError(f"band_energy: one label a test was expected, got {len(labels)} for {len(tests)} tests.")
    ax = axes_or_current(ax)
    said, handles = [], []
    for i, (test, label) in enumerate(zip(tests, labels, strict=True)):
        style, sizes, p = in_turn(series_styles(), i), numbers(test.sizes), numbers(test.p)
        energy, expected, low, high = (positive(part) for part in (test.energy, test.expected, test.low, test.high))
        line = {"color": style.colour, "ls": style.line}
        ax.fill_between(sizes, low, high, color=style.colour, alpha=0.22, lw=0, label=f"{label}: null")
        ax.plot(sizes, expected, lw=0.8, label=f"{label}: mean of the null", **line)
        handles += ax.plot(sizes, energy, lw=1.6, zorder=3, label=label, **line)
        sure = p * len(p) <= 0.05
        size = np.linspace(10, 6, len(tests))[i]  # the first largest: those at one place stay visible
        look = {"ls": "", "marker": style.marker, "ms": size, "mec": style.colour, "mew": 1.3, "zorder": 4}
        ax.plot(sizes[sure], energy[sure], mfc=style.colour, label=f"{label}: p ≤ 0.05", **look)
        ax.plot(sizes[~sure], energy[~sure], mfc=current().paper, label=f"{label}: p > 0.05", **look)
        said.append((f"{label}: " if len(tests) > 1 else "") + _seen(sizes[sure], test))
    ax.set_xscale("log")
    ax.set_yscale("log")
    every = sorted({int(k) for test in tests for k in test.sizes})
    ticks = every if len(every) <= 8 else [k for k in every if k == 1 or (k - 1) & (k - 2) == 0]  # 1, 2ⁿ + 1
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.xaxis.minorticks_off()
    ax.yaxis.set_major_formatter(percent)
    ax.yaxis.set_minor_formatter(lambda value, _: percent(value) if f"{value:e}"[0] in "25" else "")
    ax.set_xlabel("k: the band |i−j| ≤ (k−1)/2")
    ax.set_ylabel("share of ‖J‖² in the band")
    finish(ax)
    ax.set_title("\n".join(said), loc="left", fontsize="medium")
    look = {"ls": "", "marker": "o", "ms": 6, "mec": current().ink, "mew": 1.3}
    handles.append(Patch(color=current().muted, alpha=0.35, lw=0, label="null: interval, its mean a thin line"))
    handles.append(Line2D([], [], mfc=current().ink, label="p ≤ 0.05, corrected for the sizes", **look))
    handles.append(Line2D([], [], mfc=current().paper, label="p > 0.05", **look))
    ax.legend(handles=handles, loc="best", fontsize="small", frameon=False, handlelength=2.6)
    return ax


def _seen(sure: np.ndarray, test: BandTest) -> str:
    """What one test says."""
    if len(test.p) > 0.05 * (test.draws + 1):
        return f"{test.draws} draws are too few to tell at {len(test.p)} sizes"
    if not len(sure):
        return "energy near the diagonal nowhere above the null"
    which = ", ".join(f"{k:g}" for k in sure) if len(sure) <= 3 else f"{sure[0]:g} … {sure[-1]:g} ({len(sure)} sizes)"
    return f"energy above the null at k = {which}"


@names_as_written
def locality(frame: pd.DataFrame, k: int = 3, null: str = "matching", *, figure: Figure | None = None) -> Figure:
    """How much more of ‖J‖² lies within k of the diagonal than chance would put there, by model and site.

    Axes for each model, a row for each site: the order as given, and below it the seriated one. A dot a seed: energy
    over the null's mean, so that 1 is no locality; grey: the null's interval, from the lowest of the seeds to the
    highest.

    Args:
        frame: What :func:`ecaviz.coverages.locality_table` gives.
        k: Which band.
        null: Which null of the seriated order, "matching" or "entries"; see :func:`ecaviz.locality.seriated_test`.
        figure: Where to draw; None for a new one.

    Raises:
        ValueError: The frame has no rows, lacks columns, or has no such k or null.
    """
    columns = "model family setting site ordering null k energy expected low high"
    check_frame(frame, columns, "locality", "ecaviz.coverages.locality_table")
    if null not in (known := frame.loc[frame["ordering"] == "seriated", "null"].unique().tolist() or [null]):
        raise ValueError(f"locality: the frame has no null {null!r} of the seriated order; it has: {known}.")
    shown = frame[(frame["k"] == k) & ((frame["ordering"] == "given") | (frame["null"] == null))].reset_index(drop=True)
    if not len(shown):
        raise ValueError(f"locality: the frame has no k = {k}; it has: {sorted(frame['k'].unique().tolist())}.")
    (sites, at), series = places_of(shown), series_of(shown)
    wide = min(len(series), 3)
    tall = -(-len(series) // wide)
    if figure is None:
        size = (3.4 * wide + 1.4, tall * (0.4 * len(sites) + 0.7) + 1.3)
        figure = Picture(figsize=size, layout="constrained")
    axes = figure.subplots(tall, wide, sharex=True, sharey=True, squeeze=False)
    handles, said = [], []
    kept = [name for name in ORDERS if (shown["ordering"] == name).any()]
    for ordering, shift in zip(kept, (-0.18, 0.18) if len(kept) == 2 else (0.0,), strict=True):
        name, hue, marker = ORDERS[ordering]
        look = {
            "ls": "",
            "marker": marker,
            "ms": 5,
            "mfc": current().hues[hue],
            "mec": current().ink,
            "mew": 0.6,
            "zorder": 3,
        }
        handles.append(Line2D([], [], label=f"{name}, a dot a seed", **look))
        above = []
        for ax, (own, _, _) in zip(axes.flat, series, strict=False):
            one = own & (shown["ordering"] == ordering).to_numpy()
            y, expected = at[one] + shift, column(shown[one], "expected")
            ratio, low, high = (positive(column(shown[one], part) / expected) for part in ("energy", "low", "high"))
            for row in np.unique(y[~np.isnan(ratio)]):
                ends = [np.nanmin(low[y == row]), np.nanmax(high[y == row])]
                ax.plot(ends, [row, row], color=current().faint, lw=6, solid_capstyle="butt", zorder=1)
                above.append((ratio[y == row] > high[y == row] * (1 + 1e-9)).all())
            ax.plot(ratio, y, label=name, **look)
        said.append(f"{sum(above)} of {len(above)} ({name})")
    for i, ax in enumerate(axes.flat):
        ax.set_visible(i < len(series))
        if i < len(series):
            ax.set_title(series[i][1], loc="left", fontsize="medium")
        if i < len(series) <= i + wide:  # nothing below it
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("energy / mean of the null")
        ax.axvline(1, color=current().ink, lw=0.8, zorder=2)
        ax.set_xscale("log")
        _ratio_ticks(ax)
        finish(ax, "x")
    for ax in axes[:, 0]:
        ax.set_ylabel("site, from input to output")
        ax.tick_params(axis="y", labelsize="small")
    axes[0, 0].set_yticks(range(len(sites)), sites)
    axes[0, 0].set_ylim(len(sites) - 0.5, -0.5)
    handles.append(Patch(color=current().faint, lw=0, label="interval of the null"))
    figure.legend(handles=handles, loc="outside lower left", ncols=3, fontsize="small", frameon=False)
    what = f"energy within k = {k} of the diagonal: above the null, in every seed, at\n{', '.join(said)} sites"
    figure.suptitle(what, x=0.01, ha="left", fontsize="medium")
    return figure


def _ratio_ticks(ax: Axes) -> None:
    """Ticks of a log axis of ratios about 1, so close that two neighbours have room for their names."""
    low, high = ax.get_xlim()
    steps = (
        [0.9, 1, 1.1],
        [0.8, 0.9, 1, 1.1, 1.2],
        [0.7, 0.8, 1, 1.2, 1.4],
        [0.5, 0.7, 1, 1.4, 2],
        [0.25, 0.5, 1, 2, 4],
    )
    ticks = next((some for some in steps if some[0] <= low and high <= some[-1]), [0.1, 0.25, 0.5, 1, 2, 4, 10])
    ax.set_xticks([tick for tick in ticks if low <= tick <= high], minor=False)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.minorticks_off()
