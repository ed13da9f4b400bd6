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
  (:class:`LowRank`). CBAM has the same bottleneck behind two squeezes and so two maps, of the mean and of the maximum;
  GE-θ⁺ has one more ReLU in front. Single images are kept too (:mod:`ecaviz.realised`).
- Any other excitation: autograd, image by image.

GSoP and Gather-Excite with a smaller extent have no J, since their descriptor is not C numbers; see
:mod:`ecaviz.influences`.

k and r move different things. The pairs of channels that can interact are moved by k and not by r; the rank is moved by
r and hardly by k. :class:`Structure` says what a form allows from its shape alone; :func:`coverage` says what the
weights of a trained site make of it. Neither is to be read as the other.

Sources: ECA: Wang et al., CVPR 2020, Eq. 6 and 9. SE: Hu et al., CVPR 2018, Eq. 3. Effective rank: Roy & Vetterli,
EUSIPCO 2007.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from . import attention, gates
from .batches import batches
from .excitations import COVERED, Foreign, Plan, not_covered, plan_of, plan_of_site, widened
from .forms import Band, Dense, LowRank
from .gates import evaluating
from .items import deaths_in_words
from .matrices import InteractionMatrix
from .measures import Coverage, coverage
from .memory import memory_in_words
from .sites import network
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
    "excitation_interaction",
    "interaction_matrices",
    "interaction_matrix",
    "module_interaction",
    "multiply_adds",
    "parameters",
    "se_structure",
    "structural_pairs",
    "structure",
]


def module_interaction(module: nn.Module) -> InteractionMatrix:
    """J of one attention module of :mod:`ecaviz.attention` on its own.

    For a bottleneck (SE, CBAM, GE-θ⁺) it is the structure: every hidden unit active.

    Args:
        module: What :func:`ecaviz.attention.build` gives; of a CBAM its channel stage is taken.

    Raises:
        ValueError: A module without C descriptors (GSoP, Gather-Excite with an extent), or one of another library.
    """
    module = getattr(module, "channel", module)  # CBAM's first stage
    if isinstance(module, attention.ChannelAttention):
        (own,) = gates.find_sites(nn.Sequential(module)) or [None]
        if own is not None and own.family in COVERED and own.per == "channel":
            return replace(plan_of_site(own).structure(), site="")
    raise not_covered(getattr(module, "family", "") or type(module).__name__)


def excitation_interaction(
    excite: Callable[[Tensor], Tensor], descriptors: Tensor, name: str = ""
) -> InteractionMatrix:
    """J of an excitation that nobody here wrote, by autograd, image by image, and its mean.

    Args:
        excite: y → z, N×C → N×C, in evaluation mode: rows do not mix.
        descriptors: y of some images, N×C.
        name: What to call it.

    Returns:
        A realised J. ``pairs`` counts the entries that differ from zero on some image.

    Raises:
        ValueError: z has another shape than y, or does not depend on it.
    """
    module = excite if isinstance(excite, nn.Module) else None
    if module is not None:
        excite = module = widened(module)
    plan = Foreign(name, getattr(excite, "__name__", type(excite).__name__), excite, module, "")
    with nullcontext() if module is None else evaluating(module):
        plan.take(descriptors, torch.arange(len(descriptors)))
    return plan.realised(len(descriptors))


def interaction_matrix(
    model, site, images=None, *, squeeze: str | None = None, batch_size: int = 64
) -> InteractionMatrix:
    """J of one site of a model, in closed form where there is one.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.
        site: Name of the site, or the :class:`ecaviz.gates.GateSite` itself. The name of any other submodule stands for
            an excitation that nobody here wrote: what goes into it is y, what comes out z (of a Sequential that ends in
            a sigmoid, what goes into that), and J is taken by autograd, for which it needs images.
        images: For a bottleneck, the images over which J is realised, in any form that :func:`ecaviz.images.batches`
            takes; None for the structure. An ECA is the same for every image: its J is exact and no image is run.
        squeeze: Of CBAM, which of its two maps: "avg" (the default) or "max".
        batch_size: Images run at once.

    Returns:
        The :class:`InteractionMatrix`.

    Raises:
        ValueError: No site of that name; its family has no J; its excitation has no structure and no images were given;
            its C is not known yet; ``images`` are none or of the wrong kind.
    """
    site = _knowing_its_width(model, site, images)
    plan = plan_of(model, site)
    if squeeze is not None and plan.squeezes != ("avg", "max"):
        raise ValueError(f"interaction: squeeze={squeeze!r} is for CBAM, which has two; {plan.name} has one.")
    if squeeze not in (None, "avg", "max"):
        raise ValueError(f'interaction: squeeze must be "avg" or "max", got {squeeze!r}.')
    if images is None or plan.exact:
        return plan.structure()
    count = _run(model, [plan], images, batch_size)
    return plan.realised(count, squeeze or plan.squeezes[0])


