"""What a Knative Service is at the moment, for administrators: JSON values, and no secret."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .observed import Object, conditions, part, scale, traffic

if TYPE_CHECKING:
    from runnerwsgi.client import LastAnswer

    from .control import Sight

_VISIBILITY = "networking.knative.dev/visibility"


def of_sight(sight: Sight) -> Mapping[str, Any]:
    """What Kubernetes has of the service; its state only, where it never gave the objects."""
    told: dict[str, Any] = {"state": sight.state.word, "detail": sight.state.detail}
    if not sight.service:
        return told
    return {
        **told,
        "seen_s_ago": round(time.time() - sight.at),
        "service": _service(sight.service),
        "traffic": [_given(asdict(one)) for one in traffic(sight.service)],
        "revisions": {name: _revision(one) for name, one in sight.revisions.items()},
        "conditions": [
            *_conditions(sight.service),
            *(line for one in sight.revisions.values() for line in _conditions(one)),
        ],
    }


def of_answer(last: LastAnswer) -> Mapping[str, Any]:
    """What the runner's last answer to a call said of it."""
    return _given(
        {
            "s_ago": round(time.time() - last.at),
            "status": last.status,
            "runner": last.runner,
            "revision": last.revision,
            "server": last.server,
            "keeps_keys": last.keeps_keys,
        }
    )


def _service(item: Object) -> Mapping[str, Any]:
    about, status = part(item, "metadata"), part(item, "status")
    return _given(
        {
            "name": about.get("name"),
            "namespace": about.get("namespace"),
            "generation": about.get("generation"),
            "observed_generation": status.get("observedGeneration"),
            "url": status.get("url"),
            "address": part(status, "address").get("url"),
            "visibility": part(about, "labels").get(_VISIBILITY),
            "latest_created": status.get("latestCreatedRevisionName"),
            "latest_ready": status.get("latestReadyRevisionName"),
        }
    )


def _revision(item: Object) -> Mapping[str, Any]:
    spec, status = part(item, "spec"), part(item, "status")
    least, most = scale(item)
    return _given(
        {
            "images": [
                one["imageDigest"]
                for one in status.get("containerStatuses") or ()
                if one.get("imageDigest")
            ],
            "timeout_s": spec.get("timeoutSeconds"),
            "container_concurrency": spec.get("containerConcurrency"),
            "min_scale": least,
            "max_scale": most or None,
            # The API leaves out a count of none.
            "replicas": status.get("actualReplicas", 0),
            "wanted_replicas": status.get("desiredReplicas", 0),
        }
    )


def _conditions(item: Object) -> list[Mapping[str, Any]]:
    """Every condition that is not True, and why."""
    of = f"{item.get('kind', '')} {part(item, 'metadata').get('name', '')}".strip()
    return [
        _given({"of": of, **asdict(one), "age_s": _whole(one.age)})
        for one in conditions(item)
        if one.status != "True"
    ]


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)


def _given(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value not in (None, "")}
