"""The modules against autograd, PyTorch's own layers, and published counts."""

import math

import pytest
import torch
from torch import nn

from ecaviz import attention
from ecaviz.attention import ECA, SE, adaptive_kernel_size

MODULES = [
    ("se", {"reduction": 4}),
    ("se", {"reduction": 4, "bias": True}),
    ("eca", {"kernel_size": 1}),
    ("eca", {"kernel_size": 5}),
    ("eca", {"kernel_size": 5, "padding": "circular"}),
    ("eca", {}),
]


@pytest.mark.parametrize(("name", "options"), MODULES)
def test_forward_is_squeeze_excite_activate_scale(name, options):
    torch.manual_seed(0)
    module = attention.build(name, channels=16, **options)
    x = torch.randn(3, 16, 5, 7)
    y = module.squeeze(x)
    torch.testing.assert_close(y, nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
    gate = module.activation(module.excite(y))
    assert gate.shape == (3, 16)
    assert 0 < gate.min() < gate.max() < 1
    torch.testing.assert_close(module(x), torch.einsum("nchw,nc->nchw", x, gate))


@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_eca_is_a_sum_over_neighbours(k, padding):
    torch.manual_seed(k)
    module = ECA(10, k, padding=padding)
    y = torch.randn(2, 10)
    w, reach = module.excite.conv.weight.flatten(), (k - 1) // 2
    expected = torch.zeros(2, 10)
    for i in range(10):
        for j in range(k):
            neighbour = i + j - reach
            if padding == "circular":
                expected[:, i] += w[j] * y[:, neighbour % 10]
            elif 0 <= neighbour < 10:
                expected[:, i] += w[j] * y[:, neighbour]
    torch.testing.assert_close(module.excite(y), expected)


def test_se_is_two_layers_with_a_relu():
    module = SE(12, 3)
    w1, w2 = module.excite.fc1.weight, module.excite.fc2.weight
    assert w1.shape == (4, 12)
    assert w2.shape == (12, 4)
    assert module.excite.fc1.bias is None
    y = torch.randn(5, 12)
    torch.testing.assert_close(module.excite(y), (y @ w1.T).clamp_min(0) @ w2.T)


@pytest.mark.parametrize(("name", "options"), MODULES)
def test_gradients_agree_with_finite_differences(name, options):
    torch.manual_seed(1)
    module = attention.build(name, channels=8, **options, dtype=torch.float64)
    x = torch.randn(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))


@pytest.mark.parametrize(
    ("channels", "published"), [(64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7), (8, 3), (16, 3), (32, 3)]
)
def test_adaptive_rule_on_published_widths(channels, published):
    """ECA-Net's Figure 3 code and timm agree here; 8, 128 and 2048 are ties of the formula, rounded up."""
    assert adaptive_kernel_size(channels) == published


def test_adaptive_rule_is_the_papers_code():
    for channels in range(1, 3000):
        t = int(abs((math.log(channels, 2) + 1) / 2))
        assert adaptive_kernel_size(channels) == (t if t % 2 else t + 1), channels
    assert [adaptive_kernel_size(4), adaptive_kernel_size(4, minimum=3)] == [1, 3]
    assert adaptive_kernel_size(256, gamma=1, b=1) == 9
    assert ECA(2048).kernel_size == 7


def test_adaptive_rule_is_timms_from_eight_channels_on():
    from timm.layers import EcaModule

    for channels in (8, 24, 64, 96, 128, 256, 960, 2048):
        assert EcaModule(channels).conv.kernel_size == (adaptive_kernel_size(channels, minimum=3),)


@pytest.mark.parametrize("k", [0, 2, 4, -3, 2.5, True, float("nan"), "3"])
def test_even_or_negative_kernel_size(k):
    with pytest.raises(ValueError, match=r"odd whole number of at least 1.*got"):
        ECA(16, k)


