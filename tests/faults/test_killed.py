"""Processes that are killed (SIGKILL) or interrupted (SIGINT) at any moment: nothing is lost that was there before."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_hub
import torch
import works
from damage import seeds
from loopback import Fault
from recorder import RECOVERED, SAME, case
from stopping import INTERRUPTED, Worker

from ecaviz import bundle, hub, results, tensor_files
from ecaviz.profiles import AttentionProfile
from ecaviz.statistics import TopK

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each process is a fork")
GROUP = "Killed or interrupted"
BOTH = pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=lambda sent: sent.name)
ONE = pytest.mark.parametrize(
    "sent", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)], ids=lambda sent: sent.name
)  # the other takes as long
ENDS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: INTERRUPTED}
WHOLE = f"what was there before is whole; {RECOVERED}"
server = test_hub.server


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def worker(folder) -> Iterator[Worker]:
    with Worker("works", folder) as worker:
        yield worker


@pytest.fixture
def place(folder, request) -> Path:
    """A folder of the test's own, in that of the worker."""
    place = folder / hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    place.mkdir()
    return place


@pytest.fixture(scope="module")
def profiles(worker, folder) -> tuple[Path, Path]:
    """A whole profile, and one of the half of the images under another model's name, to be told apart."""
    whole, other = folder / "whole.profile", folder / "other.profile"
    assert worker.run("take_profile", whole).status == 0
    found = AttentionProfile.load(whole)
    found.merge(found).save(other)
    return whole, other


def loaded(profiles: tuple[Path, Path], target: Path) -> AttentionProfile:
    """The one of the two that a file seems to be."""
    return AttentionProfile.load(profiles[AttentionProfile.load(target).positions > works.N])


def files(place: Path) -> set[str]:
    return {path.name for path in place.rglob("*") if path.is_file()} | {path.name for path in place.glob("*.half")}


def some(uses: int, quick: bool) -> Iterator[int]:
    """Every use of a file, or a few of them with the first and the last."""
    return range(1, uses + 1, max(1, uses // 4) if quick else 1)


def same(one: AttentionProfile, other: AttentionProfile) -> None:
    """All that two profiles hold; the statistics up to the last digits."""
    assert (one.n, one.positions, one.classes, list(one)) == (other.n, other.positions, other.classes, list(other))
    assert torch.equal(one.counts, other.counts)
    assert torch.equal(one.correct, other.correct)
    for name in one:
        for what in ("moments", "tails", "histogram", "largest", "smallest"):
            mine, its = getattr(one[name], what), getattr(other[name], what)
            for key, value in mine.state_dict().items():
                if value.is_floating_point() and not isinstance(mine, TopK):
                    torch.testing.assert_close(value, its.state_dict()[key], rtol=1e-6, atol=1e-12)
                else:
                    assert torch.equal(value.nan_to_num(), its.state_dict()[key].nan_to_num()), (name, what, key)


QUICK = pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.long)], ids=["some", "all"])


@BOTH
@QUICK
@case(GROUP, "while a profile is saved over another, before each use of a file", expected=WHOLE)
def test_saving_a_profile(outcomes, worker, profiles, place, sent, quick):
    whole, other = profiles
    target = place / "p.profile"
    target.write_bytes(other.read_bytes())
    uses = worker.run("save", whole, target).uses
    for use in some(uses, quick):
        target.write_bytes(other.read_bytes())
        assert worker.run("save", whole, target, use=use, sent=sent).status == ENDS[sent]
        same(AttentionProfile.load(target), loaded(profiles, target))
        assert worker.run("save", whole, target).status == 0
        same(AttentionProfile.load(target), AttentionProfile.load(whole))
        assert files(place) == {"p.profile"}
        outcomes.happened(WHOLE)


@QUICK
@case(GROUP, "while a profile's table is saved over another, before each use of a file", expected=WHOLE)
def test_saving_a_table(outcomes, worker, profiles, place, quick):
    whole, other = profiles
    target = place / "t.csv"
    uses = worker.run("save_table", whole, target).uses
    new = target.read_bytes()
    assert worker.run("save_table", other, target).status == 0
    old = target.read_bytes()
    for use in some(uses, quick):
        target.write_bytes(old)
        assert worker.run("save_table", whole, target, use=use).status == -signal.SIGKILL
        assert target.read_bytes() in (old, new)
        assert worker.run("save_table", whole, target).status == 0
        assert target.read_bytes() == new
        assert files(place) == {"t.csv"}
        outcomes.happened(WHOLE)


@BOTH
@QUICK
@case(GROUP, "while a run is recorded in the results, before each use of a file", expected=WHOLE)
def test_recording_a_run(outcomes, worker, place, sent, quick):
    assert worker.run("record", place, 0).status == 0
    uses = worker.run("record", place, 1).uses
    kept = {path.name: path.read_bytes() for path in place.iterdir()}
    for use in some(uses, quick):
        assert worker.run("record", place, 2, use=use, sent=sent).status == ENDS[sent]
        assert {0, 1} <= set(results.runs(place)["seed"]) <= {0, 1, 2}
        found = results.correct(works.RUN.name, place)
        assert all((found[seed] == works.answers(seed)).all() for seed in (0, 1))
        left_lock(place)
        assert worker.run("record", place, 2).status == 0
        assert list(results.correct(works.RUN.name, place)) == [0, 1, 2]
        assert files(place) == set(kept)
        outcomes.happened(WHOLE)
        for name, content in kept.items():
            (place / name).write_bytes(content)


def left_lock(place: Path) -> None:
    """The lock of a process that was killed is broken after a minute; here the minute is over."""
    for lock in place.rglob(".writing"):
        os.utime(lock, (0, 0))


