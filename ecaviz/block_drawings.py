"""Drawings of the attention blocks: operations in order, the shape after each. Reached as ``ecaviz.plots.<name>``.

:data:`ecaviz.block_steps.BLOCKS` says what is in each block, step by step; one routine draws them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from matplotlib.colors import to_rgba
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path

from .block_steps import BLOCKS, FORMULAS, NOTES, Step
from .looks import family_name, family_style
from .texts import names_as_written
from .themes import current
from .views import axes_or_current

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

__all__ = ["attention_diagram"]

# ------------------------------------------------------------------------------------------------------------ geometry

# Lengths are in units of the font size, so that one number fits the whole drawing to the Axes.
SIZE = 10.0
"""The largest font size, in points."""
READABLE = 7.5
"""Where the small text, too, should stay above, in points: else all text is made equally large."""
LEADING = 1.25
HALF = 1.75
"""Half the height of a box."""
LINE = 1.85
"""How far the two lines of a pair lie from the middle."""
LANE = 1.55
"""Half the height of one of a pair."""
RADIUS = 0.85
CAPTION = RADIUS + 0.55
"""Where the words beneath a circle begin."""
TAP = 0.5
"""From where a line begins to where the bypass leaves it."""
GAP = 1.15
"""What an arrow is longer than its text."""
SPACE = 0.2
"""Between the x at either end and its arrow."""


def _width(text: str) -> float:
    """Width of the widest line in units of its font size."""
    font = FontProperties(size=100)
    widths = [text_to_path.get_text_width_height_descent(line, font, False)[0] for line in text.split("\n")]
    return max(widths) / 100


@dataclass(frozen=True)
class _Column:
    """What stands at one place of the chain: a step, or two side by side; with the line that leads to it.

    Attributes:
        steps: One or two.
        start: Where the line that leads to it begins.
        left: Left end.
        right: Right end.
        lines: How many lines lead in.
        shape: What is written above them.
        symbol: What is written below them.
        tapped: Whether the bypass leaves them.
    """

    steps: tuple[Step, ...]
    start: float
    left: float
    right: float
    lines: int
    shape: str
    symbol: str
    tapped: bool

    @property
    def step(self) -> Step:
        return self.steps[0]

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2

    @property
    def touch(self) -> float:
        """Where a line that comes from the left ends: at the box, or at the circle."""
        return self.middle - RADIUS if self.step.round else self.left

    @property
    def out(self) -> float:
        """Where the line that leads on begins."""
        return self.middle + RADIUS if self.step.round else self.right

    @property
    def tall(self) -> bool:
        return max(self.lines, len(self.steps), self.step.lines) > 1

    @property
    def multiplies(self) -> bool:
        """Whether gates meet maps here."""
        return self.step.text.startswith("×")


@dataclass(frozen=True)
class _Row:
    """A chain from left to right.

    Attributes:
        columns: What stands in it.
        first: The name at its left end, at 0.
        last: The name at its right end.
        end: The right end.
    """

    columns: tuple[_Column, ...]
    first: str
    last: str
    end: float

    @property
    def half(self) -> float:
        return LINE + LANE if any(column.tall for column in self.columns) else HALF

    @property
    def over(self) -> float:
        """Where the bypass runs."""
        return self.half + 0.9

    def brackets(self, small: float) -> float:
        """Where the brackets run."""
        return -max(self.half, CAPTION + 2 * LEADING * small) - 0.65


def _stages(name: str) -> list[list[tuple[Step, ...]]]:
    """The steps of a block, cut after each ×."""
    stages: list[list[tuple[Step, ...]]] = [[]]
    for one in BLOCKS[name]:
        steps = one if isinstance(one, tuple) else (one,)
        stages[-1].append(steps)
        if steps[0].text.startswith("×"):
            stages.append([])
    return stages[:-1]


def _rows(name: str, small: float, *, split: bool) -> list[_Row]:
    """The block in one row, or in a row for each of its stages."""
    stages = _stages(name)
    if not split:
        last = "′" * (len(stages) - 1)
        return [_row([steps for stage in stages for steps in stage], small, 0, f"x{last}·ω{last}")]
    rows = []
    for i, stage in enumerate(stages):
        primes, following = "′" * i, "′" * (i + 1)
        product = f"x{primes}·ω{primes}"
        rows.append(_row(stage, small, i, product if i == len(stages) - 1 else f"x{following} = {product}"))
    return rows


def _row(groups: list[tuple[Step, ...]], small: float, stage: int, last: str) -> _Row:
    first = "x" + "′" * stage
    columns: list[_Column] = []
    start, lines, shape, symbol, tapped = _width(first) + SPACE, 1, "C×H×W", "", True
    for steps, after in zip(groups, [*groups[1:], None], strict=True):
        label = small * max(_width(shape), _width(symbol))
        left = start + label + GAP + tapped * TAP + (len(steps) > lines) * 0.9
        step = steps[0]
        if step.round:
            width = max(2 * RADIUS, small * _width(step.text[1:]))
            left = max(left - (width / 2 - RADIUS), columns[-1].right + 0.3)  # the caption may reach under the arrow
        else:
            width = max(max(_width(one.text) for one in steps) + 0.9, 2.6)
        columns.append(_Column(steps, start, left, left + width, lines, shape, symbol, tapped))
        stage += columns[-1].multiplies
        start, lines, tapped = columns[-1].out, max(len(steps), step.lines), columns[-1].multiplies
        shape, symbol = _stacked(steps), _symbol(step, after and after[0], "′" * stage)
    end = max(start + small * _width(shape) + GAP, columns[-1].right) + SPACE + _width(last)
    return _Row(tuple(columns), first, last, end)


def _stacked(steps: tuple[Step, ...]) -> str:
    """The shape of two results side by side: twice C is 2×C, twice 1×H×W is 2×H×W."""
    shape = steps[0].shape
    return shape if len(steps) == 1 else f"2×{shape.removeprefix('1×')}"


def _symbol(here: Step, after: Step | None, primes: str) -> str:
    """What the result of a step is called: y, z or ω; x′ between two stages."""
    if after is None:
        return ""
    if here.text.startswith("×"):
        return f"x{primes}"
    if here.part == "gate":
        return f"ω{primes}"
    if here.part == after.part:
        return ""
    if here.part == "squeeze" and after.part == "gate":
        return f"z{primes} = y{primes}"
    return {"squeeze": "y", "excite": "z"}[here.part] + primes


# ------------------------------------------------------------------------------------------------------------- drawing


@names_as_written
def attention_diagram(name: str, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """The block of one attention module: boxes in order from x to x·ω, and the shape after each of them.

    Hatched boxes have parameters, white ones have none. The line over the top is x itself, which the gates multiply.
    Gather-Excite is drawn with the global extent. The drawing is made to fit the Axes as it is: 11 by 2.2 inches with a
    constrained layout hold every block. In a taller figure, 11 by 3.4, CBAM takes a row for each of its stages.

    Args:
        name: One of :data:`ecaviz.attention.FAMILIES`, but not "none".
        ax: Where to draw.
        title: Replaces the title.

    Raises:
        ValueError: No block has that name.
    """
    if name not in BLOCKS:
        raise ValueError(f"attention_diagram: no block is called {name!r}. Known: {', '.join(BLOCKS)}.")
    ax = axes_or_current(ax)
    ax.set_axis_off()
    formula, count = FORMULAS[name]
    what = f"{family_name(name)}: {formula}; {count}"
    ax.set_title(what if title is None else title, loc="left", fontsize="medium")
    _Drawing(ax, name).draw()
    return ax


def _room(ax: Axes) -> tuple[float, float]:
    """Width and height of the Axes in points, after the layout."""
    figure = ax.figure.canvas.figure
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    box = ax.get_window_extent()
    return box.width * 72 / figure.dpi, box.height * 72 / figure.dpi


class _Drawing:
    """The artists of one block, in units of the font size; each row has y = 0 in the middle of its boxes.

    Of the ways to lay it out (one row or more; small text smaller or not) it takes the first that is readable, or else
    the one whose smallest text is the largest.
    """

    KEYS = (("with parameters", True), ("without", False))

    def __init__(self, ax: Axes, name: str):
        self.ax, self.name = ax, name
        self.colour = family_style(name).colour
        self.note = NOTES.get(name, "")
        self.base = 0.0
        room = _room(ax)
        best = 0.0
        for split, small in ((False, 0.85), (True, 0.85), (False, 1.0), (True, 1.0)):
            rows = _rows(name, small, split=split)
            width = max(*(row.end for row in rows), self._foot_width(small)) + 0.4
            height = sum(self._height(row, small) for row in rows) + 1.8
            size = min(SIZE, room[0] / width, room[1] / height)
            if min(small * size, READABLE) > best:
                best = min(small * size, READABLE)
                self.rows, self.small, self.size = rows, small, size
                spare = room[1] / size - height
        ax.set_xlim(-0.2, room[0] / self.size - 0.2)
        ax.set_ylim(-room[1] / self.size + 0.3 * spare, 0.3 * spare)

    @staticmethod
    def _height(row: _Row, small: float) -> float:
        """From above the bypass to beneath what is written at the brackets."""
        return row.over + 0.4 - row.brackets(small) + 1.9 * small

    def _foot_width(self, small: float) -> float:
        return sum(small * _width(key) + 3.0 for key, _ in self.KEYS) + small * _width(self.note)

    def draw(self) -> None:
        """Draw every row, and the line at the foot."""
        top = 0.0
        for row in self.rows:
            self.base = top - row.over - 0.4
            self._row(row)
            top -= self._height(row, self.small)
        self.base = top - 0.9
        self._foot()

    def _row(self, row: _Row) -> None:
        self._text(0, 0, row.first, ha="left")
        self._text(row.end, 0, row.last, ha="right")
        for column in row.columns:
            self._link(column)
            self._column(column)
        last, stop = row.columns[-1], row.end - _width(row.last) - SPACE
        self._arrow(last.out, 0, stop)
        self._label((last.out + stop) / 2, last.step.shape, "")
        tap = 0.0
        for column in row.columns:
            if column.tapped:
                tap = column.start + TAP / 2
            if column.multiplies:
                self.ax.plot([tap], [self.base], marker="o", ms=0.35 * self.size, color=current().ink, zorder=3)
                self._line((tap, tap, column.middle), (0, row.over, row.over))
                self._arrow(column.middle, row.over, column.middle, RADIUS)
        for part, run in groupby(row.columns, key=lambda column: column.step.part):
            self._bracket(part, list(run), row.brackets(self.small))

    def _column(self, column: _Column) -> None:
        step = column.step
        if step.round:
            circle = Circle((column.middle, self.base), RADIUS, fc=current().paper, ec=current().ink, lw=1.1, zorder=3)
            self.ax.add_patch(circle)
            self._text(column.middle, 0, step.text[0], share=1.1)
            if step.text[1:]:
                self._text(column.middle, -CAPTION, step.text[1:], share=self.small, va="top")
        elif len(column.steps) == 2:
            for one, y in zip(column.steps, (LINE, -LINE), strict=True):
                self._box(column.left, column.right, y, LANE, one.text, one.learned)
        else:
            half = LINE + LANE if column.tall else HALF
            self._box(column.left, column.right, 0, half, step.text, step.learned)

    def _box(self, left: float, right: float, y: float, half: float, text: str, learned: bool) -> None:
        look = {"boxstyle": "round,pad=0,rounding_size=0.4", "zorder": 3}
        at = ((left, self.base + y - half), right - left, 2 * half)
        if learned:
            hatching = {"fc": to_rgba(self.colour, 0.14), "ec": to_rgba(self.colour, 0.35), "hatch": "////", "lw": 0}
            self.ax.add_patch(FancyBboxPatch(*at, **hatching, **look))
            frame = {"fc": "none", "ec": self.colour, "lw": 1.8}
        else:
            frame = {"fc": current().paper, "ec": current().ink, "lw": 1.0}
        self.ax.add_patch(FancyBboxPatch(*at, **frame, **look))
        if text:
            written = self._text((left + right) / 2, y, text)
            if learned:
                written.set_path_effects([withStroke(linewidth=3, foreground=current().paper)])

    def _link(self, column: _Column) -> None:
        """The arrows into a column, and what is written at them."""
        start, stop, pair = column.start, column.touch, (LINE, -LINE)
        if column.lines == 1 and len(column.steps) == 2:
            fork = column.left - 1.0
            self._line((start, fork), (0, 0))
            self._line((fork, fork), pair)
            for y in pair:
                self._arrow(fork, y, stop)
            stop = fork + 0.3
        elif column.lines == 2 and column.step.round:
            for y in pair:
                self._line((start, column.middle), (y, y))
                self._arrow(column.middle, y, column.middle, y * RADIUS / LINE)
        else:
            for y in pair if column.lines == 2 else (0,):
                self._arrow(start, y, stop)
        self._label((start + column.tapped * TAP + stop - 0.3) / 2, column.shape, column.symbol)

    def _label(self, x: float, shape: str, symbol: str) -> None:
        self._text(x, 0.4, shape, share=self.small, va="baseline")
        if symbol:
            self._text(x, -0.3 - self.small * 0.75, symbol, share=self.small, va="baseline", style="italic")

    def _bracket(self, part: str, run: list[_Column], y: float) -> None:
        left, right = run[0].left, run[-1].right
        self._line((left, left, right, right), (y + 0.3, y, y, y + 0.3))
        gather = part == "squeeze" and self.name.startswith("ge-")
        text = f"{part} (gather)" if gather else part
        self._text((left + right) / 2, y - 0.25 - 0.8 * self.small, text, share=self.small, va="baseline")

    def _foot(self) -> None:
        x = 0.0
        for key, learned in self.KEYS:
            self._box(x, x + 1.6, 0, 0.45, "", learned)
            self._text(x + 1.9, -0.3 * self.small, key, ha="left", va="baseline", share=self.small)
            x += self.small * _width(key) + 3.0
        if self.note:
            self._text(x, -0.3 * self.small, self.note, ha="left", va="baseline", share=self.small)

    # ----------------------------------------------------------------------------------------------------- artists

    def _text(self, x: float, y: float, text: str, *, share: float = 1.0, ha="center", va="center", **look) -> Text:
        look |= {"fontsize": share * self.size, "color": current().ink, "linespacing": LEADING, "zorder": 4}
        return self.ax.text(x, self.base + y, text, ha=ha, va=va, **look)

    def _line(self, x: tuple[float, ...], y: tuple[float, ...]) -> None:
        self.ax.plot(
            x, [self.base + one for one in y], color=current().ink, lw=1.1, solid_capstyle="projecting", zorder=1
        )

    def _arrow(self, x: float, y: float, to_x: float, to_y: float | None = None) -> None:
        ends = (x, self.base + y), (to_x, self.base + (y if to_y is None else to_y))
        look = {"arrowstyle": "-|>", "mutation_scale": 0.8 * self.size, "shrinkA": 0, "shrinkB": 0, "zorder": 2}
        self.ax.add_patch(FancyArrowPatch(*ends, color=current().ink, lw=1.1, **look))
