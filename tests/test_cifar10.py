"""CIFAR-10: the original files as torchvision reads them, a folder of JPEGs, and neither."""

import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from loopback import Loopback
from PIL import Image
from torchvision import datasets

import ecaviz
from ecaviz import bundle, cifar10, images, training_sets
from ecaviz.profiles import fingerprint_of, kept_profile


@pytest.fixture
def jpegs(tmp_path):
    """Two splits, ten classes, three images a class; class c, image i is of the colour (20c, 50i, 7)."""
    for split in ("train", "test"):
        for label, name in enumerate(cifar10.CLASSES):
            folder = tmp_path / "cifar10-jpeg" / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                pixels = np.full((32, 32, 3), (20 * label, 50 * i, 7), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:04d}.jpg", quality=95)
    return tmp_path


@pytest.fixture
def original(monkeypatch):
    """The bytes of an archive like the original's, of twenty images a file, and torchvision told of its hashes."""
    random = np.random.default_rng(0)
    files, truth = {}, {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data, labels = random.integers(0, 256, (20, 3072), dtype=np.uint8), random.integers(0, 10, 20).tolist()
        files[name] = pickle.dumps({"data": data, "labels": labels})
        truth[name] = data, labels
    files["batches.meta"] = pickle.dumps({"label_names": list(cifar10.CLASSES)})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    content = packed.getvalue()
    digest = {name: hashlib.md5(one).hexdigest() for name, one in files.items()}
    kind = datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [[f"data_batch_{i}", digest[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [["test_batch", digest["test_batch"]]])
    monkeypatch.setattr(kind, "meta", {"filename": "batches.meta", "key": "label_names", "md5": digest["batches.meta"]})
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(content).hexdigest())
    return content, truth


def test_a_folder_of_jpegs(jpegs):
    found = images.cifar10("train", jpegs)
    assert (len(found), found.data, found.classes) == (30, "cifar10-jpeg", cifar10.CLASSES)
    assert repr(found) == "Cifar10('train', n=30, cifar10-jpeg)"
    assert found.labels.tolist() == [*range(10)] * 3  # the classes take turns
    for index in (0, 13, 29):
        image, label = found[index]
        assert image.dtype == torch.uint8
        assert label == index % 10
        expected = torch.tensor([20 * label, 50 * (index // 10), 7.0])
        torch.testing.assert_close(image.float().mean((1, 2)), expected, atol=3, rtol=0)
    few = cifar10.Cifar10("train", jpegs / "cifar10-jpeg", 13)
    assert torch.equal(few.images, found.images[:13])


def test_jpegs_that_cannot_be_used(jpegs):
    folder = jpegs / "cifar10-jpeg" / "test"
    path = folder / "cat" / "0001.jpg"
    Image.new("RGB", (31, 32)).save(path)
    with pytest.raises(ValueError, match=r"0001.jpg has 31×32 pixels; 32×32 were expected"):
        cifar10.Cifar10("test", jpegs)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"0001.jpg cannot be read"):
        cifar10.Cifar10("test", jpegs)
    for file in (folder / "dog").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no .jpg of the class dog"):
        cifar10.Cifar10("test", jpegs)


def test_the_original_is_fetched_once_and_read(original, tmp_path, monkeypatch):
    content, truth = original
    with Loopback() as server:
        url = server.add_file("cifar-10-python.tar.gz", content)
        monkeypatch.setattr(datasets.CIFAR10, "url", url)
        found = images.cifar10("train", tmp_path)
        fetched = len(server.gets)
        assert fetched
        test = images.cifar10("test", tmp_path, 15)
        assert len(server.gets) == fetched
    assert (found.data, len(found), len(test)) == ("cifar10", 100, 15)
    data, labels = truth["data_batch_2"]
    assert torch.equal(found.images[20:40], torch.from_numpy(data).reshape(20, 3, 32, 32))
    assert found.labels[20:40].tolist() == labels
    data, labels = truth["test_batch"]
    assert torch.equal(test.images, torch.from_numpy(data).reshape(20, 3, 32, 32)[:15])
    assert cifar10.is_here(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps({"data": data, "labels": labels[::-1]}))
    with pytest.raises(FileNotFoundError, match="has neither"):  # another file of that name is not unpickled
        images.cifar10("test", tmp_path, download=False)


def test_what_cannot_be_read_once_the_lock_is_held_is_told_as_that(tmp_path, monkeypatch):
    """As where another process has fetched it meanwhile, whose files are its own."""
    answers = iter([RuntimeError("not found"), PermissionError(13, "Permission denied")])

    def refuse(*_, **__):
        raise next(answers)

    monkeypatch.setattr(datasets.CIFAR10, "__init__", refuse)
    with pytest.raises(PermissionError, match=r"cifar-10-batches-py cannot be read \(Permission denied\). Allow it"):
        images.cifar10("test", tmp_path)


def test_where_there_is_nothing(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"has neither .* nor torchvision's cifar-10-batches-py. Name a folder"):
        images.cifar10("test", tmp_path, download=False)
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    with pytest.raises(ConnectionError, match=r"could not be fetched from http.*cannot be reached.*Name a folder"):
        images.cifar10("test", tmp_path)
    with pytest.raises(ValueError, match=r"no split is called 'validation'. Splits: train, test"):
        images.cifar10("validation", tmp_path)
    with pytest.raises(ValueError, match="n must not be negative, got -1"):
        images.cifar10("test", tmp_path, -1)


def test_a_mistyped_folder_is_not_filled_with_a_download(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "__init__", None)  # not even asked
    with pytest.raises(FileNotFoundError, match=r"no folder .*cifar1O \(root\). Correct the name; or make the folder"):
        images.cifar10("test", tmp_path / "cifar1O")
    monkeypatch.setenv("ECAVIZ_CIFAR10", str(tmp_path / "cifar1O"))
    with pytest.raises(FileNotFoundError, match=r"cifar1O \(\$ECAVIZ_CIFAR10\)"):
        images.cifar10("test")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_the_environments(jpegs, monkeypatch):
    monkeypatch.setenv("ECAVIZ_CIFAR10", str(jpegs))
    assert len(images.cifar10("test")) == 30
    one = training_sets.SETS["cifar10"].read("test", 20)
    assert (one.data, len(one.labels)) == ("cifar10-jpeg", 20)
    with pytest.raises(ValueError, match=r"31 images of CIFAR-10, split test, were expected; there are 30"):
        training_sets.SETS["cifar10"].read("test", 31)
    model = ecaviz.load("shapes-eca-k3", device="cpu")
    assert type(images.suited(model)).__name__ == "Shapes"


@pytest.mark.parametrize("name", training_sets.SETS)
def test_the_transform_is_what_training_does(name):
    one = training_sets.SETS[name]
    pictures = torch.randint(256, (4, 3, one.size, one.size), dtype=torch.uint8)
    transform = one.transform()
    torch.testing.assert_close(transform(pictures), one.normalise(pictures))
    torch.testing.assert_close(transform(pictures[0]), one.normalise(pictures[:1])[0])
    picture = Image.fromarray(pictures[0].permute(1, 2, 0).numpy())
    torch.testing.assert_close(transform(picture), transform(pictures[0]))
    large = transform(torch.zeros(3, 90, 200, dtype=torch.uint8))
    assert large.shape == (3, one.size, one.size)
    expected = torch.tensor([-m / s for m, s in zip(one.mean, one.std, strict=True)])
    torch.testing.assert_close(large.mean((1, 2)), expected)


KEPT = [name for name, row in bundle.manifest().items() if name.startswith("cifar10") and row.family != "none"]


@pytest.mark.parametrize("name", KEPT)
def test_the_kept_profiles_are_of_the_bundled_models_and_say_of_what_images(name):
    kept, row = kept_profile(name), bundle.manifest()[name]
    assert kept.fingerprint == fingerprint_of(ecaviz.load(name, device="cpu").net)
    assert kept.images == f"Cifar10('test', n={row.test_images}, {row.data})"
    assert (kept.n, kept.by, kept.classes) == (row.test_images, "class", cifar10.CLASSES)
    assert kept.accuracy == pytest.approx(row.accuracy, abs=1e-4)


@pytest.mark.long
@pytest.mark.skipif(not cifar10.is_here(), reason="CIFAR-10 is not on this machine")
def test_a_kept_profile_is_what_the_images_give():
    kept, data = kept_profile("cifar10-eca-k3"), images.cifar10("test", download=False)
    found = ecaviz.profile(ecaviz.load("cifar10-eca-k3", device="cpu"), data, by="class", progress=False)
    assert found.images == repr(data)
    if found.images != kept.images:
        pytest.skip("the images here are not those of the kept profiles")
    assert torch.equal(found.counts, kept.counts)
    for name, site in found.sites.items():
        one, other = site.moments, kept[name].moments
        torch.testing.assert_close(one.mean, other.mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.variance(), other.variance(), rtol=0, atol=1e-5)
