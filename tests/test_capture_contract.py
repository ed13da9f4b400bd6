"""What capture promises, point by point; and for each point, that its check fails when the point is broken.

A check is a function that asserts. Beside it stands a way to break what it checks: a patch of the library under which
it must not pass. So no check here is one that cannot fail.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ecaviz import attention, fits, gates, readers, sites
from ecaviz.gates import capture, find_sites


class Block(nn.Module):
    def __init__(self, channels: int, module: nn.Module):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.relu, self.se = nn.ReLU(inplace=True), module

    def forward(self, x):
        return self.relu(self.se(self.norm(self.conv(x))))


class Net(nn.Module):
    """Three gates, one of them called twice; dropout, norms and in-place operations, to be left as they are."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.first = Block(16, attention.SE(16, 4))
        self.second = Block(16, attention.ECA(16, 3))
        self.third = Block(16, attention.SE(16, 2, bias=True))
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(16, 5)

    def forward(self, x):
        x = self.second(self.first(self.stem(x)))
        x = self.third(self.second(x))
        return self.head(self.drop(x.mean(dim=(2, 3))))


CALLS = ["first.se", "second.se", "second.se#2", "third.se"]


def network() -> Net:
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        for block in (net.first, net.second, net.third):  # so that the gates vary
            block.conv.weight *= 4
            for p in block.se.parameters():
                p *= 3
    return net


def images(n: int = 4, seed: int = 1) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 12, 12, generator=made) + torch.randn(n, 3, 1, 1, generator=made)


