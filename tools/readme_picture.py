"""Draw docs/tour.png, the README's picture, with the LayerExplorer that the notebooks use.

python tools/readme_picture.py [--out docs/tour.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ecaviz

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Draw the picture: the bundled SE and ECA, the mean gates of one class at a layer of the third stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "tour.png", help="the file")
    out = parser.parse_args().out
    explorer = ecaviz.LayerExplorer(["shapes-se-r16", "shapes-eca-k3"], ecaviz.images.shapes("test", n=240))
    explorer.state.layer = explorer.state.names.index("layer3.1")
    explorer.state.shown, explorer.state.of = "class", "star"
    out.parent.mkdir(parents=True, exist_ok=True)
    explorer.figure().savefig(out, dpi=90)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
