"""The four parts of variance against least squares on the gates themselves, and on a network where they are planted."""

import numpy as np
import pytest
import torch
from made_profiles import gates_of_classes, profile_of
from planted import CHANNELS, CLASS, Planted, PlantedImages, transform
from scipy import stats

import ecaviz
from ecaviz.gate_variance import PARTS, gate_spread, variance_parts

SIZES = (3, 17, 40, 9)  # unbalanced, and class 4 has no images


def residual(response, *factors):
    """Sum of squares that dummies for these factors leave, by least squares."""
    columns = [np.ones((len(response), 1))]
    columns += [(factor[:, None] == np.unique(factor)).astype(float) for factor in factors]
    design = np.concatenate(columns, axis=1)
    fitted = design @ np.linalg.lstsq(design, response, rcond=None)[0]
    return ((response - fitted) ** 2).sum()


@pytest.fixture(scope="module")
def made():
    gates, labels = gates_of_classes(SIZES, 6)
    return gates, labels, profile_of({"a": gates, "b": gates[:, :2] ** 2}, labels, len(SIZES) + 1)


def test_parts_are_those_of_a_two_way_analysis(made):
    gates, labels, profile = made
    for site, gate in (("a", gates), ("b", gates[:, :2] ** 2)):
        n, channels = gate.shape
        response = gate.double().numpy().ravel()
        channel = np.tile(np.arange(channels), n)
        group = np.repeat(labels.numpy(), channels)
        left = [
            residual(response),
            residual(response, channel),
            residual(response, channel, group),
            residual(response, channel + channels * group),
        ]
        expected = [left[0] - left[1], left[1] - left[2], left[2] - left[3], left[3]]
        table = variance_parts(profile)
        table = table[table["site"] == site].set_index("part")
        assert list(table.index) == list(PARTS)
        np.testing.assert_allclose(table["variance"] * n * channels, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(table["share"], np.array(expected) / left[0], rtol=1e-9)
        assert table["variance"].sum() == pytest.approx(gate.double().var(correction=0).item(), rel=1e-9)
        assert (table["n"] == n).all()
        assert (table["classes"] == len(SIZES)).all()  # the one without images counts for none
        assert min(expected) > 1e-3 * left[0]  # or a part could be missing unseen


def between(values, groups):
    """The sum of squares between groups from scipy's F: SS_b = SS_t · F·d / (F·d + d'), d and d' its degrees."""
    parts = [values[groups == g] for g in np.unique(groups)]
    ratio = stats.f_oneway(*parts).statistic * (len(parts) - 1)
    return ((values - values.mean()) ** 2).sum() * ratio / (ratio + len(values) - len(parts))


def test_parts_are_those_of_scipys_analyses_of_variance(made):
    """One-way ones: of all gates by channel, of the images' means by class, of each channel by class."""
    gates, labels, profile = made
    for site, gate in {"a": gates, "b": gates[:, :2] ** 2}.items():
        x, group = gate.double().numpy(), labels.numpy()
        n, channels = x.shape
        channel = between(x.ravel(), np.tile(np.arange(channels), n))
        whole = channels * between(x.mean(axis=1), group)
        by_channel = sum(between(x[:, c], group) for c in range(channels))
        total = ((x - x.mean()) ** 2).sum()
        expected = np.array([channel, whole, by_channel - whole, total - channel - by_channel])
        table = variance_parts(profile)
        table = table[table["site"] == site].set_index("part").loc[list(PARTS)]
        np.testing.assert_allclose(table["variance"] * n * channels, expected, rtol=1e-8)
        np.testing.assert_allclose(table["share"], expected / total, rtol=1e-8)


def test_by_chance_is_what_shuffled_labels_hold_on_average(made):
    gates, labels, profile = made
    own = variance_parts(profile).query("site == 'a'")
    random = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        mixed = labels[torch.randperm(len(labels), generator=random)]
        table = variance_parts(profile_of({"a": gates}, mixed, len(SIZES))).set_index("part")["share"]
        found.append(table["class"] + table["channel × class"])
    assert own["by_chance"].nunique() == 1
    assert own["by_chance"].iloc[0] == pytest.approx(np.mean(found), abs=4 * np.std(found) / 20)
    assert own["by_chance"].iloc[0] > 4 * 4 * np.std(found) / 20  # the check is sharp


@pytest.mark.parametrize(("sizes", "words"), [((1, 1, 1), "one image a class"), ((5,), "one class")])
def test_where_classes_cannot_be_told_apart_the_table_says_so(sizes, words):
    gates, labels = gates_of_classes(sizes, 4)
    table = variance_parts(profile_of({"a": gates}, labels, len(sizes))).set_index("part")
    assert table["share"].drop("channel").isna().all()
    assert table["by_chance"].isna().all()
    assert table["note"].str.contains(words).all()
    whole = gates.double()
    share = whole.mean(0).var(correction=0) / whole.var(correction=0)
    assert table.loc["channel", "share"] == pytest.approx(float(share))


def test_gates_that_never_move_have_no_share_and_no_warning():
    gates, labels = torch.full((6, 3), 0.5), torch.arange(6) % 2
    table = variance_parts(profile_of({"a": gates}, labels, 2))
    assert (table["variance"] == 0).all()
    assert table["share"].isna().all()


def test_planted_parts_are_found():
    model = ecaviz.load(Planted(), transform=transform, classes=PlantedImages.classes)
    tables = {
        shuffled: variance_parts(
            ecaviz.profile(model, PlantedImages(shuffled=shuffled), by="class", progress=False)
        ).set_index(["site", "part"])
        for shuffled in (False, True)
    }
    share, chance = tables[False]["share"], tables[False]["by_chance"]
    late = share["late", "class"] + share["late", "channel × class"]
    assert late > 5 * chance["late", "class"]
    # One channel of C carries it: of its variance C·v the mean of all channels sees v.
    assert share["late", "class"] / late == pytest.approx(1 / CHANNELS, abs=0.02)
    assert CLASS == 0
    none = [(tables[False], "early"), (tables[True], "early"), (tables[True], "late")]
    for table, site in none:  # nothing is about the class: what is found is about what chance gives
        found = table["share"][site, "class"] + table["share"][site, "channel × class"]
        assert found < 3 * table["by_chance"][site, "class"]


def test_spread_is_what_the_gates_say_and_the_parts_too(made):
    gates, _, profile = made
    x = gates.double().numpy()
    found = gate_spread(profile).set_index("site").loc["a"]
    assert found["mean"] == pytest.approx(x.mean())
    assert found["between_channels"] == pytest.approx(x.mean(0).std())
    assert found["over_images"] == pytest.approx(np.sqrt(x.var(0).mean()))
    parts = variance_parts(profile).query("site == 'a'").set_index("part")["variance"]
    assert found["between_channels"] == pytest.approx(np.sqrt(parts["channel"]))
    assert found["over_images"] == pytest.approx(np.sqrt(parts.drop("channel").sum()))
    assert (found["n"], found["channels"]) == (len(x), 6)


def test_a_profile_that_pools_is_refused():
    model = ecaviz.load(Planted(), transform=transform)
    with pytest.raises(ValueError, match=r'variance_parts: the profile pools all images.*by="class"'):
        variance_parts(ecaviz.profile(model, PlantedImages(12), progress=False))
