"""Reports of notebooks: full disks, closed folders, notebooks that fail, and processes that are stopped."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from damage import open_folder, someone_else
from recorder import CLEAR, RECOVERED, case
from stopping import INTERRUPTED, Worker
from test_disk import room_for

import ecaviz.notebook_runs
import ecaviz.report
from ecaviz.frames import MIME_TYPE
from ecaviz.report import ReportError, build_report

pytest.importorskip("nbclient", reason="the extra `lab` is not installed")

GROUP = "Reports"
KEPT = f"{CLEAR}; what was there before is untouched"
OTHERS = f"{CLEAR}; the other pages are there"
WHOLE = f"every page is whole, of before or new; {RECOVERED}"


def write_one(path: Path, text: str, output: dict[str, Any] | None = None) -> None:
    """A notebook of one heading, and a cell with an output."""
    made = [{"output_type": "display_data", "data": output, "metadata": {}}] if output else []
    code = {"cell_type": "code", "id": "b", "source": "1", "outputs": made, "execution_count": None, "metadata": {}}
    cells = [{"cell_type": "markdown", "id": "a", "source": text, "metadata": {}}, code]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))


def write(folder: Path, names: str, text: str = "first") -> Path:
    """Notebooks of a letter each, with a text; the folder."""
    for name in names:
        write_one(folder / f"{name}.ipynb", f"# {name}: {text}")
    return folder


def never(*_: Any, **__: Any) -> None:
    """In the place of what runs a notebook that should not be run."""
    pytest.fail("a notebook was run")


@pytest.fixture
def without_kernel(monkeypatch):
    """The cells are not run: what breaks here comes after them."""
    monkeypatch.setattr(ecaviz.notebook_runs, "_execute", lambda *_: None)


def pages(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


@pytest.mark.parametrize("room", ["none", "half", "all but one byte"])
@case(GROUP, "a disk that is full while a page is written over another", expected=OTHERS)
def test_full_while_a_page_is_written(outcomes, without_kernel, tmp_path, monkeypatch, room):
    out = write(tmp_path, "abc") / "out"
    build_report(tmp_path, out, progress=False)
    before, replace_file = pages(out), ecaviz.report.replace_file

    def stopping(path, content):
        size = {"none": 0, "half": len(content) // 2, "all but one byte": len(content) - 1}[room]
        with room_for(size if path.name == "b.html" else 10**9):
            replace_file(path, content)

    write(tmp_path, "abc", "second")
    monkeypatch.setattr(ecaviz.report, "replace_file", stopping)
    says = "1 of 3 notebooks failed", r"b\.html cannot be written", "there before is untouched. Make room there"
    with outcomes.clear_error(ReportError, out / "b.html", *says, told=OTHERS, apart_from=out):
        build_report(tmp_path, out, progress=False)
    after = pages(out)
    assert after.keys() == before.keys()
    assert [name for name in before if f"{name[0]}: second".encode() in after[name]] == ["a.html", "c.html"]
    assert after["b.html"] == before["b.html"]
    assert b"cannot be written" in after["index.html"]


@case(GROUP, "a disk that is full while the index is written over another", expected=OTHERS)
def test_full_while_the_index_is_written(outcomes, without_kernel, tmp_path, monkeypatch):
    out = write(tmp_path, "ab") / "out"
    build_report(tmp_path, out, progress=False)
    before, replace_file = pages(out), ecaviz.report.replace_file

    def stopping(path, content):
        with room_for(100 if path.name == "index.html" else 10**9):
            replace_file(path, content)

    write(tmp_path, "ab", "second")
    monkeypatch.setattr(ecaviz.report, "replace_file", stopping)
    says = r"index\.html cannot be written .*untouched. Make room there"
    with outcomes.clear_error(ReportError, out / "index.html", says, told=OTHERS, apart_from=out):
        build_report(tmp_path, out, progress=False)
    after = pages(out)
    assert [name for name in before if f"{name[0]}: second".encode() in after[name]] == ["a.html", "b.html"]
    assert after["index.html"] == before["index.html"]


@case(GROUP, "a disk that is full before the first notebook is run", expected=KEPT)
def test_full_from_the_start(outcomes, tmp_path, monkeypatch):
    monkeypatch.setattr(ecaviz.report, "run_notebook", never)
    out = write(tmp_path, "a") / "deep" / "out"
    with outcomes.clear_error(OSError, out, "cannot be written", "Make room there", told=KEPT), room_for(0):
        build_report(tmp_path, out, progress=False)
    assert not out.parent.exists()


@case(GROUP, "out= is a file, or lies in one, or in a folder that may not be written to", expected=KEPT)
def test_nowhere_to_write(outcomes, tmp_path, monkeypatch):
    monkeypatch.setattr(ecaviz.report, "run_notebook", never)
    write(tmp_path, "a")
    (tmp_path / "file").write_text("kept")
    for out, kind in ((tmp_path / "file", FileExistsError), (tmp_path / "file" / "out", NotADirectoryError)):
        says = "cannot be written", "is a file; a folder was expected. Name another"
        with outcomes.clear_error(kind, out, *says, told=KEPT):
            build_report(tmp_path, out, progress=False)
    with open_folder() as folder:
        outcomes.watch(folder)
        write(folder, "a")
        (folder / "a.ipynb").chmod(0o644)
        (folder / "out").mkdir()
        for one in (folder / "out", folder):
            one.chmod(0o555)
        with someone_else():
            for out in (folder / "out", folder / "new"):
                with outcomes.clear_error(PermissionError, out, "cannot be written", "make it writable", told=KEPT):
                    build_report(folder, out, progress=False)


@case(
    GROUP,
    "notebooks that fail: no JSON, a formula that has no MathML, an output that nbconvert stumbles over",
    expected=OTHERS,
)
def test_notebooks_that_fail(outcomes, without_kernel, tmp_path):
    out, said = write(tmp_path, "ad") / "out", []
    for name, fail, says in (
        ("b", lambda path: path.write_text("{"), ": not a notebook that can be read"),
        ("c", lambda path: write_one(path, r"# Broken $\unheard{x}$"), r": the formula '\\unheard"),
        ("e", lambda path: write_one(path, "# E", output={MIME_TYPE: {"no": "frames"}}), ": TypeError"),
    ):
        path = tmp_path / f"{name}.ipynb"
        fail(path)
        said.append(re.escape(f"{path}{says}"))  # of all that fail
        failed = f"{len(said)} of {len(said) + 2} notebooks failed"
        with outcomes.clear_error(ReportError, path, failed, *said, told=OTHERS, apart_from=out):
            build_report(tmp_path, out, progress=False)
        assert pages(out).keys() == {"a.html", "d.html", "index.html"}


# ------------------------------------------------------------------------------------------------- processes that stop


@pytest.fixture(scope="module")
def worker(tmp_path_factory) -> Iterator[tuple[Worker, Path]]:
    folder = tmp_path_factory.mktemp("reports")
    with Worker("works_reports", folder) as worker:
        yield worker, folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each process is a fork")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=lambda sent: sent.name)
@case(GROUP, "killed or interrupted while a report is written over another, before each use of a file", expected=WHOLE)
def test_stopped(outcomes, worker, sent):
    worker, folder = worker
    place = folder / sent.name
    place.mkdir()
    assert worker.run("build", write(place, "ab")).status == 0
    write(place, "ab", "second")
    old, out = pages(place / "out"), place / "out"
    uses = worker.run("build", place).uses
    new = pages(out)
    for use in range(1, uses + 1, max(1, uses // 6)):
        for name, content in old.items():
            (out / name).write_bytes(content)
        ended = worker.run("build", place, use=use, sent=sent)
        assert ended.status == (-signal.SIGKILL if sent == signal.SIGKILL else INTERRUPTED)
        assert all(content in (old[name], new[name]) for name, content in pages(out).items())
        assert worker.run("build", place).status == 0
        assert pages(out) == new
        assert len(list(out.iterdir())) == len(new)  # nothing half written is left
        outcomes.happened(WHOLE)
