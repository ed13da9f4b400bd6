"""Plots of what interventions on gates do. Reached as ``ecaviz.plots.<name>``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .looks import MOST_SERIES, layer_labels, series_styles, styles
from .texts import names_as_written
from .themes import current
from .views import axes_or_current, numbers, strip_spines

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from .effects import Effect
    from .gates import GateRecord

__all__ = ["channels_of_class", "contrast_curve", "exact_and_gradient", "gate_and_mean", "static_and_dynamic"]

_MODES = {
    "one": ("gate at 1", 4, True),
    "swap": ("gates of another image", 3, False),
    "mean": ("at its mean", 5, True),
    "class-mean": ("at its class's mean", 0, False),
}
_MEASURES = {
    "divergence": ("KL(own ‖ changed), nats", 1.0, None),
    "agreement": ("share of predictions that stay (%)", 100.0, 100.0),
    "accuracy difference": ("difference in accuracy (points)", 100.0, 0.0),
    "accuracy after": ("accuracy (%)", 100.0, None),
    "share of the divergence": ("recovered by the mean (%)", 100.0, 100.0),
    "share of the accuracy": ("recovered by the mean (%)", 100.0, 100.0),
}


@names_as_written
def gate_and_mean(
    record: GateRecord, mean: Any, *, image: int = 0, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """The gates of one image and the mean that they are frozen at, a point a channel, sorted by the mean.

    Args:
        record: Of one site, such as :func:`ecaviz.capture` yields.
        mean: C numbers, such as a row of what :func:`ecaviz.intervene` yields under the name of the site.
        image: Which row of the record, from 0.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: There are not as many means as channels, or the record has no such image.
    """
    gates, mean = numbers(record.by_channel), numbers(mean)
    if mean.shape != gates.shape[1:] or not 0 <= image < len(gates):
        raise ValueError(
            f"gate_and_mean: {gates.shape[1]} means and an image from 0 to {len(gates) - 1} were expected, "
            f"got means of shape {mean.shape} and image {image}."
        )
    ax = axes_or_current(ax)
    order = mean.argsort(kind="stable")
    style = styles([record.site.family])[0]
    marks = {"marker": style.marker, "ms": 3.5, "mfc": style.colour, "mec": style.colour}
    ax.plot(gates[image, order], ls="", label=f"ω of image {image}", **marks)
    ax.plot(mean[order], color=current().ink, lw=2, label="m, what it is frozen at")
    ax.set_xlim(-0.02 * len(mean), 1.02 * len(mean) - 1)
    ax.set_xlabel(f"channel of {record.site.name}, sorted by its mean gate m")
    ax.set_ylabel("gate")
    ax.grid(axis="y", color=current().grid, lw=0.6)
    ax.set_axisbelow(True)
    strip_spines(ax)
    ax.set_title(f"{record.site.name}: a gate and its mean" if title is None else title, loc="left", fontsize="medium")
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.02), frameon=False)
    return ax


@names_as_written
def static_and_dynamic(
    table: pd.DataFrame,
    measure: str = "divergence",
    *,
    modes: Sequence[str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What each site's gate is worth: a point with its interval for each intervention, by site, all together last.

    Divergences are drawn on a logarithmic axis; one that is zero is left out.

    Args:
        table: What :func:`ecaviz.static_dynamic` gives, of one model.
        measure: "divergence", "agreement", "accuracy difference" or "accuracy after" (with labels), or one of the
            shares that the frozen mean recovers.
        modes: Which interventions; None for all in the table.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: An unknown measure, one that the table does not have, or several models.
    """
    if measure not in _MEASURES:
        raise ValueError(f"static_and_dynamic: measure must be one of {', '.join(_MEASURES)}, got {measure!r}.")
    rows = table[table["measure"] == measure]
    rows = rows if modes is None else rows[rows["mode"].isin(modes)]
    if rows.empty or rows["model"].nunique() > 1:
        what = f"has {rows['model'].nunique()} models" if len(rows) else "does not have it"
        raise ValueError(f"static_and_dynamic: {measure}: the table {what}. One model is drawn at a time.")
    ax = axes_or_current(ax)
    label, scale, nothing = _MEASURES[measure]
    sites = list(dict.fromkeys(rows["site"]))
    shown = [mode for mode in _MODES if mode in set(rows["mode"])]
    logarithmic = measure == "divergence" and bool((rows["mean"] > 0).any())
    if logarithmic:
        ax.set_yscale("log")
    for i, mode in enumerate(shown):
        name, place, filled = _MODES[mode]
        style = series_styles()[place]
        one = rows[rows["mode"] == mode].set_index("site").reindex(sites)
        x = np.arange(len(sites)) + 0.15 * (i - (len(shown) - 1) / 2)
        mean, low, high = (scale * one[what].to_numpy(dtype=float) for what in ("mean", "low", "high"))
        told = np.isfinite(mean) & ((mean > 0) | (not logarithmic))
        low = np.where(low > 0, low, mean / 10) if logarithmic else low
        ax.vlines(x[told], low[told], high[told], color=style.colour, lw=1.8)
        face = style.colour if filled else current().paper
        marks = {"marker": style.marker, "ms": 7, "mfc": face, "mec": current().ink, "mew": 1.0}
        ax.plot(x[told], mean[told], ls="", label=name, **marks)
    if nothing is not None:
        ax.axhline(nothing, color=current().muted, lw=1, ls=":")
    last = sites[-1] == "all" and len(sites) > 1
    names = [*layer_labels(sites[:-1]), "all\ntogether"] if last else layer_labels(sites)
    if last:
        ax.axvline(len(sites) - 1.5, color=current().faint, lw=0.8)
    ax.set_xticks(range(len(sites)), names, rotation=0 if len(sites) < 10 else 60, fontsize="small")
    ax.set_xlim(-0.6, len(sites) - 0.4)
    ax.set_xlabel("site under the intervention")
    ax.set_ylabel(label)
    ax.grid(axis="y", color=current().grid, lw=0.6)
    ax.set_axisbelow(True)
    strip_spines(ax)
    if len(shown) > 1:
        _legend_above(ax, len(shown))
    what = f"{rows['model'].iloc[0]}, {rows['n'].iloc[0]} images: mean and {_level(rows)} interval"
    ax.set_title(what if title is None else title, loc="left", fontsize="medium", pad=24 if len(shown) > 1 else 6)
    return ax


