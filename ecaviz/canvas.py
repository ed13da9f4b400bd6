"""A figure of several views, drawn into memory, at each move only what the move changed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from . import themes
from .texts import as_written
from .views import Picture

__all__ = ["DPI", "Canvas", "png_of"]

DPI = 96


class Canvas:
    """A figure that is drawn into memory, at each move only what the move changed.

    Text is what takes long. So the artists that move are left out of a panel's background, and drawn on top of it. A
    background is drawn anew when something in it changes (ticks, labels, a legend); where the views tell what it
    depends on, it is kept and found again when a move comes back to it.
    """

    most = 128
    """Backgrounds kept, some 400 kB each at 1×; of finer ones few, since they are drawn when there is time."""

    def __init__(self, panels: type, *, scale: int = 1, theme: str = "light"):
        self.theme = theme
        if scale > 1:
            self.most = 12
        self.figure = Picture(figsize=panels.size, dpi=DPI * scale)
        self.canvas = FigureCanvasAgg(self.figure)
        self.canvas.get_renderer()  # makes the pixels, all of them transparent
        with themes.theme(theme):
            self.panels = panels(self.figure)
        self._views: dict[Any, list] = {part: [] for part in self.figure.subfigs}
        for view in self.panels.views:
            for artist in view.moving:
                artist.set_animated(True)
                if isinstance(artist, Text):
                    artist.set_parse_math(False)  # as_written looks at it only when a background is drawn
            self._views[view.ax.get_figure(root=False)].append(view)
        self._blank = {part: self.canvas.copy_from_bbox(part.bbox) for part in self._views}  # transparent
        self._backgrounds: dict[tuple, Any] = {}
        self._titles: dict[tuple, Any] = {}
        self._shown: dict[Any, tuple] = {}  # by panel: the key of its background; its picture without the light artists

    def png(self, scene: Any) -> bytes:
        """The picture of a scene."""
        for _ in self.steps(scene):
            pass
        return png_of(self.pixels())

    def steps(self, scene: Any) -> Iterator[None]:
        """Draw a scene panel by panel; whoever asks may do something else between two of them, or leave off."""
        try:
            with themes.theme(self.theme):
                self.panels.update(scene)
            for part, views in self._views.items():
                yield
                self._draw(part, views)
        except GeneratorExit:
            raise  # the panels that were not drawn are known by what is stale in them
        except BaseException:
            self._backgrounds, self._titles, self._shown = {}, {}, {}  # what stopped half way leaves no trace
            raise

    def pixels(self) -> np.ndarray:
        """What is drawn: uint8 H×W×4, the margins transparent. It changes with the next picture."""
        return np.asarray(self.canvas.buffer_rgba())

    def _draw(self, part: Any, views: Sequence) -> None:
        """Draw of a panel what changed: nothing, its light artists alone, or all that moves."""
        told = tuple(view.frame for view in views)
        known = None not in told
        key = part, told if known else None
        light = [artist for view in views for artist in view.light]
        moving = sorted((one for view in views for one in view.moving if one not in light), key=lambda one: one.zorder)
        stays, before = self._shown.get(part, (None, None))
        if stays != key or not (known or not part.stale) or any(one.stale for one in moving):
            if key in self._backgrounds and (known or not part.stale):
                self.canvas.restore_region(self._backgrounds[key])
            else:
                self.canvas.restore_region(self._blank[part])
                with themes.theme(self.theme):  # new ticks may be made
                    as_written(part)
                    part.draw(self.canvas.get_renderer())
                self._keep(self._backgrounds, key, part.bbox)
            titles = [view.heading for view in views]
            _draw_each(one for one in moving if one not in titles)
            for title in titles:
                self._draw_title(title, key if known else None)
            before = self.canvas.copy_from_bbox(part.bbox) if light else None
        elif any(one.stale for one in light):
            self.canvas.restore_region(before)
        else:
            return
        _draw_each(light)
        self._shown[part] = key, before

    def _draw_title(self, title: Any, key: tuple | None) -> None:
        """A title lies on the plain panel: it is written once for each text and background, then copied."""
        title.stale = False
        text = key, title, title.get_text()
        if text in self._titles:
            self.canvas.restore_region(self._titles[text])
            return
        title.axes.draw_artist(title)
        if key is not None and title.get_text():
            self._keep(self._titles, text, title.get_window_extent(self.canvas.get_renderer()).padded(2))

    def _keep(self, kept: dict, key: tuple, box: Any) -> None:
        while len(kept) >= self.most:
            del kept[next(iter(kept))]
        kept[key] = self.canvas.copy_from_bbox(box)


def _draw_each(artists: Iterable) -> None:
    for artist in artists:
        artist.axes.draw_artist(artist)
        artist.stale = False  # one that is hidden, or empty, does not say so itself


_pool = ThreadPoolExecutor(4)  # zlib lets other threads run


def _deflated(rows: np.ndarray) -> bytes:
    """A zlib stream of rows of bytes; pieces are compressed at the same time, each as a block that can be joined."""
    pieces = np.array_split(rows, min(4, len(rows)))

    def deflated(piece: np.ndarray, last: bool) -> bytes:
        # −15: without a head of its own; of what repeats only runs of one byte are looked for, and that is quick.
        stream = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
        return stream.compress(piece) + stream.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)

    parts = _pool.map(deflated, pieces, [False] * (len(pieces) - 1) + [True])
    return b"".join([b"\x78\x01", *parts, struct.pack(">I", zlib.adler32(rows))])


def png_of(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 H×W×4, made in little time rather than small: of each row its difference from the one above."""
    height, width = pixels.shape[:2]
    plain = pixels.reshape(height, 4 * width)
    rows = np.empty((height, 1 + 4 * width), dtype=np.uint8)
    rows[:, 0] = 2  # each begins with the number of its filter
    rows[0, 1:] = plain[0]
    np.subtract(plain[1:], plain[:-1], out=rows[1:, 1:])
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)  # 8 bits, RGBA
    chunks = (b"IHDR", head), (b"IDAT", _deflated(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
