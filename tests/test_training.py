"""The recipe: seeded, resumable to the same weights, and able to learn."""

import contextlib
import csv
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

import ecaviz
from ecaviz import bundle, bundle_training, coverages, networks, results, training, training_sets
from ecaviz.bundle_training import train_bundled
from ecaviz.networks import Architecture
from ecaviz.shapes import Shapes, normalise
from ecaviz.training import Recipe, accuracy, train

TINY = Architecture("eca", {"kernel_size": 3}, blocks=(1, 1, 1, 1), planes=(4, 4, 4, 4), stem=4)
RECIPE = Recipe(train_images=120, test_images=24, epochs=3, batch_size=32)


@pytest.fixture(scope="module")
def pictures():
    return Shapes("train", 120).tensors(), Shapes("test", 24).tensors()


def run(pictures, **options):
    data, test = pictures
    return train(TINY, options.pop("recipe", RECIPE), data=data, test=test, progress=False, **options)


class KilledError(Exception):
    """Stands for a kill after a number of steps."""


def interrupted_after(monkeypatch, steps):
    real, count = torch.optim.AdamW.step, iter(range(steps))

    def step(self, *args, **kwargs):
        if next(count, None) is None:
            raise KilledError
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)


def test_interrupted_and_resumed_ends_in_the_same_weights(pictures, tmp_path, monkeypatch):
    whole = run(pictures, seed=1)
    state = tmp_path / "state.pt"
    with monkeypatch.context() as patch:
        interrupted_after(patch, 7)  # four steps an epoch: in the middle of the second
        with pytest.raises(KilledError):
            run(pictures, seed=1, state=state)
    resumed = run(pictures, seed=1, state=state)
    for (name, a), b in zip(whole.net.state_dict().items(), resumed.net.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3]
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]
    assert list(tmp_path.iterdir()) == [state]


def test_the_seed_decides(pictures):
    a, b, c = run(pictures, seed=1), run(pictures, seed=1), run(pictures, seed=2)
    weights = [r.net.state_dict()["fc.weight"] for r in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_it_learns(pictures):
    data, _ = pictures
    few = (data[0][:24], data[1][:24])
    recipe = replace(RECIPE, train_images=24, epochs=60, batch_size=24, learning_rate=0.02)
    result = train(TINY, recipe, data=few, test=few, progress=False)
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]
    assert not result.net.training


def test_a_state_of_another_run_is_refused(pictures, tmp_path):
    state = tmp_path / "state.pt"
    run(pictures, state=state, recipe=replace(RECIPE, epochs=1))
    with pytest.raises(ValueError, match=r"state.pt belongs to another run.*Delete it"):
        run(pictures, state=state)


