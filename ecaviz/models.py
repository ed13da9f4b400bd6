"""load(): a network with all it takes to feed it: device, preprocessing, class names, and where it came from.

load("shapes-eca-k3")                    # bundled: no download
load("ecaresnet50d.miil_in1k")           # a timm name: downloaded once, then cached
load(net, transform=…, classes=…)        # your own nn.Module
"""

from __future__ import annotations

import difflib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from . import bundle, networks, shapes
from .image_files import to_pil

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LoadedModel", "available", "choose_device", "load"]


@dataclass(frozen=True)
class LoadedModel:
    """A network and what belongs to it.

    Attributes:
        net: The network, N×3×H×W → N×classes.
        transform: Preprocessing of one image: a uint8 tensor 3×H×W or a PIL image → float tensor 3×H×W; None if a
            user's own network came without.
        classes: Class names, by output; empty if unknown.
        device: Where the network is.
        name: What it was loaded by.
        source: "bundled", "timm" or "module".
    """

    net: nn.Module
    transform: Callable[[Any], Tensor] | None
    classes: tuple[str, ...]
    device: torch.device
    name: str
    source: str

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.net.parameters())
        return (
            f"LoadedModel({self.name!r}, {self.source}, {type(self.net).__name__}, {parameters:,} parameters, "
            f"{len(self.classes)} classes, on {self.device})"
        )


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device to work on: for "auto" cuda, else mps, else cpu.

    Raises:
        RuntimeError: The device asked for is not there.
        ValueError: It is no device's name.
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f'load: {device!r} is no device. Use "auto", "cpu", "cuda", "cuda:1" or "mps".') from None
    count = torch.cuda.device_count()
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= count):
        found = "torch finds no GPU" if not count else f"torch finds {count} (cuda:0 to cuda:{count - 1})"
        raise RuntimeError(
            f"device {str(device)!r} was asked for, but {found} here (torch {torch.__version__}). "
            f'Use device="auto" or "cpu", or install a torch that matches the driver.'
        )
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f'load: {device!r} is not supported. Use "auto", "cpu", "cuda", "cuda:1" or "mps".')
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise RuntimeError('device "mps" was asked for, but there is none here. Use device="auto" or "cpu".')
    return chosen


def load(
    model: str | nn.Module | LoadedModel,
    *,
    device: str | torch.device = "auto",
    transform: Callable[[Any], Tensor] | None = None,
    classes: Sequence[str] | None = None,
    pretrained: bool = True,
    **options: Any,
) -> LoadedModel:
    """Load a model.

    Args:
        model: A bundled name (see :func:`available`), a timm name, or an nn.Module of your own. What an earlier call
            returned is given back as it is.
        device: "auto" (cuda, then mps, then cpu), or a device. A module of your own stays where it is under "auto".
        transform: Preprocessing that replaces the model's own.
        classes: Class names that replace the model's own.
        pretrained: For timm names: False for random weights and no download.
        **options: For timm names: what timm's ``create_model`` takes, such as ``zero_init_last=False``.

    Returns:
        The model; bundled and timm networks are in eval mode, a module of your own is left in the mode it is in.

    Raises:
        ValueError: Unknown name (the nearest are named), or a bundled file that was changed.
        ConnectionError: The weights are not cached and cannot be fetched.
        RuntimeError: The device asked for is not there.
        TypeError: ``model`` is neither a name nor a module, or options that do not apply.
    """
    if transform is not None and not callable(transform):
        raise TypeError(f"load: transform must be callable, an image in, a tensor out; got {transform!r}.")
    if isinstance(model, LoadedModel):
        _refuse_options("a model that is loaded", pretrained, options)
        if transform is not None or classes is not None or str(device) not in ("auto", str(model.device)):
            raise TypeError("load: this model is loaded; for another device, transform or classes pass its net.")
        return model
    if isinstance(model, nn.Module):
        _refuse_options("an nn.Module", pretrained, options)
        return _own(model, device, transform, classes)
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    if not isinstance(model, str):
        raise TypeError(f"load: expected a name or an nn.Module, got {type(model).__name__}.")
    chosen = choose_device(device)
    if model in bundle.BUNDLE:
        _refuse_options("a bundled model", pretrained, options)
        loaded = _load_bundled(model, chosen)
    else:
        loaded = _load_timm(model, chosen, pretrained, options)
    return LoadedModel(
        loaded.net,
        transform or loaded.transform,
        tuple(classes) if classes is not None else loaded.classes,
        chosen,
        model,
        loaded.source,
    )


