"""Plots that need several Axes: ``figure=None`` in, the Figure out. Reached as ``ecaviz.plots.<name>`` too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .kernel_views import KernelStems
from .looks import DIVERGING, INK, STYLES, family_name, setting, styles
from .views import Picture, numbers, strip_spines

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from .gates import GateRecord
    from .interaction import Coverage, Structure

__all__ = ["attention_block", "coverage_cost", "image_grid"]


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
        style = STYLES[family][0]
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
                    mec=INK,
                    mew=1.5,
                    label="realised, trained",
                )
            ax.set_yscale("log")
            ax.set_xticks(range(len(ticks)), [str(tick) for tick in ticks])
            ax.set_xlim(-0.4, len(ticks) - 0.6)
            strip_spines(ax)
            ax.grid(axis="y", color="#DDDDDD", lw=0.6)
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

    Everything is drawn from what was captured; only the last step, x·ω, is formed here.

    Args:
        x: The feature maps that went into the block, N×C×H×W or C×H×W.
        record: What :func:`ecaviz.capture` read there for the same images.
        row: Which of the images.
        image: The image itself, uint8 3×H×W, drawn first.
        channels: Which channels' maps to draw; or how many, spread from the smallest gate to the largest.
        figure: Where to draw; None for a new one.

    Returns:
        The figure.

    Raises:
        ValueError: ``x`` does not fit the record.
    """
    maps = numbers(x if x.ndim == 3 else x[row])
    y, z, gate = (numbers(part[row]) for part in (record.descriptor, record.logit, record.gate))
    if maps.ndim != 3 or len(maps) != len(gate):
        raise ValueError(
            f"attention_block: the record has C = {len(gate)} channels; feature maps C×H×W of that C were expected, "
            f"got {maps.shape}."
        )
    if isinstance(channels, int):
        order = np.argsort(gate, kind="stable")
        channels = order[np.linspace(0, len(gate) - 1, channels).round().astype(int)].tolist()
    site = record.site
    style = styles([site.family])[0]
    figure = Picture(figsize=(11.5, 6.4), layout="constrained") if figure is None else figure
    figure.suptitle(f"{site.name}: {setting(site)}, C = {len(gate)}", x=0.01, ha="left", fontsize="large")
    rows = figure.subfigures(2, 1, hspace=0.04)
    upper = rows[0].subfigures(1, 3, wspace=0.02, width_ratios=(1.4, 1, 1))
    lower = rows[1].subfigures(1, 3, wspace=0.02, width_ratios=(1, 1, 1.2))
    parts = {(row, i): part for row, line in enumerate((upper, lower)) for i, part in enumerate(line)}
    low, high = min(float(maps[channels].min()), 0.0), float(maps[channels].max())
    _maps(
        parts[0, 0],
        maps,
        channels,
        f"1  feature maps x, {maps.shape[1]}×{maps.shape[2]} each",
        [f"channel {c}" for c in channels],
        low,
        high,
        image,
    )
    _bars(parts[0, 1], y, channels, style, "2  squeeze: y = mean of each map", "descriptor y")
    _excitation(parts[0, 2], site, style)
    _bars(parts[1, 0], z, channels, style, "4  logits z", "logit z", zero=True)
    _bars(
        parts[1, 1],
        gate,
        channels,
        style,
        "5  gates ω = σ(z)" if site.activation == "sigmoid" else f"5  gates ω = {site.activation}(z)",
        "gate ω",
        (0, 1),
    )
    rescaled = maps * gate[:, None, None]
    _maps(
        parts[1, 2],
        rescaled,
        channels,
        "6  rescaled maps x·ω",
        [f"ω = {gate[c]:.2f}" for c in channels],
        low,
        high,
        None,
    )
    return figure


def _maps(part, maps, channels, title, labels, low, high, image) -> None:
    columns = -(-len(channels) // 2)
    wide = [1.3] if image is not None else []
    grid = part.add_gridspec(2, len(wide) + columns, width_ratios=[*wide, *[1] * columns])
    part.suptitle(title, x=0.02, ha="left", fontsize="medium")
    if image is not None:
        ax = part.add_subplot(grid[:, 0])
        ax.imshow(picture(image))
        ax.set_title("image", fontsize="small")
    axes = [part.add_subplot(grid[i // columns, len(wide) + i % columns]) for i in range(len(channels))]
    for ax, channel, label in zip(axes, channels, labels, strict=True):
        shown = ax.imshow(maps[channel], cmap="magma", vmin=low, vmax=high)
        ax.set_title(label, fontsize="small")
    for ax in part.axes:
        ax.set_xticks([])
        ax.set_yticks([])
    part.colorbar(shown, ax=axes, fraction=0.06, pad=0.03).set_label("activation")


def _bars(part, values, channels, style, title, label, limits=None, zero=False) -> None:
    ax = part.subplots()
    index = np.arange(len(values))
    base = 0.5 if limits else 0.0
    ax.vlines(index, base, values, color=style.colour, lw=max(0.5, min(3, 150 / len(values))), alpha=0.5)
    ax.plot(
        list(channels),
        values[list(channels)],
        ls="",
        marker=style.marker,
        ms=6,
        color=style.colour,
        mec=INK,
        label="channels drawn",
    )
    ax.axhline(base, color=INK, lw=0.8)
    ax.set_title(title, loc="left", fontsize="medium")
    ax.set_xlabel("channel index")
    ax.set_ylabel(label)
    if limits:
        ax.set_ylim(*limits)
    strip_spines(ax)


def _excitation(part, site, style) -> None:
    if site.kernel_size is not None:
        ax = part.subplots()
        KernelStems(ax).update(numbers(site.kernel), title=f"3  excite: 1-D conv, k = {site.kernel_size}")
        return
    w1, _, w2, _ = site.bottleneck
    axes = part.subplots(2, 1)
    limit = float(max(w1.abs().max(), w2.abs().max()))
    for ax, weights, name in zip(axes, (w1, w2.T), ("W1: y → hidden", "W2 (transposed): hidden → z"), strict=True):
        shown = ax.imshow(
            numbers(weights), cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="auto"
        )
        ax.set_title(name, fontsize="small", loc="left")
        ax.set_ylabel("hidden unit")
        ax.yaxis.get_major_locator().set_params(integer=True)
    axes[1].set_xlabel("channel index")
    part.suptitle(
        f"3  excite: {site.channels} → {site.hidden} → {site.channels}, ReLU between",
        x=0.02,
        ha="left",
        fontsize="medium",
    )
    part.colorbar(shown, ax=axes.tolist(), fraction=0.05, pad=0.02).set_label("weight")


def picture(image: Any) -> np.ndarray:
    """uint8 H×W×3 of a uint8 tensor 3×H×W, a PIL image, or a float tensor (scaled to its own range)."""
    if not hasattr(image, "detach"):
        return np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    values = image.detach().cpu().numpy()
    if values.dtype != np.uint8:
        low, high = float(values.min()), float(values.max())
        values = (255 * (values - low) / ((high - low) or 1.0)).astype(np.uint8)
    return np.moveaxis(values, 0, -1)


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
