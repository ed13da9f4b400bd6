"""Fetching weights: what lands in the cache and what never does, against a server on loopback that can misbehave."""

import errno
import hashlib
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock
from huggingface_hub import close_session, constants, hf_hub_download, scan_cache_dir
from loopback import COMMIT, Fault, Loopback

from ecaviz import downloads, hub

REPO = "timm/net.in1k"
NAME = "net.in1k"
CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server with the same file in a repository and under a URL; both caches are empty and in tmp_path."""
    for key in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "ECAVIZ_TIMEOUT"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    close_session()
    with Loopback() as server:
        server.add_repo(REPO, {"model.safetensors": CONTENT})
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield server
    close_session()


class FromHub:
    def __init__(self, server, tmp_path):
        self.cache = tmp_path / "home" / "hub"
        self.folder = self.cache / "models--timm--net.in1k"
        self.final = self.folder / "blobs" / SHA256
        self.address = f"{server.endpoint}/{REPO}/resolve/"

    def fetch(self):
        return hub.fetch(NAME, REPO)

    def cached(self):
        return hub.cached(REPO)


class FromUrl:
    def __init__(self, server, tmp_path):
        self.cache = tmp_path / "torch" / "hub" / "checkpoints"
        self.folder = self.cache
        self.final = self.cache / f"net-{SHA256[:8]}.pth"
        self.address = server.add_file(self.final.name, CONTENT)

    def fetch(self):
        return hub.fetch_url(NAME, self.address)

    def cached(self):
        return hub.cached_url(self.address)


@pytest.fixture(params=[FromHub, FromUrl])
def source(request, server, tmp_path):
    source = request.param(server, tmp_path)
    source.partial = source.final.with_name(source.final.name + ".incomplete")
    return source


HEAD_OR_GET = [(FromHub, "HEAD"), (FromHub, "GET"), (FromUrl, "GET")]  # a URL is asked for its file at once


def ranges(server):
    return [seen.range for seen in server.gets]


def left(source):
    """The files in the cache besides locks."""
    return {path for path in source.folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def assert_nothing_whole(source, kept):
    """Nothing that could be taken for a whole file; but ``kept`` good bytes for the next call."""
    assert source.cached() is None
    assert left(source) == ({source.partial} if kept else set())
    if kept:
        assert source.partial.read_bytes() == CONTENT[:kept]


def assert_next_call_succeeds(server, source):
    server.misbehave()
    path = source.fetch()
    assert path.read_bytes() == CONTENT
    assert source.cached() == path
    assert not source.partial.exists()
    assert all(file.read_bytes() == CONTENT for file in left(source) if file.name != "main")


def start(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


FETCH = f"from ecaviz import hub; print(hub.fetch({NAME!r}, {REPO!r}))"


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# ----------------------------------------------------------------------------------------------- the first and the next


def test_first_and_second(server, source, capsys, monkeypatch):
    assert source.cached() is None
    path = source.fetch()
    assert path.read_bytes() == CONTENT
    assert source.cached() == path
    assert path.resolve() == source.final
    assert ranges(server) == [None]
    bar = capsys.readouterr().err
    assert NAME in bar
    assert "100%" in bar
    assert "293k/293k" in bar

    asked = len(server.requests)
    assert source.fetch() == path
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert source.fetch() == path
    assert len(server.requests) == asked
    server.close()
    assert source.fetch() == path
    assert capsys.readouterr().err == ""


def test_the_layout_is_that_of_hf_hub_download(server, tmp_path):
    """The tree of files and links is that of the library itself, and the library finds what was fetched."""
    path = hub.fetch(NAME, REPO)
    asked = [(seen.method, seen.path) for seen in server.requests if "resolve" in seen.path]
    assert asked == [("HEAD", f"/{REPO}/resolve/main/{path.name}"), ("GET", f"/{REPO}/resolve/{COMMIT}/{path.name}")]
    theirs = Path(hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path / "theirs"))

    def tree(cache):
        folder = Path(cache) / "models--timm--net.in1k"
        return {
            str(entry.relative_to(folder)): os.readlink(entry) if entry.is_symlink() else entry.read_bytes()
            for entry in folder.rglob("*")
            if not entry.is_dir()
        }

    assert tree(constants.HF_HUB_CACHE) == tree(tmp_path / "theirs")
    assert path.relative_to(constants.HF_HUB_CACHE) == theirs.relative_to(tmp_path / "theirs")
    assert hf_hub_download(REPO, "model.safetensors", local_files_only=True) == str(path)
    found = scan_cache_dir(constants.HF_HUB_CACHE)
    assert not found.warnings
    assert [(repo.repo_id, repo.size_on_disk) for repo in found.repos] == [(REPO, len(CONTENT))]


def test_the_safe_format_is_preferred(server):
    server.add_repo(REPO, {"pytorch_model.bin": OTHER})
    path = hub.fetch(NAME, REPO)
    assert (path.name, path.read_bytes()) == ("pytorch_model.bin", OTHER)
    assert hub.cached(REPO) == path
    shutil.copy(path, path.with_name("model.safetensors"))
    assert hub.cached(REPO) == path.with_name("model.safetensors")


def test_another_revision_of_the_repository(server):
    """A cache that knows an older commit keeps it, and main points to the new one."""
    old = hub.fetch(NAME, REPO)
    server.commit = COMMIT[::-1]
    old.unlink()
    new = hub.fetch(NAME, REPO)
    assert new.parent.name == COMMIT[::-1]
    assert hub.cached(REPO) == new
    assert len(server.gets) == 1  # the blob was there


def test_no_symbolic_links(server, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    server.misbehave(Fault(pace=0.001))
    with ThreadPoolExecutor(2) as pool:
        path, other = pool.map(hub.fetch, [NAME] * 2, [REPO] * 2)
    assert path == other
    assert len(server.gets) == 1
    assert not path.is_symlink()
    assert path.read_bytes() == CONTENT
    assert hub.cached(REPO) == path


def test_a_token_goes_to_the_hub_alone(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.fetch(NAME, REPO)
    asked = [seen for seen in server.requests if "resolve" in seen.path]
    assert [seen.authorization for seen in asked] == ["Bearer hf_secret"] * 2
    assert [seen.authorization for seen in server.gets] == [None]


def test_a_url_without_a_hash(server):
    url = server.add_file("weights.pth", CONTENT)
    server.misbehave(Fault(drop=100_000, times=None))
    with pytest.raises(ConnectionError, match="broke after 100000 of 300000 bytes"):
        hub.fetch_url(NAME, url)
    assert not list(Path(os.environ["TORCH_HOME"]).rglob("*.incomplete"))
    server.misbehave(Fault(drop=100_000))
    assert hub.fetch_url(NAME, url + "?download=1").read_bytes() == CONTENT
    assert set(ranges(server)) == {None}  # two parts might belong to two files


def test_a_url_without_a_hash_whose_length_is_not_told(server):
    """Half of it would pass for the whole."""
    url = server.add_file("weights.pth", CONTENT)
    server.misbehave(Fault(no_length=True, times=None))
    with pytest.raises(ValueError, match="neither its hash nor its length was told"):
        hub.fetch_url(NAME, url)
    assert not [path for path in Path(os.environ["TORCH_HOME"]).rglob("weights*") if path.suffix != ".lock"]


# -------------------------------------------------------------------------------------------------------- a broken line


@pytest.mark.parametrize("fault", [Fault(drop=120_000, times=None), Fault(drop=120_000, times=None, reset=True)])
def test_goes_on_within_a_call(server, source, fault):
    server.misbehave(fault)
    assert source.fetch().read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=120000-", "bytes=240000-"]


def test_goes_on_in_the_next_call(server, source):
    server.misbehave(Fault(drop=40_000, times=None))
    with pytest.raises(
        ConnectionError, match=rf"'{NAME}' are not in the cache .* broke after 160000 of 300000 bytes.*160,000 .*kept"
    ):
        source.fetch()
    assert_nothing_whole(source, kept=160_000)
    server.requests.clear()
    assert_next_call_succeeds(server, source)
    assert ranges(server) == ["bytes=160000-"]


def test_another_part_than_was_asked_for_is_not_added(server, source):
    server.misbehave(Fault(drop=120_000), Fault(shift=10))
    assert source.fetch().read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=120000-", None]  # it begins again


def test_tries_that_bring_something_do_not_count(server, source, monkeypatch):
    monkeypatch.setattr(downloads, "FRUITFUL", 30_000)
    server.misbehave(Fault(drop=40_000, times=None))
    assert source.fetch().read_bytes() == CONTENT
    assert len(server.gets) == 8 > downloads.TRIES


def test_a_server_that_starts_over_every_time(server, source, monkeypatch):
    monkeypatch.setattr(downloads, "FRUITFUL", 30_000)
    server.misbehave(Fault(drop=40_000, times=None, no_range=True))
    with pytest.raises(ConnectionError, match="broke after 40000 of 300000"):
        source.fetch()
    assert len(server.gets) == 1 + downloads.TRIES
    assert_nothing_whole(source, kept=40_000)
    server.misbehave(Fault(no_range=True))
    assert source.fetch().read_bytes() == CONTENT


def test_errors_of_the_server_midway(server, source):
    server.misbehave(Fault(drop=100_000), Fault(status=503))
    assert source.fetch().read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-", "bytes=100000-"]


def test_a_refusal_midway_is_final(server, source):
    server.misbehave(Fault(drop=100_000), Fault(status=404))
    with pytest.raises(ConnectionError, match="it answered 404"):
        source.fetch()
    assert len(server.gets) == 2
    assert_nothing_whole(source, kept=100_000)


def test_no_length_announced(server, source):
    server.misbehave(Fault(no_length=True))
    assert source.fetch().read_bytes() == CONTENT


def test_no_length_announced_and_broken(server, source):
    """The hub's size tells that something is missing; for a URL only the hash does."""
    server.misbehave(Fault(no_length=True, drop=100_000))
    if isinstance(source, FromHub):
        assert source.fetch().read_bytes() == CONTENT
        assert ranges(server) == [None, "bytes=100000-"]
    else:
        with pytest.raises(ValueError, match="its sha256 is"):
            source.fetch()
        assert_nothing_whole(source, kept=0)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_ends_midway(server, tmp_path, sent):
    source = FromHub(server, tmp_path)
    source.partial = source.final.with_name(source.final.name + ".incomplete")
    server.misbehave(Fault(pace=0.02))
    with start(FETCH) as process:
        wait_for(lambda: source.partial.exists() and source.partial.stat().st_size >= 20_000)
        process.send_signal(sent)
        _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert sent == signal.SIGKILL or "KeyboardInterrupt" in said
    kept = source.partial.stat().st_size
    assert 20_000 <= kept < 300_000
    assert_nothing_whole(source, kept)
    assert_next_call_succeeds(server, source)
    assert ranges(server) == [None, f"bytes={kept}-"]


