"""Interventions, against x·ω' + β written out; and a network that is afterwards what it was."""

import copy
import re
from contextlib import nullcontext

import numpy as np
import planted
import pytest
import torch
import zoo
from test_foreign import net_of, some_images, traces_of
from torch import nn
from torch.utils.checkpoint import checkpoint

import ecaviz
from ecaviz import attention
from ecaviz.gates import capture, find_sites
from ecaviz.interventions import intervene, intervention_effect, intervention_effects
from ecaviz.module_calls import PLACE

PER_CHANNEL = [
    "one",
    "mean",
    "swap",
    "permute",
    {"channels": [1, 4]},
    {"channels": [2, 7, 9], "to": 0.25},
    {"contrast": 2.5},
]


@pytest.fixture(scope="module")
def planted_model():
    return ecaviz.load(planted.Planted(), transform=planted.transform, classes=planted.CLASSES, device="cpu")


@pytest.fixture(scope="module")
def planted_profile(planted_model):
    return ecaviz.profile(planted_model, planted.PlantedImages(), by="class", progress=False)


def batch_of(n=12, seed=5):
    images = planted.PlantedImages(n, seed=seed)
    return torch.stack([planted.transform(one) for one in images.images]), images.labels


# -------------------------------------------------------------------------------------------------------- closed forms


def by_hand(net, x, early=None, late=None):
    """The planted network written out; ``early`` and ``late`` make ω' of ω."""
    x = x.double()
    x = nn.functional.conv2d(x, net.stem.weight.double(), net.stem.bias.double())
    x = net.quarters(x)
    for module, change in ((net.early, early), (net.late, late)):
        (weight,) = module.excite.parameters()
        gate = torch.sigmoid(x.mean((2, 3)) * weight.detach().double().flatten())
        gate = gate if change is None else change(gate)
        x = x * gate[:, :, None, None]
    return x.mean((2, 3)) @ net.head.weight.detach().double().T + net.head.bias.detach().double()


def mean_gates(net, images, site, early=None):
    """Mean gates by class, by hand."""
    x = torch.stack([planted.transform(one) for one in images.images]).double()
    x = net.quarters(nn.functional.conv2d(x, net.stem.weight.double(), net.stem.bias.double()))
    for name in planted.SITES:
        (weight,) = getattr(net, name).excite.parameters()
        gate = torch.sigmoid(x.mean((2, 3)) * weight.detach().double().flatten())
        if name == site:
            return torch.stack([gate[images.labels == c].mean(0) for c in range(3)]).detach(), gate.mean(0).detach()
        x = x * gate[:, :, None, None]
    raise AssertionError


@pytest.mark.parametrize("mode", ["none", "one", "mean", "class-mean", "one class", "channels", "to", "contrast"])
def test_the_planted_network_in_closed_form(mode, planted_model, planted_profile):
    net, (x, labels) = planted_model.net, batch_of()
    by_class, mean = mean_gates(net, planted.PlantedImages(), "late")

    def some(gate, value):
        gate = gate.clone()
        gate[:, [0, 5]] = value
        return gate

    asked, expected = {
        "none": ("none", lambda gate: gate),
        "one": ("one", torch.ones_like),
        "mean": ("mean", lambda gate: mean.expand_as(gate)),
        "class-mean": ("class-mean", lambda gate: by_class[labels]),
        "one class": ({"class-mean": "red"}, lambda gate: by_class[1].expand_as(gate)),
        "channels": ({"channels": [0, 5]}, lambda gate: some(gate, mean[[0, 5]])),
        "to": ({"channels": [5, 0], "to": 0.75}, lambda gate: some(gate, 0.75)),
        "contrast": ({"contrast": -1.5}, lambda gate: mean - 1.5 * (gate - mean)),
    }[mode]
    with torch.no_grad(), intervene(planted_model, {"late": asked}, profile=planted_profile) as under:
        assert [one.name for one in under.sites] == ["late"]
        under.labels = labels
        out = net(x)
    own = by_hand(net, x).float().detach()
    hand = by_hand(net, x, late=expected).float().detach()
    torch.testing.assert_close(out, hand, rtol=1e-5, atol=1e-5)
    assert torch.allclose(own, hand, atol=1e-3) == (mode == "none")
    # Channels that the class is not made of change nothing.
    with torch.no_grad(), intervene(planted_model, {"late": {"channels": [1, 2, 3]}}, profile=planted_profile):
        assert torch.equal(net(x), planted_model.net(x))