def _refuse_options(what: str, pretrained: bool, options: dict) -> None:
    if options or not pretrained:
        names = ", ".join([*options, *([] if pretrained else ["pretrained=False"])])
        raise TypeError(f"load: {names} applies to timm names, not to {what}.")


def _own(
    net: nn.Module,
    device: str | torch.device,
    transform: Callable[[Any], Tensor] | None,
    classes: Sequence[str] | None,
) -> LoadedModel:
    if str(device) == "auto":
        first = next(net.parameters(), None)
        chosen = torch.device("cpu") if first is None else first.device
    else:
        chosen = choose_device(device)
        net = net.to(chosen)
    return LoadedModel(net, transform, tuple(classes or ()), chosen, type(net).__name__, "module")


# -------------------------------------------------------------------------------------------------------------- bundled


def _load_bundled(name: str, device: torch.device) -> LoadedModel:
    architecture, state, classes, _row = bundle.read(name)
    _announce("timm", "torchvision")
    net = networks.build(architecture)
    net.load_state_dict(state)
    return LoadedModel(net.to(device).eval(), bundled_transform(), classes, device, name, "bundled")


def bundled_transform() -> Callable[[Any], Tensor]:
    """What the bundled models' images go through: shorter side to 64 pixels, centre 64×64, normalised as in training.

    Takes a PIL image, a uint8 tensor 3×H×W, or a batch of them N×3×H×W.
    """
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(shapes.SIZE, antialias=True),
            v2.CenterCrop(shapes.SIZE),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([shapes.MEAN] * 3, [shapes.STD] * 3),
            v2.ToPureTensor(),
        ]
    )


# ----------------------------------------------------------------------------------------------------------------- timm


class _TimmTransform:
    """timm's own preprocessing, which takes PIL images, for uint8 tensors 3×H×W as well."""

    def __init__(self, transform: Callable[[Any], Tensor]) -> None:
        self.transform = transform

    def __call__(self, image: Any) -> Tensor:
        return self.transform(to_pil(image) if isinstance(image, Tensor) else image)

    def __repr__(self) -> str:
        return repr(self.transform)


def _load_timm(name: str, device: torch.device, pretrained: bool, options: dict) -> LoadedModel:
    _announce("timm", "torchvision")
    import timm

    if not timm.is_model(name) or ("." in name and name not in timm.list_pretrained()):
        raise ValueError(_unknown(name, [*timm.list_models(), *timm.list_pretrained()]))
    if pretrained:
        options = {**options, **_weights(name)}
    try:
        net = timm.create_model(name, pretrained=pretrained, **options)
    except OSError as error:  # what the hub's client raises for a lost connection, a missing file, a full disk
        raise ConnectionError(_no_weights(name, str(error).split("\n")[0])) from error
    settings = timm.data.resolve_model_data_config(net)
    transform = _TimmTransform(timm.data.create_transform(**settings, is_training=False))
    return LoadedModel(net.to(device).eval(), transform, _imagenet_classes(net), device, name, "timm")


def _unknown(name: str, timm_names: list[str]) -> str:
    tags = [known for known in timm_names if "." in name and known.startswith(name.split(".")[0] + ".")]
    near = tags or difflib.get_close_matches(name.lower(), [*bundle.BUNDLE, *timm_names], n=5, cutoff=0.5)
    nearest = f" Nearest: {', '.join(dict.fromkeys(near))}." if near else ""
    return (
        f"load: no model is called {name!r}.{nearest} Known are the bundled names ({', '.join(bundle.BUNDLE)}) and "
        f"timm's; ecaviz.available() lists them."
    )


