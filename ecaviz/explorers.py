"""Explorers: move a slider and the picture follows.

    ecaviz.LayerExplorer(["shapes-se-r16", "shapes-eca-k3"])    # as the last expression of a cell
    explorer.figure()                                           # the same picture, without a kernel to move it

An explorer is a state of traits (:mod:`ecaviz.states`; ``explorer.state``), controls that set the traits, and a picture
that is drawn of them by the views of :mod:`ecaviz.panels`. All that a move needs was read when the explorer was made:
no move waits for a network. (Those of :mod:`ecaviz.answering` run one after the picture is there, which completes it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from . import bundle, checks, kernels
from .answering import AnsweringExplorer
from .coverage_panels import CoveragePanels, TheoryPanels
from .coverage_state import CoverageState, read_trained
from .explorer_base import WIDE, Explorer, dropdown, layout_of, number, numbered, slider
from .kernel_panels import KernelPanels
from .kernel_state import KernelState
from .layer_explorer import LayerExplorer
from .models import load
from .module_state import ModuleState
from .panels import ModulePanels
from .readings import load_all, read_all
from .rule_panels import RulePanels
from .rule_state import RANGES, RuleState
from .surgery import MODES
from .survey import MODULES

__all__ = ["CoverageExplorer", "Explorer", "KernelExplorer", "LayerExplorer", "ModuleExplorer", "RuleExplorer"]


class KernelExplorer(AnsweringExplorer):
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

    ahead = "k"
    leading = frozenset({"model"})
    runs_ahead = frozenset({"k", "mode", "draw"})

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
        looked = {
            "model": dropdown("model", list(state.readings), state.model, "model that is looked at"),
            "layer": slider(
                "layer",
                numbered(state.names),
                state.layer,
                "layer that is looked at; ECA: ω_i = σ(Σ_j w_j y_(i+j)), |j| < k/2",
            ),
            "image": number("image", len(image_set) - 1, "image that the network is shown", "300px"),
        }
        surgery = {
            "where": dropdown("surgery on", places, state.where, "where the kernels are changed"),
            "mode": dropdown("mode", MODES, state.mode, "what takes the place of the learned kernel"),
            "k": slider(
                "kernel size k", sizes, state.k, "k that the trained kernel is cropped or zero-padded to", width="300px"
            ),
            "draw": number("draw", 19, "which random order or weights", "220px"),
        }
        super().__init__(state, KernelPanels, {"place": looked, "surgery": surgery})

    def sync(self) -> None:
        """Make the controls say what the state says."""
        self.controls["k"].disabled = self.state.mode != "resize"
        self.controls["draw"].disabled = self.state.mode not in ("permute", "random")
        super().sync()


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

    leading = frozenset({"model", "layer"})

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
        self.ahead, self.height = ("layer", "16em") if trained else ("k", "11em")
        controls: dict[str, dict[str, widgets.Widget]] = {}
        if trained:
            controls["trained"] = {
                "model": dropdown("model", list(state.trained), state.model, "model of the trained site"),
                "layer": slider("layer", numbered(state.names), state.layer, "layer of the trained site"),
                "shown": dropdown(
                    "matrix",
                    [("size |J|", "size"), ("signed J", "signed"), ("|J|, channels ordered", "ordered")],
                    state.shown,
                    "what is drawn of the trained matrix, J_ij = ∂ω_i/∂y_j",
                ),
            }
        controls["allowed"] = {
            "channels": slider("channels C", list(state.choices), state.channels, "number of channels", width="300px"),
            "k": slider(
                "kernel size k", sizes, state.k, "ECA: gate i listens to the k channels about i", width="300px"
            ),
            "r": slider(
                "reduction r", list(reductions), state.r, "SE: all gates listen through C/r hidden units", width="300px"
            ),
        }
        controls["gate"] = {
            "channel": number(
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

    ahead = "channels"
    height = "11.5em"

    def __init__(self, channels: Sequence[int] = (32, 64, 128, 256, 512, 1024, 2048)):
        if not channels:
            raise ValueError("ModuleExplorer: channels must hold at least one number.")
        state = ModuleState(channels)
        names = [(one.title, one.name) for one in MODULES if one.name != "none"]
        gates = "; ".join(f"{one.title}: {one.gate}" for one in MODULES if one.name in ("se", "eca"))
        modules = {
            "left": dropdown("left", names, state.left, f"module on the left; {gates}"),
            "right": dropdown("right", names, state.right, f"module on the right; {gates}"),
        }
        size = {"channels": slider("channels C", list(channels), state.channels, "number of channels", width="320px")}
        super().__init__(state, ModulePanels, {"modules": modules, "size": size})


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

    ahead = "gamma"
    height = "6.6em"

    def __init__(self, models: Any = (), *, gamma: float = 2, b: float = 1, bundled: bool = True):
        none = models is None or (isinstance(models, Sequence) and not models)
        given = [] if none else load_all(models)
        names = {one.name for one in given}
        eca = [name for name, row in bundle.manifest().items() if row.family == "eca" and name not in names]
        state = RuleState([*given, *(load(name, device="cpu") for name in eca if bundled)], gamma, b)
        state.network = state.names[state.released] if given else "ResNet-50, released"
        marked = {"network": dropdown("network", state.names, state.network, "network that is marked")}
        rule = {
            "gamma": _float("γ", "gamma", state.gamma, "k = |log₂(C)/γ + b/γ|, odd: how slowly k grows with C"),
            "b": _float("b", "b", state.b, "k = |log₂(C)/γ + b/γ|, odd: the offset"),
        }
        super().__init__(state, RulePanels, {"marked": marked, "rule": rule})


def _float(description: str, trait: str, value: float, tooltip: str) -> widgets.FloatSlider:
    low, high = RANGES[trait]
    return widgets.FloatSlider(
        value=value,
        min=low,
        max=high,
        step=0.25,
        description=description,
        tooltip=tooltip,
        style=WIDE,
        layout=layout_of("320px"),
    )
