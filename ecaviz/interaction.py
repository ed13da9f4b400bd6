"""Which channel moves which gate: the interaction matrix J = ∂z/∂y, and how much of it is there.

J is taken of the excitation alone (descriptor y → logit z), so it is C×C: J_ij says how much the logit of channel i
changes when the descriptor of channel j does. It has a closed form, and it is kept in that form:

- ECA is a band: J_ij = w_(j−i+(k−1)/2), the same kernel of k weights along every row (:class:`Band`).
- SE is a product through the bottleneck. For one image J = W2·diag(a)·W1, with a = 1 for the hidden units that the ReLU
  lets through and 0 for the others. Without images the *structure* W2·W1 stands for it, every unit active; over a set
  of images the *realised* J is the mean, W2·diag(p)·W1, with p the share of images on which each unit is active
  (:class:`LowRank`).

k and r move different things. The pairs of channels that can interact are moved by k and not by r; the rank is moved by
r and hardly by k. :class:`Structure` says what a form allows from its shape alone; :func:`coverage` says what the
weights of a trained site make of it. Neither is to be read as the other.

Sources: ECA: Wang et al., CVPR 2020, Eq. 6 and 9. SE: Hu et al., CVPR 2018, Eq. 3. Effective rank: Roy & Vetterli,
EUSIPCO 2007.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from . import attention
from .attention import check_kernel_size

__all__ = [
    "COVERED",
    "Band",
    "Coverage",
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
]

COVERED: tuple[str, ...] = ("eca", "se")
"""Families whose interaction matrix this module knows in closed form."""

_ROWS = 256  # rows of J held at once where J is not formed
_BANDED_UP_TO = 21  # k up to which LAPACK's banded eigenvalues are quicker than dense singular values (C = 1024, 2048)


# What a form allows, from its shape alone: plain arithmetic, for sliders.


def structural_pairs(
    family: str,
    channels: int,
    *,
    kernel_size: int | None = None,
    reduction: int | None = None,
    padding: str = "zeros",
) -> int:
    """The number of channel pairs (i, j), of C², in which descriptor j can move logit i.

    ECA with zero padding: kC − (k²−1)/4 while (k−1)/2 ≤ C, and C² from there on. ECA with circular padding: kC, at most
    C². SE: C², whatever r is.

    Args:
        family: "eca" or "se".
        channels: C.
        kernel_size: k, for "eca".
        reduction: r, for "se".
        padding: "zeros" or "circular", for "eca".

    Raises:
        ValueError: Another family, an even k, an r that leaves no hidden unit, or a missing k or r.
    """
    size = _size(family, channels, kernel_size, reduction, padding)
    if family == "se":
        return channels * channels
    if padding == "circular":
        return min(size, channels) * channels
    reach = min((size - 1) // 2, channels)
    return (2 * reach + 1) * channels - reach * (reach + 1)


def parameters(
    family: str, channels: int, *, kernel_size: int | None = None, reduction: int | None = None, bias: bool = False
) -> int:
    """Number of parameters of one module. ECA: k. SE: 2·C·⌊C/r⌋, and ⌊C/r⌋ + C more with biases.

    Arguments and errors are those of :func:`structural_pairs`; ``bias`` is for "se".
    """
    size = _size(family, channels, kernel_size, reduction)
    if family == "eca":
        return size
    return 2 * channels * size + (size + channels if bias else 0)


def multiply_adds(family: str, channels: int, *, kernel_size: int | None = None, reduction: int | None = None) -> int:
    """Multiply-adds of one excitation for one image. ECA: k·C (padding counted). SE: 2·C·⌊C/r⌋.

    The squeeze and the rescaling are left out: they are the same for every family. Arguments and errors are those of
    :func:`structural_pairs`.
    """
    size = _size(family, channels, kernel_size, reduction)
    return size * channels if family == "eca" else 2 * size * channels


def _size(family: str, channels: int, kernel_size, reduction, padding: str = "zeros") -> int:
    """The k of an ECA, the hidden units of an SE; every check of a shape is here."""
    if isinstance(channels, bool) or int(channels) != channels or channels < 1:
        raise ValueError(f"interaction: channels must be a whole number of at least 1, got {channels!r}.")
    if family == "eca":
        if kernel_size is None:
            raise ValueError('interaction: "eca" needs kernel_size=, an odd number such as 3.')
        k = check_kernel_size(kernel_size, "interaction: kernel_size")
        _check_padding(padding, k, channels)
        return k
    if family == "se":
        if reduction is None:
            raise ValueError('interaction: "se" needs reduction=, a whole number such as 16.')
        if isinstance(reduction, bool) or int(reduction) != reduction or reduction < 1:
            raise ValueError(f"interaction: reduction must be a whole number of at least 1, got {reduction!r}.")
        if reduction > channels:
            raise ValueError(
                f"interaction: reduction r = {reduction} leaves no hidden unit for C = {channels} channels (C/r < 1). "
                f"Use r ≤ {channels}."
            )
        return channels // int(reduction)
    raise _not_covered(family)


def _check_padding(padding: str | None, kernel_size: int, channels: int) -> None:
    if padding not in ("zeros", "circular"):
        raise ValueError(f'interaction: padding must be "zeros" or "circular", got {padding!r}.')
    if padding == "circular" and (kernel_size - 1) // 2 > channels:
        raise ValueError(
            f"interaction: circular padding by {(kernel_size - 1) // 2} goes round C = {channels} channels more than "
            f"once (PyTorch refuses it too). Use k ≤ {2 * channels + 1}."
        )


def _not_covered(family: str, site: str = "") -> ValueError:
    where = f" of the site {site!r}" if site else ""
    return ValueError(
        f"interaction: no closed form for the family {family!r}{where}. Families covered: {', '.join(COVERED)}."
    )


@dataclass(frozen=True)
class Structure:
    """What an ECA or an SE of a given shape allows, before any weight is known.

    Attributes:
        family: "eca" or "se".
        channels: C.
        kernel_size: k, or None.
        padding: "zeros" or "circular"; None for SE.
        reduction: r, or None.
        hidden: Hidden units ⌊C/r⌋, or None.
        pairs: Channel pairs, of C², that can interact.
        rank: Rank of J for generic weights: C for ECA, min(C, ⌊C/r⌋) for SE.
        parameters: Parameters of the module.
        multiply_adds: Multiply-adds of the excitation, per image.
    """

    family: str
    channels: int
    kernel_size: int | None
    padding: str | None
    reduction: int | None
    hidden: int | None
    pairs: int
    rank: int
    parameters: int
    multiply_adds: int

    @property
    def structural(self) -> float:
        """Share of the C² pairs that can interact, 0…1."""
        return self.pairs / self.channels**2

    @property
    def rank_share(self) -> float:
        """rank/C, 0…1."""
        return self.rank / self.channels

    @property
    def partners(self) -> Tensor:
        """C whole numbers: how many channels each gate can listen to. They add up to ``pairs``."""
        i = torch.arange(self.channels)
        if self.family == "se":
            return torch.full_like(i, self.channels)
        if self.padding == "circular":
            return torch.full_like(i, min(self.kernel_size, self.channels))
        reach = (self.kernel_size - 1) // 2
        return (i + reach).clamp(max=self.channels - 1) - (i - reach).clamp(min=0) + 1

    @property
    def matrix(self) -> Tensor:
        """C×C, float32: 1 where descriptor j (column) can move logit i (row), else 0. Formed at each call."""
        if self.family == "se":
            return torch.ones(self.channels, self.channels)
        i = torch.arange(self.channels)
        distance = (i[:, None] - i).abs_()
        if self.padding == "circular":
            distance = torch.minimum(distance, self.channels - distance)
        return (distance <= (self.kernel_size - 1) // 2).float()


def eca_structure(channels: int, kernel_size: int | None = None, padding: str = "zeros") -> Structure:
    """What an ECA of C channels and kernel size k allows; k = None takes the adaptive rule.

    Raises:
        ValueError: An even or negative k, an unknown padding, C below 1.
    """
    if kernel_size is None:
        kernel_size = attention.adaptive_kernel_size(channels)
    k = _size("eca", channels, kernel_size, None, padding)
    return Structure(
        family="eca",
        channels=channels,
        kernel_size=k,
        padding=padding,
        reduction=None,
        hidden=None,
        pairs=structural_pairs("eca", channels, kernel_size=k, padding=padding),
        rank=channels,
        parameters=parameters("eca", channels, kernel_size=k),
        multiply_adds=multiply_adds("eca", channels, kernel_size=k),
    )


def se_structure(channels: int, reduction: int = 16, *, bias: bool = False) -> Structure:
    """What an SE of C channels and reduction r allows; ``bias`` adds to the parameters alone.

    Raises:
        ValueError: r below 1, or one that leaves no hidden unit.
    """
    hidden = _size("se", channels, None, reduction)
    return Structure(
        family="se",
        channels=channels,
        kernel_size=None,
        padding=None,
        reduction=int(reduction),
        hidden=hidden,
        pairs=structural_pairs("se", channels, reduction=reduction),
        rank=hidden,
        parameters=parameters("se", channels, reduction=reduction, bias=bias),
        multiply_adds=multiply_adds("se", channels, reduction=reduction),
    )


# The two forms J comes in. Each knows its dense matrix, its singular values, and what its rows and diagonals add up to.


@dataclass(frozen=True, eq=False)
class Band:
    """J of one kernel shared by all channels: J_ij = w_(j−i+(k−1)/2) within the band, else 0; circular: wrapped around.

    Attributes:
        kernel: The k weights, float64 on the CPU.
        channels: C.
        padding: "zeros" or "circular".
    """

    kernel: Tensor
    channels: int
    padding: str = "zeros"

    def __post_init__(self):
        if self.kernel.ndim != 1:
            raise ValueError(f"Band: the kernel must be a vector of k weights, got shape {tuple(self.kernel.shape)}.")
        check_kernel_size(len(self.kernel), "Band: the length of the kernel")
        _check_padding(self.padding, len(self.kernel), self.channels)

    @property
    def reach(self) -> int:
        """(k−1)/2: how many neighbours on either side."""
        return (len(self.kernel) - 1) // 2

    @cached_property
    def _wrapped(self) -> Tensor:
        """The first row of the circular J, C weights; taps that meet on one channel add up."""
        offset = torch.arange(-self.reach, self.reach + 1) % self.channels
        return self.kernel.new_zeros(self.channels).index_add_(0, offset, self.kernel)

    def dense(self) -> Tensor:
        """J, C×C float64."""
        i = torch.arange(self.channels)
        offset = i - i[:, None]
        if self.padding == "circular":
            return self._wrapped[offset % self.channels]
        tap = offset + self.reach
        inside = (tap >= 0) & (tap < len(self.kernel))
        return torch.where(inside, self.kernel[tap.clamp(0, len(self.kernel) - 1)], 0.0)

    def apply(self, y: Tensor) -> Tensor:
        """J·y for every row of descriptors, N×C → N×C, float64."""
        mode = "circular" if self.padding == "circular" else "constant"
        y = nn.functional.pad(y.double().unsqueeze(1), (self.reach, self.reach), mode=mode)
        return nn.functional.conv1d(y, self.kernel[None, None]).squeeze(1)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Participation and directness of every row, C and C numbers; see :class:`Coverage`."""
        if self.padding == "circular":
            square = self._wrapped.square()[None]
            partners, direct = _partners(square), _directness(square[:, 0], square)
            return partners.expand(self.channels), direct.expand(self.channels)
        at = torch.arange(self.channels)[:, None] + torch.arange(-self.reach, self.reach + 1)
        square = torch.where((at >= 0) & (at < self.channels), self.kernel.square(), 0.0)  # C×k
        return _partners(square), _directness(square[:, self.reach], square)

    def energy_by_distance(self) -> Tensor:
        """Σ of J_ij² over |i−j| = d, for d = 0 … C−1."""
        energy = self.kernel.new_zeros(self.channels)
        if self.padding == "circular":
            square, d = self._wrapped.square(), torch.arange(self.channels)
            energy += (self.channels - d) * square  # j − i = d
            return energy.index_add_(0, (self.channels - d) % self.channels, d * square)  # j − i = d − C
        for tap, weight in enumerate(self.kernel):
            d = abs(tap - self.reach)
            if d < self.channels:
                energy[d] += (self.channels - d) * weight.square()
        return energy

    def singular_values(self) -> Tensor:
        """The C singular values, largest first, float64."""
        if self.padding == "circular":  # a circulant matrix is diagonal in the Fourier basis
            return torch.fft.fft(self._wrapped).abs().sort(descending=True).values
        if len(self.kernel) > _BANDED_UP_TO:
            return torch.linalg.svdvals(self.dense())
        # ±σ are the eigenvalues of [[0, J], [Jᵀ, 0]]. With row i put at 2i and column j at 2j+1 that matrix is a band
        # too, of width k: |2i − (2j+1)| = |2(j−i) + 1| ≤ k.
        from scipy.linalg import eigvals_banded

        C, k = self.channels, len(self.kernel)
        band = torch.zeros(k + 1, 2 * C, dtype=torch.float64)
        for tap, weight in enumerate(self.kernel):
            offset = tap - self.reach
            if abs(offset) >= C:
                continue
            i = torch.arange(max(0, -offset), min(C, C - offset))
            row, column = 2 * i, 2 * (i + offset) + 1
            band[(row - column).abs(), torch.minimum(row, column)] = weight
        eigenvalues = torch.from_numpy(eigvals_banded(band.numpy(), lower=True))  # ascending, in pairs ±σ
        return eigenvalues[C:].flip(0).clamp(min=0)


