"""What goes on inside one attention module: the calls of its parts and of the sigmoid, and where its gate is made.

:func:`climb` goes up the ladder until a rung gives a vector that explains the output: a submodule that is a sigmoid; a
last layer whose outputs, added up, a sigmoid turns into the gate; a sigmoid called as a function; least squares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .fits import Fit, normalises, over, tolerance_of, wide
from .function_calls import Call, Scope
from .layouts import Layout, excite
from .sites import ACTIVATIONS

__all__ = ["Climbed", "Refusal", "Trace", "climb", "recognise"]

_PASSIVE = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)


@dataclass(frozen=True)
class Entry:
    """One call of a submodule; what went in and came out, where that is no feature map (else None)."""

    path: str
    module: nn.Module
    call: int
    input: Tensor | None
    output: Tensor | None

    @property
    def is_layer(self) -> bool:
        """Whether it is a part with weights of its own."""
        own = next(self.module.parameters(recurse=False), None)
        return own is not None and not any(True for _ in self.module.children())


class Trace:
    """The hooks that record one module's next call; ``done`` takes input, output and this trace when it returns."""

    def __init__(self, module: nn.Module, done: Any) -> None:
        self.module, self.done = module, done
        self.entries: list[Entry] = []
        self.functions: list[Call] = []
        self.counts: Counter[str] = Counter()
        self.waiting: list[Tensor | None] = []
        self.input: Tensor | None = None
        self.inside = False

    def attach(self, handles: list[Any]) -> None:
        """Put the hooks on."""
        handles.append(self.module.register_forward_pre_hook(self.on_enter, with_kwargs=True))
        for path, part in self.module.named_modules():
            if part is not self.module:
                handles.append(part.register_forward_pre_hook(self.on_part))
                handles.append(part.register_forward_hook(self.after_part(path)))
        handles.append(Scope(self.module, lambda: self.inside, self.functions.extend))
        handles.append(self.module.register_forward_hook(self.on_leave))

    def on_enter(self, _module: nn.Module, args: tuple, kwargs: dict) -> None:
        """The module is called."""
        given = args[0] if args else next(iter(kwargs.values()), None)
        self.inside = isinstance(given, Tensor) and given.ndim == 4
        self.input = given.detach().clone() if self.inside else None
        for kept in (self.entries, self.functions, self.waiting, self.counts):
            kept.clear()

    def small(self, value: Any) -> Tensor | None:
        """A copy of a value that is no feature map."""
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 2:
            return None
        n, c = self.input.shape[:2]
        if value.shape == self.input.shape:
            return None
        return value.detach().clone() if len(value) == n and value.numel() <= 4 * n * c else None

    def on_part(self, _part: nn.Module, args: tuple) -> None:
        """A submodule is called."""
        if self.inside:
            self.waiting.append(self.small(args[0]) if args else None)

    def after_part(self, path: str) -> Any:
        """What to do when the submodule at a path returns."""

        def on_return(part: nn.Module, _args: tuple, output: Any) -> None:
            if self.inside and self.waiting:
                before = self.waiting.pop()
                self.entries.append(Entry(path, part, self.counts[path], before, self.small(output)))
                self.counts[path] += 1

        return on_return

    def on_leave(self, _module: nn.Module, _args: tuple, output: Any) -> None:
        """The module returns."""
        if self.inside and isinstance(output, Tensor):
            self.done(self.input, output.detach(), self)
        self.inside, self.input = False, None


@dataclass(frozen=True)
class _Found:
    """A vector that explains the output, and the layout that reads it."""

    error: tuple[float, float]  # of the output, then of a(z): near z = 0 one sigmoid is much like another
    logit: Tensor
    layout: Layout


class Refusal(NamedTuple):
    """Why a module that measured as a gate is none; ``sure`` is False where the fit is too coarse to tell."""

    reason: str
    sure: bool


def climb(x: Tensor, out: Tensor, fit: Fit, trace: Trace) -> Climbed | Refusal:
    """The layout of a module whose output is x·ω (+ β): by the first rung that explains it; or why it is no gate.

    Args:
        x: Input, N×C×H×W.
        out: Output.
        fit: What least squares found.
        trace: The calls inside.
    """
    base = Layout("foreign", None, None, added=fit.shift is not None, residual=fit.residual, channels=x.shape[1])
    judge = _Judge(x, out, fit)
    for rung in (_at_an_activation, _at_the_last_layer, _at_a_function):
        found = min(rung(trace, judge, base), key=lambda one: one.error, default=None)
        if found is not None:
            return _descriptor(found.layout, trace, x, found.logit)
    if fit.shift is not None:
        return Refusal(
            "it scales and shifts each channel by numbers that vary with the image, and no sigmoid makes the factor: a "
            "normalisation or another affine map",
            True,
        )
    if normalises(fit, out):
        return Refusal("it brings its output to one size whatever the image: a normalisation", True)
    # Without a sigmoid the fit is all there is, so it has to be as good as the rounding of a product: a residual block
    # that adds next to nothing is within the tolerance too.
    rounding = 4 * torch.finfo(tolerance_of(x, out)[1]).eps
    if fit.residual > rounding or fit.varies <= max(3 * fit.tolerance, 10 * fit.residual):
        return Refusal(
            f"its factor varies between images by {fit.varies:.1g}, least squares leave {fit.residual:.1g}, and no "
            f"sigmoid makes the factor: too little to tell",
            False,
        )
    return _descriptor(replace(base, rung="least squares", source="fit", activation="sigmoid"), trace, x, None)


