"""The command line: each command helps, works, and fails with one line and a status that tells."""

import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import ecaviz
from ecaviz import (
    bundle,
    bundle_training,
    catalogue,
    cifar10,
    coverage_records,
    coverage_runs,
    coverage_tables,
    coverages,
    images,
    intervention_records,
    items,
    models,
    profiles,
    recipes,
    results,
    shards,
    training,
)
from ecaviz import report as ecaviz_report
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
    assert read == ([1, 2] if workers else [])  # the first images, by which the checkpoint tells them, and all


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


def test_coverage_writes_what_the_library_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(coverage_runs, "locality_of", partial(coverage_tables.locality_of, draws=9, seriated_draws=9))
    few = images.shapes("test", 12)
    monkeypatch.setattr(images, "suited", lambda _model, n: few)
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
    (tmp_path / "file").touch()
    again = run("train", "tiny", "--out", tmp_path / "out", "--scratch", tmp_path / "file", "--device", "cpu")
    assert (again.exit_code, again.stdout) == (0, "there already: tiny (seed 0)\n")  # and nothing to be written


def test_train_says_before_the_run_that_its_results_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_training, "train", stops(AssertionError("it ran")))
    (tmp_path / "results").touch()
    result = run("train", "shapes-none", "--out", tmp_path, "--scratch", tmp_path / "states", "--device", "cpu")
    assert (result.exit_code, "results is a file; a folder was expected" in result.stderr) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_profile_does_not_go_on_over_other_images_of_the_same_folder_s_name(tmp_path):
    for i, name in enumerate(("one", "other")):
        (tmp_path / name / "val").mkdir(parents=True)
        Image.new("RGB", (64, 64), (50 * i, 0, 0)).save(tmp_path / name / "val" / "a.ppm")
    out = tmp_path / "a.profile"
    kept = {"checkpoint": tmp_path / "a.profile.partial", "progress": False}
    loaded = ecaviz.load("shapes-eca-k3", device="cpu")
    ecaviz.profile(loaded, tmp_path / "one" / "val", **kept)
    result = run("profile", "shapes-eca-k3", tmp_path / "other" / "val", "--out", out, "--device", "cpu")
    assert (result.exit_code, out.exists()) == (1, False)
    assert "a.profile.partial is of other images: those given now (val: 1 images" in result.stderr
    assert "another --out), or delete it" in result.stderr
    again = run("profile", "shapes-eca-k3", tmp_path / "one" / "val", "--out", out, "--device", "cpu")
    assert (again.exit_code, out.exists()) == (0, True)


def test_profile_says_before_the_run_that_it_cannot_write(tmp_path):
    result = run("profile", "shapes-eca-k3", "shapes:12", "--out", tmp_path)
    assert result.exit_code == 1
    assert "is a folder" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_train_on_a_device_that_is_not_there():
    result = run("train", "shapes-none", "--device", "cuda")
    assert result.exit_code == 1
    assert "torch finds no GPU" in result.stderr


def test_models_by_their_properties():
    listed = run("models", "*k3", "--source", "bundled", "--family", "eca", "--cached")
    assert listed.exit_code == 0, listed.output
    names = re.findall(r"^ *(\S+) +bundled", listed.stdout, re.MULTILINE)
    assert names
    assert set(names) == {
        name for name, row in bundle.manifest().items() if name.endswith("k3") and row.family == "eca"
    }
    nothing = run("models", "x*", "--source", "timm", "--cached")
    assert "no name matches 'x*' with --source timm --cached" in nothing.stderr
    wrong = run("models", "--source", "the moon")
    assert wrong.exit_code == 1
    assert "the moon" in wrong.stderr


def stops(error):
    def stop(*_arguments, **_options):
        raise error

    return stop


