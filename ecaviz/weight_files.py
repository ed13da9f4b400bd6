"""Files of weights: what is in them, without executing any of it.

A file is taken for what its first bytes say, not for its suffix: safetensors, or a ``torch.save`` in the zip or the old
pickle format (the ``.pth.tar`` of many training scripts is the latter; it is no tar archive). Pickles are read with
``weights_only=True``: tensors and plain containers are let through, anything that would run code is refused.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import pickletools
import re
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import checks, pickle_nesting, pickled_numbers, tensor_files

__all__ = ["WeightFile", "check_finite", "convert", "read"]

_STATES = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net", "weights")
"""Keys under which training scripts keep the weights; averaged weights come first, as in timm."""

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and wrappers put before every name."""


_ONE_AT_A_TIME = threading.Lock()
"""What torch.load lets through is one list for the whole process."""

_COUNTERS = ("n_averaged", "total_ops", "total_params")
"""What torch's AveragedModel and thop leave among the weights."""


@dataclass(frozen=True)
class WeightFile:
    """The weights of one network, as a file holds them.

    Attributes:
        path: The file.
        format: "safetensors" or "torch.save".
        state: The state dict, on the CPU, without wrappers' prefixes.
        metadata: The strings of a safetensors header; empty for ``torch.save``.
        notes: What else a training script wrote and a reader may want: arch, epoch, best_prec1.
    """

    path: Path
    format: str
    state: dict[str, Tensor] = field(repr=False)
    metadata: dict[str, str] = field(default_factory=dict, repr=False)
    notes: dict[str, Any] = field(default_factory=dict)


def read(path: str | os.PathLike) -> WeightFile:
    """Read the weights in a file. No code in the file is executed.

    Args:
        path: A safetensors file, or what ``torch.save`` wrote: a state dict, or a dictionary that holds one.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: It may not be read.
        ValueError: It holds no weights, is damaged, has NaN or infinite weights, or would execute code; the message
            says which and what to do.
    """
    path = checks.expanded(path, "load")
    checks.readable(path, "load")
    if path.is_dir():
        raise ValueError(f"load: {path} is a folder; expected a file of weights. {_listing(path)}")
    if not path.is_file():
        raise FileNotFoundError(f"load: there is no file {path}. {_listing(path.parent)}")
    kind = _kind(path)
    if kind == "safetensors":
        state, metadata = _read_safetensors(path)
        content: Any = state
    else:
        content, metadata = _read_torch(path, kind), {}
    state = _without_prefixes(_state_dict(content, path))
    _check_kind(state, path)
    check_finite(state, path)
    notes = {}
    if isinstance(content, dict) and content is not state:
        plain = {key: content[key] for key in ("arch", "epoch", "best_prec1", "best_acc1") if key in content}
        notes = {k: v.item() if isinstance(v, Tensor) and v.numel() == 1 else v for k, v in plain.items()}
        notes = {k: v for k, v in notes.items() if isinstance(v, str | int | float)}
    return WeightFile(path, "safetensors" if kind == "safetensors" else "torch.save", state, metadata, notes)


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return f"Its folder {folder} is missing too."
    suffixes = (".safetensors", ".pth", ".pt", ".tar", ".bin", ".pkl", ".ckpt")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(suffixes))
    if not names:
        return f"No file in {folder} looks like weights."
    return f"Weights in {folder}: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}."


# ----------------------------------------------------------------------------------------------------------- the format

