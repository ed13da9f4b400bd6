"""How tuples lie in each other in a pickle, found without making them.

Python takes the hash of a tuple by one call for each level and each place, without a limit: of a pickle of 100 kB whose
only key is a tuple in a hundred thousand others the process ends, and of one of 300 bytes, whose key is a pair of twice
the same pair and so on for forty levels, it never comes to an end.
"""

from __future__ import annotations

import pickletools
from typing import BinaryIO

__all__ = ["MOST", "MOST_HELD", "is_too_deep"]

MOST = 200
"""Levels that are let through; checkpoints have four or so."""

MOST_HELD = 100_000
"""What a tuple may hold with all that is in it, each as often as it is met; in checkpoints a shape is the longest."""

_PUT, _GET = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def is_too_deep(file: BinaryIO, pickles: int = 1) -> bool:
    """Whether tuples lie in each other deeper than :data:`MOST`, or hold more than :data:`MOST_HELD`.

    Nothing of a pickle is made or run.

    Args:
        file: Where the pickles begin.
        pickles: How many follow each other, at most. Of one that is damaged it is told what comes before the damage,
            as far as whoever reads it comes too.
    """
    try:
        return any(_is_deep(file) for _ in range(pickles))
    except Exception:  # of a damaged pickle, whatever its bytes happen to spell
        return False


def _is_deep(file: BinaryIO) -> bool:
    """The machine that reads a pickle, as far as the instructions that torch knows; objects are (levels, contents)."""
    stack, marks, memo = [], [], {}
    for instruction, argument, _ in pickletools.genops(file):
        name = instruction.name
        if name == "MARK":
            marks.append(stack)
            stack = []
        elif name == "TUPLE" or name in _TUPLES:
            if name == "TUPLE":
                inner, stack = stack, marks.pop()
            else:
                inner = [stack.pop() for _ in range(_TUPLES[name])]
            levels = 1 + max((deep for deep, _ in inner), default=0)
            held = 1 + sum(many for _, many in inner)
            if levels > MOST or held > MOST_HELD:
                return True
            stack.append((levels, held))
        elif name in ("APPENDS", "SETITEMS"):
            stack = marks.pop()
        elif name in _PUT:
            memo[argument] = stack[-1]
        elif name in _GET:
            stack.append(memo[argument])
        else:
            del stack[len(stack) - len(instruction.stack_before) :]
            stack += [(0, 1)] * len(instruction.stack_after)
    return False
