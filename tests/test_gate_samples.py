"""A sample of gates is what capture gives, image by image; and where it does not fit it says so."""

import numpy as np
import pytest
import torch
from PIL import Image
from planted import CLASSES, SITES, Planted, PlantedImages, transform
from torch import nn

import ecaviz
from ecaviz import attention
from ecaviz.gate_samples import GateSample, sample_gates


@pytest.fixture(scope="module")
def model():
    return ecaviz.load(Planted(), transform=transform, classes=CLASSES)


@pytest.fixture(scope="module")
def images():
    return PlantedImages(50)


@pytest.fixture(scope="module")
def oracle(model, images):
    with torch.no_grad(), ecaviz.capture(model) as gates:
        model.net(transform(images.images))
    return {name: record.gate.numpy() for name, record in gates.items()}


def test_gates_are_those_of_capture(model, images, oracle):
    sample = sample_gates(model, images, batch_size=16, progress=False)
    assert tuple(sample.gates) == SITES
    for name, gate in sample.gates.items():
        np.testing.assert_allclose(gate, oracle[name], atol=1e-6)
        assert gate.dtype == np.float32
    assert sample.labels.tolist() == images.labels.tolist()
    assert sample.positions.tolist() == list(range(50))
    assert sample.classes == CLASSES
    assert set(sample.families.values()) == {"se-var2"}
    assert len(sample) == 50
    assert "50 images" in repr(sample)
    assert "2 sites, 16 channels" in repr(sample)
    assert oracle["late"].std(0).max() > 0.01  # they vary, or this has tested nothing


def test_of_a_larger_set_some_are_drawn_and_known_by_their_positions(model, images, oracle):
    sample = sample_gates(model, images, "late", at_most=20, progress=False)
    assert list(sample.gates) == ["late"]
    at = sample.positions
    assert len(at) == 20 == len(set(at.tolist()))
    assert (np.diff(at) > 0).all()
    assert at.tolist() != list(range(20))
    np.testing.assert_allclose(sample.gates["late"], oracle["late"][at], atol=1e-6)
    assert sample.labels.tolist() == images.labels[at].tolist()
    assert sample.classes == CLASSES
    assert "PlantedImages" in sample.images
    again, other = (sample_gates(model, images, at_most=20, seed=seed, progress=False).positions for seed in (0, 1))
    assert again.tolist() == at.tolist() != other.tolist()


def test_tensors_and_loaders(model, images, oracle):
    tensor = sample_gates(model, transform(images.images), at_most=20, progress=False)
    np.testing.assert_allclose(tensor.gates["late"], oracle["late"][tensor.positions], atol=1e-6)
    assert tensor.labels is None
    pairs = torch.utils.data.TensorDataset(transform(images.images), images.labels)
    loader = sample_gates(model, torch.utils.data.DataLoader(pairs, batch_size=8), at_most=20, progress=False)
    np.testing.assert_allclose(loader.gates["late"], oracle["late"][:20], atol=1e-6)  # of a loader the first
    assert loader.labels.tolist() == images.labels[:20].tolist()


def test_of_a_folder_some_are_drawn_by_lot_too(model, images, tmp_path):
    """Of all its classes, which lie one after the other; by a path and by the set of its files."""
    for i, image in enumerate(images.images[:30]):
        place = tmp_path / f"class {i // 10}"
        place.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i:02}.png")
    files = ecaviz.images.folder(tmp_path)
    expected = sample_gates(model, files, "late", at_most=10, progress=False)
    assert set(expected.labels.tolist()) == {0, 1, 2}
    for given in (tmp_path, str(tmp_path)):
        found = sample_gates(model, given, "late", at_most=10, progress=False)
        assert found.positions.tolist() == expected.positions.tolist() != list(range(10))
        np.testing.assert_array_equal(found.gates["late"], expected.gates["late"])
        assert found.classes == files.classes
        assert found.images == expected.images


def test_images_without_class_names_are_drawn_too(model, images, oracle):
    bare = torch.utils.data.TensorDataset(images.images, images.labels)
    sample = sample_gates(model, bare, "late", at_most=20, progress=False)
    np.testing.assert_allclose(sample.gates["late"], oracle["late"][sample.positions], atol=1e-6)
    assert sample.classes == CLASSES  # the model's


class Odd(nn.Module):
    """A site that is never called, and one that sees every image twice."""

    def __init__(self):
        super().__init__()
        self.never, self.twice = attention.SE(4, 2), attention.SE(4, 2)
        self.stem = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.twice(self.stem(torch.cat([x, x]))).mean((2, 3))[: len(x)]


def test_sites_without_a_gate_for_each_image_are_named():
    odd, x = ecaviz.load(Odd(), transform=transform), torch.rand(6, 3, 8, 8)
    with pytest.raises(ValueError, match=r"without calling any of the sites\. Choose others"):
        sample_gates(odd, x, "never", progress=False)
    with pytest.raises(ValueError, match=r"twice gave no gate for each of the 6 images.*Leave them out with `sites`"):
        sample_gates(odd, x, progress=False)


def test_what_does_not_fit_is_told_after_one_batch(model, images):
    seen = []
    handle = model.net.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    with pytest.raises(ValueError, match=r"50 images at 2 sites of 16 channels .*at_most=31.*sites=…"):
        sample_gates(model, images, memory=2000, batch_size=10, progress=False)
    handle.remove()
    assert sum(seen) <= 20  # told at once; the first forward may run twice, to prove the sites
    sample_gates(model, images, memory=2000, at_most=31, progress=False)  # what the message said fits


def test_hooks_and_flags_are_left_as_found(model, images):
    model.net.train()
    sample_gates(model, images, progress=False)
    assert model.net.training
    model.net.eval()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.net.modules())


def test_arrays_of_ones_own():
    sample = GateSample({"a": np.zeros((4, 2))}, [0, 1, 0, 1])
    assert sample.positions.tolist() == [0, 1, 2, 3]
    assert sample.labelled("x").tolist() == [0, 1, 0, 1]
    for gates in ({}, {"a": np.zeros(3)}, {"a": np.zeros((3, 2)), "b": np.zeros((4, 2))}):
        with pytest.raises(ValueError, match="gates N×C by site were expected"):
            GateSample(gates)
    with pytest.raises(ValueError, match="a whole number for each of the 4 images"):
        GateSample({"a": np.zeros((4, 2))}, [0, 1, 0])
    with pytest.raises(ValueError, match="a whole number for each of the 4 images"):
        GateSample({"a": np.zeros((4, 2))}, [0.5, 1, 0, 1])
    with pytest.raises(ValueError, match="4 positions were expected"):
        GateSample({"a": np.zeros((4, 2))}, positions=[1, 2])


def test_what_is_no_loaded_model_is_refused(images):
    with pytest.raises(TypeError, match=r"ecaviz\.load"):
        sample_gates(Planted(), images)
