"""Whether a failed exchange is tried again, when and how often; and when none is begun."""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from .errors import (
    BackendStarting,
    BackendUnreachable,
    DeadlineExceeded,
    IdempotencyInFlight,
    OutcomeUnknown,
    Overloaded,
    Refused,
    RunnerError,
)

T = TypeVar("T")
PauseAfter = Callable[[RunnerError, int], float | None]
OnFailure = Callable[[RunnerError, int, float | None], None]

# What a runner did not say, or said of this moment only.
OF_THE_WAY = (BackendUnreachable, OutcomeUnknown, Refused)
# Tries after the first, and what a call earns of one.
MOST = 2
SHARE = 0.2
# The longest before the second try; before the third it is twice as long.
PAUSE_SECONDS = 0.1
# Between tries of a peer that is away for a moment.
AWAY_SECONDS = 0.1
# Between looks at a call that runs already. Three seconds in all: of one whose process was killed
# nobody will ever hear more, and whoever waits holds a thread of the host's.
WAITS = (0.1, 0.2, 0.4, 0.8, 1.6)
# What a service that is hardly used may retry before its calls have earned anything.
SAVINGS = 10.0

IN_A_ROW = 5
# Who takes no connection, or no request, for so long is as good as gone.
SILENT_SECONDS = 1.0
WINDOW_SECONDS = 10
WINDOW_CALLS = 20
WINDOW_MOMENTS = 3
OPEN_SECONDS = 5.0
LONGEST_OPEN_SECONDS = 60.0
TRIAL_SECONDS = 5.0


class Breaker:
    """Sends nothing for a while to a peer that fails, so that its callers hear at once.

    Open for 5 seconds after five failures in a row, or when half of at least twenty exchanges
    within ten seconds failed, in three of these seconds or more; then one exchange tries, and
    each one that fails doubles the time, to a minute at most. While one takes long, another one
    tries every five seconds. Only what never reached a runner,
    or got no answer of one, counts.

    A pod that dies breaks everything that it was doing, while others go on: exchanges that were
    under way when one failed are in the same row as that one, and count no further.

    Example::

        breaker = Breaker()
        with breaker.watching():
            upstream.exchange("GET", "/", timeout=5.0, max_bytes=1000)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._begun = 0
        self._reset()

    def _reset(self) -> None:
        self._row = 0
        self._in_row = self._begun  # exchanges up to this one count no further
        self._recent = _Recent()
        self._until = 0.0
        self._open_for = 0.0
        self._trial_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether exchanges are refused now."""
        return time.monotonic() < self._until

    @contextmanager
    def watching(self) -> Iterator[None]:
        """One exchange.

        Raises:
            Overloaded: nothing is sent now; it says when something will be.
        """
        number, is_trial = self._enter()
        began = time.monotonic()
        failed: bool | None = None
        try:
            yield
            failed = False
        except RunnerError as exc:
            failed = _failed(exc, time.monotonic() - began)
            raise
        finally:
            self._leave(failed, number, is_trial)

    def _enter(self) -> tuple[int, bool]:
        self._forget_parents()
        with self._lock:
            now = time.monotonic()
            left = max(self._until, self._trial_until) - now
            if left > 0:
                raise Overloaded(
                    "the runner failed again and again: nothing is sent for now",
                    retry_after=max(1, math.ceil(left)),
                )
            is_trial = self._open_for > 0
            # A call that takes long says nothing yet: it must not keep all others waiting.
            self._trial_until = now + TRIAL_SECONDS if is_trial else 0.0
            self._begun += 1
            return self._begun, is_trial

    def _leave(self, failed: bool | None, number: int, is_trial: bool) -> None:
        with self._lock:
            if is_trial:
                self._trial_until = 0.0
            if failed is None:
                return
            if failed:
                self._on_failure(number, is_trial)
            else:
                self._on_success(is_trial)

    def _on_success(self, is_trial: bool) -> None:
        if is_trial:
            self._reset()
            return
        self._row = 0
        self._recent.add(time.monotonic(), failed=False)

    def _on_failure(self, number: int, is_trial: bool) -> None:
        now = time.monotonic()
        if number > self._in_row:
            self._row += 1
            self._in_row = self._begun
        self._recent.add(now, failed=True)
        is_down = is_trial if self._open_for else self._is_too_much(now)
        if is_down:
            self._open_for = min(max(OPEN_SECONDS, 2 * self._open_for), LONGEST_OPEN_SECONDS)
            self._until = now + self._open_for

    def _is_too_much(self, now: float) -> bool:
        return self._row >= IN_A_ROW or self._recent.is_bad(now)

    def _forget_parents(self) -> None:
        # A trial that was under way in the parent never ends in a forked child.
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()
            self._reset()


class _Recent:
    """How many exchanges ended in each of the last seconds, and how many of them failed."""

    def __init__(self) -> None:
        self._seconds: deque[list[int]] = deque(maxlen=WINDOW_SECONDS)

    def add(self, now: float, *, failed: bool) -> None:
        second = int(now)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0, 0])
        self._seconds[-1][1] += 1
        self._seconds[-1][2] += failed

    def is_bad(self, now: float) -> bool:
        recent = [one for one in self._seconds if now - one[0] <= WINDOW_SECONDS]
        ended, failed = (sum(one[n] for one in recent) for n in (1, 2))
        moments = sum(one[2] > 0 for one in recent)
        return ended >= WINDOW_CALLS and 2 * failed >= ended and moments >= WINDOW_MOMENTS


