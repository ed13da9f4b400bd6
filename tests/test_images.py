"""Image sets, and the contract that everything called ``images`` is held to."""

from __future__ import annotations

import _thread
import importlib.machinery
import importlib.util
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import socket
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from reading_processes import DEATHS, WORKERS
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from ecaviz import batches as batching
from ecaviz import images, items
from ecaviz.image_files import FORMATS
from ecaviz.shapes import normalise


def pictures(n=5, size=(8, 8), seed=0):
    return torch.randint(0, 256, (n, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def write(path, image=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    (pil(pictures(1)[0]) if image is None else image).save(path)
    return path


def everything(stream):
    """All batches joined: x, labels (or None), and the sizes of the batches."""
    parts = list(stream)
    labels = None if parts[0][1] is None else torch.cat([labels for _, labels in parts])
    return torch.cat([x for x, _ in parts]), labels, [len(x) for x, _ in parts]


class Labelled(Dataset):
    """(image, label) of any kind of image."""

    def __init__(self, items, labels=None):
        self.items = items
        self.numbers = range(len(items)) if labels is None else labels

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index], self.numbers[index]


# ------------------------------------------------------------------------------------------------------ what is taken


def as_pil_list(x):
    return [pil(image) for image in x]


def to_normalised(image):
    """Takes a PIL image or a uint8 tensor, one at a time."""
    if not isinstance(image, torch.Tensor):
        image = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return normalise(image)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda x: x, id="uint8 tensor"),
        pytest.param(list, id="list of uint8 tensors"),
        pytest.param(as_pil_list, id="list of PIL images"),
        pytest.param(lambda x: Labelled(list(x)), id="dataset of uint8 tensors"),
        pytest.param(lambda x: Labelled(as_pil_list(x)), id="dataset of PIL images"),
        pytest.param(TensorDataset, id="TensorDataset without labels"),
        pytest.param(lambda x: TensorDataset(x, torch.arange(len(x))), id="TensorDataset"),
        pytest.param(lambda x: Subset(Labelled(list(x)), range(len(x))), id="Subset"),
        pytest.param(normalise, id="float tensor"),
        pytest.param(lambda x: DataLoader(normalise(x), batch_size=2), id="DataLoader"),
        pytest.param(
            lambda x: DataLoader(TensorDataset(normalise(x)), batch_size=2), id="DataLoader of TensorDataset of one"
        ),
        pytest.param(
            lambda x: DataLoader(TensorDataset(normalise(x), torch.arange(len(x))), batch_size=2),
            id="DataLoader, labels",
        ),
    ],
)
def test_every_kind_of_images_gives_the_same_batches(make):
    x = pictures()
    stream = images.batches(make(x), to_normalised, batch_size=2)
    got, labels, sizes = everything(stream)
    assert torch.equal(got, normalise(x))
    assert sizes == [2, 2, 1]
    assert stream.total == stream.passed == 5
    assert labels is None or (labels.dtype == torch.int64 and labels.tolist() == [0, 1, 2, 3, 4])
    assert everything(stream)[2] == sizes  # and once more


def test_labels_are_yielded_where_items_have_them():
    x = pictures()
    assert everything(images.batches(Labelled(list(x)), normalise))[1].tolist() == [0, 1, 2, 3, 4]
    assert everything(images.batches(list(x), normalise))[1] is None
    numbers = [torch.tensor(3), np.int64(1), 4, torch.tensor([2]), np.array(0)]
    assert everything(images.batches(Labelled(list(x), numbers), normalise))[1].tolist() == [3, 1, 4, 2, 0]
    assert everything(images.batches(Labelled(list(x), ["a", "b", "c", "d", "e"]), normalise))[1] is None
    loader = DataLoader(TensorDataset(normalise(x), torch.rand(5)))  # a regression target is no label
    assert everything(images.batches(loader))[1] is None


