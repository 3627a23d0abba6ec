"""`runnerwsgi knative lint`: what Knative refuses, ignores, or does to a runner's harm."""

import copy
import json
import sys
from functools import cache
from typing import get_args

import pytest
from cloudcoil.models.knative_serving.serving.v1 import Service
from hypothesis import given
from hypothesis import strategies as st
from knative_cli import documents, knative, manifest, service
from pydantic import BaseModel
from runnerwsgi_knative.lint.linter import remarks
from runnerwsgi_knative.lint.shapes import FLAGS, SHAPES, VOLUME
from runnerwsgi_knative.lint.tree import EACH
from wheels import ROOT

POD = "spec.template.spec"
CONTAINER = f"{POD}.containers.0"
SCALING = "spec.template.metadata.annotations.autoscaling\\.knative\\.dev/"
GONE = object()


@cache
def usual():
    return service()


def steps(place):
    """`a.0.b\\.c` as `a`, 0, `b.c`."""
    names = (name.replace("\0", ".") for name in place.replace("\\.", "\0").split("."))
    return [int(name) if name.isdigit() else name for name in names]


def changed(place, value, document=None):
    """The Service of the manifest with something else at a place; at the end of a list, more."""
    found = copy.deepcopy(document or usual())
    *way, last = steps(place)
    inner = found
    for step in way:
        inner = inner.setdefault(step, {}) if isinstance(inner, dict) else inner[step]
    if value is GONE:
        del inner[last]
    elif isinstance(inner, list) and last == len(inner):
        inner.append(value)
    else:
        inner[last] = value
    return found


def said(document):
    return {(remark.effect, remark.place): remark.reason for remark in remarks(document)}


def bracketed(place):
    """As remarks show it: `a[0].b["c.d/e"]`."""
    simple = (
        f"[{s}]" if isinstance(s, int) else f".{s}" if s.isalpha() else f'["{s}"]'
        for s in steps(place)
    )
    return "".join(simple).removeprefix(".")


