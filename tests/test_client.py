"""RunnerClient against peers that say exact bytes, and against a runner that is really started."""

import json
import logging
import os
import threading
import time
from contextlib import closing

import pytest
from peers import OK, always, each, peer, silence, unused_port
from servers import runner

from runnerwsgi import ExecuteRequest, Gateway, canary
from runnerwsgi.client import RunnerClient
from runnerwsgi.errors import (
    BackendStarting,
    BackendUnreachable,
    BadRunnerResponse,
    BodyTooLarge,
    BundleUnavailable,
    ConfigurationError,
    DeadlineExceeded,
    IdempotencyInFlight,
    IdempotencyMismatch,
    OutcomeUnknown,
    Overloaded,
    TooManyRequests,
)
from runnerwsgi.origins import Origin
from runnerwsgi.protocol import (
    Bundle,
    Callback,
    Context,
    HttpRequest,
    Limits,
    UiAsset,
    User,
    WarmUp,
)
from runnerwsgi.retries import Retries
from runnerwsgi.secrets import Secret
from runnerwsgi.service_token import ServiceToken
from runnerwsgi.upstream import Route

TOKEN = "0123456789abcdef" * 3
HASH = "sha256:" + "a" * 64
MARKED = "X-Runner: runnerwsgi/9.9"


