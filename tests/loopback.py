"""A server on loopback for the tests of downloads: files under plain URLs, the Hugging Face hub's protocol, and faults.

::

    with Loopback() as server:
        url = server.add_file("net-0a1b2c3d.pth", content)
        server.add_repo("timm/net", {"model.safetensors": content})    # ask for it at server.endpoint
        server.misbehave(Fault(drop=1000))                             # the next GET of a file breaks after 1000 bytes
        ...
        assert server.gets[0].range is None

As on the hub, the large files of a repository are on another server, here another port: HEAD and GET of
/{repo}/resolve/{revision}/{file} answer with the commit, the sha256 and the size, and redirect there.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import ssl
import struct
import threading
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Fault:
    """What goes wrong, at the next ``times`` requests of ``method``, or at all (times=None).

    A status replaces the answer (a redirect, with a location); silent answers nothing at all. The others spoil the
    transfer of a file: drop closes the connection after so many bytes (reset: rudely), stall keeps it open but silent,
    body sends other bytes, no_range ignores the Range header, no_length leaves out how long the file is, shift
    sends another part than was asked for, so many bytes further on, pace sleeps after every 1000 bytes.
    """

    method: str = "GET"
    times: int | None = 1
    status: int = 0
    code: str = ""
    location: str = ""
    silent: bool = False
    drop: int | None = None
    reset: bool = False
    stall: int | None = None
    body: bytes | None = None
    no_range: bool = False
    no_length: bool = False
    shift: int = 0
    pace: float = 0.0


@dataclass(frozen=True)
class Seen:
    """A request that came: to the hub's port or the files' port, what, and two of its headers."""

    port: str
    method: str
    path: str
    range: str | None
    authorization: str | None


class Loopback:
    """The server; see the module. Everything that came is in ``requests``, the GETs of files in ``gets``."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[Seen] = []
        self.files: dict[str, bytes] = {}
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commit = COMMIT
        self.etag: str | None = None  # instead of a file's sha256
        self.closing = threading.Event()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._servers = {port: _serve(self, port, context) for port in ("hub", "files")}
        scheme = "https" if context else "http"
        self.endpoint, self.storage = (f"{scheme}://127.0.0.1:{s.server_address[1]}" for s in self._servers.values())

    def __enter__(self) -> Loopback:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.closing.set()
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def add_file(self, name: str, content: bytes) -> str:
        """Serve a file; returns its URL."""
        self.files[f"/{name}"] = content
        return f"{self.storage}/{name}"

    def add_repo(self, repo: str, files: dict[str, bytes]) -> None:
        self.repos[repo] = files
        for content in files.values():
            self.add_file(hashlib.sha256(content).hexdigest(), content)

    def misbehave(self, *faults: Fault) -> None:
        """Replace the faults; the first that fits a request spoils it."""
        self._faults = list(faults)

    @property
    def gets(self) -> list[Seen]:
        return [seen for seen in self.requests if seen.port == "files"]

    def see(self, seen: Seen) -> Fault:
        """Note a request and take the fault that is meant for it. A redirect of the hub is no transfer of a file."""
        with self._lock:
            self.requests.append(seen)
            for i, fault in enumerate(self._faults):
                if seen.method == fault.method and not (seen.port == "hub" and seen.method == "GET"):
                    left = None if fault.times is None else fault.times - 1
                    self._faults[i : i + 1] = [] if left == 0 else [replace(fault, times=left)]
                    return fault
        return Fault()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""


def _serve(loopback: Loopback, port: str, context: ssl.SSLContext | None) -> _Server:
    handler = type("Handler", (_Handler,), {"loopback": loopback, "port": port})
    server = _Server(("127.0.0.1", 0), handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    loopback: Loopback
    port: str

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self) -> None:
        headers = self.headers
        fault = self.loopback.see(
            Seen(self.port, self.command, self.path, headers.get("Range"), headers.get("Authorization"))
        )
        if fault.silent:
            self.loopback.closing.wait(60)
            self.close_connection = True
        elif fault.status:
            told = {"X-Error-Code": fault.code, "Location": fault.location}
            self._say(fault.status, {key: value for key, value in told.items() if value})
        elif self.port == "hub":
            self._resolve()
        elif (path := self.path.partition("?")[0]) in self.loopback.files:
            self._send(self.loopback.files[path], fault)
        else:
            self._say(404, {})

    def _say(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": "0", **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def _resolve(self) -> None:
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        repo = self.loopback.repos.get(found[1]) if found else None
        if repo is None or found[2] not in ("main", self.loopback.commit):
            self._say(404, {"X-Error-Code": "RepoNotFound" if repo is None else "RevisionNotFound"})
        elif found[3] not in repo:
            self._say(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.loopback.commit})
        else:
            sha256 = hashlib.sha256(repo[found[3]]).hexdigest()
            self._say(
                302,
                {
                    "Location": f"{self.loopback.storage}/{sha256}",
                    "X-Repo-Commit": self.loopback.commit,
                    "X-Linked-ETag": f'"{self.loopback.etag or sha256}"',
                    "X-Linked-Size": str(len(repo[found[3]])),
                },
            )

    def _send(self, content: bytes, fault: Fault) -> None:
        content = content if fault.body is None else fault.body
        part = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(part[1]) + fault.shift if part and not fault.no_range else 0
        if start >= len(content) > 0:
            self._say(416, {"Content-Range": f"bytes */{len(content)}"})
            return
        self.send_response(206 if start else 200)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if fault.no_length:
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            self._transfer(content[start:], fault)

    def _transfer(self, content: bytes, fault: Fault) -> None:
        end = next((n for n in (fault.drop, fault.stall) if n is not None), len(content))
        step = 1000 if fault.pace else len(content) or 1
        for start in range(0, min(end, len(content)), step):
            self.wfile.write(content[start : min(start + step, end)])
            self.loopback.closing.wait(fault.pace)
        if fault.stall is not None:
            self.loopback.closing.wait(60)
        if end < len(content):
            self.close_connection = True
        if fault.reset:
            self.loopback.closing.wait(0.05)  # what was sent should arrive first
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
