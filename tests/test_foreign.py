"""Gates that nobody here knows: found, read by the right rung, equal to the gate by hand; and what is none is not."""

import copy
import gc
import re
import weakref

import pytest
import torch
import zoo
import zoo_others
from torch import nn

import ecaviz
from ecaviz import attention, foreign
from ecaviz.gates import capture, find_sites


class Net(nn.Module):
    """One module of the zoo behind a convolution, with a ReLU in place after it."""

    def __init__(self, module, times=3.0):
        super().__init__()
        self.conv = nn.Conv2d(3, zoo.C, 3)
        self.part = zoo.prepared(module, times=times)
        self.head = nn.Linear(zoo.C, 5)

    def forward(self, x):
        return self.head(self.part(self.conv(x)).relu_().mean((2, 3)))


def net_of(make, seed=0, **options):
    torch.manual_seed(seed)
    return Net(make(), **options).eval()


def some_images(n=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    level = 1 + torch.rand(n, 3, 1, 1, generator=generator)
    return level * torch.randn(n, 3, zoo.SIZE + 2, zoo.SIZE + 2, generator=generator) + level


LOC = ("left", "center", "right")


def traces_of(net):
    """Everything that a run may leave in a network."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_always_called")
    return {
        "hooks": {(n, k): list(getattr(m, k)) for n, m in net.named_modules() for k in kinds if getattr(m, k)},
        "forward": [n for n, m in net.named_modules() if "forward" in m.__dict__],
        "training": [m.training for m in net.modules()],
        "gradients": [p.requires_grad for p in net.parameters()],
        "no grad": all(p.grad is None for p in net.parameters()),
        "buffers": [id(b) for b in net.buffers()],
        "mode": torch._C._len_torch_function_stack(),
        "enabled": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("style", zoo.GATES)
def test_the_zoo(style):
    known = zoo.GATES[style]
    net, x = net_of(known.make), some_images()
    before = find_sites(net)
    assert [one.rung for one in before] == (["registry"] if known.rung == "registry" else [])
    (site,) = find_sites(net, example=x)
    assert site.name == f"part{known.inner}"
    assert (site.rung, site.family, site.activation) == (known.rung, known.family, known.activation)
    assert (site.channels or zoo.C, site.per, site.setting) == (zoo.C, "channel", known.setting)
    assert site.added == (known.shift is not None)
    if known.rung != "registry":
        assert site.proof.holds
        assert site.proof.residual <= 1e-6
        assert find_sites(net) == [site]

    more = some_images(6, seed=2)
    with torch.no_grad(), capture(net) as captured:
        net(more)
    record = captured[site.name]
    with torch.no_grad():
        maps = net.conv(more).double()
        module = copy.deepcopy(net.part).double()
        z = known.logit(module, maps)
        gate = known.gate(z)
    assert record.gate.dtype == record.logit.dtype == torch.float32
    assert gate.std() > 0.01
    torch.testing.assert_close(record.gate.double(), gate, rtol=0, atol=1e-6)
    if known.known:
        torch.testing.assert_close(record.logit.double(), z, rtol=1e-5, atol=1e-5)
    else:
        within = (gate > 1e-4) & (gate < 1 - 1e-4)
        torch.testing.assert_close(record.logit.double()[within], torch.logit(gate)[within], rtol=1e-4, atol=1e-3)
    if known.descriptor is not None:
        y = known.descriptor(module, maps)
        torch.testing.assert_close(record.descriptor.double(), y, rtol=1e-5, atol=1e-5)
        if site.layout.known_excitation:
            torch.testing.assert_close(site.excite(record.descriptor), record.logit, rtol=1e-4, atol=1e-4)
    assert site.proof.holds
    assert site.proof.spread > 0.01
    if known.shift is not None:
        shift = known.shift(module, maps).detach()
        torch.testing.assert_close(site.proof.added, float(shift.abs().max() / maps.abs().max()), rtol=1e-4, atol=0)
    assert foreign.not_gates(net, x) == []


def test_the_zoo_is_large_enough():
    written = [one for one in zoo.GATES.values() if one.rung != "registry"]
    assert len(written) >= 25
    assert len(zoo_others.OTHERS) >= 8
    assert {one.rung for one in written} == {"activation", "last layer", "functional", "least squares"}


@pytest.mark.parametrize("style", zoo_others.OTHERS)
def test_what_is_no_gate_is_not_captured_and_says_why(style):
    make, reason = zoo_others.OTHERS[style]
    net, x = net_of(make), some_images()
    assert find_sites(net, example=x) == []
    (other,) = foreign.not_gates(net, x)
    assert re.search(reason, other.reason), other.reason
    assert other.name == ("part.ca" if style == "factors" else "part")
    assert other.kind == type(net.get_submodule(other.name)).__name__
    with pytest.raises(ValueError, match=r"has no channel gates.*find_sites\(model, example=batch\)"), capture(net):
        pass


class PositionGate(nn.Module):
    """Gives one factor a position, and the product is made by its caller."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(zoo.C, 1, 1)

    def forward(self, x):
        return self.conv(x).sigmoid()


class PairAttention(nn.Module):
    """Gives the map and the gate, and its caller takes the one."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(zoo.C, zoo.C)

    def forward(self, x):
        gate = self.fc(x.mean((2, 3))).sigmoid()
        return x * gate[:, :, None, None], gate


class Held(nn.Module):
    """A block that holds one of these."""

    def __init__(self, own):
        super().__init__()
        self.conv, self.own = nn.Conv2d(zoo.C, zoo.C, 1), own

    def forward(self, x):
        y = self.conv(x)
        found = self.own(y)
        return x + (found[0] if isinstance(found, tuple) else y * found)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (PositionGate, r"one factor a position, the same for all channels: a spatial gate"),
        (PairAttention, r"it returns a tuple, where its input times a factor was expected"),
    ],
)
def test_what_leaves_its_caller_something_to_do_is_told(make, reason):
    net, x = net_of(lambda: Held(make())), some_images()
    assert find_sites(net, example=x) == []
    (other,) = foreign.not_gates(net, x)
    assert other.name == "part.own"
    assert re.search(reason, other.reason), other.reason


def test_parts_that_are_also_used_elsewhere_disturb_nothing():
    """The network calls a layer of the module once more, outside of it."""

    class Shared(Net):
        def forward(self, x):
            x = self.part(self.conv(x)).relu()
            return self.head(self.part.up(self.part.down(x.mean((2, 3)))))

    torch.manual_seed(0)
    net, x = Shared(zoo.Attributes()).eval(), some_images()
    (site,) = find_sites(net, example=x)
    assert (site.rung, site.family) == ("activation", "se")
    with torch.no_grad(), capture(net) as captured:
        net(x)
    with torch.no_grad():
        y = net.conv(x).mean((2, 3))
        z = zoo.GATES["se-attributes"].logit(net.part, net.conv(x))
    torch.testing.assert_close(captured["part"].descriptor, y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(captured["part"].gate, z.sigmoid(), rtol=0, atol=1e-6)


def test_examples_are_taken_from_any_set_of_images():
    """As a tensor, as a short loader and as a set that has more than are needed."""
    net, x = net_of(zoo.Attributes), some_images(40)
    for images in (x, torch.utils.data.DataLoader(x[:6], batch_size=2), torch.utils.data.DataLoader(x, batch_size=3)):
        (site,) = find_sites(net, example=images)
        assert (site.name, site.rung) == ("part", "activation")
        net = copy.deepcopy(net)  # or what was found before would be known


def test_what_has_nothing_of_attention_is_not_listed():
    for make in (zoo_others.Plain, nn.SiLU, nn.Identity, lambda: nn.BatchNorm2d(zoo.C), lambda: nn.GroupNorm(4, zoo.C)):
        net = net_of(make)
        assert find_sites(net, some_images()) == []
        assert foreign.not_gates(net, some_images()) == []


# --------------------------------------------------------------------------------------------- timm's and torchvision's


def library():
    from timm.layers.cbam import ChannelAttn, LightChannelAttn
    from timm.layers.gather_excite import GatherExcite
    from timm.layers.global_context import GlobalContext
    from timm.layers.squeeze_excite import EffectiveSEModule

    def context(m, x):
        share = m.conv_attn(x).flatten(2).softmax(dim=-1)
        y = torch.einsum("ncp,nop->nc", x.flatten(2), share)
        hidden = zoo.line(y, m.mlp_scale.fc1)
        norm = m.mlp_scale.norm
        hidden = nn.functional.layer_norm(hidden, hidden.shape[1:], norm.weight, norm.bias, norm.eps)
        return zoo.line(hidden.clamp(min=0), m.mlp_scale.fc2)

    def both(m, x):
        return zoo.two(zoo.mean(x), m.fc1, m.fc2) + zoo.two(zoo.highest(x), m.fc1, m.fc2)

    def light(m, x):
        return zoo.two((zoo.mean(x) + zoo.highest(x)) / 2, m.fc1, m.fc2)

    def one(m, x):
        return zoo.line(zoo.mean(x), m.fc)

    c = zoo.C
    return {
        "timm-ese": (lambda: EffectiveSEModule(c), "se-var3", one, zoo.hard),
        "timm-gc": (lambda: GlobalContext(c, rd_ratio=0.25), "gc", context, zoo.soft),
        "timm-gc-and-added": (lambda: GlobalContext(c, rd_ratio=0.25, fuse_add=True), "gc", context, zoo.soft),
        "timm-cbam": (lambda: ChannelAttn(c, rd_channels=4), "cbam", both, zoo.soft),
        "timm-lcbam": (lambda: LightChannelAttn(c, rd_channels=4, mlp_bias=True), "se", light, zoo.soft),
        "timm-ge": (lambda: GatherExcite(c, use_mlp=False), "ge-theta-minus", lambda _, x: zoo.mean(x), zoo.soft),
    }


@pytest.mark.parametrize("kind", library())
def test_what_the_registry_has_learnt(kind):
    make, family, logit, activation = library()[kind]
    net, x = net_of(make), some_images()
    if kind == "timm-gc-and-added":
        nn.init.normal_(net.part.mlp_add.fc2.weight)
    (site,) = find_sites(net)
    assert (site.rung, site.family, site.added) == ("registry", family, "added" in kind)
    assert site.channels == (None if kind == "timm-ge" else zoo.C)
    assert find_sites(net, example=x) == [site]
    assert foreign.not_gates(net, x) == []
    with torch.no_grad(), capture(net) as captured:
        net(x)
        maps = net.conv(x)
        record, z = captured["part"], logit(net.part, maps)
    assert find_sites(net)[0].channels == zoo.C
    torch.testing.assert_close(record.logit, z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(record.gate, activation(z), rtol=0, atol=1e-6)
    torch.testing.assert_close(site.excite(record.descriptor), record.logit, rtol=1e-5, atol=1e-5)
    assert site.proof.holds
    assert site.proof.spread > 0.01
    assert (site.proof.added > 0.01) == site.added
    if kind == "timm-cbam":
        torch.testing.assert_close(record.descriptor, torch.stack([zoo.mean(maps), zoo.highest(maps)], dim=1))


def test_timm_modules_that_are_no_channel_gates():
    from timm.layers import SelectiveKernel, SplitAttn
    from timm.layers.cbam import CbamModule, LightCbamModule, SpatialAttn
    from timm.layers.gather_excite import GatherExcite
    from timm.layers.global_context import GlobalContext

    c, x = zoo.C, some_images()
    for make, reason in (
        (lambda: SelectiveKernel(c, c), "softmax"),
        (lambda: SplitAttn(c, c), "softmax"),
        (SpatialAttn, "a spatial gate"),
        (lambda: GlobalContext(c, fuse_add=True, fuse_scale=False), "adds a context"),
        (lambda: GatherExcite(c, extent=2, use_mlp=False), "varies over the positions of a channel's map"),
    ):
        net = net_of(make)
        assert find_sites(net, example=x) == []
        (other,) = foreign.not_gates(net, x)
        assert reason in other.reason
        assert other.name == "part"
    for make in (lambda: CbamModule(c, rd_channels=4), lambda: LightCbamModule(c, rd_channels=4)):
        net = net_of(make)
        (site,) = find_sites(net, example=x)
        assert site.name == "part.channel"
        (other,) = foreign.not_gates(net, x)
        assert (other.name, other.reason.endswith("a spatial gate")) == ("part.spatial", True)
        with capture(net) as captured:
            net(x)
        assert list(captured) == ["part.channel"]


# ------------------------------------------------------------------------------------------------------------ networks


class Block(nn.Module):
    """A residual block with a gate in it, as a student writes it."""

    def __init__(self, gate, into=zoo.C):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(into, zoo.C, 3, padding=1, bias=False), nn.BatchNorm2d(zoo.C)
        self.gate, self.relu = gate, nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.gate(self.norm(self.conv(x))) + x[:, :1])


def two_blocks():
    torch.manual_seed(0)
    first, second = Block(zoo.Functional(), 3), Block(zoo.Shifted(False))
    return zoo.prepared(nn.Sequential(nn.Sequential(first, nn.Dropout(0.5)), second, attention.SE(zoo.C, 4)))


def test_several_gates_in_one_network():
    net, x = two_blocks(), some_images()
    assert [one.name for one in find_sites(net)] == ["2"]
    sites = find_sites(net, example=x)
    assert [(one.name, one.rung) for one in sites] == [
        ("0.0.gate", "last layer"),
        ("1.gate", "functional"),
        ("2", "registry"),
    ]
    with torch.no_grad(), capture(net) as captured:
        net(x)
    with torch.no_grad():
        first = net[0][0]
        maps = first.norm(first.conv(x))
        second = net[1].norm(net[1].conv(net[0](x)))
    assert list(captured) == ["0.0.gate", "1.gate", "2"]
    z = zoo.two(zoo.mean(maps), first.gate.fc1, first.gate.fc2)
    torch.testing.assert_close(captured["0.0.gate"].gate, zoo.soft(z), rtol=0, atol=1e-6)
    torch.testing.assert_close(captured["1.gate"].gate, zoo.soft(net[1].gate.both(second)[0]), rtol=0, atol=1e-6)
    with capture(net, "1.*") as captured:
        net(x)
    assert list(captured) == ["1.gate"]
    with capture(net, sites[:1]) as captured:
        net(x)
    assert list(captured) == ["0.0.gate"]
    assert foreign.not_gates(net, x) == []


class Twice(nn.Module):
    def __init__(self, gate):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, zoo.C, 3), gate

    def forward(self, x):
        return self.gate(self.gate(self.conv(x)).relu_())


@pytest.mark.parametrize("make", [zoo.SharedSigmoid, zoo.ChannelGate, lambda: zoo.Bare(torch.sigmoid), zoo.InPlace])
def test_a_gate_that_is_called_twice(make):
    torch.manual_seed(0)
    net, x = zoo.prepared(Twice(make())), some_images()
    find_sites(net, example=x)
    seen = []
    handle = net.gate.register_forward_pre_hook(lambda _m, args: seen.append(args[0].clone()))
    outputs = []
    after = net.gate.register_forward_hook(lambda _m, _a, out: outputs.append(out.clone()))
    with torch.no_grad(), capture(net) as captured:
        net(x)
        net(x)
    handle.remove(), after.remove()
    assert list(captured) == ["gate", "gate#2"]
    for i, name in enumerate(captured):
        assert captured[name].gate.shape == (8, zoo.C)
        fitted = (seen[i] * outputs[i]).sum((2, 3)) / seen[i].square().sum((2, 3))
        alive = seen[i].abs().amax((2, 3)) > 0
        torch.testing.assert_close(captured[name].gate[:4][alive], fitted[alive], rtol=0, atol=1e-5)
    assert not torch.allclose(captured["gate"].gate, captured["gate#2"].gate)


@pytest.mark.parametrize("style", ["se-functional", "se-attributes", "matrix-functional", "matrix-handmade"])
def test_dead_channels(style):
    """Channels that a ReLU before the gate makes 0 everywhere: read exactly, or not at all."""
    known = zoo.GATES[style]

    class Rectified(Net):
        def forward(self, x):
            return self.part(self.conv(x).relu())

    torch.manual_seed(0)
    net, x = Rectified(known.make()).eval(), some_images()
    with torch.no_grad():
        net.conv.bias[:5] = -100.0
    (site,) = find_sites(net, example=x)
    assert site.rung == known.rung
    with torch.no_grad(), capture(net) as captured:
        net(x)
        maps = net.conv(x).relu()
        gate, alive = known.gate(known.logit(net.part, maps)), maps.amax((2, 3)) > 0
    record = captured["part"]
    assert not alive[:, :5].any()
    assert alive[:, 5:].any(dim=0).all()
    if style == "matrix-handmade":
        assert torch.equal(record.gate.isnan(), ~alive)
        assert torch.equal(record.logit.isnan(), ~alive)
        torch.testing.assert_close(record.gate[alive], gate[alive], rtol=0, atol=1e-6)
    else:
        torch.testing.assert_close(record.gate, gate, rtol=0, atol=1e-6)
    assert site.proof.holds


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "style", ["se-renamed", "se-functional", "se-shift-functional", "cbam-reference", "matrix-handmade", "se-deviation"]
)
def test_other_dtypes(style, dtype):
    known = zoo.GATES[style]
    net = net_of(known.make).to(dtype)
    x = some_images().to(dtype)
    (site,) = find_sites(net, example=x)
    assert site.rung == known.rung
    assert site.proof.dtype == str(dtype).removeprefix("torch.")
    with torch.no_grad(), capture(net) as captured:
        net(x)
        maps = net.conv(x).double()
        gate = known.gate(known.logit(copy.deepcopy(net.part).double(), maps))
    assert captured["part"].gate.dtype == torch.float32
    tolerance = {torch.float16: 5e-3, torch.bfloat16: 5e-2, torch.float64: 1e-6}[dtype]
    torch.testing.assert_close(captured["part"].gate.double(), gate, rtol=0, atol=tolerance)
    assert site.proof.holds


@pytest.mark.parametrize("style", ["spatial", "pixel", "added-context", "layer-scale", "instance-norm", "non-local"])
def test_half_precision_lets_no_other_module_in(style):
    make, _ = zoo_others.OTHERS[style]
    net = net_of(make).to(torch.bfloat16)
    assert find_sites(net, example=some_images().to(torch.bfloat16)) == []


def test_autocast():
    net, x = net_of(lambda: zoo.Shifted(False)), some_images()
    find_sites(net, example=x)
    with capture(net) as high:
        net(x)
    with torch.autocast("cpu", torch.bfloat16), capture(net) as low:
        net(x)
    assert low["part"].logit.dtype == torch.float32
    torch.testing.assert_close(low["part"].gate, high["part"].gate, atol=0.05, rtol=0)


# -------------------------------------------------------------------------------------------------- nothing left behind


class Restless(nn.Module):
    """Draws random numbers, counts its calls and reads its mode, as some networks do also in evaluation."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.norm = nn.Conv2d(3, zoo.C, 3), zoo.Shifted(False), nn.BatchNorm2d(zoo.C)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.last = x.detach().mean()
        x = self.conv(x)
        return self.norm(self.gate(x + 0.01 * torch.randn_like(x)))


def test_the_network_is_left_as_found():
    torch.manual_seed(0)
    net, x = zoo.prepared(Restless()).train(), some_images()
    net.gate.fc1.requires_grad_(False)
    net.gate.act.eval()
    own = net.gate.register_forward_hook(lambda *_: None)
    state, before, random = copy.deepcopy(net.state_dict()), traces_of(net), torch.get_rng_state()
    (site,) = find_sites(net, example=x)
    foreign.not_gates(net, x)
    assert site.rung == "functional"
    assert traces_of(net) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), state.values(), strict=True))
    with capture(net) as captured:
        net(x).sum().backward()
    assert not captured["gate"].gate.requires_grad
    after = traces_of(net)
    assert after["hooks"] == before["hooks"]
    assert (after["forward"], after["training"], after["mode"]) == ([], before["training"], 0)
    own.remove()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_everything_goes_away_whatever_is_raised(error, at):
    """The network is run three times: the error comes in one of these, or in the capture after them."""

    class Breaks(zoo.Shifted):
        runs = 0

        def forward(self, x):
            out = super().forward(x)
            self.runs += 1
            if self.runs == at + 1:
                raise error("inside")
            return out

    net, x = net_of(lambda: Breaks(False)), some_images()
    before = traces_of(net)
    if at < 3:
        with pytest.raises(error):
            find_sites(net, example=x)
        assert traces_of(net) == before
        assert find_sites(net) == []
    else:
        find_sites(net, example=x)
        with capture(net) as captured:
            with pytest.raises(error):
                net(x)
            net(x)
        assert captured["part"].gate.shape == (4, zoo.C)
        assert traces_of(net) == before
    assert len(find_sites(net, example=x)) == 1


