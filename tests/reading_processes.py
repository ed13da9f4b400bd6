"""Marks of the tests in which other processes read images, or die while they do."""

from __future__ import annotations

import pytest

WORKERS = pytest.mark.filterwarnings(
    "ignore:.*multi-threaded, use of fork:DeprecationWarning", "ignore:This DataLoader will create:UserWarning"
)
# torch hears of a death by a signal and raises its error in whatever runs. Where that is a destructor (of files with
# which torch tries whether too many are open) Python can but say that it was ignored; torch finds out once more.
DEATHS = pytest.mark.filterwarnings(r"ignore:[\s\S]*DataLoader worker:pytest.PytestUnraisableExceptionWarning")
