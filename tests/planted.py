"""A network whose gates mean what was planted in them, and its images: every analysis must find it, and nothing else.

Of the eight channels of ``late`` the gate of :data:`CLASS` rises with the class, that of :data:`CONSTANT` is 0.5 on
every image, that of :data:`BRIGHTNESS` follows the green level of the image, which is drawn without regard to the
class; the others follow a level of their own in blue, by quarters of the image. The gates of ``early`` know blue alone:
none there is about the class. The logits are made of the channel :data:`CLASS` and of no other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ecaviz import attention

CHANNELS, SIZE = 8, 8
CLASS, CONSTANT, BRIGHTNESS = 0, 1, 2
NOISE = range(3, CHANNELS)
SITES = ("early", "late")
CLASSES = ("dark red", "red", "bright red")


class PlantedImages(torch.utils.data.Dataset):
    """Items are (uint8 tensor 3×8×8, label): red says the class, green is the brightness, blue is noise by quarters.

    Args:
        n: Number of images; the classes take turns.
        seed: Of the levels.
        shuffled: Whether the labels are drawn by lot instead, so that nothing is about the class.
    """

    classes = CLASSES

    def __init__(self, n: int = 240, seed: int = 0, *, shuffled: bool = False):
        random = torch.Generator().manual_seed(seed)
        truth = torch.arange(n) % len(CLASSES)
        self.brightness = torch.rand(n, generator=random)
        red = 0.2 + 0.3 * truth + 0.02 * torch.randn(n, generator=random)
        blue = torch.rand(n, 2, 2, generator=random).repeat_interleave(4, 1).repeat_interleave(4, 2)
        levels = torch.stack([red, 0.1 + 0.8 * self.brightness], dim=1)[:, :, None, None].expand(n, 2, SIZE, SIZE)
        self.images = (255 * torch.cat([levels, blue[:, None]], dim=1)).clamp(0, 255).round().to(torch.uint8)
        self.labels = truth[torch.randperm(n, generator=random)] if shuffled else truth

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def transform(image: Tensor) -> Tensor:
    """uint8 3×H×W → −2…2."""
    return (image.float() / 255 - 0.5) * 4


class Planted(nn.Module):
    """The network: a 1×1 convolution, two gates z = w ⊙ y, and a linear layer; all weights are set by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 1)
        self.quarters = _Quarters()
        self.early = attention.build("se-var2", CHANNELS)
        self.late = attention.build("se-var2", CHANNELS)
        self.head = nn.Linear(CHANNELS, len(CLASSES))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            self.stem.weight[CLASS, 0] = self.stem.weight[BRIGHTNESS, 1] = 1
            self.stem.weight[list(NOISE), 2] = 1
            self.stem.bias[CONSTANT] = 1
            own = [one for module in (self.early, self.late) for one in module.excite.parameters()]
            own[0].flatten()[list(NOISE)] = 1.5
            own[1].flatten()[[CLASS, BRIGHTNESS, *NOISE]] = 1.5
            self.head.weight[0, CLASS], self.head.weight[2, CLASS] = -6, 6
            self.head.bias[1] = 1.0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """N×3×8×8 → N×3."""
        return self.head(self.late(self.early(self.quarters(self.stem(x)))).mean(dim=(2, 3)))


class _Quarters(nn.Module):
    """Each of the noise channels sees a quarter of the image (the last one: all of it)."""

    def forward(self, x: Tensor) -> Tensor:
        """N×8×8×8 → N×8×8×8."""
        mask = torch.ones_like(x[:1])
        half = SIZE // 2
        for i, channel in enumerate(list(NOISE)[:4]):
            keep = torch.zeros_like(mask[0, 0])
            keep[(i // 2) * half : (i // 2 + 1) * half, (i % 2) * half : (i % 2 + 1) * half] = 4
            mask[0, channel] = keep
        return x * mask
