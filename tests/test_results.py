"""The results of training: kept, read back, and compared as the textbooks say."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from ecaviz import bundle, cifar10, networks, recorded_files, results, training, training_sets
from ecaviz.matches import NoWeights
from ecaviz.shapes import CLASSES, NEEDS

RUN = results.Run(
    name="a",
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
    accuracy_shape=0.4,
    accuracy_texture=0.5,
    accuracy_both=0.6,
)


def fill(folder, answers):
    """One run for each (name, seed), with these answers."""
    for (name, seed), right in answers.items():
        run = replace(RUN, name=name, seed=seed, accuracy=float(right.mean()), test_images=len(right))
        results.record(run, right, folder)


def random_answers(names, seeds, n=400):
    random = np.random.default_rng(0)
    return {
        (name, seed): random.uniform(size=n) < 0.6 + 0.1 * i + 0.03 * random.normal()
        for i, name in enumerate(names)
        for seed in range(seeds)
    }


def test_what_is_recorded_is_read_back(tmp_path):
    answers = random_answers(["b", "a"], 3, n=53)
    fill(tmp_path, answers)
    table = results.runs(tmp_path)
    assert list(zip(table["name"], table["seed"], strict=True)) == sorted(answers)
    for (name, seed), right in answers.items():
        assert np.array_equal(results.correct(name, tmp_path)[seed], right)
    assert table["seconds"].tolist() == [2.5] * 6
    fill(tmp_path, {("a", 1): ~answers["a", 1]})  # replaced, not added
    assert len(results.runs(tmp_path)) == 6
    assert np.array_equal(results.correct("a", tmp_path)[1], ~answers["a", 1])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        recorded_files.SUMS,
        "shapes-correct.safetensors",
        "shapes.csv",
    ]


def _record(folder, seed):
    results.record(replace(RUN, seed=seed), np.zeros(50, dtype=bool), folder)


def test_several_processes_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_record, args=(tmp_path, seed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results.runs(tmp_path)["seed"].tolist() == [0, 1, 2, 3]


def test_a_lock_left_behind_is_broken(tmp_path):
    (tmp_path / ".writing").touch()
    old = time.time() - 100
    os.utime(tmp_path / ".writing", (old, old))
    with bundle.alone(tmp_path):
        assert (tmp_path / ".writing").exists()
    assert not (tmp_path / ".writing").exists()


def test_a_lock_that_another_has_taken_over_meanwhile_is_left(tmp_path):
    """Who was away for too long finds the lock broken, and must not remove that of the next."""
    with bundle.alone(tmp_path):
        (tmp_path / ".writing").write_text("the next")
    assert (tmp_path / ".writing").read_text() == "the next"


def test_the_lock_lets_one_in_at_a_time(tmp_path):
    """Eight threads, each waiting for longer than one holds the lock."""
    inside, most = [], []

    def hold(i):
        with bundle.alone(tmp_path, stale=0.5):
            inside.append(i)
            most.append(len(inside))
            time.sleep(0.1)
            inside.remove(i)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, range(8)))
    assert most == [1] * 8
    assert list(tmp_path.iterdir()) == []


def test_runs_of_another_recipe_are_not_mixed_in(tmp_path):
    fill(tmp_path, {("a", 0): np.ones(8, dtype=bool)})
    with pytest.raises(ValueError, match=r"epochs = 6, and runs in .* are of 1\..*--out"):
        results.record(replace(RUN, seed=1, epochs=6, test_images=8), np.ones(8, dtype=bool), tmp_path)
    with pytest.raises(ValueError, match=r"answers to 8 test images were expected, got 9"):
        results.record(replace(RUN, seed=1, test_images=8), np.ones(9, dtype=bool), tmp_path)
    assert len(results.runs(tmp_path)) == 1
    results.record(replace(RUN, epochs=6, test_images=8), np.ones(8, dtype=bool), tmp_path)  # the only run: replaced
    assert results.runs(tmp_path)["epochs"].tolist() == [6]


def test_each_set_of_images_has_its_own_table(tmp_path):
    answers = random_answers(["cifar10-eca-k3", "cifar10-none", "shapes-se-r4"], 2, n=40)
    for (name, seed), right in answers.items():
        family, setting = {"eca": ("eca", "k=3"), "non": ("none", ""), "se-": ("se", "r=4")}[name.split("-", 1)[1][:3]]
        about = {"family": family, "setting": setting, "seed": seed, "accuracy": float(right.mean())}
        if name.startswith("cifar10"):
            about |= {"data": "cifar10-jpeg", "recipe": "cifar10-cpu"} | dict.fromkeys(
                ("accuracy_shape", "accuracy_texture", "accuracy_both")
            )
        results.record(replace(RUN, name=name, test_images=40, **about), right, tmp_path)
    table = results.runs(tmp_path, data="cifar10")
    wanted = ["data", "variant", "family", "k", "r", "seed", "epochs", "accuracy", "loss", "seconds", "hardware"]
    assert set(wanted) <= set(table.columns)
    assert not set(table.columns) & {"accuracy_shape", "accuracy_texture"}
    assert table[["name", "data", "variant", "k", "r", "seed"]].values.tolist() == [
        ["cifar10-none", "cifar10-jpeg", "none", "", "", 0],
        ["cifar10-none", "cifar10-jpeg", "none", "", "", 1],
        ["cifar10-eca-k3", "cifar10-jpeg", "eca-k3", "3", "", 0],
        ["cifar10-eca-k3", "cifar10-jpeg", "eca-k3", "3", "", 1],
    ]
    assert results.runs(tmp_path)[["variant", "k", "r"]].values.tolist() == [["se-r4", "", "4"]] * 2
    found = results.paired_difference("cifar10-eca-k3", "cifar10-none", folder=tmp_path)
    expected = np.mean([answers["cifar10-eca-k3", s].mean() - answers["cifar10-none", s].mean() for s in (0, 1)])
    assert found.mean == pytest.approx(expected)
    summary = results.summary(data="cifar10", folder=tmp_path)
    assert summary["name"].tolist() == ["cifar10-none", "cifar10-eca-k3"]
    assert set(summary["data"]) == {"cifar10-jpeg"}
    other = replace(RUN, name="cifar10-none", data="cifar10", recipe="cifar10-cpu", seed=2, test_images=40)
    with pytest.raises(ValueError, match=r"data = cifar10, and runs in .* are of cifar10-jpeg"):
        results.record(other, answers["cifar10-none", 0], tmp_path)
    other = replace(other, data="cifar10-jpeg", recipe="cifar10")
    with pytest.raises(ValueError, match=r"recipe = cifar10, and runs in .* are of cifar10-cpu"):
        results.record(other, answers["cifar10-none", 0], tmp_path)
    other = replace(other, recipe="cifar10-cpu", digest="11111111")
    with pytest.raises(ValueError, match=r"digest = 11111111, and runs in .* are of 00000000"):
        results.record(other, answers["cifar10-none", 0], tmp_path)
    with pytest.raises(ValueError, match="cifar10-none is no model of shapes"):
        replace(other, data="shapes")
    with pytest.raises(ValueError, match="were tested on different images"):
        results.paired_difference("shapes-se-r4", "cifar10-none", folder=tmp_path)
    with pytest.raises(ValueError, match="models of one set of images were expected"):
        results.summary(["shapes-se-r4", "cifar10-none"], folder=tmp_path)
    with pytest.raises(ValueError, match="data must be one of shapes, cifar10, got 'mnist'"):
        results.runs(tmp_path, data="mnist")


def at_odds(data, folder=None):
    """(name, seed) of the recorded runs whose accuracy is not the share of the images they are said to get right."""
    table = results.runs(folder, data=data)
    right = {name: results.correct(name, folder) for name in set(table["name"])}
    return [
        (row.name, row.seed)
        for row in table.itertuples(index=False)
        if abs(right[row.name][row.seed].mean() - row.accuracy) > 1e-5
    ]


def evaluated_anew(name, folder=None):
    """What is recorded of seed 0 of a model less what its checkpoint gives now: accuracy, loss; None without images."""
    table = results.runs(folder, data=training_sets.of(name).name)
    row = table[(table["name"] == name) & (table["seed"] == 0)].iloc[0]
    data = training_sets.of(name)
    if data.name == "cifar10" and not cifar10.is_here():
        return None
    test = data.read("test", row["test_images"])
    if test.data != row["data"]:
        return None
    architecture, state, _, _ = bundle.read(name)
    net = networks.build(architecture)
    net.load_state_dict(state)
    logits = training.logits(net, test.images, data=data.name)
    right = (logits.argmax(1) == test.labels).double().mean().item()
    loss = torch.nn.functional.cross_entropy(logits, test.labels).item()
    return row["accuracy"] - right, row["loss"] - loss


@pytest.mark.parametrize("name", ["shapes-se-r16", "cifar10-eca-k3"])
def test_a_recorded_row_evaluated_anew(name, tmp_path):
    found = evaluated_anew(name)
    if found is None:
        pytest.skip("the images of the results are not here: name the folder of CIFAR-10 in $ECAVIZ_CIFAR10")
    assert abs(found[0]) <= 0.001
    assert abs(found[1]) <= 0.002
    path = bundle.data_folder() / "results" / f"{training_sets.of(name).name}.csv"
    wrong = pd.read_csv(path)
    wrong.loc[(wrong["name"] == name) & (wrong["seed"] == 0), "accuracy"] += 0.002
    wrong.to_csv(tmp_path / path.name, index=False)
    assert abs(evaluated_anew(name, tmp_path)[0]) > 0.001


@pytest.mark.parametrize("data", training_sets.SETS)
def test_every_recorded_accuracy_is_that_of_the_recorded_answers(data, tmp_path):
    assert at_odds(data) == []
    folder = bundle.data_folder() / "results"
    for name in (f"{data}.csv", f"{data}-correct.safetensors"):
        shutil.copy(folder / name, tmp_path / name)
    wrong = pd.read_csv(tmp_path / f"{data}.csv")
    wrong.loc[3, "accuracy"] += 0.001
    wrong.to_csv(tmp_path / f"{data}.csv", index=False)
    assert at_odds(data, tmp_path) == [(wrong.loc[3, "name"], wrong.loc[3, "seed"])]


@pytest.mark.parametrize("data", training_sets.SETS)
def test_the_bundled_checkpoints_are_those_of_the_results(data):
    table = results.runs(data=data).set_index(["name", "seed"])
    for name, row in bundle.manifest().items():
        if training_sets.of(name).name == data:
            recorded = table.loc[(name, row.seed)]
            for what in ("data", "family", "setting", "epochs", "test_images", "accuracy", "parameters", "hardware"):
                assert recorded[what] == getattr(row, what), (name, what)


def test_a_level_is_a_share(tmp_path):
    fill(tmp_path, random_answers(["a", "b"], 2))
    for level in (95, 1.0, 0, -0.5):
        with pytest.raises(ValueError, match=r"level must lie between 0 and 1, such as 0.95; got"):
            results.paired_difference("a", "b", level=level, folder=tmp_path)
        with pytest.raises(ValueError, match="level must lie between 0 and 1"):
            results.summary(["a"], level=level, folder=tmp_path)


def test_answers_that_are_missing(tmp_path):
    fill(tmp_path, random_answers(["a"], 2))
    (tmp_path / "shapes-correct.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks the answers of a, seed 0.*git checkout"):
        results.correct("a", tmp_path)


def test_the_summary_against_scipy(tmp_path):
    answers = random_answers(["a", "b"], 5)
    fill(tmp_path, answers)
    table = results.summary(["b", "a"], folder=tmp_path).set_index("name")
    assert list(table.index) == ["b", "a"]
    for name in "ab":
        values = [answers[name, seed].mean() for seed in range(5)]
        low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
        assert table.loc[name, ["mean", "std", "low", "high"]].tolist() == pytest.approx(
            [np.mean(values), np.std(values, ddof=1), low, high]
        )
    fill(tmp_path, {("c", 0): answers["a", 0]})
    assert results.summary(folder=tmp_path)["name"].tolist() == ["a", "b"]  # those with a spread
    alone = results.summary(["c"], folder=tmp_path).iloc[0]
    assert np.isnan(alone["low"])
    assert alone["seeds"] == 1


def test_a_paired_difference_by_hand(tmp_path):
    answers = random_answers(["a", "b"], 4)
    fill(tmp_path, answers)
    found = results.paired_difference("b", "a", folder=tmp_path)
    d = np.array([answers["b", s].astype(float) - answers["a", s] for s in range(4)])
    assert found.by_seed == pytest.approx(d.mean(axis=1))
    assert found.mean == pytest.approx(d.mean())
    rest = d - d.mean(axis=1, keepdims=True) - d.mean(axis=0, keepdims=True) + d.mean()
    noise = (rest**2).sum() / (3 * 399)
    images = max(d.mean(axis=0).var(ddof=1) - noise / 4, 0)
    error = np.sqrt(d.mean(axis=1).var(ddof=1) / 4 + images / 400)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 3) * error)
    back = results.paired_difference("a", "b", folder=tmp_path)
    assert (back.mean, back.low) == pytest.approx((-found.mean, -found.high))
    wider = results.paired_difference("b", "a", level=0.99, folder=tmp_path)
    assert wider.low < found.low
    assert found.seeds == (0, 1, 2, 3)


def test_the_interval_holds_what_it_says(monkeypatch):
    """Simulated: a module's seeds vary, and its images; there is no difference: 95 % of the intervals hold zero."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        chance = 0.75 + random.normal(0, 0.02, (2, 5, 1)) + random.normal(0, 0.1, (2, 1, 300))
        drawn = random.uniform(size=(2, 5, 300)) < chance
        answers = {name: dict(enumerate(one)) for name, one in zip("ab", drawn, strict=True)}
        monkeypatch.setattr(results, "correct", lambda name, _folder, answers=answers: answers[name])
        found = results.paired_difference("a", "b")
        held += found.low <= 0 <= found.high
    assert 0.93 < held / 400 <= 0.99


