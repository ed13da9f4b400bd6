r"""What an ECA kernel does to a pattern over the channels: does it smooth or sharpen, and more so than chance gives?

    frequency_response(site.kernel).magnitude        # |H(f)|, f in cycles per channel
    kernel_responses(model)                          # a row a site: gains, balance, "smooths" or "sharpens"
    kernel_null(model)                               # a row a site and measure: value, what fresh kernels give, p

The kernel is a filter over the channel index: H(f) = Σ_d w_d·e^{−2πi·f·d}, with d = −(k−1)/2 … (k−1)/2. At f = 0 all
channels have the same descriptor, at f = 0.5 neighbours have opposite signs. The *balance* is the share of the energy
∫|H|² that lies below f = 0.25. Above 0.5 the kernel smooths: what neighbours have in common passes better than what
they differ in. Below 0.5 it sharpens. It does not depend on the kernel's scale or sign, and has a closed form in the
autocorrelation r_m = Σ_d w_d·w_{d+m}:

    balance = 1/2 + (2/π)·(r_1 − r_3/3 + r_5/5 − …)/r_0

Two cautions. *What frequency means here:* the order of a network's channels is arbitrary before training; it is no axis
such as time. "Smooths" says that a gate follows the mean of its neighbours by index. Whether those are neighbours in
any other sense, the kernel cannot tell; :func:`ecaviz.locality.band_test` asks. And the responses hold away from the
ends of the channels, where nothing is padded. *What chance gives:* a kernel of few random weights is hardly ever flat.
So each number is compared with kernels as PyTorch draws them for a new ``nn.Conv1d(1, 1, k)``: every weight uniform in
±1/√k. A kernel that training left as it was lies within that, whatever it looks like.

Sources: the filter: Wang et al., "ECA-Net", CVPR 2020, Eq. 9. The initialisation: He et al., ICCV 2015, with the
a = √5 of PyTorch's layers. p-values: Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9(1), 2010. Their correction: Holm,
Scand. J. Stat. 6(2), 1979.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from . import checks
from .adjusted import holm
from .kernels import ecas_among
from .sites import GateSite, select_sites

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LEVEL",
    "MEASURES",
    "FrequencyResponse",
    "frequency_response",
    "frequency_responses",
    "kernel_null",
    "kernel_responses",
    "null_band",
    "null_responses",
]

MEASURES: dict[str, str] = {
    "balance": "share of ∫|H|² below f = 0.25, 0…1; 0.5 for a flat response",
    "centre_share": "|w_0| / Σ|w|, 0…1",
    "symmetry": "‖(w + reversed w)/2‖² / ‖w‖², 0…1",
    "sum": "Σw = H(0), the logit of a descriptor that is 1 everywhere",
    "sum_share": "Σw / (√k·‖w‖), −1…1: ±1 where all weights are equal, 0 where they cancel",
    "norm": "‖w‖, the root mean square of |H|",
}
"""What a kernel is measured by. All but ``sum`` and ``norm`` are the same for a kernel and any positive multiple."""

LEVEL = 0.05
"""Chance, per measure, that a network of fresh kernels has any site named as beyond chance."""

_ROUNDING = 1e-9  # sums of the same numbers in another order differ by less
_WEIGHTS = 2**21  # drawn at once (16 MiB)


# ------------------------------------------------------------------------------------------------------- one kernel


@dataclass(frozen=True, eq=False)
class FrequencyResponse:
    r"""H(f) of one kernel.

    A pattern e^{2πi·f·c} over the channels c comes out of the excitation as a multiple of itself. The kernel w is
    cross-correlated with it (z_c = Σ_d w_d·y_{c+d}, as PyTorch's conv1d does), so the multiple is Σ_d w_d·e^{+2πi·f·d}.
    For real w that is the conjugate of H: same magnitude, opposite phase.

    Attributes:
        kernel: w, float64, k.
        frequencies: f in cycles per channel, 0…0.5, float64, F.
        response: H(f), complex128, F.
    """

    kernel: Tensor
    frequencies: Tensor
    response: Tensor

    @property
    def magnitude(self) -> Tensor:
        r"""\|H(f)\|: the logit's amplitude per amplitude of the descriptor, F."""
        return self.response.abs()

    @property
    def phase(self) -> Tensor:
        """The argument of H(f) in radians, −π…π, F; NaN where H is 0 up to rounding. 0 or π for a symmetric kernel."""
        nothing = 1e-12 * float(self.kernel.abs().sum())
        real, imaginary = self.response.real, self.response.imag
        imaginary = torch.where(imaginary.abs() <= nothing, 0.0, imaginary)  # or a rounding decides between π and −π
        return torch.atan2(imaginary, real).masked_fill(self.magnitude <= nothing, torch.nan)

    @property
    def balance(self) -> float:
        r"""Share of ∫\|H\|² below f = 0.25, exact, 0…1; 0.5 for a flat response, NaN for w = 0."""
        return float(_measured(self.kernel[None])["balance"])

    def to_frame(self) -> pd.DataFrame:
        """A row a frequency: frequency, magnitude, phase, real, imaginary."""
        import pandas as pd

        parts = {"frequency": self.frequencies, "magnitude": self.magnitude, "phase": self.phase}
        parts |= {"real": self.response.real, "imaginary": self.response.imag}
        return pd.DataFrame({name: values.tolist() for name, values in parts.items()})

    def __repr__(self) -> str:
        alternating, total = _gains(self.kernel[None])
        ends = f"|H(0)| = {float(total):.3g}, |H(0.5)| = {float(alternating):.3g}"
        return f"FrequencyResponse(k={len(self.kernel)}, {ends}, balance {self.balance:.3g})"


def frequency_response(kernel: Tensor, frequencies: Iterable[float] | Tensor | None = None) -> FrequencyResponse:
    """H(f) = Σ_d w_d·e^{−2πi·f·d} of a kernel, d the offset from its centre.

    Args:
        kernel: w, k weights, k odd.
        frequencies: f in cycles per channel, each 0…0.5; None for 129 from 0 to 0.5.

    Returns:
        The :class:`FrequencyResponse`, in float64 on the CPU.

    Raises:
        ValueError: ``kernel`` is no vector of odd length, has NaN or infinite weights, or a frequency is none.
    """
    w = _vector(kernel, "frequency_response")
    f = _checked_frequencies(frequencies, "frequency_response")
    return FrequencyResponse(w, f, _response(w[None], f)[0])


def _vector(kernel: Any, what: str) -> Tensor:
    kernel = torch.as_tensor(kernel)
    if kernel.ndim != 1:
        raise ValueError(f"{what}: the kernel must be a vector of k weights, got shape {tuple(kernel.shape)}.")
    checks.kernel_size(len(kernel), f"{what}: the length of the kernel")
    return _finite(kernel, what)


def _finite(weights: Tensor, what: str) -> Tensor:
    weights = weights.detach().cpu().double()
    if not weights.isfinite().all():
        raise ValueError(f"{what}: the kernel has weights that are NaN or infinite; its response is not defined.")
    return weights


def _checked_frequencies(frequencies: Any, what: str) -> Tensor:
    if frequencies is None:
        return torch.linspace(0, 0.5, 129, dtype=torch.float64)
    if not isinstance(frequencies, Tensor):
        try:
            frequencies = torch.tensor(list(frequencies), dtype=torch.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{what}: frequencies must be several numbers, got {frequencies!r}.") from None
    f = frequencies.detach().cpu().double()
    if f.ndim != 1 or not len(f) or not ((f >= 0) & (f <= 0.5)).all():
        raise ValueError(
            f"{what}: frequencies must be a vector of numbers from 0 to 0.5 cycles per channel (a pattern over whole "
            f"channels has no others), got {f.tolist()}."
        )
    return f


def _response(kernels: Tensor, frequencies: Tensor) -> Tensor:
    """H of each kernel, n×k → n×F."""
    k = kernels.shape[1]
    offsets = torch.arange(k, dtype=torch.float64) - (k - 1) / 2
    turns = -2 * math.pi * offsets[:, None] * frequencies
    return torch.complex(kernels @ turns.cos(), kernels @ turns.sin())


def _gains(kernels: Tensor) -> tuple[Tensor, Tensor]:
    r"""\|H(0.5)\| and \|H(0)\| of each kernel, n×k → n and n: the alternating sum and the sum, exact."""
    signs = 1 - 2 * (torch.arange(kernels.shape[1]) % 2).double()
    return (kernels @ signs).abs(), kernels.sum(dim=1).abs()


def _measured(kernels: Tensor) -> dict[str, Tensor]:
    """Each of :data:`MEASURES` of each kernel, n×k → n; NaN where it would be 0/0."""
    k = kernels.shape[1]
    size, energy, total = kernels.abs().sum(dim=1), kernels.square().sum(dim=1), kernels.sum(dim=1)
    lean = torch.zeros_like(energy)
    for lag in range(1, k, 2):  # even lags weigh as much below 0.25 as above
        lean += (1 if lag % 4 == 1 else -1) * (kernels[:, lag:] * kernels[:, :-lag]).sum(dim=1) / lag
    return {
        "balance": 0.5 + 2 / math.pi * lean / energy,
        "centre_share": kernels[:, k // 2].abs() / size,
        "symmetry": ((kernels + kernels.flip(1)) / 2).square().sum(dim=1) / energy,
        "sum": total,
        "sum_share": total / (k * energy).sqrt(),
        "norm": energy.sqrt(),
    }


# ------------------------------------------------------------------------------------------------- the sites of a model


def _kernels_of(model: Any, what: str) -> list[tuple[GateSite, Tensor]]:
    """The sites of ECA and ECA-NS of a model, each with its kernels, n×k: n is 1, of an ECA-NS C."""
    return [(site, _weights(site, what)) for site in ecas_among(select_sites(model), what, unshared=True)]


def _weights(site: GateSite, what: str) -> Tensor:
    if site.family == "eca":
        return _finite(site.kernel[None], f"{what}: {site.name}")
    conv = site.module.get_submodule(site.layout.neighbours or f"{site.layout.excite}.conv")
    return _finite(conv.weight.flatten(1), f"{what}: {site.name}")


def frequency_responses(
    model: Any, frequencies: Iterable[float] | Tensor | None = None, *, draws: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    r"""\|H(f)\| of every site of a model.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module, with ECA or ECA-NS.
        frequencies: f in cycles per channel, each 0…0.5; None for 129 from 0 to 0.5.
        draws: For the verdict; see :func:`kernel_responses`.
        seed: As there.

    Returns:
        One row a site and frequency. Columns: site, depth, channels, k; frequency; magnitude (\|H\|); relative
        (\|H\|/‖w‖: its square is 1 in the mean over f, 1 everywhere for a flat response, √k at most; NaN for w = 0);
        balance and verdict of :func:`kernel_responses`. Of an ECA-NS, magnitude and relative are root mean squares over
        its C kernels.

    Raises:
        ValueError: The model has no gates, or none is an ECA or ECA-NS; weights that are NaN or infinite; a frequency
            or a number of draws that is none.
    """
    import pandas as pd

    f = _checked_frequencies(frequencies, "frequency_responses")
    sites = _kernels_of(model, "frequency_responses")
    about = _site_table(sites, "frequency_responses", draws, seed)
    parts = []
    for (_, kernels), row in zip(sites, about.itertuples(index=False), strict=True):
        power = _response(kernels, f).abs().square()
        relative = (power / kernels.square().sum(dim=1, keepdim=True)).mean(dim=0).sqrt()
        own = {"site": row.site, "depth": row.depth, "channels": row.channels, "k": row.k, "frequency": f.tolist()}
        own |= {"magnitude": power.mean(dim=0).sqrt().tolist(), "relative": relative.tolist()}
        parts.append(pd.DataFrame({**own, "balance": row.balance, "verdict": row.verdict}))
    return pd.concat(parts, ignore_index=True)


def kernel_responses(model: Any, *, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    r"""Does each site of a model smooth or sharpen?

    The verdict is "smooths" or "sharpens" where the balance lies above or below what fresh kernels of the same k give
    (p_adjusted ≤ :data:`LEVEL`; see :func:`kernel_null`), "flat" where the response is the same at all frequencies
    because no more than one weight is not 0 (k = 1: always), else "within chance". That does not say that the response
    is flat: fresh kernels have nearly every balance that there is, more so the smaller k is, so that with k = 3 a
    kernel has to be close to the extreme to be told from them.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module, with ECA or ECA-NS.
        draws: Fresh kernels drawn for each k.
        seed: Seed of the draws.

    Returns:
        One row a site. Columns: site; depth (0 for the first of these sites); channels; k; gain_0 (\|H(0)\| = \|Σw\|);
        gain_half (\|H(0.5)\|, of the alternating sum); balance; p_adjusted (of the balance); verdict. Of an ECA-NS,
        gain_0, gain_half and balance are means over its C kernels, and so is what they are compared with.

    Raises:
        ValueError: The model has no gates, or none is an ECA or ECA-NS; weights that are NaN or infinite; a number of
            draws that is none.
    """
    return _site_table(_kernels_of(model, "kernel_responses"), "kernel_responses", draws, seed)


def _site_table(sites: list[tuple[GateSite, Tensor]], what: str, draws: int, seed: int) -> pd.DataFrame:
    null = _null_table(sites, ("balance",), what, draws, seed)
    table = null[["site", "depth", "channels", "k"]].copy()
    gains = [_gains(kernels) for _, kernels in sites]
    table["gain_0"] = [float(low.mean()) for _, low in gains]
    table["gain_half"] = [float(high.mean()) for high, _ in gains]
    table["balance"], table["p_adjusted"] = null["value"], null["p_adjusted"]
    table["verdict"] = [
        _verdict(kernels, balance, p)
        for (_, kernels), balance, p in zip(sites, table["balance"], table["p_adjusted"], strict=True)
    ]
    return table


def _verdict(kernels: Tensor, balance: float, p: float) -> str:
    if (kernels != 0).sum(dim=1).le(1).all():
        return "flat"
    if not p <= LEVEL:
        return "within chance"
    return "smooths" if balance > 0.5 else "sharpens"


# ------------------------------------------------------------------------------------------------------------ the null


def _fresh(count: int, k: int, generator: torch.Generator) -> Tensor:
    """Kernels as a new nn.Conv1d(1, 1, k, bias=False) has them, count×k: uniform in ±1/√k."""
    drawn = torch.rand(count, k, generator=generator, dtype=torch.float64)
    return drawn.mul_(2).sub_(1).div_(math.sqrt(k))


def _null(k: int, count: int, draws: int, seed: int) -> dict[str, Tensor]:
    """Each measure, sorted, draws: the mean over ``count`` fresh kernels."""
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, _WEIGHTS // (count * k))
    parts = []
    for start in range(0, draws, at_once):
        some = min(at_once, draws - start)
        measured = _measured(_fresh(some * count, k, generator))
        parts.append({name: values.view(some, count).mean(dim=1) for name, values in measured.items()})
    return {name: torch.cat([part[name] for part in parts]).sort().values for name in MEASURES}


def null_responses(k: int, *, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """What chance gives: each measure of fresh kernels of size k.

    Args:
        k: Kernel size, odd.
        draws: Kernels drawn.
        seed: Seed of the draws; the global random state is left alone.

    Returns:
        One row a measure. Columns: measure (see :data:`MEASURES`); null_low, null_median, null_high (the quantiles
        2.5 %, 50 % and 97.5 %).

    Raises:
        ValueError: An even k, or a number of draws that is none.
    """
    import pandas as pd

    k = checks.kernel_size(k, "null_responses: k")
    draws = checks.at_least_one(draws, "null_responses: draws")
    rows = [(name, *_quantiles(values)) for name, values in _null(k, 1, draws, seed).items()]
    return pd.DataFrame(rows, columns=["measure", "null_low", "null_median", "null_high"])


def null_band(
    k: int,
    frequencies: Iterable[float] | Tensor | None = None,
    *,
    relative: bool = False,
    draws: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    r"""What chance gives at each frequency: quantiles of \|H(f)\| of fresh kernels of size k.

    Each frequency by itself: 5 % of fresh kernels lie outside at any one of them, and more of them outside somewhere.

    Args:
        k: Kernel size, odd.
        frequencies: f in cycles per channel, each 0…0.5; None for 129 from 0 to 0.5.
        relative: Quantiles of \|H(f)\|/‖w‖ instead, which do not depend on how large the weights are.
        draws: Kernels drawn.
        seed: Seed of the draws.

    Returns:
        One row a frequency. Columns: frequency; null_low, null_median, null_high (2.5 %, 50 %, 97.5 %).

    Raises:
        ValueError: An even k, a frequency or a number of draws that is none.
    """
    import pandas as pd

    k = checks.kernel_size(k, "null_band: k")
    draws = checks.at_least_one(draws, "null_band: draws")
    f = _checked_frequencies(frequencies, "null_band")
    kernels = _fresh(draws, k, torch.Generator().manual_seed(seed))
    kernels = kernels / kernels.norm(dim=1, keepdim=True) if relative else kernels
    rows = [(float(at), *_quantiles(_response(kernels, at[None]).abs()[:, 0])) for at in f]
    return pd.DataFrame(rows, columns=["frequency", "null_low", "null_median", "null_high"])


def _quantiles(values: Tensor) -> tuple[float, ...]:
    return tuple(np.quantile(values.numpy(), [0.025, 0.5, 0.975]).tolist())


def kernel_null(
    model: Any, measures: str | Iterable[str] | None = None, *, draws: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Every site of a model against fresh kernels of the same k.

    p is two-sided: twice the smaller of (1 + #{null ≤ value})/(1 + draws) and (1 + #{null ≥ value})/(1 + draws), at
    most 1; equal up to rounding counts on both sides. p_adjusted is Holm's over the sites, each measure by itself: a
    network of fresh kernels has any site at p_adjusted ≤ 0.05 in at most 5 % of cases *per measure*. Who looks at M
    measures asks M questions, and is held to 5 % in all by p_adjusted ≤ 0.05/M. The smallest p_adjusted that can be is
    2·sites/(1 + draws).

    The sum and the norm grow with the weights. That they are beyond chance says no more than that training made the
    weights larger; the other measures tell about the shape alone.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module, with ECA or ECA-NS.
        measures: One or several of :data:`MEASURES`; None for all.
        draws: Fresh kernels drawn for each k; of an ECA-NS, fresh sites.
        seed: Seed of the draws; the global random state is left alone.

    Returns:
        One row a site and measure. Columns: site; depth (0 for the first of these sites); channels; k; measure; value;
        null_low, null_median, null_high (the quantiles 2.5 %, 50 % and 97.5 % of the null); percentile (share of the
        null below the value, 0…100, of what is equal half); p; p_adjusted; draws. Of an ECA-NS, the value is the mean
        over its C kernels, and the null that of the means over C fresh ones. Where a measure is 0/0, the value and all
        that follows from it are NaN.

    Raises:
        ValueError: The model has no gates, or none is an ECA or ECA-NS; weights that are NaN or infinite; an unknown
            measure; a number of draws that is none.
    """
    names = [measures] if isinstance(measures, str) else list(MEASURES if measures is None else measures)
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        what = f"no measure is called {unknown[0]!r}" if unknown else "there is no measure to look at"
        raise ValueError(f"kernel_null: {what}. Known: {', '.join(MEASURES)}.")
    names = tuple(dict.fromkeys(names))
    return _null_table(_kernels_of(model, "kernel_null"), names, "kernel_null", draws, seed)


def _null_table(
    sites: list[tuple[GateSite, Tensor]], names: tuple[str, ...], what: str, draws: int, seed: int
) -> pd.DataFrame:
    import pandas as pd

    draws = checks.at_least_one(draws, f"{what}: draws")
    shapes = dict.fromkeys(tuple(kernels.shape) for _, kernels in sites)
    nulls = {(count, k): _null(k, count, draws, seed) for count, k in shapes}
    rows = []
    for depth, (site, kernels) in enumerate(sites):
        k = kernels.shape[1]
        null, measured = nulls[tuple(kernels.shape)], _measured(kernels)
        for name in names:
            value = float(measured[name].mean())
            about = (site.name, depth, site.channels, k, name, value)
            rows.append((*about, *_quantiles(null[name]), *_place(value, null[name])))
    columns = ["site", "depth", "channels", "k", "measure", "value", "null_low", "null_median", "null_high"]
    table = pd.DataFrame(rows, columns=[*columns, "percentile", "p"])
    table["p_adjusted"] = table.groupby("measure", sort=False)["p"].transform(holm)
    return table.assign(draws=draws)


def _place(value: float, null: Tensor) -> tuple[float, float]:
    """Percentile and two-sided p of a value in a sorted null."""
    if math.isnan(value):
        return math.nan, math.nan
    slack = _ROUNDING * max(1.0, abs(value))
    ends = torch.tensor([value - slack, value + slack], dtype=torch.float64)
    below = int(torch.searchsorted(null, ends[:1]))
    upto = int(torch.searchsorted(null, ends[1:], right=True))
    p = 2 * min(1 + upto, 1 + len(null) - below) / (1 + len(null))
    return 50 * (below + upto) / len(null), min(1.0, p)
