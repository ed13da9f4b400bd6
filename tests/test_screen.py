"""Frames that the browser keeps, fine pictures at rest, frames drawn ahead, files, the table, light and dark."""

import asyncio
import base64
import copy
import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from PIL import Image
from test_explorers import Drawn, make, pixels

import ecaviz
from ecaviz import canvas, explorer_base, themes

widgets = pytest.importorskip("ipywidgets", reason="the extra `lab` is not installed")
from ecaviz.screen import Screen, token, worded  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_loop")


class Sent:
    """What a screen sends to its browser, in order; ``frames`` is what the browser has of it by now."""

    def __init__(self, screen, monkeypatch):
        self.all, self.fine, self.screen = [], {}, screen
        self.frames = {screen.frame_key: screen.frame}
        monkeypatch.setattr(screen, "send", self._message)
        screen.observe(self._answer, "answers")  # the last trait of those that arrive together

    def _answer(self, _change):
        screen = self.screen
        if self.frames.get(screen.frame_key) != screen.frame:
            self.all.append("frame")
            self.frames[screen.frame_key] = screen.frame
        assert screen.key in self.frames, "the browser is to show what it has not"

    def _message(self, content, buffers=()):
        self.all.append(next(iter(content)))
        if "ahead" in content:
            (self.fine if content.get("fine") else self.frames)[content["ahead"]] = buffers[0]
        for key in content.get("drop", ()):
            self.frames.pop(key, None)
            self.fine.pop(key, None)
        self.last = content, buffers


@pytest.fixture(scope="module")
def models():
    return [make("se", "se-4", reduction=4), make("eca", "eca-5", kernel_size=5, seed=1)]


@pytest.fixture
def layers(models):
    explorer = ecaviz.LayerExplorer(models, Drawn())
    yield explorer
    explorer.close()


@pytest.fixture
def rule():
    explorer = ecaviz.RuleExplorer(bundled=False)
    yield explorer
    explorer.close()


# --------------------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize(
    ("value", "said"), [(True, "true"), (3, "3"), (2.0, "2"), (0.1 + 0.2, "0.3"), (-1.75, "-1.75"), ("a b", "a b")]
)
def test_a_key_says_numbers_as_javascript_does(value, said):
    assert worded(value) == said


def test_a_choice_is_known_by_its_index_and_a_slider_by_its_value():
    assert token(widgets.Dropdown(options=["x", "y"], value="y")) == "1"
    assert token(widgets.IntSlider(value=7)) == "7"
    assert token(widgets.Checkbox(value=True)) == "true"


def test_a_frame_that_was_sent_is_neither_drawn_nor_sent_again(layers, monkeypatch):
    sent = Sent(layers.picture, monkeypatch)
    start = layers.state.layer
    pictures = {}
    for layer in (0, 1, start):
        layers.state.layer = layer
        pictures[layer] = layers.picture.value, layers.caption.value, layers.picture.alt
    assert sent.all == ["frame", "frame"], "the first one was there"
    monkeypatch.setattr(canvas.Canvas, "png", lambda self, scene: pytest.fail("drawn again"))
    for layer in (1, 0, start):
        layers.state.layer = layer
        assert (layers.picture.value, layers.caption.value, layers.picture.alt) == pictures[layer]
        assert layers.picture.key == layers.picture.now()
        assert sent.frames[layers.picture.key] == pictures[layer][0]
    assert sent.all == ["frame", "frame"]
    assert layers.error.value == ""


def test_every_control_that_the_picture_shows_is_in_the_key(layers):
    before = {layers.picture.now()}
    for name, value in {"layer": 0, "channel": 1, "sort": True, "scale": "full", "shown": "image", "image": 3}.items():
        setattr(layers.state, name, value)
        assert layers.picture.now() not in before, name
        before.add(layers.picture.now())
    layers.state.page = 0
    assert layers.picture.now() in before, "what the picture does not show is in its key"
    layers.tools["dark"].value = True
    assert layers.picture.now() not in before


