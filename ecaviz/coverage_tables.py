"""Tables of what the sites of networks realise, a row a site. Reached as ``ecaviz.coverages``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import checks, gates, locality, measures
from .excitations import COVERED
from .influences import Influence, influence
from .interaction import interaction_matrices
from .matrices import InteractionMatrix
from .memory import memory_in_words

if TYPE_CHECKING:
    import pandas as pd

    from .models import LoadedModel

__all__ = ["BANDS", "coverage_table", "locality_table"]

SINGLES = 2000
"""Images that are looked at one by one."""
AT_MOST = 240
"""Images that are taken where none are named."""
BANDS = (3, 9, 33)
"""Kernel sizes whose bands are looked at if none are named."""


def coverage_table(
    models: Any,
    images: Any = None,
    sites: gates.Selection = None,
    *,
    level: float = 0.95,
    resamples: int = 200,
    at_most: int = AT_MOST,
    influences: bool = False,
) -> pd.DataFrame:
    """Coverage of every site of one or several models that has a J: what its form allows beside what it realises.

    Args:
        models: Names, loaded models or modules, one or several.
        images: Over which bottlenecks are realised, in any form that ``images`` may have, all of them; None for the
            procedural set (bundled models) or the photographs inside scikit-image. A network of your own without a
            transform is then taken as it is built: the structure.
        sites: Which sites, as for :func:`ecaviz.capture`.
        level: Of the bootstrap intervals over images.
        resamples: How often images are drawn for them.
        at_most: How many images to take where ``images`` is None.
        influences: Whether to measure sites that have no J (GSoP, Gather-Excite with an extent) too, by
            :func:`ecaviz.influence` over eight images. A site takes a backward pass a gate and patch: seconds for the
            bundled models, hours for large maps.

    Returns:
        A frame with a row a site (of a CBAM, a row a squeeze): model, family, setting, seed (missing), site, squeeze,
        channels, kernel_size, reduction, kind, images, pairs, structural, rank, rank_share, effective_rank, partners
        (median over the gates) with partners_low and partners_high, directness (mean over the gates) with
        directness_low and directness_high; of single images (of more than 2,000, so many, evenly spread), as mean and
        standard deviation over images, image_rank, image_directness, image_partners (and _sd each), and silent, the
        share of images with J = 0; parameters,
        multiply_adds. Where J is the same for every image, intervals have no width and spreads are 0. A row of kind
        "influence" has no rank and no directness, which are undefined there.

    Raises:
        ValueError: A model has no site with a J, or the images cannot be used.
    """
    options = {"level": level, "resamples": resamples, "influences": influences}
    each = each_with_images(models, images, at_most)
    return coverage_frame([row for one, chosen in each for row in coverage_of(one, chosen, sites, **options)])


def coverage_frame(rows: Sequence[Mapping]) -> pd.DataFrame:
    """The table of :func:`coverage_table`, of its rows."""
    import pandas as pd

    return nullable(pd.DataFrame(rows))


def coverage_of(
    model: LoadedModel,
    images: Any,
    sites: gates.Selection = None,
    *,
    level: float = 0.95,
    resamples: int = 200,
    influences: bool = False,
) -> list[dict[str, Any]]:
    """The rows of :func:`coverage_table` for one model, over images that :func:`each_with_images` gave."""
    with memory_in_words(_MEMORY.format(model.name)):
        measured = influenced(model, images, sites) if influences and images is not None else []
        rows = []
        if not measured or any(has_j(site) for site in gates.select_sites(model, sites)):
            found = interaction_matrices(model, images, sites)
            rows = [coverage_row(model.name, None, matrix, level, resamples) for matrix in found.values()]
        return rows + [influence_row(model.name, None, *pair) for pair in measured]


_MEMORY = "coverages: memory ran out at {}. Fewer images, or fewer sites at once (sites, or --sites), take less."


def each_with_images(models: Any, images: Any = None, at_most: int = AT_MOST) -> Iterator[tuple[LoadedModel, Any]]:
    """Every model of those that :func:`coverage_table` takes, loaded, and the images to run it on."""
    from .images import suited
    from .readings import load_all

    at_most = checks.at_least_one(at_most, "coverages: at_most")
    for one in load_all(models, "coverages"):
        known = images is not None or one.transform is not None
        yield one, images if images is not None else suited(one, n=at_most) if known else None


def has_j(site: gates.GateSite) -> bool:
    """Whether a site has an interaction matrix."""
    return site.family in COVERED and site.per == "channel"


def influenced(model: Any, images: Any, sites: gates.Selection = None) -> list[tuple[gates.GateSite, Influence]]:
    """The influence at the sites that gate channels and have no interaction matrix."""
    chosen = [site for site in gates.select_sites(model, sites) if site.per != "position" and not has_j(site)]
    return [(site, influence(model, site, images)) for site in chosen]


def influence_row(name: str, seed: int | None, site: gates.GateSite, found: Influence) -> dict[str, Any]:
    """One row of :func:`coverage_table` for a site without J; ``seed`` is that of the model."""
    alone = site.extent is not None and site.hidden is None  # Gather-Excite without a bottleneck: channel by channel
    pairs = found.channels if alone else found.channels**2
    return {
        "model": name,
        "family": site.family,
        "setting": site.setting,
        "seed": seed,
        "site": site.name,
        "squeeze": "",
        "channels": found.channels,
        "kernel_size": None,
        "reduction": site.reduction,
        "kind": "influence",
        "images": found.images,
        "pairs": pairs,
        "structural": pairs / found.channels**2,
        **dict.fromkeys(("rank", "rank_share", "effective_rank"), math.nan),
        "partners": float(found.participation.quantile(0.5)),
        **dict.fromkeys(_SPREADS, math.nan),
        "silent": 0.0,
        "parameters": sum(p.numel() for p in site.module.parameters()),
        "multiply_adds": None,
    }


_SPREADS = (
    *("partners_low", "partners_high", "directness", "directness_low", "directness_high"),
    *(f"image_{what}{end}" for what in ("rank", "directness", "partners") for end in ("", "_sd")),
)


def coverage_row(
    name: str, seed: int | None, matrix: InteractionMatrix, level: float = 0.95, resamples: int = 200
) -> dict[str, Any]:
    """One row of :func:`coverage_table`; ``seed`` is that of the model."""
    cover = measures.coverage(matrix)
    ends = cover.intervals(("participation_median", "directness_mean"), level=level, resamples=resamples)
    partners, directness = ends.loc["participation_median"], ends.loc["directness_mean"]
    single = {
        "image_rank": (cover.rank, 0.0),
        "image_directness": (cover.directness_mean, 0.0),
        "image_partners": (cover.participation_median, 0.0),
    }
    silent = 0.0
    if matrix.realisation is not None:
        each = measures.by_image(matrix, at_most=SINGLES)
        silent = each.silent
        for key, values in zip(single, (each.rank.double(), each.directness, each.participation), strict=True):
            values = values[~values.isnan()]
            single[key] = float(values.mean()), float(values.std()) if len(values) > 1 else math.nan
    elif matrix.kind == "structure":
        single = dict.fromkeys(single, (math.nan, math.nan))
    return {
        "model": name,
        "family": matrix.family,
        "setting": matrix.setting,
        "seed": seed,
        "site": matrix.site,
        "squeeze": matrix.squeeze,
        "channels": matrix.channels,
        "kernel_size": matrix.kernel_size,
        "reduction": matrix.reduction,
        "kind": matrix.kind,
        "images": matrix.images,
        "pairs": matrix.pairs,
        "structural": cover.structural,
        "rank": cover.rank,
        "rank_share": cover.rank_share,
        "effective_rank": cover.effective_rank,
        "partners": cover.participation_median,
        "partners_low": partners["low"],
        "partners_high": partners["high"],
        "directness": cover.directness_mean,
        "directness_low": directness["low"],
        "directness_high": directness["high"],
        **{key + end: value for key, pair in single.items() for end, value in zip(("", "_sd"), pair, strict=True)},
        "silent": silent,
        "parameters": matrix.parameters,
        "multiply_adds": matrix.multiply_adds,
    }


def locality_table(
    models: Any,
    images: Any = None,
    sites: gates.Selection = None,
    *,
    sizes: Sequence[int] = BANDS,
    draws: int = 999,
    seriated_draws: int = 99,
    at_most: int = AT_MOST,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Whether the interaction is local: energy of J in bands, channels as given and seriated, against the nulls.

    Args:
        models: As for :func:`coverage_table`.
        images: As for :func:`coverage_table`.
        sites: As for :func:`coverage_table`.
        sizes: Kernel sizes whose bands are looked at; at a site those below C.
        draws: Of the null of the given order.
        seriated_draws: Of each of the two nulls of the seriated order; 0 to leave it. At C = 2048 a draw takes one to
            two seconds, at C = 512 a twentieth of one.
        at_most: As for :func:`coverage_table`.
        seed: Of the draws.
        progress: Whether to show a progress bar.

    Returns:
        A frame with a row a site, ordering, null and k: model, family, setting, seed (missing), site, squeeze,
        channels, ordering ("given", "seriated"), null ("renumbered"; "entries", "matching": see
        :func:`ecaviz.locality.seriated_test`), k, pairs (share of them in the band), energy, expected, low, high (mean
        and 95 % of the null), p, draws.

    Raises:
        ValueError: As for :func:`coverage_table`; an even k; no k that is below the C of some site.
    """
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)
    sizes = sorted({checks.kernel_size(k, "locality_table: sizes") for k in sizes})
    options = {"sizes": sizes, "draws": draws, "seriated_draws": seriated_draws, "seed": seed, "progress": progress}
    each = each_with_images(models, images, at_most)
    return locality_frame([row for one, chosen in each for row in locality_of(one, chosen, sites, **options)], sizes)


