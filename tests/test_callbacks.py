"""The route for questions: who may ask, for what, and that nothing else is behind it."""

import http.client
import json
import socket
import threading
import time
from dataclasses import replace

import pytest
from support import EXTENSION, Site

from runnerwsgi import ConfigurationError, Principal
from runnerwsgi.capabilities import Call, HostCapabilities
from runnerwsgi.claims import Claims, Seal
from runnerwsgi.client import RunnerClient
from runnerwsgi.errors import StorageError
from runnerwsgi.secrets import Secret, Vault
from runnerwsgi.service_token import ServiceToken

GRANTS = ("cap:storage.kv", "cap:secrets.get", "cap:ui.proxy", "cap:http.fetch")
ROUTE = "/runner/internal/v1"
GET = b'{"namespace": "n", "key": "k"}'
MISSING = {"err": "missing"}


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path) as site:
        site.install(grants=GRANTS, secrets={"key": "value"}, routes=["GET /x", "POST /x"])
        yield site


def token_of(site, base="http://gateway", **changes):
    """The token that goes with a call; *changes* are of what it claims."""
    site.call()
    token = site.backend.requests[-1].capabilities.ask_back(base).token.reveal()
    if not changes:
        return token
    seal = Seal(lambda: site.installs.vault.derive("runnerwsgi callback"))
    return seal.sign(replace(seal.read(token), **changes)).reveal()


@pytest.fixture
def token(site):
    return token_of(site)


def ask(site, token, asked="/storage/get", body=GET, method="POST", **more):
    environ = {
        "CONTENT_TYPE": "application/json",
        "HTTP_AUTHORIZATION": f"Bearer {token}" if token is not None else None,
        **more,
    }
    return site.send(method, ROUTE + asked, body, **environ)


def test_a_question_with_its_token_is_answered(site, token):
    answer = ask(site, token)
    assert (answer.status, answer.json) == (200, MISSING)
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "no-store"
    assert answer.header("x-runner-backend") == "recorder"
    assert not answer.from_host


def test_the_url_is_the_base_and_the_mount(tmp_path):
    with Site(tmp_path, public_base="https://ui.example.com/ext") as site:
        site.install(grants=GRANTS)
        site.call()
        callback = site.backend.requests[-1].capabilities.ask_back("https://app.example.com")
        assert callback.url == "https://app.example.com/ext/internal/v1"
        answer = site.send(
            "POST",
            "/ext/internal/v1/storage/get",
            GET,
            CONTENT_TYPE="application/json",
            HTTP_AUTHORIZATION=f"bearer {callback.token.reveal()}",
        )
        assert answer.json == MISSING


def spoilt(token):
    claims, _, mac = token.partition(".")
    yield "nothing", ""
    yield "no signature", claims
    yield "an empty signature", f"{claims}."
    yield "no claims", f".{mac}"
    yield "other claims", f"{claims[:-2]}AA.{mac}"
    yield "another signature", f"{claims}.{'A' * len(mac)}"
    yield "a longer signature", f"{token}A"
    yield "two signatures", f"{token}.{mac}"
    yield "what is not ASCII", f"{claims}.ä"
    yield "very much", "a" * 100_000


def test_a_token_that_is_not_ours_is_refused(site, token):
    for name, text in spoilt(token):
        answer = ask(site, text)
        assert (answer.status, answer.code) == (401, "unauthenticated"), name
    assert ask(site, None).status == 401
    for scheme in ("Basic", "Bearer", token, f"Token {token}"):
        assert ask(site, None, HTTP_AUTHORIZATION=scheme).status == 401


def test_a_token_ends_with_its_call(site):
    site.call()
    call = Call("t1", EXTENSION, site.install(grants=GRANTS).install_id, timeout=0.3)
    door = site.app._callbacks
    host = HostCapabilities(call, GRANTS, {}, door)
    token = host.ask_back("http://gateway").token.reveal()
    assert ask(site, token).status == 200
    time.sleep(0.35)
    answer = ask(site, token)
    assert (answer.status, answer.code) == (401, "unauthenticated")
    late = host.ask_back("http://gateway").token.reveal()
    assert ask(site, late).status == 401


def test_a_token_is_good_in_every_process_and_with_no_other_key(site, tmp_path, token):
    with Site(tmp_path / "other") as other:
        other.install(grants=GRANTS)
        assert ask(other, token).status == 401
        (other.settings.home / "secret.key").write_bytes(
            (site.settings.home / "secret.key").read_bytes()
        )
    same = Seal(lambda: Vault(site.settings.home / "secret.key").derive("runnerwsgi callback"))
    assert same.read(token).tenant_id == "t1"


def test_the_service_token_signs_nothing(site, token):
    claims = Claims("t2", EXTENSION, "i", "r", None, GRANTS, False, time.time() + 60)
    forged = Seal(lambda: (b"s" * 32,)).sign(claims).reveal()
    assert ask(site, forged).status == 401