def test_what_goes_on_after_ctrl_c_is_told(tmp_path, monkeypatch):
    """With the status that shells give an interrupt."""
    monkeypatch.setattr(profiles, "profile", stops(KeyboardInterrupt()))
    stopped = run("profile", "shapes-eca-k3", "shapes:12", "--device", "cpu", "--out", tmp_path / "a.profile")
    assert stopped.exit_code == 130
    assert f"goes on from {tmp_path / 'a.profile.partial'}" in stopped.stderr
    monkeypatch.setattr(bundle_training, "train_bundled", stops(KeyboardInterrupt()))
    stopped = run("train", "shapes-none", "--device", "cpu")
    assert (stopped.exit_code, "goes on from the last finished epoch" in stopped.stderr) == (130, True)
    monkeypatch.setattr(coverage_runs, "locality_of", stops(KeyboardInterrupt()))
    options = ("coverage", "shapes-eca-k3", "--sites", "layer1.0.se", "--locality", "--device", "cpu")
    stopped = run(*options, "--out", tmp_path / "covered")
    assert stopped.exit_code == 130
    assert f"Interrupted. Written: {tmp_path / 'covered' / 'coverage.csv'}. The rows of coverage of" in stopped.stderr
    assert pd.read_csv(tmp_path / "covered" / "coverage.csv")["site"].tolist() == ["layer1.0.se"]
    monkeypatch.setattr(coverage_runs, "coverage_of", stops(KeyboardInterrupt()))
    stopped = run(*options, "--out", tmp_path / "other" / "deep")
    assert "Interrupted. Nothing was through, and what was there before is as it was." in stopped.stderr
    assert not (tmp_path / "other").exists()
    monkeypatch.setattr(coverage_records, "measure_runs", stops(KeyboardInterrupt()))
    assert "What was measured so far is in data/results" in run("coverage", "--record").stderr
    monkeypatch.setattr(intervention_records, "measure", stops(KeyboardInterrupt()))
    stopped = run("interventions", "shapes-se-r16", "--out", tmp_path)
    assert (stopped.exit_code, "is in the table" in stopped.stderr) == (130, True)
    interrupt = KeyboardInterrupt()
    interrupt.add_note("2 of 3 pages are there.")
    monkeypatch.setattr(ecaviz_report, "build_report", stops(interrupt))
    stopped = run("report")
    assert (stopped.exit_code, "Interrupted. 2 of 3 pages are there. The same" in stopped.stderr) == (130, True)


class Failing:
    """What measures a model, which notes those it was called for and fails at some."""

    def __init__(self, measure, error, *names):
        self.measure, self.error, self.names, self.asked = measure, error, names, []

    def __call__(self, model, *given, **options):
        self.asked.append(model.name)
        if model.name in self.names:
            raise self.error
        return self.measure(model, *given, **options)


