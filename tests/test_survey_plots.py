"""Drawings of blocks and pictures of operations: the steps are the modules', nothing overlaps, the numbers hold."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import nn

from ecaviz import attention, block_drawings, cbam, gsop, looks, survey_plots, views
from ecaviz.block_drawings import attention_diagram
from ecaviz.block_steps import BLOCKS

C, R, K, REDUCED, SIDE = 64, 16, 5, 8, 6
OPTIONS = {
    "se": {"reduction": R},
    "eca": {"kernel_size": K},
    "eca-ns": {"kernel_size": K},
    "cbam": {"reduction": R},
    "gsop": {"reduced": REDUCED},
    "ge-theta": {"size": SIDE},
    "ge-theta-plus": {"size": SIDE, "reduction": R},
}
NAMES = {"C": C, "r": R, "k": K, "c": REDUCED, "s": SIDE, "H": SIDE, "W": SIDE}


def module(name: str) -> nn.Module:
    return attention.build(name, C, **OPTIONS.get(name, {})).eval()


def value(text: str) -> float:
    """What a formula as it is written gives for the numbers above: ``2C²/r + C``."""
    text = text.replace("²", "**2").replace("×", "*")
    return eval(re.sub(r"(?<=[\w)])(?=[A-Za-z(])", "*", text), {"__builtins__": {}}, NAMES)  # product without a sign


def canvas(width: float = 11, height: float = 2.2, layout: str | None = "constrained") -> Figure:
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def drawn(name: str, **how):
    ax = canvas(**how).add_subplot()
    assert attention_diagram(name, ax=ax) is ax
    ax.figure.canvas.draw()
    return ax


def extents(artists) -> list[tuple[float, float, float, float]]:
    return [tuple(one.get_window_extent().extents) for one in artists]


def overlap(a, b, slack: float = 0.5) -> bool:
    across, up = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return across > slack and up > slack


def inside(figure) -> None:
    """Everything that is drawn lies on the canvas."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    width, height = figure.bbox.size
    for one in figure.axes:
        box = one.get_tightbbox(renderer)
        edges = (box.x0, box.y0, width - box.x1, height - box.y1)
        assert min(edges) > -1.5, f"{one.get_title(loc='left')!r} is cut off by {-min(edges):.1f} pixels"


# ------------------------------------------------------------------------------------- the blocks: what the steps say


def test_every_family_has_a_drawing():
    assert set(BLOCKS) == set(attention.FAMILIES) - {"none"}


