"""The table of a benchmark: a row is printed as soon as it is measured, and all are written to build/benchmarks/."""

from __future__ import annotations

import csv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Table:
    """Rows of one benchmark.

    Args:
        name: Of the benchmark; the file is ``build/benchmarks/<name>.csv``.
        **shown: The columns to print, each with the format of its numbers or words; the file has all of them.
    """

    def __init__(self, name: str, **shown: str):
        self.name, self.shown = name, shown
        self.rows: list[dict[str, object]] = []

    def add(self, **row: object) -> None:
        """Take in a row and print it, below the headings if it is the first."""
        cells = [form.format(row[column]) for column, form in self.shown.items()]
        if not self.rows:
            pairs = zip(self.shown.items(), cells, strict=True)
            print(*(f"{column:{'>' if '>' in form else '<'}{len(cell)}}" for (column, form), cell in pairs), sep="  ")
        self.rows.append(row)
        print(*cells, sep="  ", flush=True)

    def write(self) -> None:
        """Write the file, and say where it is."""
        path = ROOT / "build" / "benchmarks" / f"{self.name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        print(f"written to {path.relative_to(ROOT)}")

    def record(self) -> None:
        """Append the rows to the file that is kept with the code, ``benchmarks/results/<name>.csv``.

        Raises:
            ValueError: That file has other columns.
        """
        path = ROOT / "benchmarks" / "results" / f"{self.name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        columns, new = list(self.rows[0]), not path.exists()
        if not new:
            with path.open(newline="", encoding="utf-8") as file:
                if next(csv.reader(file)) != columns:
                    raise ValueError(f"{path.relative_to(ROOT)} has other columns. Delete or convert it first.")
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(self.rows)
        print(f"appended to {path.relative_to(ROOT)}")
