"""The comparison behind ECA: what was published of each module, what is counted and what is measured here.

survey.MODULES                     # the fifteen modules, by name
survey.published_counts()          # every printed parameter count that can be rebuilt, and in which unit it is one
survey.questions()                 # Table 1's three questions, answered by measurement
survey.accuracies()                # Table 2's accuracies beside those of the bundled networks
survey.observations()              # the three claims about SE's variants, as paired differences
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from . import attention, networks, results
from .matches import NoDraws, NoWeights
from .published_tables import read as published
from .results import Difference
from .structure import Structure, structure

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MODULES",
    "RESNET_50",
    "Module",
    "accuracies",
    "added_parameters",
    "costs",
    "observations",
    "parameter_count",
    "published",
    "published_counts",
    "questions",
    "side_of",
    "structure_of",
]

RESNET_50: dict[int, int] = {256: 56, 512: 28, 1024: 14, 2048: 7}
"""Channels C at the gates of ResNet-50 and the side of the maps there, for images of 224×224."""


@dataclass(frozen=True)
class Module:
    """One module of the comparison.

    Attributes:
        name: What :func:`ecaviz.attention.build` knows it by.
        title: As it is written in a text.
        gate: ω in plain text.
        model: The bundled network that has it.
        table: Its row in the ECA paper's Table 2, or its method in Table 3 for ResNet-50; empty if it is in neither.
    """

    name: str
    title: str
    gate: str
    model: str
    table: str

    @property
    def options(self) -> dict[str, Any]:
        """What the ECA paper's Table 2 builds it with, beyond the defaults."""
        return {"kernel_size": 3} if self.name in ("eca", "eca-ns") else {}


MODULES: tuple[Module, ...] = (
    Module("none", "no attention", "1", "shapes-none", "Vanilla"),
    Module("se", "SE", "σ(W₂·ReLU(W₁·y))", "shapes-se-r16", "SE"),
    Module("se-var1", "SE-Var1", "σ(y)", "shapes-se-var1", "SE-Var1"),
    Module("se-var2", "SE-Var2", "σ(w ⊙ y)", "shapes-se-var2", "SE-Var2"),
    Module("se-var3", "SE-Var3", "σ(W·y)", "shapes-se-var3", "SE-Var3"),
    Module("se-gc1", "SE-GC1", "σ(W·y), W in 16 blocks", "shapes-se-gc1", "SE-GC1"),
    Module("se-gc2", "SE-GC2", "σ(W·y), W in C/16 blocks", "shapes-se-gc2", "SE-GC2"),
    Module("se-gc3", "SE-GC3", "σ(W·y), W in C/8 blocks", "shapes-se-gc3", "SE-GC3"),
    Module("eca-ns", "ECA-NS", "σ(Σⱼ wᵢⱼ·yᵢ₊ⱼ)", "shapes-eca-ns", "ECA-NS"),
    Module("eca", "ECA", "σ(Σⱼ wⱼ·yᵢ₊ⱼ)", "shapes-eca-k3", "ECA"),
    Module("cbam", "CBAM", "σ(MLP(mean) + MLP(max)), then σ(BN(7×7 conv)) by position", "shapes-cbam", "CBAM"),
    Module("gsop", "GSoP", "σ(W·rows(BN(Cov(X))))", "shapes-gsop", "GSoP-Net1"),
    Module("ge-theta-minus", "GE-θ⁻", "σ(y)", "shapes-ge-theta-minus", ""),
    Module("ge-theta", "GE-θ", "σ(BN(depth-wise conv of x))", "shapes-ge-theta", ""),
    Module("ge-theta-plus", "GE-θ⁺", "σ(W₂·ReLU(W₁·ReLU(BN(depth-wise conv of x))))", "shapes-ge-theta-plus", ""),
)
"""The modules in the order of the survey: SE and its variants, ECA, then those that squeeze in other ways."""


# ------------------------------------------------------------------------------------------------------------- counting


def parameter_count(depth: int, name: str, **options: Any) -> tuple[int, int]:
    """Parameters of a ResNet for ImageNet with a module in it, and the running statistics of its norms.

    Args:
        depth: 18, 34, 50, 101 or 152.
        name: One of :data:`ecaviz.attention.FAMILIES`.
        **options: What :func:`ecaviz.networks.resnet` takes.

    Returns:
        The number of parameters, and the numbers of means and variances kept by the batch norms.
    """
    with NoDraws(), NoWeights():
        net = networks.resnet(depth, name, **options)
    return _counted(net)


