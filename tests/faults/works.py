"""What the tests of stopped processes do, by name; see stopping.py. Everything given and returned goes through JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas  # noqa: F401 - here once, instead of in each process
import timm  # noqa: F401
import torch
import torch._dynamo  # optimizers import it
import tqdm.auto  # noqa: F401
from huggingface_hub import constants
from torch import nn

from ecaviz import (
    attention,
    bundle,
    bundle_training,
    hub,
    images,
    models,
    results,
    training,
    training_sets,
    weight_files,
)
from ecaviz.networks import Architecture
from ecaviz.profiles import AttentionProfile, fingerprint_of, profile
from ecaviz.recipes import Recipe
from ecaviz.shapes import CLASSES, normalise

N, BATCH = 40, 4
TINY = Architecture("eca", {"kernel_size": 3}, classes=12, blocks=(1, 1, 1), planes=(4, 4, 8), stem=4)
RECIPE = Recipe(train_images=32, test_images=16, epochs=3, batch_size=16)
bundle.BUNDLE["tiny"] = TINY


def pictures(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of noise and their labels, always the same."""
    noise = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=noise)
    return pixels, torch.arange(count) % 12


class Net(nn.Module):
    """Two sites."""

    def __init__(self):
        super().__init__()
        self.stem, self.eca = nn.Conv2d(3, 16, 5, stride=4), attention.ECA(16, 3)
        self.middle, self.se = nn.Conv2d(16, 16, 3, stride=2), attention.SE(16, 4)
        self.head = nn.Linear(16, 12)

    def forward(self, x):
        return self.head(self.se(self.middle(self.eca(self.stem(x))).relu()).mean((2, 3)))


def model() -> models.LoadedModel:
    """A network with two sites, always the same."""
    torch.manual_seed(0)
    return models.load(Net(), transform=normalise, classes=CLASSES, device="cpu")


def train(state: str | None) -> str:
    """Train with a state that is resumed; the fingerprint of the network."""
    state = None if state is None else Path(state)
    data, test = pictures(32, 0), pictures(16, 1)
    found = training.train(TINY, RECIPE, state=state, data=data, test=test, progress=False)
    assert [row["epoch"] for row in found.history] == [1, 2, 3]
    return fingerprint_of(found.net)


def train_two(folder: str) -> None:
    """Train a bundled model with two seeds, and record them, as ``python -m ecaviz train`` does."""

    def read(_set, split, count, *_):
        return training_sets.Images("shapes", *pictures(count, int(split == "test")))

    training_sets.TrainingSet.read = read
    options = {"folder": Path(folder) / "out", "scratch": Path(folder) / "scratch", "progress": False}
    bundle_training.train_bundled(["tiny"], seeds=(0, 1), recipe=replace(RECIPE, epochs=1), **options)


def take_profile(checkpoint: str | None) -> int:
    """One pass with a checkpoint after every batch; how many batches it took."""
    drawn, loaded, seen = images.shapes("test", N), model(), []
    loaded.net.register_forward_pre_hook(lambda *_: seen.append(1))
    profile(loaded, drawn, by="class", batch_size=BATCH, every=1, checkpoint=checkpoint, progress=False)
    return len(seen)


def save(source: str, target: str) -> None:
    """Write one profile over another."""
    AttentionProfile.load(source).save(target)


def save_table(source: str, target: str) -> None:
    """Write the table of a profile over another table."""
    AttentionProfile.load(source).save_table(target)


RUN = results.Run(
    name="shapes-se-r4",
    data="shapes",
    family="se",
    setting="r=4",
    recipe="shapes",
    digest="00000000",
    seed=0,
    epochs=1,
    train_images=10,
    seconds=2.5,
    hardware="CPU",
    test_images=50,
    accuracy=0.5,
    loss=1.25,
    parameters=1000,
)


def answers(seed: int) -> np.ndarray:
    """What a recorded run got right."""
    return np.arange(50) % (seed + 2) == 0


def record(folder: str, seed: int) -> None:
    """Record one run."""
    results.record(replace(RUN, seed=seed), answers(seed), Path(folder))


def refusal(path: str, allowed: bool) -> str:
    """What is said of a file of weights that is refused; NumPy's own kinds may be allowed by somebody else before."""
    if allowed:
        kind, scalar = np.dtype("f8"), np.float64(0).__reduce__()[0]
        torch.serialization.add_safe_globals([np.dtype, type(kind), scalar, (scalar, "numpy.core.multiarray.scalar")])
    try:
        weight_files.read(path)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{path} was read")


def fetch(name: str, repo: str, home: str, endpoint: str) -> str:
    """Download the weights of a repository from a server into a cache."""
    constants.ENDPOINT, constants.HF_HUB_OFFLINE = endpoint, False
    constants.HF_HUB_CACHE, constants.HF_TOKEN_PATH = f"{home}/hub", f"{home}/token"
    return str(hub.fetch(name, repo))
