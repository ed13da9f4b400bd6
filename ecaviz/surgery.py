"""Surgery on a trained ECA network: another kernel in its place, for as long as a ``with`` lasts, and what that does.

    with kernel_surgery(model, {"layer3.0.se": 9}):             # the same weights, padded with zeros to k = 9
        logits = model.net(batch)
    with kernel_surgery(model, "layer4.*", "permute", seed=1):  # neighbours drawn by lot: is locality worth anything?
        ...
    surgery_effect(model, images, "layer4.*", "permute").to_frame()

==========  ==========================================================================================================
mode        what takes the place of z = Conv1D_k(y)
==========  ==========================================================================================================
"resize"    the kernel with another k, cropped or padded with zeros about its centre
"impulse"   the centre weight alone: every channel listens to itself
"circular"  the same kernel, with channels that wrap around instead of zeros beyond either end
"permute"   the same kernel over the channels in another order, drawn once for each site: P⁻¹·Conv1D_k(P·y)
"random"    a kernel of normal random numbers with the same norm ‖w‖
==========  ==========================================================================================================

The weights themselves are never touched: what stands in for the convolution goes away at the end, whatever was raised,
and the network is what it was, bit for bit. Source of ECA: Wang et al., CVPR 2020, Eq. 9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import checks, gates
from .attention import channel_conv
from .effects import Change, Effect, measure, stream_of
from .function_calls import StandIn
from .kernels import ecas_among, resize_kernel
from .sites import GateSite, Selection, network, pick_sites, select_sites
from .wrappers import followed

__all__ = ["MODES", "Operation", "kernel_surgery", "operating", "operations", "surgery_effect"]

MODES = ("resize", "impulse", "circular", "permute", "random")


@contextmanager
def kernel_surgery(
    model: Any,
    sites: Mapping[str, Any] | Selection = None,
    mode: str = "resize",
    *,
    kernel_size: int | None = None,
    seed: int = 0,
) -> Iterator[tuple[GateSite, ...]]:
    """Another kernel at some ECA sites of a network, inside the ``with``.

    Surgeries may be nested. On one site the innermost counts, but for permutations, which add up.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.
        sites: Which sites: a glob, a list, a callable, or None for every ECA; or a mapping from names or globs to what
            each is to get: its k for "resize", its order of the channels (int64 C) for "permute".
        mode: One of :data:`MODES`.
        kernel_size: k for "resize", where ``sites`` is no mapping.
        seed: Of the random numbers of "permute" and "random"; every site has its own.

    Yields:
        The sites under surgery.

    Raises:
        ValueError: No ECA is among the sites, an unknown mode, no k or an even one, an order that is none; when the
            network runs, a circular kernel that goes round the channels more than once.
        RuntimeError: The network was scripted by torch.jit.
    """
    made = operations(select_sites(model), sites, mode, kernel_size=kernel_size, seed=seed)
    with followed(network(model, wrapped=True), "kernel_surgery"), operating(made):
        yield tuple(one.site for one in made)


class Operation:
    """What takes the place of one ECA's convolution: a function of descriptors, whether the network runs or not.

    Args:
        site: The ECA.
        run: From the descriptors y, N×C, and the convolution that is there, N×C → N×C, to the logits z, N×C. None
            where nothing is to change.
        kernel: The weights that take the place of the learned ones; None where those stay.
    """

    def __init__(
        self,
        site: GateSite,
        run: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor] | None,
        kernel: Tensor | None = None,
    ) -> None:
        self.site, self.run, self.kernel = site, run, kernel

    def logits(self, descriptors: Tensor) -> Tensor:
        """The logits z of descriptors, N×C → N×C, in the dtype of the weights.

        No module is called, so that surgeries under way and hooks play no part.
        """
        site = self.site
        conv, kernel = _conv(site), site.kernel
        y = descriptors.to(kernel)

        def convolution(y: Tensor) -> Tensor:
            return _convolved(y, kernel, site.padding, conv.bias)

        return convolution(y) if self.run is None else self.run(y, convolution)

    def attach(self) -> StandIn | None:
        """Put it in the place of the site's convolution; None where nothing is to change."""
        if self.run is None:
            return None
        conv, operation = _conv(self.site), self.run
        # What timm's CecaModule has padded already.
        padded = self.site.padding == "circular" and conv.padding_mode == "zeros"
        reach = (self.site.kernel_size - 1) // 2 if padded else 0

        def run(forward: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
            def convolution(flat: Tensor) -> Tensor:
                if reach:
                    flat = torch.cat([flat[:, -reach:], flat, flat[:, :reach]], dim=1)
                return forward(flat.unsqueeze(1)).squeeze(1)

            return operation(y[:, 0, reach : y.shape[2] - reach], convolution).unsqueeze(1)

        return StandIn(conv, run)


@contextmanager
def operating(made: Iterable[Operation]) -> Iterator[None]:
    """The operations in their places inside the ``with``, of a network whose modules are called as modules."""
    handles: list[StandIn] = []
    try:
        for one in made:
            stand_in = one.attach()
            if stand_in is not None:
                handles.append(stand_in)
        yield
    finally:
        while handles:
            handles.pop().remove()


def operations(
    every: Sequence[GateSite],
    sites: Mapping[str, Any] | Selection = None,
    mode: str = "resize",
    *,
    kernel_size: int | None = None,
    seed: int = 0,
) -> list[Operation]:
    """What :func:`kernel_surgery` does, as operations that are not in their places yet.

    Args:
        every: All sites of the model, as :func:`ecaviz.find_sites` lists them.
        sites: As for :func:`kernel_surgery`, like the three that follow.
        mode: One of :data:`MODES`.
        kernel_size: k for "resize".
        seed: Of the random numbers.

    Raises:
        ValueError: As for :func:`kernel_surgery`.
    """
    if mode not in MODES:
        raise ValueError(f"kernel_surgery: mode {mode!r} is not known. Modes: {', '.join(MODES)}.")
    depths = {one.name: depth for depth, one in enumerate(ecas_among(every, "kernel_surgery"))}
    made = []
    for site, given in _wanted(every, sites, mode, kernel_size):
        drawn = torch.Generator().manual_seed(1_000_003 * seed + depths[site.name])
        made.append(_permuted(site, given, drawn) if mode == "permute" else _replaced(site, mode, given, drawn))
    return made


def _wanted(every: Sequence[GateSite], sites: Any, mode: str, kernel_size: int | None) -> list[tuple[GateSite, Any]]:
    """The ECA sites, each with what it is to get."""
    known = ecas_among(every, "kernel_surgery")
    if kernel_size is not None and (mode != "resize" or isinstance(sites, Mapping)):
        raise ValueError('kernel_surgery: kernel_size is for the mode "resize", where sites is no mapping.')
    if isinstance(sites, Mapping):
        if mode not in ("resize", "permute"):
            raise ValueError(
                f"kernel_surgery: a mapping says k or an order of channels; the mode {mode!r} wants neither."
            )
        found = {one.name: (one, given) for pattern, given in sites.items() for one in pick_sites(every, pattern)}
    else:
        chosen = known if sites is None else pick_sites(every, sites)
        found = {one.name: (one, kernel_size) for one in chosen}
    other = [name for name, (one, _) in found.items() if one.family != "eca"]
    if other or not found:
        raise ValueError(
            f"kernel_surgery: {', '.join(other) or 'none'}: only an ECA has a kernel over the channels. ECA sites of "
            f"this model: {', '.join(one.name for one in known)}."
        )
    if mode == "resize":
        if any(given is None for _, given in found.values()):
            raise ValueError('kernel_surgery: the mode "resize" needs a k: {"layer3.0.se": 9}, or kernel_size=9.')
        return [(one, checks.kernel_size(given, "kernel_surgery: k")) for one, given in found.values()]
    return list(found.values())


def _replaced(site: GateSite, mode: str, given: Any, drawn: torch.Generator) -> Operation:
    """Another kernel, or another padding; None where nothing is to change."""
    kernel, padding = site.kernel, site.padding
    if mode == "resize":
        if given == site.kernel_size:
            return Operation(site, None)
        kernel = resize_kernel(kernel, given)
    elif mode == "impulse":
        kernel = resize_kernel(resize_kernel(kernel, 1), len(kernel))
    elif mode == "random":
        normal = torch.randn(len(kernel), generator=drawn, dtype=torch.float64)
        kernel = (normal * (kernel.double().norm().cpu() / normal.norm())).to(kernel)
    else:
        padding = "circular"
    bias = _conv(site).bias

    def run(y: Tensor, _convolution: Callable) -> Tensor:
        checks.padding(padding, len(kernel), y.shape[1], f"kernel_surgery: {site.name}")
        return _convolved(y, kernel.to(y), padding, bias)

    return Operation(site, run, None if mode == "circular" else kernel)


def _permuted(site: GateSite, given: Any, drawn: torch.Generator) -> Operation:
    """The channels in another order, then the convolution that is there, then their own order again."""
    order = None if given is None else torch.as_tensor(given).long().cpu()
    if order is not None and not torch.equal(order.flatten().sort().values, torch.arange(order.numel())):
        raise ValueError(f"kernel_surgery: {site.name}: an order of the channels holds each of 0…C−1 once.")

    def run(y: Tensor, convolution: Callable[[Tensor], Tensor]) -> Tensor:
        nonlocal order
        channels = y.shape[1]
        if order is None:
            order = torch.randperm(channels, generator=drawn)
        if len(order) != channels:
            raise ValueError(f"kernel_surgery: {site.name} has {channels} channels; the order is of {len(order)}.")
        there = order.to(y.device)
        return convolution(y[:, there])[:, there.argsort()]

    return Operation(site, run)


def _conv(site: GateSite) -> nn.Module:
    return site.module.get_submodule(site.layout.conv)


def _convolved(y: Tensor, kernel: Tensor, padding: str, bias: Tensor | None) -> Tensor:
    z = channel_conv(y, kernel, padding)
    return z if bias is None else z + bias


def surgery_effect(
    model: Any,
    images: Any,
    sites: Mapping[str, Any] | Selection = None,
    mode: str = "resize",
    *,
    kernel_size: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
) -> Effect:
    """Run a network over images as it is and under surgery, and compare.

    Args:
        model: What :func:`ecaviz.load` returns.
        images: In any form that :func:`ecaviz.images.batches` takes; labels are used where there are any.
        sites: As for :func:`kernel_surgery`, like the three that follow.
        mode: One of :data:`MODES`.
        kernel_size: k for "resize".
        seed: Of the random numbers.
        batch_size: Images run at once.
        progress: Whether to show a progress bar.

    Returns:
        The :class:`ecaviz.Effect`.

    Raises:
        ValueError: As for :func:`kernel_surgery`; or the network gives no logits N×K.
    """
    net = network(model)
    names = tuple(one.name for one, _ in _wanted(select_sites(net), sites, mode, kernel_size))

    @contextmanager
    def place(_labels: Tensor | None) -> Iterator[Callable[[], dict[str, Tensor]]]:
        with (
            kernel_surgery(net, sites, mode, kernel_size=kernel_size, seed=seed),
            gates.capture(net, names) as captured,
        ):
            yield lambda: {name: record.gate for name, record in captured.items()}

    change = {mode: Change(mode, names, place)}
    return measure(model, stream_of(model, images, batch_size), change, what="surgery_effect", progress=progress)[mode]
