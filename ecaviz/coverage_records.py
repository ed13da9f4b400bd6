"""What was recorded of the coverage of every training run, each seed of it: two tables in data/results.

Networks of other seeds than 0 are not bundled; what their interaction matrices say is.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from . import bundle, gates, networks, recorded_files, training_sets
from .coverage_tables import BANDS, coverage_row, has_j, influence_row, influenced, locality_rows, nullable
from .interaction import interaction_matrices
from .shapes import Shapes, normalise

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["IMAGES", "measure", "measure_runs", "record", "recorded", "recorded_locality"]

TABLE, LOCALITY = "coverage.csv", "locality.csv"
IMAGES = 1200
"""Held-out images that bottlenecks are realised over."""


def measure(name: str, seed: int, net: nn.Module, images: Tensor) -> tuple[list[dict], list[dict]]:
    """The rows of the two recorded tables for one trained network; none where nothing was learnt of it.

    Args:
        name: Name of the model.
        seed: Its seed.
        net: The network.
        images: Held-out images as the network wants them, float N×3×H×W.
    """
    sites = [site.name for site in gates.find_sites(net) if has_j(site) and site.family not in _SAME]
    found = interaction_matrices(net, images, sites) if sites else {}
    rows = [coverage_row(name, seed, matrix) for matrix in found.values()]
    rows += [influence_row(name, seed, *pair) for pair in influenced(net, images)] if gates.find_sites(net) else []
    local = []
    for matrix in found.values():
        if matrix.pairs == matrix.channels**2:  # where the form itself is a band or blocks there is nothing to find
            local += locality_rows(name, seed, matrix, BANDS, 999, 99)
    return rows, local


_SAME = ("se-var1", "ge-theta-minus")
"""Families whose J is the identity, whatever training does."""


def measure_runs(
    folder: Path | None = None, scratch: Path = Path("build/training"), *, progress: bool = True
) -> list[str]:
    """Measure anew every network that is at hand, the bundled ones and those of other seeds, and record what is found.

    Args:
        folder: Where the checkpoints lie, and the results in its subfolder ``results``; None for ``data/checkpoints``
            and ``data/results``.
        scratch: Where training left the networks of other seeds than 0.
        progress: Whether to show a progress bar.

    Returns:
        What was measured, as ``name, seed 1``.
    """
    from tqdm.auto import tqdm

    found = [(name, row.seed, folder) for name, row in bundle.manifest(folder).items() if row.data == "shapes"]
    for file, row in bundle.manifest(scratch).items():
        name = file.removesuffix(f"-seed{row.seed}")
        if name in bundle.BUNDLE and training_sets.of(name).name == "shapes":
            found.append((name, row.seed, scratch))
    images = normalise(Shapes("test", IMAGES).tensors(progress)[0])
    for name, seed, place in tqdm(found, desc="measuring coverage", unit="network", disable=not progress):
        architecture, state, _, _ = bundle.read(name if place == folder else f"{name}-seed{seed}", place)
        net = networks.build(architecture)
        net.load_state_dict(state)
        record(*measure(name, seed, net.eval(), images), None if folder is None else Path(folder) / "results")
    return [f"{name}, seed {seed}" for name, seed, _ in found]


def record(rows: Sequence[Mapping], local: Sequence[Mapping], folder: Path | None = None) -> None:
    """Keep the rows of one run; those of the same name and seed are replaced. Several processes may record at once.

    Args:
        rows: What :func:`measure` gave.
        local: The same, of locality.
        folder: Where to; None for ``data/results``.
    """
    folder = _folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with bundle.alone(folder):
        for name, new in ((TABLE, rows), (LOCALITY, local)):
            if new:
                _merge(folder / name, new)


def _merge(path: Path, new: Sequence[Mapping]) -> None:
    replaced = {(row["model"], str(row["seed"])) for row in new}
    there = recorded_files.rows(path, "coverages", _ADVICE, ("model", "seed"), ("seed",)) if path.exists() else []
    kept = [row for row in there if (row["model"], row["seed"]) not in replaced]
    order = {known: i for i, known in enumerate(bundle.BUNDLE)}
    lines = kept + [{key: _written(value) for key, value in row.items()} for row in new]
    lines.sort(key=lambda row: (order.get(row["model"], len(order)), row["model"], int(row["seed"])))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(new[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    recorded_files.write(path, buffer.getvalue().encode())


def _written(value: Any) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _folder(folder: Path | None) -> Path:
    return bundle.data_folder() / "results" if folder is None else Path(folder)


def recorded(folder: Path | None = None) -> pd.DataFrame:
    """What :func:`coverage_table` says of every site of every training run that was recorded, with its seed.

    Args:
        folder: Where the results lie; None for ``data/results``.

    Raises:
        FileNotFoundError: There is no table.
        ValueError: It was truncated or changed.
    """
    numbers = ("seed", "channels", "pairs", "structural", "rank", "effective_rank", "partners", "directness")
    return nullable(_read(_folder(folder) / TABLE, numbers))


def recorded_locality(folder: Path | None = None) -> pd.DataFrame:
    """What :func:`locality_table` says of every run whose form lets all pairs interact (SE, SE-Var3, CBAM, GE-θ⁺).

    Args:
        folder: Where the results lie; None for ``data/results``.

    Raises:
        FileNotFoundError: There is no table.
        ValueError: It was truncated or changed.
    """
    return _read(_folder(folder) / LOCALITY, ("seed", "channels", "k", "energy", "expected", "low", "high", "p"))


_ADVICE = "Restore it with `git checkout -- data/results`, or measure it anew: `python -m ecaviz coverage --record`."


def _read(path: Path, numbers: Sequence[str]) -> pd.DataFrame:
    words = ("model", "family", "setting", "site", "squeeze")
    frame = recorded_files.table(path, "coverages", _ADVICE, numbers, words, whole=("seed",))
    for name in ("setting", "squeeze"):
        frame[name] = frame[name].astype(object).where(frame[name].notna(), "")  # empty, not missing
    return frame
