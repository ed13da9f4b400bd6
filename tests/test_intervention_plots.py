"""Pictures of interventions: what is drawn is what the tables say, with names and units."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

import ecaviz
from ecaviz import attention, looks, plots
from ecaviz.effects import Effect

matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")

MEASURES = ("agreement", "divergence", "accuracy difference", "accuracy after")


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.fixture
def table():
    rows = []
    for i, site in enumerate(("layer1.0.se", "layer1.1.se", "all")):
        for j, mode in enumerate(("one", "mean", "class-mean", "swap")):
            for measure in MEASURES:
                value = 0.1 * (i + 1) + 0.01 * j
                rows.append(("net", site, mode, 20, measure, value, value - 0.05, value + 0.05))
        nothing = i == 0
        for measure in ("share of the divergence", "share of the accuracy"):
            ends = (np.nan,) * 3 if nothing else (0.8, 0.7, 0.9)
            rows.append(("net", site, "mean", 20, measure, *ends))
    return pd.DataFrame(rows, columns=["model", "site", "mode", "n", "measure", "mean", "low", "high"])


def points(ax):
    """What is drawn with a label: {label: (x, y)}."""
    return {line.get_label(): line.get_xydata() for line in ax.lines if not line.get_label().startswith("_")}


@pytest.mark.parametrize("family", ["se", "eca"])
def test_gate_and_mean_draws_one_image_in_the_order_of_the_means(family, ax):
    torch.manual_seed(0)
    net = torch.nn.Sequential(attention.build(family, 12, **({"reduction": 4} if family == "se" else {}))).eval()
    with ecaviz.capture(net) as records:
        net(torch.randn(5, 12, 3, 3))
    record, mean = records["0"], torch.rand(12)
    assert plots.gate_and_mean(record, mean, image=3, ax=ax) is ax
    order = np.argsort(mean.numpy())
    drawn = points(ax)
    assert list(drawn) == ["ω of image 3", "m, what it is frozen at"]
    np.testing.assert_allclose(drawn["ω of image 3"], np.column_stack([range(12), record.gate[3].numpy()[order]]))
    np.testing.assert_allclose(drawn["m, what it is frozen at"][:, 1], mean.numpy()[order])
    dots, line = ax.lines
    assert (dots.get_linestyle(), line.get_linestyle()) == ("None", "-")  # told apart without colour
    assert dots.get_markerfacecolor() == looks.family_style(family).colour
    assert ax.get_xlabel() == "channel of 0, sorted by its mean gate m"
    assert ax.get_title(loc="left") == "0: a gate and its mean"
    with pytest.raises(ValueError, match=r"12 means and an image from 0 to 4 were expected, got means of shape \(3,\)"):
        plots.gate_and_mean(record, mean[:3], ax=ax)
    with pytest.raises(ValueError, match="and image 5"):
        plots.gate_and_mean(record, mean, image=5, ax=ax)


@pytest.mark.parametrize(("measure", "scale"), [("divergence", 1), ("accuracy difference", 100), ("agreement", 100)])
def test_static_and_dynamic_draws_the_table(measure, scale, table, ax):
    assert plots.static_and_dynamic(table, measure, ax=ax) is ax
    drawn = points(ax)
    assert list(drawn) == ["gate at 1", "gates of another image", "at its mean", "at its class's mean"]
    rows = table[(table["measure"] == measure) & (table["mode"] == "swap")]
    np.testing.assert_allclose(drawn["gates of another image"][:, 1], scale * rows["mean"])
    np.testing.assert_allclose(drawn["gates of another image"][:, 0].round(), [0, 1, 2])
    assert [one.get_text() for one in ax.get_xticklabels()] == ["layer1.0", "layer1.1", "all\ntogether"]
    assert ax.get_yscale() == ("log" if measure == "divergence" else "linear")
    assert ax.get_title(loc="left") == "net, 20 images: mean and 95 % interval"
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    looks = {(line.get_marker(), line.get_markerfacecolor()) for line in ax.lines if line.get_label() in drawn}
    assert len({marker for marker, _ in looks}) == 4  # told apart without colour
    segments = np.concatenate([one for part in ax.collections for one in part.get_segments()])
    assert len(segments) == 2 * 12


def test_shares_that_are_nothing_are_left_out(table, ax):
    plots.static_and_dynamic(table, "share of the divergence", ax=ax)
    np.testing.assert_allclose(points(ax)["at its mean"][:, 1], [80, 80])
    assert ax.get_legend() is None


def test_of_sites_alone_none_stands_apart(table, ax):
    plots.static_and_dynamic(table[table["site"] != "all"], "agreement", ax=ax)
    assert [one.get_text() for one in ax.get_xticklabels()] == ["layer1.0", "layer1.1"]
    upright = [line for line in ax.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2]
    assert upright == []
    plots.static_and_dynamic(table[table["site"] == "all"], "agreement", ax=ax)
    assert [one.get_text() for one in ax.get_xticklabels()] == ["all"]


def test_some_modes_and_bad_tables(table, ax):
    plots.static_and_dynamic(table, "agreement", modes=["mean"], title="mine", ax=ax)
    assert list(points(ax)) == ["at its mean"]
    assert ax.get_title(loc="left") == "mine"
    with pytest.raises(ValueError, match="measure must be one of divergence, agreement"):
        plots.static_and_dynamic(table, "loss", ax=ax)
    with pytest.raises(ValueError, match="accuracy after: the table does not have it"):
        plots.static_and_dynamic(table[table["measure"] != "accuracy after"], "accuracy after", ax=ax)
    two = pd.concat([table, table.assign(model="other")])
    with pytest.raises(ValueError, match="the table has 2 models"):
        plots.static_and_dynamic(two, ax=ax)


@pytest.fixture
def channels():
    made = np.random.default_rng(0)
    change = made.normal(size=30)
    columns = {"change": change, "low": change - 0.3, "high": change + 0.3, "gradient": 0.9 * change}
    about = {"site": "layer4.1.se", "channel": range(30), "class": "disc", "n": 12}
    return pd.DataFrame({**about, **columns, "logit": "disc", "level": 0.9})


def test_channels_of_class_draws_the_largest(channels, ax):
    plots.channels_of_class(channels, top=8, ax=ax)
    largest = channels.reindex(channels["change"].abs().sort_values(ascending=False).index[:8]).sort_values("change")
    assert [int(one.get_text()) for one in ax.get_yticklabels()] == largest["channel"].tolist()
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], largest["change"])
    np.testing.assert_allclose(points(ax)["gradient"][:, 0], largest["gradient"])
    faces = {bar.get_facecolor() for bar in ax.patches}
    clear = (largest["low"] > 0) | (largest["high"] < 0)
    assert len(faces) == clear.nunique()
    assert "disc" in ax.get_xlabel()
    assert ax.get_title(loc="left") == "layer4.1.se: the 8 of 30 channels that count most, 12 images"
    with pytest.raises(ValueError, match="one site and one class were expected, got 2 of class"):
        plots.channels_of_class(pd.concat([channels, channels.assign(**{"class": "star"})]), ax=ax)


def test_channels_of_class_without_exact_numbers(channels, ax):
    none = channels.assign(change=np.nan, low=np.nan, high=np.nan)
    plots.channels_of_class(none, top=5, ax=ax)
    assert not ax.patches
    assert len(points(ax)["gradient"]) == 5
    with pytest.raises(ValueError, match="without exact numbers"):
        plots.exact_and_gradient(none, ax=ax)


def test_exact_and_gradient_draws_every_channel(channels, ax):
    both = pd.concat([channels, channels.assign(site="layer1.0.se")])
    plots.exact_and_gradient(both, ax=ax)
    drawn = points(ax)
    assert list(drawn) == ["equal", "layer4.1", "layer1.0"]
    np.testing.assert_allclose(drawn["layer4.1"], channels[["gradient", "change"]])
    many = pd.concat([channels.assign(site=f"s{i}") for i in range(7)])
    with pytest.raises(ValueError, match="at most 6 sites were expected, got 7"):
        plots.exact_and_gradient(many, ax=ax)


def effect(right):
    n = 10
    labels = None if right is None else torch.stack([torch.ones(n).bool(), torch.arange(n) < right], 1)
    return Effect("net", "noise", "contrast", {}, torch.arange(n) < 7, torch.linspace(0, 1, n), labels)


def test_contrast_curve_draws_every_contrast(ax):
    curves = {"net": {1: effect(10), 0: effect(6), 2: effect(8)}}
    plots.contrast_curve(curves, ax=ax)
    np.testing.assert_allclose(points(ax)["net"], [(0, 60), (1, 100), (2, 80)])
    assert ax.get_ylabel() == "accuracy (%)"
    without = {"net": {0: effect(None)}}
    with pytest.raises(ValueError, match="accuracy after needs images with labels"):
        plots.contrast_curve(without, ax=ax)
    plots.contrast_curve(without, "agreement", ax=ax)
    with pytest.raises(ValueError, match="a curve and one of accuracy after, agreement, divergence"):
        plots.contrast_curve({}, ax=ax)
    with pytest.raises(ValueError, match="at most 6 curves can be told apart, got 7"):
        plots.contrast_curve({f"net {i}": curves["net"] for i in range(7)}, ax=ax)
