"""A gateway drives AlgaPSA's own runner: through the docker backend, and byte by byte."""

import http.client
import json
from dataclasses import replace
from typing import ClassVar

import pytest
import runnerwsgi_docker
from rust_runner import IMMUTABLE, MAX_BODY, RustRunner
from support import Site, pack_files
from wasm.rig import guest
from wasmtime import wat2wasm

from runnerwsgi import ExecuteRequest, Gateway, UiAsset
from runnerwsgi.errors import (
    BadRunnerResponse,
    BodyTooLarge,
    SecretsUnavailable,
    UnknownCapability,
)
from runnerwsgi.protocol import Bundle, Context, HttpRequest, Limits, User
from runnerwsgi.testing import RemoteBackendContract
from runnerwsgi.wire import response_from_json
from runnerwsgi.wit import ECHO

TENANT, EXTENSION = "acme", "demo.echo"
GUESTS = {
    "echo": ECHO.read_text("utf-8"),
    "endless": guest("(loop $again (br $again)) unreachable"),
    "trap": guest("unreachable"),
    "hog": guest(
        "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 99)) (i32.const -1)))) unreachable"
    ),
}
PAGES = {"ui/index.html": b"<p>hello", "ui/app.js": b"1", "ui/a+b/c.css": b"p {}", "ui/x.txt": b"x"}


@pytest.fixture(scope="module")
def rust(tmp_path_factory):
    """A running stand-in; ``rust.hashes`` has the content hash of each guest, by its name."""
    with RustRunner(tmp_path_factory.mktemp("rust")) as runner:
        runner.hashes = {name: publish(runner, tmp_path_factory, name) for name in GUESTS}
        for content_hash in runner.hashes.values():  # what compiling takes is no call's time
            runner.gateway.warm_up(Bundle(TENANT, EXTENSION, content_hash))
        yield runner


def publish(runner, tmp_path_factory, name):
    manifest = {"name": EXTENSION, "version": "1.0.0"}
    files = {"manifest.json": json.dumps(manifest).encode(), **PAGES}
    files["dist/main.wasm"] = bytes(wat2wasm(GUESTS[name]))
    return runner.publish(TENANT, EXTENSION, pack_files(tmp_path_factory.mktemp(name), files))


def backend_at(url, home, **env):
    """The docker backend, as an application's environment makes it."""
    return runnerwsgi_docker.plugin({"RUNNER_HOME": str(home), "RUNNER_DOCKER_HOST": url, **env})


@pytest.fixture
def gateway(rust, tmp_path):
    with Gateway(backend_at(rust.url, tmp_path)) as gateway:
        yield gateway


def call(rust, name="echo", method="POST", body=None, **more):
    http = HttpRequest(method, "/things", "a=1", body=body)
    context = Context(TENANT, EXTENSION, rust.hashes[name], "r-1", "i-1", "1.0.0")
    return replace(ExecuteRequest(context, http, Limits(5000)), **more)


class TestContract(RemoteBackendContract):
    @pytest.fixture(autouse=True)
    def _runner(self, rust, tmp_path):
        self.rust, self.home = rust, tmp_path

    def make_backend(self):
        return self.make_backend_at(self.rust.url)

    def make_backend_at(self, base):
        return backend_at(base, self.home)

    def sample_request(self):
        return call(self.rust)

    def echo_request(self, body):
        return call(self.rust, body=body)

    def endless_request(self):
        return call(self.rust, "endless")


