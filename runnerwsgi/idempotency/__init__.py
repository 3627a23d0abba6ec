"""Each idempotency key is executed at most once, by whichever process of a runner gets it.

An ingress may send one POST several times, and to several pods: only the runner can tell
(security §6, draft-ietf-httpapi-idempotency-key-header).
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from runnerwsgi.errors import (
    BodyTooLarge,
    ConfigurationError,
    IdempotencyInFlight,
    IdempotencyMismatch,
    OutcomeUnknown,
    Refused,
    StorageError,
)
from runnerwsgi.logs import emit

from .memory import MemoryKeys

if TYPE_CHECKING:
    from runnerwsgi.protocol import ExecuteRequest
    from runnerwsgi.settings import Settings

__all__ = ["MAX_ANSWER_BYTES", "Ended", "KeyStore", "Once", "Record", "open_keys"]

log = logging.getLogger(__name__)

# What a call may take longer than its limit before nobody waits for its end any more.
GRACE_SECONDS = 10.0
LONGEST_WAIT_SECONDS = 5
# Of an answer that is kept. A few large ones must not cost the memory of everybody's keys.
MAX_ANSWER_BYTES = 1024 * 1024
OVER = 0.0
# Nothing was executed: the key is as good as new.
NOT_EXECUTED = (Refused, BodyTooLarge, StorageError)


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a request: its envelope, and whether the guest was executed at all."""

    envelope: bytes
    executed: bool


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a key.

    Attributes:
        fingerprint: of the request that it was first used for.
        until: when its execution has ended at the latest, in seconds since the epoch; ``OVER``
            where it has ended.
        owner: the execution that it belongs to; no two have the same.
        answer: the envelope it ended with; None while it runs, when nobody told, or when it was
            too large to be kept.
    """

    fingerprint: str
    until: float
    owner: str
    answer: bytes | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nobody executes it any more."""
        return self.until <= time.time()


