"""What a Knative Service and its revisions, as the Kubernetes API has them, say of its calls.

Pure: objects of the API in, one word out. ``Ready`` alone does not decide. A service that is not
ready may serve with its last good revision, and one that is ready may not be able to start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .observed import Condition, Object, Target, condition, is_behind, targets

Word = Literal[
    "unknown",
    "not-installed",
    "absent",
    "reconciling",
    "degraded",
    "active",
    "idle",
    "activating",
    "failing",
    "down",
]


@dataclass(frozen=True, slots=True)
class State:
    """How the service is, in one word.

    Attributes:
        word: ``active``, pods run; ``idle``, scaled to zero, the next call starts one;
            ``activating``, one is being started; ``degraded``, serves, but not with what was
            deployed last, or not from every revision; ``reconciling``, a change is under way;
            ``failing``, no pod can be started; ``down``, no way leads there; ``absent``, there is
            no such service; ``not-installed``, the cluster has no Knative; ``unknown``.
        serves: whether a call is served, if only after a cold start; None where nobody can tell.
        detail: one line for an administrator.
    """

    word: Word
    serves: bool | None
    detail: str = ""


# What nobody could ask for is unknown; only these say something of the service.
_NOT_THERE: Mapping[str, Word] = {"absent": "absent", "not-installed": "not-installed"}


def unanswered(kind: str, detail: str) -> State:
    """The state where the API gave no service; *kind* is that of a ``ClusterError``."""
    word = _NOT_THERE.get(kind, "unknown")
    return State(word, None if word == "unknown" else False, detail)


def of(service: Object, revisions: Mapping[str, Object], tag: str | None = None) -> State:
    """The state of *service*.

    Args:
        service: the Service object.
        revisions: Revision objects by name, as far as they could be read.
        tag: of the traffic that is ours; without one, it is everything that has a share.
    """
    routes = condition(service, "RoutesReady")
    if routes.status == "False":
        configurations = condition(service, "ConfigurationsReady")
        found = [one for one in (routes, configurations) if one.status == "False"]
        return State("down", False, "; ".join(map(str, found)))
    mine = targets(service, tag)
    if tag and not mine and not is_behind(service):
        return State("absent", False, f"no traffic target of the service has the tag {tag}")
    pods = _Pods.of(mine, revisions)
    if pods.none_can_start:
        return State("failing", False, pods.failure)
    return _changing(service, routes, pods) or _settled(service, pods)


def _changing(service: Object, routes: Condition, pods: _Pods) -> State | None:
    """The state of a service whose controllers have not finished."""
    ready = condition(service, "Ready")
    if "Unknown" not in (ready.status, routes.status) and not is_behind(service):
        return None
    detail = "a change has not been looked at yet" if is_behind(service) else str(ready)
    if not pods.names:
        return State("reconciling", False, f"{detail}; nothing serves yet")
    if routes.status == "True":
        return State("reconciling", True, f"{detail}; {pods.names} serves")
    return State("reconciling", None, detail)


def _settled(service: Object, pods: _Pods) -> State:
    if condition(service, "Ready").status == "False":
        reason = condition(service, "ConfigurationsReady")
        return State("degraded", True, f"{reason}; {pods.names} serves")
    if pods.failure:
        return State("degraded", True, f"not every revision can: {pods.failure}")
    return pods.state


_WORDS: Mapping[str, State] = {
    "active": State("active", True, "pods run"),
    "activating": State("activating", True, "a pod is being started; calls wait for it"),
    "idle": State("idle", True, "scaled to zero; the next call starts a pod"),
}


@dataclass(frozen=True, slots=True)
class _Pods:
    """How the revisions are that get calls."""

    names: str
    words: frozenset[str]
    failure: str

    @classmethod
    def of(cls, mine: Sequence[Target], revisions: Mapping[str, Object]) -> _Pods:
        told = {one.revision: pods_of(revisions.get(one.revision)) for one in mine}
        failures = [f"{name}: {text}" for name, (word, text) in told.items() if word == "failing"]
        return cls(
            names=", ".join(told),
            words=frozenset(word for word, _ in told.values()),
            failure="; ".join(failures),
        )

    @property
    def none_can_start(self) -> bool:
        return self.words == {"failing"}

    @property
    def state(self) -> State:
        """Of several revisions, the one that is furthest counts."""
        for word, state in _WORDS.items():
            if word in self.words:
                return state
        detail = f"what became of {self.names or 'its revisions'} cannot be seen"
        return State("unknown", None, detail)


def pods_of(revision: Object | None) -> tuple[str, str]:
    """One revision: a word, and its reason where it cannot be started."""
    if revision is None:
        return "unknown", ""
    ready, active = condition(revision, "Ready"), condition(revision, "Active")
    if ready.status == "False":
        return "failing", str(_cause(revision) or ready)
    match active.status, active.reason:
        case "True", _:
            return "active", ""
        case "False", "NoTraffic":
            return "idle", ""
        case "False", "TimedOut":
            return "failing", str(active)
        case "Unknown", "Queued":
            return "activating", ""
    return "unknown", ""


def _cause(revision: Object) -> Condition | None:
    causes = (condition(revision, name) for name in ("ContainerHealthy", "ResourcesAvailable"))
    return next((one for one in causes if one.status == "False"), None)
