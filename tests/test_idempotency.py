import threading
import time

import pytest

from runnerwsgi.errors import (
    IdempotencyInFlight,
    IdempotencyMismatch,
    OutcomeUnknown,
    Overloaded,
    StorageError,
)
from runnerwsgi.idempotency import Ended, Once
from runnerwsgi.idempotency.memory import KEY_BYTES, MemoryKeys
from runnerwsgi.protocol import Context, ExecuteRequest, HttpRequest, Limits, User

TTL = 3600


class Guest:
    """Counts how often it was executed."""

    def __init__(self, envelope=b"{}", *, executed=True):
        self.envelope = envelope
        self.executed = executed
        self.count = 0

    def __call__(self):
        self.count += 1
        return Ended(self.envelope, self.executed)


def call(key="k", body=b"hi", path="/notes", query="", tenant="acme", user=None, timeout_ms=5000):
    return ExecuteRequest(
        Context(tenant, "demo.notes", "sha256:" + "0" * 64),
        HttpRequest("POST", path, query, (), body),
        Limits(timeout_ms),
        user=User(user) if user else None,
        idempotency_key=key,
    )


@pytest.fixture
def once():
    return Once(MemoryKeys(), TTL)


def test_a_repeated_call_has_the_first_ones_answer(once):
    guest = Guest(b'{"status":201}')
    assert [once.run(call(), guest) for _ in range(3)] == [b'{"status":201}'] * 3
    assert guest.count == 1


def test_a_call_without_a_key_is_executed_each_time(once):
    guest = Guest()
    once.run(call(None), guest)
    once.run(call(None), guest)
    assert guest.count == 2


@pytest.mark.parametrize(
    "other",
    [call(body=b"ho"), call(body=None), call(query="a=1")],
    ids=["another body", "no body", "another query"],
)
def test_a_key_belongs_to_one_request(once, other):
    guest = Guest()
    once.run(call(), guest)
    with pytest.raises(IdempotencyMismatch):
        once.run(other, guest)
    assert guest.count == 1


@pytest.mark.parametrize(
    "other",
    [call(tenant="other"), call(path="/other"), call(user="u-2"), call(key="other")],
    ids=["tenant", "path", "user", "key"],
)
def test_the_same_key_of_another_one_is_another_key(once, other):
    guest = Guest()
    once.run(call(), guest)
    once.run(other, guest)
    assert guest.count == 2


def test_of_many_at_the_same_moment_one_is_executed(once):
    begun, answers = threading.Barrier(8), []
    guest = Guest()

    def slow():
        time.sleep(0.2)
        return guest()

    def ask():
        begun.wait()
        try:
            answers.append(once.run(call(), slow))
        except IdempotencyInFlight as exc:
            answers.append(exc.retry_after)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert guest.count == 1
    assert answers.count(b"{}") == 1
    assert all(1 <= wait <= 5 for wait in answers if wait != b"{}")


@pytest.mark.parametrize("refusal", [Overloaded("full"), StorageError("disk")], ids=type)
def test_a_call_that_was_refused_may_be_sent_again(once, refusal):
    guest = Guest()

    def refuse():
        raise refusal

    with pytest.raises(type(refusal)):
        once.run(call(), refuse)
    once.run(call(), guest)
    assert guest.count == 1


def test_a_guest_that_never_began_is_not_remembered(once):
    guest = Guest(b"not found", executed=False)
    assert once.run(call(), guest) == b"not found"
    once.run(call(), guest)
    assert guest.count == 2


def test_a_call_whose_end_nobody_told_is_never_executed_again(once, monkeypatch):
    def dies():
        raise SystemExit

    with pytest.raises(SystemExit):
        once.run(call(), dies)
    guest = Guest()
    with pytest.raises(IdempotencyInFlight):
        once.run(call(), guest)
    now = time.time()
    monkeypatch.setattr("runnerwsgi.idempotency.time.time", lambda: now + 20)
    with pytest.raises(OutcomeUnknown):
        once.run(call(), guest)
    assert guest.count == 0


def test_old_answers_make_room_and_what_runs_stays():
    keys = MemoryKeys(max_bytes=3 * (KEY_BYTES + 100))
    once = Once(keys, TTL)
    guest = Guest(b"x" * 100)

    def outer():
        for number in range(5):
            once.run(call(f"k-{number}"), guest)
        return Ended(b"{}", True)

    once.run(call("outer"), outer)
    once.run(call("k-4"), guest)
    assert guest.count == 5
    once.run(call("k-0"), guest)
    assert guest.count == 6
