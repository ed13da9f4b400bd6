"""The artists behind what a surgery on a kernel does: response, gates, change by surgery, the first classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from .looks import family_style
from .themes import current
from .views import FULL, View, nice_top, set_limits, strip_spines

__all__ = ["ChangeBySurgery", "GateScatter", "ResponseCurves", "TopClasses"]


class ResponseCurves(View):
    r"""\|H(f)\| of a kernel before and after, over what chance gives."""

    def __init__(self, ax: Axes):
        super().__init__(ax)
        eca = family_style("eca")
        self.band = ax.fill([0, 0.5, 0.5, 0], [0, 0, 0, 0], color=current().ink, alpha=0.10, lw=0)[0]
        self.before = ax.plot([], [], color=eca.colour, lw=2, label="learned")[0]
        self.after = ax.plot([], [], color=current().ink, lw=1.5, ls="--", label="now")[0]
        ax.set_xlabel("frequency f (cycles per channel)")
        ax.set_ylabel("gain |H(f)|")
        ax.set_xticks([0, 0.125, 0.25, 0.375, 0.5], ["0", "1/8", "1/4", "3/8", "1/2"])
        strip_spines(ax)
        self.moving += [self.band, self.before, self.after]
        self.legend([self.before, self.after, self.band], ["learned", "now", "95 % of fresh kernels"], 3)

    def update(
        self,
        frequencies: np.ndarray,
        before: np.ndarray,
        after: np.ndarray | None,
        band: tuple[np.ndarray, np.ndarray],
        *,
        top: float,
        title: str = "",
    ) -> None:
        """Show another kernel.

        Args:
            frequencies: F, 0…0.5.
            before: Gain of the learned kernel, F.
            after: Of what took its place, F; None where that is no kernel over neighbours.
            band: Lower and upper ends of what fresh kernels have, F each.
            top: What the axis has room for.
            title: What is seen.
        """
        low, high = band
        self.band.set_xy(
            np.concatenate([np.column_stack([frequencies, low]), np.column_stack([frequencies, high])[::-1]])
        )
        self.before.set_data(frequencies, before)
        self.after.set_data([] if after is None else frequencies, [] if after is None else after)
        set_limits(self.ax, x=(0.0, 0.5), y=(0.0, top))
        self.frame = (top,)
        self.title(title)


class GateScatter(View):
    """The gates of one image before and after, a point a channel, and the line where nothing changed."""

    def __init__(self, ax: Axes):
        super().__init__(ax)
        self.line = ax.plot([0, 1], [0, 1], color=current().muted, lw=1)[0]
        self.points = ax.plot([], [], ls="", marker="o", ms=3.5, mew=0, alpha=0.5, color=family_style("eca").colour)[0]
        ax.set_xlabel("gate ω before")
        ax.set_ylabel("gate ω now")
        strip_spines(ax)
        self.moving += [self.line, self.points]

    def update(
        self, before: np.ndarray, after: np.ndarray, *, limits: tuple[float, float] = FULL, title: str = ""
    ) -> None:
        """Show other gates.

        Args:
            before: C gates.
            after: C gates.
            limits: Ends of both axes; gates beyond them are drawn at the ends.
            title: What is seen.
        """
        self.points.set_data(np.clip(before, *limits), np.clip(after, *limits))
        self.line.set_data(limits, limits)
        set_limits(self.ax, x=limits, y=limits)
        self.frame = (limits,)
        self.title(title)


class ChangeBySurgery(View):
    """One number for each k and for each other surgery, the present one marked, the trained k too."""

    def __init__(self, ax: Axes):
        super().__init__(ax)
        eca = family_style("eca")
        self.line = ax.plot([], [], color=eca.colour, marker=eca.marker, ms=4, lw=1.4, clip_on=False)[0]
        self.others = ax.plot([], [], ls="", color=current().ink, marker="D", ms=5, clip_on=False)[0]
        self.here = ax.plot([], [], ls="", marker="o", ms=11, mfc="none", mec=current().ink, mew=1.8, clip_on=False)[0]
        self.trained = ax.axvline(0, color=current().muted, lw=1, ls=":")
        self.note = ax.annotate(
            "trained k",
            (0, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -10),
            textcoords="offset points",
            fontsize="small",
        )
        ax.set_xlabel("resized to k, or another surgery")
        ax.set_ylabel("mean |Δω|")
        strip_spines(ax)
        self.moving += [self.trained, self.line, self.others, self.here, self.note]

    def update(
        self,
        sizes: Sequence[int],
        by_size: np.ndarray,
        modes: Sequence[str],
        by_mode: np.ndarray,
        now: int | str,
        trained: int,
        *,
        title: str = "",
    ) -> None:
        """Show other numbers.

        Args:
            sizes: The kernel sizes.
            by_size: A number for each.
            modes: The other surgeries.
            by_mode: A number for each; NaN for one that this site does not allow.
            now: The present k or surgery.
            trained: The k the model was trained with.
            title: What is seen.
        """
        count = len(sizes)
        places = dict(zip([*sizes, *modes], [*range(count), *np.arange(count, count + len(modes)) + 0.6], strict=True))
        values = dict(zip([*sizes, *modes], [*by_size, *by_mode], strict=True))
        self.line.set_data(range(count), by_size)
        self.others.set_data([places[mode] for mode in modes], by_mode)
        self.here.set_data([places[now]], [values[now]])
        at = np.interp(trained, sizes, range(count))
        self.trained.set_xdata([at, at])
        self.note.xy = (at, 1)
        inside = sizes[0] <= trained <= sizes[-1]
        self.trained.set_visible(inside)
        self.note.set_visible(inside)
        labels = [*map(str, sizes), *modes]
        if [text.get_text() for text in self.ax.get_xticklabels()] != labels:
            self.ax.set_xticks(list(places.values()), labels)
            for text in self.ax.get_xticklabels()[count:]:
                text.set_rotation(28)
                text.set_horizontalalignment("right")
                text.set_rotation_mode("anchor")
        largest = float(np.nanmax([*by_size, *by_mode]))
        top = nice_top(1.15 * largest)
        set_limits(self.ax, x=(-0.6, count + len(modes) + 0.1), y=(0.0, top))
        self.frame = (tuple(labels), top)
        self.title(title)


class TopClasses(View):
    """The first classes before, to the left, and after, to the right: bars as long as their probabilities."""

    most = 5
    letters = 21

    def __init__(self, ax: Axes):
        super().__init__(ax)
        eca = family_style("eca")
        rows = range(self.most)
        self.left = [ax.add_patch(Rectangle((0, y - 0.4), 0, 0.8, fc=eca.colour, alpha=0.35, lw=0)) for y in rows]
        self.right = [
            ax.add_patch(
                Rectangle((0, y - 0.4), 0, 0.8, fc=current().faint, ec=current().hues["ash"], hatch="///", lw=0)
            )
            for y in rows
        ]
        self.left_names = [ax.text(-0.03, y, "", ha="right", va="center", fontsize="small") for y in rows]
        self.right_names = [ax.text(0.03, y, "", ha="left", va="center", fontsize="small") for y in rows]
        ax.axvline(0, color=current().ink, lw=0.8)
        ax.set_xlim(-1, 1)
        ax.set_ylim(self.most - 0.4, -0.6)
        ax.set_yticks([])
        ax.set_xticks([-1, -0.5, 0, 0.5, 1], ["100", "50", "0", "50", "100"])
        ax.set_xlabel("← before      probability (%)      now →")
        ax.spines[["left", "right", "top"]].set_visible(False)
        self.frame = ()
        self.moving += [*self.left, *self.right, *self.left_names, *self.right_names]

    def update(
        self,
        before: Sequence[tuple[str, float]],
        after: Sequence[tuple[str, float]] | None,
        *,
        title: str = "",
    ) -> None:
        """Show other classes.

        Args:
            before: Names and probabilities (0…1), the first first.
            after: The same; None while it is not known yet.
            title: What is seen.
        """
        for i in range(self.most):
            for bars, names, side, chosen in (
                (self.left, self.left_names, -1, before),
                (self.right, self.right_names, 1, after),
            ):
                name, share = chosen[i] if chosen is not None and i < len(chosen) else ("", 0.0)
                bars[i].set_width(side * share)
                if chosen is None and i == 0:
                    names[i].set_text("…")
                else:
                    names[i].set_text(f"{self._short(name)}  {100 * share:.0f} %" if name else "")
        self.title(title)

    def _short(self, name: str) -> str:
        return name if len(name) <= self.letters else f"{name[: self.letters - 1]}…"
