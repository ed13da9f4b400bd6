"""One profile by several processes: the parts, their order, and torchrun itself."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import ecaviz
from ecaviz.profiles import AttentionProfile, profile
from ecaviz.shapes import normalise
from ecaviz.shards import Shard, merged, shard_of_this_process, together

N = 50


@pytest.fixture(scope="module")
def whole():
    return profile(ecaviz.load("shapes-eca-k3", device="cpu"), ecaviz.images.shapes("test", N), progress=False)


def same(found, whole):
    assert (found.n, found.positions, found.fingerprint) == (whole.n, whole.positions, whole.fingerprint)
    for name in whole:
        torch.testing.assert_close(found.mean(name), whole.mean(name), rtol=0, atol=1e-6)
        torch.testing.assert_close(found[name].moments.variance(), whole[name].moments.variance(), rtol=0, atol=1e-6)
        torch.testing.assert_close(found[name].largest.values, whole[name].largest.values, rtol=0, atol=1e-5)
        agree = (found[name].largest.index == whole[name].largest.index).double().mean()
        assert agree > 0.99  # positions count from the first image of all


def test_parts_are_all_of_it():
    for total in (1, 7, 50, 1001):
        for count in (1, 2, 3, 8):
            parts = [Shard(rank, count).part(total) for rank in range(count)]
            assert parts[0][0] == 0
            assert parts[-1][1] == total
            assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
            sizes = [stop - start for start, stop in parts]
            assert max(sizes) - min(sizes) <= 1
    with pytest.raises(ValueError, match="a rank from 0 to 1 was expected, got 2"):
        Shard(2, 2)


@pytest.mark.parametrize("kind", ["dataset", "float tensor", "uint8 tensor", "loader"])
def test_merged_parts_are_one_pass(whole, kind):
    model, drawn = ecaviz.load("shapes-eca-k3", device="cpu"), ecaviz.images.shapes("test", N)
    pixels, _ = drawn.tensors()
    x = normalise(pixels)
    given = {
        "dataset": drawn,
        "float tensor": x,
        "uint8 tensor": pixels,
        "loader": DataLoader(TensorDataset(x), batch_size=9),
    }[kind]
    parts = [profile(model, given, batch_size=7, shard=Shard(rank, 3), progress=False) for rank in range(3)]
    assert [part.n for part in parts] == [16, 17, 17]
    same(parts[0].merge(parts[1]).merge(parts[2]), whole)


def test_a_part_can_be_resumed(tmp_path, whole):
    model, drawn = ecaviz.load("shapes-eca-k3", device="cpu"), ecaviz.images.shapes("test", N)
    calls = []

    def stop(_module, _inputs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    hook = model.net.register_forward_pre_hook(stop)
    options = {"batch_size": 5, "progress": False, "checkpoint": tmp_path / "p", "shard": Shard(1, 2)}
    with pytest.raises(KeyboardInterrupt):
        profile(model, drawn, **options)
    hook.remove()
    assert AttentionProfile.load(tmp_path / "p").positions == 10
    with pytest.raises(ValueError, match="is of another run: it differs in images"):
        profile(model, drawn, **options | {"shard": Shard(0, 2)})
    second = profile(model, drawn, **options)
    first = profile(model, drawn, shard=Shard(0, 2), progress=False)
    same(first.merge(second), whole)


def test_too_few_images_are_told():
    model = ecaviz.load("shapes-eca-k3", device="cpu")
    with pytest.raises(ValueError, match="2 images are too few for 3 processes"):
        profile(model, torch.rand(2, 3, 64, 64), shard=Shard(0, 3), progress=False)


def test_what_torchrun_says(monkeypatch):
    assert shard_of_this_process() == Shard(0, 1, 0)
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert shard_of_this_process() == Shard(5, 8, 1)


@pytest.fixture
def alone(tmp_path):
    """A group of this process alone, so that a barrier is met at once."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("name", "value"), [("RANK", "x"), ("WORLD_SIZE", ""), ("LOCAL_RANK", "1.5"), ("RANK", "8")])
def test_an_environment_that_names_no_rank_is_told_as_that(monkeypatch, name, value):
    for each, usual in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), (name, value)):
        monkeypatch.setenv(each, usual)
    with pytest.raises(ValueError, match=rf"environment has .*{name}='{value}'.*whole numbers, .*; or unset RANK"):
        shard_of_this_process()


@pytest.mark.usefixtures("alone")
def test_the_first_process_merges_what_all_have_written(tmp_path, whole):
    model, drawn = ecaviz.load("shapes-eca-k3", device="cpu"), ecaviz.images.shapes("test", N)
    out, shards = tmp_path / "a.profile", [Shard(rank, 3) for rank in range(3)]
    for shard in shards[:2]:
        profile(model, drawn, shard=shard, progress=False).save(shard.file(out))
    with pytest.raises(FileNotFoundError, match=r"a\.profile\.3-of-3"):
        merged(shards[0], out)  # on several machines with a folder each
    assert shards[0].file(out).exists()
    profile(model, drawn, shard=shards[2], progress=False).save(shards[2].file(out))
    assert merged(shards[1], out) is None
    assert not out.exists()
    found = merged(shards[0], out)
    same(found, whole)
    assert found.images == whole.images
    same(AttentionProfile.load(out), whole)
    assert not any(shard.file(out).exists() for shard in shards)


def test_processes_meet_and_part_again_whatever_happens(monkeypatch):
    said = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: said.append(backend))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: said.append("parted"))
    with together(Shard(0, 1)):
        assert said == []  # one process has nobody to meet
    assert said == []
    with pytest.raises(RuntimeError, match="in between"), together(Shard(1, 2)):
        raise RuntimeError("in between")
    assert said == ["gloo", "parted"]


def test_torchrun_gives_the_profile_of_one_pass(tmp_path, whole):
    out = tmp_path / "both.profile"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "ecaviz"]
    command += ["profile", "shapes-eca-k3", f"shapes:{N}", "--device", "cpu", "--batch-size", "7", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("written to") == 1
    same(AttentionProfile.load(out), whole)
    assert AttentionProfile.load(out).images == whole.images
    assert [file.name for file in tmp_path.iterdir()] == ["both.profile"]
