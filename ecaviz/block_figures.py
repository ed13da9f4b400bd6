"""Figures of one attention block: what it does to one image step by step, and its gates as maps.

Reached as ``ecaviz.plots.attention_block`` and ``ecaviz.plots.gate_maps``. Which panels a block gets depends on what
was read there: descriptors that are one number a channel, two, a matrix or maps; an excitation that is a kernel, two
layers, one matrix or nothing; gates of channels, of patches or of positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from .attention import Diagonal, GlobalAveragePool, Grouped, Neighbourhood
from .block_panels import bars, limits_of, pair, pictures, weights, words
from .cbam import AverageAndMaxPool, SpatialConv
from .figures import picture
from .gsop import RowWise
from .interaction import COVERED, module_interaction
from .kernel_views import KernelStems
from .looks import ACTIVATION_MAP, GATE_MAP, Style, setting, signed_map, styles
from .texts import as_written, names_as_written
from .views import FULL, Picture, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure
    from torch import Tensor

    from .gates import GateRecord, GateSite

__all__ = ["attention_block", "gate_maps"]


@dataclass(frozen=True)
class _Block:
    """What the panels of one block on one image draw from.

    Attributes:
        site: The site.
        maps: x, C×H×W.
        y: Descriptor of the image.
        z: Logit.
        gate: ω.
        over: ω as it meets x: C×1×1, 1×H×W or C×H×W.
        drawn: The channels whose maps are drawn.
        looks: Styles of the family's first and second series.
    """

    site: GateSite
    maps: np.ndarray
    y: np.ndarray
    z: np.ndarray
    gate: np.ndarray
    over: np.ndarray
    drawn: list[int]
    looks: list[Style]

    @property
    def names(self) -> list[str]:
        return [f"channel {c}" for c in self.drawn]

    def maps_of(self, values: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Of maps of logits or gates those of the channels drawn, and their names; or the one of all channels."""
        return (values, ["all channels"]) if self.site.per == "position" else (values[self.drawn], self.names)


@names_as_written
def attention_block(
    x: Tensor,
    record: GateRecord,
    *,
    row: int = 0,
    image: Tensor | None = None,
    channels: int | Sequence[int] = 6,
    figure: Figure | None = None,
) -> Figure:
    """One attention block on one image, step by step: maps → squeeze → excite → logits → gates → rescaled maps.

    Everything is drawn from what was captured and from the module's weights; only the last step, x·ω, is formed here.
    Any site that :func:`ecaviz.capture` reads will do. Gates of patches and of positions are drawn as maps.

    Args:
        x: The feature maps that went into the block, N×C×H×W or C×H×W.
        record: What :func:`ecaviz.capture` read there for the same images.
        row: Which of the images.
        image: The image itself, uint8 3×H×W, drawn first.
        channels: Which channels' maps to draw; or how many, spread from the smallest gate to the largest (of patches,
            by their mean; where the gate is of positions, from the smallest mean activation to the largest).
        figure: Where to draw; None for a new one.

    Returns:
        The figure.

    Raises:
        ValueError: ``x`` does not fit the record, or there are no such channels.
    """
    block = _block(numbers(x if x.ndim == 3 else x[row]), record, row, channels)
    site = block.site
    figure = Picture(figsize=(11.5, 6.4), layout="constrained") if figure is None else figure
    figure.suptitle(f"{site.name}: {setting(site)}, C = {len(block.maps)}", x=0.01, ha="left", fontsize="large")
    as_written(figure)  # the drawing below measures it
    upper, lower = figure.subfigures(2, 1, hspace=0.04)
    upper = upper.subfigures(1, 3, wspace=0.02, width_ratios=(1.4, 1, 1))
    lower = lower.subfigures(1, 3, wspace=0.02, width_ratios=(1, 1, 1.2))
    height, width = block.maps.shape[1:]
    _features(upper[0], block, block.maps, block.names, f"1  feature maps x, {height}×{width} each", image)
    _squeeze(upper[1], block)
    _excite(upper[2], block)
    _logits(lower[0], block)
    _gates(lower[1], block)
    if site.per == "position":
        labels = block.names
    else:
        omega = "ω" if site.per == "channel" else "mean ω"
        labels = [f"{omega} = {block.gate[c].mean():.2f}" for c in block.drawn]
    _features(lower[2], block, block.maps * block.over, labels, "6  rescaled maps x·ω")
    return figure


