"""Statistics that stream: one pass, memory that does not grow with the number of images, shards that can be merged.

Four accumulators with one protocol::

    s = Moments(channels=256, groups=12)
    s.update(gates, labels)      # gates N×C, labels int64 N; as often as there are batches
    s.merge(other)               # of another shard; the same as if this one had seen its batches too
    s.mean, s.variance()         # read out at any time
    s.load_state_dict(other.state_dict())

:class:`Moments` keeps n, mean, sum of squared deviations, min and max; :class:`Histogram` fixed bins; :class:`Tails`
how many values lie below and above two bounds; :class:`TopK` the extreme values and the images they came from.
Everything is kept for each group (a class, say) and each channel, G×C; without groups, G = 1. Sums are kept in float64,
on the device that the accumulator is made on (on the CPU for mps, which has no float64).

A batch costs what its own rows and groups cost, however many groups there are. Nothing in :meth:`update` waits for a
GPU where labels and image numbers come from the CPU; several accumulators share the work on them::

    groups = Groups.of(labels, 1000, "cuda")    # labels on the CPU
    for statistic, gates in ...:
        statistic.update(gates, groups)
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from . import checks
from .accumulator import Accumulator, Sums
from .extremes import TopK
from .rows import Groups, Numbers

__all__ = ["Groups", "Histogram", "Moments", "Numbers", "Tails", "TopK"]


class Moments(Accumulator):
    """Count, mean, variance, least and greatest value, by group and channel.

    Batches and shards are combined by the parallel formula of Chan, Golub and LeVeque (1979), on deviations from the
    mean rather than on Σx², so that a small variance about a large mean survives. NaN in, NaN out: for that group and
    channel. Of an infinite value too, but for min and max.

    Args:
        channels: C.
        groups: G; None for one group that all rows belong to.
        device: Where the numbers are kept.
    """

    _kept = ("n", "mean", "m2", "min", "max")

    def __init__(self, channels: int, groups: int | None = None, device: torch.device | str = "cpu"):
        super().__init__(channels, groups, device)
        shape = (self.groups, self.channels)
        self._n = self._full((self.groups,), 0, torch.int64)
        self._mean = self._full(shape, 0, torch.float64)
        self._m2 = self._full(shape, 0, torch.float64)
        self._min = self._full(shape, torch.inf, torch.float64)
        self._max = self._full(shape, -torch.inf, torch.float64)

    def update(self, batch: Tensor, groups: Tensor | Groups | None = None) -> Moments:
        """Take in a batch.

        Args:
            batch: N×C.
            groups: int64 N, the group of each row; or :class:`Groups`, made once for several accumulators.

        Returns:
            Itself.

        Raises:
            ValueError: The shapes do not fit, or a group is out of range.
        """
        x, groups = self._take(batch, groups)
        if not len(x):
            return self
        if groups is None:
            torch.minimum(self._min, x.amin(0, keepdim=True), out=self._min)
            torch.maximum(self._max, x.amax(0, keepdim=True), out=self._max)
        x = x.to(torch.float64, copy=True)
        n0, mean0 = self._n[:, None], self._mean
        if groups is None:
            n, about = len(x), x[:1]
        else:
            n, about = groups.counts[:, None], x.index_select(0, groups.first)
            n0, mean0 = (one.index_select(0, groups.present) for one in (n0, mean0))
            rows = groups.rows[:, None].expand_as(x)
            self._min.scatter_reduce_(0, rows, x, "amin")
            self._max.scatter_reduce_(0, rows, x, "amax")
        # Deviations are taken from the mean so far, or from a group's first row. Either is as near to the batch's own
        # mean as the n of it allow, so that of Σd² − (Σd)²/n no more than a factor n of the precision is lost.
        about = torch.where(n0 > 0, mean0, about)
        x -= about if groups is None else about.index_select(0, groups.place)
        total = self._added(x, groups)
        squares = self._added(x.square_(), groups)
        step = total / (n0 + n)
        squares.sub_(total.mul_(step)).clamp_(min=0)
        # an infinite value makes NaN of the mean, whenever it comes
        about.sub_(mean0).add_(step).add_(step.mul_(0))
        if groups is None:
            self._n += n
            self._mean += about
            self._m2 += squares
        else:
            self._n.index_add_(0, groups.present, groups.counts)
            self._mean.index_add_(0, groups.present, about)
            self._m2.index_add_(0, groups.present, squares)
        return self

    def merge(self, other: Moments) -> Moments:
        """Take in what another has seen.

        Returns:
            Itself.

        Raises:
            TypeError: ``other`` is no Moments.
            ValueError: It has other channels or groups.
        """
        self._same(other)
        n, mean, m2, least, greatest = (getattr(other, f"_{name}").to(self.device) for name in self._kept)
        share = (n.double() / (self._n + n).clamp(min=1))[:, None]  # int64 / int64 would be float32
        step = mean - self._mean
        self._m2 += m2 + step.square() * self._n[:, None] * share
        self._mean += step * share
        torch.minimum(self._min, least, out=self._min)
        torch.maximum(self._max, greatest, out=self._max)
        self._n += n
        return self

    def pooled(self) -> Moments:
        """The same without groups: all of them taken as one."""
        other = Moments(self.channels, None, self.device)
        n = self._n[:, None]
        total = self._n.sum()
        mean = (self._mean * n).sum(0) / total.clamp(min=1)
        between = (n * (self._mean - mean).square()).sum(0)
        other._n = total[None]
        other._mean, other._m2 = mean[None], (self._m2.sum(0) + between)[None]
        other._min, other._max = self._min.amin(0)[None], self._max.amax(0)[None]
        return other

    def _seen(self, values: Tensor) -> Tensor:
        return torch.where(self._n[:, None] > 0, values, torch.nan)

    @property
    def n(self) -> Tensor:
        """int64 G: rows seen."""
        return self._n.clone()

    @property
    def mean(self) -> Tensor:
        """float64 G×C; NaN for a group without rows, as in all that follow."""
        return self._seen(self._mean)

    @property
    def min(self) -> Tensor:
        """float64 G×C."""
        return self._seen(self._min)

    @property
    def max(self) -> Tensor:
        """float64 G×C."""
        return self._seen(self._max)

    def variance(self, correction: int = 0) -> Tensor:
        """float64 G×C: Σ(x − mean)² / (n − correction).

        Args:
            correction: 0 for the variance of what was seen (then total = between + within, exactly), 1 for the unbiased
                estimate; NaN where n ≤ correction.
        """
        degrees = (self._n - correction)[:, None]
        return torch.where(degrees > 0, self._m2 / degrees.clamp(min=1), torch.nan)

    def std(self, correction: int = 0) -> Tensor:
        """float64 G×C: the root of :meth:`variance`."""
        return self.variance(correction).sqrt()


class Histogram(Sums):
    """Counts in bins of equal width over [low, high], by group and channel. The last bin holds ``high`` itself.

    Args:
        channels: C.
        bins: B.
        groups: G; None for one group.
        low: Left edge of the first bin.
        high: Right edge of the last.
        device: Where the numbers are kept.

    Attributes:
        bins: B.
        low: Left edge of the first bin.
        high: Right edge of the last.

    Raises:
        ValueError: No bin, or an empty range.
    """

    _kept = ("counts", "outside")

    def __init__(
        self,
        channels: int,
        bins: int = 64,
        groups: int | None = None,
        *,
        low: float = 0.0,
        high: float = 1.0,
        device: torch.device | str = "cpu",
    ):
        super().__init__(channels, groups, device)
        self.bins = checks.at_least_one(bins, "Histogram: bins")
        if not low < high:
            raise ValueError(f"Histogram: low < high was expected, got {low!r} and {high!r}.")
        self.low, self.high = float(low), float(high)
        self._scale = self.bins / (self.high - self.low)
        # x · 2ⁿ has no rounding, so that float32 gives the same bins as float64, in half the time
        self._exact = self.low == 0 and math.frexp(self._scale)[0] == 0.5
        self._counts = self._full((self.groups, self.channels, self.bins), 0, torch.int64)
        self._outside = self._full((self.groups, self.channels), 0, torch.int64)

    def _settings(self) -> dict[str, float]:
        return {"bins": self.bins, "low": self.low, "high": self.high}

    def update(self, batch: Tensor, groups: Tensor | Groups | None = None) -> Histogram:
        """Take in a batch, N×C, with the group of each row, int64 N or :class:`Groups`.

        Returns:
            Itself.

        Raises:
            ValueError: The shapes do not fit, or a group is out of range.
        """
        x, groups = self._take(batch, groups)
        x = x if self._exact and x.dtype == torch.float32 else x.double()
        x = x.T.contiguous()  # so that a channel's values come one after the other, like its bins
        within = x.clamp(self.low, self.high)
        inside = torch.eq(within, x, out=torch.empty_like(x, dtype=torch.int64))  # 0 for NaN too
        within = within.sub_(self.low) if self.low else within
        bin_ = within.mul_(self._scale).int().clamp_(0, self.bins - 1).long()
        # what is outside adds 0 to some bin: to leave it out would be to wait for how much is left
        if groups is None:
            self._counts[0].scatter_add_(1, bin_, inside)
            self._outside += x.shape[1] - inside.sum(1)
        else:
            channel = torch.arange(self.channels, device=self.device)[:, None]
            cell = bin_.add_((groups.rows * self.channels + channel) * self.bins)
            self._counts.view(-1).scatter_add_(0, cell.view(-1), inside.view(-1))
            self._outside.index_add_(0, groups.rows, (1 - inside).T)
        return self

    @property
    def counts(self) -> Tensor:
        """int64 G×C×B."""
        return self._counts.clone()

    @property
    def outside(self) -> Tensor:
        """int64 G×C: values below ``low``, above ``high``, or NaN; they are in no bin."""
        return self._outside.clone()

    @property
    def edges(self) -> Tensor:
        """float64 B+1: the edges of the bins."""
        return torch.linspace(self.low, self.high, self.bins + 1, dtype=torch.float64, device=self.device)

    def quantile(self, q: float) -> Tensor:
        """The value below which a share q of the values lies.

        Within the bin that holds it, values are taken to be spread evenly. The error is at most the width of one bin,
        (high − low)/B, against the ⌈q·n⌉-th smallest value (numpy's ``inverted_cdf``). Values outside are left out.

        Args:
            q: 0…1.

        Returns:
            float64 G×C; NaN where there is no value.

        Raises:
            ValueError: q is not within 0…1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"Histogram.quantile: q must lie in 0…1, got {q!r}.")
        upto = self._counts.cumsum(-1)
        n = upto[..., -1].double()
        rank = (q * n - 1e-9).ceil().clamp(min=1)
        bin_ = (upto < rank[..., None]).sum(-1).clamp(max=self.bins - 1)
        count = self._counts.gather(-1, bin_[..., None])[..., 0]
        before = upto.gather(-1, bin_[..., None])[..., 0] - count
        part = ((q * n - before) / count.clamp(min=1)).clamp(max=1)
        value = self.low + (bin_ + part) * ((self.high - self.low) / self.bins)
        return torch.where(n > 0, value, torch.nan)


