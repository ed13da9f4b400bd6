"""Which generating factor of the images moves which gate: mutual information, against what shuffled images give.

    images = ecaviz.images.shapes("test", 600)
    sample = sample_gates(model, images)
    table = factor_information(sample, images.factors)     # a row a site, channel and factor
    factor_summary(table)                                  # a row a site and factor

I(gate; factor) = Σ p(a, b)·log₂ p(a, b)/(p(a)·p(b)) in bits, of the gate in bins of equal counts and the factor in its
levels. It finds relations of any form, and says nothing about their direction. Counted on N images it is biased
upwards, by about (bins − 1)·(levels − 1)/(2 N ln 2) bits; so the mean under a permutation null is taken away, which
leaves the *excess*.

What is not controlled for: factors that come together. In the procedural set the class decides on the shape, on the
texture, or on both, and they are not drawn independently of each other: stripes come on hexagons, crescents and arches
alone. A gate that follows the texture shares information with the shape too, without the shape being what moves it.
Large objects have less room, so place (x, y) and scale come together a little. Hue, background, rotation, light,
contrast, noise and frequency are drawn independently of all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from . import checks
from .adjusted import benjamini_hochberg
from .gate_samples import GateSample
from .selectivity import CONSTANT

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CIRCULAR", "NO_FACTORS", "factor_information", "factor_summary", "levels_of"]

CIRCULAR: Mapping[str, float] = {"hue": 1.0, "light_angle": 2 * math.pi}
"""Factors that go round, with their period: cut into equal arcs."""

NO_FACTORS = ("label", "class", "needs")
"""Columns of ``Shapes.factors`` that generate nothing: what the factors make together."""


def factor_information(
    sample: GateSample,
    factors: pd.DataFrame,
    *,
    bins: int = 8,
    permutations: int = 2000,
    circular: Mapping[str, float] = CIRCULAR,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """The mutual information of every gate and every factor.

    A gate is cut into ``bins`` bins of equal counts (among gates that are equal the lot decides, so that all channels
    have bins of the same sizes; a constant gate has one). A factor that is a number is cut likewise, but equal values
    stay together; one that goes round is cut into equal arcs; names, truth values and numbers of no more than ``bins``
    values are levels as they are. The null shuffles the images of the factor against those of the gate. Under it only
    the sizes of bins and levels matter, so it is drawn once for all channels, as tables with these margins.

    Args:
        sample: The gates.
        factors: One row for each image of the *set* that the sample was taken of, a column a factor. The columns
            :data:`NO_FACTORS` are passed by.
        bins: Of gates and of factors that are numbers.
        permutations: Tables drawn.
        circular: Period of the factors that go round.
        seed: Of the tables.
        progress: Whether to show a progress bar.

    Returns:
        One row a site, channel and factor. Columns: site, family, channel, factor, n (images), bits (I), chance (mean
        of the null), excess (bits − chance), p ((1 + tables with as much)/(1 + permutations)), p_adjusted (Benjamini
        and Hochberg over the whole table: of what lies below 0.05, 5 % is false on average). A constant gate has 0 bits
        and p = 1. A factor of many levels has more to tell: between factors compare which are above chance, or lead,
        rather than bits.

    Raises:
        ValueError: The frame has too few rows, no factor, or a factor with missing values; bins or permutations are no
            whole numbers.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    bins = checks.at_least_one(bins, "factor_information: bins")
    permutations = checks.at_least_one(permutations, "factor_information: permutations")
    names = [name for name in factors.columns if name not in NO_FACTORS]
    if not names:
        raise ValueError(f"factor_information: the frame has no factors; its columns: {', '.join(factors.columns)}.")
    if len(factors) <= sample.positions.max():
        raise ValueError(
            f"factor_information: a row for each image of the set was expected; there are {len(factors)} rows, and the "
            f"sample has image {sample.positions.max()}. Give the factors of the same set: images.factors."
        )
    own = factors.iloc[sample.positions]
    levels = {name: levels_of(own[name], bins, circular.get(name)) for name in names}
    nulls = _Nulls(permutations, seed)
    frames = []
    total = len(names) * sum(gates.shape[1] for gates in sample.gates.values())
    with tqdm(total=total, desc="mutual information", unit="gate", disable=not progress, leave=False) as bar:
        for site, gates in sample.gates.items():
            cut = _gate_bins(gates, bins, seed)
            for name, level in levels.items():
                bits, chance, p = nulls.place(cut, level, bins)
                about = {"site": site, "family": sample.families.get(site, ""), "channel": np.arange(gates.shape[1])}
                found = {"factor": name, "n": len(sample), "bits": bits, "chance": chance, "excess": bits - chance}
                frames.append(pd.DataFrame({**about, **found, "p": p}))
                bar.update(gates.shape[1])
    table = pd.concat(frames, ignore_index=True)
    return table.assign(p_adjusted=benjamini_hochberg(table["p"]))


