"""What is drawn quickly stands where matplotlib's own artist would stand."""

import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ecaviz.quick_artists import ShortTexts

PLACES = [(0.2, 0.9), (0.7, 0.5), (0.5, -0.1)]  # the last below the axes
WORDS = ["0.637", "0.1", "1.000"]


def axes(dpi=96):
    figure = Figure(figsize=(4, 2), dpi=dpi)
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0.1, 0.3, 0.8, 0.6))
    ax.axis("off")
    return figure, ax


def ink(figure):
    """Where something is drawn: how dark each pixel is."""
    figure.canvas.draw()
    return 255.0 - np.asarray(figure.canvas.buffer_rgba())[..., :3].mean(axis=2)


def box(dark):
    """Top, bottom, left and right of the ink, in pixels."""
    rows, columns = np.flatnonzero(dark.max(axis=1) > 60), np.flatnonzero(dark.max(axis=0) > 60)
    return np.array([rows[0], rows[-1], columns[0], columns[-1]])


@pytest.mark.parametrize("dpi", [96, 192])
@pytest.mark.parametrize("i", range(3))
def test_a_short_text_covers_what_the_same_text_covers(dpi, i):
    figure, ax = axes(dpi)
    ax.text(*PLACES[i], WORDS[i], ha="center", va="top", fontsize="small")
    expected = ink(figure)
    figure, ax = axes(dpi)
    texts = ShortTexts(ax, PLACES, fontsize="small")
    texts.set_words([word if i == j else "" for j, word in enumerate(WORDS)])
    found = ink(figure)
    # Matplotlib leaves room for accents above, and rounds to whole pixels.
    assert np.abs(box(found) - box(expected)).max() <= dpi / 32
    width = box(expected)[3] - box(expected)[2]
    assert abs(box(found)[3] - box(found)[2] - width) <= 2
    assert found.sum() == pytest.approx(expected.sum(), rel=0.25)


def test_all_of_them_are_drawn_and_others_take_their_place():
    figure, ax = axes()
    texts = ShortTexts(ax, PLACES)
    assert ink(figure).max() == 0
    texts.set_words(WORDS)
    assert texts.stale
    written = ink(figure)
    separate = np.zeros_like(written)
    for i, word in enumerate(WORDS):
        texts.set_words([word if i == j else "" for j in range(3)])
        separate += ink(figure)
    assert written.sum() == pytest.approx(separate.sum(), rel=1e-6)
    texts.set_words(["", "0.2", ""])
    assert not np.allclose(ink(figure), written)


def test_they_are_lines_in_a_drawing_of_lines():
    figure, ax = axes()
    empty, file = io.BytesIO(), io.BytesIO()
    texts = ShortTexts(ax, PLACES)
    figure.savefig(empty, format="svg")
    texts.set_words(WORDS)
    figure.savefig(file, format="svg")
    assert len(file.getvalue()) > len(empty.getvalue()) + 1000


def test_as_many_texts_as_places_are_wanted():
    _, ax = axes()
    with pytest.raises(ValueError, match="3 texts were expected, one for each place, got 2"):
        ShortTexts(ax, PLACES).set_words(["0.1", "0.2"])
