"""What several benchmarks share: the machine's name, waiting for the device, the interval of a median."""

from __future__ import annotations

import contextlib
import datetime
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy.stats import binom

DTYPES = ("float32", "bfloat16")


def machine(device: torch.device) -> dict[str, str]:
    """Date, name of the card or the processor, and version of torch: the first columns of a recorded row."""
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"{_processor()}, {torch.get_num_threads()} of {torch.multiprocessing.cpu_count()} cores"
    return {"date": datetime.date.today().isoformat(), "hardware": hardware, "torch": torch.__version__}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def precision(device: torch.device, dtype: str) -> contextlib.AbstractContextManager:
    """Autocast to bfloat16, or nothing for float32."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """The median and its exact interval: two of the sorted values, by the binomial distribution.

    It covers the level at least, whatever the values' distribution; NaN where they are too few (below six for 95 %).
    """
    ordered = sorted(values)
    n = len(ordered)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    cut = int(binom.ppf((1 - level) / 2, n, 0.5))  # the lower end is the cut-th of the sorted values, counted from 1
    if cut < 1:
        return middle, float("nan"), float("nan")
    return middle, ordered[cut - 1], ordered[n - cut]
