r"""Texts of figures: names are drawn as they are written, also those that matplotlib would take for mathematics.

A class, a layer or a model may be called ``$\frac$``. Two dollar signs in a text make matplotlib set what is between
them as a formula, or fail if it is none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import wraps
from typing import ParamSpec, TypeVar

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

__all__ = ["DERIVATIVE", "ENTRY", "ENTRY_SIZE", "OWN_ENTRY", "as_written", "names_as_written"]

DERIVATIVE = r"$J_{ij} = \partial z_i/\partial y_j$"
ENTRY, OWN_ENTRY, ENTRY_SIZE = "$J_{ij}$", "$J_{ii}$", "$|J_{ij}|$"
_FORMULAS = (DERIVATIVE, ENTRY, OWN_ENTRY, ENTRY_SIZE)
"""All that is set as mathematics in ecaviz's own texts."""

P = ParamSpec("P")
Drawn = TypeVar("Drawn", bound=Artist)


def as_written(artist: Artist, *, but: Collection[str] = ()) -> None:
    """Have every text of a figure, or of a part of it, drawn letter by letter if there is a dollar sign in it.

    Left alone are ecaviz's own formulas, and numbers at ticks, which matplotlib itself writes as mathematics.

    Args:
        artist: The figure, the Axes, or another part.
        but: Texts that may be mathematics.
    """
    named = [text for text in artist.findobj(Text) if "$" in _without_formulas(text.get_text())]
    numbers = _numbers(artist) if named else set()
    for text in named:
        if text.get_text() in but:
            text.set_parse_math(True)
        elif text not in numbers:
            text.set_parse_math(False)


def _without_formulas(words: str) -> str:
    for formula in _FORMULAS:
        words = words.replace(formula, "")
    return words


def _numbers(artist: Artist) -> set[Text]:
    """The texts at ticks that nobody has named."""
    found: set[Text] = set()
    for ax in artist.findobj(Axes):
        for axis in (ax.xaxis, ax.yaxis):
            found.add(axis.get_offset_text())
            for ticks, formatter in (
                (axis.get_major_ticks(), axis.get_major_formatter()),
                (axis.get_minor_ticks(), axis.get_minor_formatter()),
            ):
                if not isinstance(formatter, FixedFormatter | FuncFormatter):
                    found.update(label for tick in ticks for label in (tick.label1, tick.label2))
    return found


def names_as_written(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """A plot whose names are drawn as they are written; the title that its caller gives may have mathematics."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        given = kwargs.get("ax") or kwargs.get("figure")
        but = {text.get_text() for text in given.findobj(Text) if text.get_parse_math()} if given else set()
        found = draw(*args, **kwargs)
        as_written(found, but={*but, kwargs.get("title")})
        return found

    return drawn
