"""The corpus's hostile gateways: a runner server with a token, called with others."""

import json
from contextlib import closing

import pytest
from corpus.cases import due
from corpus.remote import TOKEN
from support import Recorder, make_environ, send

from runnerwsgi import ExecuteRequest, Gateway, Settings
from runnerwsgi.protocol import Context, HttpRequest, Limits
from runnerwsgi.secrets import Secret
from runnerwsgi.server import RunnerServer
from runnerwsgi.service_token import ServiceToken
from runnerwsgi.wire import request_to_json

CALL = request_to_json(
    ExecuteRequest(
        Context("t1", "acme.hello", "sha256:" + "0" * 64),
        HttpRequest("GET", "/hello"),
        Limits(timeout_ms=2000),
    )
)


@pytest.fixture
def runner(tmp_path):
    backend = Recorder(None)
    settings = Settings(home=tmp_path, backend="recorder")
    server = RunnerServer(Gateway(backend), settings, token=ServiceToken(Secret(TOKEN)))
    with closing(server):
        yield server, backend


def execute(server, token):
    header = {} if token is None else {"HTTP_X_RUNNER_SERVICE_TOKEN": token}
    environ = make_environ("POST", "/v1/execute", CALL, CONTENT_TYPE="application/json", **header)
    return send(server, environ)


def executed(backend):
    """What was asked for, besides the runner's look at itself."""
    return [one for one in backend.requests if one.context.extension_id == "acme.hello"]


@pytest.mark.parametrize("case", due("test_runner"))
def test_a_runner_executes_for_no_other_token(case, runner):
    server, backend = runner
    assert case["input"]["path"] == "/v1/execute"
    token = case["input"]["headers"]["x-runner-service-token"]
    answer = execute(server, token.replace("{TOKEN}", TOKEN))
    expected = dict(case["expect"])
    assert answer.status == expected.pop("status")
    assert bool(executed(backend)) is expected.pop("executed")
    texts = expected.pop("body_not_contains")
    assert not any(text.replace("{TOKEN}", TOKEN).encode() in answer.body for text in texts)
    assert not expected


@pytest.mark.parametrize("token", [None, TOKEN[:-1], TOKEN + "x", TOKEN.upper(), " " + TOKEN])
def test_nor_for_one_that_is_nearly_right(token, runner):
    server, backend = runner
    assert execute(server, token).status == 401
    assert not executed(backend)


def test_it_executes_for_the_right_one(runner):
    server, backend = runner
    answer = execute(server, TOKEN)
    assert (answer.status, json.loads(answer.body)["status"]) == (200, 200)
    assert len(executed(backend)) == 1
