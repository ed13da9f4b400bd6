"""The statistics of all sites of a pass, side by side in as few accumulators as serve.

What a batch costs an accumulator is, for a few hundred channels, mostly that there is one: some fifty operations are
started. So the channels of several sites are joined. On a GPU all are: it is fastest with much at once. On a CPU as
many as its cache has room for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .accumulator import Accumulator
from .rows import Groups, Numbers
from .site_profile import DETAILS_AT_MOST, STATISTICS, accumulators, details_size

__all__ = ["SiteStatistics"]

AT_ONCE = 4096
"""Channels that are joined on a CPU."""


class SiteStatistics:
    """What is kept of each site's gates, by the names in :class:`ecaviz.profiles.SiteProfile`.

    Args:
        groups: Classes, 1 where images are pooled.
        settings: What each of the statistics is made with; see :func:`ecaviz.site_profile.accumulators`.
        device: Where the numbers are kept.
        details: Whether histograms and extremes are kept by class too; None to decide at the first batch, by how much
            memory they take for the channels that it shows.

    Attributes:
        details: The same.
    """

    def __init__(
        self,
        groups: int,
        settings: Mapping[str, Mapping[str, Any]],
        device: torch.device | str,
        details: bool | None = False,
    ):
        self._groups, self._settings, self._device = groups, settings, torch.device(device)
        self.details = details
        self._alone = False  # whether each site is kept by itself from now on
        self._joined: dict[tuple[tuple[str, int], ...], dict[str, Any]] = {}
        self._before: dict[str, dict[str, Accumulator]] = {}  # of an earlier pass

    def go_on_from(self, name: str, statistics: Mapping[str, Accumulator]) -> None:
        """Take up what an earlier pass has found at a site."""
        self._before[name] = {what: one.copy() for what, one in statistics.items()}

    def update(self, gates: Mapping[str, Tensor], groups: Groups | None, numbers: Numbers) -> None:
        """Take in a batch.

        Args:
            gates: N×C of each site.
            groups: The class of each image; None where all are pooled.
            numbers: The position of each image.
        """
        if self.details is None:
            self.details = self._size(sum(gate.shape[1] for gate in gates.values())) <= DETAILS_AT_MOST
        own = groups if self.details else None
        # A network that calls some sites in some forwards only would make a new set for each combination of them.
        known = {name for joined in self._joined for name, _ in joined}
        self._alone |= any(key not in self._joined and not known.isdisjoint(gates) for key in self._keys(gates))
        for key in self._keys(gates):
            if key not in self._joined:
                channels = sum(channels for _, channels in key)
                self._joined[key] = self._empty(channels)
            joined = torch.cat([gates[name].to(self._device) for name, _ in key], 1)
            statistics = self._joined[key]
            statistics["moments"].update(joined, groups)
            statistics["tails"].update(joined, groups)
            statistics["histogram"].update(joined, own)
            statistics["largest"].update(joined, own, numbers)
            statistics["smallest"].update(joined, own, numbers)

    def _size(self, channels: int) -> int:
        return details_size(self._groups, channels, self._settings)

    def _empty(self, channels: int) -> dict[str, Any]:
        try:
            return accumulators(channels, self._groups, self._settings, self._device, bool(self.details))
        except RuntimeError as error:
            if self.details:
                error.add_note(
                    f"profile: histograms and extremes by class take {self._size(channels) / 2**20:,.0f} MiB for "
                    f'{channels} channels and {self._groups} classes. details="pooled" keeps them of all classes '
                    f"together."
                )
            raise

    def _keys(self, gates: Mapping[str, Tensor]) -> Iterator[tuple[tuple[str, int], ...]]:
        """Names and numbers of channels in turn, as many at a time as are joined."""
        part: list[tuple[str, int]] = []
        width = 0
        for name, gate in gates.items():
            full = self._device.type == "cpu" and width + gate.shape[1] > AT_ONCE
            if part and (full or self._alone):
                yield tuple(part)
                part, width = [], 0
            part.append((name, gate.shape[1]))
            width += gate.shape[1]
        if part:
            yield tuple(part)

    def of(self, name: str) -> dict[str, Any]:
        """All that was found at a site, on the CPU."""
        found = [{what: one.copy() for what, one in self._before[name].items()}] if name in self._before else []
        for key, statistics in self._joined.items():
            start = 0
            for site, channels in key:
                if site == name:
                    found.append({what: statistics[what].part(start, start + channels) for what in STATISTICS})
                start += channels
        first, *rest = found
        for other in rest:
            for what, statistic in first.items():
                statistic.merge(other[what])
        return first