def _counted(net: nn.Module) -> tuple[int, int]:
    kept = sum(value.numel() for key, value in net.named_buffers() if not key.endswith("num_batches_tracked"))
    return sum(p.numel() for p in net.parameters()), kept


def added_parameters(name: str) -> int:
    """What a module adds to the parameters of ResNet-50, from its structure: r = 16, k = 3, as in Table 2.

    Args:
        name: Name of a module.
    """
    if name == "none":
        return 0
    blocks = (1, 1, 1, 1) if name == "gsop" else networks.DEPTHS[50][1]
    return sum(count * structure_of(name, c).parameters for count, c in zip(blocks, RESNET_50, strict=True))


_MOBILE = (16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320)


def _mobile(method: str) -> tuple[int, int]:
    with NoDraws(), NoWeights():
        gates: list[nn.Module] = []
        if method == "SENet":
            gates = [attention.build("se", c, reduction=8) for c in _MOBILE]
        elif method == "ECA-Net":
            gates = [attention.build("eca", c, kernel_size=1 if c < 96 else 3) for c in _MOBILE]
        return _counted(networks.build_mobilenet_v2(gates))


_METHODS = {
    "ResNet": "none",
    "SENet": "se",
    "CBAM": "cbam",
    "GSoP-Net1": "gsop",
    "ECA-Net": "eca",
    "GE-θ⁺": "ge-theta-plus",
}


def published_counts() -> pd.DataFrame:
    """Every printed number of parameters that can be rebuilt here: counted anew, and in which unit it is that number.

    Of the tables' rows A²-Net, GCNet and AA-Net are left out, which are not built here.

    The units tried are 2²⁰, 10⁶, and 10⁶ with the batch norms' running means and variances counted too; a printed
    number is reproduced if it is the count in that unit, rounded to the printed digits.

    Returns:
        A frame with the columns method, backbone, printed, parameters (counted here), 2^20, 10^6, with statistics (the
        count in the three units, in millions), reproduced ("2^20", "10^6", "10^6 with statistics" or "no"), note and
        source.
    """
    import pandas as pd

    released = published("released_k").groupby("model", sort=False)["released"].agg(tuple).to_dict()
    rows = []
    for table in ("table3", "gather_excite", "se_reduction"):
        for row in published(table).itertuples():
            if table == "se_reduction":
                plain = math.isnan(row.reduction)
                method = "ResNet" if plain else f"SENet, r = {row.reduction:g}"
                name, options = ("none", {}) if plain else ("se", {"reduction": int(row.reduction)})
                backbone = "ResNet-50"
            else:
                method, backbone = row.method, row.backbone
                name = _METHODS.get(method)
                options = {"kernel_size": released[backbone]} if name == "eca" and backbone in released else {}
            if backbone == "MobileNetV2":
                count, kept = _mobile(method)
            elif name is None:
                continue
            else:
                count, kept = parameter_count(int(backbone.removeprefix("ResNet-")), name, **options)
            values = {"2^20": count / 2**20, "10^6": count / 1e6, "with statistics": (count + kept) / 1e6}
            rows.append(
                {
                    "method": method,
                    "backbone": backbone,
                    "printed": row.parameters_published,
                    "parameters": count,
                    **values,
                    "reproduced": _unit(row.parameters_published, values),
                    "note": note if isinstance(note := getattr(row, "note", ""), str) else "",
                    "source": row.source,
                }
            )
    return pd.DataFrame(rows)


def _unit(printed: str, values: dict[str, float]) -> str:
    """The unit in which a count is the printed number, to its digits; "no" if none."""
    step = Decimal(1).scaleb(Decimal(printed).as_tuple().exponent)
    for unit, value in values.items():
        if Decimal(value).quantize(step) == Decimal(printed):
            return "10^6 with statistics" if unit == "with statistics" else unit
    return "no"


