"""The forms an interaction matrix comes in: a band (ECA), a product of low rank (SE), and any other matrix.

Each knows its dense matrix, its singular values, and what its rows and its diagonals add up to, without forming what
need not be formed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from . import checks
from .attention import channel_conv

__all__ = ["Band", "Dense", "LowRank"]

EPSILON = torch.finfo(torch.float64).eps
_ROWS = 256  # rows of J held at once where J is not formed
_NUMBERS = 2**20  # numbers of each factor held at once where single entries of J are asked for
_BANDED_UP_TO = 21  # k up to which LAPACK's banded eigenvalues are quicker than dense singular values (C = 1024, 2048)


@dataclass(frozen=True, eq=False)
class Band:
    """J of one kernel shared by all channels: J_ij = w_(j−i+(k−1)/2) within the band, else 0; circular: wrapped around.

    Attributes:
        kernel: The k weights, float64 on the CPU.
        channels: C.
        padding: "zeros" or "circular".
    """

    kernel: Tensor
    channels: int
    padding: str = "zeros"

    def __post_init__(self):
        if self.kernel.ndim != 1:
            raise ValueError(f"Band: the kernel must be a vector of k weights, got shape {tuple(self.kernel.shape)}.")
        k = checks.kernel_size(len(self.kernel), "Band: the length of the kernel")
        checks.padding(self.padding, k, self.channels, "Band")

    @property
    def reach(self) -> int:
        """(k−1)/2: how many neighbours on either side."""
        return (len(self.kernel) - 1) // 2

    @cached_property
    def _wrapped(self) -> Tensor:
        """The first row of the circular J, C weights; taps that meet on one channel add up."""
        offset = torch.arange(-self.reach, self.reach + 1) % self.channels
        return self.kernel.new_zeros(self.channels).index_add_(0, offset, self.kernel)

    def dense(self) -> Tensor:
        """J, C×C float64."""
        i = torch.arange(self.channels)
        offset = i - i[:, None]
        if self.padding == "circular":
            return self._wrapped[offset % self.channels]
        tap = offset + self.reach
        inside = (tap >= 0) & (tap < len(self.kernel))
        return torch.where(inside, self.kernel[tap.clamp(0, len(self.kernel) - 1)], 0.0)

    def apply(self, y: Tensor) -> Tensor:
        """J·y for every row of descriptors, N×C → N×C, float64."""
        return channel_conv(y.double(), self.kernel, self.padding)

    def entries(self, rows: Tensor, columns: Tensor) -> Tensor:
        """J_ij for every pair of a row i and a column j, int64 in 0 … C−1; float64, of the shape they broadcast to."""
        offset = columns - rows
        if self.padding == "circular":
            return self._wrapped[offset.remainder_(self.channels)]
        inside = offset.abs() <= self.reach
        return torch.where(inside, self.kernel[offset.add_(self.reach).clamp_(0, len(self.kernel) - 1)], 0.0)

    def row(self, i: int) -> Tensor:
        """J_i·, C numbers: whom gate i listens to."""
        return self.entries(torch.tensor(i), torch.arange(self.channels))

    def rows(self) -> tuple[Tensor, Tensor]:
        """Participation and directness of every row, C and C numbers; see :class:`~ecaviz.measures.Coverage`."""
        if self.padding == "circular":
            square = self._wrapped.square()[None]
            partners, direct = _partners(square), _directness(square[:, 0], square)
            return partners.expand(self.channels), direct.expand(self.channels)
        at = torch.arange(self.channels)[:, None] + torch.arange(-self.reach, self.reach + 1)
        square = torch.where((at >= 0) & (at < self.channels), self.kernel.square(), 0.0)  # C×k
        return _partners(square), _directness(square[:, self.reach], square)

    def energy_by_distance(self) -> Tensor:
        """Σ of J_ij² over |i−j| = d, for d = 0 … C−1."""
        energy = self.kernel.new_zeros(self.channels)
        if self.padding == "circular":
            square, d = self._wrapped.square(), torch.arange(self.channels)
            energy += (self.channels - d) * square  # j − i = d
            return energy.index_add_(0, (self.channels - d) % self.channels, d * square)  # j − i = d − C
        for tap, weight in enumerate(self.kernel):
            d = abs(tap - self.reach)
            if d < self.channels:
                energy[d] += (self.channels - d) * weight.square()
        return energy

    def singular_values(self) -> Tensor:
        """The C singular values, largest first, float64."""
        if self.padding == "circular":  # a circulant matrix is diagonal in the Fourier basis
            return torch.fft.fft(self._wrapped).abs().sort(descending=True).values
        if len(self.kernel) > _BANDED_UP_TO:
            return torch.linalg.svdvals(self.dense())
        # ±σ are the eigenvalues of [[0, J], [Jᵀ, 0]]. With row i put at 2i and column j at 2j+1 that matrix is a band
        # too, of width k: |2i − (2j+1)| = |2(j−i) + 1| ≤ k.
        from scipy.linalg import eigvals_banded

        C, k = self.channels, len(self.kernel)
        band = torch.zeros(k + 1, 2 * C, dtype=torch.float64)
        for tap, weight in enumerate(self.kernel):
            offset = tap - self.reach
            if abs(offset) >= C:
                continue
            i = torch.arange(max(0, -offset), min(C, C - offset))
            row, column = 2 * i, 2 * (i + offset) + 1
            band[(row - column).abs(), torch.minimum(row, column)] = weight
        eigenvalues = torch.from_numpy(eigvals_banded(band.numpy(), lower=True))  # ascending, in pairs ±σ
        return eigenvalues[C:].flip(0).clamp(min=0)


class _Rows:
    """What is read of squares of J a block of rows at a time."""

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        """First row and squares of each block, R×C."""
        raise NotImplementedError

    @cached_property
    def _by_row(self) -> tuple[Tensor, Tensor]:
        partners, direct = [], []
        for start, square in self._blocks():
            partners.append(_partners(square))
            direct.append(_directness(square.diagonal(start), square))
        return torch.cat(partners), torch.cat(direct)

    @cached_property
    def _by_distance(self) -> Tensor:
        energy = torch.zeros(0, dtype=torch.float64)
        for start, square in self._blocks():
            channels = square.shape[1]
            rows, columns = torch.arange(start, start + len(square))[:, None], torch.arange(channels)
            distance = (rows - columns).abs_().flatten()
            part = torch.bincount(distance, weights=square.flatten(), minlength=channels)
            energy = part if not len(energy) else energy + part
        return energy

    def rows(self) -> tuple[Tensor, Tensor]:
        """Participation and directness of every row, C and C numbers; see :class:`~ecaviz.measures.Coverage`."""
        return self._by_row

    def energy_by_distance(self) -> Tensor:
        """Σ of J_ij² over |i−j| = d, for d = 0 … C−1."""
        return self._by_distance


@dataclass(frozen=True, eq=False)
class Dense(_Rows):
    """J as it is: of one full layer, of groups, of unshared kernels, of a diagonal.

    Attributes:
        whole: C×C, float64 on the CPU.
        epsilon: Relative rounding of what computed it, which decides what counts for the rank.
    """

    whole: Tensor
    epsilon: float = EPSILON

    @property
    def channels(self) -> int:
        """C."""
        return len(self.whole)

    def __post_init__(self):
        if self.whole.ndim != 2 or self.whole.shape[0] != self.whole.shape[1]:
            raise ValueError(f"Dense: expected a matrix C×C, got shape {tuple(self.whole.shape)}.")

    def dense(self) -> Tensor:
        """J, C×C float64."""
        return self.whole

    def apply(self, y: Tensor) -> Tensor:
        """J·y for every row of descriptors, N×C → N×C, float64."""
        return y.double() @ self.whole.T

    def entries(self, rows: Tensor, columns: Tensor) -> Tensor:
        """J_ij for every pair of a row i and a column j, int64 in 0 … C−1; float64, of the shape they broadcast to."""
        return self.whole[rows, columns]

    def row(self, i: int) -> Tensor:
        """J_i·, C numbers: whom gate i listens to."""
        return self.whole[i]

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, len(self.whole), _ROWS):
            yield start, self.whole[start : start + _ROWS].square()

    def singular_values(self) -> Tensor:
        """The C singular values, largest first, float64."""
        return torch.linalg.svdvals(self.whole)


@dataclass(frozen=True, eq=False)
class LowRank(_Rows):
    """J through a bottleneck: left · right, kept as its factors; J itself is formed only by :meth:`dense`.

    Attributes:
        left: C×hidden, float64 on the CPU: W2, or W2·diag(p).
        right: hidden×C, float64 on the CPU: W1.
    """

    left: Tensor
    right: Tensor

    @property
    def channels(self) -> int:
        """C."""
        return len(self.left)

    def __post_init__(self):
        if self.left.shape != self.right.T.shape:
            raise ValueError(
                f"LowRank: expected factors C×hidden and hidden×C, got {tuple(self.left.shape)} and "
                f"{tuple(self.right.shape)}."
            )

    def dense(self) -> Tensor:
        """J, C×C float64."""
        return self.left @ self.right

    def entries(self, rows: Tensor, columns: Tensor) -> Tensor:
        """J_ij for every pair of a row i and a column j, int64 in 0 … C−1; float64, of the shape they broadcast to.

        Each costs a product of hidden numbers: for some pairs, not for all C².
        """
        rows, columns = torch.broadcast_tensors(rows, columns)
        at_once = max(1, _NUMBERS // max(1, len(self.right)))
        right = self.right.T.contiguous()  # what belongs to one channel stands together
        pairs = zip(rows.flatten().split(at_once), columns.flatten().split(at_once), strict=True)
        return torch.cat([(self.left[i] * right[j]).sum(dim=1) for i, j in pairs]).view(rows.shape)

    def row(self, i: int) -> Tensor:
        """J_i·, C numbers: whom gate i listens to."""
        return self.left[i] @ self.right

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, len(self.left), _ROWS):
            yield start, (self.left[start : start + _ROWS] @ self.right).square_()

    def directness(self) -> Tensor:
        """J_ii²/Σ_j J_ij² of every row from the factors alone: Σ_j J_ij² = l·(R·Rᵀ)·l with l the row of ``left``."""
        square = ((self.left @ (self.right @ self.right.T)) * self.left).sum(dim=1)
        return (self.left * self.right.T).sum(dim=1).square() / square.clamp(min=0)

    def energy_within(self, reach: int) -> tuple[float, float]:
        """Σ of J_ij² over |i−j| ≤ reach, and over all i and j: from the factors, 2·reach + 1 diagonals and no more."""
        whole = float(((self.left.T @ self.left) * (self.right @ self.right.T)).sum())
        columns, C = self.right.T, len(self.left)
        inside = (self.left * columns).sum(dim=1).square().sum()
        for d in range(1, min(reach, C - 1) + 1):
            inside += (self.left[d:] * columns[:-d]).sum(dim=1).square().sum()
            inside += (self.left[:-d] * columns[d:]).sum(dim=1).square().sum()
        return float(inside), whole

    def singular_values(self) -> Tensor:
        """The min(C, hidden) singular values that can differ from zero, largest first, float64."""
        used = (self.left != 0).any(dim=0) & (self.right != 0).any(dim=1)
        left, right = self.left[:, used], self.right[used]
        if left.shape[1] == 0:
            return left.new_zeros(0)
        # QR of both factors leaves the singular values to a hidden×hidden matrix.
        left, right = torch.linalg.qr(left, mode="r").R, torch.linalg.qr(right.T, mode="r").R
        return torch.linalg.svdvals(left @ right.T)


def _partners(square: Tensor) -> Tensor:
    """exp(entropy) of every row of squares, normalised; 0 for a row of zeros. R×C → R."""
    total = square.sum(dim=1, keepdim=True)
    share = square / torch.where(total > 0, total, 1.0)
    return torch.where(total[:, 0] > 0, torch.special.entr(share).sum(dim=1).exp(), 0.0)


def _directness(diagonal: Tensor, square: Tensor) -> Tensor:
    """J_ii² / Σ_j J_ij² for every row; NaN for a row of zeros. R, R×C → R."""
    return diagonal / square.sum(dim=1)
