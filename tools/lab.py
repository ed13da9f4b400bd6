"""Open JupyterLab at the tour, or, on a machine without a display, say how to reach it from another.

python tools/lab.py [NOTEBOOK] [--port PORT] [--no-browser]
"""

from __future__ import annotations

import argparse
import sys

import serving
from serving import ROOT

TOUR = "notebooks/00_tour.ipynb"


def command(port: int, notebook: str, browser: bool) -> list[str]:
    """The command line of JupyterLab: on the loopback, quiet, and stopped by one Ctrl-C."""
    return [
        *serving.with_token("--IdentityProvider.token", "jupyterlab"),
        f"--ServerApp.root_dir={ROOT}",
        "--ServerApp.ip=127.0.0.1",
        *("--ServerApp.base_url=/", "--ServerApp.sock=", "--ServerApp.certfile="),  # whatever a user's settings say
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.open_browser={browser}",
        "--ServerApp.use_redirect_file=True",  # or the token would be on the browser's command line
        "--ServerApp.answer_yes=True",
        "--ServerApp.allow_root=True",
        f"--LabApp.default_url=/lab/tree/{notebook}",
        "--Application.log_level=WARN",
    ]


def main() -> int:
    """Run JupyterLab until it is stopped."""
    parser = argparse.ArgumentParser(description="Open JupyterLab at a notebook.")
    parser.add_argument("notebook", nargs="?", default=TOUR, help=f"path inside this checkout (default: {TOUR})")
    serving.add_options(parser, port=8888)
    arguments = parser.parse_args()

    if not (ROOT / arguments.notebook).is_file():
        there = ", ".join(sorted(f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")))
        print(f"error: no notebook {arguments.notebook} in {ROOT}; there are: {there or 'none'}", file=sys.stderr)
        return 2
    port, secret, headless = serving.chosen_port(arguments.port), serving.token(), serving.is_headless()
    url = f"{serving.address(port)}/lab/tree/{arguments.notebook}?token={secret}"
    return serving.serve(
        command(port, arguments.notebook, not (headless or arguments.no_browser)),
        {"JUPYTER_TOKEN": secret},
        port,
        "/lab",
        lambda: print(serving.message("JupyterLab", "lab", url, headless, port), flush=True),
    )


if __name__ == "__main__":
    sys.exit(main())
