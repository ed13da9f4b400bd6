r"""Names that matplotlib would take for mathematics, such as ``$\frac$``, in every picture that names are in."""

from __future__ import annotations

import dataclasses
import html
from collections import OrderedDict

import pandas as pd
import pytest
import torch
from made_profiles import gates_of_classes, profile_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import nn

import ecaviz
from ecaviz import figure_titles, plots
from ecaviz.texts import DERIVATIVE, ENTRY, OWN_ENTRY

CLASSES = (r"$\frac$", "$a_{$", "x$y$z^")
MODEL, LAYER = r"net $\frac$ 2", r"$\frac$"
SITES = [f"{LAYER}.layer{stage}.0.se" for stage in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def profile():
    gates = {site: gates_of_classes((9, 7, 8), 4 << i, seed=i)[0] for i, site in enumerate(SITES)}
    _, labels = gates_of_classes((9, 7, 8), 4)
    return dataclasses.replace(profile_of(gates, labels, 3), model=MODEL, images="$x_{$", classes=CLASSES)


@pytest.fixture
def ax():
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def drawn(found) -> str:
    """All the words of a plot, drawn; of those with a dollar sign none may be taken for mathematics."""
    figure = found if isinstance(found, Figure) else found.get_figure(root=True)
    figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if "mathdefault" not in text.get_text()]  # but for numbers at ticks
    assert not any("$" in text.get_text() and text.get_parse_math() for text in texts)
    return "\n".join(text.get_text() for text in texts)


def test_every_plot_draws_names_as_they_are_written():
    assert [name for name in plots.__all__ if not hasattr(getattr(plots, name), "__wrapped__")] == []


OF_PROFILES = {
    "heat map": (lambda profile, ax: plots.gate_heatmap(profile, of=CLASSES[0], ax=ax), [CLASSES[0], MODEL, LAYER]),
    "distribution": (
        lambda profile, ax: plots.gate_distribution([profile] * 2, SITES[0], ax=ax),
        [MODEL, SITES[0]],
    ),
    "distributions": (
        lambda profile, ax: plots.gate_distributions_by_layer(profile, ax=ax),
        [MODEL, LAYER],
    ),
    "curves": (lambda profile, ax: plots.class_curves(profile, SITES[1], ax=ax), [*CLASSES, MODEL, SITES[1]]),
    "saturation": (lambda profile, ax: plots.saturation(profile, ax=ax), [MODEL, LAYER]),
    "SENet": (lambda profile, _: plots.senet_figure(profile, CLASSES), [*CLASSES, SITES[3]]),
    "ECA-Net": (lambda profile, _: plots.eca_figure(profile), [*CLASSES, MODEL, SITES[3], "$x_{$"]),
}


@pytest.mark.parametrize("what", OF_PROFILES)
def test_classes_layers_and_models_of_a_profile(profile, ax, what):
    draw, names = OF_PROFILES[what]
    found = draw(profile, ax)
    words = drawn(found)
    assert [name for name in names if name not in words] == []
    assert "\\$" not in words


def test_a_figure_in_words_has_the_names(profile):
    words = figure_titles.described(plots.senet_figure(profile))
    assert SITES[3] in words
    assert "\\$" not in words


def accuracies(names) -> pd.DataFrame:
    return pd.DataFrame({"name": ["eca", "se"], "title": names, "extra": [20, 30_000], "mean": [0.9, 0.8]})


def test_names_of_tables_and_of_images(ax):
    names = [r"$\frac$", "x$y$z^"]
    words = drawn(plots.accuracy_by_parameters(accuracies(names), ax=ax))
    assert words.count(names[0]) == words.count(names[1]) == 1
    words = drawn(plots.image_grid(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), names))
    assert words.count(names[0]) == words.count(names[1]) == 1


def test_a_drawing_that_measures_the_figure_takes_the_name_of_its_layer():
    torch.manual_seed(0)
    net = nn.Sequential(OrderedDict({LAYER: ecaviz.attention.build("se", 8, reduction=2)}))
    maps = torch.randn(2, 8, 6, 6)
    with torch.no_grad(), ecaviz.capture(net) as gates:
        net(maps)
    assert LAYER in drawn(plots.attention_block(maps, gates[LAYER]))


