"""The KernelExplorer: what it shows against whole runs of the network, and the picture before and after the answer."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from test_explorers import CLASSES, Drawn, halve, make, pixels

import ecaviz
from ecaviz import kernels, responses
from ecaviz.kernel_state import _stage
from ecaviz.kernel_views import KernelStems
from ecaviz.surgery_views import ChangeBySurgery, GateScatter, ResponseCurves, TopClasses

pytestmark = pytest.mark.usefixtures("no_loop")
INPUT = torch.stack([halve(image) for image in Drawn().x])
SITES = [f"layer{stage}.{block}.se" for stage in (1, 2, 3, 4) for block in (0, 1)]


@pytest.fixture(scope="module")
def model():
    return make("eca", "eca-5", kernel_size=5, seed=1)


@pytest.fixture(scope="module")
def shared(model):
    return ecaviz.KernelExplorer([make("eca", "short", blocks=(1, 1, 1, 1), kernel_size=3, seed=2), model], Drawn())


@pytest.fixture
def explorer(shared):
    first = {"model": "eca-5", "layer": 4, "where": "layer", "mode": "resize", "k": 3, "draw": 0, "image": 0}
    for trait, value in first.items():
        setattr(shared.state, trait, value)
    return shared


def whole_run(model, image, chosen=None, mode=None, **options):
    """Logits and gates of one image, the network run whole."""
    surgery = ecaviz.kernel_surgery(model, chosen, mode, **options) if mode else torch.no_grad()
    with torch.no_grad(), surgery, ecaviz.capture(model) as gates:
        logits = model.net(INPUT[image : image + 1])
    return logits[0], {name: record.gate[0].numpy() for name, record in gates.items()}


@pytest.mark.parametrize("where", ["layer", "stage", "all"])
@pytest.mark.parametrize("mode", ["resize", "impulse", "circular", "permute", "random"])
def test_what_is_shown_is_what_a_whole_run_gives(explorer, model, where, mode):
    state = explorer.state
    state.mode, state.where, state.layer, state.image, state.draw, state.k = mode, where, 5, 7, 2, 3
    chosen = {"layer": SITES[5:6], "stage": SITES[4:6], "all": None}[where]
    options = {"kernel_size": 3} if mode == "resize" else {"seed": 2}
    logits, before = whole_run(model, 7)
    others, after = whole_run(model, 7, chosen, mode, **options)
    scene = state.scene()
    assert scene.exact
    assert scene.before == pytest.approx(before[SITES[5]], abs=1e-6)
    assert scene.after == pytest.approx(after[SITES[5]], abs=1e-6)
    assert np.abs(scene.after - scene.before).max() > 1e-4  # it does change something
    for shown, truth in ((scene.classes, logits), (scene.others, others)):
        shares = truth.softmax(0)
        order = shares.argsort(descending=True).tolist()
        assert [name for name, _ in shown] == [CLASSES[i] for i in order]
        assert [share for _, share in shown] == pytest.approx([float(shares[i]) for i in order], abs=1e-6)
    divergence = float((logits.softmax(0) * (logits.log_softmax(0) - others.log_softmax(0))).sum())
    said = float(explorer.caption.value.partition("KL(before ‖ now) = ")[2].split(" ")[0])
    assert said == pytest.approx(divergence, rel=0.01, abs=1e-6)
    assert explorer.error.value == ""


def test_the_first_picture_has_the_gates_of_the_site_alone(explorer, model):
    state = explorer.state
    state._answers.clear()
    explorer.picture.clear()
    with state.hold_trait_notifications():
        state.where, state.layer, state.k, state.image = "all", 4, 1, 3
        scene = state.scene(wait=False)
    assert not scene.exact
    assert scene.others is None
    with torch.no_grad(), ecaviz.capture(model) as gates:
        model.net(INPUT[3:4])
    record = gates[SITES[4]]
    alone = kernels.gates_for_kernel(record.descriptor, kernels.resize_kernel(record.site.kernel, 1))[0]
    assert scene.after == pytest.approx(alone.numpy(), abs=1e-6)
    later = state.scene()
    assert later.exact
    assert np.abs(later.after - scene.after).max() > 1e-5  # the layers before are changed too


def test_the_change_by_surgery_is_that_of_all_images(explorer, model):
    state = explorer.state
    state.layer, state.draw = 3, 1
    scene = state.scene()
    with torch.no_grad(), ecaviz.capture(model) as gates:
        model.net(INPUT)
    original = gates[SITES[3]].gate

    def change(mode, **options):
        with (
            torch.no_grad(),
            ecaviz.kernel_surgery(model, SITES[3], mode, **options),
            ecaviz.capture(model) as after,
        ):
            model.net(INPUT)
        return float((after[SITES[3]].gate - original).abs().mean())

    expected = [change("resize", kernel_size=k) for k in scene.sizes]
    assert scene.by_size == pytest.approx(expected, abs=1e-6)
    assert scene.by_size[2:] == pytest.approx(0, abs=1e-7)  # zeros beyond the trained kernel change nothing
    assert scene.by_mode == pytest.approx([change(mode, seed=1) for mode in scene.modes], abs=1e-6)


def test_kernel_and_response_are_those_of_the_surgery(explorer):
    state = explorer.state
    kernel = state.site.kernel
    scene = state.scene()
    assert scene.other == pytest.approx(kernels.resize_kernel(kernel, 3).numpy())
    f = responses.frequency_response
    assert scene.gain == pytest.approx(f(kernel, scene.frequencies).magnitude.numpy())
    assert scene.other_gain == pytest.approx(
        f(torch.tensor(scene.other), scene.frequencies).magnitude.numpy(), abs=1e-6
    )
    band = responses.null_band(5, scene.frequencies)
    assert scene.band[0] == pytest.approx(band["null_low"].to_numpy())
    assert scene.band[1] == pytest.approx(band["null_high"].to_numpy())
    state.mode = "random"
    scene = state.scene()
    assert np.linalg.norm(scene.other) == pytest.approx(float(kernel.norm()), rel=1e-5)
    state.mode = "impulse"
    assert np.flatnonzero(state.scene().other).tolist() == [2]
    state.mode = "permute"
    assert state.scene().other is None


def test_in_a_loop_the_picture_comes_first_and_is_completed(explorer, monkeypatch):
    state, told = explorer.state, []
    state._answers.clear()
    explorer.picture.clear()
    run = state.run

    def watched():
        told.append("network")
        return run()

    monkeypatch.setattr(state, "run", watched)
    explorer.picture.observe(lambda change: told.append("picture"), "value")

    async def moves():
        state.k = 1
        assert told == ["picture"]
        assert "the network is being run" in explorer.caption.value
        first = explorer.picture.value
        await asyncio.sleep(3 * explorer.pause)
        assert told == ["picture", "network", "picture"]
        assert "instead of" in explorer.caption.value or "still says" in explorer.caption.value
        assert (pixels(first) != pixels(explorer.picture.value)).any()
        del told[:]
        state.k = 5
        state.k = 7  # before the network was run for the other
        await asyncio.sleep(3 * explorer.pause)
        assert told == ["picture", "picture", "network", "picture"]
        del told[:]
        state.k = 1  # known
        await asyncio.sleep(3 * explorer.pause)
        assert told == ["picture"]

    asyncio.run(moves())
    explorer.picture.unobserve_all()
    assert explorer.error.value == ""


def test_an_error_of_the_network_is_told_in_the_widget(explorer, monkeypatch):
    state = explorer.state
    state._answers.clear()
    explorer.picture.clear()
    monkeypatch.setattr(state, "run", lambda: (_ for _ in ()).throw(RuntimeError("out of memory")))

    async def move():
        state.k = 1
        await asyncio.sleep(3 * explorer.pause)

    asyncio.run(move())
    assert "out of memory" in explorer.error.value
    assert explorer.picture.value  # the first picture stays


def test_controls_that_a_mode_has_no_use_for_are_off(explorer):
    for mode in ("resize", "impulse", "circular", "permute", "random"):
        explorer.controls["mode"].value = mode
        assert explorer.controls["k"].disabled == (mode != "resize")
        assert explorer.controls["draw"].disabled == (mode not in ("permute", "random"))


def test_the_model_is_left_as_it_was(explorer, model):
    before = whole_run(model, 0)[0]
    for mode in ("resize", "permute", "random"):
        explorer.state.mode, explorer.state.where = mode, "all"
    assert torch.equal(whole_run(model, 0)[0], before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.net.modules())


def test_runs_of_images_are_kept_and_not_all(explorer, monkeypatch):
    state = explorer.state
    monkeypatch.setattr("ecaviz.kernel_state.RUNS", 2)
    for image in (0, 1, 2):
        state.image = image
    assert list(state._runs)[-2:] == [("eca-5", 1), ("eca-5", 2)]
    assert len(state._runs) == 2


@pytest.mark.parametrize(
    ("names", "stages"),
    [
        (["layer1.0.se", "layer1.1.se", "layer2.0.se"], ["layer1", "layer1", "layer2"]),
        (["stages.0.0.attn", "stages.0.1.attn", "stages.1.0.attn"], ["stages.0", "stages.0", "stages.1"]),
        (["net.layer1.0.se", "net.layer2.0.se"], ["net.layer1", "net.layer2"]),
        (["layer4.0.se", "layer4.1.se"], ["layer4.0", "layer4.1"]),
        (["gate"], ["gate"]),
    ],
)
def test_the_stage_of_a_site(names, stages):
    assert [_stage(name, names) for name in names] == stages


def test_what_is_shown_without_a_kernel_is_complete(explorer):
    explorer.state._answers.clear()
    explorer.picture.clear()

    async def cell():
        explorer.state.k = 1
        return explorer._repr_mimebundle_()

    shown = asyncio.run(cell())
    assert "is being run" not in shown["text/plain"]
    assert explorer.state.answered()


def test_a_closed_explorer_asks_the_network_nothing(model, monkeypatch):
    own = ecaviz.KernelExplorer([model], Drawn(4))
    monkeypatch.setattr(own.state, "run", lambda: pytest.fail("the network was run"))

    async def moves():
        own.state.k = 1
        own.close()
        await asyncio.sleep(3 * own.pause)

    asyncio.run(moves())
    assert own.error.value == ""


def test_no_size_is_an_error(model):
    with pytest.raises(ValueError, match="sizes must hold at least one"):
        ecaviz.KernelExplorer([model], Drawn(2), sizes=())


@pytest.fixture
def ax():
    from matplotlib.figure import Figure

    return Figure().subplots()


def test_views_draw_what_they_are_given(ax):
    view = TopClasses(ax)
    view.update([("a", 0.7), ("b" * 40, 0.2)], None)
    assert [bar.get_width() for bar in view.left[:3]] == [-0.7, -0.2, 0]
    assert [text.get_text() for text in view.right_names[:2]] == ["…", ""]
    assert view.left_names[1].get_text() == f"{'b' * 20}…  20 %"
    view.update([("a", 0.7)], [("c", 0.6), ("a", 0.3)])
    assert [bar.get_width() for bar in view.right[:3]] == [0.6, 0.3, 0]
    assert view.right_names[0].get_text() == "c  60 %"
    assert view.left_names[1].get_text() == ""


def test_the_other_views_draw_what_they_are_given():
    from matplotlib.figure import Figure

    axes = Figure().subplots(2, 2).ravel()
    f = np.linspace(0, 0.5, 5)
    response = ResponseCurves(axes[0])
    response.update(f, f + 1, f + 2, (f, f + 3), top=4.0)
    assert response.before.get_ydata() == pytest.approx(f + 1)
    assert response.after.get_ydata() == pytest.approx(f + 2)
    assert response.band.get_xy()[:5, 1] == pytest.approx(f)
    assert response.band.get_xy()[5:10, 1] == pytest.approx((f + 3)[::-1])
    response.update(f, f, None, (f, f), top=4.0)
    assert len(response.after.get_ydata()) == 0
    gates = GateScatter(axes[1])
    gates.update(np.array([0.1, 0.2]), np.array([0.3, 0.4]), limits=(0.0, 0.5))
    assert gates.points.get_xydata().tolist() == [[0.1, 0.3], [0.2, 0.4]]
    change = ChangeBySurgery(axes[2])
    change.update([1, 3, 5], np.array([0.3, 0.2, 0.0]), ["x", "y"], np.array([0.5, np.nan]), "x", 5)
    assert change.here.get_xydata().tolist() == [[3.6, 0.5]]
    assert change.line.get_ydata().tolist() == [0.3, 0.2, 0.0]
    assert [text.get_text() for text in axes[2].get_xticklabels()] == ["1", "3", "5", "x", "y"]
    assert change.trained.get_xdata()[0] == 2
    stems = KernelStems(axes[3], "now")
    stems.update(np.array([1.0, 2.0, 3.0]), np.array([2.0]))
    assert [text.get_text() for text in axes[3].get_legend().get_texts()] == ["learned", "now"]
