"""What the statistics of :mod:`ecaviz.statistics` share: groups × channels, checks, copying, merging, saving."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from . import checks
from .rows import Groups

__all__ = ["Accumulator", "Sums"]


class Accumulator:
    """What the four share: the grid of groups × channels, the checks, copying and saving.

    Attributes:
        channels: C.
        groups: G, at least 1.
        device: Where the numbers are kept.
    """

    _kept: ClassVar[tuple[str, ...]] = ()  # names of the tensors that are the whole state
    _saved_as: ClassVar[dict[str, torch.dtype]] = {}  # types in a state, where they are others than in memory

    def __init__(self, channels: int, groups: int | None = None, device: torch.device | str = "cpu"):
        self.channels = checks.at_least_one(channels, f"{type(self).__name__}: channels")
        self.groups = 1 if groups is None else checks.at_least_one(groups, f"{type(self).__name__}: groups")
        device = torch.device(device)
        self.device = torch.device("cpu") if device.type == "mps" else device

    def __repr__(self) -> str:
        settings = "".join(f", {name}={value}" for name, value in self._settings().items())
        return f"{type(self).__name__}(channels={self.channels}, groups={self.groups}{settings})"

    def _settings(self) -> dict[str, float]:
        """What two accumulators must agree on, besides C and G, to be merged."""
        return {}

    def _full(self, shape: tuple[int, ...], value: float, dtype: torch.dtype) -> Tensor:
        """A tensor of the state; also under inference_mode one that can be changed outside of it."""
        with torch.inference_mode(False):
            return torch.full(shape, value, dtype=dtype, device=self.device)

    def _take(self, batch: Tensor, groups: Tensor | Groups | None) -> tuple[Tensor, Groups | None]:
        """Batch and groups, checked and on the device; None for the groups where all rows belong to the only one."""
        name = type(self).__name__
        if not isinstance(batch, Tensor) or batch.ndim != 2 or batch.shape[1] != self.channels:
            came = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
            raise ValueError(f"{name}.update: a tensor N×{self.channels} was expected, got {came}.")
        batch = batch.detach().to(self.device)
        if groups is None:
            if self.groups > 1:
                raise ValueError(
                    f"{name}.update: it keeps {self.groups} groups; give the group of each of the {len(batch)} rows."
                )
            return batch, None
        if not isinstance(groups, Groups):
            groups = torch.as_tensor(groups)
            if groups.shape != (len(batch),) or groups.is_floating_point():
                raise ValueError(
                    f"{name}.update: {len(batch)} whole numbers were expected as groups, one a row, "
                    f"got {groups.dtype} of shape {tuple(groups.shape)}."
                )
            groups = Groups.of(groups, self.groups, self.device, who=f"{name}.update")
        if len(groups) != len(batch) or groups.total != self.groups:
            raise ValueError(
                f"{name}.update: it keeps {self.groups} groups, and the batch has {len(batch)} rows; got Groups of "
                f"{groups.total} groups for {len(groups)} rows."
            )
        return batch, None if self.groups == 1 else groups.to(self.device)

    def _added(self, values: Tensor, groups: Groups | None) -> Tensor:
        """Σ over the rows of each group that occurs, P×C; over all rows, 1×C, without groups."""
        if groups is None:
            return values.sum(0, keepdim=True)
        return values.new_zeros(len(groups.present), self.channels).index_add_(0, groups.place, values)

    def _same(self, other) -> None:
        if type(other) is not type(self):
            raise TypeError(
                f"{type(self).__name__}.merge: got a {type(other).__name__}; a {type(self).__name__} was expected."
            )
        if repr(other) != repr(self):
            raise ValueError(f"{type(self).__name__}.merge: {other!r} does not fit {self!r}. Both must be made alike.")

    def copy(self):
        """Another accumulator with the same content."""
        other = object.__new__(type(self))
        with torch.inference_mode(False):
            other.__dict__.update({k: v.clone() if isinstance(v, Tensor) else v for k, v in self.__dict__.items()})
        return other

    def part(self, start: int, stop: int):
        """Another accumulator, on the CPU, with what this one holds of the channels from ``start`` to ``stop``."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.channels, other.device = stop - start, torch.device("cpu")
        with torch.inference_mode(False):
            for name in (f"_{name}" for name in self._kept):
                tensor = getattr(self, name)
                tensor = tensor if tensor.ndim == 1 else tensor[:, start:stop]
                setattr(other, name, torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor))
        return other

    def state_dict(self) -> dict[str, Tensor]:
        """Everything it has seen, as tensors on the CPU."""
        kept = {name: getattr(self, f"_{name}").detach() for name in self._kept}
        return {name: one.to("cpu", self._saved_as.get(name, one.dtype), copy=True) for name, one in kept.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what another accumulator, made alike, had seen.

        Raises:
            ValueError: A tensor is missing, unknown, or has another shape or type.
        """
        if set(state) != set(self._kept):
            raise ValueError(
                f"{self!r}: a state with {', '.join(self._kept)} was expected, got {', '.join(state) or 'none'}."
            )
        for name, new in state.items():
            old = getattr(self, f"_{name}")
            dtype = self._saved_as.get(name, old.dtype)
            if new.shape != old.shape or new.dtype != dtype:
                raise ValueError(
                    f"{self!r}: {name} should be {dtype} of shape {tuple(old.shape)}, "
                    f"got {new.dtype} of shape {tuple(new.shape)}."
                )
        for name, new in state.items():
            getattr(self, f"_{name}").copy_(new.detach())


class Sums(Accumulator):
    """An accumulator whose tensors are counts: merging adds them up."""

    def merge(self, other):
        """Take in what another has seen.

        Returns:
            Itself.

        Raises:
            TypeError: ``other`` is of another kind.
            ValueError: It has other channels, groups or settings.
        """
        self._same(other)
        for name in self._kept:
            getattr(self, f"_{name}").add_(getattr(other, f"_{name}").to(self.device))
        return self

    def pooled(self):
        """The same without groups: all of them taken as one."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.groups = 1
        with torch.inference_mode(False):
            for name in (f"_{name}" for name in self._kept):
                setattr(other, name, getattr(self, name).sum(0, keepdim=True))
        return other
