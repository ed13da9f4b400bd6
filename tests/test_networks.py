"""Networks by their architecture: what is refused, and a new last layer wherever a network has one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ecaviz.networks import Architecture, build, replace_head

SMALL = {"blocks": (1, 1, 1), "planes": (4, 4, 8), "stem": 4}


def test_an_architecture_comes_back_from_what_is_written_of_it():
    given = Architecture("ge-theta", {"extent": 2}, **SMALL, stem_strides=(1, 2))
    written = given.to_dict()
    written["blocks"] = list(written["blocks"])  # as JSON has it
    assert Architecture.from_dict(written) == given


@pytest.mark.parametrize("strides", [(1,), (1, 2, 2), (0, 1), (1, 5), (1.0, 1), ("a", 1)])
def test_strides_of_the_stem_are_two_small_numbers(strides):
    with pytest.raises(ValueError, match="stem_strides must be two numbers from 1 to 4, got "):
        Architecture.from_dict({"attention": "se", "stem_strides": list(strides)})


@pytest.mark.parametrize("change", [{"blocks": (1, 1)}, {"planes": (4, 4)}, {"blocks": (1,) * 5, "planes": (4,) * 5}])
def test_a_network_has_three_or_four_stages(change):
    with pytest.raises(ValueError, match="blocks and planes must have three or four stages, got "):
        build(Architecture("none", {}, **SMALL | change))


class Other(nn.Module):
    """Of neither library: its last layer has a name of its own."""

    def __init__(self, name, layer):
        super().__init__()
        self.body = nn.Conv2d(3, 6, 1)
        setattr(self, name, layer)
        self.name = name

    def forward(self, x):
        return getattr(self, self.name)(self.body(x).mean((2, 3)))


@pytest.mark.parametrize("name", ["fc", "last_linear", "classifier"])
@pytest.mark.parametrize("kind", ["layer", "layers"])
def test_the_last_layer_is_replaced_alone(name, kind):
    torch.manual_seed(0)
    net = Other(name, nn.Linear(6, 5) if kind == "layer" else nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 5)))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    replace_head(net, 3)
    after = net.state_dict()
    assert net(torch.randn(2, 3, 4, 4)).shape == (2, 3)
    changed = {key for key in after if after[key].shape != before[key].shape or not after[key].equal(before[key])}
    last = name if kind == "layer" else f"{name}.1"
    assert changed == {f"{last}.weight", f"{last}.bias"}


def test_where_the_last_layer_is_unknown_it_is_said():
    with pytest.raises(ValueError, match="where the last layer of a Other is, is not known; leave num_classes out"):
        replace_head(Other("output", nn.Linear(6, 5)), 3)
