"""What belongs to one running call: its request, its deadline, its log, its host functions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runnerwsgi.errors import CapabilityError

from .faults import OutOfTime
from .wasi import Pollables
from .workers import StillRunning

if TYPE_CHECKING:
    from runnerwsgi.protocol import ExecuteRequest, Level

    from .logbook import Logbook
    from .workers import Workers


class Call:
    """One call while it runs; host functions find it by the store they are called from.

    Attributes:
        request: what the guest was asked.
        deadline: when its time is up, on the monotonic clock.
        log: where its lines go.
        failure: what a host function ended the guest with, if one did.
        in_host_function: whether its guest waits for a host function right now.
        host_seconds: how long the guest waited for host functions.
        memory_at_end: bytes of linear memory it had when it trapped; 0 otherwise.
        timings: milliseconds by phase: ``load``, ``instantiate``, ``run``, ``host``.
        pollables: the moments that the guest may wait for (WASI).
    """

    def __init__(self, request: ExecuteRequest, log: Logbook, workers: Workers) -> None:
        self.request = request
        self.deadline = time.monotonic() + request.limits.timeout_ms / 1000
        self.log = log
        self.failure: BaseException | None = None
        self.in_host_function = False
        self.host_seconds = 0.0
        self.memory_at_end = 0
        self.timings: dict[str, float] = {}
        self.pollables = Pollables()
        self._workers = workers

    @property
    def seconds_left(self) -> float:
        """What is left of the call's time; never negative."""
        return max(0.0, self.deadline - time.monotonic())

    def add_log(self, level: Level, message: str) -> None:
        """Keep one line of the guest's."""
        self.log.add(level, message)

    def ask(self, interface: str, function: str, args: Sequence[Any]) -> Any:
        """Ask the capabilities of the request, within what is left of the time.

        Raises:
            CapabilityError: the function's error case.
            OutOfTime: the answer did not come in time; whoever works on it goes on alone.
        """
        capabilities = self.request.capabilities
        if capabilities is None:
            raise CapabilityError("denied", f"{interface}.{function}: nothing is granted here")
        left = self.seconds_left
        try:
            return self._workers.call(
                self.request.context.extension_id,
                lambda: capabilities.call(interface, function, args, left),
                left,
            )
        except StillRunning as exc:
            raise OutOfTime(f"in {interface}.{function}") from exc

    def sleep_until(self, moment: float) -> None:
        """Wait for *moment* on the monotonic clock.

        Raises:
            OutOfTime: the call's own time ends before.
        """
        time.sleep(max(0.0, min(moment, self.deadline) - time.monotonic()))
        if moment > self.deadline:
            raise OutOfTime("while the guest slept")
