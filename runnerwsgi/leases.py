"""Leases: the value in use now, lent to each caller for as long as the caller needs it."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Lease(Generic[T]):
    """A value and how many hold it."""

    __slots__ = ("holders", "value")

    def __init__(self, value: T) -> None:
        self.value = value
        self.holders = 0


class Leases(Generic[T]):
    """One value that may be replaced while it is in use: whoever holds the old one keeps it.

    Example::

        leases = Leases(old)
        with leases.hold() as value:
            ...                              # old, to the end of the block
        retired = leases.replace(new)        # from now on, everybody gets new
        if leases.wait(retired, seconds=30):
            old.close()                      # nobody holds it any more
    """

    def __init__(self, value: T) -> None:
        self._current = Lease(value)
        self._freed = threading.Condition()
        _all.add(self)

    @contextmanager
    def hold(self) -> Iterator[T]:
        """Hold the current value."""
        with self._freed:
            lease = self._current
            lease.holders += 1
        try:
            yield lease.value
        finally:
            with self._freed:
                lease.holders -= 1
                if lease.holders <= 0:
                    self._freed.notify_all()

    def replace(self, value: T) -> Lease[T]:
        """Lend *value* from now on; gives back what was lent until now."""
        with self._freed:
            retired, self._current = self._current, Lease(value)
        return retired

    def wait(self, retired: Lease[T], seconds: float) -> bool:
        """Wait until nobody holds *retired*; False when that took longer than *seconds*."""
        deadline = time.monotonic() + seconds
        with self._freed:
            while retired.holders > 0 and (left := deadline - time.monotonic()) > 0:
                self._freed.wait(left)
            return retired.holders <= 0

    def _after_fork(self) -> None:
        # The threads that held it stayed in the parent, and one of them may hold the lock.
        self._freed = threading.Condition()
        self._current.holders = 0


_all: weakref.WeakSet[Leases[Any]] = weakref.WeakSet()


def _renew() -> None:
    for leases in tuple(_all):
        leases._after_fork()


os.register_at_fork(after_in_child=_renew)
