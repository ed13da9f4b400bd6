"""SE's and ECA's relatives: structure by autograd, published counts, the official layers, and capture."""

from __future__ import annotations

import csv

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ecaviz
from ecaviz import attention, bundle, networks
from ecaviz.influences import module_influence
from ecaviz.matches import NoWeights

NAMES = [name for name in attention.FAMILIES if name != "none"]
SIZED = {"ge-theta", "ge-theta-plus"}


def made(name, channels=32, side=7, **options):
    torch.manual_seed(0)
    options = ({"size": side} if name in SIZED else {}) | ({"reduced": 8} if name == "gsop" else {}) | options
    module = attention.build(name, channels, **options)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):  # as after some training
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
            part.running_mean.uniform_(-0.1, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return module.eval()


def count(depth, family, **options):
    with NoWeights():
        net = networks.resnet(depth, family, **options)
    return sum(p.numel() for p in net.parameters())


# -------------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(
    ("depth", "plain", "se", "eca", "ks"),
    [
        (18, 11_689_512, 11_776_552, 44, (3, 5, 7, 7)),
        (34, 21_797_672, 21_954_856, 72, (3, 3, 5, 7)),
        (50, 25_557_032, 28_071_976, 80, (3, 5, 5, 7)),
        (101, 44_549_160, 49_292_328, 157, (3, 3, 5, 7)),
        (152, 60_192_808, 66_770_984, 234, (3, 3, 5, 7)),
    ],
)
def test_resnets_have_the_published_parameters(depth, plain, se, eca, ks):
    assert count(depth, "none") == plain
    assert count(depth, "se", reduction=16) == se
    assert count(depth, "eca", kernel_size=ks) == plain + eca


@pytest.mark.parametrize(
    ("reduction", "parameters"), [(2, 45_676_584), (4, 35_616_808), (8, 30_586_920), (32, 26_814_504)]
)
def test_se_resnet_50_by_reduction(reduction, parameters):
    assert count(50, "se", reduction=reduction) == parameters


def test_table_2_of_the_eca_paper():
    """Its ten networks, each built and counted."""
    options = {"SE": ("se", {}), "ECA-NS": ("eca-ns", {"kernel_size": 3}), "ECA": ("eca", {"kernel_size": 3})}
    with (bundle.data_folder() / "published" / "table2.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    for row in rows:
        method = row["method"]
        name, kinds = ("none", {}) if method == "Vanilla" else options.get(method, (method.lower(), {}))
        assert count(50, name, **kinds) == int(row["parameters"]), method


def test_the_others_on_resnet_50():
    assert count(50, "cbam") == 28_089_624
    assert count(50, "cbam", bias=False) == 28_073_576
    assert count(18, "cbam") == 11_779_392
    assert count(34, "cbam") == 21_960_468
    assert count(101, "cbam") == 49_330_172
    assert count(50, "ge-theta-minus") == 25_557_032
    assert count(50, "ge-theta") == 31_106_600
    assert count(50, "ge-theta-plus") == 33_637_592
    assert count(101, "ge-theta-plus") == 58_323_224


def test_gsop_in_the_last_block_of_each_stage():
    assert count(50, "gsop") == 28_285_224
    net = networks.resnet(18, "gsop", classes=3, reduced=8)
    names = [site.name for site in ecaviz.find_sites(net)]
    assert names == [f"layer{i}.1.se" for i in (1, 2, 3, 4)]
    assert net.layer1[1].se.squeeze.conv.stride == (2, 2)
    sizes = {}
    for name in ("layer3", "layer4"):
        net.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, n=name: sizes.update({n: tuple(out.shape[2:])})
        )
    with torch.no_grad():
        net.eval()(torch.randn(1, 3, 64, 64))
    assert sizes == {"layer3": (4, 4), "layer4": (4, 4)}


