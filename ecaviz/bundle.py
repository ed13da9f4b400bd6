"""The bundled models: their names, their files, and the manifest that vouches for them.

A checkpoint is one safetensors file; its metadata say how to build the network. ``data/checkpoints/manifest.csv`` has
one row a file, with the accuracy on the held-out split and the sha256 that :func:`read` checks.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from torch import Tensor, nn

from . import checks, recorded_files, tensor_files
from .networks import Architecture
from .recorded_files import alone
from .whole_files import replace_file

__all__ = ["BUNDLE", "SURVEY", "ManifestRow", "alone", "data_folder", "manifest", "read", "replace_file", "write"]

FORMAT = "1"

CIFAR10 = {"classes": 10, "blocks": (2, 2, 2), "planes": (16, 32, 64), "stem_strides": (2, 1)}
"""What the networks for CIFAR-10 have in common: for 32×32 images three stages of 16², 8² and 4² positions."""

BUNDLE: dict[str, Architecture] = {
    "shapes-none": Architecture("none"),
    **{f"shapes-se-r{r}": Architecture("se", {"reduction": r}) for r in (2, 4, 8, 16, 32)},
    **{f"shapes-eca-k{k}": Architecture("eca", {"kernel_size": k}) for k in (1, 3, 5, 7, 9)},
    "shapes-eca-adaptive": Architecture("eca", {}),
    "shapes-eca-ns": Architecture("eca-ns", {"kernel_size": 3}),
    **{
        f"shapes-{name}": Architecture(name) for name in ("se-var1", "se-var2", "se-var3", "se-gc1", "se-gc2", "se-gc3")
    },
    "shapes-cbam": Architecture("cbam", {"reduction": 16}),
    "shapes-gsop": Architecture("gsop", {"reduced": 32}),
    "shapes-ge-theta-minus": Architecture("ge-theta-minus"),
    "shapes-ge-theta": Architecture("ge-theta", {"size": (16, 8, 4, 2)}),
    "shapes-ge-theta-plus": Architecture("ge-theta-plus", {"size": (16, 8, 4, 2), "reduction": 16}),
    "shapes-ge-theta-e2": Architecture("ge-theta", {"extent": 2}),
    "cifar10-none": Architecture("none", **CIFAR10),
    **{f"cifar10-se-r{r}": Architecture("se", {"reduction": r}, **CIFAR10) for r in (4, 16)},
    **{f"cifar10-eca-k{k}": Architecture("eca", {"kernel_size": k}, **CIFAR10) for k in (1, 3, 5, 7, 9)},
    "cifar10-eca-adaptive": Architecture("eca", {}, **CIFAR10),
    **{f"cifar10-{name}": Architecture(name, **CIFAR10) for name in ("se-var1", "se-var2", "se-var3")},
}
"""What each bundled name is built as."""

SURVEY: tuple[str, ...] = (
    "shapes-none",
    "shapes-se-r16",
    "shapes-se-var1",
    "shapes-se-var2",
    "shapes-se-var3",
    "shapes-se-gc1",
    "shapes-se-gc2",
    "shapes-se-gc3",
    "shapes-eca-ns",
    "shapes-eca-k3",
    "shapes-cbam",
    "shapes-gsop",
    "shapes-ge-theta-minus",
    "shapes-ge-theta",
    "shapes-ge-theta-plus",
)
"""One model of each module, with the settings of the ECA paper's Table 2 (r = 16, k = 3): those with several seeds."""


@dataclass(frozen=True)
class ManifestRow:
    """One bundled checkpoint.

    Attributes:
        name: What ``load`` knows it by.
        data: What it was trained on: "shapes", "cifar10", or "cifar10-jpeg" (a copy with losses).
        family: Family of the attention module.
        setting: ``r=4``, ``k=3``, ``k=adaptive``, ``c=32``, ``e=2``, or empty.
        seed: Seed of initialisation and order.
        epochs: Passes over the training images.
        train_images: Number of training images.
        seconds: Wall-clock seconds of training.
        hardware: What it was trained on.
        test_images: Number of held-out images.
        accuracy: Share of the held-out images whose class came first, 0…1.
        parameters: Number of parameters of the network.
        sha256: Of the file; two, with a space between them, where a stop came while it was replaced.
    """

    name: str
    data: str
    family: str
    setting: str
    seed: int
    epochs: int
    train_images: int
    seconds: float
    hardware: str
    test_images: int
    accuracy: float
    parameters: int
    sha256: str


