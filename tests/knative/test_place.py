"""Which address calls go to: one that was set, or the one that the Kubernetes API has."""

import json
import os
import time
from contextlib import contextmanager

import pytest
from knative_objects import NAMESPACE, ksvc
from knative_site import KnativeSite
from kube_api import kube_api
from runnerwsgi_knative import plugin
from runnerwsgi_knative.kubernetes.access import Access
from runnerwsgi_knative.kubernetes.cluster import Cluster
from runnerwsgi_knative.kubernetes.credentials import Kept
from runnerwsgi_knative.place import Resolved
from servers import runner

from runnerwsgi.client import RunnerClient
from runnerwsgi.errors import BackendUnreachable, ConfigurationError
from runnerwsgi.origins import Origin
from runnerwsgi.service_token import ServiceToken

BODY = b"hello"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def pod(folder):
    with runner(folder / "home") as server:
        yield server


@pytest.fixture
def api(tmp_path):
    with kube_api(tmp_path) as api:
        yield api


@pytest.fixture
def site(api, folder):
    """A gateway that knows nothing of its runner but the service's name."""

    @contextmanager
    def make(**env):
        given = {
            "RUNNER_BASE_URL": "",
            "RUNNER_KNATIVE_SERVICE": f"{NAMESPACE}/runner",
            "KUBECONFIG": str(api.kubeconfig()),
        }
        with KnativeSite(folder, "", env=given | env) as made:
            yield made

    return make


@pytest.fixture
def resolve(api):
    """A place that looks for its address all the time."""
    made = []

    def make(**options):
        cluster = Cluster.from_env({"KUBECONFIG": str(api.kubeconfig())}, NAMESPACE)
        options = {"seconds": 0.02} | options
        made.append(Resolved(cluster, "runner", connect, **options))
        return made[-1]

    yield make
    for place in made:
        place.close()


def connect(url):
    return RunnerClient(url, ServiceToken(), variable="RUNNER_KNATIVE_SERVICE")


def becomes(place, base):
    """Wait for the address to be *base*."""
    end = time.monotonic() + 5
    while (known := place.known) is None or known.base != base:
        assert time.monotonic() < end, f"it is {known and known.base}"
        time.sleep(0.01)


def test_calls_go_to_the_address_in_the_status_of_the_service(api, pod, site):
    api.put(ksvc(address=pod.url))
    with site() as made:
        assert made.call("POST", body=BODY).status == 200
        assert made.call("POST", body=BODY).status == 200
    assert {one.path.rpartition("/")[2] for one in api.requests} == {"runner"}


def test_calls_of_a_tag_go_to_its_own_address(api, pod, site):
    target = {"revisionName": "runner-00002", "percent": 0, "tag": "next", "url": pod.url}
    api.put(ksvc(address="http://127.0.0.1:1", traffic=[target]))
    with site(RUNNER_KNATIVE_TAG="next") as made:
        assert made.call("POST", body=BODY).status == 200


def test_a_set_address_goes_before_the_service(api, pod, site):
    api.put(ksvc(address="http://127.0.0.1:1"))
    with site(RUNNER_BASE_URL=pod.url) as made:
        assert made.call("POST", body=BODY).status == 200
    assert not api.requests


def test_the_first_call_waits_for_the_address(api, pod, site):
    api.put(ksvc(address=pod.url))
    api.delay = 0.3
    with site() as made:
        assert made.call("POST", body=BODY).status == 200


def test_no_call_waits_for_an_api_that_hangs_once_the_address_is_known(api, pod, resolve):
    api.put(ksvc(address=pod.url))
    place = resolve()
    becomes(place, pod.url)
    api.delay = 2.0
    time.sleep(0.05)  # the address is old by now
    started = time.monotonic()
    assert place.client(5.0).base == pod.url
    assert time.monotonic() - started < 1.5


def test_an_address_that_changes_is_followed(api, resolve):
    api.put(ksvc(address="http://one.test"))
    place = resolve()
    becomes(place, "http://one.test")
    api.put(ksvc(address="http://two.test"))
    becomes(place, "http://two.test")


def test_a_client_is_kept_while_its_address_is(api, resolve):
    api.put(ksvc(address="http://one.test/"))
    place = resolve()
    first = place.client(5.0)
    seen = len(api.requests)
    while len(api.requests) < seen + 3:
        assert place.client(0.0) is first
        time.sleep(0.01)


