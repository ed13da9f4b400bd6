"""Profiles against one capture of the same images at once; files, merging, and a model left as it was found."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import warnings
from contextlib import nullcontext

import pandas as pd
import pytest
import torch
from reading_processes import DEATHS, WORKERS
from safetensors import safe_open
from safetensors.torch import save_file
from timm import layers as timm_layers
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import ecaviz
from ecaviz import (
    attention,
    attention_profile,
    class_names,
    gates,
    image_fingerprints,
    images,
    networks,
    profile_files,
    profiles,
    site_statistics,
)
from ecaviz.profiles import AttentionProfile, profile
from ecaviz.shapes import CLASSES, normalise
from ecaviz.shards import Shard

N = 50


class Net(nn.Module):
    """Two sites, whose gates are made to spread over all of 0…1; batch norm and dropout tell train from eval."""

    def __init__(self, twice=False, outputs=12):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 5, stride=2), nn.BatchNorm2d(16))
        self.eca = attention.ECA(16, 3)
        self.middle = nn.Sequential(nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.Dropout(0.5))
        self.se = attention.SE(16, 4)
        self.head = nn.Linear(16, outputs)
        self.twice = twice

    def forward(self, x):
        x = self.middle(self.eca(self.stem(x)))
        x = self.se(x)
        if self.twice:
            x = self.se(x)
        return self.head(x.mean((2, 3)))


def model(seed=0, classes=CLASSES, transform=normalise, **options):
    torch.manual_seed(seed)
    net = Net(**options)
    with torch.no_grad():
        net.eca.excite.conv.weight.mul_(25)
        net.se.excite.fc2.weight.mul_(60)
    return ecaviz.load(net, transform=transform, classes=classes, device="cpu")


@pytest.fixture(scope="module")
def drawn():
    return images.shapes("test", N)


@pytest.fixture(scope="module")
def one_shot(drawn):
    """What a single capture gives for all images: gates by site, logits, labels."""
    loaded = model()
    x, labels = drawn.tensors()
    loaded.net.eval()
    with torch.no_grad(), gates.capture(loaded) as captured:
        logits = loaded.net(normalise(x))
    return {name: record.gate for name, record in captured.items()}, logits, labels


@pytest.fixture(scope="module")
def by_class(drawn):
    return profile(model(), drawn, by="class", batch_size=7, progress=False)


def assert_same(one, other):
    """Everything that two profiles hold, images and skipped files apart."""
    for what in ("model", "source", "fingerprint", "by", "classes", "n", "positions"):
        assert getattr(one, what) == getattr(other, what), what
    assert torch.equal(one.counts, other.counts)
    assert (one.correct is None) == (other.correct is None)
    assert one.correct is None or torch.equal(one.correct, other.correct)
    assert list(one) == list(other)
    for name in one:
        assert one[name]._about() == other[name]._about()
        for what in attention_profile.STATISTICS:
            first, second = (getattr(p[name], what).state_dict() for p in (one, other))
            for key in first:
                if first[key].is_floating_point():
                    torch.testing.assert_close(first[key], second[key], rtol=1e-5, atol=1e-6, equal_nan=True)
                else:  # the last digit may take a value over an edge, or past its neighbour
                    assert (first[key] != second[key]).double().mean() < 0.02, (name, what, key)


# ------------------------------------------------------------------------------------------------- against the one shot


def test_the_gates_of_these_tests_vary_and_saturate(one_shot):
    for gate in one_shot[0].values():
        assert gate.std(0).max() > 0.02
        assert (gate < profiles.LOW).any()
        assert (gate > profiles.HIGH).any()


def test_a_profile_by_class_is_what_one_capture_gives(one_shot, by_class):
    captured, logits, labels = one_shot
    assert list(by_class) == list(captured) == ["eca", "se"]
    assert by_class.classes == CLASSES
    assert by_class.n == by_class.positions == N
    assert torch.equal(by_class.counts, labels.bincount(minlength=12))
    right = logits.argmax(1) == labels
    assert by_class.accuracy == pytest.approx(right.double().mean().item())
    assert by_class.correct.tolist() == [int(right[labels == c].sum()) for c in range(12)]
    for name, gate in captured.items():
        site = by_class[name]
        assert site.channels == 16
        for c in range(12):
            mine = gate[labels == c].double()
            close = {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(by_class.mean(name)[c], mine.mean(0), **close)
            torch.testing.assert_close(site.moments.variance()[c], mine.var(0, correction=0), **close)
            torch.testing.assert_close(site.moments.min[c], mine.amin(0), **close)
            torch.testing.assert_close(site.moments.max[c], mine.amax(0), **close)
            torch.testing.assert_close(site.tails.below[c], (mine < 0.05).double().mean(0))
            torch.testing.assert_close(site.tails.above[c], (mine > 0.95).double().mean(0))
        expected = torch.stack([torch.histc(gate[:, i], 64, 0, 1) for i in range(16)]).long()
        assert (site.histogram.counts[0] - expected).abs().sum() <= 2  # a value may sit on an edge
        for top, largest in ((site.largest, True), (site.smallest, False)):
            values, _ = gate.T.topk(4, largest=largest)
            torch.testing.assert_close(top.values[0], values, **close)
            torch.testing.assert_close(gate.T.gather(1, top.index[0]), values, **close)
    assert (by_class.mean("se").std(0) > 0.005).any()  # the classes do differ


def test_batch_size_does_not_matter(drawn, by_class):
    for size in (1, 64):
        assert_same(profile(model(), drawn, by="class", batch_size=size, progress=False), by_class)


def test_pooling_is_the_default(drawn, one_shot, by_class):
    pooled = profile(model(), drawn, progress=False)
    assert (pooled.by, pooled.classes) == (None, ("all",))
    assert pooled.counts.tolist() == [N]
    assert pooled.accuracy == by_class.accuracy
    for name, gate in one_shot[0].items():
        assert pooled.mean(name).shape == (1, 16)
        torch.testing.assert_close(pooled.mean(name)[0], gate.double().mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            pooled[name].moments.variance(), by_class[name].moments.pooled().variance(), rtol=1e-5, atol=1e-9
        )


def test_a_profile_of_a_bundled_network():
    torch.manual_seed(0)
    net = networks.build(networks.Architecture("eca", {"kernel_size": 3}))
    x, labels = images.shapes("test", 24).tensors()
    loaded = ecaviz.load(net, transform=normalise, classes=CLASSES, device="cpu")
    got = profile(loaded, TensorDataset(x, labels), by="class", sites="layer[34].*", batch_size=10, progress=False)
    assert list(got) == ["layer3.0.se", "layer3.1.se", "layer4.0.se", "layer4.1.se"]
    net.eval()
    with torch.no_grad(), gates.capture(net) as captured:
        net(normalise(x))
    for name in got:
        gate = captured[name].gate
        assert gate.std(0).max() > 1e-3
        expected = torch.stack([gate[labels == c].mean(0) for c in range(12)]).double()
        torch.testing.assert_close(got.mean(name), expected, rtol=1e-4, atol=1e-5)
        assert (got[name].family, got[name].kernel_size, got[name].activation) == ("eca", 3, "sigmoid")


def test_without_accuracy_each_forward_ends_after_the_last_site(drawn, by_class):
    loaded, ran = model(), []
    loaded.net.middle.register_forward_hook(lambda *_: ran.append("middle"))
    loaded.net.register_forward_hook(lambda *_: ran.append("network"))
    early = profile(loaded, drawn, by="class", sites="eca", accuracy=False, batch_size=10, progress=False)
    assert ran == ["middle", "network", *["network"] * 4]
    assert (list(early), early.accuracy) == (["eca"], None)
    assert torch.equal(early.counts, by_class.counts)
    torch.testing.assert_close(early.mean("eca"), by_class.mean("eca"), rtol=0, atol=1e-6)


def test_wrapped_networks_are_profiled_as_what_is_in_them(drawn, by_class):
    def backend(graph, _inputs):
        return graph.forward

    for wrap in (nn.DataParallel, lambda net: torch.compile(net, backend=backend)):
        inner = model()
        wrapped = ecaviz.load(wrap(inner.net), transform=normalise, classes=CLASSES, device="cpu")
        assert wrapped.name == "Net"
        found = profile(wrapped, drawn, by="class", batch_size=7, progress=False)
        assert_same(found, by_class)
        assert found.fingerprint == by_class.fingerprint


def test_a_site_called_twice_has_two_entries(drawn):
    loaded = model(twice=True)
    got = profile(loaded, drawn, progress=False, batch_size=20)
    assert list(got) == ["eca", "se", "se#2"]
    x, _ = drawn.tensors()
    loaded.net.eval()
    with torch.no_grad(), gates.capture(loaded) as captured:
        loaded.net(normalise(x))
    for name in ("se", "se#2"):
        torch.testing.assert_close(got.mean(name)[0], captured[name].gate.double().mean(0), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(got.mean("se"), got.mean("se#2"), atol=1e-3)
    assert got["se#2"].reduction == 4


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_a_network_in_another_precision(drawn, by_class, dtype, tolerance):
    loaded = model()
    loaded.net.to(dtype)
    got = profile(loaded, drawn, by="class", batch_size=7, progress=False)
    assert {site.proof.dtype for site in gates.find_sites(loaded)} == {str(dtype).removeprefix("torch.")}
    assert torch.equal(got.counts, by_class.counts)
    for name in by_class:
        assert by_class.mean(name).std() > 10 * tolerance
        torch.testing.assert_close(got.mean(name), by_class.mean(name), rtol=0, atol=tolerance)


@pytest.mark.gpu
def test_on_the_gpu_as_on_the_cpu(drawn, by_class):
    loaded = model()
    loaded = ecaviz.load(loaded.net, transform=normalise, classes=CLASSES, device="cuda")
    got = profile(loaded, drawn, by="class", batch_size=7, progress=False)
    for name in by_class:
        assert got[name].moments.mean.device.type == "cpu"
        torch.testing.assert_close(got.mean(name), by_class.mean(name), rtol=1e-3, atol=1e-3)
    assert torch.equal(got.counts, by_class.counts)


@pytest.mark.gpu
@pytest.mark.parametrize("by", [None, "class"])
def test_on_the_gpu_no_batch_after_the_first_waits(drawn, monkeypatch, by):
    pixels, labels = drawn.tensors()
    given = DataLoader(TensorDataset(normalise(pixels).cuda(), labels), batch_size=7)  # so that none is copied
    loaded = ecaviz.load(model().net, transform=normalise, classes=CLASSES, device="cuda")
    run, calls = profiles._Pass.run, []

    def strict(*args):
        calls.append(args)
        torch.cuda.set_sync_debug_mode("error" if len(calls) > 1 else "default")
        try:
            run(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(profiles._Pass, "run", strict)
    assert profile(loaded, given, by=by, progress=False).n == N
    assert len(calls) == 8


# --------------------------------------------------------------------------------------------- streaming, and no traces


def tensor_bytes(one):
    values = [one.counts, one.correct]
    for name in one:
        for what in attention_profile.STATISTICS:
            values += [v for v in vars(getattr(one[name], what)).values() if isinstance(v, torch.Tensor)]
    return sum(v.untyped_storage().nbytes() for v in values)


def test_memory_does_not_grow_with_the_number_of_images(drawn, tmp_path, monkeypatch):
    rows = []
    take = profiles._Pass.take

    def watch(self, captured, output, labels, positions):
        rows.append({len(record.gate) for record in captured.values()})
        take(self, captured, output, labels, positions)

    monkeypatch.setattr(profiles._Pass, "take", watch)
    few = profile(model(), Subset(drawn, range(12)), by="class", batch_size=4, progress=False)
    many = profile(model(), drawn, by="class", batch_size=4, progress=False)
    assert tensor_bytes(few) == tensor_bytes(many) > 0
    assert set.union(*rows) <= {4, 2}  # never more than one batch is held
    sizes = [one.save(tmp_path / str(one.n)).stat().st_size for one in (few, many)]
    assert abs(sizes[0] - sizes[1]) < 64


def hooks(net):
    return sum(
        len(getattr(module, kind))
        for module in net.modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_always_called")
    )


class Interrupted(torch.utils.data.Dataset):
    """Ctrl-C, at image 9."""

    classes = CLASSES

    def __len__(self):
        return N

    def __getitem__(self, index):
        if index == 9:
            raise KeyboardInterrupt
        return torch.full((3, 64, 64), index, dtype=torch.uint8), index % 12


@WORKERS
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("interrupted", [False, True])
def test_the_model_is_left_as_found(drawn, interrupted, workers):
    loaded = model()
    loaded.net.train()
    loaded.net.stem[1].eval()  # a user may have frozen one batch norm
    before = {name: value.clone() for name, value in loaded.net.state_dict().items()}
    flags = [module.training for module in loaded.net.modules()]
    random = torch.get_rng_state()
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            profile(loaded, Interrupted(), by="class", batch_size=4, workers=workers, progress=False)
    else:
        profile(loaded, drawn, by="class", workers=workers, progress=False)
    assert multiprocessing.active_children() == []
    assert [module.training for module in loaded.net.modules()] == flags
    assert hooks(loaded.net) == 0
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in loaded.net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in loaded.net.parameters())
    assert torch.is_grad_enabled()


def test_the_progress_bar_counts_images(drawn, capsys):
    profile(model(), drawn, batch_size=20)
    shown = capsys.readouterr().err
    assert "profiling Net" in shown
    assert f"{N}/{N}" in shown
    profile(model(), drawn, progress=False)
    assert capsys.readouterr().err == ""


# ----------------------------------------------------------------------------------------------------------- the images


def test_the_same_images_in_other_forms_give_the_same_profile(drawn):
    x, labels = drawn.tensors()
    ready = normalise(x)
    expected = profile(model(), drawn, progress=False)
    for form, accuracy in (
        (x, None),
        (ready, None),
        (DataLoader(ready, batch_size=16), None),
        (DataLoader(TensorDataset(ready, labels), batch_size=16), expected.accuracy),
    ):
        got = profile(model(), form, progress=False)
        assert got.accuracy == accuracy
        assert got.n == N
        torch.testing.assert_close(got.mean("se"), expected.mean("se"), rtol=1e-5, atol=1e-6)
    numbered = profile(model(), DataLoader(TensorDataset(ready, labels), batch_size=16), by="class", progress=False)
    assert numbered.classes == CLASSES  # labels without names are the model's own numbers
    assert torch.equal(numbered.counts, labels.bincount(minlength=12))


def test_accuracy_needs_names_that_match(drawn, by_class):
    shuffled = model(classes=CLASSES[::-1])  # the same outputs under other names
    logits_right = profile(shuffled, drawn, progress=False).accuracy
    x, labels = drawn.tensors()
    shuffled.net.eval()
    with torch.no_grad():
        predicted = 11 - shuffled.net(normalise(x)).argmax(1)
    assert logits_right == pytest.approx((predicted == labels).double().mean().item())
    assert logits_right != by_class.accuracy
    assert profile(model(classes=[f"other {i}" for i in range(12)]), drawn, progress=False).accuracy is None
    assert profile(model(classes=None), drawn, progress=False).accuracy is None
    assert profile(model(classes=None), drawn, by="class", progress=False).classes == CLASSES


@pytest.mark.parametrize(
    ("names", "own", "expected"),
    [
        (["tench", "Great_White shark"], ["tench, Tinca tinca", "great white shark, man-eater"], [0, 1]),
        (["b", "a"], ["a", "b", "c"], [1, 0]),
        (["crane"], ["crane", "heron", "crane"], None),
        (["crane"], ["crane, bird", "crane, machine"], None),
        (["a", "d"], ["a", "b"], None),
        ([], ["a"], None),
        (["cat"], ["cat", "tabby, cat"], [0]),
    ],
)
def test_matching_of_class_names(names, own, expected):
    got = class_names.own_classes(names, own)
    assert (None if got is None else got.tolist()) == expected


def test_unreadable_images_are_skipped_and_kept_in_the_profile(tmp_path, drawn):
    from PIL import Image

    folder = tmp_path / "shots"
    for i in range(6):
        path = folder / CLASSES[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn[i][0].permute(1, 2, 0).numpy()).save(path)
    (folder / CLASSES[0] / "0.png").write_text("no image")
    (folder / CLASSES[1] / "9.png").write_text("no image")
    with pytest.warns(UserWarning, match=r"2 file\(s\).*0.png.*9.png"):
        got = profile(model(), folder, by="class", progress=False, batch_size=2)
    assert (got.n, got.positions) == (5, 7)
    assert got.classes == CLASSES[:2]
    assert got.counts.tolist() == [2, 3]
    assert [name for name, _ in got.skipped] == ["0.png", "9.png"]
    assert got.images == "shots: 7 images, 2 classes"
    assert "2 skipped" in repr(got)
    order = [2, 4, 1, 3, 5]  # position 0 is unreadable, so these are at 1, 2, 3, 4, 5
    x = normalise(torch.stack([drawn[i][0] for i in order]))
    loaded = model()
    loaded.net.eval()
    with torch.no_grad(), gates.capture(loaded) as captured:
        loaded.net(x)
    assert torch.equal(got["se"].largest.index[0, :, 0], captured["se"].gate.argmax(0) + 1)
    path = got.save(tmp_path / "p")
    assert str(tmp_path).encode() not in path.read_bytes()  # no paths in files
    assert AttentionProfile.load(path).skipped == got.skipped


# ----------------------------------------------------------------------------------------------------------- read out


def test_the_table_is_tidy(by_class):
    frame = by_class.to_frame()
    assert list(frame.columns) == [
        "site", "family", "channels", "channel", "class", "n", "mean", "var", "std", "min", "max",
        "saturated_low", "saturated_high",
    ]  # fmt: skip
    assert len(frame) == 2 * 12 * 16
    assert not frame.duplicated(["site", "class", "channel"]).any()
    assert not frame.isna().any().any()
    means = frame[frame["site"] == "se"].pivot(index="class", columns="channel", values="mean").loc[list(CLASSES)]
    assert torch.equal(torch.tensor(means.to_numpy()), by_class.mean("se"))
    row = frame.query("site == 'eca' and `class` == 'star' and channel == 5").iloc[0]
    site = by_class["eca"]
    assert row["n"] == site.moments.n[2]
    assert (row["min"], row["max"]) == (site.moments.min[2, 5], site.moments.max[2, 5])
    assert row["saturated_high"] == site.tails.above[2, 5]
    assert row["std"] == pytest.approx(row["var"] ** 0.5)


def test_the_table_in_a_file_is_the_table(by_class, tmp_path):
    for name, read in (("t.parquet", pd.read_parquet), ("t.csv", pd.read_csv)):
        pd.testing.assert_frame_equal(read(by_class.save_table(tmp_path / name)), by_class.to_frame())


def test_a_class_without_images_has_no_rows(drawn):
    got = profile(model(), Subset(drawn, [0, 2, 12]), by="class", progress=False)
    frame = got.to_frame()
    assert set(frame["class"]) == {"disc", "star"}
    assert not frame.isna().any().any()
    assert got.mean("se").isnan().all(1).tolist() == [c not in (0, 2) for c in range(12)]
    pooled = profile(model(), drawn, progress=False).to_frame()
    assert set(pooled["class"]) == {"all"}
    assert set(pooled["n"]) == {N}


def test_reading_by_name(by_class):
    assert len(by_class) == 2
    assert "se" in by_class
    with pytest.raises(KeyError, match="the profile has no site 'layer9'; it has: eca, se"):
        by_class.mean("layer9")
    assert repr(by_class) == (
        f"AttentionProfile(Net: 50 images (Shapes(split='test', n=50, seed=0)), 2 sites, 32 channels, 12 classes, "
        f"accuracy {by_class.accuracy:.1%})"
    )
    assert repr(by_class["se"]) == "SiteProfile('se', se, 16 channels, n=50)"
    with pytest.raises(TypeError):
        by_class.sites["se"] = None


# --------------------------------------------------------------------------------------------------------------- merge


def test_merged_shards_equal_one_pass(drawn, by_class):
    cuts = [range(0, 13), range(13, 14), range(14, 41), range(41, N)]
    shards = [profile(model(), Subset(drawn, cut), by="class", batch_size=5, progress=False) for cut in cuts]
    means = [shard.mean("se").clone() for shard in shards]
    left = shards[0].merge(shards[1]).merge(shards[2]).merge(shards[3])
    right = shards[0].merge(shards[1].merge(shards[2].merge(shards[3])))
    for merged in (left, right):
        assert_same(merged, by_class)  # the image numbers of the largest and smallest gates too
    for shard, mean in zip(shards, means, strict=True):  # merging changes neither
        torch.testing.assert_close(shard.mean("se"), mean, rtol=0, atol=0, equal_nan=True)
    other_way = shards[3].merge(shards[1]).merge(shards[0]).merge(shards[2]).to_frame()
    pd.testing.assert_frame_equal(other_way, by_class.to_frame(), rtol=1e-5, atol=1e-6)


def test_profiles_that_cannot_be_merged(drawn, by_class):
    few = Subset(drawn, range(4))
    with pytest.raises(ValueError, match="the profiles differ in fingerprint"):
        by_class.merge(profile(model(seed=1), few, by="class", progress=False))
    with pytest.raises(ValueError, match="the profiles differ in by: 'class' and None"):
        by_class.merge(profile(model(), few, progress=False))
    with pytest.raises(ValueError, match="the sites differ: eca, se and se"):
        by_class.merge(profile(model(), few, by="class", sites="se", progress=False))
    with pytest.raises(ValueError, match=r"does not fit TopK\(.*k=4"):
        by_class.merge(profile(model(), few, by="class", top=2, progress=False))
    with pytest.raises(TypeError, match="another profile was expected, got a dict"):
        by_class.merge({})


# --------------------------------------------------------------------------------------------------------------- files


def test_a_saved_profile_is_the_same_when_loaded(by_class, tmp_path):
    path = by_class.save(str(tmp_path / "new" / "shapes.profile"))
    assert [file.name for file in path.parent.iterdir()] == ["shapes.profile"]
    again = AttentionProfile.load(path)
    assert_same(again, by_class)
    assert again.images == by_class.images
    assert repr(again) == repr(by_class)
    pd.testing.assert_frame_equal(again.to_frame(), by_class.to_frame(), check_exact=True)
    assert again.merge(again).n == 2 * N
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert (header["format"], header["version"]) == ("ecaviz-profile", "2")
    assert json.loads(header["profile"])["model"] == "Net"


@pytest.mark.skipif(os.name == "nt", reason="files have no such modes there")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_whoever_may_read_the_files_of_this_process_may_read_a_profile(by_class, tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        path = by_class.save(tmp_path / "p")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_saving_is_all_or_nothing(by_class, tmp_path, monkeypatch):
    path = by_class.save(tmp_path / "p")
    before = path.read_bytes()

    def full(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        by_class.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_no_profiles(by_class, tmp_path):
    path = tmp_path / "p"
    with pytest.raises(FileNotFoundError, match=r"there is no file .*profile.save"):
        AttentionProfile.load(path)
    path.write_text("words")
    with pytest.raises(ValueError, match="is no safetensors file, or was truncated"):
        AttentionProfile.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"is a safetensors file, but no profile \(its format is None\)"):
        AttentionProfile.load(path)
    by_class.save(path)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(ValueError, match="is no safetensors file, or was truncated"):
        AttentionProfile.load(path)
    with safe_open(by_class.save(path), "pt") as file:
        header = file.metadata()
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (the file is written over)
    del header["ecaviz_digest"]  # of its content, which is changed in what follows
    save_file(tensors, path, metadata=header | {"version": "7"})
    with pytest.raises(ValueError, match=r"has version '7'; this version of ecaviz reads '1' and '2'"):
        AttentionProfile.load(path)
    for broken in (
        {k: v for k, v in tensors.items() if k != "0.moments.mean"},
        tensors | {"1.tails.n": torch.zeros(3, dtype=torch.int64)},
        {k: v for k, v in tensors.items() if k != "counts"},
    ):
        save_file(broken, path, metadata=header)
        with pytest.raises(ValueError, match=r"is damaged: .*Profile the model again"):
            AttentionProfile.load(path)
    save_file(tensors, path, metadata=header | {"profile": "{"})
    with pytest.raises(ValueError, match="is damaged"):
        AttentionProfile.load(path)


# ----------------------------------------------------------------------------------------------------------- bad input


def test_bad_arguments(drawn):
    with pytest.raises(TypeError, match=r"a model from ecaviz.load\(\) was expected, got Net.*ecaviz.load\(net"):
        profile(Net(), drawn)
    with pytest.raises(TypeError, match="was expected, got str"):
        profile("shapes-eca-k3", drawn)
    with pytest.raises(ValueError, match="by must be \"class\" or None, got 'label'"):
        profile(model(), drawn, by="label")
    with pytest.raises(ValueError, match=r"no site matches 'layer9\.\*'"):
        profile(model(), drawn, sites="layer9.*")
    with pytest.raises(ValueError, match="profile: top must be a whole number of at least 1"):
        profile(model(), drawn, top=0, progress=False)
    with pytest.raises(ValueError, match="workers must be a whole number of at least 0, got -1"):
        profile(model(), drawn, workers=-1)
    with pytest.raises(ValueError, match="Expected one of"):
        profile(model(), None)
    with pytest.raises(ValueError, match=r"needs a transform.*the model has none"):
        profile(model(transform=None), drawn)


def test_a_model_without_gates():
    plain = ecaviz.load(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), device="cpu")
    with pytest.raises(ValueError, match=r"has no channel gates.*Looked at"):
        profile(plain, torch.rand(2, 3, 8, 8))


def test_by_class_needs_labels_that_have_a_class(drawn):
    x, labels = drawn.tensors()
    for unlabelled in (x, normalise(x), list(x), DataLoader(normalise(x), batch_size=8)):
        with pytest.raises(ValueError, match=r'by="class" needs a label \(a whole number\) for each image.*by=None'):
            profile(model(), unlabelled, by="class", progress=False)
    with pytest.raises(ValueError, match=r'by="class" needs class names, and neither the images nor the model'):
        profile(model(classes=None), x, by="class", progress=False)
    with pytest.raises(ValueError, match="label 12 has no class: there are 12 classes, so labels 0 to 11"):
        profile(model(), TensorDataset(x, labels + 1), by="class", progress=False)
    with pytest.raises(ValueError, match="label -1 has no class"):
        profile(model(), TensorDataset(x, labels - 1), by="class", progress=False)
    assert profile(model(), TensorDataset(x, labels - 1), progress=False).accuracy is None


def test_a_site_that_sees_another_batch_size():
    class Crops(Net):
        def forward(self, x):
            return super().forward(torch.cat([x, x.flip(-1)]))[: len(x)]

    loaded = ecaviz.load(Crops(), transform=normalise, classes=CLASSES, device="cpu")
    with pytest.raises(ValueError, match="eca gave 10 gates for 5 images"):
        profile(loaded, torch.rand(5, 3, 64, 64), progress=False)


def test_a_site_whose_number_of_channels_changes_is_named():
    """A module without weights takes maps of any width."""

    class Narrowing(Net):
        def __init__(self):
            super().__init__()
            self.free = timm_layers.EcaModule(kernel_size=3)

        def forward(self, x):
            y = self.free(self.stem(x)[:, : 16 if len(x) == 4 else 8])
            return super().forward(x) + y.mean()

    loaded = ecaviz.load(Narrowing(), device="cpu")
    with pytest.raises(ValueError, match="free gave 8 gates an image, and 16 before"):
        profile(loaded, torch.rand(6, 3, 64, 64), sites="free", accuracy=False, batch_size=4, progress=False)


def test_where_no_image_of_a_part_can_be_read_it_is_said(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    with (
        pytest.warns(UserWarning, match=r"2 file\(s\) of .* were skipped"),
        pytest.raises(ValueError, match=r"none of the images of .* could be read: 2 were skipped"),
    ):
        profile(model(), images.folder(tmp_path), shard=Shard(1, 2), progress=False)


def test_images_without_a_number_cannot_be_shared_out(drawn):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(drawn)

    with pytest.raises(ValueError, match="images whose number is not known cannot be shared out; give a dataset"):
        profile(model(), Stream(), shard=Shard(0, 2), progress=False)


def test_a_profile_that_is_not_kept_is_told_with_those_that_are():
    with pytest.raises(FileNotFoundError, match=r"no profile of 'shapes-none' .* There are: cifar10-eca-adaptive, cif"):
        profiles.kept_profile("shapes-none")


def test_a_fingerprint_is_of_names_shapes_and_values_alone():
    class Noted(nn.Linear):
        def get_extra_state(self):
            return {"made": object()}

        def set_extra_state(self, state):
            """There is nothing to restore."""

    torch.manual_seed(0)
    plain, noted = nn.Linear(4, 4), Noted(4, 4)
    noted.load_state_dict(plain.state_dict() | {"_extra_state": None}, strict=False)
    assert profiles.fingerprint_of(noted) == profiles.fingerprint_of(plain)
    with torch.no_grad():
        noted.weight[0, 0] += 1e-3
    assert profiles.fingerprint_of(noted) != profiles.fingerprint_of(plain)
    assert profiles.fingerprint_of(nn.Sequential(plain)) != profiles.fingerprint_of(plain)


def test_sites_that_the_network_never_calls():
    class Unused(Net):
        def forward(self, x):
            return self.head(self.stem(x).mean((2, 3)))

    loaded = ecaviz.load(Unused(), device="cpu")
    with pytest.raises(ValueError, match="ran without calling any of the sites"):
        profile(loaded, torch.rand(5, 3, 64, 64), progress=False)


def test_profiles_can_be_pickled_and_copied(drawn):
    made = profile(model(), drawn, progress=False)
    for twin in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert list(twin) == list(made)
        assert torch.equal(twin.mean("se"), made.mean("se"))
        assert twin.merge(made).n == 2 * made.n


@pytest.mark.parametrize("label", [-1, 99])
def test_labels_without_a_class_give_no_accuracy(label):
    loader = DataLoader(TensorDataset(torch.randn(4, 3, 64, 64), torch.full((4,), label)))
    assert profile(model(), loader, progress=False).accuracy is None


# Interrupted, resumed, out of memory.


class Stopping:
    """A dataset that is interrupted at one of its items, once."""

    def __init__(self, inner, at, error=KeyboardInterrupt):
        self.inner, self.at, self.error, self.read = inner, at, error, []
        self.classes = inner.classes

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, i):
        if i == self.at:
            self.at = None
            raise self.error("stop")
        self.read.append(i)
        return self.inner[i]


@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_pass_goes_on_to_the_same_profile(drawn, by_class, tmp_path, every, error):
    path = tmp_path / "half.profile"
    one = Stopping(drawn, 30, error)
    options = {"by": "class", "batch_size": 7, "progress": False, "checkpoint": path, "every": every}
    with pytest.raises(error):
        profile(model(), one, **options)
    half = AttentionProfile.load(path)  # what was computed is there
    assert half.n == half.positions == 28
    one.read.clear()
    found = profile(model(), one, **options)
    looked_at = [*range(image_fingerprints.FIRST)]  # to tell that the images are the same
    assert one.read[len(looked_at) :][0] == 28  # the images before are not read again
    assert one.read[: len(looked_at)] == looked_at
    assert_same(found, by_class)
    assert_same(AttentionProfile.load(path), by_class)
    one.read.clear()
    again = profile(model(), one, **options)  # all is there: nothing is run
    assert one.read == looked_at
    assert_same(again, by_class)
    assert [file.name for file in tmp_path.iterdir()] == ["half.profile"]


@pytest.mark.parametrize("kind", ["float tensor", "uint8 tensor", "loader"])
def test_tensors_and_loaders_go_on_too(drawn, tmp_path, kind):
    pixels, _ = drawn.tensors()
    x = normalise(pixels)
    given = {"float tensor": x, "uint8 tensor": pixels, "loader": DataLoader(TensorDataset(x), batch_size=7)}[kind]
    whole = profile(model(), given, batch_size=7, progress=False)
    loaded = model()
    calls = []

    def stop(_module, _inputs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    hook = loaded.net.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        profile(loaded, given, batch_size=7, progress=False, checkpoint=tmp_path / "p")
    assert AttentionProfile.load(tmp_path / "p").positions == 21
    found = profile(loaded, given, batch_size=7, progress=False, checkpoint=tmp_path / "p")
    hook.remove()
    assert_same(found, whole)


def test_a_checkpoint_of_another_run_is_refused(drawn, tmp_path):
    path = tmp_path / "p"
    profile(model(), drawn, progress=False, checkpoint=path)
    for options, what in (({"by": "class"}, "by, classes"), ({"sites": "se"}, "sites"), ({"top": 2}, "top")):
        with pytest.raises(ValueError, match=rf"is of another run: it differs in {what}\. Delete it"):
            profile(model(), drawn, progress=False, checkpoint=path, **options)
    with pytest.raises(ValueError, match="differs in weights"):
        profile(model(seed=1), drawn, progress=False, checkpoint=path)
    with pytest.raises(ValueError, match="differs in images"):
        profile(model(), images.shapes("test", 20), progress=False, checkpoint=path)
    loader = DataLoader(TensorDataset(torch.rand(8, 3, 64, 64)), shuffle=True)
    with pytest.raises(ValueError, match="a DataLoader that shuffles cannot be resumed"):
        profile(model(), loader, progress=False, checkpoint=path)
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="is no safetensors file"):
        profile(model(), drawn, progress=False, checkpoint=path)
    with pytest.raises(ValueError, match="every must be a whole number of at least 1"):
        profile(model(), drawn, progress=False, every=0)


def of_files(folder, colour):
    from PIL import Image

    for i in range(20):
        path = folder / CLASSES[i % 2] / f"{i:02}.ppm"  # not compressed: all of one size
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (colour, i, 0)).save(path)
    return folder


def as_loader(x, labels=None):
    return DataLoader(TensorDataset(x) if labels is None else TensorDataset(x, labels), batch_size=5)


class OneByOne(torch.utils.data.IterableDataset):
    """A stream of images."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def pairs_of_sets(folder):
    """By kind: two sets that are described alike."""
    one, other = (torch.rand(20, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    last = one.clone()
    last[19, 2, 63, 63] += 1e-3
    pixels = [(x * 255).byte() for x in (one, other)]
    labels = torch.arange(20) % 12
    folders = [of_files(folder / str(colour) / "val", colour) for colour in (1, 2)]
    pictures = images.folder(folders[0])
    larger = images.folder(of_files(folder / "3" / "val", 1))
    (folder / "3" / "val" / CLASSES[1] / "19.ppm").write_bytes(b"P6 1 1 255 abc")
    return {
        "float tensor": (one, last),
        "uint8 tensor": pixels,
        "list": [list(x) for x in pixels],
        "labels": [[*zip(pixels[0], x.tolist(), strict=True)] for x in (labels, labels.flip(0))],
        "stream": [OneByOne([*x]) for x in pixels],
        "loader": (as_loader(one), as_loader(other)),
        "loader, labels": (as_loader(one, labels), as_loader(one, labels.flip(0))),
        "folder": folders,
        "file": (pictures, larger),
        "part": (Subset(pictures, range(10)), Subset(pictures, range(10, 20))),
    }


KINDS = ["float tensor", "uint8 tensor", "list", "labels", "stream", "loader", "loader, labels", "folder", "file"]


@WORKERS
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "part"])
def test_a_checkpoint_of_other_images_is_refused(tmp_path, kind, stopped, workers):
    """Of the same name and number; whether it is of a part of the pass or of all of it."""
    one, other = pairs_of_sets(tmp_path)[kind]
    if workers and kind in ("float tensor", "uint8 tensor", "stream", "loader", "loader, labels"):
        pytest.skip("read in this process")
    options = {"batch_size": 4, "progress": False, "checkpoint": tmp_path / "p", "workers": workers}
    loaded, whole = model(), profile(model(), one, batch_size=4, progress=False)
    calls = []

    def stop(_module, _inputs):
        calls.append(1)
        if stopped and len(calls) == 3:
            raise KeyboardInterrupt

    hook = loaded.net.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt) if stopped else nullcontext():
        profile(loaded, one, **options)
    hook.remove()
    kept = AttentionProfile.load(tmp_path / "p")
    with pytest.raises(ValueError, match=r"p is of other images: .* Name another file as checkpoint .*, or delete it"):
        profile(loaded, other, **options)
    assert AttentionProfile.load(tmp_path / "p").positions == kept.positions
    if kind in ("folder", "list"):  # a copy is the same, and so is what comes in other batches
        one = shutil.copytree(one, tmp_path / "copy" / "val") if kind == "folder" else [x.clone() for x in one]
        options |= {"batch_size": 3, "workers": 2 - workers}
    assert_same(profile(loaded, one, **options), whole)
    with pytest.raises(ValueError, match="p is of other images"):
        profile(loaded, other, **options)