def test_a_key_that_was_changed_still_reads_what_the_old_one_signed(tmp_path):
    file = tmp_path / "secret.key"
    claims = Claims("t1", EXTENSION, "i", "r", None, GRANTS, False, time.time() + 60)
    old = Seal(lambda: Vault(file).derive("x")).sign(claims).reveal()
    before = file.read_bytes()
    file.unlink()
    Vault(file).derive("x")
    file.write_bytes(file.read_bytes() + before)
    changed = Seal(lambda: Vault(file).derive("x"))
    assert changed.read(old) == claims
    assert changed.sign(claims).reveal() != old
    assert Vault(file).derive("y") != Vault(file).derive("x")


def test_a_principal_survives_the_way(tmp_path):
    ada = Principal(
        "t1", "ada", {"a", "b"}, "a@b", "Ädä", "client", "C", "c1", {"k": "v"}, "bearer"
    )
    seal = Seal(lambda: (b"k" * 32,))
    for principal in (ada, Principal("t1", None), None):
        claims = Claims("t1", EXTENSION, "i", None, principal, GRANTS, True, time.time() + 60)
        assert seal.read(seal.sign(claims).reveal()) == claims


@pytest.mark.parametrize(
    "more",
    [
        {"HTTP_COOKIE": "session=1"},
        {"HTTP_ORIGIN": "http://localhost"},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_SEC_FETCH_SITE": "same-origin"},
        {"HTTP_SEC_FETCH_MODE": "cors"},
        {"HTTP_SEC_FETCH_DEST": "empty"},
    ],
    ids=str,
)
def test_a_browser_is_refused_with_whatever_token(site, token, more):
    answer = ask(site, token, **more)
    assert (answer.status, answer.code) == (403, "cross-site")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_questions_are_posted(site, token, method):
    answer = ask(site, token, method=method, body=b"")
    assert answer.status == 405
    assert answer.header("allow") == "POST"


@pytest.mark.parametrize(
    "asked",
    [
        *("", "/", "/storage", "/storage/", "/storage/get/", "/storage/get/x", "//storage/get"),
        *("/Storage/get", "/storage/../secrets/get", "/storage/%67et", "/storage/nothing"),
        *("/context/get-context", "/logging/log-info", "/user/get-user", "/http/fetch"),
    ],
)
def test_what_is_not_asked_back_is_not_there(site, token, asked):
    answer = ask(site, token, asked, b"{}")
    assert (answer.status, answer.code) == (404, "not-found")


@pytest.mark.parametrize("path", ["/runner/internal", "/runner/internal/", "/runner/internal/v2/x"])
def test_nothing_else_is_internal(site, token, path):
    answer = site.send("POST", path, GET, HTTP_AUTHORIZATION=f"Bearer {token}")
    assert (answer.status, answer.code) == (404, "not-found")
    assert not answer.from_host


@pytest.mark.parametrize(
    ("more", "status"),
    [
        pytest.param({"CONTENT_TYPE": "text/plain"}, 415, id="text"),
        pytest.param({"CONTENT_TYPE": None}, 415, id="no type"),
        pytest.param({"CONTENT_TYPE": "application/json; charset=utf-8"}, 200, id="a charset"),
        pytest.param({"HTTP_CONTENT_ENCODING": "gzip"}, 415, id="compressed"),
        pytest.param({"CONTENT_LENGTH": str(9 << 20)}, 413, id="too long"),
        pytest.param({"CONTENT_LENGTH": "x"}, 400, id="no length"),
        pytest.param({"CONTENT_LENGTH": "5"}, 400, id="cut off"),
    ],
)
def test_a_question_is_json_of_a_length(site, token, more, status):
    assert ask(site, token, **more).status == status


def test_nothing_is_read_of_whoever_has_no_token(site):
    answer = ask(site, "x.y")
    assert answer.status == 401
    assert answer.input.consumed == 0


@pytest.mark.parametrize(
    ("claimed", "asked"),
    [
        pytest.param({"capabilities": ("cap:secrets.get",)}, "/storage/get", id="not claimed"),
        pytest.param(
            {"capabilities": ("cap:client.read",)}, "/clients/get-client", id="not granted"
        ),
        pytest.param({"install_id": "another"}, "/storage/get", id="an install that is gone"),
        pytest.param({"tenant_id": "t2"}, "/storage/get", id="a tenant without one"),
    ],
)
def test_both_the_call_and_the_install_must_grant_it(site, claimed, asked):
    answer = ask(site, token_of(site, **claimed), asked)
    assert (answer.status, answer.code) == (403, "forbidden")


def test_a_call_out_of_a_route_calls_no_route(site):
    def call_route(nested):
        token = token_of(site, nested=nested)
        return ask(site, token, "/ui-proxy/call-route", b'{"route": "/x"}').json

    assert call_route(False) == {"ok": "aG9zdA=="}
    assert call_route(True) == {"err": "denied"}


