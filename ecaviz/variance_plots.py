"""Plots of what moves the gates: parts of variance, class selectivity, factors. Reached as ``ecaviz.plots.<name>``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .gate_variance import PARTS
from .looks import family_name, ink_on, layer_labels, shares_map, styles
from .texts import names_as_written
from .themes import current
from .views import Picture, axes_or_current, colour_bar, layer_axis

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["factor_information", "selectivity", "variance_parts"]

_LOOKS = {
    "channel": ("mist", ""),
    "class": ("orange", "xxx"),
    "channel × class": ("blue", ""),
    "within": ("paper", ".."),
}
"""Hue and hatch of a part: told apart by lightness and hatch without colour."""


def _by_name(tables: Any) -> dict[str, pd.DataFrame]:
    return dict(tables) if isinstance(tables, Mapping) else {"": tables}


@names_as_written
def variance_parts(
    tables: pd.DataFrame | Mapping[str, pd.DataFrame], *, title: str | None = None, figure: Figure | None = None
) -> Figure:
    """The four parts of the gates' variance by site, as stacked bars of 100 %; one panel a model.

    A line over the bars' class parts says how much they would hold together by chance. Where classes cannot be told
    apart, what is not the channel part is left empty, and the title says why.

    Args:
        tables: What :func:`ecaviz.variance_parts` gives; or several of them by name of the model.
        title: Replaces what stands above the figure.
        figure: Where to draw; None for a new one.
    """
    tables = _by_name(tables)
    if figure is None:
        figure = Picture(figsize=(max(5.5, 5 * len(tables)), 3.9), layout="constrained")
    axes = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for ax, (name, table) in zip(axes, tables.items(), strict=True):
        sites = list(dict.fromkeys(table["site"]))
        shares = table.pivot(index="site", columns="part", values="share").loc[sites, list(PARTS)]
        x, bottom = np.arange(len(sites)), np.zeros(len(sites))
        for part in PARTS:
            hue, hatch = _LOOKS[part]
            height = 100 * shares[part].fillna(0).to_numpy()
            ax.bar(x, height, 0.8, bottom, color=current().hues[hue], hatch=hatch, ec=current().ink, lw=0.5, label=part)
            bottom += height
        chance = 100 * table.groupby("site", sort=False)["by_chance"].first().loc[sites].to_numpy()
        start = 100 * shares["channel"].to_numpy()
        marks = ax.hlines(
            start + chance,
            x - 0.4,
            x + 0.4,
            color=current().hues["vermilion"],
            lw=2,
            label="the two of class, by chance",
        )
        marks.set_visible(not np.isnan(chance).all())
        layer_axis(ax, sites)
        ax.set_ylim(0, 100)
        first = table.iloc[0]
        what = f"n = {first['n']:,} images, {first['classes']} classes"
        why = next((note for note in table["note"] if note), "")
        ax.set_title("\n".join(filter(None, (name, what, why))), loc="left", fontsize="medium")
    axes[0].set_ylabel("share of the gates' variance (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), fontsize="small", frameon=False)
    figure.suptitle(
        "variance of the gates, in four parts" if title is None else title, x=0.01, ha="left", fontsize="large"
    )
    return figure


@names_as_written
def selectivity(
    tables: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    measure: str = "omega2",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How much the gates of each site are about the class: a line a model, with its interval and its null.

    The band of each model reaches from the mean of its null to the 95 % quantile. An open marker is not above chance
    (p > 0.05 after the correction for the sites). Models with different numbers of sites are matched by depth.

    Args:
        tables: What :func:`ecaviz.site_selectivity` gives; or several of them by name of the model.
        measure: "omega2", or "channel × class".
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: The tables have no such measure.
    """
    tables = {name: table[table["measure"] == measure] for name, table in _by_name(tables).items()}
    if any(table.empty for table in tables.values()):
        raise ValueError(f'plots.selectivity: measure must be "omega2" or "channel × class", got {measure!r}.')
    ax = axes_or_current(ax)
    longest = max(tables.values(), key=len)
    bands = []
    looks = styles(table["family"].iloc[0] for table in tables.values())
    for i, ((name, table), style) in enumerate(zip(tables.items(), looks, strict=True)):
        count = len(table)
        x = np.linspace(0, len(longest) - 1, count) if count > 1 else np.zeros(1)
        x = x + 0.1 * (i - (len(tables) - 1) / 2)
        label = name or family_name(table["family"].iloc[0])
        look = {
            "color": style.colour,
            "ls": style.line,
            "lw": 1.4,
            "marker": style.marker,
            "ms": 6,
            "mec": current().ink,
        }
        ax.plot(x, table["value"], label=label, mew=0.6, **look)
        ax.vlines(x, table["low"], table["high"], color=style.colour, lw=2)
        weak = (table["p_adjusted"] > 0.05).to_numpy()
        ax.plot(
            x[weak],
            table["value"][weak],
            ls="",
            marker=style.marker,
            ms=6,
            mfc=current().paper,
            mec=current().ink,
            zorder=4,
        )
        bands.append((x, table["null"], table["null_95"]))
    for i, (x, low, high) in enumerate(bands):
        label = None if i or low.isna().all() else "null: mean to 95 % quantile"
        ax.fill_between(x, low, high, color=current().hues["silver"], alpha=0.6, lw=0, label=label)
    first = longest.iloc[0]
    layer_axis(ax, list(longest["site"]))
    ax.set_ylim(min(0.0, float(longest["low"].min()) - 0.02) if longest["low"].notna().any() else 0.0, 1)
    name = "ω² of the class, mean over channels" if measure == "omega2" else "channel × class (share of variance)"
    ax.set_ylabel(name)
    what = "how much the gates are about the class, by layer"
    what += f": mean and {100 * first['level']:g} % interval\nn = {first['n']:,} images, {first['classes']} classes"
    why = next((note for note in first[["note"]] if note), "")
    if why:
        ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", color=current().ink)
    ax.set_title(what if title is None else title, loc="left", fontsize="medium")
    ax.legend(loc="upper left", fontsize="small")
    return ax


