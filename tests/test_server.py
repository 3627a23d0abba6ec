"""The runner server, route by route, as a WSGI application around a backend that records."""

import base64
import json
import time
from dataclasses import replace
from threading import Event, Thread
from urllib.parse import quote

import pytest
from support import FILES, Recorder, make_environ, pack_files, send

from runnerwsgi import ExecuteResponse, Gateway, Health, Settings, __version__, hookimpl
from runnerwsgi.bundles import BundleStore
from runnerwsgi.errors import (
    BackendStarting,
    BackendUnreachable,
    BodyTooLarge,
    BundleUnavailable,
    ConfigurationError,
    DeadlineExceeded,
    GuestOutOfMemory,
    GuestTrap,
    Overloaded,
    SecretsUnavailable,
    StorageError,
    TooManyRequests,
    UnknownCapability,
)
from runnerwsgi.protocol import (
    Bundle,
    Context,
    ExecuteRequest,
    HttpRequest,
    Limits,
    LogLine,
    User,
    WarmUp,
)
from runnerwsgi.secrets import Secret
from runnerwsgi.server import RunnerServer
from runnerwsgi.service_token import ServiceToken
from runnerwsgi.wire import request_to_json, response_from_json

TOKEN = "a-token-of-more-than-32-characters-for-tests"
HASH = "sha256:" + "0" * 64
CALL = ExecuteRequest(
    Context("acme", "demo.notes", HASH, request_id="r-1"),
    HttpRequest("POST", "/notes", "draft=1", (("accept", "*/*"),), b"hi"),
    Limits(timeout_ms=5000, memory_mb=64),
    providers=("cap:user.read",),
    user=User("u1", "a@example.com", "A", "internal"),
)
UI = {**FILES, "ui/a/b.svg": b"<svg/>", "ui/empty.css": b"", "ui/font.woff2": b"wOF2"}
IMMUTABLE = "public, max-age=31536000, immutable"
NAVIGATE = {"HTTP_SEC_FETCH_MODE": "navigate"}


class Backend(Recorder):
    """Answers what `answer` is: a response, an error, or a function of the request."""

    health = Health("ok", {"engine": "here"})
    warmed = ()

    def __init__(self, store, answer=None):
        super().__init__(store)
        self.given = answer

    def answer(self, request):
        if request.context.extension_id == "runnerwsgi.canary" or self.given is None:
            return super().answer(request)
        if isinstance(self.given, Exception):
            raise self.given
        return self.given(request) if callable(self.given) else self.given

    @property
    def request(self):
        (found,) = (r for r in self.requests if r.context.extension_id != "runnerwsgi.canary")
        return found

    @hookimpl
    def runner_health(self):
        return self.health

    @hookimpl
    def runner_warm_up(self, bundle):
        self.warmed += (bundle,)
        if isinstance(self.given, Exception):
            raise self.given
        return WarmUp(compiled=True, ms=7)


class Rig:
    """A runner server and the backend behind it."""

    def __init__(self, folder, answer=None, token=None, every=10.0, backend=Backend, **settings):
        self.settings = Settings(home=folder / "home", **{"threads": 8, **settings})
        store = BundleStore.from_url(self.settings.bundle_store)
        self.bundle = store.add(pack_files(folder / "source", UI))
        self.backend = backend(store, answer)
        token = ServiceToken(Secret(token)) if token else None
        gateway = Gateway(self.backend, names=["recorder"])
        self.app = RunnerServer(gateway, self.settings, token=token, every=every)

    def send(self, method="GET", path="/", body=b"", **more):
        return send(self.app, make_environ(method, path, body, **more))

    def post(self, path, body, **more):
        return self.send("POST", path, body, **{"CONTENT_TYPE": "application/json", **more})

    def execute(self, call=CALL, **more):
        return self.post("/v1/execute", request_to_json(call), **more)

    def file(self, path="index.html", method="GET", **more):
        place = f"/ext-ui/acme.hello/{self.bundle.content_hash}/{path}"
        return self.send(method, place, **more)

    def until(self, path, status, seconds=10):
        """Ask until the answer has this status."""
        end = time.monotonic() + seconds
        while (answer := self.send("GET", path)).status != status:
            assert time.monotonic() < end, answer
            time.sleep(0.01)
        return answer


