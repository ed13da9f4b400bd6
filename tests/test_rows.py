"""Groups of a batch: what they say of its rows, and that statistics by group are those of numpy and pandas."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from ecaviz.rows import Groups, Numbers
from ecaviz.statistics import Histogram, Moments, Tails, TopK

C, K, BINS = 5, 3, 8
N = 400


def batches(total, seed):
    """Batches of random sizes, of few of the groups each; NaN, infinite and equal values, −0 and images out of order.

    Returns:
        Everything at once (x, labels, image numbers), and the slices that are the batches.
    """
    random = np.random.default_rng(seed)
    cuts = np.sort(random.integers(0, N + 1, size=9))
    pieces = [slice(int(a), int(b)) for a, b in itertools.pairwise([0, *cuts, N])]
    x = random.random((N, C)).astype(np.float32)
    x = np.where(random.random((N, C)) < 0.4, np.round(x * 8) / 8, x)
    x[random.random((N, C)) < 0.05] = -0.0
    labels = np.empty(N, dtype=np.int64)
    for piece in pieces:  # a batch has only some of the groups
        some = random.choice(total, size=min(total, int(random.integers(1, 40))), replace=False)
        labels[piece] = random.choice(some, size=piece.stop - piece.start)
    for value in (np.nan, np.inf, -np.inf):
        x[:, :3][random.random((N, 3)) < 0.01] = value  # two channels remain finite
    numbers = random.permutation(N) if seed % 2 else np.arange(N)
    return torch.from_numpy(x), torch.from_numpy(labels), torch.from_numpy(numbers), pieces


def accumulators(total):
    return {
        "moments": Moments(C, total),
        "tails": Tails(C, 0.125, 0.875, total),
        "histogram": Histogram(C, BINS, total),
        "wide": Histogram(C, BINS, total, low=-0.1, high=0.9),
        "largest": TopK(C, K, total),
        "smallest": TopK(C, K, total, largest=False),
    }


def taken(total, x, labels, numbers, pieces):
    found = accumulators(total)
    for piece in pieces:
        groups, images = Groups.of(labels[piece], total), Numbers.of(numbers[piece])
        for statistic in found.values():
            options = {"index": images} if isinstance(statistic, TopK) else {}
            assert statistic.update(x[piece], groups, **options) is statistic
    return found


def extremes(values, numbers, largest):
    order = sorted((-v if largest else v, i, v) for v, i in zip(values.tolist(), numbers, strict=True) if v == v)[:K]
    pad = K - len(order)
    return [v for *_, v in order] + [np.nan] * pad, [i for _, i, _ in order] + [-1] * pad


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("total", [1, 4, 1000])
def test_batches_by_group_are_what_numpy_and_pandas_say(total, seed):
    x, labels, numbers, pieces = batches(total, seed)
    found = taken(total, x, labels, numbers, pieces)
    frame = pd.DataFrame(x.double().numpy()).groupby(labels.numpy())
    present = np.array(sorted(frame.groups))
    assert (len(present) < total) == (total == 1000)
    absent = np.setdiff1d(np.arange(total), present)
    moments, tails = found["moments"], found["tails"]

    def of(one):  # pandas leaves NaN out, so numpy is applied group by group
        return np.stack([one(group.to_numpy()) for _, group in frame])

    with np.errstate(invalid="ignore"):
        finite = of(lambda values: np.isfinite(values).all(0))
        expected = {
            "mean": (np.where(finite, of(lambda values: values.mean(0)), np.nan), moments.mean),
            "variance": (np.where(finite, of(lambda values: values.var(0)), np.nan), moments.variance()),
            "min": (of(lambda values: values.min(0)), moments.min),
            "max": (of(lambda values: values.max(0)), moments.max),
            "below": (of(lambda values: (values < 0.125).mean(0)), tails.below),
            "above": (of(lambda values: (values > 0.875).mean(0)), tails.above),
        }
    assert finite.any()
    assert not finite.all()
    assert moments.n[present].tolist() == frame.size().tolist()
    assert moments.n.sum() == N
    for name, (value, got) in expected.items():
        np.testing.assert_allclose(got.numpy()[present], value, rtol=1e-11, atol=1e-14, err_msg=name)
        assert np.isnan(got.numpy()[absent]).all()

    for name in ("histogram", "wide"):
        histogram = found[name]
        edges = histogram.edges.numpy()
        for group, channel in itertools.product(present, range(C)):
            values = frame.get_group(group)[channel].to_numpy()
            assert histogram.counts[group, channel].tolist() == np.histogram(values, edges)[0].tolist()
        assert torch.equal(histogram.counts.sum(-1) + histogram.outside, moments.n[:, None].expand(-1, C))

    for name in ("largest", "smallest"):
        for group, channel in itertools.product(present, range(C)):
            mine = frame.get_group(group)[channel]
            values, images = extremes(mine, numbers[mine.index].tolist(), name == "largest")
            assert found[name].index[group, channel].tolist() == images
            np.testing.assert_array_equal(found[name].values[group, channel].numpy(), np.array(values, np.float32))
        assert (found[name].index[absent] == -1).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("total", [1, 4, 1000])
def test_batches_at_once_and_merged_are_the_same(total, seed):
    x, labels, numbers, pieces = batches(total, seed)
    streamed = taken(total, x, labels, numbers, pieces)
    whole = taken(total, x, labels, numbers, [slice(0, N)])
    parts = [taken(total, x, labels, numbers, pieces[i::3]) for i in range(3)]
    saved = accumulators(total)  # goes on from the state of a part
    for name, statistic in saved.items():
        statistic.load_state_dict(parts[0][name].state_dict())
    for piece in pieces[1::3] + pieces[2::3]:
        for statistic in saved.values():
            options = {"index": numbers[piece]} if isinstance(statistic, TopK) else {}
            statistic.update(x[piece], labels[piece], **options)
    for name, one in streamed.items():
        merged = parts[2][name].copy().merge(parts[0][name]).merge(parts[1][name])
        for other in (whole[name], merged, saved[name]):
            for key, value in one.state_dict().items():
                # of −0 and 0, which are equal, either may be kept as the least
                torch.testing.assert_close(
                    other.state_dict()[key], value, rtol=1e-11, atol=1e-13, equal_nan=True, msg=f"{name} {key}"
                )


def test_a_group_far_from_all_before_it_keeps_its_variance():
    random = torch.Generator().manual_seed(0)
    centre = torch.tensor([0.0, 1e6, -1e9])
    labels = torch.randint(0, 3, (900,), generator=random)
    x = centre[labels, None].double() + torch.rand(900, C, generator=random, dtype=torch.float64)
    grouped, pooled = Moments(C, 3), Moments(C)
    for piece in (slice(0, 1), slice(1, 40), slice(40, 900)):
        grouped.update(x[piece], labels[piece])
        pooled.update(x[piece])
    for group in range(3):
        exact = x[labels == group].numpy().astype(np.longdouble).var(0).astype(float)
        np.testing.assert_allclose(grouped.variance()[group].numpy(), exact, rtol=1e-6)
    exact = x.numpy().astype(np.longdouble).var(0).astype(float)
    np.testing.assert_allclose(pooled.variance()[0].numpy(), exact, rtol=1e-12)
    np.testing.assert_allclose(grouped.pooled().variance()[0].numpy(), exact, rtol=1e-12)


def test_what_groups_say_of_the_rows():
    groups = Groups.of(torch.tensor([7, 2, 7, 7, 9], dtype=torch.int16), 10)
    assert len(groups) == 5
    assert groups.total == 10
    assert groups.rows.tolist() == groups.labels.tolist() == [7, 2, 7, 7, 9]
    assert groups.present.tolist() == [2, 7, 9]
    assert groups.place.tolist() == [1, 0, 1, 1, 2]
    assert groups.counts.tolist() == [1, 3, 1]
    assert groups.first.tolist() == [1, 0, 4]
    assert [(of.tolist(), rows.tolist()) for of, rows in groups.runs] == [([2, 9], [[1], [4]]), ([7], [[0, 2, 3, 5]])]
    assert groups.to("cpu") is groups
    empty = Groups.of(torch.zeros(0, dtype=torch.int64), 10)
    assert (len(empty), len(empty.present), empty.runs) == (0, 0, ())
    numbers = Numbers.of(torch.tensor([30, 10, 30, 20]))
    assert numbers.rank.tolist() == [2, 0, 3, 1]
    assert numbers.ends == (10, 30)


@pytest.mark.parametrize("seed", range(3))
def test_runs_hold_every_row_once_and_little_else(seed):
    labels = torch.from_numpy(np.random.default_rng(seed).geometric(0.1, size=300) - 1)
    groups = Groups.of(labels, 1000)
    rows = torch.cat([rows.view(-1) for _, rows in groups.runs])
    assert sorted(rows[rows < 300].tolist()) == list(range(300))
    assert len(rows) <= 2 * 300
    for of, table in groups.runs:
        for group, mine in zip(of.tolist(), table.tolist(), strict=True):
            assert [row for row in mine if row < 300] == (labels == group).nonzero()[:, 0].tolist()


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"Groups.of: groups run from 0 to 2, got 0 to 3"):
        Groups.of(torch.tensor([0, 3]), 3)
    with pytest.raises(ValueError, match="whole numbers were expected as groups"):
        Groups.of(torch.tensor([0.0]), 3)
    x = torch.rand(2, C)
    for statistic in accumulators(4).values():
        for wrong in (Groups.of(torch.tensor([0, 1]), 3), Groups.of(torch.tensor([0, 1, 1]), 4)):
            with pytest.raises(ValueError, match="it keeps 4 groups, and the batch has 2 rows; got Groups of"):
                statistic.update(x, wrong)
    with pytest.raises(ValueError, match="Numbers of 2 rows were expected, got 3"):
        TopK(C).update(x, index=Numbers.of(torch.arange(3)))


@pytest.mark.parametrize("groups", [None, 4])
def test_states_made_or_changed_under_inference_mode_can_be_changed_outside(groups):
    x, labels = torch.rand(8, C), torch.arange(8) % 4
    with torch.inference_mode():
        found = {name: one.update(x, labels if groups else None) for name, one in accumulators(groups).items()}
        found = {name: one.copy().merge(accumulators(groups)[name]) for name, one in found.items()}
    for name, one in accumulators(groups).items():
        expected = one.update(x, labels if groups else None).update(x, labels if groups else None)
        got = found[name].update(x, labels if groups else None)
        for key, value in expected.state_dict().items():
            torch.testing.assert_close(got.state_dict()[key], value, equal_nan=True)
