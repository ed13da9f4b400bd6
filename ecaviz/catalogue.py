"""What load() knows by name, told at once: nothing is imported, built or asked of the network to list it.

What is known of timm's and torchvision's networks was counted beforehand and lies in ``data/published/pretrained.csv``;
``tools/pretrained.py`` writes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import bundle, hub, published_tables, training_sets
from .attention import FAMILIES

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["available", "pretrained"]

_SOURCES = ("bundled", "timm", "torchvision")
_COLUMNS = ["name", "source", "family", "setting", "sites", "parameters", "images", "size", "accuracy", "cached"]


def available(source: str | None = None, family: str | None = None) -> pd.DataFrame:
    """What :func:`ecaviz.load` knows by name: bundled models, and pretrained networks of timm and torchvision.

    Of timm these are the ResNets and their relatives whose channels are gated by SE or ECA, of torchvision MobileNetV3,
    EfficientNet and RegNetY; one row for each set of weights.

    Args:
        source: "bundled", "timm" or "torchvision"; all if None.
        family: One of :data:`ecaviz.attention.FAMILIES`, such as "none", "se" or "eca"; all if None.

    Returns:
        A frame with a row a model: name, source, family; setting ("r=16", or "r=4–24" where r differs by site; "k=5",
        or "k=5,5,5,7" by stage); sites (the number of gates of channels) and parameters; images (what it was trained on
        last) and size (the side of its input, pixels); accuracy (share of the test images whose class came first, 0…1:
        measured on the held-out split for the bundled models, as published for the others, missing where there is none;
        :func:`pretrained` tells the source, and the input's side where it is not ``size``); cached (whether loading
        needs no download).

    Raises:
        ValueError: Unknown source or family; or the table of the pretrained networks was truncated or changed.
        FileNotFoundError: It is missing.
    """
    import pandas as pd

    _check("source", source, _SOURCES)
    _check("family", family, tuple(FAMILIES))
    parts = []
    if source in (None, "bundled"):
        parts.append(pd.DataFrame(_bundled(), columns=_COLUMNS))
    if source != "bundled":
        table = pretrained().rename(columns={"top1": "accuracy"})
        table = table[(table["source"] == source) | (source is None)]
        parts.append(table.assign(cached=[_is_cached(where) for where in table["where"]])[_COLUMNS])
    table = pd.concat(parts, ignore_index=True)
    return table if family is None else table[table["family"] == family].reset_index(drop=True)


def pretrained() -> pd.DataFrame:
    """The table of timm's and torchvision's pretrained networks, whole.

    Returns:
        A frame with the columns that ``data/published/README.md`` describes; shares are 0…1.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It was truncated or changed.
    """
    return published_tables.read("pretrained")


def _bundled() -> list[dict]:
    return [
        {
            "name": row.name,
            "source": "bundled",
            "family": row.family,
            "setting": row.setting,
            "sites": 0 if row.family == "none" else sum(bundle.BUNDLE[row.name].blocks),
            "parameters": row.parameters,
            "images": row.data,
            "size": training_sets.of(row.name).size,
            "accuracy": row.accuracy,
            "cached": True,
        }
        for row in bundle.manifest().values()
        if row.name in bundle.BUNDLE
    ]


def _is_cached(where: str) -> bool:
    """Whether the weights from a hub repository or a URL are on this machine."""
    found = hub.cached_url(where) if where.startswith("http") else hub.cached(where)
    return found is not None


def _check(what: str, given: str | None, known: tuple[str, ...]) -> None:
    if given is not None and given not in known:
        raise ValueError(f"available: no {what} is called {given!r}; known: {', '.join(known)}.")
