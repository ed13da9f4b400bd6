"""The rule that picks k: against the published tables, exact arithmetic, and the weights of networks that follow it."""

from __future__ import annotations

from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from oracles import eca_mobilenet_v2, eca_resnet
from torch import nn

import ecaviz
from ecaviz import architectures, bundle, kernels, plots, provenance, rule_plots, rule_views, themes
from ecaviz.attention import ECA

GAMMAS = [n / 4 for n in range(2, 17)]  # what the sliders of the explorer can say
OFFSETS = [n / 4 for n in range(-8, 17)]


@pytest.fixture(scope="module")
def audit():
    """The official networks and two bundled models."""
    names = ("shapes-eca-k3", "shapes-eca-adaptive")
    return ecaviz.rule_audit([ecaviz.load(name, device="cpu") for name in names])


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def network(name: str, k: tuple[int, ...]) -> nn.Module:
    """An official ECA-ResNet with these k by stage, as a network."""
    return architectures.recognise(eca_resnet(name, k)[1]).network()


# The rule over a range.


def test_the_curve_is_the_published_table(published):
    curve = kernels.rule_curve(1, 2048)
    rows = published("adaptive_k")
    assert len(rows) == 21
    for row in rows:
        i = int(row["channels"]) - 1
        nearest = [int(k) for k in row["nearest_odd"].split("/")]
        assert curve.channels[i] == int(row["channels"])
        assert curve.continuous[i] == pytest.approx(float(row["psi"]), abs=5e-5)
        assert curve.paper_code[i] == int(row["paper_code"])
        assert curve.timm[i] == int(row["timm"])
        assert curve.tie[i] == (len(nearest) == 2)
        assert curve.paper_code[i] == nearest[-1]  # a tie goes up


def test_official_mobilenets_follow_a_rule_of_their_own(published):
    column = {int(row["channels"]): row["official_mobilenetv2"] for row in published("adaptive_k")}
    column = {c: int(k) for c, k in column.items() if k}
    table = ecaviz.rule_audit(architectures.recognise(eca_mobilenet_v2()[1]).network())
    mine = table[table.source != "released"]
    assert set(mine.channels) == set(column) == {16, 24, 32, 64, 96, 160, 320}
    assert [column[c] for c in mine.channels] == list(mine.k)
    assert all(k == (1 if c < 96 else 3) for c, k in column.items())
    rule = {c: ecaviz.adaptive_kernel_size(c) for c in column}
    assert [c for c in column if column[c] == rule[c]] == [96]
    assert mine.blocks.sum() == 17
    assert mine.planes.isna().all()


def test_ties_are_those_of_exact_arithmetic():
    """log2(C) is irrational unless C is a power of two, and γ and b are quarters: so fractions tell every tie."""
    found = 0
    for gamma in GAMMAS:
        for b in OFFSETS:
            values = {2**m: abs((m + Fraction(b)) / Fraction(gamma)) for m in range(13)}
            ties = [c for c, value in values.items() if value > 0 and value % 2 == 0]
            curve = kernels.rule_curve(1, 4096, gamma, b)
            assert curve.ties == ties, (gamma, b)
            assert [curve.paper_code[c - 1] for c in ties] == [values[c] + 1 for c in ties], (gamma, b)
            found += len(ties)
    assert found > 100
    assert kernels.rule_curve().ties == [8, 128, 2048]


def test_the_curve_is_the_rule_of_every_single_c():
    channels = [1, 2, 3, 5, 7, 8, 9, 63, 64, 65, 127, 128, 129, 200, 255, 256, 257, 1023, 1024, 2047, 2048, 2049, 4096]
    for gamma in GAMMAS:
        for b in OFFSETS:
            curve = kernels.rule_curve(1, 4096, gamma, b)
            table = kernels.rule_table(channels, gamma, b)
            at = np.array(channels) - 1
            assert curve.paper_code[at].tolist() == table.paper_code.tolist(), (gamma, b)
            assert curve.timm[at].tolist() == table.timm.tolist(), (gamma, b)
            assert curve.tie[at].tolist() == table.tie.tolist(), (gamma, b)
            assert curve.continuous[at].tolist() == table.continuous.tolist(), (gamma, b)
            assert (curve.paper_code % 2 == 1).all()