def events(net: nn.Module) -> list[tuple[nn.Module, torch.Size]]:
    """The layers of a module in the order in which they run, and what comes out of each, without the batch."""
    seen = []
    whole = {gsop.CovariancePool}
    for one in net.modules():
        leaf = not list(one.children()) and not isinstance(one, nn.Identity)
        if leaf or type(one) in whole:
            one.register_forward_hook(lambda layer, _, out: seen.append((layer, out.shape[1:])))
    with torch.no_grad():
        net(torch.randn(2, C, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    return seen


KINDS = {
    "global\naverage": (attention.GlobalAveragePool, nn.AdaptiveAvgPool2d),
    "global\naverage, global\nmaximum": cbam.AverageAndMaxPool,
    "maximum\nover channels, mean\nover channels": cbam.ChannelPool,
    "covariance": gsop.CovariancePool,
    "FC within": nn.Conv1d,
    "FC": nn.Linear,
    "1-D conv": nn.Conv1d,
    "w ⊙ y": attention.Diagonal,
    "ReLU": nn.ReLU,
    "BN": nn.BatchNorm2d,
    "sigmoid": nn.Sigmoid,
    "": nn.Conv2d,
}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_steps_are_the_layers_of_the_module(name):
    steps = [one if isinstance(one, tuple) else (one,) for one in BLOCKS[name]]
    steps = [one for one in steps if not one[0].round]  # sums and products are no modules
    layers = events(module(name))
    assert len(steps) == len(layers)
    for these, (layer, shape) in zip(steps, layers, strict=True):
        text = ", ".join(one.text for one in these)
        kind = KINDS.get(text) or next(kind for start, kind in KINDS.items() if text.startswith(start))
        assert isinstance(layer, kind), text
        assert these[0].learned == any(True for _ in layer.parameters(recurse=False)), text
        assert len(these) * value(these[0].shape) == shape.numel(), text
        assert not any(one.learned for one in these[1:])


@pytest.mark.parametrize("name", BLOCKS)
def test_learned_steps_are_as_many_as_layers_with_parameters(name):
    layers = [one for one in module(name).modules() if any(True for _ in one.parameters(recurse=False))]
    steps = [step for one in BLOCKS[name] for step in (one if isinstance(one, tuple) else (one,))]
    assert sum(step.learned for step in steps) == len(layers)
    assert {step.part for step in steps} <= {"squeeze", "excite", "gate"}
    assert steps[-1].shape == "C×H×W"


@pytest.mark.parametrize("name", BLOCKS)
def test_sizes_written_in_the_boxes_are_those_of_the_layers(name):
    steps = [one for one in BLOCKS[name] if not isinstance(one, tuple) and one.learned]
    layers = [layer for layer, _ in events(module(name)) if any(True for _ in layer.parameters(recurse=False))]
    for step, layer in zip(steps, layers, strict=True):
        sizes = re.fullmatch(r".*\n(\S+) → (\S+)", step.text)
        if sizes:
            ends = {"in_features", "out_features"} if isinstance(layer, nn.Linear) else {"in_channels", "out_channels"}
            assert [value(part) for part in sizes.groups()] == [getattr(layer, end) for end in sorted(ends)], step.text
        groups = re.fullmatch(r"FC within (\S+)\ngroups of (\S+)", step.text)
        if groups:
            assert [value(part) for part in groups.groups()] == [layer.groups, C / layer.groups]
        if "per row" in step.text:
            assert layer.out_channels == 4 * layer.groups == 4 * REDUCED
        if "depth-wise" in step.text:
            assert layer.groups == C
            assert layer.kernel_size == (SIDE, SIDE)
        if "7×7" in step.text:
            assert layer.kernel_size == (7, 7)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_title_counts_the_parameters(name):
    title = drawn(name).get_title(loc="left")
    assert title.startswith(f"{looks.family_name(name)}: ")
    count = title.rpartition("; ")[2].removesuffix(" parameters")
    assert (0 if count == "no" else value(count)) == sum(one.numel() for one in module(name).parameters())


# ------------------------------------------------------------------------------------------------ the blocks: the look


@pytest.mark.parametrize(("name", "height"), [*((name, 2.2) for name in BLOCKS), ("cbam", 3.4), ("gsop", 3.4)])
def test_nothing_overlaps_or_is_cut_off_and_all_can_be_read(name, height):
    ax = drawn(name, height=height)
    width, top = ax.figure.bbox.size
    texts = [*ax.texts, ax.title, ax._left_title]
    texts = [one for one in texts if one.get_text().strip()]
    boxes = extents(texts)
    for text, box in zip(texts, boxes, strict=True):
        assert text.get_fontsize() >= 7, text
        assert box[0] >= 0, text
        assert box[1] >= 0, text
        assert box[2] <= width, text
        assert box[3] <= top, text
    for (a, one), (b, other) in combinations(zip(texts, boxes, strict=True), 2):
        assert not overlap(one, other), (a, b)
    frames = sorted(set(extents(one for one in ax.patches if isinstance(one, FancyBboxPatch))))
    for a, b in combinations(frames, 2):
        same = np.abs(np.subtract(a, b)).max() < 3  # hatching and frame of one box
        assert same or not overlap(a, b)
    for text, box in zip(texts, boxes, strict=True):  # a text is in a box or outside of all of them
        for frame in frames:
            within = frame[0] < box[0] and box[2] < frame[2] and frame[1] < box[1] and box[3] < frame[3]
            assert within or not overlap(box, frame), text
    arrows = [one for one in ax.patches if isinstance(one, FancyArrowPatch)]
    lines = [
        (*np.minimum(a, b), *np.maximum(a, b))
        for line in ax.lines
        for points in [line.get_transform().transform(line.get_xydata())]
        for a, b in zip(points[:-1] - 0.5, points[1:] + 0.5, strict=True)
    ]
    for text, box in zip(texts, boxes, strict=True):
        assert not any(overlap(box, one, slack=2) for one in [*extents(arrows), *lines]), text


@pytest.mark.parametrize("name", BLOCKS)
def test_every_step_is_written_and_learned_ones_are_filled_and_hatched(name):
    ax = drawn(name)
    written = [text.get_text() for text in ax.texts]
    steps = [step for one in BLOCKS[name] for step in (one if isinstance(one, tuple) else (one,))]
    for step in steps:
        if step.round:
            assert step.text[0] in written
            assert not step.text[1:] or step.text[1:] in written
        else:
            assert step.text in written
    wanted = sum(step.learned for step in steps)
    hatched = [one for one in ax.patches if one.get_hatch()]
    assert len(hatched) == wanted + 1, "one for each, and one in the legend"
    assert all(one.get_facecolor()[3] > 0 for one in hatched)
    assert {step.part for step in steps} <= {text.removesuffix(" (gather)") for text in written}
    assert ("y" in written) or ("z = y" in written)
    assert "ω" in written
    assert written.count("C×H×W") >= 2


def test_cbam_is_one_chain_or_a_row_for_each_stage():
    for height, rows in ((2.2, 1), (3.4, 2)):
        ax = drawn("cbam", height=height)
        places = {round(text.get_position()[1], 3) for text in ax.texts if text.get_text() == "squeeze"}
        assert len(places) == rows
        assert [text.get_text() for text in ax.texts].count("×") == 2
    assert "x′ = x·ω" in [text.get_text() for text in ax.texts]


def test_it_fits_any_axes_and_takes_a_title(monkeypatch):
    figure = canvas(8, 5)
    axes = figure.subplots(3, 1)
    for ax, name in zip(axes, ("eca", "se", "gsop"), strict=True):
        attention_diagram(name, ax=ax, title=f"this is {name}")
    assert axes[0].get_title(loc="left") == "this is eca"
    inside(figure)
    for ax in axes:
        boxes = extents(text for text in ax.texts if text.get_text().strip())
        assert not any(overlap(a, b) for a, b in combinations(boxes, 2))
    fixed = drawn("cbam", layout=None)
    inside(fixed.figure)
    part = canvas(11, 4.4).subfigures(2, 1)[1].subplots()
    attention_diagram("se", ax=part)
    inside(part.figure.canvas.figure)
    monkeypatch.setattr(block_drawings, "axes_or_current", lambda _: fixed)
    assert attention_diagram("se") is fixed


@pytest.mark.parametrize("name", ["none", "senet", ""])
def test_unknown_blocks(name):
    with pytest.raises(ValueError, match=f"no block is called '{name}'. Known: se, se-var1, .*ge-theta-plus"):
        attention_diagram(name, ax=canvas().add_subplot())


# ------------------------------------------------------------------------------------------------------------- pooling


@pytest.fixture
def maps():
    """Maps whose variances differ, some of them related."""
    generator = torch.Generator().manual_seed(4)
    scale = torch.linspace(0.2, 3, 20)[torch.randperm(20, generator=generator)]
    x = torch.randn(20, 6, 7, generator=generator) * scale[:, None, None]
    x[3] += 2 * x[11]
    return x + torch.randn(20, 1, 1, generator=generator)


def panels(figure) -> dict:
    return {ax.get_title(loc="left").split(":")[0]: ax for ax in figure.axes if ax.get_title(loc="left")}


def test_poolings_are_those_of_torch_and_numpy(maps):
    figure = survey_plots.poolings(maps)
    assert isinstance(figure, views.Picture)
    FigureCanvasAgg(figure)
    inside(figure)
    by_title = panels(figure)
    order = maps.flatten(1).var(dim=1).argsort(descending=True)[:4].sort().values
    for name, pool in (
        ("average pooling", nn.functional.adaptive_avg_pool2d),
        ("maximum pooling", nn.functional.adaptive_max_pool2d),
    ):
        ax = by_title[name]
        expected = pool(maps, 1).flatten()
        tops = [segment[1] for segment in ax.collections[0].get_segments()]
        assert np.array(tops) == pytest.approx(np.stack([np.arange(20), expected], axis=1), abs=1e-6)
        assert all(segment[0][1] == 0 for segment in ax.collections[0].get_segments())
        marked = ax.lines[0].get_xydata()
        assert marked == pytest.approx(np.stack([order, expected[order]], axis=1), abs=1e-6)
        assert ax.get_ylabel()
    assert by_title["average pooling"].get_ylim() == by_title["maximum pooling"].get_ylim()
    assert by_title["average pooling"].lines[0].get_marker() != by_title["maximum pooling"].lines[0].get_marker()
    heat = by_title["second-order pooling"]
    X, M = maps.flatten(1).double().numpy(), 42
    covariance = X @ (np.eye(M) / M - np.ones((M, M)) / M**2) @ X.T
    shown = np.asarray(heat.images[0].get_array())
    assert shown == pytest.approx(covariance, abs=1e-9)
    assert shown == pytest.approx(np.cov(X, bias=True), abs=1e-9)
    low, high = heat.images[0].get_clim()
    assert -low == high == pytest.approx(np.abs(covariance).max())
    assert heat.images[0].get_cmap().name == looks.signed_map().name
    assert "20×20" in heat.get_title(loc="left")
    named = ", ".join(text.get_text() for text in heat.get_yticklabels() if text.get_text())
    assert named == ", ".join(str(int(i)) for i in order)
    drawn_maps = [ax for ax in figure.axes if ax.get_xlabel().startswith("channel ") and "mean" in ax.get_xlabel()]
    assert len(drawn_maps) == 4
    for ax, channel in zip(drawn_maps, order, strict=True):
        assert np.asarray(ax.images[0].get_array()) == pytest.approx(maps[channel].numpy(), abs=1e-6)
        text = f"channel {channel}\nmean {maps[channel].mean():.2g}\nmaximum {maps[channel].max():.2g}"
        assert ax.get_xlabel() == text.replace("-", "−")
    assert "20 feature maps of 6×7" in figure._suptitle.get_text()


def test_poolings_of_reduced_maps_and_with_the_image(maps):
    image = torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8)
    mine = canvas(12, 4.6)
    assert survey_plots.poolings(maps, 5, reduced=8, image=image, figure=mine) is mine
    inside(mine)
    heat = panels(mine)["second-order pooling"]
    kept = np.sort(np.argsort(-maps.flatten(1).numpy().var(axis=1))[:8])
    assert np.asarray(heat.images[0].get_array()) == pytest.approx(
        np.cov(maps.flatten(1).double().numpy()[kept], bias=True)
    )
    assert [text.get_text() for text in heat.get_xticklabels()] == [str(i) for i in kept]
    assert "8×8, of the maps that vary most" in heat.get_title(loc="left")
    picture = next(ax for ax in mine.axes if ax.get_xlabel() == "image")
    assert (np.asarray(picture.images[0].get_array()) == image.permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize(("shape", "channels"), [((1, 1, 1), 1), ((2, 5, 5), 2), ((130, 3, 3), 9)])
def test_poolings_of_few_and_many_maps(shape, channels):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    figure = survey_plots.poolings(x.bfloat16(), channels)
    FigureCanvasAgg(figure)
    inside(figure)
    assert panels(figure)["second-order pooling"].images[0].get_array().shape == (shape[0], shape[0])


def test_ticks_that_are_near_share_a_label():
    places, names = np.array([2, 3, 9, 30, 31, 32]), np.array([20, 21, 40, 90, 91, 92])
    assert survey_plots._joined(places, names, 4) == ["20, 21", "", "40", "90, 91, 92", "", ""]


def test_poolings_errors(maps):
    with pytest.raises(ValueError, match=r"C×H×W of one image were expected, got \(1, 20, 6, 7\)\. Take one .*x\[0\]"):
        survey_plots.poolings(maps[None])
    with pytest.raises(ValueError, match=r"got \(20,\)\.$"):
        survey_plots.poolings(maps[:, 0, 0])
    with pytest.raises(ValueError, match=r"got \(0, 6, 7\)"):
        survey_plots.poolings(maps[:0])
    for wrong in (0, 21, 2.0, True):
        with pytest.raises(ValueError, match=rf"channels must be a whole number from 1 to 20 .*, got {wrong}"):
            survey_plots.poolings(maps, wrong)
    with pytest.raises(ValueError, match=r"reduced must be a whole number from 1 to 20 \(there are 20 maps\), got 21"):
        survey_plots.poolings(maps, reduced=21)
    maps[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="feature maps must be finite; 1 of 840 numbers"):
        survey_plots.poolings(maps)


# --------------------------------------------------------------------------------------------------------- convolution


@pytest.mark.parametrize(("channels", "kernel"), [(4, 3), (8, 5), (1, 1), (2, 12)])
def test_convolutions_are_those_of_torch(channels, kernel):
    figure = survey_plots.convolutions(channels, kernel)
    FigureCanvasAgg(figure)
    inside(figure)
    axes = np.array(figure.axes).reshape(2, 2)
    for column, groups, name in ((0, 1, "ordinary"), (1, channels, "depth-wise")):
        conv = nn.Conv2d(channels, channels, kernel, groups=groups, bias=False)
        nn.init.ones_(conv.weight)
        feeds = torch.autograd.functional.jacobian(conv, torch.randn(channels, kernel, kernel))
        feeds = feeds.sum(dim=(1, 2, 4, 5)).numpy()  # output × input, the number of weights between them
        above, beneath = axes[:, column]
        assert (np.asarray(beneath.images[0].get_array()) == (feeds > 0)).all()
        assert [text.get_text() for text in beneath.texts] == [str(kernel**2)] * int((feeds > 0).sum())
        lines = {tuple(line.get_ydata()) for line in above.lines}
        assert lines == {(i, o) for o, i in np.argwhere(feeds)}
        assert name in above.get_title(loc="left")
        assert f"{len(lines)} connection" in above.get_title(loc="left")
        assert f"= {conv.weight.numel():,} weight" in beneath.get_title(loc="left")
        assert (beneath.get_xlabel(), beneath.get_ylabel()) == ("input map", "output map")
        squares = [text.get_text() for text in above.texts]
        assert {f"x{i + 1}" for i in range(channels)} | {f"z{i + 1}" for i in range(channels)} < set(squares)


def test_convolutions_tell_lines_apart_without_colour():
    above = survey_plots.convolutions(6).axes[1]
    assert len({line.get_linestyle() + str(line._unscaled_dash_pattern) for line in above.lines}) == 6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"channels": 0}, "channels must be a whole number from 1 to 8 .*, got 0"),
        ({"channels": 9}, "more lines cannot be told apart"),
        ({"channels": 4.0}, r"got 4\.0"),
        ({"kernel": 0}, "kernel must be a whole number from 1"),
    ],
)
def test_convolutions_errors(wrong, message):
    with pytest.raises(ValueError, match=message):
        survey_plots.convolutions(**wrong)


