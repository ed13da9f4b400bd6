"""Two models on the same images, against plain numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from test_explorers import CLASSES, Drawn, halve, make

import ecaviz
from ecaviz import plots
from ecaviz.agreement import agreement, gate_correlations, predictions
from ecaviz.themes import DARK, LIGHT
from ecaviz.views import Picture


@pytest.fixture(scope="module")
def pair():
    models = [make("se", "se-4", reduction=4), make("eca", "eca-5", kernel_size=5, seed=1)]
    for i, one in enumerate(models):  # or all images get one class
        with torch.no_grad():
            logits = one.net(torch.stack([halve(image) for image in Drawn(60).x]))
            one.net.fc.bias -= logits.mean(0)
            one.net.fc.weight *= 1 + i
    return models


def said(model):
    with torch.no_grad():
        return model.net(torch.stack([halve(image) for image in Drawn(60).x])).argmax(1)


def test_agreement_is_what_numpy_counts(pair):
    a, b = (said(one).numpy() for one in pair)
    assert torch.equal(predictions(pair[0], Drawn(60), batch_size=7), torch.from_numpy(a))
    assert len(set(a)) > 1
    row = agreement(pair, Drawn(60)).iloc[0]
    assert row["agreement"] == pytest.approx((a == b).mean())
    assert row["low"] <= row["agreement"] <= row["high"]
    assert row["chance"] == pytest.approx(sum((a == k).mean() * (b == k).mean() for k in range(3)))
    assert (row["first"], row["second"], row["images"]) == ("se-4", "eca-5", 60)
    itself = agreement([pair[0], pair[0]], Drawn(60)).iloc[0]
    assert (itself["agreement"], itself["low"], itself["high"]) == (1, 1, 1)
    assert len(agreement([*pair, pair[0]], Drawn(12))) == 3


def test_files_that_cannot_be_read_are_left_out(pair, tmp_path):
    from ecaviz.image_files import to_pil

    for i, image in enumerate(Drawn(5).x):
        to_pil(image).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="2.png"):
        found = predictions(pair[0], ecaviz.images.folder(tmp_path))
    whole = said(pair[0])[:5].tolist()
    assert found.tolist() == [*whole[:2], -1, *whole[3:]]
    with pytest.warns(UserWarning, match="2.png"):
        assert agreement(pair, ecaviz.images.folder(tmp_path)).iloc[0]["images"] == 4


def test_other_classes_and_one_model_are_refused(pair):
    other = dataclasses.replace(pair[1], classes=CLASSES[::-1])
    with pytest.raises(ValueError, match="have other classes"):
        agreement([pair[0], other], Drawn())
    with pytest.raises(ValueError, match="two models or more"):
        agreement(pair[:1], Drawn())


def test_correlations_are_numpys(pair):
    profiles = [ecaviz.profile(one, Drawn(30), by="class", progress=False) for one in pair]
    table = gate_correlations(*profiles)
    x = torch.stack([halve(image) for image in Drawn(30).x])
    means = []
    for one in pair:
        with torch.no_grad(), ecaviz.capture(one) as gates:
            one.net(x)
        means.append([record.gate.double().mean(0).numpy() for record in gates.values()])
    assert table["r"].to_numpy() == pytest.approx([np.corrcoef(a, b)[0, 1] for a, b in zip(*means, strict=True)])
    assert table["bound"].to_numpy() == pytest.approx(1.96 / np.sqrt(table["channels"]))
    assert gate_correlations(profiles[0], profiles[0])["r"].to_numpy() == pytest.approx(np.ones(8))


def test_layers_of_other_widths_are_left_out(pair):
    wide = make("se", "short", blocks=(1, 1, 1, 1), reduction=4)
    first, second = (ecaviz.profile(one, Drawn(6), progress=False) for one in (pair[0], wide))
    table = gate_correlations(first, second)
    assert table["site"].tolist() == ["layer1.0.se"]
    assert gate_correlations(second, first)["other"].tolist() == ["layer1.0.se"]


@pytest.mark.parametrize("look", [LIGHT, DARK], ids=lambda look: look.name)
def test_correlations_are_drawn_beside_what_unrelated_layers_have(look):
    r, bound = [0.3, -0.5, np.nan, 0.1, 0.24], [0.35, 0.35, 0.25, 0.25, 0.25]
    sites = [f"layer{i}.0.se" for i in range(1, 6)]
    table = pd.DataFrame({"site": sites, "other": "x", "channels": 32, "r": r, "bound": bound})
    with ecaviz.theme(look.name):
        ax = Picture(layout="constrained").subplots()
        assert plots.gate_correlations(table, ax=ax) is ax
    band = next(one for one in ax.patches if one.get_label() == "95 of 100 unrelated layers")
    values, edges, baseline = band.get_data()
    assert values == pytest.approx(bound)
    assert baseline == pytest.approx(np.negative(bound))
    assert edges == pytest.approx(np.arange(6) - 0.5)
    marks = {line.get_label(): line for line in ax.lines if line.get_label().startswith("r ")}
    assert marks["r inside"].get_xydata() == pytest.approx(np.array([(0, 0.3), (3, 0.1), (4, 0.24)]))
    assert marks["r outside"].get_xydata() == pytest.approx(np.array([(1, -0.5)]))
    assert [one.get_markerfacecolor() for one in marks.values()] == [look.paper, look.ink]
    assert [one.get_text() for one in ax.get_xticklabels()] == [f"layer{i}.0" for i in range(1, 6)]
    assert ax.get_title(loc="left").endswith("at 1 of 5 layers")
    assert ax.get_ylim() == (-1, 1)


@pytest.mark.parametrize(("r", "label"), [([0.1, -0.2], "r inside"), ([0.6, -0.7], "r outside")])
def test_where_all_correlations_are_of_one_kind_the_other_has_no_mark(r, label):
    table = pd.DataFrame({"site": ["layer1.0.se", "layer2.0.se"], "other": "x", "channels": 32, "r": r, "bound": 0.35})
    ax = plots.gate_correlations(table, ax=Picture(layout="constrained").subplots())
    marks = {line.get_label(): line for line in ax.lines if line.get_label().startswith("r ")}
    assert list(marks) == [label]
    assert marks[label].get_ydata() == pytest.approx(r)


def test_a_network_without_logits_names_no_class(pair):
    class Maps(torch.nn.Module):
        def forward(self, x):
            return x

    with pytest.raises(ValueError, match=r"Maps gives no logits N×K, so it names no classes"):
        predictions(ecaviz.load(Maps(), transform=pair[0].transform, classes=("a",)), Drawn(4))


def test_correlations_of_no_layer_are_explained():
    table = pd.DataFrame({"site": ["a"], "r": [0.1], "bound": [0.2]})
    with pytest.raises(ValueError, match="gate_correlations: the frame has no rows"):
        plots.gate_correlations(table[:0])
    with pytest.raises(ValueError, match="lacks bound; such a frame is made by ecaviz"):
        plots.gate_correlations(table[["site", "r"]])
