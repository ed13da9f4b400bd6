"""The survey: counts against the published ones, Table 1 by measurement, the observations against the results."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from ecaviz import attention, bundle, networks, results, survey
from ecaviz import comparison_plots as plots


def test_the_modules_are_those_of_build_and_of_the_bundle():
    assert [one.name for one in survey.MODULES] == [
        *("none", "se", "se-var1", "se-var2", "se-var3", "se-gc1", "se-gc2", "se-gc3", "eca-ns", "eca"),
        *("cbam", "gsop", "ge-theta-minus", "ge-theta", "ge-theta-plus"),
    ]
    assert {one.name for one in survey.MODULES} == set(attention.FAMILIES)
    assert [one.model for one in survey.MODULES] == _in_order(bundle.SURVEY)
    for one in survey.MODULES:
        assert bundle.BUNDLE[one.model].attention == one.name
        assert bundle.BUNDLE[one.model].options.get("reduction", 16) == 16
        assert bundle.BUNDLE[one.model].options.get("kernel_size", 3) == 3


def _in_order(names):
    place = {one.model: i for i, one in enumerate(survey.MODULES)}
    return sorted(names, key=place.__getitem__)


@pytest.mark.parametrize("module", survey.MODULES, ids=lambda one: one.name)
def test_added_parameters_are_those_of_the_network(module):
    """The structure's arithmetic against ResNet-50, built and counted."""
    count = survey.parameter_count(50, module.name, **module.options)[0]
    assert survey.added_parameters(module.name) == count - 25_557_032


def test_the_kept_statistics_are_two_numbers_a_normalised_channel():
    parameters, kept = survey.parameter_count(50, "none")
    net = networks.resnet(50)
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert kept == 2 * sum(m.num_features for m in norms) == 53_120
    assert parameters == sum(p.numel() for p in net.parameters())


def test_published_counts():
    """Which printed numbers are reproduced, in which unit: as found by hand in the sources."""
    table = survey.published_counts()
    assert len(table) == 29
    found = {(row.method, row.backbone, row.printed): (row.parameters, row.reproduced) for row in table.itertuples()}
    expected = {
        ("ResNet", "ResNet-18", "11.148"): (11_689_512, "2^20"),
        ("ResNet", "ResNet-34", "20.788"): (21_797_672, "2^20"),
        ("ResNet", "ResNet-50", "24.37"): (25_557_032, "2^20"),
        ("ResNet", "ResNet-101", "42.49"): (44_549_160, "2^20"),
        ("ResNet", "ResNet-152", "57.40"): (60_192_808, "2^20"),
        ("SENet", "ResNet-18", "11.231"): (11_776_552, "2^20"),
        ("SENet", "ResNet-34", "20.938"): (21_954_856, "2^20"),
        ("SENet", "ResNet-50", "26.77"): (28_071_976, "2^20"),
        ("SENet", "ResNet-101", "47.01"): (49_292_328, "2^20"),
        ("SENet", "ResNet-152", "63.68"): (66_770_984, "2^20"),
        ("ECA-Net", "ResNet-18", "11.148"): (11_689_512 + 44, "2^20"),
        ("ECA-Net", "ResNet-34", "20.788"): (21_797_672 + 72, "2^20"),
        ("ECA-Net", "ResNet-50", "24.37"): (25_557_032 + 80, "2^20"),
        ("ECA-Net", "ResNet-101", "42.49"): (44_549_160 + 157, "2^20"),
        ("ECA-Net", "ResNet-152", "57.40"): (60_192_808 + 234, "2^20"),
        ("CBAM", "ResNet-34", "20.943"): (21_960_468, "2^20"),
        ("CBAM", "ResNet-50", "26.77"): (28_089_624, "no"),
        ("CBAM", "ResNet-101", "47.01"): (49_330_172, "no"),
        ("GSoP-Net1", "ResNet-50", "28.05"): (28_285_224, "no"),
        ("GE-θ⁺", "ResNet-101", "58.4"): (58_323_224, "no"),
        ("MobileNetV2", "MobileNetV2", "3.34"): (3_504_872, "2^20"),
        ("SENet", "MobileNetV2", "3.40"): (3_561_800, "2^20"),
        ("ECA-Net", "MobileNetV2", "3.34"): (3_504_903, "2^20"),
        ("ResNet", "ResNet-50", "25.6"): (25_557_032, "10^6"),
        ("SENet, r = 2", "ResNet-50", "45.7"): (45_676_584, "10^6"),
        ("SENet, r = 4", "ResNet-50", "35.7"): (35_616_808, "10^6 with statistics"),
        ("SENet, r = 8", "ResNet-50", "30.7"): (30_586_920, "no"),
        ("SENet, r = 16", "ResNet-50", "28.1"): (28_071_976, "10^6"),
        ("SENet, r = 32", "ResNet-50", "26.9"): (26_814_504, "10^6 with statistics"),
    }
    assert found == expected
    recorded = survey.published("table3").dropna(subset=["parameters"])
    for row in recorded.itertuples():
        assert found[row.method, row.backbone, row.parameters_published][0] == row.parameters


