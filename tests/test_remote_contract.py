"""The kit for remote backends tells a good one from a bad one."""

import time
from urllib.parse import urlsplit

import pytest
from runnerwsgi_docker.backend import DockerBackend

from runnerwsgi import ExecuteRequest, ExecuteResponse, Health, hookimpl
from runnerwsgi.client import RunnerClient
from runnerwsgi.errors import BackendUnreachable, BadRequest, RunnerError
from runnerwsgi.protocol import Context, HttpRequest, Limits
from runnerwsgi.service_token import ServiceToken
from runnerwsgi.testing import RemoteBackendContract
from runnerwsgi.testing.remote import NO_ANSWERS
from runnerwsgi.upstream import Upstream


class Good(DockerBackend):
    """The shipped backend, which passes."""

    def __init__(self, base):
        super().__init__(RunnerClient(base, ServiceToken(None), greet=True))
        self.base = base


class Gullible(Good):
    """Takes whatever comes back for an answer."""

    @hookimpl
    def runner_execute(self, request):
        try:
            return super().runner_execute(request)
        except RunnerError:
            return ExecuteResponse(200)


class Stubborn(Good):
    """Tries everything twice."""

    @hookimpl
    def runner_execute(self, request):
        try:
            return super().runner_execute(request)
        except RunnerError:
            return super().runner_execute(request)


class Slow(Good):
    @hookimpl
    def runner_execute(self, request):
        time.sleep(0.5)
        return super().runner_execute(request)


class Blaming(Good):
    """Tells the caller that it is the caller's fault."""

    @hookimpl
    def runner_execute(self, request):
        try:
            return super().runner_execute(request)
        except RunnerError as exc:
            raise BadRequest("nobody is there") from exc


class Foreign(Good):
    """Lets the exceptions of its library out."""

    @hookimpl
    def runner_execute(self, request):
        try:
            return super().runner_execute(request)
        except RunnerError as exc:
            raise ConnectionError("no") from exc


class Cheerful(Good):
    @hookimpl
    def runner_health(self):
        return Health("ok")


class Following(Good):
    """Goes where it is sent."""

    @hookimpl
    def runner_execute(self, request):
        place = self._client.origin
        for _ in range(2):
            upstream = Upstream(place)
            found = upstream.exchange("POST", "/v1/execute", body=b"", timeout=1, max_bytes=9999)
            upstream.close()
            if "location" not in found.headers:
                break
            port = urlsplit(found.headers["location"]).port
            place = type(place)("http", "127.0.0.1", port)
        raise BackendUnreachable("lost on the way")


class Kit(RemoteBackendContract):
    margin = 0.3
    tried = Good

    def make_backend_at(self, base):
        return self.tried(base)

    def sample_request(self):
        context = Context("acme", "demo.echo", f"sha256:{'a' * 64}")
        return ExecuteRequest(context, HttpRequest("POST", "/"), Limits(5000))


PAGE = NO_ANSWERS["a page of another program"]
BAD = [
    ("nobody_at_its_address_is_told", (), Foreign, "ConnectionError"),
    ("nobody_at_its_address_is_told", (), Blaming, "not the caller's fault"),
    ("nobody_at_its_address_is_told", (), Cheerful, "health is ok"),
    ("a_silent_runner_is_left_in_time", (), Slow, "keep one deadline"),
    ("an_answer_that_drips_is_left_in_time", (), Slow, "keep one deadline"),
    ("what_is_no_answer_is_not_taken_for_one", (PAGE,), Gullible, "nobody asked it"),
    ("a_redirect_is_not_followed", (), Following, "redirect was followed"),
    ("an_unsafe_call_is_sent_once", (), Stubborn, "was sent 2 times"),
]


@pytest.mark.parametrize(
    ("test", "given", "backend", "told"), BAD, ids=[f"{row[2].__name__}: {row[0]}" for row in BAD]
)
def test_a_bad_backend_is_told_what_to_do(test, given, backend, told):
    kit = type("Tried", (Kit,), {"tried": backend})()
    with pytest.raises((AssertionError, pytest.fail.Exception), match=told):
        getattr(kit, f"test_{test}")(*given)


def test_what_the_author_must_write_is_named():
    with pytest.raises(NotImplementedError, match="override make_backend_at"):
        RemoteBackendContract().make_backend_at("http://127.0.0.1:1")