def test_swap_gives_each_image_the_gates_of_another(planted_model):
    net, (x, _) = planted_model.net, batch_of()
    with torch.no_grad(), capture(net) as gates:
        own = net(x)
    kept = {}
    for seed in (0, 1):
        with torch.no_grad(), intervene(net, None, "swap", seed=seed) as under:
            out = net(x)
        partner = []
        for i in range(len(x)):  # found from the gates themselves
            (same,) = (gates["early"].gate == under.gates["early"][i]).all(1).nonzero()[:, 0:1].T
            partner.append(int(same[0]))
        assert sorted(partner) == list(range(len(x)))
        assert all(i != j for i, j in enumerate(partner))
        swapped = lambda gate, partner=partner: gate[partner]  # noqa: E731
        hand = by_hand(net, x, swapped, swapped).float().detach()
        torch.testing.assert_close(out, hand, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(out, own, atol=1e-2)
        kept[seed] = partner
        with torch.no_grad(), intervene(net, None, "swap", seed=seed):
            assert torch.equal(net(x), out)
    assert kept[0] != kept[1]


def test_permute_gives_channels_the_gates_of_others(planted_model):
    net, (x, _) = planted_model.net, batch_of()
    with torch.no_grad(), capture(net) as gates, intervene(net, "early", "permute", seed=3) as under:
        out = net(x)
    own, given = gates["early"].gate, under.gates["early"]
    torch.testing.assert_close(given.sort(1).values, own.sort(1).values)
    noise = list(planted.NOISE)
    order = [int((own == given[:, [c]]).all(0).nonzero()[-1]) for c in range(planted.CHANNELS)]
    assert sorted(set(order) & set(noise)) == noise  # their gates differ from all others
    hand = by_hand(net, x, early=lambda gate: gate[:, order]).float().detach()
    torch.testing.assert_close(out, hand, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------- every kind of module


def hand_change(mode, gate, mean, given):
    """ω' in float64; ``given`` is what the intervention says it used, for what is drawn by lot."""
    if mode == "one":
        return torch.ones_like(gate)
    if mode == "mean":
        return mean.expand_as(gate)
    if isinstance(mode, dict) and "channels" in mode:
        new = gate.clone()
        new[:, mode["channels"]] = mode.get("to", mean[mode["channels"]])
        return new
    if isinstance(mode, dict):
        return mean + mode["contrast"] * (gate - mean)
    if mode == "swap":
        partner = [int((gate - row).abs().amax(1).argmin()) for row in given]
        assert all(i != j for i, j in enumerate(partner))
        return gate[partner]
    order = [int((gate - given[:, [c]]).abs().amax(0).argmin()) for c in range(gate.shape[1])]
    return gate[:, order]


@pytest.mark.parametrize("style", zoo.GATES)
def test_every_style_of_gate_in_every_mode(style):
    """Also the gradients: to the image, and to every weight, those of the attention module among them."""
    known = zoo.GATES[style]
    net, x = net_of(known.make), some_images(6)
    (site,) = find_sites(net, example=x)
    model = ecaviz.load(net, classes=[str(i) for i in range(5)], device="cpu")
    profile = ecaviz.profile(model, some_images(8, seed=2), progress=False)
    mean = profile.mean(site.name)[0]
    exact = copy.deepcopy(net).double()
    with torch.no_grad():
        own = net(x.clone())
    for mode in PER_CHANNEL:
        given = x.clone().requires_grad_()
        with intervene(model, None, mode, profile=profile) as under:
            out = net(given)
        asked = [given, net.conv.weight]
        found = torch.autograd.grad(out.square().sum(), [*asked, *net.part.parameters()], allow_unused=True)

        other = x.double().requires_grad_()
        maps = exact.conv(other)
        gate = known.gate(known.logit(exact.part, maps.clone()))
        used = under.gates[site.name]
        new = hand_change(mode, gate, mean, used.double())
        shift = 0 if known.shift is None else known.shift(exact.part, maps)[:, :, None, None]
        hand = exact.head((maps * new[:, :, None, None] + shift).relu().mean((2, 3)))
        torch.testing.assert_close(out.double(), hand, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(used.double(), new, rtol=0, atol=2e-6)
        assert not torch.allclose(out, own, atol=1e-5), mode
        wanted = torch.autograd.grad(
            hand.square().sum(), [other, exact.conv.weight, *exact.part.parameters()], allow_unused=True
        )
        scale = max(float(one.abs().max()) for one in wanted if one is not None)
        for a, b in zip(found, wanted, strict=True):
            if a is None or b is None:  # nothing of it is left: a gate at one or its mean
                assert not any(one is not None and one.any() for one in (a, b))
                continue
            torch.testing.assert_close(a.double() / scale, b.double() / scale, rtol=0, atol=1e-3)
    with torch.no_grad(), intervene(model, None, "none"):
        assert torch.equal(net(x.clone()), own)


@pytest.mark.parametrize("name", ["cbam", "ge-theta-e2", "gsop", "se-r16", "eca-ns", "ge-theta-minus"])
def test_bundled_models(name):
    model = ecaviz.load(f"shapes-{name}", device="cpu")
    images = ecaviz.images.shapes("test", 24)
    x = model.transform(images.tensors()[0][:8])
    profile = ecaviz.profile(model, images, by="class", progress=False)
    with torch.no_grad(), capture(model) as before:
        own = model.net(x)
    sites = find_sites(model)
    per = {one.name: one.per for one in sites}
    for mode in ("none", "one", "mean", {"class-mean": "disc"}, "swap", "permute", {"channels": [0]}, {"contrast": 0}):
        if name == "ge-theta-e2" and mode in ("permute", {"contrast": 0}):
            with pytest.raises(ValueError, match="its gates are a map for each channel"):
                intervene(model, None, mode, profile=profile).__enter__()
            continue
        with torch.no_grad(), intervene(model, None, mode, profile=profile) as under, capture(model) as after:
            out = model.net(x)
        # Those of positions are left out, where a mode needs means.
        suited = [one.name for one in sites if one.per != "position" or mode in ("none", "one", "swap")]
        assert [one.name for one in under.sites] == suited
        assert list(under.gates) == [one for one in after if one in suited]
        assert torch.equal(out, own) == (mode == "none")
        first = suited[0]
        assert torch.equal(after[first].gate, before[first].gate)  # a capture reads its own
        assert under.gates[first].shape == before[first].gate.shape
        if mode == "mean":
            mean = profile.mean(first)
            weighted = (profile.counts[:, None] * mean).sum(0) / profile.n
            shown = under.gates[first].double()
            shown = shown if shown.ndim == 2 else shown.mean((2, 3))
            torch.testing.assert_close(shown, weighted.expand_as(shown), rtol=0, atol=1e-6)
    if "position" in per.values():
        spatial = [one for one, kind in per.items() if kind == "position"]
        with pytest.raises(ValueError, match="its gates are of positions"):
            intervene(model, spatial, "mean", profile=profile).__enter__()


def test_networks_of_timm_and_torchvision(images):
    import timm
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(0)
    nets = [
        timm.create_model("ecaresnet26t", zero_init_last=False, num_classes=7),
        timm.create_model("legacy_seresnet18", num_classes=7),
        mobilenet_v3_small(num_classes=7),
    ]
    for net in nets:
        model = ecaviz.load(net.eval(), classes=list("abcdefg"), device="cpu")
        profile = ecaviz.profile(model, images, progress=False)
        with torch.no_grad():
            own = net(images)
            with intervene(model, None, "none"):
                assert torch.equal(net(images), own)
            for mode in ("one", "mean", "swap"):
                with intervene(model, None, mode, profile=profile) as under:
                    out = net(images)
                assert len(under.gates) == len(profile)
                assert not torch.allclose(out, own, rtol=0, atol=1e-6 * float(own.abs().max()))
        if isinstance(net, type(nets[0])) and hasattr(net, "layer1") and "eca" in str(type(net.layer1[0].se)).lower():
            block = net.layer2[1]
            mean = profile.mean("layer2.1.se")[0]
            assert profile.mean("layer2.1.se").std() > 1e-4
            kept = []
            handle = block.register_forward_hook(lambda _m, args, out, kept=kept: kept.append((args[0].clone(), out)))
            with torch.no_grad(), intervene(model, "layer2.1.se", "mean", profile=profile):
                net(images)
            handle.remove()
            (x, out), *_ = kept
            hand = block.bn1(block.conv1(x))
            hand = block.bn2(block.conv2(block.act1(hand)))
            hand = block.bn3(block.conv3(block.act2(hand)))
            hand = torch.relu(hand * mean[:, None, None].float() + x)
            torch.testing.assert_close(out, hand, rtol=1e-5, atol=1e-5)


class Twice(nn.Module):
    """One attention module, called twice in a forward."""

    def __init__(self):
        super().__init__()
        self.conv, self.part = nn.Conv2d(3, 16, 3), attention.SE(16, 2)
        self.head = nn.Linear(16, 4)
        with torch.no_grad():
            for one in self.part.parameters():
                one.mul_(3)

    def forward(self, x):
        return self.head(self.part(self.part(self.conv(x)).relu()).mean((2, 3)))


def test_a_module_called_twice_has_two_means():
    torch.manual_seed(0)
    net, x = Twice().eval(), some_images(6)
    model = ecaviz.load(net, classes=list("abcd"), device="cpu")
    profile = ecaviz.profile(model, x, progress=False)
    first, second = (profile.mean(name)[0].float() for name in ("part", "part#2"))
    assert not torch.allclose(first, second, atol=1e-3)
    with torch.no_grad():
        for _ in range(2):
            with intervene(model, "part", "mean", profile=profile) as under:
                out = net(x)
                assert list(under.gates) == ["part", "part#2"]
                assert torch.equal(net(x), out)
        maps = (net.conv(x) * first[:, None, None]).relu() * second[:, None, None]
        torch.testing.assert_close(out, net.head(maps.mean((2, 3))))
    once = ecaviz.load(copy.deepcopy(net), classes=list("abcd"), device="cpu")
    once.net.forward = lambda x: once.net.head(once.net.part(once.net.conv(x)).mean((2, 3)))
    short = ecaviz.profile(once, x, progress=False)
    with pytest.raises(ValueError, match="no site 'part#2'"), intervene(model, "part", "mean", profile=short):
        net(x)


# ------------------------------------------------------------------------------------------------------------ contracts


def test_they_nest_and_the_inner_one_starts_from_the_outer(planted_model, planted_profile):
    net, (x, _) = planted_model.net, batch_of()
    _, mean = mean_gates(net, planted.PlantedImages(), "late")
    with torch.no_grad():
        own = net(x)
        with intervene(net, "late", {"channels": [0], "to": 1.0}) as outer:
            alone = net(x)
            with intervene(planted_model, "late", {"contrast": 0.5}, profile=planted_profile) as inner:
                both = net(x)
            assert torch.equal(net(x), alone)
            assert (inner.gates["late"][:, 0] - (mean[0] + 0.5 * (1 - mean[0]))).abs().max() < 1e-6
            with intervene(net, "late", "none"):
                assert torch.equal(net(x), alone)
            with intervene(net, "late", "swap") as inner:
                net(x)
            assert (inner.gates["late"][:, 0] == 1).all()
            assert (outer.gates["late"][:, 0] == 1).all()
        assert torch.equal(net(x), own)

    def change(gate):
        gate = gate.clone()
        gate[:, 0] = 1
        return mean + 0.5 * (gate - mean)

    torch.testing.assert_close(both, by_hand(net, x, late=change).float().detach(), rtol=1e-5, atol=1e-5)


def test_they_may_end_in_another_order(planted_model):
    net, (x, _) = planted_model.net, batch_of()
    with torch.no_grad():
        own = net(x)
        first, second = intervene(net, None, "one"), intervene(net, None, "swap")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        left = net(x)
        second.__exit__(None, None, None)
        assert torch.equal(net(x), own)
        with intervene(net, None, "swap"):
            assert torch.equal(net(x), left)
    assert not any(PLACE in vars(module) for module in net.modules())


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_afterwards_the_network_is_what_it_was(error):
    net, x = planted.Planted(), batch_of()[0]
    net.late.register_forward_hook(lambda *_: None)
    state, traces = copy.deepcopy(net.state_dict()), traces_of(net)
    own = net(x)
    raised = nullcontext() if error is None else pytest.raises(error)
    with raised, intervene(net, None, "swap"), intervene(net, "late", "one"):
        net(x)
        net.late(torch.ones(2, 8, 3, 3))  # called alone
        copy.deepcopy(net)(x)
        if error is not None:
            raise error
    assert torch.equal(net(x), own)
    assert traces_of(net) == traces
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), state.values(), strict=True))
    assert not any(PLACE in vars(module) for module in net.modules())


