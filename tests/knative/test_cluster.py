"""What the Kubernetes API answers, and what becomes of it."""

import json
import os
import threading
import time

import pytest
from authority import Authority
from knative_objects import NAMESPACE, ksvc, revision
from kube_api import USER, encoded, kube_api
from peers import always, peer
from runnerwsgi_knative.kubernetes.access import in_cluster
from runnerwsgi_knative.kubernetes.cluster import Cluster, ClusterError

from runnerwsgi.errors import ConfigurationError


@pytest.fixture
def api(tmp_path):
    with kube_api(tmp_path) as api:
        api.put(ksvc())
        yield api


@pytest.fixture
def reach(api):
    """Make a cluster by a kubeconfig, closed after the test."""
    made = []

    def make(env=None, **options):
        env = env or {"KUBECONFIG": str(api.kubeconfig())}
        made.append(Cluster.from_env(env, NAMESPACE, **options))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


def failure(cluster, kind="services", name="runner"):
    with pytest.raises(ClusterError) as failed:
        cluster.get(kind, name)
    return failed.value


def test_a_service_comes_as_it_is(reach):
    found = reach().get("services", "runner")
    assert found["status"]["address"]["url"] == "http://runner.extensions.svc.cluster.local"


def test_a_revision_comes_as_it_is(api, reach):
    api.put(revision(actual=2))
    assert reach().get("revisions", "runner-00001")["status"]["actualReplicas"] == 2


def test_only_what_is_asked_for_is_asked_for(api, reach):
    cluster = reach()
    cluster.get("services", "runner")
    cluster.get("services", "runner")
    path = "/apis/serving.knative.dev/v1/namespaces/extensions/services/runner"
    assert [(one.method, one.path, one.user) for one in api.requests] == [("GET", path, USER)] * 2
    assert api.requests[0].headers["User-Agent"].startswith("runnerwsgi/")


def test_an_absent_service_is_told_from_an_absent_knative(api, reach):
    cluster = reach()
    absent = failure(cluster, name="other")
    assert absent.kind == "absent"
    assert 'services.serving.knative.dev "other" not found' in str(absent)
    api.installed = False
    assert failure(cluster).kind == "not-installed"


def test_a_missing_role_is_told_with_what_is_missing(api, reach):
    api.forbid("services")
    refused = failure(reach())
    assert refused.kind == "forbidden"
    assert 'cannot get resource "services"' in str(refused)
    assert "runnerwsgi knative manifest" in str(refused)


@pytest.mark.parametrize(
    ("status", "wait", "kind"),
    [(429, 7, "busy"), (429, None, "busy"), (503, 3, "busy"), (500, None, "unreachable")],
    ids=["too many", "too many, without a time", "unavailable", "an internal error"],
)
def test_an_api_that_turns_us_away(api, reach, status, wait, kind):
    api.refuse(status, retry_after=wait)
    cluster = reach()
    assert failure(cluster).kind == kind
    assert reach().get("services", "runner")


def test_a_busy_api_is_asked_nothing_before_its_time(api, reach):
    api.refuse(429, retry_after=1)
    cluster = reach()
    busy = failure(cluster)
    again = failure(cluster, name="other")
    assert (again.kind, str(again)) == ("busy", str(busy))
    assert len(api.requests) == 1
    time.sleep(1.1)
    assert cluster.get("services", "runner")


def test_an_api_that_is_gone_comes_back(api, reach):
    cluster = reach()
    cluster.get("services", "runner")
    api.stop()
    try:
        assert failure(cluster).kind == "unreachable"
    finally:
        api.start()
    assert cluster.get("services", "runner")


OTHERS = {
    "a page of somebody's": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
    "an object of another kind": b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"kind":"Pod"}',
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
    "something that is not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
}


@pytest.mark.parametrize("answer", OTHERS.values(), ids=OTHERS)
def test_what_is_not_a_kubernetes_api_is_told(api, reach, answer):
    with peer(always(answer)) as other:
        config = api.kubeconfig(cluster={"server": other.url})
        failed = failure(reach({"KUBECONFIG": str(config)}))
    assert failed.kind == "unreachable"
    assert b"Authorization" not in b"".join(other.requests), "a token went in the clear"


def test_an_api_that_is_silent_has_no_more_than_its_time(api, reach):
    with peer(lambda talk: talk.request() and talk.request()) as silent:
        config = api.kubeconfig(cluster={"server": silent.url})
        failed = failure(reach({"KUBECONFIG": str(config)}, timeout=0.2))
    assert failed.kind == "unreachable"
    assert "deadline exceeded (0.2 s)" in str(failed)


# In a pod


@pytest.fixture
def pod(api, reach, tmp_path):
    folder = tmp_path / "serviceaccount"
    env = api.service_account(folder) | {"HOME": str(tmp_path)}
    return reach(env, service_account=folder), folder


def test_a_pod_uses_its_service_account(api, pod):
    cluster, folder = pod
    assert cluster.get("services", "runner")
    assert (cluster.namespace, cluster.source) == (NAMESPACE, str(folder))


