"""A runner's look at the store of its keys, in the background and on the way of no call."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from typing import TYPE_CHECKING

from runnerwsgi.errors import RunnerError
from runnerwsgi.logs import emit
from runnerwsgi.protocol import Health

from . import OVER, Record

if TYPE_CHECKING:
    from . import KeyStore

log = logging.getLogger(__name__)

# A store says by itself within eight seconds that it does not answer. One that hangs beyond that,
# as a database whose table is locked, is not waited for.
LOOK_SECONDS = 10.0
# The process ends: who hangs is not waited for.
CLOSE_SECONDS = 1.0
# A look that never told of its end leaves nothing behind for longer.
KEPT_SECONDS = 60.0
# Of so many looks one is taken while the store is well, and one is told of while it is not:
# a thousand pods must not be a load, and a day without Redis no flood of lines.
EACH = 6


class KeyWatch:
    """Claims a key of its own and releases it, as each call does, and tells what came of it.

    A store that is wrong makes a runner ``degraded`` and never ``unavailable``: GETs and UI files
    need no key. A pod that is not ready would take those away, too, in every pod at once, and a
    Knative that waits for the first ready pod would say only that there is none.

    Example::

        watch = KeyWatch(RedisKeys("redis://redis:6379/0"), every=10.0)
        watch.start()
        watch.judged(Health("ok")).checks["keys"]

    Args:
        keys: the store; one of this process alone is not looked at, as it cannot fail.
        every: seconds between two looks while the store cannot be used.
    """

    def __init__(self, keys: KeyStore, every: float) -> None:
        self._keys = keys
        self._every = every
        self._problem = ""
        self._told = "not looked at yet"
        self._failures = 0
        self._look: _Look | None = None
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin, in a thread of this process."""
        if self._keys.is_shared:
            # A look that was under way in the parent of a fork never ends here.
            self._look = None
            threading.Thread(target=self._run, name="runnerwsgi-keys", daemon=True).start()

    def close(self) -> None:
        """Look no more, so that the store can be closed."""
        self._closed.set()
        if look := self._look:
            look.join(CLOSE_SECONDS)

    def judged(self, health: Health) -> Health:
        """The same health with what was found of the store."""
        if not self._keys.is_shared:
            return health
        is_less = self._problem and health.status == "ok"
        checks = {**health.checks, "keys": self._problem or self._told}
        return Health("degraded" if is_less else health.status, checks)

    def _run(self) -> None:
        while True:
            self._take(self._found())
            if self._closed.wait(self._every if self._problem else EACH * self._every):
                return

    def _found(self) -> str:
        """What is wrong with the store; nothing where nothing is."""
        self._look = look = self._look or _Look(self._keys)
        look.join(LOOK_SECONDS)
        if look.is_alive():
            # Not a second one beside it: the threads of one that hangs for a day would add up.
            return f"The store of keys does not answer within {LOOK_SECONDS:.0f} seconds."
        self._look = None
        self._told = f"claimed and released one in {look.ms:.1f} ms"
        return look.problem

    def _take(self, problem: str) -> None:
        if not problem:
            if self._problem:
                emit(log, logging.INFO, "keys_are_kept_again")
            self._failures = 0
        elif problem != self._problem or self._failures % EACH == 0:
            effect = "calls that may change something are refused; GETs go on"
            emit(log, logging.WARNING, "keys_cannot_be_kept", reason=problem, effect=effect)
        self._failures += bool(problem)
        self._problem = problem


class _Look(threading.Thread):
    """One look: what a call does with its key, so that it fails where a call would.

    Attributes:
        problem: what was wrong.
        ms: how long it took.
    """

    def __init__(self, keys: KeyStore) -> None:
        super().__init__(name="runnerwsgi-keys-look", daemon=True)
        self._keys = keys
        self.problem = ""
        self.ms = 0.0
        self.start()

    def run(self) -> None:
        key = f"look:{secrets.token_hex(16)}"
        mine = Record("look", OVER, secrets.token_hex(8))
        started = time.monotonic()
        try:
            self._keys.claim(key, mine, KEPT_SECONDS)
            self._keys.release(key, mine)
        except Exception as exc:  # whatever it is, the next look must come
            self.problem = str(exc) if isinstance(exc, RunnerError) else repr(exc)
        self.ms = (time.monotonic() - started) * 1000
