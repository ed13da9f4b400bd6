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
  null is looked through in the same way (:func:`seriated_test`). Either it has no structure at all: the off-diagonal
  entries of J are shuffled. Or it keeps what rows and columns weigh and how many patterns there are, and loses only
  which gate belongs to which channel: rows and columns are permuted independently. The first can be beaten by
  any structure, a bottleneck of few units for one; the second by channels that can be put beside those they listen to.

p-values are (1 + #{null ≥ observed})/(1 + draws): the observed matrix is one of the draws, and no p is ever zero.

Sources: spectral ordering: Atkins, Boman & Hendrickson, SIAM J. Comput. 28(1), 1998; the vector it sorts by: Fiedler,
Czechoslovak Math. J. 25(4), 1975. The p-values: Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9(1), 2010.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import checks
from .forms import Band, Dense, LowRank
from .seriation import (
    Seriation,
    energy_by_distance,
    form_of,
    reaches_of,
    seriate,
    seriated,
    sizes_of,
    squares_of,
    symmetric,
)
from .structure import structural_pairs
from .threads import one_thread_for

if TYPE_CHECKING:
    import pandas as pd

    from .interaction import InteractionMatrix

__all__ = ["BandTest", "Seriation", "band_test", "seriate", "seriated_test"]

_PAIRS = 2**21  # pairs of channels looked up at once, over several draws (16 MiB of indices)
_FORMED = 2**24  # C² up to which the squares of J are formed (128 MiB)
NULLS = ("entries", "matching")
"""The nulls of :func:`seriated_test`."""
_ROUNDING = 1e-9  # relative; sums of the same numbers in another order differ by less


@dataclass(frozen=True, eq=False)
class BandTest:
    """Energies within bands of several sizes k, and what chance gives. Every field of numbers is float64, one a k.

    Attributes:
        ordering: "given": the channels as they are numbered. "seriated": the better of that order and the one found.
        null: What the draws are: "renumbered" (given), "entries" or "matching" (seriated; see :func:`seriated_test`).
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
    null: str
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
        """A row a k: ordering, null, k, pairs, energy, expected, low, high, p, draws.

        ``pairs`` is the share of the C² pairs that the band holds (zero padding): what the energy would be if J were
        the same everywhere.
        """
        import pandas as pd

        C = self.channels
        columns = {name: getattr(self, name).tolist() for name in ("energy", "expected", "low", "high", "p")}
        pairs = [structural_pairs("eca", C, kernel_size=k) / C**2 for k in self.sizes]
        about = {"ordering": self.ordering, "null": self.null}
        return pd.DataFrame({**about, "k": list(self.sizes), "pairs": pairs, **columns, "draws": self.draws})

    def __repr__(self) -> str:
        each = "; ".join(
            f"k={k} {energy:.1%} (chance {chance:.1%}, p={p:.3g})"
            for k, energy, chance, p in zip(
                self.sizes, self.energy.tolist(), self.expected.tolist(), self.p.tolist(), strict=True
            )
        )
        order = f"{self.ordering} order" + (f", null: {self.null}" if self.ordering == "seriated" else "")
        return f"BandTest({order}, C={self.channels}, {self.draws} draws: {each}; any k: p={self.p_any:.3g})"


def _tested(
    ordering: str,
    name: str,
    sizes: tuple[int, ...],
    channels: int,
    energy: Tensor,
    null: Tensor,
    expected: Tensor | None,
) -> BandTest:
    """What was observed, against draws×sizes energies of the null of that name."""
    draws = len(null)
    reached = null >= energy - _ROUNDING * energy.abs() - 1e-14  # the absolute one: next to a giant, all the rest is 0
    p = torch.where(energy.isnan(), torch.nan, (1 + reached.sum(dim=0)).double() / (1 + draws))
    low, high = torch.from_numpy(np.quantile(null.numpy(), [0.025, 0.975], axis=0))
    mean = null.mean(dim=0) if expected is None else expected
    return BandTest(ordering, name, sizes, energy, mean, low, high, p, draws, channels)


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
    form = form_of(matrix, "band_test")
    C = form.channels
    sizes = sizes_of(sizes, C, "band_test")
    draws = checks.at_least_one(draws, "band_test: draws")
    reaches = reaches_of(sizes, C)
    reach = int(reaches.max())

    observed = form.energy_by_distance()
    diagonal, total = observed[0], observed.sum()
    rng = np.random.default_rng(seed)
    look, at_once = _look(form, reach, draws), max(1, _PAIRS // (C * max(1, reach)))
    null = torch.empty(draws, len(sizes), dtype=torch.float64)
    with one_thread_for(C):
        for block in null.split(at_once):
            permutations = rng.permuted(np.tile(np.arange(C), (len(block), 1)), axis=1)
            apart = _apart(look, torch.from_numpy(permutations), reach)
            within = torch.cat([diagonal.expand(len(block), 1), apart], dim=1).cumsum(dim=1)
            block.copy_(within[:, reaches] / total)

    # Of the C² − C pairs off the diagonal 2·(C − d) are d apart; up to d = R that is R·(2C − R − 1).
    share = (reaches * (2 * C - reaches - 1)).double() / max(1, C * (C - 1))
    expected = (diagonal + (total - diagonal) * share) / total
    energy = observed.cumsum(dim=0)[reaches] / total
    return _tested("given", "renumbered", sizes, C, energy, null, expected)


def _look(form: Band | Dense | LowRank, reach: int, draws: int) -> Callable[[Tensor, Tensor], Tensor]:
    """What finds J_ij² + J_ji² for pairs of channels.

    The squares are formed once, unless fewer entries than they have are ever asked for, or they are too many to hold.
    """
    C = form.channels
    if C * C > _FORMED or 8 * draws * C * reach < C * C:
        return lambda i, j: form.entries(i, j).square_().add_(form.entries(j, i).square_())
    squares = symmetric(squares_of(form))
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
    null: str = "entries",
    draws: int = 99,
    seed: int = 0,
    progress: bool = True,
) -> BandTest:
    """Is there an order in which more of J lies near the diagonal than an order found for chance matrices gives?

    The statistic is :meth:`Seriation.energy`: the better of the order found and the order given. Chance is one of two
    nulls, each draw of which is seriated anew (an eigenvalue problem of C×C):

    - "entries" shuffles the C² − C off-diagonal entries of J among each other and leaves the diagonal. It has nothing
      at all: no rows that weigh more than others, no low rank. A small p says that the entries of J are not
      exchangeable; what lies behind it need not be neighbours. A bottleneck of few units, or of uneven ones, often has
      small p in wide bands.
    - "matching" permutes the rows and the columns of J independently. Singular values and what rows and columns weigh
      stay as they are; which gate belongs to which channel is lost. A small p says that channels that listen to each
      other can be put side by side better than that: the question of locality.

    Args:
        matrix: What :func:`ecaviz.interaction_matrix` returns, or J itself, C×C.
        sizes: Odd k; None takes 3, 5, 9, 17, 33 … below C (and 3 in any case). They come out sorted, each once.
        null: "entries" or "matching".
        draws: Matrices drawn from the null.
        seed: Seed of the draws.
        progress: Show a bar if it takes more than two seconds.

    Returns:
        The :class:`BandTest`.

    Raises:
        TypeError: ``matrix`` is neither of the two, or ``sizes`` are not several numbers.
        ValueError: The matrix is not square, empty, or has NaN or infinite entries; an even k; no sizes; no draws; an
            unknown null.
    """
    from tqdm.auto import tqdm

    if null not in NULLS:
        raise ValueError(f"seriated_test: null must be one of {', '.join(NULLS)}, got {null!r}.")
    form = form_of(matrix, "seriated_test")
    C = form.channels
    sizes = sizes_of(sizes, C, "seriated_test")
    draws = checks.at_least_one(draws, "seriated_test: draws")
    reaches = reaches_of(sizes, C)
    squares = squares_of(form)
    energy = _better(squares, reaches)

    rng = np.random.default_rng(seed)
    drawn = torch.empty(draws, len(sizes), dtype=torch.float64)
    bar = tqdm(drawn, desc="seriating draws", unit="draw", delay=2, leave=False, disable=not progress)
    with one_thread_for(C):
        for row, chance in zip(bar, _chance(squares, null, rng), strict=False):
            row.copy_(_better(chance, reaches))
    return _tested("seriated", null, sizes, C, energy, drawn, None)


def _chance(squares: Tensor, null: str, rng: np.random.Generator) -> Iterator[Tensor]:
    """Squares drawn from a null, without end; each is to be used before the next is asked for."""
    C = len(squares)
    if null == "matching":
        while True:
            rows, columns = (torch.from_numpy(rng.permutation(C)) for _ in range(2))
            yield squares[rows][:, columns]
    # Row by row, C off-diagonal entries stand between one diagonal entry and the next.
    squares = squares.clone()
    off = squares.view(-1)[1:].view(C - 1, C + 1)[:, :C] if C > 1 else squares[:0]
    entries = off.flatten().numpy()  # a copy: ``off`` is no flat part of the squares
    while True:
        rng.shuffle(entries)
        off.copy_(torch.from_numpy(entries).view(off.shape))
        yield squares


def _better(squares: Tensor, reaches: Tensor) -> Tensor:
    """Energy within each reach in the better of the order found and the order given, C×C → one a reach."""
    found, given = seriated(squares)[2], energy_by_distance(squares)
    return torch.maximum(found.cumsum(dim=0)[reaches] / found.sum(), given.cumsum(dim=0)[reaches] / given.sum())
