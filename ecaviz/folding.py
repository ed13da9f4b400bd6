"""Fold the gates into the weights: a copy of a network in which every gate is a constant, its mean, and costs nothing.

    folded = fold_gates(model, profile)
    sum(p.numel() for p in folded.net.parameters())          # without the attention modules

A frozen gate multiplies a channel by a number. Where that channel comes straight from a norm or a convolution, it can
be multiplied there, once and for all: γ_c·m_c and β_c·m_c (w_c·m_c and b_c·m_c). Whether it does, an example tells that
is run through the network: the very tensor that the layer returned has to be what the attention module is called with,
and nobody else may look at it. Elsewhere a :class:`Scale` takes the module's place. What comes out is that of
``intervene(model, None, "mean", profile=profile)``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .batches import batches
from .gate_changes import Means, changes
from .gates import evaluating
from .interventions import intervening
from .module_calls import Instead, tensors_in
from .sites import GateSite, Selection, network, select_channel_sites
from .wrappers import followed

if TYPE_CHECKING:
    from .attention_profile import AttentionProfile
    from .models import LoadedModel

__all__ = ["Scale", "fold_gates"]

_SIDE = 64
"""Height and width of the image that is drawn for an example."""
_TOLERANCE = 1e-4
"""What the folded network's logits may be off by on the example, over the largest."""


class Scale(nn.Module):
    """x·m, one constant a channel, that no training changes. N×C×H×W → N×C×H×W.

    Args:
        factor: m, C.
    """

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor.detach().clone().reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each channel by its constant."""
        return x * self.factor.to(x.dtype)

    def extra_repr(self) -> str:
        """C."""
        return f"{len(self.factor)}"


def fold_gates(
    model: LoadedModel, profile: AttentionProfile, sites: Selection = None, *, example: Any = None
) -> LoadedModel:
    """A copy of a network in which gates are constants, their means over a profile's images, without their modules.

    Args:
        model: What :func:`ecaviz.load` returns. It is left as it is.
        profile: Of this network.
        sites: Which gates: a glob, a list, a callable, or None for all by channel (CBAM's spatial stage stays).
        example: An image or two, in any form that :func:`ecaviz.images.batches` takes, to see by which layer feeds
            which module; None for an image of noise, through the model's transform.

    Returns:
        The copy, named after the model. It has proven itself on the example: its logits there are those under
        ``intervene(…, "mean")``.

    Raises:
        TypeError: ``model`` is no loaded model.
        ValueError: As for :func:`ecaviz.intervene`; a module that also adds something (β), is called several times in
            a forward, or is not called by the example; a model without a transform and no example.
        RuntimeError: The copy does not do what the network does with its gates frozen.
    """
    if isinstance(model, nn.Module) or not isinstance(getattr(model, "net", None), nn.Module):
        raise TypeError(f"fold_gates: a model from ecaviz.load() was expected, got {type(model).__name__}.")
    chosen = select_channel_sites(model, sites)
    means = Means(model, profile)
    factors = {one.name: means.of(one.name) for one in chosen}
    for one in chosen:
        if one.added or f"{one.name}#2" in profile:
            why = "also adds to its input" if one.added else "is called several times in a forward"
            raise ValueError(f"fold_gates: {one.name} {why}; one constant a channel cannot stand for it.")
        if bool(factors[one.name].isnan().any()):
            raise ValueError(f"fold_gates: the profile has no mean gate of some channels of {one.name}.")
    x = _example(model, example)
    net = copy.deepcopy(network(model))
    with followed(network(model, wrapped=True), "fold_gates"), evaluating(network(model)):
        with intervening(model, changes(model, [one.name for one in chosen], "mean", profile=profile)):
            expected = network(model)(x.clone())
        feeding = _feeding(network(model), chosen, x)
    for one in chosen:
        path = feeding[one.name]
        layer = None if path is None else net.get_submodule(path)
        if layer is not None:
            _multiply(layer, factors[one.name])
            _put(net, one.name, nn.Identity())
        else:
            _put(net, one.name, Scale(factors[one.name].to(x)))
    with evaluating(net):
        found = net(x.clone())
    scale = float(expected.abs().max()) or 1.0
    error = float((found - expected).abs().max()) / scale
    if not error <= _TOLERANCE:
        raise RuntimeError(
            f"fold_gates: on the example the copy's logits are {error:.2g} (of the largest) off those of the network "
            f"with its gates at their mean; {_TOLERANCE:.0e} was expected at most."
        )
    return replace(model, net=net, name=f"{model.name}, gates folded")


def _example(model: LoadedModel, example: Any) -> Tensor:
    like = next(network(model).parameters(), torch.zeros((), device=model.device))
    if example is None:
        if model.transform is None:
            raise ValueError(
                "fold_gates: the model has no transform, so that no example can be drawn; give one: example=batch."
            )
        random = torch.Generator().manual_seed(0)
        example = torch.randint(0, 256, (1, 3, _SIDE, _SIDE), generator=random, dtype=torch.uint8)
    x, _labels = next(iter(batches(example, model.transform, 2, like)))
    return x


def _put(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    module.train(net.get_submodule(name).training)
    setattr(net.get_submodule(parent), own, module)


# ---------------------------------------------------------------------------------------------- which layer feeds which


def _foldable(module: nn.Module) -> bool:
    """Whether a layer's output can be multiplied by multiplying its weights."""
    if any(getattr(module, name) for name in ("_forward_hooks", "_forward_pre_hooks")):
        return False
    if type(module) is nn.Conv2d:
        return not hasattr(module, "parametrizations")
    kinds = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.InstanceNorm2d)
    return type(module) in kinds and module.weight is not None


