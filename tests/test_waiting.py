"""Nothing in a batch of a profile waits for the GPU; shown without one, on tensors that only claim to be there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from packaging.version import Version
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import ecaviz
from ecaviz import attention, gates, profiles
from ecaviz.accumulator import Accumulator
from ecaviz.rows import Groups, Numbers
from ecaviz.statistics import Histogram, Moments, Tails, TopK

N, C, G = 16, 24, 1000


class WaitedForError(AssertionError):
    """The program waited for the GPU."""


class FakeGPU(TorchDispatchMode):
    """Tensors on cuda have shapes and no values; those on the CPU are real.

    What needs a value of a tensor on cuda, or a shape that depends on values, raises; so does a copy to the CPU, and
    one from the CPU that is waited for.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
        wanted = kwargs.get("device")
        if not any(one.is_cuda for one in given) and (wanted is None or torch.device(wanted).type != "cuda"):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        self.calls.append(str(func))
        mixed = [one for one in given if not one.is_cuda]
        if mixed and func is torch.ops.aten.copy_.default:
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        elif mixed and func is torch.ops.aten._to_copy.default:
            waits = not kwargs.get("non_blocking", False)
        else:
            waits = func is torch.ops.aten.where.self and bool(mixed)  # copies a number to the device
        if waits:
            raise WaitedForError(f"{func} copies to the GPU and waits")
        try:
            result = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise WaitedForError(f"{func} depends on values on the GPU") from error
        if any(isinstance(one, torch.Tensor) and not one.is_cuda for one in tree_flatten(result)[0]):
            raise WaitedForError(f"{func} copies from the GPU")
        return result


@pytest.fixture
def gpu():
    with FakeTensorMode(allow_non_fake_inputs=True), FakeGPU() as mode:
        try:
            on_gpu(1).detach().to("cuda")
        except RuntimeError as error:
            if Version(torch.__version__) >= Version("2.15"):
                raise
            pytest.skip(f"torch {torch.__version__} wants a driver where tensors only claim to be on a GPU: {error}")
        mode.calls.clear()
        yield mode


def on_gpu(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="cuda")


KINDS = {
    "moments": lambda groups: Moments(C, groups, "cuda"),
    "tails": lambda groups: Tails(C, groups=groups, device="cuda"),
    "histogram": lambda groups: Histogram(C, 16, groups, device="cuda"),
    "any bins": lambda groups: Histogram(C, 10, groups, low=-1, high=2, device="cuda"),
    "largest": lambda groups: TopK(C, 3, groups, device="cuda"),
    "smallest": lambda groups: TopK(C, 3, groups, largest=False, device="cuda"),
}


@pytest.mark.parametrize("groups", [None, 1, 4, G])
@pytest.mark.parametrize("kind", KINDS)
def test_no_update_waits(gpu, kind, groups):
    statistic = KINDS[kind](groups)
    for start in (0, N, 5):  # in order and, the third, not
        labels = None if groups is None else torch.arange(N) % min(groups, 7)
        given = None if groups is None else Groups.of(labels, groups, "cuda")
        numbers = torch.arange(start, start + N)
        before = len(gpu.calls)
        if isinstance(statistic, TopK):
            statistic.update(on_gpu(N, C), given, Numbers.of(numbers, "cuda"))
            statistic.update(on_gpu(N, C), labels, numbers)
            statistic.update(on_gpu(N, C), labels)
        else:
            statistic.update(on_gpu(N, C), given)
            statistic.update(on_gpu(N, C), labels)
        assert len(gpu.calls) > before
    state = {name: value for name, value in vars(statistic).items() if isinstance(value, torch.Tensor)}
    assert state
    assert all(value.is_cuda for value in state.values())
    with pytest.raises(WaitedForError):
        statistic.state_dict()


def test_labels_on_the_gpu_are_waited_for(gpu):
    with pytest.raises(WaitedForError):
        Moments(C, G, "cuda").update(on_gpu(N, C), on_gpu(N, dtype=torch.int64))
    TopK(C, 3, device="cuda").update(on_gpu(N, C), index=on_gpu(N, dtype=torch.int64))  # image numbers are not


