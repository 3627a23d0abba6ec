"""What Knative takes, and a runner suffers from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .remarks import Remarks, unwise
from .shapes import CONTAINER, ENV, POD, PROBES, VOLUME
from .tree import Place, find, first

# A pod listens for 30 s after the last request, and its container may take as long to end.
ENDING_SECONDS = 60
VISIBILITY = ("metadata", "labels", "networking.knative.dev/visibility")

# What each container should have, and why.
_MISSED: Mapping[tuple[str, ...], str] = {
    ("readinessProbe",): "calls come before the runner can execute",
    ("resources", "limits", "memory"): "the guests of one pod can take a whole node's",
    ("securityContext", "runAsNonRoot"): "root in the container is more than a runner needs",
    ("securityContext", "readOnlyRootFilesystem"): "whoever breaks out can change the program",
    ("securityContext", "capabilities", "drop"): "drop ALL: a runner needs none",
}
# What a Service should have, and why.
_WANTED: Mapping[tuple[str, ...], str] = {
    (*POD, "containerConcurrency"): "without it a pod gets any number of calls at once: set it to "
    "the runner's slots, RUNNER_THREADS less RUNNER_RESERVED_THREADS",
    VISIBILITY: "without cluster-local the runner is reachable from everywhere",
}


def hazards(service: Any) -> Remarks:
    """What is unwise in a Knative Service that is a runner."""
    for wanted, reason in _WANTED.items():
        if not first(service, *wanted):
            yield unwise(wanted, reason)
    for place, container in find(service, CONTAINER):
        if isinstance(container, Mapping):
            yield from _missed(place, container)
    yield from _starting(service)
    yield from _ending(service)
    yield from _token(service)


def _missed(place: Place, container: Mapping[str, Any]) -> Remarks:
    for name, reason in _MISSED.items():
        if first(container, *name) is None:
            yield unwise((*place, *name), f"it is missing: {reason}")


def _starting(service: Any) -> Remarks:
    for place, _ in find(service, PROBES[2]):
        yield unwise(
            place,
            "it slows every cold start: a readinessProbe with periodSeconds: 0 is asked every 50 "
            "ms while a pod starts",
        )


def _ending(service: Any) -> Remarks:
    place = (*POD, "timeoutSeconds")
    limit = first(service, *place)
    if type(limit) is int and 0 < limit < ENDING_SECONDS:
        yield unwise(
            place,
            f"it is also the time that a pod has to end in: below {ENDING_SECONDS} s it may be "
            "killed while calls run",
        )


def _token(service: Any) -> Remarks:
    names = {_name(variable): (place, variable) for place, variable in find(service, ENV)}
    plain = names.get("RUNNER_SERVICE_TOKEN")
    has_token = plain or "RUNNER_SERVICE_TOKEN_FILE" in names
    if not has_token and not any(find(service, (*CONTAINER, "envFrom"))):
        yield unwise(
            (*POD, "containers", 0, "env"),
            "RUNNER_SERVICE_TOKEN_FILE is missing: whoever reaches the runner may run extensions",
        )
    if plain and "value" in plain[1]:
        yield unwise(plain[0], "everybody who may look at the Service reads it: use a Secret")
    for place, mode in find(service, (*VOLUME, "secret", "defaultMode")):
        if type(mode) is int and not mode & 0o004:
            yield unwise(place, "the files are root's, and the runner is not: leave the mode out")


def _name(variable: Any) -> str | None:
    name = variable.get("name") if isinstance(variable, Mapping) else None
    return name if isinstance(name, str) else None