_NOT_WEIGHTS = (
    (b"version https://git-lfs", "the pointer of a git-lfs file, not the file itself; fetch it with `git lfs pull`"),
    (b"<", "a web page or XML, not weights; the download went wrong"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (b"\x89HDF", "an HDF5 file (Keras); save the weights as safetensors instead"),
    (b"\x93NUMPY", "a NumPy array; save the weights as safetensors instead"),
)


def _kind(path: Path) -> str:
    """One of safetensors, zip and pickle, by the first bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise ValueError(f"load: {path} is empty (0 bytes). The download or the copy did not finish; fetch it again.")
    # First of all: the length that stands in front of a header may begin as a pickle or an archive does.
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 8 + header <= size:
        return "safetensors"
    if head.startswith(b"PK"):
        return "zip"
    if head.startswith(b"\x80"):
        return "pickle"
    if head[257:262] == b"ustar":
        raise ValueError(
            f"load: {path} is a tar archive; expected weights. Unpack it (`tar -xf {path.name}`) and give the file "
            f"inside. (The official .pth.tar files are no tar archives.)"
        )
    for start, what in _NOT_WEIGHTS:
        if head.lstrip().startswith(start):
            raise ValueError(f"load: {path} is {what}.")
    if head[8:9] == b"{":
        raise ValueError(
            f"load: {path} was truncated: a safetensors file whose header alone has {header} bytes, but there are "
            f"{size}. Fetch it again."
        )
    text = all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)
    raise ValueError(
        f"load: {path} is {'a text file' if text else 'no file of weights'} (it begins with {head[:16]!r}). Expected "
        f"safetensors, or what torch.save wrote."
    )


# ----------------------------------------------------------------------------------------------------------- reading it


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        return tensor_files.read(path)
    except ValueError as error:
        raise ValueError(f"load: {path} is damaged or was truncated: {error}. Fetch it again.") from error


def _read_torch(path: Path, kind: str) -> Any:
    if kind == "zip":
        _check_zip(path)
    if _is_too_deep(path, kind):
        raise ValueError(
            f"load: {path} is damaged or no checkpoint: tuples in it lie in each other more than {pickle_nesting.MOST} "
            f"levels deep, or hold more than {pickle_nesting.MOST_HELD:,} objects. Fetch it again."
        )
    try:
        with _ONE_AT_A_TIME, _harmless(), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        wanted = _wanted(error)
        # a zip's checksums have shown it to be whole
        if kind == "pickle" and (_is_cut_off(path) or (wanted is None and _protocol(path) <= 2)):
            raise _damaged(path, error) from error
        raise ValueError(_refused(path, wanted or "instructions that tensors do not need")) from error
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to spell
        raise _damaged(path, error) from error


def _is_too_deep(path: Path, kind: str) -> bool:
    """Whether one of its pickles is nested so that reading it may end the process, or never end."""
    if kind == "pickle":
        with path.open("rb") as file:
            return pickle_nesting.is_too_deep(file, pickles=5)  # those of _is_cut_off, and the names of the storages
    with zipfile.ZipFile(path) as archive:
        pickles = [one for one in archive.infolist() if one.filename.lower().endswith("data.pkl")]
        return any(pickle_nesting.is_too_deep(io.BytesIO(archive.read(one))) for one in pickles)


def _protocol(path: Path) -> int:
    """Version of the pickle format; torch.save writes 2 unless told otherwise."""
    with path.open("rb") as file:
        return file.read(2)[1]


def _is_cut_off(path: Path) -> bool:
    """Whether a pickle, or one of those that torch.save's old format begins with, ends too early. Nothing is run."""
    with path.open("rb") as file:
        try:
            for number in range(4):  # a magic number, the format's version, the system, the content
                first = [argument for _, argument, _ in pickletools.genops(file)]
                if number == 0 and torch.serialization.MAGIC_NUMBER not in first:
                    break
        except Exception:  # of a damaged pickle, whatever its bytes happen to spell
            return True
    return False


@contextmanager
def _harmless() -> Iterator[None]:
    """What training scripts put beside the weights and holds no code is let through: options, and NumPy's numbers."""
    before = torch.serialization.get_safe_globals()
    names = {name for _, name in pickled_numbers.STAND_INS}  # NumPy's own, if somebody allowed them, are none of ours
    others = [one for one in before if _named(one) not in names]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*others, argparse.Namespace, *pickled_numbers.STAND_INS])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _named(let_through: Any) -> str:
    """What a pickle calls it."""
    if isinstance(let_through, tuple):
        return let_through[1]
    return f"{let_through.__module__}.{let_through.__qualname__}"


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any("/code/" in name or name.endswith("models/model.json") for name in names):
                raise ValueError(
                    f"load: {path} is a whole program, written by torch.jit.save or torch.export; expected weights. "
                    f"Save those: torch.save(net.state_dict(), path)."
                )
            if not any(name.split("/")[-1] == "data.pkl" for name in names):
                inside = ", ".join(names[:5]) or "nothing"
                raise ValueError(
                    f"load: {path} is a zip archive, but no torch.save (it holds {inside}). If there is a file of "
                    f"weights in it, unpack it and give that."
                )
            held = sum(one.file_size for one in archive.infolist())
            if held > path.stat().st_size:  # of little that becomes much, nothing is unpacked
                raise ValueError(
                    f"load: {path} is compressed, or damaged: it has {path.stat().st_size:,} bytes, and what is in it "
                    f"{held:,}. torch.save does not compress. Fetch it again, or unpack it and pack it with `zip -0`."
                )
            broken = archive.testzip()  # torch itself does not look at the checksums
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
        OSError,
        UnicodeDecodeError,
        OverflowError,
    ) as error:
        raise _damaged(path, error) from error
    if broken is not None:
        raise ValueError(f"load: {path} is damaged: the checksum of {broken} inside it is wrong. Fetch it again.")


