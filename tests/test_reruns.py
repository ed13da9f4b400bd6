"""A run from a site on, against the whole network under the same surgery; and what such a run must leave alone."""

import copy
import gc
import re
import threading
import warnings
import weakref

import pytest
import torch
from test_surgery import batch as some_images
from test_surgery import kinds
from test_surgery import network as three_gates
from torch import nn
from torch.nn import functional as F

import ecaviz
from ecaviz import attention, bundle, images, module_calls, networks
from ecaviz.function_calls import StandIn
from ecaviz.gates import capture, find_sites
from ecaviz.module_calls import grab
from ecaviz.reruns import CachedRun
from ecaviz.surgery import MODES, kernel_surgery

C = 16
BUNDLED = [name for name, row in bundle.manifest().items() if row.family == "eca"]


def lively(net, seed=0):
    """Kernels whose gates differ from channel to channel, norms as after some training, no branch shut."""
    made = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=made))
                module.bias.copy_(torch.rand(module.bias.shape, generator=made) - 0.3)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=2 / module.in_features**0.5, generator=made)
        for site in find_sites(net):
            if site.family == "eca":
                site.kernel.copy_(3 * torch.randn(site.kernel.shape, generator=made))
    return net.eval()


def noise(n=3, size=32, seed=3):
    made = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, size, size, generator=made) + torch.randn(n, 3, 1, 1, generator=made)


def whole(net, x, *given, **more):
    """The logits and the gates of the whole network under surgery."""
    with torch.no_grad(), kernel_surgery(net, *given, **more), capture(net) as gates:
        logits = net(x)
    return logits, {name: record.gate for name, record in gates.items()}


