"""What Redis alone does: its refusals, its memory, its end and its return."""

import sys
import time
from contextlib import closing, suppress

import pytest
from own_servers import PASSWORD, RedisServer
from peers import peer, silence, unused_port

from runnerwsgi.errors import ConfigurationError, StorageError
from runnerwsgi.idempotency import OVER, Record
from runnerwsgi.idempotency.redis import PREFIX, RedisKeys

pytestmark = pytest.mark.redis
RECORD = Record("f" * 64, OVER, "a" * 16)


def refusal(keys):
    """What a claim is told."""
    with pytest.raises(StorageError) as raised, closing(keys):
        keys.claim("k", RECORD, 60)
    assert PASSWORD not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def keys(redis_server):
    with closing(RedisKeys(redis_server.new_store())) as keys:
        yield keys


def test_redis_forgets_by_itself(keys, redis_server):
    keys.claim("claimed", RECORD, 60)
    keys.finish("ended", RECORD, 600)
    with redis_server.client() as client:
        left = {name: client.pttl(name) for name in client.scan_iter()}
    assert set(left) == {b"runnerwsgi:key:claimed", b"runnerwsgi:key:ended"}
    assert 55_000 < left[b"runnerwsgi:key:claimed"] <= 60_000
    assert 590_000 < left[b"runnerwsgi:key:ended"] <= 600_000


@pytest.mark.parametrize(
    ("credentials", "says"),
    [
        pytest.param("", "it wants a password", id="no password"),
        pytest.param(":wrong@", "name or password are wrong", id="wrong password"),
        pytest.param("nobody:wrong@", "name or password are wrong", id="unknown user"),
    ],
)
def test_a_redis_that_lets_nobody_in_says_so(redis_server, credentials, says):
    url = f"redis://{credentials}127.0.0.1:{redis_server.port}/0"
    assert says in refusal(RedisKeys(url))


def test_a_user_that_may_not_write_is_told_what_it_needs(redis_server):
    with redis_server.client() as client:
        client.acl_setuser("reader", enabled=True, passwords="+x", keys=["*"], commands=["+get"])
    url = f"redis://reader:x@127.0.0.1:{redis_server.port}/0"
    assert "its user may not do this: allow it get, set" in refusal(RedisKeys(url))


def test_the_rights_that_it_is_told_to_need_are_enough(redis_server):
    commands = [f"+{name}" for name in ("get", "set", "del", "eval", "info")]
    with redis_server.client() as client:
        client.acl_setuser(
            "runner", enabled=True, passwords="+x", keys=[f"{PREFIX}*"], commands=commands
        )
    with closing(RedisKeys(f"redis://runner:x@127.0.0.1:{redis_server.port}/0")) as keys:
        assert keys.claim("rights", RECORD, 60) is None
        assert keys.claim("rights", RECORD, 60) == RECORD
        keys.finish("rights", RECORD, 60)
        keys.release("rights", RECORD)
        assert keys.claim("rights", RECORD, 60) is None


def test_a_database_that_is_not_there_is_named(redis_server):
    url = f"redis://:{PASSWORD}@127.0.0.1:{redis_server.port}/999"
    assert "no database of that number" in refusal(RedisKeys(url))


def test_a_replica_takes_no_claims(redis_server):
    with RedisServer("--replicaof", "127.0.0.1", str(unused_port())) as replica:
        assert "name the primary" in refusal(RedisKeys(replica.url))


def test_a_full_redis_says_so_and_executes_nothing():
    with RedisServer() as full:
        with full.client() as client:
            client.config_set("maxmemory", "100kb")
        assert "its memory is full" in refusal(RedisKeys(full.url))


def test_a_redis_that_evicts_is_warned_of_once(caplog):
    policy = ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    with RedisServer(*policy) as server, closing(RedisKeys(server.url)) as keys:
        keys.claim("k", RECORD, 60)
        keys.claim("k2", RECORD, 60)
    assert [line.levelname for line in caplog.records] == ["WARNING"]
    assert "allkeys-lru" in caplog.text


def test_what_somebody_else_wrote_is_not_executed(keys, redis_server):
    with redis_server.client() as client:
        client.set(f"{PREFIX}k", b"\xff canary")
    assert "something else under a key of ours" in refusal(keys)


def test_nobody_there(redis_server):
    assert "nobody answers there" in refusal(RedisKeys(f"redis://127.0.0.1:{unused_port()}"))


def test_no_such_name():
    assert "there is no such name" in refusal(RedisKeys("redis://no-such-host.invalid"))


def test_who_does_not_answer_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr("runnerwsgi.idempotency.redis.ANSWER_SECONDS", 0.1)
    with peer(silence) as silent:
        started = time.monotonic()
        assert "does not answer in time" in refusal(RedisKeys(f"redis://127.0.0.1:{silent.port}"))
        assert time.monotonic() - started < 2


def test_who_speaks_something_else_is_no_redis():
    with peer(lambda talk: talk.send(b"220 mail.example.com ESMTP\r\n")) as server:
        assert "cannot be used" in refusal(RedisKeys(f"redis://127.0.0.1:{server.port}"))


def test_it_goes_on_when_redis_is_back():
    with RedisServer() as server, closing(RedisKeys(server.url)) as keys:
        keys.claim("k", RECORD, 60)
        server.stop()
        assert "nobody answers there" in refusal(keys)
        server.start()
        # The first answer after a restart may be that it still loads.
        assert keys.claim("k2", RECORD, 60) is None


def test_a_connection_that_redis_has_ended_costs_no_call(keys, redis_server):
    keys.claim("k", RECORD, 60)
    with redis_server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert keys.claim("k2", RECORD, 60) is None


def test_without_the_client_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'runnerwsgi\[redis\]'"):
        RedisKeys("redis://host")


def test_its_name_tells_no_password():
    keys = RedisKeys(f"redis://me:{PASSWORD}@host:7000/3")
    assert repr(keys) == "RedisKeys('host:7000/3')"
    with suppress(StorageError):
        keys.close()
