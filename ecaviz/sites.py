"""The places where a network gates its channels: what is known of their modules, and how to find and pick them.

What is known here are our own modules and timm's and torchvision's SE and ECA, by class: that is rung one of the
ladder, ``rung="registry"``.
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

from .attention import Bottleneck, ChannelAttention
from .gather_excite import GatherExcite

__all__ = [
    "ACTIVATIONS",
    "GateSite",
    "Proof",
    "Selection",
    "find_sites",
    "network",
    "select_channel_sites",
    "select_sites",
    "site",
]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hardsigmoid": nn.functional.hardsigmoid,
}
"""The activations a that turn a logit into a gate, by name."""

# --------------------------------------------------------------------------------------------- what a module looks like


@dataclass(frozen=True)
class Layout:
    """Where a class of attention modules keeps its parts; paths are relative to the module.

    ``descriptor`` is read at the output (``squeeze``) or the input (any other) of the submodule named first.
    """

    family: str
    gate: str
    descriptor: tuple[str, str]
    conv: str | None = None
    fc1: str | None = None
    norm: str | None = None
    act: str | None = None
    fc2: str | None = None
    padding: str | None = None
    excite: str | None = None
    per: str = "channel"


_BOTTLENECK = {"family": "se", "fc1": "fc1", "fc2": "fc2", "descriptor": ("fc1", "input")}

_REGISTRY: dict[str, Layout] = {
    "ecaviz.attention.SE": Layout(
        "se", "activation", ("squeeze", "output"), fc1="excite.fc1", act="excite.relu", fc2="excite.fc2"
    ),
    "ecaviz.attention.ECA": Layout("eca", "activation", ("squeeze", "output"), conv="excite.conv"),
    # The rest of our own: the excitation is a module by itself, and that is all that is known of it here.
    "ecaviz.attention.ChannelAttention": Layout("", "activation", ("squeeze", "output"), excite="excite"),
    "ecaviz.cbam.CBAMSpatial": Layout("cbam", "activation", ("squeeze", "output"), excite="excite", per="position"),
    "timm.layers.eca.EcaModule": Layout("eca", "gate", ("conv", "input"), conv="conv", padding="zeros"),
    "timm.layers.eca.CecaModule": Layout("eca", "gate", ("conv", "input"), conv="conv", padding="circular"),
    "timm.layers.squeeze_excite.SEModule": Layout(gate="gate", norm="bn", act="act", **_BOTTLENECK),
    "timm.models.senet.SEModule": Layout(gate="sigmoid", act="relu", **_BOTTLENECK),
    "timm.models._efficientnet_blocks.SqueezeExcite": Layout(
        "se", "gate", ("conv_reduce", "input"), fc1="conv_reduce", act="act1", fc2="conv_expand"
    ),
    "torchvision.ops.misc.SqueezeExcitation": Layout(gate="scale_activation", act="activation", **_BOTTLENECK),
}


def _layout(module: nn.Module) -> Layout | None:
    for cls in type(module).__mro__:
        known = _REGISTRY.get(f"{cls.__module__}.{cls.__qualname__}")
        if known is not None:
            # timm's "ecam" keeps an MLP in an EcaModule: not one convolution over the channels.
            mlp = known.conv and getattr(module, "conv2", None) is not None
            return None if mlp or not _has_parts(module, known) else known
    return None


def _has_parts(module: nn.Module, layout: Layout) -> bool:
    """Whether the parts are where the layout says; a subclass may have put others in their place."""
    paths = (layout.gate, layout.descriptor[0], layout.conv, layout.fc1, layout.norm, layout.act, layout.fc2)
    try:
        return all(isinstance(module.get_submodule(path), nn.Module) for path in paths if path is not None)
    except AttributeError:
        return False


def _activation_name(module: nn.Module) -> str:
    # By name: timm's Sigmoid is not a subclass of nn.Sigmoid.
    name = type(module).__name__.lower()
    return {"sigmoid": "sigmoid", "hardsigmoid": "hardsigmoid"}.get(name, name)


# --------------------------------------------------------------------------------------------------------------- a site


@dataclass(frozen=True)
class Proof:
    r"""How well a site's ω explains what its module did, on the first batch that went through it.

    Attributes:
        gate_error: max \\|ω − a(z)\\|, ω as the module itself computed it.
        output_error: max \\|output − x·ω\\| / max \\|x\\|.
        spread: max ω − min ω over that batch; a gate that does not vary proves little.
        tolerance: What either error may be at most.
        dtype: What the module computed in.
    """

    gate_error: float
    output_error: float
    spread: float
    tolerance: float
    dtype: str

    @property
    def holds(self) -> bool:
        """Whether both errors are within the tolerance (NaN never is)."""
        return self.gate_error <= self.tolerance and self.output_error <= self.tolerance


@dataclass(frozen=True)
class _Seen:
    """What was learnt of an attention module when it ran."""

    proof: Proof
    channels: int


_SEEN: weakref.WeakKeyDictionary[nn.Module, _Seen] = weakref.WeakKeyDictionary()


def remember(one: GateSite, proof: Proof, channels: int) -> None:
    """Keep what a site's first use showed, for as long as its module lives."""
    _SEEN[one.module] = _Seen(proof, channels)


