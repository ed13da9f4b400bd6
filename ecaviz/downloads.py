"""One file over HTTP: resumable, with its hash checked, whole or not at all.

What arrives is kept beside its place as ``….incomplete`` and moved there when it is whole and its hash is right. The
next call asks for what is missing; a file whose hash nobody tells is fetched anew.

A server that cannot be reached or does not answer within TIMEOUT seconds is asked once, at each of its addresses. A
transfer that falls silent for TIMEOUT seconds, comes slower than SLOWEST or breaks is taken up again, until TRIES tries
in a row have brought less than FRUITFUL bytes: without any byte the call ends after TRIES · (TIMEOUT + PAUSE) seconds,
about a minute.
"""

from __future__ import annotations

import errno
import hashlib
import os
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

__all__ = ["BrokenError", "Source", "WrongError", "alone", "download", "refused", "timeout", "unreachable"]

TIMEOUT = 15.0  # seconds; the environment variable ECAVIZ_TIMEOUT replaces it
TRIES = 4
PAUSE = 1.0  # seconds between two tries
FRUITFUL = 1 << 20  # bytes
SLOWEST = 1000  # bytes a second, over a try
_CHUNK = 1 << 18
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Source:
    """What to fetch.

    Attributes:
        title: For the progress bar.
        url: Where it is.
        sha256: The file's, in hexadecimal: all of it, its first digits, or nothing if nobody tells.
        size: Bytes, if they are known.
        headers: Of the request; a token goes to this address only, not to where it redirects.
        md5: The file's, where nobody tells its sha256.
    """

    title: str
    url: str
    sha256: str = ""
    size: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    md5: str = ""

    @property
    def digits(self) -> str:
        """What the file's hash begins with; nothing if nobody tells."""
        return self.sha256 or self.md5

    @property
    def algorithm(self) -> str:
        """Of the hash: "sha256" or "md5"."""
        return "md5" if self.md5 and not self.sha256 else "sha256"

    def hash_of(self, path: Path) -> str:
        """The hash of a file, in hexadecimal."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.new(self.algorithm, usedforsecurity=False)).hexdigest()


class BrokenError(Exception):
    """The file did not arrive: why, and what to do about it."""

    def __init__(self, reason: str, advice: str = "Connect once and try again", status: int = 0) -> None:
        super().__init__(reason)
        self.advice = advice
        self.status = status
        self.lasting = 400 <= status < 500 and status not in (408, 416, 429)


class WrongError(Exception):
    """The file arrived, but it is another one."""


def download(source: Source, path: Path) -> None:
    """Bring ``source`` to ``path``: whole and with the right hash, or not at all."""
    partial = path.with_name(f"{path.name}.incomplete")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not source.digits:
            partial.unlink(missing_ok=True)
        kept = _length(partial) > 0
        if not kept or not source.hash_of(partial).startswith(source.digits):
            _receive(source, partial)
        found = source.hash_of(partial)
        if kept and not found.startswith(source.digits):
            partial.unlink()  # what the earlier call left may be to blame
            _receive(source, partial)
            found = source.hash_of(partial)
        if not found.startswith(source.digits):
            right = f"{'is' if len(source.digits) == len(found) else 'starts with'} {source.digits}"
            raise WrongError(f"its {source.algorithm} is {found}; that of the right file {right}")
        os.replace(partial, path)
    except (OSError, WrongError) as error:
        if isinstance(error, WrongError) or error.errno in _FULL:  # a full disk is left as it was
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        raise
    except BrokenError as error:
        if not source.digits:
            partial.unlink(missing_ok=True)
        elif _length(partial):
            error.advice += f" ({_length(partial):,} bytes are kept, and the next call goes on from there)"
        raise


def _receive(source: Source, partial: Path) -> None:
    """Append to ``partial`` what it lacks, in as many tries as the module's limits allow."""
    best, fruitless, begun = _length(partial), 0, False
    while True:
        try:
            # Without a hash nothing would tell whether two parts belong together.
            with _ask(source, _length(partial) if source.digits else 0) as response:
                begun = True
                _append(source, response, partial)
            return
        except BrokenError as error:
            if error.status == 416:  # there is nothing from there on: the part is longer than the file
                begun = True
                partial.unlink(missing_ok=True)  # some say so of the whole file, too
            fruitless += 1
            if _length(partial) - best >= FRUITFUL:
                best, fruitless = _length(partial), 0
            if not begun or error.lasting or fruitless >= TRIES:
                raise
            time.sleep(PAUSE)


