"""Closed form against autograd for every family, on sizes and weights that hypothesis picks, float64."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from ecaviz import attention, gates, interaction, measures

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FAMILIES = [
    name
    for name in attention.FAMILIES
    if name not in ("none", "gsop")  # GSoP's descriptor is a covariance
]


@st.composite
def modules(draw, families=tuple(FAMILIES)):
    """A module with random weights, and maps to run it on: N×C×S×S."""
    family = draw(st.sampled_from(families))
    side = draw(st.integers(1, 4))
    options = {}
    if family in ("se-gc1", "se-gc2"):
        channels = 16 * draw(st.integers(1, 3))
    elif family == "se-gc3":
        channels = 8 * draw(st.integers(1, 5))
    else:
        channels = draw(st.integers(1, 40))
    if family in ("eca", "eca-ns"):
        options["kernel_size"] = 2 * draw(st.integers(0, 24)) + 1
    if family == "eca" and options["kernel_size"] <= 2 * channels + 1 and draw(st.booleans()):
        options["padding"] = "circular"
    if family in ("se", "cbam", "ge-theta-plus"):
        options["reduction"] = draw(st.integers(1, channels))
    if family == "se":
        options["bias"] = draw(st.booleans())
    if family in ("ge-theta", "ge-theta-plus"):
        options["size"] = side
    torch.manual_seed(draw(st.integers(0, 2**31 - 1)))
    module = attention.build(family, channels, **options).double().eval()
    scale = 10.0 ** draw(st.integers(-3, 3))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    images = draw(st.integers(1, 5))
    return family, module, torch.randn(images, channels, side, side, dtype=torch.float64)


def jacobians(excite, y: torch.Tensor) -> torch.Tensor:
    """∂z/∂y of each image by PyTorch's own function: N×C×C, for CBAM N×C×2×C."""
    return torch.stack([torch.autograd.functional.jacobian(lambda one: excite(one[None])[0], row) for row in y])


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * max(1.0, float(expected.abs().max())))


@QUICK
@given(modules())
def test_closed_form_equals_autograd(made):
    family, module, x = made
    net = nn.Sequential(module)
    site = next(one for one in gates.find_sites(net) if one.per == "channel")
    assert site.family == ("se-gc" if family.startswith("se-gc") else family)
    with torch.no_grad():
        y = site.module.squeeze(x)
        y = y.flatten(1) if y.ndim == 4 else y
    each = jacobians(site.excite, y)
    plan = interaction.plan_of_site(site)
    if plan.exact:
        for one in each:  # the same for every image
            close(plan.structure().matrix, one)
        return
    plan.take(y, torch.arange(len(y)))
    for i, squeeze in enumerate(plan.squeezes):
        expected = each[:, :, i] if len(plan.squeezes) > 1 else each
        found = plan.realised(len(y), squeeze)
        close(found.matrix, expected.mean(dim=0))
        for n in range(len(y)):
            close(found.of_image(n).matrix, expected[n])


@QUICK
@given(modules(("se", "cbam", "ge-theta-plus")))
def test_rank_never_exceeds_the_units_that_were_ever_active(made):
    _, module, x = made
    net = nn.Sequential(module)
    site = next(one for one in gates.find_sites(net) if one.per == "channel")
    plan = interaction.plan_of_site(site)
    with torch.no_grad():
        y = site.module.squeeze(x)
    plan.take(y.flatten(1) if y.ndim == 4 else y, torch.arange(len(y)))
    for squeeze in plan.squeezes:
        found = plan.realised(len(y), squeeze)
        cover, each = interaction.coverage(found), measures.by_image(found)
        ever = int((found.active > 0).sum())
        assert cover.rank <= ever <= found.hidden
        assert bool((each.rank <= each.active).all())
        assert each.active.tolist() == (found.realisation.slopes > 0).sum(dim=1).tolist()
        assert plan.structure().singular_values.shape[0] <= min(found.channels, found.hidden)


@QUICK
@given(st.integers(1, 64), st.data())
def test_structural_rank_of_se_is_the_smaller_of_c_and_c_over_r(channels, data):
    r = data.draw(st.integers(1, channels))
    torch.manual_seed(data.draw(st.integers(0, 2**31 - 1)))
    cover = interaction.coverage(interaction.module_interaction(attention.build("se", channels, reduction=r).double()))
    assert cover.rank == interaction.se_structure(channels, r).rank == min(channels, channels // r)
    assert cover.structural == 1


@QUICK
@given(st.integers(1, 80), st.integers(0, 60), st.integers(0, 2**31 - 1))
def test_pairs_of_eca_are_the_formula_and_the_count(channels, reach, seed):
    k = 2 * reach + 1
    torch.manual_seed(seed)
    matrix = interaction.module_interaction(attention.build("eca", channels, kernel_size=k).double()).matrix
    form = interaction.eca_structure(channels, k)
    assert form.pairs == int(matrix.count_nonzero())
    if reach <= channels:
        assert form.structural == (k * channels - (k**2 - 1) / 4) / channels**2
    else:
        assert form.structural == 1


@QUICK
@given(modules(("se", "eca", "cbam", "ge-theta-plus")))
def test_factored_and_dense_answers_agree(made):
    _, module, _ = made
    factored = interaction.module_interaction(module)
    J = factored.matrix
    dense = interaction.Dense(J)
    covers = interaction.coverage(factored)
    participation, directness = dense.rows()
    torch.testing.assert_close(covers.participation, participation, rtol=1e-6, atol=0)
    torch.testing.assert_close(covers.directness, directness, rtol=1e-6, atol=1e-12, equal_nan=True)
    energy = dense.energy_by_distance()
    torch.testing.assert_close(factored.form.energy_by_distance(), energy, rtol=1e-6, atol=1e-12 * float(energy.sum()))
    sigma = np.linalg.svd(J.numpy(), compute_uv=False)
    found = factored.singular_values.numpy()
    np.testing.assert_allclose(found, sigma[: len(found)], rtol=0, atol=1e-6 * sigma[0])
    fresh = interaction.coverage(factored)  # one that has not looked at every distance
    for k in (1, 3, 9):
        assert np.isclose(fresh.band_energy(k), float(energy[: k // 2 + 1].sum() / energy.sum()), rtol=1e-6)
    if isinstance(factored.form, interaction.LowRank):
        torch.testing.assert_close(factored.form.directness(), directness, rtol=1e-6, atol=1e-9)
        inside, whole = factored.form.energy_within(2)
        assert np.isclose(inside, float(energy[:3].sum()), rtol=1e-6)
        assert np.isclose(whole, float(energy.sum()), rtol=1e-6)


@QUICK
@given(modules(("se", "eca", "se-var3", "cbam")), st.data())
def test_rows_and_entries_are_those_of_the_matrix(made, data):
    _, module, _ = made
    found = interaction.module_interaction(module)
    i = data.draw(st.integers(0, found.channels - 1))
    scale = float(found.matrix.abs().max())
    assert torch.allclose(found.form.row(i), found.matrix[i], rtol=1e-9, atol=1e-9 * scale)
    rows, columns = torch.randint(found.channels, (2, 7), generator=torch.Generator().manual_seed(i))
    assert torch.allclose(found.form.entries(rows, columns), found.matrix[rows, columns], rtol=1e-9, atol=1e-9 * scale)
