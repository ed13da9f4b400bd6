"""How networks are trained for a study: a recipe, which models, which seeds; read from a file.

The recipes of the recorded results lie in ``data/recipes``, a TOML file each.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from . import bundle, training_sets

__all__ = ["Recipe", "Study", "read"]


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
        network: What differs from the bundle's own :class:`ecaviz.networks.Architecture`, by field.
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
        if self.data not in training_sets.SETS:
            raise ValueError(f"train: data must be one of {', '.join(training_sets.SETS)}, got {self.data!r}.")
        for name, least in {"train_images": 1, "test_images": 1, "epochs": 1, "batch_size": 1, "shift": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"train: {name} must be at least {least}, got {value!r}.")


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
        ValueError: It is no TOML, has an unknown field, or names a model that the bundle, or the recipe's set, lacks.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"train: {path} is not a TOML file: {error}.") from error
    known = {one.name for one in fields(Recipe)} - {"name"} | {"models", "seeds"}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"train: {path} has unknown fields {', '.join(unknown)}. Known: {', '.join(sorted(known))}.")
    models, seeds = tuple(values.pop("models", ())), tuple(values.pop("seeds", (0,)))
    network = {key: tuple(v) if isinstance(v, list) else v for key, v in values.pop("network", {}).items()}
    recipe = Recipe(name=path.stem, **values, network=network)
    for name in models:
        if name not in bundle.BUNDLE or training_sets.of(name).name != recipe.data:
            fitting = ", ".join(one for one in bundle.BUNDLE if training_sets.of(one).name == recipe.data)
            raise ValueError(f"train: {path} names {name!r}. Models of {recipe.data}: {fitting}.")
    if not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise ValueError(f"train: {path}: seeds must be whole numbers of at least 0, got {seeds!r}.")
    return Study(recipe, models, seeds)
