"""Long work takes no more memory at its end than at its beginning, and leaves nothing open."""

import gc
import random
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from test_explorers import CLASSES, Drawn, make

import ecaviz

pytestmark = [
    pytest.mark.long,
    pytest.mark.usefixtures("no_loop"),
    pytest.mark.skipif(sys.platform != "linux", reason="the resident size of a process is read from /proc"),
]


def resident():
    """MB of memory that the process has now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def open_figures():
    """How many figures are in memory, pyplot's or not."""
    return sum(issubclass(type(one), plt.Figure) for one in gc.get_objects())


class Many(torch.utils.data.Dataset):
    """Images that take no memory: each is drawn when it is asked for. It notes the memory now and then."""

    classes = CLASSES

    def __init__(self, n, every):
        self.n, self.every, self.seen = n, every, []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i % self.every == 0:
            self.seen.append(resident())
        generator = torch.Generator().manual_seed(i)
        return torch.randint(0, 256, (3, 16, 16), generator=generator, dtype=torch.uint8), i % 3


@pytest.mark.parametrize("by", [None, "class"])
def test_the_memory_of_a_profile_does_not_grow_with_its_images(by, tmp_path):
    images = Many(100_000, 10_000)
    model = make("se", "small", blocks=(1, 1, 1, 1), reduction=4)
    found = ecaviz.profile(
        model, images, by=by, batch_size=250, checkpoint=tmp_path / "so-far.safetensors", progress=False
    )
    assert found.n == 100_000
    grown = max(images.seen[2:]) - images.seen[1]  # after the first 10,000 everything has its room
    print(f"profile by {by}: {images.seen[1]:.0f} MB after 10,000 images, {grown:+.1f} MB in the next 90,000")
    assert grown < 24


EXPLORERS = {
    "Layer": lambda models: ecaviz.LayerExplorer(models, Drawn(60)),
    "Kernel": lambda models: ecaviz.KernelExplorer(models[1], Drawn(60)),
    "Picture": lambda models: ecaviz.PictureExplorer(models[0], images=Drawn(60)),
    "Coverage": lambda models: ecaviz.CoverageExplorer(models, Drawn(60)),
    "Module": lambda models: ecaviz.ModuleExplorer(),
    "Rule": lambda models: ecaviz.RuleExplorer(),
}


@pytest.mark.parametrize("name", EXPLORERS)
def test_the_memory_of_an_explorer_does_not_grow_with_its_moves(name):
    models = [make("se", "se-4", reduction=4), make("eca", "eca-5", kernel_size=5, seed=1)]
    explorer = EXPLORERS[name](models)
    explorer.picture.most = 4 * 2**20  # frames fill their room within the first moves
    chance = random.Random(0)
    moved = {}

    def move():
        trait = chance.choice([one for one, control in explorer.controls.items() if not control.disabled])
        control = explorer.controls[trait]
        before = control.value
        if hasattr(control, "index"):
            control.index = chance.randrange(len(control.options))
        elif isinstance(before, bool):
            control.value = not before
        else:
            control.value = control.min + chance.randrange(round((control.max - control.min) / control.step) + 1) * (
                control.step
            )
        moved[trait] = moved.get(trait, 0) + (control.value != before)

    for _ in range(500):
        move()
    before, figures = resident(), open_figures()
    for _ in range(1000):
        move()
    grown = resident() - before
    print(f"{name}Explorer: {before:.0f} MB, {grown:+.1f} MB in 1,000 moves: {moved}")
    assert sum(moved.values()) > 500, "the controls hardly moved"
    assert grown < 24
    assert plt.get_fignums() == []
    assert open_figures() <= figures
    explorer.close()
