"""How things look and what they are called: colours, lines and markers by family, and the names of families and layers.

Each family has one hue, always the same, and is told apart without colour too, by the style of the line, the marker and
the hatching. What a hue is on light and on dark paper is in :mod:`ecaviz.themes`; the functions here give the colours
of the theme in which something is being drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .themes import LIGHT, current

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

__all__ = [
    "ACTIVATION_MAP",
    "GATE_MAP",
    "MOST_SERIES",
    "Style",
    "contrast",
    "family_name",
    "family_style",
    "ink_on",
    "layer_labels",
    "masked_map",
    "series_styles",
    "setting",
    "settings",
    "shares_map",
    "shortened",
    "signed_map",
    "sizes_map",
    "styles",
]


# ------------------------------------------------------------------------------------------------------------- colours


@dataclass(frozen=True)
class Style:
    """How one series is drawn: told apart by colour, and without colour by line, marker and hatching."""

    colour: str
    line: str
    marker: str
    hatch: str


_FAMILIES = {  # by hue
    "none": Style("ink", "-", "X", ""),
    "se": Style("vermilion", "--", "s", "////"),
    "se-var1": Style("orange", ":", "v", "xxx"),
    "se-var2": Style("orange", "--", "<", ""),
    "se-var3": Style("orange", "-", "^", "..."),
    "se-gc": Style("purple", "-", "p", ""),
    "se-gc1": Style("purple", "-", "p", ""),
    "se-gc2": Style("purple", "--", "h", "///"),
    "se-gc3": Style("purple", ":", "8", "..."),
    "eca": Style("blue", "-", "o", ""),
    "eca-ns": Style("sky", "-.", "^", "..."),
    "cbam": Style("green", "-", ">", "++"),
    "gsop": Style("green", "--", "*", "oo"),
    "gc": Style("purple", "-.", "P", "oo"),
    "foreign": Style("grey", "-", "D", "\\\\\\\\"),
    "ge-theta-minus": Style("ash", ":", "D", ""),
    "ge-theta": Style("ash", "--", "d", "///"),
    "ge-theta-plus": Style("grey", "-", "D", "\\\\\\\\"),
}
_SECOND = {"eca": _FAMILIES["eca-ns"], "se": _FAMILIES["se-var1"]}
"""How the second model of a family is drawn in one picture; of a family that is not here, in silver."""
_SILVER = Style("silver", ":", "P", "++")
_SERIES = (
    Style("green", "-", "o", ""),
    Style("purple", "--", "s", ""),
    Style("orange", "-.", "^", ""),
    Style("sky", ":", "D", ""),
    Style("vermilion", (0, (5, 1, 1, 1, 1, 1)), "v", ""),
    Style("blue", (0, (1, 1)), "P", ""),
)

MOST_SERIES = len(_SERIES)
"""Series that are no families can be told apart up to so many."""


def _coloured(style: Style) -> Style:
    """A style that is kept by hue, with the colour that the hue has in the theme."""
    return replace(style, colour=current().hues[style.colour])


def family_style(name: str) -> Style:
    """The style of one module where all are in one picture, by the name that :func:`ecaviz.attention.build` knows."""
    return _coloured(_FAMILIES.get(name, _FAMILIES["foreign"]))


def series_styles() -> tuple[Style, ...]:
    """Styles of series that are no families: classes."""
    return tuple(_coloured(style) for style in _SERIES)


GATE_MAP = "viridis"
"""Colour map of gates, 0…1: light is open; its lightness alone tells the value."""
ACTIVATION_MAP = "magma"
"""Colour map of feature maps: light is large."""


def signed_map() -> Colormap:
    """Colour map of signed numbers, to be centred at zero: red or orange above, blue below, zero as the paper."""
    return _map("signed")


def sizes_map() -> Colormap:
    """Colour map of numbers from zero, in greys: zero as the paper."""
    return _map("sizes")


def shares_map() -> Colormap:
    """Colour map of shares, in blues: zero as the paper."""
    return _map("shares")


def _map(kind: str) -> Colormap:
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    stops = getattr(current(), kind)
    if isinstance(stops, str):
        return matplotlib.colormaps[stops]
    return LinearSegmentedColormap.from_list(f"{kind}, {current().name}", stops)


_NAMES = {
    "none": "no attention",
    "se": "SE",
    "se-var1": "SE-Var1",
    "se-var2": "SE-Var2",
    "se-var3": "SE-Var3",
    "se-gc": "SE-GC",
    "se-gc1": "SE-GC1",
    "se-gc2": "SE-GC2",
    "se-gc3": "SE-GC3",
    "eca": "ECA",
    "eca-ns": "ECA-NS",
    "cbam": "CBAM",
    "gsop": "GSoP",
    "gc": "GC",
    "foreign": "foreign gate",
    "ge-theta-minus": "GE-θ⁻",
    "ge-theta": "GE-θ",
    "ge-theta-plus": "GE-θ⁺",
}


def family_name(family: str) -> str:
    """A family as it is written in a label: ``SE``, ``ECA``, ``GE-θ⁻``."""
    return _NAMES.get(family, family.upper())


def styles(families: Iterable[str]) -> list[Style]:
    """A style for each series, by family; the second series of a family takes the family's second style."""
    seen: Counter[str] = Counter()
    chosen = []
    for family in families:
        known = family if family in _FAMILIES else "foreign"  # what has no style of its own takes turns
        variants = _FAMILIES[known], _SECOND.get(known, _SILVER)
        chosen.append(_coloured(variants[seen[known] % 2]))
        seen[known] += 1
    return chosen


