"""The same seed gives the same files bit for bit, and a profile does not depend on how the images came.

Not in the last bit on the number of workers; beyond 1e-6 neither on the batch size nor on the order: means and standard
deviations whatever the network computes in, single gates where it computes in float64, since float32 tells the gates
of one image in two batches apart by up to 2e-6.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from reading_processes import WORKERS
from torch import nn
from torch.utils.data import Subset

import ecaviz
from ecaviz import attention_profile, bundle, images, tensor_files, training, training_sets
from ecaviz.profiles import profile
from ecaviz.recipes import Recipe
from ecaviz.shapes import CLASSES, normalise

ROOT = Path(__file__).resolve().parent.parent
N = 90
TRAIN = """
import sys
from pathlib import Path
from ecaviz import bundle
from ecaviz.bundle_training import train_bundled
from ecaviz.networks import Architecture
from ecaviz.recipes import Recipe

for name, family, settings in (("eca", "eca", {"kernel_size": 3}), ("se", "se", {"reduction": 4})):
    bundle.BUNDLE[name] = Architecture(family, settings, blocks=(1, 1, 1, 1), planes=(4, 4, 4, 4), stem=4)
folder = Path(sys.argv[1])
recipe = Recipe(train_images=192, test_images=48, epochs=2, batch_size=32)
train_bundled(
    ["eca", "se"], seeds=(0, 1), recipe=recipe, folder=folder / "out", scratch=folder / "scratch", progress=False
)
"""


# ------------------------------------------------------------------------------------------------------------ one seed


def trained(folder: Path, hash_seed: str) -> dict[str, bytes]:
    """What two processes' training leaves in a folder: weights, and which images were answered right."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, "-c", TRAIN, str(folder)], check=True, cwd=ROOT, env=env)
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.safetensors")}


def test_the_same_seed_gives_the_same_checkpoint_bit_for_bit(tmp_path):
    one, other = (trained(tmp_path / name, name) for name in ("1", "2"))
    assert sorted(one) == [
        *("out/eca.safetensors", "out/results/shapes-correct.safetensors", "out/se.safetensors"),
        *("scratch/eca-seed1.safetensors", "scratch/se-seed1.safetensors"),
    ]
    for name, content in one.items():
        assert content == other[name], name
    assert one["out/eca.safetensors"] != one["scratch/eca-seed1.safetensors"]
    timed = ["seconds"]
    first, second = (
        pd.read_csv(tmp_path / name / "out" / "results" / "shapes.csv").drop(columns=timed) for name in ("1", "2")
    )
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_the_same_tensors_give_the_same_file_each_time(tmp_path):
    tensors = {"b": torch.arange(6.0), "a": torch.ones(2, 2, dtype=torch.int64)}
    about = {name: f'{name} é \n\t\x01 "quoted" \U0001f600' for name in ("one", "two", "three", "four", "five")}
    files = set()
    for _ in range(8):
        tensor_files.write(tmp_path / "file", tensors, about)
        files |= {(tmp_path / "file").read_bytes(), tensor_files.content(tensors, about)}
    assert len(files) == 1
    read, said = tensor_files.read(tmp_path / "file")
    assert said == about
    assert all(torch.equal(read[name], value) for name, value in tensors.items())


@pytest.mark.long
def test_a_bundled_model_trained_anew_is_as_good_as_the_recorded_one():
    """This machine is another than the one the record is of; data/README.md states how far apart they may be."""
    name, recipe = "shapes-eca-k3", Recipe()
    test = training_sets.SETS["shapes"].read("test", recipe.test_images, None, False)
    found = training.train(bundle.BUNDLE[name], recipe, test=(test.images, test.labels), progress=False)
    assert abs(found.accuracy - bundle.manifest()[name].accuracy) < 0.04


# ------------------------------------------------------------------------------------------------------------ profiles


class Double(nn.Module):
    """A network that computes in float64, so that what differs is the profile's doing and not the network's."""

    def __init__(self, net):
        super().__init__()
        self.net = net.double()

    def forward(self, x):
        return self.net(x.double())


