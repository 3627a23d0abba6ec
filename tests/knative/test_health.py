"""Health in three layers, each looked at where it is: a Kubernetes API, Knative, and a runner."""

import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest
from knative_double import ROWS, double
from knative_objects import NAMESPACE, ksvc, revision
from knative_site import KnativeSite
from kube_api import kube_api
from peers import peer, unused_port
from runnerwsgi_knative import about, plugin, route
from runnerwsgi_knative.control import Control
from runnerwsgi_knative.kubernetes.cluster import Cluster
from runnerwsgi_knative.layers import NOT_YET, Layer, of_answer, total
from servers import runner
from ways import WAYS, way

from runnerwsgi import Gateway
from runnerwsgi.client import LastAnswer, RunnerClient
from runnerwsgi.service_token import ServiceToken

TOKEN = "t" * 40
OLD, NEW = "runner-00001", "runner-00002"
IDLE = {"Active": ("False", "NoTraffic", "The target is not receiving traffic.")}
FAILED = ("False", "RevisionFailed", f'Revision "{NEW}" failed with message: no token.')
UNKNOWN = Layer("unknown")
NOT_ASKED = Layer("not asked")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def asleep(folder):
    """A service that is scaled to zero, and whom no test may wake."""
    with double(folder / "home", pods=0) as service:
        yield service
        assert service.started == 0


@pytest.fixture(scope="module")
def pod(folder):
    with runner(folder / "home", RUNNER_SERVICE_TOKEN=TOKEN) as server:
        yield server


@pytest.fixture
def api(tmp_path):
    """The API of a cluster that has the service, scaled to zero."""
    with kube_api(tmp_path) as api:
        api.put(ksvc())
        api.put(revision(OLD, conditions=IDLE))
        yield api


@pytest.fixture
def control(api):
    cluster = Cluster.from_env({"KUBECONFIG": str(api.kubeconfig())}, NAMESPACE)
    with closing(Control(cluster, "runner")) as control:
        yield control


def asking(api):
    """What an application sets that may ask Kubernetes."""
    return {
        "RUNNER_KNATIVE_SERVICE": f"{NAMESPACE}/runner",
        "KUBECONFIG": str(api.kubeconfig()),
    }


@contextmanager
def gateway_to(url, **env):
    with closing(Gateway(plugin({"RUNNER_BASE_URL": url} | env))) as gateway:
        yield gateway


def health_of(url, **env):
    with gateway_to(url, **env) as gateway:
        return gateway.health()


def words(health):
    return {name: text.partition(":")[0] for name, text in health.checks.items()}


def nowhere():
    return f"http://127.0.0.1:{unused_port()}"


# The sum of the layers


@pytest.mark.parametrize(
    ("control", "route", "runner", "status"),
    [
        pytest.param("ok", "ok", "ok", "ok", id="all is well"),
        pytest.param("ok", "ok", None, "ok", id="nobody asked the runner"),
        pytest.param(None, "ok", None, "ok", id="Kubernetes may not be asked"),
        pytest.param("ok", None, None, "ok", id="the route may not be looked at"),
        pytest.param("degraded", "ok", None, "degraded", id="an old revision serves"),
        pytest.param("unavailable", "ok", None, "unavailable", id="no pod can be started"),
        pytest.param("ok", "unavailable", None, "unavailable", id="no way there"),
        pytest.param("ok", "ok", "unavailable", "unavailable", id="the runner is ill"),
        pytest.param("unavailable", "ok", "ok", "degraded", id="no pod starts, a runner answers"),
        pytest.param("ok", "unavailable", "ok", "degraded", id="no way, a runner answered lately"),
        pytest.param(None, None, "ok", "ok", id="all that is known is that it answers"),
    ],
)
def test_the_worst_counts_but_who_is_nearer_to_the_calls_is_right(control, route, runner, status):
    layers = (Layer("word", one) if one else UNKNOWN for one in (control, route, runner))
    assert total(*layers) == status


def test_what_kubernetes_says_of_a_route_yields_to_an_answer_that_came_over_it():
    open_, gone = Layer("open", "ok"), Layer("down", "unavailable")
    for word in ("down", "absent", "not-installed"):
        assert total(Layer(word, "unavailable"), open_, NOT_ASKED) == "degraded"
        assert total(Layer(word, "unavailable"), gone, NOT_ASKED) == "unavailable"
        assert total(Layer(word, "unavailable"), NOT_ASKED, NOT_ASKED) == "unavailable"


def test_nothing_known_is_amiss_only_where_somebody_was_asked():
    assert total(NOT_ASKED, NOT_ASKED, NOT_ASKED) == "ok"
    assert total(UNKNOWN, NOT_ASKED, NOT_ASKED) == "degraded"
    assert total(NOT_ASKED, NOT_YET, NOT_ASKED) == "degraded"


