"""CIFAR-10: from the original files, by torchvision, or from a folder of JPEGs.

A folder ``{train,test}/CLASS/NNNN.jpg`` is a copy with losses. What is made from it is not what is made from the
original; :attr:`Cifar10.data` says which of the two a set is, and every table of results carries it.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import checks
from .downloads import BrokenError, Source, WrongError, alone, download
from .image_files import ImageReadError, decoded
from .whole_files import draft

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

__all__ = ["CLASSES", "JPEG", "MEAN", "ORIGINAL", "SIZE", "SPLITS", "STD", "Cifar10", "find"]

SIZE = 32
"""Height and width of an image, in pixels."""

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Mean and deviation of the training images by colour, 0…1: what images are normalised with for the models."""

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Class names, by label."""

SPLITS = ("train", "test")

ORIGINAL, JPEG = "cifar10", "cifar10-jpeg"
"""What a set is called that was read from the original files, and from JPEGs."""

VARIABLE = "ECAVIZ_CIFAR10"
"""The environment variable that names the folder."""


class Cifar10(torch.utils.data.Dataset):
    """CIFAR-10 in memory. Items are (uint8 tensor 3×32×32, label).

    Args:
        split: "train" (50,000 images) or "test" (10,000).
        root: A folder with ``{train,test}/CLASS/*.jpg``, or where torchvision has, or shall put, the original files;
            None for ``$ECAVIZ_CIFAR10``, else ``~/.cache/ecaviz/cifar10``.
        n: The first n images; None for all.
        download: Whether the original (170 MB) may be fetched, to where torchvision has it, if the folder has neither.
        progress: Whether to show a progress bar.

    Attributes:
        classes: The ten class names, by label.
        images: uint8 n×3×32×32. Of JPEGs the classes take turns, by file name; of the original it is its own order.
        labels: int64 n.
        data: "cifar10", or "cifar10-jpeg" for the copy with losses.

    Raises:
        ValueError: Unknown split, negative n, a JPEG that cannot be read, or what was fetched is another file.
        FileNotFoundError: There is no such folder; it has neither and there is no download; a class without images.
        ConnectionError: The original could not be fetched.
        OSError: The folder cannot be read, or not be written.
    """

    def __init__(
        self,
        split: str = "test",
        root: str | os.PathLike | None = None,
        n: int | None = None,
        *,
        download: bool = True,
        progress: bool = False,
    ):
        if split not in SPLITS:
            raise ValueError(f"cifar10: no split is called {split!r}. Splits: {', '.join(SPLITS)}.")
        if n is not None and n < 0:
            raise ValueError(f"cifar10: n must not be negative, got {n!r}.")
        self.split, self.classes = split, CLASSES
        folder = _checked_place(root)
        jpegs = find(root)
        if jpegs is not None:
            self.data = JPEG
            self.images, self.labels = _read_jpegs(jpegs / split, n, progress)
        else:
            self.data = ORIGINAL
            self.images, self.labels = _read_original(folder, split, n, download)

    def __repr__(self) -> str:
        return f"Cifar10({self.split!r}, n={len(self)}, {self.data})"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def place(root: str | os.PathLike | None = None) -> Path:
    """The folder that is looked into: ``root``, ``$ECAVIZ_CIFAR10``, or ``~/.cache/ecaviz/cifar10``."""
    return checks.expanded(root or os.environ.get(VARIABLE) or "~/.cache/ecaviz/cifar10", "cifar10")


def _checked_place(root: str | os.PathLike | None) -> Path:
    """The folder, which must be there if somebody named it: a name mistyped is no reason to fetch 170 MB."""
    folder = place(root)
    if (root or os.environ.get(VARIABLE)) and not folder.is_dir():
        raise FileNotFoundError(
            f"cifar10: there is no folder {folder} ({'root' if root else f'${VARIABLE}'}). Correct the name; or make "
            f"the folder, if the original is to be fetched into it."
        )
    return folder


def find(root: str | os.PathLike | None = None) -> Path | None:
    """The folder of JPEGs, itself or its subfolder ``cifar10-jpeg``; None if there is none."""
    folder = place(root)
    return next((one for one in (folder, folder / "cifar10-jpeg") if (one / "train" / CLASSES[0]).is_dir()), None)


def is_here(root: str | os.PathLike | None = None) -> bool:
    """Whether the images can be read without a download."""
    return find(root) is not None or (place(root) / "cifar-10-batches-py").is_dir()


def _read_jpegs(folder: Path, n: int | None, progress: bool) -> tuple[Tensor, Tensor]:
    from tqdm.auto import tqdm

    by_class = [sorted((folder / name).glob("*.jpg")) for name in CLASSES]
    empty = [name for name, paths in zip(CLASSES, by_class, strict=True) if not paths]
    if empty:
        raise FileNotFoundError(f"cifar10: {folder} has no .jpg of the class {', '.join(empty)}.")
    longest = max(map(len, by_class))
    files = [(paths[i], label) for i in range(longest) for label, paths in enumerate(by_class) if i < len(paths)][:n]
    images = torch.empty((len(files), 3, SIZE, SIZE), dtype=torch.uint8)
    for i, (path, _) in enumerate(tqdm(files, desc="reading CIFAR-10", unit="image", disable=not progress)):
        try:
            pixels, _ = decoded(path, path, at_most=SIZE * SIZE)
        except ImageReadError as error:
            raise ValueError(f"cifar10: {path} cannot be read: {error.reason.rstrip('.')}. Restore it.") from error
        if pixels.shape != images.shape[1:]:
            raise ValueError(f"cifar10: {path} has {pixels.shape[2]}×{pixels.shape[1]} pixels; 32×32 were expected.")
        images[i] = pixels
    return images, torch.tensor([label for _, label in files], dtype=torch.int64)


def _read_original(folder: Path, split: str, n: int | None, download: bool) -> tuple[Tensor, Tensor]:
    found = _opened(folder, split)
    if found is None and download:
        found = _fetched(folder, split)
    if found is None:
        raise FileNotFoundError(f"{_lacking(folder)}. {_elsewhere()}.")
    images = torch.from_numpy(np.ascontiguousarray(found.data[:n])).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(found.targets[:n], dtype=torch.int64)


def _opened(folder: Path, split: str) -> CIFAR10 | None:
    """What torchvision reads there, which checks the md5 of every file; None if they are not there, or damaged."""
    from torchvision.datasets import CIFAR10

    try:
        return CIFAR10(str(folder), train=split == "train")
    except RuntimeError:
        return None
    except OSError as error:
        raise OSError(
            error.errno or errno.EIO,
            f"cifar10: {folder / CIFAR10.base_folder} cannot be read ({error.strerror}). Allow it, or ask its owner",
        ) from error


def _fetched(folder: Path, split: str) -> CIFAR10 | None:
    """Bring the original to where torchvision has it, unless the archive is there already, and open it."""
    from torchvision.datasets import CIFAR10

    source = Source("CIFAR-10", CIFAR10.url, md5=CIFAR10.tgz_md5)
    archive, files = folder / CIFAR10.filename, folder / CIFAR10.base_folder
    names = [name for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)] + [CIFAR10.meta["filename"]]
    with ExitStack() as held:
        with _in_words(folder, source):
            held.enter_context(alone(folder / ".locks" / f"{archive.name}.lock", source.title))
        found = _opened(folder, split)  # by now, where the lock had to be waited for
        if found is not None:
            return found
        with _in_words(folder, source):
            if not archive.is_file() or source.hash_of(archive) != source.md5:
                download(source, archive)
            with draft(files) as place, tarfile.open(archive) as packed:
                place.mkdir()
                for name in names:
                    with packed.extractfile(f"{files.name}/{name}") as member:
                        (place / name).write_bytes(member.read())
                shutil.rmtree(files, ignore_errors=True)  # of files that are there, one at least is damaged
        return _opened(folder, split)


@contextmanager
def _in_words(folder: Path, source: Source) -> Iterator[None]:
    """What goes wrong while the original is fetched and stored, as the errors of :class:`Cifar10`."""
    try:
        yield
    except BrokenError as error:
        raise ConnectionError(
            f"{_lacking(folder)}, and the original could not be fetched{error}. {error.advice}. {_elsewhere()}."
        ) from error
    except WrongError as error:
        raise ValueError(
            f"{_lacking(folder)}, and what arrived from {source.url} is not the original: {error}. It was thrown away. "
            f"Try again; if this repeats, a server or a proxy sends something else. {_elsewhere()}."
        ) from error
    except OSError as error:
        number = error.errno or errno.EIO
        raise OSError(
            number,
            f"cifar10: the original cannot be stored in {folder} ({os.strerror(number)}). Make room there or make it "
            f"writable. {_elsewhere()}",
        ) from error


def _lacking(folder: Path) -> str:
    return f"cifar10: {folder} has neither {{train,test}}/CLASS/*.jpg nor torchvision's cifar-10-batches-py"


def _elsewhere() -> str:
    return f"Name a folder that has one of the two with root= (or ${VARIABLE})"