class TestExecute:
    def test_the_guest_answers(self, gateway, rust):
        response = gateway.execute(call(rust, user=User("u1", "a@example.com", "A", "internal")))
        assert (response.status, response.outcome, response.body) == (
            200,
            "ok",
            b"POST /things?a=1\n",
        )
        assert ("x-ext-method", "POST") in response.headers
        assert (response.logs, response.timings) == ((), {})

    @pytest.mark.parametrize(
        ("name", "outcome"),
        [("trap", "guest_trap"), ("hog", "guest_trap"), ("endless", "timeout")],
        ids=["a trap", "too much memory, in the same word", "too much time, told by the clock"],
    )
    def test_a_guest_that_fails(self, gateway, rust, name, outcome):
        timeout_ms = 700 if name == "endless" else 20_000
        response = gateway.execute(call(rust, name, limits=Limits(timeout_ms, memory_mb=32)))
        assert response.outcome == outcome

    def test_a_bundle_that_it_has_not(self, gateway, rust):
        request = call(rust)
        other = replace(request, context=replace(request.context, tenant_id="globex"))
        assert gateway.execute(other).outcome == "not_found"

    def test_a_grant_that_it_does_not_know(self, gateway, rust):
        with pytest.raises(UnknownCapability):
            gateway.execute(call(rust, providers=("cap:doors.open",)))

    def test_a_body_beyond_its_limit_is_told_as_such(self, gateway, rust):
        with pytest.raises(BodyTooLarge):
            gateway.execute(call(rust, body=b"x" * MAX_BODY))
        assert gateway.execute(call(rust)).status == 200

    def test_a_key_that_comes_back_is_not_executed_again(self, gateway, rust):
        first = gateway.execute(call(rust, body=b"one", idempotency_key="acme:demo.echo:k"))
        again = gateway.execute(call(rust, body=b"two", idempotency_key="acme:demo.echo:k"))
        assert (first.body, again.body) == (b"one", b"one")

    def test_no_token_and_no_callback_confuse_it(self, rust, tmp_path):
        token = "0123456789abcdef" * 2
        with Gateway(backend_at(rust.url, tmp_path, RUNNER_SERVICE_TOKEN=token)) as gateway:
            assert gateway.execute(call(rust)).status == 200
            assert gateway.health().status == "ok"

    def test_secrets_that_it_cannot_open(self, rust):
        envelope = ask(rust, **{"secret_envelope": {"ciphertext_b64": "AAAA"}})
        assert envelope["error"] == "secret_decrypt_failed"
        with pytest.raises(SecretsUnavailable):
            response_from_json(json.dumps(envelope).encode(), 10_000)


def test_it_needs_no_warm_up(gateway, rust):
    done = gateway.warm_up(Bundle(TENANT, EXTENSION, rust.hashes["echo"]))
    assert (done.compiled, done.ms) == (False, 0)


def test_its_health_is_understood(gateway):
    health = gateway.health()
    assert health.status == "ok"
    assert (health.checks["cache"], health.checks["store"]) == ("writable", "ok")


def test_a_ui_file_is_where_it_says(gateway, rust):
    url = gateway.resolve_ui_url(UiAsset(TENANT, EXTENSION, rust.hashes["echo"], "a+b/c.css"))
    status, _, body = get(rust, url.removeprefix(rust.url), **{"X-Tenant-Id": TENANT})
    assert (status, body) == (200, b"p {}")


class TestThroughAnApplication:
    """What a browser sees of it: our rules, whatever it puts on its answers."""

    FILES: ClassVar = {
        "manifest.json": b'{"name":"acme.hello","version":"1.0.0"}',
        "dist/main.wasm": bytes(wat2wasm(GUESTS["echo"])),
        **PAGES,
    }

    @pytest.fixture(params=[True, False], ids=["digests known", "digests unknown"])
    def site(self, request, rust, tmp_path):
        def backend(store):
            return backend_at(rust.url, tmp_path)

        with Site(tmp_path, backend=backend, files=self.FILES) as site:
            site.install(digests=request.param)
            archive = pack_files(tmp_path / "published", self.FILES)
            assert rust.publish("t1", "acme.hello", archive) == site.bundle.content_hash
            yield site

    def test_a_call(self, site):
        answer = site.call("POST", body=b"hi")
        assert (answer.status, answer.body) == (200, b"hi")
        assert answer.header("Cache-Control") == "no-store"

    def test_a_file(self, site):
        answer = site.file("app.js")
        assert (answer.status, answer.body) == (200, b"1")
        assert answer.header("Content-Type") == "text/javascript; charset=utf-8"
        assert answer.header("X-Content-Type-Options") == "nosniff"

    def test_a_part_of_a_file_though_it_knows_no_parts(self, site):
        answer = site.file("index.html", HTTP_RANGE="bytes=3-7")
        assert (answer.status, answer.body) == (206, b"hello")

    def test_a_file_that_it_will_not_serve(self, site):
        answer = site.file("x.txt")
        assert (answer.status, answer.header("Cache-Control")) == (502, "no-store")

    def test_a_bundle_that_it_lost(self, site, rust):
        rust.published.discard(("t1", "acme.hello", site.bundle.content_hash))
        assert site.call().code == "bundle-unavailable"
        missing = site.file("a+b/c.css")
        assert missing.status in (404, 502)
        assert missing.header("Cache-Control") == "no-store"


