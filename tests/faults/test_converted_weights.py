"""Pickles of weights that are to be converted, as a refused one says, and cannot be: code is missing, files are cut."""

from __future__ import annotations

import pickle
import sys
import types

import pytest
import torch
from damage import flipped, open_folder, seeds, sixteenths, someone_else
from recorder import CLEAR, SAME, case
from torch import nn

from ecaviz import weight_files

GROUP = "Files of weights"
KINDS = pytest.mark.parametrize("kind", ["zip", "old", "plain pickle"])
NO_CHECKPOINT = "is cut off or no checkpoint"
KEPT = f"{CLEAR}; the target is untouched"


@pytest.fixture
def module(monkeypatch):
    """A module with a class of options, as a training script has it."""
    made = types.ModuleType("no_such_module")
    made.Options = type("Options", (), {"__module__": "no_such_module"})
    monkeypatch.setitem(sys.modules, "no_such_module", made)
    return made


def written(path, content, kind):
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    return path


def convert(path):
    return weight_files.convert(path, path.with_name("converted.safetensors"), trusted=True)


@KINDS
@case(
    GROUP,
    "converted: with options beside them whose code, a module or a class in it, is not there",
    expected=f"{CLEAR}; with it, {SAME}",
)
def test_missing_code(outcomes, module, monkeypatch, tmp_path, kind):
    state = nn.Linear(3, 2).state_dict()
    path = written(tmp_path / "x.pth", {"state_dict": state, "options": module.Options()}, kind)
    where = "Run convert where the code can be imported that the network was trained with"
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "no_such_module")
        with outcomes.clear_error(ImportError, path, "convert: .* needs the module no_such_module", where):
            convert(path)
    with monkeypatch.context() as patch:
        patch.delattr(module, "Options")
        with outcomes.clear_error(ImportError, path, "convert: .* needs no_such_module.Options", where):
            convert(path)
    found = weight_files.read(convert(path)).state
    assert all(torch.equal(found[name], value) for name, value in state.items())
    outcomes.then(f"with it, {SAME}")


@KINDS
@case(GROUP, "converted: cut off at every sixteenth of their length, one byte short, or empty", expected=CLEAR)
def test_cut_off(outcomes, tmp_path, kind):
    path = written(tmp_path / "x.pth", {"state_dict": nn.Linear(30, 20).state_dict(), "more": nn.ReLU()}, kind)
    for part in (b"", *sixteenths(path.read_bytes())):
        path.write_bytes(part)
        with outcomes.clear_error(ValueError, path, f"{NO_CHECKPOINT}|damaged", "etch it again"):
            convert(path)


@pytest.mark.parametrize("seeds", seeds(20, 300))
@case(
    GROUP, "converted: bits, bytes or runs of 16 bytes changed, in PyTorch's zip format", expected=f"{CLEAR}, or {SAME}"
)
def test_changed(outcomes, tmp_path, seeds):
    net = nn.Linear(30, 20)
    path = written(tmp_path / "x.pth", {"state_dict": net.state_dict(), "more": nn.ReLU()}, "zip")
    content, whole = path.read_bytes(), net.state_dict()

    def same(target):
        found = weight_files.read(target).state
        target.unlink()
        return all(torch.equal(found[name], value) for name, value in whole.items())

    for seed in seeds:
        path.write_bytes(flipped(content, seed))
        says = f"{NO_CHECKPOINT}|damaged|holds|is a zip archive|a whole program"
        outcomes.attempt(lambda: convert(path), ValueError, path, says, same=same, writes=True)


class Raises:
    """Unpickled, this fails."""

    def __reduce__(self):
        return int, ("no number",)


@case(
    GROUP,
    "converted: a web page, safetensors, an archive, code that fails, no state dict, sparse weights",
    expected=KEPT,
)
def test_others(outcomes, tmp_path):
    path, target = tmp_path / "x.pth", tmp_path / "converted.safetensors"
    weight_files.convert(written(path, nn.Linear(3, 2), "zip"), target, trusted=True)
    whole = target.read_bytes()
    for content in (b"<html>log in</html>", whole, pickle.dumps(Raises())):
        path.write_bytes(content)
        says = NO_CHECKPOINT, "Fetch it again, or run convert where it was saved"
        with outcomes.clear_error(ValueError, path, *says, told=KEPT):
            convert(path)
    path.write_bytes(b"PK\5\6" + b"\0" * 18)
    with outcomes.clear_error(ValueError, path, "is a zip archive, but no torch.save", told=KEPT):
        convert(path)
    written(path, {"epoch": 3, "more": nn.ReLU()}, "zip")
    with outcomes.clear_error(ValueError, path, "expected a state dict", told=KEPT):
        convert(path)
    written(path, {"a": torch.eye(3).to_sparse()}, "zip")
    with outcomes.clear_error(ValueError, path, "sparse", "expected ordinary tensors", told=KEPT):
        convert(path)
    assert target.read_bytes() == whole


@case(GROUP, "converted: missing, a folder, or may not be read", expected=CLEAR)
def test_not_there(outcomes):
    with open_folder() as folder:
        outcomes.watch(folder)
        path = folder / "x.pth"
        with outcomes.clear_error(FileNotFoundError, path, "convert: there is no file", r"load\(\) refused"):
            convert(path)
        path.mkdir()
        with outcomes.clear_error(ValueError, path, "is a folder"):
            convert(path)
        path.rmdir()
        written(path, nn.Linear(3, 2), "zip")
        path.chmod(0)
        with someone_else(), outcomes.clear_error(PermissionError, path, "may not be read", "chmod"):
            convert(path)
