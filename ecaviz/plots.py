"""Plots: data in, matplotlib Axes out.

    profile = ecaviz.profile(model, images, by="class")
    plots.gate_heatmap(profile)                              # layers × channels
    plots.gate_distribution([profile, other], "layer3.0.se")
    plots.class_curves(profile, "layer3.0.se", ["disc", "stripes"])
    plots.interaction(ecaviz.interaction_matrix(model, "layer3.0.se"))

Every plot takes data and ``ax=None`` (then pyplot's current Axes) and returns the Axes; size and ``show()`` are the
caller's. :func:`attention_block`, :func:`coverage_cost` and :func:`image_grid` need several Axes: they take
``figure=None`` and return the figure. Colours and styles are those of :mod:`ecaviz.views`, where the drawing is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import kernel_views, views
from .figures import attention_block, coverage_cost, image_grid
from .views import INK, STYLES, Distribution, counts_of, family_name, layer_labels, numbers, setting, styles

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from torch import Tensor

    from .interaction import InteractionMatrix, Structure
    from .profiles import AttentionProfile, SiteProfile

__all__ = [
    "adaptive_rule",
    "attention_block",
    "class_curves",
    "coverage_cost",
    "gate_distribution",
    "gate_distributions_by_layer",
    "gate_heatmap",
    "gates_by_kernel",
    "image_grid",
    "interaction",
    "kernel",
    "learned_kernels",
    "saturation",
]


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.gca()


def _is_profile(data: Any) -> bool:
    return hasattr(data, "sites") and hasattr(data, "classes")


def _settings(profile: AttentionProfile) -> str:
    """``ECA, k=3``: family and k or r of a profile's sites, where they are all the same."""
    found = dict.fromkeys(setting(site) for site in profile.sites.values())
    families = dict.fromkeys(family_name(site.family) for site in profile.sites.values())
    return next(iter(found)) if len(found) == 1 else ", ".join(families)


def _row(profile: AttentionProfile, name: str | None) -> int | None:
    """Index of a class; None for all images.

    Raises:
        ValueError: The profile has no such class.
    """
    if name is None:
        return None
    if name not in profile.classes:
        raise ValueError(
            f"plots: the profile has no class {name!r}; it has: {', '.join(profile.classes)}."
            + (' Profile with by="class" to tell the classes apart.' if profile.by is None else "")
        )
    return profile.classes.index(name)


def _mean_gate(site: SiteProfile, row: int | None) -> np.ndarray:
    moments = site.moments.pooled() if row is None else site.moments
    return numbers(moments.mean[row or 0])


# --------------------------------------------------------------------------------------------------------------- gates


