"""Channel gates as other people write them; each gate also by hand, from x alone.

Written for these tests from lists of layers. ``GATES`` says of each style how it is made, its gate and its logit
computed without calling it, and what the library is to find.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

C, R, K = 16, 4, 3
SIZE = 7
"""Channels, reduction, kernel size and side of the maps of the zoo."""


# ------------------------------------------------------------------------------------------------------------- by hand


def mean(x: Tensor) -> Tensor:
    return x.sum(dim=(2, 3)) / (x.shape[2] * x.shape[3])


def highest(x: Tensor) -> Tensor:
    return x.flatten(2).max(dim=2)[0]


def deviation(x: Tensor) -> Tensor:
    return ((x - mean(x)[:, :, None, None]) ** 2).sum(dim=(2, 3)).div(x.shape[2] * x.shape[3]).sqrt()


def line(y: Tensor, layer: nn.Module) -> Tensor:
    """W·y + b, for a linear layer or a 1×1 convolution."""
    z = y @ layer.weight.flatten(1).T
    return z if layer.bias is None else z + layer.bias


def two(y: Tensor, first: nn.Module, last: nn.Module) -> Tensor:
    return line(line(y, first).clamp(min=0), last)


def normed(y: Tensor, norm: nn.Module) -> Tensor:
    return (y - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def neighbours(y: Tensor, kernel: Tensor, circular: bool = False) -> Tensor:
    k, c = len(kernel), y.shape[1]
    z = torch.zeros_like(y)
    for i in range(c):
        for j in range(k):
            at = i + j - (k - 1) // 2
            if circular or 0 <= at < c:
                z[:, i] += kernel[j] * y[:, at % c]
    return z


def soft(z: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-z))


def hard(z: Tensor) -> Tensor:
    return ((z + 3) / 6).clamp(0, 1)


# -------------------------------------------------------------------------------------------------------------- gates


def over(gate: Tensor) -> Tensor:
    return gate.reshape(*gate.shape[:2], 1, 1)


class SELayer(nn.Module):
    """As in moskomule's repository, and in hundreds after it."""

    def __init__(self):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(C, C // R, bias=False), nn.ReLU(inplace=True), nn.Linear(C // R, C, bias=False), nn.Sigmoid()
        )

    def forward(self, x):
        n, c, _, _ = x.shape
        return x * self.fc(self.avg_pool(x).view(n, c)).view(n, c, 1, 1).expand_as(x)


class Excited(SELayer):
    """The same under another name."""


