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
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .accumulator import Accumulator, Sums

__all__ = ["Histogram", "Moments", "Tails", "TopK"]


class Moments(Accumulator):
    """Count, mean, variance, least and greatest value, by group and channel.

    Batches and shards are combined by the parallel formula of Chan, Golub and LeVeque (1979), on deviations from the
    mean rather than on Σx², so that a small variance about a large mean survives. NaN in, NaN out: for that group and
    channel.

    Args:
        channels: C.
        groups: G; None for one group that all rows belong to.
        device: Where the numbers are kept.
    """

    _kept = ("n", "mean", "m2", "min", "max")

    def __init__(self, channels: int, groups: int | None = None, device: torch.device | str = "cpu"):
        super().__init__(channels, groups, device)
        shape, options = (self.groups, self.channels), {"dtype": torch.float64, "device": self.device}
        self._n = torch.zeros(self.groups, dtype=torch.int64, device=self.device)
        self._mean = torch.zeros(shape, **options)
        self._m2 = torch.zeros(shape, **options)
        self._min = torch.full(shape, torch.inf, **options)
        self._max = torch.full(shape, -torch.inf, **options)

    def update(self, batch: Tensor, groups: Tensor | None = None) -> Moments:
        """Take in a batch.

        Args:
            batch: N×C.
            groups: int64 N, the group of each row.

        Returns:
            Itself.

        Raises:
            ValueError: The shapes do not fit, or a group is out of range.
        """
        x, groups = self._take(batch, groups)
        x = x.double()
        n = torch.bincount(groups, minlength=self.groups)
        some = n.clamp(min=1)[:, None]
        mean = torch.zeros_like(self._mean).index_add_(0, groups, x) / some
        deviation = x - mean[groups]
        # the rounding of the mean leaves a rest in Σ deviation; taking it out (Björck) costs little
        rest = torch.zeros_like(mean).index_add_(0, groups, deviation)
        m2 = torch.zeros_like(mean).index_add_(0, groups, deviation.square()) - rest.square() / some
        index = groups[:, None].expand_as(x)
        least = torch.full_like(mean, torch.inf).scatter_reduce_(0, index, x, "amin")
        greatest = torch.full_like(mean, -torch.inf).scatter_reduce_(0, index, x, "amax")
        self._combine(n, mean + rest / some, m2.clamp(min=0), least, greatest)
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
        self._combine(*(getattr(other, f"_{name}").to(self.device) for name in self._kept))
        return self

    def _combine(self, n, mean, m2, least, greatest) -> None:
        total = self._n + n
        share = (n.double() / total.clamp(min=1))[:, None]  # int64 / int64 would be float32
        step = mean - self._mean
        self._m2 = self._m2 + m2 + step.square() * self._n[:, None] * share
        self._mean = self._mean + step * share
        self._min, self._max = torch.minimum(self._min, least), torch.maximum(self._max, greatest)
        self._n = total

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
        self._counts = torch.zeros(self.groups, self.channels, self.bins, dtype=torch.int64, device=self.device)
        self._outside = torch.zeros(self.groups, self.channels, dtype=torch.int64, device=self.device)

    def _settings(self) -> dict[str, float]:
        return {"bins": self.bins, "low": self.low, "high": self.high}

    def update(self, batch: Tensor, groups: Tensor | None = None) -> Histogram:
        """Take in a batch, N×C, with the group of each row, int64 N.

        Returns:
            Itself.

        Raises:
            ValueError: The shapes do not fit, or a group is out of range.
        """
        x, groups = self._take(batch, groups)
        x = x.double()
        inside = (x >= self.low) & (x <= self.high)  # false for NaN
        position = (x - self.low) * (self.bins / (self.high - self.low))
        bin_ = torch.where(inside, position, 0.0).long().clamp(0, self.bins - 1)
        cell = groups[:, None] * self.channels + torch.arange(self.channels, device=self.device)
        flat = (cell * self.bins + bin_)[inside]
        self._counts += torch.bincount(flat, minlength=self._counts.numel()).view_as(self._counts)
        self._outside += torch.bincount(cell[~inside], minlength=self._outside.numel()).view_as(self._outside)
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
        part = ((q * n - before) / count.clamp(min=1)).clamp(0, 1)
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
        self._n = torch.zeros(self.groups, dtype=torch.int64, device=self.device)
        self._low_count = torch.zeros(self.groups, self.channels, dtype=torch.int64, device=self.device)
        self._high_count = torch.zeros_like(self._low_count)

    def _settings(self) -> dict[str, float]:
        return {"low": self.low, "high": self.high}

    def update(self, batch: Tensor, groups: Tensor | None = None) -> Tails:
        """Take in a batch, N×C, with the group of each row, int64 N.

        Returns:
            Itself.

        Raises:
            ValueError: The shapes do not fit, or a group is out of range.
        """
        x, groups = self._take(batch, groups)
        self._n += torch.bincount(groups, minlength=self.groups)
        self._low_count.index_add_(0, groups, (x < self.low).long())
        self._high_count.index_add_(0, groups, (x > self.high).long())
        return self

    @property
    def below(self) -> Tensor:
        """float64 G×C: share of the values below ``low``; NaN for a group without rows."""
        return self._low_count.double() / torch.where(self._n > 0, self._n.double(), torch.nan)[:, None]

    @property
    def above(self) -> Tensor:
        """float64 G×C: share of the values above ``high``; NaN for a group without rows."""
        return self._high_count.double() / torch.where(self._n > 0, self._n.double(), torch.nan)[:, None]


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
        self._values = torch.full(shape, torch.nan, dtype=torch.float32, device=self.device)
        self._index = torch.full(shape, -1, dtype=torch.int64, device=self.device)
        self._rows = torch.zeros(1, dtype=torch.int64, device=self.device)

    def _settings(self) -> dict[str, float]:
        return {"k": self.k, "largest": self.largest}

    def update(self, batch: Tensor, groups: Tensor | None = None, index: Tensor | None = None) -> TopK:
        """Take in a batch.

        Args:
            batch: N×C, kept as float32.
            groups: int64 N, the group of each row.
            index: int64 N, the image number of each row; None to count on from the rows seen so far.

        Returns:
            Itself.

        Raises:
            ValueError: The shapes do not fit, or a group is out of range.
        """
        x, groups = self._take(batch, groups)
        x = x.float()
        if index is None:
            index = torch.arange(len(x), device=self.device) + self._rows
        index = torch.as_tensor(index, device=self.device).long()
        if index.shape != (len(x),):
            raise ValueError(
                f"TopK.update: {len(x)} image numbers were expected, one a row, got shape {tuple(index.shape)}."
            )
        self._rows += len(x)
        for group in [0] if self.groups == 1 else groups.unique().tolist():
            mine = groups == group
            values, images = x[mine].T, index[mine].expand(self.channels, -1)
            self._keep(slice(group, group + 1), values[None], images[None])
        return self

    def merge(self, other: TopK) -> TopK:
        """Take in what another has seen; image numbers are taken as they are, so both must count over the same images.

        Returns:
            Itself.

        Raises:
            TypeError: ``other`` is no TopK.
            ValueError: It has other channels, groups or k.
        """
        self._same(other)
        self._keep(slice(None), other._values.to(self.device), other._index.to(self.device))
        self._rows += other._rows.to(self.device)
        return self

    def _keep(self, groups: slice, values: Tensor, index: Tensor) -> None:
        """Of what is kept and of these (g×C×n), keep the first k: by value, then by image number; NaN comes last."""
        values = torch.cat([self._values[groups], values], -1)
        index = torch.cat([self._index[groups], index], -1)
        index = torch.where(values.isnan(), torch.iinfo(torch.int64).max, index)
        order = index.argsort(dim=-1, stable=True)
        values, index = values.gather(-1, order), index.gather(-1, order)
        key = torch.where(values.isnan(), -torch.inf if self.largest else torch.inf, values)
        order = key.argsort(dim=-1, stable=True, descending=self.largest)[..., : self.k]
        values, index = values.gather(-1, order), index.gather(-1, order)
        self._values[groups] = values
        self._index[groups] = torch.where(values.isnan(), -1, index)

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
