"""What the tests of stopped coverages do in processes of their own; see stopping.py."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ecaviz import attention, coverage_runs, coverage_tables, models, tables
from ecaviz.shapes import normalise


def networks() -> list[models.LoadedModel]:
    """Three networks with one site each, always the same."""
    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, 16, 5, stride=4), attention.SE(16, 4), nn.Conv2d(16, 4, 3))
        made.append(models.load(net.eval(), transform=normalise, device="cpu"))
    return made


NETWORKS, IMAGES = networks(), torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
ROWS = [coverage_tables.coverage_of(one, IMAGES) for one in NETWORKS]  # here once, instead of in each process


def measure(folder: str) -> list[int]:
    """The table of three networks, as ``python -m ecaviz coverage`` writes it; which of them were measured."""
    asked = []

    def measured(model, *_, **__):
        asked.append(NETWORKS.index(model))
        return ROWS[asked[-1]]

    coverage_runs.coverage_of = measured
    run = coverage_runs.Run(Path(folder), NETWORKS, IMAGES, progress=False)
    tables.save_table(run.coverage(), Path(folder) / "coverage.csv")
    run.forget()
    return asked
