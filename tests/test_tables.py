"""Tables in files: what was written is what is read, and nothing is left of what failed."""

import importlib.util

import pandas as pd
import pytest

from ecaviz.tables import check_ending, save_table


@pytest.fixture
def frame():
    return pd.DataFrame({"site": ["a", "b"], "channel": [0, 1], "mean": [0.25, 1 / 3], "r": [16.0, float("nan")]})


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
def test_what_is_written_is_what_is_read(tmp_path, frame, name):
    path = save_table(frame, tmp_path / "new folder" / name)
    read = pd.read_parquet if name.endswith("parquet") else pd.read_csv
    pd.testing.assert_frame_equal(read(path), frame)
    save_table(iter([frame[:1], frame[1:]]), path)
    pd.testing.assert_frame_equal(read(path), frame)
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_a_name_that_says_no_format(tmp_path, frame):
    with pytest.raises(ValueError, match=r"ends in \.csv, \.csv\.gz or \.parquet was expected, got 't\.xlsx'"):
        save_table(frame, tmp_path / "t.xlsx")
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_pyarrow_is_told_beforehand(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="needs pyarrow, which is not installed: pip install pyarrow"):
        check_ending("t.parquet")
    check_ending("t.csv")


def test_a_failure_leaves_what_was_there(tmp_path, frame, monkeypatch):
    path = save_table(frame, tmp_path / "t.csv")
    before = path.read_bytes()

    def fails(self, target, **_):
        target.write("half of it")
        raise OSError("no space left")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fails)
    with pytest.raises(OSError, match="no space left"):
        save_table(frame, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]
