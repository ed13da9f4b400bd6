"""Sites, proofs and capture, against the modules computed by hand; nothing left behind."""

import copy
import gc
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from ecaviz import attention, gates
from ecaviz.gates import capture, find_sites, select_sites
from ecaviz.models import LoadedModel
from ecaviz.networks import Architecture, build


def small(name="eca", seed=0, **options):
    torch.manual_seed(seed)
    options = options or {"se": {"reduction": 4}, "eca": {"kernel_size": 3}, "none": {}}[name]
    return build(Architecture(name, options, blocks=(1, 1, 2, 1))).eval()


def timm_net(name, **options):
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, **options).eval()


def hooks(net):
    return {
        (name, kind): list(getattr(module, kind))
        for name, module in net.named_modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        if getattr(module, kind)
    }


class Wrapped(nn.Module):
    """One attention module behind a convolution, as the networks have it."""

    def __init__(self, module, channels=16):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.se = module

    def forward(self, x):
        return self.se(self.conv(x)).relu_()


def modules():
    from timm.layers import CecaModule, EcaModule, SEModule
    from timm.models._efficientnet_blocks import SqueezeExcite
    from timm.models.senet import SEModule as LegacySEModule
    from torchvision.ops import SqueezeExcitation

    return {
        "ours-se": (lambda: attention.SE(16, 4), "se", 4),
        "ours-se-bias": (lambda: attention.SE(16, 4, bias=True), "se", 4),
        "ours-eca": (lambda: attention.ECA(16, 5), "eca", 5),
        "ours-ceca": (lambda: attention.ECA(16, 5, padding="circular"), "eca", 5),
        "timm-eca": (lambda: EcaModule(kernel_size=5), "eca", 5),
        "timm-ceca": (lambda: CecaModule(kernel_size=5), "eca", 5),
        "timm-se": (lambda: SEModule(16, rd_channels=4), "se", 4),
        "timm-se-hard": (lambda: SEModule(16, rd_channels=4, gate_layer="hard_sigmoid"), "se", 4),
        "timm-se-norm": (lambda: SEModule(16, rd_channels=4, norm_layer=nn.BatchNorm2d), "se", 4),
        "timm-efficientnet": (lambda: SqueezeExcite(16, rd_ratio=0.25), "se", 4),
        "timm-legacy": (lambda: LegacySEModule(16, 4), "se", 4),
        "torchvision": (lambda: SqueezeExcitation(16, 4), "se", 4),
        "torchvision-hard": (lambda: SqueezeExcitation(16, 4, scale_activation=nn.Hardsigmoid), "se", 4),
    }


@pytest.mark.parametrize("kind", modules())
def test_every_known_module(kind):
    make, family, number = modules()[kind]
    torch.manual_seed(0)
    net = Wrapped(make()).eval()
    with torch.no_grad():  # large weights, so that the gates spread and a constant cannot pass
        for p in net.se.parameters():
            p.mul_(3)
    (site,) = find_sites(net)
    assert (site.name, site.family, site.rung) == ("se", family, "registry")
    assert site.channels == (None if kind in ("timm-eca", "timm-ceca") else 16)  # timm's ECA does not hold its C
    assert (site.kernel_size if family == "eca" else site.reduction) == number
    assert site.activation == ("hardsigmoid" if "hard" in kind else "sigmoid")
    if family == "eca":
        assert site.padding == ("circular" if "ceca" in kind else "zeros")
    assert site.proof is None

    seen = {}
    handle = net.se.register_forward_hook(lambda _m, args, out: seen.update(x=args[0].clone(), out=out.clone()))
    with capture(net) as captured:
        net(torch.randn(4, 3, 9, 9))
    handle.remove()
    record = captured["se"]
    x, out = seen["x"], seen["out"]
    assert record.gate.shape == record.logit.shape == record.descriptor.shape == (4, 16)
    assert record.gate.std() > 1e-3
    torch.testing.assert_close(record.descriptor, x.mean((2, 3)))
    torch.testing.assert_close(site.activate(record.logit), record.gate)
    torch.testing.assert_close(
        (out * x).sum((2, 3)) / (x * x).sum((2, 3)), record.gate
    )  # least squares: another way in
    torch.testing.assert_close(site.excite(record.descriptor), record.logit)
    assert site.proof.holds
    assert find_sites(net)[0].channels == 16
    assert site.proof.spread > 1e-3
    assert site.proof.dtype == "float32"