def test_interrupted(server, source, monkeypatch):
    read = downloads._read
    chunks = iter([1, 1, 0])

    def interrupted(*arguments):
        if not next(chunks):
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr(downloads, "_CHUNK", 1000)
    monkeypatch.setattr(downloads, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        source.fetch()
    monkeypatch.setattr(downloads, "_read", read)
    assert_nothing_whole(source, kept=source.partial.stat().st_size)
    assert 0 < source.partial.stat().st_size <= 2000
    assert_next_call_succeeds(server, source)


# -------------------------------------------------------------------------------------------------------- wrong content


def test_wrong_bytes(server, source):
    server.misbehave(Fault(body=OTHER, times=None))
    wrong = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(
        ValueError, match=rf"what arrived for '{NAME}' .* its sha256 is {wrong}; .* {SHA256[:8]}.*again"
    ):
        source.fetch()
    assert len(server.gets) == 1
    assert_nothing_whole(source, kept=0)
    assert_next_call_succeeds(server, source)


def test_wrong_length(server, source):
    server.misbehave(Fault(body=OTHER[:-7]))
    reason = "has 299993 bytes, the right file has 300000" if isinstance(source, FromHub) else "its sha256 is"
    with pytest.raises(ValueError, match=reason):
        source.fetch()
    assert_nothing_whole(source, kept=0)
    assert_next_call_succeeds(server, source)


@pytest.mark.parametrize(
    ("bad", "asked"),
    [
        (OTHER[:1000], ["bytes=1000-", None]),  # of another file
        (OTHER, ["bytes=300000-", None]),
        (CONTENT + b"more", ["bytes=300004-", None]),
        (CONTENT, []),  # ended between the last byte and the move
    ],
)
def test_what_an_earlier_call_left(server, source, bad, asked):
    source.partial.parent.mkdir(parents=True)
    source.partial.write_bytes(bad)
    assert source.fetch().read_bytes() == CONTENT
    assert ranges(server) == asked


# ------------------------------------------------------------------------------------------------------------- refusals

BUNDLED = r"take a bundled model, which needs no download, such as 'shapes-eca-k3'"


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (401, "RepoNotFound", "If it exists, it is not open to everyone: .*hf auth login"),
        (403, "GatedRepo", "If it exists, it is not open to everyone: .*hf auth login"),
        (404, "RepoNotFound", "Check the name"),
        (429, "", "Try again later"),
        (500, "", "Try again later"),
    ],
)
@pytest.mark.parametrize(("source", "method"), HEAD_OR_GET, indirect=["source"])
def test_refused(server, source, method, status, code, advice):
    server.misbehave(Fault(method, status=status, code=code, times=None))
    what = rf"'{NAME}' are not in the cache .* could not be fetched from {source.address}\S*: it answered {status}"
    with pytest.raises(ConnectionError, match=rf"{what}.*\. {advice}.*{BUNDLED}"):
        source.fetch()
    assert len([seen for seen in server.requests if seen.method == method and seen.port == "hub"]) <= 1
    assert len(server.gets) <= 1
    assert_nothing_whole(source, kept=0)
    assert_next_call_succeeds(server, source)


