"""The items of a dataset, read, checked and transformed: one by one in this process, or in runs by several others.

What :mod:`ecaviz.batches` makes its batches of.
"""

from __future__ import annotations

import itertools
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .image_files import ImageReadError, to_pil, to_rgb

__all__ = [
    "EXPECTED",
    "Preparation",
    "Run",
    "Unread",
    "checked",
    "deaths_in_words",
    "get",
    "hint",
    "in_runs",
    "length",
    "pixels",
    "times",
    "what",
]

EXPECTED = (
    "Expected one of: (a) a dataset or a folder of uint8 tensors 3×H×W or PIL images, with or without labels: the "
    "model's transform is applied; (b) a float tensor N×3×H×W, or a DataLoader that yields one, alone or with labels: "
    "used as it is; (c) a uint8 tensor N×3×H×W: transformed."
)


class Preparation:
    """A transform, and what was found out about it.

    Args:
        transform: From uint8 3×H×W (or N×3×H×W, or a PIL image) to float.

    Attributes:
        together: Whether it takes batches; None until that was tried.
    """

    def __init__(self, transform: Callable | None):
        self.together: bool | None = None
        self._transform = transform
        self._wants_pil = False  # whether it takes PIL images and no tensors; found out when it refuses one

    def __call__(self, images: list) -> list[Tensor]:
        """Each image (all of one size) through the transform; together where the transform can."""
        if not images:
            return []
        if self.together is None and len(images) > 1:
            self.together = self._takes_batches(images)
        try:
            if self.together and len(images) > 1:
                results = list(self._transform(torch.stack(images)))
            else:
                results = [self._one(image) for image in images]
        except Exception as error:
            error.add_note(f"images: raised by the model's transform, given {what(images[0])}.")
            raise
        for result in results:
            if not (isinstance(result, Tensor) and result.is_floating_point() and result.ndim == 3):
                raise ValueError(
                    f"images: the transform made {what(result)} of {what(images[0])}; a float tensor 3×H×W was "
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


def pixels(images: list) -> list[Tensor]:
    """In place of a transform: images as they are, as uint8 tensors."""
    return [one if isinstance(one, Tensor) else torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in images]


def get(images, index: int):
    """The item, or the error that says that its file cannot be read: what Pillow raises counts as that."""
    try:
        return images[index]
    except ImageReadError as error:
        return error
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if "PIL" not in Path(last).parts or isinstance(error, MemoryError):
            raise
        path = _file(images, index)
        return ImageReadError(path, str(error).replace(str(path), path.name) or type(error).__name__)


def _file(images, index: int) -> Path:
    """The file of an item, where the set says it as torchvision's do; else its number."""
    while hasattr(images, "indices") and hasattr(images, "dataset"):  # a Subset
        images, index = images.dataset, images.indices[index]
    try:
        return Path(images.samples[index][0])
    except (AttributeError, IndexError, KeyError, TypeError):
        return Path(f"item {index}")


def checked(item: Any, position: int) -> tuple[Any, int | None]:
    """(uint8 tensor 3×H×W or PIL image in RGB, label) of an item.

    Raises:
        ValueError: It has no image.
    """
    image, label = (item[0], item[1]) if isinstance(item, tuple | list) and len(item) > 1 else (item, None)
    if isinstance(image, tuple | list) and len(image) == 1:
        image = image[0]
    if is_pil(image) and 0 not in image.size:
        image = to_rgb(image)
    elif not (isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and len(image) == 3) or (
        0 in image.shape
    ):
        raise ValueError(f"images: a dataset whose item {position} is {what(image)}. {EXPECTED}{hint(image)}")
    return image, _whole_number(label)


def _whole_number(label) -> int | None:
    """A dataset's label as an int; None if it is no whole number."""
    if isinstance(label, Tensor | np.ndarray | np.generic):
        label = label.tolist()
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    return label if isinstance(label, int) and not isinstance(label, bool) else None


# In several processes.


class Run(NamedTuple):
    """Images that follow each other in a set, transformed, of one size: float N×3×H×W."""

    images: Tensor
    labels: list[int | None]
    positions: list[int]

    def cut(self, n: int) -> tuple[Run, Run]:
        """The first n, and the rest."""
        return Run(*(part[:n] for part in self)), Run(*(part[n:] for part in self))


class Unread(NamedTuple):
    """A file that cannot be read."""

    position: int
    path: Path
    reason: str


def in_runs(
    images, prepare: Preparation, span: range, size: int, workers: int, pin: bool = False
) -> Iterator[Run | Unread]:
    """A part of a dataset, read and transformed by other processes, in the order of the set.

    The processes work ahead, and end when this is at its end, raises, or is closed.

    Args:
        images: Has ``[i]``.
        prepare: The transform; every process works with a copy of it, and of the images.
        span: Positions of the items to read.
        size: Images that one process reads at a time, at most.
        workers: Number of processes, at least 1.
        pin: Whether the runs are to lie in pinned memory.

    Raises:
        ValueError: An item is no image, or the dataset or the transform cannot be passed on to a process.
        RuntimeError: A process died.
        Exception: Whatever else the dataset or the transform raises.
    """
    if not span:
        return
    pieces = _Pieces(images, prepare, span, min(size, -(-len(span) // workers)))
    # Seeds of the processes come of the user's random numbers, which go on as if none had been drawn.
    generator = torch.Generator().set_state(torch.get_rng_state())
    with _in_words(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got pickle error", UserWarning)  # the error says it better
        try:
            loader = iter(
                torch.utils.data.DataLoader(
                    pieces,
                    batch_size=None,
                    num_workers=min(workers, len(pieces)),
                    collate_fn=_as_it_is,
                    worker_init_fn=_leave_interrupts_alone,
                    pin_memory=pin,
                    generator=generator,
                )
            )
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"images: {what(images)} or its transform cannot be passed on to another process ({error}). Use "
                f"workers=0; or a dataset and a transform that pickle can write: no lambdas, no functions inside "
                f"functions, no open files."
            ) from error
    try:
        while True:
            with _in_words():
                piece = next(loader, None)
            if piece is None:
                return
            for found in piece:
                if isinstance(found, _Failed):
                    raise found.error from (None if found.where is None else _ElsewhereError(found.where))
                yield found
    finally:
        # What the iterator does when it is collected; but the traceback of an error would keep it till then.
        loader._shutdown_workers()


class _Pieces(torch.utils.data.Dataset):
    """A part of a dataset in pieces, each read and transformed by one process; nothing that goes wrong is raised."""

    def __init__(self, images, prepare: Preparation, span: range, size: int):
        self.images, self.prepare, self.span, self.size = images, prepare, span, size

    def __len__(self) -> int:
        return -(-len(self.span) // self.size)

    def __getitem__(self, piece: int) -> list[Run | Unread | _Failed]:
        found: list[Any] = []
        try:
            for position in self.span[piece * self.size : (piece + 1) * self.size]:
                found.append(self._read(position))
        except BaseException as error:  # an interrupt too, if the dataset raises one: here it would end the process
            found.append(_failed(error))
        runs: list[Run | Unread | _Failed] = []
        # Of one size together: each tensor that is passed on costs an open file.
        for alike, group in itertools.groupby(found, lambda one: type(one) is _Item and one.image.shape):
            several = list(group)
            runs += [_run(several)] if alike else several
        return runs

    def _read(self, position: int) -> _Item | Unread:
        item = get(self.images, position)
        if isinstance(item, ImageReadError):
            return Unread(position, item.path, item.reason)
        image, label = checked(item, position)
        return _Item(self.prepare([image])[0], label, position)


class _Item(NamedTuple):
    image: Tensor
    label: int | None
    position: int


class _Failed(NamedTuple):
    """An error of another process, and where it came from; None where its message says all there is."""

    error: BaseException
    where: str | None


class _ElsewhereError(Exception):
    """Stands for the cause of an error that came from another process: says where it was raised."""


def _run(items: list[_Item]) -> Run:
    images, labels, positions = zip(*items, strict=True)
    # A tensor with a history cannot be passed on, and nothing here asks for gradients.
    return Run(torch.stack(images).detach(), list(labels), list(positions))


def _failed(error: BaseException) -> _Failed:
    """The error in a form that another process can have."""
    here = traceback.extract_tb(error.__traceback__)[-1].filename == __file__
    where = None if here else "in a process that reads images:\n" + "".join(traceback.format_exception(error))
    try:
        twin = pickle.loads(pickle.dumps(error))
        same = type(twin) is type(error) and str(twin) == str(error)
    except Exception:  # whatever a class raises that was not made for pickling
        same = False
    if not same:
        notes = getattr(error, "__notes__", ())
        error = RuntimeError(f"{type(error).__name__}: {error}")
        for note in notes:
            error.add_note(note)
    return _Failed(error, where)


@contextmanager
def deaths_in_words(*, loading: bool = False) -> Iterator[None]:
    """What torch says of a reading process that died, with what to do, wherever this process is by then.

    Torch hears of the death by a signal, and raises its error in whatever runs: the network, as a rule. So whatever
    runs a network over batches has it, as a decorator or around the loop; that batches have it is not enough.

    Args:
        loading: Whether nothing but a DataLoader with processes of its own runs inside: then an end of file without
            words is that of a process that died while it sent.

    Raises:
        RuntimeError: A process that reads images died.
    """
    try:
        yield
    except (RuntimeError, EOFError) as error:
        sending = loading and isinstance(error, EOFError) and not str(error)
        if not sending and ("DataLoader worker (pid" not in str(error) or str(error).startswith(_DIED)):
            raise
        error.__traceback__ = None
        raise _died(error) from None


@contextmanager
def _in_words() -> Iterator[None]:
    """What DataLoader says of a process that died, with what to do."""
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        error.__traceback__ = None  # its frames would keep the other processes
        raise _died(error) from None


_DIED = "images: a process that reads images died or could not start"


def _died(error: Exception) -> RuntimeError:
    what = str(error).strip().rstrip(".") or "what it sent broke off"
    return RuntimeError(
        f"{_DIED}: {what}. There may be too little memory (or shared memory, /dev/shm), too many open files "
        f"(ulimit -n), or a dataset or a transform that only this process knows, made in a notebook. Use fewer workers "
        f"or a smaller batch_size; or workers=0 (a DataLoader's num_workers=0), which reads in this process and shows "
        f"what goes wrong."
    )


def _as_it_is(piece: list) -> list:
    return piece


def _leave_interrupts_alone(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the one that started the others ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# What a value is, in words.


def is_pil(x) -> bool:
    """Whether it is a PIL image; PIL is not imported for that."""
    pil = sys.modules.get("PIL.Image")  # not imported: then x cannot be one
    return pil is not None and isinstance(x, pil.Image)


def length(images) -> int | None:
    """Number of images; None if it is not known."""
    try:
        return len(images)
    except (TypeError, NotImplementedError):
        return None


def times(shape) -> str:
    """A shape in words."""
    return "×".join(str(size) for size in shape)


def what(x) -> str:
    """A value in a few words: kind, type and shape."""
    if isinstance(x, Tensor):
        return f"a {str(x.dtype).removeprefix('torch.')} tensor {times(x.shape) or '(one number)'}"
    if isinstance(x, np.ndarray):
        return f"a numpy array {times(x.shape)} of {x.dtype}"
    if is_pil(x):
        return f"a PIL image {x.mode} {times(x.size)}"
    if x is None:
        return "None"
    size = length(x)
    return f"a {type(x).__name__}" + ("" if size is None else f" of length {size}")


def hint(x, loader: bool = False) -> str:
    """What to do about the commonest mistakes; empty for others."""
    if isinstance(x, np.ndarray):
        return " Use torch.from_numpy, with the colours first: .permute(0, 3, 1, 2) of N×H×W×3."
    if is_pil(x):
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
