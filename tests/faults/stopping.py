"""Work in a process of its own that is stopped on purpose: at its n-th use of a file, or after some time.

::

    with Worker("works", tmp_path) as worker:
        ended = worker.run("save", one, other)                       # to its end; ended.uses is how often it used files
        ended = worker.run("save", one, other, use=7)                # SIGKILL before the seventh of them
        ended = worker.run("save", one, other, after=0.2, sent=signal.SIGINT)

The process imports once what the work needs, and forks for each call. What uses files (opening, renaming, removing,
making folders) is told by Python's audit events, so a stop at a use is at the same point each time.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Ended", "Worker"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
USES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree", "os.symlink")
INTERRUPTED = 130


@dataclass(frozen=True)
class Ended:
    """How a call ended.

    Attributes:
        status: 0, 1 after an error, 130 after an interrupt, −9 of a SIGKILL.
        said: What the work returned, through JSON; None if it did not come to that.
        uses: How often it used a file in the folder; 0 if it was killed.
        seconds: How long it took.
    """

    status: int
    said: Any
    uses: int
    seconds: float


class Worker:
    """The process; see the module.

    Args:
        module: Name of the module that has the functions to call.
        folder: Files in it count as uses.
    """

    def __init__(self, module: str, folder: Path) -> None:
        paths = map(str, (ROOT, HERE.parent, HERE))
        self._folder = str(folder)
        self._process = subprocess.Popen(
            [sys.executable, __file__, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def run(
        self,
        work: str,
        *arguments: Any,
        use: int = 0,
        after: float | None = None,
        sent: int = signal.SIGKILL,
        env: dict[str, str] | None = None,
    ) -> Ended:
        """Call a function in a process of its own.

        Args:
            work: Its name.
            arguments: What it takes; paths become strings.
            use: The use of a file before which the signal is sent; 0 for none.
            after: Seconds after which the signal is sent; None for never.
            sent: The signal.
            env: Variables of the environment that it has besides.
        """
        order = {"work": work, "arguments": [str(one) if isinstance(one, Path) else one for one in arguments]}
        order |= {"folder": self._folder, "use": use, "after": after, "sent": int(sent), "env": env or {}}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


def _main(module: str) -> None:
    works = importlib.import_module(module)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        begun = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the child is where it can be told
        child = os.fork()
        if not child:
            os.close(reading)
            _child(getattr(works, order["work"]), order, writing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.close(writing)
        if order["after"] is not None and not select.select([reading], [], [], order["after"])[0]:
            os.kill(child, order["sent"])
        with os.fdopen(reading) as pipe:
            told = json.loads(pipe.read() or '{"said": null, "uses": 0}')
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, "seconds": time.monotonic() - begun, **told}), flush=True)


def _child(function: Any, order: dict, writing: int) -> None:
    uses, status, said = 0, 1, None

    def count(event: str, given: tuple) -> None:
        nonlocal uses
        if event in USES and any(isinstance(one, str | os.PathLike) and _in(one) for one in given):
            uses += 1
            if uses == order["use"]:
                os.kill(os.getpid(), order["sent"])

    def _in(path: Any) -> bool:
        return os.fspath(path).startswith(order["folder"])

    try:
        os.environ.update(order["env"])
        os.dup2(2, 1)  # what is printed is no answer
        sys.addaudithook(count)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        said = function(*order["arguments"])
        status = 0
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BaseException:
        traceback.print_exc()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.write(writing, json.dumps({"said": said, "uses": uses}).encode())
        os._exit(status)


if __name__ == "__main__":
    _main(sys.argv[1])
