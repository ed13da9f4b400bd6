"""What images make of an excitation that is not the same for every image: J image by image, and its mean.

For one image the J of a bottleneck is W2·diag(s)·W1, with s the slopes of the hidden units: 1 for those that a ReLU
lets through and 0 for the others. It is kept as these slopes, a row an image, and never as N matrices::

    realisation.image(3)        # J of the fourth image, still in factors
    realisation.mean()          # W2·diag(p)·W1, p the mean slope
    realisation.mean(weights)   # the same with images counted several times or not at all: a bootstrap

GE-θ⁺ has a ReLU before its first layer too, so that J = W2·diag(s)·W1·diag(o), with o = 1 where the descriptor is
positive; the mean of the product is W2·(W1 ∘ E[s·oᵀ]). Excitations without such a form are kept as matrices
(:class:`MatricesByImage`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .forms import EPSILON, Dense, LowRank

__all__ = ["Bottleneck", "MatricesByImage", "SlopesByImage", "check_descriptors", "jacobians"]

STEPS = ("ReLU", "ReLU6", "Identity")
"""Hidden activations whose slope is 0 or 1, so that "every unit active" says something."""


@dataclass(frozen=True, eq=False)
class SlopesByImage:
    """A bottleneck on N images.

    Attributes:
        structure: W2·W1, every unit active.
        slopes: N×hidden: slope of each hidden unit on each image; uint8 0 or 1 for a ReLU, else float32.
        opens: N×C uint8: 1 where GE-θ⁺'s first ReLU lets the descriptor through; None where there is no such ReLU.
        image_of: N: number of the image of each row. A site that is called twice a forward has two rows an image.
    """

    structure: LowRank
    slopes: Tensor
    opens: Tensor | None
    image_of: Tensor

    def __len__(self) -> int:
        return len(self.slopes)

    @property
    def active(self) -> Tensor:
        """Mean slope of each hidden unit: of a ReLU the share p of images on which it is active, 0…1."""
        return self.slopes.double().mean(dim=0)

    def image(self, row: int) -> LowRank:
        """J of one row."""
        s = self.slopes[row].double()
        right = self.structure.right if self.opens is None else self.structure.right * self.opens[row].double()
        used = s != 0
        return LowRank(self.structure.left[:, used] * s[used], right[used])

    def mean(self, weights: Tensor | None = None) -> LowRank:
        """The mean of J over the rows, W2·diag(p)·W1; ``weights``, N numbers, count rows more or less."""
        weights = torch.ones(len(self), dtype=torch.float64) if weights is None else weights.double()
        weights = weights / weights.sum()
        if self.opens is None:
            return LowRank(self.structure.left * (weights @ self.slopes.double()), self.structure.right)
        together = (self.slopes.double() * weights[:, None]).T @ self.opens.double()  # E[s·oᵀ], hidden×C
        return LowRank(self.structure.left, self.structure.right * together)

    def some(self, rows: Tensor) -> SlopesByImage:
        """Some of the rows."""
        opens = None if self.opens is None else self.opens[rows]
        return SlopesByImage(self.structure, self.slopes[rows], opens, self.image_of[rows])

    def patterns(self) -> tuple[list[int], Tensor]:
        """A row of every pattern of slopes there is, and for each row the number of its pattern."""
        whole = self.slopes if self.opens is None else torch.cat([self.slopes, self.opens.to(self.slopes.dtype)], dim=1)
        _, which = torch.unique(whole, dim=0, return_inverse=True)
        first = torch.full((int(which.max()) + 1,), len(which))
        first.scatter_reduce_(0, which, torch.arange(len(which)), "amin")
        return first.tolist(), which


@dataclass(frozen=True, eq=False)
class MatricesByImage:
    """J of N images as it is.

    Attributes:
        matrices: N×C×C float64.
        image_of: N: number of the image of each row.
        epsilon: Relative rounding of what computed them.
    """

    matrices: Tensor
    image_of: Tensor
    epsilon: float = EPSILON

    active = None

    def __len__(self) -> int:
        return len(self.matrices)

    def image(self, row: int) -> Dense:
        """J of one row."""
        return Dense(self.matrices[row], self.epsilon)

    def mean(self, weights: Tensor | None = None) -> Dense:
        """The mean of J over the rows; ``weights``, N numbers, count rows more or less."""
        if weights is None:
            return Dense(self.matrices.mean(dim=0), self.epsilon)
        return Dense(torch.tensordot(weights.double() / weights.sum(), self.matrices, 1), self.epsilon)

    def some(self, rows: Tensor) -> MatricesByImage:
        """Some of the rows."""
        return MatricesByImage(self.matrices[rows], self.image_of[rows], self.epsilon)

    def patterns(self) -> tuple[list[int], Tensor]:
        """Every row, and for each row its number."""
        return list(range(len(self))), torch.arange(len(self))


class Bottleneck:
    """C → hidden → C in float64 on the CPU, as a site's weights say it is: z = W2·a(W1·y + b1) + b2.

    Args:
        w1: hidden×C, float64 on the CPU, as the other weights; copies that training will not move.
        b1: hidden, or None.
        w2: C×hidden.
        b2: C, or None.
        act: The hidden activation.
        rectified: Whether a ReLU comes before the first layer (GE-θ⁺).
    """

    def __init__(
        self, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, act: nn.Module, *, rectified: bool = False
    ):
        self.w1, self.w2 = w1, w2
        self.b1 = w1.new_zeros(len(w1)) if b1 is None else b1
        self.biases = sum(b.numel() for b in (b1, b2) if b is not None)
        self.rectified = rectified
        self.act = copy.deepcopy(act).cpu().double().eval().requires_grad_(False)
        self.activation = type(act).__name__

    @property
    def steps(self) -> bool:
        """Whether the slopes are 0 or 1."""
        return self.activation in STEPS

    def hidden(self, y: Tensor) -> Tensor:
        """W1·y + b1 of every row, N×C → N×hidden, float64."""
        y = y.detach().cpu().double()
        return nn.functional.linear(y.relu() if self.rectified else y, self.w1, self.b1)

    def __call__(self, y: Tensor) -> Tensor:
        """Map y to z, but for the last bias, N×C → N×C."""
        return nn.functional.linear(self.act(self.hidden(y)), self.w2)

    def elementwise(self) -> bool:
        """Whether the activation maps each unit by itself."""
        if self.steps:
            return True
        with torch.inference_mode(False):
            h = torch.linspace(-1, 1, len(self.w1), dtype=torch.float64)
            J = torch.autograd.functional.jacobian(lambda one: self.act(one[None].clone())[0], h)
        return bool((J - torch.diag(J.diagonal())).abs().max() == 0)

    def slopes(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Slope of each hidden unit, and where the first ReLU is open: N×C → N×hidden, N×C or None."""
        h = self.hidden(y)
        opens = (y.detach().cpu() > 0).to(torch.uint8) if self.rectified else None
        if self.activation == "ReLU":
            return (h > 0).to(torch.uint8), opens
        with torch.inference_mode(False), torch.enable_grad():
            h = h.clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.act(h.clone()).sum(), h)
        return slope.to(torch.uint8 if self.steps else torch.float32), opens

    def structure(self) -> LowRank:
        """W2·W1."""
        return LowRank(self.w2, self.w1)