def test_a_curve_begins_and_ends_where_it_is_told():
    curve = kernels.rule_curve(60, 200)
    assert (curve.channels[0], curve.channels[-1], len(curve.channels)) == (60, 200, 141)
    assert curve.ties == [128]
    assert repr(curve) == "RuleCurve(gamma=2, b=1, C = 60 … 200, ties at [128])"
    assert repr(kernels.rule_curve(9, 100)) == "RuleCurve(gamma=2, b=1, C = 9 … 100, ties at none)"
    assert repr(kernels.rule_curve()) == "RuleCurve(gamma=2, b=1, C = 2 … 4096, ties at [8, 128, 2048])"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0}, "rule_curve: gamma must be positive, got 0. The paper has gamma = 2"),
        ({"gamma": -1}, "gamma must be positive, got -1"),
        ({"gamma": float("nan")}, "gamma must be a finite number, got nan"),
        ({"gamma": "2"}, "gamma must be a finite number, got '2'"),
        ({"b": float("inf")}, "b must be a finite number, got inf"),
        ({"smallest": 0}, "^rule_curve: smallest must be a whole number of at least 1, got 0"),
        ({"largest": 1.5}, "^rule_curve: largest must be a whole number of at least 1, got 1.5"),
        ({"smallest": 64, "largest": 64}, "smallest must be below largest, got 64 and 64"),
    ],
)
def test_a_curve_refuses_what_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernels.rule_curve(**arguments)


# The audit.


def test_the_audit_without_models_is_the_published_table(published):
    table, rows = ecaviz.rule_audit(), published("released_k")
    assert len(table) == len(rows) == 20
    assert list(table.columns) == provenance.AUDIT
    assert set(table.source) == {"released"}
    for found, row in zip(table.itertuples(), rows, strict=True):
        assert (found.network, found.stage, found.blocks) == (row["model"], int(row["stage"]), int(row["blocks"]))
        assert (found.planes, found.channels, found.k) == tuple(int(row[c]) for c in ("planes", "channels", "released"))
        assert found.rule_on_planes == int(row["rule_on_planes"])
        assert found.rule_on_channels == int(row["rule_on_channels"])
        assert found.timm == int(row["timm"])
        assert ("planes" in found.agrees_with or found.agrees_with == "both") == (
            row["rule_on_planes"] == row["released"]
        )
        assert ("channels" in found.agrees_with or found.agrees_with == "both") == (
            row["rule_on_channels"] == row["released"]
        )
    released = table.groupby("network", sort=False).k.apply(lambda k: "".join(map(str, k))).to_dict()
    assert released == {
        "ResNet-18": "3577",
        "ResNet-34": "3357",
        "ResNet-50": "3557",
        "ResNet-101": "3357",
        "ResNet-152": "3357",
    }


def test_the_summary_counts_stages(published, audit):
    summary = ecaviz.audit_summary(audit).set_index("network")
    columns = {"planes": "rule_on_planes", "channels": "rule_on_channels", "timm": "timm"}
    for name in dict.fromkeys(row["model"] for row in published("released_k")):
        rows = [row for row in published("released_k") if row["model"] == name]
        mine = summary.loc[name]
        assert mine.stages == 4
        for reading, column in columns.items():
            assert mine[reading] == sum(row[column] == row["released"] for row in rows), (name, reading)
        assert mine.none == sum(row["released"] not in [row[c] for c in columns.values()] for row in rows)
        assert mine.readings_differ == sum(len({row[c] for c in columns.values()}) > 1 for row in rows)
        assert mine.furthest == max(abs(int(row[c]) - int(row["released"])) for row in rows for c in columns.values())
    assert summary.loc["shapes-eca-adaptive", ["planes", "channels", "timm", "none"]].tolist() == [2, 4, 4, 0]
    assert (summary.loc[summary.source == "released", ["planes", "channels", "timm"]].sum() == 11).all()


@pytest.mark.parametrize(("gamma", "b"), [(1, 1), (2, 0), (3, 2), (0.5, -2), (4, 4)])
def test_gamma_and_b_move_the_rule_and_not_the_weights(audit, gamma, b):
    table = provenance.with_rule(audit, gamma, b)
    pd.testing.assert_frame_equal(table[audit.columns], table)
    same = ["network", "source", "stage", "site", "blocks", "planes", "channels", "k"]
    pd.testing.assert_frame_equal(table[same], audit[same])
    for row in table.itertuples():
        by_planes, by_channels = (ecaviz.adaptive_kernel_size(int(c), gamma, b) for c in (row.planes, row.channels))
        assert (row.rule_on_planes, row.rule_on_channels, row.timm) == (by_planes, by_channels, max(by_channels, 3))
        expected = {(1, 1): "both", (1, 0): "planes", (0, 1): "channels"}.get(
            (by_planes == row.k, by_channels == row.k)
        )
        assert row.agrees_with == (expected or ("timm" if max(by_channels, 3) == row.k else "neither"))
    released = ecaviz.rule_audit(gamma=gamma, b=b)
    pd.testing.assert_frame_equal(released, table[table.source == "released"])