def test_what_the_notes_of_the_tables_say():
    """CBAM without biases, and GSoP in three stages, are the numbers that the notes name."""
    assert survey.parameter_count(34, "cbam", bias=False)[0] == 21_956_456
    assert survey.parameter_count(50, "cbam", bias=False)[0] == 28_073_576
    assert survey.parameter_count(101, "cbam", bias=False)[0] == 49_295_628
    blocks = {256: 1, 512: 1, 1024: 1, 2048: 1}
    gsop = {c: survey.structure_of("gsop", c).parameters for c in blocks}
    assert 25_557_032 + sum(gsop.values()) - gsop[256] == 28_054_440
    assert round(28_054_440 / 1e6, 2) == 28.05
    assert round(28_073_576 / 2**20, 2) == 26.77


@pytest.mark.parametrize(
    ("printed", "count", "unit"),
    [
        ("24.37", 25_557_032, "2^20"),
        ("25.56", 25_557_032, "10^6"),
        ("25.61", 25_557_032, "10^6 with statistics"),
        ("25.5", 25_557_032, "no"),
        ("24.38", 25_557_032, "no"),
    ],
)
def test_units(printed, count, unit):
    values = {"2^20": count / 2**20, "10^6": count / 1e6, "with statistics": (count + 53_120) / 1e6}
    assert survey._unit(printed, values) == unit


@pytest.fixture(scope="module")
def answers():
    return survey.questions(128).set_index("title")


def test_table_1_is_what_is_measured(answers):
    """Of the seven modules of Table 1 that are here, every tick; A²-Net is not here."""
    listed = answers.dropna(subset=["said_no_reduction"])
    gsop = [f"GSoP, c = C/{part}" for part in (2, 4, 8, 16)]
    assert list(listed.index) == ["SE", "ECA", "CBAM", *gsop, "GE-θ⁻", "GE-θ", "GE-θ⁺"]
    for column in ("no_reduction", "cross_channel", "lighter_than_se"):
        differ = [row.Index for row in listed.itertuples() if getattr(row, column) != getattr(row, f"said_{column}")]
        expected = {"no_reduction": gsop[:2], "lighter_than_se": []}.get(column, [])
        assert [title for title in differ if (title, column) != ("SE", "lighter_than_se")] == expected
    assert answers.loc[gsop, "rank"].tolist()[2:] == [64, 32]  # 4c
    variants = {"SE-Var1": (True, False), "SE-Var2": (True, False), "SE-Var3": (True, True), "SE-GC2": (True, True)}
    for name, (whole, cross) in {**variants, "ECA-NS": (True, True)}.items():
        assert (answers.loc[name, "no_reduction"], answers.loc[name, "cross_channel"]) == (whole, cross)
    narrow = answers.loc[["SE", "CBAM", "GE-θ⁺"]]
    assert narrow["rank"].between(4, 8).all()  # C/r, less a unit that no input switches on
    assert (narrow["off_diagonal"] > 0.9).all()
    assert answers.loc["ECA", "off_diagonal"] == pytest.approx(2 * 127 / (128 * 127))


