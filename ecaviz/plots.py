"""Plots: data in, matplotlib Axes out.

    profile = ecaviz.profile(model, images, by="class")
    plots.gate_heatmap(profile)                              # layers × channels
    plots.gate_distribution([profile, other], "layer3.0.se")
    plots.class_curves(profile, "layer3.0.se", ["disc", "stripes"])
    plots.interaction(ecaviz.interaction_matrix(model, "layer3.0.se"))
    plots.rule_staircase(gamma=2, b=1)                       # ψ(C), its steps and its ties
    plots.attention_diagram("cbam")                          # the block as a drawing
    plots.gate_maps(gates["layer1.0.se.spatial"], images)    # gates that are not one number a channel

Every plot takes data and ``ax=None`` (then pyplot's current Axes) and returns the Axes; size and ``show()`` are the
caller's. :func:`attention_block`, :func:`gate_maps`, :func:`coverage_cost`, :func:`coverage_by_channels`,
:func:`locality`, :func:`matrix_grid`, :func:`image_grid`, :func:`poolings`, :func:`convolutions`, :func:`activations`,
:func:`variance_parts`, :func:`senet_figure` and :func:`eca_figure` need several Axes: they take ``figure=None`` and
return the figure. Colours and styles are those of :mod:`ecaviz.looks`, the drawing is done in :mod:`ecaviz.views`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import views
from .agreement_plots import gate_correlations
from .block_drawings import attention_diagram
from .block_figures import attention_block, gate_maps
from .comparison_plots import accuracy_by_module, accuracy_by_parameters, cost_by_channels, differences, matrix_grid
from .coverage_plots import coverage_by_channels, directness_by_site, partners_by_channels
from .figures import coverage_cost, image_grid
from .intervention_plots import channels_of_class, contrast_curve, exact_and_gradient, gate_and_mean, static_and_dynamic
from .kernel_plots import gates_by_kernel, interaction, kernel, learned_kernels, weights_by_start
from .locality_plots import band_energy, locality
from .looks import MOST_SERIES, series_styles, setting, settings, styles
from .published_figures import eca_figure, senet_figure
from .response_plots import kernel_null, kernel_response, kernel_responses
from .rule_plots import rule_audit, rule_staircase
from .study_plots import accuracy_by_variant
from .surgery_plots import surgery_effects
from .survey_plots import activations, convolutions, poolings
from .texts import names_as_written
from .themes import current
from .variance_plots import factor_information, selectivity, variance_parts
from .views import Distribution, axes_or_current, counts_of, layer_axis, numbers, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .profiles import AttentionProfile, SiteProfile

__all__ = [
    "accuracy_by_module",
    "accuracy_by_parameters",
    "accuracy_by_variant",
    "activations",
    "attention_block",
    "attention_diagram",
    "band_energy",
    "channels_of_class",
    "class_curves",
    "contrast_curve",
    "convolutions",
    "cost_by_channels",
    "coverage_by_channels",
    "coverage_cost",
    "differences",
    "directness_by_site",
    "eca_figure",
    "exact_and_gradient",
    "factor_information",
    "gate_and_mean",
    "gate_correlations",
    "gate_distribution",
    "gate_distributions_by_layer",
    "gate_heatmap",
    "gate_maps",
    "gates_by_kernel",
    "image_grid",
    "interaction",
    "kernel",
    "kernel_null",
    "kernel_response",
    "kernel_responses",
    "learned_kernels",
    "locality",
    "matrix_grid",
    "partners_by_channels",
    "poolings",
    "rule_audit",
    "rule_staircase",
    "saturation",
    "selectivity",
    "senet_figure",
    "static_and_dynamic",
    "surgery_effects",
    "variance_parts",
    "weights_by_start",
]


def _is_profile(data: Any) -> bool:
    return hasattr(data, "sites") and hasattr(data, "classes")


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


def _per(data: Any) -> str:
    """What one gate of a record is for; empty for a tensor."""
    return getattr(getattr(data, "site", None), "per", "")


# --------------------------------------------------------------------------------------------------------------- gates


@names_as_written
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
        data: A profile; or a mapping from site names to gates, N×C or C, or to records, such as what
            :func:`ecaviz.capture` yields. Of N×C the mean over the rows is shown; of gates of patches the mean over the
            map; records whose gates are of positions, the same for every channel, are left out.
        of: A class of the profile; None for all images.
        sort: Sort each row by its gates: the row then reads as the quantiles of its layer.
        marked: A site to frame.
        limits: Ends of the colour scale; None to fit them to the data (0.5 ± what holds them all).
        title: Replaces the title.
        colorbar: Whether to add a colour bar.
        ax: Where to draw.

    Raises:
        ValueError: The profile has no such class, or the mapping is empty or has gates of positions alone.
    """
    if _is_profile(data):
        row = _row(data, of)
        gates = {name: _mean_gate(site, row) for name, site in data.sites.items()}
        what = f"{data.model} ({settings(data.sites.values())}): mean gate, " + (of or f"all {data.n} images")
        kinds = [site.per for site in data.sites.values()]
    else:
        kept = {name: part for name, part in data.items() if _per(part) != "position"}
        gates = {name: numbers(getattr(part, "by_channel", part)) for name, part in kept.items()}
        gates = {name: part.mean(axis=0) if part.ndim == 2 else part for name, part in gates.items()}
        what = "mean gate by layer and channel"
        kinds = [_per(part) for part in kept.values()]
    what += "\n(mean over the map)" if "element" in kinds else ""
    if not gates:
        raise ValueError(
            "gate_heatmap: there are no gates to draw: no batch went through the network, the mapping is empty, or its "
            "gates are of positions alone, which gate_maps draws."
        )
    ax = axes_or_current(ax)
    view = views.GateHeatmap(ax, colorbar=colorbar)
    limits = limits or views.fitted(*gates.values())
    view.update(gates, sort=sort, marked=marked, limits=limits, title=what if title is None else title)
    return ax


