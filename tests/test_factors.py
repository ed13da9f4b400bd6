"""Mutual information against its definition and against real shuffles; what is planted, and nothing else."""

import math

import numpy as np
import pandas as pd
import pytest
from planted import BRIGHTNESS, CLASS, CLASSES, CONSTANT, Planted, PlantedImages, transform
from scipy import stats

import ecaviz
from ecaviz.adjusted import benjamini_hochberg
from ecaviz.factors import factor_information, factor_summary, levels_of
from ecaviz.gate_samples import GateSample, sample_gates

N = 96


def by_definition(a, b):
    """I(a; b) in bits, over pairs of values."""
    total = 0.0
    for x in set(a.tolist()):
        for y in set(b.tolist()):
            both = np.mean((a == x) & (b == y))
            if both:
                total += both * math.log2(both / (np.mean(a == x) * np.mean(b == y)))
    return total


@pytest.fixture(scope="module")
def made():
    """Gates of four channels: one follows the word, one the number, one nothing, one is constant."""
    random = np.random.default_rng(0)
    word, number = random.choice(["p", "q", "r"], N), random.random(N)
    gates = np.stack([(word == "q") + 0.1 * random.random(N), number**2, random.random(N), np.full(N, 0.5)], axis=1)
    frame = pd.DataFrame(
        {"label": 0, "class": "x", "needs": "y", "word": word, "number": number, "free": random.random(N)}
    )
    return GateSample({"a": gates}), frame


def table_of(made, **options):
    sample, frame = made
    return factor_information(sample, frame, progress=False, **options)


def octiles(values):
    """Bins of equal counts by rank."""
    return ((stats.rankdata(values, method="ordinal") - 1) * 8 / len(values)).astype(int)


def test_bits_are_those_of_the_definition(made):
    table = table_of(made, permutations=50).set_index(["factor", "channel"])
    sample, frame = made
    levels = {"word": frame["word"].to_numpy(), "number": octiles(frame["number"]), "free": octiles(frame["free"])}
    assert set(table.index.get_level_values(0)) == set(levels)
    for name, level in levels.items():
        for channel in range(3):
            expected = by_definition(octiles(sample.gates["a"][:, channel]), level)
            assert table.loc[(name, channel), "bits"] == pytest.approx(expected, abs=1e-9)
    assert table.loc[("number", 1), "bits"] > 2.9  # the same order: all eight bins
    assert (table["n"] == N).all()
    assert (table["excess"] == table["bits"] - table["chance"]).all()


def test_the_null_is_that_of_real_shuffles(made):
    table = table_of(made, permutations=4000).set_index(["factor", "channel"])
    sample, frame = made
    cut, random = octiles(sample.gates["a"][:, 2]), np.random.default_rng(5)
    null = np.array([by_definition(cut, random.permutation(frame["word"].to_numpy())) for _ in range(400)])
    found = table.loc[("word", 2)]
    assert found["chance"] == pytest.approx(null.mean(), abs=4 * null.std() / 20)
    assert found["p"] == pytest.approx(np.mean(null >= found["bits"]), abs=0.11)
    assert table.loc[("word", 0), "p"] == pytest.approx(1 / 4001)
    assert table.loc[("number", 1), "p"] == pytest.approx(1 / 4001)


def test_a_constant_gate_tells_nothing(made):
    table = table_of(made, permutations=50)
    constant = table[table["channel"] == 3]
    assert (constant[["bits", "chance", "excess"]] == 0).all(axis=None)
    assert (constant["p"] == 1).all()


def test_p_is_adjusted_as_scipy_does(made):
    table = table_of(made, permutations=200)
    np.testing.assert_allclose(table["p_adjusted"], stats.false_discovery_control(table["p"]))
    some = pd.Series([0.01, np.nan, 0.04, 0.03], index=[4, 2, 9, 7])
    found = benjamini_hochberg(some)
    assert found.index.tolist() == [4, 2, 9, 7]
    np.testing.assert_allclose(found, [0.03, np.nan, 0.04, 0.04])


def test_equal_gates_are_told_apart_by_lot_and_not_by_their_place():
    """Half of the gates are equal; the factor is the place in the set."""
    gates = np.where(np.arange(400) % 2, 0.5, np.random.default_rng(0).random(400))[:, None]
    table = factor_information(GateSample({"a": gates}), pd.DataFrame({"place": np.arange(400)}), progress=False)
    assert table["p"].iloc[0] > 0.01