@pytest.fixture
def rig(tmp_path):
    made = []

    def make(answer=None, **more):
        made.append(Rig(tmp_path / str(len(made)), answer, **more))
        return made[-1]

    yield make
    for one in made:
        one.app.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    one = Rig(tmp_path_factory.mktemp("files"))
    yield one
    one.app.close()


# Every answer


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/execute", 405),
        ("POST", "/healthz", 405),
        ("GET", "/v1/execute/", 404),
        ("GET", "/ext-ui/", 404),
        ("GET", "/ext-ui/a/b/c", 400),
        ("GET", "/health/liveness", 200),
        ("HEAD", "/health/liveness", 200),
        ("GET", "/runner/internal/v1/x", 404),
    ],
)
def test_every_answer_says_that_a_runner_gave_it(rig, method, path, status):
    answer = rig().send(method, path)
    assert answer.status == status
    assert answer.header("x-runner") == f"runnerwsgi/{__version__}"
    assert answer.header("cache-control") == "no-store"
    assert answer.header("x-request-id")


def test_the_callers_request_id_comes_back(rig):
    assert rig().send("GET", "/", HTTP_X_REQUEST_ID="abc").header("x-request-id") == "abc"


@pytest.mark.parametrize("given", ["", "a" * 129, "\xfc", "a\tb"])
def test_a_request_id_that_cannot_be_one_is_replaced(rig, given):
    found = rig().send("GET", "/", HTTP_X_REQUEST_ID=given).header("x-request-id")
    assert len(found) == 16


def test_an_error_of_ours_is_no_traceback(rig, caplog):
    one = rig()
    one.app.bulkhead = None
    answer = one.execute()
    assert (answer.status, answer.code) == (500, "internal")
    assert answer.header("x-runner")


# Execute


def test_a_call_and_its_answer(rig):
    one = rig(
        ExecuteResponse(
            201,
            (("content-type", "text/plain"), ("x-ext-a", "1"), ("x-ext-a", "2")),
            b"done",
            logs=(LogLine("info", "hello"),),
            timings={"load": 1.5},
        )
    )
    answer = one.execute(
        HTTP_X_IDEMPOTENCY_KEY="acme:demo.notes:k", HTTP_X_RUNNER_DEADLINE_MS="900"
    )
    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    envelope = answer.json
    assert envelope["status"] == 201
    assert base64.b64decode(envelope["body_b64"]) == b"done"
    assert (envelope["error"], envelope["outcome"]) == (None, "ok")
    assert ["x-ext-a", "2"] in envelope["header_list"]
    assert envelope["logs"] == [["info", "hello"]]
    asked = one.backend.request
    # Whoever executes keeps the key: a runner behind this one must not do so, too.
    assert asked.idempotency_key is None
    assert 0 < asked.limits.timeout_ms <= 900
    assert replace(asked, idempotency_key=None, limits=CALL.limits) == CALL


def test_a_tenant_may_have_the_longest_name_there_is_in_any_script(rig):
    # The gateway's keys begin with it, percent-encoded.
    key = f"{quote(chr(0x1F98A) * 256)}:acme.hello:{'0' * 32}"
    assert rig().execute(HTTP_X_IDEMPOTENCY_KEY=key).status == 200
    assert rig().execute(HTTP_X_IDEMPOTENCY_KEY="k" * 4097).status == 400


@pytest.mark.parametrize(
    ("answer", "more"),
    [
        pytest.param(BackendUnreachable("nobody there"), {}, id="nobody to execute it"),
        pytest.param(BundleUnavailable("gone"), {}, id="no bundle"),
        pytest.param(Overloaded("full"), {}, id="no slot further on"),
        pytest.param(None, {"HTTP_X_RUNNER_DEADLINE_MS": "0"}, id="no time left"),
    ],
)
def test_a_key_of_a_call_that_never_began_is_as_good_as_new(rig, answer, more):
    runner = rig(answer)
    runner.execute(HTTP_X_IDEMPOTENCY_KEY="k", **more)
    runner.backend.given = None
    answer = runner.execute(HTTP_X_IDEMPOTENCY_KEY="k")
    assert response_from_json(answer.body, 10_000).outcome == "ok"


