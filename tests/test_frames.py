"""Frames rendered ahead: the pictures that the explorer itself would show, and nothing of it moves."""

import base64

import pytest
from matplotlib.figure import Figure

import ecaviz
from ecaviz import frames
from ecaviz.figure_titles import described
from ecaviz.frames import Frames, rendered_ahead

pytest.importorskip("ipywidgets", reason="the extra `lab` is not installed")

EXPLORERS = {
    "layer": lambda: ecaviz.LayerExplorer(["shapes-se-r16", "shapes-eca-k3"], ecaviz.images.shapes("test", n=8)),
    "kernel": lambda: ecaviz.KernelExplorer(["shapes-eca-k3"], ecaviz.images.shapes("test", n=4), sizes=[1, 3, 9]),
    "coverage": lambda: ecaviz.CoverageExplorer(["shapes-se-r16"], ecaviz.images.shapes("test", n=4)),
    "theory": lambda: ecaviz.CoverageExplorer((), sizes=[1, 3, 5]),
    "module": lambda: ecaviz.ModuleExplorer([32, 64]),
    "rule": lambda: ecaviz.RuleExplorer(bundled=False),
    "picture": lambda: ecaviz.PictureExplorer("shapes-se-r16", None, ecaviz.images.shapes("test", n=24)),
}


def on_paper(explorer) -> bytes:
    """The explorer's picture as notebooks without a kernel show it."""
    return base64.b64decode(explorer._repr_mimebundle_()["image/png"])


@pytest.mark.parametrize("name", EXPLORERS)
def test_frames_are_what_the_explorer_shows_at_each_value_and_nothing_of_it_moves(name):
    explorer = EXPLORERS[name]()
    state, control = explorer.state, explorer.controls[explorer.ahead]
    before = dict(state.trait_values()), explorer.picture.value, explorer.caption.value
    at = {key: one.value for key, one in explorer.controls.items()}
    moved = []
    explorer.picture.observe(moved.append)
    state.observe(moved.append)
    for one in explorer.controls.values():
        one.observe(moved.append)

    found = rendered_ahead(explorer, most=4)

    assert moved == []
    assert before == (dict(state.trait_values()), explorer.picture.value, explorer.caption.value)
    assert at == {key: one.value for key, one in explorer.controls.items()}
    assert found.control == control.description
    assert len(found.values) == len(found.pictures) == len(found.words) <= 4
    assert len(set(found.pictures)) == len(found.pictures)
    assert found.pictures[found.now] == on_paper(explorer)
    explorer.picture.unobserve_all()
    last = len(found.values) - 1 if found.now != len(found.values) - 1 else 0
    if hasattr(control, "index"):
        control.index = 0 if last == 0 else len(control.options) - 1
    else:
        control.value = control.min if last == 0 else control.max
    assert found.pictures[last] == on_paper(explorer)
    assert found.words[last] == explorer.picture.alt
    explorer.close()


def test_values_in_words_evenly_spaced_with_the_present_one():
    explorer = ecaviz.RuleExplorer(gamma=2.1, bundled=False)
    found = rendered_ahead(explorer, most=3)
    assert found.values == ("0.5", "2.1", "4")
    assert found.now == 1
    assert len(rendered_ahead(explorer).values) == 16  # 0.5 to 4 in steps of 0.25, and 2.1
    assert len(rendered_ahead(ecaviz.ModuleExplorer([32, 64])).values) == 2


def test_an_error_leaves_everything_as_it_was(monkeypatch):
    explorer = ecaviz.ModuleExplorer([32, 64, 128])
    before, picture = dict(explorer.state.trait_values()), explorer.picture.value
    scene = type(explorer.state).scene

    def fails(state):
        if state.channels == 64:
            raise RuntimeError("no picture of this")
        return scene(state)

    with monkeypatch.context() as patch:
        patch.setattr(type(explorer.state), "scene", fails)
        with pytest.raises(RuntimeError, match="no picture of this"):
            rendered_ahead(explorer)
    assert dict(explorer.state.trait_values()) == before
    assert explorer.picture.value == picture
    explorer.state.channels = 128  # it still draws
    assert on_paper(explorer) == rendered_ahead(explorer).pictures[2]
    explorer.ahead = "gamma"
    with pytest.raises(ValueError, match=r"ahead is 'gamma'; the name of a control was expected, one of left"):
        rendered_ahead(explorer)


def test_what_has_no_picture_is_left_out():
    explorer = ecaviz.CoverageExplorer((), channels=[32], reductions=[4, 64, 8, 16])
    explorer.ahead = "r"
    found = rendered_ahead(explorer)
    assert (found.values, found.now) == (("4", "8", "16"), 2)
    explorer.state.r = 64
    assert "64" in explorer.error.value
    with pytest.raises(ValueError, match="64"):
        rendered_ahead(explorer)


def test_frames_travel_only_where_they_are_asked_for(monkeypatch):
    explorer = ecaviz.ModuleExplorer([32, 64])
    monkeypatch.delenv(frames.ASKED, raising=False)
    assert frames.MIME_TYPE not in explorer._repr_mimebundle_()
    monkeypatch.setenv(frames.ASKED, "1")
    sent = explorer._repr_mimebundle_()
    given = sent[frames.MIME_TYPE]
    assert base64.b64decode(given["pictures"][given["now"]]) == base64.b64decode(sent["image/png"])
    assert Frames(**given | {"pictures": [base64.b64decode(one) for one in given["pictures"]]}).to_json() == given
    explorer.controls["channels"].disabled = True
    assert frames.MIME_TYPE not in explorer._repr_mimebundle_()
    assert frames.MIME_TYPE not in ecaviz.ModuleExplorer([32])._repr_mimebundle_()


def test_a_figure_is_described_by_its_titles():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert described(figure).startswith("<Figure")
    left.set(xlabel="channel", ylabel="gate")
    assert described(figure) == "Plot: gate by channel"
    left.set_title("one\nlayer", loc="left")
    right.set_title("gates")
    figure.suptitle("all")
    assert described(figure) == "Plot: all; one layer; gates"
    figure = Figure()
    for i, ax in enumerate(figure.subplots(3, 4).flat):
        ax.set_title(f"image {i}")
    assert described(figure).endswith("image 7; 4 more")
