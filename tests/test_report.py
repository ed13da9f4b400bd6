"""The report: every picture and formula shows with the network blocked, and a failing cell is named."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

import ecaviz.notebook_runs
import ecaviz.report
from ecaviz.report import ReportError, build_report, formula

nbformat = pytest.importorskip("nbformat", reason="the extra `lab` is not installed")
bs4 = pytest.importorskip("bs4", reason="the extra `lab` is not installed")

TEXT = r"""# The gate $\omega$ of a channel

The gate is $\omega = \sigma(z)$, and k follows the rule

$$k = \left|\frac{\log_2 C}{\gamma} + \frac{b}{\gamma}\right|_{\text{odd}}$$

\begin{align*}
y &= \frac{1}{HW}\sum_{i,j} x_{ij} \\
z &= \mathrm{C1D}_k(y)
\end{align*}

Next: [the other one](other.ipynb). ![a dot](dot.png)
"""

FIGURE = """\
import matplotlib.pyplot as plt
plt.plot([1, 3, 2])
plt.title('Gates "open" & shut');"""

WIDGET = """\
import base64, ipywidgets
class Explorer(ipywidgets.VBox):
    def _repr_mimebundle_(self, **options):
        bundle = super()._repr_mimebundle_(**options)
        return bundle | {"image/png": base64.b64encode(open("dot.png", "rb").read()).decode()}
Explorer([ipywidgets.IntSlider(3)])"""

MOVING = """\
import ecaviz
explorer = ecaviz.ModuleExplorer([32, 64, 128])
explorer.state.channels = 64
explorer"""

PROGRESS = """\
from tqdm.auto import tqdm
for i in tqdm(range(3), desc="_".join(["a", "progress", "bar"])):
    pass
