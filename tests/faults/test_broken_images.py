"""Image files that are broken or odd, folders that are, and tensors that are no images."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import flipped, open_folder, seeds, someone_else
from PIL import EpsImagePlugin, Image
from recorder import CLEAR, LEFT_OUT, SAME, case
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ecaviz
from ecaviz import attention, images
from ecaviz.image_files import decoded
from ecaviz.picture_state import decoded_from
from ecaviz.profiles import profile
from ecaviz.training_sets import SETS

GROUP = "Image files"
SEEN = 16
"""Side of what the network of these tests sees."""


class Net(nn.Module):
    """One site."""

    def __init__(self):
        super().__init__()
        self.stem, self.eca = nn.Conv2d(3, 8, 3, stride=2), attention.ECA(8, 3)

    def forward(self, x):
        return self.eca(self.stem(x)).mean((2, 3))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    transform = SETS["shapes"].transform()  # shorter side, centre, normalised: as all models have it
    return ecaviz.load(Net(), transform=transform, device="cpu")


def picture(seed=0, size=(SEEN, SEEN), mode="RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def good(folder, count=3):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        picture(number).save(folder / f"good{number}.png")
    return folder


def passed(model, folder):
    """A profile of a folder, and what was said of the files that were left out."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = profile(model, folder, progress=False)
    return found, " ".join(str(one.message) for one in caught if "skipped" in str(one.message))


@pytest.fixture
def check(outcomes, model, tmp_path):
    """Checks a folder of three good images and some bad ones: these are left out, counted and named, the rest stays."""
    outcomes.watch(model.net)
    folder = good(tmp_path / "pictures")
    whole, said = passed(model, folder)
    assert said == ""

    def check_(bad, reason="", times=1):
        """``bad``: names of the bad files; ``reason``: what is said of each, a part of it."""
        with outcomes.undisturbed():
            found, said = passed(model, folder)
        assert torch.equal(found.mean("eca"), whole.mean("eca"))
        assert (found.n, found.positions) == (3, 3 + len(bad))
        assert sorted(name for name, _ in found.skipped) == sorted(bad)
        assert all(reason in why and why.strip() and str(folder) not in why for _, why in found.skipped), found.skipped
        assert f"{len(bad)} file(s)" in said
        outcomes.happened(LEFT_OUT, times)

    return folder, check_


