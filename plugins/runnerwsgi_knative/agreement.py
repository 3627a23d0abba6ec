"""Whether the Service that is deployed and the gateway that calls it fit each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runnerwsgi.protocol import Finding

from .observed import SCALING, Object, part, targets, traffic
from .observed import scale as pods

# Knative's own, where a revision names none; and the most that it takes.
DEFAULT_SECONDS = 300
MOST_SECONDS = 600
# What the platform's limit should leave: a call that is late is ended by the gateway, not by a
# 504 that tells nobody whether it was executed.
SPARE_SECONDS = 30
_FIRST_BYTE = ("responseStartTimeoutSeconds", "idleTimeoutSeconds")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the gateway counts on.

    Attributes:
        host: by which it asks the ingress for the service; None where the API says it.
        tag: of the traffic that it calls.
        timeout_ms: for a whole call.
        cold_start_ms: the part of it that is for the start of a pod.
        slots: calls that one runner executes at once; None where no runner told.
    """

    host: str | None
    tag: str | None
    timeout_ms: int
    cold_start_ms: int
    slots: int | None = None


def findings(wanted: Wanted, service: Object, revisions: Mapping[str, Object]) -> Iterator[Finding]:
    """Look at *service*, and at each of its *revisions* that gets calls."""
    yield from tag(wanted, service)
    yield from address(wanted, service)
    yield from visibility(wanted, service)
    for target in targets(service, wanted.tag):
        revision = revisions.get(target.revision)
        if revision is not None:
            yield from time_limits(wanted, revision)
            yield from probes(revision)
            yield from concurrency(wanted, revision)
            yield from scale(wanted, revision)


def tag(wanted: Wanted, service: Object) -> Iterator[Finding]:
    """The tag that the gateway asks for is there."""
    tags = sorted(one.tag for one in traffic(service) if one.tag)
    if wanted.tag and wanted.tag not in tags:
        found = f"no traffic of the service has the tag {wanted.tag}"
        known = f"; there is {', '.join(tags)}." if tags else "."
        yield Finding("fail", "tag", found, f"correct RUNNER_KNATIVE_TAG, or unset it{known}")


def address(wanted: Wanted, service: Object) -> Iterator[Finding]:
    """The gateway asks for a host that the service has."""
    known = _hosts(service)
    if wanted.host is None or not known:
        return
    if wanted.host in known:
        yield Finding("ok", "address", f"{wanted.host} is the service's")
        return
    found = f"{wanted.host} is not among the service's own hosts"
    fix = f"right where a DomainMapping leads there; else use {next(iter(known))}."
    yield Finding("warn", "address", found, fix)


def _hosts(service: Object) -> dict[str, None]:
    """Every host that the service says of itself, and the shorter forms of the cluster's own."""
    status = part(service, "status")
    urls = [part(status, "address").get("url"), status.get("url")]
    urls += [one.url for one in traffic(service)]
    hosts = [url.partition("://")[2].partition("/")[0] for url in urls if url]
    return dict.fromkeys(form for host in hosts for form in _forms(host))


def _forms(host: str) -> Iterator[str]:
    yield host
    before, svc, _ = host.partition(".svc.")
    if svc:
        yield f"{before}.svc"
        yield before


def visibility(wanted: Wanted, service: Object) -> Iterator[Finding]:
    """Nobody but the cluster reaches the runner, unless the gateway itself is outside."""
    url = part(service, "status").get("url") or ""
    local = part(service, "status", "address").get("url") or ""
    host = url.partition("://")[2]
    if not url:
        return
    if url == local:
        yield Finding("ok", "visibility", "the service is known in the cluster only")
    elif wanted.host == host:
        yield Finding("ok", "visibility", f"the service is public, and called at {url}")
    else:
        yield Finding(
            "warn",
            "visibility",
            f"the service is public, at {url}, and nothing here needs that",
            "give the Service the label networking.knative.dev/visibility: cluster-local.",
        )


