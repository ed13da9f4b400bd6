"""Whether a site's gates still do something: saturated, dead, always open or constant ones, and their entropy.

gate_health(profile)     # a row a site
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from .profiles import AttentionProfile, SiteProfile

__all__ = ["NEARLY_CONSTANT", "gate_health"]

NEARLY_CONSTANT = 0.005
"""A channel whose gate has a smaller standard deviation over the images than this counts as nearly constant."""


def gate_health(profile: AttentionProfile, *, constant: float = NEARLY_CONSTANT) -> pd.DataFrame:
    """What a site's gates could do and do not.

    A saturated gate is on one image; a dead channel is all but shut, an open one all but open, on *every* image. With
    few images more channels look dead, open or constant than are.

    Args:
        profile: Of any kind; classes are pooled.
        constant: Standard deviation of a gate over the images below which its channel counts as nearly constant.

    Returns:
        One row a site. Columns: site, family, n (images), channels; low and high (shares of all gates below and above
        the bounds of the profile, 0.05 and 0.95), dead and open (shares of channels whose largest gate lies below the
        one, whose smallest lies above the other), constant (share of channels that are nearly constant), entropy (bits,
        mean over the channels, of the histogram of a channel's gates in the profile's 64 bins over [0, 1]) and
        entropy_max (log₂ of the number of bins, or of images where there are fewer). Entropy is biased down with few
        images, by about (occupied bins − 1)/(2 N ln 2) bits: compare it for one N alone.

    Raises:
        ValueError: The bound is negative or no number.
    """
    import pandas as pd

    if not constant >= 0:
        raise ValueError(f"gate_health: constant must be a standard deviation of at least 0, got {constant!r}.")
    return pd.DataFrame([_of(site, constant) for site in profile.sites.values()])


def _of(site: SiteProfile, constant: float) -> dict[str, object]:
    moments, tails = site.moments.pooled(), site.tails.pooled()
    n, bins = int(moments.n.sum()), site.histogram.counts.shape[-1]
    counts = site.histogram.counts.sum(0).double().cpu().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = counts / counts.sum(axis=1, keepdims=True)
        bits = -np.where(shares > 0, shares * np.log2(shares), 0).sum(axis=1)
    return {
        "site": site.name,
        "family": site.family,
        "n": n,
        "channels": site.channels,
        "low": float(tails.below.mean()),
        "high": float(tails.above.mean()),
        "dead": float((moments.max < tails.low).double().mean()),
        "open": float((moments.min > tails.high).double().mean()),
        "constant": float((moments.std() < constant).double().mean()),
        "entropy": float(bits.mean()),
        "entropy_max": math.log2(min(bins, max(n, 1))),
    }