class _Judge:
    """Whether a vector is the ω of output = x·ω + β."""

    def __init__(self, x: Tensor, out: Tensor, fit: Fit) -> None:
        self.x, self.out, self.scale = wide(x), wide(out), float(x.detach().abs().max())
        self.tolerance, self.added = fit.tolerance, fit.shift is not None

    def is_vector(self, value: Tensor | None) -> bool:
        return value is not None and value.numel() == self.x.shape[0] * self.x.shape[1]

    def error(self, gate: Tensor) -> float:
        rest = self.out - self.x * over(wide(gate).reshape(self.x.shape[:2]))
        if self.added:
            rest = rest - rest.mean(dim=(2, 3), keepdim=True)
        return float(rest.abs().max()) / self.scale

    def accepts(self, logit: Tensor, gate: Tensor | None) -> Iterator[tuple[str, tuple[float, float]]]:
        """The activations a with a(z) = ω that explain the output, and by how much it and they are off."""
        for name, activation in ACTIVATIONS.items():
            made = activation(logit.float() if logit.dtype != torch.float64 else logit)
            off = 0.0 if gate is None else float((made - gate).abs().max())
            error = self.error(made if gate is None else gate) if off <= self.tolerance else float("inf")
            if error <= self.tolerance:
                yield name, (error, off)


def _at_an_activation(trace: Trace, judge: _Judge, base: Layout) -> Iterator[_Found]:
    for one in trace.entries:
        if judge.is_vector(one.input) and judge.is_vector(one.output) and one.input.shape == one.output.shape:
            for name, error in judge.accepts(one.input, one.output):
                call = one.call if trace.counts[one.path] > 1 else None
                yield _Found(
                    error,
                    one.input.flatten(1),
                    replace(base, rung="activation", gate=one.path, call=call, activation=name),
                )


def _at_the_last_layer(trace: Trace, judge: _Judge, base: Layout) -> Iterator[_Found]:
    for path in dict.fromkeys(one.path for one in trace.entries if one.is_layer):
        outputs = [one.output for one in trace.entries if one.path == path]
        if all(judge.is_vector(output) for output in outputs):
            logit = sum(output.flatten(1) for output in outputs)
            for name, error in judge.accepts(logit, None):
                yield _Found(error, logit, replace(base, rung="last layer", source="layer", last=path, activation=name))


def _at_a_function(trace: Trace, judge: _Judge, base: Layout) -> Iterator[_Found]:
    for i, one in enumerate(trace.functions):
        if judge.is_vector(one.logit) and one.logit.shape == one.gate.shape:
            for name, error in judge.accepts(one.logit, one.gate):
                if name == one.activation:
                    layout = replace(base, rung="functional", source="function", call=i, activation=name)
                    yield _Found(error, one.logit.flatten(1), layout)


# ------------------------------------------------------------------------------------------------------- the excitation


def _wrapped_round(one: Entry, n: int, c: int) -> bool:
    """Whether it is an ECA's convolution that is given its channels already padded."""
    conv = one.module
    if not (isinstance(conv, nn.Conv1d) and tuple(conv.weight.shape[:2]) == (1, 1) and one.input is not None):
        return False
    k = conv.weight.shape[2]
    return k > 1 and not any(conv.padding) and one.input.numel() == n * (c + k - 1)


def _descriptor(found: Layout, trace: Trace, x: Tensor, logit: Tensor | None) -> Climbed:
    """The place where y is read, and what was there: at the first layer that is given N×C, else where one comes out."""
    n, c = x.shape[:2]
    layers = [one for one in trace.entries if one.is_layer and one.input is not None]
    first = next((one for one in layers if one.input.numel() == n * c or _wrapped_round(one, n, c)), None)
    side = "input"
    if first is None:
        made = (one for one in trace.entries if one.input is None and one.output is not None)
        first, side = next((one for one in made if one.output.numel() == n * c), None), "output"
    if first is None:
        return Climbed(found, [], logit, [])
    calls = [one for one in trace.entries if one.path == first.path]
    read = [(one.input if side == "input" else one.output).flatten(1) for one in calls]
    if any(y.shape[1] != c for y in read) and not _wrapped_round(first, n, c):
        return Climbed(found, [], logit, [])  # a layer that is called on other things too
    found = replace(found, descriptor=(first.path, side), calls=len(calls))
    means = [wide(x).mean(dim=(2, 3)), wide(x).amax(dim=(2, 3))]
    return Climbed(found, read, logit, means, [one for one in trace.entries if one.is_layer or _acts(one)])


