"""The rule against the published table, resized kernels against the network that has them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from ecaviz import attention, gates, kernels
from ecaviz.networks import Architecture, build


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """Random ECA network whose kernels are large enough to spread the gates."""
    torch.manual_seed(2)
    net = build(Architecture("eca", {"kernel_size": 5})).eval()
    with torch.no_grad():
        for site in gates.find_sites(net):
            site.module.excite.conv.weight.mul_(4)
    return net


def captured(net, images):
    with torch.no_grad(), gates.capture(net) as found:
        net(images)
    return found


# The rule.


def test_rule_equals_the_published_table(published):
    expected = published("adaptive_k")
    table = kernels.rule_table(int(row["channels"]) for row in expected)
    assert len(table) == len(expected) == 21
    for row, found in zip(expected, table.itertuples(), strict=True):
        assert found.channels == int(row["channels"])
        assert found.continuous == pytest.approx(float(row["psi"]), abs=5e-5)
        assert found.paper_code == int(row["paper_code"])
        assert found.timm == int(row["timm"])
        nearest = [int(k) for k in row["nearest_odd"].split("/")]
        assert [found.nearest_odd_low, found.nearest_odd_high] == [nearest[0], nearest[-1]]
        assert found.tie == (len(nearest) == 2)
    assert table.channels[table.tie].tolist() == [8, 128, 2048]


def test_rule_on_the_released_models(published):
    for row in published("released_k"):
        assert kernels.adaptive_kernel_size(int(row["planes"])) == int(row["rule_on_planes"])
        found = kernels.rule_table(int(row["channels"])).iloc[0]
        assert (found.paper_code, found.timm) == (int(row["rule_on_channels"]), int(row["timm"]))


def test_timm_column_is_what_timm_builds():
    from timm.layers import EcaModule

    for channels in (1, 4, 8, 24, 64, 128, 256, 512, 2048):
        built = EcaModule(channels=channels).conv.kernel_size[0]
        assert kernels.rule_table(channels).timm[0] == built == kernels.adaptive_kernel_size(channels, minimum=3)


@pytest.mark.parametrize(("gamma", "b"), [(2, 1), (1, 0), (3, 2), (1.5, -1), (2, -3)])
def test_nearest_odd_is_nearest(gamma, b):
    """By looking at every odd number; and the code agrees with the formula except that ties go up."""
    table = kernels.rule_table(range(1, 600), gamma, b)
    odd = np.arange(1, 41, 2)
    for row in table.itertuples():
        distance = np.abs(odd - row.continuous)
        nearest = odd[np.isclose(distance, distance.min(), rtol=0, atol=1e-9)]
        assert [row.nearest_odd_low, row.nearest_odd_high] == [nearest[0], nearest[-1]]
        assert row.paper_code == row.nearest_odd_high
        assert row.tie == (len(nearest) == 2)
    assert table.tie.any()


def test_a_tie_is_exact_but_for_rounding():
    """The same for the table and for the curve, which find it in their own ways."""
    for off, tie in ((0, True), (1e-10, True), (-1e-10, True), (1e-8, False), (-1e-8, False)):
        assert kernels.rule_table(2048, b=1 + off).tie.tolist() == [tie], off
        assert kernels.rule_curve(2000, 2100, b=1 + off).ties == [2048] * tie, off


def test_a_table_of_nothing_has_its_columns():
    table = kernels.rule_table([])
    assert len(table) == 0
    assert list(table.columns) == list(kernels.rule_table(64).columns)


def test_continuous_rule_by_hand():
    assert kernels.adaptive_continuous(512) == 5
    assert kernels.adaptive_continuous(2**4.5) == pytest.approx(2.75)  # need not be whole
    assert kernels.adaptive_continuous(256, gamma=4, b=-12) == 1  # |8/4 − 12/4|


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.adaptive_continuous(0), "channels must be positive, got 0"),
        (lambda: kernels.adaptive_continuous(64, gamma=0), "gamma must be positive, got 0"),
        (lambda: kernels.rule_table([64, 0]), "channels must be a whole number of at least 1, got 0"),
        (lambda: kernels.rule_table(64, gamma=-1), "gamma must be positive, got -1"),
    ],
)
def test_bad_rules_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Resizing.


def test_resize_crops_and_pads_about_the_centre():
    kernel = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert kernels.resize_kernel(kernel, 3).tolist() == [2, 3, 4]
    assert kernels.resize_kernel(kernel, 1).tolist() == [3]
    assert kernels.resize_kernel(kernel, 9).tolist() == [0, 0, 1, 2, 3, 4, 5, 0, 0]
    assert kernels.resize_kernel(kernels.resize_kernel(kernel, 9), 5).tolist() == kernel.tolist()
    assert kernels.resize_kernel(kernels.resize_kernel(kernel, 3), 5).tolist() == [0, 2, 3, 4, 0]


@pytest.mark.parametrize("k", [3, 5, 7])
def test_resize_returns_a_new_tensor(k):
    kernel = torch.arange(5.0)
    kernels.resize_kernel(kernel, k).fill_(9)
    assert kernel.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("kernel", "k", "message"),
    [
        (torch.ones(5), 4, "^resize_kernel: kernel_size must be an odd whole number.*got 4"),
        (torch.ones(5), -1, "odd whole number.*got -1"),
        (torch.ones(4), 3, "^resize_kernel: the length of the kernel must be an odd whole number.*got 4"),
        (torch.ones(1, 1, 5), 3, r"must be a vector of k weights, got shape \(1, 1, 5\)"),
    ],
)
def test_bad_resizes_are_explained(kernel, k, message):
    with pytest.raises(ValueError, match=message):
        kernels.resize_kernel(kernel, k)


# The gates a kernel makes, against the network that has that kernel.


def test_the_unchanged_kernel_gives_the_captured_gates(net, images):
    found = captured(net, images)
    assert len(found) == 8
    for name, record in found.items():
        assert float(record.gate.std()) > 0.01, f"the gates of {name} do not vary: the comparison would prove nothing"
        again = kernels.gates_for_kernel(record.descriptor, gates.site(net, name).kernel)
        torch.testing.assert_close(again, record.gate, rtol=0, atol=1e-7)


@pytest.mark.parametrize("k", [1, 3, 5, 9, 31])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_a_resized_kernel_gives_the_gates_of_a_network_built_with_it(net, images, k, padding):
    name = "layer3.0.se"
    before = captured(net, images)[name]
    kernel = kernels.resize_kernel(gates.site(net, name).kernel, k)
    found = kernels.gates_for_kernel(before.descriptor, kernel, padding)

    other = build(Architecture("eca", {"kernel_size": 5})).eval()
    other.load_state_dict(net.state_dict())
    module = attention.build("eca", 128, kernel_size=k, padding=padding)
    with torch.no_grad():
        module.excite.conv.weight.copy_(kernel[None, None])
    other.layer3[0].se = module
    expected = captured(other, images)[name].gate
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

    change = float((found - before.gate).abs().max())
    if padding == "zeros" and k >= 5:  # zeros added at either end change nothing
        assert change < 1e-6
    else:
        assert change > 1e-3
    if padding == "circular" and k >= 5:  # only the gates at either end see another neighbour
        assert float((found - before.gate)[:, 2:-2].abs().max()) < 1e-6


def test_gates_by_hand():
    y = torch.tensor([[1.0, 2.0, 4.0]])
    kernel = torch.tensor([10.0, 1.0, 0.1])  # ten times the left neighbour, once itself, a tenth of the right one
    identity = kernels.gates_for_kernel(y, kernel, activation=lambda z: z)
    torch.testing.assert_close(identity, torch.tensor([[1.2, 12.4, 24.0]]))
    wrapped = kernels.gates_for_kernel(y, kernel, "circular", activation=lambda z: z)
    torch.testing.assert_close(wrapped, torch.tensor([[41.2, 12.4, 24.1]]))
    assert torch.equal(kernels.gates_for_kernel(y, kernel.double(), activation=lambda z: z), identity)
    hard = kernels.gates_for_kernel(y, kernel / 10, activation="hardsigmoid")
    torch.testing.assert_close(hard, torch.tensor([[0.12, 1.24, 2.4]]).div(6).add(0.5))
    assert torch.equal(kernels.gates_for_kernel(y, kernel), identity.sigmoid())


def test_timm_eca_gates(images):
    from timm.layers import CecaModule, EcaModule

    torch.manual_seed(0)
    for cls, padding in ((EcaModule, "zeros"), (CecaModule, "circular")):
        net = nn.Sequential(nn.Conv2d(3, 24, 3), cls(channels=24))
        nn.init.normal_(net[1].conv.weight)
        record = captured(net, images)["1"]
        assert record.site.padding == padding
        assert float(record.gate.std()) > 0.01
        found = kernels.gates_for_kernel(record.descriptor, record.site.kernel, padding)
        torch.testing.assert_close(found, record.gate, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda y: kernels.gates_for_kernel(y, torch.ones(4)),
            "^gates_for_kernel: the length of the kernel must be an odd.*got 4",
        ),
        (lambda y: kernels.gates_for_kernel(y[0], torch.ones(3)), r"must be N×C, got shape \(6,\)"),
        (
            lambda y: kernels.gates_for_kernel(y, torch.ones(3), "same"),
            '^gates_for_kernel: padding must be "zeros" or "circular".*same',
        ),
        (lambda y: kernels.gates_for_kernel(y, torch.ones(15), "circular"), "more than once .* Use k ≤ 13"),
        (
            lambda y: kernels.gates_for_kernel(y, torch.ones(3), activation="softmax"),
            r"'softmax'. Known: sigmoid(, \w+)+; or give a f",
        ),
    ],
)
def test_bad_gates_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(2, 6))


# The kernels of a model.


def test_learned_kernels_are_the_weights(net):
    table = kernels.learned_kernels(net)
    assert list(table.columns) == ["site", "depth", "channels", "k", "offset", "weight"]
    assert len(table) == 8 * 5
    assert table.offset.tolist() == [-2, -1, 0, 1, 2] * 8
    for depth, (name, group) in enumerate(table.groupby("site", sort=False)):
        weight = net.get_submodule(name).excite.conv.weight.flatten()
        torch.testing.assert_close(torch.tensor(group.weight.to_numpy()), weight.detach().double())
        assert set(group.depth) == {depth}
        assert set(group.channels) == {(32, 64, 128, 256)[depth // 2]}


def test_an_offset_names_the_neighbour_it_is_for():
    """A kernel that is 1 at offset +1 gives each channel the descriptor of its right neighbour."""
    module = attention.build("eca", 6, kernel_size=3)
    net = nn.Sequential(module)
    with torch.no_grad():
        module.excite.conv.weight.copy_(torch.tensor([[[0.0, 0.0, 1.0]]]))
    table = kernels.learned_kernels(net)
    assert table.offset[table.weight == 1].tolist() == [1]
    y = torch.arange(6.0)[None]
    assert module.excite(y)[0].tolist() == [1, 2, 3, 4, 5, 0]


@pytest.mark.parametrize(
    ("kernel", "centre_share", "total", "symmetry"),
    [
        ([1.0, 2.0, 1.0], 0.5, 4, 1),
        ([-1.0, 0.0, 1.0], 0, 0, 0),
        ([0.0, 0.0, 1.0], 0, 1, 0.5),
        ([-3.0], 1, -3, 1),
        ([1.0, -2.0, 3.0], 1 / 3, 2, 12 / 14),
    ],
)
def test_summary_by_hand(kernel, centre_share, total, symmetry):
    found = kernels.summarise_kernel(torch.tensor(kernel))
    assert (found.centre_share, found.sum, found.symmetry) == pytest.approx((centre_share, total, symmetry))


def test_summary_of_a_kernel_of_zeros_is_undefined():
    found = kernels.summarise_kernel(torch.zeros(3))
    assert math.isnan(found.centre_share)
    assert math.isnan(found.symmetry)
    assert found.sum == 0
    with pytest.raises(
        ValueError, match=r"^summarise_kernel: the kernel must be a vector of k weights, got shape \(1, 3\)"
    ):
        kernels.summarise_kernel(torch.ones(1, 3))


def test_kernel_summary_has_a_row_a_site(net):
    table = kernels.kernel_summary(net)
    assert list(table.columns) == ["site", "depth", "channels", "k", "centre_share", "sum", "symmetry"]
    assert table.site.tolist() == [site.name for site in gates.find_sites(net)]
    assert table.depth.tolist() == list(range(8))
    assert table.channels.tolist() == [32, 32, 64, 64, 128, 128, 256, 256]
    learned = kernels.learned_kernels(net)
    for row in table.itertuples():
        w = learned.weight[learned.site == row.site].to_numpy()
        assert row.k == len(w) == 5
        assert row.sum == pytest.approx(w.sum())
        assert row.centre_share == pytest.approx(abs(w[2]) / np.abs(w).sum())
        assert row.symmetry == pytest.approx(0.5 + 0.5 * (w @ w[::-1]) / (w @ w))
    assert table.symmetry.between(0, 1).all()
    assert table.symmetry.nunique() == 8


def test_a_model_without_eca_is_explained():
    se = build(Architecture("se", {"reduction": 4}))
    with pytest.raises(ValueError, match=r"^learned_kernels: the model has 8 gates, but none is an ECA.*found: se"):
        kernels.learned_kernels(se)
    with pytest.raises(ValueError, match=r"^kernel_summary: the model has 8 gates"):
        kernels.kernel_summary(se)
    with pytest.raises(ValueError, match="has no channel gates"):
        kernels.kernel_summary(nn.Linear(2, 2))


def test_kernels_that_are_not_shared_are_wanted_or_not():
    net = nn.Sequential(*(attention.build(name, 32) for name in ("eca", "se", "eca-ns", "se-var2")))
    every = gates.find_sites(net)
    assert [site.name for site in kernels.ecas_among(every, "f")] == ["0"]
    assert [site.name for site in kernels.ecas_among(every, "f", unshared=True)] == ["0", "2"]
    for unshared, wanted in (
        (False, "none is an ECA, which alone has a kernel over the channels"),
        (True, "none is an ECA or ECA-NS, which alone have kernels over the channels"),
    ):
        with pytest.raises(
            ValueError, match=rf"^f: the model has 2 gates, but {wanted}\. Families found: se, se-var2\.$"
        ):
            kernels.ecas_among(every[1::2], "f", unshared=unshared)