# Scaled to zero


def test_scaled_to_zero_is_healthy_and_stays_asleep(api, asleep, folder):
    with KnativeSite(folder, asleep.url, env=asking(api)) as site:
        answer = site.send(path="/runner/healthz")
        health = site.gateway.health()
    assert (answer.status, answer.json["status"]) == (200, "ok")
    assert words(health) == {"control": "idle", "route": "open", "runner": "not asked"}
    assert asleep.started == 0


@pytest.mark.parametrize("name", WAYS)
def test_a_look_at_the_route_wakes_nobody_on_any_way(name, tmp_path):
    with way(name, tmp_path / "home", pods=0) as made, closing(Gateway(plugin(made.env))) as there:
        health = there.health()
        assert made.service.started == 0
    assert health.status == "ok"
    assert words(health) == {"control": "not asked", "route": "open", "runner": "not asked"}


# The control plane

CANNOT_ASK = {
    "it forbids it": lambda api: api.forbid("services"),
    "it does not take the token": lambda api: api.rotate(),
    "it is gone": lambda api: api.stop(),
    "it is busy": lambda api: api.refuse(429, retry_after=60),
    "it fails": lambda api: api.refuse(500),
}


@pytest.mark.parametrize("hide", CANNOT_ASK.values(), ids=CANNOT_ASK)
def test_an_api_that_does_not_answer_makes_nothing_unhealthy(api, asleep, hide, request):
    env = asking(api)
    hide(api)
    if "gone" in request.node.name:
        request.addfinalizer(api.start)
    health = health_of(asleep.url, **env)
    assert health.status == "ok"
    assert words(health)["control"] == "unknown"


def test_nothing_that_can_be_known_is_degraded_and_not_unavailable(api, asleep):
    api.forbid("services")
    health = health_of(asleep.url, RUNNER_KNATIVE_PROBE="none", **asking(api))
    assert health.status == "degraded"
    assert words(health) == {"control": "unknown", "route": "not asked", "runner": "not asked"}


def test_revisions_that_may_not_be_read_leave_it_to_the_route(api, asleep):
    api.forbid("revisions")
    health = health_of(asleep.url, **asking(api))
    assert (health.status, words(health)["control"]) == ("ok", "unknown")


def test_an_old_revision_that_serves_is_degraded(api, asleep):
    conditions = {"ConfigurationsReady": FAILED, "Ready": FAILED}
    api.put(ksvc(conditions=conditions, created=NEW, ready=OLD))
    health = health_of(asleep.url, **asking(api))
    assert (health.status, words(health)["control"]) == ("degraded", "degraded")
    assert "no token" in health.checks["control"]


NOT_THERE = {
    "no such service": (lambda api: api.remove("services", "runner"), "absent"),
    "no Knative": (lambda api: setattr(api, "installed", False), "not-installed"),
    "no route": (
        lambda api: api.put(ksvc(conditions={"RoutesReady": ("False", "RevisionMissing")})),
        "down",
    ),
}


@pytest.mark.parametrize(("change", "word"), NOT_THERE.values(), ids=NOT_THERE)
def test_a_service_that_is_not_there_is_unavailable_unless_knative_answers(
    api, asleep, change, word
):
    env = asking(api)
    change(api)
    gone, there = health_of(nowhere(), **env), health_of(asleep.url, **env)
    assert (gone.status, words(gone)["control"]) == ("unavailable", word)
    assert (there.status, words(there)["control"]) == ("degraded", word)


def test_a_service_that_could_not_start_is_asked_to_start_again(api, folder):
    api.put(revision(OLD, conditions={"Active": ("False", "TimedOut", "It did not start.")}))
    with double(folder / "home", pods=0) as service:
        service.hold = True
        with gateway_to(service.url, **asking(api)) as gateway:
            health = gateway.health()
            assert (health.status, words(health)["control"]) == ("unavailable", "failing")
            service.hold = False
            until(lambda: gateway.health().checks["runner"].startswith("ok"), 20)
            assert gateway.health().status == "degraded"  # Kubernetes has not noticed yet


# The route

OF_A_ROUTE = {
    "a name that nobody knows": "http://no-such-host.invalid",
    "a port where nobody listens": None,
    "a server without TLS": "https",
}


@pytest.mark.parametrize("url", OF_A_ROUTE.values(), ids=OF_A_ROUTE)
def test_no_way_there_is_unavailable_and_says_why(asleep, url):
    given = url or nowhere()
    health = health_of(asleep.url.replace("http", "https") if given == "https" else given)
    assert (health.status, words(health)["route"]) == ("unavailable", "down")
    assert len(health.checks["route"]) > 20


# That there is too much to do is no sign of a closed route.
CANNOT_TELL = ("queue-proxy: full",)