def interaction_matrices(
    model, images=None, sites: gates.Selection = None, *, batch_size: int = 64
) -> dict[str, InteractionMatrix]:
    """J of several sites of a model, for which the network is run once.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.
        images: As for :func:`interaction_matrix`.
        sites: Which sites, as for :func:`ecaviz.capture`; of those picked, the ones without a J (GSoP, Gather-Excite
            with an extent, CBAM's spatial stage) are left out.
        batch_size: Images run at once.

    Returns:
        :class:`InteractionMatrix` by name of the site, in the order of the network; the two realised maps of a CBAM are
        ``name:avg`` and ``name:max``.

    Raises:
        ValueError: As for :func:`interaction_matrix`, or no site has a J.
    """
    chosen = gates.select_sites(model, sites)
    having = [one for one in chosen if one.family in COVERED and one.per == "channel"]
    plans = [plan_of(model, _knowing_its_width(model, one, images)) for one in having]
    if not plans:
        raise not_covered(", ".join(dict.fromkeys(one.family for one in chosen)))
    to_run = [] if images is None else [plan for plan in plans if not plan.exact]
    count = _run(model, to_run, images, batch_size) if to_run else 0
    found = {}
    for plan in plans:
        if plan not in to_run:
            found[plan.name] = plan.structure()
            continue
        for squeeze in plan.squeezes:
            found[f"{plan.name}:{squeeze}" if squeeze else plan.name] = plan.realised(count, squeeze)
    return found


def _knowing_its_width(model, site, images):
    """The site itself; one that does not hold its C (timm's ECA) after one image has told it."""
    one = next((one for one in gates.find_sites(model) if one.name == site), None) if isinstance(site, str) else site
    if one is None or one.channels is not None or images is None:
        return site
    net = network(model)
    transform = None if isinstance(model, nn.Module) else model.transform
    with evaluating(net), gates.capture(net, [one.name]):
        for x, _ in batches(images, transform, 1, next(net.parameters(), torch.zeros(()))):
            net(x)
            break
    return gates.site(model, one.name)


_MEMORY = (
    "interaction: memory ran out while the network ran over the images. Fewer images at once (batch_size), smaller "
    "images, or fewer sites (sites, or --sites) take less; or use the CPU (device, or --device cpu)."
)


def _run(model, plans: Sequence[Plan], images, batch_size: int) -> int:
    """Run the network over the images and hand every plan its descriptors; the number of images.

    A site that is called several times in one forward hands over every call.
    """
    net = network(model)
    transform = None if isinstance(model, nn.Module) else model.transform
    modules = {plan.name: plan.hooked for plan in plans if plan.hooked is not None}
    sites = [plan.name for plan in plans if plan.name not in modules]
    by_name = {plan.name: plan for plan in plans}
    count, called = 0, set()
    read: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_pre_hook(lambda _m, args, name=name: read.append((name, args[0].detach().clone())))
        for name, module in modules.items()
    ]
    try:
        reading = gates.capture(net, sites) if sites else nullcontext({})
        with evaluating(net), deaths_in_words(), reading as captured, memory_in_words(_MEMORY):
            like = next(net.parameters(), torch.zeros(()))
            for x, _ in batches(images, transform, batch_size, like):
                read.clear()
                net(x)
                parts = [(record.site.name, record.descriptor) for record in captured.values()] + read
                for name, y in parts:
                    by_name[name].take(y, count + _images_of(y, len(x), name))
                    called.add(name)
                count += len(x)
                if sites:
                    captured.clear()
    finally:
        for hook in hooks:
            hook.remove()
    for name in by_name.keys() - called:
        raise ValueError(f"interaction: the network ran on {count} images without calling the site {name!r}.")
    return count


def _images_of(y: Tensor, images: int, name: str) -> Tensor:
    """Number of the image in its batch of every descriptor: one an image, or several where frames were flattened."""
    if len(y) % images:
        raise ValueError(
            f"interaction: the site {name!r} saw {len(y)} descriptors of {images} images; as many for each image were "
            f"expected."
        )
    return torch.arange(images).repeat_interleave(len(y) // images)
