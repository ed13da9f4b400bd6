"""Long work takes no more memory at its end than at its beginning, and leaves nothing open."""

import asyncio
import gc
import random
import sys
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from test_explorers import CLASSES, Drawn, make

import ecaviz
from ecaviz import explorer_base
from ecaviz.canvas import Canvas

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the resident size of a process is read from /proc")


def resident():
    """MB of memory that the process has now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def count(kind):
    """How many objects of a kind are in memory: figures, pyplot's or not."""
    gc.collect()
    return sum(issubclass(type(one), kind) for one in gc.get_objects())


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


@pytest.mark.long
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


@pytest.mark.usefixtures("no_loop")
@pytest.mark.parametrize(
    ("name", "moves"),
    [("Rule", 40), *(pytest.param(name, 1000, marks=pytest.mark.long) for name in EXPLORERS)],
)
def test_the_memory_of_an_explorer_does_not_grow_with_its_moves(name, moves, monkeypatch):
    """As in a kernel, in an event loop: between moves the picture is drawn finely, and others ahead."""
    monkeypatch.setattr(explorer_base, "REST", 0.001)
    monkeypatch.setattr(explorer_base, "BREATH", 0)
    models = [make("se", "se-4", reduction=4), make("eca", "eca-5", kernel_size=5, seed=1)]
    asyncio.run(moved(name, models, moves, monkeypatch))


async def moved(name, models, moves, monkeypatch):
    """Make an explorer, move its controls until everything has its room, and then so often."""
    open_before = plt.get_fignums()
    explorer = EXPLORERS[name](models)
    explorer.picture.most = 4 * 2**20  # frames fill their room within the first moves
    explorer.picture.viewed = True
    explorer.most_ahead = 3
    chance = random.Random(0)
    told = Counter()

    def told_of(what):
        send = getattr(explorer.picture, what)
        monkeypatch.setattr(explorer.picture, what, lambda *given: told.update([what]) or send(*given))

    def move():
        trait = chance.choice([one for one, control in explorer.controls.items() if not control.disabled])
        control = explorer.controls[trait]
        before = control.value
        if hasattr(control, "index"):
            control.index = chance.randrange(len(control.options))
        elif isinstance(before, bool):
            control.value = not before
        else:
            steps = round((control.max - control.min) / control.step)
            control.value = control.min + chance.randrange(steps + 1) * control.step
        told[trait] += control.value != before

    async def move_often(times):
        for number in range(1, times + 1):
            move()
            await asyncio.sleep(0)  # what is to be drawn at rest begins, and the next move stops it
            if number % 30 == 10:
                await rest(explorer)

    await move_often(moves * 4 // 5)
    told.clear()
    for what in ("send_fine", "send_ahead"):
        told_of(what)
    before, figures, canvases = resident(), count(plt.Figure), count(Canvas)
    await move_often(moves)
    grown = resident() - before
    print(f"{name}Explorer: {before:.0f} MB, {grown:+.1f} MB in {moves:,} moves: {dict(told)}")
    fine, ahead = told.pop("send_fine", 0), told.pop("send_ahead", 0)
    assert sum(told.values()) > moves / 2, "the controls hardly moved"
    assert fine >= moves / 50
    assert ahead >= moves / 50
    if moves >= 1000:
        assert grown < 24
    assert plt.get_fignums() == open_before
    assert count(plt.Figure) <= figures
    assert count(Canvas) <= canvases
    assert explorer.error.value == ""
    explorer.close()


async def rest(explorer):
    """Until a network that is asked has answered, and all is drawn that is drawn while nothing moves."""
    while True:
        if explorer._refining is not None and not explorer._refining.done():
            await asyncio.wait({explorer._refining})
        elif getattr(explorer, "_waiting", None) is not None:
            await asyncio.sleep(0.01)
        else:
            return
