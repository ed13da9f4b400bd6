"""Explorers without a browser: traits in, pictures out."""

from __future__ import annotations

import base64
import dataclasses
import gc
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

pytest.importorskip("ipywidgets", reason="the extra `lab` is not installed")

import traitlets
from matplotlib.figure import Figure
from PIL import Image

import ecaviz
from ecaviz import (
    canvas,
    coverage_views,
    kernel_views,
    kernels,
    networks,
    readings,
    results,
    structure,
    survey,
)

pytestmark = pytest.mark.usefixtures("no_loop")
CLASSES = ("disc", "ring", "star")


def make(family: str, name: str, blocks=(2, 2, 2, 2), planes=(2, 4, 8, 16), seed: int = 0, **options):
    torch.manual_seed(seed)
    architecture = networks.Architecture(family, options, classes=3, blocks=blocks, planes=planes, stem=4)
    net = networks.build(architecture).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv1d | torch.nn.Linear) and module is not net.fc:
            module.weight.data.mul_(4)
    return dataclasses.replace(ecaviz.load(net, transform=halve, classes=CLASSES), name=name)


def halve(image):
    return image.float() / 255 - 0.5


class Drawn(torch.utils.data.Dataset):
    """uint8 images with labels."""

    classes = CLASSES

    def __init__(self, n: int = 12):
        generator = torch.Generator().manual_seed(3)
        self.x = (torch.rand(n, 3, 32, 32, generator=generator) * 255).to(torch.uint8)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], i % 3


@pytest.fixture(scope="module")
def models():
    return [
        make("se", "se-4", reduction=4),
        make("eca", "eca-5", kernel_size=5, seed=1),
        make("eca", "short", blocks=(1, 1, 1, 1), kernel_size=3, seed=2),
    ]


@pytest.fixture(scope="module")
def made(models):
    """One explorer of each kind, with the traits it started with."""
    every = {
        "layers": ecaviz.LayerExplorer(models, Drawn()),
        "kernel": ecaviz.KernelExplorer(models[1:], Drawn()),
        "coverage": ecaviz.CoverageExplorer(models, Drawn()),
        "modules": ecaviz.ModuleExplorer(),
        "rule": ecaviz.RuleExplorer(models[1:]),
    }
    for explorer in every.values():
        explorer.picture.most = 0  # no frame is kept for the next move: each is drawn
    return {name: (explorer, explorer.state.trait_values()) for name, explorer in every.items()}


def as_at_first(explorer, start):
    order = ("left", "right", "model", "layer", "channels")  # what the others depend on
    for trait in (*(t for t in order if t in start), *(t for t in start if t not in order)):
        setattr(explorer.state, trait, start[trait])
    assert explorer.error.value == ""
    return explorer


@pytest.fixture
def layers(made):
    return as_at_first(*made["layers"])


@pytest.fixture
def kernel(made):
    return as_at_first(*made["kernel"])


@pytest.fixture
def coverage(made):
    return as_at_first(*made["coverage"])


@pytest.fixture
def modules(made):
    return as_at_first(*made["modules"])


@pytest.fixture
def rule(made):
    return as_at_first(*made["rule"])


def pixels(png: bytes) -> np.ndarray:
    """On white."""
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return np.asarray(white.convert("RGB")).astype(int)


def every(request, name):
    return request.getfixturevalue(name)


MOVES = [
    ("layers", {}, {"left": "eca-5"}),
    ("layers", {}, {"right": "eca-5"}),
    ("layers", {}, {"layer": 1}),
    ("layers", {}, {"shown": "class"}),
    ("layers", {}, {"shown": "image"}),
    ("layers", {"shown": "class"}, {"of": "star"}),
    ("layers", {"shown": "image"}, {"image": 7}),
    ("layers", {}, {"channel": 3}),
    ("layers", {}, {"sort": True}),
    ("layers", {"left": "eca-5", "right": "eca-5"}, {"scale": "full"}),
    ("kernel", {}, {"model": "eca-5"}),
    ("kernel", {}, {"layer": 0}),
    ("kernel", {"model": "eca-5"}, {"k": 3}),
    ("kernel", {"model": "eca-5"}, {"k": 15}),
    ("kernel", {}, {"mode": "permute"}),
    ("kernel", {}, {"mode": "impulse"}),
    ("kernel", {"mode": "random"}, {"draw": 2}),
    ("kernel", {"mode": "permute"}, {"where": "all"}),
    ("kernel", {}, {"image": 5}),
    ("coverage", {}, {"model": "eca-5"}),
    ("coverage", {}, {"layer": 1}),
    ("coverage", {}, {"shown": "signed"}),
    ("coverage", {"shown": "signed"}, {"shown": "ordered"}),
    ("coverage", {}, {"channels": 16}),
    ("coverage", {}, {"k": 9}),
    ("coverage", {}, {"r": 4}),
    ("coverage", {"channels": 32}, {"channel": 20}),
    ("coverage", {"channels": 64}, {"channel": 63}),  # more than the trained site has
    ("modules", {}, {"left": "gsop"}),
    ("modules", {}, {"right": "ge-theta-minus"}),
    ("modules", {}, {"channels": 32}),
    ("rule", {}, {"network": "ResNet-34, released"}),
    ("rule", {"network": "eca-5"}, {"gamma": 0.5}),
    ("rule", {"gamma": 3.0}, {"b": -2.0}),
    ("rule", {"b": 1.0}, {"b": 1.25}),  # the line moves, and no step may
]


