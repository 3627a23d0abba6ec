"""Whether gateway and Service fit each other: each misfit is found, and comes with its fix."""

from dataclasses import replace

import pytest
from knative_objects import ksvc, pod_spec, revision
from runnerwsgi_knative.agreement import Wanted, findings

LOCAL = "runner.extensions.svc.cluster.local"
PUBLIC = "https://runner.extensions.example.com"
WANTED = Wanted(host=LOCAL, tag=None, timeout_ms=30_000, cold_start_ms=10_000, slots=4)


def pod(**changes):
    """A revision with other fields in its spec; None takes one away."""
    spec = {name: value for name, value in (pod_spec() | changes).items() if value is not None}
    return revision(spec=spec)


def container(**changes):
    (usual,) = pod_spec()["containers"]
    fields = {name: value for name, value in (usual | changes).items() if value is not None}
    return pod(containers=[fields])


def notes(**scale):
    named = {f"autoscaling.knative.dev/{name}": str(value) for name, value in scale.items()}
    return revision(annotations=named)


def look(one=None, service=None, **wanted):
    """What is found, by what was looked at, but for what is well."""
    one = one or revision()
    found = findings(replace(WANTED, **wanted), service or ksvc(), {one["metadata"]["name"]: one})
    return [each for each in found if each.state != "ok"]


def test_what_fits_is_told_as_well():
    found = list(findings(WANTED, ksvc(), {"runner-00001": revision()}))
    assert {each.state for each in found} == {"ok"}
    assert {each.what for each in found} == {
        *("address", "visibility", "time limit", "concurrency", "scale")
    }


@pytest.mark.parametrize(
    ("one", "wanted", "state", "what", "words"),
    [
        (
            pod(timeoutSeconds=30),
            {},
            "fail",
            "time limit",
            "of the Service to 60",
        ),
        (pod(timeoutSeconds=59), {}, "warn", "time limit", "to 60 or more"),
        (pod(timeoutSeconds=None), {"timeout_ms": 300_000}, "fail", "time limit", "is 300, RUNNER"),
        (
            pod(timeoutSeconds=600),
            {"timeout_ms": 600_000},
            "fail",
            "time limit",
            "set RUNNER_TIMEOUT_MS to 570000 or less, and timeoutSeconds to 600",
        ),
        (
            pod(responseStartTimeoutSeconds=20),
            {},
            "fail",
            "time limit",
            "leave responseStartTimeoutSeconds out",
        ),
        (pod(idleTimeoutSeconds=30), {}, "fail", "time limit", "leave idleTimeoutSeconds out"),
        (container(startupProbe={"httpGet": {}}), {}, "warn", "startup probe", "each cold start"),
        (container(readinessProbe=None), {}, "warn", "readiness probe", "/health/readiness"),
        (
            container(readinessProbe={"tcpSocket": {"port": 0}}),
            {},
            "warn",
            "readiness probe",
            "periodSeconds: 0",
        ),
        (pod(containerConcurrency=0), {}, "warn", "concurrency", "set containerConcurrency to 4"),
        (
            pod(containerConcurrency=None),
            {"slots": None},
            "warn",
            "concurrency",
            "to the slots of the runner",
        ),
        (
            pod(containerConcurrency=8),
            {},
            "warn",
            "concurrency",
            "given 8 calls at once, and executes 4",
        ),
        (revision(), {"cold_start_ms": 0}, "warn", "scale", "min-scale"),
        (notes(**{"min-scale": 0}), {"cold_start_ms": 0}, "warn", "scale", "0 pods or more"),
        (revision(), {"tag": "next"}, "fail", "tag", "unset it."),
        (revision(), {"host": "elsewhere.test"}, "warn", "address", f"else use {LOCAL}"),
    ],
    ids=[
        "Knative's limit is the gateway's",
        "Knative's limit leaves little",
        "Knative's default is the gateway's limit",
        "no limit of Knative's would do",
        "the first byte has to come too early",
        "a pause ends the call",
        "a startup probe",
        "no readiness probe",
        "readiness is an open port",
        "any number of calls at once",
        "any number of calls, and nobody knows how many would do",
        "more calls than slots",
        "from zero without time for it",
        "from zero without time for it, written down",
        "a tag that is not there",
        "a host that is not the service's",
    ],
)
def test_a_misfit_is_found_with_its_fix(one, wanted, state, what, words):
    (found,) = [each for each in look(one, **wanted) if each.what == what]
    assert found.state == state
    assert words in f"{found.found}: {found.fix}"
    assert found.fix.endswith(".")


@pytest.mark.parametrize(
    ("one", "wanted"),
    [
        (pod(timeoutSeconds=60), {}),
        (pod(responseStartTimeoutSeconds=300, timeoutSeconds=60), {}),
        (pod(idleTimeoutSeconds=0), {}),
        (pod(containerConcurrency=8), {"slots": None}),
        (notes(minScale=1), {"cold_start_ms": 0}),
        (revision(), {"host": "runner.extensions"}),
        (revision(), {"host": "runner.extensions.svc"}),
        (revision(), {"host": None}),
    ],
    ids=[
        "thirty seconds to spare",
        "a first byte's limit that never ends anything",
        "no limit of pauses",
        "concurrency where no runner told its slots",
        "one pod stays, in the older spelling",
        "the short local name",
        "the local name without the cluster's domain",
        "an address that the API itself gave",
    ],
)
def test_what_is_right_is_not_complained_about(one, wanted):
    assert look(one, **wanted) == []


@pytest.mark.parametrize(
    ("host", "state"),
    [(LOCAL, "warn"), (PUBLIC.removeprefix("https://"), "ok")],
    ids=["called in the cluster", "called from outside"],
)
def test_a_public_service_is_for_those_who_need_it(host, state):
    found = findings(replace(WANTED, host=host), ksvc(url=PUBLIC), {})
    assert [each.state for each in found if each.what == "visibility"] == [state]


def test_revisions_without_calls_are_left_alone():
    service = ksvc(traffic=[{"revisionName": "runner-00002", "percent": 100}])
    old, new = pod(timeoutSeconds=5), revision("runner-00002")
    found = findings(WANTED, service, {"runner-00001": old, "runner-00002": new})
    assert {each.state for each in found} == {"ok"}


def test_with_a_tag_its_revision_is_looked_at():
    traffic = [
        {"revisionName": "runner-00001", "percent": 100},
        {"revisionName": "runner-00002", "tag": "next", "url": f"http://next-{LOCAL}"},
    ]
    wanted = replace(WANTED, tag="next", host=f"next-{LOCAL}")
    new = revision("runner-00002", spec=pod_spec() | {"timeoutSeconds": 5})
    found = findings(wanted, ksvc(traffic=traffic), {"runner-00001": pod(), "runner-00002": new})
    assert [each.found[:12] for each in found if each.state == "fail"] == ["runner-00002"]


def test_an_empty_service_breaks_nothing():
    assert list(findings(WANTED, {}, {})) == []


def test_the_container_that_is_called_is_looked_at():
    (runner,) = pod_spec()["containers"]
    beside = {"name": "beside", "startupProbe": {}}
    both = pod(containers=[beside, runner | {"ports": [{"containerPort": 8080}]}])
    assert look(both) == []
