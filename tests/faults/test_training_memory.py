"""Memory that runs out while a network is trained: what is kept and what to do is told, and the next call goes on."""

from __future__ import annotations

import pytest
import torch
import works
from recorder import case
from test_devices import LATER, MEMORY, WORDS

from ecaviz import bundle_training, results, training, training_sets, training_states

ERRORS = WORDS | {"Python's": MemoryError("no room")}
SAID = pytest.mark.parametrize("words", ERRORS)
NOTED = "torch's or Python's own error, with a note by ecaviz that says what to do"
ONCE = "then it is not trained again"


def full(run, error, at: int):
    """A function that raises an error when it is called for the at-th time, and else runs."""
    calls = 0

    def running(*args, **options):
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return run(*args, **options)

    return running


def train(state=None):
    data, test = works.pictures(32, 0), works.pictures(16, 1)
    return training.train(works.TINY, works.RECIPE, state=state, data=data, test=test, progress=False).net.state_dict()


def told(raised, error) -> str:
    """The note that the very error carries which was raised."""
    assert raised.value is error  # its words tell what ran out
    (note,) = error.__notes__
    del error.__notes__
    assert "memory ran out" in note
    assert "a smaller batch_size in the recipe (it is 16)" in note
    return note


@pytest.fixture(scope="module")
def whole():
    return train()


@SAID
@pytest.mark.parametrize("step", [0, 1, 5])
@case(
    MEMORY,
    "while a network is trained: without a state, at the first step, in the third epoch",
    expected=f"{NOTED}; {LATER}",
)
def test_training(outcomes, whole, tmp_path, monkeypatch, words, step):
    state, loss, error = tmp_path / "s.pt" if step else None, torch.nn.functional.cross_entropy, ERRORS[words]
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "cross_entropy", full(loss, error, max(step, 1)))
        with outcomes.undisturbed(apart_from=state), pytest.raises(type(error)) as raised:
            train(state)
    note = told(raised, error)
    if step > 1:
        assert f"kept in {state}, and the same call goes on from there" in note
        assert training_states.read(state)["epoch"] == 2
    else:
        assert "Nothing was kept" in note
        assert list(tmp_path.iterdir()) == []
    outcomes.happened(NOTED)
    found = train(state)
    assert all(torch.equal(value, found[name]) for name, value in whole.items())
    outcomes.then(LATER)


@case(
    MEMORY,
    "while a network that was trained is measured, to be kept",
    expected=f"{NOTED}; {ONCE}",
)
def test_keeping(outcomes, tmp_path, monkeypatch):
    def read(_set, split, count, *_):
        return training_sets.Images("shapes", *works.pictures(count, int(split == "test")))

    monkeypatch.setattr(training_sets.TrainingSet, "read", read)
    scratch = tmp_path / "scratch"
    options = {"recipe": works.RECIPE, "folder": tmp_path / "out", "scratch": scratch, "progress": False}
    error = ERRORS["a GPU's error"]
    with monkeypatch.context() as patch:
        patch.setattr(bundle_training, "logits", full(bundle_training.logits, error, 1))
        with outcomes.undisturbed(apart_from=scratch), pytest.raises(torch.OutOfMemoryError) as raised:
            bundle_training.train_bundled(["tiny"], **options)
    assert str(scratch / "tiny-seed0.pt") in told(raised, error)
    outcomes.happened(NOTED)
    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", full(training._epoch, AssertionError("trained again"), 1))
        bundle_training.train_bundled(["tiny"], **options)
    assert len(results.runs(tmp_path / "out" / "results")) == 1
    outcomes.then(ONCE)
