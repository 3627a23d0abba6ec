"""Handler calls: what a backend is given, and what becomes of its answer."""

import logging
import threading
import time

import pytest
from support import EXTENSION, FILES, Recorder, Site

from runnerwsgi import ExecuteResponse, Principal
from runnerwsgi.errors import (
    BackendStarting,
    BackendUnreachable,
    CapabilityError,
    IdempotencyInFlight,
    OutcomeUnknown,
    Overloaded,
)
from runnerwsgi.protocol import OUTCOMES, LogLine


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def answering(site, monkeypatch):
    """Let the backend answer this from now on, or raise it."""

    def answer(value):
        def respond(request):
            if isinstance(value, Exception):
                raise value
            return value

        monkeypatch.setattr(site.backend, "answer", respond)

    return answer


def test_a_call_carries_who_what_and_how_long(tmp_path):
    allowed = ("https://a.test", "https://c.test")
    with Site(tmp_path, timeout_ms=5000, memory_mb=64, egress_allow=allowed) as site:
        site.principal = Principal("t1", "ada", user_email="ada@acme.test", user_name="Ada")
        install = site.install(
            config={"unit": "h"},
            grants=["cap:storage.kv"],
            egress=["https://a.test", "https://b.test"],
        )
        answer = site.call(
            "POST",
            "notes/7",
            b"{}",
            QUERY_STRING="a=1&a=2",
            CONTENT_TYPE="application/json",
            HTTP_COOKIE="session=1",
            HTTP_X_EXT_A="b",
        )
        (request,) = site.backend.requests
    context = request.context
    assert answer.status == 200
    assert (context.tenant_id, context.extension_id) == ("t1", EXTENSION)
    assert context.content_hash == site.bundle.content_hash
    assert (context.install_id, context.version_id) == (install.install_id, "1.0.0")
    assert context.request_id == answer.header("x-request-id")
    assert context.config == {"unit": "h"}
    assert request.http.url == "/notes/7?a=1&a=2"
    assert (request.http.method, request.http.body) == ("POST", b"{}")
    assert dict(request.http.headers) == {
        "content-type": "application/json",
        "x-ext-a": "b",
        "x-ext-config-unit": "h",
    }
    assert request.providers == (
        *("cap:context.read", "cap:log.emit", "cap:user.read"),
        "cap:storage.kv",
    )
    # A runner has no list of the operator's.
    assert request.egress == ("https://a.test",)
    assert (request.user.user_id, request.user.user_name) == ("ada", "Ada")
    # A fifth of a second less, so that the inner layer fails first and cleanly.
    assert 4500 < request.limits.timeout_ms <= 4800
    assert request.limits.memory_mb == 64


def test_an_installs_own_limits_win(tmp_path):
    with Site(tmp_path, timeout_ms=5000) as site:
        site.install(timeout_ms=1000, memory_mb=16)
        site.call()
        site.install(timeout_ms=60_000)
        site.call()
        own, above = (request.limits for request in site.backend.requests)
    assert own.timeout_ms <= 800
    assert own.memory_mb == 16
    assert 4000 < above.timeout_ms <= 4800


def test_what_identify_takes_is_the_calls_own_time(tmp_path):
    def slowly(environ):
        time.sleep(0.12)
        return Principal("t1", "u1")

    with Site(tmp_path, identify=slowly, timeout_ms=100) as site:
        answer = site.call()
    assert (answer.status, answer.code) == (504, "deadline-exceeded")
    assert not site.backend.requests


def key_of(site, method="POST", **more):
    assert site.call(method, **more).status == 200
    return site.backend.requests[-1].idempotency_key


def test_an_idempotency_key_stands_for_one_caller_and_one_call(site):
    key = key_of(site, HTTP_IDEMPOTENCY_KEY="k-1")
    assert key.startswith("t1:acme.hello:")
    assert "k-1" not in key
    assert key_of(site, HTTP_IDEMPOTENCY_KEY="k-1") == key
    others = {
        key_of(site, HTTP_IDEMPOTENCY_KEY="k-2"),
        key_of(site, "PUT", HTTP_IDEMPOTENCY_KEY="k-1"),
        key_of(site, path="other", HTTP_IDEMPOTENCY_KEY="k-1"),
    }
    assert len({key, *others}) == 4


def test_a_safe_call_without_a_key_has_none(site):
    assert key_of(site, "GET") is None


def test_each_unsafe_call_without_a_key_has_one_of_its_own(site):
    assert key_of(site) != key_of(site)


