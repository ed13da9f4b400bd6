"""`make dashboard`: Voilà on the loopback behind a token, every explorer on one page, and nothing from the network."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
from explorer_page import CONTROLS, Shown, boxes
from lab_browser import ROOT, Heard, isolated, screen

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal"),
]


@pytest.fixture(scope="module")
def dashboard(browser, tmp_path_factory):
    """A running dashboard in dark colours: its address, its token and the process, a session of its own."""
    pytest.importorskip("voila", reason="the extra `lab` is not installed")
    folder = tmp_path_factory.mktemp("dashboard")
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    with (folder / "errors.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, ROOT / "tools/dashboard.py", "--theme", "dark"],
            env=env | isolated(folder),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    guard = threading.Timer(500, os.killpg, (process.pid, signal.SIGKILL))
    guard.start()
    try:
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("To stop:"):
                break
        address = re.search(r"http://localhost:(\d+)/\?token=(\w+)", said)
        assert address, said + (folder / "errors.log").read_text()
        port, token = address.groups()
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}", token=token, said=said, log=folder / "errors.log")
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does at Ctrl-C
        assert process.wait(timeout=30) == 0
    finally:
        guard.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()


def test_without_the_token_there_is_only_the_way_to_log_in(dashboard):
    assert "make dashboard" in dashboard.said
    with urllib.request.urlopen(dashboard.url, timeout=20) as answer:
        assert "/login" in answer.url
        assert "ecaviz" not in answer.read().decode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{dashboard.url}/api/kernels/5d2f2a1e-0000-4000-8000-000000000000", timeout=20)
    assert refused.value.code == 403
    refused.value.close()


def test_every_explorer_follows_the_keyboard(dashboard, browser):
    page = browser.new_page(viewport={"width": 1500, "height": 1100})
    heard = Heard(page, dashboard.url)
    try:
        page.goto(f"{dashboard.url}/?token={dashboard.token}")
        explorers = re.findall(r"ecaviz\.(\w+Explorer)\(", (ROOT / "dashboard/explorers.ipynb").read_text("utf-8"))
        assert sorted(explorers) == sorted(CONTROLS)
        boxes(page).first.wait_for(timeout=120_000)
        page.screenshot(path=screen("dashboard-first"))
        boxes(page).nth(len(explorers) - 1).wait_for(timeout=120_000)
        assert "with hidden()" not in page.content(), "the code is shown"
        for i, explorer in enumerate(explorers):
            shown = Shown(page, boxes(page).nth(i), explorer)
            page.screenshot(path=screen(f"dashboard-{explorer}-start"))
            shown.move_each()
            page.screenshot(path=screen(f"dashboard-{explorer}"))
        assert page.locator('[role="alert"]').count() == 0
        assert page.locator(".jupyter-widgets-error-widget").count() == 0
        assert heard.complaints == []
        assert heard.outside == []
    finally:
        page.close()
    assert "Traceback" not in dashboard.log.read_text()
