"""Run notebooks without a browser and keep each as one HTML file that needs nothing else.

::

    build_report("notebooks", "build/report")          # → build/report/index.html

In the files every picture and every formula shows with the network blocked: pictures are embedded, formulas are MathML,
which browsers draw themselves, and a widget is shown by the ``image/png`` in its mime bundle, as it stood when the cell
ended; one without a picture, such as a progress bar, is left out. An explorer brings the frames of one of its controls
(:mod:`ecaviz.frames`), and a slider moves through them; its few lines of script are the page's own. Nothing is loaded
from anywhere.

Jupyter is imported when a report is built, not before: `import ecaviz.report` is cheap.
"""

from __future__ import annotations

import html
import importlib.util
import logging
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from . import frames
from .notebook_runs import run_notebook
from .whole_files import replace_file, writable_folder

__all__ = [
    "MIME_TYPES",
    "Page",
    "ReportError",
    "build_report",
    "describe_pictures",
    "find_notebooks",
    "formula",
    "heading",
    "without_bare_widgets",
]

# Richest first, and nothing that needs a script of its own: a widget is shown by its frames or its picture.
MIME_TYPES = [
    frames.MIME_TYPE,
    "text/html",
    "text/markdown",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "text/latex",
    "text/plain",
]

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

TEMPLATE = """\
{%- extends 'index.html.j2' -%}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block extra_css -%}
<style>
math { font-family: "Latin Modern Math", "STIX Two Math", "Cambria Math", "Libertinus Math", "DejaVu Math TeX Gyre",
  math }
.frames input { width: 16em; max-width: 60%; vertical-align: middle }
.frames img { display: block; max-width: 100% }
.frames img[hidden] { display: none }
</style>
{%- endblock -%}
{%- block body_header -%}{{ super() }}
<nav><p>
{%- for name, words in resources.links -%}
{{ " · " if not loop.first }}<a href="{{ name | urlencode }}.html">{{ words | e }}</a>
{%- endfor -%}
</p></nav>
{%- endblock -%}
{%- block data_png scoped -%}
{{ super() | replace("<img", '<img alt="' ~ (output.metadata.alt | escape_html) ~ '"', 1) }}
{%- endblock -%}
{%- block data_other scoped -%}
{%- set frames = output.data["FRAMES"] -%}
<div class="jp-RenderedImage jp-OutputArea-output frames">
<p hidden><label>{{ frames.control | escape_html }}
<input type="range" min="0" max="{{ frames["values"] | length - 1 }}" value="{{ frames.now }}" autocomplete="off">
</label>
<span aria-hidden="true"></span></p>
{% for picture in frames.pictures -%}
<img src="data:image/png;base64,{{ picture }}" alt="{{ frames.words[loop.index0] | escape_html }}"
 data-value="{{ frames["values"][loop.index0] | escape_html }}"{{ " hidden" if loop.index0 != frames.now }}>
{% endfor -%}
</div>
{%- endblock -%}
{%- block footer_js -%}{{ super() }}
<script>
for (const frames of document.querySelectorAll(".frames")) {
  const input = frames.querySelector("input"), images = frames.querySelectorAll("img");
  const show = () => {
    images.forEach((image, i) => { image.hidden = i !== input.valueAsNumber; });
    const value = images[input.valueAsNumber].dataset.value;
    frames.querySelector("span").textContent = value;
    input.setAttribute("aria-valuetext", value);
  };
  input.addEventListener("input", show);
  show();
  frames.querySelector("p").hidden = false;
}
</script>
{%- endblock -%}
{%- block data_latex scoped -%}
<div class="jp-RenderedLatex jp-OutputArea-output" data-mime-type="text/latex">
{{ output.data['text/latex'] | markdown2html }}
</div>
{%- endblock -%}
""".replace("FRAMES", frames.MIME_TYPE)

