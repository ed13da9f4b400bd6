"""Files that are written whole or not at all: a stop or a full disk in the middle harms nothing that was there."""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["draft", "folder_for", "replace_file", "tidy", "writable_file", "writable_folder"]

_HALF = ".half"
_LONG = 3600.0  # seconds


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Where to write what is to become ``path``; it is moved there when the ``with`` ends well, and removed otherwise.

    The place is in a folder beside ``path``, since some writers have temporary files of their own. Each ``with`` has
    one for itself: of several threads or processes that write one file at a time, the last one's is there in the end.
    What processes that were killed while they wrote the same file have left is removed first.

    Args:
        path: The file; its folder is there.

    Raises:
        OSError: It cannot be written: no room, no permission.
    """
    half = None
    tidy(path)
    try:
        half = Path(tempfile.mkdtemp(_HALF, f"{path.name}.{os.getpid()}.", path.parent))
        yield half / path.name
        (half / path.name).replace(path)
    except OSError as error:
        raise OSError(
            error.errno or errno.EIO,
            f"{path} cannot be written ({error.strerror or error}); what was there before is untouched. Make room "
            f"there, make it writable, or name another place",
        ) from error
    finally:
        if half is not None:
            shutil.rmtree(half, ignore_errors=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with draft(path) as place:
        place.write_bytes(content)


@contextmanager
def writable_folder(folder: Path, what: str) -> Iterator[None]:
    """A folder that files can be written into, for as long as the ``with`` lasts: told before a long run, not after it.

    It is made where it is missing. What was made and is still empty at the end, with the folders above it, is removed.

    Args:
        folder: The folder.
        what: The message of an error begins with that: who writes what.

    Raises:
        OSError: It is a file or lies in one, is a link to nothing, is on a drive that is not there, or nothing can be
            written into it: no room, no permission.
    """
    missing = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    try:
        with _why_not(folder, what):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"0")
        yield
    finally:
        for one in missing:
            with suppress(OSError):  # it holds something, or somebody else has removed it
                one.rmdir()


@contextmanager
def writable_file(path: str | os.PathLike | None, what: str, ending: str = "") -> Iterator[None]:
    """The same of a file: that its folder can be written into, and that it is none itself.

    Args:
        path: The file; None if none is asked for.
        what: The message of an error begins with that and the file: the function or command, and its option.
        ending: What names of such files end in, for an example.

    Raises:
        OSError: It cannot be written; see :func:`writable_folder`.
    """
    if path is None:
        yield
        return
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"{what} {path} is a folder; a file's name was expected, such as {path / f'a{ending}'}."
        )
    with writable_folder(path.parent, f"{what} {path}"):
        yield


def folder_for(path: Path) -> None:
    """Make the folder that a file is to be written into, where it is missing.

    Raises:
        OSError: It cannot be made; see :func:`writable_folder`.
    """
    with _why_not(path.parent, str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def _why_not(folder: Path, what: str) -> Iterator[None]:
    """Say why nothing can be written into a folder, of what goes wrong inside the ``with``."""
    above = [folder, *folder.parents]
    missing = [one for one in above if not os.path.lexists(one)]
    try:
        yield
    except OSError as error:
        there = next((one for one in above if one not in missing), above[-1])
        why = f"{error.strerror or error}. Make room there, make it writable, or name another place"
        if there in missing:  # a drive, or a folder that was removed while this process is in it
            why = f"there is no {there}. Name another place"
        elif there.is_symlink() and not os.path.exists(there):
            why = f"{there} is a link to something that is not there. Mend it, or name another place"
        elif not there.is_dir():
            why = f"{there} is a file; a folder was expected. Name another place"
        raise OSError(error.errno or errno.EIO, f"{what} cannot be written: {why}") from error


def tidy(path: Path) -> None:
    """Remove what processes that were killed while they wrote a file have left beside it."""
    for half in path.parent.glob(f"{glob.escape(path.name)}.*{_HALF}"):
        found = re.fullmatch(rf"\.(\d+)(\.\w+)?{re.escape(_HALF)}", half.name.removeprefix(path.name))
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