@pytest.mark.parametrize("row", ROWS)
def test_whatever_else_answers_on_the_way_is_no_open_route(asleep, row):
    asleep.say(row, path="/healthz")
    health = health_of(asleep.url)
    assert words(health)["route"] == ("unknown" if row in CANNOT_TELL else "down")
    assert not asleep.ingress.unsaid


def test_a_pod_that_is_being_ended_still_serves():
    with peer(always_say(503, b"shutting down\n")) as server:
        health = health_of(server.url)
    assert (health.status, words(health)["route"]) == ("ok", "open")


def test_something_else_altogether_is_unknown():
    with peer(always_say(418, b"teapot")) as server:
        health = health_of(server.url)
    assert words(health)["route"] == "unknown"
    assert "418" in health.checks["route"]


def always_say(status, body):
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    def script(talk):
        while talk.request():
            talk.send(head + body)

    return script


# The runner


def until(fact, seconds=5):
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_a_runner_answered_to_calls_tells_of_it(folder, pod):
    """Without asking it, and without a Kubernetes that may be asked."""
    with double(folder / "home") as service:  # noqa: SIM117
        with KnativeSite(folder, service.url) as site:
            assert site.call("POST", body=b"hello").status == 200
            arrived = service.pods[0].proxy.forwarded
            health = site.gateway.health()
            assert service.pods[0].proxy.forwarded == arrived
            assert health.status == "ok"
            assert words(health)["runner"] == "answered"
            assert f"revision {OLD}" in health.checks["runner"]
            service.say("ingress: no such host", path="/healthz")
            told = health_of(service.url)
            assert told.status == "unavailable"


def test_a_runner_without_knative_before_it_is_asked(pod):
    health = health_of(pod.url, RUNNER_SERVICE_TOKEN=TOKEN)
    assert health.status == "ok"
    assert words(health) | {"control": "not asked", "route": "direct", "runner": "ok"} == words(
        health
    )
    assert "store" in health.checks


def test_a_token_that_the_runner_does_not_take_is_unavailable(pod):
    health = health_of(pod.url, RUNNER_SERVICE_TOKEN=TOKEN[::-1].replace("t", "u"))
    assert (health.status, words(health)["runner"]) == ("unavailable", "wrong-token")


def test_a_call_that_was_refused_for_its_token_is_told_without_asking(folder):
    env = {"RUNNER_SERVICE_TOKEN": TOKEN}
    with double(folder / "home", env=env) as service, KnativeSite(folder, service.url) as site:
        assert site.call("POST", body=b"hello").status == 502
        health = site.gateway.health()
    assert health.status == "unavailable"
    assert words(health)["runner"] == "wrong-token"


@pytest.mark.parametrize(
    ("ago", "status", "word", "means"),
    [
        pytest.param(1, 200, "answered", "ok", id="a moment ago"),
        pytest.param(1, 503, "answered", None, id="it refused a call"),
        pytest.param(100, 200, "answered", None, id="long ago"),
        pytest.param(1, 401, "wrong-token", "unavailable", id="it refused our token"),
        pytest.param(100, 401, "wrong-token", "degraded", id="the token may be right by now"),
    ],
)
def test_an_answer_to_a_call_tells_for_half_a_minute(ago, status, word, means):
    last = LastAnswer(time.time() - ago, status, "runnerwsgi/1", OLD, None, keeps_keys=False)
    found = of_answer(last)
    assert (found.word, found.means) == (word, means)
    assert f"{ago} s ago" in found.detail


def test_a_runner_that_is_kept_awake_anyway_is_asked(api, folder):
    kept = {"autoscaling.knative.dev/min-scale": "1"}
    api.put(revision(OLD, annotations=kept))
    with double(folder / "home") as service:
        health = health_of(service.url, **asking(api))
    assert health.status == "ok"
    assert words(health)["control"] == "active"
    assert words(health)["runner"] == "ok"


def test_http_asks_the_runner_and_wakes_it(folder):
    with double(folder / "home", pods=0) as service:
        with gateway_to(service.url, RUNNER_KNATIVE_PROBE="http") as gateway:
            gateway.health()
            until(lambda: words(gateway.health())["runner"] == "ok", 20)
            health = gateway.health()
        assert service.started == 1
    assert health.status == "ok"
    assert words(health)["route"] == "not asked"


# At once


@contextmanager
def silence():
    """A server that takes connections and says nothing."""
    release = threading.Event()

    def script(talk):
        talk.request()
        release.wait(10)

    with peer(script) as server:
        try:
            yield server
        finally:
            release.set()


def test_health_waits_for_nobody(api):
    api.delay = 2.0
    with silence() as server, gateway_to(server.url, **asking(api)) as gateway:
        for _ in range(2):
            started = time.monotonic()
            health = gateway.health()
            assert time.monotonic() - started < 1.9
            assert words(health)["control"] == words(health)["route"] == "unknown"
            assert health.status == "degraded"