def test_a_token_that_rotates_is_read_again(api, pod):
    cluster, folder = pod
    cluster.get("services", "runner")
    (folder / "token").write_text(api.rotate())
    assert cluster.get("services", "runner")
    assert all(one.user == USER for one in api.requests), "an ended token was shown"


def test_a_token_that_ends_before_its_file_changes_is_refused_until_then(api, pod):
    cluster, folder = pod
    token = api.rotate()
    assert failure(cluster).kind == "unauthorized"
    (folder / "token").write_text(token)
    assert cluster.get("services", "runner")


def test_a_token_that_vanishes_for_a_moment_stays_in_use(api, pod, caplog):
    cluster, folder = pod
    (folder / "token").unlink()
    assert cluster.get("services", "runner")
    assert "what it held stays in use" in caplog.text


def test_an_authority_that_is_replaced_is_trusted(api, tmp_path, reach):
    folder = tmp_path / "serviceaccount"
    env = api.service_account(folder) | {"HOME": str(tmp_path)}
    other = tmp_path / "other"
    other.mkdir()
    (folder / "ca.crt").write_bytes(Authority(other).pem)
    cluster = reach(env, service_account=folder)
    assert failure(cluster).kind == "unreachable"
    (folder / "ca.crt").write_bytes(api.authority.pem)
    assert cluster.get("services", "runner")


def test_an_authority_of_an_older_cluster_is_trusted(tmp_path):
    with kube_api(tmp_path, Authority(tmp_path, sparing=True)) as api:
        api.put(ksvc())
        cluster = Cluster.from_env({"KUBECONFIG": str(api.kubeconfig())}, NAMESPACE)
        assert cluster.get("services", "runner")
        cluster.close()


def test_a_pod_may_have_an_ipv6_cluster(api, tmp_path):
    api.service_account(tmp_path)
    env = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert str(in_cluster(env, tmp_path).origin) == "https://[fd00::1]:6443"


def test_an_authority_that_turns_into_rubbish_is_told(api, pod):
    cluster, folder = pod
    (folder / "ca.crt").write_text("rubbish")
    failed = failure(cluster)
    assert failed.kind == "unreachable"
    assert "must be PEM" in str(failed)


def test_without_a_cluster_there_is_a_hint(tmp_path):
    with pytest.raises(ConfigurationError, match="no pod with a service account"):
        Cluster.from_env({"HOME": str(tmp_path)}, NAMESPACE)


# Threads and processes


def test_many_threads_may_ask_at_once(api, reach):
    cluster, found = reach(), []
    threads = [
        threading.Thread(target=lambda: found.append(cluster.get("services", "runner")))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one["metadata"]["name"] for one in found] == ["runner"] * 16


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_may_ask_with_what_its_parent_made(api, reach):
    cluster = reach()
    cluster.get("services", "runner")
    cluster._door._lock.acquire()  # as a thread that the child does not have would
    child = os.fork()
    if child == 0:
        os._exit(0 if cluster.get("services", "runner") else 1)
    cluster._door._lock.release()
    assert os.waitpid(child, 0)[1] == 0


def test_neither_tokens_nor_keys_show_themselves(api, reach):
    certificate, key = api.client_certificate()
    user = {
        "client-certificate-data": encoded(certificate),
        "client-key-data": encoded(key),
        "token": api.token,
    }
    cluster = reach({"KUBECONFIG": str(api.kubeconfig(**user))})
    proof = cluster._access.credentials.current()
    assert proof.token == api.token
    assert api.token not in repr(proof)
    assert "PRIVATE" not in repr(proof)


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"address": "http://x"}, id="an address that is a text"),
        pytest.param({"address": {"url": ["http://x"]}}, id="a list for an address"),
        pytest.param({"traffic": {"percent": 100}}, id="traffic that is no list"),
        pytest.param({"traffic": [{"percent": "100"}]}, id="a share that is a text"),
        pytest.param({"conditions": [{"type": "Ready", "message": 5}]}, id="a message of a number"),
        pytest.param({"conditions": ["Ready"]}, id="a condition that is a text"),
        pytest.param([], id="a status that is a list"),
    ],
)
def test_an_object_that_no_knative_would_write_is_none(api, reach, status):
    api.put(ksvc() | {"status": status})
    assert failure(reach()).kind == "unreachable"


def test_what_the_api_says_steers_no_terminal_and_forges_no_log(api, reach):
    said = json.dumps({"message": "no\x1b[2J\n2026-01-01 ERROR forged\x9b0m\u202e"}).encode()
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(said)
    with peer(always(head + said)) as other:
        config = api.kubeconfig(cluster={"server": other.url})
        failed = failure(reach({"KUBECONFIG": str(config)}))
    assert "ERROR forged" in str(failed)
    assert str(failed).isprintable()


def test_a_namespace_is_one_step_of_a_path(api):
    cluster = Cluster.from_env({"KUBECONFIG": str(api.kubeconfig())}, "../../../api")
    assert failure(cluster).kind in ("absent", "forbidden")
    assert api.requests[-1].path.split("/")[5] == "..%2F..%2F..%2Fapi"
    cluster.close()