# What an ingress tells is told of its last try: it may have been executed at the one before.
@pytest.mark.parametrize(
    "error",
    [OutcomeUnknown("lost"), BackendStarting("no pod"), Overloaded("full"), BackendUnreachable()],
    ids=lambda error: error.code,
)
@pytest.mark.parametrize("given", ["k-1", None], ids=["the caller's", "one of ours"])
def test_a_call_that_may_have_been_executed_may_be_asked_for_again_with_its_key(
    site, answering, given, error
):
    answering(error)
    headers = {"HTTP_IDEMPOTENCY_KEY": given} if given else {}
    answer = site.call("POST", **headers)
    assert (answer.status, answer.code) == (error.status, error.code)
    sent = site.backend.requests[-1].idempotency_key
    key = answer.json["idempotency_key"]
    assert given in (None, key)
    site.call("POST", HTTP_IDEMPOTENCY_KEY=key)
    assert site.backend.requests[-1].idempotency_key == sent


def test_who_repeats_a_call_that_runs_is_told_so(site, answering):
    answering(IdempotencyInFlight("running", retry_after=3))
    mine = site.call("POST", HTTP_IDEMPOTENCY_KEY="k-1")
    assert (mine.status, mine.code) == (409, "idempotency-in-flight")
    assert mine.header("retry-after") == "3"


# An ingress sent it twice, and the second one came to a pod that knows of the first.
def test_a_call_that_was_repeated_on_its_way_waits_for_the_answer_of_the_first(site, monkeypatch):
    answers = iter([IdempotencyInFlight("running")] * 2)
    limits = []

    def respond(request):
        limits.append(request.limits.timeout_ms)
        if running := next(answers, None):
            raise running
        return ExecuteResponse(201)

    monkeypatch.setattr(site.backend, "answer", respond)
    assert site.call("POST").status == 201
    keys = [request.idempotency_key for request in site.backend.requests[-3:]]
    assert len(set(keys)) == 1
    # With what is left of its time.
    assert limits[0] - 400 < limits[2] <= limits[0] - 290


def test_a_call_that_was_repeated_on_its_way_and_runs_on_is_unknown(tmp_path, monkeypatch):
    def respond(request):
        raise IdempotencyInFlight("running")

    with Site(tmp_path, timeout_ms=800) as site:
        monkeypatch.setattr(site.backend, "answer", respond)
        answer = site.call("POST")
    assert (answer.status, answer.code) == (504, "outcome-unknown")
    assert answer.json["idempotency_key"] == answer.json["request_id"]


PUBLIC = b"""{"name": "acme.hello", "version": "1.0.0", "api": {"endpoints": [
    {"method": "POST", "path": "/open", "handler": "h", "access": "public"}]}}"""


@pytest.fixture
def public(tmp_path):
    """A site with a route for everybody, and a visitor whom nobody knows."""
    with Site(tmp_path, files={**FILES, "manifest.json": PUBLIC}) as site:
        site.principal = Principal("t1", None)
        yield site


@pytest.mark.parametrize("name", [None, ""], ids=["no name", "an empty name"])
@pytest.mark.parametrize("key", ["1", "checkout", "a" * 15])
def test_a_visitor_without_a_name_has_no_key_that_another_one_may_think_of(public, key, name):
    public.principal = Principal("t1", name)
    answer = public.call("POST", "open", HTTP_IDEMPOTENCY_KEY=key)
    assert (answer.status, answer.code) == (400, "bad-header")
    assert "as a UUID is" in answer.json["detail"]
    assert not public.backend.requests
    public.principal = Principal("t1", "u1")
    assert public.call("POST", "open", HTTP_IDEMPOTENCY_KEY=key).status == 200


@pytest.mark.parametrize("key", ["1f0e6a52-6a0c-4f6e-9d5e-2b1f6a3c8d11", None])
def test_a_visitor_without_a_name_may_ask_again_with_a_key_made_by_chance(public, monkeypatch, key):
    def lose(request):
        raise OutcomeUnknown("lost")

    monkeypatch.setattr(public.backend, "answer", lose)
    given = {"HTTP_IDEMPOTENCY_KEY": key} if key else {}
    told = public.call("POST", "open", **given).json["idempotency_key"]
    public.call("POST", "open", HTTP_IDEMPOTENCY_KEY=told)
    first, second = (request.idempotency_key for request in public.backend.requests)
    assert first == second


@pytest.mark.parametrize("key", ["", "a" * 256, "a\tb", "é"])
def test_an_idempotency_key_that_is_none(site, key):
    assert site.call("POST", HTTP_IDEMPOTENCY_KEY=key).code == "bad-header"


@pytest.mark.parametrize("path", ["", "/"])
def test_without_an_extension_there_is_nothing(site, path):
    assert site.send(path=f"/api/ext{path}").status == 404


def test_the_path_of_an_extension_itself_is_a_slash(site):
    for path in (f"/api/ext/{EXTENSION}", f"/api/ext/{EXTENSION}/"):
        assert site.send(path=path).status == 200
        assert site.backend.requests[-1].http.path == "/"


