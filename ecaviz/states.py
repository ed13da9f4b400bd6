"""The states of the explorers: traits that a control or a script sets, and the scene that they make.

No widget and no browser is needed here::

    state = explorer.state
    state.layer = 3
    state.scene()        # what is drawn
    state.describe()     # the same in words, as HTML
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from .layer_views import Extreme
from .looks import layer_labels, shortened
from .panels import LayerScene, LayerSide
from .readings import ImageSet, Reading
from .views import FULL, fitted, spread

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LayerState", "Thumbnail"]

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


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """One of the pictures to choose from.

    Attributes:
        text: A word or two below it.
        words: What it is, for those who do not see it.
        picture: uint8 S×S×3.
        chosen: Whether it is the one that is shown.
    """

    text: str
    words: str
    picture: np.ndarray
    chosen: bool


class LayerState(traitlets.HasTraits):
    """What a :class:`LayerExplorer` shows.

    Attributes:
        left: Name of the model on the left.
        right: Name of the model on the right.
        layer: Number of the site, of the model with more sites; the other's is matched by depth.
        shown: "all" (mean over all images), "class" or "image".
        of: Name of the class, for "class".
        image: Number of the image, for "image".
        channel: Number of the channel whose images are shown; of a model with fewer, its last.
        sort: Whether channels are sorted.
        scale: "fitted" (about 0.5, holding 99 % of the gates of both models) or "full" (0…1).
        thumbnails: What the thumbnails are of: "classes" (the first image of each) or "images".
        page: Number of their page.
    """

    per_page = 12
    """Thumbnails on a page."""

    extreme = 4
    """Images shown that open a channel most, and that close it most."""

    left = traitlets.Unicode()
    right = traitlets.Unicode()
    layer = traitlets.Int(0)
    shown = traitlets.Enum(("all", "class", "image"), "all")
    of = traitlets.Unicode()
    image = traitlets.Int(0)
    channel = traitlets.Int(0)
    sort = traitlets.Bool(False)
    scale = traitlets.Enum(("fitted", "full"), "fitted")
    thumbnails = traitlets.Enum(("classes", "images"), "images")
    page = traitlets.Int(0)

    def __init__(self, readings: Sequence[Reading], images: ImageSet):
        self.readings = {reading.name: reading for reading in readings}
        self.images = images
        self._means = {name: reading.means() for name, reading in self.readings.items()}
        self._by_class = {
            name: {one: reading.means(images.rows(one)) for one in images.present}
            for name, reading in self.readings.items()
        }
        self._parts: dict[Any, tuple] = {}  # of the last scene: what a move leaves as it is stays the same object
        self._limits = {}  # of the means, and of the gates themselves, so that a move need not look for them
        for name, reading in self.readings.items():
            means = [m for one in (self._means[name], *self._by_class[name].values()) for m in one.values()]
            self._limits[name] = fitted(*means, share=FIT), fitted(*reading.gates.values(), share=FIT)
        names = list(self.readings)
        super().__init__(left=names[0], right=names[-1], of=(images.present or ("",))[0], thumbnails=self.kinds[0])
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

    @property
    def channels(self) -> int:
        """Channels of the chosen layer, of the model that has more."""
        return max(self._channels(name) for name in (self.left, self.right))

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the thumbnails can be of."""
        return ("classes", "images") if self.images.present else ("images",)

    @property
    def pages(self) -> int:
        """How many pages of thumbnails there are."""
        count = len(self.images.present if self.thumbnails == "classes" else self.images)
        return math.ceil(count / self.per_page)

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

    @traitlets.validate("channel")
    def _known_channel(self, proposal):
        return within(proposal, self.channels, "channel")

    @traitlets.validate("thumbnails")
    def _has_thumbnails(self, proposal):
        if proposal["value"] not in self.kinds:
            raise traitlets.TraitError("these images have no classes: thumbnails can be of “images” alone.")
        return proposal["value"]

    @traitlets.validate("page")
    def _known_page(self, proposal):
        return within(proposal, self.pages, "page")

    @traitlets.observe("left", "right")
    def _keep_depth(self, change):
        before = {"left": self.left, "right": self.right, change["name"]: change["old"]}
        counts = [len(self.readings[name].sites) for name in before.values() if name in self.readings]
        if counts:
            self.layer = matched(self.layer, max(counts), len(self.names))
            self._keep_channel()

    @traitlets.observe("layer")
    def _keep_channel(self, _change=None):
        self.channel = min(self.channel, self.channels - 1)

    @traitlets.observe("shown", "of", "image", "thumbnails")
    def _keep_page(self, change):
        """Turn to the page of what is shown."""
        if change["name"] == "shown" and self.shown != "all":
            self.thumbnails = "classes" if self.shown == "class" else "images"
        where = self.images.present.index(self.of) if self.thumbnails == "classes" else self.image
        self.page = where // self.per_page

    def choose(self, slot: int) -> None:
        """Show what the thumbnail at this place of the page is of: a class or an image."""
        position = self.page * self.per_page + within({"value": slot}, len(self.thumbnails_shown()), "thumbnail")
        with self.hold_trait_notifications():
            if self.thumbnails == "classes":
                self.of, self.shown = self.images.present[position], "class"
            else:
                self.image, self.shown = position, "image"

    def thumbnails_shown(self) -> list[Thumbnail]:
        """The thumbnails of the page."""
        found, first = [], self.page * self.per_page
        if self.thumbnails == "classes":
            for name in self.images.present[first : first + self.per_page]:
                chosen = self.shown == "class" and name == self.of
                picture = self.images.pictures[self.images.rows(name)[0]]
                found.append(Thumbnail(shortened(name, 12), f"class {name}", picture, chosen))
            return found
        for i in range(first, min(first + self.per_page, len(self.images))):
            label = self.images.label(i)
            text = f"{i} {shortened(label, 10 - len(str(i)))}".strip()
            words = f"image {i}: {label}".rstrip(": ")
            found.append(Thumbnail(text, words, self.images.pictures[i], self.shown == "image" and i == self.image))
        return found

    def _site(self, name: str) -> str:
        """The chosen site of a model."""
        sites = self.readings[name].names
        return sites[matched(self.layer, len(self.names), len(sites))]

    def _channels(self, name: str) -> int:
        return self.readings[name].gates[self._site(name)].shape[1]

    def scene(self) -> LayerScene:
        """What is to be drawn."""
        shown = [self.readings[name] for name in (self.left, self.right)]
        if self.shown == "image":
            rows, what = np.array([self.image]), f"image {self.image}"
            caption = f"image {self.image}: {self.images.label(self.image)}"
        elif self.shown == "class":
            rows, what = self.images.rows(self.of), self.of
            caption = f"{self.of}: {len(rows)} images"
        else:
            rows, what, caption = None, "all images", self.images.note
        (picture,) = self._kept("picture", (), lambda: (self._picture(rows),))
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

    def _kept(self, what: Any, key: tuple, make: Callable[[], tuple]) -> tuple:
        """What was made for the last scene, if the same images are shown and the key is the same."""
        key = (*key, self.shown, {"class": self.of, "image": self.image}.get(self.shown))
        if self._parts.get(what, (None,))[0] != key:
            self._parts[what] = key, make()
        return self._parts[what][1]

    def _picture(self, rows: np.ndarray | None) -> np.ndarray:
        if self.shown == "image":
            return self.images.pictures[self.image]
        return self.images.montage(range(len(self.images)) if rows is None else rows)

    def _side(self, reading: Reading, rows: np.ndarray | None) -> LayerSide:
        site = self._site(reading.name)
        mean = self._means[reading.name][site]
        gates, values, curves = self._kept(reading.name, (site,), lambda: self._gates(reading, site, rows))
        channel = min(self.channel, len(mean) - 1)
        opening, closing = (
            [
                Extreme(i, self.images.label(i), float(reading.gates[site][i, channel]), self.images.pictures[i])
                for i in rows.tolist()
            ]
            for rows in reading.extremes(site, channel, max(1, min(self.extreme, len(self.images) // 2)))
        )
        return LayerSide(
            reading.label,
            reading.sites[site].family,
            site,
            gates,
            values,
            curves,
            mean,
            channel,
            opening,
            closing,
        )

    def _gates(self, reading: Reading, site: str, rows: np.ndarray | None) -> tuple:
        """What the heat map, the distribution and the curves show."""
        classes = self._by_class[reading.name]
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
        return gates, values, curves

    def table(self, scene: LayerScene) -> pd.DataFrame:
        """The curves of the chosen layer: model, site, of (a class, an image, or the mean of all), channel, gate."""
        import pandas as pd

        parts = [
            pd.DataFrame(
                {"model": name, "site": side.site, "of": of, "channel": np.arange(len(values)), "gate": values}
            )
            for name, side in zip((self.left, self.right), (scene.left, scene.right), strict=True)
            for of, values in {**side.curves, "mean of all": side.mean}.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def describe(self, scene: LayerScene | None = None) -> str:
        """What is seen, in words, as HTML: the gates, and the images of the channel."""
        scene, parts, lines = scene or self.scene(), [], []
        for name, side in ((self.left, scene.left), (self.right, scene.right)):
            values = side.values
            text = f"<b>{html.escape(side.label)}</b> at {html.escape(side.site)}: "
            text += f"gates {values.mean():.3f} ± {values.std():.3f}"
            said = self.readings[name].predicted[self.image] if self.shown == "image" else ""
            parts.append(text + (f", says “{html.escape(said)}”" if said else ""))
            last = f" (the last; there is no channel {self.channel})" if side.channel != self.channel else ""
            lines.append(
                f"<b>{html.escape(side.label)}</b>: channel {side.channel}{last} is opened most by "
                f"{_told(side.opening)}; closed most by {_told(side.closing)}"
            )
        first = f"{html.escape(scene.what)} — {' · '.join(parts)} (mean ± standard deviation)"
        return "<br>".join((first, *lines))


def _told(extremes: Sequence[Extreme]) -> str:
    """Images with their gates, in words."""
    return ", ".join(
        f"image {one.image} ({html.escape(one.label + ', ' if one.label else '')}{one.gate:.3f})" for one in extremes
    )
