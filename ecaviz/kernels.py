"""ECA's kernels: the rule that picks k, the kernels that were learned, and what another k would make of the gates.

    rule_table([64, 256, 2048])                  # what ψ(C) says, by each of its readings
    rule_curve(2, 4096).ties                     # the C where the formula does not say which odd number
    learned_kernels(model)                       # the weights of every ECA site, tidy
    kernel = resize_kernel(site.kernel, 9)       # cropped or zero-padded about its centre
    gates_for_kernel(descriptors, kernel)        # the gates it gives, without running the network

The last two are pure: with the descriptors of a site at hand (:func:`ecaviz.capture`), every k can be looked at without
the model. The gates are those of the site itself; what they do to the layers behind it is another question.

Source: Wang et al., "ECA-Net", CVPR 2020, Eq. 9, 11, 12 and Figure 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from torch import Tensor, nn

from . import checks
from .attention import adaptive_kernel_size, channel_conv
from .sites import ACTIVATIONS, GateSite, select_sites

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = [
    "KernelSummary",
    "RuleCurve",
    "adaptive_continuous",
    "adaptive_kernel_size",
    "gates_for_kernel",
    "kernel_summary",
    "learned_kernels",
    "resize_kernel",
    "rule_curve",
    "rule_table",
    "summarise_kernel",
]


# The rule.

_EXACT = 1e-9
"""How near to an even number a value is a tie: far below the step from one C to the next, far above rounding."""


def adaptive_continuous(channels: float, gamma: float = 2, b: float = 1) -> float:
    r"""\|log2(C)/γ + b/γ\|: what the adaptive rule rounds to an odd number.

    Args:
        channels: C, positive; need not be whole, so that the line between the steps can be drawn.
        gamma: γ, positive.
        b: The offset b.

    Raises:
        ValueError: ``channels`` or ``gamma`` is not positive.

    Source: Wang et al., CVPR 2020, Eq. 12.
    """
    if not channels > 0:
        raise ValueError(f"adaptive_continuous: channels must be positive, got {channels!r}.")
    if not gamma > 0:
        raise ValueError(f"adaptive_continuous: gamma must be positive, got {gamma!r}.")
    return abs((math.log2(channels) + b) / gamma)


def rule_table(channels: int | Iterable[int], gamma: float = 2, b: float = 1) -> pd.DataFrame:
    """The adaptive rule ψ(C; γ, b) by each of its readings.

    Args:
        channels: One C or several.
        gamma: γ, positive.
        b: The offset b.

    Returns:
        One row a C. Columns: channels; continuous (before rounding); nearest_odd_low and nearest_odd_high (the formula,
        "nearest odd": they differ where two odd numbers are equally near); tie (whether they do); paper_code (the code
        of the paper's Figure 3: truncate, then the next odd number; a tie goes up); timm (the same, at least 3).

    Raises:
        ValueError: A C below 1, or a ``gamma`` that is not positive.
    """
    import pandas as pd

    rows = []
    for c in [channels] if isinstance(channels, int) else channels:
        code = adaptive_kernel_size(c, gamma, b)
        value = adaptive_continuous(c, gamma, b)
        low, high = _nearest_odd(value)
        rows.append(
            {
                "channels": int(c),
                "continuous": value,
                "nearest_odd_low": low,
                "nearest_odd_high": high,
                "tie": low != high,
                "paper_code": code,
                "timm": max(code, 3),
            }
        )
    columns = ["channels", "continuous", "nearest_odd_low", "nearest_odd_high", "tie", "paper_code", "timm"]
    return pd.DataFrame(rows, columns=columns)


def _nearest_odd(value: float) -> tuple[int, int]:
    """The odd number nearest to a value of at least 0; at an even whole number both neighbours (above 0)."""
    even = 2 * round(value / 2)
    if math.isclose(value, even, rel_tol=0, abs_tol=_EXACT):
        return max(even - 1, 1), even + 1
    odd = 2 * math.floor(value / 2) + 1
    return odd, odd


@dataclass(frozen=True, eq=False)
class RuleCurve:
    """The adaptive rule over every whole C of a range, as arrays of equal length.

    Attributes:
        gamma: γ.
        b: The offset b.
        channels: The C, each one more than the one before.
        continuous: What the rule rounds.
        paper_code: k by the code of the paper's Figure 3.
        tie: Whether the formula gives an even number, to which two odd ones are equally near.
    """

    gamma: float
    b: float
    channels: np.ndarray
    continuous: np.ndarray
    paper_code: np.ndarray
    tie: np.ndarray

    def __repr__(self) -> str:
        return (
            f"RuleCurve(gamma={self.gamma:g}, b={self.b:g}, C = {self.channels[0]} … {self.channels[-1]}, "
            f"ties at {self.ties or 'none'})"
        )

    @property
    def timm(self) -> np.ndarray:
        """What timm's rule gives: the paper's code, but at least 3."""
        return self.paper_code.clip(min=3)

    @property
    def ties(self) -> list[int]:
        """The C of the exact ties: 8, 128, 2048, … for γ = 2, b = 1."""
        return self.channels[self.tie].tolist()


def rule_curve(smallest: int = 2, largest: int = 4096, gamma: float = 2, b: float = 1) -> RuleCurve:
    """The adaptive rule over every C of a range: what :func:`rule_table` says of each, but as arrays, and fast.

    Args:
        smallest: The first C, at least 1.
        largest: The last C, above the first.
        gamma: γ, positive.
        b: The offset b.

    Raises:
        ValueError: No range, or a ``gamma`` or ``b`` that cannot be.

    Source: Wang et al., CVPR 2020, Eq. 12 and Figure 3.
    """
    import numpy as np

    gamma, b = checks.rule(gamma, b, "rule_curve")
    smallest = checks.at_least_one(smallest, "rule_curve: smallest")
    largest = checks.at_least_one(largest, "rule_curve: largest")
    if smallest >= largest:
        raise ValueError(f"rule_curve: smallest must be below largest, got {smallest} and {largest}.")
    channels, log2 = _log2(smallest, largest)
    continuous = np.abs((log2 + b) / gamma)
    truncated = continuous.astype(np.int64)
    even = 2 * np.rint(continuous / 2)  # next to 0 there is one odd number above 0, so 0 is no tie
    tie = (np.abs(continuous - even) <= _EXACT) & (even > 0)
    return RuleCurve(gamma, b, channels, continuous, truncated + 1 - truncated % 2, tie)


@lru_cache(maxsize=8)
def _log2(smallest: int, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """C and log2(C), by the function that the rule itself takes: to the last bit the same at the ties."""
    import numpy as np

    channels = np.arange(smallest, largest + 1)
    return channels, np.array([math.log2(c) for c in channels.tolist()])


# Kernels as vectors.


def resize_kernel(kernel: Tensor, kernel_size: int) -> Tensor:
    """A kernel with another k: cropped, or padded with zeros, about its centre. A new tensor; nothing is rescaled.

    Args:
        kernel: k weights, k odd.
        kernel_size: The new k, odd.

    Raises:
        ValueError: ``kernel`` is no vector of odd length, or ``kernel_size`` is even or not positive.
    """
    old = _length(kernel, "resize_kernel")
    new = checks.kernel_size(kernel_size, "resize_kernel: kernel_size")
    change = (new - old) // 2
    return nn.functional.pad(kernel, (change, change))  # by a negative number: cropped


def gates_for_kernel(
    descriptors: Tensor,
    kernel: Tensor,
    padding: str = "zeros",
    activation: str | Callable[[Tensor], Tensor] = "sigmoid",
) -> Tensor:
    """The gates ω = a(Conv1D_k(y)) that a kernel makes of descriptors.

    Args:
        descriptors: y, N×C, as captured.
        kernel: k weights, k odd; taken to the descriptors' device and dtype.
        padding: "zeros" (the paper) or "circular" (timm's CecaModule; then (k−1)/2 ≤ C).
        activation: a: a name of :data:`ecaviz.gates.ACTIVATIONS`, or a function of the logits.

    Returns:
        ω, N×C, in the descriptors' dtype.

    Raises:
        ValueError: Shapes other than N×C and k, an even k, an unknown padding or activation, or a circular padding that
            goes round the channels more than once.
    """
    k = _length(kernel, "gates_for_kernel")
    if descriptors.ndim != 2:
        raise ValueError(f"gates_for_kernel: descriptors must be N×C, got shape {tuple(descriptors.shape)}.")
    checks.padding(padding, k, descriptors.shape[1], "gates_for_kernel")
    if not callable(activation):
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"gates_for_kernel: no activation is called {activation!r}. Known: {', '.join(ACTIVATIONS)}; or give a "
                f"function."
            )
        activation = ACTIVATIONS[activation]
    return activation(channel_conv(descriptors, kernel.to(descriptors), padding))


def _length(kernel: Tensor, what: str) -> int:
    if kernel.ndim != 1:
        raise ValueError(f"{what}: the kernel must be a vector of k weights, got shape {tuple(kernel.shape)}.")
    return checks.kernel_size(len(kernel), f"{what}: the length of the kernel")


@dataclass(frozen=True)
class KernelSummary:
    r"""A kernel in three numbers; each is NaN where it would be 0/0.

    Attributes:
        centre_share: \|w_0\| / Σ\|w\|, 0…1: how much of the kernel is the channel's own weight; 1 for k = 1.
        sum: Σw: the logit of a descriptor that is 1 everywhere, away from the ends.
        symmetry: ‖(w + reversed w)/2‖² / ‖w‖², 0…1: share of the energy that looks the same in both directions. 1 for a
            mirror image of itself, 0 for one that changes sign when reversed.
    """

    centre_share: float
    sum: float
    symmetry: float


def summarise_kernel(kernel: Tensor) -> KernelSummary:
    """Centre share, sum and symmetry of a kernel; see :class:`KernelSummary`.

    Raises:
        ValueError: ``kernel`` is no vector of odd length.
    """
    k = _length(kernel, "summarise_kernel")
    w = kernel.detach().cpu().double()
    even = (w + w.flip(0)) / 2
    return KernelSummary(
        centre_share=float(w[k // 2].abs() / w.abs().sum()),
        sum=float(w.sum()),
        symmetry=float(even.square().sum() / w.square().sum()),
    )


# The kernels of a model.


def learned_kernels(model) -> pd.DataFrame:
    """The weights of every ECA site of a model.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.

    Returns:
        One row a weight. Columns: site; depth (0 for the first ECA site of the model); channels; k; offset (the
        neighbour that the weight is for: −(k−1)/2 … (k−1)/2, 0 the channel itself); weight.

    Raises:
        ValueError: The model has no gates, or none is an ECA.
    """
    import pandas as pd

    rows = [
        (site.name, depth, site.channels, site.kernel_size, offset, weight)
        for depth, site in enumerate(eca_sites(model, "learned_kernels"))
        for offset, weight in enumerate(site.kernel.cpu().tolist(), start=-(site.kernel_size // 2))
    ]
    return pd.DataFrame(rows, columns=["site", "depth", "channels", "k", "offset", "weight"])


def kernel_summary(model) -> pd.DataFrame:
    """Every ECA site of a model with its kernel in three numbers.

    Returns:
        One row a site. Columns: site, depth, channels, k, and centre_share, sum, symmetry of :class:`KernelSummary`.

    Raises:
        ValueError: The model has no gates, or none is an ECA.
    """
    import pandas as pd

    rows = []
    for depth, site in enumerate(eca_sites(model, "kernel_summary")):
        about = summarise_kernel(site.kernel)
        rows.append((site.name, depth, site.channels, site.kernel_size, about.centre_share, about.sum, about.symmetry))
    columns = ["site", "depth", "channels", "k", "centre_share", "sum", "symmetry"]
    return pd.DataFrame(rows, columns=columns)


def eca_sites(model, what: str) -> list[GateSite]:
    """The ECA sites of a model; a ValueError that begins with ``what`` if there are none."""
    return ecas_among(select_sites(model), what)


def ecas_among(every: Sequence[GateSite], what: str, *, unshared: bool = False) -> list[GateSite]:
    """The ECAs among the sites of a model, with ``unshared`` the ECA-NS too; if none, a ValueError, ``what`` first."""
    families = ("eca", "eca-ns") if unshared else ("eca",)
    sites = [site for site in every if site.family in families]
    if not sites:
        wanted = "an ECA or ECA-NS, which alone have kernels" if unshared else "an ECA, which alone has a kernel"
        found = ", ".join(sorted({site.family for site in every}))
        raise ValueError(
            f"{what}: the model has {len(every)} gates, but none is {wanted} over the channels. "
            f"Families found: {found}."
        )
    return sites
