"""Files of weights from elsewhere that are broken: PyTorch's two formats and safetensors."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable

import pytest
import torch
from damage import flipped, open_folder, seeds, sixteenths, someone_else
from recorder import CLEAR, SAME, case
from safetensors.torch import save, save_file
from stopping import Worker

import ecaviz
from ecaviz import bundle, images, networks, picture_state, weight_files

GROUP = "Files of weights"
KINDS = pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
WHOLE = "it is whole or refused; where the format has no checksum, changed numbers can pass"
OTHERWISE = "other numbers under the same names and shapes: the format has no checksum"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a.weight": torch.randn(40, 30), "a.bias": torch.randn(40), "a.num_batches_tracked": torch.tensor(3)}


def written(folder, state, kind):
    """As the official scripts write it: the state dict of a DataParallel, with what else they keep."""
    path = folder / "eca_resnet50_k3557.pth.tar"
    if kind == "safetensors":
        save_file(state, path)
    else:
        whole = {"epoch": 90, "state_dict": {f"module.{key}": one for key, one in state.items()}, "best_prec1": 77.4}
        torch.save(whole, path, _use_new_zipfile_serialization=kind == "zip")
    return path


def alike(found, state) -> bool:
    return found.keys() == state.keys() and all(
        found[key].dtype == one.dtype and torch.equal(found[key], one) for key, one in state.items()
    )


@KINDS
@case(GROUP, "cut off at every sixteenth of their length, and one byte short", expected=CLEAR)
def test_cut_off(outcomes, tmp_path, state, kind):
    path = written(tmp_path, state, kind)
    for part in sixteenths(path.read_bytes()):
        path.write_bytes(part)
        with outcomes.clear_error(ValueError, path, "damaged|truncated", "etch it again"):
            weight_files.read(path)


DONE = {
    "zip": "bits, bytes or runs of 16 bytes changed, in PyTorch's zip format (it has checksums)",
    "old": "bits, bytes or runs of 16 bytes changed, in PyTorch's old format, that of the official .pth.tar files "
    "(no checksum)",
    "safetensors": "bits, bytes or runs of 16 bytes changed, in safetensors from elsewhere (no checksum)",
}


def check_flipped(outcomes, folder, state, kind, seeds):
    path = written(folder, state, kind)
    content = path.read_bytes()
    for seed in seeds:
        path.write_bytes(flipped(content, seed))
        outcomes.attempt(
            lambda: weight_files.read(path).state,
            ValueError,
            path,
            same=lambda found: alike(found, state),
            otherwise=OTHERWISE if kind != "zip" and sound(path) else None,
            unnoticed="the numbers that were changed",
        )


def sound(path) -> bool:
    """Whether all that is left to say is that numbers differ: every weight is a finite number of the dtype it had."""
    try:
        found = weight_files.read(path).state
    except ValueError:
        return False
    return all(torch.isfinite(one).all() for one in found.values())


@pytest.mark.parametrize("seeds", seeds(60, 3000))
@case(GROUP, DONE["zip"], expected=f"{CLEAR}, or {SAME} (padding)")
def test_changed_zip(outcomes, tmp_path, state, seeds):
    check_flipped(outcomes, tmp_path, state, "zip", seeds)


@pytest.mark.parametrize("seeds", seeds(60, 3000))
@case(GROUP, DONE["old"], expected=WHOLE)
def test_changed_old(outcomes, tmp_path, state, seeds):
    check_flipped(outcomes, tmp_path, state, "old", seeds)


@pytest.mark.parametrize("seeds", seeds(60, 3000))
@case(GROUP, DONE["safetensors"], expected=WHOLE)
def test_changed_safetensors(outcomes, tmp_path, state, seeds):
    check_flipped(outcomes, tmp_path, state, "safetensors", seeds)


@pytest.mark.parametrize("seeds", seeds(20, 1000))
@case(
    GROUP,
    "bits, bytes or runs of 16 bytes changed, in a checkpoint that this project wrote (a digest in its header)",
    expected=f"{CLEAR}, or {SAME} (the name of the digest changed, and nothing else)",
)
def test_changed_own(outcomes, tmp_path, seeds):
    made = bundle.read(BASE)
    net = networks.build(made[0])
    net.load_state_dict(made[1])
    about = {name: getattr(made[3], name) for name in ("data", "seed", "epochs", "train_images", "seconds", "hardware")}
    bundle.write("mine", net, made[0], made[2], about | {"test_images": 10, "accuracy": 0.5}, tmp_path)
    (tmp_path / "manifest.csv").unlink()
    path = tmp_path / "mine.safetensors"
    assert alike(ecaviz.load(path, device="cpu").net.state_dict(), made[1])
    content = path.read_bytes()
    for seed in seeds:
        path.write_bytes(flipped(content, seed))
        outcomes.attempt(
            lambda: ecaviz.load(path, device="cpu").net.state_dict(),
            ValueError,
            path,
            same=lambda found: alike(found, made[1]),
        )


@case(GROUP, "an empty file, and a folder where the file is expected", expected=CLEAR)
def test_empty_file_and_folder(outcomes, tmp_path):
    (tmp_path / "empty.pth").touch()
    (tmp_path / "folder.pth").mkdir()
    with outcomes.clear_error(ValueError, tmp_path / "empty.pth", r"is empty \(0 bytes\)", "fetch it again"):
        ecaviz.load(tmp_path / "empty.pth", device="cpu")
    with outcomes.clear_error(ValueError, tmp_path / "folder.pth", "is a folder; expected a file of weights"):
        ecaviz.load(tmp_path / "folder.pth", device="cpu")


@case(
    GROUP,
    "a link to itself, a name that is too long for a file, the folder of a user that there is not",
    expected=CLEAR,
)
def test_names_that_lead_nowhere(outcomes, tmp_path):
    path = tmp_path / "x.pth"
    path.symlink_to(path)
    for one in (path, tmp_path / f"{'x' * 300}.pth"):
        with outcomes.clear_error(FileNotFoundError, one, "a link that leads to itself|too long", "Give the file"):
            ecaviz.load(one, device="cpu")
    nobody = "~nosuchuser/x.pth"
    for read in (ecaviz.load, images.folder, picture_state.decoded_from, lambda one: images.cifar10("test", one)):
        with outcomes.clear_error(FileNotFoundError, nobody, "nobody here is called nosuchuser", "path in full"):
            read(nobody)


@KINDS
@case(GROUP, "a file that may not be read, and one in a folder that may not be entered", expected=CLEAR)
def test_no_permission(outcomes, state, kind):
    with open_folder() as folder:
        path = written(folder, state, kind)
        path.chmod(0)
        outcomes.watch(folder)
        with someone_else(), outcomes.clear_error(PermissionError, path, "may not be read", "chmod"):
            ecaviz.load(path, device="cpu")
        (folder / "closed").mkdir(mode=0)
        path = folder / "closed" / "x.pt"
        with someone_else(), outcomes.clear_error(PermissionError, path, "may not be read", "chmod"):
            ecaviz.load(path, device="cpu")


# --------------------------------------------------------------------------------- valid files with the wrong contents

BASE = "shapes-eca-k3"


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of a bundled checkpoint by itself: its state, its header, and how to write it with another state."""
    read = weight_files.read(bundle.data_folder() / "checkpoints" / f"{BASE}.safetensors")
    path = tmp_path / "mine.safetensors"

    def write(state, described=True):
        save_file({key: one.contiguous() for key, one in state.items()}, path, read.metadata if described else None)
        return path

    return read.state, write