def _damaged(path: Path, error: BaseException) -> ValueError:
    return ValueError(
        f"load: {path} is damaged or was truncated ({path.stat().st_size} bytes; {type(error).__name__}: "
        f"{_first_line(error)}). Fetch it again."
    )


def _first_line(error: BaseException) -> str:
    text = str(error).split("WeightsUnpickler error:")[-1].strip()
    return (text or "no more is known").split("\n")[0][:200]


def _wanted(error: BaseException) -> str | None:
    """What a refused pickle wanted to call, by torch's message; None if the message speaks of something else."""
    text = str(error)
    found = re.search(r"[Uu]nsupported (?:global: )?GLOBAL ([\w.]+)", text)
    return found.group(1) if found else None


def _refused(path: Path, wanted: str) -> str:
    return (
        f"load: {path} was refused, and nothing in it was run: it is a pickle that wants more than tensors ({wanted}), "
        f"and reading such a file can execute any code its author put there. If you trust where it came from, convert "
        f"it once, best on a machine you can spare, and load what that writes:\n"
        f"  from ecaviz import weight_files\n"
        f"  weight_files.convert({str(path)!r}, {str(path.with_suffix('.safetensors'))!r}, trusted=True)"
    )


def convert(path: str | os.PathLike, target: str | os.PathLike, *, trusted: bool) -> Path:
    """Write the weights in a pickle that :func:`read` refuses into a safetensors file.

    **This executes whatever code the pickle contains.** It is for files whose author you trust.

    Args:
        path: A pickle: what ``torch.save`` wrote of a network or of a dictionary, or a plain pickle of a state dict.
        target: The safetensors file to write.
        trusted: Must be True: to say that you trust the file.

    Returns:
        The target.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: ``trusted`` is not True, or the file may not be read.
        ImportError: It needs code that cannot be imported here.
        ValueError: It is cut off or no checkpoint, or there is no state dict in it.
        OSError: The target cannot be written.
    """
    path, target = Path(path), Path(target)
    if trusted is not True:
        raise PermissionError(f"convert: reading {path} can execute code. If you trust its author, pass trusted=True.")
    if target.resolve() == path.resolve():
        raise ValueError(f"convert: {target} is the file to be read; name another.")
    checks.file(path, "convert", "a pickle of weights", "Give the file that load() refused.")
    state = _state_dict(_plain(_unpickled(path)), path)
    _check_kind(_without_prefixes(state), path)
    tensor_files.write(target, {key: value.detach().clone().contiguous() for key, value in state.items()})
    return target


# What Python's pickle says where a module has not what was pickled; the second from 3.15 on.
_MISSING = r"Can't get attribute '([\w.]+)' on <module '([\w.]+)'|module '([\w.]+)' has no attribute '([\w.]+)'"


