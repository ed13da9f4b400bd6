"""CIFAR-10: servers that are down, slow or send something else, disks that are full, and JPEGs that are none."""

from __future__ import annotations

import struct

import pytest
import test_cifar10
from loopback import Fault, Loopback
from recorder import CLEAR, RECOVERED, case
from test_disk import no_space_left, room_for
from torchvision import datasets

from ecaviz import cifar10, downloads, images

GROUP = "CIFAR-10"
jpegs, original = test_cifar10.jpegs, test_cifar10.original
NEXT = f"then, from a good server, {RECOVERED}"
WITHOUT = f"{CLEAR} without a download"
FROM_THE_ARCHIVE = f"with a whole archive, {RECOVERED} without the network"
NOTHING_HALF = f"{CLEAR}; nothing half is left"
ARCHIVE = "cifar-10-python.tar.gz"
BATCHES = "cifar-10-batches-py"
ELSEWHERE = r"Name a folder that has one of the two with root= \(or \$ECAVIZ_CIFAR10\)"


@pytest.fixture
def server(original, monkeypatch):
    """A server that has the archive; one that is silent is given up soon."""
    monkeypatch.setenv("ECAVIZ_TIMEOUT", "0.4")
    monkeypatch.setattr(downloads, "TRIES", 2)
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    with Loopback() as server:
        monkeypatch.setattr(datasets.CIFAR10, "url", server.add_file(ARCHIVE, original[0]))
        yield server


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    return folder


def left(folder) -> set[str]:
    """What is there, but for the lock."""
    return {path.name for path in folder.iterdir()} - {".locks"}


def whole(found, original) -> bool:
    """Whether the test images are those of the archive."""
    data, labels = original[1]["test_batch"]
    return found.labels.tolist() == labels and bool((found.images.flatten(1).numpy() == data).all())


def fetch(folder):
    return images.cifar10("test", folder)


DOWN = {
    "nobody listens": None,
    "no answer": Fault(silent=True, times=None),
    "silence midway": Fault(stall=100_000, times=None),
    "404": Fault(status=404, times=None),
    "503": Fault(status=503, times=None),
    "half the file": Fault(drop=180_000, times=None),
    "half the file, rudely": Fault(drop=180_000, reset=True, times=None),
}


@pytest.mark.parametrize("what", DOWN)
@case(
    GROUP,
    "nobody listens; no answer; silence midway; 404, 503; a connection that breaks",
    expected=f"{CLEAR}, soon; {NEXT}",
)
def test_down(outcomes, server, original, folder, what):
    if DOWN[what] is None:
        server.close()
    else:
        server.misbehave(DOWN[what])
    says = f"could not be fetched from http.*{ELSEWHERE}"
    with outcomes.clear_error(ConnectionError, folder, says, told=f"{CLEAR}, soon", apart_from=folder):
        fetch(folder)
    assert left(folder) <= {f"{ARCHIVE}.incomplete"}
    assert not cifar10.is_here(folder)
    if DOWN[what] is not None:
        server.misbehave()
        server.requests.clear()
        kept = folder / f"{ARCHIVE}.incomplete"
        begun = kept.stat().st_size if kept.exists() else 0
        assert whole(fetch(folder), original)
        assert [seen.range for seen in server.gets] == [f"bytes={begun}-" if begun else None]
        assert left(folder) == {ARCHIVE, BATCHES}
        outcomes.then(NEXT)


@pytest.mark.parametrize("what", ["another file", "a page", "cut", "one bit"])
@case(
    GROUP,
    "another file, a login page, the file with a byte less or one bit changed, all under “200 OK”",
    expected=f"{CLEAR}, and it is thrown away; {NEXT}",
)
def test_wrong(outcomes, server, original, folder, what):
    content = original[0]
    sent = {
        "another file": content[::-1],
        "a page": b"<html>log in</html>",
        "cut": content[:-1],
        "one bit": bytes([content[0] ^ 1]) + content[1:],
    }
    server.misbehave(Fault(body=sent[what], times=None))
    says, told = f"is not the original: its md5 is .*thrown away.*{ELSEWHERE}", f"{CLEAR}, and it is thrown away"
    with outcomes.clear_error(ValueError, folder, says, told=told, apart_from=folder):
        fetch(folder)
    assert left(folder) == set()
    server.misbehave()
    assert whole(fetch(folder), original)
    outcomes.then(NEXT)


