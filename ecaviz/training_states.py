"""The files that a training goes on from: the whole state of a run, written after every epoch."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import checks, tensor_files
from .recipes import Recipe
from .whole_files import folder_for, replace_file

__all__ = ["check", "damaged", "fingerprint", "read", "write"]


def write(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a run, whole or not at all."""
    folder_for(path)
    content = io.BytesIO()
    torch.save(state, content)  # by itself it says of a full disk only that a position was unexpected
    replace_file(path, content.getvalue())


def read(path: Path) -> dict[str, Any]:
    """What :func:`write` wrote.

    Raises:
        PermissionError: It may not be read.
        ValueError: It is a folder, or damaged.
    """
    checks.file(path, "train", "the state of a run", "")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch itself does not look at the checksums
        if broken is not None:
            raise ValueError(f"the checksum of {broken} inside it is wrong")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict) or "identity" not in saved:
            raise ValueError("it does not say what was trained")
    except (MemoryError, torch.OutOfMemoryError):
        raise  # that is no fault of the file
    except Exception as error:  # of a damaged file torch and zipfile raise nearly anything
        raise damaged(path, error) from error
    return saved


def check(saved: dict[str, Any], net: nn.Module, recipe: Recipe) -> None:
    """Raise a ValueError if a state cannot be gone on from; of one that lacks something, a KeyError."""
    own, there = net.state_dict(), saved["net"]
    if {k: (v.shape, v.dtype) for k, v in own.items()} != {k: (v.shape, v.dtype) for k, v in there.items()}:
        raise ValueError("its weights are of another network")
    if tensor_files.not_finite(there):
        raise ValueError("it has weights that are NaN or infinite: the training diverged, or something changed it")
    epoch, history = saved["epoch"], saved["history"]
    if not isinstance(epoch, int) or not 0 < epoch <= recipe.epochs or len(history) != epoch:
        raise ValueError(f"it says epoch {epoch!r} of {recipe.epochs}, and does not have the history of as many")
    if not isinstance(saved["seconds"], float):
        raise ValueError("it does not say how long it was trained")


def damaged(state: Path, error: Exception) -> ValueError:
    """The error for a state that cannot be gone on from."""
    return ValueError(f"train: {state} is damaged ({str(error)[:300]}). Delete it to start afresh.")


def fingerprint(images: Tensor, labels: Tensor) -> str:
    """Sixteen hex digits that stand for a set of images and their order."""
    digest = hashlib.blake2b(digest_size=8)
    for one in (images, labels):
        digest.update(one.cpu().contiguous().numpy())
    return digest.hexdigest()
