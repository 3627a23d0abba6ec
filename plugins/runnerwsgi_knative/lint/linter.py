"""What Knative would say of a document, or do without a word."""

from __future__ import annotations

import difflib
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from runnerwsgi_knative.observed import SCALING

from .hazards import hazards
from .remarks import EFFECTS, Remark, Remarks, ignored, refused
from .rules import AUTOSCALING, CLASSES, POD_NOTES, RULES, SERVICE_NOTES
from .shapes import CONTAINER, FLAGS, MOUNT, POD, PORT, PROBES, SHAPES, TRAFFIC, VOLUME, Shape
from .tree import EACH, Place, find, first, shown

_WRITABLE = ("emptyDir", "persistentVolumeClaim")
_HANDLERS = ("httpGet", "tcpSocket", "exec", "grpc")
_DEFAULT_TIMEOUT = 300


def is_service(document: object) -> bool:
    """Whether a document is a Knative Service."""
    return _is(document, "serving.knative.dev/", "Service")


def is_domain_mapping(document: object) -> bool:
    """Whether a document is a DomainMapping."""
    return _is(document, "serving.knative.dev/", "DomainMapping")


def _is(document: object, group: str, kind: str) -> bool:
    if not isinstance(document, dict) or document.get("kind") != kind:
        return False
    return str(document.get("apiVersion", "")).startswith(group)


def remarks(document: object) -> list[Remark]:
    """Everything about a document; nothing about those that are not Knative's.

    Example::

        [remark.reason for remark in remarks(service) if remark.effect == "refused"]
    """
    checks = (
        _OF_SERVICES if is_service(document) else (_domain,) if is_domain_mapping(document) else ()
    )
    found = (each for check in checks for each in check(document))
    return sorted(found, key=lambda each: EFFECTS.index(each.effect))


def _fields(document: Any) -> Remarks:
    for shape in SHAPES:
        for place, value in find(document, shape.where):
            if isinstance(value, Mapping):
                yield from _unshaped(shape, place, value)
            else:
                yield refused(place, "it has to be a mapping")


def _unshaped(shape: Shape, place: Place, value: Mapping[Any, Any]) -> Remarks:
    allowed = shape.allowed.split()
    for name in value:
        if name in allowed or value[name] is None:
            continue
        reason = shape.refused.get(name) or shape.rest
        if reason:
            flag = FLAGS.get(name)
            allows = f"; an administrator may allow it: {flag} in config-features" if flag else ""
            yield refused((*place, str(name)), f"Knative does not take it: {reason}{allows}")
        else:
            yield ignored((*place, str(name)), _unknown(str(name), allowed))


def _unknown(name: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.8)
    meant = f" (the nearest is {near[0]})" if near else ""
    return f"there is no such field{meant}, and it is dropped without a word"


def _values(document: Any) -> Remarks:
    for rule in RULES:
        for place, value in find(document, rule.where):
            if not rule.holds(value):
                yield Remark(rule.effect, shown(place), rule.reason)


def _names(document: Any) -> Remarks:
    name, place = first(document, "metadata", "name"), ("spec", "template", "metadata", "name")
    revision = first(document, *place)
    if name is None and first(document, "metadata", "generateName") is None:
        yield refused(("metadata", "name"), "a Service needs a name")
    if revision is not None and not str(revision).startswith(f"{name}-"):
        yield refused(place, f"a revision's name begins with its Service's: {name}-…")
    for note, _ in find(document, (*SERVICE_NOTES, EACH)):
        if str(note[-1]).startswith(SCALING):
            yield refused(note, f"it is for revisions: write it under {shown(POD_NOTES)}")


def _autoscaling(document: Any) -> Remarks:
    notes = _scaling_notes(document)
    for name, (place, value) in notes.items():
        if name not in AUTOSCALING:
            yield ignored(place, _unknown(name, list(AUTOSCALING)))
        elif not AUTOSCALING[name][0](value):
            yield refused(place, f"it has to be {AUTOSCALING[name][1]}")
    yield from _scale(notes)
    yield from _metric(notes)


_Notes = dict[str, tuple[Place, Any]]


def _scaling_notes(document: Any) -> _Notes:
    """The annotations for the autoscaler, by their names of today."""
    found = find(document, (*POD_NOTES, EACH))
    return {
        # The older spelling, minScale, is still read.
        re.sub("[A-Z]", lambda capital: f"-{capital[0].lower()}", str(place[-1])[len(SCALING) :]): (
            place,
            value,
        )
        for place, value in found
        if str(place[-1]).startswith(SCALING)
    }


def _scale(notes: _Notes) -> Remarks:
    least, most = (notes.get(name, ((), ""))[1] for name in ("min-scale", "max-scale"))
    counted = all(
        isinstance(each, str) and re.fullmatch("[0-9]{1,9}", each) for each in (least, most)
    )
    # 0 is as many as are wanted.
    if counted and 0 < int(most) < int(least):
        yield refused(notes["max-scale"][0], f"it is less than min-scale, which is {least}")


def _metric(notes: _Notes) -> Remarks:
    class_place, name = notes.get("class", ((), "kpa.autoscaling.knative.dev"))
    place, metric = notes.get("metric", ((), None))
    if not isinstance(name, str) or (name.endswith(SCALING[:-1]) and name not in CLASSES):
        yield refused(class_place, f"there is {' and '.join(CLASSES)}")
    elif metric is not None and (known := CLASSES.get(name)) and metric not in known:
        yield refused(place, f"{name} counts {' or '.join(known)}; others are for hpa")