def test_a_loader_of_other_batches_goes_on(tmp_path):
    x = torch.rand(20, 3, 64, 64)
    for size in (2, 20, 3):
        found = profile(model(), DataLoader(TensorDataset(x), size), progress=False, checkpoint=tmp_path / "p")
        assert found.n == 20


@pytest.mark.parametrize("kind", ["float tensor", "list", "loader"])
def test_a_checkpoint_from_before_the_images_were_looked_at_goes_on(tmp_path, kind):
    one, other = pairs_of_sets(tmp_path)[kind]
    without = profile(model(), one, progress=False)
    assert profile_files.IMAGES not in without.asked
    without.save(tmp_path / "p")
    assert_same(profile(model(), other, progress=False, checkpoint=tmp_path / "p"), without)
    with pytest.raises(ValueError, match="is of other images"):  # now they are known
        profile(model(), one, progress=False, checkpoint=tmp_path / "p")


def test_without_a_checkpoint_no_image_is_looked_at(drawn, monkeypatch):
    def fail(*_args):
        raise AssertionError("looked at")

    for name in ("of_tensor", "of_files", "of_image"):
        monkeypatch.setattr(image_fingerprints, name, fail)
    for given in (drawn, torch.rand(4, 3, 64, 64), as_loader(torch.rand(4, 3, 64, 64)), OneByOne([drawn[0]])):
        assert profile_files.IMAGES not in profile(model(), given, progress=False).asked