def test_the_mode_is_on_inside_the_module_alone():
    """A capture of a functional gate sees no sigmoid of anyone else, and leaves an own stand-in of forward."""
    net, x = net_of(lambda: zoo.Shifted(False)), some_images()
    depth = []
    net.head.register_forward_pre_hook(lambda *_: depth.append(torch._C._len_torch_function_stack()))
    net.part.fc1.register_forward_pre_hook(lambda *_: depth.append(torch._C._len_torch_function_stack()))
    own = net.part.forward
    net.part.forward = own
    find_sites(net, example=x)
    depth.clear()
    with capture(net) as outer:
        with capture(net) as inner:
            net(x)
        net(x)
    assert depth == [2, 0, 1, 0]
    assert net.part.__dict__["forward"] is own
    assert len(inner["part"].gate) == 4
    assert len(outer["part"].gate) == 8


def test_a_copy_is_another_network():
    net, x = net_of(lambda: zoo.Shifted(False)), some_images()
    find_sites(net, example=x)
    with capture(net) as captured:
        net(x)
        twin = copy.deepcopy(net)
        twin(x)
    assert len(captured["part"].gate) == 4
    assert find_sites(copy.deepcopy(net)) == []


def test_gradient_checkpointing_does_not_count_twice():
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(Net):
        def forward(self, x):
            return checkpoint(self.part, self.conv(x), use_reentrant=False)

    torch.manual_seed(0)
    net, x = Checkpointed(zoo.Shifted(False)).eval(), some_images()
    find_sites(net, example=x)
    with capture(net) as captured:
        net(x).sum().backward()
    assert list(captured) == ["part"]
    assert len(captured["part"].gate) == 4


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("style", ["se-functional", "se-attributes", "se-shift-functional", "matrix-handmade"])
def test_the_first_use_proves_and_raises(style):
    """What was found is proven again by the first capture: the module may have been changed in between."""
    net, x = net_of(zoo.GATES[style].make), some_images()
    find_sites(net, example=x)
    own = net.part.forward
    net.part.forward = lambda x: own(x) * (1 + 0.1 * x.sign())
    with pytest.raises(RuntimeError, match=r"part failed its proof|part .* was no channel gate"), capture(net):
        net(x)
    del net.part.forward
    assert "forward" not in net.part.__dict__
    with capture(net) as captured:
        net(x)
    assert captured["part"].site.proof.holds