def _containers(document: Any) -> Remarks:
    containers = first(document, *POD, "containers")
    if not isinstance(containers, list) or not containers:
        yield refused((*POD, "containers"), "a revision needs a container")
    for place, container in find(document, CONTAINER):
        if isinstance(container, Mapping) and not container.get("image"):
            yield refused((*place, "image"), "a container needs an image")
    ports = [place for place, _ in find(document, PORT)]
    if len(ports) > 1:
        yield refused(ports[1], "one port is served, in all containers together")


def _volumes(document: Any) -> Remarks:
    volumes = {_name(value): value for _, value in find(document, VOLUME)}
    mounts = list(find(document, MOUNT))
    mounted = {_name(mount) for _, mount in mounts}
    for place, volume in find(document, VOLUME):
        if _name(volume) not in mounted:
            yield refused(place, "a volume that no container mounts is not taken")
    for place, mount in mounts:
        volume = volumes.get(_name(mount))
        if not isinstance(mount, Mapping) or not isinstance(volume, Mapping):
            yield refused(place, "there is no volume of this name")
        elif mount.get("readOnly") is not True and not any(kind in volume for kind in _WRITABLE):
            yield refused((*place, "readOnly"), "it has to be true: only an emptyDir is written to")
    yield from _twice(((*at, "mountPath"), at[:5], path) for at, path in _paths(mounts))


def _paths(mounts: list[tuple[Place, Any]]) -> Iterator[tuple[Place, str]]:
    for place, mount in mounts:
        if isinstance(mount, Mapping) and isinstance(path := mount.get("mountPath"), str):
            yield place, posixpath.normpath(path)


def _twice(found: Iterator[tuple[Place, Place, str]]) -> Remarks:
    seen: Counter[tuple[Place, str]] = Counter()
    for place, around, value in found:
        seen[around, value] += 1
        if seen[around, value] > 1:
            yield refused(place, f"{value} stands twice")


def _name(value: Any) -> str | None:
    name = value.get("name") if isinstance(value, Mapping) else None
    return name if isinstance(name, str) else None


def _traffic(document: Any) -> Remarks:
    shares = [value for _, value in find(document, (*TRAFFIC, "percent")) if type(value) is int]
    traffic = first(document, "spec", "traffic")
    if traffic and sum(shares) != 100:
        yield refused(("spec", "traffic"), f"the shares have to be 100 together, not {sum(shares)}")
    tags = find(document, (*TRAFFIC, "tag"))
    yield from _twice((place, (), tag) for place, tag in tags if isinstance(tag, str))
    for place, target in find(document, TRAFFIC):
        latest = first(target, "latestRevision")
        if isinstance(latest, bool) and latest == bool(first(target, "revisionName")):
            yield refused((*place, "latestRevision"), "true without a revisionName, false with one")


def _probes(document: Any) -> Remarks:
    for pattern in PROBES:
        for place, probe in find(document, pattern):
            if not isinstance(probe, Mapping):
                continue
            ways = [name for name in _HANDLERS if probe.get(name) is not None]
            if len(ways) != 1:
                yield refused(place, f"one of {', '.join(_HANDLERS)} is needed")
            if pattern == PROBES[0]:
                yield from _readiness(place, probe)


def _readiness(place: Place, probe: Mapping[str, Any]) -> Remarks:
    if probe.get("periodSeconds") != 0:
        return
    for name in ("failureThreshold", "timeoutSeconds"):
        if probe.get(name):
            yield refused((*place, name), "it has no meaning with periodSeconds: 0")


def _times(document: Any) -> Remarks:
    limit = first(document, *POD, "timeoutSeconds")
    limit = limit if type(limit) is int and limit > 0 else _DEFAULT_TIMEOUT
    for name in ("responseStartTimeoutSeconds", "idleTimeoutSeconds"):
        for place, value in find(document, (*POD, name)):
            if type(value) is int and value > limit:
                yield ignored(place, f"timeoutSeconds, {limit}, ends a request before")


def _domain(document: Any) -> Remarks:
    name = first(document, "metadata", "name")
    if first(document, "metadata", "generateName") is not None:
        yield refused(("metadata", "generateName"), "its name is the domain, and cannot be made up")
    if not isinstance(name, str) or "." not in name:
        yield refused(("metadata", "name"), "it has to be a whole domain: runner.example.com")
    elif name.endswith((".svc", ".cluster.local")):
        yield refused(("metadata", "name"), "names of the cluster itself cannot be mapped")
    if first(document, "spec", "ref", "name") is None:
        yield refused(("spec", "ref"), "what is it for? Name a Service of the same namespace")
    space = first(document, "spec", "ref", "namespace")
    if space is not None and space != first(document, "metadata", "namespace"):
        yield refused(("spec", "ref", "namespace"), "a Service of the same namespace alone")


_OF_SERVICES: tuple[Callable[[Any], Remarks], ...] = (
    _fields,
    _values,
    _names,
    _autoscaling,
    _containers,
    _volumes,
    _traffic,
    _probes,
    _times,
    hazards,
)
