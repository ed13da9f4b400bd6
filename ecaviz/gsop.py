"""GSoP: a channel gate from the covariance of the channels, second-order pooling.

    X = BN(Conv1×1(ReLU(x))) → Σ = Cov(X), c×c → z = Conv1×1(row-wise conv(BN(Σ))) → ω = σ(z)

Source: Gao et al., "Global Second-order Pooling Convolutional Networks", CVPR 2019; layers as in the authors' code,
ZilinGao/Global-Second-order-Pooling-Convolutional-Networks.
"""

from __future__ import annotations

from torch import Tensor, nn

from . import checks
from .attention import ChannelAttention

__all__ = ["CovariancePool", "GSoP", "RowWise"]


class CovariancePool(nn.Module):
    """Squeeze: the covariance of c reduced channels over positions. N×C×H×W → N×c×c.

    The maps pass ReLU, a 1×1 convolution to c channels, a batch norm and ReLU; then Σ = 1/M · X(I − 1/M · 11ᵀ)Xᵀ for
    the M positions.
    """

    def __init__(self, channels: int, reduced: int, *, stride: int = 1, device=None, dtype=None):
        super().__init__()
        self.before = nn.ReLU()  # on a copy: what is gated is x itself
        self.conv = nn.Conv2d(channels, reduced, 1, stride=stride, device=device, dtype=dtype)
        self.norm = nn.BatchNorm2d(reduced, device=device, dtype=dtype)
        self.after = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Reduce and take the covariance, N×C×H×W → N×c×c."""
        maps = self.after(self.norm(self.conv(self.before(x)))).flatten(2)
        centred = maps - maps.mean(dim=2, keepdim=True)
        return centred @ centred.transpose(1, 2) / maps.shape[2]


class RowWise(nn.Module):
    """Excitation: four numbers from each row of the covariance, and a full layer from those 4c to C. N×c×c → N×C."""

    def __init__(self, channels: int, reduced: int, *, device=None, dtype=None):
        super().__init__()
        self.norm = nn.BatchNorm2d(reduced, device=device, dtype=dtype)
        self.rows = nn.Conv2d(reduced, 4 * reduced, (reduced, 1), groups=reduced, device=device, dtype=dtype)
        self.conv = nn.Conv2d(4 * reduced, channels, 1, device=device, dtype=dtype)

    def forward(self, covariance: Tensor) -> Tensor:
        """Map the covariance to z, N×c×c → N×C."""
        return self.conv(self.rows(self.norm(covariance.unsqueeze(3)))).flatten(1)


class GSoP(ChannelAttention):
    """Second-order pooling: ω = σ(f(Cov(x))). N×C×H×W → N×C×H×W.

    The descriptor is a covariance, N×c×c, not one number a channel. Parameters: (C+1)c for the reduction, 4c for the
    two norms, 4c² + 4c for the rows, (4c+1)C for the last layer; 230,784 for C = 256, c = 128.

    Args:
        channels: C.
        reduced: c; the authors' code has 128.
        stride: Of the reducing convolution; the authors' code has 2 in the first stage.

    Raises:
        ValueError: ``reduced`` or ``stride`` is below 1.
    """

    family = "gsop"

    def __init__(self, channels: int, reduced: int = 128, *, stride: int = 1, device=None, dtype=None):
        super().__init__(channels)
        self.reduced = checks.at_least_one(reduced, "GSoP: reduced")
        stride = checks.at_least_one(stride, "GSoP: stride")
        self.squeeze = CovariancePool(self.channels, self.reduced, stride=stride, device=device, dtype=dtype)
        self.excite = RowWise(self.channels, self.reduced, device=device, dtype=dtype)
