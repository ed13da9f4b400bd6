"""Which device to work on."""

from __future__ import annotations

import torch

__all__ = ["choose_device"]


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device to work on: for "auto" cuda, else mps, else cpu.

    Raises:
        RuntimeError: The device asked for is not there.
        ValueError: It is no device's name.
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f'load: {device!r} is no device. Use "auto", "cpu", "cuda", "cuda:1" or "mps".') from None
    count = torch.cuda.device_count()
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= count):
        found = "torch finds no GPU" if not count else f"torch finds {count} (cuda:0 to cuda:{count - 1})"
        raise RuntimeError(
            f"device {str(device)!r} was asked for, but {found} here (torch {torch.__version__}). "
            f'Use device="auto" or "cpu", or install a torch that matches the driver.'
        )
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f'load: {device!r} is not supported. Use "auto", "cpu", "cuda", "cuda:1" or "mps".')
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise RuntimeError('device "mps" was asked for, but there is none here. Use device="auto" or "cpu".')
    return chosen
