"""A table into a file: CSV or Parquet, by the ending of its name, whole or not at all."""

from __future__ import annotations

import gzip
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .whole_files import draft, folder_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

__all__ = ["check_ending", "save_table"]

_PARQUET, _CSV = ".parquet", (".csv", ".csv.gz")


def check_ending(path: str | os.PathLike) -> None:
    """Say before a long run, not after it, that its table could not be written.

    Raises:
        ValueError: The name ends in neither .csv, .csv.gz nor .parquet.
        ModuleNotFoundError: It ends in .parquet, and pyarrow is not installed.
    """
    name = Path(path).name
    if name.endswith(_PARQUET) and importlib.util.find_spec("pyarrow") is None:
        raise ModuleNotFoundError(
            f"save_table: {name} needs pyarrow, which is not installed: pip install pyarrow. Or name a .csv.",
            name="pyarrow",
        )
    if not name.endswith((_PARQUET, *_CSV)):
        raise ValueError(f"save_table: a name that ends in .csv, .csv.gz or .parquet was expected, got {name!r}.")


def save_table(frame: pd.DataFrame | Iterable[pd.DataFrame], path: str | os.PathLike) -> Path:
    """Write a table.

    Args:
        frame: The table; its index is left out. Or its parts, one after the other and of the same columns, so that a
            large table need not be in memory at once.
        path: The file, .csv, .csv.gz or .parquet (which needs pyarrow); its folder is made if it is missing.

    Returns:
        The path.

    Raises:
        ValueError: The name ends in something else.
        ModuleNotFoundError: pyarrow is not installed.
        OSError: It cannot be written: no room, no permission.
    """
    check_ending(path)
    path = Path(path)
    folder_for(path)
    parts = frame if not hasattr(frame, "columns") else [frame]
    with draft(path) as place:
        (_to_parquet if path.name.endswith(_PARQUET) else _to_csv)(parts, place)
    return path


def _to_parquet(parts: Iterable[pd.DataFrame], path: Path) -> None:
    """A row group a part."""
    import pyarrow
    from pyarrow import parquet

    writer = None
    try:
        for part in parts:
            rows = pyarrow.Table.from_pandas(part, preserve_index=False)
            writer = writer or parquet.ParquetWriter(path, rows.schema)
            writer.write_table(rows.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()


def _to_csv(parts: Iterable[pd.DataFrame], path: Path) -> None:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        for number, part in enumerate(parts):
            part.to_csv(file, index=False, header=number == 0, lineterminator="\n")
