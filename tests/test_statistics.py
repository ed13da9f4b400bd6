"""Streaming statistics against one-shot torch and numpy, over random splits, in any order."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from ecaviz.statistics import Histogram, Moments, Tails, TopK

N, C, G = 501, 7, 5
KINDS = [
    pytest.param(lambda groups, device="cpu": Moments(C, groups, device), id="Moments"),
    pytest.param(lambda groups, device="cpu": Histogram(C, 16, groups, device=device), id="Histogram"),
    pytest.param(lambda groups, device="cpu": Tails(C, groups=groups, device=device), id="Tails"),
    pytest.param(lambda groups, device="cpu": TopK(C, 3, groups, device=device), id="TopK largest"),
    pytest.param(lambda groups, device="cpu": TopK(C, 3, groups, largest=False, device=device), id="TopK smallest"),
]


def gates(seed=0, n=N):
    """Numbers in 0…1 with ties, both ends included, and the group of each; the last group is empty."""
    random = torch.Generator().manual_seed(seed)
    x = torch.sigmoid(2.5 * torch.randn(n, C, generator=random) + torch.linspace(-2, 2, C))
    x = torch.where(torch.rand(n, C, generator=random) < 0.3, (x * 8).round() / 8, x)
    return x, torch.randint(0, G - 1, (n,), generator=random)


def splits(seed, n=N):
    """Pieces of 0…n in a random number and of random sizes, some of them empty."""
    random = np.random.default_rng(seed)
    cuts = np.sort(random.integers(0, n + 1, size=random.integers(1, 12)))
    return [slice(int(a), int(b)) for a, b in itertools.pairwise([0, *cuts, n])]


def update(statistic, x, groups, piece):
    """One piece, with the image numbers where the statistic takes them."""
    options = {"index": torch.arange(N)[piece]} if isinstance(statistic, TopK) else {}
    return statistic.update(x[piece], groups[piece] if statistic.groups > 1 else None, **options)


def assert_same(one, other):
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-11, atol=1e-13, equal_nan=True, msg=name)


# ------------------------------------------------------------------------------------------- the protocol, of all four


@pytest.mark.parametrize("groups", [None, G])
@pytest.mark.parametrize("make", KINDS)
def test_batches_and_shards_in_any_order_equal_one_pass(make, groups):
    x, labels = gates()
    whole = update(make(groups), x, labels, slice(None))
    for seed in range(12):
        pieces = splits(seed)
        batches = make(groups)
        for piece in pieces:
            update(batches, x, labels, piece)
        assert_same(batches, whole)

        shards = [update(make(groups), x, labels, piece) for piece in pieces]
        order = np.random.default_rng(seed).permutation(len(shards))
        merged = make(groups)
        for i in order:
            merged.merge(shards[i])
        assert_same(merged, whole)

        while len(shards) > 1:  # as a tree
            shards = [
                a.copy().merge(b) for a, b in itertools.zip_longest(shards[::2], shards[1::2], fillvalue=make(groups))
            ]
        assert_same(shards[0], whole)


@pytest.mark.parametrize("make", KINDS)
def test_the_state_goes_round(make):
    x, labels = gates()
    first = update(make(G), x, labels, slice(0, 300))
    second = make(G)
    second.load_state_dict(first.state_dict())
    assert_same(second, first)
    update(first, x, labels, slice(300, N))
    update(second, x, labels, slice(300, N))
    assert_same(second, first)


@pytest.mark.parametrize("make", KINDS)
def test_copies_and_read_outs_are_safe_against_later_updates(make):
    x, labels = gates()
    one = update(make(G), x, labels, slice(0, 300))
    copy, state = one.copy(), one.state_dict()
    properties = [name for name, value in vars(type(one)).items() if isinstance(value, property)]
    read = {name: getattr(one, name) for name in properties}
    kept = {name: value.clone() for name, value in (state | read).items()}
    update(one, x, labels, slice(300, N))
    for name, value in (copy.state_dict() | {name: getattr(copy, name) for name in properties}).items():
        torch.testing.assert_close(value, kept[name], rtol=0, atol=0, equal_nan=True)
    for name, value in (state | read).items():
        torch.testing.assert_close(value, kept[name], rtol=0, atol=0, equal_nan=True)
    assert any(not torch.equal(value, kept[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("make", KINDS)
def test_memory_does_not_grow_with_images(make):
    def size(statistic):
        return sum(v.untyped_storage().nbytes() for v in vars(statistic).values() if isinstance(v, torch.Tensor))

    x, labels = gates()
    one = update(make(G), x, labels, slice(0, 50))
    before = size(one)
    for _ in range(20):
        one.update(x, labels)
    assert size(one) == before


@pytest.mark.parametrize("make", KINDS)
def test_a_merge_leaves_the_other_as_it_is_and_needs_one_made_alike(make):
    x, labels = gates()
    one, other = update(make(G), x, labels, slice(0, 100)), update(make(G), x, labels, slice(100, N))
    before = other.state_dict()
    one.merge(other)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    with pytest.raises(ValueError, match=r"merge: .*groups=1.*does not fit .*groups=5"):
        one.merge(make(None))
    wrong = Tails(C) if isinstance(one, Moments) else Moments(C)
    with pytest.raises(TypeError, match=f"got a {type(wrong).__name__}; a {type(one).__name__} was expected"):
        one.merge(wrong)


@pytest.mark.parametrize("make", KINDS)
def test_bad_updates_and_states_are_explained_and_change_nothing(make):
    x, labels = gates()
    one = update(make(G), x, labels, slice(None))
    before = one.state_dict()
    with pytest.raises(ValueError, match=rf"a tensor N×7 was expected, got \({N}, 6\)"):
        one.update(x[:, :6], labels)
    with pytest.raises(ValueError, match="it keeps 5 groups; give the group of each"):
        one.update(x)
    with pytest.raises(ValueError, match="groups run from 0 to 4, got 0 to 5"):
        one.update(x, labels.clamp(max=0).index_fill(0, torch.tensor([3]), 5))
    with pytest.raises(ValueError, match="groups run from 0 to 4, got -1"):
        one.update(x, labels - 1)
    with pytest.raises(ValueError, match="whole numbers were expected as groups"):
        one.update(x, labels.float())
    with pytest.raises(ValueError, match="whole numbers were expected as groups"):
        one.update(x, labels[:-1])
    name = next(iter(before))
    with pytest.raises(ValueError, match=f"{name} should be"):
        one.load_state_dict(before | {name: before[name][:1]})
    with pytest.raises(ValueError, match="a state with"):
        one.load_state_dict({k: v for k, v in before.items() if k != name})
    for key, value in one.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)


def test_made_wrongly():
    with pytest.raises(ValueError, match="Moments: channels must be a whole number of at least 1, got 0"):
        Moments(0)
    with pytest.raises(ValueError, match="Tails: groups must be a whole number of at least 1, got -1"):
        Tails(3, groups=-1)
    with pytest.raises(ValueError, match="Histogram: bins must be a whole number of at least 1"):
        Histogram(3, 0)
    with pytest.raises(ValueError, match="Histogram: low < high was expected"):
        Histogram(3, low=1, high=1)
    with pytest.raises(ValueError, match="TopK: k must be a whole number of at least 1"):
        TopK(3, 0)
    with pytest.raises(ValueError, match=r"Histogram\(.*bins=8.*does not fit Histogram\(.*bins=16"):
        Histogram(3, 16).merge(Histogram(3, 8))


@pytest.mark.parametrize("groups", [None, G])
@pytest.mark.parametrize("make", KINDS)
def test_everything_is_kept_where_it_was_asked_for(make, groups):
    """On torch's device without storage, which refuses to be mixed with tensors of the CPU."""
    x, labels = gates()
    one = make(groups, "meta")
    for batch in (x, x.to("meta")):
        update(one, batch, labels, slice(None))
    one.merge(update(make(groups), x, labels, slice(None)))
    pooled = [one.pooled()] if hasattr(one, "pooled") else []
    for statistic in (one, *pooled):
        assert statistic.device.type == "meta"
        kept = [value for value in vars(statistic).values() if isinstance(value, torch.Tensor)]
        shown = [getattr(statistic, name) for name, v in vars(type(statistic)).items() if isinstance(v, property)]
        assert {value.device.type for value in kept + shown} == {"meta"}


