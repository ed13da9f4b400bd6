"""The influence of maps on gates: against J where there is one, against plain autograd where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ecaviz
from ecaviz import attention, interaction
from ecaviz.influences import Influence, module_influence

C, SIDE = 16, 5
LINEAR = {
    "se-var1": {},
    "se-var2": {},
    "se-var3": {},
    "se-gc1": {},
    "se-gc2": {},
    "se-gc3": {},
    "eca": {"kernel_size": 5},
    "eca-ns": {"kernel_size": 3},
    "ge-theta-minus": {},
}


def made(name, **options):
    torch.manual_seed(0)
    module = attention.build(name, C, **options)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            part.running_mean.uniform_(-0.1, 0.1)
    return module.eval()


@pytest.mark.parametrize("name", LINEAR)
def test_of_a_mean_it_is_j_over_the_root_of_the_positions(name):
    module = made(name, **LINEAR[name])
    found = module_influence(module, torch.randn(3, C, SIDE, SIDE))
    expected = interaction.module_interaction(module).matrix.abs() / SIDE
    torch.testing.assert_close(found.matrix, expected, rtol=1e-5, atol=1e-7)
    size = {"size": SIDE} if name.startswith("ge-") else {}
    assert found.pairs == interaction.structure(name, C, **LINEAR[name], **size).pairs


@pytest.mark.parametrize(
    ("name", "options", "patches"),
    [
        ("se", {"reduction": 4}, 1),
        ("cbam", {"reduction": 4}, 1),
        ("gsop", {"reduced": 6}, 1),
        ("ge-theta", {"size": SIDE}, 1),
        ("ge-theta-plus", {"size": SIDE, "reduction": 4}, 1),
        ("ge-theta", {"extent": 2}, 9),
        ("ge-theta-minus", {"extent": 4}, 4),
        ("ge-theta-plus", {"extent": 2, "reduction": 4}, 9),
    ],
)
def test_against_the_whole_jacobian(name, options, patches):
    """∂z/∂x of squeeze and excitation at once, image by image."""
    module = made(name, **options)
    one = getattr(module, "channel", module)
    x = torch.randn(2, C, SIDE, SIDE)

    def logits(image):
        return one.excite(one.squeeze(image[None])).reshape(C, -1)

    whole = [torch.autograd.functional.jacobian(logits, image) for image in x]
    assert whole[0].shape == (C, patches, C, SIDE, SIDE)
    expected = torch.stack([J.square().sum(dim=(1, 3, 4)).sqrt() for J in whole]).mean(dim=0)
    found = module_influence(module, x)
    torch.testing.assert_close(found.matrix, expected.double(), rtol=1e-4, atol=1e-6)
    pairs = interaction.structure(name, C, **options).pairs
    assert 0 < found.pairs <= pairs
    if name in ("gsop", "ge-theta", "ge-theta-minus"):
        assert found.pairs == pairs


def test_at_a_site_of_a_network_and_nothing_is_left_behind():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, C, 3, padding=1), made("gsop", reduced=6)).train()
    x = torch.randn(5, 3, SIDE, SIDE)
    found = ecaviz.influence(net, "1", x, at_most=4, batch_size=3)
    with torch.no_grad():
        maps = net[0](x[:4])
    torch.testing.assert_close(found.matrix, module_influence(net[1], maps).matrix)
    assert (found.images, found.family, found.site) == (4, "gsop", "1")
    assert found.participation.shape == (C,)
    assert 1 < float(found.participation.min()) <= float(found.participation.max()) <= C
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert "Influence('1', gsop, C=16, mean over 4 images, 256 pairs)" in repr(found)


def test_modules_of_another_library():
    from timm.layers import SEModule

    torch.manual_seed(0)
    module = SEModule(C, rd_ratio=0.5).eval()
    x = torch.rand(1, C, SIDE, SIDE)
    found = module_influence(module, x)
    hidden = module.fc1(x.mean((2, 3), keepdim=True)).flatten() > 0
    W1, W2 = module.fc1.weight.flatten(1), module.fc2.weight.flatten(1)
    expected = (W2 @ torch.diag(hidden.float()) @ W1).abs() / SIDE
    torch.testing.assert_close(found.matrix, expected.double().detach(), rtol=1e-4, atol=1e-7)


def test_what_has_none_says_so():
    with pytest.raises(ValueError, match=r"one gate of channels was expected in the Linear, found 0"):
        module_influence(nn.Linear(2, 2), torch.zeros(1, 2, 2, 2))
    net = nn.Sequential(made("cbam", reduction=4))
    with pytest.raises(ValueError, match=r"0\.spatial gates positions"):
        ecaviz.influence(net, "0.spatial", torch.randn(1, C, 4, 4))
    nothing = Influence("se", "", 2, 1, torch.zeros(2, 2, dtype=torch.float64))
    assert nothing.participation.tolist() == [0, 0]
    assert nothing.pairs == 0


class LastLayer(nn.Module):
    """An SE that nobody here knows, whose sigmoid is a function: its logit is what the last layer gives."""

    def __init__(self):
        super().__init__()
        self.reduce, self.expand = nn.Linear(C, C // 2), nn.Linear(C // 2, C)

    def forward(self, x):
        z = self.expand(self.reduce(x.mean((2, 3))).relu())
        return x * z.sigmoid()[:, :, None, None]


def test_a_logit_that_is_what_the_last_layer_gives():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(3, C, 3, padding=1), LastLayer()), torch.randn(6, 3, SIDE, SIDE)
    with torch.no_grad():
        net[1].expand.weight.mul_(4)
    (site,) = ecaviz.find_sites(net, example=x)
    assert (site.rung, site.layout.source) == ("last layer", "layer")
    found = ecaviz.influence(net, site, x)
    with torch.no_grad():
        active = (net[1].reduce(net[0](x).mean((2, 3))) > 0).float()
        W1, W2 = net[1].reduce.weight, net[1].expand.weight
        each = torch.stack([(W2 @ torch.diag(one) @ W1).abs() / SIDE for one in active])
    torch.testing.assert_close(found.matrix, each.mean(0).double(), rtol=1e-4, atol=1e-7)


def test_what_a_network_must_do_with_a_site():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = attention.build("se-var1", 3)

        def forward(self, x):
            return x.mean((2, 3))

    with pytest.raises(ValueError, match="the network ran without calling the site 'gate'"):
        ecaviz.influence(Idle(), "gate", torch.randn(2, 3, SIDE, SIDE))
    net = ecaviz.load(nn.Sequential(attention.build("se-var1", 3)), transform=lambda x: x.float())
    sizes = [torch.zeros(3, side, side, dtype=torch.uint8) for side in (4, 4, 6)]
    with pytest.raises(ValueError, match=r"images of one size were expected, got maps of \[\(4, 4\), \(6, 6\)\] at 0"):
        ecaviz.influence(net, "0", torch.utils.data.DataLoader(Mixed(sizes), batch_size=None))


class Mixed(torch.utils.data.Dataset):
    """Batches of one image, each of its own size."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i][None].float()


