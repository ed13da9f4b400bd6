"""Plots of two models on the same images. Reached as ``ecaviz.plots.<name>``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .coverage_plots import check_frame, column, finish
from .texts import names_as_written
from .themes import current
from .views import axes_or_current, layer_axis

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["gate_correlations"]


@names_as_written
def gate_correlations(table: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Whether two models open the same channels: the correlation of their mean gates, layer by layer.

    Grey: where 95 of 100 unrelated layers lie, each by itself. A mark is filled where it is outside; a layer without a
    correlation has none.

    Args:
        table: What :func:`ecaviz.agreement.gate_correlations` gives.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: The table has no rows or lacks columns.
    """
    check_frame(table, "site r bound", "gate_correlations", "ecaviz.agreement.gate_correlations")
    ax = axes_or_current(ax)
    x, r, bound = np.arange(len(table)), column(table, "r"), column(table, "bound")
    edges = np.arange(len(table) + 1) - 0.5
    ax.stairs(bound, edges, baseline=-bound, fill=True, color=current().band, lw=0, label="95 of 100 unrelated layers")
    ax.axhline(0, color=current().muted, lw=1, ls=":")
    outside = np.abs(r) > bound
    inside = ~outside & ~np.isnan(r)
    for chosen, face, label in ((inside, current().paper, "r inside"), (outside, current().ink, "r outside")):
        if chosen.any():  # layouts take a line without points for one that is everywhere
            look = {"ls": "", "marker": "o", "ms": 7, "mfc": face, "mec": current().ink, "mew": 1.4}
            ax.plot(x[chosen], r[chosen], label=label, **look)
    layer_axis(ax, table["site"].tolist())
    ax.set_ylim(-1, 1)
    ax.set_ylabel("correlation r of the mean gates")
    finish(ax, "y")
    what = f"the same channels open? r outside the grey at {int(outside.sum())} of {len(table)} layers"
    ax.set_title(what if title is None else title, loc="left", fontsize="medium")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize="small", frameon=False)
    return ax
