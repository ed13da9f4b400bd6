"""docs/reliability.md lists the cases that the tests beside this one declare, those and no others."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from recorder import CASES, CLEAR, SAME, Case, Outcomes, case

import ecaviz

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_spec = importlib.util.spec_from_file_location("tool_reliability", ROOT / "tools" / "reliability.py")
reliability = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reliability)
TEXT = reliability.PAGE.read_text("utf-8")
FILES = sorted(set(HERE.glob("test_*.py")) - {Path(__file__)})


def declared() -> dict[tuple[str, str], Case]:
    for file in FILES:
        importlib.import_module(file.stem)
    names = {file.stem for file in FILES}
    return {(one.group, one.done): one for key, one in CASES.items() if key.split(".")[0] in names}


def test_the_page_lists_the_declared_cases():
    page, cases = reliability.on_the_page(TEXT), declared()
    assert sorted(page.keys() - cases.keys()) == [], "no test declares these: take their lines out of the page"
    assert sorted(cases.keys() - page.keys()) == [], "not on the page: make reliability"
    for key, row in page.items():
        cells = dict(zip(reliability.COLUMNS[1:], row, strict=True))
        assert cells["Expected"] == cases[key].expected, f"{key}: make reliability"
        assert int(cells["Times"].replace(",", "")) > 0
        assert cells["What happened"]
        assert cells["Lost"]


def test_cases_of_one_name_are_one_case():
    told = {}
    for name, one in CASES.items():
        assert told.setdefault((one.group, one.done), one) == one, name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_test_declares_its_case_and_takes_outcomes(file):
    importlib.import_module(file.stem)
    tests = [one for one in ast.parse(file.read_text("utf-8")).body if isinstance(one, ast.FunctionDef)]
    for test in (one for one in tests if one.name.startswith("test_")):
        assert f"{file.stem}.{test.name}" in CASES, f"{file.name}: {test.name} declares no case"
    assert any(one.name.startswith("test_") for one in tests)


@pytest.mark.parametrize("missing", [("", "b", "c"), ("a", " ", "c"), ("a", "b", "")])
def test_a_case_says_what_is_expected(missing):
    with pytest.raises(ValueError, match="a case says its group"):
        case(*missing[:2], expected=missing[2])


def test_rows_of_several_tests_are_added_up(tmp_path):
    row = {"group": "A", "done": "cut | off", "expected": "a clear error", "then": {}, "lost": {}, "day": "2026-01-02"}
    for number, happened in enumerate(({"a clear error": 3}, {"a clear error": 1200, "the same result": 1})):
        (tmp_path / f"{number}.json").write_text(json.dumps(row | {"happened": happened}))
    (tmp_path / "2.json").write_text(
        json.dumps(row | {"done": "killed", "happened": {"recovered": 2}, "lost": {"b": 1}})
    )
    (tmp_path / "3.json").write_text(
        json.dumps(row | {"done": "full", "happened": {"a clear error": 2}, "then": {"with room again, recovered": 1}})
    )
    rows = {key: reliability.cells(one) for key, one in reliability.gathered([tmp_path]).items()}
    assert rows["A", "cut | off"] == (
        "1,204", "a clear error", "1,203 × a clear error; 1 × the same result", "nothing", "2026-01-02",
    )  # fmt: skip
    assert rows["A", "killed"][2:4] == ("recovered", "1 × b")
    assert rows["A", "full"][0] == "2"  # so many faults, whatever came later
    assert rows["A", "full"][2] == "2 × a clear error; 1 × with room again, recovered"
    page = reliability.written(rows, reliability.NOT_MEASURED)
    assert reliability.on_the_page(page) == rows  # so that rows of cases that are not run are kept


def test_the_share_that_is_covered(tmp_path):
    totals = {"covered_lines": 90, "num_statements": 100, "covered_branches": 3, "num_branches": 4}
    (tmp_path / "coverage.json").write_text(json.dumps({"totals": totals}))
    said = reliability.coverage(tmp_path / "coverage.json", "")
    assert "90.0% of the lines, 75.0% of the branches, 89.4% of both" in said
    assert reliability.coverage(None, f"# Page\n\n{said}\n\n## A\n") == said
    assert reliability.coverage(None, "") == reliability.NOT_MEASURED


def test_all_faults_are_in_make_test_long():
    """Those that are marked as long and those that are not, each once."""
    rule = re.search(r"^test-long: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)[1]
    runs = [line for line in rule.splitlines() if " -m pytest " in line]
    assert ['tests/faults -m "not long ' in line for line in runs] == [False, True]
    assert '-m "long and not gpu and not network"' in runs[0]


def test_lines_and_branches_are_run_by_the_tests():
    said = re.search(r"^Lines and branches .*: ([\d.]+)% of the lines, ([\d.]+)% of the branches", TEXT, re.MULTILINE)
    assert said, "not on the page: make coverage"
    assert min(map(float, said.groups())) >= 95
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["coverage"]
    assert wanted["report"]["fail_under"] == 95  # so that `make coverage` fails, too
    assert wanted["run"]["branch"]


def test_many_of_the_made_up_files_are_bad():
    """At least 10,000 that ended in a clear error, without those that were as good as before or passed unnoticed."""
    bad = 0
    for (group, _), (times, _, happened, *_) in reliability.on_the_page(TEXT).items():
        if group == "Made-up files":
            found = re.search(rf"(?:([\d,]+) × )?{CLEAR}(;|$)", happened)
            bad += int((found[1] or times).replace(",", ""))
    assert bad >= 10_000


def test_a_case_that_was_run_in_part_keeps_its_row(tmp_path, monkeypatch, capsys):
    def run(*options, **times):
        for name, number in times.items():
            row = {"group": "A", "done": name, "expected": "e", "happened": {"h": number}, "day": "now"}
            row |= {"then": {}, "lost": {}}
            (tmp_path / f"{name}.json").write_text(json.dumps(row))
        monkeypatch.setattr("sys.argv", ["reliability.py", *map(str, options)])
        reliability.main()
        found = reliability.on_the_page((tmp_path / "page.md").read_text("utf-8"))
        return {name: row[0] for (_, name), row in found.items()}

    monkeypatch.setattr(reliability, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(reliability, "ROOT", tmp_path)
    assert run(tmp_path, one=1200, other=3) == {"one": "1,200", "other": "3"}
    assert run(tmp_path, one=1199, other=4) == {"one": "1,200", "other": "4"}
    assert "run in part this time, and kept as it was: A: one" in capsys.readouterr().out
    row = json.loads((tmp_path / "one.json").read_text())
    (tmp_path / "one.json").write_text(json.dumps(row | {"happened": {"h": 2}, "lost": {"a file": 1}}))
    assert run(tmp_path) == {"one": "2", "other": "4"}  # a loss is news, however often it was tried
    assert run(tmp_path, one=1200) == {"one": "1,200", "other": "4"}
    row |= {"happened": {"h": 3000}, "lost": {"a file": 2000}}
    (tmp_path / "one.json").write_text(json.dumps(row))
    assert run(tmp_path)["one"] == "3,000"
    row |= {"happened": {"h": 60}, "lost": {"a file": 40}}
    (tmp_path / "one.json").write_text(json.dumps(row))
    assert run(tmp_path)["one"] == "3,000"  # the page tells of that loss, and of more trials
    (tmp_path / "one.json").write_text(json.dumps(row | {"lost": {"a file": 40, "a folder": 1}}))
    assert run(tmp_path)["one"] == "60"
    (tmp_path / "one.json").write_text(json.dumps(row | {"happened": {"h": 1200}, "lost": {}}))
    assert run(tmp_path)["one"] == "1,200"
    totals = {"covered_lines": 9, "num_statements": 10, "covered_branches": 3, "num_branches": 4}
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "coverage.json").write_text(json.dumps({"totals": totals}))
    assert run("--coverage", tmp_path / "report" / "coverage.json") == {"one": "1,200", "other": "4"}
    assert "90.0% of the lines" in (tmp_path / "page.md").read_text("utf-8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="no rows in"):
        run(tmp_path / "empty")


# -------------------------------------------------------------------------------------------- whether the recorder sees


def fails(outcomes, run, *, path="there.txt", kind=ValueError, says="expected"):
    with pytest.raises((AssertionError, pytest.fail.Exception)), outcomes.clear_error(kind, path, says):
        run()
    assert not outcomes.counts


def ours(text, kind=ValueError, before=None):
    """Raises an error as ecaviz does, out of its own code."""
    scope = {"error": kind(text), "before": before or (lambda: None)}
    return lambda: exec(compile("before()\nraise error", str(Path(ecaviz.__file__)), "exec"), scope)


def test_what_is_no_clear_error(tmp_path):
    outcomes = Outcomes(Case("a", "b", "c"), tmp_path)
    (tmp_path / "kept.txt").write_text("kept")
    net = torch.nn.Linear(1, 1)
    outcomes.watch(net)
    clear = "there.txt is a folder; expected a file"
    fails(outcomes, lambda: None)
    fails(outcomes, ours("a file was expected"))  # it does not say which
    fails(outcomes, ours("there.txt is broken"))  # nor what to do
    fails(outcomes, ours(clear, KeyError))
    fails(outcomes, ours(clear, type("JSONDecodeError", (ValueError,), {})))
    fails(outcomes, ours(f"{clear} {'x' * 3000}"))
    fails(outcomes, lambda: int(clear))  # Python's own words, raised here
    fails(outcomes, ours(clear, before=lambda: (tmp_path / "half").touch()))
    fails(outcomes, ours(clear, before=lambda: (tmp_path / "kept.txt").write_text("lost")))
    fails(outcomes, ours(clear, before=lambda: (tmp_path / "p.123.half").mkdir()))
    fails(outcomes, ours(clear, before=lambda: net.register_forward_hook(print)))
    with outcomes.clear_error(ValueError, "there.txt", "expected"):
        ours(clear)()
    assert outcomes.counts == {CLEAR: 1}
    with pytest.raises(AssertionError, match="looks whether it is one"):
        outcomes.happened(CLEAR)  # by hand, nobody has looked


def test_what_may_be_left_behind(tmp_path):
    outcomes = Outcomes(Case("a", "b", "c"), tmp_path)
    cache, clear = tmp_path / "home" / "cache", "there.txt is a folder; expected a file"
    for left in (cache, cache / "deep", tmp_path / "home" / "other"):
        with pytest.raises(AssertionError, match="left behind"), outcomes.clear_error(ValueError, "there", "expected"):
            ours(clear, before=lambda left=left: left.mkdir(parents=True))()
        shutil.rmtree(tmp_path / "home")

    def fetched(*places):
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()

    with outcomes.clear_error(ValueError, "there", "expected", told=f"{CLEAR}, soon", apart_from=cache):
        ours(clear, before=lambda: fetched(cache / "half"))()
    with pytest.raises(AssertionError, match="left behind"), outcomes.undisturbed(apart_from=cache):
        fetched(cache.with_name("cache2") / "half")
    outcomes.then("the same result")
    assert (outcomes.counts, outcomes.later) == ({f"{CLEAR}, soon": 1}, {"the same result": 1})


def test_what_is_no_harmless_result(tmp_path):
    outcomes = Outcomes(Case("a", "b", "c"), tmp_path)
    with pytest.raises(pytest.fail.Exception, match="a wrong result without an error: 3"):
        outcomes.attempt(lambda: 3, ValueError, "x", same=lambda found: found == 4)
    with pytest.raises(AssertionError, match="told of no outcome"):
        outcomes.write("nothing")
    outcomes.attempt(lambda: 3, ValueError, "x", same=lambda found: False, otherwise="other", unnoticed="a number")
    outcomes.attempt(lambda: 4, ValueError, "x", same=lambda found: found == 4)
    assert outcomes.counts == {"other": 1, SAME: 1}
    assert outcomes.losses == {"a number": 1}
