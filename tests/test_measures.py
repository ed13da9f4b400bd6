"""How much of J is there, image by image, and with intervals: against numpy on whole matrices."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from ecaviz import attention, interaction, intervals, measures
from ecaviz.networks import Architecture, build


@pytest.fixture(scope="module")
def se() -> nn.Module:
    torch.manual_seed(1)
    return build(Architecture("se", {"reduction": 4})).eval()


@pytest.fixture(scope="module")
def realised(se, images):
    return interaction.interaction_matrix(se, "layer3.0.se", images)


def numbers(J: np.ndarray) -> tuple[int, float, float, float]:
    """Rank, effective rank, median participation, mean directness, written out."""
    sigma = np.linalg.svd(J, compute_uv=False)
    share = sigma[sigma > 0] / sigma.sum()
    square = J**2 / (J**2).sum(axis=1, keepdims=True)
    entropy = [-sum(q * math.log(q) for q in row if q > 0) for row in square]
    rank = np.linalg.matrix_rank(J)
    return rank, math.exp(-(share * np.log(share)).sum()), np.median(np.exp(entropy)), square.diagonal().mean()


def test_image_by_image_equals_numpy_on_every_matrix(realised):
    found = measures.by_image(realised)
    assert len(found.rank) == 10
    for n in range(10):
        expected = numbers(realised.of_image(n).matrix.numpy())
        row = (
            int(found.rank[n]),
            *(float(part[n]) for part in (found.effective_rank, found.participation, found.directness)),
        )
        np.testing.assert_allclose(row, expected, rtol=1e-8)
    assert len(set(found.active.tolist())) > 1  # the images differ
    frame = found.to_frame()
    assert list(frame.columns) == ["image", "active", "rank", "effective_rank", "participation", "directness"]
    assert frame["image"].tolist() == list(range(10))
    text = repr(found)
    assert "means over 10 images, J = 0 on 0%" in text


def test_the_numbers_of_a_mean_are_not_the_means_of_the_numbers(realised):
    """Why both are there: the mean map has a higher rank than any single one, and another directness."""
    cover, each = interaction.coverage(realised), measures.by_image(realised)
    assert cover.rank > int(each.rank.max())
    assert abs(cover.directness_mean - float(each.directness.mean())) > 1e-5


def test_summary_is_mean_spread_and_a_bootstrap_interval(realised):
    found = measures.by_image(realised)
    table = found.summary(resamples=4000)
    values = found.directness.numpy()
    row = table.loc["directness"]
    assert row["mean"] == pytest.approx(values.mean())
    assert row["std"] == pytest.approx(values.std(ddof=1))
    drawn = values[np.random.default_rng(1).integers(0, 10, (4000, 10))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    width = high - low
    assert row["low"] == pytest.approx(low, abs=0.08 * width)
    assert row["high"] == pytest.approx(high, abs=0.08 * width)
    assert list(table.index) == ["active", "rank", "effective_rank", "participation", "directness"]


def silent_network() -> tuple[nn.Module, torch.Tensor]:
    """An SE of which no unit is active on the darker half of the images."""
    net = nn.Sequential(attention.build("se", 4, reduction=2)).eval()
    with torch.no_grad():
        net[0].excite.fc1.weight.copy_(torch.tensor([[1.0, 1, 1, 1], [2, 1, 1, 1]]))
    x = torch.rand(6, 4, 3, 3) + 0.1
    x[3:] *= -1
    return net, x


def test_images_on_which_nothing_moves():
    net, x = silent_network()
    plan = interaction.plan_of(net, "0")
    plan.take(x.mean(dim=(2, 3)), torch.arange(6))
    found = measures.by_image(plan.realised(6))
    assert found.rank.tolist() == [2, 2, 2, 0, 0, 0]
    assert found.silent == 0.5
    assert found.participation[3:].isnan().all()
    assert found.directness[3:].isnan().all()
    table = found.summary()
    assert table.loc["rank", "mean"] == 1
    assert table.loc["directness", "mean"] == pytest.approx(float(found.directness[0]))


def test_intervals_are_a_bootstrap_over_images(realised):
    """Against the same draws on whole matrices."""
    cover = interaction.coverage(realised)
    table = cover.intervals(resamples=50, seed=4)
    assert list(table.index) == ["rank", "effective_rank", "participation_median", "directness_mean"]
    each = torch.stack([realised.of_image(n).matrix for n in range(10)])
    random = torch.Generator().manual_seed(4)
    drawn = []
    for _ in range(50):
        rows = torch.randint(10, (10,), generator=random)
        drawn.append(numbers(each[rows].mean(dim=0).numpy()))
    low, high = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    np.testing.assert_allclose(table["low"], low, rtol=1e-8)
    np.testing.assert_allclose(table["high"], high, rtol=1e-8)
    np.testing.assert_allclose(table["value"], numbers(realised.matrix.numpy()), rtol=1e-8)
    assert (table["low"] < table["high"]).loc[["effective_rank", "participation_median", "directness_mean"]].all()


def test_the_interval_holds_what_other_images_give():
    """Coverage of the interval itself: of J over many images, in about 95 of 100 samples of few."""
    torch.manual_seed(0)
    excite = attention.build("se", 12, reduction=2).double().excite
    population = interaction.excitation_interaction(excite, torch.randn(4000, 12, dtype=torch.float64))
    truth = interaction.coverage(population).directness_mean
    hits = 0
    for seed in range(60):
        torch.manual_seed(100 + seed)
        sample = interaction.excitation_interaction(excite, torch.randn(60, 12, dtype=torch.float64))
        row = interaction.coverage(sample).intervals(["directness_mean"], resamples=100, seed=seed).iloc[0]
        hits += row["low"] <= truth <= row["high"]
    assert 50 <= hits <= 60  # binomial(60, 0.95): 50 or fewer in 1 of 300


def test_calls_of_one_image_are_drawn_together(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.se = attention.build("se", 3, reduction=1)

        def forward(self, x):
            return self.se(-self.se(x) * 2 + 0.3)

    torch.manual_seed(5)
    found = interaction.interaction_matrix(Twice(), "se", images, batch_size=4)
    assert found.realisation.image_of.tolist() == [0, 1, 2, 3] * 2 + [4, 5, 6, 7] * 2 + [8, 9] * 2
    assert found.images == 10
    weights = (found.realisation.image_of == 3).double()
    both = [found.of_image(n).matrix for n in range(20) if found.realisation.image_of[n] == 3]
    torch.testing.assert_close(found.realisation.mean(weights).dense(), sum(both) / 2)
    values = torch.arange(20.0)
    low, high = intervals.bootstrap_mean(values, found.realisation.image_of, resamples=200)
    alone = intervals.bootstrap_mean(values, resamples=200)
    assert low < 9.5 < high
    assert (low, high) != alone


def test_what_is_the_same_for_every_image_has_no_width(se):
    for matrix in (
        interaction.interaction_matrix(se, "layer1.0.se"),
        interaction.module_interaction(attention.build("eca", 16, kernel_size=3)),
    ):
        table = interaction.coverage(matrix).intervals()
        assert (table["low"] == table["value"]).all()
        assert (table["high"] == table["value"]).all()
        with pytest.raises(ValueError, match="pass images= to interaction_matrix for J image by image"):
            measures.by_image(matrix)


def test_a_mean_of_one_has_no_interval():
    assert all(math.isnan(end) for end in intervals.bootstrap_mean(torch.tensor([1.0])))
    assert all(math.isnan(end) for end in intervals.bootstrap_mean(torch.tensor([1.0, 2.0]), torch.tensor([4, 4])))
    assert all(math.isnan(end) for end in intervals.t_interval([0.2, 0.3]))


def test_t_interval_of_shares_stays_between_0_and_1():
    from scipy import stats

    shares = np.array([0.001, 0.3, 0.9, 0.1])
    logits = np.log(shares / (1 - shares))
    ends = np.array(stats.t.interval(0.9, 3, logits.mean(), stats.sem(logits)))
    assert intervals.t_interval(shares, 0.9, share=True) == pytest.approx(tuple(1 / (1 + np.exp(-ends))))
    plain = stats.t.interval(0.9, 3, shares.mean(), stats.sem(shares))
    assert intervals.t_interval(shares, 0.9) == pytest.approx(plain)
    assert plain[0] < 0
    others = shares + 1
    expected = stats.t.interval(0.95, 3, others.mean(), stats.sem(others))
    assert intervals.t_interval(others, share=True) == pytest.approx(expected)
    assert intervals.t_interval([1.0, 1.0, 1.0], share=True) == (1, 1)


def test_some_images_stand_for_many(realised):
    few = measures.by_image(realised, at_most=4)
    assert few.image.tolist() == [0, 3, 6, 9]
    whole = measures.by_image(realised)
    assert few.directness.tolist() == whole.directness[[0, 3, 6, 9]].tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.intervals(["pairs"]), r"no interval for \['pairs'\]; there are rank, effective_rank"),
        (lambda c: c.intervals([]), "no interval for nothing"),
        (lambda c: c.intervals(level=95), "level must lie between 0 and 1, such as 0.95; got 95"),
        (lambda c: c.intervals(resamples=0), "resamples must be a whole number of at least 1, got 0"),
        (lambda _: intervals.bootstrap_mean(torch.ones(3), level=0.0), "level must lie between 0 and 1"),
        (lambda _: intervals.bootstrap_mean(torch.ones(3, 2)), r"N numbers and their N groups were expected.*\(3, 2\)"),
        (lambda _: intervals.t_interval([1, 2, 3], 2), "level must lie between 0 and 1"),
        (lambda c: c.matrix.of_image(10), "there is no image 10; J was realised over those from 0 to 9"),
    ],
)
def test_bad_requests_are_explained(realised, call, message):
    with pytest.raises(ValueError, match=message):
        call(interaction.coverage(realised))
    with pytest.raises(TypeError, match="by_image: got a Tensor"):
        measures.by_image(torch.eye(3))


def test_results_are_frozen(realised):
    with pytest.raises(dataclasses.FrozenInstanceError):
        measures.by_image(realised).rank = None


def test_a_wide_site_is_never_held_whole():
    """C = 2048, r = 16: what is asked of it comes from the factors."""
    torch.manual_seed(0)
    matrix = interaction.module_interaction(attention.build("se", 2048, reduction=16))
    cover = interaction.coverage(matrix)
    assert cover.rank == 128
    small = cover.band_energy(9)
    assert "matrix" not in vars(matrix)
    assert "energy_by_distance" not in vars(cover)
    assert small == pytest.approx(float(cover.energy_by_distance[:5].sum()), rel=1e-9)
