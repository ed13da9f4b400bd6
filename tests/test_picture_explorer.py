"""The PictureExplorer without a browser: one picture against a plain run of the network, and pictures that are none."""

from __future__ import annotations

import asyncio
import datetime
import io
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from planted import CLASSES, Planted, PlantedImages, transform
from test_explorers import Drawn, make, pixels

import ecaviz
from ecaviz import picture_state
from ecaviz.picture_explorer import UPLOAD
from ecaviz.picture_panels import NamedBars

pytestmark = pytest.mark.usefixtures("no_loop")


@pytest.fixture(scope="module")
def model():
    return ecaviz.load(Planted(), transform=transform, classes=CLASSES)


@pytest.fixture(scope="module")
def made(model):
    return ecaviz.PictureExplorer(model, images=PlantedImages(60))


@pytest.fixture
def explorer(made):
    made.state.image, made.state.site, made.state.own = 0, "", None
    made.error.value = ""
    return made


def truth(model, image):
    """Probabilities and gates of one image, the network run by itself."""
    with torch.no_grad(), ecaviz.capture(model) as gates:
        logits = model.net(transform(image)[None])
    return logits[0].double().softmax(0), {name: record.by_channel[0].numpy() for name, record in gates.items()}


def upload(explorer, content: bytes, name: str = "picture.png"):
    one = {"name": name, "type": "", "size": len(content), "content": memoryview(content)}
    explorer.upload.value = (one | {"last_modified": datetime.datetime.now(datetime.UTC)},)


