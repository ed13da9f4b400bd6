"""The calls that the modules of a network make of each other: followed, and replaced by what they returned before.

A module has a place for what is called instead of it, hooks and all (torch keeps what ``nn.Module.compile`` made there,
and leaves it out of copies). :class:`Instead` uses it for a while.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "PLACE",
    "Call",
    "Ended",
    "Instead",
    "Skipped",
    "calls_before",
    "following",
    "grab",
    "is_plain",
    "map_tensors",
    "skipping",
    "tensors_in",
]

PLACE = "_compiled_call_impl"
"""The attribute of a module that is called instead of it."""


class Instead:
    """What is called in the place of a module, until :meth:`remove`.

    Args:
        module: The module.
        run: What is called: with the call that was there before, then with its arguments.
    """

    __slots__ = ("before", "module", "run")

    def __init__(self, module: nn.Module, run: Callable[..., Any]) -> None:
        self.module, self.run = module, run
        self.before = module.__dict__.get(PLACE)  # made by the compiler
        module.__dict__[PLACE] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run."""
        return self.run(self.original, *args, **kwargs)

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """The module itself, with its hooks."""
        return (self.before or self.module._call_impl)(*args, **kwargs)

    def remove(self) -> None:
        """Give the module back what was there, if it has not got it yet."""
        if self.module.__dict__.get(PLACE) is not self:
            return
        if self.before is None:
            del self.module.__dict__[PLACE]
        else:
            self.module.__dict__[PLACE] = self.before


@dataclass(eq=False)
class Call:
    """One call of a module.

    Attributes:
        module: The module; None for what calls the network.
        parent: The call in which it was made.
        children: The calls made in it, in order.
        plain: Whether it returned tensors, in tuples, lists and dicts, and nothing that might hold others.
    """

    module: nn.Module | None
    parent: Call | None = field(default=None, repr=False)
    children: list[Call] = field(default_factory=list, repr=False)
    plain: bool = False

    def __iter__(self) -> Iterator[Call]:
        """The call and all made in it, in the order in which they began."""
        yield self
        for child in self.children:
            yield from child