@pytest.mark.parametrize("where", ["file/p", "file/new/p"])
def test_a_checkpoint_that_cannot_be_written_is_told_before_the_pass(drawn, tmp_path, where):
    (tmp_path / "file").touch()
    loaded = model()
    loaded.net.register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    says = {"folder": "is a folder; a file's name was expected"}.get(
        where, "cannot be written: .*file is a file; a folder"
    )
    with pytest.raises(OSError, match=f"profile: checkpoint .*{where} {says}"):
        profile(loaded, drawn, progress=False, checkpoint=tmp_path / where)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def small_memory(net, fits):
    """Out of memory with more images at once than fit."""
    sizes = []

    def check(_module, inputs):
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory (a test)")

    net.middle.register_forward_pre_hook(check)  # after the first site has been read
    return sizes


def test_out_of_memory_halves_the_batch_and_goes_on(drawn, by_class):
    loaded = model()
    sizes = small_memory(loaded.net, 5)
    with pytest.warns(UserWarning, match=r"memory ran out with (20|10) images at once; going on with (10|5)") as said:
        found = profile(loaded, drawn, by="class", batch_size=20, progress=False)
    assert len(said) == 2
    assert sizes[:3] == [20, 10, 5]
    assert max(sizes[2:]) == 5  # the batches that follow are cut beforehand
    assert found.n == N
    for name in by_class:
        torch.testing.assert_close(found.mean(name), by_class.mean(name), rtol=0, atol=1e-6)
        torch.testing.assert_close(found[name].largest.values, by_class[name].largest.values, rtol=0, atol=1e-6)
    assert torch.equal(found.correct, by_class.correct)


