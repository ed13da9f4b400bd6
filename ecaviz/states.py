"""The states of the explorers: traits that a control or a script sets, and the scene that they make.

No widget and no browser is needed here::

    state = explorer.state
    state.layer = 3
    state.scene()        # what is drawn
    state.describe()     # the same in words, as HTML
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import traitlets

from .looks import layer_labels
from .panels import LayerScene, LayerSide
from .readings import ImageSet, Reading
from .views import FULL, fitted, spread

__all__ = ["LayerState"]

FIT = 0.99
"""Share of the gates that a fitted scale holds; the others are drawn at its ends."""


def choice(proposal: dict, known: Sequence, what: str) -> Any:
    if proposal["value"] not in known:
        raise traitlets.TraitError(
            f"{what}: {proposal['value']!r} is not among {', '.join(map(str, known)) or 'nothing (there are none)'}."
        )
    return proposal["value"]


def within(proposal: dict, count: int, what: str) -> int:
    if not 0 <= proposal["value"] < count:
        raise traitlets.TraitError(f"{what}: {proposal['value']} is not among 0 to {count - 1}.")
    return proposal["value"]


def matched(i: int, count: int, other: int) -> int:
    """The layer of a network of ``other`` layers at the depth of layer i of ``count``: first to first, last to last."""
    return 0 if count <= 1 else round(i * (other - 1) / (count - 1))


class LayerState(traitlets.HasTraits):
    """What a :class:`LayerExplorer` shows.

    Attributes:
        left: Name of the model on the left.
        right: Name of the model on the right.
        layer: Number of the site, of the model with more sites; the other's is matched by depth.
        shown: "all" (mean over all images), "class" or "image".
        of: Name of the class, for "class".
        image: Number of the image, for "image".
        sort: Whether channels are sorted.
        scale: "fitted" (about 0.5, holding 99 % of the gates of both models) or "full" (0…1).
    """

    left = traitlets.Unicode()
    right = traitlets.Unicode()
    layer = traitlets.Int(0)
    shown = traitlets.Enum(("all", "class", "image"), "all")
    of = traitlets.Unicode()
    image = traitlets.Int(0)
    sort = traitlets.Bool(False)
    scale = traitlets.Enum(("fitted", "full"), "fitted")

    def __init__(self, readings: Sequence[Reading], images: ImageSet):
        self.readings = {reading.name: reading for reading in readings}
        self.images = images
        self._means = {name: reading.means() for name, reading in self.readings.items()}
        self._by_class = {
            name: {one: reading.means(images.rows(one)) for one in images.present}
            for name, reading in self.readings.items()
        }
        self._limits = {}  # of the means, and of the gates themselves, so that a move need not look for them
        for name, reading in self.readings.items():
            means = [m for one in (self._means[name], *self._by_class[name].values()) for m in one.values()]
            self._limits[name] = fitted(*means, share=FIT), fitted(*reading.gates.values(), share=FIT)
        names = list(self.readings)
        super().__init__(left=names[0], right=names[-1], of=(images.present or ("",))[0])
        self.layer = len(self.names) // 2

    @property
    def names(self) -> list[str]:
        """Labels of the layers to choose from: of both models where they differ."""
        left, right = (layer_labels(self.readings[name].names) for name in (self.left, self.right))
        if left == right:
            return left
        count = max(len(left), len(right))
        pairs = [(left[matched(i, count, len(left))], right[matched(i, count, len(right))]) for i in range(count)]
        return [f"{i + 1}: {a} | {b}" for i, (a, b) in enumerate(pairs)]

    @traitlets.validate("left", "right")
    def _known_model(self, proposal):
        return choice(proposal, list(self.readings), "model")

    @traitlets.validate("of")
    def _known_class(self, proposal):
        return choice(proposal, self.images.present or ("",), "class")

    @traitlets.validate("shown")
    def _can_be_shown(self, proposal):
        if proposal["value"] == "class" and not self.images.present:
            raise traitlets.TraitError(
                "these images have no classes: give images with labels to see the classes apart."
            )
        return proposal["value"]

    @traitlets.validate("layer")
    def _known_layer(self, proposal):
        return within(proposal, len(self.names), "layer")

    @traitlets.validate("image")
    def _known_image(self, proposal):
        return within(proposal, len(self.images), "image")

    @traitlets.observe("left", "right")
    def _keep_depth(self, change):
        before = {"left": self.left, "right": self.right, change["name"]: change["old"]}
        counts = [len(self.readings[name].sites) for name in before.values() if name in self.readings]
        if counts:
            self.layer = matched(self.layer, max(counts), len(self.names))

    def scene(self) -> LayerScene:
        """What is to be drawn."""
        shown = [self.readings[name] for name in (self.left, self.right)]
        if self.shown == "image":
            rows, what = np.array([self.image]), f"image {self.image}"
            picture, caption = self.images.pictures[self.image], f"image {self.image}: {self.images.label(self.image)}"
        elif self.shown == "class":
            rows, what = self.images.rows(self.of), self.of
            picture, caption = self.images.montage(rows), f"{self.of}: {len(rows)} images"
        else:
            rows, what = None, "all images"
            picture, caption = self.images.montage(range(len(self.images))), self.images.note
        sides = [self._side(reading, rows) for reading in shown]
        limits, spread = (
            (min(low for low, _ in ends), max(high for _, high in ends))
            for ends in zip(*(self._limits[reading.name] for reading in shown), strict=True)
        )
        full = self.scale == "full"
        return LayerScene(
            *sides,
            what=what,
            picture=picture,
            caption=caption.rstrip(": "),
            sort=self.sort,
            limits=FULL if full else spread if self.shown == "image" else limits,
            spread=FULL if full else spread,
        )

    def _side(self, reading: Reading, rows: np.ndarray | None) -> LayerSide:
        site = reading.names[matched(self.layer, len(self.names), len(reading.names))]
        mean, classes = self._means[reading.name][site], self._by_class[reading.name]
        if self.shown == "image":
            label = self.images.label(self.image)
            curves = {"this image": reading.gates[site][self.image]}
            curves |= {"mean of its class": classes[label][site]} if label in classes else {}
        elif self.shown == "class":
            curves = {self.of: classes[self.of][site]}
        else:
            curves = {one: classes[one][site] for one in spread(list(classes), 4)}
        if rows is None:
            gates = self._means[reading.name]
        else:
            gates = {name: part[rows].mean(axis=0) for name, part in reading.gates.items()}
        values = reading.gates[site] if rows is None else reading.gates[site][rows]
        return LayerSide(reading.label, reading.sites[site].family, site, gates, values, curves, mean)

    def describe(self, scene: LayerScene | None = None) -> str:
        """One line of HTML on what is seen."""
        scene, parts = scene or self.scene(), []
        for name, side in ((self.left, scene.left), (self.right, scene.right)):
            values = side.values
            text = f"<b>{html.escape(side.label)}</b> at {html.escape(side.site)}: "
            text += f"gates {values.mean():.3f} ± {values.std():.3f}"
            said = self.readings[name].predicted[self.image] if self.shown == "image" else ""
            parts.append(text + (f", says “{html.escape(said)}”" if said else ""))
        return f"{html.escape(scene.what)} — {' · '.join(parts)} (mean ± standard deviation)"
