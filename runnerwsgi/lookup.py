"""Names to addresses within a time limit, which the system's resolver does not know."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Literal

from .timed import time_left

MAX_LOOKUPS = 8

Resolve = Callable[[str, int], Sequence[str]]

# Apart, so that names which guests ask for, and nobody answers, keep no runner from being found.
Party = Literal["own", "guests"]
_free: dict[Party, threading.Semaphore] = {}


def _forget_lookups() -> None:
    # Look-ups that ran in the parent never end in a forked child.
    _free["own"] = threading.Semaphore(MAX_LOOKUPS)
    _free["guests"] = threading.Semaphore(MAX_LOOKUPS)


_forget_lookups()
os.register_at_fork(after_in_child=_forget_lookups)


def system_resolve(host: str, port: int) -> Sequence[str]:
    """Every address of *host*, by the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def resolve_within(
    host: str,
    port: int,
    deadline: float,
    resolve: Resolve = system_resolve,
    *,
    party: Party = "own",
) -> Sequence[str]:
    """Every address of *host*, looked up in a thread of its own.

    Args:
        host: a DNS name.
        port: goes to the resolver as it is.
        deadline: a time of ``time.monotonic``.
        resolve: asks the resolver.
        party: for whom; each has its own eight look-ups at a time.

    Raises:
        TimeoutError: the resolver did not answer in time.
        OSError: there is no such name.
    """
    free = _free[party]
    if not free.acquire(timeout=time_left(deadline)):
        raise TimeoutError("too many name look-ups are waiting")
    answers: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(resolve(host, port))
        except Exception as exc:
            answers.put(exc)
        finally:
            free.release()

    try:
        threading.Thread(target=look_up, daemon=True, name="runnerwsgi-resolve").start()
    except RuntimeError as exc:
        free.release()
        raise OSError("no thread is left to resolve the name") from exc
    try:
        answer = answers.get(timeout=time_left(deadline))
    except queue.Empty:
        raise TimeoutError("the name was not resolved in time") from None
    if isinstance(answer, Exception):
        raise OSError(f"the name was not resolved: {answer}") from answer
    return answer