def until_through(
    worker, work, *arguments, chance, kills, sent, longest, afresh, kept=lambda: None, **options
) -> tuple[int, object, object]:
    """Stop work after times by chance until it has been stopped so often, or is through; then let it run.

    Where it is through before it was stopped even once, it begins again, and is stopped earlier: a fast machine does
    not make the test an empty one, and what is counted did happen.

    Returns:
        How often it was stopped, at least once; what ``kept`` found after the last of these runs; and what the work
        returned at last.
    """
    for _ in range(16):
        stopped = 0
        for _ in range(kills):
            ended = worker.run(work, *arguments, after=chance.uniform(0, longest), sent=sent, **options)
            found = kept()
            if ended.status == 0:
                break
            assert ended.status == ENDS[sent]
            stopped += 1
        if stopped:
            break
        afresh()
        longest /= 2
    assert stopped, "it was through each time before it could be stopped"
    ended = worker.run(work, *arguments, **options)
    assert ended.status == 0
    return stopped, found, ended.said


@ONE
@pytest.mark.parametrize("seeds", seeds(1, 20))
@case(GROUP, "while a network is trained with a state, again and again by chance", expected=SAME)
def test_training(outcomes, worker, place, sent, seeds):
    unbroken = worker.run("train", None)
    for seed in seeds:
        state = place / f"{seed}.pt"
        options = {"chance": random.Random(seed), "kills": 4, "sent": sent, "longest": unbroken.seconds}
        stopped, _, said = until_through(worker, "train", state, afresh=state.unlink, **options)
        assert said == unbroken.said
        assert files(place) == {state.name}
        state.unlink()
        outcomes.happened(SAME, stopped)


@ONE
@QUICK
@case(GROUP, "while bundled models are trained and recorded, before each use of a file", expected=WHOLE)
def test_training_the_bundle(outcomes, worker, folder, place, sent, quick):
    ended = worker.run("train_two", place / "whole")
    assert ended.status == 0
    expected, last = what_is_kept(place / "whole"), ended.uses
    for use in some(last, quick):
        own = place / str(use)
        assert worker.run("train_two", own, use=use, sent=sent).status == ENDS[sent]
        for name in bundle.manifest(own / "out"):
            bundle.read(name, own / "out")
        left_lock(own)
        assert worker.run("train_two", own).status == 0
        assert what_is_kept(own) == expected
        # Once a run is recorded, its state stays, and the lock of the killed process until something else is recorded.
        assert files(own) - {"tiny-seed0.pt", "tiny-seed1.pt", ".writing"} == files(place / "whole")
        outcomes.happened(f"{SAME}; nothing is missing")


def what_is_kept(place: Path) -> dict:
    """Everything that two trained seeds leave, without how long they took."""
    out, scratch = place / "out", place / "scratch"
    runs = results.runs(out / "results").drop(columns="seconds")
    right = results.correct("tiny", out / "results")
    return {
        "runs": runs.to_csv(),
        "right": {seed: one.tolist() for seed, one in right.items()},
        "weights": [
            tensor_files.digest(tensor_files.read(path)[0], "")
            for path in (out / "tiny.safetensors", scratch / "tiny-seed1.safetensors")
        ],
        "coverage": (out / "results" / "coverage.csv").read_bytes(),
        "accuracy": bundle.read("tiny", out)[3].accuracy,
    }


@BOTH
@pytest.mark.parametrize("seeds", seeds(1, 15))
@case(GROUP, "while a set is profiled with a checkpoint, again and again by chance", expected=SAME)
def test_profiling(outcomes, worker, profiles, place, sent, seeds):
    whole = AttentionProfile.load(profiles[0])
    longest = worker.run("take_profile", None).seconds
    for seed in seeds:
        path = place / f"{seed}.profile"

        def kept(path=path):
            positions = AttentionProfile.load(path).positions if path.exists() else 0
            assert positions % works.BATCH == 0
            return positions

        options = {"chance": random.Random(seed), "kills": 6, "sent": sent, "longest": longest}
        stopped, before, said = until_through(worker, "take_profile", path, afresh=path.unlink, kept=kept, **options)
        assert said == (works.N - before) // works.BATCH  # what was through is not done again
        same(AttentionProfile.load(path), whole)
        assert files(place) == {path.name}
        path.unlink()
        outcomes.happened(SAME, stopped)


@BOTH
@pytest.mark.parametrize("seeds", seeds(1, 20))
@case(
    GROUP, "while weights are downloaded, again and again by chance", expected="the whole file; it goes on where it was"
)
def test_downloading(outcomes, worker, server, tmp_path, sent, seeds):
    env = {key: os.environ[key] for key in ("NO_PROXY", "no_proxy")}
    wanted = test_hub.NAME, test_hub.REPO, tmp_path / "home", server.endpoint
    source = test_hub.FromHub(server, tmp_path)

    def afresh():
        shutil.rmtree(source.folder, ignore_errors=True)
        server.requests.clear()

    options = {"kills": 4, "sent": sent, "longest": 0.6, "afresh": afresh, "env": env}
    for seed in seeds:
        server.misbehave(Fault(pace=0.001, times=None))
        afresh()
        stopped, _, path = until_through(worker, "fetch", *wanted, chance=random.Random(seed), **options)
        assert Path(path).read_bytes() == test_hub.CONTENT
        assert hub.cached(test_hub.REPO) == Path(path)
        assert test_hub.left(source) == {source.final, Path(path), source.folder / "refs" / "main"}
        whole = [one for one in test_hub.ranges(server) if one is None]
        assert len(whole) <= stopped + 1
        outcomes.happened("the whole file, and nothing else", stopped)