@dataclass(frozen=True, eq=False)
class LowRank:
    """J through a bottleneck: left · right, kept as its factors; J itself is formed only by :meth:`dense`.

    Attributes:
        left: C×hidden, float64 on the CPU: W2, or W2·diag(p).
        right: hidden×C, float64 on the CPU: W1.
    """

    left: Tensor
    right: Tensor

    def __post_init__(self):
        if self.left.shape != self.right.T.shape:
            raise ValueError(
                f"LowRank: expected factors C×hidden and hidden×C, got {tuple(self.left.shape)} and "
                f"{tuple(self.right.shape)}."
            )

    def dense(self) -> Tensor:
        """J, C×C float64."""
        return self.left @ self.right

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, len(self.left), _ROWS):
            yield start, (self.left[start : start + _ROWS] @ self.right).square_()

    @cached_property
    def _sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """One pass over blocks of rows: participation, directness, energy by distance."""
        partners, direct = [], []
        energy = self.left.new_zeros(len(self.left))
        columns = torch.arange(self.right.shape[1])
        for start, square in self._blocks():
            rows = torch.arange(start, start + len(square))[:, None]
            partners.append(_partners(square))
            direct.append(_directness(square.diagonal(start), square))
            distance = (rows - columns).abs_().flatten()
            energy += torch.bincount(distance, weights=square.flatten(), minlength=len(energy))
        return torch.cat(partners), torch.cat(direct), energy

    def rows(self) -> tuple[Tensor, Tensor]:
        """Participation and directness of every row, C and C numbers; see :class:`Coverage`."""
        return self._sums[:2]

    def energy_by_distance(self) -> Tensor:
        """Σ of J_ij² over |i−j| = d, for d = 0 … C−1."""
        return self._sums[2]

    def singular_values(self) -> Tensor:
        """The min(C, hidden) singular values that can differ from zero, largest first, float64."""
        used = (self.left != 0).any(dim=0) & (self.right != 0).any(dim=1)
        left, right = self.left[:, used], self.right[used]
        if left.shape[1] == 0:
            return left.new_zeros(0)
        # QR of both factors leaves the singular values to a hidden×hidden matrix.
        left, right = torch.linalg.qr(left, mode="r").R, torch.linalg.qr(right.T, mode="r").R
        return torch.linalg.svdvals(left @ right.T)


