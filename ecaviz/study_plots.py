"""Plots of the trained study of k. Reached as ``ecaviz.plots.<name>``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .looks import family_style
from .texts import names_as_written
from .themes import current
from .views import axes_or_current, strip_spines

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["accuracy_by_variant"]


@names_as_written
def accuracy_by_variant(
    table: pd.DataFrame,
    runs: pd.DataFrame | None = None,
    *,
    published: bool = True,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Accuracy of each variant of the study, in its order: a dash a seed, the mean, its interval, the published number.

    What is published is of another network and other images: it stands on an axis of its own, on the right, of the same
    length in points.

    Args:
        table: What :func:`ecaviz.kernel_study.table` gives.
        runs: What :func:`ecaviz.results.runs` gives of the same data set, for the dashes; None for none.
        published: Whether to show the published accuracies.
        title: Replaces the title.
        ax: Where to draw.
    """
    ax = axes_or_current(ax)
    places = np.arange(len(table))
    for x, row in zip(places, table.itertuples(), strict=True):
        style = family_style(row.family)
        ax.plot([x, x], [100 * row.low, 100 * row.high], color=style.colour, lw=4, alpha=0.4, solid_capstyle="butt")
        ax.plot(x, 100 * row.mean, ls="", marker=style.marker, ms=8, color=style.colour, mec=current().ink, mew=0.8)
        if runs is not None:
            seeds = 100 * runs.loc[runs["name"] == row.name, "accuracy"].to_numpy()
            ax.plot(np.full(len(seeds), x), seeds, ls="", marker="_", ms=13, color=current().ink, mew=1)
    ax.set_xticks(places, [f"{row.title} ({row.seeds})" for row in table.itertuples()], rotation=35, ha="right")
    ax.set_xlim(-0.6, len(table) - 0.4)
    ax.set_xlabel("variant (seeds)")
    ax.set_ylabel("held-out accuracy (%)")
    ax.grid(axis="y", color=current().grid, lw=0.6)
    ax.set_axisbelow(True)
    strip_spines(ax)
    if published and table["published"].notna().any():
        _beside(ax, places, table)
    what = "accuracy by variant: each seed (–), their mean, and its interval"
    ax.set_title(what if title is None else title, loc="left", fontsize="medium")
    return ax


def _beside(ax: Axes, places: np.ndarray, table: pd.DataFrame) -> None:
    """The published accuracies on a second axis, as many points long as the first."""
    both = table[table["published"].notna()]
    shift = both["published"].mean() - 100 * both["mean"].mean()
    other = ax.twinx()
    blue = current().hues["blue"]
    points = other.plot(places, table["published"], ls="", marker="D", ms=6, mfc="none", mec=blue, mew=1.6)[0]
    low, high = ax.get_ylim()
    low = min(low, table["published"].min() - shift - 0.5)
    high = max(high, table["published"].max() - shift + 0.5)
    ax.set_ylim(low, high)
    other.set_ylim(low + shift, high + shift)
    other.set_ylabel("top-1, ResNet-50 on ImageNet (%)", color=blue)
    other.tick_params(axis="y", colors=blue)
    other.spines[["top", "left", "bottom"]].set_visible(False)
    ax.legend([points], ["published, no spread given (right axis)"], loc="lower right", fontsize="small")