def test_a_picture_that_no_control_chooses_has_a_key_of_its_own(models):
    explorer = ecaviz.PictureExplorer(models[0], None, Drawn())
    keys = [explorer.picture.now()]
    for seed in (0, 1):
        noise = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        explorer.show(Image.fromarray(noise))
        keys.append(explorer.picture.now())
    assert len(set(keys)) == 3
    explorer.close()


def test_of_more_frames_than_there_is_room_for_the_oldest_go(layers, monkeypatch):
    sent = Sent(layers.picture, monkeypatch)
    layers.picture.most = 3 * len(layers.picture.value)
    for channel in range(12):
        layers.state.channel = channel
    assert 2 <= len(layers.picture._sent) <= 4
    assert sum(len(one.quick + one.fine) for one in layers.picture._sent.values()) <= layers.picture.most
    assert set(sent.frames) == set(layers.picture._sent), "kernel and browser keep different frames"


def test_a_page_that_is_opened_later_asks_for_what_it_lacks(layers, monkeypatch):
    layers.state.layer = 0
    key, png = layers.picture.key, layers.picture.value
    layers.state.layer = 1
    sent = Sent(layers.picture, monkeypatch)
    layers.picture._asked(None, {"want": key}, [])
    assert sent.frames[key] == png
    layers.picture._asked(None, {"want": "nothing of ours"}, [])
    layers.picture._asked(None, {}, [])
    assert sent.all == ["ahead"]


def test_a_move_that_is_refused_is_an_answer_too(models):
    explorer = ecaviz.CoverageExplorer((), channels=(16, 32), reductions=(4, 64))
    answers, key = explorer.picture.answers, explorer.picture.key
    explorer.controls["r"].value = 64
    assert explorer.error.value
    assert explorer.picture.answers > answers, "the browser would wait for ever"
    assert explorer.picture.key == key
    explorer.close()


# -------------------------------------------------------------------------------------------------------------- at rest


def rest(explorer, monkeypatch, action=lambda: None, seconds=20.0):
    """Act in a loop and wait until nothing is left to be drawn."""
    monkeypatch.setattr(explorer_base, "REST", 0.01)
    monkeypatch.setattr(explorer_base, "BREATH", 0)
    explorer.picture.viewed = True

    async def wait():
        action()
        assert explorer._refining is not None
        await asyncio.wait_for(explorer._refining, seconds)

    asyncio.run(wait())


def test_at_rest_the_picture_is_drawn_finely_and_the_other_layers_ahead(layers, monkeypatch):
    sent = Sent(layers.picture, monkeypatch)
    rest(layers, monkeypatch, lambda: setattr(layers.state, "channel", 2))
    fine, quick = imread(io.BytesIO(layers.picture.value)).shape, layers._canvas().pixels().shape
    assert fine[:2] == pytest.approx((2 * quick[0], 2 * quick[1]), abs=1)
    assert set(sent.fine) == {layers.picture.now()}
    state, frames = layers.state.trait_values(), dict(sent.frames)
    monkeypatch.setattr(canvas.Canvas, "png", lambda self, scene: pytest.fail("it was drawn ahead"))
    for layer in range(len(layers.state.names)):
        if layer == state["layer"]:
            continue
        layers.state.layer = layer
        assert layers.picture.value == frames[layers.picture.now()]
        anew = canvas.Canvas(layers._panels)
        for _ in anew.steps(layers.state.scene()):
            pass
        assert (pixels(layers.picture.value) == pixels(canvas.png_of(anew.pixels()))).all()
    assert layers.error.value == ""


def test_the_moved_control_and_the_likeliest_are_drawn_ahead_in_turn_the_nearest_first(layers):
    layers.controls["channel"].value = 9
    now = layers.state.trait_values()
    moves = [
        next((name, value) for name, value in state.trait_values().items() if value != now[name])
        for _, state in layers._others()
    ]
    assert [name for name, _ in moves[:6]] == ["channel", "layer"] * 3
    assert {value for name, value in moves[:4] if name == "channel"} == {8, 10}
    away = [abs(value - now["layer"]) for name, value in moves if name == "layer"]
    assert away == sorted(away)
    assert away[0] == 1


