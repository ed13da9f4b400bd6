"""Figures of one block, for every family: each panel holds what was captured or what the module's weights are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

import ecaviz
from ecaviz import attention, block_panels, looks, plots

NAMES = [name for name in attention.FAMILIES if name != "none"]
DRAWN = [0, 3, 5, 9, 30]


def run(name, channels=32, size=(6, 7), site="1", **options):
    """What went into a site of a small network with random weights, and its record; three images."""
    torch.manual_seed(0)
    if name in ("ge-theta", "ge-theta-plus") and "extent" not in options:
        options["size"] = size
    options = {"gsop": {"reduced": 8}, "se": {"reduction": 4}, "cbam": {"reduction": 4}}.get(name, {}) | options
    net = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), attention.build(name, channels, **options))
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):  # as after some training
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
    return read(net.eval(), torch.randn(3, 3, *size), site)


def read(net, x, site):
    maps = {}
    hook = net.get_submodule(site).register_forward_pre_hook(lambda _m, args: maps.update(x=args[0].clone()))
    with torch.no_grad(), ecaviz.capture(net) as gates:
        net(x)
    hook.remove()
    return maps["x"], gates[site]


def channel_site(name):
    return "1.channel" if name == "cbam" else "1"


def drawn(figure):
    """What each of the six steps holds: the Axes of its part of the figure, without those of colour bars."""
    rows = figure.subfigs
    parts = [part for row in rows for part in row.subfigs]
    return [[ax for ax in part.axes if not hasattr(ax, "_colorbar")] for part in parts]


def inside(figure):
    """Nothing is cut off, and the headings of neighbours do not overlap."""
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    width, height = figure.bbox.size
    boxes = [ax.get_tightbbox(renderer) for ax in figure.axes]
    for box in boxes:
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -1.5
    for row in figure.subfigs:
        ends = 0
        for part in row.subfigs:
            texts = [part._suptitle] if part._suptitle else [ax._left_title for ax in part.axes]
            found = [text.get_window_extent(renderer) for text in texts if text.get_text()]
            assert min(box.x0 for box in found) > ends
            ends = max(box.x1 for box in found)
        assert ends < width


def heading(figure, step):
    part = figure.subfigs[(step - 1) // 3].subfigs[(step - 1) % 3]
    return part.get_suptitle() or part.axes[0].get_title(loc="left")


def image(ax):
    return np.asarray(ax.images[0].get_array())


def bars(ax, series=0):
    """Heights of the bars, and of those marked."""
    lines = [part for part in ax.collections if isinstance(part, LineCollection)][series]
    return np.array([segment[1, 1] for segment in lines.get_segments()]), ax.lines[series].get_ydata()


def holds_bars(ax, expected, series=0):
    heights, marked = bars(ax, series)
    assert heights == pytest.approx(expected.numpy())
    assert marked == pytest.approx(expected[DRAWN].numpy())
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def holds_maps(axes, expected, labels=None):
    assert len(axes) == len(expected)
    for ax, one in zip(axes, expected, strict=True):
        assert image(ax) == pytest.approx(one.numpy(), abs=1e-6)
    if labels is not None:
        assert [ax.get_title() for ax in axes] == labels


def holds_weights(name, module, axes):
    """Step 3 against the parameters of the excitation; and words where there are none."""
    ax, excite = axes[0], module.excite
    if name == "eca":
        assert ax.lines[1].get_ydata() == pytest.approx(excite.conv.weight.detach().flatten().numpy())
        return
    if name == "se-var2":
        holds_bars(ax, excite.weight.detach())
        return
    if name in ("se-var1", "ge-theta-minus", "ge-theta"):
        learned = "what is learned is in the gather" if name == "ge-theta" else "nothing to learn"
        assert ax.texts[0].get_text() == f"z = y: {learned}"
        return
    matrices = {
        "se": lambda: [excite.fc1.weight, excite.fc2.weight.T],
        "se-var3": lambda: [excite.weight],
        "se-gc1": lambda: [torch.block_diag(*excite.conv.weight[..., 0].chunk(16))],
        "se-gc2": lambda: [torch.block_diag(*excite.conv.weight[..., 0].chunk(2))],
        "se-gc3": lambda: [torch.block_diag(*excite.conv.weight[..., 0].chunk(4))],
        "eca-ns": lambda: [excite.conv.weight[:, 0].T],
        "gsop": lambda: [excite.conv.weight[:, :, 0, 0].T],
        "ge-theta-plus": lambda: [excite[1].weight[..., 0, 0], excite[3].weight[..., 0, 0].T],
    }
    expected = [part.detach() for part in matrices["se" if name == "cbam" else name]()]
    holds_maps(axes, expected)
    limit = max(float(part.abs().max()) for part in expected)
    assert all(one.images[0].get_clim() == pytest.approx((-limit, limit)) for one in axes)
    assert all(one.get_ylabel() for one in axes)
    assert axes[-1].get_xlabel()
    if name == "eca-ns":
        assert ax.get_ylim() == (1.5, -1.5), "the first row is the neighbour before, offset −1"
    if name == "gsop":
        assert ax.get_ylim() == (7.5, -0.5), "four weights for each of the eight rows"


# ---------------------------------------------------------------------------------------------------- attention_block


@pytest.mark.parametrize("name", NAMES)
def test_block_of_every_family_draws_what_was_captured(name):
    x, record = run(name, site=channel_site(name))
    photo = (torch.rand(3, 20, 30) * 255).to(torch.uint8)
    figure = plots.attention_block(x, record, row=2, image=photo, channels=DRAWN)
    maps, squeeze, excite, logits, gates, rescaled = drawn(figure)
    assert maps[0].get_title() == "image"
    assert (image(maps[0]) == photo.permute(1, 2, 0).numpy()).all()
    holds_maps(maps[1:], x[2, DRAWN], [f"channel {c}" for c in DRAWN])
    y = record.descriptor[2]
    if name == "cbam":
        for series, (what, values) in enumerate({"maximum": x[2].amax((1, 2)), "mean": x[2].mean((1, 2))}.items()):
            holds_bars(squeeze[0], values, series)
            assert squeeze[0].get_legend().get_texts()[series].get_text() == what
        assert bool((y == torch.stack([x[2].mean((1, 2)), x[2].amax((1, 2))])).all())
        assert to_rgb(squeeze[0].lines[0].get_color()) != to_rgb(squeeze[0].lines[1].get_color())
        assert squeeze[0].lines[0].get_marker() != squeeze[0].lines[1].get_marker()
    elif name == "gsop":
        assert image(squeeze[0]) == pytest.approx(y.numpy())
        low, high = squeeze[0].images[0].get_clim()
        assert -low == high == pytest.approx(float(y.abs().max()))
    else:
        holds_bars(squeeze[0], y)
        if name not in ("ge-theta", "ge-theta-plus"):
            assert heading(figure, 2).endswith("mean of each map")
            torch.testing.assert_close(y, x[2].mean((1, 2)))
    holds_weights(name, record.site.module, excite)
    holds_bars(logits[0], record.logit[2])
    holds_bars(gates[0], record.gate[2])
    assert record.gate[2].std() > 1e-3
    assert gates[0].get_ylim() == (0, 1)
    holds_maps(
        rescaled,
        x[2, DRAWN] * record.gate[2, DRAWN, None, None],
        [f"ω = {gate:.2f}" for gate in record.gate[2, DRAWN]],
    )
    limits = [ax.images[0].get_clim() for ax in [*maps[1:], *rescaled]]
    assert len(set(limits)) == 1
    assert limits[0] == pytest.approx((float(x[2, DRAWN].min()), float(x[2, DRAWN].max())))
    assert figure.get_suptitle().startswith(record.site.name)
    assert looks.setting(record.site) in figure.get_suptitle()
    inside(figure)


@pytest.mark.parametrize("name", ["ge-theta-minus", "ge-theta", "ge-theta-plus"])
def test_block_of_patches_is_drawn_as_maps(name):
    """13×10 is no multiple of the extent: the gates are brought back as the module does it."""
    x, record = run(name, size=(13, 10), extent=2)
    figure = plots.attention_block(x, record, row=1, channels=DRAWN)
    maps, squeeze, excite, logits, gates, rescaled = drawn(figure)
    names = [f"channel {c}" for c in DRAWN]
    holds_maps(maps, x[1, DRAWN], names)
    holds_maps(squeeze, record.descriptor[1, DRAWN], names)
    assert "7×5" in heading(figure, 2)
    holds_maps(logits, record.logit[1, DRAWN], names)
    holds_maps(gates, record.gate[1, DRAWN], names)
    assert {ax.images[0].get_clim() for ax in gates} == {(0, 1)}
    with torch.no_grad():
        out = record.site.module(x)
    holds_maps(rescaled, out[1, DRAWN], [f"mean ω = {gate:.2f}" for gate in record.by_channel[1, DRAWN]])
    assert len(excite) == (2 if name == "ge-theta-plus" else 1)
    inside(figure)


def test_block_of_a_spatial_gate():
    x, record = run("cbam", site="1.spatial")
    figure = plots.attention_block(x, record, row=1, channels=DRAWN)
    maps, squeeze, excite, logits, gates, rescaled = drawn(figure)
    holds_maps(maps, x[1, DRAWN])
    holds_maps(squeeze, [x[1].amax(0), x[1].mean(0)], ["maximum", "mean"])
    kernel = record.site.module.excite.conv.weight.detach()[0]
    holds_maps(excite, kernel, ["of the maximum", "of the mean"])
    limit = float(kernel.abs().max())
    assert all(ax.images[0].get_clim() == pytest.approx((-limit, limit)) for ax in excite)
    holds_maps(logits, record.logit[1])
    holds_maps(gates, record.gate[1], ["all channels"])
    with torch.no_grad():
        out = record.site.module(x)
    holds_maps(rescaled, out[1, DRAWN], [f"channel {c}" for c in DRAWN])
    assert "C = 32" in figure.get_suptitle()
    inside(figure)


@pytest.mark.parametrize("name", ["se", "ge-theta-minus", "cbam"])
def test_a_number_of_channels_is_spread_from_the_smallest_to_the_largest(name):
    options = {"extent": 2} if name == "ge-theta-minus" else {}
    x, record = run(name, site="1.spatial" if name == "cbam" else "1", **options)
    maps, *_ = drawn(plots.attention_block(x, record, channels=3))
    order = x[0].mean((1, 2)) if name == "cbam" else record.by_channel[0]
    found = [int(ax.get_title().removeprefix("channel ")) for ax in maps]
    assert found[0] == int(order.argmin())
    assert found[2] == int(order.argmax())
    assert order[found[0]] <= order[found[1]] <= order[found[2]]


def test_more_channels_than_there_are_are_all():
    x, record = run("se", channels=8, size=(2, 2))
    maps, *_ = drawn(plots.attention_block(x, record, channels=40))
    assert sorted(ax.get_title() for ax in maps) == [f"channel {c}" for c in range(8)]


def test_blocks_of_timm_and_torchvision():
    """Their modules keep their parts elsewhere; torchvision's gate is no sigmoid."""
    from timm.layers import CecaModule, EcaModule, SEModule
    from torchvision.ops.misc import SqueezeExcitation

    x = torch.randn(2, 32, 5, 5)
    torch.manual_seed(0)
    for module in (
        EcaModule(32),
        CecaModule(32),
        SEModule(32),
        SEModule(32, add_maxpool=True),
        SqueezeExcitation(32, 8, scale_activation=nn.Hardsigmoid),
    ):
        maps, record = read(nn.Sequential(module).eval(), x, "0")
        figure = plots.attention_block(maps, record, channels=DRAWN)
        _, squeeze, excite, _, gates, _ = drawn(figure)
        holds_bars(squeeze[0], record.descriptor[0])
        pooled = (x[0].mean((1, 2)) + x[0].amax((1, 2))) / 2
        half = torch.allclose(record.descriptor[0], pooled, atol=1e-6)
        assert heading(figure, 2).endswith("half mean, half maximum" if half else "mean of each map")
        assert half == getattr(module, "add_maxpool", False)
        holds_bars(gates[0], record.gate[0])
        assert ("hardsigmoid" if isinstance(module, SqueezeExcitation) else "σ") in heading(figure, 5)
        if record.site.family == "eca":
            assert excite[0].lines[1].get_ydata() == pytest.approx(record.site.kernel.numpy())
        else:
            assert image(excite[1]) == pytest.approx(record.site.bottleneck[2].T.numpy())