@pytest.mark.parametrize(
    ("error", "status", "after"),
    [(KeyboardInterrupt(), 130, "; the same command goes on from there."), (ValueError("broken"), 1, ".")],
    ids=["interrupt", "error"],
)
def test_coverage_goes_on_after_the_last_model_that_was_through(tmp_path, monkeypatch, error, status, after):
    names = "shapes-eca-k3", "shapes-se-r16", "shapes-cbam"
    command = ("coverage", *names, "--sites", "layer1.0.*", "--locality", "--device", "cpu", "--out")
    short = Failing(partial(coverage_tables.locality_of, draws=9, seriated_draws=9), error, "shapes-se-r16")
    monkeypatch.setattr(coverage_runs, "locality_of", short)
    whole = Failing(coverage_tables.coverage_of, error, "shapes-se-r16")
    monkeypatch.setattr(coverage_runs, "coverage_of", whole)

    (tmp_path / "coverage.csv").write_text("of an earlier run\n")
    stopped = run(*command, tmp_path)
    assert stopped.exit_code == status
    kept = f"are kept in {tmp_path}, in files that end in .partial{after}\n"
    assert f"The rows of coverage of shapes-eca-k3 {kept}" in stopped.stderr
    assert str(error) in stopped.stderr
    assert (tmp_path / "coverage.csv").read_text() == "of an earlier run\n"
    assert whole.asked == ["shapes-eca-k3", "shapes-se-r16"]

    whole.names, whole.asked = (), []
    stopped = run(*command, tmp_path)
    assert stopped.exit_code == status  # in the other table
    assert f"there already, in {tmp_path}: coverage of shapes-eca-k3\n" in stopped.stdout
    assert whole.asked == ["shapes-se-r16", "shapes-cbam"]
    assert pd.read_csv(tmp_path / "coverage.csv")["model"].unique().tolist() == list(names)
    assert f"coverage of shapes-cbam, locality of shapes-eca-k3 {kept}" in stopped.stderr

    short.names, short.asked, whole.asked = (), [], []
    assert run(*command, tmp_path).exit_code == 0
    assert (short.asked, whole.asked) == (["shapes-se-r16", "shapes-cbam"], [])
    assert {path.name for path in tmp_path.iterdir()} == {"coverage.csv", "locality.csv"}
    assert run(*command, tmp_path / "unbroken").exit_code == 0
    for name in ("coverage.csv", "locality.csv"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_coverage_takes_from_an_earlier_run_only_what_was_made_the_same_way(tmp_path, monkeypatch):
    for name in ("one", "other"):
        (tmp_path / name / "images").mkdir(parents=True)
        shutil.copy(next(iter(images.photographs().paths)), tmp_path / name / "images" / "a.jpg")
    monkeypatch.setattr(coverage_runs, "locality_of", stops(ValueError("later")))
    measure = Failing(coverage_tables.coverage_of, None)
    monkeypatch.setattr(coverage_runs, "coverage_of", measure)
    options = ("--locality", "--device", "cpu", "--out", tmp_path)
    for more in (
        ("--sites", "layer1.*"),
        ("--sites", "layer2.*"),
        ("--sites", "layer1.*", "--influences"),
        ("--sites", "layer1.*", "--images", tmp_path / "one" / "images"),
        ("--sites", "layer1.*", "--images", tmp_path / "other" / "images"),
    ):
        for times in (1, 0):
            measure.asked = []
            assert run("coverage", "shapes-eca-k3", *more, *options).exit_code == 1
            assert len(measure.asked) == times
    assert len(list(tmp_path.glob("coverage-*.partial"))) == 5
    monkeypatch.setattr(coverage_runs, "__version__", "another")
    measure.asked = []
    assert run("coverage", "shapes-eca-k3", "--sites", "layer1.*", *options).exit_code == 1
    assert measure.asked == ["shapes-eca-k3"]
    monkeypatch.undo()
    assert run("coverage", "shapes-eca-k3", "--sites", "layer2.*", "--device", "cpu", "--out", tmp_path).exit_code == 0
    assert len(list(tmp_path.glob("coverage-*.partial"))) == 5  # those of the other runs


def test_two_coverages_with_one_folder_keep_their_rows(tmp_path, monkeypatch):
    """Of other models, of the same one with another option, and the very same twice."""
    measure = Failing(coverage_tables.coverage_of, None)
    monkeypatch.setattr(coverage_runs, "coverage_of", measure)
    short = partial(coverage_tables.locality_of, draws=9, seriated_draws=9)
    monkeypatch.setattr(coverage_runs, "locality_of", Failing(short, None))
    options = {"sites": "layer1.0.*", "progress": False, "locality": True}
    first, second, same, more = (
        coverage_runs.Run(tmp_path, name, influences=influences, **options)
        for name, influences in (
            ("shapes-eca-k3", False),
            ("shapes-se-r16", False),
            ("shapes-eca-k3", False),
            ("shapes-eca-k3", True),
        )
    )
    for each in (first, second, same, more):
        each.coverage()
        each.locality()
    names = {path.name.partition("-")[0] for path in tmp_path.iterdir()}
    assert (len(list(tmp_path.iterdir())), names) == (
        5,
        {"coverage", "locality"},
    )  # locality is that without influences
    first.forget()
    same.forget()
    assert len(list(tmp_path.iterdir())) == 3
    measure.asked = []
    both = coverage_runs.Run(tmp_path, ["shapes-se-r16", "shapes-eca-k3"], **options)
    assert both.coverage()["model"].tolist() == ["shapes-se-r16", "shapes-eca-k3"]
    assert measure.asked == ["shapes-eca-k3"]  # that of the other is there


def test_localities_are_of_the_models_that_have_a_j(tmp_path, monkeypatch):
    rows = coverage_tables.coverage_of(models.load("shapes-eca-k3", device="cpu"), None, "layer1.0.se")
    monkeypatch.setattr(coverage_runs, "coverage_of", lambda *_, **__: rows)
    short = Failing(partial(coverage_tables.locality_of, draws=9, seriated_draws=9), None)
    monkeypatch.setattr(coverage_runs, "locality_of", short)
    options = ("--influences", "--locality", "--sites", "layer1.0.*", "--device", "cpu", "--out", tmp_path)
    done = run("coverage", "shapes-gsop", "shapes-eca-k3", *options)
    assert done.exit_code == 0, done.output
    assert "not in the table of localities, for they have no J: shapes-gsop\n" in done.stdout
    assert short.asked == ["shapes-eca-k3"]
    assert {path.name for path in tmp_path.iterdir()} == {"coverage.csv", "locality.csv"}


def test_coverage_tells_of_a_model_without_sites_before_it_measures_others(tmp_path, monkeypatch):
    measure = Failing(coverage_tables.coverage_of, None)
    monkeypatch.setattr(coverage_runs, "coverage_of", measure)
    for name, says in (("shapes-none", "no channel gates"), ("shapes-gsop", "no closed form for the family 'gsop'")):
        result = run("coverage", "shapes-eca-k3", name, "--out", tmp_path)
        assert (result.exit_code, says in result.stderr) == (1, True)
    result = run("coverage", "shapes-gsop", "--influences", "--locality", "--out", tmp_path)
    assert (result.exit_code, says in result.stderr) == (1, True)
    assert "leave it out (--locality) to measure influences alone" in result.stderr
    assert measure.asked == []


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "Memory ran out.\nUse the CPU.\n"),
        (MemoryError("Unable to allocate 3 GiB"), "Memory ran out: Unable to allocate 3 GiB\nUse the CPU.\n"),
        (torch.OutOfMemoryError("CUDA out of memory."), "CUDA out of memory.\nUse the CPU.\n"),
        (OSError(28, "no room"), "no room\nUse the CPU.\n"),
    ],
    ids=lambda one: str(one)[:20],
)
@pytest.mark.parametrize("command", ["models", "profile", "train", "coverage", "record", "interventions", "report"])
def test_errors_are_told_with_their_notes(tmp_path, monkeypatch, command, error, says):
    error.__notes__ = ["Use the CPU."]
    fails = stops(error)
    monkeypatch.setattr(catalogue, "available", fails)
    monkeypatch.setattr(profiles, "profile", fails)
    monkeypatch.setattr(bundle_training, "train_bundled", fails)
    monkeypatch.setattr(coverage_runs, "coverage_of", fails)
    monkeypatch.setattr(coverage_records, "measure_runs", fails)
    monkeypatch.setattr(intervention_records, "record", fails)
    monkeypatch.setattr(ecaviz_report, "build_report", fails)
    out = ("--device", "cpu", "--out", tmp_path / "new" / "deep")
    commands = {
        "profile": ("profile", "shapes-eca-k3", "shapes:12", *out),
        "train": ("train", "shapes-none", *out, "--scratch", tmp_path / "states"),
        "coverage": ("coverage", "shapes-eca-k3", *out),
        "record": ("coverage", "--record"),
        "interventions": ("interventions", *out[2:]),
        "report": ("report", *out[2:]),
    }
    result = run(*commands.get(command, [command]))
    assert (result.exit_code, result.stderr) == (1, says)
    assert list(tmp_path.iterdir()) == []  # no folder that was made for nothing


