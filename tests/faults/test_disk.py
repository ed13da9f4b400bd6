"""Disks that are full, and folders that may not be written to."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import test_hub
import torch
import works
from damage import open_folder, someone_else
from recorder import CLEAR, RECOVERED, SAME, case
from safetensors import SafetensorError
from safetensors.torch import save_file

import ecaviz
from ecaviz import bundle, hub, images, networks, results, training, training_states, whole_files
from ecaviz.profiles import AttentionProfile, fingerprint_of, profile

FULL, CLOSED = "Disks that are full", "Folders that may not be written to"
KEPT = f"{CLEAR}; what was there before is untouched"
READS = f"{CLEAR}; what was there before is read as before"  # files that belong together are replaced one by one
SAYS = "cannot be written", "untouched", "[Mm]ake room"
ROOMS = pytest.mark.parametrize("room", ["none", "half", "all but one byte"])
ONCE = "nothing is trained anew"
server, source = test_hub.server, test_hub.source


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Inside the ``with`` no file can grow beyond so many bytes: the system itself says no."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    said = io.StringIO()  # what is printed would go into a file, too, where the output of tests is captured
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def bytes_of(room: str, size: int) -> int:
    return {"none": 0, "half": size // 2, "all but one byte": size - 1}[room]


@contextmanager
def no_space_left() -> Iterator[None]:
    """Inside the ``with`` half of each file is written, and then there is no space left on the device."""
    write = Path.write_bytes

    def half(path, content):
        write(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def half_of_tensors(tensors, path, metadata=None):
        write(path, b"0" * 1000)
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", half)
        patch.setattr("safetensors.torch.save_file", half_of_tensors)
        yield


@pytest.fixture(scope="module")
def made() -> AttentionProfile:
    return profile(works.model(), images.shapes("test", works.N), by="class", batch_size=works.BATCH, progress=False)


@ROOMS
@case(FULL, "while a profile is saved over another", expected=KEPT)
def test_saving_a_profile(outcomes, made, tmp_path, room):
    path = made.save(tmp_path / "p.profile")
    size = path.stat().st_size
    with outcomes.clear_error(OSError, path, *SAYS), room_for(bytes_of(room, size)):
        made.merge(made).save(path)
    assert AttentionProfile.load(path).positions == works.N
    with room_for(2 * size):
        made.merge(made).save(path)
    assert AttentionProfile.load(path).positions == 2 * works.N
    assert list(tmp_path.iterdir()) == [path]


@ROOMS
@case(FULL, "while a profile's table is saved over another", expected=KEPT)
def test_saving_a_table(outcomes, made, tmp_path, room):
    path = made.save_table(tmp_path / "t.csv")
    before = path.read_bytes()
    with outcomes.clear_error(OSError, path, *SAYS), room_for(bytes_of(room, len(before))):
        made.merge(made).save_table(path)
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def explorer():
    return ecaviz.RuleExplorer(bundled=False)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf", "csv"])
@case(FULL, "while an explorer's picture or numbers are saved over others", expected=KEPT)
def test_saving_a_picture(outcomes, explorer, tmp_path, kind):
    path = explorer.save(tmp_path / f"rule.{kind}")
    before = path.read_bytes()
    for count in (0, 100, len(before) // 2):
        with outcomes.clear_error(OSError, path, *SAYS), room_for(count):
            explorer.save(path)
        assert path.read_bytes() == before


@case(FULL, "“no space left on device” after half of a profile, of results, of a picture, of weights", expected=KEPT)
def test_no_space_left(outcomes, made, explorer, tmp_path):
    folder = tmp_path / "results"
    results.record(works.RUN, works.answers(0), folder)
    profile_, picture, weights = tmp_path / "p.profile", tmp_path / "rule.png", tmp_path / "w.safetensors"
    save_file({"w": torch.ones(3)}, tmp_path / "old.safetensors")
    for path, write in (
        (profile_, lambda: made.save(profile_)),
        (picture, lambda: explorer.save(picture)),
        (weights, lambda: ecaviz.weight_files.convert(tmp_path / "old.pth", weights, trusted=True)),
        (folder, lambda: results.record(replace(works.RUN, seed=1), works.answers(1), folder)),
    ):
        torch.save({"w": torch.ones(3)}, tmp_path / "old.pth")
        if path != folder:
            write()
        with outcomes.clear_error(OSError, path, *SAYS), no_space_left():
            write()
    assert list(results.correct(works.RUN.name, folder)) == [0]
    results.record(replace(works.RUN, seed=1), works.answers(1), folder)
    assert list(results.correct(works.RUN.name, folder)) == [0, 1]


@case(FULL, "at any checkpoint of a pass", expected=f"{CLEAR}; with room again, {SAME}")
def test_checkpoints_of_a_pass(outcomes, made, tmp_path, monkeypatch):
    model, path, save = works.model(), tmp_path / "p.profile", AttentionProfile.save
    outcomes.watch(model.net)
    options = {"by": "class", "batch_size": works.BATCH, "every": 1, "checkpoint": path, "progress": False}
    drawn = images.shapes("test", works.N)
    for last in (0, 1, 4):
        saved = 0

        def stopping(self, target, last=last):
            nonlocal saved
            saved += 1
            with room_for(10**9 if saved <= last else 1000):
                return save(self, target)

        monkeypatch.setattr(AttentionProfile, "save", stopping)
        if last:  # what is there already, so that nothing but the failure is told apart
            with pytest.raises(OSError, match="cannot be written"):
                profile(model, drawn, **options)
            kept = path.read_bytes()
            saved = last
        with outcomes.clear_error(OSError, path, *SAYS):
            profile(model, drawn, **options)
        monkeypatch.undo()
        if last:
            assert path.read_bytes() == kept
            assert AttentionProfile.load(path).positions == last * works.BATCH
        found = profile(model, drawn, **options)
        assert found.positions == works.N
        for name in made:
            torch.testing.assert_close(found.mean(name), made.mean(name), rtol=0, atol=1e-7)
        path.unlink()
        outcomes.then(f"with room again, {SAME}")


@case(FULL, "at the state after the second epoch of a training", expected=f"{CLEAR}; with room again, {SAME}")
def test_states_of_a_training(outcomes, tmp_path, monkeypatch):
    whole, state = works.train(None), tmp_path / "state.pt"
    replace_file, writes = whole_files.replace_file, []

    def stopping(path, content):
        writes.append(path)
        with room_for(10**9 if len(writes) == 1 else len(content) // 2):
            replace_file(path, content)

    monkeypatch.setattr(training_states, "replace_file", stopping)
    with pytest.raises(OSError, match="cannot be written"):
        works.train(state)
    with outcomes.clear_error(OSError, state, *SAYS):
        works.train(state)
    monkeypatch.undo()
    assert torch.load(state, weights_only=True)["epoch"] == 1
    assert works.train(state) == whole
    outcomes.then(f"with room again, {SAME}")


@case(FULL, "at any file that recording a run writes", expected=f"{READS}; {RECOVERED}")
def test_recording_a_run(outcomes, tmp_path):
    for seed in range(8):
        results.record(replace(works.RUN, seed=seed), works.answers(seed), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    sizes = sorted(path.stat().st_size for path in tmp_path.iterdir())
    for room in (0, *(size + 1 for size in sizes[:-1])):
        with outcomes.clear_error(OSError, tmp_path, *SAYS, told=READS, apart_from=tmp_path), room_for(room):
            results.record(replace(works.RUN, seed=8), works.answers(8), tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == names
        assert list(results.runs(tmp_path)["seed"]) == list(range(8))
        assert list(results.correct(works.RUN.name, tmp_path)) == list(range(8))
    results.record(replace(works.RUN, seed=8), works.answers(8), tmp_path)
    assert list(results.correct(works.RUN.name, tmp_path)) == list(range(9))
    outcomes.then(f"with room again, {RECOVERED}")


def bundled(folder: Path, seed: int) -> str:
    """Write a checkpoint; the fingerprint of its network."""
    torch.manual_seed(seed)
    net = networks.build(works.TINY)
    row = {"data": "shapes", "seed": 0, "epochs": 1, "train_images": 1, "seconds": 1.0, "hardware": "CPU"}
    bundle.write("tiny", net, works.TINY, tuple("abcdefghijkl"), row | {"test_images": 1, "accuracy": 0.5}, folder)
    return fingerprint_of(net)


@case(FULL, "while a bundled checkpoint is replaced", expected=READS)
def test_replacing_a_checkpoint(outcomes, tmp_path):
    bundled(tmp_path, 0)
    before = bundle.read("tiny", tmp_path)[1]
    for room in (0, 100, (tmp_path / "tiny.safetensors").stat().st_size - 1):
        with outcomes.clear_error(OSError, tmp_path, *SAYS, told=READS, apart_from=tmp_path), room_for(room):
            bundled(tmp_path, 1)
        assert {path.name for path in tmp_path.iterdir()} == {"tiny.safetensors", "manifest.csv", "SHA256SUMS"}
        found = bundle.read("tiny", tmp_path)[1]
        assert all(torch.equal(one, before[key]) for key, one in found.items())
    bundled(tmp_path, 1)
    assert not torch.equal(bundle.read("tiny", tmp_path)[1]["fc.weight"], before["fc.weight"])
    assert " " not in bundle.manifest(tmp_path)["tiny"].sha256


@pytest.mark.parametrize("room", [0, 1000, 299_999])
@case(FULL, "while weights are downloaded", expected=f"{CLEAR}; nothing is left; with room again, {RECOVERED}")
def test_downloading(outcomes, server, source, room):
    source.partial.parent.mkdir(parents=True)
    with (
        outcomes.clear_error(OSError, source.cache, test_hub.NAME, "Make room there", apart_from=source.cache),
        room_for(room),
    ):
        source.fetch()
    test_hub.assert_nothing_whole(source, kept=0)
    test_hub.assert_next_call_succeeds(server, source)
    outcomes.then(f"with room again, {RECOVERED}")


# ------------------------------------------------------------------------------------------- no permission to write


@case(CLOSED, "profiles, tables, pictures, results, checkpoints, the checkpoint of a pass", expected=KEPT)
def test_folders_that_may_not_be_written_to(outcomes, made, explorer):
    with open_folder() as folder:
        outcomes.watch(folder)
        path = made.save(folder / "p.profile")
        results.record(works.RUN, works.answers(0), folder)
        bundled(folder, 0)
        for one in (folder, *folder.iterdir()):
            one.chmod(one.stat().st_mode & 0o555)
        drawn = images.shapes("test", 4)
        with someone_else():
            for write in (
                lambda: made.save(path),
                lambda: made.save_table(folder / "t.csv"),
                lambda: explorer.save(folder / "rule.png"),
                lambda: results.record(replace(works.RUN, seed=1), works.answers(1), folder),
                lambda: bundled(folder, 1),
                lambda: profile(works.model(), drawn, checkpoint=folder / "new.profile", progress=False),
            ):
                with outcomes.clear_error(PermissionError, folder, "cannot be written", "writable"):
                    write()
            assert AttentionProfile.load(path).positions == works.N
            assert list(results.correct(works.RUN.name, folder)) == [0]
            bundle.read("tiny", folder)


@case(CLOSED, "the cache of downloads", expected=CLEAR)
def test_caches_that_may_not_be_written_to(outcomes, server, monkeypatch):
    with open_folder() as folder:
        outcomes.watch(folder)
        folder.chmod(0o555)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(folder / "token"))
        monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
        url = server.add_file("net.pth", test_hub.CONTENT)
        with someone_else():
            says = test_hub.NAME, "make it writable", "set (HF|TORCH)_HOME"
            for get in (lambda: hub.fetch(test_hub.NAME, test_hub.REPO), lambda: hub.fetch_url(test_hub.NAME, url)):
                with outcomes.clear_error(PermissionError, folder, *says):
                    get()
        assert not server.gets


@pytest.fixture
def bundle_folder(monkeypatch):
    """An open folder with ``out``, for what is trained, and ``scratch``, both of "someone else"."""
    monkeypatch.setattr(works.training_sets.TrainingSet, "read", None)  # put back at the end
    with open_folder() as folder:
        for name in ("out", "scratch"):
            (folder / name).mkdir()
            if os.geteuid() == 0:
                shutil.chown(folder / name, 65534)
        yield folder
        (folder / "out").chmod(0o777)


@case(CLOSED, "the folder of checkpoints, before a training", expected=f"{CLEAR}, before the first epoch")
def test_training_into_a_closed_folder(outcomes, monkeypatch, bundle_folder):
    out = bundle_folder / "out"
    out.chmod(0o555)
    monkeypatch.setattr(training, "_epoch", lambda *_: pytest.fail("trained"))
    told = f"{CLEAR}, before the first epoch"
    with someone_else(), outcomes.clear_error(PermissionError, out, "cannot be written", told=told):
        works.train_two(str(bundle_folder))


@case(CLOSED, "the folder of checkpoints, closed while a network is trained", expected=f"{CLEAR}; then {ONCE}")
def test_training_into_a_folder_that_is_closed_meanwhile(outcomes, monkeypatch, bundle_folder):
    out, epoch = bundle_folder / "out", training._epoch

    def closing(*given):
        out.chmod(0o555)
        return epoch(*given)

    with monkeypatch.context() as patched:
        patched.setattr(training, "_epoch", closing)
        with (
            someone_else(),
            outcomes.clear_error(PermissionError, out, "cannot be written|ermission", apart_from=bundle_folder),
        ):
            works.train_two(str(bundle_folder))
    out.chmod(0o777)
    steps = []
    monkeypatch.setattr(training, "_epoch", lambda *given: steps.append(given[6]) or pytest.fail("trained anew"))
    with pytest.raises(pytest.fail.Exception):  # seed 0 was through; seed 1 begins
        works.train_two(str(bundle_folder))
    assert steps == [1]
    assert list(results.correct("tiny", out / "results")) == [0]
    outcomes.then(f"then {ONCE}")