# ---------------------------------------------------------------------------------------------------------- activation


@pytest.mark.parametrize("channels", [2, 3, 64, 600])
def test_activations_are_those_of_torch(channels):
    logits = torch.randn(channels, generator=torch.Generator().manual_seed(channels))
    mine = canvas(11, 4)
    assert survey_plots.activations(logits, figure=mine) is mine
    inside(mine)
    left, right = mine.axes
    gates = {"sigmoid": logits.double().sigmoid(), "softmax": logits.double().softmax(0)}
    series = {line.get_label(): line for line in left.lines if line.get_label() in gates}
    assert series["sigmoid"].get_marker() != series["softmax"].get_marker()
    for name, values in gates.items():
        assert series[name].get_ydata() == pytest.approx(values.numpy(), rel=1e-9)
        assert f"{name}, Σω = {values.sum():.4g}" in left.get_title(loc="left")
    assert "softmax, Σω = 1" in left.get_title(loc="left").split("; ")
    assert (left.get_yscale(), right.get_xscale()) == ("log", "log")
    steps = [patch for patch in right.patches if patch.get_label().startswith(("sigmoid", "softmax"))]
    for step, values in zip(steps, gates.values(), strict=True):
        counts, edges, _ = step.get_data()
        assert counts.sum() == channels
        assert (counts == np.histogram(values.numpy(), edges)[0]).all()
    texts = [text.get_text() for text in right.get_legend().get_texts()]
    assert texts[1] == "softmax, Σω = 1"
    assert {round(float(line.get_ydata()[0]), 9) for line in left.lines[2:]} == {0.5, round(1 / channels, 9)}
    for ax in (left, right):
        assert ax.get_xlabel()
        assert ax.get_ylabel()


def test_activations_of_logits_out_of_range_stay_on_the_axis():
    figure = survey_plots.activations(torch.tensor([900.0, -900.0, 0.0, 0.0]))
    FigureCanvasAgg(figure)
    inside(figure)
    left, right = figure.axes
    assert left.lines[0].get_ydata().tolist() == [1, 1e-12, 0.5, 0.5]
    assert left.lines[1].get_ydata().tolist() == [1, 1e-12, 1e-12, 1e-12]
    assert "sigmoid, Σω = 2; softmax, Σω = 1" in left.get_title(loc="left")
    assert all(patch.get_data().values.sum() == 4 for patch in right.patches)


def test_activations_errors():
    with pytest.raises(ValueError, match=r"got shape \(3, 8\)\. Take the logits of one image, record\.logit\[0\]"):
        survey_plots.activations(torch.zeros(3, 8))
    with pytest.raises(ValueError, match=r"got shape \(1,\)"):
        survey_plots.activations(torch.zeros(1))
    with pytest.raises(ValueError, match="logits must be finite; 2 of 3"):
        survey_plots.activations(torch.tensor([0, torch.inf, torch.nan]))