def test_a_single_image_that_does_not_fit_is_an_error(drawn, tmp_path):
    loaded = model()
    small_memory(loaded.net, 0)
    with pytest.warns(UserWarning, match="memory ran out"), pytest.raises(torch.OutOfMemoryError) as caught:
        profile(loaded, drawn, batch_size=4, progress=False, checkpoint=tmp_path / "p")
    assert "a single image does not fit" in caught.value.__notes__[0]
    assert not (tmp_path / "p").exists()


# Images read by other processes.


def assert_equal(one, other):
    """Everything that two profiles hold; the statistics up to the last digits of the gates."""
    assert_same(one, other)
    assert one.skipped == other.skipped
    assert one.images == other.images


@pytest.fixture
def shots(tmp_path, drawn):
    """A folder of the drawn images, in which some files cannot be read: the first, the last, a whole batch of seven."""
    from PIL import Image

    for i in range(N):
        path = tmp_path / "shots" / CLASSES[i // 13] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn[i][0].permute(1, 2, 0).numpy()).save(path)
        if i in (0, 3, 30, N - 1) or 14 <= i < 21:
            path.write_text("no image")
    return tmp_path / "shots"


@WORKERS
@pytest.mark.parametrize("by", [None, "class"])
def test_images_that_other_processes_read_give_the_same_profile(drawn, shots, by):
    for given in (drawn, shots):
        passes = []
        for workers in (0, 2):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "images: 11 file", UserWarning)
                passes.append(profile(model(), given, by=by, batch_size=7, workers=workers, progress=False))
        assert_equal(*passes)
        assert len(passes[0].skipped) == (11 if given is shots else 0)


