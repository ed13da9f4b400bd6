"""What ``ecaviz.profile`` adds to the forward pass, and how much memory it takes.

    python benchmarks/overhead.py [--pairs 30] [--batch 16] [--images 16] [--threads 1] [--device cpu] [--record]
    python benchmarks/overhead.py --alone [the same]
    python benchmarks/overhead.py --memory [--numbers 1000 10000] [--batch 16] [--device cpu] [--record]

Time. The network is legacy_seresnet50 with random weights, the images float tensors of 224×224 in memory, the labels
random among its 1000 classes. Four passes over the same batches take turns, in an order drawn anew each time:

- plain: the forward pass, in eval mode and without gradients, its images read by ``ecaviz.images.batches`` as well;
- capture: the same inside ``ecaviz.capture``, with ``clear()`` after each batch;
- profile: ``ecaviz.profile`` with ``by=None``, and with ``by="class"``.

Each turn gives the ratio of each to the plain pass beside it; the figures are the median of these ratios and its exact
95 % interval by order statistics (from the binomial distribution: two of the sorted ratios). One turn more is run
before. Every pass begins with 1000 images of 16×16, one a class, in which the statistics of all classes make their
room; the ratio is of the time from their end to that of the last batch. "Once a pass" is all the rest, less that of the
plain pass: the fingerprint of the weights, the room, and the statistics of all classes made ready at the end. For a
pass over n batches, multiply the first and add the second.

What the hooks and the statistics take a batch is also measured alone, since beside a network's second it is lost in
the noise: the 16 attention modules by themselves, without the network around them, each on the descriptors that it got
in there (as maps of 1×1), plain, captured and profiled in turns. Hooks are captured less plain, statistics are profiled
less captured. Their data lie in the cache then, so inside the network they can take longer. ``--alone`` measures
nothing else.

Memory that a forward pass gives back to the system has to be asked for again, page by page, and whether it is given
back depends on what else lies at the end of it: the statistics of a profile do, and save a network on a CPU up to a
fifth of its time. That is no merit, so the C library is told to keep memory (``MALLOC_TRIM_THRESHOLD_``), for all four
passes. It does so for blocks of up to 32 MiB, which leaves the first layers' out.

Memory. The peak of one pass over 1,000 and over 10,000 images of 64×64 with 1000 classes, drawn when they are asked
for, each in a process of its own: the largest resident size of the process, and on a card the most that torch had
allocated.

On a card all clocks are read after ``torch.cuda.synchronize()``. With ``--dtype bfloat16`` every pass runs under
autocast.

Results: build/benchmarks/overhead.csv (with --memory: overhead_memory.csv); ``--record`` appends them, with date,
hardware and version of torch, to the file of that name in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import timm
import torch
from _measure import DTYPES, machine, median_interval, precision, wait
from _table import Table
from torch import Tensor, nn

import ecaviz

CLASSES = 1000
ALONE = 10
"""Batches of a pass of the attention modules by themselves."""


class Held:
    """Batches in memory, as a loader; it clocks the time from the end of the first ones to that of the others."""

    def __init__(self, first: list[tuple[Tensor, Tensor]], clocked: list[tuple[Tensor, Tensor]], device: torch.device):
        self.first, self.clocked, self.device = first, clocked, device
        self.dataset = range(sum(len(x) for x, _labels in (*first, *clocked)))  # whose length is asked for
        self.seconds = 0.0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self.first
        wait(self.device)
        start = time.perf_counter()
        yield from self.clocked
        wait(self.device)
        self.seconds = time.perf_counter() - start


class Modules(nn.Module):
    """The attention modules of a network by themselves, each called with the descriptors that it got in there."""

    def __init__(self, net: nn.Module, x: Tensor):
        super().__init__()
        self.parts = nn.ModuleList(site.module for site in ecaviz.find_sites(net))
        self.descriptors: list[Tensor] = []
        handles = [
            part.register_forward_pre_hook(
                lambda _module, args: self.descriptors.append(args[0].mean(dim=(2, 3), keepdim=True))
            )
            for part in self.parts
        ]
        self.logits = net(x)
        for handle in handles:
            handle.remove()

    def forward(self, _x: Tensor) -> Tensor:
        """All of them; what it is given does not matter."""
        for part, descriptor in zip(self.parts, self.descriptors, strict=True):
            part(descriptor)
        return self.logits


class Passes:
    """The four passes of one network over the same batches: the seconds of each, on its batches' clock and in all."""

    def __init__(self, net: nn.Module, held: Held, dtype: str):
        self.held, self.dtype = held, dtype
        names = [str(i) for i in range(CLASSES)]
        self.model = ecaviz.load(net, device=held.device, classes=names)
        self.do: dict[str, Callable[[], object]] = {
            "plain": self.plain,
            "capture": self.capture,
            "profile by=None": lambda: self.profile(None),
            'profile by="class"': lambda: self.profile("class"),
        }

    def plain(self) -> None:
        """The forward pass alone."""
        with torch.no_grad():
            for x, _labels in ecaviz.images.batches(self.held, device=next(self.model.net.parameters())):
                self.model.net(x)

    def capture(self) -> None:
        """The forward pass with hooks on."""
        with ecaviz.capture(self.model) as gates, torch.no_grad():
            for x, _labels in ecaviz.images.batches(self.held, device=next(self.model.net.parameters())):
                self.model.net(x)
                gates.clear()

    def profile(self, by: str | None) -> None:
        """All that ecaviz does."""
        ecaviz.profile(self.model, self.held, by=by, progress=False)

    def turn(self, order: random.Random) -> dict[str, tuple[float, float]]:
        """All four, in a random order."""
        ways, took = list(self.do), {}
        order.shuffle(ways)
        for way in ways:
            wait(self.held.device)
            start = time.perf_counter()
            with precision(self.held.device, self.dtype):
                self.do[way]()
            wait(self.held.device)
            took[way] = self.held.seconds, time.perf_counter() - start
        return took

    def turns(self, count: int) -> list[dict[str, tuple[float, float]]]:
        """So many turns, after one that is not counted."""
        order = random.Random(0)
        self.turn(order)
        return [self.turn(order) for _ in range(count)]


