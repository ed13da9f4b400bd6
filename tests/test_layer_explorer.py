"""The explorer of layers: what can be picked by thumbnail, and the images of a channel."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import planted
import pytest
import torch
import traitlets

pytest.importorskip("ipywidgets", reason="the extra `lab` is not installed")

from PIL import Image
from test_explorers import CLASSES, Drawn, make, pixels

import ecaviz
from ecaviz import canvas, explorers, layer_explorer
from ecaviz.readings import Reading, read_all

pytestmark = pytest.mark.usefixtures("no_loop")


@pytest.fixture(scope="module")
def models():
    return [make("se", "se-4", reduction=4), make("eca", "short", blocks=(1, 1, 1, 1), kernel_size=3, seed=2)]


@pytest.fixture(scope="module")
def narrow():
    """Half the channels of the others at every layer."""
    return make("se", "narrow", planes=(1, 2, 4, 8), reduction=2)


@pytest.fixture
def explorer(models):
    return ecaviz.LayerExplorer(models, Drawn(30))


def told(explorer):
    """What the buttons that are seen say: their text, their words, and the places of those that are marked."""
    seen = [one for one in explorer.thumbnails.buttons if one.layout.visibility != "hidden"]
    marked = [i for i, one in enumerate(seen) if "ecaviz-chosen" in one._dom_classes]
    return [one.description for one in seen], [one.tooltip for one in seen], marked


def background(explorer, slot):
    """The picture that the style sheet gives the button at a place."""
    rule = rf"\.ecaviz-slot-{slot} {{ background-image: url\(data:image/jpeg;base64,([^)]*)\)"
    (found,) = re.findall(rule, explorer.thumbnails._style.value)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found)))).astype(int)


def test_it_is_found_under_all_its_names():
    assert ecaviz.LayerExplorer is explorers.LayerExplorer is layer_explorer.LayerExplorer
    assert issubclass(ecaviz.LayerExplorer, explorers.Explorer)


# ---------------------------------------------------------------------------------------------------------- thumbnails


def test_a_class_is_picked_by_its_thumbnail(explorer):
    assert told(explorer) == (list(CLASSES), [f"class {one}" for one in CLASSES], [])
    explorer.thumbnails.buttons[1].click()
    assert explorer.error.value == ""
    assert (explorer.state.shown, explorer.state.of, explorer.state.page) == ("class", "ring", 0)
    assert explorer.controls["of"].value == "ring"
    assert not explorer.controls["of"].disabled
    assert told(explorer)[1:] == (["class disc", "class ring (chosen)", "class star"], [1])
    explorer.controls["shown"].value = "all"
    assert told(explorer)[2] == []


def test_an_image_is_picked_by_its_thumbnail_on_any_page(explorer):
    explorer.thumbnails.kind.value = "images"
    assert (explorer.state.thumbnails, explorer.state.pages) == ("images", 3)
    texts, words, marked = told(explorer)
    assert (texts[4], words[4], len(texts), marked) == ("4 ring", "image 4: ring", 12, [])
    assert explorer.thumbnails.before.disabled
    explorer.thumbnails.after.click()
    explorer.thumbnails.after.click()
    assert (explorer.state.page, explorer.thumbnails.after.disabled) == (2, True)
    assert explorer.thumbnails.where.value == "page 3 of 3"
    assert told(explorer)[0] == ["24 disc", "25 ring", "26 star", "27 disc", "28 ring", "29 star"]
    assert len(explorer.thumbnails.buttons) == 12, "those left over are hidden and keep their places"
    explorer.thumbnails.buttons[3].click()
    assert explorer.error.value == ""
    assert (explorer.state.shown, explorer.state.image, explorer.state.page) == ("image", 27, 2)
    assert explorer.controls["image"].value == 27
    assert told(explorer)[1:] == ([*told(explorer)[1][:3], "image 27: disc (chosen)", *told(explorer)[1][4:]], [3])
    explorer.thumbnails.before.click()
    assert (explorer.state.page, told(explorer)[2]) == (1, [])
    assert explorer.state.image == 27, "turning a page picks nothing"


def test_the_page_follows_what_is_shown(explorer):
    state = explorer.state
    state.shown = "image"
    assert (state.thumbnails, state.page) == ("images", 0)
    explorer.controls["image"].value = 13
    assert (state.page, told(explorer)[2]) == (1, [1])
    state.shown = "class"
    assert (state.thumbnails, state.page, told(explorer)[2]) == ("classes", 0, [0])
    state.thumbnails = "images"
    assert (state.shown, state.page, told(explorer)[2]) == ("class", 1, [])


def test_thumbnails_are_the_pictures(explorer):
    state = explorer.state
    pictures = state.images.pictures.astype(int)

    def seen(slot):
        return np.abs(pictures - background(explorer, slot)).mean(axis=(1, 2, 3)).argmin()

    assert [seen(slot) for slot in range(3)] == [0, 1, 2]  # the first image of each class
    state.thumbnails, state.page = "images", 1
    assert [seen(slot) for slot in (0, 11)] == [12, 23]


def test_turning_a_page_draws_nothing_and_a_pick_draws_once(explorer, monkeypatch):
    drawn = []
    png = canvas.Canvas.png
    monkeypatch.setattr(canvas.Canvas, "png", lambda self, scene: drawn.append(scene) or png(self, scene))
    explorer.state.thumbnails = "images"
    explorer.thumbnails.after.click()
    assert drawn == []
    style = explorer.thumbnails._style.value
    explorer.thumbnails.buttons[2].click()  # image and shown, at once
    assert (len(drawn), drawn[0].caption) == (1, "image 14: star")
    explorer.state.layer = 0
    assert len(drawn) == 2
    assert explorer.thumbnails._style.value is style, "the pictures are not made again"


def test_a_thumbnail_that_is_not_there_is_refused(explorer):
    with pytest.raises(traitlets.TraitError, match="thumbnail: 3 is not among 0 to 2"):
        explorer.state.choose(3)
    explorer.state.thumbnails = "images"
    with pytest.raises(traitlets.TraitError, match="page: 3 is not among 0 to 2"):
        explorer.state.page = 3
    explorer.thumbnails._turn(-1, None)
    assert "page: -1 is not among 0 to 2" in explorer.error.value
    explorer.thumbnails.buttons[0].click()
    assert explorer.error.value == ""


def test_images_without_labels_are_picked_too(models):
    explorer = ecaviz.LayerExplorer(models, torch.rand(5, 3, 32, 32))
    assert explorer.thumbnails.kind is None
    assert told(explorer) == ([*"01234"], [f"image {i}" for i in range(5)], [])
    explorer.thumbnails.buttons[4].click()
    assert explorer.error.value == ""
    assert (explorer.state.shown, explorer.state.image) == ("image", 4)
    with pytest.raises(traitlets.TraitError, match="these images have no classes"):
        explorer.state.thumbnails = "classes"
    scene = explorer.state.scene()
    assert [len(scene.left.opening), len(scene.left.closing)] == [2, 2], "no image is in both"
    assert ", , " not in explorer.caption.value
    assert "()" not in explorer.caption.value


def test_one_image_alone(models):
    explorer = ecaviz.LayerExplorer(models, torch.rand(1, 3, 32, 32))
    scene = explorer.state.scene()
    assert [one.image for one in (*scene.left.opening, *scene.left.closing)] == [0, 0]
    assert explorer.error.value == ""


def test_names_of_classes_are_text(models):
    class Odd(Drawn):
        classes = ("<b>", "a & b", "a class with a name of many words")

    explorer = ecaviz.LayerExplorer(models, Odd())
    assert told(explorer)[1] == ["class <b>", "class a & b", "class a class with a name of many words"]
    assert all(len(text) <= 12 for text in told(explorer)[0])
    assert "<b>," not in explorer.caption.value
    assert "&lt;b&gt;" in explorer.caption.value


# ---------------------------------------------------------------------------------------------- the images of a channel


def reading(values):
    return Reading("one", {"site": None}, {"site": np.asarray(values, np.float32)}, {}, ())


@pytest.mark.parametrize("count", [1, 4, 30])
@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_extremes_are_those_of_a_sorted_list(count, levels):
    gates = np.random.default_rng(levels).integers(0, levels, (23, 6)) / levels  # few levels: ties
    for channel in range(6):
        opening, closing = reading(gates).extremes("site", channel, count)
        order = np.lexsort((np.arange(23), gates[:, channel]))
        assert closing.tolist() == order[:count].tolist()
        by_hand = sorted(range(23), key=lambda i: (-gates[i, channel], i))
        assert opening.tolist() == by_hand[:count]


def test_extremes_of_planted_gates_are_the_planted_images():
    images = planted.PlantedImages(90)
    model = ecaviz.load(planted.Planted(), transform=planted.transform, classes=planted.CLASSES, device="cpu")
    (one,), _ = read_all([model], images)
    order = images.images[:, 1, 0, 0].numpy().argsort(kind="stable")
    opening, closing = one.extremes("late", planted.BRIGHTNESS, 10)
    assert set(opening) <= set(np.flatnonzero(images.images[:, 1, 0, 0] >= images.images[order[-10], 1, 0, 0]))
    assert set(closing) <= set(np.flatnonzero(images.images[:, 1, 0, 0] <= images.images[order[9], 1, 0, 0]))
    opening, closing = one.extremes("late", planted.CLASS, 20)
    assert (set(images.labels[opening].tolist()), set(images.labels[closing].tolist())) == ({2}, {0})
    for site, channel in (("late", planted.CONSTANT), ("early", planted.CLASS)):  # of equal gates the first images
        assert [found.tolist() for found in one.extremes(site, channel, 6)] == [[*range(6)]] * 2


def test_what_has_no_extremes():
    one = reading(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"one has no site 'other'; it has site\."):
        one.extremes("other", 0, 1)
    for channel in (-1, 2):
        with pytest.raises(ValueError, match=f"site has channels 0 to 1, got {channel}"):
            one.extremes("site", channel, 1)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        one.extremes("site", 0, 0)


def test_the_images_of_a_channel(explorer):
    state = explorer.state
    state.layer, state.channel = 5, 17
    for name, side, view in zip(
        ("se-4", "short"),
        (state.scene().left, state.scene().right),
        explorer.panels.extremes,
        strict=True,
    ):
        gates = state.readings[name].gates[side.site][:, 17]
        order = np.argsort(gates, kind="stable")
        assert [one.image for one in side.closing] == order[:4].tolist()
        assert sorted(gates[[one.image for one in side.opening]]) == sorted(gates)[-4:]
        shown = list(view.gates.words)
        assert shown == [f"{gates[one.image]:.3f}" for one in (*side.opening, *side.closing)]
        first = side.opening[0]
        assert f"image {first.image} ({CLASSES[first.image % 3]}, {first.gate:.3f})" in explorer.caption.value
        assert (first.picture == state.images.pictures[first.image]).all()
        assert "by channel 17 of" in view.ax.get_title(loc="left")
        sheet = view.sheet.get_array()
        for start, one in ((0, side.opening[0]), (round(4.3 * 96), side.closing[0])):
            assert (sheet[:, start : start + 90, :3] == one.picture[:, 3:-3]).all()
            assert (sheet[:, start : start + 96, 3] == [255] * 90 + [0] * 6).all(), "nothing between the images"
    for sort in (False, True):
        state.sort = sort
        side, curve = state.scene().left, explorer.panels.curves[0]
        place = int(curve.mark.get_xdata()[0])
        assert curve.mean.get_ydata()[place] == side.mean[17]
        assert np.argsort(side.mean, kind="stable")[place] == 17 if sort else place == 17


def test_the_channel_follows_the_layer_and_the_models(explorer, models, narrow):
    state = explorer.state
    for layer, channels in ((7, 64), (0, 8)):
        state.layer = layer
        assert state.channels == channels == len(state.scene().left.mean)
        assert explorer.controls["channel"].max == channels - 1
        if layer == 7:
            state.channel = 63
    state.layer = 7
    assert (state.channel, explorer.controls["channel"].value) == (7, 7), "the last that layer 0 has"
    with pytest.raises(traitlets.TraitError, match="channel: 64 is not among 0 to 63"):
        state.channel = 64
    both = ecaviz.LayerExplorer([models[0], narrow], Drawn(6))
    both.state.channel = 31
    both.controls["left"].value = "narrow"
    assert both.error.value == ""
    assert (both.state.channels, both.state.channel, both.controls["channel"].value) == (16, 15, 15)


def test_a_model_with_fewer_channels_shows_its_last(models, narrow):
    explorer = ecaviz.LayerExplorer([models[0], narrow], Drawn(6))
    explorer.state.channel = 31
    scene = explorer.state.scene()
    assert (len(scene.left.mean), scene.left.channel) == (32, 31)
    assert (len(scene.right.mean), scene.right.channel) == (16, 15)
    assert "channel 15 (the last; there is no channel 31)" in explorer.caption.value
    gates = explorer.state.readings["narrow"].gates[scene.right.site][:, 15]
    assert scene.right.opening[0].image == gates.argmax()
    assert explorer.error.value == ""


def test_a_move_of_the_channel_draws_only_what_it_changes(explorer, monkeypatch):
    for channel in (2, 3):
        explorer.state.channel = channel
    drawn = []
    each = canvas._draw_each
    monkeypatch.setattr(canvas, "_draw_each", lambda artists: each([drawn.append(one) or one for one in artists]))
    explorer.state.channel = 4
    panels = explorer.panels
    expected = {artist for view in panels.extremes for artist in view.moving} | {curve.mark for curve in panels.curves}
    assert set(drawn) == expected - {view.heading for view in panels.extremes}
    drawn.clear()
    explorer.state.shown = "image"
    assert not {artist for view in panels.extremes for artist in view.moving} & set(drawn), "they are of all images"
    anew = canvas.Canvas(explorer._panels).png(explorer.state.scene())
    assert (pixels(explorer.picture.value) == pixels(anew)).all()


def test_the_picture_keeps_its_height(explorer):
    shapes = set()
    for move in (
        {"shown": "class"},
        {"shown": "image"},
        {"channel": 5},
        {"layer": 0},
        {"sort": True},
        {"left": "short"},
    ):
        for trait, value in move.items():
            setattr(explorer.state, trait, value)
        assert explorer.error.value == ""
        shapes.add(pixels(explorer.picture.value).shape)
    assert len(shapes) == 1
