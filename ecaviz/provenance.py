"""Where the k of an ECA network comes from: what its weights hold beside what the paper's rule gives.

    kernel_provenance(model)         # a row a site: k, the rule on either reading of C, bias, padding, drift

The paper's rule k = ψ(C) leaves open what C is. Read as the width of the gate (256 … 2048 in a ResNet-50) it gives
5, 5, 5, 7 by stage; read as the inner width of the blocks, their planes (64 … 512), it gives 3, 5, 5, 5. The released
ECA-Net50 has 3, 5, 5, 7: neither. So k is always read from the weights; the table says which reading it agrees with.

Source: Wang et al., "ECA-Net", CVPR 2020, Eq. 12 and Figure 3; the repository BangguWu/ECANet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import kernels, sites
from .attention import adaptive_kernel_size

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["kernel_provenance"]

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

    net = sites.network(model)
    rows = []
    for site in kernels.eca_sites(net, "kernel_provenance"):
        block = net.get_submodule(site.name.rpartition(".")[0])
        expansion = getattr(type(block), "expansion", None)
        planes = site.channels // expansion if site.channels and isinstance(expansion, int) else None
        by_planes, by_channels = (None if c is None else adaptive_kernel_size(c) for c in (planes, site.channels))
        rows.append(
            {
                "site": site.name,
                "channels": site.channels,
                "planes": planes,
                "k": site.kernel_size,
                "rule_on_planes": by_planes,
                "rule_on_channels": by_channels,
                "timm_rule": None if by_channels is None else max(by_channels, 3),
                "agrees_with": _agreement(site.kernel_size, by_planes, by_channels),
                "bias": site.bias,
                "padding": site.padding,
                "drift": _drift(site, by_planes, by_channels),
            }
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    whole = [name for name in COLUMNS if name in ("channels", "planes", "k") or "rule" in name]
    return table.astype(dict.fromkeys(whole, "Int64"))


def _agreement(k: int, by_planes: int | None, by_channels: int | None) -> str:
    if by_channels is None:
        return ""
    if by_planes is None:
        return "channels" if k == by_channels else "neither"
    return {(True, True): "both", (True, False): "planes", (False, True): "channels"}.get(
        (k == by_planes, k == by_channels), "neither"
    )


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
