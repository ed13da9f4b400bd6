"""Where k comes from: the table against the published k and against the rule, worked out by hand."""

import csv
from collections import defaultdict

import pandas as pd
import pytest
import torch
from oracles import eca_mobilenet_v2, eca_resnet
from torch import nn

import ecaviz
from ecaviz import architectures, bundle, networks
from ecaviz.attention import ECA
from ecaviz.provenance import kernel_provenance


def released():
    """By network, the rows of the published table: a row a stage."""
    networks = defaultdict(list)
    with (bundle.data_folder() / "published" / "released_k.csv").open() as file:
        for row in csv.DictReader(file):
            networks[row["model"].replace("-", "").lower()].append(row)
    return networks


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_the_released_kernels(name):
    published = released()[name]
    _, state = eca_resnet(name, tuple(int(row["released"]) for row in published))
    table = kernel_provenance(architectures.recognise(state).network())
    assert len(table) == sum(int(row["blocks"]) for row in published)
    by_stage = table.assign(stage=table.site.str[5]).groupby("stage").first()
    for stage, row in enumerate(published, start=1):
        mine = by_stage.loc[str(stage)]
        for column, there in (
            ("channels", "channels"),
            ("planes", "planes"),
            ("k", "released"),
            ("rule_on_planes", "rule_on_planes"),
            ("rule_on_channels", "rule_on_channels"),
            ("timm_rule", "timm"),
        ):
            assert mine[column] == int(row[there]), (stage, column)


def test_the_released_eca_net_50_follows_neither_reading_throughout():
    _, state = eca_resnet("resnet50", (3, 5, 5, 7))
    table = kernel_provenance(architectures.recognise(state).network())
    found = table.assign(stage=table.site.str[5]).groupby("stage").agrees_with.unique()
    assert [list(one) for one in found] == [["planes"], ["both"], ["both"], ["channels"]]
    assert (table.drift == "").all()


def test_drift_is_flagged():
    _, state = eca_resnet("resnet18", (9, 5, 5, 5))
    net = architectures.recognise(state).network()
    table = kernel_provenance(net).set_index("site")
    assert table.loc["layer1.0.se", "agrees_with"] == "neither"
    assert table.loc["layer1.0.se", "drift"] == "k = 9, the rule gives 3"
    assert table.loc["layer2.0.se", "drift"] == ""
    _, state = eca_resnet("resnet50", (7, 5, 5, 5))
    table = kernel_provenance(architectures.recognise(state).network()).set_index("site")
    assert table.loc["layer1.0.se", "drift"] == "k = 7, the rule gives 3 or 5"


def test_bias_and_padding_are_flagged():
    from timm.layers import CecaModule

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.ceca = CecaModule(channels=64)
            self.ours = ECA(64, 3, padding="circular")
            self.biased = ECA(64, 3)
            self.biased.excite.conv.bias = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return self.biased(self.ours(self.ceca(x)))

    net = Net()
    before = kernel_provenance(net).set_index("site")
    assert pd.isna(before.loc["ceca", "channels"])  # timm's module does not hold C
    assert before.loc["ceca", "agrees_with"] == ""
    with ecaviz.capture(net):
        net(torch.randn(2, 64, 4, 4))
    table = kernel_provenance(net).set_index("site")
    assert table.loc["ceca", "channels"] == 64
    assert list(table.drift) == ["circular padding", "circular padding", "bias"]
    assert table.planes.isna().all()
    assert list(table.agrees_with) == ["channels"] * 3


def test_timms_networks_follow_the_width_with_a_minimum():
    table = kernel_provenance(ecaviz.load("ecaresnet26t", pretrained=False, device="cpu"))
    assert (table.k == table.timm_rule).all()
    assert (table.channels == 4 * table.planes).all()
    assert list(table.k) == [5, 5, 5, 5, 5, 5, 7, 7]


def test_mobilenet_and_bundled():
    _, state = eca_mobilenet_v2()
    table = kernel_provenance(architectures.recognise(state).network())
    assert list(table.k) == [1] * 10 + [3] * 7
    assert table.planes.isna().all()
    assert list(table.rule_on_channels) == [3] * 13 + [5] * 4
    assert list(table.agrees_with) == ["neither"] * 10 + ["channels"] * 3 + ["neither"] * 4
    assert table.drift.iloc[-1] == "k = 3, the rule gives 5"
    table = kernel_provenance(ecaviz.load("shapes-eca-adaptive", device="cpu"))
    assert (table.k == table.rule_on_channels).all()


def test_models_without_eca():
    with pytest.raises(ValueError, match=r"kernel_provenance: the model has 8 gates, but none is an ECA.*se"):
        kernel_provenance(ecaviz.load("shapes-se-r4", device="cpu"))
    with pytest.raises(ValueError, match="has no channel gates"):
        kernel_provenance(networks.build(networks.Architecture("none")))
