"""The tables of ``data/published``: read whole, checked against their sums, or not at all.

They lie in the repository with a sum each in ``SHA256SUMS``; ``data/README.md`` says how to renew it after an edit.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import bundle, recorded_files

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "RESTORE", "folder", "read"]

RESTORE = "Restore it with `git checkout -- data/published`."
"""What to do where a table is missing or broken."""

COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "adaptive_k": (("channels", "psi", "paper_code", "timm", "official_mobilenetv2"), ("nearest_odd", "source")),
    "gather_excite": (("parameters", "top1"), ("method", "backbone", "parameters_published", "note", "source")),
    "kernel_size": (("top1",), ("backbone", "k", "note", "source")),
    "pretrained": (
        ("sites", "parameters", "classes", "size", "top1", "top5"),
        ("name", "source", "family", "setting", "images", "accuracy_source", "where", "made_with"),
    ),
    "released_k": (
        ("stage", "blocks", "planes", "channels", "rule_on_planes", "rule_on_channels", "timm", "released"),
        ("model", "source"),
    ),
    "se_reduction": (
        ("reduction", "top1_error", "top5_error", "parameters"),
        ("model", "parameters_published", "source"),
    ),
    "table1": ((), ("model", "no_reduction", "cross_channel", "lighter_than_se", "source")),
    "table2": (
        ("top1", "top5", "parameters_extra", "parameters"),
        ("method", "attention", "parameters_per_module", "note", "source"),
    ),
    "table3": (
        ("parameters", "flops_published", "top1", "top5"),
        ("method", "backbone", "parameters_published", "note", "source"),
    ),
    "timm_imagenet": (("size", "crop", "top1", "top5"), ("model", "interpolation", "parameters_published", "commit")),
}
"""By table, its columns of numbers and the others; ``data/published/README.md`` says what is in them."""

_AS_PRINTED = {"parameters_published": str, "k": str}


def folder() -> Path:
    """Where the tables lie.

    Raises:
        FileNotFoundError: There is no data folder.
    """
    return bundle.data_folder() / "published"


def read(table: str) -> pd.DataFrame:
    """A table, whole; k and a number of parameters that was printed stay text.

    Args:
        table: Its name, such as ``"table2"``.

    Raises:
        FileNotFoundError: There is no such table.
        PermissionError: It may not be read.
        ValueError: It was truncated or changed.
    """
    place = folder()
    path = place / f"{table}.csv"
    if table not in COLUMNS and not path.is_file():
        known = ", ".join(sorted(COLUMNS))
        raise FileNotFoundError(f"ecaviz: there is no {path}. Tables: {known}.")
    return recorded_files.table(path, "ecaviz", RESTORE, *COLUMNS.get(table, ((), ())), dtype=_AS_PRINTED)