def test_a_module_of_ones_own_says_what_it_is():
    class Cubed(nn.Module):
        def forward(self, y):
            return y**3

    class Own(attention.ChannelAttention):
        family = "own"

        def __init__(self):
            super().__init__(12)
            self.squeeze, self.excite = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()), Cubed()

    x, record = read(nn.Sequential(Own()), torch.randn(2, 12, 5, 5), "0")
    _, squeeze, excite, *_ = drawn(plots.attention_block(x, record))
    assert bars(squeeze[0])[0] == pytest.approx(x[0].amax((1, 2)).numpy())
    assert "mean" not in squeeze[0].get_title(loc="left")
    assert excite[0].texts[0].get_text() == "z = Cubed(y)"


def test_wide_blocks_are_readable_and_not_cut_off():
    for name in ("se-var3", "se"):
        x, record = run(name, channels=300, size=(3, 3))
        figure = plots.attention_block(x, record)
        inside(figure)
    _, _, excite, *_ = drawn(figure)
    w1 = record.site.module.excite.fc1.weight.detach()
    assert image(excite[0]) == pytest.approx(
        torch.stack([part.gather(1, part.abs().argmax(1, keepdim=True))[:, 0] for part in w1.split(3, dim=1)], 1)
    )
    bar = next(ax for ax in excite[0].figure.axes if hasattr(ax, "_colorbar"))
    assert bar.get_ylabel() == "weight, largest of 1×3 each"
    assert excite[0].get_xlim() == (-0.5, 299.5)


