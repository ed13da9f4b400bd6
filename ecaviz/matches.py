"""A state dict beside the network it belongs to: names, shapes, and how two sets of them differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Match", "Shapes", "differences", "shapes", "shapes_of"]

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Match:
    """A network and the weights that fit it.

    Attributes:
        name: The architecture, such as ``ECA-ResNet-50`` or a timm name.
        layout: Where the gates were found, in words; empty where the names are those of the network itself.
        build: Makes the network, with random weights.
        state: The weights, named as the network names them.
        source: "plain", "timm", "torchvision" or "bundled": whose preprocessing suits it.
        data: Of the bundled, the set of images it was trained on: "shapes" or "cifar10".
    """

    name: str
    layout: str
    build: Callable[[], nn.Module] = field(repr=False)
    state: dict[str, Tensor] = field(repr=False)
    source: str
    data: str = "shapes"

    def network(self) -> nn.Module:
        """Build the network and load the weights into it, every one of them."""
        with NoDraws():
            net = self.build()
        net.load_state_dict(self.state)
        return net


class NoDraws(TorchFunctionMode):
    """Leaves weights as they lie in memory instead of drawing them: for networks that are loaded at once.

    That saves half the time, and no draw is taken from the caller's random numbers.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        drawn = args[0] if args else (kwargs or {}).get("tensor")
        if function in (Tensor.normal_, Tensor.uniform_) or getattr(function, "__module__", "") == "torch.nn.init":
            return drawn
        return function(*args, **(kwargs or {}))


class NoWeights(TorchFunctionMode):
    """Makes the tensors that weights are made of on the meta device, where they take no memory and no time.

    ``torch.device("meta")`` would do the same to every tensor; torchvision's RegNets compute with some of theirs.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


def shapes_of(build: Callable[[], nn.Module]) -> Shapes:
    """Names and shapes of a network's weights, without making the weights."""
    with NoDraws(), NoWeights():
        net = build()
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def shapes(state: dict[str, Tensor]) -> Shapes:
    """Names and shapes of a state dict."""
    return {key: tuple(value.shape) for key, value in state.items()}


def differences(expected: Shapes, found: Shapes) -> str:
    """In words, how two sets of weights differ: what is missing, what is too many, what has another shape."""

    def listed(keys: list[str]) -> str:
        return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")

    missing = [key for key in expected if key not in found and not key.endswith("num_batches_tracked")]
    extra = [key for key in found if key not in expected and not key.endswith("num_batches_tracked")]
    other = [
        f"{key} {'×'.join(map(str, found[key]))} instead of {'×'.join(map(str, expected[key]))}"
        for key in expected
        if key in found and found[key] != expected[key]
    ]
    parts = [("Missing from the file", missing), ("Only in the file", extra), ("Other shapes", other)]
    return " ".join(f"{what}: {listed(keys)}." for what, keys in parts if keys)
