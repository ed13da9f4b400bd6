"""Profiles and the checkpoints of a pass that are broken."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from damage import flipped, open_folder, seeds, sixteenths, someone_else
from recorder import CLEAR, RECOVERED, SAME, case
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import ecaviz
from ecaviz import attention, images
from ecaviz.profiles import AttentionProfile, profile
from ecaviz.shapes import CLASSES, normalise

GROUP = "Profiles"
AGAIN = "Profile the model again"


class Net(nn.Module):
    """Two sites."""

    def __init__(self):
        super().__init__()
        self.stem, self.eca = nn.Conv2d(3, 16, 5, stride=4), attention.ECA(16, 3)
        self.middle, self.se = nn.Conv2d(16, 16, 3, stride=2), attention.SE(16, 4)
        self.head = nn.Linear(16, 12)

    def forward(self, x):
        return self.head(self.se(self.middle(self.eca(self.stem(x))).relu()).mean((2, 3)))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ecaviz.load(Net(), transform=normalise, classes=CLASSES, device="cpu")


@pytest.fixture(scope="module")
def drawn():
    return images.shapes("test", 30)


@pytest.fixture(scope="module")
def made(model, drawn):
    return profile(model, drawn, by="class", progress=False)


def alike(found: AttentionProfile, made: AttentionProfile) -> bool:
    """All that a profile holds, to the bit."""
    if repr(found) != repr(made) or list(found) != list(made) or dict(found.asked) != dict(made.asked):
        return False
    kept = ("moments", "tails", "histogram", "largest", "smallest")
    pairs = [(found.counts, made.counts), (found.correct, made.correct)]
    pairs += [
        (value, getattr(made[site], what).state_dict()[key])
        for site in made
        for what in kept
        for key, value in getattr(found[site], what).state_dict().items()
    ]
    return all(torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in pairs)


@case(GROUP, "cut off at every sixteenth of their length, and one byte short", expected=CLEAR)
def test_profiles_cut_off(outcomes, made, tmp_path):
    path = made.save(tmp_path / "p.profile")
    for part in sixteenths(path.read_bytes()):
        path.write_bytes(part)
        with outcomes.clear_error(ValueError, path, "truncated", "profile.save"):
            AttentionProfile.load(path)


@pytest.mark.parametrize("seeds", seeds(60, 3000))
@case(GROUP, "bits, bytes or runs of 16 bytes changed", expected=f"{CLEAR}, or {SAME}")
def test_profiles_changed(outcomes, made, tmp_path, seeds):
    path = made.save(tmp_path / "p.profile")
    content = path.read_bytes()
    for seed in seeds:
        path.write_bytes(flipped(content, seed))
        outcomes.attempt(lambda: AttentionProfile.load(path), ValueError, path, same=lambda found: alike(found, made))


@pytest.mark.parametrize("seeds", seeds(5, 100))
@case(GROUP, "of a bundled model, with bits, bytes or runs of 16 bytes changed", expected=f"{CLEAR}, or {SAME}")
def test_kept_profiles_changed(outcomes, tmp_path, monkeypatch, seeds):
    kept = ecaviz.bundle.data_folder() / "profiles" / "cifar10-eca-k3.profile"
    whole, content = AttentionProfile.load(kept), kept.read_bytes()
    (tmp_path / "profiles").mkdir()
    monkeypatch.setenv("ECAVIZ_DATA", str(tmp_path))
    path = tmp_path / "profiles" / kept.name
    for seed in seeds:
        path.write_bytes(flipped(content, seed))
        outcomes.attempt(
            lambda: ecaviz.profiles.kept_profile("cifar10-eca-k3"),
            ValueError,
            path,
            same=lambda found: alike(found, whole),
        )


@case(GROUP, "empty, missing, a folder, or a link to itself", expected=CLEAR)
def test_no_profiles(outcomes, tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    with outcomes.clear_error(ValueError, tmp_path / "empty", "was truncated", "profile.save"):
        AttentionProfile.load(tmp_path / "empty")
    with outcomes.clear_error(ValueError, tmp_path / "folder", "is a folder", "profile.save"):
        AttentionProfile.load(tmp_path / "folder")
    with outcomes.clear_error(FileNotFoundError, tmp_path / "none", "profile.save"):
        AttentionProfile.load(tmp_path / "none")
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with outcomes.clear_error(FileNotFoundError, tmp_path / "link", "a link that leads to itself", "Give the file"):
        AttentionProfile.load(tmp_path / "link")


@case(GROUP, "a file that may not be read, and one in a folder that may not be entered", expected=CLEAR)
def test_profiles_no_permission(outcomes, made):
    with open_folder() as folder:
        path = made.save(folder / "p.profile")
        path.chmod(0)
        outcomes.watch(folder)
        with someone_else(), outcomes.clear_error(PermissionError, path, "may not be read", "chmod"):
            AttentionProfile.load(path)
        (folder / "closed").mkdir()
        path = made.save(folder / "closed" / "p.profile")
        (folder / "closed").chmod(0)
        with someone_else(), outcomes.clear_error(PermissionError, path, "may not be read", "chmod"):
            AttentionProfile.load(path)


def parts(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


@case(GROUP, "wrong dtypes and shapes, missing and unknown tensors in a valid safetensors file", expected=CLEAR)
def test_wrong_tensors(outcomes, made, tmp_path):
    tensors, header = parts(made.save(tmp_path / "right.profile"))
    del header["ecaviz_digest"]  # what is tested is what comes after it
    path = tmp_path / "p.profile"
    for key, value in tensors.items():
        for wrong in (
            {key: value[:-1].clone()},
            {key: value[..., None].clone()},
            {key: value.to(torch.float16)},
            {key: value.to(torch.bool)},
            {f"{key}.more": value.clone()},
            None,
        ):
            changed = {k: v for k, v in tensors.items() if k != key} if wrong is None else tensors | wrong
            if "." not in key and (wrong is None or f"{key}.more" in wrong):
                continue  # a profile without labels has no "correct", and what more there is beside it is not read
            save_file(changed, path, header)
            with outcomes.clear_error(ValueError, path, "is damaged", AGAIN):
                AttentionProfile.load(path)


@case(GROUP, "counts and positions that are negative or too large in a valid safetensors file", expected=CLEAR)
def test_impossible_numbers(outcomes, made, tmp_path):
    tensors, header = parts(made.save(tmp_path / "right.profile"))
    del header["ecaviz_digest"]
    path = tmp_path / "p.profile"
    for key, value in tensors.items():
        if value.is_floating_point():
            continue  # statistics of gates that are NaN are NaN; what was changed later, the digest tells
        for number in (-5, 2**40):
            changed = value.clone()
            changed.view(-1)[0] = number
            save_file(tensors | {key: changed}, path, header)
            with outcomes.clear_error(ValueError, path, "is damaged", AGAIN):
                AttentionProfile.load(path)


@case(GROUP, "a header that says nothing sensible", expected=CLEAR)
def test_wrong_headers(outcomes, made, tmp_path):
    tensors, header = parts(made.save(tmp_path / "right.profile"))
    del header["ecaviz_digest"]
    path = tmp_path / "p.profile"
    about = json.loads(header["profile"])
    site = about["sites"][0]
    for wrong in (
        "{",
        "[]",
        "null",
        "3",
        "[" * 100_000,
        json.dumps(about | {"sites": []}),
        json.dumps(about | {"sites": [{}]}),
        json.dumps(about | {"sites": [site | {"channels": 10**12}]}),
        json.dumps(about | {"sites": [site | {"channels": -1}]}),
        json.dumps(about | {"sites": [site | {"histogram": {"bins": 10**12, "low": 0, "high": 1}}]}),
        json.dumps(about | {"sites": [site | {"largest": {"k": "many", "largest": True}}]}),
        json.dumps(about | {"sites": [site, site]}),
        json.dumps(about | {"classes": []}),
        json.dumps(about | {"classes": 12}),
        json.dumps(about | {"classes": about["classes"][:-1]}),
        json.dumps(about | {"skipped": [["a"]]}),
        json.dumps(about | {"n": "thirty"}),
        json.dumps(about | {"n": 31}),
        json.dumps(about | {"positions": -1}),
        json.dumps(about | {"positions": 10**30}),
        json.dumps({key: one for key, one in about.items() if key != "fingerprint"}),
        json.dumps(about | {"more": 1}),
        json.dumps(about | {"asked": 3}),
    ):
        save_file(tensors, path, header | {"profile": wrong})
        with outcomes.clear_error(ValueError, path, "is damaged", AGAIN):
            AttentionProfile.load(path)
    save_file(tensors, path, {key: one for key, one in header.items() if key != "profile"})
    with outcomes.clear_error(ValueError, path, "is damaged", AGAIN):
        AttentionProfile.load(path)


# ----------------------------------------------------------------------------------------------- a pass that is resumed

PASSES = "Passes that go on from a file"


@pytest.fixture
def partial(model, drawn, tmp_path):
    """What an interrupted pass has left: half of the images."""
    path = tmp_path / "partial.profile"
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    hook = model.net.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        profile(model, drawn, by="class", batch_size=5, checkpoint=path, progress=False)
    hook.remove()
    return path


def resumed(model, drawn, path):
    return profile(model, drawn, by="class", batch_size=5, checkpoint=path, progress=False)


@pytest.mark.filterwarnings("error")
@case(
    PASSES,
    "the file cut off at every sixteenth of its length, or changed; then deleted, as the message says",
    expected=f"{CLEAR}; the file is left as it was; afresh, {SAME}",
)
def test_broken_checkpoints(outcomes, model, drawn, made, partial):
    outcomes.watch(model.net)
    content = partial.read_bytes()
    for part in (b"", *sixteenths(content), *(flipped(content, seed) for seed in range(20))):
        partial.write_bytes(part)
        with outcomes.clear_error(ValueError, partial, "Delete it to start afresh"):
            resumed(model, drawn, partial)
        assert partial.read_bytes() == part
    partial.unlink()
    assert resumed(model, drawn, partial).positions == 30
    outcomes.then(f"afresh, {SAME}")
    shutil.copy(partial, partial.with_name("whole"))
    partial.write_bytes(content)
    assert resumed(model, drawn, partial).positions == 30
    outcomes.then(f"from the whole file, {RECOVERED}")


@pytest.mark.parametrize("what", ["folder", "no permission"])
@case(PASSES, "a folder in its place, and a file that may not be read", expected=CLEAR)
def test_checkpoints_not_there(outcomes, model, drawn, made, what):
    outcomes.watch(model.net)
    with open_folder() as folder:
        outcomes.watch(folder)
        path = folder / "p"
        if what == "folder":
            path.mkdir()
            with outcomes.clear_error(ValueError, path, "is a folder"):
                resumed(model, drawn, path)
        else:
            made.save(path).chmod(0)
            with someone_else(), outcomes.clear_error(PermissionError, path, "may not be read"):
                resumed(model, drawn, path)
