import pytest
from runnerwsgi_echo import plugin

from runnerwsgi import ConfigurationError, ExecuteRequest, Gateway
from runnerwsgi.protocol import Context, HttpRequest, Limits
from runnerwsgi.testing import BackendContract


def request(method="GET", path="/notes", query="", body=None):
    return ExecuteRequest(
        Context("acme", "demo.echo", "sha256:" + "0" * 64),
        HttpRequest(method, path, query, body=body),
        Limits(timeout_ms=5000),
    )


class TestContract(BackendContract):
    """What every backend must do, run against this one."""

    runs_bundles = False  # an echo looks nothing up

    def make_backend(self):
        return plugin({})

    def sample_request(self):
        return request()

    def echo_request(self, body):
        return request("POST", body=body)

    def endless_request(self):
        return request(path="/endless")


def test_a_request_without_a_body_is_told_its_line():
    with Gateway(plugin({})) as gateway:
        assert gateway.execute(request(query="a=1")).body == b"GET /notes?a=1\n"


def test_the_backend_is_called_echo():
    with Gateway(plugin({})) as gateway:
        assert gateway.backend_name == "echo"


def test_a_wrong_setting_is_named():
    with pytest.raises(ConfigurationError, match="RUNNER_ECHO_UI_BASE"):
        plugin({"RUNNER_ECHO_UI_BASE": "somewhere"})