def test_what_is_not_asked_for_is_as_documented():
    assert repr(Moments(3)) == "Moments(channels=3, groups=1)"
    assert repr(Histogram(3)) == "Histogram(channels=3, groups=1, bins=64, low=0.0, high=1.0)"
    assert repr(Tails(3)) == "Tails(channels=3, groups=1, low=0.05, high=0.95)"


@pytest.mark.parametrize("kind", [Histogram, Tails])
def test_other_bounds_are_not_merged(kind):
    for bounds in ({"low": 0.25}, {"high": 0.75}):
        ((name, value),) = bounds.items()
        with pytest.raises(
            ValueError, match=rf"merge: {kind.__name__}\(.*{name}={value}.*does not fit {kind.__name__}\("
        ):
            kind(3).merge(kind(3, **bounds))


@pytest.mark.gpu
@pytest.mark.parametrize("make", KINDS)
def test_on_the_gpu_as_on_the_cpu(make):
    x, labels = gates()
    one = make(G, "cuda")
    for piece in splits(3):
        update(one, x.cuda(), labels.cuda(), piece)
    assert all(v.is_cuda for v in vars(one).values() if isinstance(v, torch.Tensor))
    cpu = update(make(G), x, labels, slice(None))
    assert_same(one, cpu)
    assert_same(make(G).merge(one), cpu)
    assert_same(make(G, "cuda").merge(cpu), cpu)


