"""What training gave, every seed of every module, and what the differences between modules say.

    results.runs()                                            # a row a run: data/results/shapes.csv
    results.runs(data="cifar10")                              # data/results/cifar10.csv
    results.summary()                                         # a row a module: mean, spread, interval over seeds
    results.paired_difference("shapes-se-var1", "shapes-none")

All runs of one table follow one recipe (:class:`ecaviz.recipes.Recipe`). Beside the accuracy of a run it is kept which
of the test images it got right, so that two modules can be compared image by image as well as seed by seed.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import bundle, checks, recorded_files, training_sets
from .intervals import t_half_width

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Difference", "Run", "check_recipe", "correct", "paired_difference", "record", "runs", "summary"]

NEEDS = ("shape", "texture", "both")
"""What the classes of the procedural set need: accuracies are given for each besides."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        name: Name of the model, as :data:`ecaviz.bundle.BUNDLE` has it.
        data: What it was trained and tested on: "shapes", "cifar10", or "cifar10-jpeg" (a copy with losses).
        recipe: Name of the recipe.
        digest: What the recipe says, in short: :attr:`ecaviz.recipes.Recipe.digest`.
        family: Family of the attention module.
        setting: ``r=4``, ``k=3`` and so on, or empty.
        seed: Seed of initialisation and order.
        epochs: Passes over the training images.
        train_images: Number of training images.
        seconds: Wall-clock seconds of training.
        hardware: What it was trained on.
        test_images: Number of held-out images.
        accuracy: Share of them whose class came first, 0…1.
        loss: Mean cross-entropy over them, nats.
        parameters: Number of parameters of the network.
        accuracy_shape: On the procedural set, the accuracy over the four classes that need shape; else None.
        accuracy_texture: Over the four that need texture.
        accuracy_both: Over the four that need both.
        variant: The name without the set of images.
        k: Kernel size of an ECA, or "adaptive"; else empty.
        r: Reduction of an SE; else empty.
    """

    name: str
    data: str
    variant: str = field(init=False)
    family: str
    setting: str
    k: str = field(init=False)
    r: str = field(init=False)
    recipe: str
    digest: str
    seed: int
    epochs: int
    train_images: int
    seconds: float
    hardware: str
    test_images: int
    accuracy: float
    loss: float
    parameters: int
    accuracy_shape: float | None = None
    accuracy_texture: float | None = None
    accuracy_both: float | None = None

    def __post_init__(self) -> None:
        if _set(self.name) != _set(self.data):
            raise ValueError(f"results: {self.name} is no model of {self.data}.")
        letter, _, value = self.setting.partition("=")
        object.__setattr__(self, "variant", self.name.removeprefix(f"{_set(self.name)}-"))
        object.__setattr__(self, "k", value if letter == "k" else "")
        object.__setattr__(self, "r", value if letter == "r" else "")

    @property
    def followed(self) -> tuple[str, str, str, int, int, int]:
        """What must be alike for runs to be compared: the arguments of :func:`check_recipe`."""
        return self.data, self.recipe, self.digest, self.epochs, self.train_images, self.test_images


def _set(name: str) -> str:
    return training_sets.of(name).name


def _folder(folder: Path | None) -> Path:
    return bundle.data_folder() / "results" if folder is None else Path(folder)


def _table(folder: Path, data: str) -> Path:
    return folder / f"{data}.csv"


def _right(folder: Path, data: str) -> Path:
    """The file that has which images each run got right."""
    return folder / f"{data}-correct.safetensors"


def runs(folder: Path | None = None, *, data: str = "shapes") -> pd.DataFrame:
    """Every run on a set of images, a row each, in the order of the bundle, then by seed.

    Args:
        folder: Where the results lie; None for ``data/results``.
        data: The set: "shapes" or "cifar10".

    Returns:
        A frame whose columns are the fields of :class:`Run`; on CIFAR-10 without the accuracies by need.

    Raises:
        FileNotFoundError: There is no table.
        ValueError: An unknown set, or the table was truncated or changed.
    """
    if data not in training_sets.SETS:
        raise ValueError(f"results: data must be one of {', '.join(training_sets.SETS)}, got {data!r}.")
    words = dict.fromkeys(_WORDS, str)
    path = _table(_folder(folder), data)
    frame = recorded_files.table(path, "results", _advice(data), _NUMBERS, _WORDS, words, _WHOLE)
    return frame.fillna(dict.fromkeys(words, ""))


_WORDS = ("name", "data", "variant", "family", "setting", "k", "r", "recipe", "digest", "hardware")
_NUMBERS = ("seed", "epochs", "train_images", "seconds", "test_images", "accuracy", "loss", "parameters")
_WHOLE = ("seed", "epochs", "train_images", "test_images", "parameters")


def _advice(data: str) -> str:
    return (
        f"Restore it with `git checkout -- data/results`, or train: "
        f"`python -m ecaviz train --recipe data/recipes/{data}.toml`."
    )


def correct(name: str, folder: Path | None = None) -> dict[int, np.ndarray]:
    """Which test images the runs of a model got right: bool, one an image, by seed.

    Args:
        name: Name of the model.
        folder: Where the results lie; None for ``data/results``.

    Raises:
        ValueError: No run of that name was recorded, or a file was truncated or changed.
    """
    table = runs(folder, data=_set(name))
    counts = {int(row.seed): int(row.test_images) for row in table[table["name"] == name].itertuples()}
    if not counts:
        known = ", ".join(dict.fromkeys(table["name"]))
        raise ValueError(f"results: no run of {name!r} was recorded. Recorded: {known}.")
    path = _right(_folder(folder), _set(name))
    answers = _answers(path, _set(name))
    for seed, count in counts.items():
        if f"{name}/{seed}" not in answers or len(answers[f"{name}/{seed}"]) != -(-count // 8):
            raise ValueError(
                f"results: {path} lacks the answers of {name}, seed {seed}. Restore it with "
                f"`git checkout -- data/results`, or train that run anew with --redo."
            )
    return {seed: np.unpackbits(answers[f"{name}/{seed}"], count=count).astype(bool) for seed, count in counts.items()}


def _answers(path: Path, data: str) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not path.exists():
        return {}
    content = recorded_files.read(path, "results", _advice(data))
    try:
        return load(content)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"results: {path} was truncated or changed: {error}. {_advice(data)}") from error


def record(
    run: Run, right: np.ndarray, folder: Path | None = None, *, replaced: Iterable[tuple[str, int]] = ()
) -> None:
    """Keep a run; one of the same name and seed is replaced. Several processes may record at once.

    Args:
        run: The run.
        right: Which test images it got right, bool, one an image.
        folder: Where to; None for ``data/results``.
        replaced: (name, seed) of runs that will be trained anew: those of another recipe are taken out now.

    Raises:
        ValueError: The other runs there are of another recipe, length or test set, or ``right`` is of another number of
            images: runs of different recipes cannot be compared. Or a file there was truncated or changed.
    """
    from safetensors.numpy import save

    if len(right) != run.test_images:
        raise ValueError(f"results: answers to {run.test_images} test images were expected, got {len(right)}.")
    folder = _folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with bundle.alone(folder):
        data = _set(run.name)
        rows = {(row["name"], int(row["seed"])): row for row in _rows(folder, data)}
        check_recipe(*run.followed, replaced=[(run.name, run.seed), *replaced], folder=folder)
        gone = [key for key in {(run.name, run.seed), *replaced} if key in rows and _differs(rows[key], run.followed)]
        for key in gone:
            del rows[key]
        rows[run.name, run.seed] = {key: "" if value is None else str(value) for key, value in asdict(run).items()}
        order = {known: i for i, known in enumerate(bundle.BUNDLE)}
        lines = sorted(rows.values(), key=lambda r: (order.get(r["name"], len(order)), r["name"], int(r["seed"])))
        spare = f"accuracy_{NEEDS[0]}", f"accuracy_{NEEDS[1]}", f"accuracy_{NEEDS[2]}"
        columns = [f.name for f in fields(Run) if f.name not in spare or any(row.get(f.name) for row in lines)]
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, lineterminator="\n", extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(lines)
        path = _right(folder, data)
        answers = {key: one for key, one in _answers(path, data).items() if key not in {f"{n}/{s}" for n, s in gone}}
        answers[f"{run.name}/{run.seed}"] = np.packbits(np.asarray(right, dtype=bool))
        recorded_files.write(path, save(dict(sorted(answers.items()))))
        recorded_files.write(_table(folder, data), buffer.getvalue().encode())


def check_recipe(
    data: str,
    recipe: str,
    digest: str,
    epochs: int,
    train_images: int,
    test_images: int,
    *,
    replaced: Iterable[tuple[str, int]] = (),
    folder: Path | None = None,
) -> None:
    """Whether a run can stand beside those that are recorded of its set: the same images, recipe and length.

    Args:
        data: What it is trained on, as :attr:`Run.data`.
        recipe: Name of its recipe.
        digest: What that says, in short.
        epochs: Its passes over the training images.
        train_images: Its number of training images.
        test_images: Its number of held-out images.
        replaced: (name, seed) of the runs that it, or others with it, will replace.
        folder: Where the results lie; None for ``data/results``.

    Raises:
        ValueError: It cannot; the message says what differs.
    """
    folder, replaced = _folder(folder), set(replaced)
    rows = [row for row in _rows(folder, _set(data)) if (row["name"], int(row["seed"])) not in replaced]
    for what, value in zip(_FOLLOWED, (data, recipe, digest, epochs, train_images, test_images), strict=True):
        found = {row.get(what) or "not told" for row in rows} - {str(value)}
        if found:
            raise ValueError(
                f"results: this run has {what} = {value}, and runs in {folder} are of "
                f"{', '.join(map(str, sorted(found)))}. Runs of different recipes cannot be compared: keep them apart "
                f"with --out."
            )


_FOLLOWED = ("data", "recipe", "digest", "epochs", "train_images", "test_images")


def _differs(row: dict[str, str], followed: tuple) -> bool:
    return any(row.get(what) != str(value) for what, value in zip(_FOLLOWED, followed, strict=True))


def _rows(folder: Path, data: str) -> list[dict[str, str]]:
    path = _table(folder, data)
    return recorded_files.rows(path, "results", _advice(data), ("name", "seed"), ("seed",)) if path.exists() else []


# ------------------------------------------------------------------------------------------------------ what they say


def summary(
    names: Sequence[str] | None = None, *, level: float = 0.95, data: str = "shapes", folder: Path | None = None
) -> pd.DataFrame:
    """Accuracy by module, over its seeds.

    Args:
        names: Names of models of one set, in the order of the rows; None for all that have more than one seed.
        level: Of the interval, 0…1.
        data: The set where no names are given: "shapes" or "cifar10".
        folder: Where the results lie; None for ``data/results``.

    Returns:
        A frame with a row a module: name, data (what it was really trained on), family, setting, parameters, seeds
        (their number), mean, std (over seeds), low and high (the t interval of the mean over seeds; missing for one
        seed); on the procedural set also shape, texture and both (means by what the classes need). The interval says
        where the mean over seeds lies, on these test images; a single seed scatters more.

    Raises:
        ValueError: A name without runs, or a level that is no share.
    """
    import pandas as pd

    checks.share(level, "results: level")
    if names is not None and len({_set(name) for name in names}) > 1:
        raise ValueError(f"results: models of one set of images were expected, got {', '.join(names)}.")
    table = runs(folder, data=_set(names[0]) if names else data)
    groups = dict(tuple(table.groupby("name", sort=False)))
    if names is None:
        names = [name for name, group in groups.items() if len(group) > 1]
    rows = []
    for name in names:
        if name not in groups:
            raise ValueError(f"results: no run of {name!r} was recorded. Recorded: {', '.join(groups)}.")
        group = groups[name]
        values = group["accuracy"].to_numpy()
        count = len(values)
        half = t_half_width(values.std(ddof=1) / math.sqrt(count), count, level) if count > 1 else None
        first = group.iloc[0]
        rows.append(
            {
                "name": name,
                "data": first["data"],
                "family": first["family"],
                "setting": first["setting"],
                "parameters": int(first["parameters"]),
                "seeds": len(values),
                "mean": values.mean(),
                "std": values.std(ddof=1) if len(values) > 1 else math.nan,
                "low": math.nan if half is None else values.mean() - half,
                "high": math.nan if half is None else values.mean() + half,
                **{need: group[f"accuracy_{need}"].mean() for need in NEEDS if f"accuracy_{need}" in group},
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Difference:
    """Accuracy of one module less that of another, paired by seed and by test image.

    Attributes:
        first: Name of the one.
        second: Name of the other.
        seeds: Seeds that both have.
        images: Number of test images.
        by_seed: The difference at each seed.
        mean: Their mean.
        low: Lower end of the interval; NaN for one seed.
        high: Upper end.
        level: Of the interval, 0…1.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    images: int
    by_seed: tuple[float, ...]
    mean: float
    low: float
    high: float
    level: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves zero out; never for one seed."""
        return self.low > 0 or self.high < 0

    def __repr__(self) -> str:
        if len(self.seeds) == 1:
            return f"Difference({self.first} − {self.second}: {100 * self.mean:+.1f} points, one seed, no interval)"
        said = "" if self.significant else ", not significant"
        return (
            f"Difference({self.first} − {self.second}: {100 * self.mean:+.1f} points, {100 * self.level:.3g} % "
            f"interval {100 * self.low:+.1f} to {100 * self.high:+.1f}, {len(self.seeds)} seeds{said})"
        )


def paired_difference(first: str, second: str, *, level: float = 0.95, folder: Path | None = None) -> Difference:
    r"""Accuracy of one module less that of another, with an interval for other seeds and other test images.

    At one seed both see the same images in the same order. With d_si ∈ {−1, 0, 1} at seed s and image i, the variance
    of the mean is taken as σ_s²/S + σ_i²/N + σ_e²/SN, the parts of a two-way analysis of variance: var_s(d_s·)
    estimates σ_s² + σ_e²/N, var_i(d_·i) estimates σ_i² + σ_e²/S, and the mean square of what neither explains σ_e². The
    interval is t with S − 1 degrees of freedom.

    Args:
        first: Name of the one.
        second: Name of the other.
        level: Of the interval, 0…1.
        folder: Where the results lie; None for ``data/results``.

    Raises:
        ValueError: A name without runs, no seed that both have, or a level that is no share.
    """
    checks.share(level, "results: level")
    if _set(first) != _set(second):
        raise ValueError(f"results: {first!r} and {second!r} were tested on different images.")
    one, other = correct(first, folder), correct(second, folder)
    seeds = tuple(sorted(set(one) & set(other)))
    if not seeds:
        raise ValueError(
            f"results: {first!r} and {second!r} have no seed in common: {sorted(one)} and {sorted(other)}."
        )
    d = np.stack([one[seed].astype(float) - other[seed].astype(float) for seed in seeds])
    by_seed, by_image = d.mean(axis=1), d.mean(axis=0)
    half = math.nan
    if len(seeds) > 1:
        count, images = d.shape
        rest = d - by_seed[:, None] - by_image + d.mean()
        unexplained = np.square(rest).sum() / ((count - 1) * max(images - 1, 1))
        of_images = max(by_image.var(ddof=1) - unexplained / count, 0.0) if images > 1 else 0.0
        variance = by_seed.var(ddof=1) / count + of_images / images
        half = t_half_width(math.sqrt(variance), len(seeds), level)
    mean = float(d.mean())
    return Difference(
        first, second, seeds, d.shape[1], tuple(map(float, by_seed)), mean, mean - half, mean + half, level
    )