class Waiting(Accumulator):
    """Does what it should not."""

    def __init__(self, how):
        super().__init__(C, None, "cuda")
        self.how = how

    def update(self, batch, groups=None):
        x, _ = self._take(batch, groups)
        self.how(x)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(lambda x: x.sum().item(), id="item"),
        pytest.param(lambda x: int(x.argmax()), id="int"),
        pytest.param(lambda x: bool((x > 0).any()), id="bool"),
        pytest.param(lambda x: x.tolist(), id="tolist"),
        pytest.param(lambda x: x.cpu(), id="cpu"),
        pytest.param(lambda x: x.to("cpu", non_blocking=True), id="to"),
        pytest.param(lambda x: torch.empty(x.shape).copy_(x), id="copy_ to the CPU"),
        pytest.param(lambda x: x.copy_(torch.zeros(N, C)), id="copy_ from the CPU"),
        pytest.param(lambda x: torch.zeros(N, C).to(x.device), id="from the CPU"),
        pytest.param(lambda x: torch.tensor([1.0], device=x.device), id="tensor"),
        pytest.param(lambda x: torch.bincount(x[:, 0].long()), id="bincount"),
        pytest.param(lambda x: (x > 0).nonzero(), id="nonzero"),
        pytest.param(lambda x: x[x > 0], id="mask"),
        pytest.param(lambda x: x.unique(), id="unique"),
        pytest.param(lambda x: torch.where(x > 0, x, torch.tensor(0.0)), id="where"),
        pytest.param(lambda x: x.repeat_interleave(x[:, 0].long(), 0), id="repeat_interleave"),
    ],
)
def test_of_this_test_what_waits_is_caught(gpu, how):
    with pytest.raises(WaitedForError):
        Waiting(how).update(on_gpu(N, C))


CLASSES = tuple(f"class {i}" for i in range(G))


@pytest.fixture(scope="module")
def site():
    return gates.find_sites(nn.Sequential(nn.Conv2d(3, C, 3), attention.SE(C, 4)))[0]


def a_pass(by, named, details=None):
    """A pass over images of 1000 classes, with a network that is said to be on the GPU."""
    loaded = ecaviz.load(nn.Sequential(nn.Conv2d(3, C, 3), attention.SE(C, 4)), classes=CLASSES, device="cpu")
    model = SimpleNamespace(
        net=loaded.net, classes=CLASSES, device=torch.device("cuda"), name="fake", source="a test", family=None
    )
    stream = SimpleNamespace(
        classes=CLASSES[::-1] if named else None, description="fakes", total=None, skipped=[], shuffled=False
    )
    return profiles._Pass(model, stream, by, 4, None, None, details)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(("by", "details"), [(None, None), ("class", "pooled"), ("class", "class"), ("class", None)])
def test_no_batch_of_a_pass_waits(gpu, site, by, details, named):
    one = a_pass(by, named, details)
    assert (one.own_class is not None) == named
    for start in (0, N, 2 * N):
        labels = (torch.arange(N) * 37 + start) % G
        names = ("first", "second")
        captured = {name: gates.GateRecord(site, on_gpu(N, C), on_gpu(N, C), on_gpu(N, C)) for name in names}
        one.take(captured, on_gpu(N, G), labels, torch.arange(start, start + N))
    assert list(one.sites) == ["first", "second"]
    assert one.statistics.details == (by == "class" and details != "pooled")  # 30 MiB: small enough without being asked
    assert one.correct.is_cuda
    assert one.counts.tolist() == ([3 * N] if by is None else one.counts.tolist())
    assert int(one.counts.sum()) == 3 * N
    with pytest.raises(WaitedForError):
        one.finish()


@pytest.mark.parametrize("label", [-1, G])
def test_no_batch_waits_whose_labels_give_no_accuracy(gpu, site, label):
    one = a_pass(None, True)
    captured = {"first": gates.GateRecord(site, on_gpu(N, C), on_gpu(N, C), on_gpu(N, C))}
    one.take(captured, on_gpu(N, G), torch.full((N,), label), torch.arange(N))
    assert one.correct is None
    one.take(captured, on_gpu(N, G), torch.zeros(N, dtype=torch.int64), torch.arange(N, 2 * N))
    assert one.correct is None  # for good
