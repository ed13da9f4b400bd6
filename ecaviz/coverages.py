"""Tables of coverage: what k and r allow, what trained sites make of it, and what was recorded of every training run.

    coverages.allowed()                                   # pairs, rank, cost for every C, k and r: arithmetic
    coverages.coverage_table("shapes-se-r16", images)     # a row a site: allowed and realised side by side
    coverages.locality_table("legacy_seresnet50.in1k", images)    # is its interaction local? against the nulls
    coverages.recorded()                                  # the same for every run and seed: data/results/coverage.csv
    coverages.summary(table, "directness")                # over seeds, with an interval
    coverages.answers()                                   # the table that answers: per C, k and r

k and r are never matched: a row is of a k or of an r. What a network realises comes in two ways: numbers of the mean J
over images (``rank``, ``partners``, ``directness``, with bootstrap intervals over images), and the same image by image
(``image_rank`` and so on, mean and spread).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import checks
from .coverage_records import recorded, recorded_locality
from .coverage_tables import coverage_table, locality_table, nullable
from .intervals import FEWEST, t_half_width, t_interval
from .structure import Structure, eca_structure, se_structure

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CHANNELS",
    "REDUCTIONS",
    "SIZES",
    "allowed",
    "answers",
    "coverage_table",
    "difference",
    "locality_table",
    "recorded",
    "recorded_locality",
    "summary",
]

CHANNELS = (16, 32, 64, 128, 256, 512, 1024, 2048)
SIZES = (1, 3, 5, 7, 9)
REDUCTIONS = (2, 4, 8, 16, 32)


def allowed(
    channels: Sequence[int] = CHANNELS, sizes: Sequence[int] = SIZES, reductions: Sequence[int] = REDUCTIONS
) -> pd.DataFrame:
    """What each kernel size and each reduction allows, and what it costs, for each C: no weights are looked at.

    Args:
        channels: Numbers of channels C.
        sizes: Kernel sizes k, odd.
        reductions: Reductions r; where one leaves no hidden unit (r > C) there is no row.

    Returns:
        A frame with a row for each (C, k) and each (C, r): family ("eca" or "se"), channels, kernel_size, reduction
        (one of the two is missing), pairs, structural (pairs/C²), rank (of generic weights), rank_share (rank/C),
        parameters, multiply_adds. Modules without biases, as in the papers.

    Raises:
        ValueError: An even k, a number below 1, or nothing to say.
    """
    import pandas as pd

    channels, sizes, reductions = map(_several, (channels, sizes, reductions))
    forms = []
    for c in channels:
        forms += [eca_structure(c, k) for k in sizes]
        forms += [se_structure(c, r) for r in reductions if checks.at_least_one(r, "allowed: reductions") <= c]
    if not forms:
        raise ValueError(f"allowed: no k and no r for channels {channels}, sizes {sizes}, reductions {reductions}.")
    return nullable(pd.DataFrame([_of_form(form) for form in forms]))


def _several(numbers: Any) -> list[int]:
    return [numbers] if isinstance(numbers, int) else list(numbers)


def _of_form(form: Structure) -> dict[str, Any]:
    return {
        "family": form.family,
        "channels": form.channels,
        "kernel_size": form.kernel_size,
        "reduction": form.reduction,
        "pairs": form.pairs,
        "structural": form.structural,
        "rank": form.rank,
        "rank_share": form.rank_share,
        "parameters": form.parameters,
        "multiply_adds": form.multiply_adds,
    }


# --------------------------------------------------------------------------------------------------- what they say


def summary(
    table: pd.DataFrame, value: str, by: Sequence[str] = ("site", "squeeze", "channels"), *, level: float = 0.95
) -> pd.DataFrame:
    """One number over seeds: mean, spread, and the t interval of the mean.

    Args:
        table: What :func:`recorded` or :func:`coverage_table` gives.
        value: The column.
        by: What to tell apart besides the models; what is not among it is averaged within a seed.
        level: Of the interval, 0…1.

    Returns:
        A frame with a row for each model and value of ``by``: model, family, setting, the columns of ``by``, seeds
        (their number), mean, std (over seeds), low, high (:func:`ecaviz.intervals.t_interval`: missing below three
        seeds; of the directness, a share, between 0 and 1), and for partners and directness equal: what equal entries
        in every row of J would give (pairs/C, C/pairs).

    Raises:
        ValueError: There is no such column, it holds no numbers, or the level is no share.
    """
    import pandas as pd

    by = [by] if isinstance(by, str) else list(by)
    known = ["model", "family", "setting", *by]
    _check(table, [*known, "seed", value], value, "summary")
    table = table.assign(seed=_seeds(table))
    if value.endswith(("partners", "directness")) and "pairs" in table:
        share = table["pairs"] / table["channels"]
        table = table.assign(equal=1 / share if value.endswith("directness") else share)
    rows = []
    for key, group in table.groupby(known, sort=False, dropna=False):
        values = group.groupby("seed")[value].mean().dropna()
        low, high = t_interval(values, level, share=value.endswith("directness"))
        row = dict(zip(known, key, strict=True))
        row |= {"seeds": len(values), "mean": values.mean(), "std": values.std(), "low": low, "high": high}
        if "equal" in group:
            row["equal"] = group["equal"].mean()
        rows.append(row)
    return pd.DataFrame(rows)


def _seeds(table: pd.DataFrame) -> pd.Series:
    """The column ``seed`` as numbers; 0 for what has none."""
    return table["seed"].astype(float).fillna(0).astype(int)


def _check(table: pd.DataFrame, columns: Sequence[str], value: str, what: str) -> None:
    """Raise a ValueError where a table lacks columns, or one of them holds no numbers."""
    from pandas.api.types import is_numeric_dtype

    if missing := [name for name in columns if name not in table]:
        raise ValueError(f"{what}: the table has no {', '.join(missing)}; it has {', '.join(table.columns)}.")
    if value and not is_numeric_dtype(table[value]):
        raise ValueError(f"{what}: numbers were expected in the column {value!r}; it has {table[value].dtype}.")


def difference(
    table: pd.DataFrame, value: str, first: str, second: str, by: Sequence[str] = (), *, level: float = 0.95
) -> pd.DataFrame:
    """One number of one model less that of another, paired by seed.

    Args:
        table: What :func:`recorded` gives.
        value: The column.
        first: Name of the one model.
        second: Name of the other.
        by: What to tell apart, such as ("site",); sites are averaged within a seed where they are not told apart.
        level: Of the t interval over seeds, 0…1.

    Returns:
        A frame with the columns of ``by``, seeds, first, second (the two means), difference, low, high, significant
        (whether the interval leaves 0 out; never below three seeds).

    Raises:
        ValueError: A model without rows, no seed that both have, or a column that is not there or holds no numbers.
    """
    import pandas as pd

    by = [by] if isinstance(by, str) else list(by)
    _check(table, ["model", "seed", value, *by], value, "difference")
    table = table.assign(seed=_seeds(table))
    parts = {}
    for name in (first, second):
        rows = table[table["model"] == name]
        if rows.empty:
            known = ", ".join(dict.fromkeys(table["model"]))
            raise ValueError(f"difference: the table has no rows of {name!r}. It has {known}.")
        parts[name] = rows.groupby([*by, "seed"], sort=False)[value].mean()
    both = pd.concat(parts, axis=1, join="inner").dropna()
    if both.empty:
        raise ValueError(f"difference: {first} and {second} have no seed (and {', '.join(by) or 'value'}) in common.")
    groups = both.groupby(by, sort=False) if by else [((), both)]
    rows = []
    for key, group in groups:
        d = group[first] - group[second]
        half = t_half_width(d.std(ddof=1) / math.sqrt(len(d)), len(d), level) if len(d) >= FEWEST else math.nan
        low, high = d.mean() - half, d.mean() + half
        row = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        row |= {"seeds": len(d), "first": group[first].mean(), "second": group[second].mean()}
        row |= {"difference": d.mean(), "low": low, "high": high, "significant": bool(low > 0 or high < 0)}
        rows.append(row)
    return pd.DataFrame(rows)


def answers(
    channels: Sequence[int] = CHANNELS,
    sizes: Sequence[int] = SIZES,
    reductions: Sequence[int] = REDUCTIONS,
    *,
    trained: pd.DataFrame | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """The table that answers: per C, k and r what is allowed, what trained sites realise, and what it costs.

    Args:
        channels: Numbers of channels C.
        sizes: Kernel sizes k.
        reductions: Reductions r.
        trained: What :func:`recorded` or :func:`coverage_table` gives, or both, one below the other; None for what was
            recorded.
        level: Of the intervals over runs, 0…1.

    Returns:
        The columns of :func:`allowed`, and partners (median over the gates of a site, mean over the trained sites of
        that C and k or r, and over runs), low and high (t interval over runs), sites and runs: the seeds of all models
        that have such sites. These are missing where none is at hand; sites where nothing moves a gate are left out.

    Raises:
        ValueError: As for :func:`allowed`, or ``trained`` is no such table.
    """
    trained = recorded() if trained is None else trained
    columns = ["model", "family", "seed", "site", "channels", "kernel_size", "reduction", "kind", "partners"]
    _check(trained, columns, "", "answers")
    table = allowed(channels, sizes, reductions)
    found = []
    for family, knob in (("eca", "kernel_size"), ("se", "reduction")):
        rows = trained[(trained["family"] == family) & (trained["kind"] != "structure") & (trained["partners"] > 0)]
        if not rows.empty:
            whole = rows.assign(knob=rows[knob].astype(float).round(), seed=_seeds(rows))
            found.append(_partners(whole, family, level))
    table["knob"] = table["kernel_size"].astype(float).fillna(table["reduction"].astype(float))
    import pandas as pd

    columns = ["family", "channels", "knob", "partners", "low", "high", "sites", "runs"]
    extra = pd.concat(found) if found else pd.DataFrame(columns=columns)
    table = table.merge(extra, how="left", on=["family", "channels", "knob"]).drop(columns="knob")
    table[["sites", "runs"]] = table[["sites", "runs"]].astype("Int64")
    return table


def _partners(rows: pd.DataFrame, family: str, level: float) -> pd.DataFrame:
    import pandas as pd

    out = []
    for (channels, knob), group in rows.groupby(["channels", "knob"]):
        # Several models can have the same k or r at a site of C channels: each of their runs is one.
        by_run = group.groupby(["model", "seed"])["partners"].mean()
        low, high = t_interval(by_run, level)
        out.append((family, channels, knob, by_run.mean(), low, high, group["site"].nunique(), len(by_run)))
    return pd.DataFrame(out, columns=["family", "channels", "knob", "partners", "low", "high", "sites", "runs"])
