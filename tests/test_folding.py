"""A network with its gates folded in is the network with its gates frozen; and the original stays what it was."""

import copy

import pytest
import torch
from test_foreign import traces_of
from torch import nn

import ecaviz
from ecaviz import attention
from ecaviz.folding import Scale, fold_gates

BUNDLED = ["eca-k3", "se-r16", "cbam", "gsop", "ge-theta-e2", "se-gc2"]


def frozen(model, profile, x):
    with torch.no_grad(), ecaviz.intervene(model, None, "mean", profile=profile):
        return model.net(x)


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def parameters(net):
    return sum(one.numel() for one in net.parameters())


def scales(net):
    return [name for name, module in net.named_modules() if isinstance(module, Scale)]


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_models(name):
    model = ecaviz.load(f"shapes-{name}", device="cpu")
    images = ecaviz.images.shapes("test", 36)
    profile = ecaviz.profile(model, images, progress=False)
    state, traces = copy.deepcopy(model.net.state_dict()), traces_of(model.net)
    folded = fold_gates(model, profile)
    x = model.transform(images.tensors()[0][:12])
    with torch.no_grad():
        out, own = folded.net(x), model.net(x)
    assert relative(out, frozen(model, profile, x)) < 1e-5
    assert relative(out, own) > 1e-3  # or it tests nothing
    per = [one.per for one in ecaviz.find_sites(folded)]
    assert per == ["position"] * (8 if name == "cbam" else 0)
    assert scales(folded.net) == []  # a norm feeds each of them
    gone = sum(parameters(one.module) for one in ecaviz.find_sites(model) if one.per != "position")
    assert gone > 0 or name == "ge-theta-minus"
    assert parameters(folded.net) == parameters(model.net) - gone
    assert (folded.name, folded.classes, folded.transform) == (
        f"{model.name}, gates folded",
        model.classes,
        model.transform,
    )
    assert traces_of(model.net) == traces
    assert all(torch.equal(a, b) for a, b in zip(model.net.state_dict().values(), state.values(), strict=True))
    shared = {id(one) for one in model.net.parameters()} & {id(one) for one in folded.net.parameters()}
    assert not shared


def test_one_site_alone():
    model = ecaviz.load("shapes-se-r16", device="cpu").net.train()
    model = ecaviz.load(model, transform=ecaviz.load("shapes-se-r16").transform, device="cpu")
    images = ecaviz.images.shapes("test", 24)
    profile = ecaviz.profile(model, images, progress=False)
    folded = fold_gates(model, profile, "layer3.0.se")
    assert len(ecaviz.find_sites(folded)) == 7
    assert folded.net.training
    assert folded.net.layer3[0].se.training
    assert model.net.training
    x = model.transform(images.tensors()[0])
    model.net.eval(), folded.net.eval()
    with torch.no_grad(), ecaviz.intervene(model, "layer3.0.se", "mean", profile=profile):
        expected = model.net(x)
    with torch.no_grad():
        assert relative(folded.net(x), expected) < 1e-5


@pytest.mark.parametrize(
    ("name", "scaled"), [("ecaresnet26t", 0), ("seresnet18", 0), ("torchvision:mobilenet_v3_small", 9)]
)
def test_networks_of_others(name, scaled, images):
    torch.manual_seed(0)
    options = {"zero_init_last": False} if "resnet" in name else {}
    try:
        model = ecaviz.load(name, pretrained=False, device="cpu", **options)
    except ValueError:
        import timm

        model = ecaviz.load(timm.create_model(name, **options).eval(), device="cpu")
    with torch.no_grad():
        for one in ecaviz.find_sites(model):
            for weight in one.module.parameters():
                weight.mul_(20 if scaled else 1)  # torchvision's gates are all alike at the start
    profile = ecaviz.profile(model, images, progress=False)
    assert max(float(site.moments.std().max()) for site in profile.sites.values()) > 1e-4
    folded = fold_gates(model, profile, example=images[:2])
    with torch.no_grad():
        out, own = folded.net(images), model.net(images)
    assert relative(out, frozen(model, profile, images)) < 1e-5
    assert relative(out, own) > 1e-6
    assert len(scales(folded.net)) == scaled  # behind an activation the constant stays a factor
    assert ecaviz.find_sites(folded) == []


