"""The README's pictures: the animation is what the tool draws, small, and goes round for ever."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tool():
    pytest.importorskip("ipywidgets", reason="the extra `lab` is not installed")
    spec = importlib.util.spec_from_file_location("readme_pictures", ROOT / "tools" / "readme_pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seen(path):
    """The frames of a picture, uint8 H×W×3 each, and how long each is shown, in milliseconds."""
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        pairs = [(np.asarray(one.convert("RGB")), one.info["duration"]) for one in ImageSequence.Iterator(image)]
    return [pixels for pixels, _ in pairs], [duration for _, duration in pairs]


def test_the_animation_is_small_and_takes_ten_seconds(tool):
    path = ROOT / "docs" / "explorer.gif"
    frames, durations = seen(path)
    assert path.stat().st_size <= tool.MOST
    assert 8_000 <= sum(durations) <= 12_000
    assert {one.shape[1] for one in frames} == {tool.WIDTH}
    strips = [one[: tool.STRIP].tobytes() for one in frames]
    assert len(set(strips)) == len(frames) == 8 + tool.CLASSES - 1  # what moves is seen above every frame


def test_frames_keep_their_order_and_colours(tool, tmp_path):
    stripes = (
        np.repeat([[(255, 255, 255), (0, 114, 178), (213, 94, 0)]], 10, axis=1).repeat(20, axis=0).astype(np.uint8)
    )
    given = [np.roll(stripes, 7 * i, axis=1) for i in range(6)]
    path = tmp_path / "small.gif"
    path.write_bytes(tool.gif([Image.fromarray(one) for one in given]))
    frames, durations = seen(path)
    assert durations == [tool.PAUSE] * 6
    assert np.abs(np.array(frames, int) - given).max() <= 4


@pytest.mark.long
def test_the_tool_draws_both_pictures(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["readme_pictures.py", "--out", str(tmp_path)])
    tool.main()
    with Image.open(tmp_path / "tour.png") as new, Image.open(ROOT / "docs" / "tour.png") as old:
        assert new.size == old.size
    new, old = (seen(folder / "explorer.gif") for folder in (tmp_path, ROOT / "docs"))
    assert [one.shape for one in new[0]] == [one.shape for one in old[0]]
    assert new[1] == old[1]
    monkeypatch.setattr(tool, "MOST", 1000)
    with pytest.raises(ValueError, match=r"explorer\.gif would have [\d,]+ bytes; at most 1,000 were expected"):
        tool.main()
