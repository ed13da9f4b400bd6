"""load(): a network with all it takes to feed it: device, preprocessing, class names, and where it came from.

load("shapes-eca-k3")                       # bundled: no download
load("ecaresnet50d.miil_in1k")              # a timm name: downloaded once, then cached
load("torchvision:mobilenet_v3_small")      # torchvision, likewise
load("eca_resnet50_k3557.pth.tar")          # a file: official ECANet, SE-ResNets, timm's, our own, safetensors
load(net, transform=…, classes=…)           # your own nn.Module
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import architectures, bundle, checks, hub, networks, training_sets, weight_files
from .devices import choose_device
from .image_files import to_pil
from .matches import Match, differences
from .matches import shapes as shapes_in
from .wrappers import unwrapped

__all__ = ["LoadedModel", "choose_device", "load"]


@dataclass(frozen=True)
class LoadedModel:
    """A network and what belongs to it.

    Attributes:
        net: The network, N×3×H×W → N×classes.
        transform: Preprocessing of one image: a uint8 tensor 3×H×W or a PIL image → float tensor 3×H×W; None if a
            user's own network came without.
        classes: Class names, by output; empty if unknown.
        device: Where the network is.
        name: What it was loaded by; of a file its name.
        source: "bundled", "timm", "torchvision", "file" or "module".
        architecture: Which network it is, such as ``ECA-ResNet-50``.
        weights: Where its weights came from: a file, or "random"; empty for a network of your own.
    """

    net: nn.Module
    transform: Callable[[Any], Tensor] | None
    classes: tuple[str, ...]
    device: torch.device
    name: str
    source: str
    architecture: str = ""
    weights: str = ""

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.net.parameters())
        what = [self.source] if self.architecture == self.name else [self.source, self.architecture]
        return (
            f"LoadedModel({self.name!r}, {', '.join(what)}, {parameters:,} parameters, "
            f"{len(self.classes)} classes, on {self.device})"
        )


def load(
    model: str | os.PathLike | nn.Module | LoadedModel,
    *,
    device: str | torch.device = "auto",
    transform: Callable[[Any], Tensor] | None = None,
    classes: Sequence[str] | None = None,
    pretrained: bool = True,
    num_classes: int | None = None,
    architecture: str | None = None,
    **options: Any,
) -> LoadedModel:
    """Load a model.

    Args:
        model: A bundled name, a timm name, a torchvision name such as ``"torchvision:mobilenet_v3_small"`` (its default
            weights; ``….IMAGENET1K_V1`` for others), a file of weights, or an nn.Module of your own;
            :func:`ecaviz.available` lists the names. What an earlier call returned is given back as it is.
        device: "auto" (cuda, then mps, then cpu), or a device. A module of your own stays where it is under "auto".
        transform: Preprocessing that replaces the model's own.
        classes: Class names that replace the model's own.
        pretrained: For timm and torchvision names: False for random weights and no download.
        num_classes: Replace the last layer by a new, untrained one with so many outputs, unless it has so many. For
            timm and torchvision names and files; without it a network keeps its own.
        architecture: For files: which network it is (a timm, torchvision or bundled name), instead of having it
            recognised.
        **options: For timm names, and files with a timm name for ``architecture``: what timm's ``create_model`` takes,
            such as ``zero_init_last=False`` or ``block_args={"attn_layer": "ceca"}``.

    Returns:
        The model; every network but a module of your own is in eval mode, that one is left in the mode it is in.

    Raises:
        ValueError: Unknown name (the nearest are named), a file that is damaged, holds something else, would execute
            code or fits no architecture (the closest is named), or class names that do not fit the outputs.
        FileNotFoundError: There is no such file.
        ConnectionError: The weights are not cached and cannot be fetched.
        RuntimeError: The device asked for is not there.
        TypeError: ``model`` is none of these, or options that do not apply.
    """
    if transform is not None and not callable(transform):
        raise TypeError(f"load: transform must be callable, an image in, a tensor out; got {transform!r}.")
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes or ()):
        raise TypeError(f"load: classes must be a list of names, got {classes!r}.")
    if num_classes is not None:
        num_classes = checks.at_least_one(num_classes, "load: num_classes")
    asked = {
        "pretrained=False": not pretrained,
        "num_classes": num_classes is not None,
        "architecture": architecture is not None,
        **dict.fromkeys(options, True),
    }
    if isinstance(model, LoadedModel):
        _refuse(asked, "a model that is loaded")
        if transform is not None or classes is not None or str(device) not in ("auto", str(model.device)):
            raise TypeError("load: this model is loaded; for another device, transform or classes pass its net.")
        return model
    if isinstance(model, nn.Module):
        _refuse(asked, "an nn.Module")
        return _own(model, device, transform, classes)
    is_path = isinstance(model, os.PathLike)
    if is_path:
        model = os.fspath(model)
    if not isinstance(model, str):
        raise TypeError(f"load: expected a name, a file or an nn.Module, got {type(model).__name__}.")
    chosen = choose_device(device)
    if model in bundle.BUNDLE and not is_path:
        _refuse(asked, "a bundled model")
        loaded = _load_bundled(model)
    elif is_path or _looks_like_a_file(model):
        _refuse(asked, "a file", "num_classes", "architecture", *(options if architecture else ()))
        loaded = _load_file(Path(model), architecture, num_classes, options)
    elif model.startswith("torchvision:"):
        _refuse(asked, "a torchvision name", "pretrained=False", "num_classes")
        loaded = _load_torchvision(model, pretrained, num_classes)
    else:
        _refuse(asked, "a timm name", "pretrained=False", "num_classes", *options)
        loaded = _load_timm(_timm_name(model), pretrained, num_classes, options)
    names = loaded.classes if classes is None else tuple(classes)
    outputs = architectures.outputs(loaded.net.state_dict())
    if names and outputs not in (None, len(names)):
        raise ValueError(
            f"load: {len(names)} class names were given, but {model} has {outputs} outputs. Give {outputs} names, or "
            f"num_classes={len(names)} for a new, untrained last layer."
        )
    return replace(
        loaded,
        net=loaded.net.to(chosen).eval(),
        transform=transform or loaded.transform,
        classes=names,
        device=chosen,
    )


def _refuse(asked: dict[str, bool], what: str, *allowed: str) -> None:
    names = [name for name, used in asked.items() if used and name not in allowed]
    if names:
        where = {"architecture": "to files", "num_classes": "to timm and torchvision names and files"}
        raise TypeError(f"load: {', '.join(names)} applies {where.get(names[0], 'to timm names')}, not to {what}.")


_CPU = torch.device("cpu")


def _looks_like_a_file(text: str) -> bool:
    suffixes = (".safetensors", ".pth", ".pth.tar", ".pt", ".tar", ".bin", ".pkl", ".ckpt")
    separators = [os.sep, *([os.altsep] if os.altsep else [])]
    if text.startswith("torchvision:") or _timm_name(text) != text:
        return False
    if text.lower().endswith(suffixes) or any(one in text for one in separators) or text.startswith("~"):
        return True
    try:
        if not Path(text).is_file():
            return False
    except (OSError, ValueError):  # no name that a file could have
        return False
    import timm

    return not timm.is_model(text)  # a name is a name, whatever lies in the working folder


def _timm_name(text: str) -> str:
    """A name as timm has it, without the hub's address before it: timm/ecaresnet50d.miil_in1k."""
    found = re.fullmatch(r"(?:hf[-_]hub:)?timm/([\w.-]+)", text)
    return found[1] if found and not Path(text).exists() else text


