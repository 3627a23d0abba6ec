"""Names to addresses: within a time limit, and not at the cost of others."""

import threading
import time

import pytest

from runnerwsgi.lookup import MAX_LOOKUPS, resolve_within, system_resolve


def soon(seconds=0.2):
    return time.monotonic() + seconds


def test_a_name_has_its_addresses():
    assert resolve_within("localhost", 80, soon(5), system_resolve)
    with pytest.raises(OSError, match="was not resolved"):
        resolve_within("no-such-host.invalid", 80, soon(20))


def test_a_resolver_that_does_not_answer_holds_up_its_own_party_only():
    answer = threading.Event()

    def slow(host, port):
        answer.wait(10)
        return ["192.0.2.1"]

    try:
        for _ in range(MAX_LOOKUPS):
            with pytest.raises(TimeoutError, match="in time"):
                resolve_within("slow.test", 80, soon(0.02), slow, party="guests")
        with pytest.raises(TimeoutError, match="too many"):
            resolve_within("slow.test", 80, soon(0.02), slow, party="guests")
        assert resolve_within("runner.test", 80, soon(5), lambda *_: ["192.0.2.2"]) == ["192.0.2.2"]
    finally:
        answer.set()
    assert resolve_within("slow.test", 80, soon(5), slow, party="guests") == ["192.0.2.1"]
