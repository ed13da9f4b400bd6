"""What the rule explorer shows: the staircase of the rule with one network on it, and the audit of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from .looks import shortened
from .rule_plots import MARKS, audit_title, points_of, staircase_title
from .rule_views import AuditRow, AuditTable, RuleStaircase
from .views import View, see_through

if TYPE_CHECKING:
    from .kernels import RuleCurve

__all__ = ["RulePanels", "RuleScene"]


@dataclass(frozen=True, eq=False)
class RuleScene:
    """What :class:`RulePanels` draws.

    Attributes:
        curve: The rule over the C of the axis.
        rows: The networks, by the same rule.
        chosen: The one that is marked, by its place.
        released: How many of them, the first ones, are the official networks.
    """

    curve: RuleCurve
    rows: Sequence[AuditRow]
    chosen: int
    released: int


class RulePanels:
    """The staircase with the stages of one network, and k by stage of every network beside what each reading gives."""

    size = (12.2, 5.2)

    def __init__(self, figure: Figure):
        self.figure = figure
        left, right = figure.subfigures(1, 2, width_ratios=(1, 1.12), facecolor="none")
        self.staircase = RuleStaircase(left.add_axes((0.095, 0.105, 0.86, 0.675)), MARKS)
        self.audit = AuditTable(right.add_axes((0.285, 0.105, 0.705, 0.76)), letters=25)
        self.views: list[View] = [self.staircase, self.audit]
        see_through(figure)

    def update(self, scene: RuleScene) -> None:
        """Show another scene."""
        row = scene.rows[scene.chosen]
        title = f"{staircase_title(scene.curve)}\nmarked: {shortened(row.label, 60)}"
        self.staircase.update(scene.curve, **points_of([row]), title=title)
        title = audit_title(scene.rows[: scene.released], "stages of the released networks")
        self.audit.update(scene.rows, marked=scene.chosen, title=title)
