"""What takes the place of a gate in an intervention: the modes of :func:`ecaviz.intervene`, as functions of that gate.

==================  ==================================================================================================
mode                ω', what the feature map is multiplied by instead of ω
==================  ==================================================================================================
"none"              ω: its own gate. The output is the module's own, bit for bit
"one"               1: no gate at all
"mean"              m: the channel's mean over the images of the profile
"class-mean"        the channel's mean over those of the image's own class, or, {"class-mean": "disc"}, of one class
"swap"              ω of another image of the batch, drawn by lot
"permute"           ω of the channels in another order, drawn once for each site (a channel may keep its own)
{"channels": […]}   m at these channels, or, with "to": 0…1, that number; ω at the others
{"contrast": a}     m + a·(ω − m): 0 is "mean", 1 its own gate, 2 twice as far from it. Not clipped: it may leave 0…1
==================  ==================================================================================================

On the rung "least squares" a channel's gate is unknown while its map is 0: such a map stays 0, and a channel that has
one among the images of a profile has no mean there. Where there is no mean, ω stays, and a warning says of how many.

For "swap" the images should come in mixed order: the other image is one of the same batch, and in a batch of one class
its gates are those of the right class.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .class_names import own_classes
from .sites import GateSite, Selection, network, pick_sites, select_sites

if TYPE_CHECKING:
    from .attention_profile import AttentionProfile

__all__ = ["MODES", "GateChange", "Means", "changes", "channels_at", "class_rows", "described", "needs_labels"]

MODES = ("none", "one", "mean", "class-mean", "swap", "permute", "channels", "contrast")
"""The names of the modes."""

_SUITED = {
    "channel": MODES,
    "element": ("none", "one", "mean", "class-mean", "swap", "channels"),
    "position": ("none", "one", "swap"),
}
_WHY = {
    "element": "its gates are a map for each channel, of which a profile keeps the mean alone",
    "position": "its gates are of positions, the same for every channel, and have no mean by channel",
}


@dataclass(frozen=True, eq=False)
class GateChange:
    """What is to happen at one site.

    Attributes:
        site: The site.
        mode: In words.
        run: From the own gate ω (N×C, or maps), which call of the module in this forward it is (from 1 on) and the row
            of each image's class in the profile (int64 N, or None) to ω', in the same shape. None for "none".
        channels: Those that it may change, int64; None for all.
    """

    site: GateSite
    mode: str
    run: Callable[[Tensor, int, Tensor | None], Tensor] | None
    channels: Tensor | None = None


def described(mode: Any) -> str:
    """A mode in a few words, for labels."""
    if not isinstance(mode, Mapping):
        return str(mode)
    if "channels" in mode:
        at = "at their mean" if mode.get("to") is None else f"at {mode['to']:g}"
        return f"channels {', '.join(map(str, mode['channels']))} {at}"
    return ", ".join(f"{key} {value}" for key, value in mode.items())


def needs_labels(made: Sequence[GateChange]) -> bool:
    """Whether one of the changes asks for the class of each image."""
    return any(one.mode == "class-mean" for one in made)


def changes(
    model: Any,
    sites: Mapping[str, Any] | Selection,
    mode: Any = None,
    *,
    profile: AttentionProfile | None = None,
    seed: int = 0,
) -> list[GateChange]:
    """What :func:`ecaviz.intervene` does, site by site, checked and not in its place yet.

    Args:
        model: What :func:`ecaviz.load` returns, or an nn.Module.
        sites: As for :func:`ecaviz.intervene`, like the three that follow.
        mode: A mode, where ``sites`` is no mapping.
        profile: Where the means come from.
        seed: Of "swap" and "permute".

    Raises:
        TypeError: ``profile`` is no profile.
        ValueError: As for :func:`ecaviz.intervene`.
    """
    every = select_sites(model)
    if isinstance(sites, Mapping):
        if mode is not None:
            raise ValueError(
                "intervene: where sites is a mapping it says the mode of each site; another mode was given."
            )
        if not sites:
            raise ValueError('intervene: an empty mapping was given; {"layer3.0.se": "mean"} was expected.')
        asked = list(sites.items())
    else:
        asked = [(sites, mode)]
    wanted: dict[str, tuple[GateSite, Any]] = {}
    for pattern, one in asked:
        for site in _suited(pick_sites(every, pattern), _name_of(one)):
            wanted[site.name] = (site, one)
    made = []
    means = Means(model, profile)
    depths = {one.name: depth for depth, one in enumerate(every)}
    for site in every:
        if site.name in wanted:
            made.append(_made(*wanted[site.name], means, seed, depths[site.name]))
    return made


def _name_of(mode: Any) -> str:
    """The name of a mode, checked."""
    if isinstance(mode, str) and mode in MODES and mode not in ("channels", "contrast"):
        return mode
    if isinstance(mode, Mapping):
        for name, others in (("channels", {"to"}), ("contrast", set()), ("class-mean", set())):
            if name in mode and set(mode) <= {name} | others:
                return name
    raise ValueError(
        f"intervene: mode {mode!r} is not known. Modes: "
        '"none", "one", "mean", "class-mean", {"class-mean": "disc"}, "swap", "permute", {"channels": [3, 5]}, '
        '{"channels": [3, 5], "to": 0.5}, {"contrast": 2}.'
    )


def _suited(chosen: list[GateSite], name: str) -> list[GateSite]:
    """The sites that a mode makes sense at; those of another kind are left out, unless there are no others."""
    suited = [one for one in chosen if name in _SUITED[one.per]]
    if not suited:
        one = chosen[0]
        raise ValueError(
            f"intervene: {one.name}: the mode {name!r} makes no sense there: {_WHY[one.per]}. "
            f"Modes for it: {', '.join(_SUITED[one.per])}."
        )
    return suited


class Means:
    """The mean gates of a profile, which is checked when they are first asked for.

    Args:
        model: The network that it should be of.
        profile: The profile.
    """

    def __init__(self, model: Any, profile: AttentionProfile | None) -> None:
        self.model, self.profile, self.checked = model, profile, False

    def of(self, site: str, call: int = 1) -> Tensor:
        """m, float64 C: the mean gate of each channel over all images.

        Args:
            site: Name of the site.
            call: Which call of it in a forward, from 1 on.

        Raises:
            TypeError: No profile.
            ValueError: As for :func:`ecaviz.intervene`.
        """
        return self._site(site, call).moments.pooled().mean[0]

    def by_class(self, site: str, call: int = 1) -> Tensor:
        """float64 classes × C; NaN for a class without images."""
        if self.known().by is None:
            raise ValueError(
                'intervene: the mode "class-mean" needs a profile by class: ecaviz.profile(model, images, by="class").'
            )
        return self._site(site, call).moments.mean

    def known(self) -> AttentionProfile:
        """The profile, if it is one of this network."""
        from .attention_profile import AttentionProfile
        from .profiles import fingerprint_of

        found = self.profile
        if found is None:
            raise ValueError(
                "intervene: this mode puts means in the place of gates, and needs the profile that they are taken "
                "from: profile=ecaviz.profile(model, images, by='class')."
            )
        if not isinstance(found, AttentionProfile):
            raise TypeError(f"intervene: profile: an AttentionProfile was expected, got a {type(found).__name__}.")
        if not self.checked and fingerprint_of(network(self.model)) != found.fingerprint:
            raise ValueError(
                f"intervene: the profile is of other weights (of {found.model}) than this network has. Profile this "
                f"one: ecaviz.profile(model, images, by='class')."
            )
        self.checked = True
        return found

    def _site(self, site: str, call: int) -> Any:
        name = site if call == 1 else f"{site}#{call}"
        if name not in self.known():
            raise ValueError(
                f"intervene: the profile has no site {name!r}; it has: {', '.join(self.profile)}. Profile the model "
                f"with that site."
            )
        return self.profile[name]


def _made(site: GateSite, mode: Any, means: Means, seed: int, depth: int) -> GateChange:
    name = _name_of(mode)
    if name == "channels":
        return _some_channels(site, mode, means)
    words = described(mode)
    if name == "none":
        return GateChange(site, words, None)
    if name == "one":
        return GateChange(site, words, lambda own, _call, _rows: torch.ones_like(own))
    if name == "swap":
        return GateChange(site, words, _swapped(site, seed))
    if name == "permute":
        return GateChange(site, words, _permuted(1_000_003 * seed + depth))
    if name == "class-mean":
        return _class_mean(site, words, mode, means)
    _warn_of_missing(means.of(site.name), site)  # says now, not when the network runs, what is not there
    if name == "mean":
        return GateChange(site, words, lambda own, call, _rows: _filled(means.of(site.name, call), own, site))
    a = mode["contrast"]
    if isinstance(a, bool) or not isinstance(a, numbers.Real) or not math.isfinite(a):
        raise ValueError(f'intervene: {{"contrast": a}}: a finite number was expected, got {a!r}.')

    def contrast(own: Tensor, call: int, _rows: Tensor | None) -> Tensor:
        return torch.lerp(_filled(means.of(site.name, call), own, site), own, float(a))

    return GateChange(site, words, contrast)


def _warn_of_missing(mean: Tensor, site: GateSite) -> None:
    missing = int(mean.isnan().sum())
    if missing:
        warnings.warn(
            f"intervene: the profile has no mean gate of {missing} of {len(mean)} channels of {site.name}, whose maps "
            f"were 0 on some image; their own gates stay.",
            stacklevel=6,
        )


def _filled(mean: Tensor, own: Tensor, site: GateSite) -> Tensor:
    """Means, C or N×C, in the shape of the own gates; those where there is no mean."""
    if mean.shape[-1] != own.shape[1]:
        raise ValueError(
            f"intervene: {site.name} has {own.shape[1]} channels here, and {mean.shape[-1]} in the profile."
        )
    mean = mean.to(own)
    mean = mean.reshape(*mean.shape, *(1,) * (own.ndim - 2)).expand_as(own)
    return torch.where(mean.isnan(), own, mean)


def _swapped(site: GateSite, seed: int) -> Callable[[Tensor, int, Tensor | None], Tensor]:
    """The gates of another image: of the next one in a circle through all, drawn by lot, the same at every site."""

    def run(own: Tensor, _call: int, _rows: Tensor | None) -> Tensor:
        n = len(own)
        if n < 2:
            raise ValueError(
                f'intervene: {site.name}: the mode "swap" takes the gates of another image of the batch, and this '
                f"batch has {n}. Give two or more."
            )
        circle = torch.randperm(n, generator=torch.Generator().manual_seed(1_000_003 * seed + n))
        other = torch.empty_like(circle)
        other[circle] = circle.roll(-1)
        given = own[other.to(own.device)]
        return torch.where(given.isnan(), own, given)

    return run


def _permuted(seed: int) -> Callable[[Tensor, int, Tensor | None], Tensor]:
    def run(own: Tensor, _call: int, _rows: Tensor | None) -> Tensor:
        order = torch.randperm(own.shape[1], generator=torch.Generator().manual_seed(seed))
        given = own[:, order.to(own.device)]
        return torch.where(given.isnan(), own, given)

    return run


def _some_channels(site: GateSite, mode: Mapping[str, Any], means: Means) -> GateChange:
    chosen, to = mode["channels"], mode.get("to")
    try:
        channels = torch.as_tensor(chosen)
        whole = channels.ndim == 1 and len(channels) > 0 and not channels.is_floating_point()
        whole = whole and channels.dtype != torch.bool
    except (TypeError, ValueError, RuntimeError):
        whole = False
    if not whole:
        raise ValueError(f'intervene: {{"channels": […]}}: a list of channel numbers was expected, got {chosen!r}.')
    channels = channels.long().unique()
    _in_range(channels, site, site.channels)
    if to is None:
        means.of(site.name)
    elif isinstance(to, bool) or not isinstance(to, numbers.Real) or not 0 <= to <= 1:
        raise ValueError(f'intervene: {{"channels": …, "to": t}}: a gate t of 0 to 1 was expected, got {to!r}.')

    return channels_at(site, channels, means if to is None else float(to), described(mode))


def channels_at(site: GateSite, channels: Tensor, to: Means | float, words: str = "channels") -> GateChange:
    """Some channels of a site at their mean or at a number, nothing checked.

    Args:
        site: The site.
        channels: int64, each once.
        to: Where the means come from, or the number.
        words: What the mode is called.
    """

    def run(own: Tensor, call: int, _rows: Tensor | None) -> Tensor:
        _in_range(channels, site, own.shape[1])
        given = _filled(to.of(site.name, call), own, site) if isinstance(to, Means) else torch.full_like(own, to)
        there = channels.to(own.device)
        return own.index_copy(1, there, given[:, there])

    return GateChange(site, words, run, channels)


def _in_range(channels: Tensor, site: GateSite, count: int | None) -> None:
    low, high = int(channels.min()), int(channels.max())
    if low < 0 or (count is not None and high >= count):
        last = "" if count is None else f", the channels 0 to {count - 1}"
        raise ValueError(f"intervene: {site.name} has no channel {low if low < 0 else high}{last}.")


def _class_mean(site: GateSite, words: str, mode: Any, means: Means) -> GateChange:
    means.by_class(site.name)  # says now that it is not there
    classes, counts = means.known().classes, means.known().counts
    one = None
    if isinstance(mode, Mapping):
        if mode["class-mean"] not in classes:
            raise ValueError(
                f"intervene: the profile has no class {mode['class-mean']!r}; it has: {', '.join(classes)}."
            )
        one = torch.tensor([classes.index(mode["class-mean"])])

    def run(own: Tensor, call: int, rows: Tensor | None) -> Tensor:
        rows = one if one is not None else rows
        if rows is None:
            raise ValueError(
                'intervene: the mode "class-mean" needs the class of each image: set under.labels before each batch '
                '(`with ecaviz.intervene(…) as under:`); or name one class for all images, {"class-mean": "disc"}.'
            )
        if len(rows) not in (1, len(own)) or (one is None and len(rows) != len(own)):
            raise ValueError(f"intervene: {len(rows)} labels were set for a batch of {len(own)} images.")
        empty = rows[counts[rows] == 0]
        if len(empty):
            raise ValueError(f"intervene: the profile has no image of the class {classes[int(empty[0])]!r}.")
        return _filled(means.by_class(site.name, call)[rows], own, site)

    return GateChange(site, words, run)


def class_rows(labels: Any, profile: AttentionProfile, names: Sequence[str] | None = None) -> Tensor:
    """The row of each image's class in a profile, int64 N.

    Args:
        labels: N names of classes of the profile, or N whole numbers.
        profile: A profile by class.
        names: What the numbers stand for; None where they number the classes of the profile.

    Raises:
        ValueError: A name or a number that is no class of the profile.
    """
    classes = profile.classes
    if not isinstance(labels, Tensor) and len(labels) and all(isinstance(one, str) for one in labels):
        unknown = [one for one in labels if one not in classes]
        if unknown:
            raise ValueError(f"intervene: the profile has no class {unknown[0]!r}; it has: {', '.join(classes)}.")
        return torch.tensor([classes.index(one) for one in labels])
    numbers_ = torch.as_tensor(labels).detach().cpu()
    if numbers_.ndim != 1 or numbers_.is_floating_point() or numbers_.dtype == torch.bool:
        raise ValueError(f"intervene: labels: N whole numbers or names of classes were expected, got {labels!r}.")
    if names is not None:
        own = own_classes(names, classes)
        if own is None:
            raise ValueError(
                f"intervene: the images have other classes ({', '.join(names)}) than the profile "
                f"({', '.join(classes)}). Profile the model over images of these classes."
            )
        return own[numbers_.long()]
    if len(numbers_) and not 0 <= int(numbers_.min()) <= int(numbers_.max()) < len(classes):
        raise ValueError(
            f"intervene: labels of {int(numbers_.min())} to {int(numbers_.max())} were set; the profile has the "
            f"classes 0 to {len(classes) - 1}."
        )
    return numbers_.long()