def _block(maps: np.ndarray, record: GateRecord, row: int, channels: int | Sequence[int]) -> _Block:
    site = record.site
    y, z, gate = (numbers(part[row]) for part in (record.descriptor, record.logit, record.gate))
    if not _fits(maps, gate, site):
        raise ValueError(f"attention_block: the record has {_expected(gate, site)} expected, got {maps.shape}.")
    if site.per == "channel":
        over = gate[:, None, None]
    else:  # as the module does it: the value of each patch at all of its positions
        over = nn.functional.interpolate(torch.from_numpy(gate)[None], size=maps.shape[1:])[0].numpy()
    order = maps.mean(axis=(1, 2)) if site.per == "position" else gate.reshape(len(gate), -1).mean(axis=1)
    drawn = _chosen(channels, order, "attention_block: channels")
    return _Block(site, maps, y, z, gate, over, drawn, styles([site.family, site.family]))


def _fits(maps: np.ndarray, gate: np.ndarray, site: GateSite) -> bool:
    if maps.ndim != 3:
        return False
    if site.per == "position":
        return maps.shape[1:] == gate.shape[1:] and site.channels in (None, len(maps))
    if site.per == "element" and tuple(-(-side // site.extent) for side in maps.shape[1:]) != gate.shape[1:]:
        return False
    return len(maps) == len(gate)


def _expected(gate: np.ndarray, site: GateSite) -> str:
    size = "×".join(map(str, gate.shape[1:]))
    if site.per == "position":
        return f"gates of {size} positions; feature maps C×H×W of that size were"
    patches = f", of {size} patches of {site.extent}×{site.extent}," if site.per == "element" else ""
    return f"C = {len(gate)} channels; feature maps C×H×W of that C{patches} were"


def _chosen(which: int | Sequence[int], order: np.ndarray, what: str) -> list[int]:
    """The numbers asked for; or so many of them, spread from the smallest value to the largest."""
    count = isinstance(which, int | np.integer)
    if count and which > 0:
        places = np.linspace(0, len(order) - 1, min(which, len(order))).round().astype(int)
        return np.argsort(order, kind="stable")[places].tolist()
    found = [] if count else [int(one) for one in which]
    if not found or not all(0 <= one < len(order) for one in found):
        raise ValueError(f"{what} are a number of at least 1, or some of 0 to {len(order) - 1}; got {which!r}.")
    return found


# ------------------------------------------------------------------------------------------------------------ the steps


def _features(
    part: SubFigure, block: _Block, maps: np.ndarray, labels: Sequence[str], title: str, image: Tensor | None = None
) -> None:
    """Feature maps, before and after the gate on one scale."""
    limits = limits_of(block.maps[block.drawn], least=0.0)
    look = {"bar": "activation", "cmap": ACTIVATION_MAP, "limits": limits}
    pictures(part, maps[block.drawn], labels, title=title, image=image, **look)


def _squeeze(part: SubFigure, block: _Block) -> None:
    site, y = block.site, block.y
    if site.per == "position":
        both = {"maximum": y[0], "mean": y[1]}
        pair(part, both, title="2  squeeze: over the channels", bar="descriptor y", cmap=ACTIVATION_MAP)
    elif site.per == "element":
        gathered = y[block.drawn]
        look = {"bar": "descriptor y", "cmap": ACTIVATION_MAP, "limits": limits_of(gathered)}
        pictures(part, gathered, block.names, title=f"2  gather: y, {y.shape[1]}×{y.shape[2]} each", **look)
    elif np.isnan(y).all():
        words(part, "2  squeeze", f"y is not read: {site.rung}")
    elif _mean_and_maximum(site):
        series = {"maximum": y[1], "mean": y[0]}
        bars(part, series, block.drawn, block.looks[::-1], "2  squeeze: y, two numbers a map", "descriptor y")
    elif y.ndim == 2:
        own = site.reduced is None  # of a module that is none of the family
        title = "2  squeeze: y" if own else f"2  squeeze: covariance of c = {len(y)} maps"
        names = ("column", "row") if own else ("reduced channel", "reduced channel")
        weights(part, {"": y}, title, names, bar="descriptor y" if own else "covariance", square=True)
    else:
        bars(part, {"y": y}, block.drawn, block.looks[:1], f"2  squeeze: y{_squeezed(site)}", "descriptor y")


def _part(site: GateSite, name: str) -> nn.Module | None:
    """``squeeze`` or ``excite`` of our own modules; those of other libraries have none of that name."""
    return getattr(site.module, name, None)


def _mean_and_maximum(site: GateSite) -> bool:
    """Whether it is a CBAM's channel stage, ours or another."""
    return isinstance(_part(site, "squeeze"), AverageAndMaxPool) or (site.family == "cbam" and site.layout.calls == 2)


def _squeezed(site: GateSite) -> str:
    """How a descriptor of one number a channel is made of its map, where that is known."""
    if site.rung != "registry" or site.family == "gc":
        return ""
    if type(site.module).__name__ == "LightChannelAttn":  # timm's
        return " = half mean, half maximum"
    squeeze = _part(site, "squeeze")
    if isinstance(squeeze, nn.Sequential):
        return " = BN(kernel · map)"
    if getattr(site.module, "add_maxpool", False):  # an option of timm's SEModule
        return " = half mean, half maximum"
    return " = mean of each map" if isinstance(squeeze, GlobalAveragePool | nn.AdaptiveAvgPool2d | None) else ""


def _excite(part: SubFigure, block: _Block) -> None:
    """The weights of the excitation; in words where there are none."""
    site = block.site
    excite = _part(site, "excite")
    if site.layout.conv is not None:
        ax = part.subplots()
        KernelStems(ax).update(numbers(site.kernel), title=f"3  excite: 1-D conv, k = {site.kernel_size}")
    elif site.hidden is not None:
        w1, _, w2, _ = site.bottleneck
        rectified = isinstance(excite, nn.Sequential)  # GE-θ⁺ has a ReLU before the first layer too
        matrices = {
            f"W1: {'ReLU(y)' if rectified else 'y'} → hidden": numbers(w1),
            "W2 (transposed): hidden → z": numbers(w2.T),
        }
        weights(part, matrices, _bottleneck(site), ("channel index", "hidden unit"))
    elif isinstance(excite, Neighbourhood):
        kernels = numbers(excite.conv.weight)[:, 0].T
        reach = excite.reach + 0.5
        title = f"3  excite: one kernel a channel, k = {site.kernel_size}"
        weights(part, {"": kernels}, title, ("channel index", "offset (channels)"), rows=(-reach, reach))
    elif isinstance(excite, Diagonal):
        bars(part, {"w": numbers(excite.weight)}, block.drawn, block.looks[:1], "3  excite: z = w ⊙ y", "weight w")
    elif excite is None and site.layout.fc1 is not None:
        full = numbers(site.module.get_submodule(site.layout.fc1).weight)
        full = full.reshape(len(full), -1)[slice(*site.layout.part) if site.layout.part else slice(None)]
        names = ("channel j (descriptor y)", "channel i (gate moved)")
        weights(part, {"": full}, "3  excite: z = W·y", names, bar="weight", square=True)
    elif isinstance(excite, Grouped | nn.Linear) and site.family in COVERED:
        matrix = numbers(module_interaction(site.module).matrix)
        title = "3  excite: z = W·y" + (f", {site.groups} groups" if site.groups else "")
        names = ("channel j (descriptor y)", "channel i (gate moved)")
        weights(part, {"": matrix}, title, names, bar="∂z/∂y", square=True)
    elif isinstance(excite, RowWise):
        last = numbers(excite.conv.weight).reshape(site.channels, -1).T
        title = "3  excite: last layer, 4 weights a row"
        rows = (-0.5, site.reduced - 0.5)
        weights(part, {"": last}, title, ("channel index", "row of the covariance"), rows=rows)
    elif isinstance(excite, SpatialConv):
        kernel = numbers(excite.conv.weight)[0]
        limit = float(np.abs(kernel).max()) or 1.0
        pair(
            part,
            {"of the maximum": kernel[0], "of the mean": kernel[1]},
            title="3  excite: 7×7 conv of both maps, then BN",
            bar="weight",
            cmap=signed_map(),
            limits=(-limit, limit),
            offsets=True,
        )
    elif excite is None:
        what = "one kernel a channel" if site.layout.neighbours else f"z is read by: {site.rung}"
        words(part, "3  excite", what)
    elif isinstance(excite, nn.Identity):
        weightless = next(site.module.parameters(), None) is None
        learned = "nothing to learn" if weightless else "what is learned is in the gather"
        words(part, "3  excite: z = y", f"z = y: {learned}")
    else:
        words(part, "3  excite", f"z = {type(excite).__name__}(y)")


def _bottleneck(site: GateSite) -> str:
    sizes = f"{site.channels} → {site.hidden} → {site.channels}"
    if _mean_and_maximum(site):
        return f"3  excite: {sizes} of each, added"
    return f"3  excite: {sizes}, {site.hidden_activation or 'ReLU'} between"


def _logits(part: SubFigure, block: _Block) -> None:
    if block.site.per == "channel":
        bars(part, {"z": block.z}, block.drawn, block.looks[:1], "4  logits z", "logit z")
        return
    maps, names = block.maps_of(block.z)
    pictures(part, maps, names, title="4  logits z", bar="logit z", cmap=ACTIVATION_MAP, limits=limits_of(maps))


def _gates(part: SubFigure, block: _Block) -> None:
    activation = "σ" if block.site.activation == "sigmoid" else block.site.activation
    title = f"5  gates ω = {activation}(z)"
    if block.site.per == "channel":
        bars(part, {"ω": block.gate}, block.drawn, block.looks[:1], title, "gate ω", base=0.5, limits=FULL)
        return
    maps, names = block.maps_of(block.gate)
    pictures(part, maps, names, title=title, bar="gate ω", cmap=GATE_MAP, limits=FULL)


# ------------------------------------------------------------------------------------------------------- gates as maps


@names_as_written
def gate_maps(
    record: GateRecord,
    images: Sequence[Any] | None = None,
    *,
    rows: int | Sequence[int] = 4,
    channels: int | Sequence[int] = 3,
    figure: Figure | None = None,
) -> Figure:
    """Gates that have positions, as maps: CBAM's spatial stage, and Gather-Excite with an extent. One column an image.

    Below each map stand its smallest and its largest gate.

    Args:
        record: What :func:`ecaviz.capture` read at the site.
        images: The images behind the rows of the record, uint8 3×H×W (or pairs of image and label), drawn first.
        rows: Which images, by their rows in the record; or how many, spread evenly.
        channels: Where each channel has maps of its own: which channels; or how many, spread from the smallest mean
            gate to the largest.
        figure: Where to draw; None for a new one.

    Returns:
        The figure.

    Raises:
        ValueError: The gates are one number a channel; ``images`` are not one a row; or there are no such rows or
            channels.
    """
    site = record.site
    if site.per == "channel":
        raise ValueError(
            f"gate_maps: the gates of {site.name} are one number a channel and have no positions. Draw them with "
            f"gate_heatmap or gate_distribution."
        )
    gate = numbers(record.gate)
    if images is not None and len(images) != len(gate):
        raise ValueError(
            f"gate_maps: one image a row of the record was expected, got {len(images)} for {len(gate)} rows."
        )
    rows = _chosen(rows, np.arange(len(gate)), "gate_maps: rows")
    mean = gate.mean(axis=(0, 2, 3))
    drawn = [0] if site.per == "position" else _chosen(channels, mean, "gate_maps: channels")
    first = 0 if images is None else 1
    lines = first + len(drawn)
    if figure is None:
        figure = Picture(figsize=(1.7 * len(rows) + 1.4, 1.8 * lines + 0.5), layout="constrained")
    grid = figure.add_gridspec(lines, len(rows) + 1, width_ratios=[*[1] * len(rows), 0.08])
    axes = np.array([[figure.add_subplot(grid[i, j]) for j in range(len(rows))] for i in range(lines)])
    for line, channel in zip(axes[first:], drawn, strict=True):
        for ax, row in zip(line, rows, strict=True):
            values = gate[row, channel]
            shown = ax.imshow(values, cmap=GATE_MAP, vmin=0, vmax=1)
            ax.set_xlabel(f"{values.min():.2f} … {values.max():.2f}", fontsize="small")
        name = "all channels" if site.per == "position" else f"channel {channel}"
        line[0].set_ylabel(f"{name}\nmean ω = {mean[channel]:.2f}", fontsize="small")
    for i, row in enumerate(rows):
        if images is not None:
            one = images[row]
            axes[0, i].imshow(picture(one[0] if isinstance(one, tuple | list) else one))
        axes[0, i].set_title(f"image {row}", fontsize="small")
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    figure.colorbar(shown, cax=figure.add_subplot(grid[first:, -1])).set_label("gate ω")
    size = "×".join(map(str, gate.shape[2:]))
    figure.suptitle(f"{site.name}: {setting(site)}, gate maps of {size}", x=0.01, ha="left", fontsize="medium")
    return figure
