"""The tables of coverage: allowed against the structures, recorded against the bundled networks measured anew."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import ecaviz
from ecaviz import attention, bundle, coverage_records, coverages, interaction, locality
from ecaviz.networks import Architecture, build
from ecaviz.shapes import Shapes, normalise


@pytest.fixture(scope="module")
def held_out():
    return normalise(Shapes("test", coverage_records.IMAGES).tensors()[0])


# What is allowed.


def test_allowed_is_the_structure_of_every_k_and_r():
    table = coverages.allowed((8, 64), (1, 3), (4, 16))
    assert len(table) == 2 * 2 + 1 + 2  # r = 16 leaves no hidden unit at C = 8
    for row in table.itertuples():
        if row.family == "eca":
            form = interaction.eca_structure(row.channels, row.kernel_size)
            assert pd.isna(row.reduction)
        else:
            form = interaction.se_structure(row.channels, int(row.reduction))
            assert pd.isna(row.kernel_size)
        assert (row.pairs, row.rank, row.parameters, row.multiply_adds) == (
            form.pairs,
            form.rank,
            form.parameters,
            form.multiply_adds,
        )
        assert row.structural == form.pairs / row.channels**2
        assert row.rank_share == form.rank / row.channels
    with pytest.raises(ValueError, match="odd whole number"):
        coverages.allowed(sizes=(2,))


# What sites realise.


def test_coverage_table_is_coverage_site_by_site():
    images = ecaviz.images.shapes("test", 60)
    table = coverages.coverage_table(["shapes-se-r8", "shapes-eca-k5"], images, resamples=20)
    assert table["model"].value_counts().to_dict() == {"shapes-se-r8": 8, "shapes-eca-k5": 8}
    assert table["seed"].isna().all()
    for name in ("shapes-se-r8", "shapes-eca-k5"):
        model = ecaviz.load(name)
        row = table[(table["model"] == name) & (table["site"] == "layer3.1.se")].iloc[0]
        cover = ecaviz.coverage(ecaviz.interaction_matrix(model, "layer3.1.se", images))
        assert (row["rank"], row["pairs"], row["channels"]) == (cover.rank, cover.pairs, 128)
        assert row["partners"] == cover.participation_median
        assert row["directness"] == cover.directness_mean
        assert row["effective_rank"] == cover.effective_rank
        assert row["partners_low"] <= row["partners"] <= row["partners_high"]
    se, eca = (table[table["family"] == family] for family in ("se", "eca"))
    assert (se["kind"] == "realised").all()
    assert (eca["kind"] == "exact").all()
    assert (se["partners_low"] < se["partners_high"]).all()
    assert (eca["partners_low"] == eca["partners_high"]).all()
    assert (eca["image_directness_sd"] == 0).all()
    assert (se["image_rank"] <= se["rank"]).all()
    assert (se["image_rank_sd"] > 0).any()
    assert eca["kernel_size"].tolist() == [5] * 8
    assert se["reduction"].tolist() == [8.0] * 8


def test_both_maps_of_cbam_have_a_row():
    table = coverages.coverage_table(
        "shapes-cbam", ecaviz.images.shapes("test", 24), "layer4.1.se.channel", resamples=5
    )
    assert table["squeeze"].tolist() == ["avg", "max"]
    assert table["directness"].nunique() == 2


def test_any_network_of_ones_own_and_a_site_that_is_never_active():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), attention.build("se", 8, reduction=2)).eval()
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.fill_(1)
        net[1].excite.fc1.weight.abs_().neg_()
    (row,) = coverages.coverage_table(ecaviz.load(net), torch.rand(6, 3, 4, 4), resamples=5).to_dict("records")
    assert (row["rank"], row["silent"], row["image_rank"]) == (0, 1, 0)
    assert math.isnan(row["directness"])
    assert math.isnan(row["image_directness"])
    assert row["partners"] == 0


def test_locality_table_is_the_tests_site_by_site():
    images = ecaviz.images.shapes("test", 40)
    table = coverages.locality_table("shapes-se-r16", images, "layer1.*", draws=99, seriated_draws=9, sizes=(3, 33))
    assert table[["site", "ordering", "null", "k"]].values.tolist() == [
        [site, *which, 3]
        for site in ("layer1.0.se", "layer1.1.se")
        for which in (("given", "renumbered"), ("seriated", "entries"), ("seriated", "matching"))
    ]  # C = 32: a band of 33 would hold all but a few pairs
    matrix = ecaviz.interaction_matrix(ecaviz.load("shapes-se-r16"), "layer1.1.se", images)
    given = locality.band_test(matrix, (3,), draws=99)
    row = table.iloc[3]
    assert (row["energy"], row["p"]) == (float(given.energy[0]), float(given.p[0]))
    assert row["pairs"] == (3 * 32 - 2) / 32**2
    given_alone = coverages.locality_table("shapes-se-r16", images, "layer1.0.se", draws=9, seriated_draws=0)
    assert set(given_alone["ordering"]) == {"given"}


# What was recorded.


def test_every_run_with_a_j_was_recorded():
    table, runs = coverages.recorded(), ecaviz.results.runs()
    found = set(map(tuple, table[["model", "seed"]].drop_duplicates().values))
    without = {"shapes-none", "shapes-se-var1", "shapes-ge-theta-minus"}  # nothing of their J is learnt
    expected = {(row.name, row.seed) for row in runs.itertuples(index=False) if row.name not in without}
    assert found == expected
    assert table.groupby(["model", "seed", "squeeze"]).size().unique().tolist() == [8]
    local = coverages.recorded_locality()
    assert set(local["family"]) == {"se", "se-var3", "cbam", "ge-theta-plus"}
    full = set(
        map(
            tuple,
            table[(table["structural"] == 1) & (table["kind"] != "influence")][["model", "seed"]]
            .drop_duplicates()
            .values,
        )
    )
    assert set(map(tuple, local[["model", "seed"]].drop_duplicates().values)) == full


CHECKED = ["shapes-se-r16", "shapes-eca-k3", "shapes-cbam"]
REST = sorted({name for name in bundle.BUNDLE if name.startswith("shapes-")} - {*CHECKED, "shapes-none"})


@pytest.mark.parametrize("name", [*CHECKED, *(pytest.param(name, marks=pytest.mark.long) for name in REST)])
def test_recorded_rows_come_out_again(name, held_out):
    """Seed 0 of each, measured anew on the bundled network."""
    architecture, state, _, _ = bundle.read(name)
    net = build(architecture)
    net.load_state_dict(state)
    rows, local = coverage_records.measure(name, 0, net.eval(), held_out)
    if name in ("shapes-se-var1", "shapes-ge-theta-minus"):
        assert rows == local == []
        return
    table = coverages.recorded()
    table = table[(table["model"] == name) & (table["seed"] == 0)]
    for column in ("pairs", "rank", "parameters", "images"):
        found = [row[column] for row in rows]
        assert table[column].astype(float).fillna(-1).tolist() == [-1 if math.isnan(one) else one for one in found]
    # A unit that is all but zero on some image can be on the other side of it on another machine.
    for column in ("partners", "directness", "effective_rank", "image_rank", "image_directness", "silent"):
        np.testing.assert_allclose(table[column], [row[column] for row in rows], rtol=2e-3, atol=2e-3, err_msg=column)
    if local:
        kept = coverages.recorded_locality()
        kept = kept[(kept["model"] == name) & (kept["seed"] == 0)]
        assert kept["k"].tolist() == [row["k"] for row in local]
        np.testing.assert_allclose(kept["energy"], [row["energy"] for row in local], rtol=2e-2)
        np.testing.assert_allclose(kept["p"], [row["p"] for row in local], atol=0.1)


def test_recorded_energies_are_those_of_the_matrix():
    """Of one site of the bundled SE, by numpy alone: W2·diag(p)·W1 from weights and hooks, entry by entry."""
    name, site = "shapes-se-r16", "layer3.1.se"
    model = ecaviz.load(name)
    se, seen = model.net.get_submodule(site), []
    hook = se.excite.fc1.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach() > 0))
    images = normalise(Shapes("test", coverage_records.IMAGES).tensors()[0])
    with torch.no_grad():
        for batch in images.split(200):
            model.net(batch)
    hook.remove()
    p = torch.cat(seen).double().mean(dim=0).numpy()
    J = (se.excite.fc2.weight.detach().double().numpy() * p) @ se.excite.fc1.weight.detach().double().numpy()
    square, distance = J**2, np.abs(np.subtract.outer(np.arange(128), np.arange(128)))
    kept = coverages.recorded_locality()
    kept = kept[(kept["model"] == name) & (kept["seed"] == 0) & (kept["site"] == site) & (kept["ordering"] == "given")]
    assert kept["k"].tolist() == [3, 9, 33]
    for row in kept.itertuples():
        assert row.energy == pytest.approx(square[distance <= row.k // 2].sum() / square.sum(), rel=1e-3)
        share = ((distance <= row.k // 2).sum() - 128) / (128**2 - 128)
        trace = square.diagonal().sum() / square.sum()
        assert row.expected == pytest.approx(trace + (1 - trace) * share, rel=1e-3)
    table = coverages.recorded()
    row = table[(table["model"] == name) & (table["seed"] == 0) & (table["site"] == site)].iloc[0]
    assert row["directness"] == pytest.approx((square.diagonal() / square.sum(axis=1)).mean(), rel=1e-3)


def test_rows_of_a_run_replace_those_of_the_same_run(tmp_path):
    torch.manual_seed(0)
    net = build(Architecture("se", {"reduction": 16})).eval()
    images = normalise(Shapes("test", 24).tensors()[0])
    one, local = coverage_records.measure("mine", 1, net, images)
    coverage_records.record(one, local, tmp_path)
    coverage_records.record([row | {"seed": 0} for row in one], [row | {"seed": 0} for row in local], tmp_path)
    coverage_records.record([row | {"directness": 0.5} for row in one], local, tmp_path)
    table = coverages.recorded(tmp_path)
    assert table["seed"].tolist() == [0] * 8 + [1] * 8
    assert (table["directness"][8:] == 0.5).all()
    np.testing.assert_allclose(table["partners"][:8], [row["partners"] for row in one], rtol=1e-5)
    assert len(coverages.recorded_locality(tmp_path)) == 2 * len(local)
    assert table["squeeze"].tolist() == [""] * 16
    with pytest.raises(FileNotFoundError, match=r"there is no .*coverage.csv.*--record"):
        coverages.recorded(tmp_path / "elsewhere")


def test_networks_at_hand_are_measured_anew(tmp_path, monkeypatch):
    """Those of a folder, and those of other seeds that training left; of the procedural images alone."""
    monkeypatch.setattr(coverage_records, "IMAGES", 24)
    images = normalise(Shapes("test", 24).tensors()[0])
    folder, scratch = tmp_path / "checkpoints", tmp_path / "training"
    how = Architecture("se", {"reduction": 2}, blocks=(1, 1, 1, 1), planes=(4, 4, 4, 4), stem=4, classes=12)
    row = {"epochs": 1, "train_images": 1, "seconds": 1.0, "hardware": "-", "test_images": 1, "accuracy": 0.5}
    nets = {}
    for name, seed, data, place in (
        ("shapes-se-r8", 0, "shapes", folder),
        ("cifar10-se-r8", 0, "cifar10", folder),
        ("shapes-se-r8-seed3", 3, "shapes", scratch),
        ("shapes-unknown-seed3", 3, "shapes", scratch),
    ):
        torch.manual_seed(seed)
        nets[name] = build(how).eval()
        bundle.write(name, nets[name], how, tuple("abcdefghijkl"), row | {"data": data, "seed": seed}, place)
    found = coverage_records.measure_runs(folder, scratch, progress=False)
    assert found == ["shapes-se-r8, seed 0", "shapes-se-r8, seed 3"]
    table = coverages.recorded(folder / "results")
    assert set(zip(table["model"], table["seed"], strict=True)) == {("shapes-se-r8", 0), ("shapes-se-r8", 3)}
    for name, seed in (("shapes-se-r8", 0), ("shapes-se-r8-seed3", 3)):
        direct, _ = coverage_records.measure("shapes-se-r8", seed, nets[name], images)
        own = table[table["seed"] == seed]
        assert own["site"].tolist() == [one["site"] for one in direct]
        np.testing.assert_allclose(own["partners"], [one["partners"] for one in direct], rtol=1e-5)


# What they say.


def made_table():
    rows = []
    for model, shift in (("a", 0.0), ("b", 0.3)):
        for seed in range(4):
            for site, channels in (("one", 4), ("two", 8)):
                value = shift + 0.1 * seed + (site == "two")
                rows.append(
                    {
                        "model": model,
                        "family": "se",
                        "setting": "r=2",
                        "seed": seed,
                        "site": site,
                        "squeeze": "",
                        "channels": channels,
                        "pairs": channels**2,
                        "directness": value,
                    }
                )
    return pd.DataFrame(rows)


def test_summary_is_a_t_interval_over_seeds():
    from scipy import stats

    table = made_table()
    found = coverages.summary(table, "directness", ["site", "channels"])
    assert len(found) == 4
    assert coverages.summary(table, "directness", "site")["site"].tolist() == 2 * ["one", "two"]
    row = found[(found["model"] == "b") & (found["site"] == "two")].iloc[0]
    values = np.array([1.3, 1.4, 1.5, 1.6])
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (row["mean"], row["std"], row["low"], row["high"]) == pytest.approx((1.45, values.std(ddof=1), low, high))
    assert (row["seeds"], row["equal"]) == (4, 1 / 8)
    pooled = coverages.summary(table, "directness", [])
    assert pooled["mean"].tolist() == pytest.approx([0.65, 0.95])
    few = coverages.summary(table[table["seed"] < 2], "directness", [])
    assert few["low"].isna().all()
    with pytest.raises(ValueError, match="summary: the table has no partners; it has model, family"):
        coverages.summary(table, "partners")
    with pytest.raises(ValueError, match="summary: numbers were expected in the column 'setting'"):
        coverages.summary(table, "setting")


def test_difference_is_paired_by_seed():
    table = made_table()
    found = coverages.difference(table, "directness", "b", "a").iloc[0]
    assert (found["difference"], found["low"], found["high"]) == pytest.approx((0.3, 0.3, 0.3))
    assert bool(found["significant"])
    noisy = table.assign(directness=table["directness"] * np.where(table["model"] == "b", -1, 1))
    by_site = coverages.difference(noisy, "directness", "b", "a", ["site"])
    assert by_site["site"].tolist() == ["one", "two"]
    d = -(0.3 + 0.1 * np.arange(4)) - 0.1 * np.arange(4)
    half = 3.182446 * d.std(ddof=1) / 2
    assert by_site[["low", "high"]].values[0] == pytest.approx((d.mean() - half, d.mean() + half), rel=1e-6)
    one = coverages.difference(table[table["seed"] == 0], "directness", "a", "b").iloc[0]
    assert not one["significant"]
    with pytest.raises(ValueError, match=r"the table has no rows of 'c'\. It has a, b"):
        coverages.difference(table, "directness", "a", "c")
    other = table.assign(seed=table["seed"] + 10 * (table["model"] == "b"))
    for wrong in ({"value": "directnes"}, {"value": "directness", "by": "sites"}):
        with pytest.raises(ValueError, match=r"difference: the table has no (directnes|sites); it has model"):
            coverages.difference(table, first="a", second="b", **wrong)
    alone = table[table["seed"] == 0].drop(columns="seed").assign(seed=None)  # as coverage_table gives it
    assert coverages.difference(alone, "directness", "b", "a", "site")["difference"].tolist() == pytest.approx(
        [0.3, 0.3]
    )
    with pytest.raises(ValueError, match=r"a and b have no seed \(and value\) in common"):
        coverages.difference(other, "directness", "a", "b")


def test_answers_join_what_is_allowed_with_what_is_realised():
    trained = coverages.recorded()
    table = coverages.answers()
    assert len(table) == len(coverages.allowed())
    row = table[(table["family"] == "se") & (table["channels"] == 128) & (table["reduction"] == 16)].iloc[0]
    rows = trained[(trained["model"] == "shapes-se-r16") & (trained["channels"] == 128)]
    assert row["partners"] == pytest.approx(rows["partners"].mean())
    assert (row["sites"], row["runs"]) == (2, 5)
    assert row["low"] < row["partners"] < row["high"] < 128
    assert row["pairs"] == 128**2
    at_2048 = table[table["channels"] == 2048]
    assert at_2048["partners"].isna().all()
    # k = 3 at C = 32 is what the fixed and the adaptive model have.
    row = table[(table["family"] == "eca") & (table["channels"] == 32) & (table["kernel_size"] == 3)].iloc[0]
    runs = trained[(trained["kernel_size"] == 3) & (trained["family"] == "eca") & (trained["channels"] == 32)]
    assert row["runs"] == len(runs[["model", "seed"]].drop_duplicates()) > 5
    # A unit that never opens has no partners to count.
    dead = trained[(trained["partners"] == 0)]
    assert len(dead)
    assert (table["partners"].dropna() >= 1).all()
    nothing = coverages.answers(16, 3, 2, trained=trained[:0])
    assert nothing["partners"].isna().all()
    with pytest.raises(ValueError, match="answers: the table has no model, family"):
        coverages.answers(trained=pd.DataFrame({"a": [1]}))


def test_a_network_of_ones_own_without_images_is_its_structure():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), attention.build("se", 8, reduction=2), attention.build("eca", 8)).eval()
    table = coverages.coverage_table(net)
    assert table["kind"].tolist() == ["structure", "exact"]
    assert table["image_directness"].isna().tolist() == [True, False]


def test_sites_without_a_j_by_their_influence():
    images = ecaviz.images.shapes("test", 8)
    model = ecaviz.load("shapes-gsop")
    (row,) = coverages.coverage_table(model, images, "layer1.0.se", influences=True).to_dict("records")
    expected = ecaviz.influence(model, "layer1.0.se", images)
    assert row["kind"] == "influence"
    assert row["partners"] == float(expected.participation.quantile(0.5))
    assert math.isnan(row["directness"])
    assert pd.isna(row["rank"])
    with pytest.raises(ValueError, match="no closed form for the family 'gsop'"):
        coverages.coverage_table(model, images, "layer1.0.se")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coverages.allowed(()), "allowed: no k and no r for channels"),
        (lambda: coverages.allowed(64, 3, 0), "allowed: reductions must be a whole number of at least 1"),
        (lambda: coverages.coverage_table([]), "coverages: at least one model is needed"),
        (lambda: coverages.coverage_table("shapes-se-r16", at_most=0), "coverages: at_most must be a whole number"),
        (lambda: coverages.locality_table("shapes-se-r16", sizes=4), "locality_table: sizes must be an odd whole"),
        (lambda: coverages.locality_table("shapes-se-r16", sites="layer1.*", sizes=99), r"no site has more .* \[99\]"),
    ],
)
def test_bad_requests_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()