def test_pooled_keeps_the_largest_of_each_block():
    values = np.random.default_rng(0).standard_normal((130, 300))
    shown, sides = block_panels._pooled(values)
    assert sides == (2, 3)
    assert shown.shape == (65, 100)
    for i in (0, 64):
        for j in (0, 99):
            block = values[2 * i : 2 * i + 2, 3 * j : 3 * j + 3].ravel()
            assert shown[i, j] == block[np.abs(block).argmax()]
    shown, _ = block_panels._pooled(values[:129, :298])
    assert shown[64, 99] == values[128, 297]


def test_what_does_not_fit_a_block_is_said():
    x, record = run("se")
    with pytest.raises(ValueError, match=r"C = 32 channels; feature maps C×H×W of that C were expected, got \(8, 4, 4"):
        plots.attention_block(torch.zeros(1, 8, 4, 4), record)
    with pytest.raises(ValueError, match=r"expected, got \(7,\)"):
        plots.attention_block(x[0, 0], record)
    with pytest.raises(ValueError, match=r"a number of at least 1, or some of 0 to 31; got \[32\]"):
        plots.attention_block(x, record, channels=[32])
    with pytest.raises(ValueError, match=r"a number of at least 1, or some of 0 to 31; got 0"):
        plots.attention_block(x, record, channels=0)
    _, record = run("ge-theta", extent=2)
    with pytest.raises(ValueError, match=r"of that C, of 3×4 patches of 2×2, were expected, got \(32, 9, 7\)"):
        plots.attention_block(torch.zeros(32, 9, 7), record)
    _, record = run("cbam", site="1.spatial")
    with pytest.raises(ValueError, match=r"gates of 6×7 positions; .* of that size were expected, got \(32, 6, 6\)"):
        plots.attention_block(torch.zeros(32, 6, 6), record)


