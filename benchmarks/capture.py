"""The mean gate of every site by class: ecaviz beside what a user would write or pick instead.

    python benchmarks/capture.py [--images 256 1024] [--size 64] [--threads 1] [--repeats 3] [--ways …]

The libraries to compare with are no part of the environment: ``pip install captum torchlens nnsight``. What is not
installed is left out, and said to be.

The job is the same for all: legacy_seresnet50 (random weights), its 16 SE gates, the mean of each channel's gate for
each of ten classes, images in batches of 32, no gradients. Each way runs in a process of its own, so that its peak
memory is its own; the seconds leave imports and the making of network and images out, and one batch is run before. What
a way makes for itself (the loaded model, the extractor, the wrapped network) counts. "plain" is the forward pass alone,
which gives no gates.

- ecaviz: ``ecaviz.profile(model, images, by="class")``, which also keeps variances, histograms, tails and extremes.
- hooks: what one writes by hand: a forward hook on every sigmoid that appends the gate to a list; the means at the end.
- features: torchvision's ``create_feature_extractor`` on the same sigmoids; the means at the end.
- captum: ``LayerActivation`` of the same sigmoids; the means at the end.
- torchlens: ``torchlens.record(net, batch, save=…)``, its documented way for tight loops, with a selector of the same
  sigmoids; the means at the end. It keeps those alone, but follows every operation of every batch all the same.
- nnsight: ``NNsight(net)`` and ``with model.trace(batch)``, saving the outputs of the same sigmoids; the means at the
  end.

All ways take turns, ``--repeats`` times; the figures are medians, and ``over_plain`` is the median of the ratios to the
plain pass of the same turn (``lowest`` and ``highest`` of them are in the file). ``peak_mib`` is the largest resident
size of the process. ``error`` is the largest difference of any mean from that of the hooks.

Results: build/benchmarks/capture.csv.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import operator
import resource
import statistics
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
    "torchlens": "torchlens",
    "nnsight": "nnsight",
}
"""The ways, each with the package that it needs."""


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


def with_torchlens(net, x, labels):
    import torchlens

    wanted = {f"{name}.sigmoid": name for name in sites(net)}
    selected = functools.reduce(operator.or_, map(torchlens.module, wanted))
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in wanted.values()}
    for part in x.split(BATCH):
        recording = torchlens.record(net, part, save=selected)
        for place, name in wanted.items():
            (found,) = recording.activations_by_address(place)
            kept[name].append(found.ram_payload)
    return by_class(kept, labels)


def with_nnsight(net, x, labels):
    import nnsight

    model = nnsight.NNsight(net)
    names = sites(net)
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for part in x.split(BATCH):
        with model.trace(part):
            gates = nnsight.save([model.get(f"{name}.sigmoid").output for name in names])
        for name, gate in zip(names, gates, strict=True):
            kept[name].append(gate)
    return by_class(kept, labels)


DO = {
    "plain": plain,
    "ecaviz": with_ecaviz,
    "hooks": with_hooks,
    "features": with_features,
    "captum": with_captum,
    "torchlens": with_torchlens,
    "nnsight": with_nnsight,
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


def apart(way: str, images: int, size: int, threads: int, file: Path) -> dict[str, float] | None:
    """The same in a process of its own; None, and the reason printed, where it fails."""
    command = [sys.executable, __file__, "--images", str(images), "--size", str(size), "--threads", str(threads)]
    run = subprocess.run([*command, "--one", way, str(file)], capture_output=True, text=True, check=False)
    if run.returncode:
        print(f"{way}: failed: {run.stderr.strip().splitlines()[-1]}")
        return None
    return json.loads(run.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[256, 1024], help="numbers of images")
    parser.add_argument("--size", type=int, default=64, help="their side in pixels (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each way (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="default: all")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one[0], given.images[0], given.size, given.threads, Path(given.one[1]))
        return
    ways = {}
    for way, package in WAYS.items():
        if way != "plain" and way not in given.ways:
            continue
        if package is not None and importlib.util.find_spec(package) is None:
            print(f"{way}: not installed, left out")
            continue
        ways[way] = "" if package is None else importlib.metadata.version(package)
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
            files = {way: Path(folder) / f"{way}-{images}.pt" for way in ways}
            turns: list[dict[str, dict[str, float]]] = []
            working = list(ways)
            for _ in range(given.repeats):
                found = {way: apart(way, images, given.size, given.threads, files[way]) for way in working}
                working = [way for way in working if found[way] is not None]
                turns.append({way: found[way] for way in working})
            means = {way: torch.load(files[way], weights_only=True) for way in working}
            reference = means.get("hooks", {})
            for way in working:
                pairs = [(mean, reference[name]) for name, mean in means[way].items() if name in reference]
                error = max((float((a - b).abs().max()) for a, b in pairs), default=float("nan"))
                ratios = [turn[way]["seconds"] / turn["plain"]["seconds"] for turn in turns]
                peak = statistics.median(turn[way]["peak"] for turn in turns)
                table.add(
                    way=way,
                    version=ways[way],
                    images=images,
                    size=given.size,
                    threads=given.threads,
                    repeats=given.repeats,
                    seconds=round(statistics.median(turn[way]["seconds"] for turn in turns), 3),
                    over_plain=round(statistics.median(ratios), 3),
                    lowest=round(min(ratios), 3),
                    highest=round(max(ratios), 3),
                    peak_mib=round(peak),
                    above_plain_mib=round(peak - statistics.median(turn["plain"]["peak"] for turn in turns)),
                    error=error,
                )
    table.write()


if __name__ == "__main__":
    main()
