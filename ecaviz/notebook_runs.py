"""Run the cells of a notebook without a browser: for the report's pages, and for ``tools/gallery.py``.

Jupyter is imported when a notebook is run, not before.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import frames

__all__ = ["run_notebook"]


def run_notebook(path: Path, book: Any, timeout: float, bar: Any, *, moving: bool = False) -> str:
    """Run the cells of a notebook, in its folder; the outputs go into ``book``.

    Args:
        path: Where it was read.
        book: What nbformat read there.
        timeout: The most seconds one cell may take.
        bar: A progress bar: one step a cell.
        moving: Ask the explorers for their frames, and the figures for their titles.

    Returns:
        What went wrong, with the cell; "" if nothing did.
    """
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    at = 0

    def remember(cell, cell_index):
        nonlocal at
        at = cell_index

    arguments = ["--Application.log_level=ERROR"]  # the kernel's own remarks would cut the progress bar
    # A backend chosen for scripts would keep the figures out of the notebook.
    env = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", frames.ASKED)}
    if moving:
        arguments.append("--InteractiveShellApp.extra_extensions=ecaviz.figure_titles")
        env[frames.ASKED] = "1"
    client = NotebookClient(
        book,
        timeout=timeout,
        kernel_name="python3",
        store_widget_state=False,
        extra_arguments=arguments,
        resources={"metadata": {"path": str(path.resolve().parent)}},
        on_cell_start=remember,
        on_cell_executed=lambda **_: bar.update(),
    )
    try:
        _execute(client, env)
    except CellExecutionError as error:
        reason = f"{error.ename}: {error.evalue}"
    except CellTimeoutError:
        reason = f"it took longer than {timeout:g} s, the most one cell may take"
    except DeadKernelError:
        reason = "the kernel died; was there enough memory?"
    except (NoSuchKernel, RuntimeError, OSError) as error:  # it could not even be started
        return f"{path}: its kernel cannot be run: {error}"
    else:
        return ""
    source = "\n".join(f"    {line}" for line in book.cells[at].source.splitlines())
    return f"{path}, cell {at + 1} of {len(book.cells)}: {reason}\n{source}"


def _execute(client: Any, env: dict[str, str]) -> None:
    """Run the cells in a thread of their own. In the main one, nbclient would take Ctrl-C for itself, and fail of it.

    Raises:
        KeyboardInterrupt: Ctrl-C, once the kernel has ended.
    """
    runner = asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)
    loop = runner.get_loop()
    task = loop.create_task(client.async_execute(env=env))

    def run() -> None:
        with runner:
            loop.run_until_complete(task)

    with ThreadPoolExecutor(1) as pool:
        try:
            running = pool.submit(run)
            while not running.done():
                wait([running], timeout=0.5)  # not for ever: on Windows no Ctrl-C would come through
            running.result()
        except KeyboardInterrupt:
            client.shutdown_kernel = "immediate"  # what is under way would have its last words
            with suppress(RuntimeError):  # it has just come to its end
                loop.call_soon_threadsafe(task.cancel)
            raise
