"""Which channels carry a class: a planted truth, each change by a slow run written out, gradients by differences."""

import re

import numpy as np
import pandas as pd
import planted
import pytest
import torch
from test_interventions import by_hand, mean_gates
from torch import nn

import ecaviz
from ecaviz import attention
from ecaviz.channel_changes import agreement, class_channels, clear_changes
from ecaviz.gate_changes import GateChange
from ecaviz.interventions import intervene, intervening


@pytest.fixture(scope="module")
def planted_model():
    return ecaviz.load(planted.Planted(), transform=planted.transform, classes=planted.CLASSES, device="cpu")


@pytest.fixture(scope="module")
def planted_profile(planted_model):
    return ecaviz.profile(planted_model, planted.PlantedImages(), by="class", progress=False)


def changes(model, images, profile, *args, **options):
    return class_channels(model, images, profile, *args, progress=False, **options)


def test_it_names_the_planted_channel_and_no_other(planted_model, planted_profile):
    images = planted.PlantedImages(90, seed=4)
    table = changes(planted_model, images, planted_profile, n=20)
    assert list(table.columns) == [
        *("site", "channel", "class", "n", "change", "low", "high", "gradient"),
        *("logit", "level"),
    ]
    assert len(table) == 2 * 3 * planted.CHANNELS
    assert (table["n"] == 20).all()
    planted_rows = (table["site"] == "late") & (table["channel"] == planted.CLASS)
    assert (table.loc[~planted_rows, ["change", "low", "high", "gradient"]] == 0).all(axis=None)
    found = table[planted_rows].set_index("class")
    # In closed form: the logits are ∓6 times the channel.
    x = torch.stack([planted.transform(one) for one in images.images])
    net = planted_model.net
    _, mean = mean_gates(net, planted.PlantedImages(), "late")

    def frozen(gate):
        gate = gate.clone()
        gate[:, 0] = mean[0]
        return gate

    moved = (by_hand(net, x, late=frozen) - by_hand(net, x)).detach()
    for label, name in enumerate(planted.CLASSES):
        hand = moved[images.labels == label][:20, label]
        assert found.loc[name, "change"] == pytest.approx(float(hand.mean()), abs=1e-5)
    assert found.loc["red", "change"] == 0  # its logit is a constant
    assert found.loc["dark red", "low"] > 0  # x < 0 there: its gate, smaller than the mean, speaks against the class
    assert found.loc["bright red", "high"] < 0
    assert ((found["low"] <= found["change"]) & (found["change"] <= found["high"])).all()


def test_nothing_is_about_classes_drawn_by_lot(planted_model):
    """Of one logit, the change on images of the class against that on images of another."""

    def apart(images):
        profile = ecaviz.profile(planted_model, images, by="class", progress=False)
        rows = []
        for name in ("red", "bright red"):
            table = changes(planted_model, images, profile, name, "late", logit="bright red")
            rows.append(table[table["channel"] == planted.CLASS].iloc[0])
        first, second = rows
        assert first["n"] == second["n"] == 64
        error = np.hypot(*((row["high"] - row["low"]) / 2 for row in rows))  # 95 % of a difference
        return abs(first["change"] - second["change"]) / error

    assert apart(planted.PlantedImages(240)) > 5
    beyond = [apart(planted.PlantedImages(240, seed=seed, shuffled=True)) for seed in range(8)]
    assert sum(one > 1 for one in beyond) <= 2
    assert max(beyond) < 2


class Net(nn.Module):
    """Two gates, the second of which reacts to what the first lets through."""

    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 12, 3), attention.SE(12, 2)
        self.middle, self.second = nn.Conv2d(12, 16, 3), attention.ECA(16, 3)
        self.head = nn.Linear(16, 3)
        with torch.no_grad():
            for one in (*self.first.parameters(), *self.second.parameters()):
                one.mul_(4)

    def forward(self, x):
        return self.head(self.second(self.middle(self.first(self.stem(x)).relu())).relu().mean((2, 3)))


