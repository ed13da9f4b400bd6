"""CIFAR-10: from the original files, by torchvision, or from a folder of JPEGs.

A folder ``{train,test}/CLASS/NNNN.jpg`` is a copy with losses. What is made from it is not what is made from the
original; :attr:`Cifar10.data` says which of the two a set is, and every table of results carries it.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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
        download: Whether torchvision may fetch the original (170 MB) if the folder has neither.
        progress: Whether to show a progress bar.

    Attributes:
        classes: The ten class names, by label.
        images: uint8 n×3×32×32. Of JPEGs the classes take turns, by file name; of the original it is its own order.
        labels: int64 n.
        data: "cifar10", or "cifar10-jpeg" for the copy with losses.

    Raises:
        ValueError: Unknown split, negative n, or a JPEG that cannot be read.
        FileNotFoundError: There is no such folder; it has neither and there is no download; a class without images.
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
    return Path(root or os.environ.get(VARIABLE) or "~/.cache/ecaviz/cifar10").expanduser()


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
    from PIL import Image
    from tqdm.auto import tqdm

    by_class = [sorted((folder / name).glob("*.jpg")) for name in CLASSES]
    empty = [name for name, paths in zip(CLASSES, by_class, strict=True) if not paths]
    if empty:
        raise FileNotFoundError(f"cifar10: {folder} has no .jpg of the class {', '.join(empty)}.")
    longest = max(map(len, by_class))
    files = [(paths[i], label) for i in range(longest) for label, paths in enumerate(by_class) if i < len(paths)][:n]
    images = np.empty((len(files), SIZE, SIZE, 3), dtype=np.uint8)
    for i, (path, _) in enumerate(tqdm(files, desc="reading CIFAR-10", unit="image", disable=not progress)):
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"cifar10: {path} cannot be read: {error}.") from error
        if pixels.shape != (SIZE, SIZE, 3):
            raise ValueError(f"cifar10: {path} has {pixels.shape[1]}×{pixels.shape[0]} pixels; 32×32 were expected.")
        images[i] = pixels
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels


def _read_original(folder: Path, split: str, n: int | None, download: bool) -> tuple[Tensor, Tensor]:
    from torchvision.datasets import CIFAR10

    try:
        found = CIFAR10(str(folder), train=split == "train", download=download)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"cifar10: {folder} has neither {{train,test}}/CLASS/*.jpg nor torchvision's cifar-10-batches-py"
            + (f", and fetching it failed ({error})" if download else "")
            + f". Name a folder that has one of the two with root= (or ${VARIABLE})."
        ) from error
    images = torch.from_numpy(np.ascontiguousarray(found.data[:n])).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(found.targets[:n], dtype=torch.int64)
