"""Safetensors files, read whole: their tensors and the strings of their header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, uint8

__all__ = ["digest", "read"]


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors in a file, on the CPU, and the strings of its header.

    Args:
        path: A file that is there and may be read.

    Raises:
        ValueError: It is no safetensors file, or damaged; the message is what safetensors says.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, OSError, TypeError, KeyError, RuntimeError) as error:
        raise ValueError(str(error).split("\n")[0][:200]) from error


def digest(tensors: Mapping[str, Tensor], words: str) -> str:
    """Thirty-two hex digits that stand for tensors by name, to the bit, and for words: safetensors has no checksum.

    Args:
        tensors: Tensors on the CPU.
        words: What else is kept beside them.
    """
    found = hashlib.blake2b(words.encode(), digest_size=16)
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.contiguous().reshape(-1).view(uint8).numpy())
    return found.hexdigest()
