"""p-values adjusted for the number of questions that were asked at once; what is NaN stays so, and counts for none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["benjamini_hochberg", "holm"]


def holm(p: pd.Series) -> pd.Series:
    """Holm's adjusted p: below α for a true null hypothesis in at most a share α of such tables.

    Source: S. Holm, Scand. J. Stat. 6, 65–70, 1979.
    """
    ranked = p.dropna().sort_values()
    steps = ranked * np.arange(len(ranked), 0, -1)
    return steps.cummax().clip(upper=1).reindex(p.index)


def benjamini_hochberg(p: pd.Series) -> pd.Series:
    """Benjamini and Hochberg's adjusted p: of all that lie below α, a share α is false on average.

    Source: Benjamini & Hochberg, J. R. Stat. Soc. B 57, 289–300, 1995.
    """
    ranked = p.dropna().sort_values(ascending=False)
    steps = ranked * (len(ranked) / np.arange(len(ranked), 0, -1))
    return steps.cummin().clip(upper=1).reindex(p.index)
