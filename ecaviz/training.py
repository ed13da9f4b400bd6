"""How the bundled models are trained: by one recipe a set of images, seeded, resumable, on the CPU or the GPU.

AdamW, a linear warm-up and a cosine to zero, horizontal flips and shifts, cross-entropy. Nothing is tuned per attention
module: the models of a set differ in the module alone.
"""

from __future__ import annotations

import math
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import checks, networks, tensor_files, training_sets, training_states
from .devices import choose_device
from .gates import evaluating
from .memory import memory_in_words
from .networks import Architecture
from .recipes import Recipe
from .whole_files import tidy, writable_file

__all__ = [
    "OutOfTime",
    "Recipe",
    "TrainingResult",
    "accuracy",
    "answers",
    "hardware",
    "logits",
    "memory_advice",
    "train",
]


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
        seed: Of the initial weights and the order of the images: from 0 to 2³² − 1.
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
        OSError: ``state`` cannot be written, which is told before the first epoch; or may not be read.
        RuntimeError: The device is not there; or memory ran out (torch.OutOfMemoryError, on a GPU): a note says what to
            do, and ``state`` is that of the epoch before then.
        ValueError: ``state`` belongs to another architecture, recipe or seed, or is damaged; or the training diverged:
            the loss or a weight is NaN or infinite. ``state`` is that of the epoch before then.
        OutOfTime: The moment came before the last epoch; with ``state``, the same call goes on from there.
    """
    recipe, device, seed = recipe or Recipe(), choose_device(device), checks.uint32(seed, "train: seed")
    with memory_in_words(lambda: memory_advice(recipe, state)):
        return _train(architecture, recipe, seed, device, state, data, test, until, progress)


def memory_advice(recipe: Recipe, state: Path | None) -> str:
    """What is kept of a training for which memory ran out, and what to do; see :mod:`ecaviz.memory`.

    Args:
        recipe: How is trained.
        state: File for resuming; None for none.
    """
    kept = "Nothing was kept"
    if state is not None and Path(state).exists():
        kept = f"The state after the last whole epoch is kept in {state}, and the same call goes on from there"
    return (
        f"train: memory ran out. {kept}. End what else needs memory there and start again; or train afresh with a "
        f"smaller batch_size in the recipe (it is {recipe.batch_size})."
    )


def _train(
    architecture: Architecture,
    recipe: Recipe,
    seed: int,
    device: torch.device,
    state: Path | None,
    data: tuple[Tensor, Tensor] | None,
    test: tuple[Tensor, Tensor] | None,
    until: float | None,
    progress: bool,
) -> TrainingResult:
    """As :func:`train`, which says what the arguments are."""
    from tqdm.auto import tqdm

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
        "images": training_states.fingerprint(images, labels),
    }
    done, seconds, history = 0, 0.0, []
    if state is not None:
        tidy(Path(state))
    if state is not None and Path(state).exists():
        saved = training_states.read(Path(state))
        if saved["identity"] != identity:
            raise ValueError(
                f"train: {state} belongs to another run: it holds {saved['identity']}, this run is {identity}. "
                f"Delete it to start afresh, or name another file."
            )
        try:
            training_states.check(saved, net, recipe)
            net.load_state_dict(saved["net"])
            optimizer.load_state_dict(saved["optimizer"])
            schedule.load_state_dict(saved["schedule"])
        except (MemoryError, torch.OutOfMemoryError):
            raise  # that is no fault of the file
        except Exception as error:  # of other states torch raises nearly anything
            raise training_states.damaged(state, error) from error
        done, seconds, history = saved["epoch"], saved["seconds"], saved["history"]

    images, labels = images.to(device), labels.to(device)
    bar = tqdm(total=total, initial=done * steps, disable=not progress, unit="step", desc="training")
    lasted = 0.0
    with writable_file(state, "train: state", ".pt"), bar:
        for epoch in range(done, recipe.epochs):
            started = time.perf_counter()
            if until is not None and epoch > done and time.monotonic() + lasted > until:
                raise OutOfTime(f"train: stopped after epoch {epoch} of {recipe.epochs}.")
            loss, correct = _epoch(net, optimizer, schedule, images, labels, recipe, seed, epoch, bar)
            _check_finite(loss, net, recipe, epoch, state)
            lasted = time.perf_counter() - started
            seconds += lasted
            history.append({"epoch": epoch + 1, "loss": loss, "train_accuracy": correct, "seconds": seconds})
            bar.set_postfix(loss=f"{loss:.3f}", train=f"{correct:.1%}")
            if state is not None:
                training_states.write(
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


def _read(recipe: Recipe, split: str, root: Path | None = None, progress: bool = True) -> tuple[Tensor, Tensor]:
    count = recipe.train_images if split == "train" else recipe.test_images
    found = training_sets.SETS[recipe.data].read(split, count, root, progress)
    return found.images, found.labels


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


def _check_finite(loss: float, net: nn.Module, recipe: Recipe, epoch: int, state: Path | None) -> None:
    """Raise a ValueError if an epoch has left a loss or weights that are NaN or infinite."""
    bad = tensor_files.not_finite(net.state_dict())
    if math.isfinite(loss) and not bad:
        return
    kept = "" if state is None else f" {state} was not written."
    if state is not None and epoch:
        kept = f" {state} stays as it was after epoch {epoch}; delete it before another recipe is tried."
    raise ValueError(
        f"train: the training diverged in epoch {epoch + 1} of {recipe.epochs}: its mean loss is {loss:g}"
        f"{f', and weights are NaN or infinite, in {bad}' if bad else ''}. Lower the recipe's learning_rate (it is "
        f"{recipe.learning_rate:g}), or give it a longer warmup ({recipe.warmup:g}).{kept}"
    )


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