@pytest.fixture(scope="module", params=["shapes-eca-k3", "shapes-se-r16"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return ecaviz.load(Double(ecaviz.load(name, device="cpu").net), transform=normalise, classes=CLASSES, device="cpu")


@pytest.fixture(scope="module")
def drawn():
    return images.shapes("test", N)


@pytest.fixture(scope="module")
def expected(model, drawn):
    return profile(model, drawn, by="class", batch_size=16, progress=False)


def assert_same(found, expected, moved=None, within=1e-6):
    """Means, standard deviations, ends, the extreme gates, and which images they are of.

    Args:
        found: A profile.
        expected: Another.
        within: By how much a number may differ.
        moved: For each position of the images of ``found``, their position in those of ``expected``; None: the same.
    """
    close = {"rtol": 0, "atol": within, "equal_nan": True}
    assert (found.n, found.classes) == (expected.n, expected.classes)
    assert torch.equal(found.counts, expected.counts)
    assert torch.equal(found.correct, expected.correct)
    assert list(found) == list(expected)
    for site in expected:
        one, other = found[site], expected[site]
        for what in ("mean", "min", "max"):
            torch.testing.assert_close(getattr(one.moments, what), getattr(other.moments, what), **close)
        assert torch.equal(one.moments.n, other.moments.n)
        torch.testing.assert_close(one.moments.std(), other.moments.std(), **close)
        for counts, others in (
            (one.histogram.counts, other.histogram.counts),
            (one.tails.below * one.moments.n[:, None], other.tails.below * other.moments.n[:, None]),
            (one.tails.above * one.moments.n[:, None], other.tails.above * other.moments.n[:, None]),
        ):  # a gate that lies on an edge may fall on either side of it: one of 90·C here and there, not more
            assert (counts - others).nan_to_num().abs().sum() <= 4
        for what in ("largest", "smallest"):
            top, its = getattr(one, what), getattr(other, what)
            torch.testing.assert_close(top.values, its.values, **close)
            index = top.index if moved is None else moved[top.index]
            gaps = its.values.diff(dim=-1).abs() > 2 * within
            clear = torch.nn.functional.pad(gaps, (1, 0), value=True) & torch.nn.functional.pad(gaps, (0, 1))
            assert torch.equal(index[clear], its.index[clear])  # where a neighbour is as extreme, either may come first
            assert clear.double().mean() > 0.3


@pytest.mark.parametrize("size", [1, 7, 32, N])
def test_a_profile_does_not_depend_on_the_batch_size(model, drawn, expected, size):
    assert_same(profile(model, drawn, by="class", batch_size=size, progress=False), expected)


@pytest.fixture(scope="module")
def single(name):
    """The network as it is, in float32."""
    return ecaviz.load(name, device="cpu")


@pytest.fixture(scope="module")
def expected_single(single, drawn):
    return profile(single, drawn, by="class", batch_size=16, progress=False)


def assert_same_but_for_the_network(found, expected, moved=None):
    """Convolutions add in another order for another batch size, or other neighbours in a batch: the gates differ.

    Single gates, and so the extremes, by up to 2e-6 here; the means and standard deviations over the images of a class
    by less, and these keep to 1e-6. Not of their size: where a gate hardly varies, its standard deviation is smaller
    than float32 tells gates apart.
    """
    assert_same(found, expected, moved, within=1e-5)
    for site in expected:
        one, other = (profile[site].moments for profile in (found, expected))
        for what in ("mean", "std"):
            mine, its = (getattr(moments, what) for moments in (one, other))
            mine, its = (value() if callable(value) else value for value in (mine, its))
            torch.testing.assert_close(mine, its, rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("size", [1, 7, 32, N])
def test_in_float32_the_batch_size_changes_what_it_changes_of_the_network(single, drawn, expected_single, size):
    found = profile(single, drawn, by="class", batch_size=size, progress=False)
    assert_same_but_for_the_network(found, expected_single)


@pytest.mark.parametrize("seed", [0, 1])
def test_in_float32_the_order_changes_what_it_changes_of_the_network(single, drawn, expected_single, seed):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    found = profile(single, Subset(drawn, order.tolist()), by="class", batch_size=16, progress=False)
    assert_same_but_for_the_network(found, expected_single, moved=order)


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("size", [1, 7, 32])
def test_in_float32_the_profile_itself_adds_nothing(single, drawn, size, seed):
    """The same batches are captured again: what NumPy makes of their gates in float64 is what the profile says."""
    order = range(N) if seed is None else torch.randperm(N, generator=torch.Generator().manual_seed(seed)).tolist()
    batches = []
    hook = single.net.register_forward_pre_hook(lambda _net, given: batches.append(given[0].clone()))
    found = profile(single, Subset(drawn, order), by="class", batch_size=size, progress=False)
    hook.remove()
    assert [len(one) for one in batches] == [*[size] * (N // size), *([N % size] if N % size else [])]
    gates = {site: [] for site in found}
    for one in batches:
        with torch.no_grad(), ecaviz.capture(single) as captured:
            single.net(one)
        for site, rows in gates.items():
            rows.append(captured[site].gate)
    labels = np.array([int(drawn[i][1]) for i in order])
    for site, rows in gates.items():
        values = torch.cat(rows).double().numpy()
        assert values.shape == (N, found[site].moments.mean.shape[1])
        for label in range(len(CLASSES)):
            mine, moments = values[labels == label], found[site].moments
            for said, expected in (
                (moments.mean, mine.mean(0)),
                (moments.std(), mine.std(0)),
                (moments.min, mine.min(0)),
                (moments.max, mine.max(0)),
            ):
                np.testing.assert_allclose(said[label].numpy(), expected, rtol=0, atol=1e-12)


@WORKERS
@pytest.mark.parametrize("workers", [1, 3])
def test_a_profile_does_not_depend_on_the_workers(model, drawn, expected, workers):
    """Not in the last bit: the images come to the network in the same batches."""
    found = profile(model, drawn, by="class", batch_size=16, workers=workers, progress=False)
    for site in expected:
        for what in attention_profile.STATISTICS:
            state, its = (getattr(one[site], what).state_dict() for one in (found, expected))
            for key, value in state.items():
                assert torch.equal(value.nan_to_num(), its[key].nan_to_num()), (site, what, key)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_profile_does_not_depend_on_the_order(model, drawn, expected, seed):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    found = profile(model, Subset(drawn, order.tolist()), by="class", batch_size=16, progress=False)
    assert_same(found, expected, moved=order)


def test_a_profile_does_not_depend_on_the_threads(model, drawn, expected):
    before = torch.get_num_threads()
    torch.set_num_threads(3 - min(before, 2))
    try:
        assert_same(profile(model, drawn, by="class", batch_size=16, progress=False), expected)
    finally:
        torch.set_num_threads(before)


def test_what_is_compared_can_differ(model, drawn, expected):
    other = profile(model, Subset(drawn, [*range(N - 1), 0]), by="class", batch_size=16, progress=False)
    with pytest.raises(AssertionError):
        assert_same(other, expected)