def costs(names: Sequence[str] | None = None, channels: Sequence[int] = tuple(RESNET_50)) -> pd.DataFrame:
    """Parameters and multiply-adds of one module by C, with the maps that ResNet-50 has at that C.

    Args:
        names: Names of modules; None for all of :data:`MODULES`.
        channels: C of each; of those that ResNet-50 has not, the maps are those of the next larger that it has.

    Returns:
        A frame with a row a module and C: name, title, channels, side (of the maps), parameters, multiply_adds, pairs
        (share of C², 0…1), rank (missing where there is no J).
    """
    import pandas as pd

    chosen = [one for one in MODULES if one.name != "none" and (names is None or one.name in names)]
    rows = []
    for one in chosen:
        for c in channels:
            made = structure_of(one.name, c)
            rows.append(
                {
                    "name": one.name,
                    "title": one.title,
                    "channels": c,
                    "side": side_of(c, one.name),
                    "parameters": made.parameters,
                    "multiply_adds": made.multiply_adds,
                    "pairs": made.structural,
                    "rank": made.rank,
                }
            )
    return pd.DataFrame(rows).astype({"rank": "Int64"})


_SIZED = ("cbam", "gsop", "ge-theta-minus", "ge-theta", "ge-theta-plus")


def side_of(channels: int, name: str = "") -> int:
    """Side of the maps at C channels in ResNet-50; of a C between two of its stages, of the later one.

    Args:
        channels: C.
        name: Name of a module; GSoP's authors leave the last stage its positions.
    """
    stages = RESNET_50 | ({2048: 14} if name == "gsop" else {})
    return next((side for c, side in stages.items() if channels <= c), stages[2048])


def structure_of(name: str, channels: int) -> Structure:
    """The structure of a module as the survey builds it: r = 16, k = 3, on the maps that ResNet-50 has at that C.

    GSoP is as in its authors' code: c = 128, with stride 2 in the first stage.

    Args:
        name: Name of a module, but "none".
        channels: C.

    Raises:
        ValueError: An unknown name, or a C that r = 16 or the groups do not fit.
    """
    options = next((one.options for one in MODULES if one.name == name), {})
    if name in _SIZED:
        options |= {"size": side_of(channels, name)}
    if name == "gsop" and channels <= min(RESNET_50):
        options |= {"stride": 2}
    return structure(name, channels, **options)


# ------------------------------------------------------------------------------------------------------------ measuring


def questions(channels: int = 256, *, side: int = 4, inputs: int = 8, seed: int = 0) -> pd.DataFrame:
    """Table 1's questions, answered by measurement: is nothing reduced, do channels interact, is it lighter than SE?

    For the first two, every module is built with random weights and each channel's map scaled a little: S_ij =
    ∂z_i/∂s_j for x_j → (1 + s_j)·x_j, a C×C matrix that exists for all of them, whatever they squeeze by, here the mean
    over a few random inputs. Nothing is reduced if S has a rank above 0.9·C (a zero-padded kernel can lose one or two
    singular values to rounding); channels interact if S has entries off the diagonal. The third is counted on
    ResNet-50.

    What GSoP keeps depends on its c beside C, about min(C, 4c) dimensions: so it has a row for each of ResNet-50's four
    stages, where the authors' c = 128 is C/2, C/4, C/8 and C/16.

    Args:
        channels: C of the modules measured, a multiple of 16.
        side: Height and width of the random maps.
        inputs: Number of random inputs.
        seed: Of weights and maps.

    Returns:
        A frame with a row a module: name, title, rank, no_reduction, off_diagonal (share of the pairs i ≠ j that
        interact, 0…1), cross_channel, extra (parameters in ResNet-50 beyond the plain network), lighter_than_se
        (missing for SE itself), and what the paper ticks, said_no_reduction, said_cross_channel and
        said_lighter_than_se (missing where it does not list the module).
    """
    import pandas as pd

    ticks = published("table1").set_index("model")
    said = {"se": "SENet", "cbam": "CBAM", "gsop": "GSoP-Net", "eca": "ECA-Net"}
    said |= {f"ge-theta{end}": f"GE-θ{sign}" for end, sign in (("-minus", "⁻"), ("", ""), ("-plus", "⁺"))}
    rows = []
    for one, options, title in _measured(channels, side):
        S = _scaled(one.name, channels, side, inputs, seed, options)
        sigma = torch.linalg.svdvals(S)
        rank = int((sigma > sigma[0] * channels * torch.finfo(S.dtype).eps).sum())
        away = ~torch.eye(channels, dtype=torch.bool)
        interacting = int((S.abs()[away] > 1e-12 * S.abs().max()).sum())
        extra = added_parameters(one.name)
        row = {
            "name": one.name,
            "title": title,
            "rank": rank,
            "no_reduction": rank > 0.9 * channels,
            "off_diagonal": interacting / (channels * (channels - 1)),
            "cross_channel": interacting > 0,
            "extra": extra,
            "lighter_than_se": None if one.name == "se" else extra < added_parameters("se"),
        }
        for column in ("no_reduction", "cross_channel", "lighter_than_se"):
            tick = ticks.loc[said[one.name], column] if one.name in said else None
            row[f"said_{column}"] = {"yes": True, "no": False}.get(tick)
        rows.append(row)
    return pd.DataFrame(rows)


