"""Profiles: statistics of the gates of one model over one set of images, by site, class and channel.

One streaming pass, with memory that does not depend on the number of images::

    profile = ecaviz.profile(model, images, by="class")
    profile.to_frame()                          # tidy: one row a site, class and channel
    profile.mean("layer3.0.se")                 # classes × channels
    profile["layer3.0.se"].histogram.counts     # of all images together
    profile.save("shapes.profile")
    AttentionProfile.load("shapes.profile")
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import gates
from .images import batches
from .statistics import Histogram, Moments, Tails, TopK

if TYPE_CHECKING:
    import pandas as pd

    from .models import LoadedModel

__all__ = ["BINS", "HIGH", "LOW", "AttentionProfile", "SiteProfile", "profile"]

FORMAT, VERSION = "ecaviz-profile", "1"

BINS = 64
"""Bins of a site's histograms over [0, 1]."""

LOW, HIGH = 0.05, 0.95
"""A gate below LOW counts as saturated low (its channel is all but closed), one above HIGH as saturated high."""

ALL = "all"
"""What the column ``class`` of a table holds where all images were pooled."""

_STATISTICS = ("moments", "tails", "histogram", "largest", "smallest")


@dataclass(frozen=True, eq=False)
class SiteProfile:
    """The statistics of one site's gates. G is the number of classes (1 where images were pooled), C of channels.

    Attributes:
        name: The site; ``name#2`` for the second call in a forward.
        family: Family of the attention module.
        channels: C.
        kernel_size: k, or None.
        reduction: r, or None.
        activation: Name of a.
        moments: n, mean, variance, min and max, G×C.
        tails: Shares of gates below :data:`LOW` and above :data:`HIGH`, G×C.
        histogram: Counts in :data:`BINS` bins, all classes together, 1×C.
        largest: The largest gates of each channel with the positions of their images, all classes together, 1×C×top.
        smallest: The smallest.
    """

    name: str
    family: str
    channels: int
    kernel_size: int | None
    reduction: float | None
    activation: str
    moments: Moments
    tails: Tails
    histogram: Histogram
    largest: TopK
    smallest: TopK

    def __repr__(self) -> str:
        return f"SiteProfile({self.name!r}, {self.family}, {self.channels} channels, n={int(self.moments.n.sum())})"

    def _about(self) -> dict[str, Any]:
        names = ("name", "family", "channels", "kernel_size", "reduction", "activation")
        return {name: getattr(self, name) for name in names}


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

    def mean(self, site: str) -> Tensor:
        """Mean gate, float64 classes × channels; one row where images were pooled, NaN for a class without images.

        Args:
            site: Name of the site.

        Raises:
            KeyError: The profile has no such site; the message lists those it has.
        """
        return self[site].moments.mean.cpu()

    def to_frame(self) -> pd.DataFrame:
        """The profile as a tidy table: one row a site, class and channel. A class without images has no rows.

        Columns: site, family, channels (C of the site), channel, class ("all" where images were pooled), n, mean, var
        (of what was seen: divided by n), std, min, max, saturated_low and saturated_high (shares of the gates below
        :data:`LOW` and above :data:`HIGH`).
        """
        import numpy as np
        import pandas as pd

        frames = []
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
            frames.append(
                pd.DataFrame(
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
            )
        return pd.concat(frames, ignore_index=True)

    def merge(self, other: AttentionProfile) -> AttentionProfile:
        """The profile of both sets of images, laid end to end: the other's image positions count on from this one's.

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
        sites = {}
        for name, site in self.sites.items():
            statistics = {what: getattr(site, what).copy() for what in _STATISTICS}
            for what, statistic in statistics.items():
                its_own = getattr(other.sites[name], what)
                statistic.merge(its_own.copy().offset(self.positions) if isinstance(its_own, TopK) else its_own)
            sites[name] = SiteProfile(**site._about(), **statistics)
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
        )

    def save(self, path: str | os.PathLike) -> Path:
        """Write the profile into one safetensors file, whole or not at all.

        Args:
            path: The file; its folder is made if it is missing.

        Returns:
            The path.
        """
        from safetensors.torch import save_file

        names = ("model", "source", "fingerprint", "images", "by", "classes", "n", "positions", "skipped")
        about = {name: getattr(self, name) for name in names}
        about["sites"] = [
            site._about() | {what: getattr(site, what)._settings() for what in _STATISTICS}
            for site in self.sites.values()
        ]
        tensors = {"counts": self.counts} | ({} if self.correct is None else {"correct": self.correct})
        for i, site in enumerate(self.sites.values()):
            for what in _STATISTICS:
                tensors |= {f"{i}.{what}.{key}": value for key, value in getattr(site, what).state_dict().items()}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            save_file(tensors, partial, metadata={"format": FORMAT, "version": VERSION, "profile": json.dumps(about)})
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> AttentionProfile:
        """Read a profile that :meth:`save` wrote. No code in the file is executed.

        Args:
            path: The file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no profile, has another format version, or is damaged.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"AttentionProfile.load: there is no file {path}. Write one with profile.save(path)."
            )
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
        except SafetensorError as error:
            raise ValueError(
                f"AttentionProfile.load: {path} is no safetensors file, or was truncated ({error}). Expected a file "
                f"written by profile.save(path)."
            ) from error
        if header.get("format") != FORMAT:
            raise ValueError(
                f"AttentionProfile.load: {path} is a safetensors file, but no profile (its format is "
                f"{header.get('format')!r}). Expected a file written by profile.save(path)."
            )
        if header.get("version") != VERSION:
            raise ValueError(
                f"AttentionProfile.load: {path} has version {header.get('version')!r}; this version of ecaviz reads "
                f"{VERSION!r}. Profile the model again."
            )
        try:
            return cls._from_parts(json.loads(header["profile"]), tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"AttentionProfile.load: {path} is damaged: {error}. Profile the model again.") from error

    @classmethod
    def _from_parts(cls, about: dict[str, Any], tensors: dict[str, Tensor]) -> AttentionProfile:
        classes = tuple(about["classes"])
        sites = {}
        for i, one in enumerate(about["sites"]):
            settings = {what: one.pop(what) for what in _STATISTICS}
            statistics = _empty(one["channels"], len(classes), settings)
            for what, statistic in statistics.items():
                start = f"{i}.{what}."
                state = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
                statistic.load_state_dict(state)
            sites[one["name"]] = SiteProfile(**one, **statistics)
        skipped = tuple((name, reason) for name, reason in about["skipped"])
        rest = {k: v for k, v in about.items() if k not in ("classes", "sites", "skipped")}
        return cls(
            **rest,
            classes=classes,
            counts=tensors["counts"],
            correct=tensors.get("correct"),
            skipped=skipped,
            sites=sites,
        )