def test_drawing_ahead_moves_nothing(layers, monkeypatch):
    moved = []
    layers.state.channel = 1
    before = layers.state.trait_values(), {name: one.value for name, one in layers.controls.items()}
    rest(layers, monkeypatch, lambda: setattr(layers.state, "channel", 2))
    layers.state.channel = 1
    layers.state.observe(moved.append)
    rest(layers, monkeypatch, layers._draw)
    assert moved == []
    assert (layers.state.trait_values(), {name: one.value for name, one in layers.controls.items()}) == before


def test_a_move_stops_what_is_drawn_ahead_and_the_picture_is_right(layers, monkeypatch):
    monkeypatch.setattr(explorer_base, "REST", 0.0)
    monkeypatch.setattr(explorer_base, "BREATH", 0)
    layers.picture.viewed = True
    left = []

    async def moves():
        for channel in range(1, 8):
            layers.state.channel = channel
            left.append(layers._refining)
            for _ in range(channel):  # stopped after another panel each time
                await asyncio.sleep(0)
        layers.state.layer = 0
        await layers._refining
        assert all(task.cancelled() for task in left)

    asyncio.run(moves())
    assert layers.error.value == ""
    anew = canvas.Canvas(layers._panels, scale=2)
    assert (pixels(layers.picture.value) == pixels(anew.png(layers.state.scene()))).all()


def test_an_error_of_what_is_drawn_at_rest_is_told(layers, monkeypatch):
    monkeypatch.setattr(layers, "_others", lambda: (_ for _ in ()).throw(RuntimeError("no memory left")))
    rest(layers, monkeypatch, lambda: setattr(layers.state, "channel", 3))
    assert "no memory left" in layers.error.value


def test_a_closed_explorer_draws_nothing_more(models, monkeypatch):
    explorer = ecaviz.LayerExplorer(models, Drawn())

    explorer.picture.viewed = True

    async def close():
        explorer.state.channel = 3
        task = explorer._refining
        explorer.close()
        await asyncio.sleep(0.01)
        assert task.cancelled()

    asyncio.run(close())


def test_values_ahead_of_a_slider_of_numbers_have_the_keys_that_moves_give(rule, monkeypatch):
    sent = Sent(rule.picture, monkeypatch)
    rest(rule, monkeypatch, lambda: setattr(rule.state, "b", 0.5))
    count = len(sent.frames)
    for gamma in (1.75, 2.5):
        rule.controls["gamma"].value = gamma
        assert rule.picture.now() in sent.frames
    assert len(sent.frames) == count, "a frame was drawn under another key"


def test_the_frames_about_the_control_that_was_moved_are_drawn_too(layers, monkeypatch):
    sent = Sent(layers.picture, monkeypatch)
    rest(layers, monkeypatch, lambda: layers.controls["channel"].set_trait("value", 20))
    png = canvas.Canvas.png
    for channel in (21, 20, 19, 24):
        monkeypatch.setattr(canvas.Canvas, "png", lambda self, scene: pytest.fail("it was drawn ahead"))
        layers.controls["channel"].value = channel
        monkeypatch.setattr(canvas.Canvas, "png", png)
        anew = canvas.Canvas(layers._panels).png(layers.state.scene())
        assert (pixels(sent.frames[layers.picture.key]) == pixels(anew)).all()
        assert f"channel {channel}" in layers.caption.value
    assert layers.error.value == ""


def test_a_channel_that_a_layer_lacks_gives_no_frame_under_a_wrong_key(layers, monkeypatch):
    layers.state.layer = len(layers.state.names) - 1
    layers.state.channel = layers.state.channels - 1  # earlier layers have fewer: the channel follows
    sent = Sent(layers.picture, monkeypatch)
    rest(layers, monkeypatch, lambda: layers.controls["layer"].set_trait("value", layers.state.layer - 1))
    for layer in range(len(layers.state.names)):
        layers.state.layer = layer
        anew = canvas.Canvas(layers._panels).png(layers.state.scene())
        assert (pixels(sent.frames[layers.picture.key]) == pixels(anew)).all(), layer