def test_weights_of_a_site():
    (eca,) = find_sites(Wrapped(attention.ECA(16, 3)))
    assert torch.equal(eca.kernel, eca.module.excite.conv.weight.flatten())
    assert eca.setting == "k=3"
    (se,) = find_sites(Wrapped(attention.SE(16, 4, bias=True)))
    w1, b1, w2, b2 = se.bottleneck
    assert w1.shape == (4, 16)
    assert w2.shape == (16, 4)
    assert b1.shape == (4,)
    assert b2.shape == (16,)
    assert se.bias
    assert se.hidden == 4
    assert se.hidden_activation == "ReLU"
    assert se.setting == "r=4"
    y = torch.randn(2, 16)
    torch.testing.assert_close(se.excite(y), (y @ w1.T + b1).relu() @ w2.T + b2)
    with pytest.raises(ValueError, match="no kernel"):
        _ = se.kernel
    with pytest.raises(ValueError, match="no bottleneck"):
        _ = eca.bottleneck


@pytest.mark.parametrize(
    ("name", "count", "first", "widths"),
    [
        ("ecaresnet50d", 16, "layer1.0.se", [256, 512, 1024, 2048]),
        ("legacy_seresnet50", 16, "layer1.0.se_module", [256, 512, 1024, 2048]),
        ("seresnet18", 8, "layer1.0.se", [64, 128, 256, 512]),
    ],
)
def test_timm_resnets(name, count, first, widths):
    net = timm_net(name, **({} if "legacy" in name else {"zero_init_last": False}))
    sites = find_sites(net)
    assert len(sites) == count
    assert sites[0].name == first
    assert sorted({site.channels for site in sites}) == widths
    if name.startswith("eca"):
        assert [site.kernel_size for site in sites] == [5] * 3 + [5] * 4 + [5] * 6 + [7] * 3
    with capture(net) as captured, torch.inference_mode():
        net(torch.randn(2, 3, 64, 64))
    assert list(captured) == [site.name for site in sites]
    for site in sites:
        assert captured[site.name].gate.shape == (2, site.channels)
        assert site.proof.holds
        assert site.proof.spread > 1e-3


def test_width_guessed_and_seen():
    """timm's ECA does not hold C: it is read off the neighbours, and known for sure once it has run."""
    from timm.layers import EcaModule

    lonely = nn.Sequential(EcaModule(kernel_size=3))
    assert find_sites(lonely)[0].channels is None
    with capture(lonely):
        lonely(torch.randn(1, 24, 4, 4))
    assert find_sites(lonely)[0].channels == 24


def test_several_forwards_are_concatenated_and_survive_the_with():
    net = small("se")
    a, b = torch.randn(3, 3, 64, 64), torch.randn(2, 3, 64, 64)
    with capture(net) as captured:
        net(a)
        net(b)
    with capture(net, "layer2.0.se") as again:
        net(torch.cat([a, b]))
    assert list(again) == ["layer2.0.se"]
    assert len(captured) == 5
    torch.testing.assert_close(captured["layer2.0.se"].gate, again["layer2.0.se"].gate)
    assert torch.equal(captured["layer2.0.se"].gate, captured["layer2.0.se"].gate)
    assert "5 images × 64 channels" in repr(captured["layer2.0.se"])
    captured.clear()
    with pytest.raises(KeyError, match=r"nothing was captured at 'layer2.0.se'"):
        captured["layer2.0.se"]


