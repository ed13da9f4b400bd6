"""Devices that are not there, memory that runs out, and processes that die while they read images."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import works
from reading_processes import DEATHS, WORKERS
from recorder import CLEAR, SAME, case
from torch.utils.data import DataLoader

import ecaviz
from ecaviz import agreement, images, readings, training
from ecaviz.profiles import AttentionProfile, profile
from ecaviz.shapes import normalise
from ecaviz.statistics import Histogram, Moments, Tails, TopK

DEVICES, MEMORY, READERS = "Devices", "Memory that runs out", "Processes that read images"
OPTIONS = {"by": "class", "batch_size": works.BATCH, "progress": False}
NOTED = "torch's own error, with a note by ecaviz that says what to do"
LATER = f"then, with enough of it, {SAME}"


@pytest.fixture
def model():
    return works.model()


@pytest.fixture(scope="module")
def drawn():
    return images.shapes("test", works.N)


@pytest.fixture(scope="module")
def made(drawn):
    return profile(works.model(), drawn, **OPTIONS)


def alike(found: AttentionProfile, made: AttentionProfile) -> bool:
    """The same images, and the same statistics up to the last digits."""
    assert (found.n, found.positions, list(found)) == (made.n, made.positions, list(made))
    assert torch.equal(found.counts, made.counts)
    assert torch.equal(found.correct, made.correct)
    for name in made:
        torch.testing.assert_close(found.mean(name), made.mean(name), rtol=0, atol=1e-6)
        torch.testing.assert_close(found[name].largest.values, made[name].largest.values, rtol=0, atol=1e-6)
    return True


# -------------------------------------------------------------------------------------------------------------- devices


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps"])
@case(DEVICES, "device=“cuda”, “cuda:7” and “mps” where there is none: loading and training", expected=CLEAR)
def test_no_such_device(outcomes, no_gpu, tmp_path, device):
    with outcomes.clear_error(RuntimeError, device, "torch finds no GPU|there is none here", 'Use device="auto"'):
        ecaviz.load("shapes-eca-k3", device=device)
    with outcomes.clear_error(RuntimeError, device, "torch finds no GPU|there is none here", 'Use device="auto"'):
        data, test = works.pictures(32, 0), works.pictures(16, 1)
        training.train(works.TINY, works.RECIPE, device=device, state=tmp_path / "s.pt", data=data, test=test)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "meta", None, 1.5])
@case(DEVICES, "a device that is none: “gpu”, “cuda:x”, nothing, “meta”, a number", expected=CLEAR)
def test_no_device(outcomes, device):
    with outcomes.clear_error(ValueError, repr(device), 'Use "auto", "cpu", "cuda"'):
        ecaviz.load("shapes-eca-k3", device=device)


@case(DEVICES, "device=“auto” where there is no GPU", expected="the CPU is used")
def test_auto(outcomes, no_gpu):
    assert ecaviz.load("shapes-eca-k3").device.type == "cpu"
    outcomes.happened("the CPU is used")


# --------------------------------------------------------------------------------------------------------------- memory


def small(net: torch.nn.Module, fits: int, error: Exception, first: int = 0):
    """Out of memory with more images at once than fit, from an image on; the handle of the hook that does it."""
    seen = 0

    def check(_module, given):
        nonlocal seen
        if seen >= first and len(given[0]) > fits:
            raise error
        seen += len(given[0])

    return net.middle.register_forward_pre_hook(check)  # after the first site has been read


WORDS = {
    "a GPU's error": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "the CPU's": RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you"),
    "cuBLAS's": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


@pytest.fixture(autouse=True)
def without_notes():
    """The errors as they were, for the tests that come: what has a note gets no other."""
    yield
    for error in WORDS.values():
        vars(error).pop("__notes__", None)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("fits", [1, 2, 3, 5, 9])
@case(MEMORY, "with more than 1, 2, 3, 5 or 9 images at once, said in three ways", expected=f"a warning, and {SAME}")
def test_halved(outcomes, model, drawn, made, fits, words):
    hook = small(model.net, fits, WORDS[words])
    outcomes.watch(model.net)
    with outcomes.undisturbed(), pytest.warns(UserWarning, match=r"memory ran out with \d+ images at once; going on"):
        found = profile(model, drawn, **OPTIONS | {"batch_size": 20})
    hook.remove()
    assert alike(found, made)
    outcomes.happened(f"a warning, and {SAME}")


@pytest.mark.filterwarnings("ignore:profile. memory ran out:UserWarning")
@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("first", [0, 17])
@case(MEMORY, "with a single image, from the first or from the 17th on", expected=f"{NOTED}; {LATER}")
def test_one_image(outcomes, model, drawn, made, tmp_path, words, first):
    path = tmp_path / "p.profile"
    hook = small(model.net, 0, WORDS[words], first)
    outcomes.watch(model.net)
    with outcomes.undisturbed(apart_from=path), pytest.raises(type(WORDS[words])) as raised:
        profile(model, drawn, checkpoint=path, **OPTIONS)
    assert raised.value is WORDS[words]  # torch's own, whose words tell what ran out
    told = raised.value.__notes__.pop()
    assert told.startswith("profile: a single image does not fit into memory. Use smaller images, or the CPU")
    outcomes.happened(NOTED)
    hook.remove()
    assert path.exists() == (first > 0)
    if first:
        assert AttentionProfile.load(path).positions >= first - first % works.BATCH
    assert alike(profile(model, drawn, checkpoint=path, **OPTIONS), made)
    assert list(tmp_path.iterdir()) == [path]
    outcomes.then(LATER)


LOST = "the batches since the latest writing"


@pytest.mark.parametrize("error", [*WORDS.values(), MemoryError()], ids=[*WORDS, "Python's"])
@pytest.mark.parametrize("statistic", [Moments, Tails, Histogram, TopK])
@pytest.mark.parametrize(("every", "kept"), [(1, 6), (4, 4), (100, 0)])
@case(
    MEMORY,
    "in the statistics of the 7th batch, with a writing every 1, 4 or 100 batches",
    expected=f"{NOTED}, and the file as it was written before; {LATER}",
)
def test_in_the_statistics(outcomes, model, drawn, made, tmp_path, monkeypatch, error, statistic, every, kept):
    path, real, left = tmp_path / "p.profile", statistic.update, itertools.count()
    times = 2 if statistic is TopK else 1  # a batch: the largest and the smallest

    def update(self, *given, **options):
        if next(left) == 6 * times:
            raise error
        return real(self, *given, **options)

    outcomes.watch(model.net)
    options = OPTIONS | {"checkpoint": path, "every": every, "details": "pooled"}
    with monkeypatch.context() as patch:
        patch.setattr(statistic, "update", update)
        with outcomes.undisturbed(apart_from=path), pytest.raises(type(error)) as raised:
            profile(model, drawn, **options)
    told = raised.value.__notes__.pop()
    assert "memory ran out in the statistics of a batch" in told
    assert f"{path} has, written every {every} batches, is kept. Use a smaller batch_size" in told
    # No half of a batch is in the file: some of the statistics had it, and the others not.
    assert path.exists() == bool(kept)
    assert not kept or AttentionProfile.load(path).positions == kept * works.BATCH
    outcomes.happened(f"{NOTED}, and the file as it was written before")
    if kept < 6:
        outcomes.lost(LOST)
    assert alike(profile(model, drawn, **options), made)
    assert list(tmp_path.iterdir()) == [path]
    outcomes.then(LATER)


# -------------------------------------------------------------------------------------------------------------- readers


class Dying:
    """The images, of which one ends the process that reads it; in this process nothing happens."""

    def __init__(self, inner, at: int | None, how: str):
        self.inner, self.at, self.how, self.own = inner, at, how, os.getpid()
        self.classes = inner.classes

    def __len__(self):
        return len(self.inner)

    def __repr__(self):
        return "Dying()"

    def __getitem__(self, i):
        if i == self.at and os.getpid() != self.own:
            die(self.how)
        return self.inner[i]


class DyingTransform:
    """The transform of the model, which ends a process at its n-th image."""

    def __init__(self, inner, left: int):
        self.inner, self.left, self.own = inner, left, os.getpid()

    def __repr__(self):
        return repr(self.inner)

    def __call__(self, image):
        if os.getpid() != self.own:
            self.left -= 1
            if self.left < 0:
                die("exit 0")
        return self.inner(image)


def die(how: str) -> None:
    if how.startswith("exit"):
        os._exit(int(how.split()[1]))
    os.kill(os.getpid(), signal.SIGKILL if how == "SIGKILL" else signal.SIGSEGV)


def ended() -> bool:
    """Whether every process that was started here has ended; on a busy machine one may take a moment."""
    until = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    return not multiprocessing.active_children()


def zombies() -> list[str]:
    """Children that ended and were not waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state == "Z":
            found.append(path.parent.name)
    return found