def _own(
    net: nn.Module,
    device: str | torch.device,
    transform: Callable[[Any], Tensor] | None,
    classes: Sequence[str] | None,
) -> LoadedModel:
    if str(device) == "auto":
        first = next(net.parameters(), None)
        chosen = _CPU if first is None else first.device
    else:
        chosen = choose_device(device)
        net = net.to(chosen)
    name = type(unwrapped(net)).__name__
    return LoadedModel(net, transform, tuple(classes or ()), chosen, name, "module", name)


# -------------------------------------------------------------------------------------------------------------- bundled


def _load_bundled(name: str) -> LoadedModel:
    made, state, classes, _row = bundle.read(name)
    _announce("timm", "torchvision")
    net = networks.build(made)
    net.load_state_dict(state)
    weights = str(bundle.data_folder() / "checkpoints" / f"{name}.safetensors")
    transform = training_sets.of(name).transform()
    return LoadedModel(net, transform, classes, _CPU, name, "bundled", name, weights)


# ----------------------------------------------------------------------------------------------------------------- timm


class _PilTransform:
    """A preprocessing made for PIL images, for uint8 tensors 3×H×W as well: the same numbers for both."""

    def __init__(self, transform: Callable[[Any], Tensor]) -> None:
        self.transform = transform

    def __call__(self, image: Any) -> Tensor:
        return self.transform(to_pil(image) if isinstance(image, Tensor) else image)

    def __repr__(self) -> str:
        return repr(self.transform)


