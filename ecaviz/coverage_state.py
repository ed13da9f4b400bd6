"""What a :class:`ecaviz.CoverageExplorer` shows: an ECA and an SE of one C, one of their gates, and a trained site.

All that a move needs of a trained site is computed when the explorer is made (:func:`read_trained`): the network is run
once for every model, and of each matrix the cells that can be seen are kept, not the C×C numbers.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from . import checks, gates
from .coverage_panels import CoveragePanels, CoverageScene, SiteScene, in_words
from .images import folder, suited
from .interaction import (
    COVERED,
    InteractionMatrix,
    coverage,
    eca_structure,
    interaction_matrices,
    se_structure,
)
from .kernel_views import pool
from .looks import layer_labels, setting
from .models import LoadedModel
from .readings import some_of, unique_names
from .states import choice, matched, within

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CoverageState", "TrainedModel", "TrainedSite", "read_trained"]

SHOWN = ("size", "signed", "ordered")
NAMED = 3
"""Channels that are named as those a gate listens to most."""


class TrainedSite:
    """The interaction matrix of one site, reduced to what is drawn of it.

    Args:
        matrix: The :class:`ecaviz.interaction.InteractionMatrix`.
    """

    def __init__(self, matrix: InteractionMatrix):
        self.matrix, self.coverage = matrix, coverage(matrix)
        self.channels = matrix.channels
        self.partners = self.coverage.participation.numpy()
        whole = matrix.form.dense().numpy()
        cells, self.side = pool(whole, CoveragePanels.cells, "max")
        cells = np.array(cells)
        self.top = float(np.abs(cells).max())
        self._cells = {"signed": cells, "size": np.abs(cells)}
        self._place: np.ndarray | None = None
        self._row: tuple[int, np.ndarray] | None = None

    @property
    def of(self) -> str:
        """What the matrix is, in words."""
        kind = self.matrix.kind
        return f"{kind} over {self.matrix.images} images" if kind == "realised" else kind

    def cells(self, shown: str) -> np.ndarray:
        """The matrix reduced to the cells that can be seen; see :class:`SiteScene`."""
        if shown not in self._cells:
            from .locality import seriate

            order = seriate(self.matrix).order.numpy()
            self._place = np.argsort(order)
            whole = np.abs(self.matrix.form.dense().numpy())
            self._cells[shown] = np.array(pool(whole[np.ix_(order, order)], CoveragePanels.cells, "max")[0])
        return self._cells[shown]

    def place(self, shown: str, channel: int) -> int:
        """Where a channel stands in the matrix as it is shown."""
        self.cells(shown)
        return int(self._place[channel]) if shown == "ordered" else channel

    def row(self, channel: int) -> np.ndarray:
        """J_ij of one channel i, C numbers."""
        if self._row is None or self._row[0] != channel:
            self._row = channel, self.matrix.form.row(channel).numpy()
        return self._row[1]


class TrainedModel:
    """The sites of one model that have an interaction matrix.

    Attributes:
        name: Name of the model, unique among those read together.
        sites: :class:`TrainedSite` by name, in the order of the network.
    """

    def __init__(self, name: str, sites: Mapping[str, TrainedSite]):
        self.name, self.sites = name, dict(sites)
        self.names = list(sites)
        self.labels = layer_labels(self.names)


def read_trained(loaded: Sequence[LoadedModel], images: Any = None, *, at_most: int = 120) -> list[TrainedModel]:
    """The interaction matrices of some models, each model run once over the images.

    Args:
        loaded: The models.
        images: Anything that ``images`` may be. None for what suits each model; of a model without a transform, which
            can take no images, J is then the structure.
        at_most: How many images of a larger set, evenly spaced; a DataLoader is used whole.

    Raises:
        ValueError: A model has no site with an interaction matrix, or the images cannot be used.
    """
    from tqdm.auto import tqdm

    at_most = checks.at_least_one(at_most, "CoverageExplorer: at_most")
    if isinstance(images, str | os.PathLike):
        images = folder(images)
    images = some_of(images, at_most)
    read = []
    with tqdm(total=len(loaded), desc="reading interactions", unit="model", delay=1, leave=False) as bar:
        for one, name in zip(loaded, unique_names([one.name for one in loaded]), strict=True):
            own = images
            if own is None and one.transform is not None:
                own = some_of(suited(one, n=at_most), at_most)
            read.append(TrainedModel(name, {site: TrainedSite(J) for site, J in _matrices(one, own).items()}))
            bar.update()
    return read


def _matrices(one: LoadedModel, images: Any) -> dict[str, InteractionMatrix]:
    """J of every site that has one."""
    if not any(site.per == "channel" and site.family in COVERED for site in gates.find_sites(one)):
        found = ", ".join(dict.fromkeys(site.family for site in gates.find_sites(one))) or "none"
        raise ValueError(
            f"CoverageExplorer: {one.name} has no site with an interaction matrix (its gates: {found}). Families that "
            f"have one: {', '.join(COVERED)}. Leave the model out; models=() shows the theory alone."
        )
    return interaction_matrices(one, images)


class CoverageState(traitlets.HasTraits):
    r"""The traits of the explorer.

    Attributes:
        model: Name of the model of the trained site; empty without one.
        layer: Number of the site.
        shown: What is drawn of its matrix: "size" (\|J\|), "signed" (J) or "ordered" (\|J\|, channels seriated).
        channels: C of the ECA and the SE; that of the site when model or layer are chosen.
        k: Kernel size of the ECA.
        r: Reduction of the SE.
        channel: The gate that is looked at, 0…C−1.
    """

    model = traitlets.Unicode()
    layer = traitlets.Int(0)
    shown = traitlets.Enum(SHOWN, "size")
    channels = traitlets.Int(256)
    k = traitlets.Int(3)
    r = traitlets.Int(16)
    channel = traitlets.Int(0)

    def __init__(
        self, channels: Sequence[int], sizes: Sequence[int], reductions: Sequence[int], trained: Sequence[TrainedModel]
    ):
        self.trained = {one.name: one for one in trained}
        own = {site.channels for one in trained for site in one.sites.values()}
        self.choices = tuple(channels) if own <= set(channels) else tuple(sorted({*channels, *own}))
        self.sizes, self.reductions = tuple(sizes), tuple(reductions)
        if trained:
            layer = len(trained[0].names) // 2
            first = {"model": trained[0].name, "layer": layer}
            C = trained[0].sites[trained[0].names[layer]].channels
        else:
            first, C = {}, 256 if 256 in self.choices else self.choices[len(self.choices) // 2]
        fitting = [r for r in self.reductions if r <= C]
        super().__init__(
            **first,
            channels=C,
            k=3 if 3 in self.sizes else self.sizes[0],
            r=16 if 16 in fitting else (fitting or list(self.reductions))[-1],
            channel=C // 3,
        )

    @property
    def names(self) -> list[str]:
        """Labels of the layers to choose from."""
        return self.trained[self.model].labels if self.trained else []

    @property
    def site(self) -> TrainedSite:
        """The trained site."""
        one = self.trained[self.model]
        return one.sites[one.names[self.layer]]

    @traitlets.validate("model")
    def _known_model(self, proposal):
        return choice(proposal, list(self.trained), "model")

    @traitlets.validate("layer")
    def _known_layer(self, proposal):
        return within(proposal, len(self.names), "layer")

    @traitlets.validate("channels")
    def _known_channels(self, proposal):
        return choice(proposal, self.choices, "channels")

    @traitlets.validate("k")
    def _known_size(self, proposal):
        return choice(proposal, self.sizes, "k")

    @traitlets.validate("r")
    def _known_reduction(self, proposal):
        return choice(proposal, self.reductions, "r")

    @traitlets.validate("channel")
    def _known_channel(self, proposal):
        return within(proposal, self.channels, "channel")

    @traitlets.observe("model")
    def _keep_depth(self, change):
        before = self.trained.get(change["old"])
        if before is not None:
            with self.hold_trait_notifications():
                self.layer = matched(self.layer, len(before.names), len(self.names))
                self._follow()

    @traitlets.observe("layer")
    def _follow(self, _change=None):
        """C is that of the site; the channel and r come down where they have to."""
        if self.trained:
            C = self.site.channels
            with self.hold_trait_notifications():
                self.channel = min(self.channel, C - 1)
                if self.r > C:
                    self.r = max((r for r in self.reductions if r <= C), default=self.r)
                self.channels = C

    @traitlets.observe("channels")
    def _keep_channel(self, change):
        self.channel = min(self.channel, change["new"] - 1)

    def scene(self) -> CoverageScene:
        """What is to be drawn.

        Raises:
            ValueError: An r that leaves no hidden unit.
        """
        return CoverageScene(
            eca_structure(self.channels, self.k),
            se_structure(self.channels, self.r),
            self.channel,
            _partners(self.channels, self.k),
            self._trained() if self.trained else None,
        )

    def _trained(self) -> SiteScene:
        site = self.site
        channel = min(self.channel, site.channels - 1)
        row = site.row(channel)
        size = np.abs(row)
        strongest = [int(j) for j in np.argsort(-size, kind="stable")[:NAMED] if size[j] > 0]
        return SiteScene(
            model=self.model,
            layer=self.names[self.layer],
            setting=setting(site.matrix),
            of=site.of,
            coverage=site.coverage,
            channel=channel,
            shown=self.shown,
            cells=site.cells(self.shown),
            side=site.side,
            position=site.place(self.shown, channel),
            limit=site.top or 1.0,
            row=row,
            partners=site.partners,
            directness=float(site.coverage.directness[channel]),
            strongest=[(j, float(row[j])) for j in strongest],
        )

    def table(self, scene: CoverageScene) -> pd.DataFrame:
        """Whom the chosen gate may listen to, and what a trained one does: of, C, gate, channel, allowed or J."""
        import pandas as pd

        allowed = np.arange(self.channels)
        near = np.abs(allowed - scene.channel) <= self.k // 2
        parts = [
            {"of": f"ECA, k={self.k}", "gate": scene.channel, "channel": allowed, "allowed": near},
            {"of": f"SE, r={self.r}", "gate": scene.channel, "channel": allowed, "allowed": True},
        ]
        if site := scene.trained:
            of = f"{site.model} at {site.layer}, {site.setting}"
            parts.append({"of": of, "gate": site.channel, "channel": np.arange(len(site.row)), "J": site.row})
        return pd.concat(map(pd.DataFrame, parts), ignore_index=True)

    def describe(self, scene: CoverageScene | None = None) -> str:
        """A table as HTML, what is allowed above what was learned, and a line on the chosen gate."""
        scene = scene or self.scene()
        cell = 'style="padding: 2px 6px; text-align: right"'
        named = 'style="padding: 2px 7px 2px 0; text-align: left; white-space: nowrap"'
        names = (
            "",
            "C",
            "pairs",
            "of C²",
            "rank",
            "rank / C",
            "effective rank",
            f"partners, gate {scene.channel}",
            "partners, all",
            "directness",
            "parameters",
            "multiply-<br>adds",
        )
        lines = [
            self._allowed(f"ECA, k = {scene.eca.kernel_size}, allowed", scene.eca, int(scene.partners[scene.channel])),
            self._allowed(f"SE, r = {scene.se.reduction}, allowed", scene.se, scene.se.channels),
        ]
        site, learned, gate = scene.trained, "", ""
        if site is not None:
            lines.append(self._learned(site))
            learned = (
                " Of the trained site: numerical rank; partners exp(entropy of J_ij²), of the gate and the median of "
                "all; mean directness."
            )
            clipped = f" (the last; there is no gate {scene.channel})" if site.channel != scene.channel else ""
            gate = (
                f'<p style="margin: 0.3em 0">Gate {site.channel}{clipped} of {html.escape(site.model)} at '
                f"{html.escape(site.layer)}, J {html.escape(site.of)}: {in_words(site)}.</p>"
            )
        shown = [i for i in range(len(names)) if site is not None or names[i] not in ("effective rank", "directness")]
        head = "".join(f'<th scope="col" {cell}>{names[i]}</th>' for i in shown)
        lines = [[line[i] for i in shown] for line in lines]
        rows = "".join(
            f'<tr><th scope="row" {named}>{html.escape(line[0])}</th>'
            + "".join(f"<td {cell}>{number}</td>" for number in line[1:])
            + "</tr>"
            for line in lines
        )
        return (
            f'<table><caption style="caption-side: bottom; text-align: left">Allowed: what the forms let interact, '
            f"before any weight is known; one module without biases; pairs that can interact, the rank of generic "
            f"weights, the mean of the partners.{learned} k moves the pairs and r the rank: these are separate axes."
            f"</caption>"
            f"<tr>{head}</tr>{rows}</table>{gate}"
        )

    @staticmethod
    def _allowed(name: str, one: Any, partners: int) -> tuple[str, ...]:
        mean = (
            f"{one.pairs / one.channels:,.4g}" if one.pairs < 1e4 * one.channels else f"{one.pairs / one.channels:,.0f}"
        )
        return (
            name,
            f"{one.channels:,}",
            f"{one.pairs:,}",
            f"{one.structural:.2%}",
            f"{one.rank:,}",
            f"{one.rank_share:.2%}",
            "–",
            f"{partners:,}",
            mean,
            "–",
            f"{one.parameters:,}",
            f"{one.multiply_adds:,}",
        )

    @staticmethod
    def _learned(site: SiteScene) -> tuple[str, ...]:
        found = site.coverage
        return (
            f"{site.model}, {site.layer}",
            f"{site.channels:,}",
            f"{found.pairs:,}",
            f"{found.structural:.2%}",
            f"{found.rank:,}",
            f"{found.rank_share:.2%}",
            f"{found.effective_rank:,.1f}",
            f"{site.partners[site.channel]:,.1f}",
            f"{found.participation_median:,.1f}",
            "–" if math.isnan(found.directness_mean) else f"{found.directness_mean:.3f}",
            f"{found.parameters:,}",
            "–" if found.multiply_adds is None else f"{found.multiply_adds:,}",
        )


@lru_cache(maxsize=64)
def _partners(channels: int, k: int) -> np.ndarray:
    return eca_structure(channels, k).partners.numpy()