def _measured(channels: int, side: int) -> Iterator[tuple[Module, dict[str, Any], str]]:
    """The modules to measure, how each is built, and what the row is called."""
    for one in MODULES[1:]:
        if one.name == "gsop":
            for part in (2, 4, 8, 16):
                yield one, {"reduced": channels // part}, f"{one.title}, c = C/{part}"
        else:
            sized = {"size": side} if one.name in ("ge-theta", "ge-theta-plus") else {}
            yield one, one.options | sized, one.title


def _scaled(name: str, channels: int, side: int, inputs: int, seed: int, options: dict[str, Any]) -> torch.Tensor:
    """∂z_i/∂s_j of a module with random weights, the mean over random maps: C×C float64."""
    state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        module = attention.build(name, channels, **options).double().eval()
        module = getattr(module, "channel", module)
        x = torch.randn(inputs, channels, side, side, dtype=torch.float64)
    finally:
        torch.set_rng_state(state)
    scale = torch.ones(inputs, channels, dtype=torch.float64, requires_grad=True)
    z = module.excite(module.squeeze(x * scale[:, :, None, None])).flatten(1)
    rows = [torch.autograd.grad(z[:, i].sum(), scale, retain_graph=True)[0].mean(dim=0) for i in range(channels)]
    return torch.stack(rows)


def accuracies(*, level: float = 0.95) -> pd.DataFrame:
    """What was published for ResNet-50 on ImageNet beside what the bundled networks reach on the procedural set.

    The two are on different images, of different networks: only the order can be laid side by side.

    Args:
        level: Of the intervals over seeds, 0…1.

    Returns:
        A frame with a row a module: name, title, top1 (per cent; of Table 2, or of Table 3 where Table 2 has no such
        row), extra (parameters in ResNet-50 beyond the plain network, counted), then what
        :func:`ecaviz.results.summary` gives for the bundled network: model, parameters, seeds, mean, std, low, high,
        shape, texture, both; and added (its parameters beyond the plain network).
    """
    import pandas as pd

    table2 = published("table2").set_index("method")["top1"]
    table3 = published("table3").query("backbone == 'ResNet-50'").set_index("method")["top1"]
    measured = results.summary([one.model for one in MODULES], level=level).rename(columns={"name": "model"})
    rows = [
        {
            "name": one.name,
            "title": one.title,
            "top1": table2.get(one.table, table3.get(one.table, math.nan)),
            "extra": added_parameters(one.name),
        }
        for one in MODULES
    ]
    table = pd.DataFrame(rows).join(measured.drop(columns=["data", "family", "setting"]))
    return table.assign(added=table["parameters"] - table["parameters"].iloc[0])


OBSERVATIONS: tuple[tuple[str, str, str], ...] = (
    ("se-var1", "none", "a gate without parameters beats no attention"),
    ("se-var2", "none", "weights for each channel by itself beat no attention"),
    ("se-var3", "se", "one full layer without reduction beats SE"),
)
"""What the ECA paper's section 3.2 concludes from Table 2: the one module, the other, the claim."""


def observations(*, level: float = 0.95) -> list[tuple[str, Difference, float]]:
    """The three observations on the bundled networks: the claim, the paired difference, and the published one.

    With three of them, the chance that at least one interval misses is kept at 1 − ``level`` (Bonferroni): each is made
    at 1 − (1 − level)/3.

    Args:
        level: Of the three together, 0…1.

    Returns:
        For each, the claim, the :class:`ecaviz.results.Difference`, and the paper's difference in points of top-1. (The
        paper's accuracies of no attention and of SE, one of which is in each difference, are those of the SENet paper,
        not trained anew beside the variants.)
    """
    models = {one.name: one for one in MODULES}
    table2 = published("table2").set_index("method")["top1"]
    each = 1 - (1 - level) / len(OBSERVATIONS)
    return [
        (
            claim,
            results.paired_difference(models[one].model, models[other].model, level=each),
            float(table2[models[one].table] - table2[models[other].table]),
        )
        for one, other, claim in OBSERVATIONS
    ]
