"""kubectl takes the fake Kubernetes API of `kube_api.py` for a real one."""

import pytest
from knative_objects import ksvc, revision
from kube_api import kube_api
from kubectl import kubectl

RAW = "/apis/serving.knative.dev/v1/namespaces/extensions/services/absent"


@pytest.fixture
def api(tmp_path):
    with kube_api(tmp_path) as api:
        api.put(ksvc())
        yield api


@pytest.fixture
def ask(api, tmp_path):
    config = api.kubeconfig(namespace="extensions")
    return lambda *args: kubectl(tmp_path, *args, KUBECONFIG=config)


def test_services_are_printed_as_knative_prints_them(api, ask):
    api.put(ksvc("torn", conditions={"Ready": ("False", "RevisionFailed", "no image")}))
    heads, *rows = ask("get", "ksvc").rows
    assert heads == ["NAME", "URL", "LATESTCREATED", "LATESTREADY", "READY", "REASON"]
    assert [(row[0], *row[2:]) for row in rows] == [
        ("runner", "runner-00001", "runner-00001", "True"),
        ("torn", "torn-00001", "torn-00001", "False", "RevisionFailed"),
    ]


def test_revisions_are_chosen_by_label(api, ask):
    api.put(revision(actual=1, desired=1))
    api.put(revision("other-00003", service="other"))
    assert ask("get", "rev", "-l", "serving.knative.dev/service=runner").rows[1:] == [
        ["runner-00001", "runner", "1", "True", "1", "1"]
    ]


def test_one_field_of_a_service_can_be_asked_for(ask):
    said = ask("get", "ksvc", "runner", "-o", "jsonpath={.status.address.url}")
    assert said.out == "http://runner.extensions.svc.cluster.local"


@pytest.mark.parametrize("command", [("ksvc", "absent"), ("--raw", RAW)], ids=["table", "raw"])
def test_an_absent_service_is_named(ask, command):
    said = ask("get", *command)
    assert said.status == 1
    assert 'services.serving.knative.dev "absent" not found' in said.err


def test_a_user_without_the_right_is_told_which(api, ask):
    api.forbid("services")
    assert 'cannot list resource "services" in API group' in ask("get", "ksvc").err


def test_an_administrator_comes_with_a_certificate(api, tmp_path):
    api.forbid("services")
    certificate, key = tmp_path / "admin.crt", tmp_path / "admin.key"
    for file, data in zip((certificate, key), api.client_certificate(), strict=True):
        file.write_bytes(data)
    user = {"client-certificate": str(certificate), "client-key": str(key)}
    said = kubectl(tmp_path, "get", "ksvc", "-A", KUBECONFIG=api.kubeconfig(**user))
    assert said.rows[1][:2] == ["extensions", "runner"], said.err


def test_a_token_of_yesterday_is_refused(api, ask):
    api.rotate()
    assert "You must be logged in to the server" in ask("get", "ksvc").err


def test_a_busy_server_is_asked_again_when_it_said(api, ask):
    api.refuse(429, retry_after=1)
    assert ask("get", "--raw", "/version").status == 0
    assert [request.path for request in api.requests] == ["/version", "/version"]


def test_a_cluster_without_knative_has_no_such_resource(api, ask):
    api.installed = False
    assert 'resource type "ksvc"' in ask("get", "ksvc").err
    assert "could not find the requested resource" in ask("get", "--raw", RAW).err


def test_a_stopped_server_comes_back_where_it_was(api, ask):
    api.stop()
    try:
        assert "refused" in ask("get", "--raw", "/version").err
    finally:
        api.start()
    assert ask("get", "--raw", "/version").status == 0
