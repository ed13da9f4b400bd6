"""What a browser says to a widget is handled in the thread where the widget was made.

JupyterLab 4.4 and newer let ipykernel 7 answer widgets in a thread beside the one that runs the cells ("subshells"),
and messages of one explorer's controls can come in from both. Its controls, its picture and the network that it runs
belong together, and so do that network and the cells that use it: hooks that one thread has set would see the calls of
the other. So all messages wait for the widget's own thread, as they did before there were subshells; but "Interrupt
kernel" stops cells alone, not what a message sets off.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

__all__ = ["OneThread"]


@dataclass
class _Message:
    """A message that waits, and what tells the kernel whose answer it is."""

    widget: widgets.Widget
    content: dict[str, Any]
    context: contextvars.Context

    def takes(self, newer: _Message) -> bool:
        """Whether it is said by the newer message as well, but for values that can be added to it."""
        both = self.content["content"]["data"], newer.content["content"]["data"]
        return self.widget is newer.widget and all(
            data.get("method") == "update" and not data.get("buffer_paths") for data in both
        )

    def add(self, newer: _Message) -> None:
        """Become the newer message, with the values that only this one has."""
        before, after = (one.content["content"]["data"]["state"] for one in (self, newer))
        after |= {name: value for name, value in before.items() if name not in after}
        self.content, self.context = newer.content, newer.context


class OneThread:
    """The messages of some widgets, handled one after the other in the thread that made this.

    While that thread is busy they wait, and newer values of a control take the place of older ones. Without an event
    loop, as in a script, nothing can wait: they are handled where they come in.

    Args:
        members: The widgets.
    """

    def __init__(self, members: Iterable[widgets.Widget]):
        self._thread = threading.get_ident()
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._waiting: deque[_Message] = deque()
        self._lock = threading.Lock()
        for one in members:
            if one.comm is not None:
                one.comm.on_msg(lambda content, one=one: self._came(one, content))

    def _came(self, widget: widgets.Widget, content: dict[str, Any]) -> None:
        loop = self._loop
        own = threading.get_ident() == self._thread
        if own or loop is None or not loop.is_running() or _in_window_loop():
            while own and self._waiting:
                self._handle_one()  # what came before
            widget._handle_msg(content)  # what ipywidgets has for it
            return
        message = _Message(widget, content, contextvars.copy_context())
        with self._lock:
            if self._waiting and self._waiting[-1].takes(message):
                self._waiting[-1].add(message)
                return
            self._waiting.append(message)
        loop.call_soon_threadsafe(self._handle_one)

    def _handle_one(self) -> None:
        with self._lock:
            message = self._waiting.popleft() if self._waiting else None
        if message is not None and message.widget.comm is not None:  # None: it was closed meanwhile
            message.context.run(message.widget._handle_msg, message.content)


def _in_window_loop() -> bool:
    """Whether the kernel waits in the event loop of windows (``%gui qt``), which nothing here would wake."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return getattr(kernel, "eventloop", None) is not None
