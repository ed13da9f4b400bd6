"""Image files as a data set: what :func:`ecaviz.images.folder` and :func:`ecaviz.images.photographs` return."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from . import checks

__all__ = ["SUFFIXES", "ImageFiles", "ImageReadError", "decoded", "folder", "to_pil", "to_rgb"]

SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What a file's name ends in for :func:`folder` to take it for an image; capitals do not matter."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, by Pillow's names: what the endings stand for, whichever of them a file's name has. Pillow knows more,
and for one of those, Encapsulated PostScript, it starts an outside program on what the file holds."""

MOST_LENGTHY = 1000
"""An image one side of which is longer than the other by more than this factor is left out: transforms enlarge the
shorter side to hundreds of pixels, and the image would take gigabytes."""


class ImageReadError(ValueError):
    """An image file that cannot be decoded.

    Attributes:
        path: The file.
        reason: What is wrong with it, in words; without the path.
    """

    def __init__(self, path: Path, reason: str):
        super().__init__(f"images: {path} cannot be read: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


class ImageFiles(torch.utils.data.Dataset):
    """Image files with labels. Items are (uint8 tensor 3×H×W, label); made by :func:`folder` and :func:`photographs`.

    Grey, palette, CMYK and 16-bit images become RGB, transparent pixels become white, and the camera's orientation
    (EXIF) is applied. Of an animation the first frame counts.

    Args:
        paths: The files.
        labels: One whole number a file, an index of ``classes``.
        classes: Class names.
        name: What the set is called in tables and messages.
        skipped: Files that were left out from the start, with the reason.

    Attributes:
        paths: The files, in order.
        labels: int64 N.
        classes: Class names, by label.
        name: What the set is called.
        skipped: (path, reason) of each file left out: those known from the start and those that the latest pass through
            :func:`batches` could not read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[int],
        classes: Sequence[str],
        name: str,
        skipped: Sequence[tuple[Path, str]] = (),
    ):
        if len(paths) != len(labels):
            raise ValueError(f"images: one label a file was expected, got {len(labels)} for {len(paths)} files.")
        self.paths = tuple(Path(path) for path in paths)
        self.labels = torch.as_tensor(list(labels), dtype=torch.int64)
        self.classes = tuple(classes)
        self.name = name
        self._left_out = tuple(skipped)
        self.skipped: list[tuple[Path, str]] = list(skipped)

    def __repr__(self) -> str:
        return f"ImageFiles({self.name!r}, {len(self)} images, {len(self.classes)} classes)"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image and label.

        Raises:
            ImageReadError: The file is no image, or is truncated; :func:`batches` skips it and says so.
        """
        return _decode(self.paths[index]), int(self.labels[index])


def folder(path: str | os.PathLike) -> ImageFiles:
    """A folder of photographs.

    How the classes are found:

    1. Subfolders with images in them (at any depth) are the classes. Images beside them belong to none and are skipped.
    2. Otherwise, if every file is named ``SYNSET_name`` (``n01440764_tench.jpg``), each synset is a class.
    3. Otherwise all images are one class, named after the folder.

    Files are taken by the ending of their name (:data:`SUFFIXES`); hidden ones are passed over. The order is
    alphabetical. Links to folders are followed, to each folder once in a class. Nothing is decoded here: a file that
    turns out to be no image, or to have more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``, is skipped later, counted and
    named, as is a folder that cannot be read.

    Args:
        path: The folder; ``~`` is understood.

    Returns:
        A dataset of (uint8 tensor 3×H×W, label).

    Raises:
        FileNotFoundError: There is no such folder.
        NotADirectoryError: It is a file.
        PermissionError: It may not be read.
        ValueError: No image is in it.
    """
    root = checks.expanded(path, "images.folder")
    if not root.exists():
        raise FileNotFoundError(
            f"images.folder: there is no folder {root}. Check the path; relative ones start at {Path.cwd()}."
        )
    if not root.is_dir():
        raise NotADirectoryError(
            f"images.folder: {root} is a file; a folder of images was expected. Name the folder it lies in."
        )
    checks.readable(root, "images.folder")
    name = root.resolve().name or str(root)
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    top = [entry for entry in entries if _is_image(entry)]
    closed: list[tuple[Path, str]] = []
    folders = [entry for entry in entries if entry.is_dir() and not _leads_back(entry)]
    below = {entry.name: _images_below(entry, closed) for entry in folders}
    below = {subfolder: files for subfolder, files in below.items() if files}
    if below:
        classes = tuple(below)
        paths = [file for files in below.values() for file in files]
        labels = [label for label, files in enumerate(below.values()) for _ in files]
        return ImageFiles(
            paths, labels, classes, name, [*((file, "lies beside the class folders") for file in top), *closed]
        )
    if not top:
        other = [entry.name for entry in entries][:5]
        raise ValueError(
            f"images.folder: no image is in {root}. It holds {', '.join(other) + ' …' if other else 'nothing'}; files "
            f"ending in {', '.join(sorted(SUFFIXES))} were expected, in it or in one subfolder a class."
            + "".join(f" {folder}: {reason}." for folder, reason in closed[:5])
        )
    labels, classes = _synset_classes(top) or ([0] * len(top), (name,))
    return ImageFiles(top, labels, classes, name, closed)


def _is_image(path: Path) -> bool:
    """By its name; a link that leads nowhere counts, so that it is skipped and named like any file without image."""
    named = path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    return named and (path.is_file() or (path.is_symlink() and not path.exists()))


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to the one that it lies in, or to one above: it would be walked for ever."""
    return folder.parent.resolve().is_relative_to(folder.resolve())


def _images_below(root: Path, closed: list[tuple[Path, str]]) -> list[Path]:
    """The images of a class, at any depth; folders that cannot be read are added to ``closed``."""
    found, walked = [], {root.resolve(), root.parent.resolve()}

    def is_new(folder: Path) -> bool:
        """Links may lead from one folder to the other and back: each is walked once."""
        real = folder.resolve()
        new = real not in walked and not folder.name.startswith(".") and not _leads_back(folder)
        if new:
            walked.add(real)
        return new

    def keep(error: OSError) -> None:
        closed.append((Path(error.filename), f"the folder cannot be read: {error.strerror}"))

    for place, subfolders, files in os.walk(root, followlinks=True, onerror=keep):
        if not os.access(place, os.X_OK):
            closed.append((Path(place), "the folder may not be entered"))
            subfolders[:] = []
            continue
        subfolders[:] = [name for name in sorted(subfolders) if is_new(Path(place, name))]
        found += [Path(place, name) for name in sorted(files) if _is_image(Path(place, name))]
    return found


def _synset_classes(paths: Sequence[Path]) -> tuple[list[int], tuple[str, ...]] | None:
    """Labels and class names from names like n01440764_great_white_shark_2.jpg; None if one is not like that."""
    matches = [re.fullmatch(r"(n\d{8})_(.*?)(?:_?\d+)?", path.stem) for path in paths]
    if not all(matches):
        return None
    names: dict[str, str] = {}
    for match in matches:
        names.setdefault(match[1], match[2].replace("_", " ").strip() or match[1])
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    order = {synset: label for label, synset in enumerate(sorted(names))}
    classes = tuple(f"{names[synset]} ({synset})" if names[synset] in twice else names[synset] for synset in order)
    return [order[match[1]] for match in matches], classes


def _decode(path: Path) -> Tensor:
    """uint8 3×H×W of a file.

    Raises:
        ImageReadError: It cannot be decoded.
    """
    return decoded(path, path)[0]


def decoded(file: Path | BinaryIO, path: Path, *, at_most: int | None = None) -> tuple[Tensor, str]:
    """An image file, and what was done to it in words.

    Args:
        file: The file, or its bytes.
        path: What it is called in messages.
        at_most: The most pixels; of what has more nothing is decoded. None for what Pillow takes without a warning,
            ``PIL.Image.MAX_IMAGE_PIXELS``: 89 million, 1.4 GB while they are decoded. It can be raised there.

    Returns:
        uint8 3×H×W; "first of 3 frames, from CMYK", empty where nothing was done.

    Raises:
        ImageReadError: It cannot be decoded, or is too large.
    """
    from PIL import Image, UnidentifiedImageError

    most, where = (Image.MAX_IMAGE_PIXELS, " (PIL.Image.MAX_IMAGE_PIXELS)") if at_most is None else (at_most, "")
    try:
        with warnings.catch_warnings():
            # Tested below; and of what is far larger Pillow raises an error of its own.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
        with image:
            if most is not None and image.width * image.height > most:
                raise ImageReadError(
                    path, f"it has {image.width:,} × {image.height:,} pixels; at most {most:,} are taken{where}"
                )
            short, long = sorted(image.size)
            if long > MOST_LENGTHY * max(short, 1):
                raise ImageReadError(
                    path, f"its sides are as 1 to {long // max(short, 1):,}; at most 1 to {MOST_LENGTHY:,} are taken"
                )
            frames = getattr(image, "n_frames", 1)
            done = [f"first of {frames} frames"] if frames > 1 else []
            done += [] if image.mode in ("RGB", "P") else [f"from {image.mode}"]
            return torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1).contiguous(), ", ".join(done)
    except UnidentifiedImageError:
        size = file.stat().st_size if isinstance(file, Path) else file.seek(0, os.SEEK_END)
        known = ", ".join(FORMATS)
        raise ImageReadError(
            path, f"none of the formats {known} ({size} bytes)" if size else "the file is empty"
        ) from None
    except (MemoryError, ImageReadError):
        raise
    except (
        Exception
    ) as error:  # of a damaged file, Pillow raises nearly anything: OSError, SyntaxError, struct.error, …
        # Of a missing file the system's words alone: Pillow may name where a link leads to.
        words = getattr(error, "strerror", None) or str(error).replace(str(path), path.name)
        raise ImageReadError(path, words or type(error).__name__) from error


def to_rgb(image):
    """A PIL image of any mode → a PIL image in RGB, upright, transparent pixels white."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("a floating-point image, whose range of values is not known")
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion would cut everything above 255 off
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_pil(image: Tensor):
    """A uint8 tensor 3×H×W → a PIL image."""
    from PIL import Image

    return Image.fromarray(image.cpu().permute(1, 2, 0).numpy())
