"""Knative's Services and Revisions as its API answers them: healthy, unless told otherwise."""

from zlib import crc32

NAMESPACE = "extensions"
SERVING = "serving.knative.dev"


def ksvc(
    name="runner",
    *,
    namespace=NAMESPACE,
    url=None,
    address=None,
    generation=1,
    observed=None,
    conditions=None,
    traffic=None,
    created=None,
    ready=None,
    spec=None,
    annotations=None,
    labels=None,
    status=None,
):
    """A Knative Service as the API answers it; healthy, unless told otherwise.

    ``conditions`` are as of :func:`revision`; ``traffic`` is a list of ``status.traffic``.
    ``status={}`` is a Service that no controller has seen yet.
    """
    local = address or f"http://{name}.{namespace}.svc.cluster.local"
    revision_name = ready or f"{name}-00001"
    whole = {
        "observedGeneration": generation if observed is None else observed,
        "conditions": conditions_of(
            {"ConfigurationsReady": True, "Ready": True, "RoutesReady": True} | (conditions or {})
        ),
        "url": url or local,
        "address": {"url": local},
        "latestCreatedRevisionName": created or revision_name,
        "latestReadyRevisionName": revision_name,
        "traffic": traffic
        or [{"revisionName": revision_name, "percent": 100, "latestRevision": True}],
    }
    return {
        "apiVersion": f"{SERVING}/v1",
        "kind": "Service",
        "metadata": metadata(name, namespace, generation, labels, annotations),
        "spec": spec or {"template": {"spec": pod_spec()}},
        "status": whole if status is None else status,
    }


def revision(
    name="runner-00001",
    *,
    namespace=NAMESPACE,
    service="runner",
    conditions=None,
    actual=None,
    desired=None,
    digest="0" * 64,
    spec=None,
    annotations=None,
):
    """A Revision as the API answers it; active, unless told otherwise.

    ``conditions`` by type: True, or a status with its reason and message, as in
    ``{"Active": ("False", "NoTraffic", "The target is not receiving traffic.")}``.
    """
    usual = {"Active": True, "ContainerHealthy": True, "Ready": True, "ResourcesAvailable": True}
    image = "registry.example.com/runner"
    status = {
        "observedGeneration": 1,
        "conditions": conditions_of(usual | (conditions or {})),
        "containerStatuses": [{"name": "runner", "imageDigest": f"{image}@sha256:{digest}"}],
        "actualReplicas": actual,
        "desiredReplicas": desired,
    }
    labels = {
        f"{SERVING}/configuration": service,
        f"{SERVING}/service": service,
        f"{SERVING}/configurationGeneration": str(int(name.rpartition("-")[2])),
    }
    return {
        "apiVersion": f"{SERVING}/v1",
        "kind": "Revision",
        "metadata": metadata(name, namespace, 1, labels, annotations),
        "spec": spec or pod_spec(),
        "status": {key: value for key, value in status.items() if value is not None},
    }


def metadata(name, namespace, generation, labels, annotations):
    found = {
        "name": name,
        "namespace": namespace,
        "uid": f"00000000-0000-4000-8000-{crc32(name.encode()):012}",
        "resourceVersion": "1",
        "generation": generation,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": labels,
        "annotations": annotations,
    }
    return {key: value for key, value in found.items() if value is not None}


def pod_spec():
    return {
        "containerConcurrency": 4,
        "timeoutSeconds": 120,
        "containers": [
            {
                "name": "runner",
                "image": "registry.example.com/runner",
                "readinessProbe": {"httpGet": {"path": "/health/readiness"}, "periodSeconds": 0},
            }
        ],
    }


def conditions_of(wanted):
    """``status.conditions`` from ``{type: True or (status, reason, message)}``."""
    found = []
    for kind, value in sorted(wanted.items()):
        if value is None:
            continue
        parts = ("True",) if value is True else (value,) if isinstance(value, str) else value
        condition = dict(zip(("status", "reason", "message"), parts, strict=False))
        severity = {"severity": "Info"} if kind == "Active" else {}
        found.append(
            {"type": kind, "lastTransitionTime": "2026-01-01T00:00:00Z"} | severity | condition
        )
    return found
