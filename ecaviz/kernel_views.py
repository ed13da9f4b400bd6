"""The artists behind the plots of kernels and of interaction matrices; see :mod:`ecaviz.views`."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import FancyArrowPatch, Rectangle

from .looks import family_style, shares_map, signed_map, sizes_map
from .themes import current
from .views import FULL, View, bin_of, colour_bar, nice_top, set_limits, strip_spines

__all__ = ["BottleneckShape", "GatePairs", "Interaction", "KernelStems", "pool"]


def pool(matrix: np.ndarray, cells: int, reduce: str = "max") -> tuple[np.ndarray, int]:
    """A square matrix at no more than cells×cells, and the side of the block behind each cell.

    Args:
        matrix: C×C.
        cells: Most cells a side.
        reduce: "max": of each block the entry that is largest in absolute value, with its sign; "mean": the mean.

    Raises:
        ValueError: ``reduce`` is neither.
    """
    if reduce not in ("max", "mean"):
        raise ValueError(f'plots: reduce must be "max" or "mean", got {reduce!r}.')
    size = len(matrix)
    side = -(-size // cells)
    if side == 1:
        return matrix, 1
    count = -(-size // side)
    starts = np.arange(0, size, side)
    if reduce == "mean":
        sums = np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1)
        lengths = np.diff(np.append(starts, size))
        return sums / (lengths[:, None] * lengths), side
    padded = np.zeros((count * side, count * side), dtype=matrix.dtype)
    padded[:size, :size] = matrix
    blocks = padded.reshape(count, side, count, side).swapaxes(1, 2).reshape(count, count, side * side)
    highest, lowest = blocks.max(axis=2), blocks.min(axis=2)
    return np.where(highest >= -lowest, highest, lowest), side


# ------------------------------------------------------------------------------------------------------ kernels: views


class KernelStems(View):
    """The weights of a kernel by offset, and of what takes its place.

    Args:
        ax: Where to draw.
        name: What that is called in the legend.
        named: Whether the legend is there from the start; else where something takes the kernel's place.
    """

    def __init__(self, ax: Axes, name: str = "resized", *, named: bool = False):
        super().__init__(ax)
        self.name, self.named = name, named
        eca = family_style("eca")
        ax.axhline(0, color=current().ink, lw=0.8)
        self.stems = ax.vlines([], [], [], color=eca.colour, lw=2.5, alpha=0.55)
        self.learned = ax.plot([], [], ls="", marker="o", ms=8, color=eca.colour, label="learned")[0]
        self.resized = ax.plot([], [], ls="", marker="x", ms=9, mew=2, color=current().ink, label=name)[0]
        self.span = ax.axvspan(-0.5, 0.5, color=current().ink, alpha=0.07, lw=0, zorder=0)
        ax.set_xlabel("offset (channels)")
        ax.set_ylabel("weight w")
        strip_spines(ax)
        self.moving += [self.span, self.stems, self.learned, self.resized]
        self._legend: bool | None = None
        if named:
            self.legend([self.learned, self.resized], ["learned", name], 2)

    def update(
        self,
        kernel: np.ndarray,
        resized: np.ndarray | None = None,
        *,
        reach: int | None = None,
        top: float | None = None,
        title: str = "",
    ) -> None:
        """Show another kernel.

        Args:
            kernel: k weights, k odd.
            resized: The same at another k, or None.
            reach: Offsets to show to either side; None for as many as there are.
            top: Largest absolute weight that the axis has room for; None for the largest there is.
            title: What is seen.
        """
        offsets = np.arange(len(kernel)) - len(kernel) // 2
        self.stems.set_segments([[(o, 0), (o, w)] for o, w in zip(offsets, kernel, strict=True)])
        self.learned.set_data(offsets, kernel)
        shown = kernel if resized is None else resized
        self.resized.set_data(
            [] if resized is None else np.arange(len(shown)) - len(shown) // 2, shown[:0] if resized is None else shown
        )
        half = len(shown) // 2 + 0.5
        self.span.set_x(-half)
        self.span.set_width(2 * half)
        self.span.set_visible(resized is not None)
        reach = max(len(kernel), len(shown)) // 2 if reach is None else reach
        height = nice_top(1.1 * (np.abs(kernel).max() if top is None else top))
        set_limits(self.ax, x=(-reach - 0.7, reach + 0.7), y=(-height, height))
        step = max(1, -(-reach // 5))
        ticks = range(-(reach // step) * step, reach + 1, step)
        if list(self.ax.get_xticks()) != list(ticks):
            self.ax.set_xticks(list(ticks))
        self.title(title)
        self.frame = (reach, height, resized is not None)
        if not self.named and self._legend != (resized is not None):
            self._legend = resized is not None
            if self._legend:
                self.legend([self.learned, self.resized], ["learned", self.name], 2)


class GatePairs(View):
    """Gates against gates: the density of (trained ω, other ω) on a square, and the line where both agree.

    Args:
        ax: Where to draw.
        bins: Bins a side.
    """

    def __init__(self, ax: Axes, bins: int = 64):
        super().__init__(ax)
        self.bins = bins
        self.image = ax.imshow(
            np.full((bins, bins), np.nan),
            origin="lower",
            extent=(0, 1, 0, 1),
            cmap=sizes_map(),
            norm=LogNorm(1e-3, 100),
            interpolation="nearest",
        )
        self.line = ax.plot([0, 1], [0, 1], color=family_style("eca").colour, lw=1.2)[0]
        colour_bar(ax, self.image, "share of gates in a cell (%)")
        ax.set_xlabel("gate ω of the trained kernel")
        self.moving += [self.image, self.line]

    def update(
        self,
        original: np.ndarray,
        other: np.ndarray,
        *,
        limits: tuple[float, float] = FULL,
        label: str = "gate ω of the other kernel",
        title: str = "",
    ) -> None:
        """Show other gates.

        Args:
            original: Gates of the trained kernel, any shape.
            other: Those of the other kernel, the same shape.
            limits: Ends of both axes.
            label: Of the vertical axis.
            title: What is seen.

        Raises:
            ValueError: The shapes differ.
        """
        if original.shape != other.shape:
            raise ValueError(
                f"gates_by_kernel: gates of one shape were expected, got {original.shape} and {other.shape}."
            )
        x, y = (bin_of(np.asarray(part).ravel(), self.bins, limits) for part in (original, other))
        counts = np.bincount(y * self.bins + x, minlength=self.bins**2).reshape(self.bins, self.bins)
        share = 100 * counts / max(counts.sum(), 1)
        self.image.set_data(np.where(counts > 0, share, np.nan))
        if tuple(self.image.get_extent()) != (*limits, *limits):
            self.image.set_extent((*limits, *limits))
            self.line.set_data(limits, limits)
        set_limits(self.ax, x=limits, y=limits)
        if self.ax.get_ylabel() != label:
            self.ax.set_ylabel(label)
        self.frame = (limits, label)
        self.title(title)


# -------------------------------------------------------------------------------------------------- interaction: views


class Interaction(View):
    """A C×C matrix: row = the gate that is moved, column = the channel whose descriptor moves it.

    Args:
        ax: Where to draw.
        kind: "signed" (diverging, centred at zero), "size" (0 and above) or "share" (0…1).
        colorbar: Whether to add a colour bar.
        label: Of the colour bar.
    """

    def __init__(self, ax: Axes, kind: str = "signed", *, colorbar: bool = True, label: str = ""):
        super().__init__(ax)
        self.kind = kind
        colours = {"signed": signed_map(), "size": sizes_map(), "share": shares_map()}[kind]
        self.image = ax.imshow(np.zeros((1, 1)), cmap=colours, vmin=0, vmax=1, interpolation="auto")
        ax.set_xlabel("channel j (descriptor y)")
        ax.set_ylabel("channel i (gate moved)")
        self.moving.append(self.image)
        if colorbar:
            colour_bar(ax, self.image, label or {"signed": "∂z/∂y", "size": "|∂z/∂y|", "share": "share of pairs"}[kind])

    def update(self, values: np.ndarray, channels: int, *, limit: float | None = None, title: str = "") -> None:
        """Show another matrix.

        Args:
            values: The matrix, pooled or not.
            channels: C, for the axes.
            limit: End of the colour scale; None for the largest absolute value.
            title: What is seen.
        """
        self.image.set_data(values)
        if self.kind != "share":
            limit = limit or float(np.abs(values).max()) or 1.0
            self.image.set_clim(-limit if self.kind == "signed" else 0, limit)
        end = channels - 0.5
        if self.image.get_extent() != [-0.5, end, end, -0.5]:
            self.image.set_extent((-0.5, end, end, -0.5))
            ticks = np.linspace(0, channels, 5)[:-1].astype(int) if channels >= 8 else np.arange(channels)
            ticks = [*ticks.tolist(), channels - 1] if channels >= 8 else ticks.tolist()
            self.ax.set_xticks(ticks)
            self.ax.set_yticks(ticks)
            set_limits(self.ax, x=(-0.5, end), y=(end, -0.5))
        self.frame = (channels, limit)
        self.title(title)


class BottleneckShape(View):
    """C → C/r → C drawn to scale: three bars as tall as they have numbers, and what joins them."""

    def __init__(self, ax: Axes):
        super().__init__(ax)
        style = family_style("se")
        self.bars = [
            ax.add_patch(
                Rectangle((x, 0), 0.12, 1, fc=style.colour, ec=current().ink, hatch=style.hatch, alpha=0.85, lw=0.8)
            )
            for x in (0.0, 0.94, 1.88)
        ]
        self.joins = [ax.fill([0, 0, 0, 0], [0, 0, 0, 0], color=style.colour, alpha=0.18, lw=0)[0] for _ in range(2)]
        self.texts = [ax.text(x + 0.06, 0, "", ha="center", va="bottom") for x in (0.0, 0.94, 1.88)]
        self.arrows = [
            ax.add_patch(
                FancyArrowPatch((x, 0), (x + 0.5, 0), arrowstyle="-|>", mutation_scale=12, color=current().ink)
            )
            for x in (0.28, 1.22)
        ]
        self.weights = [ax.text(x, -0.06, "", ha="center", va="top", fontsize="small") for x in (0.53, 1.47)]
        ax.set_xlim(-0.45, 2.45)
        ax.set_ylim(-0.62, 0.74)
        ax.set_axis_off()
        ax.spines[:].set_visible(False)
        self.frame = ()
        self._size: tuple[int, int] | None = None
        self.moving += [*self.joins, *self.bars, *self.arrows, *self.texts, *self.weights]

    def update(self, channels: int, hidden: int, *, title: str = "") -> None:
        """Show another shape.

        Args:
            channels: C.
            hidden: C/r.
            title: What is seen.
        """
        self.title(title)
        if self._size == (channels, hidden):
            return
        self._size = channels, hidden
        for bar, text, size, name in zip(
            self.bars, self.texts, (channels, hidden, channels), ("y", "hidden", "z"), strict=True
        ):
            height = size / channels
            bar.set_y(-height / 2)
            bar.set_height(height)
            text.set_text(f"{name}: {size}")
            text.set_y(height / 2 + 0.03)
        low, half = hidden / channels / 2, 0.5
        self.joins[0].set_xy([(0.12, -half), (0.12, half), (0.94, low), (0.94, -low)])
        self.joins[1].set_xy([(1.06, -low), (1.06, low), (1.88, half), (1.88, -half)])
        for text, name, size in zip(
            self.weights, ("W1", "W2"), (f"{hidden}×{channels}", f"{channels}×{hidden}"), strict=True
        ):
            text.set_text(f"{name}\n{size}")