@pytest.mark.parametrize("k", [2, 4, 0])
def test_the_convolution_alone_takes_no_even_kernel_size(k):
    with pytest.raises(ValueError, match=rf"ChannelConv: kernel_size must be an odd whole number.*got {k}"):
        attention.ChannelConv(k)


def test_circular_padding_goes_round_once_at_most():
    with pytest.raises(ValueError, match=r"ECA: circular padding by 5 goes round C = 4 channels.*Use k ≤ 9"):
        ECA(channels=4, kernel_size=11, padding="circular")
    assert ECA(channels=4, kernel_size=11).kernel_size == 11  # zeros know no limit


@pytest.mark.parametrize(("channels", "k"), [(4, 3), (4, 7), (4, 9), (3, 7), (1, 1), (1, 3)])
def test_circular_padding_of_few_channels_is_timms(channels, k):
    from timm.layers import CecaModule

    torch.manual_seed(channels)
    ours, theirs = ECA(channels, k, padding="circular"), CecaModule(kernel_size=k)  # with a C timm takes the rule's k
    theirs.conv.weight.data.copy_(nn.init.uniform_(ours.excite.conv.weight, 2, 4))
    x = torch.randn(6, channels, 5, 5)
    assert ours.activation(ours.excite(ours.squeeze(x))).std() > 0.01
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("options", "message"), [({"reduction": 0}, "at least 1"), ({"reduction": 32}, "no hidden unit")]
)
def test_reduction_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SE(16, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: adaptive_kernel_size(0),
            "^adaptive_kernel_size: channels must be a whole number of at least 1, got 0",
        ),
        (lambda: adaptive_kernel_size(8, gamma=0), "^adaptive_kernel_size: gamma must be positive, got 0"),
        (
            lambda: adaptive_kernel_size(8, minimum=2),
            "^adaptive_kernel_size: minimum must be an odd whole number.*got 2",
        ),
        (lambda: attention.ChannelConv(2), "^ChannelConv: kernel_size must be an odd whole number.*got 2"),
        (lambda: ECA(0), "^ECA: channels must be a whole number of at least 1, got 0"),
        (lambda: ECA(16, 2), "^ECA: kernel_size must be an odd whole number.*got 2"),
        (lambda: ECA(16, 3, padding="mirror"), '^ECA: padding must be "zeros" or "circular", got .mirror'),
        (lambda: attention.ECANS(16, 2), "^ECANS: kernel_size must be an odd whole number.*got 2"),
        (lambda: SE(16, 0), "^SE: reduction must be a whole number of at least 1, got 0"),
        (lambda: SE(16, 32), "^SE: reduction r = 32 leaves no hidden unit for C = 16"),
        (lambda: SE(16, hidden=0), "^SE: hidden must be a whole number of at least 1, got 0"),
        (lambda: attention.SEGC(16), "^SEGC: give either groups or group_size, got groups=None, group_size=None"),
        (lambda: attention.SEGC(16, 2, group_size=2), "^SEGC: give either .*, got groups=2, group_size=2"),
        (lambda: attention.SEGC(16, 0), "^SEGC: groups must be a whole number of at least 1, got 0"),
        (lambda: attention.SEGC(16, group_size=0), "^SEGC: group_size must be a whole number of at least 1, got 0"),
        (
            lambda: attention.SEGC(16, group_size=3),
            r"^SEGC: C = 16 channels cannot be divided evenly by group_size = 3. Use a divisor of 16\.$",
        ),
        (lambda: attention.build("sse", 16), r"^attention: no module is called 'sse'. Known: none, se, se-var1, "),
        (lambda: ECA(16, 3)(torch.zeros(16, 16, 16)), "^ECA: expected N×16×H×W, got 16×16×16"),
        (lambda: ECA(16, 3)(torch.zeros(2, 8, 16, 4)), "^ECA: expected N×16×H×W, got 2×8×16×4"),
    ],
)
def test_an_error_says_who_was_asked_what_came_and_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", [name for name in attention.FAMILIES if name != "none"])
def test_weights_are_of_the_device_and_dtype_asked_for(name):
    options = {"size": 7} if name in ("ge-theta", "ge-theta-plus") else {}
    for more in ({}, {"bias": True}) if name == "se" else ({},):
        module = attention.build(name, 32, device="meta", dtype=torch.float64, **options, **more)
        state = [value for value in module.state_dict().values() if value.is_floating_point()]
        assert all(value.device.type == "meta" and value.dtype == torch.float64 for value in state)
        assert bool(state) == (name not in ("se-var1", "ge-theta-minus"))


