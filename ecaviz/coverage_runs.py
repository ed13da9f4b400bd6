"""Coverage of one model after the other, as ``python -m ecaviz coverage`` measures it: what is through is kept at once.

The rows of each model that is through lie in a file of their own beside the tables to come. A digest of how they were
made is in its name, so that they are found when the same is asked for again, and only then; and so that runs with one
folder leave each other's alone. Where all is through, the tables are written and the files go. Those of a run that
nobody goes on with stay; they may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import __version__, checks, gates
from .batches import batches
from .coverage_tables import coverage_frame, coverage_of, each_with_images, has_j, locality_frame, locality_of
from .excitations import not_covered
from .profiles import fingerprint_of
from .whole_files import replace_file, tidy

if TYPE_CHECKING:
    import pandas as pd

    from .models import LoadedModel

__all__ = ["Run"]

_FORMAT = 1
"""Another one where the rows get other columns, or come about in another way, within one version of ecaviz."""
_ADVICE = "Delete it to measure anew, or name another folder."


class Run:
    """The tables of some models, and what there is of them already.

    Args:
        folder: Where the rows are kept meanwhile: ``coverage-….partial`` and ``locality-….partial``, one a model. Those
            that an earlier run left are read.
        models: As for :func:`ecaviz.coverages.coverage_table`.
        images: As there. Of a folder it is noticed that a file was changed; of other sets, what they say of themselves.
        sites: As there.
        influences: As there.
        locality: Whether :meth:`locality` is asked for, too.
        progress: Whether to say what was there already, and to show progress bars.

    Attributes:
        through: Of what there are rows in files, of all that was asked for so far, such as "coverage of shapes-eca-k3".
        without: The models that have no J at the sites, so that the table of localities has no row of them.

    Raises:
        PermissionError: A file may not be read.
        ValueError: One was truncated or changed; or a model has no site that can be measured, or none of them one that
            has a locality, which is told before the first of them is measured.
    """

    def __init__(
        self,
        folder: Path,
        models: Any,
        images: Any = None,
        sites: gates.Selection = None,
        *,
        influences: bool = False,
        locality: bool = False,
        progress: bool = True,
    ):
        self.folder, self.through, self._progress = folder, [], progress
        self._sites, self._influences = sites, influences
        each = [(one, chosen, gates.select_sites(one, sites)) for one, chosen in each_with_images(models, images)]
        for _, chosen, picked in each:
            measurable = influences and chosen is not None and any(site.per != "position" for site in picked)
            if not measurable and not any(map(has_j, picked)):
                raise _nothing(picked)
        having = [entry for entry in each if any(map(has_j, entry[2]))]
        self.without = [one.name for one, _, picked in each if not any(map(has_j, picked))]
        if locality and not having:
            error = _nothing([site for *_, picked in each for site in picked])
            error.add_note("Locality is looked for in J; leave it out (--locality) to measure influences alone.")
            raise error
        self._asked = {"coverage": [self._with_path("coverage", *entry, influences) for entry in each]}
        if locality:
            self._asked["locality"] = [self._with_path("locality", *entry) for entry in having]
        read = {path: _read(path) for path in self._paths()}
        self._rows = {path: rows for path, rows in read.items() if rows is not None}

    def coverage(self) -> pd.DataFrame:
        """What :func:`ecaviz.coverages.coverage_table` gives."""
        return coverage_frame(self._all("coverage", coverage_of, influences=self._influences))

    def locality(self) -> pd.DataFrame:
        """What :func:`ecaviz.coverages.locality_table` gives, of the models that have a J."""
        return locality_frame(self._all("locality", locality_of, progress=self._progress))

    def forget(self) -> None:
        """Remove the files of all that was asked for."""
        for path in reversed(self._paths()):  # stopped in between, it leaves the first models
            path.unlink(missing_ok=True)  # the same command may have run twice at once

    def _paths(self) -> list[Path]:
        return [path for asked in self._asked.values() for *_, path in asked]

    def _with_path(
        self, what: str, model: LoadedModel, images: Any, picked: list[gates.GateSite], *more: Any
    ) -> tuple[LoadedModel, Any, Path]:
        return model, images, self.folder / f"{what}-{_made(model, images, picked, *more)}.partial"

    def _all(self, what: str, measure: Callable[..., list[dict]], **options: Any) -> list[dict[str, Any]]:
        """The rows of all models, each measured or taken from its file."""
        asked = self._asked[what]
        there = [f"{what} of {one.name}" for one, _, path in asked if path in self._rows]
        if there and self._progress:
            print(f"there already, in {self.folder}: {', '.join(there)}", flush=True)
        for one, chosen, path in asked:
            if path not in self._rows:
                self._rows[path] = measure(one, chosen, self._sites, **options)
                content = json.dumps(self._rows[path], default=lambda number: number.item()).encode()
                replace_file(path, _digest(content) + b"\n" + content)
            self.through.append(f"{what} of {one.name}")
        return [row for *_, path in asked for row in self._rows[path]]


def _nothing(picked: list[gates.GateSite]) -> ValueError:
    return not_covered(", ".join(dict.fromkeys(site.family for site in picked)))


def _made(model: LoadedModel, images: Any, picked: list[gates.GateSite], *more: Any) -> str:
    """A digest of how the rows of a model come about; those of an earlier run are the same where this is."""
    by = __version__, _FORMAT, torch.__version__, model.device.type
    made = [*by, model.name, model.architecture, fingerprint_of(model.net), [site.name for site in picked], *more]
    if images is not None:
        stream = batches(images, model.transform)
        made += [stream.description, stream.transform, [_state(path) for path in getattr(images, "paths", ())]]
    return _digest(json.dumps(made).encode()).decode()[:12]


def _state(path: Path) -> tuple[str, ...]:
    """What changes where a file does."""
    try:
        found = path.stat()
    except OSError:  # whoever reads the images leaves it out, and says so
        return (str(path.absolute()),)
    return str(path.absolute()), str(found.st_size), str(found.st_mtime_ns)


def _read(path: Path) -> list[dict[str, Any]] | None:
    """The rows in a file; None where there is no file."""
    tidy(path)
    try:
        checks.file(path, "coverage", "a file that an interrupted run left", _ADVICE)
        digest, _, content = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if digest != _digest(content):
        raise ValueError(f"coverage: {path} was truncated or changed, so that no run can go on from it. {_ADVICE}")
    return json.loads(content)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
