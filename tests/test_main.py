"""The command line: each command helps, works, and fails with one line and a status that tells."""

import re
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import ecaviz
from ecaviz import bundle, coverages, images, items, models, profiles, results, shards, training
from ecaviz.__main__ import app
from ecaviz.networks import Architecture
from ecaviz.profiles import AttentionProfile


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.mark.parametrize("command", ["models", "profile", "coverage", "train", "report"])
def test_every_command_helps(command):
    assert command in run("--help").stdout
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_models():
    result = run("models", "shapes-*")
    assert result.exit_code == 0
    assert len(re.findall(r"^ *shapes-\S+ +bundled", result.stdout, re.MULTILINE)) == sum(
        name.startswith("shapes-") for name in bundle.BUNDLE
    )
    assert f"{bundle.manifest()['shapes-eca-k3'].accuracy:.1%}" in result.stdout
    nothing = run("models", "nothing-*")
    assert nothing.exit_code == 1
    assert "no name matches 'nothing-*'" in nothing.stderr


@pytest.mark.filterwarnings(
    "ignore:.*multi-threaded, use of fork:DeprecationWarning", "ignore:This DataLoader will create:UserWarning"
)
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_profile_writes_what_the_library_gives(tmp_path, workers, monkeypatch):
    read, in_runs = [], items.in_runs
    monkeypatch.setattr(items, "in_runs", lambda *given: read.append(given[4]) or in_runs(*given))
    out = tmp_path / "a.profile"
    result = run("profile", "shapes-eca-k3", "shapes:24", "--by-class", "--sites", "layer4.*", "--out", out, *workers)
    assert result.exit_code == 0, result.output
    written = AttentionProfile.load(out)
    model = ecaviz.load("shapes-eca-k3")
    direct = ecaviz.profile(model, ecaviz.images.shapes("test", 24), by="class", sites="layer4.*", progress=False)
    assert list(written) == list(direct) == ["layer4.0.se", "layer4.1.se"]
    torch.testing.assert_close(written.mean("layer4.1.se"), direct.mean("layer4.1.se"))
    assert str(out) in result.stdout
    assert read == ([2] if workers else [])


def test_profile_writes_a_table_too_in_the_precision_asked_for(tmp_path):
    options = ("--by-class", "--sites", "layer1.*", "--no-accuracy", "--autocast", "bfloat16", "--device", "cpu")
    files = ("--out", tmp_path / "a.profile", "--table", tmp_path / "a.parquet")
    result = run("profile", "shapes-se-r16", "shapes:24", *options, *files)
    assert result.exit_code == 0, result.output
    assert f"table written to {tmp_path / 'a.parquet'}" in result.stdout
    low = AttentionProfile.load(tmp_path / "a.profile")
    assert low.accuracy is None
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), low.to_frame())
    model = ecaviz.load("shapes-se-r16", device="cpu")
    direct = ecaviz.profile(model, ecaviz.images.shapes("test", 24), by="class", sites="layer1.*", progress=False)
    off = max(float((low.mean(name) - direct.mean(name)).abs().max()) for name in low)
    assert 1e-5 < off < 0.05  # the network's rounding, and no more


@pytest.mark.parametrize(
    ("options", "details"), [((), "class"), (("--details", "pooled"), "pooled"), (("--details", "class"), "class")]
)
def test_profile_keeps_the_details_that_are_asked_for(tmp_path, options, details):
    out = tmp_path / "a.profile"
    result = run("profile", "shapes-eca-k3", "shapes:12", "--by-class", "--sites", "layer1.*", "--out", out, *options)
    assert result.exit_code == 0, result.output
    assert AttentionProfile.load(out).details == details


def test_a_part_that_is_through_is_kept_where_another_process_fails(tmp_path, monkeypatch):
    """As under torchrun: the second of two processes, whose first one has died before the parts are merged."""
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)

    def dies(*_):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(shards, "together", lambda shard: nullcontext())
    monkeypatch.setattr(shards, "merged", dies)
    options = ("profile", "shapes-eca-k3", "shapes:24", "--device", "cpu", "--out", tmp_path / "a.profile")
    assert "Connection closed by peer" in run(*options).stderr
    assert AttentionProfile.load(tmp_path / "a.profile.2-of-2.partial").positions == 12
    monkeypatch.setattr(shards, "merged", lambda shard, out: None)
    ran = []
    monkeypatch.setattr(profiles._Pass, "run", lambda *given: ran.append(given))
    assert run(*options).exit_code == 0
    assert ran == []  # all of it was there
    assert [path.name for path in tmp_path.iterdir()] == ["a.profile.2-of-2"]


