"""How long one pass over ImageNet would take here: 50,000 validation images and 1,281,167 training images.

    python benchmarks/imagenet.py [--model legacy_seresnet50] [--images 200] [--batch 64] [--workers 0 2] [--threads 2]
                                  [--device cpu] [--dtype float32] [--record]

Nothing of ImageNet is needed: JPEG files of 500×375 are drawn into a temporary folder, smooth noise with as much detail
as makes them about as large as ImageNet's, fifty to a class and 1000 classes named. Images a second are measured of

- reading: decoding and the model's own transform, through ``ecaviz.images.batches``;
- network: the forward pass alone, random weights, on one batch in memory;
- profile: all of it, ``ecaviz.profile(model, files, by="class")``.

Reading and profile are measured for each number of ``--workers`` (processes that read; 0 is none beside the one that
runs the network), where this ecaviz takes any; reading goes over the files three times in a pass. Each figure is from
the median seconds of ``--repeats`` passes. A pass over all images and one over a fifth of them are measured, and the
rate is of the difference: what a pass costs once (starting the workers, the fingerprint of the weights, the statistics
at its end) is left out and printed by itself.

The hours are an extrapolation: images / rate + once, and for 2, 4 and 8 processes under torchrun the images' part
divided by their number. That takes each process to have a device, cores and a disk of its own as here; files that come
slower from the disk than a decoder reads them are not in it.

Results: build/benchmarks/imagenet.csv; ``--record`` appends them, with date, hardware and version of torch, to
benchmarks/results/imagenet.csv.
"""

from __future__ import annotations

import argparse
import inspect
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _measure import DTYPES, machine, precision, wait
from _table import Table

import ecaviz

READ = 3
"""How often a pass of reading goes over the files."""
SETS = {"val": 50_000, "train": 1_281_167}
PROCESSES = (1, 2, 4, 8)
CLASSES = 1000
WIDTH, HEIGHT, QUALITY = 500, 375, 90
DETAIL = {6: 60.0, 12: 45.0, 24: 30.0, 48: 20.0, 96: 14.0, 240: 55.0}
"""Of the noise: cells along the width, and how many grey levels they vary by."""


def draw(folder: Path, count: int) -> float:
    """Write so many files; their mean size in kB."""
    from PIL import Image

    random = torch.Generator().manual_seed(0)
    size = 0
    for i in range(count):
        picture = torch.full((1, 3, HEIGHT, WIDTH), 128.0)
        for cells, levels in DETAIL.items():
            noise = torch.randn(1, 3, cells * HEIGHT // WIDTH, cells, generator=random)
            picture += levels * torch.nn.functional.interpolate(noise, (HEIGHT, WIDTH), mode="bilinear")
        pixels = picture[0].clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
        path = folder / f"{i:05}.jpg"
        Image.fromarray(pixels).save(path, quality=QUALITY)
        size += path.stat().st_size
    return size / count / 1000


def rate(do: Callable[[int], object], many: int, few: int, repeats: int) -> tuple[float, float]:
    """Images a second, and the seconds that a pass takes once, from passes over many images and over few.

    NaN where those over many took no longer: too few images, or a machine at other work. With ``few`` of 0 a pass is
    taken to cost nothing once.
    """

    def took(count: int) -> float:
        start = time.perf_counter()
        if count:
            do(count)
        return time.perf_counter() - start

    do(few or many)  # warm
    pairs = [(took(many), took(few)) for _ in range(repeats)]
    long, short = (statistics.median(column) for column in zip(*pairs, strict=True))
    if long <= short:
        return float("nan"), float("nan")
    each = (long - short) / (many - few)
    return 1 / each, max(short - few * each, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="legacy_seresnet50", help="a timm name (default: %(default)s)")
    parser.add_argument("--images", type=int, help="files to draw (default: 200 on a CPU, 4000 on a card)")
    parser.add_argument("--batch", type=int, default=64, help="images a batch (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="that read (default: 0 and 2)")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="passes of each (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    parser.add_argument("--record", action="store_true", help="append the rows to benchmarks/results/ as well")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    device = torch.device(given.device)
    many = given.images or (4000 if device.type == "cuda" else 200)
    few = many // 5
    if not few:
        parser.error("--images: at least 5 are needed")
    loaded = ecaviz.load(given.model, pretrained=False, device=device)
    able = all("workers" in inspect.signature(one).parameters for one in (ecaviz.images.batches, ecaviz.profile))
    if not able and set(given.workers) != {0}:
        print("this ecaviz reads in the process that runs the network; only workers=0 is measured")
    table = Table(
        "imagenet",
        what="{:<8}",
        workers="{:>7}",
        images_per_second="{:>17.1f}",
        once_s="{:>6.1f}",
        **{f"{name}_{count}": "{:>7.2f}" for name in SETS for count in PROCESSES},
    )

    with tempfile.TemporaryDirectory() as place, precision(device, given.dtype):
        kilobytes = draw(Path(place), many)
        size = tuple(next(iter(ecaviz.images.batches(place, loaded.transform, 1)))[0].shape[-2:])
        print(f"{many} files of {WIDTH}×{HEIGHT}, {kilobytes:.0f} kB on average; the network sees {size[0]}×{size[1]}")
        print(f"hours of one pass over {SETS['val']:,} (val) and {SETS['train']:,} images (train), by 1 to 8 processes")
        paths, names = ecaviz.images.folder(place).paths * READ, [str(i) for i in range(CLASSES)]
        labels = [i // 50 % CLASSES for i in range(len(paths))]

        def files(count: int) -> ecaviz.images.ImageFiles:
            return ecaviz.images.ImageFiles(paths[:count], labels[:count], names, "drawn")

        def read(count: int, **workers: int) -> None:
            for _batch in ecaviz.images.batches(files(count), loaded.transform, given.batch, **workers):
                pass

        x = torch.randn(given.batch, 3, *size, device=device)

        def network(count: int) -> None:
            with torch.no_grad():
                for start in range(0, count, given.batch):
                    loaded.net(x[: count - start])
            wait(device)

        def profile(count: int, **workers: int) -> None:
            ecaviz.profile(loaded, files(count), by="class", batch_size=given.batch, progress=False, **workers)
            wait(device)

        def row(what: str, workers: int | str, do: Callable[[int], object]) -> float:
            long, short = {"network": (many, 0), "reading": (READ * many, READ * few)}.get(what, (many, few))
            per_second, once = rate(do, long, short, given.repeats)
            hours = {
                f"{name}_{count}": round((images / per_second / count + once) / 3600, 3)
                for name, images in SETS.items()
                for count in PROCESSES
            }
            settings = {"device": device.type, "dtype": given.dtype, "threads": given.threads, "model": given.model}
            settings |= {"batch": given.batch, "images": many, "kilobytes": round(kilobytes)}
            figures = {"images_per_second": round(per_second, 2), "once_s": round(once, 2), **hours}
            table.add(**machine(device), **settings, what=what, workers=workers, **figures)
            return per_second

        forward = row("network", "", network)
        for workers in given.workers if able else [0]:
            options = {"workers": workers} if able else {}
            reading = row("reading", workers, lambda count, options=options: read(count, **options))
            row("profile", workers, lambda count, options=options: profile(count, **options))
            bound, other = ("network", "reading") if reading > forward else ("reading", "network")
            ratio = max(reading, forward) / min(reading, forward)
            print(f"workers={workers}: the {bound} bounds it; {other} alone would be {ratio:.1f} times as fast")
    table.write()
    if given.record:
        table.record()


if __name__ == "__main__":
    main()
