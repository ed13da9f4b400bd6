"""Checkpoints in official names that hypothesis damages: load() refuses them, or builds the network of just them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import oracles
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from recorder import CLEAR, case
from test_fuzz import FILES, each
from torch import Tensor

import ecaviz
from ecaviz import architectures
from ecaviz.matches import shapes_of

RIGHT = "the network of just these weights"
CASE = case(
    FILES,
    "checkpoints in the names of ECANet, SENet and timm with names, shapes, dtypes, values or nesting damaged, loaded",
    expected=f"{CLEAR}, or {RIGHT}",
)
State = dict[str, Tensor]
ROWS = 4321  # stands for the number of outputs in the networks that are made once


@pytest.fixture(autouse=True, scope="module")
def made_once():
    """What does not fit is compared with fifty networks; they are made once, and not for every number of outputs."""
    made = {}

    def candidate(name, classes):
        if name not in made:
            made[name] = shapes_of(architectures.builder(name, ROWS))
        return {
            key: tuple((classes or 1000) if size == ROWS else size for size in shape)
            for key, shape in made[name].items()
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "_candidate", candidate)
        yield


# --------------------------------------------------------------------------------------------------------- the damage


def _shape(state: State, key: str, change: Callable[[Tensor], Tensor]) -> State:
    return state | {key: change(state[key]).contiguous()}


def _renamed(state: State, key: str, name: str) -> State:
    return {name if one == key else one: value for one, value in state.items()}


def _other(state: State, key: str, number: int) -> str:
    return list(state)[(list(state).index(key) + number) % len(state)]


def _number(state: State, key: str, value: float) -> State:
    broken = state[key].clone()
    broken.view(-1)[-1:] = value
    return state | {key: broken}


DAMAGE: dict[str, Callable[[State, str, int], State]] = {
    "gone": lambda s, key, n: {one: value for one, value in s.items() if one != key},
    "a letter less": lambda s, key, n: _renamed(s, key, key[: n % len(key)] + key[n % len(key) + 1 :]),
    "a letter more": lambda s, key, n: _renamed(s, key, f"{key[: n % len(key)]}x{key[n % len(key) :]}"),
    "large letters": lambda s, key, n: _renamed(s, key, key.upper()),
    "another block": lambda s, key, n: _renamed(s, key, re.sub(r"\d", str(n % 10), key, count=1 + n % 2)),
    "another's name": lambda s, key, n: _renamed(s, key, _other(s, key, n)),
    "no name": lambda s, key, n: _renamed(s, key, ""),
    "a long name": lambda s, key, n: _renamed(s, key, key + ".weight" * (n % 300)),
    "one more": lambda s, key, n: s | {f"{key}.{n}": torch.ones(n % 5)},
    "exchanged": lambda s, key, n: s | {key: s[_other(s, key, n)], _other(s, key, n): s[key]},
    "another order": lambda s, key, n: dict(sorted(s.items(), key=lambda one: (hash((n, len(one[0]))), one[0]))),
    "transposed": lambda s, key, n: _shape(s, key, lambda v: v.transpose(0, 1) if v.ndim > 1 else v),
    "flat": lambda s, key, n: _shape(s, key, torch.flatten),
    "an axis more": lambda s, key, n: _shape(s, key, lambda v: v.unsqueeze(n % (v.ndim + 1))),
    "an axis less": lambda s, key, n: _shape(s, key, torch.squeeze),
    "a row more": lambda s, key, n: _shape(s, key, lambda v: torch.cat([v, v[:1]]) if v.ndim else v),
    "a row less": lambda s, key, n: _shape(s, key, lambda v: v[1:] if v.ndim else v),
    "wider": lambda s, key, n: _shape(s, key, lambda v: torch.cat([v, v[..., :2]], -1) if v.ndim else v),
    "no numbers": lambda s, key, n: _shape(s, key, lambda v: v.new_zeros(0)),
    "one number": lambda s, key, n: _shape(s, key, lambda v: v.new_zeros(())),
    "float16": lambda s, key, n: s | {key: s[key].half()},
    "bfloat16": lambda s, key, n: s | {key: s[key].bfloat16()},
    "float64": lambda s, key, n: s | {key: s[key].double()},
    "int64": lambda s, key, n: s | {key: s[key].long()},
    "bool": lambda s, key, n: s | {key: s[key].bool()},
    "complex": lambda s, key, n: s | {key: s[key].to(torch.complex64)},
    "NaN": lambda s, key, n: _number(s, key, torch.nan) if s[key].is_floating_point() else s,
    "infinite": lambda s, key, n: _number(s, key, -torch.inf) if s[key].is_floating_point() else s,
    "negative": lambda s, key, n: s | {key: -s[key].abs()},
}

BORNE = ["float16", "bfloat16", "float64", "another order", "exchanged", "wider", "gone"]

NESTING: dict[str, Callable[[State, str, int], Any]] = {
    "bare": lambda s, key, n: s,
    "as officially": lambda s, key, n: {"epoch": 100, "state_dict": _prefixed(s, "module."), "best_prec1": 77.4},
    "twice": lambda s, key, n: {"model": {"state_dict": s}, "optimizer": {"state": {}}},
    "five times": lambda s, key, n: {"model": {"net": {"model": {"state_dict": {"weights": s}}}}},
    "an unknown key": lambda s, key, n: {"parameters": s},
    "a list": lambda s, key, n: [s],
    "pairs": lambda s, key, n: {"state_dict": list(s.items())},
    "two prefixes": lambda s, key, n: _prefixed(s, "module._orig_mod."),
    "another prefix": lambda s, key, n: _prefixed(s, "backbone."),
    "a prefix for one": lambda s, key, n: _renamed(s, key, f"module.{key}"),
    "none for one": lambda s, key, n: {"state_dict": _renamed(_prefixed(s, "module."), f"module.{key}", key)},
    "a text among them": lambda s, key, n: s | {"arch": "eca_resnet50"},
    "None for one": lambda s, key, n: {"state_dict": s | {key: None}},
    "a list for one": lambda s, key, n: s | {key: s[key].tolist()},
    "a number for a name": lambda s, key, n: s | {n: torch.ones(1)},
    "nothing": lambda s, key, n: {"state_dict": {}},
}


def _prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def damages(state: State) -> st.SearchStrategy:
    """What is done, to which entry, with which number: up to three times; and how it lies in the file.

    Half of it is what a network may bear, or what is read of gates: else one damage of three would hide the others.
    """
    gates = [key for key in state if "eca" in key or "attn" in key or "se" in key]
    keys, numbers = st.sampled_from(list(state)) | st.sampled_from(gates), st.integers(0, 9999)
    step = st.tuples(st.sampled_from(BORNE) | st.sampled_from(list(DAMAGE)), keys, numbers)
    nesting = st.sampled_from(["bare", "as officially", "twice", "two prefixes"]) | st.sampled_from(list(NESTING))
    return st.tuples(st.lists(step, max_size=3), st.tuples(nesting, keys, numbers), st.booleans())


def check_damaged(outcomes, path, state: State, examples: int, right: Callable[[Any, State], bool]) -> None:
    """Load so many damaged checkpoints."""

    def check(how):
        steps, (nesting, key, number), new = how
        damaged = state
        for what, one, n in steps:
            damaged = DAMAGE[what](damaged, one if one in damaged else next(iter(damaged)), n) if damaged else damaged
        key = key if key in damaged else next(iter(damaged))
        content = NESTING[nesting](damaged, key, number)
        torch.save(content, path, _use_new_zipfile_serialization=new)
        outcomes.attempt(
            lambda: ecaviz.load(path, device="cpu"),
            ValueError,
            path,
            same=lambda model: right(model, damaged),
            good=RIGHT,
        )

    each(outcomes, examples, damages(state), check)
    assert outcomes.counts[CLEAR] > examples // 5  # of few examples, chance may make most harmless
    assert outcomes.counts[RIGHT] >= examples // 20


# ------------------------------------------------------------------------------------------------- small plain ResNets

PLANES = (8, 8, 16, 24)
GATES = {  # what a block has besides its own weights, by the number of its channels
    "ECANet": lambda c: {"eca.conv.weight": (1, 1, 3)},
    "timm's ECA": lambda c: {"se.conv.weight": (1, 1, 5)},
    "an SE as moskomule writes it": lambda c: {"se.fc.0.weight": (4, c), "se.fc.2.weight": (c, 4)},
    "timm's SE": lambda c: {
        "se.fc1.weight": (4, c, 1, 1),
        "se.fc1.bias": (4,),
        "se.fc2.weight": (c, 4, 1, 1),
        "se.fc2.bias": (c,),
    },
}


def plain(gate: Callable[[int], dict]) -> State:
    """Weights of a ResNet of four basic blocks in torchvision's names, with gates."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), **_norm("bn1", 64)}
    before = 64
    for stage, c in enumerate(PLANES, start=1):
        block = f"layer{stage}.0"
        shapes |= {f"{block}.conv1.weight": (c, before, 3, 3), **_norm(f"{block}.bn1", c)}
        shapes |= {f"{block}.conv2.weight": (c, c, 3, 3), **_norm(f"{block}.bn2", c)}
        shapes |= {f"{block}.{key}": shape for key, shape in gate(c).items()}
        shapes |= {f"{block}.downsample.0.weight": (c, before, 1, 1), **_norm(f"{block}.downsample.1", c)}
        before = c
    shapes |= {"fc.weight": (10, before), "fc.bias": (10,)}
    chance = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=chance)
        if key.endswith("running_var"):
            value = 0.5 + value.abs()
        elif len(shape) > 1:
            value = value / (value[0].numel() ** 0.5)
        state[key] = value
    return state


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


