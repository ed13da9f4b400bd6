"""How much of an interaction matrix is there: pairs, rank, partners, directness, energy in a band.

    cover = ecaviz.coverage(matrix)                 # of J as it is: exact, structure, or the mean over images
    cover.intervals()                               # how far other images could have moved these numbers: bootstrap
    measures.by_image(matrix)                       # the same of J image by image: mean and spread

The numbers of a mean over images are not the means of the numbers, so both are there.

Sources: effective rank: Roy & Vetterli, EUSIPCO 2007; bootstrap: Efron & Tibshirani, 1993, percentile intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import checks
from .forms import EPSILON, Band, Dense, LowRank
from .intervals import bootstrap_mean
from .matrices import InteractionMatrix
from .threads import one_thread_for

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Coverage", "ImageCoverage", "by_image", "coverage"]

STATISTICS = ("rank", "effective_rank", "participation_median", "directness_mean")
"""The numbers of a :class:`Coverage` that :meth:`Coverage.intervals` knows."""


@dataclass(frozen=True, eq=False)
class Coverage:
    r"""How much of an interaction matrix is there. Pairs and rank are separate axes: no r equals some k.

    For a realised J every number is that of the mean map over images; the directness of a mean is not the mean of the
    directness.

    Attributes:
        matrix: The :class:`InteractionMatrix` it is of.
        pairs: Channel pairs, of C², that the form lets interact, whatever the weights are.
        structural: pairs/C², 0…1.
        rank: Numerical rank: singular values above σ_max·C·ε, with ε of float64 (by autograd: of the network's dtype).
            A zero-padded kernel that leans to one side can fall a little short of C: a few of its singular values are
            exponentially small in C.
        rank_share: rank/C, 0…1.
        effective_rank: exp(entropy of σ/Σσ), 1…rank; 0 for J = 0.
        participation: C numbers: exp(entropy of \|J_i·\|², normalised) of each gate, how many channels really move it,
            1…C; 0 for a gate that nothing moves.
        participation_median: Their median.
        directness: C numbers: J_ii²/Σ_j J_ij² of each gate, 0…1; NaN for a gate that nothing moves.
        directness_mean: Their mean, over the gates that something moves.
        parameters: Parameters of the module: of the excitation, and of Gather-Excite's gather; of CBAM's channel stage.
        multiply_adds: Multiply-adds of the excitation, per image.
    """

    matrix: InteractionMatrix
    pairs: int
    structural: float
    rank: int
    rank_share: float
    effective_rank: float
    participation: Tensor
    participation_median: float
    directness: Tensor
    directness_mean: float
    parameters: int
    multiply_adds: int | None

    @cached_property
    def energy_by_distance(self) -> Tensor:
        r"""C numbers: share of ‖J‖²_F at \|i−j\| = 0 … C−1; NaN for J = 0."""
        energy = self.matrix.form.energy_by_distance()
        return energy / energy.sum()

    def band_energy(self, kernel_size: int) -> float:
        r"""Share of ‖J‖²_F within \|i−j\| ≤ (k−1)/2, 0…1, in the channel order as it is; NaN for J = 0.

        What it would be by chance, and in another order: :mod:`ecaviz.locality`.

        Raises:
            ValueError: ``kernel_size`` is even or not positive.
        """
        reach = (checks.kernel_size(kernel_size, "band_energy: kernel_size") - 1) // 2
        form = self.matrix.form
        if isinstance(form, LowRank) and "energy_by_distance" not in vars(self) and 8 * reach < self.matrix.channels:
            inside, whole = form.energy_within(reach)
            return inside / whole if whole > 0 else float("nan")
        return float(self.energy_by_distance[: reach + 1].sum())

    def intervals(
        self,
        statistics: Sequence[str] = STATISTICS,
        *,
        level: float = 0.95,
        resamples: int = 200,
        seed: int = 0,
        progress: bool = True,
    ) -> pd.DataFrame:
        """How far other images of the same kind could have moved the numbers of a realised J: a bootstrap over images.

        Images are drawn with replacement, as many as there were, and J is the mean over those drawn. An exact J is the
        same for every image, and a structure knows none: low and high are the value itself.

        Args:
            statistics: Some of rank, effective_rank, participation_median, directness_mean.
            level: Of the percentile interval, 0…1.
            resamples: How often images are drawn.
            seed: Of the draws.
            progress: Whether to show a progress bar where it takes long.

        Returns:
            A frame with a row a statistic: statistic (the index), value, low, high.

        Raises:
            ValueError: An unknown statistic, a level that is no share, or no resample.
        """
        import pandas as pd
        from tqdm.auto import tqdm

        unknown = [name for name in statistics if name not in STATISTICS]
        if unknown or not statistics:
            raise ValueError(f"coverage: no interval for {unknown or 'nothing'}; there are {', '.join(STATISTICS)}.")
        level = checks.share(level, "coverage: level")
        resamples = checks.at_least_one(resamples, "coverage: resamples")
        value = torch.tensor([float(getattr(self, name)) for name in statistics], dtype=torch.float64)
        low = high = value
        realisation = self.matrix.realisation
        if realisation is not None:
            images = self.matrix.images
            random = torch.Generator().manual_seed(seed)
            drawn = []
            bar = tqdm(range(resamples), desc="resampling images", delay=2, leave=False, disable=not progress)
            with one_thread_for(self.matrix.channels):
                for _ in bar:
                    counts = torch.bincount(torch.randint(images, (images,), generator=random), minlength=images)
                    form = realisation.mean(counts[realisation.image_of])
                    drawn.append([_STATISTIC[name](form) for name in statistics])
            ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
            low, high = torch.tensor(drawn, dtype=torch.float64).nanquantile(ends, dim=0)
        index = pd.Index(list(statistics), name="statistic")
        return pd.DataFrame({"value": value.numpy(), "low": low.numpy(), "high": high.numpy()}, index=index)

    def __repr__(self) -> str:
        return (
            f"Coverage({self.matrix!r}: pairs {self.structural:.2%}, rank {self.rank} ({self.rank_share:.0%} of C), "
            f"effective rank {self.effective_rank:.1f}, partners {self.participation_median:.1f} (median), "
            f"directness {self.directness_mean:.2f} (mean), {self.parameters} parameters)"
        )


def coverage(matrix: InteractionMatrix) -> Coverage:
    """How much of J is there; see :class:`Coverage`.

    A band and a product of low rank are never held whole, so that C = 2048 takes about a second; a matrix that has no
    such form takes the time of its singular values.

    Raises:
        TypeError: ``matrix`` is no :class:`InteractionMatrix`.
    """
    _check(matrix, "coverage")
    C, form = matrix.channels, matrix.form
    rank, effective = ranks(matrix.singular_values, form)
    participation, directness = form.rows()
    return Coverage(
        matrix=matrix,
        pairs=matrix.pairs,
        structural=matrix.pairs / C**2,
        rank=rank,
        rank_share=rank / C,
        effective_rank=effective,
        participation=participation,
        participation_median=float(participation.quantile(0.5)),
        directness=directness,
        directness_mean=float(directness.nanmean()),
        parameters=matrix.parameters,
        multiply_adds=matrix.multiply_adds,
    )


def ranks(sigma: Tensor, form: Band | Dense | LowRank) -> tuple[int, float]:
    """Numerical and effective rank of a form with these singular values."""
    largest = float(sigma.max()) if len(sigma) else 0.0
    rank = int((sigma > largest * form.channels * getattr(form, "epsilon", EPSILON)).sum())
    return rank, float(torch.special.entr(sigma / sigma.sum()).sum().exp()) if largest > 0 else 0.0


def _check(matrix: InteractionMatrix, what: str) -> None:
    if not isinstance(matrix, InteractionMatrix):
        raise TypeError(
            f"{what}: got a {type(matrix).__name__}; expected what interaction_matrix(model, site) or "
            f"module_interaction(module) returns."
        )


def _mean_directness(form: Band | Dense | LowRank) -> float:
    return float((form.directness() if isinstance(form, LowRank) else form.rows()[1]).nanmean())


_STATISTIC = {
    "rank": lambda form: ranks(form.singular_values(), form)[0],
    "effective_rank": lambda form: ranks(form.singular_values(), form)[1],
    "participation_median": lambda form: float(form.rows()[0].quantile(0.5)),
    "directness_mean": _mean_directness,
}


# ------------------------------------------------------------------------------------------------------- image by image


@dataclass(frozen=True, eq=False)
class ImageCoverage:
    """The numbers of J of each image, N of them. A site that is called twice in a forward counts twice.

    Attributes:
        matrix: The realised :class:`InteractionMatrix`.
        image: N: number of the image.
        rank: N: numerical rank of its J; of a bottleneck at most the number of its active units.
        effective_rank: N: 0 for J = 0.
        participation: N: median over the gates; NaN for J = 0, where no gate has a partner.
        directness: N: mean over the gates; NaN for J = 0.
        active: N: hidden units with a slope other than 0; None where there is no bottleneck.
    """

    matrix: InteractionMatrix
    image: Tensor
    rank: Tensor
    effective_rank: Tensor
    participation: Tensor
    directness: Tensor
    active: Tensor | None

    @property
    def silent(self) -> float:
        """Share of the images with J = 0: no channel moves any gate, and each is what the last bias makes it."""
        return float((self.effective_rank == 0).double().mean())

    def to_frame(self) -> pd.DataFrame:
        """A row an image: image, active, rank, effective_rank, participation, directness."""
        import pandas as pd

        columns = {"image": self.image.numpy()}
        if self.active is not None:
            columns["active"] = self.active.numpy()
        names = ("rank", "effective_rank", "participation", "directness")
        return pd.DataFrame(columns | {name: getattr(self, name).numpy() for name in names})

    def summary(self, *, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
        """Mean and spread over images, and the bootstrap interval of the mean.

        Images with J = 0 count for the rank, and are left out of participation and directness, which they have not.

        Args:
            level: Of the interval, 0…1.
            resamples: How often images are drawn.
            seed: Of the draws.

        Returns:
            A frame with a row a statistic: statistic (the index), mean, std (over images), low, high.
        """
        import pandas as pd

        names = ["rank", "effective_rank", "participation", "directness"]
        names = names if self.active is None else ["active", *names]
        rows = []
        for name in names:
            values = getattr(self, name).double()
            kept = ~values.isnan()
            low, high = bootstrap_mean(values[kept], self.image[kept], level=level, resamples=resamples, seed=seed)
            spread = float(values[kept].std()) if kept.sum() > 1 else float("nan")
            rows.append((float(values[kept].mean()), spread, low, high))
        return pd.DataFrame(rows, index=pd.Index(names, name="statistic"), columns=["mean", "std", "low", "high"])

    def __repr__(self) -> str:
        return (
            f"ImageCoverage({self.matrix!r}: rank {self.rank.double().mean():.1f}, directness "
            f"{self.directness.nanmean():.3f}, partners {self.participation.nanmean():.1f}, means over "
            f"{len(self.rank)} images, J = 0 on {self.silent:.0%})"
        )


def by_image(matrix: InteractionMatrix, *, at_most: int | None = None, progress: bool = True) -> ImageCoverage:
    """The numbers of J image by image, for a realised J.

    Images on which the same hidden units are active have the same J, which is looked at once.

    Args:
        matrix: What :func:`ecaviz.interaction_matrix` gives for a bottleneck and images.
        at_most: Of more images (or calls) that many, evenly spread; None for all. At C = 2048 one takes 40 ms.
        progress: Whether to show a progress bar where it takes long.

    Raises:
        ValueError: J is the same for every image, or no image was run.
    """
    from tqdm.auto import tqdm

    _check(matrix, "by_image")
    realisation = matrix.realisation
    if realisation is None:
        matrix.of_image(0)  # says why
    if at_most is not None and len(realisation) > checks.at_least_one(at_most, "by_image: at_most"):
        realisation = realisation.some(torch.linspace(0, len(realisation) - 1, at_most).round().long())
    rows, which = realisation.patterns()
    numbers = []
    bar = tqdm(rows, desc="J image by image", unit="pattern", delay=2, leave=False, disable=not progress)
    with one_thread_for(matrix.channels):
        for row in bar:
            form = realisation.image(row)
            rank, effective = ranks(form.singular_values(), form)
            participation, directness = form.rows()
            median = float(participation.quantile(0.5)) if effective > 0 else float("nan")
            numbers.append((rank, effective, median, float(directness.nanmean())))
    found = torch.tensor(numbers, dtype=torch.float64)[which]
    slopes = getattr(realisation, "slopes", None)
    return ImageCoverage(
        matrix=matrix,
        image=realisation.image_of,
        rank=found[:, 0].long(),
        effective_rank=found[:, 1],
        participation=found[:, 2],
        directness=found[:, 3],
        active=None if slopes is None else (slopes != 0).sum(dim=1),
    )