def test_what_cannot_be_drawn_ahead_is_told_when_it_is_asked_for(monkeypatch):
    explorer = ecaviz.CoverageExplorer((), channels=(16, 32), sizes=(1, 3), reductions=(4, 8, 64))
    sent = Sent(explorer.picture, monkeypatch)
    rest(explorer, monkeypatch, lambda: explorer.controls["r"].set_trait("value", 4 if explorer.state.r == 8 else 8))
    assert explorer.error.value == "", "an error that nobody caused"
    assert len(sent.frames) > 2, "one that failed stopped the others"
    explorer.controls["r"].value = 64
    assert "hidden" in explorer.error.value
    explorer.close()


def test_a_picture_from_elsewhere_does_not_mix_with_what_is_drawn_ahead(layers, monkeypatch):
    monkeypatch.setattr(explorer_base, "REST", 0.0)
    monkeypatch.setattr(explorer_base, "BREATH", 0)
    layers.picture.viewed = True
    sent = Sent(layers.picture, monkeypatch)

    async def moves():
        layers.controls["channel"].value = 3
        other = copy.copy(layers.state)
        other.shown = "image"
        for _ in range(60):
            await asyncio.sleep(0.002)
            if len(sent.frames) > 2:
                layers.drawn(other)
        if layers._refining is not None:
            await layers._refining

    asyncio.run(moves())
    for layer in range(len(layers.state.names)):
        layers.state.layer = layer
        anew = canvas.Canvas(layers._panels).png(layers.state.scene())
        assert (pixels(sent.frames[layers.picture.key]) == pixels(anew)).all(), layer


def test_without_a_browser_nothing_is_drawn_at_rest(layers):
    async def move():
        layers.state.channel = 4
        assert layers._refining is None

    asyncio.run(move())


def test_a_number_beyond_its_slider_is_no_other_number(models):
    explorer = ecaviz.KernelExplorer(models[1:], Drawn())
    explorer.state.mode = "random"
    pictures = {}
    for draw in (25, 19):
        explorer.state.draw = draw
        pictures[draw] = explorer.picture.value
        assert explorer.controls["draw"].value == draw
    explorer.controls["draw"].value = 25
    assert explorer.picture.value == pictures[25] != pictures[19]
    explorer.close()


def test_a_control_goes_back_where_a_move_is_refused(layers, monkeypatch):
    monkeypatch.setattr(layers.controls["image"], "max", 99)
    key = layers.picture.key
    layers.controls["image"].value = 50
    assert "image: 50 is not among 0 to 11" in layers.error.value
    assert layers.controls["image"].value == layers.state.image == 0
    assert layers.picture.now() == key


def test_a_loop_that_is_gone_takes_no_move_with_it(layers):
    layers.picture.viewed = True

    async def move():
        layers.state.channel = 5

    loop = asyncio.new_event_loop()
    loop.run_until_complete(move())
    loop.close()
    before = layers.picture.value
    layers.state.channel = 6
    assert layers.error.value == ""
    assert layers.picture.value != before


def test_closing_lets_go_of_pictures_and_widgets(models):
    explorer = ecaviz.LayerExplorer(models, Drawn())
    explorer.close()
    assert not explorer._canvases
    assert not explorer.picture._sent
    assert all(one.comm is None for one in (*explorer.controls.values(), *explorer.tools.values(), explorer.picture))


def test_where_other_controls_follow_a_move_nothing_is_drawn_ahead(models, monkeypatch):
    explorer = ecaviz.CoverageExplorer(models, Drawn())
    sent = Sent(explorer.picture, monkeypatch)
    rest(explorer, monkeypatch, lambda: explorer.controls["layer"].set_trait("value", 0))
    frames = dict(sent.frames)
    for layer in range(len(explorer.state.names)):  # C follows the layer
        explorer.state.layer = layer
        anew = canvas.Canvas(explorer._panels).png(explorer.state.scene())
        if explorer.picture.now() in frames:
            assert (pixels(frames[explorer.picture.now()]) == pixels(anew)).all()
        if layer:
            assert (pixels(explorer.picture.value) == pixels(anew)).all()
    explorer.close()