def _ask(source: Source, start: int) -> HTTPResponse:
    request = Request(source.url, headers={"User-Agent": "ecaviz"})
    for key, value in source.headers.items():
        # A token is for the hub, not for the storage that it redirects to.
        add = request.add_unredirected_header if key.lower() == "authorization" else request.add_header
        add(key, value)
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        opener = build_opener(HTTPSHandler(context=_certificates()), _Redirects)
        return opener.open(request, timeout=timeout())
    except HTTPError as error:
        error.close()
        raise refused(source.url, error.code, str(error.reason)) from error
    except (OSError, HTTPException) as error:
        raise unreachable(source.url, error.reason if isinstance(error, URLError) else error) from error


class _Redirects(HTTPRedirectHandler):
    """Follows a redirect to http and https alone, and from https to nothing but https."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            raise HTTPError(req.full_url, code, f"a redirect to {newurl}, which is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _append(source: Source, response: HTTPResponse, partial: Path) -> None:
    from tqdm.auto import tqdm

    have = 0
    if response.status == 206:
        have = _length(partial)
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            partial.unlink()
            raise BrokenError(f" from {source.url}: it sent another part of the file than it was asked for")
    length = response.headers.get("Content-Length", "")
    total = have + int(length) if length.isdigit() else source.size
    if source.size is not None and total != source.size:
        raise WrongError(f"it has {total} bytes, the right file has {source.size}")
    begun, first = time.monotonic(), have
    with (
        partial.open("ab" if have else "wb") as out,
        tqdm(total=total, initial=have, desc=source.title, unit="B", unit_scale=True, unit_divisor=1024) as bar,
    ):
        while chunk := _read(source, response):
            out.write(chunk)
            bar.update(len(chunk))
            have += len(chunk)
            if time.monotonic() - begun > timeout() + (have - first) / SLOWEST:
                raise BrokenError(f" from {source.url}: less than {SLOWEST} bytes a second arrived")
        out.flush()
        os.fsync(out.fileno())
    if total is None and not source.digits:
        raise WrongError("neither its hash nor its length was told, so that half of it would pass for the whole")
    if total is not None and have != total:
        raise BrokenError(f" from {source.url}: the connection broke after {have} of {total} bytes")


def _read(source: Source, response: HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK)
    except TimeoutError as error:
        raise BrokenError(f" from {source.url}: nothing came for {timeout():g} s") from error
    except (OSError, HTTPException) as error:
        raise BrokenError(f" from {source.url}: the connection broke ({error})") from error


@contextmanager
def alone(path: Path, title: str) -> Iterator[None]:
    """Hold the lock ``path``: of two processes that want a file one fetches it and the other waits."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        print(f"ecaviz: another process is fetching {title}; waiting for it …", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# ---------------------------------------------------------------------------------------- what went wrong, and helpers


def refused(url: str, status: int, reason: str) -> BrokenError:
    """The error for an HTTP status, with what to do about it."""
    if status in (401, 403):
        advice = "If it exists, it is not open to everyone: get access on its page (for the hub then `hf auth login`)"
    elif status == 429 or status >= 500:
        advice = "Try again later"
    else:
        advice = "Check the name"
    return BrokenError(f" from {url}: it answered {status}{f' ({reason})' if reason else ''}", advice, status)


def unreachable(url: str, error: Exception | str) -> BrokenError:
    """The error for a server that could not be asked."""
    return BrokenError(f" from {url}: {urlsplit(url).hostname} cannot be reached ({error})")


def timeout() -> float:
    """Seconds of silence after which a server is given up: TIMEOUT, or what ECAVIZ_TIMEOUT says."""
    text = os.environ.get("ECAVIZ_TIMEOUT") or str(TIMEOUT)
    with suppress(ValueError):
        if 0 < float(text) <= 86400:
            return float(text)
    raise ValueError(f"load: ECAVIZ_TIMEOUT is {text!r}; expected seconds, more than 0 and at most 86400. Correct it.")


def _certificates() -> ssl.SSLContext:
    """Whom to trust: the system's store, as huggingface_hub does where truststore is installed with it."""
    try:
        import truststore
    except ImportError:
        return ssl.create_default_context()
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
