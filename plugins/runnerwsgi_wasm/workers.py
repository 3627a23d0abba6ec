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

    __slots__ = (
        *("_context", "_error", "_finished", "_function", "_value"),
        *("hangs", "is_through", "owner"),
    )

    def __init__(self, owner: str, function: Callable[[], Any]) -> None:
        self.owner = owner
        self.is_through = False
        self.hangs = False
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

    def wait(self, timeout: float) -> bool:
        return self._finished.wait(timeout)

    def result(self) -> Any:
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
        limit: how many functions may hang, that is, go on although nobody waits for them any
            more; then calls are refused. One owner may have a quarter of them, so that it hangs
            its own calls and no others. Functions that are waited for are as many as there are
            callers.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._share = max(1, limit // 4)
        self._threads = 0
        self._busy = 0
        self._hanging: Counter[str] = Counter()

    def call(self, owner: str, function: Callable[[], T], timeout: float) -> T:
        """Run *function* in a worker and wait for it, at most *timeout* seconds.

        Raises:
            StillRunning: its result will be thrown away.
            Overloaded: too many functions hang, or too many of the owner's.
        """
        job = _Job(owner, function)
        if self._take(owner):
            threading.Thread(
                target=self._work, name="runnerwsgi-wasm-host-call", daemon=True
            ).start()
        self._jobs.put(job)
        if not job.wait(max(0.0, timeout)):
            self._leave(job)
            raise StillRunning(f"after {timeout:.3f} s")
        value: T = job.result()
        return value

    def _take(self, owner: str) -> bool:
        """Claim a worker; whether it must be started first."""
        with self._lock:
            if self._hanging[owner] >= self._share:
                raise Overloaded(f"{owner}: its {self._share} host-call threads hang")
            if self._hanging.total() >= self._limit:
                raise Overloaded(f"all {self._limit} host-call threads hang")
            starts = self._busy >= self._threads
            self._busy += 1
            self._threads += starts
            return starts

    def _leave(self, job: _Job) -> None:
        with self._lock:
            if not job.is_through:
                job.hangs = True
                self._hanging[job.owner] += 1

    def _give_back(self, job: _Job) -> None:
        with self._lock:
            job.is_through = True
            self._busy -= 1
            if job.hangs:
                self._hanging[job.owner] -= 1
                self._hanging += Counter()  # forgets the owners that have none

    def _work(self) -> None:
        while (job := self._jobs.get()) is not _END:
            job.run()
            # Free before the caller wakes up, or its next call would start another thread.
            self._give_back(job)
            job.publish()

    def close(self) -> None:
        """End the idle threads; the others end after their job."""
        with self._lock:
            threads, self._threads = self._threads, 0
        for _ in range(threads):
            self._jobs.put(_END)
