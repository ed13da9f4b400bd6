"""What the coverage explorer shows: what an ECA and an SE allow, and beside it what a trained site makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure, SubFigure

from .coverage_views import AllowedPairs, ChannelRow, MarkedInteraction, PartnerCurves, share_of_pairs
from .kernel_views import BottleneckShape, Interaction
from .looks import shortened
from .views import View, see_through

if TYPE_CHECKING:
    from .measures import Coverage
    from .structure import Structure

__all__ = ["CoveragePanels", "CoverageScene", "SiteScene", "TheoryPanels"]

CORNER = 32
"""Channels of the corner of a matrix that is drawn at full resolution."""
MATRIX = (0.185, 0.165, 0.575, 0.62)
"""Where the axes of a matrix stand in their panel: a square, with room for two lines of title and a colour bar."""
LINE = 43
"""Letters that fit on a line of a title above a matrix."""


@dataclass(frozen=True, eq=False)
class SiteScene:
    """The trained site of a :class:`CoverageScene`.

    Attributes:
        model: Name of the model.
        layer: Short name of the site.
        setting: Its family with its k or r: "SE, r=16".
        of: What its matrix is: "exact", "realised over 120 images", "structure".
        coverage: How much of the matrix is there.
        channel: The chosen channel, at most C − 1 of this site.
        shown: "size" (|J|), "signed" (J) or "ordered" (|J| with channels seriated).
        cells: The matrix that is drawn, reduced to the cells that can be seen.
        side: Side of a cell in channels.
        position: Where the chosen channel stands in the drawn matrix, 0…C−1.
        limit: End of the colour scale.
        row: J_ij of the chosen channel i.
        partners: exp(entropy of J_ij²) of every gate.
        directness: J_ii²/Σ_j J_ij² of the chosen gate; NaN if nothing moves it.
        strongest: The channels of the largest |J_ij|, with J_ij.
    """

    model: str
    layer: str
    setting: str
    of: str
    coverage: Coverage
    channel: int
    shown: str
    cells: np.ndarray
    side: int
    position: int
    limit: float
    row: np.ndarray
    partners: np.ndarray
    directness: float
    strongest: Sequence[tuple[int, float]]

    @property
    def channels(self) -> int:
        """C of this site."""
        return len(self.row)


@dataclass(frozen=True, eq=False)
class CoverageScene:
    """What :class:`CoveragePanels` draws: an ECA and an SE of one C, a channel of them, and a trained site.

    Attributes:
        eca: What the ECA allows.
        se: What the SE allows.
        channel: The chosen channel i, of their C.
        partners: Channels that each gate of the ECA may listen to, C numbers.
        trained: The trained site; None for the theory alone.
    """

    eca: Structure
    se: Structure
    channel: int
    partners: np.ndarray
    trained: SiteScene | None = None


class TheoryPanels:
    """What an ECA allows, its first channels, an SE's bottleneck; whom one gate may listen to, and every gate."""

    size = (10.4, 6.9)
    cells = 128
    trained = False

    def __init__(self, figure: Figure):
        self.figure = figure
        grid = figure.add_gridspec(2, 12, height_ratios=(0.87, 1))
        places = grid[0, :4], grid[0, 4:8], grid[0, 8:], grid[1, :8], grid[1, 8:]
        parts = [figure.add_subfigure(place, facecolor="none") for place in places]
        self.eca = AllowedPairs(parts[0].add_axes(MATRIX))
        self.shape = BottleneckShape(parts[1].add_axes((0.05, 0.165, 0.90, 0.62)))
        self._third(parts[2])
        self.row = ChannelRow(parts[3].add_axes((0.12, 0.14, 0.85, 0.60)), trained=self.trained)
        self.curves = PartnerCurves(parts[4].add_axes((0.20, 0.14, 0.74, 0.60)), trained=self.trained)
        self.views: list[View] = [self.eca, self.shape, self.third, self.row, self.curves]
        see_through(figure)
        self._seen: dict[tuple, tuple[np.ndarray, int]] = {}

    def _third(self, part: SubFigure) -> None:
        self.third = Interaction(part.add_axes(MATRIX), "share", colorbar=False)

    def update(self, scene: CoverageScene) -> None:
        """Show another scene."""
        eca, se = scene.eca, scene.se
        cells, side = self._pairs(eca)
        C = eca.channels
        self.eca.show_structure(
            eca,
            cells,
            side,
            scene.channel,
            title=f"allowed by ECA, k = {eca.kernel_size} (C = {C:,}):\n{eca.pairs:,} pairs ({eca.structural:.2%})",
        )
        self.shape.update(
            se.channels,
            se.hidden,
            title=f"allowed by SE, r = {se.reduction} (C = {C:,}): all pairs,\n"
            f"through C/r = {se.hidden}: rank ≤ {se.rank}",
        )
        self._update_third(scene)
        self._update_row(scene)

    def _update_third(self, scene: CoverageScene) -> None:
        eca = scene.eca
        count = min(CORNER, eca.channels)
        i = np.arange(count)
        corner = (np.abs(i[:, None] - i) <= (eca.kernel_size - 1) // 2).astype(float)
        self.third.update(
            corner,
            count,
            title=f"ECA, k = {eca.kernel_size}: the first {count} channels,\npair by pair (C = {eca.channels:,})",
        )

    def _update_row(self, scene: CoverageScene) -> None:
        eca, i, site = scene.eca, scene.channel, scene.trained
        reach = (eca.kernel_size - 1) // 2
        span = max(i - reach, 0), min(i + reach, eca.channels - 1)
        allowed = f"ECA, k = {eca.kernel_size}, may listen to {_channels(span)}; SE to all {eca.channels:,}"
        if site is None:
            self.row.update(eca.channels, i, span, title=f"gate i = {i} of C = {eca.channels:,}: {allowed}")
            self.curves.update(scene.partners, i, eca.channels, title="partners that every gate may have")
            return
        clipped = "" if site.channel == i else f", its last gate, {site.channel}"
        trained = f"trained {site.setting} (C = {site.channels:,}{clipped}): " + in_words(site, "\n")
        self.row.update(
            eca.channels,
            i,
            span,
            row=site.row,
            own=site.channel,
            top=float(np.abs(site.row).max()),
            title=f"gate i = {i}: {allowed}\n{trained}",
        )
        self.curves.update(
            scene.partners,
            i,
            eca.channels,
            trained=site.partners,
            own=site.channel,
            title="partners of every gate:\nallowed, and of the trained site",
        )

    def _pairs(self, structure: Structure) -> tuple[np.ndarray, int]:
        key = structure.channels, structure.kernel_size
        if key not in self._seen:
            self._seen[key] = share_of_pairs(structure, self.cells)
        return self._seen[key]


class CoveragePanels(TheoryPanels):
    """The same with a trained site: its matrix, its row of the chosen channel, and the partners of its gates."""

    trained = True

    def _third(self, part: SubFigure) -> None:
        self.third = MarkedInteraction(part.add_axes(MATRIX), "size")

    def _update_third(self, scene: CoverageScene) -> None:
        site = scene.trained
        ordered = site.shown == "ordered"
        name = "J" if site.shown == "signed" else "|J|"
        what = f"{name} {site.of.split()[0]}, channels ordered spectrally" if ordered else f"{name}, {site.of}"
        label = f"largest {name} of {site.side}×{site.side}" if site.side > 1 else ""
        self.third.show(
            site.cells,
            site.channels,
            site.position,
            kind="signed" if site.shown == "signed" else "size",
            limit=site.limit,
            label=label,
            ordered=ordered,
            title=f"{shortened(f'{site.model}, {site.layer}', LINE - 11)} (C = {site.channels:,}):\n{what}",
        )


def in_words(site: SiteScene, between: str = "; ") -> str:
    """Whom the chosen gate of a trained site listens to, in two parts with ``between`` between them."""
    if not np.any(site.row):
        return "nothing moves this gate"
    most = ", ".join(f"{j} ({value:+.2g})" for j, value in site.strongest)
    partners = site.partners[site.channel]
    direct = f"{site.directness:.3f}" if site.directness >= 0.001 else "below 0.001"
    return f"{partners:,.1f} partners, directness {direct}{between}listens most to {most}".replace("-", "−")


def _channels(span: tuple[int, int]) -> str:
    return f"channel {span[0]} alone" if span[0] == span[1] else f"channels {span[0]} to {span[1]}"
