"""The procedural set: deterministic, balanced, and as hard where it says so."""

import numpy as np
import pytest
import torch

from ecaviz.shapes import _DISTANCE, _TEXTURE, CLASSES, NEEDS, SIZE, Shapes


def test_items():
    images = Shapes("test", n=24)
    assert len(images) == 24
    assert len(images.classes) == 12 == len(set(images.classes))
    for index in (0, 13, -1):
        image, label = images[index]
        assert image.dtype == torch.uint8
        assert image.shape == (3, SIZE, SIZE)
        assert label == images.labels[index]
        assert type(label) is int
    assert len(list(images)) == 24
    with pytest.raises(IndexError):
        images[24]


def test_image_depends_on_seed_split_and_index_alone():
    few, many = Shapes("train", n=5, seed=3), Shapes("train", n=50, seed=3)
    for i in range(5):
        assert torch.equal(few[i][0], many[i][0])
        assert torch.equal(few[i][0], few[i][0])
    assert not torch.equal(few[0][0], Shapes("train", n=5, seed=4)[0][0])
    assert not torch.equal(few[0][0], Shapes("test", n=5, seed=3)[0][0])


def test_the_pictures_have_not_changed():
    """The bundled accuracies are of these pictures: means of three of them, to a quarter of a grey level."""
    images, _ = Shapes("test", n=3).tensors()
    found = images.double().mean(dim=(2, 3))
    expected = torch.tensor([[67.53, 78.25, 54.68], [36.2, 44.32, 32.64], [60.32, 61.23, 79.48]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=0.25, rtol=0)


def test_labels_and_factors():
    images = Shapes("train", n=600)
    factors = images.factors
    assert (factors["label"].to_numpy() == images.labels.numpy()).all()
    assert (np.bincount(factors["label"]) == 50).all()
    assert set(factors["shape"]) == set(_DISTANCE)
    assert set(factors["texture"]) == set(_TEXTURE)
    assert factors["needs"].map({"shape": 0, "texture": 1, "both": 2}).value_counts().tolist() == [200, 200, 200]
    assert [NEEDS[name] for name in CLASSES[::4]] == ["shape", "texture", "both"]


def test_what_a_class_needs():
    """Within its group of four, the other factor tells nothing about the class."""
    factors = Shapes("train", n=2400).factors
    by_shape = factors[factors["needs"] == "shape"].groupby("class")
    assert (by_shape["shape"].nunique() == 1).all()
    assert (by_shape["texture"].nunique() == 3).all()
    by_texture = factors[factors["needs"] == "texture"].groupby("class")
    assert (by_texture["texture"].nunique() == 1).all()
    assert (by_texture["shape"].nunique() == 3).all()
    both = factors[factors["needs"] == "both"]
    assert (both.groupby("shape")["class"].nunique() == 2).all()
    assert (both.groupby("texture")["class"].nunique() == 2).all()
    assert (both.groupby(["shape", "texture"])["class"].nunique() == 1).all()


def test_nuisance_factors_do_not_depend_on_the_class():
    """Means by class differ by no more than chance (4.5 standard errors; twelve classes, eight factors)."""
    factors = Shapes("train", n=6000).factors
    for name in ("hue", "scale", "rotation", "light", "contrast", "noise", "frequency"):
        values = factors.groupby("class")[name]
        standard_error = factors[name].std() / np.sqrt(values.size().iloc[0])
        assert (values.mean() - factors[name].mean()).abs().max() < 4.5 * standard_error, name
    assert factors.groupby("class")["background"].nunique().eq(3).all()


@pytest.mark.parametrize("shape", sorted(_DISTANCE))
def test_shapes_lie_within_their_radius_and_are_told_apart(shape):
    axis = np.linspace(-1.5, 1.5, 301)
    u, v = np.meshgrid(axis, axis)
    inside = _DISTANCE[shape](u, v) < 0
    assert inside.any()
    assert np.hypot(u, v)[inside].max() < 1.3
    for other in _DISTANCE:
        if other != shape:
            overlap = _DISTANCE[other](u, v) < 0
            assert (inside & overlap).sum() / (inside | overlap).sum() < 0.93, other


def test_bad_input():
    with pytest.raises(ValueError, match=r"no split is called 'val'. Splits: train, validation, test"):
        Shapes("val")
    for n in (-1, 2**32, 10**20, 1.5):
        with pytest.raises(ValueError, match=r"shapes: n must be a whole number from 0 to 4294967295, got "):
            Shapes("test", n=n)
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=r"shapes: seed must be a whole number from 0 to 4294967295, got "):
            Shapes("test", 1, seed)
    assert len(Shapes("test", 1, 2**32 - 1)[0]) == 2
