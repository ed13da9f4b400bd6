"""Files from elsewhere: read without running anything in them, and refused in words when they are bad."""

import argparse
import gzip
import io
import pickle
import struct
import tarfile
import textwrap
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ecaviz
from ecaviz import pickle_nesting, weight_files


@pytest.fixture
def state():
    torch.manual_seed(0)
    return {"a.weight": torch.randn(40, 30), "a.bias": torch.randn(40), "a.num_batches_tracked": torch.tensor(3)}


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


# -------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3, "arch": "eca_resnet50"},
        lambda s: {"model": s, "optimizer": {"state": {}}},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"net": {f"module._orig_mod.{k}": v for k, v in s.items()}, "acc": 93.1},
        lambda s: {"state_dict": {k: v + 1 for k, v in s.items()}, "state_dict_ema": s},
        lambda s: {"state_dict": s, "state_dict_ema": {}, "model": "resnet50"},
        lambda s: {"model_ema": {"n_averaged": torch.tensor(5), **{f"module.{k}": v for k, v in s.items()}}},
        lambda s: {"state_dict": {**s, "total_ops": torch.zeros(1), "a.total_params": torch.zeros(1)}},  # thop
    ],
)
def test_torch_files(tmp_path, state, wrap, old):
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=not old)
    file = weight_files.read(path)
    assert same(file.state, state)
    assert (file.path, file.format, file.metadata) == (path, "torch.save", {})


def test_what_a_training_script_wrote_beside_the_weights(tmp_path, state):
    path = tmp_path / "x.pth"
    best = np.float64(77.5)
    options = argparse.Namespace(lr=0.1, model="ecaresnet50d")
    torch.save(
        {"state_dict": state, "epoch": 90, "best_prec1": torch.tensor(77.25), "acc": best, "args": options}, path
    )
    file = weight_files.read(str(path))
    assert same(file.state, state)
    assert file.notes == {"epoch": 90, "best_prec1": 77.25}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", ">f8", ">i4"])
def test_numbers_of_numpy_beside_the_weights(tmp_path, state, kind, old):
    written = np.array([3.0]).astype(kind)[0]
    if kind.startswith(">"):
        written = _Swapped(written, kind)
    torch.save({"state_dict": state, "epoch": written}, tmp_path / "x.pth", _use_new_zipfile_serialization=not old)
    assert weight_files.read(tmp_path / "x.pth").notes == {"epoch": kind == "?" or 3}


class _Swapped:
    """A number as a machine writes it that has the bytes in the other order."""

    def __init__(self, value, kind):
        self.value, self.kind = value, np.dtype(kind)

    def __reduce__(self):
        scalar = np.float64(0).__reduce__()[0]
        return scalar, (self.kind, np.array(self.value, self.kind).tobytes())


