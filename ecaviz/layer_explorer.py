"""The explorer of layers: how two models weigh their channels, and which images open and close a channel most."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from .explorer_base import Explorer, dropdown, number, numbered, slider
from .panels import LayerPanels
from .readings import load_all, read_all
from .states import LayerState
from .thumbnails import Thumbnails

__all__ = ["LayerExplorer"]


GATES = "SE: ω = σ(W₂ δ(W₁ y)), ECA: ω = σ(conv1d_k(y)), y the mean of each channel"
"""What the gates are, for tooltips."""


class LayerExplorer(Explorer):
    """Two models side by side: how they weigh their channels, by layer, for all images, a class or one image.

    A class or an image can be picked by its thumbnail, and a channel by its number: the images that open and close it
    most are shown for both models.

    Args:
        models: Names, or what :func:`ecaviz.load` returns; the first is shown on the left, the last on the right.
        images: Anything that ``images`` may be; None for the procedural set (bundled models) or the photographs inside
            scikit-image.
        at_most: How many images to keep.

    Attributes:
        thumbnails: The page of thumbnails, with its buttons.

    Raises:
        ValueError: Unknown model, a model without gates, or images that cannot be used.
    """

    ahead = "layer"
    leading = frozenset({"left", "right"})
    height = "10.6em"
    undrawn = frozenset({"page", "thumbnails"})

    def __init__(self, models: Any = ("shapes-se-r16", "shapes-eca-k3"), images: Any = None, *, at_most: int = 240):
        readings, image_set = read_all(load_all(models), images, at_most=at_most)
        state = LayerState(readings, image_set)
        names = list(state.readings)
        shown = [("mean of all images", "all"), ("mean of one class", "class"), ("one image", "image")]
        shown = [option for option in shown if option[1] != "class" or image_set.present]
        models = {
            "left": dropdown("left", names, state.left, f"model on the left; {GATES}"),
            "right": dropdown("right", names, state.right, f"model on the right; {GATES}"),
        }
        place = {
            "layer": slider("layer", numbered(state.names), state.layer, "layer whose C gates ω are looked at"),
            "channel": number(
                "channel", state.channels - 1, "channel whose images are shown; its number can be typed", "300px"
            ),
        }
        of = {
            "shown": dropdown("show", shown, state.shown, "images whose gates are shown"),
            "of": dropdown("class", image_set.present or ("",), state.of, "class that is shown"),
            "image": number("image", len(image_set) - 1, "image that is shown", "300px"),
        }
        scale = {
            "scale": dropdown(
                "scale of ω",
                [("fitted to 99 %", "fitted"), ("0 … 1", "full")],
                state.scale,
                "ends of the scale of gates; what lies beyond is drawn at the ends",
            ),
            "sort": widgets.Checkbox(
                description="sort channels",
                tooltip="each row of the heat map from its smallest gate to its largest",
                indent=False,
                layout=widgets.Layout(width="130px"),
            ),
        }
        controls = {"models": models, "place": place, "images": of, "drawing": scale}
        self.thumbnails = Thumbnails(state, state.kinds, self._guarded)
        super().__init__(state, LayerPanels, controls, self.thumbnails)

    def sync(self) -> None:
        """Make the controls and the thumbnails say what the state says."""
        self.controls["of"].disabled = self.state.shown != "class"
        self.controls["image"].disabled = self.state.shown != "image"
        self.controls["channel"].max = self.state.channels - 1
        super().sync()
        self.thumbnails.sync()