@pytest.mark.parametrize(
    "answer",
    [GuestTrap("its own fault"), DeadlineExceeded("no answer", sent=True)],
    ids=["the guest trapped", "nobody knows"],
)
def test_a_key_of_a_call_that_began_has_one_answer(rig, answer):
    runner = rig(answer)
    first = runner.execute(HTTP_X_IDEMPOTENCY_KEY="k")
    runner.backend.given = None
    assert runner.execute(HTTP_X_IDEMPOTENCY_KEY="k").body == first.body
    assert runner.backend.request  # just one


def test_a_call_without_a_slot_asks_for_no_key(rig, tmp_path):
    held, release = Event(), Event()

    def answer(request):
        held.set()
        release.wait(10)
        return ExecuteResponse(200)

    # A store that nobody can open: whoever asks it is refused as that.
    (tmp_path / "keys.db").mkdir()
    url = f"sqlite:///{tmp_path}/keys.db"
    runner = rig(answer, max_per_extension=1, idempotency_url=url)
    thread = Thread(target=runner.execute)
    thread.start()
    try:
        assert held.wait(10)
        answer = runner.execute(HTTP_X_IDEMPOTENCY_KEY="k")
        assert (answer.status, answer.code) == (503, "overloaded")
    finally:
        release.set()
        thread.join()
    assert runner.execute(HTTP_X_IDEMPOTENCY_KEY="k").code == "storage-unavailable"


def test_a_guest_learns_on_the_runner_who_called(rig):
    told = []
    one = rig(
        lambda request: (
            told.append(request.capabilities.call("user", "get-user", (), 1.0))
            or ExecuteResponse(200)
        )
    )
    assert one.execute().json["outcome"] == "ok"
    assert told[0]["user-id"] == "u1"


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ("00-" + "a" * 32 + "-" + "b" * 16 + "-01", True),
        ("00-" + "a" * 32 + "-" + "b" * 16 + "-01, x", False),
        ("", False),
    ],
    ids=["well-formed", "a list", "empty"],
)
def test_a_trace_goes_on(rig, given, passed):
    one = rig()
    one.execute(HTTP_TRACEPARENT=given)
    assert one.backend.request.traceparent == (given if passed else None)


def test_a_call_without_a_request_id_gets_the_connections(rig):
    one = rig()
    one.execute(
        replace(CALL, context=replace(CALL.context, request_id=None)), HTTP_X_REQUEST_ID="h"
    )
    assert one.backend.request.context.request_id == "h"


@pytest.mark.parametrize("given", ["x", "-1", "1.5", "1e3", "9" * 10, ""])
def test_a_deadline_that_is_no_number_is_refused(rig, given):
    one = rig()
    answer = one.execute(HTTP_X_RUNNER_DEADLINE_MS=given)
    assert (answer.status, answer.code) == (400, "bad-header")
    assert not [r for r in one.backend.requests if r.context == CALL.context]


def test_a_call_whose_time_is_over_is_not_executed(rig):
    one = rig()
    answer = one.execute(HTTP_X_RUNNER_DEADLINE_MS="0")
    assert (answer.status, answer.json["outcome"]) == (200, "timeout")
    assert not [r for r in one.backend.requests if r.context == CALL.context]


def test_no_call_gets_more_than_a_setting_could_give(rig):
    one = rig()
    one.execute(replace(CALL, limits=Limits(2**62, 2**62)))
    limits = one.backend.request.limits
    assert 599_000 < limits.timeout_ms <= 600_000
    assert limits.memory_mb == 4096


