"""What a :class:`ecaviz.RuleExplorer` shows: the rule for one γ and b, and the audit of some networks by it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import traitlets

from . import kernels, provenance
from .rule_panels import RuleScene
from .rule_plots import audit_rows, met
from .states import choice

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RuleState"]

SPAN = 2, 4096
"""The first and the last C of the staircase."""
RANGES = {"gamma": (0.5, 4.0), "b": (-2.0, 4.0)}


class RuleState(traitlets.HasTraits):
    """The traits of the explorer.

    Attributes:
        network: The network that is marked, by its label.
        gamma: γ, 0.5…4.
        b: The offset b, −2…4.
    """

    network = traitlets.Unicode()
    gamma = traitlets.Float(2.0)
    b = traitlets.Float(1.0)

    def __init__(self, models: Any = (), gamma: float = 2, b: float = 1):
        audit = provenance.rule_audit(models, gamma, b)
        self._rows = audit_rows(audit)
        self.names = [row.label for row in self._rows]
        self.released = len(audit_rows(audit[audit["source"] == "released"]))
        super().__init__(network=self.names[0], gamma=gamma, b=b)

    @traitlets.validate("network")
    def _known_network(self, proposal):
        return choice(proposal, self.names, "network")

    @traitlets.validate("gamma", "b")
    def _in_range(self, proposal):
        name = proposal["trait"].name
        low, high = RANGES[name]
        if not low <= proposal["value"] <= high:
            raise traitlets.TraitError(f"{name}: {proposal['value']:g} is not between {low:g} and {high:g}.")
        return proposal["value"]

    def scene(self) -> RuleScene:
        """What is to be drawn."""
        rows = []
        for row in self._rows:
            found = provenance.readings_of(row.planes, row.channels, self.gamma, self.b)
            rows.append(
                replace(
                    row, by_planes=found["rule_on_planes"], by_channels=found["rule_on_channels"], by_timm=found["timm"]
                )
            )
        return RuleScene(
            kernels.rule_curve(*SPAN, self.gamma, self.b),
            rows,
            self.names.index(self.network),
            self.released,
        )

    def table(self, scene: RuleScene) -> pd.DataFrame:
        """One row a stage of a network: planes, C, k of its weights, and what each reading of the rule gives."""
        import pandas as pd

        columns = "k", "planes", "channels", "rule_on_planes", "rule_on_channels", "timm"
        return pd.DataFrame(
            [
                {"network": row.label, "stage": stage, **dict(zip(columns, found, strict=True))}
                for row in scene.rows
                for stage, found in enumerate(zip(row.k, row.planes, row.channels, *row.readings, strict=True), 1)
            ]
        ).assign(gamma=self.gamma, b=self.b)

    def describe(self, scene: RuleScene | None = None) -> str:
        """What is seen, as HTML."""
        scene = scene or self.scene()
        row, ties = scene.rows[scene.chosen], scene.curve.ties
        parts = [
            f"{name} {_listed(given)} ({n} of {len(row.k)})" if any(c is not None for c in at) else f"{name} unknown"
            for name, at, given, n in zip(
                (
                    f"on its planes ({_listed(row.planes)})",
                    f"on its channels ({_listed(row.channels)})",
                    "by timm's code",
                ),
                (row.planes, row.channels, row.channels),
                row.readings,
                met([row]),
                strict=True,
            )
        ]
        official = scene.rows[: scene.released]
        none = sum(k not in given for one in official for k, *given in zip(one.k, *one.readings, strict=True))
        stages = sum(len(one.k) for one in official)
        rule = f"γ = {self.gamma:g}, b = {_number(self.b)}"
        text = (
            f"<b>{html.escape(row.label)}</b> has k = {_listed(row.k)}, stage by stage. The rule with {rule} gives "
            f"{'; '.join(parts)}; in brackets the number of stages at which that is the k of the weights. "
            f"Of the {stages} stages of the official networks {none} have a k that no reading gives. "
        )
        if not ties:
            return text + f"No C from {SPAN[0]} to {SPAN[1]} is an exact tie."
        return text + (
            f"Exact ties, where the formula leaves two odd numbers to choose from and the paper's code takes the "
            f"upper: C = {_listed(ties)}."
        )


def _listed(values: Sequence[int | None]) -> str:
    return ", ".join("–" if value is None else str(value) for value in values)


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")
