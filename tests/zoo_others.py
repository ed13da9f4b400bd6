"""What looks like channel attention and is none; ``OTHERS`` says the reason that the library is to give."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from zoo import Attributes, C, Factors, Functional, R, deviation, mean, over


class SelectiveKernel(nn.Module):
    """Two branches, shared out by a softmax."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(C, C, 3, padding=1), nn.Conv2d(C, C, 3, padding=2, dilation=2)
        self.attn = nn.Linear(C, 2 * C)

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        share = self.attn(mean(a + b)).view(len(x), 2, C, 1, 1).softmax(dim=1)
        return a * share[:, 0] + b * share[:, 1]


class SplitAttn(nn.Module):
    """Two splits of wider features, shared out by a softmax."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(C, 2 * C, 3, padding=1), nn.Linear(C, 2 * C)

    def forward(self, x):
        splits = self.conv(x).view(len(x), 2, C, *x.shape[2:])
        share = self.fc(mean(splits.sum(dim=1))).view(len(x), 2, C, 1, 1).softmax(dim=1)
        return (splits * share).sum(dim=1)


class SpatialGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.sigmoid = nn.Conv2d(2, 1, 3, padding=1), nn.Sigmoid()

    def forward(self, x):
        both = torch.stack([x.mean(1), x.amax(1)], dim=1)
        return x * self.sigmoid(self.conv(both))


class PixelGate(nn.Module):
    """One factor an element."""

    def __init__(self):
        super().__init__()
        self.conv, self.sigmoid = nn.Conv2d(C, C, 1), nn.Sigmoid()

    def forward(self, x):
        return x * self.sigmoid(self.conv(x))


class BothGates(nn.Module):
    """Channel and position in one product."""

    def __init__(self):
        super().__init__()
        self.fc, self.conv, self.sigmoid = nn.Linear(C, C), nn.Conv2d(C, 1, 1), nn.Sigmoid()

    def forward(self, x):
        return x * over(self.sigmoid(self.fc(mean(x)))) * self.sigmoid(self.conv(x))


class Added(nn.Module):
    """``gca``: a context added to every position."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(C, C // R), nn.Linear(C // R, C)

    def forward(self, x):
        return x + over(torch.sigmoid(self.fc2(F.relu(self.fc1(mean(x))))))


class LayerScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(C))

    def forward(self, x):
        return x * self.gamma.view(1, -1, 1, 1)


class LearntGate(nn.Module):
    """A sigmoid of weights: the same for every image."""

    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.randn(C))

    def forward(self, x):
        return x * torch.sigmoid(self.logit).view(1, -1, 1, 1)


class Affine(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(C)), nn.Parameter(torch.randn(C))

    def forward(self, x):
        return x * self.scale.view(1, -1, 1, 1) + self.shift.view(1, -1, 1, 1)


class OwnInstanceNorm(nn.Module):
    def forward(self, x):
        return (x - over(mean(x))) / over(4 * deviation(x) + 1)


class OwnRootMeanSquare(nn.Module):
    def forward(self, x):
        return x / (4 * x.square().mean(dim=(2, 3), keepdim=True).sqrt())


class ByImage(nn.Module):
    """One factor an image."""

    def __init__(self):
        super().__init__()
        self.fc, self.sigmoid = nn.Linear(C, 1), nn.Sigmoid()

    def forward(self, x):
        return x * over(self.sigmoid(self.fc(mean(x))))


class Doubled(Functional):
    """Twice the sigmoid: 0 to 2."""

    def __init__(self):
        super().__init__(lambda z: 2 * torch.sigmoid(z))


class Signed(Functional):
    def __init__(self):
        super().__init__(torch.tanh)


class Residual(Functional):
    """x + x·ω."""

    def forward(self, x):
        return x + super().forward(x)


class Same(nn.Module):
    def forward(self, x):
        return x * 1


class ZeroStart(Attributes):
    """A gate that is one half for every image."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)


class FactorsBlock(nn.Module):
    """Multiplies with them what is no input of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.ca = nn.Conv2d(C, C, 3, padding=1), Factors()

    def forward(self, x):
        y = self.conv(x)
        return x + self.ca(y) * y


class NonLocal(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(C, C, 1) for _ in range(3))

    def forward(self, x):
        q, k, v = (part(x).flatten(2) for part in (self.q, self.k, self.v))
        return x + (v @ (q.transpose(1, 2) @ k).softmax(dim=1)).view_as(x)


class Plain(nn.Module):
    """A residual block: nothing of attention."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C)

    def forward(self, x):
        return F.relu(x + self.norm(self.conv(x)))


OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "selective-kernel": (SelectiveKernel, r"softmax shares out between branches"),
    "split-attention": (SplitAttn, r"softmax shares out between splits"),
    "spatial": (SpatialGate, r"varies over positions and is the same for all channels: a spatial gate"),
    "pixel": (PixelGate, r"varies over the positions of a channel's map"),
    "channel-and-spatial": (BothGates, r"varies over the positions of a channel's map"),
    "added-context": (Added, r"adds a context, one number a channel, and multiplies nothing"),
    "layer-scale": (LayerScale, r"same for all images: an affine layer or a layer scale"),
    "learnt-gate": (LearntGate, r"same for all images"),
    "affine": (Affine, r"same for all images: an affine layer"),
    "instance-norm": (OwnInstanceNorm, r"no sigmoid makes the factor: a normalisation"),
    "root-mean-square": (OwnRootMeanSquare, r"to one size whatever the image: a normalisation"),
    "by-image": (ByImage, r"same for all channels: one number an image"),
    "doubled": (Doubled, r"outside a sigmoid's range"),
    "signed": (Signed, r"factor goes from -\d.* to .*outside"),
    "residual-gate": (Residual, r"factor goes from 1.* to .*outside"),
    "identity": (Same, r"gives its input back"),
    "zero-start": (ZeroStart, r"factor \(0.5\) is the same for all images.*does not vary yet"),
    "factors": (FactorsBlock, r"leaves the product to its caller"),
    "non-local": (NonLocal, r"is not its input times one factor a channel"),
}
"""By name: what is no channel gate, and the reason that is to be given (a pattern)."""
