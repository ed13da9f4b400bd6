"""How the bundled models are trained: by one recipe a set of images, seeded, resumable, on the CPU or the GPU.

AdamW, a linear warm-up and a cosine to zero, horizontal flips and shifts, cross-entropy. Nothing is tuned per attention
module: the models of a set differ in the module alone.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import platform
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import bundle, checks, coverage_records, networks, results, training_sets
from .devices import choose_device
from .gates import evaluating
from .networks import Architecture
from .recipes import Recipe
from .whole_files import replace_file, tidy

__all__ = ["OutOfTime", "Recipe", "TrainingResult", "accuracy", "answers", "keep", "logits", "train", "train_bundled"]


class OutOfTime(Exception):  # noqa: N818 - nothing went wrong: the same call goes on from here
    """The time that was given is over; what was trained is kept."""


@dataclass(frozen=True)
class TrainingResult:
    """What :func:`train` returns.

    Attributes:
        net: The trained network, in eval mode.
        accuracy: Share of the held-out images whose class came first, 0…1.
        seconds: Wall-clock seconds of training, over all resumed parts, without the drawing of the images.
        epochs: Epochs trained.
        history: One row an epoch: epoch, loss, train_accuracy, seconds.
    """

    net: nn.Module
    accuracy: float
    seconds: float
    epochs: int
    history: list[dict[str, float]]


def hardware(device: torch.device | str = "cpu") -> str:
    """One line on what trains: the GPU's name, or the number of CPU threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    if torch.device(device).type == "mps":
        return f"MPS {platform.machine()}"
    return f"CPU {platform.machine()}, {torch.get_num_threads()} thread(s)"


def train(
    architecture: Architecture,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    state: Path | None = None,
    data: tuple[Tensor, Tensor] | None = None,
    test: tuple[Tensor, Tensor] | None = None,
    until: float | None = None,
    progress: bool = True,
) -> TrainingResult:
    """Train one network on the recipe's set of images.

    With ``state``, the whole state is written there after every epoch, and a run that finds the file goes on from it.
    On the CPU an interrupted and resumed run ends in the same weights as one without a break.

    Args:
        architecture: What to train.
        recipe: How; None for the bundled models' own.
        seed: Of the initial weights and the order of the images.
        device: Where.
        state: File for resuming; None for no resuming.
        data: Training images and labels if they are read already (uint8 N×3×H×W, int64 N).
        test: The same for the held-out split.
        until: When to stop, by ``time.monotonic()``: no epoch is begun that would end later, going by the one before,
            but the first of this call always is. None for no such moment.
        progress: Whether to show a progress bar.

    Returns:
        The trained network and what it reached.

    Raises:
        PermissionError: ``state`` may not be read.
        RuntimeError: The device is not there.
        ValueError: ``state`` belongs to another architecture, recipe or seed, or is damaged.
        OutOfTime: The moment came before the last epoch; with ``state``, the same call goes on from there.
    """
    from tqdm.auto import tqdm

    recipe, device = recipe or Recipe(), choose_device(device)
    images, labels = data if data is not None else _read(recipe, "train", progress=progress)
    held_out = test if test is not None else _read(recipe, "test", progress=progress)

    torch.manual_seed(seed)
    net = networks.build(architecture).to(device, memory_format=torch.channels_last)
    decay = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
    )
    steps = math.ceil(len(images) / recipe.batch_size)
    total = steps * recipe.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total, recipe.warmup))

    identity = {
        "architecture": architecture.to_dict(),
        "recipe": asdict(recipe),
        "seed": seed,
        "images": _fingerprint(images, labels),
    }
    done, seconds, history = 0, 0.0, []
    if state is not None:
        tidy(Path(state))
    if state is not None and Path(state).exists():
        saved = _read_state(Path(state))
        if saved["identity"] != identity:
            raise ValueError(
                f"train: {state} belongs to another run: it holds {saved['identity']}, this run is {identity}. "
                f"Delete it to start afresh, or name another file."
            )
        try:
            _check_state(saved, net, recipe)
            net.load_state_dict(saved["net"])
            optimizer.load_state_dict(saved["optimizer"])
            schedule.load_state_dict(saved["schedule"])
        except (MemoryError, torch.OutOfMemoryError):
            raise  # that is no fault of the file
        except Exception as error:  # of other states torch raises nearly anything
            raise _damaged(state, error) from error
        done, seconds, history = saved["epoch"], saved["seconds"], saved["history"]

    images, labels = images.to(device), labels.to(device)
    bar = tqdm(total=total, initial=done * steps, disable=not progress, unit="step", desc="training")
    lasted = 0.0
    with bar:
        for epoch in range(done, recipe.epochs):
            started = time.perf_counter()
            if until is not None and epoch > done and time.monotonic() + lasted > until:
                raise OutOfTime(f"train: stopped after epoch {epoch} of {recipe.epochs}.")
            loss, correct = _epoch(net, optimizer, schedule, images, labels, recipe, seed, epoch, bar)
            lasted = time.perf_counter() - started
            seconds += lasted
            history.append({"epoch": epoch + 1, "loss": loss, "train_accuracy": correct, "seconds": seconds})
            bar.set_postfix(loss=f"{loss:.3f}", train=f"{correct:.1%}")
            if state is not None:
                _save(
                    Path(state),
                    {
                        "identity": identity,
                        "net": net.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                        "epoch": epoch + 1,
                        "seconds": seconds,
                        "history": history,
                    },
                )
    net.eval()
    reached = accuracy(net, *held_out, data=recipe.data, device=device)
    return TrainingResult(net, reached, seconds, recipe.epochs, history)


