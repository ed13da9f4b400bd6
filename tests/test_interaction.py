"""The interaction matrix against autograd, its numbers against numpy and counting, its costs against PyTorch's own."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ecaviz
from ecaviz import attention, gates, interaction
from ecaviz.gather_excite import GatherExcite
from ecaviz.networks import Architecture, build

RESNET = {  # blocks and C of the gates of each stage
    "ResNet-18": ((2, 64), (2, 128), (2, 256), (2, 512)),
    "ResNet-34": ((3, 64), (4, 128), (6, 256), (3, 512)),
    "ResNet-50": ((3, 256), (4, 512), (6, 1024), (3, 2048)),
    "ResNet-101": ((3, 256), (4, 512), (23, 1024), (3, 2048)),
    "ResNet-152": ((3, 256), (8, 512), (36, 1024), (3, 2048)),
}


def jacobian(excite, y: torch.Tensor) -> torch.Tensor:
    """∂z/∂y by autograd at one descriptor, C → C×C."""
    return torch.autograd.functional.jacobian(lambda one: excite(one[None])[0], y.detach())


def random_module(family: str, channels: int, seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return attention.build(family, channels, **options).double()


def by_autograd(net: nn.Module, name: str, images: torch.Tensor) -> torch.Tensor:
    """∂z/∂y of a site on each image, N×C×C."""
    site = gates.site(net, name)
    with torch.no_grad(), gates.capture(net, name) as captured:
        net(images)
    return torch.stack([jacobian(site.excite, y) for y in captured[name].descriptor])


@pytest.fixture(scope="module")
def se() -> nn.Module:
    torch.manual_seed(1)
    return build(Architecture("se", {"reduction": 4})).eval()


@pytest.fixture(scope="module")
def eca() -> nn.Module:
    torch.manual_seed(2)
    return build(Architecture("eca", {"kernel_size": 5})).eval()


# The matrix, against autograd.

SHAPES = [
    ("eca", 8, {"kernel_size": 1}),
    ("eca", 16, {"kernel_size": 5}),
    ("eca", 6, {"kernel_size": 9}),
    ("eca", 3, {"kernel_size": 13}),
    ("eca", 16, {"kernel_size": 5, "padding": "circular"}),
    ("eca", 5, {"kernel_size": 5, "padding": "circular"}),
    ("eca", 4, {"kernel_size": 7, "padding": "circular"}),
    ("eca", 4, {"kernel_size": 9, "padding": "circular"}),
]


@pytest.mark.parametrize(("family", "channels", "options"), SHAPES)
def test_eca_equals_autograd(family, channels, options):
    module = random_module(family, channels, **options)
    y = torch.randn(channels, dtype=torch.float64)
    found = interaction.module_interaction(module)
    assert (found.kind, found.site) == ("exact", "")
    torch.testing.assert_close(found.matrix, jacobian(module.excite, y), rtol=0, atol=1e-12)
    assert torch.allclose(found.form.apply(y[None])[0], found.matrix @ y)


@pytest.mark.parametrize("bias", [False, True])
def test_se_structure_is_the_jacobian_where_every_unit_is_active(bias):
    module = random_module("se", 24, reduction=3, bias=bias)
    found = interaction.module_interaction(module)
    assert found.kind == "structure"
    # W1·y = 1 for all units: then the ReLU lets everything through.
    y = torch.linalg.pinv(module.excite.fc1.weight) @ torch.full((8,), 5.0, dtype=torch.float64)
    torch.testing.assert_close(found.matrix, jacobian(module.excite, y), rtol=0, atol=1e-12)


def test_eca_site_of_a_network_equals_autograd(eca):
    for site in gates.find_sites(eca):
        found = interaction.interaction_matrix(eca, site)
        expected = jacobian(site.excite, torch.randn(site.channels))
        assert float(expected.abs().max()) > 0.01
        torch.testing.assert_close(found.matrix.float(), expected, rtol=0, atol=1e-6)
        assert (found.family, found.site, found.kernel_size, found.images) == ("eca", site.name, 5, 0)


def test_se_site_realised_is_the_mean_of_autograd_image_by_image(se, images):
    name = "layer3.0.se"
    site = gates.site(se, name)
    with torch.no_grad(), gates.capture(se, name) as captured:
        se(images)
    y = captured[name].descriptor
    expected = torch.stack([jacobian(site.excite, one) for one in y]).mean(dim=0)
    structure = interaction.interaction_matrix(se, name)
    found = interaction.interaction_matrix(se, name, images, batch_size=4)
    torch.testing.assert_close(found.matrix.float(), expected, rtol=0, atol=1e-6)
    assert (found.kind, found.images, found.hidden, found.reduction) == ("realised", 10, 32, 4)
    # Some unit must be off for some image, or realised and structure could not be told apart.
    assert 0 < float(found.active.mean()) < 1
    assert float((structure.matrix - found.matrix).abs().max()) > 0.01
    assert interaction.coverage(found).rank <= int((found.active > 0).sum())


def test_realised_does_not_depend_on_the_batch_size(se, images):
    whole = interaction.interaction_matrix(se, "layer2.1.se", images, batch_size=10)
    pieces = interaction.interaction_matrix(se, "layer2.1.se", images, batch_size=3)
    torch.testing.assert_close(whole.active, pieces.active, rtol=0, atol=0)
    torch.testing.assert_close(whole.matrix, pieces.matrix, rtol=0, atol=0)


def test_a_site_called_twice_counts_every_call(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.se = attention.build("se", 3, reduction=1)

        def forward(self, x):
            return self.se(-self.se(x) * 2 + 0.3)

    torch.manual_seed(5)
    net = Twice()
    site = gates.site(net, "se")
    with torch.no_grad(), gates.capture(net) as captured:
        net(images)
    y = torch.cat([captured["se"].descriptor, captured["se#2"].descriptor])
    expected = torch.stack([jacobian(site.excite, one) for one in y]).mean(dim=0)
    found = interaction.interaction_matrix(net, "se", images)
    assert 0 < float(found.active.mean()) < 1
    torch.testing.assert_close(found.matrix.float(), expected, rtol=0, atol=1e-6)


def test_the_network_is_left_as_found(images):
    torch.manual_seed(0)
    net = build(Architecture("se", {"reduction": 8})).train()
    net.bn1.eval()
    flags = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    interaction.interaction_matrix(net, "layer1.0.se", images)
    assert [module.training for module in net.modules()] == flags
    assert not all(flags)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_images_in_eval_mode_even_if_the_network_trains(se, images):
    """Batch norm in training mode would give other descriptors, and other units active."""
    here = interaction.interaction_matrix(se, "layer4.1.se", images)
    se.train()
    try:
        assert torch.equal(interaction.interaction_matrix(se, "layer4.1.se", images).active, here.active)
    finally:
        se.eval()


def timm_sites():
    from timm.layers import CecaModule, EcaModule, SEModule
    from timm.models._efficientnet_blocks import SqueezeExcite
    from timm.models.senet import SEModule as LegacySEModule

    return {
        "eca": EcaModule(channels=64),
        "ceca": CecaModule(channels=2048),
        "se": SEModule(64),
        "legacy": LegacySEModule(32, reduction=4),
        "efficientnet": SqueezeExcite(32, rd_ratio=0.25),
    }


@pytest.mark.parametrize("kind", ["eca", "ceca", "se", "legacy", "efficientnet"])
def test_timm_modules_equal_autograd(kind):
    torch.manual_seed(4)
    module = timm_sites()[kind]
    channels = {"eca": 64, "ceca": 40, "se": 64, "legacy": 32, "efficientnet": 32}[kind]
    net = nn.Sequential(nn.Conv2d(3, channels, 1), module)
    if kind in ("eca", "ceca"):  # they take any C and do not hold it
        with gates.capture(net):
            net(torch.randn(2, 3, 4, 4))
    images = torch.randn(7, 3, 4, 4)
    site = gates.site(net, "1")
    with torch.no_grad(), gates.capture(net) as captured:
        net(images)
    expected = torch.stack([jacobian(site.excite, y) for y in captured["1"].descriptor]).mean(dim=0)
    found = interaction.interaction_matrix(net, "1", images)
    torch.testing.assert_close(found.matrix.float(), expected, rtol=0, atol=1e-6)
    assert found.parameters == sum(p.numel() for p in module.parameters())


# What the coverage says, against numpy and against counting.


def by_hand(J: np.ndarray) -> dict:
    """Every number of Coverage from the dense matrix, written out with numpy."""
    C = len(J)
    sigma = np.linalg.svd(J, compute_uv=False)
    share = sigma[sigma > 0] / sigma.sum()
    square = J**2
    participation, directness = [], []
    for i in range(C):
        q = square[i] / square[i].sum()
        participation.append(math.exp(-sum(v * math.log(v) for v in q if v > 0)))
        directness.append(q[i])
    return {
        "rank": np.linalg.matrix_rank(J),
        "effective_rank": math.exp(-(share * np.log(share)).sum()),
        "participation": participation,
        "directness": directness,
        "band": {k: sum(square[i, j] for i in range(C) for j in range(C) if abs(i - j) <= k // 2) for k in (1, 3, 9)},
    }


MODULES = [
    *SHAPES,
    ("eca", 40, {"kernel_size": 7}),
    ("eca", 40, {"kernel_size": 31}),
    ("se", 40, {"reduction": 4}),
    ("se", 30, {"reduction": 7}),
    ("se", 12, {"reduction": 1}),
    ("se", 300, {"reduction": 16}),  # more rows than are held at once
]


@pytest.mark.parametrize(("family", "channels", "options"), MODULES)
def test_coverage_equals_numpy_on_the_dense_matrix(family, channels, options):
    found = interaction.module_interaction(random_module(family, channels, seed=7, **options))
    cover = interaction.coverage(found)
    assert "matrix" not in vars(found)  # it was not formed
    J = found.matrix.numpy()
    expected = by_hand(J)
    assert cover.rank == expected["rank"]
    assert cover.rank_share == cover.rank / channels
    assert cover.effective_rank == pytest.approx(expected["effective_rank"], rel=1e-9)
    np.testing.assert_allclose(cover.participation.numpy(), expected["participation"], rtol=1e-9)
    np.testing.assert_allclose(cover.directness.numpy(), expected["directness"], rtol=1e-9, atol=1e-15)
    assert cover.participation_median == pytest.approx(np.median(expected["participation"]))
    assert cover.directness_mean == pytest.approx(np.mean(expected["directness"]))
    for k, energy in expected["band"].items():
        assert cover.band_energy(k) == pytest.approx(energy / (J**2).sum(), rel=1e-9)
    assert cover.band_energy(2 * channels + 1) == pytest.approx(1)
    sigma = np.linalg.svd(J, compute_uv=False)
    found_sigma = found.singular_values.numpy()
    np.testing.assert_allclose(found_sigma, sigma[: len(found_sigma)], rtol=0, atol=1e-12 * sigma[0])
    assert np.all(sigma[len(found_sigma) :] < 1e-12 * sigma[0])
    # Weights drawn at random fill exactly what the form allows.
    assert cover.pairs == np.count_nonzero(J)
    assert cover.structural == np.count_nonzero(J) / channels**2


def test_a_kernel_that_leans_to_one_side_loses_rank_as_numpy_says():
    """A shift by one channel has rank C − 1: the last gate hears nothing."""
    found = interaction.InteractionMatrix(
        "eca",
        "",
        10,
        "exact",
        interaction.Band(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), 10),
        pairs=28,
        kernel_size=3,
    )
    cover = interaction.coverage(found)
    assert cover.rank == np.linalg.matrix_rank(found.matrix.numpy()) == 9
    assert cover.participation.tolist() == [1.0] * 9 + [0.0]
    assert cover.directness[:9].tolist() == [0.0] * 9
    assert math.isnan(cover.directness[9])
    assert cover.directness_mean == 0
    assert (cover.band_energy(1), cover.band_energy(3)) == (0, 1)


def test_a_bottleneck_that_is_never_active_covers_nothing(se, images):
    net = build(Architecture("se", {"reduction": 4})).eval()
    net.load_state_dict(se.state_dict())
    with torch.no_grad():
        net.layer1[0].bn3.weight.zero_()
        net.layer1[0].bn3.bias.fill_(1.0)  # every descriptor is 1,
        net.get_submodule("layer1.0.se").excite.fc1.weight.abs_().neg_()  # and every weight pulls it below zero
    cover = interaction.coverage(interaction.interaction_matrix(net, "layer1.0.se", images))
    assert cover.matrix.active.tolist() == [0.0] * 8
    assert (cover.rank, cover.effective_rank, cover.participation_median) == (0, 0, 0)
    assert math.isnan(cover.directness_mean)
    assert math.isnan(cover.band_energy(3))
    assert cover.structural == 1  # what the form allows, not what is used


def test_known_answers():
    """Cases with an answer one can see: the identity, and one direction shared by all."""
    identity = interaction.coverage(interaction.module_interaction(random_module("eca", 32, kernel_size=1)))
    assert (identity.rank, identity.directness_mean, identity.participation_median) == (32, 1, 1)
    assert identity.effective_rank == pytest.approx(32)
    ones = interaction.LowRank(torch.ones(32, 1, dtype=torch.float64), torch.ones(1, 32, dtype=torch.float64))
    matrix = interaction.InteractionMatrix("se", "", 32, "structure", ones, pairs=32**2, hidden=1, reduction=32)
    shared = interaction.coverage(matrix)
    assert shared.rank == 1
    assert shared.effective_rank == pytest.approx(1)
    assert shared.participation_median == pytest.approx(32)
    assert shared.directness_mean == pytest.approx(1 / 32)
    assert shared.band_energy(1) == pytest.approx(1 / 32)


def test_reduction_moves_rank_and_kernel_size_moves_pairs():
    def cover(family, **options):
        return interaction.coverage(interaction.module_interaction(random_module(family, 64, **options)))

    se = {r: cover("se", reduction=r) for r in (2, 16)}
    eca = {k: cover("eca", kernel_size=k) for k in (3, 9)}
    assert (se[2].rank, se[16].rank) == (32, 4)
    assert se[2].pairs == se[16].pairs == 64**2
    assert (eca[3].rank, eca[9].rank) == (64, 64)
    assert eca[3].pairs < eca[9].pairs < 64**2


# Shapes alone: plain arithmetic, against counting, built modules and PyTorch's own counters.


@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_structural_pairs_equal_a_count(padding):
    for channels in (1, 2, 3, 7, 16):
        for k in range(1, 2 * channels + (12 if padding == "zeros" else 2), 2):
            reach = (k - 1) // 2
            pairs = set()
            for i in range(channels):
                for j in range(i - reach, i + reach + 1):
                    if padding == "circular" or 0 <= j < channels:
                        pairs.add((i, j % channels))
            structure = interaction.eca_structure(channels, k, padding)
            assert structure.pairs == len(pairs)
            assert {tuple(pair) for pair in structure.matrix.nonzero().tolist()} == pairs
            assert structure.partners.tolist() == [sum(i == row for row, _ in pairs) for i in range(channels)]
            if padding == "zeros" and reach <= channels:
                assert structure.structural == (k * channels - (k * k - 1) / 4) / channels**2


CASES = [
    ("eca", 256, {"kernel_size": 5}),
    ("eca", 64, {"kernel_size": 1}),
    ("eca", 64, {}),
    ("se", 256, {"reduction": 16}),
    ("se", 64, {"reduction": 16, "bias": True}),
    ("se", 100, {"reduction": 16}),
    ("se-var1", 64, {}),
    ("se-var2", 64, {}),
    ("se-var3", 64, {}),
    ("se-gc1", 64, {}),
    ("se-gc2", 64, {}),
    ("se-gc3", 64, {}),
    ("eca-ns", 64, {"kernel_size": 5}),
    ("eca-ns", 64, {}),
    ("cbam", 64, {}),
    ("cbam", 64, {"bias": False, "reduction": 4, "spatial": False}),
    ("gsop", 64, {"reduced": 16}),
    ("gsop", 32, {"reduced": 48, "stride": 2}),
    ("ge-theta-minus", 64, {}),
    ("ge-theta-minus", 64, {"extent": 4}),
    *[("ge-theta", 64, options) for options in ({}, {"extent": 2}, {"extent": 8})],
    *[("ge-theta-plus", 64, options) for options in ({"reduction": 4}, {"extent": 2}, {"extent": 8})],
]
ELEMENTWISE = {"se-var2"}  # PyTorch's counter leaves multiplications of single numbers out


@pytest.mark.parametrize("side", [(7, 7), (13, 10)])
@pytest.mark.parametrize(("family", "channels", "options"), CASES)
def test_costs_equal_pytorchs_own_count(family, channels, options, side):
    sized = {"cbam", "gsop", "ge-theta-minus", "ge-theta", "ge-theta-plus"}
    own = {"size": side} if family in ("ge-theta", "ge-theta-plus") and "extent" not in options else {}
    module = attention.build(family, channels, **options, **own).eval()
    structure = interaction.structure(family, channels, **options, **({"size": side} if family in sized else {}))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.randn(1, channels, *side))
    expected = channels if family in ELEMENTWISE else counter.get_total_flops() // 2  # two a multiply-add
    assert structure.multiply_adds == expected
    assert structure.parameters == sum(p.numel() for p in module.parameters())
    known = {"eca", "se", "se-var1", "se-var3", "se-gc1", "gsop", "cbam"}
    assert (structure.multiply_adds > 0) == (family not in ("se-var1", "ge-theta-minus"))
    assert family not in known or interaction.parameters(family, channels, **options) == structure.parameters


@pytest.mark.parametrize(
    ("family", "channels", "options"), [case for case in CASES if not case[2].keys() & {"extent", "stride"}]
)
def test_structure_and_coverage_agree_with_the_weights(family, channels, options):
    """Pairs and rank of the form, against those of a module with random weights."""
    torch.manual_seed(0)
    own = {"size": 5} if family in ("ge-theta", "ge-theta-plus") else {}
    options = options | own
    structure = interaction.structure(family, channels, **options)
    assert structure.matrix.sum() == structure.pairs == structure.partners.sum()
    if family == "gsop":
        assert structure.rank is structure.rank_share is None
        return
    module = attention.build(family, channels, **options).double().eval()
    cover = interaction.coverage(interaction.module_interaction(module))
    assert cover.pairs == structure.pairs
    J = cover.matrix.matrix
    assert torch.equal(J != 0, structure.matrix.bool())
    # A kernel that leans to one side can lose up to (k−1)/2 to singular values exponentially small in C.
    assert structure.rank - (structure.kernel_size or 1) // 2 <= cover.rank <= structure.rank
    assert cover.rank == np.linalg.matrix_rank(J.numpy())
    np.testing.assert_allclose(
        cover.matrix.singular_values[: cover.rank], np.linalg.svd(J)[1][: cover.rank], atol=1e-12
    )
    stage = getattr(module, "channel", module)  # of CBAM, the channel stage
    assert cover.parameters == sum(p.numel() for p in stage.parameters())


LINEAR = ["se-var1", "se-var2", "se-var3", "se-gc1", "se-gc2", "se-gc3", "eca-ns", "ge-theta-minus", "ge-theta"]


@pytest.mark.parametrize("family", LINEAR)
def test_linear_relatives_equal_autograd(family):
    own = {"size": 5} if family == "ge-theta" else {}
    module = random_module(family, 32, **own).eval()
    net = nn.Sequential(module)
    with torch.no_grad(), gates.capture(net) as captured:
        net(torch.randn(3, 32, 5, 5, dtype=torch.float64))
    site = gates.site(net, "0")
    expected = jacobian(site.excite, captured["0"].descriptor[0].double())
    for found in (interaction.module_interaction(module), interaction.interaction_matrix(net, "0")):
        assert (found.kind, found.channels) == ("exact", 32)
        torch.testing.assert_close(found.matrix, expected, rtol=0, atol=1e-9)
        square = expected.square()
        torch.testing.assert_close(found.form.rows()[1], square.diagonal() / square.sum(dim=1))
        distance = (torch.arange(32)[:, None] - torch.arange(32)).abs()
        by_distance = torch.stack([square[distance == d].sum() for d in range(32)])
        torch.testing.assert_close(found.form.energy_by_distance(), by_distance)


@pytest.mark.parametrize("family", ["cbam", "ge-theta-plus"])
def test_bottlenecks_of_relatives_equal_autograd_where_every_unit_is_active(family):
    """For CBAM, of either squeeze; GE-θ⁺ has a ReLU before its first layer too, open for y > 0."""
    own = {"size": 5} if family == "ge-theta-plus" else {}
    module = random_module(family, 32, reduction=4, **own).eval()
    one = getattr(module, "channel", module)
    (site,) = gates.find_sites(nn.Sequential(one))
    w1, *_ = site.bottleneck
    with torch.no_grad():
        bias = one.excite.fc1.bias if family == "cbam" else one.excite[1].bias
        bias += 10 * w1.abs().sum(dim=1)
    y = torch.rand(32, dtype=torch.float64) + 0.1
    y = torch.stack([y, 2 * y]) if family == "cbam" else y
    found = interaction.module_interaction(module)
    expected = jacobian(site.excite, y)
    for part in (expected[:, 0], expected[:, 1]) if family == "cbam" else (expected,):
        torch.testing.assert_close(found.matrix, part, rtol=0, atol=1e-9)
    assert found.kind == "structure"
    assert found.multiply_adds == 2 * 32 * 8 * (2 if family == "cbam" else 1)


def test_parameters_add_up_to_the_published_networks(published):
    """ECA's +80 for the released ECA-Net50, SE-ResNet-50's 28,071,976, and every other row of the tables."""
    plain = {row["backbone"]: int(row["parameters"]) for row in published("table3") if row["method"] == "ResNet"}
    released = {}
    for row in published("released_k"):
        stage = int(row["blocks"]) * interaction.parameters(
            "eca", int(row["channels"]), kernel_size=int(row["released"])
        )
        released[row["model"]] = released.get(row["model"], 0) + stage
    assert released["ResNet-50"] == 80
    checked = 0
    for row in published("table3"):
        if row["method"] not in ("ResNet", "SENet", "ECA-Net") or row["backbone"] not in RESNET:
            continue  # the others are built and counted in test_survey.py
        extra = {
            "ResNet": 0,
            "SENet": sum(n * interaction.parameters("se", c, reduction=16) for n, c in RESNET[row["backbone"]]),
            "ECA-Net": released[row["backbone"]],
        }[row["method"]]
        assert plain[row["backbone"]] + extra == int(row["parameters"])
        # Printed in units of 2^20, rounded to what is printed.
        digits = len(row["parameters_published"].partition(".")[2])
        counted = int(row["parameters"]) / 2**20
        assert float(row["parameters_published"]) == pytest.approx(counted, abs=0.6 * 10**-digits)
        checked += 1
    assert checked == 15
    for row in published("se_reduction"):
        r = int(row["reduction"] or 0)
        extra = sum(n * interaction.parameters("se", c, reduction=r) for n, c in RESNET["ResNet-50"]) if r else 0
        assert plain["ResNet-50"] + extra == int(row["parameters"])
    table2 = {row["method"]: int(row["parameters_extra"]) for row in published("table2")}
    assert table2["ECA"] == sum(n * interaction.parameters("eca", c, kernel_size=3) for n, c in RESNET["ResNet-50"])
    assert table2["SE"] == 28_071_976 - plain["ResNet-50"]


# Errors.


def test_a_family_that_is_not_covered_is_named(se):
    net = nn.Sequential(attention.build("gsop", 16, reduced=4), attention.build("ge-theta", 16, extent=2))
    with pytest.raises(ValueError, match=r"no closed form for the family 'gsop' of the site '0'.*eca, se, se-var1"):
        interaction.interaction_matrix(net, "0")
    with pytest.raises(ValueError, match=r"no closed form for the family 'ge-theta' of the site '1'.*ecaviz.influence"):
        interaction.interaction_matrix(net, "1")
    with pytest.raises(ValueError, match=r"no closed form for the family 'gsop'\. Families"):
        interaction.module_interaction(net[0])
    with pytest.raises(ValueError, match=r"'Linear'.*Families covered: eca, se"):
        interaction.module_interaction(nn.Linear(2, 2))


@pytest.mark.parametrize("hidden", [nn.SiLU(), nn.GELU(), nn.LeakyReLU(0.2), nn.PReLU()])
def test_a_hidden_activation_whose_slope_is_no_step_has_no_structure(hidden, images):
    """But a realised J: W2·diag(mean slope)·W1."""
    torch.manual_seed(0)
    net = build(Architecture("se", {"reduction": 4})).eval()
    net.get_submodule("layer2.0.se").excite.relu = hidden
    message = rf"'layer2.0.se' has the hidden activation {type(hidden).__name__}, whose slope is not 0 or 1"
    with pytest.raises(ValueError, match=message):
        interaction.interaction_matrix(net, "layer2.0.se")
    found = interaction.interaction_matrix(net, "layer2.0.se", images)
    assert isinstance(found.form, interaction.LowRank)
    each = by_autograd(net, "layer2.0.se", images)
    torch.testing.assert_close(found.matrix.float(), each.mean(dim=0), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.of_image(3).matrix.float(), each[3], rtol=0, atol=1e-6)
    assert interaction.interaction_matrix(net, "layer2.1.se").hidden == 16  # the others are as they were


@pytest.mark.parametrize("hidden", [nn.ReLU6(), nn.Identity(), nn.ReLU(inplace=True)])
def test_steps_have_a_structure(hidden, images):
    torch.manual_seed(0)
    net = build(Architecture("se", {"reduction": 4})).eval()
    before = interaction.interaction_matrix(net, "layer2.0.se").matrix
    net.get_submodule("layer2.0.se").excite.relu = hidden
    assert torch.equal(interaction.interaction_matrix(net, "layer2.0.se").matrix, before)
    each = by_autograd(net, "layer2.0.se", images)
    found = interaction.interaction_matrix(net, "layer2.0.se", images)
    torch.testing.assert_close(found.matrix.float(), each.mean(dim=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_a_norm_inside_the_bottleneck_autograd_takes_over(dtype):
    from timm.layers import SEModule

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 64, 1), SEModule(64, norm_layer=nn.BatchNorm2d)).to(dtype).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert interaction.interaction_matrix(net, "1").hidden == 8  # a fresh norm changes nothing
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net[1].bn.running_var.fill_(4.0)
    with pytest.raises(ValueError, match=r"the site '1' is not W2·ReLU\(W1·y \+ b1\) \+ b2.*off by.*Pass images="):
        interaction.interaction_matrix(net, "1")
    if dtype != torch.float32:
        return
    images = torch.randn(5, 3, 4, 4)
    found = interaction.interaction_matrix(net, "1", images)
    assert all(module.training for module in net.modules())
    each = by_autograd(net.eval(), "1", images)
    assert isinstance(found.form, interaction.Dense)
    torch.testing.assert_close(found.matrix.float(), each.mean(dim=0), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.of_image(4).matrix.float(), each[4], rtol=0, atol=1e-6)


def test_an_activation_that_mixes_the_units_is_left_to_autograd(images):
    torch.manual_seed(0)
    net = build(Architecture("se", {"reduction": 4})).eval()
    net.get_submodule("layer2.0.se").excite.relu = nn.Softmax(dim=-1)
    with pytest.raises(ValueError, match=r"the hidden activation Softmax of the site 'layer2.0.se' mixes the units"):
        interaction.interaction_matrix(net, "layer2.0.se")
    found = interaction.interaction_matrix(net, "layer2.0.se", images)
    expected = by_autograd(net, "layer2.0.se", images).mean(dim=0)
    torch.testing.assert_close(found.matrix.float(), expected, rtol=0, atol=1e-6)


# The two maps of CBAM, the two ReLUs of GE-θ⁺, several sites at once, and what nobody here wrote.


@pytest.mark.parametrize("family", ["cbam", "ge-theta-plus"])
def test_realised_relatives_are_the_mean_of_autograd_image_by_image(family):
    torch.manual_seed(3)
    own = {"size": 6} if family == "ge-theta-plus" else {"reduction": 4}
    net = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), attention.build(family, 24, **{"reduction": 4} | own)).eval()
    name = "1.channel" if family == "cbam" else "1"
    site = gates.site(net, name)
    images = torch.randn(9, 3, 6, 6)
    with torch.no_grad(), gates.capture(net, name) as captured:
        net(images)
    y = captured[name].descriptor
    each = torch.stack([jacobian(site.excite, one) for one in y])
    maps = {"avg": each[:, :, 0], "max": each[:, :, 1]} if family == "cbam" else {None: each}
    for squeeze, expected in maps.items():
        found = interaction.interaction_matrix(net, name, images, squeeze=squeeze)
        torch.testing.assert_close(found.matrix.float(), expected.mean(dim=0), rtol=0, atol=1e-6)
        torch.testing.assert_close(found.of_image(7).matrix.float(), expected[7], rtol=0, atol=1e-6)
        assert (found.kind, found.images, found.squeeze) == ("realised", 9, squeeze or "")
        assert 0 < float(found.active.mean()) < 1
        weights = torch.rand(9)
        torch.testing.assert_close(
            found.realisation.mean(weights).dense().float(),
            torch.einsum("n,nij->ij", weights / weights.sum(), expected),
        )
    if family == "cbam":
        one, other = (interaction.interaction_matrix(net, name, images, squeeze=s).active for s in ("avg", "max"))
        assert not torch.equal(one, other)
        assert torch.equal(interaction.interaction_matrix(net, name, images).active, one)
        assert list(interaction.interaction_matrices(net, images)) == ["1.channel:avg", "1.channel:max"]


def test_several_sites_in_one_pass_are_the_same_as_one_by_one(se, eca, images):
    runs = []
    hook = se.register_forward_hook(lambda *_: runs.append(1))
    found = interaction.interaction_matrices(se, images, batch_size=5)
    hook.remove()
    assert len(runs) == 2  # ten images, five at once
    assert {one.images for one in found.values()} == {10}
    assert list(found) == [site.name for site in gates.find_sites(se)]
    for name in ("layer1.0.se", "layer4.1.se"):
        alone = interaction.interaction_matrix(se, name, images)
        assert torch.equal(found[name].matrix, alone.matrix)
        assert torch.equal(found[name].realisation.image_of, torch.arange(10))
    exact = interaction.interaction_matrices(eca, images, sites="layer3.*")
    assert [one.kind for one in exact.values()] == ["exact", "exact"]
    net = nn.Sequential(attention.build("gsop", 3, reduced=4), attention.build("se-var3", 3))
    assert list(interaction.interaction_matrices(net)) == ["1"]
    with pytest.raises(ValueError, match=r"no closed form for the family 'gsop'"):
        interaction.interaction_matrices(net, sites="0")
    others = (("gsop", {"reduced": 4}), ("ge-theta", {"extent": 2}), ("gsop", {"reduced": 4}))
    net = nn.Sequential(*(attention.build(name, 3, **own) for name, own in others))
    with pytest.raises(ValueError, match=r"no closed form for the family 'gsop, ge-theta'"):
        interaction.interaction_matrices(net)


class Students(nn.Module):
    """SE as students write it, and not known here."""

    def __init__(self, channels: int, convolutions: bool = False):
        super().__init__()
        if convolutions:
            layers = [nn.Conv2d(channels, 6, 1), nn.ReLU(), nn.Conv2d(6, channels, 1), nn.Sigmoid()]
        else:
            layers = [nn.Linear(channels, 6), nn.ReLU(inplace=True), nn.Linear(6, channels), nn.Sigmoid()]
        self.fc = nn.Sequential(*layers)

    def forward(self, x):
        y = x.mean(dim=(2, 3), keepdim=isinstance(self.fc[0], nn.Conv2d))
        return x * self.fc(y).reshape(*x.shape[:2], 1, 1)


@pytest.mark.parametrize("convolutions", [False, True])
def test_an_excitation_that_nobody_here_wrote(convolutions):
    torch.manual_seed(8)
    net = nn.Sequential(nn.Conv2d(3, 20, 3), Students(20, convolutions), nn.BatchNorm2d(20)).train()
    images = torch.randn(11, 3, 6, 6)
    found = interaction.interaction_matrix(net, "1.fc", images, batch_size=4)
    assert all(module.training for module in net.modules())
    assert not any(module._forward_pre_hooks for module in net.modules())
    with torch.no_grad():
        y = net[0](images).mean(dim=(2, 3))
    first, second = net[1].fc[0], net[1].fc[2]
    w1, w2 = first.weight.flatten(1).detach(), second.weight.flatten(1).detach()
    active = (y @ w1.T + first.bias > 0).float()
    each = torch.einsum("iu,nu,uj->nij", w2, active, w1)
    torch.testing.assert_close(found.matrix.float(), each.mean(dim=0), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.of_image(10).matrix.float(), each[10], rtol=0, atol=1e-6)
    assert (found.family, found.site, found.channels, found.kind, found.images) == (
        "Sequential",
        "1.fc",
        20,
        "realised",
        11,
    )
    assert (found.pairs, found.parameters, found.multiply_adds) == (400, 20 * 6 * 2 + 26, None)
    assert interaction.coverage(found).rank <= 6
    with pytest.raises(ValueError, match=r"'1.fc' \(Sequential\) is no gate that is known here.*Pass images="):
        interaction.interaction_matrix(net, "1.fc")
    if not convolutions:
        alone = interaction.excitation_interaction(net[1].fc[:3], y, "mine")
        torch.testing.assert_close(alone.matrix, found.matrix, rtol=0, atol=1e-6)
        assert (alone.site, alone.family, alone.images) == ("mine", "Sequential", 11)


def test_an_excitation_is_called_as_it_calls_itself_and_does_not_train_meanwhile():
    def doubled(y):
        return 2 * y

    y = torch.randn(4, 5)
    found = interaction.excitation_interaction(doubled, y)
    assert (found.site, found.family, found.images, found.parameters) == ("", "doubled", 4, 0)
    torch.testing.assert_close(found.matrix.float(), 2 * torch.eye(5))
    layer = nn.Linear(5, 5, bias=False)
    assert interaction.excitation_interaction(layer, y).family == "Linear"
    module = nn.Sequential(layer, nn.Dropout(0.5)).train()
    torch.testing.assert_close(interaction.excitation_interaction(module, y).matrix.float(), layer.weight.detach())
    assert module.training


@pytest.mark.parametrize("all_sites", [False, True])
def test_64_images_are_run_at_once(all_sites):
    net = nn.Sequential(attention.build("se", 3, reduction=1))
    sizes = []
    net.register_forward_hook(lambda _m, _i, out: sizes.append(len(out)))
    images = torch.randn(65, 3, 2, 2)
    if all_sites:
        interaction.interaction_matrices(net, images)
    else:
        interaction.interaction_matrix(net, "0", images)
    assert sizes == [64, 1]


def test_several_sites_without_images_are_their_structures(se):
    found = interaction.interaction_matrices(se, sites="layer[12].*")
    assert list(found) == ["layer1.0.se", "layer1.1.se", "layer2.0.se", "layer2.1.se"]
    for name, one in found.items():
        assert (one.kind, one.images) == ("structure", 0)
        assert torch.equal(one.matrix, interaction.interaction_matrix(se, name).matrix)


@pytest.mark.parametrize("gate", ["eca", "se"])
def test_images_reach_the_network_as_its_model_says(gate):
    """Transformed, and in the dtype of the weights; an ECA that does not hold its C needs one image to tell it."""
    from timm.layers import EcaModule, SEModule

    torch.manual_seed(0)
    gating = EcaModule(kernel_size=3) if gate == "eca" else SEModule(12, rd_channels=6)
    net = nn.Sequential(nn.Conv2d(3, 12, 1), gating).double()
    model = ecaviz.load(net, device="cpu", transform=lambda image: image.float() / 255 - 0.5)
    sizes = []
    net.register_forward_hook(lambda _m, _i, out: sizes.append(len(out)))
    images = torch.randint(256, (7, 3, 4, 4), dtype=torch.uint8)
    found = interaction.interaction_matrix(model, "1", images)
    assert sizes == ([1] if gate == "eca" else [7])
    y = net[0](images.double() / 255 - 0.5).mean(dim=(2, 3))
    expected = torch.stack([jacobian(gates.site(model, "1").excite, one) for one in y])
    torch.testing.assert_close(found.matrix, expected.mean(dim=0))
    if gate == "se":
        assert 0 < float(found.active.mean()) < 1
        torch.testing.assert_close(found.of_image(6).matrix, expected[6])


def test_images_that_do_not_share_the_descriptors_evenly_are_told():
    class Shortened(nn.Module):
        def __init__(self):
            super().__init__()
            self.se = attention.build("se", 3, reduction=1)

        def forward(self, x):
            return self.se(x[1:])

    message = r"^interaction: the site 'se' saw 4 descriptors of 5 images; as many for each image were expected\.$"
    with pytest.raises(ValueError, match=message):
        interaction.interaction_matrix(Shortened(), "se", torch.randn(5, 3, 4, 4))


def test_half_precision_keeps_its_rank():
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16):
        module = nn.Linear(64, 64).to(dtype)
        found = interaction.excitation_interaction(module, torch.randn(3, 64).to(dtype))
        assert interaction.coverage(found).rank == np.linalg.matrix_rank(module.weight.detach().double().numpy()) == 64
        assert module.weight.dtype == dtype
        net = nn.Sequential(nn.Conv2d(3, 20, 3), Students(20)).to(dtype)
        images = torch.randn(5, 3, 6, 6).to(dtype)
        assert interaction.coverage(interaction.interaction_matrix(net, "1.fc", images)).rank <= 6


@pytest.mark.parametrize("hidden", [nn.SiLU(), nn.Softmax(dim=-1)])
def test_under_inference_mode(hidden, images):
    torch.manual_seed(0)
    net = build(Architecture("se", {"reduction": 4})).eval()
    net.get_submodule("layer2.0.se").excite.relu = hidden
    plain = interaction.interaction_matrix(net, "layer2.0.se", images)
    with torch.inference_mode():
        again = interaction.interaction_matrix(net, "layer2.0.se", images)
    torch.testing.assert_close(plain.matrix, again.matrix)


def test_frames_of_one_image_stay_together():
    """A network that looks at the frames of a clip one by one, as images."""

    class Clips(nn.Module):
        def __init__(self):
            super().__init__()
            self.se = attention.build("se", 3, reduction=1)

        def forward(self, x):
            frames = torch.stack([x, -x], dim=1)  # N×2×3×H×W
            return self.se(frames.flatten(0, 1))

    found = interaction.interaction_matrix(Clips(), "se", torch.randn(5, 3, 4, 4), batch_size=3)
    assert found.realisation.image_of.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert found.images == 5


def test_weights_that_are_no_numbers(images):
    for family, options in (("se", {"reduction": 4}), ("eca", {"kernel_size": 3}), ("se-var3", {})):
        net = build(Architecture(family, options)).eval()
        with torch.no_grad():
            next(net.get_submodule("layer1.0.se").parameters()).fill_(math.nan)
        with pytest.raises(ValueError, match=r"the weights of 'layer1.0.se' hold NaN or infinite values"):
            interaction.interaction_matrix(net, "layer1.0.se", images)
    broken = nn.Linear(4, 4)
    with torch.no_grad():
        broken.weight[0, 0] = math.inf
    with pytest.raises(ValueError, match=r"the weights of '1' hold NaN"):
        interaction.interaction_matrix(nn.Sequential(nn.Flatten(), broken), "1", torch.randn(2, 4))


def test_a_network_without_parameters(images):
    net = nn.Sequential(attention.build("se-var1", 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Identity())
    found = interaction.interaction_matrix(net, "3", images)
    torch.testing.assert_close(found.matrix, torch.eye(3, dtype=torch.float64))


def test_an_eca_that_learns_its_width_from_the_images():
    from timm.layers import EcaModule

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 12, 1), EcaModule(kernel_size=3))
    with pytest.raises(ValueError, match="does not hold its number of channels"):
        interaction.interaction_matrix(net, "1")
    images = torch.randn(2, 3, 4, 4)
    assert interaction.interaction_matrix(net, "1", images).channels == 12
    net = nn.Sequential(nn.Conv2d(3, 12, 1), EcaModule(kernel_size=3))
    assert interaction.interaction_matrices(net, images)["1"].channels == 12


def test_no_other_site_is_asked_for_a_width():
    from timm.layers import EcaModule

    net = nn.Sequential(nn.Conv2d(3, 12, 1), EcaModule(kernel_size=3), attention.build("se", 12, reduction=2))
    net[2].register_forward_hook(lambda _m, _a, out: out * 1.1)
    images = torch.randn(2, 3, 4, 4)
    assert interaction.interaction_matrix(net, "1", images).channels == 12
    with pytest.raises(RuntimeError, match="2 failed its proof"), torch.no_grad(), gates.capture(net):
        net(images)


def test_what_is_no_excitation_says_so():
    for given, named in (
        (torch.randn(0, 5), r"torch.float32 0×5"),
        (torch.randn(5), r"torch.float32 5"),
        (torch.ones(2, 5).long(), r"torch.int64 2×5"),
        (torch.randn(2, 5, 3, 3), r"torch.float32 2×5×3×3"),
        ([1.0], "list"),
    ):
        with pytest.raises(ValueError, match=rf"floats N×C \(or N×C×1×1\), N ≥ 1, were expected; got {named}"):
            interaction.excitation_interaction(nn.Identity(), given)
    with pytest.raises(ValueError, match=r"maps C descriptors to C logits; this one made \(4, 3\) of \(4, 5\)"):
        interaction.excitation_interaction(nn.Linear(5, 3), torch.randn(4, 5))
    with pytest.raises(ValueError, match=r"without autograd being able to follow"):
        interaction.excitation_interaction(lambda y: y.detach(), torch.randn(4, 5))
    with pytest.raises(ValueError, match=r"are more than the 67,108,864 that fit. Pass at most 16 images"):
        interaction.excitation_interaction(nn.Identity(), torch.randn(20, 2048))
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"ran on 2 images without calling the site '1.inner'"):
        interaction.interaction_matrix(net[:1].append(Unused()), "1.inner", torch.randn(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"no channel gates that ecaviz knows"):
        interaction.interaction_matrix(net, "2.nothing", torch.randn(2, 3, 4, 4))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return x


def test_a_squeeze_is_asked_for_where_there_are_two(se, images):
    with pytest.raises(ValueError, match=r"squeeze='max' is for CBAM, which has two; layer1.0.se has one"):
        interaction.interaction_matrix(se, "layer1.0.se", images, squeeze="max")
    net = nn.Sequential(attention.build("cbam", 32))
    with pytest.raises(ValueError, match=r'squeeze must be "avg" or "max", got \'mean\''):
        interaction.interaction_matrix(net, "0.channel", squeeze="mean")


def test_single_images_of_what_has_none(se, eca):
    with pytest.raises(ValueError, match=r"this J is the same for every image; pass images="):
        interaction.interaction_matrix(eca, "layer1.0.se").of_image(0)
    with pytest.raises(ValueError, match=r"this J is of kind 'structure'; pass images="):
        interaction.interaction_matrix(se, "layer1.0.se").of_image(0)


def test_an_eca_that_is_no_plain_convolution_is_refused(eca):
    site = gates.site(eca, "layer1.0.se")

    class Bent(type(site)):
        def excite(self, y):
            return super().excite(y).relu()

    bent = Bent(**{f.name: getattr(site, f.name) for f in dataclasses.fields(site)})
    with pytest.raises(ValueError, match="not one convolution over the channels"):
        interaction.interaction_matrix(eca, bent)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interaction.eca_structure(64, 4), "odd whole number.*got 4"),
        (lambda: interaction.eca_structure(64, -3), "odd whole number.*got -3"),
        (lambda: interaction.eca_structure(64, 3, "reflect"), 'padding must be "zeros" or "circular".*reflect'),
        (lambda: interaction.eca_structure(4, 11, "circular"), r"more than once.*Use k ≤ 9"),
        (lambda: interaction.eca_structure(0, 3), "channels must be a whole number"),
        (lambda: interaction.se_structure(64, 128), r"leaves no hidden unit for C = 64.*r ≤ 64"),
        (lambda: interaction.se_structure(64, 0), "reduction must be a whole number of at least 1, got 0"),
        (lambda: interaction.structure("none", 64), r"no module is called 'none'. Known: se, se-var1"),
        (lambda: interaction.structure("se-gc1", 40), r"C = 40 channels cannot be divided evenly into 16 groups"),
        (lambda: interaction.structure("se-gc3", 20), r"cannot be divided evenly into groups of 8"),
        (lambda: interaction.structure("ge-theta", 8), r"ge-theta with the global extent.*give its size="),
        (lambda: interaction.structure("ge-theta", 8, extent=3), r"extent must be 2, 4, 8, or None"),
        (lambda: interaction.structure("gsop", 8, reduced=0), r"reduced must be a whole number of at least 1"),
        (lambda: interaction.structure("cbam", 32, size=0), r"size must be a whole number of at least 1"),
        (lambda: interaction.Dense(torch.ones(2, 3)), r"expected a matrix C×C, got shape \(2, 3\)"),
        (
            lambda: interaction.structure("ge-theta", 8, size=(4, 4, 4)),
            r"size must be a side or \(height, width\), got",
        ),
        (lambda: attention.build("ge-theta", 8, size=(4,)), r"size must be a side or \(height, width\), got \(4,\)"),
        (lambda: GatherExcite(8, "gamma"), r"variant must be one of .*, got 'gamma'"),
        (lambda: interaction.Band(torch.ones(2), 4), "odd whole number.*got 2"),
        (
            lambda: interaction.Band(torch.ones(1, 3), 4),
            r"the kernel must be a vector of k weights, got shape \(1, 3\)",
        ),
        (lambda: interaction.LowRank(torch.ones(4, 2), torch.ones(3, 4)), r"\(4, 2\) and \(3, 4\)"),
    ],
)
def test_bad_shapes_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_structures_take_the_options_of_their_module():
    with pytest.raises(TypeError, match=r"structure: eca takes no reduction; it takes kernel_size, padding\.$"):
        interaction.structure("eca", 8, reduction=2)
    with pytest.raises(TypeError, match=r"structure: se-var1 takes no a, b; it takes no options\.$"):
        interaction.structure("se-var1", 8, b=1, a=2)


class Odd(torch.nn.Module):
    """Its site is given one row more than there are images."""

    def __init__(self):
        super().__init__()
        self.se = attention.SE(8, 2)

    def forward(self, x):
        x = x.repeat(1, 3, 1, 1)[:, :8]
        return self.se(torch.cat([x, x[:1]])).mean((2, 3))[: len(x)]


def test_a_site_must_see_as_much_of_every_image():
    with pytest.raises(ValueError, match=r"the site 'se' saw 5 descriptors of 4 images; as many for each image"):
        interaction.interaction_matrix(Odd().eval(), "se", torch.rand(4, 3, 6, 6))


def test_coverage_wants_an_interaction_matrix():
    with pytest.raises(TypeError, match=r"coverage: got a Tensor; expected what interaction_matrix"):
        interaction.coverage(torch.eye(3))


def test_band_energy_wants_an_odd_k():
    cover = interaction.coverage(interaction.module_interaction(attention.build("eca", 8, kernel_size=3)))
    with pytest.raises(ValueError, match="band_energy: kernel_size must be an odd"):
        cover.band_energy(2)


def test_results_are_frozen_and_say_what_they_are(se, images):
    found = interaction.interaction_matrix(se, "layer1.0.se", images)
    cover = interaction.coverage(found)
    for result in (found, cover, interaction.se_structure(64, 4)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.family = "other"
    assert repr(found) == "InteractionMatrix('layer1.0.se', se, C=32, r=4, hidden=8, realised over 10 images)"
    assert "rank" in repr(cover)
    assert "pairs 100.00%" in repr(cover)


def test_the_weights_can_change_afterwards(se):
    """What was computed is a copy of the weights, not a view of them."""
    net = build(Architecture("se", {"reduction": 4}))
    net.load_state_dict(se.state_dict())
    net.double()
    found = interaction.interaction_matrix(net, "layer1.0.se")
    with torch.no_grad():
        for parameter in net.get_submodule("layer1.0.se").parameters():
            parameter.zero_()
    assert float(found.matrix.abs().max()) > 0


@pytest.mark.gpu
@pytest.mark.parametrize(("family", "options"), [("se", {"reduction": 4}), ("eca", {"kernel_size": 5})])
def test_on_a_gpu_as_on_the_cpu(family, options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), attention.build(family, 32, **options))
    images = torch.randn(20, 3, 8, 8)
    here = interaction.coverage(interaction.interaction_matrix(net, "1", images))
    there = interaction.coverage(interaction.interaction_matrix(net.cuda(), "1", images))
    assert there.matrix.matrix.device.type == "cpu"
    torch.testing.assert_close(there.matrix.matrix, here.matrix.matrix, rtol=0, atol=1e-6)
    assert (there.rank, there.pairs) == (here.rank, here.pairs)


def test_a_site_of_another_model_is_refused():
    one, other = (build(Architecture("eca", {"kernel_size": k})) for k in (3, 9))
    with pytest.raises(ValueError, match=r"'layer3.0.se' belongs to another model"):
        interaction.interaction_matrix(one, gates.site(other, "layer3.0.se"))


def captured(net, images):
    with gates.capture(net):
        net(images)


@pytest.mark.parametrize(
    ("who", "run"),
    [
        ("capture", captured),
        ("interaction", interaction.interaction_matrices),
        ("influence", lambda net, images: ecaviz.influence(net, "layer1.0.se", images)),
    ],
)
@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_memory_that_runs_out_comes_with_words(se, who, run, kind):
    """Those of the innermost, once: an interaction captures, too."""

    def stop(*_):
        raise kind("CUDA out of memory.")

    hook = se.layer4.register_forward_pre_hook(stop)
    try:
        with pytest.raises(kind) as raised:
            run(se, torch.zeros(2, 3, 64, 64))
    finally:
        hook.remove()
    (note,) = raised.value.__notes__
    assert note.startswith(f"{who}: memory ran out")
    assert "CPU" in note


def test_another_error_comes_without_words_of_memory(se):
    with pytest.raises(RuntimeError) as raised, gates.capture(se):
        raise RuntimeError("another")
    assert not hasattr(raised.value, "__notes__")
