import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import sqlalchemy as sa
from keyed import SHARED, TTL, Guest, call, store_url

from runnerwsgi.database import Database
from runnerwsgi.errors import (
    ConfigurationError,
    IdempotencyInFlight,
    IdempotencyMismatch,
    OutcomeUnknown,
    Overloaded,
    StorageError,
)
from runnerwsgi.idempotency import MAX_ANSWER_BYTES, OVER, Ended, Once, Record, open_keys
from runnerwsgi.idempotency.database import SWEEP_EVERY, DatabaseKeys
from runnerwsgi.idempotency.memory import MemoryKeys
from runnerwsgi.settings import Settings


@pytest.fixture(params=["memory", *SHARED])
def keys(request, tmp_path):
    """Where keys are kept; the same must hold everywhere."""
    store = open_keys(Settings(home=tmp_path, idempotency_url=store_url(request, tmp_path)))
    yield store
    store.close()


@pytest.fixture
def once(keys):
    return Once(keys, TTL)


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
    # Who came when it was over already has its answer.
    assert answers.count(b"{}") >= 1
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


def test_a_claim_that_was_kept_although_nobody_said_so_stops_no_later_one(once, monkeypatch):
    claim, guest = once.keys.claim, Guest()

    def lose(*sent):
        claim(*sent)
        raise StorageError("the connection was lost before the answer came")

    monkeypatch.setattr(once.keys, "claim", lose)
    with pytest.raises(StorageError):
        once.run(call(), guest)
    monkeypatch.setattr(once.keys, "claim", claim)
    assert guest.count == 0
    assert once.run(call(), guest) == b"{}"


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


def test_a_call_that_fails_in_a_way_that_nobody_thought_of_is_not_waited_for(once):
    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        once.run(call(), fails)
    guest = Guest()
    with pytest.raises(OutcomeUnknown):
        once.run(call(), guest)
    assert guest.count == 0


def test_a_large_answer_is_not_kept_and_not_executed_again(once):
    guest = Guest(b"x" * (MAX_ANSWER_BYTES + 1))
    assert once.run(call(), guest) == guest.envelope
    with pytest.raises(OutcomeUnknown, match="too large"):
        once.run(call(), guest)
    assert guest.count == 1


def record(owner="a", until=OVER, answer=None):
    return Record("f" * 64, until, owner * 16, answer)


def test_a_key_is_as_good_as_new_when_its_time_is_over(keys):
    assert keys.claim("k", record("a"), 0.2) is None
    assert keys.claim("k", record("b"), 60) == record("a")
    time.sleep(0.3)
    assert keys.claim("k", record("b"), 60) is None
    assert keys.claim("k", record("c"), 60) == record("b")


def test_of_many_that_claim_what_is_over_one_gets_it(keys):
    owners = "abcdef"
    with ThreadPoolExecutor(len(owners)) as pool:
        for number in range(10):
            keys.claim(f"k-{number}", record("x"), 0)
            time.sleep(0.002)  # the least that Redis keeps a key for, and more
            begun = threading.Barrier(len(owners))

            def claim(owner, key=f"k-{number}", begun=begun):
                begun.wait()
                return keys.claim(key, record(owner), 60)

            found = list(pool.map(claim, owners))
            winner = owners[found.index(None)]
            assert found.count(None) == 1
            assert {one.owner for one in found if one} == {winner * 16}


def test_nobody_has_a_key_that_another_one_has(keys):
    holders, most = [], []

    def hold(owner):
        for _ in range(20):
            if keys.claim("k", record(owner), 60) is None:
                holders.append(owner)
                most.append(len(holders))
                time.sleep(0.001)
                holders.remove(owner)
                keys.release("k", record(owner))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, "abcd"))
    assert set(most) == {1}


def test_who_comes_too_late_changes_nothing(keys):
    keys.claim("k", record("b"), 60)
    keys.finish("k", record("a", answer=b"late"), 60)
    keys.release("k", record("a"))
    assert keys.claim("k", record("c"), 60) == record("b")