def official_eca() -> nn.Module:
    class eca_layer(nn.Module):  # noqa: N801 - its name
        def __init__(self):
            super().__init__()
            self.avg_pool = nn.AdaptiveAvgPool2d(1)
            self.conv = nn.Conv1d(1, 1, K, padding=(K - 1) // 2, bias=False)
            self.sigmoid = nn.Sigmoid()

        def forward(self, x):
            y = self.conv(self.avg_pool(x).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
            return x * self.sigmoid(y).expand_as(x)

    return eca_layer()


def official_eca_ns() -> nn.Module:
    class eca_layer(nn.Module):  # noqa: N801 - its name
        def __init__(self):
            super().__init__()
            self.avg_pool = nn.AdaptiveAvgPool2d(1)
            self.conv = nn.Conv1d(C, C, K, groups=C, bias=False)
            self.sigmoid = nn.Sigmoid()

        def forward(self, x):
            y = F.unfold(self.avg_pool(x).transpose(-1, -3), kernel_size=(1, K), padding=(0, (K - 1) // 2))
            return x * self.sigmoid(self.conv(y.transpose(-1, -2)).unsqueeze(-1)).expand_as(x)

    return eca_layer()


class ConvSE(nn.Module):
    """Pool, 1×1 convolutions and sigmoid in one Sequential; the activation and the sigmoid are to choose."""

    def __init__(self, act=nn.ReLU, gate=nn.Sigmoid, bias=True):
        super().__init__()
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(C, C // R, 1, bias=bias),
            act(),
            nn.Conv2d(C // R, C, 1, bias=bias),
            gate(),
        )

    def forward(self, x):
        return x * self.body(x)


class Attributes(nn.Module):
    """Each layer an attribute."""

    def __init__(self):
        super().__init__()
        self.down, self.relu = nn.Linear(C, C // R), nn.ReLU(inplace=True)
        self.up, self.sig = nn.Linear(C // R, C), nn.Sigmoid()

    def forward(self, x):
        y = torch.mean(x, dim=[2, 3])
        return torch.mul(x, self.sig(self.up(self.relu(self.down(y)))).unsqueeze(2).unsqueeze(3))


class Functional(nn.Module):
    """Layers as attributes, all else as functions; ``finish`` makes the gate of the logit."""

    def __init__(self, finish=torch.sigmoid, squeeze=mean):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(C, C // R), nn.Linear(C // R, C)
        self.finish, self.squeeze = finish, squeeze

    def forward(self, x):
        return x * over(self.finish(self.fc2(F.relu(self.fc1(self.squeeze(x))))))


class HSigmoid(nn.Module):
    """The hard sigmoid of the MobileNetV3 copies."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU6(inplace=True)

    def forward(self, x):
        return self.relu(x + 3) / 6


class Shifted(nn.Module):
    """lc0's: one layer gives the logit and β."""

    def __init__(self, module: bool, first: bool = True):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(C, C // R), nn.ReLU(), nn.Linear(C // R, 2 * C)
        self.sigmoid = nn.Sigmoid() if module else torch.sigmoid
        self.first = first

    def forward(self, x):
        a, b = self.fc2(self.act(self.fc1(F.adaptive_avg_pool2d(x, 1).flatten(1)))).chunk(2, dim=1)
        z, beta = (a, b) if self.first else (b, a)
        return over(self.sigmoid(z)) * x + over(beta)

    def both(self, x):
        a, b = two(mean(x), self.fc1, self.fc2).split(C, dim=1)
        return (a, b) if self.first else (b, a)


class Deviation(nn.Module):
    """Squeezes by the standard deviation."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(C, C // R), nn.ReLU(), nn.Linear(C // R, C), nn.Sigmoid())

    def forward(self, x):
        return x * over(self.net(x.std(dim=(2, 3), unbiased=False)))


class ChannelGate(nn.Module):
    """As in CBAM's reference: one MLP called for each pool, their sum through a functional sigmoid."""

    def __init__(self, pools=("avg", "max")):
        super().__init__()
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(C, C // R), nn.ReLU(), nn.Linear(C // R, C))
        self.pools = pools

    def forward(self, x):
        size = x.shape[2:]
        pooled = {"avg": F.avg_pool2d(x, size), "max": F.max_pool2d(x, size), "lp": F.lp_pool2d(x, 2, size)}
        total = None
        for pool in self.pools:
            z = self.mlp(pooled[pool])
            total = z if total is None else total + z
        return x * F.sigmoid(total).unsqueeze(2).unsqueeze(3).expand_as(x)


class Q(nn.Module):
    """Names that say nothing, in a ModuleList, called by a keyword."""

    def __init__(self):
        super().__init__()
        self.m = nn.ModuleList([nn.Sigmoid(), nn.Conv2d(C // R, C, 1), nn.ReLU(), nn.Conv2d(C, C // R, 1)])

    def forward(self, t):
        s = t.mean(3).mean(2)[..., None, None]
        for i in (3, 2, 1, 0):
            s = self.m[i](s)
        return s * t


class Bare(nn.Module):
    """A matrix, no layer; ``finish`` makes the gate of the logit."""

    def __init__(self, finish):
        super().__init__()
        self.w = nn.Parameter(torch.randn(C, C) / 4)
        self.finish = finish

    def forward(self, x):
        return x * over(self.finish(mean(x) @ self.w))


class NoWeights(nn.Module):
    """SE-Var1: the sigmoid of the mean."""

    def forward(self, x):
        return x * x.mean(dim=(2, 3), keepdim=True).sigmoid()


class Wave(nn.Module):
    """ECA under another name, padded by the layer or around the end."""

    def __init__(self, circular=False):
        super().__init__()
        self.circular = circular
        self.filter = nn.Conv1d(1, 1, K, padding=0 if circular else K // 2, bias=False)

    def forward(self, x):
        y = x.mean(dim=(2, 3)).unsqueeze(1)
        if self.circular:
            y = F.pad(y, (K // 2, K // 2), mode="circular")
        return x * torch.sigmoid(self.filter(y)).transpose(1, 2).unsqueeze(3)


class Normed(nn.Module):
    """A norm between the layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(C, C // R, 1, bias=False), nn.BatchNorm2d(C // R), nn.ReLU(), nn.Conv2d(C // R, C, 1)
        )
        self.gate = nn.Sigmoid()

    def forward(self, x):
        return x * self.gate(self.layers(F.adaptive_avg_pool2d(x, 1)))

    def logit(self, x):
        conv, norm, _, last = self.layers
        return line(normed(line(mean(x), conv), norm).clamp(min=0), last)


class NormLast(nn.Module):
    """A norm after the last layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.bn = nn.Linear(C, C // R), nn.Linear(C // R, C), nn.BatchNorm1d(C)

    def forward(self, x):
        return x * torch.sigmoid(self.bn(self.b(F.relu(self.a(mean(x))))))[:, :, None, None]


class OneLayer(nn.Module):
    """ "Effective" SE: one full layer and a hard sigmoid."""

    def __init__(self):
        super().__init__()
        self.fc, self.hsigmoid = nn.Conv2d(C, C, 1), nn.Hardsigmoid()

    def forward(self, x):
        return x * self.hsigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class GatherGlobal(nn.Module):
    """GE-θ: a depthwise convolution as large as the map."""

    def __init__(self):
        super().__init__()
        self.gather, self.norm = nn.Conv2d(C, C, SIZE, groups=C, bias=False), nn.BatchNorm2d(C)
        self.out = nn.Sigmoid()

    def forward(self, x):
        return x * self.out(self.norm(self.gather(x)))

    def logit(self, x):
        return normed((x * self.gather.weight[:, 0]).sum(dim=(2, 3)), self.norm)


class HalfSum(nn.Module):
    """The mean of mean and maximum, then one MLP."""

    def __init__(self):
        super().__init__()
        self.one, self.act, self.other = nn.Conv2d(C, C // R, 1), nn.GELU(), nn.Conv2d(C // R, C, 1)

    def forward(self, x):
        y = 0.5 * x.mean((2, 3), keepdim=True) + 0.5 * x.amax((2, 3), keepdim=True)
        return x * F.sigmoid(self.other(self.act(self.one(y))))

    def logit(self, x):
        return line(F.gelu(line((mean(x) + highest(x)) / 2, self.one)), self.other)


class InPlace(Attributes):
    """Multiplies its input in place."""

    def forward(self, x):
        return x.mul_(over(self.sig(self.up(self.relu(self.down(mean(x)))))))


class SharedSigmoid(nn.Module):
    """One sigmoid for the hidden layer, which is as wide as the last, and for the gate."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.s = nn.Linear(C, C), nn.Linear(C, C), nn.Sigmoid()

    def forward(self, x):
        return x * over(self.s(self.second(self.s(self.first(mean(x))))))


class GlobalContext(nn.Module):
    """Pools by a softmax over positions, then gates."""

    def __init__(self):
        super().__init__()
        self.look = nn.Conv2d(C, 1, 1)
        self.mlp = nn.Sequential(nn.Conv2d(C, C // R, 1), nn.ReLU(), nn.Conv2d(C // R, C, 1), nn.Sigmoid())

    def pooled(self, x):
        share = self.look(x).flatten(2).softmax(dim=-1)
        return torch.einsum("ncp,nop->nc", x.flatten(2), share)

    def forward(self, x):
        return x * self.mlp(over(self.pooled(x)))


class Covariance(nn.Module):
    """GSoP's: a convolution over the rows of the covariance of the channels."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Conv2d(C, 2 * C, (1, C), groups=C)
        self.last, self.sigmoid = nn.Conv2d(2 * C, C, 1), nn.Sigmoid()

    def covariance(self, x):
        away = x.flatten(2) - x.flatten(2).mean(dim=2, keepdim=True)
        return away @ away.transpose(1, 2) / away.shape[2]

    def forward(self, x):
        return x * self.sigmoid(self.last(F.leaky_relu(self.rows(self.covariance(x).unsqueeze(2)), 0.1)))

    def logit(self, x):
        made = torch.einsum("nij,iaj->nia", self.covariance(x), self.rows.weight[:, 0, 0].view(C, 2, C)).flatten(1)
        made = made + self.rows.bias
        return line(made.where(made > 0, 0.1 * made), self.last)


class Style(nn.Module):
    """Mean and deviation, two weights a channel, a norm."""

    def __init__(self):
        super().__init__()
        self.cfc, self.bn = nn.Conv1d(C, C, 2, groups=C, bias=False), nn.BatchNorm1d(C)

    def forward(self, x):
        u = torch.stack([x.mean((2, 3)), x.flatten(2).std(dim=2, unbiased=False)], dim=2)
        return x * torch.sigmoid(self.bn(self.cfc(u))).unsqueeze(3)

    def logit(self, x):
        w = self.cfc.weight[:, 0]
        return normed(w[:, 0] * mean(x) + w[:, 1] * deviation(x), self.bn)


class Dropping(nn.Module):
    """Dropout in the excitation, the activation in the middle of a longer Sequential."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Flatten(), nn.Linear(C, C // R), nn.PReLU(), nn.Dropout(0.5), nn.Linear(C // R, C), nn.Sigmoid()
        )

    def forward(self, x):
        return x * self.fc(F.adaptive_avg_pool2d(x, 1)).view(len(x), C, 1, 1)

    def logit(self, x):
        hidden = line(mean(x), self.fc[1])
        return line(hidden.where(hidden > 0, self.fc[2].weight * hidden), self.fc[4])


class Around(nn.Module):
    """A gate in a wrapper that does no more."""

    def __init__(self):
        super().__init__()
        self.inner = Functional()

    def forward(self, x):
        return self.inner(x)


class Grouped(nn.Module):
    """A matrix of four blocks: each gate sees its own group of channels."""

    def __init__(self):
        super().__init__()
        self.fc, self.sigmoid = nn.Conv2d(C, C, 1, groups=4), nn.Sigmoid()

    def forward(self, x):
        return x * self.sigmoid(self.fc(over(mean(x))))


class TwoActivations(nn.Module):
    """More stands between its two layers than an SE has."""

    def __init__(self):
        super().__init__()
        self.fc1, self.relu, self.tanh, self.fc2 = nn.Linear(C, C // R), nn.ReLU(), nn.Tanh(), nn.Linear(C // R, C)
        self.sigmoid = nn.Sigmoid()

    def logit(self, x):
        return self.fc2(self.tanh(self.relu(self.fc1(mean(x)))))

    def forward(self, x):
        return x * over(self.sigmoid(self.logit(x)))


class PaddedAfter(nn.Module):
    """A kernel along the channels that fits them without padding; the gates of the outermost are one half."""

    def __init__(self):
        super().__init__()
        self.conv, self.sigmoid = nn.Conv1d(1, 1, 3), nn.Sigmoid()

    def logit(self, x):
        return F.pad(self.conv(mean(x)[:, None])[:, 0], (1, 1))

    def forward(self, x):
        return x * over(self.sigmoid(self.logit(x)))


class TwoScales(nn.Module):
    """One kernel for the channels and for pairs of them."""

    def __init__(self):
        super().__init__()
        self.conv, self.sigmoid = nn.Conv1d(1, 1, 3, padding=1), nn.Sigmoid()

    def logit(self, x):
        y = mean(x)[:, None]
        return (self.conv(y) + self.conv(F.avg_pool1d(y, 2)).repeat_interleave(2, dim=2))[:, 0]

    def forward(self, x):
        return x * over(self.sigmoid(self.logit(x)))


class PooledMatrix(nn.Module):
    """The squeeze is a module, and what follows a matrix and no layer."""

    def __init__(self):
        super().__init__()
        self.pool, self.sigmoid = nn.AdaptiveAvgPool2d(1), nn.Sigmoid()
        self.w = nn.Parameter(torch.randn(C, C))

    def forward(self, x):
        return x * over(self.sigmoid(self.pool(x).flatten(1) @ self.w))


class Recurrent(nn.Module):
    """Runs along the channels; the part that does gives more than one tensor."""

    def __init__(self):
        super().__init__()
        self.run, self.line, self.sigmoid = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 1), nn.Sigmoid()
        with torch.no_grad():
            self.run.weight_ih_l0.mul_(9)

    def logit(self, x):
        return self.line(self.run(mean(x)[:, :, None])[0])[:, :, 0]

    def forward(self, x):
        return x * over(self.sigmoid(self.logit(x)))


class Tempered(nn.Module):
    """A sigmoid of one number an image sharpens what the next one is given."""

    def __init__(self):
        super().__init__()
        self.heat, self.fc = nn.Linear(C, 1), nn.Linear(C, C)

    def logit(self, x):
        return self.fc(mean(x)) * (1 + torch.sigmoid(self.heat(mean(x))))

    def forward(self, x):
        return x * over(torch.sigmoid(self.logit(x)))


class Factors(nn.Module):
    """Returns the factors; the block multiplies."""

    def __init__(self):
        super().__init__()
        self.fc, self.sigmoid = nn.Conv2d(C, C, 1), nn.Sigmoid()

    def forward(self, x):
        return self.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class Multiplies(nn.Module):
    """The product is outside the module that makes the factors, and still a module's: this one."""

    def __init__(self):
        super().__init__()
        self.ca = Factors()

    def forward(self, x):
        return self.ca(x) * x


@dataclass(frozen=True)
class Gate:
    """A style: how to make it, its logit by hand, and what is to be found.

    ``logit`` and ``shift`` (β) take module and x. ``known`` says whether z is read and not inferred.
    """

    make: Callable[[], nn.Module]
    logit: Callable[[nn.Module, Tensor], Tensor]
    rung: str
    family: str
    activation: str = "sigmoid"
    gate: Callable[[Tensor], Tensor] = soft
    known: bool = True
    descriptor: Callable[[nn.Module, Tensor], Tensor] | None = None
    shift: Callable[[nn.Module, Tensor], Tensor] | None = None
    inner: str = ""
    setting: str = ""


def _mean(_module: nn.Module, x: Tensor) -> Tensor:
    return mean(x)


def _fc(module: nn.Module, x: Tensor) -> Tensor:
    return two(mean(x), module.fc1, module.fc2)


def _se(first: str, last: str, squeeze: Callable[[Tensor], Tensor] = mean) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda m, x: two(squeeze(x), m.get_submodule(first), m.get_submodule(last))


def _handmade(z: Tensor) -> Tensor:
    return 1 / (1 + (-z).exp())


def _keras(z: Tensor) -> Tensor:
    return (0.2 * z + 0.5).clamp(0, 1)


def _relu6(z: Tensor) -> Tensor:
    return F.relu6(z + 3) / 6


def _cbam(pools: tuple[str, ...]) -> Callable[[nn.Module, Tensor], Tensor]:
    made = {"avg": mean, "max": highest, "lp": lambda x: x.square().sum((2, 3)).sqrt()}
    return lambda m, x: sum(two(made[pool](x), m.mlp[1], m.mlp[3]) for pool in pools)


def _bare(m: nn.Module, x: Tensor) -> Tensor:
    return mean(x) @ m.w


def _own(module: nn.Module, x: Tensor) -> Tensor:
    return module.logit(x)


def _last(name: str) -> Callable:
    return lambda m, x: getattr(m, name)(x)


_R = f"r={R}"
_HARD = {"activation": "hardsigmoid", "gate": hard}

GATES: dict[str, Gate] = {
    "se-moskomule": Gate(SELayer, _se("fc.0", "fc.2"), "registry", "se", descriptor=_mean, setting=_R),
    "eca-official": Gate(
        official_eca,
        lambda m, x: neighbours(mean(x), m.conv.weight.flatten()),
        "registry",
        "eca",
        descriptor=_mean,
        setting="k=3",
    ),
    "eca-ns-official": Gate(
        official_eca_ns,
        lambda m, x: torch.stack(
            [neighbours(mean(x), m.conv.weight[i, 0])[:, i] for i in range(C)],
            dim=1,
        ),
        "registry",
        "eca-ns",
        descriptor=_mean,
        setting="k=3",
    ),
    "se-renamed": Gate(Excited, _se("fc.0", "fc.2"), "activation", "se", descriptor=_mean, setting=_R),
    "se-conv": Gate(ConvSE, _se("body.1", "body.3"), "activation", "se", descriptor=_mean, setting=_R),
    "se-conv-no-bias": Gate(
        lambda: ConvSE(bias=False), _se("body.1", "body.3"), "activation", "se", descriptor=_mean, setting=_R
    ),
    "se-attributes": Gate(Attributes, _se("down", "up"), "activation", "se", descriptor=_mean, setting=_R),
    "se-in-place": Gate(InPlace, _se("down", "up"), "activation", "se", descriptor=_mean, setting=_R),
    "se-functional": Gate(Functional, _fc, "last layer", "se", descriptor=_mean, setting=_R),
    "se-method": Gate(lambda: Functional(Tensor.sigmoid), _fc, "last layer", "se", descriptor=_mean, setting=_R),
    "se-handmade-sigmoid": Gate(lambda: Functional(_handmade), _fc, "last layer", "se", descriptor=_mean, setting=_R),
    "se-maximum": Gate(
        lambda: Functional(squeeze=highest),
        _se("fc1", "fc2", highest),
        "last layer",
        "se",
        descriptor=lambda _, x: highest(x),
        setting=_R,
    ),
    "se-hard-module": Gate(
        lambda: ConvSE(gate=nn.Hardsigmoid), _se("body.1", "body.3"), "activation", "se", **_HARD, setting=_R
    ),
    "se-hard-own-module": Gate(
        lambda: ConvSE(gate=HSigmoid), _se("body.1", "body.3"), "activation", "se", **_HARD, setting=_R
    ),
    "se-hard-functional": Gate(lambda: Functional(F.hardsigmoid), _fc, "last layer", "se", **_HARD, setting=_R),
    "se-hard-relu6": Gate(lambda: Functional(_relu6), _fc, "last layer", "se", **_HARD, setting=_R),
    "se-shift-module": Gate(
        lambda: Shifted(True),
        lambda m, x: m.both(x)[0],
        "activation",
        "se",
        descriptor=_mean,
        shift=lambda m, x: m.both(x)[1],
        setting=_R,
    ),
    "se-shift-functional": Gate(
        lambda: Shifted(False),
        lambda m, x: m.both(x)[0],
        "functional",
        "se",
        descriptor=_mean,
        shift=lambda m, x: m.both(x)[1],
        setting=_R,
    ),
    "se-shift-first": Gate(
        lambda: Shifted(False, first=False),
        lambda m, x: m.both(x)[0],
        "functional",
        "se",
        descriptor=_mean,
        shift=lambda m, x: m.both(x)[1],
        setting=_R,
    ),
    "se-deviation": Gate(
        Deviation,
        _se("net.0", "net.2", deviation),
        "activation",
        "se",
        descriptor=lambda _, x: deviation(x),
        setting=_R,
    ),
    "se-norm": Gate(Normed, _last("logit"), "activation", "se", descriptor=_mean, setting=_R),
    "se-norm-last": Gate(
        NormLast,
        lambda m, x: normed(two(mean(x), m.a, m.b), m.bn),
        "last layer",
        "foreign",
        descriptor=_mean,
    ),
    "se-dropout": Gate(Dropping, _last("logit"), "activation", "se", descriptor=_mean, setting=_R),
    "se-shared-sigmoid": Gate(
        SharedSigmoid,
        lambda m, x: line(soft(line(mean(x), m.first)), m.second),
        "activation",
        "se",
        descriptor=_mean,
        setting="r=1",
    ),
    "se-wrapped": Gate(
        Around,
        _se("inner.fc1", "inner.fc2"),
        "last layer",
        "se",
        descriptor=_mean,
        inner=".inner",
        setting=_R,
    ),
    "names-that-say-nothing": Gate(Q, _se("m.3", "m.1"), "activation", "se", descriptor=_mean, setting=_R),
    "one-layer-hard": Gate(
        OneLayer, lambda m, x: line(mean(x), m.fc), "activation", "se-var3", **_HARD, descriptor=_mean
    ),
    "factors-returned": Gate(
        lambda: Multiplies(), lambda m, x: line(mean(x), m.ca.fc), "activation", "se-var3", descriptor=_mean
    ),
    "cbam-reference": Gate(
        ChannelGate,
        _cbam(("avg", "max")),
        "last layer",
        "cbam",
        descriptor=lambda _, x: torch.stack([mean(x), highest(x)], dim=1),
        setting=_R,
    ),
    "cbam-three-pools": Gate(
        lambda: ChannelGate(("avg", "max", "lp")), _cbam(("avg", "max", "lp")), "last layer", "foreign", setting=_R
    ),
    "half-sum": Gate(
        HalfSum,
        _last("logit"),
        "last layer",
        "se",
        descriptor=lambda _, x: (mean(x) + highest(x)) / 2,
        setting=_R,
    ),
    "global-context": Gate(
        GlobalContext,
        lambda m, x: two(m.pooled(x), m.mlp[0], m.mlp[2]),
        "activation",
        "se",
        descriptor=lambda m, x: m.pooled(x),
        setting=_R,
    ),
    "eca-renamed": Gate(
        Wave,
        lambda m, x: neighbours(mean(x), m.filter.weight.flatten()),
        "last layer",
        "eca",
        descriptor=_mean,
        setting="k=3",
    ),
    "eca-circular": Gate(
        lambda: Wave(circular=True),
        lambda m, x: neighbours(mean(x), m.filter.weight.flatten(), circular=True),
        "last layer",
        "eca",
        descriptor=_mean,
        setting="k=3",
    ),
    "covariance": Gate(Covariance, _last("logit"), "activation", "foreign"),
    "style": Gate(Style, _last("logit"), "last layer", "foreign"),
    "gather-global": Gate(GatherGlobal, _last("logit"), "activation", "foreign"),
    "matrix-functional": Gate(lambda: Bare(torch.sigmoid), _bare, "functional", "foreign"),
    "matrix-expit": Gate(lambda: Bare(torch.special.expit), _bare, "functional", "foreign"),
    "matrix-relu6": Gate(lambda: Bare(_relu6), _bare, "functional", "foreign", **_HARD),
    "no-weights": Gate(NoWeights, _mean, "functional", "foreign"),
    "grouped": Gate(Grouped, lambda m, x: m.fc(over(mean(x))).flatten(1), "activation", "foreign", descriptor=_mean),
    "two-activations": Gate(TwoActivations, _own, "activation", "foreign", descriptor=_mean),
    "padded-after": Gate(PaddedAfter, _own, "activation", "foreign", descriptor=_mean),
    "two-scales": Gate(TwoScales, _own, "activation", "foreign"),
    "pooled-matrix": Gate(PooledMatrix, lambda m, x: mean(x) @ m.w, "activation", "foreign", descriptor=_mean),
    "recurrent": Gate(Recurrent, _own, "activation", "foreign"),
    "tempered": Gate(Tempered, _own, "functional", "foreign", descriptor=_mean),
    "matrix-handmade": Gate(lambda: Bare(_handmade), _bare, "least squares", "foreign", known=False),
    "matrix-softmax": Gate(
        lambda: Bare(lambda z: z.softmax(dim=1)),
        _bare,
        "least squares",
        "foreign",
        gate=lambda z: z.exp() / z.exp().sum(dim=1, keepdim=True),
        known=False,
    ),
    "matrix-keras-hard": Gate(
        lambda: Bare(_keras), _bare, "least squares", "foreign", gate=lambda z: (z / 5 + 0.5).clamp(0, 1), known=False
    ),
}
"""By name; what is not said to be in the registry is in no registry."""


def prepared(module: nn.Module, seed: int = 0, times: float = 3) -> nn.Module:
    """Larger weights, so that gates spread and a constant cannot pass, and norms as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                for value, low, high in (
                    (part.weight, 0.5, 2.0),
                    (part.bias, -0.5, 0.5),
                    (part.running_mean, -0.3, 0.3),
                    (part.running_var, 0.3, 1.5),
                ):
                    value.copy_(low + (high - low) * torch.rand(value.shape, generator=generator))
            elif isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d):
                part.weight.mul_(times)
    return module.eval()
