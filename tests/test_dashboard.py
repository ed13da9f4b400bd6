"""`make dashboard`: Voilà on the loopback behind a token, every explorer on one page, and nothing from the network."""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request

import pytest
from explorer_page import CONTROLS, Shown, boxes
from lab_browser import ROOT, Heard, screen
from running_tool import running

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal"),
]


@pytest.fixture(scope="module")
def dashboard(browser, tmp_path_factory):
    """A running dashboard in dark colours."""
    pytest.importorskip("voila", reason="the extra `lab` is not installed")
    folder = tmp_path_factory.mktemp("dashboard")
    (folder / "config").mkdir()
    settings = "c.Voila.token = ''; c.Voila.auto_token = False; c.Voila.ip = '0.0.0.0'; c.Voila.base_url = '/x/'"
    (folder / "config/voila.py").write_text(settings)  # the options are to outrank it
    tool = ROOT / "tools/dashboard.py"
    with running(tool, "--theme", "dark", page="/", folder=folder, seconds=500) as found:
        yield found


def test_without_the_token_there_is_only_the_way_to_log_in(dashboard):
    assert "make dashboard" in dashboard.said
    with urllib.request.urlopen(dashboard.url, timeout=20) as answer:
        assert "/login" in answer.url
        assert "ecaviz" not in answer.read().decode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{dashboard.url}/api/kernels/5d2f2a1e-0000-4000-8000-000000000000", timeout=20)
    assert refused.value.code == 403
    refused.value.close()
    dashboard.check_private()


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
