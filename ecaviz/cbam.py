"""CBAM: a channel gate from two squeezes, then a spatial gate.

    x → x' = x · σ(MLP(avg x) + MLP(max x)) → x' · σ(BN(Conv7×7([max_c x', mean_c x'])))

Source: Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018; layers and order as in the authors' code,
Jongchan/attention-module.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import checks
from .attention import Bottleneck, ChannelAttention

__all__ = ["CBAM", "AverageAndMaxPool", "CBAMChannel", "CBAMSpatial", "ChannelPool", "SharedBottleneck", "SpatialConv"]


class AverageAndMaxPool(nn.Module):
    """Squeeze: mean and maximum over all positions. N×C×H×W → N×2×C, the mean first."""

    def forward(self, x: Tensor) -> Tensor:
        """Squeeze twice, N×C×H×W → N×2×C."""
        return torch.stack([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)


class SharedBottleneck(Bottleneck):
    """Excitation: z = MLP(y_avg) + MLP(y_max), one bottleneck for both squeezes. N×2×C → N×C."""

    def forward(self, y: Tensor) -> Tensor:
        """Map both squeezes to z, N×2×C → N×C."""
        return super().forward(y).sum(dim=1)


class CBAMChannel(ChannelAttention):
    """The channel stage: ω = σ(MLP(avg x) + MLP(max x)). N×C×H×W → N×C×H×W.

    Parameters: 2C²/r + C/r + C.

    Args:
        channels: C.
        reduction: r; the hidden layer has ⌊C/r⌋ units.
        bias: Whether the MLP's layers have biases, as in the authors' code.
    """

    family = "cbam"

    def __init__(self, channels: int, reduction: int = 16, *, bias: bool = True, device=None, dtype=None):
        super().__init__(channels)
        hidden = checks.hidden_units(self.channels, reduction, "CBAM")
        self.squeeze = AverageAndMaxPool()
        self.excite = SharedBottleneck(self.channels, hidden, bias=bias, device=device, dtype=dtype)


class ChannelPool(nn.Module):
    """Squeeze of the spatial stage: maximum and mean over channels. N×C×H×W → N×2×H×W, the maximum first."""

    def forward(self, x: Tensor) -> Tensor:
        """Squeeze the channels, N×C×H×W → N×2×H×W."""
        return torch.stack([x.amax(dim=1), x.mean(dim=1)], dim=1)


class SpatialConv(nn.Module):
    """Excitation of the spatial stage: z = BN(Conv7×7(y)), one logit a position. N×2×H×W → N×1×H×W.

    The norm's weight starts at 0, as in the authors' code: every gate is 0.5 then.
    """

    def __init__(self, *, device=None, dtype=None):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False, device=device, dtype=dtype)
        self.norm = nn.BatchNorm2d(1, momentum=0.01, device=device, dtype=dtype)
        nn.init.zeros_(self.norm.weight)

    def forward(self, y: Tensor) -> Tensor:
        """Map y to z, N×2×H×W → N×1×H×W."""
        return self.norm(self.conv(y))


class CBAMSpatial(nn.Module):
    """The spatial stage: ω = σ(BN(Conv7×7([max_c x, mean_c x]))), one gate a position. N×C×H×W → N×C×H×W.

    Parameters: 2·7² + 2 = 100.
    """

    family = "cbam"

    def __init__(self, *, device=None, dtype=None):
        super().__init__()
        self.squeeze = ChannelPool()
        self.excite = SpatialConv(device=device, dtype=dtype)
        self.activation = nn.Sigmoid()

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # The two layers were once parts of this module itself.
        for layer in ("conv", "norm"):
            for key in [key for key in state_dict if key.startswith(f"{prefix}{layer}.")]:
                state_dict[f"{prefix}excite.{key.removeprefix(prefix)}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each position by its gate, N×C×H×W → N×C×H×W."""
        y = self.squeeze(x)
        z = self.excite(y)
        gate = self.activation(z)
        return x * gate


class CBAM(nn.Module):
    """Channel gate, then spatial gate. N×C×H×W → N×C×H×W.

    Parameters: 2C²/r + C/r + C for the channel stage, 100 for the spatial one.

    Args:
        channels: C.
        reduction: r of the channel stage.
        bias: Whether the channel stage's MLP has biases.
        spatial: Whether there is a spatial stage.

    Raises:
        ValueError: ``reduction`` is below 1 or leaves no hidden unit.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        bias: bool = True,
        spatial: bool = True,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.channel = CBAMChannel(channels, reduction, bias=bias, device=device, dtype=dtype)
        self.spatial = CBAMSpatial(device=device, dtype=dtype) if spatial else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Gate channels, then positions, N×C×H×W → N×C×H×W."""
        return self.spatial(self.channel(x))
