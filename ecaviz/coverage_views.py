"""The artists of the coverage explorer; see :mod:`ecaviz.views`.

A matrix is reduced to the cells that can be seen before it is drawn, and that of a form (:class:`ecaviz.Structure`) is
never formed at all: :func:`share_of_pairs` counts the pairs of a cell in closed form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from .kernel_views import Interaction
from .looks import family_style, shares_map, signed_map, sizes_map
from .texts import DERIVATIVE, ENTRY, ENTRY_SIZE, OWN_ENTRY
from .themes import current
from .views import View, nice_top, set_limits, strip_spines

if TYPE_CHECKING:
    from .structure import Structure

__all__ = ["AllowedPairs", "ChannelRow", "MarkedInteraction", "PartnerCurves", "pool_row", "share_of_pairs"]


# --------------------------------------------------------------------------------------------------------- the numbers


def share_of_pairs(structure: Structure, cells: int) -> tuple[np.ndarray, int]:
    """What :func:`ecaviz.kernel_views.pool` makes of ``structure.matrix`` by the mean, without forming it.

    The pairs of a cell are differences of N(p, q), the number of pairs that can interact with i < p and j < q. For
    a band of reach R that is L(p, q) + L(q, p) − p·q, where L(p, q) counts those with j − i ≤ R.

    Args:
        structure: What a module allows.
        cells: Most cells a side.

    Returns:
        The share of the pairs of each cell that can interact, and the side of a cell in channels.
    """
    channels = structure.channels
    side = -(-channels // cells)
    edges = np.append(np.arange(0, channels, side), channels)
    counts = np.diff(np.diff(_allowed(structure, edges[:, None], edges[None]), axis=0), axis=1)
    lengths = np.diff(edges)
    return counts / (lengths[:, None] * lengths), side


def _allowed(structure: Structure, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """How many pairs can interact with i < p and j < q."""
    channels = structure.channels
    if structure.kernel_size is None:
        size = channels // (structure.groups or 1)
        low, high = np.minimum(p, q), np.maximum(p, q)
        whole = low // size
        return whole * size**2 + (low % size) * np.minimum(high - whole * size, size)
    reach = (structure.kernel_size - 1) // 2
    if structure.padding != "circular":
        return _within(p, q, reach)
    if 2 * reach + 1 >= channels:
        return p * q
    return _within(p, q, reach) + p * q - _within(p, q, channels - reach - 1)


def _within(p: np.ndarray, q: np.ndarray, reach: int) -> np.ndarray:
    """How many (i, j) have i < p, j < q and |i − j| ≤ reach."""

    def ahead(p: np.ndarray, q: np.ndarray) -> np.ndarray:  # j − i ≤ reach
        free = np.clip(q - reach - 1, 0, p)  # rows that end before q
        return free * (free - 1) // 2 + free * (reach + 1) + (p - free) * q

    return ahead(p, q) + ahead(q, p) - p * q


def pool_row(row: np.ndarray, cells: int) -> tuple[np.ndarray, int]:
    """A row of C numbers at no more than ``cells``, and how many neighbours stand behind each.

    Of neighbours the one that is largest in absolute value, with its sign.
    """
    side = -(-len(row) // cells)
    if side == 1:
        return row, 1
    starts = np.arange(0, len(row), side)
    highest, lowest = np.maximum.reduceat(row, starts), np.minimum.reduceat(row, starts)
    return np.where(highest >= -lowest, highest, lowest), side


# -------------------------------------------------------------------------------------------------------- the matrices


class MarkedInteraction(Interaction):
    """A C×C matrix with the row and the column of one channel marked, by triangles at the edges.

    Args:
        ax: Where to draw.
        kind: As for :class:`ecaviz.kernel_views.Interaction`; it can be changed later on.
        label: Of the colour bar.
    """

    labels = {"signed": "J = ∂z/∂y", "size": "|J|, J = ∂z/∂y", "share": "share of pairs"}  # noqa: RUF012

    def __init__(self, ax: Axes, kind: str = "share", *, label: str = ""):
        super().__init__(ax, kind, label=label or self.labels[kind])
        look = {
            "ls": "",
            "ms": 7,
            "mfc": current().ink,
            "mec": current().paper,
            "mew": 0.8,
            "clip_on": False,
            "zorder": 6,
        }
        across, down = ax.get_yaxis_transform(), ax.get_xaxis_transform()
        self.marks = [
            ax.plot([at], [0], marker=marker, transform=transform, **look)[0]
            for at, marker, transform in ((0.02, ">", across), (0.98, "<", across))
        ] + [
            ax.plot([0], [at], marker=marker, transform=transform, **look)[0]
            for at, marker, transform in ((0.98, "v", down), (0.02, "^", down))
        ]
        self.moving += self.marks
        self.light += self.marks
        self._values: np.ndarray | None = None
        self._axes = ("channel j (descriptor y)", "channel i (gate moved)")

    def show(
        self,
        values: np.ndarray,
        channels: int,
        position: int,
        *,
        kind: str = "share",
        limit: float | None = None,
        label: str = "",
        ordered: bool = False,
        title: str = "",
    ) -> None:
        """Show another matrix, or another channel of the same.

        Args:
            values: The matrix, pooled or not.
            channels: C.
            position: Where the marked channel stands, 0…C−1.
            kind: "signed", "size" or "share".
            limit: End of the colour scale; None for the largest absolute value.
            label: Of the colour bar.
            ordered: Whether rows and columns are positions in another order.
            title: What is seen.
        """
        if kind != self.kind:
            self.kind = kind
            self.image.set_cmap({"signed": signed_map(), "size": sizes_map(), "share": shares_map()}[kind])
            self._values = None
        bar, label = self.image.colorbar, label or self.labels[kind]
        if bar.ax.get_ylabel() != label:
            bar.set_label(label)
        names = ("channel j, by position", "channel i, by position") if ordered else self._axes
        if self.ax.get_xlabel() != names[0]:
            self.ax.set_xlabel(names[0])
            self.ax.set_ylabel(names[1])
        if values is not self._values:
            self._values = values
            self.update(values, channels, limit=limit, title=title)
        self.frame = (kind, channels, tuple(self.image.get_clim()), label, ordered)
        self.title(title)
        across, down = self.marks[:2], self.marks[2:]
        if list(across[0].get_ydata()) != [position]:
            for mark in across:
                mark.set_ydata([position])
            for mark in down:
                mark.set_xdata([position])


class AllowedPairs(MarkedInteraction):
    """Which pairs an ECA allows; in the empty corner the first channels pair by pair, where a cell holds many pairs.

    Args:
        ax: Where to draw.
        corner: Channels of the corner.
    """

    def __init__(self, ax: Axes, corner: int = 12):
        super().__init__(ax, "share")
        self.image.set_norm(PowerNorm(0.5, 0, 1))  # a diagonal of single pairs is still seen where a cell holds many
        self.corner = corner
        inset = ax.inset_axes((0.06, 0.13, 0.30, 0.30))
        inset.set(xticks=[], yticks=[])
        self.zoom = inset.imshow(np.zeros((1, 1)), cmap=shares_map(), vmin=0, vmax=1, interpolation="nearest")
        self.zoom.set_extent((-0.5, corner - 0.5, corner - 0.5, -0.5))
        self.note = ax.text(
            0.06, 0.11, f"first {corner} channels", transform=ax.transAxes, fontsize="x-small", va="top"
        )
        self._zoomed: tuple | None = None
        self._corner = [inset, self.zoom, self.note, *inset.spines.values()]
        for artist in self._corner:
            artist.set_visible(False)
        self.moving += self._corner[1:]

    def show_structure(self, structure: Structure, values: np.ndarray, side: int, position: int, *, title: str) -> None:
        """Show another ECA.

        Args:
            structure: The ECA.
            values: Its pairs, pooled.
            side: Side of a cell in channels.
            position: The channel to mark.
            title: What is seen.
        """
        label = f"share of {side}×{side} pairs" if side > 1 else "1: the pair can interact"
        self.show(values, structure.channels, position, label=label, title=title)
        reach = (structure.kernel_size - 1) // 2
        zoomed = (reach,) if side > 1 and reach < min(self.corner - 1, 0.15 * structure.channels) else None
        if zoomed != self._zoomed:
            self._zoomed = zoomed
            i = np.arange(self.corner)
            self.zoom.set_data((np.abs(i[:, None] - i) <= reach).astype(float))
            for artist in self._corner:
                artist.set_visible(zoomed is not None)
        self.frame = (*self.frame, zoomed is not None)


# ------------------------------------------------------------------------------------------------------------- one row


class ChannelRow(View):
    """Whom one gate listens to: the channels that an ECA and an SE allow it, and the entries J_ij of a trained one.

    Args:
        ax: Where to draw.
        trained: Whether there is a trained site.
        cells: Most columns drawn.
    """

    def __init__(self, ax: Axes, *, trained: bool = True, cells: int = 512):
        super().__init__(ax)
        self.cells = cells
        eca, se = family_style("eca"), family_style("se")
        self.span = ax.axvspan(0, 1, fc=eca.colour, ec=eca.colour, alpha=0.3, lw=1.2, zorder=1)
        self.all = ax.add_patch(
            Rectangle((0, 0.93), 1, 0.07, fc=current().paper, ec=se.colour, hatch=se.hatch, lw=0.8, zorder=1)
        )
        self.all.set_transform(ax.get_xaxis_transform())
        self.zero = ax.axhline(0, color=current().ink, lw=0.8, zorder=2)
        self.bars = ax.stairs([0.0], [0, 1], fill=True, color=current().hues["coal"], lw=0, zorder=3)
        mark = {"ls": "", "mec": current().paper, "mfc": current().ink, "mew": 0.8, "zorder": 5, "clip_on": False}
        self.here = ax.plot([0], [0], marker="^", ms=8, transform=ax.get_xaxis_transform(), **mark)[0]
        self.own = ax.plot([0], [0], marker="D", ms=6.5, **mark)[0]
        ax.set_ylabel(DERIVATIVE if trained else "")
        strip_spines(ax)
        handles = [self.span, self.all, self.here]
        labels = ["ECA may listen", "SE may listen", "channel i"]
        if trained:
            handles += [Line2D([], [], color=current().hues["coal"], lw=5), self.own]
            labels += [f"trained {ENTRY}", f"its own {OWN_ENTRY}"]
        else:
            self.bars.set_visible(False)
            self.own.set_visible(False)
            self.zero.set_visible(False)
            ax.set_yticks([])
            ax.set_ylim(-1, 1)
            ax.spines["left"].set_visible(False)
        self.legend(handles, labels, len(handles))
        self.moving += [self.span, self.all, self.zero, self.bars, self.here, self.own]
        self._said: tuple | None = None
        self._row: np.ndarray | None = None

    def update(
        self,
        channels: int,
        channel: int,
        span: tuple[int, int],
        *,
        row: np.ndarray | None = None,
        own: int = 0,
        top: float = 1.0,
        title: str = "",
    ) -> None:
        """Show another row.

        Args:
            channels: C of what is allowed.
            channel: i, of those C.
            span: First and last channel that the ECA's gate i may listen to.
            row: The trained J_ij, j = 0…; None without a trained site.
            own: i in that row.
            top: Room for the largest absolute entry.
            title: What is seen.
        """
        said = channels, channel, span, own, top
        if said == self._said and row is self._row:
            self.title(title)
            return
        self._said, self._row = said, row
        wide = channels if row is None else max(channels, len(row))
        self.span.set_x(span[0] - 0.5)
        self.span.set_width(span[1] - span[0] + 1)
        self.all.set_x(-0.5)
        self.all.set_width(channels)
        self.here.set_xdata([channel])
        name = "channel j"
        if row is not None:
            values, side = pool_row(row, self.cells)
            self.bars.set_data(values, np.minimum(np.arange(len(values) + 1) * side, len(row)) - 0.5)
            self.own.set_data([own], [row[own]])
            name += f" (trained: largest {ENTRY_SIZE} of {side} neighbours)" if side > 1 else ""
            height = nice_top(1.08 * top)
            if self.ax.get_ylim() != (-height, height):
                set_limits(self.ax, y=(-height, height))
                self.ax.set_yticks(
                    ticks := [-height, -height / 2, 0, height / 2, height], [f"{t:g}".replace("-", "−") for t in ticks]
                )
        if self.ax.get_xlabel() != name:
            self.ax.set_xlabel(name)
        margin = 0.006 * wide
        limits = (-0.5 - margin, wide - 0.5 + margin)
        if tuple(self.ax.get_xlim()) != limits:
            set_limits(self.ax, x=limits)
            ticks = np.linspace(0, wide, 9)[:-1].astype(int).tolist() if wide >= 16 else list(range(wide))
            self.ax.set_xticks([*ticks, wide - 1] if wide >= 16 else ticks)
        self.frame = (wide, name, tuple(self.ax.get_ylim()))
        self.title(title)


class PartnerCurves(View):
    """Partners of every gate, gates sorted: those that an ECA and an SE allow, and those that a trained one has.

    Args:
        ax: Where to draw.
        trained: Whether there is a trained site.
        points: Most points of a curve.
    """

    low = -0.8  # of the axis, log2: gates that nothing moves lie at its end

    def __init__(self, ax: Axes, *, trained: bool = True, points: int = 129):
        super().__init__(ax)
        self.points = points
        eca, se = family_style("eca"), family_style("se")
        self.lines = {  # gates in per cent, log2 of their partners
            "eca": ax.plot([], [], color=eca.colour, ls=eca.line, lw=2)[0],
            "se": ax.plot([], [], color=se.colour, ls=se.line, lw=2)[0],
            "trained": ax.plot([], [], color=current().ink, ls="-.", lw=1.6)[0],
        }
        ring = {"ls": "", "ms": 9, "mfc": "none", "mec": current().ink, "mew": 1.5, "clip_on": False, "zorder": 5}
        self.rings = {name: ax.plot([], [], marker="o", **ring)[0] for name in ("eca", "trained")}
        ax.set_xlim(0, 100)
        ax.set_xlabel("gates, sorted (%)")
        ax.set_ylabel("partners of a gate")
        strip_spines(ax)
        handles = [self.lines["eca"], self.lines["se"], self.lines["trained"], self.rings["eca"]]
        labels = ["ECA, allowed", "SE, allowed", "trained", "gate i"]
        if not trained:
            del handles[2], labels[2]
        self.lines["trained"].set_visible(trained)
        self.rings["trained"].set_visible(trained)
        self.legend(handles, labels, 2)
        self.moving += [*self.lines.values(), *self.rings.values()]
        self.light += self.rings.values()
        self._seen: dict[str, tuple] = {}

    def update(
        self,
        eca: np.ndarray,
        channel: int,
        channels: int,
        *,
        trained: np.ndarray | None = None,
        own: int = 0,
        title: str = "",
    ) -> None:
        """Show other partners.

        Args:
            eca: Partners that the ECA allows, C numbers.
            channel: i.
            channels: Partners that the SE allows, to every gate.
            trained: Partners realised, one a gate; None without a trained site.
            own: i among those gates.
            title: What is seen.
        """
        self._curve("eca", eca, channel)
        if list(self.lines["se"].get_ydata()) != [np.log2(channels)] * 2:
            self.lines["se"].set_data([0, 100], [np.log2(channels)] * 2)
        most = channels
        if trained is not None:
            self._curve("trained", trained, own)
            most = max(most, len(trained))
        top = int(np.ceil(np.log2(most)))
        if self.ax.get_ylim() != (self.low, top + 0.4):
            set_limits(self.ax, y=(self.low, top + 0.4))
            ticks = range(0, top + 1, 1 if top < 5 else 2)
            self.ax.set_yticks(list(ticks), [f"{2**t:,}" for t in ticks])
        self.frame = (top,)
        self.title(title)

    def _curve(self, name: str, partners: np.ndarray, channel: int) -> None:
        if self._seen.get(name, (None,))[0] is not partners:
            logs = np.log2(np.maximum(partners, 2**self.low))
            order = np.argsort(logs, kind="stable")
            place = np.empty(len(order))
            place[order] = np.linspace(0, 100, len(order)) if len(order) > 1 else 50
            at = np.unique(np.linspace(0, len(order) - 1, self.points).round().astype(int))
            self.lines[name].set_data(place[order][at], logs[order][at])
            self._seen[name] = partners, logs, place
        _, logs, place = self._seen[name]
        at = [place[channel]], [logs[channel]]
        if tuple(map(list, self.rings[name].get_data())) != tuple(map(list, at)):
            self.rings[name].set_data(*at)
