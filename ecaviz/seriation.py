"""An order of the channels in which those that listen to each other are neighbours: spectral ordering of |J|².

Sources: Atkins, Boman & Hendrickson, SIAM J. Comput. 28(1), 1998; the vector it sorts by: Fiedler, Czechoslovak Math.
J. 25(4), 1975.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import checks
from .forms import Band, Dense, LowRank

if TYPE_CHECKING:
    from .interaction import InteractionMatrix

__all__ = ["Seriation", "seriate"]

_ROWS = 256  # rows of a C×C matrix worked on at once
_EPS = float(np.finfo(np.float64).eps)

# Of spectral ordering.
_EIGENVECTORS = 8  # asked for at first: almost always the first alone decides
_OF_ONE_EIGENSPACE = 8  # directions taken of one; where it has more, most channels are alike
_DEGENERATE = 1e-10  # eigenvalues that differ by less, relative to the largest, count as one
_TIES = 10 * _EPS  # times ‖L‖/gap: the rounding error of an eigenvector whose eigenvalue is that far from the next
_TIES_AT_LEAST = 1e-10  # relative to the largest entry, however wide the gap


# ---------------------------------------------------------------------------------------------------- what comes in


def form_of(matrix: object, what: str) -> Band | Dense | LowRank:
    """J in its form, float64 on the CPU, scaled so that its squares neither overflow nor vanish."""
    form = Dense(_checked(matrix, what)) if isinstance(matrix, Tensor) else getattr(matrix, "form", matrix)
    if isinstance(form, Band):
        scaled: Band | Dense | LowRank = Band(_unit(form.kernel, what), form.channels, form.padding)
    elif isinstance(form, LowRank):
        scaled = LowRank(_unit(form.left, what), _unit(form.right, what))
    elif isinstance(form, Dense):
        scaled = Dense(_unit(form.whole, what))
    else:
        raise TypeError(
            f"{what}: got a {type(matrix).__name__}; expected an InteractionMatrix, as interaction_matrix(model, site) "
            f"returns it, or a square torch.Tensor."
        )
    if scaled.channels == 0:
        raise ValueError(f"{what}: got a matrix of no channels; expected C×C with C of at least 1.")
    return scaled


def _checked(matrix: Tensor, what: str) -> Tensor:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"{what}: got a tensor of shape {tuple(matrix.shape)}; expected a square matrix C×C, one row a "
            f"gate and one column a channel."
        )
    if matrix.is_complex():
        raise TypeError(f"{what}: got a matrix of {matrix.dtype}; expected real numbers, such as matrix.abs().")
    return matrix


def _unit(numbers: Tensor, what: str) -> Tensor:
    """``numbers`` over the largest of them in size, float64 on the CPU."""
    numbers = numbers.detach().cpu().double()
    if not bool(numbers.isfinite().all()):
        bad = int((~numbers.isfinite()).sum())
        raise ValueError(
            f"{what}: {bad} of {numbers.numel()} numbers of the matrix are NaN or infinite; expected finite ones. "
            f"Look for a layer whose training diverged."
        )
    largest = float(numbers.abs().max()) if numbers.numel() else 0.0
    return numbers / largest if largest > 0 else numbers


def squares_of(form: Band | Dense | LowRank) -> Tensor:
    """J∘J, C×C, a tensor of its own."""
    if isinstance(form, Dense):
        return form.whole.square()
    if isinstance(form, LowRank):
        return form.dense().square_()
    C = form.channels
    squares, columns = torch.empty(C, C, dtype=torch.float64), torch.arange(C)
    for rows in columns.split(_ROWS):  # the indices of a band take more room than the band
        squares[rows] = form.entries(rows[:, None], columns).square_()
    return squares


def symmetric(squares: Tensor) -> Tensor:
    """``squares`` plus its transpose, in place: a second C×C would be the largest thing here."""
    blocks = range(0, len(squares), _ROWS)
    for a in blocks:
        for b in blocks:
            if a <= b:
                rows, columns = slice(a, a + _ROWS), slice(b, b + _ROWS)
                both = squares[rows, columns] + squares[columns, rows].T
                squares[rows, columns], squares[columns, rows] = both, both.T
    return squares


def energy_by_distance(squares: Tensor, order: Tensor | None = None) -> Tensor:
    """Σ of the squares at |p−q| = d, for d = 0 … C−1, once rows and columns stand in ``order``."""
    C = len(squares)
    at, energy = torch.arange(C), torch.zeros(C, dtype=torch.float64)
    order = at if order is None else order
    for rows in at.split(_ROWS):
        block = squares[order[rows]][:, order]
        energy += torch.bincount((rows[:, None] - at).abs_().flatten(), weights=block.flatten(), minlength=C)
    return energy


def sizes_of(sizes: Iterable[int] | None, channels: int, what: str) -> tuple[int, ...]:
    if sizes is None:
        k, doubled = 3, []
        while k < channels:
            doubled.append(k)
            k = 2 * k - 1
        return tuple(doubled) or (3,)
    if isinstance(sizes, str) or not isinstance(sizes, Iterable):
        raise TypeError(f"{what}: sizes must be several kernel sizes, such as (3, 5, 9); got {sizes!r}.")
    checked = tuple(sorted({checks.kernel_size(k, f"{what}: each of sizes") for k in sizes}))
    if not checked:
        raise ValueError(
            f"{what}: got no sizes; expected at least one odd k, such as (3, 5, 9), or None for the usual."
        )
    return checked


def reaches_of(sizes: Iterable[int], channels: int) -> Tensor:
    """(k−1)/2 of each size; none reaches further than C−1."""
    return torch.tensor([min((k - 1) // 2, channels - 1) for k in sizes])


# ------------------------------------------------------------------------------------------------- spectral ordering


@dataclass(frozen=True, eq=False)
class Seriation:
    r"""An ordering of the channels that puts those which interact next to each other. One that was found, not the best.

    Attributes:
        order: C int64: position p of the ordering holds channel ``order[p]``.
        components: How many parts of the channels do not interact with each other. A channel that interacts with no
            other is one of its own.
        energy_by_distance: C numbers that sum to 1: share of ‖J‖²_F at \|p−q\| = 0 … C−1 in the order found; NaN for
            J = 0.
        given_by_distance: The same in the order given.
    """

    order: Tensor
    components: int
    energy_by_distance: Tensor
    given_by_distance: Tensor

    def found(self, kernel_size: int) -> float:
        r"""Share of ‖J‖²_F within \|p−q\| ≤ (k−1)/2 in the order found, 0…1; NaN for J = 0.

        Raises:
            ValueError: ``kernel_size`` is even or not positive.
        """
        return _within(self.energy_by_distance, kernel_size, "found")

    def given(self, kernel_size: int) -> float:
        """The same in the order given."""
        return _within(self.given_by_distance, kernel_size, "given")

    def energy(self, kernel_size: int) -> float:
        """The larger of the two: the energy of an ordering that is known. There may be a better one.

        Spectral ordering makes Σ A_pq·(x_p − x_q)² small over real positions x, and not the energy outside one band;
        finding the best order for that is NP-hard.
        """
        return max(self.found(kernel_size), self.given(kernel_size))

    def __repr__(self) -> str:
        parts = f"{self.components} component" + ("" if self.components == 1 else "s")
        return (
            f"Seriation(C={len(self.order)}, {parts}: {self.found(3):.1%} of the energy within k=3, "
            f"{self.given(3):.1%} in the order given)"
        )


def _within(by_distance: Tensor, kernel_size: int, what: str) -> float:
    reach = (checks.kernel_size(kernel_size, f"{what}: kernel_size") - 1) // 2
    return float(by_distance[: reach + 1].sum())


def seriate(matrix: InteractionMatrix | Tensor) -> Seriation:
    """Order the channels by spectral ordering, so that those which interact stand near each other.

    The channels are the nodes of a graph with the affinities A = J∘J + (J∘J)ᵀ, without the diagonal. Each connected
    component is sorted by its Fiedler vector: the eigenvector of the smallest eigenvalue of the graph's Laplacian
    D − A apart from the constant one. The components are laid end to end, larger ones first; of two as large, the one
    with the lowest channel.

    An eigenvector is known up to its sign at best, and its entries can be equal. So there are rules, which do not look
    at the numbering of the channels as long as they can:

    1. Of each eigenspace one direction is taken: the projection of the indicator of one channel, the one whose
       projection is longest; of several, that with the lowest index. This settles an eigenvalue that is there twice,
       and the sign: that channel comes first. (In a ring of equal channels any choice is equivalent, and so is a
       reversal in any graph.)
    2. Channels whose entries are equal are told apart by the next direction: what is left of the eigenspace, orthogonal
       to those taken, by the same rule, up to eight times; then the next eigenspace. In the end, the index decides.
    3. Equal means equal up to the rounding of an eigenvector. An affinity below ε = 2.2e−16 of the largest degree is
       taken for zero, since the Laplacian cannot hold it; all of them together are less than C²·ε of the energy. Where
       a component is held together by affinities more than ten orders of magnitude below its largest, rounding may
       still choose between orders that differ in little.

    Args:
        matrix: What :func:`ecaviz.interaction_matrix` returns, or J itself, C×C.

    Returns:
        The :class:`Seriation`. J → c·J gives the same one, and so does Jᵀ.

    Raises:
        TypeError: ``matrix`` is neither of the two.
        ValueError: It is not square, empty, or has NaN or infinite entries.
    """
    form = form_of(matrix, "seriate")
    squares, given = squares_of(form), form.energy_by_distance()
    order, components, energy = seriated(squares)
    return Seriation(order, components, energy / energy.sum(), given / given.sum())


def seriated(squares: Tensor) -> tuple[Tensor, int, Tensor]:
    """An order of the channels, its components, and the energy by distance in it."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    affinity = (squares + squares.T).numpy()
    np.fill_diagonal(affinity, 0)
    affinity[affinity <= _EPS * affinity.sum(axis=1).max()] = 0
    _, label = connected_components(csr_array(affinity > 0), directed=False)  # of a dense one it drops all below 1e-8
    parts = np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label))[:-1])
    parts.sort(key=lambda part: (-len(part), part[0]))
    order = [part[_spectral(affinity[np.ix_(part, part)])] for part in parts]
    found = torch.from_numpy(np.concatenate(order).astype(np.int64))
    return found, len(parts), energy_by_distance(squares, found)


