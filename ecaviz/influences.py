"""Which channel's feature map moves which gate, measured the same way for every module of the family.

    I_ij = ‖∂z_i/∂x_j‖₂

over the positions of map x_j (and the patches of z_i, where a channel has several), averaged over images. It is
unsigned, and it is there also where :func:`ecaviz.interaction_matrix` is not: GSoP's descriptor is a covariance and
that of Gather-Excite with an extent a map, not C numbers. Rank and directness are undefined for it. For a module that
squeezes by the mean over M positions, I = |J|/√M image by image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import gates
from .batches import batches
from .gates import evaluating

__all__ = ["Influence", "influence", "module_influence"]


@dataclass(frozen=True, eq=False)
class Influence:
    """What :func:`influence` measured.

    Attributes:
        family: Family of the site.
        site: Name of the site; empty for a module on its own.
        channels: C.
        images: Number of images that the mean is over.
        matrix: I, C×C float64 on the CPU, 0 and above: row i is the gate that is moved, column j the map that moves it.
    """

    family: str
    site: str
    channels: int
    images: int
    matrix: Tensor

    @property
    def pairs(self) -> int:
        """Channel pairs, of C², with an influence above 10⁻⁶ of the largest."""
        return int((self.matrix > 1e-6 * self.matrix.max()).sum())

    @property
    def participation(self) -> Tensor:
        """C numbers: exp(entropy of I_i·², normalised): how many maps really move each gate; 0 if none does."""
        square = self.matrix.square()
        total = square.sum(dim=1, keepdim=True)
        share = square / torch.where(total > 0, total, 1.0)
        return torch.where(total[:, 0] > 0, torch.special.entr(share).sum(dim=1).exp(), 0.0)

    def __repr__(self) -> str:
        name = f"{self.site!r}, " if self.site else ""
        return f"Influence({name}{self.family}, C={self.channels}, mean over {self.images} images, {self.pairs} pairs)"


def module_influence(module: nn.Module, x: Tensor) -> Influence:
    """The influence in one attention module on its own.

    Args:
        module: A module that :func:`ecaviz.find_sites` knows; of a CBAM its channel stage is taken.
        x: Feature maps, N×C×H×W.

    Raises:
        ValueError: The module is none that is known, or gates positions.
    """
    found = [one for one in gates.find_sites(nn.Sequential(module)) if one.per != "position"]
    if len(found) != 1:
        raise ValueError(
            f"influence: one gate of channels was expected in the {type(module).__name__}, found {len(found)}."
        )
    return Influence(found[0].family, "", x.shape[1], len(x), _mean_norms(found[0], x))


def influence(model: Any, site: Any, images: Any, *, at_most: int = 8, batch_size: int = 64) -> Influence:
    """The influence at one site of a model, over a few images.

    One backward pass through the attention module for each of its C gates (and each patch of them), the network around
    it is run once.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.
        site: Name of the site, or the :class:`ecaviz.gates.GateSite` itself.
        images: Images in any form that :func:`ecaviz.images.batches` takes.
        at_most: How many of them to take, from the first on.
        batch_size: Images run at once.

    Returns:
        The :class:`Influence`.

    Raises:
        ValueError: No site of that name, a gate of positions, or images that cannot be used.
    """
    one = gates.site(model, getattr(site, "name", site))
    if one.per == "position":
        raise ValueError(
            f"influence: {one.name} gates positions, the same for every channel: no channel moves another."
        )
    net = model if isinstance(model, nn.Module) else model.net
    transform = None if isinstance(model, nn.Module) else model.transform
    kept: list[Tensor] = []
    hook = one.module.register_forward_pre_hook(lambda _module, args: kept.append(args[0].detach().clone()))
    try:
        with evaluating(net):
            for x, _ in batches(images, transform, min(batch_size, at_most), next(net.parameters())):
                net(x)
                if sum(map(len, kept)) >= at_most:
                    break
    finally:
        hook.remove()
    if not kept:
        raise ValueError(f"influence: the network ran without calling the site {one.name!r}.")
    x = torch.cat(kept)[:at_most]
    with evaluating(net):
        return Influence(one.family, one.name, x.shape[1], len(x), _mean_norms(one, x))


def _mean_norms(site: gates.GateSite, x: Tensor) -> Tensor:
    """C×C: the norm of ∂z_i/∂x_j, averaged over images. Images do not mix in eval mode, so a sum over them does."""
    logits: list[Tensor] = []
    gate = site.module.get_submodule(site.layout.gate)
    hook = gate.register_forward_pre_hook(lambda _module, args: logits.append(args[0]))
    try:
        with evaluating(site.module), torch.enable_grad():
            x = x.detach().requires_grad_()
            site.module(x)
            z = logits[0].reshape(len(x), x.shape[1], -1)
            rows = []
            for i in range(z.shape[1]):
                square = 0
                for patch in range(z.shape[2]):
                    (slope,) = torch.autograd.grad(z[:, i, patch].sum(), x, retain_graph=True)
                    square = square + slope.square().sum(dim=(2, 3))
                rows.append(square.sqrt().mean(dim=0))
    finally:
        hook.remove()
    return torch.stack(rows).cpu().double()
