"""Checks of input that several modules make: one way to ask, one way to say what is wrong."""

from __future__ import annotations

import errno
import math
import numbers
import os
import stat
from pathlib import Path

__all__ = [
    "at_least_one",
    "at_least_zero",
    "expanded",
    "file",
    "hidden_units",
    "kernel_size",
    "padding",
    "readable",
    "rule",
    "share",
    "sides",
    "uint32",
]


def _whole(number: object) -> bool:
    if isinstance(number, bool) or not isinstance(number, numbers.Real):  # numpy's numbers are Real too
        return False
    return math.isfinite(number) and int(number) == number


def at_least_one(value: object, what: str) -> int:
    """``value`` as an int, if it is a whole number of at least 1.

    Raises:
        ValueError: It is not; the message begins with ``what``.
    """
    if not _whole(value) or value < 1:
        raise ValueError(f"{what} must be a whole number of at least 1, got {value!r}.")
    return int(value)


def sides(value: int | tuple[int, int], what: str) -> tuple[int, int]:
    """Height and width of a map, where one number is both.

    Raises:
        ValueError: It is neither one whole number of at least 1 nor two; the message begins with ``what``.
    """
    both = value if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2:
        raise ValueError(f"{what} must be a side or (height, width), got {value!r}.")
    height, width = (at_least_one(side, what) for side in both)
    return height, width


def at_least_zero(value: object, what: str) -> int:
    """``value`` as an int, if it is a whole number and not negative.

    Raises:
        ValueError: It is not; the message begins with ``what``.
    """
    if not _whole(value) or value < 0:
        raise ValueError(f"{what} must be a whole number of at least 0, got {value!r}.")
    return int(value)


def kernel_size(value: object, what: str = "kernel_size") -> int:
    """``value`` as an int, if it is odd and positive.

    Raises:
        ValueError: It is even, negative, zero or no whole number.
    """
    if not _whole(value) or value < 1 or value % 2 == 0:
        raise ValueError(
            f"{what} must be an odd whole number of at least 1, so that a channel has as many neighbours "
            f"on its left as on its right; got {value!r}. Use 1, 3, 5, 7, …"
        )
    return int(value)


def hidden_units(channels: int, reduction: object, what: str) -> int:
    """⌊C/r⌋, the hidden units of an SE.

    Raises:
        ValueError: r is no whole number of at least 1, or leaves no hidden unit.
    """
    r = at_least_one(reduction, f"{what}: reduction")
    if r > channels:
        raise ValueError(
            f"{what}: reduction r = {r} leaves no hidden unit for C = {channels} channels (C/r < 1). "
            f"Use r ≤ {channels}."
        )
    return channels // r


def padding(value: object, k: int, channels: int | None, what: str) -> str:
    """``value``, if it is "zeros" or "circular" and fits; C may be unknown.

    Raises:
        ValueError: It is neither, or circular padding would go round the channels more than once.
    """
    if value not in ("zeros", "circular"):
        raise ValueError(f'{what}: padding must be "zeros" or "circular", got {value!r}.')
    reach = (k - 1) // 2
    if value == "circular" and channels is not None and reach > channels:
        raise ValueError(
            f"{what}: circular padding by {reach} goes round C = {channels} channels more than once (PyTorch refuses "
            f"it too). Use k ≤ {2 * channels + 1}."
        )
    return str(value)


def rule(gamma: object, b: object, what: str) -> tuple[float, float]:
    """γ and b of the adaptive rule as numbers.

    Raises:
        ValueError: γ is not positive, or one of them is no finite number.
    """
    for name, value in (("gamma", gamma), ("b", b)):
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ValueError(f"{what}: {name} must be a finite number, got {value!r}. The paper has gamma = 2, b = 1.")
    if gamma <= 0:
        raise ValueError(f"{what}: gamma must be positive, got {gamma!r}. The paper has gamma = 2.")
    return float(gamma), float(b)


def uint32(value: object, what: str) -> int:
    """``value`` as an int, if it is a whole number from 0 to 2³² − 1: a seed, or as many images as a seed can draw.

    Raises:
        ValueError: It is not; the message begins with ``what``.
    """
    if not _whole(value) or not 0 <= value < 2**32:
        raise ValueError(f"{what} must be a whole number from 0 to {2**32 - 1}, got {value!r}.")
    return int(value)


def share(value: object, what: str) -> float:
    """``value`` as a float, if it lies between 0 and 1, both left out.

    Raises:
        ValueError: It does not.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < 1:
        raise ValueError(f"{what} must lie between 0 and 1, such as 0.95; got {value!r}.")
    return float(value)


def file(path: Path, what: str, expected: str, advice: str) -> None:
    """Say in words why a path is no file that can be read.

    Args:
        path: The file.
        what: Who reads it; the message begins with that.
        expected: What it should be: "a file written by profile.save(path)".
        advice: What to do where there is none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a folder.
        PermissionError: It may not be read.
    """
    readable(path, what)
    if path.is_dir():
        raise ValueError(f"{what}: {path} is a folder; expected {expected}.")
    if not path.is_file():
        raise FileNotFoundError(f"{what}: there is no file {path}. {advice}")


def readable(path: Path, what: str) -> None:
    """Say in words that a file or a folder may not be read; nothing where there is none.

    Raises:
        FileNotFoundError: It is a link that leads to itself, or its name is too long for one.
        PermissionError: It may not, or the folder that it lies in.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            os.scandir(path).close()
            if not os.access(path, os.X_OK):
                raise PermissionError
        elif stat.S_ISREG(mode):
            path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        return
    except PermissionError as error:
        raise PermissionError(
            f"{what}: {path} may not be read: permission denied. Allow it (chmod u+rX {path.name}), or ask its owner."
        ) from error
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENAMETOOLONG):
            raise
        why = "it is a link that leads to itself" if error.errno == errno.ELOOP else "the name is too long for one"
        raise FileNotFoundError(f"{what}: there is no file {path}: {why}. Give the file itself.") from error


def expanded(path: str | os.PathLike, what: str) -> Path:
    """A path with ``~`` and ``~user`` replaced by their folders.

    Raises:
        FileNotFoundError: There is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{what}: there is no {path}: nobody here is called {Path(path).parts[0][1:]}. Write the path in full, or "
            f"./~… for a name that begins with ~."
        ) from error
