"""Frequency responses against numpy's FFT and integrals; the null against PyTorch's own layers and simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats
from torch import nn

import ecaviz
from ecaviz import attention, kernels, plots, response_plots, responses
from ecaviz.adjusted import holm

SHARES = ("balance", "centre_share", "symmetry", "sum_share")  # what does not depend on the scale


def drawn(k: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(*weights, family: str = "eca", channels: int = 16) -> nn.Module:
    """A chain of gates with these kernels; a number stands for a fresh kernel of that k."""
    layers = []
    for one in weights:
        k = one if isinstance(one, int) else len(one)
        layers.append(attention.build(family, channels, kernel_size=k))
        if not isinstance(one, int):
            with torch.no_grad():
                layers[-1].excite.conv.weight.copy_(torch.as_tensor(one).view(1, 1, -1))
    return nn.Sequential(*layers)


def fresh(seed: int, sites: int = 8, k: int = 5, **options) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return network(*[k] * sites, **options)


# H(f).


@pytest.mark.parametrize("k", [1, 3, 5, 9, 31])
def test_response_is_the_fft_of_the_kernel_padded_with_zeros(k):
    n = 64
    w = drawn(k)
    padded = np.zeros(n)
    padded[np.arange(k) - k // 2] = w.numpy()  # offsets below 0 wrap to the end
    found = responses.frequency_response(w, np.arange(n // 2 + 1) / n)
    assert found.response.numpy() == pytest.approx(np.fft.rfft(padded), abs=1e-12)
    assert found.magnitude.numpy() == pytest.approx(np.abs(np.fft.rfft(padded)), abs=1e-12)
    assert found.phase.numpy() == pytest.approx(np.angle(np.fft.rfft(padded)), abs=1e-9)


def test_a_network_multiplies_a_wave_by_the_conjugate_of_the_response():
    channels, turns, k = 24, 5, 7
    module = attention.build("eca", channels, kernel_size=k, padding="circular").double()
    wave = 2 * math.pi * turns / channels * torch.arange(channels, dtype=torch.float64)
    with torch.no_grad():
        out = [module.excite(part[None])[0] for part in (wave.cos(), wave.sin())]
    found = responses.frequency_response(module.excite.conv.weight.flatten(), [turns / channels]).response
    expected = torch.polar(torch.ones_like(wave), wave) * found.conj()
    assert torch.complex(*out).numpy() == pytest.approx(expected.numpy(), abs=1e-12)


def test_an_impulse_passes_all_frequencies_alike():
    found = responses.frequency_response(torch.tensor([0.0, 0, 1, 0, 0]))
    assert found.magnitude.numpy() == pytest.approx(np.ones(129))
    assert found.phase.numpy() == pytest.approx(np.zeros(129))
    assert found.frequencies[[0, -1]].tolist() == [0, 0.5]
    assert found.balance == pytest.approx(0.5)
    moved = responses.frequency_response(torch.tensor([0.0, 0, 0, -3, 0]))
    assert moved.magnitude.numpy() == pytest.approx(np.full(129, 3.0))
    assert moved.balance == pytest.approx(0.5)


def test_parseval():
    w = drawn(9)
    n = 64
    f = np.abs(np.fft.fftfreq(n))
    power = responses.frequency_response(w, f).magnitude.square()
    assert float(power.mean()) == pytest.approx(float(w.square().sum()))
    assert float(power.mean().sqrt()) == pytest.approx(
        float(responses.kernel_null(network(w), "norm", draws=10)["value"][0]), rel=1e-6
    )


@pytest.mark.parametrize("k", [1, 3, 5, 7, 9, 15])
def test_balance_is_the_integral_below_a_quarter(k):
    from scipy.integrate import quad

    w = drawn(k, seed=k)
    power = lambda f: float(responses.frequency_response(w, [f]).magnitude[0] ** 2)  # noqa: E731
    expected = quad(power, 0, 0.25, epsabs=1e-12)[0] / quad(power, 0, 0.5, epsabs=1e-12)[0]
    assert responses.frequency_response(w).balance == pytest.approx(expected, abs=1e-9)


def test_balance_knows_neither_scale_nor_sign_nor_direction_and_turns_round_with_alternating_signs():
    w = drawn(7)
    own = responses.frequency_response(w).balance
    for same in (5 * w, -w, w.flip(0)):
        assert responses.frequency_response(same).balance == pytest.approx(own)
    alternating = w * torch.tensor([1, -1, 1, -1, 1, -1, 1])
    assert responses.frequency_response(alternating).balance == pytest.approx(1 - own)


def test_phase_of_a_symmetric_kernel_is_zero_or_half_a_turn():
    found = responses.frequency_response(torch.tensor([0.3, -0.2, -1, -0.2, 0.3]))
    phase, sign = found.phase.numpy(), found.response.real.numpy() > 0
    assert phase == pytest.approx(np.where(sign, 0, math.pi))


def test_phase_is_nan_where_nothing_passes():
    found = responses.frequency_response(torch.tensor([0.25, 0.5, 0.25]))
    assert math.isnan(found.phase[-1])
    assert not found.phase[:-1].isnan().any()
    nothing = responses.frequency_response(torch.zeros(3))
    assert math.isnan(nothing.balance)
    assert nothing.phase.isnan().all()


def test_a_response_as_a_table_and_in_words():
    found = responses.frequency_response(torch.tensor([1.0, 2, 1]) / 4, [0, 0.25, 0.5])
    table = found.to_frame()
    assert table["frequency"].tolist() == [0, 0.25, 0.5]
    assert table["magnitude"].to_numpy() == pytest.approx([1, 0.5, 0], abs=1e-15)
    assert np.hypot(table["real"], table["imaginary"]).to_numpy() == pytest.approx(table["magnitude"].to_numpy())
    assert repr(found) == "FrequencyResponse(k=3, |H(0)| = 1, |H(0.5)| = 0, balance 0.924)"


@pytest.mark.parametrize(
    ("kernel", "frequencies", "text"),
    [
        (torch.ones(1, 1, 3), None, r"vector of k weights, got shape \(1, 1, 3\)"),
        (torch.ones(4), None, "odd whole number"),
        (torch.tensor([1.0, torch.nan, 0]), None, "NaN or infinite"),
        (torch.ones(3), [0.1, 0.7], r"from 0 to 0\.5 cycles per channel.*got \[0\.1, 0\.7\]"),
        (torch.ones(3), [-0.1], "from 0 to 0.5"),
        (torch.ones(3), [float("nan")], "from 0 to 0.5"),
        (torch.ones(3), [], "from 0 to 0.5"),
        (torch.ones(3), 0.1, "several numbers, got 0.1"),
        (torch.ones(3), "ab", "several numbers, got 'ab'"),
    ],
)
def test_bad_kernels_and_frequencies_are_refused_in_words(kernel, frequencies, text):
    with pytest.raises(ValueError, match=f"^frequency_response: .*{text}"):
        responses.frequency_response(kernel, frequencies)


# The measures of the sites.


@pytest.mark.parametrize("k", [1, 3, 9])
def test_measures_agree_with_the_kernel_summary(k):
    net = fresh(3, sites=4, k=k)
    table = responses.kernel_null(net, draws=10).pivot(index="depth", columns="measure", values="value")
    summary = kernels.kernel_summary(net)
    for name in ("centre_share", "symmetry", "sum"):
        assert table[name].to_numpy() == pytest.approx(summary[name].to_numpy()), name
    for depth, (_, own) in enumerate(kernels.learned_kernels(net).groupby("depth")):
        w = own["weight"].to_numpy()
        assert table["norm"][depth] == pytest.approx(np.linalg.norm(w))
        assert table["sum_share"][depth] == pytest.approx(w.mean() / np.sqrt(np.mean(w**2)))
        assert table["balance"][depth] == pytest.approx(responses.frequency_response(torch.tensor(w)).balance)


def test_kernel_responses_of_known_filters():
    box, peak, impulse, slope = [1.0] * 9, [0, 0, 0, -1.0, 2, -1, 0, 0, 0], [0, 0, 0.7], [-1.0, 0, 1]
    table = responses.kernel_responses(network(box, peak, impulse, [1.5], slope, [0.0, 0, 0]))
    assert table["gain_0"].to_numpy() == pytest.approx([9, 0, 0.7, 1.5, 0, 0], abs=1e-6)
    assert table["gain_half"].to_numpy() == pytest.approx([1, 4, 0.7, 1.5, 0, 0], abs=1e-6)
    assert table["verdict"].tolist() == ["smooths", "sharpens", "flat", "flat", "within chance", "flat"]
    assert table["balance"][0] > 0.9
    assert table["balance"][1] < 0.1
    assert table["balance"][[2, 3, 4]].to_numpy() == pytest.approx([0.5] * 3)
    assert math.isnan(table["balance"][5])
    assert table["depth"].tolist() == list(range(6))
    assert table["k"].tolist() == [9, 9, 3, 1, 3, 3]
    assert table["channels"].tolist() == [16] * 6


def test_gains_are_the_ends_of_the_response():
    net = fresh(1, k=7)
    table = responses.kernel_responses(net, draws=10)
    ends = responses.frequency_responses(net, [0, 0.5], draws=10).pivot(
        index="depth", columns="frequency", values="magnitude"
    )
    assert ends[0.0].to_numpy() == pytest.approx(table["gain_0"].to_numpy())
    assert ends[0.5].to_numpy() == pytest.approx(table["gain_half"].to_numpy())


def test_frequency_responses_are_those_of_each_kernel():
    net = network(drawn(3), drawn(5))
    table = responses.frequency_responses(net, draws=10)
    assert len(table) == 2 * 129
    for depth, k in ((0, 3), (1, 5)):
        w = drawn(k)
        own = table[table["depth"] == depth]
        alone = responses.frequency_response(w)
        assert own["frequency"].to_numpy() == pytest.approx(alone.frequencies.numpy())
        assert own["magnitude"].to_numpy() == pytest.approx(alone.magnitude.numpy(), abs=1e-6)
        assert own["relative"].to_numpy() == pytest.approx((alone.magnitude / w.norm()).numpy(), abs=1e-6)
        assert own["balance"].to_numpy() == pytest.approx(np.full(129, alone.balance), abs=1e-6)
        assert own["relative"].max() <= math.sqrt(k) + 1e-6


# The null.


@pytest.mark.parametrize("k", [1, 3, 9])
def test_the_null_is_what_a_new_conv1d_has(k):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        w = torch.stack([nn.Conv1d(1, 1, k, bias=False).weight.detach().flatten().double() for _ in range(2000)])
    drawn_here = responses._fresh(20_000, k, torch.Generator().manual_seed(0))
    assert w.abs().max() <= 1 / math.sqrt(k) + 1e-6
    assert stats.kstest(w.flatten().numpy(), stats.uniform(-1 / math.sqrt(k), 2 / math.sqrt(k)).cdf).pvalue > 0.01
    assert stats.ks_2samp(w.flatten().numpy(), drawn_here.flatten().numpy()).pvalue > 0.01
    own, null = responses._measured(w), responses._null(k, 1, 20_000, 0)
    for name in responses.MEASURES:
        if k > 1 or name in ("sum", "norm"):  # of one weight the shares are constant up to rounding
            assert stats.ks_2samp(own[name].numpy(), null[name].numpy()).pvalue > 0.01, name


def test_the_null_is_what_the_modules_of_timm_and_of_the_bundled_family_start_from():
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = [timm.create_model("ecaresnet101d"), timm.create_model("resnet50", block_args={"attn_layer": "ceca"})]
        nets += [ecaviz.networks.build(ecaviz.networks.Architecture("eca", {"kernel_size": 9})) for _ in range(10)]
    weights = [kernels.learned_kernels(net) for net in nets]
    scaled = np.concatenate([one["weight"] * np.sqrt(one["k"]) for one in weights])
    assert len(scaled) > 900
    assert stats.kstest(scaled, stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_null_responses_are_quantiles_and_the_null_of_the_balance_is_even():
    table = responses.null_responses(5, draws=40_000).set_index("measure")
    assert list(table.index) == list(responses.MEASURES)
    assert table.loc["balance", "null_median"] == pytest.approx(0.5, abs=0.01)
    assert table.loc["balance", "null_low"] + table.loc["balance", "null_high"] == pytest.approx(1, abs=0.01)
    w = (torch.rand(40_000, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64) * 2 - 1) / math.sqrt(5)
    expected = {"sum": w.sum(1), "norm": w.norm(dim=1), "centre_share": w[:, 2].abs() / w.abs().sum(1)}
    for name, values in expected.items():
        assert table.loc[name].to_numpy() == pytest.approx(np.quantile(values, [0.025, 0.5, 0.975]), abs=0.015), name


def test_null_band_holds_what_it_says_at_each_frequency():
    f = [0, 0.1, 0.25, 0.4, 0.5]
    for relative in (False, True):
        band = responses.null_band(7, f, relative=relative)
        net = fresh(11, sites=2000, k=7)
        w = torch.stack([one.excite.conv.weight.detach().flatten() for one in net])
        gains = torch.stack([responses.frequency_response(one, f).magnitude for one in w]).numpy()
        gains = gains / w.norm(dim=1, keepdim=True).numpy() if relative else gains
        inside = (gains >= band["null_low"].to_numpy()) & (gains <= band["null_high"].to_numpy())
        assert inside.mean(0) == pytest.approx([0.95] * 5, abs=0.02)
        assert (gains > band["null_median"].to_numpy()).mean(0) == pytest.approx([0.5] * 5, abs=0.04)


def test_p_of_fresh_kernels_is_uniform():
    table = responses.kernel_null(fresh(5, sites=1500, k=5))
    for name, own in table.groupby("measure"):
        assert stats.kstest(own["p"], "uniform").pvalue > 0.001, name  # there are twelve of these
        assert stats.kstest(own["percentile"] / 100, "uniform").pvalue > 0.001, name


def test_p_is_two_sided_and_counts_the_value_itself():
    null = torch.arange(1, 100, dtype=torch.float64)  # 99 draws
    assert responses._place(0.0, null) == (0.0, pytest.approx(2 / 100))
    assert responses._place(1000.0, null) == (100.0, pytest.approx(2 / 100))
    assert responses._place(2.0, null) == (pytest.approx(100 * 1.5 / 99), pytest.approx(6 / 100))
    assert responses._place(98.0, null)[1] == pytest.approx(6 / 100)
    assert responses._place(50.0, null) == (50.0, 1.0)
    assert responses._place(1.0, torch.ones(99, dtype=torch.float64) * (1 + 1e-15)) == (50.0, 1.0)


def test_where_no_draw_can_differ_p_is_one():
    table = responses.kernel_null(network([0.3], [-2.0]), draws=99)
    sure = table[table["measure"].isin(("balance", "centre_share", "symmetry"))]
    assert (sure["p"] == 1).all()
    assert (sure["percentile"] == 50).all()


def test_p_is_corrected_as_holm_has_it():
    p = np.array([0.03, 0.011, 0.5, 0.02, np.nan, 0.9])
    series = holm(pd.Series(p, index=[7, 3, 5, 9, 1, 2]))
    assert series.index.tolist() == [7, 3, 5, 9, 1, 2]
    # By hand, of five: 0.011·5, then max(0.055, 0.02·4), max(0.08, 0.03·3), 0.5·2 and 0.9 → 1.
    assert series.to_numpy() == pytest.approx([0.09, 0.055, 1, 0.08, np.nan, 1], nan_ok=True)


def test_correction_is_over_the_sites_of_each_measure():
    net = network(*[5] * 7, [1.0] * 5)
    table = responses.kernel_null(net)
    for name, own in table.groupby("measure"):
        alone = responses.kernel_null(net, name)
        assert alone["p_adjusted"].tolist() == own["p_adjusted"].tolist()
        smallest = own["p"].min()
        assert own["p_adjusted"].min() == pytest.approx(min(1, 8 * smallest))


@pytest.mark.parametrize(("k", "family"), [(3, "eca"), (9, "eca"), (3, "eca-ns")])
def test_fresh_networks_are_named_at_most_in_one_of_twenty_cases(k, family):
    models = 200
    draws = 2000 if family == "eca" else 1000
    named = dict.fromkeys(responses.MEASURES, 0)
    verdicts = 0
    for seed in range(models):
        net = fresh(seed, sites=6, k=k, family=family, channels=8)
        table = responses.kernel_null(net, draws=draws, seed=seed)
        for name, own in table.groupby("measure"):
            named[name] += bool((own["p_adjusted"] <= 0.05).any())
        balance = table[table["measure"] == "balance"]["p_adjusted"]
        if seed < 20:
            said = responses.kernel_responses(net, draws=draws, seed=seed)
            assert (said["p_adjusted"].to_numpy() == balance.to_numpy()).all()
            assert (said["verdict"].isin(("smooths", "sharpens")) == (said["p_adjusted"] <= 0.05)).all()
            verdicts += 1
    assert verdicts == 20
    most = stats.binom.ppf(0.999, models, 0.05)
    assert all(count <= most for count in named.values()), named
    assert sum(named.values()) > 0.01 * models * len(named)  # nor is the correction so strict that it never speaks


def test_planted_kernels_are_found_among_fresh_ones():
    smooth, sharp = torch.hann_window(11)[1:-1], torch.hann_window(11)[1:-1] * torch.tensor([1, -1] * 4 + [1])
    found = [
        responses.kernel_responses(network(9, 9, 9, smooth, 9, 9, -3 * sharp, 9), seed=seed)["verdict"].tolist()
        for seed in range(5)
    ]
    assert all(verdict[3] == "smooths" and verdict[6] == "sharpens" for verdict in found)


def test_growth_moves_the_sum_and_the_norm_alone():
    net = fresh(2, k=5)
    before = responses.kernel_null(net).set_index(["site", "measure"])
    with torch.no_grad():
        for one in net:
            one.excite.conv.weight.mul_(8)
    after = responses.kernel_null(net).set_index(["site", "measure"])
    for name in SHARES:
        assert after.xs(name, level=1)["p"].tolist() == before.xs(name, level=1)["p"].tolist()
    assert after.xs("norm", level=1)["value"].to_numpy() == pytest.approx(
        8 * before.xs("norm", level=1)["value"].to_numpy()
    )
    assert (after.xs("norm", level=1)["p_adjusted"] <= 0.05).all()


def test_an_eca_ns_is_the_mean_over_its_kernels_against_the_mean_of_as_many_fresh_ones():
    net = fresh(4, sites=2, k=3, family="eca-ns", channels=12)
    table = responses.kernel_null(net, "balance", draws=2000)
    for at, one in enumerate(net):
        rows = one.excite.conv.weight.detach().flatten(1)
        balances = [responses.frequency_response(row).balance for row in rows]
        assert table["value"][at] == pytest.approx(np.mean(balances))
    single = responses.null_responses(3).set_index("measure").loc["balance"]
    width = (table["null_high"] - table["null_low"]).to_numpy() / (single["null_high"] - single["null_low"])
    assert width == pytest.approx([1 / math.sqrt(12)] * 2, rel=0.25)
    curve = responses.frequency_responses(net, [0.1], draws=10)["magnitude"]
    powers = [responses.frequency_response(row, [0.1]).magnitude[0] ** 2 for row in rows]
    assert curve[1] == pytest.approx(math.sqrt(np.mean(powers)), rel=1e-6)
    gains = responses.kernel_responses(net, draws=10)["gain_0"]
    assert gains[1] == pytest.approx(float(rows.sum(1).abs().mean()), rel=1e-6)


def test_an_eca_ns_in_the_official_code_is_read_too():
    class eca_layer(nn.Module):  # noqa: N801 - the class is known by this name
        def __init__(self, channels: int, k: int):
            super().__init__()
            self.avg_pool = nn.AdaptiveAvgPool2d(1)
            self.conv = nn.Conv1d(channels, channels, k, groups=channels, bias=False)
            self.sigmoid = nn.Sigmoid()

    net = nn.Sequential(eca_layer(6, 3))
    table = responses.kernel_null(net, "norm", draws=50)
    assert table["value"][0] == pytest.approx(float(net[0].conv.weight.detach().flatten(1).norm(dim=1).mean()))


def test_kernels_of_zeros_are_left_out_of_the_correction():
    table = responses.kernel_null(network([0.0, 0, 0], 3, 3), "balance")
    assert table.loc[0, ["value", "p", "p_adjusted", "percentile"]].isna().all()
    assert table["p_adjusted"].min() == pytest.approx(min(1, 2 * table["p"].min()))


def test_seeds_repeat_and_nothing_is_touched():
    net = fresh(1)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(3)
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global one
    first, again = responses.kernel_null(net), responses.kernel_null(net)
    other = responses.kernel_null(net, seed=1)
    responses.kernel_responses(net), responses.frequency_responses(net), responses.null_responses(3)
    responses.null_band(3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert first.equals(again)
    assert not first["p"].equals(other["p"])
    assert first["p"].to_numpy() == pytest.approx(other["p"].to_numpy(), abs=0.05)
    assert first["value"].equals(other["value"])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    assert all(one.excite.conv.weight.requires_grad and one.excite.conv.weight.grad is None for one in net)


def test_the_null_does_not_depend_on_how_it_is_cut_into_blocks(monkeypatch):
    whole = responses._null(5, 3, 100, 0)
    monkeypatch.setattr(responses, "_WEIGHTS", 100)
    cut = responses._null(5, 3, 100, 0)
    for name in responses.MEASURES:
        assert torch.equal(whole[name], cut[name])


def test_bad_input_is_refused_in_words():
    se = nn.Sequential(attention.build("se", 16, reduction=4))
    for function in (responses.kernel_null, responses.kernel_responses, responses.frequency_responses):
        with pytest.raises(ValueError, match=rf"^{function.__name__}: the model has 1 gates, but none is an ECA.*: se"):
            function(se)
        with pytest.raises(ValueError, match=rf"^{function.__name__}: draws must be a whole number of at least 1"):
            function(fresh(0), draws=0)
        with pytest.raises(ValueError, match=rf"^{function.__name__}: 1: the kernel has weights that are NaN"):
            function(network(3, [1.0, torch.inf, 0]))
    with pytest.raises(ValueError, match="has no channel gates"):
        responses.kernel_null(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="got int"):
        responses.kernel_null(3)
    with pytest.raises(ValueError, match=r"no measure is called 'balanse'\. Known: balance, centre_share"):
        responses.kernel_null(fresh(0), "balanse")
    with pytest.raises(ValueError, match="no measure to look at"):
        responses.kernel_null(fresh(0), [])
    with pytest.raises(ValueError, match=r"^null_responses: k must be an odd"):
        responses.null_responses(4)
    with pytest.raises(ValueError, match=r"^null_band: draws"):
        responses.null_band(3, draws=0)


# Bundled models and the front door.


def test_bundled_models_have_a_row_a_site():
    for name in ("shapes-eca-k1", "shapes-eca-k9", "shapes-eca-adaptive"):
        model = ecaviz.load(name)
        assert len(ecaviz.kernel_responses(model)) == 8
        assert len(ecaviz.kernel_null(model)) == 8 * len(responses.MEASURES)
    assert (ecaviz.kernel_responses(ecaviz.load("shapes-eca-k1"))["verdict"] == "flat").all()
    for name in ("frequency_response", "frequency_responses", "kernel_null", "kernel_responses", "null_responses"):
        assert getattr(ecaviz, name) is getattr(responses, name)


# Pictures.


@pytest.fixture
def ax():
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots()


def whole(ax):
    """Nothing of the picture is cut off."""
    ax.figure.canvas.draw()
    box, size = ax.get_tightbbox(), ax.figure.bbox
    assert box.x0 >= -1
    assert box.y0 >= -1
    assert box.x1 <= size.x1 + 1
    assert box.y1 <= size.y1 + 1


def test_pictures_are_reached_through_plots():
    for name in response_plots.__all__:
        assert getattr(plots, name) is getattr(response_plots, name)
        assert name in plots.__all__


@pytest.mark.parametrize("relative", [True, False])
def test_one_response_lies_over_its_null(ax, relative):
    w = drawn(5)
    assert plots.kernel_response(w, relative=relative, ax=ax) is ax
    lines = {line.get_label(): line for line in ax.lines}
    alone = responses.frequency_response(w)
    size = float(w.norm()) if relative else 1
    assert lines["this kernel"].get_ydata() == pytest.approx(alone.magnitude.numpy() / size)
    band = responses.null_band(5, relative=relative)
    assert lines["their median"].get_ydata() == pytest.approx(band["null_median"].to_numpy())
    corners = ax.collections[0].get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx(band["null_high"].max())
    assert corners[:, 1].max() < ax.get_ylim()[1]
    assert f"k = 5: {100 * alone.balance:.0f} %" in ax.get_title(loc="left")
    assert "cycles per channel" in ax.get_xlabel()
    assert ("‖w‖" in ax.get_ylabel()) == relative
    whole(ax)


def test_a_response_can_be_drawn_of_what_was_computed(ax):
    alone = responses.frequency_response(torch.tensor([0.0, 2, 0]))
    plots.kernel_response(alone, null=responses.null_band(3, draws=100), relative=False, ax=ax)
    assert ax.lines[1].get_ydata() == pytest.approx([2.0] * 129)
    assert "flat" in ax.get_title(loc="left")
    with pytest.raises(ValueError, match="kernel_response: the frame lacks frequency"):
        plots.kernel_response(alone, null=responses.null_responses(3, draws=10), ax=ax)


def test_a_kernel_of_zeros_can_be_drawn(ax):
    plots.kernel_response(torch.zeros(3), ax=ax)
    assert ax.get_title(loc="left") == "k = 3: w = 0"
    whole(ax)


def test_all_responses_are_rows_of_a_map(ax):
    net = network([1.0] * 9, 9, 5, [0.0] * 3)
    table = responses.frequency_responses(net)
    plots.kernel_responses(table, ax=ax)
    grid = np.ma.filled(ax.collections[0].get_array(), np.nan)
    assert grid.shape == (4, 129)
    for depth in range(3):
        assert grid[depth] == pytest.approx(table[table["depth"] == depth]["relative"].to_numpy())
    assert np.isnan(grid[3]).all()
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[0] == f"0 (C=16, k=9): {100 * table['balance'][0]:.0f} %, smooths"
    assert labels[3] == "3 (C=16, k=3): w = 0"
    assert ax.get_title(loc="left") == "4 kernels: beyond chance, 1 smooth and 0 sharpen"
    assert ax.get_ylim() == (3.5, -0.5)
    whole(ax)
    with pytest.raises(ValueError, match=r"each of the same frequencies"):
        plots.kernel_responses(table.iloc[:-3], ax=ax)
    with pytest.raises(ValueError, match=r"lacks relative.*made by ecaviz.frequency_responses"):
        plots.kernel_responses(table.drop(columns="relative"), ax=ax)


def test_a_map_of_one_frequency(ax):
    table = responses.frequency_responses(fresh(0), [0.25])
    plots.kernel_responses(table, ax=ax)
    assert np.asarray(ax.collections[0].get_array()).ravel() == pytest.approx(table["relative"].to_numpy())
    whole(ax)


@pytest.mark.parametrize("measure", list(responses.MEASURES))
def test_each_measure_lies_over_its_null_and_is_filled_where_it_is_beyond(ax, measure):
    table = responses.kernel_null(network([9.0] * 9, *[9] * 7))
    plots.kernel_null(table, measure, ax=ax)
    own = table[table["measure"] == measure]
    sure = own["p_adjusted"] <= 0.05
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    shown = {line.get_mfc(): line for line in dots}
    assert len(dots) == len({*sure})
    for kept, filled in ((sure, True), (~sure, False)):
        line = next((one for fill, one in shown.items() if (fill != "white") == filled), None)
        found = [] if line is None else list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        assert found == list(zip(own["value"][kept], own["depth"][kept], strict=True))
    bars = ax.collections[0].get_segments()
    assert [bar[:, 0].tolist() for bar in bars] == own[["null_low", "null_high"]].to_numpy().tolist()
    assert f"beyond chance at {sure.sum()} of 8 sites" in ax.get_title(loc="left")
    whole(ax)


def test_too_few_draws_are_said_to_be_too_few(ax):
    plots.kernel_null(responses.kernel_null(fresh(0), draws=99), ax=ax)
    assert ax.get_title(loc="left") == "balance: 99 draws are too few to tell at 8 sites"


def test_a_measure_that_is_not_there_is_refused(ax):
    with pytest.raises(ValueError, match=r"no measure 'norm'; it has: balance\."):
        plots.kernel_null(responses.kernel_null(fresh(0), "balance"), "norm", ax=ax)
    with pytest.raises(ValueError, match=r"made by ecaviz\.kernel_null"):
        plots.kernel_null(responses.null_responses(3), ax=ax)
