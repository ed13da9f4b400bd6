"""Is an interaction matrix J local: does more of ‖J‖²_F lie near the diagonal than chance gives?

    band_test(interaction_matrix(model, "layer1.0.se"))        # in the channel order as it is
    seriated_test(interaction_matrix(model, "layer1.0.se"))    # in an order that is looked for
    seriate(matrix).energy(3)

The energy of a band of size k is the share of ‖J‖²_F within |i−j| ≤ (k−1)/2. A large one alone says nothing: a matrix
with a heavy diagonal has it, and so has any matrix once k is large. It is compared with what chance gives, and there
are two questions:

- *Given order.* Are the channels, numbered as they are, near those they listen to? If the order means nothing, then any
  other order would do as well. So the null is one permutation applied to rows and columns together: the same J, with
  the channels renumbered (:func:`band_test`).
- *Seriated.* Is there an order in which they are near each other? The order is looked for by spectral ordering
  (:func:`seriate`). An order that is looked for gathers energy near the diagonal of any matrix, random ones too. So the
  null has no structure to find, and is looked through in the same way: the off-diagonal entries of J are shuffled, and
  each draw is seriated anew (:func:`seriated_test`).

p-values are (1 + #{null ≥ observed})/(1 + draws): the observed matrix is one of the draws, and no p is ever zero.

Sources: spectral ordering: Atkins, Boman & Hendrickson, SIAM J. Comput. 28(1), 1998; the vector it sorts by: Fiedler,
Czechoslovak Math. J. 25(4), 1975. The p-values: Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9(1), 2010.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import checks
from .forms import Band, Dense, LowRank
from .structure import structural_pairs

if TYPE_CHECKING:
    import pandas as pd

    from .interaction import InteractionMatrix

__all__ = ["BandTest", "Seriation", "band_test", "seriate", "seriated_test"]

_ROWS = 256  # rows of a C×C matrix worked on at once
_PAIRS = 2**21  # pairs of channels looked up at once, over several draws (16 MiB of indices)
_FORMED = 2**24  # C² up to which the squares of J are formed (128 MiB)
_ROUNDING = 1e-9  # relative; sums of the same numbers in another order differ by less
_EPS = float(np.finfo(np.float64).eps)

# Of spectral ordering.
_EIGENVECTORS = 8  # asked for at first: almost always the first alone decides
_OF_ONE_EIGENSPACE = 8  # directions taken of one; where it has more, most channels are alike
_DEGENERATE = 1e-10  # eigenvalues that differ by less, relative to the largest, count as one
_TIES = 10 * _EPS  # times ‖L‖/gap: the rounding error of an eigenvector whose eigenvalue is that far from the next
_TIES_AT_LEAST = 1e-10  # relative to the largest entry, however wide the gap


# ---------------------------------------------------------------------------------------------------- what comes in


def _form(matrix: object, what: str) -> Band | Dense | LowRank:
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
    if _channels(scaled) == 0:
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


def _channels(form: Band | Dense | LowRank) -> int:
    if isinstance(form, Band):
        return form.channels
    return len(form.whole if isinstance(form, Dense) else form.left)


def _squares(form: Band | Dense | LowRank) -> Tensor:
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


def _symmetric(squares: Tensor) -> Tensor:
    """``squares`` plus its transpose, in place: a second C×C would be the largest thing here."""
    blocks = range(0, len(squares), _ROWS)
    for a in blocks:
        for b in blocks:
            if a <= b:
                rows, columns = slice(a, a + _ROWS), slice(b, b + _ROWS)
                both = squares[rows, columns] + squares[columns, rows].T
                squares[rows, columns], squares[columns, rows] = both, both.T
    return squares


def _by_distance(squares: Tensor, order: Tensor | None = None) -> Tensor:
    """Σ of the squares at |p−q| = d, for d = 0 … C−1, once rows and columns stand in ``order``."""
    C = len(squares)
    at, energy = torch.arange(C), torch.zeros(C, dtype=torch.float64)
    order = at if order is None else order
    for rows in at.split(_ROWS):
        block = squares[order[rows]][:, order]
        energy += torch.bincount((rows[:, None] - at).abs_().flatten(), weights=block.flatten(), minlength=C)
    return energy


def _sizes(sizes: Iterable[int] | None, channels: int, what: str) -> tuple[int, ...]:
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


def _reaches(sizes: Iterable[int], channels: int) -> Tensor:
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
    form = _form(matrix, "seriate")
    squares, given = _squares(form), form.energy_by_distance()
    order, components, energy = _seriated(squares)
    return Seriation(order, components, energy / energy.sum(), given / given.sum())


def _seriated(squares: Tensor) -> tuple[Tensor, int, Tensor]:
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
    return found, len(parts), _by_distance(squares, found)


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


# --------------------------------------------------------------------------------------------------------- the tests


@dataclass(frozen=True, eq=False)
class BandTest:
    """Energies within bands of several sizes k, and what chance gives. Every field of numbers is float64, one a k.

    Attributes:
        ordering: "given": the channels as they are numbered. "seriated": the better of that order and the one found.
        sizes: The k, ascending.
        energy: Share of ‖J‖²_F within the band, 0…1; NaN for J = 0.
        expected: Mean of the null: exact for "given", over the draws for "seriated".
        low: 2.5 % quantile of the draws.
        high: 97.5 % quantile of the draws.
        p: (1 + #{null ≥ observed})/(1 + draws), one-sided, each k by itself; equal up to rounding counts as ≥. It is 1
            where no draw can differ: k = 1, a band that holds every pair, a J without off-diagonal entries. NaN for
            J = 0.
        draws: Draws from the null.
        channels: C.
    """

    ordering: str
    sizes: tuple[int, ...]
    energy: Tensor
    expected: Tensor
    low: Tensor
    high: Tensor
    p: Tensor
    draws: int
    channels: int

    @property
    def excess(self) -> Tensor:
        """How much more than chance gives: energy − expected, one a k."""
        return self.energy - self.expected

    @property
    def p_any(self) -> float:
        """One p for all sizes together, by Bonferroni: min(1, number of sizes · smallest p)."""
        return float((len(self.sizes) * self.p.min()).clamp(max=1))

    def to_frame(self) -> pd.DataFrame:
        """A row a k: ordering, k, pairs, energy, expected, low, high, p, draws.

        ``pairs`` is the share of the C² pairs that the band holds (zero padding): what the energy would be if J were
        the same everywhere.
        """
        import pandas as pd

        C = self.channels
        columns = {name: getattr(self, name).tolist() for name in ("energy", "expected", "low", "high", "p")}
        pairs = [structural_pairs("eca", C, kernel_size=k) / C**2 for k in self.sizes]
        return pd.DataFrame(
            {"ordering": self.ordering, "k": list(self.sizes), "pairs": pairs, **columns, "draws": self.draws}
        )

    def __repr__(self) -> str:
        each = "; ".join(
            f"k={k} {energy:.1%} (chance {chance:.1%}, p={p:.3g})"
            for k, energy, chance, p in zip(
                self.sizes, self.energy.tolist(), self.expected.tolist(), self.p.tolist(), strict=True
            )
        )
        return (
            f"BandTest({self.ordering} order, C={self.channels}, {self.draws} draws: {each}; any k: p={self.p_any:.3g})"
        )


def _tested(
    ordering: str, sizes: tuple[int, ...], channels: int, energy: Tensor, null: Tensor, expected: Tensor | None
) -> BandTest:
    """What was observed, against draws×sizes energies of the null."""
    draws = len(null)
    reached = null >= energy - _ROUNDING * energy.abs() - 1e-14  # the absolute one: next to a giant, all the rest is 0
    p = torch.where(energy.isnan(), torch.nan, (1 + reached.sum(dim=0)).double() / (1 + draws))
    low, high = torch.from_numpy(np.quantile(null.numpy(), [0.025, 0.975], axis=0))
    mean = null.mean(dim=0) if expected is None else expected
    return BandTest(ordering, sizes, energy, mean, low, high, p, draws, channels)


def band_test(
    matrix: InteractionMatrix | Tensor, sizes: Iterable[int] | None = None, *, draws: int = 999, seed: int = 0
) -> BandTest:
    """Does more of J lie near the diagonal than if the channels were numbered at random?

    The null is one permutation applied to rows and columns together. The diagonal stays the diagonal under it, so that
    a heavy diagonal does not pass for locality, and k = 1 has p = 1. Its mean is known:
    (Σ_i J_ii² + s·Σ_{i≠j} J_ij²)/‖J‖²_F, with s the share of the C² − C off-diagonal pairs that the band holds.

    Args:
        matrix: What :func:`ecaviz.interaction_matrix` returns, or J itself, C×C.
        sizes: Odd k; None takes 3, 5, 9, 17, 33 … below C (and 3 in any case). They come out sorted, each once.
        draws: Permutations drawn.
        seed: Seed of the draws.

    Returns:
        The :class:`BandTest`.

    Raises:
        TypeError: ``matrix`` is neither of the two, or ``sizes`` are not several numbers.
        ValueError: The matrix is not square, empty, or has NaN or infinite entries; an even k; no sizes; no draws.
    """
    form = _form(matrix, "band_test")
    C = _channels(form)
    sizes = _sizes(sizes, C, "band_test")
    draws = checks.at_least_one(draws, "band_test: draws")
    reaches = _reaches(sizes, C)
    reach = int(reaches.max())

    observed = form.energy_by_distance()
    diagonal, total = observed[0], observed.sum()
    rng = np.random.default_rng(seed)
    look, at_once = _look(form, reach, draws), max(1, _PAIRS // (C * max(1, reach)))
    null = torch.empty(draws, len(sizes), dtype=torch.float64)
    for block in null.split(at_once):
        permutations = rng.permuted(np.tile(np.arange(C), (len(block), 1)), axis=1)
        apart = _apart(look, torch.from_numpy(permutations), reach)
        within = torch.cat([diagonal.expand(len(block), 1), apart], dim=1).cumsum(dim=1)
        block.copy_(within[:, reaches] / total)

    # Of the C² − C pairs off the diagonal 2·(C − d) are d apart; up to d = R that is R·(2C − R − 1).
    share = (reaches * (2 * C - reaches - 1)).double() / max(1, C * (C - 1))
    expected = (diagonal + (total - diagonal) * share) / total
    energy = observed.cumsum(dim=0)[reaches] / total
    return _tested("given", sizes, C, energy, null, expected)


def _look(form: Band | Dense | LowRank, reach: int, draws: int) -> Callable[[Tensor, Tensor], Tensor]:
    """What finds J_ij² + J_ji² for pairs of channels.

    The squares are formed once, unless fewer entries than they have are ever asked for, or they are too many to hold.
    """
    C = _channels(form)
    if C * C > _FORMED or 8 * draws * C * reach < C * C:
        return lambda i, j: form.entries(i, j).square_().add_(form.entries(j, i).square_())
    squares = _symmetric(_squares(form))
    flat = squares.view(-1)

    def look(i: Tensor, j: Tensor) -> Tensor:
        at = torch.add(j, i, alpha=C)
        return flat.index_select(0, at.view(-1)).view(at.shape)  # half the time of take

    return look


def _apart(look: Callable[[Tensor, Tensor], Tensor], permutations: Tensor, reach: int) -> Tensor:
    """Σ of J_ij² + J_ji² over the channels d = 1 … R places apart in each permutation, D×C → D×R."""
    draws, C = permutations.shape
    energy = torch.zeros(draws, reach, dtype=torch.float64)
    if reach == 0:
        return energy
    wrapped = torch.cat([permutations, permutations[:, :reach]], dim=1)
    after = wrapped[:, 1:].unfold(1, reach, 1)  # D×C×R, a view: the R channels that follow each place
    beyond = torch.arange(C)[:, None] + torch.arange(1, reach + 1) >= C  # those that do not follow, but are wrapped
    rows = max(1, _PAIRS // (draws * reach))
    for start in range(0, C, rows):
        some = slice(start, start + rows)
        square = look(permutations[:, some, None], after[:, some])
        energy += square.masked_fill_(beyond[some], 0).sum(dim=1)
    return energy


def seriated_test(
    matrix: InteractionMatrix | Tensor,
    sizes: Iterable[int] | None = None,
    *,
    draws: int = 99,
    seed: int = 0,
    progress: bool = True,
) -> BandTest:
    """Is there an order in which more of J lies near the diagonal than an order found for chance entries gives?

    The statistic is :meth:`Seriation.energy`: the better of the order found and the order given. The null shuffles the
    C² − C off-diagonal entries of J among each other, leaves the diagonal, and seriates every draw anew.

    That null has nothing at all: no rows that weigh more than others, no low rank, no blocks. A small p says that J is
    not made of exchangeable entries, and ``excess`` says how much nearer the diagonal it can be brought; the structure
    behind it need not be a line of neighbours. Random factors of few hidden units are such a J: of C = 64 and two
    hidden units a third have p ≤ 0.05 at k = 33, none at k = 3; of eight hidden units no more than chance.
    Each draw takes an eigenvalue problem of C×C.

    Args:
        matrix: What :func:`ecaviz.interaction_matrix` returns, or J itself, C×C.
        sizes: Odd k; None takes 3, 5, 9, 17, 33 … below C (and 3 in any case). They come out sorted, each once.
        draws: Shuffled matrices drawn.
        seed: Seed of the draws.
        progress: Show a bar if it takes more than two seconds.

    Returns:
        The :class:`BandTest`.

    Raises:
        TypeError: ``matrix`` is neither of the two, or ``sizes`` are not several numbers.
        ValueError: The matrix is not square, empty, or has NaN or infinite entries; an even k; no sizes; no draws.
    """
    from tqdm.auto import tqdm

    form = _form(matrix, "seriated_test")
    C = _channels(form)
    sizes = _sizes(sizes, C, "seriated_test")
    draws = checks.at_least_one(draws, "seriated_test: draws")
    reaches = _reaches(sizes, C)
    squares = _squares(form)
    energy = _better(squares, reaches)

    rng = np.random.default_rng(seed)
    # Row by row, C off-diagonal entries stand between one diagonal entry and the next.
    off = squares.view(-1)[1:].view(C - 1, C + 1)[:, :C] if C > 1 else squares[:0]
    entries = off.flatten().numpy()  # a copy: ``off`` is no flat part of the squares
    null = torch.empty(draws, len(sizes), dtype=torch.float64)
    bar = tqdm(null, desc="seriating draws", unit="draw", delay=2, leave=False, disable=not progress)
    for drawn in bar:
        rng.shuffle(entries)
        off.copy_(torch.from_numpy(entries).view(off.shape))
        drawn.copy_(_better(squares, reaches))
    return _tested("seriated", sizes, C, energy, null, None)


def _better(squares: Tensor, reaches: Tensor) -> Tensor:
    """Energy within each reach in the better of the order found and the order given, C×C → one a reach."""
    found, given = _seriated(squares)[2], _by_distance(squares)
    return torch.maximum(found.cumsum(dim=0)[reaches] / found.sum(), given.cumsum(dim=0)[reaches] / given.sum())