def test_levels():
    hue = pd.Series([0.0, 0.99, 1.01, 0.26, -0.01], name="hue")
    assert levels_of(hue, 4, 1.0).tolist() == [0, 3, 0, 1, 3]  # arcs of a circle: 0 and 1 are one place
    assert levels_of(pd.Series(["b", "a", "b"]), 8).tolist() == [0, 1, 0]
    assert levels_of(pd.Series([True, False]), 8).tolist() == [0, 1]
    assert levels_of(pd.Series([5, 5, 5, 5, 5, 5, 2]), 3).tolist() == [1] * 6 + [0]  # few values are levels
    many = levels_of(pd.Series(np.random.default_rng(0).random(800)), 8)
    assert np.bincount(many).tolist() == [100] * 8
    ties = levels_of(pd.Series(np.r_[np.zeros(50), np.arange(1, 51)]), 4)
    assert len(set(ties[:50].tolist())) == 1  # equal values stay together
    with pytest.raises(ValueError, match="'hue' has 1 missing"):
        levels_of(pd.Series([0.5, np.nan], name="hue"), 8)


def test_the_factors_are_those_of_the_images_that_were_sampled(made):
    """A sample of some of the images finds their rows by their positions."""
    sample, frame = made
    some = np.random.default_rng(2).permutation(N)[:64]
    part = GateSample({"a": sample.gates["a"][some]}, positions=some)
    table = factor_information(part, frame[["word"]], permutations=20, progress=False)
    cut, word = octiles(sample.gates["a"][some][:, 0]), frame["word"].to_numpy()
    assert table["bits"].iloc[0] == pytest.approx(by_definition(cut, word[some]), abs=1e-9)
    assert table["bits"].iloc[0] > 2 * by_definition(cut, word[:64])  # in another order nothing would be left
    with pytest.raises(ValueError, match=r"there are 40 rows, and the sample has image 9\d.*images\.factors"):
        factor_information(part, frame.head(40), progress=False)
    with pytest.raises(ValueError, match="the frame has no factors; its columns: label, class"):
        factor_information(sample, frame[["label", "class"]], progress=False)


def test_summary_counts_what_the_table_says(made):
    table = table_of(made, permutations=500)
    summary = factor_summary(table).set_index("factor")
    own = table[table["factor"] == "word"]
    assert summary.loc["word", "excess"] == pytest.approx(own["excess"].mean())
    assert summary.loc["word", "above"] == (own["p_adjusted"] <= 0.05).mean()
    assert summary["leading"].to_dict() == {"word": 0.25, "number": 0.25, "free": 0}
    assert (summary["channels"] == 4).all()


@pytest.fixture(scope="module")
def planted():
    model = ecaviz.load(Planted(), transform=transform, classes=CLASSES)
    found = {}
    for shuffled in (False, True):
        images = PlantedImages(shuffled=shuffled)
        frame = pd.DataFrame({"brightness": images.brightness.numpy(), "label of the image": images.labels.numpy()})
        sample = sample_gates(model, images, progress=False)
        found[shuffled] = factor_information(sample, frame, progress=False)
    return found


def test_planted_brightness_is_found_and_nothing_else(planted):
    table = planted[False].query("site == 'late'").set_index(["factor", "channel"])
    assert table.loc["brightness", "excess"].idxmax() == BRIGHTNESS
    assert table.loc[("brightness", BRIGHTNESS), "excess"] > 2.5
    assert table.loc["label of the image", "excess"].idxmax() == CLASS
    assert table.loc[("brightness", CONSTANT), "p"] == 1
    sure = planted[False].query("p_adjusted <= 0.05")
    assert {(row.site, row.factor, row.channel) for row in sure.itertuples()} == {
        ("late", "brightness", BRIGHTNESS),
        ("late", "label of the image", CLASS),
    }
    leading = factor_summary(planted[False]).set_index(["site", "factor"])["leading"]
    assert leading["late"].to_dict() == {"brightness": 1 / 8, "label of the image": 1 / 8}
    assert (leading["early"] == 0).all()


def test_shuffled_labels_name_nothing(planted):
    table = planted[True].query("factor == 'label of the image'")
    assert (table["p_adjusted"] > 0.05).all()


def test_factors_of_the_procedural_set():
    """Its own frame: what goes round is known, what is no factor is passed by."""
    images = ecaviz.images.shapes("test", 48)
    sample = GateSample({"a": images.factors[["scale", "hue"]].to_numpy()})
    table = factor_information(sample, images.factors, permutations=200, bins=4, progress=False)
    best = table.loc[table.groupby("channel")["excess"].idxmax()].set_index("channel")["factor"]
    assert best.to_dict() == {0: "scale", 1: "hue"}
    assert not {"label", "class", "needs"} & set(table["factor"])