# ------------------------------------------------------------------------------------------------------------- moments


def test_moments_are_those_of_torch():
    x, labels = gates()
    x = x.double()
    moments = Moments(C, G)
    for piece in splits(1):
        moments.update(x[piece], labels[piece])
    assert moments.n.tolist() == [*(int((labels == g).sum()) for g in range(G - 1)), 0]
    for group in range(G - 1):
        mine = x[labels == group]
        torch.testing.assert_close(moments.mean[group], mine.mean(0), rtol=1e-13, atol=0)
        for correction in (0, 1):
            expected = mine.var(0, correction=correction)
            torch.testing.assert_close(moments.variance(correction)[group], expected, rtol=1e-12, atol=0)
            torch.testing.assert_close(moments.std(correction)[group], expected.sqrt(), rtol=1e-12, atol=0)
        assert torch.equal(moments.min[group], mine.amin(0))
        assert torch.equal(moments.max[group], mine.amax(0))
    for empty in (moments.mean, moments.variance(), moments.std(), moments.min, moments.max):
        assert empty[G - 1].isnan().all()
        assert not empty[: G - 1].isnan().any()


def test_pooled_moments_are_those_without_groups():
    x, labels = gates()
    assert_same(Moments(C, G).update(x, labels).pooled(), Moments(C).update(x))
    assert_same(Moments(C, G).pooled(), Moments(C))
    assert_same(Moments(C, G).update(x[:1], labels[:1]).pooled(), Moments(C).update(x[:1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_small_variance_about_a_large_mean_survives(dtype):
    random = torch.Generator().manual_seed(0)
    x = (1e6 + 0.1 * torch.randn(4000, C, dtype=torch.float64, generator=random)).to(dtype)
    exact = x.numpy().astype(np.longdouble).var(0).astype(float)
    if dtype == torch.float64:
        assert np.allclose(exact, 1e-2, rtol=0.2)
    naive = (x.float().square().sum(0) / len(x) - (x.float().sum(0) / len(x)).square()).numpy()
    assert np.abs(naive - exact).min() > 1  # what Σx² in float32 makes of it: nothing is left

    moments = Moments(C)
    for piece in splits(2, len(x)):
        moments.merge(Moments(C).update(x[piece]))
    assert np.allclose(moments.variance()[0].numpy(), exact, rtol=1e-8, atol=0)
    assert np.allclose(moments.mean[0].numpy(), x.numpy().astype(np.longdouble).mean(0).astype(float), rtol=1e-15)


def test_one_row_has_variance_zero_and_no_unbiased_one():
    moments = Moments(2).update(torch.tensor([[0.25, 1e9]]))
    assert moments.variance().tolist() == [[0, 0]]
    assert moments.variance(1).isnan().all()


def test_a_few_rows_are_enough():
    x = torch.tensor([[0.25, 3.0], [0.5, -1.0]], dtype=torch.float64)
    one, two = Moments(2).update(x[:1]), Moments(2).update(x)
    for values in (one.mean, one.min, one.max):
        assert torch.equal(values, x[:1])
    tails = Tails(2).update(x[:1])
    assert (tails.below.tolist(), tails.above.tolist()) == ([[0, 0]], [[0, 1]])
    assert torch.equal(two.variance(1), x.var(0, keepdim=True))
    assert torch.equal(two.std(1), x.var(0, keepdim=True).sqrt())
    assert torch.equal(two.std(), x.var(0, correction=0, keepdim=True).sqrt())  # of what was seen, if not asked


def test_nan_shows_where_it_came_in_and_nowhere_else():
    x, labels = gates()
    labels[0], x[0, 2] = 1, torch.nan
    moments = Moments(C, G).update(x, labels)
    for values in (moments.mean, moments.variance(), moments.min, moments.max):
        bad = values[: G - 1].isnan()
        assert bad.nonzero().tolist() == [[1, 2]]


def test_inputs_are_not_changed_and_need_no_gradient():
    x = torch.rand(6, C, requires_grad=True)
    kept = x.detach().clone()
    moments = Moments(C).update(x)
    assert torch.equal(x.detach(), kept)
    assert not moments.mean.requires_grad
    with torch.inference_mode():
        inside = Moments(C).update(x)
    assert_same(moments.merge(inside), Moments(C).update(torch.cat([x, x])))


# ----------------------------------------------------------------------------------------------------------- histogram


@pytest.mark.parametrize("bins", [1, 8, 64])
def test_histograms_are_those_of_numpy(bins):
    x, labels = gates()
    x = x.double()
    histogram = Histogram(C, bins, G).update(x, labels)
    assert histogram.edges.dtype == torch.float64
    edges = histogram.edges.numpy()
    assert (edges[0], edges[-1], len(edges)) == (0, 1, bins + 1)
    for group, channel in itertools.product(range(G), range(C)):
        expected, _ = np.histogram(x[labels == group, channel].numpy(), edges)
        assert histogram.counts[group, channel].tolist() == expected.tolist()
    assert histogram.outside.sum() == 0


def test_the_ends_are_inside_and_the_rest_is_counted_outside():
    x = torch.tensor([[0.0], [1.0], [-1e-6], [1.1], [torch.nan], [torch.inf], [0.5]])
    histogram = Histogram(1, 4).update(x)
    assert histogram.counts.tolist() == [[[1, 0, 1, 1]]]
    assert histogram.outside.tolist() == [[4]]
    assert Histogram(1, 2, low=-1, high=3).update(torch.tensor([[0.9], [1.0], [3.0]])).counts.tolist() == [[[1, 2]]]


@pytest.mark.parametrize(
    ("dtype", "bins", "low", "high"),
    [
        (torch.float32, 10, 0, 1),  # x·10 rounds in float32
        (torch.float32, 2, -1, 1),  # x + 1 does
        (torch.float16, 2**17, 0, 1),  # x·2¹⁷ overflows in float16
        (torch.bfloat16, 10, 0, 1),
    ],
)
def test_a_value_is_in_the_bin_that_float64_says(dtype, bins, low, high):
    edges = low + (high - low) * torch.arange(11, dtype=torch.float64) / 10
    x = torch.cat([edges - 1e-9, edges, edges + 1e-9]).clamp(low, high).to(dtype)
    expected, _ = np.histogram(x.double().numpy(), bins, range=(low, high))
    assert Histogram(1, bins, low=low, high=high).update(x[:, None]).counts[0, 0].tolist() == expected.tolist()


class Sizes(TorchFunctionMode):
    """How many numbers the largest tensor of each dtype has that is made meanwhile."""

    def __init__(self):
        super().__init__()
        self.largest = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple) else (made,):
            if isinstance(one, torch.Tensor):
                self.largest[one.dtype] = max(self.largest[one.dtype], one.numel())
        return made


@pytest.mark.parametrize(
    ("statistic", "widened"),
    [
        (lambda: Histogram(C), False),
        (lambda: Histogram(C, 2), False),
        (lambda: Histogram(C, 10), True),
        (lambda: Histogram(C, low=1, high=2), True),
        (lambda: Tails(C), False),
    ],
)
def test_float32_is_made_float64_only_where_that_makes_a_difference(statistic, widened):
    x, _ = gates()
    with Sizes() as sizes:
        statistic().update(x)
    assert sizes.largest[torch.float32] == N * C or widened
    assert (sizes.largest[torch.float64] == N * C) == widened


def test_quantiles_by_hand():
    """Bins of width 1 from −1 on with 1, 0, 2 and 1 values: each is spread evenly over its bin."""
    histogram = Histogram(1, 4, low=-1, high=3).update(torch.tensor([[-0.9], [1.1], [1.2], [2.9]]))
    by_hand = {0: -1, 0.125: -0.5, 0.25: 0, 0.5: 1.5, 0.75: 2, 0.875: 2.5, 1: 3}
    assert {q: histogram.quantile(q).item() for q in by_hand} == by_hand
    many = Histogram(1, 4).update(torch.tensor([[0.1]] * 7 + [[0.6]] * 93))
    assert 0.07 * 100 > 7  # by rounding
    assert many.quantile(0.07).item() == 0.25  # and yet no more than the bin of the seventh value
    single = Histogram(1, 4).update(torch.tensor([[0.3]]))
    assert [single.quantile(q).item() for q in (0, 0.5, 1)] == [0.25, 0.375, 0.5]


@pytest.mark.parametrize("bins", [8, 64])
def test_quantiles_are_within_one_bin(bins):
    x, labels = gates()
    histogram = Histogram(C, bins, G).update(x, labels)
    errors = []
    for q in (0, 0.013, 0.25, 1 / 3, 0.5, 0.77, 0.95, 1):
        got = histogram.quantile(q)
        assert got[G - 1].isnan().all()
        for group in range(G - 1):
            mine = x[labels == group].double().numpy()
            errors.append(np.abs(got[group].numpy() - np.quantile(mine, q, axis=0, method="inverted_cdf")))
    assert np.max(errors) <= 1 / bins
    assert np.mean(errors) < 0.5 / bins  # and the place within the bin tells something
    with pytest.raises(ValueError, match=r"q must lie in 0…1, got 1.5"):
        histogram.quantile(1.5)


# --------------------------------------------------------------------------------------------------------------- tails


def test_tails_are_counted_exactly():
    x, labels = gates()
    tails = Tails(C, 0.125, 0.875, G).update(x, labels)
    assert ((x == 0.125).any(0) & (x == 0.875).any(0)).any()  # the bounds themselves occur, and do not count
    for group in range(G - 1):
        mine = x[labels == group]
        torch.testing.assert_close(tails.below[group], (mine < 0.125).double().mean(0))
        torch.testing.assert_close(tails.above[group], (mine > 0.875).double().mean(0))
    assert tails.below[G - 1].isnan().all()
    assert tails.above[G - 1].isnan().all()


def test_tails_without_groups_add_up_batch_by_batch():
    x, _ = gates()
    tails = Tails(C, 0.125, 0.875)
    for piece in splits(5):
        tails.update(x[piece])
    torch.testing.assert_close(tails.below, (x < 0.125).double().mean(0, keepdim=True))
    torch.testing.assert_close(tails.above, (x > 0.875).double().mean(0, keepdim=True))


def test_more_rows_than_float32_can_count():
    x = torch.zeros(1, 1).expand(2**24 + 1, 1)
    assert Tails(1).update(x).below.item() == 1


# ---------------------------------------------------------------------------------------------------------------- top k


@pytest.mark.parametrize("largest", [True, False])
def test_top_k_is_a_stable_sort(largest):
    x, labels = gates()
    assert all(len(x[:, c].unique()) < N - 20 for c in range(C))  # there are ties
    top = TopK(C, 6, G, largest=largest)
    for piece in splits(4):
        top.update(x[piece], labels[piece], torch.arange(N)[piece])
    for group, channel in itertools.product(range(G - 1), range(C)):
        mine = sorted((-v if largest else v, i) for i, v in enumerate(x[:, channel].tolist()) if labels[i] == group)[:6]
        assert top.index[group, channel].tolist() == [i for _, i in mine]
        assert top.values[group, channel].tolist() == [-v if largest else v for v, _ in mine]
    assert (top.index[G - 1] == -1).all()
    assert top.values[G - 1].isnan().all()


def test_top_k_counts_rows_by_itself_and_leaves_nan_out():
    top = TopK(1, 3)
    top.update(torch.tensor([[0.1], [torch.nan]])).update(torch.tensor([[-torch.inf], [0.9]]))
    assert top.index.tolist() == [[[3, 0, 2]]]
    assert top.values.tolist() == [[[pytest.approx(0.9), pytest.approx(0.1), -torch.inf]]]
    few = TopK(1, 3, largest=False).update(torch.tensor([[0.5], [torch.nan]]))
    assert few.index.tolist() == [[[0, -1, -1]]]
    assert few.values.isnan().tolist() == [[[False, True, True]]]
    assert few.offset(10).index.tolist() == [[[10, -1, -1]]]
    with pytest.raises(ValueError, match=r"2 image numbers were expected, one a row, got shape \(3,\)"):
        few.update(torch.zeros(2, 1), index=torch.arange(3))