def state_of(net):
    parts = {name: (dict(vars(module)), module.training) for name, module in net.named_modules()}
    hooks = {name: (len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in net.named_modules()}
    return {name: (set(own), training) for name, (own, training) in parts.items()}, hooks


def counted(net):
    """How often each module's forward was called, by name, from now on."""
    calls = dict.fromkeys(dict(net.named_modules()), 0)

    def count(name):
        def hook(_module, _args):
            calls[name] += 1

        return hook

    for name, module in net.named_modules():
        module.register_forward_pre_hook(count(name))
    return calls


# --- networks


class Block(nn.Module):
    """In place wherever one can be: activations, and a shortcut that is added in place."""

    def __init__(self, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(C, C, 3, stride, 1, bias=False), nn.BatchNorm2d(C)
        self.conv2, self.bn2 = nn.Conv2d(C, C, 3, 1, 1, bias=False), nn.BatchNorm2d(C)
        self.relu, self.se = nn.ReLU(inplace=True), attention.ECA(C, 3)
        self.stride = stride

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        y += F.avg_pool2d(x, self.stride) if self.stride > 1 else x
        return self.relu(y)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, C, 3, 2, 1), nn.Linear(C, 12)

    def end(self, x):
        return self.head(x.mean((2, 3)))


class InPlace(Base):
    def __init__(self):
        super().__init__()
        self.bn, self.relu = nn.BatchNorm2d(C), nn.ReLU(inplace=True)
        self.one, self.two, self.three = Block(), Block(2), Block()

    def forward(self, x):
        return self.end(self.three(self.two(self.one(self.relu(self.bn(self.stem(x)))))))


class Twice(Base):
    """One ECA and one block, each called twice."""

    def __init__(self):
        super().__init__()
        self.before, self.block, self.eca = attention.ECA(C, 3), Block(), attention.ECA(C, 5)

    def forward(self, x):
        x = self.block(self.before(self.stem(x)))
        return self.end(self.eca(F.relu(self.block(self.eca(x)))))


class Functional(Base):
    """Functions between the modules, in place and not, and a branch that joins late."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(C, C, 3, 1, 1) for _ in "abc")
        self.first, self.second = attention.ECA(C, 3), attention.ECA(C, 5)

    def forward(self, x):
        x = F.relu_(self.stem(x - x.mean()))
        early = self.a(x).sigmoid()
        x = self.first(F.relu_(self.b(x)))
        y = self.c(x)
        late = y.tanh()
        y = F.relu_(y)
        return self.end(self.second(y.mul_(early)) + late)


class Keeper(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.kept = nn.Conv2d(C, C, 3, 1, 1), None

    def forward(self, x):
        x = self.conv(x)
        self.kept = x.tanh()
        return x.relu()


class Leaky(Base):
    """A part leaves something to a later one that it does not return."""

    def __init__(self):
        super().__init__()
        self.keeper, self.first, self.second = Keeper(), attention.ECA(C, 3), attention.ECA(C, 3)

    def forward(self, x):
        return self.end(self.second(self.first(self.keeper(self.stem(x))) + self.keeper.kept))


class Pair(nn.Module):
    def forward(self, x):
        return {"whole": x, "halves": [x[:, : C // 2], (x[:, C // 2 :], None, "named", 3)]}


class Nested(Base):
    """Parts that return more than a tensor; one that hands on an object."""

    def __init__(self):
        super().__init__()
        self.pair, self.conv, self.eca = Pair(), nn.Conv2d(C, C, 1), attention.ECA(C, 3)

    def forward(self, x):
        found = self.pair(self.stem(x))
        left, (right, nothing, named, three) = found["halves"]
        assert (nothing, named, three) == (None, "named", 3)
        found["halves"].append("the list is the caller's own")
        return self.end(self.eca(self.conv(torch.cat([right, left], 1)) + found["whole"]))


class Again(nn.Module):
    """Calls itself."""

    def __init__(self):
        super().__init__()
        self.conv, self.eca = nn.Conv2d(C, C, 1), attention.ECA(C, 3)

    def forward(self, x, deep):
        if not deep:
            return self.conv(x).tanh()
        return x + self(self.eca(self(x, False)), False)


class Recursive(Base):
    def __init__(self):
        super().__init__()
        self.again = Again()

    def forward(self, x):
        return self.end(self.again(self.again(self.stem(x), False), True))


class Shared(Base):
    """One activation, called inside a part and outside it; and a gate whose sigmoid is a function."""

    def __init__(self):
        super().__init__()
        self.act, self.gate, self.eca = nn.Tanh(), Sigmoids(), attention.ECA(C, 3)
        self.part = nn.Sequential(nn.Conv2d(C, C, 1), self.act)

    def forward(self, x):
        return self.end(self.eca(self.act(self.gate(self.part(self.stem(x))))))


class Sigmoids(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(C, 4), nn.Linear(4, C)

    def forward(self, x):
        return x * torch.sigmoid(2 * self.up(self.down(x.mean((2, 3))).relu()))[:, :, None, None]


class Box:
    def __init__(self, x):
        self.x = x


class Boxer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(C, C, 1)

    def forward(self, x):
        return Box(self.conv(x))


class Boxed(Base):
    def __init__(self):
        super().__init__()
        self.boxer, self.eca = Boxer(), attention.ECA(C, 3)

    def forward(self, x):
        return self.end(self.eca(self.boxer(self.stem(x)).x))


class Discarding(Base):
    """What the activation returns is not used: it counts that it wrote to its input."""

    def __init__(self):
        super().__init__()
        self.relu, self.eca = nn.ReLU(inplace=True), attention.ECA(C, 3)

    def forward(self, x):
        x = self.stem(x)
        self.relu(x)
        return self.end(self.eca(x))


class Greedy(Base):
    """Writes into its images, and into what the site is given."""

    def __init__(self):
        super().__init__()
        self.eca = attention.ECA(C, 3)

    def forward(self, x):
        x.mul_(2).add_(0.1)
        y = self.stem(x)
        gated = self.eca(y)
        y.mul_(0.5)
        return self.end(gated + y + x.mean())


class Wavering(Base):
    """Random in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.eca = attention.ECA(C, 3)

    def forward(self, x):
        return self.end(F.dropout(self.eca(self.stem(x)), 0.5, training=True))


class Counter(Base):
    def __init__(self):
        super().__init__()
        self.eca = attention.ECA(C, 3)
        self.register_buffer("ran", torch.zeros(()))

    def forward(self, x):
        self.ran += 1
        return self.end(self.eca(self.stem(x)))


def official(blocks=(1, 1, 1, 1)):
    from timm.layers import EcaModule

    widths = [64 * 2**stage for stage, count in enumerate(blocks) for _ in range(count)]
    shape = networks.PlainResNet(False, blocks, classes=12)
    return networks.build_plain_resnet(shape, [EcaModule(kernel_size=3 if c < 256 else 5) for c in widths])


def mobilenet():
    from torchvision.models.mobilenetv2 import InvertedResidual

    plain = networks.build_mobilenet_v2(classes=12)
    widths = [block.conv[-2].out_channels for block in plain.features if isinstance(block, InvertedResidual)]
    return networks.build_mobilenet_v2([attention.ECA(c, 3) for c in widths], classes=12)


def timms():
    import timm

    return timm.create_model("ecaresnet26t", pretrained=False, num_classes=12, zero_init_last=False)


def own(make):
    torch.manual_seed(0)
    return lively(make())


PARTIAL = {
    "official": official,
    "mobilenet": mobilenet,
    "timm": timms,
    "in place": InPlace,
    "twice": Twice,
    "functional": Functional,
    "nested": Nested,
    "boxed": Boxed,
    "shared": Shared,
    "recursive": Recursive,
    "discarding": Discarding,
    "greedy": Greedy,
}


# --- the same numbers


def check_every_site(net, x, cached, modes=("impulse",), least=1e-5):
    moved = 0
    for site in cached.sites:
        if site.family != "eca":
            continue
        for mode in modes:
            options = {"kernel_size": 3 if site.kernel_size != 3 else 1} if mode == "resize" else {"seed": 2}
            expected, gates = whole(net, x.clone(), site.name, mode, **options)
            found = cached.logits_under(site.name, mode, **options)
            assert float((found - expected).abs().max()) <= 1e-6 * max(1, float(expected.abs().max()))
            assert cached.prepare(site.name).partial
            torch.testing.assert_close(
                cached.gates_under(site.name, mode, **options), gates[site.name], rtol=0, atol=1e-6
            )
            changes = not torch.equal(gates[site.name], cached.gates[site.name])
            moved += changes and float((expected - cached.logits).abs().max()) > least
    return moved


@pytest.mark.parametrize("name", BUNDLED)
def test_a_run_from_any_site_of_a_bundled_network_is_the_whole_run(name):
    model = ecaviz.load(name, device="cpu")
    drawn = images.shapes("test", 4)
    cached = CachedRun(model, drawn)
    x = torch.stack([model.transform(image) for image, _ in drawn])
    assert torch.equal(cached.batch, x)
    with torch.no_grad(), capture(model) as gates:
        assert torch.equal(cached.logits, model.net(x))
    assert list(cached.gates) == list(gates) == list(cached.descriptors)
    for site, record in gates.items():
        assert torch.equal(cached.gates[site], record.gate)
        assert torch.equal(cached.descriptors[site], record.descriptor)
    single = name.endswith("-k1")
    modes = MODES if name == "shapes-eca-k3" else ("random",) if single else ("permute",)
    moved = check_every_site(model.net, x, cached, modes)
    # Of a kernel of one weight, another with its norm differs at most in the sign.
    assert moved >= (1 if single else len(cached.sites) * len(modes))


@pytest.mark.parametrize("name", PARTIAL)
def test_a_run_from_any_site_of_other_networks_is_the_whole_run(name):
    net, x = own(PARTIAL[name]), noise(2, 64 if name == "mobilenet" else 32)
    cached = CachedRun(net, x)
    assert min(float(gate.std(dim=1).mean()) for gate in cached.gates.values()) > 1e-3
    assert check_every_site(net, x, cached, ("impulse", "permute")) >= len(cached.sites)


@pytest.mark.parametrize("kind", list(kinds()))
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bias", [False, True])
def test_gates_without_the_network_are_those_of_the_surgery(kind, mode, bias):
    net, x = three_gates(kind), some_images()
    if bias:
        for site in find_sites(net)[:2]:
            site.module.get_submodule(site.layout.conv).bias = nn.Parameter(torch.tensor([0.7]))
    cached = CachedRun(net, x)
    given = ({"first": 3}, mode) if mode == "resize" else ("first", mode)
    expected, gates = whole(net, x, *given, seed=4)
    found = cached.gates_under(*given, seed=4)
    torch.testing.assert_close(found, gates["first"], rtol=0, atol=1e-6)
    assert found.dtype == torch.float32
    torch.testing.assert_close(cached.logits_under(*given, seed=4), expected, rtol=0, atol=1e-6)
    order = torch.randperm(C, generator=torch.Generator().manual_seed(1))
    _, gates = whole(net, x, {"second": order}, "permute")
    found = cached.gates_under({"second": order}, "permute")
    torch.testing.assert_close(found, gates["second"], rtol=0, atol=1e-6)
    assert not torch.allclose(found, cached.gates["second"], atol=1e-4)


def test_several_sites_are_run_from_the_first_that_changes():
    net, x = own(InPlace), noise()
    cached = CachedRun(net, x)
    expected, _ = whole(net, x, {"three.se": 1, "two.se": 5})  # a larger k with the same weights changes nothing
    torch.testing.assert_close(cached.logits_under({"three.se": 1, "two.se": 5}), expected, rtol=0, atol=1e-6)
    assert set(cached._restarts) == {"two.se"}
    expected, _ = whole(net, x, {"three.se": 1, "two.se": 3})
    torch.testing.assert_close(cached.logits_under({"three.se": 1, "two.se": 3}), expected, rtol=0, atol=1e-6)
    assert set(cached._restarts) == {"two.se", "three.se"}
    expected, _ = whole(net, x, None, "permute", seed=1)
    torch.testing.assert_close(cached.logits_under(None, "permute", seed=1), expected, rtol=0, atol=1e-6)
    assert set(cached._restarts) == {"one.se", "two.se", "three.se"}


def test_where_nothing_changes_nothing_is_run():
    net = own(InPlace)
    cached = CachedRun(net, noise())
    calls = counted(net)
    found = cached.logits_under("two.se", kernel_size=3)
    assert torch.equal(found, cached.logits)
    assert found is not cached.logits
    assert not any(calls.values())


def test_a_run_may_begin_at_any_module_inside_any_change():
    net, x = own(InPlace), noise()
    cached = CachedRun(net, x)

    def dimmed(forward, y):
        return 0.3 * forward(y)

    for start in ("two.se", "two", "two.conv1", "one", "stem"):
        stand_in = StandIn(net.two.se, dimmed)
        with torch.no_grad():
            expected = net(x)
        found = cached.run_from(start)
        stand_in.remove()
        assert not torch.allclose(expected, cached.logits, atol=1e-4)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert torch.equal(cached.run_from(start), cached.logits)
    assert cached.prepare("stem").skipped == 0
    assert cached.prepare("two").skipped < cached.prepare("two.se").skipped


def test_captures_read_the_sites_that_are_run():
    net, x = own(InPlace), noise()
    cached = CachedRun(net, x)
    _, expected = whole(net, x, "two.se", "permute")
    with kernel_surgery(net, "two.se", "permute"), capture(net) as gates:
        cached.run_from("two.se")  # which is prepared in here, and of that the capture sees nothing
    assert list(gates) == ["two.se", "three.se"]
    for name, record in gates.items():
        assert len(record.gate) == len(x)
        torch.testing.assert_close(record.gate, expected[name], rtol=0, atol=1e-6)


def test_a_capture_of_functions_before_the_start_is_no_change():
    net, x = own(Shared), noise()
    assert [(one.name, one.rung) for one in find_sites(net, example=x)] == [("gate", "functional"), ("eca", "registry")]
    cached = CachedRun(net, x)
    assert list(cached.gates) == ["gate", "eca"]
    with capture(net) as gates:
        assert torch.equal(cached.run_from("eca"), cached.logits)
    assert list(gates) == ["eca"]


def test_the_second_call_of_a_site_follows_from_its_first():
    net, x = own(Twice), noise()
    cached = CachedRun(net, x)
    assert list(cached.gates) == ["before", "block.se", "eca", "block.se#2", "eca#2"]
    _, gates = whole(net, x, "eca", "impulse")
    assert not torch.allclose(gates["eca#2"], cached.gates["eca#2"], atol=1e-4)
    torch.testing.assert_close(cached.gates_under("eca", "impulse"), gates["eca"], rtol=0, atol=1e-6)


def test_under_autocast_the_network_runs_as_it_did():
    net, x = own(InPlace), noise()
    with torch.autocast("cpu", torch.bfloat16):
        cached = CachedRun(net, x)
        expected, gates = whole(net, x, "two.se", "permute")
    assert not torch.equal(cached.logits, CachedRun(net, x).logits)
    found = cached.logits_under("two.se", "permute")
    assert torch.equal(found, expected)
    assert cached.prepare("two.se").partial
    torch.testing.assert_close(cached.gates_under("two.se", "permute"), gates["two.se"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("around", [torch.inference_mode, torch.enable_grad])
def test_it_works_whatever_the_mode_of_gradients(around):
    net, x = own(InPlace), noise()
    expected, _ = whole(net, x, "two.se", "permute")
    with around():
        cached = CachedRun(net, x + 0)
        found = cached.logits_under("two.se", "permute")
        cached.gates_under("two.se", "permute")
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(cached.logits_under("two.se", "permute"), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("part", [None, "two", "two.conv1"])
def test_compiled_networks_run_eagerly(part):
    net, x = own(InPlace), noise()
    expected, _ = whole(net, x, "two.se", "permute")
    if part is None:
        model = torch.compile(net, backend="eager")
    else:
        model = net
        net.get_submodule(part).compile(backend="eager")
        with torch.no_grad():
            net(x)
    before = state_of(net)
    cached = CachedRun(model, x)
    for name in ("two.se", "three.se"):
        assert cached.prepare(name).partial
    torch.testing.assert_close(cached.logits_under("two.se", "permute"), expected, rtol=0, atol=1e-6)
    assert state_of(net) == before
    with torch.no_grad():
        torch.testing.assert_close(net(x), cached.logits, rtol=0, atol=1e-6)


# --- what is skipped, and what is kept


def test_what_comes_before_is_not_run():
    net, x = own(InPlace), noise()
    cached = CachedRun(net, x)
    cached.prepare("two.se")
    calls = counted(net)
    cached.logits_under("two.se", "permute")
    ran = {name for name, count in calls.items() if count}
    # Two is run for its own forward, and what it is given does not matter: the calls up to its site are skipped.
    behind = {"", "two", "two.relu", "head", "three", *(f"three.{name}" for name, _ in net.three.named_children())}
    gate = {
        f"{block}.se.{part}"
        for block in ("two", "three")
        for part in ("squeeze", "excite", "excite.conv", "activation")
    }
    assert ran == behind | gate | {"two.se"}
    assert calls["two.relu"] == 1  # of two calls
    assert calls["three.relu"] == 2


def test_only_what_is_looked_at_is_kept():
    net, x = own(InPlace), noise(2)
    cached = CachedRun(net, x)
    of_a_map = 2 * C * 16 * 16 * 4
    # The input of the shortcut, and that of the site on a fourth of the positions; NaNs of one number for the rest.
    assert of_a_map * 5 / 4 <= cached.prepare("two.se").nbytes <= of_a_map * 5 / 4 + 100
    assert cached.nbytes == cached.prepare("two.se").nbytes
    assert "ready to run from: two.se" in repr(cached)
    assert len(cached) == 2


def test_runs_again_and_again_give_the_same_bits():
    for make in (InPlace, Functional, Greedy, Discarding):
        net, x = own(make), noise()
        given = x.clone()
        cached = CachedRun(net, x)
        site = cached.sites[-1].name
        plan = cached._plans[cached.prepare(site).name]
        kept = [one.clone() for one in plan.tensors]
        first = cached.logits_under(site, "permute")
        for seed in range(1, 6):
            cached.logits_under(site, "permute", seed=seed)
        assert torch.equal(cached.logits_under(site, "permute"), first)
        assert cached._plans[site] is plan
        assert all(torch.equal(a, b) for a, b in zip(plan.tensors, kept, strict=True) if not a.isnan().all())
        assert torch.equal(x, given)


def test_a_change_that_writes_into_its_input_spoils_nothing():
    net, x = own(InPlace), noise()
    cached = CachedRun(net, x)

    def writes(forward, y):
        return forward(y.mul_(0.5))

    plans = []
    for _ in range(3):
        stand_in = StandIn(net.two.se, writes)
        with torch.no_grad():
            expected = net(x)
        found = cached.run_from("two.se")
        stand_in.remove()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert torch.equal(cached.run_from("two.se"), cached.logits)
        plans.append(cached._plans["two.se"])
    assert plans[0] is plans[1] is plans[2]  # from the second run on, copies are written to


def test_the_network_is_left_as_it_was():
    net, x = own(InPlace).train(), noise()
    net.one.eval()
    weights, before = copy.deepcopy(net.state_dict()), state_of(net)
    cached = CachedRun(net, x)
    cached.logits_under("two.se", "permute")
    cached.logits_under(None, "random")
    cached.gates_under("two.se", "random")
    assert state_of(net) == before
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), weights.values(), strict=True))
    expected, _ = whole(net.eval(), x, "two.se", "permute")
    torch.testing.assert_close(cached.logits_under("two.se", "permute"), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_network_is_left_as_it_was_when_a_run_is_broken_off(error):
    net = own(InPlace)
    cached = CachedRun(net, noise())
    cached.prepare("two.se")

    def breaks(_forward, _y):
        raise error

    stand_in = StandIn(net.three.se, breaks)
    before = state_of(net)
    with pytest.raises(error):
        cached.logits_under("two.se", "permute")
    assert state_of(net) == before
    stand_in.remove()
    assert torch.equal(cached.run_from("two.se"), cached.logits)


def test_a_copy_of_the_network_made_in_a_run_skips_nothing():
    net, x = own(InPlace), noise()
    cached = CachedRun(net, x)
    made = []

    def copies(forward, y):
        made.append(copy.deepcopy(net.two.conv1))
        made.append(copy.deepcopy(net.stem))
        return forward(y)

    stand_in = StandIn(net.two.se.excite.conv, copies)
    cached.run_from("two.se")
    stand_in.remove()
    assert made
    assert not any("_compiled_call_impl" in vars(one) for one in made)


def test_it_goes_away_with_its_last_reference():
    net = own(InPlace)
    cached = CachedRun(net, noise())
    cached.logits_under("two.se", "permute")
    gone = weakref.ref(cached)
    del cached
    gc.collect()
    assert gone() is None


# --- never a wrong number


def spoilt_weight(net):
    with torch.no_grad():
        net.one.conv1.weight.mul_(1.5)


def other_weight(net):
    net.one.conv1.weight = nn.Parameter(net.one.conv1.weight.detach().clone())


def moved_weight(net):
    net.one.conv1.weight.data = net.one.conv1.weight.data * 2


def other_buffer(net):
    net.bn.running_mean += 1


def other_module(net):
    net.one.relu = nn.ReLU6()


def loaded(net):
    net.load_state_dict({name: value * 2 for name, value in net.state_dict().items()})


def one_buffer_more(net):
    net.register_buffer("more", torch.zeros(1))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (spoilt_weight, "one.conv1.weight"),
        (other_weight, "one.conv1.weight"),
        (moved_weight, "one.conv1.weight"),
        (other_buffer, "bn.running_mean"),
        (other_module, "its modules"),
        (loaded, "stem.weight"),
        (one_buffer_more, "its weights"),
    ],
)
def test_a_network_that_was_changed_since_is_refused(change, what):
    net, x = own(InPlace), noise()
    cached = CachedRun(net, x)
    cached.prepare("two.se")
    change(net)
    message = re.escape(f"InPlace is not the network that was run: {what} changed since. Make a new CachedRun.")
    for use in (cached.logits_under, cached.gates_under):
        with pytest.raises(RuntimeError, match=message):
            use("two.se", "permute")
    for use in (cached.run_from, cached.prepare):
        with pytest.raises(RuntimeError, match=message):
            use("two.se")
    expected, _ = whole(net, x, "two.se", "permute")
    torch.testing.assert_close(CachedRun(net, x).logits_under("two.se", "permute"), expected, rtol=0, atol=1e-6)