@pytest.mark.parametrize(("name", "first", "move"), MOVES, ids=[f"{n}-{next(iter(m))}" for n, _, m in MOVES])
def test_every_trait_changes_the_picture_and_its_control(request, name, first, move):
    explorer = every(request, name)
    for trait, value in first.items():
        setattr(explorer.state, trait, value)
    before = explorer.picture.value
    ((trait, value),) = move.items()
    setattr(explorer.state, trait, value)
    assert explorer.error.value == ""
    assert (pixels(explorer.picture.value) != pixels(before)).any()
    assert explorer.controls[trait].value == value


@pytest.mark.parametrize(("name", "first", "move"), MOVES, ids=[f"{n}-{next(iter(m))}" for n, _, m in MOVES])
def test_every_control_sets_its_trait(request, name, first, move):
    explorer = every(request, name)
    for trait, value in first.items():
        explorer.controls[trait].value = value
    before = explorer.picture.value
    ((trait, value),) = move.items()
    explorer.controls[trait].value = value
    assert getattr(explorer.state, trait) == value
    assert explorer.picture.value != before


ONCE = [
    *MOVES,
    ("layers", {"left": "eca-5", "right": "short"}, {"left": "short"}),  # fewer layers: layer and its options follow
    ("layers", {"left": "short", "right": "short"}, {"right": "se-4"}),
    ("layers", {"layer": 7, "channel": 63}, {"layer": 0}),  # C and the channel follow
    ("kernel", {"model": "short"}, {"model": "eca-5"}),
    ("kernel", {"model": "eca-5"}, {"model": "short"}),
    ("coverage", {"layer": 7}, {"model": "short"}),
    ("coverage", {"channel": 31}, {"layer": 0}),  # C and the channel follow
    ("coverage", {"channel": 31}, {"channels": 16}),
]


@pytest.mark.parametrize("by", ["control", "state"])
@pytest.mark.parametrize(("name", "first", "move"), ONCE, ids=[f"{n}-{next(iter(m))}" for n, _, m in ONCE])
def test_a_move_draws_once(request, monkeypatch, name, first, move, by):
    explorer = every(request, name)
    for trait, value in first.items():
        setattr(explorer.state, trait, value)
    drawn = []
    png = canvas.Canvas.png
    monkeypatch.setattr(canvas.Canvas, "png", lambda self, scene: drawn.append(scene) or png(self, scene))
    ((trait, value),) = move.items()
    if by == "control":
        explorer.controls[trait].value = value
    else:
        setattr(explorer.state, trait, value)
    assert len(drawn) == 1
    assert explorer.error.value == ""
    picture = explorer.picture.value
    explorer.controls[trait].value = value  # no change
    assert len(drawn) == 1
    anew = canvas.Canvas(explorer._panels).png(explorer.state.scene())
    rows, columns = (pixels(picture) != pixels(anew)).any(-1).nonzero()
    edge = len(rows) <= 8 and (len(rows) == 0 or 0 in (np.ptp(rows), np.ptp(columns)))  # of a letter, rounded otherwise
    assert edge, "what was drawn is not what the state says in the end"
    assert [control.value for control in explorer.controls.values()] == [
        getattr(explorer.state, trait) for trait in explorer.controls
    ]


def test_every_control_is_moved_here(made):
    for name, (explorer, _) in made.items():
        assert {trait for n, _, move in MOVES if n == name for trait in move} == set(explorer.controls)


@pytest.mark.parametrize("name", ["layers", "kernel", "coverage", "rule"])
def test_pictures_drawn_over_a_background_equal_those_drawn_anew(request, name):
    explorer = every(request, name)
    moves = [(first | move) for n, first, move in MOVES if n == name]
    for move in [*moves, *reversed(moves)]:
        for trait, value in move.items():
            setattr(explorer.state, trait, value)
        anew = canvas.Canvas(explorer._panels).png(explorer.state.scene())
        difference = np.abs(pixels(explorer.picture.value) - pixels(anew))
        assert difference.max() == 0, f"after {move}: {(difference > 0).sum()} pixels differ"


def test_fine_pictures_are_right_though_few_of_their_backgrounds_are_kept(coverage, monkeypatch):
    """There and back, over more backgrounds than are kept: those that went are drawn again."""
    fine, seen = canvas.Canvas(coverage._panels, scale=2), set()
    draw = fine._draw
    monkeypatch.setattr(fine, "_draw", lambda *panel: draw(*panel) or seen.update(fine._backgrounds))
    moves = [(first | move) for n, first, move in MOVES if n == "coverage"]
    for i, move in enumerate([*moves, *reversed(moves)]):
        for trait, value in move.items():
            setattr(coverage.state, trait, value)
        png = fine.png(coverage.state.scene())
        assert max(len(fine._backgrounds), len(fine._titles)) <= fine.most == 12
        if i > len(moves):
            anew = canvas.Canvas(coverage._panels, scale=2).png(coverage.state.scene())
            assert (pixels(png) == pixels(anew)).all(), f"after {move}"
    assert len(seen) > fine.most


@pytest.mark.parametrize("name", ["layers", "kernel", "coverage", "rule"])
def test_static_figure_is_the_same_picture(request, name):
    explorer = every(request, name)
    figure = explorer.figure()
    assert figure is not explorer._canvas().figure
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=canvas.DPI)
    difference = np.abs(pixels(file.getvalue()) - pixels(explorer.picture.value)).max(axis=2)
    assert (difference > 60).mean() < 0.0005, "the static figure shows something else"