@pytest.mark.parametrize("old", [False, True])
def test_tuples_in_tuples(tmp_path, state, old):
    path, deep = tmp_path / "x.pt", (1, [2, {"a": (3,)}], ((4, 5), 6, 7, 8))
    for _ in range(pickle_nesting.MOST - 3):
        deep = (deep,)
    torch.save({"state_dict": state, "log": deep}, path, _use_new_zipfile_serialization=not old)
    assert same(weight_files.read(path).state, state)
    torch.save({"state_dict": state, "log": (deep,)}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(
        ValueError, match=r"x.pt is damaged or no checkpoint: tuples in it .* more than 200 levels deep"
    ):
        weight_files.read(path)


def test_what_somebody_allowed_is_allowed_afterwards(tmp_path, state):
    torch.save({"state_dict": state, "args": argparse.Namespace(x=1), "acc": np.float64(3)}, tmp_path / "x.pt")
    with torch.serialization.safe_globals([argparse.Namespace, np.dtype, (len, "a.name")]):
        weight_files.read(tmp_path / "x.pt")
        assert {argparse.Namespace, np.dtype, (len, "a.name")} <= set(torch.serialization.get_safe_globals())


@pytest.mark.parametrize("length", [0x80, 0x180, 0x4B50])
def test_safetensors_whose_length_begins_as_a_pickle_or_an_archive_does(tmp_path, length):
    header = b'{"fc.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'.ljust(length)
    content = struct.pack("<Q", length) + header + struct.pack("<4f", 1, 2, 3, 4)
    assert content.startswith((b"\x80", b"PK"))
    (tmp_path / "a.safetensors").write_bytes(content)
    assert weight_files.read(tmp_path / "a.safetensors").state["fc.weight"].tolist() == [[1, 2], [3, 4]]


def test_safetensors(tmp_path, state):
    path = tmp_path / "weights.bin"  # the content decides, not the suffix
    save_file(state, path, metadata={"format": "pt"})
    file = weight_files.read(path)
    assert same(file.state, state)
    assert (file.format, file.metadata) == ("safetensors", {"format": "pt"})


def test_half_precision_loads_into_the_network(tmp_path):
    net = ecaviz.load("shapes-eca-k3", device="cpu").net
    torch.save(
        {key: v.half() if v.is_floating_point() else v for key, v in net.state_dict().items()}, tmp_path / "x.pt"
    )
    loaded = ecaviz.load(tmp_path / "x.pt", device="cpu").net
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    for mine, other in zip(net.parameters(), loaded.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------------------------ code is not run


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: net,
        lambda net: {"model": net, "epoch": 3},
        lambda net: {"state_dict": net.state_dict(), "args": Options()},
        lambda net: {key: value.numpy() for key, value in net.state_dict().items()},
    ],
)
@pytest.mark.parametrize("plain", [False, True])
def test_the_advice_for_a_refused_pickle_works(tmp_path, wrap, plain):
    """A network, one in a dictionary, options of an unknown class, arrays; by torch.save or as a plain pickle."""
    net = nn.Linear(3, 2)
    path = tmp_path / "it's $(touch a).pth"
    if plain:
        path.write_bytes(pickle.dumps(wrap(net)))
    else:
        torch.save(wrap(net), path)
    with pytest.raises(ValueError, match=r"refused, and nothing in it was run") as caught:
        weight_files.read(path)
    advice = str(caught.value).partition("\n")[2]
    exec(textwrap.dedent(advice))
    assert same(weight_files.read(path.with_suffix(".safetensors")).state, net.state_dict())


class Options:
    """What a training script may pickle beside the weights."""


def test_converting_wants_a_word(tmp_path, state):
    torch.save(nn.Linear(3, 2), tmp_path / "x.pth")
    with pytest.raises(PermissionError, match=r"can execute code. If you trust its author, pass trusted=True"):
        weight_files.convert(tmp_path / "x.pth", tmp_path / "y.safetensors", trusted=False)
    with pytest.raises(ValueError, match=r"is the file to be read; name another"):
        weight_files.convert(tmp_path / "x.pth", tmp_path / "x.pth", trusted=True)
    torch.save([1, 2], tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"holds a list; expected a state dict"):
        weight_files.convert(tmp_path / "x.pth", tmp_path / "y.safetensors", trusted=True)
    assert not (tmp_path / "y.safetensors").exists()


def test_several_threads_read_at_once(tmp_path, state):
    """What is let through is one list for the process: nobody takes it from another, and it is empty afterwards."""
    path = tmp_path / "x.pt"
    torch.save({"state_dict": state, "args": argparse.Namespace(x=1)}, path)
    before = list(torch.serialization.get_safe_globals())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: weight_files.read(path).state, range(64)))
    assert all(same(one, state) for one in found)
    assert torch.serialization.get_safe_globals() == before


def test_what_is_allowed_is_allowed_for_this_file_alone(tmp_path, state):
    torch.save({"state_dict": state, "args": argparse.Namespace(x=1)}, tmp_path / "x.pt")
    weight_files.read(tmp_path / "x.pt")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


# ------------------------------------------------------------------------------------------------------------ bad files


def test_a_whole_program_is_no_file_of_weights(tmp_path):
    """torch.jit.save and torch.export write zip archives too."""
    with warnings.catch_warnings(action="ignore"):
        torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)).save(tmp_path / "jit.pt")
    with pytest.raises(ValueError, match=r"is a whole program, written by torch.jit.save or torch.export"):
        weight_files.read(tmp_path / "jit.pt")
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.zeros(1, 3),)), tmp_path / "export.pt2")
    with pytest.raises(ValueError, match=r"is a whole program, written by torch.jit.save or torch.export"):
        weight_files.read(tmp_path / "export.pt2")