def test_numbers_and_what_the_caller_wrote_stay_mathematics(ax):
    ax.set_title(r"mine: $\omega$", loc="right")
    for _ in range(2):  # the second time numbers are at the ticks
        found = plots.accuracy_by_parameters(accuracies(["one", "x$y$z^"]), title=r"$\alpha_i$", ax=ax)
        found.figure.canvas.draw()
    set_ = {text.get_text() for text in found.findobj(Text) if "$" in text.get_text() and text.get_parse_math()}
    numbers = {text.get_text() for text in found.get_xticklabels()}
    assert {r"$\alpha_i$", r"mine: $\omega$", r"$\mathdefault{10^{2}}$"} <= set_
    assert set_ - numbers == {r"$\alpha_i$", r"mine: $\omega$"}


# ----------------------------------------------------------------------------------------------------------- explorers


class Images(torch.utils.data.Dataset):
    """uint8 images of four classes, the name of the first without a dollar sign."""

    classes = ("plain", *CLASSES)

    def __init__(self):
        self.x = torch.randint(256, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], i % 4


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    layers = OrderedDict({"stem": nn.Conv2d(3, 8, 3), LAYER: ecaviz.attention.build("eca", 8, kernel_size=3)})
    layers |= {"squeeze": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(8, 4)}
    net = nn.Sequential(layers).eval()
    return dataclasses.replace(
        ecaviz.load(net, transform=lambda image: image.float() / 255, classes=Images.classes, device="cpu"), name=MODEL
    )


EXPLORERS = {
    "layers": (lambda model: ecaviz.LayerExplorer([model], Images()), [*CLASSES, MODEL, LAYER]),
    "picture": (lambda model: ecaviz.PictureExplorer(model, images=Images()), [*CLASSES, LAYER]),
    "kernel": (lambda model: ecaviz.KernelExplorer(model, Images()), [*CLASSES, LAYER]),
    "coverage": (lambda model: ecaviz.CoverageExplorer([model], Images()), [MODEL, LAYER]),
}


@pytest.mark.usefixtures("no_loop")
@pytest.mark.parametrize("what", EXPLORERS)
def test_explorers(model, what, tmp_path):
    pytest.importorskip("ipywidgets", reason="the extra `lab` is not installed")
    make, names = EXPLORERS[what]
    explorer = make(model)
    figure = explorer.figure()
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(Text) if "$" in text.get_text()]
    formulas = {DERIVATIVE, f"trained {ENTRY}", f"its own {OWN_ENTRY}"} if what == "coverage" else set()
    assert {text.get_text() for text in texts if text.get_parse_math()} == formulas
    words = "\n".join(text.get_text() for text in texts)
    assert [name for name in names if name not in words] == []
    first = explorer.picture.value
    for trait in ("image", "channel"):  # new titles on the background that is kept
        if explorer.state.has_trait(trait):
            setattr(explorer.state, trait, 1)
    assert explorer.error.value == ""
    assert explorer.picture.value != first
    told = explorer.picture.alt + html.unescape(explorer.caption.value) + explorer.table().to_csv()
    assert "$" in told
    assert "\\$" not in words + told
    for kind in ("png", "svg"):
        assert explorer.save(tmp_path / f"a.{kind}").stat().st_size > 1000


def test_one_class_in_a_profile_that_keeps_histograms_by_class(model, ax):
    kept = ecaviz.profile(model, Images(), by="class", details="class", progress=False)
    words = drawn(plots.gate_distribution([kept] * 3, LAYER, of=CLASSES, ax=ax))
    assert [name for name in (*CLASSES, MODEL, LAYER) if name not in words] == []
    assert CLASSES[1] in drawn(plots.gate_distributions_by_layer(kept, of=CLASSES[1], ax=ax.figure.add_subplot()))