@pytest.mark.parametrize(("low", "said"), [(0.01, "2 seeds)"), (-0.01, "2 seeds, not significant)")])
def test_a_difference_says_its_interval(low, said):
    found = results.Difference("a", "b", (0, 1), 10, (0.1, 0.02), 0.06, low, 0.11, 0.95)
    assert repr(found) == f"Difference(a − b: +6.0 points, 95 % interval {100 * low:+.1f} to +11.0, {said}"


def test_one_seed_says_nothing(tmp_path):
    answers = random_answers(["a", "b"], 1)
    fill(tmp_path, answers)
    found = results.paired_difference("a", "b", folder=tmp_path)
    assert not found.significant
    assert np.isnan(found.low)
    assert "one seed, no interval" in repr(found)


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*shapes\.csv.*git checkout"):
        results.runs(tmp_path)
    fill(tmp_path, {("a", 0): np.ones(8, dtype=bool), ("b", 1): np.ones(8, dtype=bool)})
    with pytest.raises(ValueError, match=r"no run of 'x' was recorded. Recorded: a, b"):
        results.correct("x", tmp_path)
    with pytest.raises(ValueError, match=r"no run of 'x' was recorded"):
        results.summary(["x"], folder=tmp_path)
    with pytest.raises(ValueError, match=r"'a' and 'b' have no seed in common: \[0\] and \[1\]"):
        results.paired_difference("a", "b", folder=tmp_path)


