"""What the tests of stopped reports do in processes of their own; see stopping.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import nbclient  # noqa: F401 - here once, instead of in each process
import nbformat
import tqdm  # noqa: F401

from ecaviz import notebook_runs, report

nbformat.reads(nbformat.writes(nbformat.v4.new_notebook()), as_version=4)  # what it reads with is imported only now


def build(folder: str) -> None:
    """A report of the notebooks in a folder: their cells are not run, which takes no time, and pages are short."""
    notebook_runs._execute = lambda *_: None
    report._to_html = lambda path, book, pages: f"{report.heading(book)}\n" * 5000
    report.time = SimpleNamespace(monotonic=lambda: 0.0)
    report.build_report(folder, Path(folder) / "out", progress=False)