def test_a_call_that_a_route_makes_says_so(site):
    """The guest's route calls an extension, whose guest may then call no route."""
    made = []

    def application(environ, start_response):
        made.append(token_of(site))
        start_response("200 OK", [])
        return [b""]

    site.app.app = application
    site.app._services.replace(site.app._service(site.gateway))
    assert ask(site, token_of(site), "/ui-proxy/call-route", b'{"route": "/x"}').json == {"ok": ""}
    answer = ask(site, made[0], "/ui-proxy/call-route", b'{"route": "/x"}')
    assert answer.json == {"err": "denied"}
    assert len(made) == 1


def test_a_nested_call_does_not_wait_for_the_question_it_came_from(site):
    """A route that the guest calls asks an extension, which asks for its storage."""
    inner, other, answers = token_of(site, nested=True), token_of(site), []

    def application(environ, start_response):
        answers.extend((ask(site, inner), ask(site, other)))
        start_response("200 OK", [])
        return [b"done"]

    site.app.app = application
    site.app._services.replace(site.app._service(site.gateway))
    outer = ask(site, token_of(site), "/ui-proxy/call-route", b'{"route": "/x"}')
    assert outer.json == {"ok": "ZG9uZQ=="}
    nested, waiting = answers
    assert nested.json == MISSING
    assert (waiting.status, waiting.code) == (429, "too-many-requests")
    assert waiting.header("retry-after") == "1"


# Over a socket of our own


@pytest.fixture
def on_socket(site, tmp_path):
    """Sends requests to the socket that the gateway made for a call."""
    site.call()
    callback = site.backend.requests[-1].capabilities.ask_back(f"unix:{tmp_path / 'run'}")
    name, slash, path = callback.url.removeprefix("unix://").partition("/")

    def send(method="POST", path=f"{slash}{path}/storage/get", body=GET, **headers):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(str(tmp_path / "run" / name))
        fields = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {callback.token.reveal()}",
            **headers,
        }
        connection.request(method, path, body, fields)
        response = connection.getresponse()
        found = (response.status, json.loads(response.read() or b"null"), response.headers)
        connection.close()
        return found

    return send


def test_a_question_over_the_socket_is_answered(on_socket):
    status, answer, headers = on_socket()
    assert (status, answer) == (200, MISSING)
    assert headers["x-runner-backend"] == "recorder"


@pytest.mark.parametrize(
    "path",
    ["/", "/runner/healthz", "/runner/bridge.js", f"/api/ext/{EXTENSION}/x", ROUTE, f"/a{ROUTE}"],
)
def test_nothing_but_questions_is_served_on_the_socket(on_socket, path):
    status, answer, _ = on_socket(path=path)
    assert (status, answer["code"]) == (404, "not-found")


def test_the_socket_asks_for_a_token_and_for_no_browser(on_socket):
    assert on_socket(Authorization="Bearer x.y")[0] == 401
    assert on_socket(Cookie="a=b")[0] == 403
    assert on_socket("GET", body=None)[0] == 405


def test_the_socket_needs_no_slot_of_the_applications_threads(site, on_socket):
    site.app._callbacks._slots[False].slots = 0
    assert on_socket()[0] == 200


def test_the_socket_goes_with_the_middleware(site, on_socket, tmp_path):
    site.app.close()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told_where_it_matters(site, tmp_path):
    (tmp_path / "file").touch()
    site.call()
    capabilities = site.backend.requests[-1].capabilities
    with pytest.raises(StorageError, match="RUNNER_CALLBACK_BASE"):
        capabilities.ask_back(f"unix:{tmp_path / 'file' / 'run'}")
    site.install(grants=[])
    site.call()
    assert site.backend.requests[-1].capabilities.ask_back(f"unix:{tmp_path / 'file'}") is None


def test_threads_that_ask_first_share_one_socket(site, tmp_path):
    site.call()
    capabilities, urls = site.backend.requests[-1].capabilities, []
    threads = [
        threading.Thread(
            target=lambda: urls.append(capabilities.ask_back(f"unix:{tmp_path}/r").url)
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(urls)) == 1
    assert len(list((tmp_path / "r").iterdir())) == 1


# Where a gateway says that it is


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("http://app.example.com", "in the clear"),
        ("http://169.254.169.254", "a gateway cannot be at"),
        ("http://app.example.com:99999", "not the address of a gateway"),
    ],
)
def test_a_base_that_would_show_the_tokens_is_refused(base, said):
    token = ServiceToken(Secret("x" * 32))
    with pytest.raises(ConfigurationError, match=said) as refused:
        RunnerClient("http://127.0.0.1:1", token, callback_base=base)
    assert "RUNNER_CALLBACK_BASE" in str(refused.value)


@pytest.mark.parametrize(
    ("base", "insecure"),
    [
        ("http://app.example.com", True),
        ("https://app.example.com", False),
        ("http://gateway:8000", False),
        ("http://172.17.0.1:8000", False),
        ("unix:/run/app", False),
    ],
)
def test_a_base_that_is_near_or_encrypted_is_taken(base, insecure):
    token = ServiceToken(Secret("x" * 32))
    RunnerClient("http://127.0.0.1:1", token, callback_base=base, allow_insecure=insecure).close()
