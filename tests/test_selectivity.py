"""ω², η² and F against scipy and the gates; the interval by simulation; what is planted, and nothing else."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from made_profiles import gates_of_classes, profile_of
from planted import CLASS, CLASSES, CONSTANT, Planted, PlantedImages, transform
from scipy import stats

import ecaviz
from ecaviz import selectivity
from ecaviz.adjusted import holm
from ecaviz.gate_samples import GateSample, sample_gates
from ecaviz.gate_variance import variance_parts
from ecaviz.selectivity import channel_selectivity, selectivity_difference, site_selectivity

SIZES = (5, 30, 12, 21)


@pytest.fixture(scope="module")
def made():
    return gates_of_classes(SIZES, 5, noise=2.0)


def one_way(x, labels):
    """η², ω² and F of a channel, written out."""
    groups = [x[labels == g] for g in np.unique(labels)]
    between = sum(len(g) * (g.mean() - x.mean()) ** 2 for g in groups)
    within = sum(((g - g.mean()) ** 2).sum() for g in groups)
    square = within / (len(x) - len(groups))
    eta2 = between / (between + within)
    omega2 = (between - (len(groups) - 1) * square) / (between + within + square)
    return eta2, omega2, between / (len(groups) - 1) / square


def share_of_both(gates, labels):
    profile = profile_of({"a": torch.from_numpy(gates)}, torch.from_numpy(labels), int(labels.max()) + 1)
    return variance_parts(profile).set_index("part").loc["channel × class", "share"]


@pytest.fixture(scope="module")
def planted():
    model = ecaviz.load(Planted(), transform=transform, classes=CLASSES)
    sets = {shuffled: PlantedImages(shuffled=shuffled) for shuffled in (False, True)}
    return {
        shuffled: (
            ecaviz.profile(model, images, by="class", progress=False),
            sample_gates(model, images, progress=False),
        )
        for shuffled, images in sets.items()
    }


# ----------------------------------------------------------------------------------------------------------- by channel


def test_channels_are_what_scipy_says(made):
    gates, labels = made
    table = channel_selectivity(profile_of({"a": gates}, labels, len(SIZES) + 2))
    x, groups = gates.double().numpy(), labels.numpy()
    for channel in range(5):
        found = table.loc[channel]
        expected = stats.f_oneway(*(x[groups == g, channel] for g in range(len(SIZES))))
        assert found["F"] == pytest.approx(expected.statistic, rel=1e-9)
        assert found["p"] == pytest.approx(expected.pvalue, rel=1e-6)
        eta2, omega2, _ = one_way(x[:, channel], groups)
        assert found["eta2"] == pytest.approx(eta2, rel=1e-9)
        assert found["omega2"] == pytest.approx(omega2, rel=1e-9)
    assert (table["n"] == sum(SIZES)).all()
    assert (table["classes"] == len(SIZES)).all()
    assert (table["note"] == "").all()


def test_a_constant_gate_is_nan_and_a_perfect_one_is_one():
    labels = torch.arange(12) % 3
    gates = torch.stack([torch.full((12,), 0.3), 0.2 + 0.2 * labels, torch.rand(12)], dim=1)
    gates[0, 0] += 1e-7  # rounding
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = channel_selectivity(profile_of({"a": gates}, labels, 3))
    assert table.loc[0, ["eta2", "omega2", "F", "p"]].isna().all()
    assert table.loc[0, "note"] == "constant"
    assert table.loc[1, "omega2"] == pytest.approx(1)
    assert table.loc[1, "p"] == pytest.approx(0, abs=1e-12)
    assert table.loc[2, ["eta2", "omega2", "F", "p"]].notna().all()


@pytest.mark.parametrize(("sizes", "words"), [((1, 1, 1), "one image a class"), ((6,), "one class")])
def test_where_classes_cannot_be_told_apart_all_is_nan_with_a_note(sizes, words):
    gates, labels = gates_of_classes(sizes, 4)
    table = channel_selectivity(profile_of({"a": gates}, labels, len(sizes)))
    assert table[["eta2", "omega2", "F", "p"]].isna().all(axis=None)
    assert table["note"].str.contains(words).all()
    sample = GateSample({"a": gates.numpy()}, labels.numpy())
    table = site_selectivity(sample, progress=False)
    assert table[["value", "low", "high", "null", "null_95", "p", "p_adjusted"]].isna().all(axis=None)
    assert table["note"].str.contains(words).all()
    assert np.isnan(selectivity_difference(sample, "a", "a").mean)


# -------------------------------------------------------------------------------------------------------------- by site


def test_sites_are_what_the_gates_say(made):
    gates, labels = (one.numpy() for one in made)
    constant = np.concatenate([gates, np.full((len(gates), 1), 0.25, np.float32)], axis=1)
    table = site_selectivity(GateSample({"a": constant, "b": gates[:, :2]}, labels), permutations=20, progress=False)
    table = table.set_index(["site", "measure"])
    omega2 = [one_way(gates[:, c].astype(float), labels)[1] for c in range(5)]
    assert table.loc[("a", "omega2"), "value"] == pytest.approx(np.mean(omega2), rel=1e-9)
    assert table.loc[("a", "omega2"), "channels"] == 5  # the constant one is left out
    assert table.loc[("b", "omega2"), "value"] == pytest.approx(np.mean(omega2[:2]), rel=1e-9)
    for site, x in (("a", constant), ("b", gates[:, :2])):
        assert table.loc[(site, "channel × class"), "value"] == pytest.approx(share_of_both(x, labels), rel=1e-9)


def test_the_null_is_what_shuffled_labels_give_one_by_one(made):
    gates, labels = (one.numpy() for one in made)
    site = selectivity._Site(gates, labels)
    orders = np.concatenate(list(site._shuffled(7, seed=3)))
    found = site._of_labels(orders)
    assert {tuple(np.bincount(order)) for order in orders} == {SIZES}
    assert len({order.tobytes() for order in orders}) == 7
    for order, omega2, both in zip(orders, *found, strict=True):
        expected = np.mean([one_way(gates[:, c].astype(float), order)[1] for c in range(5)])
        assert omega2 == pytest.approx(expected, abs=1e-12)
        assert both == pytest.approx(share_of_both(gates, order), rel=1e-9)
    values, null = np.array([site.observed()[0]]), site._of_labels(np.concatenate(list(site._shuffled(200, 0))))[0]
    table = site_selectivity(GateSample({"a": gates}, labels), progress=False).iloc[0]
    assert table["null"] == pytest.approx(null.mean())
    assert table["null_95"] == pytest.approx(np.quantile(null, 0.95))
    assert table["p"] == pytest.approx((1 + (null >= values).sum()) / 201)
    assert abs(table["null"]) < 0.01  # ω² is nearly unbiased


def test_in_parts_as_in_one(made, monkeypatch):
    gates, labels = (one.numpy() for one in made)
    sample = GateSample({"a": gates}, labels)
    whole = site_selectivity(sample, progress=False)
    monkeypatch.setattr(selectivity, "_AT_ONCE", 1)
    np.testing.assert_allclose(site_selectivity(sample, progress=False)["null_95"], whole["null_95"], atol=0.02)


def test_the_jackknife_leaves_out_what_it_says(made):
    gates, labels = (one.numpy() for one in made)
    site = selectivity._Site(gates, labels)
    found = site.leave_out(5, seed=2)
    order = np.random.default_rng(2).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    for fold in range(5):
        keep = np.ones(len(labels), bool)
        keep[order[fold::5]] = False
        assert np.bincount(labels[~keep]).min() >= 1  # every class is among those that are left out
        expected = np.mean([one_way(gates[keep, c].astype(float), labels[keep])[1] for c in range(5)])
        assert found[0, fold] == pytest.approx(expected, abs=1e-12)
        assert found[1, fold] == pytest.approx(share_of_both(gates[keep], labels[keep]), rel=1e-9)
    error = np.sqrt(4 / 5 * ((found[0] - found[0].mean()) ** 2).sum())
    table = site_selectivity(GateSample({"a": gates}, labels), folds=5, seed=2, permutations=5, progress=False).iloc[0]
    assert table["high"] - table["value"] == pytest.approx(error * stats.t.ppf(0.975, 4))
    assert table["value"] - table["low"] == pytest.approx(error * stats.t.ppf(0.975, 4))


def simulated(random, means, sizes):
    """Gates whose noise is in part common to all channels, as that of a network is; and labels."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    common = 0.7 * random.standard_normal((len(labels), 1))
    return means[labels] + common + random.standard_normal((len(labels), means.shape[1])), labels


