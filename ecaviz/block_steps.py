"""What is in each attention block, step by step, for the drawings of :mod:`ecaviz.block_drawings`.

The steps are those of the modules that :func:`ecaviz.attention.build` makes, and a test compares them, layer by layer.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BLOCKS", "FORMULAS", "NOTES", "Step"]


@dataclass(frozen=True)
class Step:
    """One operation of a block.

    Attributes:
        text: The operation in words. One that begins with × or + is drawn as a circle, with the rest beneath it.
        shape: What comes out of it, without the batch: ``C×H×W``, ``C/r``.
        part: What it belongs to: "squeeze", "excite" or "gate".
        learned: Whether it has parameters.
        lines: How many lines lead out of it: 2 where one operation is applied to two things.
    """

    text: str
    shape: str
    part: str
    learned: bool = False
    lines: int = 1

    @property
    def round(self) -> bool:
        """Whether it is drawn as a circle."""
        return self.text[0] in "×+"


AVERAGE = Step("global\naverage", "C", "squeeze")
SIGMOID = Step("sigmoid\nσ", "C", "gate")
PER_CHANNEL = Step("×per\nchannel", "C×H×W", "gate")


def _after_average(*excite: Step) -> tuple[Step, ...]:
    return (AVERAGE, *excite, SIGMOID, PER_CHANNEL)


def _grouped(groups: str, size: str) -> tuple[Step, ...]:
    return _after_average(Step(f"FC within {groups}\ngroups of {size}", "C", "excite", learned=True))


_DEPTH_WISE = (
    Step("depth-wise conv\ns×s, the whole map", "C×1×1", "squeeze", learned=True),
    Step("BN", "C×1×1", "squeeze", learned=True),
)
_GLOBAL_GATE = (Step("sigmoid\nσ", "C×1×1", "gate"), PER_CHANNEL)

BLOCKS: dict[str, tuple[Step | tuple[Step, Step], ...]] = {
    "se": _after_average(
        Step("FC\nC → C/r", "C/r", "excite", learned=True),
        Step("ReLU", "C/r", "excite"),
        Step("FC\nC/r → C", "C", "excite", learned=True),
    ),
    "se-var1": _after_average(),
    "se-var2": _after_average(Step("w ⊙ y", "C", "excite", learned=True)),
    "se-var3": _after_average(Step("FC\nC → C", "C", "excite", learned=True)),
    "se-gc1": _grouped("16", "C/16"),
    "se-gc2": _grouped("C/16", "16"),
    "se-gc3": _grouped("C/8", "8"),
    "eca": _after_average(Step("1-D conv over\nchannels, k", "C", "excite", learned=True)),
    "eca-ns": _after_average(Step("1-D conv over channels,\none kernel per channel, k", "C", "excite", learned=True)),
    "cbam": (
        (Step("global\naverage", "C", "squeeze"), Step("global\nmaximum", "C", "squeeze")),
        Step("FC\nC → C/r", "2×C/r", "excite", learned=True, lines=2),
        Step("ReLU", "2×C/r", "excite", lines=2),
        Step("FC\nC/r → C", "2×C", "excite", learned=True, lines=2),
        Step("+", "C", "excite"),
        SIGMOID,
        PER_CHANNEL,
        (
            Step("maximum\nover channels", "1×H×W", "squeeze"),
            Step("mean\nover channels", "1×H×W", "squeeze"),
        ),
        Step("7×7 conv\n2 → 1", "1×H×W", "excite", learned=True),
        Step("BN", "1×H×W", "excite", learned=True),
        Step("sigmoid\nσ", "1×H×W", "gate"),
        Step("×per\nposition", "C×H×W", "gate"),
    ),
    "gsop": (
        Step("ReLU", "C×H×W", "squeeze"),
        Step("1×1 conv\nC → c", "c×H×W", "squeeze", learned=True),
        Step("BN", "c×H×W", "squeeze", learned=True),
        Step("ReLU", "c×H×W", "squeeze"),
        Step("covariance\nover positions", "c×c", "squeeze"),
        Step("BN", "c×c", "excite", learned=True),
        Step("row-wise conv\nc → 4 per row", "4c", "excite", learned=True),
        Step("1×1 conv\n4c → C", "C", "excite", learned=True),
        SIGMOID,
        PER_CHANNEL,
    ),
    "ge-theta-minus": (Step("global\naverage", "C×1×1", "squeeze"), *_GLOBAL_GATE),
    "ge-theta": (*_DEPTH_WISE, *_GLOBAL_GATE),
    "ge-theta-plus": (
        *_DEPTH_WISE,
        Step("ReLU", "C×1×1", "excite"),
        Step("1×1 conv\nC → C/r", "C/r×1×1", "excite", learned=True),
        Step("ReLU", "C/r×1×1", "excite"),
        Step("1×1 conv\nC/r → C", "C×1×1", "excite", learned=True),
        *_GLOBAL_GATE,
    ),
}
"""The steps of each block by family, from x to x·ω; two steps in brackets are done side by side."""

FORMULAS = {
    "se": ("ω = σ(W2 · ReLU(W1 · y))", "2C²/r parameters"),
    "se-var1": ("ω = σ(y)", "no parameters"),
    "se-var2": ("ω = σ(w ⊙ y)", "C parameters"),
    "se-var3": ("ω = σ(W · y)", "C² parameters"),
    "se-gc1": ("ω = σ(W · y), W of 16 blocks", "C²/16 parameters"),
    "se-gc2": ("ω = σ(W · y), W of C/16 blocks", "16C parameters"),
    "se-gc3": ("ω = σ(W · y), W of C/8 blocks", "8C parameters"),
    "eca": ("ω = σ(conv(y)), one kernel for all channels", "k parameters"),
    "eca-ns": ("ω = σ(conv(y)), every channel with its own kernel", "kC parameters"),
    "cbam": ("a gate for every channel, then one for every position", "2C²/r + C/r + C + 100 parameters"),
    "gsop": ("a channel's gate from the covariance of c maps", "(C+1)c + 4c + 4c² + 4c + (4c+1)C parameters"),
    "ge-theta-minus": ("ω = σ(average of x)", "no parameters"),
    "ge-theta": ("ω = σ(BN(depth-wise conv of x))", "Cs² + 2C parameters"),
    "ge-theta-plus": (
        "two 1×1 convs behind the depth-wise one",
        "Cs² + 2C + 2C²/r + C/r + C parameters",
    ),
}

_LOCAL = "log2(e) depth-wise 3×3 convs of stride 2, each with BN, instead; gates C×H/e×W/e, nearest neighbour to H×W"
NOTES = {
    "se-var1": "nothing between squeeze and gate: z = y",
    "se-var2": "every channel by itself",
    "se-var3": "all channels interact; nothing is reduced",
    "eca": "a channel and its k − 1 neighbours; beyond either end: zero",
    "eca-ns": "a channel and its k − 1 neighbours; beyond either end: zero",
    "cbam": "one MLP for both squeezes; its two results are added",
    "gsop": "the first ReLU works on a copy: what is gated is x itself",
    "ge-theta-minus": "extent e: average pooling of stride e instead; gates C×H/e×W/e, nearest neighbour to H×W",
    "ge-theta": f"extent e: {_LOCAL}",
    "ge-theta-plus": f"extent e: {_LOCAL}",
}