LOST = {
    "the service is deleted": lambda api: api.remove("services", "runner"),
    "the role is taken away": lambda api: api.forbid("services"),
    "the token ends": lambda api: api.rotate(),
    "Knative is gone": lambda api: setattr(api, "installed", False),
    "the service loses its address": lambda api: api.put(ksvc(status={})),
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
def test_the_last_address_stays_and_the_loss_is_told_once_when(api, resolve, caplog, lose):
    api.put(ksvc(address="http://one.test"))
    place = resolve()
    becomes(place, "http://one.test")
    lose(api)
    seen = len(api.requests)
    while len(api.requests) < seen + 4:
        assert place.client(0.0).base == "http://one.test"
        time.sleep(0.01)
    assert caplog.text.count("Calls go on to http://one.test.") == 1
    # Below the one name that applications and our own commands set up.
    assert {record.name.partition(".")[0] for record in caplog.records} == {"runnerwsgi"}


UNKNOWN = {
    "there is no such service": (lambda api: None, 'services.serving.knative.dev "runner" not'),
    "nobody may ask": (lambda api: api.forbid("services"), "cannot get resource"),
    "it has no address yet": (lambda api: api.put(ksvc(status={})), "kubectl describe ksvc"),
    "its address is that of a cloud's metadata": (
        lambda api: api.put(ksvc(address="http://169.254.169.254")),
        "neither link-local nor multicast",
    ),
    "its address names somebody": (
        lambda api: api.put(ksvc(address="http://a@one.test")),
        "not the address of",
    ),
    "its address is none": (lambda api: api.put(ksvc(address="runner")), "not the address of"),
}


@pytest.mark.parametrize(("set_up", "problem"), UNKNOWN.values(), ids=UNKNOWN)
def test_without_an_address_a_call_says_why(api, resolve, set_up, problem):
    set_up(api)
    with pytest.raises(BackendUnreachable, match="extensions/runner is not known") as failed:
        resolve().client(5.0)
    assert problem in str(failed.value)
    assert problem not in failed.value.detail


def test_a_service_without_the_tag_has_no_address_of_it(api, resolve):
    api.put(ksvc())
    with pytest.raises(BackendUnreachable, match="no address of the tag next"):
        resolve(tag="next").client(5.0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_worker_forked_from_who_made_the_place_finds_the_address(api, resolve):
    api.put(ksvc(address="http://one.test"))
    place = resolve(seconds=60.0)
    becomes(place, "http://one.test")
    late = resolve(seconds=60.0)  # its first look is the parent's, and ends there
    child = os.fork()
    if child == 0:
        found = {one.client(5.0).base for one in (place, late)}
        os._exit(0 if found == {"http://one.test"} else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_service_that_comes_later_is_found(api, resolve):
    place = resolve()
    with pytest.raises(BackendUnreachable):
        place.client(5.0)
    api.put(ksvc(address="http://one.test"))
    becomes(place, "http://one.test")


def test_a_gateway_without_an_address_is_unavailable_and_says_why(api, site):
    with site() as made:
        assert made.call("POST", body=BODY).status == 502
        health = made.gateway.health()
    assert health.status == "unavailable"
    assert "extensions/runner is not known" in health.checks["route"]


UNVERIFIED = {
    "a server that nobody looks at": {"insecure-skip-tls-verify": True},
    "the open network": {"server": "http://kube.example.com:8001"},
}


@pytest.mark.parametrize("cluster", UNVERIFIED.values(), ids=UNVERIFIED)
def test_the_token_goes_where_no_stranger_may_send_it(tmp_path, cluster):
    config = tmp_path / "config"
    said = {"server": "https://kube.example.com:6443"} | cluster
    config.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": said}],
                "contexts": [{"name": "x", "context": {"cluster": "c"}}],
                "current-context": "x",
            }
        )
    )
    env = {
        "HOME": str(tmp_path),
        "KUBECONFIG": str(config),
        "RUNNER_KNATIVE_SERVICE": "a/b",
        "RUNNER_SERVICE_TOKEN": "t" * 32,
    }
    with pytest.raises(ConfigurationError, match="nothing verifies who that is"):
        plugin(env)
    # Where it does not say where calls go, it may say what it likes.
    for more in ({"RUNNER_BASE_URL": "http://127.0.0.1:1"}, {"RUNNER_ALLOW_INSECURE": "1"}):
        plugin(env | more).runner_close()


def test_an_api_on_this_machine_is_nobody_elses():
    assert Access(Origin("http", "127.0.0.1", 8001), "", Kept()).is_vouched_for
    assert not Access(Origin("http", "10.0.0.1", 8001), "", Kept()).is_vouched_for


WRONG = {
    "neither an address nor a name": ({}, "neither RUNNER_BASE_URL nor RUNNER_KNATIVE_SERVICE"),
    "a name without a namespace": ({"RUNNER_KNATIVE_SERVICE": "runner"}, "namespace/name"),
    "no way to the API": ({"RUNNER_KNATIVE_SERVICE": "a/b"}, "no way to the Kubernetes API"),
    "a context of nothing": (
        {"RUNNER_KNATIVE_SERVICE": "a/b", "RUNNER_KNATIVE_CONTEXT": "x"},
        "no way to the Kubernetes API",
    ),
}


@pytest.mark.parametrize(("env", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_looked_up_stops_the_start(tmp_path, env, message):
    with pytest.raises(ConfigurationError, match=message):
        plugin(env | {"HOME": str(tmp_path)})
