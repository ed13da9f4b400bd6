"""The sets of images that bundled models are trained on: the procedural set and CIFAR-10.

A bundled model is named after its set: ``shapes-…``, ``cifar10-…``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import cifar10, shapes

__all__ = ["SETS", "Images", "TrainingSet", "of"]


@dataclass(frozen=True)
class Images:
    """A split, in memory.

    Attributes:
        data: What it was read from, as the tables of results call it: "shapes", "cifar10", "cifar10-jpeg".
        images: uint8 N×3×H×W.
        labels: int64 N.
    """

    data: str
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)


@dataclass(frozen=True)
class TrainingSet:
    """What is the same for all models that were trained on a set.

    Attributes:
        name: The set; the names of its models begin with it.
        title: The same, for people.
        classes: Class names, by label.
        size: Height and width of an image, in pixels.
        mean: What is taken off each colour (0…1).
        std: What it is divided by then.
        needs: By class, the group that accuracies are given for besides; empty for none.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    needs: Mapping[str, str] = field(default_factory=dict)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 N×3×H×W in 0…255 → float32 of about zero mean and unit variance, as the models want it."""
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (self.mean, self.std))
        return (images.float() / 255 - mean) / std

    def transform(self) -> Callable[[Any], Tensor]:
        """What other images go through for the models: shorter side to ``size``, centre, normalised as in training.

        Takes a PIL image, a uint8 tensor 3×H×W, or a batch of them N×3×H×W.
        """
        from torchvision.transforms import v2

        return v2.Compose(
            [
                v2.ToImage(),
                v2.Resize(self.size, antialias=True),
                v2.CenterCrop(self.size),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(list(self.mean), list(self.std)),
                v2.ToPureTensor(),
            ]
        )

    def source(self, root: str | os.PathLike | None = None) -> str:
        """What :meth:`read` will have read from, as :attr:`Images.data`, without reading it.

        Args:
            root: Where CIFAR-10 lies.
        """
        if self.name == "shapes":
            return "shapes"
        return cifar10.ORIGINAL if cifar10.find(root) is None else cifar10.JPEG

    def read(self, split: str, n: int, root: str | os.PathLike | None = None, progress: bool = False) -> Images:
        """The first n images of a split.

        Args:
            split: "train" or "test".
            n: Number of images.
            root: Where CIFAR-10 lies; see :class:`ecaviz.cifar10.Cifar10`.
            progress: Whether to show a progress bar.

        Raises:
            ValueError: The set has fewer.
            ConnectionError: CIFAR-10 is not there and cannot be fetched.
        """
        if self.name == "shapes":
            return Images("shapes", *shapes.Shapes(split, n).tensors(progress))
        found = cifar10.Cifar10(split, root, n, progress=progress)
        if len(found) < n:
            raise ValueError(
                f"train: {n} images of {self.title}, split {split}, were expected; there are {len(found)}."
            )
        return Images(found.data, found.images, found.labels)


SETS: dict[str, TrainingSet] = {
    "shapes": TrainingSet(
        "shapes",
        "the procedural set",
        shapes.CLASSES,
        shapes.SIZE,
        (shapes.MEAN,) * 3,
        (shapes.STD,) * 3,
        shapes.NEEDS,
    ),
    "cifar10": TrainingSet("cifar10", "CIFAR-10", cifar10.CLASSES, cifar10.SIZE, cifar10.MEAN, cifar10.STD),
}
"""The sets by name."""


def of(model: str) -> TrainingSet:
    """The set that a bundled model is named after; the procedural one for any other name."""
    return SETS.get(model.partition("-")[0], SETS["shapes"])