def test_a_change_before_the_start_is_refused():
    net = own(InPlace)
    cached = CachedRun(net, noise())
    with kernel_surgery(net, "one.se", "permute"):
        message = "one.se.excite.conv was changed .* called before two.se"
        with pytest.raises(RuntimeError, match=message):
            cached.run_from("two.se")
        cached.run_from("one.se")
        cached.run_from(["two.se", "one.se"])


def test_what_parts_hand_on_by_the_back_door_is_noticed():
    net, x = own(Leaky), noise()
    cached = CachedRun(net, x)
    with pytest.warns(UserWarning, match="Leaky cannot be run from first on: what comes before it hands on more"):
        found = cached.logits_under("first", "permute")
    with torch.no_grad():
        net(noise(seed=9))  # leaves something else behind
    expected, _ = whole(net, x, "first", "permute")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        torch.testing.assert_close(cached.logits_under("first", "permute"), expected, rtol=0, atol=1e-6)
    restart = cached.prepare("first")
    assert (restart.partial, restart.skipped, restart.nbytes) == (False, 0, 0)
    assert restart.reason


def test_a_network_that_is_random_or_counts_is_always_run_as_a_whole():
    net, x = own(Wavering), noise()
    cached = CachedRun(net, x)
    with pytest.warns(UserWarning, match="two runs of the unchanged network give different logits"):
        cached.logits_under("eca", "permute")
    net = own(Counter)
    cached = CachedRun(net, x)
    with pytest.warns(UserWarning, match="the network changes ran when it runs"):
        found = cached.logits_under("eca", "permute")
    expected, _ = whole(net, x, "eca", "permute")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    cached.logits_under("eca", "permute")


