"""Plots: what the artists hold and what the texts say, not pixels; and that nothing is cut off."""

from __future__ import annotations

import dataclasses
from functools import partial

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from made_profiles import profile_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

import ecaviz
from ecaviz import attention, kernels, looks, networks, plots, views
from ecaviz import interaction as inter
from ecaviz.kernel_views import BottleneckShape, GatePairs, KernelStems, pool

SITE = "layer3.0.se"


def make(family: str, seed: int = 0, planes=(2, 4, 8, 16), **options):
    """A small network with random weights whose gates vary."""
    torch.manual_seed(seed)
    net = networks.build(networks.Architecture(family, options, classes=3, planes=planes, stem=4)).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv1d | torch.nn.Linear) and module is not net.fc:
            module.weight.data.mul_(4)
    classes = ("first class", "second class", "third class")
    return dataclasses.replace(ecaviz.load(net, classes=classes), name=f"random-{family}")


class Labelled(torch.utils.data.Dataset):
    classes = ("first class", "second class", "third class")

    def __init__(self, n: int = 18):
        self.x = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], i % 3


def loader(n: int = 18):
    data = Labelled(n)
    ready = torch.utils.data.DataLoader(data, batch_size=6)
    ready.classes = data.classes
    return ready


@pytest.fixture(scope="module")
def eca():
    return make("eca", kernel_size=5)


@pytest.fixture(scope="module")
def se():
    return make("se", reduction=4)


@pytest.fixture(scope="module")
def profiles(eca, se):
    images = loader()
    return [ecaviz.profile(one, images, by="class", progress=False) for one in (se, eca)]


@pytest.fixture(scope="module")
def captured(eca, se):
    """Feature maps before the site and the record, for both models."""
    found = {}
    for model in (eca, se):
        maps = []
        hook = model.net.get_submodule(SITE).register_forward_pre_hook(lambda _m, a, m=maps: m.append(a[0].clone()))
        with torch.no_grad(), ecaviz.capture(model) as gates:
            model.net(Labelled(6).x)
        hook.remove()
        found[model.name] = maps[0], gates[SITE]
    return found


@pytest.fixture
def ax():
    """Axes of a figure that pyplot does not know, as large as those in the notebooks."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def inside(figure) -> None:
    """Everything that is drawn, text above all, lies on the canvas."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    width, height = figure.bbox.size
    for one in figure.axes:
        if not one.get_visible():
            continue
        box = one.get_tightbbox(renderer)
        if box is not None:
            edges = (box.x0, box.y0, width - box.x1, height - box.y1)
            assert min(edges) > -1.5, f"{one.get_title(loc='left')!r} is cut off by {-min(edges):.1f} pixels"


def named(ax, title: str | None = None) -> None:
    """The axes have names and the title says what is seen."""
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert ax.get_title(loc="left")
    if title is not None:
        assert title in ax.get_title(loc="left")


# -------------------------------------------------------------------------------------------------------------- styles


def test_families_are_told_apart_with_and_without_colour():
    every = looks.styles(["eca", "eca", "se", "se"])
    assert len({style.colour for style in every}) == len(every)
    for what in ("line", "marker", "hatch"):
        assert len({getattr(style, what) for style in every}) == len(every), what
    eca, se = looks.styles(["eca", "se"])
    assert looks.styles(["se", "eca"]) == [se, eca], "a family's style does not depend on its place"
    first, second = looks.styles(["eca", "eca"])
    assert first == eca
    assert (second.colour, second.line, second.marker) != (first.colour, first.line, first.marker)


def test_gate_colours_are_told_apart_by_lightness_alone():
    rgb = matplotlib.colormaps[looks.GATE_MAP](np.linspace(0, 1, 64))[:, :3]
    grey = rgb @ [0.299, 0.587, 0.114]
    assert (np.diff(grey) > 0).all()


@pytest.mark.parametrize(
    ("sites", "labels"),
    [
        (["layer1.0.se", "layer1.1.se"], ["layer1.0", "layer1.1"]),
        (["layer1.0.se_module", "layer2.0.se_module"], ["layer1.0", "layer2.0"]),
        (["layer1.0.se"], ["layer1.0.se"]),
        (["a.se", "a.att"], ["a.se", "a.att"]),
        (["a.se", "a.se#2"], ["a", "a#2"]),
        (["se", "att"], ["se", "att"]),
    ],
)
def test_layer_labels(sites, labels):
    assert looks.layer_labels(sites) == labels