def _legend_above(ax: Axes, columns: int) -> None:
    """A legend between the title and the axes, where no data can be."""
    where = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    ax.legend(ncols=columns, fontsize="small", frameon=False, handletextpad=0.2, columnspacing=1.0, **where)


@names_as_written
def channels_of_class(table: pd.DataFrame, *, top: int = 20, title: str | None = None, ax: Axes | None = None) -> Axes:
    """The channels whose gates a class's logit depends on most: exact change, its interval, and the approximation.

    A bar is dark where the interval leaves zero out.

    Args:
        table: What :func:`ecaviz.class_channels` gives, of one site and one class.
        top: How many channels, those of the largest change of either sign.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: Several sites or classes.
    """
    site, _ = _one_site(table, "channels_of_class")
    ax = axes_or_current(ax)
    exact = table["change"].notna().any()
    by = "change" if exact else "gradient"
    chosen = table.reindex(table[by].abs().sort_values(ascending=False, kind="stable").index[:top])
    chosen = chosen.sort_values(by, kind="stable")
    y = np.arange(len(chosen))
    style = series_styles()[5]
    if exact:
        clear = (chosen["low"] > 0) | (chosen["high"] < 0)
        faces = [style.colour if one else current().hues["pale"] for one in clear]
        ax.barh(y, chosen["change"], color=faces, edgecolor=current().ink, lw=0.6, height=0.7, label="exact (mean)")
        ax.hlines(y, chosen["low"], chosen["high"], color=current().ink, lw=1.4, label=f"{_level(table)} interval")
    marks = {"marker": "D", "ms": 5, "mfc": current().hues["orange"], "mec": current().ink, "mew": 0.8}
    ax.plot(chosen["gradient"], y, ls="", label="gradient", **marks)
    ax.axvline(0, color=current().ink, lw=0.8)
    ax.set_yticks(y, [str(one) for one in chosen["channel"]], fontsize="small")
    ax.set_ylim(-0.7, len(chosen) - 0.3)
    ax.set_ylabel("channel")
    ax.set_xlabel(f"change of the logit of “{table['logit'].iloc[0]}” with the gate at its mean")
    ax.grid(axis="x", color=current().grid, lw=0.6)
    ax.set_axisbelow(True)
    strip_spines(ax)
    ax.legend(fontsize="small", frameon=False, loc="best")
    what = f"{site}: the {len(chosen)} of {len(table)} channels that count most, {table['n'].iloc[0]} images"
    ax.set_title(what if title is None else title, loc="left", fontsize="medium")
    return ax


