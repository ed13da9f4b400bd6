"""A network run once and kept, so that a change at one site costs no more than the layers behind it.

    cached = CachedRun(model, images)                          # one forward pass over a few images
    cached.gates_under("layer3.0.se", kernel_size=9)           # the gates of that site alone: no network is run
    cached.logits_under("layer3.0.se", kernel_size=9)          # the prediction: the network from that site on
    with a_change_of_your_own(model):
        cached.run_from("layer3.0.se")                         # the same, whatever is changed there and behind it

How. Before a module is called for the first time, other modules were called and have returned. In a run from that
module on, the outermost of these calls are skipped: each returns what it returned before, so that the network's own
forward finds its way; functions that are called between modules are called again. Kept are the outputs that somebody
looks at (in a residual block the input of the shortcut and that of the site, of the blocks before nothing).

This holds for any network whose parts hand on what they return and nothing else. So each start **proves itself** before
its first use: run from there, the unchanged network must give the logits of the whole run, after the skipped part has
seen other images. Where it does not, every run from there is one of the whole network, and a warning says so.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .batches import batches
from .effects import checked_logits
from .gates import GateRecord, capture, evaluating
from .module_calls import PASS, Call, calls_before, following, grab, map_tensors, skipping, tensors_in
from .sites import GateSite, Selection, find_sites, network
from .snapshots import Snapshot
from .surgery import operating, operations
from .wrappers import followed

__all__ = ["CachedRun", "Restart"]

_MOST = 64  # images
_UNITS = 8  # in the last place of the largest logit: what a proof may be off by, about 1e-6 of it in float32


@dataclass(frozen=True)
class Restart:
    """How a network is run from one module on.

    Attributes:
        name: Path of the module.
        partial: Whether what comes before is skipped; False where every run is one of the whole network.
        reason: Why it is not; "" where it is.
        skipped: How many calls of modules are skipped, not counting those in them.
        nbytes: Of what is kept for it.
    """

    name: str
    partial: bool
    reason: str = ""
    skipped: int = 0
    nbytes: int = 0


class CachedRun:
    """A network's run over a few images, from which it can be run again from any module on.

    Every run is in evaluation mode, without gradients, and under the autocast that was on when it was made; training
    flags, weights and hooks are left as they are. Modules that are skipped are not called, so that hooks on them, and
    captures, see nothing. The first run from a module prepares it, for the time of about two whole runs:
    :meth:`prepare` does so beforehand.

    A weight that is changed later is noticed, and an error; what is not noticed is a value written through its
    ``.data``, or another attribute, such as a stride. Calls from several threads take turns, but :meth:`gates_under`,
    which waits for nothing; the network itself must not be run by others meanwhile.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.
        images: A few, at most 64, in any form that :func:`ecaviz.images.batches` takes.

    Attributes:
        net: The network, out of its wrappers.
        sites: Its sites, in its order.
        batch: The images as the network takes them, N×3×H×W.
        logits: N×K.
        records: What :func:`ecaviz.capture` reads in a whole run, by site name.

    Raises:
        ValueError: The network has no gates, or gives no logits N×K; no images, or too many.
        RuntimeError: The network was scripted by torch.jit.
    """

    def __init__(self, model: Any, images: Any) -> None:
        self.net = network(model)
        self._name = getattr(model, "name", type(self.net).__name__)
        self._lock = threading.RLock()
        self._plans: dict[str, _Plan | None] = {}  # None: not partial
        self._restarts: dict[str, Restart] = {}
        self._careful: set[str] = set()
        self._autocast: tuple[str, bool, torch.dtype] | None = None
        with followed(network(model, wrapped=True), "CachedRun"):
            # Compiled parts and several devices have to be followed each time, which costs a little.
            self._followed = any(
                isinstance(one, nn.DataParallel)
                or type(one).__name__ == "OptimizedModule"
                or one.__dict__.get("_compiled_call_impl") is not None
                for one in self.net.modules()
            )
            first = next(self.net.parameters(), None)
            kind = "cpu" if first is None else first.device.type
            self._autocast = kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
            with torch.inference_mode(False), evaluating(self.net):
                self.batch = _one_batch(model, images, first)
                self._snapshot = Snapshot(self.net)
                given = self.batch.clone()
                with capture(self.net) as captured, following(self._snapshot.modules.values()) as root:
                    output = checked_logits(self.net(given), "CachedRun")
                self.logits = output.detach().clone()
        self.records: Mapping[str, GateRecord] = MappingProxyType(dict(captured))
        self.sites: tuple[GateSite, ...] = tuple(find_sites(self.net))
        self._input_changes = given._version != 0
        self._first: dict[str, tuple[int, Call]] = {}  # the first call of each module, and which one it was
        names = {module: name for name, module in self._snapshot.modules.items()}
        for at, call in enumerate(root):
            if call.module is not None:
                self._first.setdefault(names[call.module], (at, call))
        changed = self._snapshot.change()
        self._stateful = "" if changed is None else f"the network changes {changed} when it runs"
        if changed is not None:
            self._snapshot = Snapshot(self.net)

    @property
    def gates(self) -> dict[str, Tensor]:
        """The gates ω of every site, N×C where there is one number a channel."""
        return {name: record.gate for name, record in self.records.items()}

    @property
    def descriptors(self) -> dict[str, Tensor]:
        """The descriptors y of every site."""
        return {name: record.descriptor for name, record in self.records.items()}

    @property
    def nbytes(self) -> int:
        """Bytes kept for runs from the modules that were prepared."""
        return sum(one.nbytes for one in self._restarts.values())

    def __len__(self) -> int:
        return len(self.batch)

    def __repr__(self) -> str:
        ready = ", ".join(name for name, one in self._restarts.items() if one.partial) or "none yet"
        return (
            f"CachedRun({self._name}, {len(self)} images, {len(self.sites)} sites; ready to run from: {ready}; "
            f"{self.nbytes / 2**20:.1f} MiB)"
        )

    # The site itself.

    def gates_under(
        self,
        site: str | GateSite | Mapping[str, Any],
        mode: str = "resize",
        *,
        kernel_size: int | None = None,
        seed: int = 0,
    ) -> Tensor:
        """The gates of one site under surgery, from its descriptors: the network is not run.

        Of a site that is called twice, those of its first call.

        Args:
            site: An ECA; or a mapping from its name to what it is to get, as for :func:`ecaviz.kernel_surgery`.
            mode: As there, like the two that follow.
            kernel_size: k for "resize".
            seed: Of the random numbers.

        Returns:
            ω, N×C, float32: what :func:`ecaviz.capture` reads there inside
            ``kernel_surgery(model, site, mode, …)``.

        Raises:
            ValueError: As for :func:`ecaviz.kernel_surgery`; or not one site, or one that was not called.
            RuntimeError: The weights are not those of the run any more.
        """
        made = operations(self.sites, site, mode, kernel_size=kernel_size, seed=seed)
        if len(made) != 1:
            names = ", ".join(one.site.name for one in made)
            raise ValueError(f"gates_under: one site was expected, got {len(made)}: {names}.")
        one = made[0].site
        if one.name not in self.records:
            raise ValueError(f"gates_under: the network did not call {one.name}, so it has no descriptors.")
        self._check()
        with self._conditions():
            return one.activate(made[0].logits(self.records[one.name].descriptor).float())

    # The network from a site on.

    def logits_under(
        self,
        sites: Mapping[str, Any] | Selection = None,
        mode: str = "resize",
        *,
        kernel_size: int | None = None,
        seed: int = 0,
    ) -> Tensor:
        """The logits under surgery; the network is run from the first site on that it changes.

        Args:
            sites: As for :func:`ecaviz.kernel_surgery`, like the three that follow.
            mode: One of :data:`ecaviz.surgery.MODES`.
            kernel_size: k for "resize".
            seed: Of the random numbers.

        Returns:
            N×K; those of the whole run, where nothing changes.

        Raises:
            ValueError: As for :func:`ecaviz.kernel_surgery`.
            RuntimeError: As for :meth:`run_from`.
        """
        made = operations(self.sites, sites, mode, kernel_size=kernel_size, seed=seed)
        names = [one.site.name for one in made if one.run is not None and one.site.name in self._first]
        if not names:
            self._check()
            return self.logits.clone()
        with self._lock:
            name = self._prepared(names)
            with operating(made):
                return self._run(name)

    def run_from(self, start: str | GateSite | Sequence[str | GateSite]) -> Tensor:
        """The logits, the network being run from a module on.

        For use inside a ``with`` that changes it: what is changed must lie in that module or behind it.

        Args:
            start: A site or the path of any module; of several, the one that is called first counts.

        Returns:
            N×K.

        Raises:
            ValueError: There is no such module, or the network did not call it.
            RuntimeError: The weights or the modules are not those of the run any more, or something stands in for a
                module that is to be skipped.

        Warns:
            UserWarning: Once a module: it cannot be started there, and every run is one of the whole network.
        """
        with self._lock:
            return self._run(self._prepared(start))

    def prepare(self, start: str | GateSite | Sequence[str | GateSite]) -> Restart:
        """Get ready to run from a module on, if that was not done: keep what it takes, and prove that it is enough.

        The network is run in it as it was when this object was made, without the hooks and the surgeries that came
        since.

        Args:
            start: As for :meth:`run_from`.

        Raises:
            ValueError: As there.
            RuntimeError: As there.

        Warns:
            UserWarning: As there.
        """
        with self._lock:
            return self._restarts[self._prepared(start)]

    def _prepared(self, start: Any) -> str:
        """The name of the module to start from, for which there is a plan now, or the knowledge that there is none."""
        name = self._earliest(start)
        self._check()
        if name in self._plans:
            return name
        with self._conditions(), self._snapshot.restored():
            plan, reason = self._planned(name)
        kept = (0, 0) if plan is None else (plan.skipped, plan.nbytes)
        self._plans[name], self._restarts[name] = plan, Restart(name, plan is not None, reason, *kept)
        if plan is None:
            warnings.warn(
                f"CachedRun: {self._name} cannot be run from {name} on: {reason}. The whole network is run.",
                stacklevel=3,
            )
        return name

    def _run(self, name: str) -> Tensor:
        plan = self._plans[name]
        if plan is None:
            with self._conditions():
                return self._whole()
        other = self._snapshot.stood_in(plan.modules)
        if other is not None:
            raise RuntimeError(
                f"CachedRun: {self._snapshot.name(other)} was changed (something stands in for its forward), and it "
                f"is called before {name}, where the run was to start. Start from there."
            )
        with self._conditions():
            output, through = self._partial(plan)
            if not through:  # another way than before, because of what was changed
                output = self._whole()
        if not plan.is_intact():
            # What was changed writes into its input. The numbers are right; what was kept is spoilt.
            del self._plans[name], self._restarts[name]
            self._careful.add(name)
        return output

    def _earliest(self, start: Any) -> str:
        several = [start] if isinstance(start, str | GateSite) else list(start)
        names = [getattr(one, "name", one) for one in several]
        if not names:
            raise ValueError("CachedRun: the name of a module to start from was expected, got none.")
        for name in names:
            if name not in self._snapshot.modules:
                known = ", ".join(one.name for one in self.sites)
                raise ValueError(f"CachedRun: {self._name} has no module {name!r}. Its sites: {known}.")
            if name not in self._first:
                raise ValueError(f"CachedRun: the network did not call {name!r}, so it cannot be run from there.")
        return min(names, key=lambda name: self._first[name][0])

    def _check(self) -> None:
        changed = self._snapshot.change()
        if changed is not None and not self._stateful:
            raise RuntimeError(
                f"CachedRun: {self._name} is not the network that was run: {changed} changed since. Make a new "
                f"CachedRun."
            )

    @contextmanager
    def _conditions(self) -> Iterator[None]:
        """Those of the first run: evaluation, no gradients, the autocast."""
        kind, enabled, dtype = self._autocast
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            if (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) != (enabled, dtype):
                stack.enter_context(torch.autocast(kind, dtype, enabled))
            if True in [module.training for module in self._snapshot.modules.values()]:
                stack.enter_context(evaluating(self.net))
            if self._followed:
                stack.enter_context(followed(self.net, "CachedRun"))
            yield

    def _whole(self) -> Tensor:
        return checked_logits(self.net(self._images()), "CachedRun")

    def _partial(self, plan: _Plan, tensors: list[Tensor] | None = None) -> tuple[Tensor, bool]:
        """Run from a module on; whether all calls that were to be skipped were."""
        tensors = plan.given() if tensors is None else tensors

        def fill(template: Any) -> Any:
            return map_tensors(template, lambda at: tensors[at.index], _At)

        with skipping(plan.outputs, fill) as placed:
            output = checked_logits(self.net(self._images()), "CachedRun")
        return output, all(one.over for one in placed)

    def _images(self) -> Tensor:
        return self.batch.clone() if self._input_changes else self.batch

    # What it takes to run from a module on.

    def _planned(self, name: str) -> tuple[_Plan | None, str]:
        """A plan that has proven itself; or None, and why."""
        if self._stateful:
            return None, self._stateful
        module = self._snapshot.modules[name]
        calls = calls_before(self._first[name][1])
        careful, found = name in self._careful, ""
        for copy, drop in ((False, True), (True, False)):
            outputs = grab(lambda: self.net(self._images()), module, calls, copy)
            if outputs is None:
                continue
            grab(lambda: self.net(0.5 - self.batch.flip(-1)), module, {}, False)
            plan = _Plan(calls, outputs, careful)
            try:
                if self._looked_at(plan, drop) and self._proves(plan):
                    return plan, ""
            except Exception as error:  # whatever a network says to what it is given
                found = f"{type(error).__name__}: {str(error)[:200]}"
        if not _same(self._whole(), self.logits):
            return None, "two runs of the unchanged network give different logits"
        return None, "what comes before it hands on more than what its modules return" + (found and f" ({found})")

    def _looked_at(self, plan: _Plan, drop: bool) -> bool:
        """Run on copies, to see which are looked at and which are written to; whether the run went its way."""
        copies = [one.clone() for one in plan.tensors]
        with _Touched(copies) as touched:
            output, through = self._partial(plan, copies)
        touched.look(output)
        plan.settle([one._version != 0 for one in copies], touched.found if drop else set(range(len(copies))))
        return through

    def _proves(self, plan: _Plan) -> bool:
        output, through = self._partial(plan)
        return through and plan.is_intact() and _same(output, self.logits)


@dataclass(frozen=True)
class _At:
    """In the place of a tensor: which one."""

    index: int


class _Plan:
    """The calls to skip before one module, and what they return."""

    def __init__(self, calls: Mapping[nn.Module, list[Call | None]], outputs: Mapping[Call, Any], careful: bool):
        self.careful = careful
        self.tensors: list[Tensor] = []
        places: dict[int, _At] = {}

        def placed(one: Tensor) -> _At:
            if id(one) not in places:
                places[id(one)] = _At(len(self.tensors))
                self.tensors.append(one.detach())
            return places[id(one)]

        self.outputs = [
            (module, [PASS if call is None else map_tensors(outputs[call], placed) for call in several])
            for module, several in calls.items()
        ]
        self.skipped = len(outputs)
        self.modules = list(dict.fromkeys(inner.module for call in outputs for inner in call))
        self.copied = [careful] * len(self.tensors)
        self.versions = [one._version for one in self.tensors]

    def settle(self, written: Iterable[bool], looked_at: set[int]) -> None:
        """Keep what is looked at; of what is written to, copies are given out."""
        self.copied = [self.careful or one for one in written]
        for at, one in enumerate(self.tensors):
            if at not in looked_at and (one.is_floating_point() or one.is_complex()):
                # Of the same shape, and without memory. If somebody looks at it after all, it shows.
                self.tensors[at] = one.new_full((1,) * one.ndim, torch.nan).expand(one.shape)
                self.copied[at] = False
        self.versions = [one._version for one in self.tensors]

    def given(self) -> list[Tensor]:
        """The tensors for one run."""
        return [one.clone() if copy else one for one, copy in zip(self.tensors, self.copied, strict=True)]

    def is_intact(self) -> bool:
        """Whether nobody has written to what is kept."""
        return all(one._version == version for one, version in zip(self.tensors, self.versions, strict=True))

    @property
    def nbytes(self) -> int:
        """Of what is kept."""
        held = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in self.tensors}
        return sum(held.values())


class _Touched(TorchFunctionMode):
    """Notes which of some tensors functions are called with."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self.places = {one.untyped_storage().data_ptr(): at for at, one in enumerate(tensors) if one.numel()}
        self.found = {at for at, one in enumerate(tensors) if not one.numel()}

    def look(self, value: Any) -> None:
        """Note those in a value."""
        for one in tensors_in(value):
            at = self.places.get(one.untyped_storage().data_ptr())
            if at is not None:
                self.found.add(at)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the function."""
        kwargs = kwargs or {}
        self.look((args, kwargs))
        return func(*args, **kwargs)


def _one_batch(model: Any, images: Any, like: Tensor | None) -> Tensor:
    """The images, in one batch of their own."""
    transform = None if isinstance(model, nn.Module) else model.transform
    several = iter(batches(images, transform, _MOST, "cpu" if like is None else like))
    x, _labels = next(several)
    if next(several, None) is not None:
        raise ValueError(
            f"CachedRun: a few images were expected, at most {_MOST}, for what they leave in the network is kept. "
            f"Take the first of them."
        )
    return x.detach().clone()


def _same(output: Tensor, expected: Tensor) -> bool:
    """Whether logits are the same but for rounding."""
    scale = float(expected.abs().nan_to_num(0).max().clamp_min(1))
    unit = torch.finfo(expected.dtype).eps
    within = max(_UNITS * min(unit, torch.finfo(torch.float32).eps), unit) * scale
    return output.shape == expected.shape and torch.allclose(output, expected, rtol=0, atol=within, equal_nan=True)
