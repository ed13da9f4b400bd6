"""Weights of pretrained networks, fetched safely: from the Hugging Face hub and from plain URLs.

fetch("ecaresnet50d.miil_in1k", "timm/ecaresnet50d.miil_in1k")             # into huggingface_hub's cache
fetch_url("mobilenet_v3_small", "https://…/mobilenet_v3_small-047dcff4.pth")  # into torch.hub's checkpoints folder

huggingface_hub tells what the hub has; the bytes come through a downloader of our own, because neither huggingface_hub
nor torch.hub goes on where an earlier call broke off, and huggingface_hub checks no hash. The files end up where those
libraries look for them.

What arrives is kept beside its place as ``….incomplete`` and moved there when it is whole and its sha256 is right. So a
file under its final name is a whole one; it is not hashed again when it is used, so damage to the disk shows only when
the file is read. The next call asks for what is missing; a file whose hash nobody tells is fetched anew.

A server that cannot be reached or does not answer within TIMEOUT seconds is asked once. A transfer that falls silent
for TIMEOUT seconds, comes slower than SLOWEST or breaks is taken up again, until TRIES tries in a row have brought less
than FRUITFUL bytes: without any byte the call ends after TRIES · (TIMEOUT + PAUSE) seconds, about a minute.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

__all__ = ["cached", "cached_url", "fetch", "fetch_url"]

FILES = ("model.safetensors", "pytorch_model.bin")  # what a repository calls its weights; the safe format first
TIMEOUT = 15.0  # seconds; the environment variable ECAVIZ_TIMEOUT replaces it
TRIES = 4
PAUSE = 1.0  # seconds between two tries
FRUITFUL = 1 << 20  # bytes
SLOWEST = 1000  # bytes a second, over a try
_CHUNK = 1 << 18


def cached(repo: str) -> Path | None:
    """The weights of a hub repository, if they are in huggingface_hub's cache. Asks no network.

    Args:
        repo: The repository, as "owner/name".

    Returns:
        The path of model.safetensors or else of pytorch_model.bin, or None.

    Raises:
        ValueError: ``repo`` is no repository's name.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", repo) or ".." in repo or "--" in repo:
        raise ValueError(f'load: {repo!r} is no repository of the hub. Give its name as "owner/name".')
    for file in FILES:
        path = try_to_load_from_cache(repo, file, cache_dir=constants.HF_HUB_CACHE)
        if isinstance(path, str):
            return Path(path)
    return None


def cached_url(url: str) -> Path | None:
    """The file of a URL, if it is in torch.hub's checkpoints folder. Asks no network.

    Raises:
        ValueError: ``url`` is not http or https, or names no file.
    """
    path = _checkpoint(url)
    return path if path.is_file() else None


def fetch(name: str, repo: str) -> Path:
    """The weights of a hub repository, downloaded into huggingface_hub's cache if they are not there.

    Shows a progress bar. Goes on where an earlier call broke off. See the module for what is checked and how long it
    takes at most.

    Args:
        name: What the user asked for; for messages.
        repo: The repository, as "owner/name".

    Returns:
        The path in the cache's snapshot, as ``hf_hub_download`` gives it.

    Raises:
        ConnectionError: The file did not arrive: no network, no such repository, no access, a broken line.
        ValueError: What arrived is not the file that the hub announced, or ``repo`` is no repository's name.
        OSError: The cache cannot be written.
    """
    found = cached(repo)
    if found is not None:
        return found
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    cache = Path(constants.HF_HUB_CACHE)
    folder = cache / f"models--{repo.replace('/', '--')}"
    with _told(name, cache, "HF_HOME"):
        file, told = _look_up(repo)
        blob = folder / "blobs" / told.etag
        source = _Source(
            name,
            f"{constants.ENDPOINT}/{repo}/resolve/{told.commit_hash}/{file}",
            sha256=told.etag if re.fullmatch("[0-9a-f]{64}", told.etag) else "",
            size=told.size,
            headers=build_hf_headers(),
        )
        with _alone(cache / ".locks" / folder.name / f"{told.etag}.lock", name):
            if not blob.exists():
                _download(source, blob)
            return _place(folder, blob, told.commit_hash, file)


