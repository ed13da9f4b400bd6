"""How things look and what they are called: colours, lines and markers by family, and the names of families and layers.

The colours are defined here and nowhere else: one for each family, always the same, and told apart without colour too,
by the style of the line, the marker and the hatching.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap

__all__ = [
    "ACTIVATION_MAP",
    "DIVERGING",
    "GATE_MAP",
    "INK",
    "SERIES",
    "STYLES",
    "Style",
    "family_name",
    "family_style",
    "layer_labels",
    "masked_map",
    "setting",
    "settings",
    "shortened",
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


STYLES: dict[str, tuple[Style, ...]] = {
    "eca": (Style("#0072B2", "-", "o", ""), Style("#56B4E9", "-.", "^", "...")),
    "se": (Style("#D55E00", "--", "s", "////"), Style("#E69F00", ":", "v", "xxx")),
}
"""The style of a family, and of the second model of that family in one picture. Colours after Okabe and Ito."""

OTHER = (Style("#595959", "-", "D", "\\\\\\\\"), Style("#9A9A9A", ":", "P", "++"))
SERIES = (
    Style("#009E73", "-", "o", ""),
    Style("#CC79A7", "--", "s", ""),
    Style("#E69F00", "-.", "^", ""),
    Style("#56B4E9", ":", "D", ""),
    Style("#D55E00", (0, (5, 1, 1, 1, 1, 1)), "v", ""),
    Style("#0072B2", (0, (1, 1)), "P", ""),
)
"""Styles of series that are no families: classes."""

_SHADES = {
    "none": Style("#222222", "-", "X", ""),
    "se": STYLES["se"][0],
    "se-var1": Style("#E69F00", ":", "v", "xxx"),
    "se-var2": Style("#E69F00", "--", "<", ""),
    "se-var3": Style("#E69F00", "-", "^", "..."),
    "se-gc": Style("#CC79A7", "-", "p", ""),
    "se-gc1": Style("#CC79A7", "-", "p", ""),
    "se-gc2": Style("#CC79A7", "--", "h", "///"),
    "se-gc3": Style("#CC79A7", ":", "8", "..."),
    "eca": STYLES["eca"][0],
    "eca-ns": STYLES["eca"][1],
    "cbam": Style("#009E73", "-", ">", "++"),
    "gsop": Style("#009E73", "--", "*", "oo"),
    "gc": Style("#CC79A7", "-.", "P", "oo"),
    "foreign": OTHER[0],
    "ge-theta-minus": Style("#8C8C8C", ":", "D", ""),
    "ge-theta": Style("#8C8C8C", "--", "d", "///"),
    "ge-theta-plus": Style("#595959", "-", "D", "\\\\\\\\"),
}


def family_style(name: str) -> Style:
    """The style of one module where all are in one picture, by the name that :func:`ecaviz.attention.build` knows."""
    return _SHADES.get(name, OTHER[0])


INK = "#222222"
GATE_MAP = "viridis"
"""Colour map of gates, 0…1: light is open; its lightness alone tells the value."""
ACTIVATION_MAP = "magma"
"""Colour map of feature maps: light is large."""
DIVERGING = "RdBu_r"
"""Colour map of signed numbers, centred at zero: red above, blue below."""
MISSING = "#E6E6E6"

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
        known = family if family in _SHADES else ""  # what has no style of its own takes turns
        variants = STYLES.get(family, (family_style(family), OTHER[1]) if known else OTHER)
        chosen.append(variants[seen[known] % len(variants)])
        seen[known] += 1
    return chosen


def masked_map(name: str) -> ListedColormap:
    """A colour map whose missing values are light grey."""
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=MISSING)


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