KEPT = "what was read before is kept, and no process or hook is left"


ENDS = [(0, "exit 0"), (1, "SIGKILL"), (22, "SIGKILL"), (22, "exit 3"), (39, "SIGSEGV")]


@WORKERS
@DEATHS
@pytest.mark.skipif(os.name == "nt", reason="processes are killed by signals")
@pytest.mark.parametrize(("at", "how"), ENDS)
@case(
    READERS,
    "workers=2, and one ends at the first, second, 23rd or last image: os._exit, SIGKILL, SIGSEGV",
    expected=f"{CLEAR}; {KEPT}; then {SAME}",
)
def test_readers_that_die(outcomes, model, drawn, made, tmp_path, at, how):
    path = tmp_path / "p.profile"
    outcomes.watch(model.net)
    before = set(zombies())
    died = "a process that reads images died"
    with outcomes.clear_error(
        RuntimeError, died, "Use fewer workers.*workers=0", told=f"{CLEAR}; {KEPT}", apart_from=path
    ):
        profile(model, Dying(drawn, at, how), workers=2, checkpoint=path, **OPTIONS)
    assert ended()
    assert set(zombies()) <= before
    done = AttentionProfile.load(path).positions if path.exists() else 0
    assert done % works.BATCH == 0
    assert done <= at
    found = profile(model, Dying(drawn, None, how), workers=2, checkpoint=path, **OPTIONS)
    assert alike(found, made)
    assert list(tmp_path.iterdir()) == [path]
    outcomes.then(f"then {SAME}")


