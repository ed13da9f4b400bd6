"""Safetensors files, read and written whole: tensors and the strings of the header, checked where there is a digest."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, uint8

from .whole_files import draft

__all__ = ["content", "digest", "not_finite", "read", "write"]

_DIGEST = "ecaviz_digest"
_LENGTH = 8  # bytes in front of the header, that say how long it is


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors in a file, on the CPU, and the strings of its header.

    Args:
        path: A file that is there and may be read.

    Raises:
        ValueError: It is no safetensors file, or damaged; the message says what is wrong.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
            about = dict(file.metadata() or {})
    except (SafetensorError, json.JSONDecodeError, OSError, TypeError, KeyError, RuntimeError) as error:
        raise ValueError(f"safetensors says: {str(error).splitlines()[0][:200]}") from error
    kept = about.pop(_DIGEST, None)  # files of others, and of before, have none
    if kept is not None and kept != digest(tensors, about)[_DIGEST]:
        raise ValueError(
            f"its content is not what was written: the digest in its header is of another; if it was changed on "
            f"purpose, leave {_DIGEST} out of the header"
        )
    return tensors, about


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file, whole or not at all; see :func:`ecaviz.whole_files.draft`.

    Args:
        path: The file; its folder is there.
        tensors: Tensors by name.
        metadata: The strings of its header.

    Raises:
        OSError: It cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with draft(path) as place:
        try:
            save_file(dict(tensors), place, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
        with place.open("r+b") as file:
            size = int.from_bytes(file.read(_LENGTH), "little")
            header = _in_order(file.read(size))
            file.seek(_LENGTH)
            file.write(header)
        usual = place.with_name("usual")
        usual.touch()  # safetensors writes for the owner alone; others may read what else is written
        place.chmod(usual.stat().st_mode & 0o777)


def content(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """What :func:`write` writes: of the same tensors and strings the same bytes.

    Args:
        tensors: Tensors by name, on the CPU.
        metadata: The strings of the header.
    """
    from safetensors.torch import save

    whole = save(dict(tensors), metadata=dict(metadata))
    start = _LENGTH + int.from_bytes(whole[:_LENGTH], "little")
    return whole[:_LENGTH] + _in_order(whole[_LENGTH:start]) + whole[start:]


def _in_order(header: bytes) -> bytes:
    """A header whose strings are sorted by name: safetensors writes them in another order each time."""
    parts = json.loads(header)
    if "__metadata__" in parts:
        parts["__metadata__"] = dict(sorted(parts["__metadata__"].items()))
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) > len(header):
        raise AssertionError("the header of a safetensors file is longer in order than it was")
    return text.ljust(len(header))  # where the tensors begin stays as it is


def digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> dict[str, str]:
    """What :func:`read` checks: the strings to add to a header, since safetensors itself has no checksum.

    Args:
        tensors: What is saved, on the CPU.
        about: The other strings of the header.
    """
    found = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.contiguous().reshape(-1).view(uint8).numpy())
    return {_DIGEST: found.hexdigest()}


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Which tensors have numbers that are NaN or infinite: "a, b, c and 4 more"; empty if none has.

    Args:
        tensors: Tensors by name, on any device.
    """
    bad = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    return ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