def test_an_answer_is_kept_although_its_claim_was_lost(keys):
    keys.finish("k", record("a", answer=b"{}"), 60)
    assert keys.claim("k", record("b"), 60) == record("a", answer=b"{}")


def test_times_are_kept_exactly_and_bytes_as_they_are(keys):
    until, answer = time.time() + 7, bytes(range(256))
    keys.claim("k", record("a", until), 60)
    keys.finish("k", record("a", until, answer), 60)
    assert keys.claim("k", record("b"), 60) == record("a", until, answer)


def test_a_store_that_claims_twice_has_claimed(once, monkeypatch):
    # A connection that is lost after the claim was kept makes a client ask once more.
    claim = once.keys.claim
    monkeypatch.setattr(once.keys, "claim", lambda *sent: claim(*sent) or claim(*sent))
    guest = Guest()
    assert once.run(call(), guest) == b"{}"
    assert guest.count == 1


def test_a_store_is_used_again_after_it_was_closed(keys):
    assert keys.claim("k", record("a"), 60) is None
    keys.close()
    assert keys.claim("k2", record("a"), 60) is None


def test_in_memory_old_answers_make_room_and_their_keys_stay():
    keys = MemoryKeys(max_bytes=300)
    once = Once(keys, TTL)
    guest = Guest(b"x" * 100)
    for number in range(5):
        once.run(call(f"k-{number}"), guest)
    assert once.run(call("k-4"), guest) == guest.envelope
    with pytest.raises(OutcomeUnknown, match="too old"):
        once.run(call("k-0"), guest)
    assert guest.count == 5


def test_in_memory_old_keys_make_room_and_what_runs_stays():
    once = Once(MemoryKeys(max_keys=3), TTL)
    guest = Guest()

    def outer():
        for number in range(5):
            once.run(call(f"k-{number}"), guest)
        with pytest.raises(IdempotencyInFlight):
            once.run(call("outer"), guest)
        return Ended(b"{}", True)

    once.run(call("outer"), outer)
    once.run(call("k-0"), guest)
    assert guest.count == 6


def test_in_memory_what_runs_cannot_be_forgotten_for_another():
    once = Once(MemoryKeys(max_keys=1), TTL)

    def outer():
        with pytest.raises(Overloaded):
            once.run(call("other"), Guest())
        return Ended(b"{}", True)

    once.run(call("outer"), outer)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("", id="nothing"),
        pytest.param("memory", id="no colon"),
        pytest.param("sqlite:", id="no file"),
        pytest.param("ftp://me:canary@host/", id="no store"),
        pytest.param("mysql://me:canary@host/keys", id="another database"),
        pytest.param("postgresql://me:canary@host:x/keys", id="no port"),
        pytest.param("redis:", id="redis without a host"),
        pytest.param("redis://me:canary@host:x", id="redis without a port"),
    ],
)
def test_a_store_that_is_none_is_a_mistake_of_the_configuration(url):
    with pytest.raises(ConfigurationError, match="RUNNER_IDEMPOTENCY_URL") as raised:
        open_keys(Settings(idempotency_url=url))
    assert "canary" not in str(raised.value)


def test_a_database_forgets_what_is_over(database_url):
    with closing(DatabaseKeys(database_url)) as keys:
        for number in range(SWEEP_EVERY):
            keys.claim(f"k-{number}", record(), 0)
        keys.claim("new", record(), 60)
    with (
        closing(Database(database_url, tables=sa.MetaData())) as database,
        database.connect() as connection,
    ):
        names = connection.exec_driver_sql("SELECT key FROM idempotency_keys").scalars().all()
        tables = sa.inspect(connection).get_table_names()
    # A runner's database need not have the tables of a gateway.
    assert (names, tables) == (["new"], ["idempotency_keys"])


def test_a_database_that_is_none_executes_nothing(tmp_path):
    (tmp_path / "keys.db").mkdir()
    once = Once(DatabaseKeys(f"sqlite:///{tmp_path}/keys.db"), TTL)
    guest = Guest()
    with pytest.raises(StorageError, match=r"keys\.db cannot be .*RUNNER_IDEMPOTENCY_URL|folder"):
        once.run(call(), guest)
    assert guest.count == 0
