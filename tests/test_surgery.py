"""Surgery on kernels, against the convolution written out by numpy; and a network that is afterwards what it was."""

import copy
import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

import ecaviz
from ecaviz import attention, images
from ecaviz.gates import capture
from ecaviz.kernels import resize_kernel
from ecaviz.shapes import CLASSES, normalise
from ecaviz.surgery import MODES, kernel_surgery, surgery_effect

C, K = 16, 5


class eca_layer(nn.Module):  # noqa: N801 (the official name)
    """As the official repository has it."""

    def __init__(self):
        super().__init__()
        self.avg_pool, self.sigmoid = nn.AdaptiveAvgPool2d(1), nn.Sigmoid()
        self.conv = nn.Conv1d(1, 1, kernel_size=K, padding=K // 2, bias=False)

    def forward(self, x):
        y = self.conv(self.avg_pool(x).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * self.sigmoid(y).expand_as(x)


def kinds():
    from timm.layers import CecaModule, EcaModule

    return {
        "ours": lambda: attention.ECA(C, K),
        "ours, circular": lambda: attention.ECA(C, K, padding="circular"),
        "timm": lambda: EcaModule(kernel_size=K),
        "timm, circular": lambda: CecaModule(kernel_size=K),
        "official": eca_layer,
    }


class Net(nn.Module):
    """Two ECAs of one kind and an SE; with the gates of the first being what the second sees."""

    def __init__(self, make):
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, C, 3), make()
        self.middle, self.second = nn.Conv2d(C, C, 3), make()
        self.se, self.head = attention.SE(C, 4), nn.Linear(C, 12)

    def forward(self, x):
        x = self.second(self.middle(self.first(self.stem(x)).relu()))
        return self.head(self.se(x).mean((2, 3)))


def network(kind="ours", seed=0):
    torch.manual_seed(seed)
    net = Net(kinds()[kind]).eval()
    with torch.no_grad():
        for p in (*net.first.parameters(), *net.second.parameters()):
            p.copy_(torch.randn(p.shape) * 3)
    return net


def batch(n=6):
    made = torch.Generator().manual_seed(3)
    return torch.randn(n, 3, 12, 12, generator=made) + torch.randn(n, 3, 1, 1, generator=made)


def by_numpy(y, kernel, circular):
    """ω, from the definition: z_i = Σ_j w_j · y_(i+j−(k−1)/2)."""
    y, w = y.double().numpy(), kernel.double().numpy()
    reach, channels = len(w) // 2, y.shape[1]
    z = np.zeros_like(y)
    for i in range(channels):
        for j, weight in enumerate(w):
            at = i + j - reach
            if circular:
                z[:, i] += weight * y[:, at % channels]
            elif 0 <= at < channels:
                z[:, i] += weight * y[:, at]
    return torch.from_numpy(1 / (1 + np.exp(-z))).float()


def read(net, x):
    with torch.no_grad(), capture(net) as captured:
        out = net(x)
    return dict(captured), out


@pytest.mark.parametrize("kind", ["ours", "ours, circular", "timm", "timm, circular", "official"])
@pytest.mark.parametrize("mode", MODES)
def test_the_gates_are_those_of_the_other_kernel(kind, mode):
    net, x = network(kind), batch()
    circular = "circular" in kind
    before, _ = read(net, x)
    w = net.first.excite.conv.weight if "ours" in kind else net.first.conv.weight
    w = w.detach().flatten()
    y = before["first"].descriptor
    order = torch.randperm(C, generator=torch.Generator().manual_seed(8))
    sites = {"resize": {"first": 9}, "permute": {"first": order}}.get(mode, "first")
    with kernel_surgery(net, sites, mode, seed=5) as under:
        assert [one.name for one in under] == ["first"]
        after, _ = read(net, x)
    expected = {
        "resize": lambda: by_numpy(y, resize_kernel(w, 9), circular),
        "impulse": lambda: by_numpy(y, w[K // 2 : K // 2 + 1], circular),
        "circular": lambda: by_numpy(y, w, True),
        "permute": lambda: by_numpy(y[:, order], w, circular)[:, order.argsort()],
    }.get(mode)
    if expected is not None:
        torch.testing.assert_close(after["first"].gate, expected(), rtol=0, atol=1e-6)
    torch.testing.assert_close(after["first"].descriptor, y)
    nothing = mode == "resize" or (mode == "circular" and circular)
    assert torch.allclose(after["first"].gate, before["first"].gate, atol=1e-6) == nothing
    if not nothing:  # and what comes after it follows
        assert not torch.allclose(after["second"].gate, before["second"].gate, atol=1e-6)


@pytest.mark.parametrize("kind", ["ours", "timm, circular"])
def test_a_smaller_kernel_is_the_crop(kind):
    net, x = network(kind), batch()
    before, _ = read(net, x)
    w = next(net.first.parameters()).detach().flatten()
    with kernel_surgery(net, "first", kernel_size=3):
        after, _ = read(net, x)
    crop = resize_kernel(resize_kernel(w, 3), K)  # down, then up
    assert torch.equal(crop, torch.tensor([0, *w[1:4].tolist(), 0]))
    expected = by_numpy(before["first"].descriptor, crop, "circular" in kind)
    torch.testing.assert_close(after["first"].gate, expected, rtol=0, atol=1e-6)


def test_what_changes_nothing_changes_nothing():
    net, x = network(), batch()
    before, out = read(net, x)
    with kernel_surgery(net, kernel_size=K):
        after, same = read(net, x)
    assert torch.equal(same, out)
    for k in (7, 9, 31):  # padded with zeros
        with kernel_surgery(net, kernel_size=k):
            after, _ = read(net, x)
        for name in before:
            torch.testing.assert_close(after[name].gate, before[name].gate, rtol=0, atol=1e-7)
    with kernel_surgery(net, {"first": torch.arange(C)}, "permute"):
        assert torch.equal(read(net, x)[1], out)


@pytest.mark.parametrize("kind", ["ours", "timm, circular"])
def test_a_permutation_and_its_inverse_are_the_identity(kind):
    net, x = network(kind), batch()
    _, out = read(net, x)
    order = torch.randperm(C, generator=torch.Generator().manual_seed(2))
    with kernel_surgery(net, {"first": order}, "permute"):
        assert not torch.allclose(read(net, x)[1], out, atol=1e-5)
        with kernel_surgery(net, {"first": order.argsort()}, "permute"):
            torch.testing.assert_close(read(net, x)[1], out)


def test_random_kernels_have_the_norm_and_are_drawn_by_seed_and_site():
    net = network()
    found = {}
    for seed in (0, 0, 1):
        with kernel_surgery(net, None, "random", seed=seed):
            x = torch.eye(C)[C // 2][None]  # an impulse shows the kernel, in reverse
            kernels = [
                part.excite(x)[0, C // 2 - K // 2 : C // 2 + K // 2 + 1].flip(0).detach()
                for part in (net.first, net.second)
            ]
        for part, kernel in zip((net.first, net.second), kernels, strict=True):
            torch.testing.assert_close(kernel.norm(), part.excite.conv.weight.detach().norm())
        assert not torch.allclose(*kernels)
        found.setdefault(seed, []).append(torch.cat(kernels))
    assert torch.equal(*found[0])
    assert not torch.allclose(found[0][0], found[1][0])


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_afterwards_the_network_is_what_it_was(error):
    net, x = network(), batch()
    state = copy.deepcopy(net.state_dict())
    _, out = read(net, x)
    raised = nullcontext() if error is None else pytest.raises(error)
    with raised, kernel_surgery(net, None, "permute"), kernel_surgery(net, "first", "random"):
        read(net, x)
        if error is not None:
            raise error
    assert torch.equal(read(net, x)[1], out)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), state.values(), strict=True))
    assert not any("forward" in vars(module) for module in net.modules())


def test_a_compiled_network_is_operated_on_too():
    net, x = network(), batch()
    with torch.no_grad():
        compiled = torch.compile(net, backend="eager")
        plain = compiled(x)
        with kernel_surgery(net, None, "impulse"):
            expected = net(x)
        with kernel_surgery(compiled, None, "impulse"):
            torch.testing.assert_close(compiled(x), expected)
        assert not torch.allclose(plain, expected, atol=1e-5)
        torch.testing.assert_close(compiled(x), plain)


@pytest.mark.parametrize(
    ("sites", "mode", "options", "message"),
    [
        (None, "crop", {}, "mode 'crop' is not known. Modes: resize, impulse"),
        (None, "resize", {}, 'needs a k: {"layer3.0.se": 9}, or kernel_size=9'),
        (None, "resize", {"kernel_size": 4}, "k must be an odd whole number"),
        ({"first": 2}, "resize", {}, "k must be an odd whole number"),
        ({"first": 3}, "resize", {"kernel_size": 3}, "where sites is no mapping"),
        ({"first": 3}, "impulse", {}, "the mode 'impulse' wants neither"),
        ("se", "impulse", {}, "se: only an ECA has a kernel over the channels. ECA sites of this model: first, second"),
        ("third", "impulse", {}, "no site matches"),
        ({"first": torch.zeros(C)}, "permute", {}, "holds each of 0…C−1 once"),
    ],
)
def test_bad_requests(sites, mode, options, message):
    net = network()
    with (
        pytest.raises(ValueError, match=re.escape(message)),
        kernel_surgery(net, sites, mode, **options),
    ):
        pass
    assert not any("forward" in vars(module) for module in net.modules())


def test_orders_and_circles_that_do_not_fit_are_told_when_the_network_runs():
    net, x = network(), batch()
    few = kernel_surgery(net, {"first": torch.arange(4)}, "permute")
    with pytest.raises(ValueError, match="first has 16 channels; the order is of 4"), few:
        net(x)
    net = network("ours, circular")
    wide = kernel_surgery(net, {"first": 99})
    with pytest.raises(ValueError, match="kernel_surgery: first"), wide:
        net(x)


def test_the_effect_is_what_two_runs_differ_by():
    net = network()
    model = ecaviz.load(net, transform=normalise, classes=CLASSES, device="cpu")
    drawn = images.shapes("test", 30)
    found = surgery_effect(model, drawn, "first", "permute", seed=4, batch_size=8, progress=False)
    x, labels = drawn.tensors()
    before, logits = read(net, normalise(x))
    with kernel_surgery(net, "first", "permute", seed=4):
        after, others = read(net, normalise(x))
    assert len(found) == 30
    change = (after["first"].gate - before["first"].gate).abs().mean(dim=1)
    assert change.min() > 1e-4
    torch.testing.assert_close(found.gate_change["first"], change, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.agrees, logits.argmax(1) == others.argmax(1))
    divergence = nn.functional.kl_div(
        others.double().log_softmax(1), logits.double().log_softmax(1), reduction="none", log_target=True
    ).sum(1)
    torch.testing.assert_close(found.divergence, divergence, rtol=1e-5, atol=1e-7)
    expected = torch.stack([logits.argmax(1) == labels, others.argmax(1) == labels], dim=1)
    assert torch.equal(found.right, expected)
    table = found.to_frame().set_index("measure")
    assert list(table.index) == [
        *("gate change", "agreement", "divergence", "accuracy before", "accuracy after", "accuracy difference")
    ]
    assert table.loc["accuracy difference", "mean"] == pytest.approx(
        float(expected[:, 1].double().mean() - expected[:, 0].double().mean())
    )
    assert ((table["low"] <= table["mean"]) & (table["mean"] <= table["high"])).all()


def test_no_surgery_has_no_effect():
    model = ecaviz.load("shapes-eca-k3", device="cpu")
    found = surgery_effect(model, images.shapes("test", 12), kernel_size=3, progress=False)
    assert float(torch.stack([*found.gate_change.values()]).max()) == 0
    assert found.agrees.all()
    assert float(found.divergence.abs().max()) == 0
