"""Recorded results, recipes and the states of a training run that are broken."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import flipped, open_folder, seeds, sixteenths, someone_else
from recorder import CLEAR, RECOVERED, SAME, case

import ecaviz
from ecaviz import (
    bundle,
    bundle_training,
    coverage_records,
    intervention_records,
    kernel_study,
    published_tables,
    recipes,
    recorded_files,
    results,
    survey,
    training,
    training_states,
)
from ecaviz.networks import Architecture

GROUP = "Recorded results"
RESTORE = "git checkout"


def published(read):
    """Reads a table of ``data/published`` that lies in another folder."""

    def reading(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(published_tables, "folder", lambda: folder)
            return read()

    return reading


PUBLISHED = {
    **{f"{name}.csv": published(lambda name=name: survey.published(name)) for name in published_tables.COLUMNS},
    "pretrained.csv": published(lambda: ecaviz.available("timm")),
    "released_k.csv": published(ecaviz.rule_audit),
}
READERS = {
    "shapes.csv": lambda folder: results.runs(folder),
    "cifar10.csv": lambda folder: results.runs(folder, data="cifar10"),
    "coverage.csv": coverage_records.recorded,
    "locality.csv": coverage_records.recorded_locality,
    "interventions.csv": intervention_records.recorded,
    **PUBLISHED,
}
TABLES = pytest.mark.parametrize("name", READERS)


def original(name):
    """The folder that a table lies in."""
    return bundle.data_folder() / ("published" if name in PUBLISHED else "results")


@pytest.fixture
def folder(tmp_path, request):
    """A copy of the folder that the test's table lies in; of the recorded results where it has none."""
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    return Path(shutil.copytree(original(params.get("name")), tmp_path / "tables"))


@TABLES
@case(GROUP, "a table cut off at every sixteenth of its length, one byte short, or empty", expected=CLEAR)
def test_tables_cut_off(outcomes, folder, name):
    path = folder / name
    for part in (b"", *sixteenths(path.read_bytes())):
        path.write_bytes(part)
        with outcomes.clear_error(ValueError, path, "truncated or changed", RESTORE):
            READERS[name](folder)


@TABLES
@pytest.mark.parametrize("edit", [lambda c: c + b"\r\n", lambda c: b"\xef\xbb\xbf" + c], ids=["blank", "mark"])
@case(
    GROUP, "edited on purpose: a blank last line, or a byte-order mark; its line taken out of the sums", expected=SAME
)
def test_tables_edited(outcomes, folder, name, edit):
    whole = READERS[name](folder)
    sums = folder / recorded_files.SUMS
    sums.write_bytes(b"\n".join(b"" if name.encode() in one else one for one in sums.read_bytes().split(b"\n")))
    (folder / name).write_bytes(edit((folder / name).read_bytes()))
    assert READERS[name](folder).equals(whole)
    outcomes.happened(SAME)


