"""From key press to picture in a real browser: the explorers beside `interact` with a fresh figure of the same content.

    python benchmarks/slider.py [--moves 16] [--only CoverageExplorer]

For each explorer one slider is moved by keyboard in JupyterLab in headless Chromium. A move is timed from the key press
to the first frame that shows another picture. The alternative is what most notebooks do: `ipywidgets.interact`, and at
each move a new inline figure, here with the same panels, so that the same thing is seen. Both are in one notebook, and
their moves take turns in blocks, so that they meet the same machine. Results: build/benchmarks/slider.csv.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from _table import ROOT, Table

sys.path.insert(0, str(ROOT / "tests"))

SETUP = """
import ecaviz, ipywidgets, torch
import matplotlib.pyplot as plt
explorer = {make}
panels, state = explorer._panels, explorer.state
"""
FRESH = """
control = explorer.controls["{trait}"]
@ipywidgets.interact(value=ipywidgets.SelectionSlider(options=getattr(control, "options", range(2048)),
                                                      value=control.value))
def show(value):
    state.unobserve_all()
    state.{trait} = value
    panels(plt.figure(figsize=panels.size, dpi=96)).update(state.scene())
    plt.show()
"""
# C = 2048, of what is allowed and of the trained site; its weights are random, for there is no download here.
COVERAGE = (
    'ecaviz.CoverageExplorer(ecaviz.load("legacy_seresnet50", pretrained=False, device="cpu"), '
    "torch.rand(2, 3, 64, 64))\nexplorer.state.layer = 15"
)
SLIDERS = [
    ("LayerExplorer", 'ecaviz.LayerExplorer(["shapes-se-r16", "shapes-eca-k3"])', "layer", "layer"),
    ("KernelExplorer", "ecaviz.KernelExplorer()", "k", "kernel size k"),
    ("CoverageExplorer", COVERAGE, "k", "kernel size k"),
    ("CoverageExplorer", COVERAGE, "channel", "channel i"),
    ("ModuleExplorer", "ecaviz.ModuleExplorer()", "channels", "channels C"),
]
# Resolves to the milliseconds from the next key press to the first frame with other pictures in the cell.
WAIT = """cell => {
    const root = window.jupyterapp.shell.currentWidget.content.widgets[cell].node;
    const pictures = () => [...root.querySelectorAll('.jp-OutputArea img')];
    const signature = () => pictures().map(i => i.src.length + i.src.slice(0, 80) + i.src.slice(2000, 2600)).join();
    const whole = () => pictures().map(i => i.src).join();
    const before = whole(), quick = signature();
    window.took = null;
    let pressed = null;
    document.addEventListener('keydown', event => { pressed = event.timeStamp; }, {once: true, capture: true});
    const look = () => {
        const shown = pictures();
        const ready = shown.length && shown.every(image => image.complete && image.naturalWidth);
        if (pressed !== null && ready && (signature() !== quick || whole() !== before))
            requestAnimationFrame(() => { window.took = performance.now() - pressed; });
        else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
}"""


def press(notebook, cell: int, handle) -> float:
    """One move; its milliseconds."""
    now, last = (float(handle.get_attribute(f"aria-value{name}")) for name in ("now", "max"))
    way = getattr(press, "way", {}).setdefault(cell, "ArrowRight")
    if now >= last:
        way = "ArrowLeft"
    elif now <= 0:
        way = "ArrowRight"
    press.way[cell] = way
    handle.focus()
    notebook.page.evaluate(WAIT, cell)
    notebook.page.keyboard.press(way)
    notebook.page.wait_for_function("() => window.took !== null", timeout=30_000)
    notebook.wait_idle()
    notebook.page.wait_for_timeout(250)
    return notebook.page.evaluate("() => window.took")


press.way = {}


def measure(lab, name: str, make: str, trait: str, label: str, moves: int) -> dict[str, list[float]]:
    """Milliseconds of every move, by variant."""
    book = f"bench_{name}_{trait}.ipynb"
    lab.write(book, SETUP.format(make=make), "explorer", SETUP.format(make=make) + FRESH.format(trait=trait))
    took: dict[str, list[float]] = {"explorer": [], "interact": []}
    press.way.clear()
    with lab.open(book) as notebook:
        notebook.run_all(300)
        notebook.page.wait_for_timeout(2000)
        cells = {"explorer": 1, "interact": 2}
        sliders = {}
        for variant, cell in cells.items():
            output = notebook.page.locator(".jp-Notebook .jp-CodeCell").nth(cell)
            slider = output.locator(".widget-slider")
            if variant == "explorer":
                slider = slider.filter(has=notebook.page.get_by_text(label, exact=True))
            sliders[variant] = slider.locator(".noUi-handle")
            sliders[variant].scroll_into_view_if_needed()
            for _ in range(2):  # the first moves draw what is drawn once
                press(notebook, cell, sliders[variant])
        block = max(1, moves // 4)
        while len(took["interact"]) < moves:
            for variant, cell in cells.items():
                sliders[variant].scroll_into_view_if_needed()
                notebook.page.wait_for_timeout(500)
                took[variant] += [press(notebook, cell, sliders[variant]) for _ in range(block)]
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--moves", type=int, default=16, help="moves of each slider (default: %(default)s)")
    parser.add_argument("--only", nargs="+", help="names of explorers (default: all)")
    moves, only = (given := parser.parse_args()).moves, given.only

    from lab_browser import CHROMIUM_ARGS, Lab, find_chromium
    from playwright.sync_api import sync_playwright

    table = Table(
        "slider",
        explorer="{:<16}",
        slider="{:<13}",
        variant="{:<8}",
        moves="{:>5}",
        median_ms="{:>9.0f}",
        p90_ms="{:>6.0f}",
        ratio_to_interact="{:>17.2f}",
    )
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_ARGS)
        lab = Lab(Path(folder), browser)
        try:
            for name, make, trait, label in SLIDERS:
                if only and name not in only:
                    continue
                took = measure(lab, name, make, trait, label, moves)
                medians = {variant: statistics.median(values) for variant, values in took.items()}
                for variant, values in took.items():
                    table.add(
                        explorer=name,
                        slider=label,
                        variant=variant,
                        moves=len(values),
                        median_ms=round(medians[variant], 1),
                        p90_ms=round(statistics.quantiles(values, n=10)[-1], 1),
                        ratio_to_interact=round(medians[variant] / medians["interact"], 2),
                    )
        finally:
            lab.close()
            browser.close()
    table.write()


if __name__ == "__main__":
    main()