def by_hand(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gates, from what the modules were given: no hook of the library's, and each formula written out."""
    found: dict[str, torch.Tensor] = {}

    def seen(module, args, name):
        y = args[0].detach().mean(dim=(2, 3))
        weights = [p.detach() for p in module.parameters()]
        if len(weights) == 1:  # ECA
            z = nn.functional.conv1d(y[:, None], weights[0], padding=1)[:, 0]
        elif len(weights) == 2:
            z = (y @ weights[0].T).relu() @ weights[1].T
        else:
            w1, b1, w2, b2 = weights
            z = (y @ w1.T + b1).relu() @ w2.T + b2
        found[f"{name}#2" if name in found else name] = 1 / (1 + (-z).exp())

    handles = [
        getattr(net, name).se.register_forward_pre_hook(lambda m, args, name=name: seen(m, args, f"{name}.se"))
        for name in ("first", "second", "third")
    ]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    assert list(found) == CALLS
    for gate in found.values():  # gates that do not vary would prove nothing
        assert (gate.amax(dim=0) - gate.amin(dim=0)).median() > 1e-3
        assert gate.std() > 1e-2
    return found


def equal(captured: gates.Captured, expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert list(captured) == list(expected)
    for name, gate in expected.items():
        torch.testing.assert_close(captured[name].gate, gate, rtol=0, atol=tolerance)


def hooks(net: nn.Module) -> list[tuple]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    kept = [(name, kind, list(getattr(m, kind))) for name, m in net.named_modules() for kind in kinds]
    return [one for one in kept if one[2]] + [name for name, m in net.named_modules() if "forward" in m.__dict__]


# --------------------------------------------------------------------------------------------------------------- checks


def values():
    net, x = network(), images()
    with torch.no_grad(), capture(net) as captured:
        net(x)
    equal(captured, by_hand(net, x))


def hooks_go_away(error: type[BaseException]) -> None:
    """Also those of a functional gate, which stands in for a forward."""

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 16)

        def forward(self, x):
            return x * torch.sigmoid(self.fc(x.mean(dim=(2, 3))))[:, :, None, None]

    net = network()
    net.third.se = Functional()
    find_sites(net, example=images())
    own = [net.first.se.register_forward_hook(lambda *_: None), net.register_forward_pre_hook(lambda *_: None)]
    before = hooks(net)
    with suppress(error), capture(net, stop=True), capture(net, "first*"):
        net(images())
        raise error
    assert hooks(net) == before
    assert [len(one) for one in (net.first.se._forward_hooks, net._forward_pre_hooks)] == [1, 1]
    for handle in own:
        handle.remove()


def own_hooks_run():
    net, seen = network(), []
    net.first.se.register_forward_hook(lambda *_: seen.append("module"))
    net.register_forward_hook(lambda *_: seen.append("network"))
    with torch.no_grad():
        with capture(net):
            net(images())
        assert seen == ["module", "network"]
        net(images())
    assert seen == ["module", "network"] * 2


def training_flags_stay():
    net = network()
    net.second.train()
    before = [m.training for m in net.modules()]
    with capture(net):
        assert [m.training for m in net.modules()] == before
        net(images())
        assert [m.training for m in net.modules()] == before
    assert [m.training for m in net.modules()] == before


def gradients_stay():
    net, x = network(), images()
    net.first.conv.weight.requires_grad_(False)
    net(x).square().sum().backward()
    plain = {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    with capture(net):
        net(x).square().sum().backward()
    for name, p in net.named_parameters():
        assert (p.grad is None) == (plain[name] is None), name
        assert p.grad is None or torch.equal(p.grad, plain[name]), name
        assert p.requires_grad == (name != "first.conv.weight")


def outputs_and_dtypes_stay():
    for dtype in (torch.float32, torch.float64):
        net, x = network().to(dtype), images().to(dtype)
        state = copy.deepcopy(net.state_dict())
        with torch.no_grad():
            plain = net(x)
            with capture(net) as captured:
                out = net(x)
        assert out.dtype == dtype
        assert torch.equal(out, plain)
        for name, value in net.state_dict().items():
            assert value.dtype == state[name].dtype
            assert torch.equal(value, state[name])
        equal(captured, {name: gate.float() for name, gate in by_hand(net, x).items()})


def random_state_stays():
    net, x = network().train(), images()
    torch.manual_seed(5)
    plain = net(x)
    after = torch.get_rng_state()
    net = network().train()
    torch.manual_seed(5)
    with capture(net):
        out = net(x)
    assert torch.equal(out, plain)
    assert torch.equal(torch.get_rng_state(), after)


def detached():
    net = network()
    with capture(net) as captured:
        net(images())
    record = captured["first.se"]
    assert not any(vector.requires_grad for vector in (record.descriptor, record.logit, record.gate))


def safe_against_in_place():
    class Overwrites(attention.SE):
        def forward(self, x):
            y = self.squeeze(x)
            z = self.excite(y)
            gate = self.activation(z)
            out = x * gate[:, :, None, None]
            y.fill_(9), z.fill_(9), gate.fill_(9)
            return out

    net, x = network(), images()
    expected = by_hand(net, x)
    own = Overwrites(16, 4)
    own.load_state_dict(net.first.se.state_dict())
    net.first.se = own.eval()
    with torch.no_grad(), capture(net) as captured:
        net(x)
    equal(captured, expected)
    assert float(captured["first.se"].descriptor.max()) < 9


def logit_kept_and_gate_in_float32(dtype: torch.dtype) -> None:
    net, x = network(), images()
    with torch.no_grad():
        net.third.se.excite.fc2.bias[:] = 9  # a sigmoid in half precision gives 1
        with torch.autocast("cpu", dtype), capture(net) as captured:
            net(x)
    for name in captured:
        record = captured[name]
        assert {vector.dtype for vector in (record.descriptor, record.logit, record.gate)} == {torch.float32}
        torch.testing.assert_close(record.gate, 1 / (1 + (-record.logit).exp()), rtol=1e-6, atol=1e-7)
    assert float(captured["third.se"].gate.max()) < 1
    with torch.no_grad():
        net.third.se.excite.fc2.bias[:] = 0
    with torch.no_grad(), torch.autocast("cpu", dtype), capture(net) as captured:
        net(x)
    equal(captured, by_hand(net, x), 0.02)


def called_twice():
    net, x = network(), images()
    with torch.no_grad(), capture(net, "second*") as captured:
        net(x), net(x)
    expected = by_hand(net, x)
    assert list(captured) == ["second.se", "second.se#2"]
    for name in captured:
        torch.testing.assert_close(captured[name].gate, torch.cat([expected[name]] * 2), rtol=0, atol=1e-5)
    assert not torch.allclose(captured["second.se"].gate, captured["second.se#2"].gate, atol=1e-3)


def channels_last():
    net, x = network(), images()
    expected = by_hand(net, x)
    net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    seen = []
    net.third.register_forward_hook(
        lambda m, args, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    with torch.no_grad(), capture(net) as captured:
        net(x)
    equal(captured, expected)
    assert seen == [True]


def inference_mode():
    net, x = network(), images()
    with torch.inference_mode(), capture(net) as captured:
        net(x)
    equal(captured, by_hand(net, x))
    weight = torch.ones(16, requires_grad=True)
    (captured["first.se"].descriptor * weight).sum().backward()
    assert weight.grad is not None


def data_parallel():
    net, x = network(), images()
    wrapped = nn.DataParallel(net)
    with torch.no_grad(), capture(wrapped) as captured:
        wrapped(x)
    equal(captured, by_hand(net, x))
    wrapped.device_ids = [0, 1]  # as on a machine with two; nothing is run
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with suppress(ValueError), capture(wrapped):
            assert wrapped.device_ids == [0]
            raise ValueError
    assert "a DataParallel of 2 devices runs on the first of them" in str(told[0].message)
    assert wrapped.device_ids == [0, 1]


def distributed_data_parallel():
    net, x = network(), images()
    expected = by_hand(net, x)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(net)
        with capture(wrapped) as captured:
            wrapped(x).sum().backward()
        assert [one.name for one in find_sites(wrapped)] == ["first.se", "second.se", "third.se"]
    finally:
        dist.destroy_process_group()
    equal(captured, expected)
    assert net.stem.weight.grad is not None


def compiled_before():
    net, x = network(), images()
    expected = by_hand(net, x)
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(net, backend=backend)
    with torch.no_grad():
        plain = compiled(x)
        made = len(graphs)
        assert made > 0
        for target in (compiled, net):
            with capture(target) as captured:
                out = compiled(x)
            equal(captured, expected)
            torch.testing.assert_close(out, plain)
        torch.testing.assert_close(compiled(x), plain)
    assert len(graphs) == made  # neither recompiled in the `with` nor after it
    net.compile(backend=backend)
    with torch.no_grad(), capture(net) as captured:
        net(x)
    equal(captured, expected)


def compiled_within():
    net, x = network(), images()
    expected = by_hand(net, x)
    with torch.no_grad(), capture(net) as captured:
        compiled = torch.compile(net, backend="eager")
        plain = compiled(x)
    equal(captured, expected)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), plain)
    assert len(captured["first.se"].gate) == len(x)


def with_gradients():
    """Inside a training step, and under gradient checkpointing, whose second forward is none of its own."""
    net, x = network(), images()
    expected = by_hand(net, x)
    with capture(net) as captured:
        net(x).sum().backward()
    equal(captured, expected)

    class Checkpointed(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)

    net = network()
    net.first = Checkpointed(net.first)
    with capture(net) as captured:
        net(x).sum().backward()
    torch.testing.assert_close(captured["first.inner.se"].gate, expected["first.se"], rtol=0, atol=1e-5)


def early_stop():
    net, x = network(), images()
    expected = {name: gate for name, gate in by_hand(net, x).items() if name.startswith("second")}
    ran = []
    net.third.register_forward_hook(lambda *_: ran.append("third"))
    with torch.no_grad(), capture(net, "second*", stop=True) as captured:
        outputs = [net(x), net(x), net(x)]
    assert [out is None for out in outputs] == [False, True, True]
    assert ran == ["third"]
    equal(captured, {name: torch.cat([gate] * 3) for name, gate in expected.items()})
    with torch.no_grad():
        assert net(x) is not None


def early_stop_waits_for_others():
    net, x = network(), images()
    with torch.no_grad(), capture(net) as whole, capture(net, "first*", stop=True) as part:
        assert all(net(x) is not None for _ in range(3))
    assert {len(record.gate) for record in whole.values()} == {12}
    assert len(part["first.se"].gate) == 12


def failed_forwards_leave_no_rows(error: type[BaseException]) -> None:
    net, x = network(), images()
    broken = []

    def fails(*_):
        if broken:
            raise error

    net.third.register_forward_pre_hook(fails)
    with torch.no_grad(), capture(net) as captured:
        net(x)
        broken.append(True)
        with suppress(error):
            net(x)
        broken.clear()
        net(x)
    equal(captured, {name: torch.cat([gate] * 2) for name, gate in by_hand(net, x).items()})


def nested():
    net, x = network(), images()
    before = hooks(net)
    expected = by_hand(net, x)
    with torch.no_grad(), capture(net) as outer:
        with capture(net, "first*") as inner:
            net(x)
        net(x)
    equal(inner, {"first.se": expected["first.se"]})
    equal(outer, {name: torch.cat([gate] * 2) for name, gate in expected.items()})
    assert hooks(net) == before


# ------------------------------------------------------------------------------------------------------------- breakers


@contextmanager
def patched(where, name: str, make: Callable) -> Iterator[None]:
    """``name`` replaced by what ``make`` makes of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, make(getattr(where, name, None)), raising=False)  # a builtin is none of its own
        yield


def after(then: Callable) -> Callable:
    """The function, then another one with the same arguments."""

    def make(own):
        def both(*args, **kwargs):
            out = own(*args, **kwargs)
            then(*args, **kwargs)
            return out

        return both

    return make


def instead(other: Callable) -> Callable:
    return lambda own: lambda *args, **kwargs: other(own, *args, **kwargs)


def no_op(*_args, **_kwargs) -> None:
    pass


def forgets_the_rest(run) -> None:
    for module in run.net.modules():
        module._forward_hooks.clear()


def reads_the_module_as_it_was(own, self):
    """Everything but what stands in for a forward."""
    while self.handles:
        handle = self.handles.pop()
        if not hasattr(handle, "own"):
            handle.remove()


def changed_output(change: Callable) -> Callable:
    def make(own):
        def leave(self, module, args, output):
            own(self, module, args, output)
            return change(output)

        return leave

    return make


@contextmanager
def not_followed(_net, _what):
    yield


def without_marks(own, self, one, descriptor, logit):
    """A second call of a site is taken for another image of the first."""
    self.captured._add(one.name, one, descriptor, logit)


def counts_one_less(own, self):
    return self.stop and bool(self.whole) and sum(self.calls.values()) == sum(self.whole.values()) - 1


def starts_anew_with_the_rest(self, module, _args):
    if module is self.net:
        self.calls = Counter()


RUN, READER = gates._Run, readers.Reader
POINTS: list[tuple[str, Callable[[], None], Callable]] = [
    ("the values", values, lambda: patched(READER, "shaped", lambda own: lambda s, v: own(s, v) + 0.1)),
    ("hooks go after an exception", lambda: hooks_go_away(ValueError), lambda: patched(RUN, "detach", instead(no_op))),
    ("hooks go after Ctrl-C", lambda: hooks_go_away(KeyboardInterrupt), lambda: patched(RUN, "detach", instead(no_op))),
    (
        "stand-ins go",
        lambda: hooks_go_away(ValueError),
        lambda: patched(RUN, "detach", instead(reads_the_module_as_it_was)),
    ),
    (
        "the user's hooks stay",
        lambda: hooks_go_away(ValueError),
        lambda: patched(RUN, "detach", after(forgets_the_rest)),
    ),
    (
        "the user's hooks run",
        own_hooks_run,
        lambda: patched(RUN, "attach", after(lambda run, _: forgets_the_rest(run))),
    ),
    ("training flags", training_flags_stay, lambda: patched(RUN, "on_start", after(lambda run, *_: run.net.eval()))),
    ("gradients flow", gradients_stay, lambda: patched(READER, "on_leave", changed_output(torch.Tensor.detach))),
    (
        "requires_grad",
        gradients_stay,
        lambda: patched(RUN, "attach", after(lambda run, _: run.net.requires_grad_(True))),
    ),
    ("outputs", outputs_and_dtypes_stay, lambda: patched(READER, "on_leave", changed_output(lambda out: out * 1.0001))),
    ("dtypes", outputs_and_dtypes_stay, lambda: patched(RUN, "detach", after(lambda run: run.net.float()))),
    ("random state", random_state_stays, lambda: patched(READER, "on_enter", after(lambda *_: torch.rand(1)))),
    ("detached", detached, lambda: patched(readers, "_copied", lambda own: lambda v: own(v).requires_grad_())),
    ("copied", safe_against_in_place, lambda: patched(readers, "_copied", instead(lambda _own, v: v))),
    (
        "ω in float32 under autocast to bfloat16",
        lambda: logit_kept_and_gate_in_float32(torch.bfloat16),
        lambda: patched(gates.GateSite, "activate", instead(lambda own, s, z: own(s, z.bfloat16()).float())),
    ),
    (
        "ω in float32 under autocast to float16",
        lambda: logit_kept_and_gate_in_float32(torch.float16),
        lambda: patched(gates.GateSite, "activate", instead(lambda own, s, z: own(s, z.half()).float())),
    ),
    (
        "autocast is allowed for in the proof",
        lambda: logit_kept_and_gate_in_float32(torch.bfloat16),
        lambda: patched(fits, "TOLERANCE", lambda own: dict.fromkeys(own, 1e-7)),
    ),
    ("called twice", called_twice, lambda: patched(RUN, "receive", instead(without_marks))),
    ("channels_last", channels_last, lambda: patched(READER, "on_leave", changed_output(torch.Tensor.contiguous))),
    (
        "inference_mode",
        inference_mode,
        lambda: patched(readers, "_copied", instead(lambda _own, v: v.to(torch.float32, copy=True))),
    ),
    ("DataParallel", data_parallel, lambda: patched(gates, "followed", instead(lambda _own, *a: not_followed(*a)))),
    ("DDP", distributed_data_parallel, lambda: patched(sites, "unwrapped", instead(lambda _own, net: net))),
    (
        "compiled before",
        compiled_before,
        lambda: patched(gates, "followed", instead(lambda _own, *a: not_followed(*a))),
    ),
    (
        "compiled within",
        compiled_within,
        lambda: patched(gates, "followed", instead(lambda _own, *a: not_followed(*a))),
    ),
    (
        "gradients and checkpointing",
        with_gradients,
        lambda: patched(readers, "in_backward", instead(lambda _own: False)),
    ),
    ("early stop is not too early", early_stop, lambda: patched(RUN, "has_enough", instead(counts_one_less))),
    ("early stop stops", early_stop, lambda: patched(RUN, "has_enough", instead(lambda _own, _self: False))),
    (
        "early stop waits",
        early_stop_waits_for_others,
        lambda: patched(gates, "all", lambda _own: lambda _runs: True),
    ),
    (
        "no rows of a failed forward",
        lambda: failed_forwards_leave_no_rows(ValueError),
        lambda: patched(RUN, "on_start", instead(lambda _own, *args: starts_anew_with_the_rest(*args))),
    ),
    (
        "no rows of an interrupted forward",
        lambda: failed_forwards_leave_no_rows(KeyboardInterrupt),
        lambda: patched(RUN, "on_start", instead(lambda _own, *args: starts_anew_with_the_rest(*args))),
    ),
    ("nested", nested, lambda: patched(RUN, "detach", after(forgets_the_rest))),
]


@pytest.mark.parametrize("check", [point[1] for point in POINTS], ids=[point[0] for point in POINTS])
def test_the_point_holds(check):
    check()


@pytest.mark.parametrize(("check", "breaker"), [point[1:] for point in POINTS], ids=[point[0] for point in POINTS])
def test_its_check_fails_when_it_is_broken(check, breaker):
    with breaker(), pytest.raises((AssertionError, RuntimeError)):  # RuntimeError: a proof, or torch itself, objects
        check()
