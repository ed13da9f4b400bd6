"""What a :class:`ecaviz.PictureExplorer` shows: one picture, run through the network when it is chosen."""

from __future__ import annotations

import html
import io
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import traitlets
from torch import Tensor

from . import checks, gates, items
from .figures import picture
from .image_files import ImageReadError, decoded, folder, to_rgb
from .images import batches, suited
from .looks import layer_labels
from .models import LoadedModel
from .nearest import nearest_classes
from .picture_panels import PicturePanels, PictureScene
from .profiles import AttentionProfile, fingerprint_of
from .profiles import profile as profile_of
from .readings import some_of
from .sites import network
from .states import choice, within
from .views import FULL, nice_top

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PIXELS", "UPLOAD", "Looked", "PictureState", "decoded_from"]

PIXELS = 50_000_000
"""The most pixels of a picture that is decoded."""
UPLOAD = 10_000_000
"""The most bytes of a picture that is uploaded: Jupyter's connection is closed by messages of more than 10 MiB."""
KEPT = 64
"""Pictures of the set whose gates are kept."""
FIT = 0.99
"""Share of the gates that the scales hold; the others are drawn at their ends."""


@dataclass(frozen=True, eq=False)
class Looked:
    """One picture and what the network made of it.

    Attributes:
        name: What it is called.
        note: What was done to it in words; empty if nothing was.
        label: The class that it is known to be of; empty if none is.
        seen: uint8 H×W×3: the picture as the network got it.
        gates: ω by site, C numbers each.
        classes: First classes with their probabilities; none where the network gives no logits 1×K.
    """

    name: str
    note: str
    label: str
    seen: np.ndarray
    gates: Mapping[str, np.ndarray]
    classes: tuple[tuple[str, float], ...]


def decoded_from(source: Any) -> tuple[Tensor, str, str]:
    """A picture from a path, a PIL image or a uint8 tensor 3×H×W: uint8 3×H×W, its name, and what was done to it.

    Raises:
        ValueError: It cannot be decoded, is too large, or is none of these.
        FileNotFoundError: There is no such file.
    """
    if isinstance(source, str | os.PathLike):
        path = checks.expanded(source, "PictureExplorer")
        if not path.is_file():
            raise FileNotFoundError(f"PictureExplorer: there is no file {path}; the path of one picture was expected.")
        image, done = decoded(path, path, at_most=PIXELS)
        return image, path.name, done
    if items.is_pil(source):
        if source.width * source.height > PIXELS:
            raise ValueError(f"PictureExplorer: {items.what(source)} has more than {PIXELS:,} pixels.")
        image = torch.from_numpy(np.array(to_rgb(source))).permute(2, 0, 1).contiguous()
        return image, "picture", "" if source.mode == "RGB" else f"from {source.mode}"
    if isinstance(source, Tensor) and source.dtype == torch.uint8 and source.ndim == 3 and len(source) == 3:
        return source, "picture", ""
    raise ValueError(
        f"PictureExplorer: a path, a PIL image or a uint8 tensor 3×H×W was expected, got {items.what(source)}."
        f"{items.hint(source)}"
    )


