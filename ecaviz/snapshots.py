"""What a network was at one moment: whether it still is, and, for the length of a ``with``, that it is again."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .function_calls import Scope
from .module_calls import PLACE

__all__ = ["Snapshot"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Snapshot:
    """The modules of a network with their weights, hooks, forwards and calls, as they are now. Nothing is copied.

    A change of a weight is seen by the counter that torch keeps of them, which costs next to nothing to read. A change
    made behind its back, through ``weight.data``, is not seen.

    Args:
        net: The network.
    """

    def __init__(self, net: nn.Module) -> None:
        self.modules = dict(net.named_modules())
        self._parts = [module._modules for module in self.modules.values()]
        self._values = [values for one in self.modules.values() for values in (one._parameters, one._buffers)]
        self._names = [
            f"{name}.{key}".removeprefix(".")
            for name, one in self.modules.items()
            for values in (one._parameters, one._buffers)
            for key in values
        ]
        self._children, self._weights = self._now()
        self._there = [one for one in self._weights if one is not None]
        self._counted = [one for one in self._there if not one.is_inference()]  # the others have no counter
        self._seen = self._look()
        self._forwards = {module: module.__dict__.get("forward") for module in self.modules.values()}
        self._calls = {module: module.__dict__.get(PLACE) for module in self._forwards}
        self._hooks = [
            (module, name, OrderedDict(getattr(module, name))) for module in self._forwards for name in _HOOKS
        ]

    def change(self) -> str | None:
        """What is no more what it was: the name of a weight or a buffer, or "its modules"; None if nothing is."""
        children, weights = self._now()
        if len(weights) != len(self._weights):
            return "its weights"
        if not all(map(operator.is_, weights, self._weights)):
            pairs = zip(self._names, weights, self._weights, strict=True)
            return next(name for name, one, then in pairs if one is not then)
        seen = self._look()
        if seen != self._seen:
            changed = {
                id(one)
                for several, now, then in zip((self._there, self._counted), seen, self._seen, strict=True)
                for one, a, b in zip(several, now, then, strict=True)
                if a != b
            }
            return next(name for name, one in zip(self._names, weights, strict=True) if id(one) in changed)
        return None if children == self._children else "its modules"

    def _now(self) -> tuple[list[nn.Module], list[Tensor | None]]:
        children = [part for parts in self._parts for part in parts.values()]
        return children, [one for values in self._values for one in values.values()]

    def _look(self) -> tuple[list[int], list[int]]:
        """Where the weights lie, and how often they were written to."""
        return [one.data_ptr() for one in self._there], [one._version for one in self._counted]

    def stood_in(self, modules: Iterable[nn.Module]) -> nn.Module | None:
        """The first of some modules whose forward or call is another one than then; None if there is none."""
        for module in modules:
            there = module.__dict__.get("forward")
            while isinstance(there, Scope):  # it watches, and changes nothing
                there = there.own
            if there is not self._forwards[module] or module.__dict__.get(PLACE) is not self._calls[module]:
                return module
        return None

    def name(self, module: nn.Module) -> str:
        """Path of a module."""
        return next(name for name, one in self.modules.items() if one is module)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Inside the ``with``, the modules have the hooks, forwards and calls of then, and no others."""
        aside: list[tuple[dict, str, Any]] = []

        def put(module: nn.Module, name: str, then: Any) -> None:
            own = module.__dict__
            aside.append((own, name, own.get(name)))
            _set(own, name, then)

        try:
            for module, then in self._forwards.items():
                if module.__dict__.get("forward") is not then:
                    put(module, "forward", then)
            for module, then in self._calls.items():
                if module.__dict__.get(PLACE) is not then:
                    put(module, PLACE, then)
            for module, name, then in self._hooks:
                if getattr(module, name) != then:
                    put(module, name, OrderedDict(then))
            yield
        finally:
            while aside:
                _set(*aside.pop())


def _set(own: dict, name: str, value: Any) -> None:
    if value is None:
        own.pop(name, None)
    else:
        own[name] = value
