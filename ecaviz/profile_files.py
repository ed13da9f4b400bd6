"""The files that profiles are kept in: safetensors, a header in JSON, and a digest of all of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from . import checks, tensor_files
from .site_profile import STATISTICS, SiteProfile, accumulators
from .whole_files import folder_for

if TYPE_CHECKING:
    from .attention_profile import AttentionProfile

__all__ = ["IMAGES", "read", "write"]

FORMAT, VERSION, WITH_DETAILS = "ecaviz-profile", "1", "2"
"""A file without histograms and extremes by class is of version 1, which every version of ecaviz reads."""

IMAGES = "images_fingerprint"
"""Where a checkpoint keeps, beside what was asked for, what :meth:`ecaviz.batches.Batches.fingerprint` gives."""

Made = TypeVar("Made")


def write(made: AttentionProfile, path: str | os.PathLike) -> Path:
    """What :meth:`AttentionProfile.save` does."""
    names = ("model", "source", "fingerprint", "images", "by", "classes", "n", "positions", "skipped", "asked")
    about = {name: getattr(made, name) for name in names}
    details = made.details == "class"
    version = WITH_DETAILS if details else VERSION
    kept = [site._kept(details) for site in made.sites.values()]
    about["sites"] = [
        site._about() | {what: one._settings() for what, one in statistics.items()}
        for site, statistics in zip(made.sites.values(), kept, strict=True)
    ]
    tensors = {"counts": made.counts} | ({} if made.correct is None else {"correct": made.correct})
    for i, statistics in enumerate(kept):
        for what, one in statistics.items():
            tensors |= {f"{i}.{what}.{key}": value for key, value in one.state_dict().items()}
    path = Path(path)
    folder_for(path)
    metadata = {"format": FORMAT, "version": version, "profile": json.dumps(about)}
    tensor_files.write(path, tensors, metadata | tensor_files.digest(tensors, metadata))
    return path


def read(path: str | os.PathLike, make: Callable[..., Made]) -> Made:
    """What :meth:`AttentionProfile.load` does.

    Args:
        path: The file.
        make: Called with the attributes of the profile, by their names.

    Returns:
        What ``make`` returns.
    """
    path = Path(path)
    expected = "a file written by profile.save(path)"
    checks.file(path, "AttentionProfile.load", expected, "Write one with profile.save(path).")
    try:
        tensors, header = tensor_files.read(path)
    except ValueError as error:
        raise ValueError(
            f"AttentionProfile.load: {path} is no safetensors file, or was truncated or changed ({error}). "
            f"Expected {expected}."
        ) from error
    if header.get("format") != FORMAT:
        raise ValueError(
            f"AttentionProfile.load: {path} is a safetensors file, but no profile (its format is "
            f"{header.get('format')!r}). Expected a file written by profile.save(path)."
        )
    if header.get("version") not in (VERSION, WITH_DETAILS):
        raise ValueError(
            f"AttentionProfile.load: {path} has version {header.get('version')!r}; this version of ecaviz reads "
            f"{VERSION!r} and {WITH_DETAILS!r}. Profile the model again."
        )
    try:
        return make(**_fields(json.loads(header["profile"]), tensors, header["version"] == WITH_DETAILS))
    except _NONSENSE as error:
        raise ValueError(f"AttentionProfile.load: {path} is damaged: {error}. Profile the model again.") from error


_NONSENSE = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a header that makes no sense may raise."""


def _fields(about: dict[str, Any], tensors: dict[str, Tensor], details: bool) -> dict[str, Any]:
    """The attributes of an ``AttentionProfile``, of what a file holds; errors of many kinds where it makes no sense."""
    _check_about(about, tensors)
    classes = tuple(about["classes"])
    sites = {}
    for i, one in enumerate(about["sites"]):
        settings = {what: one.pop(what) for what in STATISTICS}
        _check_sizes(tensors, i, one["channels"], len(classes), settings)
        statistics = accumulators(one["channels"], len(classes), settings, "cpu", details)
        for what, statistic in statistics.items():
            start = f"{i}.{what}."
            state = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            statistic.load_state_dict(state)
        _check_counts(statistics, about["positions"])
        sites[one["name"]] = SiteProfile._of(one, statistics, details)
    skipped = tuple((name, reason) for name, reason in about["skipped"])
    rest = {k: v for k, v in about.items() if k not in ("classes", "sites", "skipped")}
    return {
        **rest,
        "classes": classes,
        "counts": tensors["counts"].clone(),  # on some systems what safetensors gives keeps the file open
        "correct": None if "correct" not in tensors else tensors["correct"].clone(),
        "skipped": skipped,
        "sites": sites,
    }


