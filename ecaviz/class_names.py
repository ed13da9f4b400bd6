"""Which of a network's classes is meant by the class names of a set of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["own_classes"]


def own_classes(names: Sequence[str], own: Sequence[str]) -> Tensor | None:
    """The model's output for each class of the images, by name; None unless every class has exactly one.

    Names are compared without case, with _ for a space; of a name with synonyms ("tench, Tinca tinca") each will do,
    unless two classes share it (ImageNet has two cranes).
    """

    def plain(name: str) -> str:
        return " ".join(name.replace("_", " ").casefold().split())

    whole: dict[str, set[int]] = {}
    part: dict[str, set[int]] = {}
    for i, name in enumerate(own):
        whole.setdefault(plain(name), set()).add(i)
        for synonym in name.split(","):
            part.setdefault(plain(synonym), set()).add(i)
    found = [whole.get(plain(name)) or part.get(plain(name), set()) for name in names]
    if not found or any(len(outputs) != 1 for outputs in found):
        return None
    return torch.tensor([next(iter(outputs)) for outputs in found])
