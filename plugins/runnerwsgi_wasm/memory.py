"""How much memory a guest had when it was ended.

The library tells nobody that a guest was refused memory, and a guest that was refused mostly
traps with a plain ``unreachable``. So after a trap, and only then, the address space is read
before and after the guest's store is freed: the linear memories that are gone were its own.
"""

from __future__ import annotations

from pathlib import Path

_MAPS = Path("/proc/self/maps")
# wasmtime reserves 4 GiB of addresses for each linear memory; nothing else here does that.
_RESERVED = 2 << 30


def linear_memories() -> dict[int, int]:
    """The linear memories of all guests of this process: bytes in use, by where they end.

    A linear memory is a readable and writable run of mappings that a large inaccessible
    reservation follows. Empty where the system has no such list.
    """
    try:
        lines = _MAPS.read_text("ascii", "replace").splitlines()
    except OSError:
        return {}
    found: dict[int, int] = {}
    run_start, run_end = 0, 0
    for line in lines:
        span, rights = line.split(maxsplit=2)[:2]
        start, end = (int(part, 16) for part in span.split("-"))
        if rights.startswith("rw"):
            run_start = run_start if start == run_end else start
            run_end = end
        elif rights.startswith("---") and start == run_end and end - start >= _RESERVED:
            found[run_end] = run_end - run_start
    return found


def largest_gone(before: dict[int, int], after: dict[int, int]) -> int:
    """The size of the largest memory that was there *before* and is not *after*."""
    return max((size for end, size in before.items() if end not in after), default=0)