@WORKERS
@pytest.mark.filterwarnings("ignore:images. .* file.s. of .* were skipped:UserWarning")
@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_a_pass_of_other_processes_goes_on_to_the_same_profile(shots, tmp_path, stop_after):
    """Images that were read ahead when it was interrupted do not count."""
    options = {"by": "class", "batch_size": 7, "progress": False}
    whole = profile(model(), shots, **options)
    calls, halves = [], []

    def stop(_module, _inputs):
        calls.append(1)
        if len(calls) == stop_after + 1:
            raise KeyboardInterrupt

    for workers in (0, 2):
        path = tmp_path / f"{workers}.profile"
        loaded = model()
        calls.clear()
        hook = loaded.net.register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            profile(loaded, shots, **options, workers=workers, checkpoint=path)
        assert multiprocessing.active_children() == []
        hook.remove()
        halves.append(AttentionProfile.load(path))
        assert_equal(profile(loaded, shots, **options, workers=workers, checkpoint=path), whole)
    assert halves[0].n == 7 * stop_after
    assert_equal(*halves)


@WORKERS
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_in_another_process_leaves_a_checkpoint(drawn, by_class, tmp_path, error):
    options = {"by": "class", "batch_size": 7, "progress": False, "checkpoint": tmp_path / "p", "workers": 2}
    with pytest.raises(error, match=r"^stop$"):
        profile(model(), Stopping(drawn, 30, error), **options)
    assert AttentionProfile.load(tmp_path / "p").positions == 28
    assert_same(profile(model(), Stopping(drawn, None), **options), by_class)


