"""The artists that lay two modules beside each other; see :mod:`ecaviz.views`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .looks import Style
from .themes import current
from .views import View, set_limits, strip_spines

__all__ = ["CostCurves", "SeedDots"]


class CostCurves(View):
    """A cost by C for two modules, on a logarithmic axis with a place for none, and the present C marked.

    Args:
        ax: Where to draw.
        label: Of the vertical axis.
    """

    top = 3e8

    def __init__(self, ax: Axes, label: str):
        super().__init__(ax)
        self.lines = [ax.plot([], [], ms=6, lw=1.6, clip_on=False)[0] for _ in range(2)]
        self.here = ax.axvline(0, color=current().muted, lw=1, ls=":")
        self.marks = [
            ax.plot([], [], ls="", marker="o", ms=13, mfc="none", mec=current().ink, mew=1.4, clip_on=False)[0]
            for _ in range(2)
        ]
        ax.set_yscale("symlog", linthresh=1, linscale=0.5)
        ax.set_ylim(-0.2, self.top)
        ax.set_yticks([0, *[10.0**power for power in range(0, 9, 2)]])
        ax.set_xlabel("channels C")
        ax.set_ylabel(label)
        strip_spines(ax)
        self.moving += [self.here, *self.lines, *self.marks]
        self._labels: tuple | None = None

    def update(
        self,
        channels: Sequence[int],
        values: Sequence[Sequence[int]],
        styles: Sequence[Style],
        labels: Sequence[str],
        now: int,
        *,
        title: str = "",
    ) -> None:
        """Show other modules, or another C.

        Args:
            channels: The C.
            values: The cost at each, of both modules.
            styles: How each is drawn.
            labels: Their names.
            now: The C to mark, one of ``channels``.
            title: What is seen.
        """
        x = list(range(len(channels)))
        at = list(channels).index(now)
        for line, mark, costs, style in zip(self.lines, self.marks, values, styles, strict=True):
            line.set_data(x, costs)
            line.set(color=style.colour, linestyle=style.line, marker=style.marker)
            mark.set_data([at], [costs[at]])
        self.here.set_xdata([at, at])
        set_limits(self.ax, x=(-0.3, len(channels) - 0.7))
        if [tick.get_text() for tick in self.ax.get_xticklabels()] != [str(c) for c in channels]:
            self.ax.set_xticks(x, [str(c) for c in channels])
        self.title(title)
        self.frame = (tuple(channels), tuple(labels))
        if self._labels != tuple(labels):
            self._labels = tuple(labels)
            handles = [Line2D([], [], color=s.colour, ls=s.line, marker=s.marker, ms=6) for s in styles]
            self.legend(handles, list(labels), 2)


class SeedDots(View):
    """Accuracies of two modules: every seed, the mean, its interval, and lines that join what one seed gave."""

    def __init__(self, ax: Axes):
        super().__init__(ax)
        self.joins = [ax.plot([], [], color=current().faint, lw=0.9)[0] for _ in range(16)]
        self.spans = [ax.plot([], [], lw=7, alpha=0.35, solid_capstyle="butt")[0] for _ in range(2)]
        self.seeds = [ax.plot([], [], ls="", marker="_", ms=12, color=current().ink, mew=1.2)[0] for _ in range(2)]
        self.means = [ax.plot([], [], ls="", ms=10, mec=current().ink, mew=0.9)[0] for _ in range(2)]
        ax.set_xlim(-0.6, 1.6)
        ax.set_xlabel("module")
        ax.set_ylabel("accuracy (%)")
        ax.grid(axis="y", color=current().grid, lw=0.6)
        ax.set_axisbelow(True)
        strip_spines(ax)
        self.moving += [*self.joins, *self.spans, *self.seeds, *self.means]

    def update(
        self,
        accuracies: Sequence[dict[int, float]],
        intervals: Sequence[tuple[float, float]],
        styles: Sequence[Style],
        labels: Sequence[str],
        limits: tuple[float, float],
        *,
        title: str = "",
    ) -> None:
        """Show other modules.

        Args:
            accuracies: Per cent by seed, of both modules.
            intervals: Of the means, per cent; NaN for none.
            styles: How each is drawn.
            labels: Their names.
            limits: Ends of the vertical axis.
            title: What is seen.
        """
        for i, (by_seed, interval, style) in enumerate(zip(accuracies, intervals, styles, strict=True)):
            values = list(by_seed.values())
            self.seeds[i].set_data([0.16 + 0.68 * i] * len(values), values)
            self.means[i].set_data([i], [np.mean(values)])
            self.means[i].set(color=style.colour, marker=style.marker)
            self.spans[i].set_data([i, i], interval)
            self.spans[i].set_color(style.colour)
        common = [seed for seed in accuracies[0] if seed in accuracies[1]][: len(self.joins)]
        for line in self.joins:
            line.set_data([], [])
        for line, seed in zip(self.joins, common, strict=False):
            line.set_data([0.16, 0.84], [one[seed] for one in accuracies])
        if [tick.get_text() for tick in self.ax.get_xticklabels()] != list(labels):
            self.ax.set_xticks([0, 1], list(labels))
        set_limits(self.ax, y=limits)
        self.title(title)
        self.frame = (tuple(labels), limits)
