"""The gallery: pages with their pictures, small, and made from the notebooks as they are."""

import base64
import importlib.util
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

nbformat = pytest.importorskip("nbformat", reason="the extra `lab` is not installed")

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("gallery", ROOT / "tools" / "gallery.py")
gallery = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(gallery)

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = ROOT / "docs" / "gallery"


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def book():
    """A run notebook: a table, a widget with a picture, one without, a figure, and something on the error stream."""
    new, picture = nbformat.v4, base64.b64encode(png(np.zeros((20, 30, 3), np.uint8))).decode()
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    table = (
        '<div>\n<style scoped>td { color: red }</style>\n<table border="1" class="dataframe" id="T_7c">'
        '<td id="T_7c_0">1</td></table></div>'
    )
    outputs = [
        new.new_output("stream", name="stderr", text="a warning"),
        new.new_output("stream", name="stdout", text=f"said in {Path.home()}\n"),
        new.new_output("stream", name="stderr", text="another"),
        new.new_output("stream", name="stdout", text="and the rest\n"),
        new.new_output("display_data", view | {"text/plain": "bar"}),
        new.new_output("display_data", {"text/html": table, "text/plain": "1"}),
        new.new_output("execute_result", view | {"image/png": picture, "text/plain": "Explorer: [moved]"}),
        new.new_output("display_data", {"image/png": picture, "text/plain": "<Figure size 30x20>"}),
    ]
    code = new.new_code_cell("draw()", outputs=outputs)
    return new.new_notebook(cells=[new.new_markdown_cell("# One\n\n## Two $k$\n\n[next](other.ipynb#x)"), code])


def test_a_page_has_tables_pictures_and_words(book, tmp_path):
    notebook = tmp_path / "one.ipynb"
    nbformat.write(book, notebook)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "old.png").write_bytes(b"")
    size = gallery.write_page(notebook, book, tmp_path, {"one", "other"})
    text = (tmp_path / "one.md").read_text()
    assert "<table><td>1</td></table>" in text
    assert "a warning" not in text
    assert "style" not in text
    assert "bar" not in text
    assert "```text\nsaid in ~\nand the rest\n```\n" in text
    assert "[next](other.md#x)" in text
    pictures = re.findall(r"!\[(.*)\]\((.*)\)", text)
    assert [alt for alt, _ in pictures] == ["Explorer: (moved)", "Picture: Two $k$"]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("one/*")) == [p for _, p in pictures]
    assert size == sum((tmp_path / name).stat().st_size for name in ["one.md", *(p for _, p in pictures)])
    gallery.write_index(tmp_path, [notebook])
    assert f'| [One](one.md) | <img src="{pictures[0][1]}"' in (tmp_path / "README.md").read_text()


def test_a_page_tells_the_cells_it_was_made_from(book, tmp_path):
    notebook = tmp_path / "one.ipynb"
    nbformat.write(book, notebook)
    gallery.write_page(notebook, book, tmp_path, set())
    assert gallery.made_from(tmp_path / "one.md") == gallery.fingerprint(notebook)
    book.cells[1].outputs, book.cells[1].execution_count = [], 7
    nbformat.write(book, notebook)
    assert gallery.made_from(tmp_path / "one.md") == gallery.fingerprint(notebook)
    book.cells[1].source += " "
    nbformat.write(book, notebook)
    assert gallery.made_from(tmp_path / "one.md") != gallery.fingerprint(notebook)


def test_pictures_get_smaller_until_the_page_fits_or_it_is_an_error(book, tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    book.cells[1].outputs[-1].data["image/png"] = base64.b64encode(png(noise)).decode()
    notebook = tmp_path / "one.ipynb"
    nbformat.write(book, notebook)
    whole = len(png(noise))
    monkeypatch.setattr(gallery, "MOST", whole // 4)
    assert gallery.write_page(notebook, nbformat.read(notebook, 4), tmp_path, set()) <= whole // 4
    monkeypatch.setattr(gallery, "MOST", whole // 50)
    with pytest.raises(ValueError, match=r"one: the page and its pictures take [\d,]+ bytes; at most"):
        gallery.write_page(notebook, nbformat.read(notebook, 4), tmp_path, set())


def test_few_colours_leave_lines_as_they_are():
    pixels = np.full((40, 60, 3), 255, np.uint8)
    pixels[20], pixels[:, 30] = (0, 114, 178), (213, 94, 0)
    with Image.open(io.BytesIO(gallery.small_png(png(pixels), 96, 1.0))) as small:
        assert np.abs(np.asarray(small.convert("RGB"), int) - pixels).max() <= 2


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_the_gallery_is_of_the_notebooks_as_they_are(notebook):
    page = PAGES / f"{notebook.stem}.md"
    assert page.is_file(), "make gallery"
    assert gallery.made_from(page) == gallery.fingerprint(notebook), "make gallery"
    text = page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link]
    assert len(links) > 5
    for link in links:
        assert (PAGES / link).exists(), link
    pictures = {PAGES / link for link in links if link.endswith(".png")}
    assert pictures == set((PAGES / notebook.stem).glob("*.png"))
    assert len(page.read_bytes()) + sum(one.stat().st_size for one in pictures) <= gallery.MOST
    assert "Traceback" not in text
    assert f"({page.name})" in (PAGES / "README.md").read_text("utf-8")


def test_no_page_is_of_a_notebook_that_is_gone():
    assert {path.stem for path in PAGES.glob("*.md")} == {path.stem for path in NOTEBOOKS} | {"README"}
