"""How long each notebook takes, top to bottom, in a fresh kernel: seconds of wall clock, and the slowest cell.

    python benchmarks/notebooks.py [--repeat 1]

Prints a table and writes it to build/benchmarks/notebooks.csv. Quote it from a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import time

import nbformat
from _table import ROOT, Table
from nbclient import NotebookClient


class Timed(NotebookClient):
    """Executes a notebook and keeps the seconds of each code cell."""

    def run(self) -> tuple[float, list[float]]:
        """Seconds of the whole, kernel start included, and of each code cell."""
        begun: dict[int, float] = {}
        cells: list[float] = []

        def started(cell, cell_index):  # for text too, which is not executed
            begun[cell_index] = time.perf_counter()

        def ended(cell, cell_index, **_):
            cells.append(time.perf_counter() - begun[cell_index])

        self.on_cell_start, self.on_cell_executed = started, ended
        begin = time.perf_counter()
        self.execute()
        return time.perf_counter() - begin, cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=1, help="runs of each notebook; the median is shown")
    repeat = parser.parse_args().repeat
    table = Table("notebooks", notebook="{:<24}", seconds="{:>7.1f}", slowest_cell_seconds="{:>20.1f}")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        runs = []
        for _ in range(repeat):
            notebook = nbformat.read(path, as_version=4)
            resources = {"metadata": {"path": str(path.parent)}}
            runs.append(Timed(notebook, timeout=600, kernel_name="python3", resources=resources).run())
        runs.sort(key=lambda run: run[0])
        seconds, cells = runs[len(runs) // 2]
        table.add(
            notebook=path.stem,
            seconds=round(seconds, 1),
            code_cells=len(cells),
            slowest_cell_seconds=round(max(cells), 1),
            cores=os.cpu_count(),
            load_at_end=round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else "",
        )
    table.write()


if __name__ == "__main__":
    main()
