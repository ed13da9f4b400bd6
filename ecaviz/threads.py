"""Threads of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread_for"]

SMALL = 512
"""C up to which one thread is as quick as several."""


@contextmanager
def one_thread_for(channels: int) -> Iterator[None]:
    """One thread inside the ``with`` where matrices C×C are small, then as many as before.

    Thousands of short steps would spend their time waiting for the other threads: on a machine that does other work
    they take forty times as long.
    """
    before = torch.get_num_threads()
    if channels > SMALL or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
