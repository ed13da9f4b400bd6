"""Which class is one image like, by its gates? Distances to the mean gates of each class, in units of their spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .attention_profile import AttentionProfile, SiteProfile
from .sites import Selection, pick_sites

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LEAST", "nearest_classes"]

LEAST = 1e-6
"""A channel whose gates vary less than this inside the classes is left out: it would be divided by nearly nothing."""


def nearest_classes(gates: Mapping[str, Any], profile: AttentionProfile, sites: Selection = None) -> pd.DataFrame:
    r"""The distance of one image's gates from the mean gates of each class.

    At a site with the channels c the distance from class g is the root mean square of standardised differences,

    .. math:: d_g = \sqrt{\frac{1}{C} \sum_c \left(\frac{\omega_c - \mu_{gc}}{s_c}\right)^2}, \qquad
        s_c^2 = \frac{1}{N - G} \sum_g \sum_{i \in g} (\omega_{ic} - \mu_{gc})^2,

    μ and s from the profile's N images of G classes: s is the pooled standard deviation within the classes. Channels
    with s_c < :data:`LEAST` are left out of the mean. Over several sites the distances are averaged, each site with the
    same weight. Over fresh images of class g the mean of d_g² is near 1 where all classes spread alike; a class whose
    gates spread less than others is near to its own images, and to others too. It is the Mahalanobis distance of
    diagonal linear discriminant analysis, divided by √C: channels that vary together count as often as there are.

    Args:
        gates: ω of one image, C numbers by site: tensors, arrays, or what :func:`ecaviz.capture` has read of it.
        profile: What :func:`ecaviz.profile` gives with ``by="class"``; two images of a class at the least.
        sites: Which sites of the profile; see :func:`ecaviz.gates.select_sites`. None for all.

    Returns:
        class, distance, rank (1 for the nearest); the nearest first. Classes without images are left out.

    Raises:
        ValueError: The profile has no classes or one image a class, a site is missing in ``gates`` or of another width,
            ``gates`` are of several images, or no gate varies inside the classes.
    """
    import pandas as pd

    if profile.by != "class":
        raise ValueError('nearest_classes: the profile pooled all images. Make it with ecaviz.profile(…, by="class").')
    present = (profile.counts > 0).numpy()
    if profile.n <= present.sum():
        raise ValueError(
            f"nearest_classes: {profile.n} images in {present.sum()} classes do not tell how gates vary inside them. "
            f"Profile two or more images of a class."
        )
    found = []
    for one in pick_sites(list(profile.sites.values()), sites):
        distance = _at(one, _row(gates, one), present)
        if distance is not None:
            found.append(distance)
    if not found:
        raise ValueError(f"nearest_classes: no gate varies inside the classes by {LEAST:g} or more at these sites.")
    names = np.array(profile.classes, dtype=object)[present]
    table = pd.DataFrame({"class": names, "distance": np.mean(found, axis=0)})
    table = table.sort_values("distance", kind="stable", ignore_index=True)
    return table.assign(rank=np.arange(1, len(table) + 1))


def _at(site: SiteProfile, gate: np.ndarray, present: np.ndarray) -> np.ndarray | None:
    """The distances at one site, a number a class; None where no channel varies."""
    moments = site.moments
    n, mean = moments.n.cpu().numpy()[present], moments.mean.cpu().numpy()[present]
    squares = (n[:, None] * moments.variance().cpu().numpy()[present]).sum(axis=0)
    s = np.sqrt(squares / (n.sum() - len(n)))
    varies = s >= LEAST
    if not varies.any():
        return None
    z = (gate[varies] - mean[:, varies]) / s[varies]
    return np.sqrt((z**2).mean(axis=1))


def _row(gates: Mapping[str, Any], site: SiteProfile) -> np.ndarray:
    """The gates of one image at a site."""
    if site.name not in gates:
        raise ValueError(
            f"nearest_classes: there are no gates of {site.name}; there are those of {', '.join(gates) or 'none'}."
        )
    row = getattr(gates[site.name], "by_channel", gates[site.name])
    if hasattr(row, "detach"):
        row = row.detach().cpu().double().numpy()  # numpy has no bfloat16
    row = np.asarray(row, dtype=float)
    if row.shape == (1, site.channels):
        row = row[0]
    if row.shape != (site.channels,):
        raise ValueError(
            f"nearest_classes: the gates of one image, {site.channels} numbers, were expected at {site.name}, got "
            f"{'×'.join(map(str, row.shape)) or 'one number'}."
        )
    return row
