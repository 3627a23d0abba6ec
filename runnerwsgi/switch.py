"""Switch: one process's end of a change of backend, made while it serves."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace

from .database import Database
from .errors import ConfigurationError, RunnerError, StorageError
from .gateway import Gateway
from .logs import emit
from .settings import Settings
from .switchboard import Process, State, Switchboard, birth

log = logging.getLogger(__name__)

LOOK_S = 1.0
# After a failure the database, or a backend that was refused, is left alone for longer.
RETRY_S = 5.0
REFUSED_S = 30.0
# Calls after a pause wait for the look, or a backend that was left long ago would answer them.
PAUSE_S = 3.0
WAIT_S = 2.0
FIXED = (
    "its RunnerMiddleware was given a Gateway, and does not know how another one is made: build it "
    "with RunnerMiddleware.from_env."
)

Build = Callable[[str], Gateway]
Serve = Callable[[Gateway], None]


class Switch:
    """Looks at most once a second what backend is wished, and brings it into use.

    The look, building and probing take place in a thread of their own; a request waits for it
    only after a pause, and not for long. A backend that cannot be built or does not answer
    changes nothing.

    Example::

        switch = Switch(switchboard, "wasm", gateway, serve, build)
        switch.tick()        # at each request of ours

    Args:
        switchboard: where wishes and answers are.
        configured: what ``RUNNER_BACKEND`` says.
        gateway: the one in use.
        serve: brings another one into use, and closes the one before when nobody needs it.
        build: makes the gateway of a backend's name; None where nobody knows how.
        number: of the wish that *gateway* already is the answer to.
    """

    def __init__(
        self,
        switchboard: Switchboard,
        configured: str,
        gateway: Gateway,
        serve: Serve,
        build: Build | None = None,
        number: int = 0,
    ) -> None:
        self._switchboard = switchboard
        self._configured = configured
        self._backend = gateway.backend_name
        self._serve = serve
        self._build = build
        self._number = number
        self._state: State = "settled" if build else "fixed"
        self._error = "" if build else FIXED
        self._closed = False
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        """What is each process's own."""
        self._process_id = uuid.uuid4().hex
        self._pid = os.getpid()
        self._born = birth(self._pid)
        self._told: Process | None = None
        self._is_failing = False
        self._next_look = 0.0
        self._next_try = 0.0
        self._looker: threading.Thread | None = None
        self._awaited: threading.Event | None = None
        self._wait_until = 0.0
        self._lock = threading.Lock()

    def tick(self) -> None:
        """Look, if the last look is long enough ago; called for each request of ours."""
        now, due = time.monotonic(), self._next_look
        if now >= due:
            self._start(now, after_pause=now > due + PAUSE_S)
        if (looked := self._awaited) is not None:
            looked.wait(max(0.0, self._wait_until - now))

    def _start(self, now: float, *, after_pause: bool) -> None:
        with self._lock:
            if self._closed or (self._looker is not None and self._looker.is_alive()):
                return
            looked = threading.Event()
            looker = threading.Thread(
                target=self._look, args=(looked,), name="runnerwsgi-switch", daemon=True
            )
            if after_pause and self._build is not None:
                self._awaited, self._wait_until = looked, now + WAIT_S
            self._next_look = now + LOOK_S
            try:
                looker.start()
            except RuntimeError:
                self._awaited = None  # there is no thread to be had, as at the end of a process
            else:
                self._looker = looker

    def close(self) -> None:
        """Look no more, and be no longer counted."""
        with self._lock:
            self._closed = True
            looker = self._looker
        if looker is not None:
            looker.join()
        if self._told is not None:
            self._told = None
            self._telling(lambda: self._switchboard.leave(self._process_id))

    def _look(self, looked: threading.Event) -> None:
        try:
            self._telling(self._follow)
        finally:
            looked.set()
            self._awaited = None
        if self._build is None and self._told is not None:
            self._next_look = float("inf")

    def _telling(self, act: Callable[[], None]) -> None:
        """Do something with the database; say once when it fails, and go on without it."""
        try:
            act()
            self._is_failing = False
        except StorageError as exc:
            self._next_look = time.monotonic() + RETRY_S
            if not self._is_failing:
                log.warning("Nobody can switch the backend of this process now: %s", exc)
            self._is_failing = True

    def _follow(self) -> None:
        number, wished = self._switchboard.look(self._configured)
        backend = wished or self._configured
        if self._build is not None and backend != self._backend:
            if number != self._number or time.monotonic() >= self._next_try:
                self._change(self._build, number, backend)
        else:
            self._number = number
            if self._build is not None:
                self._state, self._error = "settled", ""
        self._report()

    def _change(self, build: Build, number: int, backend: str) -> None:
        self._number, self._state, self._error = number, "changing", ""
        self._report()
        before = self._backend
        try:
            bring_in(build, self._serve, backend)
        except Exception as exc:
            self._next_try = time.monotonic() + REFUSED_S
            self._state, self._error = "refused", reason(exc)
            reject(backend, before, self._error)
        else:
            self._state, self._backend = "settled", backend
            emit(log, logging.INFO, "backend_switched", backend=backend, before=before)

    def _report(self) -> None:
        """Write down how this process is, where that is not what was written last."""
        process = Process(
            process_id=self._process_id,
            pid=self._pid,
            born=self._born,
            configured=self._configured,
            backend=self._backend,
            number=self._number,
            state=self._state,
            error=self._error,
        )
        if self._told is None:
            self._switchboard.processes()  # removes what the dead have left
        if process != self._told:
            self._switchboard.report(process)
            self._told = process


