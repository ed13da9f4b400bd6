"""Signals that wait, and one thread for short work: what is changed for a while is as before afterwards."""

from __future__ import annotations

import signal
import threading

import pytest
import torch

from ecaviz.interrupts import uninterrupted
from ecaviz.threads import SMALL, one_thread_for


def test_an_interrupt_is_raised_when_the_work_is_done():
    done = []

    def work():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("the rest")

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["the rest"]
    assert signal.getsignal(signal.SIGINT) is handler
    with uninterrupted():
        done.append("no interrupt")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_interrupts_are_left_alone():
    handlers, errors = [], []

    def work():
        try:
            with uninterrupted():
                handlers.append(signal.getsignal(signal.SIGINT))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert handlers == [signal.getsignal(signal.SIGINT)]


@pytest.fixture
def heard():
    """What torch does while a DataLoader has processes: the death of one raises an error, whatever runs."""

    def handler(*_given):
        raise RuntimeError("DataLoader worker is killed")

    before = signal.signal(signal.SIGCHLD, handler)
    yield handler
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="no signal tells of processes that end")
@pytest.mark.parametrize("order", [("SIGCHLD", "SIGINT"), ("SIGINT", "SIGCHLD"), ("SIGCHLD",)])
def test_the_death_of_another_process_is_told_when_the_work_is_done(heard, order):
    done, interrupts = [], signal.getsignal(signal.SIGINT)

    def work():
        with uninterrupted():
            for one in order:
                signal.raise_signal(getattr(signal, one))
            done.append("the rest")

    with pytest.raises(RuntimeError, match="DataLoader worker is killed"):
        work()
    assert done == ["the rest"]
    assert signal.getsignal(signal.SIGCHLD) is heard
    assert signal.getsignal(signal.SIGINT) is interrupts


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize(("channels", "inside"), [(1, 1), (SMALL, 1), (SMALL + 1, 3)])
def test_small_matrices_have_one_thread_and_then_as_many_as_before(channels, inside):
    with one_thread_for(channels):
        assert torch.get_num_threads() == inside
    assert torch.get_num_threads() == 3
    with pytest.raises(RuntimeError, match="in between"), one_thread_for(channels):
        raise RuntimeError("in between")
    assert torch.get_num_threads() == 3


def test_one_thread_stays_one():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with one_thread_for(8):
            torch.set_num_threads(2)  # somebody's own wish
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
