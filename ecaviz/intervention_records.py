"""What was recorded of interventions on the gates of bundled models: a table in data/results.

recorded()                               # of the models for CIFAR-10, too, whose images are not in the repository
record(["shapes-se-r16"])                # measured anew
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import bundle, cifar10, recorded_files, training_sets
from .gate_effects import static_dynamic
from .images import cifar10 as cifar10_images
from .images import shapes
from .models import LoadedModel, load
from .profiles import AttentionProfile, kept_profile, profile

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MODELS", "measure", "measured_on", "profiled_on", "record", "recorded"]

TABLE = "interventions.csv"
MODELS = ("shapes-se-r16", "shapes-eca-k3", "cifar10-se-r16", "cifar10-eca-k3")
"""The models that are recorded."""
IMAGES = {"shapes": 1200, "cifar10": 2000}
"""Held-out images, by the set: the first ones."""
COLUMNS = ("data", "model", "site", "mode", "n", "measure", "mean", "low", "high")


def measured_on(model: LoadedModel, n: int | None = None) -> Any:
    """The held-out images that a bundled model is measured on.

    Args:
        model: A bundled model.
        n: How many; None for as many as are recorded.

    Raises:
        FileNotFoundError: The images of CIFAR-10 are not on this machine.
    """
    data = training_sets.of(model.name).name
    n = IMAGES[data] if n is None else n
    return shapes("test", n) if data == "shapes" else cifar10_images("test", n=n, download=False)


def profiled_on(model: LoadedModel, images: Any = None, *, progress: bool = True) -> AttentionProfile:
    """The profile that means are taken from.

    On the procedural set it is of other images than those of :func:`measured_on`; on CIFAR-10 it is the one that is
    kept, over all 10,000 test images; both by class. Of a model that is not bundled it is of ``images``, all pooled.

    Args:
        model: What :func:`ecaviz.load` returns.
        images: For models that are not bundled.
        progress: Whether to show a progress bar.
    """
    if model.source != "bundled":
        return profile(model, images, progress=progress)
    if training_sets.of(model.name).name != "shapes":
        return kept_profile(model.name)
    return profile(model, shapes("test", IMAGES["shapes"], seed=1), by="class", progress=progress)


def measure(
    name: str, sites: Any = None, *, n: int | None = None, progress: bool = True, **options: Any
) -> pd.DataFrame:
    """The rows of one bundled model, unrounded.

    Args:
        name: Name of the model.
        sites: As for :func:`ecaviz.static_dynamic`.
        n: Of how many images; None for as many as are recorded.
        progress: Whether to show progress bars.
        **options: Of :func:`ecaviz.static_dynamic`.
    """
    model = load(name, device="cpu")
    images = measured_on(model, n)
    table = static_dynamic(model, images, profiled_on(model, progress=progress), sites, progress=progress, **options)
    table = table[table["measure"] != "gate change"]
    table.insert(0, "data", getattr(images, "data", training_sets.of(name).name))
    return table[list(COLUMNS)]


def record(names: Sequence[str] = MODELS, folder: Path | None = None, *, progress: bool = True) -> list[str]:
    """Measure models anew and keep their rows; those of other models stay.

    Models whose images are not on this machine are left out.

    Args:
        names: Names of bundled models.
        folder: Where to; None for ``data/results``.
        progress: Whether to show progress bars.

    Returns:
        The names of those that were measured.
    """
    import pandas as pd

    folder = bundle.data_folder() / "results" if folder is None else Path(folder)
    here = [name for name in names if training_sets.of(name).name == "shapes" or cifar10.is_here()]
    for name in here:
        new = measure(name, progress=progress)
        folder.mkdir(parents=True, exist_ok=True)
        with bundle.alone(folder):
            path = folder / TABLE
            kept = [recorded(folder)] if path.exists() else []
            whole = pd.concat([*(one[one["model"] != name] for one in kept), new])
            order = {known: at for at, known in enumerate(bundle.BUNDLE)}
            whole = whole.sort_values("model", key=lambda column: column.map(order), kind="stable")
            recorded_files.write(path, whole.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())
    return here


def recorded(folder: Path | None = None) -> pd.DataFrame:
    """What :func:`ecaviz.static_dynamic` says of the models that were recorded.

    Args:
        folder: Where the results lie; None for ``data/results``.

    Returns:
        Columns: data ("shapes", or "cifar10-jpeg": a copy with losses); model; site; mode; n; measure; mean, low, high.

    Raises:
        FileNotFoundError: There is no table.
        ValueError: It was truncated or changed.
    """
    path = (bundle.data_folder() / "results" if folder is None else Path(folder)) / TABLE
    advice = "Restore it with `git checkout -- data/results`, or measure it anew: `python -m ecaviz interventions`."
    words = ("data", "model", "site", "mode", "measure")
    return recorded_files.table(path, "interventions", advice, ("n", "mean", "low", "high"), words)