WEIGHT, NORM, KERNEL = "layer2.0.conv1.weight", "layer2.0.bn1.running_var", "layer3.1.se.excite.conv.weight"


def without(state, key):
    return {name: one for name, one in state.items() if name != key}


SHAPES: dict[str, Callable] = {
    "a row more": lambda s: s | {WEIGHT: torch.cat([s[WEIGHT], s[WEIGHT][:1]])},
    "transposed": lambda s: s | {WEIGHT: s[WEIGHT].transpose(0, 1)},
    "flat": lambda s: s | {WEIGHT: s[WEIGHT].flatten()},
    "no rows": lambda s: s | {WEIGHT: s[WEIGHT][:0]},
    "one number": lambda s: s | {WEIGHT: torch.tensor(1.0)},
    "a norm too short": lambda s: s | {NORM: s[NORM][:-1]},
    "a kernel of even size": lambda s: s | {KERNEL: torch.zeros(1, 1, 4)},
    "a kernel of no size": lambda s: s | {KERNEL: torch.zeros(1, 1, 0)},
    "a kernel too many axes": lambda s: s | {KERNEL: torch.zeros(1, 1, 3, 3)},
    "missing": lambda s: without(s, WEIGHT),
    "no head": lambda s: without(without(s, "fc.weight"), "fc.bias"),
    "one more": lambda s: s | {"layer9.weight": torch.zeros(3)},
}