def gate_heatmap(
    data: AttentionProfile | Mapping[str, Any],
    *,
    of: str | None = None,
    sort: bool = False,
    marked: str | None = None,
    limits: tuple[float, float] | None = views.FULL,
    title: str | None = None,
    colorbar: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Mean gates as a heat map of layers × channels.

    Layers have different C, so each row is stretched to the same width and the horizontal axis is the channel index
    divided by C. Rows of more than 256 channels are shown as the means of neighbours, and the axis says so.

    Args:
        data: A profile; or a mapping from site names to gates, N×C or C, such as ``{name: record.gate …}`` or what
            :func:`ecaviz.capture` yields. Of N×C the mean over the rows is shown.
        of: A class of the profile; None for all images.
        sort: Sort each row by its gates: the row then reads as the quantiles of its layer.
        marked: A site to frame.
        limits: Ends of the colour scale; None to fit them to the data (0.5 ± what holds them all).
        title: Replaces the title.
        colorbar: Whether to add a colour bar.
        ax: Where to draw.

    Raises:
        ValueError: The profile has no such class, or the mapping is empty.
    """
    if _is_profile(data):
        row = _row(data, of)
        gates = {name: _mean_gate(site, row) for name, site in data.sites.items()}
        what = f"{data.model} ({_settings(data)}): mean gate, " + (of or f"all {data.n} images")
    else:
        gates = {name: numbers(getattr(part, "gate", part)) for name, part in data.items()}
        gates = {name: part.mean(axis=0) if part.ndim == 2 else part for name, part in gates.items()}
        what = "mean gate by layer and channel"
    if not gates:
        raise ValueError(
            "gate_heatmap: there are no gates to draw: no batch went through the network, or the mapping is empty."
        )
    ax = _axes(ax)
    view = views.GateHeatmap(ax, colorbar=colorbar)
    limits = limits or views.fitted(*gates.values())
    view.update(gates, sort=sort, marked=marked, limits=limits, title=what if title is None else title)
    return ax


def gate_distribution(
    data: Any,
    site: str | Sequence[str] | None = None,
    *,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How the gates of one site are distributed on [0, 1]: one model, or several in one picture.

    All channels and images (and classes) of the site are pooled; each histogram adds up to 100 %.

    Args:
        data: One or a list of: a profile, a :class:`SiteProfile`, a record of :func:`ecaviz.capture`, a tensor.
        site: The site to take of profiles; one name, or one for each.
        labels: Names for the legend; None for what the data tell.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: A profile came without ``site``.
        KeyError: A profile has no such site.
    """
    items = list(data) if isinstance(data, list | tuple) else [data]
    sites = [site] * len(items) if site is None or isinstance(site, str) else list(site)
    parts = []
    for i, (item, name) in enumerate(zip(items, sites, strict=True)):
        label = "gates" if len(items) == 1 else f"series {i + 1}"
        if _is_profile(item):
            if name is None:
                raise ValueError(f"gate_distribution: name the site to draw; the profile has: {', '.join(item.sites)}.")
            label, item = item.model, item[name]
        if hasattr(item, "moments"):
            family, counts = item.family, numbers(item.histogram.counts).sum(axis=(0, 1))
            label = f"{label if label != 'gates' else item.name} ({setting(item)})"
        elif hasattr(item, "gate"):
            family, counts = item.site.family, counts_of(numbers(item.gate))
            label = f"{item.site.name} ({setting(item.site)})"
        else:
            family, counts = "", counts_of(numbers(item))
        parts.append(Distribution(labels[i] if labels else label, family, counts))
    names = list(dict.fromkeys(name for name in sites if name))
    ax = _axes(ax)
    view = views.GateDistribution(ax, len(parts), bins=len(parts[0].counts))
    what = "distribution of the gates" + (f" at {', '.join(names)}" if names else "")
    view.update(parts, title=what if title is None else title)
    return ax


def gate_distributions_by_layer(
    profiles: AttentionProfile | Sequence[AttentionProfile], *, ax: Axes | None = None
) -> Axes:
    """Quantiles of the gates by depth, for one model or two side by side.

    For each layer: the median (marker), the middle half (thick line) and the middle 90 % (thin line) of all its gates,
    channels and images pooled; read from the profile's histograms, so to within one bin (1/64). Models with different
    numbers of layers are matched by depth, first on first and last on last.

    Args:
        profiles: One profile or several.
        ax: Where to draw.
    """
    profiles = [profiles] if _is_profile(profiles) else list(profiles)
    ax = _axes(ax)
    longest = max(profiles, key=len)
    looks = styles(_family(profile) for profile in profiles)
    for i, (profile, style) in enumerate(zip(profiles, looks, strict=True)):
        x = _depths(len(profile), len(longest)) + 0.22 * (i - (len(profiles) - 1) / 2)
        q = np.array([_quantiles(site, (0.05, 0.25, 0.5, 0.75, 0.95)) for site in profile.sites.values()]).T
        ax.vlines(x, q[0], q[4], color=style.colour, lw=1)
        ax.vlines(x, q[1], q[3], color=style.colour, lw=5, alpha=0.45)
        ax.plot(
            x,
            q[2],
            color=style.colour,
            ls=style.line,
            lw=0.8,
            marker=style.marker,
            ms=5,
            label=f"{profile.model} ({_settings(profile)})",
        )
    _layer_axis(ax, longest)
    ax.set_ylim(0, 1)
    ax.set_ylabel("gate ω")
    ax.set_title("gates by layer: median, middle half, middle 90 %", loc="left", fontsize="medium")
    ax.legend(loc="best", fontsize="small")
    return ax


def _family(profile: AttentionProfile) -> str:
    return next(iter(profile.sites.values())).family


def _depths(count: int, longest: int) -> np.ndarray:
    return np.linspace(0, longest - 1, count) if count > 1 else np.array([0.0])


def _layer_axis(ax: Axes, profile: AttentionProfile) -> None:
    names = layer_labels(list(profile.sites))
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize="small")
    ax.set_xlabel("layer, from input to output")
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.spines[["top", "right"]].set_visible(False)