@pytest.mark.parametrize("name", ["layers", "kernel", "coverage", "rule"])
def test_nothing_is_cut_off_and_panels_keep_apart(request, name):
    explorer = every(request, name)
    for n, first, move in MOVES:
        if n != name:
            continue
        for trait, value in (first | move).items():
            setattr(explorer.state, trait, value)
        assert_inside(explorer)


def assert_inside(explorer):
    figure = explorer.figure()
    figure.set_dpi(canvas.DPI)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    agg = FigureCanvasAgg(figure)
    agg.draw()
    for part in figure.subfigs:
        for ax in part.axes:
            box = ax.get_tightbbox(agg.get_renderer())
            edges = box.x0 - part.bbox.x0, box.y0 - part.bbox.y0, part.bbox.x1 - box.x1, part.bbox.y1 - box.y1
            what = ax.get_title(loc="left") or ax.get_ylabel()
            assert min(edges) > -1, f"{what!r} leaves its panel by {-min(edges):.1f} pixels"


def test_errors_are_shown_in_words_and_cleared(coverage):
    coverage.state.channels = 16
    good = coverage.picture.value
    coverage.controls["r"].value = 64
    assert "r = 64 leaves no hidden unit for C = 16 channels (C/r &lt; 1). Use r ≤ 16." in coverage.error.value
    assert 'role="alert"' in coverage.error.value
    assert coverage.picture.value == good
    coverage.controls["r"].value = 8
    assert coverage.error.value == ""
    assert coverage.picture.value != good


def test_an_error_half_way_leaves_no_trace(layers, monkeypatch):
    view = layers.panels.photograph
    monkeypatch.setattr(view, "update", lambda *_a, **_k: 1 / 0)
    layers.controls["layer"].value = 1
    assert "division by zero" in layers.error.value
    monkeypatch.undo()
    layers.controls["layer"].value = 2
    assert layers.error.value == ""
    anew = canvas.Canvas(layers._panels).png(layers.state.scene())
    assert (pixels(layers.picture.value) == pixels(anew)).all()


@pytest.mark.parametrize(
    ("trait", "value", "message"),
    [
        ("left", "nobody", "model: 'nobody' is not among se-4, eca-5, short"),
        ("of", "nothing", "class: 'nothing' is not among disc, ring, star"),
        ("layer", 8, "layer: 8 is not among 0 to 7"),
        ("image", -1, "image: -1 is not among 0 to 11"),
        ("channel", 32, "channel: 32 is not among 0 to 31"),
        ("page", 1, "page: 1 is not among 0 to 0"),
    ],
)
def test_a_state_refuses_what_is_not_there(layers, trait, value, message):
    with pytest.raises(traitlets.TraitError, match=message):
        setattr(layers.state, trait, value)


def test_kernel_state_refuses_an_even_k(kernel):
    with pytest.raises(traitlets.TraitError, match="odd whole number"):
        kernel.state.k = 4


@pytest.mark.parametrize("name", ["layers", "kernel", "coverage", "rule"])
def test_without_a_kernel_the_picture_is_still_there(request, name):
    explorer = every(request, name)
    bundle = explorer._repr_mimebundle_()
    kept = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert kept.mode == "RGB"
    assert kept.getpixel((1, 1)) == (255, 255, 255)
    assert (np.asarray(kept) == pixels(explorer.picture.value)).all()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.model_id
    assert bundle["text/plain"].startswith(type(explorer).__name__)
    assert "<" not in bundle["text/plain"].replace("< ", "")


@pytest.mark.parametrize("name", ["layers", "kernel", "coverage", "rule"])
def test_there_are_words_for_the_picture_and_for_every_control(request, name):
    explorer = every(request, name)
    assert len(explorer.picture.alt) > 40
    assert "<" not in explorer.picture.alt
    for control in explorer.controls.values():
        assert control.description


def test_fifty_moves_leave_no_figures_behind(layers):
    def figures():
        gc.collect()
        return sum(issubclass(type(one), Figure) for one in gc.get_objects())

    layers.state.shown = "image"
    before = figures()
    artists = len(layers._canvas().figure.findobj())
    for i in range(50):
        layers.state.layer = i % 8
        layers.state.image = i % 12
    assert layers.error.value == ""
    assert figures() == before
    assert len(layers._canvas().figure.findobj()) <= artists + 60, "artists pile up"
    assert plt.get_fignums() == []


def test_a_move_runs_no_network(models):
    model = models[0]
    explorer = ecaviz.LayerExplorer([model], Drawn(6))
    hook = model.net.register_forward_pre_hook(lambda *_: pytest.fail("the network was run"))
    try:
        explorer.state.layer = 0
        explorer.state.shown = "image"
        explorer.state.image = 5
    finally:
        hook.remove()
    assert explorer.error.value == ""


# ------------------------------------------------------------------------------------------------------- what is drawn