def test_questions_leave_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    survey._scaled("se", 32, 3, 2, 0, {})
    assert torch.equal(torch.rand(1), expected)


def test_costs_by_channels():
    table = survey.costs()
    assert len(table) == 14 * 4
    se = table[table["name"] == "se"].set_index("channels")
    assert se["parameters"].to_dict() == {256: 8192, 512: 32768, 1024: 131072, 2048: 524288}
    gsop = table[table["name"] == "gsop"].set_index("channels")
    assert gsop["parameters"].to_dict() == {256: 230_784, 512: 394_880, 1024: 723_072, 2048: 1_379_456}
    assert gsop["rank"].isna().all()
    # As the network runs it: stride 2 in the first stage, and a last stage that keeps its positions.
    assert gsop["side"].to_dict() == {256: 56, 512: 28, 1024: 14, 2048: 14}
    covariance = {256: 28**2, 512: 28**2, 1024: 14**2, 2048: 14**2}
    for c, positions in covariance.items():
        expected = positions * (128 * c + 128**2) + 4 * 128**2 + 4 * 128 * c
        assert gsop.loc[c, "multiply_adds"] == expected
    assert survey.costs(["eca"], [64, 300])["side"].tolist() == [56, 28]
    with pytest.raises(ValueError, match="no module is called 'sse'"):
        survey.structure_of("sse", 64)
    with pytest.raises(FileNotFoundError, match=r"there is no .*table9\.csv. Tables: adaptive_k, "):
        survey.published("table9")


def test_accuracies_lay_both_side_by_side():
    table = survey.accuracies().set_index("name")
    assert len(table) == 15
    assert table.loc["eca", "top1"] == 77.43
    assert table.loc["cbam", "top1"] == 77.34
    assert math.isnan(table.loc["ge-theta", "top1"])
    assert table.loc["none", ["extra", "added"]].tolist() == [0, 0]
    runs = results.runs()
    for row in table.itertuples():
        own = runs.loc[runs["name"] == row.model, "accuracy"]
        assert row.mean == pytest.approx(own.mean())
        assert row.added == bundle.manifest()[row.model].parameters - bundle.manifest()["shapes-none"].parameters


def test_the_three_observations():
    found = survey.observations()
    assert [claim for claim, *_ in found] == [
        "a gate without parameters beats no attention",
        "weights for each channel by itself beat no attention",
        "one full layer without reduction beats SE",
    ]
    assert [paper for *_, paper in found] == pytest.approx([0.80, 1.87, 0.71])
    pairs = [("shapes-se-var1", "shapes-none"), ("shapes-se-var2", "shapes-none"), ("shapes-se-var3", "shapes-se-r16")]
    for (_, one, _), (first, second) in zip(found, pairs, strict=True):
        assert (one.first, one.second) == (first, second)
        assert one.level == pytest.approx(1 - 0.05 / 3)
        assert one.mean == pytest.approx(results.paired_difference(first, second).mean)


# ---------------------------------------------------------------------------------------------------------------- plots


@pytest.fixture
def ax():
    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    yield ax
    plt.close(figure)


def test_accuracy_by_module_draws_every_seed(ax):
    table, runs = survey.accuracies(), results.runs()
    plots.accuracy_by_module(table, runs, ax=ax)
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    ordered = table.sort_values("mean")
    assert labels == [f"{row.title} ({row.seeds})" for row in ordered.itertuples()]
    ticks = [line for line in ax.lines if line.get_marker() == "|"]
    assert len(ticks) == 15
    for line, model in zip(ticks, ordered["model"], strict=True):
        assert sorted(line.get_xdata()) == pytest.approx(sorted(100 * runs.loc[runs["name"] == model, "accuracy"]))


