"""Sets of images, and the one place that turns whatever a user calls ``images`` into batches for a network.

Three sets need no download: :func:`shapes` (drawn, with known factors), :func:`photographs` (the real photographs
inside scikit-image) and :func:`folder` (the user's own files). Their items are ``(uint8 tensor 3×H×W, label)`` and they
have ``classes`` (names, by label) and ``labels`` (int64).

Everything in ecaviz that takes ``images`` takes them through :func:`batches`, so the contract is the same everywhere:
what is still an image (uint8 or PIL) goes through the model's transform; what is a float tensor already is used as it
is.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .shapes import Shapes

__all__ = [
    "SUFFIXES",
    "Batches",
    "ImageFiles",
    "ImageReadError",
    "batches",
    "describe",
    "folder",
    "photographs",
    "shapes",
]

SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What a file's name ends in for :func:`folder` to take it for an image; capitals do not matter."""

PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "clock": "clock_motion.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
"""The photographs of :func:`photographs`: name → file in scikit-image's data folder."""

_EXPECTED = (
    "Expected one of: (a) a dataset or a folder of uint8 tensors 3×H×W or PIL images, with or without labels: the "
    "model's transform is applied; (b) a float tensor N×3×H×W, or a DataLoader that yields one, alone or with labels: "
    "used as it is; (c) a uint8 tensor N×3×H×W: transformed."
)
_HELD_BYTES = 64 * 2**20  # of untransformed images, before they are transformed even if the batch is not full
_NAMED = 10  # skipped images that a warning names


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


def shapes(split: str = "test", n: int = 1200, seed: int = 0) -> Shapes:
    """The procedural set: one drawn object an image, twelve classes, all generating factors known.

    Args:
        split: "train", "validation" or "test".
        n: Number of images.
        seed: Another seed is another set of images from the same distribution.

    Returns:
        A dataset of (uint8 tensor 3×64×64, label); see :class:`ecaviz.shapes.Shapes`.

    Raises:
        ValueError: Unknown split, negative n, or negative seed.
    """
    return Shapes(split, n, seed)