@pytest.mark.parametrize(
    "command",
    [
        ("profile", "shapes-eca-k3", "shapes:12", "--out", "file/a.profile"),
        ("profile", "shapes-eca-k3", "shapes:12", "--out", "a.profile", "--table", "file/a.csv"),
        ("train", "shapes-none", "--out", "file", "--scratch", "states"),
        ("train", "shapes-none", "--out", "out", "--scratch", "file"),
        ("coverage", "shapes-eca-k3", "--out", "file"),
        ("interventions", "shapes-se-r16", "--out", "file"),
        ("report", "a.ipynb", "--out", "file"),
    ],
    ids=lambda command: " ".join(command[::2]),
)
def test_what_cannot_be_written_is_told_before_the_run(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    never = stops(AssertionError("it ran"))
    monkeypatch.setattr(profiles, "profile", never)
    monkeypatch.setattr(bundle_training, "train", never)
    monkeypatch.setattr(coverage_runs, "coverage_of", never)
    monkeypatch.setattr(intervention_records, "record", never)
    monkeypatch.setattr(ecaviz_report, "run_notebook", never)
    for name in ("file", "a.ipynb"):
        Path(name).write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    result = run(*command)
    assert result.exit_code == 1, result.output
    assert re.search(rf"{command[0]}: .*file.* cannot be written: file is a file; a folder was expected", result.stderr)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "a.ipynb"}