def test_a_forward_that_fails_leaves_nothing(planted_model, planted_profile):
    net, (x, labels) = planted_model.net, batch_of()
    with intervene(planted_model, "late", "class-mean", profile=planted_profile) as under, torch.no_grad():
        under.labels = labels
        out = net(x)
        assert under.labels is None
        with pytest.raises(ValueError, match=r"set under\.labels before each batch"):
            net(x)
        under.labels = [planted.CLASSES[label] for label in labels]
        with pytest.raises(RuntimeError):
            net(x[:, :2])
        assert torch.equal(net(x), out)
        under.labels = labels[:5]
        with pytest.raises(ValueError, match="5 labels were set for a batch of 12"):
            net(x)


def test_a_copy_made_inside_is_free_of_it(planted_model):
    net, (x, _) = planted_model.net, batch_of()
    with torch.no_grad():
        own = net(x)
        with intervene(net, None, "one"):
            other = copy.deepcopy(net)
            assert torch.equal(other(x), own)
            assert not torch.equal(net(x), own)


def test_modes_of_computing():
    net, x = planted.Planted(), batch_of()[0]
    net(x)
    with torch.no_grad(), intervene(net, None, "swap"):
        plain = net(x)
        with torch.inference_mode():
            assert torch.equal(net(x), plain)
        torch.testing.assert_close(net.to(memory_format=torch.channels_last)(x), plain)
        with torch.autocast("cpu", torch.bfloat16):
            low = net(x)
    torch.testing.assert_close(low.float(), plain, rtol=0.05, atol=0.2)
    half = copy.deepcopy(net).to(torch.bfloat16)
    with torch.no_grad(), intervene(half, None, "swap"):
        assert half(x.to(torch.bfloat16)).dtype == torch.bfloat16
    double = copy.deepcopy(net).double()
    with torch.no_grad(), intervene(double, None, "swap") as under:
        out = double(x.double())
    partner = [int((double_gate(double, x) - row.double()).abs().amax(1).argmin()) for row in under.gates["early"]]
    swapped = lambda gate: gate[partner]  # noqa: E731
    torch.testing.assert_close(out, by_hand(double, x, swapped, swapped), rtol=1e-12, atol=1e-12)