@pytest.mark.parametrize("described", [True, pytest.param(False, marks=pytest.mark.long)], ids=["described", "bare"])
@case(GROUP, "wrong shapes, missing and unknown weights in a valid safetensors file", expected=CLEAR)
def test_wrong_shapes(outcomes, checkpoint, described):
    state, write = checkpoint
    for change in SHAPES.values():
        path = write(change(state), described)
        with outcomes.clear_error(ValueError, path):
            ecaviz.load(path, device="cpu")


@pytest.mark.parametrize("described", [True, False], ids=["described", "bare"])
@case(GROUP, "whole numbers, booleans and complex numbers as weights in a valid safetensors file", expected=CLEAR)
def test_wrong_dtypes(outcomes, checkpoint, described):
    state, write = checkpoint
    dtypes = [torch.int64, torch.int8, torch.uint8, torch.bool]
    with contextlib.suppress(KeyError):  # safetensors before 0.7 knows no complex numbers
        save({"a": torch.zeros(1, dtype=torch.complex64)})
        dtypes.append(torch.complex64)
    for dtype in dtypes:
        for key in (WEIGHT, NORM, KERNEL):
            path = write(state | {key: state[key].to(dtype)}, described)
            with outcomes.clear_error(ValueError, path, str(dtype), "expected floating point numbers"):
                ecaviz.load(path, device="cpu")


@case(GROUP, "weights of 16 and 64 bits", expected="they load as float32, as near as they can be")
def test_other_precisions(outcomes, checkpoint):
    state, write = checkpoint
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = ecaviz.load(write(state), device="cpu").net(x)
        for dtype, tolerance in ((torch.float64, 0), (torch.float16, 0.05), (torch.bfloat16, 0.5)):
            path = write({key: one.to(dtype) if one.is_floating_point() else one for key, one in state.items()})
            with outcomes.undisturbed():
                net = ecaviz.load(path, device="cpu").net
            assert {one.dtype for one in net.parameters()} == {torch.float32}
            torch.testing.assert_close(net(x), expected, rtol=0, atol=tolerance)
            outcomes.happened("as near as the precision allows")


@pytest.mark.parametrize("described", [True, False], ids=["described", "bare"])
@case(GROUP, "NaN and infinite weights, one in each of four tensors", expected=CLEAR)
def test_no_numbers(outcomes, checkpoint, described):
    state, write = checkpoint
    for value in (torch.nan, torch.inf, -torch.inf):
        for key in (WEIGHT, NORM, KERNEL, "fc.bias"):
            broken = state[key].clone()
            broken.view(-1)[-1] = value
            path = write(state | {key: broken}, described)
            with outcomes.clear_error(ValueError, path, f"NaN or infinite, in {key}", "fetch the file again"):
                ecaviz.load(path, device="cpu")


@case(GROUP, "a header that does not fit the weights, or says nothing sensible", expected=CLEAR)
def test_wrong_headers(outcomes, checkpoint, tmp_path):
    state, _ = checkpoint
    path = tmp_path / "mine.safetensors"
    right = weight_files.read(bundle.data_folder() / "checkpoints" / f"{BASE}.safetensors").metadata
    for wrong in (
        {"format": "7"},
        {"architecture": "{"},
        {"architecture": "[]"},
        {"architecture": "{}"},
        {"architecture": '{"attention": "eca", "blocks": [2, 2]}'},
        {"architecture": '{"attention": "nonsense"}'},
        {"architecture": '{"attention": "eca", "planes": [8, 16, 32, -1]}'},
        {"architecture": '{"attention": "eca", "classes": 1e9}'},
        {"architecture": '{"attention": "eca", "options": {"kernel_size": 4}}'},
        {"architecture": '{"attention": "eca", "more": 1}'},
        {"architecture": "[" * 100_000},
        {"classes": "[]"},
        {"classes": "12"},
        {"data": "nonsense"},
    ):
        save_file(state, path, right | wrong)
        with outcomes.clear_error(ValueError, path):
            ecaviz.load(path, device="cpu")