def timing(given: argparse.Namespace, device: torch.device, table: Table) -> None:
    torch.manual_seed(0)
    net = timm.create_model("legacy_seresnet50", pretrained=False).eval().to(device)

    def drawn(batches: int, size: int) -> list[tuple[Tensor, Tensor]]:
        shape = (given.batch, 3, size, size)
        return [(torch.randn(shape, device=device), torch.randint(CLASSES, shape[:1])) for _ in range(batches)]

    count = given.images // given.batch
    every = torch.randn(CLASSES, 3, 16, 16, device=device), torch.arange(CLASSES)
    held = Held([every], drawn(count, given.size), device)
    with torch.no_grad():
        modules = Modules(net, held.clocked[0][0]).eval()
    first = [
        (x, (i * given.batch + torch.arange(len(x))) % CLASSES)
        for i, (x, _) in enumerate(drawn(-(-CLASSES // given.batch), 1))
    ]
    alone = Held(first, drawn(ALONE, 1), device)

    def row(what: str, unit: str, values: list[float], digits: int) -> None:
        median, low, high = (round(value, digits) for value in median_interval(values))
        settings = {"device": device.type, "dtype": given.dtype, "threads": given.threads, "size": given.size}
        counts = {"batch": given.batch, "images": count * given.batch, "pairs": given.pairs}
        figures = {"what": what, "unit": unit, "median": median, "low": low, "high": high}
        table.add(**machine(device), **settings, **counts, **figures)

    profiles = ("profile by=None", 'profile by="class"')
    turns = Passes(modules, alone, given.dtype).turns(given.pairs)
    for what, way, less in (
        ("hooks alone", "capture", "plain"),
        *((f"statistics alone, {way.removeprefix('profile ')}", way, "capture") for way in profiles),
    ):
        row(what, "ms a batch", [1000 * (turn[way][0] - turn[less][0]) / ALONE for turn in turns], 2)
    if given.alone:
        return

    turns = Passes(net, held, given.dtype).turns(given.pairs)
    for way in ("capture", *profiles):
        row(way, "× plain", [turn[way][0] / turn["plain"][0] for turn in turns], 4)
    row("plain", "ms a batch", [1000 * turn["plain"][0] / count for turn in turns], 1)
    for way in profiles:
        row(f"{way}: more than plain", "ms a batch", [1000 * (t[way][0] - t["plain"][0]) / count for t in turns], 1)
    for way in profiles:
        rest = [{which: whole - clocked for which, (clocked, whole) in turn.items()} for turn in turns]
        row(f"{way}: once a pass", "ms", [1000 * (one[way] - one["plain"]) for one in rest], 1)


class Drawn(torch.utils.data.Dataset):
    """Images that take no memory: each is drawn when it is asked for."""

    def __init__(self, count: int, size: int):
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if i >= self.count:
            raise IndexError(i)
        random = torch.Generator().manual_seed(i)
        return torch.randint(256, (3, self.size, self.size), generator=random, dtype=torch.uint8), i % CLASSES


def one(way: str, count: int, given: argparse.Namespace, device: torch.device) -> None:
    """The peak of one pass in this process, in MiB."""
    torch.manual_seed(0)
    net = timm.create_model("legacy_seresnet50", pretrained=False).eval()
    names = [str(i) for i in range(CLASSES)]
    model = ecaviz.load(net, transform=lambda x: x.float() / 128 - 1, classes=names, device=device)
    images = Drawn(count, given.size)
    with precision(device, given.dtype):
        if way == "plain":
            with torch.no_grad():
                for x, _labels in ecaviz.images.batches(images, model.transform, given.batch, device):
                    model.net(x)
        else:
            ecaviz.profile(model, images, by="class", batch_size=given.batch, progress=False)
    wait(device)
    on_card = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
    print(json.dumps({"peak": peak, "on_card": on_card}))


def memory(given: argparse.Namespace, device: torch.device, table: Table) -> None:
    for way, numbers in (("plain", given.numbers[:1]), ('profile by="class"', given.numbers)):
        for count in numbers:
            command = [sys.executable, __file__, "--memory", "--one", way, str(count), "--size", str(given.size)]
            command += ["--batch", str(given.batch), "--threads", str(given.threads)]
            command += ["--device", str(device), "--dtype", given.dtype]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode:
                sys.exit(f"{way}, {count} images: failed: {run.stderr.strip()}")
            found = json.loads(run.stdout.strip().splitlines()[-1])
            settings = {"device": device.type, "dtype": given.dtype, "threads": given.threads, "size": given.size}
            table.add(
                **machine(device),
                **settings,
                batch=given.batch,
                images=count,
                what=way,
                peak_mib=round(found["peak"]),
                card_mib="" if found["on_card"] is None else round(found["on_card"]),
            )


def keep_memory() -> None:
    """Start again with a C library that keeps what was given back to it; see above."""
    kept = {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TOP_PAD_": str(2**26)}
    if sys.platform == "linux" and any(os.environ.get(name) != value for name, value in kept.items()):
        os.environ.update(kept)
        os.execv(sys.executable, [sys.executable, *sys.argv])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=30, help="turns of each pass (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="images a batch (default: %(default)s)")
    parser.add_argument("--images", type=int, default=16, help="images a pass, in whole batches (default: %(default)s)")
    parser.add_argument("--size", type=int, help="their side in pixels (default: 224, and 64 with --memory)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    parser.add_argument("--alone", action="store_true", help="measure the hooks and the statistics alone, a minute")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    parser.add_argument("--numbers", type=int, nargs="+", default=[1000, 10000], help="of images, for --memory")
    parser.add_argument("--record", action="store_true", help="append the rows to benchmarks/results/ as well")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "NUMBER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.size = given.size or (64 if given.memory else 224)
    if not given.memory and not given.one:
        keep_memory()
    if given.images < given.batch:
        parser.error(f"--images {given.images} makes no whole batch of {given.batch}")
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    if given.one:
        one(given.one[0], int(given.one[1]), given, device)
        return
    if given.memory:
        columns = {"what": "{:<18}", "images": "{:>6}", "peak_mib": "{:>8}", "card_mib": "{:>8}"}
        table = Table("overhead_memory", **columns)
        memory(given, device, table)
    else:
        table = Table("overhead", what="{:<38}", unit="{:<10}", median="{:>9}", low="{:>9}", high="{:>9}")
        timing(given, device, table)
    table.write()
    if given.record:
        table.record()


if __name__ == "__main__":
    main()