def test_layer_scene_holds_the_captured_gates(layers, models):
    with torch.no_grad(), ecaviz.capture(models[0]) as gates:
        models[0].net(torch.stack([halve(image) for image, _ in Drawn()]))
    state = layers.state
    state.layer = 5
    side = state.scene().left
    assert side.site == "layer3.1.se"
    assert side.values == pytest.approx(gates["layer3.1.se"].gate.numpy(), abs=1e-6)
    assert side.gates["layer2.0.se"] == pytest.approx(gates["layer2.0.se"].gate.mean(0).numpy(), abs=1e-6)
    state.shown, state.of = "class", "ring"
    side = state.scene().left
    assert side.curves["ring"] == pytest.approx(gates["layer3.1.se"].gate[1::3].mean(0).numpy(), abs=1e-6)
    state.shown, state.image = "image", 4
    side = state.scene().left
    assert side.curves["this image"] == pytest.approx(gates["layer3.1.se"].gate[4].numpy(), abs=1e-6)
    assert side.gates["layer1.0.se"] == pytest.approx(gates["layer1.0.se"].gate[4].numpy(), abs=1e-6)


def test_models_of_different_depth_are_matched(layers):
    state = layers.state
    assert state.right == "short"
    assert len(state.names) == 8
    sites = []
    for i in range(8):
        state.layer = i
        sites.append(state.scene().right.site)
    assert sites[0] == "layer1.0.se"
    assert sites[-1] == "layer4.0.se"
    assert sorted(sites) == sites
    assert state.names[7] == "8: layer4.1 | layer4.0"


def test_changing_a_model_keeps_the_depth(models):
    explorer = ecaviz.LayerExplorer(models, Drawn(6))
    explorer.state.layer = 7
    explorer.controls["left"].value = "short"
    assert explorer.state.layer == 3
    assert explorer.controls["layer"].value == 3
    assert [label for label, _ in explorer.controls["layer"].options] == [f"layer{i}.0" for i in (1, 2, 3, 4)]
    explorer.controls["left"].value = "eca-5"
    assert explorer.state.layer == 7
    assert explorer.error.value == ""


def test_the_prediction_is_told_for_an_image(layers, models):
    layers.state.shown = "image"
    layers.state.image = 3
    said = CLASSES[int(models[0].net(halve(Drawn().x[3])[None]).argmax())]
    assert f"says “{said}”" in layers.caption.value


def test_coverage_table_holds_the_numbers(coverage):
    coverage.state.channels, coverage.state.k, coverage.state.r = 64, 5, 8
    for number in ("314", "7.67%", "4,096", "12.50%", "1,024", "320"):
        assert f">{number}<" in coverage.caption.value, number


SHAPES = [
    *[("eca", c, {"kernel_size": k}) for c in (5, 16, 33, 100, 128) for k in (1, 3, 9, 63)],
    ("eca", 300, {"kernel_size": 7}),
    ("eca", 100, {"kernel_size": 9, "padding": "circular"}),
    ("eca", 33, {"kernel_size": 33, "padding": "circular"}),
    ("se", 100, {}),
    ("se-var1", 37, {}),
    ("se-gc1", 96, {}),
    ("se-gc3", 104, {}),
    ("gsop", 40, {}),
]


@pytest.mark.parametrize("cells", [7, 16, 128])
@pytest.mark.parametrize(("family", "channels", "options"), SHAPES, ids=[f"{f}-{c}" for f, c, _ in SHAPES])
def test_shares_of_pairs_are_those_of_the_whole_matrix(family, channels, options, cells):
    one = structure.structure(family, channels, **options)
    expected, side = kernel_views.pool(one.matrix.double().numpy(), cells, "mean")
    found, found_side = coverage_views.share_of_pairs(one, cells)
    assert found_side == side
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_row_is_reduced_to_its_largest_entries_with_their_signs():
    row = np.array([1.0, -3, 2, 0.5, -0.5, 0.25, 4])
    values, side = coverage_views.pool_row(row, 3)
    assert (values.tolist(), side) == ([-3.0, 0.5, 4.0], 3)
    assert coverage_views.pool_row(row, 7)[0] is row
    wide = np.random.default_rng(0).normal(size=2048)
    values, side = coverage_views.pool_row(wide, 512)
    blocks = wide.reshape(512, 4)
    assert side == 4
    assert (values == blocks[np.arange(512), np.abs(blocks).argmax(1)]).all()


def test_whom_a_gate_listens_to(coverage, models):
    coverage.state.channel, coverage.state.k = 20, 5
    J = ecaviz.interaction_matrix(models[0], "layer3.0.se", Drawn()).matrix.numpy()
    row = J[20]
    share = row**2 / (row**2).sum()
    partners = np.exp(-(share * np.log(share)).sum())
    first, second, third = np.argsort(-np.abs(row))[:3]
    site = coverage.state.scene().trained
    np.testing.assert_allclose(site.row, row, atol=1e-12)
    assert site.partners[20] == pytest.approx(partners)
    assert site.directness == pytest.approx(share[20])
    assert site.strongest == [(j, pytest.approx(row[j])) for j in (first, second, third)]
    view = coverage.panels.row
    values, edges, _ = view.bars.get_data()
    np.testing.assert_allclose(values, row, atol=1e-12)
    assert edges.tolist() == [i - 0.5 for i in range(33)]
    assert (view.span.get_x(), view.span.get_width()) == (17.5, 5)
    assert view.own.get_data()[0] == [20]
    text = f"{partners:,.1f} partners, directness {share[20]:.3f}"
    assert text in view.ax.get_title(loc="left")
    assert "may listen to channels 18 to 22; SE to all 32" in view.ax.get_title(loc="left")
    assert f"listens most to {first} ({row[first]:+.2g})".replace("-", "−") in view.ax.get_title(loc="left")
    assert text in coverage.caption.value
    found = ecaviz.coverage(ecaviz.interaction_matrix(models[0], "layer3.0.se", Drawn()))
    numbers = f"{found.rank:,}", f"{found.effective_rank:.1f}", f"{partners:.1f}", f"{found.participation_median:.1f}"
    for number in (*numbers, f"{found.directness_mean:.3f}", f"{found.parameters:,}"):
        assert f">{number}<" in coverage.caption.value, number
    assert ">5<" in coverage.caption.value, "partners that the ECA allows"
    curve = coverage.panels.curves
    assert 2 ** curve.rings["trained"].get_ydata()[0] == pytest.approx(partners)
    assert 2 ** curve.rings["eca"].get_ydata()[0] == pytest.approx(5)
    assert 2 ** curve.lines["trained"].get_ydata() == pytest.approx(np.sort(site.partners))


