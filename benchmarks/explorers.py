"""From key press to picture in a real browser: every explorer beside `interact` with a fresh figure at each move.

    python benchmarks/explorers.py [--moves 24] [--only LayerExplorer] [--record]

One slider of each explorer is moved by keyboard, in JupyterLab in headless Chromium. A move is timed from the key press
to the first frame that shows another picture. The variants are in one notebook and take turns in blocks, so that they
meet the same machine:

- explorer: as it is used, each move to where nobody was before; at the ends of the slider another control is moved,
  untimed, so that the way back is new too. Between moves it may render frames ahead;
- again: the same moves backwards, so that every picture has been shown before;
- unprepared: an explorer that renders nothing ahead, each move to where nobody was before;
- interact: what most notebooks do, `ipywidgets.interact` and at each move a new inline figure, here with the same
  panels;
- matplotlib, seaborn (LayerExplorer): `interact` with a plain figure, the gates of all layers as a heat map beside a
  histogram of one layer.

The ratios are those of medians: explorer ÷ the row's variant, and again ÷ the row's variant. Results:
build/benchmarks/explorers.csv, with --record benchmarks/results/explorers.csv too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from _measure import machine
from _table import ROOT, Table

sys.path.insert(0, str(ROOT / "tests"))

SETUP = "import ecaviz, ipywidgets, torch\nimport matplotlib.pyplot as plt\nexplorer = {make}"
INTERACT = """{setup}
panels, state, control = explorer._panels, explorer.state, explorer.controls["{trait}"]
options = getattr(control, "options", None)
if options is None:
    options = [value for i in range(64) if (value := control.min + i * control.step) <= control.max]
@ipywidgets.interact(value=ipywidgets.SelectionSlider(options=options))
def show(value):
    state.unobserve_all()
    state.{trait} = value
    panels(plt.figure(figsize=panels.size, dpi=96)).update(state.scene())
    plt.show()
"""
GATES = """
import ecaviz, ipywidgets
import matplotlib.pyplot as plt
import numpy as np
gates = ecaviz.sample_gates(ecaviz.load("shapes-eca-k3"), ecaviz.images.shapes("test", n=240), progress=False).gates
names, grid = list(gates), np.linspace(0, 1, 512)
rows = np.stack([np.interp(grid, np.linspace(0, 1, one.shape[1]), one.mean(axis=0)) for one in gates.values()])
"""


def plain(*draws: str, needs: str = "") -> str:
    """A cell with `interact` and a plain figure: the gates of all layers beside a histogram of one layer.

    Args:
        draws: Lines that draw the first into `left` and the second into `right`.
        needs: A line before the function.
    """
    lines = "\n    ".join(draws)
    return f"""{GATES}{needs}
@ipywidgets.interact(layer=ipywidgets.SelectionSlider(options=names))
def show(layer):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), dpi=96, layout="constrained")
    {lines}
    left.set(xlabel="channel index / C", title=layer)
    right.set(xlabel="gate ω", title=layer)
    plt.show()
