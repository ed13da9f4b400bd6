"""Where attention modules keep their parts: the registry of known classes, and what was learnt of others.

A :class:`Layout` says at which submodule the descriptor and the logit are read. Known classes have theirs by their
class (ours, timm's, torchvision's) or, where code is copied from one repository into the next, by the name of the class
and its parts (the official ECA and ECA-NS, the SE of the PyTorch tutorials). Of modules that are neither,
:func:`ecaviz.foreign.discover` works one out and keeps it here, for as long as the module lives.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from .attention import Bottleneck
from .gather_excite import GatherExcite

__all__ = [
    "Layout",
    "bottleneck_of",
    "excite",
    "forget",
    "known_by_name",
    "known_layout",
    "layout_of",
    "learn",
    "refuse",
]


@dataclass(frozen=True)
class Layout:
    """Where an attention module keeps its parts; paths are relative to the module.

    Attributes:
        family: Family of the site.
        gate: The activation submodule: its input is z, its output ω. None where ``source`` is another.
        descriptor: A submodule and the side of it, "input" or "output", at which y is read; None if y passes none.
        conv: The convolution over channels of an ECA.
        fc1: First layer of a bottleneck, or the only layer.
        norm: Norm after it.
        act: Activation after that; ``relu`` is set instead where it is a plain function.
        fc2: Second layer.
        padding: Padding of the convolution where it is not its own.
        excite: The whole excitation, where it is a module by itself (all of ours).
        per: As ``GateSite.per``.
        neighbours: The grouped convolution of an ECA-NS, which sees each channel's k neighbours.
        relu: Whether a ReLU that is no submodule stands between the two layers.
        part: Of the numbers that the last layer gives, those that are z: (first, end). None for all.
        calls: How often the excitation is called in one forward; the logit is the sum.
        rung: As ``GateSite.rung``.
        source: Where the logit is read: at an "activation", at a "layer" (the sum of its outputs), at a "function"
            (a call of the sigmoid that is no submodule), or nowhere: by a "fit", least squares.
        last: The layer of source "layer".
        call: Which call of the activation or of the function it is, from 0 on; None for the last.
        activation: Name of a, where the class of ``gate`` does not say it.
        added: Whether the module also adds a β, constant over positions.
        residual: Of the least squares that found the module; None for a known class.
        channels: C as it was seen; None for a known class.
    """

    family: str
    gate: str | None
    descriptor: tuple[str, str] | None
    conv: str | None = None
    fc1: str | None = None
    norm: str | None = None
    act: str | None = None
    fc2: str | None = None
    padding: str | None = None
    excite: str | None = None
    per: str = "channel"
    neighbours: str | None = None
    relu: bool = False
    part: tuple[int, int] | None = None
    calls: int = 1
    rung: str = "registry"
    source: str = "activation"
    last: str | None = None
    call: int | None = None
    activation: str | None = None
    added: bool = False
    residual: float | None = None
    channels: int | None = None

    @property
    def paths(self) -> Iterator[str]:
        """All submodules that it names."""
        where = None if self.descriptor is None else self.descriptor[0]
        parts = (self.gate, where, self.conv, self.neighbours, self.fc1, self.norm, self.act, self.fc2, self.last)
        return (path for path in parts if path is not None)

    @property
    def layers(self) -> list[str]:
        """The parts of a bottleneck, or the only layer, in the order of use."""
        return [path for path in (self.fc1, self.norm, self.act, self.fc2) if path is not None]

    @property
    def known_excitation(self) -> bool:
        """Whether y → z is known as layers."""
        return (self.excite or self.conv or self.neighbours or self.fc1) is not None or self.family == "ge-theta-minus"


_BOTTLENECK = {"family": "se", "fc1": "fc1", "fc2": "fc2", "descriptor": ("fc1", "input")}
_CBAM = {**_BOTTLENECK, "act": "act"}

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
    "timm.layers.squeeze_excite.EffectiveSEModule": Layout("se-var3", "gate", ("fc", "input"), fc1="fc"),
    # Its layers are called for the mean and for the maximum. The light one adds these first, and calls the sigmoid as a
    # function though it has a gate.
    "timm.layers.cbam.ChannelAttn": Layout(gate="gate", calls=2, **{**_CBAM, "family": "cbam"}),
    "timm.layers.cbam.LightChannelAttn": Layout(gate=None, source="layer", last="fc2", activation="sigmoid", **_CBAM),
    "timm.layers.global_context.GlobalContext": Layout(
        "gc",
        "gate",
        ("mlp_scale", "input"),
        fc1="mlp_scale.fc1",
        norm="mlp_scale.norm",
        act="mlp_scale.act",
        fc2="mlp_scale.fc2",
    ),
    "timm.layers.gather_excite.GatherExcite": Layout("ge-theta-minus", "gate", ("mlp", "input")),
    "timm.models.senet.SEModule": Layout(gate="sigmoid", act="relu", **_BOTTLENECK),
    "timm.models._efficientnet_blocks.SqueezeExcite": Layout(
        "se", "gate", ("conv_reduce", "input"), fc1="conv_reduce", act="act1", fc2="conv_expand"
    ),
    "torchvision.ops.misc.SqueezeExcitation": Layout(gate="scale_activation", act="activation", **_BOTTLENECK),
}


def _is_eca(conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv1d) and tuple(conv.weight.shape[:2]) == (1, 1) and conv.weight.shape[2] % 2 == 1


def _is_eca_ns(conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv1d) and conv.groups == conv.in_channels == conv.out_channels > 1


def _is_se(fc: nn.Module) -> bool:
    kinds = (nn.Linear, nn.Module, nn.Linear, nn.Sigmoid)
    return isinstance(fc, nn.Sequential) and len(fc) == 4 and all(map(isinstance, fc, kinds))


_BY_NAME: dict[str, list[tuple[dict[str, Callable[[nn.Module], bool]], Layout]]] = {
    "eca_layer": [
        (
            {"avg_pool": lambda _: True, "sigmoid": lambda _: True, "conv": _is_eca},
            Layout("eca", "sigmoid", ("avg_pool", "output"), conv="conv"),
        ),
        (
            {"avg_pool": lambda _: True, "sigmoid": lambda _: True, "conv": _is_eca_ns},
            Layout("eca-ns", "sigmoid", ("avg_pool", "output"), neighbours="conv"),
        ),
    ],
    "selayer": [
        (
            {"avg_pool": lambda _: True, "fc": _is_se},
            Layout("se", "fc.3", ("fc.0", "input"), fc1="fc.0", act="fc.1", fc2="fc.2"),
        )
    ],
}
"""Code that is copied from repository to repository: lower-case name of the class, its children and what they are."""

_LEARNT: weakref.WeakKeyDictionary[nn.Module, Layout] = weakref.WeakKeyDictionary()
_REFUSED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def learn(module: nn.Module, layout: Layout) -> None:
    """Keep what was worked out of a module that no registry knows, for as long as it lives."""
    _LEARNT[module] = layout


def layout_of(module: nn.Module) -> Layout | None:
    """Where a module keeps its parts: from the registry, or learnt; None if nothing is known."""
    known = known_layout(module)
    if known is not None:
        return known
    learnt = _LEARNT.get(module)
    return learnt if learnt is not None and _has_parts(module, learnt) else None


def refuse(module: nn.Module) -> None:
    """Know a module no more by the name of its class: it was measured, and is no such gate."""
    _REFUSED.add(module)


def forget(module: nn.Module) -> bool:
    """Drop what was worked out of a module; whether there was a layout."""
    _REFUSED.discard(module)
    return _LEARNT.pop(module, None) is not None


def known_layout(module: nn.Module) -> Layout | None:
    """The registry's layout of a module; None for one that it does not know, or whose parts are others."""
    for cls in type(module).__mro__:
        known = _REGISTRY.get(f"{cls.__module__}.{cls.__qualname__}")
        if known is not None:
            known = _variant(module, known)
            return known if known is not None and _has_parts(module, known) else None
    return _named_layout(module)


