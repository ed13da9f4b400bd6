"""The one place that turns whatever a user calls ``images`` into batches for a network.

Everything in ecaviz that takes ``images`` takes them through :func:`batches` (at hand as ``ecaviz.images.batches``), so
the contract is the same everywhere: what is still an image (uint8 or PIL) goes through the model's transform; what is a
float tensor already is used as it is.
"""

from __future__ import annotations

import itertools
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import checks
from .image_files import ImageFiles, ImageReadError, folder, to_pil, to_rgb
from .shapes import Shapes

__all__ = ["Batches", "batches", "describe"]

_EXPECTED = (
    "Expected one of: (a) a dataset or a folder of uint8 tensors 3×H×W or PIL images, with or without labels: the "
    "model's transform is applied; (b) a float tensor N×3×H×W, or a DataLoader that yields one, alone or with labels: "
    "used as it is; (c) a uint8 tensor N×3×H×W: transformed."
)
_HELD_BYTES = 64 * 2**20  # of untransformed images, before they are transformed even if the batch is not full
_NAMED = 10  # skipped images that a warning names


class Batches:
    """One way through a set of images, batch by batch; made by :func:`batches`. Can be gone through again.

    Iterating gives ``(x, labels)``: x float N×3×H×W and labels int64 N, or None where there are none, on ``device``.

    Attributes:
        total: Number of images, the unreadable ones included; None if it is not known beforehand.
        classes: Class names by label; None if the set has none.
        description: The set in a few words, without paths.
        passed: Images that this or the latest pass has gone through, the unreadable ones included.
        skipped: (path, reason) of each file that it has left out.
    """

    def __init__(self, images, transform: Callable | None, batch_size: int, device: torch.device | str | Tensor):
        batch_size = checks.at_least_one(batch_size, "images: batch_size")
        self._images = folder(images) if isinstance(images, str | os.PathLike) else images
        self._kind = _kind(self._images)
        if transform is None and self._kind in ("dataset", "uint8 tensor"):
            raise ValueError(
                f"images: {_what(self._images)} needs a transform from uint8 images to the network's input, and the "
                f"model has none. Give one: ecaviz.load(net, transform=…); or pass a float tensor N×3×H×W, prepared by "
                f"you."
            )
        self._transform, self._batch_size = transform, batch_size
        like = isinstance(device, Tensor)
        self._device = device.device if like else device
        self._dtype = device.dtype if like and device.is_floating_point() else None
        self.total = _length(self._images.dataset if self._kind == "loader" else self._images)
        if self.total == 0:
            raise ValueError(f"images: there is no image in {_what(self._images)}. {_EXPECTED}")
        classes = _attribute(self._images, "classes")
        self.classes: tuple[str, ...] | None = tuple(str(name) for name in classes) if classes is not None else None
        self._together: bool | None = None  # whether the transform takes batches; None until it was tried
        self._wants_pil = False  # whether the transform takes PIL images and no tensors; found out when it refuses one
        self.description = describe(self._images)
        self.passed = 0
        self.skipped: list[tuple[Path, str]] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for x, labels, _ in self.indexed():
            yield x, None if labels is None else labels.to(self._device)

    @property
    def shuffled(self) -> bool:
        """Whether another pass takes the images in another order."""
        return isinstance(getattr(self._images, "sampler", None), torch.utils.data.RandomSampler)

    def indexed(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """The same with a third: int64 N, the position of each image in the set (files left out count).

        Labels and positions are on the CPU, where they can be looked at without waiting for a GPU.

        Args:
            start: Position of the first image to take; those before it are passed by, unread where they can be.
            stop: Position after the last image to take; None for all.

        Raises:
            ValueError: An item is none of what :func:`batches` takes, or no image could be read.

        Warns:
            UserWarning: Once, at the end of the pass: how many files were skipped, which, and why.
        """
        self.skipped, self.passed = list(getattr(self._images, "_left_out", ())), start
        go = {"loader": self._from_loader, "dataset": self._from_dataset}.get(self._kind, self._from_tensor)
        seen = start
        for x, labels, positions in go(start, sys.maxsize if stop is None else stop):
            seen += len(x)
            self.passed = max(self.passed, int(positions[-1]) + 1)
            yield x.to(self._device, self._dtype), None if labels is None else labels.cpu(), positions
        if isinstance(self._images, ImageFiles):
            self._images.skipped = list(self.skipped)
        if self.skipped:
            named = ", ".join(f"{path.name} ({reason})" for path, reason in self.skipped[:_NAMED])
            more = f" and {len(self.skipped) - _NAMED} more" if len(self.skipped) > _NAMED else ""
            message = f"images: {len(self.skipped)} file(s) of {describe(self._images)} were skipped: {named}{more}."
            if not seen:
                raise ValueError(f"{message} None could be read. {_EXPECTED}")
            warnings.warn(message, stacklevel=3)
        if not seen:
            raise ValueError(f"images: {_what(self._images)} gave no image. {_EXPECTED}")

    def _from_tensor(self, first: int, stop: int):
        stop = min(stop, len(self._images))
        for start in range(first, stop, self._batch_size):
            x = self._images[start : min(start + self._batch_size, stop)]
            if self._kind == "uint8 tensor":
                x = self._stack(self._transformed(list(x)))
            yield x, None, torch.arange(start, start + len(x))

    def _from_loader(self, first: int, stop: int):
        start = 0
        for batch in self._images:
            x, labels = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, None)
            if isinstance(x, tuple | list) and len(x) == 1:  # TensorDataset(x) gives lists of one
                x = x[0]
            if not _is_batch(x) or not x.is_floating_point():
                raise ValueError(f"images: a DataLoader that yields {_what(x)}. {_EXPECTED}{_hint(x, loader=True)}")
            labels, positions = _whole(labels, len(x)), torch.arange(start, start + len(x))
            inside = slice(max(first - start, 0), max(stop - start, 0))
            if len(positions[inside]):
                yield x[inside], None if labels is None else labels[inside], positions[inside]
            start += len(x)
            if start >= stop:
                break

    def _from_dataset(self, first: int, stop: int):
        """Read, transform at once or in runs of equal size, hand over when a batch is full."""
        done: list[Tensor] = []  # transformed
        held: list[Tensor] = []  # uint8, of one size, waiting to be transformed together
        labels: list[int | None] = []
        positions: list[int] = []
        for position, image, label in self._items(first, stop):
            alike = bool(held) and isinstance(image, Tensor) and image.shape == held[0].shape
            if held and not (alike and sum(other.numel() for other in held) < _HELD_BYTES):
                done += self._transformed(held)
                held = []
            if self._together is not False and isinstance(image, Tensor):
                held.append(image)
            else:
                done += self._transformed([image])
            labels.append(label)
            positions.append(position)
            if len(labels) == self._batch_size:
                yield self._batch(done + self._transformed(held), labels, positions)
                done, held, labels, positions = [], [], [], []
        if labels:
            yield self._batch(done + self._transformed(held), labels, positions)

    def _items(self, first: int, stop: int) -> Iterator[tuple[int, Any, int | None]]:
        """(position, image, label) of each item that can be read, from a position on to another."""
        if isinstance(self._images, torch.utils.data.IterableDataset):
            items = itertools.islice(enumerate(self._images), first, stop)
        else:
            items = ((i, _get(self._images, i)) for i in range(first, min(stop, len(self._images))))
        for position, item in items:
            self.passed = position + 1
            if isinstance(item, ImageReadError):
                self.skipped.append((item.path, item.reason))
                continue
            image, label = (item[0], item[1]) if isinstance(item, tuple | list) and len(item) > 1 else (item, None)
            if isinstance(image, tuple | list) and len(image) == 1:
                image = image[0]
            if _is_pil(image):
                image = to_rgb(image)
            elif not (isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and len(image) == 3):
                raise ValueError(
                    f"images: a dataset whose item {position} is {_what(image)}. {_EXPECTED}{_hint(image)}"
                )
            yield position, image, _whole_number(label)

    def _transformed(self, images: list) -> list[Tensor]:
        """Each image (all of one size) through the transform; together where the transform can."""
        if not images:
            return []
        if self._together is None and len(images) > 1:
            self._together = self._takes_batches(images)
        try:
            if self._together and len(images) > 1:
                results = list(self._transform(torch.stack(images)))
            else:
                results = [self._one(image) for image in images]
        except Exception as error:
            error.add_note(f"images: raised by the model's transform, given {_what(images[0])}.")
            raise
        for result in results:
            if not (isinstance(result, Tensor) and result.is_floating_point() and result.ndim == 3):
                raise ValueError(
                    f"images: the transform made {_what(result)} of {_what(images[0])}; a float tensor 3×H×W was "
                    f"expected. Give the model a transform that ends in one: ecaviz.load(net, transform=…)."
                )
        return results

    def _one(self, image: Any) -> Any:
        """One image through the transform; as a PIL image where the transform takes no tensors (ToTensor does not)."""
        if isinstance(image, Tensor) and not self._wants_pil:
            try:
                return self._transform(image)
            except (TypeError, AttributeError):
                result = self._transform(to_pil(image))  # raises again if that was not the reason
                self._wants_pil = True
                return result
        return self._transform(to_pil(image) if isinstance(image, Tensor) else image)

    def _takes_batches(self, images: list[Tensor]) -> bool:
        """Try the transform on two images together and apart; random transforms and those for one image fail."""
        pair = [images[0], images[-1]]
        try:
            together = self._transform(torch.stack(pair))
            apart = torch.stack([self._transform(image) for image in pair])
            return together.shape == apart.shape and torch.allclose(together, apart, atol=1e-5)
        except Exception:  # whatever a transform raises that is not made for batches
            return False

    def _batch(self, images: list[Tensor], labels: list, positions: list[int]):
        known = [label for label in labels if label is not None]
        if known and len(known) < len(labels):
            raise ValueError("images: some items have a label and some have none. Give a label to all or to none.")
        return self._stack(images), torch.tensor(known) if known else None, torch.tensor(positions)

    def _stack(self, images: list[Tensor]) -> Tensor:
        sizes = sorted({tuple(image.shape) for image in images})
        if len(sizes) > 1:
            raise ValueError(
                f"images: the transform leaves images of different sizes ({', '.join(map(_times, sizes[:4]))}), and a "
                f"batch needs one. Use a transform that resizes and crops, or batch_size=1."
            )
        return torch.stack(images)