def double_gate(net, x):
    with torch.no_grad(), capture(net) as gates:
        net(x.double())
    return gates["early"].gate.double()


def test_compiled_and_wrapped_networks():
    net, x = planted.Planted(), batch_of()[0]
    with torch.no_grad():
        with intervene(net, None, "one"):
            expected = net(x)
        own = net(x)
        assert not torch.allclose(own, expected, atol=1e-2)
        compiled = torch.compile(net, backend="eager")
        torch.testing.assert_close(compiled(x), own)
        with intervene(compiled, None, "one"):
            assert torch.equal(compiled(x), expected)
        torch.testing.assert_close(compiled(x), own)
        wrapped = nn.DataParallel(net)
        with intervene(wrapped, None, "one"):
            assert torch.equal(wrapped(x), expected)
        inside = planted.Planted()
        inside.late.compile(backend="eager")
        torch.testing.assert_close(inside(x), own)
        with intervene(inside, None, "one"):
            assert torch.equal(inside(x), expected)
        torch.testing.assert_close(inside(x), own)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("mode", ["one", "swap", {"contrast": 2}, "class-mean"])
def test_gradient_checkpointing(reentrant, mode, planted_model, planted_profile):
    net, (x, labels) = planted_model.net, batch_of()

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=reentrant)

    found = []
    for one in (net, Checkpointed()):
        x = x.detach().clone().requires_grad_()
        with intervene(planted_model, None, mode, profile=planted_profile) as under:
            under.labels = labels
            (one(x) ** 2).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found)
    assert found[0].abs().max() > 1e-3


