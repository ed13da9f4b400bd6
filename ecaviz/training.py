"""The recipe behind the bundled models: one recipe, seeded, resumable, on the CPU or the GPU.

AdamW, a linear warm-up and a cosine to zero, horizontal flips, cross-entropy. Nothing is tuned per attention module:
the models differ in the module alone.
"""

from __future__ import annotations

import csv
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import bundle, coverage_records, networks, results
from .gates import evaluating
from .networks import Architecture
from .shapes import CLASSES, NEEDS, Shapes, normalise

__all__ = ["Recipe", "TrainingResult", "accuracy", "answers", "keep", "train", "train_bundled"]


@dataclass(frozen=True)
class Recipe:
    """All that decides a bundled model besides its architecture and its seed.

    Attributes:
        train_images: Images drawn from the training split (with the set's own seed 0).
        test_images: Images of the held-out split that the accuracy is of.
        epochs: Passes over the training images.
        batch_size: Images a step.
        learning_rate: The peak, reached after the warm-up.
        weight_decay: Decoupled, on the weights of convolutions and linear layers; none on norms, biases and the vector
            w of SE-Var2.
        warmup: Share of all steps in which the learning rate rises from zero.
    """

    train_images: int = 24_000
    test_images: int = 3_600
    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.1

    def __post_init__(self) -> None:
        for name in ("train_images", "test_images", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"train: {name} must be at least 1, got {getattr(self, name)!r}.")


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
    progress: bool = True,
) -> TrainingResult:
    """Train one network on the procedural set.

    With ``state``, the whole state is written there after every epoch, and a run that finds the file goes on from it.
    On the CPU an interrupted and resumed run ends in the same weights as one without a break.

    Args:
        architecture: What to train.
        recipe: How; None for the bundled models' own.
        seed: Of the initial weights and the order of the images.
        device: Where.
        state: File for resuming; None for no resuming.
        data: Training images and labels if they are drawn already (uint8 N×3×H×W, int64 N).
        test: The same for the held-out split.
        progress: Whether to show a progress bar.

    Returns:
        The trained network and what it reached.

    Raises:
        ValueError: ``state`` belongs to another architecture, recipe or seed.
    """
    from tqdm.auto import tqdm

    recipe = recipe or Recipe()
    images, labels = data if data is not None else Shapes("train", recipe.train_images).tensors(progress)
    held_out = test if test is not None else Shapes("test", recipe.test_images).tensors(progress)
    device = torch.device(device)

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

    identity = {"architecture": architecture.to_dict(), "recipe": asdict(recipe), "seed": seed}
    done, seconds, history = 0, 0.0, []
    if state is not None and Path(state).is_file():
        try:
            saved = torch.load(state, map_location=device, weights_only=True)
        except Exception as error:  # of a damaged file torch raises nearly anything
            raise ValueError(f"train: {state} is damaged ({error}). Delete it to start afresh.") from error
        if saved["identity"] != identity:
            raise ValueError(
                f"train: {state} belongs to another run: it holds {saved['identity']}, this run is {identity}. "
                f"Delete it to start afresh, or name another file."
            )
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        done, seconds, history = saved["epoch"], saved["seconds"], saved["history"]

    images, labels = images.to(device), labels.to(device)
    bar = tqdm(total=total, initial=done * steps, disable=not progress, unit="step", desc="training")
    with bar:
        for epoch in range(done, recipe.epochs):
            started = time.perf_counter()
            loss, correct = _epoch(net, optimizer, schedule, images, labels, recipe, seed, epoch, bar)
            seconds += time.perf_counter() - started
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
    return TrainingResult(net, accuracy(net, *held_out, device=device), seconds, recipe.epochs, history)