def test_examples_that_say_nothing():
    net = net_of(zoo.Functional)
    for x in (some_images(1), some_images(1).expand(3, -1, -1, -1)):
        with pytest.raises(ValueError, match=r"discover: got \d image.*at least two different.*Give a batch of 2 to 8"):
            find_sites(net, example=x)
    with pytest.raises(ValueError, match=r"images: .*Expected one of"):
        find_sites(net, example=torch.zeros(3, 4))
    for wrapped in (nn.DataParallel(net), torch.compile(net)):
        assert [one.name for one in find_sites(wrapped, example=some_images())] == ["part"]
    (other,) = foreign.not_gates(net_of(zoo_others.SpatialGate), some_images())
    assert (other.name, other.kind) == ("part", "SpatialGate")
    with torch.no_grad():
        net.conv.weight.zero_(), net.conv.bias.zero_()
    assert find_sites(net, example=some_images()) == []


def test_images_of_any_kind():
    pixels = torch.randint(0, 255, (12, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = ecaviz.load(net_of(zoo.Functional), transform=lambda image: image.float() / 100)
    (site,) = ecaviz.find_sites(model, example=pixels)
    assert site.rung == "last layer"
    (site,) = foreign.discover(model.net, [(pixels.float() / 100)[:4], (pixels.float() / 100)[4:]][0])
    assert site.rung == "last layer"


def test_found_sites_serve_the_rest_of_the_library():
    net, x = net_of(zoo.Functional, times=1), some_images()
    (site,) = find_sites(net, example=x)
    matrix = ecaviz.interaction_matrix(net, "part", images=x)
    with torch.no_grad():
        maps = net.conv(x)
        hidden = zoo.line(zoo.mean(maps), net.part.fc1) > 0
    w1, w2 = net.part.fc1.weight.detach(), net.part.fc2.weight.detach()
    by_hand = torch.stack([w2 @ torch.diag(on.float()) @ w1 for on in hidden]).mean(dim=0)
    torch.testing.assert_close(torch.as_tensor(matrix.matrix).float(), by_hand, rtol=1e-4, atol=1e-6)
    assert (site.hidden_activation, site.hidden, site.bias) == ("ReLU", 4, True)
    profile = ecaviz.profile(ecaviz.load(net), x, progress=False)
    assert list(profile.sites) == ["part"]

    shifted = net_of(lambda: zoo.Shifted(True))
    (site,) = find_sites(shifted, example=x)
    _, _, w2, b2 = site.bottleneck
    assert torch.equal(w2, shifted.part.fc2.weight[: zoo.C])
    assert torch.equal(b2, shifted.part.fc2.bias[: zoo.C])
    assert ecaviz.interaction_matrix(shifted, "part", images=x).channels == zoo.C

    unknown = net_of(lambda: zoo.Bare(torch.sigmoid))
    (site,) = find_sites(unknown, example=x)
    with capture(unknown) as captured:
        unknown(x)
    assert captured["part"].descriptor.isnan().all()
    with pytest.raises(ValueError, match="was not recognised as layers"):
        site.excite(torch.zeros(1, zoo.C))
    with pytest.raises(ValueError, match="no closed form for the family 'foreign'"):
        ecaviz.interaction_matrix(unknown, "part", images=x)
    with pytest.raises(ValueError, match="passes no submodule"):
        ecaviz.influence(unknown, "part", x)


def test_linear_foreign_sites_have_a_j():
    x = some_images()
    net = net_of(zoo.OneLayer)
    find_sites(net, example=x)
    matrix = ecaviz.interaction_matrix(net, "part")
    torch.testing.assert_close(torch.as_tensor(matrix.matrix).float(), net.part.fc.weight.detach()[:, :, 0, 0])
    net = net_of(zoo.official_eca_ns)
    matrix = torch.as_tensor(ecaviz.interaction_matrix(net, "part").matrix).float()
    kernels = net.part.conv.weight.detach()[:, 0]
    for i in range(1, zoo.C - 1):
        torch.testing.assert_close(matrix[i, i - 1 : i + 2], kernels[i])
    net = net_of(zoo.Wave)
    (site,) = find_sites(net, example=x)
    torch.testing.assert_close(site.kernel, net.part.filter.weight.detach().flatten())
    assert ecaviz.interaction_matrix(net, "part").kernel_size == 3


def test_names_of_families():
    from ecaviz.looks import family_name, family_style

    assert (family_name("foreign"), family_name("gc")) == ("foreign gate", "GC")
    assert family_style("foreign") is not None


class Whisper(nn.Module):
    """A residual block that adds next to nothing: within the tolerance of a gate, and none."""

    def __init__(self, size):
        super().__init__()
        self.conv, self.size = nn.Conv2d(zoo.C, zoo.C, 3, padding=1), size

    def forward(self, x):
        return 0.5 * x + self.size * self.conv(x).relu()


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-5, 3e-6, 1e-6, 1e-7, 0.0])
def test_what_is_within_the_tolerance_is_not_therefore_a_gate(size):
    assert find_sites(net_of(lambda: Whisper(size), times=1), example=some_images()) == []


