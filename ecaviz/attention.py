"""Channel attention modules: squeeze → excite → gate.

Every module here is the same four lines::

    y = squeeze(x)         # descriptor, N×C
    z = excite(y)          # logit,      N×C
    ω = activation(z)      # gate,       N×C, in (0, 1)
    out = x · ω            # every channel of x is multiplied by its own weight

The modules here differ in ``excite`` alone, so that is where to look: :class:`Bottleneck` for Squeeze-and-Excitation,
:class:`ChannelConv` for ECA, and the variants between them that the ECA paper compares: :class:`SEVar1` (nothing to
learn), :class:`SEVar2` (:class:`Diagonal`), :class:`SEVar3` (one full layer), :class:`SEGC` (:class:`Grouped`) and
:class:`ECANS` (:class:`Neighbourhood`). CBAM, GSoP and Gather-Excite, which squeeze in other ways, are in modules of
their own; :func:`build` makes all of them by name. The three parts are submodules, so that each can be hooked, called
alone, and differentiated alone: the interaction matrix is ∂z/∂y of ``excite``.

Sources: SE: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018. ECA: Wang et al., "ECA-Net: Efficient Channel
Attention for Deep Convolutional Neural Networks", CVPR 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from . import checks

__all__ = [
    "ECA",
    "ECANS",
    "FAMILIES",
    "SE",
    "SEGC",
    "Bottleneck",
    "ChannelAttention",
    "ChannelConv",
    "Diagonal",
    "GlobalAveragePool",
    "Grouped",
    "Neighbourhood",
    "SEVar1",
    "SEVar2",
    "SEVar3",
    "adaptive_kernel_size",
    "build",
    "channel_conv",
    "layer",
]


def adaptive_kernel_size(channels: int, gamma: float = 2, b: float = 1, *, minimum: int = 1) -> int:
    r"""The kernel size the ECA paper's rule gives for a number of channels.

    k = ψ(C) = \\|log2(C)/γ + b/γ\\|_odd. "Nearest odd" is read as the paper's own code does (Fig. 3): truncate
    (log2(C) + b)/γ to an integer t; k = t if t is odd, else t + 1. The exact ties (C = 8, 128, 2048 for γ = 2, b = 1,
    where the formula gives an even whole number) are therefore rounded up.

    Args:
        channels: C, at least 1.
        gamma: γ, positive.
        b: the offset b.
        minimum: The smallest k to return; ``minimum=3`` gives timm's rule.

    Returns:
        k, odd and positive.

    Raises:
        ValueError: ``channels`` below 1, ``gamma`` not positive, or an even or negative ``minimum``.

    Source: Wang et al., CVPR 2020, Eq. 12 and Figure 3.
    """
    channels = checks.at_least_one(channels, "adaptive_kernel_size: channels")
    if gamma <= 0:
        raise ValueError(f"adaptive_kernel_size: gamma must be positive, got {gamma!r}.")
    minimum = checks.kernel_size(minimum, "adaptive_kernel_size: minimum")
    t = int(abs((math.log2(channels) + b) / gamma))
    return max(t if t % 2 else t + 1, minimum)


def channel_conv(y: Tensor, kernel: Tensor, padding: str = "zeros") -> Tensor:
    """ECA's excitation as a function: z_i = Σ_j w_j · y_(i+j−(k−1)/2).

    Args:
        y: N×C.
        kernel: k weights, k odd, of y's dtype and device.
        padding: "zeros" or "circular": what lies beyond either end.

    Returns:
        z, N×C.
    """
    reach = (len(kernel) - 1) // 2
    y = nn.functional.pad(y.unsqueeze(1), (reach, reach), mode={"zeros": "constant", "circular": "circular"}[padding])
    return nn.functional.conv1d(y, kernel[None, None]).squeeze(1)


class GlobalAveragePool(nn.Module):
    """Squeeze: the mean over all positions, y_c = 1/(HW) Σ_ij x_cij. N×C×H×W → N×C."""

    def forward(self, x: Tensor) -> Tensor:
        """Average over positions, N×C×H×W → N×C."""
        return x.mean(dim=(2, 3))


class Bottleneck(nn.Module):
    """Excitation of SE: z = W2 · ReLU(W1 · y), through a hidden layer of C/r units. N×C → N×C.

    Args:
        channels: C.
        hidden: Units of the hidden layer, C/r.
        bias: Whether both layers have biases. The paper's own study found none to be better (SENet, section 6).
    """

    def __init__(self, channels: int, hidden: int, *, bias: bool = False, device=None, dtype=None):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden, bias=bias, device=device, dtype=dtype)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(hidden, channels, bias=bias, device=device, dtype=dtype)

    def forward(self, y: Tensor) -> Tensor:
        """Map y to z, N×C → N×C."""
        return self.fc2(self.relu(self.fc1(y)))


class ChannelConv(nn.Module):
    """Excitation of ECA: a 1-D convolution over the channels, z_i = Σ_j w_j · y_(i+j−(k−1)/2). N×C → N×C.

    One kernel of k weights is shared by all channels; channels beyond either end count as zero (``padding="zeros"``,
    the paper) or wrap around (``padding="circular"``, timm's CecaModule).
    """

    def __init__(self, kernel_size: int, *, padding: str = "zeros", device=None, dtype=None):
        super().__init__()
        checks.kernel_size(kernel_size, "ChannelConv: kernel_size")
        self.conv = nn.Conv1d(
            1,
            1,
            kernel_size,
            padding=(kernel_size - 1) // 2,
            padding_mode=padding,
            bias=False,
            device=device,
            dtype=dtype,
        )

    def forward(self, y: Tensor) -> Tensor:
        """Map y to z, N×C → N×C."""
        return self.conv(y.unsqueeze(1)).squeeze(1)


class ChannelAttention(nn.Module):
    """x · activation(excite(squeeze(x))): the frame that all modules here share.

    Subclasses set ``squeeze`` (N×C×H×W → N×C), ``excite`` (N×C → N×C) and, if it is not the sigmoid, ``activation``.

    Attributes:
        family: The name that :func:`build` knows the module by, without k or r.
        channels: C.
    """

    family: str = ""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = checks.at_least_one(channels, f"{type(self).__name__}: channels")
        self.squeeze = GlobalAveragePool()
        self.excite: nn.Module = nn.Identity()
        self.activation: nn.Module = nn.Sigmoid()

    def check(self, x: Tensor) -> None:
        """Raise a ValueError if x is no N×C×H×W of this module's C."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            expected = f"N×{self.channels}×H×W"
            raise ValueError(f"{type(self).__name__}: expected {expected}, got {'×'.join(map(str, x.shape))}.")

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each channel by its gate, N×C×H×W → N×C×H×W."""
        self.check(x)
        y = self.squeeze(x)
        z = self.excite(y)
        gate = self.activation(z)
        return x * gate[:, :, None, None]


class SE(ChannelAttention):
    """Squeeze-and-Excitation: ω = σ(W2 · ReLU(W1 · y)). N×C×H×W → N×C×H×W.

    Parameters: 2C²/r (without biases). Source: Hu et al., CVPR 2018, Eq. 3; the biases are left out as in section 6 of
    the journal version.

    Args:
        channels: C.
        reduction: r; the hidden layer has ⌊C/r⌋ units.
        hidden: Units of the hidden layer, where they are not ⌊C/r⌋ (timm rounds them to multiples of 8); replaces
            ``reduction``.
        bias: Whether the two layers have biases.

    Raises:
        ValueError: ``reduction`` is below 1 or leaves no hidden unit, or ``hidden`` is below 1.
    """

    family = "se"

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        hidden: int | None = None,
        bias: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__(channels)
        if hidden is None:
            hidden = checks.hidden_units(self.channels, reduction, "SE")
        else:
            hidden = checks.at_least_one(hidden, "SE: hidden")
        self.reduction = self.channels / hidden
        self.excite = Bottleneck(self.channels, hidden, bias=bias, device=device, dtype=dtype)


class ECA(ChannelAttention):
    """Efficient Channel Attention: ω = σ(Conv1D_k(y)). N×C×H×W → N×C×H×W.

    Parameters: k. Source: Wang et al., CVPR 2020, Eq. 9 and 12; the gate is a sigmoid there and in the official code.

    Args:
        channels: C.
        kernel_size: k, odd; None for the adaptive rule :func:`adaptive_kernel_size` on C.
        padding: "zeros" (the paper) or "circular".

    Raises:
        ValueError: ``kernel_size`` is even or not positive, or the padding is unknown or wraps round more than once.
    """

    family = "eca"

    def __init__(
        self, channels: int, kernel_size: int | None = None, *, padding: str = "zeros", device=None, dtype=None
    ):
        super().__init__(channels)
        if kernel_size is None:
            kernel_size = adaptive_kernel_size(self.channels)
        self.kernel_size = checks.kernel_size(kernel_size, "ECA: kernel_size")
        checks.padding(padding, self.kernel_size, self.channels, "ECA")
        self.excite = ChannelConv(self.kernel_size, padding=padding, device=device, dtype=dtype)


class Diagonal(nn.Module):
    """Excitation of SE-Var2: z = w ⊙ y, one weight a channel and no interaction. N×C → N×C."""

    def __init__(self, channels: int, *, device=None, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        nn.init.uniform_(self.weight, -1, 1)  # what PyTorch draws for a linear layer with one input

    def forward(self, y: Tensor) -> Tensor:
        """Map y to z, N×C → N×C."""
        return self.weight * y


class Grouped(nn.Module):
    """Excitation of SE-GC: one full layer for each of G groups of C/G neighbouring channels. N×C → N×C."""

    def __init__(self, channels: int, groups: int, *, device=None, dtype=None):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 1, groups=groups, bias=False, device=device, dtype=dtype)

    def forward(self, y: Tensor) -> Tensor:
        """Map y to z, N×C → N×C."""
        return self.conv(y.unsqueeze(2)).squeeze(2)


class Neighbourhood(nn.Module):
    """Excitation of ECA-NS: z_i = Σ_j w_ij · y_(i+j−(k−1)/2), a kernel of its own for each channel. N×C → N×C.

    Channels beyond either end count as zero. The weights lie as in the official code, C×1×k.
    """

    def __init__(self, channels: int, kernel_size: int, *, device=None, dtype=None):
        super().__init__()
        self.reach = (kernel_size - 1) // 2
        self.conv = nn.Conv1d(channels, channels, kernel_size, groups=channels, bias=False, device=device, dtype=dtype)

    def forward(self, y: Tensor) -> Tensor:
        """Map y to z, N×C → N×C."""
        neighbours = nn.functional.pad(y, (self.reach, self.reach)).unfold(1, 2 * self.reach + 1, 1)
        return self.conv(neighbours).squeeze(2)


class SEVar1(ChannelAttention):
    """SE-Var1: ω = σ(y), a gate without parameters. N×C×H×W → N×C×H×W.

    Source: Wang et al., CVPR 2020, section 3.2 and Table 2.

    Args:
        channels: C.
    """

    family = "se-var1"

    def __init__(self, channels: int, *, device=None, dtype=None):
        super().__init__(channels)


class SEVar2(ChannelAttention):
    """SE-Var2: ω = σ(w ⊙ y), every channel by itself. N×C×H×W → N×C×H×W.

    Parameters: C. Source: Wang et al., CVPR 2020, section 3.2, Eq. 3 and Table 2.

    Args:
        channels: C.
    """

    family = "se-var2"

    def __init__(self, channels: int, *, device=None, dtype=None):
        super().__init__(channels)
        self.excite = Diagonal(self.channels, device=device, dtype=dtype)


class SEVar3(ChannelAttention):
    """SE-Var3: ω = σ(W·y), one full layer: all channels interact, and nothing is reduced. N×C×H×W → N×C×H×W.

    Parameters: C². Source: Wang et al., CVPR 2020, section 3.2, Eq. 4 and Table 2.

    Args:
        channels: C.
    """

    family = "se-var3"

    def __init__(self, channels: int, *, device=None, dtype=None):
        super().__init__(channels)
        self.excite = nn.Linear(self.channels, self.channels, bias=False, device=device, dtype=dtype)


class SEGC(ChannelAttention):
    """SE-GC: ω = σ(GC_G(y)), a full layer within each of G groups of channels. N×C×H×W → N×C×H×W.

    Parameters: C²/G. The paper's three have G = 16 (SE-GC1), C/16 (SE-GC2) and C/8 (SE-GC3). Source: Wang et al., CVPR
    2020, section 3.2, Eq. 5 and Table 2.

    Args:
        channels: C.
        groups: G, a divisor of C.
        group_size: C/G, the other way to say it; one of the two is given.

    Raises:
        ValueError: Neither or both are given, or C is no multiple.
    """

    family = "se-gc"

    def __init__(
        self,
        channels: int,
        groups: int | None = None,
        *,
        group_size: int | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__(channels)
        if (groups is None) == (group_size is None):
            raise ValueError(
                f"SEGC: give either groups or group_size, got groups={groups!r}, group_size={group_size!r}."
            )
        what, given = ("groups", groups) if groups is not None else ("group_size", group_size)
        given = checks.at_least_one(given, f"SEGC: {what}")
        if self.channels % given:
            raise ValueError(
                f"SEGC: C = {self.channels} channels cannot be divided evenly by {what} = {given}. Use a divisor of "
                f"{self.channels}."
            )
        self.groups = given if groups is not None else self.channels // given
        self.excite = Grouped(self.channels, self.groups, device=device, dtype=dtype)


class ECANS(ChannelAttention):
    """ECA-NS: ω = σ(z), z_i = Σ_j w_ij · y_(i+j−(k−1)/2): ECA with unshared kernels. N×C×H×W → N×C×H×W.

    Parameters: kC. Source: Wang et al., CVPR 2020, section 3.2, Eq. 6 and 7 and Table 2. (Eq. 6 prints a band on one
    side of the diagonal; the official code, and this, centre it.)

    Args:
        channels: C.
        kernel_size: k, odd; None for the adaptive rule :func:`adaptive_kernel_size` on C.

    Raises:
        ValueError: ``kernel_size`` is even or not positive.
    """

    family = "eca-ns"

    def __init__(self, channels: int, kernel_size: int | None = None, *, device=None, dtype=None):
        super().__init__(channels)
        k = adaptive_kernel_size(self.channels) if kernel_size is None else kernel_size
        self.kernel_size = checks.kernel_size(k, "ECANS: kernel_size")
        self.excite = Neighbourhood(self.channels, self.kernel_size, device=device, dtype=dtype)


def _cbam(channels: int, **options) -> nn.Module:
    from .cbam import CBAM

    return CBAM(channels, **options)


def _gsop(channels: int, **options) -> nn.Module:
    from .gsop import GSoP

    return GSoP(channels, **options)


def _gather_excite(channels: int, variant: str, **options) -> nn.Module:
    from .gather_excite import GatherExcite

    return GatherExcite(channels, variant, **options)


FAMILIES: dict[str, Callable[..., nn.Module] | None] = {
    "none": None,
    "se": SE,
    "se-var1": SEVar1,
    "se-var2": SEVar2,
    "se-var3": SEVar3,
    "se-gc1": partial(SEGC, groups=16),
    "se-gc2": partial(SEGC, group_size=16),
    "se-gc3": partial(SEGC, group_size=8),
    "eca": ECA,
    "eca-ns": ECANS,
    "cbam": _cbam,
    "gsop": _gsop,
    "ge-theta-minus": partial(_gather_excite, variant="minus"),
    "ge-theta": partial(_gather_excite, variant="plain"),
    "ge-theta-plus": partial(_gather_excite, variant="plus"),
}
"""What :func:`build` knows, by name. ``none`` is the identity: no attention."""


def _family(name: str) -> Callable[..., nn.Module] | None:
    try:
        return FAMILIES[name]
    except KeyError:
        known = ", ".join(FAMILIES)
        raise ValueError(f"attention: no module is called {name!r}. Known: {known}.") from None


def build(name: str, channels: int, **options) -> nn.Module:
    """Make one attention module by name.

    Args:
        name: One of :data:`FAMILIES`.
        channels: C.
        **options: What the module takes: ``kernel_size`` (eca, eca-ns), ``padding`` (eca), ``reduction`` (se, cbam,
            ge-theta-plus), ``hidden`` and ``bias`` (se), ``reduced`` and ``stride`` (gsop), ``extent`` or ``size``
            (ge-*).

    Returns:
        The module; for ``"none"`` an ``nn.Identity``.

    Raises:
        ValueError: Unknown name, or options out of range.
        TypeError: An option that the module does not take.
    """
    factory = _family(name)
    return nn.Identity() if factory is None else factory(channels, **options)


def layer(name: str, **options) -> Callable[..., nn.Module] | None:
    """The constructor a network calls with ``channels`` for each of its blocks; None for ``"none"``.

    This is what timm's ResNet takes as ``attn_layer`` (it adds ``device=`` and ``dtype=``).
    """
    factory = _family(name)
    return None if factory is None else partial(factory, **options)
