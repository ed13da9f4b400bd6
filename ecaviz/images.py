"""Sets of images; none but CIFAR-10 needs a download.

:func:`shapes` is drawn, with known factors; :func:`photographs` are the real photographs inside scikit-image;
:func:`folder` takes the user's own files, :func:`cifar10` a copy of CIFAR-10 or torchvision's download. Their items are
``(uint8 tensor 3×H×W, label)`` and they have ``classes`` (names, by label) and ``labels`` (int64). :func:`batches`
turns them, and whatever else ``images`` may be, into input for a network.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .batches import Batches, batches, describe
from .cifar10 import Cifar10, is_here
from .image_files import SUFFIXES, ImageFiles, ImageReadError, folder
from .shapes import Shapes
from .training_sets import of

__all__ = [
    "SUFFIXES",
    "Batches",
    "Cifar10",
    "ImageFiles",
    "ImageReadError",
    "batches",
    "cifar10",
    "describe",
    "folder",
    "photographs",
    "shapes",
    "suited",
]

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


def shapes(split: str = "test", n: int = 1200, seed: int = 0) -> Shapes:
    """The procedural set: one drawn object an image, twelve classes, all generating factors known.

    Args:
        split: "train", "validation" or "test".
        n: Number of images.
        seed: Another seed is another set of images from the same distribution.

    Returns:
        A dataset of (uint8 tensor 3×64×64, label); see :class:`ecaviz.shapes.Shapes`.

    Raises:
        ValueError: Unknown split, or n or seed negative or above 2³² − 1.
    """
    return Shapes(split, n, seed)


def cifar10(
    split: str = "test", root: str | os.PathLike | None = None, n: int | None = None, *, download: bool = True
) -> Cifar10:
    """CIFAR-10: the original by torchvision, or a folder of JPEGs, which are a copy with losses.

    Args:
        split: "train" or "test".
        root: A folder with ``{train,test}/CLASS/*.jpg``, or where torchvision has, or shall put, the original files;
            None for ``$ECAVIZ_CIFAR10``, else ``~/.cache/ecaviz/cifar10``.
        n: The first n images; None for all.
        download: Whether the original (170 MB) may be fetched, to where torchvision has it, if the folder has neither.

    Returns:
        A dataset of (uint8 tensor 3×32×32, label); its ``data`` is "cifar10" or "cifar10-jpeg".

    Raises:
        ValueError: Unknown split, negative n, a JPEG that cannot be read, or what was fetched is another file.
        FileNotFoundError: There is no such folder, or it has neither and there is no download.
        ConnectionError: The original could not be fetched.
        OSError: The folder cannot be read, or not be written.
    """
    return Cifar10(split, root, n, download=download)


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

    specs = filter(None, map(importlib.util.find_spec, ("skimage", "_skimage2")))  # from 0.27 on they lie in the second
    places = [place for spec in specs for place in spec.submodule_search_locations or []]
    found = [(name, Path(place) / "data" / file) for name, file in PHOTOGRAPHS.items() for place in places]
    there = {name: path for name, path in found if path.is_file()}
    if not there:
        raise FileNotFoundError(
            "images.photographs: they are read from inside scikit-image, and "
            + ("its data folder has none of them" if places else "it is not installed")
            + ". Install it (`pip install scikit-image`), or give a folder of your own: images.folder(path)."
        )
    lacking = {name: path for name, path in found if name not in there}
    missing = [(path, "not in the installed scikit-image") for path in lacking.values()]
    return ImageFiles(list(there.values()), range(len(there)), tuple(there), "scikit-image photographs", missing)


def suited(model: Any, path: str | os.PathLike | None = None, n: int = 240) -> Shapes | ImageFiles | Cifar10:
    """Images to look at a model with: your folder, else what suits the model and needs no download.

    Args:
        model: What :func:`ecaviz.load` returns.
        path: A folder of photographs; None for the default.
        n: How many images of the procedural set or of CIFAR-10.

    Returns:
        The folder if there is one; for a bundled model the first n of its set's held-out split, where CIFAR-10 is on
        this machine; else the photographs inside scikit-image.

    Raises:
        FileNotFoundError: There is no such folder, or scikit-image has no photographs.
        ValueError: The folder has no images.
    """
    if path is not None:
        return folder(path)
    if getattr(model, "source", "") != "bundled":
        return photographs()
    if of(getattr(model, "name", "")).name == "shapes":
        return shapes("test", n)
    return cifar10("test", n=n, download=False) if is_here() else photographs()
