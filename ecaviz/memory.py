"""Memory that runs out: how the error is known, and words that go with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["is_out_of_memory", "memory_in_words"]

_WORDS = ("out of memory", "can't allocate memory", "_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; also where it does so in words alone: the CPU's, mps', cuBLAS'."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


@contextmanager
def memory_in_words(advice: str | Callable[[], str]) -> Iterator[None]:
    """An error inside the ``with`` that says that memory ran out gets a note; one that has a note keeps it alone.

    So, of several of these one in another, the innermost says what to do: it knows most.

    Args:
        advice: The note: who ran out of memory, and what takes less; or what gives it, where that depends on how far
            it came.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error) and not getattr(error, "__notes__", None):
            error.add_note(advice if isinstance(advice, str) else advice())
        raise
