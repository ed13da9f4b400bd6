"""What a pass over the images leaves: the statistics of the gates of one model, by site, class and channel.

Made by :func:`ecaviz.profile`; read as tables or tensors, merged with others of the same model, and kept in a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import checks, profile_files
from .site_profile import (
    BINS,
    DETAILED,
    DETAILS_AT_MOST,
    HIGH,
    LOW,
    STATISTICS,
    ClassDetails,
    SiteProfile,
    accumulators,
    details_size,
)
from .statistics import TopK
from .tables import save_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ALL",
    "BINS",
    "DETAILS_AT_MOST",
    "HIGH",
    "LOW",
    "STATISTICS",
    "AttentionProfile",
    "ClassDetails",
    "SiteProfile",
    "accumulators",
    "details_size",
]

ALL = "all"
"""What the column ``class`` of a table holds where all images were pooled."""


@dataclass(frozen=True, eq=False)
class AttentionProfile:
    """Statistics of the gates of one model over one set of images. Made by :func:`profile`.

    ``profile[site]`` is the :class:`SiteProfile`; iterating gives the sites' names in the order of the network.

    Attributes:
        model: Name of the model.
        source: Where the model came from.
        fingerprint: Of its weights: two models of one name are told apart by it.
        images: The set of images, in words.
        by: "class", or None where all images were pooled.
        classes: Class names by row; ``("all",)`` where images were pooled.
        n: Images profiled.
        positions: Images gone through, the skipped ones included; image positions run from 0 to this.
        counts: int64 G, images by class.
        correct: int64 G, images by class whose own class the model put first; None if that cannot be known.
        skipped: (file name, reason) of each image that was left out.
        sites: The statistics, by site.
        asked: What the pass was asked for, so that another one can tell whether it may go on from here: names of the
            sites (of which those never called are none of ``sites``), accuracy, precision of the network.
    """

    model: str
    source: str
    fingerprint: str
    images: str
    by: str | None
    classes: tuple[str, ...]
    n: int
    positions: int
    counts: Tensor
    correct: Tensor | None
    skipped: tuple[tuple[str, str], ...]
    sites: Mapping[str, SiteProfile] = field(repr=False)
    asked: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", MappingProxyType(dict(self.sites)))

    def __reduce__(self):
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self), tuple({**values, "sites": dict(self.sites)}.values())  # a mappingproxy cannot be pickled

    def __repr__(self) -> str:
        parts = [
            f"{self.n} images ({self.images})",
            f"{len(self.sites)} sites",
            f"{sum(site.channels for site in self.sites.values())} channels",
            f"{len(self.classes)} classes" if self.by else "all images pooled",
        ]
        if self.accuracy is not None:
            parts.append(f"accuracy {self.accuracy:.1%}")
        if self.skipped:
            parts.append(f"{len(self.skipped)} skipped")
        return f"AttentionProfile({self.model}: {', '.join(parts)})"

    def __getitem__(self, site: str) -> SiteProfile:
        try:
            return self.sites[site]
        except KeyError:
            raise KeyError(f"the profile has no site {site!r}; it has: {', '.join(self.sites)}") from None

    def __iter__(self):
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def __contains__(self, site: object) -> bool:
        return site in self.sites

    @property
    def accuracy(self) -> float | None:
        """Share of the images whose own class the model put first, 0…1; None where labels or names do not tell."""
        return None if self.correct is None else float(self.correct.sum()) / self.n

    @property
    def details(self) -> str:
        """What histograms and extreme images are kept of: "class", each class and all together, or "pooled"."""
        return "class" if all(site.by_class is not None for site in self.sites.values()) else "pooled"

    def mean(self, site: str) -> Tensor:
        """Mean gate, float64 classes × channels; one row where images were pooled, NaN for a class without images.

        Args:
            site: Name of the site.

        Raises:
            KeyError: The profile has no such site; the message lists those it has.
        """
        return self[site].moments.mean.cpu()

    def histogram(self, site: str, of: str | None = None) -> Tensor:
        """How many gates lie in each of the :data:`BINS` bins over [0, 1], int64 channels × bins.

        Args:
            site: Name of the site.
            of: A class; None for all images.

        Raises:
            KeyError: The profile has no such site; the message lists those it has.
            ValueError: It has no such class, or keeps histograms of all classes together only.
        """
        one = self[site]
        if of is None:
            return one.histogram.counts[0]
        if of not in self.classes:
            raise ValueError(
                f"AttentionProfile: there is no class {of!r}; there are: {', '.join(self.classes)}."
                + (' Profile with by="class" to tell the classes apart.' if self.by is None else "")
            )
        return self._by_class(one).histogram.counts[self.classes.index(of)]

    def extremes(self, site: str, channel: int | None = None, *, by: str | None = None) -> pd.DataFrame:
        """The images that open and close each channel most, as a tidy table.

        Columns: site, channel, class ("all" where by is None), extreme ("largest" or "smallest"), rank (0 for the most
        extreme; of equal gates the earlier image comes first), gate, image (its position in the set). A class of fewer
        images has fewer rows.

        Args:
            site: Name of the site.
            channel: One channel; None for all.
            by: "class" for the images of each class; None for all images together.

        Raises:
            KeyError: The profile has no such site; the message lists those it has.
            ValueError: There is no such channel, ``by`` is neither "class" nor None, or the profile keeps the extremes
                of all classes together only.
        """
        import numpy as np
        import pandas as pd

        one = self[site]
        if by not in (None, "class"):
            raise ValueError(f'AttentionProfile.extremes: by must be "class" or None, got {by!r}.')
        start, stop = 0, one.channels
        if channel is not None:
            start = checks.at_least_zero(channel, "AttentionProfile.extremes: channel")
            if start >= stop:
                raise ValueError(f"AttentionProfile.extremes: {site} has the channels 0 to {stop - 1}, got {channel}.")
            stop = start + 1
        own = self._by_class(one) if by else one
        names = np.array(self.classes if by else [ALL], dtype=object)
        frames = []
        for extreme in ("largest", "smallest"):
            top = getattr(own, extreme).part(start, stop)
            index = top.index
            rows, channels, ranks = (at.numpy() for at in (index >= 0).nonzero(as_tuple=True))
            columns = {
                "site": site,
                "channel": start + channels,
                "class": names[rows],
                "extreme": extreme,
                "rank": ranks,
                "gate": top.values.numpy()[rows, channels, ranks],
                "image": index.numpy()[rows, channels, ranks],
            }
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def _by_class(self, site: SiteProfile) -> ClassDetails:
        if site.by_class is None:
            settings = {what: getattr(site, what)._settings() for what in DETAILED}
            size = sum(details_size(len(self.classes), one.channels, settings) for one in self.sites.values())
            raise ValueError(
                "AttentionProfile: the profile keeps histograms and extreme images of all classes together only. "
                + (
                    'Profile with by="class".'
                    if self.by is None
                    else f'profile(…, by="class", details="class") keeps them by class: {size / 2**20:,.0f} MiB.'
                )
            )
        return site.by_class

    def to_frame(self) -> pd.DataFrame:
        """The profile as a tidy table: one row a site, class and channel. A class without images has no rows.

        Columns: site, family, channels (C of the site), channel, class ("all" where images were pooled), n, mean, var
        (of what was seen: divided by n), std, min, max, saturated_low and saturated_high (shares of the gates below
        :data:`LOW` and above :data:`HIGH`). Histograms and extreme images are read by :meth:`histogram` and
        :meth:`extremes`.
        """
        import pandas as pd

        return pd.concat(self._frames(), ignore_index=True)

    def save_table(self, path: str | os.PathLike) -> Path:
        """Write the table of :meth:`to_frame` into a file, site by site, whole or not at all.

        Args:
            path: The file, .csv, .csv.gz or .parquet (which needs pyarrow).

        Returns:
            The path.

        Raises:
            ValueError: The name ends in something else.
            ModuleNotFoundError: pyarrow is not installed.
        """
        return save_table(self._frames(), path)

    def _frames(self) -> Iterator[pd.DataFrame]:
        """The table, site by site."""
        import numpy as np
        import pandas as pd

        for site in self.sites.values():
            n = site.moments.n.cpu()
            rows = n.nonzero()[:, 0]
            columns = {
                "mean": site.moments.mean,
                "var": site.moments.variance(),
                "std": site.moments.std(),
                "min": site.moments.min,
                "max": site.moments.max,
                "saturated_low": site.tails.below,
                "saturated_high": site.tails.above,
            }
            yield pd.DataFrame(
                {
                    "site": site.name,
                    "family": site.family,
                    "channels": site.channels,
                    "channel": np.tile(np.arange(site.channels), len(rows)),
                    "class": np.repeat([self.classes[row] for row in rows.tolist()], site.channels),
                    "n": np.repeat(n[rows].numpy(), site.channels),
                    **{name: values.cpu()[rows].flatten().numpy() for name, values in columns.items()},
                }
            )

    def merge(self, other: AttentionProfile) -> AttentionProfile:
        """The profile of both sets of images, laid end to end: the other's image positions count on from this one's.

        Histograms and extremes are by class where both profiles have them so; else of all classes together.

        Args:
            other: A profile of the same model, sites and classes.

        Returns:
            A new profile; both others stay as they are.

        Raises:
            TypeError: ``other`` is no profile.
            ValueError: It is of another model, by another grouping, or has other sites; the message says which.
        """
        if not isinstance(other, AttentionProfile):
            raise TypeError(f"AttentionProfile.merge: another profile was expected, got a {type(other).__name__}.")
        for what in ("model", "fingerprint", "by", "classes"):
            mine, its = getattr(self, what), getattr(other, what)
            if mine != its:
                raise ValueError(
                    f"AttentionProfile.merge: the profiles differ in {what}: {mine!r} and {its!r}. Only profiles of "
                    f"one model, with the same weights and classes, can be merged."
                )
        mine, its = ([site._about() for site in one.sites.values()] for one in (self, other))
        if sorted(map(str, mine)) != sorted(map(str, its)):
            raise ValueError(
                f"AttentionProfile.merge: the sites differ: {', '.join(self.sites)} and {', '.join(other.sites)}. "
                f"Profile both with the same `sites`."
            )
        sites, details = {}, self.details == other.details == "class"
        for name, site in self.sites.items():
            statistics = {what: one.copy() for what, one in site._kept(details).items()}
            for what, its_own in other.sites[name]._kept(details).items():
                moved = its_own.copy().offset(self.positions) if isinstance(its_own, TopK) else its_own
                statistics[what].merge(moved)
            sites[name] = SiteProfile._of(site._about(), statistics, details)
        known = self.correct is not None and other.correct is not None
        return AttentionProfile(
            model=self.model,
            source=self.source,
            fingerprint=self.fingerprint,
            images=self.images if self.images == other.images else f"{self.images} + {other.images}",
            by=self.by,
            classes=self.classes,
            n=self.n + other.n,
            positions=self.positions + other.positions,
            counts=self.counts + other.counts,
            correct=self.correct + other.correct if known else None,
            skipped=self.skipped + other.skipped,
            sites=sites,
            asked=self.asked,
        )

    def save(self, path: str | os.PathLike) -> Path:
        """Write the profile into one safetensors file, whole or not at all.

        Args:
            path: The file; its folder is made if it is missing.

        Returns:
            The path.

        Raises:
            OSError: It cannot be written: no room, no permission.
        """
        return profile_files.write(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> AttentionProfile:
        """Read a profile that :meth:`save` wrote. No code in the file is executed.

        Args:
            path: The file.

        Raises:
            FileNotFoundError: There is no such file.
            PermissionError: It may not be read.
            ValueError: It is no profile, has another format version, or is damaged.
        """
        return profile_files.read(path, cls)