def test_a_network_that_takes_long_is_not_run_ahead(models, monkeypatch):
    explorer = ecaviz.KernelExplorer(models[1:], Drawn())
    asked = []
    answer = type(explorer.state).answer
    monkeypatch.setattr(
        type(explorer.state), "answer", lambda state: asked.append(state.k) or answer(state), raising=True
    )
    for took, some in ((10.0, False), (0.0, True)):
        del asked[:]
        monkeypatch.setattr(explorer, "_took", took)
        explorer.state._answers.clear()
        explorer.picture.clear()

        async def moves(k, took):
            explorer.controls["k"].value = k
            await asyncio.sleep(3 * explorer.pause)
            explorer._took = took
            await asyncio.wait_for(explorer._refining, 20)

        explorer.picture.viewed = True
        monkeypatch.setattr(explorer_base, "REST", 3 * explorer.pause)
        asyncio.run(moves(9 if some else 7, took))
        assert (len(set(asked)) > 1) == some
    explorer.close()


# ------------------------------------------------------------------------------------------------- files and the table


MAKE = {
    "layers": lambda models: ecaviz.LayerExplorer(models, Drawn()),
    "kernel": lambda models: ecaviz.KernelExplorer(models[1:], Drawn()),
    "coverage": lambda models: ecaviz.CoverageExplorer(models, Drawn()),
    "theory": lambda models: ecaviz.CoverageExplorer(()),
    "modules": lambda models: ecaviz.ModuleExplorer(),
    "rule": lambda models: ecaviz.RuleExplorer(models[1:]),
    "picture": lambda models: ecaviz.PictureExplorer(models[0], None, Drawn()),
}


@pytest.fixture(scope="module", params=MAKE)
def explorer(request, models):
    explorer = MAKE[request.param](models)
    yield explorer
    explorer.close()