@contextmanager
def following(modules: Iterable[nn.Module]) -> Iterator[Call]:
    """Follow the calls of modules inside the ``with``; what is given is the root of their tree."""
    root = Call(None)
    under_way = [root]
    placed: list[Instead] = []

    def watched(module: nn.Module) -> Callable[..., Any]:
        def run(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            call = Call(module, under_way[-1])
            call.parent.children.append(call)
            under_way.append(call)
            try:
                output = original(*args, **kwargs)
            finally:
                under_way.pop()
            call.plain = is_plain(output)
            return output

        return run

    try:
        for module in modules:
            placed.append(Instead(module, watched(module)))
        yield root
    finally:
        while placed:
            placed.pop().remove()


def calls_before(call: Call) -> dict[nn.Module, list[Call | None]]:
    """The calls that need not be made before ``call`` if what they returned is at hand, by module, in order.

    They are the outermost that were through; one that did not return plainly is made again, and those in it are looked
    at instead. None stands for a call that is to be made.
    """
    found: dict[nn.Module, list[Call | None]] = {}

    def take(one: Call) -> None:
        found.setdefault(one.module, []).append(one if one.plain else None)
        if not one.plain:
            for child in one.children:
                take(child)

    path = [call]
    while path[0].parent is not None:
        path.insert(0, path[0].parent)
    for outer, inner in pairwise(path):
        if outer.module is not None:
            found.setdefault(outer.module, []).append(None)
        for child in outer.children:
            if child is inner:
                break
            take(child)
    for calls in found.values():
        while calls and calls[-1] is None:
            calls.pop()
    return {module: calls for module, calls in found.items() if calls}


class Ended(BaseException):
    """The network has come to where it need not go on. No Exception: a network may catch those."""


def grab(
    run: Callable[[], Any], until: nn.Module, calls: dict[nn.Module, list[Call | None]], copy: bool
) -> dict[Call, Any] | None:
    """Run a network until it first calls a module, and keep what calls before that return.

    Args:
        run: Runs the network.
        until: The module.
        calls: Of :func:`calls_before`.
        copy: Whether outputs are copied as they are returned; else they are kept as objects, with what was written to
            them until the module is called.

    Returns:
        The outputs; None if the network did not come to the module or made other calls.
    """
    outputs: dict[Call, Any] = {}
    inside = False  # one of the calls

    def kept(left: Iterator[Call | None]) -> Callable[..., Any]:
        def run(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            call = None if inside else next(left, None)
            if call is None:
                return original(*args, **kwargs)
            inside = True
            try:
                output = original(*args, **kwargs)
            finally:
                inside = False
            outputs[call] = map_tensors(output, Tensor.clone) if copy else map_tensors(output, lambda one: one)
            return output

        return run

    def end(_original: Callable[..., Any], *_args: Any, **_kwargs: Any) -> Any:
        raise Ended

    placed: list[Instead] = []
    came = False
    try:
        for module, several in calls.items():
            placed.append(Instead(module, kept(iter(several))))
        placed.append(Instead(until, end))
        run()
    except Ended:
        came = True
    finally:
        while placed:
            placed.pop().remove()
    wanted = sum(call is not None for several in calls.values() for call in several)
    return outputs if came and len(outputs) == wanted else None


PASS = object()
"""In the place of an output: the call is to be made."""


class Skipped:
    """Calls of one module that are skipped, in order.

    Args:
        module: The module.
        outputs: What each returns, as a template for ``fill``; or :data:`PASS`.
        fill: Makes an output of a template.
    """

    __slots__ = ("before", "fill", "given", "module", "outputs")

    def __init__(self, module: nn.Module, outputs: list[Any], fill: Callable[[Any], Any]) -> None:
        self.module, self.outputs, self.fill, self.given = module, outputs, fill, 0
        self.before = module.__dict__.get(PLACE)
        module.__dict__[PLACE] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The next output; after the last, the module is itself again."""
        output = self.outputs[self.given]
        self.given += 1
        if self.given == len(self.outputs):
            self.remove()
        if output is PASS:
            return (self.before or self.module._call_impl)(*args, **kwargs)
        return self.fill(output)

    remove = Instead.remove

    @property
    def over(self) -> bool:
        """Whether all were asked for."""
        return self.given == len(self.outputs)


@contextmanager
def skipping(outputs: Iterable[tuple[nn.Module, list[Any]]], fill: Callable[[Any], Any]) -> Iterator[list[Skipped]]:
    """Skip calls inside the ``with``.

    Args:
        outputs: For each module what its first calls return.
        fill: Makes an output of a template.

    Yields:
        What stands in the place of the modules.
    """
    placed: list[Skipped] = []
    try:
        for module, several in outputs:
            placed.append(Skipped(module, several, fill))
        yield placed
    finally:
        for one in placed:
            one.remove()


# What modules return.

_ATOMS = (bool, int, float, complex, str, bytes, type(None), torch.Size, torch.dtype, torch.device)


def is_plain(value: Any) -> bool:
    """Whether it is tensors, in tuples, lists and dicts, numbers and names, and nothing else."""
    if isinstance(value, Tensor):
        return value.layout == torch.strided and not value.is_inference()
    if type(value) in (tuple, list) or _is_named(value):
        return all(map(is_plain, value))
    if type(value) in (dict, OrderedDict):
        return all(map(is_plain, value.values()))
    return isinstance(value, _ATOMS)


def map_tensors(value: Any, change: Callable[[Any], Any], kind: type = Tensor) -> Any:
    """The same with every tensor changed, in tuples, lists and dicts of its own.

    Args:
        value: Something plain.
        change: What is made of a tensor.
        kind: What counts as one.
    """
    if isinstance(value, kind):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(map_tensors(one, change, kind) for one in value)
    if _is_named(value):
        return type(value)(*(map_tensors(one, change, kind) for one in value))
    if type(value) in (dict, OrderedDict):
        return type(value)((key, map_tensors(one, change, kind)) for key, one in value.items())
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in something, as far as it is tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from tensors_in(one)


def _is_named(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")
