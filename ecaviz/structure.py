"""What a module of the family allows, from its shape alone: pairs, rank and cost. Plain arithmetic.

    structure("eca", 256, kernel_size=5)
    structure("gsop", 256, size=56).parameters

The names and the options are those of :func:`ecaviz.attention.build`; the numbers follow from them without a weight
being made. What weights make of it is in :mod:`ecaviz.interaction`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from . import checks
from .attention import FAMILIES, adaptive_kernel_size

__all__ = [
    "Structure",
    "eca_structure",
    "multiply_adds",
    "parameters",
    "se_structure",
    "structural_pairs",
    "structure",
]


@dataclass(frozen=True)
class Structure:
    """What a module of a given shape allows, before any weight is known.

    Attributes:
        family: One of :data:`ecaviz.attention.FAMILIES`.
        channels: C.
        pairs: Channel pairs (i, j), of C², in which channel j can move the gate of channel i.
        rank: Rank of J = ∂z/∂y for generic weights; of CBAM, of each of its two maps. None where y is not C numbers
            (GSoP, Gather-Excite with an extent), so that there is no J.
        parameters: Parameters of the module.
        multiply_adds: Multiply-adds of its convolutions and layers for one image. What all modules do alike, the
            averaging and the rescaling, is left out, norms too. None where they depend on the size of the maps, and
            none was given.
        kernel_size: k, or None.
        padding: "zeros" or "circular"; None without a k.
        reduction: r, or None.
        hidden: Hidden units ⌊C/r⌋, or None.
        groups: Groups that channels interact within, or None.
        reduced: c of a GSoP, or None.
        extent: e of a Gather-Excite whose extent is smaller than the map, or None.
    """

    family: str
    channels: int
    pairs: int
    rank: int | None
    parameters: int
    multiply_adds: int | None
    kernel_size: int | None = None
    padding: str | None = None
    reduction: int | None = None
    hidden: int | None = None
    groups: int | None = None
    reduced: int | None = None
    extent: int | None = None

    @property
    def structural(self) -> float:
        """Share of the C² pairs that can interact, 0…1."""
        return self.pairs / self.channels**2

    @property
    def rank_share(self) -> float | None:
        """rank/C, 0…1; None without a rank."""
        return None if self.rank is None else self.rank / self.channels

    @property
    def partners(self) -> Tensor:
        """C whole numbers: how many channels each gate can listen to. They add up to ``pairs``."""
        i = torch.arange(self.channels)
        if self.kernel_size is None:
            return torch.full_like(i, self.channels // (self.groups or 1))
        if self.padding == "circular":
            return torch.full_like(i, min(self.kernel_size, self.channels))
        reach = (self.kernel_size - 1) // 2
        return (i + reach).clamp(max=self.channels - 1) - (i - reach).clamp(min=0) + 1

    @property
    def matrix(self) -> Tensor:
        """C×C, float32: 1 where channel j (column) can move the gate of channel i (row), else 0."""
        i = torch.arange(self.channels)
        if self.kernel_size is None:
            group = i // (self.channels // (self.groups or 1))
            return (group[:, None] == group).float()
        distance = (i[:, None] - i).abs_()
        if self.padding == "circular":
            distance = torch.minimum(distance, self.channels - distance)
        return (distance <= (self.kernel_size - 1) // 2).float()


# ----------------------------------------------------------------------------------------------------- module by module


def _alone(family: str, /, channels: int, *, cost: bool) -> Structure:
    """Every channel by itself."""
    total = channels if cost else 0
    return Structure(family, channels, channels, channels, total, total, groups=channels)


def _full(channels: int) -> Structure:
    return Structure("se-var3", channels, channels**2, channels, channels**2, channels**2, groups=1)


def _grouped(family: str, groups: int, /, channels: int) -> Structure:
    if channels % groups:
        raise ValueError(
            f"structure: C = {channels} channels cannot be divided evenly into {groups} groups ({family})."
        )
    pairs = channels**2 // groups
    return Structure(family, channels, pairs, channels, pairs, pairs, groups=groups)


def _sized(family: str, group_size: int, /, channels: int) -> Structure:
    if channels % group_size:
        raise ValueError(
            f"structure: C = {channels} channels cannot be divided evenly into groups of {group_size} ({family})."
        )
    return _grouped(family, channels // group_size, channels)


def _band(family: str, /, channels: int, kernel_size: int | None = None, padding: str = "zeros") -> Structure:
    k = adaptive_kernel_size(channels) if kernel_size is None else kernel_size
    k = checks.kernel_size(k, "structure: kernel_size")
    checks.padding(padding, k, channels, "structure")
    reach = min((k - 1) // 2, channels)
    pairs = (2 * reach + 1) * channels - reach * (reach + 1)
    if padding == "circular":
        pairs = min(k, channels) * channels
    cost = k if family == "eca" else k * channels
    return Structure(family, channels, pairs, channels, cost, k * channels, kernel_size=k, padding=padding)


def _unshared(channels: int, kernel_size: int | None = None) -> Structure:
    return _band("eca-ns", channels, kernel_size)


def _hidden(channels: int, reduction: object) -> int:
    return checks.hidden_units(channels, reduction, "structure")


def _se(channels: int, reduction: int = 16, *, bias: bool = False) -> Structure:
    h = _hidden(channels, reduction)
    cost = 2 * channels * h
    biases = h + channels if bias else 0
    return Structure("se", channels, channels**2, h, cost + biases, cost, reduction=int(reduction), hidden=h)


def _cbam(
    channels: int,
    reduction: int = 16,
    *,
    bias: bool = True,
    spatial: bool = True,
    size: int | tuple[int, int] | None = None,
) -> Structure:
    h = _hidden(channels, reduction)
    cost = 2 * channels * h
    biases = h + channels if bias else 0
    adds: int | None = 2 * cost  # one MLP, run on the mean and on the maximum
    if spatial:
        adds = None if size is None else adds + 98 * _area(size)
    total = cost + biases + (100 if spatial else 0)
    return Structure("cbam", channels, channels**2, h, total, adds, reduction=int(reduction), hidden=h)


def _gsop(
    channels: int, reduced: int = 128, *, stride: int = 1, size: int | tuple[int, int] | None = None
) -> Structure:
    c = checks.at_least_one(reduced, "structure: reduced")
    total = (channels + 1) * c + 4 * c + 4 * c * c + 4 * c + (4 * c + 1) * channels
    adds = None
    if size is not None:
        positions = math.prod(-(-side // stride) for side in _sides(size))
        adds = positions * (channels * c + c * c) + 4 * c * c + 4 * c * channels
    return Structure("gsop", channels, channels**2, None, total, adds, reduced=c)


def _gather_excite(
    family: str,
    /,
    channels: int,
    *,
    extent: int | None = None,
    size: int | tuple[int, int] | None = None,
    reduction: int = 16,
) -> Structure:
    if extent not in (None, 2, 4, 8):
        raise ValueError(f"structure: extent must be 2, 4, 8, or None for the whole map; got {extent!r}.")
    gathers = family != "ge-theta-minus"
    if gathers and extent is None and size is None:
        raise ValueError(
            f"structure: {family} with the global extent has a kernel as large as the map; give its size=."
        )
    total, adds, out = 0, 0, 1
    if gathers and extent is None:
        total, adds = channels * _area(size) + 2 * channels, channels * _area(size)
    elif extent is not None:
        sides = None if size is None else _sides(size)
        for _ in range(int(math.log2(extent))):
            total += 11 * channels if gathers else 0
            if sides is not None:
                sides = tuple(-(-side // 2) for side in sides)
                adds += 9 * channels * math.prod(sides) if gathers else 0
        out = None if sides is None else math.prod(sides)
    plus = family == "ge-theta-plus"
    h = _hidden(channels, reduction) if plus else None
    if plus:
        total += 2 * channels * h + h + channels
        adds += 2 * channels * h * (out or 0)
    local = extent is not None
    return Structure(
        family,
        channels,
        pairs=channels**2 if plus else channels,
        rank=None if local else h if plus else channels,
        parameters=total,
        multiply_adds=None if local and gathers and size is None else adds,
        reduction=int(reduction) if plus else None,
        hidden=h,
        groups=1 if plus else channels,
        extent=extent,
    )


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return checks.sides(size, "structure: size")


def _area(size: int | tuple[int, int]) -> int:
    return math.prod(_sides(size))


_MADE: dict[str, Callable[..., Structure]] = {
    "se": _se,
    "se-var1": partial(_alone, "se-var1", cost=False),
    "se-var2": partial(_alone, "se-var2", cost=True),
    "se-var3": _full,
    "se-gc1": partial(_grouped, "se-gc1", 16),
    "se-gc2": partial(_sized, "se-gc2", 16),
    "se-gc3": partial(_sized, "se-gc3", 8),
    "eca": partial(_band, "eca"),
    "eca-ns": _unshared,
    "cbam": _cbam,
    "gsop": _gsop,
    **{name: partial(_gather_excite, name) for name in ("ge-theta-minus", "ge-theta", "ge-theta-plus")},
}


def structure(family: str, channels: int, /, **options) -> Structure:
    """What one module allows and costs.

    Pairs of ECA and ECA-NS with zero padding: kC − (k²−1)/4 while (k−1)/2 ≤ C, and C² from there on; with circular
    padding kC, at most C². SE, CBAM, GSoP, SE-Var3 and GE-θ⁺: C². SE-GC: C²/G. The rest: C.

    Args:
        family: One of :data:`ecaviz.attention.FAMILIES`, but "none".
        channels: C.
        **options: What :func:`ecaviz.attention.build` takes for that family; and ``size``, the side of the maps or
            (height, width), for the multiply-adds of those that look at maps: gsop, cbam, ge-*.

    Returns:
        The :class:`Structure`.

    Raises:
        ValueError: An unknown family, or options out of range.
        TypeError: An option that the family does not take.
    """
    channels = checks.at_least_one(channels, "structure: channels")
    if family not in _MADE:
        known = ", ".join(name for name in FAMILIES if name in _MADE)
        raise ValueError(f"structure: no module is called {family!r}. Known: {known}.")
    made = _MADE[family]
    known = [name for name in inspect.signature(made).parameters if name not in ("channels", "cost")]
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(
            f"structure: {family} takes no {', '.join(unknown)}; it takes {', '.join(known) or 'no options'}."
        )
    return made(channels=channels, **options)


def eca_structure(channels: int, kernel_size: int | None = None, padding: str = "zeros") -> Structure:
    """What an ECA of C channels and kernel size k allows; k = None takes the adaptive rule.

    Raises:
        ValueError: An even or negative k, an unknown padding, C below 1.
    """
    return structure("eca", channels, kernel_size=kernel_size, padding=padding)


def se_structure(channels: int, reduction: int = 16, *, bias: bool = False) -> Structure:
    """What an SE of C channels and reduction r allows; ``bias`` adds to the parameters alone.

    Raises:
        ValueError: r below 1, or one that leaves no hidden unit.
    """
    return structure("se", channels, reduction=reduction, bias=bias)


def structural_pairs(family: str, channels: int, **options) -> int:
    """The number of channel pairs, of C², that can interact; arguments and errors are those of :func:`structure`."""
    return structure(family, channels, **options).pairs


def parameters(family: str, channels: int, **options) -> int:
    """Number of parameters of one module; arguments and errors are those of :func:`structure`."""
    return structure(family, channels, **options).parameters


def multiply_adds(family: str, channels: int, **options) -> int | None:
    """Multiply-adds of one module for one image; arguments and errors are those of :func:`structure`."""
    return structure(family, channels, **options).multiply_adds
