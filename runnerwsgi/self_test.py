"""A runner's look at itself, in the background: what it was a moment ago is told at once."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import RunnerError
from .logs import emit
from .protocol import Health

if TYPE_CHECKING:
    from .gateway import Gateway
    from .idempotency.watch import KeyWatch

log = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
# Until it has executed once it is tried more often: somebody waits for that.
AT_START_SECONDS = 1.0
CANARY_MS = 5000
# A look that takes this long hangs, and whoever can restart the process should.
HANGS_AFTER_SECONDS = 60.0

_NOT_YET = Health("unavailable", {"canary": "not executed yet"})


class SelfTest:
    """Asks the backend how it is and has it execute the canary, every ten seconds.

    One look that fails makes a runner that could execute ``degraded``, a second one in a row
    ``unavailable``: a machine that is busy for a moment is not a broken one.

    Example::

        test = SelfTest(gateway)
        test.start()
        test.health().status

    Args:
        gateway: whose backend is looked at.
        every: seconds between two looks.
        keys: looks at the store of idempotency keys, beside this and in threads of its own: a
            store that hangs delays neither the canary nor readiness.
    """

    def __init__(
        self, gateway: Gateway, every: float = EVERY_SECONDS, keys: KeyWatch | None = None
    ) -> None:
        self.gateway = gateway
        self.every = every
        self._keys = keys
        self.plugins: Mapping[str, Any] = {}
        self._health = _NOT_YET
        self._failed = True
        self._began = 0.0
        self._pid: int | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin, in a thread of this process; once, however often it is called."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid != os.getpid():
                self._began = time.monotonic()
                self._pid = os.getpid()
                threading.Thread(target=self._run, name="runnerwsgi-test", daemon=True).start()
                if self._keys:
                    self._keys.start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        if self._keys:
            self._keys.close()

    def health(self) -> Health:
        """What was found last."""
        found = self._health
        if self.hangs:
            found = Health("unavailable", {**found.checks, "self-test": "it hangs"})
        return self._keys.judged(found) if self._keys else found

    @property
    def ready(self) -> bool:
        """Whether the runner can execute, be it only what needs no key."""
        return self.health().status != "unavailable"

    @property
    def hangs(self) -> bool:
        """Whether a look has begun and does not end."""
        began = self._began
        return self._pid == os.getpid() and time.monotonic() - began > HANGS_AFTER_SECONDS

    def _run(self) -> None:
        while True:
            self._began = time.monotonic()
            self._take(self._look())
            if self._closed.wait(self.every if self.ready else min(self.every, AT_START_SECONDS)):
                return

    def _look(self) -> Health:
        canary, executes = self._canary()
        try:
            told = self.gateway.health()
            self.plugins = self.gateway.metadata()
        except Exception as exc:  # whatever it is, the next look must come
            return Health("unavailable", {"backend": repr(exc), "canary": canary})
        status = told.status if executes else "unavailable"
        return Health(status, {**told.checks, "canary": canary})

    def _canary(self) -> tuple[str, bool]:
        """What became of the canary, and whether that is as it should be."""
        started = time.monotonic()
        try:
            executed = self.gateway.probe(CANARY_MS)
        except Exception as exc:
            return (str(exc) if isinstance(exc, RunnerError) else repr(exc)), False
        if not executed:
            return "not there: the runner behind this one has none", True
        return f"executed in {(time.monotonic() - started) * 1000:.1f} ms", True

    def _take(self, found: Health) -> None:
        failed = found.status == "unavailable"
        if failed and not self._failed:
            found = Health("degraded", found.checks)
        self._failed = failed
        if found.status != self._health.status or (failed and self._health is _NOT_YET):
            level = logging.INFO if found.status == "ok" else logging.WARNING
            emit(log, level, "health", status=found.status, **found.checks)
        self._health = found