def test_float_input_is_used_as_it_is():
    x = torch.randn(4, 3, 5, 7, dtype=torch.float16)

    def never(image):
        raise AssertionError("the transform was called")

    assert torch.equal(everything(images.batches(x, never))[0], x)
    assert torch.equal(everything(images.batches(DataLoader(x, batch_size=3), never))[0], x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_batches_take_the_dtype_of_a_parameter(dtype):
    x, like = pictures(), torch.nn.Parameter(torch.zeros(2, dtype=dtype))
    for given in (x, list(x), normalise(x), DataLoader(normalise(x), batch_size=2)):
        got, _, _ = everything(images.batches(given, normalise, device=like))
        assert torch.equal(got, normalise(x).to(dtype))
    whole = torch.zeros(2, dtype=torch.int64)  # of a parameter that is no float, the device alone
    assert everything(images.batches(x, normalise, device=whole))[0].dtype == torch.float32


def test_a_transform_that_can_is_given_whole_batches():
    x, calls = pictures(40), []

    def transform(image):
        calls.append(tuple(image.shape))
        return normalise(image)

    got, _, _ = everything(images.batches(Labelled(list(x)), transform, batch_size=20))
    assert torch.equal(got, normalise(x))
    assert calls.count((20, 3, 8, 8)) == 2
    assert len(calls) <= 5  # two batches, and the trial


@pytest.mark.parametrize("kind", ["of one image only", "of the batch's own mean", "random"])
def test_a_transform_that_cannot_is_given_one_image_at_a_time(kind):
    x = pictures(6)

    def transform(image):
        if kind == "of one image only":
            assert image.ndim == 3
        y = normalise(image)
        return y + torch.rand(()) if kind == "random" else y - y.mean()

    got, _, _ = everything(images.batches(x, transform))
    if kind == "random":
        offsets = (got - normalise(x)).mean((1, 2, 3))
        assert len(offsets.unique()) == 6  # each image has had its own draw
    else:
        assert torch.allclose(got, torch.stack([normalise(one) - normalise(one).mean() for one in x]))


def test_images_of_many_sizes():
    sizes = [(8, 8), (8, 8), (9, 7), (8, 8), (16, 4), (16, 4)]
    x = [pictures(1, size, seed)[0] for seed, size in enumerate(sizes)]

    def corner(image):
        return normalise(image[..., :4, :4])

    got, _, sizes = everything(images.batches(x, corner, batch_size=4))
    assert sizes == [4, 2]
    assert torch.equal(got, torch.stack([corner(one) for one in x]))
    with pytest.raises(ValueError, match=r"different sizes \(3×8×8, 3×9×7\).*resizes and crops, or batch_size=1"):
        everything(images.batches(x[:3], normalise))
    assert [tuple(one.shape[2:]) for one, _ in images.batches(x, normalise, batch_size=1)][2] == (9, 7)


def test_large_images_do_not_wait_for_the_batch_to_fill(monkeypatch):
    monkeypatch.setattr(batching, "_HELD_BYTES", 3 * 8 * 8 * 4)
    x, calls = pictures(20), []

    def transform(image):
        calls.append(image.shape[0])
        return normalise(image)

    got, _, _ = everything(images.batches(list(x), transform, batch_size=20))
    assert torch.equal(got, normalise(x))
    assert max(call for call in calls if call != 3) == 4  # a call of 3 is one image


def test_an_iterable_dataset_has_no_known_length():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return ((image, 7) for image in pictures())

    stream = images.batches(Stream(), normalise, batch_size=2)
    assert stream.total is None
    got, labels, _ = everything(stream)
    assert torch.equal(got, normalise(pictures()))
    assert labels.tolist() == [7] * 5


class Streamed(torch.utils.data.IterableDataset):
    """Images one after the other; their number is told, or it is not."""

    def __init__(self, x, told):
        self.x, self.told = x, told

    def __iter__(self):
        return iter(self.x)

    def __len__(self):
        if not self.told:
            raise NotImplementedError
        return len(self.x)


@pytest.mark.parametrize("told", [True, False])
def test_the_number_of_images_of_a_loader_of_a_stream(told):
    stream = images.batches(DataLoader(Streamed(normalise(pictures()), told), batch_size=2))
    assert stream.total == (5 if told else None)
    assert not stream.shuffled
    assert torch.equal(everything(stream)[0], normalise(pictures()))


def test_a_stream_without_an_image_is_told():
    for given in (Streamed([], told=False), DataLoader(Streamed([], told=False))):
        with pytest.raises(ValueError, match=rf"a {type(given).__name__} gave no image\. Expected one of"):
            list(images.batches(given, normalise))


def test_finite_values_whose_sum_is_not_are_taken():
    x = torch.full((2, 3, 8, 8), 3e38)
    assert torch.equal(everything(images.batches(x))[0], x)
    x[1, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="image 1"):
        list(images.batches(x))


def test_class_names_are_found_through_subsets_and_loaders():
    whole = images.shapes("test", 24)
    assert images.batches(Subset(whole, [3, 4]), normalise).classes == whole.classes
    deep = whole
    for n in range(24, 12, -1):
        deep = Subset(deep, range(n - 1))
    assert images.batches(deep, normalise).classes == whole.classes
    assert images.batches(DataLoader(TensorDataset(torch.rand(2, 3, 4, 4)))).classes is None
    named = TensorDataset(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))
    named.classes = ["a", "b"]
    assert images.batches(DataLoader(named)).classes == ("a", "b")


def test_a_set_that_is_a_part_of_itself_is_gone_through_all_the_same():
    whole = Labelled(list(torch.zeros(3, 3, 8, 8, dtype=torch.uint8)))
    whole.dataset = Subset(whole, [0, 1, 2])
    found = images.batches(whole, normalise)
    assert found.classes is None
    assert found.transform
    assert found.description.startswith("Labelled of ")
    assert everything(found)[0].shape == (3, 3, 8, 8)


# --------------------------------------------------------------------------------------------------- what is not taken

THE_KINDS = r"dataset or a folder of uint8 tensors.*float tensor N×3×H×W, or a DataLoader.*uint8 tensor N×3×H×W"


