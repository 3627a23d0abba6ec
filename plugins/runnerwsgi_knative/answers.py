"""Who gave an answer without a runner's mark, and whether the runner was ever asked.

Knative's parts and its ingress speak plain text. A text is believed only when it says that
nothing was executed; whatever is unknown may have been.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runnerwsgi.errors import (
    BackendStarting,
    BackendUnreachable,
    BadRunnerResponse,
    BodyTooLarge,
    OutcomeUnknown,
    Overloaded,
    RunnerError,
)

if TYPE_CHECKING:
    from runnerwsgi.upstream import Answer

# As much of a text as decides, or as a log should have.
LONGEST_TEXT = 512

Build = Callable[[str], RunnerError]


def unreachable(text: str) -> RunnerError:
    """No way to the runner: nothing was executed."""
    return BackendUnreachable(text, reason="route")


def unknown(text: str) -> RunnerError:
    """It may have been executed, and may still be."""
    return OutcomeUnknown(text)


def overloaded(text: str) -> RunnerError:
    """A queue is full: nothing was executed."""
    return Overloaded(text, retry_after=2, soon=True)


def starting(text: str) -> RunnerError:
    """No pod takes it yet: nothing was executed."""
    return BackendStarting(text, retry_after=2, soon=True)


def wrong(text: str) -> RunnerError:
    """Something is set up wrongly: no try will ever succeed."""
    return BadRunnerResponse(text)


def too_large(text: str) -> RunnerError:
    """A body that somebody on the way refuses: the caller's, in an envelope."""
    return BodyTooLarge(text)


@dataclass(frozen=True, slots=True)
class Row:
    """One answer: its status, what its text begins with, who gives it, and what it means.

    Attributes:
        status: of the answer.
        text: the whole text matches it; without one, every text does.
        who: and why, for the log.
        build: the error that it is.
        from_ingress: only where no upstream of the ingress answered.
    """

    status: int
    text: re.Pattern[str] | None
    who: str
    build: Build
    from_ingress: bool = False


def _text(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)


_EMPTY = _text(r"\s*")
_PROBE_ADVICE = "a header made it a probe, and it was not executed"
# Envoy's words where it had no connection. "retried and the latest reset reason" says nothing of
# the tries before.
_NOT_CONNECTED = (
    r"upstream connect error or disconnect/reset before headers\. reset reason: "
    r"(?:remote connection failure|connection failure|connection timeout|overflow)\b"
    r"(?:, transport failure reason: .*)?\s*"
)

# The first row that fits counts.
ROWS: tuple[Row, ...] = (
    Row(200, _EMPTY, f"the activator answered a kubelet's probe: {_PROBE_ADVICE}", wrong),
    Row(200, _text(r"(?:queue|activator)\s*"), f"a probe was answered: {_PROBE_ADVICE}", wrong),
    Row(
        200,
        _text(r".*(?P<said>request timeout)\s*"),
        "timeoutSeconds was over in the middle of the answer",
        unknown,
    ),
    Row(301, None, "a redirect, as of http to https: correct RUNNER_BASE_URL", wrong),
    Row(302, None, "a redirect: correct RUNNER_BASE_URL", wrong),
    Row(307, None, "a redirect: correct RUNNER_BASE_URL", wrong),
    Row(308, None, "a redirect, as of http to https: correct RUNNER_BASE_URL", wrong),
    Row(
        400,
        _text(r"unexpected probe header value: .*"),
        f"Knative took it for a probe: {_PROBE_ADVICE}",
        wrong,
    ),
    Row(
        400,
        _text(r"a probe request must contain a non-empty .*"),
        f"Knative took it for a probe: {_PROBE_ADVICE}",
        wrong,
    ),
    Row(
        404,
        _EMPTY,
        "the ingress knows no such host, or not yet: check RUNNER_BASE_URL, RUNNER_KNATIVE_HOST "
        "and the service's route",
        unreachable,
        from_ingress=True,
    ),
    Row(
        404,
        _text(r"Error getting active endpoint: .*"),
        "the activator knows no such revision: the route is being changed",
        unreachable,
    ),
    Row(413, None, "something before the runner takes no body of this size", too_large),
    Row(429, None, "something before the runner limits the rate", overloaded),
    # A caller's own headers travel in the body: these are the gateway's.
    Row(431, None, "the headers are too large for what stands before the runner", wrong),
    Row(403, None, "something before the runner refuses the gateway", wrong),
    # Without a word: the activator says so of what it never passed on; an ingress whose filter
    # failed over the answer, and a runner without a mark, of what was executed.
    Row(500, None, "something before the runner failed", unknown),
    Row(
        502,
        _text(r"(?:dial tcp|timed out dialing) .*"),
        "a pod of the service does not take connections",
        starting,
    ),
    Row(502, None, "a pod was lost in the middle of the call", unknown),
    Row(503, _text(r"pending request queue full\s*"), "Knative's queue is full", overloaded),
    Row(503, _text(r"no healthy upstream\s*"), "the ingress knows no pod", starting),
    Row(503, _text(_NOT_CONNECTED), "the ingress cannot connect to a pod", starting),
    Row(503, None, "a pod or the ingress was lost in the middle of the call", unknown),
    Row(
        504,
        _text(r"(?:activator )?request timeout\s*"),
        "timeoutSeconds of the service was over: the call was queued, or still runs",
        unknown,
    ),
    Row(504, None, "a time limit before the runner was over", unknown),
)


def _by_status() -> Mapping[int, tuple[Row, ...]]:
    return {row.status: tuple(one for one in ROWS if one.status == row.status) for row in ROWS}


_ROWS = _by_status()


def read(answer: Answer) -> RunnerError | None:
    """What *answer*, which has no mark of a runner, means.

    None where it may be a runner's nevertheless: AlgaPSA's has no mark.
    """
    # Only at the end of a cut answer does a text follow what may be long.
    shown = answer.body[-LONGEST_TEXT:] if answer.status == 200 else answer.body[: LONGEST_TEXT + 1]
    text = shown.decode("utf-8", "replace")
    for row in _ROWS.get(answer.status, ()):
        if _fits(row, answer, text):
            return row.build(f"{row.who} ({answer.status}{_quoted(_said(row, text))})")
    if answer.status == 200 and not answer.body.lstrip().startswith(b"{"):
        return wrong(f"something else than a runner answers there (200{_quoted(text)})")
    return None


def _fits(row: Row, answer: Answer, text: str) -> bool:
    if row.from_ingress and "x-envoy-upstream-service-time" in answer.headers:
        return False
    return row.text is None or row.text.fullmatch(text) is not None


def _said(row: Row, text: str) -> str:
    """What the platform said; before it may stand what an extension answered to somebody."""
    found = row.text.fullmatch(text) if row.text else None
    return (found and found.groupdict().get("said")) or text


def _quoted(text: str) -> str:
    """The text, for the log; it may hold addresses of pods, and never reaches a client."""
    shown = " ".join(text.split())[:120]
    return f": {shown!a}" if shown else ", no text"