def _load_timm(name: str, pretrained: bool, num_classes: int | None, options: dict) -> LoadedModel:
    _announce("timm", "torchvision")
    import timm

    if not timm.is_model(name) or ("." in name and name not in timm.list_pretrained()):
        raise ValueError(_unknown(name, [*timm.list_models(), *timm.list_pretrained()]))
    for option in ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"):
        if option in options:
            raise TypeError(f"load: {option} is not taken; load a file by its path: load(path, architecture={name!r}).")
    path = _timm_weights(name) if pretrained else None
    if num_classes is not None:
        options = {**options, "num_classes": num_classes}
    if path is None:
        net = timm.create_model(name, pretrained=False, **options)
    else:  # timm is given tensors and no file: how it reads files depends on its version
        overlay = {"state_dict": _read_cached(path), "custom_load": False}
        net = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
        net.pretrained_cfg.pop("state_dict", None)
    own = net.pretrained_cfg.get("num_classes")
    classes = _imagenet_classes(net) if num_classes in (None, own) else ()  # a new head knows no names
    return LoadedModel(
        net, _timm_transform(net), classes, _CPU, name, "timm", name.split(".")[0], str(path or "random")
    )


def _timm_transform(net: nn.Module) -> _PilTransform:
    import timm

    settings = timm.data.resolve_model_data_config(net)
    return _PilTransform(timm.data.create_transform(**settings, is_training=False))


def _timm_weights(name: str) -> Path:
    import timm

    settings = timm.get_pretrained_cfg(name)
    if settings is None or not settings.has_weights:
        raise ValueError(f"load: timm has no pretrained weights for {name!r}. Use pretrained=False for random ones.")
    return hub.fetch(name, settings.hf_hub_id) if settings.hf_hub_id else hub.fetch_url(name, settings.url)


def _read_cached(path: Path) -> dict[str, Tensor]:
    """The weights in a file that was downloaded."""
    try:
        return weight_files.read(path).state
    except ValueError as error:
        raise ValueError(
            f"{error} It lies in the cache of downloads: delete it, and load() fetches it anew."
        ) from error


def _unknown(name: str, known: Sequence[str]) -> str:
    tags = [one for one in known if "." in name and one.startswith(name.split(".")[0] + ".")]
    near = tags or difflib.get_close_matches(name.lower(), [*bundle.BUNDLE, *known], n=5, cutoff=0.5)
    nearest = f" Nearest: {', '.join(dict.fromkeys(near))}." if near else ""
    return (
        f"load: no model is called {name!r}.{nearest} Known are the bundled names ({', '.join(bundle.BUNDLE)}), "
        f"timm's, torchvision's as \"torchvision:…\", and files; ecaviz.available() lists the names."
    )


def _imagenet_classes(net: nn.Module) -> tuple[str, ...]:
    return _imagenet_names() if architectures.outputs(net.state_dict()) == 1000 else ()


@lru_cache(maxsize=1)
def _imagenet_names() -> tuple[str, ...]:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return _told_apart([info.index_to_description(i).split(",")[0] for i in range(1000)])