# ---------------------------------------------------------------------------------------------------------- gate_maps


def grid(figure):
    """The Axes in rows, without the colour bar's."""
    FigureCanvasAgg(figure)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    for ax in figure.axes:
        box = ax.get_tightbbox(renderer)
        assert min(box.x0, box.y0, figure.bbox.width - box.x1, figure.bbox.height - box.y1) > -1.5
    axes = [ax for ax in figure.axes if ax.images]
    columns = len({round(ax.get_position().x0, 3) for ax in axes})
    return np.array(axes, dtype=object).reshape(-1, columns)


def test_gate_maps_of_patches():
    _, record = run("ge-theta", size=(12, 8), extent=2)
    photos = [(torch.rand(3, 24, 16) * 255).to(torch.uint8) for _ in range(3)]
    figure = plots.gate_maps(record, photos, rows=[0, 2], channels=[4, 1])
    axes = grid(figure)
    assert axes.shape == (3, 2)
    for column, row in enumerate((0, 2)):
        assert (image(axes[0, column]) == photos[row].permute(1, 2, 0).numpy()).all()
        assert axes[0, column].get_title() == f"image {row}"
        for line, channel in ((1, 4), (2, 1)):
            values = record.gate[row, channel]
            assert image(axes[line, column]) == pytest.approx(values.numpy())
            assert axes[line, column].get_xlabel() == f"{values.min():.2f} … {values.max():.2f}"
            assert axes[line, column].images[0].get_clim() == (0, 1)
            assert axes[line, column].images[0].get_cmap().name == looks.GATE_MAP
    labels = [ax.get_ylabel() for ax in axes[1:, 0]]
    assert labels == [f"channel {c}\nmean ω = {record.gate[:, c].mean():.2f}" for c in (4, 1)]
    assert [ax.get_ylabel() for ax in figure.axes].count("gate ω") == 1
    assert figure.get_suptitle() == "1: GE-θ, e=2, gate maps of 6×4"