def test_only_the_minimum_of_timm_can_give_a_k():
    table = ecaviz.rule_audit(gamma=4, b=-2)
    row = table.iloc[0]  # |6/4 − 2/4| = 1
    assert (row.k, row.rule_on_planes, row.rule_on_channels, row.timm, row.agrees_with) == (3, 1, 1, 3, "timm")


@pytest.mark.parametrize("name", [name for name, one in bundle.manifest().items() if one.family == "eca"])
def test_the_audit_of_a_bundled_model_has_the_k_of_its_weights(name):
    model = ecaviz.load(name, device="cpu")
    weights = {key: len(w.flatten()) for key, w in model.net.state_dict().items() if key.endswith("conv.weight")}
    by_stage = {key.split(".")[0]: k for key, k in weights.items()}
    table = ecaviz.rule_audit(model)
    mine = table[table.source == name]
    assert len(table) == 20 + len(mine)
    assert list(mine.k) == list(by_stage.values())
    planes = [8, 16, 32, 64] if name.startswith("shapes") else [16, 32, 64]
    assert list(mine.site) == [f"layer{stage}.0.se" for stage in range(1, len(planes) + 1)]
    assert list(mine.channels) == [4 * one for one in planes]
    assert list(mine.planes) == planes
    assert mine.blocks.sum() == len(weights) == 2 * len(planes)


def test_the_audit_of_timms_networks_has_the_k_of_their_weights():
    torch.manual_seed(0)
    model = ecaviz.load("ecaresnet26t", pretrained=False, device="cpu")
    weights = [w.shape[-1] for key, w in model.net.state_dict().items() if w.ndim == 3 and w.shape[:2] == (1, 1)]
    for given in (model, model.net, ecaviz.load(model.net)):
        mine = ecaviz.rule_audit(given).query("source != 'released'")
        assert np.repeat(mine.k, mine.blocks).tolist() == weights == [5, 5, 5, 5, 5, 5, 7, 7]
        assert (mine.k == mine.timm).all()
        assert list(mine.agrees_with) == ["channels", "both", "both", "channels"]
    assert set(mine.source) == {"ResNet"}


def test_the_audit_of_an_official_network_is_the_row_of_the_official_table():
    mine = ecaviz.rule_audit(network("resnet50", (3, 5, 5, 7)))
    released, loaded = mine[mine.network == "ResNet-50"], mine[mine.source != "released"]
    columns = [
        "stage",
        "blocks",
        "planes",
        "channels",
        "rule_on_planes",
        "rule_on_channels",
        "timm",
        "k",
        "agrees_with",
    ]
    pd.testing.assert_frame_equal(released[columns].reset_index(drop=True), loaded[columns].reset_index(drop=True))


class Mixed(nn.Module):
    """ECA of several k at one width, and one whose width only a run can tell."""

    def __init__(self):
        super().__init__()
        from timm.layers import CecaModule

        self.a, self.b, self.c, self.d = ECA(64, 3), ECA(64, 3), ECA(64, 5), ECA(64, 3)
        self.e = CecaModule(channels=64)

    def forward(self, x):
        return self.e(self.d(self.c(self.b(self.a(x)))))


def test_sites_are_put_together_only_where_neighbours_agree():
    table = ecaviz.rule_audit([Mixed(), Mixed()])
    assert list(dict.fromkeys(table.source)) == ["released", "Mixed", "Mixed #2"]
    mine = table[table.source == "Mixed"]
    assert list(mine.site) == ["a", "c", "d", "e"]
    assert list(mine.stage) == [1, 2, 3, 4]
    assert list(mine.blocks) == [2, 1, 1, 1]
    assert list(mine.k) == [3, 5, 3, 3]
    assert mine.channels.isna().tolist() == [False, False, False, True]  # timm's module does not hold C
    assert mine.rule_on_channels.isna().tolist() == mine.timm.isna().tolist() == [False, False, False, True]
    assert list(mine.agrees_with) == ["channels", "neither", "channels", ""]
    summary = ecaviz.audit_summary(table).set_index("source").loc["Mixed"]
    assert summary[["stages", "channels", "timm", "none", "furthest"]].tolist() == [4, 2, 2, 1, 2]
    assert pd.isna(summary.planes)


