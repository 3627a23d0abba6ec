"""The three layers of health, told apart: control plane, route and runner; and their sum."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from runnerwsgi.client import LastAnswer, RunnerState

    from .control import Sight
    from .state import State, Word

Status = Literal["ok", "degraded", "unavailable"]

# An answer to a call says for so long that calls are served.
LATELY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer tells.

    Attributes:
        word: how it is.
        means: what that is for the whole; None where nobody can tell.
        detail: one line for an administrator.
    """

    word: str
    means: Status | None = None
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.word}: {self.detail}" if self.detail else self.word

    def doubted(self) -> Layer:
        """The same, where what is nearer to the calls says that they are served."""
        return replace(self, means="degraded") if self.means == "unavailable" else self


NOT_YET = Layer("unknown", detail="no answer yet")

# What Kubernetes says of a route is not believed against an answer that came over it.
_ABOUT_THE_ROUTE = ("down", "absent", "not-installed")
_WORST_FIRST: tuple[Status, ...] = ("unavailable", "degraded", "ok")


def total(control: Layer, route: Layer, runner: Layer) -> Status:
    """How calls are served, by all that is known.

    What may not be asked, or does not answer, is unknown and makes nothing unavailable. Of two
    layers that contradict each other the one nearer to the calls is right, and that they do is
    something amiss.
    """
    if runner.means in ("ok", "degraded"):
        control, route = control.doubted(), route.doubted()
    elif route.means == "ok" and control.word in _ABOUT_THE_ROUTE:
        control = control.doubted()
    layers = (control, route, runner)
    known = {layer.means for layer in layers}
    for status in _WORST_FIRST:
        if status in known:
            return status
    return "degraded" if any(layer.word == "unknown" for layer in layers) else "ok"


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found of a service, at about one moment.

    Attributes:
        control: what Kubernetes knows of it.
        route: the way there.
        runner: what answers there.
        sight: the objects that Kubernetes has; None where it is not asked.
        checks: the runner's own, by name.
    """

    control: Layer
    route: Layer
    runner: Layer
    sight: Sight | None = None
    checks: Mapping[str, str] = field(default_factory=dict)

    @property
    def layers(self) -> Mapping[str, Layer]:
        """All three, by name."""
        return {"control": self.control, "route": self.route, "runner": self.runner}

    @property
    def status(self) -> Status:
        """How calls are served."""
        return total(self.control, self.route, self.runner)

    def is_like(self, other: Seen) -> bool:
        """Whether nothing but the time is another."""
        return _timeless(self) == _timeless(other)


def _timeless(seen: Seen) -> Seen:
    return replace(seen, sight=seen.sight and replace(seen.sight, at=0.0))


# Scaled to zero is healthy: else nobody would ever call it, and it would stay there.
_STATES: Mapping[Word, Status | None] = {
    "active": "ok",
    "idle": "ok",
    "activating": "ok",
    "degraded": "degraded",
    "failing": "unavailable",
    "down": "unavailable",
    "absent": "unavailable",
    "not-installed": "unavailable",
    "unknown": None,
}
_RECONCILING: Mapping[bool | None, Status | None] = {
    True: "degraded",
    False: "unavailable",
    None: None,
}


def of_state(state: State) -> Layer:
    """The control plane's, where it was asked."""
    is_changing = state.word == "reconciling"
    means = _RECONCILING[state.serves] if is_changing else _STATES[state.word]
    return Layer(state.word, means, state.detail)


_RUNNER: Mapping[str, Status] = {"ok": "ok", "degraded": "degraded", "starting": "degraded"}


def of_runner(state: RunnerState, base: str) -> Layer:
    """The runner's, where it was asked."""
    return Layer(state.kind, _RUNNER.get(state.kind, "unavailable"), state.detail or base)


def of_answer(last: LastAnswer | None) -> Layer:
    """The runner's, by what it answered to calls: it is not asked, as that would wake it."""
    if last is None:
        return Layer("not asked", detail="it has answered no call, and asking would wake it")
    age = max(0.0, time.time() - last.at)
    is_news = age < LATELY_SECONDS
    if last.status == 401:
        # The token may have been set right since: nobody would know if no call came any more.
        means: Status = "unavailable" if is_news else "degraded"
        return Layer("wrong-token", means, f"it refused our service token {age:.0f} s ago")
    revision = f", revision {last.revision}" if last.revision else ""
    text = f"{age:.0f} s ago, by {last.runner or 'a runner without a mark'}{revision}"
    return Layer("answered", "ok" if is_news and last.status == 200 else None, text)
