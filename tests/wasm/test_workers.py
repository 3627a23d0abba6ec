"""Threads for host calls: what hangs holds up its owner and nobody else."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from runnerwsgi_wasm.workers import StillRunning, Workers

from runnerwsgi.errors import Overloaded


@pytest.fixture
def hang():
    event = threading.Event()
    yield lambda: event.wait(10)
    event.set()


@pytest.fixture
def workers():
    made = Workers(limit=8)
    yield made
    made.close()


def fill(workers, owner, hang, count):
    for _ in range(count):
        with pytest.raises(StillRunning):
            workers.call(owner, hang, 0.01)


def test_what_hangs_holds_its_owners_share_and_no_more(workers, hang):
    fill(workers, "evil", hang, 2)
    with pytest.raises(Overloaded, match="evil: its 2 host-call threads hang"):
        workers.call("evil", hang, 0.01)
    assert workers.call("good", lambda: 42, 1) == 42


def test_all_owners_together_hold_no_more_than_there_are(workers, hang):
    for owner in "abcd":
        fill(workers, owner, hang, 2)
    with pytest.raises(Overloaded, match="all 8 host-call threads hang"):
        workers.call("e", hang, 0.01)


def test_functions_that_are_waited_for_are_not_taken_for_hanging_ones(workers):
    all_there = threading.Barrier(20)
    with ThreadPoolExecutor(20) as callers:
        calls = [callers.submit(workers.call, "busy", all_there.wait, 5) for _ in range(20)]
        assert {call.result() for call in calls} == set(range(20))
    assert workers.call("busy", lambda: 42, 1) == 42


def test_a_thread_that_is_through_is_used_again(workers):
    names = {workers.call("a", threading.get_ident, 1) for _ in range(20)}
    assert len(names) == 1


def test_a_share_comes_back_when_the_function_ends(workers):
    end = threading.Event()
    fill(workers, "a", end.wait, 2)
    end.set()
    deadline = time.monotonic() + 2
    while True:
        try:
            assert workers.call("a", lambda: 1, 1) == 1
            return
        except Overloaded:
            assert time.monotonic() < deadline
