"""What a :class:`ecaviz.ModuleExplorer` shows: two modules of the survey at one C."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import traitlets

from . import results, survey
from .panels import ModuleScene, ModuleSide
from .results import Difference

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ModuleState"]

_KNOWN = {one.name: one for one in survey.MODULES if one.name != "none"}


class ModuleState(traitlets.HasTraits):
    """The traits of the explorer.

    Attributes:
        left: Name of the module on the left.
        right: Name of the module on the right.
        channels: C.
    """

    left = traitlets.Enum(tuple(_KNOWN), "se")
    right = traitlets.Enum(tuple(_KNOWN), "eca")
    channels = traitlets.Int(256)

    def __init__(self, choices: Sequence[int]):
        self.choices = tuple(choices)
        self._costs = {name: [survey.structure_of(name, c).parameters for c in self.choices] for name in _KNOWN}
        table = results.runs()
        self._runs = {
            name: {int(run.seed): 100 * run.accuracy for run in table[table["name"] == one.model].itertuples()}
            for name, one in _KNOWN.items()
        }
        self._table = survey.accuracies().set_index("name")
        low = min(min(by_seed.values()) for by_seed in self._runs.values())
        high = max(max(by_seed.values()) for by_seed in self._runs.values())
        ends = self._table[["low", "high"]].drop("none")
        self._limits = (
            5 * math.floor(min(low, 100 * ends["low"].min()) / 5),
            min(5 * math.ceil(max(high, 100 * ends["high"].max()) / 5), 100),
        )
        super().__init__(channels=256 if 256 in self.choices else self.choices[0])

    @traitlets.validate("channels")
    def _known_channels(self, proposal):
        if proposal["value"] not in self.choices:
            known = ", ".join(map(str, self.choices))
            raise traitlets.TraitError(f"channels: {proposal['value']!r} is not among {known}.")
        return proposal["value"]

    def difference(self) -> Difference:
        """Accuracy of the right module's bundled network less that of the left one's."""
        return results.paired_difference(_KNOWN[self.right].model, _KNOWN[self.left].model)

    def scene(self) -> ModuleScene:
        """What is to be drawn."""
        return ModuleScene(
            self._side(self.left),
            self._side(self.right),
            self.choices,
            self.channels,
            _in_words(self.difference()),
            self._limits,
        )

    def _side(self, name: str) -> ModuleSide:
        row = self._table.loc[name]
        return ModuleSide(
            name,
            _KNOWN[name].title,
            survey.structure_of(name, self.channels),
            self._costs[name],
            self._runs[name],
            (100 * row["low"], 100 * row["high"]),
        )

    def table(self, scene: ModuleScene) -> pd.DataFrame:
        """One row a module: what it allows and costs at C, and its accuracies, shares of 1 but ``top1`` in per cent."""
        import pandas as pd

        rows = []
        for side in (scene.left, scene.right):
            one, known = side.structure, self._table.loc[side.name]
            rows.append(
                {
                    "module": side.title,
                    "gate": _KNOWN[side.name].gate,
                    "C": scene.now,
                    "pairs": one.pairs,
                    "structural": one.structural,
                    "rank": one.rank,
                    "parameters": one.parameters,
                    "multiply_adds": one.multiply_adds,
                    "top1": known["top1"],
                    "accuracy": known["mean"],
                    "low": known["low"],
                    "high": known["high"],
                }
            )
        return pd.DataFrame(rows)

    def describe(self, scene: ModuleScene | None = None) -> str:
        """A table as HTML."""
        scene = scene or self.scene()
        cell = 'style="padding: 2px 10px; text-align: right; white-space: nowrap"'
        names = (
            "",
            "gate ω",
            "pairs that can interact",
            "rank of J",
            "parameters",
            "multiply-adds",
            "top-1, published (%)",
            "measured (%)",
        )
        head = "".join(f'<th scope="col" {cell}>{name}</th>' for name in names)
        rows = ""
        for side in (scene.left, scene.right):
            one, row = side.structure, self._table.loc[side.name]
            measured = f"{100 * row['mean']:.1f}"
            if not math.isnan(row["low"]):
                measured += f" ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
            numbers = (
                html.escape(_KNOWN[side.name].gate),
                f"{one.structural:.2%}",
                "undefined" if one.rank is None else f"{one.rank:,}",
                f"{one.parameters:,}",
                f"{one.multiply_adds:,}",
                "not known" if math.isnan(row["top1"]) else f"{row['top1']:.2f}",
                measured,
            )
            cells = "".join(f"<td {cell}>{number}</td>" for number in numbers)
            rows += f'<tr><th scope="row" {cell}>{side.title}</th>{cells}</tr>'
        return (
            f"<table><caption>One module at C = {scene.now}, on the maps that ResNet-50 has there; r = 16, k = 3, "
            f"GSoP: c = 128. The rank is that of generic weights. Published: ResNet-50 on ImageNet, no spread given. "
            f"Measured: small networks on the procedural images, mean and 95 % interval over seeds. The difference is "
            f"one of 91 pairs: of many that are looked at, some intervals miss.</caption><tr>{head}</tr>{rows}</table>"
        )


def _in_words(found: Difference) -> str:
    if len(found.seeds) < 2:
        return f"{100 * found.mean:+.1f} points, one seed"
    said = "" if found.significant else ", not significant"
    return (
        f"{100 * found.mean:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f}{said}, "
        f"{len(found.seeds)} seeds)"
    )
