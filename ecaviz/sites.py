"""The places where a network gates its channels: what is known of their modules, and how to find and pick them.

Known by their class (``rung="registry"``) are our own modules, those of timm and torchvision, and the official ECA's
and the usual SE's under their names: see :mod:`ecaviz.layouts`. Of any other, one batch tells: ``find_sites(model,
example=batch)`` runs it through the network and measures; see :mod:`ecaviz.foreign`.
"""

from __future__ import annotations

import fnmatch
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .attention import ChannelAttention
from .layouts import Layout, bottleneck_of, excite, forget, layout_of
from .wrappers import unwrapped

__all__ = [
    "ACTIVATIONS",
    "GateSite",
    "Proof",
    "Selection",
    "find_sites",
    "network",
    "pick_sites",
    "select_channel_sites",
    "select_sites",
    "site",
]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hardsigmoid": nn.functional.hardsigmoid,
}
"""The activations a that turn a logit into a gate, by name."""


def _activation_name(module: nn.Module) -> str:
    # By name: timm's Sigmoid is not a subclass of nn.Sigmoid.
    name = type(module).__name__.lower()
    return {"sigmoid": "sigmoid", "hardsigmoid": "hardsigmoid"}.get(name, name)


@dataclass(frozen=True)
class Proof:
    r"""How well a site's ω explains what its module did, on the first batch that went through it.

    Attributes:
        gate_error: max \\|ω − a(z)\\|, ω as the module itself computed it; 0 where it shows no ω (the rungs "last
            layer" and "least squares"), and the output is the proof.
        output_error: max \\|output − x·ω − β\\| / max \\|x\\|, β = 0 unless the site is one that adds.
        spread: max ω − min ω over that batch; a gate that does not vary proves little.
        tolerance: What either error may be at most.
        dtype: What the module computed in.
        added: max \\|β\\| / max \\|x\\|: what the module adds to x·ω, constant over the positions of a channel's map.
        residual: What least squares left when the module was found by them (:func:`ecaviz.foreign.discover`), as
            ``output_error``; None for a class of the registry.
    """

    gate_error: float
    output_error: float
    spread: float
    tolerance: float
    dtype: str
    added: float = 0.0
    residual: float | None = None

    @property
    def holds(self) -> bool:
        """Whether both errors are within the tolerance (NaN never is)."""
        return self.gate_error <= self.tolerance and self.output_error <= self.tolerance


@dataclass(frozen=True)
class _Seen:
    """What was learnt of an attention module when it ran."""

    proof: Proof
    channels: int
    used: bool  # by a capture; False: it was seen when it was found


_SEEN: weakref.WeakKeyDictionary[nn.Module, _Seen] = weakref.WeakKeyDictionary()


def remember(module: nn.Module, proof: Proof, channels: int, *, used: bool = True) -> None:
    """Keep what a site's first use showed, for as long as its module lives."""
    _SEEN[module] = _Seen(proof, channels, used)


def unlearn(module: nn.Module) -> None:
    """Drop what was worked out of a module that no registry knows, and its proof."""
    if forget(module):
        _SEEN.pop(module, None)


def unproven(module: nn.Module) -> bool:
    """Whether the next use of a site is its first, and has to prove it."""
    return module not in _SEEN or not _SEEN[module].used