def _partners(square: Tensor) -> Tensor:
    """exp(entropy) of every row of squares, normalised; 0 for a row of zeros. R×C → R."""
    total = square.sum(dim=1, keepdim=True)
    share = square / torch.where(total > 0, total, 1.0)
    return torch.where(total[:, 0] > 0, torch.special.entr(share).sum(dim=1).exp(), 0.0)


def _directness(diagonal: Tensor, square: Tensor) -> Tensor:
    """J_ii² / Σ_j J_ij² for every row; NaN for a row of zeros. R, R×C → R."""
    return diagonal / square.sum(dim=1)


# The matrix of a site.


@dataclass(frozen=True, eq=False)
class InteractionMatrix:
    """J = ∂z/∂y of one excitation.

    Attributes:
        family: "eca" or "se".
        site: Name of the site; empty for a module on its own.
        channels: C.
        kind: "exact": J is the same for every image (ECA). "structure": SE with every hidden unit active. "realised":
            SE, mean over ``images`` images.
        form: J itself, as a :class:`Band` or a :class:`LowRank`.
        images: Number of images behind a realised J, else 0.
        active: For a realised J, the share p of images on which each hidden unit is active: hidden numbers in 0…1.
        kernel_size: k, or None.
        reduction: C/hidden, read from the weights, or None.
        hidden: Hidden units, or None.
        parameters: Parameters of the excitation.
        multiply_adds: Multiply-adds of the excitation, per image.
    """

    family: str
    site: str
    channels: int
    kind: str
    form: Band | LowRank
    images: int = 0
    active: Tensor | None = None
    kernel_size: int | None = None
    reduction: float | None = None
    hidden: int | None = None
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
        size = f"k={self.kernel_size}" if self.family == "eca" else f"r={self.reduction:g}, hidden={self.hidden}"
        over = f" over {self.images} images" if self.images else ""
        name = f"{self.site!r}, " if self.site else ""
        return f"InteractionMatrix({name}{self.family}, C={self.channels}, {size}, {self.kind}{over})"


