"""Open JupyterLab at the tour, or, on a machine without a display, say how to reach it from another.

python tools/lab.py [NOTEBOOK] [--port PORT] [--no-browser]
"""

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
TOUR = "notebooks/00_tour.ipynb"


def is_headless(env=os.environ, platform: str = sys.platform) -> bool:
    """Whether a browser opened here would be seen by nobody: a remote login, or a Linux without a display."""
    if env.get("SSH_CONNECTION"):
        return True
    return platform.startswith("linux") and not (env.get("DISPLAY") or env.get("WAYLAND_DISPLAY"))


def free_port(first: int = 8888, tries: int = 20) -> int:
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


def login(env=os.environ) -> str:
    """What to write after `ssh` to come back to this machine: [-p PORT] USER@HOST, as far as it can be known."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = "USER"
    # The variable holds: the other side's address and port, then ours.
    _, _, host, port = (env.get("SSH_CONNECTION", "").split() + [""] * 4)[:4]
    return f"{f'-p {port} ' if port not in ('', '22') else ''}{user}@{host or socket.gethostname()}"


def message(url: str, headless: bool, port: int, env=os.environ, what: str = "JupyterLab", tool: str = "lab") -> str:
    """What is said when the server answers: where it is, how to reach it, how to stop it and open it again."""
    lines = ["", f"{what} is running at", f"    {url}", ""]
    if headless:
        lines += [
            "This machine has no display of its own.",
            "On the computer you sit at, forward the port, and leave this running:",
            f"    ssh -N -L {port}:localhost:{port} {login(env)}",
            "then open the address above in your browser there.",
            "",
        ]
    again = f"make {tool}" if os.name == "posix" else rf".venv\Scripts\python tools\{tool}.py"
    lines += [f"To stop: Ctrl-C in this terminal. To open it again: {again}", ""]
    return "\n".join(lines)


def command(port: int, notebook: str, browser: bool) -> list[str]:
    """The command line of JupyterLab: on the loopback, quiet, and stopped by one Ctrl-C."""
    return [
        *(sys.executable, "-m", "jupyterlab"),
        f"--ServerApp.root_dir={ROOT}",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.open_browser={browser}",
        "--ServerApp.answer_yes=True",
        "--ServerApp.allow_root=True",
        f"--LabApp.default_url=/lab/tree/{notebook}",
        "--Application.log_level=WARN",
    ]


def answers(url: str) -> bool:
    """Whether a server answers at an address."""
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def token() -> str:
    """The token a server is to ask for: $JUPYTER_TOKEN, or a new one."""
    return os.environ.get("JUPYTER_TOKEN") or secrets.token_hex(24)


def serve(command: Sequence[str], env: Mapping[str, str], address: str, say: Callable[[], None]) -> int:
    """Run a server until it is stopped.

    Args:
        command: Its command line.
        env: Variables of its environment, beside those there are.
        address: Where it answers when it is ready.
        say: Called then.

    Returns:
        Its exit status.
    """
    server = subprocess.Popen(command, cwd=ROOT, env=os.environ | env)
    # Ctrl-C reaches the server too: it stops its kernels, and this waits for it. A plain kill is passed on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    while server.poll() is None and not answers(address):
        time.sleep(0.2)
    if server.poll() is None:
        say()
    return server.wait()


def main() -> int:
    """Run JupyterLab until it is stopped."""
    parser = argparse.ArgumentParser(description="Open JupyterLab at a notebook.")
    parser.add_argument("notebook", nargs="?", default=TOUR, help=f"path inside this checkout (default: {TOUR})")
    parser.add_argument("--port", type=int, default=8888, help="first port to try (default: 8888)")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    arguments = parser.parse_args()

    if not (ROOT / arguments.notebook).is_file():
        there = ", ".join(sorted(f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")))
        print(f"error: no notebook {arguments.notebook} in {ROOT}; there are: {there or 'none'}", file=sys.stderr)
        return 2
    try:
        port = free_port(arguments.port)
    except (OSError, OverflowError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    secret, headless = token(), is_headless()
    url = f"http://localhost:{port}/lab/tree/{arguments.notebook}?token={secret}"
    return serve(
        command(port, arguments.notebook, not (headless or arguments.no_browser)),
        {"JUPYTER_TOKEN": secret},
        f"http://127.0.0.1:{port}/api",
        lambda: print(message(url, headless, port), flush=True),
    )


if __name__ == "__main__":
    sys.exit(main())