@dataclass(frozen=True)
class GateSite:
    """One place in a network where channels are gated.

    Attributes:
        name: Module path in the network.
        family: "se", "eca", or another of :data:`ecaviz.attention.FAMILIES`; "se-gc" for all three SE-GC; "gc" for
            timm's GlobalContext; "foreign" where a gate was found and its excitation was not recognised.
        channels: C; None for a module that does not hold it (timm's ECA) until it has run or its neighbours tell.
        activation: Name of a, a key of :data:`ACTIVATIONS`.
        per: What one gate is for: "channel" (ω is N×C), "position" (CBAM's spatial stage, N×1×H×W, all channels alike)
            or "element" (Gather-Excite with an extent smaller than the map, N×C×h×w, each number for a patch of one
            channel's map).
        kernel_size: k of an ECA or ECA-NS, read from the weights; else None.
        padding: "zeros" or "circular" for an ECA; else None.
        hidden: Hidden units of an SE, of CBAM or GE-θ⁺, read from the weights; else None.
        reduction: C/hidden of these; else None.
        groups: G of an SE-GC; else None.
        reduced: c, the channels of which a GSoP takes the covariance; else None.
        extent: e of a Gather-Excite whose extent is smaller than the map; else None.
        bias: Whether the excitation has biases.
        rung: How the vectors are obtained: "registry", the class is known; "activation", z goes into a submodule that
            gives ω; "last layer", z is what a layer gives (the sum, where it is called repeatedly); "functional", z
            goes into a sigmoid that is no submodule; "least squares", ω is fitted to input and output, and z = logit(ω)
            is inferred. The last four are of :func:`ecaviz.foreign.discover`.
        added: Whether the module adds a β to x·ω, one number a channel.
        module: The attention module itself.
    """

    name: str
    family: str
    channels: int | None
    activation: str
    per: str = "channel"
    kernel_size: int | None = None
    padding: str | None = None
    hidden: int | None = None
    reduction: float | None = None
    groups: int | None = None
    reduced: int | None = None
    extent: int | None = None
    bias: bool = False
    rung: str = "registry"
    added: bool = False
    module: nn.Module = field(repr=False, compare=False, default=None)  # type: ignore[assignment]

    @property
    def proof(self) -> Proof | None:
        """The proof of the first use; None before."""
        seen = _SEEN.get(self.module)
        return None if seen is None else seen.proof

    @property
    def setting(self) -> str:
        """``k=3``, ``r=16``, ``G=16``, ``c=32`` or ``e=2``: the one number of the site, for labels."""
        numbers = {
            "k": self.kernel_size,
            "G": self.groups,
            "c": self.reduced,
            "e": self.extent,
            "r": None if self.per == "position" else self.reduction,
        }
        return next((f"{name}={number:g}" for name, number in numbers.items() if number is not None), "")

    def activate(self, logit: Tensor) -> Tensor:
        """ω = a(z), elementwise."""
        try:
            return ACTIVATIONS[self.activation](logit)
        except KeyError:
            raise ValueError(
                f"site {self.name}: no activation is called {self.activation!r}; known: {', '.join(ACTIVATIONS)}."
            ) from None

    def excite(self, descriptor: Tensor) -> Tensor:
        """The excitation alone, y → z, in the shapes that a record has them; differentiable.

        Descriptors are taken to the device and the dtype of the weights. A norm in it (GSoP, CBAM's spatial stage)
        works in the module's present mode; in training mode it counts the descriptors among its batches.
        """
        if not self.layout.known_excitation:
            raise ValueError(
                f"site {self.name}: what its {type(self.module).__name__} makes of the descriptor was not recognised "
                f"as layers (rung {self.rung!r}), so it cannot be run alone. Its gates can be captured."
            )
        return excite(self.module, self.layout, descriptor)

    @property
    def kernel(self) -> Tensor:
        """The k weights of an ECA, detached, in the order of the channels they look at.

        Raises:
            ValueError: The site is no ECA.
        """
        layout = self.layout
        if layout.conv is None:
            raise ValueError(f"site {self.name}: {self.family} has no kernel over channels; ECA sites have.")
        return self.module.get_submodule(layout.conv).weight.detach().flatten()

    @property
    def bottleneck(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """W1 (hidden×C), b1, W2 (C×hidden), b2 of an SE, CBAM or GE-θ⁺, detached; a bias that is not there is None.

        Raises:
            ValueError: The site has no bottleneck.
        """
        layout = self.layout
        layers = bottleneck_of(self.module, layout)
        if layers is None:
            raise ValueError(f"site {self.name}: {self.family} has no bottleneck; SE sites have.")
        first, last = layers
        b1, b2 = (None if part.bias is None else part.bias.detach() for part in (first, last))
        rows = slice(None) if layout.part is None else slice(*layout.part)
        return (
            first.weight.detach().flatten(1),
            b1,
            last.weight.detach().flatten(1)[rows],
            b2 if b2 is None else b2[rows],
        )

    @property
    def hidden_activation(self) -> str | None:
        """Class name of the activation between an SE's two layers, such as ReLU; None for an ECA."""
        act = self.hidden_module
        return None if act is None else type(act).__name__

    @property
    def hidden_module(self) -> nn.Module | None:
        """The activation between the two layers, as a module; None where the registry does not tell."""
        layout = self.layout
        if layout.relu:
            return nn.ReLU()
        return None if layout.act is None else self.module.get_submodule(layout.act)

    @property
    def layout(self) -> Layout:
        """Where the module keeps its parts."""
        layout = layout_of(self.module)
        if layout is None:
            raise TypeError(
                f"site {self.name}: {type(self.module).__qualname__} is not in the registry. Find it with "
                f"ecaviz.find_sites(model, example=batch)."
            )
        return layout


def network(model: Any, *, wrapped: bool = False) -> nn.Module:
    """The nn.Module in what the library's functions take: a loaded model or the module itself, out of its wrappers.

    Of DataParallel, DistributedDataParallel and what torch.compile returned it is the network inside, so that sites
    have the same names in all of them.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.
        wrapped: Whether it is wanted as it is, in its wrappers.

    Raises:
        TypeError: ``model`` is neither.
    """
    net = getattr(model, "net", model) if not isinstance(model, nn.Module) else model
    if not isinstance(net, nn.Module):
        raise TypeError(f"expected a model from ecaviz.load() or an nn.Module, got {type(model).__name__}.")
    return net if wrapped else unwrapped(net)


def make_site(name: str, module: nn.Module, layout: Layout, net: nn.Module) -> GateSite:
    """A site, with the numbers that the weights of its layers tell."""
    seen = _SEEN.get(module)
    common = {
        "name": name,
        "family": layout.family,
        "activation": layout.activation or _activation_name(module.get_submodule(layout.gate)),
        "rung": layout.rung,
        "added": layout.added,
        "module": module,
    }
    if layout.excite is not None:
        return _own_site(common, module, layout)
    if layout.conv is not None:
        conv = module.get_submodule(layout.conv)
        channels = module.channels if isinstance(module, ChannelAttention) else None
        if channels is None:
            channels = _width_before(net, name) if seen is None else seen.channels
        return GateSite(
            **common,
            channels=channels,
            kernel_size=conv.weight.shape[-1],
            padding=layout.padding or conv.padding_mode,
            bias=conv.bias is not None,
        )
    if layout.neighbours is not None:
        conv = module.get_submodule(layout.neighbours)
        return GateSite(
            **common, channels=len(conv.weight), kernel_size=conv.weight.shape[-1], bias=conv.bias is not None
        )
    if layout.fc1 is None:
        return GateSite(**common, channels=seen.channels if seen is not None else layout.channels)
    first = module.get_submodule(layout.fc1)
    hidden, channels = first.weight.shape[:2]
    common |= {"channels": channels, "bias": first.bias is not None}
    return GateSite(**common) if layout.fc2 is None else GateSite(**common, hidden=hidden, reduction=channels / hidden)


def _own_site(common: dict, module: nn.Module, layout: Layout) -> GateSite:
    """A site of one of our own modules, which say by themselves what they are."""
    common["family"] = module.family
    if layout.per == "position":
        seen = _SEEN.get(module)
        return GateSite(**common, channels=None if seen is None else seen.channels, per="position")
    extent = getattr(module, "extent", None)
    layers = bottleneck_of(module, layout)
    hidden = None if layers is None else len(layers[0].weight)
    return GateSite(
        **common,
        channels=module.channels,
        per="channel" if extent is None else "element",
        kernel_size=getattr(module, "kernel_size", None),
        hidden=hidden,
        reduction=None if hidden is None else module.channels / hidden,
        groups=getattr(module, "groups", None),
        reduced=getattr(module, "reduced", None),
        extent=extent,
        bias=any(name.endswith("bias") for name, _ in module.excite.named_parameters()),
    )


def _width_before(net: nn.Module, name: str) -> int | None:
    """Channels of the last convolution or norm its parent registers before the module: what feeds it in ResNets."""
    parent, _, own = name.rpartition(".")
    if not type(net.get_submodule(parent)).__module__.startswith("timm."):
        return None  # in timm's blocks the order of registration is the order of use; of others nothing is known
    before: list[nn.Module] = []
    for child_name, child in net.get_submodule(parent).named_children():
        if child_name == own:
            break
        before.append(child)
    for child in reversed(before):
        for part in reversed(list(child.modules())):
            width = getattr(part, "num_features", None) or getattr(part, "out_channels", None)
            if isinstance(width, int):
                return width
    return None


def find_sites(model: Any, example: Any = None) -> list[GateSite]:
    """List the gates of a model in the order of its modules; an empty list for a model without any.

    Without an example nothing is run: found are the modules that are known by their class, and those that an earlier
    call with an example found in this very model. With one, modules that nobody here knows are found by what they do.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.
        example: A few images (at least two) in any form that :func:`ecaviz.images.batches` takes; see
            :func:`ecaviz.foreign.discover`.

    Raises:
        TypeError: ``model`` is neither.
        ValueError: The example cannot be used.
    """
    net = network(model)
    if example is not None:
        from .foreign import discover

        return discover(model, example)
    found = []
    for name, module in net.named_modules():
        layout = layout_of(module)
        if layout is not None:
            found.append(make_site(name, module, layout, net))
    return found


Selection = str | GateSite | Sequence[str | GateSite] | Callable[[GateSite], bool] | None


def select_sites(model: Any, sites: Selection = None) -> list[GateSite]:
    """The sites of a model that a pattern picks, in the order of the model.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.
        sites: A glob or name such as ``"layer3.*"``, a list of names or globs, a callable of a site, or None for all.

    Raises:
        ValueError: The model has no gates, or a pattern matches none; the message lists what was looked at.
    """
    net = network(model)
    every = find_sites(net)
    if not every:
        kinds = Counter(type(module).__name__ for module in net.modules())
        looked_at = ", ".join(f"{kind} ×{count}" for kind, count in kinds.most_common(12))
        raise ValueError(
            f"{type(net).__name__} has no channel gates that ecaviz knows. Looked at {sum(kinds.values())} modules: "
            f"{looked_at}. Known are the SE and ECA modules of timm and torchvision, and all modules of ecaviz; "
            f"ecaviz.find_sites(model, example=batch) runs a few images through the network and finds others."
        )
    return pick_sites(every, sites)


def pick_sites(every: Sequence[GateSite], sites: Selection = None) -> list[GateSite]:
    """As :func:`select_sites`, from all the sites of a model, found before.

    Raises:
        ValueError: A pattern matches none.
    """
    if sites is None:
        return list(every)
    if callable(sites):
        chosen = [one for one in every if sites(one)]
        unmatched = [] if chosen else [getattr(sites, "__name__", repr(sites))]
    else:
        patterns = (
            [getattr(sites, "name", sites)]
            if isinstance(sites, str | GateSite)
            else [getattr(one, "name", one) for one in sites]
        )
        chosen = [one for one in every if any(fnmatch.fnmatchcase(one.name, pattern) for pattern in patterns)]
        unmatched = [p for p in patterns if not any(fnmatch.fnmatchcase(one.name, p) for one in every)]
        unmatched = unmatched if patterns else ["an empty list"]
    if unmatched:
        names = ", ".join(one.name for one in every)
        raise ValueError(f"no site matches {', '.join(map(repr, unmatched))}. The sites of this model: {names}.")
    return chosen


def select_channel_sites(model: Any, sites: Selection = None) -> list[GateSite]:
    """As :func:`select_sites`, of the sites that tell channels apart: None leaves gates of positions out.

    Raises:
        ValueError: As there; or a gate of positions was asked for by name.
    """
    if sites is None:
        chosen = [one for one in select_sites(model) if one.per != "position"]
        return chosen or select_sites(model, lambda one: one.per != "position")  # raises, and says what there is
    chosen = select_sites(model, sites)
    maps = [one.name for one in chosen if one.per == "position"]
    if maps and len(maps) == len(chosen):
        raise ValueError(
            f"{', '.join(maps)}: a gate of positions, the same for every channel, has no statistics by channel. "
            f"ecaviz.capture reads its map."
        )
    return [one for one in chosen if one.per != "position"]


def site(model: Any, name: str) -> GateSite:
    """The one site of that name.

    Raises:
        ValueError: There is none of that name, or the model has no gates.
    """
    chosen = select_sites(model, [name])
    if len(chosen) > 1:
        raise ValueError(f"{name!r} matches {len(chosen)} sites: {', '.join(one.name for one in chosen)}. Name one.")
    return chosen[0]