class KeyStore(Protocol):
    """Where keys are kept; each method raises ``StorageError`` where that fails.

    Attributes:
        is_shared: whether every process of the runner sees the same keys.
    """

    is_shared: bool

    def claim(self, key: str, record: Record, ttl: float) -> Record | None:
        """Keep *record* under *key* for *ttl* seconds; or return the one that is there already.

        One of several that claim a key at the same moment gets None. A store that asks again
        after a lost connection may return *record* itself, which it then has kept.
        """
        ...

    def finish(self, key: str, record: Record, ttl: float) -> None:
        """Keep how it ended, unless the key belongs to another owner by now."""
        ...

    def release(self, key: str, record: Record) -> None:
        """Forget a key, if it is still this owner's: nothing was executed."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


class Once:
    """Executes a request with an idempotency key once, and answers its repetitions.

    Example::

        once = Once(MemoryKeys(), ttl=86400)
        envelope = once.run(request, lambda: execute(request))

    Args:
        keys: where they are kept.
        ttl: seconds for which an answer is kept.
    """

    def __init__(self, keys: KeyStore, ttl: float) -> None:
        self.keys = keys
        self.ttl = ttl

    @property
    def scope(self) -> str:
        """How far a key is known: ``shared`` by every process of the runner, or ``process``."""
        return "shared" if self.keys.is_shared else "process"

    def run(self, request: ExecuteRequest, execute: Callable[[], Ended]) -> bytes:
        """The envelope of *request*: from *execute*, or of the first time.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            IdempotencyInFlight: the first request with this key is being executed.
            OutcomeUnknown: it was, and nobody told how it ended: its process is gone.
            StorageError: the keys cannot be read; nothing was executed.
        """
        if request.idempotency_key is None:
            return execute().envelope
        key = _scoped(request)
        lease = request.limits.timeout_ms / 1000 + GRACE_SECONDS
        mine = Record(_fingerprint(request), time.time() + lease, secrets.token_hex(8))
        # Kept beyond the lease: else a call of ten minutes could outlive its own key.
        found = self._claim(request, key, mine, self.ttl + lease)
        if found is None or found.owner == mine.owner:
            return self._execute(request, key, mine, execute)
        _tell(request, "key_repeated", logging.INFO)
        return _repeated(found, mine)

    def _claim(self, request: ExecuteRequest, key: str, mine: Record, ttl: float) -> Record | None:
        try:
            return self.keys.claim(key, mine, ttl)
        except StorageError:
            # Nobody said that it was not kept: then its repetitions would wait for a call that
            # never was.
            self._quietly(request, lambda: self.keys.release(key, mine))
            raise

    def _execute(
        self, request: ExecuteRequest, key: str, mine: Record, execute: Callable[[], Ended]
    ) -> bytes:
        try:
            ended = execute()
        except NOT_EXECUTED:
            self._quietly(request, lambda: self.keys.release(key, mine))
            raise
        except Exception:
            # It may have been executed, and nobody will ever tell how it ended.
            lost = replace(mine, until=OVER)
            self._quietly(request, lambda: self.keys.finish(key, lost, self.ttl))
            raise
        if not ended.executed:
            self._quietly(request, lambda: self.keys.release(key, mine))
            return ended.envelope
        small = len(ended.envelope) <= MAX_ANSWER_BYTES
        done = replace(mine, until=OVER, answer=ended.envelope if small else None)
        self._quietly(request, lambda: self.keys.finish(key, done, self.ttl))
        return ended.envelope

    def close(self) -> None:
        """Close the store."""
        self.keys.close()

    @staticmethod
    def _quietly(request: ExecuteRequest, act: Callable[[], None]) -> None:
        """The call has ended, and its caller is to know how, whatever becomes of its key."""
        try:
            act()
        except StorageError as exc:
            _tell(request, "key_not_kept", logging.ERROR, reason=str(exc))


def open_keys(settings: Settings) -> KeyStore:
    """The store that RUNNER_IDEMPOTENCY_URL names; it is first asked at the first call.

    Raises:
        ConfigurationError: there is none of that kind, or its driver is not installed.
    """
    scheme, colon, _ = settings.idempotency_url.partition(":")
    kind = _KINDS.get(scheme.partition("+")[0]) if colon else None
    if kind is None:
        raise ConfigurationError(
            "RUNNER_IDEMPOTENCY_URL is of no kind that is known. Write memory:, "
            "redis://host:6379/0, postgresql://user:password@host/name or "
            "sqlite:////absolute/path.db."
        )
    return kind(settings.idempotency_url)


def _memory(url: str) -> KeyStore:
    return MemoryKeys()


def _database(url: str) -> KeyStore:
    from .database import DatabaseKeys

    return DatabaseKeys(url)


def _redis(url: str) -> KeyStore:
    from .redis import RedisKeys

    return RedisKeys(url)


# By the URL's scheme; what is not used is not loaded.
_KINDS: Mapping[str, Callable[[str], KeyStore]] = {
    "memory": _memory,
    "sqlite": _database,
    "postgresql": _database,
    "postgres": _database,
    "redis": _redis,
    "rediss": _redis,
}


def _repeated(found: Record, record: Record) -> bytes:
    """The answer for a key that is known."""
    if found.fingerprint != record.fingerprint:
        raise IdempotencyMismatch("the key was used for a request with another body")
    if found.answer is not None:
        return found.answer
    if found.until == OVER:
        raise OutcomeUnknown("it was executed, and its answer was too large or too old to be kept")
    if found.has_ended:
        raise OutcomeUnknown("the process that began with this key has not told how it ended")
    left = found.until - time.time()
    raise IdempotencyInFlight(
        "the first request with this key is being executed",
        retry_after=max(1, min(LONGEST_WAIT_SECONDS, round(left))),
    )


def _tell(request: ExecuteRequest, event: str, level: int, **fields: str) -> None:
    context = request.context
    emit(
        log,
        level,
        event,
        request_id=context.request_id,
        tenant_id=context.tenant_id,
        extension_id=context.extension_id,
        **fields,
    )


def _scoped(request: ExecuteRequest) -> str:
    """The key, for this tenant, extension, user, method and path only."""
    user = request.user.user_id if request.user else None
    whose = (request.context.tenant_id, request.context.extension_id, user)
    return _digest([*whose, request.http.method, request.http.path, request.idempotency_key])


def _fingerprint(request: ExecuteRequest) -> str:
    """What must be the same for a request to be the same."""
    body = request.http.body
    hashed = None if body is None else hashlib.sha256(body).hexdigest()
    return _digest([request.http.query_string, hashed])


def _digest(parts: list[str | None]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