def test_near_zero_one_sigmoid_is_told_from_the_other():
    """Within the tolerance of float16 both explain the output; the nearer one is meant."""
    x = some_images().half()
    x = torch.cat([x, -x])  # so that the logits differ by more than they are large
    for gate, name in ((nn.Hardsigmoid, "hardsigmoid"), (nn.Sigmoid, "sigmoid")):
        net = net_of(lambda gate=gate: zoo.ConvSE(act=nn.Identity, gate=gate, bias=False)).half()
        with torch.no_grad():
            net.part.body[3].weight.mul_(0.004)
            z = net.part.body[:4](net.conv(x)).float()
        assert (torch.sigmoid(z) - nn.functional.hardsigmoid(z)).abs().max() < 2e-3
        (site,) = find_sites(net, example=x)
        assert site.activation == name


@pytest.mark.parametrize(
    "style",
    [
        "eca-ns-official",
        "se-deviation",
        "one-layer-hard",
        "cbam-reference",
        "cbam-three-pools",
        "eca-renamed",
        "se-shift-functional",
        "matrix-functional",
        "matrix-softmax",
        "gather-global",
    ],
)
def test_found_sites_can_be_drawn(style):
    from ecaviz.block_figures import attention_block

    net, x = net_of(zoo.GATES[style].make), some_images()
    (site,) = find_sites(net, example=x)
    with torch.no_grad(), capture(net) as captured:
        maps = net.conv(x)
        net(x)
    figure = attention_block(maps, captured[site.name])
    titles = {ax.get_title(loc) for part in figure.subfigs for sub in part.subfigs for ax in sub.axes for loc in LOC}
    texts = {text.get_text() for part in figure.subfigs for sub in part.subfigs for text in sub.texts} | titles
    assert not any("mean of each map" in text for text in texts) or site.rung == "registry"


