"""`make lab`: a browser where somebody would see it, an address and a way to forward the port where nobody would."""

import importlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab_browser import ROOT, isolated
from running_tool import running

sys.path.append(str(ROOT / "tools"))
lab_tool, serving = (importlib.import_module(name) for name in ("lab", "serving"))

psutil = pytest.importorskip("psutil", reason="the extra `lab` is not installed")

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
    assert serving.is_headless(env, platform) is headless


def test_login_is_the_address_the_user_came_to(monkeypatch):
    monkeypatch.setattr(serving.getpass, "getuser", lambda: "ada")
    assert serving.login(REMOTE) == "ada@192.0.2.10"
    assert serving.login({"SSH_CONNECTION": "198.51.100.7 50022 192.0.2.10 2222"}) == "-p 2222 ada@192.0.2.10"
    assert serving.login({}) == f"ada@{socket.gethostname()}"


def test_message_says_how_to_reach_stop_and_reopen(monkeypatch):
    monkeypatch.setattr(serving.getpass, "getuser", lambda: "ada")
    url = "http://127.0.0.1:8890/lab/tree/notebooks/00_tour.ipynb?token=abc"
    headless = serving.message("JupyterLab", "lab", url, True, 8890, REMOTE)
    assert f"JupyterLab is running at\n    {url}\n" in headless
    assert "ssh -N -L 8890:127.0.0.1:8890 ada@192.0.2.10" in headless
    assert "Ctrl-C" in headless
    seen = serving.message("The dashboard", "dashboard", url, False, 8890, {})
    assert url in seen
    assert "ssh" not in seen
    assert "The dashboard is running at" in seen
    assert re.search(r"To open it again: .*\bdashboard\b", seen)


def test_a_port_in_use_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        if port > 65_000:
            pytest.skip(f"the system handed out port {port}: too near the end to look further")
        assert port < serving.free_port(port) < port + 20
        with pytest.raises(OSError, match=f"ports {port} to {port} are all in use; name another"):
            serving.free_port(port, tries=1)


@pytest.mark.parametrize("tool", ["lab", "dashboard"])
def test_no_port_is_an_error_in_words(tool):
    command = [sys.executable, ROOT / f"tools/{tool}.py", "--port", "70000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


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


@pytest.fixture
def tool(tmp_path):
    """tools/lab.py beside an empty notebook of the tour's name."""
    nbformat = pytest.importorskip("nbformat", reason="the extra `lab` is not installed")
    for folder in ("tools", "notebooks"):
        (tmp_path / folder).mkdir()
    for name in ("lab.py", "serving.py", "with_token.py"):
        shutil.copy(ROOT / "tools" / name, tmp_path / "tools" / name)
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / lab_tool.TOUR)
    return tmp_path / "tools/lab.py"


def configure(folder, text):
    (folder / "config").mkdir()
    (folder / "config/jupyter_server_config.py").write_text(text)


@pytest.mark.notebook
@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal")
@pytest.mark.parametrize(
    "settings",
    [
        "",
        "c.IdentityProvider.token = c.ServerApp.token = ''; c.ServerApp.ip = '0.0.0.0'; c.ServerApp.base_url = '/x'",
    ],
    ids=["usual", "settings of one's own"],
)
def test_headless_start_prints_a_working_address_and_one_ctrl_c_stops_it(tool, tmp_path, settings):
    configure(tmp_path, settings)
    with running(tool, page=f"/lab/tree/{lab_tool.TOUR}", folder=tmp_path, seconds=120, env=REMOTE) as lab:
        assert f"ssh -N -L {lab.port}:127.0.0.1:{lab.port} " in lab.said
        contents = f"{lab.url}/api/contents/{lab_tool.TOUR}"
        with urllib.request.urlopen(f"{contents}?token={lab.token}", timeout=20) as answer:
            assert answer.status == 200
        assert " 403 " not in lab.log.read_text(), "the tool's own look at the server is complained of"
        assert settings or "Deprecat" not in lab.log.read_text()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(contents, timeout=20)
        assert refused.value.code == 403
        refused.value.close()
        lab.check_private()