def test_what_cannot_be_audited_is_said_in_words(audit):
    with pytest.raises(ValueError, match=r"rule_audit: the model has 8 gates, but none is an ECA"):
        ecaviz.rule_audit([ecaviz.load("shapes-se-r4", device="cpu")])
    with pytest.raises(TypeError, match=r"expected a model from ecaviz.load\(\) or an nn.Module, got str"):
        ecaviz.rule_audit("shapes-eca-k3")
    with pytest.raises(TypeError, match="got int"):
        ecaviz.rule_audit(3)
    with pytest.raises(ValueError, match="rule_audit: gamma must be positive, got 0"):
        ecaviz.rule_audit(gamma=0)
    with pytest.raises(ValueError, match="rule_audit: b must be a finite number"):
        ecaviz.rule_audit(b=None)
    with pytest.raises(ValueError, match=r"audit_summary: a table as ecaviz.rule_audit\(\) gives it was expected, got"):
        ecaviz.audit_summary(audit.drop(columns="timm"))
    with pytest.raises(ValueError, match="audit_summary: the audit has no rows"):
        ecaviz.audit_summary(audit[:0])


def test_a_missing_table_is_said_in_words(tmp_path, monkeypatch):
    monkeypatch.setenv("ECAVIZ_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*released_k.csv. Restore it with `git checkout"):
        ecaviz.rule_audit()


# The plots.


def drawn(ax) -> dict:
    """The lines of a staircase by their label; the marks of a plain one by their marker."""
    return {line.get_label(): line for line in ax.lines} | {line.get_marker(): line for line in ax.lines}


@pytest.mark.parametrize(("gamma", "b"), [(2, 1), (1, 0), (0.75, -2), (4, 4)])
def test_the_staircase_draws_the_rule(ax, gamma, b):
    plots.rule_staircase(gamma, b, channels=(1, 4096), ax=ax)
    lines = drawn(ax)
    c, k = lines["k = ψ(C), the paper's code"].get_data()
    assert c.tolist() == list(range(1, 4097))
    assert lines["k = ψ(C), the paper's code"].get_drawstyle() == "steps-post"
    for some in (1, 2, 7, 8, 9, 100, 128, 1000, 2048, 4096):
        assert k[some - 1] == ecaviz.adaptive_kernel_size(some, gamma, b)
    _, y = lines["|log2 C + b| / γ, before rounding"].get_data()
    assert y[[0, 99, 4095]] == pytest.approx([kernels.adaptive_continuous(some, gamma, b) for some in (1, 100, 4096)])
    ties = kernels.rule_curve(1, 4096, gamma, b).ties
    tie = lines["exact tie: two odd numbers are equally near"]
    assert tie.get_xdata() == ties
    assert tie.get_ydata() == pytest.approx([kernels.adaptive_continuous(c, gamma, b) for c in ties])
    spans = [segment.tolist() for segment in ax.collections[0].get_segments()]
    assert [[x for x, _ in span] for span in spans] == [[c, c] for c in ties]
    odd = kernels.rule_table(ties, gamma, b)
    assert [[y for _, y in span] for span in spans] == odd[["nearest_odd_low", "nearest_odd_high"]].to_numpy().tolist()
    assert ax.get_xlim() == (1, 4096)
    assert ax.get_ylim()[1] > k.max()
    assert (ax.get_xscale(), ax.xaxis.get_transform().base) == ("log", 2)
    assert all(tick % 2 == 1 for tick in ax.get_yticks())
    assert ax.get_xlabel() == "channels C"
    assert ax.get_ylabel() == "kernel size k"


@pytest.mark.parametrize(("gamma", "b"), [(2, 1), (0.75, -2), (4, 1), (0.5, 4)])
def test_the_floor_of_timm_is_drawn_where_it_makes_a_difference(ax, gamma, b):
    plots.rule_staircase(gamma, b, ax=ax)
    c, floor = drawn(ax)["timm: at least 3"].get_data()
    below = [ecaviz.adaptive_kernel_size(int(i), gamma, b) < 3 for i in c]
    for i, (one, before) in enumerate(zip(below, [False, *below[:-1]], strict=True)):
        assert (floor[i] == 3) == (one or before), c[i]  # a step is drawn up to the C where the next one begins
    assert np.isin(floor[~np.isnan(floor)], 3).all()