def test_no_such_repository_and_no_weights_in_it(server):
    with pytest.raises(
        ConnectionError, match=rf"timm/nothing/\S*: it answered 404 \(RepoNotFound\)\. Check.*{BUNDLED}"
    ):
        hub.fetch("nothing", "timm/nothing")
    server.add_repo("timm/empty", {"README.md": b"..."})
    with pytest.raises(ConnectionError, match=r"timm/empty: it answered 404, it has neither model.safetensors nor pyt"):
        hub.fetch("empty", "timm/empty")
    assert not server.gets


def test_a_login_page_instead_of_the_hub(server):
    server.misbehave(Fault("HEAD", status=200))
    with pytest.raises(ConnectionError, match=r"does not answer as the hub does.*wants a login"):
        hub.fetch(NAME, REPO)


def test_nobody_there(server, source):
    server.close()
    with pytest.raises(
        ConnectionError, match=rf"not in the cache .*: 127.0.0.1 cannot be reached .*refused.*Connect once.*{BUNDLED}"
    ):
        source.fetch()
    assert_nothing_whole(source, kept=0)


def test_offline(server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=rf"not in the cache .*: HF_HUB_OFFLINE is set.*Connect once.*{BUNDLED}"):
        hub.fetch(NAME, REPO)
    assert not server.requests


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes its certificate with openssl")
def test_a_certificate_that_nobody_vouches_for(server, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    subprocess.run(
        ["openssl", *options.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with Loopback(context) as secure:
        url = secure.add_file("weights.pth", CONTENT)
        with pytest.raises(ConnectionError, match=r"cannot be reached .*CERTIFICATE_VERIFY_FAILED"):
            hub.fetch_url(NAME, url)
        assert not secure.requests


# -------------------------------------------------------------------------------------------------------------- silence


@pytest.mark.parametrize(("source", "method"), HEAD_OR_GET, indirect=["source"])
def test_no_answer(server, source, method, monkeypatch):
    monkeypatch.setenv("ECAVIZ_TIMEOUT", "0.3")
    server.misbehave(Fault(method, silent=True, times=None))
    begun = time.monotonic()
    with pytest.raises(ConnectionError, match=r"127.0.0.1 cannot be reached .*timed out"):
        source.fetch()
    assert time.monotonic() - begun < 10
    assert_nothing_whole(source, kept=0)
    assert_next_call_succeeds(server, source)


def test_silence_midway(server, source, monkeypatch):
    monkeypatch.setenv("ECAVIZ_TIMEOUT", "0.3")
    monkeypatch.setattr(downloads, "TRIES", 2)
    server.misbehave(Fault(stall=100_000, times=None))
    begun = time.monotonic()
    with pytest.raises(ConnectionError, match=r"nothing came for 0.3 s"):
        source.fetch()
    assert time.monotonic() - begun < 10
    assert_nothing_whole(source, kept=200_000)
    assert_next_call_succeeds(server, source)


def test_a_trickle_ends(server, source, monkeypatch):
    monkeypatch.setenv("ECAVIZ_TIMEOUT", "0.3")
    monkeypatch.setattr(downloads, "TRIES", 2)
    monkeypatch.setattr(downloads, "SLOWEST", 1_000_000)
    server.misbehave(Fault(pace=0.05, times=None))
    with pytest.raises(ConnectionError, match="less than 1000000 bytes a second"):
        source.fetch()
    assert_nothing_whole(source, kept=source.partial.stat().st_size)


@pytest.mark.parametrize("value", ["soon", "0", "-3", "nan", "inf"])
def test_a_bad_timeout(server, source, monkeypatch, value):
    monkeypatch.setenv("ECAVIZ_TIMEOUT", value)
    with pytest.raises(ValueError, match=rf"ECAVIZ_TIMEOUT is '{value}'; expected seconds"):
        source.fetch()


# ----------------------------------------------------------------------------------------------------------- the folder


def test_a_full_disk(server, source):
    """/dev/full takes the place of the partial file."""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    source.partial.parent.mkdir(parents=True)
    source.partial.symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"'{NAME}' cannot be stored in {source.cache}: .*No space.*Make room") as raised:
        source.fetch()
    assert raised.value.errno == errno.ENOSPC
    assert not isinstance(raised.value, ConnectionError)
    assert_nothing_whole(source, kept=0)
    assert_next_call_succeeds(server, source)


def test_a_folder_that_cannot_be_made(server, source):
    source.cache.parent.mkdir(parents=True)
    source.cache.write_text("a file where the folder should be")
    with pytest.raises(OSError, match=rf"'{NAME}' cannot be stored in {source.cache}: .*set (HF|TORCH)_HOME") as raised:
        source.fetch()
    assert not isinstance(raised.value, ConnectionError)


@pytest.mark.parametrize(
    "repo", ["../../x", "timm/../x", "timm/..", "/etc/x", "a/b/c", "a--b/c", "timm/x\n", "", "a\\b"]
)
def test_a_repository_that_leads_elsewhere(server, repo):
    with pytest.raises(ValueError, match=r"is no repository of the hub. Give its name"):
        hub.fetch(NAME, repo)
    with pytest.raises(ValueError, match="is no repository of the hub"):
        hub.cached(repo)
    assert not server.requests


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "ftp://127.0.0.1/x.pth",
        "http://127.0.0.1/..",
        "http://127.0.0.1/a/",
        "http://127.0.0.1/..%2f..%2fx",
        "http://127.0.0.1/..\\x",
        "http:///x.pth",
        "weights.pth",
        "http://127.0.0.1/.hidden",
    ],
)
def test_a_url_that_leads_elsewhere(server, url):
    with pytest.raises(ValueError, match=r"is no address of a file\. Give one like"):
        hub.fetch_url(NAME, url)
    with pytest.raises(ValueError, match="is no address of a file"):
        hub.cached_url(url)


