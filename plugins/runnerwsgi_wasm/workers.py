"""Threads for host calls that may outlive the guest that asked."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from runnerwsgi.errors import Overloaded

T = TypeVar("T")
_END = None


class StillRunning(Exception):
    """The time to wait is over, the function is not."""


class _Job:
    """One call handed to a worker, and what came of it."""

    __slots__ = ("_context", "_error", "_finished", "_function", "_value", "owner")

    def __init__(self, owner: str, function: Callable[[], Any]) -> None:
        self.owner = owner
        self._function = function
        self._context = contextvars.copy_context()
        self._finished = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._value = self._context.run(self._function)
        except BaseException as exc:  # whatever it is, it is the caller's
            self._error = exc

    def publish(self) -> None:
        self._finished.set()

    def result(self, timeout: float) -> Any:
        if not self._finished.wait(timeout):
            raise StillRunning(f"after {timeout:.3f} s")
        if self._error:
            raise self._error
        return self._value


class Workers:
    """Runs a function with a time limit; one that takes longer is left to itself.

    A function in Python cannot be stopped from outside. Its caller can stop waiting: the
    thread goes on in the background and takes the next job when it is through. The threads
    are daemons, so a function that never ends does not hold up the end of the process.

    Example::

        workers = Workers(limit=32)
        workers.call("demo.notes", lambda: capabilities.call(...), timeout=0.5)
        workers.close()

    Args:
        limit: how many threads there may be; when all of them hang, calls are refused. One
            owner may hold a quarter of them, so that it hangs its own calls and no others.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._share = max(1, limit // 4)
        self._threads = 0
        self._held: Counter[str] = Counter()

    def call(self, owner: str, function: Callable[[], T], timeout: float) -> T:
        """Run *function* in a worker and wait for it, at most *timeout* seconds.

        Raises:
            StillRunning: its result will be thrown away.
            Overloaded: functions that do not end hold every worker, or the owner's share.
        """
        job = _Job(owner, function)
        if self._take(owner):
            threading.Thread(
                target=self._work, name="runnerwsgi-wasm-host-call", daemon=True
            ).start()
        self._jobs.put(job)
        value: T = job.result(max(0.0, timeout))
        return value

    def _take(self, owner: str) -> bool:
        """Claim a worker for *owner*; whether it must be started first."""
        with self._lock:
            busy = self._held.total()
            if self._held[owner] >= self._share:
                raise Overloaded(f"{owner}: its {self._share} host-call threads hang")
            if busy >= self._limit:
                raise Overloaded(f"all {self._limit} host-call threads hang")
            self._held[owner] += 1
            starts = busy >= self._threads
            self._threads += starts
            return starts

    def _give_back(self, owner: str) -> None:
        with self._lock:
            self._held[owner] -= 1
            if not self._held[owner]:
                del self._held[owner]

    def _work(self) -> None:
        while (job := self._jobs.get()) is not _END:
            job.run()
            # Free before the caller wakes up, or its next call would start another thread.
            self._give_back(job.owner)
            job.publish()

    def close(self) -> None:
        """End the idle threads; the others end after their job."""
        with self._lock:
            threads, self._threads = self._threads, 0
        for _ in range(threads):
            self._jobs.put(_END)