@pytest.mark.parametrize(
    ("error", "status", "outcome", "word"),
    [
        (BundleUnavailable("b"), 502, "not_found", "bundle_fetch_failed: b"),
        (GuestTrap("t"), 500, "guest_trap", "execute_failed: t"),
        (GuestOutOfMemory("m"), 500, "out_of_memory", "execute_failed: m"),
        (DeadlineExceeded("d"), 500, "timeout", "execute_failed: epoch deadline reached: d"),
        (UnknownCapability("c"), 400, "bad_request", "unknown_capabilities: c"),
        (SecretsUnavailable("s"), 500, "bad_request", "secret_decrypt_failed: s"),
        (ConfigurationError("bad"), 500, "internal", "engine_init_failed: bad"),
        (RuntimeError("x"), 500, "internal", "engine_init_failed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_kept_a_call_from_its_answer_is_in_the_envelope(rig, error, status, outcome, word):
    answer = rig(error).execute()
    envelope = answer.json
    assert answer.status == 200
    assert (envelope["status"], envelope["outcome"]) == (status, outcome)
    assert envelope["error"].startswith(word)


@pytest.mark.parametrize("error", [UnknownCapability("c"), SecretsUnavailable("s")])
def test_a_gateway_reads_the_same_error_again(rig, error):
    answer = rig(error).execute()
    with pytest.raises(type(error)):
        response_from_json(answer.body, 1 << 20)


@pytest.mark.parametrize(
    ("error", "status", "code", "after"),
    [
        (Overloaded("o", retry_after=3), 503, "overloaded", "3"),
        (BackendStarting("s"), 503, "backend-starting", "1"),
        (StorageError("disk"), 503, "storage-unavailable", None),
        (TooManyRequests("t", retry_after=9), 429, "too-many-requests", "9"),
        (BodyTooLarge("b"), 413, "body-too-large", None),
    ],
    ids=["overloaded", "starting", "a full disk", "too many", "too large"],
)
def test_what_was_not_executed_has_a_status_of_http(rig, error, status, code, after):
    answer = rig(error).execute()
    assert (answer.status, answer.code) == (status, code)
    assert answer.header("retry-after") == after
    assert answer.header("content-type") == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "not strict JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "context: found nothing; expected an object"),
        (b'{"context":{"tenant_id":1}}', "context.tenant_id: found int; expected a string"),
        (b'{"a":1,"a":2}', "not strict JSON"),
        ("{}".encode("utf-16"), "not strict JSON"),
        (b"\xef\xbb\xbf{}", "not strict JSON"),
        (b"[" * 100_000, "not strict JSON"),
    ],
    ids=[
        *("nothing", "a list", "an empty object", "a number as tenant", "a key twice"),
        *("UTF-16", "a BOM", "deep nesting"),
    ],
)
def test_a_call_that_cannot_be_read_is_told_which_field(rig, body, detail):
    answer = rig().post("/v1/execute", body)
    assert (answer.status, answer.code) == (400, "bad-request")
    assert detail in answer.json["detail"]


def test_limits_must_say_the_time(rig):
    call = json.loads(request_to_json(CALL))
    del call["limits"]["timeout_ms"]
    answer = rig().post("/v1/execute", json.dumps(call).encode())
    assert "limits.timeout_ms" in answer.json["detail"]


def test_unknown_fields_are_ignored(rig):
    call = json.loads(request_to_json(CALL)) | {"later": {"a": [1]}}
    assert rig().post("/v1/execute", json.dumps(call).encode()).json["outcome"] == "ok"


@pytest.mark.parametrize("media", ["text/plain", "", "application/jsonx", "application/json, x"])
def test_another_content_type_is_refused(rig, media):
    assert rig().execute(CONTENT_TYPE=media).status in (400, 415)


def test_a_charset_beside_the_content_type_does_not_matter(rig):
    assert rig().execute(CONTENT_TYPE="Application/JSON; charset=utf-8").status == 200


def test_a_body_is_capped(rig):
    one = rig(max_body_bytes=1000)

    def with_body(size):
        return replace(CALL, http=replace(CALL.http, body=b"x" * size))

    assert one.execute(with_body(1000)).status == 200
    assert one.execute(with_body(1001)).status == 413


def test_a_request_is_capped_before_it_is_read(rig):
    one = rig(max_body_bytes=1000)
    answer = one.post("/v1/execute", b"x" * 2_000_000)
    assert (answer.status, answer.input.consumed) == (413, 0)


def test_a_full_bulkhead_refuses_at_once_and_leaves_health_alone(rig):
    held, go = Event(), Event()

    def hold(request):
        held.set()
        assert go.wait(10)
        return ExecuteResponse(200)

    one = rig(hold, threads=3)
    caller = Thread(target=one.execute)
    caller.start()
    assert held.wait(10)
    started = time.monotonic()
    answer = one.execute()
    assert (answer.status, answer.code, answer.header("retry-after")) == (503, "overloaded", "1")
    assert one.send("GET", "/health/liveness").status == 200
    assert time.monotonic() - started < 5
    go.set()
    caller.join()
    assert one.execute().status == 200


# The service token


@pytest.mark.parametrize(
    "given",
    [None, "", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), f"{TOKEN}, {TOKEN}", "\xfc" * len(TOKEN)],
    ids=["none", "empty", "shorter", "longer", "upper case", "twice", "not ASCII"],
)
@pytest.mark.parametrize("path", ["/v1/execute", "/warmup"])
def test_without_the_token_nothing_is_run(rig, given, path):
    one = rig(token=TOKEN)
    answer = one.post(path, b"{}", HTTP_X_RUNNER_SERVICE_TOKEN=given)
    assert (answer.status, answer.code) == (401, "unauthenticated")
    assert not [r for r in one.backend.requests if r.context == CALL.context]
    assert not one.backend.warmed


