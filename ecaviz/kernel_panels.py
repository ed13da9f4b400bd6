"""What a :class:`ecaviz.KernelExplorer` shows: a kernel under surgery, and what that does to gates and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from .kernel_views import KernelStems
from .surgery_views import ChangeBySurgery, GateScatter, ResponseCurves, TopClasses
from .views import Photograph, View, see_through

__all__ = ["KernelPanels", "KernelScene"]


@dataclass(frozen=True)
class KernelScene:
    """What :class:`KernelPanels` draws.

    Attributes:
        label: Name of the model.
        site: Name of the site that is looked at.
        what: The surgery, in words.
        where: Where it is done, in words.
        now: k of "resize", or the mode.
        kernel: The learned kernel, k weights.
        other: What takes its place; None where the kernel stays and something else changes.
        reach: Offsets to show to either side.
        top: Room for the largest absolute weight of the model.
        frequencies: F frequencies, cycles per channel.
        gain: Gain of the learned kernel, F.
        other_gain: Gain of the other; None as above.
        band: Lower and upper ends of the gains of fresh kernels, F each.
        gain_top: Room for the largest gain of the model.
        picture: uint8 H×W×3, the image.
        caption: Its number and class.
        before: Gates of the site on it, C.
        after: The same under surgery.
        exact: Whether these are of the network as it is now; else of this site alone, its descriptors as they were.
        limits: Ends of the scale of gates.
        sizes: Kernel sizes to choose from.
        by_size: For each, mean |Δω| of this site over the images.
        modes: The other surgeries.
        by_mode: For each the same; NaN where it cannot be done.
        classes: Names and probabilities of the first five before.
        others: The same now; None while the network has not answered.
    """

    label: str
    site: str
    what: str
    where: str
    now: int | str
    kernel: np.ndarray
    other: np.ndarray | None
    reach: int
    top: float
    frequencies: np.ndarray
    gain: np.ndarray
    other_gain: np.ndarray | None
    band: tuple[np.ndarray, np.ndarray]
    gain_top: float
    picture: np.ndarray
    caption: str
    before: np.ndarray
    after: np.ndarray
    exact: bool
    limits: tuple[float, float]
    sizes: Sequence[int]
    by_size: np.ndarray
    modes: Sequence[str]
    by_mode: np.ndarray
    classes: Sequence[tuple[str, float]]
    others: Sequence[tuple[str, float]] | None


class KernelPanels:
    """Kernel, response, image; its gates before and now, what every surgery changes, the first classes.

    All but two are known at once: the gates behind a changed layer and the classes follow when the network has
    answered.
    """

    size = (12.4, 6.8)

    def __init__(self, figure: Figure):
        self.figure = figure
        parts = figure.subfigures(2, 3, width_ratios=(1.06, 1.06, 1), facecolor="none").ravel()
        self.stems = KernelStems(parts[0].add_axes((0.17, 0.16, 0.79, 0.64)), "now", named=True)
        self.response = ResponseCurves(parts[1].add_axes((0.16, 0.16, 0.80, 0.64)))
        self.photograph = Photograph(parts[2].add_axes((0.14, 0.07, 0.74, 0.80)))
        self.gates = GateScatter(parts[3].add_axes((0.17, 0.17, 0.79, 0.68)))
        self.change = ChangeBySurgery(parts[4].add_axes((0.16, 0.25, 0.80, 0.60)))
        self.classes = TopClasses(parts[5].add_axes((0.07, 0.17, 0.88, 0.68)))
        self.views: list[View] = [
            self.stems,
            self.response,
            self.photograph,
            self.gates,
            self.change,
            self.classes,
        ]
        see_through(figure)

    def update(self, scene: KernelScene) -> None:
        """Show another scene."""
        self.stems.update(
            scene.kernel,
            scene.other,
            reach=scene.reach,
            top=scene.top,
            title=f"{scene.site}: {scene.what}",
        )
        self.response.update(
            scene.frequencies,
            scene.gain,
            scene.other_gain,
            scene.band,
            top=scene.gain_top,
            title="what the kernel lets through",
        )
        self.photograph.update(scene.picture, title=scene.caption)
        how = "network now" if scene.exact else "this site alone"
        self.gates.update(
            scene.before,
            scene.after,
            limits=scene.limits,
            title=f"its {len(scene.before)} gates, {how}: mean |Δω| = {np.abs(scene.after - scene.before).mean():.4f}",
        )
        self.change.update(
            scene.sizes,
            scene.by_size,
            scene.modes,
            scene.by_mode,
            scene.now,
            len(scene.kernel),
            title="this site alone, all images",
        )
        self.classes.update(scene.classes, scene.others, title=f"first classes, {scene.where} changed")
