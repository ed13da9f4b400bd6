"""The factor of each channel that explains a module's output, and what is said where there is none."""

from __future__ import annotations

import pytest
import torch

from ecaviz.fits import measure, over

N, C, SIDE = 3, 5, 6


@pytest.fixture
def x():
    return torch.randn(N, C, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) + 1


def numbers(*shape):
    return 0.1 + 0.8 * torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_a_gate_is_found_to_rounding(x):
    gate = numbers(N, C)
    found = measure(x, x * over(gate))
    assert (found.kind, found.reason, found.shift) == ("gate", "", None)
    torch.testing.assert_close(found.gate, gate.double(), rtol=0, atol=1e-6)
    assert found.varies == pytest.approx(float((gate.amax(0) - gate.amin(0)).max()), abs=1e-6)
    assert found.residual < found.tolerance
    shift = torch.randn(N, C, generator=torch.Generator().manual_seed(2))
    found = measure(x, x * over(gate) + over(shift))
    assert found.kind == "gate"
    torch.testing.assert_close(found.gate, gate.double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.shift, shift.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        ("identity", lambda x: x.clone()),
        ("constant", lambda x: x * over(numbers(1, C))),
        ("image", lambda x: x * over(numbers(N, 1))),
        ("range", lambda x: x * over(1 + numbers(N, C))),
        ("additive", lambda x: x + over(numbers(N, C))),
        ("spatial", lambda x: x * numbers(N, 1, SIDE, SIDE)),
        ("element", lambda x: x * numbers(N, C, SIDE, SIDE)),
        ("normalisation", lambda x: x / x.norm(dim=1, keepdim=True)),
        ("other", lambda x: torch.cos(9 * x)),
    ],
)
def test_what_is_no_gate_is_told_by_kind(x, kind, output):
    found = measure(x, output(x))
    assert found.kind == kind
    assert found.reason


def test_what_cannot_be_measured_is_undecided(x):
    nothing = measure(torch.zeros_like(x), torch.zeros_like(x))
    assert nothing.kind == "undecided"
    assert "0 everywhere" in nothing.reason
    for bad in (torch.nan, torch.inf):
        odd = x.clone()
        odd[1, 2, 3, 3] = bad
        for given, out in ((odd, x), (x, odd)):
            found = measure(given, out)
            assert (found.kind, found.reason) == ("undecided", "its input or its output has NaNs or infinities")
            assert found.gate.isnan().all()
    level = torch.ones_like(x) * over(numbers(N, C))
    level[:, 0] = 0
    flat = measure(level, level + 0.5)  # something is added, and maps that are level do not tell by what the rest grew
    assert (flat.kind, flat.reason[:37]) == ("undecided", "its input does not vary over position")
    assert flat.gate.isnan().all()
    lone = x.clone()
    lone[1:] = 0
    lone[0, 1:] = 0
    once = measure(lone, lone * 0.5)  # one channel of one image tells its factor
    assert (once.kind, once.reason[:26]) == ("undecided", "no channel varies over pos")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("seed", range(4))
def test_rounding_of_level_maps_tells_no_factor(x, dtype, seed):
    """Maps that vary in the last place alone, as those of a real network that are level do."""
    level = 0.4 + 0.6 * torch.rand(N, C, generator=torch.Generator().manual_seed(seed)).to(dtype)
    level[:, 0] = 0  # so that something is seen to be added
    last = torch.finfo(dtype).eps * (torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) - 0.5)
    given = over(level).double() * (1 + last.double())
    found = measure(given.to(dtype), (0.5 * given + 0.5 + last.roll(1, 2).double()).to(dtype))
    assert found.kind == "undecided"
    assert found.gate.isnan().all()


def test_a_dead_channel_has_no_factor(x):
    gate, x = numbers(N, C), x.clone()
    x[:, 2] = 0
    found = measure(x, x * over(gate))
    assert found.kind == "gate"
    assert found.gate[:, 2].isnan().all()
    kept = [0, 1, 3, 4]
    torch.testing.assert_close(found.gate[:, kept], gate[:, kept].double(), rtol=0, atol=1e-6)
