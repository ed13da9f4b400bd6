"""What a changed kernel costs: the gates from kept descriptors, and the prediction from the changed site on.

    python benchmarks/surgery.py [--pairs 30] [--images 1] [--size 224] [--threads 1] [--device cpu] [--record]

The network is timm's ecaresnet50d with random weights, the images one of 224×224. At one site the kernel is cropped to
k = 1, and the logits are asked for in four ways, which take turns in an order drawn anew each time:

- ecaviz: ``CachedRun(net, x).logits_under(site, kernel_size=1)``, prepared before;
- by hand, block: an ``nn.Sequential`` of the block that was changed, those behind it and the head, on what the block
  was given, kept from a run before. It is of a copy of the network that has the other kernel in it, so nothing of the
  surgery is in its time;
- by hand, site: the same from the site on, within its block: the least there is to run;
- whole: that copy, from the image on.

All four must give the same numbers, and other ones than the unchanged network. Each turn gives the ratio of ecaviz to
each other way beside it; the figures are the median of these ratios and its exact 95 % interval by order statistics
(from the binomial distribution). One turn more is run before. "Gates" is ``gates_under``, without any network, for the
images and for 16 of them; "prepare" is what the first change at a site costs beforehand, measured once.

On a card all clocks are read after ``torch.cuda.synchronize()``. Results: build/benchmarks/surgery.csv; ``--record``
appends them, with date, hardware and version of torch, to benchmarks/results/surgery.csv.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from collections.abc import Callable
from functools import partial

import timm
import torch
from _measure import machine, median_interval, wait
from _table import Table
from torch import Tensor, nn

import ecaviz

SITES = ("layer1.0.se", "layer2.1.se", "layer3.2.se", "layer4.0.se", "layer4.2.se")
TOLERANCE = 1e-6  # of the largest logit
MANY = 16  # images, of the gates


class Rest(nn.Module):
    """One of timm's bottleneck blocks from its attention on, and all behind it."""

    def __init__(self, block: nn.Module, behind: nn.Module):
        super().__init__()
        self.block, self.behind = block, behind

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """The attention's input and the block's → logits."""
        x = self.block.se(x)
        if self.block.downsample is not None:
            shortcut = self.block.downsample(shortcut)
        x += shortcut
        return self.behind(self.block.act3(x))


class ByHand:
    """A network with another kernel at one site, and what it takes to run it from there."""

    def __init__(self, net: nn.Module, site: str, x: Tensor):
        self.net, self.x = copy.deepcopy(net), x
        blocks = [block for i in range(1, 5) for block in getattr(self.net, f"layer{i}")]
        block = self.net.get_submodule(site.removesuffix(".se"))
        at = blocks.index(block)
        head = (self.net.global_pool, self.net.fc)
        self.from_block = nn.Sequential(*blocks[at:], *head)
        self.from_site = Rest(block, nn.Sequential(*blocks[at + 1 :], *head))
        self.given: list[Tensor] = []
        handles = [
            part.register_forward_pre_hook(lambda _module, args: self.given.append(args[0].clone()))
            for part in (block, block.se)
        ]
        self.unchanged = self.net(x)
        for handle in handles:
            handle.remove()
        conv = nn.Conv1d(1, 1, 1, bias=False).to(x)
        conv.weight.copy_(block.se.conv.weight[:, :, block.se.conv.kernel_size[0] // 2, None])
        block.se.conv, block.se.padding = conv, 0

    def ways(self) -> dict[str, Callable[[], Tensor]]:
        """By what the ratio is called."""
        given, at_site = self.given
        return {
            "by hand, block": lambda: self.from_block(given),
            "by hand, site": lambda: self.from_site(at_site, given),
            "whole": lambda: self.net(self.x),
        }


def took(do: Callable[[], object], device: torch.device) -> float:
    """Milliseconds."""
    wait(device)
    start = time.perf_counter()
    do()
    wait(device)
    return 1000 * (time.perf_counter() - start)


def network(device: torch.device) -> nn.Module:
    """With kernels by which the gates vary, and no branch shut by its initialisation."""
    torch.manual_seed(0)
    net = timm.create_model("ecaresnet50d", pretrained=False, zero_init_last=False).eval()
    for site in ecaviz.find_sites(net):
        site.kernel.copy_(torch.randn(site.kernel_size))
    return net.to(device)


def check(found: dict[str, Tensor], unchanged: Tensor) -> None:
    """That all ways give the same, and the surgery does something."""
    expected = found["whole"]
    within = TOLERANCE * float(expected.abs().max())
    for way, logits in found.items():
        error = float((logits - expected).abs().max())
        if not error <= within:
            raise SystemExit(f"{way} gives other numbers than the whole network: they differ by {error:.2g}")
    if not float((expected - unchanged).abs().max()) > 100 * within:
        raise SystemExit("the surgery changes no logit")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=30, help="turns of each site (default: %(default)s)")
    parser.add_argument("--images", type=int, default=1, help="run at once (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="their side in pixels (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--record", action="store_true", help="append the rows to benchmarks/results/ as well")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)

    net = network(device)
    x = torch.randn(given.images, 3, given.size, given.size, device=device)
    columns = {"site": "{:<11}", "what": "{:<31}", "unit": "{:<10}"}
    table = Table("surgery", **columns, **dict.fromkeys(("median", "low", "high"), "{:>8}"))

    def row(site: str, what: str, unit: str, values: list[float]) -> None:
        median, low, high = median_interval(values)
        settings = {"device": device.type, "threads": given.threads, "images": given.images, "size": given.size}
        figures = {"median": round(median, 3), "low": round(low, 3), "high": round(high, 3)}
        figures = {name: "" if math.isnan(value) else value for name, value in figures.items()}
        table.add(**machine(device), **settings, pairs=len(values), site=site, what=what, unit=unit, **figures)

    cached = ecaviz.CachedRun(net, x)
    many = ecaviz.CachedRun(net, torch.randn(MANY, 3, 32, 32, device=device))  # the maps' size is nothing to the gates
    order = random.Random(0)
    for site in SITES:
        once = took(partial(cached.prepare, site), device)
        if not cached.prepare(site).partial:
            raise SystemExit(f"{site}: {cached.prepare(site).reason}")
        by_hand = ByHand(net, site, x)
        ways = {"ecaviz": partial(cached.logits_under, site, kernel_size=1), **by_hand.ways()}
        check({way: do() for way, do in ways.items()}, by_hand.unchanged)
        turns: list[dict[str, float]] = []
        for _ in range(given.pairs + 1):
            names = list(ways)
            order.shuffle(names)
            turns.append({name: took(ways[name], device) for name in names})
        del turns[0]
        for way in list(ways)[1:]:
            row(site, f"prediction over {way}", "ratio", [turn["ecaviz"] / turn[way] for turn in turns])
        for way in ways:
            row(site, f"prediction, {way}", "ms", [turn[way] for turn in turns])
        for what, one in (("gates", cached), (f"gates, {MANY} images", many)):
            ask = partial(one.gates_under, site, kernel_size=1)
            gates = [took(ask, device) for _ in range(given.pairs + 1)]
            row(site, what, "ms", gates[1:])
        row(site, "prepare, once", "ms", [once])
    table.write()
    if given.record:
        table.record()


if __name__ == "__main__":
    main()