@pytest.mark.parametrize("what", ["commit", "etag"])
def test_a_hub_that_leads_elsewhere(server, tmp_path, what):
    setattr(server, what, "../../../escaped")
    with pytest.raises(ConnectionError, match="does not answer as the hub does"):
        hub.fetch(NAME, REPO)
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_hash_that_is_no_sha256(server, tmp_path):
    """Files that git keeps itself have git's hash; then the size alone is checked."""
    server.etag = "0" * 40
    server.misbehave(Fault(drop=100_000), Fault(body=OTHER[:-1]))
    with pytest.raises(ValueError, match="has 299999 bytes, the right file has 300000"):
        hub.fetch(NAME, REPO)
    path = hub.fetch(NAME, REPO)
    assert path.read_bytes() == CONTENT
    assert path.resolve().name == "0" * 40
    assert set(ranges(server)) == {None}


# ---------------------------------------------------------------------------------------------------------- two at once


def test_threads_at_once(server, source):
    server.misbehave(Fault(pace=0.001))
    with ThreadPoolExecutor(4) as pool:
        paths = [each.result() for each in [pool.submit(source.fetch) for _ in range(4)]]
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == CONTENT
    assert ranges(server) == [None]


def test_processes_at_once(server):
    server.misbehave(Fault(pace=0.006))
    processes = [start(FETCH) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert said[0][0] == said[1][0] == f"{hub.cached(REPO)}\n"
    assert hub.cached(REPO).read_bytes() == CONTENT
    assert ranges(server) == [None]


def test_waiting_is_said(server, source, capsys):
    locks = source.cache / ".locks"
    lock = next(iter((locks / "models--timm--net.in1k", locks)[isinstance(source, FromUrl) :]))
    lock = lock / f"{SHA256 if isinstance(source, FromHub) else source.final.name}.lock"
    lock.parent.mkdir(parents=True)
    said = []
    with ThreadPoolExecutor(1) as pool:
        with FileLock(lock):
            waiting = pool.submit(source.fetch)
            wait_for(lambda: said.append(capsys.readouterr().err) or "another process is fetching" in said[-1])
            assert not server.gets
        assert waiting.result().read_bytes() == CONTENT


# --------------------------------------------------------------------------------------------------- in a fresh process


def test_importing_is_light():
    code = "import sys, ecaviz.hub; print([m for m in ('torch', 'huggingface_hub', 'tqdm') if m in sys.modules])"
    out, _ = start(code).communicate(timeout=60)
    assert out.strip() == "[]"


LOAD = """
import sys, timm, torch
from safetensors.torch import save_file
import ecaviz
torch.manual_seed(5)
state = timm.create_model("test_resnet", pretrained=False).state_dict()
save_file(state, sys.argv[1])
print("saved", flush=True)
input()
for _ in range(2):
    model = ecaviz.load("test_resnet.r160_in1k", device="cpu")
    loaded = model.net.state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[key], state[key]) for key in state)
    print("loaded", flush=True)
"""


def test_load_in_a_fresh_process(server, tmp_path):
    """HF_ENDPOINT and HF_HOME from the environment; a line that breaks once; the second load asks nobody."""
    with start(LOAD, tmp_path / "weights") as process:
        assert process.stdout.readline() == "saved\n", process.stderr.read()
        weights = (tmp_path / "weights").read_bytes()
        server.add_repo("timm/test_resnet.r160_in1k", {"model.safetensors": weights})
        server.misbehave(Fault(drop=500_000))
        out, said = process.communicate("\n", timeout=120)
    assert out == "loaded\nloaded\n", said
    assert "100%" in said
    assert ranges(server) == [None, "bytes=500000-"]
    assert [seen.method for seen in server.requests if "resolve" in seen.path] == ["HEAD", "GET", "GET"]
    assert hub.cached("timm/test_resnet.r160_in1k").read_bytes() == weights


def test_the_fixture_is_in_the_temporary_folder(server, source, tmp_path):
    """No test of this file may write to the caches of whoever runs it."""
    assert source.fetch().is_relative_to(tmp_path)


@pytest.mark.parametrize("source", ["hub", "url"])
def test_offline_asks_nobody_and_ends_with_the_block(server, source):
    url = server.add_file(f"net-{SHA256[:8]}.pth", CONTENT)

    def fetch():
        return hub.fetch(NAME, REPO) if source == "hub" else hub.fetch_url(NAME, url)

    with hub.offline(), pytest.raises(ConnectionError, match=r"could not be fetched: the network is switched off"):
        fetch()
    assert server.requests == []
    path = fetch()
    with hub.offline():
        assert fetch() == path  # what is cached is there all the same
    assert path.read_bytes() == CONTENT
