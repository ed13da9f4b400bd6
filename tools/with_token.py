"""Run a server of Jupyter's as `python -m MODULE` does, with the token of $JUPYTER_TOKEN as one more option.

python tools/with_token.py OPTION MODULE [OPTIONS OF THE MODULE]

The variable alone gives way to a line in a configuration file that switches tokens off; an option outranks it. Since it
is put in here, no list of processes shows it.
"""

from __future__ import annotations

import os
import runpy
import sys
import warnings
from contextlib import suppress


def main() -> None:
    """Put the token behind the other options, and become the module."""
    _, option, module, *others = sys.argv
    # Voilà, which JupyterLab loads, has Python show the deprecations inside Jupyter: nothing that a user can change.
    with suppress(ImportError), warnings.catch_warnings(record=True):  # which takes that back
        import voila  # noqa: F401
    sys.argv = [module, *others, f"{option}={os.environ['JUPYTER_TOKEN']}"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