@pytest.mark.notebook
def test_a_server_that_lets_anybody_in_is_stopped(tool, tmp_path):
    configure(tmp_path, "c.PasswordIdentityProvider.token = ''")  # nearer to what is used than any option
    with subprocess.Popen(
        [sys.executable, tool, "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | isolated(tmp_path),
        start_new_session=True,
    ) as process:
        try:
            out, errors = process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 1
    assert "error: the server was given a token and asks for none" in errors
    assert "jupyter --paths" in errors
    assert out == ""


SERVER = """
import http.server, sys
class Login(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302)
        self.send_header("Location", "/login")
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Login).serve_forever()
"""


@pytest.fixture
def signals():
    """The handlers of this process, put back afterwards."""
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.skipif(os.name != "posix", reason="a child is forked")
def test_no_proxy_and_no_child_comes_between(monkeypatch, capsys):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    port, said = serving.free_port(18_888), []
    zombie = "import os\nif not os.fork(): os._exit(0)\n"
    with ThreadPoolExecutor(1) as pool:
        server = {}

        def say():
            said.append(port)
            server["pid"] = next(p for p in psutil.Process().children() if SERVER in p.cmdline()[-2]).pid
            pool.submit(os.kill, server["pid"], signal.SIGTERM)

        command = [sys.executable, "-c", zombie + SERVER, str(port)]
        assert serving.serve(command, {}, port, "/", say) == -signal.SIGTERM
    assert said == [port]
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("signals")
def test_a_server_that_does_not_answer_is_stopped(capsys):
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    assert serving.serve(sleeps, {}, 18_888, "/", pytest.fail, patience=1) == 1
    assert "did not answer at port 18888 within 1 s" in capsys.readouterr().err


@pytest.mark.usefixtures("signals")
def test_an_error_meanwhile_stops_the_server(monkeypatch):
    started = []
    monkeypatch.setattr(serving, "listens", lambda pid, _: started.append(pid) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        serving.serve([sys.executable, "-c", "import time; time.sleep(600)"], {}, 18_888, "/", pytest.fail)
    assert not psutil.pid_exists(started[0])


def test_a_browser_is_given_a_file_of_the_users_own_and_no_token(monkeypatch, tmp_path):
    opened = []
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(serving.webbrowser, "open", opened.append)
    monkeypatch.setattr(serving.atexit, "register", lambda *_, **__: None)
    serving.open_page("http://127.0.0.1:8866/?token=secret&more")
    (page,) = (tmp_path / "runtime").iterdir()
    assert opened == [page.as_uri()]
    assert 'URL=http://127.0.0.1:8866/?token=secret&amp;more"' in page.read_text()
    if os.name == "posix":
        assert page.stat().st_mode & 0o077 == 0


def test_a_port_that_somebody_else_has_taken_meanwhile_is_not_said_to_be_ours():
    listen = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1]); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", listen], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        try:
            port = int(other.stdout.readline())
            assert serving.listens(other.pid, port)
            assert serving.listens(os.getpid(), port), "it was started by this process"
            with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ours:
                assert not serving.listens(ours.pid, port)
                ours.communicate(b"\n")
            assert not serving.listens(ours.pid, port)
        finally:
            other.communicate(b"")


def test_the_token_is_an_option_of_the_module_and_of_no_command_line(tmp_path):
    (tmp_path / "a_server.py").write_text("import sys; print(__name__, sys.argv[1:])")
    command = [*serving.with_token("--Some.token", "a_server"), "--other=1"]
    assert "secret" not in " ".join(command)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"JUPYTER_TOKEN": "secret", "PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout == "__main__ ['--other=1', '--Some.token=secret']\n", done.stderr