@case(
    GROUP,
    "files that are cut off, changed or missing; with the archive beside them, cut off, or without it",
    expected=f"{WITHOUT}; {RECOVERED} with one; {FROM_THE_ARCHIVE}",
)
def test_damaged_files(outcomes, server, original, folder):
    fetch(folder)
    path, archive = folder / BATCHES / "test_batch", folder / ARCHIVE
    content = path.read_bytes()
    server.requests.clear()
    for broken in (content[:-1], b"", content[:9000] + b"\0" + content[9001:], None):
        path.unlink() if broken is None else path.write_bytes(broken)
        says = "nor torchvision's cifar-10-batches-py", ELSEWHERE
        with outcomes.clear_error(FileNotFoundError, folder, *says, told=WITHOUT):
            images.cifar10("test", folder, download=False)
        assert whole(fetch(folder), original)
        assert not server.gets
        outcomes.then(FROM_THE_ARCHIVE)
    for broken in (original[0][:100_000], b"", None):
        path.write_bytes(b"")
        archive.unlink() if broken is None else archive.write_bytes(broken)
        assert whole(fetch(folder), original)
        assert archive.read_bytes() == original[0]
        outcomes.happened(f"{RECOVERED} with one")
    assert len(server.gets) == 3
    assert left(folder) == {ARCHIVE, BATCHES}


@pytest.mark.parametrize("room", [0, 100_000, "for the archive alone"])
@case(
    GROUP,
    "a disk that is full: while the archive is fetched, or while it is unpacked",
    expected=f"{NOTHING_HALF}; with room again, {RECOVERED}",
)
def test_full_disks(outcomes, server, original, folder, room):
    says = "cannot be stored in ", "Make room there", ELSEWHERE
    with (
        outcomes.clear_error(OSError, folder, *says, told=NOTHING_HALF, apart_from=folder),
        no_space_left() if isinstance(room, str) else room_for(room),
    ):
        fetch(folder)
    assert left(folder) == ({ARCHIVE} if isinstance(room, str) else set())
    assert not cifar10.is_here(folder)
    assert whole(fetch(folder), original)
    outcomes.then(f"with room again, {RECOVERED}")


def claims(width: int, height: int) -> bytes:
    """The beginning of a JPEG of so many pixels, up to where they would come."""
    frame = struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0"
    return (
        b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xda\0\x08\1\1\0\0\x3f\0" + b"\0" * 100
    )


@case(
    GROUP,
    "a JPEG that claims 60,000 × 60,000 or 9,000 × 9,000 pixels, an empty one, a page, a cut one, a folder, a link",
    expected=CLEAR,
)
def test_jpegs(outcomes, jpegs):
    path = jpegs / "cifar10-jpeg" / "test" / "cat" / "0001.jpg"
    content = path.read_bytes()
    for broken, why in (
        (claims(60_000, 60_000), "pixels"),  # Pillow's own word
        (claims(9_000, 9_000), "9,000 × 9,000 pixels; at most 1,024 are taken"),  # none of its data is looked at
        *((one, "") for one in (b"", b"<html>", content[:100], content[:-200])),
    ):
        path.write_bytes(broken)
        with outcomes.clear_error(ValueError, path, f"cannot be read: .*{why}.*Restore it"):
            cifar10.Cifar10("test", jpegs)
    path.unlink()
    path.mkdir()
    with outcomes.clear_error(ValueError, path, "cannot be read"):
        cifar10.Cifar10("test", jpegs)
    path.rmdir()
    path.symlink_to(jpegs / "nowhere")
    with outcomes.clear_error(ValueError, path, "cannot be read"):
        cifar10.Cifar10("test", jpegs)
