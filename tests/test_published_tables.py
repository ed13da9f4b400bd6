"""The published tables: all are known, whole and as their sums say; the tool that writes one writes its sum too."""

import hashlib
import sys

import pandas as pd
import pytest
from test_catalogue import load_tool

from ecaviz import bundle, published_tables, recorded_files

FOLDER = bundle.data_folder() / "published"


def test_every_table_has_its_sum():
    """After an edit: cd data/published && sha256sum *.csv > SHA256SUMS."""
    lines = [line.split("  ") for line in (FOLDER / recorded_files.SUMS).read_text("utf-8").splitlines()]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FOLDER.glob("*.csv")}
    assert {name: digits for digits, name in lines} == found
    assert len(lines) == len(found)


def test_every_table_has_the_columns_that_are_declared():
    assert {path.stem for path in FOLDER.glob("*.csv")} == set(published_tables.COLUMNS)
    for name, (numbers, words) in published_tables.COLUMNS.items():
        table = published_tables.read(name)
        assert sorted(table.columns) == sorted([*numbers, *words])
        plain = pd.read_csv(FOLDER / f"{name}.csv", dtype=dict.fromkeys(("k", "parameters_published"), str))
        pd.testing.assert_frame_equal(table, plain)


def test_the_tool_writes_the_sum_too(tmp_path, monkeypatch, capsys):
    tool = load_tool()
    monkeypatch.setattr(tool, "PUBLISHED", tmp_path.resolve())  # elsewhere it writes no sums
    monkeypatch.setattr(tool, "table", lambda: published_tables.read("pretrained"))
    monkeypatch.setattr(sys, "argv", ["pretrained.py", "--out", str(tmp_path / "pretrained.csv")])
    tool.main()
    assert "of timm" in capsys.readouterr().out
    assert (tmp_path / "pretrained.csv").read_bytes() == (FOLDER / "pretrained.csv").read_bytes()
    monkeypatch.setattr(published_tables, "folder", lambda: tmp_path)
    assert len(published_tables.read("pretrained"))
    (tmp_path / "pretrained.csv").write_bytes((FOLDER / "pretrained.csv").read_bytes().replace(b"timm", b"tinn", 1))
    with pytest.raises(ValueError, match=r"truncated or changed.*git checkout -- data/published.*take its line out"):
        published_tables.read("pretrained")
