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
        self._latest: int | None = -1  # no image that is kept has a greater number; None where that is not known

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
            index = Numbers(rank + self._rows, rank, None)
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
        later = index.ends is not None and self._latest is not None and index.ends[0] > self._latest
        self._latest = None if index.ends is None or self._latest is None else max(self._latest, index.ends[1])
        if groups is None:
            cells = None
            # on a GPU always all: to look would be to wait
            if self.device.type == "cpu" and not (open_ := self._open(x, self._values[0], later)).all():
                cells = open_.nonzero()[:, 0]
                x = x.index_select(1, cells)
            if x.shape[1]:
                self._consider(x.T[None], numbers.expand(1, 1, -1), rank.expand(1, 1, -1), later, cells=cells)
            return self
        if self.device.type == "cpu":
            for present, rows in groups.runs:
                self._consider_open(x, present, rows, numbers, rank, later)
            return self
        x = torch.cat([x, x.new_full((1, self.channels), torch.nan)])  # the row that is not there
        numbers, rank = (torch.cat([one, one.new_zeros(1)]) for one in (numbers, rank))
        for present, rows in groups.runs:
            values = x.index_select(0, rows.view(-1)).view(*rows.shape, self.channels).transpose(1, 2)
            self._consider(values, numbers[rows][:, None], rank[rows][:, None], later, groups=present)
        return self

    def _consider_open(
        self, x: Tensor, present: Tensor, rows: Tensor, numbers: Tensor, rank: Tensor, later: bool
    ) -> None:
        """As :meth:`_consider`, of a run of groups, where these have something to keep."""
        missing = rows == len(x)
        rows = torch.where(missing, rows[:, :1], rows)
        values = x.index_select(0, rows.view(-1)).view(*rows.shape, self.channels).transpose(0, 1)
        open_ = self._open(values, self._values.index_select(0, present), later)
        group, channel = open_.nonzero(as_tuple=True)
        if not len(group):
            return
        values = values.permute(1, 2, 0)[group, channel].masked_fill_(missing[group], torch.nan)
        numbers, rank = (one[rows[group]][None] for one in (numbers, rank))
        self._consider(values[None], numbers, rank, later, cells=present[group] * self.channels + channel)

    def _open(self, x: Tensor, kept: Tensor, later: bool) -> Tensor:
        """Whether n×… values have something to keep beside what is kept, …×k."""
        last = kept[..., -1]
        best = x.amax(0) if self.largest else x.amin(0)
        # comparing with NaN is false, and so leaves open: where there are NaNs, or fewer than k are kept
        if later:  # an equal value of a later image is not kept
            closed = best <= last if self.largest else best >= last
        else:
            closed = best < last if self.largest else best > last
        return closed.logical_not_()

    def _consider(
        self,
        values: Tensor,
        numbers: Tensor,
        rank: Tensor,
        later: bool,
        *,
        groups: Tensor | None = None,
        cells: Tensor | None = None,
    ) -> None:
        """Of what is kept and of these (g×C×n, their image numbers g×1×n or g×C×n), keep the first k.

        Args:
            values: What may be kept.
            numbers: The image numbers.
            rank: Their order, by image number.
            later: Whether all images that are kept have smaller numbers.
            groups: The groups that the values are of; None for all.
            cells: What they are of, group · C + channel, in a single row; None for all channels of the groups.
        """
        numbers, rank = numbers.expand_as(values), rank.expand_as(values)
        if later:  # what is kept comes before, in its own order
            old_values, old_numbers = self._kept_of(groups, cells)
            own = torch.arange(-self.k, 0, device=self.device).expand_as(old_values)
            values, numbers = torch.cat([old_values, values], -1), torch.cat([old_numbers, numbers], -1)
            rank = torch.cat([own, rank], -1)
        place = self._first(values, rank)
        values, numbers = values.gather(-1, place), numbers.gather(-1, place)
        if later:
            self._put(values, numbers.masked_fill_(values.isnan(), -1), groups, cells)
        else:
            self._keep(values, numbers, groups, cells)

    def _first(self, values: Tensor, rank: Tensor) -> Tensor:
        """Where in values g×C×n the first k stand: by value, then by rank; exactly as a stable sort would have them.

        topk does not say which of equal values it takes, so it is given numbers no two of which are equal: the value
        in the upper 32 bits, as an integer of the same order, and the rank below.
        """
        bits = (values + 0.0).contiguous().view(torch.int32)  # −0 + 0 = 0: they are equal, but not their bits
        bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        key = ((bits if self.largest else ~bits).long() << 32).sub_(rank)
        key.masked_fill_(values.isnan(), torch.iinfo(torch.int64).min)
        return key.topk(min(self.k, values.shape[2]), dim=-1).indices

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
        known = self._latest is not None and other._latest is not None
        self._latest = max(self._latest, other._latest) if known else None
        self._rows += other._rows.to(self.device)
        return self

    def pooled(self) -> TopK:
        """The same without groups: all of them taken as one. What is extreme among all is so in its group too."""
        other = TopK(self.channels, self.k, largest=self.largest, device=self.device)
        values, index = (one.transpose(0, 1).reshape(1, self.channels, -1) for one in (self._values, self._index))
        other._keep(values, index)
        other._rows += self._rows
        other._latest = self._latest
        return other

    def _keep(self, values: Tensor, index: Tensor, groups: Tensor | None = None, cells: Tensor | None = None) -> None:
        """Of what is kept and of these (g×C×n), keep the first k: by value, then by image number; NaN comes last."""
        old_values, old_index = self._kept_of(groups, cells)
        values, index = torch.cat([old_values, values], -1), torch.cat([old_index, index], -1)
        index = index.masked_fill(values.isnan(), torch.iinfo(torch.int64).max)
        order = index.argsort(dim=-1, stable=True)
        values, index = values.gather(-1, order), index.gather(-1, order)
        key = values.masked_fill(values.isnan(), -torch.inf if self.largest else torch.inf)
        order = key.argsort(dim=-1, stable=True, descending=self.largest)[..., : self.k]
        values, index = values.gather(-1, order), index.gather(-1, order)
        self._put(values, index.masked_fill_(values.isnan(), -1), groups, cells)

    def _kept_of(self, groups: Tensor | None, cells: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is kept of some groups, or of some cells in a single row."""
        if cells is not None:
            values, index = (one.view(1, -1, self.k).index_select(1, cells) for one in (self._values, self._index))
            return values, index
        if groups is None:
            return self._values, self._index
        return self._values.index_select(0, groups), self._index.index_select(0, groups)

    def _put(self, values: Tensor, index: Tensor, groups: Tensor | None, cells: Tensor | None) -> None:
        for kept, new in ((self._values, values), (self._index, index)):
            if cells is not None:
                kept.view(1, -1, self.k).index_copy_(1, cells, new)
            elif groups is None:
                kept.copy_(new)
            else:
                kept.index_copy_(0, groups, new)

    def offset(self, by: int) -> TopK:
        """Add to all image numbers, before merging sets that are numbered each from 0.

        Returns:
            Itself.
        """
        self._index += by * (self._index >= 0)
        self._latest = None if self._latest is None else self._latest + by
        return self

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what another accumulator, made alike, had seen.

        Raises:
            ValueError: A tensor is missing, unknown, or has another shape or type.
        """
        super().load_state_dict(state)
        self._latest = int(self._index.max())

    @property
    def values(self) -> Tensor:
        """float32 G×C×k, the most extreme first; NaN where fewer than k rows were seen."""
        return self._values.clone()

    @property
    def index(self) -> Tensor:
        """int64 G×C×k: the image numbers; −1 where fewer than k rows were seen."""
        return self._index.clone()