def profile(
    model: LoadedModel,
    images: Any,
    *,
    by: str | None = None,
    sites: gates.Selection = None,
    batch_size: int = 64,
    top: int = 4,
    progress: bool = True,
) -> AttentionProfile:
    """Run a model over images once and keep the statistics of its gates.

    The network runs in eval mode and without gradients; its training flags are left as found, whatever happens. Class
    names come with the images (``images.classes``); images whose labels have no names are taken to be numbered like the
    model's own classes.

    Args:
        model: What :func:`ecaviz.load` returns.
        images: A dataset, a folder, a tensor or a DataLoader; see :func:`ecaviz.images.batches`.
        by: "class" to keep the classes apart; None to pool all images.
        sites: A glob, a list of names or globs, a callable of a site, or None for all.
        batch_size: Images a step; a DataLoader keeps its own.
        top: How many of the largest and the smallest gates to keep a channel, with the positions of their images.
        progress: Whether to show a progress bar.

    Returns:
        The profile, on the CPU.

    Raises:
        TypeError: ``model`` is no loaded model.
        ValueError: The model has no gates, no site matches, the images are none that can be used, ``by`` is neither
            "class" nor None, or ``by="class"`` and the images have no labels or a label without a class.
    """
    from tqdm.auto import tqdm

    if isinstance(model, nn.Module) or not isinstance(getattr(model, "net", None), nn.Module):
        raise TypeError(
            f"profile: a model from ecaviz.load() was expected, got {type(model).__name__}. "
            f"For a network of your own: ecaviz.load(net, transform=…, classes=…)."
        )
    if by not in (None, "class"):
        raise ValueError(f'profile: by must be "class" or None, got {by!r}.')
    gates.select_sites(model, sites)  # a model without gates is told before the images are touched
    stream = batches(images, model.transform, batch_size, next(model.net.parameters(), model.device))
    pass_ = _Pass(model, stream.classes, by, top)
    bar = tqdm(total=stream.total, desc=f"profiling {model.name}", unit="image", disable=not progress)
    with bar, gates.evaluating(model.net), gates.capture(model, sites) as captured:
        for x, labels, positions in stream.indexed():
            output = model.net(x)
            pass_.take(captured, output, labels, positions)
            captured.clear()
            bar.update(int(positions[-1]) + 1 - bar.n)
    return AttentionProfile(
        model=model.name,
        source=str(model.source),
        fingerprint=_fingerprint(model.net),
        images=stream.description,
        by=by,
        classes=pass_.classes,
        n=int(pass_.counts.sum()),
        positions=stream.passed,
        counts=pass_.counts.cpu(),
        correct=None if pass_.correct is None else pass_.correct.cpu(),
        skipped=tuple((path.name, reason) for path, reason in stream.skipped),
        sites=pass_.finish(),
    )