# What Knative refuses of a pod: the field, and a value that Kubernetes would take.
POD_FIELDS = {
    "terminationGracePeriodSeconds": 30,
    "activeDeadlineSeconds": 30,
    "restartPolicy": "Always",
    "hostNetwork": True,
    "hostPID": True,
    "hostIPC": True,
    "nodeName": "node-1",
    "nodeSelector": {"disk": "ssd"},
    "affinity": {"nodeAffinity": {}},
    "tolerations": [{"key": "gpu"}],
    "topologySpreadConstraints": [{"maxSkew": 1}],
    "runtimeClassName": "gvisor",
    "priorityClassName": "high",
    "priority": 1,
    "schedulerName": "other",
    "securityContext": {"fsGroup": 65532},
    "initContainers": [{"name": "first", "image": "busybox"}],
    "dnsPolicy": "Default",
    "dnsConfig": {"nameservers": ["10.0.0.10"]},
    "hostAliases": [{"ip": "10.0.0.1"}],
    "hostname": "runner",
    "subdomain": "runners",
    "readinessGates": [{"conditionType": "ready"}],
    "shareProcessNamespace": True,
    "automountServiceAccountToken": True,
}
VOLUMES = {
    "hostPath": {"path": "/"},
    "csi": {"driver": "disk"},
    "persistentVolumeClaim": {"claimName": "data"},
    "ephemeral": {},
    "image": {"reference": "data"},
    "nfs": {"server": "files"},
}
CONTAINER_FIELDS = {
    "lifecycle": {"preStop": {"exec": {"command": ["sleep"]}}},
    "stdin": True,
    "stdinOnce": True,
    "tty": True,
    "volumeDevices": [{"name": "disk"}],
    "ports.0.hostPort": 8080,
    "ports.0.name": "web",
    "ports.0.protocol": "UDP",
    **{f"ports.0.containerPort#{port}": port for port in (8008, 8012, 8013, 8022, 9090, 9091)},
    **{
        f"env.0.name#{name}": name
        for name in ("PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION")
    },
    "env.0.value": 8,
    "env.0.valueFrom.fieldRef": {"fieldPath": "metadata.name"},
    "env.0.valueFrom.resourceFieldRef": {"resource": "limits.cpu"},
    "securityContext.privileged": True,
    "securityContext.capabilities.add": ["NET_ADMIN"],
    "securityContext.seLinuxOptions": {"level": "s0"},
    "securityContext.procMount": "Unmasked",
    "resources.claims": [{"name": "gpu"}],
    "volumeMounts.0.subPathExpr": "$(POD)",
    "volumeMounts.0.mountPropagation": "Bidirectional",
    **{f"volumeMounts.0.mountPath#{path}": path for path in ("/", "/dev/", "/dev/log", "tmp")},
    "volumeMounts.2.readOnly": False,
    "name": "queue-proxy",
    "image": "",
    "readinessProbe.failureThreshold": 3,
    "readinessProbe.timeoutSeconds": 1,
    "readinessProbe.terminationGracePeriodSeconds": 3,
}
SPEC_FIELDS = {
    f"{POD}.timeoutSeconds#600": 601,
    f"{POD}.timeoutSeconds#text": "120",
    f"{POD}.containerConcurrency#1000": 1001,
    f"{POD}.containerConcurrency#negative": -1,
    f"{POD}.containers": [],
    f"{SCALING}initial-scale": "0",
    f"{SCALING}max-scale": "0x14",
    f"{SCALING}min-scale": "many",
    f"{SCALING}metric": "cpu",
    f"{SCALING}class": "vpa.autoscaling.knative.dev",
    f"{SCALING}window#hour": "1h1s",
    f"{SCALING}window#seconds": "5s",
    f"{SCALING}window#unit": "60",
    f"{SCALING}target": "0.009",
    f"{SCALING}target-burst-capacity": "-2",
    f"{SCALING}target-utilization-percentage": "0",
    f"{SCALING}scale-down-delay": "1500ms",
    f"{SCALING}scale-to-zero-pod-retention-period": "2h",
    "spec.traffic.0.percent": 101,
    "spec.traffic.0.url": "http://runner.example.com",
    "spec.traffic.0.tag": "Now",
    "spec.traffic.0.latestRevision": False,
    "spec.template.metadata.name": "other-1",
    "metadata.annotations.autoscaling\\.knative\\.dev/min-scale": "1",
    "metadata.labels.networking\\.knative\\.dev/visibility": "local",
    "apiVersion": "serving.knative.dev/v1alpha1",
    "metadata.name#dot": "runner.v1",
    "metadata.name#long": "r" * 64,
    "metadata.name#digit": "1runner",
}


def rows(fields, prefix=""):
    return [
        pytest.param(f"{prefix}{name.partition('#')[0]}", value, id=name)
        for name, value in fields.items()
    ]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *rows(POD_FIELDS, f"{POD}."),
        *rows(VOLUMES, f"{POD}.volumes.0."),
        *rows(CONTAINER_FIELDS, f"{CONTAINER}."),
        *rows(SPEC_FIELDS),
    ],
)
def test_is_refused(place, value):
    found = said(changed(place, value))
    assert ("refused", bracketed(place)) in found, found