def bring_in(build: Build, serve: Serve, backend: str) -> None:
    """Build *backend*, make sure that it answers, and serve it; or close it again.

    Raises:
        RunnerError: one of the three failed; nothing has changed.
    """
    gateway = build(backend)
    try:
        gateway.probe()
        serve(gateway)
    except BaseException:
        gateway.close()
        raise


def begin(env: Mapping[str, str]) -> tuple[Settings, Gateway, int]:
    """What an application begins with: its settings, its gateway, the number of its wish.

    A switch that was made lasts. One that cannot be followed does not keep an application
    from starting with what its environment names.

    Raises:
        ConfigurationError: with every fault of the environment, told together.
    """
    try:
        settings = Settings.from_env(env)
    except ConfigurationError:
        Gateway.configure(env)  # tells the plugins' faults, too
        raise
    number, wished = _wish(settings)
    if wished is not None:
        try:
            gateway = load(settings, env, wished)
        except ConfigurationError as exc:
            reject(wished, settings.backend, reason(exc))
        else:
            log.warning(
                "RUNNER_BACKEND says %s, and this application was switched to %s: "
                "`runnerwsgi switch --reset` ends that.",
                settings.backend,
                wished,
            )
            return settings, gateway, number
    return settings, Gateway.load(settings, env), number


def _wish(settings: Settings) -> tuple[int, str | None]:
    database = Database(settings.database_url)
    try:
        # A program that only imports the application makes no database.
        return Switchboard(database).look(settings.backend) if database.exists() else (0, None)
    except StorageError as exc:
        log.warning("Started without looking for a switch of the backend: %s", exc)
        return 0, None
    finally:
        database.close()


def load(settings: Settings, env: Mapping[str, str], backend: str) -> Gateway:
    """The gateway of *settings* and *env*, but with *backend*.

    Raises:
        ConfigurationError: with every plugin that cannot be loaded.
    """
    return Gateway.load(replace(settings, backend=backend), {**env, "RUNNER_BACKEND": backend})


def reject(backend: str, kept: str, error: str) -> None:
    """Log that a backend was not brought into use."""
    emit(log, logging.ERROR, "config_rejected", backend=backend, kept=kept, error=error)


def reason(exc: Exception) -> str:
    """*exc* in one line."""
    text = " ".join(str(exc).split())
    return text if isinstance(exc, RunnerError) else f"{type(exc).__name__}: {text}"


_all: weakref.WeakSet[Switch] = weakref.WeakSet()


def _begin_in_child() -> None:
    for switch in tuple(_all):
        switch._begin()


os.register_at_fork(after_in_child=_begin_in_child)