@pytest.fixture
def own_children():
    """Processes that read images are children of this one, whose death a signal tells; a fork server's are not."""
    before = multiprocessing.get_start_method(allow_none=True)
    if multiprocessing.get_start_method() == "forkserver":
        multiprocessing.set_start_method("fork", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@WORKERS
@DEATHS
@pytest.mark.usefixtures("own_children")
@pytest.mark.skipif(not hasattr(os, "waitid"), reason="Windows, and macOS before Python 3.13, have no os.waitid")
@pytest.mark.parametrize("statistic", [Moments, Histogram])
@case(
    READERS,
    "workers=2, and one is killed while the third batch goes into the statistics",
    expected=f"{CLEAR}; the file has that batch too; then {SAME}",
)
def test_readers_that_die_during_the_statistics(outcomes, model, drawn, made, tmp_path, monkeypatch, statistic):
    path, real, left = tmp_path / "p.profile", statistic.update, itertools.count()

    def update(self, *given, **options):
        if next(left) == 2:  # the third batch, which some of the statistics have and others have not
            one = multiprocessing.active_children()[0].pid
            os.kill(one, signal.SIGKILL)
            os.waitid(os.P_PID, one, os.WEXITED | os.WNOWAIT)  # until it has ended; torch still finds it
        return real(self, *given, **options)

    outcomes.watch(model.net)
    with monkeypatch.context() as patch:
        patch.setattr(statistic, "update", update)
        died = "a process that reads images died"
        with outcomes.clear_error(
            RuntimeError, died, "Use fewer workers", told=f"{CLEAR}; the file has that batch too", apart_from=path
        ):
            profile(model, drawn, workers=2, checkpoint=path, every=100, **OPTIONS)
    assert next(left) == 3
    assert ended()
    assert AttentionProfile.load(path).positions == 3 * works.BATCH
    assert alike(profile(model, drawn, workers=2, checkpoint=path, **OPTIONS), made)
    outcomes.then(f"then {SAME}")


@WORKERS
@DEATHS
@pytest.mark.skipif(os.name == "nt", reason="processes are killed by signals")
@case(READERS, "workers=2, and the transform ends the process (os._exit)", expected=f"{CLEAR}; {KEPT}")
def test_transforms_that_end_the_process(outcomes, drawn):
    model = works.model()
    model = ecaviz.load(model.net, transform=DyingTransform(model.transform, 5), classes=model.classes, device="cpu")
    outcomes.watch(model.net)
    with outcomes.clear_error(RuntimeError, "a process that reads images died", "workers=0"):
        profile(model, drawn, workers=2, **OPTIONS)
    assert ended()


@WORKERS
@DEATHS
@pytest.mark.skipif(os.name == "nt", reason="processes are killed by signals")
@case(READERS, "workers=2, and torch hears of a death while the network runs", expected=CLEAR)
def test_deaths_that_are_heard_of_in_the_network(outcomes, drawn, monkeypatch):
    model = works.model()
    heard = "DataLoader worker (pid 123) is killed by signal: Killed. "

    def ran(*_):
        raise RuntimeError(heard)

    monkeypatch.setattr(model.net, "forward", ran)
    outcomes.watch(model.net)
    with outcomes.clear_error(RuntimeError, "a process that reads images died", "is killed by signal", "workers=0"):
        profile(model, drawn, workers=2, **OPTIONS)
    assert ended()


class Ready(torch.utils.data.Dataset):
    """The images as they go into the network."""

    def __init__(self, inner):
        self.inner, self.classes = inner, inner.classes

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, i):
        image, label = self.inner[i]
        return normalise(image), label