def test_fitted_limits_hold_what_they_say():
    assert views.fitted(np.array([0.5, 0.54])) == (0.45, 0.55)
    assert views.fitted(np.array([0.31]), np.array([0.5])) == pytest.approx((0.3, 0.7))
    assert views.fitted(np.array([0.0, 1.0])) == (0.0, 1.0)
    mostly = np.concatenate([np.full(999, 0.5), [1.0]])
    assert views.fitted(mostly, share=0.99) == (0.45, 0.55)


def test_counts_are_those_of_numpy_and_keep_what_lies_beyond():
    gates = np.random.default_rng(0).random(500)
    assert (views.counts_of(gates, 16) == np.histogram(gates, 16, (0, 1))[0]).all()
    assert views.counts_of(np.array([0.1, 0.5, 0.9]), 4, (0.4, 0.6)).tolist() == [1, 0, 1, 1]
    assert views.counts_of(np.array([np.nan, 1.0]), 4).tolist() == [0, 0, 0, 1]


# --------------------------------------------------------------------------------------------------------------- gates


def test_heatmap_draws_every_layer_at_one_width(ax, profiles):
    se = profiles[0]
    assert plots.gate_heatmap(se, marked=SITE, ax=ax) is ax
    grid = np.asarray(ax.images[0].get_array())
    widest = max(site.channels for site in se.sites.values())
    assert grid.shape == (len(se.sites), widest)
    for row, (name, site) in zip(grid, se.sites.items(), strict=True):
        mean = site.moments.pooled().mean[0].numpy()
        assert row[:: widest // site.channels] == pytest.approx(mean, abs=1e-6), name
    assert ax.images[0].get_clim() == (0, 1)
    named(ax, "random-se (SE, r=4)")
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[0] == "layer1.0 (8)"
    assert "layer3.0 (32)" in labels
    frame = ax.patches[0]
    assert frame.get_visible()
    assert frame.get_y() == list(se.sites).index(SITE) - 0.5
    inside(ax.figure)


def test_heatmap_of_a_class_sorted_and_fitted(ax, profiles):
    plots.gate_heatmap(profiles[1], of="second class", sort=True, limits=None, ax=ax)
    grid = np.asarray(ax.images[0].get_array())
    assert (np.diff(grid, axis=1) >= 0).all()
    expected = np.sort(profiles[1].mean("layer4.1.se")[1].numpy())
    assert grid[-1] == pytest.approx(expected, abs=1e-6)
    low, high = ax.images[0].get_clim()
    assert 0 <= low <= grid.min()
    assert grid.max() <= high <= 1
    assert "second class" in ax.get_title(loc="left")
    assert "sorted" in ax.get_xlabel()


def test_heatmap_of_captured_gates_and_of_wide_layers(ax, captured):
    wide = torch.linspace(0, 1, 600)
    plots.gate_heatmap({"a.se": captured["random-se"][1], "b.se": wide}, ax=ax)
    grid = np.asarray(ax.images[0].get_array())
    assert grid.shape == (2, 256)
    assert grid[0, 0] == pytest.approx(float(captured["random-se"][1].gate[:, 0].mean()))
    assert grid[1].mean() == pytest.approx(0.5, abs=2e-3)
    assert "means of up to 3" in ax.get_xlabel()


def test_heatmap_errors(ax, profiles):
    with pytest.raises(ValueError, match="no class 'nobody'; it has: first class, second class, third class"):
        plots.gate_heatmap(profiles[0], of="nobody", ax=ax)
    with pytest.raises(ValueError, match="no gates to draw"):
        plots.gate_heatmap({}, ax=ax)


def test_distribution_is_the_profile_s_histogram(ax, profiles):
    plots.gate_distribution(profiles, SITE, ax=ax)
    named(ax, SITE)
    for step, profile in zip(ax.patches[2:4], profiles, strict=True):
        counts = profile[SITE].histogram.counts.sum(dim=(0, 1)).numpy()
        values, edges, _ = step.get_data()
        assert values == pytest.approx(100 * counts / counts.sum())
        assert edges[0] == 0
        assert edges[-1] == 1
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["random-se (SE, r=4)", "random-eca (ECA, k=5)"]
    assert to_rgb(ax.patches[2].get_edgecolor()) == to_rgb(looks.family_style("se").colour)
    assert ax.patches[2].get_linestyle() != ax.patches[3].get_linestyle()
    inside(ax.figure)


def test_distribution_of_records_and_tensors(ax, captured):
    record = captured["random-eca"][1]
    plots.gate_distribution([record, record.gate], labels=["record", "tensor"], ax=ax)
    first, second = (patch.get_data()[0] for patch in ax.patches[2:4])
    assert first == pytest.approx(second)
    assert first.sum() == pytest.approx(100)


def test_distribution_of_a_profile_needs_a_site(ax, profiles):
    with pytest.raises(ValueError, match=r"name the site to draw; the profile has: layer1\.0\.se"):
        plots.gate_distribution(profiles[0], ax=ax)
    with pytest.raises(KeyError, match="no site 'nowhere'"):
        plots.gate_distribution(profiles[0], "nowhere", ax=ax)


def test_distribution_of_a_class_is_its_own_histogram(ax, profiles):
    eca = profiles[1]
    plots.gate_distribution([eca] * 3, SITE, of=["first class", "third class", None], ax=ax)
    values = [step.get_data()[0] for step in ax.patches[3:6]]
    for row, mine in ((0, values[0]), (2, values[1])):
        counts = eca[SITE].by_class.histogram.counts[row].sum(0).numpy()
        assert mine == pytest.approx(100 * counts / counts.sum())
    assert np.abs(values[0] - values[1]).max() > 1
    assert len({(line.get_edgecolor(), line.get_linestyle()) for line in ax.patches[3:6]}) == 3
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == [
        "random-eca (ECA, k=5): first class", "random-eca (ECA, k=5): third class", "random-eca (ECA, k=5)",
    ]  # fmt: skip
    inside(ax.figure)


def test_distributions_by_layer_of_a_class(ax, profiles):
    plots.gate_distributions_by_layer(profiles, of="second class", ax=ax)
    named(ax, "second class")
    for i, profile in enumerate(profiles):
        for name, median in zip(profile, ax.lines[i].get_ydata(), strict=True):
            counts = profile[name].by_class.histogram.counts[1].sum(0).numpy()
            sample = np.repeat((np.arange(64) + 0.5) / 64, counts)
            assert median == pytest.approx(np.quantile(sample, 0.5, method="inverted_cdf"), abs=1 / 64)
    inside(ax.figure)


def test_distributions_of_classes_that_are_not_there(ax, eca, profiles):
    for plot in (partial(plots.gate_distribution, site=SITE, ax=ax), partial(plots.gate_distributions_by_layer, ax=ax)):
        with pytest.raises(ValueError, match="there is no class 'nobody'; there are: first class"):
            plot(profiles[0], of="nobody")
        with pytest.raises(ValueError, match='details="class"'):
            plot(ecaviz.profile(eca, loader(), by="class", details="pooled", progress=False), of="first class")
        with pytest.raises(ValueError, match="no gates of class 'third class'"):
            plot(ecaviz.profile(eca, loader(2), by="class", progress=False), of="third class")
    with pytest.raises(ValueError, match=r"of='first class' is a class of a profile, got SiteProfile"):
        plots.gate_distribution(profiles[0][SITE], of="first class", ax=ax)


def test_distributions_by_layer_are_quantiles(ax, profiles):
    eca = profiles[1]
    plots.gate_distributions_by_layer(eca, ax=ax)
    named(ax, "median")
    medians = ax.lines[0].get_ydata()
    for name, median in zip(eca, medians, strict=True):
        counts = eca[name].histogram.counts.sum(dim=(0, 1)).double().numpy()
        middles = (np.arange(64) + 0.5) / 64
        sample = np.repeat(middles, counts.astype(int))
        assert median == pytest.approx(np.quantile(sample, 0.5, method="inverted_cdf"), abs=1 / 64)
    inside(ax.figure)


def test_quantiles_of_gaps_and_of_one_bin():
    histogram = ecaviz.statistics.Histogram(1, 4)
    histogram.update(torch.tensor([[0.1], [0.9]]))
    site = dataclasses.make_dataclass("Site", ["histogram"])(histogram)
    low, middle, high = plots._quantiles(site, (0.0, 0.5, 1.0))
    assert low == 0
    assert 0.25 <= middle <= 0.75
    assert high == 1
    one = ecaviz.statistics.Histogram(1, 4).update(torch.full((5, 1), 0.6))
    low, high = plots._quantiles(dataclasses.make_dataclass("Site", ["histogram"])(one), (0.05, 0.95))
    assert 0.5 <= low < high <= 0.75


def test_class_curves_are_class_means(ax, profiles):
    eca = profiles[1]
    plots.class_curves(eca, SITE, ["first class", "third class"], ax=ax)
    named(ax, SITE)
    mean = eca.mean(SITE).numpy()
    by_label = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert by_label["first class"] == pytest.approx(mean[0])
    assert by_label["third class"] == pytest.approx(mean[2])
    assert by_label["mean of all"] == pytest.approx(mean.mean(axis=0))
    assert ax.get_ylim() == (0, 1)
    inside(ax.figure)


def test_class_curves_sorted_share_one_order(ax, profiles):
    eca = profiles[1]
    plots.class_curves(eca, SITE, sort=True, limits=None, ax=ax)
    by_label = {line.get_label(): line.get_ydata() for line in ax.lines}
    mean = eca.mean(SITE).numpy()
    order = np.argsort(mean.mean(axis=0), kind="stable")
    assert (np.diff(by_label["mean of all"]) >= 0).all()
    assert by_label["second class"] == pytest.approx(mean[1][order])


def test_class_curves_errors(ax, eca, profiles):
    pooled = ecaviz.profile(eca, loader(), progress=False)
    with pytest.raises(ValueError, match='by="class"'):
        plots.class_curves(pooled, SITE, ax=ax)
    with pytest.raises(ValueError, match="at most 1 classes can be told apart, got 2"):
        views.ClassCurves(ax, 1).update({"a": np.ones(3), "b": np.ones(3)}, np.ones(3))


def test_saturation_counts_both_tails(ax, captured, profiles):
    plots.saturation(profiles, ax=ax)
    named(ax, "saturated")
    heights = [bar.get_height() for bar in ax.patches]
    count = len(profiles[0])
    for i, profile in enumerate(profiles):
        high, low = heights[2 * i * count : (2 * i + 1) * count], heights[(2 * i + 1) * count : (2 * i + 2) * count]
        for j, site in enumerate(profile.sites.values()):
            n = site.moments.n.double()
            for value, tail in ((high[j], site.tails.above), (-low[j], site.tails.below)):
                expected = 100 * float((tail * n[:, None]).sum() / (n.sum() * site.channels))
                assert value == pytest.approx(expected)
    assert any(heights), "no gate of these models is saturated: the test proves nothing"
    assert "−" not in "".join(label.get_text() for label in ax.get_yticklabels()), "shares are not negative"
    inside(ax.figure)


def test_saturation_of_gates_in_the_middle_says_none(ax):
    profile = profile_of({"layer1.0.se": 0.4 + 0.2 * torch.rand(6, 8)}, torch.zeros(6, dtype=torch.int64), 1)
    plots.saturation(profile, ax=ax)
    assert [text.get_text() for text in ax.texts] == ["none"]
    assert {bar.get_height() for bar in ax.patches} == {0}
    low, high = ax.get_ylim()
    assert -low == high > 0
    inside(ax.figure)


# ------------------------------------------------------------------------------------------------------------- kernels


def test_the_staircase_marks_the_ties(ax):
    plots.rule_staircase(ax=ax)
    named(ax, "γ = 2, b = 1")
    lines = {line.get_label(): line for line in ax.lines}
    step = lines["k = ψ(C), the paper's code"]
    assert all(step.get_ydata()[c - 2] == attention.adaptive_kernel_size(c) for c in (2, 8, 64, 127, 128, 4096))
    tie = next(line for label, line in lines.items() if "tie" in label)
    assert list(tie.get_xdata()) == [8, 128, 2048]
    assert tie.get_ydata() == pytest.approx([2, 4, 6])
    assert ax.get_xscale() == "log"
    inside(ax.figure)


def test_the_staircase_draws_the_markers_at_the_ends_whole_and_none_beyond(ax):
    plots.rule_staircase(channels=(2, 1024), marks=[1, 2, 128, 512, 1024, 2048], ax=ax)
    marks, tie = (next(line for line in ax.lines if line.get_marker() == marker) for marker in "oD")
    assert list(marks.get_xdata()) == [2, 128, 512, 1024]
    assert list(tie.get_xdata()) == [8, 128]
    assert not marks.get_clip_on()
    assert marks.get_zorder() > ax.spines["left"].get_zorder()
    ax.figure.canvas.draw()
    drawn = np.asarray(ax.figure.canvas.buffer_rgba())[..., :3]
    right = round(ax.transData.transform((1024, 5))[0]) + 2, round(ax.transData.transform((1024, 5))[1])
    assert tuple(drawn[len(drawn) - right[1], right[0]] / 255) == pytest.approx(
        to_rgb(looks.family_style("eca").colour), abs=0.02
    )


def test_learned_kernels_hold_the_weights(ax, eca):
    table = kernels.learned_kernels(eca)
    plots.learned_kernels(table, ax=ax)
    named(ax, "learned kernels")
    grid = ax.images[0].get_array()
    assert grid.shape == (8, 5)
    row = table[table["site"] == SITE].sort_values("offset")["weight"].to_numpy()
    assert np.asarray(grid[4]) == pytest.approx(row)
    low, high = ax.images[0].get_clim()
    assert low == -high == -np.abs(grid).max()
    assert f"{row[0]:.2f}" in [text.get_text() for text in ax.texts]
    inside(ax.figure)


def test_learned_kernels_of_different_sizes_leave_cells_empty(ax):
    model = make("eca", planes=(2, 4, 8, 32))
    sizes = kernels.learned_kernels(model)["k"].unique()
    assert len(sizes) > 1
    plots.learned_kernels(kernels.learned_kernels(model), ax=ax)
    grid = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert np.isnan(grid[0, 0])
    assert not np.isnan(grid[-1]).any()


def test_weights_of_many_kernels_are_colours_alone(ax, eca):
    table = kernels.learned_kernels(eca)
    many = pd.concat([table.assign(site=table["site"] + f".{i}") for i in range(6)])
    plots.learned_kernels(many, ax=ax)
    assert ax.images[0].get_array().shape == (48, 5)
    assert not ax.texts  # they would run into each other


def test_weights_by_start_draws_every_weight(ax, eca):
    table = kernels.learned_kernels(eca)
    table["start"] = np.linspace(-1, 1, len(table))
    plots.weights_by_start(table, ax=ax)
    named(ax, f"{len(table)} weights, correlation {np.corrcoef(table['start'], table['weight'])[0, 1]:.2f}")
    drawn = {line.get_label(): line for line in ax.lines}
    assert drawn["a weight"].get_xydata() == pytest.approx(table[["start", "weight"]].to_numpy())
    assert drawn["left as it was"].get_slope() == 1
    assert drawn["left as it was"].get_xy1() == (0, 0)
    assert ax.get_aspect() == 1, "a weight that was left as it was lies half-way between the axes"
    inside(ax.figure)
    with pytest.raises(ValueError, match="weights_by_start: the frame lacks start"):
        plots.weights_by_start(kernels.learned_kernels(eca), ax=ax)


def test_of_many_layers_not_every_one_is_named(ax):
    views.layer_axis(ax, [f"layer1.{i}.se" for i in range(50)])
    assert [one.get_text() for one in ax.get_xticklabels()] == [f"layer1.{i}" for i in range(0, 50, 3)]
    assert ax.get_xticks().tolist() == list(range(0, 50, 3))
    assert ax.get_xlim() == (-0.6, 49.6)


def test_kernel_and_its_resized_version(ax):
    weights = torch.tensor([0.2, -0.5, 0.1])
    plots.kernel(weights, kernels.resize_kernel(weights, 1), ax=ax)
    named(ax, "k = 3, resized to k = 1")
    learned, resized = (next(line for line in ax.lines if line.get_label() == n) for n in ("learned", "resized"))
    assert learned.get_xdata().tolist() == [-1, 0, 1]
    assert learned.get_ydata() == pytest.approx(weights.numpy())
    assert resized.get_xdata().tolist() == [0]
    inside(ax.figure)


def test_gates_by_kernel_is_a_density(ax):
    x, y = torch.tensor([[0.2, 0.2, 0.8]]), torch.tensor([[0.3, 0.3, 0.8]])
    plots.gates_by_kernel(x, y, kernel_size=1, ax=ax)
    named(ax, "mean |Δω| = 0.067")
    density = np.nan_to_num(np.ma.filled(ax.images[0].get_array(), 0))
    assert density.sum() == pytest.approx(100)
    low, high = ax.get_xlim()
    place = [int((value - low) / (high - low) * 64) for value in (0.3, 0.2)]
    assert density[place[0], place[1]] == pytest.approx(200 / 3)
    assert "k = 1" in ax.get_ylabel()
    with pytest.raises(ValueError, match=r"one shape were expected, got \(1, 3\) and \(1, 2\)"):
        plots.gates_by_kernel(x, y[:, :2], ax=ax)
    inside(ax.figure)


# --------------------------------------------------------------------------------------------------------- interaction


def test_interaction_is_centred_at_zero(ax, eca):
    matrix = ecaviz.interaction_matrix(eca, SITE)
    plots.interaction(matrix, ax=ax)
    named(ax, f"J of {SITE}: ECA, k=5, C=32 (exact)")
    assert np.asarray(ax.images[0].get_array()) == pytest.approx(matrix.matrix.numpy())
    low, high = ax.images[0].get_clim()
    assert -low == high == pytest.approx(float(matrix.matrix.abs().max()))
    inside(ax.figure)


def test_interaction_of_many_channels_says_how_it_was_reduced(ax):
    module = attention.SE(100, 4)
    matrix = inter.module_interaction(module)
    plots.interaction(matrix, absolute=True, cells=32, ax=ax)
    shown = np.asarray(ax.images[0].get_array())
    assert shown.shape == (25, 25)
    assert shown.max() == pytest.approx(float(matrix.matrix.abs().max()))
    assert "the largest entry of 4×4 pairs" in ax.get_title(loc="left")
    assert ax.images[0].get_clim()[0] == 0
    assert ax.get_xlim() == (-0.5, 99.5), "the axis counts channels, not cells"
    inside(ax.figure)


def test_interaction_of_a_structure_is_a_share_of_pairs(ax):
    plots.interaction(inter.eca_structure(64, 3), cells=16, ax=ax)
    shown = np.asarray(ax.images[0].get_array())
    assert shown.mean() * 64**2 == pytest.approx(inter.structural_pairs("eca", 64, kernel_size=3))
    assert ax.images[0].get_clim() == (0, 1)
    assert "the mean of 4×4 pairs" in ax.get_title(loc="left")


def test_interaction_refuses_what_is_not_square(ax):
    with pytest.raises(ValueError, match=r"C×C was expected, got shape \(3, 4\)"):
        plots.interaction(torch.zeros(3, 4), ax=ax)


@pytest.mark.parametrize("size", [7, 8, 9, 64])
@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_pool_is_what_a_loop_over_blocks_gives(size, reduce):
    matrix = np.random.default_rng(size).standard_normal((size, size))
    shown, side = pool(matrix, 4, reduce)
    for i in range(len(shown)):
        for j in range(len(shown)):
            block = matrix[i * side : (i + 1) * side, j * side : (j + 1) * side].ravel()
            expected = block.mean() if reduce == "mean" else block[np.abs(block).argmax()]
            assert shown[i, j] == pytest.approx(expected)
    with pytest.raises(ValueError, match="got 'median'"):
        pool(matrix, 4, "median")


def test_coverage_cost_without_what_is_allowed_for_a_family():
    figure = plots.coverage_cost([inter.eca_structure(32, k) for k in (1, 3)])
    FigureCanvasAgg(figure)
    axes = np.array(figure.axes).reshape(3, 2)
    assert axes[0, 0].get_legend() is not None
    assert axes[0, 1].get_legend() is None
    assert not any(len(line.get_xdata()) for ax in axes[:, 1] for line in ax.lines)
    inside(figure)


def test_coverage_cost_keeps_k_and_r_on_axes_of_their_own(eca, se):
    ks, rs = (1, 3, 5), (2, 4, 8)
    structures = [inter.eca_structure(32, k) for k in ks] + [inter.se_structure(32, r) for r in rs]
    realised = [ecaviz.coverage(ecaviz.interaction_matrix(model, SITE)) for model in (eca, se)]
    figure = plots.coverage_cost(structures, realised)
    FigureCanvasAgg(figure)
    axes = np.array(figure.axes).reshape(3, 2)
    assert [ax.get_xlabel() for ax in axes[2]] == ["kernel size k", "reduction r"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["partners / C\n(share of pairs)", "rank / C", "parameters"]
    pairs, trained = axes[0, 0].lines[:2]
    assert pairs.get_ydata() == pytest.approx([one.structural for one in structures[:3]])
    assert trained.get_ydata() == pytest.approx([realised[0].participation_median / 32])
    assert axes[1, 1].lines[0].get_ydata() == pytest.approx([1 / r for r in rs])
    assert axes[2, 1].lines[0].get_ydata().tolist() == [2 * 32 * 32 // r for r in rs]
    assert [label.get_text() for label in axes[0, 1].get_xticklabels()] == ["2", "4", "8"]
    inside(figure)
    with pytest.raises(ValueError, match=r"one number of channels was expected, got \[16, 32\]"):
        plots.coverage_cost([*structures, inter.eca_structure(16, 3)])


# ------------------------------------------------------------------------------------------------- blocks and pictures


@pytest.mark.parametrize("name", ["random-eca", "random-se"])
def test_attention_block_draws_what_was_captured(captured, name):
    x, record = captured[name]
    image = (torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    figure = plots.attention_block(x, record, row=2, image=image, channels=[0, 3, 5, 9])
    FigureCanvasAgg(figure)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    bars = {title[0]: ax for title, ax in zip(titles, figure.axes, strict=True) if title[:1] in "245" and title}
    for step, vector in (("2", record.descriptor), ("4", record.logit), ("5", record.gate)):
        marked = bars[step].lines[0].get_ydata()
        assert marked == pytest.approx(vector[2, [0, 3, 5, 9]].numpy()), step
    maps = [
        (ax.get_title(), np.asarray(ax.images[0].get_array())) for ax in figure.axes if ax.images and ax.get_title()
    ]
    assert [name for name, _ in maps[:5]] == ["image", "channel 0", "channel 3", "channel 5", "channel 9"]
    assert maps[0][1].shape == (20, 30, 3)
    for (_, before), (label, after), c in zip(maps[1:5], maps[-4:], [0, 3, 5, 9], strict=True):
        gate = float(record.gate[2, c])
        assert before == pytest.approx(x[2, c].numpy())
        assert label == f"ω = {gate:.2f}"
        assert after == pytest.approx(x[2, c].numpy() * gate, abs=1e-6)
    inside(figure)


def test_attention_block_refuses_maps_of_another_site(captured):
    _, record = captured["random-eca"]
    with pytest.raises(ValueError, match=r"C = 32 channels; feature maps .* expected, got \(8, 4, 4\)"):
        plots.attention_block(torch.zeros(1, 8, 4, 4), record)


def test_image_grid_shows_each_image_with_its_label():
    images = [torch.full((3, 8, 8), i * 20, dtype=torch.uint8) for i in range(7)]
    figure = plots.image_grid(images, [f"label {i}" for i in range(7)], columns=3, title="seven")
    FigureCanvasAgg(figure)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == 7
    assert [int(ax.images[0].get_array()[0, 0, 0]) for ax in shown] == [i * 20 for i in range(7)]
    assert shown[6].get_xlabel() == "label 6"
    inside(figure)
    with pytest.raises(ValueError, match="one label an image was expected, got 1 for 7 images"):
        plots.image_grid(images, ["a"])
    with pytest.raises(ValueError, match="no image"):
        plots.image_grid([])


def test_image_grid_shows_what_each_kind_of_image_holds():
    pixels = (torch.rand(3, 6, 9, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    array = pixels.permute(1, 2, 0).numpy()
    spread = torch.linspace(-2, 6, 3 * 54).reshape(3, 6, 9)
    mine = Figure(figsize=(6, 2))
    given = [pixels, Image.fromarray(array), Image.fromarray(array[..., 0]), array, spread]
    assert plots.image_grid(given, columns=5, figure=mine) is mine
    shown = [np.asarray(ax.images[0].get_array()) for ax in mine.axes]
    for one in (shown[0], shown[1], shown[3]):
        np.testing.assert_array_equal(one, array)
    np.testing.assert_array_equal(shown[2], np.repeat(array[..., :1], 3, axis=2))  # grey
    np.testing.assert_allclose(shown[4], 255 * (spread.permute(1, 2, 0) + 2) / 8, atol=1)  # its own range


def test_a_picture_shows_itself_and_pyplot_does_not_know_it():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure = plots.image_grid([torch.zeros(3, 4, 4, dtype=torch.uint8)])
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert plt.get_fignums() == before


def test_without_axes_the_current_ones_are_used(profiles):
    import matplotlib.pyplot as plt

    matplotlib.use("agg")
    figure, mine = plt.subplots()
    try:
        assert plots.saturation(profiles) is mine
    finally:
        plt.close(figure)


# --------------------------------------------------------------------------------------------------------------- views


def test_updates_change_the_artists_and_build_no_new_ones(ax):
    curves = views.ClassCurves(ax, 3)
    curves.update({"a": np.zeros(4), "b": np.ones(4)}, np.full(4, 0.5), title="one")
    count = len(ax.get_children())
    curves.update({"c": np.full(6, 0.2)}, np.full(6, 0.4), title="two")
    assert len(ax.get_children()) == count
    assert ax.get_title(loc="left") == "two"
    assert [line.get_visible() for line in curves.lines] == [True, False, False]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["c", "mean of all"]
    assert ax.get_xlim() == (0, 5)
    inside(ax.figure)


def test_heatmap_update_takes_another_network(ax):
    view = views.GateHeatmap(ax)
    view.update({"a.se": np.full(4, 0.1), "b.se": np.full(8, 0.9)}, marked="b.se")
    view.update({"x.se": np.full(3, 0.2), "y.se": np.full(3, 0.3), "z.se": np.full(6, 0.4)}, title="another")
    grid = np.asarray(view.image.get_array())
    assert grid[:, 0] == pytest.approx([0.2, 0.3, 0.4])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["x (3)", "y (3)", "z (6)"]
    assert ax.get_ylim() == (2.5, -0.5)
    assert not view.marks[0].get_visible()
    inside(ax.figure)


def test_distribution_update_takes_another_family(ax):
    view = views.GateDistribution(ax, 1, bins=4)
    view.update([views.Distribution("a", "se", np.array([1, 1, 0, 0]))])
    view.update([views.Distribution("b", "eca", np.array([0, 0, 3, 1]))], limits=(0.4, 0.6), title="b")
    values, edges, _ = view.lines[0].get_data()
    assert values.tolist() == [0, 0, 75, 25]
    assert edges[0] == 0.4
    assert to_rgb(view.lines[0].get_edgecolor()) == to_rgb(looks.family_style("eca").colour)
    assert ax.get_legend().get_texts()[0].get_text() == "b"
    inside(ax.figure)


def test_kernel_views_follow_their_data(ax):
    view = KernelStems(ax)
    view.update(np.array([1.0, 2.0, 3.0]), np.array([2.0]), reach=4, title="one")
    view.update(np.array([1.0, -1.0, 0.5]), np.array([0, 1.0, -1.0, 0.5, 0]), reach=4, top=5, title="two")
    assert view.resized.get_xdata().tolist() == [-2, -1, 0, 1, 2]
    assert view.span.get_x() == -2.5
    assert view.span.get_width() == 5
    assert ax.get_ylim() == (-10, 10)
    inside(ax.figure)


def test_pairs_bin_between_the_limits(ax):
    view = GatePairs(ax, bins=4)
    view.update(np.array([0.45, 0.55]), np.array([0.55, 0.45]), limits=(0.4, 0.6))
    density = np.nan_to_num(np.ma.filled(view.image.get_array(), 0))
    assert density[3, 1] == density[1, 3] == 50
    assert ax.get_xlim() == (0.4, 0.6)


def test_bottleneck_is_drawn_to_scale(ax):
    view = BottleneckShape(ax)
    view.update(64, 16, title="SE")
    assert [bar.get_height() for bar in view.bars] == [1, 0.25, 1]
    assert [text.get_text() for text in view.texts] == ["y: 64", "hidden: 16", "z: 64"]
    view.update(64, 64)
    assert [bar.get_height() for bar in view.bars] == [1, 1, 1]
    inside(ax.figure)
