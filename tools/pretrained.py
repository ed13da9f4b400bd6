"""Write data/published/pretrained.csv: the pretrained networks of timm and torchvision that carry SE or ECA.

python tools/pretrained.py [--out data/published/pretrained.csv]

Names, inputs and places come from the installed timm and torchvision, the gates and the parameters from the networks,
built without memory for their weights. torchvision's accuracies come with its weights; timm's are those of its
results-imagenet.csv, copied into data/published/timm_imagenet.csv.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path

import pandas as pd
import timm
import torchvision
from torch import nn
from torchvision import models

from ecaviz import find_sites, published_tables, recorded_files
from ecaviz.matches import NoWeights
from ecaviz.sites import GateSite
from ecaviz.whole_files import replace_file

PUBLISHED = Path(__file__).resolve().parent.parent / "data" / "published"

# Where to look. What carries no SE or ECA drops out by itself: ResNets with another gate or none, DenseNets.
TIMM = ("*resne*", "*senet154*")
TORCHVISION = ("mobilenet_v3_*", "efficientnet_*", "regnet_y_*")

IMAGES = {1000: "ImageNet-1k", 11221: "ImageNet-21k-P", 11821: "ImageNet-12k"}
"""What a network was trained on last, by its number of outputs."""


def main() -> None:
    """Write the table and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PUBLISHED / "pretrained.csv", help="the file")
    out = parser.parse_args().out
    rows = table()
    content = rows.to_csv(index=False, lineterminator="\n").encode()
    if out.resolve().parent == PUBLISHED:
        with recorded_files.alone(PUBLISHED):
            recorded_files.write(out, content)
    else:  # the sums are of what is published
        replace_file(out, content)
    counts = ", ".join(f"{count} of {source}" for source, count in rows["source"].value_counts().items())
    print(f"{out}: {counts}; without a published accuracy {rows['top1'].isna().sum()}")


def table() -> pd.DataFrame:
    """All rows, timm's first, by name."""
    names = (name for name in timm.list_pretrained() if any(fnmatchcase(name, pattern) for pattern in TIMM))
    rows = [row for name in names if (row := timm_row(name))]
    for architecture in models.list_models(module=models, include=list(TORCHVISION)):
        rows += torchvision_rows(architecture)
    return pd.DataFrame(rows)


def timm_row(name: str) -> dict | None:
    """What is known of one set of timm's weights; None if the network has no gates."""
    settings = timm.get_pretrained_cfg(name)
    facts = timm_facts(settings.architecture, settings.num_classes)
    if facts is None:
        return None
    side = settings.input_size[-1]
    return {
        "name": name,
        "source": "timm",
        **facts,
        "classes": settings.num_classes,
        "images": IMAGES[settings.num_classes],
        "size": side,
        **timm_accuracy(name, side, settings.crop_pct),
        "where": settings.hf_hub_id or settings.url,
        "made_with": f"timm {timm.__version__}",
    }


@functools.cache
def timm_facts(architecture: str, classes: int) -> dict | None:
    """:func:`facts` of an architecture, which several sets of weights share."""
    with NoWeights():
        return facts(timm.create_model(architecture, pretrained=False, num_classes=classes))


def timm_accuracy(name: str, side: int, crop: float) -> dict:
    """The published accuracy at a side of the input and a crop, else at the nearest side, which the source names."""
    rows = published().get(name, [])
    if not rows:
        return accuracy(None, None, "")

    def distance(row: dict) -> tuple[float, float]:
        return abs(int(row["size"]) - side), abs(float(row["crop"]) - crop)

    row = min(rows, key=distance)
    source = "timm results-imagenet.csv" + (f" of {row['commit']}" if row["commit"] else "")
    if any(distance(row)):
        source += f", at {row['size']} pixels and crop {float(row['crop']):g}"
    return accuracy(float(row["top1"]), float(row["top5"]), source)


@functools.cache
def published() -> dict[str, list[dict]]:
    """The rows of timm_imagenet.csv, by model."""
    rows: dict[str, list[dict]] = {}
    path, columns = PUBLISHED / "timm_imagenet.csv", ("model", "size", "crop", "top1", "top5")
    for row in recorded_files.rows(path, "pretrained", published_tables.RESTORE, columns):
        rows.setdefault(row["model"], []).append(row)
    return rows


def torchvision_rows(architecture: str) -> list[dict]:
    """What is known of every set of weights of one of torchvision's architectures."""
    with NoWeights():
        found = facts(models.get_model(architecture, weights=None))
    rows = []
    for entry in models.get_model_weights(architecture) if found else ():
        classes = len(entry.meta["categories"])
        scores = entry.meta["_metrics"]["ImageNet-1K"]
        rows.append(
            {
                "name": f"torchvision:{architecture}.{entry.name}",
                "source": "torchvision",
                **found,
                "classes": classes,
                "images": IMAGES[classes],
                "size": entry.transforms().crop_size[0],
                **accuracy(scores["acc@1"], scores["acc@5"], "meta of torchvision's weights"),
                "where": entry.url,
                "made_with": f"torchvision {torchvision.__version__.split('+')[0]}",
            }
        )
    return rows


def accuracy(top1: float | None, top5: float | None, source: str) -> dict:
    """The columns of an accuracy, from per cent to shares."""
    shares = [None if value is None else round(value / 100, 5) for value in (top1, top5)]
    return {"top1": shares[0], "top5": shares[1], "accuracy_source": source}


def facts(net: nn.Module) -> dict | None:
    """Family, setting, number of gates and of parameters, read from a network; None if it has no SE and no ECA."""
    sites = [site for site in find_sites(net) if site.family in ("se", "eca")]
    if not sites:
        return None
    (family,) = {site.family for site in sites}
    return {
        "family": family,
        "setting": setting(sites),
        "sites": len(sites),
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
    }


def setting(sites: list[GateSite]) -> str:
    """``r=16``, or ``r=4–24`` where r differs by site; ``k=5``, or ``k=5,5,5,7`` by stage."""
    if sites[0].family == "se":
        return f"r={span(site.reduction for site in sites)}"
    stages = groupby(sites, key=lambda site: re.match(r"\D*\d+", site.name)[0])  # layer1, stages.0
    sizes = [span(site.kernel_size for site in stage) for _, stage in stages]
    return f"k={sizes[0] if len(set(sizes)) == 1 else ','.join(sizes)}"


def span(values: Iterable[float]) -> str:
    """The one value, or the least and the greatest."""
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    return f"{low:.3g}" if low == high else f"{low:.3g}–{high:.3g}"


if __name__ == "__main__":
    main()
