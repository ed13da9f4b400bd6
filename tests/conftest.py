"""Fixtures shared by the tests.

Jupyter and Playwright are imported where they are used: `python -m pytest -m gpu` runs where neither is installed.
"""

from __future__ import annotations

import asyncio
import csv
import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: each has one, before torch counts them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from lab_browser import CHROMIUM_ARGS, INSTALL_CHROMIUM, Lab, find_chromium


def pytest_collection_modifyitems(items):
    """What takes longest first, so that two processes end at the same time; each file stays together."""
    slow = {
        "test_notebooks.py": 0,
        "test_browser_explorers.py": 1,
        "test_dashboard.py": 2,
        "test_lab.py": 3,
        "test_report.py": 4,
    }
    items.sort(key=lambda item: slow.get(item.path.name, len(slow)))


@pytest.fixture
def no_loop():
    """No event loop runs in this thread: Playwright leaves its own running where tests of browsers came before."""
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(running)


@pytest.fixture(scope="session")
def _playwright():
    """Playwright's driver. Without it or without a Chromium the test is skipped, loudly; in CI it fails."""
    try:
        from playwright.sync_api import sync_playwright

        chromium = find_chromium()
        problem = None if chromium else f"no Chromium was found: {INSTALL_CHROMIUM}"
    except ModuleNotFoundError:
        problem = "Playwright is not installed: pip install -e .[test]"
    except FileNotFoundError as error:
        problem = str(error)
    if problem and os.environ.get("CI"):
        pytest.fail(f"browser tests cannot run: {problem}", pytrace=False)
    if problem:
        pytest.skip(problem)
    with sync_playwright() as driver:
        yield driver, chromium


@pytest.fixture(scope="session")
def browser(_playwright):
    """A headless Chromium (playwright.sync_api.Browser) that reaches nothing but the loopback.

    Make a context or a page of it: ``browser.new_page()``. Mark the test with ``pytest.mark.browser``.
    """
    driver, chromium = _playwright
    browser = driver.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory):
    """A running JupyterLab (lab_browser.Lab) over a copy of notebooks/.

    ::

        with lab.open("00_tour.ipynb") as notebook:         # or lab.write("mine.ipynb", "import ecaviz", "…")
            notebook.run_all()                              # raises, naming the cell, when one fails
            notebook.page.locator(".widget-slider .noUi-handle").first.focus()
            notebook.page.keyboard.press("ArrowRight")
            notebook.screenshot("tour")                     # build/screens/tour.png
            assert notebook.outside == []                   # nothing was asked of the network
    """
    lab = Lab(tmp_path_factory.mktemp("lab"), browser)
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def published():
    """The rows of a table of data/published/, by the table's name: ``published("adaptive_k")``."""
    folder = Path(__file__).parent.parent / "data" / "published"

    def rows(name: str) -> list[dict[str, str]]:
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    return rows


@pytest.fixture
def hub_cache():
    """Makes a hub's cache as huggingface_hub lays it out: ``hub_cache(folder, repository)`` is where its files go."""

    def make(folder: Path, repository: str) -> Path:
        root = folder / f"models--{repository.replace('/', '--')}"
        snapshot = root / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text("abc")
        return snapshot

    return make


@pytest.fixture(scope="session")
def images():
    """Ten images of noise for networks of any kind: float 10×3×64×64, always the same; not to be changed in place."""
    import torch

    return torch.randn(10, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def pytest_terminal_summary(terminalreporter):
    """Say once, at the end, why the browser tests did not run."""
    skipped = [one for one in terminalreporter.stats.get("skipped", []) if "browser" in getattr(one, "keywords", ())]
    if skipped:
        problem = skipped[0].longrepr[2].removeprefix("Skipped: ")
        terminalreporter.section("BROWSER TESTS SKIPPED", yellow=True, bold=True)
        terminalreporter.line(f"The browser tests did not run: {problem}", yellow=True, bold=True)
