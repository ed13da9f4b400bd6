"""Plots of what surgeries on kernels do. Reached as ``ecaviz.plots.<name>``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .looks import family_style
from .texts import names_as_written
from .themes import current
from .views import axes_or_current, strip_spines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .effects import Effect

__all__ = ["surgery_effects"]

_MEASURES = {
    "accuracy difference": ("difference in accuracy (points)", 100.0),
    "agreement": ("share of predictions that stay (%)", 100.0),
    "divergence": ("KL(before ‖ after), nats", 1.0),
    "gate change": ("mean |Δω| of the sites under surgery", 1.0),
}


@names_as_written
def surgery_effects(
    effects: Mapping[str, Effect],
    measure: str = "accuracy difference",
    *,
    level: float = 0.95,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What several surgeries do: the mean over the images with its interval, each by itself.

    A difference in accuracy is filled where its interval leaves zero out. The others have only one side: any change at
    all is away from nothing.

    Args:
        effects: What :func:`ecaviz.surgery_effect` gives, by a name for each.
        measure: "accuracy difference" (where there are labels), "agreement", "divergence" or "gate change" (of several
            sites, each a mark).
        level: Of the bootstrap intervals over the images, 0…1.
        title: Replaces the title.
        ax: Where to draw.

    Raises:
        ValueError: No effect, an unknown measure, or one that an effect does not have.
    """
    if measure not in _MEASURES:
        raise ValueError(f"surgery_effects: measure must be one of {', '.join(_MEASURES)}, got {measure!r}.")
    if not effects:
        raise ValueError("surgery_effects: at least one effect was expected.")
    ax = axes_or_current(ax)
    label, scale = _MEASURES[measure]
    nothing = 100.0 if measure == "agreement" else 0.0
    places = range(len(effects) - 1, -1, -1)
    colour = family_style("eca").colour
    for y, (name, effect) in zip(places, effects.items(), strict=True):
        table = effect.to_frame(level=level)
        rows = table[table["measure"] == measure]
        if rows.empty:
            raise ValueError(f"surgery_effects: {name}: {measure} needs images whose labels are classes of the model.")
        for row in rows.itertuples():
            low, mean, high = scale * row.low, scale * row.mean, scale * row.high
            ax.plot([low, high], [y, y], color=current().ink, lw=1.6, alpha=1 if len(rows) == 1 else 0.4)
            clear = measure != "accuracy difference" or not low <= nothing <= high
            ax.plot(
                mean, y, ls="", marker="o", ms=7, mfc=colour if clear else current().paper, mec=current().ink, mew=1.1
            )
    ax.axvline(nothing, color=current().muted, lw=1, ls=":")
    ax.set_yticks(list(places), list(effects))
    ax.set_ylim(-0.6, len(effects) - 0.4)
    ax.set_ylabel("surgery")
    ax.set_xlabel(label)
    ax.grid(axis="x", color=current().grid, lw=0.6)
    ax.set_axisbelow(True)
    strip_spines(ax)
    first = next(iter(effects.values()))
    what = f"{first.model}, {len(first)} images: mean and {100 * level:.3g} % interval"
    ax.set_title(what if title is None else title, loc="left", fontsize="medium")
    return ax
