"""Idempotency keys in this process's memory: enough for a runner that is one process."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from runnerwsgi.errors import Overloaded

if TYPE_CHECKING:
    from . import Record

MAX_BYTES = 64 * 1024 * 1024
MAX_KEYS = 100_000
KEY_BYTES = 512  # what a key costs beside its answer


class MemoryKeys:
    """Keeps as many answers as 64 MiB hold; the oldest make room.

    Example::

        Once(MemoryKeys(), ttl=86400)

    Args:
        max_bytes: of answers.
    """

    is_shared = False

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._records: OrderedDict[str, tuple[Record, float]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def claim(self, key: str, record: Record, ttl: float) -> Record | None:
        """Keep *record*, or return the one that is there.

        Raises:
            Overloaded: too many calls are under way to remember one more.
        """
        self._forget_parents()
        now = time.time()
        with self._lock:
            found = self._records.get(key)
            if found is not None and found[1] > now:
                return found[0]
            self._drop(key)
            self._make_room(now)
            self._put(key, record, now + ttl)
        return None

    def finish(self, key: str, record: Record, ttl: float) -> None:
        """Keep the answer; one that is larger than everything may be is not kept."""
        with self._lock:
            self._drop(key)
            self._put(key, record, time.time() + ttl)
            while self._bytes > self._max_bytes and self._drop_oldest():
                pass

    def release(self, key: str) -> None:
        """Forget the key."""
        with self._lock:
            self._drop(key)

    def close(self) -> None:
        """Nothing is open."""

    def _put(self, key: str, record: Record, ends: float) -> None:
        self._records[key] = record, ends
        self._bytes += _size(record)

    def _drop(self, key: str) -> None:
        found = self._records.pop(key, None)
        if found is not None:
            self._bytes -= _size(found[0])

    def _make_room(self, now: float) -> None:
        while self._records and next(iter(self._records.values()))[1] <= now:
            self._drop(next(iter(self._records)))
        if len(self._records) >= MAX_KEYS and not self._drop_oldest():
            raise Overloaded("too many calls with idempotency keys are under way")

    def _drop_oldest(self) -> bool:
        """Forget the oldest key whose call has ended; one that runs must be known."""
        ended = (key for key, (record, _) in self._records.items() if record.answer is not None)
        oldest = next(ended, None)
        if oldest is not None:
            self._drop(oldest)
        return oldest is not None

    def _forget_parents(self) -> None:
        # A lock that another thread held in the parent is never released here.
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()


def _size(record: Record) -> int:
    return KEY_BYTES + len(record.answer or b"")
