"""Which stage and block of a network a site belongs to, so that it can be called conv_i_j as the papers do.

blocks_of(["layer1.0.se", "layer1.1.se", "layer2.0.se"])   # {"layer1.0.se": (2, 1), …}: conv_2_1, conv_2_2, conv_3_1
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["blocks_of", "last_of_stages", "title_of"]

MOST = 6
"""Stages that a network has at most; where names give more they are taken to say something else."""

FIRST = 2
"""The stages of a ResNet are counted from 2: conv1 is the stem."""


def blocks_of(sites: Mapping[str, int] | Sequence[str]) -> dict[str, tuple[int, int]]:
    """Stage and block of each site: i from 2 on, j from 1 on, as in conv_i_j.

    A stage is what shares the name up to its first number (``layer3``, ``blocks.4``, ``s2``); where that gives more
    than :data:`MOST` stages, or one for every site, and C is known, a run of sites of the same C. In ``layer3.1.se``
    both numbers are read from the name; else the sites of a stage are counted.

    Args:
        sites: Names in the order of the network, or C by name.
    """
    names = list(sites)
    known = re.compile(r"(?:.*\.)?layer(\d+)\.(\d+)(?:\.|$)")
    found = {name: known.match(name) for name in names}
    if all(found.values()):
        return {name: (int(one[1]) + FIRST - 1, int(one[2]) + 1) for name, one in found.items()}
    stages = [re.match(r"\D*\d*", name)[0] for name in names]
    count = len(set(stages))
    if isinstance(sites, Mapping) and (count > MOST or count == len(names)):
        stages, last = [], None
        for channels in sites.values():
            stages.append(len(stages) if channels != last else stages[-1])
            last = channels
    order = list(dict.fromkeys(stages))
    blocks: dict[str, tuple[int, int]] = {}
    for i, name in enumerate(names):
        blocks[name] = FIRST + order.index(stages[i]), 1 + stages[:i].count(stages[i])
    return blocks


def last_of_stages(blocks: Mapping[str, tuple[int, int]], whole: bool = False) -> list[str]:
    """The last site of each stage, the last stage's all if ``whole``; of many stages, :data:`MOST` evenly spread."""
    last = {stage: name for name, (stage, _) in blocks.items()}
    chosen = set(last.values())
    if len(chosen) > MOST:
        ends = list(last.values())
        chosen = {ends[round(i * (len(ends) - 1) / (MOST - 1))] for i in range(MOST)}
    elif whole:
        of_last = [name for name, (stage, _) in blocks.items() if stage == max(last)]
        chosen |= set(of_last[-3:])
    return [name for name in blocks if name in chosen]


def title_of(block: tuple[int, int]) -> str:
    """``conv_4_6``."""
    return f"conv_{block[0]}_{block[1]}"