def contents(image, kind, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


FORMATS = {
    "PNG": {},
    "JPEG": {"quality": 90},
    "JPEG progressive": {"quality": 90, "progressive": True},
    "GIF": {},
    "BMP": {},
    "TIFF": {},
    "WebP": {"lossless": True},
}


@pytest.mark.parametrize("kind", FORMATS)
@case(GROUP, "JPEG, PNG, GIF, BMP, TIFF and WebP cut off at every sixteenth of their length", expected=LEFT_OUT)
def test_cut_off(check, kind):
    folder, left_out = check
    whole = contents(picture(9, (40, 40)), kind.split()[0], **FORMATS[kind])
    names = []
    for number in range(1, 16):
        names.append(f"cut{number:02}.{kind.split()[0].lower()}")
        (folder / names[-1]).write_bytes(whole[: len(whole) * number // 16])
    left_out(names, times=len(names))


def check_changed(outcomes, folder, kind, seeds):
    path = folder / f"a.{kind.lower()}"
    whole = contents(picture(9, (40, 40)), kind)
    path.write_bytes(whole)
    right, _ = images.folder(folder)[0]
    for seed in seeds:
        path.write_bytes(flipped(whole, seed))
        with warnings.catch_warnings(action="ignore"):  # Pillow warns of some damage
            outcomes.attempt(
                lambda: images.folder(folder)[0][0],
                images.ImageReadError,
                path,
                same=lambda image: torch.equal(image, right),
                otherwise=None if kind == "PNG" else "another image: the format has no checksum",
                unnoticed="the pixels that were changed",
            )


@pytest.mark.parametrize("seeds", seeds(60, 3000))
@case(
    GROUP,
    "bits, bytes or runs of 16 bytes of a PNG changed",
    expected=f"{CLEAR} of the kind by which files are left out, or {SAME}",
)
def test_changed_png(outcomes, tmp_path, seeds):
    check_changed(outcomes, tmp_path, "PNG", seeds)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WebP"])
@pytest.mark.parametrize("seeds", seeds(30, 1000))
@case(
    GROUP,
    "bits, bytes or runs of 16 bytes of JPEG, GIF and WebP changed (they have no checksum)",
    expected=f"{CLEAR} of the kind by which files are left out; or an image",
)
def test_changed(outcomes, tmp_path, kind, seeds):
    check_changed(outcomes, tmp_path, kind, seeds)


@case(
    GROUP,
    "text, an empty file, a web page, a git-lfs pointer and an SVG, named .png; a folder named .png",
    expected=LEFT_OUT,
)
def test_no_images(check):
    folder, left_out = check
    for name, content in {
        "text.png": b"this is no image\n" * 9,
        "empty.png": b"",
        "page.png": b"<!DOCTYPE html><html>404</html>",
        "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 102\n",
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()  # without images: no class
    left_out(["text.png", "empty.png", "page.png", "pointer.png", "drawing.png"], times=5)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n(any file) (r) file\nshowpage\n%%EOF\n"


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A file that is there once the program was started with which Pillow reads PostScript."""
    if os.name == "nt":
        pytest.skip("the stand-in is a shell script")
    place, started = tmp_path / "programs", tmp_path / "started"
    place.mkdir()
    (place / "gs").write_text(f"#!/bin/sh\necho \"$@\" >> '{started}'\n")
    (place / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # whether it is there is looked up once
    return started


@case(
    GROUP,
    "PostScript named .png, .jpg and .tif, in a folder, as one picture and uploaded, with Ghostscript at hand",
    expected=f"{LEFT_OUT}, or {CLEAR}; no program is started",
)
def test_postscript(outcomes, check, tmp_path, ghostscript):
    folder, left_out = check
    names = ["a.png", "b.jpg", "c.tif"]
    for name in names:
        (folder / name).write_bytes(POSTSCRIPT)
    left_out(names, "none of the formats BMP, GIF, JPEG, PNG", times=len(names))
    for name in names:
        with outcomes.clear_error(images.ImageReadError, folder / name, "none of the formats .*PNG"):
            decoded_from(folder / name)
        with outcomes.clear_error(images.ImageReadError, name, "none of the formats .*PNG"):
            decoded(io.BytesIO(POSTSCRIPT), Path(name))
    assert not ghostscript.exists(), ghostscript.read_text()
    with Image.open(folder / "a.png") as image, pytest.raises(OSError, match=r"gs|Ghostscript|image"):
        image.load()  # the stand-in is what Pillow itself would start
    assert ghostscript.exists()


@case(GROUP, "PNG, JPEG, GIF and WebP, each named .jpg and .bmp", expected="the image")
def test_other_format_than_the_name_says(outcomes, tmp_path):
    for kind in ("PNG", "JPEG", "GIF", "WebP"):
        content = contents(Image.new("RGB", (16, 16), "white"), kind)
        for ending in ("jpg", "bmp"):
            path = tmp_path / f"a.{ending}"
            path.write_bytes(content)
            found, _ = images.folder(tmp_path)[0]
            assert torch.equal(found, torch.full((3, 16, 16), 255, dtype=torch.uint8)), (kind, ending)
            path.unlink()
            outcomes.happened("the image")


def png(width, height, data=b"", *, deflated=False) -> bytes:
    """A PNG that claims a size, whatever its data; these may be deflated already."""
    data = data if deflated else zlib.compress(data)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@case(GROUP, "decompression bombs: PNGs that claim 400 million to 10¹⁸ pixels", expected=LEFT_OUT)
def test_bombs(check):
    folder, left_out = check
    (folder / "bomb1.png").write_bytes(png(20_000, 20_000))
    (folder / "bomb2.png").write_bytes(png(2**31 - 1, 2**31 - 1))
    (folder / "bomb3.png").write_bytes(png(2**31 - 1, 1))
    left_out(["bomb1.png", "bomb2.png", "bomb3.png"], times=3)


@case(
    GROUP,
    "a PNG of 519 kB with 20,000 × 8,900 pixels, which would take 2.4 GB",
    expected=f"{LEFT_OUT}: above Pillow's limit of 89 million pixels, which can be raised",
)
def test_large(outcomes, check, tmp_path, monkeypatch):
    folder, left_out = check
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + 3 * 20_000)) for _ in range(8_900)) + rows.flush()
    (folder / "large.png").write_bytes(png(20_000, 8_900, data, deflated=True))
    assert 500_000 < (folder / "large.png").stat().st_size < 540_000
    left_out(["large.png"], "it has 20,000 × 8,900 pixels; at most 89,478,485 are taken (PIL.Image.MAX_IMAGE_PIXELS)")
    one = tmp_path / "one"
    one.mkdir()
    picture().save(one / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SEEN * SEEN - 1)
    with outcomes.clear_error(images.ImageReadError, one / "a.png", "it has 16 × 16 pixels; at most 255 are taken"):
        images.folder(one)[0]
    for raised in (SEEN * SEEN, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", raised)
        assert images.folder(one)[0][0].shape == (3, SEEN, SEEN)
        outcomes.happened("taken as an image, with the limit raised")


@case(GROUP, "PNGs that claim 0 pixels, and images of one pixel", expected=f"{LEFT_OUT}; one pixel is an image")
def test_smallest(outcomes, check, model, tmp_path):
    folder, left_out = check
    (folder / "a.png").write_bytes(png(0, 0))
    (folder / "b.png").write_bytes(png(0, 5))
    left_out(["a.png", "b.png"], times=2)
    one = tmp_path / "one"
    one.mkdir()
    Image.new("RGB", (1, 1), "red").save(one / "dot.png")
    Image.new("L", (1, 1), 7).save(one / "grey.png")
    found, said = passed(model, one)
    assert (found.n, said) == (2, "")
    assert torch.isfinite(found.mean("eca")).all()
    outcomes.happened("taken as an image", 2)


@pytest.mark.parametrize("height", [1, 2, 30, 300])
@case(
    GROUP,
    "images 20,000 pixels wide and 1 to 300 high",
    expected=f"taken as images; {LEFT_OUT} where the longer side is over a thousand times the shorter",
)
def test_wide(outcomes, check, model, tmp_path, height):
    folder, left_out = check
    Image.linear_gradient("L").resize((20_000, height)).save(folder / "wide.png")
    if height < 20:
        left_out(["wide.png"], "its sides are as 1 to")
        return
    found, said = passed(model, folder)
    assert (found.n, said) == (4, "")
    outcomes.happened("taken as an image")


ODD = {
    "16 bits": lambda: Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257),
    "32 bits": lambda: Image.fromarray(np.arange(256, dtype=np.int32).reshape(16, 16) * 257),
    "1 bit": lambda: picture(mode="1"),
    "palette": lambda: picture(mode="P"),
    "grey with alpha": lambda: picture(mode="LA"),
    "alpha": lambda: picture(mode="RGBA"),
    "CMYK": lambda: picture(mode="CMYK"),
    "YCbCr": lambda: picture(mode="YCbCr"),
    "LAB": lambda: picture(mode="LAB"),
    "HSV": lambda: picture(mode="HSV"),
}


@case(GROUP, "16 and 32 bits, 1 bit, palettes, alpha, CMYK, YCbCr, LAB, HSV", expected="images in RGB, of known pixels")
def test_modes(outcomes, tmp_path):
    for what, make in ODD.items():
        image = make()
        kind = {"CMYK": "TIFF", "YCbCr": "TIFF", "LAB": "TIFF", "32 bits": "TIFF", "HSV": None}.get(what, "PNG")
        if kind is None:  # no file has it; datasets give such images
            found = next(iter(images.batches([image], lambda x: torch.as_tensor(np.array(x)).permute(2, 0, 1) / 255)))
            found = (found[0][0] * 255).round().to(torch.uint8)
        else:
            # Pillow up to 11 cannot read what it wrote of YCbCr, unless libtiff compresses it.
            options = {"compression": "tiff_lzw"} if what == "YCbCr" else {}
            image.save(tmp_path / "a.tif" if kind == "TIFF" else tmp_path / "a.png", **options)
            found, _ = images.folder(tmp_path)[0]
            for file in tmp_path.iterdir():
                file.unlink()
        if "bits" in what:
            expected = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), (16, 16, 3))
        elif "alpha" in what:
            white = Image.new("RGBA", image.size, "white")
            expected = np.array(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
        elif what == "LAB":
            expected = found.permute(1, 2, 0).numpy()  # by a colour profile of Pillow's own
        else:
            expected = np.array(image.convert("RGB"))
        assert found.shape == (3, 16, 16), what
        assert np.abs(found.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1, what
        outcomes.happened("an image in RGB")


@case(GROUP, "animated GIF, WebP and PNG, and a TIFF of several pages", expected="the first frame")
def test_animated(outcomes, tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    for kind, options in (
        ("gif", {"duration": 40}),
        ("webp", {"duration": 40, "lossless": True}),
        ("png", {"duration": 40}),
        ("tif", {}),
    ):
        path = tmp_path / f"a.{kind}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        with outcomes.undisturbed():
            found, _ = images.folder(tmp_path)[0]
        assert found.flatten(1).float().mean(1).tolist() == [255, 0, 0], kind
        path.unlink()
        outcomes.happened("the first frame")


# ------------------------------------------------------------------------------------------------------------- folders

FOLDERS = "Folders of images"


def linked(link, target):
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        pytest.skip("this system lets one make no links")


@case(
    FOLDERS,
    "loops of symbolic links: to itself, to the folder above, to each other, through another folder",
    expected="each image once",
)
def test_loops(outcomes, tmp_path):
    root = tmp_path / "root"
    for name in ("cats", "dogs", "elsewhere"):
        folder = tmp_path / "elsewhere" if name == "elsewhere" else root / name
        folder.mkdir(parents=True)
        picture(len(name)).save(folder / f"{name}.png")
    expected = ["cats.png", "dogs.png"]

    def check_(*links, more=()):
        for link, target in links:
            linked(link, target)
        with outcomes.undisturbed():
            found = images.folder(root)
        assert sorted(path.name for path in found.paths) == sorted([*expected, *more])
        assert found.classes == ("cats", "dogs")
        for link, _ in links:
            link.unlink()
        outcomes.happened("each image once")

    check_((root / "cats" / "self", root / "cats"))
    check_((root / "cats" / "up", root))
    check_((root / "loop", root))
    check_((root / "cats" / "me", root / "cats" / "me"))
    away = tmp_path / "elsewhere"
    check_((root / "cats" / "away", away), (away / "back", root), more=["elsewhere.png"])
    check_((root / "cats" / "away", away), (away / "back", root / "cats"), more=["elsewhere.png"])
    check_((root / "cats" / "away", away), (away / "again", away), more=["elsewhere.png"])
    deep, deeper = tmp_path / "deep", tmp_path / "deeper"
    deep.mkdir(), deeper.mkdir()
    picture(1).save(deep / "deep.png")
    picture(2).save(deeper / "deeper.png")
    check_(
        (root / "cats" / "deep", deep),
        (deep / "deeper", deeper),
        (deeper / "deep", deep),
        (deep / "back", tmp_path),
        more=["deep.png", "deeper.png"],
    )


NAMES = ("猫", "собака", "قطة", "ζώο", "naïve", "nai\u0308ve", "a b", "🐈", "it's", "q?*[x]", "-dash", "x" * 200)


@case(
    FOLDERS,
    "names in other scripts, decomposed, with spaces, quotes, wildcards, emoji, of 200 letters",
    expected="all are read and keep their names",
)
def test_names(outcomes, model, tmp_path):
    if os.name == "nt":
        pytest.skip("Windows allows fewer names")
    root = tmp_path / "bilder"
    for number, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        picture(number).save(root / name / f"{name}.png")
    with outcomes.undisturbed():
        found = images.folder(root)
    assert set(found.classes) == set(NAMES)
    assert {path.stem for path in found.paths} == set(NAMES)
    made = profile(model, found, by="class", progress=False)
    assert (made.n, len(made.skipped)) == (len(NAMES), 0)
    path = made.save(tmp_path / f"{NAMES[0]}.profile")
    assert ecaviz.AttentionProfile.load(path).classes == made.classes
    outcomes.happened("read, by its name", len(NAMES))


@case(FOLDERS, "a name that is no text (bytes that are no UTF-8)", expected="it is read, or left out and named")
def test_names_that_are_no_text(outcomes, model, tmp_path):
    folder = good(tmp_path / "pictures")
    try:
        os.rename(os.fsencode(folder / "good1.png"), os.fsencode(folder) + b"/\xff\xfe.png")
    except OSError:
        pytest.skip("this system allows no such names")
    (folder / "\udcf0bad.png").write_bytes(b"words")
    with outcomes.undisturbed():
        found, said = passed(model, folder)
    assert found.n == 3
    assert "1 file(s)" in said
    path = found.save(tmp_path / "p.profile")
    assert ecaviz.AttentionProfile.load(path).skipped == found.skipped
    outcomes.happened("read; one that is no image is left out, counted and named")


@case(FOLDERS, "hidden files and folders, and those that systems leave behind", expected="passed over")
def test_hidden(outcomes, model, tmp_path):
    folder = good(tmp_path / "pictures")
    whole, _ = passed(model, folder)
    (folder / ".hidden.png").write_bytes(b"words")
    (folder / "._good0.png").write_bytes(b"\0\5\x16\7")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / ".thumbnails").mkdir()
    picture(1).save(folder / ".thumbnails" / "a.png")
    with outcomes.undisturbed():
        found, said = passed(model, folder)
    assert said == ""
    assert torch.equal(found.mean("eca"), whole.mean("eca"))
    assert (found.n, found.positions) == (3, 3)
    outcomes.happened("passed over", 5)


@case(FOLDERS, "a file, and a subfolder, that may not be read", expected=LEFT_OUT)
def test_unreadable_entries(outcomes, model):
    with open_folder() as folder:
        for name in ("cats", "dogs"):
            good(folder / name)
            (folder / name).chmod(0o755)
        (folder / "cats" / "more").mkdir()
        picture(7).save(folder / "cats" / "more" / "a.png")
        (folder / "cats" / "good1.png").chmod(0)
        passed(model, folder)
        outcomes.watch(folder, model.net)
        with someone_else(), outcomes.undisturbed():
            found, said = passed(model, folder)
        assert found.n == 6
        assert "good1.png" in said
        assert "ermission" in said
        outcomes.happened(LEFT_OUT)
        (folder / "cats" / "good1.png").chmod(0o644)
        for closed in ("cats/more", "dogs"):
            (folder / closed).chmod(0)
            with someone_else(), outcomes.undisturbed():
                found, said = passed(model, folder)
            assert (closed.split("/")[-1], found.n) in (("more", 6), ("dogs", 4))
            assert f"{closed.split('/')[-1]} (" in said
            assert "cannot be read: Permission denied" in said
            (folder / closed).chmod(0o755)
            outcomes.happened(LEFT_OUT)


@case(FOLDERS, "a folder that may not be read, is empty, missing, or a file", expected=CLEAR)
def test_no_folders(outcomes, model):
    with open_folder() as folder:
        outcomes.watch(folder, model.net)
        closed, empty, file = folder / "closed", folder / "empty", folder / "file.png"
        good(closed).chmod(0)
        empty.mkdir()
        picture().save(file)
        with someone_else(), outcomes.clear_error(PermissionError, closed, "may not be read", "chmod"):
            images.folder(closed)
        with outcomes.clear_error(ValueError, empty, "no image is in", "were expected"):
            images.folder(empty)
        with outcomes.clear_error(FileNotFoundError, folder / "none", "Check the path"):
            images.folder(folder / "none")
        with outcomes.clear_error(NotADirectoryError, file, "Name the folder it lies in"):
            images.folder(file)


# ------------------------------------------------------------------------------------------------------------- tensors

TENSORS = "Image tensors"


def given(kind, x):
    return {
        "tensor": lambda: x,
        "loader": lambda: DataLoader(TensorDataset(x), batch_size=3),
        "loader with labels": lambda: DataLoader(TensorDataset(x, torch.arange(len(x))), batch_size=3),
    }[kind]()


@pytest.mark.parametrize("kind", ["tensor", "loader", "loader with labels"])
@case(TENSORS, "one NaN or infinite pixel in ten images", expected=f"{CLEAR} that names the image")
def test_no_numbers(outcomes, model, kind):
    outcomes.watch(model.net)
    for value in (torch.nan, torch.inf, -torch.inf):
        for at in (0, 4, 9):
            x = torch.rand(10, 3, SEEN, SEEN)
            x[at, 2, -1, -1] = value
            with outcomes.clear_error(ValueError, f"image {at}", "NaN or infinite", "expected finite numbers"):
                profile(model, given(kind, x), batch_size=3, progress=False)


@case(TENSORS, "a transform that makes NaN of an image", expected=f"{CLEAR} that names the image")
def test_transforms_that_divide_by_zero(outcomes):
    torch.manual_seed(0)

    def standardised(image):
        image = image.float()
        return (image - image.mean()) / image.std()

    broken = ecaviz.load(Net(), transform=standardised, device="cpu")
    outcomes.watch(broken.net)
    pixels = torch.randint(256, (6, 3, SEEN, SEEN), dtype=torch.uint8)
    pixels[4] = 7
    for kind in (pixels, list(pixels)):
        with outcomes.clear_error(ValueError, "image 4", "NaN or infinite", "transform"):
            profile(broken, kind, batch_size=2, progress=False)


@case(TENSORS, "no images, no pixels, a number, one, two and four colours, five axes, booleans", expected=CLEAR)
def test_shapes(outcomes, model):
    outcomes.watch(model.net)
    for dtype in (torch.float32, torch.uint8):
        for shape in ((0, 3, SEEN, SEEN), (2, 3, 0, 0), (2, 3, SEEN, 0), (), (3,), (2, 1, SEEN, SEEN)):
            with outcomes.clear_error(ValueError, "images:", "xpected"):
                profile(model, torch.ones(shape, dtype=dtype), progress=False)
        for shape in ((2, 2, SEEN, SEEN), (2, 4, SEEN, SEEN), (2, SEEN, SEEN, 3), (2, 1, 3, SEEN, SEEN)):
            with outcomes.clear_error(ValueError, "images:", "xpected"):
                profile(model, torch.ones(shape, dtype=dtype), progress=False)
    for dtype in (torch.bool, torch.int64, torch.complex64):
        with outcomes.clear_error(ValueError, "images:", "xpected"):
            profile(model, torch.ones(2, 3, SEEN, SEEN, dtype=dtype), progress=False)


BEFORE = "what came before is kept"


@case(TENSORS, "an error in the middle of a pass that keeps a file", expected=f"{CLEAR}; {BEFORE}")
def test_what_came_before_is_kept(outcomes, model, tmp_path):
    x = torch.rand(10, 3, SEEN, SEEN)
    before = profile(model, x[:6], batch_size=3, progress=False)
    x[7, 0, 0, 0] = torch.nan
    outcomes.watch(model.net)
    path = tmp_path / "p"
    with outcomes.clear_error(ValueError, "image 7", "NaN", told=f"{CLEAR}; {BEFORE}", apart_from=path):
        profile(model, x, batch_size=3, checkpoint=path, progress=False)
    kept = ecaviz.AttentionProfile.load(path)
    assert kept.positions == 6
    assert torch.equal(kept.mean("eca"), before.mean("eca"))
    assert list(tmp_path.iterdir()) == [path]
