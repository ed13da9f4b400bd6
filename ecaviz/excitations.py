"""How the J of a site comes about: what its weights say, what images add to that, and what is left to autograd.

Each site gets a :class:`Plan`: :class:`Exact` where the excitation is linear, :class:`Hidden` where it is a bottleneck
with an elementwise activation, :class:`Foreign` where nothing is known but what autograd says. A closed form is
compared with the module itself on random descriptors before it is believed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from . import gates
from .forms import Band, Dense, LowRank
from .gates import evaluating
from .matrices import InteractionMatrix
from .realised import Bottleneck, MatricesByImage, SlopesByImage, check_descriptors, jacobians
from .sites import network
from .structure import multiply_adds, structural_pairs

__all__ = ["COVERED", "Exact", "Foreign", "Hidden", "Plan", "not_covered", "plan_of", "plan_of_site"]

LINEAR = ("eca", "se-var1", "se-var2", "se-var3", "se-gc", "eca-ns", "ge-theta-minus", "ge-theta")
BOTTLENECKS = ("se", "cbam", "ge-theta-plus")
COVERED: tuple[str, ...] = ("eca", "se", *LINEAR[1:], *BOTTLENECKS[1:])
"""Families whose interaction matrix has a closed form here."""


def not_finite(site: str) -> ValueError:
    """The error for weights that are no numbers."""
    return ValueError(
        f"interaction: the weights of {site!r} hold NaN or infinite values, so there is no J; did training diverge?"
    )


def not_covered(family: str, site: str = "") -> ValueError:
    """The error for a family without a closed form here."""
    where = f" of the site {site!r}" if site else ""
    return ValueError(
        f"interaction: no closed form for the family {family!r}{where}. Families covered: {', '.join(COVERED)}. "
        f"ecaviz.influence measures any module that has a squeeze and an excitation."
    )


class Plan:
    """How J of one site comes about: what its weights say, and what images add to that.

    Attributes:
        name: Name of the site.
        exact: Whether J is the same for every image.
        squeezes: The names of its squeezes.
        hooked: The module whose input is y, where capture does not read it.
    """

    exact = False
    squeezes: tuple[str, ...] = ("",)
    hooked: nn.Module | None = None

    def __init__(self, name: str):
        self.name = name

    def structure(self) -> InteractionMatrix:
        """J without images."""
        raise NotImplementedError

    def take(self, y: Tensor, image_of: Tensor) -> None:
        """Take in descriptors; ``image_of`` says of which images they are."""
        raise NotImplementedError

    def realised(self, images: int, squeeze: str = "") -> InteractionMatrix:
        """J over the images that were taken in."""
        raise NotImplementedError


class Exact(Plan):
    """An excitation that is linear."""

    exact = True

    def __init__(self, site: gates.GateSite):
        super().__init__(site.name)
        self.site = site

    def structure(self) -> InteractionMatrix:
        """J, the same for every image."""
        site = self.site
        if site.family != "eca":
            return _linear(site)
        if site.channels is None:
            raise ValueError(
                f"interaction: the module of the site {site.name!r} does not hold its number of channels. Run one "
                f"batch through the network under ecaviz.capture, then ask again."
            )
        k = site.kernel_size
        matrix = InteractionMatrix(
            family="eca",
            site=site.name,
            channels=site.channels,
            kind="exact",
            form=Band(_plain(site.kernel), site.channels, site.padding),
            pairs=structural_pairs("eca", site.channels, kernel_size=k, padding=site.padding),
            kernel_size=k,
            parameters=k + int(site.bias),
            multiply_adds=multiply_adds("eca", site.channels, kernel_size=k),
        )
        _check_linear(site, matrix.form, "one convolution over the channels")
        return matrix


class Hidden(Plan):
    """A bottleneck."""

    def __init__(self, site: gates.GateSite, bottleneck: Bottleneck):
        super().__init__(site.name)
        self.site, self.bottleneck = site, bottleneck
        self.squeezes = ("avg", "max") if site.family == "cbam" else ("",)
        self._slopes: dict[str, list[tuple[Tensor, Tensor | None]]] = {one: [] for one in self.squeezes}
        self._image_of: list[Tensor] = []

    def structure(self) -> InteractionMatrix:
        """W2·W1."""
        if not self.bottleneck.steps:
            raise ValueError(
                f"interaction: the bottleneck of the site {self.name!r} has the hidden activation "
                f"{self.bottleneck.activation}, whose slope is not 0 or 1: there is no structure with every unit "
                f"active. Pass images= for the realised J."
            )
        return self._made("structure", self.bottleneck.structure())

    def take(self, y: Tensor, image_of: Tensor) -> None:
        """Take in the slopes of the hidden units."""
        for i, squeeze in enumerate(self.squeezes):
            self._slopes[squeeze].append(self.bottleneck.slopes(y[:, i] if len(self.squeezes) > 1 else y))
        self._image_of.append(image_of)

    def realised(self, images: int, squeeze: str = "") -> InteractionMatrix:
        """W2·diag(p)·W1, for one of the squeezes."""
        slopes, opens = zip(*self._slopes[squeeze], strict=True)
        realisation = SlopesByImage(
            self.bottleneck.structure(),
            torch.cat(slopes),
            None if opens[0] is None else torch.cat(opens),
            torch.cat(self._image_of),
        )
        return self._made("realised", realisation.mean(), realisation=realisation, images=images, squeeze=squeeze)

    def _made(self, kind: str, form: LowRank, **more) -> InteractionMatrix:
        site, part = self.site, self.bottleneck
        hidden, channels = part.w1.shape
        if site.family == "se":
            cost = 2 * part.w1.numel() + part.biases
        else:
            cost = sum(p.numel() for p in site.module.parameters())
        return InteractionMatrix(
            family=site.family,
            site=site.name,
            channels=channels,
            kind=kind,
            form=form,
            pairs=channels**2,
            reduction=channels / hidden,
            hidden=hidden,
            parameters=cost,
            multiply_adds=2 * part.w1.numel() * len(self.squeezes),  # CBAM's bottleneck is run twice
            **more,
        )


class Foreign(Plan):
    """An excitation of which nothing is known but what autograd says."""

    most = 2**26
    """The most numbers of N·C² that are kept, 512 MiB."""

    def __init__(self, name: str, family: str, excite: Callable[[Tensor], Tensor], module: nn.Module | None, why: str):
        super().__init__(name)
        self.family, self.excite, self.why = family, excite, why
        parts = [] if module is None else list(module.parameters())
        self.parameters = sum(part.numel() for part in parts)
        self.like = next(iter(parts), None)
        self._matrices: list[Tensor] = []
        self._image_of: list[Tensor] = []

    def structure(self) -> InteractionMatrix:
        """There is none: raise a ValueError that says why."""
        raise ValueError(f"interaction: {self.why} Pass images= to interaction_matrix for the realised J, by autograd.")

    def take(self, y: Tensor, image_of: Tensor) -> None:
        """Take J of each row by autograd."""
        check_descriptors(y, f"what goes into {self.name or 'the excitation'!r}")
        size = (sum(map(len, self._matrices)) + len(y)) * y.shape[1] ** 2
        if size > self.most:
            raise ValueError(
                f"interaction: J of {self.name!r} is taken by autograd and kept image by image; {size:,} numbers are "
                f"more than the {self.most:,} that fit. Pass at most {self.most // y.shape[1] ** 2} images."
            )
        y = y if self.like is None else y.to(self.like)
        self.epsilon = torch.finfo(y.dtype).eps
        self._matrices.append(jacobians(self.excite, y))
        self._image_of.append(image_of)

    def realised(self, images: int, squeeze: str = "") -> InteractionMatrix:
        """The mean of the matrices."""
        realisation = MatricesByImage(torch.cat(self._matrices), torch.cat(self._image_of), self.epsilon)
        return InteractionMatrix(
            family=self.family,
            site=self.name,
            channels=realisation.matrices.shape[1],
            kind="realised",
            form=realisation.mean(),
            pairs=int((realisation.matrices != 0).any(dim=0).sum()),
            images=images,
            realisation=realisation,
            parameters=self.parameters,
            multiply_adds=None,
        )


def plan_of(model, site) -> Plan:
    """The plan for a site, by name or itself, or for any submodule.

    Raises:
        ValueError: There is none of that name, or it belongs to another model; or as for :func:`plan_of_site`.
    """
    net = network(model)
    if isinstance(site, str):
        known = {one.name: one for one in gates.find_sites(net)}
        if site in known:
            return plan_of_site(known[site])
        modules = dict(net.named_modules())
        if site and site in modules:
            return _submodule(site, modules[site])
        gates.site(model, site)  # says what there is
    own = gates.site(model, site.name)
    if site.module is not own.module:
        raise ValueError(
            f"interaction: the site {site.name!r} belongs to another model; name it, or find it in this one."
        )
    return plan_of_site(own if site.channels is None else site)  # found before the first batch told


def widened(module: nn.Module) -> nn.Module:
    """The module, or a copy in float32 of one in half precision: its J would be too coarse to have a rank."""
    half = any(part.dtype in (torch.float16, torch.bfloat16) for part in module.parameters())
    return copy.deepcopy(module).float() if half else module


def _check_finite(name: str, module: nn.Module) -> None:
    def finite(part: Tensor) -> bool:  # one pass over the sum; its parts only where the sum itself may have overflowed
        return bool(part.detach().sum().isfinite()) or bool(part.isfinite().all())

    if not all(map(finite, module.parameters())):
        raise not_finite(name)


def _submodule(name: str, module: nn.Module) -> Plan:
    """A submodule that is an excitation; of a Sequential what comes before a sigmoid at its end."""
    _check_finite(name, module)
    excite = widened(module)
    if isinstance(module, nn.Sequential) and len(module) > 1 and type(module[-1]).__name__.lower() in gates.ACTIVATIONS:
        excite = excite[:-1]
    why = f"{name!r} ({type(module).__name__}) is no gate that is known here, so it has no structure."
    plan = Foreign(name, type(module).__name__, excite, excite if excite is not module else module, why)
    plan.parameters = sum(part.numel() for part in module.parameters())
    plan.hooked = module
    return plan


def plan_of_site(site: gates.GateSite) -> Plan:
    """The plan for a site that is known.

    Raises:
        ValueError: Its family has no J, or it is one of ours and was changed.
    """
    if site.family not in COVERED or site.per != "channel":
        raise not_covered(site.family, site.name)
    _check_finite(site.name or site.family, site.module)
    if site.family not in BOTTLENECKS:
        return Exact(site)
    bottleneck = _bottleneck(site)
    if not bottleneck.elementwise():
        why = f"the hidden activation {bottleneck.activation} of the site {site.name!r} mixes the units."
        return _by_autograd(site, why)
    error, scale, tolerance = _off(site, bottleneck)
    if not error <= tolerance:
        why = (
            f"the excitation of the site {site.name!r} is not W2·{bottleneck.activation}(W1·y + b1) + b2 (there may be "
            f"a norm in between): off by {error:.2g} on random descriptors, with logits up to {scale:.2g}. So there is "
            f"no structure W2·W1."
        )
        return _by_autograd(site, why)
    return Hidden(site, bottleneck)


def _by_autograd(site: gates.GateSite, why: str) -> Plan:
    site = replace(site, module=widened(site.module))
    return Foreign(site.name, site.family, site.excite, site.module, why)


def _bottleneck(site: gates.GateSite) -> Bottleneck:
    weights = [None if w is None else _plain(w) for w in site.bottleneck]
    if site.layout.fc2 is not None:
        return Bottleneck(*weights, site.hidden_module or nn.Identity())
    excite = site.module.excite
    if site.family == "ge-theta-plus":
        return Bottleneck(*weights, excite[2], rectified=True)
    return Bottleneck(*weights, excite.relu)


def _plain(tensor: Tensor) -> Tensor:
    """A copy in float64 on the CPU."""
    tensor = tensor.detach().cpu()  # the CPU first: some devices know no float64
    return tensor.to(torch.float64, copy=True)


def _linear(site: gates.GateSite) -> InteractionMatrix:
    """J of an excitation that is linear up to a constant, other than ECA: its weights."""
    C = site.channels
    if C is None:
        raise ValueError(
            f"interaction: how many channels the site {site.name!r} has is not known before it has run. Capture one "
            f"batch first."
        )
    layers = getattr(site.module, "excite", site.module)
    weight = next(layers.parameters(), torch.zeros(()))
    with evaluating(site.module):
        units = _plain(site.excite(torch.eye(C, dtype=weight.dtype, device=weight.device)))
        level = _plain(site.excite(torch.zeros(1, C, dtype=weight.dtype, device=weight.device)))
    form = Dense((units - level).T.contiguous())
    _check_linear(site, form, "linear")
    pairs = {
        "se-var3": C * C,
        "se-gc": C * C // (site.groups or 1),
        "eca-ns": structural_pairs("eca", C, kernel_size=site.kernel_size) if site.kernel_size else 0,
    }.get(site.family, C)
    return InteractionMatrix(
        family=site.family,
        site=site.name,
        channels=C,
        kind="exact",
        form=form,
        pairs=pairs,
        kernel_size=site.kernel_size,
        groups=site.groups,
        parameters=sum(p.numel() for p in site.module.parameters()),
        multiply_adds=sum(p.numel() for name, p in layers.named_parameters() if not name.endswith("bias")),
    )


def _off(site: gates.GateSite, closed: Callable[[Tensor], Tensor]) -> tuple[float, float, float]:
    """How far a closed form is off on three random descriptors, up to a constant; the largest logit; the tolerance."""
    y = torch.randn(2, site.channels, generator=torch.Generator().manual_seed(0))
    y = torch.cat([y, -y[:1]])  # a unit without a bias that a ReLU shuts for y is open for −y
    weight = next(site.module.parameters(), y)
    y = y.to(weight.dtype)
    own = torch.stack([y, 0 * y], dim=1) if site.family == "cbam" else y  # two squeezes; the other adds a constant
    with evaluating(site.module):
        found = _plain(site.excite(own.to(weight.device)))
    should = closed(y.double())
    error = float(((found - found[0]) - (should - should[0])).abs().max())
    scale = max(float(found.abs().max()), float(should.abs().max()))
    # Sums of at most C terms, rounded in the dtype of the weights; another form is off by about the scale.
    return error, scale, min(16 * math.sqrt(site.channels) * torch.finfo(weight.dtype).eps, 0.1) * scale


def _check_linear(site: gates.GateSite, form: Band | Dense, expected: str) -> None:
    """Raise a ValueError where the excitation of a site is not the linear map that its weights say."""
    error, scale, tolerance = _off(site, form.apply)
    if not error <= tolerance:
        raise ValueError(
            f"interaction: the excitation of the site {site.name!r} is not {expected}. On random descriptors it is off "
            f"by {error:.2g}, with logits up to {scale:.2g}."
        )