def test_half_precision_is_not_lost_in_squares():
    module = made("se-var3").half()
    x = torch.randn(2, C, 32, 32).half()
    found = module_influence(module, x)
    expected = interaction.module_interaction(module).matrix.abs() / 32
    torch.testing.assert_close(found.matrix, expected, rtol=5e-3, atol=1e-5)


def test_under_inference_mode_and_inside_a_capture():
    net = nn.Sequential(nn.Conv2d(3, C, 3, padding=1), made("se-var3")).eval()
    x = torch.randn(2, 3, SIDE, SIDE)
    plain = ecaviz.influence(net, "1", x)
    with torch.inference_mode():
        again = ecaviz.influence(net, "1", x)
    torch.testing.assert_close(plain.matrix, again.matrix)
    with torch.inference_mode():
        maps = net[0](x)
        torch.testing.assert_close(module_influence(net[1], maps).matrix, plain.matrix)
    with ecaviz.capture(net) as gates:
        ecaviz.influence(net, "1", x)
    assert len(gates["1"].gate) == 2  # the network ran once, and that is what was captured


def test_what_a_network_may_look_like():
    """Without parameters; calling the module by keyword; calling it twice."""

    class Caller(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = attention.build("se-var1", 3)

        def forward(self, x):
            return self.gate(x=self.gate(x=x))

    x = torch.randn(3, 3, SIDE, SIDE)
    found = ecaviz.influence(Caller(), "gate", x)
    assert found.images == 3
    torch.testing.assert_close(found.matrix, torch.eye(3, dtype=torch.float64) / SIDE, rtol=1e-5, atol=1e-8)


def test_nothing_is_left_behind_when_it_fails():
    class FailingError(Exception):
        pass

    net = nn.Sequential(nn.Conv2d(3, C, 3, padding=1), made("se-var3"))
    net[1].squeeze.register_forward_hook(lambda *_: (_ for _ in ()).throw(FailingError))
    with pytest.raises(FailingError):
        ecaviz.influence(net, "1", torch.randn(1, 3, SIDE, SIDE))
    with pytest.raises(FailingError):
        module_influence(net[1], torch.randn(1, C, SIDE, SIDE))
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules()]
    assert sum(hooks) == 1  # the user's own
    assert all(module.training for module in net[0].modules())
    with pytest.raises(ValueError, match="influence: at_most must be a whole number of at least 1, got 0"):
        ecaviz.influence(net, "1", torch.randn(1, 3, SIDE, SIDE), at_most=0)
