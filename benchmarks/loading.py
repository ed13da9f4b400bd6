"""What recognising a file costs: ecaviz.load(path) beside loading it by hand, with the architecture known beforehand.

    python benchmarks/loading.py [--runs 5]

By hand means: read with ``torch.load(weights_only=True)``, rename the entries, build the network with timm, load. That
checks neither checksums nor for NaN, and knows what it loads. Medians of alternating runs in one process, after one of
each; the files have random weights. Results: build/benchmarks/loading.csv.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from _table import Table
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

import ecaviz
from ecaviz.attention import ECA
from ecaviz.networks import resnet


def official_file(folder: Path) -> Path:
    """An ECA-ResNet-50 as the official script saves it."""
    net = resnet(50, "eca", kernel_size=(3, 5, 5, 7))
    state = {f"module.{k}".replace(".se.excite.", ".eca."): v for k, v in net.state_dict().items()}
    path = folder / "checkpoint.pth.tar"
    torch.save({"state_dict": state, "epoch": 100}, path)
    return path


def official_by_hand(path: Path) -> nn.Module:
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    state = {k.removeprefix("module.").replace(".eca.", ".se.excite."): v for k, v in state.items()}
    ks = {256: 3, 512: 5, 1024: 5, 2048: 7}
    options = {"attn_layer": lambda channels, **_: ECA(channels, ks[channels])}
    net = ResNet(Bottleneck, (3, 4, 6, 3), block_args=options)
    net.load_state_dict(state)
    return net.eval()


def timm_file(folder: Path, name: str) -> Path:
    path = folder / "weights.pth"
    torch.save(timm.create_model(name).state_dict(), path)
    return path


def timm_by_hand(name: str) -> Callable[[Path], nn.Module]:
    def load(path: Path) -> nn.Module:
        net = timm.create_model(name)
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return net.eval()

    return load


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each (default: %(default)s)")
    runs = parser.parse_args().runs
    table = Table(
        "loading",
        file="{:<34}",
        megabytes="{:>9.0f}",
        first="{:>6.2f}",
        ecaviz="{:>6.2f}",
        by_hand="{:>7.2f}",
        ratio="{:>5.2f}",
    )
    cases = [("official ECA-ResNet-50", official_file, official_by_hand)]
    for name in ("ecaresnet50d", "legacy_seresnet50"):
        cases.append((f"state dict of timm's {name}", lambda folder, n=name: timm_file(folder, n), timm_by_hand(name)))
    with tempfile.TemporaryDirectory() as folder:
        for title, make, by_hand in cases:
            path = make(Path(folder))
            first = timed(lambda p=path: ecaviz.load(p, device="cpu"))  # builds the candidates that it compares with
            by_hand(path)
            pairs = [
                (timed(lambda p=path: ecaviz.load(p, device="cpu")), timed(lambda p=path, h=by_hand: h(p)))
                for _ in range(runs)
            ]
            ours, theirs = (statistics.median(values) for values in zip(*pairs, strict=True))
            table.add(
                file=title,
                megabytes=path.stat().st_size / 1e6,
                first=round(first, 3),
                ecaviz=round(ours, 3),
                by_hand=round(theirs, 3),
                ratio=round(ours / theirs, 3),
                runs=runs,
            )
    table.write()


if __name__ == "__main__":
    main()