def test_picture_and_numbers_are_saved(explorer, tmp_path):
    wide = imread(explorer.save(tmp_path / "a.png")).shape[1]
    assert wide == pytest.approx(2 * explorer.picture.width, abs=2)
    assert "<svg" in explorer.save(tmp_path / "a.svg").read_text("utf-8")
    assert explorer.save(str(tmp_path / "a.PDF")).read_bytes().startswith(b"%PDF")
    table = pd.read_csv(explorer.save(tmp_path / "a.csv"))
    assert table.columns.tolist() == explorer.table().columns.tolist()
    assert len(table) == len(explorer.table()) > 1
    with pytest.raises(ValueError, match=r"\.csv was expected, got \.gif"):
        explorer.save(tmp_path / "a.gif")
    with pytest.raises(ValueError, match="got none"):
        explorer.save(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.PDF", "a.csv", "a.png", "a.svg"]


@pytest.mark.parametrize(("kind", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("csv", b"")])
def test_a_button_has_the_browser_save_a_file(explorer, monkeypatch, kind, head):
    sent = Sent(explorer.picture, monkeypatch)
    ids = set()
    for _ in range(2):
        explorer.tools[kind].click()
        content, (data,) = sent.last
        ids.add(content["id"])
        assert content["save"].endswith(f"-explorer.{kind}")
        assert content["type"] == explorer_base.KINDS[kind]
        assert data.startswith(head)
    assert len(ids) == 2
    assert explorer.error.value == ""


def test_the_table_is_under_the_picture_where_it_is_asked_for(explorer):
    assert explorer.numbers.value == ""
    explorer.tools["numbers"].value = True
    for column in explorer.table().columns:
        assert f"<th>{column}</th>" in explorer.numbers.value
    explorer.tools["numbers"].value = False
    assert explorer.numbers.value == ""


def test_the_numbers_of_layers_are_the_gates(layers):
    layers.state.layer, layers.state.shown, layers.state.image = 3, "image", 5
    table = layers.table()
    for name in (layers.state.left, layers.state.right):
        reading = layers.state.readings[name]
        part = table[(table["model"] == name) & (table["of"] == "this image")].sort_values("channel")
        site = reading.names[3]
        assert (part["site"] == site).all()
        np.testing.assert_array_equal(part["gate"], reading.gates[site][5])
        mean = table[(table["model"] == name) & (table["of"] == "mean of all")]["gate"]
        np.testing.assert_allclose(mean, reading.gates[site].mean(axis=0), atol=1e-6)


def test_the_numbers_of_a_surgery_are_those_of_the_kernel_and_the_network(models):
    explorer = MAKE["kernel"](models)
    explorer.state.k = 3
    table, state = explorer.table(), explorer.state
    weights = table[table["quantity"] == "weight"].set_index("at")
    learned = state.scene().kernel
    assert learned.size == 5
    np.testing.assert_allclose(weights["before"].to_numpy(float), learned)
    np.testing.assert_allclose(weights.loc[[-1, 0, 1], "after"].to_numpy(float), learned[1:4])
    assert weights.loc[[-2, 2], "after"].isna().all()
    gates = table[table["quantity"] == "gate"]
    np.testing.assert_allclose(gates["before"].to_numpy(float), state.reading.gates[state.name][state.image], atol=1e-6)
    assert (gates["before"] != gates["after"]).any()
    chances = table[table["quantity"] == "probability"]
    assert chances["before"].dropna().iloc[0] == pytest.approx(state.scene().classes[0][1])
    explorer.close()


def test_the_numbers_of_coverage_are_those_of_the_matrix(models):
    explorer = MAKE["coverage"](models)
    explorer.state.layer, explorer.state.k, explorer.state.channel = 0, 3, 4
    table = explorer.table()
    eca = table[table["of"] == "ECA, k=3"].set_index("channel")["allowed"].astype(bool)
    assert eca[eca].index.tolist() == [3, 4, 5]
    trained = table.dropna(subset="J")
    np.testing.assert_array_equal(trained["J"], explorer.state.site.row(4))
    explorer.close()


# ------------------------------------------------------------------------------------------------------ light and dark


def corner(png: bytes) -> tuple:
    return Image.open(io.BytesIO(png)).convert("RGBA").getpixel((1, 1))


def test_margins_are_transparent_in_the_notebook_and_paper_in_files(layers, tmp_path):
    for dark, paper in ((False, themes.LIGHT.paper), (True, themes.DARK.paper)):
        layers.tools["dark"].value = dark
        assert layers.picture.dark == dark
        assert corner(layers.picture.value)[3] == 0
        kept = base64.b64decode(layers._repr_mimebundle_()["image/png"])
        rgb = tuple(round(255 * part) for part in to_rgb(paper))
        assert corner(kept) == (*rgb, 255)
        assert corner(layers.save(tmp_path / "a.png").read_bytes()) == (*rgb, 255)


def test_the_look_follows_the_page_and_the_button(layers):
    assert layers.theme == "light"
    layers.picture.page_dark = True
    assert (layers.theme, layers.picture.dark) == ("dark", True)
    dark = layers.picture.value
    layers.tools["dark"].value = False
    assert layers.theme == "light"
    assert (pixels(layers.picture.value) != pixels(dark)).any()
    layers.tools["dark"].value = True
    assert layers.picture.value == dark


def test_dark_pictures_say_the_same_as_light_ones(layers):
    light = layers.state.describe(), layers.table()
    layers.tools["dark"].value = True
    assert layers.caption.value == light[0]
    pd.testing.assert_frame_equal(layers.table(), light[1])


def test_a_screen_has_nothing_of_the_network_in_it():
    text = "".join(str(part) for part in (Screen._esm, Screen._css))
    assert "render" in text
    for forbidden in ("http:", "https:", "import(", "eval(", "innerHTML"):
        assert forbidden not in text
