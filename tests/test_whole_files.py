"""Files that are written whole or not at all, and what processes that are no more have left beside them."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pandas as pd
import pytest

from ecaviz import tables, training_states, whole_files
from ecaviz.profiles import kept_profile


@pytest.fixture
def ended():
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.skipif(os.name == "nt", reason="a process cannot be asked for here: age tells")
def test_what_a_process_that_is_no_more_has_left_goes_with_the_next_writing(tmp_path, ended):
    path = tmp_path / "a[1].csv"  # no pattern
    left = [tmp_path / f"a[1].csv.{ended}.half", tmp_path / f"a[1].csv.{ended}.k3_x.half"]  # an earlier version's too
    busy = tmp_path / f"a[1].csv.{os.getppid()}.half"  # of a process that may be writing
    kept = [busy, tmp_path / f"b.csv.{ended}.half", tmp_path / "a[1].csv.mine.half", tmp_path / f"a1.csv.{ended}.half"]
    for folder in (*left, *kept):
        folder.mkdir()
        (folder / "part").write_bytes(b"part")
    whole_files.replace_file(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert sorted(tmp_path.iterdir()) == sorted([path, *kept])
    assert all((folder / "part").exists() for folder in kept)


def test_two_that_write_a_file_at_a_time_do_not_meet(tmp_path):
    path = tmp_path / "a.csv"
    with whole_files.draft(path) as one:
        one.write_bytes(b"one")
        whole_files.replace_file(path, b"another")
        assert path.read_bytes() == b"another"
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", ["1", str(10**30)])
def test_a_process_that_may_not_or_cannot_be_asked_for_counts_as_there(tmp_path, number, monkeypatch):
    ask = os.kill

    def kill(process, signal):
        if process == 1:
            raise PermissionError
        return ask(process, signal)

    monkeypatch.setattr(os, "kill", kill)
    half = tmp_path / f"a.csv.{number}.half"
    half.mkdir()
    whole_files.tidy(tmp_path / "a.csv")
    assert half.exists()


def test_where_a_process_cannot_be_asked_for_age_tells(tmp_path, ended, monkeypatch):
    monkeypatch.setattr(whole_files, "os", type("Windows", (), {"name": "nt"}))
    young, old = (tmp_path / f"a.csv.{number}.half" for number in (ended, ended + 1))
    for half in (young, old):
        half.mkdir()
    age = old.stat().st_mtime - 2 * 3600
    os.utime(old, (age, age))
    whole_files.tidy(tmp_path / "a.csv")
    assert list(tmp_path.iterdir()) == [young]
    assert not whole_files._is_left(old, ended + 1)  # another process has removed it by now


def test_an_error_in_between_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("before")

    def stopped():
        with whole_files.draft(path) as place:
            place.write_text("half")
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        stopped()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    missing = tmp_path / "no folder" / "a.csv"
    with pytest.raises(OSError, match=r"a\.csv cannot be written \(No such file or directory\); what was there before"):
        whole_files.replace_file(missing, b"")


def test_a_folder_that_was_made_for_nothing_goes_and_one_that_holds_something_stays(tmp_path):
    with whole_files.writable_folder(tmp_path / "a" / "b" / "c", "test"):
        assert list((tmp_path / "a" / "b" / "c").iterdir()) == []
        (tmp_path / "a" / "kept").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(KeyboardInterrupt), whole_files.writable_folder(tmp_path / "empty" / "d", "test"):
        raise KeyboardInterrupt
    assert list((tmp_path / "empty").iterdir()) == []  # it was there before
    with whole_files.writable_folder(tmp_path / "e", "test"):
        (tmp_path / "e").rmdir()  # by somebody else


@pytest.mark.parametrize("name", ["file", "file/a", "new/" + "n" * 300])
def test_a_folder_that_cannot_be_written_to_is_told_at_once(tmp_path, name):
    (tmp_path / "file").touch()
    folder = tmp_path / name
    with pytest.raises(
        OSError, match=r"^\[Errno \d+\] test: out cannot be written: .*\. .*[Nn]ame another place$"
    ) as raised:
        whole_files.writable_folder(folder, "test: out").__enter__()
    assert ("is a file; a folder was expected" in str(raised.value)) == name.startswith("file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_every_file_says_that_its_folder_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    path, table = tmp_path / "file" / "x", pd.DataFrame({"a": [1]})
    ways = {
        "profile": lambda: kept_profile("cifar10-eca-k3").save(path),
        "table": lambda: tables.save_table(table, path.with_name("x.csv")),
        "state": lambda: training_states.write(path, {}),
    }
    for write in ways.values():
        with pytest.raises(
            FileExistsError, match=r"x(\.csv)? cannot be written: .*file is a file; a folder was expected"
        ):
            write()


def test_a_folder_below_a_link_to_nothing_or_on_no_drive_is_told_as_that(tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone")
    for folder in (link, link / "a"):
        with pytest.raises(OSError, match=r"test: out cannot be written: .*link is a link to something that is not"):
            whole_files.writable_folder(folder, "test: out").__enter__()
    (tmp_path / "file").touch()
    monkeypatch.setattr(os.path, "lexists", lambda _path: False)  # as on Windows below a drive that is not there
    with pytest.raises(OSError, match=rf"cannot be written: there is no {re.escape(tmp_path.anchor)}. Name another"):
        whole_files.writable_folder(tmp_path / "file" / "a", "test: out").__enter__()
