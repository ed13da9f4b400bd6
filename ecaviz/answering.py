"""Explorers whose picture takes a run of the network: what is known is shown at once, and completed when it is through.

The state has ``scene(wait=False)``, which leaves out what only the network can tell, ``answered()`` and ``answer()``.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from .explorer_base import Explorer

__all__ = ["AnsweringExplorer"]


class AnsweringExplorer(Explorer):
    """An explorer whose network is run after a move, unless the next move comes before that."""

    pause = 0.05
    """Seconds between the picture and the run of the network: the next move, if it comes sooner, goes first."""

    quick = 0.0
    """Seconds: where the last run took less, the next is waited for, so that nothing flickers."""

    short = 0.1
    """Seconds: where the last run took less, frames of ``runs_ahead`` are rendered ahead, each with a run."""

    runs_ahead: frozenset[str] = frozenset()
    """Controls whose every value takes one run and no more."""

    _took = math.inf
    _waiting: asyncio.TimerHandle | None = None  # here, since a widget is closed even where its making failed

    def _draw(self) -> None:
        """The picture at once; then, if the network has not answered, its run, as soon as no move comes before it."""
        self._forget()
        super()._draw()
        if self.picture.partial:
            self._waiting = asyncio.get_running_loop().call_later(self.pause, self._complete)

    def _prepare(self) -> None:
        first = not self.picture.value
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            first = True  # without a loop nothing shows pictures meanwhile
        if first or self._took < self.quick:
            self._answer()

    def _complete(self) -> None:
        self._forget()
        self._guarded(self._answered)
        self.picture.partial = False  # also where the network failed

    def _answered(self) -> None:
        error = self.error.value  # of a move that was refused meanwhile: it stays
        self._answer()
        super()._draw()
        self.error.value = error

    def _answer(self) -> None:
        if not self.state.answered():
            start = time.perf_counter()
            self.state.answer()
            self._took = time.perf_counter() - start

    def _forget(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def close(self) -> None:
        """Close the widget; what the network has not answered is not asked any more."""
        self._forget()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live widget, and the picture, whole, for wherever there is no kernel."""
        if self._waiting is not None:
            self._complete()
        return super()._repr_mimebundle_(**kwargs)

    def _scene(self) -> Any:
        return self.state.scene(wait=False)

    def _worth(self, name: str, state: Any) -> bool:
        return state.answered() or (name in self.runs_ahead and self._took < self.short)

    def _whole(self) -> bool:
        return self.state.answered()