@pytest.mark.parametrize("style", ["cbam-reference", "se-shift-functional", "matrix-functional", "matrix-handmade"])
def test_what_inference_mode_read_can_be_used_afterwards(style):
    net, x = net_of(zoo.GATES[style].make), some_images()
    with torch.inference_mode():
        find_sites(net, example=x)
        with capture(net) as captured:
            net(x)
    record = captured["part"]
    assert record.site.proof.holds
    (record.descriptor.clone().requires_grad_() + 1).sum().backward()
    record.descriptor.add_(1), record.logit.add_(1)


def test_under_autocast_the_network_is_measured_in_its_own_dtype():
    net, x = net_of(zoo.Excited), some_images()
    with torch.autocast("cpu", torch.bfloat16):
        (site,) = find_sites(net, example=x)
    assert (site.rung, site.proof.dtype) == ("activation", "float32")


def test_a_module_alone():
    torch.manual_seed(0)
    gate, x = zoo.prepared(zoo.Shifted(False)), torch.randn(4, zoo.C, 5, 5)
    (site,) = find_sites(gate, example=x)
    assert (site.name, site.rung) == ("", "functional")
    with torch.no_grad(), capture(gate) as captured:
        gate(x)
        torch.testing.assert_close(captured[""].gate, zoo.soft(gate.both(x)[0]), rtol=0, atol=1e-6)