class Ending(DataLoader):
    """A DataLoader that hears of the death of one of its processes after two batches."""

    def __iter__(self):
        yield from itertools.islice(super().__iter__(), 2)
        raise RuntimeError(HEARD)


HEARD = "DataLoader worker (pid(s) 123) exited unexpectedly"
PASSES = {
    "profile": lambda model, given: profile(model, given, progress=False),
    "sample_gates": lambda model, given: ecaviz.sample_gates(model, given, progress=False),
    "intervention_effect": lambda model, given: ecaviz.intervention_effect(
        model, given, "se", "permute", progress=False
    ),
    "predictions": agreement.predictions,
    "influence": lambda model, given: ecaviz.influence(model, "se", given, at_most=works.N),
    "interaction_matrix": lambda model, given: ecaviz.interaction_matrix(model, "se", given),
    "explorer": lambda model, given: readings.read_all([model], given),
}


@pytest.mark.parametrize("where", ["in the loader", "in the network"])
@pytest.mark.parametrize("name", PASSES)
@case(READERS, "torch hears of the death of a DataLoader's own process, in all that take images", expected=CLEAR)
def test_processes_of_a_loader_that_die(outcomes, drawn, monkeypatch, name, where):
    model = works.model()
    loader = (Ending if where == "in the loader" else DataLoader)(Ready(drawn), batch_size=works.BATCH)
    if where == "in the network":  # a signal comes at any moment
        monkeypatch.setattr(model.net.head, "forward", stops(RuntimeError(HEARD)))
    outcomes.watch(model.net)
    with outcomes.clear_error(RuntimeError, "a process that reads images died", "num_workers=0"):
        PASSES[name](model, loader)


@case(READERS, "torch hears of the death of a DataLoader's own process, in a loop over batches", expected=CLEAR)
def test_processes_of_a_loader_that_die_in_batches(outcomes, drawn):
    stream = images.batches(Ending(Ready(drawn), batch_size=works.BATCH))
    with outcomes.clear_error(RuntimeError, "a process that reads images died", "num_workers=0"):
        list(stream)


def stops(error):
    """A function that raises."""

    def ran(*_args, **_options):
        raise error

    return ran
