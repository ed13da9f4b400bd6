"""Pictures that explain operations by real numbers: pooling, depth-wise convolution, sigmoid and softmax.

Reached as ``ecaviz.plots.<name>``. Each takes ``figure=None`` and returns the figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from .figures import picture
from .looks import ACTIVATION_MAP, MOST_SERIES, Style, series_styles, signed_map
from .texts import names_as_written
from .themes import current
from .views import Picture, View, colour_bar, numbers, strip_spines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["activations", "convolutions", "poolings"]

MOST_CONNECTED = 8
"""The most maps whose connections can be followed with the eye."""
MOST_NAMED = 12
"""The most channels that are all named at an axis."""
LEAST_GATE = 1e-12
"""Gates below are drawn here: a logarithmic axis has no place for 0."""


def _figure(figure: Figure | None, width: float, height: float) -> Figure:
    return Picture(figsize=(width, height), layout="constrained") if figure is None else figure


def _count(value: object, what: str, low: int, high: int, why: str) -> int:
    """A whole number in a range.

    Raises:
        ValueError: It is none, or beyond the range.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ValueError(f"{what} must be a whole number from {low} to {high} ({why}), got {value!r}.")
    return int(value)


def _finite(values: np.ndarray, what: str) -> None:
    """Raise a ValueError if a number is infinite or none."""
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"{what} must be finite; {bad} of {values.size} numbers are NaN or infinite.")


# ------------------------------------------------------------------------------------------------------------- pooling