def factor_summary(table: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """What :func:`factor_information` found, by site and factor.

    Args:
        table: What it gave.
        alpha: The adjusted p up to which a channel counts as above chance.

    Returns:
        One row a site and factor. Columns: site, family, factor, n (images), channels, excess (bits, mean over the
        channels), above (share of the channels above chance), leading (share of the channels of which this is the
        factor with the largest excess, and above chance).
    """
    import pandas as pd

    checks.share(alpha, "factor_summary: alpha")
    above = table["p_adjusted"] <= alpha
    order = table.assign(above=above, excess_if=table["excess"].where(above, -np.inf))
    most = order.groupby(["site", "channel"], sort=False)["excess_if"].transform("idxmax")
    order["leading"] = above & (most == order.index)
    grouped = order.groupby(["site", "family", "factor"], sort=False)
    found = grouped.agg(
        n=("n", "first"),
        channels=("channel", "nunique"),
        excess=("excess", "mean"),
        above=("above", "mean"),
        leading=("leading", "mean"),
    ).reset_index()
    return pd.DataFrame(found)


def levels_of(values: pd.Series, bins: int, period: float | None = None) -> np.ndarray:
    """A factor as levels 0, 1, …, int64 N.

    Args:
        values: N names, truth values or numbers.
        bins: Of equal counts, for numbers; equal arcs where there is a period.
        period: Of a factor that goes round; None for one that does not.

    Raises:
        ValueError: A value is missing.
    """
    import pandas as pd

    if values.isna().any():
        raise ValueError(
            f"factor_information: the factor {values.name!r} has {int(values.isna().sum())} missing values."
        )
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return pd.factorize(values)[0].astype(np.int64)
    numbers = values.to_numpy(float)
    if period is not None:
        return np.minimum((np.mod(numbers, period) / period * bins).astype(np.int64), bins - 1)
    found, level = np.unique(numbers, return_inverse=True)
    if len(found) > bins:
        level = np.searchsorted(np.quantile(numbers, np.arange(1, bins) / bins), numbers)
    return level.astype(np.int64)


def _gate_bins(gates: np.ndarray, bins: int, seed: int) -> np.ndarray:
    """The bin of each gate of N×C in its own channel, int64."""
    images = len(gates)
    lot = np.random.default_rng(seed).permutation(images)
    order = lot[np.argsort(gates[lot], axis=0, kind="stable")]
    rank = np.empty(gates.shape, dtype=np.int64)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(images)[:, None], gates.shape), axis=0)
    return np.where(np.ptp(gates, axis=0) < CONSTANT, 0, rank * bins // images)


class _Nulls:
    """Mutual information under permutations, kept by the sizes of bins and levels."""

    def __init__(self, permutations: int, seed: int):
        self.permutations, self.seed = permutations, seed
        self._kept: dict[tuple, np.ndarray] = {}

    def place(self, cut: np.ndarray, level: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bits, mean of the null and p of each column of N×C bins with the levels of a factor, N."""
        _images, channels = cut.shape
        count = int(level.max()) + 1
        cell = (np.arange(channels) * count + level[:, None]) * bins + cut
        tables = np.bincount(cell.ravel(), minlength=channels * count * bins).reshape(channels, count, bins)
        bits = _bits(tables)
        chance, p = np.empty(channels), np.empty(channels)
        of_level = tuple(sorted(np.bincount(level, minlength=count).tolist()))
        sizes = np.sort(tables.sum(axis=1), axis=1)
        unique, which = np.unique(sizes, axis=0, return_inverse=True)
        for i, size in enumerate(unique):
            null = self._null(of_level, tuple(size[size > 0].tolist()))
            here = which.ravel() == i
            chance[here] = null.mean()
            reached = len(null) - np.searchsorted(null, bits[here] - 1e-9)
            p[here] = (1 + reached) / (1 + len(null))
        return bits, chance, p

    def _null(self, rows: tuple[int, ...], columns: tuple[int, ...]) -> np.ndarray:
        """Sorted bits of tables with these margins, as permutations give them."""
        from scipy.stats import random_table

        key = rows, columns
        if key not in self._kept:
            rows = tuple(size for size in rows if size)
            if min(len(rows), len(columns)) < 2:
                self._kept[key] = np.zeros(self.permutations)
            else:
                drawn = random_table.rvs(rows, columns, size=self.permutations, random_state=self.seed)
                self._kept[key] = np.sort(_bits(drawn))
        return self._kept[key]


def _bits(tables: np.ndarray) -> np.ndarray:
    """Mutual information of tables of counts, T×A×B → T."""
    tables = np.asarray(tables, dtype=np.int64)
    n = int(tables[0].sum())
    counts = np.arange(n + 1, dtype=float)
    counts[1:] *= np.log2(counts[1:])  # x·log₂ x, looked up: counts are whole numbers
    cells = counts[tables].sum(axis=(1, 2))
    margins = counts[tables.sum(axis=1)].sum(axis=1) + counts[tables.sum(axis=2)].sum(axis=1)
    return np.maximum((cells - margins + counts[n]) / n, 0.0)
