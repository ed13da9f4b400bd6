"""What an explorer knows: the gates of some models on some images, read once, so that no move runs a network."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import gates, models
from .images import ImageReadError, batches, folder, suited
from .items import deaths_in_words
from .looks import settings
from .models import LoadedModel

__all__ = ["ImageSet", "Reading", "load_all", "read_all"]

THUMBNAIL = 96
"""Side of the pictures that are kept, in pixels."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The gates of one model on N images.

    Attributes:
        name: Name of the model, unique among those read together.
        sites: The sites by name, in the order of the network.
        gates: ω by site, float32 N×C; of a site that gates patches of a channel, the mean over them.
        descriptors: y by site, float32 N×C; empty if they were not asked for.
        predicted: What the model said of each image; empty strings where its classes have no names.
        inputs: The images as the network takes them, N×3×H×W on the CPU; None if they were not asked for.
        logits: What it answered, N×K on the CPU; None if that was not asked for, or is no N×K.
    """

    name: str
    sites: Mapping[str, gates.GateSite]
    gates: Mapping[str, np.ndarray]
    descriptors: Mapping[str, Tensor]
    predicted: tuple[str, ...]
    inputs: Tensor | None = None
    logits: Tensor | None = None

    def __repr__(self) -> str:
        n = len(next(iter(self.gates.values())))
        return f"Reading({self.name!r}, {len(self.sites)} sites, {n} images)"

    @property
    def names(self) -> list[str]:
        """Names of the sites."""
        return list(self.sites)

    @cached_property
    def label(self) -> str:
        """Name of the model with the k or r of its sites, if they share it."""
        return f"{self.name} ({settings(self.sites.values())})"

    def means(self, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Mean gate by site, C numbers each; over some images only, if ``rows`` says which."""
        return {name: (part if rows is None else part[rows]).mean(axis=0) for name, part in self.gates.items()}

    def extremes(self, site: str, channel: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The images that open a channel most and those that close it most.

        Args:
            site: Name of a site.
            channel: One of its C channels.
            count: How many images of each kind; all N where there are fewer.

        Returns:
            Positions of the images by falling gate, and by rising gate; of equal gates the earlier image first.

        Raises:
            ValueError: There is no such site or channel, or the count is not positive.
        """
        if site not in self.gates:
            raise ValueError(f"extremes: {self.name} has no site {site!r}; it has {', '.join(self.gates)}.")
        channels = self.gates[site].shape[1]
        if not 0 <= channel < channels:
            raise ValueError(f"extremes: {site} has channels 0 to {channels - 1}, got {channel}.")
        if count < 1:
            raise ValueError(f"extremes: count must be at least 1, got {count}.")
        values = self.gates[site][:, channel]
        return np.argsort(-values, kind="stable")[:count], np.argsort(values, kind="stable")[:count]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images behind some readings.

    Attributes:
        classes: Class names by label, those without images left out of :attr:`present`.
        labels: Label of each image; None where there are none.
        pictures: uint8 N×S×S×3, small.
        note: How many images, and of how many.
    """

    classes: tuple[str, ...]
    labels: np.ndarray | None
    pictures: np.ndarray
    note: str

    def __len__(self) -> int:
        return len(self.pictures)

    @cached_property
    def present(self) -> tuple[str, ...]:
        """The classes that have images."""
        if self.labels is None:
            return ()
        return tuple(name for i, name in enumerate(self.classes) if (self.labels == i).any())

    def rows(self, name: str) -> np.ndarray:
        """Positions of the images of a class."""
        return np.flatnonzero(self.labels == self.classes.index(name))

    def label(self, position: int) -> str:
        """Class of an image; empty if it has none."""
        return "" if self.labels is None else self.classes[self.labels[position]]

    def montage(self, rows: Sequence[int]) -> np.ndarray:
        """Up to nine of the images in one picture, at most 3 × 3, uint8 H×W×3."""
        chosen = list(rows)[:9]
        side, size = math.ceil(math.sqrt(len(chosen))), self.pictures.shape[1]
        sheet = np.full((side * (size + 2) - 2, side * (size + 2) - 2, 3), 255, dtype=np.uint8)
        for i, position in enumerate(chosen):
            y, x = (i // side) * (size + 2), (i % side) * (size + 2)
            sheet[y : y + size, x : x + size] = self.pictures[position]
        return sheet


def load_all(chosen: Any, what: str = "explorer") -> list[LoadedModel]:
    """Models from names, loaded models or modules, one or several; ``what`` begins the message of an error.

    Raises:
        ValueError: There is none.
    """
    if isinstance(chosen, str | LoadedModel | nn.Module):
        chosen = [chosen]
    loaded = [models.load(one) for one in chosen]
    if not loaded:
        raise ValueError(f"{what}: at least one model is needed, by name or as ecaviz.load() returns it.")
    return loaded


def some_of(images: Any, at_most: int) -> Any:
    """At most so many of the images, evenly spaced; of what cannot be counted, all."""
    if not (hasattr(images, "__getitem__") and hasattr(images, "__len__")) or len(images) <= at_most:
        return images
    positions = np.linspace(0, len(images) - 1, at_most).round().astype(int).tolist()
    return images[positions] if isinstance(images, Tensor) else _Some(images, positions)


class _Some:
    """Some of the items of a dataset."""

    def __init__(self, images: Any, positions: Sequence[int]):
        self.images, self.positions = images, positions
        classes = getattr(images, "classes", None)
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> Any:
        return self.images[self.positions[i]]


def read_all(
    loaded: Sequence[LoadedModel],
    images: Any = None,
    *,
    at_most: int = 240,
    descriptors: bool = False,
    inputs: bool = False,
    sites: gates.Selection = None,
) -> tuple[list[Reading], ImageSet]:
    """Run each model once over the images and keep its gates.

    A progress bar appears where it takes longer than a second.

    Args:
        loaded: The models.
        images: Anything :func:`ecaviz.images.batches` takes; None for the procedural set if a model is bundled, else
            the photographs inside scikit-image.
        at_most: How many images to keep: of a larger set that many, evenly spaced (of a DataLoader the first).
        descriptors: Whether to keep the descriptors too.
        inputs: Whether to keep what goes into the network and what it answers too.
        sites: Which sites; see :func:`ecaviz.gates.select_sites`.

    Raises:
        ValueError: A model has no gates, or the images cannot be used.
    """
    from tqdm.auto import tqdm

    if images is None:
        bundled = [one for one in loaded if one.source == "bundled"]
        images = suited((bundled or loaded)[0], n=at_most)
    if isinstance(images, str | os.PathLike):
        images = folder(images)
    if not hasattr(images, "dataset") and not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise ValueError(
            f"explorer: images must be a dataset, a folder, a tensor or a DataLoader, got {type(images).__name__}."
        )
    whole = len(images) if hasattr(images, "__getitem__") else None
    images = some_of(images, at_most)
    names = unique_names([one.name for one in loaded])
    total = None if whole is None else min(whole, at_most) * len(loaded)
    readings, first = [], None
    with tqdm(total=total, desc="reading gates", unit="image", delay=1, leave=False) as bar:
        for one, name in zip(loaded, names, strict=True):
            chosen = [site.name for site in gates.select_channel_sites(one, sites)]
            stream = batches(images, one.transform, min(32, at_most), next(one.net.parameters(), one.device))
            reading, seen = _read(one, name, stream, at_most, descriptors, inputs, chosen, bar)
            readings.append(reading)
            first = first or (stream.classes or one.classes, *seen)
    classes, labels, positions, shown = first
    if labels is not None and (not classes or labels.max() >= len(classes)):
        classes = tuple(f"class {i}" for i in range(int(labels.max()) + 1))
    pictures = _thumbnails(images, positions, shown)
    note = f"{len(pictures)} images" + (f" of {whole:,}" if whole and whole > at_most else "")
    return readings, ImageSet(tuple(classes), labels, pictures, note)


@deaths_in_words()
def _read(one: LoadedModel, name: str, stream, at_most: int, descriptors: bool, inputs: bool, sites, bar):
    labels, positions, predicted, small, whole, answers, count = [], [], [], [], [], [], 0
    found: dict[str, gates.GateSite] = {}
    read: dict[str, list[Tensor]] = defaultdict(list)
    kept: dict[str, list[Tensor]] = defaultdict(list)
    with gates.evaluating(one.net), gates.capture(one, sites) as captured:
        for x, y, at in stream.indexed():
            x, at = x[: at_most - count], at[: at_most - count]
            output = one.net(x)
            for site, record in captured.items():
                found[site] = record.site
                read[site].append(record.by_channel.cpu())
                if descriptors:
                    kept[site].append(record.descriptor.cpu())
            captured.clear()
            predicted += _said(output, one.classes, len(x))
            small.append(_small(x.cpu()))
            if inputs:
                whole.append(x.cpu())
                answers.append(output.float().cpu() if isinstance(output, Tensor) and output.ndim == 2 else None)
            positions += at.tolist()
            if y is not None:
                labels += y[: len(x)].tolist()
            count += len(x)
            bar.update(len(x))
            if count >= at_most:
                break
    reading = Reading(
        name=name,
        sites=found,
        gates={site: torch.cat(parts).numpy() for site, parts in read.items()},
        descriptors={site: torch.cat(parts) for site, parts in kept.items()},
        predicted=tuple(predicted),
        inputs=torch.cat(whole) if whole else None,
        logits=torch.cat(answers) if answers and all(one is not None for one in answers) else None,
    )
    return reading, (np.array(labels) if labels else None, positions, torch.cat(small))


def _said(output: Any, classes: Sequence[str], n: int) -> list[str]:
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] != len(classes):
        return [""] * n
    return [classes[i] for i in output.argmax(1).tolist()]


def unique_names(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return out


def _small(x: Tensor) -> Tensor:
    """Float N×3×H×W to N×3×S×S: the shorter side to S, the centre of the longer."""
    height, width = x.shape[-2:]
    scale = THUMBNAIL / min(height, width)
    size = (max(THUMBNAIL, round(height * scale)), max(THUMBNAIL, round(width * scale)))
    mode = {"mode": "nearest"} if scale > 1 else {"mode": "bilinear", "antialias": True}
    x = nn.functional.interpolate(x.float(), size=size, **mode)
    top, left = (size[0] - THUMBNAIL) // 2, (size[1] - THUMBNAIL) // 2
    return x[..., top : top + THUMBNAIL, left : left + THUMBNAIL]


def _thumbnails(images: Any, positions: Sequence[int], inputs: Tensor) -> np.ndarray:
    """The images themselves where they can be had, else what went into the network, each scaled to its own range."""
    own = []
    if hasattr(images, "__getitem__") and not hasattr(images, "dataset"):
        for i in positions:
            try:
                item = images[i]
            except ImageReadError:
                break
            image = item[0] if isinstance(item, tuple | list) else item
            if hasattr(image, "convert"):
                image = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
            if not isinstance(image, Tensor) or image.dtype != torch.uint8:
                break
            own.append(_small(image[None]))
    if own and len(own) == len(positions):
        values = torch.cat(own)
    else:
        low, high = inputs.amin((1, 2, 3), keepdim=True), inputs.amax((1, 2, 3), keepdim=True)
        values = 255 * (inputs - low) / (high - low).clamp(min=1e-12)
    return values.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
