"""The one place that turns whatever a user calls ``images`` into batches for a network.

Everything in ecaviz that takes ``images`` takes them through :func:`batches` (at hand as ``ecaviz.images.batches``), so
the contract is the same everywhere: what is still an image (uint8 or PIL) goes through the model's transform; what is a
float tensor already is used as it is.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import checks, image_fingerprints, items
from .cifar10 import Cifar10
from .image_files import ImageFiles, ImageReadError, folder
from .shapes import Shapes

__all__ = ["Batches", "batches", "describe"]

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
        skipped_at: The position of each of them; −1 of those that were no part of the set from the start.
    """

    def __init__(
        self,
        images,
        transform: Callable | None,
        batch_size: int,
        device: torch.device | str | Tensor,
        workers: int = 0,
    ):
        batch_size = checks.at_least_one(batch_size, "images: batch_size")
        workers = checks.at_least_zero(workers, "images: workers")
        self._images = folder(images) if isinstance(images, str | os.PathLike) else images
        self._kind = _kind(self._images)
        if transform is None and self._kind in ("dataset", "uint8 tensor"):
            raise ValueError(
                f"images: {items.what(self._images)} needs a transform from uint8 images to the network's input, and "
                f"the model has none. Give one: ecaviz.load(net, transform=…); or pass a float tensor N×3×H×W, "
                f"prepared by you."
            )
        self._prepare, self._batch_size, self._workers = items.Preparation(transform), batch_size, workers
        self._transforms = [transform] if self._kind in ("dataset", "uint8 tensor") else []
        like = isinstance(device, Tensor)
        self._device = device.device if like else device
        self._dtype = device.dtype if like and device.is_floating_point() else None
        self.total = _length_of_loader(self._images) if self._kind == "loader" else items.length(self._images)
        if self.total == 0:
            raise ValueError(f"images: there is no image in {items.what(self._images)}. {items.EXPECTED}")
        classes = _attribute(self._images, "classes")
        self.classes: tuple[str, ...] | None = tuple(str(name) for name in classes) if classes is not None else None
        self.description = describe(self._images)
        self.passed = 0
        self.skipped: list[tuple[Path, str]] = []
        self.skipped_at: list[int] = []
        self._first: list[str] | None = None  # fingerprints of the first images; None where nobody has asked for them

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for x, labels, _ in self.indexed():
            yield x, None if labels is None else self._moved(labels)

    @property
    def shuffled(self) -> bool:
        """Whether another pass may take the images in another order, as far as can be told."""
        if self._kind != "loader" or isinstance(self._images.dataset, torch.utils.data.IterableDataset):
            return False
        sampler = _sampler(self._images)
        if isinstance(sampler, torch.utils.data.distributed.DistributedSampler):
            return sampler.shuffle
        return not isinstance(sampler, torch.utils.data.SequentialSampler)

    @property
    def transform(self) -> str:
        """Sixteen hex digits that stand for what is done to the images: the transform, and what the set does itself.

        Of the words that a transform has for itself (its ``repr``), without addresses, so that they are the same in
        another process; two functions of one name are not told apart.
        """
        words = [_words(one) for one in (*self._transforms, _attribute(self._images, "transform"))]
        return hashlib.blake2b("\n".join(words).encode(), digest_size=8).hexdigest()

    def fingerprint(self) -> dict[str, Any]:
        """What tells the images from others of the same description: not a pass over them, and not the transform.

        Of a tensor "all", of all its numbers. Else "files", of the names and sizes of the files, where the set says
        what they are; and "first", of the first images as the set gives them. Of a DataLoader and an IterableDataset,
        which can only be gone through, those are known once they have passed: ask before a pass, and again in it.

        Raises:
            Exception: What the set raises when its first images are read.
        """
        if self._kind.endswith("tensor"):
            return {"all": self._of_all}
        if self._first is None:
            stream = self._kind == "loader" or isinstance(self._images, torch.utils.data.IterableDataset)
            self._first = [] if stream else self._read_first()
        return ({"files": self._of_all} if self._of_all else {}) | {"first": list(self._first)}

    @cached_property
    def _of_all(self) -> str | None:
        """The fingerprint of a tensor, or of all files; None where the set does not say what they are."""
        if self._kind.endswith("tensor"):
            return image_fingerprints.of_tensor(self._images)
        return image_fingerprints.of_files(self._images.dataset if self._kind == "loader" else self._images)

    def _read_first(self) -> list[str]:
        """Fingerprints of the first images, read where the others will be: not every set can be opened twice."""
        span = range(min(image_fingerprints.FIRST, len(self._images)))
        if self._workers:
            runs = items.in_runs(self._images, items.pixels, span, len(span), 1)
            return [one for run in runs for one in _fingerprints(run)]
        found = (items.get(self._images, i) for i in span)
        return [_fingerprint(item, i) for i, item in enumerate(found)]

    def indexed(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """The same with a third: int64 N, the position of each image in the set (files left out count).

        Labels and positions are on the CPU, where they can be looked at without waiting for a GPU.

        Args:
            start: Position of the first image to take; those before it are passed by, unread where they can be.
            stop: Position after the last image to take; None for all.

        Raises:
            ValueError: An item is none of what :func:`batches` takes, an image has values that are NaN or infinite, or
                no image could be read.

        Warns:
            UserWarning: Once, at the end of the pass: how many files were skipped, which, and why.
        """
        self.skipped, self.passed = list(getattr(self._images, "_left_out", ())) if start == 0 else [], start
        self.skipped_at = [-1] * len(self.skipped)
        go = {"loader": self._from_loader, "dataset": self._from_dataset}.get(self._kind, self._from_tensor)
        if self._workers and self._kind == "dataset" and not isinstance(self._images, torch.utils.data.IterableDataset):
            go = self._from_workers
        seen, odd = 0, None
        for x, labels, positions in go(start, sys.maxsize if stop is None else stop):
            if x.device.type == "cpu":
                self._check_finite(x, positions)
            else:  # to look would be to wait: once, at the end
                one = ~x.detach().flatten(1).isfinite().all(1)
                odd = one.any() if odd is None else odd | one.any()
            seen += len(x)
            self.passed = max(self.passed, int(positions[-1]) + 1)
            yield self._moved(x, self._dtype), None if labels is None else labels.cpu(), positions
        if odd is not None and bool(odd):
            raise self._not_finite("an image")
        if isinstance(self._images, ImageFiles):
            self._images.skipped = list(self.skipped)
        if self.skipped:
            named = ", ".join(f"{path.name} ({reason})" for path, reason in self.skipped[:_NAMED])
            more = f" and {len(self.skipped) - _NAMED} more" if len(self.skipped) > _NAMED else ""
            message = f"images: {len(self.skipped)} file(s) of {describe(self._images)} were skipped: {named}{more}."
            if not seen and start == 0:
                raise ValueError(f"{message} None could be read. {items.EXPECTED}")
            warnings.warn(message, stacklevel=3)
        if not seen and start == 0:
            raise ValueError(f"images: {items.what(self._images)} gave no image. {items.EXPECTED}")

    def _check_finite(self, x: Tensor, positions: Tensor) -> None:
        """Raise a ValueError that names the first image with values that are no finite numbers."""
        if x.detach().sum(dtype=torch.float32 if x.is_floating_point() else None).isfinite():  # else it would show
            return
        bad = ~x.flatten(1).isfinite().all(1).cpu()
        if not bad.any():
            return  # finite numbers whose sum is too large
        raise self._not_finite(f"image {int(positions[bad][0])}")

    def _not_finite(self, which: str) -> ValueError:
        made = "The model's transform made them. " if self._transforms else ""
        return ValueError(
            f"images: {which} of {self.description} has values that are NaN or infinite; expected finite numbers. "
            f"{made}Leave the image out, or mend how it is prepared."
        )

    def _from_tensor(self, first: int, stop: int):
        stop = min(stop, len(self._images))
        for start in range(first, stop, self._batch_size):
            x = self._images[start : min(start + self._batch_size, stop)]
            if self._kind == "uint8 tensor":
                x = self._stack(self._prepare(list(x)))
            yield x, None, torch.arange(start, start + len(x))

    def _from_loader(self, first: int, stop: int):
        start = 0
        for batch in _told(self._images):
            x, labels = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, None)
            if isinstance(x, tuple | list) and len(x) == 1:  # TensorDataset(x) gives lists of one
                x = x[0]
            if not _is_batch(x) or not x.is_floating_point():
                hint = items.hint(x, loader=True)
                raise ValueError(f"images: a DataLoader that yields {items.what(x)}. {items.EXPECTED}{hint}")
            labels, positions = _whole(labels, len(x)), torch.arange(start, start + len(x))
            if self._first is not None and not start:
                known = itertools.repeat(None) if labels is None else labels.tolist()
                shown = zip(x[: image_fingerprints.FIRST], known, strict=False)
                self._first = [image_fingerprints.of_image(image, label) for image, label in shown]
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
                done += self._prepare(held)
                held = []
            if self._prepare.together is not False and isinstance(image, Tensor):
                held.append(image)
            else:
                done += self._prepare([image])
            labels.append(label)
            positions.append(position)
            if len(labels) == self._batch_size:
                yield self._batch(done + self._prepare(held), labels, positions)
                done, held, labels, positions = [], [], [], []
        if labels:
            yield self._batch(done + self._prepare(held), labels, positions)

    def _items(self, first: int, stop: int) -> Iterator[tuple[int, Any, int | None]]:
        """(position, image, label) of each item that can be read, from a position on to another."""
        if isinstance(self._images, torch.utils.data.IterableDataset):
            numbered = itertools.islice(self._looked_at(), first, stop)
        else:
            numbered = ((i, items.get(self._images, i)) for i in range(first, min(stop, len(self._images))))
        for position, item in numbered:
            self.passed = position + 1
            if isinstance(item, ImageReadError):
                self._skip(position, item.path, item.reason)
                continue
            yield position, *items.checked(item, position)

    def _looked_at(self) -> Iterator[tuple[int, Any]]:
        """(position, item) of a stream, from the start."""
        first: list[str] | None = None if self._first is None else []
        for position, item in enumerate(self._images):
            if first is not None and position < image_fingerprints.FIRST:
                first.append(_fingerprint(item, position))
                self._first = first
            yield position, item

    def _from_workers(self, first: int, stop: int):
        """As :meth:`_from_dataset`, of what other processes have read and transformed."""
        span = range(first, min(stop, len(self._images)))
        pin = self._on_gpu and torch.cuda.is_available()
        parts: list[items.Run] = []
        missing = self._batch_size
        for found in items.in_runs(self._images, self._prepare, span, self._batch_size, self._workers, pin):
            if isinstance(found, items.Unread):
                self.passed = found.position + 1
                self._skip(*found)
                continue
            while found.positions:
                part, found = found.cut(missing)
                parts.append(part)
                missing -= len(part.positions)
                self.passed = part.positions[-1] + 1
                if not missing:
                    yield self._joined(parts)
                    parts, missing = [], self._batch_size
        if parts:
            yield self._joined(parts)

    def _skip(self, position: int, path: Path, reason: str) -> None:
        self.skipped.append((path, reason))
        self.skipped_at.append(position)

    def _joined(self, parts: list[items.Run]):
        images, labels, positions = zip(*parts, strict=True)
        # A run that is a batch as it is, and most are, is not copied.
        images = images[0] if len(parts) == 1 else [image for several in images for image in several]
        return self._batch(images, [*itertools.chain(*labels)], [*itertools.chain(*positions)])

    def _batch(self, images: list[Tensor] | Tensor, labels: list, positions: list[int]):
        known = [label for label in labels if label is not None]
        if known and len(known) < len(labels):
            raise ValueError("images: some items have a label and some have none. Give a label to all or to none.")
        x = images if isinstance(images, Tensor) else self._stack(images)
        return x, torch.tensor(known) if known else None, torch.tensor(positions)

    def _stack(self, images: list[Tensor]) -> Tensor:
        sizes = sorted({tuple(image.shape) for image in images})
        if len(sizes) > 1:
            raise ValueError(
                f"images: the transform leaves images of different sizes "
                f"({', '.join(map(items.times, sizes[:4]))}), and a batch needs one. Use a transform that resizes "
                f"and crops, or batch_size=1."
            )
        return torch.stack(images)

    @property
    def _on_gpu(self) -> bool:
        return torch.device(self._device).type == "cuda"

    def _moved(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """On the device; a copy to a GPU is only asked for, and nothing waits until it is made."""
        if self._on_gpu and values.device.type == "cpu":
            # From other memory, the copy would be waited for. The dtype is made there, or a second copy would be here.
            pinned = values if values.is_pinned() else values.pin_memory()
            values = pinned.to(self._device, non_blocking=True)
        return values.to(self._device, dtype)


def batches(
    images,
    transform: Callable | None = None,
    batch_size: int = 64,
    device: torch.device | str | Tensor = "cpu",
    workers: int = 0,
) -> Batches:
    """What every function here does with its ``images``: batches of network input, on the device.

    - (a) A dataset, a list, or a folder (also as a path) of uint8 tensors 3×H×W or PIL images, alone or as (image,
      label): the transform is applied. Files that cannot be read are skipped, counted and named in one warning at the
      end.
    - (b) A float tensor N×3×H×W, or a DataLoader that yields one, alone or as (x, labels): used as it is.
    - (c) A uint8 tensor N×3×H×W: transformed.

    Labels count where they are whole numbers. Transforms run on the CPU; one that makes the same of a batch N×3×H×W as
    of its images one by one (this is tried once) is given images of one size together, which is faster.

    With ``workers``, as many processes read and transform a dataset or a folder, image by image, and work ahead; the
    batches are the same. What takes longest is often to decode the files: then the network need not wait for it. Each
    process has a copy of the dataset and of the transform.

    Args:
        images: One of the above.
        transform: From uint8 3×H×W (or N×3×H×W, or a PIL image) to float; not used for (b).
        batch_size: Images a batch; a DataLoader keeps its own.
        device: Where the batches are put; or a parameter of the network, whose device and dtype they take.
        workers: Processes that read a dataset or a folder; 0 reads in this one. Tensors and an IterableDataset stay in
            this process; a DataLoader keeps its own workers.

    Returns:
        An iterable of (float N×3×H×W, int64 N or None), with ``total``, ``classes`` and ``skipped``.

    Raises:
        ValueError: ``images`` is none of these or empty, or it needs a transform and there is none.
        FileNotFoundError: A path that is no folder.
    """
    return Batches(images, transform, batch_size, device, workers)


def describe(images) -> str:
    """One line on a set of images, without paths, for tables and saved files."""
    *around, innermost = _nested(images)
    return " of ".join([*(type(one).__name__ for one in around), _described(innermost)])


def _described(images) -> str:
    if isinstance(images, str | os.PathLike):
        return f"folder {checks.expanded(images, 'images').resolve().name}"
    if isinstance(images, ImageFiles):
        return f"{images.name}: {len(images)} images, {len(images.classes)} classes"
    return repr(images) if isinstance(images, Shapes | Cifar10) else items.what(images)


def _told(loader) -> Iterator[Any]:
    """What a DataLoader yields; of a reading process of its own that died, in words."""
    with items.deaths_in_words(loading=bool(getattr(loader, "num_workers", 0))):
        yield from loader


def _fingerprint(item: Any, position: int) -> str:
    """That of an item of a dataset; empty where it cannot be read."""
    if isinstance(item, ImageReadError):
        return ""
    image, label = items.checked(item, position)
    return image_fingerprints.of_image(items.pixels([image])[0], label)


def _fingerprints(found: items.Run | items.Unread) -> list[str]:
    """The same of what other processes have read."""
    if isinstance(found, items.Unread):
        return [""]
    return [image_fingerprints.of_image(*one) for one in zip(found.images, found.labels, strict=True)]


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
    raise ValueError(f"images: got {items.what(images)}. {items.EXPECTED}{items.hint(images)}")


def _sampler(loader):
    """What says in which order a DataLoader takes the images."""
    return getattr(getattr(loader, "batch_sampler", None), "sampler", None) or getattr(loader, "sampler", None)


def _length_of_loader(loader) -> int | None:
    """Images that a DataLoader gives; None if that is not known."""
    if isinstance(loader.dataset, torch.utils.data.IterableDataset):
        return items.length(loader.dataset)
    total = items.length(_sampler(loader))
    size = getattr(loader, "batch_size", None)
    return total // size * size if total is not None and size and getattr(loader, "drop_last", False) else total


def _is_batch(x) -> bool:
    return isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] == 3 and 0 not in x.shape[2:]


def _words(transform) -> str:
    """What a transform calls itself, without addresses of memory."""
    where = f"{transform.__module__}.{transform.__qualname__}" if isinstance(transform, FunctionType) else ""
    return where or re.sub(r" at 0x[0-9a-fA-F]+", "", repr(transform))


def _attribute(images, name: str):
    """The attribute of a set, or of the set that it is a part of (Subset, DataLoader)."""
    return next((own for one in _nested(images) if (own := getattr(one, name, None)) is not None), None)


def _nested(images) -> list:
    """A set, and what it is a part of (Subset, DataLoader), from the outermost to the innermost; each once."""
    found = [images]
    while not isinstance(images, Tensor) and (images := getattr(images, "dataset", None)) is not None:
        if any(images is one for one in found):
            break
        found.append(images)
    return found


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
