"""The explorers in a real JupyterLab: every slider and dropdown is moved, and the picture must change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from explorer_page import Shown, boxes, pixels, shown_in

pytestmark = pytest.mark.browser

# (notebook, the cells that make it or None where it is one of notebooks/, the explorer in it)
EXPLORERS = [
    (
        "layer_explorer.ipynb",
        ["import ecaviz", 'ecaviz.LayerExplorer(["shapes-se-r4", "shapes-eca-k3", "shapes-eca-k5"], at_most=48)'],
        "LayerExplorer",
    ),
    (
        "kernel_explorer.ipynb",
        ["import ecaviz", 'ecaviz.KernelExplorer(["shapes-eca-k3", "shapes-eca-k5"], at_most=24)'],
        "KernelExplorer",
    ),
    ("coverage_explorer.ipynb", ["import ecaviz", "ecaviz.CoverageExplorer()"], "CoverageExplorer"),
    ("module_explorer.ipynb", ["import ecaviz", "ecaviz.ModuleExplorer()"], "ModuleExplorer"),
    ("rule_explorer.ipynb", ["import ecaviz", 'ecaviz.RuleExplorer(["shapes-eca-k5"])'], "RuleExplorer"),
    (
        "picture_explorer.ipynb",
        ["import ecaviz", 'ecaviz.PictureExplorer("shapes-se-r16", at_most=60)'],
        "PictureExplorer",
    ),
    ("01_weight_distributions.ipynb", None, "LayerExplorer"),
    ("02_kernel_size.ipynb", None, "KernelExplorer"),
    ("03_coverage.ipynb", None, "CoverageExplorer"),
    ("04_attention_survey.ipynb", None, "ModuleExplorer"),
    ("06_your_own_model.ipynb", None, "PictureExplorer"),
]


# The notebooks themselves are run in test_notebooks.py; here, in the browser too, only by `make test-long`.
CASES = [pytest.param(*case, id=case[0], marks=[pytest.mark.long] if case[1] is None else []) for case in EXPLORERS]


@pytest.mark.parametrize(("name", "cells", "explorer"), CASES)
def test_every_slider_and_dropdown_moves_the_picture(lab, name, cells, explorer):
    if cells is not None:
        lab.write(name, *cells)
    with lab.open(name) as notebook:
        notebook.run_all()
        shown = shown_in(notebook, explorer)
        screen = name.removesuffix(".ipynb")
        notebook.screenshot(f"{screen}-start")
        shown.move_each(lambda control: notebook.screenshot(f"{screen}-{control}"))
        assert shown.page.locator('[role="alert"]').count() == 0
        assert notebook.errors() == []
        assert notebook.complaints == []
        assert notebook.outside == []


def test_a_reduction_that_leaves_no_unit_is_said_in_words_and_the_words_go_away(lab):
    lab.write(
        "coverage_error.ipynb",
        "import ecaviz",
        "ecaviz.CoverageExplorer((), channels=(8, 16, 32), sizes=(1, 3), reductions=(4, 8, 16, 32))",
    )
    with lab.open("coverage_error.ipynb") as notebook:
        notebook.run_all()
        shown = shown_in(notebook)
        handle = shown.control("slider", "reduction r").locator(".noUi-handle")
        before = shown.still()
        handle.focus()
        handle.press("End")
        alert = shown.page.locator('[role="alert"]')
        alert.wait_for(timeout=20_000)
        assert "r = 32 leaves no hidden unit for C = 16 channels" in alert.inner_text()
        assert pixels(shown.picture) == before
        notebook.screenshot("coverage_explorer-error")
        handle.press("Home")
        alert.wait_for(state="detached", timeout=20_000)
        shown.changes(before, "a good move after the error")


def test_the_number_of_a_channel_can_be_typed(lab):
    lab.write("typed.ipynb", "import ecaviz", 'ecaviz.CoverageExplorer(["shapes-se-r16"])')
    with lab.open("typed.ipynb") as notebook:
        notebook.run_all()
        shown = shown_in(notebook)
        shown.prepare("channel i")
        before = pixels(shown.picture)
        readout = shown.control("slider", "channel i").locator(".widget-readout")
        for typed, taken in (("17", "17"), ("9999", "127"), ("3", "3")):  # the end of the slider where it is beyond
            readout.click()
            readout.press("ControlOrMeta+a")
            shown.page.keyboard.type(typed)
            readout.press("Enter")
            before = shown.changes(before, f"typing {typed}")
            assert readout.inner_text() == taken
            shown.page.wait_for_function(
                "([image, text]) => image.alt.includes(text)",
                arg=[shown.picture.element_handle(), f"partners, gate {taken} "],
                timeout=5_000,
            )
        notebook.screenshot("coverage_explorer-typed")
        assert shown.page.locator('[role="alert"]').count() == 0
        assert notebook.errors() == []


def test_images_and_classes_are_picked_by_their_thumbnails(lab):
    """By mouse and by keyboard; and a channel: picture and words follow, the picture as high as before."""
    lab.write(
        "thumbnails.ipynb", "import ecaviz", 'ecaviz.LayerExplorer(["shapes-se-r4", "shapes-eca-k3"], at_most=30)'
    )
    with lab.open("thumbnails.ipynb") as notebook:
        notebook.run_all()
        shown = shown_in(notebook)
        words = shown.box.locator(".ecaviz-words")
        box = shown.picture.bounding_box()

        def follows(before, what, expected):
            after = shown.changes(before, what)
            shown.box.get_by_text(expected).first.wait_for(timeout=10_000)
            grown = shown.picture.bounding_box()["height"] - box["height"]
            assert abs(grown) < 1, f"the picture grew by {grown} pixels"  # less is how a finer picture was rounded
            return after

        now = pixels(shown.picture)
        first = shown.box.get_by_title("class ring", exact=True)
        look = first.evaluate("e => [getComputedStyle(e).backgroundImage, e.offsetWidth, e.offsetHeight]")
        assert look[0].startswith('url("data:image/jpeg;base64,'), "the thumbnail has no picture"
        assert look[1:] == [78, 86]
        tops = shown.box.get_by_title("class ").evaluate_all("all => all.map(e => e.getBoundingClientRect().top)")
        assert (len(tops), len(set(tops))) == (12, 1), "the thumbnails of a page are one row"
        first.click()
        now = follows(now, "a click on a class", "ring — ")
        chosen = shown.box.locator(".ecaviz-chosen")
        shown.box.get_by_title("class ring (chosen)", exact=True).wait_for(timeout=10_000)
        assert chosen.count() == 1
        assert chosen.evaluate("e => getComputedStyle(e).boxShadow") != "none"
        notebook.screenshot("layer_explorer-classes")
        shown.box.get_by_role("button", name="images", exact=True).click()
        shown.box.get_by_text("page 1 of 3").wait_for(timeout=10_000)
        further = shown.box.get_by_title("next page of thumbnails")
        further.focus()
        further.press("Enter")
        shown.box.get_by_text("page 2 of 3").wait_for(timeout=10_000)
        shown.box.locator('[title^="image 23: "]').wait_for(timeout=10_000)
        for _ in range(4):
            shown.page.keyboard.press("Tab")  # from the button to the fourth thumbnail
        focused = shown.page.evaluate("() => document.activeElement.title")
        assert focused.startswith("image 15: ")
        shown.page.keyboard.press("Space")
        now = follows(now, "a thumbnail pressed by keyboard", "image 15 — ")
        shown.box.get_by_title(f"{focused} (chosen)", exact=True).wait_for(timeout=10_000)
        assert chosen.count() == 1
        assert shown.page.evaluate("() => document.activeElement.title") == f"{focused} (chosen)", "the focus stays"
        handle = shown.control("slider", "channel").locator(".noUi-handle")
        handle.focus()
        handle.press("ArrowRight")
        now = follows(now, "the channel", "channel 1 is opened most by")
        notebook.screenshot("layer_explorer-thumbnails")
        assert words.inner_text().count("closed most by") == 2
        assert shown.page.locator('[role="alert"]').count() == 0
        assert notebook.errors() == []
        assert notebook.complaints == []
        assert notebook.outside == []


def test_the_picture_has_words_for_those_who_do_not_see_it(lab):
    lab.write("words.ipynb", "import ecaviz", "ecaviz.CoverageExplorer()")
    with lab.open("words.ipynb") as notebook:
        notebook.run_all()
        shown = shown_in(notebook)
        assert "ECA, k = 3" in (shown.picture.get_attribute("alt") or "")
        saved = notebook.page.evaluate(
            """() => JSON.stringify(window.jupyterapp.shell.currentWidget.content.widgets[1].model.outputs.toJSON())"""
        )
        data = json.loads(saved)[-1]["data"]  # before it comes the progress
        assert data["image/png"].startswith("iVBOR")
        assert "application/vnd.jupyter.widget-view+json" in data


def test_the_browser_shows_what_the_kernel_means(lab):
    """There and back, so that frames come from the browser; then in dark, and as a file."""
    told = "import hashlib\nprint(hashlib.sha256(explorer.picture.value).hexdigest(), explorer.theme)"
    lab.write("frames.ipynb", "import ecaviz", "explorer = ecaviz.ModuleExplorer(); explorer", told)
    with lab.open("frames.ipynb") as notebook:
        notebook.run_all()
        shown, page = shown_in(notebook), notebook.page

        def meant() -> str:
            page.evaluate(
                """async () => {
                    window.jupyterapp.shell.currentWidget.content.activeCellIndex = 2;
                    await window.jupyterapp.commands.execute('notebook:run-cell');
                }"""
            )
            return page.evaluate(
                """() => window.jupyterapp.shell.currentWidget.content.widgets[2].model.outputs.toJSON()[0].text"""
            )

        def agree(theme: str) -> None:
            digest = "".join(part.rjust(2, "0") for part in shown.still().split())
            assert meant().split() == [digest, theme]

        handle = shown.control("slider", "channels C").locator(".noUi-handle")
        agree("light")
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft"):
            handle.press(key)
        agree("light")
        light = shown.still()
        page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
        shown.changes(light, "the dark theme")
        agree("dark")
        assert shown.picture.evaluate("e => getComputedStyle(e).backgroundColor") == "rgba(0, 0, 0, 0)"
        notebook.screenshot("module_explorer-dark")
        cells = "() => window.jupyterapp.shell.currentWidget.content.widgets.length"
        handle.focus()
        for key in ("b", "x", "a"):  # JupyterLab's keys for inserting and cutting cells
            page.keyboard.press(key)
        assert page.evaluate(cells) == 3
        for kind in ("PNG", "SVG", "CSV"):
            with page.expect_download() as download:
                shown.box.get_by_role("button", name=f"save {kind}").click()
            assert download.value.suggested_filename == f"module-explorer.{kind.lower()}"
            assert Path(download.value.path()).stat().st_size > 300
        assert notebook.complaints == []
        assert notebook.errors() == []


def test_two_views_of_one_explorer_and_a_page_that_is_opened_again(lab):
    """Both views follow a move and save one file; no picture flashes; after a reload the kernel has what they lack."""
    made = 'import ecaviz\nexplorer = ecaviz.CoverageExplorer("shapes-se-r16", at_most=12)'
    lab.write("views.ipynb", made, "display(explorer)\ndisplay(explorer)")
    with lab.open("views.ipynb", height=2400) as notebook:
        notebook.run_all()
        page, asked = notebook.page, []
        views = [Shown(page, boxes(page).nth(i)) for i in range(2)]

        def press(label: str, *keys: str, view: int = 0) -> str:
            """Move a slider of one view; the fingerprint that both views then have."""
            before = views[0].still()
            for key in keys:
                views[view].control("slider", label).locator(".noUi-handle").press(key)
                for one in views:
                    one.changes(before, f"{key} on {label!r}")
            after = views[0].still()
            assert views[1].still() == after
            return after

        first = press("kernel size k")
        wider = press("kernel size k", "ArrowRight", view=1)
        assert wider != first
        assert press("kernel size k", "ArrowLeft") == first

        page.evaluate(
            """() => {
                window.saved = [];
                document.addEventListener('click', ({target}) => {
                    if (target.matches('a[download]')) saved.push([target.download, target.parentElement.tagName]);
                });
            }"""
        )
        with page.expect_download() as download:
            views[0].box.get_by_role("button", name="save CSV").click()
        assert Path(download.value.path()).stat().st_size > 300
        page.wait_for_timeout(300)  # for the other view
        assert page.evaluate("() => saved") == [["coverage-explorer.csv", "BODY"]]
        assert page.locator("body > a[download]").count() == 0

        views[0].picture.evaluate(
            """image => {
                window.seen = [];
                new MutationObserver(() => seen.push(image.src)).observe(image, {attributeFilter: ['src']});
            }"""
        )
        press("channels C", "ArrowLeft")  # other than the site's
        by_hand = page.evaluate("() => seen.splice(0)")
        press("layer", "ArrowRight")
        press("channels C", "ArrowLeft")
        page.evaluate("() => seen.splice(0)")
        assert press("layer", "ArrowLeft") == first, "C is that of the site again"
        assert not set(by_hand) & set(page.evaluate("() => seen")), "a picture flashed that the kernel did not mean"
        notebook.screenshot("coverage_explorer-views")

        page.on("websocket", lambda socket: socket.on("framesent", lambda said: asked.append(said)))
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        page.reload()
        notebook.wait_idle(90)
        boxes(page).nth(1).wait_for(timeout=60_000)
        views = [Shown(page, boxes(page).nth(i)) for i in range(2)]
        assert press("kernel size k") == first
        assert press("kernel size k", "ArrowRight") == wider
        wants = [said for said in asked if b'"want"' in (said if isinstance(said, bytes) else said.encode())]
        assert wants, "the frames came without being asked for"
        press("reduction r", "ArrowRight")  # a picture that never was
        assert page.locator('[role="alert"]').count() == 0
        notebook.screenshot("coverage_explorer-reloaded")
        assert notebook.errors() == []
        assert notebook.complaints == []
        assert notebook.outside == []


def test_a_picture_is_uploaded_and_a_corrupt_one_leaves_it(lab, tmp_path):
    from ecaviz.image_files import to_pil
    from ecaviz.images import shapes

    image = to_pil(shapes("test", n=40)[33][0])
    image.save(tmp_path / "mine.png")
    (tmp_path / "corrupt.png").write_bytes((tmp_path / "mine.png").read_bytes()[:200])
    lab.write("upload.ipynb", "import ecaviz", 'ecaviz.PictureExplorer("shapes-se-r16", at_most=60)')
    with lab.open("upload.ipynb") as notebook:
        notebook.run_all()
        shown = shown_in(notebook)
        before = pixels(shown.picture)

        def upload(name):  # the input element is made for the button and is never in the page
            with shown.page.expect_file_chooser() as chooser:
                shown.box.get_by_role("button", name="a picture, up to 10 MB").click()
            chooser.value.set_files(tmp_path / name)

        upload("mine.png")
        shown.changes(before, "an upload")
        shown.box.get_by_text("mine.png").wait_for(timeout=10_000)
        after = shown.still()
        notebook.screenshot("picture_explorer-upload")
        upload("corrupt.png")
        alert = shown.page.locator('[role="alert"]')
        alert.wait_for(timeout=20_000)
        assert "corrupt.png cannot be read" in alert.inner_text()
        assert pixels(shown.picture) == after
        assert "mine.png" in shown.picture.get_attribute("alt")
        notebook.screenshot("picture_explorer-error")
        handle = shown.control("slider", "or image").locator(".noUi-handle")
        handle.focus()
        handle.press("ArrowRight")
        alert.wait_for(state="detached", timeout=20_000)
        shown.changes(after, "the slider after an upload")
        upload("mine.png")  # the same file once more
        shown.box.get_by_text("mine.png").wait_for(timeout=20_000)
        assert shown.still() == after
        assert notebook.complaints == []
        assert notebook.errors() == []
        assert notebook.outside == []


def test_the_tour_itself_runs_and_its_slider_moves(lab):
    """What a newcomer does: open the tour, run all cells, move the slider."""
    with lab.open("00_tour.ipynb") as notebook:
        notebook.run_all()
        shown = shown_in(notebook)
        shown.prepare("layer")
        before = pixels(shown.picture)
        handle = shown.control("slider", "layer").locator(".noUi-handle")
        handle.focus()
        handle.press("ArrowRight")
        shown.changes(before, "the slider of the tour")
        notebook.screenshot("tour")
        assert notebook.outside == []
