"""The panels that the figures of a block are made of: maps, bars by channel, weights, words.

Each takes the part of the figure to fill, numpy arrays and the texts, and adds the Axes; see
:mod:`ecaviz.block_figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import picture
from .looks import Style, signed_map
from .themes import current
from .views import strip_spines

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

__all__ = ["bars", "limits_of", "pair", "pictures", "weights", "words"]

CELLS = 128
"""The most cells a side that the panel of a matrix has pixels for."""


def limits_of(values: np.ndarray, *, least: float | None = None) -> tuple[float, float]:
    """The smallest value (or ``least``, if that is smaller) and the largest; never the same."""
    low, high = float(values.min()), float(values.max())
    low = low if least is None else min(low, least)
    return low, high if high > low else low + 1


def _heading(part: SubFigure, text: str) -> None:
    part.suptitle(text, x=0.02, ha="left", fontsize="medium")


def pictures(
    part: SubFigure,
    maps: np.ndarray,
    labels: Sequence[str],
    *,
    title: str,
    bar: str,
    cmap: str,
    limits: tuple[float, float],
    image: Any = None,
) -> None:
    """A few maps in two rows (one or two of them in one), with one colour bar; before them the image.

    Args:
        part: Where to draw.
        maps: n×H×W.
        labels: A line above each.
        title: Of the panel.
        bar: Name of the colour bar.
        cmap: Colour map.
        limits: Ends of the colour scale.
        image: What :func:`ecaviz.figures.picture` takes, or None.
    """
    rows = 1 if len(maps) < 3 else 2
    columns = -(-len(maps) // rows)
    wide = [1.3] if image is not None else []
    grid = part.add_gridspec(rows, len(wide) + columns, width_ratios=[*wide, *[1] * columns])
    _heading(part, title)
    if image is not None:
        ax = part.add_subplot(grid[:, 0])
        ax.imshow(picture(image))
        ax.set_title("image", fontsize="small")
    axes = [part.add_subplot(grid[i // columns, len(wide) + i % columns]) for i in range(len(maps))]
    for ax, one, label in zip(axes, maps, labels, strict=True):
        shown = ax.imshow(one, cmap=cmap, vmin=limits[0], vmax=limits[1])
        ax.set_title(label, fontsize="small")
    for ax in part.axes:
        ax.set_xticks([])
        ax.set_yticks([])
    _colour_bar(part, shown, axes, bar, pad=0.03)


def _colour_bar(part: SubFigure, shown: Any, axes: Any, label: str, **options: Any) -> None:
    bar = part.colorbar(shown, ax=axes, **({"fraction": 0.06} | options))
    bar.set_label(label)
    # Ticks that came and went with the size of the bar would be cut off, since the layout made room for others.
    bar.locator.set_params(nbins=5 if bar.orientation == "vertical" else 3)


def bars(
    part: SubFigure,
    series: Mapping[str, np.ndarray],
    marked: Sequence[int],
    looks: Sequence[Style],
    title: str,
    label: str,
    *,
    base: float = 0.0,
    limits: tuple[float, float] | None = None,
) -> None:
    """Numbers by channel, as bars.

    Args:
        part: Where to draw.
        series: C numbers by name; of several the names are in the legend, and the last is drawn above the others.
        marked: The channels to mark.
        looks: A style for each series.
        title: Of the panel.
        label: Of the vertical axis.
        base: Where the bars start.
        limits: Ends of the vertical axis; None to fit them.
    """
    ax = part.subplots()
    marked = list(marked)
    for (name, values), style in zip(series.items(), looks, strict=True):
        width = max(0.5, min(3, 150 / len(values)))
        ax.vlines(np.arange(len(values)), base, values, color=style.colour, lw=width, alpha=0.5)
        ax.plot(
            marked,
            values[marked],
            ls="",
            marker=style.marker,
            ms=6,
            color=style.colour,
            mec=current().ink,
            label=name,
            clip_on=False,
        )
    ax.axhline(base, color=current().ink, lw=0.8)
    ax.set_title(title, loc="left", fontsize="medium", pad=22 if len(series) > 1 else None)
    ax.set_xlabel("channel index (marked: maps drawn)")
    ax.set_ylabel(label)
    if limits:
        ax.set_ylim(*limits)
    if len(series) > 1:
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(series),
            fontsize="small",
            frameon=False,
            borderaxespad=0.1,
            handletextpad=0.2,
            columnspacing=1.2,
        )
    strip_spines(ax)


def weights(
    part: SubFigure,
    matrices: Mapping[str, np.ndarray],
    title: str,
    names: tuple[str, str],
    *,
    bar: str = "weight",
    rows: tuple[float, float] | None = None,
    square: bool = False,
) -> None:
    """Matrices of one shape below one another, all on one scale that is centred at zero.

    Those of more than 128 rows or columns are shown at reduced resolution, and the colour bar says how.

    Args:
        part: Where to draw.
        matrices: By the line above each.
        title: Of the panel.
        names: Of the horizontal and the vertical axis.
        bar: Name of the colour bar.
        rows: Where the first row begins on the vertical axis and the last one ends; None to number them.
        square: Whether the cells are squares.
    """
    axes = part.subplots(len(matrices), 1, squeeze=False).ravel()
    limit = max(float(np.abs(values).max()) for values in matrices.values()) or 1.0
    for ax, (name, values) in zip(axes, matrices.items(), strict=True):
        shown, sides = _pooled(values)
        top, end = rows or (-0.5, len(values) - 0.5)
        height, width = (cells * side for cells, side in zip(shown.shape, sides, strict=True))
        bottom = top + (end - top) * height / len(values)
        image = ax.imshow(
            shown,
            cmap=signed_map(),
            vmin=-limit,
            vmax=limit,
            aspect="equal" if square else "auto",
            interpolation="nearest",
            extent=(-0.5, width - 0.5, bottom, top),
        )
        ax.set_xlim(-0.5, values.shape[1] - 0.5)  # the last cell may have less behind it
        ax.set_ylim(end, top)
        ax.set_title(name, fontsize="small", loc="left")
        ax.set_ylabel(names[1])
        for axis in (ax.xaxis, ax.yaxis):
            axis.get_major_locator().set_params(integer=True)
    axes[-1].set_xlabel(names[0])
    _heading(part, title)
    bar += "" if sides == (1, 1) else f", largest of {sides[0]}×{sides[1]} each"
    _colour_bar(part, image, axes.tolist(), bar, fraction=0.05, pad=0.02)


def _pooled(values: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """A matrix at no more than 128×128: of each block the entry that is largest in absolute value; and its sides."""
    sides = tuple(-(-size // CELLS) for size in values.shape)
    if sides == (1, 1):
        return values, sides
    rows, columns = (-(-size // side) for size, side in zip(values.shape, sides, strict=True))
    padded = np.zeros((rows * sides[0], columns * sides[1]))
    padded[: len(values), : values.shape[1]] = values
    blocks = padded.reshape(rows, sides[0], columns, sides[1]).swapaxes(1, 2).reshape(rows, columns, -1)
    return np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)[..., 0], sides


def pair(
    part: SubFigure,
    maps: Mapping[str, np.ndarray],
    *,
    title: str,
    bar: str,
    cmap: str,
    limits: tuple[float, float] | None = None,
    offsets: bool = False,
) -> None:
    """Two maps side by side, with the colour bar below.

    Args:
        part: Where to draw.
        maps: By the line above each.
        title: Of the panel.
        bar: Name of the colour bar.
        cmap: Colour map.
        limits: Ends of the colour scale; None to fit it to each map, which has a colour bar of its own then.
        offsets: Whether the positions count from the middle and are named at the axes.
    """
    _heading(part, title)
    axes = part.subplots(1, len(maps))
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        low, high = limits or limits_of(values)
        reach = len(values) // 2
        extent = (-reach - 0.5, reach + 0.5, reach + 0.5, -reach - 0.5) if offsets else None
        shown = ax.imshow(values, cmap=cmap, vmin=low, vmax=high, extent=extent)
        ax.set_title(name, fontsize="small")
        ax.set_xticks((-reach, 0, reach) if offsets else ())
        ax.set_yticks((-reach, 0, reach) if offsets else ())
        if offsets:
            ax.set_xlabel("offset")
        if limits is None:
            _colour_bar(part, shown, ax, bar, location="bottom", pad=0.04)
    if offsets:
        axes[0].set_ylabel("offset (positions)")
    if limits is not None:
        _colour_bar(part, shown, axes.tolist(), bar, location="bottom", pad=0.04)


def words(part: SubFigure, title: str, text: str) -> None:
    """A line of text where there is nothing to draw."""
    ax = part.subplots()
    ax.set_title(title, loc="left", fontsize="medium")
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, color=current().ink)
    ax.set_axis_off()
