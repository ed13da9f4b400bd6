"""What pytest runs with while mutants are tried: one thread, no chance in hypothesis, and what is quick first."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from hypothesis import Phase, settings

torch.set_num_threads(1)
# Without a search for the smallest example that fails: the first one tells.
settings.register_profile("mutants", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
settings.load_profile("mutants")


def pytest_sessionstart():
    """What functions remember is forgotten: it was computed without the mutant, before the process was forked."""
    for name, module in list(sys.modules.items()):
        for one in list(vars(module).values()) if name.startswith("ecaviz") else ():
            if hasattr(one, "cache_clear"):
                one.cache_clear()


def pytest_collection_modifyitems(items):
    """What is quick comes first, so that most mutants are killed soon; mutmut knows what each test took."""
    known = Path("mutmut-stats.json")  # mutmut runs pytest in mutants/, and has written it before the first mutant
    seconds = json.loads(known.read_text("utf-8"))["duration_by_test"] if known.is_file() else {}
    items.sort(key=lambda item: seconds.get(item.nodeid, 0))
