"""Which channel moves which gate: the interaction matrix J = ∂z/∂y, and how much of it is there.

J is taken of the excitation alone (descriptor y → logit z), so it is C×C: J_ij says how much the logit of channel i
changes when the descriptor of channel j does. It has a closed form, and it is kept in that form:

- ECA is a band: J_ij = w_(j−i+(k−1)/2), the same kernel of k weights along every row (:class:`~ecaviz.forms.Band`).
- SE-Var1 (identity), SE-Var2 (diagonal), SE-Var3 (full), SE-GC (blocks) and ECA-NS (a band of its own for each row)
  are linear too: their J is their weights (:class:`~ecaviz.forms.Dense`). So is that of Gather-Excite with the global
  extent, whose descriptor is what it has gathered.
- SE is a product through the bottleneck. For one image J = W2·diag(a)·W1, with a = 1 for the hidden units that the ReLU
  lets through and 0 for the others. Without images the *structure* W2·W1 stands for it, every unit active; over a set
  of images the *realised* J is the mean, W2·diag(p)·W1, with p the share of images on which each unit is active
  (:class:`LowRank`). CBAM has the same bottleneck behind two squeezes: its structure W2·W1 is the map of either.

GSoP and Gather-Excite with a smaller extent have no J, since their descriptor is not C numbers; see
:mod:`ecaviz.influences`.

k and r move different things. The pairs of channels that can interact are moved by k and not by r; the rank is moved by
r and hardly by k. :class:`Structure` says what a form allows from its shape alone; :func:`coverage` says what the
weights of a trained site make of it. Neither is to be read as the other.

Sources: ECA: Wang et al., CVPR 2020, Eq. 6 and 9. SE: Hu et al., CVPR 2018, Eq. 3. Effective rank: Roy & Vetterli,
EUSIPCO 2007.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from . import attention, checks, gates
from .batches import batches
from .forms import Band, Dense, LowRank
from .gates import evaluating
from .structure import (
    Structure,
    eca_structure,
    multiply_adds,
    parameters,
    se_structure,
    structural_pairs,
    structure,
)

__all__ = [
    "COVERED",
    "Band",
    "Coverage",
    "Dense",
    "InteractionMatrix",
    "LowRank",
    "Structure",
    "coverage",
    "eca_structure",
    "interaction_matrix",
    "module_interaction",
    "multiply_adds",
    "parameters",
    "se_structure",
    "structural_pairs",
    "structure",
]

_LINEAR = ("se-var1", "se-var2", "se-var3", "se-gc", "eca-ns", "ge-theta-minus", "ge-theta")
_BOTTLENECKS = ("cbam", "ge-theta-plus")
_OWN = (*_LINEAR, *_BOTTLENECKS)
COVERED: tuple[str, ...] = ("eca", "se", *_OWN)
"""Families whose interaction matrix has a closed form here."""


@dataclass(frozen=True, eq=False)
class InteractionMatrix:
    """J = ∂z/∂y of one excitation.

    Attributes:
        family: One of :data:`COVERED`.
        site: Name of the site; empty for a module on its own.
        channels: C.
        kind: "exact": J is the same for every image (ECA and all that is linear). "structure": a bottleneck with every
            hidden unit active. "realised": SE, mean over ``images`` images.
        form: J itself, as a :class:`Band`, a :class:`LowRank` or a :class:`Dense`.
        pairs: Channel pairs, of C², that the form lets interact, whatever the weights are.
        images: Number of images behind a realised J, else 0.
        active: For a realised J, the share p of images on which each hidden unit is active: hidden numbers in 0…1.
        kernel_size: k, or None.
        reduction: C/hidden, read from the weights, or None.
        hidden: Hidden units, or None.
        groups: G of an SE-GC, or None.
        parameters: Parameters of the module: of the excitation, and of Gather-Excite's gather; of CBAM's channel stage.
        multiply_adds: Multiply-adds of the excitation, per image.
    """

    family: str
    site: str
    channels: int
    kind: str
    form: Band | Dense | LowRank
    pairs: int
    images: int = 0
    active: Tensor | None = None
    kernel_size: int | None = None
    reduction: float | None = None
    hidden: int | None = None
    groups: int | None = None
    parameters: int = 0
    multiply_adds: int = 0

    @cached_property
    def matrix(self) -> Tensor:
        """J, C×C float64 on the CPU: row i is the gate that is moved, column j the channel that moves it.

        Formed when first asked for and kept (32 MiB for C = 2048).
        """
        return self.form.dense()

    @cached_property
    def singular_values(self) -> Tensor:
        """Singular values, largest first, float64; those that are zero by structure are left out."""
        return self.form.singular_values()

    def __repr__(self) -> str:
        size = "" if self.kernel_size is None else f"k={self.kernel_size}, "
        size += "" if self.hidden is None else f"r={self.reduction:g}, hidden={self.hidden}, "
        size += "" if self.groups is None else f"G={self.groups}, "
        over = f" over {self.images} images" if self.images else ""
        name = f"{self.site!r}, " if self.site else ""
        return f"InteractionMatrix({name}{self.family}, C={self.channels}, {size}{self.kind}{over})"


def module_interaction(module: nn.Module) -> InteractionMatrix:
    """J of one attention module of :mod:`ecaviz.attention` on its own.

    For a bottleneck (SE, CBAM, GE-θ⁺) it is the structure: every hidden unit active.

    Args:
        module: What :func:`ecaviz.attention.build` gives; of a CBAM its channel stage is taken.

    Raises:
        ValueError: A module without C descriptors (GSoP, Gather-Excite with an extent), or one of another library.
    """
    module = getattr(module, "channel", module)  # CBAM's first stage
    if isinstance(module, attention.ECA):
        return _eca(module.excite.conv.weight.flatten(), module.channels, module.excite.conv.padding_mode, "", 0)
    if isinstance(module, attention.SE):
        first, second = module.excite.fc1, module.excite.fc2
        biases = sum(layer.bias.numel() for layer in (first, second) if layer.bias is not None)
        return _se(first.weight, second.weight, "", biases)
    if isinstance(module, attention.ChannelAttention):
        (own,) = gates.find_sites(nn.Sequential(module)) or [None]
        if own is not None and own.family in COVERED and own.per == "channel":
            return _of_own(own, "")
    raise not_covered(getattr(module, "family", "") or type(module).__name__)


def not_covered(family: str, site: str = "") -> ValueError:
    """The error for a family without a closed form here."""
    where = f" of the site {site!r}" if site else ""
    return ValueError(
        f"interaction: no closed form for the family {family!r}{where}. Families covered: {', '.join(COVERED)}. "
        f"ecaviz.influence measures any module that has a squeeze and an excitation."
    )


def interaction_matrix(model, site, images=None, *, batch_size: int = 64) -> InteractionMatrix:
    """J of one site of a model, in closed form.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.
        site: Name of the site, or the :class:`ecaviz.gates.GateSite` itself.
        images: For an SE, the images over which J is realised, in any form that :func:`ecaviz.images.batches` takes;
            None for the structure. An ECA is the same for every image: its J is exact and no image is run.
        batch_size: Images run at once.

    Returns:
        The :class:`InteractionMatrix`.

    Raises:
        ValueError: No site of that name; its family is not covered; its excitation is not the one its weights say (such
            as an SE whose hidden activation is no ReLU); its C is not known yet; ``images`` are none or of the wrong
            kind.
    """
    own = gates.site(model, getattr(site, "name", site))
    if isinstance(site, str):
        site = own
    elif site.module is not own.module:
        raise ValueError(
            f"interaction: the site {site.name!r} belongs to another model; name it, or find it in this one."
        )
    elif site.channels is None:  # found before the first batch told
        site = own
    if site.family == "eca":
        if site.channels is None:
            raise ValueError(
                f"interaction: the module of the site {site.name!r} does not hold its number of channels. Run one "
                f"batch through the network under ecaviz.capture, then ask again."
            )
        matrix = _eca(site.kernel, site.channels, site.padding, site.name, int(site.bias))
        _check_closed_form(site, matrix.form.apply, "one convolution over the channels")
        return matrix
    if site.family in _OWN and site.per == "channel" and site.layout.excite is not None:
        if images is not None and site.family in _BOTTLENECKS:
            raise ValueError(
                f"interaction: no realised J for the family {site.family!r} of the site {site.name!r} yet; "
                f"images=None gives its structure."
            )
        return _of_own(site, site.name)
    if site.family != "se":
        raise not_covered(site.family, site.name)

    if site.hidden_activation != "ReLU":
        raise ValueError(
            f"interaction: the bottleneck of the site {site.name!r} has the hidden activation {site.hidden_activation};"
            f" the closed form W2·diag(active)·W1 covers ReLU, whose slope is 0 or 1."
        )
    w1, b1, w2, b2 = (None if w is None else _plain(w) for w in site.bottleneck)
    biases = sum(b.numel() for b in (b1, b2) if b is not None)
    b1 = w1.new_zeros(len(w1)) if b1 is None else b1
    _check_closed_form(
        site,
        lambda y: (y @ w1.T + b1).relu() @ w2.T,
        "W2·ReLU(W1·y + b1) + b2 (there may be a norm in between), so its ∂z/∂y is not W2·diag(active)·W1",
    )
    if images is None:
        return _se(w1, w2, site.name, biases)
    active, count = _active_share(model, site, w1, b1, images, batch_size)
    return _se(w1, w2, site.name, biases, active, count)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()  # the CPU first: some devices know no float64


def _eca(kernel: Tensor, channels: int, padding: str, site: str, biases: int) -> InteractionMatrix:
    return InteractionMatrix(
        family="eca",
        site=site,
        channels=channels,
        kind="exact",
        form=Band(_plain(kernel).clone(), channels, padding),
        pairs=structural_pairs("eca", channels, kernel_size=len(kernel), padding=padding),
        kernel_size=len(kernel),
        parameters=len(kernel) + biases,
        multiply_adds=multiply_adds("eca", channels, kernel_size=len(kernel)),
    )


def _se(
    w1: Tensor, w2: Tensor, site: str, biases: int, active: Tensor | None = None, images: int = 0
) -> InteractionMatrix:
    hidden, channels = w1.shape
    left, right = _plain(w2).clone(), _plain(w1).clone()
    return InteractionMatrix(
        family="se",
        site=site,
        channels=channels,
        kind="structure" if active is None else "realised",
        form=LowRank(left if active is None else left * active, right),
        pairs=channels**2,
        images=images,
        active=active,
        reduction=channels / hidden,
        hidden=hidden,
        parameters=w1.numel() + w2.numel() + biases,
        multiply_adds=w1.numel() + w2.numel(),
    )


def _of_own(site, name: str) -> InteractionMatrix:
    """J of one of our own modules, other than ECA and SE: its weights, or the product of its two layers."""
    C = site.channels
    cost = sum(p.numel() for p in site.module.parameters())
    common = {"family": site.family, "site": name, "channels": C, "parameters": cost}
    if site.family in _BOTTLENECKS:
        w1, _, w2, _ = (None if w is None else _plain(w) for w in site.bottleneck)
        runs = 2 if site.family == "cbam" else 1  # the mean and the maximum go through one bottleneck
        return InteractionMatrix(
            **common,
            kind="structure",
            form=LowRank(w2.clone(), w1.clone()),
            pairs=C * C,
            reduction=C / len(w1),
            hidden=len(w1),
            multiply_adds=2 * w1.numel() * runs,
        )
    weight = next(site.module.excite.parameters(), torch.zeros(()))
    with evaluating(site.module):
        form = Dense(_plain(site.excite(torch.eye(C, dtype=weight.dtype, device=weight.device))).T.contiguous())
    _check_closed_form(site, form.apply, "linear")
    pairs = {
        "se-var3": C * C,
        "se-gc": C * C // (site.groups or 1),
        "eca-ns": structural_pairs("eca", C, kernel_size=site.kernel_size) if site.kernel_size else 0,
    }.get(site.family, C)
    return InteractionMatrix(
        **common,
        kind="exact",
        form=form,
        pairs=pairs,
        kernel_size=site.kernel_size,
        groups=site.groups,
        multiply_adds=sum(p.numel() for p in site.module.excite.parameters()),
    )


def _check_closed_form(site, closed: Callable[[Tensor], Tensor], expected: str) -> None:
    """Run the excitation on a few random descriptors and compare with the closed form, up to a constant."""
    y = torch.randn(8, site.channels, generator=torch.Generator().manual_seed(0))
    y[0] = 0
    weight = next(site.module.parameters(), y)
    y = y.to(weight.dtype)
    with evaluating(site.module):
        found = _plain(site.excite(y.to(weight.device)))
    should = closed(y.double())
    error = float(((found - found[0]) - (should - should[0])).abs().max())
    scale = max(float(found.abs().max()), float(should.abs().max()))
    # Sums of at most C terms, rounded in the dtype of the weights; another form is off by about the scale.
    if not error <= min(16 * math.sqrt(site.channels) * torch.finfo(weight.dtype).eps, 0.1) * scale:
        raise ValueError(
            f"interaction: the excitation of the site {site.name!r} is not {expected}. On random descriptors it is off "
            f"by {error:.2g}, with logits up to {scale:.2g}."
        )


def _active_share(model, site, w1: Tensor, b1: Tensor, images, batch_size: int) -> tuple[Tensor, int]:
    """Share of the images on which each hidden unit of a ReLU bottleneck is active, and their number. Streamed.

    A site that is called several times in one forward counts every call.
    """
    net = model if isinstance(model, nn.Module) else model.net
    transform = None if isinstance(model, nn.Module) else model.transform
    active, calls, count = w1.new_zeros(len(w1)), 0, 0
    with evaluating(net), gates.capture(net, [site.name]) as captured:
        for x, _ in batches(images, transform, batch_size, next(net.parameters())):
            net(x)
            count += len(x)
            for record in captured.values():
                active += (_plain(record.descriptor) @ w1.T + b1 > 0).sum(dim=0)
                calls += len(record.descriptor)
            captured.clear()
    if not calls:
        raise ValueError(f"interaction: the network ran on {count} images without calling the site {site.name!r}.")
    return active / calls, count


# How much of J is there.


@dataclass(frozen=True, eq=False)
class Coverage:
    r"""How much of an interaction matrix is there. Pairs and rank are separate axes: no r equals some k.

    For a realised J every number is that of the mean map over images; the directness of a mean is not the mean of the
    directness.

    Attributes:
        matrix: The :class:`InteractionMatrix` it is of.
        pairs: Channel pairs, of C², that the form lets interact, whatever the weights are.
        structural: pairs/C², 0…1.
        rank: Numerical rank: singular values above σ_max·C·ε (float64). A zero-padded kernel that leans to one side can
            fall a little short of C: a few of its singular values are exponentially small in C.
        rank_share: rank/C, 0…1.
        effective_rank: exp(entropy of σ/Σσ), 1…rank; 0 for J = 0.
        participation: C numbers: exp(entropy of \|J_i·\|², normalised) of each gate, how many channels really move it,
            1…C; 0 for a gate that nothing moves.
        participation_median: Their median.
        directness: C numbers: J_ii²/Σ_j J_ij² of each gate, 0…1; NaN for a gate that nothing moves.
        directness_mean: Their mean, over the gates that something moves.
        energy_by_distance: C numbers: share of ‖J‖²_F at \|i−j\| = 0 … C−1; NaN for J = 0.
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
    energy_by_distance: Tensor
    parameters: int
    multiply_adds: int

    def band_energy(self, kernel_size: int) -> float:
        r"""Share of ‖J‖²_F within \|i−j\| ≤ (k−1)/2, 0…1, in the channel order as it is; NaN for J = 0.

        Raises:
            ValueError: ``kernel_size`` is even or not positive.
        """
        reach = (checks.kernel_size(kernel_size, "band_energy: kernel_size") - 1) // 2
        return float(self.energy_by_distance[: reach + 1].sum())

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
    if not isinstance(matrix, InteractionMatrix):
        raise TypeError(
            f"coverage: got a {type(matrix).__name__}; expected what interaction_matrix(model, site) or "
            f"module_interaction(module) returns."
        )
    C, form = matrix.channels, matrix.form
    sigma = matrix.singular_values
    largest = float(sigma.max()) if len(sigma) else 0.0
    rank = int((sigma > largest * C * torch.finfo(sigma.dtype).eps).sum())
    effective = float(torch.special.entr(sigma / sigma.sum()).sum().exp()) if largest > 0 else 0.0
    participation, directness = form.rows()
    energy = form.energy_by_distance()
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
        energy_by_distance=energy / energy.sum(),
        parameters=matrix.parameters,
        multiply_adds=matrix.multiply_adds,
    )