class PictureState(traitlets.HasTraits):
    """The traits of the explorer.

    Attributes:
        image: Number of the image of the set.
        own: A picture that was given instead of it; None for that image. Choosing an image takes it away.
        site: The site at which the nearest classes are looked for; "" for all together.
    """

    image = traitlets.Int(0)
    own = traitlets.Instance(Looked, allow_none=True)
    site = traitlets.Unicode("")

    def __init__(self, model: LoadedModel, profile: AttentionProfile | None, images: Any, at_most: int):
        self.model = model
        chosen = suited(model, n=at_most) if images is None else images
        self.images = folder(chosen) if isinstance(chosen, str | os.PathLike) else chosen
        if not (hasattr(self.images, "__len__") and hasattr(self.images, "__getitem__") and len(self.images)):
            raise ValueError(
                f"PictureExplorer: images must be a dataset, a folder or a tensor N×3×H×W, got "
                f"{items.what(self.images)}; of a DataLoader, give its dataset."
            )
        if profile is None:
            by = "class" if self._item(0)[1] is not None else None
            profile = profile_of(model, some_of(self.images, at_most), by=by, top=1, accuracy=False)
        elif profile.fingerprint != fingerprint_of(network(model)):
            raise ValueError(
                f"PictureExplorer: the profile is of {profile.model} with other weights than this {model.name}. Give "
                f"one of this model, or None to have it made."
            )
        self.profile = profile
        self._looked: OrderedDict[int, Looked] = OrderedDict()
        self.names = list(profile)
        self.labels = layer_labels(self.names)
        self._mean = {name: one.moments.pooled().mean[0].cpu().numpy() for name, one in profile.sites.items()}
        self._reach = 1.0
        super().__init__()
        self.looked_at(0)  # says it at once where the network cannot be run on the images

    @traitlets.validate("image")
    def _known_image(self, proposal):
        i = within(proposal, len(self.images), "image")
        if i not in self._looked:
            self._item(i)  # an image that cannot be read is refused, and the picture stays
        return i

    @traitlets.validate("site")
    def _known_site(self, proposal):
        return choice(proposal, ["", *self.names], "site")

    @traitlets.observe("image")
    def _no_own(self, _change):
        self.own = None

    # --------------------------------------------------------------------------------------------------- one picture

    def show(self, source: Any, name: str | None = None) -> None:
        """Look at a picture: a path, bytes of a file, a PIL image, or a uint8 tensor 3×H×W.

        Raises:
            ValueError: It cannot be decoded, is too large, or the network cannot be run on it.
            FileNotFoundError: There is no such file.
        """
        if isinstance(source, bytes | bytearray | memoryview):
            image, done = decoded(io.BytesIO(source), Path(name or "picture"), at_most=PIXELS)
        else:
            image, known, done = decoded_from(source)
            name = name or known
        size = f"{image.shape[2]} × {image.shape[1]} pixels"
        self.own = self._run([image], name or "picture", f"{size}, {done}" if done else size)

    def looked_at(self, i: int) -> Looked:
        """An image of the set and what the network makes of it, run once."""
        if i not in self._looked:
            one, label = self._of_set(i)
            self._looked[i] = self._run(one, f"image {i}", "", label)
            while len(self._looked) > KEPT:
                self._looked.popitem(last=False)
        self._looked.move_to_end(i)
        return self._looked[i]

    @property
    def shown(self) -> Looked:
        """The picture that is looked at; the network is run on it, if it was not."""
        return self.own or self.looked_at(self.image)

    def answered(self) -> bool:
        """Whether the network has been run on the picture."""
        return self.own is not None or self.image in self._looked

    def answer(self) -> Looked:
        """Run the network on the picture, if it was not."""
        return self.shown

    def _glimpse(self) -> Looked:
        """The picture as the network will get it; its gates are not known yet."""
        one, label = self._of_set(self.image)
        unknown = {name: np.full_like(mean, np.nan) for name, mean in self._mean.items()}
        return Looked(f"image {self.image}", "", label, picture(self._prepared(one)[0].float()), unknown, ())

    def _of_set(self, i: int) -> tuple[Any, str]:
        """An image of the set, as a batch of one, and its class; "" where that is not known."""
        image, label = self._item(i)
        classes = getattr(self.images, "classes", None) or self.profile.classes
        known = label is not None and 0 <= label < len(classes) and self.profile.by is not None
        return image[None] if isinstance(self.images, Tensor) else [image], str(classes[label]) if known else ""

    def _item(self, i: int) -> tuple[Any, int | None]:
        """Image and label of an image of the set."""
        if isinstance(self.images, Tensor):
            return self.images[i], None
        item = items.get(self.images, i)
        if isinstance(item, ImageReadError):
            raise item
        return items.checked(item, i)

    def _prepared(self, images: Any) -> Tensor:
        """What the network gets, 1×3×H×W."""
        model = self.model
        return next(iter(batches(images, model.transform, 1, next(model.net.parameters(), model.device))))[0]

    def _run(self, images: Any, name: str, note: str, label: str = "") -> Looked:
        model, x = self.model, self._prepared(images)
        sites = list(dict.fromkeys(one.partition("#")[0] for one in self.profile))
        with gates.evaluating(model.net), gates.capture(model, sites) as captured:
            output = model.net(x)
        found = {one: captured[one].by_channel[0].cpu().numpy() for one in self.profile}
        return Looked(name, note, label, picture(x[0].float()), found, self._first(output))

    def _first(self, output: Any) -> tuple[tuple[str, float], ...]:
        if not isinstance(output, Tensor) or output.ndim != 2:
            return ()
        shares, names = output[0].detach().cpu().double().softmax(0), self.model.classes
        first = shares.topk(min(PicturePanels.first, len(shares)))
        return tuple(
            (names[i] if i < len(names) else f"class {i}", float(share))
            for share, i in zip(first.values, first.indices.tolist(), strict=True)
        )

    # ------------------------------------------------------------------------------------------------- what is shown

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Ends of the scale of gates, the same for every picture: about 0.5, holding 99 % of the profile's gates."""
        counts = sum(one.histogram.counts.double().sum(dim=(0, 1)).cpu() for one in self.profile.sites.values())
        away = (torch.linspace(0, 1, 2 * len(counts) + 1)[1::2] - 0.5).abs()
        order = away.argsort()
        held = (counts[order].cumsum(0) / counts.sum().clamp(min=1)) >= FIT
        reach = float(away[order][held][0]) if held.any() else 0.5
        half = next((step for step in (0.05, 0.1, 0.2, 0.3, 0.4) if reach <= step), 0.5)
        return (0.5 - half, 0.5 + half) if half < 0.5 else FULL

    def nearest(self) -> tuple[Any, str]:
        """The table of :func:`ecaviz.nearest.nearest_classes`, or None and why there is none."""
        if self.profile.by is None:
            return None, "The images have no classes,\nso none can be the nearest.\nGive a profile by class."
        if self.profile.n <= int((self.profile.counts > 0).sum()):
            return None, (
                "There is one image a class:\nhow the gates of a class vary\nis not known. Give a profile by\n"
                "class, or images with several\nof each class."
            )
        try:
            return nearest_classes(self.shown.gates, self.profile, [self.site] if self.site else None), ""
        except ValueError:  # no gate varies there
            return None, "No gate varies inside the\nclasses here."

    def scene(self, *, wait: bool = True) -> PictureScene:
        """What is to be drawn.

        Args:
            wait: Whether to run the network, if it was not; else what it will tell is left out.
        """
        known = wait or self.answered()
        one = self.shown if known else self._glimpse()
        differences = {name: row - self._mean[name] for name, row in one.gates.items()}
        if known:  # else the scale stays as it was
            size = np.concatenate([np.abs(row) for row in differences.values()])
            self._reach = nice_top(float(np.quantile(size, FIT)))
        table, why = self.nearest() if known else (None, "The network is being run …")
        pairs = [] if table is None else list(zip(table["class"], table["distance"], strict=True))
        return PictureScene(
            picture=one.seen,
            caption=one.name + (f": {one.label}" if one.label else ""),
            classes=one.classes,
            gates=one.gates,
            limits=self.limits,
            differences=differences,
            reach=self._reach,
            nearest=pairs,
            among=len(pairs),
            own=one.label,
            where=f"at {self.labels[self.names.index(self.site)]}" if self.site else "all layers together",
            why=why,
            **({} if known else {"silence": why}),
            marked=self.site or None,
        )

    def table(self, scene: PictureScene) -> pd.DataFrame:
        """One row a gate: picture, site, channel, gate, and its difference from the mean of the profile's images."""
        import pandas as pd

        return pd.concat(
            [
                pd.DataFrame({"site": site, "channel": np.arange(len(row)), "gate": row, "difference": off})
                for (site, row), off in zip(scene.gates.items(), scene.differences.values(), strict=True)
            ],
            ignore_index=True,
        ).assign(picture=self.shown.name)

    def describe(self, scene: PictureScene | None = None) -> str:
        """What is seen, as HTML."""
        scene = scene or self.scene()
        if not self.answered():
            return f"<b>{html.escape(scene.caption)}</b>: the network is being run …"
        one = self.shown
        known = f" ({html.escape(one.label)})" if one.label else ""
        parts = [f"<b>{html.escape(one.name)}</b>{known}" + (f", {html.escape(one.note)}" if one.note else "")]
        height, width = one.seen.shape[:2]
        parts.append(f"the network gets {width} × {height}")
        if scene.classes:
            name, share = scene.classes[0]
            parts.append(f"it says {html.escape(name)} ({share:.1%})")
        size = np.concatenate([np.abs(row) for row in scene.differences.values()])
        largest = max(scene.differences, key=lambda name: float(np.abs(scene.differences[name]).mean()))
        label = self.labels[self.names.index(largest)]
        parts.append(
            f"its gates differ from the mean of {self.profile.n:,} images by {size.mean():.3f} on average, most at "
            f"{html.escape(label)}"
        )
        if scene.nearest:
            name, distance = scene.nearest[0]
            place = [name for name, _ in scene.nearest]
            own = f"; its own class is number {place.index(scene.own) + 1}" if scene.own in place else ""
            parts.append(
                f"nearest class by the gates, {html.escape(scene.where)}: {html.escape(name)} at {distance:.2f} "
                f"standard deviations, of {scene.among} classes{own}"
            )
        else:
            parts.append(" ".join(scene.why.split()).rstrip("."))
        return "; ".join(parts) + "."