def batches(
    images,
    transform: Callable | None = None,
    batch_size: int = 64,
    device: torch.device | str | Tensor = "cpu",
) -> Batches:
    """What every function here does with its ``images``: batches of network input, on the device.

    - (a) A dataset, a list, or a folder (also as a path) of uint8 tensors 3×H×W or PIL images, alone or as (image,
      label): the transform is applied. Files that cannot be read are skipped, counted and named in one warning at the
      end.
    - (b) A float tensor N×3×H×W, or a DataLoader that yields one, alone or as (x, labels): used as it is.
    - (c) A uint8 tensor N×3×H×W: transformed.

    Labels count where they are whole numbers. Transforms run on the CPU; one that makes the same of a batch N×3×H×W as
    of its images one by one (this is tried once) is given images of one size together, which is faster.

    Args:
        images: One of the above.
        transform: From uint8 3×H×W (or N×3×H×W, or a PIL image) to float; not used for (b).
        batch_size: Images a batch; a DataLoader keeps its own.
        device: Where the batches are put; or a parameter of the network, whose device and dtype they take.

    Returns:
        An iterable of (float N×3×H×W, int64 N or None), with ``total``, ``classes`` and ``skipped``.

    Raises:
        ValueError: ``images`` is none of these or empty, or it needs a transform and there is none.
        FileNotFoundError: A path that is no folder.
    """
    return Batches(images, transform, batch_size, device)