@pytest.mark.parametrize(
    ("bad", "came"),
    [
        (None, "got None"),
        (3, "got a int"),
        ({"a": 1}, "got a dict of length 1"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"numpy array 2×8×8×3 of uint8.*torch.from_numpy"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "int64 tensor 2×3×8×8"),
        (torch.zeros(3, 8, 8), r"float32 tensor 3×8×8.*torch.stack"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"uint8 tensor 3×8×8.*image\[None\]"),
        (torch.zeros(2, 8, 8, 3), r"float32 tensor 2×8×8×3.*movedim"),
        (torch.zeros(2, 1, 8, 8), "float32 tensor 2×1×8×8"),
        (torch.zeros(0, 3, 8, 8), "there is no image in a float32 tensor 0×3×8×8"),
        ([], "there is no image in a list of length 0"),
        (DataLoader(pictures()), r"DataLoader that yields a uint8 tensor 1×3×8×8.*Pass the dataset itself"),
        (DataLoader(torch.rand(4, 5)), "DataLoader that yields a float32 tensor 1×5"),
        (Labelled(list(torch.rand(2, 3, 8, 8))), "a dataset whose item 0 is a float32 tensor 3×8×8.*DataLoader"),
        ((pictures(), torch.arange(5)), "a dataset whose item 0 is a uint8 tensor 5×3×8×8"),
        ([{"image": 1}], "a dataset whose item 0 is a dict"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_anything_else_is_one_error_that_names_what_is_taken(bad, came):
    with pytest.raises(ValueError, match=f"(?s){came}") as error:
        list(images.batches(bad, normalise))
    assert re.search(THE_KINDS, str(error.value))


def test_other_bad_input_is_named():
    with pytest.raises(ValueError, match=r"got a PIL image RGB 8×8.*\[image\]"):
        images.batches(pil(pictures(1)[0]), normalise)
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got 0"):
        images.batches(pictures(), normalise, 0)
    with pytest.raises(ValueError, match=r"needs a transform.*ecaviz.load\(net, transform=…\)"):
        images.batches(pictures(), None)
    with pytest.raises(ValueError, match="the transform made a uint8 tensor 3×8×8"):
        list(images.batches(pictures(1), lambda image: image))
    with pytest.raises(ValueError, match="some items have a label and some have none"):
        list(images.batches(Labelled(list(pictures(2)), [1, None]), normalise))
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        images.batches("no/such/folder", normalise)


def test_an_error_of_the_transform_says_what_it_was_given():
    def broken(image):
        raise KeyError("mean")

    with pytest.raises(KeyError) as error:
        list(images.batches(pictures(2), broken))
    assert "raised by the model's transform, given a uint8 tensor 3×8×8" in error.value.__notes__[0]


# ---------------------------------------------------------------------------------------------------------------- sets


def test_shapes_are_the_procedural_set():
    ours = images.shapes("validation", n=13, seed=5)
    other = images.Shapes("validation", 13, 5)
    assert torch.equal(ours[12][0], other[12][0])
    assert ours[12][1] == 0
    assert images.describe(ours) == "Shapes(split='validation', n=13, seed=5)"


def test_photographs_are_read_from_scikit_image_without_a_network(monkeypatch):
    def no_network(*_args, **_options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "create_connection", no_network)
    photographs = images.photographs()
    assert {"astronaut", "chelsea", "coffee", "rocket"} <= set(photographs.classes)
    assert len(photographs) == len(photographs.classes) == 8
    assert photographs.labels.tolist() == list(range(8))
    for picture, label in photographs:
        assert picture.dtype == torch.uint8
        assert picture.shape[0] == 3
        assert min(picture.shape[1:]) >= 300
        assert picture.float().std() > 20, photographs.classes[label]


def test_photographs_are_those_that_scikit_image_gives():
    from skimage import data

    photographs = images.photographs()
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        picture, _ = photographs[photographs.classes.index(name)]
        assert np.array_equal(picture.permute(1, 2, 0).numpy(), getattr(data, name)())


def test_photographs_of_a_scikit_image_that_keeps_them_elsewhere(monkeypatch, tmp_path):
    """From 0.27 on they lie in a package beside skimage, whose own folder ``data`` has none."""
    present = Path(importlib.util.find_spec("skimage").origin).parent
    places = (present / "data", present.with_name("_skimage2") / "data")
    kept = next(one for one in places if (one / "coffee.png").is_file())
    for package in ("skimage", "_skimage2"):
        (tmp_path / package / "data").mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
    shutil.copy(kept / "coffee.png", tmp_path / "_skimage2" / "data")
    finder = importlib.machinery.PathFinder
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: finder.find_spec(name, [str(tmp_path)]))
    photographs = images.photographs()
    assert photographs.classes == ("coffee",)
    assert photographs[0][0].shape == (3, 400, 600)
    assert len(photographs.skipped) == 7


def test_photographs_without_scikit_image(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"it is not installed.*pip install scikit-image.*images.folder"):
        images.photographs()


def test_a_folder_with_subfolders_has_their_names_as_classes(tmp_path):
    write(tmp_path / "zebra" / "1.png")
    write(tmp_path / "ant" / "deep" / "down" / "2.JPG")
    write(tmp_path / "ant" / "1.jpeg")
    write(tmp_path / ".hidden" / "3.png")
    write(tmp_path / "ant" / "._1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "ant" / "notes.txt").write_text("no image, and not called one")
    found = images.folder(tmp_path)
    assert found.classes == ("ant", "zebra")
    assert found.labels.tolist() == [0, 0, 1]
    assert [path.name for path in found.paths] == ["1.jpeg", "2.JPG", "1.png"]
    assert found.skipped == []
    assert found[2][1] == 1


def test_an_image_beside_the_class_folders_is_named_not_dropped(tmp_path):
    write(tmp_path / "ant" / "1.png")
    stray = write(tmp_path / "stray.png")
    found = images.folder(tmp_path)
    assert found.skipped == [(stray, "lies beside the class folders")]
    with pytest.warns(UserWarning, match=r"1 file\(s\).*stray.png \(lies beside the class folders\)"):
        assert len(list(images.batches(found, normalise))) == 1


def test_a_flat_folder_of_synset_names_has_a_class_a_synset(tmp_path):
    for name in (
        "n01484850_great_white_shark",
        "n01440764_tench",
        "n01440764_tench_2",
        "n02012849_crane",
        "n03126707_crane",
        "n02391049_1234",
    ):
        write(tmp_path / f"{name}.jpg")
    found = images.folder(tmp_path)
    assert found.classes == ("tench", "great white shark", "crane (n02012849)", "n02391049", "crane (n03126707)")
    assert {path.stem: label for path, label in zip(found.paths, found.labels.tolist(), strict=True)} == {
        "n01440764_tench": 0,
        "n01440764_tench_2": 0,
        "n01484850_great_white_shark": 1,
        "n02012849_crane": 2,
        "n02391049_1234": 3,
        "n03126707_crane": 4,
    }


def test_any_other_flat_folder_is_one_class(tmp_path):
    for name in ("b.png", "n01440764_tench.png"):
        write(tmp_path / "holiday" / name)
    found = images.folder(str(tmp_path / "holiday"))
    assert found.classes == ("holiday",)
    assert found.labels.tolist() == [0, 0]
    assert repr(found) == "ImageFiles('holiday', 2 images, 1 classes)"
    assert str(tmp_path) not in images.describe(found)


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere.*Check the path"):
        images.folder(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(ValueError, match=r"no image is in .*It holds notes.txt.*\.jpg.*were expected"):
        images.folder(tmp_path)
    with pytest.raises(NotADirectoryError, match="is a file; a folder of images was expected"):
        images.folder(tmp_path / "notes.txt")


def test_the_formats_are_those_that_the_endings_stand_for():
    known = Image.registered_extensions()
    assert {known[suffix] for suffix in images.SUFFIXES} == set(FORMATS)
    assert list(FORMATS) == sorted(FORMATS)


@pytest.fixture
def damaged(tmp_path):
    """A folder of three good images and three that cannot be read."""
    for name in ("a.png", "c.png", "f.png"):
        write(tmp_path / name, pil(pictures(1, seed=ord(name[0]))[0]))
    (tmp_path / "b.jpg").write_text("this is no image")
    whole = write(tmp_path / "d.jpg", pil(pictures(1, (64, 64))[0]))
    whole.write_bytes(whole.read_bytes()[:-400])
    (tmp_path / "e.png").write_bytes(b"")
    return tmp_path


def test_images_that_cannot_be_read_are_skipped_counted_and_named(damaged):
    found = images.folder(damaged)
    stream = images.batches(found, normalise, batch_size=2)
    for _ in range(2):  # a second pass must not count them twice
        with pytest.warns(UserWarning, match=r"images: 3 file\(s\) of .* were skipped: b.jpg.*d.jpg.*e.png") as caught:
            got = list(stream.indexed())
        assert len(caught) == 1
        assert [path.name for path, _ in found.skipped] == ["b.jpg", "d.jpg", "e.png"]
    reasons = {path.name: reason for path, reason in stream.skipped}
    assert reasons["b.jpg"] == "none of the formats BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP (16 bytes)"
    assert "truncated" in reasons["d.jpg"]
    assert reasons["e.png"] == "the file is empty"
    assert not any(str(damaged) in reason for reason in reasons.values())
    assert torch.cat([positions for _, _, positions in got]).tolist() == [0, 2, 5]
    assert [len(x) for x, _, _ in got] == [2, 1]
    good = torch.stack([pictures(1, seed=ord(name))[0] for name in "acf"])
    assert torch.equal(torch.cat([x for x, _, _ in got]), normalise(good))
    assert stream.passed == stream.total == 6


@pytest.mark.parametrize("where", ["cats", "."])
def test_links_that_lead_nowhere_are_skipped_counted_and_named(tmp_path, where):
    write(tmp_path / where / "a.png", pil(pictures(1, seed=7)[0]))
    try:
        (tmp_path / where / "b.png").symlink_to(tmp_path / "gone.png")
        (tmp_path / where / "c.png").symlink_to(tmp_path / where / "c.png")
        (tmp_path / where / "d.png").symlink_to(tmp_path / where / "a.png")
    except OSError:
        pytest.skip("this system lets one make no links")
    found = images.folder(tmp_path)
    assert [path.name for path in found.paths] == ["a.png", "b.png", "c.png", "d.png"]
    stream = images.batches(found, normalise)
    with pytest.warns(UserWarning, match=r"2 file\(s\) of .* were skipped: b.png \(.*No such file.*c.png \("):
        got, _, _ = everything(stream)
    assert torch.equal(got, normalise(pictures(1, seed=7)).expand(2, -1, -1, -1))
    assert [path.name for path, _ in found.skipped] == ["b.png", "c.png"]
    assert not any(str(tmp_path) in reason for _, reason in found.skipped)
    assert stream.passed == stream.total == 4


def test_skipping_reaches_through_a_subset(damaged):
    stream = images.batches(Subset(images.folder(damaged), [1, 2]), normalise)
    with pytest.warns(UserWarning, match="b.jpg"):
        assert len(list(stream)) == 1
    assert [path.name for path, _ in stream.skipped] == ["b.jpg"]


def test_a_folder_in_which_no_image_can_be_read(tmp_path):
    (tmp_path / "a.jpg").write_text("words")
    with pytest.raises(ValueError, match=r"1 file\(s\).*a.jpg \(none of the formats.*None could be read"):
        list(images.batches(tmp_path, normalise))


def test_the_warning_names_ten_at_most(tmp_path):
    write(tmp_path / "a.png")
    for i in range(13):
        (tmp_path / f"bad{i:02}.png").write_text("words")
    with pytest.warns(UserWarning, match=r"13 file\(s\).*bad09.png \([^)]*\)\) and 3 more"):
        list(images.batches(tmp_path, normalise))


def test_an_unreadable_image_says_so_when_it_is_asked_for(damaged):
    with pytest.raises(images.ImageReadError, match=r"b.jpg cannot be read: none of the formats") as error:
        images.folder(damaged)[1]
    again = pickle.loads(pickle.dumps(error.value))
    assert (again.path, again.reason, str(again)) == (error.value.path, error.value.reason, str(error.value))


# ---------------------------------------------------------------------------------------------------------- any mode

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def read(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return images.folder(tmp_path)[0][0]


def test_grey_and_16_bit_images_become_rgb(tmp_path):
    expected = torch.from_numpy(GREY).expand(3, 8, 8)
    assert torch.equal(read(tmp_path, Image.fromarray(GREY)), expected)
    assert torch.equal(read(tmp_path, Image.fromarray(GREY.astype(np.uint16) * 257)), expected)


def test_transparent_pixels_become_white(tmp_path):
    alpha = np.zeros((8, 8), np.uint8)
    alpha[0] = 255
    expected = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    expected[:, 0] = torch.from_numpy(GREY[0])
    assert torch.equal(read(tmp_path, Image.fromarray(np.dstack([GREY] * 3 + [alpha]))), expected)
    assert torch.equal(read(tmp_path, Image.fromarray(np.dstack([GREY, alpha]))), expected)


def test_palette_images_become_rgb(tmp_path):
    image = Image.new("P", (8, 8))
    image.putdata(list(range(2)) * 32)
    image.putpalette([10, 20, 30, 200, 100, 50] + [0] * 756)
    got = read(tmp_path, image)
    assert got[:, 0, 0].tolist() == [10, 20, 30]
    assert got[:, 0, 1].tolist() == [200, 100, 50]
    got = read(tmp_path, image, transparency=b"\x00\xff")
    assert got[:, 0, 0].tolist() == [255, 255, 255]
    assert got[:, 0, 1].tolist() == [200, 100, 50]


def test_cmyk_images_become_rgb(tmp_path):
    got = read(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "x.jpg", quality=95)
    assert got[0].min() > 240
    assert got[1:].max() < 15


def test_the_orientation_of_the_camera_is_applied(tmp_path):
    image = Image.fromarray(np.repeat(np.repeat(GREY, 8, 0), 12, 1))  # 64 high, 96 wide
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise, to see it upright
    got = read(tmp_path, image, "x.jpg", exif=exif, quality=95)
    assert got.shape == (3, 96, 64)
    upright = torch.from_numpy(np.rot90(np.asarray(image), -1).copy())
    assert (got[0].float() - upright.float()).abs().mean() < 2


def test_floating_point_images_are_skipped_with_the_reason(tmp_path):
    write(tmp_path / "a.png")
    Image.fromarray(np.random.default_rng(0).random((8, 8), np.float32)).save(tmp_path / "b.tif")
    with pytest.warns(UserWarning, match=r"b.tif \(a floating-point image, whose range of values is not known\)"):
        assert len(list(images.batches(tmp_path, normalise))) == 1


def test_a_transform_that_takes_pil_images_alone():
    """torchvision's ToTensor refuses tensors; a folder's items are tensors. They meet as PIL images."""
    from torchvision import transforms

    classic = transforms.Compose(
        [transforms.Resize(8), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    )
    x = pictures(3)
    got, _, _ = everything(images.batches(x, classic))
    torch.testing.assert_close(got, torch.stack([classic(pil(one)) for one in x]))


def test_images_that_suit_a_model(tmp_path):
    bundled, other = SimpleNamespace(source="bundled"), SimpleNamespace(source="timm")
    assert repr(images.suited(bundled, n=5)) == repr(images.shapes("test", 5))
    assert images.suited(other).name == images.photographs().name
    pil(pictures(1)[0]).save(tmp_path / "a.png")
    assert images.suited(bundled, tmp_path).paths == (tmp_path / "a.png",)
    with pytest.raises(FileNotFoundError):
        images.suited(bundled, tmp_path / "none")


def test_bundled_models_of_cifar10_are_shown_its_images_where_they_are(monkeypatch):
    model = SimpleNamespace(source="bundled", name="cifar10-eca-k3")
    monkeypatch.setattr(images, "is_here", lambda: False)
    assert images.suited(model).name == images.photographs().name
    monkeypatch.setattr(images, "is_here", lambda: True)
    monkeypatch.setattr(images, "cifar10", lambda *given, **options: (given, options))
    assert images.suited(model, n=7) == (("test",), {"n": 7, "download": False})


def test_links_into_a_hidden_folder_are_followed(tmp_path):
    for kind in ("cat", "dog"):
        store = tmp_path / kind / ".store"
        store.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(store / "a.png")
        (tmp_path / kind / "pictures").symlink_to(store, target_is_directory=True)
    found = images.folder(tmp_path)
    assert found.classes == ("cat", "dog")
    assert len(found) == 2


def test_a_folder_with_a_link_to_itself(tmp_path):
    """A loop is walked once; a link to another folder is followed."""
    for place in ("cats", "elsewhere"):
        (tmp_path / place).mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "cats" / "a.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "elsewhere" / "b.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "cats").symlink_to(tmp_path / "cats", target_is_directory=True)
    (root / "dogs").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "cats" / "again").symlink_to(tmp_path / "cats", target_is_directory=True)
    (root / "loop").symlink_to(root, target_is_directory=True)
    found = images.folder(root)
    assert len(found) == 2
    assert found.classes == ("cats", "dogs")


# ------------------------------------------------------------------------------------- read by other processes; what is
# given to them is defined out here, where a process that is not a fork of this one finds it too


def indexed(stream, start=0, stop=None):
    """All of a pass: each batch with what was passed and skipped by then, the same at the end, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = [(*batch, stream.passed, list(stream.skipped)) for batch in stream.indexed(start, stop)]
    said = [str(one.message) for one in caught if str(one.message).startswith("images:")]
    return got, stream.passed, stream.skipped, said


def assert_same_pass(found, expected):
    assert found[1:] == expected[1:]
    assert len(found[0]) == len(expected[0])
    for one, other in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(one[0], other[0], rtol=0, atol=1e-5)
        assert one[0].dtype == other[0].dtype
        assert not one[0].requires_grad
        assert (one[1] is None) == (other[1] is None)
        assert one[1] is None or torch.equal(one[1], other[1])
        assert torch.equal(one[2], other[2])
        assert one[3:] == other[3:]


def classic(image):
    """Refuses tensors, as torchvision's ToTensor does."""
    if isinstance(image, torch.Tensor):
        raise TypeError("a PIL image was expected")
    return to_normalised(image)


class Scaled:
    """A transform with a parameter."""

    def __init__(self):
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def __call__(self, image):
        return normalise(image) * self.scale


@WORKERS
@pytest.mark.parametrize(
    ("make", "transform"),
    [
        pytest.param(lambda x: Labelled(list(x)), normalise, id="dataset of uint8 tensors"),
        pytest.param(lambda x: Labelled(as_pil_list(x)), to_normalised, id="dataset of PIL images"),
        pytest.param(list, normalise, id="list without labels"),
        pytest.param(lambda x: Subset(Labelled(list(x)), [3, 1, 10, 0, 7]), normalise, id="Subset"),
        pytest.param(lambda x: Labelled(list(x)), classic, id="transform of PIL images"),
    ],
)
def test_other_processes_give_the_same_batches(make, transform):
    given = make(pictures(11))
    for workers in (1, 2):
        one, other = (images.batches(given, transform, 4, workers=n) for n in (workers, 0))
        expected = indexed(other)
        assert next(len(batch[0]) for batch in expected[0]) == 4
        for _ in range(2):  # can be gone through again
            assert_same_pass(indexed(one), expected)
    assert multiprocessing.active_children() == []


@WORKERS
def test_a_transform_with_a_parameter_in_another_process():
    got, _, _ = everything(images.batches(list(pictures()), Scaled(), 2, workers=2))
    torch.testing.assert_close(got, 2 * normalise(pictures()))


UNREAD = (0, 1, 5, 8, 9, 10, 11, 14, 21, 23)


@pytest.fixture
def holes(tmp_path):
    """24 files; the first, the last, a whole batch of four and some others cannot be read."""
    for i in range(24):
        path = write(tmp_path / "set" / f"class{i // 9}" / f"{i:02}.png", pil(pictures(1, seed=i)[0]))
        if i in UNREAD:
            path.write_text("no image" if i % 2 else "")
    return tmp_path / "set"


@WORKERS
@pytest.mark.parametrize("batch_size", [1, 4, 5, 64])
def test_other_processes_skip_the_same_files(holes, batch_size):
    spans = [(0, None), (0, 1), (3, 17), (8, 12), (9, 13), (23, None), (24, None), (5, 100)]
    for start, stop in spans if batch_size == 5 else spans[:4]:
        one, other = (images.batches(holes, normalise, batch_size, workers=n) for n in (2, 0))
        if (start, stop) == (0, 1):
            with pytest.raises(ValueError, match=r"1 file\(s\).*None could be read"):
                list(one.indexed(start, stop))
            continue
        expected = indexed(other, start, stop)
        assert_same_pass(indexed(one, start, stop), expected)
        if (start, stop) == (0, None):
            assert [int(path.stem) for path, _ in one.skipped] == list(UNREAD)
            assert [path.name for path, _ in one._images.skipped] == [path.name for path, _ in one.skipped]
            assert one.passed == 24
    assert multiprocessing.active_children() == []


class Noting(Labelled):
    """Leaves a file of the name of each item that is asked for."""

    def __init__(self, items, place, wait=0.0):
        super().__init__(items)
        self.place, self.wait = place, wait

    def __getitem__(self, index):
        (self.place / str(index)).touch()
        time.sleep(self.wait)
        return super().__getitem__(index)


@WORKERS
def test_other_processes_read_what_is_wanted_and_work_ahead(tmp_path):
    stream = images.batches(Noting(list(pictures(40)), tmp_path), normalise, 3, workers=2)
    positions = torch.cat([positions for _, _, positions in stream.indexed(10, 17)])
    assert positions.tolist() == list(range(10, 17))
    assert {int(path.name) for path in tmp_path.iterdir()} == set(range(10, 17))
    going = stream.indexed(20)
    next(going)
    end = time.monotonic() + 30
    while not (tmp_path / "30").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert stream.passed == 23  # what was read ahead does not count
    going.close()


class TwoPartsError(Exception):
    """An exception that pickle can write and cannot read."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


class Failing(Labelled):
    """Fails at item 6; its items 0 and 1 cannot be read."""

    def __init__(self, error):
        super().__init__(list(pictures(12)))
        self.error = error

    def __getitem__(self, index):
        if index < 2:
            raise images.ImageReadError(Path(f"{index}.png"), "no image")
        if index == 6 and isinstance(self.error, BaseException):
            raise self.error
        return (self.error, 0) if index == 6 else super().__getitem__(index)


def is_white(image):
    assert image.ndim == 3  # no batches
    return image.min() == 255


def fails_for_white(image):
    if is_white(image):
        raise KeyError("mean")
    return normalise(image)


def leaves_white_as_it_is(image):
    return image if is_white(image) else normalise(image)


def cuts_white(image):
    return normalise(image)[..., :4] if is_white(image) else normalise(image)


def failure(given, transform, workers, batch_size=4):
    """What was yielded, and then the error, of a pass that fails."""
    got = []
    try:
        for x, _, positions in images.batches(given, transform, batch_size, workers=workers).indexed():
            got.append((x.shape, positions.tolist()))
    except BaseException as error:  # an interrupt is one of them
        assert multiprocessing.active_children() == []
        return got, error
    pytest.fail("nothing was raised")


WHITE = torch.full((3, 8, 8), 255, dtype=torch.uint8)


@WORKERS
@pytest.mark.parametrize(
    ("given", "transform", "kind", "message"),
    [
        (Failing(torch.rand(3, 8, 8)), normalise, ValueError, "a dataset whose item 6 is a float32 tensor 3×8×8"),
        (Failing(RuntimeError("no disk")), normalise, RuntimeError, "no disk"),
        (Failing(KeyError("x")), normalise, KeyError, "'x'"),
        (Failing(KeyboardInterrupt("stop")), normalise, KeyboardInterrupt, "stop"),
        (Failing(WHITE), fails_for_white, KeyError, "'mean'"),
        (Failing(WHITE), leaves_white_as_it_is, ValueError, "the transform made a uint8 tensor 3×8×8"),
        (Failing(WHITE), cuts_white, ValueError, r"different sizes \(3×8×4, 3×8×8\)"),
        (Labelled(list(pictures(7)), [0, 1, 2, 3, 4, None, 6]), normalise, ValueError, "some have none"),
    ],
)
def test_errors_in_other_processes_are_those_of_this_one(given, transform, kind, message):
    (got, error), (before, expected) = (failure(given, transform, workers) for workers in (2, 0))
    assert type(error) is type(expected) is kind
    assert re.search(message, str(error))
    assert str(error) == str(expected)
    assert getattr(error, "__notes__", None) == getattr(expected, "__notes__", None)
    assert got == before
    assert len(got) == 1
    own = kind is ValueError  # its words say all there is
    assert (error.__cause__ is None) == own
    assert own or "Traceback" in str(error.__cause__)


class InTwoParts(Labelled):
    def __getitem__(self, index):
        if index == 2:
            raise TwoPartsError("one", "other")  # made in the other process: it cannot be pickled to it either
        return super().__getitem__(index)


@WORKERS
def test_an_error_that_cannot_be_passed_on_is_told():
    _, error = failure(InTwoParts(list(pictures(8)), range(8)), normalise, 2)
    assert type(error) is RuntimeError
    assert str(error) == "TwoPartsError: one and other"


class Killed(Labelled):
    def __getitem__(self, index):
        if index == 2:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return super().__getitem__(index)


def breaks_off(*_):
    """In place of torch's own reading: what a process that dies while it sends leaves."""
    raise EOFError


BROKEN_OFF = r"images: a process that reads images died .*: what it sent broke off\. .*; or workers=0 .*"


@WORKERS
def test_a_process_that_dies_while_it_sends_is_an_error_in_words(monkeypatch):
    monkeypatch.setattr(torch.utils.data.dataloader._MultiProcessingDataLoaderIter, "_try_get_data", breaks_off)
    got, error = failure(list(pictures(12)), normalise, 2)
    assert got == []
    assert type(error) is RuntimeError
    assert re.fullmatch(BROKEN_OFF, str(error))


class BreaksOff(DataLoader):
    __iter__ = breaks_off


def test_a_loader_whose_process_dies_while_it_sends_is_an_error_in_words():
    x = TensorDataset(torch.zeros(4, 3, 8, 8))
    with pytest.raises(RuntimeError, match=BROKEN_OFF):
        list(images.batches(BreaksOff(x, num_workers=1)))
    with pytest.raises(EOFError):  # that of the dataset
        list(images.batches(BreaksOff(x)))


@WORKERS
@DEATHS
def test_a_process_that_dies_is_an_error_in_words():
    got, error = failure(Killed(list(pictures(12))), normalise, 2)
    assert got == []
    assert type(error) is RuntimeError
    assert re.fullmatch(
        r"images: a process that reads images died or could not start: DataLoader worker .*\. There may be too little "
        r"memory .*Use fewer workers or a smaller batch_size; or workers=0 .*, which reads in this process .*",
        str(error),
    )


@WORKERS
@pytest.mark.parametrize("how", ["left", "raised", "interrupted", "interrupted while it waits"])
def test_other_processes_end_with_the_pass(tmp_path, how):
    stream = images.batches(Noting(list(pictures(40)), tmp_path, wait=0.05), normalise, 2, workers=2)

    def go():
        for _ in stream:
            assert len(multiprocessing.active_children()) == 2
            if how == "left":
                break
            if how == "raised":
                raise OSError
            if how == "interrupted":
                raise KeyboardInterrupt

    if how == "left":
        go()
    else:
        if how == "interrupted while it waits":
            threading.Timer(0.4, _thread.interrupt_main).start()
        with pytest.raises((OSError, KeyboardInterrupt)) as error:
            go()
        assert error.traceback  # which is still there, and what it refers to
    assert multiprocessing.active_children() == []


def test_what_is_not_read_by_other_processes(monkeypatch):
    """Tensors, what is a DataLoader already, and what can only be gone through in order."""
    monkeypatch.setattr(items, "in_runs", None)
    x = pictures()

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(x)

    for given in (x, normalise(x), DataLoader(normalise(x), batch_size=2), Stream()):
        assert torch.equal(everything(images.batches(given, normalise, 2, workers=2))[0], normalise(x))
    with pytest.raises(TypeError):  # and a dataset is
        everything(images.batches(list(x), normalise, 2, workers=2))


def test_what_cannot_be_passed_on_to_another_process():
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        with pytest.raises(ValueError, match=r"a list of length 5 or its transform cannot be passed on.*workers=0"):
            list(images.batches(list(pictures()), lambda image: normalise(image), workers=1))
    finally:
        torch.multiprocessing.set_start_method(None, force=True)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [-1, 1.5, True, None, "2"])
def test_workers_that_are_no_number(workers):
    with pytest.raises(ValueError, match=f"images: workers must be a whole number of at least 0, got {workers!r}"):
        images.batches(pictures(), normalise, workers=workers)


def pieces(given, size, transform=normalise, span=None):
    """What each process would pass on, made in this one."""
    made = items._Pieces(given, items.Preparation(transform), span or range(len(given)), size)
    return [made[i] for i in range(len(made))]


def test_a_process_passes_on_runs_of_one_size_in_order():
    """Each tensor that is passed on costs an open file, so images of one size travel together."""
    x, wide = list(pictures(6)), list(pictures(2, size=(8, 9)))
    given = Labelled([*x[:3], *wide, *x[3:]], [0, None, 2, 3, 4, 5, 6, 7])
    (first, second) = pieces(given, 6, span=range(1, 8))
    assert [run.positions for run in first] == [[1, 2], [3, 4], [5, 6]]
    assert [run.positions for run in second] == [[7]]
    assert [run.labels for run in first] == [[None, 2], [3, 4], [5, 6]]
    assert [tuple(run.images.shape) for run in first] == [(2, 3, 8, 8), (2, 3, 8, 9), (2, 3, 8, 8)]
    torch.testing.assert_close(first[1].images, normalise(torch.stack(wide)))
    run, rest = first[0].cut(1)
    assert (run.positions, run.labels, rest.positions, rest.labels) == ([1], [None], [2], [2])
    assert torch.equal(torch.cat([run.images, rest.images]), first[0].images)
    ((only,),) = pieces(list(x), 10, Scaled())
    assert not only.images.requires_grad  # what has a history cannot be passed on


def test_a_process_passes_on_what_went_wrong_in_its_place():
    (found,) = pieces(Failing(KeyError("x")), 12)
    *before, failed = found
    assert [(one.position, one.path, one.reason) for one in before[:2]] == [
        (0, Path("0.png"), "no image"),
        (1, Path("1.png"), "no image"),
    ]
    assert before[2].positions == [2, 3, 4, 5]
    assert len(found) == 4  # nothing is read after it
    assert (type(failed.error), failed.error.args) == (KeyError, ("x",))
    assert failed.where.startswith("in a process that reads images:\nTraceback")
    ((*_, own),) = pieces(Failing(torch.rand(3, 8, 8)), 12)
    assert isinstance(own.error, ValueError)
    assert own.where is None  # its words say all there is
    noted = TwoPartsError("one", "other")
    noted.add_note("of image 6")
    ((*_, told),) = pieces(Failing(noted), 12)
    assert (type(told.error), str(told.error)) == (RuntimeError, "TwoPartsError: one and other")
    assert told.error.__notes__ == ["of image 6"]


@WORKERS
def test_other_processes_leave_random_numbers_alone():
    before = torch.get_rng_state()
    list(images.batches(list(pictures()), normalise, workers=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@WORKERS
@pytest.mark.filterwarnings("ignore:.*[Ss]ynchronization debug mode:UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_go_to_the_gpu_without_waiting(workers):
    x = pictures(11)
    like = torch.zeros(1, dtype=torch.float16, device="cuda")
    got = []
    for given in (list(x), x, normalise(x)):
        torch.cuda.set_sync_debug_mode("error")
        try:
            got.append([part for part, _ in images.batches(given, normalise, 4, like, workers)])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for parts in got:
        assert {part.dtype for part in parts} == {torch.float16}
        assert torch.equal(torch.cat(parts).cpu(), normalise(x).half())