# ------------------------------------------------------------------------------------------------------ code is not run


class Runs:
    """Unpickled in the ordinary way, this makes a folder."""

    def __init__(self, witness):
        self.witness = str(witness)

    def __reduce__(self):
        return os.mkdir, (self.witness,)


@pytest.mark.parametrize("where", ["beside", "instead", "as a key", "bare pickle", "old format", "newer protocol"])
@case(GROUP, "a pickle that would run code", expected=f"{CLEAR}, with the way to convert it; nothing runs")
def test_code_is_refused(outcomes, tmp_path, state, where):
    witness, path = tmp_path / "witness", tmp_path / "evil.pth.tar"
    content = {
        "beside": {"state_dict": state, "extra": Runs(witness)},
        "old format": {"state_dict": state, "extra": Runs(witness)},
        "newer protocol": {"state_dict": state, "extra": Runs(witness)},
        "instead": Runs(witness),
        "as a key": {**state, "a.bias": Runs(witness)},
        "bare pickle": {"state_dict": Runs(witness)},
    }[where]
    if where == "bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        protocol = 5 if where == "newer protocol" else 2
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=where != "old format")
    with outcomes.clear_error(
        ValueError, path, "refused, and nothing in it was run", r"weight_files\.convert\(.*safetensors'.*trusted=True"
    ):
        ecaviz.load(path, device="cpu")
    assert not witness.exists()
    if where == "bare pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert witness.exists()  # the trap works: the ordinary way of loading springs it


@pytest.mark.parametrize("command", ["os.system", "builtins.eval", "subprocess.Popen", "torch.hub.load"])
@case(GROUP, "a pickle that calls os.system, eval, Popen or torch.hub", expected=f"{CLEAR}; nothing runs")
def test_globals_that_are_never_allowed(outcomes, tmp_path, command):
    module, name = command.rsplit(".", 1)
    witness, path = tmp_path / "witness", tmp_path / "x.pt"
    path.write_bytes(f"\x80\x02c{module}\n{name}\n(S'touch {witness}'\ntR.".encode("latin-1"))
    with outcomes.clear_error(ValueError, path, f"refused, and nothing in it was run.*{name}"):
        weight_files.read(path)
    assert not witness.exists()


def numbers(folder, kind, called, state, data):
    """A file whose pickle has a number of NumPy's beside the weights, of the kind, state and bytes that are given."""
    path = folder / "x.pt"
    body = b"\x80\x02}X\x05\0\0\0extra" + f"c{called}\nscalar\n".encode()
    body += b"(cnumpy\ndtype\n" + pickled(kind) + b"R" + pickled(state) + b"b"
    if data is not None:
        body += b"c_codecs\nencode\n" + pickled((data.decode("latin-1"), "latin1")) + b"R"
    write_pickle(path, body + b"tRs.", "zip")
    return path


def pickled(value) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


PLAIN = (3, "<", None, None, None, -1, -1, 0)


