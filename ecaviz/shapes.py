"""A procedural image set whose generating factors are known: drawn, not downloaded.

Each image shows one object. Shape, texture, hue, background, position, scale, rotation and light are drawn at random,
and the class depends on shape, on texture, or on both:

- four classes that need **shape**: disc, triangle, star, ring. Their texture (plain, speckle or shade) tells nothing
  about which of the four it is.
- four classes that need **texture**: stripes, checks, dots, waves. Their shape (hexagon, crescent or arch) tells
  nothing about which of the four it is.
- four classes that need **both**: {square, cross} × {grid, rings}. Shape alone or texture alone leaves two to choose
  from.

Hue, background, position, scale, rotation and light never tell anything about the class. Image *i* of a split depends
on (seed, split, i) alone: asking for more images does not change the ones before. Labels go round the classes, so every
run of twelve holds each class once.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import checks

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CLASSES", "MEAN", "NEEDS", "SIZE", "SPLITS", "STD", "Shapes", "normalise"]

SIZE = 64
"""Height and width of an image, in pixels."""

MEAN, STD = 0.31, 0.19
"""What images are normalised with for the bundled models, all colours alike: roughly mean and deviation."""

SPLITS = {"train": 0, "validation": 1, "test": 2}
"""The splits, and the number each is seeded with. ``test`` is the held-out split of the manifest."""

_SHAPE_CLASSES = ("disc", "triangle", "star", "ring")
_TEXTURE_CLASSES = ("stripes", "checks", "dots", "waves")
_BOTH_CLASSES = tuple((shape, texture) for shape in ("square", "cross") for texture in ("grid", "rings"))
_FREE_SHAPES = ("hexagon", "crescent", "arch")
_FREE_TEXTURES = ("plain", "speckle", "shade")
_BACKGROUNDS = ("plain", "gradient", "clouds")

CLASSES: tuple[str, ...] = (
    *_SHAPE_CLASSES,
    *_TEXTURE_CLASSES,
    *(f"{shape} with {texture}" for shape, texture in _BOTH_CLASSES),
)
"""Class names, by label."""

NEEDS: dict[str, str] = {name: "shape" if i < 4 else "texture" if i < 8 else "both" for i, name in enumerate(CLASSES)}
"""What tells each class: "shape", "texture" or "both"."""


class Shapes(torch.utils.data.Dataset):
    """The procedural set. Items are (uint8 tensor 3×64×64, label).

    Args:
        split: "train", "validation" or "test".
        n: Number of images.
        seed: Another seed is another set of images from the same distribution.

    Attributes:
        classes: The twelve class names, by label.
        labels: Tensor of n labels.

    Raises:
        ValueError: Unknown split, or n or seed negative or above 2³² − 1.
    """

    def __init__(self, split: str = "test", n: int = 1200, seed: int = 0):
        if split not in SPLITS:
            raise ValueError(f"shapes: no split is called {split!r}. Splits: {', '.join(SPLITS)}.")
        self.split, self.n, self.seed = split, checks.uint32(n, "shapes: n"), checks.uint32(seed, "shapes: seed")
        self.classes = CLASSES
        self.labels = torch.arange(self.n) % len(CLASSES)

    def __repr__(self) -> str:
        return f"Shapes(split={self.split!r}, n={self.n}, seed={self.seed})"

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -self.n <= index < self.n:
            raise IndexError(f"image {index} of a set of {self.n}")
        index %= max(self.n, 1)
        factors = self._draw(index)
        return torch.from_numpy(_render(factors)), factors["label"]

    @property
    def factors(self) -> pd.DataFrame:
        """What generated each image: one row an image.

        Columns: label, class, needs, shape, texture, hue (0…1, a turn of the colour circle), background, x and y
        (centre, pixels), scale (radius, pixels), rotation (radians), light_angle (radians), light (strength, 0…1),
        contrast and noise (of the full range, 0…1), frequency (periods of the texture over the object's radius).
        """
        import pandas as pd

        rows = [self._draw(i) for i in range(self.n)]
        return pd.DataFrame([{k: v for k, v in row.items() if not k.startswith("_")} for row in rows])

    def tensors(self, progress: bool = False) -> tuple[Tensor, Tensor]:
        """All images and labels at once: uint8 n×3×64×64 (12 kB an image) and int64 n."""
        from tqdm.auto import tqdm

        images = torch.empty(self.n, 3, SIZE, SIZE, dtype=torch.uint8)
        for i in tqdm(range(self.n), desc=f"drawing {self.split}", disable=not progress, unit="image"):
            images[i] = self[i][0]
        return images, self.labels.clone()

    def _draw(self, index: int) -> dict:
        # RandomState's streams are frozen by NumPy's compatibility policy (NEP 19); default_rng's are not.
        random = np.random.RandomState([SPLITS[self.split], self.seed, index])
        label = index % len(CLASSES)
        if label < 4:
            shape, texture = _SHAPE_CLASSES[label], _FREE_TEXTURES[random.randint(len(_FREE_TEXTURES))]
        elif label < 8:
            shape, texture = _FREE_SHAPES[random.randint(len(_FREE_SHAPES))], _TEXTURE_CLASSES[label - 4]
        else:
            shape, texture = _BOTH_CLASSES[label - 8]
        scale = random.uniform(10, 22)
        margin = 0.9 * scale
        return {
            "label": label,
            "class": CLASSES[label],
            "needs": NEEDS[CLASSES[label]],
            "shape": shape,
            "texture": texture,
            "hue": random.uniform(),
            "background": _BACKGROUNDS[random.randint(len(_BACKGROUNDS))],
            "x": random.uniform(margin, SIZE - margin),
            "y": random.uniform(margin, SIZE - margin),
            "scale": scale,
            "rotation": random.uniform(-0.6, 0.6),
            "light_angle": random.uniform(0, 2 * math.pi),
            "light": random.uniform(0, 0.5),
            "contrast": random.uniform(0.1, 0.4),
            "noise": random.uniform(0.02, 0.12),
            "frequency": random.uniform(1.6, 2.6),
            "_random": random,
        }


def normalise(images: Tensor) -> Tensor:
    """uint8 N×3×H×W in 0…255 → float32 of about zero mean and unit variance, for the bundled models."""
    return (images.float() / 255 - MEAN) / STD


@functools.cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    centre = np.arange(SIZE, dtype=np.float32) + 0.5
    x, y = np.meshgrid(centre, centre)
    return x, y


def _render(f: dict) -> np.ndarray:
    """One image, uint8 3×64×64, from its factors."""
    random = f["_random"]
    x, y = _grid()
    c, s = math.cos(f["rotation"]), math.sin(f["rotation"])
    dx, dy = (x - f["x"]) / f["scale"], (y - f["y"]) / f["scale"]
    u, v = c * dx + s * dy, c * dy - s * dx  # object coordinates: radius 1, turned with the object
    inside = np.clip(0.5 - _DISTANCE[f["shape"]](u, v) * f["scale"], 0, 1)
    texture = _TEXTURE[f["texture"]](u, v, f["frequency"], random) - 0.5

    saturation, value = random.uniform(0.2, 0.8), random.uniform(0.5, 0.85)
    object_colour = _rgb(f["hue"], saturation, value)
    ground = random.uniform(0.1, 0.5) + f["contrast"] * _BACKGROUND[f["background"]](x, y, random)
    ground_colour = _rgb(random.uniform(), random.uniform(0, 0.5), 1.0)

    thing = object_colour[:, None, None] * (1 + 2 * f["contrast"] * texture)
    image = ground_colour[:, None, None] * ground * (1 - inside) + thing * inside
    slope = (math.cos(f["light_angle"]) * x + math.sin(f["light_angle"]) * y) / SIZE
    image *= 1 + f["light"] * (slope - slope.mean())
    image += f["noise"] * random.standard_normal((3, SIZE, SIZE))
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    ramp = np.clip(np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return (value * (1 - saturation * (1 - ramp))).astype(np.float32)


# Signed distances in object coordinates, negative inside; exact where it is cheap, else with the right zero line.


def _disc(u, v):
    return np.hypot(u, v) - 0.85


def _polygon(sides, apothem):
    angles = 2 * math.pi * np.arange(sides) / sides

    def distance(u, v):
        return np.max([math.cos(a) * u + math.sin(a) * v for a in angles], axis=0) - apothem

    return distance


def _star(u, v):
    turn = 2 * math.pi / 5
    angle = np.abs((np.arctan2(v, u) + turn / 2) % turn - turn / 2)
    radius = np.hypot(u, v)
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    # one edge from a tip (1, 0) to an inner corner at half a turn
    cx, cy = 0.45 * math.cos(turn / 2), 0.45 * math.sin(turn / 2)
    length = math.hypot(cx - 1, cy)
    return ((px - 1) * cy - (cx - 1) * py) / length


def _ring(u, v):
    return np.abs(np.hypot(u, v) - 0.68) - 0.22


def _cross(u, v):
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.95, b - 0.33), np.maximum(b - 0.95, a - 0.33))


def _crescent(u, v):
    return np.maximum(np.hypot(u, v) - 0.95, 0.6 - np.hypot(u - 0.5, v))


def _arch(u, v):
    outer = np.where(v < 0, np.hypot(u, v) - 0.85, np.maximum(np.abs(u) - 0.85, v - 0.9))
    inner = np.where(v < 0, np.hypot(u, v) - 0.3, np.abs(u) - 0.3)
    return np.maximum(outer, -inner)


_DISTANCE = {
    "disc": _disc,
    "triangle": _polygon(3, 0.5),
    "square": _polygon(4, 0.7),
    "hexagon": _polygon(6, 0.8),
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "crescent": _crescent,
    "arch": _arch,
}

# Textures: values in 0…1 over object coordinates; f is periods per radius.


def _wave(phase):
    return 0.5 + 0.5 * np.tanh(3 * np.sin(2 * math.pi * phase))


def _smooth_noise(random, cells):
    """Value noise in 0…1: random values on a cells×cells lattice, interpolated to the image."""
    lattice = random.uniform(size=(cells + 1, cells + 1))
    at = (np.arange(SIZE) + 0.5) / SIZE * cells
    low = at.astype(int)
    t = at - low
    t = t * t * (3 - 2 * t)
    rows = lattice[low] * (1 - t)[:, None] + lattice[low + 1] * t[:, None]
    return rows[:, low] * (1 - t) + rows[:, low + 1] * t


def _dots(u, v, f, random):
    du, dv = (u * f) % 1 - 0.5, (v * f) % 1 - 0.5
    return np.clip(0.5 + (0.3 - np.hypot(du, dv)) * 8, 0, 1)


def _grid_lines(u, v, f, random):
    distance = np.minimum(np.abs((u * f) % 1 - 0.5), np.abs((v * f) % 1 - 0.5))
    return np.clip(0.5 + (0.13 - distance) * 10, 0, 1)


_TEXTURE = {
    "plain": lambda u, v, f, random: np.full_like(u, random.uniform(0.3, 0.7)),
    "speckle": lambda u, v, f, random: _smooth_noise(random, 24),
    "shade": lambda u, v, f, random: np.clip(0.5 + 0.5 * u, 0, 1),
    "stripes": lambda u, v, f, random: _wave(u * f),
    "checks": lambda u, v, f, random: 0.5 + 2 * (_wave(u * f / 1.4) - 0.5) * (_wave(v * f / 1.4) - 0.5),
    "dots": _dots,
    "waves": lambda u, v, f, random: _wave(u * f + 0.45 * np.sin(2 * math.pi * v * f / 1.7)),
    "grid": _grid_lines,
    "rings": lambda u, v, f, random: _wave(np.hypot(u, v) * f),
}

_BACKGROUND = {
    "plain": lambda x, y, random: 0.0,
    "gradient": lambda x, y, random: (
        (x / SIZE - 0.5) * random.uniform(-1, 1) + (y / SIZE - 0.5) * random.uniform(-1, 1)
    ),
    "clouds": lambda x, y, random: 1.2 * (_smooth_noise(random, 6) - 0.5),
}