def module_interaction(module: nn.Module) -> InteractionMatrix:
    """J of one attention module on its own, :class:`ecaviz.attention.ECA` or :class:`ecaviz.attention.SE`.

    For an SE it is the structure: every hidden unit active.

    Raises:
        ValueError: Another module.
    """
    if isinstance(module, attention.ECA):
        return _eca(module.excite.conv.weight.flatten(), module.channels, module.excite.conv.padding_mode, "", 0)
    if isinstance(module, attention.SE):
        first, second = module.excite.fc1, module.excite.fc2
        biases = sum(layer.bias.numel() for layer in (first, second) if layer.bias is not None)
        return _se(first.weight, second.weight, "", biases)
    raise _not_covered(getattr(module, "family", "") or type(module).__name__)


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
    from . import gates

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
    if site.family != "se":
        raise _not_covered(site.family, site.name)

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
        images=images,
        active=active,
        reduction=channels / hidden,
        hidden=hidden,
        parameters=w1.numel() + w2.numel() + biases,
        multiply_adds=w1.numel() + w2.numel(),
    )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the ``with``; afterwards every training flag is as it was."""
    flags = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in flags:
            part.training = training


def _check_closed_form(site, closed: Callable[[Tensor], Tensor], expected: str) -> None:
    """Run the excitation on a few random descriptors and compare with the closed form, up to a constant."""
    y = torch.randn(8, site.channels, generator=torch.Generator().manual_seed(0))
    y[0] = 0
    weight = next(site.module.parameters())
    y = y.to(weight.dtype)
    with torch.no_grad(), _evaluating(site.module):
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
    from . import gates
    from .images import batches

    net = model if isinstance(model, nn.Module) else model.net
    transform = None if isinstance(model, nn.Module) else model.transform
    active, calls, count = w1.new_zeros(len(w1)), 0, 0
    with torch.no_grad(), _evaluating(net), gates.capture(net, [site.name]) as captured:
        for x, _ in batches(images, transform, batch_size, next(net.parameters()).device):
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
        parameters: Parameters of the excitation.
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
        reach = (check_kernel_size(kernel_size, "band_energy: kernel_size") - 1) // 2
        return float(self.energy_by_distance[: reach + 1].sum())

    def __repr__(self) -> str:
        return (
            f"Coverage({self.matrix!r}: pairs {self.structural:.2%}, rank {self.rank} ({self.rank_share:.0%} of C), "
            f"effective rank {self.effective_rank:.1f}, partners {self.participation_median:.1f} (median), "
            f"directness {self.directness_mean:.2f} (mean), {self.parameters} parameters)"
        )


def coverage(matrix: InteractionMatrix) -> Coverage:
    """How much of J is there; see :class:`Coverage`. J is never held whole, so that C = 2048 takes about a second.

    Raises:
        TypeError: ``matrix`` is no :class:`InteractionMatrix`.
    """
    if not isinstance(matrix, InteractionMatrix):
        raise TypeError(
            f"coverage: got a {type(matrix).__name__}; expected what interaction_matrix(model, site) or "
            f"module_interaction(module) returns."
        )
    C, form = matrix.channels, matrix.form
    pairs = C * C
    if isinstance(form, Band):
        pairs = structural_pairs("eca", C, kernel_size=len(form.kernel), padding=form.padding)
    sigma = matrix.singular_values
    largest = float(sigma.max()) if len(sigma) else 0.0
    rank = int((sigma > largest * C * torch.finfo(sigma.dtype).eps).sum())
    effective = float(torch.special.entr(sigma / sigma.sum()).sum().exp()) if largest > 0 else 0.0
    participation, directness = form.rows()
    energy = form.energy_by_distance()
    return Coverage(
        matrix=matrix,
        pairs=pairs,
        structural=pairs / C**2,
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
