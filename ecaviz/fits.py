r"""What a module does to its feature map, measured: is its output the input times one factor a channel?

For every image and channel the output o is fitted by the input x over the positions of the map: o = x·ω, with ω =
Σxo/Σx², and where that leaves a residual o = x·ω + β, with the usual line of least squares. The residual says whether a
channel gate is what the module is; what ω varies over says whether it is a gate at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TOLERANCE", "Fit", "measure", "normalises", "over", "tolerance_of", "wide"]

TOLERANCE: dict[torch.dtype, float] = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 2e-2,
}
"""What a proof may be off by, by the dtype the network runs in (about 16 units in the last place of 1)."""

_DEAD = 1e-12  # of the largest variance: a channel that varies less tells nothing of its factor
_CLEAR = 1e-3  # of the largest: the channels by which it is judged what a factor varies over


def tolerance_of(*tensors: Tensor) -> tuple[float, torch.dtype]:
    """The tolerance for the coarsest dtype at play: under autocast a gate may be bfloat16 and the product float32."""
    dtype = max((one.dtype for one in tensors), key=lambda dtype: TOLERANCE.get(dtype, 0.0))
    return TOLERANCE.get(dtype, TOLERANCE[torch.float32]), dtype


def over(gate: Tensor) -> Tensor:
    """N×C as N×C×1×1."""
    return gate[:, :, None, None]


def wide(x: Tensor) -> Tensor:
    """In float64, where the device knows it."""
    return x.detach().to(torch.float32 if x.device.type == "mps" else torch.float64)


@dataclass(frozen=True)
class Fit:
    """What least squares found.

    Attributes:
        gate: ω, N×C; NaN for a channel whose map does not tell ("dead": all 0, or constant where β was fitted too).
        shift: β, N×C; None where x·ω is enough.
        residual: max |o − x·ω − β| / max |x|.
        tolerance: What the residual may be at most.
        reason: Why this is no channel gate, for a person; "" if it may be one.
        varies: max − min of ω over the images, at the channel where that is largest.
        kind: The same in a word: "gate"; "constant", "image", "identity", "additive", "range" (its factor is no gate);
            "spatial", "element", "normalisation", "other" (there is no factor of the channel); "undecided".
    """

    gate: Tensor
    shift: Tensor | None
    residual: float
    tolerance: float
    reason: str
    kind: str
    varies: float = 0.0


def measure(x: Tensor, out: Tensor) -> Fit:
    """Fit the output of a module to its input, both N×C×H×W, and judge.

    Args:
        x: The input, as it was before the module ran.
        out: The output, of the same shape.
    """
    tolerance, dtype = tolerance_of(x, out)
    x, out = wide(x), wide(out)
    scale = float(x.abs().max())
    if not (bool(x.isfinite().all()) and bool(out.isfinite().all())):
        return _nothing(x, tolerance, "its input or its output has NaNs or infinities")
    if scale == 0:
        return _nothing(x, tolerance, "its input is 0 everywhere, so that its factor cannot be measured")
    x, out = x / scale, out / scale
    gate, clear = _through_zero(x, out)
    shift = None
    residual = float((out - x * over(gate.nan_to_num())).abs().max())
    if residual > tolerance:
        line, level, varying = _line(x, out, 4 * torch.finfo(dtype).eps)
        straight = float((out - x * over(line.nan_to_num()) - over(level)).abs().max())
        if straight > tolerance:
            kind, reason = _not_by_channel(x, out, residual, tolerance)
            return Fit(gate, None, residual, tolerance, reason, kind)
        gate, shift, residual, clear = line, level * scale, straight, varying
    kind, reason = _judge(gate, clear, shift is not None, tolerance)
    return Fit(gate, shift, residual, tolerance, reason, kind, _spread(gate, clear, 0) if bool(clear.any()) else 0.0)


def _nothing(x: Tensor, tolerance: float, reason: str) -> Fit:
    nan = torch.full(x.shape[:2], torch.nan, dtype=x.dtype, device=x.device)
    return Fit(nan, None, float("nan"), tolerance, reason, "undecided")


def _through_zero(x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """ω = Σxo/Σx², and which channels tell it clearly."""
    energy = x.square().mean(dim=(2, 3))
    gate = (x * out).mean(dim=(2, 3)) / energy
    return gate.where(energy > _DEAD * energy.max(), torch.nan), energy > _CLEAR**2 * energy.max()


def _line(x: Tensor, out: Tensor, rounding: float) -> tuple[Tensor, Tensor, Tensor]:
    """ω and β of the line of least squares, and which channels tell ω clearly; β alone where x is constant.

    What varies by no more than ``rounding``, |x| being at most 1, is constant: rounding has a slope of its own.
    """
    mean, level = x.mean(dim=(2, 3)), out.mean(dim=(2, 3))
    away = x - over(mean)
    energy = away.square().mean(dim=(2, 3))
    most = energy.max()
    defined = energy > (_DEAD * most).clamp_min(rounding**2)
    gate = ((away * (out - over(level))).mean(dim=(2, 3)) / energy).where(defined, torch.nan)
    return gate, level - gate.nan_to_num() * mean, energy > (_CLEAR**2 * most).clamp_min(rounding**2)


def _judge(gate: Tensor, clear: Tensor, added: bool, tolerance: float) -> tuple[str, str]:
    """What a factor that explains the output is."""
    if not bool(clear.any()):
        return "undecided", "its input does not vary over positions, so that its factor cannot be measured"
    low, high = _ends(gate, clear)
    if max(abs(low - 1), abs(high - 1)) <= tolerance:
        if added:
            return "additive", "it adds a context, one number a channel, and multiplies nothing (its factor is 1)"
        return "identity", "it gives its input back: its factor is 1 for every image and channel"
    in_two = clear.sum(dim=0) > 1
    if not bool(in_two.any()):
        return "undecided", "no channel varies over positions in two of the images; give other images, or more"
    if _spread(gate, clear, 0) <= tolerance:
        ends = dict.fromkeys(f"{one:.3g}" for one in (low, high))
        span = " to ".join(ends)
        return "constant", f"its factor ({span}) is the same for all images: an affine layer or a layer scale"
    if gate.shape[1] > 1 and _spread(gate, clear, 1) <= tolerance:
        return "image", "its factor is the same for all channels: one number an image"
    if low < -tolerance or high > 1 + tolerance:
        return "range", f"its factor goes from {low:.3g} to {high:.3g}, outside a sigmoid's range of 0 to 1"
    return "gate", ""


def _ends(gate: Tensor, clear: Tensor) -> tuple[float, float]:
    seen = gate[clear]
    return float(seen.min()), float(seen.max())


def _spread(gate: Tensor, clear: Tensor, dim: int) -> float:
    """The largest range of ω along a dimension, among those that tell it clearly."""
    high = gate.where(clear, -torch.inf).amax(dim=dim)
    low = gate.where(clear, torch.inf).amin(dim=dim)
    return float((high - low).where(clear.any(dim=dim), 0.0).max())


def _not_by_channel(x: Tensor, out: Tensor, residual: float, tolerance: float) -> tuple[str, str]:
    """What it is where no factor of the channel explains the output."""
    energy = x.square().sum(dim=1, keepdim=True)
    factor = (x * out).sum(dim=1, keepdim=True) / energy.clamp_min(torch.finfo(x.dtype).tiny)
    if x.shape[1] > 1 and float((out - x * factor).abs().max()) <= tolerance:
        if _alike(out.square().mean(dim=1).flatten()):
            return "normalisation", "it brings its output to one size at every position: a normalisation"
        return "spatial", "its factor varies over positions and is the same for all channels: a spatial gate"
    small = (out.abs() <= x.abs() + tolerance).all() and (x * out >= -tolerance).all()
    if bool(small):
        return "element", "its factor varies over the positions of a channel's map: no gate of channels alone"
    return "other", (
        f"its output is not its input times one factor a channel (least squares leave {residual:.2g} of max |x|; "
        f"{tolerance:.0e} was expected at most)"
    )


def normalises(fit: Fit, out: Tensor) -> bool:
    """Whether a module brings its output to one size, whatever the image: a normalisation, its factor 1/size."""
    size = wide(out).square().mean(dim=(2, 3))
    return _alike(size[:, fit.gate.isfinite().all(dim=0)]) or _alike(size.mean(dim=1))


def _alike(sizes: Tensor) -> bool:
    """Whether sizes are the same along the first dimension."""
    mean = sizes.mean(dim=0)
    return bool(sizes.numel()) and bool(((sizes - mean).abs() <= 1e-3 * mean).all())
