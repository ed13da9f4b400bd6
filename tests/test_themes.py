"""Light and dark: colours that can be read and told apart, maps centred at zero, and figures that keep their theme."""

from __future__ import annotations

import itertools

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text

import ecaviz
from ecaviz import looks, plots, themes
from ecaviz.picture_panels import DifferenceHeatmap
from ecaviz.views import Picture

BOTH = [themes.LIGHT, themes.DARK]
OKABE_ITO = ("blue", "sky", "vermilion", "orange", "green", "purple")
PALE = {"sky": 2.2, "orange": 2.2, "silver": 2.8}
"""What three colours of the light theme reach on white, less than 3: they are drawn with markers edged in ink."""
SEEN_BY = {  # in linear RGB, after Machado et al. 2009
    "everyone": np.eye(3),
    "deuteranopes": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanopes": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}


# ------------------------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize("chosen", BOTH, ids=lambda one: one.name)
def test_colours_can_be_seen_on_their_paper(chosen):
    for name in ("ink", "note"):
        assert looks.contrast(getattr(chosen, name), chosen.paper) >= 4.5, name
    assert looks.contrast(chosen.muted, chosen.paper) >= 3
    with ecaviz.theme(chosen.name):
        families = ("none", "se", "se-var1", "se-gc", "eca", "eca-ns", "cbam", "gsop", "gc", "foreign", "ge-theta")
        named = [*looks.series_styles(), *map(looks.family_style, families), *looks.styles(["x", "x", "eca", "eca"])]
    hues = {colour: hue for hue, colour in chosen.hues.items()}
    for style in named:
        hue = hues[style.colour]
        least = 4.5 if chosen is themes.DARK else PALE.get(hue, 3)
        assert looks.contrast(style.colour, chosen.paper) >= least, hue


def test_contrast_is_that_of_wcag():
    assert looks.contrast("white", "black") == pytest.approx(21)
    assert looks.contrast("#777777", "white") == looks.contrast("white", "#777777") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("eyes", SEEN_BY)
@pytest.mark.parametrize("chosen", BOTH, ids=lambda one: one.name)
def test_hues_are_told_apart_by_all_eyes(chosen, eyes):
    lab = {hue: lightness_and_hue(np.array(SEEN_BY[eyes]) @ linear(chosen.hues[hue])) for hue in OKABE_ITO}
    for one, other in itertools.combinations(OKABE_ITO, 2):
        assert np.linalg.norm(lab[one] - lab[other]) > 15, (one, other)


def linear(colour) -> np.ndarray:
    values = np.array(to_rgb(colour))
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lightness_and_hue(rgb: np.ndarray) -> np.ndarray:
    """L*, a*, b* of linear RGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ rgb.clip(0, 1) / (0.9505, 1, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_series_are_told_apart_without_colour():
    for what in ("line", "marker"):
        assert len({str(getattr(style, what)) for style in looks.series_styles()}) == looks.MOST_SERIES


@pytest.mark.parametrize("chosen", BOTH, ids=lambda one: one.name)
def test_zero_is_nearest_to_the_paper(chosen):
    with ecaviz.theme(chosen.name):
        signed, sizes, shares = looks.signed_map(), looks.sizes_map(), looks.shares_map()
    assert to_rgb(signed(0.5)) == pytest.approx(to_rgb(chosen.paper), abs=0.04)
    for colours, ends in ((signed, (0.5, 1)), (signed, (0.5, 0)), (sizes, (0, 1)), (shares, (0, 1))):
        away = [looks.contrast(colours(x), chosen.paper) for x in np.linspace(*ends, 24)]
        assert (np.diff(away) > 0).all(), "lightness alone tells the size"
        assert away[0] < 1.2
        assert away[-1] > 8
    below, above = signed(0.1), signed(0.9)
    assert below[2] > below[0] + 0.2, "blue below zero"
    assert above[0] > above[2] + 0.2, "red above"


def test_numbers_on_cells_can_be_read():
    for chosen in BOTH:
        with ecaviz.theme(chosen.name):
            maps = looks.signed_map(), looks.sizes_map(), looks.shares_map()
        for colours in maps:
            for x in np.linspace(0, 1, 33):
                assert looks.contrast(looks.ink_on(colours(x)), colours(x)) >= 3.9


# --------------------------------------------------------------------------------------------------------------- themes


def test_themes_nest_and_end():
    keys = "figure.facecolor", "text.color", "xtick.color"
    before = {key: matplotlib.rcParams[key] for key in keys}
    assert themes.current() is themes.LIGHT
    with ecaviz.theme("dark") as dark:
        assert themes.current() is dark is themes.DARK
        assert matplotlib.rcParams["figure.facecolor"] == dark.paper
        eca = looks.family_style("eca").colour
        with ecaviz.theme("light"):
            assert themes.current() is themes.LIGHT
            assert {key: matplotlib.rcParams[key] for key in keys} == before
        assert themes.current() is dark
        assert eca == looks.family_style("eca").colour != themes.LIGHT.hues["blue"]
    with pytest.raises(RuntimeError, match="half way"), ecaviz.theme("dark"):
        raise RuntimeError("half way")
    assert themes.current() is themes.LIGHT
    assert {key: matplotlib.rcParams[key] for key in keys} == before
    assert looks.family_style("eca").colour == themes.LIGHT.hues["blue"]


def test_an_unknown_theme_is_refused():
    with pytest.raises(ValueError, match=r"theme: 'sepia' is not among light, dark\."), ecaviz.theme("sepia"):
        pass


def test_a_figure_keeps_its_theme():
    with ecaviz.theme("dark"):
        figure, (left, right) = plt.subplots(1, 2)
        plots.gate_distribution(np.arange(8) / 8, labels=["made up"], ax=left)
        plots.gate_heatmap({"a.se": np.arange(8) / 8, "b.se": np.arange(4) / 4}, marked="a.se", ax=right)
    assert_readable(figure, themes.DARK)
    plt.close(figure)


def assert_readable(figure, chosen):
    """Text, ticks and spines, of ticks made only now too; the patch of the figure is the paper."""
    pixels = drawn(figure)
    assert tuple(pixels[0, 0, :3]) == tuple(round(255 * part) for part in to_rgb(chosen.paper))
    for ax in figure.axes:
        for one in (ax, *ax.child_axes):
            texts = [*one.get_xticklabels(), *one.get_yticklabels(), one.xaxis.label, one.yaxis.label, one.title]
            legend = one.get_legend()
            texts += legend.get_texts() if legend else []
            for text in [text for text in texts if text.get_visible() and text.get_text()]:
                assert looks.contrast(text.get_color(), chosen.paper) > 4.5, text.get_text()
            for spine in one.spines.values():
                assert looks.contrast(spine.get_edgecolor()[:3], chosen.paper) > 4.5
            for tick in (*one.xaxis.get_major_ticks(), *one.yaxis.get_major_ticks()):
                assert looks.contrast(tick.tick1line.get_color(), chosen.paper) > 4.5


def drawn(figure) -> np.ndarray:
    agg = FigureCanvasAgg(figure)
    agg.draw()
    return np.asarray(agg.buffer_rgba())


# -------------------------------------------------------------------------------------------------------------- panels


@pytest.fixture(scope="module")
def explorers():
    names = ["shapes-se-r16", "shapes-eca-k3"]
    return {
        "layers": ecaviz.LayerExplorer(names, at_most=8),
        "modules": ecaviz.ModuleExplorer(),
        "kernel": ecaviz.KernelExplorer(names[1:], at_most=8),
        "theory": ecaviz.CoverageExplorer(),
        "coverage": ecaviz.CoverageExplorer(names, at_most=8),
        "rule": ecaviz.RuleExplorer(),
        "picture": ecaviz.PictureExplorer(names[1]),
    }


PANELS = ("layers", "modules", "kernel", "theory", "coverage", "rule", "picture")


def built(explorer, name: str, scene) -> Picture:
    """The panels, built and updated as an explorer does it."""
    with ecaviz.theme(name):
        figure = Picture(figsize=explorer._panels.size, dpi=50)
        panels = explorer._panels(figure)
    with ecaviz.theme(name):
        panels.update(scene)
    return figure


@pytest.mark.parametrize("name", PANELS)
def test_panels_in_both_themes(explorers, name):
    explorer = explorers[name]
    scene = explorer.state.scene()
    light, dark = (built(explorer, one.name, scene) for one in BOTH)
    assert_readable(light, themes.LIGHT)
    assert_readable(dark, themes.DARK)
    said = [[text.get_text() for text in figure.findobj(Text)] for figure in (light, dark)]
    if name != "rule":  # which says "dark" of cells that are bright here
        assert said[0] == said[1]


@pytest.mark.parametrize("name", PANELS)
def test_without_a_theme_all_is_light(explorers, name):
    explorer = explorers[name]
    scene = explorer.state.scene()
    figure = Picture(figsize=explorer._panels.size, dpi=50)
    explorer._panels(figure).update(scene)
    assert (drawn(figure) == drawn(built(explorer, "light", scene))).all()


@pytest.mark.parametrize("name", PANELS)
def test_what_is_behind_panels_is_seen(explorers, name):
    explorer = explorers[name]
    figure = built(explorer, "dark", explorer.state.scene())
    figure.patch.set_alpha(0)
    alpha = drawn(figure)[:, :, 3]
    assert (alpha == 255).any()
    for part in figure.subfigs:
        x, y = int(part.bbox.x0) + 1, alpha.shape[0] - int(part.bbox.y1) + 1
        assert alpha[y, x] == 0, "a panel has a face"
    for ax in figure.axes:
        for one in (ax, *ax.child_axes):
            assert one.get_facecolor()[3] == 0, f"{one} has a face"


# ------------------------------------------------------------------------------------------------------ centred at zero


def signed_images(figure) -> list:
    return [image for ax in figure.axes for image in (*ax.images, *ax.collections) if _signed(image)]


def _signed(image) -> bool:
    return getattr(image, "get_cmap", None) is not None and image.get_cmap().name == looks.signed_map().name


def _lopsided() -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(12, 12))
    return values + 5


def _kernels(figure):
    import pandas as pd

    offsets = [-1, 0, 1]
    table = pd.DataFrame({"site": "a", "channels": 8, "k": 3, "offset": offsets, "weight": [0.1, 0.9, 0.4]})
    plots.learned_kernels(table, ax=figure.subplots())


def _difference(figure):
    view = DifferenceHeatmap(figure.subplots(), "ω − mean")
    view.update({"a": np.array([0.1, 0.4])}, limits=(-0.5, 0.5))


def _block(name):
    def draw(figure):
        from ecaviz import attention

        torch.manual_seed(0)
        options = {"cbam": {"reduction": 4}, "se": {"reduction": 4}}.get(name, {})
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), attention.build(name, 8, **options)).eval()
        for parameter in net[1].parameters():
            parameter.data.add_(0.7)  # not about zero
        x = torch.randn(1, 3, 6, 6)
        with ecaviz.capture(net) as records:
            net(x)
        plots.attention_block(net[0](x).detach(), records["1.spatial" if name == "cbam" else "1"], figure=figure)

    return draw


SIGNED = {
    "kernels": _kernels,
    "interaction": lambda figure: plots.interaction(_lopsided(), ax=figure.subplots()),
    "poolings": lambda figure: plots.poolings(torch.rand(6, 4, 4), figure=figure),
    "differences": _difference,
    "weights of SE": _block("se"),
    "weights of SE-Var3": _block("se-var3"),
    "kernel of CBAM": _block("cbam"),
}


@pytest.mark.parametrize("name", SIGNED)
def test_signed_maps_are_centred_at_zero(name):
    for chosen in BOTH:
        with ecaviz.theme(chosen.name):
            figure = Picture(figsize=(10, 6))
            SIGNED[name](figure)
            shown = signed_images(figure)
        assert shown, "nothing signed is drawn"
        for image in shown:
            low, high = image.get_clim()
            assert low == -high < 0