# ---------------------------------------------------------------------------------------------- the project's own runs


def test_the_recorded_runs_are_those_of_the_bundle():
    table = results.runs()
    manifest = bundle.manifest()
    first = table[table["seed"] == 0].set_index("name")
    assert list(first.index) == [name for name in bundle.BUNDLE if name.startswith("shapes-")]
    for name, row in first.iterrows():
        kept = manifest[name]
        assert (row["family"], row["setting"], row["parameters"]) == (kept.family, kept.setting, kept.parameters)
        assert row["accuracy"] == pytest.approx(kept.accuracy, abs=1e-5)
    for columns in ("epochs", "train_images", "test_images"):
        assert table[columns].nunique() == 1  # one recipe


def test_the_answers_are_those_of_the_table():
    table = results.runs()
    needs = np.array([NEEDS[name] for name in CLASSES])[np.arange(3600) % 12]
    for name, group in table.groupby("name"):
        right = results.correct(name)
        assert sorted(right) == sorted(group["seed"])
        for row in group.itertuples():
            assert right[row.seed].mean() == pytest.approx(row.accuracy, abs=1e-5)
            for need in ("shape", "texture", "both"):
                assert right[row.seed][needs == need].mean() == pytest.approx(
                    getattr(row, f"accuracy_{need}"), abs=1e-5
                )


def test_every_module_of_the_survey_has_its_seeds():
    table = results.runs()
    counts = table.groupby("name")["seed"].nunique()
    assert all(counts[name] >= 3 for name in bundle.SURVEY)
    assert set(bundle.SURVEY) <= set(bundle.BUNDLE)


def test_parameters_are_those_of_networks_built_anew():
    tables = [results.runs(data=data).drop_duplicates("name") for data in training_sets.SETS]
    for row in pd.concat(tables).itertuples():
        with NoWeights():
            net = networks.build(bundle.BUNDLE[row.name])
        assert sum(p.numel() for p in net.parameters()) == row.parameters, row.name


def test_the_same_function_from_the_same_seed_is_the_same_network():
    """Gather-Excite θ⁻ with the global extent is SE-Var1; a difference of nothing is nothing."""
    found = results.paired_difference("shapes-ge-theta-minus", "shapes-se-var1")
    assert set(found.by_seed) == {0.0}
    assert isinstance(results.runs(), pd.DataFrame)