def _failed(exc: RunnerError, took: float) -> bool | None:
    """Whether *exc*, after *took* seconds, speaks against the peer; None where it does not say."""
    if isinstance(exc, OutcomeUnknown):
        return None if exc.final else True
    if isinstance(exc, DeadlineExceeded):
        # Whose time was over soon has heard nothing of anybody.
        return True if not exc.sent and took >= SILENT_SECONDS else None
    if isinstance(exc, BackendUnreachable):
        return True
    return None if isinstance(exc, Refused) else False


def tried(attempt: Callable[[int], T], pause_after: PauseAfter) -> T:
    """What *attempt* returns, the first time that it does.

    Args:
        attempt: makes one try; gets its number, from 0.
        pause_after: gets the error of a try, and its number; says how many seconds later the
            next one begins, or None where there is none.

    Raises:
        RunnerError: of the last try.
    """
    number = 0
    while True:
        try:
            return attempt(number)
        except RunnerError as exc:
            pause = pause_after(exc, number)
            if pause is None:
                raise
        time.sleep(pause)
        number += 1


def while_running(deadline: float) -> PauseAfter:
    """For :func:`tried`: looks again at a call that runs already, as long as there is time."""
    waits = iter(WAITS)

    def pause_after(exc: RunnerError, number: int) -> float | None:
        pause = next(waits, None) if isinstance(exc, IdempotencyInFlight) else None
        return pause if pause and time.monotonic() + pause < deadline else None

    return pause_after


class Retries:
    """Tries again what may be tried again, inside the time of one call.

    At most two more tries, after pauses of up to 0.1 and 0.2 seconds, and for no more than a fifth
    of the calls: retries must not be what keeps a runner down. A breaker sees every try.

    Example::

        retries = Retries()
        retries.run(send, deadline=time.monotonic() + 30, again=lambda: False)
    """

    def __init__(self) -> None:
        self.breaker = Breaker()
        self._saved = SAVINGS

    def run(
        self,
        attempt: Callable[[int], T],
        *,
        deadline: float,
        again: Callable[[], bool],
        on_failure: OnFailure = lambda *failure: None,
    ) -> T:
        """What *attempt* returns, the first time that it does.

        Args:
            attempt: makes one try; gets its number, from 0.
            deadline: a time of ``time.monotonic``; no try begins after it.
            again: whether a call that may have been executed may be sent once more.
            on_failure: hears of every failed try: the error, its number, and the seconds until
                the next one, or None.

        Raises:
            RunnerError: of the last try; or of an earlier one that may have been executed:
                then no later failure says what became of the call.
        """
        self._saved = min(SAVINGS, self._saved + SHARE)
        failures = _Failures(self, again, on_failure, deadline, while_running(deadline))

        def watched(number: int) -> T:
            with self.breaker.watching():
                return attempt(number)

        try:
            return tried(watched, failures.pause_after)
        except RunnerError as exc:
            raise (failures.unknown or exc) from exc.__cause__

    def _pause(self, failures: int, deadline: float) -> float | None:
        """Seconds until a call that failed so often is tried again; None where it is not."""
        if failures > MOST or self._saved < 1 or self.breaker.is_open:
            return None
        # Full jitter: callers that failed together do not come back together.
        pause = random.uniform(0, PAUSE_SECONDS * 2 ** (failures - 1))  # noqa: S311 # no secret hangs on it
        if time.monotonic() + pause >= deadline:
            return None
        self._saved -= 1
        return pause


@dataclass(slots=True)
class _Failures:
    """What one call has met so far, and when it is tried again after that.

    Attributes:
        unknown: the last try that may have been executed.
    """

    retries: Retries
    again: Callable[[], bool]
    on_failure: OnFailure
    deadline: float
    while_running: PauseAfter
    unknown: OutcomeUnknown | None = None
    count: int = 0

    def pause_after(self, exc: RunnerError, number: int) -> float | None:
        """Seconds until the next try; None where there is none."""
        if isinstance(exc, OutcomeUnknown):
            self.unknown = exc
        if self.unknown and isinstance(exc, IdempotencyInFlight):
            # An earlier try still runs: no failure, but the wait for its answer.
            return self.while_running(exc, number)
        pause = self._pause(exc)
        if isinstance(exc, OF_THE_WAY):
            self.on_failure(exc, number, pause)
        return pause

    def _pause(self, exc: RunnerError) -> float | None:
        if not _may_help(exc, self.again):
            return None
        self.count += 1
        return self.retries._pause(self.count, self.deadline)


class Patience:
    """Waits for a peer that answered a moment ago, as one that restarts is waited for.

    Where it takes no connection, or says that it only starts, nothing was executed: then it is
    tried every 0.1 seconds. Nothing else is tried again, and where it has been away for longer
    than the patience lasts, every call hears so at once.

    Example::

        Patience(10.0).run(send, deadline=time.monotonic() + 30)

    Args:
        seconds: after the last answer in which the peer is waited for.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._answered_at = -math.inf

    def run(self, attempt: Callable[[int], T], *, deadline: float, **_: object) -> T:
        """As :meth:`Retries.run`, whose other arguments make no difference here."""
        answer = tried(attempt, lambda exc, _: self._pause(exc, deadline))
        self._answered_at = time.monotonic()
        return answer

    def _pause(self, exc: RunnerError, deadline: float) -> float | None:
        if not isinstance(exc, BackendUnreachable | BackendStarting):
            return None
        until = min(self._answered_at + self._seconds, deadline - AWAY_SECONDS)
        return AWAY_SECONDS if time.monotonic() + AWAY_SECONDS <= until else None


# One try, and its error as it is.
ONCE = Patience(0.0)


def _may_help(exc: RunnerError, again: Callable[[], bool]) -> bool:
    """Whether another try after *exc* may do good, and can do no harm."""
    if isinstance(exc, OutcomeUnknown):
        return not exc.final and again()
    return isinstance(exc, BackendUnreachable) or (isinstance(exc, Refused) and exc.soon)