def _read_state(path: Path) -> dict[str, Any]:
    """What :func:`_save` wrote.

    Raises:
        PermissionError: It may not be read.
        ValueError: It is a folder, or damaged.
    """
    checks.file(path, "train", "the state of a run", "")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch itself does not look at the checksums
        if broken is not None:
            raise ValueError(f"the checksum of {broken} inside it is wrong")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict) or "identity" not in saved:
            raise ValueError("it does not say what was trained")
    except (MemoryError, torch.OutOfMemoryError):
        raise  # that is no fault of the file
    except Exception as error:  # of a damaged file torch and zipfile raise nearly anything
        raise _damaged(path, error) from error
    return saved


def _check_state(saved: dict[str, Any], net: nn.Module, recipe: Recipe) -> None:
    """Raise a ValueError if a state cannot be gone on from; of one that lacks something, a KeyError."""
    own, there = net.state_dict(), saved["net"]
    if {k: (v.shape, v.dtype) for k, v in own.items()} != {k: (v.shape, v.dtype) for k, v in there.items()}:
        raise ValueError("its weights are of another network")
    if not all(bool(value.isfinite().all()) for value in there.values()):
        raise ValueError("it has weights that are NaN or infinite: the training diverged, or something changed it")
    epoch, history = saved["epoch"], saved["history"]
    if not isinstance(epoch, int) or not 0 < epoch <= recipe.epochs or len(history) != epoch:
        raise ValueError(f"it says epoch {epoch!r} of {recipe.epochs}, and does not have the history of as many")
    if not isinstance(saved["seconds"], float):
        raise ValueError("it does not say how long it was trained")


def _damaged(state: Path, error: Exception) -> ValueError:
    return ValueError(f"train: {state} is damaged ({str(error)[:300]}). Delete it to start afresh.")


def _read(recipe: Recipe, split: str, root: Path | None = None, progress: bool = True) -> tuple[Tensor, Tensor]:
    count = recipe.train_images if split == "train" else recipe.test_images
    found = training_sets.SETS[recipe.data].read(split, count, root, progress)
    return found.images, found.labels


def _fingerprint(images: Tensor, labels: Tensor) -> str:
    """Sixteen hex digits that stand for a set of images and their order."""
    digest = hashlib.blake2b(digest_size=8)
    for one in (images, labels):
        digest.update(one.cpu().contiguous().numpy())
    return digest.hexdigest()


