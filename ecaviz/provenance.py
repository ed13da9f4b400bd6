"""Where the k of an ECA network comes from: what its weights hold beside what the paper's rule gives.

    kernel_provenance(model)         # a row a site: k, the rule on either reading of C, bias, padding, drift
    table = rule_audit([model])      # the same by stage, beside the k of the official networks; any γ and b
    audit_summary(table)             # of how many stages each reading gives the k

The paper's rule k = ψ(C) leaves open what C is. Read as the width of the gate (256 … 2048 in a ResNet-50) it gives
5, 5, 5, 7 by stage; read as the inner width of the blocks, their planes (64 … 512), it gives 3, 5, 5, 5. The released
ECA-Net50 has 3, 5, 5, 7: neither. So k is always read from the weights; the table says which reading it agrees with.

Source: Wang et al., "ECA-Net", CVPR 2020, Eq. 12 and Figure 3; the repository BangguWu/ECANet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from . import checks, kernels, published_tables, sites
from .attention import adaptive_kernel_size

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["READINGS", "audit_summary", "kernel_provenance", "rule_audit"]

READINGS = {"rule_on_planes": "planes", "rule_on_channels": "channels", "timm": "timm"}
"""The readings of the rule that an audit compares: the column of each, and its name."""

COLUMNS = [
    "site",
    "channels",
    "planes",
    "k",
    "rule_on_planes",
    "rule_on_channels",
    "timm_rule",
    "agrees_with",
    "bias",
    "padding",
    "drift",
]
AUDIT = [
    "network",
    "source",
    "stage",
    "site",
    "blocks",
    "planes",
    "channels",
    "rule_on_planes",
    "rule_on_channels",
    "timm",
    "k",
    "agrees_with",
]


def kernel_provenance(model: Any) -> pd.DataFrame:
    """The kernel size of every ECA site beside the readings of the paper's rule.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.

    Returns:
        One row a site, in the order of the network. Columns: site; channels (C, the width of the gate; missing where it
        is not known before the module has run); planes (inner width of the block, missing where the block has none); k
        (read from the weights); rule_on_planes, rule_on_channels (the paper's code, γ = 2, b = 1); timm_rule (the rule
        on channels, at least 3); agrees_with ("both", "channels", "planes", "neither", or "" where C is not known);
        bias; padding; drift (what differs from the paper, in words; empty where nothing does: k by either reading, no
        bias, padding with zeros).

    Raises:
        ValueError: The model has no gates, or none is an ECA.

    Source: Wang et al., CVPR 2020, Eq. 12 and Figure 3 (the rule), section 3.2 (no bias, zero padding).
    """
    import pandas as pd

    rows = []
    for site, planes in _sites(model, "kernel_provenance"):
        by_planes, by_channels = _ruled(planes), _ruled(site.channels)
        rows.append(
            {
                "site": site.name,
                "channels": site.channels,
                "planes": planes,
                "k": site.kernel_size,
                "rule_on_planes": by_planes,
                "rule_on_channels": by_channels,
                "timm_rule": _ruled(site.channels, minimum=3),
                "agrees_with": _agreement(site.kernel_size, by_planes, by_channels),
                "bias": site.bias,
                "padding": site.padding,
                "drift": _drift(site, by_planes, by_channels),
            }
        )
    return _whole(pd.DataFrame(rows, columns=COLUMNS))


def rule_audit(models: Any = (), gamma: float = 2, b: float = 1) -> pd.DataFrame:
    """The k that networks have beside the k that each reading of the paper's rule gives, stage by stage.

    Args:
        models: What :func:`ecaviz.load` returns, or nn.Modules, one or several; with none the official networks alone.
        gamma: γ of the rule, positive.
        b: The offset b of the rule.

    Returns:
        One row a stage: the official networks first, then the models. Columns: network; source ("released" for the
        official networks, else the name of the model); stage (1, 2, …; of a model: consecutive sites of equal planes,
        channels and k); site (the first of the stage; empty for the official networks); blocks (ECA sites in it);
        planes (inner width of the blocks, missing where they have none); channels (C at the gate, missing where it is
        not known before the network has run); rule_on_planes, rule_on_channels (the paper's code); timm (the rule on
        channels, at least 3); k (of the released weights, as published; of a model, read from its weights); agrees_with
        ("both", "planes", "channels", "timm" where only the minimum of 3 gives it, "neither", or "" where C is not
        known).

    Raises:
        ValueError: A model has no ECA, or a ``gamma`` or ``b`` that cannot be.
        TypeError: A model is something else.
        FileNotFoundError: The table of the official networks is missing.

    Source: Wang et al., CVPR 2020, Eq. 12 and Figure 3; README of BangguWu/ECANet (``data/published/released_k.csv``).
    """
    import pandas as pd

    from .readings import unique_names

    gamma, b = checks.rule(gamma, b, "rule_audit")
    single = isinstance(models, nn.Module | str) or hasattr(models, "net") or not isinstance(models, Iterable)
    models = [models] if single else list(models)
    names = unique_names([str(getattr(one, "name", type(one).__name__)) for one in models])
    rows = _released()
    for model, name in zip(models, names, strict=True):
        rows += _stages(model, name)
    return with_rule(_whole(pd.DataFrame(rows, columns=AUDIT)), gamma, b)


def with_rule(audit: pd.DataFrame, gamma: float, b: float) -> pd.DataFrame:
    """An audit with the columns that depend on the rule worked out anew for another γ and b."""
    planes, channels = (audit[name].astype(object).where(audit[name].notna(), None) for name in ("planes", "channels"))
    found = readings_of(planes, channels, gamma, b)
    agrees = [_agreement(*row) for row in zip(audit["k"], *found.values(), strict=True)]
    return _whole(audit.assign(**found, agrees_with=agrees))


def readings_of(
    planes: Iterable[int | None], channels: Iterable[int | None], gamma: float, b: float
) -> dict[str, list[int | None]]:
    """What each reading of the rule gives for some stages, by the column of the reading; None where C is not known."""
    channels = list(channels)
    return {
        "rule_on_planes": [_ruled(c, gamma, b) for c in planes],
        "rule_on_channels": [_ruled(c, gamma, b) for c in channels],
        "timm": [_ruled(c, gamma, b, minimum=3) for c in channels],
    }


def label_of(network: str, source: str) -> str:
    """What a network of an audit is called where the others are too."""
    return f"{network}, released" if source == "released" else source


def audit_summary(audit: pd.DataFrame) -> pd.DataFrame:
    """In numbers, where the readings of the rule differ: from the weights, and from each other.

    Args:
        audit: What :func:`rule_audit` gives.

    Returns:
        One row a network. Columns: network; source; stages; planes, channels, timm (of how many stages that reading
        gives the k; missing where its C is not known at any stage); none (stages whose k no reading gives, of those
        where C is known); readings_differ (stages where the readings give more than one k); furthest (the largest
        difference between the k of the weights and that of a reading).

    Raises:
        ValueError: ``audit`` is no audit.
    """
    import pandas as pd

    check_audit(audit, "audit_summary")
    rows = []
    for (network, source), part in audit.groupby(["network", "source"], sort=False):
        ruled = part[list(READINGS)]
        away = ruled.sub(part["k"], axis=0).abs()
        rows.append(
            {
                "network": network,
                "source": source,
                "stages": len(part),
                **{
                    name: int(away[column].eq(0).sum()) if ruled[column].notna().any() else None
                    for column, name in READINGS.items()
                },
                "none": int(part["agrees_with"].eq("neither").sum()),
                "readings_differ": int((ruled.nunique(axis=1) > 1).sum()),
                "furthest": away.max().max(),
            }
        )
    columns = ["network", "source", "stages", *READINGS.values(), "none", "readings_differ", "furthest"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[2:], "Int64"))


def check_audit(audit: Any, what: str) -> None:
    """A ValueError that begins with ``what`` if this is no audit, or one without rows."""
    missing = [name for name in AUDIT if name not in getattr(audit, "columns", ())]
    if missing:
        raise ValueError(
            f"{what}: a table as ecaviz.rule_audit() gives it was expected, got {type(audit).__name__} without "
            f"{', '.join(missing)}."
        )
    if not len(audit):
        raise ValueError(f"{what}: the audit has no rows.")


def _sites(model: Any, what: str) -> list[tuple[sites.GateSite, int | None]]:
    """The ECA sites of a model, each with the inner width of its block."""
    net = sites.network(model)
    found = []
    for site in kernels.eca_sites(net, what):
        block = net.get_submodule(site.name.rpartition(".")[0])
        expansion = getattr(type(block), "expansion", None)
        found.append((site, site.channels // expansion if site.channels and isinstance(expansion, int) else None))
    return found


def _stages(model: Any, name: str) -> list[dict]:
    """Consecutive sites of one width and one k, a row each."""
    rows: list[dict] = []
    for site, planes in _sites(model, "rule_audit"):
        same = {"planes": planes, "channels": site.channels, "k": site.kernel_size}
        if rows and all(rows[-1][key] == value for key, value in same.items()):
            rows[-1]["blocks"] += 1
            continue
        network = str(getattr(model, "architecture", "") or type(sites.network(model)).__name__)
        rows.append(
            {"network": network, "source": name, "stage": len(rows) + 1, "site": site.name, "blocks": 1, **same}
        )
    return rows


def _released() -> list[dict]:
    return [
        {
            "network": row.model,
            "source": "released",
            "stage": row.stage,
            "site": "",
            "blocks": row.blocks,
            "planes": row.planes,
            "channels": row.channels,
            "k": row.released,
        }
        for row in published_tables.read("released_k").itertuples()
    ]


def _ruled(channels: int | None, gamma: float = 2, b: float = 1, *, minimum: int = 1) -> int | None:
    return None if channels is None else adaptive_kernel_size(channels, gamma, b, minimum=minimum)


def _whole(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers that may be missing as whole numbers."""
    names = ("stage", "blocks", "channels", "planes", "k", "timm", "timm_rule", "rule_on_planes", "rule_on_channels")
    return table.astype(dict.fromkeys((name for name in names if name in table), "Int64"))


def _agreement(k: int, by_planes: int | None, by_channels: int | None, timm: int | None = None) -> str:
    if by_channels is None:
        return ""
    if by_planes is None:
        found = "channels" if k == by_channels else "neither"
    else:
        found = {(True, True): "both", (True, False): "planes", (False, True): "channels"}.get(
            (k == by_planes, k == by_channels), "neither"
        )
    return "timm" if found == "neither" and k == timm else found


def _drift(site: sites.GateSite, by_planes: int | None, by_channels: int | None) -> str:
    found = []
    if _agreement(site.kernel_size, by_planes, by_channels) == "neither":
        readings = " or ".join(str(k) for k in dict.fromkeys((by_planes, by_channels)) if k is not None)
        found.append(f"k = {site.kernel_size}, the rule gives {readings}")
    if site.bias:
        found.append("bias")
    if site.padding != "zeros":
        found.append(f"{site.padding} padding")
    return "; ".join(found)
