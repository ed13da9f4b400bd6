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

from . import checks, kernels
from .looks import layer_labels
from .panels import KernelScene, LayerScene, LayerSide
from .readings import ImageSet, Reading
from .views import FULL, fitted, numbers, spread

__all__ = ["KernelState", "LayerState"]

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


class KernelState(traitlets.HasTraits):
    """What a :class:`KernelExplorer` shows.

    Attributes:
        model: Name of the model.
        layer: Number of the ECA site.
        k: Kernel size that the trained kernel is cropped or zero-padded to.
    """

    model = traitlets.Unicode()
    layer = traitlets.Int(0)
    k = traitlets.Int(3)

    def __init__(self, readings: Sequence[Reading], sizes: Sequence[int]):
        self.readings = {reading.name: reading for reading in readings}
        self.sizes = tuple(sizes)
        self._seen: dict[tuple[str, str], tuple] = {}
        self._limits = {reading.name: fitted(*reading.gates.values()) for reading in readings}
        first = readings[-1]
        super().__init__(model=first.name)
        self.layer = len(first.names) // 2
        trained = first.sites[first.names[self.layer]].kernel_size
        self.k = max((k for k in self.sizes if k < trained), default=self.sizes[0])

    @property
    def reading(self) -> Reading:
        """The reading of the chosen model."""
        return self.readings[self.model]

    @property
    def names(self) -> list[str]:
        """Labels of the layers to choose from."""
        return layer_labels(self.reading.names)

    @traitlets.validate("model")
    def _known_model(self, proposal):
        return choice(proposal, list(self.readings), "model")

    @traitlets.validate("layer")
    def _known_layer(self, proposal):
        return within(proposal, len(self.reading.names), "layer")

    @traitlets.validate("k")
    def _known_size(self, proposal):
        try:
            checks.kernel_size(proposal["value"], "k")
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from None
        return choice(proposal, self.sizes, "k")

    @traitlets.observe("model")
    def _keep_depth(self, change):
        before = self.readings.get(change["old"])
        if before is not None:
            self.layer = matched(self.layer, len(before.names), len(self.names))

    def scene(self) -> KernelScene:
        """What is to be drawn."""
        reading = self.reading
        name = reading.names[self.layer]
        site = reading.sites[name]
        change, moved, _ = self._sweep(reading, name)
        original = reading.gates[name]
        return KernelScene(
            label=reading.name,
            site=name,
            channels=original.shape[1],
            kernel=numbers(site.kernel),
            resized=numbers(kernels.resize_kernel(site.kernel, self.k)),
            reach=max(site.kernel_size, *self.sizes) // 2,
            top=max(float(one.kernel.abs().max()) for one in reading.sites.values()),
            original=original,
            other=self._gates(reading, name, self.k),
            limits=self._limits[reading.name],
            sizes=self.sizes,
            change=change,
            moved=moved,
        )

    def _gates(self, reading: Reading, name: str, k: int) -> np.ndarray:
        site = reading.sites[name]
        kernel = kernels.resize_kernel(site.kernel.cpu(), k)
        return kernels.gates_for_kernel(reading.descriptors[name], kernel, site.padding, site.activation).numpy()

    def _sweep(self, reading: Reading, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For every k: mean |Δω|; share of gates, in per cent, whose rank moves by more than C/20; by any."""
        if (reading.name, name) not in self._seen:
            original = reading.gates[name]
            ranks, channels = _ranks(original), original.shape[1]
            rows = []
            for k in self.sizes:
                if k >= reading.sites[name].kernel_size and reading.sites[name].padding == "zeros":
                    rows.append((0.0, 0.0, 0.0))  # zeros beyond the kernel change nothing
                    continue
                other = self._gates(reading, name, k)
                away = np.abs(_ranks(other) - ranks)
                moved = 100 * (away > channels / 20).mean(), 100 * (away > 0).mean()
                rows.append((np.abs(other - original).mean(), *moved))
            self._seen[reading.name, name] = tuple(np.array(rows).T)
        return self._seen[reading.name, name]

    def describe(self, _scene: KernelScene | None = None) -> str:
        """What is seen, as HTML."""
        reading = self.reading
        name = reading.names[self.layer]
        site = reading.sites[name]
        change, moved, any_ = (part[self.sizes.index(self.k)] for part in self._sweep(reading, name))
        trained = site.kernel_size
        how = "cropped" if self.k < trained else "padded with zeros, which leaves every gate as it was"
        how = "as trained" if self.k == trained else how
        return (
            f"<b>{html.escape(reading.label)}</b> at {html.escape(name)} (C = {reading.gates[name].shape[1]}): trained "
            f"k = {trained}, shown k = {self.k} ({how}). Mean |Δω| = {change:.4f}; the rank of {any_:.0f} % of the "
            f"gates moves, of {moved:.0f} % by more than C/20. Only the gates of this site are computed anew, from the "
            f"descriptors of {len(reading.gates[name])} images; the rest of the network is not run again."
        )


def _ranks(gates: np.ndarray) -> np.ndarray:
    """Rank of each gate among the channels of its image, 0…C−1. N×C → N×C."""
    order = np.argsort(gates, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(gates.shape[1])[None].repeat(len(gates), 0), axis=1)
    return ranks
