"""Tiny notebooks, and reports of them whose cells are not run; for the tests of broken reports."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbclient  # noqa: F401 - here once, instead of in each process
import nbformat
import tqdm  # noqa: F401

from ecaviz import report

nbformat.reads(nbformat.writes(nbformat.v4.new_notebook()), as_version=4)  # what it reads with is imported only now


def write_one(path: Path, text: str, output: dict[str, Any] | None = None) -> None:
    """A notebook of one heading, and a cell with an output."""
    made = [nbformat.v4.new_output("display_data", output)] if output else []
    code = nbformat.v4.new_code_cell("1", outputs=made, id="code")
    cells = [nbformat.v4.new_markdown_cell(text, id="text"), code]
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)))


def write(folder: Path, names: str, text: str = "old") -> Path:
    """Notebooks of a letter each, with a text; the folder."""
    for name in names:
        write_one(folder / f"{name}.ipynb", f"# {name}: {text}")
    return folder


def nothing(*_: Any) -> None:
    """In the place of what runs the cells."""


def never(*_: Any, **__: Any) -> None:
    """In the place of what runs a notebook that should not be run."""
    raise AssertionError("a notebook was run")


def build(folder: str) -> None:
    """A report of the notebooks in a folder: their cells are not run, which takes no time, and pages are short."""
    report._execute = nothing
    report._to_html = lambda path, book, pages: f"{report.heading(book)}\n" * 5000
    report.time = SimpleNamespace(monotonic=lambda: 0.0)
    report.build_report(folder, Path(folder) / "out", progress=False)
