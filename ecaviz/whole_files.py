"""Files that are written whole or not at all: a stop or a full disk in the middle harms nothing that was there."""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["draft", "replace_file", "tidy"]

_HALF = ".half"
_LONG = 3600.0  # seconds


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Where to write what is to become ``path``; it is moved there when the ``with`` ends well, and removed otherwise.

    The place is in a folder beside ``path``, since some writers have temporary files of their own. What processes that
    were killed while they wrote the same file have left is removed first.

    Args:
        path: The file; its folder is there.

    Raises:
        OSError: It cannot be written: no room, no permission.
    """
    half = path.with_name(f"{path.name}.{os.getpid()}{_HALF}")
    tidy(path)
    try:
        half.mkdir(exist_ok=True)
        yield half / path.name
        (half / path.name).replace(path)
    except OSError as error:
        raise OSError(
            error.errno or errno.EIO,
            f"{path} cannot be written ({error.strerror or error}); what was there before is untouched. Make room "
            f"there, make it writable, or name another place",
        ) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with draft(path) as place:
        place.write_bytes(content)


def tidy(path: Path) -> None:
    """Remove what processes that were killed while they wrote a file have left beside it."""
    for half in path.parent.glob(f"{glob.escape(path.name)}.*{_HALF}"):
        found = re.fullmatch(rf"\.(\d+){re.escape(_HALF)}", half.name.removeprefix(path.name))
        if found and _is_left(half, int(found[1])):
            shutil.rmtree(half, ignore_errors=True)


def _is_left(half: Path, process: int) -> bool:
    """Whether nobody writes there any more."""
    if os.name == "nt":  # to ask for a process would end it
        try:
            return time.time() - half.stat().st_mtime > _LONG
        except OSError:
            return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
