"""Find the places where a network gates its channels, and read the gates while it runs.

    sites = find_sites(model)                         # what is there
    with capture(model, sites="layer3.*") as gates:   # read it
        logits = model.net(batch)
    gates["layer3.0.se"].gate                         # N×C, float32

A **site** is one attention module, named by its path in the network. Of each site three vectors are read: the
descriptor y (what the squeeze gives), the logit z (what the excitation gives) and the gate ω = a(z). On its first use
a site **proves itself**: that the ω read is a(z), and that the module's output is x·ω; a site whose proof fails raises.

Most gates are one number a channel. Where they are not, ``site.per`` says so: CBAM's spatial stage has one a position,
Gather-Excite with an extent smaller than the map one a patch of each channel.

Which modules are known, and how a site is found, is in :mod:`ecaviz.sites`; how it is read in :mod:`ecaviz.readers`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .fits import TOLERANCE
from .function_calls import StandIn
from .memory import memory_in_words
from .readers import Reader
from .sites import (
    ACTIVATIONS,
    GateSite,
    Proof,
    Selection,
    find_sites,
    network,
    select_channel_sites,
    select_sites,
    site,
)
from .wrappers import followed

__all__ = [
    "ACTIVATIONS",
    "TOLERANCE",
    "Captured",
    "GateRecord",
    "GateSite",
    "Proof",
    "capture",
    "evaluating",
    "find_sites",
    "select_channel_sites",
    "select_sites",
    "site",
]


@dataclass(frozen=True)
class GateRecord:
    """What was read at one site: float32, detached, one row an image.

    ======================================  ================  ===============
    ``site.per``                            descriptor y      logit z, gate ω
    ======================================  ================  ===============
    "channel"                               N×C               N×C
    "channel", CBAM (mean and maximum)      N×2×C             N×C
    "channel", GSoP (covariance)            N×c×c             N×C
    "position", CBAM (maximum and mean)     N×2×H×W           N×1×H×W
    "element", Gather-Excite with extent e  N×C×h×w           N×C×h×w
    ======================================  ================  ===============

    h = ⌈H/e⌉ and w = ⌈W/e⌉. Where a foreign site calls its layers m times in a forward, its descriptor is N×m×C.

    Attributes:
        site: The site.
        descriptor: y. All NaN where a foreign site makes it of no layer that could be read (``site.rung`` tells).
        logit: z.
        gate: ω = a(z), computed in float32 whatever the network ran in. On the rung "least squares", NaN for a channel
            whose map is 0: nothing tells its gate.
    """

    site: GateSite
    descriptor: Tensor
    logit: Tensor
    gate: Tensor

    @property
    def by_channel(self) -> Tensor:
        """One number a channel, N×C: ω itself, or its mean over the patches of the channel's map ("element").

        Raises:
            ValueError: The gates are of positions, the same for every channel.
        """
        if self.site.per == "position":
            raise ValueError(
                f"{self.site.name}: its gates are of positions and the same for every channel; there is none by "
                f"channel. Their map is .gate, N×1×H×W."
            )
        return self.gate if self.gate.ndim == 2 else self.gate.mean(dim=(2, 3))

    def __repr__(self) -> str:
        n, *rest = self.gate.shape
        of = {"channel": "channels", "position": "(one map for all channels)", "element": "(a map for each channel)"}
        shape = "×".join(map(str, rest))
        site = " ".join(part for part in (self.site.family, self.site.setting) if part)
        return f"GateRecord({self.site.name}, {site}, {n} images × {shape} {of[self.site.per]})"


class Captured(Mapping[str, GateRecord]):
    """The records of a capture by site name, in the order the network called them; readable after the ``with``.

    A site called twice in one forward has a second entry ``name#2``; several forwards are concatenated.
    """

    def __init__(self) -> None:
        self._parts: dict[str, tuple[GateSite, list[tuple[Tensor, Tensor]]]] = {}
        self._forwards = 0

    def __getitem__(self, name: str) -> GateRecord:
        try:
            one, parts = self._parts[name]
        except KeyError:
            raise KeyError(
                f"nothing was captured at {name!r}; captured: {', '.join(self._parts) or self._why()}"
            ) from None
        if len(parts) > 1:
            sizes = {tuple(part.shape[1:]) for _, part in parts}
            if len(sizes) > 1:
                raise ValueError(
                    f"capture: the batches gave {name} maps of different sizes, {', '.join(map(str, sorted(sizes)))}, "
                    f"which cannot be joined. Capture batches of one image size, or each by itself."
                )
            parts[:] = [tuple(torch.cat(column) for column in zip(*parts, strict=True))]  # type: ignore[list-item]
        descriptor, logit = parts[0]
        return GateRecord(one, descriptor, logit, one.activate(logit))

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"Captured({', '.join(self._parts)})"

    def _why(self) -> str:
        if self._forwards:
            return (
                "nothing, though the network ran: it called none of the modules that were found. A traced network does "
                "that, and so does a forward that was replaced"
            )
        return "nothing; no batch has gone through this network inside the `with` yet (or a copy of it ran)"

    def clear(self) -> None:
        """Forget what was collected, so that a long run can take it batch by batch."""
        self._parts.clear()

    def _add(self, name: str, one: GateSite, descriptor: Tensor, logit: Tensor) -> None:
        self._parts.setdefault(name, (one, []))[1].append((descriptor, logit))


class _Enough(BaseException):
    """All that is wanted of a forward has been read. No Exception: a network may catch those."""


_MEMORY = (
    "capture: memory ran out inside the `with`. Give the network fewer images at once, or smaller ones, or run it on "
    "the CPU."
)

_RUNNING: list[_Run] = []
"""The captures that are under way: a forward may end early only where all that it concerns have enough."""


class _Run:
    """One capture: its hooks, how often each site was called in the forward under way, and what was read in it.

    What a forward read is kept back until it is through: one that fails half-way (out of memory, say) leaves no rows at
    some sites that others lack.

    A copy of the network, also one that is pickled, takes the hooks along, and with them a run that reads nothing.
    """

    def __init__(self, net: nn.Module | None, captured: Captured, stop: bool) -> None:
        self.net, self.captured, self.stop = net, captured, stop
        self.handles: list[Any] = []
        self.calls: Counter[str] | None = None
        self.whole: Counter[str] | None = None  # the calls of a forward that ran to its end
        self.pending: list[tuple[str, GateSite, Tensor, Tensor]] = []
        self.thread = threading.get_ident()

    def attach(self, sites: Sequence[GateSite]) -> None:
        _RUNNING.append(self)
        self.handles.append(self.net.register_forward_pre_hook(self.on_start))
        self.handles.append(self.net.register_forward_hook(self.on_success))
        self.handles.append(self.net.register_forward_hook(self.on_end, always_call=True))
        if self.stop:
            self.handles.append(StandIn(self.net, self.until_enough))
        for one in sites:
            Reader(one, self).attach()

    def detach(self) -> None:
        while self.handles:
            self.handles.pop().remove()
        if self in _RUNNING:
            _RUNNING.remove(self)

    def __deepcopy__(self, _memo: dict) -> _Run:
        return _Run(None, Captured(), False)

    def __reduce__(self) -> tuple:
        return _Run, (None, Captured(), False)

    def until_enough(self, forward: Callable, *args: Any, **kwargs: Any) -> Any:
        try:
            return forward(*args, **kwargs)
        except _Enough:
            return None

    def on_start(self, module: nn.Module, _args: tuple) -> None:
        if module is self.net and self.handles:
            self.calls = Counter()
            self.pending.clear()  # what is left of a forward that failed
            self.captured._forwards += 1

    def on_success(self, module: nn.Module, _args: tuple, _output: Any) -> None:
        if module is self.net:
            for read in self.pending:
                self.captured._add(*read)
            self.pending.clear()
            self.whole = self.whole or self.calls

    def on_end(self, module: nn.Module, _args: tuple, _output: Any) -> None:
        if module is self.net:
            self.calls = None

    def has_enough(self) -> bool:
        """Whether every site was called as often as in the forward that ran to its end."""
        return self.stop and bool(self.whole) and self.calls == self.whole

    def concerned(self) -> Iterator[_Run]:
        """The other captures that a forward of this network is read by: of it, of a part of it or of what it is in."""
        inside = set(self.net.modules()) if len(_RUNNING) > 1 else set()
        for run in _RUNNING:
            if run is not self and (run.net in inside or any(module is self.net for module in run.net.modules())):
                yield run

    def receive(self, one: GateSite, descriptor: Tensor, logit: Tensor) -> None:
        if threading.get_ident() != self.thread:
            raise RuntimeError(
                f"capture: {one.name} ran in another thread than the capture; run the network in this one."
            )
        if self.calls is None:  # the module was called alone, not by the network
            self.captured._add(one.name, one, descriptor, logit)
            return
        self.calls[one.name] += 1
        again = self.calls[one.name]
        self.pending.append((one.name if again == 1 else f"{one.name}#{again}", one, descriptor, logit))
        if self.has_enough() and one.module is not self.net and all(run.has_enough() for run in self.concerned()):
            raise _Enough


@contextmanager
def capture(model: Any, sites: Selection = None, *, stop: bool = False) -> Iterator[Captured]:
    """Read the gates of a network while it runs.

    Hooks are removed by their own handles when the ``with`` ends, whatever was raised in it. Training flags, gradients,
    dtypes and random state are not touched. Works under autocast, inference_mode, channels_last and gradient
    checkpointing, and nested. A forward that raises adds nothing. If hooks of your own change a gate, the record still
    says a(z).

    A network in DistributedDataParallel is read as the network inside. What torch.compile made runs eagerly inside the
    ``with`` (so it does in all of the process), and a DataParallel on the first of its devices.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.
        sites: A glob, a list of names or globs, a callable of a site, or None for all.
        stop: Whether each forward but the first ends after the last of the sites, which the first tells; the network
            then gives None, to its own forward hooks too. For networks that call their sites alike every time: what
            a later forward would call beyond the calls of the first is not read.

    Yields:
        :class:`Captured`, a mapping from site names to records.

    Raises:
        ValueError: The model has no gates, or nothing matches ``sites``.
        RuntimeError: The network was scripted by torch.jit, or a site failed its proof.

    Warns:
        UserWarning: A DataParallel of several devices.
    """
    net = network(model)
    with followed(network(model, wrapped=True), "capture"):
        chosen = select_sites(net, sites)
        captured = Captured()
        run = _Run(net, captured, stop)
        try:
            run.attach(chosen)
            with memory_in_words(_MEMORY):
                yield captured
        finally:
            run.detach()


@contextmanager
def evaluating(net: nn.Module, *, gradients: bool = False) -> Iterator[None]:
    """Evaluation mode inside the ``with``, and no gradients unless asked for; then all training flags are as before."""
    flags = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        with torch.set_grad_enabled(gradients):
            yield
    finally:
        for module, training in flags:
            module.training = training