@pytest.mark.parametrize(
    ("document", "place"),
    [
        pytest.param(
            changed(f"{SCALING}max-scale", "1", changed(f"{SCALING}min-scale", "2")),
            bracketed(f"{SCALING}max-scale"),
            id="fewer pods at most than at least",
        ),
        pytest.param(
            changed(
                f"{SCALING}maxScale",
                "1",
                changed(f"{SCALING}max-scale", GONE, changed(f"{SCALING}min-scale", "2")),
            ),
            bracketed(f"{SCALING}maxScale"),
            id="the same in the older spelling",
        ),
        pytest.param(
            changed("spec.traffic.0.percent", 90), "spec.traffic", id="traffic that is not 100"
        ),
        pytest.param(
            changed("spec.traffic.1", {"tag": "a"}, changed("spec.traffic.0.tag", "a")),
            "spec.traffic[1].tag",
            id="a tag twice",
        ),
        pytest.param(
            changed(f"{POD}.volumes.3", {"name": "more", "emptyDir": {}}),
            f"{POD}.volumes[3]",
            id="a volume that is not mounted",
        ),
        pytest.param(
            changed(f"{POD}.volumes.0", GONE),
            bracketed(f"{CONTAINER}.volumeMounts.0"),
            id="a mount without a volume",
        ),
        pytest.param(
            changed(f"{CONTAINER}.volumeMounts.1.mountPath", "/tmp/"),
            bracketed(f"{CONTAINER}.volumeMounts.1.mountPath"),
            id="a path twice",
        ),
        pytest.param(
            changed(f"{CONTAINER}.ports.1", {"containerPort": 9000}),
            bracketed(f"{CONTAINER}.ports.1"),
            id="two ports",
        ),
        pytest.param(
            changed(f"{CONTAINER}.livenessProbe.exec", {"command": ["true"]}),
            bracketed(f"{CONTAINER}.livenessProbe"),
            id="a probe of two kinds",
        ),
        pytest.param(changed("spec", "all"), "spec", id="a text where a mapping belongs"),
        pytest.param(changed("metadata.name", GONE), "metadata.name", id="no name"),
    ],
)
def test_is_refused_together(document, place):
    found = said(document)
    assert ("refused", place) in found, found


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        pytest.param(f"{POD}.maxDurationSeconds", 60, "no such field", id="a field that never was"),
        pytest.param(
            f"{POD}.timeoutSecond", 60, "nearest is timeoutSeconds", id="a misspelt field"
        ),
        pytest.param("spec.runLatest", {}, "no such field", id="a field of long ago"),
        pytest.param(f"{SCALING}windw", "60s", "nearest is window", id="a misspelt annotation"),
        pytest.param(
            f"{CONTAINER}.securityContext.capabilities.drop.0",
            "all",
            "ALL",
            id="all in small letters",
        ),
        pytest.param(
            f"{POD}.responseStartTimeoutSeconds",
            121,
            "timeoutSeconds, 120",
            id="a later first byte",
        ),
        pytest.param(f"{POD}.idleTimeoutSeconds", 121, "timeoutSeconds, 120", id="a later silence"),
    ],
)
def test_is_ignored(place, value, words):
    assert words in said(changed(place, value))["ignored", bracketed(place)]


@pytest.mark.parametrize(
    ("place", "value", "shown"),
    [
        pytest.param(f"{CONTAINER}.ports.0.containerPort", 8112, None, id="the port of TLS"),
        pytest.param(
            f"{CONTAINER}.startupProbe", {"httpGet": {"port": 8080}}, None, id="a startup probe"
        ),
        pytest.param(f"{CONTAINER}.readinessProbe", GONE, None, id="no readiness probe"),
        pytest.param(
            f"{CONTAINER}.readinessProbe",
            {"exec": {"command": ["true"]}},
            f"{CONTAINER}.readinessProbe.exec",
            id="a program as a probe",
        ),
        pytest.param(f"{POD}.containerConcurrency", GONE, None, id="calls without a limit"),
        pytest.param(f"{POD}.containerConcurrency", 0, None, id="any number of calls"),
        pytest.param(f"{POD}.timeoutSeconds", 59, None, id="too little time to end in"),
        pytest.param(
            f"{CONTAINER}.resources.limits.memory", GONE, None, id="memory without a limit"
        ),
        pytest.param(f"{CONTAINER}.securityContext.runAsNonRoot", GONE, None, id="root"),
        pytest.param(
            f"{CONTAINER}.securityContext.readOnlyRootFilesystem",
            GONE,
            None,
            id="a root to write to",
        ),
        pytest.param(
            "metadata.labels.networking\\.knative\\.dev/visibility", GONE, None, id="for everybody"
        ),
        pytest.param(f"{CONTAINER}.env", [], None, id="no token"),
        pytest.param(
            f"{CONTAINER}.env.0",
            {"name": "RUNNER_SERVICE_TOKEN", "value": "x" * 40},
            None,
            id="a token for everybody to read",
        ),
        pytest.param(f"{POD}.volumes.2.secret.defaultMode", 0o400, None, id="a file of root's"),
        pytest.param(
            f"{CONTAINER}.volumeMounts.2.subPath", "token", None, id="a file mounted alone"
        ),
    ],
)
def test_is_unwise(place, value, shown):
    found = said(changed(place, value))
    assert ("unwise", bracketed(shown or place)) in found, found
    assert {effect for effect, _ in found} == {"unwise"}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        pytest.param(f"{SCALING}window", "1h", id="an hour"),
        pytest.param(f"{SCALING}window", "1m30s", id="a minute and a half"),
        pytest.param(f"{SCALING}max-scale", "0", id="any number of pods"),
        pytest.param(f"{SCALING}metric", "rps", id="requests a second"),
        pytest.param(f"{SCALING}class", "mine.example.com", id="an autoscaler of one's own"),
        pytest.param(f"{POD}.nodeSelector", None, id="a field that is null"),
        pytest.param(
            f"{CONTAINER}.envFrom", [{"secretRef": {"name": "more"}}], id="more variables"
        ),
        pytest.param("spec.traffic", GONE, id="all traffic to the latest"),
        pytest.param("status", {"url": "http://runner"}, id="what kubectl get shows"),
        pytest.param("spec.template.metadata.name", "runner-two", id="a revision with a name"),
        pytest.param(
            "spec.traffic",
            [{"latestRevision": True, "percent": 90}, {"revisionName": "runner-1", "percent": 10}],
            id="traffic that is split",
        ),
    ],
)
def test_is_fine(place, value):
    assert said(changed(place, value)) == {}


