"""What a change to a network did, image by image: to its gates, its predictions and its accuracy.

    effects = measure(model, stream, {"permuted": Change("permute", names, place), …})
    effects["permuted"].to_frame()

Several changes are measured beside one run of the network as it is. Made by :func:`ecaviz.surgery_effect` and
:func:`ecaviz.intervention_effects`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import gates
from .batches import Batches
from .class_names import own_classes
from .intervals import bootstrap_means
from .items import deaths_in_words
from .sites import network

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Change", "Effect", "checked_logits", "measure", "stream_of"]


@dataclass(frozen=True, eq=False)
class Effect:
    """What a change did, image by image.

    Attributes:
        model: Name of the model.
        images: The set of images, in words.
        mode: Of the change.
        gate_change: Mean of |ω after − ω before| over the channels, N numbers for each site that was changed.
        agrees: N, whether the prediction is the same.
        divergence: N, KL(before ‖ after) of the predicted probabilities, in nats.
        right: N×2, whether the prediction before and after is the label; None where there are no labels that tell.
    """

    model: str
    images: str
    mode: str
    gate_change: Mapping[str, Tensor] = field(repr=False)
    agrees: Tensor = field(repr=False)
    divergence: Tensor = field(repr=False)
    right: Tensor | None = field(repr=False)

    def __len__(self) -> int:
        return len(self.agrees)

    @property
    def measures(self) -> dict[str, Tensor]:
        """The numbers behind the table but for the gates', float64 N, by measure."""
        found = {"agreement": self.agrees.double(), "divergence": self.divergence.double()}
        if self.right is not None:
            before, after = self.right.double().T
            found |= {"accuracy before": before, "accuracy after": after, "accuracy difference": after - before}
        return found

    def to_frame(self, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
        """Means with bootstrap intervals over the images.

        Args:
            level: Of the intervals, 0…1.
            seed: Of the bootstrap.

        Returns:
            One row a measure. Columns: measure ("gate change", "agreement", "divergence", and with labels "accuracy
            before", "accuracy after", "accuracy difference"); site (of the gate change, else empty); mean, low, high.
        """
        import pandas as pd

        rows = [("gate change", name, values.double()) for name, values in self.gate_change.items()]
        rows += [(measure, "", values) for measure, values in self.measures.items()]
        low, high = bootstrap_means(torch.stack([values for *_, values in rows], dim=1), level=level, seed=seed)
        table = [
            (measure, site, float(values.mean()), *ends)
            for (measure, site, values), *ends in zip(rows, low.tolist(), high.tolist(), strict=True)
        ]
        return pd.DataFrame(table, columns=["measure", "site", "mean", "low", "high"])


@dataclass(frozen=True)
class Change:
    """A change to a network, to be measured.

    Attributes:
        mode: What it is called.
        sites: Names of the sites whose gates it changes.
        place: Makes a context manager in which the network is changed, from the labels of the batch (int64 N, or None);
            what that gives tells, after a run, the gates that were at work, by the site's name (``name#2`` for the
            second call).
    """

    mode: str
    sites: tuple[str, ...]
    place: Callable[[Tensor | None], AbstractContextManager[Callable[[], Mapping[str, Tensor]]]]


def stream_of(model: Any, images: Any, batch_size: int) -> Batches:
    """The images in batches as the network takes them; see :func:`ecaviz.images.batches`."""
    return Batches(images, model.transform, batch_size, next(network(model).parameters(), model.device))


@deaths_in_words()
def measure(
    model: Any, stream: Batches, changes: Mapping[str, Change], *, what: str = "measure", progress: bool = True
) -> dict[str, Effect]:
    """Run a network over images as it is, once, and under each of several changes.

    Args:
        model: What :func:`ecaviz.load` returns.
        stream: The images, of :func:`stream_of`; labels are used where there are any.
        changes: By the names that the effects are to have.
        what: Who asks, for messages.
        progress: Whether to show a progress bar.

    Returns:
        The effects, in the order of the changes.

    Raises:
        ValueError: The network gives no logits N×K, or calls none of the sites of a change.
    """
    from tqdm.auto import tqdm

    net = network(model)
    own = None if stream.classes is None else own_classes(stream.classes, model.classes)
    usable = stream.classes is None or own is not None
    names = list(dict.fromkeys(name for one in changes.values() for name in one.sites))
    collected = {name: _Collected() for name in changes}
    bar = tqdm(total=stream.total, desc=f"{what}: {model.name}", unit="image", disable=not progress)
    with bar, gates.evaluating(net):
        for x, labels in stream:
            with gates.capture(model, names) as before:
                logits = checked_logits(net(x), what)
            right = None
            if usable and labels is not None:
                right = labels if own is None else own.to(labels.device)[labels]
            gate = {name: record.gate for name, record in before.items()}
            for name, change in changes.items():
                with change.place(labels) as gates_now:
                    others = checked_logits(net(x), what)
                    after = gates_now()
                if not after:
                    raise ValueError(f"{what}: the network ran without calling {', '.join(change.sites)}.")
                collected[name].take(logits, others, right, gate, after)
            bar.update(len(x))
    return {name: collected[name].effect(model.name, stream.description, one.mode) for name, one in changes.items()}


class _Collected:
    """What the batches gave for one change."""

    def __init__(self) -> None:
        self.gate_change: dict[str, list[Tensor]] = {}
        self.agrees: list[Tensor] = []
        self.divergence: list[Tensor] = []
        self.right: list[Tensor] = []

    def take(
        self,
        logits: Tensor,
        others: Tensor,
        right: Tensor | None,
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
    ) -> None:
        for name, gate in after.items():
            self.gate_change.setdefault(name, []).append((gate - before[name]).abs().flatten(1).nanmean(dim=1).cpu())
        first, second = logits.double().log_softmax(1), others.double().log_softmax(1)
        self.agrees.append((first.argmax(1) == second.argmax(1)).cpu())
        self.divergence.append((first.exp() * (first - second)).sum(1).cpu())
        if right is not None:
            self.right.append(torch.stack([logits.argmax(1) == right, others.argmax(1) == right], 1).cpu())

    def effect(self, model: str, images: str, mode: str) -> Effect:
        agrees = torch.cat(self.agrees)
        right = torch.cat(self.right) if self.right else None
        return Effect(
            model=model,
            images=images,
            mode=mode,
            gate_change={name: torch.cat(parts) for name, parts in self.gate_change.items()},
            agrees=agrees,
            divergence=torch.cat(self.divergence),
            right=right if right is not None and len(right) == len(agrees) else None,
        )


def checked_logits(output: Any, what: str) -> Tensor:
    """The output of a network, if it is logits N×K; else a ValueError that begins with ``what``."""
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"{what}: a network that gives logits N×K was expected; this one gave {shape}.")
    return output
