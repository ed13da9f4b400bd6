"""Plain ResNets and MobileNetV2 with gates, read from the names and shapes of their weights.

The block's own weights have the names that torchvision gave them; whatever else a block holds is its gate: one kernel
1×1×k is an ECA, one C×1×k an ECA-NS, two matrices hidden×C and C×hidden are an SE, as linear layers or 1×1
convolutions, with biases or without, under any name; CBAM goes by the names of its reference code. So the official
ECANet files, moskomule's SE-ResNets and the many SE-ResNets written after torchvision's are read by the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from . import attention, networks
from .matches import Match, shapes, shapes_of
from .networks import PlainResNet

__all__ = ["read_mobilenet_v2", "read_resnet"]


@dataclass(frozen=True)
class _Gate:
    """What a block's gate was read as: how to build it, its weights in our names, and how the file names them."""

    family: str
    options: dict[str, int | bool]
    weights: dict[str, Tensor]
    layout: str

    def build(self, channels: int) -> nn.Module:
        return attention.build(self.family, channels, **self.options)


def _read_gate(parts: dict[str, Tensor], channels: int, *, official: bool, first: str | None = None) -> _Gate | None:
    """Read the weights of a block that are not its own convolutions and norms; None if they are no known gate."""
    if len(parts) == 1:
        return _read_convolution(parts, channels, official)
    if any("ChannelGate." in key for key in parts):
        return _read_cbam(parts, channels)
    return _read_bottleneck(parts, channels, first)


def _read_convolution(parts: dict[str, Tensor], channels: int, official: bool) -> _Gate | None:
    """One kernel for all channels, 1×1×k: ECA; one for each, C×1×k: ECA-NS."""
    key, weight = next(iter(parts.items()))
    if not key.endswith(".weight") or weight.ndim != 3 or weight.shape[1] != 1 or weight.shape[2] % 2 == 0:
        return None
    family = {1: "eca", channels: "eca-ns"}.get(weight.shape[0])
    if family is None:
        return None
    layout = "official ECANet" if official else f"gates from {key.removesuffix('.weight')}"
    return _Gate(family, {"kernel_size": weight.shape[2]}, {"excite.conv.weight": weight}, layout)


def _first_layer(blocks: Iterable[tuple[dict[str, Tensor], int]]) -> str | None:
    """Name of the layer hidden×C, by the first block whose two matrices are not square."""
    for parts, channels in blocks:
        sizes = {key.removesuffix(".weight"): v.shape[:2] for key, v in parts.items() if key.endswith(".weight")}
        if len(sizes) == 2 and all(len(size) == 2 and size[0] != size[1] for size in sizes.values()):
            return next((name for name, size in sizes.items() if size[1] == channels), None)
    return None


def _read_bottleneck(parts: dict[str, Tensor], channels: int, first_layer: str | None) -> _Gate | None:
    """Two matrices, hidden×C and C×hidden, with two biases or none: SE.

    Where the matrices are square, which comes first is told by the other blocks, else by numbers in the names.
    """
    names = sorted(key.removesuffix(".weight") for key in parts if key.endswith(".weight"))
    bias = len(parts) == 4
    if len(names) != 2 or not (bias or len(parts) == 2):
        return None
    if first_layer is not None:
        names.sort(key=lambda name: name != first_layer)
    elif re.sub(r"\d+", "", names[0]) != re.sub(r"\d+", "", names[1]):
        return None
    first, second = (parts[f"{name}.weight"] for name in names)
    hidden = first.shape[0]
    ones = (1, 1) if first.ndim == 4 else ()
    expected = {f"{names[0]}.weight": (hidden, channels, *ones), f"{names[1]}.weight": (channels, hidden, *ones)}
    if bias:
        expected |= {f"{names[0]}.bias": (hidden,), f"{names[1]}.bias": (channels,)}
    if shapes(parts) != expected:
        return None
    weights = {"excite.fc1.weight": first.flatten(1), "excite.fc2.weight": second.flatten(1)}
    if bias:
        weights |= {f"excite.fc{i}.bias": parts[f"{name}.bias"] for i, name in enumerate(names, start=1)}
    kind = f"{'1×1 convolutions' if ones else 'linear layers'} {'with' if bias else 'without'} biases"
    return _Gate("se", {"hidden": hidden, "bias": bias}, weights, f"gates from {' and '.join(names)} ({kind})")


_CBAM = {
    "ChannelGate.mlp.1.": "channel.excite.fc1.",
    "ChannelGate.mlp.3.": "channel.excite.fc2.",
    "SpatialGate.spatial.conv.": "spatial.excite.conv.",
    "SpatialGate.spatial.bn.": "spatial.excite.norm.",
}
"""Names of the reference code, Jongchan/attention-module, and ours."""


def _read_cbam(parts: dict[str, Tensor], channels: int) -> _Gate | None:
    """The reference CBAM: one MLP for both squeezes, and a convolution over positions or none."""
    weights: dict[str, Tensor] = {}
    for key, value in parts.items():
        start = next((one for one in _CBAM if f".{one}" in f".{key}"), None)
        if start is None:
            return None
        weights[_CBAM[start] + key.rpartition(start)[2]] = value
    first = weights.get("channel.excite.fc1.weight")
    if first is None or first.ndim != 2 or not 0 < first.shape[0] <= channels:
        return None
    options: dict[str, int | bool] = {
        "reduction": channels // first.shape[0],
        "bias": "channel.excite.fc1.bias" in weights,
        "spatial": "spatial.excite.conv.weight" in weights,
    }
    return _Gate("cbam", options, weights, "reference CBAM")


def _described(gates: list[_Gate | None], network: str) -> tuple[str, str]:
    """Name and layout of a network with these gates."""
    families = dict.fromkeys(gate.family.upper() for gate in gates if gate)
    layouts = dict.fromkeys(gate.layout for gate in gates if gate)
    return "-".join([*families, network]), "; ".join(layouts)


