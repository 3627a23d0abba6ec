"""`runnerwsgi doctor` with the backend `knative`: what is found, and what to do about it."""

import json
import os

import pytest
from click.testing import CliRunner
from knative_double import double
from knative_objects import ksvc, pod_spec, revision
from kube_api import kube_api

from runnerwsgi.cli import cli

TOKEN = "a-token-of-at-least-32-characters"
HOST = "runner.extensions.svc.cluster.local"
GATEWAY = "http://gateway.web.svc.cluster.local:8000"
PROXY = "http://proxy.test:3128"
UNWANTED = ("RUNNER_", "HTTP", "http", "NO_PROXY", "no_proxy", "ALL_PROXY", "KUBE")


@pytest.fixture(scope="module")
def knative(tmp_path_factory):
    with double(tmp_path_factory.mktemp("pod"), env={"RUNNER_SERVICE_TOKEN": TOKEN}) as knative:
        yield knative


@pytest.fixture
def api(tmp_path):
    with kube_api(tmp_path) as api:
        api.put(ksvc())
        api.put(revision())
        yield api


@pytest.fixture
def examine(tmp_path, knative, monkeypatch):
    """Type `runnerwsgi doctor`; gives exit status and findings, by what was looked at."""
    for name in [name for name in os.environ if name.startswith(UNWANTED)]:
        monkeypatch.delenv(name)
    usual = {
        "RUNNER_BACKEND": "knative",
        "RUNNER_BASE_URL": knative.url,
        "RUNNER_CALLBACK_BASE": GATEWAY,
        "RUNNER_HOME": str(tmp_path / "home"),
        "RUNNER_KNATIVE_HOST": HOST,
        "RUNNER_KNATIVE_COLD_START_MS": "300",
        "RUNNER_SERVICE_TOKEN": TOKEN,
    }

    def examine(**env):
        said = CliRunner().invoke(cli, ["doctor", "--json"], env=usual | env)
        found = json.loads(said.stdout)["findings"]
        assert all(one["fix"] for one in found if one["state"] != "ok"), found
        return said.exit_code, {one["what"]: one for one in found}

    return examine


@pytest.fixture
def with_api(examine, api):
    env = {"RUNNER_KNATIVE_SERVICE": "extensions/runner", "KUBECONFIG": str(api.kubeconfig())}
    return lambda **more: examine(**env | more)


def test_what_is_well_is_told_too(with_api):
    status, found = with_api()
    assert status == 0
    assert {what for what, one in found.items() if one["state"] == "ok"} >= {
        *("proxy", "callbacks", "runner", "kubernetes"),
        *("address", "visibility", "time limit", "concurrency", "scale"),
    }
    assert "version" in found["runner"]["found"]


def test_keys_of_one_pod_are_not_those_of_another(examine):
    found = examine()[1]["idempotency"]
    assert found["state"] == "warn"
    assert "RUNNER_IDEMPOTENCY_URL" in found["fix"]


@pytest.mark.parametrize(
    ("env", "what", "state", "words"),
    [
        (
            {"RUNNER_SERVICE_TOKEN": TOKEN + "2"},
            "runner",
            "fail",
            "does not take our service token",
        ),
        ({"RUNNER_SERVICE_TOKEN": None}, "runner", "fail", "wants a service token, none is set"),
        ({"RUNNER_BASE_URL": "http://127.0.0.1:1"}, "runner", "fail", "set RUNNER_BASE_URL or"),
        (
            {"RUNNER_BASE_URL": f"http://{HOST}"},
            "runner",
            "fail",
            "set RUNNER_KNATIVE_CONNECT_TO",
        ),
        ({"HTTP_PROXY": PROXY}, "proxy", "warn", "add 127.0.0.1 to NO_PROXY"),
        ({"ALL_PROXY": PROXY, "NO_PROXY": ".test"}, "proxy", "warn", "ALL_PROXY is set"),
        ({"http_proxy": PROXY, "NO_PROXY": "a.test, 127.0.0.1"}, "proxy", "ok", "none for"),
        ({"HTTP_PROXY": PROXY, "no_proxy": "*"}, "proxy", "ok", "none for"),
        ({"HTTPS_PROXY": PROXY}, "proxy", "ok", "none for"),
        ({"RUNNER_CALLBACK_BASE": None}, "callbacks", "warn", "is not set"),
        ({"RUNNER_CALLBACK_BASE": "http://localhost:8000"}, "callbacks", "fail", "this machine"),
        ({"RUNNER_CALLBACK_BASE": "unix:/run/ask"}, "callbacks", "fail", "this machine"),
        ({}, "bundles", "warn", "pods do not have"),
        ({"RUNNER_BUNDLE_STORE": "https://bundles.test"}, "bundles", "ok", "bundles.test"),
    ],
    ids=[
        "another token",
        "no token",
        "nobody listens",
        "no such name",
        "a proxy",
        "a proxy for everything, without this host",
        "a proxy that this host is spared",
        "a proxy that every host is spared",
        "a proxy for another scheme",
        "no way back",
        "a way back to the pod itself",
        "a way back by sockets",
        "bundles in a folder of this machine",
        "bundles that pods can fetch",
    ],
)
def test_what_is_wrong_here(examine, env, what, state, words):
    status, found = examine(**env)
    assert found[what]["state"] == state
    assert words in f"{found[what]['found']}: {found[what]['fix']}"
    assert status == any(one["state"] == "fail" for one in found.values())