class Killed(Stopping):
    """A dataset at one of whose items the process that reads is killed."""

    def __getitem__(self, i):
        if i == self.at:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return self.inner[i]


@WORKERS
@DEATHS
def test_a_process_that_is_killed_is_an_error_in_words(drawn):
    with pytest.raises(RuntimeError, match=r"a process that reads images died.*Use fewer workers.*workers=0"):
        profile(model(), Killed(drawn, 2), batch_size=7, workers=2, progress=False)
    assert multiprocessing.active_children() == []


@WORKERS
def test_shards_read_by_other_processes(drawn, by_class):
    options = {"by": "class", "batch_size": 7, "workers": 2, "progress": False}
    parts = [profile(model(), drawn, shard=Shard(rank, 3), **options) for rank in range(3)]
    assert_same(parts[0].merge(parts[1]).merge(parts[2]), by_class)


class Sometimes(nn.Module):
    """A site that is never called, and one that is called in some forwards only."""

    def __init__(self, never=True):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.first, self.second = nn.Conv2d(3, 16, 5, stride=2), attention.SE(16, 4), attention.SE(16, 4)
        self.third, self.head = attention.ECA(16, 3), nn.Linear(16, 12)
        self.never = attention.SE(16, 4) if never else nn.Identity()

    def forward(self, x):
        x = self.first(self.conv(x))
        if float(x.mean()) > -0.02:
            x = self.second(x)
        if float(x.std()) > 0.2:
            x = self.third(x)
        return self.head(x.mean((2, 3)))


