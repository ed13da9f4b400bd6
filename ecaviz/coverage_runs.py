"""Coverage of one model after the other, as ``python -m ecaviz coverage`` measures it: what is through is kept at once.

The rows of the models that are through lie in a file beside the tables to come, with how they were made. When the same
is asked for again they are taken from there; where all is through, the tables are written and the file goes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import checks, gates
from .batches import batches
from .coverage_tables import coverage_frame, coverage_of, each_with_images, has_j, locality_frame, locality_of
from .excitations import not_covered
from .profiles import fingerprint_of
from .whole_files import replace_file, tidy

if TYPE_CHECKING:
    import pandas as pd

    from .models import LoadedModel

__all__ = ["Run"]

_ADVICE = "Delete it to measure anew, or name another folder."


class Run:
    """The tables of some models, and what there is of them already.

    Args:
        path: Where the rows are kept meanwhile. A file of an earlier run is read.
        models: As for :func:`ecaviz.coverages.coverage_table`.
        images: As there. Of a folder it is noticed that a file was changed; of other sets, what they say of themselves.
        sites: As there.
        influences: As there.
        progress: Whether to say what was there already, and to show progress bars.

    Attributes:
        through: What is in the file of all that was asked for so far, such as "coverage of shapes-eca-k3".

    Raises:
        PermissionError: The file may not be read.
        ValueError: It was truncated or changed; or a model has no site that can be measured, which is told of all
            models before the first of them is measured.
    """

    def __init__(
        self,
        path: Path,
        models: Any,
        images: Any = None,
        sites: gates.Selection = None,
        *,
        influences: bool = False,
        progress: bool = True,
    ):
        self.path, self.through, self._progress = path, [], progress
        self._sites, self._influences = sites, influences
        each = each_with_images(models, images)
        self._models = [(one, chosen, _made(one, chosen, sites, influences)) for one, chosen in each]
        self._rows = _read(path)
        self._asked: set[str] = set()

    def coverage(self) -> pd.DataFrame:
        """What :func:`ecaviz.coverages.coverage_table` gives."""
        return coverage_frame(self._all("coverage", coverage_of, influences=self._influences))

    def locality(self) -> pd.DataFrame:
        """What :func:`ecaviz.coverages.locality_table` gives."""
        return locality_frame(self._all("locality", locality_of, progress=self._progress))

    def forget(self) -> None:
        """Take out of the file what was asked for; the file goes where there is nothing else in it."""
        self._rows = {key: rows for key, rows in self._rows.items() if key not in self._asked}
        if self._rows:
            self._write()
        else:
            self.path.unlink(missing_ok=True)

    def _all(self, what: str, measure: Callable[..., list[dict]], **options: Any) -> list[dict[str, Any]]:
        """The rows of all models, each measured or taken from the file."""
        asked = [(one, chosen, json.dumps([what, made])) for one, chosen, made in self._models]
        self._asked |= {key for *_, key in asked}
        there = [f"{what} of {one.name}" for one, _, key in asked if key in self._rows]
        if there and self._progress:
            print(f"there already, in {self.path}: {', '.join(there)}", flush=True)
        for one, chosen, key in asked:
            if key not in self._rows:
                self._rows[key] = measure(one, chosen, self._sites, **options)
                self._write()
            self.through.append(f"{what} of {one.name}")
        return [row for *_, key in asked for row in self._rows[key]]

    def _write(self) -> None:
        content = json.dumps(self._rows, default=lambda number: number.item()).encode()
        replace_file(self.path, _digest(content) + b"\n" + content)


def _made(model: LoadedModel, images: Any, sites: gates.Selection, influences: bool) -> list[Any]:
    """How the rows of a model come about; those of an earlier run are the same where this is.

    Raises:
        ValueError: The model has no site that can be measured.
    """
    picked = gates.select_sites(model, sites)
    if not any(has_j(site) or (influences and site.per != "position") for site in picked):
        raise not_covered(", ".join(dict.fromkeys(site.family for site in picked)))
    made = [model.name, model.architecture, fingerprint_of(model.net), [site.name for site in picked], influences]
    if images is None:
        return made
    stream = batches(images, model.transform)
    files = _digest(repr([_state(path) for path in getattr(images, "paths", ())]).encode()).decode()
    return [*made, stream.description, stream.transform, files]


def _state(path: Path) -> tuple[str, ...]:
    """What changes where a file does."""
    try:
        found = path.stat()
    except OSError:  # whoever reads the images leaves it out, and says so
        return (str(path.absolute()),)
    return str(path.absolute()), str(found.st_size), str(found.st_mtime_ns)


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows in a file, by how they were made; none where there is no file."""
    tidy(path)
    if not os.path.lexists(path):
        return {}
    checks.file(path, "coverage", "a file that an interrupted run left", _ADVICE)
    digest, _, content = path.read_bytes().partition(b"\n")
    if digest != _digest(content):
        raise ValueError(f"coverage: {path} was truncated or changed, so that no run can go on from it. {_ADVICE}")
    return json.loads(content)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
