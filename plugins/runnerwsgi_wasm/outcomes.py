"""How a call ended, from what the engine, the host and the guest say about it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wasmtime import WasmtimeError

from .faults import GuestFault, NotRunnable, OutOfTime

if TYPE_CHECKING:
    from runnerwsgi.protocol import Outcome

    from .call import Call

_MOST_TEXT = 2000

_FAULTS: tuple[tuple[type[BaseException], Outcome], ...] = (
    (GuestFault, "guest_trap"),
    (OutOfTime, "timeout"),
    (NotRunnable, "refused"),
    (WasmtimeError, "guest_trap"),
)

# What wasmtime says when it ends a guest: its Python API has no trap codes for components.
_TRAPS: tuple[tuple[str, Outcome, str], ...] = (
    ("wasm trap: interrupt", "timeout", "the epoch deadline was reached"),
    ("all fuel consumed", "out_of_fuel", "the fuel limit was reached"),
    ("exceeds memory limits", "refused", "it needs more memory to start than it may use"),
    ("memory count too high", "refused", "it has more than two memories"),
    ("table count too high", "refused", "it has more tables than it may"),
    ("instance count too high", "refused", "it has more core instances than it may"),
    ("fuel allocated for hostcalls", "guest_trap", "it moves more at once than the engine carries"),
)

# How language runtimes say that they found no more memory: Rust and C, JavaScript, Python, Go.
_NO_MEMORY = re.compile(
    r"memory allocation of \d+ bytes failed|out of memory|\bMemoryError\b|cannot allocate memory",
    re.IGNORECASE | re.MULTILINE,
)


def outcome_of(failure: BaseException, call: Call) -> tuple[Outcome, str]:
    """The outcome of a call that ended with *failure*, and a text for the log.

    What a host function ended the guest with explains more than the trap that followed.
    """
    cause = call.failure or failure
    if isinstance(cause, WasmtimeError):
        outcome, text = _of_trap(str(cause))
        if outcome == "guest_trap" and _was_out_of_memory(call):
            limit = call.request.limits.memory_mb
            return "out_of_memory", f"its memory limit is {limit} MiB: {text}"
        return outcome, text
    for kind, outcome in _FAULTS:
        if isinstance(cause, kind):
            return outcome, str(cause)[:_MOST_TEXT]
    return "internal", f"{type(cause).__name__}: {cause}"[:_MOST_TEXT]


def _of_trap(text: str) -> tuple[Outcome, str]:
    for sign, outcome, meaning in _TRAPS:
        if sign in text:
            return outcome, f"{meaning}: {text}"[:_MOST_TEXT]
    return "guest_trap", text[:_MOST_TEXT]


def _was_out_of_memory(call: Call) -> bool:
    """Whether a guest that trapped did so for want of memory.

    Nobody tells. A guest that used half of its limit or more, or said so, is taken to have
    asked for too much: allocators double what they have.
    """
    if call.memory_at_end >= call.request.limits.memory_mb << 19:
        return True
    lines = call.log.close()
    return any(_NO_MEMORY.search(line.message) for line in lines if line.level != "info")
