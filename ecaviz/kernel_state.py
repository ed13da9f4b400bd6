"""What a :class:`ecaviz.KernelExplorer` shows: a surgery on one layer, a stage or all, and what it does to one image.

The gates of the layer that is looked at follow from its descriptors, at once. What the network answers takes a run from
the first changed layer on (:class:`ecaviz.CachedRun`): :meth:`KernelState.answer` makes it, and until then a scene has
the first number alone.
"""

from __future__ import annotations

import html
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets
from torch import Tensor

from . import checks, gates, responses
from .kernel_panels import KernelScene
from .looks import layer_labels
from .models import LoadedModel
from .readings import ImageSet, Reading
from .reruns import CachedRun
from .states import choice, matched, within
from .surgery import MODES, Operation, operations
from .views import fitted, numbers

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["WHERE", "KernelState"]

WHERE = ("layer", "stage", "all")
"""Where the surgery is done: at the layer that is looked at, at all of its stage, at all of the network."""

FREQUENCIES = np.linspace(0, 0.5, 65)
FIRST = 5
"""Classes that are named."""
RUNS = 8
"""Runs that are kept, one for each model and image."""


@dataclass(frozen=True)
class _Answer:
    """What the network said under a surgery."""

    gates: np.ndarray
    classes: tuple[tuple[str, float], ...]
    divergence: float


