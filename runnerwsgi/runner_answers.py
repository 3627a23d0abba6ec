"""What a runner means by an answer, and what it says of itself with it (protocol §2)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import wire
from .errors import (
    BackendStarting,
    BadRunnerResponse,
    BodyTooLarge,
    BundleUnavailable,
    IdempotencyInFlight,
    IdempotencyMismatch,
    OutcomeUnknown,
    Overloaded,
    Refused,
    RunnerError,
    StorageError,
    TooManyRequests,
)
from .upstream import MARKER

if TYPE_CHECKING:
    from .upstream import Answer

_REFUSALS: Mapping[str, type[Refused]] = {
    "idempotency-in-flight": IdempotencyInFlight,
    "too-many-requests": TooManyRequests,
    "overloaded": Overloaded,
    "backend-starting": BackendStarting,
}


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """What the last answer of the runner to a call said of the runner.

    Attributes:
        at: when, in seconds since the epoch.
        status: of the answer; 401 where the runner does not take our token.
        runner: its name and version; None where it gave none, as AlgaPSA's.
        revision: which revision of a service answered.
        server: who handed the answer on.
        keeps_keys: whether every process of the runner knows which idempotency keys were used, so
            that a call with a key may be sent again.
    """

    at: float
    status: int
    runner: str | None
    revision: str | None
    server: str | None
    keeps_keys: bool


def check(answer: Answer) -> None:
    """Let an answer through whose body is the runner's: an envelope, or what was asked for.

    Raises:
        RunnerError: it is another one (protocol §2, transport answers).
    """
    if answer.status == 200:
        return
    if answer.status == 413:
        raise BodyTooLarge("the runner refuses a body of this size")
    if answer.status == 401:
        raise BadRunnerResponse("the runner does not take our service token")
    if MARKER in answer.headers:
        _check_ours(answer)
    raise BadRunnerResponse(f"the runner answered {answer.status} to the call")


def _check_ours(answer: Answer) -> None:
    """Raise what a runner of ours means by an answer that is no envelope."""
    code = wire.problem_code(answer.body)
    if code == BundleUnavailable.code:
        raise BundleUnavailable("the runner cannot get the bundle, or not run it")
    if code == IdempotencyMismatch.code:
        raise IdempotencyMismatch("the key was used for another request")
    if code == OutcomeUnknown.code:
        text = "the runner that began with this idempotency key has not told how it ended"
        raise OutcomeUnknown(text, final=True)
    if answer.status in (409, 429, 503):
        raise _refusal(code, answer)


def _refusal(code: str, answer: Answer) -> RunnerError:
    if code == StorageError.code:
        return StorageError("the runner cannot use its disk or its store; its log says what failed")
    kind = _REFUSALS.get(code, Overloaded)
    given = answer.headers.get("retry-after", "")
    after = int(given) if given.isascii() and given.isdigit() and len(given) < 5 else 1
    # Another pod of the runner may have begun already.
    soon = kind is BackendStarting
    return kind("the runner said so", retry_after=after, soon=soon)


def last_answer(answer: Answer) -> LastAnswer:
    """What *answer* says of the runner that gave it."""
    return LastAnswer(
        at=time.time(),
        status=answer.status,
        runner=answer.headers.get(MARKER),
        revision=answer.headers.get("x-runner-revision"),
        server=answer.headers.get("server"),
        keeps_keys=answer.headers.get("x-runner-idempotency") == "shared",
    )


_DURATION = re.compile(r"\s*(call|up);dur=([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*")


def waited(answer: Answer, took_ms: float) -> Mapping[str, float]:
    """How long a call was on its way, by what the runner says of its own time (Server-Timing).

    A runner that has not been up for as long as its caller waited was started for the call.
    """
    parts = answer.headers.get("server-timing", "").split(",")
    told = {found[1]: float(found[2]) for found in map(_DURATION.fullmatch, parts) if found}
    if len(told) < 2 or told["call"] > took_ms:
        return {}
    return {"cold" if told["up"] < took_ms else "way": took_ms - told["call"]}