def test_a_host_that_the_ingress_does_not_know(examine, knative):
    knative.say("ingress: no such host", times=2, path="/healthz")
    found = examine()[1]["runner"]
    assert found["state"] == "fail"
    assert "kubectl get ksvc" in found["fix"]


class TestKubernetes:
    def test_it_need_not_be_asked(self, examine):
        status, found = examine()
        assert (status, found["kubernetes"]["state"]) == (0, "ok")
        assert "RUNNER_KNATIVE_SERVICE is not set" in found["kubernetes"]["found"]

    @pytest.mark.parametrize(
        ("break_it", "state", "words"),
        [
            (lambda api: api.forbid("services"), "warn", "writes the Role"),
            (lambda api: api.rotate(), "warn", "sign in again"),
            (lambda api: api.refuse(429, times=9), "warn", "asked again later"),
            (lambda api: api.stop(), "warn", "kubectl get --raw /version"),
            (lambda api: api.remove("services", "runner"), "fail", "kubectl get ksvc"),
            (lambda api: setattr(api, "installed", False), "fail", "Knative Serving is installed"),
        ],
        ids=[
            "no right to",
            "signed out",
            "too busy",
            "not there",
            "no such service",
            "no Knative",
        ],
    )
    def test_what_it_does_not_tell(self, with_api, api, break_it, state, words):
        break_it(api)
        status, found = with_api()
        assert (status, found["kubernetes"]["state"]) == (state == "fail", state)
        assert words in found["kubernetes"]["fix"]
        assert words not in found["kubernetes"]["found"]
        assert found["runner"]["state"] == "ok"

    def test_a_new_revision_that_fails_is_told(self, with_api, api):
        failed = ("False", "RevisionFailed", "no image")
        api.put(ksvc(conditions={"ConfigurationsReady": failed, "Ready": failed}))
        status, found = with_api()
        assert (status, found["kubernetes"]["state"]) == (0, "warn")
        assert "no image" in found["kubernetes"]["found"]

    def test_limits_that_do_not_fit(self, with_api, api):
        api.put(revision(spec=pod_spec() | {"timeoutSeconds": 30, "containerConcurrency": 100}))
        status, found = with_api()
        assert (status, found["time limit"]["state"]) == (1, "fail")
        assert found["concurrency"]["state"] == "warn"
        assert "given 100 calls at once, and executes 10" in found["concurrency"]["found"]

    def test_the_address_may_come_from_there(self, with_api, api, knative):
        api.put(ksvc(address=knative.url))
        status, found = with_api(RUNNER_BASE_URL=None, RUNNER_KNATIVE_HOST=None)
        assert (status, found["runner"]["state"]) == (0, "ok")

    def test_without_it_there_is_no_address_then(self, with_api, api):
        api.forbid("services")
        status, found = with_api(RUNNER_BASE_URL=None)
        assert (status, found["runner"]["state"]) == (1, "fail")
        assert "is not known" in found["runner"]["found"]

    @pytest.mark.parametrize(
        "env",
        [{}, {"RUNNER_BASE_URL": None, "RUNNER_KNATIVE_HOST": None}],
        ids=["the address is set", "the address is the tag's"],
    )
    def test_a_tag_that_is_not_there_is_told_once(self, with_api, env):
        status, found = with_api(RUNNER_KNATIVE_TAG="next", **env)
        assert (status, found["tag"]["state"]) == (1, "fail")
        # The Service itself is well.
        assert (found["kubernetes"]["state"], found["kubernetes"]["found"]) == (
            "ok",
            "active: pods run",
        )
        told = [what for what, one in found.items() if "the tag next" in one["found"]]
        # What the backend says of itself is its health, whatever is looked at besides.
        assert told == ["backend", "tag"]

    def test_a_service_that_is_not_there_is_told_once(self, with_api, api):
        api.remove("services", "runner")
        status, found = with_api(RUNNER_BASE_URL=None, RUNNER_KNATIVE_HOST=None)
        assert (status, found["kubernetes"]["state"]) == (1, "fail")
        assert "runner" not in found
