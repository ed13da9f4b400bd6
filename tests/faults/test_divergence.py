"""Training that diverges, by a learning rate that is far too high: nothing good is replaced by what came of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import works
from recorder import CLEAR, RECOVERED, SAME, case

from ecaviz import bundle, bundle_training, networks, results, training, training_sets, training_states

GROUP = "Training that diverges"
WILD = replace(works.RECIPE, learning_rate=1e30)
NO_STATE = f"{CLEAR}; no state is written"
KEPT = f"{CLEAR}; the good model and its runs stay"
RECOVERS = f"with a good recipe again, {RECOVERED}"


@pytest.fixture(autouse=True)
def pictures(monkeypatch):
    """What is read as the training images."""

    def read(_set, split, count, *_):
        return training_sets.Images("shapes", *works.pictures(count, int(split == "test")))

    monkeypatch.setattr(training_sets.TrainingSet, "read", read)


def train(recipe, state=None):
    data, test = works.pictures(32, 0), works.pictures(16, 1)
    return training.train(works.TINY, recipe, state=state, data=data, test=test, progress=False)


def spoil(monkeypatch, at: int) -> None:
    """From an epoch on, training leaves weights that are infinite, with a loss that is a number."""
    whole = training._epoch

    def epoch(net, *rest):
        found = whole(net, *rest)
        if rest[6] >= at:
            net.fc.bias.data[0] = torch.inf
        return found

    monkeypatch.setattr(training, "_epoch", epoch)


@case(GROUP, "a learning rate of 1e30, from the first epoch", expected=NO_STATE)
def test_from_the_start(outcomes, tmp_path):
    says = "diverged in epoch 1 of 3", "mean loss is nan", r"in conv1.0.weight, .* more\.", r"learning_rate .*1e\+30"
    with outcomes.clear_error(ValueError, "train", *says, told=NO_STATE):
        train(WILD)
    with outcomes.clear_error(ValueError, tmp_path / "s.pt", *says, "was not written", told=NO_STATE):
        train(WILD, tmp_path / "s.pt")


@case(GROUP, "weights that are infinite after a later epoch", expected=f"{CLEAR}; from the epoch before then, {SAME}")
def test_later(outcomes, tmp_path, monkeypatch):
    state, whole = tmp_path / "s.pt", train(works.RECIPE)
    with monkeypatch.context() as patch:
        spoil(patch, at=2)
        with pytest.raises(ValueError, match="diverged in epoch 3 of 3"):
            train(works.RECIPE, state)
        says = "mean loss is [0-9.]+, and weights are NaN or infinite, in fc.bias", "as it was after epoch 2; delete it"
        with outcomes.clear_error(ValueError, state, *says):  # the state of epoch 2 is untouched
            train(works.RECIPE, state)
    assert training_states.read(state)["epoch"] == 2
    found = train(works.RECIPE, state).net.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in whole.net.state_dict().items())
    outcomes.then(f"from the epoch before then, {SAME}")


@case(GROUP, "a bundled model is trained anew (--redo) and diverges", expected=f"{KEPT}; {RECOVERS}")
def test_redo(outcomes, tmp_path):
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    options = {"folder": out, "scratch": scratch, "progress": False}
    bundle_training.train_bundled(["tiny"], seeds=(0, 1), recipe=works.RECIPE, **options)
    before = results.runs(out / "results")
    with outcomes.clear_error(ValueError, scratch / "tiny-seed0.pt", "diverged in epoch 1 of 3", told=KEPT):
        bundle_training.train_bundled(["tiny"], seeds=(0, 1), recipe=WILD, redo=True, **options)
    assert results.runs(out / "results").equals(before)
    assert bundle.read("tiny", out)[3].epochs == 3
    bundle_training.train_bundled(["tiny"], recipe=works.RECIPE, redo=True, **options)
    assert len(results.runs(out / "results")) == 2
    outcomes.then(RECOVERS)


@case(GROUP, "a network with NaN, or whose answers are infinite, is to be kept as a model", expected=KEPT)
def test_keeping(outcomes, tmp_path):
    out = tmp_path / "out"
    options = {"folder": out, "scratch": tmp_path / "scratch"}
    bundle_training.train_bundled(["tiny"], recipe=works.RECIPE, progress=False, **options)
    test = training_sets.SETS["shapes"].read("test", 16)
    about = 1.0, "CPU", works.RECIPE, test
    for name, value, seed in (("bn1.running_mean", torch.nan, 0), ("fc.weight", 3e38, 0), ("fc.bias", torch.inf, 1)):
        net = networks.build(works.TINY).eval()
        net.state_dict()[name].fill_(value)
        with outcomes.clear_error(ValueError, f"tiny, seed {seed}", "diverged", "learning_rate", told=KEPT):
            bundle_training.keep("tiny", seed, net, *about, replaced=[("tiny", seed)], **options)
    about = {"data": "shapes", "seed": 0, "epochs": 1, "train_images": 1, "seconds": 1.0, "hardware": "CPU"}
    about |= {"test_images": 1, "accuracy": 0.5}
    says = r"NaN or infinite, in fc\.bias, and is not kept", "untouched"
    with outcomes.clear_error(ValueError, "tiny", *says, told=KEPT):
        bundle.write("tiny", net, works.TINY, training_sets.SETS["shapes"].classes, about, out)
    assert len(results.runs(out / "results")) == 1
    assert bundle.read("tiny", out)[3].epochs == 3
