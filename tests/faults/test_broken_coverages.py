"""``python -m ecaviz coverage``: stopped at any moment; and the file that it leaves then, broken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from damage import flipped, seeds, sixteenths
from recorder import CLEAR, SAME, case
from stopping import Worker
from test_killed import BOTH, ENDS

from ecaviz import coverage_runs

GROUP = "What an interrupted coverage left"
SAYS = "Delete it to measure anew, or name another folder"
ONCE = f"{SAME}; what was through is not measured again"


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("coverage")
    coverage_runs.Run(folder, "shapes-eca-k3", sites="layer1.0.se", progress=False).coverage()
    (path,) = folder.glob("coverage-*.partial")
    return path


def again(path: Path) -> coverage_runs.Run:
    return coverage_runs.Run(path.parent, "shapes-eca-k3", sites="layer1.0.se")


@case(GROUP, "cut off at every sixteenth of its length, and empty", expected=CLEAR)
def test_cut_off(outcomes, left, tmp_path):
    path = tmp_path / left.name
    for part in (b"", *sixteenths(left.read_bytes())):
        path.write_bytes(part)
        with outcomes.clear_error(ValueError, path, "truncated or changed", SAYS):
            again(path)


@pytest.mark.parametrize("seeds", seeds(10, 100))
@case(GROUP, "bits, bytes or runs of 16 bytes changed", expected=CLEAR)
def test_changed(outcomes, left, tmp_path, seeds):
    path = tmp_path / left.name
    for seed in seeds:
        path.write_bytes(flipped(left.read_bytes(), seed))
        with outcomes.clear_error(ValueError, path, "truncated or changed", SAYS):
            again(path)


@case(GROUP, "a folder in its place", expected=CLEAR)
def test_a_folder(outcomes, left, tmp_path):
    path = tmp_path / left.name
    path.mkdir()
    with outcomes.clear_error(ValueError, path, "is a folder"):
        again(path)


@pytest.fixture(scope="module")
def worker(tmp_path_factory) -> Iterator[tuple[Worker, Path]]:
    folder = tmp_path_factory.mktemp("coverages")
    with Worker("works_coverages", folder) as worker:
        yield worker, folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each process is a fork")
@BOTH
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.long)])
@case(
    "Killed or interrupted",
    "while the coverage of three networks is measured, before each use of a file",
    expected=ONCE,
)
def test_stopped(outcomes, worker, sent, step):
    worker, folder = worker
    place = folder / f"{sent.name}-{step}"
    place.mkdir()
    table = place / "coverage.csv"
    whole = worker.run("measure", place)
    assert whole.said == [0, 1, 2]
    expected = table.read_bytes()
    for use in range(1, whole.uses + 1, step):
        table.write_bytes(b"of an earlier run")
        for partial in place.glob("*.partial"):
            partial.unlink()
        assert worker.run("measure", place, use=use, sent=sent).status == ENDS[sent]
        assert table.read_bytes() in (b"of an earlier run", expected)
        kept = len(list(place.glob("*.partial")))
        again = worker.run("measure", place)
        assert (again.status, again.said) == (0, list(range(kept, 3)))
        assert table.read_bytes() == expected
        assert list(place.iterdir()) == [table]
        outcomes.happened(ONCE)