@pytest.mark.parametrize("model", ["se-4", "eca-5"])
def test_the_trained_matrix_in_three_ways(coverage, models, model):
    from ecaviz import locality

    coverage.state.model, coverage.state.channel = model, 9
    view = coverage.panels.third
    matrix = ecaviz.interaction_matrix(models[model == "eca-5"], "layer3.0.se", Drawn())
    J, order = matrix.matrix.numpy(), locality.seriate(matrix).order.numpy()
    expected = {"size": np.abs(J), "signed": J, "ordered": np.abs(J)[order][:, order]}
    kind = "exact" if model == "eca-5" else "realised over 12 images"
    words = {"size": f"|J|, {kind}", "signed": f"J, {kind}", "ordered": "channels ordered spectrally"}
    for shown, values in expected.items():
        coverage.state.shown = shown
        assert coverage.error.value == ""
        np.testing.assert_allclose(view.image.get_array(), values, atol=1e-12)
        top = np.abs(J).max()
        assert view.image.get_clim() == pytest.approx((-top if shown == "signed" else 0, top))
        assert view.image.get_cmap().name == ("RdBu_r" if shown == "signed" else "Greys")
        assert words[shown] in view.ax.get_title(loc="left")
        assert "(C = 32)" in view.ax.get_title(loc="left")
        place = list(order).index(9) if shown == "ordered" else 9
        assert [list(mark.get_ydata()) for mark in view.marks[:2]] == [[place], [place]]
        assert [list(mark.get_xdata()) for mark in view.marks[2:]] == [[place], [place]]
        assert ("by position" in view.ax.get_xlabel()) == (shown == "ordered")
        assert_inside(coverage)


def test_channels_follow_the_site_and_may_leave_it(coverage):
    state = coverage.state
    assert (state.channels, coverage.controls["channel"].max) == (32, 31)
    state.channel = 31
    state.layer = 1
    assert (state.channels, state.channel, coverage.controls["channel"].max) == (8, 7, 7)
    assert state.r == 8, "16 leaves no hidden unit for C = 8"
    state.layer = 7
    assert (state.channels, state.channel) == (64, 7)
    coverage.controls["model"].value = "short"
    assert (state.layer, state.channels) == (3, 64)
    state.channels = 2048
    scene = state.scene()
    assert (scene.eca.channels, scene.trained.channels, len(scene.trained.row)) == (2048, 64, 64)
    state.channel = 2000
    scene = state.scene()
    assert (scene.channel, scene.trained.channel) == (2000, 63)
    panels = coverage.panels
    assert "C = 64, its last gate, 63" in panels.row.ax.get_title(loc="left")
    assert "(C = 2,048)" in panels.eca.ax.get_title(loc="left")
    assert "(C = 64)" in panels.third.ax.get_title(loc="left")
    assert "Gate 63 (the last; there is no gate 2000)" in coverage.caption.value
    assert list(panels.eca.marks[0].get_ydata()) == [2000]
    assert list(panels.third.marks[0].get_ydata()) == [63]
    assert_inside(coverage)


@pytest.mark.parametrize(
    ("trait", "value", "message"),
    [
        ("channel", 32, "channel: 32 is not among 0 to 31"),
        ("channels", 48, "channels: 48 is not among 8, 16, 32"),
        ("k", 4, "k: 4 is not among 1, 3"),
        ("r", 3, "r: 3 is not among 1, 2"),
        ("layer", 8, "layer: 8 is not among 0 to 7"),
        ("model", "nobody", "model: 'nobody' is not among se-4, eca-5, short"),
        ("shown", "loud", "shown"),
    ],
)
def test_a_coverage_state_refuses_what_is_not_there(coverage, trait, value, message):
    with pytest.raises(traitlets.TraitError, match=message):
        setattr(coverage.state, trait, value)


@pytest.mark.parametrize("none", [None, ()])
def test_coverage_without_a_trained_site(none):
    explorer = ecaviz.CoverageExplorer(none, channels=(16, 2048))
    assert set(explorer.controls) == {"channels", "k", "r", "channel"}
    for trait, value in (("channels", 16), ("k", 9), ("r", 1), ("channel", 3), ("channels", 2048), ("k", 1)):
        before = explorer.picture.value
        setattr(explorer.state, trait, value)
        assert explorer.error.value == ""
        assert explorer.picture.value != before
        assert_inside(explorer)
    assert "trained" not in explorer.caption.value
    assert "partners, gate 3" in explorer.caption.value
    with pytest.raises(traitlets.TraitError, match="there are none"):
        explorer.state.model = "se-4"


