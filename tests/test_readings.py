"""What explorers keep of a set of images: gates, names, pictures, whatever the set and the network are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from planted import CLASSES, SITES, Planted, PlantedImages, transform
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.transforms.functional import pil_to_tensor

import ecaviz
from ecaviz.readings import THUMBNAIL, read_all


def of_any(image):
    """The planted transform, of PIL images too."""
    return transform(image if isinstance(image, torch.Tensor) else pil_to_tensor(image))


def loaded(classes=CLASSES, net=None):
    return ecaviz.load(net or Planted(), transform=of_any, classes=classes)


@pytest.fixture(scope="module")
def images():
    return PlantedImages(20)


def test_gates_are_those_of_capture_of_images_spread_over_the_set(images):
    one = loaded()
    (reading,), kept = read_all([one], images, at_most=5)
    at = [0, 5, 10, 14, 19]
    with torch.no_grad(), ecaviz.capture(one) as gates:
        output = one.net(transform(images.images[at]))
    assert tuple(reading.gates) == SITES
    for name, gate in reading.gates.items():
        np.testing.assert_allclose(gate, gates[name].gate, atol=1e-6)
    assert list(reading.predicted) == [CLASSES[i] for i in output.argmax(1)]
    assert kept.labels.tolist() == images.labels[at].tolist()
    assert (kept.classes, kept.note) == (CLASSES, "5 images of 20")
    assert reading.inputs is reading.logits is None


def test_labels_without_names_are_numbered(images):
    bare = TensorDataset(images.images, images.labels + 1)
    for classes in ((), CLASSES):  # none, and one too few for the largest label
        _, kept = read_all([loaded(classes)], bare)
        assert kept.classes == tuple(f"class {i}" for i in range(len(CLASSES) + 1))
    _, kept = read_all([loaded(())], bare, at_most=4)
    assert kept.labels.tolist() == (images.labels[[0, 6, 13, 19]] + 1).tolist()


class Mute(Planted):
    """Gives something else than logits."""

    def forward(self, x):
        return {"out": super().forward(x)}


def test_a_network_without_logits_names_no_class(images):
    (reading,), _ = read_all([loaded(net=Mute())], images, inputs=True)
    assert set(reading.predicted) == {""}
    assert reading.logits is None
    assert reading.inputs.shape == (20, 3, 8, 8)
    (reading,), _ = read_all([loaded(("one", "two"))], images, at_most=3, inputs=True)  # of other classes than it has
    assert reading.predicted == ("", "", "")
    assert reading.logits.shape[0] == 3


def test_pictures_are_the_images_themselves_also_as_pil(images):
    pil = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in images.images]
    (_, of_tensors), (_, of_pil) = (read_all([loaded()], given, at_most=4) for given in (list(images.images), pil))
    assert of_tensors.pictures.shape == (4, THUMBNAIL, THUMBNAIL, 3)
    np.testing.assert_array_equal(of_pil.pictures, of_tensors.pictures)
    expected = nn.functional.interpolate(images.images[:1].float(), size=(THUMBNAIL, THUMBNAIL))[0]
    np.testing.assert_array_equal(of_tensors.pictures[0], expected.permute(1, 2, 0).numpy())
    assert of_tensors.labels is None
    _, of_inputs = read_all([loaded()], transform(images.images), at_most=4)  # each scaled to its own range
    assert of_inputs.pictures.min(axis=(1, 2, 3)).tolist() == [0] * 4
    assert of_inputs.pictures.max(axis=(1, 2, 3)).tolist() == [255] * 4


def test_what_is_no_set_of_images_is_told():
    with pytest.raises(ValueError, match="images must be a dataset, a folder, a tensor or a DataLoader, got int"):
        read_all([loaded()], 3)