def _check_about(about: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """What the header says of the profile as a whole is of the right kinds, and goes with the counts.

    Raises:
        ValueError: It is not, or does not.
    """
    texts = [about[name] for name in ("model", "source", "fingerprint", "images", "by") if about[name] is not None]
    numbers = [about["n"], about["positions"]]
    names = about["classes"]
    if not all(isinstance(one, str) for one in texts) or not all(isinstance(one, int) for one in numbers):
        raise ValueError("its header has values of other kinds than expected")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its header has no list of class names")
    if not isinstance(about.get("asked", {}), dict) or not about["sites"]:
        raise ValueError("its header does not say what was asked for, or has no sites")
    seen = about.get("asked", {}).get(IMAGES, {})
    if not isinstance(seen, dict) or not all(isinstance(one, str | list) for one in seen.values()):
        raise ValueError("its header does not say which images were looked at")
    if len({site["name"] for site in about["sites"]}) < len(about["sites"]):
        raise ValueError("its header has a site twice")
    counts = tensors["counts"]
    for one in (counts, tensors.get("correct", counts)):
        if one.shape != (len(names),) or one.dtype != torch.int64 or bool(((one < 0) | (one > counts)).any()):
            raise ValueError(f"its counts do not go with its {len(names)} classes")
    if int(counts.sum()) != about["n"] or about["n"] > about["positions"]:
        raise ValueError(
            f"it counts {int(counts.sum())} images, and should {about['n']} of {about['positions']} positions"
        )


def _check_sizes(
    tensors: Mapping[str, Tensor], site: int, channels: int, classes: int, settings: Mapping[str, Mapping[str, Any]]
) -> None:
    """A header cannot ask for more memory than the file has tensors for.

    Raises:
        ValueError: It does.
    """
    for what, size in (("moments.mean", channels), ("moments.n", classes)):
        if tensors[f"{site}.{what}"].shape[-1] != size:
            raise ValueError(f"site {site} is said to have {channels} channels and {classes} classes, and has others")
    for what, key, size in (
        ("histogram", "counts", settings["histogram"]["bins"]),
        ("largest", "values", settings["largest"]["k"]),
        ("smallest", "values", settings["smallest"]["k"]),
    ):
        if tensors[f"{site}.{what}.{key}"].shape[-1] != size:
            raise ValueError(f"{what} of site {site} is said to have {size!r} places, and has others")


def _check_counts(statistics: Mapping[str, Any], positions: int) -> None:
    """The statistics of a site have seen the same images, all of them at positions that there are.

    Raises:
        ValueError: They have not.
    """
    moments, tails, histogram = (statistics[what] for what in ("moments", "tails", "histogram"))
    n, kept = moments.n, tails.state_dict()
    low, high, bins, outside = kept["low_count"], kept["high_count"], histogram.counts, histogram.outside
    rows = n[:, None] if len(bins) == len(n) else n.sum()
    fits = torch.equal(n, kept["n"]) and all(bool((one >= 0).all()) for one in (n, low, high, bins, outside))
    fits = fits and bool((low + high <= n[:, None]).all()) and bool((bins.sum(-1) + outside == rows).all())
    for what in ("largest", "smallest"):
        index = statistics[what].index
        fits = fits and int(statistics[what].state_dict()["rows"]) == int(n.sum())
        fits = fits and bool(((index >= -1) & (index < positions)).all())
    if not fits:
        raise ValueError("the counts of a site do not go together")
