"""What an ECA or an SE allows, from its shape alone: pairs, rank and cost, plain arithmetic for tables and sliders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import checks
from .attention import adaptive_kernel_size

__all__ = [
    "COVERED",
    "Structure",
    "eca_structure",
    "multiply_adds",
    "not_covered",
    "parameters",
    "se_structure",
    "structural_pairs",
]

COVERED: tuple[str, ...] = ("eca", "se")
"""Families whose interaction matrix this module knows in closed form."""


def structural_pairs(
    family: str,
    channels: int,
    *,
    kernel_size: int | None = None,
    reduction: int | None = None,
    padding: str = "zeros",
) -> int:
    """The number of channel pairs (i, j), of C², in which descriptor j can move logit i.

    ECA with zero padding: kC − (k²−1)/4 while (k−1)/2 ≤ C, and C² from there on. ECA with circular padding: kC, at most
    C². SE: C², whatever r is.

    Args:
        family: "eca" or "se".
        channels: C.
        kernel_size: k, for "eca".
        reduction: r, for "se".
        padding: "zeros" or "circular", for "eca".

    Raises:
        ValueError: Another family, an even k, an r that leaves no hidden unit, or a missing k or r.
    """
    size = _size(family, channels, kernel_size, reduction, padding)
    if family == "se":
        return channels * channels
    if padding == "circular":
        return min(size, channels) * channels
    reach = min((size - 1) // 2, channels)
    return (2 * reach + 1) * channels - reach * (reach + 1)


def parameters(
    family: str, channels: int, *, kernel_size: int | None = None, reduction: int | None = None, bias: bool = False
) -> int:
    """Number of parameters of one module. ECA: k. SE: 2·C·⌊C/r⌋, and ⌊C/r⌋ + C more with biases.

    Arguments and errors are those of :func:`structural_pairs`; ``bias`` is for "se".
    """
    size = _size(family, channels, kernel_size, reduction)
    if family == "eca":
        return size
    return 2 * channels * size + (size + channels if bias else 0)


def multiply_adds(family: str, channels: int, *, kernel_size: int | None = None, reduction: int | None = None) -> int:
    """Multiply-adds of one excitation for one image. ECA: k·C (padding counted). SE: 2·C·⌊C/r⌋.

    The squeeze and the rescaling are left out: they are the same for every family. Arguments and errors are those of
    :func:`structural_pairs`.
    """
    size = _size(family, channels, kernel_size, reduction)
    return size * channels if family == "eca" else 2 * size * channels


def _size(family: str, channels: int, kernel_size, reduction, padding: str = "zeros") -> int:
    """The k of an ECA, the hidden units of an SE; every check of a shape is here."""
    channels = checks.at_least_one(channels, "interaction: channels")
    if family == "eca":
        if kernel_size is None:
            raise ValueError('interaction: "eca" needs kernel_size=, an odd number such as 3.')
        k = checks.kernel_size(kernel_size, "interaction: kernel_size")
        checks.padding(padding, k, channels, "interaction")
        return k
    if family == "se":
        if reduction is None:
            raise ValueError('interaction: "se" needs reduction=, a whole number such as 16.')
        return checks.hidden_units(channels, reduction, "interaction")
    raise not_covered(family)


def not_covered(family: str, site: str = "") -> ValueError:
    """The error for a family without a closed form here."""
    where = f" of the site {site!r}" if site else ""
    return ValueError(
        f"interaction: no closed form for the family {family!r}{where}. Families covered: {', '.join(COVERED)}."
    )


@dataclass(frozen=True)
class Structure:
    """What an ECA or an SE of a given shape allows, before any weight is known.

    Attributes:
        family: "eca" or "se".
        channels: C.
        kernel_size: k, or None.
        padding: "zeros" or "circular"; None for SE.
        reduction: r, or None.
        hidden: Hidden units ⌊C/r⌋, or None.
        pairs: Channel pairs, of C², that can interact.
        rank: Rank of J for generic weights: C for ECA, min(C, ⌊C/r⌋) for SE.
        parameters: Parameters of the module.
        multiply_adds: Multiply-adds of the excitation, per image.
    """

    family: str
    channels: int
    kernel_size: int | None
    padding: str | None
    reduction: int | None
    hidden: int | None
    pairs: int
    rank: int
    parameters: int
    multiply_adds: int

    @property
    def structural(self) -> float:
        """Share of the C² pairs that can interact, 0…1."""
        return self.pairs / self.channels**2

    @property
    def rank_share(self) -> float:
        """rank/C, 0…1."""
        return self.rank / self.channels

    @property
    def partners(self) -> Tensor:
        """C whole numbers: how many channels each gate can listen to. They add up to ``pairs``."""
        i = torch.arange(self.channels)
        if self.family == "se":
            return torch.full_like(i, self.channels)
        if self.padding == "circular":
            return torch.full_like(i, min(self.kernel_size, self.channels))
        reach = (self.kernel_size - 1) // 2
        return (i + reach).clamp(max=self.channels - 1) - (i - reach).clamp(min=0) + 1

    @property
    def matrix(self) -> Tensor:
        """C×C, float32: 1 where descriptor j (column) can move logit i (row), else 0. Formed at each call."""
        if self.family == "se":
            return torch.ones(self.channels, self.channels)
        i = torch.arange(self.channels)
        distance = (i[:, None] - i).abs_()
        if self.padding == "circular":
            distance = torch.minimum(distance, self.channels - distance)
        return (distance <= (self.kernel_size - 1) // 2).float()


def eca_structure(channels: int, kernel_size: int | None = None, padding: str = "zeros") -> Structure:
    """What an ECA of C channels and kernel size k allows; k = None takes the adaptive rule.

    Raises:
        ValueError: An even or negative k, an unknown padding, C below 1.
    """
    if kernel_size is None:
        kernel_size = adaptive_kernel_size(channels)
    k = _size("eca", channels, kernel_size, None, padding)
    return Structure(
        family="eca",
        channels=channels,
        kernel_size=k,
        padding=padding,
        reduction=None,
        hidden=None,
        pairs=structural_pairs("eca", channels, kernel_size=k, padding=padding),
        rank=channels,
        parameters=parameters("eca", channels, kernel_size=k),
        multiply_adds=multiply_adds("eca", channels, kernel_size=k),
    )


def se_structure(channels: int, reduction: int = 16, *, bias: bool = False) -> Structure:
    """What an SE of C channels and reduction r allows; ``bias`` adds to the parameters alone.

    Raises:
        ValueError: r below 1, or one that leaves no hidden unit.
    """
    hidden = _size("se", channels, None, reduction)
    return Structure(
        family="se",
        channels=channels,
        kernel_size=None,
        padding=None,
        reduction=int(reduction),
        hidden=hidden,
        pairs=structural_pairs("se", channels, reduction=reduction),
        rank=hidden,
        parameters=parameters("se", channels, reduction=reduction, bias=bias),
        multiply_adds=multiply_adds("se", channels, reduction=reduction),
    )
