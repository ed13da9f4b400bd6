"""ResNets with any attention module in the attention place: timm's ResNet, our modules.

The attention sits where SE-ResNet and ECA-Net put it: on the expanded channels of each bottleneck block, after the last
batch norm and before the shortcut is added. In timm's naming that is ``layer{1..4}.{block}.se``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from torch import nn

from . import attention

__all__ = ["Architecture", "build"]


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
    net.conv1[3].stride = (2, 2)
    net.maxpool = nn.Identity()
    return net
