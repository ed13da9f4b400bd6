"""NumPy's numbers in a pickle, read without NumPy.

Training scripts keep an epoch or an accuracy as one of them. What NumPy itself offers to read it back believes whatever
the file says of a number's kind, and ends the process where that is wrong.
"""

from __future__ import annotations

import pickle
import struct

__all__ = ["STAND_INS", "Kind", "number"]

_FORMATS = {
    "b1": "?",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
    "f2": "e",
    "f4": "f",
    "f8": "d",
}
"""How ``struct`` reads a number, by NumPy's code for its kind."""

_ORDERS = {"<": "<", ">": ">", "|": "<"}
"""How ``struct`` is told the order of bytes, by NumPy's sign for it; "|" is one byte alone."""


class Kind:
    """What a number is, as a pickle of ``numpy.dtype`` says it: how it is called and what state it is given.

    Raises:
        pickle.UnpicklingError: It is called otherwise than NumPy does for a plain number, or given another state.
    """

    __slots__ = ("_code", "_order")  # no other class can be made this one, and nothing else can be set

    def __new__(cls, *args: object) -> Kind:
        """An instance: a pickle may make one without ``__init__``."""
        if len(args) != 3 or not all(isinstance(one, str | int) for one in args) or args[0] not in _FORMATS:
            raise pickle.UnpicklingError("a kind of number of NumPy's was expected, as NumPy writes it")
        made = super().__new__(cls)
        made._code, made._order = args[0], "<"
        return made

    def __setstate__(self, state: object) -> None:
        """Take what NumPy writes of a plain number: its order of bytes, and nothing else."""
        plain = isinstance(state, tuple) and len(state) == 8 and all(isinstance(one, str | int | None) for one in state)
        if not plain or state[1] not in _ORDERS or (state[0], *state[2:]) != (3, None, None, None, -1, -1, 0):
            raise pickle.UnpicklingError("the state of a plain number of NumPy's was expected")
        self._order = _ORDERS[state[1]]


def number(*args: object) -> float:
    """A number, by its kind and its bytes: what a pickle calls NumPy's ``scalar`` with.

    Raises:
        pickle.UnpicklingError: They are no kind and as many bytes as it has.
    """
    if len(args) == 2 and type(args[0]) is Kind and type(args[1]) is bytes:
        how = args[0]._order + _FORMATS[args[0]._code]
        if len(args[1]) == struct.calcsize(how):
            return struct.unpack(how, args[1])[0]
    raise pickle.UnpicklingError("a number of NumPy's was expected: its kind and its bytes")


STAND_INS = (
    (Kind, "numpy.dtype"),
    (number, "numpy.core.multiarray.scalar"),
    (number, "numpy._core.multiarray.scalar"),
)
"""What is read in NumPy's place, as ``torch.serialization.safe_globals`` takes it."""
