"""The bundled models are trained: which runs there are, what is kept of each, and where a stopped call goes on."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import bundle, checks, coverage_records, results, training_sets
from .memory import memory_in_words
from .recipes import Recipe
from .training import OutOfTime, hardware, logits, memory_advice, train
from .whole_files import replace_file, writable_folder

__all__ = ["keep", "train_bundled"]


def train_bundled(
    names: Sequence[str],
    *,
    seeds: Sequence[int] = (0,),
    recipe: Recipe | None = None,
    device: str | torch.device = "cpu",
    folder: Path | None = None,
    scratch: Path = Path("build/training"),
    root: Path | None = None,
    minutes: float | None = None,
    redo: bool = False,
    progress: bool = True,
) -> None:
    """Train bundled models by name; runs that are there already are kept.

    Every run is recorded in the results (:mod:`ecaviz.results`; those on the procedural set also in
    :mod:`ecaviz.coverages`). Seed 0 is the one that is bundled: its checkpoint and its row of the manifest are written
    too. The networks of other seeds are left in ``scratch``.

    Args:
        names: Names of :data:`ecaviz.bundle.BUNDLE`, all of the recipe's set of images.
        seeds: Seeds of each; all names of one seed come before the next seed.
        recipe: How; None for that of the procedural set.
        device: Where.
        folder: Where the checkpoints go, and the results in its subfolder ``results``; None for ``data/checkpoints``
            and ``data/results``.
        scratch: Folder of the resumable states, the loss histories and the networks of other seeds than 0.
        root: Where CIFAR-10 lies; see :class:`ecaviz.cifar10.Cifar10`.
        minutes: Time after which to stop, after an epoch; the same call goes on from there. None for no limit.
        redo: Train also what is there already.
        progress: Whether to show progress bars.

    Raises:
        ValueError: A seed that is none, a name that the bundle does not have or that is of another set of images, or
            runs that are there with another recipe; or a training that diverged. The rest is not trained then: one
            recipe is for all, and with another learning rate it would have to be trained anew. What is recorded stays.
        OutOfTime: The minutes are over before all is trained.
        OSError: Nothing can be written into one of the folders; told before anything is trained.
    """
    recipe = recipe or Recipe()
    unknown = [name for name in names if name not in bundle.BUNDLE]
    if unknown:
        raise ValueError(f"train: the bundle has no {', '.join(unknown)}. It has: {', '.join(bundle.BUNDLE)}.")
    foreign = [name for name in names if training_sets.of(name).name != recipe.data]
    if foreign:
        raise ValueError(
            f"train: {', '.join(foreign)}: the recipe {recipe.name} is for models of {recipe.data}. "
            f"Name another with --recipe, such as data/recipes/{training_sets.of(foreign[0]).name}.toml."
        )
    until = None if minutes is None else time.monotonic() + 60 * minutes
    kept = None if folder is None else Path(folder) / "results"
    seeds = [checks.uint32(seed, "train: a seed") for seed in seeds]
    wanted = [(name, seed) for seed in dict.fromkeys(seeds) for name in dict.fromkeys(names)]
    if not wanted:
        raise ValueError("train: at least one model and one seed were expected, got none.")
    images = training_sets.SETS[recipe.data]
    redone = scratch / "redone.json"  # so that training anew, too, goes on where it was stopped
    done = _read_redone(redone) if redo and redone.is_file() else set()
    source = images.source(root)
    if redo:
        todo = [(name, seed) for name, seed in wanted if (name, seed, recipe.digest) not in done]
    else:
        todo = [one for one in wanted if not _is_there(*one, recipe, source, folder, kept)]
    if not todo:
        if progress:
            print(f"there already: {', '.join(f'{name} (seed {seed})' for name, seed in wanted)}", flush=True)
        return
    with ExitStack() as held:
        for place in _written(todo, folder, kept, scratch):
            held.enter_context(writable_folder(place, f"train: {place}"))
        test = images.read("test", recipe.test_images, root, progress)
        followed = test.data, recipe.name, recipe.digest, recipe.epochs, recipe.train_images, recipe.test_images
        results.check_recipe(*followed, replaced=todo, folder=kept)  # before hours of work, not after
        bundle.manifest(folder)  # it can be read
        data = images.read("train", recipe.train_images, root, progress)
        for name, seed in todo:
            if progress:
                print(f"{name}, seed {seed}", flush=True)
            state = scratch / f"{name}-seed{seed}.pt"
            result = train(
                replace(bundle.BUNDLE[name], **recipe.network),
                recipe,
                seed=seed,
                device=device,
                state=state,
                data=(data.images, data.labels),
                test=(test.images, test.labels),
                until=until,
                progress=progress,
            )
            _write_history(scratch / f"{name}-seed{seed}.csv", result.history)
            about = result.seconds, hardware(device), recipe, test, device, folder, scratch
            with memory_in_words(memory_advice(recipe, state)):
                run = keep(name, seed, result.net, *about, replaced=todo)
            state.unlink(missing_ok=True)
            if redo:
                done.add((name, seed, recipe.digest))
                replace_file(redone, json.dumps(sorted(done)).encode())
            if progress:
                print(
                    f"{name}, seed {seed}: {run.accuracy:.2%} of {run.test_images} held-out images, {run.seconds:.0f} s"
                )
            if until is not None and (name, seed) != todo[-1] and time.monotonic() > until:
                raise OutOfTime(f"train: stopped after {name}, seed {seed}.")
        if redo:
            redone.unlink(missing_ok=True)


def _written(todo: Sequence[tuple[str, int]], folder: Path | None, kept: Path | None, scratch: Path) -> list[Path]:
    """The folders that these runs write into: checkpoints, where there are runs of seed 0, results and states."""
    checkpoints = [folder or bundle.data_folder() / "checkpoints"] if any(seed == 0 for _, seed in todo) else []
    return [*checkpoints, kept or bundle.data_folder() / "results", scratch]


def _read_redone(path: Path) -> set[tuple[str, int, str]]:
    try:
        return {(name, seed, digest) for name, seed, digest in json.loads(path.read_text("utf-8"))}
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"train: {path} is damaged ({error}); it says what --redo has trained already. Delete it to train all anew."
        ) from error


def keep(
    name: str,
    seed: int,
    net: nn.Module,
    seconds: float,
    made_on: str,
    recipe: Recipe,
    test: training_sets.Images,
    device: str | torch.device = "cpu",
    folder: Path | None = None,
    scratch: Path = Path("build/training"),
    replaced: Sequence[tuple[str, int]] = (),
) -> results.Run:
    """Evaluate a trained network on the held-out split and record the run; of seed 0 keep the network too.

    Args:
        name: Name of the model.
        seed: Its seed.
        net: The trained network.
        seconds: How long the training took.
        made_on: What it was trained on.
        recipe: How it was trained.
        test: The held-out split.
        device: Where the network is.
        folder: As for :func:`train_bundled`.
        scratch: As for :func:`train_bundled`.
        replaced: As for :func:`ecaviz.results.record`.

    Raises:
        ValueError: The network has weights or answers that are NaN or infinite; nothing is written.
    """
    images = training_sets.SETS[recipe.data]
    answered = logits(net, test.images, data=recipe.data, device=device)
    if not bool(answered.isfinite().all()):
        raise ValueError(
            f"train: what {name}, seed {seed}, answers is NaN or infinite, and it is not kept: the training diverged. "
            f"Lower the recipe's learning_rate ({recipe.learning_rate:g}). What was recorded before is untouched."
        )
    right = (answered.argmax(1) == test.labels).numpy()
    about = {
        "data": test.data,
        "seed": seed,
        "epochs": recipe.epochs,
        "train_images": recipe.train_images,
        "seconds": round(seconds, 1),
        "hardware": made_on,
        "test_images": len(right),
        "accuracy": round(float(right.mean()), 5),
    }
    architecture = replace(bundle.BUNDLE[name], **recipe.network)
    run = results.Run(
        name=name,
        family=architecture.attention,
        setting=bundle.setting(architecture),
        recipe=recipe.name,
        digest=recipe.digest,
        loss=round(float(nn.functional.cross_entropy(answered, test.labels)), 5),
        parameters=sum(p.numel() for p in net.parameters()),
        **about,
        **_by_need(images, right, test.labels),
    )
    kept = None if folder is None else Path(folder) / "results"
    to = folder if seed == 0 else scratch
    bundle.write(name if seed == 0 else f"{name}-seed{seed}", net, architecture, images.classes, about, to)
    if recipe.data == "shapes":
        few = images.normalise(test.images[: coverage_records.IMAGES].to(device))
        coverage_records.record(*coverage_records.measure(name, seed, net, few), kept)
    results.record(run, right, kept, replaced=replaced)  # last: a run that is recorded is not done again
    return run


def _by_need(images: training_sets.TrainingSet, right: np.ndarray, labels: Tensor) -> dict[str, float]:
    """The accuracy over the classes that need shape, texture or both, where the set's classes do."""
    needs = np.array([images.needs.get(images.classes[label], "") for label in labels.tolist()])
    groups = dict.fromkeys(images.needs.values())
    return {
        f"accuracy_{need}": round(float(right[needs == need].mean()), 5) if (needs == need).any() else 0.0
        for need in groups
    }


def _is_there(name: str, seed: int, recipe: Recipe, source: str, folder: Path | None, kept: Path | None) -> bool:
    """Whether the very run was recorded; one of another recipe under the same name and seed is in the way."""
    try:
        table = results.runs(kept, data=recipe.data)
    except FileNotFoundError:
        return False
    rows = table[(table["name"] == name) & (table["seed"] == seed)]
    if rows.empty or (seed == 0 and name not in bundle.manifest(folder)):
        return False
    row = rows.iloc[0]
    numbers = (int(row[column]) for column in ("epochs", "train_images", "test_images"))
    found = row["data"], row["recipe"], row["digest"], *numbers
    wanted = source, recipe.name, recipe.digest, recipe.epochs, recipe.train_images, recipe.test_images
    if found != wanted:
        raise ValueError(
            f"train: {name}, seed {seed} is there with (data, recipe, its digest, epochs, train images, test images) = "
            f"{found}, and {wanted} was asked for. Replace it with --redo, or keep both with --out."
        )
    return True


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]))
    writer.writeheader()
    writer.writerows(history)
    replace_file(path, text.getvalue().encode())