def test_a_state_that_cannot_be_written_is_told_before_the_first_epoch(pictures, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    interrupted_after(monkeypatch, 0)
    with pytest.raises(OSError, match=r"train: state .*state\.pt cannot be written: .*file is a file; a folder"):
        run(pictures, state=tmp_path / "file" / "state.pt")


def test_accuracy_against_one_shot(pictures):
    images, labels = pictures[1]
    net = run(pictures, recipe=replace(RECIPE, epochs=1)).net.train()
    before = net.bn1.running_mean.clone()
    found = accuracy(net, images, labels, batch_size=7)
    assert net.training
    assert torch.equal(net.bn1.running_mean, before)
    with torch.no_grad():
        expected = (net.eval()(normalise(images)).argmax(1) == labels).double().mean().item()
    assert found == pytest.approx(expected)


def test_train_bundled_writes_what_load_reads(tmp_path, monkeypatch):
    monkeypatch.setitem(bundle.BUNDLE, "tiny", TINY)
    options = {"recipe": replace(RECIPE, epochs=1), "folder": tmp_path / "out", "scratch": tmp_path / "scratch"}
    train_bundled(["tiny"], progress=False, **options)
    architecture, state, classes, row = bundle.read("tiny", tmp_path / "out")
    assert architecture == TINY
    assert len(classes) == 12
    assert (row.family, row.setting) == ("eca", "k=3")
    with (tmp_path / "scratch" / "tiny-seed0.csv").open() as file:
        assert [r["epoch"] for r in csv.DictReader(file)] == ["1"]
    assert not (tmp_path / "scratch" / "tiny-seed0.pt").exists()

    stamp = (tmp_path / "out" / "tiny.safetensors").stat().st_mtime_ns
    train_bundled(["tiny"], progress=False, **options)  # there already: kept
    assert (tmp_path / "out" / "tiny.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"the bundle has no tiny2. It has: shapes-none"):
        train_bundled(["tiny2"], progress=False)
    assert "fc.weight" in state


def test_another_run_of_the_same_name_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.setitem(bundle.BUNDLE, "tiny", TINY)
    options = {"folder": tmp_path, "scratch": tmp_path / "scratch", "progress": False}
    train_bundled(["tiny"], recipe=replace(RECIPE, epochs=1), **options)
    with pytest.raises(ValueError, match=r"tiny, seed 0 is there with .*, 1, 120, 24\).*, 2, 120, 24\).*--redo"):
        train_bundled(["tiny"], recipe=replace(RECIPE, epochs=2), **options)
    train_bundled(["tiny"], recipe=replace(RECIPE, epochs=2), redo=True, **options)
    assert bundle.manifest(tmp_path)["tiny"].epochs == 2


def test_every_seed_is_recorded_and_seed_0_is_bundled(tmp_path, monkeypatch):
    monkeypatch.setitem(bundle.BUNDLE, "tiny", TINY)
    options = {"folder": tmp_path / "out", "scratch": tmp_path / "scratch", "progress": False}
    recipe = replace(RECIPE, epochs=1)
    train_bundled(["tiny"], seeds=(2, 0), recipe=recipe, **options)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "SHA256SUMS",
        "manifest.csv",
        "results",
        "tiny.safetensors",
    ]
    table = results.runs(tmp_path / "out" / "results")
    assert table["seed"].tolist() == [0, 2]
    assert table["setting"].tolist() == ["k=3", "k=3"]
    row = bundle.manifest(tmp_path / "out")["tiny"]
    assert row.seed == 0
    assert row.accuracy == table["accuracy"][0]
    images, labels = Shapes("test", 24).tensors()
    for seed, folder, name in ((0, tmp_path / "out", "tiny"), (2, tmp_path / "scratch", "tiny-seed2")):
        net = networks.build(TINY)
        net.load_state_dict(bundle.read(name, folder)[1])
        with torch.no_grad():
            right = net.eval()(normalise(images)).argmax(1) == labels
        assert np.array_equal(results.correct("tiny", tmp_path / "out" / "results")[seed], right.numpy())
        row = table[table["seed"] == seed].iloc[0]
        assert row["accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-5)
        assert row["accuracy_texture"] == pytest.approx(right[(labels // 4) == 1].double().mean().item(), abs=1e-5)
    cover = coverages.recorded(tmp_path / "out" / "results")
    assert cover[["model", "seed"]].drop_duplicates().values.tolist() == [["tiny", 0], ["tiny", 2]]
    kernel = networks_kernel(tmp_path / "scratch", "tiny-seed2", "layer2.0.se")
    expected = float(kernel[1] ** 2 / (kernel**2).sum())
    found = cover[(cover["seed"] == 2) & (cover["site"] == "layer2.0.se")].iloc[0]
    assert found["directness"] == pytest.approx(expected, rel=0.1)  # but for the first and the last channel
    stamp = (tmp_path / "out" / "results" / "shapes.csv").stat().st_mtime_ns
    train_bundled(["tiny"], seeds=(0, 2), recipe=recipe, **options)  # there already: kept
    assert (tmp_path / "out" / "results" / "shapes.csv").stat().st_mtime_ns == stamp


def test_the_time_is_over_and_the_same_call_goes_on(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(bundle.BUNDLE, "tiny", TINY)
    now = iter(range(1000))
    monkeypatch.setattr(bundle_training.time, "monotonic", lambda: 60.0 * next(now))  # a minute passes at every look
    options = {"recipe": RECIPE, "folder": tmp_path / "out", "scratch": tmp_path / "scratch", "progress": False}
    for _ in range(2):
        with pytest.raises(training.OutOfTime, match="stopped after"):
            train_bundled(["tiny"], seeds=(0, 1), minutes=2, **options)
    for _ in range(10):
        with contextlib.suppress(training.OutOfTime):
            train_bundled(["tiny"], seeds=(0, 1), minutes=2, **options)
            break
    table = results.runs(tmp_path / "out" / "results")
    assert table["seed"].tolist() == [0, 1]
    whole = run(pictures, seed=0)
    state = bundle.read("tiny", tmp_path / "out")[1]
    for key, value in whole.net.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_another_recipe_replaces_all_that_is_named_with_redo_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(bundle.BUNDLE, "tiny", TINY)
    options = {"folder": tmp_path / "out", "scratch": tmp_path / "scratch", "progress": False, "seeds": (0, 1, 2)}
    train_bundled(["tiny"], recipe=replace(RECIPE, epochs=1), **options)
    old = results.runs(tmp_path / "out" / "results")
    other = replace(RECIPE, epochs=1, learning_rate=1e-3)  # the same name and lengths
    with pytest.raises(ValueError, match=r"is there with .*digest"):
        train_bundled(["tiny"], recipe=other, **options)
    monkeypatch.setattr(bundle_training.time, "monotonic", iter(range(0, 100_000, 60)).__next__)
    with pytest.raises(training.OutOfTime):
        train_bundled(["tiny"], recipe=other, redo=True, minutes=1, **options)
    table = results.runs(tmp_path / "out" / "results")
    assert set(table["digest"]) == {other.digest} != set(old["digest"])
    done = len(table)
    assert 1 <= done < 3
    trained = []
    real = training.train
    monkeypatch.setattr(bundle_training, "train", lambda *a, **k: trained.append(k["seed"]) or real(*a, **k))
    train_bundled(["tiny"], recipe=other, redo=True, **options)
    assert len(trained) == 3 - done  # what was trained anew is not trained anew again
    assert results.runs(tmp_path / "out" / "results")["seed"].tolist() == [0, 1, 2]
    assert not (tmp_path / "scratch" / "redone.json").exists()
    train_bundled(["tiny"], recipe=other, **options)
    assert len(trained) == 3 - done


def test_a_state_of_other_images_is_refused(pictures, tmp_path):
    state = tmp_path / "state.pt"
    run(pictures, state=state, recipe=replace(RECIPE, epochs=1))
    images, labels = pictures[0]
    changed = images.clone()
    changed[7, 1, 30, 30] ^= 1
    with pytest.raises(ValueError, match="belongs to another run"):
        run(((changed, labels), pictures[1]), state=state, recipe=replace(RECIPE, epochs=1))


@pytest.mark.parametrize("where", ["torch.load", "torch.nn.Module.load_state_dict"])
@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_memory_that_runs_out_is_no_damage_of_the_state(pictures, tmp_path, monkeypatch, where, error):
    state = tmp_path / "state.pt"
    run(pictures, state=state, recipe=replace(RECIPE, epochs=1))
    before = state.read_bytes()

    def full(*_args, **_options):
        raise error("no room")

    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(error, match="no room"):
            run(pictures, state=state, recipe=replace(RECIPE, epochs=1))
    assert state.read_bytes() == before
    assert run(pictures, state=state, recipe=replace(RECIPE, epochs=1)).epochs == 1


def test_nothing_to_train_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one model and one seed were expected"):
        train_bundled([], folder=tmp_path, progress=False)


def test_shifted_images(pictures):
    images = pictures[0][0][:5]
    shifts = torch.tensor([[3, 3], [0, 3], [6, 5], [1, 6], [3, 0]])
    moved = training.shifted(images, shifts, 3)
    for image, (down, right), found in zip(images, (shifts - 3).tolist(), moved, strict=True):
        expected = torch.zeros_like(image)
        for y in range(64):
            for x in range(64):
                if 0 <= y - down < 64 and 0 <= x - right < 64:
                    expected[:, y, x] = image[:, y - down, x - right]
        assert torch.equal(found, expected)


def test_models_of_another_set_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cifar10-none: the recipe shapes is for models of shapes.*cifar10.toml"):
        train_bundled(["shapes-none", "cifar10-none"], folder=tmp_path, progress=False)


def test_cifar_is_trained_by_its_own_recipe(tmp_path, monkeypatch):
    """Three stages, ten classes, JPEGs: recorded as what they are, with the loss; the header's network is loaded."""
    random = torch.Generator().manual_seed(0)
    drawn = training_sets.Images(
        "cifar10-jpeg", torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8, generator=random), torch.arange(40) % 10
    )
    monkeypatch.setattr(training_sets.TrainingSet, "read", lambda self, split, n, *_: drawn)
    recipe = Recipe("cifar10-x", "cifar10", 40, 40, epochs=1, batch_size=20, shift=2, network={"planes": (4, 6, 8)})
    options = {"folder": tmp_path / "out", "scratch": tmp_path / "scratch", "progress": False}
    train_bundled(["cifar10-eca-k3"], recipe=recipe, **options)
    row = results.runs(tmp_path / "out" / "results", data="cifar10").iloc[0]
    assert (row["data"], row["recipe"], row["variant"], row["k"]) == ("cifar10-jpeg", "cifar10-x", "eca-k3", "3")
    architecture, state, classes, entry = bundle.read("cifar10-eca-k3", tmp_path / "out")
    assert (entry.data, architecture.planes, len(classes)) == ("cifar10-jpeg", (4, 6, 8), 10)
    net = networks.build(architecture)
    net.load_state_dict(state)
    with torch.no_grad():
        expected = net.eval()(training_sets.SETS["cifar10"].normalise(drawn.images))
    loss = torch.nn.functional.cross_entropy(expected, drawn.labels).item()
    assert row["loss"] == pytest.approx(loss, abs=2e-5)
    loaded = ecaviz.load(tmp_path / "out" / "cifar10-eca-k3.safetensors", device="cpu")
    assert loaded.classes == classes
    found = loaded.transform(drawn.images)
    torch.testing.assert_close(found, training_sets.SETS["cifar10"].normalise(drawn.images))
    assert not (tmp_path / "out" / "results" / "coverage.csv").exists()


def networks_kernel(folder, name, site):
    return bundle.read(name, folder)[1][f"{site}.excite.conv.weight"].flatten()


def test_bad_recipes_and_damaged_states(pictures, tmp_path):
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        replace(RECIPE, epochs=0)
    state = tmp_path / "state.pt"
    state.write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"state.pt is damaged .*Delete it"):
        run(pictures, state=state)


def test_rate_rises_then_falls_to_nothing():
    rates = [training._rate(step, 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
    assert rates[100] == pytest.approx(0)


@pytest.mark.gpu
def test_on_the_gpu(pictures, tmp_path):
    state = tmp_path / "state.pt"
    result = run(pictures, device="cuda", state=state)
    assert next(result.net.parameters()).is_cuda
    assert len(result.history) == 3
    again = run(pictures, device="cuda", state=state)  # all epochs are done: read back, evaluated anew
    assert again.accuracy == result.accuracy
    assert torch.equal(again.net.fc.weight, result.net.fc.weight)
