"""Bring notebooks into the form they have in git: no outputs, no counts, no widget state, stable cell ids.

    python tools/strip_notebooks.py [--check] [NOTEBOOK ...]

Without names: every notebook in notebooks/ and dashboard/. ``--check`` changes nothing and fails if a notebook would
change. Standard library only, so that it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("notebooks", "dashboard")

# Kept in a notebook's own metadata; the version of whoever saved it last is not.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def stable_ids(cells: list[dict]) -> list[str]:
    """An id for every cell: its own where it has a good one, else one made of its place."""
    own = [cell.get("id", "") for cell in cells]
    taken, ids = set(own), []
    for index, name in enumerate(own):
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) or name in ids:
            while (name := f"cell-{index:02d}") in taken:
                index += 1
            taken.add(name)
        ids.append(name)
    return ids


def strip(notebook: dict) -> dict:
    """The notebook in its committed form. A pure function: what comes in is not changed.

    Raises:
        ValueError: It is not a notebook of format 4.
    """
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4 or not isinstance(notebook.get("cells"), list):
        raise ValueError("not a notebook of format 4 (nbformat: 4 and a list of cells); save it from JupyterLab first")
    cells = []
    for name, cell in zip(stable_ids(notebook["cells"]), notebook["cells"], strict=True):
        tags = {"tags": cell["metadata"]["tags"]} if cell.get("metadata", {}).get("tags") else {}
        source = cell.get("source", [])
        clean = {"cell_type": cell["cell_type"], "id": name, "metadata": tags}
        if cell["cell_type"] == "code":
            clean |= {"execution_count": None, "outputs": []}
        if cell.get("attachments"):
            clean["attachments"] = cell["attachments"]
        clean["source"] = source.splitlines(keepends=True) if isinstance(source, str) else source
        cells.append(dict(sorted(clean.items())))
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def text_of(notebook: dict) -> str:
    """The notebook as Jupyter writes it: one space of indentation, and a last line that ends."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Strip, or check; the exit status is 1 when something would change or cannot be read."""
    parser = argparse.ArgumentParser(description="Strip notebooks of everything that running them leaves behind.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook in notebooks/ and dashboard/")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a notebook would change")
    arguments = parser.parse_args()
    status = 0
    everywhere = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.ipynb"))]
    for path in arguments.notebooks or everywhere:
        try:
            before = path.read_text("utf-8")
            after = text_of(strip(json.loads(before)))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            print(f"error: {path}: {error}", file=sys.stderr)
            status = 1
            continue
        if before != after and arguments.check:
            print(f"error: {path} is not stripped; run: python tools/strip_notebooks.py", file=sys.stderr)
            status = 1
        elif before != after:
            path.write_text(after, "utf-8", newline="\n")
            print(f"stripped {path}")
    return status


if __name__ == "__main__":
    sys.exit(main())
