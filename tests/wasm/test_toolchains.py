"""Components made by both toolchains run unchanged, imports of their runtimes included."""

import json

import pytest
from support import FILES
from wasm import toolchains
from wasm.rig import Rig

from runnerwsgi.errors import CapabilityError
from runnerwsgi.protocol import HttpRequest

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]

USER = {
    "tenant-id": "acme",
    "client-name": "Client",
    "user-id": "u1",
    "user-email": "u@example.com",
    "user-name": "Grüße 🎉",
    "user-type": "internal",
}
ANSWERS = {
    ("secrets", "get"): lambda key: f"value of {key}",
    ("secrets", "list-keys"): lambda: ["token", "other"],
    ("ui-proxy", "call-route"): lambda route, payload: f"{route} {payload.decode()}".encode(),
    ("storage", "put"): lambda entry: {**entry, "revision": 2**40},
    ("storage", "list-entries"): lambda namespace, cursor: [
        {"namespace": namespace, "key": key, "value": b"", "revision": 1} for key in "abc"
    ],
    ("user", "get-user"): lambda: USER,
    ("user-v2", "get-user"): lambda: {**USER, "additional-fields": [("team", "red")]},
    ("http", "fetch"): lambda request: {"status": 204, "headers": [], "body": None},
}


class Table:
    """Capabilities from a table of functions."""

    def __init__(self):
        self.entries = []

    def call(self, interface, function, args, timeout):
        if (interface, function) == ("storage", "put"):
            self.entries += args
        return ANSWERS[interface, function](*args)


class Refusing:
    """Capabilities that deny everything."""

    def call(self, interface, function, args, timeout):
        raise CapabilityError("denied")


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    # The compiled code is kept as the components are: it takes longer than all the tests. It is
    # found by a bundle's hash, so the bundles are those of the tests that serve the components.
    made = Rig(
        tmp_path_factory.mktemp("toolchains"),
        cache_dir=toolchains.BUILT / "code",
        files=FILES,
        compile_timeout_ms=180_000,
    )
    yield made
    made.backend.runner_close()


@pytest.fixture(scope="module", params=["python", "javascript"])
def component(request):
    return getattr(toolchains, f"{request.param}_guest")()


@pytest.fixture(scope="module")
def python():
    return toolchains.python_guest()


@pytest.fixture(scope="module")
def javascript():
    return toolchains.javascript_guest()


def get(path, query=""):
    return HttpRequest("GET", path, query)


def test_a_guest_uses_everything_its_host_offers(rig, component):
    table = Table()
    response = rig.run(component, get("/"), capabilities=table)
    assert (response.outcome, response.error, response.status) == ("ok", None, 201)
    assert response.headers == (("content-type", "application/json"),)
    answer = json.loads(response.body)
    assert [list(pair) for pair in answer.pop("fields")] == [["team", "red"]]
    assert answer == {
        "tenant": "acme",
        "secret": "value of token",
        "keys": ["token", "other"],
        "route": "/api/me payload",
        "revision": 2**40,
        "entries": ["a", "b", "c"],
        "user": "Grüße 🎉",
        "fetched": 204,
    }
    assert table.entries == [
        {"namespace": "notes", "key": "1", "value": b"\0\xff", "revision": None}
    ]
    lines = {(line.level, line.message) for line in response.logs}
    assert lines == {
        ("info", "to stdout"),
        ("warn", "to stderr"),
        ("info", "info"),
        ("warn", "warn"),
        ("error", "error"),
    }


def test_a_refusal_is_an_error_of_the_guests_language(rig, component):
    response = rig.run(component, get("/refused"), capabilities=Refusing())
    assert json.loads(response.body)["refused"].lower() == "denied"


@pytest.mark.parametrize("size", [0, 1, 300_000], ids=["nothing", "a byte", "much"])
def test_bodies_and_headers_come_back_unharmed(rig, component, size):
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    headers = (("accept", "a, b"), ("x-ext-name", "Grüße"))
    response = rig.run(component, HttpRequest("POST", "/", "", headers, body))
    assert (response.outcome, response.headers, response.body) == ("ok", headers, body)


def test_an_exception_is_a_trap_with_a_traceback_in_the_log(rig, python):
    response = rig.run(python, get("/fail"))
    assert response.outcome == "guest_trap"
    assert any("told to" in line.message for line in response.logs)


def test_a_thrown_error_is_a_trap(rig, javascript):
    assert rig.run(javascript, get("/fail")).outcome == "guest_trap"


def test_a_guest_sees_nothing_of_this_machine(rig, python):
    seen = json.loads(rig.run(python, get("/surroundings")).body)
    assert (seen["environ"], seen["files"], seen["stdin"]) == ({}, [], "")
    assert seen["year"] >= 2025
    assert seen["random"] != json.loads(rig.run(python, get("/surroundings")).body)["random"]


def test_a_socket_traps_and_names_the_capability(rig, python):
    response = rig.run(python, get("/connect"))
    assert response.outcome == "guest_trap"
    assert "wasi:sockets/" in response.error
    assert "cap:http.fetch" in response.error


def test_the_global_fetch_traps_and_names_the_capability(rig, javascript):
    response = rig.run(javascript, get("/fetch"))
    assert response.outcome == "guest_trap"
    assert "wasi:http/" in response.error
    assert "cap:http.fetch" in response.error


def test_a_sleep_ends_with_the_deadline(rig, python):
    response, took = rig.timed(python, http=get("/sleep", "3600"), timeout_ms=300)
    assert response.outcome == "timeout"
    assert took < 2
    assert rig.run(python, get("/sleep", "0.01")).outcome == "ok"


def test_a_loop_ends_with_the_deadline(rig, javascript):
    response, took = rig.timed(javascript, http=get("/loop"), timeout_ms=300)
    assert response.outcome == "timeout"
    assert took < 2


def test_a_hoarder_runs_out_of_memory(rig, component):
    response = rig.run(component, get("/hoard"), memory_mb=128, timeout_ms=20_000)
    assert response.outcome == "out_of_memory"
