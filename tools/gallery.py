"""Write the notebooks, run, as Markdown and PNG into docs/gallery, to be read where nothing can be run.

    python tools/gallery.py [--out docs/gallery] [NOTEBOOK ...]

Without names: every notebook in notebooks/. Code hosts draw Markdown and show its pictures; of a notebook without
outputs, which is how they are committed, they show no picture at all. Each page says which cells it was made from, so
that a test can tell when one is out of date.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

MOST = 500_000
"""Bytes that a page and its pictures may take."""

STEPS = ((96, 1.0), (64, 1.0), (48, 0.9), (32, 0.8))
"""Colours of the pictures of a page and their scale, the first that fits: plots have few colours."""

TEMPLATE = """\
{%- extends 'markdown/index.md.j2' -%}
{%- block data_png -%}
![{{ output.metadata.alt }}]({{ output.metadata.filenames['image/png'] }})
{%- endblock -%}
{%- block data_html scoped -%}
{{ output.data['text/html'] | plain_table }}
{%- endblock -%}
{%- block stream -%}
```text
{{ output.text | trim }}
```
{%- endblock -%}
{%- block data_text scoped -%}
```text
{{ output.data['text/plain'] | trim }}
```
{%- endblock -%}
"""


def fingerprint(notebook: Path) -> str:
    """Of a notebook's cells: what they say, and not how often they were run."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    said = [[cell["cell_type"], "".join(cell["source"])] for cell in cells]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def made_from(page: Path) -> str:
    """The fingerprint of the cells that a page was made from; "" if it does not say."""
    found = re.match(r"<!-- .*cells ([0-9a-f]{16}) -->", page.read_text("utf-8"))
    return found[1] if found else ""


def plain_table(html: str) -> str:
    """A table without the style sheet, which code hosts show as text, and without what only it needs."""
    html = re.sub(r"<style[^>]*>.*?</style>\s*", "", html, flags=re.S)
    html = re.sub(r' (border|class|id|style)="[^"]*"', "", html)
    html = re.sub(r"</?div>\s*", "", html)
    return re.sub(r">\s+<", "><", html).strip()


def small_png(content: bytes, colours: int, scale: float) -> bytes:
    """A picture in few colours, not dithered: lines and text stay sharp."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
    if scale != 1:
        flat = flat.resize([round(side * scale) for side in flat.size], Image.Resampling.LANCZOS)
    # Means keep the tints of a plot; of a photograph, with its many colours, they take minutes.
    means = 0 if flat.getcolors(50_000) is None else 2
    few = flat.quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=means, dither=Image.Dither.NONE)
    file = io.BytesIO()
    few.save(file, "PNG", optimize=True)
    return min(file.getvalue(), content, key=len)


def write_page(notebook: Path, book: Any, out: Path, names: set[str]) -> int:
    """Write a run notebook as a page with its pictures; what was there of it before is removed.

    Returns:
        Bytes that it takes.

    Raises:
        ValueError: More than :data:`MOST`.
    """
    from nbconvert.exporters import MarkdownExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor
    from traitlets.config import Config

    from ecaviz.report import MIME_TYPES, describe_pictures, without_bare_widgets

    without_bare_widgets(book)
    describe_pictures(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
            CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)  # what a busy machine printed in pieces
    quiet = logging.getLogger("ecaviz.gallery")
    quiet.setLevel(logging.ERROR)
    # A widget's picture before its words; a table before its text.
    priority = ["image/png", *(kind for kind in MIME_TYPES if kind != "image/png")]
    config = Config(NbConvertBase={"display_data_priority": priority})
    exporter = MarkdownExporter(config=config, log=quiet, filters={"plain_table": plain_table})
    exporter.raw_template = TEMPLATE
    stem = notebook.stem
    text, resources = exporter.from_notebook_node(
        book, resources={"unique_key": stem, "output_files_dir": stem, "metadata": {"name": stem}}
    )
    text = re.sub(r"\]\((\w+)\.ipynb", lambda link: f"]({link[1]}.md" if link[1] in names else link[0], text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    text = text.replace(str(Path.home()), "~")  # whose machine it was does not matter
    head = f"<!-- Made by `make gallery` from notebooks/{notebook.name}, cells {fingerprint(notebook)} -->"
    page = f"{head}\n[all notebooks](README.md) · [this one, to run](../../notebooks/{notebook.name})\n\n{text}\n"
    for colours, scale in STEPS:
        pictures = {name: small_png(content, colours, scale) for name, content in resources["outputs"].items()}
        size = len(page.encode()) + sum(map(len, pictures.values()))
        if size <= MOST:
            break
    else:
        raise ValueError(f"{stem}: the page and its pictures take {size:,} bytes; at most {MOST:,} were expected.")
    for old in (out / stem).glob("*.png"):
        old.unlink()
    for name, content in pictures.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    (out / f"{stem}.md").write_text(page, "utf-8")
    return size


def write_index(out: Path, notebooks: list[Path]) -> None:
    """Write the page that links the others, a picture of each beside its title."""
    import nbformat

    from ecaviz.report import heading

    rows = [
        "# The notebooks, as they come out",
        "",
        "Made by `make gallery`; the notebooks themselves can be moved.",
        "",
    ]
    rows += ["| | |", "|---|---|"]
    for notebook in notebooks:
        title = heading(nbformat.read(notebook, as_version=4)).replace("|", "\\|")
        page = (out / f"{notebook.stem}.md").read_text("utf-8")
        found = re.search(r"!\[([^\]]*)\]\(([^)]+)\)", page)
        picture = f'<img src="{found[2]}" alt="" width="320">' if found else ""
        rows.append(f"| [{title}]({notebook.stem}.md) | {picture} |")
    (out / "README.md").write_text("\n".join(rows) + "\n", "utf-8")


def main() -> int:
    """Run and write; 1 if a notebook failed or is too large."""
    import nbformat
    from tqdm import tqdm

    from ecaviz.notebook_runs import run_notebook
    from ecaviz.report import find_notebooks

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks; all of notebooks/ if none")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gallery", help="the folder")
    given = parser.parse_args()
    every = find_notebooks(ROOT / "notebooks")
    chosen = find_notebooks(given.notebooks) if given.notebooks else every
    given.out.mkdir(parents=True, exist_ok=True)
    problems = []
    books = {path: nbformat.read(path, as_version=4) for path in chosen}
    total = sum(cell.cell_type == "code" for book in books.values() for cell in book.cells)
    with tqdm(total=total, unit="cell") as bar:
        for path, book in books.items():
            bar.set_description(path.stem)
            problem = run_notebook(path, book, 600, bar)
            try:
                if not problem:
                    size = write_page(path, book, given.out, {one.stem for one in every})
                    bar.write(f"{path.stem}: {size / 1000:.0f} kB")
            except ValueError as error:
                problem = str(error)
            problems += [problem] if problem else []
    write_index(given.out, [one for one in every if (given.out / f"{one.stem}.md").is_file()])
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
