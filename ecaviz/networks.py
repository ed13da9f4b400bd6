"""Networks with any attention module in the attention place: timm's ResNet, torchvision's MobileNetV2, our modules.

The attention sits where SE-ResNet and ECA-Net put it: on the output of each block, after the last batch norm and before
the shortcut is added. In ResNets that is ``layer{1..4}.{block}.se``, in MobileNetV2 the last part of
``features.{block}.conv``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from . import attention

__all__ = [
    "DEPTHS",
    "Architecture",
    "PlainResNet",
    "build",
    "build_mobilenet_v2",
    "build_plain_resnet",
    "of_stage",
    "replace_head",
    "resnet",
]


@dataclass(frozen=True)
class Architecture:
    """What it takes to build a bundled network again; kept in the checkpoint's metadata.

    Attributes:
        attention: Family of the attention module, as :func:`ecaviz.attention.build` knows it.
        options: What the module takes, such as ``{"reduction": 4}``; a tuple of four has one for each stage, such as
            ``{"size": (16, 8, 4, 2)}``.
        classes: Number of outputs.
        blocks: Bottleneck blocks per stage; three stages or four.
        planes: Inner width of the blocks per stage; the attention sees four times as many channels.
        stem: Width of the stem's first two convolutions; its output has twice as many channels.
        stem_strides: Strides of the two.
    """

    attention: str = "none"
    options: dict = field(default_factory=dict)
    classes: int = 12
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    planes: tuple[int, ...] = (8, 16, 32, 64)
    stem: int = 16
    stem_strides: tuple[int, int] = (2, 2)

    def to_dict(self) -> dict:
        """Plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Architecture:
        """The inverse of :meth:`to_dict`."""
        values = dict(values)
        for name in ("blocks", "planes", "stem_strides"):
            if name in values:
                values[name] = tuple(values[name])
        strides = values.get("stem_strides", (2, 2))
        if len(strides) != 2 or not all(isinstance(one, int) and 1 <= one <= 4 for one in strides):
            raise ValueError(f"networks: stem_strides must be two numbers from 1 to 4, got {strides!r}.")
        values["options"] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.get("options", {}).items()}
        return cls(**values)


def build(architecture: Architecture) -> nn.Module:
    """Make the network, with random weights.

    timm's bottleneck ResNet with a light stem: three 3×3 convolutions, the first two of stride 2, and no max pool.
    For 64×64 images the four stages work on 16², 8², 4² and 2² positions, with C = 4·planes channels at the gates. Of
    three stages the last is followed by the global pool.

    Args:
        architecture: What to build.

    Returns:
        A network N×3×H×W → N×classes.
    """
    from timm.models.resnet import Bottleneck, ResNet

    stages = len(architecture.blocks)
    if stages not in (3, 4) or len(architecture.planes) != stages:
        raise ValueError(
            f"networks: blocks and planes must have three or four stages, got {architecture.blocks} and "
            f"{architecture.planes}."
        )
    missing = 4 - stages  # timm has four: the last is taken out again, and may be anything of the right width till then
    net = ResNet(
        block=Bottleneck,
        layers=(*architecture.blocks, *(1,) * missing),
        channels=(*architecture.planes, *architecture.planes[-1:] * missing),
        num_classes=architecture.classes,
        stem_type="deep",
        stem_width=architecture.stem,
        block_args={"attn_layer": _by_stage(architecture)},
        zero_init_last=False,
    )
    if missing:
        net.layer4 = nn.Identity()
    for place, stride in zip((0, 3), architecture.stem_strides, strict=True):
        net.conv1[place].stride = (stride, stride)  # timm's deep stem leaves the second halving to the max pool
    net.maxpool = nn.Identity()
    return net


def _by_stage(architecture: Architecture) -> Callable[..., nn.Module] | None:
    """What timm calls for each block: a constructor that finds the stage's own options by its number of channels."""
    if not any(isinstance(value, tuple) for value in architecture.options.values()):
        return attention.layer(architecture.attention, **architecture.options)
    widths = [4 * planes for planes in architecture.planes]
    if len(set(widths)) != len(widths):
        raise ValueError(f"networks: options by stage need stages of different widths, got {architecture.planes}.")

    def make(channels: int, **made: Any) -> nn.Module:
        own = of_stage(architecture.options, widths.index(channels))
        return attention.build(architecture.attention, channels, **own, **made)

    return make


def of_stage(options: dict, stage: int) -> dict:
    """A module's options in one of four stages: of a tuple of four its own, of anything else the value itself.

    Raises:
        ValueError: A tuple of another length; but ``size`` may be (height, width), for all stages.
    """
    own = {}
    for name, value in options.items():
        whole = not isinstance(value, tuple) or (name == "size" and len(value) == 2)
        if not whole and len(value) != 4:
            raise ValueError(f"networks: {name} by stage needs four values, one for each stage, got {value!r}.")
        own[name] = value if whole else value[stage]
    return own


@dataclass(frozen=True)
class PlainResNet:
    """Shape of a ResNet with the stem of the paper: 7×7 convolution of stride 2, max pool.

    Attributes:
        bottleneck: Whether its blocks are bottlenecks (three convolutions, output four times as wide) or basic (two).
        blocks: Blocks per stage.
        planes: Inner width of the blocks per stage.
        cardinality: Groups of the 3×3 convolutions; 32 in ResNeXt.
        base_width: Width of a group in the first stage, times 64/planes; 4 in ResNeXt 32x4d.
        classes: Number of outputs.
    """

    bottleneck: bool
    blocks: tuple[int, ...]
    planes: tuple[int, ...] = (64, 128, 256, 512)
    cardinality: int = 1
    base_width: int = 64
    classes: int = 1000

    @property
    def name(self) -> str:
        """The usual name, such as ``ResNet-50``, by the number of weighted layers."""
        depth = 2 + sum(self.blocks) * (3 if self.bottleneck else 2)
        if self.cardinality > 1:
            return f"ResNeXt-{depth} {self.cardinality}x{self.base_width}d"
        return f"ResNet-{depth}" + ("" if self.base_width == 64 else f"-{self.base_width / 64:g}")