def test_a_site_called_twice():
    class Twice(Wrapped):
        def forward(self, x):
            return self.se(self.se(self.conv(x)))

    net = Twice(attention.ECA(16, 3))
    x = torch.randn(2, 3, 8, 8)
    with capture(net) as captured:
        net(x)
        net(x)
    assert list(captured) == ["se", "se#2"]
    assert captured["se"].gate.shape == captured["se#2"].gate.shape == (4, 16)
    assert not torch.allclose(captured["se"].gate, captured["se#2"].gate)
    with capture(net) as captured:  # the module alone, outside its network: every call is its own
        net.se(torch.randn(1, 16, 4, 4))
        net.se(torch.randn(1, 16, 4, 4))
    assert list(captured) == ["se"]
    assert len(captured["se"].gate) == 2


def test_in_place_operations_do_not_reach_the_records():
    class Overwriting(attention.ECA):
        def forward(self, x):
            y = self.squeeze(x)
            z = self.excite(y)
            gate = self.activation(z)
            out = x * gate[:, :, None, None]
            y.zero_(), z.zero_(), gate.zero_()
            return out

    torch.manual_seed(0)
    net = Wrapped(Overwriting(16, 3))
    with torch.no_grad(), capture(net) as captured:
        net(torch.randn(2, 3, 8, 8))
    record = captured["se"]
    assert record.descriptor.abs().min() > 0
    assert record.logit.abs().min() > 0
    torch.testing.assert_close(record.gate, torch.sigmoid(record.logit))


def test_the_model_is_left_as_found():
    net = small().train()
    for p in net.layer1.parameters():
        p.requires_grad_(False)
    own = []
    handle = net.layer1[0].se.register_forward_hook(lambda *_: own.append(1))
    before = (copy.deepcopy(net.state_dict()), hooks(net), [p.requires_grad for p in net.parameters()])
    x = torch.randn(2, 3, 64, 64)
    plain_state, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    plain = net(x)
    net.load_state_dict(plain_state)
    with capture(net) as captured:
        out = net(x)
        out.sum().backward()
    net.load_state_dict(plain_state)
    assert torch.equal(out, plain)
    assert torch.equal(torch.get_rng_state(), random)
    assert net.training
    assert net.layer1[0].training
    assert hooks(net) == before[1]
    assert len(own) == 2
    assert [p.requires_grad for p in net.parameters()] == before[2]
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before[0].values(), strict=True))
    assert net.conv1[0].weight.grad is not None
    assert not captured["layer1.0.se"].gate.requires_grad
    handle.remove()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hooks_go_away_whatever_is_raised(error):
    net = small()
    with pytest.raises(error), capture(net), capture(net, "layer1.*"):
        raise error("stop")
    assert hooks(net) == {}

    class Breaks(Wrapped):
        broken = True

        def forward(self, x):
            x = super().forward(x)
            if self.broken:
                raise error("inside")
            return x

    net = Breaks(attention.SE(16, 4))
    with capture(net) as captured:
        with pytest.raises(error):
            net(torch.randn(1, 3, 8, 8))
        net.broken = False
        net(torch.randn(1, 3, 8, 8))
    assert list(captured) == ["se"]
    assert hooks(net) == {}


def test_nested_captures_do_not_disturb_each_other():
    net = small()
    x = torch.randn(2, 3, 64, 64)
    with capture(net) as outer:
        with capture(net, "layer3.*") as inner:
            net(x)
        net(x)
    assert len(inner) == 2
    assert len(inner["layer3.0.se"].gate) == 2
    assert len(outer["layer3.0.se"].gate) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_logit_and_computes_the_gate_in_float32(dtype):
    net = small("se")
    x = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", dtype), capture(net) as low:
        net(x)
    with capture(net) as high:
        net(x)
    for name in high:
        assert low[name].gate.dtype == low[name].logit.dtype == torch.float32
        assert torch.equal(low[name].gate, torch.sigmoid(low[name].logit))
        torch.testing.assert_close(low[name].gate, high[name].gate, atol=0.03, rtol=0)


def test_channels_last_and_double():
    net = small().to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 64, 64)
    with capture(net) as last:
        net(x.contiguous(memory_format=torch.channels_last))
    plain = small()
    with capture(plain) as first:
        plain(x)
    for name in first:
        torch.testing.assert_close(last[name].gate, first[name].gate)
    double = copy.deepcopy(net).double()
    with capture(double) as captured:
        double(x.double())
    for name in captured:
        torch.testing.assert_close(captured[name].gate, last[name].gate)
    assert find_sites(double)[0].proof.dtype == "float64"