def _unpickled(path: Path) -> Any:
    """What is in a pickle, of torch.save or plain. Its code is run."""
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK"):
        _check_zip(path)
    try:
        if head.startswith(b"PK") or head[257:262] == b"ustar" or _is_torch(head):  # torch.save's formats, new to old
            return torch.load(path, map_location="cpu", weights_only=False)
        with path.open("rb") as file:
            return pickle.load(file)
    except MemoryError:
        raise
    except Exception as error:  # code that is run, or a damaged pickle, may raise anything
        missing = re.search(_MISSING, str(error))
        if isinstance(error, ImportError) or missing:
            wanted = f"the module {getattr(error, 'name', None) or error}"
            if missing:
                wanted = f"{missing[2] or missing[3]}.{missing[1] or missing[4]}"
            raise ImportError(
                f"convert: {path} needs {wanted}, which cannot be imported here. Run convert where the code can be "
                f"imported that the network was trained with."
            ) from error
        raise ValueError(
            f"convert: {path} is cut off or no checkpoint, or its code fails here ({path.stat().st_size} bytes; "
            f"{type(error).__name__}: {_first_line(error)}). Fetch it again, or run convert where it was saved."
        ) from error


def _is_torch(head: bytes) -> bool:
    """Whether a file begins as torch.save's old format does: with a pickle of one number."""
    try:
        return torch.serialization.MAGIC_NUMBER in [found for _, found, _ in islice(pickletools.genops(head), 3)]
    except Exception:  # of a damaged pickle, whatever its bytes happen to spell
        return False


def _plain(content: Any) -> Any:
    """Networks as their state dicts and arrays as tensors, however deep in dictionaries."""
    if isinstance(content, nn.Module):
        return dict(content.state_dict())
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if type(content).__module__ == "numpy" and hasattr(content, "__array__"):
        return torch.as_tensor(content)
    return content


# ------------------------------------------------------------------------------------------------------- the state dict


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    found = content
    for _ in range(3):  # {"model": {"state_dict": …}} occurs
        if not isinstance(found, dict):
            break
        key = next((key for key in _STATES if isinstance(found.get(key), dict) and found[key]), None)
        if key is None:
            break
        found = found[key]
    if isinstance(found, dict):
        tensors = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors and len(tensors) == len(found):
            return tensors
    held = (
        f"a dictionary with {', '.join(map(repr, list(content)[:8])) or 'nothing in it'}"
        if isinstance(content, dict)
        else f"a {type(content).__name__}"
    )
    raise ValueError(
        f"load: {path} holds {held}; expected a state dict (names and tensors), by itself or under one of "
        f"{', '.join(map(repr, _STATES))}. Save one: torch.save(net.state_dict(), path)."
    )


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {key: value for key, value in state.items() if key.split(".")[-1] not in _COUNTERS}
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if state and all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
                changed = True
    return state


def _check_kind(state: dict[str, Tensor], path: Path) -> None:
    """Weights are ordinary tensors of real numbers, as large as they claim, and no variance is negative."""
    for key, value in state.items():
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise ValueError(f"load: {path} has sparse, quantised or empty weights ({key}); expected ordinary tensors.")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"load: {path} is damaged: {key} claims {value.numel()} numbers, and holds fewer.")
        if not value.is_floating_point() and not key.endswith("num_batches_tracked"):
            raise ValueError(f"load: {path} has weights of {value.dtype} ({key}); expected floating point numbers.")
        if key.endswith("running_var") and bool(((value < 0) & value.isfinite()).any()):
            raise ValueError(f"load: {path} is damaged: {key} has negative variances.")


def check_finite(state: dict[str, Tensor], path: Path) -> None:
    """Raise a ValueError that names them if weights are NaN or infinite."""
    if bad := tensor_files.not_finite(state):
        raise ValueError(
            f"load: {path} has weights that are NaN or infinite, in {bad}: the training diverged "
            f"or the file is damaged. Take an earlier checkpoint, or fetch the file again."
        )