i"""

LATEX = """\
from IPython.display import Math
Math("\\\\hat{y} = W x")"""

DOT = bytes.fromhex(  # a PNG of 1 × 1 pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


def write(path, *cells):
    new = {"md": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    book = nbformat.v4.new_notebook(cells=[new[kind](source) for kind, source in cells])
    nbformat.write(book, path)
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A built report of two notebooks: its folder."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "dot.png").write_bytes(DOT)
    write(folder / "one.ipynb", ("md", TEXT), ("code", FIGURE), ("code", WIDGET), ("code", LATEX), ("code", PROGRESS))
    write(folder / "other.ipynb", ("md", "# Another"), ("code", "21 * 2"))
    write(folder / "third.ipynb", ("md", "# Explorer"), ("code", MOVING))
    index = build_report(folder, folder / "out", progress=False)
    assert index == folder / "out" / "index.html"
    return folder / "out"


@pytest.mark.notebook
def test_page_holds_pictures_and_formulas_and_loads_nothing(report):
    text = (report / "one.html").read_text("utf-8")
    assert len(re.findall(r'<img[^>]*src="data:image/png;base64,', text)) == 3  # markdown, figure, widget
    assert text.count("<math") == 5  # heading, inline, display, align*, an output of Math
    assert "$" not in re.sub(r"<(style|script).*?</\1>", "", text, flags=re.S)  # no formula left as it was typed
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=.(?!data:|#)", text)
    assert "require.min.js" not in text
    assert "mathjax" not in text.lower().replace("mathjax_", "")
    assert 'href="other.html"' in text
    assert "a_progress_bar" not in text


@pytest.mark.notebook
def test_index_links_every_page_by_its_title(report):
    text = (report / "index.html").read_text("utf-8")
    assert re.findall(r'href="(.*?)"', text) == ["one.html", "other.html", "third.html"]
    assert "Another" in text
    assert "The gate <math" in text
    assert "failed" not in text.split("</style>")[1]


@pytest.mark.notebook
def test_pages_link_their_neighbours_and_pictures_have_words(report):
    links = {
        page: re.findall(r'href="([^"]+)"', re.search("<nav>.*?</nav>", (report / page).read_text("utf-8"), re.S)[0])
        for page in ("one.html", "other.html", "third.html")
    }
    assert links == {
        "one.html": ["index.html", "other.html"],
        "other.html": ["index.html", "one.html", "third.html"],
        "third.html": ["index.html", "other.html"],
    }
    images = bs4.BeautifulSoup((report / "one.html").read_text("utf-8"), "html.parser").find_all("img")
    dot, figure, widget = (image["alt"] for image in images)
    assert (dot, figure) == ("a dot", 'Plot: Gates "open" & shut')
    assert widget.startswith("Explorer(")


@pytest.fixture
def offline(browser):
    """Opens a page of the report with the network blocked; what went wrong is an error at the end."""
    requests, failures, contexts = [], [], []

    def opened(path, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_offline(True)
        context.route(re.compile(r"^(https?|wss?):"), lambda route: (requests.append(route.request.url), route.abort()))
        page = context.new_page()
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("console", lambda message: failures.append(message.text) if message.type == "error" else None)
        page.goto(path.as_uri(), wait_until="networkidle")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert requests == []
    assert failures == []


@pytest.mark.browser
@pytest.mark.notebook
def test_everything_shows_in_a_browser_with_the_network_blocked(report, offline):
    page = offline(report / "one.html")
    widths = page.eval_on_selector_all("img", "images => images.map(image => image.complete && image.naturalWidth)")
    sizes = page.eval_on_selector_all(
        "math", "all => all.map(math => [math.getBoundingClientRect().width, math.getBoundingClientRect().height])"
    )
    assert len(widths) == 3
    assert all(width > 0 for width in widths)
    assert len(sizes) == 5
    assert all(width > 5 and height > 5 for width, height in sizes)
    # Drawn as formulas, not as a row of letters: the fraction makes the display formula taller than the inline one.
    assert sizes[2][1] > 1.5 * sizes[1][1]
    page.get_by_text("all notebooks").click()
    page.get_by_role("link", name="other").click()
    assert "42" in page.inner_text("main")


@pytest.mark.browser
@pytest.mark.notebook
def test_the_keyboard_moves_an_explorer_through_its_frames(report, offline):
    page = offline(report / "third.html")
    images, slider = page.locator(".frames img"), page.get_by_label("channels C")
    assert images.evaluate_all("all => all.every(image => image.complete && image.naturalWidth > 500)")
    assert images.count() == 3
    height = page.evaluate("() => document.body.scrollHeight")

    def shown():
        """Value in words for the ear and for the eye, alternative text, and the picture itself."""
        (image,) = [images.nth(i) for i in range(3) if images.nth(i).is_visible()]
        assert page.evaluate("() => document.body.scrollHeight") == height
        said = re.match(r"One module at C = (\d+)", image.get_attribute("alt"))[1]
        return slider.get_attribute("aria-valuetext"), page.inner_text(".frames span"), said, image.get_attribute("src")

    slider.focus()
    seen = [shown()]
    for key in ("ArrowRight", "ArrowRight", "Home"):
        page.keyboard.press(key)
        seen.append(shown())
    assert [row[:3] for row in seen] == [(c, c, c) for c in ("64", "128", "128", "32")]
    assert seen[1] == seen[2]
    assert len({picture for *_, picture in seen}) == 3


@pytest.mark.browser
@pytest.mark.notebook
def test_without_scripts_an_explorer_is_shown_as_it_stood(report, offline):
    page = offline(report / "third.html", java_script_enabled=False)
    images = page.locator(".frames img")
    assert [images.nth(i).is_visible() for i in range(3)] == [False, True, False]
    assert images.nth(1).get_attribute("alt").startswith("One module at C = 64,")
    assert not page.get_by_label("channels C").is_visible()


@pytest.mark.notebook
def test_failing_cell_is_named_and_the_rest_is_kept(tmp_path):
    write(tmp_path / "a.ipynb", ("md", "# A"), ("code", "print('reached')"), ("code", "gate = 1 / 0"), ("code", "2"))
    write(tmp_path / "b.ipynb", ("md", "# B"), ("code", "print('also run')"))
    with pytest.raises(ReportError, match=r"1 of 2 notebooks failed") as caught:
        build_report(tmp_path, tmp_path / "out", progress=False)
    assert "a.ipynb, cell 3 of 4: ZeroDivisionError: division by zero" in str(caught.value)
    assert "gate = 1 / 0" in str(caught.value)
    assert "reached" in (tmp_path / "out/a.html").read_text("utf-8")
    assert "also run" in (tmp_path / "out/b.html").read_text("utf-8")
    index = (tmp_path / "out/index.html").read_text("utf-8")
    assert "ZeroDivisionError" in index
    assert 'href="b.html"' in index


@pytest.mark.notebook
def test_cell_that_takes_too_long_and_dead_kernel_are_failures_in_words(tmp_path):
    slow = write(tmp_path / "slow.ipynb", ("code", "import time; time.sleep(60)"))
    dead = write(tmp_path / "dead.ipynb", ("code", "import os; os._exit(1)"))
    with pytest.raises(ReportError, match=r"slow.ipynb, cell 1 of 1: it took longer than 2 s"):
        build_report(slow, tmp_path / "out", timeout=2, progress=False)
    with pytest.raises(ReportError, match=r"dead.ipynb, cell 1 of 1: the kernel died"):
        build_report(dead, tmp_path / "out", timeout=60, progress=False)


SLEEPING = """\
import os, pathlib, time
pathlib.Path("kernel.part").write_text(str(os.getpid()))
pathlib.Path("kernel.part").rename("kernel")
time.sleep(600)"""


@pytest.mark.notebook
@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent as a signal")
def test_ctrl_c_keeps_the_pages_and_ends_the_kernel(tmp_path):
    write(tmp_path / "a.ipynb", ("md", "# A"), ("code", "1"))
    write(tmp_path / "b.ipynb", ("md", "# B"), ("code", SLEEPING))
    write(tmp_path / "c.ipynb", ("md", "# C"), ("code", "2"))
    command = [sys.executable, "-c", "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "]
    command[-1] += "runpy.run_module('ecaviz', run_name='__main__', alter_sys=True)"  # whoever started us may ignore it
    options = ["report", str(tmp_path), "--out", str(tmp_path / "out")]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "kernel").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert f"Interrupted. 1 of 3 pages are in {tmp_path / 'out'}: a.html. There is no new index.html" in said
    assert "Traceback" not in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.html"]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "kernel").read_text()), 0)


def test_memory_that_runs_out_keeps_the_pages_and_is_raised_with_a_note(tmp_path, monkeypatch):
    def short(path, *_):
        if path.stem == "b":
            raise MemoryError
        return "a page"

    monkeypatch.setattr(ecaviz.report, "run_notebook", lambda *_, **__: "")
    monkeypatch.setattr(ecaviz.report, "_to_html", short)
    for name in "abc":
        write(tmp_path / f"{name}.ipynb", ("md", "# One"))
    with pytest.raises(MemoryError) as raised:
        build_report(tmp_path, tmp_path / "out", progress=False)
    (note,) = raised.value.__notes__
    assert note.startswith(f"1 of 3 pages are in {tmp_path / 'out'}: a.html.")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.html"]


def test_memory_that_runs_out_over_a_notebook_is_not_told_as_a_broken_notebook(tmp_path, monkeypatch):
    def short(*_, **__):
        raise MemoryError

    monkeypatch.setattr("nbformat.read", short)
    write(tmp_path / "a.ipynb", ("md", "# One"))
    with pytest.raises(MemoryError):
        build_report(tmp_path, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.notebook
def test_figures_show_whatever_backend_the_shell_chose(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    write(tmp_path / "figure.ipynb", ("code", FIGURE))
    build_report([tmp_path / "figure.ipynb"], tmp_path / "out", progress=False)
    assert "data:image/png" in (tmp_path / "out/figure.html").read_text("utf-8")


def test_picture_outside_the_page_is_an_error(tmp_path):
    write(tmp_path / "far.ipynb", ("md", "![far](https://example.org/far.png)"))
    with pytest.raises(ReportError, match=r"<img> points to 'https://example.org/far.png', which is not in the page"):
        build_report(tmp_path, tmp_path / "out", progress=False)
    assert not (tmp_path / "out/far.html").exists()


def test_unreadable_notebook_is_named_and_the_rest_is_kept(tmp_path):
    (tmp_path / "broken.ipynb").write_text("{")
    write(tmp_path / "fine.ipynb", ("md", "# Fine"))
    with pytest.raises(ReportError, match=r"broken.ipynb: not a notebook that can be read"):
        build_report(tmp_path, tmp_path / "out", progress=False)
    assert (tmp_path / "out/fine.html").exists()


def test_a_kernel_that_cannot_be_started_is_named_and_the_rest_is_kept(tmp_path, monkeypatch):
    from jupyter_client.kernelspec import NoSuchKernel

    write(tmp_path / "a.ipynb", ("md", "# A"), ("code", "1"))
    write(tmp_path / "b.ipynb", ("md", "# B"))
    errors = iter([NoSuchKernel("python3"), OSError(28, "No space left on device")])

    def stop(*_):
        raise next(errors)

    monkeypatch.setattr(ecaviz.notebook_runs, "_execute", stop)
    with pytest.raises(ReportError, match=r"2 of 2 notebooks failed") as caught:
        build_report(tmp_path, tmp_path / "out", progress=False)
    assert "a.ipynb: its kernel cannot be run: No such kernel named python3" in str(caught.value)
    assert "b.ipynb: its kernel cannot be run: [Errno 28] No space left" in str(caught.value)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.html", "b.html", "index.html"}


def test_nothing_to_run_is_an_error_that_names_the_place(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no notebook to run: .* holds no file that ends in .ipynb"):
        build_report(tmp_path, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no such notebook or folder: .*missing.ipynb"):
        build_report([tmp_path / "missing.ipynb"], tmp_path / "out")


def test_two_notebooks_of_one_name_are_refused(tmp_path):
    (tmp_path / "sub").mkdir()
    paths = [write(tmp_path / "a.ipynb", ("code", "1")), write(tmp_path / "sub/a.ipynb", ("code", "2"))]
    with pytest.raises(ValueError, match="each notebook needs a name of its own"):
        build_report(paths, tmp_path / "out")


def test_formula_with_an_unknown_command_is_an_error():
    with pytest.raises(ValueError, match=r"\\unheard, which has no MathML"):
        formula(r"\unheard{x} + 1")
    assert formula(r"\omega_c").count("<msub>") == 1


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nbclient", None)
    with pytest.raises(ModuleNotFoundError, match=r"a report needs nbclient.*\.\[lab\]"):
        build_report(tmp_path, tmp_path / "out")


def test_importing_the_report_brings_in_no_jupyter():
    heavy = ("nbclient", "nbconvert", "nbformat", "bs4", "traitlets", "matplotlib")
    code = f"import sys, ecaviz.report; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
