"""Ways to break a file, and how often; for the tests beside it."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["flipped", "open_folder", "seeds", "sixteenths", "someone_else"]

NOBODY = 65534


def sixteenths(content: bytes) -> Iterator[bytes]:
    """The content cut off at every sixteenth of its length, and one byte short; not the empty one."""
    for length in sorted({*(len(content) * i // 16 for i in range(1, 16)), len(content) - 1} - {0}):
        yield content[:length]


def flipped(content: bytes, seed: int) -> bytes:
    """The content with one bit, one byte or a run of bytes changed; half the time within the first 4 KiB."""
    chance = random.Random(seed)
    end = min(len(content), 4096) if seed % 2 else len(content)
    at, changed = chance.randrange(end), bytearray(content)
    how = chance.choice(("bit", "byte", "run"))
    for place in range(at, min(at + (16 if how == "run" else 1), len(content))):
        changed[place] ^= 1 << chance.randrange(8) if how == "bit" else chance.randrange(1, 256)
    return bytes(changed)


def seeds(quick: int, all_: int) -> list:
    """Parameters for ``@pytest.mark.parametrize("seeds", …)``: a few for `make test`, the rest for `make test-long`."""
    return [
        pytest.param(range(quick), id=f"0-{quick - 1}"),
        pytest.param(range(quick, all_), id=f"{quick}-{all_ - 1}", marks=pytest.mark.long),
    ]


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that :func:`someone_else` may use: pytest's own are closed to others."""
    if os.name == "nt":
        pytest.skip("files have no such modes on Windows")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def someone_else() -> Iterator[None]:
    """Inside the ``with`` this process is not root, who may read everything; where it is not, it is someone already."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