def describe(images) -> str:
    """One line on a set of images, without paths, for tables and saved files."""
    if isinstance(images, str | os.PathLike):
        return f"folder {Path(images).expanduser().resolve().name}"
    if isinstance(images, ImageFiles):
        return f"{images.name}: {len(images)} images, {len(images.classes)} classes"
    if isinstance(images, Shapes):
        return repr(images)
    if not isinstance(images, Tensor) and hasattr(images, "dataset"):
        return f"{type(images).__name__} of {describe(images.dataset)}"
    return _what(images)


def _get(images, index: int):
    """The item, or the error that says that its file cannot be read."""
    try:
        return images[index]
    except ImageReadError as error:
        return error


def _kind(images) -> str:
    """What to do with it: "float tensor", "uint8 tensor", "loader" or "dataset".

    Raises:
        ValueError: None of these.
    """
    if isinstance(images, Tensor):
        if _is_batch(images) and (images.dtype == torch.uint8 or images.is_floating_point()):
            return "uint8 tensor" if images.dtype == torch.uint8 else "float tensor"
    elif hasattr(images, "dataset") and hasattr(images, "__iter__") and not hasattr(images, "__getitem__"):
        return "loader"
    elif isinstance(images, torch.utils.data.IterableDataset) or (
        hasattr(images, "__getitem__")
        and hasattr(images, "__len__")
        and not isinstance(images, Mapping | np.ndarray | bytes | bytearray)
    ):
        return "dataset"
    raise ValueError(f"images: got {_what(images)}. {_EXPECTED}{_hint(images)}")


