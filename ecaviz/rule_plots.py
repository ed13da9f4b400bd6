"""Plots of the rule that picks k, and of the k that networks have. Reached as ``ecaviz.plots.<name>``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .rule_views import AuditRow, AuditTable, RuleStaircase
from .texts import names_as_written
from .views import axes_or_current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from .kernels import RuleCurve

__all__ = ["rule_audit", "rule_staircase"]

MARKS = ("the rule on planes", "the rule on channels", "k of the weights")


@names_as_written
def rule_staircase(
    gamma: float = 2,
    b: float = 1,
    *,
    channels: tuple[int, int] = (2, 4096),
    marks: pd.DataFrame | Iterable[int] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""The adaptive rule k = ψ(C; γ, b) as a staircase.

    Drawn are the steps (the paper's code), the value \|log2(C)/γ + b/γ\| that they round, timm's minimum of 3 where it
    makes a difference, and the exact ties, where the formula gives an even number and leaves open which of two odd ones
    it means.

    Args:
        gamma: γ, positive.
        b: The offset b.
        channels: The first and the last C of the axis, whole.
        marks: The C to mark on the staircase, None for the powers of two; or rows of what :func:`ecaviz.rule_audit`
            gives: then marked are the rule on the planes, the rule on the channels and the k of the weights. Those
            beyond the axis are left out.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: A ``gamma`` or ``b`` that cannot be, no range of C, or marks that are no audit and no C.

    Source: Wang et al., CVPR 2020, Eq. 12 and Figure 3.
    """
    from . import checks, provenance  # here: they bring torch, which no other plot needs
    from .attention import adaptive_kernel_size
    from .kernels import rule_curve

    curve = rule_curve(*channels, gamma, b)
    audit = hasattr(marks, "columns")
    if audit:
        provenance.check_audit(marks, "rule_staircase: marks")
        points = points_of(audit_rows(provenance.with_rule(marks, curve.gamma, curve.b)))
    else:
        if marks is None:
            marks = [2**i for i in range(32) if channels[0] <= 2**i <= channels[1]]
        chosen = [checks.at_least_one(c, "rule_staircase: each C of marks") for c in marks]
        points = {"channels": [(c, adaptive_kernel_size(c, curve.gamma, curve.b)) for c in chosen]}
    ax = axes_or_current(ax)
    view = RuleStaircase(ax, MARKS if audit else ("", "", ""))
    view.update(curve, **points, title=staircase_title(curve) if title is None else title)
    return ax


@names_as_written
def rule_audit(
    table: pd.DataFrame, *, marked: str | None = None, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """What networks have and what each reading of the rule gives: a row a network, a cell a stage, k written in.

    A cell of a reading is light where it gives the k of the weights, dark where it does not: orange above it, blue
    below it.

    Args:
        table: What :func:`ecaviz.rule_audit` gives.
        marked: The network to be framed, by its ``source`` or, of a released one, its ``network``.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: ``table`` is no audit, or ``marked`` is not in it.
    """
    from . import provenance

    provenance.check_audit(table, "rule_audit")
    rows = audit_rows(table)
    place = None
    if marked is not None:
        names = list(table.drop_duplicates(["network", "source"])[["network", "source"]].itertuples(index=False))
        names = [network if source == "released" else source for network, source in names]
        if marked not in names:
            raise ValueError(f"rule_audit: no network {marked!r} in the table; there are {', '.join(names)}.")
        place = names.index(marked)
    ax = axes_or_current(ax)
    AuditTable(ax).update(rows, marked=place, title=audit_title(rows) if title is None else title)
    return ax


def audit_rows(table: pd.DataFrame) -> list[AuditRow]:
    """The rows of an audit, a network each."""
    from .provenance import label_of

    def column(part: pd.DataFrame, name: str) -> tuple[Any, ...]:
        return tuple(
            None if missing else int(value) for value, missing in zip(part[name], part[name].isna(), strict=True)
        )

    columns = ("k", "planes", "channels", "rule_on_planes", "rule_on_channels", "timm")
    return [
        AuditRow(label_of(network, source), *(column(part, name) for name in columns))
        for (network, source), part in table.groupby(["network", "source"], sort=False)
    ]


def points_of(rows: Iterable[AuditRow]) -> dict[str, list[tuple[int, int]]]:
    """Where the stages of networks stand on the staircase: (C, k) by kind of mark."""
    points: dict[str, list[tuple[int, int]]] = {"planes": [], "channels": [], "own": []}
    for row in rows:
        for kind, at, values in (
            ("planes", row.planes, row.by_planes),
            ("channels", row.channels, row.by_channels),
            ("own", row.channels, row.k),
        ):
            points[kind] += [(c, k) for c, k in zip(at, values, strict=True) if c is not None and k is not None]
    return points


def staircase_title(curve: RuleCurve) -> str:
    """γ, b, and where the formula is ambiguous."""
    ties = curve.ties
    where = "no exact tie" if not ties else f"tie{'s' * (len(ties) > 1)} at C = {', '.join(map(str, ties[:5]))}"
    how = f"γ = {curve.gamma:g}, b = {curve.b:g}".replace("-", "−")
    return f"the adaptive kernel size, {how}: {where}{', …' * (len(ties) > 5)}"


def audit_title(rows: Iterable[AuditRow], what: str = "stages") -> str:
    """Of how many stages each reading gives the k, in two lines."""
    rows = list(rows)
    planes, channels, timm = met(rows)
    stages = sum(len(row.k) for row in rows)
    return (
        f"{what} whose k the rule gives, of {stages}:\n"
        f"read on planes {planes}, on channels {channels}, by timm's code {timm}"
    )


def met(rows: Iterable[AuditRow]) -> list[int]:
    """For each reading, at how many stages it gives the k of the weights."""
    rows = list(rows)
    return [sum(given == k for row in rows for given, k in zip(row.readings[i], row.k, strict=True)) for i in range(3)]