@pytest.mark.parametrize("family", attention.FAMILIES)
@pytest.mark.parametrize("small", [False, True])
def test_every_module_works_in_a_resnet(family, small):
    """Forward, and a gate captured and proven at every block."""
    torch.manual_seed(0)
    options = {"reduced": 8} if family == "gsop" else {}
    net = networks.resnet(18, family, classes=5, small=small, image_size=32 if small else 64, **options).eval()
    x = torch.randn(2, 3, *([32, 32] if small else [64, 64]))
    if family == "none":
        with torch.no_grad():
            assert net(x).shape == (2, 5)
        return
    with torch.no_grad(), ecaviz.capture(net) as gates:
        assert net(x).shape == (2, 5)
    assert all(record.site.proof.holds for record in gates.values())
    by_channel = [record for record in gates.values() if record.site.per == "channel"]
    assert len(by_channel) == (4 if family == "gsop" else 8)
    assert len(gates) - len(by_channel) == (8 if family == "cbam" else 0)
    assert by_channel[-1].gate.shape == (2, 512)
    assert min(record.gate.std() for record in by_channel) > 1e-4


def test_a_depth_that_is_none():
    with pytest.raises(ValueError, match=r"depth must be one of 18, 34, 50, 101, 152, got 20"):
        networks.resnet(20)


def test_mobilenet_v2():
    widths = [16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]

    def counted(gates):
        return sum(p.numel() for p in networks.build_mobilenet_v2(gates).parameters())

    with NoWeights():
        assert counted(()) == 3_504_872
        assert counted([attention.build("eca", c, kernel_size=1 if c < 96 else 3) for c in widths]) == 3_504_903
        assert counted([attention.build("se", c, reduction=8) for c in widths]) == 3_561_800


# ----------------------------------------------------------------------------------------------------------- structure


def jacobian(module, y):
    return torch.autograd.functional.jacobian(lambda one: module.excite(one[None])[0], y)


