"""Which network a state dict belongs to: read from the names and shapes of its weights, never from a file's name.

    match = recognise(state)
    match.name, match.layout                # "ECA-ResNet-50", "official ECANet"
    net = match.network()                   # built, and loaded with the weights

Two ways lead there. A plain ResNet or MobileNetV2 is *read*: its depth, its widths, and the gate of every block with
its k or its hidden units, whatever the gate's part of the names is called. Everything else is *compared*, by name and
shape of every entry, with the networks that timm, torchvision and this project build; one that fits exactly is taken.
What weights do not tell follows from the layout: the stride is Caffe's for the legacy layout and torchvision's for the
others, an ECA pads with zeros, a gate has ReLU and sigmoid, and nothing is anti-aliased unless the file is named after
a timm network that is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from . import bundle, networks, training_sets
from .matches import Match, Shapes, differences, shapes, shapes_of
from .networks import PlainResNet
from .plain_layouts import PART, read_mobilenet_v2, read_resnet

__all__ = ["as_described", "builder", "outputs", "recognise", "timm_names", "torchvision_names"]


def recognise(
    state: dict[str, Tensor],
    *,
    architecture: str | None = None,
    options: dict[str, Any] | None = None,
    hint: str = "",
) -> Match:
    """Find the network that a state dict belongs to.

    Args:
        state: Names and tensors, without wrappers' prefixes.
        architecture: A timm name, ``"torchvision:…"`` or a bundled name, to say which network it is instead of having
            it recognised.
        options: With a timm name for ``architecture``: what timm's ``create_model`` takes besides.
        hint: The file's name; decides between architectures that the weights do not tell apart, and nothing else.

    Raises:
        ValueError: No architecture fits, or several do; the message names the closest, with the entries that differ.
    """
    state = _with_counters(state)
    if architecture is not None:
        return _as_told(state, architecture, options or {})
    named = _named(state, hint)
    if named is not None:
        return _matched(named, state)
    match = read_resnet(state) or read_mobilenet_v2(state)
    if match is not None:
        return match
    fitting = _fitting(state)
    if len(fitting) > 1:
        raise ValueError(
            f"load: the weights fit {', '.join(fitting)} equally well: these differ in what weights do not show "
            f"(activations, anti-aliasing). Say which: load(path, architecture={fitting[0]!r})."
        )
    if fitting:
        return _matched(fitting[0], state)
    raise ValueError(_closest(state))


def _with_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch norms of PyTorch before 0.4.1 have no ``num_batches_tracked``; nothing reads it in eval mode."""
    out = {}
    for key, value in state.items():
        out[key] = value
        if key.endswith(".running_var"):
            counter = key.removesuffix("running_var") + "num_batches_tracked"
            if counter not in state:
                out[counter] = torch.tensor(0)
    return out


# ---------------------------------------------------------------------------- networks of timm, torchvision, the bundle

_TIMM = ("ecaresne*", "seresne*", "legacy_se*", "senet154", "eca_resne*", "resnetrs*", "tresnet*")


@lru_cache(maxsize=1)
def timm_names() -> tuple[str, ...]:
    """Names of the ResNets with ECA, CECA, SE and legacy SE that the installed timm has."""
    import timm

    return tuple(name for pattern in _TIMM for name in timm.list_models(pattern))


def torchvision_names() -> tuple[str, ...]:
    """Names of torchvision's networks with SE, and of the plain ones to compare them with, as ``torchvision:…``."""
    from torchvision.models import list_models

    patterns = ("mobilenet_v*", "efficientnet_*", "regnet_y_*", "resnet*", "resnext*", "wide_resnet*")
    return tuple(f"torchvision:{name}" for name in list_models(include=list(patterns)))


def builder(name: str, classes: int | None = None, **more: Any) -> Callable[[], nn.Module]:
    """What makes a network by its name: a timm name, ``torchvision:…`` or a bundled name.

    Args:
        name: The name.
        classes: Number of outputs; None for the architecture's own.
        **more: What timm's ``create_model`` takes besides, for timm names.
    """
    options = {} if classes is None else {"num_classes": classes}
    if name in bundle.BUNDLE:
        own = bundle.BUNDLE[name]
        return lambda: networks.build(replace(own, classes=classes or own.classes))
    if name.startswith("torchvision:"):
        from torchvision.models import get_model

        return lambda: get_model(name.removeprefix("torchvision:"), weights=None, **options)
    import timm

    return lambda: timm.create_model(name, pretrained=False, **options, **more)


@lru_cache(maxsize=256)
def _candidate(name: str, classes: int | None) -> Shapes:
    return shapes_of(builder(name, classes))


def _same(name: str, state: dict[str, Tensor]) -> bool:
    return _candidate(name, outputs(state)) == shapes(state)