def time_limits(wanted: Wanted, revision: Object) -> Iterator[Finding]:
    """The gateway's limit is the first that is over, and Knative's never."""
    spec, name = part(revision, "spec"), _name(revision)
    ours = wanted.timeout_ms / 1000
    limit = spec.get("timeoutSeconds") or DEFAULT_SECONDS
    found = f"{name}: timeoutSeconds is {limit}, RUNNER_TIMEOUT_MS {wanted.timeout_ms}"
    if limit >= ours + SPARE_SECONDS:
        yield Finding("ok", "time limit", found)
    else:
        is_over = limit <= ours
        yield Finding("fail" if is_over else "warn", "time limit", found, _time_fix(ours))
    for field in _FIRST_BYTE:
        seconds = spec.get(field) or 0
        if 0 < seconds < limit and seconds <= ours:
            found = f"{name}: {field} ends a call that takes {seconds} s, with {ours:g} s allowed"
            yield Finding("fail", "time limit", found, f"leave {field} out.")


def _time_fix(ours: float) -> str:
    needed = math.ceil(ours) + SPARE_SECONDS
    lower = f"set RUNNER_TIMEOUT_MS to {(MOST_SECONDS - SPARE_SECONDS) * 1000} or less"
    if needed > MOST_SECONDS:
        return f"{lower}, and timeoutSeconds to {MOST_SECONDS}."
    return f"set timeoutSeconds of the Service to {needed} or more."


def probes(revision: Object) -> Iterator[Finding]:
    """Nothing slows the start of a pod, and a pod that is not ready gets no calls."""
    name = _name(revision)
    container = _runner(revision)
    if "startupProbe" in container:
        found = f"{name}: a startupProbe slows each cold start"
        fix = "remove it: a readinessProbe with periodSeconds: 0 is asked every 50 ms at the start."
        yield Finding("warn", "startup probe", found, fix)
    readiness = part(container, "readinessProbe")
    if "httpGet" not in readiness:
        found = f"{name}: readiness is not asked of the runner by HTTP"
        fix = "set readinessProbe: {httpGet: {path: /health/readiness}, periodSeconds: 0}."
        yield Finding("warn", "readiness probe", found, fix)


def concurrency(wanted: Wanted, revision: Object) -> Iterator[Finding]:
    """A pod gets no more calls than it executes at once."""
    name, given = _name(revision), part(revision, "spec").get("containerConcurrency") or 0
    slots = wanted.slots
    if not given:
        fix = f"set containerConcurrency to {slots or 'the slots of the runner'}."
        found = f"{name}: a pod is given any number of calls at once"
        yield Finding("warn", "concurrency", found, fix)
    elif slots is not None and given > slots:
        fix = f"set containerConcurrency to {slots}, or raise RUNNER_THREADS of the runner."
        found = f"{name}: a pod is given {given} calls at once, and executes {slots}"
        yield Finding("warn", "concurrency", found, fix)
    else:
        room = "" if slots is None else f" of the {slots} that it can execute"
        yield Finding("ok", "concurrency", f"{name}: {given} calls at once{room}")


def scale(wanted: Wanted, revision: Object) -> Iterator[Finding]:
    """Where the last pod goes, calls have time for another to start."""
    least, most = pods(revision)
    room = f"{least} to {most} pods" if most else f"{least} pods or more"
    found = f"{_name(revision)}: {room}"
    if least:
        yield Finding("ok", "scale", found)
    elif wanted.cold_start_ms:
        kept = f"{wanted.cold_start_ms} ms of a call are kept for the start of one"
        yield Finding("ok", "scale", f"{found}; {kept}")
    else:
        fix = f"keep one pod with {SCALING}min-scale, or set RUNNER_KNATIVE_COLD_START_MS."
        yield Finding("warn", "scale", f"{found}, and no time is kept for the start of one", fix)


def _name(revision: Object) -> str:
    return str(part(revision, "metadata").get("name", "?"))


def _runner(revision: Object) -> Mapping[str, Any]:
    """The container that calls go to: the one with a port, or the only one."""
    containers = part(revision, "spec").get("containers") or [{}]
    return next((one for one in containers if one.get("ports")), containers[0])