def http(status, body=b"", *fields):
    """The bytes of an answer."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


ENVELOPE = http(200, {"status": 201, "headers": {"x-ext-a": "1"}, "body_b64": "aGk="}, MARKED)


def call(method="POST", *, timeout_ms=5000, body=b"hi", **more):
    return ExecuteRequest(
        Context("acme", "demo.notes", HASH, "r-1", "i-1", "1.2.3"),
        HttpRequest(method, "/notes", "a=1", (("content-type", "text/plain"),), body),
        Limits(timeout_ms, 256),
        idempotency_key="acme:demo.notes:7f3a",
        **more,
    )


_made = []


@pytest.fixture(autouse=True)
def nothing_stays_open():
    yield
    while _made:
        _made.pop().close()


def client_to(url, token=None, **more):
    given = token if isinstance(token, ServiceToken) else ServiceToken(token and Secret(token))
    _made.append(RunnerClient(url, given, **more))
    return _made[-1]


def test_a_call_is_what_the_protocol_says_byte_for_byte():
    with peer(always(ENVELOPE)) as server:
        response = client_to(server.url, TOKEN).execute(
            call(user=User("u1", "a@example.com", "A", "internal"), traceparent="00-a-b-01")
        )
    assert (response.status, response.body, response.outcome) == (201, b"hi", "ok")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    assert first == "POST /v1/execute HTTP/1.1"
    assert dict(field.split(": ", 1) for field in fields if "User-Agent" not in field) == {
        "Host": f"127.0.0.1:{server.port}",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "X-Request-Id": "r-1",
        "X-Alga-Tenant": "acme",
        "X-Alga-Extension": "demo.notes",
        "X-Ext-Install-Id": "i-1",
        "X-Ext-Version-Id": "1.2.3",
        "X-Idempotency-Key": "acme:demo.notes:7f3a",
        "X-Runner-Deadline-Ms": "5000",
        "X-Runner-Service-Token": TOKEN,
        "traceparent": "00-a-b-01",
        "Content-Length": str(len(body)),
    }
    sent = json.loads(body)
    assert sent["limits"] == {"timeout_ms": 4800, "memory_mb": 256}
    assert sent["http"]["query_string"] == "a=1"
    assert "callback" not in sent


@pytest.mark.parametrize(("left", "given"), [(30_000, 29_800), (1200, 1000), (300, 150)])
def test_the_runner_gets_less_time_than_there_is(left, given):
    with peer(always(ENVELOPE)) as server:
        client_to(server.url).execute(call(timeout_ms=left))
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert json.loads(body)["limits"]["timeout_ms"] == given
    assert b"X-Runner-Deadline-Ms: %d\r\n" % left in head


@pytest.mark.parametrize(
    ("method", "error"),
    [
        pytest.param("GET", DeadlineExceeded, id="what changes nothing is late"),
        pytest.param("POST", OutcomeUnknown, id="what may have changed something is unknown"),
    ],
)
def test_a_runner_that_answers_late_is_left_at_the_deadline(method, error):
    started = time.monotonic()
    with (
        peer(silence) as server,
        pytest.raises(error, match="in read"),
    ):
        client_to(server.url).execute(call(method=method, timeout_ms=300))
    assert time.monotonic() - started < 5


class Asking:
    """Capabilities that a runner may ask back for."""

    def __init__(self):
        self.bases = []

    def ask_back(self, base):
        self.bases.append(base)
        return base and Callback("unix://gw.sock/runner/internal/v1", Secret("t" * 40))


@pytest.mark.parametrize("base", ["unix:/run/gateways", None])
def test_a_runner_is_told_how_to_ask_back(base):
    asking = Asking()
    with peer(always(ENVELOPE)) as server:
        client_to(server.url, callback_base=base).execute(call(capabilities=asking))
    sent = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])
    assert asking.bases == [base]
    assert sent.get("callback") == (
        {"url": "unix://gw.sock/runner/internal/v1", "token": "t" * 40} if base else None
    )


def test_what_a_header_cannot_carry_is_encoded():
    context = Context("größe", "demo.notes", HASH, "r\r\nX-Evil: 1")
    with peer(always(ENVELOPE)) as server:
        client_to(server.url).execute(ExecuteRequest(context, HttpRequest("GET", "/"), Limits(900)))
    head = server.requests[0].partition(b"\r\n\r\n")[0]
    assert b"X-Alga-Tenant: gr%C3%B6%C3%9Fe\r\n" in head
    assert b"X-Request-Id: r%0D%0AX-Evil%3A%201\r\n" in head


# What is sent twice, and what is not.


def dies_at_the_second(talk):
    each(ENVELOPE)(talk)
    talk.request()


def test_an_unsafe_call_whose_answer_is_lost_is_not_made_again():
    with peer(dies_at_the_second, always(ENVELOPE)) as server:
        client = client_to(server.url)
        client.execute(call())
        with pytest.raises(OutcomeUnknown):
            client.execute(call())
    assert len(server.requests) == 2


def test_a_safe_call_is_made_again_under_the_same_key():
    with peer(dies_at_the_second, always(ENVELOPE)) as server:
        client = client_to(server.url)
        for _ in range(2):
            assert client.execute(call("GET", body=None)).status == 201
    assert len(server.requests) == 3
    assert all(b"X-Idempotency-Key: acme:demo.notes:7f3a" in sent for sent in server.requests)


# Answers.


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(http(413), BodyTooLarge, id="413"),
        pytest.param(http(401), BadRunnerResponse, id="401"),
        pytest.param(http(400, b"not JSON"), BadRunnerResponse, id="400"),
        pytest.param(http(415), BadRunnerResponse, id="415"),
        pytest.param(http(422, b"{}"), BadRunnerResponse, id="422"),
        pytest.param(http(404), BadRunnerResponse, id="404"),
        pytest.param(http(500, b"<h1>panic"), BadRunnerResponse, id="500"),
        pytest.param(http(204), BadRunnerResponse, id="204"),
        pytest.param(http(302, b"", "Location: /"), BadRunnerResponse, id="302"),
        pytest.param(http(503), BadRunnerResponse, id="503 of somebody else"),
        pytest.param(http(429), BadRunnerResponse, id="429 of somebody else"),
        pytest.param(http(503, b"", MARKED), Overloaded, id="503 of a runner"),
        pytest.param(
            http(503, {"code": "backend-starting"}, MARKED), BackendStarting, id="starting"
        ),
        pytest.param(
            http(429, {"code": "too-many-requests"}, MARKED, "Retry-After: 7"),
            TooManyRequests,
            id="429 of a runner",
        ),
        pytest.param(http(503, b"[" * 9999, MARKED), Overloaded, id="503 with deep JSON"),
        pytest.param(
            http(502, {"code": "bundle-unavailable"}, MARKED), BundleUnavailable, id="502"
        ),
        pytest.param(http(200, b"<html>"), BadRunnerResponse, id="no envelope"),
        pytest.param(http(200, {"hello": "world"}), BadRunnerResponse, id="another API"),
    ],
)
def test_an_answer_that_is_no_envelope_has_an_error_of_its_own(answer, error):
    with peer(always(answer)) as server, pytest.raises(error) as caught:
        client_to(server.url, TOKEN).execute(call())
    assert type(caught.value) is error
    assert "panic" not in str(caught.value)
    if error is TooManyRequests:
        assert caught.value.retry_after == 7


@pytest.mark.parametrize("given", ["-1", "99999", "soon", "", "٣"])
def test_a_wait_that_makes_no_sense_is_a_second(given):
    answer = http(503, b"", MARKED, f"Retry-After: {given}".encode().decode("latin-1"))
    with peer(always(answer)) as server, pytest.raises(Overloaded) as caught:
        client_to(server.url).execute(call())
    assert caught.value.retry_after == 1


def test_an_envelope_may_be_as_long_as_an_answer_in_base64_and_no_longer():
    largest = http(200, {"status": 200, "headers": {}, "body_b64": "A" * 1_400_000}, MARKED)
    with peer(always(largest)) as server:
        client = client_to(server.url, max_response_bytes=1_050_000)
        assert len(client.execute(call()).body) == 1_050_000
        client = client_to(server.url, max_response_bytes=100_000)
        with pytest.raises(BadRunnerResponse, match="allowed"):
            client.execute(call())


# The token.


def test_the_token_goes_to_the_runner_and_nowhere_else(caplog):
    caplog.set_level(logging.DEBUG)
    with peer(always(OK)) as other:
        moved = http(307, b"", f"Location: {other.url}/v1/execute")
        with peer(always(moved)) as server:
            client = client_to(server.url, TOKEN)
            with pytest.raises(BadRunnerResponse) as caught:
                client.execute(call())
            with pytest.raises(BadRunnerResponse):
                client.warm_up(Bundle("acme", "demo.notes", HASH), 5)
            client.probe()
    assert [TOKEN.encode() in sent for sent in server.requests] == [True] * 3
    assert other.connections == 0
    assert TOKEN not in client.ui_url(UiAsset("acme", "demo.notes", HASH, "index.html"))
    assert TOKEN not in repr(caught.value) + caplog.text + repr(vars(client))


def test_a_runner_that_quotes_its_tokens_has_them_in_no_log():
    quoting = f"you sent {TOKEN}, and {'t' * 40}"
    spoken = {"status": 500, "headers": {}, "outcome": "internal", "error": quoting}
    with peer(always(http(200, {**spoken, "logs": [["info", quoting]]}, MARKED))) as server:
        client = client_to(server.url, TOKEN, callback_base="unix:/run/gateways")
        response = client.execute(call(capabilities=Asking()))
    assert response.error == response.logs[0].message == "you sent [secret], and [secret]"


def test_a_token_that_is_replaced_is_used_at_once(tmp_path, caplog):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    with peer(always(ENVELOPE)) as server:
        client = client_to(server.url, ServiceToken(file=file))
        for text in (None, TOKEN[::-1], "short", None):
            if text is not None:
                file.with_name("new").write_text(text)
                os.replace(file.with_name("new"), file)
            client.execute(call())
        file.unlink()
        client.execute(call())
    assert TOKEN.encode() in server.requests[0]
    assert [TOKEN[::-1].encode() in sent for sent in server.requests] == [False, *[True] * 4]
    assert "The last token stays in use" in caplog.text
    assert "short" not in caplog.text.replace("32 printable", "")


@pytest.mark.parametrize(
    ("base", "fine"),
    [
        ("http://runner.example.com", False),
        ("http://93.184.216.34:8080", False),
        ("http://[2606:4700::1]", False),
        ("https://runner.example.com", True),
        ("http://127.0.0.1:8085", True),
        ("http://[::1]:8085", True),
        ("http://10.1.2.3", True),
        ("http://100.64.0.1", True),
        ("http://extension-runner:8080", True),
        ("http://runner.default.svc", True),
        ("http://runner.default.svc.cluster.local", True),
    ],
)
def test_a_token_is_not_sent_in_the_clear_over_public_networks(base, fine):
    client_to(base)
    client_to(base, TOKEN, allow_insecure=True)
    if fine:
        client_to(base, TOKEN)
        return
    with pytest.raises(ConfigurationError, match="in the clear") as caught:
        client_to(base, TOKEN, variable="RUNNER_DOCKER_HOST")
    assert str(caught.value).startswith("RUNNER_DOCKER_HOST")


def test_a_token_goes_in_the_clear_where_it_is_sent_and_not_where_its_url_says():
    base = "http://runner.default.svc.cluster.local"
    client_to(base, TOKEN, route=Route(connect_to=Origin("http", "10.0.0.7", 80)))
    with pytest.raises(ConfigurationError, match=r"in the clear to 203\.0\.113\.7"):
        client_to(base, TOKEN, route=Route(connect_to=Origin("http", "203.0.113.7", 80)))


@pytest.mark.parametrize(
    "base",
    [
        "127.0.0.1:8085",
        "ftp://127.0.0.1",
        "http://",
        "http://user:secret@127.0.0.1",
        "http://127.0.0.1/#a",
        "http://127.0.0.1/?a=b",
        "http://127.0.0.1/a/../b",
        "http://127.0.0.1/%2e%2e",
        "http://0.0.0.0:8085",
        "http://169.254.169.254",
        "http://[::ffff:169.254.169.254]",
        "http://[fe80::1]",
        "http://224.0.0.1",
        "http://168.63.129.16",
        "http://127.1",
        "http://2130706433",
        "http://runner.example.com:99999",
        "http://runner.example.com\r\nX: y",
    ],
)
def test_where_no_runner_can_be_is_refused_when_it_is_set(base):
    with pytest.raises(ConfigurationError, match="RUNNER_BASE_URL") as caught:
        client_to(base)
    assert "secret" not in str(caught.value)


def test_a_runner_may_be_below_a_path():
    with peer(always(ENVELOPE)) as server:
        client = client_to(f"{server.url}/tenants/a/", greet=True)
        client.execute(call())
        url = client.ui_url(UiAsset("acme", "demo.notes", HASH, "a b.html"))
    assert [sent.split(b" ")[1] for sent in server.requests] == [
        b"/tenants/a/health/readiness",
        b"/tenants/a/v1/execute",
    ]
    assert url == f"{server.url}/tenants/a/ext-ui/demo.notes/{HASH}/a%20b.html"


# Making ready.


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(http(200, {"compiled": True, "ms": 12}, MARKED), WarmUp(True, 12), id="ours"),
        pytest.param(http(400), WarmUp(False, 0), id="AlgaPSA's"),
        pytest.param(http(404), WarmUp(False, 0), id="no such route"),
        pytest.param(
            http(502, {"code": "bundle-unavailable"}, MARKED), BundleUnavailable, id="no bundle"
        ),
        pytest.param(http(400, b"", MARKED), BadRunnerResponse, id="ours says 400"),
        pytest.param(http(200, {"compiled": 1}), BadRunnerResponse, id="nonsense"),
        pytest.param(http(401), BadRunnerResponse, id="another token"),
    ],
)
def test_a_bundle_is_made_ready_where_a_runner_can(answer, expected):
    with peer(always(answer)) as server:
        client = client_to(server.url)
        bundle = Bundle("acme", "demo.notes", HASH)
        if isinstance(expected, WarmUp):
            assert client.warm_up(bundle, 5) == expected
        else:
            with pytest.raises(expected):
                client.warm_up(bundle, 5)
    assert json.loads(server.requests[0].partition(b"\r\n\r\n")[2]) == {
        "tenant_id": "acme",
        "extension_id": "demo.notes",
        "content_hash": HASH,
    }


# What is found where the runner should be.

DETAILS = {"status": "ok", "checks": {"store": "ok"}, "runner": {"version": "9.9", "image": "i"}}


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        pytest.param(always(http(200, DETAILS, MARKED)), "ok", id="ours"),
        pytest.param(
            always(http(200, {**DETAILS, "status": "degraded"}, MARKED)), "degraded", id="degraded"
        ),
        pytest.param(
            always(http(503, {**DETAILS, "status": "unavailable"}, MARKED)),
            "unavailable",
            id="unavailable",
        ),
        pytest.param(always(http(200, {"status": "ok"}, MARKED)), "wrong-token", id="no details"),
        pytest.param(always(http(401, b"", MARKED)), "wrong-token", id="401"),
        pytest.param(always(http(503, b"", MARKED)), "starting", id="not ready"),
        pytest.param(lambda talk: None, "starting", id="an open door"),
        pytest.param(lambda talk: talk.reset(), "starting", id="a door that slams"),
        pytest.param(silence, "silent", id="silence"),
        pytest.param(always(http(200, b"<html>nginx</html>")), "no-runner", id="a web server"),
        pytest.param(always(http(404)), "no-runner", id="404"),
        pytest.param(always(http(503)), "no-runner", id="503 of somebody else"),
        pytest.param(always(http(200, {"status": []})), "no-runner", id="another API"),
        pytest.param(each(b"SSH-2.0-OpenSSH_9.2\r\n"), "no-runner", id="SSH"),
        pytest.param(always(http(302, b"", "Location: /login")), "no-runner", id="a login page"),
    ],
)
def test_what_is_found_is_told_apart(script, kind):
    with peer(script) as server:
        state = client_to(server.url, TOKEN).probe(0.4)
    assert state.kind == kind
    if kind == "ok":
        assert (state.checks, state.about["image"]) == ({"store": "ok"}, "i")
    elif kind not in ("degraded", "unavailable"):
        assert state.detail
        assert "\n" not in state.detail


def test_a_runner_that_wants_a_token_where_none_is_set_is_not_well():
    with peer(always(http(200, {"status": "ok"}, MARKED))) as server:
        state = client_to(server.url).probe()
    assert (state.kind, state.detail) == (
        "wrong-token",
        "the runner wants a service token, none is set",
    )


def test_where_nobody_is_found_is_told_apart_too():
    assert client_to(f"http://127.0.0.1:{unused_port()}").probe().kind == "refused"
    assert client_to("http://no-such-host.invalid").probe(20).kind == "no-name"
    with peer(lambda talk: (talk.sock.recv(1), talk.send(b"HTTP/1.0 400 No\r\n\r\n"))) as server:
        assert client_to(server.url.replace("http", "https")).probe().kind == "tls"


def test_the_state_is_what_was_seen_lately():
    with peer(always(http(200, {"status": "ok"}))) as server:
        client = client_to(server.url)
        assert [client.state().kind, client.state().kind] == ["ok", "ok"]
        assert len(server.requests) == 1


def test_a_call_that_is_refused_for_its_token_is_known_at_once():
    with peer(always(http(401))) as server:
        client = client_to(server.url, TOKEN)
        with pytest.raises(BadRunnerResponse, match="token"):
            client.execute(call())
        assert client.state(wait=0).kind == "wrong-token"


# A runner that is really there.


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    with runner(tmp_path_factory.mktemp("runner"), RUNNER_SERVICE_TOKEN=TOKEN) as started:
        yield started


def test_a_real_runner_executes_for_who_has_its_token(real):
    from runnerwsgi_docker.backend import DockerBackend

    client = client_to(real.url, TOKEN, greet=True)
    with closing(Gateway(DockerBackend(client))) as gateway:
        gateway.probe()
    state = client.probe()
    assert (state.kind, state.about["backend"]) == ("ok", "wasm")
    assert state.checks


def test_a_real_runner_executes_for_nobody_else(real):
    client = client_to(real.url, TOKEN[::-1])
    with pytest.raises(BadRunnerResponse, match="token"):
        client.execute(call())
    assert client.probe().kind == "wrong-token"


def test_a_real_runner_says_that_it_lacks_a_bundle(real):
    client = client_to(real.url, TOKEN)
    assert client.execute(call()).outcome == "not_found"
    with pytest.raises(BundleUnavailable):
        client.warm_up(Bundle("acme", "demo.notes", HASH), 5)


def test_after_a_restart_a_call_costs_nothing(tmp_path):
    port = unused_port()
    with runner(tmp_path, "--port", str(port)) as first:
        client = client_to(first.url, greet=True)
        assert client.execute(call()).outcome == "not_found"
    with pytest.raises(BackendUnreachable) as caught:
        client.execute(call())
    assert caught.value.reason == "refused"
    with runner(tmp_path, "--port", str(port)):
        assert client.execute(call()).outcome == "not_found"


# A runner that restarts.


def test_a_runner_that_answered_a_moment_ago_is_waited_for(tmp_path):
    with runner(tmp_path, RUNNER_BACKEND="wasm") as first:
        port = first.url.rpartition(":")[2]
        client = client_to(first.url, patience=10.0, greet=True)
        assert client.execute(canary.call("one", 5000)).body == b"one"
    answers = []
    caller = threading.Thread(
        target=lambda: answers.append(client.execute(canary.call("two", 10_000)))
    )
    caller.start()
    with runner(tmp_path, "--port", port, RUNNER_BACKEND="wasm"):
        caller.join()
    assert answers[0].body == b"two"


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda client: client.execute(call(timeout_ms=400)), id="a call"),
        pytest.param(
            lambda client: client.warm_up(Bundle("acme", "demo.notes", HASH), 0.4), id="a warm-up"
        ),
    ],
)
def test_a_runner_that_stays_away_costs_no_more_than_the_calls_time_and_then_nothing(ask):
    with peer(always(ENVELOPE)) as server:
        client = client_to(server.url, patience=1.0)
        client.execute(call())
    started = time.monotonic()
    with pytest.raises(BackendUnreachable):
        ask(client)
    assert 0.2 < time.monotonic() - started < 2
    time.sleep(1)
    started = time.monotonic()
    with pytest.raises(BackendUnreachable):
        client.execute(call())
    assert time.monotonic() - started < 0.9


# Tries

LOST = lambda talk: talk.request()  # noqa: E731 - the connection ends without an answer
SHARED = http(200, {"status": 201}, MARKED, "X-Runner-Idempotency: shared")
PROCESS = http(200, {"status": 201}, MARKED, "X-Runner-Idempotency: process")


def retrying(url, **more):
    return client_to(url, route=Route(retries=Retries()), **more)


@pytest.mark.parametrize(
    ("before", "sent"),
    [
        pytest.param(None, 1, id="of whom nothing is known"),
        pytest.param(PROCESS, 1, id="each process of which has its own keys"),
        pytest.param(SHARED, 2, id="that keeps keys for all its processes"),
    ],
)
def test_a_call_that_may_have_been_executed_is_repeated_on_a_runner(before, sent):
    def first(talk):
        if before:
            talk.request()
            talk.send(before)
        talk.request()

    with peer(first, always(SHARED)) as server:
        client = retrying(server.url)
        if before:
            client.execute(call())
        if sent == 1:
            with pytest.raises(OutcomeUnknown):
                client.execute(call())
        else:
            assert client.execute(call()).status == 201
        requests = server.requests[1:] if before else server.requests
    assert len(requests) == sent
    keys = {line for sent in requests for line in sent.split(b"\r\n") if b"Idempotency" in line}
    assert keys == {b"X-Idempotency-Key: acme:demo.notes:7f3a"}


def test_a_call_that_changes_nothing_is_repeated_on_any_runner():
    with peer(LOST, LOST, always(PROCESS)) as server:
        assert retrying(server.url).execute(call("GET")).status == 201
        assert server.connections == 3


def test_a_try_that_failed_is_a_line_in_the_log(caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(BackendUnreachable):
        retrying(f"http://127.0.0.1:{unused_port()}").execute(call())
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in lines] == ["try_failed"] * 3
    assert "request_id=r-1" in lines[0]
    assert "executed=no" in lines[0]
    assert "tries=3" in lines[2]


def test_who_answered_is_a_line_in_the_log_of_who_looks_closely(caplog):
    fields = (
        "X-Runner-Revision: runner-00007",
        "Server: envoy",
        "X-Envoy-Upstream-Service-Time: 4",
    )
    answer = http(200, {"status": 200}, MARKED, *fields)
    with peer(always(answer)) as server, caplog.at_level(logging.DEBUG):
        client_to(server.url).execute(call())
    [line] = [record.getMessage() for record in caplog.records if "answered" in record.getMessage()]
    for field in ("request_id=r-1", "runner=runnerwsgi/9.9", "revision=runner-00007"):
        assert field in line
    assert "server=envoy" in line
    assert "ingress_ms=4" in line


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (409, "idempotency-in-flight", IdempotencyInFlight),
        (422, "idempotency-mismatch", IdempotencyMismatch),
        (504, "outcome-unknown", OutcomeUnknown),
    ],
)
def test_what_the_runner_says_of_a_key_is_final(status, code, error):
    answer = http(status, {"code": code}, MARKED, "Retry-After: 3")
    with peer(always(answer)) as server, pytest.raises(error) as caught:
        retrying(server.url).execute(call())
    assert len(server.requests) == 1
    assert getattr(caught.value, "retry_after", 3) == 3


@pytest.mark.parametrize(
    ("up", "name"),
    [
        pytest.param(3_600_000, "way", id="a runner that was there"),
        pytest.param(10, "cold", id="a runner that was started for the call"),
    ],
)
def test_where_the_time_before_a_call_went(up, name):
    answer = http(200, {"status": 200}, MARKED, f"Server-Timing: call;dur=5.0, up;dur={up}")
    with peer(lambda talk: (talk.request(), time.sleep(0.1), talk.send(answer))) as server:
        timings = client_to(server.url).execute(call()).timings
    assert list(timings) == [name]
    assert 90 < timings[name] < 5000


def test_the_address_the_host_and_the_name_in_tls_are_three_things(tls, trust):
    with peer(always(ENVELOPE), tls=tls) as server:
        route = Route(
            connect_to=Origin("https", "127.0.0.1", server.port),
            host="runner.apps.test",
            tls=trust,
            headers=(("Knative-Serving-Tag", "next"),),
        )
        client = client_to("https://runner.test:9", route=route)
        assert client.execute(call()).status == 201
        assert client.probe().kind == "no-runner"
    for request in server.requests:
        assert b"\r\nHost: runner.apps.test\r\n" in request
        assert b"\r\nKnative-Serving-Tag: next\r\n" in request


def test_a_part_of_the_time_is_kept_for_the_runners_own_start():
    with peer(always(ENVELOPE)) as server:
        client = client_to(server.url, reserve_ms=1000)
        client.execute(call(timeout_ms=5000))
        client.execute(call(timeout_ms=1000))
    given = [
        json.loads(sent.partition(b"\r\n\r\n")[2])["limits"]["timeout_ms"]
        for sent in server.requests
    ]
    assert given == [3800, 500]