def _told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """ImageNet's class names, in its order; there are two cranes and two maillots: their synsets tell them apart."""
    from timm.data import ImageNetInfo

    info, counts = ImageNetInfo(), Counter(names)
    return tuple(
        f"{name} ({info.index_to_label_name(i)})" if counts[name] > 1 else name for i, name in enumerate(names)
    )


# ---------------------------------------------------------------------------------------------------------- torchvision


def _load_torchvision(name: str, pretrained: bool, num_classes: int | None) -> LoadedModel:
    _announce("torchvision", "timm")
    from torchvision.models import get_model_weights

    architecture, _, tag = name.removeprefix("torchvision:").partition(".")
    known = architectures.torchvision_names()
    if f"torchvision:{architecture}" not in known:
        raise ValueError(_unknown(name, known))
    entries = get_model_weights(architecture)
    if tag and tag not in entries.__members__:
        raise ValueError(
            f"load: torchvision's {architecture} has no weights called {tag!r}; it has: "
            f"{', '.join(entries.__members__)}."
        )
    entry = entries[tag] if tag else entries.DEFAULT
    names = entry.meta["categories"]
    net = architectures.builder(
        f"torchvision:{architecture}", len(names) if pretrained else num_classes or len(names)
    )()
    weights = "random"
    if pretrained:
        weights = str(hub.fetch_url(name, entry.url))
        state = _read_cached(Path(weights))
        if shapes_in(state) != shapes_in(net.state_dict()):
            raise ValueError(
                f"load: the cached file {weights} is not of {architecture}. "
                f"{differences(shapes_in(net.state_dict()), shapes_in(state))} Delete it, and load() fetches it anew."
            )
        net.load_state_dict(state)
        if num_classes not in (None, len(names)):
            networks.replace_head(net, num_classes)
    classes = _told_apart(names) if num_classes in (None, len(names)) else ()
    return LoadedModel(
        net, _PilTransform(entry.transforms()), classes, _CPU, name, "torchvision", architecture, weights
    )


# ---------------------------------------------------------------------------------------------------------------- files


def _load_file(path: Path, architecture: str | None, num_classes: int | None, options: dict) -> LoadedModel:
    file = weight_files.read(path)
    _announce("timm", "torchvision")
    own = bundle.described(file.metadata, file.path) if architecture is None else None
    try:
        if own is None:
            match = architectures.recognise(file.state, architecture=architecture, options=options, hint=path.name)
            classes: tuple[str, ...] | None = None
        else:
            made, classes, data = own
            match = architectures.as_described(file.state, made, data)
    except ValueError as error:
        raise ValueError(f"{error} The file is {path}.") from error
    net = match.network()
    if num_classes not in (None, architectures.outputs(net.state_dict())):
        networks.replace_head(net, num_classes)
        classes = ()
    if classes is None:
        classes = _imagenet_classes(net)
    transform = _transform_of(match, net)
    about = f"{match.name}, {match.layout}" if match.layout else match.name
    return LoadedModel(net, transform, classes, _CPU, path.name, "file", about, str(file.path))


def _transform_of(match: Match, net: nn.Module) -> Callable[[Any], Tensor]:
    """The preprocessing that goes with an architecture; ImageNet's usual one where nothing else is known."""
    if match.source == "bundled":
        return training_sets.SETS[match.data].transform()
    if match.source == "timm":
        return _timm_transform(net)
    from torchvision.models import get_model_weights
    from torchvision.transforms._presets import ImageClassification

    if match.source == "torchvision":
        return _PilTransform(get_model_weights(match.name.removeprefix("torchvision:")).DEFAULT.transforms())
    return _PilTransform(ImageClassification(crop_size=224, resize_size=256))


def _announce(*modules: str) -> None:
    """Say that an import takes a while, where it does: to standard error, or as plain output in a notebook."""
    slow = [module for module in modules if module not in sys.modules]
    if slow:
        stream = sys.stdout if "ipykernel" in sys.modules else sys.stderr
        print(f"ecaviz: importing {' and '.join(slow)}; this takes some seconds, once …", file=stream, flush=True)
