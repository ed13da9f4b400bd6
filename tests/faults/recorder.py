"""Cases of the fault suite: what is done to ecaviz on purpose, what is expected to come of it, and what came of it.

A test here declares its case and tells what happened::

    @case("Profiles", "cut off at every sixteenth of its length", expected=CLEAR)
    def test_profiles_cut_off(outcomes, tmp_path):
        for part in sixteenths(content):
            path.write_bytes(part)
            with outcomes.clear_error(ValueError, path, "Profile the model again"):
                AttentionProfile.load(path)

What a test tells is written to build/faults, a small file a test; ``make reliability`` makes docs/reliability.md of
them. Several tests, or one with many parameters, may have one case: their counts are added.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import ecaviz

__all__ = ["CASES", "CLEAR", "LEFT_OUT", "RECOVERED", "SAME", "Case", "Outcomes", "case", "check_clear"]

CLEAR = "a clear error"
SAME = "the same result"
RECOVERED = "recovered"
LEFT_OUT = "left out, counted and named"

DISTURBED = "files, folders or hooks were left behind, or changed"
ROWS = Path(__file__).parents[2] / "build" / "faults"
_OURS = str(Path(ecaviz.__file__).parent)


@dataclass(frozen=True)
class Case:
    """One row of docs/reliability.md.

    Attributes:
        group: What is broken: "Profiles".
        done: What was done to it; with the group, the name of the case.
        expected: What is to come of it, in words; often :data:`CLEAR`.
    """

    group: str
    done: str
    expected: str


CASES: dict[str, Case] = {}
"""The case of each test function that declares one, by ``module.function``."""


def case(group: str, done: str, *, expected: str) -> Callable:
    """Declare the case of a test; the test takes the fixture ``outcomes``."""
    if not all(text.strip() for text in (group, done, expected)):
        raise ValueError(f"a case says its group, what is done and what is expected; got {(group, done, expected)}")

    def declare(function: Callable) -> Callable:
        CASES[f"{function.__module__}.{function.__name__}"] = Case(group, done, expected)
        return function

    return declare


class Outcomes:
    """What came of one case in one test.

    Each way of telling also checks that nothing was disturbed: the folders that are watched hold the same files and
    folders as before, the files unchanged (so no half-written file, and no earlier result harmed), and the networks
    have the same hooks.

    Args:
        declared: The case.
        folder: The first folder to watch.
    """

    def __init__(self, declared: Case, folder: Path):
        self.case, self.counts, self.later, self.losses = declared, Counter(), Counter(), Counter()
        self._folders: list[Path] = [folder]
        self._nets: list[nn.Module] = []

    def watch(self, *things: Path | nn.Module) -> None:
        """Folders that must stay as they are, and networks that must keep no hook."""
        self._folders += [one for one in things if isinstance(one, Path)]
        self._nets += [one for one in things if isinstance(one, nn.Module)]

    def happened(self, what: str, times: int = 1) -> None:
        """Count an outcome, in words such as :data:`SAME`; the words should tell what is so, not what is hoped.

        Clear errors are counted by :meth:`clear_error` and :meth:`attempt`, which look whether they are.
        """
        assert CLEAR not in what, "outcomes.clear_error(…, told=…) looks whether it is one"
        self.counts[what] += times

    def then(self, what: str, times: int = 1) -> None:
        """Count what came later of a fault that is counted already: a recovery, say; it is no further fault."""
        self.later[what] += times

    def lost(self, what: str, times: int = 1) -> None:
        """Say what was lost, where something was."""
        self.losses[what] += times

    @contextmanager
    def undisturbed(self, apart_from: Path | None = None) -> Iterator[None]:
        """Inside the ``with`` nothing may be left behind or changed that is watched.

        Args:
            apart_from: A file, or a folder with what is in it, that may come or change, and the folders that it is in:
                what a pass or a download keeps, to go on from there. The test itself says what is there then.
        """
        before = self._state(apart_from)
        yield
        assert self._state(apart_from) == before, DISTURBED

    @contextmanager
    def clear_error(
        self,
        kind: type[BaseException] | tuple[type[BaseException], ...],
        names: Path | str,
        *says: str,
        told: str = CLEAR,
        apart_from: Path | None = None,
    ) -> Iterator[None]:
        """Inside the ``with`` one clear error is raised, and nothing is disturbed.

        Args:
            kind: Its very type, or types; a subclass, such as JSONDecodeError of ValueError, is another library's word.
            names: What the message names: the file.
            says: Regular expressions that are found in it: what was expected, what to do.
            told: What it is counted as.
            apart_from: As for :meth:`undisturbed`.
        """
        with self.undisturbed(apart_from):
            try:
                yield
            except Exception as error:
                check_clear(error, kind, names, *says)
            else:
                pytest.fail(f"no error was raised; expected a {kind} that names {names}")
        self.counts[told] += 1

    def attempt(
        self,
        run: Callable[[], Any],
        kind: type[BaseException] | tuple[type[BaseException], ...],
        names: Path | str,
        *says: str,
        same: Callable[[Any], bool],
        good: str = SAME,
        otherwise: str | None = None,
        unnoticed: str | None = None,
        writes: bool = False,
    ) -> None:
        """Run something that is either one clear error or harmless.

        Args:
            run: What to run.
            kind: As for :meth:`clear_error`, and so the next two.
            names: What the message names.
            says: What it says.
            same: Whether a result is right: what it would have been without the fault.
            good: What such a result is counted as.
            otherwise: What a result that is not the same is counted as, where nothing can tell it from a good one;
                None where that must not be.
            unnoticed: What is lost then, if nothing tells it later either.
            writes: Whether what is run may write files where it raises no error.
        """
        before = self._state()
        try:
            result = run()
        except Exception as error:
            check_clear(error, kind, names, *says)
            assert self._state() == before, DISTURBED
            self.counts[CLEAR] += 1
            return
        if not writes:
            assert self._state() == before, DISTURBED
        if same(result):
            self.happened(good)
        elif otherwise is not None:
            self.happened(otherwise)
            if unnoticed is not None:
                self.lost(unnoticed)
        else:
            pytest.fail(f"a wrong result without an error: {result!r}"[:500])

    def _state(self, apart_from: Path | None = None) -> tuple:
        files = {}
        for folder in self._folders:
            for place, folders, names in os.walk(folder):
                files[place] = "folder"  # its times change with every draft that comes and goes in it
                files |= {os.path.join(place, name): "folder" for name in folders}  # those that are links, too
                for name in names:
                    path = os.path.join(place, name)
                    about = os.lstat(path)
                    files[path] = about.st_size, about.st_mtime_ns, about.st_ino
        hooks = [
            len(getattr(module, name))
            for net in self._nets
            for module in net.modules()
            for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        ]
        if apart_from is not None:
            files = {path: one for path, one in files.items() if not _on_one_way(Path(path), apart_from)}
        return files, hooks, len(nn.modules.module._global_forward_hooks)

    def write(self, test: str) -> None:
        """Write what was told to build/faults.

        Args:
            test: Name of the test, with its parameters.
        """
        assert self.counts, "the test told of no outcome"
        ROWS.mkdir(parents=True, exist_ok=True)
        row = asdict(self.case) | {
            "test": test,
            "happened": dict(self.counts),
            "then": dict(self.later),
            "lost": dict(self.losses),
            "day": date.today().isoformat(),
        }
        (ROWS / f"{hashlib.sha256(test.encode()).hexdigest()[:16]}.json").write_text(json.dumps(row, indent=1))


def _on_one_way(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def check_clear(error: BaseException, kind: type | tuple[type, ...], names: Path | str, *says: str) -> None:
    """A clear error: of the type that is documented, raised by ecaviz, names the file and says what to do.

    Where there is no file, it names what was given instead: the option, the device, the network that is fetched.
    """
    text = str(error)
    told = "".join(traceback.format_exception(error))
    kinds = kind if isinstance(kind, tuple) else (kind,)
    assert type(error) in kinds, f"a {type(error).__name__} instead of a {kind}:\n{told}"
    raised_in = [frame.filename for frame in traceback.extract_tb(error.__traceback__)][-1]
    assert raised_in.startswith(_OURS), f"raised in {raised_in}, not in ecaviz:\n{told}"
    assert str(names) in text, f"does not name {names}: {text}"
    for what in says:
        assert re.search(what, text), f"does not say {what!r}: {text}"
    assert "Traceback" not in text
    assert len(text) < 2000, f"{len(text)} characters long"
