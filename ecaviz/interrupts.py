"""Signals that wait for a moment in which nothing is half done: Ctrl-C, and a reading process that died."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

__all__ = ["uninterrupted"]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """An error that a signal raises inside the ``with`` is raised at its end. For short work.

    That is KeyboardInterrupt, and torch's RuntimeError where a process of a DataLoader died, which torch hears of by
    SIGCHLD (there is none on Windows). In other threads than the main one, where no signal raises anything, it does
    nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    child = getattr(signal, "SIGCHLD", None)
    with _waiting(signal.SIGINT), nullcontext() if child is None else _waiting(child):
        yield


@contextmanager
def _waiting(number: signal.Signals) -> Iterator[None]:
    """The handler of one signal is called at the end; nothing where no function handles it."""
    before = signal.getsignal(number)
    if not callable(before):
        yield
        return
    came: list[tuple] = []
    signal.signal(number, lambda *given: came.append(given))
    try:
        yield
    finally:
        signal.signal(number, before)
    if came:
        before(*came[-1])
