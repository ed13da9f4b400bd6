"""Interventions on gates: another gate in the place of a network's own, for as long as a ``with`` lasts.

    with intervene(model, {"layer3.0.se": "mean"}, profile=profile):      # frozen at its mean over the profile's images
        logits = model.net(batch)
    with intervene(model, "layer4.*", "class-mean", profile=profile) as under:
        under.labels = labels                                             # before each batch
        logits = model.net(batch)
    intervention_effect(model, images, None, "mean", profile=profile).to_frame()

The modes are those of :mod:`ecaviz.gate_changes`. The attention module runs as ever, with its hooks, and a capture in
the ``with`` reads its own gate ω = a(z); what it returns, x·ω + β, is replaced by x·ω' + β. So the network behind it
sees the other gate, and the gates there react. A gate at 1 also moves the scale that the layers behind it were trained
for: what that costs is not what the module adds to a network that is trained without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .effects import Change, Effect, measure, stream_of
from .gate_changes import MODES, GateChange, changes, class_rows, described, needs_labels
from .layouts import known_by_name
from .module_calls import PLACE, Instead
from .readers import Reader, as_met, in_backward
from .sites import GateSite, Selection, network
from .wrappers import followed

if TYPE_CHECKING:
    from .attention_profile import AttentionProfile

__all__ = [
    "MODES",
    "Intervention",
    "in_place",
    "intervene",
    "intervening",
    "intervention_effect",
    "intervention_effects",
]


@contextmanager
def intervene(
    model: Any,
    sites: Mapping[str, Any] | Selection = None,
    mode: Any = None,
    *,
    profile: AttentionProfile | None = None,
    seed: int = 0,
) -> Iterator[Intervention]:
    """Other gates at some sites of a network, inside the ``with``.

    Afterwards the network is what it was, whatever was raised. Interventions nest: to the inner one, the own gate is
    what the outer one made of it. Gradients flow, to x and, where ω' is made of ω, to the gate. Works under autocast,
    inference_mode, channels_last and gradient checkpointing, and with :class:`ecaviz.CachedRun`. What torch.compile
    made runs eagerly inside the ``with``, and a DataParallel on the first of its devices.

    A module that is called several times in a forward takes the means of each call (``name``, ``name#2``) from the
    profile.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.
        sites: A mapping from names or globs to the mode of each; or which sites, where ``mode`` is given: a glob, a
            list, a callable, or None for all. Of several sites those that the mode makes no sense at are left out:
            gates of positions (CBAM's spatial stage) take "none", "one" and "swap" alone.
        mode: "none", "one", "mean", "class-mean", {"class-mean": "disc"}, "swap", "permute", {"channels": [3, 5]},
            {"channels": [3, 5], "to": 0.5} or {"contrast": 2}; see :mod:`ecaviz.gate_changes`.
        profile: Of this network, for the modes that take means from it.
        seed: Of "swap" and "permute".

    Yields:
        The :class:`Intervention`: its sites, the gates at work in the latest forward, and where "class-mean" is told
        the labels.

    Raises:
        TypeError: ``profile`` is no profile.
        ValueError: The model has no gates, nothing matches ``sites``, an unknown mode or one that makes no sense at a
            site; no profile where one is needed, one of other weights, without the site, or not by class. When the
            network runs: "swap" in a batch of one, "class-mean" without labels.
        RuntimeError: The network was scripted by torch.jit, or a site failed its proof.

    Warns:
        UserWarning: A DataParallel of several devices.
    """
    with intervening(model, changes(model, sites, mode, profile=profile, seed=seed), profile) as under:
        yield under


@contextmanager
def intervening(
    model: Any, made: Sequence[GateChange], profile: AttentionProfile | None = None
) -> Iterator[Intervention]:
    """As :func:`intervene`, with changes that were checked before."""
    with followed(network(model, wrapped=True), "intervene"), in_place(network(model), made, profile) as under:
        yield under


@contextmanager
def in_place(
    net: nn.Module, made: Sequence[GateChange], profile: AttentionProfile | None = None
) -> Iterator[Intervention]:
    """As :func:`intervening`, of a network whose modules are called as modules."""
    under = Intervention(net, made, profile)
    try:
        under._attach()
        yield under
    finally:
        under._detach()


class Intervention:
    """An intervention under way.

    Attributes:
        sites: The sites under it, in the order of the network.
        gates: ω' of the latest forward by the site's name (``name#2`` for the second call), float32, in the shape of
            the record that :func:`ecaviz.capture` makes.
    """

    def __init__(self, net: nn.Module, made: Sequence[GateChange], profile: AttentionProfile | None) -> None:
        self.sites: tuple[GateSite, ...] = tuple(one.site for one in made)
        self.gates: dict[str, Tensor] = {}
        self._net, self._made, self._profile = net, made, profile
        self._rows: Tensor | None = None
        self._again: Tensor | None = None  # the labels of the latest forward, for checkpointing's second run of it
        self._calls: Counter[str] | None = None  # of the forward under way
        self._before: Counter[str] = Counter()  # of the latest
        self._placed: list[_Around] = []
        self._seats: list[_Seat] = []

    def __repr__(self) -> str:
        return f"Intervention({', '.join(f'{one.site.name}: {one.mode}' for one in self._made)})"

    @property
    def labels(self) -> Tensor | None:
        """The class of each image of the next batch: N names, or N numbers of the profile's classes.

        They hold for one forward of the network: when it is through they are None again, so that no batch is run with
        the labels of another. After one that failed they stay, so that it can be tried again.
        """
        return self._rows

    @labels.setter
    def labels(self, given: Any) -> None:
        if given is not None and self._profile is None:
            raise ValueError("intervene: labels are for the mode 'class-mean', with a profile by class.")
        self._rows = None if given is None else class_rows(given, self._profile)

    def _attach(self) -> None:
        for one in self._made:
            seat = _Seat()
            self._seats.append(seat)
            _Own(one.site, seat).attach()
            around = _Around(one.site.module, lambda *_: None)
            around.run = self._at(one, seat, around)
            self._placed.append(around)
        whole = _Around(self._net, lambda *_: None)
        whole.run = self._forward
        self._placed.append(whole)

    def _detach(self) -> None:
        while self._placed:
            self._placed.pop().remove()
        while self._seats:
            seat = self._seats.pop()
            while seat.handles:
                seat.handles.pop().remove()

    def _forward(self, original: Callable, *args: Any, **kwargs: Any) -> Any:
        """In the place of the network."""
        if self._calls is not None or not self._placed:  # it calls itself
            return original(*args, **kwargs)
        self._calls = Counter()
        self.gates.clear()
        try:
            output = original(*args, **kwargs)
        finally:
            self._before, self._calls = self._calls, None
        self._rows, self._again = None, self._rows
        return output

    def _call(self, site: GateSite) -> int:
        """Which call of a module in this forward this is, from 1 on."""
        if self._calls is not None:
            self._calls[site.name] += 1
            return self._calls[site.name]
        if in_backward() and self._before[site.name] > 1:
            raise RuntimeError(
                f"intervene: {site.name} is called {self._before[site.name]} times in a forward, and gradient "
                f"checkpointing runs it again without telling which call it is. Switch checkpointing off."
            )
        return 1

    def _at(self, one: GateChange, seat: _Seat, around: _Around) -> Callable[..., Tensor]:
        """In the place of an attention module."""
        site, copies = one.site, _may_write(one.site)

        def run(original: Callable, *args: Any, **kwargs: Any) -> Tensor:
            x = args[0] if args else next(iter(kwargs.values()))
            x = x.clone() if copies else x
            call = self._call(site)
            out = original(*args, **kwargs)
            own = around.beneath()
            if own is None:
                own = seat.gate(site, x, out)
            rows = self._again if self._rows is None and in_backward() else self._rows
            gate = own if one.run is None else one.run(own, call, rows)
            name = site.name if call == 1 else f"{site.name}#{call}"
            with torch.inference_mode(False):
                self.gates[name] = gate.detach().to(torch.float32, copy=True)
            around.show(gate)
            return out if one.run is None else _gated(x, out, own, gate, one)

        return run


def _may_write(site: GateSite) -> bool:
    """Whether a module may write to its input: none of those that are known by their class does."""
    return site.rung != "registry" or known_by_name(site.module)


def _gated(x: Tensor, out: Tensor, own: Tensor, gate: Tensor, one: GateChange) -> Tensor:
    """x·ω' + β, as the module would have returned it."""

    def product(gate: Tensor) -> Tensor:
        return x * as_met(gate.nan_to_num().to(x.dtype), x)  # where a gate is not known, x is 0

    new = product(gate)
    if one.site.added:
        new = new + (out - product(own)).mean(dim=(2, 3), keepdim=True)
    new = new.to(out.dtype)
    if one.channels is None:
        return new
    there = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
    there[one.channels.to(x.device)] = True
    return torch.where(there[:, None, None], new, out)  # the others bit for bit


class _Around(Instead):
    """What is called in the place of a module, and tells the one around it which gate it gave."""

    __slots__ = ("given", "over")

    def __init__(self, module: nn.Module, run: Callable[..., Any]) -> None:
        super().__init__(module, run)
        self.given: Tensor | None = None
        self.over = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run; once it was removed, what was there before."""
        return self.original(*args, **kwargs) if self.over else self.run(self.original, *args, **kwargs)

    def show(self, gate: Tensor) -> None:
        """Keep the gate, if there is another around this one."""
        self.given = gate if self.module.__dict__.get(PLACE) is not self else None

    def beneath(self) -> Tensor | None:
        """The gate that the one inside gave; None if there is none."""
        inner = self.before
        while isinstance(inner, _Around) and inner.over:
            inner = inner.before
        if not isinstance(inner, _Around):
            return None
        gate, inner.given = inner.given, None
        return gate

    def remove(self) -> None:
        """Give the module back what was there; one that stands upon this one goes on without it."""
        self.over = True
        super().remove()
        while isinstance(there := self.module.__dict__.get(PLACE), _Around) and there.over:
            Instead.remove(there)


class _Seat:
    """What was read of the own gate in the call under way."""

    def __init__(self) -> None:
        self.handles: list[Any] = []
        self.live: Tensor | None = None  # z, with what autograd needs
        self.logit: Tensor | None = None

    def __deepcopy__(self, _memo: dict) -> _Seat:
        return _Seat()

    def __reduce__(self) -> tuple:
        return _Seat, ()

    def receive(self, _one: GateSite, _descriptor: Tensor, logit: Tensor) -> None:
        self.logit = logit

    def gate(self, site: GateSite, x: Tensor, out: Tensor) -> Tensor:
        """ω, in float32 at least."""
        live, logit = self.live, self.logit
        self.live = self.logit = None
        if logit is None:
            raise RuntimeError(f"intervene: {site.name} ran in a way that its gate could not be read.")
        if live is not None:
            return site.activate(live.to(torch.promote_types(live.dtype, torch.float32)))
        gate = site.activate(logit)
        if not (torch.is_grad_enabled() and out.requires_grad):
            return gate
        # The value as it was read, with the derivative of what it is: the factor between x and the output.
        a, b = x.to(gate.dtype), out.to(gate.dtype)
        if site.added:
            a, b = (one - one.mean(dim=(2, 3), keepdim=True) for one in (a, b))
        size = a.square().sum(dim=(2, 3))
        told = size > 0
        factor = torch.where(told, (a * b).sum(dim=(2, 3)) / torch.where(told, size, 1), 0)
        return gate + (factor - factor.detach())


class _Own(Reader):
    """Reads the gate as a capture does, and keeps what autograd needs; also in a checkpointed forward's second run."""

    def listens(self, module: nn.Module, own: nn.Module) -> bool:
        return self.run.handles != [] and module is own

    def is_inside(self) -> bool:
        return self.inside

    def on_enter(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.run.live = self.run.logit = None
        super().on_enter(module, args, kwargs)

    def on_logit(self, module: nn.Module, args: tuple) -> None:
        super().on_logit(module, args)
        if self.listens(module, self.watched) and self.inside and self.is_the_call():
            self.run.live = self.shaped(args[0]).clone()

    def on_layer(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        super().on_layer(module, args, output)
        if self.listens(module, self.watched) and self.inside:
            z = self.shaped(output)
            self.run.live = z.clone() if self.run.live is None else self.run.live + z


def intervention_effect(
    model: Any,
    images: Any,
    sites: Mapping[str, Any] | Selection = None,
    mode: Any = None,
    *,
    profile: AttentionProfile | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
) -> Effect:
    """Run a network over images as it is and under an intervention, and compare.

    Args:
        model: What :func:`ecaviz.load` returns.
        images: In any form that :func:`ecaviz.images.batches` takes; labels are used where there are any.
        sites: As for :func:`intervene`, like the three that follow.
        mode: A mode, where ``sites`` is no mapping.
        profile: Of this network.
        seed: Of "swap" and "permute".
        batch_size: Images run at once; "swap" takes the gates of another of them, so the images should come in mixed
            order. Raised where the last batch would be of one image.
        progress: Whether to show a progress bar.

    Returns:
        The :class:`ecaviz.Effect`: accuracy where labels tell, agreement, divergence, by image.

    Raises:
        ValueError: As for :func:`intervene`; or the network gives no logits N×K.
    """
    one = {"": (sites, mode)}
    options = {"profile": profile, "seed": seed, "batch_size": batch_size, "progress": progress}
    return intervention_effects(model, images, one, **options)[""]


def intervention_effects(
    model: Any,
    images: Any,
    interventions: Mapping[str, tuple[Mapping[str, Any] | Selection, Any]],
    *,
    profile: AttentionProfile | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
) -> dict[str, Effect]:
    """As :func:`intervention_effect`, of several interventions beside one run of the network as it is.

    Args:
        model: As there.
        images: As there.
        interventions: For each label the sites and the mode (None where the sites are a mapping that says it).
        profile: As there, like the three that follow.
        seed: Of "swap" and "permute".
        batch_size: Images run at once.
        progress: Whether to show a progress bar.

    Returns:
        The effects by label. Their bootstrap intervals draw the same images, so that they can be compared.

    Raises:
        ValueError: As there; or no intervention.
    """
    if not interventions:
        raise ValueError("intervention_effects: at least one intervention was expected.")
    stream = stream_of(model, images, batch_size)
    if stream.total is not None and any(_swaps(sites, mode) for sites, mode in interventions.values()):
        while 1 < batch_size < stream.total and stream.total % batch_size == 1:
            batch_size += 1  # a last batch of one image would have nobody to swap with
        stream = stream_of(model, images, batch_size)
    asked: dict[str, Change] = {}
    for label, (sites, mode) in interventions.items():
        made = changes(model, sites, mode, profile=profile, seed=seed)
        words = dict.fromkeys(one.mode for one in made) if mode is None else [described(mode)]
        names = tuple(one.site.name for one in made)
        asked[label] = Change(", ".join(words), names, _placing(model, made, profile, stream.classes))
    return measure(model, stream, asked, what="interventions", progress=progress)


def _swaps(sites: Any, mode: Any) -> bool:
    return mode == "swap" or (isinstance(sites, Mapping) and "swap" in sites.values())


def _placing(model: Any, made: Sequence[GateChange], profile: Any, classes: Sequence[str] | None) -> Callable:
    @contextmanager
    def place(labels: Tensor | None) -> Iterator[Callable[[], Mapping[str, Tensor]]]:
        with intervening(model, made, profile) as under:
            if labels is not None and needs_labels(made):
                under._rows = class_rows(labels, profile, classes)
            yield lambda: under.gates

    return place
