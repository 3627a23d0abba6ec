"""Idempotency keys in this process's memory: enough for a runner that is one process."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from runnerwsgi.errors import Overloaded

if TYPE_CHECKING:
    from . import Record

MAX_BYTES = 64 * 1024 * 1024
MAX_KEYS = 100_000


class MemoryKeys:
    """Remembers 100,000 keys, and as many of their answers as 64 MiB hold.

    The oldest make room: first answers, whose keys are still not executed again, so that one
    tenant's large answers cost no other one its keys.

    Example::

        Once(MemoryKeys(), ttl=86400)

    Args:
        max_bytes: of answers.
        max_keys: how many keys.
    """

    is_shared = False

    def __init__(self, max_bytes: int = MAX_BYTES, max_keys: int = MAX_KEYS) -> None:
        self._max_bytes = max_bytes
        self._max_keys = max_keys
        self._records: OrderedDict[str, tuple[Record, float]] = OrderedDict()
        # The keys with an answer, the oldest first.
        self._answered: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def claim(self, key: str, record: Record, ttl: float) -> Record | None:
        """Keep *record*, or return the one that is there.

        Raises:
            Overloaded: too many calls are under way to remember one more.
        """
        self._forget_parents()
        now = time.monotonic()
        with self._lock:
            found = self._records.get(key)
            if found is not None and found[1] > now:
                return found[0]
            self._drop(key)
            self._make_room(now)
            self._put(key, record, now + ttl)
        return None

    def finish(self, key: str, record: Record, ttl: float) -> None:
        """Keep the answer, and forget the oldest ones where there are too many."""
        with self._lock:
            if self._is_anothers(key, record):
                return
            self._drop(key)
            self._put(key, record, time.monotonic() + ttl)
            while self._bytes > self._max_bytes:
                self._drop_answer(next(iter(self._answered)))

    def release(self, key: str, record: Record) -> None:
        """Forget the key."""
        with self._lock:
            if not self._is_anothers(key, record):
                self._drop(key)

    def close(self) -> None:
        """Nothing is open."""

    def _is_anothers(self, key: str, record: Record) -> bool:
        found = self._records.get(key)
        return found is not None and found[0].owner != record.owner

    def _put(self, key: str, record: Record, ends: float) -> None:
        self._records[key] = record, ends
        if record.answer is not None:
            self._answered[key] = len(record.answer)
            self._bytes += len(record.answer)

    def _drop(self, key: str) -> None:
        self._records.pop(key, None)
        self._bytes -= self._answered.pop(key, 0)

    def _drop_answer(self, key: str) -> None:
        record, ends = self._records[key]
        self._records[key] = replace(record, answer=None), ends
        self._bytes -= self._answered.pop(key)

    def _make_room(self, now: float) -> None:
        while self._records and next(iter(self._records.values()))[1] <= now:
            self._drop(next(iter(self._records)))
        if len(self._records) >= self._max_keys:
            self._drop(self._oldest_ended())

    def _oldest_ended(self) -> str:
        """The oldest key whose call has ended; one that runs must be known."""
        for key, (record, _) in self._records.items():
            if record.has_ended:
                return key
        raise Overloaded("too many calls with idempotency keys are under way")

    def _forget_parents(self) -> None:
        # A lock that another thread held in the parent is never released here.
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()
