"""Gates in modules that nobody here knows: found by what they do to their input, and read by the first rung that holds.

    sites = ecaviz.find_sites(net, example=batch)     # or foreign.discover(net, batch)
    sites[0].rung, sites[0].proof                     # how it is read, and how well that explains the module
    foreign.not_gates(net, batch)                     # what looks like attention, and why it is no channel gate

A few images are run through the network. A module is a gate if its output is its input times one factor a channel
(and image), between 0 and 1, that is not the same for all images: output = x·ω + β, with ω and β constant over the
positions of a channel's map. Of two such modules inside each other the inner one is the gate.

How its vectors are read is found by a ladder; ``site.rung`` says where it ended:

1. "registry": the class is known (:mod:`ecaviz.layouts`); that needs no example.
2. "activation": a submodule gives ω, and is a sigmoid or hard sigmoid of what it is given: that is z.
3. "last layer": ω is the sigmoid of what a layer gives; of the sum, where it is called repeatedly.
4. "functional": ω is given by a sigmoid that is called as a function while the module runs.
5. "least squares": ω as it was fitted. z = logit(ω) is inferred, not read, and a channel whose map is 0 has NaN.

What was found is kept for as long as the modules live, so that ``find_sites(net)``, ``capture(net)`` and all that build
on them know it from then on. A copy of the network is another network. Not found are gates that are made in one module
and multiplied in another, and gates that no module has for itself, in the middle of a block's forward.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .batches import batches
from .fits import measure
from .gates import capture, evaluating
from .layouts import Layout, known_by_name, known_layout, learn, refuse
from .sites import ACTIVATIONS, GateSite, find_sites, network, remember, unlearn
from .traces import Climbed, Refusal, Trace, climb, recognise
from .wrappers import followed

__all__ = ["NotAGate", "discover", "not_gates"]

AT_MOST = 8
"""Images that are run; the rest of an example is left alone."""

_BY_CLASS = {
    "selectivekernel": "branches of different kernels",
    "selectivekernelconv": "branches of different kernels",
    "skconv": "branches of different kernels",
    "skunit": "branches of different kernels",
    "skattention": "branches of different kernels",
    "splitattn": "splits of the channels",
    "splitattention": "splits of the channels",
    "splatconv2d": "splits of the channels",
}
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_PASSING = re.compile(r"drop|stochastic|identity", re.IGNORECASE)  # what gives its input back by trade
_ATTENTION = re.compile(r"att(n|ent)|gat(e|ing)|excit|squeeze|context|recalib|cbam|nonlocal|non_local", re.IGNORECASE)
_ATTENTION_NAME = re.compile(r"(^|\.)(se|eca|cbam|attn?|attention|gate|se_module|gc|gca)$")


class NotAGate(NamedTuple):
    """A module that looks like attention and is no channel gate.

    Attributes:
        name: Module path in the network.
        kind: Name of its class.
        reason: Why, for a person.
    """

    name: str
    kind: str
    reason: str


def discover(model: Any, images: Any) -> list[GateSite]:
    """Find all gates of a model, also in modules that no registry knows, by running a few images.

    The network runs three times in evaluation mode on at most eight images. Training flags, gradients, buffers, random
    state and hooks are left as found, whatever is raised.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.
        images: At least two different images, in any form that :func:`ecaviz.images.batches` takes; or a float tensor
            of any number of channels, as the network takes it.

    Returns:
        The sites in the order of the model's modules: those of the registry, and the found ones with their proof.

    Raises:
        TypeError: ``model`` is neither.
        ValueError: There are fewer than two images, or they cannot be used.
        RuntimeError: The network was scripted by torch.jit.
    """
    net = network(model)
    with followed(network(model, wrapped=True), "discover"):
        survey = _survey(model, net, images)
    return [one for one in find_sites(net) if one.rung == "registry" or one.module in survey.found]


def not_gates(model: Any, images: Any) -> list[NotAGate]:
    """List what looks like attention and is none of channels, each with the reason.

    Softmax over branches (SelectiveKernel, SplitAttn) is told by the class; spatial gates, gates of single elements,
    added contexts, normalisations, layer scales and factors outside 0…1 are told by measuring them; a module whose name
    speaks of attention is listed whatever it does, if it is no gate and has none inside.

    Args:
        model: As for :func:`discover`.
        images: As for :func:`discover`.

    Raises:
        As :func:`discover`.
    """
    net = network(model)
    with followed(network(model, wrapped=True), "discover"):
        survey = _survey(model, net, images)
    return [NotAGate(name, type(module).__name__, reason) for name, (module, reason) in survey.others.items()]


@dataclass
class _Survey:
    """What one example told of a network: the modules that are gates, and by name those that are none."""

    found: set[nn.Module]
    others: dict[str, tuple[nn.Module, str]]


def _survey(model: Any, net: nn.Module, images: Any) -> _Survey:
    x = _example(model, net, images)
    modules = dict(net.named_modules())
    for module in modules.values():  # what an earlier example told
        unlearn(module)
    with _undisturbed(net, x):
        known = {name for name, module in modules.items() if known_layout(module) is not None}
        named = {name for name in known if known_by_name(modules[name])}  # may be another module of that name
        measured = _measure(net, x, _to_measure(modules, known - named))
        for name in named:
            if name in measured and measured[name].kind not in ("gate", "constant", "undecided", "point"):
                refuse(modules[name])
                known.remove(name)
        candidates = _to_measure(modules, known)
        gates = [name for name, seen in measured.items() if seen.kind == "gate" and name in candidates]
        climbed = _climb(net, x, {name: modules[name] for name in gates})
        found = _innermost(climbed)
        for name in found:
            learn(modules[name], recognise(modules[name], climbed[name]))
        _prove(net, x, found)
    refused = {name: one for name, one in climbed.items() if isinstance(one, Refusal)}
    others = _others(modules, measured, refused, known | set(found))
    return _Survey({modules[name] for name in found}, others)


# -------------------------------------------------------------------------------------------------------------- running


def _example(model: Any, net: nn.Module, images: Any) -> Tensor:
    like = next((one for one in net.parameters() if one.is_floating_point()), torch.zeros(()))
    if isinstance(images, Tensor) and images.is_floating_point() and images.ndim == 4:
        x = images[:AT_MOST].to(like)
    else:
        parts: list[Tensor] = []
        transform = None if isinstance(model, nn.Module) else model.transform
        for part, _ in batches(images, transform, AT_MOST, like):
            parts.append(part)
            if sum(map(len, parts)) >= AT_MOST:
                break
        x = torch.cat(parts)[:AT_MOST]
    if len(x) < 2 or bool((x == x[:1]).all()):
        raise ValueError(
            f"discover: got {len(x)} image{'s, all the same' if len(x) > 1 else ''}; expected at least two different "
            f"ones, since a gate is told by what it does not do alike for all images. Give a batch of 2 to {AT_MOST}."
        )
    return x.detach()


@contextmanager
def _undisturbed(net: nn.Module, x: Tensor) -> Iterator[None]:
    """Evaluation mode without gradients; then flags, buffers and the random state are as before."""
    buffers = [
        (module._buffers, name, one, one.detach().clone())
        for module in net.modules()
        for name, one in module._buffers.items()
        if one is not None
    ]
    devices = [x.device] if x.device.type == "cuda" else []
    whole = torch.autocast(x.device.type, enabled=False)  # in the dtypes of the network, whatever is on around it
    with torch.random.fork_rng(devices), evaluating(net), whole:
        try:
            yield
        finally:
            for owner, name, one, before in buffers:
                owner[name] = one
                if not torch.equal(one, before):
                    one.copy_(before)


@contextmanager
def _hooked() -> Iterator[list[Any]]:
    """A list of handles that are removed at the end, the latest first."""
    handles: list[Any] = []
    try:
        yield handles
    finally:
        while handles:
            handles.pop().remove()


def _prove(net: nn.Module, x: Tensor, names: list[str]) -> None:
    """Read what was found as a capture does, for its proof. The first use of a site has a proof of its own."""
    sites = [one for one in find_sites(net) if one.name in names]
    if not sites:
        return
    try:
        with capture(net, sites):
            net(x)
    except BaseException:
        for one in sites:
            unlearn(one.module)
        raise
    for one in sites:
        remember(one.module, one.proof, one.layout.channels, used=False)


# ------------------------------------------------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class _Seen:
    """What the calls of a module showed: a kind of :class:`ecaviz.fits.Fit` or one of "factors", and the reason."""

    kind: str
    reason: str
    fit: Any = None


def _inside(name: str, parent: str) -> bool:
    return name != parent and (parent == "" or name.startswith(f"{parent}."))


def _is_plain(module: nn.Module) -> bool:
    """Whether it is one of torch's own layers: a norm, a convolution, an activation."""
    if isinstance(module, _NORMS) or type(module).__name__.lower() in ACTIVATIONS:  # timm's too
        return True
    return type(module).__module__.startswith("torch.") and next(module.children(), None) is None


