"""The pictures of what moves the gates: what the artists hold and what the texts say, not pixels."""

import numpy as np
import pandas as pd
import pytest
import torch
from made_profiles import gates_of_classes, profile_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ecaviz import plots
from ecaviz.blocks import blocks_of, last_of_stages
from ecaviz.factors import factor_information, factor_summary
from ecaviz.gate_samples import GateSample
from ecaviz.gate_variance import PARTS, variance_parts
from ecaviz.looks import styles
from ecaviz.selectivity import site_selectivity

SITES = [f"layer{i}.{j}.se" for i in (1, 2) for j in (0, 1)]
SIZES = (8, 20, 12)


def made(family="se", seed=0, sizes=SIZES):
    gates = {site: gates_of_classes(sizes, 70, seed)[0] for site in SITES}
    return profile_of(gates, gates_of_classes(sizes, 70, seed)[1], len(sizes), family), gates


@pytest.fixture(scope="module")
def profile():
    return made()[0]


def sampled(family="se", seed=0, labels=None):
    gates, found = made(family, seed)[1], gates_of_classes(SIZES, 70, seed)[1].numpy()
    return GateSample(
        {name: one.numpy() for name, one in gates.items()},
        found if labels is None else labels,
        families=dict.fromkeys(SITES, family),
    )


def axes():
    return Figure(figsize=(8, 4), layout="constrained").subplots()


def nothing_cut_off(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    page = figure.bbox.padded(2)
    for ax in figure.axes:
        if ax.get_visible():
            box = ax.get_tightbbox(renderer)
            assert page.x0 <= box.x0
            assert box.x1 <= page.x1
            assert page.y0 <= box.y0
            assert box.y1 <= page.y1


def words(figure):
    texts = [text.get_text() for ax in figure.axes for text in (*ax.texts, ax.title, ax._left_title)]
    return "\n".join([*texts, figure.get_suptitle()])


def test_parts_are_stacked_to_a_hundred_and_told_apart_without_colour(profile):
    table = variance_parts(profile)
    figure = plots.variance_parts({"one": table, "two": table})
    assert len(figure.axes) == 2
    ax = figure.axes[0]
    for i, site in enumerate(SITES):
        own = table[table["site"] == site].set_index("part")["share"]
        heights = [bars[i].get_height() for bars in ax.containers]
        np.testing.assert_allclose(heights, 100 * own[list(PARTS)])
        assert sum(heights) == pytest.approx(100)
        starts = [bars[i].get_y() for bars in ax.containers]
        np.testing.assert_allclose(starts, np.cumsum([0, *heights[:-1]]))
    looks = {(sum(to_rgb(bars[0].get_facecolor())) // 0.5, bars[0].get_hatch()) for bars in ax.containers}
    assert len(looks) == 4
    assert [text.get_text() for text in figure.legends[0].texts][1:] == list(PARTS)
    assert "n = 40 images, 3 classes" in words(figure)
    nothing_cut_off(figure)


def test_parts_without_classes_say_so():
    table = variance_parts(made(sizes=(1, 1, 1))[0])
    figure = plots.variance_parts(table, figure=Figure(figsize=(6, 4), layout="constrained"))
    assert "one image a class" in words(figure)
    heights = [sum(bars[0].get_height() for bars in figure.axes[0].containers)]
    assert heights[0] == pytest.approx(100 * table["share"].iloc[0])
    nothing_cut_off(figure)


def test_selectivity_shows_value_interval_and_null():
    tables = {
        name: site_selectivity(sampled(name, seed), permutations=100, progress=False)
        for seed, name in enumerate(("se", "eca"))
    }
    ax = plots.selectivity(tables, ax=axes())
    for name, style, line in zip(tables, styles(tables), ax.lines[::2], strict=True):
        own = tables[name][tables[name]["measure"] == "omega2"]
        np.testing.assert_allclose(line.get_ydata(), own["value"])
        assert line.get_color() == style.colour
        assert line.get_label() == name
    bars, bands = ax.collections[:2], ax.collections[2:]
    own = tables["se"][tables["se"]["measure"] == "omega2"]
    np.testing.assert_allclose([part[:, 1] for part in bars[0].get_segments()], own[["low", "high"]])
    assert len(bands) == 2
    assert [text.get_text() for text in ax.get_legend().texts] == ["se", "eca", "null: mean to 95 % quantile"]
    assert "mean and 95 % interval\nn = 40 images, 3 classes" in ax.get_title(loc="left")
    assert not len(ax.lines[1].get_xdata())  # all are above chance
    nothing_cut_off(ax.figure)
    other = plots.selectivity(tables, measure="channel × class", ax=axes())
    assert "channel × class" in other.get_ylabel()
    with pytest.raises(ValueError, match="measure must be"):
        plots.selectivity(tables, measure="eta2", ax=axes())


def test_what_is_not_above_chance_is_drawn_open():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], SIZES))
    table = site_selectivity(sampled(labels=labels), progress=False)
    weak = table[(table["measure"] == "omega2") & (table["p_adjusted"] > 0.05)]
    ax = plots.selectivity(table, ax=axes())
    assert len(weak) == 4
    assert ax.lines[1].get_markerfacecolor() == "white"
    assert len(ax.lines[1].get_xdata()) == 4


