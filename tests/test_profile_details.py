"""Histograms and extreme images by class, against numpy on captured gates; when they are kept, and that they go on."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_profiles import Stopping, model
from torch.utils.data import DataLoader, Subset, TensorDataset

from ecaviz import gates, image_fingerprints, images, site_statistics
from ecaviz.attention_profile import DETAILS_AT_MOST, STATISTICS, accumulators, details_size
from ecaviz.batches import batches
from ecaviz.profiles import AttentionProfile, profile
from ecaviz.shapes import CLASSES, normalise
from ecaviz.shards import Shard
from ecaviz.statistics import Histogram, Tails, TopK

N, BATCH, TOP = 48, 8, 3
WHAT = ("histogram", "largest", "smallest")
SETTINGS = {
    "moments": {},
    "tails": {"low": 0.05, "high": 0.95},
    "histogram": {"bins": 64, "low": 0.0, "high": 1.0},
    "largest": {"k": 4, "largest": True},
    "smallest": {"k": 4, "largest": False},
}


class Some:
    """Pictures of 7 of the 12 classes, 20 of them several times, so that gates tie within a class."""

    classes = CLASSES

    def __init__(self):
        drawn = images.shapes("test", 60)
        chosen = [i for i in range(60) if drawn[i][1] in (0, 2, 3, 5, 8, 9, 11)][:28]
        self.items = [drawn[i] for i in [*chosen, *chosen[:20]]]

    def __len__(self):
        return N

    def __getitem__(self, i):
        if not 0 <= i < N:
            raise IndexError(i)
        return self.items[i]


@pytest.fixture(scope="module")
def some():
    return Some()


@pytest.fixture(scope="module")
def captured(some):
    """Gates N×C by site, of the batches that the profile has; and the labels."""
    loaded = model()
    x, labels = torch.stack([x for x, _ in some.items]), torch.tensor([label for _, label in some.items])
    with torch.no_grad(), gates.evaluating(loaded.net), gates.capture(loaded) as found:
        for batch in normalise(x).split(BATCH):
            loaded.net(batch)
    return {name: record.gate.numpy() for name, record in found.items()}, labels.numpy()


def run(some, loaded=None, **options):
    options = {"by": "class", "batch_size": BATCH, "top": TOP, "progress": False} | options
    return profile(loaded or model(), some, **options)


@pytest.fixture(scope="module")
def detailed(some):
    return run(some)


@pytest.fixture(scope="module")
def pooled(some):
    return run(some, details="pooled")


def assert_equal(one, other):
    """To the last bit, but for the rounding of means and variances."""
    assert (one.n, one.positions, one.classes, one.details) == (other.n, other.positions, other.classes, other.details)
    assert list(one) == list(other)
    for name in one:
        for what in STATISTICS:
            for part in ("", "by_class") if one.details == "class" and what in WHAT else ("",):
                mine, its = (getattr(getattr(p[name], part) if part else p[name], what) for p in (one, other))
                assert repr(mine) == repr(its)
                state = its.state_dict()
                for key, value in mine.state_dict().items():
                    close = {} if what == "moments" and key in ("mean", "m2") else {"rtol": 0, "atol": 0}
                    torch.testing.assert_close(value, state[key], **close, equal_nan=True, msg=f"{name} {what} {key}")


def first(values, k, largest):
    """(value, position) of the k most extreme; of equal ones those that come first."""
    order = sorted(range(len(values)), key=lambda i: (-values[i] if largest else values[i], i))[:k]
    return [values[i] for i in order], order


# ---------------------------------------------------------------------------------------------------- what they hold


def test_the_pictures_of_these_tests_tie_and_some_classes_have_none(captured):
    found, labels = captured
    assert sorted(set(labels)) == [0, 2, 3, 5, 8, 9, 11]
    assert min((labels == c).sum() for c in set(labels)) > TOP
    for gate in found.values():
        assert all(len(np.unique(gate[labels == c, 4])) < (labels == c).sum() for c in (0, 2, 3))
        assert gate.std(0).max() > 0.02


def test_histograms_by_class_are_those_of_numpy(captured, detailed):
    found, labels = captured
    edges = np.linspace(0, 1, 65)
    assert detailed.details == "class"
    for name, gate in found.items():
        counts = detailed[name].by_class.histogram.counts
        assert counts.shape == (12, 16, 64)
        for c in range(12):
            mine = gate[labels == c]
            expected = np.stack([np.histogram(mine[:, i], edges)[0] for i in range(16)])
            assert (counts[c].numpy() == expected).all()
            assert (detailed.histogram(name, CLASSES[c]).numpy() == expected).all()
        together = np.stack([np.histogram(gate[:, i], edges)[0] for i in range(16)])
        assert (detailed.histogram(name).numpy() == together).all()
    assert (counts.sum((1, 2)) > 0).sum() == 7


def test_extreme_images_by_class_are_a_stable_sort(captured, detailed):
    found, labels = captured
    for name, gate in found.items():
        for what in ("largest", "smallest"):
            top = getattr(detailed[name].by_class, what)
            assert top.values.shape == (12, 16, TOP)
            for c in range(12):
                (at,) = np.nonzero(labels == c)
                if not len(at):
                    assert (top.index[c] == -1).all()
                    continue
                for i in range(16):
                    values, order = first(gate[at, i], TOP, what == "largest")
                    assert top.values[c, i].tolist() == values
                    assert top.index[c, i].tolist() == at[order].tolist()


def test_all_classes_together_are_as_if_there_were_none(captured, detailed, pooled):
    found, _ = captured
    assert pooled.details == "pooled"
    for name, gate in found.items():
        assert pooled[name].by_class is None
        site = detailed[name]
        assert torch.equal(site.by_class.histogram.counts.sum(0), site.histogram.counts[0])
        for what in WHAT:
            mine, its = (getattr(one[name], what) for one in (detailed, pooled))
            assert repr(mine) == repr(its)
            for key, value in mine.state_dict().items():
                assert torch.equal(value, its.state_dict()[key]), (name, what, key)
        for i in range(16):
            values, order = first(gate[:, i], TOP, True)
            assert site.largest.index[0, i].tolist() == order
            assert site.largest.values[0, i].tolist() == values


def test_one_class_and_one_image_a_class(some):
    def gray(*positions, classes):
        found = TensorDataset(torch.stack([some.items[i][0] for i in positions]), torch.arange(len(positions)))
        found.classes = classes
        return found

    alone = run(gray(0, classes=("one",)))
    assert (alone.details, alone["se"].by_class.histogram.counts.shape) == ("class", (1, 16, 64))
    assert torch.equal(alone.histogram("se", "one"), alone.histogram("se"))
    each = run(gray(0, 1, 2, classes=("a", "b", "c")))
    assert each["se"].by_class.largest.index[:, 0].tolist() == [[0, -1, -1], [1, -1, -1], [2, -1, -1]]
    assert len(each.extremes("se", 0, by="class")) == 6


@pytest.mark.parametrize("seed", range(6))
def test_pooled_accumulators_are_those_without_groups(seed):
    random = torch.Generator().manual_seed(seed)
    x = (torch.rand(60, 5, generator=random) * 9).round() / 9  # many ties
    x[torch.rand(60, 5, generator=random) < 0.1] = torch.nan
    labels, numbers = torch.randint(0, 7, (60,), generator=random), 2 * torch.randperm(60, generator=random) + 1
    for make in (
        lambda groups: Histogram(5, 16, groups, low=0.1),
        lambda groups: Tails(5, 0.2, 0.8, groups),
        lambda groups: TopK(5, 4, groups),
        lambda groups: TopK(5, 4, groups, largest=False),
    ):
        apart, together = make(7), make(None)
        for piece in (slice(0, 25), slice(25, 26), slice(26, 60)):
            options = {"index": numbers[piece]} if isinstance(apart, TopK) else {}
            apart.update(x[piece], labels[piece], **options)
            together.update(x[piece], **options)
        found, before = apart.pooled(), apart.state_dict()
        assert repr(found) == repr(together)
        for key, value in found.state_dict().items():
            torch.testing.assert_close(value, together.state_dict()[key], rtol=0, atol=0, equal_nan=True)
        options = {"index": torch.arange(0, 120, 2)} if isinstance(apart, TopK) else {}
        for one in (found, together):
            one.update(x.flip(0), **options)  # what is pooled can go on, by itself
        for key, value in found.state_dict().items():
            torch.testing.assert_close(value, together.state_dict()[key], rtol=0, atol=0, equal_nan=True)
        for key, value in apart.state_dict().items():
            torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)


def test_joined_sites_by_class_are_as_by_themselves(monkeypatch):
    monkeypatch.setattr(site_statistics, "AT_ONCE", 8)
    random, widths = torch.Generator().manual_seed(0), {"a": 3, "b": 4, "c": 9}
    joined = site_statistics.SiteStatistics(5, SETTINGS, "cpu", True)
    alone = {name: accumulators(width, 5, SETTINGS, "cpu", True) for name, width in widths.items()}
    for start in (0, 20, 40):
        labels, numbers = torch.randint(0, 5, (20,), generator=random), torch.arange(start, start + 20)
        given = {name: torch.rand(20, width, generator=random) for name, width in widths.items()}
        joined.update(given, site_statistics.Groups.of(labels, 5), site_statistics.Numbers.of(numbers))
        for name, statistics in alone.items():
            for one in statistics.values():
                one.update(given[name], labels, **({"index": numbers} if isinstance(one, TopK) else {}))
    for name in widths:
        found = joined.of(name)
        for what in WHAT:
            assert found[what].groups == 5
            for key, value in found[what].state_dict().items():
                torch.testing.assert_close(value, alone[name][what].state_dict()[key], rtol=0, atol=0, equal_nan=True)


# ------------------------------------------------------------------------------------------------ when they are kept


def test_the_size_is_that_of_the_tensors():
    for details, expected in ((True, details_size(12, 40, SETTINGS)), (False, details_size(1, 40, SETTINGS))):
        kept = accumulators(40, 12, SETTINGS, "cpu", details)
        tensors = [v for what in WHAT for k, v in vars(kept[what]).items() if isinstance(v, torch.Tensor)]
        assert sum(v.nbytes for v in tensors) == expected + 2 * 8  # and of each of the TopK a count of the rows
    assert details_size(12, 960, SETTINGS) < DETAILS_AT_MOST < details_size(1000, 15_104, SETTINGS)
    assert details_size(1000, 15_104, SETTINGS) == 1000 * 15_104 * 616  # the number that the documentation has


def test_without_being_asked_they_are_kept_where_they_are_small(some, monkeypatch, detailed, pooled):
    size = details_size(12, 32, SETTINGS | {"largest": {"k": TOP}, "smallest": {"k": TOP}})
    monkeypatch.setattr(site_statistics, "DETAILS_AT_MOST", size)
    assert_equal(run(some), detailed)
    monkeypatch.setattr(site_statistics, "DETAILS_AT_MOST", size - 1)
    small = run(some)
    assert_equal(small, pooled)
    with pytest.raises(ValueError, match=r'details="class"\) keeps them by class: 0 MiB'):
        small.histogram("se", "star")
    assert_equal(run(some, details="class"), detailed)


def test_memory_does_not_grow_with_the_images(some, tmp_path):
    sizes = [run(Subset(some, range(n))).save(tmp_path / str(n)).stat().st_size for n in (9, N)]
    assert abs(sizes[0] - sizes[1]) < 64
    assert sizes[0] < 3 * details_size(12, 32, SETTINGS)


def test_memory_that_runs_out_says_what_for(some, monkeypatch):
    def refuse(*given):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes.")

    monkeypatch.setattr(site_statistics, "accumulators", refuse)
    with pytest.raises(RuntimeError, match="can't allocate") as caught:
        run(some, details="class")
    assert "for 32 channels and 12 classes" in caught.value.__notes__[0]
    assert 'details="pooled"' in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match="can't allocate") as caught:
        run(some, details="pooled")
    assert not any("pooled" in note for note in caught.value.__notes__), "that is what there is already"


def test_bad_arguments(some, detailed, pooled):
    with pytest.raises(ValueError, match='details must be "class", "pooled" or None, got \'all\''):
        run(some, details="all")
    with pytest.raises(ValueError, match=r'details="class" keeps the classes apart, so by="class" was expected'):
        run(some, details="class", by=None)
    assert run(some, details="pooled", by=None).details == "pooled"
    with pytest.raises(ValueError, match=r"there is no class 'nobody'; there are: disc, "):
        detailed.histogram("se", "nobody")
    with pytest.raises(KeyError, match="no site 'nowhere'"):
        detailed.histogram("nowhere", "star")
    with pytest.raises(ValueError, match=r'all classes together only\. profile\(…, by="class", details="class"\)'):
        pooled.extremes("se", by="class")
    with pytest.raises(ValueError, match=r'all classes together only\. Profile with by="class"\.'):
        run(some, by=None).extremes("se", by="class")
    with pytest.raises(ValueError, match=r'there are: all\. Profile with by="class"'):
        run(some, by=None).histogram("se", "star")
    with pytest.raises(ValueError, match="by must be \"class\" or None, got 'star'"):
        detailed.extremes("se", by="star")
    with pytest.raises(ValueError, match="se has the channels 0 to 15, got 16"):
        detailed.extremes("se", 16)
    with pytest.raises(ValueError, match="channel must be a whole number of at least 0, got -1"):
        detailed.extremes("se", -1)


# --------------------------------------------------------------------------------------------------------- the table


def test_the_table_of_extreme_images(captured, detailed):
    found, labels = captured
    frame = detailed.extremes("eca", by="class")
    assert list(frame.columns) == ["site", "channel", "class", "extreme", "rank", "gate", "image"]
    assert len(frame) == 7 * 16 * TOP * 2
    assert not frame.duplicated(["class", "channel", "extreme", "rank"]).any()
    for row in frame.itertuples():
        assert row.gate == found["eca"][row.image, row.channel]
        assert CLASSES[labels[row.image]] == row[3]
    for (name, channel, extreme), part in frame.groupby(["class", "channel", "extreme"]):
        (at,) = np.nonzero(labels == CLASSES.index(name))
        values, order = first(found["eca"][at, channel], TOP, extreme == "largest")
        assert part["rank"].tolist() == list(range(TOP))
        assert part["gate"].tolist() == values
        assert part["image"].tolist() == at[order].tolist()
    one = detailed.extremes("eca", 5, by="class")
    expected = frame[frame["channel"] == 5].reset_index(drop=True)
    assert one.equals(expected)
    together = detailed.extremes("eca")
    assert set(together["class"]) == {"all"}
    assert len(together) == 16 * TOP * 2
    assert together.query("channel == 3 and extreme == 'smallest'")["image"].tolist() == (
        detailed["eca"].smallest.index[0, 3].tolist()
    )


# ------------------------------------------------------------------------------------------ files, merging, going on


def header_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)


def test_a_file_holds_them(detailed, tmp_path):
    path = detailed.save(tmp_path / "p")
    again = AttentionProfile.load(path)
    assert_equal(again, detailed)
    assert_equal(again.merge(again), detailed.merge(detailed))
    header, tensors = header_of(path)
    assert header["version"] == "2"
    assert tensors["0.histogram.counts"].shape == (12, 16, 64)
    del header["ecaviz_digest"]
    save_file(tensors, path, metadata=header | {"version": "1"})
    with pytest.raises(ValueError, match="is damaged"):
        AttentionProfile.load(path)
    for twin in (pickle.loads(pickle.dumps(detailed)), copy.deepcopy(detailed)):
        assert_equal(twin, detailed)


def test_a_file_without_them_is_as_it_always_was(pooled, tmp_path):
    """Written as before there were any, so that what reads only those files reads it; and those files are read."""
    path = pooled.save(tmp_path / "p")
    header, tensors = header_of(path)
    about = json.loads(header["profile"])
    assert header["version"] == "1"
    assert set(about) == {
        "model", "source", "fingerprint", "images", "by", "classes", "n", "positions", "skipped", "asked", "sites",
    }  # fmt: skip
    assert set(about["sites"][0]) == {
        "name", "family", "channels", "kernel_size", "reduction", "activation", "per", *STATISTICS,
    }  # fmt: skip
    kept = {"moments": "n mean m2 min max", "tails": "n low_count high_count", "histogram": "counts outside"}
    kept |= dict.fromkeys(("largest", "smallest"), "values index rows")
    names = {f"{i}.{what}.{key}" for i in (0, 1) for what, keys in kept.items() for key in keys.split()}
    assert set(tensors) == {"counts", "correct", *names}
    assert tensors["1.largest.values"].shape == (1, 16, TOP)
    assert_equal(AttentionProfile.load(path), pooled)


def test_merged_parts_are_one_pass(some, detailed):
    parts = [run(some, shard=Shard(rank, 3)) for rank in range(3)]
    assert [part.n for part in parts] == [16, 16, 16]
    assert_equal(parts[0].merge(parts[1]).merge(parts[2]), detailed)
    assert_equal(parts[0].merge(parts[1].merge(parts[2])), detailed)


def test_parts_of_which_one_has_no_details_are_merged_without(some, pooled, tmp_path):
    parts = [run(some, shard=Shard(rank, 3), details="pooled" if rank == 1 else None) for rank in range(3)]
    assert [part.details for part in parts] == ["class", "pooled", "class"]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert_equal(merged, pooled)
    assert_equal(AttentionProfile.load(merged.save(tmp_path / "p")), pooled)
    assert parts[0].details == "class"


@pytest.mark.parametrize("every", [1, 100])
def test_an_interrupted_pass_goes_on_to_the_same_details(some, detailed, tmp_path, every):
    options = {"checkpoint": tmp_path / "p", "every": every}
    stopping = Stopping(some, 30)
    with pytest.raises(KeyboardInterrupt):
        run(stopping, **options)
    half = AttentionProfile.load(tmp_path / "p")
    assert (half.n, half.details) == (24, "class")
    assert_equal(run(stopping, **options), detailed)
    assert_equal(AttentionProfile.load(tmp_path / "p"), detailed)
    stopping.read.clear()
    assert_equal(run(stopping, **options), detailed)
    assert stopping.read == [*range(image_fingerprints.FIRST)]  # to tell that the images are the same


@pytest.mark.parametrize("kept", ["class", "pooled"])
def test_a_pass_goes_on_as_the_checkpoint_is(some, detailed, pooled, tmp_path, monkeypatch, kept):
    """Where nothing is asked for; what is asked for has to be there."""
    path = tmp_path / "p"
    with pytest.raises(KeyboardInterrupt):
        run(Stopping(some, 30), checkpoint=path, details=kept)
    before = path.read_bytes()
    other = "pooled" if kept == "class" else "class"
    with pytest.raises(ValueError, match=r"is of another run: it differs in details\. Delete it"):
        run(Stopping(some, None), checkpoint=path, details=other)
    assert path.read_bytes() == before
    if kept == "class":
        monkeypatch.setattr(site_statistics, "DETAILS_AT_MOST", 0)  # as if they were large
    assert_equal(run(Stopping(some, None), checkpoint=path), detailed if kept == "class" else pooled)


# ------------------------------------------------------------------ the transform is a part of what a checkpoint is of


class Scaled:
    """A transform with words of its own."""

    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return normalise(x) * self.by

    def __repr__(self):
        return f"Scaled(by={self.by})"


class Nameless:
    """One whose words are an address."""

    def __call__(self, x):
        return normalise(x)


def other(x):
    return normalise(x) + 1


def test_a_pass_with_another_transform_is_another_run(some, tmp_path):
    for i, (one, same, another) in enumerate(
        ((Scaled(1), Scaled(1), Scaled(2)), (normalise, normalise, other), (Nameless(), Nameless(), Scaled(1)))
    ):
        path = tmp_path / str(i)
        run(some, model(transform=one), checkpoint=path)
        with pytest.raises(ValueError, match=r"is of another run: it differs in transform\."):
            run(some, model(transform=another), checkpoint=path)
        assert run(some, model(transform=same), checkpoint=path).n == N


def test_the_transform_of_the_set_counts_and_one_that_is_not_used_does_not(some, tmp_path):
    x, labels = torch.stack([x for x, _ in some.items]), torch.tensor([label for _, label in some.items])
    ready = TensorDataset(normalise(x), labels)
    ready.classes = CLASSES
    run(DataLoader(ready, batch_size=BATCH), checkpoint=tmp_path / "p")
    again = run(DataLoader(ready, batch_size=BATCH), model(transform=other), checkpoint=tmp_path / "p")
    assert again.n == N  # the loader gives what goes into the network
    ready.transform = Scaled(2)  # what torchvision's sets have
    with pytest.raises(ValueError, match="differs in transform"):
        run(DataLoader(ready, batch_size=BATCH), checkpoint=tmp_path / "p")


def test_a_checkpoint_from_before_the_transform_was_kept_goes_on(some, tmp_path, detailed):
    path = tmp_path / "p"
    with pytest.raises(KeyboardInterrupt):
        run(Stopping(some, 30), checkpoint=path)
    header, tensors = header_of(path)
    about = json.loads(header["profile"])
    assert len(about["asked"].pop("transform")) == 16
    del header["ecaviz_digest"]
    save_file(tensors, path, metadata=header | {"profile": json.dumps(about)})
    assert_equal(run(Stopping(some, None), checkpoint=path), detailed)
    assert "transform" in AttentionProfile.load(path).asked


def test_the_transform_s_digits_are_the_same_in_another_process():
    import ecaviz

    def digits():
        return [
            batches(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), transform).transform
            for transform in (ecaviz.load("shapes-eca-k3", device="cpu").transform, normalise, Nameless())
        ]

    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import torch, ecaviz\n"
        "from ecaviz.batches import batches\n"
        "from ecaviz.shapes import normalise\n"
        "from test_profile_details import Nameless\n"
        "for one in (ecaviz.load('shapes-eca-k3', device='cpu').transform, normalise, Nameless()):\n"
        "    print(batches(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), one).transform)\n"
    )
    folder = __file__.rpartition("tests")[0]
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=folder or ".")
    assert ran.stdout.split() == digits()
    assert len(set(digits())) == 3
