"""Servers that are down, slow, or send something else: what is in the cache is whole, and nothing leaves the cache."""

from __future__ import annotations

import csv
import random
import re
import shutil
import signal

import pytest
import test_hub
from damage import seeds
from loopback import Fault
from recorder import CLEAR, RECOVERED, case, check_clear
from test_hub import CONTENT, NAME, OTHER, REPO

from ecaviz import bundle, downloads, hub

GROUP = "Downloads"
server, source = test_hub.server, test_hub.source
BUNDLED = "take a bundled model, which needs no download"
UNFOLLOWED, GOES_ON = f"{CLEAR}; it is not followed", "the other goes on from there"
NEXT = f"then, from a good server, {RECOVERED}"


@pytest.fixture(autouse=True)
def soon(server, monkeypatch):
    """A server that is silent is given up soon."""
    monkeypatch.setenv("ECAVIZ_TIMEOUT", "0.4")
    monkeypatch.setattr(downloads, "TRIES", 2)


DOWN = {
    "nobody listens": None,
    "401": Fault(status=401, times=None),
    "404": Fault(status=404, times=None),
    "429": Fault(status=429, times=None),
    "500": Fault(status=500, times=None),
    "503": Fault(status=503, times=None),
    "no answer": Fault(silent=True, times=None),
    "silence midway": Fault(stall=100_000, times=None),
    "part of the file": Fault(drop=50_000, times=None),
    "part of the file, rudely": Fault(drop=50_000, reset=True, times=None),
    "nothing of it": Fault(drop=0, times=None),
}


@pytest.mark.parametrize("what", DOWN)
@case(
    GROUP,
    "nobody listens; 401, 404, 429, 500, 503; no answer; silence midway; a connection that breaks",
    expected=f"{CLEAR}, soon; {NEXT}",
)
def test_down(outcomes, server, source, what):
    if DOWN[what] is None:
        server.close()
    else:
        server.misbehave(DOWN[what])
    says = re.escape(str(source.cache)), "could not be fetched from http", BUNDLED
    with outcomes.clear_error(ConnectionError, NAME, *says, apart_from=source.cache):
        source.fetch()
    assert source.cached() is None
    assert test_hub.left(source) <= {source.partial}
    if DOWN[what] is not None:
        test_hub.assert_next_call_succeeds(server, source)
        outcomes.then(NEXT)


WRONG = {
    "other bytes": OTHER,
    "a page": b"<html>log in</html>",
    "cut": CONTENT[:-1],
    "more": CONTENT + b"\0",
    "one bit": bytes([CONTENT[0] ^ 1]) + CONTENT[1:],
}


@pytest.mark.parametrize("what", WRONG)
@case(
    GROUP,
    "another file, a login page, the file with a byte less or more or with one bit changed, all under “200 OK”",
    expected=f"{CLEAR}, and it is thrown away; {NEXT}",
)
def test_wrong(outcomes, server, source, what):
    server.misbehave(Fault(body=WRONG[what], times=None))
    told = f"{CLEAR}, and it is thrown away"
    with outcomes.clear_error(
        ValueError, NAME, "is not its weights: .*thrown away", told=told, apart_from=source.cache
    ):
        source.fetch()
    test_hub.assert_nothing_whole(source, kept=0)
    test_hub.assert_next_call_succeeds(server, source)
    outcomes.then(NEXT)


def any_fault(chance: random.Random) -> Fault:
    count = chance.choice([0, 1, 1000, 150_000, 299_999, 300_000])
    return chance.choice(
        [
            Fault(status=chance.choice([400, 403, 404, 408, 416, 429, 500, 502, 503])),
            Fault(drop=count, no_length=chance.random() < 0.3, no_range=chance.random() < 0.3),
            Fault(drop=count, reset=True),
            Fault(body=chance.choice(list(WRONG.values())), no_length=chance.random() < 0.3),
            Fault(body=OTHER, drop=count),
            Fault("HEAD", status=chance.choice([401, 404, 500])),
            Fault(no_range=True),
            Fault(no_length=True),
        ]
    )


RIGHT, AFTER = "the right file", "after clear errors"


@pytest.mark.parametrize("seeds", seeds(15, 1000))
@case(GROUP, "one to five of these by chance, one after the other", expected=f"{RIGHT}, at once or {AFTER}")
def test_by_chance(outcomes, server, source, seeds):
    for seed in seeds:
        chance = random.Random(seed)
        server.misbehave(*(any_fault(chance) for _ in range(chance.randint(1, 5))))
        refused = 0
        while refused < 8:
            with outcomes.undisturbed(apart_from=source.cache):
                try:
                    path = source.fetch()
                    break
                except Exception as error:
                    check_clear(error, (ConnectionError, ValueError), NAME)
                    refused += 1
            assert source.cached() is None, seed
            assert test_hub.left(source) <= {source.partial}, seed
        assert path.read_bytes() == CONTENT, seed
        assert path == source.cached()
        assert not source.partial.exists()
        outcomes.happened(f"{RIGHT}, {AFTER}" if refused else RIGHT)
        shutil.rmtree(source.folder)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x.pth", "data:,x", "itself"])