def test_gate_maps_choose_channels_from_the_smallest_mean_to_the_largest():
    _, record = run("ge-theta-minus", extent=2)
    axes = grid(plots.gate_maps(record))
    assert axes.shape == (3, 3), "three images are all there are; without pictures there is no line for them"
    mean = record.by_channel.mean(0)
    first, last = (int(axes[i, 0].get_ylabel().split("\n")[0].removeprefix("channel ")) for i in (0, 2))
    assert (first, last) == (int(mean.argmin()), int(mean.argmax()))


def test_gate_maps_of_positions():
    _, record = run("cbam", site="1.spatial")
    pairs = [((torch.rand(3, 12, 14) * 255).to(torch.uint8), 0) for _ in range(3)]
    figure = plots.gate_maps(record, pairs, rows=2)
    axes = grid(figure)
    assert axes.shape == (2, 2)
    for column, row in enumerate((0, 2)):
        assert (image(axes[0, column]) == pairs[row][0].permute(1, 2, 0).numpy()).all()
        assert image(axes[1, column]) == pytest.approx(record.gate[row, 0].numpy())
    assert axes[1, 0].get_ylabel() == f"all channels\nmean ω = {record.gate.mean():.2f}"
    given = Figure(figsize=(5, 3), layout="constrained")
    assert plots.gate_maps(record, figure=given) is given
    assert "CBAM, spatial" in given.get_suptitle()


def test_what_does_not_fit_gate_maps_is_said():
    _, record = run("se")
    with pytest.raises(ValueError, match=r"1 are one number a channel.*positions.*gate_heatmap or gate_distribution"):
        plots.gate_maps(record)
    _, record = run("ge-theta", extent=2)
    with pytest.raises(ValueError, match=r"one image a row of the record was expected, got 2 for 3 rows"):
        plots.gate_maps(record, torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"gate_maps: rows are a number of at least 1, or some of 0 to 2; got \[3\]"):
        plots.gate_maps(record, rows=[3])
    with pytest.raises(ValueError, match=r"gate_maps: channels are .* some of 0 to 31; got \[-1\]"):
        plots.gate_maps(record, channels=[-1])