def _named(state: dict[str, Tensor], hint: str) -> str | None:
    """The network that the file is named after, if its weights are those: anti-aliasing shows in the name alone."""
    import timm

    blurred = [name for name in timm.list_models(["resnetblur*", "resnetaa*"]) if name in hint]
    likely = [*blurred, *[name for name in _likely(state) if name.split(":")[-1] in hint]] if hint else []
    plain = "conv1.weight" in state and not blurred  # a plain ResNet is read: k and r are in no name
    return None if plain else next((n for n in sorted(likely, key=len, reverse=True) if _same(n, state)), None)


def _fitting(state: dict[str, Tensor]) -> list[str]:
    """Names of the networks that fit exactly."""
    likely = _likely(state)
    # Networks of equal weights have equal depth, and timm's names tell it: the nearest depths first, to be done sooner.
    depth = 2 + sum(key.endswith((".conv1.weight", ".conv2.weight", ".conv3.weight")) for key in state)
    distance = {name: abs(int((re.search(r"\d+", name.split("resne")[-1]) or [depth])[0]) - depth) for name in likely}
    ordered = _with_progress(sorted(likely, key=distance.__getitem__))
    for _, group in groupby(ordered, key=distance.__getitem__):
        fitting = [name for name in group if _same(name, state)]
        if fitting:
            return fitting
    return []


def _with_progress(names: list[str]) -> Iterable[str]:
    from tqdm.auto import tqdm

    return tqdm(names, desc="recognising the architecture", unit="network", leave=False, delay=1)


_HEADS = ("fc", "last_linear", "head.fc", "classifier.1", "classifier.3", "classifier")


def outputs(state: dict[str, Tensor]) -> int | None:
    """Number of outputs, by the last layer's weights; None if it is not known which is the last layer."""
    for head in _HEADS:
        weight = state.get(f"{head}.weight")
        if weight is not None and weight.ndim == 2:
            return len(weight)
    return None


def _likely(state: dict[str, Tensor]) -> list[str]:
    """Names of the networks whose style of naming the state dict has."""
    starts = {key.split(".")[0] for key in state}
    if "layer0" in starts:
        return [name for name in timm_names() if name.startswith("legacy")]
    if "layer1" in starts:
        small = [name for name in bundle.BUNDLE if _same(name, state)]
        from_timm = [n for n in timm_names() if not n.startswith(("legacy", "tresnet")) and n not in _BYOB]
        return small or [*from_timm, *[name for name in torchvision_names() if "resne" in name]]
    if "stages" in starts:
        return list(_BYOB)
    if "body" in starts:
        return [name for name in timm_names() if name.startswith("tresnet")]
    if starts & {"features", "trunk_output"}:
        names = [name for name in torchvision_names() if "resne" not in name]
        return [name for name in names if _published_size(name) == _imagenet_size(state)] or names
    return []


def _published_size(name: str) -> int:
    """Number of parameters that torchvision gives for the network with 1000 outputs."""
    from torchvision.models import get_model_weights

    return get_model_weights(name.removeprefix("torchvision:")).DEFAULT.meta["num_params"]


def _imagenet_size(state: dict[str, Tensor]) -> int | None:
    """Number of parameters that the network of a state dict would have with 1000 outputs."""
    head = next((state[f"{name}.weight"] for name in _HEADS if f"{name}.weight" in state), None)
    if head is None or head.ndim != 2:
        return None
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    size = sum(value.numel() for key, value in state.items() if not key.endswith(buffers))
    return size + (1000 - head.shape[0]) * (head.shape[1] + 1)


_BYOB = ("seresnet33ts", "seresnext26ts", "eca_resnet33ts", "eca_resnext26ts")
"""timm's names whose network is a ByobNet: their weights are named ``stages.…``."""


def _matched(name: str, state: dict[str, Tensor], **options: Any) -> Match:
    source = "bundled" if name in bundle.BUNDLE else "torchvision" if name.startswith("torchvision:") else "timm"
    return Match(name, "", builder(name, outputs(state), **options), state, source, training_sets.of(name).name)


def _as_told(state: dict[str, Tensor], architecture: str, options: dict[str, Any]) -> Match:
    import timm

    if not isinstance(architecture, str):
        raise TypeError(f"load: architecture must be a name, got {type(architecture).__name__}.")
    known = architecture in bundle.BUNDLE or timm.is_model(architecture) or architecture in torchvision_names()
    if not known:
        raise ValueError(
            f"load: no architecture is called {architecture!r}. Use a timm name without its tag (ecaresnet50d), "
            f'"torchvision:…" (torchvision:mobilenet_v3_small), or a bundled name; or build the network yourself, load '
            f"the weights into it, and pass it: ecaviz.load(net)."
        )
    match = _matched(architecture, state, **options)
    expected = shapes_of(match.build)
    if expected != shapes(state):
        raise ValueError(f"load: the weights do not fit {architecture}. {differences(expected, shapes(state))}")
    return match


