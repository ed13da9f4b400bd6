"""Locality against numpy loops, all permutations of a few channels, planted orders, and matrices without any."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from ecaviz import attention, interaction, locality, seriation
from ecaviz.forms import Band, Dense, LowRank
from ecaviz.locality import band_test, seriate, seriated_test


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def permuted(matrix: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """The matrix with its channels renumbered, and which channel each of them was."""
    was = np.random.default_rng(seed).permutation(len(matrix))
    return matrix[was][:, was], was


def share(matrix: torch.Tensor, k: int, order=None) -> float:
    """Share of ‖J‖²_F within a band, one entry at a time."""
    J, order = matrix.numpy(), range(len(matrix)) if order is None else order
    inside = total = 0.0
    for p, i in enumerate(order):
        for q, j in enumerate(order):
            total += J[i, j] ** 2
            inside += J[i, j] ** 2 if abs(p - q) <= (k - 1) // 2 else 0.0
    return inside / total


def sparse(channels: int, seed: int) -> torch.Tensor:
    """A tree of random weights with some more edges: connected, and mostly zeros."""
    rng = np.random.default_rng(seed)
    J = np.zeros((channels, channels))
    for i in range(1, channels):
        J[i, rng.integers(i)] = rng.normal()
    more = rng.random(J.shape) < 1 / channels
    return torch.from_numpy(np.where(more, rng.normal(size=J.shape), J))


def ring_of(k: int, channels: int, seed: int | None = None) -> torch.Tensor:
    kernel = torch.ones(k, dtype=torch.float64) if seed is None else normal(k, seed=seed)
    return Band(kernel, channels, "circular").dense()


def decaying(channels: int, reach: float, noise: float = 0.0, seed: int = 0) -> torch.Tensor:
    """Random numbers whose size falls off with the distance of their channels, and noise over all."""
    i = torch.arange(channels)
    size = torch.exp(-(i - i[:, None]).abs() / reach)
    return size * (1 + 0.3 * normal(channels, channels, seed=seed)) + noise * normal(channels, channels, seed=seed + 1)


# Single entries of each form.

FORMS = {
    "band": Band(normal(5), 9),
    "band wider than C": Band(normal(9), 3),
    "circular": Band(normal(5), 9, "circular"),
    "circular, wrapped onto itself": Band(normal(7), 4, "circular"),
    "bottleneck": LowRank(normal(9, 2), normal(2, 9, seed=1)),
    "full": Dense(normal(9, 9)),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_entries_are_those_of_the_matrix(form, monkeypatch):
    monkeypatch.setattr("ecaviz.forms._NUMBERS", 7)  # some pairs at a time
    J = form.dense()
    i = torch.arange(len(J))
    torch.testing.assert_close(form.entries(i[:, None], i), J, rtol=0, atol=1e-14)
    rows, columns = torch.tensor([2, 0, 2]), torch.tensor([0, 2, 1])
    kept = rows.clone(), columns.clone()
    torch.testing.assert_close(form.entries(rows, columns), J[rows, columns], rtol=0, atol=1e-14)
    assert torch.equal(rows, kept[0])
    assert torch.equal(columns, kept[1])


# The order as it is.


def test_energies_and_expectation_are_those_of_every_permutation():
    J = normal(6, 6, seed=3) + torch.diag(torch.full((6,), 1.5, dtype=torch.float64))
    found = band_test(J, (1, 3, 5, 11), draws=4000)
    every = np.array([[share(J, k, order) for k in found.sizes] for order in itertools.permutations(range(6))])
    np.testing.assert_allclose(found.energy, [share(J, k) for k in found.sizes], atol=1e-12)
    np.testing.assert_allclose(found.expected, every.mean(axis=0), atol=1e-12)
    exact = (every >= found.energy.numpy() - 1e-12).mean(axis=0)
    assert 0.05 < exact[1] < 0.95
    np.testing.assert_allclose(found.p, exact, atol=4 * math.sqrt(0.25 / 4000))
    for quantile, level in ((found.low, 0.025), (found.high, 0.975)):
        below, above = np.quantile(every, [level - 0.01, level + 0.01], axis=0)
        assert (below - 1e-12 <= quantile.numpy()).all()
        assert (quantile.numpy() <= above + 1e-12).all()
    torch.testing.assert_close(found.excess, found.energy - found.expected)


def test_expectation_is_the_mean_of_other_draws():
    J, sizes = decaying(30, 3), (3, 5, 9, 17)
    found, rng = band_test(J, sizes, draws=19), np.random.default_rng(5)
    drawn = []
    for _ in range(2000):
        order = rng.permutation(30)
        square = J.numpy()[np.ix_(order, order)] ** 2
        drawn.append([sum(np.trace(square, d) for d in range(-(k // 2), k // 2 + 1)) / square.sum() for k in sizes])
    error = np.std(drawn, axis=0) / math.sqrt(len(drawn))
    assert (np.abs(np.mean(drawn, axis=0) - found.expected.numpy()) < 4 * error).all()
    assert (found.energy.numpy() > np.max(drawn, axis=0)).all()


def kolmogorov(p: list[float], draws: int) -> float:
    """Largest distance between the share of p ≤ t and t, over the t that p can take."""
    grid = np.arange(1, draws + 2) / (draws + 1)
    return float(np.abs((np.array(p)[:, None] <= grid + 1e-9).mean(axis=0) - grid).max())


@pytest.mark.parametrize("hidden", [None, 1, 4])
def test_p_is_uniform_where_the_order_means_nothing(hidden):
    # Independent entries, or Gaussian factors: no channel differs from another beforehand.
    p = []
    for seed in range(300):
        J = normal(24, 24, seed=seed)
        if hidden:
            J = normal(24, hidden, seed=seed) @ normal(hidden, 24, seed=1000 + seed)
        p.append(band_test(J, (3, 7), draws=99, seed=seed).p)
    for column in torch.stack(p).T.tolist():
        assert kolmogorov(column, 99) < 1.63 / math.sqrt(300)  # 1 % level
        assert min(column) >= 0.01


def test_a_heavy_diagonal_is_no_locality():
    p = [float(band_test(normal(24, 24, seed=s) + 20 * torch.eye(24), (3,), draws=99, seed=s).p) for s in range(200)]
    assert kolmogorov(p, 99) < 1.63 / math.sqrt(200)


def test_ways_through_the_draws_agree(monkeypatch):
    forms = [LowRank(normal(40, 3), normal(3, 40, seed=1)), Band(normal(7), 40), Band(normal(7), 40, "circular")]
    for form in forms:
        found = [band_test(form, draws=99, seed=4), band_test(form.dense(), draws=99, seed=4)]
        with monkeypatch.context() as patch:  # entry by entry, then a few pairs at a time
            patch.setattr(locality, "_FORMED", 0)
            found.append(band_test(form, draws=99, seed=4))
            patch.setattr(locality, "_PAIRS", 50)
            found.append(band_test(form, draws=99, seed=4))
        with monkeypatch.context() as patch:
            patch.setattr(seriation, "_ROWS", 16)
            found.append(band_test(form, draws=99, seed=4))
        for other in found[1:]:
            assert other.sizes == found[0].sizes == (3, 5, 9, 17, 33)
            for name in ("energy", "expected", "low", "high"):
                torch.testing.assert_close(getattr(other, name), getattr(found[0], name), rtol=0, atol=1e-12)
            torch.testing.assert_close(other.p, found[0].p, rtol=0, atol=1e-12)
        assert float((found[0].high - found[0].low).min()) > 0.001
    other = band_test(forms[0], draws=99, seed=5)
    assert not torch.equal(other.low, band_test(forms[0], draws=99, seed=4).low)


def test_few_draws_of_a_large_bottleneck_never_form_it(monkeypatch):
    form = LowRank(normal(512, 4), normal(4, 512, seed=1))
    dense = band_test(Dense(form.dense()), (3,), draws=9)
    monkeypatch.setattr(LowRank, "dense", None)
    torch.testing.assert_close(band_test(form, (3,), draws=9).low, dense.low, rtol=0, atol=1e-12)


# Spectral ordering.


def test_order_is_that_of_the_fiedler_vector():
    J = normal(20, 20, seed=2)
    found = seriate(J)
    A = J.numpy() ** 2 + J.numpy().T ** 2
    np.fill_diagonal(A, 0)
    fiedler = np.linalg.eigh(np.diag(A.sum(axis=0)) - A)[1][:, 1]
    expected = np.argsort(fiedler)
    assert found.order.tolist() in (expected.tolist(), expected[::-1].tolist())
    # The sign: the channel with the longest projection comes first.
    assert int(found.order[0]) == int(np.argmax(np.abs(fiedler)))
    assert found.components == 1
    assert found.order.dtype == torch.int64


def test_energies_of_an_order_against_a_loop():
    J = normal(15, 15, seed=4)
    found = seriate(J)
    for k in (1, 3, 7, 29, 99):
        assert found.found(k) == pytest.approx(share(J, k, found.order.tolist()), abs=1e-12)
        assert found.given(k) == pytest.approx(share(J, k), abs=1e-12)
        assert found.energy(k) == max(found.found(k), found.given(k))
    assert float(found.energy_by_distance.sum()) == pytest.approx(1)
    assert len(found.given_by_distance) == 15
    assert "C=15, 1 component:" in repr(found)


@pytest.mark.parametrize("padded", [[0.7, 1, -0.2], [0, 0.1, 2], [1, 0, 1], [1e-3, 1, 0]])
@pytest.mark.parametrize("channels", [2, 3, 17, 300])
def test_a_hidden_kernel_of_three_is_recovered(padded, channels):
    J, was = permuted(Band(torch.tensor(padded, dtype=torch.float64), channels).dense())
    found = seriate(J)
    assert found.found(3) == pytest.approx(1, abs=1e-12)
    assert was[found.order].tolist() in (list(range(channels)), list(range(channels))[::-1])


PLANTED = {
    "decaying, k=9": (decaying(64, 3), 9, 0.99),
    "decaying in noise, k=9": (decaying(64, 3, 0.05), 9, 0.9),
    "ECA in noise, k=5": (Band(normal(5, seed=1), 64).dense() + 0.03 * normal(64, 64, seed=2), 5, 0.9),
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_a_hidden_order_is_found(planted):
    J, k, least = planted
    hidden, _ = permuted(J)
    # What is found, over what was planted: 1 would be the planted order.
    assert seriate(hidden).found(k) / share(J, k) > least
    # In the order as it is there is nothing to see; before it was hidden there was.
    assert float(band_test(hidden, (k,), draws=199).p) > 0.05
    assert float(band_test(J, (k,), draws=199).p) == 1 / 200
    test = seriated_test(hidden, (k,), draws=19, progress=False)
    assert float(test.p) == 1 / 20
    assert float(test.energy) == pytest.approx(seriate(hidden).energy(k), abs=1e-12)
    assert float(test.excess) > 0.2


def bridged(weight: float) -> torch.Tensor:
    """Two groups of channels and one entry between them."""
    J = torch.block_diag(normal(9, 9), normal(7, 7, seed=1))
    J[3, 11] = weight
    return J


RENUMBERED = {
    "dense": normal(40, 40),
    "low rank": normal(40, 2) @ normal(2, 40, seed=1),
    "sparse": sparse(40, 0),
    "sparse, large": sparse(150, 1),
    **{f"ECA, k={k}, C={C}": Band(normal(k, seed=C), C).dense() for k in (3, 5) for C in (7, 40, 256)},
    **{f"equal taps, k={k}": Band(torch.ones(k, dtype=torch.float64), 40).dense() for k in (3, 5)},
    **{f"ring, k={k}, C={C}": ring_of(k, C, seed=C) for k in (3, 5) for C in (6, 7, 40, 256)},
    **{f"ring of equal taps, k={k}": ring_of(k, 40) for k in (3, 5, 7)},
    "every pair alike": torch.ones(12, 12, dtype=torch.float64),
    "star": torch.eye(12, dtype=torch.float64).index_fill(0, torch.tensor([3]), 1.0),
    "two groups, hardly joined": bridged(1e-6),
    "SE-GC": torch.block_diag(*[normal(8, 8, seed=s) for s in range(5)]),
    "blocks of several sizes": torch.block_diag(*[normal(n, n, seed=n) for n in (1, 3, 9, 2, 9, 1)]),
}


@pytest.mark.parametrize("J", RENUMBERED.values(), ids=RENUMBERED)
def test_found_energy_does_not_depend_on_the_numbering(J):
    expected = seriate(J)
    for seed in range(6):
        found = seriate(permuted(J, seed)[0])
        assert found.components == expected.components
        for k in (3, 5, 9):
            assert found.found(k) == pytest.approx(expected.found(k), abs=1e-10)


def test_ring_is_folded():
    # A ring cannot be laid flat; folded in two, neighbours are no more than two places apart.
    for channels in (5, 12, 33, 200):
        found = seriate(permuted(ring_of(3, channels, seed=1))[0])
        assert found.found(5) == pytest.approx(1)
        assert found.found(3) < 1


def test_components_come_larger_first_then_by_channel():
    J = torch.zeros(9, 9, dtype=torch.float64)
    for i, j in ((6, 2), (2, 8), (1, 7), (5, 3)):  # 4 and 0 are alone; 4 has a diagonal of its own
        J[i, j] = 1.0
    J[4, 4] = 2.0
    found = seriate(J)
    assert found.components == 5
    assert found.order.tolist() in ([6, 2, 8, 1, 7, 3, 5, 0, 4], [8, 2, 6, 1, 7, 3, 5, 0, 4])
    assert found.found(3) == pytest.approx(1)


def test_groups_that_are_hardly_joined_stay_together():
    # 1e-6: an affinity of 1e-12, still seen. 1e-12: an affinity of 1e-24, below what the Laplacian can hold.
    for weight, components in ((0.1, 1), (1e-6, 1), (1e-12, 2)):
        hidden, was = permuted(bridged(weight))
        found = seriate(hidden)
        assert found.components == components
        assert sum(was[found.order][:-1] // 9 != was[found.order][1:] // 9) == 1


def test_groups_fill_their_blocks():
    blocks = torch.block_diag(*[normal(8, 8, seed=s) for s in range(4)])
    found = seriate(permuted(blocks)[0])
    assert found.components == 4
    assert found.found(15) == pytest.approx(1)


def test_twins_are_told_apart_by_the_next_eigenvectors():
    # Two chains side by side, each channel tied to its twin: twins have equal entries in the Fiedler vector.
    n = 12
    chain = torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)
    J = torch.kron(chain, torch.eye(2, dtype=torch.float64)) + torch.kron(
        torch.eye(n, dtype=torch.float64), torch.tensor([[0, 3.0], [0, 0]], dtype=torch.float64)
    )
    for seed in range(5):
        hidden, was = permuted(J, seed)
        places = was[seriate(hidden).order]
        chain_of = places % 2
        # Twins share a place along the chain, and one chain always comes first.
        assert (places[0::2] // 2 == places[1::2] // 2).all()
        assert len(set(chain_of[0::2])) == 1


@pytest.mark.parametrize("factor", [-1.0, 3.7, 2.0**-600, 1e-200, 1e200])
def test_scale_changes_nothing(factor):
    J = normal(30, 30, seed=6)
    expected, found = seriate(J), seriate(factor * J)
    assert torch.equal(found.order, expected.order)
    torch.testing.assert_close(found.energy_by_distance, expected.energy_by_distance)
    assert torch.equal(band_test(factor * J, draws=99).p, band_test(J, draws=99).p)
    assert torch.equal(seriate(J.T).order, expected.order)


def test_entries_of_any_size_are_ordered():
    J = torch.exp(40 * normal(30, 30))
    found = seriate(J)
    assert sorted(found.order.tolist()) == list(range(30))
    assert found.found(3) > 0.9
    assert float(band_test(J, (3,), draws=99).p) <= 1


# The seriated null.


@pytest.mark.parametrize(
    "matrices", [60, pytest.param(600, marks=pytest.mark.long)], ids=lambda matrices: f"{matrices} matrices"
)
def test_seriated_p_is_uniform_where_there_is_nothing(matrices):
    p = torch.stack(
        [seriated_test(normal(12, 12, seed=s), (3, 5), draws=19, seed=s, progress=False).p for s in range(matrices)]
    )
    for column in p.T.tolist():
        # p ≤ 0.05 has probability 1/20: four standard deviations of the binomial.
        at_most = matrices / 20 + 4 * math.sqrt(matrices * 0.05 * 0.95)
        assert sum(one <= 0.05 + 1e-9 for one in column) <= at_most
        assert kolmogorov(column, 19) < 1.63 / math.sqrt(matrices)


def test_seriated_null_keeps_the_diagonal_and_seriates_each_draw():
    J = normal(14, 14, seed=8) + 2 * torch.eye(14)
    found = seriated_test(J, (1, 3, 5), draws=400, progress=False)
    rng, off, drawn = np.random.default_rng(9), ~np.eye(14, dtype=bool), []
    for _ in range(400):
        other = J.numpy().copy()
        other[off] = rng.permutation(other[off])
        one = seriate(torch.from_numpy(other))
        drawn.append([one.energy(k) for k in found.sizes])
    spread = np.std(drawn, axis=0)
    assert spread[0] == pytest.approx(0, abs=1e-12)
    assert float(found.p[0]) == 1
    np.testing.assert_allclose(found.expected, np.mean(drawn, axis=0), atol=5 * spread.max() * math.sqrt(2 / 400))
    np.testing.assert_allclose(found.high, np.quantile(drawn, 0.975, axis=0), atol=spread.max() / 2)
    # An order that is looked for holds more than one that is not.
    assert float(found.expected[1]) > float(band_test(J, (3,)).expected) + spread[1]


def uneven(channels: int, hidden: int, seed: int) -> torch.Tensor:
    """A bottleneck whose patterns are of unequal strength, and no channel is nearer to one than to another."""
    strength = torch.linspace(2, 0.5, hidden, dtype=torch.float64)
    return (normal(channels, hidden, seed=seed) * strength) @ normal(hidden, channels, seed=seed + 300)


def test_an_uneven_bottleneck_beats_shuffled_entries_and_not_broken_matches():
    """Why there are two nulls: the first has small p here, though no channel is near another."""
    small = {"entries": 0, "matching": 0}
    p = []
    for seed in range(40):
        J = uneven(64, 2, seed)
        for null in small:
            found = seriated_test(J, (33,), null=null, draws=19, seed=seed, progress=False)
            small[null] += float(found.p) <= 0.05 + 1e-9
            p += [float(found.p)] if null == "matching" else []
    assert small["entries"] > 10
    assert small["matching"] <= 40 / 20 + 4 * math.sqrt(40 * 0.05 * 0.95)
    assert kolmogorov(p, 19) < 1.63 / math.sqrt(40)


@pytest.mark.parametrize("null", ["entries", "matching"])
def test_a_hidden_band_is_found_against_either_null(null):
    J, _ = permuted(decaying(40, 3.0, noise=0.05), seed=3)
    found = seriated_test(J, (3, 9), null=null, draws=99, progress=False)
    assert found.null == null
    assert found.p.tolist() == [0.01, 0.01]
    assert float(found.energy[1]) > 1.5 * float(found.expected[1])


def test_matching_null_permutes_rows_and_columns_by_themselves():
    J = normal(14, 14, seed=8) * (1 + torch.arange(14.0))[:, None]
    found = seriated_test(J, (3, 5), null="matching", draws=400, progress=False)
    rng, drawn = np.random.default_rng(9), []
    for _ in range(400):
        one = seriate(J[rng.permutation(14)][:, rng.permutation(14)])
        drawn.append([one.energy(k) for k in found.sizes])
    spread = np.std(drawn, axis=0)
    np.testing.assert_allclose(found.expected, np.mean(drawn, axis=0), atol=5 * spread.max() * math.sqrt(2 / 400))
    with pytest.raises(ValueError, match="null must be one of entries, matching, got 'rows'"):
        seriated_test(J, null="rows")


def test_seriated_answers_do_not_depend_on_the_form():
    for form in (LowRank(normal(20, 3), normal(3, 20, seed=1)), Band(normal(5), 20), Band(normal(5), 20, "circular")):
        one = seriated_test(form, draws=19, seed=3, progress=False)
        other = seriated_test(form.dense(), draws=19, seed=3)
        for name in ("energy", "expected", "low", "high", "p"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=1e-6)
        assert one.sizes == (3, 5, 9, 17)


def test_matrices_of_modules_are_taken():
    torch.manual_seed(0)
    eca = interaction.module_interaction(attention.build("eca", 32, kernel_size=5))
    assert float(seriate(eca).energy(5)) == pytest.approx(1)
    local = band_test(eca, (3, 5), draws=99)
    assert local.p.tolist() == [0.01, 0.01]
    assert float(local.energy[1]) == pytest.approx(1)
    se = interaction.module_interaction(attention.build("se", 32, reduction=4))
    found = band_test(se, (3,), draws=99)
    assert float(found.energy) == pytest.approx(share(se.form.dense(), 3), abs=1e-12)


# Little to look at.


def test_no_interaction_at_all():
    for J in (torch.zeros(6, 6), LowRank(normal(6, 2) * 0, normal(2, 6))):
        found = seriate(J)
        assert found.components == 6
        assert found.order.tolist() == list(range(6))
        assert math.isnan(found.energy(3))
        for test in (band_test(J, draws=9), seriated_test(J, draws=9, progress=False)):
            for name in ("energy", "expected", "low", "high", "p"):
                assert getattr(test, name).isnan().all()
            assert math.isnan(test.p_any)


@pytest.mark.parametrize("J", [torch.tensor([[2.0]]), torch.diag(torch.arange(6.0))], ids=["one channel", "diagonal"])
def test_a_diagonal_is_certain(J):
    found = seriate(J)
    assert found.components == len(J)
    assert [found.found(1), found.given(1), found.energy(7)] == [1, 1, 1]
    for test in (band_test(J, draws=9), seriated_test(J, draws=9, progress=False)):
        assert test.sizes == ((3,) if len(J) == 1 else (3, 5))
        for name in ("energy", "expected", "low", "high", "p"):
            torch.testing.assert_close(getattr(test, name), torch.ones(len(test.sizes), dtype=torch.float64))


def test_bands_that_permutations_cannot_change_have_p_one():
    J = normal(7, 7)
    assert band_test(J, (1, 13, 101), draws=99).p.tolist() == [1, 1, 1]
    assert seriated_test(J, (1, 13), draws=9, progress=False).p.tolist() == [1, 1]
    assert band_test(J, (1,), draws=99).energy.item() == pytest.approx(share(J, 1))


# What is asked, and what is told.


def test_sizes_are_sorted_and_double():
    assert band_test(normal(70, 70), draws=1).sizes == (3, 5, 9, 17, 33, 65)
    assert band_test(normal(65, 65), draws=1).sizes == (3, 5, 9, 17, 33)
    assert band_test(normal(2, 2), draws=1).sizes == (3,)
    assert band_test(normal(9, 9), [5, 3, 5], draws=1).sizes == (3, 5)
    assert band_test(normal(9, 9), np.array([5, 7]).tolist(), draws=1).sizes == (5, 7)


def test_table_and_words():
    test = band_test(normal(20, 20), (3, 5), draws=99)
    table = test.to_frame()
    assert list(table) == ["ordering", "null", "k", "pairs", "energy", "expected", "low", "high", "p", "draws"]
    assert table["k"].tolist() == [3, 5]
    assert table["pairs"].tolist() == [(3 * 20 - 2) / 400, (5 * 20 - 6) / 400]
    assert table["energy"].tolist() == test.energy.tolist()
    assert set(table["ordering"]) == {"given"}
    assert set(table["null"]) == {"renumbered"}
    assert set(table["draws"]) == {99}
    assert test.p_any == pytest.approx(min(1, 2 * min(test.p.tolist())))
    assert f"given order, C=20, 99 draws: k=3 {float(test.energy[0]):.1%}" in repr(test)
    seriated = seriated_test(normal(6, 6), (3,), draws=9, progress=False)
    assert seriated.ordering == "seriated"
    assert "seriated order, null: entries" in repr(seriated)


def test_the_same_seed_gives_the_same_answer():
    J = normal(12, 12)
    for test in (band_test, seriated_test):
        one, again, other = test(J, draws=29), test(J, draws=29), test(J, draws=29, seed=1)
        assert torch.equal(one.high, again.high)
        assert not torch.equal(one.high, other.high)


def test_input_is_left_as_it_was():
    J = normal(12, 12).requires_grad_()
    kept = J.detach().clone()
    for ask in (seriate, band_test, lambda J: seriated_test(J, draws=3)):
        ask(J)
        ask(Dense(J.detach()))
        assert torch.equal(J.detach(), kept)
    torch.testing.assert_close(seriate(J.float()).energy_by_distance, seriate(J).energy_by_distance, atol=1e-6, rtol=0)


@pytest.mark.parametrize("ask", [seriate, band_test, seriated_test])
def test_matrices_that_are_none(ask):
    with pytest.raises(ValueError, match=rf"{ask.__name__}: got a tensor of shape \(3, 4\); expected a square matrix"):
        ask(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"shape \(9,\)"):
        ask(torch.zeros(9))
    with pytest.raises(ValueError, match="no channels"):
        ask(torch.zeros(0, 0))
    broken = normal(4, 4)
    broken[0, 1], broken[2, 2] = math.nan, math.inf
    with pytest.raises(ValueError, match="2 of 16 numbers of the matrix are NaN or infinite"):
        ask(broken)
    with pytest.raises(ValueError, match="1 of 8 numbers"):
        ask(LowRank(normal(4, 2).index_fill(0, torch.tensor([]).long(), 0), broken[:2]))
    with pytest.raises(TypeError, match="got a list; expected an InteractionMatrix"):
        ask([[1.0]])
    with pytest.raises(TypeError, match="complex"):
        ask(torch.zeros(3, 3, dtype=torch.complex64))


@pytest.mark.parametrize("ask", [band_test, seriated_test])
def test_questions_that_cannot_be_asked(ask):
    J, name = normal(6, 6), ask.__name__
    with pytest.raises(ValueError, match=f"{name}: each of sizes must be an odd whole number"):
        ask(J, (3, 4))
    with pytest.raises(ValueError, match=f"{name}: got no sizes"):
        ask(J, ())
    with pytest.raises(ValueError, match=f"{name}: draws must be a whole number of at least 1"):
        ask(J, (3,), draws=0)
    with pytest.raises(TypeError, match=f"{name}: sizes must be several kernel sizes"):
        ask(J, 3)
    with pytest.raises(ValueError, match="kernel_size must be an odd whole number"):
        seriate(J).energy(2)


def test_import_is_cheap():
    code = "import sys, ecaviz.locality as _; print([m for m in ('scipy', 'pandas', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