def test_selectivity_without_classes_says_so():
    table = site_selectivity(sampled(labels=np.arange(40)), progress=False)
    ax = plots.selectivity(table, ax=axes())
    assert "one image a class" in words(ax.figure)
    nothing_cut_off(ax.figure)


def test_factors_are_a_map_with_its_numbers():
    sample = sampled()
    frame = pd.DataFrame({"group": sample.labels.astype(str), "light_angle": np.linspace(0, 1, 40)})
    summary = factor_summary(factor_information(sample, frame, permutations=100, progress=False))
    ax = plots.factor_information(summary, ax=axes())
    grid = ax.images[0].get_array()
    assert grid.shape == (4, 2)
    assert grid[0, 0] == pytest.approx(summary["excess"].iloc[0])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["group", "light angle"]
    assert ax.texts[0].get_text() == f"{grid[0, 0]:.2f}"
    assert "n = 40 images" in ax.get_title(loc="left")
    nothing_cut_off(ax.figure)
    shares = plots.factor_information(summary, value="leading", ax=axes())
    assert shares.images[0].get_array()[0, 0] == pytest.approx(100 * summary["leading"].iloc[0])
    with pytest.raises(ValueError, match="value must be one of"):
        plots.factor_information(summary, value="bits", ax=axes())


# ---------------------------------------------------------------------------------------------------- published figures


def test_blocks_are_called_as_in_the_papers():
    names = [f"layer{i}.{j}.se" for i, count in enumerate((3, 4, 6, 3), 1) for j in range(count)]
    blocks = blocks_of(names)
    assert blocks["layer1.2.se"] == (2, 3)
    assert blocks["layer3.5.se"] == (4, 6)
    # SENet's figure: SE_2_3, SE_3_4, SE_4_6, SE_5_1, SE_5_2, SE_5_3
    chosen = [blocks[name] for name in last_of_stages(blocks, whole=True)]
    assert chosen == [(2, 3), (3, 4), (4, 6), (5, 1), (5, 2), (5, 3)]
    assert blocks_of(["module.layer1.0.se", "module.layer2.0.se"])["module.layer2.0.se"] == (3, 1)
    assert blocks_of(["s1.b1.se", "s1.b2.se", "s2.b1.se"])["s1.b2.se"] == (2, 2)
    assert blocks_of(["blocks.2.0.se", "blocks.2.1.se", "blocks.4.0.se"])["blocks.4.0.se"] == (3, 1)


