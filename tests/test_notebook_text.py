"""What is written: headings in order, words for pictures, links that lead somewhere, a figure above each explorer."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra `lab` is not installed")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "benchmarks/README.md")
TEXTS = [*(ROOT / name for name in NAMES), *sorted((ROOT / "docs").rglob("*.md"))]

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_text = pytest.mark.parametrize(
    "path", [*NOTEBOOKS, *TEXTS], ids=lambda path: path.relative_to(ROOT).with_suffix("").as_posix()
)


def prose(path: Path) -> str:
    """The Markdown of a file without its code."""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, 4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"^ *(```+).*?^ *\1 *$", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", lambda code: "`" + "_" * (len(code[0]) - 2) + "`", text)


def headings(text: str) -> list[tuple[int, str]]:
    """Level and words of each."""
    return [(len(marks), title) for marks, title in re.findall(r"^(#{1,6}) +(.+?)(?: +#*)?$", text, flags=re.M)]


def anchors(path: Path) -> set[str]:
    """What a link to a heading may end in: code hosts write it small and without punctuation, Jupyter as it is."""
    titles = [title for _, title in headings(path.read_text("utf-8") if path.suffix == ".md" else prose(path))]
    hosts = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return hosts | {title.replace(" ", "-") for title in titles}


def pictures(text: str) -> list[tuple[str | None, str]]:
    """Alternative text (None if there is no place for any) and address of each."""
    found = [(alt, address) for alt, address in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)[^)]*\)", text)]
    for tag in re.findall(r"<img[^>]*>", text):
        named = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        found.append((named.get("alt"), named.get("src", "")))
    return found


def links(text: str) -> list[str]:
    """Addresses of links and pictures, as they are written."""
    return [
        *re.findall(r"\]\(([^)\s]+)[^)]*\)", text),
        *re.findall(r"^\[[^\]]+\]: +(\S+)", text, flags=re.M),
        *re.findall(r'(?:href|src)="([^"]*)"', text),
        *re.findall(r"<(\w+://[^>]*)>", text),
    ]


def wrong_links(path: Path, text: str) -> list[str]:
    """The links of a text that stands at a path which lead nowhere; those to other machines are not followed."""
    wrong = []
    for link in links(text):
        if "://" in link:
            good = re.fullmatch(r"https://[\w.-]+\.\w+(:\d+)?(/[^\s<>\"]*)?", link)
        else:
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            good = target.exists() and target.is_relative_to(ROOT) and (not anchor or anchor in anchors(target))
        if not good:
            wrong.append(link)
    return wrong


@each_text
def test_headings_are_in_order(path):
    levels = [level for level, _ in headings(prose(path))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert [(before, now) for before, now in itertools.pairwise(levels) if now > before + 1] == []


@each_text
def test_pictures_have_words(path):
    every = pictures(prose(path))
    # Beside its title the picture of a page in the table of the gallery says nothing new.
    decoration = path == ROOT / "docs" / "gallery" / "README.md"
    assert [address for alt, address in every if alt is None or not (alt.strip() or decoration)] == []


@each_text
def test_links_lead_somewhere(path):
    assert wrong_links(path, prose(path)) == []


def test_the_readme_shows_its_pictures():
    assert {address for _, address in pictures(prose(ROOT / "README.md"))} == {
        "docs/explorer.gif",
        "docs/tour.png",
    }


def test_what_is_wrong_is_found():
    path = ROOT / "README.md"
    text = (
        "# A\n\n[good](CHANGELOG.md#unreleased) [same](#gpu-and-cpu) [web](https://arxiv.org/abs/1910.03151) "
        "[gone](gone.md) [anchor](CONTRIBUTING.md#gone) [plain](http://example.org) [typed](https://example)\n"
        "![](docs/tour.png) <img src='x' alt>\n\n### B\n"
    )
    assert wrong_links(path, text) == ["gone.md", "CONTRIBUTING.md#gone", "http://example.org", "https://example"]
    assert headings(text) == [(1, "A"), (3, "B")]
    assert pictures(text) == [("", "docs/tour.png"), (None, "")]


# ------------------------------------------------------------------------------------------------ a figure before each


def is_explorer(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Explorer")


def explorers_shown(book) -> list[tuple[str, bool]]:
    """The explorers that a notebook shows, and whether a static figure stands above them in their section."""
    names, drawn, found = set(), False, []
    for cell in book.cells:
        if cell.cell_type == "markdown":
            drawn = drawn and not re.search(r"^## ", cell.source, flags=re.M)
            continue
        body = ast.parse(cell.source).body
        names |= {one.targets[0].id for one in body if isinstance(one, ast.Assign) and is_explorer(one.value)}
        last = body[-1].value if isinstance(body[-1], ast.Expr) else None
        if is_explorer(last) or (isinstance(last, ast.Name) and last.id in names):
            found.append((ast.unparse(last), drawn))
        drawn = drawn or bool(re.search(r"\bplots\.|\bplt\.subplots|\.figure\(\)$", cell.source, flags=re.M))
    return found


@each_notebook
def test_a_plain_figure_stands_above_every_explorer(path):
    book = nbformat.read(path, 4)
    found = explorers_shown(book)
    assert [name for name, below_a_figure in found if not below_a_figure] == []
    assert found or "Explorer(" not in "".join(cell.source for cell in book.cells)


def test_an_explorer_without_a_figure_is_found():
    new = nbformat.v4
    cells = [
        new.new_markdown_cell("## One"),
        new.new_code_cell("explorer = ecaviz.RuleExplorer()\nexplorer.figure()"),
        new.new_code_cell("explorer"),
        new.new_markdown_cell("## Two"),
        new.new_code_cell("explorer"),
        new.new_code_cell("ecaviz.ModuleExplorer()"),
    ]
    found = explorers_shown(new.new_notebook(cells=cells))
    assert found == [("explorer", True), ("explorer", False), ("ecaviz.ModuleExplorer()", False)]
