"""Slots: taken at once or not at all, given back on every path."""

import threading
from collections import Counter

import pytest

from runnerwsgi.bulkhead import Bulkhead
from runnerwsgi.errors import Overloaded


def test_slots_in_all_and_per_extension():
    bulkhead = Bulkhead(slots=3, per_extension=2)
    with bulkhead.slot("a"), bulkhead.slot("a"):
        with pytest.raises(Overloaded, match="2 of 2 by a"), bulkhead.slot("a"):
            pytest.fail("a third slot for one extension")
        with bulkhead.slot("b"):
            assert bulkhead.in_use == 3
            with pytest.raises(Overloaded, match="3 of 3 slots"), bulkhead.slot("c"):
                pytest.fail("a fourth slot")
    assert (bulkhead.in_use, bulkhead.refused) == (0, 2)


def test_a_slot_comes_back_when_the_call_fails():
    bulkhead = Bulkhead(slots=1, per_extension=1)
    for _ in range(3):
        with pytest.raises(RuntimeError), bulkhead.slot("a"):
            raise RuntimeError
    assert bulkhead.in_use == 0


def test_a_refusal_says_when_to_come_again():
    bulkhead = Bulkhead(slots=1, per_extension=1)
    with bulkhead.slot("a"), pytest.raises(Overloaded) as caught, bulkhead.slot("b"):
        pytest.fail("a second slot")
    assert caught.value.status == 503
    assert caught.value.retry_after >= 1


def test_threads_at_once_never_have_more_slots_than_there_are():
    bulkhead = Bulkhead(slots=3, per_extension=2)
    inside, most, together = Counter(), Counter(), threading.Barrier(8)
    lock = threading.Lock()

    def call(name):
        together.wait()
        for _ in range(200):
            try:
                with bulkhead.slot(name):
                    with lock:
                        inside[name] += 1
                        inside["all"] += 1
                        most.update({key: max(0, inside[key] - most[key]) for key in (name, "all")})
                    with lock:
                        inside[name] -= 1
                        inside["all"] -= 1
            except Overloaded:
                pass

    threads = [threading.Thread(target=call, args=("ab"[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bulkhead.in_use == 0
    assert most["all"] <= 3
    assert max(most["a"], most["b"]) <= 2
