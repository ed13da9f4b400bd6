"""Intervals of means: t over a few runs, bootstrap over many images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import checks

__all__ = ["bootstrap_mean", "bootstrap_means", "bootstrap_ratio", "t_half_width", "t_interval"]

FEWEST = 3
"""Runs below which there is no t interval: of two it would be twelve standard deviations wide."""


def t_half_width(error: float, count: int, level: float) -> float:
    """Half of a t interval of a mean of ``count`` numbers with that standard error."""
    from scipy.stats import t

    return float(t.ppf(0.5 + level / 2, count - 1) * error)


def t_interval(values: Sequence[float], level: float = 0.95, *, share: bool = False) -> tuple[float, float]:
    """The t interval of a mean; NaN, NaN for fewer than three numbers.

    Args:
        values: The numbers, one a run.
        level: Of the interval, 0…1.
        share: Whether they are shares. If all lie between 0 and 1, the interval is computed on the scale of
            log(p/(1−p)) and taken back, so that it stays there; it is then about the typical share rather than the
            arithmetic mean.

    Raises:
        ValueError: A level that is no share.
    """
    checks.share(level, "interval: level")
    x = np.asarray(values, dtype=float)
    if len(x) < FEWEST:
        return math.nan, math.nan
    share = share and bool(((x > 0) & (x < 1)).all())
    x = np.log(x / (1 - x)) if share else x
    half = t_half_width(x.std(ddof=1) / math.sqrt(len(x)), len(x), level)
    ends = np.array([x.mean() - half, x.mean() + half])
    low, high = 1 / (1 + np.exp(-ends)) if share else ends
    return float(low), float(high)


def bootstrap_mean(
    values: Tensor, group: Tensor | None = None, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean; NaN, NaN for fewer than two groups.

    Args:
        values: N numbers.
        group: N: what is drawn together, such as the image; None for each by itself.
        level: Of the interval, 0…1.
        resamples: How often is drawn.
        seed: Of the draws.

    Raises:
        ValueError: Not N numbers, a level that is no share, or no resample.
    """
    level = checks.share(level, "bootstrap: level")
    resamples = checks.at_least_one(resamples, "bootstrap: resamples")
    values = torch.as_tensor(values).double()
    if values.ndim != 1 or (group is not None and len(group) != len(values)):
        shapes = tuple(values.shape), None if group is None else tuple(group.shape)
        raise ValueError(f"bootstrap: N numbers and their N groups were expected, got shapes {shapes}.")
    sums, counts = values, torch.ones_like(values)
    if group is not None:
        _, group = torch.unique(group, return_inverse=True)
        counts = torch.bincount(group).double()
        sums = torch.zeros_like(counts).index_add(0, group, values)
    if len(sums) < 2:
        return math.nan, math.nan
    random = torch.Generator().manual_seed(seed)
    means = torch.empty(resamples, dtype=torch.float64)
    for i in range(resamples):
        drawn = torch.randint(len(sums), (len(sums),), generator=random)
        means[i] = sums[drawn].sum() / counts[drawn].sum()
    low, high = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
    return float(low), float(high)


def bootstrap_means(
    values: Tensor, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The percentile bootstrap intervals of several means, all of the same draws; NaN for fewer than two rows.

    Args:
        values: N×K, a row an image.
        level: Of the intervals, 0…1.
        resamples: How often is drawn.
        seed: Of the draws.

    Returns:
        Lower and upper ends, float64 K.

    Raises:
        ValueError: Not N×K numbers, a level that is no share, or no resample.
    """
    level = checks.share(level, "bootstrap: level")
    values = torch.as_tensor(values).double()
    if values.ndim != 2:
        raise ValueError(f"bootstrap: N×K numbers were expected, got shape {tuple(values.shape)}.")
    if len(values) < 2:
        nan = torch.full((values.shape[1],), torch.nan, dtype=torch.float64)
        return nan, nan.clone()
    means = _draws(len(values), resamples, seed) @ values
    low, high = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64), dim=0)
    return low, high


def bootstrap_ratio(
    above: Tensor, below: Tensor, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """The ratio of two means over the same images, with its percentile bootstrap interval.

    Args:
        above: N numbers, whose mean stands above the line.
        below: N numbers, whose mean stands below it.
        level: Of the interval, 0…1.
        resamples: How often is drawn; both of the same draw.
        seed: Of the draws.

    Returns:
        The ratio and the ends of its interval; all NaN where the interval of the mean below holds zero, for then the
        ratio may be anything.

    Raises:
        ValueError: Not twice N numbers, a level that is no share, or no resample.
    """
    above, below = torch.as_tensor(above).double(), torch.as_tensor(below).double()
    if above.ndim != 1 or above.shape != below.shape:
        raise ValueError(f"bootstrap: twice N numbers were expected, got {tuple(above.shape)}, {tuple(below.shape)}.")
    both = torch.stack([above, below], dim=1)
    low, high = bootstrap_means(both, level=level, resamples=resamples, seed=seed)
    if not bool(low[1] > 0 or high[1] < 0):
        return math.nan, math.nan, math.nan
    drawn = _draws(len(both), resamples, seed) @ both
    ratios = drawn[:, 0] / drawn[:, 1]
    ends = ratios.nanquantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
    return float(above.mean() / below.mean()), float(ends[0]), float(ends[1])


def _draws(n: int, resamples: int, seed: int) -> Tensor:
    """How often each of n is in each draw, over n: float64 resamples × n."""
    resamples = checks.at_least_one(resamples, "bootstrap: resamples")
    random = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (resamples, n), generator=random)
    counts = torch.zeros(resamples, n, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones((), dtype=torch.float64).expand(resamples, n)) / n
