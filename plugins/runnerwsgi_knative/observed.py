"""What the status of Knative's objects says: conditions, and who gets the traffic."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

# A Service or a Revision, as the Kubernetes API has it.
Object = Mapping[str, Any]

SCALING = "autoscaling.knative.dev/"

_EACH = "*"
# What is read of an object, and of what type it is wherever it is there.
_SHAPE: Mapping[str, Any] = {
    "metadata": {
        "name": str,
        "namespace": str,
        "generation": int,
        "labels": {_EACH: str},
        "annotations": {_EACH: str},
    },
    "spec": {
        "containers": [{"ports": [dict], "readinessProbe": dict}],
        "containerConcurrency": int,
        "timeoutSeconds": int,
        "responseStartTimeoutSeconds": int,
        "idleTimeoutSeconds": int,
    },
    "status": {
        "url": str,
        "address": {"url": str},
        "observedGeneration": int,
        "latestCreatedRevisionName": str,
        "latestReadyRevisionName": str,
        "actualReplicas": int,
        "desiredReplicas": int,
        "containerStatuses": [{"imageDigest": str}],
        "conditions": [
            dict.fromkeys(("type", "status", "reason", "message", "lastTransitionTime"), str)
        ],
        "traffic": [{"revisionName": str, "percent": int, "tag": str, "url": str}],
    },
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One line of ``status.conditions``; its status is True, False or Unknown."""

    type: str
    status: str = "Unknown"
    reason: str = ""
    message: str = ""
    since: str = ""

    @property
    def age(self) -> float | None:
        """Seconds since its status is what it is; None where nobody knows."""
        try:
            return time.time() - datetime.fromisoformat(self.since).timestamp()
        except ValueError:
            return None

    def __str__(self) -> str:
        told = ": ".join(filter(None, (self.reason, " ".join(self.message.split())[:200])))
        return f"{self.type} {self.status}" + (f" ({told})" if told else "")


@dataclass(frozen=True, slots=True)
class Target:
    """A revision that gets a share of the traffic, or what is sent to a tag."""

    revision: str
    percent: int | None = None
    tag: str | None = None
    url: str | None = None


def is_sound(item: Object) -> bool:
    """Whether everything that is read of an object is of the type that Knative gives it."""
    return _fits(item, _SHAPE) and {"name", "namespace"} <= part(item, "metadata").keys()


def _fits(value: Any, shape: Any) -> bool:
    if value is None:
        return True
    if isinstance(shape, type):
        return isinstance(value, shape) and not isinstance(value, bool)
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(one, shape[0]) for one in value)
    if not isinstance(value, dict):
        return False
    if _EACH in shape:
        return all(_fits(one, shape[_EACH]) for one in value.values())
    return all(_fits(value.get(name), inner) for name, inner in shape.items())


def part(item: Object, *names: str) -> Object:
    """A part of an object; empty where the API has left it out."""
    for name in names:
        item = item.get(name) or {}
    return item


def conditions(item: Object) -> tuple[Condition, ...]:
    """Every condition of an object."""
    return tuple(
        Condition(
            one.get("type", ""),
            one.get("status", "Unknown"),
            one.get("reason", ""),
            one.get("message", ""),
            one.get("lastTransitionTime", ""),
        )
        for one in part(item, "status").get("conditions") or ()
    )


def condition(item: Object, name: str) -> Condition:
    """The condition *name*; one that is missing is Unknown."""
    return next((one for one in conditions(item) if one.type == name), Condition(name))


def is_behind(service: Object) -> bool:
    """Whether the status is that of an earlier spec."""
    generation = part(service, "metadata").get("generation")
    return bool(part(service, "status").get("observedGeneration") != generation)


def traffic(service: Object) -> tuple[Target, ...]:
    """Every target, also those that only a tag leads to."""
    return tuple(
        Target(one.get("revisionName", ""), one.get("percent"), one.get("tag"), one.get("url"))
        for one in part(service, "status").get("traffic") or ()
    )


def targets(service: Object, tag: str | None = None) -> tuple[Target, ...]:
    """Who gets calls: the targets of *tag*, or everybody who has a share."""
    return tuple(
        one
        for one in traffic(service)
        if one.revision and (one.tag == tag if tag else (one.percent or 0) > 0)
    )


def scale(revision: Object) -> tuple[int, int]:
    """The fewest and the most pods that a revision may have; 0 is no bound."""
    notes = part(revision, "metadata", "annotations")
    least, most = (_number(notes, end) for end in ("min", "max"))
    return least, most


def _number(notes: Object, end: str) -> int:
    # The older spelling is still obeyed.
    value = notes.get(f"{SCALING}{end}-scale") or notes.get(f"{SCALING}{end}Scale") or ""
    return int(value) if re.fullmatch("[0-9]{1,9}", value) else 0
