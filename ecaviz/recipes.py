"""How networks are trained for a study: a recipe, which models, which seeds; read from a file.

The recipes of the recorded results lie in ``data/recipes``, a TOML file each.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from . import bundle, checks, training_sets

__all__ = ["Recipe", "Study", "read"]


NETWORK = ("blocks", "planes", "stem", "stem_strides")
"""What a recipe may change of a network."""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Recipe:
    """All that decides a bundled model besides its attention module and its seed.

    Attributes:
        name: What the results call it: the name of its file.
        data: The set of images: "shapes" or "cifar10".
        train_images: Images of the training split (of the procedural set, drawn with its own seed 0).
        test_images: Images of the held-out split that the accuracy is of.
        epochs: Passes over the training images.
        batch_size: Images a step.
        learning_rate: The peak, reached after the warm-up.
        weight_decay: Decoupled, on the weights of convolutions and linear layers; none on norms, biases and the vector
            w of SE-Var2.
        warmup: Share of all steps in which the learning rate rises from zero.
        shift: Pixels by which training images are moved at most, in either direction; what moves in is black.
        network: What differs from the bundle's own :class:`ecaviz.networks.Architecture`, by field: blocks, planes,
            stem, stem_strides.

    Raises:
        ValueError: A value that cannot be.
    """

    name: str = "shapes"
    data: str = "shapes"
    train_images: int = 24_000
    test_images: int = 3_600
    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    shift: int = 0
    network: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.data, str) or self.data not in training_sets.SETS:
            raise ValueError(f"train: data must be one of {', '.join(training_sets.SETS)}, got {self.data!r}.")
        for name, least in {"train_images": 1, "test_images": 1, "epochs": 1, "batch_size": 1, "shift": 0}.items():
            value = getattr(self, name)
            if not _whole(value) or value < least:
                raise ValueError(f"train: {name} must be at least {least}, got {value!r}.")
        for name, most in {"learning_rate": math.inf, "weight_decay": math.inf, "warmup": 1.0}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= min(most, 1e300):
                raise ValueError(f"train: {name} must be a number from 0 to {most:g}, got {value!r}.")
        if not isinstance(self.network, dict) or not set(self.network) <= set(NETWORK):
            raise ValueError(f"train: [network] may have {', '.join(NETWORK)}, got {self.network!r}.")

    @property
    def digest(self) -> str:
        """Eight hex digits that stand for all but the name: what a recorded run is told by from one trained otherwise.

        Fields at their defaults are left out, so that one that is added later changes no digest.
        """
        plain = {one.name: one.default for one in fields(self)}
        own = {key: value for key, value in asdict(self).items() if key != "name" and value and value != plain[key]}
        return hashlib.blake2b(json.dumps(own, sort_keys=True).encode(), digest_size=4).hexdigest()


@dataclass(frozen=True)
class Study:
    """What is trained.

    Attributes:
        recipe: How.
        models: Names of bundled models, those first that shall be trained first.
        seeds: Seeds of each.
    """

    recipe: Recipe
    models: tuple[str, ...]
    seeds: tuple[int, ...]


def read(path: str | os.PathLike) -> Study:
    """Read a recipe's file.

    Args:
        path: A TOML file: the fields of :class:`Recipe` but its name, ``models``, ``seeds``, and a table ``[network]``.

    Returns:
        The study; its recipe is named after the file.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: It may not be read.
        ValueError: It is no TOML, has an unknown field, or names a model that the bundle, or the recipe's set, lacks.
    """
    path = Path(path)
    checks.file(path, "train", "a recipe, a TOML file", "The recipes of the recorded results lie in data/recipes.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"train: {path} is not a TOML file: {error}.") from error
    known = {one.name for one in fields(Recipe)} - {"name"} | {"models", "seeds"}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"train: {path} has unknown fields {', '.join(unknown)}. Known: {', '.join(sorted(known))}.")
    models, seeds, network = values.pop("models", []), values.pop("seeds", [0]), values.pop("network", {})
    if not isinstance(models, list) or not isinstance(seeds, list) or not isinstance(network, dict):
        raise ValueError(f"train: {path}: models and seeds must be lists, and network a table.")
    network = {key: tuple(v) if isinstance(v, list) else v for key, v in network.items()}
    try:
        recipe = Recipe(name=path.stem, **values, network=network)
    except ValueError as error:
        raise ValueError(f"{error} So says {path}.") from error
    for name in models:
        if not isinstance(name, str) or name not in bundle.BUNDLE or training_sets.of(name).name != recipe.data:
            fitting = ", ".join(one for one in bundle.BUNDLE if training_sets.of(one).name == recipe.data)
            raise ValueError(f"train: {path} names {name!r}. Models of {recipe.data}: {fitting}.")
    if not seeds:
        raise ValueError(f"train: {path}: seeds must be a list of whole numbers, got an empty one.")
    seeds = [checks.uint32(seed, f"train: {path}: a seed") for seed in seeds]
    return Study(recipe, tuple(dict.fromkeys(models)), tuple(dict.fromkeys(seeds)))