def test_trained_sites_are_read_in_one_pass_and_never_again(models):
    runs = []
    hook = models[0].net.register_forward_pre_hook(lambda _net, args: runs.append(len(args[0])))
    try:
        explorer = ecaviz.CoverageExplorer([models[0]], Drawn(), at_most=5)
        assert sum(runs) == 5
        for trait, value in (("layer", 2), ("channel", 3), ("shown", "ordered"), ("k", 7), ("layer", 6)):
            setattr(explorer.state, trait, value)
        assert explorer.error.value == ""
        assert sum(runs) == 5
    finally:
        hook.remove()
    assert "realised over 5 images" in explorer.caption.value


def test_a_model_that_can_take_no_images_shows_its_structure(models):
    explorer = ecaviz.CoverageExplorer([dataclasses.replace(models[0], transform=None)])
    assert "|J|, structure" in explorer.panels.third.ax.get_title(loc="left")
    with pytest.raises(ValueError, match="needs a transform"):
        ecaviz.CoverageExplorer([dataclasses.replace(models[0], transform=None)], Drawn())


def test_what_coverage_cannot_show_is_said_at_once(models):
    plain = ecaviz.load(networks.build(networks.Architecture("none", classes=3, planes=(2, 2, 2, 2), stem=4)).eval())
    for net, gates in ((plain, "none"), (make("gsop", "second order", reduced=4), "gsop")):
        with pytest.raises(ValueError, match=rf"no site with an interaction matrix \(its gates: {gates}\)"):
            ecaviz.CoverageExplorer([net], Drawn(2))
    with pytest.raises(ValueError, match="images: got a int"):
        ecaviz.CoverageExplorer(models[:1], 3)
    with pytest.raises(ValueError, match="at_most"):
        ecaviz.CoverageExplorer(models[:1], Drawn(2), at_most=0)
    with pytest.raises(ValueError, match="must each hold at least one number"):
        ecaviz.CoverageExplorer((), channels=())
    with pytest.raises(ValueError, match="CoverageExplorer: sizes must be an odd whole number"):
        ecaviz.CoverageExplorer((), sizes=(2,))


def test_a_move_of_the_channel_draws_only_what_it_changes(coverage, monkeypatch):
    for channel in (20, 21):
        coverage.state.channel = channel
    drawn = []
    each = canvas._draw_each
    monkeypatch.setattr(canvas, "_draw_each", lambda artists: each([drawn.append(one) or one for one in artists]))
    coverage.state.channel = 22
    panels = coverage.panels
    assert set(panels.eca.marks) | set(panels.third.marks) | {panels.row.bars} <= set(drawn)
    assert not {panels.eca.image, panels.third.image, *panels.shape.moving, *panels.curves.lines.values()} & set(drawn)
    drawn.clear()
    coverage.state.r = 4
    assert set(drawn) == set(panels.shape.moving) - {panels.shape.heading}


def test_pictures_are_the_pixels_of_the_canvas(coverage):
    coverage.state.channel = 23
    shown = coverage._canvas().pixels()
    assert (np.asarray(Image.open(io.BytesIO(coverage.picture.value))) == shown).all()
    assert (shown[[0, -1], :, 3] == 0).all(), "the margins are not transparent"
    noise = np.random.default_rng(0).integers(0, 256, (37, 51, 4), dtype=np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(canvas.png_of(noise)))) == noise).all()


# ------------------------------------------------------------------------------------------------------- what is given


def test_images_without_labels_have_no_classes(models):
    explorer = ecaviz.LayerExplorer(models[:2], torch.rand(5, 3, 32, 32))
    assert [value for _, value in explorer.controls["shown"].options] == ["all", "image"]
    with pytest.raises(traitlets.TraitError, match="these images have no classes"):
        explorer.state.shown = "class"
    explorer.state.shown = "image"
    assert explorer.error.value == ""
    assert len(explorer.state.images) == 5


def test_a_dataloader_is_taken_up_to_a_number(models):
    loader = torch.utils.data.DataLoader([(halve(x), y) for x, y in (Drawn()[i] for i in range(12))], batch_size=5)
    (reading,), images = readings.read_all(models[:1], loader, at_most=7)
    assert len(images) == 7
    assert next(iter(reading.gates.values())).shape[0] == 7
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_of_a_large_set_images_are_taken_evenly(models):
    (reading,), images = readings.read_all(models[:1], Drawn(), at_most=4)
    assert images.note == "4 images of 12"
    assert images.labels.tolist() == [0, 1, 1, 2]  # images 0, 4, 7, 11
    x = torch.stack([halve(Drawn().x[i]) for i in (0, 4, 7, 11)])
    with torch.no_grad(), ecaviz.capture(models[0]) as gates:
        models[0].net(x)
    name = reading.names[-1]
    assert reading.gates[name] == pytest.approx(gates[name].gate.numpy(), abs=1e-6)
    assert images.pictures.shape == (4, 96, 96, 3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 5e-3)])
def test_networks_in_another_precision(models, dtype, tolerance):
    narrow = [make("se", "se-4", reduction=4), make("eca", "eca-5", kernel_size=5, seed=1)]
    for one in narrow:
        one.net.to(dtype)
    expected, _ = readings.read_all(models[:2], Drawn(), descriptors=True)
    found, _ = readings.read_all(narrow, Drawn(), descriptors=True)
    assert ecaviz.find_sites(narrow[0])[0].proof.dtype == str(dtype).removeprefix("torch.")
    for one, other in zip(found, expected, strict=True):
        assert np.concatenate([part.ravel() for part in other.gates.values()]).std() > 2 * tolerance
        for name in other.names:
            assert one.gates[name] == pytest.approx(other.gates[name], abs=tolerance)
            torch.testing.assert_close(one.descriptors[name], other.descriptors[name], rtol=0, atol=tolerance)
    for explorer in (ecaviz.LayerExplorer(narrow, Drawn(4)), ecaviz.KernelExplorer(narrow[1:], Drawn(4))):
        explorer.controls["layer"].value = 1
        assert explorer.error.value == ""