def test_outputs_that_were_kept_wrongly_fail_the_proof(monkeypatch):
    net, x = own(InPlace), noise()
    cached = CachedRun(net, x)

    def off(*given):
        outputs = grab(*given)
        for output in () if outputs is None else outputs.values():
            output.mul_(1.001)
        return outputs

    monkeypatch.setattr("ecaviz.reruns.grab", off)
    with pytest.warns(UserWarning, match=r"InPlace cannot be run from two.se on"):
        found = cached.logits_under("two.se", "permute")
    expected, _ = whole(net, x, "two.se", "permute")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_what_is_looked_at_unseen_fails_the_proof_and_is_kept_then(monkeypatch):
    net, x = own(InPlace), noise()
    usual = CachedRun(net, x).prepare("two.se").nbytes
    cached = CachedRun(net, x)
    monkeypatch.setattr("ecaviz.reruns._Touched.look", lambda *_: None)
    restart = cached.prepare("two.se")
    assert restart.partial
    assert restart.nbytes > usual
    expected, _ = whole(net, x, "two.se", "permute")
    torch.testing.assert_close(cached.logits_under("two.se", "permute"), expected, rtol=0, atol=1e-6)


def test_a_network_that_takes_another_way_is_run_as_a_whole():
    class Wayward(InPlace):
        skip = False

        def forward(self, x):
            x = self.relu(self.bn(self.stem(x)))
            if not self.skip:
                x = self.one(x)
            return self.end(self.three(self.two(x)))

    net, x = own(Wayward), noise()
    cached = CachedRun(net, x)
    cached.prepare("two.se")
    net.skip = True
    with torch.no_grad():
        expected = net(x)
    torch.testing.assert_close(cached.run_from("two.se"), expected, rtol=0, atol=1e-6)
    with pytest.warns(UserWarning, match="two runs of the unchanged network give different logits"):
        torch.testing.assert_close(cached.run_from("three"), expected, rtol=0, atol=1e-6)


