"""How far one recipe and one seed come out on other machines: trained anew by other arithmetic, beside the bundled one.

    python benchmarks/same_seed.py [--model shapes-eca-k3] [--ways native "two threads" "no AVX"] [--record]

Other processors, other numbers of threads and other versions of PyTorch add in another order, and training makes that
grow. Here the same machine is told to use other instructions or threads, each in a process of its own; one way trained
twice says what is left without such a change. MKL chooses its own instructions. ``agreement`` is the share of the
held-out images for which the network and the bundled checkpoint answer the same; ``identical`` whether all weights are
those of the bundled checkpoint, bit for bit. Results: build/benchmarks/same_seed.csv; with --record also
benchmarks/results/same_seed.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import torch
from _measure import machine
from _table import Table

import ecaviz
from ecaviz import bundle, training, training_sets
from ecaviz.recipes import Recipe

SETTINGS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
ONE = {"OMP_NUM_THREADS": "1"}
WAYS = {
    "native": {},
    "native, again": {},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "no AVX": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}


def trained(name: str) -> dict[str, object]:
    """Train one model anew in this process, and compare it with the bundled checkpoint."""
    recipe, images = Recipe(), training_sets.SETS["shapes"]
    test = images.read("test", recipe.test_images, None, False)
    result = training.train(bundle.BUNDLE[name], recipe, test=(test.images, test.labels), progress=sys.stderr.isatty())
    bundled = ecaviz.load(name, device="cpu").net
    ours, theirs = (training.logits(net, test.images).argmax(1) for net in (result.net, bundled))
    pairs = zip(result.net.state_dict().values(), bundled.state_dict().values(), strict=True)
    return {
        "accuracy": round(result.accuracy, 5),
        "bundled": round(float((theirs == test.labels).float().mean()), 5),
        "agreement": round(float((ours == theirs).float().mean()), 5),
        "identical": all(torch.equal(one, other) for one, other in pairs),
        "seconds": round(result.seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="shapes-eca-k3", help="a model of the procedural set (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, help="how (default: all)")
    parser.add_argument("--record", action="store_true", help="append the rows to benchmarks/results/same_seed.csv")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(trained(given.model)))
        return
    table = Table("same_seed", model="{}", way="{:<14}", accuracy="{:>8.2%}", bundled="{:>8.2%}", agreement="{:>9.2%}")
    for way in given.ways:
        done = subprocess.run(
            [sys.executable, __file__, "--one", "--model", given.model],
            env={key: value for key, value in os.environ.items() if key not in SETTINGS} | ONE | WAYS[way],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        table.add(**machine(torch.device("cpu")), model=given.model, way=way, **found)
    table.write()
    if given.record:
        table.record()


if __name__ == "__main__":
    main()