def as_described(state: dict[str, Tensor], architecture: networks.Architecture, data: str = "shapes") -> Match:
    """The match of a file that says itself how its network is built, and on which of our sets it was trained.

    Raises:
        ValueError: The weights do not fit what it says; the message names the entries that differ.
    """
    places = [found for found in map(PART.fullmatch, state) if found]
    stages = range(1, 5 if any(found[1] == "4" for found in places) else 4)
    blocks = tuple(len({found[2] for found in places if found[1] == str(stage)}) for stage in stages)
    if tuple(architecture.blocks) != blocks:  # before anything is built: a header can ask for a billion blocks
        raise ValueError(
            f"load: the file's header says {architecture.blocks} blocks per stage, its weights are of {blocks}."
        )
    wide = [state.get(key) for key in ("conv1.0.weight", *(f"layer{i}.0.conv1.weight" for i in stages))]
    widths = [None if one is None or one.ndim != 4 else one.shape[0] for one in wide]
    if [architecture.stem, *architecture.planes] != widths:
        raise ValueError(
            f"load: the file's header says a stem of {architecture.stem} and planes {architecture.planes}, its weights "
            f"are of {widths[0]} and {tuple(widths[1:])}: they do not fit the architecture in the file's header."
        )
    name = next((name for name, known in bundle.BUNDLE.items() if known == architecture), architecture.attention)
    known = data.removesuffix("-jpeg")
    if known not in training_sets.SETS:
        raise ValueError(
            f"load: the file's header says a network for {data!r}; this version knows {', '.join(training_sets.SETS)}."
        )
    match = Match(name, "", lambda: networks.build(architecture), state, "bundled", known)
    try:
        expected = shapes_of(match.build)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"load: no network can be built as the file's header says: {architecture} ({error})."
        ) from error
    if expected != shapes(state):
        raise ValueError(
            f"load: the weights do not fit the architecture in the file's header, {architecture}. "
            f"{differences(expected, shapes(state))}"
        )
    return match


# ------------------------------------------------------------------------------------------------------ what is closest


def _closest(state: dict[str, Tensor]) -> str:
    found = shapes(state)
    advice = (
        "If the network is one of your own, load the weights into it and pass it: ecaviz.load(net). If it is a timm or "
        'torchvision network, say which: load(path, architecture="…").'
    )
    if not any(key.split(".")[0].startswith(("layer", "stages", "features", "trunk_output", "body")) for key in found):
        first = ", ".join(list(found)[:4])
        return f"load: the weights ({len(found)} entries: {first} …) are of no network that ecaviz knows. {advice}"
    candidates: dict[str, Shapes] = {}
    for name in _with_progress(_likely(state)):
        candidates[name] = _candidate(name, outputs(state))
    for name, plain in _plain_candidates().items():
        kernels = {key: found[key] for key, usual in plain.items() if _other_kernel(found.get(key), usual)}
        classes = outputs(state) or 1000
        head = {"fc.weight": (classes, *plain["fc.weight"][1:]), "fc.bias": (classes,)}
        candidates[name] = plain | kernels | head

    def likeness(name: str) -> float:
        """Share of all entries that both have, by name and, as much again, by name and shape."""
        one = candidates[name]
        return (len(one.keys() & found.keys()) + len(one.items() & found.items())) / len(one.keys() | found.keys())

    name = max(candidates, key=likeness)
    if likeness(name) < 0.1:
        first = ", ".join(list(found)[:4])
        return f"load: the weights ({len(found)} entries: {first} …) are of no network that ecaviz knows. {advice}"
    same = len(candidates[name].items() & found.items())
    return (
        f"load: the weights fit no architecture that ecaviz knows. Closest is {name}: {same} of its "
        f"{len(candidates[name])} entries are there. {differences(candidates[name], found)} {advice}"
    )


def _other_kernel(found: tuple[int, ...] | None, usual: tuple[int, ...]) -> bool:
    """Whether a shape is that of a kernel with another k; every k is as good as the usual one."""
    return found is not None and usual == (1, 1, 3) and found[:2] == (1, 1) and len(found) == 3 and found[2] % 2 == 1


@lru_cache(maxsize=1)
def _plain_candidates() -> dict[str, Shapes]:
    """The plain networks in the official names, to be compared with what was not read."""
    out = {}
    for depth, (bottleneck, blocks) in networks.DEPTHS.items():
        plain = shapes_of(lambda b=bottleneck, n=blocks: networks.build_plain_resnet(PlainResNet(b, n)))
        places = [(i + 1, n) for i, count in enumerate(blocks) for n in range(count)]
        out[f"ECA-ResNet-{depth}"] = plain | {f"layer{i}.{n}.eca.conv.weight": (1, 1, 3) for i, n in places}
        gates = {}
        for i, n in places:
            channels = 64 * 2 ** (i - 1) * (4 if bottleneck else 1)
            gates |= {
                f"layer{i}.{n}.se.fc.0.weight": (channels // 16, channels),
                f"layer{i}.{n}.se.fc.2.weight": (channels, channels // 16),
            }
        out[f"SE-ResNet-{depth}"] = plain | gates
    return out