def build_plain_resnet(shape: PlainResNet, gates: Sequence[nn.Module | None] = ()) -> nn.Module:
    """Make a ResNet with random weights; bottlenecks have their stride in the 3×3 convolution.

    Args:
        shape: What to build.
        gates: One attention module a block, in the order of the network, None for a block without; empty for none.

    Returns:
        A network N×3×H×W → N×classes; the gates are at ``layer{1..4}.{block}.se``.
    """
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    net = ResNet(
        block=Bottleneck if shape.bottleneck else BasicBlock,
        layers=shape.blocks,
        channels=shape.planes,
        num_classes=shape.classes,
        cardinality=shape.cardinality,
        base_width=shape.base_width,
        zero_init_last=False,
    )
    blocks = [block for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for block in stage]
    for block, gate in zip(blocks, gates or [None] * len(blocks), strict=True):
        block.se = gate
    return net


DEPTHS: dict[int, tuple[bool, tuple[int, ...]]] = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}
"""By depth, whether a ResNet has bottlenecks, and its blocks per stage. Source: He et al., CVPR 2016, Table 1."""


def resnet(
    depth: int,
    family: str = "none",
    *,
    classes: int = 1000,
    small: bool = False,
    image_size: int | None = None,
    **options: Any,
) -> nn.Module:
    """Make a ResNet of the paper with an attention module in every block, with random weights.

    Args:
        depth: 18, 34, 50, 101 or 152.
        family: One of :data:`ecaviz.attention.FAMILIES`.
        classes: Number of outputs.
        small: A stem for small images: one 3×3 convolution of stride 1 and no max pool, instead of 7×7 and a pool.
        image_size: Side of the images, for modules that must know the size of their maps (ge-theta and ge-theta-plus
            with the global extent); None for 224, or 32 with the small stem.
        **options: What the module takes; a tuple of four has one for each stage, such as ``kernel_size=(3, 5, 5, 7)``.

    Returns:
        A network N×3×H×W → N×classes; the gates are at ``layer{1..4}.{block}.se``. GSoP stands where its authors put
        it: in the last block of each stage alone, with stride 2 in the first; the last stage keeps its positions.

    Raises:
        ValueError: An unknown depth or family, or options out of range.
    """
    if depth not in DEPTHS:
        raise ValueError(f"resnet: depth must be one of {', '.join(map(str, DEPTHS))}, got {depth!r}.")
    bottleneck, blocks = DEPTHS[depth]
    shape = PlainResNet(bottleneck, blocks, classes=classes)
    side = (image_size or (32 if small else 224)) // (1 if small else 4)
    gates: list[nn.Module | None] = []
    for stage, count in enumerate(blocks):
        own = of_stage(options, stage)
        if family in ("ge-theta", "ge-theta-plus") and own.get("extent") is None:
            own.setdefault("size", math.ceil(side / 2**stage))
        if family == "gsop" and stage == 0:
            own.setdefault("stride", 2)
        channels = shape.planes[stage] * (4 if bottleneck else 1)
        gates += [
            None
            if family == "none" or (family == "gsop" and i < count - 1)
            else attention.build(family, channels, **own)
            for i in range(count)
        ]
    net = build_plain_resnet(shape, gates)
    if small:
        net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
    if family == "gsop":
        _keep_positions(net.layer4[0])
    return net


def _keep_positions(block: nn.Module) -> None:
    """Take the stride out of the first block of a stage."""
    for part in block.modules():
        if isinstance(part, nn.Conv2d):
            part.stride = (1, 1)


def build_mobilenet_v2(gates: Sequence[nn.Module | None] = (), classes: int = 1000) -> nn.Module:
    """Make a MobileNetV2 of width 1 with random weights.

    Args:
        gates: One attention module for each of the 17 blocks, on the output of its last batch norm; None for a block
            without; empty for none.
        classes: Number of outputs.

    Returns:
        A network N×3×H×W → N×classes; the gates are the last part of ``features.{1..17}.conv``.
    """
    from torchvision.models.mobilenetv2 import InvertedResidual, mobilenet_v2

    net = mobilenet_v2(num_classes=classes)
    blocks = [block for block in net.features if isinstance(block, InvertedResidual)]
    for block, gate in zip(blocks, gates or [None] * len(blocks), strict=True):
        if gate is not None:
            block.conv.append(gate)
    return net


def replace_head(net: nn.Module, classes: int) -> None:
    """Put a new, untrained last layer in a network of timm or torchvision, or one made here, in place.

    Args:
        net: The network.
        classes: Number of outputs.

    Raises:
        ValueError: Where its last layer is, is not known.
    """
    if hasattr(net, "reset_classifier"):
        net.reset_classifier(classes)
        return
    for name in ("fc", "last_linear", "classifier"):
        head = getattr(net, name, None)
        if isinstance(head, nn.Sequential) and isinstance(head[-1], nn.Linear):
            head[-1] = nn.Linear(head[-1].in_features, classes)
            return
        if isinstance(head, nn.Linear):
            setattr(net, name, nn.Linear(head.in_features, classes))
            return
    raise ValueError(f"load: where the last layer of a {type(net).__name__} is, is not known; leave num_classes out.")
