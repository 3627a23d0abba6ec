"""One fetch of a thing at a time, however many wait for it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from runnerwsgi.errors import BackendStarting

REMEMBERED_SECONDS = 1.0

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Flight(Generic[T]):
    """A fetch; from ``until`` on, who asks gets a new one."""

    until: float
    future: Future[T] = field(default_factory=Future)


class Flights(Generic[K, T]):
    """Runs each fetch once in a thread of its own and lets everybody wait who wants the same.

    Who waits may give up: the fetch goes on for the next one. Its failure is everybody's for
    one second, so that a crowd does not knock at a closed door one after the other.

    Example::

        flights = Flights(seconds=60.0, most=4)
        flights.join("key", lambda: fetch("key"), timeout=2.0)

    Args:
        seconds: what one fetch may take; one that takes longer is not waited for any more.
        most: fetches that run at once.
    """

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._flights: dict[K, _Flight[T]] = {}
        self._running = 0

    def join(
        self, key: K, fetch: Callable[[], T], timeout: float | None = None, *, leaving: int = 0
    ) -> T:
        """The result of the fetch of *key* that is under way, or of a new one.

        Args:
            key: what is fetched.
            fetch: fetches it; its exceptions go to everybody who waits.
            timeout: seconds to wait; None for as long as a fetch may take.
            leaving: of the fetches that run at once, so many are not for this one.

        Raises:
            BackendStarting: it is not there yet, or too many others are being fetched.
        """
        if self._pid != os.getpid():
            self._begin()  # the threads of a parent are not in its forked child
        future = self._flight(key, fetch, leaving).future
        wait = self._seconds if timeout is None else min(timeout, self._seconds)
        try:
            return future.result(max(0.0, wait))
        except FutureTimeout:
            if future.done():
                raise
            raise BackendStarting("the extension's bundle is still being fetched") from None

    def _flight(self, key: K, fetch: Callable[[], T], leaving: int) -> _Flight[T]:
        with self._lock:
            now = time.monotonic()
            self._flights = {key: one for key, one in self._flights.items() if now < one.until}
            if key in self._flights:
                return self._flights[key]
            if self._running >= self._most - leaving:
                raise BackendStarting(f"{self._running} other bundles are being fetched")
            flight = self._flights[key] = _Flight[T](now + self._seconds)
            self._running += 1
        self._start(key, flight, fetch)
        return flight

    def _start(self, key: K, flight: _Flight[T], fetch: Callable[[], T]) -> None:
        work = threading.Thread(
            target=self._run, args=(key, flight, fetch), name="runnerwsgi-fetch", daemon=True
        )
        try:
            work.start()
        except RuntimeError as exc:
            self._ended(key, flight, 0.0)
            raise BackendStarting("no thread is left to fetch the bundle") from exc

    def _run(self, key: K, flight: _Flight[T], fetch: Callable[[], T]) -> None:
        try:
            result = fetch()
        except BaseException as exc:
            self._ended(key, flight, REMEMBERED_SECONDS)
            flight.future.set_exception(exc)
        else:
            self._ended(key, flight, 0.0)
            flight.future.set_result(result)

    def _ended(self, key: K, flight: _Flight[T], remembered: float) -> None:
        with self._lock:
            self._running -= 1
            flight.until = time.monotonic() + remembered
            if not remembered and self._flights.get(key) is flight:
                del self._flights[key]
