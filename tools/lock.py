"""Write requirements.lock: every package of every extra, and the build backend, for every system, with hashes.

    .venv/bin/python tools/lock.py [--upgrade]

Without ``--upgrade`` the versions of the present lock are kept where they still fit pyproject.toml.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
HEADER = """\
# Every package ecaviz is developed and tested with: all extras and the build backend, for Linux, macOS and Windows.
# Made by `make lock` from pyproject.toml; do not edit.
"""


def compile_lock(arguments: list[str]) -> str:
    """The text of a new lock, without addresses and without the paths of the machine that made it."""
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"]
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "-", "--all-extras"),
        *("--universal", "--generate-hashes", "--no-emit-index-url", "--no-header", "--no-annotate", "--quiet"),
        *("--output-file", LOCK.name, *arguments),
    ]
    subprocess.run(command, cwd=ROOT, input="\n".join(backend), text=True, check=True, stdout=subprocess.DEVNULL)
    return HEADER + LOCK.read_text("utf-8")


def main() -> int:
    """Write the lock; refuse one that names an address or a folder."""
    before = LOCK.read_bytes() if LOCK.exists() else None
    try:
        text = compile_lock(sys.argv[1:])
        if found := re.findall(r"^.*(?:://|file:| @ |--find-links|--index).*$", text, flags=re.M):
            raise SystemExit("error: the lock names addresses, which would tie it to one machine:\n" + "\n".join(found))
    except BaseException:
        if before is not None:
            LOCK.write_bytes(before)
        raise
    LOCK.write_text(text, "utf-8", newline="\n")
    print(f"{LOCK.name}: {len(re.findall(r'^[a-zA-Z0-9]', text, flags=re.M))} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
