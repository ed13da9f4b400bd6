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

from . import checks, gates
from .batches import batches
from .gates import evaluating
from .items import deaths_in_words
from .memory import memory_in_words

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

    The network is run once, then the attention module alone: one backward pass through it for each of its C gates, and
    for each patch of them where a channel has several (a progress bar appears where that takes long). Its own forward
    is called, so that hooks on it, such as those of a capture, are not.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.
        site: Name of the site, or the :class:`ecaviz.gates.GateSite` itself.
        images: Images in any form that :func:`ecaviz.images.batches` takes.
        at_most: How many of them to take, from the first on.
        batch_size: Images run at once.

    Returns:
        The :class:`Influence`. Of a site that is called several times in a forward, of its first call.

    Raises:
        ValueError: No site of that name, a gate of positions, or images that cannot be used.
    """
    at_most = checks.at_least_one(at_most, "influence: at_most")
    one = gates.site(model, getattr(site, "name", site))
    if one.per == "position":
        raise ValueError(
            f"influence: {one.name} gates positions, the same for every channel: no channel moves another."
        )
    net = model if isinstance(model, nn.Module) else model.net
    transform = None if isinstance(model, nn.Module) else model.transform
    like = next(net.parameters(), torch.zeros(()))
    with memory_in_words(
        f"influence: memory ran out at {one.name}. Fewer images (at_most), fewer at once (batch_size) or smaller ones "
        f"take less; or use the CPU (device, or --device cpu)."
    ):
        x = _inputs(net, one, batches(images, transform, min(batch_size, at_most), like), at_most)
        return Influence(one.family, one.name, x.shape[1], len(x), _mean_norms(one, x))


@deaths_in_words()
def _inputs(net: nn.Module, site: gates.GateSite, stream: Any, at_most: int) -> Tensor:
    """What goes into a site for the first images, N×C×H×W."""
    kept: list[Tensor] = []
    first = True

    def keep(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        nonlocal first
        if first:
            kept.append((args[0] if args else next(iter(kwargs.values()))).detach().clone())
        first = False

    hook = site.module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with evaluating(net):
            for x, _ in stream:
                first = True
                net(x)
                if sum(map(len, kept)) >= at_most:
                    break
    finally:
        hook.remove()
    if not kept:
        raise ValueError(f"influence: the network ran without calling the site {site.name!r}.")
    sizes = {tuple(one.shape[2:]) for one in kept}
    if len(sizes) > 1:
        raise ValueError(f"influence: images of one size were expected, got maps of {sorted(sizes)} at {site.name}.")
    return torch.cat(kept)[:at_most]


def _mean_norms(site: gates.GateSite, x: Tensor) -> Tensor:
    """C×C: the norm of ∂z_i/∂x_j, averaged over images. Images do not mix in eval mode, so a sum over them does."""
    from tqdm.auto import tqdm

    logits: list[Tensor] = []
    layout = site.layout
    if layout.source not in ("activation", "layer"):
        raise ValueError(
            f"influence: the logit of the site {site.name!r} passes no submodule (rung {site.rung!r}), so that it "
            f"cannot be differentiated. Its gates can be captured; use a module whose sigmoid is a submodule."
        )
    with torch.inference_mode(False), torch.enable_grad(), evaluating(site.module, gradients=True):
        x = x.detach().clone().requires_grad_()
        if layout.source == "activation":
            gate = site.module.get_submodule(layout.gate)
            hook = gate.register_forward_pre_hook(lambda _module, args: logits.append(args[0]))
        else:
            last = site.module.get_submodule(layout.last)
            hook = last.register_forward_hook(lambda _module, _args, output: logits.append(output))
        try:
            site.module.forward(x)
        finally:
            hook.remove()
        z = logits[layout.call or 0] if layout.source == "activation" else sum(logits)
        z = z.reshape(len(x), x.shape[1], -1)
        rows = []
        for i in tqdm(range(z.shape[1]), desc=f"influence at {site.name}", unit="gate", delay=2, leave=False):
            square = torch.zeros((), device=x.device)
            for patch in range(z.shape[2]):
                (slope,) = torch.autograd.grad(z[:, i, patch].sum(), x, retain_graph=True)
                wide = torch.promote_types(slope.dtype, torch.float32)  # squares of small halves would be 0
                square = square + slope.to(wide).square().sum(dim=(2, 3))
            rows.append(square.sqrt().mean(dim=0))
    return torch.stack(rows).cpu().double()
