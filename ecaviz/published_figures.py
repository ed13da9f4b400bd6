"""The two published figures of gates by class, of any profile. Reached as ``ecaviz.plots.<name>``.

plots.senet_figure(profile)              # SENet: one model, depth by depth, a few classes and all, with their spread
plots.eca_figure([se, eca])              # ECA-Net: SE's row above ECA's, conv_i_j by channel
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import checks
from .blocks import blocks_of, last_of_stages, title_of
from .gate_variance import by_class
from .looks import MOST_SERIES, series_styles, settings
from .texts import names_as_written
from .themes import current
from .views import Picture, fitted, numbers, spread, strip_spines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .profiles import AttentionProfile, SiteProfile

__all__ = ["eca_figure", "senet_figure"]

CHANNELS = 64
"""Channels that are drawn: of hundreds of lines nobody sees anything."""


@names_as_written
def senet_figure(
    profile: AttentionProfile,
    classes: Sequence[str] | None = None,
    *,
    sites: Sequence[str] | None = None,
    channels: int | None = CHANNELS,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
    figure: Figure | None = None,
) -> Figure:
    """SENet's "role of excitation": gate by channel at some depths, for a few classes and all images.

    A line is the mean over the images of a class, its band one standard deviation to either side. Drawn are the last
    block of each stage and, as in the paper, the other blocks of the last stage (at most three).

    Args:
        profile: Made with ``by="class"``.
        classes: Up to six; None for two spread over those that have images (of more bands little is seen).
        sites: Names, or ``conv_i_j``; None for the choice above.
        channels: How many of the channels, from the first; None for all, as in the paper.
        limits: Ends of the vertical axis; None to fit all panels together.
        title: Replaces what stands above the figure.
        figure: Where to draw; None for a new one.

    Raises:
        ValueError: The profile pools all images, or has no such class or site.

    Source: Hu et al., "Squeeze-and-Excitation Networks", TPAMI 2019, section "Role of Excitation".
    """
    by_class(profile, "senet_figure")
    channels = None if channels is None else checks.at_least_one(channels, "senet_figure: channels")
    names = _classes([profile], classes, 2, "senet_figure")
    blocks = _blocks(profile)
    chosen = last_of_stages(blocks, whole=True) if sites is None else [_site(blocks, s, "senet_figure") for s in sites]
    _some(chosen, "senet_figure: sites")
    columns = 2 if len(chosen) == 4 else min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    if figure is None:
        figure = Picture(figsize=(4.3 * columns, 0.7 + 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    limits = limits or _limits([(profile, site) for site in chosen], names, channels, band=True)
    for ax, site in zip(axes.flat, chosen, strict=False):
        _panel(ax, profile[site], profile, names, channels, limits, band=True)
        ax.set_title(f"{title_of(blocks[site])}: {site}", loc="left", fontsize="medium")
    for ax in axes.flat[len(chosen) :]:
        ax.set_visible(False)
    _finish(figure, axes, names, band=True)
    what = f"{profile.model} ({settings(profile.sites.values())}), {profile.n:,} images ({_short(profile)}): gates by "
    which = "chosen sites" if sites is not None else "last block of each stage, and the last stage"
    figure.suptitle(f"{what}class, ± 1 std\n{which}" if title is None else title, x=0.01, ha="left", fontsize="medium")
    return figure


@names_as_written
def eca_figure(
    profiles: AttentionProfile | Sequence[AttentionProfile],
    classes: Sequence[str] | None = None,
    *,
    sites: Sequence[str] | None = None,
    channels: int | None = CHANNELS,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
    figure: Figure | None = None,
) -> Figure:
    """The ECA paper's figure: mean gate by channel of conv_i_j, four classes and all; a row a model, SE's first.

    Args:
        profiles: One or several, made with ``by="class"`` over the same classes.
        classes: Up to six; None for four spread over those that have images.
        sites: ``conv_i_j``, or names of sites of one of the profiles, which stand for the same block of the others;
            None for the last block of each stage.
        channels: How many of the channels, from the first; None for all, as in the paper.
        limits: Ends of the vertical axis; None to fit all panels together.
        title: Replaces what stands above the figure.
        figure: Where to draw; None for a new one.

    Raises:
        ValueError: A profile pools all images, or has no such class or site.

    Source: Wang et al., "ECA-Net", CVPR 2020, Figure 4 and supplement.
    """
    profiles = [profiles] if hasattr(profiles, "sites") else list(profiles)
    _some(profiles, "eca_figure: profiles")
    channels = None if channels is None else checks.at_least_one(channels, "eca_figure: channels")
    for profile in profiles:
        by_class(profile, "eca_figure")
    profiles = sorted(profiles, key=lambda one: not _family(one).startswith("se"))
    names = _classes(profiles, classes, 4, "eca_figure")
    blocks = [_blocks(profile) for profile in profiles]
    if sites is None:
        chosen = [last_of_stages(of) for of in blocks]
    else:
        wanted = [next((of[site] for of in blocks if site in of), site) for site in sites]
        chosen = [[_site(of, one, "eca_figure") for one in wanted] for of in blocks]
    _some(chosen[0], "eca_figure: sites")
    columns = max(map(len, chosen))
    if figure is None:
        figure = Picture(figsize=(1 + 3.3 * columns, 0.7 + 2.4 * len(profiles)), layout="constrained")
    axes = figure.subplots(len(profiles), columns, sharey=True, squeeze=False)
    pairs = [(profile, site) for profile, own in zip(profiles, chosen, strict=True) for site in own]
    limits = limits or _limits(pairs, names, channels, band=False)
    for row, profile, of, own in zip(axes, profiles, blocks, chosen, strict=True):
        for ax, site in zip(row, own, strict=False):
            _panel(ax, profile[site], profile, names, channels, limits, band=False)
            ax.set_title(f"{title_of(of[site])}: {site}", loc="left", fontsize="small")
        for ax in row[len(own) :]:
            ax.set_visible(False)
        row[0].set_ylabel(f"{profile.model}\ngate ω")
    _finish(figure, axes, names, band=False)
    counts = " | ".join(dict.fromkeys(f"{one.n:,} images ({_short(one)})" for one in profiles))
    what = f"mean gate by class and channel, {counts}" if title is None else title
    figure.suptitle(what, x=0.01, ha="left", fontsize="medium")
    return figure


def _short(profile: AttentionProfile) -> str:
    return profile.images if len(profile.images) <= 48 else f"{profile.images[:47]}…"


def _family(profile: AttentionProfile) -> str:
    return next(iter(profile.sites.values())).family


def _blocks(profile: AttentionProfile) -> dict[str, tuple[int, int]]:
    return blocks_of({name: site.channels for name, site in profile.sites.items()})


def _site(blocks: dict[str, tuple[int, int]], wanted: str | tuple[int, int], what: str) -> str:
    """The site of a name, of ``conv_i_j``, or of a block."""
    for name, block in blocks.items():
        if wanted in (name, block, title_of(block)):
            return name
    wanted = title_of(wanted) if isinstance(wanted, tuple) else wanted
    known = ", ".join(f"{name} ({title_of(block)})" for name, block in blocks.items())
    raise ValueError(f"{what}: there is no site {wanted!r}; there are: {known}.")


def _some(given: Sequence, what: str) -> None:
    if not given:
        raise ValueError(f"{what}: at least one was expected, got none.")


def _classes(
    profiles: Sequence[AttentionProfile], classes: Sequence[str] | None, count: int, what: str
) -> tuple[str, ...]:
    """The classes to draw, which all profiles have images of."""
    have = [[name for name, n in zip(one.classes, one.counts.tolist(), strict=True) if n] for one in profiles]
    both = [name for name in have[0] if all(name in other for other in have)]
    chosen = tuple(spread(both, count) if classes is None else classes)
    missing = [name for name in chosen if name not in both]
    if missing or not chosen:
        raise ValueError(
            f"{what}: no images of {', '.join(missing) or 'any common class'}; there are: {', '.join(both)}."
        )
    if len(chosen) > MOST_SERIES:
        raise ValueError(f"{what}: at most {MOST_SERIES} classes can be told apart, got {len(chosen)}.")
    return chosen


def _curves(
    site: SiteProfile, profile: AttentionProfile, names: Sequence[str], channels: int | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and standard deviation by channel, of each class and then of all images."""
    upto = slice(channels)
    means, stds = numbers(site.moments.mean), numbers(site.moments.std())
    pooled = site.moments.pooled()
    found = [(means[row][upto], stds[row][upto]) for row in map(profile.classes.index, names)]
    return [*found, (numbers(pooled.mean)[0][upto], numbers(pooled.std())[0][upto])]