@names_as_written
def exact_and_gradient(table: pd.DataFrame, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Every channel's exact change against its approximation by the gradient, by site.

    Args:
        table: What :func:`ecaviz.class_channels` gives, of one class or several, and at most six sites.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: No exact numbers, or more than six sites.
    """
    sites = list(dict.fromkeys(table["site"]))
    if table["change"].isna().all() or len(sites) > MOST_SERIES:
        raise ValueError(
            f"exact_and_gradient: exact numbers of at most {MOST_SERIES} sites were expected, got {len(sites)} sites"
            + (" without exact numbers." if table["change"].isna().all() else ".")
        )
    ax = axes_or_current(ax)
    ends = [float(f(table[["change", "gradient"]].to_numpy())) for f in (np.nanmin, np.nanmax)]
    ax.plot(ends, ends, color=current().muted, lw=1, ls="--", label="equal", zorder=1)
    for site, label, style in zip(sites, layer_labels(sites), series_styles(), strict=False):
        one = table[table["site"] == site]
        marks = {"marker": style.marker, "ms": 4.5, "mfc": "none", "mec": style.colour, "mew": 1.1}
        ax.plot(one["gradient"], one["change"], ls="", label=label, **marks)
    ax.set_xlabel("by the gradient: g·(m − ω)")
    ax.set_ylabel("exact change of the logit")
    ax.grid(color=current().grid, lw=0.6)
    ax.set_axisbelow(True)
    strip_spines(ax)
    ax.legend(fontsize="small", frameon=False)
    classes = list(dict.fromkeys(table["class"]))
    what = f"each of {len(table)} channels, class {', '.join(classes)}" if len(classes) < 4 else "each channel"
    ax.set_title(what if title is None else title, loc="left", fontsize="medium")
    return ax


@names_as_written
def contrast_curve(
    curves: Mapping[str, Mapping[float, Effect]],
    measure: str = "accuracy after",
    *,
    level: float = 0.95,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What becomes of the predictions as gates go from their mean (a = 0) to their own (1) and beyond.

    Args:
        curves: By the name of a model what :func:`ecaviz.intervention_effects` gives for each a of {"contrast": a}.
        measure: "accuracy after" (with labels), "agreement" or "divergence".
        level: Of the bootstrap intervals over the images, 0…1: the shaded bands.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: No curve, an unknown measure, or one that an effect does not have.
    """
    known = ("accuracy after", "agreement", "divergence")
    if len(curves) > 6:
        raise ValueError(f"contrast_curve: at most 6 curves can be told apart, got {len(curves)}.")
    if measure not in known or not curves:
        raise ValueError(f"contrast_curve: a curve and one of {', '.join(known)} were expected, got {measure!r}.")
    ax = axes_or_current(ax)
    label, scale, _ = _MEASURES[measure]
    looks = series_styles()
    for (name, effects), style in zip(curves.items(), (*looks[4:], *looks[:4]), strict=False):
        a = np.array(sorted(effects))
        rows = []
        for one in a:
            frame = effects[one].to_frame(level=level)
            found = frame[frame["measure"] == measure]
            if found.empty:
                raise ValueError(f"contrast_curve: {name}: {measure} needs images with labels of the model's classes.")
            rows.append(scale * found[["mean", "low", "high"]].to_numpy(dtype=float)[0])
        mean, low, high = np.array(rows).T
        ax.fill_between(a, low, high, color=style.colour, alpha=0.2, lw=0)
        ax.plot(
            a,
            mean,
            color=style.colour,
            ls=style.line,
            marker=style.marker,
            ms=5,
            mec=current().ink,
            mew=0.7,
            label=name,
        )
    ax.axvline(1, color=current().muted, lw=1, ls=":")
    ax.annotate(
        "own gate", (1, 0.02), xycoords=("data", "axes fraction"), xytext=(4, 0), color=current().note, **_SMALL
    )
    ax.set_xlabel("contrast a of all gates: ω' = m + a(ω − m)")
    ax.set_ylabel(label)
    ax.grid(color=current().grid, lw=0.6)
    ax.set_axisbelow(True)
    strip_spines(ax)
    ax.legend(fontsize="small", frameon=False)
    sizes = {len(one) for effects in curves.values() for one in effects.values()}
    tried = [a for effects in curves.values() for a in effects]
    what = f"contrasts {min(tried):g} to {max(tried):g}, {'/'.join(map(str, sorted(sizes)))} images"
    ax.set_title(what if title is None else title, loc="left", fontsize="medium")
    return ax


_SMALL = {"textcoords": "offset points", "fontsize": "small"}


def _level(table: pd.DataFrame) -> str:
    """Of the intervals; recorded tables, which do not say, have 95 %."""
    return f"{100 * (table['level'].iloc[0] if 'level' in table else 0.95):g} %"


def _one_site(table: pd.DataFrame, what: str) -> tuple[str, str]:
    several = [column for column in ("site", "class", "logit") if table[column].nunique() != 1]
    if several:
        raise ValueError(
            f"{what}: one site and one class were expected, got {table[several[0]].nunique()} of {several[0]}."
        )
    return table["site"].iloc[0], table["class"].iloc[0]