def test_cpu_is_for_the_other_autoscaler():
    hpa = changed(f"{SCALING}class", "hpa.autoscaling.knative.dev")
    assert said(changed(f"{SCALING}metric", "cpu", hpa)) == {}


def test_what_an_administrator_may_allow_is_told():
    reason = said(changed(f"{POD}.nodeSelector", {}))["refused", f"{POD}.nodeSelector"]
    assert "kubernetes.podspec-nodeselector in config-features" in reason


@pytest.mark.parametrize(
    ("place", "value"),
    [
        pytest.param("metadata.name", "runner", id="a name that is no domain"),
        pytest.param(
            "metadata.name", "runner.extensions.svc.cluster.local", id="a name of the cluster"
        ),
        pytest.param("metadata.generateName", "runner-", id="a name that is made up"),
        pytest.param("spec.ref.namespace", "other", id="a Service elsewhere"),
    ],
)
def test_a_domain_is_refused(place, value):
    mapping = documents("--domain", "r.example.com")["DomainMapping r.example.com"]
    assert said(mapping) == {}
    assert ("refused", place) in said(changed(place, value, mapping))


def model_of(annotation):
    """The model in an annotation such as `Optional[List[Annotated[Container, …]]]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(model_of, get_args(annotation))), None)


def fields_at(where):
    """The names of the fields that somebody else's schema has there."""
    model = Service
    for step in (step for step in where if step is not EACH):
        found = {field.alias or name: field for name, field in model.model_fields.items()}
        model = model_of(found[step].annotation)
    return {field.alias or name for name, field in model.model_fields.items()}


# It has no fields for an emptyDir.
SHAPED = [shape for shape in SHAPES if shape.where != (*VOLUME, "emptyDir")]


@pytest.mark.parametrize("shape", SHAPED, ids=lambda shape: ".".join(shape.where) or "a Service")
def test_fields_are_those_of_somebody_elses_schema(shape):
    known, allowed = fields_at(shape.where), set(shape.allowed.split())
    assert allowed <= known
    # Theirs has what an administrator may allow.
    assert known - allowed <= shape.refused.keys() | FLAGS.keys()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