class Tails(Sums):
    """How many values lie below one bound and above another, by group and channel; exact, unlike a histogram's bins.

    Args:
        channels: C.
        low: A value x counts as low if x < low.
        high: And as high if x > high.
        groups: G; None for one group.
        device: Where the numbers are kept.
    """

    _kept = ("n", "low_count", "high_count")
    # in memory float64, which is added up several times as fast, and exact up to 2⁵³
    _saved_as: ClassVar = {"low_count": torch.int64, "high_count": torch.int64}

    def __init__(
        self,
        channels: int,
        low: float = 0.05,
        high: float = 0.95,
        groups: int | None = None,
        device: torch.device | str = "cpu",
    ):
        super().__init__(channels, groups, device)
        self.low, self.high = float(low), float(high)
        self._n = self._full((self.groups,), 0, torch.int64)
        self._low_count = self._full((self.groups, self.channels), 0, torch.float64)
        self._high_count = self._full((self.groups, self.channels), 0, torch.float64)

    def _settings(self) -> dict[str, float]:
        return {"low": self.low, "high": self.high}

    def update(self, batch: Tensor, groups: Tensor | Groups | None = None) -> Tails:
        """Take in a batch, N×C, with the group of each row, int64 N or :class:`Groups`.

        Returns:
            Itself.

        Raises:
            ValueError: The shapes do not fit, or a group is out of range.
        """
        x, groups = self._take(batch, groups)
        if groups is None:
            self._n += len(x)
        else:
            self._n.index_add_(0, groups.present, groups.counts)
        # float32, half as much to move, counts exactly the rows of any batch but the most enormous
        dtype = torch.float32 if groups is None and len(x) < 2**24 else torch.float64
        for count, compare, bound in ((self._low_count, torch.lt, self.low), (self._high_count, torch.gt, self.high)):
            beyond = compare(x, bound, out=torch.empty(x.shape, dtype=dtype, device=x.device))
            if groups is None:
                count += beyond.sum(0)
            else:
                count.index_add_(0, groups.rows, beyond)
        return self

    @property
    def below(self) -> Tensor:
        """float64 G×C: share of the values below ``low``; NaN for a group without rows."""
        return self._low_count / torch.where(self._n > 0, self._n.double(), torch.nan)[:, None]

    @property
    def above(self) -> Tensor:
        """float64 G×C: share of the values above ``high``; NaN for a group without rows."""
        return self._high_count / torch.where(self._n > 0, self._n.double(), torch.nan)[:, None]
