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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

__all__ = ["Frame", "Screen", "plain", "token", "worded"]

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


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture.

    Attributes:
        quick: PNG, a pixel for each CSS pixel.
        words: What is seen, as HTML.
        fine: The same picture with more pixels; empty while there is none.
    """

    quick: bytes
    words: str
    fine: bytes = b""

    def __len__(self) -> int:
        return len(self.quick) + len(self.fine)


class Screen(anywidget.AnyWidget):
    """A picture, and the frames that were sent, up to ``most`` bytes of them: those shown longest ago are dropped.

    Attributes:
        controls: What the key is made of.
        rest: What the picture depends on beside them; also what the browser is not to know before the kernel does.
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

    viewed = traitlets.Bool()
    """Whether a browser has opened it."""

    def __init__(self, controls: Iterable[widgets.Widget], width: int):
        self._sent: OrderedDict[str, Frame] = OrderedDict()
        self.shown = Frame(b"", "")
        super().__init__(controls=list(controls), width=width, layout=widgets.Layout(overflow="hidden"))
        self.on_msg(self._asked)

    def now(self, rest: str | None = None) -> str:
        """The key of what the controls say now, with this ``rest`` or the present one."""
        return "|".join([*map(token, self.controls), self.rest if rest is None else rest])

    def sent(self, key: str) -> Frame | None:
        """The frame of that key, if the browser was sent it."""
        return self._sent.get(key)

    def show(self, frame: Frame, rest: str, *, dark: bool = False, partial: bool = False) -> None:
        """Show the frame of what the controls say now; one that was sent is not sent again.

        Args:
            frame: The picture.
            rest: What it depends on beside the controls.
            dark: Whether it is drawn for a dark page.
            partial: Whether a more complete one will follow: this one is not kept.
        """
        key = self.now(rest)
        with self.hold_sync():
            if frame is not self._sent.get(key):
                self.frame, self.frame_key = frame.quick, key
            self.rest, self.dark, self.partial = rest, dark, partial
            self.key, self.shown, self.value = key, frame, frame.fine or frame.quick
            self.alt = plain(frame.words)
            self.answers += 1
        if not partial:
            self._remember(key, frame)

    def send_ahead(self, key: str, frame: Frame) -> None:
        """Send a frame that may be shown later."""
        self.send({"ahead": key}, [frame.quick])
        self._remember(key, frame)

    def send_fine(self, key: str, png: bytes) -> None:
        """Send a frame of more pixels than that of the same key: it is shown when nothing moves."""
        if (before := self._sent.get(key)) is None:
            return
        self.send({"ahead": key, "fine": True}, [png])
        self._remember(key, frame := Frame(before.quick, before.words, png))
        if key == self.key:
            self.shown, self.value = frame, png

    def save(self, name: str, kind: str, content: bytes) -> None:
        """Have the browser save a file where the user's files go.

        Args:
            name: Of the file.
            kind: Its media type.
            content: What is in it.
        """
        self.send({"save": name, "type": kind, "id": f"{self.model_id} {next(_numbers)}"}, [content])

    def clear(self) -> None:
        """Keep no frame any more."""
        self._sent.clear()

    def _remember(self, key: str, frame: Frame) -> None:
        self._sent[key] = frame
        self._sent.move_to_end(key)
        size = sum(map(len, self._sent.values()))
        dropped = []
        while len(self._sent) > 1 and size > self.most:
            name, old = self._sent.popitem(last=False)
            dropped.append(name)
            size -= len(old)
        if dropped:
            self.send({"drop": dropped})

    def _asked(self, _widget: Any, content: Mapping[str, Any], _buffers: Any) -> None:
        """A page was opened, and may lack frames that were sent before: fine ones, and those that it asks for."""
        opened, wanted = "open" in content, content.get("want")
        self.viewed = self.viewed or opened
        if found := self._sent.get(wanted):
            self.send({"ahead": wanted}, [found.quick])
        key = self.key if opened else wanted
        if (found := self._sent.get(key)) and found.fine:
            self.send({"ahead": key, "fine": True}, [found.fine])
