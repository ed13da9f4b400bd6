"""Is a gate static or dynamic? What is lost when it is frozen at its mean, beside what is lost without it.

    table = static_dynamic(model, images, profile)
    table[table["measure"] == "share of the divergence"]

A gate scales a channel by its mean, and beyond that it answers to the image. If it is set to 1, both are gone; if it
is set to its mean, only the answer is; set to the mean of the image's class, what is left of the answer is what tells
classes apart; with the gates of another image, the answer is the wrong one. The share of a gate's effect that its
frozen mean recovers is 1 − D(mean)/D(one), D being what an intervention costs (the divergence from the network as it
is, or the loss in accuracy).

The class mean is told the label: where it gains accuracy, that is why.

A gate at 1 moves the scale that the layers behind it, batch norms first, were trained for. So D(one) is the cost of
breaking a trained network, not what attention adds to one: that is the difference from a network trained without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .class_names import own_classes
from .effects import Effect, stream_of
from .intervals import bootstrap_means, bootstrap_ratio
from .interventions import intervention_effects
from .sites import Selection, select_channel_sites

if TYPE_CHECKING:
    import pandas as pd

    from .attention_profile import AttentionProfile

__all__ = ["ALL_SITES", "MODES", "SHARES", "effect_rows", "static_dynamic"]

MODES = ("one", "mean", "class-mean", "swap")
"""The interventions of the table."""

ALL_SITES = "all"
"""What the column ``site`` holds where all sites were changed together."""

SHARES = {"share of the divergence": "divergence", "share of the accuracy": "accuracy difference"}
"""The measures that say which share of a gate's effect its frozen mean recovers, and of what."""


def static_dynamic(
    model: Any,
    images: Any,
    profile: AttentionProfile,
    sites: Selection = None,
    *,
    modes: Sequence[str] | None = None,
    together: bool = True,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """What a network does with each site's gate at one, at its mean, at its class's mean, and swapped.

    Args:
        model: What :func:`ecaviz.load` returns.
        images: In any form that :func:`ecaviz.images.batches` takes. Others than those of the profile, or the means
            know them already.
        profile: Of this network; by class for "class-mean".
        sites: Which: a glob, a list, a callable, or None for all that have gates by channel.
        modes: Some of :data:`MODES`; None for all, "class-mean" only where profile and images have classes.
        together: Whether the sites are changed together as well.
        level: Of the bootstrap intervals over the images, 0…1. Those of all rows draw the same images.
        seed: Of the bootstrap and of "swap".
        batch_size: Images run at once.
        progress: Whether to show a progress bar.

    Returns:
        Columns: model; site (:data:`ALL_SITES` for all together); mode; n (images); measure; mean, low, high. Measures:
        "agreement", "divergence" (nats), "gate change", with labels "accuracy before", "accuracy after" and "accuracy
        difference" (0…1), and in the rows of "mean" those of :data:`SHARES`: NaN where the interval of what the gate
        at one costs holds zero. The last column is level.

    Raises:
        ValueError: As for :func:`ecaviz.intervention_effects`; or an unknown mode.
    """
    import pandas as pd

    names = [one.name for one in select_channel_sites(model, sites)]
    if modes is None:
        names_of_classes = stream_of(model, images, batch_size).classes
        known = profile.by is not None and own_classes(names_of_classes or (), profile.classes) is not None
        modes = [mode for mode in MODES if mode != "class-mean" or known]
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        raise ValueError(f"static_dynamic: modes must be some of {', '.join(MODES)}, got {list(modes)}.")
    groups: dict[str, list[str]] = {name: [name] for name in names}
    if together:
        groups[ALL_SITES] = names
    asked = {(site, mode): (chosen, mode) for site, chosen in groups.items() for mode in modes}
    options = {"profile": profile, "seed": seed, "batch_size": batch_size, "progress": progress}
    found = intervention_effects(model, images, asked, **options)
    rows = []
    for (site, mode), effect in found.items():
        others = {"level": level, "seed": seed}
        one = found.get((site, "one")) if mode == "mean" else None
        rows += [(model.name, site, mode, len(effect), *row) for row in effect_rows(effect, one, **others)]
    table = pd.DataFrame(rows, columns=["model", "site", "mode", "n", "measure", "mean", "low", "high"])
    return table.assign(level=level)


def effect_rows(
    effect: Effect, one: Effect | None = None, *, level: float = 0.95, seed: int = 0
) -> list[tuple[str, float, float, float]]:
    """Measure, mean, low and high of an effect; with the effect of a gate at one, the shares that this one recovers."""
    import torch

    values = {**effect.measures, "gate change": torch.stack(list(effect.gate_change.values())).double().mean(0)}
    low, high = bootstrap_means(torch.stack(list(values.values()), dim=1), level=level, seed=seed)
    means = [float(numbers.mean()) for numbers in values.values()]
    rows = list(zip(values, means, low.tolist(), high.tolist(), strict=True))
    for measure, of in SHARES.items():
        if one is not None and of in one.measures:
            ratio, low, high = bootstrap_ratio(effect.measures[of], one.measures[of], level=level, seed=seed)
            rows.append((measure, 1 - ratio, 1 - high, 1 - low))
    return rows
