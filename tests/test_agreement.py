"""Two models on the same images, against plain numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from test_explorers import CLASSES, Drawn, halve, make

import ecaviz
from ecaviz.agreement import agreement, gate_correlations, predictions


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
