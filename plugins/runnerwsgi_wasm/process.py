"""What one process keeps between calls; made when it is first needed, never shared by a fork."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .cache import CodeFolder, Guests
from .compile import Compiler
from .engine import Engine
from .workers import Workers


@dataclass(frozen=True, slots=True)
class Options:
    """What the engine may use, in plain values; the table ``SETTINGS`` explains them.

    Example::

        Options(cache_dir=Path("/var/lib/app/wasm"))
    """

    cache_dir: Path
    cache_mb: int = 4096
    loaded: int = 64
    compile_timeout_ms: int = 60_000
    compile_memory_mb: int = 4096
    log_bytes: int = 65_536
    log_lines: int = 1000
    host_threads: int = 32
    max_response_bytes: int = 4_194_304


class Process:
    """The engines, the loaded guests and the host-call threads of one process.

    Example::

        process = Process(options)
        process.guests.get(...)
        process.close()
    """

    def __init__(self, options: Options) -> None:
        self.pid = os.getpid()
        self.workers = Workers(options.host_threads)
        self.guests = Guests(
            CodeFolder(options.cache_dir, options.cache_mb << 20),
            Compiler(options.compile_timeout_ms / 1000, options.compile_memory_mb),
            self.engine,
            options.loaded,
        )
        self._engines: dict[bool, Engine] = {}
        self._lock = threading.Lock()

    def engine(self, fuel: bool) -> Engine:
        """The engine for calls with or without a fuel limit."""
        with self._lock:
            if fuel not in self._engines:
                self._engines[fuel] = Engine(fuel)
            return self._engines[fuel]

    def close(self) -> None:
        """End the threads. Calls that are still running end by their own deadline."""
        self.workers.close()
        for engine in self._engines.values():
            engine.close()


# To free a parent's engine in its forked child could wait for a lock that a thread of the
# parent held at the fork: it is kept, untouched.
_left_behind: list[Process] = []


class PerProcess:
    """The :class:`Process` of whatever process asks.

    Example::

        processes = PerProcess(lambda: Process(options))
        processes.current().guests
    """

    def __init__(self, make: Callable[[], Process]) -> None:
        self._make = make
        self._made: Process | None = None
        self._lock = threading.Lock()
        _all.add(self)

    def renew_lock(self) -> None:
        """In a forked child: a lock that a thread of the parent holds is never released there."""
        self._lock = threading.Lock()

    def known(self) -> Process | None:
        """This process's own, if it was made already."""
        made = self._made
        return made if made and made.pid == os.getpid() else None

    def current(self) -> Process:
        """This process's own, made now if need be."""
        if found := self.known():
            return found
        with self._lock:
            if self.known() is None:
                if self._made is not None:
                    _left_behind.append(self._made)
                self._made = self._make()
            assert self._made is not None
            return self._made

    def close(self) -> None:
        """Close this process's own; a later call makes a new one."""
        with self._lock:
            if found := self.known():
                self._made = None
                found.close()


# A backend may be replaced again and again; what is registered for forks stays for ever.
_all: weakref.WeakSet[PerProcess] = weakref.WeakSet()


def _renew_locks() -> None:
    for processes in tuple(_all):
        processes.renew_lock()


os.register_at_fork(after_in_child=_renew_locks)