def _acts(one: Entry) -> bool:
    """Whether it may be the activation between two layers."""
    return not any(True for _ in one.module.children()) and not isinstance(one.module, _PASSIVE)


@dataclass(frozen=True)
class Climbed:
    """A rung that holds: its layout, what was read of y (one a call) and z there, and the calls of the parts.

    Attributes:
        layout: Where to read.
        descriptors: y, N×C, one for each call; empty if it cannot be read.
        logit: z, N×C; None on the last rung.
        squeezes: Mean and maximum of x over positions.
        parts: The calls of layers and activations, in their order.
    """

    layout: Layout
    descriptors: list[Tensor]
    logit: Tensor | None
    squeezes: list[Tensor]
    parts: list[Entry] = field(default_factory=list)


def recognise(module: nn.Module, climbed: Climbed) -> Layout:
    """The layout with the layers of its excitation, where these alone, run on y, give z; else without a family."""
    layout, c = climbed.layout, climbed.layout.channels
    if climbed.logit is None or not climbed.descriptors:
        return _readable(layout, climbed)
    for candidate in _candidates(layout, climbed, c):
        if _gives(module, candidate, climbed):
            return replace(candidate, family=_family(candidate, climbed))
    return _readable(layout, climbed)


def _readable(layout: Layout, climbed: Climbed) -> Layout:
    """Without a descriptor where what was read is not N×C: a padded one, say, that no ECA explains."""
    padded = any(y.shape[1] != layout.channels for y in climbed.descriptors)
    return replace(layout, descriptor=None, calls=1) if padded else layout


def _candidates(layout: Layout, climbed: Climbed, c: int) -> Iterator[Layout]:
    """What the excitation may be, by the layers that were called from the first one on."""
    start = layout.descriptor[0]
    seen = {one.path: one for one in climbed.parts}  # in order of the first call
    paths = list(seen)
    if layout.descriptor[1] == "output" or start not in paths:
        return
    # The gate's own sigmoid comes last, unless the hidden layer has the same one.
    paths = [path for path in paths[paths.index(start) :] if path != layout.gate or layout.call]
    layers = [path for path in paths if isinstance(seen[path].module, nn.Linear | nn.Conv1d | nn.Conv2d)]
    first = seen[start].module
    if not layers or layers[0] != start:
        return
    if isinstance(first, nn.Conv1d) and tuple(first.weight.shape[:2]) == (1, 1) and len(layers) == 1 and c > 1:
        padded = climbed.descriptors[0].shape[1] != c
        yield replace(layout, family="eca", conv=start, padding="circular" if padded else None)
        return
    if not all(_mixes_channels(seen[path].module) for path in layers[:2]) or first.weight.shape[1] != c:
        return
    rows = len(seen[layers[min(1, len(layers) - 1)]].module.weight)
    parts = [None] if rows == c else [(i, i + c) for i in range(0, rows - c + 1, c)]
    for part in parts:
        if len(layers) == 1:
            yield replace(layout, fc1=start, part=part)
            continue
        between = paths[1 : paths.index(layers[1])]
        norms = [path for path in between if seen[path].is_layer]
        acts = [path for path in between if path not in norms]
        if len(norms) < 2 and len(acts) < 2 and (not norms or between[0] == norms[0]):
            found = replace(layout, fc1=start, fc2=layers[1], part=part)
            found = replace(found, norm=norms[0] if norms else None, act=acts[0] if acts else None)
            yield found
            if not acts and not norms:
                yield replace(found, relu=True)


def _mixes_channels(layer: nn.Module) -> bool:
    """Whether a layer is a full matrix between channels."""
    return layer.weight[0, 0].numel() == 1 and getattr(layer, "groups", 1) == 1


def _gives(module: nn.Module, layout: Layout, climbed: Climbed) -> bool:
    """Whether the excitation of a layout, run alone on what was read of y, gives the z that was read."""
    y = climbed.descriptors
    if layout.padding == "circular":
        reach = (y[0].shape[1] - layout.channels) // 2
        y = [one[:, reach : one.shape[1] - reach] for one in y]
    try:
        made = excite(module, layout, y[0] if len(y) == 1 else torch.stack(y, dim=1))
    except (RuntimeError, ValueError, IndexError):  # between the layers there is more than they
        return False
    if made.shape != climbed.logit.shape:
        return False
    logit = climbed.logit.to(made.dtype)
    allowed = tolerance_of(logit, climbed.logit)[0] * (1 + float(logit.abs().max()))
    return bool(((made - logit).abs() <= allowed).all())


def _family(layout: Layout, climbed: Climbed) -> str:
    if len(climbed.descriptors) == 1:
        return "eca" if layout.conv else "se" if layout.fc2 else "se-var3"
    alike = len(climbed.descriptors) == 2 and all(
        torch.allclose(wide(y), own, rtol=1e-3, atol=1e-5 + tolerance_of(y)[0] * float(own.abs().max()))
        for y, own in zip(climbed.descriptors, climbed.squeezes, strict=True)
    )
    return "cbam" if alike and layout.fc2 else "foreign"