def test_a_way_on_which_nobody_answers_is_down():
    with silence() as server:
        client = RunnerClient(server.url, ServiceToken())
        found = route.look(client, timeout=0.1)
        client.close()
    assert (found.word, found.means) == ("down", "unavailable")


FORKED = textwrap.dedent(
    """
    import os, sys, threading, time
    from contextlib import closing
    from runnerwsgi import Gateway
    from runnerwsgi_knative import plugin

    with closing(Gateway(plugin({"RUNNER_BASE_URL": sys.argv[1]}))) as gateway:
        threading.Thread(target=gateway.health, daemon=True).start()
        sys.stdin.readline()  # the look of the parent is under way
        pid = os.fork()
        if not pid:
            status = 1
            try:
                health = gateway.health()
                assert health.checks["route"].startswith("direct"), health
                status = 0
            finally:
                os._exit(status)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
)


def test_a_process_that_was_forked_looks_for_itself():
    under_way, release, looks = threading.Event(), threading.Event(), []

    def script(talk):
        while talk.request():
            looks.append(1)
            if len(looks) == 1:
                under_way.set()
                release.wait(20)
            talk.send(b"HTTP/1.1 404 X\r\nX-Runner: x/1\r\nContent-Length: 0\r\n\r\n")

    with peer(script) as server:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", FORKED, server.url], stdin=subprocess.PIPE
        )
        assert under_way.wait(20)
        process.stdin.write(b"now\n")
        process.stdin.close()
        assert process.wait(20) == 0
        release.set()


def test_many_that_ask_are_one_look(api, asleep):
    with gateway_to(asleep.url, **asking(api)) as gateway:
        before = asleep.ingress.arrived
        for _ in range(50):
            gateway.health()
        assert asleep.ingress.arrived == before + 1
    assert len([one for one in api.requests if "/services/" in one.path]) == 1


# What it is


def test_metadata_is_what_kubernetes_has_and_the_runner_said(api, folder):
    traffic = [
        {"revisionName": OLD, "percent": 100},
        {"revisionName": NEW, "tag": "next", "url": "http://next-runner.extensions.test"},
    ]
    api.put(ksvc(generation=3, conditions={"Ready": FAILED}, traffic=traffic, created=NEW))
    scale = {"autoscaling.knative.dev/min-scale": "1", "autoscaling.knative.dev/max-scale": "9"}
    api.put(revision(OLD, actual=2, desired=3, digest="a" * 64, annotations=scale))
    with double(folder / "home") as service:  # noqa: SIM117
        with KnativeSite(folder, service.url, env=asking(api)) as site:
            assert site.call("POST", body=b"hello").status == 200
            told = site.gateway.metadata()["recorder"]
            host = urlsplit(service.url).netloc
    assert told["address"] == f"http://{host}"
    assert told["state"] == "degraded"
    assert told["service"] == {
        "name": "runner",
        "namespace": NAMESPACE,
        "generation": 3,
        "observed_generation": 3,
        "url": f"http://runner.{NAMESPACE}.svc.cluster.local",
        "address": f"http://runner.{NAMESPACE}.svc.cluster.local",
        "latest_created": NEW,
        "latest_ready": OLD,
    }
    assert told["traffic"] == [
        {"revision": OLD, "percent": 100},
        {"revision": NEW, "tag": "next", "url": "http://next-runner.extensions.test"},
    ]
    assert told["revisions"] == {
        OLD: {
            "images": [f"registry.example.com/runner@sha256:{'a' * 64}"],
            "timeout_s": 120,
            "container_concurrency": 4,
            "min_scale": 1,
            "max_scale": 9,
            "replicas": 2,
            "wanted_replicas": 3,
        }
    }
    (condition,) = told["conditions"]
    assert condition["of"] == "Service runner"
    assert (condition["type"], condition["reason"]) == ("Ready", "RevisionFailed")
    assert condition["age_s"] > 0
    assert told["last_answer"]["revision"] == OLD
    assert told["last_answer"]["runner"].startswith("runnerwsgi")


def test_metadata_of_a_service_that_nobody_may_see(api, asleep):
    api.forbid("services")
    with gateway_to(asleep.url, **asking(api)) as gateway:
        told = gateway.metadata()["knative"]
    assert told["state"] == "unknown"
    assert told["address"] == asleep.url
    assert "service" not in told


def test_what_was_seen_is_told_while_nobody_may_look(api, control):
    assert about.of_sight(control.look())["state"] == "idle"
    api.forbid("services")
    told = about.of_sight(control.look())
    assert told["state"] == "unknown"
    assert told["service"]["name"] == "runner"
    api.permit("services")
    api.remove("services", "runner")
    told = about.of_sight(control.look())
    assert told["state"] == "absent"
    assert "service" not in told
