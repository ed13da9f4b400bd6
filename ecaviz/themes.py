"""Light and dark: the colours of paper, ink and families, and the theme in which figures are made.

    with ecaviz.theme("dark"):
        ecaviz.plots.gate_heatmap(profile)

What is made inside is dark; outside, and without any of this, figures are light. The hues are those of Okabe and Ito,
in the dark theme lighter tints of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

__all__ = ["DARK", "LIGHT", "Theme", "current", "theme"]


@dataclass(frozen=True)
class Theme:
    """The colours of one look.

    Attributes:
        name: What :func:`theme` knows it by.
        paper: Behind everything; the inside of open marks.
        ink: Of lines, marks and text that are no series.
        note: Of text that says less.
        muted: Of lines that are there to compare with.
        faint: Of bars and lines behind the data: nulls, joins.
        band: Of areas behind the data.
        grid: Of grids.
        missing: Of cells without a value.
        hues: Colours of series by name, after them those of a few cells and bars.
        signed: Colours from below zero to above it, zero in the middle: the name of a map of matplotlib, or stops.
        sizes: The same from zero up.
        shares: The same for shares, from 0 to 1.
    """

    name: str
    paper: str
    ink: str
    note: str
    muted: str
    faint: str
    band: str
    grid: str
    missing: str
    hues: Mapping[str, str]
    signed: str | tuple[str, ...]
    sizes: str | tuple[str, ...]
    shares: str | tuple[str, ...]


LIGHT = Theme(
    name="light",
    paper="white",
    ink="#222222",
    note="#555555",
    muted="#777777",
    faint="#BBBBBB",
    band="#D0D0D0",
    grid="#DDDDDD",
    missing="#E6E6E6",
    hues={
        "blue": "#0072B2",
        "sky": "#56B4E9",
        "vermilion": "#D55E00",
        "orange": "#E69F00",
        "green": "#009E73",
        "purple": "#CC79A7",
        "ink": "#222222",
        "paper": "#FFFFFF",
        "grey": "#595959",
        "ash": "#8C8C8C",
        "silver": "#9A9A9A",
        "coal": "#3A3A3A",
        "mist": "#D9D9D9",
        "pale": "#C9DDEB",
        "agrees": "#F2F2F2",
        "above": "#C04F00",
        "below": "#00558A",
    },
    signed="RdBu_r",
    sizes="Greys",
    shares="Blues",
)
DARK = Theme(
    name="dark",
    paper="#111111",
    ink="#E6E6E6",
    note="#B0B0B0",
    muted="#9A9A9A",
    faint="#5A5A5A",
    band="#454545",
    grid="#333333",
    missing="#3C3C3C",
    hues={
        "blue": "#3D9BE0",
        "sky": "#A5DCFF",
        "vermilion": "#F4793B",
        "orange": "#FFC745",
        "green": "#1FBF8F",
        "purple": "#E29AC4",
        "ink": "#E6E6E6",
        "paper": "#111111",
        "grey": "#B3B3B3",
        "ash": "#8C8C8C",
        "silver": "#7F7F7F",
        "coal": "#C8C8C8",
        "mist": "#4A4A4A",
        "pale": "#1F3B54",
        "agrees": "#262626",
        "above": "#F4793B",
        "below": "#5AAEEB",
    },
    signed=("#BFE3FF", "#5AAEEB", "#1C6AA8", "#123A5C", "#141414", "#5E2A10", "#AE4A14", "#F0823F", "#FFD3B0"),
    sizes=("#141414", "#6A6A6A", "#B4B4B4", "#F4F4F4"),
    shares=("#141414", "#123A5C", "#1C6AA8", "#5AAEEB", "#D6EDFF"),
)
_THEMES = {one.name: one for one in (LIGHT, DARK)}
_CURRENT: ContextVar[Theme] = ContextVar("theme", default=LIGHT)


def current() -> Theme:
    """The theme in which figures are made now."""
    return _CURRENT.get()


@contextmanager
def theme(name: str) -> Iterator[Theme]:
    """Make the figures inside in this theme: those of ecaviz and, by matplotlib's settings, any others.

    A figure keeps the theme in which it was made. Themes can be nested.

    Args:
        name: "light" or "dark".

    Yields:
        The theme: its colours.

    Raises:
        ValueError: There is no theme of this name.
    """
    if name not in _THEMES:
        raise ValueError(f"theme: {name!r} is not among {', '.join(_THEMES)}.")
    from matplotlib import rcParams

    chosen = _THEMES[name]
    settings = _settings(name)
    kept = {key: rcParams[key] for key in settings}  # a rc_context would copy all of them, in ten times the time
    before = _CURRENT.set(chosen)
    try:
        rcParams.update(settings)
        yield chosen
    finally:
        rcParams.update(kept)
        _CURRENT.reset(before)


@cache
def _settings(name: str) -> dict[str, Any]:
    """What matplotlib is to draw with in this theme; in the light one what it has by default."""
    import matplotlib
    from cycler import cycler

    chosen = _THEMES[name]
    order = ("blue", "orange", "green", "vermilion", "purple", "sky", "grey")
    ink, paper = chosen.ink, chosen.paper
    dark = {
        "axes.edgecolor": ink,
        "axes.facecolor": paper,
        "axes.labelcolor": ink,
        "axes.prop_cycle": cycler(color=[chosen.hues[hue] for hue in order]),
        "boxplot.boxprops.color": ink,
        "boxplot.capprops.color": ink,
        "boxplot.flierprops.color": ink,
        "boxplot.flierprops.markeredgecolor": ink,
        "boxplot.whiskerprops.color": ink,
        "figure.edgecolor": paper,
        "figure.facecolor": paper,
        "grid.color": chosen.grid,
        "legend.edgecolor": chosen.faint,
        "patch.edgecolor": ink,
        "savefig.edgecolor": "auto",
        "savefig.facecolor": "auto",
        "text.color": ink,
        "xtick.color": ink,
        "ytick.color": ink,
    }
    return dark if chosen is not LIGHT else {key: matplotlib.rcParamsDefault[key] for key in dark}
