"""The most extreme values of each channel, and the images they came from."""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .accumulator import Accumulator
from .rows import Groups, Numbers

__all__ = ["TopK"]


class TopK(Accumulator):
    """The k largest (or smallest) values of each group and channel, and the images they came from.

    Of equal values the one with the smaller image number comes first, so that the order of batches and shards does not
    matter. NaN is left out.

    Args:
        channels: C.
        k: How many to keep.
        groups: G; None for one group.
        largest: False for the smallest.
        device: Where the numbers are kept.

    Attributes:
        k: How many are kept.
        largest: Whether the largest are kept.
    """

    _kept = ("values", "index", "rows")

    def __init__(
        self,
        channels: int,
        k: int = 4,
        groups: int | None = None,
        *,
        largest: bool = True,
        device: torch.device | str = "cpu",
    ):
        super().__init__(channels, groups, device)
        self.k = checks.at_least_one(k, "TopK: k")
        self.largest = bool(largest)
        shape = (self.groups, self.channels, self.k)
        self._values = self._full(shape, torch.nan, torch.float32)
        self._index = self._full(shape, -1, torch.int64)
        self._rows = self._full((1,), 0, torch.int64)

    def _settings(self) -> dict[str, float]:
        return {"k": self.k, "largest": self.largest}

    def update(
        self, batch: Tensor, groups: Tensor | Groups | None = None, index: Tensor | Numbers | None = None
    ) -> TopK:
        """Take in a batch.

        Args:
            batch: N×C, kept as float32.
            groups: int64 N, the group of each row; or :class:`Groups`, made once for several accumulators.
            index: int64 N, the image number of each row; or :class:`Numbers`, made once for several accumulators; None
                to count on from the rows seen so far.

        Returns:
            Itself.

        Raises:
            ValueError: The shapes do not fit, or a group is out of range.
        """
        x, groups = self._take(batch, groups)
        x = x.float()
        if index is None:
            rank = torch.arange(len(x), device=self.device)
            index = Numbers(rank + self._rows, rank)
        elif not isinstance(index, Numbers):
            index = torch.as_tensor(index)
            if index.shape != (len(x),):
                raise ValueError(
                    f"TopK.update: {len(x)} image numbers were expected, one a row, got shape {tuple(index.shape)}."
                )
            index = Numbers.of(index, self.device)
        if len(index) != len(x):
            raise ValueError(f"TopK.update: Numbers of {len(x)} rows were expected, got {len(index)}.")
        self._rows += len(x)
        if not len(x):
            return self
        numbers, rank = index.values.to(self.device), index.rank.to(self.device)
        if groups is None:
            self._update_pooled(x, numbers, rank)
            return self
        x = torch.cat([x, x.new_full((1, self.channels), torch.nan)])  # the row that is not there
        numbers, rank = (torch.cat([one, one.new_zeros(1)]) for one in (numbers, rank))
        for present, rows in groups.runs:
            values = x.index_select(0, rows.view(-1)).view(*rows.shape, self.channels).transpose(1, 2)
            self._keep(*self._first(values, numbers[rows], rank[rows]), groups=present)
        return self

    def _update_pooled(self, x: Tensor, numbers: Tensor, rank: Tensor) -> None:
        channels = None
        if self.device.type == "cpu":  # on a GPU, to look would be to wait
            channels = self._beaten(x, numbers).nonzero()[:, 0]
            if not len(channels):
                return
            if len(channels) < self.channels:
                x = x.index_select(1, channels)
            else:
                channels = None
        self._keep(*self._first(x.T[None], numbers[None], rank[None]), channels=channels)

    def _beaten(self, x: Tensor, numbers: Tensor) -> Tensor:
        """For each channel, whether the last that is kept may have to give way to something in a batch."""
        last, image = self._values[0, :, -1], self._index[0, :, -1]
        best = x.amax(0) if self.largest else x.amin(0)
        worse = best < last if self.largest else best > last
        return ~(worse | ((best == last) & (image < numbers.min())))  # NaN is worse than nothing, so it is looked into

    def _first(self, values: Tensor, numbers: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
        """The first k of values g×C×n, in order, and their image numbers; exactly what a stable sort would give.

        topk does not say which of equal values it takes, so it is given numbers no two of which are equal: the value
        in the upper 32 bits, as an integer of the same order, the rank of the image in the lower.
        """
        bits = (values + 0.0).contiguous().view(torch.int32)  # −0 + 0 = 0: they are equal, but not their bits
        bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        key = ((bits if self.largest else ~bits).long() << 32) - rank[:, None]
        key.masked_fill_(values.isnan(), torch.iinfo(torch.int64).min)
        place = key.topk(min(self.k, values.shape[2]), dim=-1).indices
        return values.gather(-1, place), numbers[:, None].expand_as(values).gather(-1, place)

    def merge(self, other: TopK) -> TopK:
        """Take in what another has seen; image numbers are taken as they are, so both must count over the same images.

        Returns:
            Itself.

        Raises:
            TypeError: ``other`` is no TopK.
            ValueError: It has other channels, groups or k.
        """
        self._same(other)
        self._keep(other._values.to(self.device), other._index.to(self.device))
        self._rows += other._rows.to(self.device)
        return self

    def _keep(
        self, values: Tensor, index: Tensor, *, groups: Tensor | None = None, channels: Tensor | None = None
    ) -> None:
        """Of what is kept and of these (g×C×n), keep the first k: by value, then by image number; NaN comes last.

        Args:
            values: What may be kept.
            index: Their image numbers.
            groups: The groups that they are of; None for all.
            channels: The channels that they are of; None for all.
        """
        dim, where = (1, channels) if groups is None else (0, groups)
        kept = (self._values, self._index)
        old = kept if where is None else tuple(one.index_select(dim, where) for one in kept)
        values, index = torch.cat([old[0], values], -1), torch.cat([old[1], index], -1)
        index = index.masked_fill(values.isnan(), torch.iinfo(torch.int64).max)
        order = index.argsort(dim=-1, stable=True)
        values, index = values.gather(-1, order), index.gather(-1, order)
        key = values.masked_fill(values.isnan(), -torch.inf if self.largest else torch.inf)
        order = key.argsort(dim=-1, stable=True, descending=self.largest)[..., : self.k]
        values, index = values.gather(-1, order), index.gather(-1, order)
        index.masked_fill_(values.isnan(), -1)
        if where is None:
            self._values, self._index = values, index
        else:
            self._values.index_copy_(dim, where, values)
            self._index.index_copy_(dim, where, index)

    def offset(self, by: int) -> TopK:
        """Add to all image numbers, before merging sets that are numbered each from 0.

        Returns:
            Itself.
        """
        self._index = torch.where(self._index >= 0, self._index + by, -1)
        return self

    @property
    def values(self) -> Tensor:
        """float32 G×C×k, the most extreme first; NaN where fewer than k rows were seen."""
        return self._values.clone()

    @property
    def index(self) -> Tensor:
        """int64 G×C×k: the image numbers; −1 where fewer than k rows were seen."""
        return self._index.clone()