def _rate(step: int, total: int, warmup: float) -> float:
    rise = max(1, int(total * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def _epoch(net, optimizer, schedule, images, labels, recipe, seed, epoch, bar) -> tuple[float, float]:
    """One pass; order, flips and shifts depend on (seed, epoch) alone. Returns mean loss and training accuracy."""
    normalise = training_sets.SETS[recipe.data].normalise
    net.train()
    random = torch.Generator().manual_seed(seed * 100_003 + epoch)
    order = torch.randperm(len(images), generator=random)
    flips = torch.rand(len(images), generator=random) < 0.5
    shifts = torch.randint(2 * recipe.shift + 1, (len(images), 2), generator=random) if recipe.shift else None
    loss_sum = torch.zeros((), device=images.device)
    hits = torch.zeros((), device=images.device)
    for batch in order.split(recipe.batch_size):
        x = images[batch] if shifts is None else shifted(images[batch], shifts[batch], recipe.shift)
        x = normalise(x)
        flip = flips[batch].to(x.device)
        x = torch.where(flip[:, None, None, None], x.flip(-1), x).contiguous(memory_format=torch.channels_last)
        target = labels[batch]
        logits = net(x)
        loss = nn.functional.cross_entropy(logits, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        loss_sum += loss.detach() * len(batch)
        hits += (logits.detach().argmax(1) == target).sum()
        bar.update()
    return float(loss_sum) / len(images), float(hits) / len(images)


def shifted(images: Tensor, shifts: Tensor, most: int) -> Tensor:
    """Images moved, each by its own number of pixels; what moves in is 0.

    Args:
        images: N×3×H×W.
        shifts: int64 N×2, down and right, 0…2·most: ``most`` leaves an image where it is.
        most: Pixels.
    """
    n, _, height, width = images.shape
    padded = nn.functional.pad(images, (most, most, most, most))
    down, right = (2 * most - shifts.to(images.device)).unbind(1)
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = right[:, None] + torch.arange(width, device=images.device)
    every = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _save(path: Path, state: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(state, content)  # by itself it says of a full disk only that a position was unexpected
    replace_file(path, content.getvalue())


def logits(
    net: nn.Module, images: Tensor, *, data: str = "shapes", batch_size: int = 200, device: torch.device | str = "cpu"
) -> Tensor:
    """What a network answers, float32 N×classes on the CPU; its training flags are left as found.

    Args:
        net: N×3×H×W → N×classes.
        images: uint8 N×3×H×W.
        data: The set that they are normalised as.
        batch_size: Images a step.
        device: Where the network is.
    """
    normalise = training_sets.SETS[data].normalise
    with evaluating(net):
        return torch.cat([net(normalise(x.to(device))).float().cpu() for x in images.split(batch_size)])


def answers(net: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> np.ndarray:
    """Whether the class of each image comes first, bool N; other arguments are those of :func:`logits`."""
    return (logits(net, images, **options).argmax(1) == labels).numpy()


def accuracy(net: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> float:
    """Share of images whose class comes first, 0…1; arguments are those of :func:`answers`."""
    return float(answers(net, images, labels, **options).mean())


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
        ValueError: A name that the bundle does not have or that is of another set of images, or runs that are there
            with another recipe.
        OutOfTime: The minutes are over before all is trained.
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
        run = keep(name, seed, result.net, *about, replaced=todo)
        state.unlink(missing_ok=True)
        if redo:
            done.add((name, seed, recipe.digest))
            replace_file(redone, json.dumps(sorted(done)).encode())
        if progress:
            print(f"{name}, seed {seed}: {run.accuracy:.2%} of {run.test_images} held-out images, {run.seconds:.0f} s")
        if until is not None and (name, seed) != todo[-1] and time.monotonic() > until:
            raise OutOfTime(f"train: stopped after {name}, seed {seed}.")
    if redo:
        redone.unlink(missing_ok=True)


def _read_redone(path: Path) -> set[tuple[str, int, str]]:
    try:
        return {(name, seed, digest) for name, seed, digest in json.loads(path.read_text("utf-8"))}
    except (TypeError, ValueError) as error:
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
    """
    images = training_sets.SETS[recipe.data]
    answered = logits(net, test.images, data=recipe.data, device=device)
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