def test_a_site_that_is_not_called_is_no_other_run(drawn, tmp_path):
    loaded = ecaviz.load(Sometimes(), transform=normalise, classes=CLASSES, device="cpu")
    options = {"batch_size": 7, "progress": False, "checkpoint": tmp_path / "p"}
    first = profile(loaded, drawn, **options)
    assert "never" not in first
    again = profile(loaded, drawn, **options)
    assert (list(again), again.n) == (list(first), first.n)
    with pytest.raises(ValueError, match="is of another run: it differs in sites"):
        profile(loaded, drawn, sites="first", **options)


def test_sites_called_in_some_forwards_only_need_no_more_memory(drawn):
    """One image a batch: every combination of the sites comes up, and each image is known by hand."""
    net = Sometimes(never=False)
    loaded = ecaviz.load(net, transform=normalise, classes=CLASSES, device="cpu")
    by_hand = {}
    with torch.no_grad(), gates.evaluating(net):
        for x in normalise(drawn.tensors()[0]).split(1):
            with gates.capture(net) as captured:
                net(x)
            for name, record in captured.items():
                by_hand.setdefault(name, []).append(record.gate)
    counts = {name: len(parts) for name, parts in by_hand.items()}
    assert 0 < counts["second"] < N
    assert 0 < counts["third"] < N
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        made = site_statistics.accumulators
        patch.setattr(site_statistics, "accumulators", lambda *given: kept.append(given[0]) or made(*given))
        found = profile(loaded, drawn, batch_size=1, progress=False)
    assert len(kept) <= 4
    for name, parts in by_hand.items():
        assert int(found[name].moments.n.sum()) == counts[name]
        torch.testing.assert_close(found.mean(name)[0], torch.cat(parts).double().mean(0), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["subset", "weighted", "batches", "distributed"])
