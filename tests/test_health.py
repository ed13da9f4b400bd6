"""Health of gates against the gates themselves, and on a network with a planted constant."""

import math

import numpy as np
import pytest
import torch
from made_profiles import profile_of
from planted import CHANNELS, Planted, PlantedImages, transform

import ecaviz
from ecaviz.health import gate_health


@pytest.fixture(scope="module")
def made():
    """Six channels: shut, open, constant, shut or open, half of the range, all of it."""
    random = torch.Generator().manual_seed(0)
    uniform = torch.rand(400, 6, generator=random)
    one = uniform[:, 3] < 0.5
    columns = [
        0.04 * uniform[:, 0],
        0.96 + 0.04 * uniform[:, 1],
        0.5 + 0.001 * uniform[:, 2],
        torch.where(one, 0.02, 0.98),
        0.25 + 0.5 * uniform[:, 4],
        uniform[:, 5],
    ]
    return torch.stack(columns, dim=1)


def test_health_is_what_the_gates_say(made):
    labels = torch.arange(400) % 4
    found = gate_health(profile_of({"a": made}, labels, 5)).iloc[0]
    x = made.double().numpy()
    assert found["low"] == pytest.approx((x < 0.05).mean())
    assert found["high"] == pytest.approx((x > 0.95).mean())
    assert found["dead"] == pytest.approx(1 / 6)
    assert found["open"] == pytest.approx(1 / 6)
    assert found["constant"] == pytest.approx((x.std(axis=0) < 0.005).mean()) == pytest.approx(1 / 6)
    bits = []
    for channel in range(6):
        share = np.histogram(x[:, channel], 64, (0, 1))[0] / 400
        bits.append(-(share[share > 0] * np.log2(share[share > 0])).sum())
    assert found["entropy"] == pytest.approx(np.mean(bits))
    assert bits[3] == pytest.approx(1, abs=0.01)  # as a coin
    assert found["entropy_max"] == 6
    assert (found["n"], found["channels"]) == (400, 6)


def test_the_bound_is_an_argument(made):
    profile = profile_of({"a": made}, torch.zeros(400, dtype=torch.int64), 1)
    wide = gate_health(profile, constant=0.02)["constant"].iloc[0]
    assert wide == pytest.approx((made.double().std(0, correction=0) < 0.02).double().mean().item())
    assert wide > gate_health(profile)["constant"].iloc[0]
    with pytest.raises(ValueError, match="constant must be a standard deviation of at least 0, got -1"):
        gate_health(profile, constant=-1)


def test_few_images_have_less_entropy_to_have():
    gates = torch.rand(16, 3)
    found = gate_health(profile_of({"a": gates}, torch.arange(16) % 2, 2)).iloc[0]
    assert found["entropy_max"] == math.log2(16)
    assert found["entropy"] <= found["entropy_max"]


@pytest.mark.parametrize("by", [None, "class"])
def test_the_planted_constant_is_found(by):
    model = ecaviz.load(Planted(), transform=transform, classes=PlantedImages.classes)
    table = gate_health(ecaviz.profile(model, PlantedImages(), by=by, progress=False)).set_index("site")
    assert table.loc["late", "constant"] == pytest.approx(1 / CHANNELS)  # CONSTANT, and no other
    assert table.loc["early", "constant"] == pytest.approx(3 / CHANNELS)  # early knows the channels of blue alone
    assert (table[["dead", "open"]] == 0).all(axis=None)