def test_hooks_that_come_later_play_no_part_in_what_is_skipped():
    net, x = own(InPlace), noise()
    net.one.register_forward_hook(lambda _module, _args, output: output * 0.7)  # there when it is run: part of it
    expected, _ = whole(net, x, "two.se", "permute")
    cached = CachedRun(net, x)
    seen = []
    handle = net.one.register_forward_hook(lambda *_: seen.append("one"))
    behind = net.three.register_forward_hook(lambda *_: seen.append("three"))
    torch.testing.assert_close(cached.logits_under("two.se", "permute"), expected, rtol=0, atol=1e-6)
    assert seen == ["three"]
    handle.remove()
    behind.remove()
    with torch.no_grad():
        assert torch.equal(net(x), cached.logits)


# --- what is asked


def test_gates_need_no_lock_and_no_network():
    net = own(InPlace)
    cached = CachedRun(net, noise())
    calls = counted(net)
    found = []
    with cached._lock:  # held by a run under way
        other = threading.Thread(target=lambda: found.append(cached.gates_under("two.se", "permute")))
        other.start()
        other.join(10)
    assert len(found) == 1
    assert not any(calls.values())
    with kernel_surgery(net, "two.se", "permute", seed=5):  # another surgery under way plays no part
        assert torch.equal(cached.gates_under("two.se", "permute"), found[0])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda one: one.logits_under("four"), "no site matches 'four'"),
        (lambda one: one.logits_under("two.se"), 'the mode "resize" needs a k'),
        (lambda one: one.logits_under("two.se", "crop"), "mode 'crop' is not known"),
        (lambda one: one.gates_under("*", "impulse"), "one site was expected, got 3: one.se, two.se, three.se"),
        (lambda one: one.run_from("four"), "InPlace has no module 'four'. Its sites: one.se, two.se, three.se"),
        (lambda one: one.run_from([]), "the name of a module to start from was expected"),
        (lambda one: CachedRun(one.net, noise(65, 8)), "a few images were expected, at most 64"),
        (lambda one: CachedRun(one.net, "nowhere"), "no folder"),
        (lambda one: CachedRun(one.net.one, noise()), "expected input"),
        (lambda one: CachedRun(nn.Conv2d(3, 3, 1), noise()), "has no channel gates"),
        (lambda one: CachedRun(nn.Sequential(one.net.stem, one.net.one), noise()), "gives logits N×K was expected"),
    ],
)
def test_bad_requests(ask, message):
    cached = CachedRun(own(InPlace), noise())
    before = state_of(cached.net)
    with pytest.raises((ValueError, RuntimeError, FileNotFoundError), match=re.escape(message)):
        ask(cached)
    assert state_of(cached.net) == before


def test_a_site_that_is_not_called_changes_nothing():
    net = own(InPlace)
    net.spare = attention.ECA(C, 3)
    cached = CachedRun(net, noise())
    assert torch.equal(cached.logits_under("spare", "impulse"), cached.logits)
    with pytest.raises(ValueError, match="the network did not call spare, so it has no descriptors"):
        cached.gates_under("spare", "impulse")
    with pytest.raises(ValueError, match="the network did not call 'spare'"):
        cached.run_from("spare")


def test_calls_that_do_not_return_plainly_are_made_again():
    found = module_calls.is_plain
    assert found([torch.zeros(1), (None, {"a": 1.5})])
    assert not found(Box(torch.zeros(1)))
    assert not found([torch.zeros(1).to_sparse()])
    net, x = own(Boxed), noise()
    cached = CachedRun(net, x)
    cached.prepare("eca")
    calls = counted(net)
    cached.run_from("eca")
    assert (calls["boxer"], calls["boxer.conv"], calls["stem"]) == (1, 0, 0)