def test_a_folder_with_a_broken_file(models, tmp_path):
    for i in range(3):
        (tmp_path / "cats").mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 32, 3), 50 * i, np.uint8)).save(tmp_path / "cats" / f"{i}.png")
    (tmp_path / "cats" / "broken.png").write_bytes(b"not an image")
    crop = dataclasses.replace(models[0], transform=lambda image: halve(image)[:, :32, :32])
    with pytest.warns(UserWarning, match=r"1 file\(s\).*broken\.png"):
        explorer = ecaviz.LayerExplorer([crop], tmp_path)
    assert len(explorer.state.images) == 3
    assert explorer.controls["of"].value == "cats"


def test_two_models_of_one_name_are_told_apart(models):
    twice = [models[0], dataclasses.replace(models[1], name=models[0].name)]
    explorer = ecaviz.LayerExplorer(twice, Drawn(4))
    assert explorer.controls["left"].options == ("se-4", "se-4 #2")


def test_flags_are_left_as_found(models):
    net = models[0].net
    net.train()
    try:
        ecaviz.LayerExplorer(models[:1], Drawn(4))
        assert all(module.training for module in net.modules())
        assert not any(module._forward_hooks for module in net.modules())
    finally:
        net.eval()


def test_what_cannot_be_shown_is_said_at_once(models):
    plain = ecaviz.load(networks.build(networks.Architecture("none", classes=3, planes=(2, 2, 2, 2), stem=4)).eval())
    with pytest.raises(ValueError, match="has no channel gates that ecaviz knows"):
        ecaviz.LayerExplorer([plain], torch.rand(2, 3, 32, 32))
    with pytest.raises(ValueError, match="none is an ECA"):
        ecaviz.KernelExplorer(models[:1], Drawn(2))
    with pytest.raises(ValueError, match="KernelExplorer: sizes must be an odd whole number"):
        ecaviz.KernelExplorer(models[1:2], Drawn(2), sizes=(2, 3))
    with pytest.raises(ValueError, match="at least one model"):
        ecaviz.LayerExplorer([], Drawn(2))
    with pytest.raises(ValueError, match="images must be a dataset, a folder, a tensor or a DataLoader, got int"):
        ecaviz.LayerExplorer(models[:1], 3)
    with pytest.raises(ValueError, match="ModuleExplorer: channels must hold at least one number"):
        ecaviz.ModuleExplorer(())
    with pytest.raises(ValueError, match=r"C = 40 channels cannot be divided evenly into 16 groups \(se-gc1\)"):
        ecaviz.ModuleExplorer((40,))


@pytest.mark.parametrize("name", [one.name for one in survey.MODULES if one.name != "none"])
def test_modules_beside_each_other(modules, name):
    """Every module on either side: structure, cost, seeds and words are those of the survey and the results."""
    modules.state.left, modules.state.right, modules.state.channels = name, "se-var3", 64
    assert modules.error.value == ""
    panels, scene = modules.panels, modules.state.scene()
    np.testing.assert_array_equal(panels.pairs[0].image.get_array(), survey.structure_of(name, 64).matrix.numpy())
    left, right = panels.costs.lines
    assert left.get_ydata()[1] == survey.structure_of(name, 64).parameters
    assert right.get_ydata()[1] == 64 * 64
    model = next(one.model for one in survey.MODULES if one.name == name)
    table = results.runs()
    expected = table[table["name"] == model].set_index("seed")["accuracy"]
    assert sorted(panels.seeds.seeds[0].get_ydata()) == pytest.approx(sorted(100 * expected))
    assert scene.left.accuracies == pytest.approx((100 * expected).to_dict())
    found = results.paired_difference("shapes-se-var3", model)
    assert f"{100 * found.mean:+.1f} points" in panels.seeds.ax.get_title(loc="left")
    assert ("not significant" in panels.seeds.ax.get_title(loc="left")) == (
        not found.significant and len(found.seeds) > 1
    )
    assert f"{survey.structure_of(name, 64).parameters:,}" in modules.caption.value
    assert ("undefined" in modules.caption.value) == (name == "gsop")
    assert_inside(modules)


def test_a_module_that_is_none_is_an_error_line(modules):
    with pytest.raises(traitlets.TraitError, match=r"channels: 48 is not among 32, 64"):
        modules.state.channels = 48
    with pytest.raises(traitlets.TraitError, match="sse"):
        modules.state.left = "sse"