class Labelled(torch.utils.data.Dataset):
    classes = ("a", "b", "c")

    def __init__(self, n=30):
        made = torch.Generator().manual_seed(2)
        self.x = torch.randn(n, 3, 10, 10, generator=made) + torch.randn(n, 3, 1, 1, generator=made)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return (self.x[i] * 20 + 128).clamp(0, 255).to(torch.uint8), i % 3


def normal(image):
    return (image.float() - 128) / 20


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(1)
    net = Net().double().eval()
    model = ecaviz.load(net, transform=normal, classes=Labelled.classes, device="cpu")
    images = Labelled()
    profile = ecaviz.profile(model, images, by="class", progress=False)
    x = torch.stack([normal(images[i][0]) for i in range(len(images))]).double()
    return net, model, images, profile, x, torch.arange(30) % 3


def slowly(net, x, site, channel, value):
    """The logits with one gate replaced: everything written out."""

    def gated(x, name, z):
        gate = 1 / (1 + torch.exp(-z))
        if name == site:
            gate = torch.cat([gate[:, :channel], value.expand(len(x), 1), gate[:, channel + 1 :]], dim=1)
        return x * gate[:, :, None, None]

    x = net.stem(x)
    fc1, fc2 = net.first.excite.fc1.weight, net.first.excite.fc2.weight
    x = gated(x, "first", (x.mean((2, 3)) @ fc1.flatten(1).T).clamp(min=0) @ fc2.flatten(1).T).relu()
    x = net.middle(x)
    kernel, y = net.second.excite.conv.weight.flatten(), x.mean((2, 3))
    padded = torch.cat([y.new_zeros(len(y), 1), y, y.new_zeros(len(y), 1)], dim=1)
    x = gated(x, "second", sum(kernel[j] * padded[:, j : j + 16] for j in range(3))).relu()
    return net.head(x.mean((2, 3)))


@torch.no_grad()
def test_exact_changes_are_those_of_a_slow_run(small):
    net, model, images, profile, x, labels = small
    table = changes(model, images, profile)
    own = net(x)
    for row in table.itertuples():
        label = Labelled.classes.index(row[3])
        mean = profile[row.site].moments.pooled().mean[0, row.channel]
        hand = (slowly(net, x, row.site, row.channel, mean) - own)[labels == label, label]
        assert row.change == pytest.approx(float(hand.mean()), abs=1e-6)
        assert row.low <= row.change <= row.high
    assert table["change"].abs().median() > 1e-4