def known_by_name(module: nn.Module) -> bool:
    """Whether the registry knows a module by no more than the name of its class and its parts."""
    layout = known_layout(module)
    return layout is not None and layout is _named_layout(module)


def _named_layout(module: nn.Module) -> Layout | None:
    if module in _REFUSED:
        return None
    return next(
        (
            layout
            for children, layout in _BY_NAME.get(type(module).__name__.lower(), ())
            if {name for name, _ in module.named_children()} == children.keys()
            and all(test(getattr(module, name)) for name, test in children.items())
        ),
        None,
    )


def _variant(module: nn.Module, known: Layout) -> Layout | None:
    """The layout of a module that comes in several kinds; None for a kind that is no such gate."""
    if known.conv and getattr(module, "conv2", None) is not None:
        return None  # timm's "ecam" keeps an MLP in an EcaModule: not one convolution over the channels
    if known.family == "gc":
        if getattr(module, "mlp_scale", None) is None:
            return None  # "gca" adds a context, and gates nothing
        return replace(known, added=module.mlp_add is not None)
    if known.family == "ge-theta-minus":  # timm 1.0.31 can build no other that has one gate a channel
        plain = module.extent == 0 and module.gather is None and isinstance(module.mlp, nn.Identity)
        return known if plain else None
    return known