def test_blocks_of_other_names_are_runs_of_one_width():
    sites = {f"features.{i}.block.2": c for i, c in enumerate((72, 72, 120, 120, 120, 480, 672, 960, 960))}
    blocks = blocks_of(sites)
    assert list(blocks.values()) == [(2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (4, 1), (5, 1), (6, 1), (6, 2)]
    many = {f"features.{i}": 8 * i for i in range(1, 15)}
    assert len(last_of_stages(blocks_of(many))) == 6


def visible(figure):
    return [ax for ax in figure.axes if ax.get_visible()]


def test_senet_figure_has_means_and_spread(profile):
    figure = plots.senet_figure(profile, ["class 0", "class 2"])
    panels = visible(figure)
    titles = [ax.get_title(loc="left") for ax in panels]
    assert titles == ["conv_2_2: layer1.1.se", "conv_3_1: layer2.0.se", "conv_3_2: layer2.1.se"]
    moments = profile["layer1.1.se"].moments
    lines = panels[0].lines
    np.testing.assert_allclose(lines[0].get_ydata(), moments.mean[0][:64])
    np.testing.assert_allclose(lines[1].get_ydata(), moments.mean[2][:64])
    np.testing.assert_allclose(lines[2].get_ydata(), moments.pooled().mean[0][:64])
    band = panels[0].collections[0].get_paths()[0].vertices[:, 1]
    mean, std = moments.mean[0][:64], moments.std()[0][:64]
    assert band.max() == pytest.approx(float((mean + std).max()))
    assert band.min() == pytest.approx(float((mean - std).min()))
    assert [text.get_text() for text in figure.legends[0].texts] == ["class 0", "class 2", "all images"]
    assert panels[0].get_xlabel() == "channel index (first 64 of 70)"
    assert "40 images" in words(figure)
    assert "last block of each stage" in words(figure)
    nothing_cut_off(figure)
    whole = plots.senet_figure(profile, channels=None, sites=["conv_2_1"], title="mine")
    assert len(visible(whole)) == 1
    assert len(visible(whole)[0].lines[0].get_ydata()) == 70
    assert whole.get_suptitle() == "mine"
    names = ["conv_2_1", "conv_2_2", "conv_3_1", "conv_3_2", "conv_2_1"]
    five = plots.senet_figure(profile, sites=names)  # of two rows of three, the last stays empty
    assert [ax.get_title(loc="left")[:8] for ax in visible(five)] == names
    assert len(five.axes) == 6
    nothing_cut_off(five)


def test_eca_figure_puts_se_above_eca(profile):
    other = made("eca", 1)[0]
    figure = plots.eca_figure([other, profile])
    assert len(figure.axes) == 4
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == ["conv_2_2: layer1.1.se", "conv_3_2: layer2.1.se"]
    first, _, below, _ = figure.axes
    np.testing.assert_allclose(first.lines[1].get_ydata(), profile["layer1.1.se"].moments.mean[1][:64])
    np.testing.assert_allclose(below.lines[1].get_ydata(), other["layer1.1.se"].moments.mean[1][:64])
    assert [text.get_text() for text in figure.legends[0].texts] == ["class 0", "class 1", "class 2", "all images"]
    nothing_cut_off(figure)
    chosen = plots.eca_figure([other, profile], ["class 1"], sites=["layer1.0.se", "conv_3_1"])
    assert [ax.get_title(loc="left") for ax in chosen.axes[:2]] == ["conv_2_1: layer1.0.se", "conv_3_1: layer2.0.se"]
    assert len(plots.eca_figure(other).axes) == 2


def test_published_figures_fill_a_figure_of_ones_own(profile):
    other = made("eca", 1)[0]
    for draw, given in ((plots.senet_figure, profile), (plots.eca_figure, [other, profile])):
        mine = Figure(figsize=(9, 6), layout="constrained")
        assert draw(given, figure=mine) is mine
        nothing_cut_off(mine)
    gates, labels = gates_of_classes(SIZES, 70)
    few = profile_of({SITES[0]: gates}, labels, 3)
    figure = plots.eca_figure([few, profile])  # of one stage, above one of two
    assert [ax.get_visible() for ax in figure.axes] == [True, False, True, True]
    nothing_cut_off(figure)


def test_one_image_a_class_is_drawn_as_well():
    figure = plots.senet_figure(made(sizes=(1, 1, 1))[0])
    nothing_cut_off(figure)
    assert np.isfinite(visible(figure)[0].lines[0].get_ydata()).all()


def test_a_class_without_images_is_never_drawn():
    gates, labels = gates_of_classes((5, 5), 8)
    one = profile_of({"layer1.0.se": gates}, labels, 3)
    figure = plots.eca_figure(one)
    assert [text.get_text() for text in figure.legends[0].texts] == ["class 0", "class 1", "all images"]
    with pytest.raises(ValueError, match=r"eca_figure: no images of class 2; there are: class 0, class 1"):
        plots.eca_figure(one, ["class 2"])


def test_published_figures_refuse_what_they_cannot_draw(profile):
    with pytest.raises(
        ValueError, match=r"senet_figure: there is no site 'conv_9_1'; there are: layer1\.0\.se \(conv_2_1\)"
    ):
        plots.senet_figure(profile, sites=["conv_9_1"])
    for draw, what in ((plots.senet_figure, "senet_figure"), (plots.eca_figure, "eca_figure")):
        with pytest.raises(ValueError, match=rf"{what}: sites: at least one was expected, got none\."):
            draw(profile, sites=[])
    with pytest.raises(ValueError, match="at most 6 classes can be told apart, got 7"):
        plots.senet_figure(profile, ["class 0"] * 7)
    pooled = torch.zeros(4, dtype=torch.int64)
    one = profile_of({"a": torch.rand(4, 3)}, pooled, 1)
    object.__setattr__(one, "by", None)
    for draw in (plots.senet_figure, plots.eca_figure):
        with pytest.raises(ValueError, match="the profile pools all images"):
            draw(one)
