"""The variance of a site's gates in four orthogonal parts: by channel, class, both together, and within the classes.

    profile = ecaviz.profile(model, images, by="class")
    variance_parts(profile)            # a row a site and part
    gate_spread(profile)               # a row a site: from channel to channel, and over the images

With N images in G classes of n_g, μ_gc the mean gate of channel c over class g, m_c and m_g its means over the images
of all classes and over the channels, and m the mean of all:

===============  ====================================  ==============================================================
part             sum of squares                        what it is
===============  ====================================  ==============================================================
channel          Σ_c N (m_c − m)²                      levels of the channels, the same for all images
class            C Σ_g n_g (m_g − m)²                  a class opens all channels together more than another does
channel × class  Σ_gc n_g (μ_gc − m_c − m_g + m)²      a class opens *other* channels: class-specific attention
within           Σ_gc Σ_(i in g) (ω_ic − μ_gc)²        images of one class
===============  ====================================  ==============================================================

They add up to Σ (ω − m)² exactly, for classes of any sizes: every image has all channels, so the design is
proportional. This is the two-way analysis of variance of textbooks, with the last two lines of it taken together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from .profiles import AttentionProfile
    from .statistics import Moments

__all__ = ["PARTS", "by_class", "class_note", "gate_spread", "variance_parts"]

PARTS = ("channel", "class", "channel × class", "within")
"""The four parts, in their order."""


def by_class(profile: AttentionProfile, what: str) -> None:
    """Check that a profile tells the classes apart; ``what`` begins the message.

    Raises:
        ValueError: It pools all images.
    """
    if profile.by != "class":
        raise ValueError(
            f"{what}: the profile pools all images; one of each class was expected. Make it with "
            f'ecaviz.profile(model, images, by="class").'
        )


def class_note(n: int, classes: int) -> str:
    """Why nothing can be said about classes; empty where something can."""
    if classes < 2:
        return "one class: there is nothing to compare"
    if n <= classes:
        return "one image a class: classes and images cannot be told apart"
    return ""


def seen(moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts G, means G×C and sums of squared deviations G×C, float64, of the classes that have images."""
    n = moments.n.double().cpu().numpy()
    there = n > 0
    means, variances = (one.cpu().numpy()[there] for one in (moments.mean, moments.variance()))
    return n[there], means, variances * n[there, None]


def variance_parts(profile: AttentionProfile) -> pd.DataFrame:
    """The variance of each site's gates, in four parts.

    A class without images counts for none. With one image a class, or one class, the class parts are NaN, and ``note``
    says why.

    Args:
        profile: Made with ``by="class"``.

    Returns:
        One row a site and part. Columns: site, family, n (images), classes (that have images), channels, part (one of
        :data:`PARTS`), variance (sum of squares / (N·C): the parts add up to the variance of all gates), share (of that
        variance, 0…1), by_chance, note (empty, or why values are missing). ``by_chance`` is the share that class and
        channel × class *together* would hold on average if the labels were drawn by lot, the same in all rows of a
        site: (G − 1)/(N − 1) of the share that is not the channel part. It is exact for classes of any sizes: the mean
        of n_g numbers drawn without replacement from N of variance s² has the variance (s²/n_g)·(1 − n_g/N), and
        Σ_g n_g · that is s²·(G − 1), with s² = Σ(ω_ic − m_c)²/(N − 1). What each of the two would hold by itself hangs
        on how the channels move together, which a profile does not keep: see
        :func:`ecaviz.selectivity.site_selectivity`.

    Raises:
        ValueError: The profile pools all images.
    """
    import pandas as pd

    by_class(profile, "variance_parts")
    rows = []
    for site in profile.sites.values():
        n, means, squares = seen(site.moments)
        parts = dict(zip(PARTS, _sums_of_squares(n, means, squares), strict=True))
        whole, images, classes = sum(parts.values()), int(n.sum()), len(n)
        note = class_note(images, classes)
        by_chance = np.nan
        if not note and whole > 0:
            by_chance = (classes - 1) / (images - 1) * (1 - parts["channel"] / whole)
        for part, value in parts.items():
            value = np.nan if note and part != "channel" else value
            rows.append(
                {
                    "site": site.name,
                    "family": site.family,
                    "n": images,
                    "classes": classes,
                    "channels": site.channels,
                    "part": part,
                    "variance": value / (images * site.channels),
                    "share": value / whole if whole > 0 else np.nan,
                    "by_chance": by_chance,
                    "note": note,
                }
            )
    return pd.DataFrame(rows)


def gate_spread(profile: AttentionProfile) -> pd.DataFrame:
    """How wide each site's gates are spread, from channel to channel and over the images.

    Args:
        profile: Of any kind; classes are pooled.

    Returns:
        One row a site. Columns: site, family, n (images), channels, mean (of all gates), between_channels (standard
        deviation of the channels' mean gates: what a fixed weight for each channel would show too), over_images
        (standard deviation of a channel's gate over the images, root mean square over the channels: what makes the
        weight an answer to the image).
    """
    import pandas as pd

    rows = []
    for site in profile.sites.values():
        pooled = site.moments.pooled()
        rows.append(
            {
                "site": site.name,
                "family": site.family,
                "n": int(pooled.n),
                "channels": site.channels,
                "mean": float(pooled.mean.mean()),
                "between_channels": float(pooled.mean.std(correction=0)),
                "over_images": float(pooled.variance().mean().sqrt()),
            }
        )
    return pd.DataFrame(rows)


def _sums_of_squares(n: np.ndarray, means: np.ndarray, squares: np.ndarray) -> tuple[float, float, float, float]:
    """Of counts G, means G×C and sums of squares about them G×C; in the order of :data:`PARTS`."""
    images, channels = n.sum(), means.shape[1]
    of_channel, of_class = n @ means / images, means.mean(axis=1)
    mean = of_channel.mean()
    both = means - of_channel - of_class[:, None] + mean
    return (
        float(images * ((of_channel - mean) ** 2).sum()),
        float(channels * (n @ (of_class - mean) ** 2)),
        float((n @ both**2).sum()),
        float(squares.sum()),
    )