@pytest.mark.parametrize("allowed", [False, True], ids=["", "NumPy's own allowed by somebody"])
@case(
    GROUP,
    "NumPy's numbers whose kind, state or bytes are none that NumPy writes: any flags, sizes, objects",
    expected=f"{CLEAR}; the process lives",
)
def test_numbers_that_are_none(outcomes, tmp_path, allowed):
    f8, eight = ("f8", False, True), b"A" * 8
    wrong = [(f8, (*PLAIN[:7], flags), data) for flags in (1, 2, 8, 63, 127) for data in (None, eight)]
    wrong += [((code, False, True), PLAIN, eight) for code in ("O8", "O", "V8", "S8", "U2", "M8", "f16", "f8,O", "", 8)]
    wrong += [(f8, (4, *PLAIN[1:], {}), eight), (f8, (*PLAIN[:5], 1 << 60, 8, 0), eight), (f8, (), eight)]
    wrong += [(f8, (3, "<", (f8, (2**30,)), *PLAIN[3:]), eight), (f8, (3, "x", *PLAIN[2:]), eight)]
    wrong += [((), PLAIN, eight), (f8, PLAIN, b"A" * 7), (f8, PLAIN, None), (f8, None, eight)]
    paths = []
    for i, (kind, state, data) in enumerate(wrong):
        (tmp_path / str(i)).mkdir()
        paths.append(numbers(tmp_path / str(i), kind, "numpy.core.multiarray", state, data))
    with Worker("works", tmp_path) as worker:
        for path in paths:
            with outcomes.undisturbed():
                ended = worker.run("refusal", str(path), allowed)
            assert ended.status == 0, f"the process ended with {ended.status}"
            with outcomes.clear_error(ValueError, path, "refused, and nothing in it was run"):
                weight_files.read(path)


@case(
    GROUP,
    "tuples in each other for a name: 300,000 levels deep, or 40 of pairs of twice the same",
    expected=f"{CLEAR}; the process lives, and goes on at once",
)
def test_deep_tuples(outcomes, tmp_path):
    path, n = tmp_path / "deep.pth", 300_000
    pairs = b")q\0" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(40))  # 2⁴⁰ to go through
    with Worker("works", tmp_path) as worker:
        for deep in (b")" + b"\x85" * n, b")" + b"q\0h\0\x86" * n, b"(" * n + b"t" * n, pairs + b"}" + b"h%c" % 40):
            for kind in ("bare", "old", "zip"):
                program = deep if deep.startswith(pairs) else b"}" + deep  # leftovers lie below the dictionary
                write_pickle(path, b"\x80\x02" + program + b"K\x01s.", kind)
                ended = worker.run("refusal", str(path), False)
                assert ended.status == 0, f"the process ended with {ended.status}"
                with outcomes.clear_error(ValueError, path, "levels deep", "etch it again"):
                    weight_files.read(path)


def write_pickle(path, program, kind):
    """A pickle by itself, or as the content of one of torch.save's formats."""
    whole = io.BytesIO()
    torch.save({"a.weight": torch.zeros(2)}, whole, _use_new_zipfile_serialization=kind == "zip")
    if kind == "zip":
        with zipfile.ZipFile(whole) as read, zipfile.ZipFile(path, "w") as written:
            for name in read.namelist():
                written.writestr(name, program if name.endswith("data.pkl") else read.read(name))
    else:
        content = whole.getvalue()
        path.write_bytes(content[: content.rindex(b"\x80\x02}")] + program if kind == "old" else program)


@case(
    GROUP, "a zip archive of 1 MB whose weights would take 1 GB, and one whose parts lie on each other", expected=CLEAR
)
def test_zip_bombs(outcomes, tmp_path):
    path, whole = tmp_path / "bomb.pt", io.BytesIO()
    torch.save({"a.weight": torch.zeros(100)}, whole)
    with zipfile.ZipFile(whole) as read, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as written:
        for name in read.namelist():
            with written.open(name, "w", force_zip64=True) as part:
                for content in [bytes(2**20)] * 1024 if name.endswith("data/0") else [read.read(name)]:
                    part.write(content)
    assert path.stat().st_size < 2**21
    with none_unpacked(), outcomes.clear_error(ValueError, path, "compressed, or damaged", "etch it again"):
        weight_files.read(path)
    with zipfile.ZipFile(path, "w") as written:
        written.writestr("x/data.pkl", b"0" * 100_000)
        written.filelist += [copy.copy(written.filelist[0]) for _ in range(1000)]
    with none_unpacked(), outcomes.clear_error(ValueError, path, "compressed, or damaged", "etch it again"):
        weight_files.read(path)