def fetch_url(name: str, url: str) -> Path:
    """The file of a URL, downloaded into torch.hub's checkpoints folder if it is not there.

    As in torch.hub, eight or more hexadecimal digits at the end of the file's name, ``…-047dcff4.pth``, are the start
    of its sha256. Shows a progress bar; goes on where an earlier call broke off if the name has such digits.

    Args:
        name: What the user asked for; for messages.
        url: Where the file is; http or https.

    Returns:
        The path in the checkpoints folder.

    Raises:
        ConnectionError: The file did not arrive: no network, no such file, no access, a broken line.
        ValueError: What arrived has another hash, or ``url`` is not http or https or names no file.
        OSError: The folder cannot be written.
    """
    path = _checkpoint(url)
    if path.is_file():
        return path
    digits = re.search(r"-([0-9a-f]{8,64})\.", path.name)
    with _told(name, path.parent, "TORCH_HOME"), _alone(path.parent / ".locks" / f"{path.name}.lock", name):
        if not path.exists():
            _download(_Source(name, url, sha256=digits[1] if digits else ""), path)
    return path


# ------------------------------------------------------------------------------------------------------- the two caches


def _checkpoint(url: str) -> Path:
    """Where torch.hub keeps the file of a URL."""
    from torch import hub

    parts = urlsplit(url)
    file = parts.path.rpartition("/")[2]
    if parts.scheme not in ("http", "https") or not parts.hostname or not re.fullmatch(r"\w[\w.+-]*", file):
        raise ValueError(f"load: {url!r} is no address of a file. Give one like https://host/folder/weights.pth.")
    return Path(hub.get_dir()) / "checkpoints" / file


def _look_up(repo: str) -> tuple[str, HfFileMetadata]:
    """Which of FILES a repository has, and what the hub tells about it: commit, hash and size."""
    from huggingface_hub import constants, get_hf_file_metadata
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise _BrokenError(": HF_HUB_OFFLINE is set; unset it to allow this")
    for file in FILES:
        url = f"{constants.ENDPOINT}/{repo}/resolve/main/{file}"
        timeout = _timeout()
        try:
            told = get_hf_file_metadata(url, timeout=timeout)
        except EntryNotFoundError:
            continue
        except HfHubHTTPError as error:
            answer = error.response
            raise _refused(url, answer.status_code, answer.headers.get("X-Error-Code", "")) from error
        except Exception as error:  # the client's own: by huggingface_hub's version httpx2's, httpx's or requests'
            raise _unreachable(url, error) from error
        if not all(re.fullmatch(r"[\w-]+", part or "") for part in (told.etag, told.commit_hash)):
            raise _BrokenError(
                f" from {url}: it does not answer as the hub does",
                "Look whether the network wants a login or HF_ENDPOINT is wrong, and try again",
            )
        return file, told
    raise _BrokenError(
        f" from {constants.ENDPOINT}/{repo}: it answered 404, it has neither {' nor '.join(FILES)}", "Check the name"
    )


def _place(folder: Path, blob: Path, commit: str, file: str) -> Path:
    """Enter a whole file into the hub's cache: refs/main, then snapshots/<commit>/<file>, a link to the blob."""
    pointer = folder / "snapshots" / commit / file
    ref = folder / "refs" / "main"
    for parent in (pointer.parent, ref.parent):
        parent.mkdir(parents=True, exist_ok=True)
    draft = ref.with_name(f"main.{os.getpid()}.tmp")
    draft.write_text(commit)
    os.replace(draft, ref)
    if not pointer.exists():
        pointer.unlink(missing_ok=True)  # a link that leads nowhere
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:  # a file system without links
            os.replace(blob, pointer)
    return pointer


# ------------------------------------------------------------------------------------------------------- the downloader


@dataclass(frozen=True)
class _Source:
    title: str
    url: str
    sha256: str = ""  # all of it, its first digits, or nothing
    size: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


class _BrokenError(Exception):
    """The file did not arrive: why, and what to do about it."""

    def __init__(self, reason: str, advice: str = "Connect once and try again", status: int = 0) -> None:
        super().__init__(reason)
        self.advice = advice
        self.status = status
        self.lasting = 400 <= status < 500 and status not in (408, 416, 429)


class _WrongError(Exception):
    """The file arrived, but it is another one."""


def _download(source: _Source, path: Path) -> None:
    """Bring ``source`` to ``path``: whole and with the right hash, or not at all."""
    partial = path.with_name(f"{path.name}.incomplete")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not source.sha256:
            partial.unlink(missing_ok=True)
        kept = _length(partial) > 0
        if not kept or not _sha256(partial).startswith(source.sha256):
            _receive(source, partial)
        found = _sha256(partial)
        if kept and not found.startswith(source.sha256):
            partial.unlink()  # what the earlier call left may be to blame
            _receive(source, partial)
            found = _sha256(partial)
        if not found.startswith(source.sha256):
            digits = f"starts with {source.sha256}" if len(source.sha256) < 64 else f"is {source.sha256}"
            raise _WrongError(f"its sha256 is {found}; that of the right file {digits}")
        os.replace(partial, path)
    except (OSError, _WrongError):  # a full disk is left as it was
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    except _BrokenError:
        if not source.sha256:
            partial.unlink(missing_ok=True)
        raise


