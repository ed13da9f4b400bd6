"""Networks in a wrapper: DataParallel, DistributedDataParallel, torch.compile. What is in them, and how hooks reach it.

A compiled network does not call hooks that come later, and DataParallel runs copies that hooks cannot tell apart. So
:func:`followed` has them run eagerly, and on one device, for as long as somebody reads along.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["followed", "unwrapped"]


def unwrapped(net: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel or what torch.compile returned; else itself."""
    while True:
        if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        elif type(net).__name__ == "OptimizedModule":  # naming its class would import the compiler
            net = net._orig_mod
        else:
            return net


@contextmanager
def followed(net: nn.Module, what: str) -> Iterator[None]:
    """Inside the ``with`` every module of the network is called as a module, so that hooks on it are run.

    What was compiled runs eagerly, with nothing compiled anew now or later; what is a DataParallel runs on the first of
    its devices.

    Args:
        net: The network, wrapped or not.
        what: Who asks, for messages.

    Raises:
        RuntimeError: The network was scripted or traced: it holds no modules that could be called.

    Warns:
        UserWarning: A DataParallel of several devices.
    """
    for name, module in net.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise RuntimeError(
                f"{what}: {name or type(net).__name__} was scripted or traced by torch.jit, and such a network calls "
                f"no hooks. Use the network that it was made from; it has the same weights."
            )
    parallel = [one for one in net.modules() if isinstance(one, nn.DataParallel) and len(one.device_ids) > 1]
    with ExitStack() as stack:
        for one in parallel:
            warnings.warn(
                f"{what}: a DataParallel of {len(one.device_ids)} devices runs on the first of them meanwhile. For "
                f"several at once: torchrun -m ecaviz profile.",
                stacklevel=4,
            )
            stack.callback(setattr, one, "device_ids", one.device_ids)
            one.device_ids = one.device_ids[:1]
        stack.enter_context(_eager())
        yield


_stance: list[Any] = []
"""How many are reading along, as entries; in the first what gives the compiler back the stance it had."""
_lock = threading.Lock()


@contextmanager
def _eager() -> Iterator[None]:
    """Everything compiled runs eagerly, until the last of those who want that has left, in whatever order they leave.

    Also where nothing is compiled yet: it may be inside the ``with``, and the compiler cannot follow the hooks.
    """
    with _lock:
        _stance.append(None if _stance else torch.compiler.set_stance("force_eager"))
    try:
        yield
    finally:
        with _lock:
            first = _stance[0]
            _stance.pop()
            if not _stance:
                first.__exit__(None, None, None)