def test_train_takes_models_seeds_and_recipe_of_a_study(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(bundle_training, "train_bundled", lambda names, **options: asked.append((names, options)))
    file = bundle.data_folder() / "recipes" / "cifar10-cpu.toml"
    study = recipes.read(file)
    assert run("train", "--recipe", file, "--device", "cpu").exit_code == 0
    more = ("--seed", "7", "--epochs", "2", "--minutes", "3", "--redo", "--out", tmp_path, "--device", "cpu")
    assert run("train", "cifar10-none", "--recipe", file, *more).exit_code == 0
    assert run("train", "--bundle", "--recipe", file, "--device", "cpu").exit_code == 0
    assert run("train", "--survey", "--device", "cpu").exit_code == 0
    (names, given), (others, own), (every, _), (survey, _) = asked
    assert (names, tuple(given["seeds"]), given["recipe"]) == (list(study.models), study.seeds, study.recipe)
    assert (others, own["seeds"], own["recipe"]) == (["cifar10-none"], [7], replace(study.recipe, epochs=2))
    assert (own["minutes"], own["redo"], own["folder"]) == (3, True, tmp_path)
    assert every == [name for name in bundle.BUNDLE if name.startswith("cifar10-")]
    assert survey == list(bundle.SURVEY)


def test_train_says_where_it_was_when_the_time_was_over(monkeypatch):
    monkeypatch.setattr(bundle_training, "train_bundled", stops(training.OutOfTime("after epoch 3.")))
    stopped = run("train", "shapes-none", "--device", "cpu")
    assert stopped.exit_code == 75
    assert "after epoch 3. The time is over; the same command goes on" in stopped.stderr


def test_coverage_measures_anew_what_is_recorded(monkeypatch):
    monkeypatch.setattr(coverage_records, "measure_runs", lambda: ["a, seed 0", "b, seed 1"])
    result = run("coverage", "--record")
    assert (result.exit_code, result.stdout) == (0, "measured 2 networks; written to data/results\n")


def test_interventions_are_recorded_and_what_is_left_is_told(tmp_path, monkeypatch):
    row = {"data": "shapes", "site": "all", "mode": "one", "n": 2, "measure": "agreement", "low": 0.2, "high": 0.6}
    measured = []

    def measure(name, *, progress):
        measured.append(name)
        return pd.DataFrame([row | {"model": name, "mean": 0.1 * len(measured)}])[list(intervention_records.COLUMNS)]

    monkeypatch.setattr(intervention_records, "measure", measure)
    monkeypatch.setattr(cifar10, "is_here", lambda: False)
    result = run("interventions", "shapes-se-r16", "cifar10-se-r16", "shapes-eca-k3", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "measured: shapes-se-r16, shapes-eca-k3\n" in result.stdout
    assert "left as they were, for their images are not here: cifar10-se-r16" in result.stdout
    assert run("interventions", "shapes-se-r16", "--out", tmp_path).exit_code == 0
    table = intervention_records.recorded(tmp_path).set_index("model")["mean"]
    assert table.to_dict() == pytest.approx({"shapes-se-r16": 0.3, "shapes-eca-k3": 0.2})
    result = run("interventions", "cifar10-se-r16", "--out", tmp_path)
    assert "measured: none" in result.stdout
    monkeypatch.setattr(intervention_records, "measure", stops(ValueError("no such model")))
    result = run("interventions", "shapes-x", "--out", tmp_path)
    assert (result.exit_code, result.stderr) == (1, "no such model\n")


def test_report_of_a_folder_or_of_some_notebooks(tmp_path, monkeypatch):
    asked = []

    def build(given, out, *, timeout):
        asked.append((given, out, timeout))
        return out / "index.html"

    monkeypatch.setattr(ecaviz_report, "build_report", build)
    result = run("report", "--out", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"The report is in {tmp_path / 'index.html'}\n")
    assert run("report", "a.ipynb", "b.ipynb", "--out", tmp_path, "--timeout", "5").exit_code == 0
    assert asked == [(Path("notebooks"), tmp_path, 600), ([Path("a.ipynb"), Path("b.ipynb")], tmp_path, 5)]
    monkeypatch.setattr(ecaviz_report, "build_report", stops(ecaviz_report.ReportError("1 of 2 notebooks failed")))
    result = run("report")
    assert (result.exit_code, result.stderr) == (1, "1 of 2 notebooks failed\n")


def test_each_of_several_processes_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    """Two machines of four GPUs: the sixth process has the second of its machine."""
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "5")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(models, "load", lambda name, device: (_ for _ in ()).throw(ValueError(f"loaded on {device}")))
    assert run("profile", "shapes-eca-k3", "--out", tmp_path / "a").stderr == "loaded on cuda:1\n"
    assert run("profile", "shapes-eca-k3", "--device", "cpu", "--out", tmp_path / "a").stderr == "loaded on cpu\n"


def test_train_refuses_what_it_does_not_know():
    result = run("train", "shapes-eca-k4")
    assert result.exit_code == 1
    assert "the bundle has no shapes-eca-k4" in result.stderr
    for arguments in ((), ("--bundle", "shapes-none"), ("--bundle", "--survey")):
        result = run("train", *arguments)
        assert result.exit_code == 2
        assert "give the names of models, or --bundle" in result.stderr


@pytest.mark.parametrize("command", [("coverage", "--record"), ("interventions",)], ids=" ".join)
def test_a_data_folder_that_is_not_there_is_told_in_words(tmp_path, monkeypatch, command):
    monkeypatch.setenv("ECAVIZ_DATA", str(tmp_path / "nowhere"))
    result = run(*command)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith(f"ecaviz: no data folder at {tmp_path / 'nowhere'}. The bundled models live in ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [-1, 2**32, 10**20])
def test_a_seed_that_is_none_is_told_before_a_folder_is_made(tmp_path, seed):
    result = run("train", "shapes-none", "--seed", seed, "--out", tmp_path / "out", "--scratch", tmp_path / "scratch")
    assert result.exit_code == 1, result.output
    assert result.stderr == f"train: a seed must be a whole number from 0 to 4294967295, got {seed}.\n"
    assert list(tmp_path.iterdir()) == []


def test_more_images_or_threads_than_there_can_be_are_told_in_words(tmp_path):
    result = run("profile", "shapes-eca-k3", "shapes:99999999999999999999", "--out", tmp_path / "a.profile")
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("shapes: n must be a whole number from 0 to 4294967295, got 99999999999999999999.")
    result = run("train", "shapes-none", "--threads", 10**7)
    assert result.exit_code == 2, result.output
    assert "1024" in result.stderr
