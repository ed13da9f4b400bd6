"""What lab.py and dashboard.py share: a free port, a server that runs until it is stopped, and what is said of it."""

from __future__ import annotations

import argparse
import atexit
import getpass
import html
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def add_options(parser: argparse.ArgumentParser, port: int) -> None:
    """Add --port and --no-browser.

    Args:
        parser: Of the tool.
        port: The first that is tried if none is named.
    """
    parser.add_argument("--port", type=int, default=port, help=f"first port to try (default: {port})")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")


def open_page(url: str) -> None:
    """Open an address that has a token in a browser: through a file of the user's own, as Jupyter does.

    The browser's command line, which everybody on this machine can read, names the file.
    """
    from jupyter_core.paths import jupyter_runtime_dir

    folder = Path(jupyter_runtime_dir())
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(suffix=".html", prefix="ecaviz-", dir=folder)  # for its owner alone
    atexit.register(Path(name).unlink, missing_ok=True)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        leads = html.escape(url, quote=True)
        file.write(f'<!DOCTYPE html><meta http-equiv="refresh" content="0; URL={leads}"><a href="{leads}">ecaviz</a>')
    webbrowser.open(Path(name).as_uri())


def is_headless(env=os.environ, platform: str = sys.platform) -> bool:
    """Whether a browser opened here would be seen by nobody: a remote login, or a Linux without a display."""
    if env.get("SSH_CONNECTION"):
        return True
    return platform.startswith("linux") and not (env.get("DISPLAY") or env.get("WAYLAND_DISPLAY"))


def free_port(first: int, tries: int = 20) -> int:
    """The first port from `first` on that nobody listens at on the loopback.

    Raises:
        OSError: All of them are taken.
    """
    for port in range(first, first + tries):
        with socket.socket() as probe:
            if os.name == "posix":  # elsewhere this option would allow a port that is in use
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"ports {first} to {first + tries - 1} are all in use; name another: --port 9999")


def chosen_port(first: int) -> int:
    """The first free port from `first` on.

    Raises:
        SystemExit: There is none, which has been said; the status is 2.
    """
    try:
        return free_port(first)
    except (OSError, OverflowError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def address(port: int) -> str:
    """Where a server answers: not "localhost", which may be ::1, where on a shared machine another user may listen."""
    return f"http://127.0.0.1:{port}"


def with_token(option: str, module: str) -> list[str]:
    """The start of a command line that runs `python -m module` with $JUPYTER_TOKEN as the value of an option."""
    return [sys.executable, str(ROOT / "tools/with_token.py"), option, module]


def token() -> str:
    """The token a server is to ask for: $JUPYTER_TOKEN, or a new one."""
    return os.environ.get("JUPYTER_TOKEN") or secrets.token_hex(24)


def login(env=os.environ) -> str:
    """What to write after `ssh` to come back to this machine: [-p PORT] USER@HOST, as far as it can be known."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = "USER"
    # The variable holds: the other side's address and port, then ours.
    _, _, host, port = (env.get("SSH_CONNECTION", "").split() + [""] * 4)[:4]
    return f"{f'-p {port} ' if port not in ('', '22') else ''}{user}@{host or socket.gethostname()}"


def message(what: str, tool: str, url: str, headless: bool, port: int, env=os.environ) -> str:
    """What is said when the server answers: where it is, how to reach it, how to stop it and open it again.

    Args:
        what: The server's name.
        tool: The name of the tool that runs it, and of its target in the Makefile.
        url: Its address, with the token.
        headless: Whether nobody sees this machine's screen.
        port: Where it listens.
        env: Variables of the environment.
    """
    lines = ["", f"{what} is running at", f"    {url}", ""]
    if headless:
        lines += [
            "This machine has no display of its own.",
            "On the computer you sit at, forward the port, and leave this running:",
            f"    ssh -N -L {port}:127.0.0.1:{port} {login(env)}",
            "then open the address above in your browser there.",
            "",
        ]
    again = f"make {tool}" if os.name == "posix" else rf".venv\Scripts\python tools\{tool}.py"
    lines += [f"To stop: Ctrl-C in this terminal. To open it again: {again}", ""]
    return "\n".join(lines)


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer, too."""

    def redirect_request(self, *_):
        return None


def status(url: str) -> int | None:
    """What a server of this machine answers at an address: a status of HTTP, or None where nothing answers yet."""
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)  # whatever proxy the environment names
    try:
        with ask.open(url, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, HTTPException):
        return None


def listens(pid: int, port: int) -> bool:
    """Whether a process, or one that it has started, listens at a port; another user's server may have taken it."""
    import psutil

    def family():
        yield psutil.Process(pid)
        yield from psutil.Process(pid).children(recursive=True)  # Windows' python.exe in an environment starts another

    with suppress(psutil.Error):  # it has ended
        for process in family():
            with suppress(psutil.Error):  # so has a child, or it is one that shows nothing, as a browser's
                for one in process.net_connections("tcp"):
                    if one.status == psutil.CONN_LISTEN and one.laddr.port == port:
                        return True
    return False


def serve(
    command: Sequence[str], env: Mapping[str, str], port: int, page: str, say: Callable[[], None], patience: float = 120
) -> int:
    """Run a server of Jupyter's until it is stopped; one that lets others in without the token is stopped at once.

    Args:
        command: Its command line.
        env: Variables of its environment, beside those there are.
        port: Where it listens.
        page: The path of a page that it shows to nobody without the token, but sends them where it is asked for.
        say: Called when it answers.
        patience: Seconds after which a server that does not answer is stopped.

    Returns:
        Its exit status; 1 if it did not answer, or asked nobody for the token, which has been said.
    """
    server = subprocess.Popen(command, cwd=ROOT, env=os.environ | env)
    try:
        # Ctrl-C reaches the server too: it stops its kernels, and this waits for it. A plain kill is passed on.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        found, until = None, time.monotonic() + patience
        while server.poll() is None and found is None and time.monotonic() < until:
            time.sleep(0.2)
            found = status(address(port) + page) if listens(server.pid, port) else None
        if found in (302, 401, 403):
            say()
    except BaseException:
        server.terminate()
        server.wait()
        raise
    if server.poll() is None and found not in (302, 401, 403):
        server.terminate()
        server.wait()
        print(f"error: {_SILENT.format(port, patience) if found is None else _OPEN}", file=sys.stderr)
        return 1
    return server.wait()


_SILENT = "the server did not answer at port {} within {:.0f} s, and was stopped; what it said itself stands above."
_OPEN = (
    "the server was given a token and asks for none, so that anybody on this machine could use it: it was stopped. "
    "Some configuration file of Jupyter's switches tokens off (look for IdentityProvider in jupyter_*config.*); the "
    f"folders where it may be are listed by: {sys.executable} -m jupyter --paths"
)