def test_a_run_from_the_site_on_is_the_whole_run():
    model = ecaviz.load("shapes-se-r16", device="cpu")
    images = ecaviz.images.shapes("test", 24)
    profile = ecaviz.profile(model, images, by="class", progress=False)
    x, labels = images.tensors()
    cached = ecaviz.CachedRun(model, model.transform(x[:8]))
    assert cached.prepare("layer2.1.se").partial
    for mode in ("mean", "class-mean", "swap", "one", "none", {"channels": [3]}, {"contrast": 2}):
        with intervene(model, "layer[34].*", mode, profile=profile) as under:
            under.labels = labels[:8] if mode == "class-mean" else None
            whole = model.net(cached.batch).detach()
            for start in ("layer3.0.se", "layer2.1.se"):
                under.labels = labels[:8] if mode == "class-mean" else None
                torch.testing.assert_close(cached.run_from(start), whole)  # prepared inside the `with`, too
            with pytest.raises(RuntimeError, match=r"layer3\.0.* was changed .*Start from there"):
                cached.run_from("layer4.0.se")
        assert torch.allclose(whole, cached.logits, atol=1e-4) == (mode == "none")
    torch.testing.assert_close(cached.run_from("layer3.0.se"), cached.logits)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("sites", "mode", "message"),
    [
        (None, None, 'mode None is not known. Modes: "none", "one"'),
        (None, "freeze", "mode 'freeze' is not known"),
        (None, "channels", "mode 'channels' is not known"),
        (None, {"channels": [1], "at": 1}, "is not known"),
        ({}, None, "an empty mapping"),
        ({"late": "one"}, "one", "another mode was given"),
        ("last", "one", "no site matches 'last'"),
        ("late", {"channels": []}, "a list of channel numbers was expected, got []"),
        ("late", {"channels": [0.5]}, "a list of channel numbers was expected"),
        ("late", {"channels": [8]}, "late has no channel 8, the channels 0 to 7"),
        ("late", {"channels": [-1]}, "late has no channel -1"),
        ("late", {"channels": [1], "to": 2}, "a gate t of 0 to 1 was expected, got 2"),
        ("late", {"channels": 3}, "a list of channel numbers was expected, got 3"),
        ("late", {"channels": None}, "a list of channel numbers was expected, got None"),
        ("late", {"channels": [3], "to": "x"}, "a gate t of 0 to 1 was expected, got 'x'"),
        ("late", {"contrast": "high"}, "a finite number was expected, got 'high'"),
        ("late", {"contrast": float("nan")}, "a finite number was expected, got nan"),
        ("late", {"class-mean": "blue"}, "no class 'blue'; it has: dark red, red, bright red"),
    ],
)
def test_bad_requests(sites, mode, message, planted_model, planted_profile):
    with (
        pytest.raises(ValueError, match=re.escape(message)),
        intervene(planted_model, sites, mode, profile=planted_profile),
    ):
        pass