@names_as_written
def poolings(
    x: Tensor,
    channels: int = 4,
    *,
    reduced: int | None = None,
    image: Tensor | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Three ways to squeeze the maps of one image: average, maximum and second-order pooling.

    At the left are a few of the maps, those that vary most over the positions; in the middle what average and maximum
    pooling make of all C of them, one number a map, on one scale; at the right what second-order pooling makes of them,
    the covariance over the M = HW positions, Σ = X(I/M − 11ᵀ/M²)Xᵀ, C×C. Its diagonal is each map's variance.

    Args:
        x: Feature maps of one image, C×H×W.
        channels: How many maps to draw.
        reduced: Take the covariance of that many maps only, those that vary most; None for all C. (GSoP reduces by a
            convolution that is learned; here maps are left out.)
        image: The image itself, uint8 3×H×W, drawn first.
        figure: Where to draw; None for a new one.

    Raises:
        ValueError: x is no C×H×W of finite numbers, or there are not that many maps.

    Source: second-order pooling after Gao et al., "Global Second-order Pooling Convolutional Networks", CVPR 2019.
    """
    maps = numbers(x)
    if maps.ndim != 3 or maps.size == 0:
        more = " Take one image of the batch, x[0]." if maps.ndim == 4 else ""
        raise ValueError(f"poolings: feature maps C×H×W of one image were expected, got {maps.shape}.{more}")
    _finite(maps, "poolings: feature maps")
    C, H, W = maps.shape
    channels = _count(channels, "poolings: channels", 1, C, f"there are {C} maps")
    reduced = C if reduced is None else _count(reduced, "poolings: reduced", 1, C, f"there are {C} maps")
    flat = maps.reshape(C, -1)
    order = np.argsort(-flat.var(axis=1), kind="stable")
    drawn, kept = np.sort(order[:channels]), np.sort(order[:reduced])
    figure = _figure(figure, 12, 4.6)
    figure.suptitle(
        f"one image, {C} feature maps of {H}×{W}, and three ways to pool them", x=0.01, ha="left", fontsize="large"
    )
    parts = figure.subfigures(1, 3, wspace=0.02, width_ratios=(1.25 if image is None else 1.55, 1.15, 1.25))
    _drawn_maps(parts[0], maps, drawn, image)
    axes = parts[1].subplots(2, 1, sharex=True, sharey=True)
    for ax, values, what, style in zip(
        axes,
        (flat.mean(axis=1), flat.max(axis=1)),
        ("average pooling: the mean of each map", "maximum pooling: its largest number"),
        series_styles(),
        strict=False,
    ):
        _pooled(ax, values, drawn, style)
        ax.set_title(what, loc="left", fontsize="medium")
    axes[1].set_xlabel("channel index (marked: the maps drawn)")
    _covariance(parts[2].subplots(), flat[kept], kept, drawn, C)
    return figure


def _drawn_maps(part, maps: np.ndarray, drawn: np.ndarray, image: Tensor | None) -> None:
    columns = int(np.ceil(np.sqrt(len(drawn))))
    rows = -(-len(drawn) // columns)
    wide = [] if image is None else [1.0]
    grid = part.add_gridspec(rows, len(wide) + columns, width_ratios=[*wide, *[1] * columns])
    what = "the map that varies most" if len(drawn) == 1 else f"the {len(drawn)} maps that vary most"
    part.suptitle(what if image is None else f"the image, and {what}", x=0.02, ha="left", fontsize="medium")
    if image is not None:
        ax = part.add_subplot(grid[:, 0])
        ax.imshow(picture(image))
        ax.set_xlabel("image", fontsize="small")
    low, high = min(float(maps[drawn].min()), 0.0), float(maps[drawn].max())
    axes = []
    for i, channel in enumerate(drawn):
        ax = part.add_subplot(grid[i // columns, len(wide) + i % columns])
        shown = ax.imshow(maps[channel], cmap=ACTIVATION_MAP, vmin=low, vmax=high, interpolation="nearest")
        mean, largest = maps[channel].mean(), maps[channel].max()
        text = f"channel {channel}\nmean {mean:.2g}\nmaximum {largest:.2g}"
        ax.set_xlabel(text.replace("-", "−"), fontsize="x-small")
        axes.append(ax)
    for ax in part.axes:
        ax.set_xticks([])
        ax.set_yticks([])
    bar = part.colorbar(shown, ax=axes, orientation="horizontal", fraction=0.06, pad=0.03, aspect=30)
    bar.set_label("activation")


def _pooled(ax: Axes, values: np.ndarray, drawn: np.ndarray, style: Style) -> None:
    index = np.arange(len(values))
    width = min(max(150 / len(values), 0.5), 10)  # points: seven tenths of what a channel has, where C is not large
    ax.vlines(index, 0, values, color=style.colour, lw=width, alpha=0.55)
    ax.plot(drawn, values[drawn], ls="", marker=style.marker, ms=6, color=style.colour, mec=current().ink)
    ax.axhline(0, color=current().ink, lw=0.8)
    ax.set_ylabel("descriptor y")
    ax.set_xlim(-0.8, len(values) - 0.2)
    ax.xaxis.get_major_locator().set_params(integer=True)
    strip_spines(ax)


def _covariance(ax: Axes, flat: np.ndarray, kept: np.ndarray, drawn: np.ndarray, channels: int) -> None:
    centred = flat - flat.mean(axis=1, keepdims=True)
    covariance = centred @ centred.T / flat.shape[1]
    limit = float(np.abs(covariance).max()) or 1.0
    shown = ax.imshow(covariance, cmap=signed_map(), vmin=-limit, vmax=limit, interpolation="nearest")
    colour_bar(ax, shown, "covariance")
    everyone = len(kept) <= MOST_NAMED
    named = kept if everyone else drawn[np.isin(drawn, kept)]
    places = np.searchsorted(kept, named)
    if everyone:
        ax.set_xticks(places, named, rotation=90 if named.max() > 99 else 0, fontsize="small")
        ax.set_yticks(places, named, fontsize="small")
        ax.set_xlabel("channel")
        ax.set_ylabel("channel")
    else:
        ax.set_xticks(places, [""] * len(places))
        ax.set_yticks(places, _joined(places, named, len(kept) / 14), fontsize="small")
        ax.set_xlabel("channel, in the same order")
        ax.set_ylabel("channel (the maps drawn are named)")
    which = "all maps" if len(kept) == channels else "the maps that vary most"
    title = f"second-order pooling: covariances,\n{len(kept)}×{len(kept)}, of {which}"
    ax.set_title(title, loc="left", fontsize="medium")


def _joined(places: np.ndarray, names: np.ndarray, least: float) -> list[str]:
    """A label for each tick; ticks nearer to each other than ``least`` have theirs together, at the first of them."""
    labels: list[str] = []
    first, at = -np.inf, 0
    for i, (place, name) in enumerate(zip(places, names, strict=True)):
        if place - first < least:
            labels[at] += f", {name}"
            labels.append("")
        else:
            first, at = place, i
            labels.append(str(name))
    return labels


# --------------------------------------------------------------------------------------------------------- convolution


@names_as_written
def convolutions(channels: int = 4, kernel: int = 3, *, figure: Figure | None = None) -> Figure:
    """An ordinary convolution beside a depth-wise one: which input map feeds which output map, and what that costs.

    Above, a line for each pair of maps with a k×k kernel between them: C×C of them in the ordinary convolution, whose
    output maps are sums over all input maps; C in the depth-wise one, whose output maps come from their own input map.
    Beneath, the same as a C×C matrix, output by input, with the number of weights of each pair. (Full or diagonal: so
    differ SE-Var3 and SE-Var2, too, with one weight a pair.)

    Args:
        channels: C, the number of maps going in and coming out.
        kernel: k, the side of a kernel.
        figure: Where to draw; None for a new one.

    Raises:
        ValueError: ``channels`` or ``kernel`` is no whole number, or out of range.
    """
    C = _count(channels, "convolutions: channels", 1, MOST_CONNECTED, "more lines cannot be told apart")
    k = _count(kernel, "convolutions: kernel", 1, 99, "the side of a kernel")
    figure = _figure(figure, 9, 5.4 + 0.3 * max(C, 4))
    figure.suptitle(f"which map feeds which: C = {C} maps, kernels of {k}×{k}", x=0.01, ha="left", fontsize="large")
    axes = figure.subplots(2, 2, height_ratios=(1, 1.1))
    kinds = (
        ("ordinary", "each output map a sum over all input maps", np.ones((C, C), dtype=int), f"C·C·k·k = {C}·{C}"),
        ("depth-wise", "each output map from its own input map", np.eye(C, dtype=int), f"C·k·k = {C}"),
    )
    for column, (name, meaning, feeds, product) in enumerate(kinds):
        pairs = int(feeds.sum())
        title = f"{name} convolution, {_many(pairs, 'connection')}:\n{meaning}"
        _connections(axes[0, column], feeds)
        axes[0, column].set_title(title, loc="left", fontsize="medium")
        title = f"{product}·{k}·{k} = {_many(pairs * k * k, 'weight')}"
        _feeding(axes[1, column], feeds, k)
        axes[1, column].set_title(title, loc="left", fontsize="medium")
    return figure


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _connections(ax: Axes, feeds: np.ndarray) -> None:
    """Two columns of squares, the input maps and the output maps, and a line where one feeds the other."""
    C, side, right = len(feeds), 0.7, 0.62 * max(len(feeds), 4)
    looks = series_styles()
    for i in range(C):
        style = looks[i % MOST_SERIES]
        for o in np.flatnonzero(feeds[:, i]):
            ax.plot([side / 2, right - side / 2], [i, o], color=style.colour, ls=style.line, lw=1.4, zorder=1)
    for i in range(C):
        style = looks[i % MOST_SERIES]
        own = feeds[i].sum() == 1
        for x, colour, name in ((0, style.colour, "x"), (right, style.colour if own else None, "z")):
            face = current().paper if colour is None else to_rgba(colour, 0.3)
            square = Rectangle(
                (x - side / 2, i - side / 2), side, side, fc=current().paper, ec=current().ink, lw=1.0, zorder=2
            )
            ax.add_patch(square)
            ax.add_patch(Rectangle(square.get_xy(), side, side, fc=face, ec=current().ink, lw=1.0, zorder=3))
            ax.text(x, i, f"{name}{i + 1}", ha="center", va="center", fontsize="small", color=current().ink, zorder=4)
    for x, name in ((0, "input maps"), (right, "output maps")):
        ax.text(x, C - 0.4, name, ha="center", va="top", fontsize="small", color=current().ink)
    ax.set_xlim(-1.1, right + 1.1)
    ax.set_ylim(C + 0.1, -0.6)
    ax.set_aspect("equal")
    ax.set_axis_off()


def _feeding(ax: Axes, feeds: np.ndarray, k: int) -> None:
    C = len(feeds)
    shades = ListedColormap([current().paper, to_rgba(current().ink, 0.25)])
    ax.imshow(feeds, cmap=shades, vmin=0, vmax=1, interpolation="nearest")
    for o, i in np.argwhere(feeds):
        ax.text(
            i, o, f"{k * k}", ha="center", va="center", fontsize="small" if k < 10 else "x-small", color=current().ink
        )
    names = [str(i + 1) for i in range(C)]
    ax.set_xticks(range(C), [f"x{name}" for name in names], fontsize="small")
    ax.set_yticks(range(C), [f"z{name}" for name in names], fontsize="small")
    ax.set_xticks(np.arange(C + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(C + 1) - 0.5, minor=True)
    ax.grid(which="minor", color=current().hues["silver"], lw=0.6)
    ax.tick_params(which="both", length=0)
    ax.set_xlabel("input map")
    ax.set_ylabel("output map")


# ---------------------------------------------------------------------------------------------------------- activation


@names_as_written
def activations(logits: Tensor, *, figure: Figure | None = None) -> Figure:
    """Sigmoid and softmax of the same logits: what the gates of a layer would be with either.

    A sigmoid looks at one logit at a time and gives gates about 0.5; a softmax divides 1 among all channels, so its
    gates are about 1/C and maps multiplied by them all but vanish. ECA's gate is the sigmoid (Eq. 9 of its paper, and
    its code). Gates below 10⁻¹² are drawn there; the sums are those of all.

    Args:
        logits: C numbers, z of one image: a row of ``record.logit``.
        figure: Where to draw; None for a new one.

    Raises:
        ValueError: The logits are not C finite numbers, C at least 2.
    """
    z = numbers(logits)
    if z.ndim != 1 or len(z) < 2:
        more = " Take the logits of one image, record.logit[0]." if z.ndim == 2 else ""
        raise ValueError(f"activations: the logits of one image, C of them, were expected, got shape {z.shape}.{more}")
    _finite(z, "activations: logits")
    C = len(z)
    gates = {"sigmoid": np.exp(-np.logaddexp(0, -z)), "softmax": np.exp(z - np.logaddexp.reduce(z))}
    sums = {name: f"Σω = {values.sum():.4g}" for name, values in gates.items()}
    means = {name: f"{values.mean():.2g}" for name, values in gates.items()}
    gates = {name: np.maximum(values, LEAST_GATE) for name, values in gates.items()}
    low = min(values.min() for values in gates.values())
    limits = float(10.0 ** np.floor(np.log10(low))), 1.0
    figure = _figure(figure, 11, 4)
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    for (name, values), style in zip(gates.items(), series_styles(), strict=False):
        look = {"color": style.colour, "marker": style.marker, "mec": current().ink, "mew": 0.4, "clip_on": False}
        left.plot(np.arange(C), values, ls="", ms=5 if C <= 128 else 3, label=name, **look)
    levels = [(0.5, "0.5 = 1/C", "center")] if C == 2 else [(0.5, "0.5", "bottom"), (1 / C, f"1/C = 1/{C}", "top")]
    for level, text, side in levels:
        left.axhline(level, color=current().ink, lw=0.8, ls="--", zorder=0)
        at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        left.annotate(text, (1, level), (4, 0), va=side, fontsize="small", color=current().ink, **at)
    left.set_yscale("log")
    left.set_ylim(*limits)
    left.set_xlim(-0.03 * C, C - 1 + 0.03 * C)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set_xlabel("channel index")
    left.set_ylabel("gate ω")
    edges = np.geomspace(*limits, 61)
    for (name, values), style in zip(gates.items(), series_styles(), strict=False):
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        hatch = {"sigmoid": "", "softmax": "////"}[name]
        right.stairs(counts, edges, fill=True, fc=to_rgba(style.colour, 0.35), ec=style.colour, hatch=hatch, lw=0)
        right.stairs(counts, edges, ec=style.colour, ls=style.line, lw=1.6, label=f"{name}, {sums[name]}")
    right.set_xscale("log")
    right.set_xlim(*limits)
    right.set_ylim(bottom=0)
    right.yaxis.get_major_locator().set_params(integer=True)
    right.set_xlabel("gate ω")
    right.set_ylabel("number of channels")
    for ax, axis, title in (
        (left, left.yaxis, f"gates of the same {C} logits: sigmoid, {sums['sigmoid']}; softmax, {sums['softmax']}"),
        (right, right.xaxis, f"mean gate: sigmoid {means['sigmoid']}, softmax {means['softmax']}"),
    ):
        strip_spines(ax)
        axis.set_minor_formatter(NullFormatter())
        view = View(ax)
        view.title(title)
        view.legend(*ax.get_legend_handles_labels(), 2)
    return figure