def folder(path: str | os.PathLike) -> ImageFiles:
    """A folder of photographs.

    How the classes are found:

    1. Subfolders with images in them (at any depth) are the classes. Images beside them belong to none and are skipped.
    2. Otherwise, if every file is named ``SYNSET_name`` (``n01440764_tench.jpg``), each synset is a class.
    3. Otherwise all images are one class, named after the folder.

    Files are taken by the ending of their name (:data:`SUFFIXES`); hidden ones are passed over. The order is
    alphabetical. Nothing is decoded here: a file that turns out to be no image is skipped later, counted and named.

    Args:
        path: The folder; ``~`` is understood.

    Returns:
        A dataset of (uint8 tensor 3×H×W, label).

    Raises:
        FileNotFoundError: There is no such folder.
        NotADirectoryError: It is a file.
        ValueError: No image is in it.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise FileNotFoundError(
            f"images.folder: there is no folder {root}. Check the path; relative ones start at {Path.cwd()}."
        )
    if not root.is_dir():
        raise NotADirectoryError(
            f"images.folder: {root} is a file; a folder of images was expected. Name the folder it lies in."
        )
    name = root.resolve().name or str(root)
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    top = [entry for entry in entries if _is_image(entry)]
    below = {entry.name: _images_below(entry) for entry in entries if entry.is_dir()}
    below = {subfolder: files for subfolder, files in below.items() if files}
    if below:
        classes = tuple(below)
        paths = [file for files in below.values() for file in files]
        labels = [label for label, files in enumerate(below.values()) for _ in files]
        return ImageFiles(paths, labels, classes, name, [(file, "lies beside the class folders") for file in top])
    if not top:
        other = [entry.name for entry in entries][:5]
        raise ValueError(
            f"images.folder: no image is in {root}. It holds {', '.join(other) + ' …' if other else 'nothing'}; files "
            f"ending in {', '.join(sorted(SUFFIXES))} were expected, in it or in one subfolder a class."
        )
    labels, classes = _synset_classes(top) or ([0] * len(top), (name,))
    return ImageFiles(top, labels, classes, name)


def photographs() -> ImageFiles:
    """The real photographs that ship inside scikit-image: default pictures for ImageNet models, without a download.

    Eight photographs, each a class of its own. Sources and licences, as scikit-image states them:

    - astronaut: Eileen Collins; NASA Great Images database; public domain.
    - camera: a cameraman, grey; Lav Varshney; CC0.
    - chelsea: a cat; Stéfan van der Walt; CC0.
    - clock: a wall clock, blurred by motion, grey; Stéfan van der Walt; public domain.
    - coffee: a cup of coffee; Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0.
    - coins: Greek coins from Pompeii, grey; Brooklyn Museum Collection; no known copyright restrictions.
    - motorcycle: left picture of a stereo pair; Middlebury 2014 stereo benchmark (Scharstein et al., GCPR 2014); no
      licence is stated.
    - rocket: launch of DSCOVR on a Falcon 9; SpaceX; public domain.

    Returns:
        A dataset of (uint8 tensor 3×H×W, label); ``classes`` are the names above. A photograph that the installed
        version of scikit-image lacks is named in ``skipped``.

    Raises:
        FileNotFoundError: scikit-image is not installed, or has none of them.
    """
    import importlib.util

    spec = importlib.util.find_spec("skimage")  # finds without importing
    places = list(spec.submodule_search_locations or []) if spec else []
    files = {name: Path(place) / "data" / file for place in places for name, file in PHOTOGRAPHS.items()}
    there = {name: path for name, path in files.items() if path.is_file()}
    if not there:
        raise FileNotFoundError(
            "images.photographs: they are read from inside scikit-image, and "
            + ("its data folder has none of them" if places else "it is not installed")
            + ". Install it (`pip install scikit-image`), or give a folder of your own: images.folder(path)."
        )
    missing = [(path, "not in the installed scikit-image") for name, path in files.items() if name not in there]
    return ImageFiles(list(there.values()), range(len(there)), tuple(there), "scikit-image photographs", missing)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _images_below(root: Path) -> list[Path]:
    found = []
    for place, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
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
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            image = _rgb(file)
    except UnidentifiedImageError:
        size = path.stat().st_size
        raise ImageReadError(
            path, f"no image format is recognised ({size} bytes)" if size else "the file is empty"
        ) from None
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # of a damaged file, Pillow raises nearly anything: OSError, SyntaxError, struct.error, …
        raise ImageReadError(path, str(error).replace(str(path), path.name) or type(error).__name__) from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _rgb(image):
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

    def __init__(self, images, transform: Callable | None, batch_size: int, device: torch.device | str):
        if isinstance(batch_size, bool) or int(batch_size) != batch_size or batch_size < 1:
            raise ValueError(f"images: batch_size must be a whole number of at least 1, got {batch_size!r}.")
        self._images = folder(images) if isinstance(images, str | os.PathLike) else images
        self._kind = _kind(self._images)
        if transform is None and self._kind in ("dataset", "uint8 tensor"):
            raise ValueError(
                f"images: {_what(self._images)} needs a transform from uint8 images to the network's input, and the "
                f"model has none. Give one: ecaviz.load(net, transform=…); or pass a float tensor N×3×H×W, prepared by "
                f"you."
            )
        self._transform, self._batch_size, self._device = transform, int(batch_size), device
        self.total = _length(self._images.dataset if self._kind == "loader" else self._images)
        if self.total == 0:
            raise ValueError(f"images: there is no image in {_what(self._images)}. {_EXPECTED}")
        classes = _attribute(self._images, "classes")
        self.classes: tuple[str, ...] | None = tuple(str(name) for name in classes) if classes is not None else None
        self._together: bool | None = None  # whether the transform takes batches; None until it was tried
        self.description = describe(self._images)
        self.passed = 0
        self.skipped: list[tuple[Path, str]] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        return ((x, labels) for x, labels, _ in self.indexed())

    def indexed(self) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """The same with a third: int64 N on the CPU, the position of each image in the set (files left out count).

        Raises:
            ValueError: An item is none of what :func:`batches` takes, or no image could be read.

        Warns:
            UserWarning: Once, at the end of the pass: how many files were skipped, which, and why.
        """
        self.skipped, self.passed = list(getattr(self._images, "_left_out", ())), 0
        go = {"loader": self._from_loader, "dataset": self._from_dataset}.get(self._kind, self._from_tensor)
        seen = 0
        for x, labels, positions in go():
            seen += len(x)
            self.passed = max(self.passed, int(positions[-1]) + 1)
            yield x.to(self._device), None if labels is None else labels.to(self._device), positions
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

    def _from_tensor(self):
        for start in range(0, len(self._images), self._batch_size):
            x = self._images[start : start + self._batch_size]
            if self._kind == "uint8 tensor":
                x = self._stack(self._transformed(list(x)))
            yield x, None, torch.arange(start, start + len(x))

    def _from_loader(self):
        start = 0
        for batch in self._images:
            x, labels = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, None)
            if isinstance(x, tuple | list) and len(x) == 1:  # TensorDataset(x) gives lists of one
                x = x[0]
            if not _is_batch(x) or not x.is_floating_point():
                raise ValueError(f"images: a DataLoader that yields {_what(x)}. {_EXPECTED}{_hint(x, loader=True)}")
            if len(x):
                yield x, _whole(labels, len(x)), torch.arange(start, start + len(x))
            start += len(x)

    def _from_dataset(self):
        """Read, transform at once or in runs of equal size, hand over when a batch is full."""
        done: list[Tensor] = []  # transformed
        held: list[Tensor] = []  # uint8, of one size, waiting to be transformed together
        labels: list[int | None] = []
        positions: list[int] = []
        for position, image, label in self._items():
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

    def _items(self) -> Iterator[tuple[int, Any, int | None]]:
        """(position, image, label) of each item that can be read."""
        if isinstance(self._images, torch.utils.data.IterableDataset):
            items = enumerate(self._images)
        else:
            items = ((i, _get(self._images, i)) for i in range(len(self._images)))
        for position, item in items:
            self.passed = position + 1
            if isinstance(item, ImageReadError):
                self.skipped.append((item.path, item.reason))
                continue
            image, label = (item[0], item[1]) if isinstance(item, tuple | list) and len(item) > 1 else (item, None)
            if isinstance(image, tuple | list) and len(image) == 1:
                image = image[0]
            if _is_pil(image):
                image = _rgb(image)
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
                results = [self._transform(image) for image in images]
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
    device: torch.device | str = "cpu",
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
        device: Where the batches are put.

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