OWN = re.compile(r"(conv|bn|downsample)")


def reference(state: State, x: Tensor) -> Tensor:
    """The logits of such a network, from the entries of the file alone, without a module and without ecaviz."""
    state = {key: value.float() for key, value in state.items()}

    def norm(x, name):
        mean, variance, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias)

    x = F.max_pool2d(norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1").relu(), 3, 2, 1)
    for stage in range(1, 5):
        block, stride = f"layer{stage}.0", 1 if stage == 1 else 2
        own = {key.removeprefix(f"{block}."): value for key, value in state.items() if key.startswith(f"{block}.")}
        out = norm(F.conv2d(x, own["conv1.weight"], stride=stride, padding=1), f"{block}.bn1").relu()
        out = norm(F.conv2d(out, own["conv2.weight"], padding=1), f"{block}.bn2")
        out = out * gate(out, {key: value for key, value in own.items() if not OWN.match(key)})[:, :, None, None]
        if "downsample.0.weight" in own:
            x = norm(F.conv2d(x, own["downsample.0.weight"], stride=stride), f"{block}.downsample.1")
        x = (out + x).relu()
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def gate(x: Tensor, parts: State) -> Tensor:
    """A gate told by the shapes of its weights: a kernel, or two matrices whose larger side is C, or nothing."""
    if not parts:
        return x.new_ones(x.shape[:2])
    if len(parts) == 1:
        return oracles.eca_gate(x, next(iter(parts.values())).flatten())
    matrices = {key: value.flatten(1) for key, value in parts.items() if value.ndim > 1}
    first, second = sorted(matrices, key=lambda key: matrices[key].shape[0])
    biases = (parts.get(key.replace("weight", "bias")) for key in (first, second))
    b1, b2 = biases
    return oracles.se_gate(x, matrices[first], b1, matrices[second], b2)


@pytest.mark.parametrize("examples", [20, pytest.param(250, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", GATES)
@CASE
def test_plain_networks(outcomes, tmp_path, kind, examples):
    state = plain(GATES[kind])
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def right(model, damaged):
        expected = reference(damaged, x)
        assert expected.std() > 0.05
        return bool((model.net(x) - expected).abs().max() < 1e-5 * max(1, expected.abs().max()))

    path = tmp_path / "checkpoint.pth.tar"
    torch.save(state, path)
    assert right(ecaviz.load(path, device="cpu"), state)
    check_damaged(outcomes, path, state, examples, right)


# ------------------------------------------------------------------ networks that are compared with those of libraries


@pytest.mark.parametrize("examples", [4, pytest.param(40, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["legacy_seresnet18", "eca_resnext26ts"])
@CASE
def test_networks_of_timm(outcomes, tmp_path, name, examples):
    """SENet's own names, and those of timm's networks with ECA that are no plain ResNets."""
    torch.manual_seed(0)
    net = oracles.randomise(timm.create_model(name, num_classes=10))
    state = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def right(model, damaged):
        own = timm.create_model(name, num_classes=len(damaged[head])).eval()
        missing = own.load_state_dict({key: value.float() for key, value in damaged.items()}, strict=False)
        assert not missing.unexpected_keys
        assert all(key.endswith("num_batches_tracked") for key in missing.missing_keys)
        return torch.equal(model.net(x), own(x))

    head = next(key for key in ("last_linear.weight", "head.fc.weight") if key in state)
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(state, path)
    assert right(ecaviz.load(path, device="cpu"), state)
    check_damaged(outcomes, path, state, examples, right)