def test_gradients_are_what_small_steps_give(small):
    net, model, images, profile, x, labels = small
    table = changes(model, images, profile, exact=False).set_index(["class", "site", "channel"])
    assert table["change"].isna().all()
    step = 1e-4
    sites = {one.name: one for one in ecaviz.find_sites(model)}
    for site, channel in (("first", 0), ("first", 7), ("second", 3), ("second", 15)):
        mean = profile[site].moments.pooled().mean[0, channel]
        found = []
        for t in (-step, step):

            def moved(own, _call, _rows, t=t, channel=channel, mean=mean):
                own = own.clone()
                own[:, channel] += t * (mean - own[:, channel])
                return own

            with torch.no_grad(), intervening(model, [GateChange(sites[site], "a step", moved)]):
                found.append(net(x))
        slope = (found[1] - found[0]) / (2 * step)
        for label, name in enumerate(Labelled.classes):
            expected = float(slope[labels == label, label].mean())
            assert table.loc[(name, site, channel), "gradient"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    # All channels of a site together are a change of its contrast.
    with torch.no_grad():
        found = []
        for a in (1 + step, 1 - step):
            with intervene(model, "first", {"contrast": a}, profile=profile):
                found.append(net(x))
    slope = (found[1] - found[0]) / (2 * step)
    for label, name in enumerate(Labelled.classes):
        expected = float(slope[labels == label, label].mean())
        assert table.loc[(name, "first"), "gradient"].sum() == pytest.approx(expected, rel=1e-3, abs=1e-6)
    # That needs the second gate to react: with it frozen the slope is another one.
    assert not any(p.grad is not None for p in net.parameters())


def test_their_agreement(small):
    _, model, images, profile, _, _ = small
    table = changes(model, images, profile)
    found = agreement(table, top=5).set_index(["site", "class"])
    one = table[(table["site"] == "first") & (table["class"] == "b")]
    x, y = one["change"].to_numpy(), one["gradient"].to_numpy()
    row = found.loc[("first", "b")]
    assert row["channels"] == 12
    assert row["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    ranks = [np.argsort(np.argsort(values)) for values in (x, y)]
    assert row["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert row["signs"] == pytest.approx(np.mean(np.sign(x) == np.sign(y)))
    largest = [set(np.argsort(-np.abs(values))[:5].tolist()) for values in (x, y)]
    assert (row["top"], row["of"]) == (len(largest[0] & largest[1]), 5)
    assert found["pearson"].min() > 0.9  # steps are small here
    nothing = agreement(table.assign(change=0.0))
    assert nothing["pearson"].isna().all()


def test_patches_and_timm(images):
    """Gates that are maps: the approximation is the limit of small steps there too."""
    model = ecaviz.load("shapes-ge-theta-e2", device="cpu")
    drawn = ecaviz.images.shapes("test", 60)
    profile = ecaviz.profile(model, drawn, by="class", progress=False)
    table = changes(model, drawn, profile, ["disc", "star"], "layer4.1.se")
    assert table["n"].unique().tolist() == [5]
    found = agreement(table)
    assert found["pearson"].min() > 0.95
    assert table["change"].abs().max() > 1e-3
    assert images.shape[0] == 10


def test_clear_changes_are_counted():
    table = pd.DataFrame(
        {
            "site": ["a"] * 4 + ["b"] * 2,
            "class": ["x"] * 6,
            "n": 9,
            "change": [1.0, -3.0, 0.5, 0.0, 0.2, 0.1],
            "low": [0.5, -4.0, -0.1, 0.0, 0.1, -0.1],
            "high": [1.5, -2.0, 1.1, 0.0, 0.3, 0.3],
            "level": 0.9,
        }
    )
    found = clear_changes(table).set_index(["site", "class"])
    assert found.loc[("a", "x")].tolist() == pytest.approx([9, 4, 0.5, 0.1, 3.0, -1.5])
    assert found.loc[("b", "x")].tolist() == pytest.approx([9, 2, 0.5, 0.1, 0.2, 0.3])
    for missing in ({"low": np.nan, "high": np.nan}, {"change": np.nan}):  # of one image, and where nothing is exact
        with pytest.raises(ValueError, match=r"exact changes with intervals were expected.*exact=True"):
            clear_changes(table.assign(**missing))


def test_bad_requests(planted_model, planted_profile):
    images = planted.PlantedImages(12)
    for options, message in (
        ({"classes": "blue"}, "there is no class 'blue'; there are: dark red, red, bright red"),
        ({"logit": "blue"}, "there is no class 'blue'"),
        ({"classes": []}, "there is no class ''"),
        ({"n": 0}, "n must be a whole number of at least 1"),
        ({"sites": "last"}, "no site matches"),
        ({"level": 2}, "level must lie between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            changes(planted_model, images, planted_profile, **options)
    with pytest.raises(ValueError, match="images with labels were expected"):
        changes(planted_model, torch.rand(4, 3, 8, 8), planted_profile)
    two = torch.utils.data.Subset(images, [0, 1, 3, 4])
    two.classes = planted.CLASSES
    with pytest.raises(ValueError, match="no image of the class 'bright red'"):
        changes(planted_model, two, planted_profile)
    other = planted.PlantedImages(6)
    other.classes = ("x", "y", "z")
    with pytest.raises(ValueError, match="none of the model's"):
        changes(planted_model, other, planted_profile)