def test_profiles_that_do_not_fit(planted_model, planted_profile):
    images = planted.PlantedImages(12)
    other = planted.Planted()
    with torch.no_grad():
        other.head.bias.add_(1)
    pooled = ecaviz.profile(planted_model, images, progress=False)
    early = ecaviz.profile(planted_model, images, by="class", sites="early", progress=False)
    few = ecaviz.profile(planted_model, _Only(images), by="class", progress=False)
    cases = [
        (planted_model, "mean", None, ValueError, "needs the profile"),
        (planted_model, "class-mean", pooled, ValueError, "needs a profile by class"),
        (planted_model, "mean", early, ValueError, "the profile has no site 'late'; it has: early"),
        (other, "mean", planted_profile, ValueError, "the profile is of other weights"),
        (planted_model, "mean", {"late": 0.5}, TypeError, "an AttentionProfile was expected, got a dict"),
    ]
    for model, mode, profile, kind, message in cases:
        with pytest.raises(kind, match=re.escape(message)), intervene(model, "late", mode, profile=profile):
            pass
    x, labels = batch_of()
    with intervene(planted_model, "late", "class-mean", profile=few) as under:
        under.labels = labels
        with pytest.raises(ValueError, match="the profile has no image of the class 'bright red'"):
            planted_model.net(x)
        with pytest.raises(ValueError, match="labels of 0 to 7 were set; the profile has the classes 0 to 2"):
            under.labels = [0, 7]
        with pytest.raises(ValueError, match="no class 'blue'"):
            under.labels = ["blue"]
        with pytest.raises(ValueError, match="N whole numbers or names"):
            under.labels = torch.rand(3)
    with intervene(planted_model, "late", "one") as under, pytest.raises(ValueError, match="class-mean"):
        under.labels = labels
    with intervene(planted_model, "late", "swap"), pytest.raises(ValueError, match="this batch has 1"):
        planted_model.net(x[:1])