def coverage(runs, sizes, channels, strength, seed=0):
    """Share of 95 % intervals that hold the true mean ω², and its standard error if that is 0.95."""
    random = np.random.default_rng(seed)
    means = strength * random.standard_normal((len(sizes), channels))
    weight = np.array(sizes) / sum(sizes)
    between = weight @ (means - weight @ means) ** 2
    truth = (between / (between + 1 + 0.7**2)).mean()
    hits = []
    for run in range(runs):
        gates, labels = simulated(random, means, sizes)
        own = selectivity._Site(gates, labels)
        half = selectivity._jackknife_error(own.leave_out(20, run)[0]) * stats.t.ppf(0.975, 19)
        hits.append(abs(own.observed()[0] - truth) <= half)
    return np.mean(hits), np.sqrt(0.95 * 0.05 / runs)


def test_intervals_hold_the_truth_quick():
    found, error = coverage(200, (20,) * 6, 8, 0.5)
    assert 0.95 - 4 * error < found


@pytest.mark.long
@pytest.mark.parametrize("strength", [0.15, 0.5, 2.0])
@pytest.mark.parametrize("sizes", [(20,) * 6, (50,) * 12, (8, 20, 40, 90)], ids=["6×20", "12×50", "unbalanced"])
def test_intervals_hold_the_truth(sizes, strength):
    found, error = coverage(1000, sizes, 16, strength)
    assert 0.95 - 4 * error - 0.015 < found < 0.995


