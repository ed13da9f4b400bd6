"""Profiles that are killed without warning (SIGKILL), and go on to the same result."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_profiles import model

from ecaviz import images
from ecaviz.profiles import AttentionProfile, profile
from ecaviz.statistics import TopK

HERE = Path(__file__).parent
N, BATCH = 50, 2

# Arguments: the checkpoint; the batch of this process in which it is killed, or 0; how long
# after the beginning of that batch, in seconds: it dies in the network, in the statistics or while writing.
PROGRAM = f"""
import os, signal, sys, threading, time
import torch
torch.set_num_threads(1)
from test_profiles import model
from ecaviz import images
from ecaviz.profiles import profile

checkpoint, batch, after = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
loaded, count = model(), 0

def killer():
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)

def begin(*_):
    global count
    count += 1
    if count == batch:
        threading.Thread(target=killer, daemon=True).start()

loaded.net.register_forward_pre_hook(begin)
profile(
    loaded, images.shapes("test", {N}), by="class", batch_size={BATCH}, every=1, checkpoint=checkpoint, progress=False
)
print(count)
"""


def run(folder: Path, batch: int = 0, after: float = 0.0) -> subprocess.CompletedProcess:
    arguments = [folder / "partial", batch, after]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def same(one: AttentionProfile, other: AttentionProfile) -> None:
    assert (one.n, one.positions, one.classes, list(one)) == (other.n, other.positions, other.classes, list(other))
    assert torch.equal(one.counts, other.counts)
    assert torch.equal(one.correct, other.correct)
    for name in one:
        for what in ("moments", "tails", "histogram", "largest", "smallest"):
            mine, its = getattr(one[name], what), getattr(other[name], what)
            for key, value in mine.state_dict().items():
                if value.is_floating_point() and not isinstance(mine, TopK):
                    torch.testing.assert_close(value, its.state_dict()[key], rtol=1e-6, atol=1e-12)
                else:
                    assert torch.equal(value.nan_to_num(), its.state_dict()[key].nan_to_num()), (name, what, key)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.long)])
def test_a_killed_pass_goes_on_to_the_same_profile(tmp_path, kills):
    """Each process gets a few batches further than the last one, and is killed at a moment of its own."""
    chance, kept = random.Random(kills), tmp_path / "partial"
    killed = at = furthest = 0
    for _ in range(3 * kills):
        ended = run(tmp_path, chance.randint(2, 4) if kills > 1 else chance.randint(3, 15), chance.uniform(0, 0.03))
        at = AttentionProfile.load(kept).positions if kept.exists() else 0
        if at == N:  # it was through before it was killed: once more from the start
            kept.unlink()
            at = 0
            continue
        assert ended.returncode == -9, ended.stderr
        killed, furthest = killed + 1, max(furthest, at)
        if killed == kills:
            break
    assert killed == kills
    assert furthest > 0
    ended = run(tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) == (N - at) // BATCH  # what was through was not done again
    assert [path.name for path in tmp_path.iterdir()] == ["partial"]  # and nothing that is half written
    whole = profile(model(), images.shapes("test", N), by="class", batch_size=BATCH, progress=False)
    same(AttentionProfile.load(kept), whole)