class _Only(torch.utils.data.Dataset):
    """The first two classes of a set."""

    classes = planted.CLASSES

    def __init__(self, images):
        self.images = [images[i] for i in range(len(images)) if images[i][1] < 2]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


# -------------------------------------------------------------------------------------------------------------- effects


def test_the_effect_is_what_two_runs_differ_by(planted_model, planted_profile):
    images = planted.PlantedImages(50, seed=9)
    asked = {mode: ("late", mode) for mode in ("none", "one", "mean", "class-mean", "swap")}
    asked["both"] = ({"early": "one", "late": {"channels": [0]}}, None)
    found = intervention_effects(planted_model, images, asked, profile=planted_profile, batch_size=25, progress=False)
    assert list(found) == list(asked)
    net = planted_model.net
    x = torch.stack([planted.transform(one) for one in images.images])
    by_class, mean = mean_gates(net, planted.PlantedImages(), "late")
    own = by_hand(net, x).detach()

    def alone(gate):
        gate = gate.clone()
        gate[:, 0] = mean[0]
        return gate

    changes = {
        "none": (None, None),
        "one": (None, torch.ones_like),
        "mean": (None, lambda gate: mean.expand_as(gate)),
        "class-mean": (None, lambda gate: by_class[images.labels]),
        "both": (torch.ones_like, alone),
    }
    for mode, (early, late) in changes.items():
        effect, hand = found[mode], by_hand(net, x, early, late).detach()
        assert len(effect) == 50
        assert torch.equal(effect.agrees, own.argmax(1) == hand.argmax(1))
        first, second = own.log_softmax(1), hand.log_softmax(1)
        torch.testing.assert_close(effect.divergence, (first.exp() * (first - second)).sum(1), rtol=1e-3, atol=1e-6)
        right = torch.stack([own.argmax(1) == images.labels, hand.argmax(1) == images.labels], 1)
        assert torch.equal(effect.right, right)
        assert set(effect.gate_change) == ({"early", "late"} if mode == "both" else {"late"})
    assert found["both"].mode == "one, channels 0 at their mean"
    assert float(found["none"].divergence.abs().max()) == 0
    assert float(found["none"].gate_change["late"].max()) == 0
    for mode in ("one", "mean", "class-mean", "swap"):  # each changes gates that vary
        assert float(found[mode].gate_change["late"].mean()) > 0.01
    table = found["mean"].to_frame().set_index("measure")
    assert table.loc["accuracy after", "mean"] == pytest.approx(float(found["mean"].right[:, 1].double().mean()))
    one = intervention_effect(planted_model, images, "late", "mean", profile=planted_profile, progress=False)
    torch.testing.assert_close(one.divergence, found["mean"].divergence)