def test_a_gate_that_does_not_explain_the_output_is_refused():
    class Liar(attention.SE):
        def forward(self, x):
            return super().forward(x) * 1.5

    net = Wrapped(Liar(16, 4))
    with pytest.raises(RuntimeError, match=r"se failed its proof.*tolerance 1e-05 for float32"), capture(net):
        net(torch.randn(1, 3, 8, 8))
    assert hooks(net) == {}
    assert find_sites(net)[0].proof is None

    class Bypass(attention.SE):
        def forward(self, x):
            return x

    net = Wrapped(Bypass(16, 4))
    with pytest.raises(RuntimeError, match="ran without calling its parts"), capture(net):
        net(torch.randn(1, 3, 8, 8))


def test_what_inference_mode_read_can_be_used_afterwards():
    net = small("se")
    with torch.inference_mode(), capture(net) as captured:
        net(torch.randn(2, 3, 64, 64))
    record = captured["layer1.0.se"]
    record.site.excite(record.descriptor).sum().backward()
    assert record.site.module.excite.fc1.weight.grad is not None
    record.descriptor.add_(1)


def test_a_copy_made_in_the_with_is_not_read(tmp_path):
    net, x = small(), torch.randn(2, 3, 64, 64)
    with capture(net) as captured:
        net(x)
        twin = copy.deepcopy(net)
        twin(x)
        torch.save(net, tmp_path / "net.pt")
    twin(x)
    assert len(captured["layer1.0.se"].gate) == 2


def test_gradient_checkpointing_does_not_count_twice():
    net = timm_net("ecaresnet26t", zero_init_last=False).train()
    net.set_grad_checkpointing(True)
    with capture(net, "layer1.*") as captured:
        net(torch.randn(2, 3, 64, 64)).sum().backward()
    assert list(captured) == ["layer1.0.se", "layer1.1.se"]
    assert len(captured["layer1.0.se"].gate) == 2
    assert net.layer1[0].conv1.weight.grad is not None


def test_a_forward_that_failed_adds_no_rows_anywhere():
    net, x = small(), torch.randn(4, 3, 64, 64)
    broken = net.layer3.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(MemoryError("out of memory")))
    with capture(net) as captured:
        with pytest.raises(MemoryError):
            net(x)
        broken.remove()
        net(x[:2])
        net(x[2:])
    assert {len(record.gate) for record in captured.values()} == {4}
    assert len(captured) == 5


def test_an_empty_batch():
    net = small()
    with capture(net) as captured:
        net(torch.randn(0, 3, 64, 64))
    assert captured["layer1.0.se"].gate.shape == (0, 32)
    assert captured["layer1.0.se"].site.proof is None


def test_nothing_captured_says_why():
    net = small()
    with capture(net) as captured:
        pass
    with pytest.raises(KeyError, match="no batch has gone through"):
        captured["layer1.0.se"]
    net.forward = lambda x: x  # calls no module
    with capture(net) as captured:
        net(torch.randn(1, 3, 64, 64))
    with pytest.raises(KeyError, match=r"though the network ran.*was replaced"):
        captured["layer1.0.se"]


def test_another_thread_is_refused():
    net = small()
    with capture(net), ThreadPoolExecutor(1) as pool:
        ran = pool.submit(net, torch.randn(1, 3, 64, 64))
        with pytest.raises(RuntimeError, match="ran in another thread"):
            ran.result()


def test_modules_that_only_look_like_known_ones():
    from timm.layers import EcaModule

    class Other(attention.SE):
        def __init__(self):
            super().__init__(16, 4)
            self.excite = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))

    assert find_sites(nn.Sequential(Other())) == []
    assert find_sites(nn.Sequential(EcaModule(16, use_mlp=True))) == []