def test_loaders_in_another_order_each_time_are_not_resumed_nor_shared_out(drawn, tmp_path, kind):
    from torch.utils import data

    x, labels = drawn.tensors()
    images = TensorDataset(normalise(x), labels)
    loader = {
        "subset": lambda: data.DataLoader(images, 8, sampler=data.SubsetRandomSampler(range(N))),
        "weighted": lambda: data.DataLoader(images, 8, sampler=data.WeightedRandomSampler([1.0] * N, N)),
        "batches": lambda: data.DataLoader(
            images, batch_sampler=data.BatchSampler(data.RandomSampler(images), 8, False)
        ),
        "distributed": lambda: data.DataLoader(images, 8, sampler=data.DistributedSampler(images, 2, 0, shuffle=True)),
    }[kind]()
    with pytest.raises(ValueError, match="shuffles cannot be resumed"):
        profile(model(), loader, checkpoint=tmp_path / "p", progress=False)
    with pytest.raises(ValueError, match="shuffles cannot be shared out"):
        profile(model(), loader, shard=Shard(0, 2), progress=False)
    assert profile(model(), loader, progress=False).n == (N // 2 if kind == "distributed" else N)


def test_an_interrupt_while_the_gates_are_taken_in_loses_nothing(drawn, by_class, tmp_path, monkeypatch):
    """Ctrl-C, that is a real signal, in the middle of the statistics of the fourth batch."""
    own, count = site_statistics.SiteStatistics.update, 0

    def update(self, *given):
        nonlocal count
        count += 1
        if count == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return own(self, *given)

    monkeypatch.setattr(site_statistics.SiteStatistics, "update", update)
    options = {"by": "class", "batch_size": 7, "progress": False, "checkpoint": tmp_path / "p"}
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        profile(model(), drawn, **options)
    assert signal.getsignal(signal.SIGINT) is handler
    assert AttentionProfile.load(tmp_path / "p").positions == 28
    assert_same(profile(model(), drawn, **options), by_class)


def test_a_bad_label_loses_nothing_of_what_was_before(drawn, tmp_path):
    x, labels = drawn.tensors()
    labels[20] = 99
    with pytest.raises(ValueError, match="label 99 has no class"):
        profile(model(), TensorDataset(x, labels), by="class", batch_size=7, progress=False, checkpoint=tmp_path / "p")
    assert AttentionProfile.load(tmp_path / "p").n == 14


@pytest.mark.parametrize("differs", ["accuracy", "precision"])
def test_what_was_asked_for_has_to_be_the_same(drawn, tmp_path, differs):
    options = {"progress": False, "checkpoint": tmp_path / "p", "batch_size": 25}
    profile(model(), drawn, accuracy=differs != "accuracy", **options)
    low = torch.autocast("cpu", torch.bfloat16) if differs == "precision" else nullcontext()
    with low, pytest.raises(ValueError, match=f"is of another run: it differs in {differs}"):
        profile(model(), drawn, **options)


def test_skipped_files_of_one_name_are_all_counted(tmp_path):
    """Also when the pass was interrupted between them; and what was no part of the set is of the first shard alone."""
    from PIL import Image

    for folder in ("a", "b"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (64, 64), (40 * i, 10, 200)).save(tmp_path / "set" / folder / f"{i}.png")
        (tmp_path / "set" / folder / "1.png").write_bytes(b"no image")
    Image.new("RGB", (64, 64)).save(tmp_path / "set" / "beside.png")
    loaded = model(transform=normalise)
    with pytest.warns(UserWarning, match="were skipped"):
        whole = profile(loaded, tmp_path / "set", batch_size=2, progress=False)
    assert sorted(name for name, _ in whole.skipped) == ["1.png", "1.png", "beside.png"]
    count = []

    def stop(*_):
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt

    hook = loaded.net.register_forward_pre_hook(stop)
    options = {"batch_size": 2, "progress": False, "checkpoint": tmp_path / "p"}
    with pytest.raises(KeyboardInterrupt):
        profile(loaded, tmp_path / "set", **options)
    hook.remove()
    with pytest.warns(UserWarning, match="were skipped"):
        resumed = profile(loaded, tmp_path / "set", **options)
    assert (resumed.n, resumed.skipped) == (whole.n, whole.skipped)
    with pytest.warns(UserWarning, match="were skipped"):
        parts = [profile(loaded, tmp_path / "set", batch_size=2, progress=False, shard=Shard(i, 2)) for i in (0, 1)]
    assert sorted(parts[0].merge(parts[1]).skipped) == sorted(whole.skipped)


def test_corrupt_files_of_torchvision_s_folder_are_skipped_too(tmp_path):
    from PIL import Image
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import pil_to_tensor

    (tmp_path / "a").mkdir()
    for i in range(4):
        Image.new("RGB", (64, 64), (40 * i, 10, 200)).save(tmp_path / "a" / f"{i}.png")
    good = (tmp_path / "a" / "2.png").read_bytes()
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    (tmp_path / "a" / "2.png").write_bytes(good[: len(good) // 2])
    loaded = model(transform=lambda image: normalise(pil_to_tensor(image)))
    with pytest.warns(UserWarning, match=r"2 file\(s\).*2\.png.*1\.png"):
        found = profile(loaded, torch.utils.data.Subset(ImageFolder(tmp_path), [3, 2, 1]), progress=False)
    assert (found.n, [name for name, _ in found.skipped]) == (1, ["2.png", "1.png"])


def test_out_of_memory_is_also_told_by_words(drawn, by_class):
    loaded = model()

    def refuse(_module, args):
        if len(args[0]) > 8:
            raise RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB)")

    loaded.net.register_forward_pre_hook(refuse)
    with pytest.warns(UserWarning, match="memory ran out"):
        found = profile(loaded, drawn, by="class", batch_size=32, progress=False)
    assert torch.equal(found.counts, by_class.counts)