def test_what_is_not_asked_for_is_as_documented():
    assert SE(64).excite.fc1.weight.shape == (4, 64)  # r = 16
    assert SE(33).excite.fc1.weight.shape == (2, 33)
    assert (SE(64).reduction, SE(64, hidden=5).reduction) == (16, 12.8)
    assert SE(64).excite.fc1.bias is SE(64).excite.fc2.bias is None
    assert attention.Bottleneck(6, 2).fc1.bias is attention.Bottleneck(6, 2).fc2.bias is None
    for module in (ECA(2048), attention.ECANS(2048)):
        assert module.kernel_size == adaptive_kernel_size(2048) == 7
        assert module.excite.conv.weight.shape[-1] == 7
    assert adaptive_kernel_size(64, gamma=0.5) == 15  # |6 + 1| / 0.5 = 14
    y, left = torch.randn(3, 5), torch.tensor([1.0, 0, 0])
    conv = attention.ChannelConv(3)
    conv.load_state_dict({"conv.weight": left[None, None]})
    for z in (attention.channel_conv(y, left), conv(y)):  # nothing lies beyond the ends
        assert torch.equal(z, nn.functional.pad(y[:, :-1], (1, 0)))


def test_one_weight_a_channel_is_drawn_as_pytorch_draws_a_layer_with_one_input():
    torch.manual_seed(0)
    ours = attention.build("se-var2", 20000).excite.weight.detach()
    theirs = nn.Linear(1, 20000, bias=False).weight.detach()
    for weight in (ours, theirs):
        assert -1 <= weight.min() < -0.99
        assert 0.99 < weight.max() <= 1
        assert abs(weight.mean()) < 0.02


def test_other_bad_input():
    with pytest.raises(ValueError, match=r"no module is called 'sse'. Known: none, se, se-var1, .*, eca, eca-ns, cbam"):
        attention.build("sse", 16)
    with pytest.raises(ValueError, match="zeros"):
        ECA(16, 3, padding="mirror")
    with pytest.raises(ValueError, match=r"ECA: expected N×16×H×W, got 2×8×4×4"):
        ECA(16, 3)(torch.zeros(2, 8, 4, 4))
    for call in (lambda: adaptive_kernel_size(0), lambda: adaptive_kernel_size(8, gamma=0), lambda: ECA(0, 3)):
        with pytest.raises(ValueError, match="must be"):
            call()


def test_none_is_the_identity():
    x = torch.randn(1, 4, 2, 2)
    assert attention.build("none", 4)(x) is x
    assert attention.layer("none") is None


def test_published_parameters_of_whole_networks():
    """timm's ResNet-50 with our modules, against the counts of the official code: +80 for k = 3, 5, 5, 7; SE r = 16."""
    from timm.models.resnet import Bottleneck, ResNet

    def count(layer):
        with torch.device("meta"):
            net = ResNet(Bottleneck, (3, 4, 6, 3), block_args={"attn_layer": layer}, zero_init_last=False)
        return sum(p.numel() for p in net.parameters())

    plain = count(None)
    assert plain == 25_557_032
    assert count(attention.layer("se", reduction=16)) == 28_071_976
    released = {256: 3, 512: 5, 1024: 5, 2048: 7}
    assert count(lambda c, **kw: ECA(c, released[c], **kw)) - plain == 3 * 3 + 4 * 5 + 6 * 5 + 3 * 7
    assert count(attention.layer("eca")) - plain == 3 * 5 + 4 * 5 + 6 * 5 + 3 * 7  # the rule on the gate widths