class _Pass:
    """What one pass over the images collects."""

    def __init__(self, model: LoadedModel, names: tuple[str, ...] | None, by: str | None, top: int):
        own = tuple(model.classes or ())
        self.by, self.top = by, top
        self.device = torch.device("cpu") if model.device.type == "mps" else model.device
        self.classes: tuple[str, ...] = (ALL,) if by is None else names or own
        if not self.classes:
            raise ValueError(
                'profile: by="class" needs class names, and neither the images nor the model have any. Give the images '
                "an attribute `classes`, or the model: ecaviz.load(net, classes=…); or use by=None."
            )
        self.counts = torch.zeros(len(self.classes), dtype=torch.int64)
        self.correct: Tensor | None = torch.zeros_like(self.counts)
        self.own_class = None if names is None else _match(names, own)
        if names is not None and self.own_class is None:
            self.correct = None
        self.sites: dict[str, tuple[gates.GateSite, dict[str, Any]]] = {}

    def take(
        self, captured: Mapping[str, gates.GateRecord], output: Any, labels: Tensor | None, positions: Tensor
    ) -> None:
        n = len(positions)
        labels = None if labels is None else labels.cpu()
        groups = self._groups(labels, n)
        self.counts += torch.bincount(groups, minlength=len(self.classes))
        self._score(output, labels, groups)
        groups, positions = groups.to(self.device), positions.to(self.device)
        for name, record in captured.items():
            gate = record.gate
            if len(gate) != n:
                raise ValueError(
                    f"profile: {name} gave {len(gate)} gates for {n} images, so they cannot be told apart by image. "
                    f"Leave the site out with `sites`."
                )
            if name not in self.sites:
                self.sites[name] = record.site, _empty(gate.shape[1], len(self.classes), self._settings(), self.device)
            statistics = self.sites[name][1]
            statistics["moments"].update(gate, groups)
            statistics["tails"].update(gate, groups)
            statistics["histogram"].update(gate)
            statistics["largest"].update(gate, index=positions)
            statistics["smallest"].update(gate, index=positions)

    def finish(self) -> dict[str, SiteProfile]:
        """The statistics, on the CPU."""
        if not self.sites:
            raise ValueError("profile: the network ran without calling any of the sites. Choose others with `sites`.")
        sites = {}
        for name, (site, statistics) in self.sites.items():
            channels = statistics["moments"].channels
            kept = _empty(channels, len(self.classes), self._settings())
            for what, statistic in kept.items():
                statistic.load_state_dict(statistics[what].state_dict())
            sites[name] = SiteProfile(
                name, site.family, channels, site.kernel_size, site.reduction, site.activation, **kept
            )
        return sites

    def _settings(self) -> dict[str, dict[str, Any]]:
        return {
            "moments": {},
            "tails": {"low": LOW, "high": HIGH},
            "histogram": {"bins": BINS, "low": 0.0, "high": 1.0},
            "largest": {"k": self.top, "largest": True},
            "smallest": {"k": self.top, "largest": False},
        }

    def _groups(self, labels: Tensor | None, n: int) -> Tensor:
        if self.by is None:
            return torch.zeros(n, dtype=torch.int64)
        if labels is None:
            raise ValueError(
                'profile: by="class" needs a label (a whole number) for each image, and these images have none. Pass a '
                "folder with one subfolder a class, or a dataset of (image, label); or use by=None."
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            raise ValueError(
                f"profile: label {low if low < 0 else high} has no class: there are {len(self.classes)} classes, so "
                f"labels 0 to {len(self.classes) - 1} were expected."
            )
        return labels

    def _score(self, output: Any, labels: Tensor | None, groups: Tensor) -> None:
        """Count what was classified right; give up for good where that cannot be told."""
        usable = self.correct is not None and labels is not None and isinstance(output, Tensor) and output.ndim == 2
        if usable and self.own_class is not None:
            usable = int(labels.min()) >= 0 and int(labels.max()) < len(self.own_class)
        own = labels if not usable or self.own_class is None else self.own_class[labels]
        if not usable or int(own.min()) < 0 or int(own.max()) >= output.shape[1]:
            self.correct = None
            return
        hits = (output.argmax(1).cpu() == own).long()
        self.correct.index_add_(0, groups, hits)


def _empty(
    channels: int, groups: int, settings: Mapping[str, Mapping[str, Any]], device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """The accumulators of one site, by their names in :class:`SiteProfile`."""
    return {
        "moments": Moments(channels, groups, device, **settings["moments"]),
        "tails": Tails(channels, groups=groups, device=device, **settings["tails"]),
        "histogram": Histogram(channels, device=device, **settings["histogram"]),
        "largest": TopK(channels, device=device, **settings["largest"]),
        "smallest": TopK(channels, device=device, **settings["smallest"]),
    }


def _match(names: Sequence[str], own: Sequence[str]) -> Tensor | None:
    """The model's output for each class of the images, by name; None unless every class has exactly one.

    Names are compared without case, with _ for a space; of a name with synonyms ("tench, Tinca tinca") each will do,
    unless two classes share it (ImageNet has two cranes).
    """

    def plain(name: str) -> str:
        return " ".join(name.replace("_", " ").casefold().split())

    whole: dict[str, set[int]] = {}
    part: dict[str, set[int]] = {}
    for i, name in enumerate(own):
        whole.setdefault(plain(name), set()).add(i)
        for synonym in name.split(","):
            part.setdefault(plain(synonym), set()).add(i)
    found = [whole.get(plain(name)) or part.get(plain(name), set()) for name in names]
    if not found or any(len(outputs) != 1 for outputs in found):
        return None
    return torch.tensor([next(iter(outputs)) for outputs in found])


def _fingerprint(net: nn.Module) -> str:
    """Sixteen hex digits that stand for the names and values of all parameters and buffers."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in net.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
