"""What the statistics of a batch share: the group and the image number of each row, worked out once, on the CPU.

A GPU runs behind the program that feeds it. Whatever asks the GPU for a value, or for how many there are, makes the
program wait until the GPU has caught up. So what depends on values (which groups are there, how often, whether they are
in range) is worked out on the CPU, and only the finished index tensors go to the device, without waiting for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Groups", "Numbers", "sent"]


@dataclass(frozen=True, eq=False)
class Groups:
    """The group of each row of a batch. Made by :meth:`of`; serves any number of accumulators with as many groups.

    Attributes:
        total: G, how many groups there are.
        labels: int64 N on the CPU, the group of each row.
        rows: The same on the device, like all that follow.
        present: int64 P, the groups that occur, in order.
        place: int64 N, where in ``present`` the group of each row stands.
        counts: int64 P, how many rows each group that occurs has.
        first: int64 P, the first row of each group that occurs.
    """

    total: int
    labels: Tensor
    rows: Tensor
    present: Tensor
    place: Tensor
    counts: Tensor
    first: Tensor

    @classmethod
    def of(cls, labels: Tensor, total: int, device: torch.device | str = "cpu", *, who: str = "Groups.of") -> Groups:
        """Work it out. Labels that lie on a GPU are waited for.

        Args:
            labels: Whole numbers N, the group of each row.
            total: G.
            device: Where the index tensors are put.
            who: What an error begins with.

        Raises:
            ValueError: The labels are no whole numbers, one a row, or one is not within 0…G−1.
        """
        labels = torch.as_tensor(labels).detach().cpu()
        if labels.ndim != 1 or labels.is_floating_point():
            raise ValueError(
                f"{who}: whole numbers were expected as groups, one a row, got {labels.dtype} of shape "
                f"{tuple(labels.shape)}."
            )
        labels = labels.long()
        present, place, counts = labels.unique(return_inverse=True, return_counts=True)
        if len(present) and (int(present[0]) < 0 or int(present[-1]) >= total):
            raise ValueError(f"{who}: groups run from 0 to {total - 1}, got {int(present[0])} to {int(present[-1])}.")
        first = torch.full_like(present, len(labels)).scatter_reduce_(0, place, torch.arange(len(labels)), "amin")
        return cls(total, labels, *sent([labels, present, place, counts, first], device))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def runs(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """(groups P′, rows P′×M) of the groups with about equally many rows; together every group that occurs, once.

        M is the next power of two of the number of rows, so that there are few runs and at most twice as many places as
        rows. Places that are left over hold N, the number of a row that is not there.
        """
        present, place, counts = self.labels.unique(return_inverse=True, return_counts=True)
        order = place.argsort(stable=True)
        starts = counts.cumsum(0) - counts
        widths = torch.tensor([1 << (count - 1).bit_length() for count in counts.tolist()])
        found = []
        for width in widths.unique().tolist():
            mine = (widths == width).nonzero()[:, 0]
            step = torch.arange(width)
            at = (starts[mine, None] + step).clamp(max=len(order) - 1)
            rows = torch.where(step < counts[mine, None], order[at], len(order))
            groups, rows = sent([present[mine], rows.view(-1)], self.rows.device)
            found.append((groups, rows.view(-1, width)))
        return tuple(found)

    def to(self, device: torch.device | str) -> Groups:
        """The same with the index tensors on a device; itself where they are there."""
        device = torch.device(device)
        here = self.rows.device
        if here.type == device.type and device.index in (None, here.index):
            return self
        tensors = [self.rows, self.present, self.place, self.counts, self.first]
        return Groups(self.total, self.labels, *sent(tensors, device))


@dataclass(frozen=True, eq=False)
class Numbers:
    """The image number of each row of a batch, and its rank among them. Made by :meth:`of`.

    Attributes:
        values: int64 N on the device.
        rank: int64 N on the device: 0 for the row with the smallest number; of equal numbers the first row comes first.
        ends: The smallest and the largest number; None where the numbers came on a GPU, and looking would be waiting.
    """

    values: Tensor
    rank: Tensor
    ends: tuple[int, int] | None

    @classmethod
    def of(cls, numbers: Tensor, device: torch.device | str = "cpu") -> Numbers:
        """Rank the numbers where they lie, and put both on the device.

        Args:
            numbers: Whole numbers N.
            device: Where the tensors are put.
        """
        numbers = torch.as_tensor(numbers).detach().long()
        order = numbers.argsort(stable=True)
        ends = None
        if len(numbers) and numbers.device.type == "cpu":
            ends = int(numbers[order[0]]), int(numbers[order[-1]])
        return cls(*sent([numbers, order.argsort()], device), ends)

    def __len__(self) -> int:
        return len(self.values)


def sent(tensors: list[Tensor], device: torch.device | str) -> list[Tensor]:
    """int64 vectors put on a device in one copy that is not waited for."""
    device = torch.device(device)
    if device.type == "cpu" or tensors[0].device.type != "cpu":
        return [one.to(device) for one in tensors]
    together = torch.cat(tensors)
    if device.type == "cuda" and torch.cuda.is_available():
        together = together.pin_memory()  # from other memory the copy is waited for, whatever is asked
    return list(together.to(device, non_blocking=True).split([len(one) for one in tensors]))
