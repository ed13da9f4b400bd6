"""Two models on the same images: how often they say the same, and whether the same channels are open."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .attention_profile import AttentionProfile
from .gates import evaluating
from .images import batches
from .intervals import bootstrap_mean
from .items import deaths_in_words
from .models import LoadedModel

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["agreement", "gate_correlations", "predictions"]


@deaths_in_words()
def predictions(model: LoadedModel, images: Any, *, batch_size: int = 64) -> Tensor:
    """The first class of each image, int64 N by position in the set; −1 where a file could not be read.

    Args:
        model: What :func:`ecaviz.load` returns.
        images: Anything that :func:`ecaviz.images.batches` takes.
        batch_size: Images a batch.

    Raises:
        ValueError: The network gives no logits N×K, or the images cannot be used.
    """
    stream = batches(images, model.transform, batch_size, next(model.net.parameters(), model.device))
    found: dict[int, int] = {}
    with evaluating(model.net):
        for x, _, positions in stream.indexed():
            output = model.net(x)
            if not isinstance(output, Tensor) or output.ndim != 2:
                raise ValueError(f"predictions: {model.name} gives no logits N×K, so it names no classes.")
            found |= dict(zip(positions.tolist(), output.argmax(1).tolist(), strict=True))
    said = torch.full((stream.passed,), -1)
    said[list(found)] = torch.tensor(list(found.values()))
    return said


def agreement(models: Sequence[LoadedModel], images: Any, *, batch_size: int = 64) -> pd.DataFrame:
    """How often models say the same of an image, pair by pair.

    Args:
        models: Two or more, whose outputs mean the same classes.
        images: Anything that :func:`ecaviz.images.batches` takes, in an order that is the same at each pass.
        batch_size: Images a batch.

    Returns:
        first, second, images, agreement (share of the images, 0…1), low and high (95 % bootstrap over images), chance
        (Σ_k p_k q_k: what two models would have that say each class as often as these do, without looking).

    Raises:
        ValueError: Fewer than two models, or their classes differ.
    """
    import pandas as pd

    if len(models) < 2:
        raise ValueError(f"agreement: two models or more were expected, got {len(models)}.")
    for one in models[1:]:
        if one.classes and models[0].classes and one.classes != models[0].classes:
            raise ValueError(
                f"agreement: {models[0].name} and {one.name} have other classes ({len(models[0].classes)} and "
                f"{len(one.classes)}), or another order of them; their outputs cannot be compared."
            )
    said = [predictions(one, images, batch_size=batch_size) for one in models]
    rows = []
    for (first, a), (second, b) in itertools.combinations(zip(models, said, strict=True), 2):
        read = (a >= 0) & (b >= 0)
        a, b = a[read], b[read]
        same = (a == b).double()
        low, high = bootstrap_mean(same)
        most = int(max(a.max(), b.max())) + 1
        p, q = (torch.bincount(one, minlength=most).double() / len(one) for one in (a, b))
        numbers = len(same), float(same.mean()), low, high, float(p @ q)
        rows.append((first.name, second.name, *numbers))
    return pd.DataFrame(rows, columns=["first", "second", "images", "agreement", "low", "high", "chance"])


def gate_correlations(first: AttentionProfile, second: AttentionProfile) -> pd.DataFrame:
    r"""The correlation of two models' mean gates over the channels, layer by layer, where their widths agree.

    Layers are matched in order, the i-th of one with the i-th of the other; Pearson's r over the C channels of the mean
    gates of all images. Channels have no order of their own: those of networks trained apart correspond to each other
    in nothing but their number, and r is near 0, \|r\| below 1.96/√C in 95 of 100 layers. One that started from the
    weights of the other keeps its channels.

    Args:
        first: A profile.
        second: Another one, of any model.

    Returns:
        site, other (its site in the second), channels, r, bound (1.96/√C). r is NaN where all mean gates are alike.
        Layers whose widths differ are left out.
    """
    import pandas as pd

    rows = []
    for one, other in zip(first.sites.values(), second.sites.values(), strict=False):
        if one.channels != other.channels:
            continue
        a, b = (site.moments.pooled().mean[0].cpu().numpy() for site in (one, other))
        a, b = a - a.mean(), b - b.mean()
        size = np.sqrt((a @ a) * (b @ b))
        r = float(a @ b / size) if size > 1e-12 else np.nan
        rows.append((one.name, other.name, one.channels, r, 1.96 / np.sqrt(one.channels)))
    return pd.DataFrame(rows, columns=["site", "other", "channels", "r", "bound"])
