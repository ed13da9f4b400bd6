"""`make mutants`: a change that no test notices needs a reason on record, and a reason needs its change."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import mutants  # noqa: E402

MUTATED = '''
def x_double__mutmut_orig(y, n=2):
    """Twice y."""
    return f(y,
             n)  # a comment

def x_double__mutmut_1(y, n=3):
    """Twice y."""
    return f(y,
             n)  # a comment

def x_double__mutmut_2(y, n=2):
    """Twice y."""
    return f(y)

class Box:
    def xǁBoxǁclose__mutmut_orig(self):
        if self.open:
            self.open = False

    def xǁBoxǁclose__mutmut_1(self):
        if self.open:
            self.open = None
'''
NAMES = ("x_double__mutmut_1", "x_double__mutmut_2", "xǁBoxǁclose__mutmut_1")
DEFAULT = mutants.Change("maths.double", "def _(y, n=2):", "def _(y, n=3):")
SHORTER = mutants.Change("maths.double", "return f(y, n)", "return f(y)")
CLOSED = mutants.Change("maths.Box.close", "self.open = False", "self.open = None")


@pytest.fixture
def project(tmp_path):
    """Makes a project that mutmut has gone through: ``project(statuses, record)``."""

    def make(statuses, record=""):
        (tmp_path / "pyproject.toml").write_text('[tool.mutmut]\nonly_mutate = ["lib/maths.py"]\n')
        for folder in ("mutants/lib", "tests/mutation"):
            (tmp_path / folder).mkdir(parents=True)
        (tmp_path / "mutants/lib/maths.py").write_text(MUTATED, "utf-8")
        keys = {f"lib.maths.{name}": status for name, status in zip(NAMES, statuses, strict=True)}
        (tmp_path / "mutants/lib/maths.py.meta").write_text(json.dumps({"exit_code_by_key": keys}), "utf-8")
        (tmp_path / "tests/mutation/survivors.toml").write_text(record, "utf-8")
        return tmp_path

    return make


def record(*changes):
    """The file with a reason for them: as the run prints them."""
    text = "\n".join(map(str, changes))
    return f'[[survivors]]\nwhy = "the same value"\nchanges = """\n{text}\n"""\n' if changes else ""


def test_a_mutant_is_known_by_its_statement(project):
    root = project([1, 0, -24])
    found = mutants.tried(root / "mutants/lib/maths.py")
    assert found == [(DEFAULT, "killed"), (SHORTER, "survived"), (CLOSED, "timed out")]


@pytest.mark.parametrize(
    ("statuses", "reasons", "status", "said"),
    [
        ([1, 3, 36], [], 0, "all: 3 mutants, 3 killed or timed out; 0 survived, 0 of them with a reason"),
        ([1, 0, 1], [SHORTER], 0, "maths: 3 mutants, 2 killed, 1 survived"),
        ([1, 0, 1], [], 1, "Write a test, or a reason:\n  maths.double\n  - return f(y, n)\n  + return f(y)"),
        (
            [33, 5, 1],
            [SHORTER],
            1,
            "Write a test, or a reason:\n  maths.double\n  - def _(y, n=2):\n  + def _(y, n=3):",
        ),
        ([1, 1, 1], [SHORTER], 1, "Take them out:\n  maths.double\n  - return f(y, n)\n  + return f(y)"),
        ([1, -24, 1], [SHORTER], 0, "1 timed out"),  # a machine that is slow says nothing of the reason
        ([1, None, 1], [], 2, "of 1 mutants nothing is known; --go-on tries them"),
        ([1, -9, 0], [CLOSED], 2, "of 1 mutants nothing is known"),
    ],
)
def test_what_is_said_of_a_run(project, capsys, statuses, reasons, status, said):
    assert mutants.main(["--read"], project(statuses, record(*reasons))) == status
    assert said in capsys.readouterr().out


def test_a_reason_may_be_of_several_changes(project):
    root = project([1, 1, 1], record(DEFAULT, CLOSED))
    assert mutants.recorded(root / mutants.RECORD) == dict.fromkeys((DEFAULT, CLOSED), "the same value")


def test_without_a_run_nothing_is_known(project, capsys):
    root = project([1, 1, 1])
    (root / "mutants/lib/maths.py.meta").unlink()
    assert mutants.main(["--read"], root) == 2
    assert "of all mutants nothing is known" in capsys.readouterr().out


def test_a_mutmut_that_fails_is_heard(project, capsys, monkeypatch):
    monkeypatch.setattr(mutants, "MUTMUT", (sys.executable, "-c", "raise SystemExit('no tests')"))
    root = project([1, 1, 1])
    assert mutants.main([], root) == 2
    assert "no tests\nerror: mutmut ended with status 1" in capsys.readouterr().out
    assert not (root / "mutants/lib").exists()  # nothing of an older run is left to be read


def functions(module):
    """The statements of every function of a module, by its name, as they are on record."""
    tree = ast.parse((ROOT / "ecaviz" / f"{module}.py").read_text("utf-8"))
    within = [("", tree), *((f"{node.name}.", node) for node in tree.body if isinstance(node, ast.ClassDef))]
    return {
        f"{module}.{start}{node.name}": mutants.lines(node)
        for start, holder in within
        for node in holder.body
        if isinstance(node, ast.FunctionDef)
    }


def test_every_reason_on_record_is_of_a_line_that_is_there():
    """Sooner than the run itself: a line that was changed takes its reason along."""
    reasons = mutants.recorded(ROOT / mutants.RECORD)
    present = {
        name: own
        for one in ("attention", "interaction", "kernels", "statistics")
        for name, own in functions(one).items()
    }
    for change, why in reasons.items():
        assert why.strip()
        assert change.now
        assert change.was in present.get(change.where, ()), change


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="mutmut forks")
def test_a_small_project_from_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "small").mkdir()
    (tmp_path / "tests" / "mutation").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.mutmut]\nsource_paths = ["small"]\nonly_mutate = ["small/sums.py"]\n'
    )
    (tmp_path / "small" / "__init__.py").touch()
    (tmp_path / "small" / "sums.py").write_text(
        "def add(a, b):\n    return a + b\n\n\ndef less(a, b):\n    return a < b\n"
    )
    (tmp_path / "tests" / "test_sums.py").write_text(
        "from small.sums import add, less\n\n\ndef test_them():\n    assert add(1, 2) == 3\n    assert less(1, 2)\n"
    )
    (tmp_path / "tests" / "mutation" / "survivors.toml").touch()
    assert mutants.main(["--jobs", "1"], tmp_path) == 1
    said = capsys.readouterr().out
    assert "sums: 2 mutants, 1 killed, 1 survived" in said, said
    assert said.endswith("  sums.less\n  - return a < b\n  + return a <= b\n")
