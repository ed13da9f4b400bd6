"""How much of a gate's variance over images is about their class: ω² by channel and by site, with uncertainty.

    channel_selectivity(profile)           # a row a site and channel, from a profile alone
    sample = sample_gates(model, images)
    site_selectivity(sample)               # a row a site and measure: interval over images, permutation null, p
    selectivity_difference(sample, "layer4.1.se", "layer1.0.se")

Of one channel's gate, with SS_b between and SS_w within G classes of N images, SS_t = SS_b + SS_w and
MS_w = SS_w/(N − G):

- η² = SS_b/SS_t. Biased upwards: labels drawn by lot give (G − 1)/(N − 1) on average, 1 with one image a class.
- ω² = (SS_b − (G − 1)·MS_w)/(SS_t + MS_w). Nearly unbiased: labels drawn by lot give 0, or less, half of the time.

(The ω of ω² is the statisticians'; a gate is ω too.) Source: W. L. Hays, Statistics for Psychologists, 1963. p-values:
Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9(1), 2010. Jackknife: P. Kott, J. Off. Stat. 17, 521–526, 2001.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import checks
from .adjusted import holm
from .gate_samples import GateSample
from .gate_variance import by_class, class_note, seen
from .intervals import t_half_width

if TYPE_CHECKING:
    import pandas as pd

    from .profiles import AttentionProfile

__all__ = [
    "CONSTANT",
    "FOLDS",
    "MEASURES",
    "SelectivityDifference",
    "channel_selectivity",
    "selectivity_difference",
    "site_selectivity",
]

CONSTANT = 1e-6
"""A gate whose largest and smallest value are nearer than this is constant: what moves is the rounding of float32."""

FOLDS = 20
"""Groups of images that the jackknife leaves out in turn."""

MEASURES = ("omega2", "channel × class")
"""What :func:`site_selectivity` measures."""

_AT_ONCE = 32 * 2**20  # bytes of the class sums of permutations that are computed together


def channel_selectivity(profile: AttentionProfile) -> pd.DataFrame:
    """η², ω² and the F test of the class, channel by channel.

    Args:
        profile: Made with ``by="class"``.

    Returns:
        One row a site and channel. Columns: site, family, channel, n (images), classes (that have images), eta2,
        omega2, F (MS_b/MS_w), p (of F with G − 1 and N − G degrees of freedom: for normal gates of equal variance;
        :func:`site_selectivity` needs neither), note. NaN for a gate that is constant (:data:`CONSTANT`), and for all
        where there is one image a class, or one class; ``note`` says which. η² is biased upwards: its mean under labels
        drawn by lot is (G − 1)/(N − 1).

    Raises:
        ValueError: The profile pools all images.
    """
    import pandas as pd
    from scipy.stats import f

    by_class(profile, "channel_selectivity")
    frames = []
    for site in profile.sites.values():
        n, means, squares = seen(site.moments)
        images, groups = int(n.sum()), len(n)
        between = n @ (means - n @ means / images) ** 2
        within = squares.sum(axis=0)
        there = site.moments.n > 0
        reach = site.moments.max[there].amax(0) - site.moments.min[there].amin(0)
        constant = ~(reach.cpu().numpy() >= CONSTANT)
        note = class_note(images, groups)
        missing = constant | bool(note)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean_square = within / (images - groups) if images > groups else np.full_like(within, np.nan)
            ratio = between / (groups - 1) / mean_square if groups > 1 else np.full_like(within, np.nan)
            eta2, omega2 = between / (between + within), _omega2(between, within, images, groups)
            p = f.sf(ratio, groups - 1, images - groups) if not note else np.full_like(within, np.nan)
        columns = {"eta2": eta2, "omega2": omega2, "F": ratio, "p": p}
        frames.append(
            pd.DataFrame(
                {
                    "site": site.name,
                    "family": site.family,
                    "channel": np.arange(site.channels),
                    "n": images,
                    "classes": groups,
                    **{name: np.where(missing, np.nan, values) for name, values in columns.items()},
                    "note": note or np.where(constant, "constant", ""),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _omega2(between: np.ndarray, within: np.ndarray, images, groups) -> np.ndarray:
    """ω² from sums of squares; NaN where nothing is left within. ``images`` and ``groups`` may be arrays."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_square = within / np.where(images > groups, images - groups, np.nan)
        return (between - (groups - 1) * mean_square) / (between + within + mean_square)