def _limits(pairs, names: Sequence[str], channels: int | None, *, band: bool) -> tuple[float, float]:
    every = [curve for profile, site in pairs for curve in _curves(profile[site], profile, names, channels)]
    reach = [mean + sign * std * band for mean, std in every for sign in (-1, 1)]
    return fitted(*(np.clip(one, 0, 1) for one in reach))


def _panel(
    ax: Axes,
    site: SiteProfile,
    profile: AttentionProfile,
    names: Sequence[str],
    channels: int | None,
    limits: tuple[float, float],
    *,
    band: bool,
) -> None:
    curves = _curves(site, profile, names, channels)
    x = np.arange(len(curves[0][0]))
    looks = [
        *((one.colour, one.line, 1.1, 2.0) for one in series_styles()[: len(names)]),
        (current().ink, "-", 1.8, 1.5),
    ]
    for name, (mean, std), (colour, line, width, order) in zip([*names, "all"], curves, looks, strict=True):
        ax.plot(x, mean, color=colour, ls=line, lw=width, zorder=order, label=name)
        if band:
            ax.fill_between(x, mean - std, mean + std, color=colour, alpha=0.15, lw=0, zorder=1)
    ax.set_xlim(0, max(len(x) - 1, 1))
    ax.set_ylim(*limits)
    some = f" (first {len(x)} of {site.channels})" if len(x) < site.channels else ""
    ax.set_xlabel(f"channel index{some}", fontsize="small")
    strip_spines(ax)


def _finish(figure: Figure, axes: np.ndarray, names: Sequence[str], *, band: bool) -> None:
    """The legend below the panels, and the name of the vertical axis at the left."""
    for ax in axes[:, 0]:
        if not ax.get_ylabel():
            ax.set_ylabel("gate ω")
    handles, _ = axes[0, 0].get_legend_handles_labels()
    labels = [*names, "all images"]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small", frameon=False)