def test_coverage_writes_what_the_library_gives(tmp_path):
    result = run("coverage", "shapes-eca-k3", "shapes-se-r16", "--sites", "layer1.*", "--locality", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    written = pd.read_csv(tmp_path / "coverage.csv")
    direct = coverages.coverage_table(["shapes-eca-k3", "shapes-se-r16"], sites="layer1.*")
    assert written["site"].tolist() == direct["site"].tolist() == 2 * ["layer1.0.se", "layer1.1.se"]
    np.testing.assert_allclose(written["partners"], direct["partners"])
    assert set(pd.read_csv(tmp_path / "locality.csv")["ordering"]) == {"given", "seriated"}
    assert "layer1.1.se" in result.stdout
    assert str(tmp_path / "coverage.csv") in result.stdout


@pytest.mark.parametrize(
    ("model", "expected"), [("shapes-eca-k3", "Shapes"), ("cifar10-eca-k3", "Cifar10"), ("resnet18", "photographs")]
)
def test_profile_takes_the_images_that_suit_the_model(tmp_path, monkeypatch, model, expected):
    monkeypatch.setattr(images, "cifar10", lambda split, root: f"Cifar10 {split}")
    monkeypatch.setattr(models, "load", lambda name, device: SimpleNamespace(device=torch.device("cpu")))

    def stop(_model, images, **_options):
        raise ValueError(f"asked of {images}")

    monkeypatch.setattr(profiles, "profile", stop)
    result = run("profile", model, "--out", tmp_path / "a.profile")
    assert re.search(f"asked of .*{expected}", result.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give the names of models, or --record alone"),
        (("shapes-eca-k3", "--record"), "give the names of models, or --record alone"),
        (("shapes-none",), "no channel gates"),
        (("shapes-gsop",), "no closed form for the family 'gsop'"),
        (("shapes-eca-k3", "--images", "no/such/folder"), "no/such/folder"),
        (("--record", "--locality"), "give the names of models, or --record alone"),
    ],
)
def test_coverage_fails_with_a_clear_error(tmp_path, arguments, message):
    result = run("coverage", *arguments, "--out", tmp_path)
    assert result.exit_code in (1, 2)
    assert message in re.sub(r"[\s│]+", " ", result.stderr)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shapes-eca-k4",), "no model is called 'shapes-eca-k4'"),
        (("shapes-eca-k3", "no/such/folder"), "no/such/folder"),
        (("shapes-eca-k3", "shapes:abc"), "after shapes: a number of images was expected"),
        (("shapes-none", "shapes:12"), "has no channel gates"),
        (("shapes-eca-k3", "shapes:12", "--sites", "layer9.*"), "no site matches"),
        (("shapes-eca-k3", "shapes:12", "--details", "class"), 'by="class" was expected, got by=None'),
        (("shapes-eca-k3", "shapes:12", "--table", "t.xlsx"), "ends in .csv, .csv.gz or .parquet was expected"),
        (("shapes-eca-k3", "shapes:12", "--autocast", "int8"), "bfloat16 or float16 was expected, got 'int8'"),
    ],
)
def test_profile_fails_with_a_clear_error(tmp_path, arguments, message):
    result = run("profile", *arguments, "--out", tmp_path / "x.profile")
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_train_a_bundled_model(tmp_path, monkeypatch):
    tiny = Architecture("se", {"reduction": 4}, blocks=(1, 1, 1, 1), planes=(4, 4, 4, 4), stem=4)
    monkeypatch.setitem(bundle.BUNDLE, "tiny", tiny)
    small = training.Recipe(train_images=24, test_images=12, epochs=1, batch_size=12)
    monkeypatch.setattr(training, "Recipe", lambda: small)
    result = run("train", "tiny", "--out", tmp_path / "out", "--scratch", tmp_path / "scratch", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert bundle.manifest(tmp_path / "out")["tiny"].setting == "r=4"
    more = ("--seed", "1", "--seed", "2", "--out", tmp_path / "out", "--scratch", tmp_path / "scratch")
    assert run("train", "tiny", *more, "--device", "cpu").exit_code == 0
    table = results.runs(tmp_path / "out" / "results")
    assert table["seed"].tolist() == [0, 1, 2]
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["tiny.safetensors"]


def test_profile_says_before_the_run_that_it_cannot_write(tmp_path):
    result = run("profile", "shapes-eca-k3", "shapes:12", "--out", tmp_path)
    assert result.exit_code == 1
    assert "is a folder" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_train_on_a_device_that_is_not_there():
    result = run("train", "shapes-none", "--device", "cuda")
    assert result.exit_code == 1
    assert "torch finds no GPU" in result.stderr


def test_train_refuses_what_it_does_not_know():
    result = run("train", "shapes-eca-k4")
    assert result.exit_code == 1
    assert "the bundle has no shapes-eca-k4" in result.stderr
    for arguments in ((), ("--bundle", "shapes-none"), ("--bundle", "--survey")):
        result = run("train", *arguments)
        assert result.exit_code == 2
        assert "give the names of models, or --bundle" in result.stderr