class KernelState(traitlets.HasTraits):
    """The traits of the explorer.

    Attributes:
        model: Name of the model.
        layer: Number of the ECA site that is looked at.
        where: "layer", "stage" or "all": what is under surgery.
        mode: One of :data:`ecaviz.surgery.MODES`.
        k: Kernel size, for "resize".
        draw: Which random numbers, for "permute" and "random".
        image: Number of the image.
    """

    model = traitlets.Unicode()
    layer = traitlets.Int(0)
    where = traitlets.Enum(WHERE, "layer")
    mode = traitlets.Enum(MODES, "resize")
    k = traitlets.Int(3)
    draw = traitlets.Int(0)
    image = traitlets.Int(0)

    def __init__(
        self, loaded: Sequence[LoadedModel], readings: Sequence[Reading], images: ImageSet, sizes: Sequence[int]
    ):
        self.readings = {reading.name: reading for reading in readings}
        self.loaded = {reading.name: one for reading, one in zip(readings, loaded, strict=True)}
        self.images, self.sizes = images, tuple(sizes)
        self._runs: OrderedDict[tuple[str, int], CachedRun] = OrderedDict()
        self._answers: OrderedDict[tuple, _Answer] = OrderedDict()
        if not sizes:
            raise ValueError("KernelExplorer: sizes must hold at least one kernel size.")
        self._swept: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
        self._about: dict[str, tuple] = {}
        self._first: dict[tuple[str, int], tuple[tuple[str, float], ...]] = {}
        self._bands: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        first = readings[-1]
        super().__init__(model=first.name)
        self.layer = len(first.names) // 2
        trained = first.sites[first.names[self.layer]].kernel_size
        self.k = max((k for k in self.sizes if k < trained), default=self.sizes[0])

    @property
    def reading(self) -> Reading:
        """The reading of the chosen model."""
        return self.readings[self.model]

    @property
    def names(self) -> list[str]:
        """Labels of the layers to choose from."""
        return layer_labels(self.reading.names)

    @property
    def name(self) -> str:
        """The site that is looked at, as the reading has it: ``name#2`` for its second call."""
        return self.reading.names[self.layer]

    @property
    def site(self) -> gates.GateSite:
        """The same as a site."""
        return self.reading.sites[self.name]

    @property
    def chosen(self) -> list[str]:
        """The sites under surgery."""
        names = list(dict.fromkeys(site.name for site in self.reading.sites.values()))
        if self.where == "all":
            return names
        own = self.site.name
        if self.where == "layer":
            return [own]
        return [name for name in names if _stage(name, names) == _stage(own, names)]

    @traitlets.validate("model")
    def _known_model(self, proposal):
        return choice(proposal, list(self.readings), "model")

    @traitlets.validate("layer")
    def _known_layer(self, proposal):
        return within(proposal, len(self.reading.names), "layer")

    @traitlets.validate("image")
    def _known_image(self, proposal):
        return within(proposal, len(self.images), "image")

    @traitlets.validate("draw")
    def _known_draw(self, proposal):
        if proposal["value"] < 0:
            raise traitlets.TraitError(f"draw: a number of at least 0 was expected, got {proposal['value']}.")
        return proposal["value"]

    @traitlets.validate("k")
    def _known_size(self, proposal):
        try:
            checks.kernel_size(proposal["value"], "k")
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from None
        return choice(proposal, self.sizes, "k")

    @traitlets.observe("model")
    def _keep_depth(self, change):
        before = self.readings.get(change["old"])
        if before is not None:
            self.layer = matched(self.layer, len(before.names), len(self.names))

    # ------------------------------------------------------------------------------------------- what is known at once

    def operation(self, mode: str | None = None, k: int | None = None) -> Operation:
        """The surgery on the site that is looked at, or another one there."""
        mode = mode or self.mode
        size = (k or self.k) if mode == "resize" else None
        sites = list(self.reading.sites.values())
        return operations(sites, self.site.name, mode, kernel_size=size, seed=self.draw)[0]

    def scene(self, *, wait: bool = True) -> KernelScene:
        """What is to be drawn.

        Args:
            wait: Whether to run the network if its answer is not known; else it is left out.
        """
        answer = self.answer() if wait else self._answers.get(self._key())
        reading, site, operation = self.reading, self.site, self.operation()
        limits, top, gain_top, reach = self._of_model()
        frequencies = responses.frequency_response
        other = None if operation.kernel is None else numbers(operation.kernel)
        by_size, by_mode = self._sweep()
        before = reading.gates[self.name][self.image]
        return KernelScene(
            label=reading.name,
            site=self.names[self.layer],
            what=self._what(),
            where={"layer": "this layer", "stage": "this stage", "all": "all layers"}[self.where],
            now=self.k if self.mode == "resize" else self.mode,
            kernel=numbers(site.kernel),
            other=other,
            reach=reach,
            top=top,
            frequencies=FREQUENCIES,
            gain=numbers(frequencies(site.kernel, FREQUENCIES).magnitude),
            other_gain=None if other is None else numbers(frequencies(operation.kernel, FREQUENCIES).magnitude),
            band=self._band(site.kernel_size),
            gain_top=gain_top,
            picture=self.images.pictures[self.image],
            caption=f"image {self.image}" + (f": {self.images.label(self.image)}" if self.images.classes else ""),
            before=before,
            after=answer.gates if answer is not None else self._alone(operation)[self.image],
            exact=answer is not None,
            limits=limits,
            sizes=self.sizes,
            by_size=by_size,
            modes=tuple(mode for mode in MODES if mode != "resize"),
            by_mode=by_mode,
            classes=self._before(),
            others=None if answer is None else answer.classes,
        )

    def _of_model(self) -> tuple[tuple[float, float], float, float, int]:
        """Ends of its gates, largest weight, largest gain, offsets: the same for all moves on one model."""
        if self.model not in self._about:
            sites = self.reading.sites.values()
            gains = [float(responses.frequency_response(one.kernel, FREQUENCIES).magnitude.max()) for one in sites]
            self._about[self.model] = (
                fitted(*self.reading.gates.values()),
                max(float(one.kernel.abs().max()) for one in sites),
                1.05 * max(*gains, *(float(self._band(one.kernel_size)[1].max()) for one in sites)),
                max(*(one.kernel_size for one in sites), *self.sizes) // 2,
            )
        return self._about[self.model]

    def _band(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        if k not in self._bands:
            table = responses.null_band(k, FREQUENCIES)
            self._bands[k] = table["null_low"].to_numpy(), table["null_high"].to_numpy()
        return self._bands[k]

    def _alone(self, operation: Operation) -> np.ndarray:
        """The gates of the site alone under a surgery, N×C, from the descriptors of the unchanged network."""
        descriptors = self.reading.descriptors[self.name]
        return self.site.activate(operation.logits(descriptors.to(self.site.kernel.device))).float().cpu().numpy()

    def _sweep(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean |Δω| of the site over the images: for every k; for every other surgery, NaN where it cannot be done."""
        key = self.model, self.name, self.draw
        if key not in self._swept:
            original = self.reading.gates[self.name]

            def change(mode: str, k: int | None = None) -> float:
                try:
                    return float(np.abs(self._alone(self.operation(mode, k)) - original).mean())
                except ValueError:  # a circular kernel that would go round more than once
                    return math.nan

            self._swept[key] = (
                np.array([change("resize", k) for k in self.sizes]),
                np.array([change(mode) for mode in MODES if mode != "resize"]),
            )
        return self._swept[key]

    # --------------------------------------------------------------------------------------- what the network answers

    def run(self) -> CachedRun:
        """The unchanged network's run on the image, kept for the next moves."""
        key = self.model, self.image
        if key in self._runs:
            self._runs.move_to_end(key)
        else:
            self._runs[key] = CachedRun(self.loaded[self.model], self.reading.inputs[self.image][None])
            while len(self._runs) > RUNS:
                self._runs.popitem(last=False)
        return self._runs[key]

    def answered(self) -> bool:
        """Whether the network's answer to what is shown is known."""
        return self._key() in self._answers

    def answer(self) -> _Answer:
        """Run the network from the first changed layer on, if that was not done for what is shown."""
        key = self._key()
        if key not in self._answers:
            run = self.run()
            size = self.k if self.mode == "resize" else None
            with gates.capture(run.net, self.site.name) as captured:
                logits = run.logits_under(self.chosen, self.mode, kernel_size=size, seed=self.draw)
            own = captured.get(self.name)  # called only where something before it, or itself, was changed
            found = self.reading.gates[self.name][self.image] if own is None else numbers(own.gate[0])
            self._answers[key] = _Answer(found, self._classes(logits[0]), _divergence(run.logits[0], logits[0]))
            while len(self._answers) > 1000:
                self._answers.popitem(last=False)
        return self._answers[key]

    def _key(self) -> tuple:
        detail = self.k if self.mode == "resize" else self.draw if self.mode in ("permute", "random") else None
        return self.model, self.image, self.layer, self.where, self.mode, detail

    def _before(self) -> tuple[tuple[str, float], ...]:
        key = self.model, self.image
        if key not in self._first:
            self._first[key] = self._classes(self.reading.logits[self.image])
        return self._first[key]

    def _classes(self, logits: Tensor) -> tuple[tuple[str, float], ...]:
        shares = logits.detach().cpu().double().softmax(0)
        names = self.loaded[self.model].classes
        first = shares.topk(min(FIRST, len(shares)))
        return tuple(
            (names[i] if i < len(names) else f"class {i}", float(share))
            for share, i in zip(first.values, first.indices.tolist(), strict=True)
        )

    # ------------------------------------------------------------------------------------------------------- in words

    def _what(self) -> str:
        trained = self.site.kernel_size
        if self.mode == "resize":
            how = "as learned" if self.k == trained else f"k = {trained} → {self.k}"
            return how
        return {
            "impulse": "centre weight alone",
            "circular": "channels wrap around",
            "permute": f"channels in another order ({self.draw})",
            "random": f"random weights, same norm ({self.draw})",
        }[self.mode]

    def table(self, scene: KernelScene) -> pd.DataFrame:
        """Quantity (weight, gain, gate, probability), at (offset, frequency, channel, class), before, after.

        What is not known, or has no counterpart, is missing.
        """
        import pandas as pd

        def part(quantity: str, at: Any, before: Any, after: Any) -> pd.DataFrame:
            return pd.DataFrame({"quantity": quantity, "at": at, "before": before, "after": after})

        weights = [{} if w is None else dict(_by_offset(w)) for w in (scene.kernel, scene.other)]
        offsets = sorted(set().union(*weights))
        chances = [dict(scene.classes), dict(scene.others or ())]
        names = list(dict.fromkeys(name for one in chances for name in one))
        parts = [
            part("weight", offsets, *([one.get(i) for i in offsets] for one in weights)),
            part("gain", scene.frequencies, scene.gain, scene.other_gain),
            part("gate", np.arange(len(scene.before)), scene.before, scene.after),
            part("probability", names, *([one.get(name) for name in names] for one in chances)),
        ]
        found = pd.concat([one.astype({"at": object, "before": float, "after": float}) for one in parts])
        found.insert(0, "model", self.model)
        found.insert(1, "site", scene.site)
        return found.reset_index(drop=True)

    def describe(self, scene: KernelScene | None = None) -> str:
        """What is seen, as HTML."""
        scene = scene or self.scene()
        reading, count = self.reading, len(self.chosen)
        at_once = np.abs(scene.after - scene.before).mean()
        places = f"{count} layers" if count > 1 else "one layer"
        first = (
            f"<b>{html.escape(reading.label)}</b>, {html.escape(scene.caption)}. Surgery on {places}: "
            f"{html.escape(scene.what)}. Looked at: {html.escape(scene.site)} (C = {len(scene.before)}). "
        )
        if not scene.exact:
            return (
                f"{first}Mean |Δω| = {at_once:.4f} of this site alone, from the descriptors of the unchanged network; "
                f"the network is being run …"
            )
        answer = self._answers[self._key()]
        (name, share), (now, shared) = scene.classes[0], scene.others[0]
        said = (
            f"still says {html.escape(now)} ({share:.1%} → {shared:.1%})"
            if name == now
            else f"says {html.escape(now)} ({shared:.1%}) instead of {html.escape(name)} ({share:.1%})"
        )
        return (
            f"{first}In the network as it is now mean |Δω| = {at_once:.4f} at this layer; it {said}; "
            f"KL(before ‖ now) = {answer.divergence:.3g} nats. One image; what a surgery does over many is measured by "
            f"ecaviz.surgery_effect."
        )


def _by_offset(kernel: np.ndarray) -> list[tuple[int, float]]:
    """The weights of a kernel of k by their offset from its centre."""
    return [(j - len(kernel) // 2, float(w)) for j, w in enumerate(kernel)]


def _stage(name: str, names: Sequence[str]) -> str:
    """``layer3`` of ``layer3.0.se``, ``stages.2`` of ``stages.2.0.attn``: to the first number behind what all share."""
    parts, every = name.split("."), [one.split(".") for one in names]
    shared = 0
    while shared < len(parts) - 1 and len({tuple(one[: shared + 1]) for one in every}) == 1 and len(names) > 1:
        shared += 1
    numbered = (i for i in range(shared, len(parts)) if any(letter.isdigit() for letter in parts[i]))
    return ".".join(parts[: next(numbered, shared) + 1])


def _divergence(before: Tensor, after: Tensor) -> float:
    first, second = before.double().log_softmax(0), after.double().log_softmax(0)
    return float((first.exp() * (first - second)).sum())