def check_descriptors(y: object, what: str = "descriptors") -> None:
    """Raise a ValueError where y is not floats N×C or N×C×1×1."""
    good = isinstance(y, Tensor) and y.ndim in (2, 4) and y.numel() and y.shape[2:].numel() == 1
    if not good or not y.is_floating_point():
        found = f"{y.dtype} {'×'.join(map(str, y.shape))}" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"interaction: {what}: floats N×C (or N×C×1×1), N ≥ 1, were expected; got {found}.")


def jacobians(excite: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """∂z/∂y by autograd, row by row of the descriptors; they are taken not to mix. N×C → N×C×C, float64 on the CPU.

    Args:
        excite: y → z, N×C → N×C (or N×C×1×1), in evaluation mode.
        y: Descriptors, N×C, of the dtype and on the device that ``excite`` wants.

    Raises:
        ValueError: y is no N×C; z has another shape than y, or does not depend on it.
    """
    check_descriptors(y)
    with torch.inference_mode(False), torch.enable_grad():
        y = y.detach().clone().requires_grad_()
        z = excite(y)
        if z.numel() != y.numel() or len(z) != len(y) or not z.requires_grad:
            raise ValueError(
                f"interaction: an excitation maps C descriptors to C logits; this one made {tuple(z.shape)} of "
                f"{tuple(y.shape)}{'' if z.requires_grad else ', without autograd being able to follow'}."
            )
        rows = []
        for one in z.reshape(len(y), -1).sum(dim=0):
            (slope,) = torch.autograd.grad(one, y, retain_graph=True, allow_unused=True, materialize_grads=True)
            rows.append(slope.flatten(1))
    return torch.stack(rows, dim=1).cpu().double()