def test_the_rule_explorer_shows_the_rule_and_the_audit(rule, models):
    """What is drawn for every network at some γ and b is what the rule gives, and the k are those of the weights."""
    assert rule.state.network == "eca-5"  # the first that was given
    names = [f"ResNet-{n}, released" for n in (18, 34, 50, 101, 152)]
    bundled = [name for name, row in ecaviz.bundle.manifest().items() if row.family == "eca"]
    assert list(rule.controls["network"].options) == [*names, "eca-5", "short", *bundled]
    for gamma, b in ((2.0, 1.0), (1.5, -0.5), (0.5, 4.0)):
        rule.state.gamma, rule.state.b = gamma, b
        audit = ecaviz.rule_audit(models[1:], gamma, b)
        for network in ("ResNet-101, released", "short"):
            rule.state.network = network
            assert rule.error.value == ""
            source, name = ("released", "ResNet-101") if "released" in network else (network, network)
            part = audit[(audit["source"] == source) & ((audit["network"] == name) | (source != "released"))]
            stairs, table = rule.panels.staircase, rule.panels.audit
            for artist, c, k in (
                (stairs.on_planes, "planes", "rule_on_planes"),
                (stairs.on_channels, "channels", "rule_on_channels"),
                (stairs.own, "channels", "k"),
            ):
                shown = part[part[c].between(2, 4096)]
                assert artist.get_xydata().tolist() == shown[[c, k]].astype(int).to_numpy().tolist()
            assert table.mark.get_y() == pytest.approx(rule.state.names.index(network) - 0.46)
            curve = kernels.rule_curve(2, 4096, gamma, b)
            assert stairs.steps.get_ydata().tolist() == curve.paper_code.tolist()
            row = rule.state.scene().rows[rule.state.names.index(network)]
            assert row.by_planes == list(part["rule_on_planes"])
            assert row.by_timm == list(part["timm"])
            assert ", ".join(map(str, part["k"])) in rule.caption.value
            assert ", ".join(map(str, part["rule_on_channels"])) in rule.caption.value
            assert all(str(c) in rule.caption.value for c in curve.ties)
            assert_inside(rule)


def test_the_caption_of_the_rule_counts_what_no_reading_gives(rule):
    official = ecaviz.rule_audit()
    assert f"{(official.agrees_with == 'neither').sum()} have a k that no reading gives" in rule.caption.value
    assert "C = 8, 128, 2048" in rule.caption.value
    rule.state.gamma, rule.state.b = 4.0, 0.25
    assert "No C from 2 to 4096 is an exact tie." in rule.caption.value


@pytest.mark.parametrize(
    ("trait", "value", "message"),
    [
        ("gamma", 0.25, "gamma: 0.25 is not between 0.5 and 4"),
        ("gamma", float("nan"), "gamma: nan is not between"),
        ("b", 5.0, "b: 5 is not between -2 and 4"),
        ("network", "ResNet-51", "network: 'ResNet-51' is not among ResNet-18, released"),
    ],
)
def test_a_rule_state_refuses_what_is_not_there(rule, trait, value, message):
    with pytest.raises(traitlets.TraitError, match=message):
        setattr(rule.state, trait, value)


def test_the_rule_explorer_begins_as_it_is_told(models):
    alone = ecaviz.RuleExplorer(bundled=False, gamma=1, b=0)
    assert alone.state.names == [f"ResNet-{n}, released" for n in (18, 34, 50, 101, 152)]
    assert (alone.state.network, alone.state.gamma, alone.state.b) == ("ResNet-50, released", 1, 0)
    assert alone.controls["gamma"].value == 1
    twice = ecaviz.RuleExplorer(["shapes-eca-k3", models[1].net])
    assert twice.state.names[5:7] == ["shapes-eca-k3", "ResNet"]
    assert twice.state.names.count("shapes-eca-k3") == 1
    with pytest.raises(ValueError, match="rule_audit: the model has 8 gates, but none is an ECA"):
        ecaviz.RuleExplorer(models[:1])
    with pytest.raises(traitlets.TraitError, match="gamma: 9 is not between"):
        ecaviz.RuleExplorer(bundled=False, gamma=9)


def test_networks_with_long_names_and_many_stages_are_shown_whole(models):
    net = torch.nn.Sequential(*(ecaviz.attention.ECA(2**i, 2 * i + 1) for i in range(1, 13)))
    long = dataclasses.replace(models[1], net=net, name="a_network_with_a_name_that_is_too_long.pth.tar")
    explorer = ecaviz.RuleExplorer([long])
    assert explorer.error.value == ""
    assert len(explorer.state.scene().rows[5].k) == 12
    assert "a_network_with_a_name_that_is_too_long.pth.tar" in explorer.caption.value
    assert_inside(explorer)


def test_the_defaults_are_the_bundled_models():
    explorer = ecaviz.LayerExplorer(at_most=12)
    assert (explorer.state.left, explorer.state.right) == ("shapes-se-r16", "shapes-eca-k3")
    assert len(explorer.state.images) == 12
    assert explorer.error.value == ""
    assert_inside(explorer)


def test_wide_networks_of_timm_are_shown_whole():
    torch.manual_seed(0)
    model = ecaviz.load("ecaresnet50d", pretrained=False, zero_init_last=False, device="cpu")
    transform = dataclasses.replace(model, transform=lambda image: halve(image)[:, :64, :64])
    explorer = ecaviz.LayerExplorer([transform], ecaviz.images.photographs(), at_most=3)
    assert len(explorer.state.names) == 16
    assert max(part.shape[1] for part in explorer.state.readings["ecaresnet50d"].gates.values()) == 2048
    for layer in (0, 15):
        explorer.state.layer = layer
        assert explorer.error.value == ""
    assert "means of up to 8" in explorer.panels.heatmaps[0].ax.get_xlabel()
    explorer.state.sort = True
    explorer.state.shown = "image"
    assert_inside(explorer)
