"""What a pass over the images leaves of one site: the statistics of its gates, by class and channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from .statistics import Histogram, Moments, Tails, TopK

__all__ = [
    "BINS",
    "DETAILED",
    "DETAILS_AT_MOST",
    "HIGH",
    "LOW",
    "STATISTICS",
    "ClassDetails",
    "SiteProfile",
    "accumulators",
    "details_size",
]

BINS = 64
"""Bins of a site's histograms over [0, 1]."""

LOW, HIGH = 0.05, 0.95
"""A gate below LOW counts as saturated low (its channel is all but closed), one above HIGH as saturated high."""

DETAILS_AT_MOST = 256 * 2**20
"""Bytes that histograms and extremes by class may take, of all sites together, to be kept without being asked for."""

STATISTICS = ("moments", "tails", "histogram", "largest", "smallest")
"""The statistics of a :class:`SiteProfile`, by their names there."""


@dataclass(frozen=True, eq=False)
class ClassDetails:
    """What :func:`profile` keeps of one site by class where it is asked for, or small.

    Attributes:
        histogram: Counts in :data:`BINS` bins, G×C.
        largest: The largest gates of each class and channel with the positions of their images, G×C×top.
        smallest: The smallest.
    """

    histogram: Histogram
    largest: TopK
    smallest: TopK


DETAILED = tuple(one.name for one in fields(ClassDetails))
"""The statistics that are kept by class where that is small, by their names in :class:`SiteProfile`."""


@dataclass(frozen=True, eq=False)
class SiteProfile:
    """The statistics of one site's gates. G is the number of classes (1 where images were pooled), C of channels.

    Attributes:
        name: The site; ``name#2`` for the second call in a forward.
        family: Family of the attention module.
        channels: C.
        kernel_size: k, or None.
        reduction: r, or None.
        activation: Name of a.
        moments: n, mean, variance, min and max, G×C.
        tails: Shares of gates below :data:`LOW` and above :data:`HIGH`, G×C.
        histogram: Counts in :data:`BINS` bins, all classes together, 1×C.
        largest: The largest gates of each channel with the positions of their images, all classes together, 1×C×top.
        smallest: The smallest.
        per: What one gate was for: "channel", or "element" where a channel has several; the statistics are then of
            their mean over the channel's map.
        by_class: Histogram, largest and smallest of each class; None where they were not kept.
    """

    name: str
    family: str
    channels: int
    kernel_size: int | None
    reduction: float | None
    activation: str
    moments: Moments
    tails: Tails
    histogram: Histogram
    largest: TopK
    smallest: TopK
    per: str = "channel"
    by_class: ClassDetails | None = None

    @classmethod
    def _of(cls, about: Mapping[str, Any], kept: Mapping[str, Any], details: bool) -> SiteProfile:
        """From what :func:`accumulators` gives; what is of all classes together is made from what is by class."""
        own = {what: kept[what] for what in DETAILED}
        pooled = {what: one.pooled() for what, one in own.items()} if details else {}
        return cls(**about, **{**kept, **pooled}, by_class=ClassDetails(**own) if details else None)

    def _kept(self, details: bool) -> dict[str, Any]:
        """The statistics by name, with or without those by class."""
        return {what: getattr(self.by_class if details and what in DETAILED else self, what) for what in STATISTICS}

    def __repr__(self) -> str:
        return f"SiteProfile({self.name!r}, {self.family}, {self.channels} channels, n={int(self.moments.n.sum())})"

    def _about(self) -> dict[str, Any]:
        names = ("name", "family", "channels", "kernel_size", "reduction", "activation", "per")
        return {name: getattr(self, name) for name in names}


def accumulators(
    channels: int,
    groups: int,
    settings: Mapping[str, Mapping[str, Any]],
    device: torch.device | str = "cpu",
    details: bool = False,
) -> dict[str, Any]:
    """Empty accumulators of one site, by their names in :class:`SiteProfile`.

    Args:
        channels: C.
        groups: Classes, 1 where images are pooled.
        settings: What each of :data:`STATISTICS` is made with, besides C, the groups and the device.
        device: Where the numbers are kept.
        details: Whether histograms and extremes are kept by class as well.
    """
    own = groups if details else 1
    return {
        "moments": Moments(channels, groups, device, **settings["moments"]),
        "tails": Tails(channels, groups=groups, device=device, **settings["tails"]),
        "histogram": Histogram(channels, groups=own, device=device, **settings["histogram"]),
        "largest": TopK(channels, groups=own, device=device, **settings["largest"]),
        "smallest": TopK(channels, groups=own, device=device, **settings["smallest"]),
    }


def details_size(classes: int, channels: int, settings: Mapping[str, Mapping[str, Any]]) -> int:
    """Bytes that histograms and extremes by class take: classes · C · (8·(bins + 1) + 2·12·top).

    A bin and what is outside are int64; of an extreme image the gate is float32 and the position int64.

    Args:
        classes: G.
        channels: C, of all sites together.
        settings: As in :func:`accumulators`.
    """
    kept = settings["largest"]["k"] + settings["smallest"]["k"]
    return classes * channels * (8 * (settings["histogram"]["bins"] + 1) + 12 * kept)