def _quantiles(site: SiteProfile, shares: Sequence[float]) -> np.ndarray:
    """Quantiles of all gates of a site, channels pooled; within a bin, gates are taken to be spread evenly."""
    counts = numbers(site.histogram.counts).sum(axis=(0, 1))
    upto = counts.cumsum()
    rank = np.asarray(shares) * upto[-1]
    at = np.searchsorted(upto, np.maximum(rank, 1e-9))
    part = (rank - (upto[at] - counts[at])) / counts[at]
    return site.histogram.low + (at + part) * (site.histogram.high - site.histogram.low) / len(counts)


def class_curves(
    profile: AttentionProfile,
    site: str,
    classes: Sequence[str] | None = None,
    *,
    sort: bool = False,
    limits: tuple[float, float] | None = views.FULL,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The ECA paper's figure: gate by channel index for a few classes, and the mean of all.

    Args:
        profile: Made with ``by="class"``.
        site: Name of the site.
        classes: Up to six classes; None for four spread over those that have images.
        sort: Put the channels in the order of the mean gate, one order for all curves.
        limits: Ends of the vertical axis; None to fit them to the data.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: The profile has no classes, or not these.
        KeyError: The profile has no such site.

    Source: Wang et al., CVPR 2020, Figure 4.
    """
    if profile.by is None:
        raise ValueError(
            'class_curves: the profile pools all images; make one with profile(model, images, by="class").'
        )
    one = profile[site]
    if classes is None:
        have = [name for name, count in zip(profile.classes, profile.counts.tolist(), strict=True) if count]
        classes = spread(have, 4)
    curves = {name: _mean_gate(one, _row(profile, name)) for name in classes}
    mean = _mean_gate(one, None)
    ax = _axes(ax)
    what = f"{profile.model} ({setting(one)}): mean gate by class at {site}"
    views.ClassCurves(ax, max(len(curves), 1)).update(
        curves,
        mean,
        sort=sort,
        limits=limits or views.fitted(*curves.values(), mean),
        title=what if title is None else title,
    )
    return ax


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of the items, evenly spread, the first among them."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def saturation(profiles: AttentionProfile | Sequence[AttentionProfile], *, ax: Axes | None = None) -> Axes:
    """Share of the gates that are nearly shut (drawn downwards) or nearly open (upwards), by layer.

    Args:
        profiles: One profile or several; the bounds (0.05 and 0.95) are those they were made with.
        ax: Where to draw.
    """
    profiles = [profiles] if _is_profile(profiles) else list(profiles)
    ax = _axes(ax)
    longest = max(profiles, key=len)
    width = 0.8 / len(profiles)
    most = 0.0
    for i, (profile, style) in enumerate(zip(profiles, styles(map(_family, profiles)), strict=True)):
        x = _depths(len(profile), len(longest)) + width * (i - (len(profiles) - 1) / 2)
        shares = np.array([_tails(site) for site in profile.sites.values()]).T
        most = max(most, np.nanmax(shares))
        look = {"color": style.colour, "hatch": style.hatch or None, "edgecolor": "white", "linewidth": 0.5}
        ax.bar(x, shares[1], width, label=f"{profile.model} ({_settings(profile)})", **look)
        ax.bar(x, -shares[0], width, **look)
    first = next(iter(longest.sites.values())).tails
    ax.axhline(0, color=INK, lw=0.8)
    _layer_axis(ax, longest)
    top = max(views.nice_top(most * 1.05), 1.0)
    if most == 0:
        ax.text(0.5, 0.55, "none", transform=ax.transAxes, ha="center", color=INK)
    ax.set_ylim(-top, top)
    ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    ax.set_ylabel(f"share of gates (%)\n← below {first.low:g}    above {first.high:g} →")
    ax.set_title("saturated gates by layer", loc="left", fontsize="medium")
    ax.legend(loc="best", fontsize="small")
    return ax


def _tails(site: SiteProfile) -> tuple[float, float]:
    n = numbers(site.moments.n)
    seen = n > 0
    weight = n[seen] / n.sum()
    below, above = (numbers(part)[seen].mean(axis=1) @ weight for part in (site.tails.below, site.tails.above))
    return 100 * below, 100 * above


# ------------------------------------------------------------------------------------------------------------- kernels


def adaptive_rule(
    table: pd.DataFrame | None = None,
    *,
    gamma: float = 2,
    b: float = 1,
    largest: int = 4096,
    ax: Axes | None = None,
) -> Axes:
    """The adaptive rule k = ψ(C): the staircase of the paper's code, the value that it rounds, and the exact ties.

    Args:
        table: What :func:`ecaviz.kernels.rule_table` gives for the C to mark, with the same ``gamma`` and ``b``; None
            for the powers of two.
        gamma: γ.
        b: The offset b.
        largest: Right end of the axis.
        ax: Where to draw.

    Source: Wang et al., CVPR 2020, Eq. 12 and Figure 3.
    """
    from .attention import adaptive_kernel_size
    from .kernels import adaptive_continuous, rule_table

    if table is None:
        table = rule_table([2**i for i in range(1, int(np.log2(largest)) + 1)], gamma, b)
    ax = _axes(ax)
    eca = STYLES["eca"][0]
    c = np.arange(2, largest + 1)
    ax.step(
        c,
        [adaptive_kernel_size(int(i), gamma, b) for i in c],
        where="post",
        color=eca.colour,
        lw=2,
        label="k = ψ(C), the paper's code",
    )
    ax.plot(
        c,
        [adaptive_continuous(i, gamma, b) for i in c],
        color=INK,
        ls="--",
        lw=1,
        label=f"(log2 C + {b:g}) / {gamma:g}",
    )
    ax.plot(table["channels"], table["paper_code"], ls="", marker="o", ms=6, color=eca.colour)
    ties = table[table["tie"]]
    ax.plot(
        ties["channels"],
        ties["continuous"],
        ls="",
        marker="D",
        ms=8,
        mfc="white",
        mec=INK,
        label="exact tie: two odd numbers are equally near",
    )
    ax.set_xscale("log", base=2)
    ax.set_xlim(2, largest)
    ticks = [2**i for i in range(1, int(np.log2(largest)) + 1)]
    ax.set_xticks(ticks, [str(i) for i in ticks])
    ax.minorticks_off()
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.set_ylim(0, None)
    ax.set_xlabel("channels C")
    ax.set_ylabel("kernel size k")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(f"the adaptive kernel size, γ = {gamma:g}, b = {b:g}", loc="left", fontsize="medium")
    ax.legend(loc="upper left", fontsize="small")
    return ax


def kernel(weights: Tensor, resized: Tensor | None = None, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """One kernel, weight by offset; beside it, if given, its resized version.

    Args:
        weights: k weights, such as ``site.kernel``.
        resized: What :func:`ecaviz.kernels.resize_kernel` made of it.
        title: Replaces the title.
        ax: Where to draw.
    """
    w = numbers(weights)
    other = None if resized is None else numbers(resized)
    ax = _axes(ax)
    what = f"kernel, k = {len(w)}" + ("" if other is None else f", resized to k = {len(other)}")
    kernel_views.KernelStems(ax).update(w, other, title=what if title is None else title)
    return ax


def learned_kernels(table: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """The learned kernels of a model: layer × offset, the colour centred at zero, the weights written in.

    Args:
        table: What :func:`ecaviz.kernels.learned_kernels` gives.
        title: Replaces the title.
        ax: Where to draw. Cells beyond a layer's k are grey.
    """
    sites = table.drop_duplicates("site")
    reach = int(table["offset"].abs().max())
    grid = np.full((len(sites), 2 * reach + 1), np.nan)
    rows = {name: i for i, name in enumerate(sites["site"])}
    grid[table["site"].map(rows), table["offset"] + reach] = table["weight"]
    limit = np.nanmax(np.abs(grid)) or 1.0
    ax = _axes(ax)
    image = ax.imshow(
        grid,
        cmap=views.masked_map(views.DIVERGING),
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        extent=(-reach - 0.5, reach + 0.5, len(sites) - 0.5, -0.5),
    )
    if grid.size <= 200:
        for (i, j), value in np.ndenumerate(grid):
            if not np.isnan(value):
                colour = "white" if abs(value) > 0.6 * limit else INK
                ax.text(j - reach, i, f"{value:.2f}", ha="center", va="center", fontsize="x-small", color=colour)
    names = layer_labels(sites["site"].tolist())
    ax.set_yticks(
        range(len(names)), [f"{n} (C={c}, k={k})" for n, c, k in zip(names, sites["channels"], sites["k"], strict=True)]
    )
    ax.set_xticks(range(-reach, reach + 1))
    ax.set_xlabel("offset (channels)")
    ax.set_ylabel("layer")
    views.colour_bar(ax, image, "weight w")
    ax.set_title("learned kernels" if title is None else title, loc="left", fontsize="medium")
    return ax


def gates_by_kernel(
    original: Tensor,
    other: Tensor,
    *,
    kernel_size: int | None = None,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The gates another kernel makes against those of the trained one: a density, since there are many.

    Args:
        original: Gates of the trained kernel, N×C.
        other: Gates of the other one, such as :func:`ecaviz.kernels.gates_for_kernel` gives, N×C.
        kernel_size: Of the other, for the label.
        limits: Ends of both axes; None to fit them to the data.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: The shapes differ.
    """
    x, y = numbers(original), numbers(other)
    ax = _axes(ax)
    label = "gate ω of the other kernel" if kernel_size is None else f"gate ω with k = {kernel_size}"
    view = kernel_views.GatePairs(ax)
    view.update(x, y, limits=limits or views.fitted(x, y), label=label)
    ax.set_title(f"mean |Δω| = {np.abs(y - x).mean():.3f}" if title is None else title, loc="left", fontsize="medium")
    return ax


# --------------------------------------------------------------------------------------------------------- interaction


def interaction(
    matrix: InteractionMatrix | Structure | Tensor,
    *,
    absolute: bool = False,
    cells: int = 256,
    reduce: str = "max",
    limit: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""An interaction matrix J = ∂z/∂y as a heat map, centred at zero; or which pairs a form allows to interact.

    A matrix of more than ``cells`` channels is shown at reduced resolution, and the title says how.

    Args:
        matrix: What :func:`ecaviz.interaction_matrix` gives; a :class:`ecaviz.interaction.Structure`, drawn as the
            share of pairs; or a tensor C×C.
        absolute: Draw \|J\|, which can be read without colour.
        cells: The most cells a side.
        reduce: "max" (of each block the entry largest in absolute value) or "mean". A structure always takes the mean.
        limit: End of the colour scale; None for the largest value.
        title: Replaces the first line of the title.
        ax: Where to draw.

    Raises:
        ValueError: ``reduce`` is neither, or the matrix is not square.
    """
    ax = _axes(ax)
    if hasattr(matrix, "partners"):
        kind, reduce = "share", "mean"
        what = f"pairs that can interact: {setting(matrix)}, C={matrix.channels}: {matrix.structural:.2%}"
    else:
        kind = "size" if absolute else "signed"
        what = "|J|" if absolute else "J"
        if hasattr(matrix, "form"):
            over = f" over {matrix.images} images" if matrix.images else ""
            where = f" of {matrix.site}" if matrix.site else ""
            what += f"{where}: {setting(matrix)}, C={matrix.channels} ({matrix.kind}{over})"
    values = numbers(getattr(matrix, "matrix", matrix))
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise ValueError(f"interaction: a matrix C×C was expected, got shape {values.shape}.")
    shown, side = kernel_views.pool(np.abs(values) if absolute else values, cells, reduce)
    what = what if title is None else title
    if side > 1:
        how = "mean" if reduce == "mean" else "largest |J|"
        what += f"\neach cell: the {how} of {side}×{side} pairs"
    kernel_views.Interaction(ax, kind).update(shown, len(values), limit=limit, title=what)
    return ax
