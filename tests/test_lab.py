"""`make lab`: a browser where somebody would see it, an address and a way to forward the port where nobody would."""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("tool_lab", ROOT / "tools" / "lab.py")
lab_tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lab_tool)

REMOTE = {"SSH_CONNECTION": "198.51.100.7 50022 192.0.2.10 22"}


@pytest.mark.parametrize(
    ("env", "platform", "headless"),
    [
        ({}, "linux", True),
        ({"DISPLAY": ":0"}, "linux", False),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", False),
        ({}, "darwin", False),
        ({}, "win32", False),
        (REMOTE, "darwin", True),
        (REMOTE | {"DISPLAY": "localhost:10.0"}, "linux", True),
    ],
)
def test_headless_is_a_linux_without_display_or_a_remote_login(env, platform, headless):
    assert lab_tool.is_headless(env, platform) is headless


def test_login_is_the_address_the_user_came_to(monkeypatch):
    monkeypatch.setattr(lab_tool.getpass, "getuser", lambda: "ada")
    assert lab_tool.login(REMOTE) == "ada@192.0.2.10"
    assert lab_tool.login({"SSH_CONNECTION": "198.51.100.7 50022 192.0.2.10 2222"}) == "-p 2222 ada@192.0.2.10"
    assert lab_tool.login({}) == f"ada@{socket.gethostname()}"


def test_message_says_how_to_reach_stop_and_reopen(monkeypatch):
    monkeypatch.setattr(lab_tool.getpass, "getuser", lambda: "ada")
    url = "http://localhost:8890/lab/tree/notebooks/00_tour.ipynb?token=abc"
    headless = lab_tool.message(url, True, 8890, REMOTE)
    assert url in headless
    assert "ssh -N -L 8890:localhost:8890 ada@192.0.2.10" in headless
    assert "Ctrl-C" in headless
    seen = lab_tool.message(url, False, 8890, {})
    assert url in seen
    assert "ssh" not in seen
    assert "To open it again" in seen


def test_a_port_in_use_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        if port > 65_000:
            pytest.skip(f"the system handed out port {port}: too near the end to look further")
        assert port < lab_tool.free_port(port) < port + 20
        with pytest.raises(OSError, match=f"ports {port} to {port} are all in use; name another"):
            lab_tool.free_port(port, tries=1)


def test_browser_is_opened_only_where_it_is_seen():
    assert "--ServerApp.open_browser=False" in lab_tool.command(8888, lab_tool.TOUR, False)
    assert "--ServerApp.open_browser=True" in lab_tool.command(8888, lab_tool.TOUR, True)
    assert "--ServerApp.ip=127.0.0.1" in lab_tool.command(8888, lab_tool.TOUR, True)


def test_missing_notebook_is_an_error_that_lists_what_is_there():
    done = subprocess.run(
        [sys.executable, ROOT / "tools/lab.py", "notebooks/nope.ipynb"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no notebook notebooks/nope.ipynb" in done.stderr
    assert "there are: " in done.stderr


@pytest.mark.notebook
@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal")
def test_headless_start_prints_a_working_address_and_one_ctrl_c_stops_it(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="the extra `lab` is not installed")
    (tmp_path / "tools").mkdir()
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "tools/lab.py", tmp_path / "tools/lab.py")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / lab_tool.TOUR)
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    env |= {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    process = subprocess.Popen(
        [sys.executable, tmp_path / "tools/lab.py"],
        env=env | REMOTE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    guard = threading.Timer(120, os.killpg, (process.pid, signal.SIGKILL))
    guard.start()
    try:
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("To stop:"):
                break
        address = re.search(r"http://localhost:(\d+)/lab/tree/notebooks/00_tour\.ipynb\?token=(\w+)", said)
        assert address, said
        port, token = address.groups()
        assert f"ssh -N -L {port}:localhost:{port} " in said
        contents = f"http://127.0.0.1:{port}/api/contents/notebooks/00_tour.ipynb"
        with urllib.request.urlopen(f"{contents}?token={token}", timeout=20) as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(contents, timeout=20)
        assert refused.value.code == 403
        refused.value.close()
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does at Ctrl-C
        assert process.wait(timeout=30) == 0
    finally:
        guard.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
