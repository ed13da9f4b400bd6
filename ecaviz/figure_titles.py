"""An extension of IPython: what stands for a figure in plain text names its titles, not its size.

A report takes the words from there as the picture's alternative text. matplotlib is not imported here.
"""

from __future__ import annotations

from typing import Any

__all__ = ["described", "load_ipython_extension"]

MOST = 8
"""Titles that are told; a grid of images has one for each."""


def described(figure: Any) -> str:
    """The titles of a figure and its axes; of one without any, what its axes show."""
    suptitle = figure.get_suptitle()
    titles = [suptitle] if suptitle else []
    axes = figure.get_axes()
    for ax in axes:
        titles += [title for where in ("left", "center", "right") if (title := ax.get_title(loc=where))]
    if not titles:
        titles = [f"{ax.get_ylabel()} by {ax.get_xlabel()}" for ax in axes if ax.get_ylabel() and ax.get_xlabel()]
    titles = list(dict.fromkeys(" ".join(title.split()) for title in titles))
    more = f"; {len(titles) - MOST} more" if len(titles) > MOST else ""
    return f"Plot: {'; '.join(titles[:MOST])}{more}" if titles else repr(figure)


def load_ipython_extension(shell: Any) -> None:
    """Called by IPython."""

    def printed(figure: Any, printer: Any, _cycle: bool) -> None:
        printer.text(described(figure))

    def register(*_: Any) -> None:
        shell.display_formatter.formatters["text/plain"].for_type_by_name("matplotlib.figure", "Figure", printed)

    # Time and again: what shows pyplot's figures forgets all that was registered for figures when it is set up.
    shell.events.register("pre_run_cell", register)
    shell.events.register("post_execute", register)