INDEX = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>ecaviz: notebooks</title>
<style>body {{ font: 16px/1.5 sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem }}
td {{ padding: .3rem 1.5rem .3rem 0; vertical-align: top; overflow-wrap: anywhere }}
td:first-child, td:last-child {{ white-space: nowrap }} .failed {{ color: #b00020 }}</style></head>
<body><h1>ecaviz: notebooks</h1>
<table>
{rows}
</table></body></html>
"""


class ReportError(RuntimeError):
    """A notebook failed, or a page could not be written. What was built before and after it is kept."""


@dataclass(frozen=True)
class Page:
    """One notebook of a report.

    Attributes:
        notebook: Where it was read.
        path: The HTML file; None if not even that could be made (one of before is left as it is).
        title: Its first heading.
        seconds: How long its cells took.
        problem: Why it failed, with the cell; "" if it did not.
    """

    notebook: Path
    path: Path | None
    title: str
    seconds: float
    problem: str = ""


def formula(latex: str, *, display: bool = False) -> str:
    r"""A LaTeX formula as MathML, the markup that browsers draw without a script.

    Args:
        latex: Without its dollar signs, as ``\omega = \sigma(z)``.
        display: On a line of its own.

    Raises:
        ValueError: It holds something that has no MathML.
    """
    from latex2mathml.converter import convert

    try:
        math = convert(latex, display="block" if display else "inline")
    except Exception as error:  # the converter has a dozen exceptions of its own, and raises IndexError too
        raise ValueError(f"the formula {latex!r} cannot be read: {type(error).__name__} {error}".rstrip()) from error
    # An unknown command comes back as its own text.
    if unknown := re.search(r">\s*(\\[a-zA-Z]+)", math):
        raise ValueError(f"the formula {latex!r} has the command {unknown[1]}, which has no MathML; write it otherwise")
    return math.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")  # HTML does not need it; the headings break


def build_report(
    notebooks: str | Path | Iterable[str | Path],
    out: str | Path = "build/report",
    *,
    timeout: float = 600,
    progress: bool = True,
) -> Path:
    """Run notebooks and write each as an HTML file that shows everything with the network blocked.

    Every file is written whole or not at all, over one that was there. An interrupt keeps the pages that are through,
    and is raised with a note that says so; so is memory that runs out here.

    Args:
        notebooks: A folder, or the notebooks themselves. They are read and not changed.
        out: The folder to write to: one page for each notebook, and index.html.
        timeout: The most seconds one cell may take.
        progress: Show a progress bar, one step for each cell.

    Returns:
        The path of index.html.

    Raises:
        FileNotFoundError: There is no such notebook or folder, or no notebook in it.
        ValueError: Two notebooks have the same name.
        ModuleNotFoundError: The extra ``lab`` is not installed.
        OSError: ``out`` is a file, or nothing can be written there; told before a notebook is run.
        ReportError: A notebook failed. The message names notebook, cell and error; the other notebooks are run all the
            same, and the page of the failed one shows how far it came. Or a page could not be written.
    """
    _require_jupyter()
    import nbformat
    from tqdm import tqdm

    paths, out = find_notebooks(notebooks), Path(out)
    books: dict[Path, Any] = {}
    pages: list[Page] = []
    for path in paths:
        try:
            books[path] = nbformat.read(path, as_version=4)
        except MemoryError:  # the notebook may be as it should
            raise
        except Exception as error:  # not JSON, not a notebook, not readable: nbformat has no common ancestor for them
            pages.append(Page(path, None, path.stem, 0.0, f"{path}: not a notebook that can be read: {error}"))

    total = sum(cell.cell_type == "code" for book in books.values() for cell in book.cells)
    with writable_folder(out, f"report: {out}"), tqdm(total=total, unit="cell", disable=not progress) as bar:
        try:
            for path, book in books.items():
                bar.set_description(path.stem)
                pages.append(_build_page(path, book, out, timeout, bar, pages=[p.stem for p in paths]))
        except BaseException as stopped:
            stopped.add_note(_so_far(pages, len(paths), out))
            raise
        pages.sort(key=lambda page: paths.index(page.notebook))
        return _finish(pages, out / "index.html")


def _so_far(pages: list[Page], count: int, out: Path) -> str:
    """What there is of a report that was interrupted."""
    there = [page.path.name for page in pages if page.path]
    if not there:
        return f"No page was through, and {out} is as it was."
    return f"{len(there)} of {count} pages are in {out}: {', '.join(there)}. There is no new index.html to them."


def _finish(pages: list[Page], index: Path) -> Path:
    """Write the index.

    Raises:
        ReportError: It cannot be written, or something else went wrong before.
    """
    problems = [page.problem for page in pages if page.problem]
    said = f"{len(problems)} of {len(pages)} notebooks failed; the report is in {index.parent} as far as it came."
    try:
        replace_file(index, _index(pages).encode())
    except OSError as error:
        said = said if problems else f"The pages are in {index.parent}, but not their index."
        problems.append(str(error))
    if problems:
        raise ReportError("\n\n".join([said, *problems]))
    return index


def _require_jupyter() -> None:
    """One clear error where the extra is missing."""
    wanted = ("nbformat", "nbclient", "nbconvert", "latex2mathml")
    if missing := [name for name in wanted if importlib.util.find_spec(name) is None]:
        raise ModuleNotFoundError(
            f"a report needs {', '.join(missing)}, not installed here; install the extra: pip install -e .[lab]",
            name=missing[0],
        )


def find_notebooks(notebooks: str | Path | Iterable[str | Path]) -> list[Path]:
    """The notebooks meant, in order.

    Args:
        notebooks: A folder, or the notebooks themselves.

    Raises:
        FileNotFoundError: There is no such notebook or folder, or no notebook in it.
        ValueError: Two notebooks have the same name.
    """
    if isinstance(notebooks, str | Path) and Path(notebooks).is_dir():
        paths = sorted(Path(notebooks).glob("*.ipynb"))
    else:
        paths = [Path(notebooks)] if isinstance(notebooks, str | Path) else [Path(path) for path in notebooks]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"no such notebook or folder: {', '.join(missing)} (from {Path.cwd()})")
    if not paths:
        raise FileNotFoundError(f"no notebook to run: {notebooks} holds no file that ends in .ipynb")
    if len(twice := {path.stem for path in paths}) < len(paths):
        raise ValueError(
            f"each notebook needs a name of its own; {len(paths)} notebooks have the names {sorted(twice)}"
        )
    return paths


def _build_page(path: Path, book: Any, out: Path, timeout: float, bar: Any, pages: list[str]) -> Page:
    """Run one notebook and write it, also when it failed half-way."""
    title = heading(book) or path.stem
    before, start = bar.n, time.monotonic()
    problem = run_notebook(path, book, timeout, bar, moving=True)
    seconds = time.monotonic() - start
    bar.update(before + sum(cell.cell_type == "code" for cell in book.cells) - bar.n)  # past what did not run
    target: Path | None = out / f"{path.stem}.html"
    try:
        replace_file(target, _to_html(path, book, pages).encode())
    except MemoryError:  # the others would have no more of it
        raise
    except Exception as error:  # the disk, a formula, whatever nbconvert stumbles over: the others come all the same
        said = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        target, problem = None, "\n".join(filter(None, [problem, f"{path}: {said}"]))
    return Page(path, target, title, seconds, problem)


def heading(book: Any) -> str:
    """The first heading of a notebook; "" if it has none."""
    texts = (cell.source for cell in book.cells if cell.cell_type == "markdown")
    return next((found[1] for text in texts if (found := re.search(r"^#+ +(.+)", text, re.M))), "")


def _to_html(path: Path, book: Any, pages: list[str]) -> str:
    """A run notebook as one HTML file.

    Raises:
        ValueError: A formula has no MathML, or something would have to be fetched.
    """
    from bs4 import BeautifulSoup
    from jinja2 import pass_context
    from nbconvert.exporters import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
    from traitlets.config import Config

    class Renderer(IPythonRenderer):
        """Formulas become MathML, and links to notebooks become links to their pages."""

        def inline_math(self, body):
            return formula(body)

        def block_math(self, body):
            return formula(body, display=True)

        def latex_environment(self, name, body):
            return formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", display=True)

        def link(self, text, url, title=None):
            name, dot, anchor = url.partition(".ipynb")
            if dot and name.removeprefix("./") in pages:
                url = f"{name}.html{anchor}"
            return super().link(text, url, title)

    class Exporter(HTMLExporter):
        """nbconvert's page, without the scripts it loads."""

        @pass_context
        def markdown2html(self, context, source):
            cell, resources = context.get("cell", {}), context.get("resources", {})
            renderer = Renderer(
                escape=False,
                attachments=cell.get("attachments", {}),
                embed_images=True,
                path=resources.get("metadata", {}).get("path", ""),
                anchor_link_text=self.anchor_link_text,
            )
            return MarkdownWithMath(renderer=renderer).render(source)

    without_bare_widgets(book)
    describe_pictures(book)
    quiet = logging.getLogger("ecaviz.report.nbconvert")
    quiet.setLevel(logging.ERROR)
    exporter = Exporter(config=Config(NbConvertBase={"display_data_priority": MIME_TYPES}), log=quiet)
    exporter.raw_template = TEMPLATE
    folder = str(path.resolve().parent)
    about = {"metadata": {"name": path.stem, "path": folder}, "links": _links(path.stem, pages)}
    text, _ = exporter.from_notebook_node(book, resources=about)
    for element in BeautifulSoup(text, "html.parser").find_all(["img", "script", "link", "iframe", "video", "source"]):
        address = element.get("src") or (element.get("href") if element.name == "link" else None)
        if address and not address.startswith(("data:", "#")):
            raise ValueError(
                f"<{element.name}> points to {address!r}, which is not in the page; "
                "a picture has to lie in the notebook's own folder or be drawn by a cell"
            )
    return text


def _links(name: str, pages: list[str]) -> list[tuple[str, str]]:
    """What a page links to, with the words: the index, the page before it and the one after it."""
    at = pages.index(name)
    before = [(one, f"← {one}") for one in pages[:at][-1:]]
    after = [(one, f"{one} →") for one in pages[at + 1 :][:1]]
    return [("index", "all notebooks"), *before, *after]


def describe_pictures(book: Any) -> None:
    """Give every picture its alternative text: what it says of itself as plain text, else the heading it stands under.

    Args:
        book: A run notebook; the text becomes ``alt`` in the metadata of the outputs.
    """
    above = "the notebook"
    for cell in book.cells:
        if cell.cell_type == "markdown":
            above = (re.findall(r"^#+ +(.+)", cell.source, re.M) or [above])[-1]
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                said = output["data"].get("text/plain", "")
                known = said and not said.startswith("<") and not said.startswith("Figure(")
                words = " ".join((said if known else f"Picture: {above}").split())
                output["metadata"]["alt"] = words.translate(str.maketrans("[]", "()"))  # Markdown has its own brackets


def without_bare_widgets(book: Any) -> None:
    """Take out of a run notebook the widgets without a picture: a progress bar would stand there as it was at first."""
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_bare_widget(output)]


def _is_bare_widget(output: Any) -> bool:
    data = output.get("data", {})
    return WIDGET_VIEW in data and not any(kind.startswith("image/") for kind in data)


def _index(pages: list[Page]) -> str:
    """The page that links all pages."""
    rows = []
    for page in pages:
        name = html.escape(page.notebook.stem)
        link = f'<a href="{quote(page.notebook.stem)}.html">{name}</a>' if page.path else name
        # Its formulas are known to be good once its page is there.
        parts = page.title.split("$") if page.path else [page.title]
        title = "".join(formula(part) if i % 2 else html.escape(part) for i, part in enumerate(parts))
        state = f'<span class="failed">failed: {html.escape(page.problem)}</span>' if page.problem else ""
        rows.append(f"<tr><td>{link}</td><td>{title} {state}</td><td>{page.seconds:.0f} s</td></tr>")
    return INDEX.format(rows="\n".join(rows))
