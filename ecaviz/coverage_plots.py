"""Plots of coverage: what k and r allow, and what trained sites make of it. Reached as ``ecaviz.plots.<name>``.

    plots.coverage_by_channels(coverages.allowed(), table)   # pairs, rank, cost by C: k on the left, r on the right
    plots.partners_by_channels(table)                        # the one scale common to k and r
    plots.directness_by_site(coverages.summary(table))

k and r stand on axes of their own: no r equals some k. Lines and markers tell the series apart without colour too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

from .looks import family_name, family_style, layer_labels
from .texts import as_written, names_as_written
from .themes import current
from .views import Picture, View, axes_or_current, numbers, strip_spines

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


__all__ = ["coverage_by_channels", "directness_by_site", "partners_by_channels"]

DASHES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (9, 3)), (0, (3, 1)), (0, (9, 2, 2, 2)))
KNOBS = {"eca": ("kernel_size", "k", "kernel size k", "o^vP*<8"), "se": ("reduction", "r", "reduction r", "sDX>Hpd")}
"""Of ECA and SE: the column, the letter and the name of what is set, and a marker for each value of it."""
TABLE = "ecaviz.coverages.coverage_table or ecaviz.coverages.recorded"


# ----------------------------------------------------------------------------------------------- what all plots share


def check_frame(frame: pd.DataFrame, columns: str, plot: str, maker: str) -> None:
    """Raises a ValueError of one sentence if the frame lacks rows or columns."""
    missing = [name for name in columns.split() if name not in frame]
    if len(frame) and not missing:
        return
    what = f"lacks {', '.join(missing)}" if len(frame) else "has no rows, so there is nothing to draw"
    raise ValueError(f"{plot}: the frame {what}; such a frame is made by {maker}.")


def column(frame: pd.DataFrame, name: str) -> np.ndarray:
    return frame[name].to_numpy(dtype=float, na_value=np.nan)


def positive(values: Any) -> np.ndarray:
    """What a log axis can show; NaN for the rest."""
    values = numbers(values)
    return np.where(values > 0, values, np.nan)


def series_of(frame: pd.DataFrame) -> list[tuple[np.ndarray, str, dict]]:
    """Of each model, of a CBAM each squeeze: which rows are its own, its name (``SE, r=16``), and its look.

    Colour and marker are those of the family, the line is by the place in the family. Where names do not tell the
    models apart, the model's is added.
    """
    squeezes = frame["squeeze"].fillna("") if "squeeze" in frame else [""] * len(frame)
    keys = list(zip(frame["model"], squeezes, strict=True))
    found: list[tuple[np.ndarray, str, dict]] = []
    seen: Counter[str] = Counter()
    for model, squeeze in dict.fromkeys(keys):
        rows = np.array([key == (model, squeeze) for key in keys])
        family = frame["family"][rows].iloc[0]
        settings = [one for one in frame["setting"][rows].dropna().unique() if one]
        label = family_name(family) + (f", {settings[0]}" if len(settings) == 1 else f" ({model})" if settings else "")
        style = family_style(family)
        look = {"color": style.colour, "ls": in_turn(DASHES, seen[family]), "marker": style.marker}
        look |= {"lw": 0.7, "ms": 5, "mec": current().ink, "mew": 0.5, "zorder": 3}
        found.append((rows, label + (f", {squeeze}" if squeeze else ""), look))
        seen[family] += 1
    times = Counter(label for _, label, _ in found)
    return [
        (rows, label if times[label] == 1 else f"{label} ({model})", look)
        for (rows, label, look), (model, _) in zip(found, dict.fromkeys(keys), strict=True)
    ]


def in_turn(cycle: Sequence, i: int) -> Any:
    return cycle[i % len(cycle)]


def _apart(wanted: Sequence[float], gap: float, low: float, high: float) -> np.ndarray:
    """Places as near to those wanted as they can be with at least ``gap`` between them, from ``low`` to ``high``."""
    order, steps = np.argsort(wanted, kind="stable"), gap * np.arange(len(wanted))
    free = np.asarray(wanted, dtype=float)[order] - steps  # ascending wherever there is room
    middle = (np.maximum.accumulate(free) + np.minimum.accumulate(free[::-1])[::-1]) / 2
    places = np.empty(len(wanted))
    places[order] = np.clip(middle, low, max(low, high - steps[-1])) + steps
    return places


def _drawn(figure: Figure) -> None:
    """Let the layout move the Axes, and with them the points, before names are placed beside them."""
    as_written(figure)
    figure.get_figure(root=True).draw_without_rendering()


def _name_ends(ax: Axes, ends: Sequence[tuple[float, float, str, str]], size: float = 8.0) -> None:
    """Write the names of lines (x, y, text, colour) at their ends; names that would meet are moved apart."""
    scale, box = 72 / ax.figure.dpi, ax.get_window_extent()
    for x in dict.fromkeys(end[0] for end in ends):
        here = [end for end in ends if end[0] == x]
        at = ax.transData.transform([(x, y) for _, y, _, _ in here])[:, 1] * scale
        places = _apart(at, size * 1.18, box.y0 * scale + size / 2, box.y1 * scale - size / 2)
        for (_, y, text, colour), start, place in zip(here, at, places, strict=True):
            tie = {"arrowstyle": "-", "color": colour, "lw": 0.7, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)}
            how = {"textcoords": "offset points", "va": "center", "annotation_clip": False, "arrowprops": tie}
            ax.annotate(text, (x, y), (22, place - start), fontsize=size, color=current().ink, **how)


def _powers(ax: Axes, channels: Sequence[int], low: float, high: float) -> None:
    """C on a log2 axis, a tick at each power of two; ``low`` and ``high``: octaves of room at the ends."""
    ax.set_xscale("log", base=2)
    first, last = np.log2(min(channels)), np.log2(max(channels))
    ax.set_xlim(2 ** (first - low), 2 ** (last + high))
    ticks = [2**i for i in range(int(np.ceil(first)), int(last) + 1)] or sorted(set(channels))
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.xaxis.minorticks_off()


def finish(ax: Axes, grid: str = "both") -> None:
    ax.grid(axis=grid, color=current().grid, lw=0.6)
    ax.set_axisbelow(True)
    strip_spines(ax)


def _slots(count: int, width: float) -> np.ndarray:
    """Sideways shifts of ``count`` series, ``width`` in all, about 0."""
    return width * (np.arange(count) - (count - 1) / 2) / max(count, 2)


def _left_out(ax: Axes, count: int, x: float, y: float) -> None:
    """Say, in the corner named by 0 and 1, what a log axis cannot show."""
    if count:
        text = f"{count} site{'s' * (count > 1)} left out, where nothing moves a gate"
        place = {"ha": ("left", "right")[x], "va": ("bottom", "top")[y], "transform": ax.transAxes}
        ax.text(0.01 + 0.98 * x, 0.01 + 0.98 * y, text, fontsize="x-small", color=current().ink, **place)


def percent(value: float, _: int = 0) -> str:
    return f"{100 * value:.3g} %"


# -------------------------------------------------------------------------------------------------------- by channels


@names_as_written
def coverage_by_channels(
    allowed: pd.DataFrame, measured: pd.DataFrame | None = None, *, figure: Figure | None = None
) -> Figure:
    """What k and r allow and cost by C, each on axes of its own, and the trained sites beside it.

    Rows: share of the C² pairs, rank/C, parameters, multiply-adds for one image. Left column: ECA, a line for each k.
    Right column: SE, a line for each r. Where all lines lie on each other, the panel says so. Of trained sites, open
    markers are what the weights make of it (partners/C, effective rank/C), small filled ones what is counted (pairs/C²,
    parameters, multiply-adds). The open ones of each k and r have a place of their own beside their C.

    Args:
        allowed: What :func:`ecaviz.coverages.allowed` gives.
        measured: What :func:`ecaviz.coverages.coverage_table` or ``recorded`` gives; families but ECA and SE are left
            out. None for none.
        figure: Where to draw; None for a new one.

    Raises:
        ValueError: A frame has no rows (or none of ECA or SE), or lacks columns.
    """
    counted = "family channels kernel_size reduction structural parameters multiply_adds"
    check_frame(allowed, f"{counted} rank_share", "coverage_by_channels", "ecaviz.coverages.allowed")
    points = allowed[:0]
    if measured is not None:
        check_frame(measured, f"{counted} effective_rank partners", "coverage_by_channels", TABLE)
        points = measured[measured["family"].isin(KNOBS)]
    families = [family for family in KNOBS if (allowed["family"] == family).any()]
    if not families:
        raise ValueError("coverage_by_channels: the frame has no rows of the families eca or se.")
    if figure is None:
        figure = Picture(figsize=(5.2 * len(families) + 0.6, 12), layout="constrained")
    axes = figure.subplots(4, len(families), sharey="row", sharex=True, squeeze=False)
    rows = (
        ("structural", "partners", "pairs/C²" + ", partners/C" * bool(len(points))),
        ("rank_share", "effective_rank", "rank/C" + ", effective rank/C" * bool(len(points))),
        ("parameters", "", "parameters of one module"),
        ("multiply_adds", "", "multiply-adds of one module"),
    )
    names = []
    for column, family in enumerate(families):
        knob, letter, name, markers = KNOBS[family]
        lines, own = (one[(one["family"] == family) & one[knob].notna()] for one in (allowed, points))
        texts = {value: f"{letter} = {value:.3g}" for value in sorted({*lines[knob], *own[knob]})}
        for ax, (value, realised, label) in zip(axes[:, column], rows, strict=True):
            names.append((ax, _allowed_lines(ax, lines, texts, value)))
            if len(own):
                _trained_points(ax, own, texts, value, realised)
            if column == 0:
                ax.set_ylabel(label)
        head = View(axes[0, column])
        head.title(f"{family_name(family)}: by {name}")
        if len(own):
            handles = [Line2D([], [], marker=in_turn(markers, i), **_open()) for i in range(len(texts))]
            head.legend(handles, list(texts.values()), 5)
        axes[3, column].set_xlabel("channels C")
    for i, ax in enumerate(axes.flat):
        ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(lambda value, _: "")
        if i < 2 * len(families):
            ax.yaxis.set_major_formatter(percent)
            ax.set_ylim(top=2.5)
        _powers(ax, [*allowed["channels"], *points["channels"]], 0.4, 0.4)
        finish(ax)
    what = "k moves the pairs and r the rank: what each allows (lines)"
    if len(families) == 1:
        what = f"what {KNOBS[families[0]][1]} allows (lines)"
    what += " and what trained sites make of it (points)" if len(points) else " by C"
    figure.suptitle(what, x=0.01, ha="left", fontsize="large")
    if len(points):
        kinds = {
            "allowed (lines)": {"color": current().ink, "lw": 1.4},
            "trained sites (points): partners/C, effective rank/C": {"marker": "o", **_open()},
            "trained sites (points): pairs/C², parameters, multiply-adds": {"marker": "o", **_filled()},
        }
        handles = [Line2D([], [], label=label, **look) for label, look in kinds.items()]
        figure.legend(
            handles=handles, loc="outside lower left", ncols=2 * len(families) - 1, fontsize="small", frameon=False
        )
    _drawn(figure)
    for ax, ends in names:
        _name_ends(ax, ends)
    return figure


def _allowed_lines(ax: Axes, lines: pd.DataFrame, texts: dict[float, str], value: str) -> list:
    """A line for each k or r; returns what to write at their ends. If all lie on each other, that is said instead."""
    family = lines["family"].iloc[0]
    knob, letter, _, _ = KNOBS[family]
    colour = family_style(family).colour
    lines = lines.sort_values("channels")
    ends = []
    for i, (at, text) in enumerate(texts.items()):
        one = lines[lines[knob] == at]
        if len(one):
            x, y = column(one, "channels"), column(one, value)
            ax.plot(x, y, color=colour, ls=in_turn(DASHES, i), lw=1.4, label=text)
            ends.append((x[-1], y[-1], text, colour))
    if len(ends) < 2 or (lines.groupby("channels")[value].nunique() > 1).any():
        return ends
    what = {"structural": "all pairs", "rank_share": "full rank"}.get(value, "the same")
    text = f"every {letter} allows {what}: the {len(ends)} lines lie on each other"
    at = (lines["channels"].iloc[0], lines[value].iloc[0])
    ax.annotate(text, at, (0, 5), textcoords="offset points", fontsize="small", color=current().ink)
    return []


def _open() -> dict:
    return {"ls": "", "mfc": "none", "mec": current().ink, "ms": 5.5, "mew": 0.9}


def _filled() -> dict:
    return {"ls": "", "mfc": current().ink, "mec": current().ink, "ms": 3, "mew": 0}


def _trained_points(ax: Axes, points: pd.DataFrame, texts: dict[float, str], counted: str, realised: str) -> None:
    """Trained sites: small and filled what is counted, open what the weights make of it."""
    knob, _, _, markers = KNOBS[points["family"].iloc[0]]
    for i, ((at, text), shift) in enumerate(zip(texts.items(), _slots(len(texts), 0.7), strict=True)):
        one = points[points[knob] == at]
        channels = column(one, "channels")
        look = {"marker": in_turn(markers, i), "zorder": 3}
        if counted != "rank_share":
            ax.plot(channels, column(one, counted), label=f"{text}, counted", **_filled(), **look)
        if realised:
            y = positive(column(one, realised) / channels)
            ax.plot(channels * 2.0**shift, y, label=f"{text}, realised", **_open(), **look)
    if realised:
        _left_out(ax, int((~(points[realised] > 0)).sum()), *((0, 0) if realised == "partners" else (1, 1)))


@names_as_written
def partners_by_channels(
    measured: pd.DataFrame, allowed_sizes: Sequence[int] | None = None, *, ax: Axes | None = None
) -> Axes:
    """How many channels really move a gate, by C: the one scale on which k and r can be compared.

    A point is the median over the sites and seeds of a model with that C, its bar reaches from the smallest of them to
    the largest. Dotted lines are what is allowed: k channels by a k, all C by any r.

    Args:
        measured: What :func:`ecaviz.coverages.coverage_table` or ``recorded`` gives.
        allowed_sizes: Kernel sizes to draw a line for; None for those of the frame.
        ax: Where to draw.

    Raises:
        ValueError: The frame has no rows, or lacks columns.
    """
    check_frame(measured, "model family setting site channels kernel_size partners", "partners_by_channels", TABLE)
    ax = axes_or_current(ax)
    sizes = measured["kernel_size"].dropna().unique() if allowed_sizes is None else allowed_sizes
    sizes = sorted({int(k) for k in sizes})
    channels = sorted({int(c) for c in measured["channels"]})
    shown = measured["partners"] > 0
    _powers(ax, channels, 1.15, 0.45)
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.yaxis.minorticks_off()
    ax.set_ylim(min(0.8, *measured["partners"][shown], *sizes) / 1.1, 1.6 * max(channels))
    dotted, small = (
        {"color": current().muted, "ls": ":", "lw": 1.1, "zorder": 1},
        {"fontsize": "x-small", "color": current().ink},
    )
    ends = np.array(ax.get_xlim())
    ax.plot(ends, ends, label="allowed by any r", **dotted)
    turned = {"rotation": np.degrees(np.arctan(1.15)), "rotation_mode": "anchor", "transform_rotates_text": True}
    ax.text(channels[0], 1.15 * channels[0], "all C channels: allowed by any r", **small, **turned)
    for k in sizes:
        ax.plot(ends, [k, k], label=f"allowed by k = {k}", **dotted)
        ax.annotate(f"allowed by k = {k}", (ends[0], k), (3, 2), textcoords="offset points", **small)
    names, series = [], series_of(measured.drop(columns="squeeze", errors="ignore"))
    for (own, label, look), shift in zip(series, _slots(len(series), 0.7), strict=True):
        table = measured[own & shown.to_numpy(dtype=bool)].groupby("channels")["partners"].agg(["median", "min", "max"])
        if not len(table):
            continue
        x = table.index.to_numpy(dtype=float) * 2.0**shift
        ax.vlines(x, table["min"], table["max"], color=look["color"], lw=1.1, zorder=2)
        ax.plot(x, table["median"], label=label, **look)
        names.append((table.index[-1] * 2.0**0.4, table["median"].iloc[-1], label, look["color"]))
    _left_out(ax, int((~shown).sum()), 1, 0)
    ax.set_xlabel("channels C")
    ax.set_ylabel("realised partners of a gate (channels)")
    strip_spines(ax)
    ax.set_title(_partners_title(measured[shown]), loc="left", fontsize="medium")
    _drawn(ax.figure)
    _name_ends(ax, names, 7.5)
    return ax


def _partners_title(shown: pd.DataFrame) -> str:
    """What SE makes of its C, and ECA of its k."""
    said = []
    for family, of, letter in (("se", "channels", "C"), ("eca", "kernel_size", "k")):
        one = shown[(shown["family"] == family) & shown[of].notna()]
        if len(one):
            share = np.median(column(one, "partners") / column(one, of))
            said.append(f"{family_name(family)} {100 * share:.0f} % of {letter}")
    return "realised partners of a gate, by C" + (f"; in the median {', '.join(said)}" if said else "")


# ------------------------------------------------------------------------------------------------------------- by site


def places_of(frame: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    """The places of all models in one order, each model's own kept, and at which of them each row is.

    What the names of all sites of a model end with is left out: ``layer1.0.se.channel`` and ``layer1.0.se`` are both at
    the place ``layer1.0``.
    """
    order: list[str] = []
    at: dict[tuple[str, str], str] = {}
    for model, rows in frame.groupby("model", sort=False):
        names = short = list(rows["site"].unique())
        while (shorter := layer_labels(short)) != short:
            short = shorter
        last = 0
        for name, place in zip(names, short, strict=True):
            if place not in order:
                order.insert(last, place)
            last = order.index(place) + 1
            at[model, name] = place
    return order, np.array([order.index(at[pair]) for pair in zip(frame["model"], frame["site"], strict=True)])


@names_as_written
def directness_by_site(summary: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Directness of each model by site, from input to output, with its interval over seeds.

    Dotted, in the same colour: what equal entries in a row of J would give, one over the partners that are allowed. A
    model above its dotted line ties a gate to its own channel by more than that; directness 1 is a tie to it alone.

    Args:
        summary: What :func:`ecaviz.coverages.summary` gives for the directness.
        ax: Where to draw.

    Raises:
        ValueError: The frame has no rows, or lacks columns.
    """
    columns = "model family setting site channels mean low high equal"
    check_frame(summary, columns, "directness_by_site", "ecaviz.coverages.summary")
    ax = axes_or_current(ax)
    (sites, at), series = places_of(summary), series_of(summary)
    floor = 0.6 * np.nanmin(positive(summary[["mean", "equal"]]), initial=1.0)  # intervals may reach below zero
    drawn, names = set(), []
    for (own, label, look), shift in zip(series, _slots(len(series), 0.6), strict=True):
        x, colour = at[own], look["color"]
        mean, low, high, equal = (column(summary[own], name) for name in ("mean", "low", "high", "equal"))
        if (reference := (colour, *x, *np.round(equal, 9))) not in drawn:
            drawn.add(reference)
            ax.plot(x, equal, color=colour, ls=":", lw=1.2, zorder=1, label=f"{label}: equal entries")
        mean = positive(mean)
        ax.vlines(x + shift, np.maximum(low, floor), np.maximum(high, floor), color=colour, lw=1.2, zorder=2)
        ax.plot(x + shift, mean, label=label, **look)
        names += [(x[i] + 0.32, mean[i], label, colour) for i in np.flatnonzero(~np.isnan(mean))[-1:]]
    ax.set_yscale("log")
    ax.set_ylim(floor, 1.35)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlim(-0.5, len(sites) - 0.5)
    sizes = [summary["channels"][at == i].unique() for i in range(len(sites))]
    ticks = [f"{site}\nC = {size[0]}" if len(size) == 1 else site for site, size in zip(sites, sizes, strict=True)]
    turned = {} if len(sites) <= 10 else {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(sites)), ticks, fontsize="small", **turned)
    ax.set_xlabel("site, from input to output")
    ax.set_ylabel("directness J_ii²/Σ_j J_ij² (mean over gates)")
    finish(ax, "y")
    what = f"{_above(summary)}\ndotted, same colour: equal entries; bars: interval over seeds"
    ax.set_title(what, loc="left", fontsize="medium")
    _drawn(ax.figure)
    _name_ends(ax, names, 7.5)
    return ax


def _above(summary: pd.DataFrame) -> str:
    """At how many sites the directness, its whole interval, lies above what equal entries would give."""
    summary = summary[summary["equal"] < 1 - 1e-9]  # where a gate sees its own channel alone, it cannot
    above = summary["low"].fillna(summary["mean"]) > summary["equal"] * (1 + 1e-6)
    table = above.groupby(summary["family"], sort=False).agg(["sum", "size"])
    said = [f"{family_name(name)} {int(row['sum'])} of {int(row['size'])}" for name, row in table.iterrows()]
    if len(said) > 4:
        said = [f"{int(above.sum())} of {len(above)}"]
    return "directness by site" + (f"; above equal entries: {', '.join(said)} sites" if said else "")
