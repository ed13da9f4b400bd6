"""Explorers: move a slider and the picture follows.

    ecaviz.LayerExplorer(["shapes-se-r16", "shapes-eca-k3"])    # as the last expression of a cell
    explorer.figure()                                           # the same picture, without a kernel to move it

An explorer is a state of traits (:mod:`ecaviz.states`; ``explorer.state``), controls that set the traits, and a picture
that is drawn of them by the views of :mod:`ecaviz.panels`. All that a move needs was read when the explorer was made:
no move waits for a network. (That of a :class:`KernelExplorer` is run after the picture is there, and completes it.)
"""

from __future__ import annotations

import asyncio
import base64
import html
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ipywidgets as widgets
import traitlets

from . import bundle, checks, kernels
from .canvas import DPI, Canvas
from .coverage_panels import CoveragePanels, TheoryPanels
from .coverage_state import CoverageState, read_trained
from .kernel_panels import KernelPanels
from .kernel_state import KernelState
from .models import load
from .module_state import ModuleState
from .panels import LayerPanels, ModulePanels
from .readings import load_all, read_all
from .rule_panels import RulePanels
from .rule_state import RANGES, RuleState
from .states import LayerState
from .surgery import MODES
from .survey import MODULES
from .views import Picture

__all__ = ["CoverageExplorer", "Explorer", "KernelExplorer", "LayerExplorer", "ModuleExplorer", "RuleExplorer"]


class _Image(widgets.Image):
    """An image with words: ipywidgets shows no image that has a tooltip but, as its images do, no description."""

    description = traitlets.Unicode("").tag(sync=True)


class Explorer(widgets.VBox):
    """Controls, a line for errors, the picture, and a line that says in words what is seen.

    Attributes:
        state: The traits; set them and the picture follows.
        controls: The control of each trait, by its name.
        picture: The picture, PNG.
        error: The line for errors: empty while all is well.
        caption: What is seen, in words.
    """

    def __init__(self, state: traitlets.HasTraits, panels: type, controls: dict[str, widgets.Widget], **options: Any):
        self.state, self.controls, self._panels = state, controls, panels
        self._canvas = Canvas(panels)
        self._syncing = False
        self._drawn = state.trait_values()
        self.picture = _Image(format="png", layout=widgets.Layout(max_width="100%", align_self="flex-start"))
        self.error, self.caption = widgets.HTML(), widgets.HTML()
        rows = widgets.Box(list(controls.values()), layout=widgets.Layout(flex_flow="row wrap", align_items="center"))
        super().__init__([rows, self.error, self.picture, self.caption], **options)
        self._draw()
        for name, control in controls.items():
            control.observe(partial(self._moved, name), "value")
        state.observe(self._changed)

    def figure(self) -> Picture:
        """The same picture as a matplotlib figure of its own, for notebooks without a kernel and for saving."""
        figure = Picture(figsize=self._panels.size, dpi=DPI)
        self._panels(figure).update(self.state.scene())
        return figure

    def _moved(self, name: str, change: Any) -> None:
        if not self._syncing:
            self._guarded(setattr, self.state, name, change["new"])

    def _changed(self, _change: Any) -> None:
        """Draw once for a trait and those that follow it: when the first of them tells, all are set."""
        values = self.state.trait_values()
        if values != self._drawn:
            self._drawn = values
            self._guarded(self._draw)

    def _draw(self) -> None:
        self._syncing = True
        try:
            self.sync()
        finally:
            self._syncing = False
        scene = self._scene()
        png, text = self._canvas.png(scene), self.state.describe(scene)
        with self.hold_sync():
            self.picture.value = png
            self.picture.tooltip = _plain(text)
            self.caption.value = text
        self.error.value = ""

    def _scene(self) -> Any:
        """What is to be drawn now."""
        return self.state.scene()

    def _guarded(self, action: Callable, *arguments: Any) -> None:
        """The one place where the errors of moves end up: in the widget, in words, until the next good move."""
        try:
            action(*arguments)
        except Exception as error:
            text = html.escape(str(error) or type(error).__name__)
            self.error.value = f'<p role="alert" style="color: #B00020; margin: 0.2em 0">{text}</p>'

    def sync(self) -> None:
        """Make the controls say what the state says."""
        layer = self.controls.get("layer")
        if layer is not None and layer.options != (options := _numbered(self.state.names)):
            with layer.hold_sync():
                layer.options = options
                layer.value = self.state.layer
        for name, control in self.controls.items():
            value = getattr(self.state, name)
            if control.value != value:
                control.value = value

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live widget, and the picture as it is now for wherever there is no kernel."""
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle["text/plain"] = f"{type(self).__name__}: {_plain(self.caption.value)}"
        bundle["image/png"] = base64.b64encode(self.picture.value).decode("ascii")
        return bundle


def _plain(text: str) -> str:
    """HTML without its tags."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))).strip()


