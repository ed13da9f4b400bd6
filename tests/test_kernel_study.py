"""The trained study of k: its tables against the recorded runs, its test of k against brute force."""

import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ecaviz import bundle, kernel_study, plots, recorded_files, results, training_sets


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Results in which k has an effect on CIFAR-10, 2 points a step, and seeds scatter by 5, alike for all k."""
    shutil.copytree(bundle.data_folder() / "published", tmp_path / "published")
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("ECAVIZ_DATA", str(tmp_path))
    random = np.random.default_rng(0)
    shift = dict(enumerate(random.normal(0, 0.05, 3)))
    for step, name in enumerate(["none", *(f"eca-k{k}" for k in (1, 3, 5, 9)), "se-r16"]):
        for seed in range(2 if name == "se-r16" else 3):
            right = random.uniform(size=2000) < 0.6 + 0.02 * step + shift[seed]
            architecture = bundle.BUNDLE[f"cifar10-{name}"]
            results.record(
                results.Run(
                    name=f"cifar10-{name}",
                    data="cifar10-jpeg",
                    family=architecture.attention,
                    setting=bundle.setting(architecture),
                    recipe="cifar10-cpu",
                    digest="00000000",
                    seed=seed,
                    epochs=1,
                    train_images=10,
                    seconds=1.0,
                    hardware="CPU",
                    test_images=2000,
                    accuracy=round(float(right.mean()), 5),
                    loss=1.0,
                    parameters=10,
                ),
                right,
            )
    return tmp_path


@pytest.mark.parametrize("data", training_sets.SETS)
def test_the_table_is_of_the_recorded_runs(data):
    table, runs = kernel_study.table(data), results.runs(data=data)
    assert table["variant"].tolist() == kernel_study.recorded(data)
    assert {"none", "eca-k1", "eca-k3", "eca-k9", "se-r16"} <= set(table["variant"])
    for row in table.itertuples():
        own = runs[runs["variant"] == row.variant]
        assert row.seeds == len(own) >= 3
        assert row.mean == pytest.approx(own["accuracy"].mean())
        assert row.loss == pytest.approx(own["loss"].mean())
        half = stats.t.ppf(0.975, len(own) - 1) * stats.sem(own["accuracy"])
        assert (row.low, row.high) == pytest.approx((row.mean - half, row.mean + half))
    assert set(table["data"]) <= {data, f"{data}-jpeg"}


def test_the_published_numbers_are_those_of_the_papers_tables():
    table = kernel_study.table("shapes").set_index("variant")["published"]
    assert table[["none", "eca-k3", "eca-adaptive", "se-r16", "se-var3"]].tolist() == [
        75.20,
        77.43,
        77.48,
        76.71,
        77.42,
    ]
    assert table[["eca-k1", "eca-k9", "se-r4"]].isna().all()


def test_differences_are_paired_and_hold_together(planted):
    found = dict(zip(["none", "eca-k1", "eca-k5", "eca-k9"], kernel_study.differences("cifar10"), strict=True))
    for variant, (difference, printed) in found.items():
        expected = results.paired_difference(f"cifar10-{variant}", "cifar10-eca-k3", level=1 - 0.05 / 4)
        assert difference == expected
        assert (printed == pytest.approx(75.20 - 77.43)) if variant == "none" else np.isnan(printed)
    alone = kernel_study.differences("cifar10", "none", together=False)
    assert alone[0][0].level == 0.95
    assert len(alone) == 4
    with pytest.raises(ValueError, match=r"'se-r16' is not recorded on cifar10 often enough: none, eca-k1"):
        kernel_study.differences("cifar10", "se-r16")  # two seeds


def test_the_permutation_test_against_brute_force():
    values = np.random.default_rng(0).normal(size=(3, 4))
    found, exact = kernel_study.permutation_test(values)
    statistics = [
        np.mean([row[list(order)] for row, order in zip(values, orders, strict=True)], axis=0).var()
        for orders in itertools.product(itertools.permutations(range(4)), repeat=3)
    ]
    assert exact
    assert found == pytest.approx(np.mean([one >= values.mean(0).var() - 1e-12 for one in statistics]))
    many = np.random.default_rng(1).normal(size=(6, 4)) + np.array([0, 0, 0, 0.8])
    drawn, exact = kernel_study.permutation_test(many)
    assert not exact
    other = stats.permutation_test(
        tuple(many.T),
        lambda *columns, axis: np.var([one.mean(axis=axis) for one in columns], axis=0),
        permutation_type="samples",
        n_resamples=20_000,
        alternative="greater",
        vectorized=True,
        random_state=np.random.default_rng(0),
    ).pvalue
    assert drawn == pytest.approx(other, abs=0.02)


def test_p_is_uniform_where_there_is_no_effect():
    random = np.random.default_rng(3)
    found = [
        kernel_study.permutation_test(random.normal(size=(3, 4)) + random.normal(size=(3, 1)))[0] for _ in range(300)
    ]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_an_effect_of_k_is_found_and_its_size_told(planted):
    found = kernel_study.effect_of_k("cifar10")
    assert (found.sizes, found.seeds, found.exact) == (("1", "3", "5", "9"), (0, 1, 2), True)
    assert found.data == "cifar10-jpeg"
    runs = results.runs(data="cifar10")
    means = runs[runs["family"] == "eca"].groupby("k", sort=False)["accuracy"].mean()
    assert found.means == pytest.approx(means.tolist())
    assert found.largest == pytest.approx(means.max() - means.min())
    assert found.p < 0.05
    values = runs[runs["family"] == "eca"].pivot(index="seed", columns="k", values="accuracy").to_numpy()
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    assert found.within == pytest.approx(np.sqrt((rest**2).sum() / 6))
    with pytest.raises(ValueError, match=r"at least two k with 3 seeds are needed on cifar10, got 1"):
        kernel_study.effect_of_k("cifar10", (3, 7))


def test_what_the_sets_are_called(planted):
    assert kernel_study.data_title("cifar10") == "CIFAR-10 (JPEG copy)"


@pytest.mark.parametrize("published", [True, False])
def test_accuracy_by_variant(published):
    import matplotlib.pyplot as plt

    table, runs = kernel_study.table("shapes"), results.runs()
    figure, ax = plt.subplots()
    assert plots.accuracy_by_variant(table, runs, published=published, ax=ax) is ax
    means = [line for line in ax.lines if line.get_marker() not in ("_", "None")]
    assert [line.get_ydata()[0] for line in means] == pytest.approx((100 * table["mean"]).tolist())
    dashes = [line for line in ax.lines if line.get_marker() == "_"]
    assert sum(len(line.get_ydata()) for line in dashes) == table["seeds"].sum()
    others = [one for one in figure.axes if one is not ax]
    assert len(others) == published
    if published:
        low, high = ax.get_ylim()
        assert np.diff(others[0].get_ylim())[0] == pytest.approx(high - low)  # a point is as long on both
        drawn = others[0].lines[0].get_ydata()
        assert np.array_equal(drawn, table["published"], equal_nan=True)
    plt.close(figure)


def test_accuracy_by_variant_of_means_alone():
    import matplotlib.pyplot as plt

    table = kernel_study.table("shapes")
    figure, ax = plt.subplots()
    plots.accuracy_by_variant(table, ax=ax)
    assert not any(line.get_marker() == "_" for line in ax.lines)
    means = [line.get_ydata()[0] for line in ax.lines if line.get_marker() != "None"]
    assert means == pytest.approx((100 * table["mean"]).tolist())
    plt.close(figure)


@pytest.mark.parametrize("data", training_sets.SETS)
def test_every_variant_with_three_seeds_is_shown(data):
    seeds = results.runs(data=data).groupby("variant")["seed"].nunique()
    enough = set(seeds[seeds >= 3].index) & set(kernel_study.VARIANTS)
    assert set(kernel_study.recorded(data)) == enough
    assert [one for one in kernel_study.VARIANTS if one in enough] == kernel_study.recorded(data)


def test_too_few_runs_are_told(tmp_path, monkeypatch):
    shutil.copytree(bundle.data_folder() / "published", tmp_path / "published")
    shutil.copytree(bundle.data_folder() / "results", tmp_path / "results")
    table = pd.read_csv(tmp_path / "results" / "cifar10.csv")
    table[table["seed"] == 0].to_csv(tmp_path / "results" / "cifar10.csv", index=False)
    (tmp_path / "results" / recorded_files.SUMS).unlink()
    monkeypatch.setenv("ECAVIZ_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="no variant has 3 runs on cifar10"):
        kernel_study.table("cifar10")
    with pytest.raises(ValueError, match="at least two k with 3 seeds are needed"):
        kernel_study.effect_of_k("cifar10")