def test_the_title_names_the_ties(ax):
    plots.rule_staircase(ax=ax)
    assert ax.get_title(loc="left") == "the adaptive kernel size, γ = 2, b = 1: ties at C = 8, 128, 2048"
    plots.rule_staircase(0.5, -2, ax=ax)
    assert ax.get_title(loc="left").endswith("γ = 0.5, b = −2: ties at C = 2, 8, 16, 32, 64, …")
    plots.rule_staircase(4, 0.25, ax=ax)
    assert ax.get_title(loc="left").endswith(": no exact tie")
    plots.rule_staircase(title="mine", ax=ax)
    assert ax.get_title(loc="left") == "mine"


def test_marks_may_be_widths(ax):
    plots.rule_staircase(marks=[1, 24, 128, 5000], channels=(2, 4096), ax=ax)
    marks = drawn(ax)["o"]
    assert (list(marks.get_xdata()), list(marks.get_ydata())) == ([24, 128], [3, 5])
    assert len(drawn(ax)["x"].get_xdata()) == 0
    assert len(ax.get_legend().get_texts()) == 4


def test_marks_may_be_the_stages_of_a_network(ax, audit):
    plots.rule_staircase(1, 1, marks=audit[audit.network == "ResNet-101"], ax=ax)
    lines = drawn(ax)
    planes, channels = (64, 128, 256, 512), (256, 512, 1024, 2048)
    ruled = [ecaviz.adaptive_kernel_size(c, 1, 1) for c in channels]  # by the γ and b of the plot, not of the table
    assert lines["the rule on planes"].get_xydata().tolist() == [
        [c, ecaviz.adaptive_kernel_size(c, 1, 1)] for c in planes
    ]
    assert lines["the rule on channels"].get_xydata().tolist() == [
        list(pair) for pair in zip(channels, ruled, strict=True)
    ]
    assert lines["k of the weights"].get_xydata().tolist() == [[256, 3], [512, 3], [1024, 5], [2048, 7]]
    gaps = [segment.tolist() for segment in ax.collections[1].get_segments()]
    assert gaps == [[[c, r], [c, k]] for c, r, k in zip(channels, ruled, (3, 3, 5, 7), strict=True)]
    assert len(ax.get_legend().get_texts()) == 7


def test_a_stage_that_follows_the_rule_has_no_gap(ax, audit):
    plots.rule_staircase(marks=audit[audit.network == "ResNet-50"], ax=ax)
    assert [segment.tolist() for segment in ax.collections[1].get_segments()] == [[[256, 5], [256, 3]]]


def cells(ax) -> tuple[list[list[str]], np.ndarray]:
    """What is written in the cells of an audit, and their colours, in rows of four groups of four stages."""
    colours, numerals = ax.collections
    known = {}
    for text in ["–", *map(str, range(1, 40, 2))]:
        for bold in (False, True):
            known[rule_views.glyph(text, 8.5, bold=bold).vertices.tobytes()] = text
    written = [known[path.vertices.tobytes()] for path in numerals.get_paths()]
    return [written[i : i + 16] for i in range(0, len(written), 16)], colours.get_facecolor()[:, :3].reshape(-1, 16, 3)


@pytest.mark.parametrize(("gamma", "b"), [(2, 1), (1, 4)])
def test_the_chart_of_the_audit_writes_every_k(ax, audit, gamma, b):
    table = provenance.with_rule(audit, gamma, b)
    plots.rule_audit(table, ax=ax)
    written, colours = cells(ax)
    assert len(written) == 7
    columns = ("k", "rule_on_planes", "rule_on_channels", "timm")
    for i, (_, part) in enumerate(table.groupby(["network", "source"], sort=False)):
        values = [int(value) for column in columns for value in part[column]]
        assert [int(text) for text in written[i]] == values
        own = values[:4] * 4
        for cell, value, k, colour in zip(range(16), values, own, colours[i], strict=True):
            expected = "white" if cell < 4 else "agrees" if value == k else "above" if value > k else "below"
            expected = themes.LIGHT.hues.get(expected, expected)
            assert tuple(colour) == pytest.approx(to_rgb(expected)), (i, cell)
    assert [label.get_text() for label in ax.get_yticklabels()][-2:] == ["shapes-eca-k3", "shapes-eca-adaptive"]
    assert [label.get_text() for label in ax.get_xticklabels()] == list(rule_views.AuditTable.groups)
    hits = [int((table[column] == table["k"]).sum()) for column in columns[1:]]
    assert ax.get_title(loc="left").endswith(
        f"of 28:\nread on planes {hits[0]}, on channels {hits[1]}, by timm's code {hits[2]}"
    )