def _is_batch(x) -> bool:
    return isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] == 3


def _is_pil(x) -> bool:
    pil = sys.modules.get("PIL.Image")  # not imported: then x cannot be one
    return pil is not None and isinstance(x, pil.Image)


def _length(images) -> int | None:
    try:
        return len(images)
    except (TypeError, NotImplementedError):
        return None


def _attribute(images, name: str):
    """The attribute of a set, or of the set that it is a part of (Subset, DataLoader)."""
    for _ in range(10):
        if isinstance(images, Tensor) or images is None:
            return None
        if getattr(images, name, None) is not None:
            return getattr(images, name)
        images = getattr(images, "dataset", None)
    return None


def _whole_number(label) -> int | None:
    """A dataset's label as an int; None if it is no whole number."""
    if isinstance(label, Tensor | np.ndarray | np.generic):
        label = label.tolist()
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    return label if isinstance(label, int) and not isinstance(label, bool) else None


def _whole(labels, n: int) -> Tensor | None:
    """Labels of a DataLoader as int64 N; None if they are no whole numbers, one an image."""
    if (
        not isinstance(labels, Tensor)
        or labels.shape != (n,)
        or labels.is_floating_point()
        or labels.dtype == torch.bool
    ):
        return None
    return labels.long()


def _times(shape) -> str:
    return "×".join(str(size) for size in shape)


def _what(x) -> str:
    """A value in a few words: kind, type and shape."""
    if isinstance(x, Tensor):
        return f"a {str(x.dtype).removeprefix('torch.')} tensor {_times(x.shape) or '(one number)'}"
    if isinstance(x, np.ndarray):
        return f"a numpy array {_times(x.shape)} of {x.dtype}"
    if _is_pil(x):
        return f"a PIL image {x.mode} {_times(x.size)}"
    if x is None:
        return "None"
    length = _length(x)
    return f"a {type(x).__name__}" + ("" if length is None else f" of length {length}")


def _hint(x, loader: bool = False) -> str:
    """What to do about the commonest mistakes; empty for others."""
    if isinstance(x, np.ndarray):
        return " Use torch.from_numpy, with the colours first: .permute(0, 3, 1, 2) of N×H×W×3."
    if _is_pil(x):
        return " Put a single image into a list: [image]."
    if not isinstance(x, Tensor):
        return ""
    if loader and x.dtype == torch.uint8:
        return " Pass the dataset itself, so that the transform is applied; or let its own transform make floats."
    if x.ndim == 3 and len(x) == 3 and not loader and x.dtype != torch.uint8:
        return " Stack prepared images: torch.stack(images); or pass them through a DataLoader."
    if x.ndim == 3 and len(x) == 3:
        return " Add the batch axis: image[None]."
    if x.ndim in (3, 4) and x.shape[-1] == 3:
        return " The colours must come before height and width: use .movedim(-1, -3)."
    return ""
