"""The nearest classes: against plain numpy, and on a network whose truths were planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import CLASSES, CONSTANT, SITES, Planted, PlantedImages, transform

import ecaviz
from ecaviz.nearest import nearest_classes


@pytest.fixture(scope="module")
def model():
    return ecaviz.load(Planted(), transform=transform, classes=CLASSES)


@pytest.fixture(scope="module")
def profile(model):
    return ecaviz.profile(model, PlantedImages(240), by="class", progress=False)


def gates_of(model, images):
    """ω by site, N×C float64."""
    x = transform(images.images)
    with torch.no_grad(), ecaviz.capture(model) as captured:
        model.net(x)
    return {name: record.by_channel.double().numpy() for name, record in captured.items()}


def by_hand(gate, known, labels):
    """The distances at one site of one image, from the gates of the known images themselves; class by class."""
    names = np.unique(labels)
    squares = sum(((known[labels == g] - known[labels == g].mean(0)) ** 2).sum(0) for g in names)
    s = np.sqrt(squares / (len(known) - len(names)))
    use = s >= 1e-6
    return [np.sqrt(np.mean(((gate - known[labels == g].mean(0)) / s)[use] ** 2)) for g in names]


@pytest.mark.parametrize("sites", [None, "late", ["early"]])
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_is_what_plain_numpy_gives(model, profile, sites):
    images = PlantedImages(240)
    known, labels = gates_of(model, images), images.labels.numpy()
    fresh = gates_of(model, PlantedImages(5, seed=7))
    chosen = SITES if sites is None else ["late"] if sites == "late" else sites
    for i in range(5):
        one = {name: torch.from_numpy(part[i]) for name, part in fresh.items()}
        expected = np.mean([by_hand(fresh[name][i], known[name], labels) for name in chosen], axis=0)
        table = nearest_classes(one, profile, sites)
        assert list(table.columns) == ["class", "distance", "rank"]
        assert table["rank"].tolist() == [1, 2, 3]
        assert table["class"].tolist() == [CLASSES[g] for g in np.argsort(expected)]
        assert table["distance"].to_numpy() == pytest.approx(np.sort(expected), rel=1e-4)


def test_a_channel_that_does_not_vary_is_left_out(profile, model):
    fresh = {name: part[0] for name, part in gates_of(model, PlantedImages(1, seed=3)).items()}
    moved = {name: part.copy() for name, part in fresh.items()}
    moved["late"][CONSTANT] += 0.3
    before, after = (nearest_classes(one, profile, "late") for one in (fresh, moved))
    assert np.array_equal(before["distance"], after["distance"])


def hits(model, profile, site, n=150, *, shuffled=False):
    images = PlantedImages(n, seed=11, shuffled=shuffled)
    gates = gates_of(model, images)
    first = [
        nearest_classes({name: part[i] for name, part in gates.items()}, profile, site)["class"][0] for i in range(n)
    ]
    return np.mean([name == CLASSES[label] for name, label in zip(first, images.labels, strict=True)])


def test_finds_the_planted_class_where_it_is_and_nowhere_else(model, profile):
    assert hits(model, profile, "late") > 0.95
    assert abs(hits(model, profile, "early") - 1 / 3) < 4 * np.sqrt(2 / 9 / 150)  # four standard errors about chance


def test_finds_no_class_that_was_drawn_by_lot(model):
    lots = ecaviz.profile(model, PlantedImages(240, shuffled=True), by="class", progress=False)
    for site in SITES:
        assert abs(hits(model, lots, site, shuffled=True) - 1 / 3) < 4 * np.sqrt(2 / 9 / 150)


def test_the_own_class_is_at_about_one(model, profile):
    images = PlantedImages(150, seed=5)
    gates = gates_of(model, images)
    own = []
    for i, label in enumerate(images.labels):
        table = nearest_classes({name: part[i] for name, part in gates.items()}, profile).set_index("class")
        own.append(table.loc[CLASSES[label], "distance"])
    assert np.mean(np.square(own)) == pytest.approx(1, abs=0.12)


def test_takes_what_capture_gives(model, profile):
    images = PlantedImages(2, seed=9)
    with torch.no_grad(), ecaviz.capture(model) as captured:
        model.net(transform(images.images[:1]))
    rows = {name: part[0] for name, part in gates_of(model, PlantedImages(2, seed=9)).items()}
    assert nearest_classes(captured, profile)["distance"].to_numpy() == pytest.approx(
        nearest_classes(rows, profile)["distance"].to_numpy(), rel=1e-5
    )
    with torch.no_grad(), ecaviz.capture(model) as captured:
        model.net(transform(images.images))
    with pytest.raises(ValueError, match="one image, 8 numbers, were expected at early, got 2×8"):
        nearest_classes(captured, profile)


def test_classes_without_images_are_left_out(model):
    class Two(PlantedImages):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image, 2 * (label // 2)  # no image of the middle class

    profile = ecaviz.profile(model, Two(60), by="class", progress=False)
    one = {name: part[0] for name, part in gates_of(model, PlantedImages(1)).items()}
    assert set(nearest_classes(one, profile)["class"]) == {CLASSES[0], CLASSES[2]}


def test_bad_input_is_said_in_words(model, profile):
    one = {name: part[0] for name, part in gates_of(model, PlantedImages(1)).items()}
    pooled = ecaviz.profile(model, PlantedImages(6), progress=False)
    with pytest.raises(ValueError, match=r'by="class"'):
        nearest_classes(one, pooled)
    single = ecaviz.profile(model, PlantedImages(3), by="class", progress=False)
    with pytest.raises(ValueError, match="two or more images of a class"):
        nearest_classes(one, single)
    with pytest.raises(ValueError, match="no gates of late"):
        nearest_classes({"early": one["early"]}, profile)
    with pytest.raises(ValueError, match="no site matches 'middle'"):
        nearest_classes(one, profile, "middle")
    with pytest.raises(ValueError, match="8 numbers"):
        nearest_classes(one | {"late": one["late"][:4]}, profile)