class Block(nn.Module):
    """A norm, and what is done with what it gives."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.conv = nn.Conv2d(3, 8, 3, bias=True)
        self.norm = nn.GroupNorm(2, 8) if how == "group norm" else nn.BatchNorm2d(8, affine=how != "no weights")
        self.se, self.head = attention.SE(8, 2), nn.Linear(8, 4)
        with torch.no_grad():
            for one in self.se.parameters():
                one.mul_(4)
            for one in self.norm.parameters():
                one.add_(torch.rand(one.shape))

    def forward(self, x):
        x = self.conv(x)
        if self.how == "convolution":
            return self.head(self.se(x).relu().mean((2, 3)))
        x = self.norm(x)
        if self.how == "also a shortcut":
            return self.head((self.se(x) + x).mean((2, 3)))
        if self.how == "an activation between":
            x = x.relu_()
        if self.how == "twice through the norm":
            x = self.norm(x)
        if self.how == "changed in place":
            x.add_(1)
        if self.how == "also looked at afterwards":
            out = self.se(x)
            return self.head(out.mean((2, 3)) + x.amax((2, 3)))
        if self.how == "returned through a view":
            return self.head(self.se(x.view(x.shape)).mean((2, 3)))
        return self.head(self.se(x).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("how", "into"),
    [
        ("plain", "norm"),
        ("group norm", "norm"),
        ("convolution", "conv"),
        ("also a shortcut", None),
        ("an activation between", None),
        ("twice through the norm", None),
        ("changed in place", None),
        ("also looked at afterwards", None),
        ("returned through a view", None),
        ("no weights", None),
        ("hooked", None),
    ],
)
def test_it_is_folded_only_where_the_layer_feeds_the_gate_alone(how, into, images):
    torch.manual_seed(3)
    net = Block(how).eval()
    if how == "hooked":
        net.norm.register_forward_hook(lambda _m, _args, out: out + 1)
    x = images[:, :, :20, :20]
    model = ecaviz.load(net, classes=list("abcd"), device="cpu")
    profile = ecaviz.profile(model, x, progress=False)
    folded = fold_gates(model, profile, example=x[:2])
    with torch.no_grad():
        assert relative(folded.net(x), frozen(model, profile, x)) < 1e-5
    assert isinstance(folded.net.se, nn.Identity if into else Scale)
    for name in ("conv", "norm"):
        before, after = (dict(getattr(one, name).named_parameters()) for one in (net, folded.net))
        for key, value in before.items():
            assert torch.equal(value, after[key]) == (name != into)


class Twice(Block):
    def forward(self, x):
        return self.head(self.se(self.se(self.norm(self.conv(x))).relu()).mean((2, 3)))


def test_what_cannot_be_folded_is_said(images):
    x = images[:, :, :20, :20]
    torch.manual_seed(3)
    model = ecaviz.load(Twice("plain").eval(), classes=list("abcd"), device="cpu")
    profile = ecaviz.profile(model, x, progress=False)
    with pytest.raises(ValueError, match="se is called several times in a forward"):
        fold_gates(model, profile, example=x)
    model = ecaviz.load(Block("plain").eval(), classes=list("abcd"), device="cpu")
    with pytest.raises(ValueError, match="the profile is of other weights"):
        fold_gates(model, profile, example=x)
    profile = ecaviz.profile(model, x, progress=False)
    with pytest.raises(ValueError, match="give one: example=batch"):
        fold_gates(model, profile)
    with pytest.raises(TypeError, match=r"a model from ecaviz\.load\(\) was expected, got Block"):
        fold_gates(model.net, profile)
    with pytest.raises(ValueError, match="needs the profile"):
        fold_gates(model, None, example=x)

    class Aside(Block):
        """Calls its site for larger images alone."""

        def forward(self, x):
            return super().forward(x) if x.shape[-1] >= 20 else self.head(self.norm(self.conv(x)).mean((2, 3)))

    model = ecaviz.load(Aside("plain").eval(), classes=list("abcd"), device="cpu")
    profile = ecaviz.profile(model, x, progress=False)
    with pytest.raises(ValueError, match="the network called se 0 times on the example"):
        fold_gates(model, profile, example=x[:, :, :12, :12])
    assert ecaviz.find_sites(fold_gates(model, profile, example=x)) == []

    class Random(Block):
        def forward(self, x):
            return super().forward(x) + torch.rand(1)

    model = ecaviz.load(Random("plain").eval(), classes=list("abcd"), device="cpu")
    profile = ecaviz.profile(model, x, progress=False)
    with pytest.raises(RuntimeError, match="on the example the copy's logits are"):
        fold_gates(model, profile, example=x)
