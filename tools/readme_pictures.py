"""Draw the README's pictures with the LayerExplorer that the notebooks use.

    python tools/readme_pictures.py [--out docs]

tour.png is one picture of it; explorer.gif shows it in use: the layer moves, then the class.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

import ecaviz
from ecaviz.frames import rendered_ahead

ROOT = Path(__file__).resolve().parent.parent

MOST = 1_000_000
"""Bytes of the animation."""
WIDTH, STRIP = 790, 44
"""Of the animation, and how tall the strip with the controls is: pixels. A code host shows some 830 of a README."""
COLOURS = 96
CLASSES = 4
"""Classes that the animation shows."""
PAUSE = 900
"""Milliseconds a frame."""

MOVING, STILL = "#0072B2", "#6E6E6E"


def draw_tour(explorer: ecaviz.LayerExplorer, path: Path) -> None:
    """Draw the mean gates of one class at a layer of the third stage."""
    explorer.state.layer = explorer.state.names.index("layer3.1")
    explorer.state.shown, explorer.state.of = "class", "star"
    explorer.figure().savefig(path, dpi=90)


def draw_animation(explorer: ecaviz.LayerExplorer, path: Path) -> None:
    """Draw what comes of moving the layer, then the class.

    Raises:
        ValueError: The file would have more than :data:`MOST` bytes.
    """
    explorer.state.shown, explorer.state.of = "class", explorer.state.images.present[0]
    explorer.ahead = "layer"
    layers = rendered_ahead(explorer)
    explorer.state.layer = last = len(layers.values) - 1
    explorer.ahead = "of"
    classes = rendered_ahead(explorer)
    shown = [with_controls(png, layers.values, i, classes.values[0], 0) for i, png in enumerate(layers.pictures)]
    shown += [with_controls(classes.pictures[i], layers.values, last, classes.values[i], 1) for i in range(1, CLASSES)]
    content = gif(shown)
    if len(content) > MOST:
        raise ValueError(f"{path.name} would have {len(content):,} bytes; at most {MOST:,} were expected.")
    path.write_bytes(content)


def with_controls(png: bytes, layers: Sequence[str], layer: int, of: str, moving: int) -> Image.Image:
    """A picture of the explorer, and above it the two controls, the one that moves in blue.

    Args:
        png: The picture.
        layers: The labels of the slider.
        layer: Where it stands.
        of: The class that is chosen.
        moving: 0 for the slider, 1 for the class.
    """
    with Image.open(io.BytesIO(png)) as picture:
        small = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    frame = Image.new("RGB", (WIDTH, STRIP + small.height), "white")
    frame.paste(small, (0, STRIP))
    draw, middle = ImageDraw.Draw(frame), STRIP // 2
    plain, bold = (
        ImageFont.truetype(font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans", weight=weight)), 15)
        for weight in ("normal", "bold")
    )
    fonts = (bold, plain) if moving == 0 else (plain, bold)
    inks = (MOVING, STILL) if moving == 0 else (STILL, MOVING)

    draw.text((14, middle), "layer", inks[0], fonts[0], anchor="lm")
    left, right = 72, 292
    draw.line((left, middle, right, middle), STILL, 3)
    x = left + (right - left) * layer / (len(layers) - 1)
    draw.ellipse((x - 8, middle - 8, x + 8, middle + 8), inks[0])
    draw.text((right + 16, middle), layers[layer], inks[0], fonts[0], anchor="lm")

    draw.text((450, middle), "class", inks[1], fonts[1], anchor="lm")
    draw.rounded_rectangle((508, middle - 14, 706, middle + 14), 4, outline=inks[1], width=2)
    draw.text((520, middle), of, inks[1], fonts[1], anchor="lm")
    draw.polygon([(684, middle - 3), (696, middle - 3), (690, middle + 5)], inks[1])
    return frame


def gif(frames: Sequence[Image.Image]) -> bytes:
    """Frames as a GIF that starts over at its end, all in the same few colours: what does not move stays as it is."""
    few = frames[::4]
    sheet = Image.new("RGB", (few[0].width, sum(one.height for one in few)))
    for i, one in enumerate(few):
        sheet.paste(one, (0, i * one.height))
    colours = sheet.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=1)
    first, *others = [one.quantize(palette=colours, dither=Image.Dither.NONE) for one in frames]
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=PAUSE, loop=0, optimize=False)
    return file.getvalue()


def main() -> None:
    """Draw both from the bundled SE and ECA."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="the folder")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    explorer = ecaviz.LayerExplorer(["shapes-se-r16", "shapes-eca-k3"], ecaviz.images.shapes("test", n=240))
    for draw, name in ((draw_tour, "tour.png"), (draw_animation, "explorer.gif")):
        draw(explorer, out / name)
        print(f"{out / name}: {(out / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