@names_as_written
def gate_distribution(
    data: Any,
    site: str | Sequence[str] | None = None,
    *,
    of: str | Sequence[str | None] | None = None,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How the gates of one site are distributed on [0, 1]: one model, or several in one picture.

    All channels and images of the site are pooled, of a record its patches or positions too; each histogram adds up to
    100 %. One profile given several times, with a class for each, shows the classes beside each other.

    Args:
        data: One or a list of: a profile, a :class:`SiteProfile`, a record of :func:`ecaviz.capture`, a tensor.
        site: The site to take of profiles; one name, or one for each.
        of: A class of the profiles, or one for each; None for all images.
        labels: Names for the legend; None for what the data tell.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: A profile came without ``site``; or with ``of`` something that is no profile, or a profile without
            such a class, or without histograms by class.
        KeyError: A profile has no such site.
    """
    items = list(data) if isinstance(data, list | tuple) else [data]
    sites, classes = ([one] * len(items) if one is None or isinstance(one, str) else list(one) for one in (site, of))
    parts = []
    for i, (item, name, of_class) in enumerate(zip(items, sites, classes, strict=True)):
        label, counts = "gates" if len(items) == 1 else f"series {i + 1}", None
        if of_class is not None and not _is_profile(item):
            raise ValueError(f"gate_distribution: of={of_class!r} is a class of a profile, got {type(item).__name__}.")
        if _is_profile(item):
            if name is None:
                raise ValueError(f"gate_distribution: name the site to draw; the profile has: {', '.join(item.sites)}.")
            label = item.model
            counts, item = _counts(item, name, of_class), item[name]
        if hasattr(item, "moments"):
            family = item.family
            counts = numbers(item.histogram.counts).sum(axis=(0, 1)) if counts is None else counts
            label = f"{label if label != 'gates' else item.name} ({setting(item)})"
            label += "" if of_class is None else f": {of_class}"
        elif hasattr(item, "gate"):
            family, counts = item.site.family, counts_of(numbers(item.gate))
            label = f"{item.site.name} ({setting(item.site)})"
        else:
            family, counts = "", counts_of(numbers(item))
        # several classes have colours of their own, one class in several models those of the models
        style = series_styles()[i % MOST_SERIES] if of_class is not None and len(set(classes)) > 1 else None
        parts.append(Distribution(labels[i] if labels else label, family, counts, style))
    names = list(dict.fromkeys(name for name in sites if name))
    ax = axes_or_current(ax)
    view = views.GateDistribution(ax, len(parts), bins=len(parts[0].counts))
    what = "distribution of the gates" + (f" at {', '.join(names)}" if names else "")
    view.update(parts, title=what if title is None else title)
    return ax


@names_as_written
def gate_distributions_by_layer(
    profiles: AttentionProfile | Sequence[AttentionProfile], *, of: str | None = None, ax: Axes | None = None
) -> Axes:
    """Quantiles of the gates by depth, for one model or two side by side.

    For each layer: the median (marker), the middle half (thick line) and the middle 90 % (thin line) of all its gates,
    channels and images pooled; read from the profile's histograms, so to within one bin (1/64). Models with different
    numbers of layers are matched by depth, first on first and last on last.

    Args:
        profiles: One profile or several.
        of: A class of the profiles; None for all images.
        ax: Where to draw.

    Raises:
        ValueError: A profile has no such class, or keeps no histograms by class.
    """
    profiles = [profiles] if _is_profile(profiles) else list(profiles)
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    found = [[_quantiles(site, shares, _counts(one, name, of)) for name, site in one.sites.items()] for one in profiles]
    ax = axes_or_current(ax)
    longest = max(profiles, key=len)
    looks = styles(_family(profile) for profile in profiles)
    for i, (profile, style) in enumerate(zip(profiles, looks, strict=True)):
        x = _depths(len(profile), len(longest)) + 0.22 * (i - (len(profiles) - 1) / 2)
        q = np.array(found[i]).T
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
            label=f"{profile.model} ({settings(profile.sites.values())})",
        )
    layer_axis(ax, list(longest.sites))
    ax.set_ylim(0, 1)
    ax.set_ylabel("gate ω")
    what = "gates by layer" if of is None else f"gates of {of} by layer"
    ax.set_title(f"{what}: median, middle half, middle 90 %", loc="left", fontsize="medium")
    ax.legend(loc="upper left", fontsize="small")
    return ax


def _family(profile: AttentionProfile) -> str:
    return next(iter(profile.sites.values())).family


def _depths(count: int, longest: int) -> np.ndarray:
    return np.linspace(0, longest - 1, count) if count > 1 else np.array([0.0])


def _counts(profile: AttentionProfile, site: str, of: str | None) -> np.ndarray:
    """How many gates of a site lie in each bin, channels pooled.

    Raises:
        ValueError: The profile has no such class, no image of it, or no histograms by class.
    """
    counts = numbers(profile.histogram(site, of)).sum(axis=0)
    if of is not None and not counts.any():
        raise ValueError(f"plots: the profile of {profile.model} has no gates of class {of!r}.")
    return counts


def _quantiles(site: SiteProfile, shares: Sequence[float], counts: np.ndarray | None = None) -> np.ndarray:
    """Quantiles of all gates of a site, channels pooled; within a bin, gates are taken to be spread evenly."""
    counts = numbers(site.histogram.counts).sum(axis=(0, 1)) if counts is None else counts
    upto = counts.cumsum()
    rank = np.asarray(shares) * upto[-1]
    at = np.searchsorted(upto, np.maximum(rank, 1e-9))
    part = (rank - (upto[at] - counts[at])) / counts[at]
    return site.histogram.low + (at + part) * (site.histogram.high - site.histogram.low) / len(counts)


@names_as_written
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
    ax = axes_or_current(ax)
    what = f"{profile.model} ({setting(one)}): mean gate by class at {site}"
    views.ClassCurves(ax, max(len(curves), 1)).update(
        curves,
        mean,
        sort=sort,
        limits=limits or views.fitted(*curves.values(), mean),
        title=what if title is None else title,
    )
    return ax


@names_as_written
def saturation(profiles: AttentionProfile | Sequence[AttentionProfile], *, ax: Axes | None = None) -> Axes:
    """Share of the gates that are nearly shut (drawn downwards) or nearly open (upwards), by layer.

    Args:
        profiles: One profile or several; the bounds (0.05 and 0.95) are those they were made with.
        ax: Where to draw.
    """
    profiles = [profiles] if _is_profile(profiles) else list(profiles)
    ax = axes_or_current(ax)
    longest = max(profiles, key=len)
    width = 0.8 / len(profiles)
    most = 0.0
    for i, (profile, style) in enumerate(zip(profiles, styles(map(_family, profiles)), strict=True)):
        x = _depths(len(profile), len(longest)) + width * (i - (len(profiles) - 1) / 2)
        shares = np.array([_tails(site) for site in profile.sites.values()]).T
        most = max(most, np.nanmax(shares))
        look = {"color": style.colour, "hatch": style.hatch or None, "edgecolor": current().paper, "linewidth": 0.5}
        ax.bar(x, shares[1], width, label=f"{profile.model} ({settings(profile.sites.values())})", **look)
        ax.bar(x, -shares[0], width, **look)
    first = next(iter(longest.sites.values())).tails
    ax.axhline(0, color=current().ink, lw=0.8)
    layer_axis(ax, list(longest.sites))
    top = max(views.nice_top(most * 1.05), 1.0)
    if most == 0:
        ax.text(0.5, 0.55, "none", transform=ax.transAxes, ha="center", color=current().ink)
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
