"""Read one site while its network runs: y, z, and on its first use the proof that ω = a(z) and output = x·ω (+ β)."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .attention import ChannelAttention
from .fits import measure, over, tolerance_of
from .function_calls import Call, Scope
from .sites import GateSite, Proof, remember, unproven

__all__ = ["Reader", "as_met", "in_backward"]

_EDGE = 1e-7  # a gate of 0 or 1 has no finite logit; this far from the ends it is read as one


class Run(Protocol):
    """What a reader reports to."""

    handles: list[Any]

    def receive(self, one: GateSite, descriptor: Tensor, logit: Tensor) -> None:
        """Take in one call of a site."""


class Reader:
    """The hooks on one site. Collects y and z of a call, and hands them over when the module returns.

    The hooks do nothing for a copy of the network (a copy made in the ``with`` takes the hooks along), after the end of
    the ``with``, while a backward pass runs a checkpointed forward again, and outside the module (a sigmoid may serve
    several).
    """

    def __init__(self, one: GateSite, run: Run) -> None:
        self.site, self.run, self.layout = one, run, one.layout
        find = one.module.get_submodule
        where, self.side = self.layout.descriptor or (None, "")
        self.part = None if where is None else find(where)
        path = {"activation": self.layout.gate, "layer": self.layout.last}.get(self.layout.source)
        self.watched = None if path is None else find(path)
        self.forget()

    def listens(self, module: nn.Module, own: nn.Module) -> bool:
        """Whether a call of ``module`` is one of the calls to read, ``own`` being what the hook was put on."""
        return self.run.handles != [] and module is own and not in_backward()

    def forget(self) -> None:
        """Be ready for the next call."""
        self.inside = False
        self.proving = False
        self.calls = 0  # of the activation
        self.descriptors: list[Tensor] = []
        self.logit: Tensor | None = None  # what is read; in the dtype of the network
        # Kept for the proof alone, or for the fit:
        self.input: Tensor | None = None
        self.gate: Tensor | None = None

    def attach(self) -> None:
        """Put the hooks on; their handles go to the run."""
        hold, source = self.run.handles.append, self.layout.source
        hold(self.site.module.register_forward_pre_hook(self.on_enter, with_kwargs=True))
        if self.side == "output":
            hold(self.part.register_forward_hook(self.on_squeezed))
        elif self.part is not None:
            hold(self.part.register_forward_pre_hook(self.on_descriptor))
        if source == "activation":
            hold(self.watched.register_forward_pre_hook(self.on_logit))
            hold(self.watched.register_forward_hook(self.on_gate))
        elif source == "layer":
            hold(self.watched.register_forward_hook(self.on_layer))
        elif source == "function":
            hold(Scope(self.site.module, self.is_inside, self.on_functions, self.layout.call))
        hold(self.site.module.register_forward_hook(self.on_leave))

    def is_inside(self) -> bool:
        """Whether the module is at work, and to be read."""
        return self.inside and not in_backward()

    def on_enter(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """The module is called."""
        if not self.listens(module, self.site.module):
            return
        self.forget()
        self.inside = True
        x = args[0] if args else next(iter(kwargs.values()))
        self.proving = unproven(self.site.module) and x.numel() > 0
        if self.proving or self.layout.source == "fit":
            self.input = x.detach().clone()

    def on_squeezed(self, module: nn.Module, _args: tuple, output: Tensor) -> None:
        """The squeeze returns y."""
        self.on_descriptor(module, (output,))

    def on_descriptor(self, module: nn.Module, args: tuple) -> None:
        """The first layer is called with y."""
        if not (self.listens(module, self.part) and self.inside):
            return
        y = args[0].detach()
        if y.ndim != 3 or self.layout.excite is None:  # CBAM's two squeezes and GSoP's covariance stay as they are
            y = self.shaped(y)
        if self.site.padding == "circular" and not isinstance(self.site.module, ChannelAttention):
            reach = (self.site.kernel_size - 1) // 2
            y = y[:, reach : y.shape[1] - reach]
        self.descriptors.append(_copied(y))

    def on_logit(self, module: nn.Module, args: tuple) -> None:
        """The activation is called with z."""
        if self.listens(module, self.watched) and self.inside:
            self.calls += 1
            if self.is_the_call():
                self.logit = self.shaped(args[0].detach()).clone()

    def is_the_call(self) -> bool:
        """Whether the activation's call under way is the gate's."""
        return self.layout.call is None or self.layout.call == self.calls - 1

    def on_gate(self, module: nn.Module, _args: tuple, gate: Tensor) -> None:
        """The activation returns ω."""
        if self.proving and self.listens(module, self.watched) and self.is_the_call():
            self.gate = self.shaped(gate.detach()).clone()

    def on_layer(self, module: nn.Module, _args: tuple, output: Tensor) -> None:
        """The last layer returns z, or one of its terms."""
        if self.listens(module, self.watched) and self.inside:
            z = self.shaped(output.detach())
            self.logit = z.clone() if self.logit is None else self.logit + z

    def on_functions(self, calls: list[Call]) -> None:
        """The module's forward returns, having called the sigmoid as a function."""
        for one in calls[-1:]:
            self.logit, self.gate = self.shaped(one.logit), self.shaped(one.gate)

    def shaped(self, values: Tensor) -> Tensor:
        """N×C where there is one number a channel; maps where there are several."""
        return values.flatten(1) if self.site.per == "channel" else values

    def on_leave(self, module: nn.Module, _args: tuple, output: Tensor) -> None:
        """The module returns: prove, and hand over."""
        if not self.listens(module, self.site.module):
            return
        if self.layout.source == "fit":
            self.fit(output)
        if self.logit is None or (self.part is not None and len(self.descriptors) < self.layout.calls):
            raise RuntimeError(
                f"capture: {self.site.name} ({type(self.site.module).__qualname__}) ran without calling its parts, so "
                f"its gate could not be read. Was its forward replaced?"
            )
        if self.proving:
            self.prove(output.detach())
        logit = _copied(self.logit)
        self.run.receive(self.site, self.descriptor(logit), logit)
        self.forget()

    def descriptor(self, logit: Tensor) -> Tensor:
        """What was read of y: N×C, or N×m×C of m calls; NaN where it cannot be read."""
        if self.layout.calls == 1 and self.part is not None:
            return self.descriptors[-1]
        with torch.inference_mode(False):
            if self.part is None:
                return torch.full_like(logit, torch.nan)
            return torch.stack(self.descriptors[: self.layout.calls], dim=1)

    def fit(self, output: Tensor) -> None:
        """The last resort: ω from input and output, and the logit that a sigmoid would need for it."""
        found = measure(self.input, output)
        if found.residual > found.tolerance or found.shift is not None:
            raise RuntimeError(
                f"capture: {self.site.name} ({type(self.site.module).__qualname__}) was no channel gate in this "
                f"forward: least squares leave {found.residual:.2g} of max |x|, {found.tolerance:.2g} was expected at "
                f"most. Find the sites anew with ecaviz.find_sites(model, example=batch)."
            )
        self.logit = torch.logit(found.gate, eps=_EDGE)

    def prove(self, output: Tensor) -> None:
        """Compare ω with a(z) and the output with x·ω; remember the errors, or raise."""
        # In float32 at least; in float64 where the network runs in it, with the logit it had then.
        wide = torch.promote_types(self.input.dtype, torch.float32)
        shown = self.gate if self.gate is not None else self.site.activate(self.logit)
        gate, logit = shown.to(wide), self.logit.to(wide)
        if self.layout.source == "fit":  # the channels that are 0 everywhere, and tell nothing
            gate, logit = gate.nan_to_num(), logit.where(logit.isfinite(), -torch.inf)
        scale = self.input.abs().max().to(wide).clamp_min(1e-12)
        rest = output.to(wide) - self.input.to(wide) * as_met(gate, self.input)
        shift = rest.mean(dim=(2, 3)) if self.layout.added else None
        if shift is not None:
            rest = rest - over(shift)
        gate_in = (self.gate,) if self.gate is not None else ()
        tolerance, dtype = tolerance_of(self.input, output, *gate_in)
        proof = Proof(
            gate_error=float((gate - self.site.activate(logit)).abs().max()),
            output_error=float(rest.abs().max() / scale),
            spread=float(gate.max() - gate.min()),
            tolerance=tolerance,
            dtype=str(dtype).removeprefix("torch."),
            added=0.0 if shift is None else float(shift.abs().max() / scale),
            residual=self.layout.residual,
        )
        if not proof.holds:
            raise RuntimeError(
                f"capture: {self.site.name} failed its proof: the gate read there does not explain what the module did "
                f"(|ω − a(z)| = {proof.gate_error:.2g}, |out − x·ω{' − β' if self.layout.added else ''}|/|x| = "
                f"{proof.output_error:.2g}, tolerance {proof.tolerance:.2g} for {proof.dtype}). Was the module "
                f"changed, or are there NaNs?"
            )
        remember(self.site.module, proof, self.input.shape[1])


def as_met(gate: Tensor, x: Tensor) -> Tensor:
    """Gates as they meet the feature maps x: one a channel everywhere, or each patch's over its patch."""
    if gate.ndim == 2:
        return over(gate)
    return gate if gate.shape[2:] == x.shape[2:] else nn.functional.interpolate(gate, size=x.shape[2:])


def _copied(vector: Tensor) -> Tensor:
    """A float32 copy that can be used like any tensor, also when it was read under inference_mode."""
    with torch.inference_mode(False):
        return vector.to(torch.float32, copy=True)


def in_backward() -> bool:
    """Whether autograd is at work in this thread: then a forward is gradient checkpointing's second run of it."""
    return torch._C._current_graph_task_id() != -1
