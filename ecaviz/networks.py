"""Networks with any attention module in the attention place: timm's ResNet, torchvision's MobileNetV2, our modules.

The attention sits where SE-ResNet and ECA-Net put it: on the output of each block, after the last batch norm and before
the shortcut is added. In ResNets that is ``layer{1..4}.{block}.se``, in MobileNetV2 the last part of
``features.{block}.conv``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from torch import nn

from . import attention

__all__ = ["Architecture", "PlainResNet", "build", "build_mobilenet_v2", "build_plain_resnet", "replace_head"]


@dataclass(frozen=True)
class Architecture:
    """What it takes to build a bundled network again; kept in the checkpoint's metadata.

    Attributes:
        attention: Family of the attention module, as :func:`ecaviz.attention.build` knows it.
        options: What the module takes, such as ``{"reduction": 4}``.
        classes: Number of outputs.
        blocks: Bottleneck blocks per stage.
        planes: Inner width of the blocks per stage; the attention sees four times as many channels.
        stem: Width of the stem's first two convolutions; its output has twice as many channels.
    """

    attention: str = "none"
    options: dict = field(default_factory=dict)
    classes: int = 12
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    planes: tuple[int, ...] = (8, 16, 32, 64)
    stem: int = 16

    def to_dict(self) -> dict:
        """Plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Architecture:
        """The inverse of :meth:`to_dict`."""
        values = dict(values)
        for name in ("blocks", "planes"):
            values[name] = tuple(values[name])
        return cls(**values)


def build(architecture: Architecture) -> nn.Module:
    """Make the network, with random weights.

    timm's bottleneck ResNet with a light stem: three 3×3 convolutions, the first two of stride 2, and no max pool.
    For 64×64 images the four stages work on 16², 8², 4² and 2² positions, with C = 4·planes channels at the gates.

    Args:
        architecture: What to build.

    Returns:
        A network N×3×H×W → N×classes.
    """
    from timm.models.resnet import Bottleneck, ResNet

    net = ResNet(
        block=Bottleneck,
        layers=tuple(architecture.blocks),
        channels=tuple(architecture.planes),
        num_classes=architecture.classes,
        stem_type="deep",
        stem_width=architecture.stem,
        block_args={"attn_layer": attention.layer(architecture.attention, **architecture.options)},
        zero_init_last=False,
    )
    net.conv1[3].stride = (2, 2)  # the second of the three: timm's deep stem leaves the halving to the max pool
    net.maxpool = nn.Identity()
    return net


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