@names_as_written
def factor_information(
    summary: pd.DataFrame,
    *,
    value: str = "excess",
    title: str | None = None,
    colorbar: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Which factor of the images moves the gates, site by site: a heat map with its numbers.

    Args:
        summary: What :func:`ecaviz.factor_summary` gives, of one model.
        value: "excess" (bits above chance, mean over the channels), "above" (share of channels above chance) or
            "leading" (share of channels of which it is the leading factor).
        title: Replaces the title.
        colorbar: Whether to add a colour bar.
        ax: Where to draw.

    Raises:
        ValueError: An unknown ``value``.
    """
    names = {
        "excess": "bits above chance, mean over channels",
        "above": "share of channels above chance (%)",
        "leading": "share of channels that it leads (%)",
    }
    if value not in names:
        raise ValueError(f"plots.factor_information: value must be one of {', '.join(names)}; got {value!r}.")
    ax = axes_or_current(ax)
    sites, factors = (list(dict.fromkeys(summary[column])) for column in ("site", "factor"))
    grid = summary.pivot(index="site", columns="factor", values=value).loc[sites, factors].to_numpy()
    grid = grid if value == "excess" else 100 * grid
    top = max(float(np.nanmax(grid)), 1e-3) if value == "excess" else 100.0
    image = ax.imshow(grid, cmap=shares_map(), vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    for (row, column), number in np.ndenumerate(grid):
        text = f"{number:.2f}".replace("-0.00", "0.00") if value == "excess" else f"{number:.0f}"
        ax.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize="x-small",
            color=ink_on(image.to_rgba(number)),
        )
    ax.set_xticks(range(len(factors)), [name.replace("_", " ") for name in factors], rotation=40, ha="right")
    ax.set_yticks(range(len(sites)), layer_labels(sites), fontsize="small")
    ax.set_xlabel("factor of the images")
    ax.set_ylabel("layer")
    if colorbar:
        colour_bar(ax, image, names[value])
    first = summary.iloc[0]
    what = f"what moves the gates ({family_name(first['family'])}, n = {first['n']:,} images): {names[value]}"
    ax.set_title(what if title is None else title, loc="left", fontsize="medium")
    return ax