def _receive(source: _Source, partial: Path) -> None:
    """Append to ``partial`` what it lacks, in as many tries as the module's limits allow."""
    best, fruitless, begun = _length(partial), 0, False
    while True:
        try:
            # Without a hash nothing would tell whether two parts belong together.
            with _ask(source, _length(partial) if source.sha256 else 0) as response:
                begun = True
                _append(source, response, partial)
            return
        except _BrokenError as error:
            if error.status == 416:  # there is nothing from there on: the part is longer than the file
                begun = True
                partial.unlink()
            fruitless += 1
            if _length(partial) - best >= FRUITFUL:
                best, fruitless = _length(partial), 0
            if not begun or error.lasting or fruitless >= TRIES:
                raise
            time.sleep(PAUSE)


def _ask(source: _Source, start: int) -> HTTPResponse:
    request = Request(source.url, headers={"User-Agent": "ecaviz"})
    for key, value in source.headers.items():
        # A token is for the hub, not for the storage that it redirects to.
        add = request.add_unredirected_header if key.lower() == "authorization" else request.add_header
        add(key, value)
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        return urlopen(request, timeout=_timeout(), context=_certificates())
    except HTTPError as error:
        error.close()
        raise _refused(source.url, error.code, str(error.reason)) from error
    except (OSError, HTTPException) as error:
        raise _unreachable(source.url, error.reason if isinstance(error, URLError) else error) from error


def _append(source: _Source, response: HTTPResponse, partial: Path) -> None:
    from tqdm.auto import tqdm

    have = 0
    if response.status == 206:
        have = _length(partial)
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            partial.unlink()
            raise _BrokenError(f" from {source.url}: it sent another part of the file than it was asked for")
    length = response.headers.get("Content-Length", "")
    total = have + int(length) if length.isdigit() else source.size
    if source.size is not None and total != source.size:
        raise _WrongError(f"it has {total} bytes, the right file has {source.size}")
    timeout, begun, first = _timeout(), time.monotonic(), have
    with (
        partial.open("ab" if have else "wb") as out,
        tqdm(total=total, initial=have, desc=source.title, unit="B", unit_scale=True, unit_divisor=1024) as bar,
    ):
        while chunk := _read(source, response):
            out.write(chunk)
            bar.update(len(chunk))
            have += len(chunk)
            if time.monotonic() - begun > timeout + (have - first) / SLOWEST:
                raise _BrokenError(f" from {source.url}: less than {SLOWEST} bytes a second arrived")
        out.flush()
        os.fsync(out.fileno())
    if total is not None and have != total:
        raise _BrokenError(f" from {source.url}: the connection broke after {have} of {total} bytes")


def _read(source: _Source, response: HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK)
    except TimeoutError as error:
        raise _BrokenError(f" from {source.url}: nothing came for {_timeout():g} s") from error
    except (OSError, HTTPException) as error:
        raise _BrokenError(f" from {source.url}: the connection broke ({error})") from error


# -------------------------------------------------------------------------------------------------------------- helpers


@contextmanager
def _told(name: str, folder: Path, variable: str) -> Iterator[None]:
    """Make one error of whatever goes wrong: which model, where, why, and what to do."""
    try:
        yield
    except _BrokenError as error:
        from .bundle import BUNDLE

        raise ConnectionError(
            f"load: the weights of {name!r} are not in the cache ({folder}) and could not be fetched{error}. "
            f"{error.advice}, or take a bundled model, which needs no download: {', '.join(BUNDLE)}."
        ) from error
    except _WrongError as error:
        raise ValueError(
            f"load: what arrived for {name!r} is not its weights: {error}. It was thrown away. Try again; if this "
            f"repeats, the server, or a proxy or a login page on the way to it, sends something else."
        ) from error
    except OSError as error:
        raise OSError(
            error.errno or errno.EIO,
            f"load: the weights of {name!r} cannot be stored in {folder}: {error}. Make room there, make it writable, "
            f"or set {variable} to another folder",
        ) from error


@contextmanager
def _alone(path: Path, title: str) -> Iterator[None]:
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


def _refused(url: str, status: int, reason: str) -> _BrokenError:
    if status in (401, 403):
        advice = "If it exists, it is not open to everyone: get access on its page (for the hub then `hf auth login`)"
    elif status == 429 or status >= 500:
        advice = "Try again later"
    else:
        advice = "Check the name"
    return _BrokenError(f" from {url}: it answered {status}{f' ({reason})' if reason else ''}", advice, status)


def _unreachable(url: str, error: Exception | str) -> _BrokenError:
    return _BrokenError(f" from {url}: {urlsplit(url).hostname} cannot be reached ({error})")


def _timeout() -> float:
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
