"""The sigmoids that a module calls as functions, where no hook reaches: caught while its forward runs, then no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Call", "Caught", "Scope", "StandIn"]

_SIGMOIDS = {
    "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid",
    "expit": "sigmoid",
    "special_expit": "sigmoid",
    "hardsigmoid": "hardsigmoid",
    "hardsigmoid_": "hardsigmoid",
}
_CLIPS = ("relu6", "relu6_", "hardtanh", "hardtanh_", "clamp", "clamp_", "clip", "clip_")


@dataclass(frozen=True)
class Call:
    """One call of a sigmoid: its name in ``sites.ACTIVATIONS``, what went in (copied before) and what came out."""

    activation: str
    logit: Tensor
    gate: Tensor


class Caught(TorchFunctionMode):
    """Collects the sigmoids that are called while it is on; hard ones also where written min(max(z + 3, 0), 6) / 6.

    Args:
        keep: Which call to keep, from 0 on; None for all.
    """

    def __init__(self, keep: int | None = None) -> None:
        super().__init__()
        self.keep, self.count = keep, 0
        self.calls: list[Call] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the function, and keep a copy if it is one of those."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        x = args[0] if args else kwargs.get("input")
        clip = name in _CLIPS and isinstance(x, Tensor) and _is_zero_to_six(name, args, kwargs)
        if not isinstance(x, Tensor) or (name not in _SIGMOIDS and not clip):
            return func(*args, **kwargs)
        kept = self.keep is None or self.keep == self.count
        self.count += 1
        before = x.detach().clone() if kept else None
        out = func(*args, **kwargs)
        if before is not None:
            logit, gate = (before - 3, out.detach() / 6) if clip else (before, out.detach().clone())
            self.calls.append(Call("hardsigmoid" if clip else _SIGMOIDS[name], logit, gate))
        return out


def _is_zero_to_six(name: str, args: tuple, kwargs: dict) -> bool:
    if name.startswith("relu6"):
        return True
    names = ("min_val", "max_val") if name.startswith("hardtanh") else ("min", "max")
    ends = [*args[1:3], *(kwargs[key] for key in names if key in kwargs)]
    return len(ends) == 2 and ends[0] == 0 and ends[1] == 6


class StandIn:
    """What is called in the place of a module's ``forward``, until :meth:`remove`. Several may stand on one module.

    Args:
        module: The module.
        run: What is called: with the forward that was there before, then with its arguments.
    """

    def __init__(self, module: nn.Module, run: Callable[..., Any]) -> None:
        self.module, self.run = module, run
        self.own = module.__dict__.get("forward")  # someone else's stand-in
        self.forward = module.forward
        self.removed = False
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run, or what was there before once it was removed."""
        return self.forward(*args, **kwargs) if self.removed else self.run(self.forward, *args, **kwargs)

    def remove(self) -> None:
        """Give the module back the forward that was there; one that stands upon this one goes on."""
        self.removed = True
        there = self.module.__dict__.get("forward")
        while isinstance(there, StandIn) and there.removed:
            there = there.own
        if there is None:
            self.module.__dict__.pop("forward", None)
        else:
            self.module.forward = there


class Scope(StandIn):
    """A module's forward, watched.

    A hook before and one after would do, but for an interrupt between the two: it would leave the mode switched on.

    Args:
        module: The module.
        listens: Whether this call is to be watched.
        receive: What takes the calls that were caught.
        keep: As for :class:`Caught`.
    """

    def __init__(
        self,
        module: nn.Module,
        listens: Callable[[], bool],
        receive: Callable[[list[Call]], None],
        keep: int | None = None,
    ) -> None:
        self.listens, self.receive, self.keep = listens, receive, keep
        super().__init__(module, self.watch)

    def watch(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, with the mode on."""
        if not self.listens():
            return forward(*args, **kwargs)
        with Caught(self.keep) as caught:
            out = forward(*args, **kwargs)
        self.receive(caught.calls)
        return out