def test_numerals_stand_in_their_cells(ax, audit):
    plots.rule_audit(audit, ax=ax)
    colours, numerals = ax.collections
    for path, (x, y) in zip(colours.get_paths(), numerals.get_offsets(), strict=True):
        box = path.get_extents()
        assert (x, y) == pytest.approx(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
    assert np.unique(numerals.get_offsets(), axis=0).shape == (7 * 16, 2)
    for text in ("3", "11", "–"):
        box = rule_views.glyph(text, 8.5).get_extents()
        assert (box.x0 + box.x1, box.y0 + box.y1) == pytest.approx((0, 0), abs=1e-9)


def test_a_difference_is_seen_without_colour(ax):
    def light(name):
        return float(np.dot(to_rgb(name), (0.2126, 0.7152, 0.0722)))

    table = rule_views.AuditTable(ax)
    assert max(light(table.above), light(table.below)) < 0.45
    assert min(light(table.agrees), light(table.own), light(themes.LIGHT.missing)) > 0.85


def test_a_network_is_framed(ax, audit):
    plots.rule_audit(audit, marked="ResNet-50", ax=ax)
    (frame,) = ax.patches
    assert frame.get_visible()
    assert frame.get_y() < 2 < frame.get_y() + frame.get_height()
    ax.clear()
    plots.rule_audit(audit, marked="shapes-eca-adaptive", ax=ax)
    (frame,) = ax.patches
    assert frame.get_y() < 6 < frame.get_y() + frame.get_height()
    ax.clear()
    plots.rule_audit(audit, ax=ax)
    assert not ax.patches[0].get_visible()


def test_what_is_not_known_is_a_dash(ax):
    table = ecaviz.rule_audit(Mixed())
    plots.rule_audit(table[table.source == "Mixed"], ax=ax)
    ((*_, last),), colours = cells(ax)
    assert last == "–"
    assert tuple(colours[0, -1]) == pytest.approx(to_rgb(themes.LIGHT.missing))


@pytest.mark.parametrize(("stages", "written"), [(9, True), (10, False)])
def test_k_is_written_where_it_can_be_read(ax, stages, written):
    net = nn.Sequential(*(ECA(2**i, 2 * i + 1) for i in range(1, stages + 1)))
    table = ecaviz.rule_audit(net)
    plots.rule_audit(table[table.source != "released"], ax=ax)
    colours, numerals = ax.collections
    assert len(colours.get_facecolor()) == len(numerals.get_paths()) == 4 * stages
    assert all((path.get_extents().width > 0) == written for path in numerals.get_paths())


def test_a_view_takes_another_rule_and_other_networks(ax, audit):
    view = rule_views.AuditTable(ax)
    view.update(rule_plots.audit_rows(audit), marked=0)
    first = cells(ax)[0]
    view.update(rule_plots.audit_rows(provenance.with_rule(audit, 1, 1)), marked=0)
    assert cells(ax)[0] != first
    view.update(rule_plots.audit_rows(audit[audit.source == "released"]))
    assert cells(ax)[0] == first[:5]
    assert ax.get_ylim() == (4.5, -0.5)
    assert len(ax.collections) == 2


def test_plots_refuse_what_cannot_be(ax, audit):
    with pytest.raises(ValueError, match="rule_curve: gamma must be positive, got 0"):
        plots.rule_staircase(0, ax=ax)
    with pytest.raises(ValueError, match="smallest must be below largest"):
        plots.rule_staircase(channels=(64, 2), ax=ax)
    with pytest.raises(ValueError, match="each C of marks must be a whole number of at least 1, got 0"):
        plots.rule_staircase(marks=[0], ax=ax)
    with pytest.raises(ValueError, match=r"rule_staircase: marks: a table as ecaviz.rule_audit\(\) gives it"):
        plots.rule_staircase(marks=pd.DataFrame({"channels": [3]}), ax=ax)
    with pytest.raises(ValueError, match=r"rule_audit: a table as ecaviz\.rule_audit"):
        plots.rule_audit(pd.DataFrame(), ax=ax)
    with pytest.raises(
        ValueError, match="rule_audit: no network 'ResNet-51' in the table; there are ResNet-18, ResNet-34"
    ):
        plots.rule_audit(audit, marked="ResNet-51", ax=ax)
    assert not ax.lines