def test_a_difference_is_that_of_the_sites_and_paired(made):
    gates, labels = (one.numpy() for one in made)
    noise = gates + 1e-3 * np.random.default_rng(0).standard_normal(gates.shape)
    sample = GateSample({"a": gates, "b": noise, "c": gates[:, ::-1]}, labels)
    table = site_selectivity(sample, permutations=5, progress=False).query("measure == 'omega2'").set_index("site")
    found = selectivity_difference(sample, "a", "b")
    assert found.mean == pytest.approx(table.loc["a", "value"] - table.loc["b", "value"])
    assert found.high - found.low < 0.1 * (table.loc["a", "high"] - table.loc["a", "low"])  # what is common cancels out
    assert selectivity_difference(sample, "a", "c").mean == pytest.approx(0, abs=1e-12)
    other = GateSample({"a": gates[:, :1]}, labels, model="other")
    between = selectivity_difference(sample, "a", "a", other)
    assert between.second == "other a"
    assert "p =" in str(between)


# ------------------------------------------------------------------------------------------------------ what is planted


def test_planted_class_is_found_and_nothing_else(planted):
    profile, sample = planted[False]
    late = channel_selectivity(profile).query("site == 'late'").set_index("channel")
    assert late["omega2"].idxmax() == CLASS
    assert late.loc[CLASS, "omega2"] > 0.9
    assert late.loc[CLASS, "p"] < 1e-10
    assert np.isnan(late.loc[CONSTANT, "omega2"])
    assert late["omega2"].drop(CLASS).max() < 0.1
    table = site_selectivity(sample, progress=False).set_index(["measure", "site"])
    for measure in selectivity.MEASURES:
        assert table.loc[(measure, "late"), "p_adjusted"] < 0.05
        assert table.loc[(measure, "early"), "p_adjusted"] > 0.05
    assert table.loc[("omega2", "late"), "low"] > 0.05
    assert table.loc[("omega2", "early"), "low"] < 0 < table.loc[("omega2", "early"), "high"]
    assert table.loc[("omega2", "late"), "channels"] == 7
    found = selectivity_difference(sample, "late", "early")
    assert found.low > 0
    assert found.p < 0.001


def test_shuffled_labels_name_nothing(planted):
    profile, sample = planted[True]
    table = site_selectivity(sample, progress=False)
    assert (table["p_adjusted"] > 0.05).all()
    assert (holm(channel_selectivity(profile)["p"]).dropna() > 0.05).all()


def test_p_is_right_where_nothing_is_there():
    random = np.random.default_rng(1)
    p = []
    for run in range(200):
        gates, labels = simulated(random, np.zeros((4, 3)), (6,) * 4)
        sample = GateSample({"a": gates}, labels)
        p.append(site_selectivity(sample, permutations=39, seed=run, folds=3, progress=False)["p"].iloc[0])
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 200))


# -------------------------------------------------------------------------------------------------------------- refused


def test_what_is_refused(made):
    gates, labels = (one.numpy() for one in made)
    sample = GateSample({"a": gates}, labels)
    with pytest.raises(ValueError, match="site_selectivity: the images have no labels"):
        site_selectivity(GateSample({"a": gates}))
    with pytest.raises(ValueError, match="folds must be at least 3, got 2"):
        site_selectivity(sample, folds=2)
    with pytest.raises(ValueError, match="permutations must be a whole number of at least 1"):
        site_selectivity(sample, permutations=0)
    with pytest.raises(ValueError, match=r"level must lie between 0 and 1"):
        site_selectivity(sample, level=95)
    with pytest.raises(KeyError, match="no site 'z'; it has: a"):
        selectivity_difference(sample, "a", "z")
    with pytest.raises(ValueError, match="of the same images"):
        selectivity_difference(sample, "a", "a", dataclasses.replace(sample, labels=labels[::-1].copy()))
    with pytest.raises(ValueError, match=r"channel_selectivity: the profile pools"):
        channel_selectivity(
            ecaviz.profile(ecaviz.load(Planted(), transform=transform), PlantedImages(6), progress=False)
        )