def data_folder() -> Path:
    """The project's ``data`` folder: that of the checkout, or ``$ECAVIZ_DATA``.

    Raises:
        FileNotFoundError: There is none; ecaviz is meant to be used from a checkout.
    """
    chosen = os.environ.get("ECAVIZ_DATA")
    folder = Path(chosen) if chosen else Path(__file__).resolve().parent.parent / "data"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"ecaviz: no data folder at {folder}. The bundled models live in the folder data/ of the checkout: "
            f"install with `pip install -e .` from a clone, or set ECAVIZ_DATA to that folder."
        )
    return folder


def _checkpoints(folder: Path | None) -> Path:
    return data_folder() / "checkpoints" if folder is None else Path(folder)


def manifest(folder: Path | None = None) -> dict[str, ManifestRow]:
    """The rows of ``manifest.csv`` by name; empty if there is none.

    Args:
        folder: Where the checkpoints lie; None for the bundled ones.

    Raises:
        PermissionError: The file may not be read.
        ValueError: The file was truncated or changed.
    """
    path = _checkpoints(folder) / "manifest.csv"
    checks.readable(path, "ecaviz")
    if not path.exists():
        return {}
    restore = "Restore it with `git checkout -- data/checkpoints`."
    kinds = {"int": int, "float": float, "str": str}
    rows = {}
    columns = [f.name for f in fields(ManifestRow)]
    for number, entry in enumerate(recorded_files.rows(path, "ecaviz", restore, columns), 2):
        try:
            row = ManifestRow(**{f.name: kinds[str(f.type)](entry[f.name]) for f in fields(ManifestRow)})
            if not re.fullmatch(r"\w[\w.+-]*", row.name):  # it becomes the name of a file
                raise ValueError(row.name)
        except ValueError:
            raise ValueError(
                f"ecaviz: {path} was truncated or changed: line {number} is no row of the manifest. {restore}"
            ) from None
        rows[row.name] = row
    return rows


def setting(architecture: Architecture) -> str:
    """``r=4``, ``k=3``, ``k=adaptive``, ``c=32``, ``e=2``, or nothing: what tells members of a family apart."""
    options = architecture.options
    letters = {"reduction": "r", "kernel_size": "k", "reduced": "c", "extent": "e"}
    if architecture.attention == "eca":
        return f"k={options.get('kernel_size', 'adaptive')}"
    return next((f"{letter}={options[option]}" for option, letter in letters.items() if option in options), "")


def write(
    name: str,
    net: nn.Module,
    architecture: Architecture,
    classes: tuple[str, ...],
    row: dict,
    folder: Path | None = None,
) -> ManifestRow:
    """Save a network and its manifest row; both files are replaced whole or not at all.

    Whenever it is stopped, the checkpoint is one that the manifest vouches for: meanwhile its row has both sums.

    Args:
        name: Name of the model; the file is ``name.safetensors``.
        net: The network.
        architecture: How to build it again.
        classes: Class names, by output.
        row: The other fields of :class:`ManifestRow`: data, seed, epochs, train_images, seconds, hardware, test_images,
            accuracy.
        folder: Where to; None for the bundled checkpoints.

    Raises:
        ValueError: The network has weights that are NaN or infinite; what was there stays.
        OSError: The folder cannot be written.
    """
    folder = _checkpoints(folder)
    if bad := tensor_files.not_finite(net.state_dict()):
        raise ValueError(
            f"train: {name} has weights that are NaN or infinite, in {bad}, and is not kept: the training diverged. "
            f"Lower its learning_rate. What {folder} has is untouched."
        )
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "format": FORMAT,
        "architecture": json.dumps(architecture.to_dict()),
        "classes": json.dumps(classes),
        "data": row["data"],
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
    content = tensor_files.content(tensors, about | tensor_files.digest(tensors, about))
    entry = ManifestRow(
        name=name,
        family=architecture.attention,
        setting=setting(architecture),
        parameters=sum(p.numel() for p in net.parameters()),
        sha256=hashlib.sha256(content).hexdigest(),
        **row,
    )
    with alone(folder):
        before = manifest(folder).get(name)
        if before is not None:
            _add_row(folder, replace(before, sha256=f"{before.sha256} {entry.sha256}"))
        replace_file(folder / f"{name}.safetensors", content)
        _add_row(folder, entry)
    return entry