def _numbered(labels: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Options of a control that sets a number, shown by its label."""
    return tuple((label, i) for i, label in enumerate(labels))


_WIDE = {"description_width": "initial"}


def _layout(width: str) -> widgets.Layout:
    return widgets.Layout(width=width, margin="2px 14px 2px 2px")


def _selection(kind: type, description: str, options: Sequence, value: Any, tooltip: str, width: str):
    return kind(
        options=options, value=value, description=description, tooltip=tooltip, style=_WIDE, layout=_layout(width)
    )


_dropdown = partial(_selection, widgets.Dropdown, width="auto")
_slider = partial(_selection, widgets.SelectionSlider, width="360px")


def _number(description: str, most: int, tooltip: str, width: str, value: int = 0) -> widgets.IntSlider:
    return widgets.IntSlider(
        value=value,
        min=0,
        max=most,
        description=description,
        tooltip=tooltip,
        style=_WIDE,
        layout=_layout(width),
    )


class LayerExplorer(Explorer):
    """Two models side by side: how they weigh their channels, by layer, for all images, a class or one image.

    Args:
        models: Names, or what :func:`ecaviz.load` returns; the first is shown on the left, the last on the right.
        images: Anything that ``images`` may be; None for the procedural set (bundled models) or the photographs inside
            scikit-image.
        at_most: How many images to keep.

    Raises:
        ValueError: Unknown model, a model without gates, or images that cannot be used.
    """

    def __init__(self, models: Any = ("shapes-se-r16", "shapes-eca-k3"), images: Any = None, *, at_most: int = 240):
        readings, image_set = read_all(load_all(models), images, at_most=at_most)
        state = LayerState(readings, image_set)
        names = list(state.readings)
        shown = [("mean of all images", "all"), ("mean of one class", "class"), ("one image", "image")]
        shown = [option for option in shown if option[1] != "class" or image_set.present]
        controls = {
            "left": _dropdown("left", names, state.left, "model on the left"),
            "right": _dropdown("right", names, state.right, "model on the right"),
            "layer": _slider("layer", _numbered(state.names), state.layer, "layer that is looked at"),
            "shown": _dropdown("show", shown, state.shown, "images whose gates are shown"),
            "of": _dropdown("class", image_set.present or ("",), state.of, "class that is shown"),
            "image": _number("image", len(image_set) - 1, "image that is shown", "300px"),
            "scale": _dropdown(
                "scale of ω",
                [("fitted to 99 %", "fitted"), ("0 … 1", "full")],
                state.scale,
                "ends of the scale of gates; what lies beyond is drawn at the ends",
            ),
            "sort": widgets.Checkbox(description="sort channels", indent=False, layout=widgets.Layout(width="130px")),
        }
        super().__init__(state, LayerPanels, controls)

    def sync(self) -> None:
        """Make the controls say what the state says."""
        self.controls["of"].disabled = self.state.shown != "class"
        self.controls["image"].disabled = self.state.shown != "image"
        super().sync()


class KernelExplorer(Explorer):
    """A surgery on ECA kernels: kernel and response, an image's gates and first classes, before and now.

    The gates of the layer follow at once, from descriptors that were read when the explorer was made. The network is
    then run on the image from the first changed layer on, and the picture completed.

    Args:
        models: Names, or what :func:`ecaviz.load` returns; all with ECA.
        images: Anything that ``images`` may be; None as for :class:`LayerExplorer`.
        sizes: Kernel sizes to choose from, odd.
        at_most: How many images to keep.

    Raises:
        ValueError: A model has no ECA or gives no logits N×K, a size is even, or the images cannot be used.
    """

    pause = 0.05
    """Seconds between the picture and the run of the network: the next move, if it comes sooner, goes first."""

    _waiting: asyncio.TimerHandle | None = None  # here, since a widget is closed even where its making failed

    def __init__(
        self,
        models: Any = tuple(f"shapes-eca-k{k}" for k in (1, 3, 5, 7, 9)),
        images: Any = None,
        *,
        sizes: Sequence[int] = tuple(range(1, 16, 2)),
        at_most: int = 96,
    ):
        sizes = sorted({checks.kernel_size(k, "KernelExplorer: sizes") for k in sizes})
        loaded = load_all(models)
        for one in loaded:
            kernels.learned_kernels(one)  # says it clearly where there is no ECA
        readings, image_set = read_all(
            loaded, images, at_most=at_most, descriptors=True, inputs=True, sites=lambda site: site.family == "eca"
        )
        for one in readings:
            if one.logits is None:
                raise ValueError(f"KernelExplorer: {one.name} gives no logits N×K, so it names no classes.")
        state = KernelState(loaded, readings, image_set, sizes)
        places = [("this layer", "layer"), ("its stage", "stage"), ("all layers", "all")]
        controls = {
            "model": _dropdown("model", list(state.readings), state.model, "model that is looked at"),
            "layer": _slider("layer", _numbered(state.names), state.layer, "layer that is looked at"),
            "where": _dropdown("surgery on", places, state.where, "where the kernels are changed"),
            "mode": _dropdown("mode", MODES, state.mode, "what takes the place of the learned kernel"),
            "k": _slider("kernel size k", sizes, state.k, "kernel size that the trained kernel is resized to"),
            "draw": _number("draw", 19, "which random order or weights", "220px"),
            "image": _number("image", len(image_set) - 1, "image that the network is shown", "300px"),
        }
        super().__init__(state, KernelPanels, controls)

    def sync(self) -> None:
        """Make the controls say what the state says."""
        self.controls["k"].disabled = self.state.mode != "resize"
        self.controls["draw"].disabled = self.state.mode not in ("permute", "random")
        super().sync()

    def _draw(self) -> None:
        """The picture at once; then, if the network has not answered, its run, as soon as no move comes before it."""
        self._forget()
        first = not self.picture.value
        try:
            loop = None if first else asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None:
            self.state.answer()  # nothing shows pictures meanwhile
        super()._draw()
        if loop is not None and not self.state.answered():
            self._waiting = loop.call_later(self.pause, self._complete)

    def _complete(self) -> None:
        self._forget()
        self._guarded(self._answered)

    def _answered(self) -> None:
        error = self.error.value  # of a move that was refused meanwhile: it stays
        self.state.answer()
        super()._draw()
        self.error.value = error

    def _forget(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def close(self) -> None:
        """Close the widget; what the network has not answered is not asked any more."""
        self._forget()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live widget, and the picture, whole, for wherever there is no kernel."""
        if self._waiting is not None:
            self._complete()
        return super()._repr_mimebundle_(**kwargs)

    def _scene(self) -> Any:
        return self.state.scene(wait=False)


class CoverageExplorer(Explorer):
    """Which channels an ECA of k and an SE of r let interact, one gate of them, and what a trained site makes of it.

    What is allowed follows from C, k and r alone. The trained site is from a model: its interaction matrix is realised
    over images when the explorer is made, and no move runs a network.

    Args:
        models: Names, or what :func:`ecaviz.load` returns; none for the theory alone.
        images: Anything that ``images`` may be; None for what suits each model.
        channels: The numbers of channels to choose from; those of the trained sites are added.
        sizes: The kernel sizes, odd.
        reductions: The reductions; one that leaves no hidden unit is an error line in the widget.
        at_most: How many images of a larger set to run.

    Raises:
        ValueError: An even kernel size, a list that is empty, an unknown model, a model without an interaction matrix,
            or images that cannot be used.
    """

    def __init__(
        self,
        models: Any = ("shapes-se-r16", "shapes-eca-k3", "shapes-se-var3"),
        images: Any = None,
        *,
        channels: Sequence[int] = (16, 32, 64, 128, 256, 512, 1024, 2048),
        sizes: Sequence[int] = (1, 3, 5, 7, 9, 11, 13, 15, 31, 63),
        reductions: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
        at_most: int = 120,
    ):
        if not (channels and sizes and reductions):
            raise ValueError("CoverageExplorer: channels, sizes and reductions must each hold at least one number.")
        sizes = [checks.kernel_size(k, "CoverageExplorer: sizes") for k in sizes]
        none = models is None or (isinstance(models, Sequence) and not models)
        trained = [] if none else read_trained(load_all(models), images, at_most=at_most)
        state = CoverageState(channels, sizes, reductions, trained)
        controls: dict[str, widgets.Widget] = {}
        if trained:
            controls |= {
                "model": _dropdown("model", list(state.trained), state.model, "model of the trained site"),
                "layer": _slider("layer", _numbered(state.names), state.layer, "layer of the trained site"),
                "shown": _dropdown(
                    "matrix",
                    [("size |J|", "size"), ("signed J", "signed"), ("|J|, channels ordered", "ordered")],
                    state.shown,
                    "what is drawn of the trained matrix",
                ),
            }
        controls |= {
            "channels": _slider("channels C", list(state.choices), state.channels, "number of channels", width="300px"),
            "k": _slider("kernel size k", sizes, state.k, "kernel size of the ECA", width="300px"),
            "r": _slider("reduction r", list(reductions), state.r, "reduction of the SE", width="300px"),
            "channel": _number(
                "channel i",
                state.channels - 1,
                "gate that is looked at; its number can be typed",
                "420px",
                state.channel,
            ),
        }
        super().__init__(state, CoveragePanels if trained else TheoryPanels, controls)

    def sync(self) -> None:
        """Make the controls say what the state says."""
        self.controls["channel"].max = self.state.channels - 1
        super().sync()


class ModuleExplorer(Explorer):
    """Two modules of the survey: who may talk to whom, cost, rank, and published and measured accuracy.

    What is drawn follows from C and from the recorded results; no model is loaded.

    Args:
        channels: The numbers of channels to choose from, multiples of 16.

    Raises:
        ValueError: There is none, or one that does not fit r = 16 or the groups of SE-GC.
        FileNotFoundError: The recorded results are missing.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128, 256, 512, 1024, 2048)):
        if not channels:
            raise ValueError("ModuleExplorer: channels must hold at least one number.")
        state = ModuleState(channels)
        names = [(one.title, one.name) for one in MODULES if one.name != "none"]
        controls = {
            "left": _dropdown("left", names, state.left, "module on the left"),
            "right": _dropdown("right", names, state.right, "module on the right"),
            "channels": _slider("channels C", list(channels), state.channels, "number of channels", width="320px"),
        }
        super().__init__(state, ModulePanels, controls)


class RuleExplorer(Explorer):
    """The adaptive rule k = ψ(C; γ, b), and beside it the k that networks have: γ and b move what the rule gives.

    On the left the staircase, with the stages of one network on it; on the right k by stage of the official ECA
    networks, the models given and the bundled ECA models, and what each reading of the rule gives: on the planes of
    the blocks, on the channels of the gates, and timm's. No network is run.

    Args:
        models: Names, or what :func:`ecaviz.load` returns, beside the official and the bundled networks; all with ECA.
        gamma: γ at first, 0.5…4.
        b: The offset b at first, −2…4.
        bundled: Whether the bundled ECA models are shown too.

    Raises:
        ValueError: A model has no ECA, or is not known.
        traitlets.TraitError: ``gamma`` or ``b`` is not in its range.
        FileNotFoundError: The table of the official networks is missing.
    """

    def __init__(self, models: Any = (), *, gamma: float = 2, b: float = 1, bundled: bool = True):
        none = models is None or (isinstance(models, Sequence) and not models)
        given = [] if none else load_all(models)
        names = {one.name for one in given}
        eca = [name for name, row in bundle.manifest().items() if row.family == "eca" and name not in names]
        state = RuleState([*given, *(load(name, device="cpu") for name in eca if bundled)], gamma, b)
        state.network = state.names[state.released] if given else "ResNet-50, released"
        controls = {
            "network": _dropdown("network", state.names, state.network, "network that is marked"),
            "gamma": _float("γ", "gamma", state.gamma, "γ of the rule: how slowly k grows with C"),
            "b": _float("b", "b", state.b, "offset b of the rule"),
        }
        super().__init__(state, RulePanels, controls)


def _float(description: str, trait: str, value: float, tooltip: str) -> widgets.FloatSlider:
    low, high = RANGES[trait]
    return widgets.FloatSlider(
        value=value,
        min=low,
        max=high,
        step=0.25,
        description=description,
        tooltip=tooltip,
        style=_WIDE,
        layout=_layout("320px"),
    )