def tar_of(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("weights.pth")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("weights.bin", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"ECA-Net50 24.37M 77.48\n" * 40, "is a text file"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"\n\n <html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 102\n", "git lfs pull"),
        (gzip.compress(b"x" * 100, mtime=0), "compressed with gzip"),
        (tar_of(b"x" * 1000), r"is a tar archive.*tar -xf.*official .pth.tar"),
        (zip_of(b"x" * 1000), r"zip archive, but no torch.save \(it holds weights.bin\)"),
        (bytes(range(200, 256)) * 20, "no file of weights"),
        (struct.pack("<Q", 10**12) + b"{}", "truncated: a safetensors file whose header alone has 1000000000000 bytes"),
        (struct.pack("<Q", 2) + b"{]", "damaged or was truncated: safetensors says"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, content, message):
    path = tmp_path / "eca_resnet50.pth.tar"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"load: .*eca_resnet50.pth.tar.*{message}"):
        ecaviz.load(path, device="cpu")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(3)], "holds a list; expected a state dict"),
        (torch.zeros(3), "holds a Tensor; expected a state dict"),
        ({}, "a dictionary with nothing in it"),
        ({"epoch": 3, "lr": 0.1}, "a dictionary with 'epoch', 'lr'; expected a state dict"),
        ({"state_dict": {"a": 1}}, "a dictionary with 'state_dict'; expected"),
        ({"a": torch.zeros(3), 5: torch.zeros(3)}, "a dictionary with 'a', 5; expected"),
        ({"a": torch.zeros(1).expand(10**12)}, "damaged: a claims 1000000000000 numbers, and holds fewer"),
        ({"a": torch.zeros(3, 3).to_sparse()}, r"sparse, quantised or empty weights \(a\); expected ordinary tensors"),
        ({"a": torch.zeros(3, dtype=torch.int8)}, r"has weights of torch.int8 \(a\); expected floating point"),
        ({"a": torch.zeros(3, dtype=torch.complex64)}, r"has weights of torch.complex64 \(a\)"),
        ({"a": torch.zeros(3, dtype=torch.bool)}, r"has weights of torch.bool \(a\)"),
        ({"a.running_var": torch.tensor([1.0, -1.0])}, r"a.running_var has negative variances"),
    ],
)
def test_files_without_a_state_dict(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=message):
        weight_files.read(tmp_path / "x.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(tmp_path, state, value):
    state["a.weight"][3, 4] = value
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"NaN or infinite, in a.weight: the training diverged or the file is damaged"):
        weight_files.read(tmp_path / "x.safetensors")


def test_no_such_file(tmp_path, state):
    save_file(state, tmp_path / "eca_resnet50_k3557.safetensors")
    with pytest.raises(
        FileNotFoundError, match=r"no file .*eca_resnet50.pth.tar. Weights in .*eca_resnet50_k3557.safet"
    ):
        ecaviz.load(tmp_path / "eca_resnet50.pth.tar")
    with pytest.raises(FileNotFoundError, match=r"Its folder .*nowhere is missing too"):
        ecaviz.load(str(tmp_path / "nowhere" / "x.pt"))
    with pytest.raises(ValueError, match=r"is a folder; expected a file of weights. Weights in .*k3557"):
        ecaviz.load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"No file in .* looks like weights"):
        ecaviz.load(tmp_path / "empty" / "x.pt")


def test_a_file_by_its_bare_name(tmp_path, monkeypatch):
    """A string is a name first; a file of that name in the working folder is found where no model is called so."""
    monkeypatch.chdir(tmp_path)
    net = ecaviz.load("shapes-eca-k3", device="cpu").net
    torch.save(net.state_dict(), "mine")
    assert ecaviz.load("mine", device="cpu").source == "file"
    torch.save({}, "shapes-eca-k3")
    assert ecaviz.load("shapes-eca-k3", device="cpu").source == "bundled"
    with pytest.raises(ValueError, match="a dictionary with nothing in it"):
        ecaviz.load(tmp_path / "shapes-eca-k3", device="cpu")
