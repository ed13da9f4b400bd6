"""Serve the explorers as one page without code, through Voilà: on the loopback, with a token, nothing from the network.

python tools/dashboard.py [--theme light|dark] [--port PORT] [--no-browser]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import serving
from jupyter_core.paths import jupyter_data_dir
from serving import ROOT

FOLDER = ROOT / "dashboard"
NOTEBOOK = FOLDER / "explorers.ipynb"
THEMES = ("light", "dark")


def command(port: int, theme: str = "light") -> list[str]:
    """The command line of Voilà: on the loopback, with a token, each explorer shown as soon as it is there."""
    return [
        *serving.with_token("--Voila.token", "voila"),
        *(str(NOTEBOOK), "--no-browser"),
        "--Voila.ip=127.0.0.1",
        f"--Voila.port={port}",
        "--Voila.port_retries=0",
        "--Voila.base_url=/",  # whatever a user's settings say
        "--VoilaConfiguration.template=ecaviz",
        f"--VoilaConfiguration.theme={theme}",
        "--VoilaConfiguration.progressive_rendering=True",
        "--VoilaConfiguration.strip_sources=True",
        "--VoilaConfiguration.show_tracebacks=True",
        "--Application.log_level=ERROR",
    ]


def environment(secret: str, env=os.environ) -> dict[str, str]:
    """What Voilà finds in its environment: the token, and where the template of its page is."""
    places = [str(FOLDER), *filter(None, [env.get("JUPYTER_PATH")])]
    return {"JUPYTER_TOKEN": secret, "JUPYTER_PATH": os.pathsep.join(places)}


def main() -> int:
    """Run the dashboard until it is stopped."""
    parser = argparse.ArgumentParser(description="Serve the explorers as one page.")
    parser.add_argument("--theme", choices=THEMES, default="light", help="colours of the page (default: light)")
    serving.add_options(parser, port=8866)
    arguments = parser.parse_args()

    # Older nbformat keeps a secret there, and on a machine where Jupyter never ran does not make the folder.
    Path(jupyter_data_dir()).mkdir(mode=0o700, parents=True, exist_ok=True)
    port, secret, headless = serving.chosen_port(arguments.port), serving.token(), serving.is_headless()
    url = f"{serving.address(port)}/?token={secret}"

    def say() -> None:
        print(serving.message("The dashboard", "dashboard", url, headless, port), flush=True)
        if not (headless or arguments.no_browser):
            serving.open_page(url)  # Voilà would open it without the token

    return serving.serve(command(port, arguments.theme), environment(secret), port, "/", say)


if __name__ == "__main__":
    sys.exit(main())