def test_a_guests_answer_goes_through_with_our_headers(site, answering):
    answering(
        ExecuteResponse(
            404,
            (("Content-Type", "application/json"), ("Set-Cookie", "a=1")),
            b"{}",
            timings={"run": 1.25, "bad name": 1.0},
        )
    )
    answer = site.call()
    assert (answer.status, answer.body) == (404, b"{}")
    assert answer.header("set-cookie") is None
    assert answer.header("cache-control") == "no-store"
    assert answer.header("x-runner-backend") == "recorder"
    timing = answer.header("server-timing")
    assert timing.startswith("run;dur=1.2, total;dur=")


EXPECTED = {
    "guest_trap": (502, "guest-trap"),
    "timeout": (504, "guest-timeout"),
    "out_of_memory": (502, "guest-out-of-memory"),
    "out_of_fuel": (504, "guest-timeout"),
    "not_found": (502, "bundle-unavailable"),
    "refused": (502, "bundle-unavailable"),
    "bad_request": (502, "bad-runner-response"),
    "internal": (502, "bad-runner-response"),
}


@pytest.mark.parametrize("outcome", [outcome for outcome in OUTCOMES if outcome != "ok"])
def test_what_a_guest_did_wrong_has_its_status_and_is_logged(site, answering, outcome, caplog):
    answering(ExecuteResponse(200, (), b"SECRET", outcome=outcome, error="SECRET at line 7"))
    with caplog.at_level(logging.INFO, "runnerwsgi"):
        answer = site.call()
    assert (answer.status, answer.code) == EXPECTED[outcome]
    assert b"SECRET" not in answer.body
    request_id = answer.header("x-request-id")
    assert f"request_id={request_id} tenant_id=t1 extension_id={EXTENSION}" in caplog.text
    assert f"outcome={outcome}" in caplog.text
    assert "SECRET at line 7" in caplog.text


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (RuntimeError("SECRET"), 502, "bad-runner-response"),
        (CapabilityError("denied", "SECRET"), 500, "capability-refused"),
        ({"status": 200}, 502, "bad-runner-response"),
    ],
)
def test_a_backend_that_fails_is_named_in_the_log_alone(
    site, answering, failure, status, code, caplog
):
    answering(failure)
    answer = site.call()
    assert (answer.status, answer.code) == (status, code)
    assert b"SECRET" not in answer.body
    assert code in caplog.text


def test_an_answer_that_is_too_large_is_refused(tmp_path):
    with Site(tmp_path, max_response_bytes=10) as site:
        assert site.call("POST", body=b"x" * 10).status == 200
        assert site.call("POST", body=b"x" * 11).code == "bad-runner-response"


def test_an_extensions_log_lines_are_ours_with_its_name(site, answering, caplog):
    lines = (LogLine("info", "one\ntwo"), LogLine("warn", "three"), LogLine("loud", "four"))
    answering(ExecuteResponse(200, logs=lines))
    with caplog.at_level(logging.INFO, "runnerwsgi"):
        site.call()
    found = [record for record in caplog.records if record.args[0] == "extension"]
    assert [record.levelname for record in found] == ["INFO", "WARNING", "INFO"]
    assert "one\\ntwo" in found[0].getMessage()
    assert all(f"extension_id={EXTENSION}" in record.getMessage() for record in found)


def test_not_installed_and_not_existing_are_one_answer(site):
    missing = site.send(path="/api/ext/no.such/hello")
    site.principal = Principal("t2", "u")
    other = site.call()
    site.principal = Principal("t1", "u1")
    assert missing.status == other.status == 404
    assert {**missing.json, "request_id": ""} == {**other.json, "request_id": ""}


class Hanging(Recorder):
    """A backend whose calls wait until they are let go."""

    def __init__(self, store):
        super().__init__(store)
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()

    def answer(self, request):
        self.entered.release()
        self.go.wait(10)
        return super().answer(request)


def test_beyond_the_slots_a_call_is_refused_at_once_and_the_application_answers(tmp_path):
    with Site(tmp_path, backend=Hanging, threads=4, reserved_threads=2) as site:
        calls = [threading.Thread(target=site.call) for _ in range(2)]
        for call in calls:
            call.start()
            assert site.backend.entered.acquire(timeout=5)
        answer = site.call()
        assert (answer.status, answer.code) == (503, "overloaded")
        assert answer.header("retry-after") == "1"
        assert site.send(path="/").body == b"host"
        assert site.file().status == 200
        site.backend.go.set()
        for call in calls:
            call.join()
        assert site.call().status == 200


def test_a_slot_is_not_taken_while_a_body_is_read(tmp_path):
    with Site(tmp_path, threads=1) as site:
        in_use = []

        class Input:
            def read(self, size):
                in_use.append(site.app._bulkhead.in_use)
                return b"x" * size

        site.call("POST", CONTENT_LENGTH="3", **{"wsgi.input": Input()})
        assert in_use == [0]
        assert site.backend.requests[0].http.body == b"xxx"
