"""Latest: what was found lately, looked for again in the background."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

GOOD_SECONDS = 5.0
# What nobody asked about for so long is no news.
OLD_SECONDS = 60.0


class Latest(Generic[T]):
    """The last thing found, renewed in a thread by whoever asks and finds it old.

    One look is under way at a time, and only who has no answer at all, or one of long ago, waits
    for it. A child that was forked knows what its parent knew, and looks for itself.

    Example::

        load = Latest(lambda: os.getloadavg()[0], lost=-1.0)
        load.get(wait=2.0)

    Args:
        look: finds it out; bounded in time.
        lost: what is found where *look* raises.
        seconds: how long it is good for.
    """

    def __init__(self, look: Callable[[], T], *, lost: T, seconds: float = GOOD_SECONDS) -> None:
        self._look = look
        self._lost = lost
        self._seconds = seconds
        self._pid = os.getpid()
        self._found: T | None = None
        self._at = 0.0
        self._condition = threading.Condition()
        self._looking = False

    def get(self, wait: float) -> T | None:
        """What was found last; None where nothing is after *wait* seconds."""
        self._forget_parents()
        with self._condition:
            if not self._is_within(self._seconds):
                self._renew()
            if not self._is_within(OLD_SECONDS):
                self._condition.wait_for(lambda: self._is_within(OLD_SECONDS), wait)
            return self._found

    def told(self, found: T) -> None:
        """Take what came out without a look."""
        self._forget_parents()
        with self._condition:
            self._take(found)

    def _is_within(self, seconds: float) -> bool:
        return self._found is not None and time.monotonic() - self._at <= seconds

    def _forget_parents(self) -> None:
        # A look that was under way in the parent never ends in a forked child.
        if self._pid != os.getpid():
            self._condition, self._looking = threading.Condition(), False
            self._pid = os.getpid()

    def _renew(self) -> None:
        if self._looking:
            return
        with suppress(RuntimeError):  # no thread is left: who asks next tries again
            threading.Thread(target=self._run, name="runnerwsgi-latest", daemon=True).start()
            self._looking = True

    def _run(self) -> None:
        found = self._lost
        try:
            found = self._look()
        finally:
            with self._condition:
                self._looking = False
                self._take(found)

    def _take(self, found: T) -> None:
        self._found, self._at = found, time.monotonic()
        self._condition.notify_all()
