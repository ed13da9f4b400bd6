"""The file that an interrupted run of ``python -m ecaviz coverage`` leaves, broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from damage import flipped, seeds, sixteenths
from recorder import CLEAR, case

from ecaviz import coverage_runs

GROUP = "What an interrupted coverage left"
SAYS = "Delete it to measure anew, or name another folder"


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("coverage") / "coverage.partial"
    coverage_runs.Run(path, "shapes-eca-k3", sites="layer1.0.se", progress=False).coverage()
    return path.read_bytes()


def again(path: Path) -> coverage_runs.Run:
    return coverage_runs.Run(path, "shapes-eca-k3", sites="layer1.0.se")


@case(GROUP, "cut off at every sixteenth of its length, and empty", expected=CLEAR)
def test_cut_off(outcomes, left, tmp_path):
    path = tmp_path / "coverage.partial"
    for part in (b"", *sixteenths(left)):
        path.write_bytes(part)
        with outcomes.clear_error(ValueError, path, "truncated or changed", SAYS):
            again(path)


@pytest.mark.parametrize("seeds", seeds(10, 100))
@case(GROUP, "bits, bytes or runs of 16 bytes changed", expected=CLEAR)
def test_changed(outcomes, left, tmp_path, seeds):
    path = tmp_path / "coverage.partial"
    for seed in seeds:
        path.write_bytes(flipped(left, seed))
        with outcomes.clear_error(ValueError, path, "truncated or changed", SAYS):
            again(path)


@case(GROUP, "a folder in its place", expected=CLEAR)
def test_a_folder(outcomes, tmp_path):
    path = tmp_path / "coverage.partial"
    path.mkdir()
    with outcomes.clear_error(ValueError, path, "is a folder"):
        again(path)