def _weights(name: str) -> dict:
    """What create_model needs so that cached weights are used without asking the hub, and a dead network is named."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    settings = timm.get_pretrained_cfg(name)
    if settings is None or not settings.has_weights:
        raise ValueError(f"load: timm has no pretrained weights for {name!r}. Use pretrained=False for random ones.")
    if not settings.hf_hub_id:
        return {}
    for filename in ("model.safetensors", "pytorch_model.bin"):
        cached = try_to_load_from_cache(settings.hf_hub_id, filename)
        if isinstance(cached, str):
            return {"pretrained_cfg_overlay": {"file": cached}}
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError(_no_weights(name, "HF_HUB_OFFLINE is set"))
    if not any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        address = urlsplit(constants.ENDPOINT)
        port = address.port or (443 if address.scheme == "https" else 80)
        try:
            socket.create_connection((address.hostname, port), timeout=10).close()
        except OSError as error:
            raise ConnectionError(_no_weights(name, f"{address.hostname} cannot be reached ({error})")) from error
    return {}


def _no_weights(name: str, reason: str) -> str:
    from huggingface_hub import constants

    return (
        f"load: the weights of {name!r} are not in the cache ({Path(constants.HF_HUB_CACHE)}) and could not be "
        f"fetched: {reason}. Connect once and try again, or take a bundled model, which needs no download: "
        f"{', '.join(bundle.BUNDLE)}."
    )


def _imagenet_classes(net: nn.Module) -> tuple[str, ...]:
    if getattr(net, "num_classes", None) != 1000:
        return ()
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    names = [info.index_to_description(i).split(",")[0] for i in range(1000)]
    # ImageNet has two cranes and two maillots; their synsets tell them apart.
    return tuple(
        f"{name} ({info.index_to_label_name(i)})" if names.count(name) > 1 else name for i, name in enumerate(names)
    )


def _announce(*modules: str) -> None:
    """Say that an import takes a while, where it does: to standard error, or as plain output in a notebook."""
    slow = [module for module in modules if module not in sys.modules]
    if slow:
        stream = sys.stdout if "ipykernel" in sys.modules else sys.stderr
        print(f"ecaviz: importing {' and '.join(slow)}; this takes some seconds, once …", file=stream, flush=True)


# ------------------------------------------------------------------------------------------------------------ available

_TIMM_PATTERNS = ("*eca*resne*", "*seresne*", "*senet154*")


def available(*, timm: bool = True) -> pd.DataFrame:
    """What :func:`load` knows by name.

    Args:
        timm: Whether to list timm's pretrained ECA and SE ResNets too (imports timm: some seconds).

    Returns:
        A frame with a row a model: name, source ("bundled", "timm"), family ("none", "se", "eca"), setting ("k=3",
        "r=4" where the name's manifest tells; timm's are read from the weights once loaded), images (what it was
        trained on) and accuracy (on the held-out split, 0…1; missing where the project has not measured it).
    """
    import pandas as pd

    rows = [
        {
            "name": row.name,
            "source": "bundled",
            "family": row.family,
            "setting": row.setting,
            "images": "shapes 64×64",
            "accuracy": row.accuracy,
        }
        for row in bundle.manifest().values()
    ]
    if timm:
        _announce("timm")
        from timm import list_pretrained

        names = sorted({name for pattern in _TIMM_PATTERNS for name in list_pretrained(pattern)})
        rows += [
            {
                "name": name,
                "source": "timm",
                "family": "eca" if "eca" in name else "se",
                "setting": "",
                "images": "ImageNet",
                "accuracy": float("nan"),
            }
            for name in names
        ]
    return pd.DataFrame(rows, columns=["name", "source", "family", "setting", "images", "accuracy"])
