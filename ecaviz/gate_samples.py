"""The gates themselves, N×C by site, of images that fit into memory: for what the moments of a profile cannot tell.

    sample = sample_gates(model, images)
    sample.gates["layer3.0.se"]        # float32 N×C
    sample.labels, sample.positions    # which class, and which image of the set

A profile keeps statistics, so its size does not grow with the images; a permutation test, a jackknife or the mutual
information with something else needs the gates image by image. They take 4·N·ΣC bytes: 60 kB an image for an
SE-ResNet-50.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from . import checks, gates
from .batches import batches, describe
from .image_files import folder
from .items import deaths_in_words

if TYPE_CHECKING:
    from .models import LoadedModel

__all__ = ["MEMORY", "GateSample", "sample_gates"]

MEMORY = 2**30
"""Bytes that the gates of a sample may take."""


@dataclass(frozen=True, eq=False)
class GateSample:
    """The gates of one model on N images. Made by :func:`sample_gates`, or of arrays of your own.

    Attributes:
        gates: ω by site, float32 N×C; of a site that gates patches of a channel, the mean over them.
        labels: Class of each image, int64 N; None where there are none.
        classes: Class names by label.
        positions: The position of each image in the set, int64 N; 0…N−1 if left out.
        families: Family of the attention module by site; empty if that is not known.
        model: Name of the model.
        images: The set of images, in words.
    """

    gates: Mapping[str, np.ndarray] = field(repr=False)
    labels: np.ndarray | None = field(default=None, repr=False)
    classes: tuple[str, ...] = ()
    positions: np.ndarray | None = field(default=None, repr=False)
    families: Mapping[str, str] = field(default_factory=dict, repr=False)
    model: str = ""
    images: str = ""

    def __post_init__(self) -> None:
        kept = {site: np.asarray(one) for site, one in self.gates.items()}
        shapes = {site: one.shape for site, one in kept.items()}
        if not kept or any(len(shape) != 2 for shape in shapes.values()) or len({s[0] for s in shapes.values()}) > 1:
            raise ValueError(f"GateSample: gates N×C by site were expected, all of the same N, got {shapes}.")
        object.__setattr__(self, "gates", MappingProxyType(kept))
        positions = np.arange(len(self)) if self.positions is None else np.asarray(self.positions)
        object.__setattr__(self, "positions", positions)
        labels = self.labels
        if labels is not None:
            labels = np.asarray(labels)
            if labels.shape != (len(self),) or labels.dtype.kind not in "iu":
                raise ValueError(
                    f"GateSample: a whole number for each of the {len(self)} images was expected as its label, got "
                    f"{labels.dtype} of shape {labels.shape}."
                )
        object.__setattr__(self, "labels", labels)
        if positions.shape != (len(self),):
            raise ValueError(f"GateSample: {len(self)} positions were expected, got shape {positions.shape}.")

    def __len__(self) -> int:
        return len(next(iter(self.gates.values())))

    def __repr__(self) -> str:
        channels = sum(one.shape[1] for one in self.gates.values())
        what = f"{len(self)} images" + (f" ({self.images})" if self.images else "")
        return f"GateSample({self.model or 'gates'}: {what}, {len(self.gates)} sites, {channels} channels)"

    def labelled(self, what: str) -> np.ndarray:
        """The labels; ``what`` begins the message of the error.

        Raises:
            ValueError: There are none.
        """
        if self.labels is None:
            raise ValueError(
                f"{what}: the images have no labels. Sample a set whose items are (image, label), such as a folder "
                f"with one subfolder a class, or give GateSample(gates, labels)."
            )
        return self.labels


@deaths_in_words()
def sample_gates(
    model: LoadedModel,
    images: Any,
    sites: gates.Selection = None,
    *,
    at_most: int | None = 2000,
    memory: int = MEMORY,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> GateSample:
    """Run a model over images once and keep its gates. Each forward ends after the last of the sites.

    Args:
        model: What :func:`ecaviz.load` returns.
        images: Anything :func:`ecaviz.images.batches` takes.
        sites: A glob, a list of names or globs, a callable of a site, or None for all.
        at_most: How many images to keep: of a larger set that many, drawn by lot and kept in their order (of a
            DataLoader the first); None for all.
        memory: Bytes that the gates may take.
        batch_size: Images a step; a DataLoader keeps its own.
        seed: Of the draw.
        progress: Whether to show a progress bar.

    Raises:
        TypeError: ``model`` is no loaded model.
        ValueError: The model has no gates, no site matches, the images are none that can be used, or the gates would
            take more than ``memory``; the message says how many images would fit.
    """
    from tqdm.auto import tqdm

    if isinstance(model, nn.Module) or not isinstance(getattr(model, "net", None), nn.Module):
        raise TypeError(
            f"sample_gates: a model from ecaviz.load() was expected, got {type(model).__name__}. "
            f"For a network of your own: ecaviz.load(net, transform=…, classes=…)."
        )
    names = [site.name for site in gates.select_channel_sites(model, sites)]
    most = None if at_most is None else checks.at_least_one(at_most, "sample_gates: at_most")
    images = folder(images) if isinstance(images, str | os.PathLike) else images
    chosen, drawn = _drawn(images, most, seed)
    stream = batches(chosen, model.transform, batch_size, next(model.net.parameters(), model.device))
    total = most if stream.total is None else min(stream.total, most or stream.total)
    found: dict[str, list[Tensor]] = defaultdict(list)
    families: dict[str, str] = {}
    labels, positions, count = [], [], 0
    bar = tqdm(total=total, desc=f"gates of {model.name}", unit="image", disable=not progress, leave=False)
    with bar, gates.evaluating(model.net), gates.capture(model, names, stop=True) as captured:
        for x, y, at in stream.indexed():
            x = x if most is None else x[: most - count]
            model.net(x)
            for name, record in captured.items():
                families[name] = record.site.family
                found[name].append(record.by_channel.float().cpu())
            captured.clear()
            _check_memory(found, total or count + len(x), memory)
            positions.append(at[: len(x)])
            if y is not None:
                labels.append(y[: len(x)])
            count += len(x)
            bar.update(len(x))
            if count == most:
                break
    if not found:
        raise ValueError("sample_gates: the network ran without calling any of the sites. Choose others with `sites`.")
    whole = {name: torch.cat(found.pop(name)).numpy() for name in list(found)}
    odd = [name for name, part in whole.items() if len(part) != count]
    if odd:
        raise ValueError(
            f"sample_gates: {', '.join(odd)} gave no gate for each of the {count} images, so that they cannot be told "
            f"apart by image. Leave them out with `sites`."
        )
    at = torch.cat(positions).numpy()
    return GateSample(
        gates=whole,
        labels=torch.cat(labels).numpy() if labels else None,
        classes=tuple(stream.classes or model.classes or ()),
        positions=at if drawn is None else drawn[at],
        families=families,
        model=model.name,
        images=describe(images),
    )


def _drawn(images: Any, most: int | None, seed: int) -> tuple[Any, np.ndarray | None]:
    """At most so many of the images, and their positions in the set; None where all are taken, in their order."""
    counted = hasattr(images, "__getitem__") and hasattr(images, "__len__")
    if most is None or not counted or len(images) <= most:
        return images, None
    random = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=random)[:most].sort().values
    if isinstance(images, Tensor):
        return images[chosen], chosen.numpy()
    some = torch.utils.data.Subset(images, chosen.tolist())
    if getattr(images, "classes", None) is not None:
        some.classes = images.classes
    return some, chosen.numpy()


def _check_memory(found: Mapping[str, list[Tensor]], images: int, memory: int) -> None:
    channels = sum(parts[0].shape[1] for parts in found.values())
    if 4 * channels * images > memory:
        raise ValueError(
            f"sample_gates: the gates of {images:,} images at {len(found)} sites of {channels:,} channels together "
            f"take {4 * channels * images / 2**20:,.0f} MiB, and {memory / 2**20:,.0f} MiB are allowed. Take fewer "
            f"images (at_most={memory // (4 * channels)}) or fewer sites (sites=…), or allow more (memory=…)."
        )
