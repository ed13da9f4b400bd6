"""A tool that serves, as a user starts it: until it says where it is, and stopped by one Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab_browser import isolated


@dataclass(frozen=True)
class Running:
    """A tool that serves.

    Attributes:
        url: Its server's address on the loopback, without a slash at the end.
        port: That of the address.
        token: The token that the server wants.
        said: All that the tool has said.
        log: The file with what it, and its server, have complained of.
    """

    url: str
    port: str
    token: str
    said: str
    log: Path

    def check_private(self) -> None:
        """It listens on the one address of the loopback, and its token stands in no list of processes."""
        if sys.platform != "linux":
            return
        with socket.socket() as probe:  # all of 127/8 is this machine; a server on every address answers there
            assert probe.connect_ex(("127.0.0.2", int(self.port))) != 0
        commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.is_file()]
        assert any(b"with_token.py" in one for one in commands)
        assert not any(self.token.encode() in one for one in commands)


@contextmanager
def running(
    tool: Path, *options: str, page: str, folder: Path, seconds: float, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Start a tool on a machine without a display, and stop it afterwards: its exit status is 0 then.

    Args:
        tool: The path of its file.
        options: Of its command line.
        page: The path of the address that it is to name, from the first slash on.
        folder: Where the server keeps what is its own.
        seconds: After so many it is killed.
        env: Further variables of its environment.

    Yields:
        The running tool; it is a session of its own.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    log = folder / "errors.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, tool, *options],
            env=kept | isolated(folder) | dict(env or {}),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    guard = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    guard.start()
    try:
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("To stop:"):
                break
        address = re.search(rf"http://127\.0\.0\.1:(\d+){re.escape(page)}\?token=(\w+)", said)
        assert address, said + log.read_text()
        port, token = address.groups()
        yield Running(f"http://127.0.0.1:{port}", port, token, said, log)
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does at Ctrl-C
        assert process.wait(timeout=30) == 0
    finally:
        guard.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