def _rate(step: int, total: int, warmup: float) -> float:
    rise = max(1, int(total * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def _epoch(net, optimizer, schedule, images, labels, recipe, seed, epoch, bar) -> tuple[float, float]:
    """One pass; the order and the flips depend on (seed, epoch) alone. Returns mean loss and training accuracy."""
    net.train()
    random = torch.Generator().manual_seed(seed * 100_003 + epoch)
    order = torch.randperm(len(images), generator=random)
    flips = torch.rand(len(images), generator=random) < 0.5
    loss_sum = torch.zeros((), device=images.device)
    hits = torch.zeros((), device=images.device)
    for batch in order.split(recipe.batch_size):
        x = normalise(images[batch])
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


def _save(path: Path, state: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    torch.save(state, partial)
    partial.replace(path)


def answers(
    net: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 200, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Whether the class of each image comes first, bool N; the network's training flags are left as found.

    Args:
        net: N×3×H×W → N×classes.
        images: uint8 N×3×H×W.
        labels: int64 N.
        batch_size: Images a step.
        device: Where the network is.
    """
    with evaluating(net):
        parts = [
            net(normalise(x.to(device))).argmax(1).cpu() == y
            for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True)
        ]
    return torch.cat(parts).numpy()


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
    redo: bool = False,
    progress: bool = True,
) -> None:
    """Train bundled models by name; runs that are there already are kept.

    Every run is recorded in the results (:mod:`ecaviz.results`, :mod:`ecaviz.coverages`). Seed 0 is the one that is
    bundled: its checkpoint and its row of the manifest are written too. The networks of other seeds are left in
    ``scratch``.

    Args:
        names: Names of :data:`ecaviz.bundle.BUNDLE`.
        seeds: Seeds of each.
        recipe: How; None for the bundle's own.
        device: Where.
        folder: Where the checkpoints go, and the results in its subfolder ``results``; None for ``data/checkpoints``
            and ``data/results``.
        scratch: Folder of the resumable states, the loss histories and the networks of other seeds than 0.
        redo: Train also what is there already.
        progress: Whether to show progress bars.

    Raises:
        ValueError: A name that the bundle does not have, or runs that are there with another recipe.
    """
    unknown = [name for name in names if name not in bundle.BUNDLE]
    if unknown:
        raise ValueError(f"train: the bundle has no {', '.join(unknown)}. It has: {', '.join(bundle.BUNDLE)}.")
    recipe = recipe or Recipe()
    kept = None if folder is None else Path(folder) / "results"
    wanted = [(name, seed) for seed in seeds for name in names]
    todo = [one for one in wanted if redo or not _is_there(*one, recipe, folder, kept)]
    if not todo:
        if progress:
            print(f"there already: {', '.join(f'{name} (seed {seed})' for name, seed in wanted)}", flush=True)
        return
    lengths = recipe.epochs, recipe.train_images, recipe.test_images
    results.check_recipe(*lengths, replaced=todo, folder=kept)  # before hours of work, not after
    data = Shapes("train", recipe.train_images).tensors(progress)
    test = Shapes("test", recipe.test_images).tensors(progress)
    for name, seed in todo:
        if progress:
            print(f"{name}, seed {seed}", flush=True)
        state = scratch / f"{name}-seed{seed}.pt"
        result = train(
            bundle.BUNDLE[name],
            recipe,
            seed=seed,
            device=device,
            state=state,
            data=data,
            test=test,
            progress=progress,
        )
        _write_history(scratch / f"{name}-seed{seed}.csv", result.history)
        run = keep(name, seed, result.net, result.seconds, hardware(device), recipe, test, device, folder, scratch)
        state.unlink(missing_ok=True)
        if progress:
            print(f"{name}, seed {seed}: {run.accuracy:.2%} of {run.test_images} held-out images, {run.seconds:.0f} s")


def keep(
    name: str,
    seed: int,
    net: nn.Module,
    seconds: float,
    made_on: str,
    recipe: Recipe,
    test: tuple[Tensor, Tensor],
    device: str | torch.device = "cpu",
    folder: Path | None = None,
    scratch: Path = Path("build/training"),
) -> results.Run:
    """Evaluate a trained network on the held-out split and record the run and its coverage; of seed 0 keep it too.

    Args:
        name: Name of the model.
        seed: Its seed.
        net: The trained network.
        seconds: How long the training took.
        made_on: What it was trained on.
        recipe: How it was trained.
        test: Images and labels of the held-out split.
        device: Where the network is.
        folder: As for :func:`train_bundled`.
        scratch: As for :func:`train_bundled`.
    """
    architecture = bundle.BUNDLE[name]
    right = answers(net, *test, device=device)
    needs = np.array([NEEDS[CLASSES[label]] for label in test[1].tolist()])
    about = {
        "seed": seed,
        "epochs": recipe.epochs,
        "train_images": recipe.train_images,
        "seconds": round(seconds, 1),
        "hardware": made_on,
        "test_images": len(right),
        "accuracy": round(float(right.mean()), 5),
    }
    to = folder if seed == 0 else scratch
    row = bundle.write(name if seed == 0 else f"{name}-seed{seed}", net, architecture, CLASSES, about, to)
    run = results.Run(
        name=name,
        family=row.family,
        setting=row.setting,
        parameters=row.parameters,
        **about,
        **{
            f"accuracy_{need}": round(float(right[needs == need].mean()), 5) if (needs == need).any() else 0.0
            for need in ("shape", "texture", "both")
        },
    )
    kept = None if folder is None else Path(folder) / "results"
    results.record(run, right, kept)
    images = normalise(test[0][: coverage_records.IMAGES].to(device))
    coverage_records.record(*coverage_records.measure(name, seed, net, images), kept)
    return run


def _is_there(name: str, seed: int, recipe: Recipe, folder: Path | None, kept: Path | None) -> bool:
    """Whether the very run was recorded; one of another length under the same name and seed is in the way."""
    try:
        table = results.runs(kept)
    except FileNotFoundError:
        return False
    rows = table[(table["name"] == name) & (table["seed"] == seed)]
    if rows.empty or (seed == 0 and name not in bundle.manifest(folder)):
        return False
    found = tuple(int(rows.iloc[0][column]) for column in ("epochs", "train_images", "test_images"))
    wanted = (recipe.epochs, recipe.train_images, recipe.test_images)
    if found != wanted:
        raise ValueError(
            f"train: {name}, seed {seed} is there with (epochs, train images, test images) = {found}, and {wanted} was "
            f"asked for. Replace it with --redo, or keep both with --out."
        )
    return True


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)