def _to_measure(modules: dict[str, nn.Module], known: set[str]) -> dict[str, nn.Module]:
    """What may be a gate: no layer of torch's own, nothing that is or holds or belongs to a known gate."""
    return {
        name: module
        for name, module in modules.items()
        if not _is_plain(module) and not any(name == one or _inside(name, one) or _inside(one, name) for one in known)
    }


def _measure(net: nn.Module, x: Tensor, modules: dict[str, nn.Module]) -> dict[str, _Seen]:
    """Run once, and fit the output of every module to its input."""
    calls: dict[str, list[_Seen]] = {}
    waiting: list[tuple[str, Tensor | None]] = []

    def hooks_of(name: str) -> tuple[Any, Any]:
        def on_enter(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            given = args[0] if args else next(iter(kwargs.values()), None)
            waiting.append((name, given.detach().clone() if _is_map(given) else None))

        def on_leave(_module: nn.Module, _args: tuple, output: Any) -> None:
            _, given = waiting.pop()
            if given is not None:
                calls.setdefault(name, []).append(_look(given, output))

        return on_enter, on_leave

    with _hooked() as handles:
        for name, module in modules.items():
            on_enter, on_leave = hooks_of(name)
            handles.append(module.register_forward_pre_hook(on_enter, with_kwargs=True))
            handles.append(module.register_forward_hook(on_leave))
        net(x)
    return {name: _worst(seen) for name, seen in calls.items()}


def _is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point() and value.numel() > 0


def _look(x: Tensor, out: Any) -> _Seen:
    """What one call showed."""
    if not isinstance(out, Tensor) or not out.is_floating_point():
        return _Seen("other", f"it returns a {type(out).__name__}, where its input times a factor was expected")
    if out.shape == x.shape:
        if x.shape[2] * x.shape[3] == 1:
            return _Seen("point", "its map has one position, where a factor cannot be told from an addition")
        fit = measure(x, out)
        return _Seen(fit.kind, fit.reason, fit)
    n, c, h, w = x.shape
    within = bool((out.detach() >= 0).all() and (out.detach() <= 1).all())
    if within and out.shape[:2] == (n, c) and out.numel() == n * c:
        return _Seen("factors", "it returns the factors and leaves the product to its caller; make one module of both")
    if within and out.shape == (n, 1, h, w):
        return _Seen("factors", "it returns one factor a position, the same for all channels: a spatial gate")
    return _Seen(
        "other", "its output has another shape than its input, so that no factor a channel makes one the other"
    )


def _worst(calls: list[_Seen]) -> _Seen:
    """One verdict on several calls: a gate has to be one in every call that tells."""
    told = [one for one in calls if one.kind not in ("undecided", "point")] or calls
    return next((one for one in told if one.kind != "gate"), told[0])


def _climb(net: nn.Module, x: Tensor, modules: dict[str, nn.Module]) -> dict[str, Climbed | Refusal]:
    """Run once more, and climb the ladder in every module that measured as a gate."""
    found: dict[str, Climbed | Refusal] = {}

    def done_of(name: str) -> Any:
        def done(given: Tensor, out: Tensor, trace: Trace) -> None:
            if name in found or not _is_map(given) or given.shape != out.shape:
                return
            fit = measure(given, out)
            if fit.kind == "gate":
                found[name] = climb(given, out, fit, trace)

        return done

    if modules:
        with _hooked() as handles:
            for name, module in modules.items():
                Trace(module, done_of(name)).attach(handles)
            net(x)
    return found


def _innermost(climbed: dict[str, Climbed | Refusal]) -> list[str]:
    """Of gates inside each other the inner one; the outer where only there the vectors are read and not fitted."""
    gates = {name: one.layout for name, one in climbed.items() if isinstance(one, Climbed)}

    def loses(name: str, layout: Layout) -> bool:
        fitted = layout.rung == "least squares"
        outside = any(_inside(name, other) and gates[other].rung != "least squares" for other in gates)
        inside = any(_inside(other, name) and (fitted or gates[other].rung != "least squares") for other in gates)
        return inside or (fitted and outside)

    return [name for name, layout in gates.items() if not loses(name, layout)]


# ------------------------------------------------------------------------------------------------- what is no gate, why


def _others(
    modules: dict[str, nn.Module], measured: dict[str, _Seen], refused: dict[str, Refusal], sites: set[str]
) -> dict[str, tuple[nn.Module, str]]:
    """By name what looks like attention and is no gate, with the reason; nothing that is or holds or is in a gate."""
    found: dict[str, tuple[nn.Module, str, bool]] = {}
    for name in sorted(modules, key=lambda one: -one.count(".") - bool(one)):  # the innermost first
        module = modules[name]
        if any(name == one or _inside(name, one) or _inside(one, name) for one in sites):
            continue
        by_class = type(module).__name__.lower() in _BY_CLASS
        reason, sure = _reason(name, module, measured.get(name), refused.get(name))
        within = [one for one in found if _inside(one, name)]
        if not reason or (not by_class and any(found[one][2] or not sure for one in within)):
            continue
        for one in within:  # parts of what is told now
            del found[one]
        found[name] = module, reason, sure
    return {name: found[name][:2] for name in modules if name in found}


def _reason(name: str, module: nn.Module, seen: _Seen | None, refused: Refusal | None) -> tuple[str, bool]:
    """Why a module that looks like attention is none ("" for one that does not), and whether that was measured."""
    over = _BY_CLASS.get(type(module).__name__.lower())
    if over is not None:
        return f"its softmax shares out between {over}: no factor between its input and its output", True
    if type(module).__name__ == "GlobalContext" and getattr(module, "mlp_scale", module) is None:  # timm's "gca"
        return "it adds a context, one number a channel, and multiplies nothing", True
    if refused is not None and refused.sure:
        return refused
    if seen is None or _is_plain(module):
        return "", False
    named = bool(_ATTENTION.search(type(module).__name__) or _ATTENTION_NAME.search(name))
    if refused is not None:
        return (refused.reason if named else ""), False
    if seen.kind == "constant" and _may_gate(module):
        return f"{seen.reason}; or a gate that does not vary yet, such as one whose last layer starts at 0", True
    if seen.kind in ("constant", "image", "additive", "range", "spatial", "normalisation"):
        return seen.reason, True
    if seen.kind == "element" and (named or (_may_gate(module) and next(module.parameters(), None) is not None)):
        return seen.reason, True
    leaf = next(module.children(), None) is None
    if seen.kind == "identity":
        looks = named or (leaf and not _PASSING.search(type(module).__name__))
    elif seen.kind == "point":
        looks = bool(_ATTENTION.search(type(module).__name__))
    else:
        looks = named or (seen.kind in ("factors", "undecided") and _may_gate(module))
    return (seen.reason if looks else ""), False


def _may_gate(module: nn.Module) -> bool:
    """Whether a sigmoid is among its parts."""
    return any("sigmoid" in type(part).__name__.lower() for part in module.modules() if part is not module)