def _has_parts(module: nn.Module, layout: Layout) -> bool:
    """Whether the parts are where the layout says; a subclass may have put others in their place."""
    try:
        return all(isinstance(module.get_submodule(path), nn.Module) for path in layout.paths)
    except AttributeError:
        return False


def bottleneck_of(module: nn.Module, layout: Layout) -> tuple[nn.Module, nn.Module] | None:
    """The two layers of a bottleneck C → hidden → C; None for an excitation that has none."""
    if layout.fc2 is not None:
        return module.get_submodule(layout.fc1), module.get_submodule(layout.fc2)
    excite = module.get_submodule(layout.excite) if layout.excite is not None else None
    if isinstance(excite, Bottleneck):
        return excite.fc1, excite.fc2
    if isinstance(module, GatherExcite) and isinstance(excite, nn.Sequential):
        return excite[1], excite[3]
    return None


def excite(module: nn.Module, layout: Layout, y: Tensor) -> Tensor:
    """The excitation of a module alone, y → z, in the shapes that a record has them; differentiable.

    Args:
        module: The attention module.
        layout: Its layout, one whose excitation is known.
        y: Descriptors, taken to the device and the dtype of the weights.
    """
    if layout.excite is not None:
        part = module.get_submodule(layout.excite)
        y = y.to(next(part.parameters(), y))
        if isinstance(module, GatherExcite) and y.ndim == 2:  # the global extent: maps of one position
            return part(y[:, :, None, None]).flatten(1)
        return part(y)
    if layout.conv is not None:
        conv = module.get_submodule(layout.conv)
        y = y.to(conv.weight).unsqueeze(1)
        if layout.padding == "circular":
            reach = (conv.weight.shape[-1] - 1) // 2
            y = nn.functional.pad(y, (reach, reach), mode="circular")
        return conv(y).squeeze(1)
    if layout.neighbours is not None:
        conv = module.get_submodule(layout.neighbours)
        reach = (conv.weight.shape[-1] - 1) // 2
        y = nn.functional.pad(y.to(conv.weight), (reach, reach))
        return conv(y.unfold(1, 2 * reach + 1, 1)).squeeze(2)
    if layout.calls > 1 and y.ndim == 3:
        return sum(_layers(module, layout, y[:, call]) for call in range(layout.calls))
    return _layers(module, layout, y)


def _layers(module: nn.Module, layout: Layout, y: Tensor) -> Tensor:
    """One way through the layers of a bottleneck, N×C → N×C."""
    for path in layout.layers:
        part = module.get_submodule(path)
        if path == layout.fc1:
            y = y.to(part.weight)
            y = y.reshape(len(y), -1, *(1,) * (part.weight.ndim - 2))  # what a convolution takes
        y = part(y)
        if path == layout.fc1 and layout.relu:
            y = y.relu()
    y = y.flatten(1)
    return y if layout.part is None else y[:, slice(*layout.part)]