def test_accuracy_by_module_of_means_alone(ax):
    table = survey.accuracies()
    plots.accuracy_by_module(table, ax=ax)
    means = [line for line in ax.lines if len(line.get_xdata()) == 1]
    assert [line.get_xdata()[0] for line in means] == pytest.approx(sorted(100 * table["mean"]))
    assert not any(line.get_marker() == "|" for line in ax.lines)


@pytest.mark.parametrize("kind", ["published", "measured"])
def test_accuracy_by_parameters_names_every_point_once(ax, kind):
    table = survey.accuracies()
    options = {"y": "top1", "scale": 1} if kind == "published" else {"x": "added"}
    plots.accuracy_by_parameters(table, **options, ax=ax)
    shown = table.dropna(subset=["top1"]) if kind == "published" else table
    points = [line for line in ax.lines if line.get_marker() not in ("None", "", None)]
    assert len(points) == len(shown) == (12 if kind == "published" else 15)
    texts = [text for text in ax.texts if text.get_text()]
    assert sorted(text.get_text() for text in texts) == sorted(shown["title"])
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in texts]
    window = ax.figure.bbox
    for i, box in enumerate(boxes):
        assert window.x0 <= box.x0
        assert box.x1 <= window.x1
        inner = box.padded(-1.5)  # letters are a pixel wider under some versions of matplotlib
        assert not any(inner.overlaps(other) for other in boxes[i + 1 :]), texts[i].get_text()


@pytest.mark.parametrize("value", ["parameters", "multiply_adds"])
def test_cost_by_channels(ax, value):
    table = survey.costs()
    plots.cost_by_channels(table, value, ax=ax)
    lines = {line.get_label(): line for line in ax.lines}
    assert len(lines) == 14
    assert "SE-Var1: none" in lines
    eca = table[table["name"] == "eca"]
    assert lines["ECA"].get_ydata().tolist() == eca[value].tolist()
    with pytest.raises(ValueError, match=r"value must be .* got 'flops'"):
        plots.cost_by_channels(table, "flops", ax=ax)


def test_differences_say_what_is_not_significant(ax):
    clear = results.Difference("a", "b", (0, 1), 10, (0.1, 0.1), 0.1, 0.05, 0.15, 0.95)
    unclear = results.Difference("c", "b", (0, 1), 10, (0.1, -0.05), 0.025, -0.2, 0.25, 0.95)
    plots.differences([clear, unclear], published=[1.0, 2.0], ax=ax)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a − b", "c − b"]
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["+10.0 (+5.0 to +15.0)", "+2.5 (-20.0 to +25.0, not significant)"]
    faces = [line.get_markerfacecolor() for line in ax.lines if line.get_marker() == "o"]
    assert faces[1] == "white"
    assert faces[0] != "white"
    diamonds = [line for line in ax.lines if line.get_marker() == "D"]
    assert [list(line.get_xdata()) for line in diamonds] == [[1, 2]]
    ax.clear()
    plots.differences([clear, unclear], ax=ax)
    assert not any(line.get_marker() == "D" for line in ax.lines)
    for arguments in (([],), ([clear], ["x", "y"])):
        with pytest.raises(ValueError, match="equally many"):
            plots.differences(*arguments, ax=ax)
    assert np.isfinite(ax.get_xlim()).all()


def test_matrices_beside_each_other():
    matrices = {name: survey.structure_of(name, 32).matrix for name in ("se", "eca", "se-gc2")}
    figure = plots.matrix_grid(matrices, columns=2, title="three")
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in shown] == list(matrices)
    for ax, matrix in zip(shown, matrices.values(), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), matrix.numpy())
    assert len(figure.axes) == 4
    assert figure.get_suptitle() == "three"
    assert plots.matrix_grid(matrices).get_suptitle() == ""
    with pytest.raises(ValueError, match="no matrix to draw"):
        plots.matrix_grid({})
    with pytest.raises(ValueError, match=r"x: a matrix C×C was expected, got shape \(2, 3\)"):
        plots.matrix_grid({"x": torch.zeros(2, 3)})
