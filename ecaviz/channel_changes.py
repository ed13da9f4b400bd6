"""Which channels of a site carry a class: how the class's logit changes when one channel's gate is set to its mean.

    table = class_channels(model, images, profile, ["disc"], "layer4.1.se")
    agreement(table)                                   # exact beside the approximation
    clear_changes(table)                               # how many of the intervals leave zero out

Exact: for every channel the network is run again from the site on, over images of the class
(:class:`ecaviz.CachedRun`). Approximate: the step m_c − ω_c goes into the derivative of the logit with respect to the
gate, g_c·(m_c − ω_c), for all sites and channels in one backward pass. In both the gates behind react. m is the mean
over all images of the profile. A change below zero says that the channel's gate, as it is on images of the class,
speaks for the class.

A gate that follows its own map moves a logit even where it knows nothing of the class: the mean of x·(m − ω) is
−cov(x, ω). What is about the class shows in the difference between images of the class and images of others, of the
same logit: ``class_channels(…, ["star"], logit="disc")``.

The approximation is a first-order Taylor expansion in the gate, as "attribution patching" does it (Nanda, 2023) and
Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017, Eq. 6, for maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import checks, gates
from .class_names import own_classes
from .effects import checked_logits, stream_of
from .gate_changes import Means, channels_at
from .intervals import bootstrap_means
from .interventions import in_place
from .module_calls import Instead
from .readers import as_met
from .reruns import CachedRun
from .sites import GateSite, Selection, network, select_channel_sites
from .wrappers import followed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd

    from .attention_profile import AttentionProfile

__all__ = ["agreement", "class_channels", "clear_changes"]

_BATCH = 64
TOP = 10
"""How many of the first channels are compared."""


def class_channels(
    model: Any,
    images: Any,
    profile: AttentionProfile,
    classes: Sequence[str] | str | None = None,
    sites: Selection = None,
    *,
    logit: str | None = None,
    n: int = 64,
    exact: bool = True,
    level: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """The change of a class's logit when the gate of one channel is set to its mean, over images of that class.

    Exact numbers take a run from the site on for every channel, class and 64 images: for 256 channels of the last stage
    of a bundled network and 64 images, some ten seconds on a core. Without them one backward pass does for all.

    Args:
        model: What :func:`ecaviz.load` returns.
        images: With labels whose classes are classes of the model; see :func:`ecaviz.images.batches`.
        profile: Of this network: its means m, over all its images.
        classes: Names of the classes; None for all that the images have.
        sites: Which: a glob, a list, a callable, or None for all that have gates by channel.
        logit: The class whose logit is followed; None for that of the images.
        n: How many images of each class to take, the first ones.
        exact: Whether to run the network for every channel; else ``change``, ``low`` and ``high`` are NaN.
        level: Of the bootstrap intervals over the images, 0…1.
        seed: Of the bootstrap.
        progress: Whether to show a progress bar.

    Returns:
        One row a site, class and channel. Columns: site; channel; class; n (images); change (mean over them, in units
        of the logit), low, high; gradient (the approximation, mean over the same images);
        logit (the class whose logit it is); level.

    Raises:
        ValueError: The images have no labels or classes that are none of the model's, there is no image of a class, no
            such class; as for :func:`ecaviz.intervene`.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    n = checks.at_least_one(n, "class_channels: n")
    checks.share(level, "class_channels: level")
    chosen = select_channel_sites(model, sites)
    means = Means(model, profile)
    widths = {one.name: len(means.of(one.name)) for one in chosen}
    by_class = _images_of(model, images, classes, n, logit)
    runs = sum(widths.values()) * sum(-(-len(x) // _BATCH) for _, x, _ in by_class) if exact else 0
    bar = tqdm(total=runs, desc=f"channels of {model.name}", unit="run", disable=not progress or not exact)
    frames = []
    with bar:
        for name, x, output in by_class:
            slopes: list[dict[str, Tensor]] = []
            exacts: list[dict[str, Tensor]] = []
            for part in x.split(_BATCH):
                slopes.append(_gradients(model, part, output, chosen, means))
                if exact:
                    exacts.append(_exact(model, part, output, chosen, means, lambda: bar.update(1)))
            for one in chosen:
                slope = torch.cat([part[one.name] for part in slopes]).double()
                found = torch.cat([part[one.name] for part in exacts]).double() if exact else slope * math.nan
                low, high = bootstrap_means(found, level=level, seed=seed)
                frames.append(
                    pd.DataFrame(
                        {
                            "site": one.name,
                            "channel": range(slope.shape[1]),
                            "class": name,
                            "n": len(slope),
                            "change": found.mean(0).numpy(),
                            "low": low.numpy(),
                            "high": high.numpy(),
                            "gradient": slope.mean(0).numpy(),
                            "logit": logit or name,
                            "level": level,
                        }
                    )
                )
    return pd.concat(frames, ignore_index=True)


def agreement(table: pd.DataFrame, top: int = TOP) -> pd.DataFrame:
    """How well the approximation of :func:`class_channels` agrees with the exact numbers, by site and class.

    Args:
        table: What that gives, exact numbers included.
        top: How many of the channels with the largest change (of either sign) are compared.

    Returns:
        Columns: site, class, channels, pearson, spearman, signs (share of the channels whose sign is the same), top
        (how many of the first are among the first of both), of (how many that could be). NaN where one does not vary.
    """
    import pandas as pd
    from scipy import stats

    rows = []
    for (site, name), one in table.groupby(["site", "class"], sort=False):
        exact, slope = one["change"].to_numpy(), one["gradient"].to_numpy()
        varies = len(one) > 2 and exact.std() > 0 and slope.std() > 0
        pearson = float(stats.pearsonr(exact, slope)[0]) if varies else math.nan
        spearman = float(stats.spearmanr(exact, slope)[0]) if varies else math.nan
        signs = float(((exact > 0) == (slope > 0))[(exact != 0) | (slope != 0)].mean()) if varies else math.nan
        first = min(top, len(one))
        both = set(abs(exact).argsort()[::-1][:first]) & set(abs(slope).argsort()[::-1][:first])
        rows.append((site, name, len(one), pearson, spearman, signs, len(both), first))
    return pd.DataFrame(rows, columns=["site", "class", "channels", "pearson", "spearman", "signs", "top", "of"])


def clear_changes(table: pd.DataFrame) -> pd.DataFrame:
    """How many channels of each site move a class's logit clearly, and how far the one that moves it most does.

    Args:
        table: What :func:`class_channels` gives, exact numbers included.

    Returns:
        Columns: site, class, n (images), channels, clear (share of the intervals that leave zero out), by_chance (the
        share that would if no channel mattered, 1 − level: nominal, with few images somewhat more do), largest
        (absolute change), together (sum of all changes).

    Raises:
        ValueError: There are no intervals, or none of the exact changes.
    """
    import pandas as pd

    if table[["change", "low", "high"]].isna().any(axis=None):
        raise ValueError(
            "clear_changes: exact changes with intervals were expected, and some are missing. "
            "class_channels(…, exact=True) gives them, of at least two images of each class."
        )
    rows = []
    for (site, name), one in table.groupby(["site", "class"], sort=False):
        clear = (one["low"] > 0) | (one["high"] < 0)
        about = (site, name, one["n"].iloc[0], len(one), clear.mean(), 1 - one["level"].iloc[0])
        rows.append((*about, one["change"].abs().max(), one["change"].sum()))
    columns = ["site", "class", "n", "channels", "clear", "by_chance", "largest", "together"]
    return pd.DataFrame(rows, columns=columns)


def _images_of(model: Any, images: Any, classes: Any, n: int, logit: str | None) -> list[tuple[str, Tensor, int]]:
    """For each class its name, its first n images as the network takes them, and its place in the output."""
    stream = stream_of(model, images, _BATCH)
    names = stream.classes or tuple(model.classes)
    if not names:
        raise ValueError("class_channels: neither the images nor the model have class names.")
    own = own_classes(names, model.classes) if stream.classes else torch.arange(len(names))
    if own is None:
        raise ValueError(
            f"class_channels: the images have classes ({', '.join(names[:5])} …) that are none of the model's."
        )
    wanted = [classes] if isinstance(classes, str) else list(names if classes is None else classes)
    unknown = [name for name in [*wanted, *([] if logit is None else [logit])] if name not in names]
    if unknown or not wanted:
        raise ValueError(f"class_channels: there is no class {(unknown or [''])[0]!r}; there are: {', '.join(names)}.")
    kept: dict[int, list[Tensor]] = {names.index(name): [] for name in wanted}
    for x, labels in stream:
        if labels is None:
            raise ValueError("class_channels: images with labels were expected, a class for each; these have none.")
        for label, parts in kept.items():
            left = n - sum(map(len, parts))
            if left > 0:
                parts.append(x[labels == label][:left])
        if all(sum(map(len, parts)) >= n for parts in kept.values()):
            break
    found = []
    for label, parts in kept.items():
        x = torch.cat(parts)
        if not len(x):
            raise ValueError(f"class_channels: there is no image of the class {names[label]!r} among these.")
        found.append((names[label], x, int(own[label if logit is None else names.index(logit)])))
    return found


def _exact(
    model: Any, x: Tensor, output: int, chosen: list[GateSite], means: Means, done: Callable[[], Any]
) -> dict[str, Tensor]:
    """The change of one logit by image and channel, N×C for each site."""
    cached = CachedRun(model, x)
    before = cached.logits[:, output].double()
    found = {}
    with followed(network(model, wrapped=True), "class_channels"):
        for one in chosen:
            columns = []
            for channel in range(len(means.of(one.name))):
                with in_place(network(model), [channels_at(one, torch.tensor([channel]), means)]):
                    columns.append((cached.run_from(one.name)[:, output].double() - before).cpu())
                done()
            found[one.name] = torch.stack(columns, dim=1)
    return found


def _gradients(model: Any, x: Tensor, output: int, chosen: list[GateSite], means: Means) -> dict[str, Tensor]:
    """g·(m − ω) by image and channel, N×C for each site: the sum, where a site is called several times."""
    net = network(model)
    with (
        torch.inference_mode(False),
        followed(network(model, wrapped=True), "class_channels"),
        gates.evaluating(net, gradients=True),
        gates.capture(model, [one.name for one in chosen]) as captured,
        _movable(chosen) as moved,
    ):
        logits = checked_logits(net(x), "class_channels")
        every = [(name, call, one) for name, several in moved.items() for call, one in enumerate(several, 1)]
        slopes = torch.autograd.grad(logits[:, output].sum(), [one for *_, one in every], allow_unused=True)
    found: dict[str, Tensor] = {}
    for (name, call, delta), slope in zip(every, slopes, strict=True):
        gate = captured[name if call == 1 else f"{name}#{call}"].gate.double()
        mean = means.of(name, call).to(gate)
        step = mean.reshape(1, -1, *(1,) * (gate.ndim - 2)) - gate
        change = (torch.zeros_like(step) if slope is None else slope.double()) * torch.where(step.isnan(), 0, step)
        change = change.reshape(*delta.shape[:2], -1).sum(2).cpu()
        found[name] = found[name] + change if name in found else change
    return found


@contextmanager
def _movable(chosen: list[GateSite]) -> Iterator[dict[str, list[Tensor]]]:
    """Inside the ``with`` each site gives x·(ω + δ) + β, δ = 0 with a gradient; those of a run, by site."""
    moved: dict[str, list[Tensor]] = {one.name: [] for one in chosen}

    def at(one: GateSite) -> Callable[..., Tensor]:
        def run(original: Callable, *args: Any, **kwargs: Any) -> Tensor:
            x = args[0] if args else next(iter(kwargs.values()))
            before = x.clone()  # the module may write to it
            out = original(*args, **kwargs)
            patches = () if one.per == "channel" else tuple(-(-size // one.extent) for size in x.shape[2:])
            delta = x.new_zeros((*x.shape[:2], *patches), requires_grad=True)
            moved[one.name].append(delta)
            return out + (before * as_met(delta, before)).to(out.dtype)

        return run

    with ExitStack() as stack:
        for one in chosen:
            stack.callback(Instead(one.module, at(one)).remove)
        yield moved