def locality_frame(rows: Sequence[Mapping], sizes: Sequence[int] = BANDS) -> pd.DataFrame:
    """The table of :func:`locality_table`, of its rows."""
    import pandas as pd

    if not rows:
        raise ValueError(f"locality_table: no site has more channels than a band of k = {sizes or 'none'}.")
    return pd.DataFrame(rows)


def locality_of(
    model: LoadedModel,
    images: Any,
    sites: gates.Selection = None,
    *,
    sizes: Sequence[int] = BANDS,
    draws: int = 999,
    seriated_draws: int = 99,
    seed: int = 0,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """The rows of :func:`locality_table` for one model, over images that :func:`each_with_images` gave."""
    from tqdm.auto import tqdm

    rows = []
    with memory_in_words(_MEMORY.format(model.name)):
        found = interaction_matrices(model, images, sites).values()
        for matrix in tqdm(found, desc=f"locality of {model.name}", unit="site", delay=2, disable=not progress):
            rows += locality_rows(model.name, None, matrix, sizes, draws, seriated_draws, seed)
    return rows


def locality_rows(
    name: str, model_seed: int | None, matrix: InteractionMatrix, sizes, draws: int, seriated_draws: int, seed: int = 0
) -> list[dict[str, Any]]:
    """The rows of one site in :func:`locality_table`; ``model_seed`` is that of the model."""
    sizes = tuple(k for k in sizes if checks.kernel_size(k, "locality: sizes") < matrix.channels)
    tests = [locality.band_test(matrix, sizes, draws=draws, seed=seed)] if sizes else []
    if sizes and seriated_draws:
        tests += [
            locality.seriated_test(matrix, sizes, null=null, draws=seriated_draws, seed=seed, progress=False)
            for null in locality.NULLS
        ]
    about = {
        "model": name,
        "family": matrix.family,
        "setting": matrix.setting,
        "seed": model_seed,
        "site": matrix.site,
        "squeeze": matrix.squeeze,
        "channels": matrix.channels,
    }
    return [about | row for test in tests for row in test.to_frame().to_dict("records")]


def nullable(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of whole numbers that may be missing stay whole."""
    for name in ("kernel_size", "multiply_adds", *(["rank"] if "rank" in frame else [])):
        frame[name] = frame[name].astype("Int64")
    frame["reduction"] = frame["reduction"].astype("Float64")
    return frame
