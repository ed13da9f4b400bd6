"""Gather-Excite: gates gathered over an extent of positions; one number a channel only if the extent is the whole map.

    θ⁻: ω = σ(average pool of x)                         no parameters
    θ:  ω = σ(BN(depthwise convolution of x))
    θ⁺: ω = σ(Conv1×1(ReLU(Conv1×1(ReLU(θ's gather)))))

With a smaller extent e the gathered map is H/e × W/e; its gates are brought back to H×W by nearest neighbours.

Source: Hu et al., "Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks", NeurIPS 2018; layers as
in the authors' prototxt files, hujie-frank/GENet (global extent), and as in timm's GatherExcite (extents 2, 4, 8).
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from . import checks
from .attention import ChannelAttention

__all__ = ["GatherExcite"]

_NAMES = {"minus": "ge-theta-minus", "plain": "ge-theta", "plus": "ge-theta-plus"}


class GatherExcite(ChannelAttention):
    """Gather-Excite θ⁻, θ or θ⁺. N×C×H×W → N×C×H×W.

    ``squeeze`` is the gather, N×C×H×W → N×C×h×w, and ``excite`` what comes before the sigmoid; h = w = 1 for the global
    extent. Parameters of θ: C·s² + 2C for the global extent on maps of s×s, log2(e)·11C for extent e; of θ⁺ besides
    2C²/r + C/r + C.

    Args:
        channels: C.
        variant: "minus" (θ⁻), "plain" (θ) or "plus" (θ⁺).
        extent: e: 2, 4 or 8; None for the global extent.
        size: Side s of the maps, or (height, width), for the global depthwise convolution of θ and θ⁺.
        reduction: r of θ⁺'s bottleneck.

    Raises:
        ValueError: Unknown variant or extent, or the global θ without a size.
    """

    def __init__(
        self,
        channels: int,
        variant: str = "plain",
        *,
        extent: int | None = None,
        size: int | tuple[int, int] | None = None,
        reduction: int = 16,
        device=None,
        dtype=None,
    ):
        super().__init__(channels)
        if variant not in _NAMES:
            raise ValueError(f"GatherExcite: variant must be one of {', '.join(_NAMES)}, got {variant!r}.")
        if extent not in (None, 2, 4, 8):
            raise ValueError(f"GatherExcite: extent must be 2, 4, 8, or None for the whole map; got {extent!r}.")
        self.family, self.extent = _NAMES[variant], extent
        self.size: tuple[int, int] | None = None  # of the maps, where the kernel is as large as they are
        made = {"device": device, "dtype": dtype}
        if variant == "minus":
            self.squeeze = nn.AdaptiveAvgPool2d(1) if extent is None else _average(extent)
        elif extent is None:
            self.size = _side(size, self.family)
            self.squeeze = _global_gather(self.channels, self.size, made)
        else:
            self.squeeze = _local_gather(self.channels, extent, made)
        if variant == "plus":
            hidden = checks.hidden_units(self.channels, reduction, "GatherExcite")
            self.excite = nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(self.channels, hidden, 1, **made),
                nn.ReLU(),
                nn.Conv2d(hidden, self.channels, 1, **made),
            )

    def check(self, x: Tensor) -> None:
        """Raise a ValueError if x is no N×C×H×W of this module's C, or its maps are not as large as the kernel."""
        super().check(x)
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            raise ValueError(
                f"GatherExcite: {self.family} with the global extent was made for maps of {self.size[0]}×{self.size[1]}"
                f", got {x.shape[2]}×{x.shape[3]}. Use images of the size that the network was made for, or an extent."
            )

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each channel, or each place of it, by its gate, N×C×H×W → N×C×H×W."""
        self.check(x)
        gate = self.activation(self.excite(self.squeeze(x)))
        if gate.shape[2:] != (1, 1):
            gate = nn.functional.interpolate(gate, size=x.shape[2:])
        return x * gate


def _average(extent: int) -> nn.Module:
    kernel = 2 * extent - 1
    return nn.AvgPool2d(kernel, stride=extent, padding=kernel // 2, count_include_pad=False)


def _side(size: int | tuple[int, int] | None, family: str) -> tuple[int, int]:
    if size is None:
        raise ValueError(
            f"GatherExcite: {family} with the global extent has a kernel as large as the map; give its size=, or an "
            f"extent= of 2, 4 or 8."
        )
    return checks.sides(size, "GatherExcite: size")


def _global_gather(channels: int, size: tuple[int, int], made: dict) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels, size, groups=channels, bias=False, **made), nn.BatchNorm2d(channels, **made)
    )


def _local_gather(channels: int, extent: int, made: dict) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(int(math.log2(extent))):
        conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False, **made)
        layers += [conv, nn.BatchNorm2d(channels, **made), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