@dataclass(frozen=True)
class GateSite:
    """One place in a network where channels are gated.

    Attributes:
        name: Module path in the network.
        family: "se", "eca", or another of :data:`ecaviz.attention.FAMILIES`; "se-gc" for all three SE-GC.
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
        rung: How the vectors are obtained: "registry".
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
        layout = self.layout
        if layout.excite is not None:
            excite = self.module.get_submodule(layout.excite)
            y = descriptor.to(next(excite.parameters(), descriptor))
            if isinstance(self.module, GatherExcite) and y.ndim == 2:  # the global extent: maps of one position
                return excite(y[:, :, None, None]).flatten(1)
            return excite(y)
        if layout.conv is not None:
            conv = self.module.get_submodule(layout.conv)
            y = descriptor.to(conv.weight).unsqueeze(1)
            if layout.padding == "circular":
                reach = (self.kernel_size - 1) // 2
                y = nn.functional.pad(y, (reach, reach), mode="circular")
            return conv(y).squeeze(1)
        first = self.module.get_submodule(layout.fc1)
        y = descriptor.to(first.weight)
        y = y[:, :, None, None] if isinstance(first, nn.Conv2d) else y
        for part in (layout.fc1, layout.norm, layout.act, layout.fc2):
            if part is not None:
                y = self.module.get_submodule(part)(y)
        return y.flatten(1)

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
        layers = _bottleneck(self.module, layout)
        if layers is None:
            raise ValueError(f"site {self.name}: {self.family} has no bottleneck; SE sites have.")
        first, last = layers
        biases = [None if part.bias is None else part.bias.detach() for part in (first, last)]
        return first.weight.detach().flatten(1), biases[0], last.weight.detach().flatten(1), biases[1]

    @property
    def hidden_activation(self) -> str | None:
        """Class name of the activation between an SE's two layers, such as ReLU; None for an ECA."""
        act = self.layout.act
        return None if act is None else type(self.module.get_submodule(act)).__name__

    @property
    def layout(self) -> Layout:
        """Where the module keeps its parts."""
        layout = _layout(self.module)
        if layout is None:
            raise TypeError(f"site {self.name}: {type(self.module).__qualname__} is not in the registry.")
        return layout


def network(model: Any) -> nn.Module:
    """The nn.Module in what the library's functions take: a loaded model or the module itself."""
    net = getattr(model, "net", model) if not isinstance(model, nn.Module) else model
    if not isinstance(net, nn.Module):
        raise TypeError(f"expected a model from ecaviz.load() or an nn.Module, got {type(model).__name__}.")
    return net


def _make_site(name: str, module: nn.Module, layout: Layout, net: nn.Module) -> GateSite:
    common = {
        "name": name,
        "family": layout.family,
        "activation": _activation_name(module.get_submodule(layout.gate)),
        "module": module,
    }
    if layout.excite is not None:
        return _own_site(common, module, layout)
    if layout.conv is not None:
        conv = module.get_submodule(layout.conv)
        channels = module.channels if isinstance(module, ChannelAttention) else None
        if channels is None:
            seen = _SEEN.get(module)
            channels = _width_before(net, name) if seen is None else seen.channels
        return GateSite(
            **common,
            channels=channels,
            kernel_size=conv.weight.shape[-1],
            padding=layout.padding or conv.padding_mode,
            bias=conv.bias is not None,
        )
    first = module.get_submodule(layout.fc1)
    hidden, channels = first.weight.shape[:2]
    return GateSite(
        **common, channels=channels, hidden=hidden, reduction=channels / hidden, bias=first.bias is not None
    )


def _own_site(common: dict, module: nn.Module, layout: Layout) -> GateSite:
    """A site of one of our own modules, which say by themselves what they are."""
    common["family"] = module.family
    if layout.per == "position":
        seen = _SEEN.get(module)
        return GateSite(**common, channels=None if seen is None else seen.channels, per="position")
    extent = getattr(module, "extent", None)
    layers = _bottleneck(module, layout)
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


def _bottleneck(module: nn.Module, layout: Layout) -> tuple[nn.Module, nn.Module] | None:
    """The two layers of a bottleneck C → hidden → C; None for an excitation that has none."""
    if layout.fc1 is not None:
        return module.get_submodule(layout.fc1), module.get_submodule(layout.fc2)
    excite = module.get_submodule(layout.excite) if layout.excite is not None else None
    if isinstance(excite, Bottleneck):
        return excite.fc1, excite.fc2
    if isinstance(module, GatherExcite) and isinstance(excite, nn.Sequential):
        return excite[1], excite[3]
    return None


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


def find_sites(model: Any) -> list[GateSite]:
    """List the gates of a model in the order of its modules; an empty list for a model without any.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.

    Raises:
        TypeError: ``model`` is neither.
    """
    net = network(model)
    found = []
    for name, module in net.named_modules():
        layout = _layout(module)
        if layout is not None:
            found.append(_make_site(name, module, layout, net))
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
            f"{looked_at}. Known are the SE and ECA modules of timm and torchvision, and all modules of ecaviz."
        )
    if sites is None:
        return every
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