def written(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


FRESH = PlantedImages(9, seed=5)


@pytest.mark.parametrize("i", [0, 1, 2])
def test_what_is_shown_is_what_the_network_gives(explorer, model, i):
    image = FRESH.images[i]
    explorer.show(image)
    shares, gates = truth(model, image)
    scene = explorer.state.scene()
    order = shares.argsort(descending=True).tolist()
    assert [name for name, _ in scene.classes] == [CLASSES[k] for k in order]
    assert [share for _, share in scene.classes] == pytest.approx(shares[order].tolist(), abs=1e-6)
    known = PlantedImages(60)
    with torch.no_grad(), ecaviz.capture(model) as captured:
        model.net(transform(known.images))
    for site, record in captured.items():
        assert scene.gates[site] == pytest.approx(gates[site], abs=1e-6)
        assert scene.differences[site] == pytest.approx(gates[site] - record.gate.mean(0).numpy(), abs=1e-5)
    assert scene.nearest[0][0] in explorer.caption.value
    table = ecaviz.nearest_classes(gates, explorer.state.profile, "late")
    explorer.state.site = "late"
    assert explorer.state.scene().nearest == list(zip(table["class"], table["distance"], strict=True))
    assert table["class"][0] == CLASSES[FRESH.labels[i]]


def test_every_way_to_give_a_picture_gives_the_same(explorer, tmp_path):
    image = Image.fromarray(FRESH.images[1].permute(1, 2, 0).numpy())
    image.save(tmp_path / "one.png")
    explorer.show(FRESH.images[1])
    expected = explorer.state.own.gates["late"]
    for give in (
        lambda: explorer.show(image),
        lambda: explorer.show(tmp_path / "one.png"),
        lambda: explorer.show(str(tmp_path / "one.png")),
        lambda: upload(explorer, written(image)),
    ):
        explorer.state.own = None
        give()
        assert np.array_equal(explorer.state.own.gates["late"], expected)
    assert explorer.error.value == ""
    assert explorer.upload.value == ()


def test_the_slider_and_the_layer_move_the_picture(explorer):
    first = pixels(explorer.picture.value)
    explorer.controls["image"].value = 7
    assert explorer.state.image == 7
    second = pixels(explorer.picture.value)
    assert np.abs(first - second).max() > 50
    assert "image 7" in explorer.caption.value
    explorer.controls["site"].value = "early"
    assert np.abs(pixels(explorer.picture.value) - second).max() > 50
    explorer.show(FRESH.images[2])
    assert "image 7" not in explorer.caption.value
    explorer.controls["image"].value = 8  # a move of the slider takes the own picture away
    assert explorer.state.own is None


def test_the_own_class_is_marked_where_it_is_known(explorer):
    assert explorer.state.scene().own == CLASSES[0]
    figure = explorer.figure()
    texts = [text.get_text() for part in figure.subfigs for ax in part.axes for text in ax.texts]
    assert [text for text in texts if text.startswith(f"★ {CLASSES[0]}  ")]
    explorer.show(FRESH.images[0])
    assert explorer.state.scene().own == ""


def test_the_figure_is_the_picture(explorer):
    explorer.show(FRESH.images[4])
    figure = explorer.figure()
    assert isinstance(figure, Figure)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert np.abs(pixels(file.getvalue()) - pixels(explorer.picture.value)).mean() < 2


# ------------------------------------------------------------------------------------------------ pictures of all kinds


def bomb() -> bytes:
    """A PNG that says it has 20,000 × 20,000 pixels, in a few bytes."""
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


GOOD = written(Image.fromarray(FRESH.images[1].permute(1, 2, 0).numpy()))
BAD = {
    "corrupt.png": (GOOD[:60], r"corrupt\.png cannot be read"),
    "empty.jpg": (b"", r"empty\.jpg cannot be read: the file is empty"),
    "letter.txt": (b"Dear reader,\n" * 20, r"letter\.txt cannot be read: none of the formats .* \(260 bytes\)"),
    "bomb.png": (bomb(), r"bomb\.png cannot be read: .*20,?000.*pixels|bomb\.png cannot be read: .*400000000 pixels"),
    "large.png": (
        written(Image.new("1", (8_000, 8_000))),
        r"large\.png cannot be read: it has 8,000 × 8,000 pixels; at most 50,000,000 are taken",
    ),
    "heavy.jpg": (b"\0" * (UPLOAD + 1), r"heavy\.jpg has 10\.0 MB; at most 10 MB are taken"),
    "<b>.png": (b"?", r"&lt;b&gt;\.png cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_said_in_words_and_the_earlier_one_stays(explorer, name):
    content, said = BAD[name]
    explorer.show(FRESH.images[3])
    picture, caption, own = explorer.picture.value, explorer.caption.value, explorer.state.own
    upload(explorer, content, name)
    assert re.search(said, explorer.error.value), explorer.error.value
    assert (explorer.picture.value, explorer.caption.value, explorer.state.own) == (picture, caption, own)
    assert explorer.upload.value == ()
    upload(explorer, GOOD)
    assert explorer.error.value == ""
    assert explorer.picture.value != picture


@pytest.mark.parametrize("name", [name for name in BAD if name not in ("heavy.jpg", "<b>.png")])
def test_from_python_it_is_an_error_of_its_own(explorer, tmp_path, name):
    (tmp_path / name).write_bytes(BAD[name][0])
    own = explorer.state.own
    with pytest.raises(ValueError, match=BAD[name][1]):
        explorer.show(tmp_path / name)
    assert explorer.state.own is own


def image_of(shade: int, mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (8, 8), (shade, 60, 200)).convert(mode)


def sixteen() -> Image.Image:
    return Image.fromarray(np.full((8, 8), 40 * 257, dtype=np.uint16))


KINDS = {
    "gif": (
        written(image_of(250), "GIF", save_all=True, append_images=[image_of(10), image_of(90)]),
        "first of 3 frames",
        (250, 60, 200),
        12,
    ),
    "cmyk": (written(image_of(120, "CMYK"), "JPEG", quality=100), "from CMYK", (120, 60, 200), 12),
    "16 bits": (written(sixteen()), "from I;16", (40, 40, 40), 0),
    "transparent": (written(Image.new("RGBA", (8, 8), (9, 9, 9, 0))), "from RGBA", (255, 255, 255), 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_unusual_files_are_handled_as_stated(explorer, model, kind):
    content, said, colour, tolerance = KINDS[kind]
    upload(explorer, content, "one")
    assert explorer.error.value == ""
    assert said in explorer.caption.value
    _, expected = truth(model, torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 8, 8))
    assert explorer.state.own.gates["late"] == pytest.approx(expected["late"], abs=1e-6 + 0.01 * tolerance)


def test_what_is_given_from_python_must_be_a_picture(explorer, tmp_path):
    for wrong, said in (
        (tmp_path / "nowhere.png", "no file"),
        (torch.zeros(3, 8, 8), "a float32 tensor 3×8×8"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "a uint8 tensor 2×3×8×8"),
        (np.zeros((8, 8, 3), np.uint8), "torch.from_numpy"),
        (5, "got a int"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            explorer.show(wrong)


# ------------------------------------------------------------------------------------------------------- what is made


def test_images_without_classes_have_no_nearest_class(model):
    explorer = ecaviz.PictureExplorer(model, images=PlantedImages(12).images)
    assert explorer.state.profile.by is None
    assert explorer.state.scene().nearest == []
    assert "no classes" in explorer.caption.value
    explorer.state.image = 3
    assert "image 3" in explorer.caption.value
    few = ecaviz.PictureExplorer(model, images=PlantedImages(3))
    assert "one image a class" in few.caption.value


def test_a_profile_is_taken_and_must_be_of_the_model(model):
    profile = ecaviz.profile(model, PlantedImages(90), by="class", progress=False)
    explorer = ecaviz.PictureExplorer(model, profile, PlantedImages(6))
    assert explorer.state.profile is profile
    assert "90 images" in explorer.caption.value
    with pytest.raises(ValueError, match="with other weights"):
        ecaviz.PictureExplorer(make("se", "se-4", reduction=4), profile, Drawn())


def test_a_file_of_the_set_that_cannot_be_read_is_refused(model, tmp_path):
    for i, (name, content) in enumerate((("a", GOOD), ("a", GOOD), ("b", GOOD), ("b", b"no picture"))):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{i}.png").write_bytes(content)
    with pytest.warns(UserWarning, match="3.png"):
        explorer = ecaviz.PictureExplorer(model, images=tmp_path)
    before = explorer.picture.value
    explorer.controls["image"].value = 3
    assert "3.png cannot be read" in explorer.error.value
    assert explorer.picture.value == before
    assert explorer.state.image == 0


def test_a_network_that_names_no_classes_and_one_without_transform(tmp_path):
    class Maps(Planted):
        def forward(self, x):
            return self.late(self.early(self.quarters(self.stem(x))))

    explorer = ecaviz.PictureExplorer(ecaviz.load(Maps(), transform=transform), images=PlantedImages(12))
    assert explorer.state.scene().classes == ()
    assert "it says" not in explorer.caption.value
    bare = ecaviz.PictureExplorer(ecaviz.load(Planted()), images=transform(PlantedImages(12).images))
    with pytest.raises(ValueError, match="needs a transform"):
        bare.show(FRESH.images[0])


def test_pictures_and_sets_that_are_too_large_or_none(explorer, model, monkeypatch):
    monkeypatch.setattr(picture_state, "PIXELS", 100)
    with pytest.raises(ValueError, match=r"a PIL image RGB 20×6 has more than 100 pixels"):
        explorer.show(Image.new("RGB", (20, 6)))
    explorer.show(Image.new("RGB", (20, 5)))
    for nothing in (torch.utils.data.DataLoader(PlantedImages(4)), []):
        with pytest.raises(ValueError, match=r"images must be a dataset.*of a DataLoader, give its dataset"):
            ecaviz.PictureExplorer(model, images=nothing)


def test_the_latest_images_are_kept_and_the_others_run_anew(model, monkeypatch):
    monkeypatch.setattr(picture_state, "KEPT", 3)
    state = ecaviz.PictureExplorer(model, images=PlantedImages(12)).state
    first = state.looked_at(0)
    for i in (1, 0, 2, 3):
        state.looked_at(i)
    assert state.looked_at(0) is first  # it was looked at again meanwhile
    ran = []
    hook = model.net.register_forward_pre_hook(lambda *_: ran.append(1))
    state.looked_at(3)
    assert ran == []
    state.looked_at(1)
    assert ran
    hook.remove()


def test_the_scale_of_gates_holds_nearly_all(made, model):
    with torch.no_grad(), ecaviz.capture(model) as captured:
        model.net(transform(PlantedImages(60).images))
    every = torch.cat([record.gate.flatten() for record in captured.values()])
    low, high = made.state.limits
    assert ((every >= low - 0.01) & (every <= high + 0.01)).double().mean() >= 0.985
    assert (low, high) == (0.5 - (high - 0.5), high)


def test_bars_are_as_long_as_their_numbers():
    view = NamedBars(Figure().subplots(), 3, "distance", "{:.2f}", letters=10)
    view.update([("a", 1.5), ("a very long name of a class", 3.0)], marked="a", title="two")
    assert [bar.get_width() for bar in view.bars] == [1.5, 3.0, 0]
    assert [text.get_text() for text in view.names] == ["★ a  1.50", "a ve…class  3.00", ""]
    assert view.ax.get_xlim() == (0, 5)
    view.update([], note="none")
    assert view.note.get_text() == "none"
    assert not view.ax.xaxis.get_visible()


def test_in_a_loop_the_picture_comes_before_what_the_network_says_of_it(explorer):
    explorer._took = float("inf")  # as if nothing was known of how long the network takes
    explorer.state._looked.clear()
    explorer.picture.clear()
    told = []
    explorer.picture.observe(lambda change: told.append(explorer.picture.partial), "value")

    async def moves():
        explorer.controls["image"].value = 5
        assert "the network is being run" in explorer.caption.value
        assert explorer.picture.partial
        glimpse = pixels(explorer.picture.value)
        assert (explorer.panels.photograph.image.get_array() == explorer.state._glimpse().seen).all()
        assert explorer.panels.gates.image.get_array().mask.all(), "gates are shown that nobody knows"
        explorer.controls["image"].value = 6  # before the network was run
        await asyncio.sleep(3 * explorer.pause)
        assert list(explorer.state._looked) == [6], "the network was run for a picture that is gone"
        assert "it says" in explorer.caption.value
        assert not explorer.picture.partial
        assert (pixels(explorer.picture.value) != glimpse).any()
        del told[:]
        explorer._took = 0.0  # a quick network is waited for
        explorer.controls["image"].value = 7
        assert told == [False]
        assert "it says" in explorer.caption.value

    asyncio.run(moves())
    explorer.picture.unobserve_all()
    assert explorer.error.value == ""