def test_with_the_token_a_call_runs(rig):
    assert rig(token=TOKEN).execute(HTTP_X_RUNNER_SERVICE_TOKEN=TOKEN).json["outcome"] == "ok"


def test_a_browser_runs_nothing_where_there_is_no_token(rig):
    answer = rig().execute(HTTP_ORIGIN="http://rebound.example.com:8080")
    assert (answer.status, answer.code) == (403, "cross-site")
    known = {"HTTP_X_RUNNER_SERVICE_TOKEN": TOKEN, "HTTP_ORIGIN": "http://gateway"}
    assert rig(token=TOKEN).execute(**known).status == 200


def test_files_need_no_token(rig):
    assert rig(token=TOKEN).file().status == 200


def test_the_details_of_health_need_the_token(rig):
    one = rig(token=TOKEN)
    one.until("/healthz", 200)
    assert one.send("GET", "/healthz").json == {"status": "ok"}
    assert one.send("GET", "/healthz", HTTP_X_RUNNER_SERVICE_TOKEN="no").json == {"status": "ok"}
    details = one.send("GET", "/healthz", HTTP_X_RUNNER_SERVICE_TOKEN=TOKEN).json
    assert details["checks"]["canary"].startswith("executed in")


# Health


def test_health_says_what_the_runner_is(rig):
    found = rig(image="runnerwsgi:1", revision="abc").until("/healthz", 200).json
    assert found["status"] == "ok"
    assert found["checks"]["engine"] == "here"
    about = found["runner"]
    assert (about["version"], about["image"], about["revision"]) == (
        __version__,
        "runnerwsgi:1",
        "abc",
    )
    assert (about["backend"], about["threads"], about["slots"]) == ("recorder", 8, 6)
    assert about["uptime_s"] >= 0


class Slow(Backend):
    """Cannot execute its first call until it is told."""

    def __init__(self, *args):
        super().__init__(*args)
        self.go = Event()

    def answer(self, request):
        assert self.go.wait(10)
        return super().answer(request)


def test_a_runner_is_ready_when_it_has_executed(rig):
    one = rig(backend=Slow)
    assert one.send("GET", "/health/readiness").status == 503
    assert one.send("GET", "/healthz").json["status"] == "unavailable"
    assert one.send("GET", "/health/liveness").status == 200
    one.backend.go.set()
    assert one.until("/health/readiness", 200).body == b"ready\n"


