"""What lab.py and dashboard.py share: a free port, a server that runs until it is stopped, and what is said of it."""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
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
    """What a server answers at an address: a status of HTTP, or None where nothing answers yet."""
    try:
        with urllib.request.build_opener(_Stay).open(url, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return None


def listens(pid: int, port: int) -> bool:
    """Whether a process, or one that it has started, listens at a port; another user's server may have taken it."""
    import psutil

    try:
        process = psutil.Process(pid)
        found = [one for each in (process, *process.children(recursive=True)) for one in each.net_connections("tcp")]
    except psutil.Error:  # it has ended
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in found)


def serve(command: Sequence[str], env: Mapping[str, str], port: int, page: str, say: Callable[[], None]) -> int:
    """Run a server of Jupyter's until it is stopped; one that lets others in without the token is stopped at once.

    Args:
        command: Its command line.
        env: Variables of its environment, beside those there are.
        port: Where it listens.
        page: The path of a page that it shows to nobody without the token, but sends them where it is asked for.
        say: Called when it answers.

    Returns:
        Its exit status; 1 if it asked nobody for the token, which has been said.
    """
    server = subprocess.Popen(command, cwd=ROOT, env=os.environ | env)
    # Ctrl-C reaches the server too: it stops its kernels, and this waits for it. A plain kill is passed on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    found = None
    while server.poll() is None and found is None:
        time.sleep(0.2)
        found = status(address(port) + page) if listens(server.pid, port) else None
    if server.poll() is not None:
        return server.wait()
    if found not in (302, 401, 403):
        server.terminate()
        server.wait()
        print(
            "error: the server was given a token and asks for none, so that anybody on this machine could use it: it "
            "was stopped. Some configuration file of Jupyter's switches tokens off (look for IdentityProvider in "
            f"jupyter_*config.*); the folders where it may be are listed by: {sys.executable} -m jupyter --paths",
            file=sys.stderr,
        )
        return 1
    say()
    return server.wait()