def masked_map(colours: str | Colormap) -> Colormap:
    """A colour map, or that of this name, whose missing values are grey."""
    import matplotlib

    known = matplotlib.colormaps[colours] if isinstance(colours, str) else colours
    return known.with_extremes(bad=current().missing)


def contrast(one: Any, other: Any) -> float:
    """How much two colours differ in luminance, by WCAG: from 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Any) -> float:
    from matplotlib.colors import to_rgb

    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink_on(colour: Any) -> str:
    """What reads best on a cell of this colour: dark ink or white, whatever the theme."""
    return max((LIGHT.ink, LIGHT.paper), key=lambda ink: contrast(ink, colour))


# ---------------------------------------------------------------------------------------------------------------- text


def setting(site: Any) -> str:
    """``ECA, k=3``: the family of a site, a structure or a matrix, with its k, G, c, e or r."""
    name = family_name(site.family)
    if getattr(site, "per", "") == "position":
        return f"{name}, spatial"
    for letter, attribute in _KNOBS.items():
        if getattr(site, attribute, None) is not None:
            return f"{name}, {letter}={getattr(site, attribute):g}"
    return name


_KNOBS = {"k": "kernel_size", "G": "groups", "c": "reduced", "e": "extent", "r": "reduction"}


def settings(sites: Iterable[Any]) -> str:
    """``ECA, k=3``, if the sites share it; else their families."""
    sites = list(sites)
    found = {setting(site) for site in sites}
    return found.pop() if len(found) == 1 else ", ".join(dict.fromkeys(family_name(site.family) for site in sites))


def layer_labels(sites: Sequence[str]) -> list[str]:
    """Short names of sites: the last part is left out where all share it (``layer3.0.se`` → ``layer3.0``)."""
    ends = {name.rpartition(".")[2].partition("#")[0] for name in sites}
    if len(sites) > 1 and len(ends) == 1 and all(name.rpartition(".")[0] for name in sites):
        end = "." + ends.pop()
        short = [name.replace(end, "") for name in sites]
        return short if len(set(short)) == len(short) else list(sites)
    return list(sites)


def shortened(text: str, most: int) -> str:
    """A text of at most so many letters, with dots for what is left out of the middle."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[head + 1 - most :]}"