def test_one_failed_look_degrades_and_the_second_is_believed(rig):
    one = rig(every=0.05)
    one.until("/health/readiness", 200)
    seen = []
    one.backend.health = Health("unavailable", {"disk": "gone"})
    end = time.monotonic() + 10
    while "unavailable" not in seen and time.monotonic() < end:
        seen.append(one.send("GET", "/healthz").json["status"])
        time.sleep(0.005)
    assert list(dict.fromkeys(seen)) in (
        ["ok", "degraded", "unavailable"],
        ["degraded", "unavailable"],
    )
    assert one.send("GET", "/health/readiness").status == 503
    assert one.send("GET", "/healthz").json["checks"]["disk"] == "gone"
    one.backend.health = Health("ok")
    one.until("/health/readiness", 200)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda backend: setattr(backend, "answer", lambda request: ExecuteResponse(200)),
        lambda backend: setattr(backend, "health", "not a Health"),
    ],
    ids=["the canary's answer is wrong", "the health hook is broken"],
)
def test_a_backend_that_is_broken_is_never_ready(rig, break_it):
    one = rig(every=0.02)
    break_it(one.backend)
    one.send("GET", "/healthz")
    time.sleep(0.2)
    assert one.send("GET", "/health/readiness").status == 503
    assert one.send("GET", "/healthz").status == 503


def test_a_look_that_hangs_is_told_to_whoever_restarts(rig, monkeypatch):
    monkeypatch.setattr("runnerwsgi.self_test.HANGS_AFTER_SECONDS", 0.05)
    one = rig(backend=Slow)
    assert one.until("/health/liveness", 503).body == b"hangs\n"
    assert one.send("GET", "/healthz").json["checks"]["self-test"] == "it hangs"
    one.backend.go.set()


def test_a_runner_that_is_ending_is_not_ready_and_still_answers(rig):
    one = rig()
    one.until("/health/readiness", 200)
    one.app.drain()
    assert one.send("GET", "/health/readiness").body == b"stopping\n"
    assert one.send("GET", "/healthz").status == 503
    assert one.execute().json["outcome"] == "ok"


# Warm-up


def test_a_bundle_is_warmed_up(rig):
    one = rig()
    body = {"tenant_id": "acme", "extension_id": "demo.notes", "content_hash": HASH}
    answer = one.post("/warmup", json.dumps(body).encode())
    assert (answer.status, answer.json) == (200, {"compiled": True, "ms": 7})
    assert one.backend.warmed == (Bundle("acme", "demo.notes", HASH),)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"tenant_id":"a","extension_id":"b"}'])
def test_a_warm_up_that_cannot_be_read(rig, body):
    answer = rig().post("/warmup", body)
    assert (answer.status, answer.code) == (400, "bad-request")


def test_a_warm_up_that_fails_says_why(rig):
    body = {"tenant_id": "acme", "extension_id": "demo.notes", "content_hash": HASH}
    answer = rig(BundleUnavailable("none")).post("/warmup", json.dumps(body).encode())
    assert (answer.status, answer.code) == (502, "bundle-unavailable")


# Files


def test_a_file(files):
    answer = files.file()
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.header("content-type") == "text/html; charset=utf-8"
    assert answer.header("cache-control") == IMMUTABLE
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("content-security-policy") == "sandbox allow-scripts"
    assert answer.header("etag").startswith('"')


@pytest.mark.parametrize(
    ("path", "media"),
    [
        ("app.js", "text/javascript; charset=utf-8"),
        ("a/b.svg", "image/svg+xml"),
        ("font.woff2", "font/woff2"),
        ("empty.css", "text/css; charset=utf-8"),
    ],
)
def test_the_type_of_a_file(files, path, media):
    assert files.file(path).header("content-type") == media