PLACES = (
    *("spec", "spec.template", "spec.template.metadata.annotations", "metadata", "metadata.name"),
    *("spec.traffic", "spec.traffic.0", "spec.traffic.0.percent", "spec.traffic.0.tag"),
    *(f"{POD}.{name}" for name in ("containers", "volumes", "volumes.0", "timeoutSeconds")),
    *(f"{CONTAINER}.{name}" for name in ("env", "env.0", "env.0.name", "ports", "securityContext")),
    *(f"{CONTAINER}.{name}" for name in ("volumeMounts", "volumeMounts.0.name", "readinessProbe")),
    *(f"{SCALING}{name}" for name in ("min-scale", "window", "metric", "class", "target")),
)


@given(st.sampled_from(PLACES), JSON)
def test_whatever_is_written_somewhere_is_judged(place, value):
    for remark in remarks(changed(place, value)):
        assert (remark.effect in ("refused", "ignored", "unwise"), bool(remark.reason)) == (
            True,
            True,
        )


# As it is typed


def test_the_exit_status_says_whether_something_is_refused():
    for document, status in (
        (changed(f"{POD}.timeoutSeconds", 700), 1),
        (changed(f"{POD}.timeoutSeconds", 30), 0),
    ):
        assert knative("lint", "-", stdin=json.dumps(document)).exit_code == status


def test_what_is_worst_comes_first():
    document = changed(f"{POD}.timeoutSeconds", 700, changed(f"{POD}.spare", 1))
    document = changed(f"{CONTAINER}.readinessProbe", GONE, document)
    lines = knative("lint", "-", stdin=json.dumps(document)).stdout.splitlines()
    assert lines[0] == "Service extensions/runner: 3 remarks"
    assert [line.split()[0] for line in lines[1:]] == ["refused", "ignored", "unwise"]


def test_remarks_for_programs(tmp_path):
    file = tmp_path / "service.json"
    file.write_text(json.dumps(changed(f"{POD}.timeoutSeconds", 700)))
    done = knative("lint", "--json", file)
    [found] = json.loads(done.stdout)
    assert found["document"] == "Service extensions/runner"
    assert [(each["effect"], each["place"]) for each in found["remarks"]] == [
        ("refused", f"{POD}.timeoutSeconds")
    ]


def test_the_mistakes_of_yaml_are_found():
    text = manifest().replace('min-scale: "1"', "min-scale: 1")
    done = knative("lint", "-", stdin=text)
    assert done.exit_code == 1
    assert "it has to be a text: put it in quotes" in done.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "has no Knative Service", id="nothing"),
        pytest.param(
            "kind: Service\napiVersion: v1\n",
            "has no Knative Service",
            id="a Service of Kubernetes",
        ),
        pytest.param("a: [", "is no YAML", id="half a list"),
        pytest.param("a: 1\na: 2\n", "a stands twice", id="a field that stands twice"),
    ],
)
def test_what_is_no_manifest_is_told_in_one_line(text, words):
    done = knative("lint", "-", stdin=text)
    assert (done.exit_code, done.stdout) == (1, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_json_is_judged_without_pyyaml(monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert knative("lint", "-", stdin=json.dumps(usual())).exit_code == 0
    done = knative("lint", "-", stdin="a: 1")
    assert "pip install 'runnerwsgi[knative]'" in done.stderr


def test_nothing_of_a_file_steers_the_terminal():
    done = knative("lint", "-", stdin=json.dumps(changed("metadata.name", "\x1b[2J")))
    assert "\x1b" not in done.stdout


def test_no_name_in_a_file_passes_for_a_line_of_ours():
    forged = "x\nService extensions/runner: 0 remarks"
    done = knative("lint", "-", stdin=json.dumps(changed("metadata.name", forged)))
    assert "Service extensions/runner: 0 remarks" not in done.stdout.splitlines()


def test_the_how_to_shows_what_is_said():
    document = changed(f"{POD}.nodeSelector", {"disk": "ssd"})
    document = changed(f"{SCALING}min-scale", 1, document)
    document = changed(f"{POD}.timeoutSecond", 60, document)
    document = changed(f"{CONTAINER}.startupProbe", {"httpGet": {"port": 8080}}, document)
    said = knative("lint", "-", stdin=json.dumps(document)).stdout.splitlines()
    page = (ROOT / "docs" / "how-to" / "knative.md").read_text("utf-8").splitlines()
    assert set(said) <= set(page)
