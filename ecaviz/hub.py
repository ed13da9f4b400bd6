"""Weights of pretrained networks, fetched safely: from the Hugging Face hub and from plain URLs.

    fetch("ecaresnet50d.miil_in1k", "timm/ecaresnet50d.miil_in1k")                # into huggingface_hub's cache
    fetch_url("mobilenet_v3_small", "https://…/mobilenet_v3_small-047dcff4.pth")  # into torch.hub's folder

huggingface_hub tells what the hub has; the bytes come through :mod:`ecaviz.downloads`, because neither huggingface_hub
nor torch.hub goes on where an earlier call broke off, and huggingface_hub checks no hash. The files end up where those
libraries look for them, whole: what is under its final name is not hashed again when it is used.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .downloads import BrokenError, Source, WrongError, alone, download, refused, timeout, unreachable
from .whole_files import replace_file

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

__all__ = ["cached", "cached_url", "fetch", "fetch_url", "offline"]

_OFFLINE: ContextVar[bool] = ContextVar("offline", default=False)

FILES = ("model.safetensors", "pytorch_model.bin")  # what a repository calls its weights; the safe format first


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


@contextmanager
def offline() -> Iterator[None]:
    """Within the ``with``, ask no network: what is not in a cache raises a ConnectionError at once."""
    token = _OFFLINE.set(True)
    try:
        yield
    finally:
        _OFFLINE.reset(token)


def _ask_the_network() -> None:
    if _OFFLINE.get():
        raise BrokenError(": the network is switched off (hub.offline)")


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
        source = Source(
            name,
            f"{constants.ENDPOINT}/{repo}/resolve/{told.commit_hash}/{file}",
            sha256=told.etag if re.fullmatch("[0-9a-f]{64}", told.etag) else "",
            size=told.size,
            headers=build_hf_headers(),
        )
        with alone(cache / ".locks" / folder.name / f"{told.etag}.lock", name):
            found = cached(repo)  # by now, where the lock had to be waited for
            if found is not None:
                return found
            if not blob.exists():
                download(source, blob)
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
    with _told(name, path.parent, "TORCH_HOME"), alone(path.parent / ".locks" / f"{path.name}.lock", name):
        if not path.exists():
            _ask_the_network()
            download(Source(name, url, sha256=digits[1] if digits else ""), path)
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

    _ask_the_network()
    if constants.HF_HUB_OFFLINE:
        raise BrokenError(": HF_HUB_OFFLINE is set; unset it to allow this")
    for file in FILES:
        url = f"{constants.ENDPOINT}/{repo}/resolve/main/{file}"
        seconds = timeout()
        try:
            told = get_hf_file_metadata(url, timeout=seconds)
        except EntryNotFoundError:
            continue
        except HfHubHTTPError as error:
            answer = error.response
            raise refused(url, answer.status_code, answer.headers.get("X-Error-Code", "")) from error
        except Exception as error:  # the client's own: by huggingface_hub's version httpx2's, httpx's or requests'
            raise unreachable(url, error) from error
        if not all(re.fullmatch(r"[\w-]+", part or "") for part in (told.etag, told.commit_hash)):
            raise BrokenError(
                f" from {url}: it does not answer as the hub does",
                "Look whether the network wants a login or HF_ENDPOINT is wrong, and try again",
            )
        return file, told
    raise BrokenError(
        f" from {constants.ENDPOINT}/{repo}: it answered 404, it has neither {' nor '.join(FILES)}", "Check the name"
    )


def _place(folder: Path, blob: Path, commit: str, file: str) -> Path:
    """Enter a whole file into the hub's cache: refs/main, then snapshots/<commit>/<file>, a link to the blob."""
    pointer = folder / "snapshots" / commit / file
    ref = folder / "refs" / "main"
    for parent in (pointer.parent, ref.parent):
        parent.mkdir(parents=True, exist_ok=True)
    replace_file(ref, commit.encode())
    if not pointer.exists():
        pointer.unlink(missing_ok=True)  # a link that leads nowhere
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:  # a file system without links
            os.replace(blob, pointer)
    return pointer


# --------------------------------------------------------------------------------------------------------------- errors


@contextmanager
def _told(name: str, folder: Path, variable: str) -> Iterator[None]:
    """Make one error of whatever goes wrong: which model, where, why, and what to do."""
    try:
        yield
    except BrokenError as error:
        raise ConnectionError(
            f"load: the weights of {name!r} are not in the cache ({folder}) and could not be fetched{error}. "
            f"{error.advice}, or take a bundled model, which needs no download, such as 'shapes-eca-k3'."
        ) from error
    except WrongError as error:
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
