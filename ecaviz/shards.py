"""One profile by several processes, on one machine or several, each with a part of the images.

    torchrun --nproc-per-node=8 -m ecaviz profile legacy_seresnet50.in1k /data/imagenet/val --out val.profile

torchrun starts the processes and tells each its rank. Process r of R takes the images from ⌊r·N/R⌋ to ⌊(r+1)·N/R⌋ and
writes a file of its own; when all are through, the first process merges the files in the order of the images, which
gives the profile of one pass. On several machines the folder of ``--out`` must be one that all of them see.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from .attention_profile import AttentionProfile

__all__ = ["Shard", "merged", "shard_of_this_process", "together"]

_PART = ", part "


@dataclass(frozen=True)
class Shard:
    """Which part of the images is whose.

    Attributes:
        rank: Number of the process, from 0.
        count: How many processes there are.
        local: Number of the process on its machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise ValueError(f"shard: a rank from 0 to {self.count - 1} was expected, got {self.rank}.")

    def part(self, total: int) -> tuple[int, int]:
        """Positions of the first image and of the one after the last, of ``total``."""
        return self.rank * total // self.count, (self.rank + 1) * total // self.count

    def named(self, images: str) -> str:
        """What a part of a set of images is called."""
        return f"{images}{_PART}{self.rank + 1} of {self.count}"

    def file(self, out: Path) -> Path:
        """The file of this part: ``out`` itself where there is one part."""
        return out if self.count == 1 else out.with_name(f"{out.name}.{self.rank + 1}-of-{self.count}")


def shard_of_this_process() -> Shard:
    """What torchrun says of this process; without torchrun the one and only.

    Raises:
        ValueError: The environment names a rank that cannot be.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not all(name in os.environ for name in names):
        return Shard()
    given = {name: os.environ[name] for name in names}
    try:
        return Shard(*map(int, given.values()))
    except ValueError as error:
        said = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise ValueError(
            f"shard: the environment has {said}; torchrun sets whole numbers, RANK from 0 to below WORLD_SIZE. Start "
            f"the processes with torchrun; or unset {', '.join(names)}, and this one takes all images."
        ) from error


@contextmanager
def together(shard: Shard) -> Iterator[None]:
    """Inside the ``with`` the processes of torchrun know of each other (over gloo, on the CPU)."""
    if shard.count == 1:
        yield
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(days=2))  # the slowest may take hours longer than the first
    try:
        yield
    finally:
        dist.destroy_process_group()


def merged(shard: Shard, out: Path) -> AttentionProfile | None:
    """Wait until every process has written its file; the first merges them into ``out`` and removes them.

    Returns:
        The merged profile in the first process, None in the others.

    Raises:
        FileNotFoundError: A file is missing: on several machines, the folder is not one that all of them see.
    """
    import torch.distributed as dist

    dist.barrier()
    if shard.rank:
        return None
    files = [Shard(rank, shard.count).file(out) for rank in range(shard.count)]
    whole = AttentionProfile.load(files[0])
    first = whole.images
    for file in files[1:]:
        whole = whole.merge(AttentionProfile.load(file))
    whole = replace(whole, images=first.partition(_PART)[0])  # all parts, so the set itself
    whole.save(out)
    for file in files:
        file.unlink()
    return whole