"""


PLAIN = {
    "matplotlib": plain(
        'figure.colorbar(left.imshow(rows, aspect="auto", vmin=0, vmax=1), label="gate ω")',
        "left.set(yticks=range(len(names)), yticklabels=names)",
        "right.hist(gates[layer].ravel(), bins=50, range=(0, 1))",
    ),
    "seaborn": plain(
        "marks = {'yticklabels': names, 'xticklabels': 64, 'cbar_kws': {'label': 'gate ω'}}",
        "seaborn.heatmap(rows, ax=left, vmin=0, vmax=1, **marks)",
        "seaborn.histplot(x=gates[layer].ravel(), bins=50, binrange=(0, 1), ax=right)",
        needs="import seaborn",
    ),
}
# C = 2048, of what is allowed and of the trained site; its weights are random, for there is no download here.
WIDE = (
    'ecaviz.CoverageExplorer(ecaviz.load("legacy_seresnet50", pretrained=False, device="cpu"), '
    "torch.rand(2, 3, 64, 64))\nexplorer.state.layer = 15"
)


BLOCK = 6
"""Moves of one variant before the next has its turn."""


@dataclass
class Case:
    """One explorer, the slider that is moved, and what is compared with it.

    Attributes:
        name: Of the explorer.
        make: Python that makes it.
        trait: Of its state, that the slider sets.
        label: Of the slider.
        other: The label of the control that is moved at the ends of the slider; None if it has values enough.
        plain: The cells of further variants, by name.
    """

    name: str
    make: str
    trait: str
    label: str
    other: str | None = None
    plain: dict[str, str] = field(default_factory=dict)


CASES = [
    Case("LayerExplorer", "ecaviz.LayerExplorer()", "layer", "layer", "channel", PLAIN),
    Case("KernelExplorer", "ecaviz.KernelExplorer()\nexplorer.state.mode = 'resize'", "k", "kernel size k", "image"),
    Case("CoverageExplorer", WIDE, "k", "kernel size k", "channel i"),
    Case("CoverageExplorer", WIDE, "channel", "channel i"),
    Case("ModuleExplorer", "ecaviz.ModuleExplorer()", "channels", "channels C", "right"),
    Case("RuleExplorer", "ecaviz.RuleExplorer()", "gamma", "γ", "b"),
    Case("PictureExplorer", 'ecaviz.PictureExplorer("shapes-eca-k3")', "image", "or image"),
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


# Resolves when the cell's pictures have been the same for 300 ms: a network that is run completes its picture later.
STILL = """async cell => {
    const root = window.jupyterapp.shell.currentWidget.content.widgets[cell].node;
    const whole = () => [...root.querySelectorAll('.jp-OutputArea img')].map(i => i.src).join();
    for (let before = null, now = whole(); now !== before; now = whole()) {
        before = now;
        await new Promise(resolve => setTimeout(resolve, 300));
    }
}"""
BACK = {"ArrowRight": "ArrowLeft", "ArrowLeft": "ArrowRight"}


class Walk:
    """The moves of one slider, to its end and back.

    Args:
        notebook: The open notebook (lab_browser.LabNotebook).
        cell: The number of the cell that shows the slider.
        label: Of the slider; None where there is one.
        other: The label of the control that is moved at the ends; None for none.
    """

    def __init__(self, notebook, cell: int, label: str | None = None, other: str | None = None):
        self.notebook, self.cell, self.page, self.other = notebook, cell, notebook.page, other
        self.output = self.page.locator(".jp-Notebook .jp-CodeCell").nth(cell)
        slider = self.output.locator(".widget-slider")
        if label is not None:
            slider = slider.filter(has=self.page.get_by_text(label, exact=True))
        self.handle = slider.locator(".noUi-handle")
        self.way = "ArrowRight"
        self.show()
        self.handle.focus()
        self.page.keyboard.press("Home")
        self._rest()

    def show(self) -> None:
        """Bring it onto the screen."""
        self.handle.scroll_into_view_if_needed()
        self.page.wait_for_timeout(500)

    def on(self, count: int) -> tuple[list[float], list[tuple[str, int]]]:
        """The next moves: their milliseconds, and their keys with the steps of the other control before them."""
        took, gone = [], []
        for _ in range(count):
            turn = 0
            now, first, last = (float(self.handle.get_attribute(f"aria-value{name}")) for name in ("now", "min", "max"))
            if (now >= last and self.way == "ArrowRight") or (now <= first and self.way == "ArrowLeft"):
                self.way, turn = BACK[self.way], 1
                self._turn(turn)
            took.append(self._press(self.way))
            gone.append((self.way, turn))
        return took, gone

    def again(self, gone: list[tuple[str, int]]) -> list[float]:
        """Take moves back, which shows what has been shown before: their milliseconds; and go there again, untimed."""
        took = []
        for way, turn in reversed(gone):
            took.append(self._press(BACK[way]))
            self._turn(-turn)
        for way, turn in gone:
            self._turn(turn)
            self._press(way)
        return took

    def _press(self, key: str) -> float:
        self.handle.focus()
        self.page.evaluate(WAIT, self.cell)
        self.page.keyboard.press(key)
        self.page.wait_for_function("() => window.took !== null", timeout=30_000)
        self._rest()
        return self.page.evaluate("() => window.took")

    def _turn(self, step: int) -> None:
        """Move the other control, untimed."""
        if self.other is None or step == 0:
            return
        text = self.page.get_by_text(self.other, exact=True)
        select = self.output.locator(".widget-dropdown").filter(has=text).locator("select")
        if select.count():
            select.select_option(index=select.evaluate("e => e.selectedIndex") - step)
        else:
            self.output.locator(".widget-slider").filter(has=text).locator(".noUi-handle").focus()
            self.page.keyboard.press("ArrowRight" if step > 0 else "ArrowLeft")
        self._rest()

    def _rest(self) -> None:
        self.notebook.wait_idle()
        self.page.evaluate(STILL, self.cell)
        self.notebook.wait_idle()


def measure(lab, case: Case, moves: int) -> dict[str, list[float]]:
    """Milliseconds of every move, by variant."""
    setup = SETUP.format(make=case.make)
    plain = {"interact": INTERACT.format(setup=setup, trait=case.trait), **case.plain}
    unprepared = f"{setup}\nexplorer.most_ahead = 0\nexplorer"
    book = lab.write(f"bench_{case.name}_{case.trait}.ipynb", setup, "explorer", unprepared, *plain.values())
    took: dict[str, list[float]] = {variant: [] for variant in ("explorer", "again", "unprepared", *plain)}
    with lab.open(book) as notebook:
        notebook.run_all(300)
        notebook.page.wait_for_timeout(2000)
        explorers = {"explorer": 1, "unprepared": 2}
        walks = {variant: Walk(notebook, cell, case.label, case.other) for variant, cell in explorers.items()}
        walks |= {variant: Walk(notebook, 3 + i) for i, variant in enumerate(plain)}
        for walk in walks.values():
            walk.show()
            walk.on(2)  # the first moves draw what is drawn once
        while (left := moves - len(took["explorer"])) > 0:
            for variant, walk in walks.items():
                walk.show()
                new, gone = walk.on(min(left, BLOCK))
                took[variant] += new
                if variant == "explorer":
                    took["again"] += walk.again(gone)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--moves", type=int, default=24, help="moves of each slider (default: %(default)s)")
    parser.add_argument("--only", nargs="+", help="names of explorers (default: all)")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/explorers.csv too")
    given = parser.parse_args()

    from lab_browser import CHROMIUM_ARGS, Lab, find_chromium
    from playwright.sync_api import sync_playwright

    table = Table(
        "explorers",
        explorer="{:<16}",
        slider="{:<13}",
        variant="{:<10}",
        moves="{:>5}",
        median_ms="{:>9.0f}",
        p90_ms="{:>6.0f}",
        explorer_ratio="{:>14.3f}",
        again_ratio="{:>11.3f}",
    )
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_ARGS)
        lab = Lab(Path(folder), browser)
        try:
            for case in CASES:
                if given.only and case.name not in given.only:
                    continue
                took = measure(lab, case, given.moves)
                medians = {variant: statistics.median(values) for variant, values in took.items()}
                for variant, values in took.items():
                    table.add(
                        **machine(torch.device("cpu")),
                        browser=browser.version,
                        explorer=case.name,
                        slider=case.label,
                        variant=variant,
                        moves=len(values),
                        median_ms=round(medians[variant], 1),
                        p90_ms=round(statistics.quantiles(values, n=10, method="inclusive")[-1], 1),
                        explorer_ratio=round(medians["explorer"] / medians[variant], 3),
                        again_ratio=round(medians["again"] / medians[variant], 3),
                    )
        finally:
            lab.close()
            browser.close()
    table.write()
    if given.record:
        table.record()


if __name__ == "__main__":
    main()
