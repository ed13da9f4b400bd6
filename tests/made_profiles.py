"""A profile of gates that a test has made up, by the library's own accumulators."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ecaviz.profiles import BINS, HIGH, LOW, AttentionProfile, SiteProfile
from ecaviz.site_profile import accumulators

SETTINGS = {
    "moments": {},
    "tails": {"low": LOW, "high": HIGH},
    "histogram": {"bins": BINS, "low": 0.0, "high": 1.0},
    "largest": {"k": 2, "largest": True},
    "smallest": {"k": 2, "largest": False},
}


def profile_of(gates: Mapping[str, torch.Tensor], labels: torch.Tensor, classes: int, family="se") -> AttentionProfile:
    """Of gates N×C by site, and int64 N."""
    sites = {}
    for name, gate in gates.items():
        kept = accumulators(gate.shape[1], classes, SETTINGS)
        for what, one in kept.items():
            groups = labels if what in ("moments", "tails") else None
            extra = (torch.arange(len(gate)),) if what in ("largest", "smallest") else ()
            one.update(gate, groups, *extra)
        about = {"name": name, "family": family, "channels": gate.shape[1], "activation": "sigmoid"}
        sites[name] = SiteProfile(**about, kernel_size=None, reduction=None, **kept)
    counts = torch.bincount(labels, minlength=classes)
    return AttentionProfile(
        model="made up",
        source="a test",
        fingerprint="",
        images="numbers",
        by="class",
        classes=tuple(f"class {i}" for i in range(classes)),
        n=len(labels),
        positions=len(labels),
        counts=counts,
        correct=None,
        skipped=(),
        sites=sites,
    )


def gates_of_classes(sizes, channels: int, seed: int = 0, noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Gates N×C that know the class, in classes of these sizes, in mixed order; float32 and int64."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=random)]
    means = torch.randn(len(sizes), channels, generator=random) + torch.randn(len(sizes), 1, generator=random)
    logits = means[labels] + torch.randn(channels, generator=random)
    logits = logits + noise * torch.randn(len(labels), channels, generator=random)
    return logits.sigmoid(), labels