@TABLES
@case(GROUP, "a table cut off at the end of a line", expected=CLEAR)
def test_tables_cut_off_at_a_line(outcomes, folder, name):
    path = folder / name
    lines = path.read_bytes().splitlines(keepends=True)
    for left in {1, 2, len(lines) // 2, len(lines) - 1} - {0, len(lines)}:
        path.write_bytes(b"".join(lines[:left]))
        with outcomes.clear_error(ValueError, path, "truncated or changed", RESTORE):
            READERS[name](folder)


@TABLES
@pytest.mark.parametrize("seeds", seeds(20, 400))
@case(GROUP, "bits, bytes or runs of 16 bytes of a table changed", expected=CLEAR)
def test_tables_changed(outcomes, folder, name, seeds):
    path = folder / name
    content = path.read_bytes()
    for seed in seeds:
        path.write_bytes(flipped(content, seed))
        with outcomes.clear_error(ValueError, path, "truncated or changed", RESTORE):
            READERS[name](folder)


@TABLES
@case(GROUP, "a table that is a folder, missing, or may not be read", expected=CLEAR)
def test_tables_not_there(outcomes, name):
    with open_folder() as folder:
        outcomes.watch(folder)
        path = folder / name
        with outcomes.clear_error(FileNotFoundError, path, RESTORE):
            READERS[name](folder)
        path.mkdir()
        with outcomes.clear_error(ValueError, path, "is a folder"):
            READERS[name](folder)
        path.rmdir()
        shutil.copy(original(name) / name, path)
        path.chmod(0)
        with someone_else(), outcomes.clear_error(PermissionError, path, "may not be read", "chmod"):
            READERS[name](folder)


@pytest.mark.parametrize("name", ["table2.csv", "kernel_size.csv"])
@case(GROUP, "a published table cut off that the study of k is laid beside", expected=CLEAR)
def test_what_is_laid_beside(outcomes, folder, name):
    path = folder / name
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    read = published(lambda: kernel_study.table("shapes"))
    with outcomes.clear_error(ValueError, path, "truncated or changed", RESTORE):
        read(folder)


@case(GROUP, "a web page, or the pointer of git-lfs, in the place of a published table", expected=CLEAR)
def test_pages_for_tables(outcomes, tmp_path):
    """In a folder without sums."""
    pages = b"<html>\n<body>log in, please</body>\n</html>\n", b"version https://git-lfs.github.com/spec/v1\noid 1\n"
    for name, read in PUBLISHED.items():
        for page in pages:
            (tmp_path / name).write_bytes(page)
            with outcomes.clear_error(ValueError, tmp_path / name, "truncated or changed", RESTORE):
                read(tmp_path)


@case(GROUP, "another table in its place: columns missing, words for numbers", expected=CLEAR)
def test_other_tables(outcomes, tmp_path):
    """In a folder without sums, as a user may have one."""
    for name, read in READERS.items():
        path = tmp_path / name
        whole = list(csv.DictReader(io.StringIO((original(name) / name).read_text("utf-8"))))
        numbers = ("accuracy", "rank", "mean", "energy", *published_tables.COLUMNS.get(path.stem, ((),))[0])
        number = next((key for key in whole[0] if key in numbers), None)  # table1.csv has none
        without = number or "no_reduction"
        for wrong in (
            [{"a": "1", "b": "2"}],
            [{key: value for key, value in row.items() if key != without} for row in whole],
            *([[row | {number: "many"} for row in whole]] if number else []),
        ):
            buffer = io.StringIO()
            writer = csv.DictWriter(buffer, list(wrong[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(wrong)
            path.write_text(buffer.getvalue(), "utf-8")
            with outcomes.clear_error(ValueError, path, RESTORE):
                read(tmp_path)


NO_NUMBERS = ("x", "", "1.5", "nan", "1e400", "9" * 30)


def column(path, name, value):
    """Write a value into the first row of a table, of which there is no sum."""
    (path.parent / recorded_files.SUMS).unlink(missing_ok=True)
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))
    rows[0][name] = value
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("value", NO_NUMBERS)
@case(
    GROUP, "words, nothing, parts, NaN and infinity for a seed or a number of images, read and added to", expected=CLEAR
)
def test_whole_numbers(outcomes, folder, value):
    first = next(csv.DictReader(io.StringIO((folder / "shapes.csv").read_text("utf-8"))))["name"]
    right = np.arange(50) % 2 == 0
    coverage = dict(next(csv.DictReader(io.StringIO((folder / "coverage.csv").read_text("utf-8")))))
    for table, name, uses in (
        ("shapes.csv", "test_images", [lambda: results.correct(first, folder), lambda: results.summary(folder=folder)]),
        ("shapes.csv", "parameters", [lambda: results.summary(folder=folder)]),
        ("shapes.csv", "seed", [lambda: results.correct(first, folder), lambda: results.record(RUN, right, folder)]),
        ("coverage.csv", "seed", [lambda: coverage_records.recorded(folder)]),
        ("coverage.csv", "seed", [lambda: coverage_records.record([coverage | {"seed": 9}], [], folder)]),
    ):
        path = folder / table
        shutil.copy(original(table) / table, path)
        column(path, name, value)
        for use in uses:
            with outcomes.clear_error(ValueError, path, f"{name} should be .*number", RESTORE):
                use()


@pytest.mark.parametrize("seeds", seeds(20, 500))
@case(
    GROUP,
    "the sums of the tables cut off at every sixteenth of their length, or changed",
    expected=f"{CLEAR}, or {SAME}",
)
def test_sums(outcomes, folder, seeds):
    path, whole = folder / recorded_files.SUMS, results.runs(folder)
    content = path.read_bytes()
    first = (b"", *sixteenths(content)) if 0 in seeds else ()
    for broken in (*first, *(flipped(content, seed) for seed in seeds)):
        path.write_bytes(broken)
        outcomes.attempt(
            lambda: results.runs(folder), ValueError, path.name, "truncated or changed", RESTORE, same=whole.equals
        )


ANSWERS = "cifar10-correct.safetensors"


@pytest.mark.parametrize("seeds", seeds(20, 500))
@case(GROUP, "the recorded answers, cut off or changed", expected=CLEAR)
def test_answers(outcomes, folder, seeds):
    path = folder / ANSWERS
    content = path.read_bytes()
    first = (b"", *sixteenths(content)) if 0 in seeds else ()
    for broken in (*first, *(flipped(content, seed) for seed in seeds)):
        path.write_bytes(broken)
        with outcomes.clear_error(ValueError, path, "truncated or changed", RESTORE):
            results.correct("cifar10-eca-k3", folder)


RUN = results.Run(
    name="shapes-se-r4",
    data="shapes",
    family="se",
    setting="r=4",
    recipe="shapes",
    digest="00000000",
    seed=0,
    epochs=1,
    train_images=10,
    seconds=2.5,
    hardware="CPU",
    test_images=50,
    accuracy=0.5,
    loss=1.25,
    parameters=1000,
)


STAY, WHOLE_AGAIN = f"{CLEAR}; the files stay", f"with whole files again, {RECOVERED}"
READABLE = f"readable, and {RECOVERED}"


@case(GROUP, "a run is recorded into a folder whose table or answers are broken", expected=f"{STAY}; {WHOLE_AGAIN}")
def test_recording_into_broken_files(outcomes, tmp_path):
    right = np.arange(50) % 2 == 0
    for seed in range(3):
        results.record(replace(RUN, seed=seed), right, tmp_path)
    for name in ("shapes.csv", "shapes-correct.safetensors"):
        path = tmp_path / name
        content = path.read_bytes()
        for part in (b"", content[: len(content) // 2], content[:-1], flipped(content, 1)):
            path.write_bytes(part)
            with outcomes.clear_error(ValueError, path, "truncated or changed", told=STAY):
                results.record(replace(RUN, seed=3), right, tmp_path)
        path.write_bytes(content)
    results.record(replace(RUN, seed=3), right, tmp_path)
    assert list(results.runs(tmp_path)["seed"]) == [0, 1, 2, 3]
    outcomes.then(WHOLE_AGAIN)


@case(GROUP, "stopped between any two of the files that recording a run writes", expected=READABLE)
def test_stopped_while_recording(outcomes, tmp_path, monkeypatch):
    right = np.arange(50) % 2 == 0
    results.record(RUN, right, tmp_path)
    replace_file, left = recorded_files.replace_file, 0

    def stopping(path, content):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        replace_file(path, content)

    for seed in range(1, 10):
        monkeypatch.setattr(recorded_files, "replace_file", stopping)
        left = writes = seed - 1
        with contextlib.suppress(KeyboardInterrupt):
            results.record(replace(RUN, seed=seed), right, tmp_path)
            break
        monkeypatch.undo()
        assert set(results.runs(tmp_path)["seed"]) >= set(range(seed))
        results.correct(RUN.name, tmp_path)
        results.record(replace(RUN, seed=seed), right, tmp_path)
        assert set(results.runs(tmp_path)["seed"]) == set(range(seed + 1))
        assert list(results.correct(RUN.name, tmp_path)) == list(range(seed + 1))
        outcomes.happened(READABLE)
    else:
        pytest.fail("recording never came to its end")
    assert writes > 1


# -------------------------------------------------------------------------------------------------------------- recipes

RECIPES = "Recipes"
FILES = sorted((bundle.data_folder() / "recipes").glob("*.toml"))
ANOTHER = "another recipe: a written one has no checksum, and recorded runs tell it by its digest"


def own(path):
    """What a recipe's file says, apart from its name: a digest that every recorded run has."""
    return recipes.read(path).recipe.digest


def check_recipe(outcomes, path, digest):
    outcomes.attempt(
        lambda: own(path),
        ValueError,
        path,
        same=lambda found: found == digest,
        otherwise=ANOTHER,
    )


@case(
    RECIPES,
    "cut off at every sixteenth of their length, and at every line",
    expected=f"{CLEAR}, {SAME}, or {ANOTHER}",
)
def test_recipes_cut_off(outcomes, tmp_path):
    for file in FILES:
        content, path, digest = file.read_bytes(), tmp_path / file.name, own(file)
        lines = content.splitlines(keepends=True)
        for part in (*sixteenths(content), *(b"".join(lines[:n]) for n in range(1, len(lines)))):
            path.write_bytes(part)
            check_recipe(outcomes, path, digest)


@pytest.mark.parametrize("seeds", seeds(60, 2000))
@case(
    RECIPES,
    "bits, bytes or runs of 16 bytes changed",
    expected=f"{CLEAR}, {SAME}, or {ANOTHER}",
)
def test_recipes_changed(outcomes, tmp_path, seeds):
    file = FILES[0]
    content, path, digest = file.read_bytes(), tmp_path / file.name, own(file)
    for seed in seeds:
        path.write_bytes(flipped(content, seed))
        check_recipe(outcomes, path, digest)


@case(RECIPES, "wrong types and impossible values", expected=CLEAR)
def test_wrong_values(outcomes, tmp_path):
    path = tmp_path / "mine.toml"
    for line in (
        "epochs = 0",
        "epochs = true",
        'epochs = "six"',
        "epochs = 1.5",
        "learning_rate = nan",
        "learning_rate = inf",
        "learning_rate = -1",
        "warmup = 2",
        "data = 3",
        'data = "imagenet"',
        'models = "all"',
        "models = [3]",
        "models = [[]]",
        "models = ['shapes-nonsense']",
        "seeds = []",
        "seeds = [-1]",
        "seeds = [true]",
        "seeds = 3",
        "network = 3",
        "network = {width = 3}",
        "more = 1",
        "epochs = 1979-05-27",
        f"a = {'[' * 5000}",
    ):
        path.write_text(line)
        with outcomes.clear_error(ValueError, path):
            recipes.read(path)


@case(RECIPES, "missing, a folder, no text, or may not be read", expected=CLEAR)
def test_no_recipes(outcomes):
    with open_folder() as folder:
        outcomes.watch(folder)
        path = folder / "mine.toml"
        with outcomes.clear_error(FileNotFoundError, path, "data/recipes"):
            recipes.read(path)
        path.mkdir()
        with outcomes.clear_error(ValueError, path, "is a folder"):
            recipes.read(path)
        path.rmdir()
        path.write_bytes(os.urandom(100) + b"\xff\xfe")
        with outcomes.clear_error(ValueError, path, "is not a TOML file"):
            recipes.read(path)
        path.write_text("epochs = 3")
        path.chmod(0)
        with someone_else(), outcomes.clear_error(PermissionError, path, "may not be read"):
            recipes.read(path)


# -------------------------------------------------------------------------------------------------- states of training

TRAINING = "Training that goes on from a file"
SMALL = Architecture("eca", {"kernel_size": 3}, classes=12, blocks=(1, 1, 1), planes=(4, 4, 8), stem=4)
RECIPE = recipes.Recipe(train_images=32, test_images=16, epochs=2, batch_size=16)


@pytest.fixture(scope="module")
def pictures():
    torch.manual_seed(0)
    return torch.randint(256, (48, 3, 32, 32), dtype=torch.uint8), torch.randint(12, (48,))


def run(pictures, state=None, epochs=2):
    pixels, labels = pictures
    data, test = (pixels[:32], labels[:32]), (pixels[32:], labels[32:])
    return training.train(SMALL, RECIPE, state=state, data=data, test=test, progress=False)


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """What a whole run gives, and the state after its first epoch."""
    path = tmp_path_factory.mktemp("training") / "state.pt"
    whole = run(pictures)
    save, kept = training_states.write, []
    training_states.write = lambda *args: (save(*args), kept.append(path.read_bytes()))
    try:
        run(pictures, path)
    finally:
        training_states.write = save
    return whole.net.state_dict(), kept[0]


def ends_alike(result, whole):
    return all(torch.equal(one, whole[key]) for key, one in result.net.state_dict().items())


AFRESH = "Delete it to start afresh"


@case(
    TRAINING,
    "the state cut off at every sixteenth of its length, or empty; then deleted, as the message says",
    expected=f"{CLEAR}; afresh, {SAME}; from the whole state, {SAME}",
)
def test_states_cut_off(outcomes, pictures, trained, tmp_path):
    whole, content = trained
    path = tmp_path / "state.pt"
    for part in (b"", *sixteenths(content)):
        path.write_bytes(part)
        with outcomes.clear_error(ValueError, path, "damaged", AFRESH):
            run(pictures, path)
    path.unlink()
    assert ends_alike(run(pictures, path), whole)
    outcomes.then(f"afresh, {SAME}")
    path.write_bytes(content)
    assert ends_alike(run(pictures, path), whole)
    outcomes.then(f"from the whole state, {SAME}")


@pytest.mark.parametrize("seeds", seeds(40, 1000))
@case(TRAINING, "bits, bytes or runs of 16 bytes of the state changed", expected=f"{CLEAR}, or {SAME} (padding)")
def test_states_changed(outcomes, pictures, trained, tmp_path, seeds):
    whole, content = trained
    path = tmp_path / "state.pt"
    for seed in seeds:
        path.write_bytes(flipped(content, seed))
        outcomes.attempt(
            lambda: run(pictures, path), ValueError, path, AFRESH, same=lambda end: ends_alike(end, whole), writes=True
        )


NOTHING_RUNS = f"{CLEAR}; nothing runs"


class Runs:
    def __init__(self, witness):
        self.witness = str(witness)

    def __reduce__(self):
        return os.mkdir, (self.witness,)


@case(TRAINING, "a state that would run code, or holds something else", expected=NOTHING_RUNS)
def test_other_states(outcomes, pictures, trained, tmp_path):
    path, witness = tmp_path / "state.pt", tmp_path / "witness"
    path.write_bytes(trained[1])
    right = torch.load(path, weights_only=True)
    net, optimizer = right["net"], right["optimizer"]
    for other in (
        right | {"more": Runs(witness)},
        [1, 2],
        torch.zeros(3),
        {},
        {"identity": right["identity"]},
        right | {"net": {}},
        right | {"net": 3},
        right | {"net": net | {"fc.weight": torch.zeros(3)}},
        right | {"net": {key: one.to(torch.complex64) for key, one in net.items()}},
        right | {"net": net | {"fc.bias": torch.full((12,), torch.nan)}},
        right | {"optimizer": {}},
        right | {"optimizer": optimizer | {"param_groups": []}},
        right | {"schedule": 3},
        right | {"epoch": "one"},
        right | {"epoch": 99},
        right | {"epoch": -1},
        right | {"history": 3},
        right | {"seconds": "long"},
    ):
        torch.save(other, path)
        with outcomes.clear_error(ValueError, path, "damaged", AFRESH, told=NOTHING_RUNS):
            run(pictures, path)
    assert not witness.exists()


@case(RECIPES, "a link to itself, and a name that is too long for a file", expected=CLEAR)
def test_recipes_that_lead_nowhere(outcomes, tmp_path):
    path = tmp_path / "mine.toml"
    path.symlink_to(path)
    for one in (path, tmp_path / ("x" * 300)):
        with outcomes.clear_error(FileNotFoundError, one, "a link that leads to itself|too long", "Give the file"):
            recipes.read(one)


@case(TRAINING, "the list of what is trained anew, cut off or no list", expected=CLEAR)
def test_redone(outcomes, tmp_path):
    path = tmp_path / "redone.json"
    for content in ("", "[", '[["shapes-none", 0, "d90', "3", "[3]", '[["a", 1]]', "null", "{", "[" * 100_000):
        path.write_text(content)
        with outcomes.clear_error(ValueError, path, "damaged", "Delete it"):
            bundle_training.train_bundled(["shapes-none"], redo=True, folder=tmp_path / "out", scratch=tmp_path)


@case(TRAINING, "a state that is a folder, or may not be read", expected=CLEAR)
def test_states_not_there(outcomes, pictures, trained):
    with open_folder() as folder:
        outcomes.watch(folder)
        path = folder / "state.pt"
        path.mkdir()
        with outcomes.clear_error(ValueError, path, "is a folder"):
            run(pictures, path)
        path.rmdir()
        path.write_bytes(trained[1])
        path.chmod(0)
        with someone_else(), outcomes.clear_error(PermissionError, path, "may not be read"):
            run(pictures, path)