@pytest.mark.parametrize("n", [9, 17])
def test_no_image_is_left_alone_to_be_swapped(planted_model, planted_profile, n):
    images = planted.PlantedImages(n)
    asked = {"swap": ("late", "swap"), "both": ({"early": "one", "late": "swap"}, None)}
    found = intervention_effects(planted_model, images, asked, profile=planted_profile, batch_size=8, progress=False)
    assert [len(one) for one in found.values()] == [n, n]
    with pytest.raises(ValueError, match="this batch has 1"):
        intervention_effect(planted_model, planted.PlantedImages(1), "late", "swap", progress=False)


class Unnamed(torch.nn.Module):
    """A gate of no known function: only least squares find it, and not where its map is 0."""

    def forward(self, x):
        return x * (0.5 + 0.4 * torch.tanh(2 * x.mean(dim=(2, 3), keepdim=True) - 1))


def test_where_a_gate_is_not_known_the_map_stays_0():
    torch.manual_seed(0)
    net = torch.nn.Sequential(Unnamed(), torch.nn.Flatten(), torch.nn.Linear(3 * 36, 3)).eval()
    x = torch.rand(8, 3, 6, 6)
    model = ecaviz.load(net, classes=("a", "b", "c"))
    (site,) = ecaviz.find_sites(model, example=x)
    assert site.rung == "least squares"
    profile = ecaviz.profile(model, x, progress=False)
    dead = x.clone()
    dead[3, 1] = 0
    with torch.no_grad():
        gate = 0.5 + 0.4 * torch.tanh(2 * x.mean(dim=(2, 3)) - 1)
        for mode in ("mean", "swap", "permute", {"contrast": 2}, {"channels": [0, 1]}):
            with intervene(model, None, mode, profile=profile):
                assert net(dead).isfinite().all(), mode
        with intervene(model, None, "mean", profile=profile):
            torch.testing.assert_close(net(dead), net[2]((dead * gate.mean(0)[:, None, None]).flatten(1)))
    effect = intervention_effect(model, dead, None, "mean", profile=profile, progress=False)
    assert np.isfinite(effect.to_frame()["mean"]).all()
    holes = ecaviz.profile(model, dead, progress=False)
    with (
        pytest.warns(UserWarning, match="no mean gate of 1 of 3 channels"),
        intervene(model, None, "mean", profile=holes),
    ):
        pass


def test_effects_of_images_without_labels_or_with_other_classes(planted_model, planted_profile):
    x, _ = batch_of()
    found = intervention_effect(planted_model, x, "late", "mean", profile=planted_profile, progress=False)
    assert found.right is None
    with pytest.raises(ValueError, match=r"set under\.labels before each batch"):
        intervention_effect(planted_model, x, "late", "class-mean", profile=planted_profile, progress=False)
    other = planted.PlantedImages(6)
    other.classes = ("a", "b", "c")
    with pytest.raises(ValueError, match="the images have other classes"):
        intervention_effect(planted_model, other, "late", "class-mean", profile=planted_profile, progress=False)
    with pytest.raises(ValueError, match="at least one intervention"):
        intervention_effects(planted_model, x, {})
    assert np.isfinite(found.to_frame()["mean"]).all()
