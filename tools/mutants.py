"""Change the library on purpose, one small change after the other, and see that a test fails each time.

    python tools/mutants.py               # all: a quarter of an hour on two busy cores; `make mutants`
    python tools/mutants.py --jobs 4      # so many processes
    python tools/mutants.py --go-on       # what a run that was stopped had left
    python tools/mutants.py --read        # run nothing, read what the last run found

mutmut makes the changed copies, mutants, in ``mutants/`` and tries them; ``[tool.mutmut]`` in pyproject.toml says of
which modules, and with which tests. A mutant with which every test passes has survived: either a test is missing, or
the change makes no difference that counts. The reasons of those are on record in ``tests/mutation/survivors.toml``, by
the line that is changed, since the numbers of mutmut move with the code. Exit status: 0, every survivor has a reason;
1, one has none, or a reason on record is of no survivor; 2, mutmut did not come to its end.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD = Path("tests", "mutation", "survivors.toml")
MUTMUT = (sys.executable, "-c", "from mutmut.__main__ import cli; cli()", "run")
FATES = {1: "killed", 3: "killed", 0: "survived", 5: "survived", 33: "survived"}  # 5, 33: no test runs it
FATES |= dict.fromkeys((-24, 24, 36, 152, 255), "timed out")
"""What became of a mutant, by the exit status that mutmut notes; any other is no verdict."""
UNDECIDED = "left undecided"


@dataclass(frozen=True)
class Change:
    """A mutant, by what it changes.

    Attributes:
        where: Module, class and function: ``statistics.Moments.update``.
        was: The statement, as ``ast.unparse`` writes it, or the first line of a compound one.
        now: What the mutant has in its place.
    """

    where: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"  {self.where}\n  - {self.was}\n  + {self.now}"


def lines(function: ast.FunctionDef) -> list[str]:
    """A function as ``ast.unparse`` writes it, a statement a line, without its name."""
    function.name = "_"
    return [line.strip() for line in ast.unparse(function).splitlines()]


def tried(mutated: Path) -> list[tuple[Change, str]]:
    """Every mutant of a module and what became of it.

    Args:
        mutated: The module as mutmut wrote it: each function as it was, and all that became of it. The file of the
            same name with ``.meta`` behind it has the exit status of each.
    """
    functions = {
        node.name: node for node in ast.walk(ast.parse(mutated.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)
    }
    found = []
    for key, status in json.loads(Path(f"{mutated}.meta").read_text("utf-8"))["exit_code_by_key"].items():
        name = key.rpartition(".")[2]  # x_function__mutmut_3, or xǁClassǁmethod__mutmut_3
        own = name.rpartition("__mutmut_")[0]
        plain = own.removeprefix("x_") if own.startswith("x_") else own.removeprefix("xǁ").replace("ǁ", ".")
        pair = [lines(functions[one]) for one in (f"{own}__mutmut_orig", name)]
        differ = list(difflib.unified_diff(*pair, n=0, lineterm=""))[2:]
        was, now = ("".join(line[1:] for line in differ if line[0] == sign) for sign in "-+")
        found.append((Change(f"{mutated.stem}.{plain}", was, now), FATES.get(status, UNDECIDED)))
    return found


def recorded(path: Path) -> dict[Change, str]:
    """The reasons on record; their changes are written as :class:`Change` prints itself."""
    reasons = {}
    for group in tomllib.loads(path.read_text("utf-8")).get("survivors", []):
        where = was = ""
        for line in map(str.strip, group["changes"].splitlines()):
            if line.startswith("- "):
                was = line[2:]
            elif line.startswith("+ "):
                reasons[Change(where, was, line[2:])] = group["why"]
            elif line:
                where = line
    return reasons


def report(found: dict[str, list[tuple[Change, str]]], reasons: dict[Change, str]) -> tuple[str, int]:
    """What was found, in words, and the exit status.

    Args:
        found: The mutants by module, as :func:`tried` gives them.
        reasons: Those on record.
    """
    text = []
    of: dict[str, list[Change]] = {fate: [] for fate in (*FATES.values(), UNDECIDED)}
    for module, mutants in found.items():
        counts = sorted(Counter(fate for _, fate in mutants).items())
        text.append(f"{module}: {len(mutants):,} mutants, {', '.join(f'{n:,} {fate}' for fate, n in counts)}")
        for change, fate in mutants:
            of[fate].append(change)
    number = sum(map(len, of.values()))
    survived, undecided = of["survived"], of[UNDECIDED]
    without = [one for one in survived if one not in reasons]
    stale = reasons.keys() - {*survived, *undecided, *of["timed out"]}
    text.append(
        f"all: {number:,} mutants, {len(of['killed']) + len(of['timed out']):,} killed or timed out; "
        f"{len(survived):,} survived, {len(survived) - len(without):,} of them with a reason on record."
    )
    if without:
        text.append(f"error: no test fails with these changes, and {RECORD} has no reason. Write a test, or a reason:")
        text += map(str, without)
    if stale:
        text.append(f"error: {RECORD} has reasons of changes that do not survive, or are not made. Take them out:")
        text += sorted(map(str, stale))
    if undecided or not number:
        text.append(f"error: of {len(undecided) or 'all'} mutants nothing is known; --go-on tries them.")
        return "\n".join(text), 2
    return "\n".join(text), 1 if without or stale else 0


def run(root: Path, jobs: int, go_on: bool) -> int:
    """Let mutmut try the mutants; its exit status, and what it said last where that is not 0."""
    made = root / "mutants"
    if not go_on:
        shutil.rmtree(made, ignore_errors=True)
    made.mkdir(exist_ok=True)
    print("mutmut changes and tests; what it says is in mutants/run.log", flush=True)
    alone = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    with (made / "run.log").open("w+", encoding="utf-8", errors="replace") as log:
        command = [*MUTMUT, "--max-children", str(jobs)]
        status = subprocess.run(command, cwd=root, env=os.environ | alone, stdout=log, stderr=log).returncode
        log.seek(0)
        if status:
            print(*log.read().splitlines()[-30:], f"error: mutmut ended with status {status}", sep="\n")
    return status


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Try the mutants, and say what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="processes that try mutants (default: 2)")
    parser.add_argument("--go-on", action="store_true", help="leave what an earlier run has tried")
    parser.add_argument("--read", action="store_true", help="run nothing, read what the last run found")
    given = parser.parse_args(arguments)
    if not given.read and run(root, given.jobs, given.go_on):
        return 2
    files = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["mutmut"]["only_mutate"]
    mutated = {Path(file).stem: root / "mutants" / file for file in files}
    found = {module: tried(file) for module, file in mutated.items() if Path(f"{file}.meta").is_file()}
    text, status = report(found, recorded(root / RECORD))
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