def test_a_width_is_not_guessed_outside_timm():
    """Of a block that nobody here knows, the order of registration says nothing."""
    from timm.layers import EcaModule

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.eca, self.late = nn.Conv2d(3, 8, 1), EcaModule(kernel_size=3), nn.Conv2d(8, 32, 1)

        def forward(self, x):
            return self.eca(self.late(self.stem(x)))

    net = Block()
    assert find_sites(net)[0].channels is None
    with capture(net):
        net(torch.randn(1, 3, 4, 4))
    assert find_sites(net)[0].channels == 32


def test_a_traced_network_is_refused_plainly():
    class Traced(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.se = torch.jit.trace(inner, torch.randn(1, 8)), attention.SE(8, 4)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        net = Traced(nn.Linear(8, 8))
    with pytest.raises(RuntimeError, match=r"capture: inner was scripted or traced.*made from"), capture(net):
        pass


def test_a_network_whose_attribute_is_called_net():
    net = Wrapped(attention.SE(16, 4))
    net.net = "resnet"
    with capture(net) as captured:
        net(torch.randn(1, 3, 8, 8))
    assert list(captured) == ["se"]
    net.net, net.parallel = nn.Identity(), nn.DataParallel(nn.Linear(2, 2))
    net.parallel.device_ids = [0, 1]
    with pytest.warns(UserWarning, match="a DataParallel of 2 devices"), capture(net):
        assert net.parallel.device_ids == [0]


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_made_in_the_with_reads_nothing_and_works(stop, how, tmp_path):
    net, x = small("se"), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = net(x)
        with capture(net, "layer1.*", stop=stop) as captured:
            net(x)
            if how == "pickle":
                torch.save(net, tmp_path / "net.pt")
                twin = torch.load(tmp_path / "net.pt", weights_only=False)
            else:
                twin = copy.deepcopy(net)
            assert torch.equal(twin(x), expected)
            assert torch.equal(twin(x), expected)
        assert torch.equal(twin(x), expected)
    assert len(captured["layer1.0.se"].gate) == 2
    runs = {
        hook.__self__.run
        for m in twin.modules()
        for hook in m._forward_hooks.values()
        if hasattr(hook, "__self__") and hasattr(hook.__self__, "run")
    }
    assert runs
    assert all(len(run.captured) == 0 for run in runs)
    with torch.no_grad(), capture(twin) as again:
        twin(x)
    assert len(again) == 5


def test_early_stop_asks_captures_of_a_part_too():
    net, x = small("se"), torch.randn(2, 3, 64, 64)
    with torch.no_grad(), capture(net.layer3) as inner, capture(net, "layer1.*", stop=True) as outer:
        for _ in range(3):
            assert net(x) is not None
    assert {len(record.gate) for record in [*inner.values(), *outer.values()]} == {6}


def test_a_network_that_catches_exceptions_can_be_stopped_early():
    class Catching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small("se")

        def forward(self, x):
            try:
                return self.inner(x)
            except Exception:
                raise AssertionError("it was no error") from None

    net, x = Catching().eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad(), capture(net, "*layer1*", stop=True) as captured:
        net(x), net(x)
    assert len(captured["inner.layer1.0.se"].gate) == 4


def test_captures_that_overlap_without_nesting_give_the_stance_back():
    from torch._dynamo import eval_frame

    before = eval_frame._stance.stance
    net = small("se")
    one, other = capture(net), capture(net)
    one.__enter__(), other.__enter__()
    one.__exit__(None, None, None)
    assert eval_frame._stance.stance == "force_eager"
    other.__exit__(None, None, None)
    assert eval_frame._stance.stance == before


def test_patterns():
    model = LoadedModel(small(), None, (), torch.device("cpu"), "x", "module")
    names = [site.name for site in find_sites(model)]
    assert names == ["layer1.0.se", "layer2.0.se", "layer3.0.se", "layer3.1.se", "layer4.0.se"]
    assert [s.name for s in select_sites(model)] == names
    assert [s.name for s in select_sites(model, "layer3.*")] == names[2:4]
    assert [s.name for s in select_sites(model, ["layer4.0.se", "layer1.*"])] == [names[0], names[4]]
    assert [s.name for s in select_sites(model, lambda s: s.channels >= 128)] == names[2:]
    assert gates.site(model, "layer4.0.se").channels == 256
    assert [s.name for s in select_sites(model, gates.site(model, "layer1.0.se"))] == names[:1]
    for nothing in ("layer9.*", ["layer1.0.se", "nope"], lambda s: False, []):
        with pytest.raises(ValueError, match=r"no site matches .*layer1.0.se, layer2.0.se, layer3.0.se"):
            select_sites(model, nothing)
    with pytest.raises(ValueError, match="matches 2 sites"):
        gates.site(model, "layer3.*")


def test_a_model_without_gates():
    net = small("none")
    assert find_sites(net) == []
    with pytest.raises(ValueError, match=r"ResNet has no channel gates.*Looked at \d+ modules.*Conv2d ×"), capture(net):
        pass
    with pytest.raises(TypeError, match=r"an nn.Module, got str"):
        find_sites("shapes-none")


def test_what_is_learnt_of_a_model_does_not_keep_it_alive():
    net = small()
    with capture(net) as captured:
        net(torch.randn(1, 3, 64, 64))
    gone = weakref.ref(net)
    del net, captured
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("raised", [None, ValueError, KeyboardInterrupt])
def test_evaluating_leaves_every_flag_as_found(raised):
    net = small().train()
    net.layer1.eval()
    net.layer3[1].bn2.eval()
    flags = {name: module.training for name, module in net.named_modules()}
    assert set(flags.values()) == {True, False}
    x = torch.randn(2, 3, 64, 64)
    with pytest.raises(raised) if raised else nullcontext(), gates.evaluating(net):
        assert not any(module.training for module in net.modules())
        assert not torch.is_grad_enabled()
        assert not net(x).requires_grad
        net.layer2.train()
        if raised:
            raise raised("stop")
    assert {name: module.training for name, module in net.named_modules()} == flags
    assert torch.is_grad_enabled()
    assert net(x).requires_grad


def test_evaluating_inside_evaluating():
    net = small().train()
    with torch.no_grad():
        with gates.evaluating(net):
            with gates.evaluating(net):
                pass
            assert not any(module.training for module in net.modules())
        assert all(module.training for module in net.modules())
        assert not torch.is_grad_enabled()


@pytest.mark.gpu
def test_gpu_equals_cpu():
    net, x = small("se"), torch.randn(4, 3, 64, 64)
    with capture(net) as cpu:
        net(x)
    net.cuda()
    with capture(net) as gpu:
        net(x.cuda())
    with torch.autocast("cuda", torch.bfloat16), capture(net) as low:
        net(x.cuda())
    for name in cpu:
        assert gpu[name].gate.is_cuda
        torch.testing.assert_close(gpu[name].gate.cpu(), cpu[name].gate, atol=2e-3, rtol=0)
        torch.testing.assert_close(low[name].gate.cpu(), cpu[name].gate, atol=0.05, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_data_parallel_of_two_gpus_is_read_on_the_first():
    net, x = small().cuda(), torch.randn(4, 3, 64, 64, device="cuda")
    with torch.no_grad():
        with capture(net) as expected:
            net(x)
        wrapped = nn.DataParallel(net, device_ids=[0, 1])
        with pytest.warns(UserWarning, match="a DataParallel of 2 devices"), capture(wrapped) as captured:
            wrapped(x)
    assert list(captured) == list(expected)
    for name, record in captured.items():
        torch.testing.assert_close(record.gate, expected[name].gate)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_channels_last_and_compiled_on_the_gpu(dtype):
    net, x = small("se").cuda(), torch.randn(4, 3, 64, 64, device="cuda")
    with torch.no_grad(), capture(net) as expected:
        net(x)
    net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    compiled = torch.compile(net)
    with torch.inference_mode(), torch.autocast("cuda", dtype):
        compiled(x)
        with capture(compiled) as captured:
            compiled(x)
    for name, record in captured.items():
        assert record.gate.dtype == torch.float32
        torch.testing.assert_close(record.gate, torch.sigmoid(record.logit))
        torch.testing.assert_close(record.gate, expected[name].gate, rtol=0, atol=0.05)
