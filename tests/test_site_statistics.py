"""Statistics of sites that are joined are those of each site by itself."""

from __future__ import annotations

import pytest
import torch

from ecaviz import site_statistics
from ecaviz.attention_profile import STATISTICS, accumulators
from ecaviz.rows import Groups, Numbers
from ecaviz.site_statistics import SiteStatistics

WIDTHS = {"a": 3, "b": 8, "c": 5, "d": 2}
SETTINGS = {
    "moments": {},
    "tails": {"low": 0.1, "high": 0.9},
    "histogram": {"bins": 8},
    "largest": {"k": 3, "largest": True},
    "smallest": {"k": 3, "largest": False},
}
N = 12


def batches(total, called):
    """For each batch the gates of the sites that were called, the groups and the image numbers."""
    random = torch.Generator().manual_seed(0)
    for i, names in enumerate(called):
        gates = {name: torch.rand(N, WIDTHS[name], generator=random) for name in names}
        labels = torch.randint(0, total, (N,), generator=random)
        yield gates, None if total == 1 else Groups.of(labels, total), Numbers.of(torch.arange(N) + N * i)


def alone(total, called, name):
    """The statistics of one site, in accumulators of its own."""
    found = accumulators(WIDTHS[name], total, SETTINGS)
    for gates, groups, numbers in batches(total, called):
        if name in gates:
            found["moments"].update(gates[name], groups)
            found["tails"].update(gates[name], groups)
            found["histogram"].update(gates[name])
            for what in ("largest", "smallest"):
                found[what].update(gates[name], index=numbers)
    return found


def assert_same(found, expected):
    for what in STATISTICS:
        assert repr(found[what]) == repr(expected[what])
        first, second = found[what].state_dict(), expected[what].state_dict()
        for key, value in first.items():
            assert value.is_contiguous()
            torch.testing.assert_close(value, second[key], rtol=1e-12, atol=0, equal_nan=True, msg=f"{what} {key}")


@pytest.mark.parametrize("at_once", [1, 11, 4096])
@pytest.mark.parametrize("total", [1, 50])
@pytest.mark.parametrize("called", [["abcd"] * 5, ["abcd", "acd", "abcd", "d", "ab", "cdab"]])
def test_joined_sites_are_as_by_themselves(monkeypatch, at_once, total, called):
    monkeypatch.setattr(site_statistics, "AT_ONCE", at_once)
    whole = SiteStatistics(total, SETTINGS, "cpu")
    for batch in batches(total, called):
        whole.update(*batch)
    first, rest = SiteStatistics(total, SETTINGS, "cpu"), SiteStatistics(total, SETTINGS, "cpu")
    for i, batch in enumerate(batches(total, called)):
        if i == 2:
            for name in WIDTHS:
                rest.go_on_from(name, first.of(name))
        (first if i < 2 else rest).update(*batch)
    for name in WIDTHS:
        expected = alone(total, called, name)
        for found in (whole, rest):
            assert_same(found.of(name), expected)
            assert_same(found.of(name), expected)  # to look changes nothing


def test_what_was_found_is_safe_against_later_batches():
    statistics = SiteStatistics(1, SETTINGS, "cpu")
    one, other = batches(1, ["abcd"] * 2)
    statistics.update(*one)
    found = statistics.of("b")
    states = {what: found[what].state_dict() for what in STATISTICS}
    statistics.update(*other)
    for what in STATISTICS:
        for key, value in found[what].state_dict().items():
            assert torch.equal(value, states[what][key])
    found["moments"].update(torch.full((1, WIDTHS["b"]), 9.0))
    assert statistics.of("b")["moments"].max.max() < 1
