"""The picture of an explorer as a widget: the browser keeps the frames that it was sent, by what the controls say.

A move of a control whose frame is in the browser shows it there and then; the kernel hears of the move as well, and
has nothing to send. Else the kernel draws the frame and sends it with its key. What a key says is the same on both
sides: :func:`token` of each control, and ``rest``, all that the picture depends on beside them.
"""

from __future__ import annotations

import html
import itertools
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

__all__ = ["Screen", "plain", "token", "worded"]

_numbers = itertools.count()


def token(control: widgets.Widget) -> str:
    """What a control says, in the words that screen.js has for it: the index of a choice, else the value."""
    return worded(control.index if hasattr(control, "index") else control.value)


def worded(value: Any) -> str:
    """An index or a value as a part of a key."""
    if isinstance(value, bool):
        return str(value).lower()
    return format(value, ".12g") if isinstance(value, int | float) else str(value)


def plain(text: str) -> str:
    """HTML without its tags."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))).strip()


class Screen(anywidget.AnyWidget):
    """A picture, and the frames that were sent, up to ``most`` bytes of them: those shown longest ago are dropped.

    Attributes:
        controls: What the key is made of.
        rest: What the picture depends on beside them.
        key: Of the picture that is shown.
        frame: The picture that was sent last, PNG.
        frame_key: Its key.
        partial: Whether a more complete picture will follow.
        width: Width on the screen, CSS pixels.
        alt: The picture in words.
        answers: How many times the kernel has answered, also where a move was refused and no picture came.
        dark: Whether it is drawn for a dark page; its margins are transparent.
        page_dark: Whether the page is dark: told by the browser.
    """

    _esm = Path(__file__).parent / "screen.js"
    _css = Path(__file__).parent / "screen.css"

    most = 96 * 2**20

    controls = traitlets.List().tag(sync=True, **widgets.widget_serialization)
    rest = traitlets.Unicode().tag(sync=True)
    key = traitlets.Unicode().tag(sync=True)
    frame = traitlets.Bytes().tag(sync=True)
    frame_key = traitlets.Unicode().tag(sync=True)
    partial = traitlets.Bool().tag(sync=True)
    width = traitlets.Int().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    answers = traitlets.Int().tag(sync=True)
    dark = traitlets.Bool().tag(sync=True)
    page_dark = traitlets.Bool().tag(sync=True)

    value = traitlets.Bytes()
    """The picture that is shown, PNG; not synchronised, since the browser may have it."""

    def __init__(self, controls: Iterable[widgets.Widget], width: int):
        self._sent: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self._bytes = 0
        super().__init__(controls=list(controls), width=width, layout=widgets.Layout(overflow="hidden"))
        self.on_msg(self._asked)

    def now(self) -> str:
        """The key of what the controls say now."""
        return "|".join([*map(token, self.controls), self.rest])

    def sent(self, key: str) -> tuple[bytes, str] | None:
        """The frame of that key that the browser was sent, and its words; None if it was not."""
        return self._sent.get(key)

    def show(self, png: bytes, words: str, *, partial: bool = False) -> None:
        """Show the frame of what the controls say now; one that was sent is not sent again.

        Args:
            png: The picture.
            words: What is seen, as HTML.
            partial: Whether a more complete one will follow: this one is not kept.
        """
        key = self.now()
        with self.hold_sync():
            if (png, words) != self._sent.get(key):
                self.frame, self.frame_key = png, key
            self.key, self.value, self.partial, self.alt = key, png, partial, plain(words)
            self.answers += 1
        if not partial:
            self._remember(key, png, words)

    def send_ahead(self, key: str, png: bytes, words: str) -> None:
        """Send a frame that may be shown later, or a finer one of a key: it is shown when nothing moves."""
        self.send({"ahead": key, "fine": self.is_fine(png)}, [png])
        self._remember(key, png, words)
        if key == self.key:
            self.value = png

    def is_fine(self, png: bytes) -> bool:
        """Whether a picture has more pixels than the screen has CSS pixels for it, as its first chunk says."""
        return int.from_bytes(png[16:20], "big") > 1.5 * self.width

    def save(self, name: str, kind: str, content: bytes) -> None:
        """Have the browser save a file where the user's files go.

        Args:
            name: Of the file.
            kind: Its media type.
            content: What is in it.
        """
        self.send({"save": name, "type": kind, "id": f"{self.model_id} {next(_numbers)}"}, [content])

    def _remember(self, key: str, png: bytes, words: str) -> None:
        self._bytes += len(png) - len(self._sent.get(key, (b"",))[0])
        self._sent[key] = png, words
        self._sent.move_to_end(key)
        dropped = []
        while len(self._sent) > 1 and self._bytes > self.most:
            dropped.append(next(iter(self._sent)))
            self._bytes -= len(self._sent.pop(dropped[-1])[0])
        if dropped:
            self.send({"drop": dropped})

    def _asked(self, _widget: Any, content: Mapping[str, Any], _buffers: Any) -> None:
        """A page that was opened later lacks a frame."""
        if found := self._sent.get(content.get("want")):
            self.send({"ahead": content["want"], "fine": self.is_fine(found[0])}, [found[0]])