@case(GROUP, "a redirect to a file of this machine, to ftp, to data, in circles", expected=UNFOLLOWED)
def test_redirects(outcomes, server, source, to):
    target = f"{server.storage}/round" if to == "itself" else to
    server.misbehave(Fault(status=302, location=target, times=None))
    says = r"answered 302 \(.*(not followed|not allowed|infinite loop)"
    with outcomes.clear_error(ConnectionError, NAME, says, told=UNFOLLOWED, apart_from=source.cache):
        source.fetch()
    assert source.cached() is None
    assert test_hub.left(source) == set()


@case(GROUP, "a redirect to another server, which sends another file", expected=f"{CLEAR}; {NEXT}")
def test_redirects_to_another_file(outcomes, server, source):
    other = server.add_file("other.pth", OTHER)
    server.misbehave(Fault(status=302, location=other))
    with outcomes.clear_error(ValueError, NAME, "is not its weights", apart_from=source.cache):
        source.fetch()
    test_hub.assert_nothing_whole(source, kept=0)
    test_hub.assert_next_call_succeeds(server, source)
    outcomes.then(NEXT)


ESCAPES = [
    "../../../escaped",
    "/escaped",
    "C:\\escaped",
    "C:/escaped",
    "..\\escaped",
    "a/../../escaped",
    "..",
    "",
    "a\0b",
]
REFUSED = f"{CLEAR}; nothing is written outside the cache"


@pytest.mark.parametrize("what", ["commit", "etag"])
@case(GROUP, "an answer of the hub whose commit or hash is a path: ../, absolute, with a drive", expected=REFUSED)
def test_answers_that_lead_elsewhere(outcomes, server, tmp_path, what):
    for name in ESCAPES[:-2]:
        setattr(server, what, name)
        with outcomes.clear_error(ConnectionError, NAME, "does not answer as the hub does", told=REFUSED):
            hub.fetch(NAME, REPO)
        assert not server.gets


@case(GROUP, "a repository or an address whose name is a path: ../, absolute, with a drive", expected=REFUSED)
def test_names_that_lead_elsewhere(outcomes, server, tmp_path):
    for name in ESCAPES:
        for repo in (name, f"timm/{name}", f"{name}/net"):
            with outcomes.clear_error(ValueError, repr(repo), "is no repository of the hub", told=REFUSED):
                hub.fetch(NAME, repo)
        url = f"{server.storage}/{name}/.."
        with outcomes.clear_error(ValueError, repr(url), "is no address of a file", told=REFUSED):
            hub.fetch_url(NAME, url)
    assert not server.requests
    assert list(tmp_path.iterdir()) == []


@case(GROUP, "a manifest of bundled models with a name that is a path: ../, absolute, with a drive", expected=CLEAR)
def test_manifests_that_lead_elsewhere(outcomes, tmp_path):
    whole = (bundle.data_folder() / "checkpoints" / "manifest.csv").read_text("utf-8").splitlines()
    header, row = csv.reader(whole[:2])
    path = tmp_path / "manifest.csv"
    for name in ESCAPES[:-1]:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, [name, *row[1:]]])
        with outcomes.clear_error(ValueError, path, "truncated or changed", "git checkout"):
            bundle.read(name, tmp_path)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
@case(GROUP, "two processes want one file, and the one that fetches it is killed", expected=GOES_ON)
def test_two_processes(outcomes, server, tmp_path, monkeypatch):
    monkeypatch.delenv("ECAVIZ_TIMEOUT")
    source = test_hub.FromHub(server, tmp_path)
    partial = source.final.with_name(f"{source.final.name}.incomplete")
    server.misbehave(Fault(pace=0.02), Fault(pace=0.0))
    with test_hub.start(test_hub.FETCH) as first:
        test_hub.wait_for(lambda: partial.exists() and partial.stat().st_size >= 20_000)
        with test_hub.start(test_hub.FETCH) as second:
            assert "another process is fetching" in second.stderr.readline()
            first.kill()
            first.communicate(timeout=60)
            said, problems = second.communicate(timeout=60)
    assert second.returncode == 0, problems
    assert said == f"{hub.cached(REPO)}\n"
    assert hub.cached(REPO).read_bytes() == CONTENT
    begun, went_on = test_hub.ranges(server)
    assert begun is None
    assert went_on.startswith("bytes=")
    assert not partial.exists()
    outcomes.happened(GOES_ON)