def _multiply(layer: nn.Module, factor: Tensor) -> None:
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                m = factor.to(parameter.device).reshape(-1, *(1,) * (parameter.ndim - 1))
                parameter.copy_((parameter.double() * m).to(parameter.dtype))


@dataclass(eq=False)
class _Output:
    """What a layer returned, while the example runs."""

    name: str
    tensor: Tensor
    looked_at: list[str] = field(default_factory=list)  # sites that were called with it; "" for anybody else


class _Watch(TorchFunctionMode):
    """Notes who looks at the outputs of layers: the attention module at work, or somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[int, _Output] = {}
        self.inside: list[str] = [""]  # the attention modules at work

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") != "__get__":  # its shape, and the like
            self.look((args, kwargs))
        return func(*args, **kwargs)

    def look(self, value: Any) -> None:
        for one in tensors_in(value):
            with torch._C.DisableTorchFunctionSubclass():
                known = self.outputs.get(one.untyped_storage().data_ptr())
            if known is not None:
                known.looked_at.append(self.inside[-1])


def _feeding(net: nn.Module, chosen: list[GateSite], x: Tensor) -> dict[str, str | None]:
    """For each site the path of the layer whose weights its gate can go into; None where there is none."""
    names = {module: name for name, module in net.named_modules()}
    layers = [module for module in names if _foldable(module)]
    calls: dict[str, int] = dict.fromkeys([*(names[one] for one in layers), *(one.name for one in chosen)], 0)
    given: dict[str, Tensor] = {}
    every: list[_Output] = []
    watch = _Watch()

    def layer(module: nn.Module) -> Callable[..., Any]:
        def run(original: Callable, *args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            calls[names[module]] += 1
            one = _Output(names[module], output)  # held, so that no other tensor comes to lie there
            every.append(one)
            watch.outputs[output.untyped_storage().data_ptr()] = one
            return output

        return run

    def site(one: GateSite) -> Callable[..., Any]:
        def run(original: Callable, *args: Any, **kwargs: Any) -> Any:
            calls[one.name] += 1
            given[one.name] = args[0] if args else next(iter(kwargs.values()))
            watch.inside.append(one.name)
            try:
                return original(*args, **kwargs)
            finally:
                watch.inside.pop()

        return run

    with _placed([*((m, layer(m)) for m in layers), *((one.module, site(one)) for one in chosen)]), watch:
        output = net(x.clone())
    watch.look(output)
    found: dict[str, str | None] = {}
    for one in chosen:
        if calls[one.name] != 1:
            raise ValueError(
                f"fold_gates: the network called {one.name} {calls[one.name]} times on the example; one constant a "
                f"channel stands for a module that is called once."
            )
        feeds = [this for this in every if this.tensor is given[one.name]]
        alone = len(feeds) == 1 and set(feeds[0].looked_at) == {one.name} and calls[feeds[0].name] == 1
        inside = alone and feeds[0].name.startswith(f"{one.name}.")
        found[one.name] = feeds[0].name if alone and not inside else None
    return found


@contextmanager
def _placed(runs: list[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, run in runs:
            stack.callback(Instead(module, run).remove)
        yield
