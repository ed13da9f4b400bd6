"""The interaction matrix in closed form beside the Jacobian that autograd takes, for C = 256 … 2048.

    python benchmarks/interaction.py [--repeats 9]

Without the closed form a user would write ``torch.func.jacrev(module.excite)(descriptor)``, a C×C matrix for one image,
and take the numbers of coverage from that. ecaviz gives J in float64, so that it has a rank; autograd gives it in the
dtype of the module, so it is timed in both: of the module in float64, the same result, and in float32. Beside it:

- closed form: J in float64 read off the weights, a Band or a LowRank, against one Jacobian;
- checked: ``module_interaction(module)``, which finds the site, refuses weights that are no numbers and compares the
  closed form with the module on random descriptors before it believes it;
- matrix: the same and the C×C matrix written out;
- coverage: pairs, rank, effective rank, partners and directness: of the form, against the same numbers of the Jacobian;
- over images (SE alone, since an ECA has one J for all): J of each of 64 images and their mean, in factors, from their
  descriptors: against the mean of 64 Jacobians (timed on 4, times 16).

Both are warmed up and take turns; the figures are medians. Results: build/benchmarks/interaction.csv.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from _table import Table

from ecaviz import attention, gates, interaction
from ecaviz.excitations import plan_of_site

CHANNELS = (256, 512, 1024, 2048)
MODULES = {"ECA, adaptive k": ("eca", {}), "SE, r = 16": ("se", {"reduction": 16})}
IMAGES, TIMED = 64, 4


def numbers(J: torch.Tensor) -> tuple:
    """What coverage says, of a dense matrix, as one would write it by hand."""
    sigma = torch.linalg.svdvals(J)
    square = J.square()
    share = square / square.sum(dim=1, keepdim=True)
    return (
        (J != 0).sum(),
        (sigma > sigma[0] * len(J) * torch.finfo(J.dtype).eps).sum(),
        torch.special.entr(sigma / sigma.sum()).sum().exp(),
        torch.special.entr(share).sum(dim=1).exp().quantile(0.5),
        share.diagonal().mean(),
    )


def took(do: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    do()
    return 1000 * (time.perf_counter() - start)


def read_off(site: gates.GateSite) -> interaction.Band | interaction.LowRank:
    if site.family == "eca":
        return interaction.Band(site.kernel.double(), site.channels, site.padding)
    w1, _, w2, _ = site.bottleneck
    return interaction.LowRank(w2.double(), w1.double())


def realised(site: gates.GateSite, y: torch.Tensor) -> object:
    plan = plan_of_site(site)
    plan.take(y, torch.arange(len(y)))
    return plan.realised(len(y))


def by_autograd(excite: Callable[[torch.Tensor], torch.Tensor], y: torch.Tensor, n: int = 0) -> torch.Tensor:
    """J of one descriptor, C×C, in the dtype of the module."""
    with torch.no_grad():
        return torch.func.jacrev(lambda one: excite(one[None])[0])(y[n])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=9, help="repeats of each (default: %(default)s)")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    table = Table(
        "interaction",
        module="{:<16}",
        channels="{:>8}",
        what="{:<11}",
        dtype="{:<8}",
        autograd_ms="{:>11.1f}",
        ecaviz_ms="{:>9.2f}",
        times_faster="{:>12.1f}",
    )
    for name, (family, options) in MODULES.items():
        for channels in CHANNELS:
            torch.manual_seed(0)
            module = attention.build(family, channels, **options).eval()
            (site,) = gates.find_sites(torch.nn.Sequential(module))
            y = torch.randn(IMAGES, channels)

            for dtype in (torch.float64, torch.float32):
                like = copy.deepcopy(module).to(dtype)
                jacobian = partial(by_autograd, like.excite, y.to(dtype))
                pairs = {
                    "closed form": (jacobian, partial(read_off, site), 1),
                    "checked": (jacobian, partial(interaction.module_interaction, module), 1),
                    "matrix": (jacobian, lambda m=module: interaction.module_interaction(m).matrix, 1),
                    "coverage": (
                        lambda j=jacobian: numbers(j()),
                        lambda m=module: interaction.coverage(interaction.module_interaction(m)),
                        1,
                    ),
                }
                if family == "se":  # an ECA has one J for all images
                    pairs["over images"] = (
                        lambda j=jacobian: torch.stack([j(n) for n in range(TIMED)]).mean(dim=0),
                        partial(realised, site, y),
                        IMAGES / TIMED,
                    )
                for what, (autograd, form, factor) in pairs.items():
                    autograd(), form()  # warm
                    times = [(factor * took(autograd), took(form)) for _ in range(repeats)]
                    slow, quick = (statistics.median(column) for column in zip(*times, strict=True))
                    table.add(
                        module=name,
                        channels=channels,
                        what=what,
                        dtype=str(dtype).removeprefix("torch."),
                        autograd_ms=round(slow, 3),
                        ecaviz_ms=round(quick, 3),
                        times_faster=round(slow / quick, 1),
                    )
    table.write()


if __name__ == "__main__":
    main()
