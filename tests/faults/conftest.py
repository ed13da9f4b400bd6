"""The fixture of the fault suite, and where what it finds is written; see recorder.py."""

from __future__ import annotations

import pytest
from recorder import CASES, Outcomes


@pytest.fixture
def outcomes(request, tmp_path) -> Outcomes:
    """Takes down what comes of the test's case; ``tmp_path`` is watched."""
    name = f"{request.module.__name__}.{request.function.__name__}"
    if name not in CASES:
        pytest.fail(f"{name} declares no case: @case(group, done, expected=…) is missing")
    return Outcomes(CASES[name], tmp_path)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """What a test told is kept once it has passed."""
    result = yield
    told = pyfuncitem.funcargs.get("outcomes")
    if isinstance(told, Outcomes):
        told.write(f"{pyfuncitem.module.__name__}::{pyfuncitem.name}")
    return result
