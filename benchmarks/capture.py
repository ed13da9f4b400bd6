"""The mean gate of every site by class: ecaviz beside what a user would write or pick instead.

    python benchmarks/capture.py [--images 64 256] [--size 96] [--threads 1]

The job is the same for all: legacy_seresnet50 (random weights), its 16 SE gates, the mean of each channel's gate for
each of ten classes. Each way runs in a process of its own, so that its peak memory is its own; the seconds leave
imports and the making of network and images out, and one batch is run before. "plain" is the forward pass alone, which
gives no gates.

- ecaviz: ``ecaviz.profile(model, images, by="class")``, which also keeps variances, histograms, tails and extremes.
- hooks: what one writes by hand: a forward hook on every sigmoid that appends the gate to a list; the means at the end.
- features: torchvision's ``create_feature_extractor`` on the same sigmoids; the means at the end.
- captum: ``LayerActivation`` of the same sigmoids, where it is installed; the means at the end.

Results: build/benchmarks/capture.csv. ``error`` is the largest difference of any mean from that of the hooks.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from _table import Table

BATCH, CLASSES = 32, 10
WAYS = {
    "plain": None,
    "ecaviz": None,
    "hooks": None,
    "features": "torchvision",
    "captum": "captum",
}


def by_class(kept: dict[str, list[torch.Tensor]], labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Means by class of everything that was kept."""
    means = {}
    for name, parts in kept.items():
        gates = torch.cat([part.flatten(1) for part in parts])
        means[name] = torch.stack([gates[labels == one].mean(dim=0) for one in range(CLASSES)])
    return means


def sites(net: torch.nn.Module) -> list[str]:
    return [name for name, module in net.named_modules() if name.endswith("se_module")]


def plain(net, x, labels):
    for part in x.split(BATCH):
        net(part)
    return {}


def with_ecaviz(net, x, labels):
    import ecaviz

    class Labelled(torch.utils.data.Dataset):
        classes = tuple(map(str, range(CLASSES)))

        def __len__(self):
            return len(x)

        def __getitem__(self, i):
            return x[i], int(labels[i])

    loader = torch.utils.data.DataLoader(Labelled(), batch_size=BATCH)
    model = ecaviz.load(net, transform=None, classes=None, device="cpu")
    profile = ecaviz.profile(model, loader, by="class", progress=False)
    return {name: profile.mean(name).float() for name in profile}


def with_hooks(net, x, labels):
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in sites(net)}
    handles = [
        net.get_submodule(name).sigmoid.register_forward_hook(lambda _m, _i, gate, name=name: kept[name].append(gate))
        for name in kept
    ]
    for part in x.split(BATCH):
        net(part)
    for handle in handles:
        handle.remove()
    return by_class(kept, labels)


def with_features(net, x, labels):
    from torchvision.models.feature_extraction import create_feature_extractor

    wanted = {f"{name}.sigmoid": name for name in sites(net)}
    extractor = create_feature_extractor(net, wanted).eval()
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in wanted.values()}
    for part in x.split(BATCH):
        for name, gate in extractor(part).items():
            kept[name].append(gate)
    return by_class(kept, labels)


def with_captum(net, x, labels):
    from captum.attr import LayerActivation

    names = sites(net)
    layers = LayerActivation(net, [net.get_submodule(name).sigmoid for name in names])
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for part in x.split(BATCH):
        for name, gate in zip(names, layers.attribute(part), strict=True):
            kept[name].append(gate.detach())
    return by_class(kept, labels)


DO = {
    "plain": plain,
    "ecaviz": with_ecaviz,
    "hooks": with_hooks,
    "features": with_features,
    "captum": with_captum,
}


def one(way: str, images: int, size: int, threads: int, out: Path) -> None:
    """One way in this process: seconds and peak memory, and the means in a file."""
    import timm

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = timm.create_model("legacy_seresnet50", pretrained=False).eval()
    x, labels = torch.randn(images, 3, size, size), torch.arange(images) % CLASSES
    with torch.no_grad():
        DO[way](net, x[:BATCH], labels[:BATCH])
        start = time.perf_counter()
        means = DO[way](net, x, labels)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    torch.save(means, out)
    print(json.dumps({"seconds": seconds, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[64, 256], help="numbers of images")
    parser.add_argument("--size", type=int, default=96, help="their side in pixels (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: %(default)s)")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one[0], given.images[0], given.size, given.threads, Path(given.one[1]))
        return
    table = Table(
        "capture",
        way="{:<9}",
        images="{:>6}",
        seconds="{:>7.2f}",
        over_plain="{:>10.2f}",
        peak_mib="{:>8.0f}",
        above_plain_mib="{:>15.0f}",
        error="{:>8.1e}",
    )
    with tempfile.TemporaryDirectory() as folder:
        for images in given.images:
            base: dict[str, dict] = {}
            found: dict[str, dict] = {}
            for way, package in WAYS.items():
                if package is not None and importlib.util.find_spec(package) is None:
                    print(f"{way}: not installed, left out")
                    continue
                file = Path(folder) / f"{way}-{images}.pt"
                command = [sys.executable, __file__, "--images", str(images), "--size", str(given.size)]
                command += ["--threads", str(given.threads), "--one", way, str(file)]
                run = subprocess.run(command, capture_output=True, text=True, check=False)
                if run.returncode:
                    print(f"{way}: failed: {run.stderr.strip().splitlines()[-1]}")
                    continue
                base[way] = json.loads(run.stdout.strip().splitlines()[-1])
                found[way] = torch.load(file, weights_only=True)
            reference = found.get("hooks", {})
            for way, measured in base.items():
                pairs = [(means, reference[name]) for name, means in found[way].items()]
                error = max((float((a - b).abs().max()) for a, b in pairs), default=float("nan"))
                table.add(
                    way=way,
                    images=images,
                    seconds=round(measured["seconds"], 3),
                    over_plain=round(measured["seconds"] / base["plain"]["seconds"], 3),
                    peak_mib=round(measured["peak"]),
                    above_plain_mib=round(measured["peak"] - base["plain"]["peak"]),
                    error=error,
                )
    table.write()


if __name__ == "__main__":
    main()
