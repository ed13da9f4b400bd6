"""The trained study of k: what several seeds of each k say, beside SE, its variants and no attention, on two data sets.

    kernel_study.table("shapes")                 # a row a variant: accuracy over seeds, with the published number
    kernel_study.differences("cifar10")          # each k less k = 3, and the others less no attention
    kernel_study.effect_of_k("shapes")           # is there any effect of k at all?

The runs are those of :mod:`ecaviz.results`. At one seed all variants see the same images in the same order, so they are
compared within a seed; which test images a network gets right is recorded, so they are compared image by image too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import checks, published_tables, results, training_sets
from .results import Difference

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["VARIANTS", "EffectOfK", "differences", "effect_of_k", "permutation_test", "recorded", "table"]

VARIANTS = (
    "none",
    "eca-k1",
    "eca-k3",
    "eca-k5",
    "eca-k7",
    "eca-k9",
    "eca-adaptive",
    "se-r16",
    "se-r4",
    "se-var1",
    "se-var2",
    "se-var3",
)
"""The variants of the study, in the order in which they are shown."""

FEWEST = 3
"""Seeds that a variant must have to be part of it."""

TITLES = {
    "none": "no attention",
    "eca-adaptive": "ECA, adaptive k",
    **{f"eca-k{k}": f"ECA, k = {k}" for k in (1, 3, 5, 7, 9)},
    **{f"se-r{r}": f"SE, r = {r}" for r in (4, 16)},
    **{f"se-var{i}": f"SE-Var{i}" for i in (1, 2, 3)},
}


def recorded(data: str, fewest: int = FEWEST) -> list[str]:
    """The variants of which there are enough runs on a data set, in the order of :data:`VARIANTS`.

    Args:
        data: "shapes" or "cifar10".
        fewest: Seeds that are enough.

    Raises:
        FileNotFoundError: There are no results.
        ValueError: An unknown data set.
    """
    seeds = results.runs(data=data).groupby("variant")["seed"].nunique()
    return [variant for variant in VARIANTS if seeds.get(variant, 0) >= fewest]


def table(data: str, *, level: float = 0.95) -> pd.DataFrame:
    """Accuracy of every variant over its seeds, beside what was published for ResNet-50 on ImageNet.

    Args:
        data: "shapes" or "cifar10".
        level: Of the t intervals over seeds, 0…1.

    Returns:
        One row a variant with enough seeds. Columns: variant, title, name (of the model), family, k and r (as text;
        empty where there is none), data (what it was really trained on), parameters, seeds, mean, std, low, high (0…1),
        loss (mean over seeds), seconds (mean), hardware, and published (top-1 in per cent, ResNet-50 on ImageNet, ECA
        paper Tables 2 and 3; missing where nothing is printed).

    Raises:
        FileNotFoundError: There are no results.
        ValueError: An unknown data set, or a level that is no share.
    """
    import pandas as pd

    runs = results.runs(data=data)
    names = [f"{data}-{variant}" for variant in recorded(data)]
    if not names:
        raise ValueError(f"kernel_study: no variant has {FEWEST} runs on {data}.")
    found = results.summary(names, level=level).set_index("name")
    printed = _published()
    rows = []
    for name in names:
        own = runs[runs["name"] == name]
        first, variant = own.iloc[0], own.iloc[0]["variant"]
        rows.append(
            {
                "variant": variant,
                "title": TITLES[variant],
                "name": name,
                "family": first["family"],
                "k": first["k"],
                "r": first["r"],
                "data": first["data"],
                **{column: found.loc[name, column] for column in ("parameters", "seeds", "mean", "std", "low", "high")},
                "loss": own["loss"].mean(),
                "seconds": own["seconds"].mean(),
                "hardware": ", ".join(dict.fromkeys(own["hardware"])),
                "published": printed.get(variant, float("nan")),
            }
        )
    return pd.DataFrame(rows)


def _published() -> dict[str, float]:
    """Top-1 of ResNet-50 on ImageNet by variant, per cent, where the ECA paper prints it."""
    table2 = published_tables.read("table2").set_index("method")["top1"]
    names = {"none": "Vanilla", "se-r16": "SE", **{f"se-var{i}": f"SE-Var{i}" for i in (1, 2, 3)}}
    printed = {variant: float(table2[method]) for variant, method in names.items()}
    sizes = published_tables.read("kernel_size").query("backbone == 'ResNet-50'")
    for row in sizes.dropna(subset="top1").itertuples():
        printed[f"eca-{row.k}" if row.k == "adaptive" else f"eca-k{row.k}"] = float(row.top1)
    return printed


def differences(
    data: str, reference: str = "eca-k3", *, level: float = 0.95, together: bool = True
) -> list[tuple[Difference, float]]:
    """Every other variant less one of them, paired by seed and image, and the published difference.

    Three seeds leave a t interval two degrees of freedom: 4.3 standard errors to either side at 95 %, 14.8 where eleven
    are to hold together. So of a few points' difference "not significant" says little.

    Args:
        data: "shapes" or "cifar10".
        reference: The variant that is taken off.
        level: Of the intervals, 0…1.
        together: Whether the m intervals hold all together with the chance ``level``: each is then made at
            1 − (1 − level)/m (Bonferroni). Else each by itself: of m such intervals, 1 − level miss.

    Returns:
        For each the difference and the published one in points of top-1, NaN where nothing is printed. (The paper's
        accuracies carry no spread, and its baselines, no attention and SE, are those of another paper.)

    Raises:
        ValueError: The reference is not among the recorded variants.
    """
    checks.share(level, "kernel_study: level")
    known = recorded(data)
    if reference not in known:
        raise ValueError(f"kernel_study: {reference!r} is not recorded on {data} often enough: {', '.join(known)}.")
    others = [variant for variant in known if variant != reference]
    if not others:
        raise ValueError(f"kernel_study: there is nothing to compare {reference!r} with on {data}.")
    printed = _published()
    each = 1 - (1 - level) / len(others) if together else level
    return [
        (
            results.paired_difference(f"{data}-{variant}", f"{data}-{reference}", level=each),
            printed.get(variant, float("nan")) - printed.get(reference, float("nan")),
        )
        for variant in others
    ]


@dataclass(frozen=True)
class EffectOfK:
    """Whether the accuracies of the k differ more than those of one k by chance.

    Attributes:
        data: What the networks were really trained on, as in :func:`table`.
        sizes: The k.
        seeds: Seeds that all k have.
        means: Mean accuracy of each k over those seeds.
        largest: Largest mean less the smallest.
        within: What is left of single runs, as a standard deviation, when the means of their k and of their seed are
            taken off.
        p: Of a permutation test: k permuted within each seed, the variance of the means as the statistic.
        exact: Whether all permutations were tried; else 9,999 drawn ones.
    """

    data: str
    sizes: tuple[str, ...]
    seeds: tuple[int, ...]
    means: tuple[float, ...]
    largest: float
    within: float
    p: float
    exact: bool

    def __repr__(self) -> str:
        return (
            f"EffectOfK({self.data}: k = {', '.join(self.sizes)}, {len(self.seeds)} seeds; means "
            f"{100 * self.largest:.1f} points apart at most, {100 * self.within:.1f} left within k and seed; "
            f"p = {self.p:.3g})"
        )


def effect_of_k(data: str, sizes: Iterable[int | str] = (1, 3, 5, 7, 9), *, seed: int = 0) -> EffectOfK:
    """Test whether k has any effect on the accuracy.

    The null: within a seed, which accuracy belongs to which k is by chance. With few seeds the test has little power: a
    large p is no proof that k does not matter.

    Args:
        data: "shapes" or "cifar10".
        sizes: The k that are compared; those without enough runs are left out.
        seed: Of the drawn permutations.

    Raises:
        ValueError: Fewer than two k have runs, or they share no two seeds.
    """
    runs = results.runs(data=data)
    known = recorded(data)
    chosen = tuple(str(k) for k in sizes if f"eca-{k}" in known or f"eca-k{k}" in known)
    if len(chosen) < 2:
        raise ValueError(f"kernel_study: at least two k with {FEWEST} seeds are needed on {data}, got {len(chosen)}.")
    accuracies = {k: runs[(runs["family"] == "eca") & (runs["k"] == k)].set_index("seed")["accuracy"] for k in chosen}
    seeds = sorted(set.intersection(*(set(one.index) for one in accuracies.values())))
    if len(seeds) < 2:
        raise ValueError(f"kernel_study: the k {', '.join(chosen)} have fewer than two seeds in common on {data}.")
    values = np.array([[one[s] for one in accuracies.values()] for s in seeds])  # seeds × k
    p, exact = permutation_test(values, seed)
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    freedom = (values.shape[0] - 1) * (values.shape[1] - 1)
    means = values.mean(0)
    return EffectOfK(
        runs["data"].iloc[0],
        chosen,
        tuple(seeds),
        tuple(float(one) for one in means),
        float(means.max() - means.min()),
        float(np.sqrt(np.square(rest).sum() / freedom)),
        p,
        exact,
    )


def permutation_test(values: np.ndarray, seed: int = 0, draws: int = 9_999) -> tuple[float, bool]:
    """The p of columns that differ, each row permuted by itself; and whether all permutations were tried.

    Args:
        values: Rows × columns; what is tested is the variance of the means of the columns.
        seed: Of the drawn permutations.
        draws: How many are drawn where there are more.

    Returns:
        The share of permutations whose statistic is at least that found (drawn: with the one found counted in), and
        whether it is exact. The first row need not be permuted: only how rows lie to each other counts.
    """
    rows, columns = values.shape
    found = values.mean(0).var()
    tolerance = 1e-12 * max(1.0, abs(values).max() ** 2)
    every = [np.array(order) for order in itertools.permutations(range(columns))] if columns <= 6 else []
    if every and len(every) ** (rows - 1) <= 200_000:
        sums = values[0][None]
        for row in values[1:]:
            sums = (sums[:, None] + np.stack([row[order] for order in every])[None]).reshape(-1, columns)
        return float(((sums / rows).var(1) >= found - tolerance).mean()), True
    random = np.random.default_rng(seed)
    hits = sum(random.permuted(values, axis=1).mean(0).var() >= found - tolerance for _ in range(draws))
    return (1 + int(hits)) / (1 + draws), False


def data_title(data: str) -> str:
    """``CIFAR-10 (JPEG copy)``: what the recorded runs of a set were trained on, for people.

    Args:
        data: "shapes" or "cifar10".
    """
    jpeg = (results.runs(data=data)["data"] == f"{data}-jpeg").any()
    return training_sets.SETS[data].title + (" (JPEG copy)" if jpeg else "")