def test_structures_by_autograd():
    """Which descriptor moves which logit: exactly as the formula says."""
    c = 32
    i = torch.arange(c)
    distance = (i[:, None] - i[None, :]).abs()
    allowed = {
        "se-var1": distance == 0,
        "se-var2": distance == 0,
        "se-var3": torch.ones(c, c, dtype=torch.bool),
        "se-gc1": (i[:, None] // 2) == (i[None, :] // 2),  # 16 groups of two
        "se-gc2": (i[:, None] // 16) == (i[None, :] // 16),
        "se-gc3": (i[:, None] // 8) == (i[None, :] // 8),
        "eca-ns": distance <= 2,
        "eca": distance <= 2,
    }
    for name, expected in allowed.items():
        module = made(name, **({"kernel_size": 5} if name.startswith("eca") else {}))
        found = jacobian(module, torch.randn(c))
        assert torch.equal(found != 0, expected), name
    assert torch.equal(jacobian(made("se-var1"), torch.randn(c)), torch.eye(c))
    shared = jacobian(made("eca", kernel_size=5), torch.randn(c))
    assert all(len(shared.diagonal(offset).unique()) == 1 for offset in (-2, -1, 0, 1, 2))
    own = jacobian(made("eca-ns", kernel_size=5), torch.randn(c))
    assert len(own.diagonal().unique()) == c
    se = jacobian(made("se", reduction=4), torch.randn(c))
    assert torch.linalg.matrix_rank(se) <= c // 4


def test_cbams_two_maps_have_a_low_rank():
    module = made("cbam", reduction=4).channel
    y = torch.randn(2, 32)
    found = torch.autograd.functional.jacobian(lambda one: module.excite(one[None])[0], y)
    for one in (found[:, 0], found[:, 1]):
        assert 0 < torch.linalg.matrix_rank(one) <= 8


def test_local_gather_excite_stays_local():
    """The gate of a place hears its own channel alone, and from no further than the extent reaches."""
    module = made("ge-theta", channels=4, extent=2)
    x = torch.randn(1, 4, 16, 16, requires_grad=True)
    gate = module.activation(module.excite(module.squeeze(x)))
    assert gate.shape == (1, 4, 8, 8)
    (heard,) = torch.autograd.grad(gate[0, 1, 4, 4], x)
    assert heard[0, [0, 2, 3]].abs().sum() == 0
    rows, columns = heard[0, 1].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7, 9, 7, 9)


# ----------------------------------------------------------------------------------- the official layers, written out


def test_eca_ns_is_the_official_layer():
    """unfold, then a grouped convolution with the weights C×1×k under the name conv.weight."""
    module = made("eca-ns", channels=12, kernel_size=3)
    weight = torch.randn(12, 1, 3)
    module.load_state_dict({"excite.conv.weight": weight})
    x = torch.randn(2, 12, 5, 6)
    y = F.adaptive_avg_pool2d(x, 1)
    neighbours = F.unfold(y.transpose(-1, -3), kernel_size=(1, 3), padding=(0, 1))
    z = F.conv1d(neighbours.transpose(-1, -2), weight, groups=12)
    expected = x * torch.sigmoid(z)[:, :, :, None]
    assert (module(x) - expected).abs().max() < 1e-6


def test_cbam_is_the_reference_layer():
    """Keys of the reference code: ChannelGate.mlp.1, .3 and SpatialGate.spatial.conv, .bn."""
    c, r = 32, 8
    state = {
        "ChannelGate.mlp.1.weight": torch.randn(c // r, c) / 4,
        "ChannelGate.mlp.1.bias": torch.randn(c // r),
        "ChannelGate.mlp.3.weight": torch.randn(c, c // r) / 2,
        "ChannelGate.mlp.3.bias": torch.randn(c),
        "SpatialGate.spatial.conv.weight": torch.randn(1, 2, 7, 7) / 5,
        "SpatialGate.spatial.bn.weight": torch.rand(1) + 0.5,
        "SpatialGate.spatial.bn.bias": torch.randn(1),
        "SpatialGate.spatial.bn.running_mean": torch.randn(1) / 10,
        "SpatialGate.spatial.bn.running_var": torch.rand(1) + 0.5,
        "SpatialGate.spatial.bn.num_batches_tracked": torch.tensor(1),
    }
    module = made("cbam", channels=c, reduction=r)
    names = {
        "ChannelGate.mlp.1.": "channel.excite.fc1.",
        "ChannelGate.mlp.3.": "channel.excite.fc2.",
        "SpatialGate.spatial.conv.": "spatial.excite.conv.",
        "SpatialGate.spatial.bn.": "spatial.excite.norm.",
    }
    module.load_state_dict(
        {next(b + k.removeprefix(a) for a, b in names.items() if k.startswith(a)): v for k, v in state.items()}
    )
    x = torch.randn(2, c, 9, 7)

    def mlp(y: Tensor) -> Tensor:
        first = F.linear(y, state["ChannelGate.mlp.1.weight"], state["ChannelGate.mlp.1.bias"]).relu()
        return F.linear(first, state["ChannelGate.mlp.3.weight"], state["ChannelGate.mlp.3.bias"])

    gate = torch.sigmoid(mlp(x.mean((2, 3))) + mlp(x.amax((2, 3))))
    inner = x * gate[:, :, None, None]
    squeezed = torch.cat([inner.max(1)[0][:, None], inner.mean(1)[:, None]], 1)
    maps = F.conv2d(squeezed, state["SpatialGate.spatial.conv.weight"], padding=3)
    start = "SpatialGate.spatial.bn."
    maps = F.batch_norm(
        maps, *(state[start + name] for name in ("running_mean", "running_var", "weight", "bias")), eps=1e-5
    )
    assert (module(x) - inner * torch.sigmoid(maps)).abs().max() < 1e-6
    assert torch.sigmoid(maps).std() > 0.02


def test_gsop_is_the_authors_layers():
    """Covariance as X·(I/M − 11ᵀ/M²)·Xᵀ, then the layers in their order, written out."""
    module = made("gsop", channels=16, reduced=8, stride=2)
    x = torch.randn(2, 16, 10, 6)
    squeeze, excite = module.squeeze, module.excite
    maps = F.conv2d(x.relu(), squeeze.conv.weight, squeeze.conv.bias, stride=2)
    norm = squeeze.norm
    maps = F.batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu().flatten(2)
    m = maps.shape[2]
    centring = (torch.eye(m) - torch.ones(m, m) / m) / m
    covariance = maps @ centring @ maps.transpose(1, 2)
    norm = excite.norm
    rows = F.batch_norm(covariance[..., None], norm.running_mean, norm.running_var, norm.weight, norm.bias)
    four = torch.einsum("nrk,rfk->nrf", rows[..., 0], excite.rows.weight.reshape(8, 4, 8)).flatten(1)
    four = four + excite.rows.bias
    z = four @ excite.conv.weight[:, :, 0, 0].T + excite.conv.bias
    expected = x * torch.sigmoid(z)[:, :, None, None]
    assert (module(x) - expected).abs().max() < 1e-5
    torch.testing.assert_close(covariance[0], torch.cov(maps[0], correction=0))


@pytest.mark.parametrize("variant", ["ge-theta", "ge-theta-plus"])
def test_gather_excite_over_the_whole_map(variant):
    """Against functions and the weights: a depth-wise kernel as large as the map, BN, and the two 1×1 convolutions."""
    module = made(variant, channels=32, side=(6, 5))
    state = module.state_dict()
    x = torch.randn(3, 32, 6, 5)
    kernel = state["squeeze.0.weight"]
    assert kernel.shape == (32, 1, 6, 5)
    gathered = (x * kernel[:, 0]).sum(dim=(2, 3))
    norm = {key: state[f"squeeze.1.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
    y = (gathered - norm["running_mean"]) / (norm["running_var"] + 1e-5).sqrt() * norm["weight"] + norm["bias"]
    z = y
    if variant == "ge-theta-plus":
        w1, b1, w2, b2 = (state[f"excite.{layer}.{key}"] for layer in (1, 3) for key in ("weight", "bias"))
        z = F.linear(F.linear(y.relu(), w1.flatten(1), b1).relu(), w2.flatten(1), b2)
    expected = x * torch.sigmoid(z)[:, :, None, None]
    torch.testing.assert_close(module(x), expected)
    assert torch.sigmoid(z).std() > 0.01


@pytest.mark.parametrize("shape", [(7, 7), (3, 3), (5, 6)])
def test_gather_excite_over_the_whole_map_refuses_another_map(shape):
    with pytest.raises(ValueError, match=rf"was made for maps of 5×5, got {shape[0]}×{shape[1]}"):
        made("ge-theta", side=5)(torch.randn(1, 32, *shape))


@pytest.mark.parametrize("extent", [2, 4, 8])
def test_gather_excite_gathers_depth_wise_with_stride_two(extent):
    """θ with an extent, against functions and the weights: 3×3, stride 2, padded by 1, a kernel for each channel."""
    module = made("ge-theta", channels=8, extent=extent)
    state = module.state_dict()
    x = torch.randn(2, 8, 13, 10)
    maps, count = x, {2: 1, 4: 2, 8: 3}[extent]
    for i in range(count):
        maps = F.conv2d(maps, state[f"squeeze.{3 * i}.weight"], stride=2, padding=1, groups=8)
        keys = ("running_mean", "running_var", "weight", "bias")
        maps = F.batch_norm(maps, *(state[f"squeeze.{3 * i + 1}.{key}"] for key in keys))
        maps = maps.relu() if i < count - 1 else maps
    torch.testing.assert_close(module(x), x * F.interpolate(torch.sigmoid(maps), size=(13, 10)))


@pytest.mark.parametrize("extent", [2, 4, 8])
@pytest.mark.parametrize("variant", ["ge-theta-minus", "ge-theta", "ge-theta-plus"])
def test_gather_excite_with_an_extent(variant, extent):
    """Against the layers written out; a map that the extent does not divide is brought back to its own size."""
    module = made(variant, channels=32, extent=extent)
    x = torch.randn(2, 32, 13, 10)
    if variant == "ge-theta-minus":
        kernel = 2 * extent - 1
        maps = F.avg_pool2d(x, kernel, extent, kernel // 2, count_include_pad=False)
    else:
        maps, layers = x, list(module.squeeze)
        for i, layer in enumerate(layers):
            assert isinstance(layer, (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)[i % 3])
            maps = layer(maps)
        assert len(layers) == 3 * {2: 1, 4: 2, 8: 3}[extent] - 1
    if variant == "ge-theta-plus":
        _, first, _, second = module.excite
        maps = second(first(maps.relu()).relu())
    gate = F.interpolate(torch.sigmoid(maps), size=(13, 10), mode="nearest")
    torch.testing.assert_close(module(x), x * gate)
    assert gate.std() > 0.01


# ---------------------------------------------------------------------------------------------------- all of the family


@pytest.mark.parametrize(
    ("name", "options"), [(name, {}) for name in NAMES] + [(f"ge-theta{end}", {"extent": 4}) for end in ("", "-plus")]
)
def test_gradients_reach_every_parameter(name, options):
    """With fixed norms: behind a norm that follows its batch, a bias has no effect at all."""
    module = made(name, **options)
    x = torch.randn(4, 32, 7, 7, requires_grad=True)
    module(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 1e-3, key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (7, 5)])
def test_small_and_oblong_maps(name, shape):
    module = made(name, side=shape)
    out = module(torch.randn(2, 32, *shape))
    assert out.shape == (2, 32, *shape)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_and_channels_last(name, dtype):
    module = made(name)
    x = torch.randn(2, 32, 7, 7)
    expected = module(x)
    last = module(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
    found = module.to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    tolerance = {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 1e-4}[dtype]
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gates_are_captured_and_proven_in_half_precision(name, dtype):
    module = made(name)
    x = torch.randn(3, 32, 7, 7)
    with torch.no_grad(), ecaviz.capture(nn.Sequential(module)) as gates:
        module(x)
    expected = {key: record.gate for key, record in gates.items()}
    half = made(name).to(dtype)
    with torch.no_grad(), ecaviz.capture(nn.Sequential(half)) as gates:
        half(x.to(dtype))
    for key, record in gates.items():
        assert record.site.proof.holds
        assert record.site.proof.dtype == str(dtype).removeprefix("torch.")
        assert record.gate.dtype == torch.float32
        torch.testing.assert_close(record.gate, expected[key], rtol=0.1, atol=0.05)


def test_a_c_that_r_does_not_divide_is_rounded_down():
    """⌊C/r⌋ hidden units, in all three bottlenecks."""
    for name, layer in (("se", "excite.fc1"), ("cbam", "channel.excite.fc1"), ("ge-theta-plus", "excite.1")):
        module = made(name, channels=100, reduction=16)
        assert module.get_submodule(layer).weight.shape[0] == 6
        assert module(torch.randn(1, 100, 7, 7)).shape == (1, 100, 7, 7)


def test_weights_of_cbam_under_their_first_names_load():
    module = made("cbam")
    state = {key.replace("spatial.excite.", "spatial."): value for key, value in module.state_dict().items()}
    other = attention.build("cbam", 32).eval()
    other.load_state_dict(state)
    x = torch.randn(2, 32, 7, 7)
    assert torch.equal(other(x), module(x))


def test_options_by_stage():
    net = networks.resnet(18, "eca", classes=3, kernel_size=(1, 3, 5, 7))
    assert [site.kernel_size for site in ecaviz.find_sites(net)] == [1, 1, 3, 3, 5, 5, 7, 7]
    with pytest.raises(
        ValueError, match=r"kernel_size by stage needs four values, one for each stage, got \(3, 5, 5\)"
    ):
        networks.resnet(18, "eca", kernel_size=(3, 5, 5))
    with pytest.raises(ValueError, match=r"size by stage needs four values"):
        networks.resnet(18, "ge-theta", size=(16, 8, 4))
    with pytest.raises(ValueError, match="options by stage need stages of different widths"):
        networks.build(networks.Architecture("eca", {"kernel_size": (1, 3, 5, 7)}, planes=(4, 4, 8, 8)))


@pytest.mark.parametrize("name", NAMES)
def test_the_device_and_the_dtype_are_passed_on(name):
    options = {"size": 7} if name in SIZED else {}
    module = attention.build(name, 32, device="meta", dtype=torch.float64, **options)
    assert all(p.is_meta and p.dtype == torch.float64 for p in module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_capture_reads_and_proves_the_gate(name):
    module = made(name)
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), module)
    site, *rest = ecaviz.find_sites(net)
    assert len(rest) == (name == "cbam")  # its spatial stage
    assert (site.channels, site.per) == (32, "channel")
    assert site.family == ("se-gc" if name.startswith("se-gc") else name)
    x = torch.randn(5, 3, 7, 7)
    with torch.no_grad(), ecaviz.capture(net) as gates:
        net(x)
    record = gates[site.name]
    assert record.gate.shape == (5, 32)
    assert record.by_channel is record.gate
    assert record.gate.std() > 1e-3
    assert record.site.proof.holds
    assert record.descriptor.shape[1:] == {"cbam": (2, 32), "gsop": (8, 8)}.get(name, (32,))
    torch.testing.assert_close(site.excite(record.descriptor).detach(), record.logit, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("extent", [2, 4, 8])
@pytest.mark.parametrize("name", ["ge-theta-minus", "ge-theta", "ge-theta-plus"])
def test_capture_reads_gates_of_patches(name, extent):
    """Against the module's own parts, and the proof against its output; 13×10 is no multiple of the extent."""
    module = made(name, extent=extent)
    x = torch.randn(3, 32, 13, 10)
    with torch.no_grad(), ecaviz.capture(nn.Sequential(module)) as gates:
        out = module(x)
    record = gates["0"]
    site = record.site
    assert (site.per, site.extent, site.setting, site.channels) == ("element", extent, f"e={extent}", 32)
    assert site.proof.holds
    with torch.no_grad():
        y = module.squeeze(x)
        z = module.excite(y)
        size = -(-13 // extent), -(-10 // extent)
        assert record.gate.shape == (3, 32, *size)
        assert record.gate.std() > 0.01
        torch.testing.assert_close(record.descriptor, y)
        torch.testing.assert_close(site.excite(record.descriptor), z)
    torch.testing.assert_close(record.logit, z)
    torch.testing.assert_close(record.gate, torch.sigmoid(z))
    torch.testing.assert_close(record.by_channel, torch.sigmoid(z).flatten(2).mean(2))
    torch.testing.assert_close(out, x * F.interpolate(record.gate, size=(13, 10)))


def test_capture_reads_cbams_spatial_map():
    """The map that the second stage makes of what the first has gated, written out."""
    module = made("cbam")
    x = torch.randn(3, 32, 9, 7)
    with torch.no_grad(), ecaviz.capture(nn.Sequential(module)) as gates:
        out = module(x)
        channel, spatial = gates["0.channel"], gates["0.spatial"]
        inner = x * channel.gate[:, :, None, None]
        both = torch.stack([inner.max(dim=1)[0], inner.mean(dim=1)], dim=1)
    assert (spatial.site.per, spatial.site.family, spatial.site.channels) == ("position", "cbam", None)
    assert ecaviz.find_sites(module)[1].channels == 32  # known once it has run
    assert spatial.gate.shape == (3, 1, 9, 7)
    assert spatial.gate.std() > 0.01
    torch.testing.assert_close(spatial.descriptor, both)
    torch.testing.assert_close(spatial.site.excite(both).detach(), spatial.logit)
    torch.testing.assert_close(out, inner * spatial.gate)
    assert spatial.site.proof.holds
    assert "3 images × 1×9×7 (one map for all channels)" in repr(spatial)
    with pytest.raises(ValueError, match=r"0\.spatial: its gates are of positions"):
        _ = spatial.by_channel


def test_a_spatial_gate_that_lies_fails_its_proof():
    module = made("cbam")
    module.spatial.register_forward_hook(lambda _m, _a, out: out * 1.1)
    with pytest.raises(RuntimeError, match=r"spatial failed its proof"), ecaviz.capture(module):
        module(torch.randn(2, 32, 7, 7))


def test_maps_of_different_sizes_are_not_joined():
    module = made("ge-theta", extent=2)
    with torch.no_grad(), ecaviz.capture(nn.Sequential(module)) as gates:
        module(torch.randn(1, 32, 8, 8))
        module(torch.randn(1, 32, 6, 6))
    with pytest.raises(ValueError, match=r"maps of different sizes, \(32, 3, 3\), \(32, 4, 4\)"):
        _ = gates["0"]


def test_profiles_of_what_is_not_one_number_a_channel(tmp_path):
    """Patches: the mean over them. Positions: left out, and refused by name."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), made("ge-theta", extent=2), made("cbam"), nn.Flatten()).eval()
    model = ecaviz.load(net, transform=lambda image: image.float() / 255)
    images = torch.randn(10, 3, 8, 8)
    profile = ecaviz.profile(model, images, batch_size=4, progress=False)
    assert list(profile.sites) == ["1", "2.channel"]
    assert [site.per for site in profile.sites.values()] == ["element", "channel"]
    with torch.no_grad(), ecaviz.capture(net, "1") as gates:
        net(images)
    torch.testing.assert_close(profile.mean("1")[0].float(), gates["1"].gate.mean(dim=(0, 2, 3)))
    again = ecaviz.AttentionProfile.load(profile.save(tmp_path / "a.profile"))
    assert again["1"].per == "element"
    with pytest.raises(ValueError, match=r"2\.spatial: a gate of positions.*ecaviz\.capture reads its map"):
        ecaviz.profile(model, images, sites="2.spatial", progress=False)
    only = ecaviz.load(nn.Sequential(nn.Conv2d(3, 32, 3), made("cbam").spatial), transform=lambda image: image.float())
    with pytest.raises(ValueError, match=r"no site matches"):
        ecaviz.profile(only, images, progress=False)


@pytest.mark.parametrize(
    ("name", "channels", "options", "message"),
    [
        ("se-gc1", 40, {}, r"C = 40 channels cannot be divided evenly by groups = 16"),
        ("se-gc2", 40, {}, r"C = 40 channels cannot be divided evenly by group_size = 16"),
        ("cbam", 8, {}, r"CBAM: reduction r = 16 leaves no hidden unit for C = 8"),
        ("ge-theta", 8, {}, r"ge-theta with the global extent has a kernel as large as the map; give its size="),
        ("ge-theta", 8, {"extent": 3}, r"extent must be 2, 4, 8, or None"),
        ("ge-theta-plus", 8, {"extent": 2}, r"reduction r = 16 leaves no hidden unit"),
        ("eca-ns", 8, {"kernel_size": 4}, r"ECANS: kernel_size must be an odd whole number"),
        ("gsop", 8, {"reduced": 0}, r"GSoP: reduced must be a whole number of at least 1"),
    ],
)
def test_what_does_not_fit_is_said(name, channels, options, message):
    with pytest.raises(ValueError, match=message):
        attention.build(name, channels, **options)


def test_bad_input_to_the_groups():
    with pytest.raises(ValueError, match=r"give either groups or group_size"):
        attention.SEGC(32)
    with pytest.raises(ValueError, match=r"expected N×32×H×W, got 2×16×7×7"):
        made("ge-theta")(torch.randn(2, 16, 7, 7))


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_as_on_the_cpu(name):
    """Capture with its proof, the interaction matrix where there is one, and the influence."""
    x = torch.randn(3, 32, 7, 7)
    seen = []
    for device in ("cpu", "cuda"):
        module = made(name).to(device)
        net = nn.Sequential(module)
        with torch.no_grad(), ecaviz.capture(net) as gates:
            net(x.to(device))
        assert all(record.site.proof.holds for record in gates.values())
        (site,) = (one for one in ecaviz.find_sites(net) if one.per == "channel")
        found = [record.gate.cpu() for record in gates.values()]
        found.append(module_influence(module, x.to(device)).matrix)
        if site.family in ecaviz.interaction.COVERED:
            found.append(ecaviz.interaction_matrix(net, site.name).matrix)
        seen.append(found)
    for cpu, cuda in zip(*seen, strict=True):
        torch.testing.assert_close(cuda, cpu, rtol=1e-3, atol=1e-4)