def test_what_was_found_goes_with_the_module():
    net, x = net_of(zoo.Attributes), some_images()
    find_sites(net, example=x)
    net.part.sig = None  # its part is gone, and with it what is known of the module
    assert find_sites(net) == []
    net = net_of(zoo.Attributes)
    with capture(net, find_sites(net, example=x)) as captured:
        net(x)
    gone = weakref.ref(net.part)
    del net, captured
    gc.collect()
    assert gone() is None


def test_maps_of_one_position_are_undecided():
    class Attention(zoo.Functional):
        pass

    torch.manual_seed(0)
    net, x = zoo.prepared(Attention()), torch.randn(4, zoo.C, 1, 1)
    assert find_sites(net, example=x) == []
    (other,) = foreign.not_gates(net, x)
    assert "one position" in other.reason


def test_the_registry_switched_off_finds_the_same_gates(monkeypatch):
    """The ladder against the registry, on networks that neither was written for."""
    import timm

    from ecaviz import layouts

    for name, options in (("seresnet18", {"zero_init_last": False}), ("ecaresnet26t", {"zero_init_last": False})):
        torch.manual_seed(0)
        net = timm.create_model(name, pretrained=False, **options).eval()
        x = torch.randn(3, 3, 64, 64)
        with torch.no_grad(), capture(net) as known:
            net(x)
        with monkeypatch.context() as patch:
            patch.setattr(layouts, "_REGISTRY", {})
            assert find_sites(net) == []
            sites = find_sites(net, example=x)
            with torch.no_grad(), capture(net) as found:
                net(x)
            assert list(found) == list(known)
            for site in sites:
                mine, theirs = found[site.name], known[site.name]
                assert (site.family, site.setting) == (theirs.site.family, theirs.site.setting)
                for part in ("descriptor", "logit", "gate"):
                    assert torch.equal(getattr(mine, part), getattr(theirs, part))


def named_like_se(forward):
    """A class of the usual name and parts that does something else."""

    def make():
        return type("SELayer", (zoo.SELayer,), {"forward": forward})()

    return make


def test_a_known_name_is_not_believed_against_what_was_measured():
    x = some_images()
    net = net_of(named_like_se(lambda self, x: x + zoo.SELayer.forward(self, x)))
    assert len(find_sites(net)) == 1
    with pytest.raises(RuntimeError, match="part failed its proof"), capture(net):
        net(x)
    assert find_sites(net, example=x) == []
    (other,) = foreign.not_gates(net, x)
    assert "outside a sigmoid's range" in other.reason
    assert find_sites(net) == []
    net = net_of(named_like_se(zoo.SELayer.forward))
    assert [one.rung for one in find_sites(net, example=x)] == ["registry"]


def test_small_maps():
    """Maps of 2×2 are not taken for vectors."""
    for style in ("se-conv", "cbam-reference", "covariance", "matrix-functional"):
        net = net_of(zoo.GATES[style].make)
        (site,) = find_sites(net, example=some_images()[:, :, :4, :4])
        assert (site.rung, site.family) == (zoo.GATES[style].rung, zoo.GATES[style].family)
