"""Plots that need several Axes: ``figure=None`` in, the Figure out. Reached as ``ecaviz.plots.<name>`` too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .looks import family_name, family_style
from .texts import names_as_written
from .themes import current
from .views import Picture, strip_spines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .interaction import Coverage, Structure

__all__ = ["coverage_cost", "image_grid", "picture"]


@names_as_written
def coverage_cost(
    structures: Sequence[Structure], realised: Sequence[Coverage] = (), *, figure: Figure | None = None
) -> Figure:
    """What k and r buy and what they cost, each on an axis of its own: no r stands beside some k.

    Rows: partners (share of the channels a gate can listen to, on average: the share of pairs), rank (share of C),
    parameters. Left column by k, right column by r. Filled markers: what the form allows. Open markers, if ``realised``
    is given: what trained sites make of it (median participation/C; effective rank/C).

    Args:
        structures: What :func:`ecaviz.interaction.eca_structure` and ``se_structure`` give, all of one C.
        realised: What :func:`ecaviz.coverage` gives for trained sites of that C.
        figure: Where to draw; None for a new one.

    Raises:
        ValueError: The structures have different C.
    """
    sizes = sorted({one.channels for one in structures} | {one.matrix.channels for one in realised})
    if len(sizes) != 1:
        raise ValueError(f"coverage_cost: one number of channels was expected, got {sizes}. Draw one figure for each.")
    figure = Picture(figsize=(9, 7.5), layout="constrained") if figure is None else figure
    axes = figure.subplots(3, 2, sharey="row", squeeze=False)
    rows = (
        ("partners / C\n(share of pairs)", lambda one: one.structural, lambda one: one.participation_median / sizes[0]),
        ("rank / C", lambda one: one.rank_share, lambda one: one.effective_rank / sizes[0]),
        ("parameters", lambda one: one.parameters, None),
    )
    families = (("eca", "kernel_size", "kernel size k"), ("se", "reduction", "reduction r"))
    for column, (family, knob, name) in enumerate(families):
        style = family_style(family)
        allowed = sorted((one for one in structures if one.family == family), key=lambda one: getattr(one, knob))
        trained = sorted(
            (one for one in realised if one.matrix.family == family), key=lambda one: getattr(one.matrix, knob)
        )
        ticks = sorted({getattr(one, knob) for one in allowed} | {round(getattr(one.matrix, knob)) for one in trained})
        for row, (label, of_form, of_site) in enumerate(rows):
            ax = axes[row, column]
            x = [ticks.index(getattr(one, knob)) for one in allowed]
            ax.plot(
                x,
                [of_form(one) for one in allowed],
                color=style.colour,
                ls=style.line,
                marker=style.marker,
                ms=7,
                label="allowed by the form",
            )
            for i, one in zip(x, allowed, strict=True):
                value = of_form(one)
                text = f"{value:,}" if row == 2 else _percent(value)
                ax.annotate(text, (i, value), (0, 8), textcoords="offset points", ha="center", fontsize="x-small")
            if of_site is not None and trained:
                x = [ticks.index(round(getattr(one.matrix, knob))) for one in trained]
                ax.plot(
                    x,
                    [of_site(one) for one in trained],
                    ls="",
                    marker=style.marker,
                    ms=9,
                    mfc="none",
                    mec=current().ink,
                    mew=1.5,
                    label="realised, trained",
                )
            ax.set_yscale("log")
            ax.set_xticks(range(len(ticks)), [str(tick) for tick in ticks])
            ax.set_xlim(-0.4, len(ticks) - 0.6)
            strip_spines(ax)
            ax.grid(axis="y", color=current().grid, lw=0.6)
            if row < 2:
                ax.yaxis.set_major_formatter(lambda value, _: _percent(value))
            if column == 0:
                ax.set_ylabel(label)
            if row == 2:
                ax.set_xlabel(name)
            if row == 0:
                ax.set_title(f"{family_name(family)}: by {name}", loc="left", fontsize="medium")
                if allowed or trained:
                    ax.legend(loc="best", fontsize="small")
    for row in range(2):
        low = axes[row, 0].get_ylim()[0]
        axes[row, 0].set_ylim(min(low, 0.5), 2)
    axes[2, 0].set_ylim(top=4 * axes[2, 0].get_ylim()[1])
    figure.suptitle(f"what k and r cover, and what they cost, at C = {sizes[0]}", x=0.01, ha="left", fontsize="large")
    return figure


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def picture(image: Any) -> np.ndarray:
    """uint8 H×W×3 of a uint8 tensor 3×H×W, a PIL image, or a float tensor (scaled to its own range)."""
    if not hasattr(image, "detach"):
        return np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    values = image.detach().cpu().numpy()
    if values.dtype != np.uint8:
        low, high = float(values.min()), float(values.max())
        values = (255 * (values - low) / ((high - low) or 1.0)).astype(np.uint8)
    return np.moveaxis(values, 0, -1)


@names_as_written
def image_grid(
    images: Any,
    labels: Sequence[str] | None = None,
    *,
    columns: int = 6,
    title: str | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Pictures with a line of text under each.

    Args:
        images: uint8 tensors 3×H×W, PIL images, or (image, label) pairs as a dataset gives them. Float tensors are
            scaled to their own range.
        labels: A text for each; None for none.
        columns: Pictures a row.
        title: Of the whole.
        figure: Where to draw; None for a new one.

    Raises:
        ValueError: There is no image, or the numbers of images and labels differ.
    """
    items = [item[0] if isinstance(item, tuple | list) else item for item in images]
    if not items:
        raise ValueError("image_grid: there is no image to draw.")
    if labels is not None and len(labels) != len(items):
        raise ValueError(f"image_grid: one label an image was expected, got {len(labels)} for {len(items)} images.")
    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    if figure is None:
        figure = Picture(figsize=(1.7 * columns, 1.95 * rows + (0.3 if title else 0)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for i, ax in enumerate(axes):
        ax.set_visible(i < len(items))
        ax.set_xticks([])
        ax.set_yticks([])
        if i < len(items):
            ax.imshow(picture(items[i]))
            if labels is not None:
                ax.set_xlabel(labels[i], fontsize="small")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    return figure
