"""What the plot of surgeries shows, against the numbers of each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ecaviz import effects, looks, plots, themes

N = 400


def effect(agrees, divergence, right=None, sites=("layer1.0.se",), scale=0.1) -> effects.Effect:
    generator = torch.Generator().manual_seed(len(sites))
    change = {name: scale * (i + 1) * torch.rand(N, generator=generator) for i, name in enumerate(sites)}
    return effects.Effect("a net", "some images", "crop", change, agrees, divergence, right)


@pytest.fixture(scope="module")
def surgeries():
    """One that costs accuracy, one that helps as often as it harms, and one that changes nothing."""
    generator = torch.Generator().manual_seed(3)
    before = torch.rand(N, generator=generator) < 0.8
    worse = before & (torch.rand(N, generator=generator) < 0.5)
    even = before.clone()
    even[before.nonzero()[:9, 0]], even[(~before).nonzero()[:9, 0]] = False, True
    spread = torch.rand(N, generator=generator, dtype=torch.float64)
    return {
        "worse": effect(worse == before, spread, torch.stack([before, worse], 1), ("layer1.0.se", "layer2.0.se")),
        "even": effect(even == before, spread / 10, torch.stack([before, even], 1)),
        "none": effect(torch.ones(N, dtype=torch.bool), torch.zeros(N), torch.stack([before, before], 1), scale=0.0),
    }


def drawn(function, *arguments, **options):
    """The axes, after all of it could be drawn."""
    figure = Figure(layout="constrained")
    ax = figure.add_subplot()
    assert function(*arguments, **options, ax=ax) is ax
    FigureCanvasAgg(figure).draw()
    return ax


def found(ax) -> dict[str, list[tuple]]:
    """By the name at its height: (mean, low, high, filled) of each mark."""
    names = {float(y): label.get_text() for y, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)}
    *pairs, _ = ax.lines
    rows: dict[str, list[tuple]] = {name: [] for name in names.values()}
    for span, mark in zip(pairs[::2], pairs[1::2], strict=True):
        (low, high), (y, same) = span.get_data()
        (mean,), (height,) = mark.get_data()
        assert y == same == height
        filled = colors.to_rgba(mark.get_markerfacecolor()) != colors.to_rgba(themes.current().paper)
        rows[names[float(y)]].append((mean, low, high, filled))
    return rows


@pytest.mark.parametrize("measure", ["accuracy difference", "agreement", "divergence", "gate change"])
def test_means_and_intervals_are_those_of_the_images(surgeries, measure):
    ax = drawn(plots.surgery_effects, surgeries, measure)
    rows = found(ax)
    assert list(rows) == list(surgeries)
    heights = [label.get_position()[1] for label in ax.get_yticklabels()]
    assert heights == sorted(heights, reverse=True)  # the first is the uppermost
    for name, one in surgeries.items():
        values = {
            "accuracy difference": [100 * (one.right[:, 1].double() - one.right[:, 0].double())],
            "agreement": [100 * one.agrees.double()],
            "divergence": [one.divergence.double()],
            "gate change": [values.double() for values in one.gate_change.values()],
        }[measure]
        for (mean, low, high, _), of_images in zip(rows[name], values, strict=True):
            half = 1.96 * float(of_images.std()) / np.sqrt(N)
            assert mean == pytest.approx(float(of_images.mean()), abs=1e-9)
            assert low == pytest.approx(mean - half, abs=0.2 * half + 1e-9)  # a bootstrap, so about
            assert high == pytest.approx(mean + half, abs=0.2 * half + 1e-9)
    (nothing,) = set(ax.lines[-1].get_xdata())
    assert nothing == (100 if measure == "agreement" else 0)
    assert rows["none"][0][0] == nothing
    assert ax.get_title(loc="left") == "a net, 400 images: mean and 95 % interval"


def test_a_difference_that_may_be_none_is_hollow(surgeries):
    rows = found(drawn(plots.surgery_effects, surgeries))
    assert [rows[name][0][3] for name in surgeries] == [True, False, False]
    (_, low, high, _) = rows["even"][0]
    assert low < 0 < high
    for measure in ("agreement", "divergence", "gate change"):  # of one side, so always filled
        assert all(
            mark[3] for marks in found(drawn(plots.surgery_effects, surgeries, measure)).values() for mark in marks
        )


def test_marks_are_of_eca_and_what_is_drawn_can_be_named_anew(surgeries):
    ax = drawn(plots.surgery_effects, surgeries, "divergence", level=0.5, title="mine")
    assert ax.get_title(loc="left") == "mine"
    assert ax.lines[1].get_markerfacecolor() == looks.family_style("eca").colour
    narrow, wide = found(ax)["worse"][0], found(drawn(plots.surgery_effects, surgeries, "divergence"))["worse"][0]
    assert wide[1] < narrow[1] < narrow[2] < wide[2]
    ax = drawn(plots.surgery_effects, surgeries, level=0.5)
    assert ax.get_title(loc="left").endswith("mean and 50 % interval")


def test_what_cannot_be_drawn_is_told(surgeries):
    with pytest.raises(ValueError, match=r"must be one of accuracy difference, .*, got 'accuracy'\.$"):
        plots.surgery_effects(surgeries, "accuracy")
    with pytest.raises(ValueError, match="at least one effect was expected"):
        plots.surgery_effects({})
    bare = {"bare": effect(torch.ones(N, dtype=torch.bool), torch.zeros(N))}
    with pytest.raises(ValueError, match=r"bare: accuracy difference needs images whose labels are classes"):
        drawn(plots.surgery_effects, bare)
    assert found(drawn(plots.surgery_effects, bare, "agreement"))["bare"][0][:3] == pytest.approx((100, 100, 100))
