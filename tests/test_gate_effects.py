"""Static and dynamic: the planted gates in closed form, shares and intervals by explicit draws; the recorded table."""

import math

import numpy as np
import planted
import pytest
import torch
from test_interventions import by_hand, mean_gates

import ecaviz
from ecaviz import cifar10, intervention_records
from ecaviz.gate_effects import ALL_SITES, MODES, SHARES, static_dynamic
from ecaviz.intervals import bootstrap_mean, bootstrap_means, bootstrap_ratio


def test_intervals_of_several_means_are_those_of_explicit_draws():
    values = torch.randn(40, 3, generator=torch.Generator().manual_seed(1)) + torch.tensor([0.0, 1.0, 5.0])
    low, high = bootstrap_means(values, level=0.9, resamples=300, seed=2)
    drawn = torch.randint(40, (300, 40), generator=torch.Generator().manual_seed(2))
    means = values.double()[drawn].mean(dim=1).numpy()
    np.testing.assert_allclose(low, np.quantile(means, 0.05, axis=0))
    np.testing.assert_allclose(high, np.quantile(means, 0.95, axis=0))
    one = bootstrap_mean(values[:, 1], level=0.9, resamples=4000)
    assert one == pytest.approx((float(low[1]), float(high[1])), abs=0.05)
    assert bootstrap_means(values[:1])[0].isnan().all()
    with pytest.raises(ValueError, match="N×K numbers were expected"):
        bootstrap_means(values[:, 0])


def test_intervals_of_a_ratio_are_those_of_explicit_draws():
    made = torch.Generator().manual_seed(3)
    below = 2 + torch.rand(50, generator=made, dtype=torch.float64)
    above = 0.5 * below + 0.1 * torch.randn(50, generator=made, dtype=torch.float64)
    ratio, low, high = bootstrap_ratio(above, below, resamples=500, seed=4)
    drawn = torch.randint(50, (500, 50), generator=torch.Generator().manual_seed(4))
    ratios = (above[drawn].mean(1) / below[drawn].mean(1)).numpy()
    assert ratio == pytest.approx(float(above.mean() / below.mean()))
    assert (low, high) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])))
    assert low < 0.5 < high
    assert bootstrap_ratio(3 * below, below) == pytest.approx((3, 3, 3))
    assert bootstrap_ratio(-below, -2 * below) == pytest.approx((0.5, 0.5, 0.5))
    for nothing in (torch.zeros(50), torch.randn(50, generator=made)):  # the interval below holds zero
        assert all(map(math.isnan, bootstrap_ratio(above, nothing)))
    with pytest.raises(ValueError, match="twice N numbers"):
        bootstrap_ratio(above, below[:3])


@pytest.fixture(scope="module")
def planted_model():
    return ecaviz.load(planted.Planted(), transform=planted.transform, classes=planted.CLASSES, device="cpu")


def test_the_planted_gates(planted_model):
    profiled, images = planted.PlantedImages(), planted.PlantedImages(60, seed=3)
    profile = ecaviz.profile(planted_model, profiled, by="class", progress=False)
    table = static_dynamic(planted_model, images, profile, progress=False)
    assert list(table.columns) == ["model", "site", "mode", "n", "measure", "mean", "low", "high", "level"]
    assert list(dict.fromkeys(table["site"])) == ["early", "late", ALL_SITES]
    assert list(dict.fromkeys(table["mode"])) == list(MODES)
    assert (table["n"] == 60).all()
    found = table.set_index(["site", "mode", "measure"])[["mean", "low", "high"]]
    net = planted_model.net
    x = torch.stack([planted.transform(one) for one in images.images])
    own = by_hand(net, x).detach()
    means = {site: mean_gates(net, profiled, site) for site in planted.SITES}
    changes = {
        "one": lambda _site: torch.ones_like,
        "mean": lambda site: lambda gate: means[site][1].expand_as(gate),
        "class-mean": lambda site: lambda gate: means[site][0][images.labels],
    }
    cost = {}
    for site in (*planted.SITES, ALL_SITES):
        for mode, change in changes.items():
            both = {one: change(one) for one in planted.SITES if site in (one, ALL_SITES)}
            hand = by_hand(net, x, **both).detach()
            first, second = own.log_softmax(1), hand.log_softmax(1)
            divergence = cost[site, mode] = (first.exp() * (first - second)).sum(1)
            row = found.loc[(site, mode, "divergence")]
            assert row["mean"] == pytest.approx(float(divergence.mean()), rel=1e-3, abs=1e-7)
            assert row["low"] <= row["mean"] <= row["high"]
            right = (hand.argmax(1) == images.labels).double().mean()
            assert found.loc[(site, mode, "accuracy after"), "mean"] == pytest.approx(float(right))
            before = (own.argmax(1) == images.labels).double().mean()
            difference = found.loc[(site, mode, "accuracy difference"), "mean"]
            assert difference == pytest.approx(float(right - before), abs=1e-9)
        share = found.loc[(site, "mean", "share of the divergence")]
        expected = 1 - float(cost[site, "mean"].mean() / cost[site, "one"].mean())
        assert share["mean"] == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert share["low"] <= share["mean"] <= share["high"]
    # What is planted: early is static where it counts (channel 0 has 0.5 on every image), late is not.
    assert found.loc[("early", "mean", "share of the divergence"), "mean"] == pytest.approx(1, abs=1e-6)
    assert found.loc[("early", "swap", "divergence"), "mean"] == pytest.approx(0, abs=1e-9)
    assert found.loc[("late", "mean", "share of the divergence"), "high"] < 0.99
    assert found.loc[("late", "swap", "divergence"), "low"] > found.loc[("late", "mean", "divergence"), "high"]
    assert set(SHARES) == {one for one in table["measure"] if one.startswith("share")}