def test_head_is_a_file_without_its_body(files):
    whole, head = files.file(), files.file(method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.header("content-length") == "5"
    assert head.header("etag") == whole.header("etag")


def test_a_file_that_did_not_change(files):
    etag = files.file().header("etag")
    answer = files.file(HTTP_IF_NONE_MATCH=etag)
    assert (answer.status, answer.body, answer.header("cache-control")) == (304, b"", IMMUTABLE)
    assert files.file(HTTP_IF_NONE_MATCH='"x"').status == 200


@pytest.mark.parametrize(
    ("given", "status", "body", "caching"),
    [
        ("bytes=1-2", 206, b"el", IMMUTABLE),
        ("bytes=-2", 206, b"lo", IMMUTABLE),
        ("bytes=9-", 416, b"", "no-store"),
        ("bytes=0-1,3-4", 200, b"hello", IMMUTABLE),
    ],
)
def test_a_range(files, given, status, body, caching):
    answer = files.file(HTTP_RANGE=given)
    assert (answer.status, answer.body, answer.header("cache-control")) == (status, body, caching)


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        pytest.param("client/route", NAVIGATE, 200, id="a navigation"),
        pytest.param("client/route", {"HTTP_ACCEPT": "text/html"}, 200, id="an old browser's"),
        pytest.param("client/route", {}, 404, id="no navigation"),
        pytest.param("gone.js", NAVIGATE, 404, id="a script"),
        pytest.param("app.js", NAVIGATE, 200, id="a file that is there"),
    ],
)
def test_navigation_falls_back_to_the_entry(files, path, more, status):
    answer = files.file(path, **more)
    assert answer.status == status
    if path == "client/route" and status == 200:
        assert (answer.body, answer.header("cache-control")) == (b"hello", "no-cache")
    if status == 404:
        assert answer.header("cache-control") == "no-store"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"acme.hello/{HASH}/index.html", 404),
        ("acme.hello/sha256:abc/index.html", 400),
        (f"acme.hello/{HASH.upper()}/index.html", 400),
        (f"../{HASH}/index.html", 400),
        (f"acme.hello/{HASH}/../x", 400),
        (f"acme.hello/{HASH}/a%2e%2e/x", 400),
        (f"acme.hello/{HASH}/" + "a" * 3000, 414),
        ("acme.hello", 404),
    ],
)
def test_a_file_that_cannot_be(files, path, status):
    assert files.send("GET", f"/ext-ui/{path}").status == status


def test_only_get_and_head_read_files(files):
    answer = files.file(method="POST")
    assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("more", "tenant"),
    [
        ({}, "default"),
        ({"QUERY_STRING": "path=/&tenant=t%201"}, "t 1"),
        ({"HTTP_X_TENANT_ID": "acme", "QUERY_STRING": "tenant=evil"}, "acme"),
    ],
    ids=["nobody says", "the query", "the gateway"],
)
def test_whose_bundle_it_is(files, more, tenant):
    files.file(**more)
    assert files.backend.assets[-1].tenant_id == tenant


@pytest.mark.parametrize("tenant", ["a" * 257, "a%00b", "a%0ab", "a" + "&b=" * 200])
def test_a_tenant_that_nobody_is_called(files, tenant):
    assert files.file(QUERY_STRING=f"tenant={tenant}").status == 400


def test_a_store_that_cannot_be_reached_is_not_a_missing_file(rig):
    class Unreachable(Backend):
        @hookimpl
        def runner_resolve_ui_url(self, asset):
            raise BundleUnavailable("the bucket answers 403")

    answer = rig(backend=Unreachable).file()
    assert (answer.status, answer.code) == (502, "bundle-unavailable")


class Evicting:
    """A store whose bundle goes when it was found, and comes back for who asks again."""

    def __init__(self, store):
        self.store = store
        self.asked = 0

    def get(self, content_hash):
        self.asked += 1
        found = self.store.get(content_hash) if self.asked == 1 else None
        away = self.store.root / "away"
        if found is None:
            away.rename(self.path)
            return self.store.get(content_hash)
        self.path = found.path.rename(away) and found.path
        return found


def test_a_file_whose_bundle_went_at_that_moment_is_there(rig):
    one = rig()
    one.backend.store = Evicting(one.backend.store)
    answer = one.file()
    assert (answer.status, one.backend.store.asked) == (200, 2)


def test_files_that_hang_leave_threads_for_the_rest(rig):
    go = Event()

    class Hanging(Backend):
        @hookimpl
        def runner_resolve_ui_url(self, asset):
            assert go.wait(10)
            raise BundleUnavailable("too late")

    one = rig(backend=Hanging, threads=3)
    caller = Thread(target=one.file)
    caller.start()
    time.sleep(0.1)
    answer = one.file()
    assert (answer.status, answer.code) == (503, "overloaded")
    assert one.send("GET", "/health/liveness").status == 200
    go.set()
    caller.join()


def test_an_application_that_may_frame_a_file_is_named(rig):
    one = rig(public_origins=("https://app.example.com",))
    policy = one.file().header("content-security-policy")
    assert policy.endswith("frame-ancestors 'self' https://app.example.com")