# ------------------------------------------------------------------------------------------------------- plain ResNets

PART = re.compile(r"layer([1-4])\.(\d{1,3})\.(.+)")
_OWN = re.compile(r"(conv[123]|bn[123]|downsample\.[01])\.\w+")


def read_resnet(state: dict[str, Tensor]) -> Match | None:
    """A ResNet with the paper's stem, and whatever gates its blocks have.

    Args:
        state: Names and tensors, without wrappers' prefixes.

    Returns:
        The match; None if an entry is missing, too many, or of another shape.
    """
    stem, head = state.get("conv1.weight"), state.get("fc.weight")
    if stem is None or head is None or tuple(stem.shape[1:]) != (3, 7, 7) or head.ndim != 2:
        return None
    renamed: dict[str, Tensor] = {}
    blocks: dict[tuple[int, int], dict[str, Tensor]] = {}
    for key, value in state.items():
        found = PART.fullmatch(key)
        rest = blocks.setdefault((int(found[1]), int(found[2])), {}) if found else {}
        if found and not _OWN.fullmatch(found[3]):
            rest[found[3]] = value
        else:
            renamed[key] = value
    shape = _resnet_shape(state, sorted(blocks))
    if shape is None:
        return None
    widths = [shape.planes[stage - 1] * (4 if shape.bottleneck else 1) for stage, _ in sorted(blocks)]
    gates: list[_Gate | None] = []
    first = _first_layer(zip((blocks[place] for place in sorted(blocks)), widths, strict=True))
    for (place, parts), channels in zip(sorted(blocks.items()), widths, strict=True):
        gate = _read_gate(parts, channels, official="eca.conv.weight" in parts, first=first) if parts else None
        if parts and gate is None:
            return None
        gates.append(gate)
        if gate:
            renamed |= {f"layer{place[0]}.{place[1]}.se.{key}": value for key, value in gate.weights.items()}

    def build() -> nn.Module:
        made = [gate and gate.build(channels) for gate, channels in zip(gates, widths, strict=True)]
        return networks.build_plain_resnet(shape, made)

    name, layout = _described(gates, shape.name)
    return Match(name, layout, build, renamed, "plain") if shapes(renamed) == shapes_of(build) else None


def _resnet_shape(state: dict[str, Tensor], places: list[tuple[int, int]]) -> PlainResNet | None:
    counts = [sum(stage == i for stage, _ in places) for i in (1, 2, 3, 4)]
    if [(i, n) for i in (1, 2, 3, 4) for n in range(counts[i - 1])] != places or not all(counts):
        return None
    bottleneck = "layer1.0.conv3.weight" in state
    last = [state.get(f"layer{i}.0.conv{3 if bottleneck else 2}.weight") for i in (1, 2, 3, 4)]
    middle = state.get("layer1.0.conv2.weight")
    if any(one is None or one.ndim != 4 for one in (*last, middle)):
        return None
    planes = tuple(one.shape[0] // 4 if bottleneck else one.shape[0] for one in last)
    if not bottleneck:
        return PlainResNet(False, tuple(counts), planes, classes=len(state["fc.weight"]))
    width, per_group = middle.shape[:2]
    if not all(planes) or not per_group or width % per_group:
        return None
    cardinality = width // per_group
    base_width = width * 64 // (planes[0] * cardinality)
    return PlainResNet(True, tuple(counts), planes, cardinality, base_width, len(state["fc.weight"]))


# ---------------------------------------------------------------------------------------------------------- MobileNetV2


_MOBILE_WIDTHS = (16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320)
"""C at the end of each of MobileNetV2's 17 blocks. Source: Sandler et al., CVPR 2018, Table 2."""


def read_mobilenet_v2(state: dict[str, Tensor]) -> Match | None:
    """MobileNetV2 of width 1 with gates at the end of its blocks, where the official ECANet code puts them.

    Args:
        state: Names and tensors, without wrappers' prefixes.

    Returns:
        The match; None if an entry is missing, too many, or of another shape.
    """
    head = state.get("classifier.1.weight")
    if head is None or head.ndim != 2 or "features.18.0.weight" not in state:
        return None
    renamed: dict[str, Tensor] = {}
    rests: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        found = re.fullmatch(r"features\.(\d+)\.conv\.(\d)\.(.+)", key)
        if found and int(found[2]) == _after_the_norm(int(found[1])):
            rests.setdefault(int(found[1]), {})[found[3]] = value
        else:
            renamed[key] = value
    gates: list[_Gate | None] = []
    first = _first_layer((rests.get(block, {}), channels) for block, channels in enumerate(_MOBILE_WIDTHS, start=1))
    for block, channels in enumerate(_MOBILE_WIDTHS, start=1):
        parts = rests.get(block, {})
        gate = _read_gate(parts, channels, official="conv.weight" in parts, first=first) if parts else None
        if parts and gate is None:
            return None
        gates.append(gate)
        if gate:
            start = f"features.{block}.conv.{_after_the_norm(block)}"
            renamed |= {f"{start}.{key}": value for key, value in gate.weights.items()}

    def build() -> nn.Module:
        made = [gate and gate.build(channels) for gate, channels in zip(gates, _MOBILE_WIDTHS, strict=True)]
        return networks.build_mobilenet_v2(made, len(head))

    name, layout = _described(gates, "MobileNetV2")
    return Match(name, layout, build, renamed, "plain") if shapes(renamed) == shapes_of(build) else None


def _after_the_norm(block: int) -> int:
    """Where in a block's ``conv`` a gate stands; the first block has no expansion and is one part shorter."""
    return 3 if block == 1 else 4