def _spectral(affinity: np.ndarray) -> np.ndarray:
    """The order of one connected graph, by the rules that :func:`seriate` tells; n×n → n."""
    n = len(affinity)
    if n < 3:
        return np.arange(n)
    places = np.zeros(n, dtype=np.int64)
    for direction, rounding in _directions(affinity):
        _, places = np.unique(places * n + _ranks(-direction, rounding), return_inverse=True)
        if places.max() == n - 1:
            break
    return np.argsort(places, kind="stable")


def _ranks(numbers: np.ndarray, rounding: float) -> np.ndarray:
    """The rank of each number; those that follow each other by no more than the rounding share theirs."""
    by_size = np.argsort(numbers, kind="stable")
    ranks = np.empty(len(numbers), dtype=np.int64)
    ranks[by_size] = np.concatenate([[0], np.cumsum(np.diff(numbers[by_size]) > rounding)])
    return ranks


def _directions(affinity: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """Directions to sort by, in the order of their eigenvalues, and what counts as equal in each; n×n → n."""
    from scipy.linalg import eigh

    n = len(affinity)
    degree = affinity.sum(axis=1)
    # The constant vector goes to the top of the spectrum (‖L‖ ≤ 2·largest degree), so that it cannot mix with a Fiedler
    # vector whose eigenvalue is next to zero.
    scale = 3 * float(degree.max())

    def lowest(count: int) -> tuple[np.ndarray, np.ndarray]:
        laplacian = np.diag(degree) - affinity + scale / n
        some = None if count == n - 1 else [0, count - 1]
        values, vectors = eigh(laplacian, subset_by_index=some, overwrite_a=True, check_finite=False)
        return values[:count], vectors[:, :count]

    start = 0
    for count in sorted({min(_EIGENVECTORS, n - 1), n - 1}):
        values, vectors = lowest(count)
        ends = np.flatnonzero(np.diff(values) > _DEGENERATE * scale) + 1
        if count == n - 1:  # else the last eigenspace may go on beyond what was computed
            ends, values = np.append(ends, n - 1), np.append(values, scale)
        for end in ends[ends > start]:
            gap = values[end] - values[end - 1]
            if start:
                gap = min(gap, values[start] - values[start - 1])
            rounding = max(_TIES_AT_LEAST, _TIES * scale / gap)
            for direction in _within_eigenspace(vectors[:, start:end], rounding):
                yield direction, rounding * float(np.abs(direction).max())
            start = end


def _within_eigenspace(space: np.ndarray, rounding: float) -> Iterator[np.ndarray]:
    """Projections of the indicators of single channels, each orthogonal to those before it; n×m → several n."""
    for _ in range(min(space.shape[1], _OF_ONE_EIGENSPACE)):
        length = np.linalg.norm(space, axis=1)
        chosen = int(np.argmax(length >= length.max() * (1 - rounding)))
        along = space[chosen] / length[chosen]
        yield space @ along
        # What is orthogonal to it: the reflection that takes ``along`` to the first axis, without that axis.
        mirror = along.copy()
        mirror[0] += math.copysign(1.0, along[0])
        space = (space - np.outer(space @ mirror, mirror) * (2 / (mirror @ mirror)))[:, 1:]
