"""What an import costs: `import ecaviz` and its parts, beside the libraries a user would pick instead, where installed.

    python benchmarks/imports.py [--runs 5]

Each import runs in a fresh interpreter; the time is that of the import statement, the least of a few runs after one
that compiles the bytecode. ``heavy`` names the slow modules that it brought in. Libraries that are not installed are
left out and said to be. Results: build/benchmarks/imports.csv.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys

from _table import ROOT, Table

HEAVY = ("torch", "torchvision", "timm", "matplotlib", "ipywidgets", "seaborn", "pandas", "skimage", "scipy")
STATEMENTS = {
    "import ecaviz": "ecaviz",
    "import ecaviz; ecaviz.load": "ecaviz",
    "import ecaviz; ecaviz.capture": "ecaviz",
    "import ecaviz; ecaviz.plots": "ecaviz",
    "import ecaviz; ecaviz.LayerExplorer": "ecaviz",
    "import torch": "torch",
    "import timm": "timm",
    "import matplotlib.pyplot": "matplotlib",
    "import captum.attr": "captum",
    "import pytorch_grad_cam": "pytorch_grad_cam",
    "import torchcam.methods": "torchcam",
    "import transformer_lens": "transformer_lens",
    "import nnsight": "nnsight",
    "import baukit": "baukit",
}
PROGRAM = """
import json, sys, time
start = time.perf_counter()
{statement}
took = time.perf_counter() - start
print(json.dumps([took, [name for name in {heavy!r} if name in sys.modules]]))
"""


def run(statement: str) -> tuple[float, list[str]]:
    """Seconds of one import in a fresh interpreter, and the heavy modules it brought in."""
    program = PROGRAM.format(statement=statement, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    seconds, heavy = json.loads(done.stdout.splitlines()[-1])
    return seconds, heavy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each (default: %(default)s)")
    runs = parser.parse_args().runs
    table, missing = Table("imports", seconds="{:>7.3f}", statement="{:<36}", heavy="{}"), []
    for statement, package in STATEMENTS.items():
        if importlib.util.find_spec(package) is None:
            missing.append(package)
            continue
        run(statement)
        results = [run(statement) for _ in range(runs)]
        table.add(
            statement=statement,
            seconds=round(min(seconds for seconds, _ in results), 3),
            runs=runs,
            heavy=" ".join(results[-1][1]) or "none",
        )
    if missing:
        print(f"not installed, so not measured: {', '.join(missing)}")
    table.write()


if __name__ == "__main__":
    main()