def site_selectivity(
    sample: GateSample,
    *,
    permutations: int | None = None,
    folds: int = FOLDS,
    level: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """How much the gates of each site are about the class, with an interval over images and a permutation null.

    Two measures: "omega2", the mean of ω² over the channels that are not constant; and "channel × class", the share of
    all variance that is class-specific attention, as in :func:`ecaviz.gate_variance.variance_parts`. The latter is
    biased upwards; ``null`` says by how much.

    The interval is that of a stratified jackknife: the images are dealt, class by class, to ``folds`` groups; each is
    left out in turn, which gives θ₍ₖ₎; the squared standard error is (K − 1)/K · Σ(θ₍ₖ₎ − their mean)², the interval a
    t interval with K − 1 degrees of freedom about θ. A bootstrap would not do: a resampled image counts twice, which
    makes the means of the classes differ by more, and ω² is biased upwards in every resample. In simulations with
    noise in common to the channels, 95 % intervals held the truth in 95 to 99 %, the most with weak effects and small
    classes. The classes are taken as given: the interval is about other images of the same classes, and about this one
    network.

    The null deals the labels out by lot, to all sites alike. p counts how often that gives as much,
    (1 + how often)/(1 + permutations), and is adjusted by Holm over the sites, each measure by itself.

    Args:
        sample: The gates and the labels.
        permutations: How often labels are shuffled; None for 200, or as many as Holm's correction needs: 40 for each
            site.
        folds: K.
        level: Of the interval, 0…1.
        seed: Of the permutations and the folds.
        progress: Whether to show a progress bar.

    Returns:
        One row a site and measure. Columns: site, family, measure, n (images), classes (that have images), channels
        (that are not constant; of "channel × class" all), value, low, high, null (mean under shuffled labels), null_95
        (their 95 % quantile), p, p_adjusted, level, permutations, note. With one image a class, or one class, the
        numbers are NaN and ``note`` says why.

    Raises:
        ValueError: The sample has no labels; ``level`` is no share; no permutation, or fewer than 3 folds.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    labels = sample.labelled("site_selectivity")
    checks.share(level, "site_selectivity: level")
    folds = _folds(folds, "site_selectivity")
    if permutations is None:
        permutations = max(200, 40 * len(sample.gates))
    permutations = checks.at_least_one(permutations, "site_selectivity: permutations")
    _, labels = np.unique(labels, return_inverse=True)
    n, classes = len(labels), int(labels.max()) + 1
    note = class_note(n, classes)
    rows = []
    bar = tqdm(
        total=permutations * len(sample.gates), desc="shuffling labels", unit="draw", disable=not progress, leave=False
    )
    with bar:
        for site, gates in sample.gates.items():
            own = _Site(gates, labels)
            about = {"site": site, "family": sample.families.get(site, "")}
            found = [(math.nan,) * 6] * 2 if note else own.measured(permutations, folds, level, seed, bar.update)
            counts = (own.varying.sum(), gates.shape[1])
            for measure, channels, values in zip(MEASURES, counts, found, strict=True):
                names = ("value", "low", "high", "null", "null_95", "p")
                one = {"measure": measure, "n": n, "classes": classes, "channels": int(channels)}
                rows.append(about | one | dict(zip(names, values, strict=True)))
    table = pd.DataFrame(rows)
    table["p_adjusted"] = table.groupby("measure", sort=False)["p"].transform(holm)
    constant = table["value"].isna() & (table["channels"] == 0)
    return table.assign(level=level, permutations=permutations, note=np.where(constant, "all gates are constant", note))


@dataclass(frozen=True)
class SelectivityDifference:
    """The mean ω² of one site less that of another, on the same images.

    Attributes:
        first: The one site, with its model if there are two.
        second: The other.
        mean: The difference.
        low: Lower end of its interval.
        high: Upper end.
        p: Of no difference, two-sided, of the jackknife's t.
        n: Images.
    """

    first: str
    second: str
    mean: float
    low: float
    high: float
    p: float
    n: int

    def __str__(self) -> str:
        return f"{self.first} − {self.second}: {self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f}), p = {self.p:.2g}"


def selectivity_difference(
    sample: GateSample,
    first: str,
    second: str,
    other: GateSample | None = None,
    *,
    folds: int = FOLDS,
    level: float = 0.95,
    seed: int = 0,
) -> SelectivityDifference:
    """Whether one site tells classes apart better than another: the difference of their mean ω², paired by image.

    Each fold of the jackknife (see :func:`site_selectivity`) is left out of both, so that what the images have in
    common cancels out.

    Args:
        sample: The gates and the labels.
        first: A site of it.
        second: A site of ``other``.
        other: Another model on the same images; None for the same model.
        folds: K.
        level: Of the interval, 0…1.
        seed: Of the folds.

    Raises:
        KeyError: There is no such site; the message lists those there are.
        ValueError: The sample has no labels, or the two are not of the same images.
    """
    from scipy.stats import t

    second_of = sample if other is None else other
    labels = sample.labelled("selectivity_difference")
    checks.share(level, "selectivity_difference: level")
    same = np.array_equal(labels, second_of.labelled("selectivity_difference"))
    if not same or not np.array_equal(sample.positions, second_of.positions):
        raise ValueError(
            "selectivity_difference: both samples must be of the same images in the same order: make them with the "
            "same `images`, `at_most` and `seed`."
        )
    for one, site in ((sample, first), (second_of, second)):
        if site not in one.gates:
            raise KeyError(f"the sample has no site {site!r}; it has: {', '.join(one.gates)}")
    folds = _folds(folds, "selectivity_difference")
    _, labels = np.unique(labels, return_inverse=True)
    names = [
        f"{one.model} {site}" if other is not None else site for one, site in ((sample, first), (second_of, second))
    ]
    if class_note(len(labels), int(labels.max()) + 1):
        return SelectivityDifference(*names, *(math.nan,) * 4, len(labels))
    a, b = (_Site(one.gates[site], labels) for one, site in ((sample, first), (second_of, second)))
    mean = float(a.observed()[0] - b.observed()[0])
    without = a.leave_out(folds, seed)[0] - b.leave_out(folds, seed)[0]
    error, count = _jackknife_error(without), len(without)
    half = t_half_width(error, count, level)
    p = float(2 * t.sf(abs(mean) / error, count - 1)) if error > 0 else math.nan
    return SelectivityDifference(*names, mean, mean - half, mean + half, p, len(labels))


def _folds(folds: int, what: str) -> int:
    folds = checks.at_least_one(folds, f"{what}: folds")
    if folds < 3:
        raise ValueError(f"{what}: folds must be at least 3, got {folds}. The default, {FOLDS}, suits most sets.")
    return folds


class _Site:
    """The gates of one site about their means, and what any labelling of the images makes of them.

    Args:
        gates: N×C.
        labels: 0…G−1, each of them there.
    """

    def __init__(self, gates: np.ndarray, labels: np.ndarray):
        self.centre = gates.mean(axis=0, dtype=np.float64)
        self.x = gates - self.centre
        self.labels, self.counts = labels, np.bincount(labels).astype(float)
        self.varying = np.ptp(gates, axis=0) >= CONSTANT

    def measured(
        self, permutations: int, folds: int, level: float, seed: int, step: Callable[[int], object]
    ) -> list[tuple[float, float, float, float, float, float]]:
        """Value, ends of the interval, mean and 95 % quantile of the null, and p, of each of :data:`MEASURES`."""
        parts = []
        for labels in self._shuffled(permutations, seed):
            parts.append(self._of_labels(labels))
            step(len(labels))
        nulls = np.concatenate(parts, axis=1)
        found = []
        for value, null, without in zip(self.observed(), nulls, self.leave_out(folds, seed), strict=True):
            half = t_half_width(_jackknife_error(without), len(without), level)
            p = (1 + np.sum(null >= value - 1e-12)) / (1 + permutations) if not np.isnan(value) else math.nan
            ends = value - half, min(value + half, 1.0)
            found.append(
                (float(value), *map(float, ends), float(null.mean()), float(np.quantile(null, 0.95)), float(p))
            )
        return found

    def observed(self) -> np.ndarray:
        """The two measures."""
        return self._of_labels(self.labels[None])[:, 0]

    def leave_out(self, folds: int, seed: int) -> np.ndarray:
        """The two measures without each of the folds in turn, 2×K."""
        images, groups = len(self.x), len(self.counts)
        folds = min(folds, images)
        order = np.random.default_rng(seed).permutation(images)
        order = order[np.argsort(self.labels[order], kind="stable")]  # class by class, by lot in each
        fold = np.empty(images, dtype=int)
        fold[order] = np.arange(images) % folds
        both = fold * groups + self.labels
        sums = _one_hot(both[None], folds * groups) @ self.x
        counts = np.bincount(both, minlength=folds * groups).reshape(folds, groups).astype(float)
        squares = _one_hot(fold[None], folds) @ self.x**2
        sums = sums.reshape(folds, groups, -1)
        return self._measures(sums.sum(0) - sums, counts.sum(0) - counts, squares.sum(0) - squares)

    def _shuffled(self, permutations: int, seed: int) -> Iterator[np.ndarray]:
        """The labels in another order, as many orders at a time as there is room for."""
        at_once = max(1, _AT_ONCE // (8 * len(self.counts) * self.x.shape[1]))
        random = np.random.default_rng(seed)
        for start in range(0, permutations, at_once):
            count = min(at_once, permutations - start)
            yield random.permuted(np.tile(self.labels, (count, 1)), axis=1)

    def _of_labels(self, labels: np.ndarray) -> np.ndarray:
        """The two measures under each of P labellings, P×N → 2×P."""
        groups = len(self.counts)
        sums = (_one_hot(labels, groups) @ self.x).reshape(len(labels), groups, -1)
        squares = np.broadcast_to((self.x**2).sum(axis=0), (len(labels), self.x.shape[1]))
        return self._measures(sums, np.broadcast_to(self.counts, (len(labels), groups)), squares)

    def _measures(self, sums: np.ndarray, counts: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """2×P of class sums P×G×C, class sizes P×G and sums of squares P×C, all about :attr:`centre`."""
        images, channels = counts.sum(axis=1), self.x.shape[1]
        groups = (counts > 0).sum(axis=1)
        share = np.where(counts > 0, 1 / np.maximum(counts, 1), 0.0)
        total = sums.sum(axis=1)
        between = np.einsum("pgc,pgc,pg->pc", sums, sums, share) - total**2 / images[:, None]
        whole = squares - total**2 / images[:, None]
        within = np.maximum(whole - between, 0)
        one = _omega2(between, within, images[:, None], groups[:, None])[:, self.varying]
        omega2 = one.mean(axis=1) if self.varying.any() else np.full(len(sums), np.nan)
        of_all = sums.sum(axis=2)  # the sum over the channels: of a class's mean gate, n_g·C·(m_g − the mean)
        classes = ((of_all**2 * share).sum(axis=1) - of_all.sum(axis=1) ** 2 / images) / channels
        means = self.centre + total / images[:, None]
        everything = whole.sum(axis=1) + images * channels * means.var(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            both = np.where(everything > 0, (between.sum(axis=1) - classes) / everything, np.nan)
        return np.stack([omega2, both])


def _one_hot(labels: np.ndarray, groups: int):
    """A sparse matrix (P·G)×N of labels P×N, so that times N×C it gives the class sums of every labelling."""
    from scipy.sparse import csr_array

    count, images = labels.shape
    rows = (labels + groups * np.arange(count)[:, None]).ravel()
    columns = np.tile(np.arange(images), count)
    return csr_array((np.ones(rows.size), (rows, columns)), shape=(count * groups, images))


def _jackknife_error(without: np.ndarray) -> float:
    """Standard error from the values without each group in turn."""
    return math.sqrt((len(without) - 1) * float(np.var(without)))
