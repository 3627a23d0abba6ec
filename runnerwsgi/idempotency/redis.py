"""Idempotency keys in Redis, or in anything that speaks as Redis does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runnerwsgi.errors import ConfigurationError, StorageError
from runnerwsgi.logs import emit

from . import Record

if TYPE_CHECKING:
    import redis

log = logging.getLogger(__name__)

PREFIX = "runnerwsgi:key:"
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 2.0
ATTEMPTS = 3

# A key that is another owner's by now stays as it is. One that is gone is written again: with
# its answer nobody executes it a second time.
_FINISH = """
local found = redis.call('GET', KEYS[1])
if found and string.sub(found, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
_RELEASE = """
local found = redis.call('GET', KEYS[1])
if found and string.sub(found, 1, #ARGV[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""

# What Redis says, or its client makes an exception of: what to do. The first that occurs counts.
_MEANINGS: Mapping[str, str] = {
    "already authenticated": "it wants a password: write redis://user:password@host:6379/0",
    "authentication required": "it wants a password: write redis://user:password@host:6379/0",
    "authenticationerror": "name or password are wrong: check RUNNER_IDEMPOTENCY_URL",
    "authenticationwrong": "name or password are wrong: check RUNNER_IDEMPOTENCY_URL",
    "nopermission": f"its user may not do this: allow it get, set, del, eval and info on {PREFIX}*",
    "outofmemory": "its memory is full (maxmemory): give it more, or lower "
    "RUNNER_IDEMPOTENCY_TTL_S",
    "misconf": "it cannot save to its disk, and takes no writes: see its log",
    "readonly": "it is a replica, which takes no writes: name the primary",
    "moved": "it is a node of a Redis cluster: keys need a single primary",
    "crossslot": "it is a node of a Redis cluster: keys need a single primary",
    "loading": "it has just begun, and still reads its data",
    "db index": "it has no database of that number",
    "refused": "nobody answers there: check that it runs, and RUNNER_IDEMPOTENCY_URL",
    "certificate": "its certificate is not trusted: add ?ssl_ca_certs=/path/ca.pem to the URL",
    "name or service not known": "there is no such name: check RUNNER_IDEMPOTENCY_URL",
    "no address associated": "there is no such name: check RUNNER_IDEMPOTENCY_URL",
    "timeout": "it does not answer in time",
    "timed out": "it does not answer in time",
}
_OTHER = "check RUNNER_IDEMPOTENCY_URL and the log of Redis"


class RedisKeys:
    """Keeps keys in one database of one Redis (2.6 or newer), which forgets them by itself.

    Example::

        Once(RedisKeys("rediss://runner:password@redis:6379/0"), ttl=86400)

    Args:
        url: ``redis:``, or ``rediss:`` with TLS; redis-py's options may follow as its query.

    Raises:
        ConfigurationError: it is no such URL, or redis-py is not installed.
    """

    is_shared = True

    def __init__(self, url: str) -> None:
        self._client = _client(url)
        address = self._client.connection_pool.connection_kwargs
        self.where = f"{address.get('host')}:{address.get('port', 6379)}/{address.get('db', 0)}"
        self._is_checked = False

    def __repr__(self) -> str:
        return f"RedisKeys({self.where!r})"

    def claim(self, key: str, record: Record, ttl: float) -> Record | None:
        """Keep *record*, or return the one that is there.

        Raises:
            StorageError: Redis cannot be asked, or says no.
        """
        with self._translated():
            # What was found may be over or released before it is read.
            for _ in range(ATTEMPTS):
                if self._client.set(PREFIX + key, _packed(record), nx=True, px=_ms(ttl)):
                    self._check()
                    return None
                found: Any = self._client.get(PREFIX + key)
                if found is not None:
                    return self._unpacked(found)
        raise StorageError("An idempotency key came and went: others ask for it all the time.")

    def finish(self, key: str, record: Record, ttl: float) -> None:
        """Keep the answer.

        Raises:
            StorageError: Redis cannot be asked, or says no.
        """
        self._run(_FINISH, key, record.owner, _packed(record), _ms(ttl))

    def release(self, key: str, record: Record) -> None:
        """Forget the key.

        Raises:
            StorageError: Redis cannot be asked, or says no.
        """
        self._run(_RELEASE, key, record.owner)

    def close(self) -> None:
        """Close this process's connections. Using the store opens new ones."""
        self._client.close()

    def _run(self, script: str, key: str, *sent: str | bytes | int) -> None:
        with self._translated():
            self._client.eval(script, 1, PREFIX + key, *sent)

    def _unpacked(self, data: bytes) -> Record:
        head, _, answer = data.partition(b"\n")
        try:
            owner, fingerprint, until, has_answer = head.decode("ascii").split(" ")
            return Record(
                fingerprint, float(until), owner, answer if has_answer == "answer" else None
            )
        except ValueError as exc:
            raise StorageError(
                f"The Redis at {self.where} has something else under a key of ours: let no other "
                f"program write below {PREFIX}"
            ) from exc

    def _check(self) -> None:
        """Warn once of a Redis that forgets what it was to keep."""
        if self._is_checked:
            return
        self._is_checked = True
        # Who may not ask gets no warning; the key is claimed already.
        with suppress(*_errors()):
            told: Any = self._client.info("memory")
            policy = told.get("maxmemory_policy", "noeviction")
            if told.get("maxmemory") and policy != "noeviction":
                advice = "set maxmemory-policy noeviction, or a call may be executed twice"
                emit(log, logging.WARNING, "keys_may_be_evicted", policy=policy, advice=advice)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except _errors() as exc:
            # Redis quotes what it does not understand, which may be an answer.
            said = f"{type(exc).__name__} {exc}".lower()
            meaning = next((text for word, text in _MEANINGS.items() if word in said), _OTHER)
            raise StorageError(
                f"The Redis at {self.where} cannot be used ({type(exc).__name__}): {meaning}."
            ) from exc


def _client(url: str) -> redis.Redis:
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as exc:
        raise ConfigurationError(
            "RUNNER_IDEMPOTENCY_URL needs redis-py, which is not installed: "
            "python -m pip install 'runnerwsgi[redis]'"
        ) from exc
    # Once more after a lost connection, as a pool has them; a claim knows its own again.
    retry = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    try:
        if not urlsplit(url).hostname:
            raise ValueError("no host")
        return redis.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            retry=retry,
        )
    except (ValueError, TypeError, redis.RedisError) as exc:
        # Not quoted: it may hold a password.
        raise ConfigurationError(
            "RUNNER_IDEMPOTENCY_URL is no URL of a Redis: write redis://host:6379/0 or "
            "rediss://user:password@host:6379/0."
        ) from exc


def _errors() -> tuple[type[Exception], ...]:
    import redis

    return (redis.RedisError, OSError)


def _packed(record: Record) -> bytes:
    """The owner first, where the scripts look for it."""
    has_answer = "none" if record.answer is None else "answer"
    head = f"{record.owner} {record.fingerprint} {record.until!r} {has_answer}\n"
    return head.encode("ascii") + (record.answer or b"")


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