# What it does byte by byte, where our own runner differs: nothing below is to be relied on.


def get(rust, path, method="GET", **headers):
    return send(rust, method, path, None, headers)


def send(rust, method, path, body, headers):
    connection = http.client.HTTPConnection(rust.url.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, answer.read()
    finally:
        connection.close()


HEADERS = {
    "Content-Type": "application/json",
    "X-Alga-Tenant": TENANT,
    "X-Alga-Extension": EXTENSION,
}


def ask(rust, headers=HEADERS, **changes):
    """The envelope of a call as its own gateway makes it: no limits, no request id."""
    context = {"tenant_id": TENANT, "extension_id": EXTENSION, "content_hash": rust.hashes["echo"]}
    call = {"context": context, "http": {"method": "GET", "path": "/"}, **changes}
    status, _, body = send(rust, "POST", "/v1/execute", json.dumps(call), headers)
    assert status == 200
    return json.loads(body)


def test_without_a_limit_a_guest_ends_at_once(rust):
    assert ask(rust)["error"].startswith("execute_failed: ")
    assert ask(rust, limits={"timeout_ms": 5000})["error"] is None


def test_without_routing_headers_it_executes_nothing(rust):
    envelope = ask(rust, {"Content-Type": "application/json"})
    assert (envelope["status"], envelope["error"]) == (400, "missing_routing_headers")


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", b"{}", 415),
        ("application/json", b"{", 400),
        ("application/json", b"{}", 422),
        ("application/json", b"null", 422),
        ("application/json", b" " * (MAX_BODY + 1), 413),
    ],
    ids=["another type", "no JSON", "another shape", "nothing", "above its limit"],
)
def test_what_it_refuses_outside_the_envelope(rust, kind, body, status):
    headers = {**HEADERS, "Content-Type": kind}
    found, answered, _ = send(rust, "POST", "/v1/execute", body, headers)
    assert (found, answered["cache-control"]) == (status, IMMUTABLE)
    assert "x-runner" not in answered


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("index.html", 200, b"<p>hello"),
        ("nosuch.js", 200, b"<p>hello"),
        ("x.txt", 400, b"invalid path"),
        (".hidden", 400, b"invalid path"),
    ],
    ids=["a file", "no file, and yet the entry", "a type it does not know", "a hidden file"],
)
def test_the_files_of_a_page(rust, path, status, body):
    place = f"/ext-ui/{EXTENSION}/{rust.hashes['echo']}/{path}"
    found, answered, data = get(rust, place, **{"X-Tenant-Id": TENANT, "Range": "bytes=0-1"})
    assert (found, data, answered["cache-control"]) == (status, body, IMMUTABLE)
    assert get(rust, place)[0] == 404  # it needs a tenant to find a bundle


def test_a_file_that_is_known_is_not_sent_again(rust):
    place = f"/ext-ui/{EXTENSION}/{rust.hashes['echo']}/app.js"
    _, first, _ = get(rust, place, **{"X-Tenant-Id": TENANT})
    tag = {"If-None-Match": first["etag"]}
    assert get(rust, place, **{"X-Tenant-Id": TENANT}, **tag)[0] == 304


def test_other_addresses(rust):
    assert get(rust, "/health/readiness")[0] == 404
    assert get(rust, "/v1/execute")[0] == 405


def test_a_bad_answer_is_no_answer(tmp_path, rust):
    with (
        Gateway(backend_at(rust.url + "/elsewhere", tmp_path)) as gateway,
        pytest.raises(BadRunnerResponse),
    ):
        gateway.execute(call(rust))