@contextlib.contextmanager
def none_unpacked():
    """Nothing of an archive is unpacked in the ``with``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("something is unpacked"))
        patch.setattr(torch, "load", lambda *_, **__: pytest.fail("it is loaded"))
        yield


# ------------------------------------------------------------------------------------------------- bundled checkpoints

BUNDLED = "Bundled checkpoints"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder with two bundled models; the checkpoints in it."""
    folder = tmp_path / "data" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("manifest.csv", "SHA256SUMS", f"{BASE}.safetensors", "shapes-none.safetensors"):
        shutil.copy(bundle.data_folder() / "checkpoints" / name, folder / name)
    monkeypatch.setenv("ECAVIZ_DATA", str(folder.parent))
    return folder


@case(BUNDLED, "a checkpoint cut off at every sixteenth of its length, and one byte short", expected=CLEAR)
def test_bundled_cut_off(outcomes, data):
    path = data / f"{BASE}.safetensors"
    for part in sixteenths(path.read_bytes()):
        path.write_bytes(part)
        with outcomes.clear_error(ValueError, path, "truncated or changed: its sha256", "git checkout"):
            ecaviz.load(BASE, device="cpu")
    ecaviz.load("shapes-none", device="cpu")  # the others still load


@pytest.mark.parametrize("seeds", seeds(10, 500))
@case(BUNDLED, "bits, bytes or runs of 16 bytes of a checkpoint changed", expected=CLEAR)
def test_bundled_changed(outcomes, data, seeds):
    path = data / f"{BASE}.safetensors"
    content = path.read_bytes()
    for seed in seeds:
        path.write_bytes(flipped(content, seed))
        with outcomes.clear_error(ValueError, path, "truncated or changed: its sha256", "git checkout"):
            ecaviz.load(BASE, device="cpu")


@case(BUNDLED, "a checkpoint that is empty, missing, or a folder", expected=CLEAR)
def test_bundled_not_there(outcomes, data):
    path = data / f"{BASE}.safetensors"
    path.write_bytes(b"")
    with outcomes.clear_error(ValueError, path, r"\(0 bytes\)", "git checkout"):
        ecaviz.load(BASE, device="cpu")
    path.unlink()
    with outcomes.clear_error(FileNotFoundError, path.name, "git checkout", "python -m ecaviz train"):
        ecaviz.load(BASE, device="cpu")
    path.mkdir()
    with outcomes.clear_error(FileNotFoundError, path.name, "git checkout"):
        ecaviz.load(BASE, device="cpu")


@case(BUNDLED, "a checkpoint, and the manifest, that may not be read", expected=CLEAR)
def test_bundled_no_permission(outcomes, data):
    with open_folder() as folder:
        outcomes.watch(folder)
        for name in (f"{BASE}.safetensors", "manifest.csv"):
            for file in data.iterdir():
                shutil.copy(file, folder / file.name)
            (folder / name).chmod(0)
            with someone_else(), outcomes.clear_error(PermissionError, folder / name, "may not be read", "chmod"):
                bundle.read(BASE, folder)
            (folder / name).chmod(0o644)


@pytest.mark.parametrize("seeds", seeds(20, 1000))
@case(BUNDLED, "the manifest cut off at every sixteenth of its length, or changed", expected=CLEAR)
def test_manifest(outcomes, data, seeds):
    path = data / "manifest.csv"
    content = path.read_bytes()
    first = (b"", *sixteenths(content)) if 0 in seeds else ()
    for broken in (*first, *(flipped(content, seed) for seed in seeds)):
        path.write_bytes(broken)
        with outcomes.clear_error(ValueError, path, "truncated or changed", "git checkout"):
            bundle.read(BASE)


@case(
    BUNDLED,
    "a manifest without sums, as of before there were any, cut off at every sixteenth of its length",
    expected=f"{CLEAR}, or {SAME}",
)
def test_manifest_without_sums(outcomes, data):
    path = data / "manifest.csv"
    (data / "SHA256SUMS").unlink()
    state = ecaviz.load(BASE, device="cpu").net.state_dict()
    for part in (path.read_bytes()[: path.read_bytes().index(b"\n", 3000) + 1], *sixteenths(path.read_bytes())):
        path.write_bytes(part)
        outcomes.attempt(
            lambda: ecaviz.load(BASE, device="cpu").net.state_dict(),
            (FileNotFoundError, ValueError),  # its row is gone, or broken
            path.name,
            "git checkout",
            same=lambda found: alike(found, state),
        )
