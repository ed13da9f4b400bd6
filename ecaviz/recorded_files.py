"""Files of recorded results: written whole, with a sum each, so that what was cut off or changed is not taken for them.

The sums lie beside the files, in ``SHA256SUMS``, which ``sha256sum -c`` understands too. A file without a line there (a
folder of before there were sums) is read as it is.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from . import checks
from .whole_files import replace_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SUMS", "alone", "read", "rows", "table", "write"]

SUMS = "SHA256SUMS"


def read(path: Path, who: str, advice: str) -> bytes:
    """What is in a file, if it is what was written.

    Args:
        path: The file.
        who: Who reads it; messages begin with that.
        advice: What to do where it is missing, cut off or changed.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: It may not be read.
        ValueError: It is a folder, or not what its sum says.
    """
    checks.file(path, who, "a file of recorded results", advice)
    for _ in range(3):  # it may be replaced, and its sum with it, between the two readings
        content = path.read_bytes()
        known = _sums(path.parent, who, advice).get(path.name)
        if known is None or _sum(content) in known:
            return content
    raise _changed(
        path,
        who,
        f"its sha256 is {_sum(content)[:12]}… ({len(content)} bytes), not the one in {SUMS} beside it. {advice} If it "
        f"was changed on purpose, take its line out of {SUMS}.",
    )


def rows(path: Path, who: str, advice: str, columns: Sequence[str], whole: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a table in a CSV file, as they are written.

    Args:
        path: The file.
        who: As for :func:`read`.
        advice: As for :func:`read`.
        columns: Columns that it must have.
        whole: Those of them that are whole numbers.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: It may not be read.
        ValueError: It is a folder, not what its sum says, or no such table.
    """
    found = list(csv.DictReader(io.StringIO(_text(path, who, advice, columns), newline="")))
    for name in whole:
        if wrong := [row[name] for row in found if not re.fullmatch(r"-?[0-9]{1,18}", row[name])]:
            raise _changed(path, who, f"{name} should be a whole number, and is {wrong[0][:20]!r}. {advice}")
    return found


def table(
    path: Path,
    who: str,
    advice: str,
    numbers: Sequence[str],
    words: Sequence[str] = (),
    dtype: Mapping | None = None,
    whole: Sequence[str] = (),
) -> pd.DataFrame:
    """The table in a CSV file.

    Args:
        path: The file.
        who: As for :func:`read`.
        advice: As for :func:`read`.
        numbers: Columns of numbers that it must have.
        words: Other columns that it must have.
        dtype: Types of columns, as pandas takes them.
        whole: Columns of numbers that are whole, and none is missing.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: It may not be read.
        ValueError: It is a folder, not what its sum says, or no such table.
    """
    import pandas as pd

    frame = pd.read_csv(io.StringIO(_text(path, who, advice, (*numbers, *words))), dtype=dtype)
    wrong = [name for name in numbers if len(frame) and not pd.api.types.is_numeric_dtype(frame[name])]
    if wrong:
        raise _changed(path, who, f"{', '.join(wrong)} should be numbers. {advice}")
    for name in whole:
        if wrong := [value for value in frame[name] if value % 1 != 0]:  # nor is it of NaN and of infinity
            raise _changed(path, who, f"{name} should be a whole number, and is {wrong[0]}. {advice}")
    return frame


def _text(path: Path, who: str, advice: str, columns: Sequence[str]) -> str:
    """The text of a CSV file whose lines are all as long as the first, which has these columns."""
    try:
        text = read(path, who, advice).decode("utf-8-sig")  # as some programs write it
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _changed(path, who, f"{error}. {advice}") from error
    if not text.endswith("\n"):
        why = f"it ends in the middle of a line. {advice} If it was not cut off, end its last line."
        raise _changed(path, who, why)
    if missing := [name for name in columns if name not in lines[0]]:
        raise _changed(path, who, f"it has no column {', '.join(missing)}. {advice}")
    for number, line in enumerate(lines, 1):
        if line and len(line) != len(lines[0]):
            raise _changed(path, who, f"row {number} has {len(line)} columns instead of {len(lines[0])}. {advice}")
    return text


def _changed(path: Path, who: str, why: str) -> ValueError:
    return ValueError(f"{who}: {path} was truncated or changed: {why}")


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and its sum; only where nobody else writes there (:func:`alone`).

    Whenever it is stopped, the file is one that its sums let through: meanwhile both are.
    """
    sums = _sums(path.parent, "ecaviz", "Delete it: the next recording writes it anew.")
    new = _sum(content)
    _write_sums(path.parent, sums | {path.name: [*sums.get(path.name, _present(path)), new]})
    replace_file(path, content)
    _write_sums(path.parent, sums | {path.name: [new]})


def _present(path: Path) -> list[str]:
    return [_sum(path.read_bytes())] if path.is_file() else []


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sums(folder: Path, who: str, advice: str) -> dict[str, list[str]]:
    """The sums that each file may have, by its name."""
    path, found = folder / SUMS, {}
    if not path.is_file():
        return {}
    checks.readable(path, who)
    for line in path.read_bytes().decode("utf-8", "replace").splitlines():
        if not line.strip():
            continue
        known = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line)
        if known is None:
            raise _changed(path, who, f"{line[:20]!r} is no line of sums. {advice}")
        found.setdefault(known[2], []).append(known[1].lower())
    return found


def _write_sums(folder: Path, sums: Mapping[str, Sequence[str]]) -> None:
    lines = [f"{digits}  {name}\n" for name, several in sorted(sums.items()) for digits in several]
    replace_file(folder / SUMS, "".join(lines).encode())


@contextmanager
def alone(folder: Path, stale: float = 60.0) -> Iterator[None]:
    """Nobody else writes a table there meanwhile; a lock that its process left behind is broken after a while.

    Args:
        folder: Where the table lies.
        stale: Seconds after which a lock was left behind: writing takes a fraction of one.

    Raises:
        OSError: Nothing can be written there.
    """
    lock = folder / ".writing"
    token = f"{os.getpid()} {threading.get_ident()} {time.time_ns()}"
    while True:
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError:
            _break_if_stale(lock, stale)
            time.sleep(0.02)
        except OSError as error:
            raise _closed(folder, error) from error
    try:
        with os.fdopen(handle, "w") as file:
            file.write(token)
    except OSError as error:
        lock.unlink(missing_ok=True)
        raise _closed(folder, error) from error
    try:
        yield
    finally:
        if _content(lock) == token:
            lock.unlink(missing_ok=True)


def _closed(folder: Path, error: OSError) -> OSError:
    return OSError(
        error.errno,
        f"{folder} cannot be written to ({error.strerror}); what was there before is untouched. Make it writable, make "
        f"room there, or name another folder",
    )


def _break_if_stale(lock: Path, stale: float) -> None:
    try:
        before, age = _content(lock), time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return
    if age > stale and _content(lock) == before:
        lock.unlink(missing_ok=True)


def _content(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
