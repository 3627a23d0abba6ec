"""WASI 0.2 as an extension gets it: clocks, randomness, its log, and nothing of this machine.

The library's own WASI is not used. It connects sockets, and it sleeps inside the engine,
where no deadline reaches: ``time.sleep(3600)`` in a guest would hold a thread for an hour.
What is not in :data:`FUNCTIONS` traps when it is called.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .faults import Exited, GuestFault

if TYPE_CHECKING:
    from .call import Call

STDIN, STDOUT, STDERR = 0, 1, 2

_MOST_RANDOM_BYTES = 1 << 20
_WRITABLE = 1 << 20
_CLOSED = ("err", ("closed", None))
_DONE = ("ok", None)


def _exit(call: Call, status: Any) -> None:
    case, _ = status
    raise Exited(f"the guest called exit {'with a failure ' * (case == 'err')}instead of answering")


def _wall_clock(call: Call) -> dict[str, int]:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return {"seconds": seconds, "nanoseconds": nanoseconds}


def _random_bytes(call: Call, size: int) -> bytes:
    if size > _MOST_RANDOM_BYTES:
        raise GuestFault(f"{size} random bytes at once; at most {_MOST_RANDOM_BYTES}")
    return os.urandom(size)


def _random_u64(call: Call) -> int:
    return int.from_bytes(os.urandom(8))


def _pollable(call: Call, moment: int = 0) -> int:
    return call.pollables.add(moment)


def _in(call: Call, duration: int) -> int:
    return _pollable(call, time.monotonic_ns() + duration)


def _ready(call: Call, handle: int) -> bool:
    return call.pollables.moment(handle) <= time.monotonic_ns()


def _block(call: Call, handle: int) -> None:
    call.sleep_until(call.pollables.moment(handle) / 1e9)


def _poll(call: Call, handles: list[int]) -> list[int]:
    if not handles:
        raise GuestFault("poll of no pollables")
    call.sleep_until(min(map(call.pollables.moment, handles)) / 1e9)
    now = time.monotonic_ns()
    return [i for i, handle in enumerate(handles) if call.pollables.moment(handle) <= now]


def _write(call: Call, stream: int, data: bytes) -> tuple[str, Any]:
    call.log.write(stream, data)
    return _DONE


class Pollables:
    """The moments one guest may wait for, on the monotonic clock in nanoseconds.

    Example::

        handle = pollables.add(time.monotonic_ns() + 1_000_000)
        pollables.moment(handle)
        pollables.drop(handle)
    """

    _MOST = 10_000

    def __init__(self) -> None:
        self._moments: dict[int, int] = {}
        self._last = STDERR

    def add(self, moment: int) -> int:
        """A handle for *moment*; a guest that keeps ten thousand of them is ended."""
        if len(self._moments) >= self._MOST:
            raise GuestFault(f"more than {self._MOST} pollables at once")
        self._last += 1
        self._moments[self._last] = moment
        return self._last

    def moment(self, handle: int) -> int:
        """When the handle is ready."""
        return self._moments[handle]

    def drop(self, handle: int) -> None:
        """Forget a handle; any resource of the guest's may be given here."""
        self._moments.pop(handle, None)


Function = Callable[..., Any]

# By interface without its version, then by function. Each gets the call and plain values.
FUNCTIONS: Mapping[str, Mapping[str, Function]] = {
    "wasi:cli/environment": {
        "get-environment": lambda call: [],
        "get-arguments": lambda call: [],
        "initial-cwd": lambda call: None,
    },
    "wasi:cli/exit": {"exit": _exit, "exit-with-code": _exit},
    "wasi:cli/stdin": {"get-stdin": lambda call: STDIN},
    "wasi:cli/stdout": {"get-stdout": lambda call: STDOUT},
    "wasi:cli/stderr": {"get-stderr": lambda call: STDERR},
    "wasi:cli/terminal-stdin": {"get-terminal-stdin": lambda call: None},
    "wasi:cli/terminal-stdout": {"get-terminal-stdout": lambda call: None},
    "wasi:cli/terminal-stderr": {"get-terminal-stderr": lambda call: None},
    "wasi:clocks/monotonic-clock": {
        "now": lambda call: time.monotonic_ns(),
        "resolution": lambda call: 1,
        "subscribe-instant": _pollable,
        "subscribe-duration": _in,
    },
    "wasi:clocks/wall-clock": {
        "now": _wall_clock,
        "resolution": lambda call: {"seconds": 0, "nanoseconds": 1},
    },
    "wasi:random/random": {"get-random-bytes": _random_bytes, "get-random-u64": _random_u64},
    "wasi:random/insecure": {
        "get-insecure-random-bytes": _random_bytes,
        "get-insecure-random-u64": _random_u64,
    },
    "wasi:random/insecure-seed": {
        "insecure-seed": lambda call: (_random_u64(call), _random_u64(call)),
    },
    "wasi:io/poll": {
        "[method]pollable.ready": _ready,
        "[method]pollable.block": _block,
        "poll": _poll,
    },
    "wasi:io/error": {"[method]error.to-debug-string": lambda call, error: "error"},
    "wasi:io/streams": {
        "[method]input-stream.read": lambda call, stream, size: _CLOSED,
        "[method]input-stream.blocking-read": lambda call, stream, size: _CLOSED,
        "[method]input-stream.skip": lambda call, stream, size: _CLOSED,
        "[method]input-stream.blocking-skip": lambda call, stream, size: _CLOSED,
        "[method]input-stream.subscribe": lambda call, stream: _pollable(call),
        "[method]output-stream.check-write": lambda call, stream: ("ok", _WRITABLE),
        "[method]output-stream.write": _write,
        "[method]output-stream.blocking-write-and-flush": _write,
        "[method]output-stream.flush": lambda call, stream: _DONE,
        "[method]output-stream.blocking-flush": lambda call, stream: _DONE,
        "[method]output-stream.subscribe": lambda call, stream: _pollable(call),
    },
    "wasi:filesystem/preopens": {"get-directories": lambda call: []},
    "wasi:filesystem/types": {"filesystem-error-code": lambda call, error: None},
}
