"""What tells two sets of images apart that have the same name and size: digests of files and of what is in images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .image_files import ImageFiles

__all__ = ["FIRST", "alike", "of_files", "of_image", "of_tensor"]

FIRST = 8
"""Images of a set that are looked at, from the first on."""


def of_tensor(values: Tensor) -> str:
    """Sixteen hex digits that stand for the type, the shape and the numbers of a tensor, wherever it lies.

    Args:
        values: The tensor.
    """
    digest = hashlib.blake2b(f"{values.dtype} {tuple(values.shape)}".encode(), digest_size=8)
    for part in values.detach().split(64) if values.ndim else [values]:  # from a GPU, not all at once
        digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def of_image(image: Tensor, label: int | None) -> str:
    """The same for an image with its label.

    Args:
        image: 3×H×W.
        label: A whole number; None where there is none.
    """
    return of_tensor(image) if label is None else f"{of_tensor(image)} {int(label)}"


def of_files(images: Any) -> str | None:
    """The same for the names, sizes and labels of the files of a set, in order; of a folder and its copy it is one.

    Args:
        images: A set; one of :mod:`ecaviz.image_files`, one that has ``samples`` as torchvision's do, or a Subset.

    Returns:
        None where the set does not say what its files are.
    """
    files = _files(images)
    if not files:
        return None
    root = os.path.commonpath([path.parent for path, _ in files])
    digest = hashlib.sha256()
    for path, label in files:
        digest.update(f"{path.relative_to(root).as_posix()}\0{_size(path)}\0{label}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _files(images: Any) -> list[tuple[Path, Any]] | None:
    """(file, label) of each item; None where the set does not say."""
    if isinstance(images, ImageFiles):
        return list(zip((path.absolute() for path in images.paths), images.labels.tolist(), strict=True))
    if isinstance(images, torch.utils.data.Subset):
        inner = _files(images.dataset)
        return None if inner is None else [inner[i] for i in images.indices]
    try:
        return [(Path(path).absolute(), label) for path, label in images.samples]
    except (AttributeError, TypeError, ValueError):
        return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:  # whoever reads the images leaves it out, and says so
        return None


def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two fingerprints may be of one set: they agree in all that both of them tell.

    Args:
        one: What :meth:`ecaviz.batches.Batches.fingerprint` gives.
        other: Another.
    """
    both = [(one[what], other[what]) for what in one.keys() & other.keys()]
    # Of the first images as many as both have: batches may differ in size.
    return all(a == b[: len(a)] or b == a[: len(b)] for a, b in both)