def test_the_mean_of_a_class_is_nearer_than_that_of_all_but_not_where_classes_are_drawn_by_lot(planted_model):
    def nearer(shuffled, seed):
        """How much the predictions differ at the class's mean, as a share of how much at the mean of all images."""
        profiled, images = (planted.PlantedImages(240, seed=s, shuffled=shuffled) for s in (seed, seed + 100))
        profile = ecaviz.profile(planted_model, profiled, by="class", progress=False)
        table = static_dynamic(planted_model, images, profile, "late", together=False, progress=False)
        cost = table[table["measure"] == "divergence"].set_index("mode")["mean"]
        return cost["class-mean"] / cost["mean"]

    assert nearer(False, 0) < 0.1
    assert [nearer(True, seed) for seed in range(4)] == pytest.approx([1] * 4, abs=0.1)


def test_without_labels_there_is_no_accuracy_and_no_class(planted_model):
    x = torch.stack([planted.transform(one) for one in planted.PlantedImages(12).images])
    profile = ecaviz.profile(planted_model, x, progress=False)
    table = static_dynamic(planted_model, x, profile, "late", together=False, progress=False)
    assert list(dict.fromkeys(table["mode"])) == ["one", "mean", "swap"]
    assert set(table["measure"]) == {"agreement", "divergence", "gate change", "share of the divergence"}
    assert set(table["site"]) == {"late"}
    with pytest.raises(ValueError, match=r"modes must be some of one, mean, class-mean, swap, got \['freeze'\]"):
        static_dynamic(planted_model, x, profile, modes=["freeze"])


# ----------------------------------------------------------------------------------------------------- what is recorded


def again(name, sites, modes):
    """Some rows measured anew beside those of the table."""
    new = intervention_records.measure(name, sites, modes=modes, together=False, progress=False)
    kept = intervention_records.recorded()
    return new.merge(kept, on=["data", "model", "site", "mode", "n", "measure"], suffixes=("", "_kept"))


def assert_same(rows, expected):
    assert len(rows) == expected
    for what in ("mean", "low", "high"):
        np.testing.assert_allclose(rows[what], rows[f"{what}_kept"], rtol=0.02, atol=2e-3)


def test_the_recorded_table_is_what_is_measured():
    assert_same(again("shapes-eca-k3", "layer4.1.se", ["one", "mean"]), 12)


@pytest.mark.skipif(not cifar10.is_here(), reason="the images of CIFAR-10 are not on this machine")
def test_the_recorded_table_of_cifar10_is_what_is_measured():
    assert_same(again("cifar10-eca-k3", "layer3.1.se", ["one", "mean"]), 12)


def test_the_recorded_table_is_whole():
    kept = intervention_records.recorded()
    assert tuple(dict.fromkeys(kept["model"])) == tuple(
        sorted(intervention_records.MODELS, key=list(ecaviz.bundle.BUNDLE).index)
    )
    assert kept.groupby("model")["site"].nunique().to_dict() == {
        "shapes-eca-k3": 9, "shapes-se-r16": 9, "cifar10-eca-k3": 7, "cifar10-se-r16": 7,
    }  # fmt: skip
    assert set(kept["data"]) == {"shapes", "cifar10-jpeg"}
    told = kept.dropna()
    assert ((told["low"] <= told["mean"] + 1e-9) & (told["mean"] <= told["high"] + 1e-9)).all()
    assert kept.loc[~kept["measure"].isin(SHARES), "mean"].notna().all()


def test_records_are_replaced_model_by_model(tmp_path, monkeypatch):
    monkeypatch.setattr(intervention_records, "IMAGES", {"shapes": 24, "cifar10": 20})
    monkeypatch.setenv("ECAVIZ_CIFAR10", str(tmp_path / "nothing"))
    names = ["shapes-se-r16", "cifar10-eca-k3"]
    assert intervention_records.record(names, tmp_path, progress=False) == ["shapes-se-r16"]
    first = intervention_records.recorded(tmp_path)
    assert set(first["n"]) == {24}
    assert intervention_records.record(["shapes-se-r16"], tmp_path, progress=False) == ["shapes-se-r16"]
    assert len(intervention_records.recorded(tmp_path)) == len(first)
    with pytest.raises(FileNotFoundError, match="python -m ecaviz interventions"):
        intervention_records.recorded(tmp_path / "nothing")


def test_means_are_of_other_images_than_those_that_are_measured(monkeypatch):
    monkeypatch.setattr(intervention_records, "IMAGES", {"shapes": 24, "cifar10": 20})
    bundled = ecaviz.load("shapes-eca-k3", device="cpu")
    found = intervention_records.profiled_on(bundled, progress=False)
    assert (found.by, found.n) == ("class", 24)
    other = ecaviz.profile(bundled, ecaviz.images.shapes("test", 24, seed=1), by="class", progress=False)
    torch.testing.assert_close(found.mean("layer1.0.se"), other.mean("layer1.0.se"))
    same = ecaviz.profile(bundled, intervention_records.measured_on(bundled), by="class", progress=False)
    assert float((found.mean("layer1.0.se") - same.mean("layer1.0.se")).abs().max()) > 1e-5
    cifar = intervention_records.profiled_on(ecaviz.load("cifar10-se-r16", device="cpu"), progress=False)
    assert (cifar.model, cifar.by, cifar.n) == ("cifar10-se-r16", "class", 10_000)  # the kept one; no images are needed
    own = ecaviz.load(planted.Planted(), transform=planted.transform, classes=planted.CLASSES)
    pooled = intervention_records.profiled_on(own, planted.PlantedImages(30), progress=False)
    assert (pooled.by, pooled.n) == (None, 30)
