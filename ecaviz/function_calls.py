"""The sigmoids that a module calls as functions, where no hook reaches: caught while its forward runs, then no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Call", "Caught", "Scope"]

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


class Scope:
    """A module's forward, watched. Stands in the module's place for ``forward`` until :meth:`remove`.

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
        self.module, self.listens, self.receive, self.keep = module, listens, receive, keep
        self.own = module.__dict__.get("forward")  # someone else's stand-in
        self.forward = module.forward
        module.forward = self.run

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, with the mode on."""
        if not self.listens():
            return self.forward(*args, **kwargs)
        with Caught(self.keep) as caught:
            out = self.forward(*args, **kwargs)
        self.receive(caught.calls)
        return out

    def remove(self) -> None:
        """Give the module its own forward back."""
        if self.own is not None:
            self.module.forward = self.own
        else:
            self.module.__dict__.pop("forward", None)
