"""Pictures of coverage: the numbers of the frames are where they belong, k and r stay apart, nothing is cut off."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ecaviz import coverage_plots, locality_plots, looks, plots, themes
from ecaviz.structure import structure

CHANNELS, KS, RS = (16, 32, 64, 2048), (1, 3, 9), (2, 16, 32)
SITES = ("layer1.0.se", "layer1.1.se", "layer2.0.se", "layer2.1.se")
MODELS = {
    "toy-se-r2": ("se", "r=2", {"reduction": 2}),
    "toy-se-r16": ("se", "r=16", {"reduction": 16}),
    "toy-eca-k3": ("eca", "k=3", {"kernel_size": 3}),
    "toy-eca-k9": ("eca", "k=9", {"kernel_size": 9}),
    "toy-se-var3": ("se-var3", "", {}),
}


def allowed(ks=KS, rs=RS, channels=CHANNELS) -> pd.DataFrame:
    forms = [structure("eca", c, kernel_size=k) for c in channels for k in ks]
    forms += [structure("se", c, reduction=r) for c in channels for r in rs if r <= c]
    names = [
        "family",
        "channels",
        "kernel_size",
        "reduction",
        "pairs",
        "structural",
        "rank",
        "rank_share",
        "parameters",
        "multiply_adds",
    ]
    frame = pd.DataFrame([{name: getattr(one, name) for name in names} for one in forms])
    return frame.astype({"kernel_size": "Int64", "reduction": "Int64"})


def measured(models=MODELS, seeds=3) -> pd.DataFrame:
    """A number of its own for every row, as trained sites have."""
    rng, rows = np.random.default_rng(0), []
    for model, (family, setting, options) in models.items():
        for seed in range(seeds):
            for i, site in enumerate(SITES):
                channels = 32 * (1 + i // 2)
                form = structure(family, channels, **options)
                row = {"model": model, "family": family, "setting": setting, "seed": seed, "site": site, "squeeze": ""}
                row |= {name: getattr(form, name) for name in ("channels", "kernel_size", "reduction", "structural")}
                row["partners"] = 1 + rng.random() * (form.pairs / channels - 1)
                row["directness"] = rng.random()
                row["effective_rank"] = 1 + rng.random() * (form.rank - 1)
                rows.append(row | {name: getattr(form, name) for name in ("pairs", "parameters", "multiply_adds")})
    return pd.DataFrame(rows).astype({"kernel_size": "Int64", "reduction": "Float64"})


def summary(table: pd.DataFrame) -> pd.DataFrame:
    table = table.assign(equal=table["channels"] / table["pairs"])
    keys = ["model", "family", "setting", "site", "squeeze", "channels", "equal"]
    frame = table.groupby(keys, sort=False)["directness"].agg(["mean", "size"]).reset_index()
    return frame.rename(columns={"size": "seeds"}).assign(low=frame["mean"] * 0.9, high=frame["mean"] * 1.1)


@dataclass
class Test:
    """The fields of an ecaviz.locality.BandTest."""

    __test__ = False
    ordering: str = "given"
    null: str = "renumbered"
    sizes: tuple[int, ...] = (1, 3, 9, 33)
    energy: tuple[float, ...] = (0.02, 0.2, 0.4, 0.6)
    expected: tuple[float, ...] = (0.02, 0.05, 0.14, 0.45)
    low: tuple[float, ...] = (0.02, 0.04, 0.12, 0.4)
    high: tuple[float, ...] = (0.02, 0.06, 0.16, 0.5)
    p: tuple[float, ...] = (1.0, 0.001, 0.0126, 0.012)
    draws: int = 999
    channels: int = 64


def locality(models=("toy-se-r2", "toy-se-r16", "toy-eca-k3"), seeds=3, ks=(3, 9)) -> pd.DataFrame:
    rng, rows = np.random.default_rng(1), []
    for model in models:
        for seed in range(seeds):
            for site in SITES:
                for ordering in ("given", "seriated"):
                    for k in ks:
                        row = {"family": MODELS[model][0], "setting": MODELS[model][1], "model": model, "seed": seed}
                        expected = 0.1 + rng.random() / 10
                        row |= {
                            "site": site,
                            "channels": 32,
                            "ordering": ordering,
                            "null": {"given": "renumbered"}.get(ordering, "matching"),
                            "k": k,
                            "expected": expected,
                        }
                        row |= {"low": 0.8 * expected, "high": 1.3 * expected, "energy": expected * (1 + rng.random())}
                        rows.append(row | {"pairs": 0.1, "p": 0.5})
    return pd.DataFrame(rows)


def axes(width: float = 9, height: float = 6):
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def line(ax, label: str):
    (found,) = [one for one in ax.lines if one.get_label() == label]
    return found


def texts(ax) -> list[str]:
    return [one.get_text() for one in ax.texts]


def inside(figure) -> None:
    """Everything that is drawn lies on the canvas."""
    FigureCanvasAgg(figure)
    figure.canvas.draw()
    box = figure.get_tightbbox(figure.canvas.get_renderer()).extents * figure.dpi
    edges = (*box[:2], *(np.array(figure.bbox.size) - box[2:]))
    assert min(edges) > -1.5, f"cut off by {-min(edges):.1f} pixels"


def apart(ax, names: list[str]) -> None:
    """These texts do not lie on each other."""
    boxes = [one.get_window_extent() for one in ax.texts if one.get_text() in names]
    assert len(boxes) == len(names)
    tops = sorted((box.y0, box.y1) for box in boxes)
    assert all(above[0] > below[1] - 3 for below, above in itertools.pairwise(tops))  # descenders


# -------------------------------------------------------------------------------------------------------- by channels


def test_all_of_them_are_reached_through_plots():
    for module in (coverage_plots, locality_plots):
        for name in module.__all__:
            assert getattr(plots, name) is getattr(module, name)
        assert name in plots.__all__
    assert plots.coverage_cost


def test_coverage_has_k_on_the_left_and_r_on_the_right_with_a_line_each():
    frame = allowed()
    figure = plots.coverage_by_channels(frame)
    grid = np.array(figure.axes).reshape(4, 2)
    for row, value in enumerate(("structural", "rank_share", "parameters", "multiply_adds")):
        for ax, knob, letter, values in zip(grid[row], ("kernel_size", "reduction"), "kr", (KS, RS), strict=True):
            assert [one.get_label() for one in ax.lines] == [f"{letter} = {at}" for at in values]
            for at in values:
                rows = frame[frame[knob] == at]
                drawn = line(ax, f"{letter} = {at}")
                assert drawn.get_xdata().tolist() == rows["channels"].tolist()
                assert drawn.get_ydata() == pytest.approx(rows[value].to_numpy(dtype=float))
            assert len({str(one.get_linestyle()) for one in ax.lines}) == len(values)
            assert {one.get_color() for one in ax.lines} == {
                looks.family_style("eca" if letter == "k" else "se").colour
            }
            assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert 16 not in line(grid[0, 1], "r = 32").get_xdata()  # no hidden unit
    assert [ax.get_xlabel() for ax in grid[3]] == ["channels C"] * 2
    assert [ax.get_title(loc="left") for ax in grid[0]] == ["ECA: by kernel size k", "SE: by reduction r"]
    assert "(points)" not in figure.get_suptitle()
    assert not figure.legends
    inside(figure)


def test_lines_are_named_at_their_ends_and_those_on_each_other_in_the_panel():
    figure = plots.coverage_by_channels(allowed())
    grid = np.array(figure.axes).reshape(4, 2)
    together = "the 3 lines lie on each other"
    assert texts(grid[0, 1]) == [f"every r allows all pairs: {together}"]
    assert texts(grid[1, 0]) == [f"every k allows full rank: {together}"]
    ks, rs = [f"k = {k}" for k in KS], [f"r = {r}" for r in RS]
    assert texts(grid[0, 0]) == texts(grid[2, 0]) == ks
    assert texts(grid[1, 1]) == texts(grid[3, 1]) == rs
    inside(figure)
    apart(grid[2, 0], ks)
    apart(grid[3, 1], rs)


def test_trained_sites_are_points_on_the_panels_of_their_k_or_r():
    table = measured()
    figure = plots.coverage_by_channels(allowed(), table)
    grid = np.array(figure.axes).reshape(4, 2)
    for column, knob, at, letter in ((0, "kernel_size", 9, "k"), (1, "reduction", 16, "r")):
        rows = table[(table[knob] == at) & (table["family"] == ("eca", "se")[column])]
        for row, value in enumerate(("partners", "effective_rank")):
            points = line(grid[row, column], f"{letter} = {at}, realised")
            assert points.get_markerfacecolor() == "none"
            assert points.get_ydata() == pytest.approx((rows[value] / rows["channels"]).to_numpy(dtype=float))
            beside = np.log2(points.get_xdata() / rows["channels"].to_numpy())
            assert np.ptp(beside) < 1e-9
            assert abs(beside[0]) < 0.5
        for row, value in ((0, "structural"), (2, "parameters"), (3, "multiply_adds")):
            points = line(grid[row, column], f"{letter} = {at}, counted")
            assert points.get_markerfacecolor() == themes.LIGHT.ink
            assert points.get_xdata().tolist() == rows["channels"].tolist()
            assert points.get_ydata() == pytest.approx(rows[value].to_numpy(dtype=float))
    assert not any("r =" in one.get_label() for one in grid[0, 0].lines)
    (legend,) = figure.legends
    kinds = [text.get_text() for text in legend.get_texts()]
    assert kinds[0] == "allowed (lines)"
    assert all(kind.startswith("trained sites (points)") for kind in kinds[1:])
    assert [one.get_text() for one in grid[0, 1].get_legend().get_texts()] == ["r = 2", "r = 16", "r = 32"]
    inside(figure)


def test_coverage_of_one_family_and_of_sites_where_nothing_moves():
    table = measured()
    table.loc[(table["model"] == "toy-se-r16") & (table["seed"] == 0), ["partners", "effective_rank"]] = 0.0
    figure = plots.coverage_by_channels(allowed(ks=()), table)
    assert len(figure.axes) == 4
    assert f"{len(SITES)} sites left out, where nothing moves a gate" in texts(figure.axes[1])
    assert np.isnan(line(figure.axes[1], "r = 16, realised").get_ydata()).sum() == len(SITES)
    inside(figure)


def test_k_and_r_that_only_trained_sites_have_get_a_marker_too():
    figure = plots.coverage_by_channels(allowed(ks=(1,), rs=(2,)), measured())
    grid = np.array(figure.axes).reshape(4, 2)
    assert [one.get_text() for one in grid[0, 0].get_legend().get_texts()] == ["k = 1", "k = 3", "k = 9"]
    assert line(grid[0, 1], "r = 16, realised").get_marker() != line(grid[0, 1], "r = 2, realised").get_marker()


def test_partners_are_medians_over_seeds_and_sites_between_what_is_allowed():
    table = measured()
    ax = axes()
    assert plots.partners_by_channels(table, ax=ax) is ax
    for model, label in (("toy-se-r16", "SE, r=16"), ("toy-eca-k3", "ECA, k=3"), ("toy-se-var3", "SE-Var3")):
        found = table[table["model"] == model].groupby("channels")["partners"]
        points = line(ax, label)
        assert points.get_ydata() == pytest.approx(found.median().to_numpy())
        assert np.abs(np.log2(points.get_xdata() / [32, 64])).max() < 0.5
        assert points.get_marker() == looks.family_style(MODELS[model][0]).marker
        bars = [np.sort(part[:, 1]) for one in ax.collections for part in one.get_segments()]
        for pair in zip(found.min(), found.max(), strict=True):
            assert any(bar == pytest.approx(pair) for bar in bars)
    assert len({tuple(line(ax, label).get_xdata()) for label in ("SE, r=2", "SE, r=16", "ECA, k=3", "ECA, k=9")}) == 4
    whole = line(ax, "allowed by any r")
    assert whole.get_xdata().tolist() == whole.get_ydata().tolist()
    for k in (3, 9):
        assert set(line(ax, f"allowed by k = {k}").get_ydata()) == {k}
    assert {"all C channels: allowed by any r", "allowed by k = 3", "SE, r=16", "ECA, k=9"} <= set(texts(ax))
    assert ax.get_xlabel() == "channels C"
    assert ax.get_ylabel() == "realised partners of a gate (channels)"
    inside(ax.figure)
    apart(ax, ["SE, r=2", "SE, r=16", "ECA, k=3", "ECA, k=9", "SE-Var3"])


def test_title_of_the_partners_says_the_medians():
    table = measured()
    table["partners"] = np.where(table["family"] == "eca", 1.5, table["channels"] / 4)
    title = plots.partners_by_channels(table[table["setting"] != "k=9"], ax=axes()).get_title(loc="left")
    assert title == "realised partners of a gate, by C; in the median SE 25 % of C, ECA 50 % of k"


def test_partners_of_the_sizes_asked_for_and_a_site_where_nothing_moves():
    table = measured({"toy-se-r2": MODELS["toy-se-r2"]})
    table.loc[0, "partners"] = 0.0
    ax = plots.partners_by_channels(table, [5], ax=axes())
    assert [one.get_label() for one in ax.lines] == ["allowed by any r", "allowed by k = 5", "SE, r=2"]
    assert "1 site left out, where nothing moves a gate" in texts(ax)
    left = table[(table["channels"] == 32) & (table["partners"] > 0)]["partners"]
    assert line(ax, "SE, r=2").get_ydata()[0] == pytest.approx(left.median())


def test_models_of_one_setting_are_told_apart_by_their_names():
    table = measured({"toy-se-r2": MODELS["toy-se-r2"], "other-se-r2": MODELS["toy-se-r2"]})
    ax = plots.partners_by_channels(table, ax=axes())
    assert line(ax, "SE, r=2 (toy-se-r2)").get_linestyle() != line(ax, "SE, r=2 (other-se-r2)").get_linestyle()
    adaptive = measured({"toy-eca-k3": MODELS["toy-eca-k3"]})
    adaptive.loc[adaptive["channels"] == 64, "setting"] = "k=5"
    assert line(plots.partners_by_channels(adaptive, ax=axes()), "ECA (toy-eca-k3)")


# ------------------------------------------------------------------------------------------------------------- by site


def test_directness_stands_at_its_site_with_its_interval_and_what_equal_entries_give():
    frame = summary(measured())
    ax = axes()
    assert plots.directness_by_site(frame, ax=ax) is ax
    for model, label in (("toy-se-r2", "SE, r=2"), ("toy-eca-k9", "ECA, k=9")):
        rows = frame[frame["model"] == model]
        points = line(ax, label)
        assert points.get_ydata() == pytest.approx(rows["mean"].to_numpy())
        assert np.round(points.get_xdata()).tolist() == [0, 1, 2, 3]
        equal = line(ax, f"{label}: equal entries")
        assert equal.get_ydata() == pytest.approx(rows["equal"].to_numpy())
        assert equal.get_linestyle() == ":"
        assert equal.get_color() == points.get_color()
        (bars,) = [
            one for one in ax.collections if one.get_segments()[0][:, 1] == pytest.approx(rows[["low", "high"]].iloc[0])
        ]
        assert isinstance(bars, LineCollection)
        assert [part[0, 0] for part in bars.get_segments()] == pytest.approx(points.get_xdata())
    # SE of r = 16 has the same dotted line as that of r = 2
    assert not [one for one in ax.lines if one.get_label() == "SE, r=16: equal entries"]
    ticks = [one.get_text() for one in ax.get_xticklabels()]
    assert ticks == ["layer1.0\nC = 32", "layer1.1\nC = 32", "layer2.0\nC = 64", "layer2.1\nC = 64"]
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "site, from input to output"
    inside(ax.figure)
    apart(ax, ["SE, r=2", "SE, r=16", "ECA, k=3", "ECA, k=9", "SE-Var3"])


def test_title_of_the_directness_counts_whole_intervals_above_equal_entries():
    frame = summary(measured({name: MODELS[name] for name in ("toy-se-r2", "toy-eca-k3")}))
    frame["mean"] = frame["equal"] * np.where(frame["family"] == "se", 2.0, 1.05)
    frame["low"], frame["high"] = frame["mean"] * 0.9, frame["mean"] * 1.1  # ECA: the mean is above, the interval not
    title = plots.directness_by_site(frame, ax=axes()).get_title(loc="left")
    assert "above equal entries: SE 4 of 4, ECA 0 of 4 sites" in title
    frame["low"] = frame["high"] = np.nan  # one seed
    title = plots.directness_by_site(frame, ax=axes()).get_title(loc="left")
    assert "SE 4 of 4, ECA 4 of 4" in title
    alone = frame.assign(equal=1.0, mean=1.0)
    assert plots.directness_by_site(alone, ax=axes()).get_title(loc="left").startswith("directness by site\n")


def test_an_interval_below_zero_stays_on_the_log_axis():
    frame = summary(measured({"toy-se-r2": MODELS["toy-se-r2"]})).assign(low=-1.0)
    ax = plots.directness_by_site(frame, ax=axes())
    assert all((part > 0).all() for part in np.array(ax.collections[0].get_segments())[:, :, 1])


def test_the_two_squeezes_of_a_cbam_are_two_lines_at_the_places_of_the_others():
    se = measured({"toy-se-r2": MODELS["toy-se-r2"]})
    parts = [
        se.assign(model="toy-cbam", family="cbam", setting="r=16", squeeze=squeeze, site=se["site"] + ".channel")
        for squeeze in ("avg", "max")
    ]
    ax = plots.directness_by_site(summary(pd.concat([se, *parts], ignore_index=True)), ax=axes())
    assert [one.get_text().split("\n")[0] for one in ax.get_xticklabels()] == [site[:8] for site in SITES]
    for label in ("CBAM, r=16, avg", "CBAM, r=16, max"):
        assert np.round(line(ax, label).get_xdata()).tolist() == [0, 1, 2, 3]


def test_sites_that_one_model_lacks_keep_their_order():
    frame = summary(measured({name: MODELS[name] for name in ("toy-se-r2", "toy-eca-k3")}))
    frame = frame[~((frame["model"] == "toy-se-r2") & (frame["site"] == "layer1.1.se"))]
    ax = plots.directness_by_site(frame, ax=axes())
    assert [one.get_text()[:8] for one in ax.get_xticklabels()] == [site[:8] for site in SITES]
    assert np.round(line(ax, "SE, r=2").get_xdata()).tolist() == [0, 2, 3]


# ------------------------------------------------------------------------------------------------- near the diagonal


def test_band_energy_fills_what_is_sure_after_correction():
    test = Test()
    ax = axes()
    assert plots.band_energy(test, ax=ax) is ax
    name = "order as given, C = 64"
    assert line(ax, name).get_ydata().tolist() == list(test.energy)
    assert line(ax, f"{name}: mean of the null").get_ydata().tolist() == list(test.expected)
    # four sizes: 0.0126 is 0.0504 after correction
    assert line(ax, f"{name}: p ≤ 0.05").get_xdata().tolist() == [3, 33]
    assert line(ax, f"{name}: p > 0.05").get_xdata().tolist() == [1, 9]
    assert line(ax, f"{name}: p > 0.05").get_markerfacecolor() == "white"
    (ribbon,) = ax.collections
    corners = ribbon.get_paths()[0].vertices.tolist()
    assert all(
        [k, low] in corners and [k, high] in corners
        for k, low, high in zip(test.sizes, test.low, test.high, strict=True)
    )
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [one.get_text() for one in ax.get_xticklabels()] == ["1", "3", "9", "33"]
    assert ax.get_title(loc="left") == "energy above the null at k = 3, 33"
    inside(ax.figure)


def test_several_band_tests_say_what_each_shows():
    shy = Test(ordering="seriated", p=(1.0, 0.4, 0.2, 0.3))
    few = Test(ordering="seriated", draws=19, p=(1.0, 0.05, 0.05, 0.05))
    many = Test(sizes=(3, 5, 9, 17), p=(0.001,) * 4)
    ax = plots.band_energy([many, shy, few], labels=["ECA", "SE", "SE-Var3"], ax=axes())
    assert ax.get_title(loc="left").split("\n") == [
        "ECA: energy above the null at k = 3 … 17 (4 sizes)",
        "SE: energy near the diagonal nowhere above the null",
        "SE-Var3: 19 draws are too few to tell at 4 sizes",
    ]
    assert len({line(ax, name).get_color() for name in ("ECA", "SE", "SE-Var3")}) == 3
    assert [one.get_text() for one in ax.get_legend().get_texts()][:3] == ["ECA", "SE", "SE-Var3"]
    inside(ax.figure)


def test_locality_has_a_dot_a_seed_over_the_null():
    frame = locality()
    figure = plots.locality(frame, k=9)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["SE, r=2", "SE, r=16", "ECA, k=3"]
    above = {}
    for ax, model in zip(figure.axes, frame["model"].unique(), strict=True):
        for name, ordering, side in (("order as given", "given", -1), ("seriated", "seriated", 1)):
            rows = frame[(frame["model"] == model) & (frame["ordering"] == ordering) & (frame["k"] == 9)]
            dots = line(ax, name)
            assert dots.get_xdata() == pytest.approx((rows["energy"] / rows["expected"]).to_numpy())
            assert np.round(dots.get_ydata()).tolist() == [SITES.index(site) for site in rows["site"]]
            assert (np.sign(dots.get_ydata() - np.round(dots.get_ydata())) == side).all()
            sure = (rows["energy"] > rows["high"]).groupby(rows["site"]).all()
            above[ordering] = above.get(ordering, 0) + sure.sum()
        bars = [one for one in ax.lines if one.get_linewidth() == 6]
        assert len(bars) == 2 * len(SITES)
        assert all(one.get_xdata() == pytest.approx([0.8, 1.3]) for one in bars)
        assert ax.get_xscale() == "log"
        assert ax.yaxis_inverted()
    assert 0 < above["given"] < 12
    said = f"{above['given']} of 12 (order as given), {above['seriated']} of 12 (seriated) sites"
    assert figure.get_suptitle() == f"energy within k = 9 of the diagonal: above the null, in every seed, at\n{said}"
    assert [one.get_text() for one in figure.axes[0].get_yticklabels()] == [site[:8] for site in SITES]
    inside(figure)


def test_locality_of_four_models_wraps_and_names_the_lowest_axes():
    frame = pd.concat([locality(), locality(("toy-eca-k9",))], ignore_index=True)
    frame.loc[frame["model"] == "toy-se-r2", ["energy", "expected", "low", "high", "p"]] = np.nan  # J = 0
    figure = plots.locality(frame[frame["ordering"] == "given"])
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [bool(ax.get_xlabel()) for ax in shown] == [False, True, True, True]
    assert "seriated" not in figure.get_suptitle()
    assert "of 12" in figure.get_suptitle()
    inside(figure)


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("draw", "frame", "column", "maker"),
    [
        (plots.coverage_by_channels, allowed, "rank_share", "ecaviz.coverages.allowed"),
        (lambda one: plots.coverage_by_channels(allowed(), one), measured, "effective_rank", "coverage_table"),
        (plots.partners_by_channels, measured, "partners", "ecaviz.coverages.recorded"),
        (lambda one: plots.directness_by_site(one), lambda: summary(measured()), "equal", "ecaviz.coverages.summary"),
        (plots.locality, locality, "expected", "ecaviz.coverages.locality_table"),
    ],
)
def test_frames_without_rows_or_columns_are_named_with_what_makes_them(draw, frame, column, maker):
    frame = frame()
    with pytest.raises(ValueError, match=rf"lacks {column}; such a frame is made by .*{maker}"):
        draw(frame.drop(columns=column))
    with pytest.raises(ValueError, match=rf"has no rows, so there is nothing to draw; .*{maker}"):
        draw(frame[:0])


def test_figures_of_ones_own_are_drawn_on():
    for draw in (
        lambda figure: plots.coverage_by_channels(allowed(), figure=figure),
        lambda figure: plots.locality(locality(), figure=figure),
    ):
        mine = Figure(figsize=(11, 12), layout="constrained")
        assert draw(mine) is mine
        assert len(mine.axes) > 2
        inside(mine)


def test_a_model_where_nothing_moves_has_no_points_among_the_partners():
    table = measured()
    table.loc[table["model"] == "toy-se-r16", "partners"] = 0.0
    ax = plots.partners_by_channels(table, ax=axes())
    assert not any(one.get_label() == "SE, r=16" for one in ax.lines)
    assert "SE, r=16" not in texts(ax)
    dead = table[table["model"] == "toy-se-r16"][["site", "seed"]]
    assert f"{len(dead)} sites left out, where nothing moves a gate" in texts(ax)
    ks = line(ax, "ECA, k=9").get_ydata()
    assert ks == pytest.approx(table[table["model"] == "toy-eca-k9"].groupby("channels")["partners"].median())


def test_of_many_families_the_title_counts_all_sites_together():
    one = measured({"toy-se-r2": MODELS["toy-se-r2"]})
    families = ("se", "se-var3", "cbam", "ge-theta-plus", "se-gc1")
    frame = pd.concat([one.assign(model=f"toy-{name}", family=name, setting="") for name in families])
    frame = summary(frame.reset_index(drop=True))
    value = np.where(frame["family"] == "se", 0.9, 0.001)
    frame = frame.assign(mean=value, low=value, high=value, equal=0.1)
    title = plots.directness_by_site(frame, ax=axes()).get_title(loc="left")
    assert f"above equal entries: {len(SITES)} of {5 * len(SITES)} sites" in " ".join(title.split())


def test_band_tests_of_one_order_against_two_nulls_are_told_apart():
    tests = [Test(ordering="seriated", null=null) for null in ("matching", "shuffle")]
    ax = plots.band_energy(tests, ax=axes())
    for null in ("matching", "shuffle"):
        assert line(ax, f"seriated, C = 64, null: {null}").get_ydata().tolist() == list(Test().energy)


def test_what_else_cannot_be_drawn_is_said():
    with pytest.raises(ValueError, match=r"no null 'shuffle' of the seriated order; it has: \['matching'\]"):
        plots.locality(locality(), null="shuffle")
    with pytest.raises(ValueError, match="no rows of the families eca or se"):
        plots.coverage_by_channels(allowed().assign(family="cbam"))
    with pytest.raises(ValueError, match=r"has no k = 5; it has: \[3, 9\]"):
        plots.locality(locality(), k=5)
    with pytest.raises(ValueError, match="there is no test to draw"):
        plots.band_energy([])
    with pytest.raises(ValueError, match="got 1 for 2 tests"):
        plots.band_energy([Test(), Test()], labels=["one"])


def test_names_keep_their_distance_and_their_order():
    places = coverage_plots._apart([5.0, 5.0, 1.0, 20.0], 2.0, 0.0, 20.0)
    assert np.diff(np.sort(places)).min() >= 2 - 1e-9
    assert places[2] == 1
    assert places[3] == 20
    assert sorted(places[:2]) == [4, 6]
    assert coverage_plots._apart([0.0, 0.0, 0.0], 2.0, 0.0, 20.0).tolist() == [0, 2, 4]