# ------------------------------------------------------------------------------- heat maps and distributions of records


@pytest.fixture
def ax():
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


@pytest.fixture
def several():
    """Records of a network whose gates are of all three kinds."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3), attention.build("ge-theta-minus", 32, extent=2), attention.build("cbam", 32)
    )
    nn.init.ones_(net[2].spatial.excite.norm.weight)
    with torch.no_grad(), ecaviz.capture(net.eval()) as gates:
        net(torch.randn(3, 3, 9, 9))
    return gates


def test_heatmap_of_records_of_all_kinds(ax, several):
    plots.gate_heatmap(several, ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1 (32)", "2.channel (32)"]
    rows = image(ax)
    assert rows[0] == pytest.approx(several["1"].gate.mean((0, 2, 3)).numpy())
    assert rows[1] == pytest.approx(several["2.channel"].gate.mean(0).numpy())
    assert ax.get_title(loc="left") == "mean gate by layer and channel\n(mean over the map)"
    with pytest.raises(ValueError, match=r"there are no gates to draw.*gate_maps"):
        plots.gate_heatmap({"2.spatial": several["2.spatial"]}, ax=ax)


def test_heatmap_says_so_only_where_a_mean_over_the_map_is_shown(ax, several):
    plots.gate_heatmap({"2.channel": several["2.channel"], "plain": torch.rand(4, 8)}, ax=ax)
    assert ax.get_title(loc="left") == "mean gate by layer and channel"


def test_heatmap_of_a_profile_of_patches(ax):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), attention.build("ge-theta-minus", 32, extent=2), nn.Flatten())
    model = ecaviz.load(net.eval(), transform=lambda picture: picture.float())
    profile = ecaviz.profile(model, torch.randn(5, 3, 8, 8), progress=False)
    plots.gate_heatmap(profile, ax=ax)
    assert ax.get_title(loc="left").endswith("all 5 images\n(mean over the map)")
    plots.gate_heatmap(profile, title="mine", ax=ax)
    assert ax.get_title(loc="left") == "mine"


def test_distribution_pools_patches_and_positions(ax, several):
    records = [several["1"], several["2.channel"], several["2.spatial"]]
    for record in records:
        axes = Figure().add_subplot()
        plots.gate_distribution(record, ax=axes)
        counts, _ = np.histogram(record.gate.numpy(), bins=64, range=(0, 1))
        assert axes.patches[1].get_data()[0] == pytest.approx(100 * counts / record.gate.numel())
    plots.gate_distribution(records[:2], ax=ax)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["1 (GE-θ⁻, e=2)", "2.channel (CBAM, r=16)"]


def test_distributions_of_families_without_a_style_are_told_apart(ax):
    records = [run(name, site=channel_site(name))[1] for name in ("gsop", "cbam")]
    without = [
        dataclasses.replace(one, site=dataclasses.replace(one.site, family=f"own-{i}")) for i, one in enumerate(records)
    ]
    plots.gate_distribution(without, ax=ax)
    first, second = ax.patches[2:4]
    assert to_rgb(first.get_edgecolor()) != to_rgb(second.get_edgecolor())
    assert first.get_linestyle() != second.get_linestyle()


def test_interpolation_is_the_module_s():
    """The rescaled maps of patches against torch's nearest neighbours, where the map is no multiple of the extent."""
    x, record = run("ge-theta-minus", size=(7, 5), extent=4)
    *_, rescaled = drawn(plots.attention_block(x, record, channels=DRAWN))
    holds_maps(rescaled, (x * F.interpolate(record.gate, size=(7, 5)))[0, DRAWN])
