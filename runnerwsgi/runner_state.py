"""RunnerState: what was found where the runner should be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .errors import (
    BackendUnreachable,
    DeadlineExceeded,
    OutcomeUnknown,
    Refused,
    RunnerError,
)
from .upstream import MARKER

if TYPE_CHECKING:
    from .upstream import Answer

Kind = Literal[
    "ok",
    "degraded",
    "unavailable",
    "starting",
    "no-name",
    "no-route",
    "refused",
    "tls",
    "silent",
    "no-runner",
    "wrong-token",
]


@dataclass(frozen=True, slots=True)
class RunnerState:
    """What was found where the runner should be.

    Attributes:
        kind: ``ok``, ``degraded``, ``unavailable``, as the runner says of itself; ``starting``,
            it is not ready, or its door is open and nobody is behind; ``no-name``, the name
            leads nowhere; ``no-route``, what stands before the runner knows no way to it;
            ``refused``, nobody listens; ``tls``, no trust; ``silent``, no answer
            in time; ``no-runner``, something else answers; ``wrong-token``, a runner that does
            not take our token.
        detail: one line, for a log or an administrator.
        checks: the runner's own checks, by name.
        about: what it says of itself: version, image, uptime …
    """

    kind: Kind
    detail: str = ""
    checks: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


_UNREACHABLE: Mapping[str, Kind] = {
    "name": "no-name",
    "route": "no-route",
    "refused": "refused",
    "tls": "tls",
    "lost": "starting",
}


def kind_of(exc: BackendUnreachable) -> Kind:
    """How the runner is that could not be reached, in the words of :class:`RunnerState`."""
    return _UNREACHABLE.get(exc.reason, "refused")


def state_after(exc: RunnerError) -> RunnerState:
    """What it says of a runner that a look at it ended in *exc*."""
    if isinstance(exc, BackendUnreachable):
        return RunnerState(kind_of(exc), str(exc))
    if isinstance(exc, Refused | OutcomeUnknown):
        return RunnerState("starting", str(exc))
    if isinstance(exc, DeadlineExceeded):
        return RunnerState("silent", str(exc))
    return RunnerState("no-runner", str(exc))


def state_of(answer: Answer, *, has_token: bool) -> RunnerState:
    """What a runner says of itself at ``/healthz``, or who else answers there (protocol §1)."""
    found = _json_object(answer.body)
    if isinstance(found.get("cache_writable"), bool):
        return _alga_state(found)
    status = found.get("status")
    if answer.status == 401:
        return RunnerState("wrong-token", "the runner answered 401")
    if answer.status not in (200, 503) or status not in ("ok", "degraded", "unavailable"):
        if answer.status == 503 and MARKER in answer.headers:
            return RunnerState("starting", "the runner is not ready")
        return RunnerState("no-runner", f"something answered {answer.status}, and not as a runner")
    checks, about = found.get("checks"), found.get("runner")
    if MARKER in answer.headers and not isinstance(checks, dict):
        # Ours keeps the details for those who have its token; without one, everybody has it.
        ours = (
            "does not take our service token" if has_token else "wants a service token, none is set"
        )
        return RunnerState("wrong-token", f"the runner {ours}")
    return RunnerState(
        status,
        checks={name: str(text) for name, text in checks.items()}
        if isinstance(checks, dict)
        else {},
        about=about if isinstance(about, dict) else {},
    )


def _alga_state(found: Mapping[str, Any]) -> RunnerState:
    """The health of AlgaPSA's runner, which has words of its own for it."""
    writable, store = found["cache_writable"], str(found.get("bundle_store", "ok"))
    kind: Kind = "unavailable" if not writable else "ok" if store == "ok" else "degraded"
    return RunnerState(
        kind, checks={"cache": "writable" if writable else "not writable", "store": store}
    )


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