def _add_row(folder: Path, entry: ManifestRow) -> None:
    rows = manifest(folder) | {entry.name: entry}
    order = {known: i for i, known in enumerate(BUNDLE)}
    lines = sorted(rows.values(), key=lambda r: (order.get(r.name, len(order)), r.name))
    header = [f.name for f in fields(ManifestRow)]
    text = [header, *([str(v) for v in asdict(r).values()] for r in lines)]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(text)
    recorded_files.write(folder / "manifest.csv", buffer.getvalue().encode())


def read(name: str, folder: Path | None = None) -> tuple[Architecture, dict[str, Tensor], tuple[str, ...], ManifestRow]:
    """Read a checkpoint and check it against the manifest.

    Args:
        name: Name of the model.
        folder: Where the checkpoints lie; None for the bundled ones.

    Returns:
        Architecture, state dict, class names, manifest row.

    Raises:
        FileNotFoundError: The manifest or the file lacks it.
        PermissionError: The file may not be read.
        ValueError: The file is not the one the manifest vouches for, or has another format version.
    """
    from safetensors import safe_open
    from safetensors.torch import load

    folder = _checkpoints(folder)
    row = manifest(folder).get(name)
    path = folder / f"{name}.safetensors"
    if row is None or not path.is_file():
        raise FileNotFoundError(
            f"ecaviz: the bundled model {name!r} is not in {folder} (expected {path.name} and its row in "
            f"manifest.csv). "
            f"Restore the folder with `git checkout -- data/checkpoints`, or train it: `python -m ecaviz train {name}`."
        )
    checks.readable(path, "ecaviz")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found not in row.sha256.split():
        raise ValueError(
            f"ecaviz: {path} was truncated or changed: its sha256 is {found[:12]}… ({len(content)} bytes), the "
            f"manifest says {row.sha256[:12]}…. Restore it with `git checkout -- data/checkpoints`."
        )
    with safe_open(path, framework="pt") as file:
        about = described(file.metadata() or {}, path)
    if about is None:
        raise ValueError(f"ecaviz: the header of {path} does not say how to build its network.")
    architecture, classes, _ = about
    return architecture, load(content), classes, row


def described(metadata: dict[str, str], path: Path) -> tuple[Architecture, tuple[str, ...], str] | None:
    """What the header of a checkpoint written by :func:`write` says of its network; None for other files.

    Args:
        metadata: The strings in the header of a safetensors file.
        path: The file, for messages.

    Returns:
        Architecture, class names, and what the network was trained on, as in :class:`ManifestRow`.

    Raises:
        ValueError: Another format version, or a header that says nothing sensible.
    """
    if not {"architecture", "classes"} <= metadata.keys():
        return None
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"ecaviz: {path} has format {metadata.get('format')!r}; this version of ecaviz reads {FORMAT!r}."
        )
    try:
        architecture = Architecture.from_dict(json.loads(metadata["architecture"]))
        classes = tuple(json.loads(metadata["classes"]))
        if len(classes) != architecture.classes or not all(isinstance(name, str) for name in classes):
            raise ValueError(f"{len(classes)} class names for {architecture.classes} outputs")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"ecaviz: the header of {path} does not say how to build its network ({type(error).__name__}: {error})."
        ) from error
    return architecture, classes, metadata.get("data", "shapes")
