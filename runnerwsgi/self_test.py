"""A runner's look at itself, in the background: what it was a moment ago is told at once."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .errors import BackendStarting, RunnerError
from .logs import emit
from .protocol import Health

if TYPE_CHECKING:
    from .gateway import Gateway

log = logging.getLogger(__name__)

EVERY = 10.0
# Until it has executed once, it is tried more often: somebody waits for that.
EVERY_AT_START = 1.0
CANARY_MS = 5000
# A test that takes this long hangs, and whoever can restart the process should.
HANGS_AFTER = 60.0

_STARTING = Health("unavailable", {"canary": "not executed yet"})


class SelfTest:
    """Asks the backend how it is and has it execute the canary, every ten seconds.

    Example::

        test = SelfTest(gateway)
        test.start()
        test.health().status

    Args:
        gateway: whose backend is looked at.
        every: seconds between two looks.
    """

    def __init__(self, gateway: Gateway, every: float = EVERY) -> None:
        self.gateway = gateway
        self.every = every
        self._health = _STARTING
        self._ready = False
        self._began = time.monotonic()
        self._pid: int | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin, in a thread of this process; once, however often it is called."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._began = time.monotonic()
                threading.Thread(target=self._run, name="runnerwsgi-test", daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._ended.set()

    def health(self) -> Health:
        """What was found last."""
        if self.hangs:
            return Health("unavailable", {**self._health.checks, "self-test": "it hangs"})
        return self._health

    @property
    def ready(self) -> bool:
        """Whether the runner can execute."""
        return self._ready and not self.hangs

    @property
    def hangs(self) -> bool:
        """Whether a test has begun and does not end."""
        return self._pid == os.getpid() and time.monotonic() - self._began > HANGS_AFTER

    def _run(self) -> None:
        while True:
            self._began = time.monotonic()
            self._take(self._look())
            if self._ended.wait(self.every if self._ready else EVERY_AT_START):
                return

    def _look(self) -> Health:
        try:
            told = self.gateway.health()
            checks: Mapping[str, str] = {**told.checks, "canary": self._canary()}
            return Health(told.status, checks)
        except BackendStarting as exc:
            return Health("unavailable", {"canary": f"the backend is starting: {exc}"})
        except RunnerError as exc:
            return Health("unavailable", {**told.checks, "canary": str(exc)})

    def _canary(self) -> str:
        started = time.monotonic()
        if not self.gateway.probe(CANARY_MS):
            return "not there: the runner behind this one has none"
        return f"executed in {(time.monotonic() - started) * 1000:.1f} ms"

    def _take(self, found: Health) -> None:
        if found.status != self._health.status:
            emit(log, logging.INFO, "health", status=found.status, **found.checks)
        self._health = found
        self._ready = found.status != "unavailable"
