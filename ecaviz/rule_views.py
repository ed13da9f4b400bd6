"""The artists behind the plots of the rule that picks k; see :mod:`ecaviz.views`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import IdentityTransform

from .looks import ink_on, shortened, styles
from .themes import LIGHT, current
from .views import View, set_limits, strip_spines

if TYPE_CHECKING:
    from .kernels import RuleCurve

__all__ = ["AuditRow", "AuditTable", "RuleStaircase"]


@dataclass(frozen=True)
class AuditRow:
    """The stages of one network, from its first to its last; None where a number is not known.

    Attributes:
        label: What it is called.
        k: k of its weights.
        planes: Inner width of its blocks.
        channels: C at its gates.
        by_planes: What the rule gives on the planes.
        by_channels: What the rule gives on the channels.
        by_timm: The same, but at least 3.
    """

    label: str
    k: Sequence[int]
    planes: Sequence[int | None]
    channels: Sequence[int | None]
    by_planes: Sequence[int | None]
    by_channels: Sequence[int | None]
    by_timm: Sequence[int | None]

    @property
    def readings(self) -> tuple[Sequence[int | None], ...]:
        """What each reading of the rule gives: on planes, on channels, timm's."""
        return self.by_planes, self.by_channels, self.by_timm


class RuleStaircase(View):
    """The rule as a staircase over C: the steps, the line that they round, timm's floor, ties, and marks.

    Args:
        ax: Where to draw.
        marks: Names of the marks for the legend: of the rule on planes, of the rule on channels, of the network's own
            k; an empty one is not in the legend.
        columns: Of the legend.
    """

    def __init__(self, ax: Axes, marks: tuple[str, str, str] = ("", "", ""), columns: int = 2):
        super().__init__(ax)
        first, second = styles(["eca", "eca"])
        self.line = ax.plot([], [], color=current().ink, ls="--", lw=1)[0]
        self.floor = ax.plot([], [], color=second.colour, ls=":", lw=2.6, drawstyle="steps-post")[0]
        self.steps = ax.plot([], [], color=first.colour, lw=2, drawstyle="steps-post")[0]
        whole = {"ls": "", "clip_on": False, "zorder": 3}  # markers at the ends of the axis too
        self.spans = ax.add_collection(LineCollection([], colors=current().ink, lw=1.2, zorder=2.2))
        self.ties = ax.plot([], [], marker="D", ms=8, mfc=current().paper, mec=current().ink, **whole)[0]
        self.gaps = ax.add_collection(LineCollection([], colors=current().ink, lw=1, linestyles=":", zorder=2.2))
        self.on_planes = ax.plot([], [], marker="s", ms=11, mfc="none", mec=first.colour, mew=1.6, **whole)[0]
        self.on_channels = ax.plot([], [], marker="o", ms=6, color=first.colour, **whole)[0]
        self.own = ax.plot([], [], marker="x", ms=10, mew=2.2, color=current().ink, **{**whole, "zorder": 3.2})[0]
        for artist, label in (
            (self.steps, "k = ψ(C), the paper's code"),
            (self.line, "|log2 C + b| / γ, before rounding"),
            (self.floor, "timm: at least 3"),
            (self.ties, "exact tie: two odd numbers are equally near"),
            *zip((self.on_planes, self.on_channels, self.own), marks, strict=True),
        ):
            artist.set_label(label or "_none")
        ax.set_xscale("log", base=2)
        ax.set_xlabel("channels C")
        ax.set_ylabel("kernel size k")
        ax.grid(axis="y", color=current().grid, lw=0.6)
        ax.set_axisbelow(True)
        strip_spines(ax)
        named = [
            artist
            for artist in (self.steps, self.line, self.floor, self.ties, self.on_planes, self.on_channels, self.own)
            if artist.get_label() != "_none"
        ]
        self.moving += [self.line, self.floor, self.steps, self.spans, self.ties, self.gaps]
        self.moving += [self.on_planes, self.on_channels, self.own]
        self.legend(named, [str(artist.get_label()) for artist in named], columns)

    def update(
        self,
        curve: RuleCurve,
        *,
        planes: Sequence[tuple[int, int]] = (),
        channels: Sequence[tuple[int, int]] = (),
        own: Sequence[tuple[int, int]] = (),
        title: str = "",
    ) -> None:
        """Show another γ and b, or other marks.

        Args:
            curve: The rule over the C of the axis.
            planes: (C, k) of the rule on planes; what lies beyond the axis is left out, here and below.
            channels: (C, k) of the rule on the widths of gates.
            own: (C, k) that a network has, C the width of its gates.
            title: What is seen.
        """
        c = curve.channels
        self.steps.set_data(c, curve.paper_code)
        self.line.set_data(c, curve.continuous)
        differs = curve.timm != curve.paper_code
        shown = differs | np.append(False, differs[:-1])  # as far as the next step
        self.floor.set_data(c, np.where(shown, 3.0, np.nan))
        ties = [(int(x), float(y)) for x, y in zip(c[curve.tie], curve.continuous[curve.tie], strict=True)]
        _place(self.ties, ties)
        self.spans.set_segments([[(x, round(y) - 1), (x, round(y) + 1)] for x, y in ties])
        inside = [[(x, k) for x, k in part if c[0] <= x <= c[-1]] for part in (planes, channels, own)]
        for artist, part in zip((self.on_planes, self.on_channels, self.own), inside, strict=True):
            _place(artist, part)
        ruled = dict(inside[1])
        self.gaps.set_segments([[(x, ruled[x]), (x, k)] for x, k in inside[2] if ruled.get(x, k) != k])
        highest = max([int(curve.paper_code.max()), *(k for part in inside for _, k in part)])
        top = next((room for room in (8, 12, 16, 24, 36) if highest < room), 2 * highest)
        ends = float(c[0]), float(c[-1])
        self.frame = (*ends, top)
        self.title(title)
        if self.ax.get_xlim() == ends and self.ax.get_ylim() == (0.0, float(top)):
            return
        set_limits(self.ax, x=ends, y=(0.0, float(top)))
        ticks = [2**i for i in range(32) if c[0] <= 2**i <= c[-1]]
        self.ax.set_xticks(ticks, [str(tick) for tick in ticks])
        self.ax.minorticks_off()
        self.ax.set_yticks(range(1, top, 2 * -(-top // 24)))


def _place(artist, points: Sequence[tuple[float, float]]) -> None:
    artist.set_data([x for x, _ in points], [y for _, y in points])
    artist.set_visible(bool(points))  # an empty one that is not clipped takes room at the corner of the figure


class AuditTable(View):
    """k by stage of each network: what the weights have, and what each reading of the rule gives, a cell a stage.

    A cell of a reading is pale where it is the k of the weights, and strong where it is not: orange above, blue below.

    Args:
        ax: Where to draw.
        letters: The most of the name of a network that there is room for; None for all of it.
    """

    groups = ("k of the weights", "rule on planes", "rule on channels", "timm's rule")
    apart = 0.14
    most = 9
    """Stages of a network whose k can be written in; of more, the colours alone are shown."""

    def __init__(self, ax: Axes, *, letters: int | None = None):
        super().__init__(ax)
        self.agrees, self.above, self.below = (current().hues[hue] for hue in ("agrees", "above", "below"))
        self.own = current().paper
        self.letters = letters
        self.cells = ax.add_collection(PolyCollection([], lw=0.5, edgecolors=current().hues["ash"]))
        self.numerals = PathCollection(
            [], (1,), offsets=np.zeros((0, 2)), offset_transform=ax.transData, lw=0, zorder=3
        )
        self.numerals.set_transform(IdentityTransform())
        ax.add_collection(self.numerals)
        self.mark = ax.add_patch(
            Rectangle((0, 0), 1, 1, fill=False, ec=current().ink, lw=2.2, visible=False, clip_on=False)
        )
        width = len(self.groups) * (1 + self.apart) - self.apart
        ax.set_xlim(-0.06, width + 0.06)
        ax.set_xticks([g * (1 + self.apart) + 0.5 for g in range(len(self.groups))], self.groups, fontsize="small")
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        strong = "dark" if current() is LIGHT else "bright"
        ax.set_xlabel(
            f"a cell a stage, the first on the left; {strong}: not the k of the weights\n"
            "(orange: above it, blue: below it)",
            fontsize="small",
        )
        ax.set_ylabel("network")
        self.moving += [self.cells, self.numerals, self.mark]
        self._shape: tuple | None = None

    def update(self, rows: Sequence[AuditRow], *, marked: int | None = None, title: str = "") -> None:
        """Show other networks, or what another rule gives.

        Args:
            rows: The networks.
            marked: The one to be framed, by its place.
            title: What is seen.
        """
        shape = tuple((row.label, len(row.k)) for row in rows)
        if shape != self._shape:
            self._shape = shape
            self._lay_out(rows)
        fills, inks, paths = [], [], []
        for row in rows:
            size = 8.5 if len(row.k) < 6 else 34 / len(row.k)
            for group, values in enumerate((row.k, *row.readings)):
                for value, k in zip(values, row.k, strict=True):
                    fill = self.own if group == 0 else self._colour(value, k)
                    fills.append(fill)
                    inks.append(ink_on(fill))
                    text = "–" if value is None else str(value)
                    paths.append(glyph(text if len(row.k) <= self.most else "", size, bold=group == 0))
        self.cells.set_facecolor(fills)
        self.numerals.set_paths(paths)
        self.numerals.set_facecolor(inks)
        self.mark.set_visible(marked is not None)
        if marked is not None:
            self.mark.set_y(marked - 0.46)
        self.frame = shape
        self.title(title)

    def _colour(self, value: int | None, k: int) -> str:
        if value is None:
            return current().missing
        return self.agrees if value == k else self.above if value > k else self.below

    def _lay_out(self, rows: Sequence[AuditRow]) -> None:
        """Cells for so many networks and stages."""
        corners = []
        for y, row in enumerate(rows):
            step = 1 / len(row.k)
            for group in range(len(self.groups)):
                for stage in range(len(row.k)):
                    x = group * (1 + self.apart) + stage * step
                    corners.append([(x, y - 0.36), (x + step, y - 0.36), (x + step, y + 0.36), (x, y + 0.36)])
        self.cells.set_verts(corners)
        self.numerals.set_offsets(np.array(corners).mean(axis=1))
        self.ax.set_ylim(len(rows) - 0.5, -0.5)
        names = [shortened(row.label, self.letters or len(row.label)) for row in rows]
        self.ax.set_yticks(range(len(rows)), names, fontsize="small")
        low, high = self.ax.get_xlim()
        self.mark.set_bounds(low, 0, high - low, 0.92)


@lru_cache(maxsize=256)
def glyph(text: str, size: float, *, bold: bool = False) -> Path:
    """A short text as an outline about the origin, in points: a hundred of them are drawn in the time of one text."""
    if not text:
        return Path(np.zeros((1, 2)))
    path = TextPath((0, 0), text, size=size, prop=FontProperties(weight="bold" if bold else "normal"))
    box = path.get_extents()
    return Path(path.vertices - [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2], path.codes)
