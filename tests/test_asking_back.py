"""Guests in a real runner process ask the gateway that called them, over both ways back."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import wasmtime
from runnerwsgi_docker.backend import DockerBackend
from servers import runner
from support import EXTENSION, FILES, Site, pack_files
from wasm import toolchains
from wasm.rig import CALL_ROUTE, PROXY, ROUTE, SECRET_KEYS, Import, guest
from werkzeug.serving import WSGIRequestHandler, make_server

from runnerwsgi import Principal, hookimpl
from runnerwsgi.client import RunnerClient
from runnerwsgi.protocol import Bundle
from runnerwsgi.service_token import ServiceToken

# Of a plugin's own interface; answers with 200 and what the function gave.
WEATHER = Import(
    "alga:extension/weather", '(export "today" (func (result u32)))', "today", "(result i32)"
)
STATUS_OF_WEATHER = (
    "(i32.store16 (i32.const 512) (i32.add (i32.const 200) (call $f0))) (i32.const 512)"
)
# The list of keys is at 600: where, and how many; the status is 200 and their number.
COUNT_KEYS = """(call $f0 (i32.const 600))
  (i32.store16 (i32.const 512) (i32.add (i32.const 200) (i32.load (i32.const 604))))
  (i32.const 512)"""

ROUTES = guest(CALL_ROUTE, imports=[PROXY], data=ROUTE)
KEYS = guest(COUNT_KEYS, imports=[SECRET_KEYS])
OWN = guest(STATUS_OF_WEATHER, imports=[WEATHER])


class Weather:
    """A plugin with an interface of its own, and one of the table."""

    name = "weather"

    @hookimpl
    def runner_capabilities(self):
        return {
            "weather": {"today": lambda call: 21},
            "scheduler": {"list-schedules": self.list_schedules},
        }

    def list_schedules(self, call):
        at_night = {"id": "1", "endpoint-path": "/night", "endpoint-method": "POST"}
        return [{**at_night, "cron": "0 3 * * *", "timezone": "UTC", "enabled": True}]


class Quiet(WSGIRequestHandler):
    def log_request(self, *args):
        pass


@pytest.fixture(scope="module", params=["socket", "origin"])
def site(request, tmp_path_factory):
    """An application whose extensions run in a real runner, which asks back on one way."""
    folder = tmp_path_factory.mktemp("asking")
    server = make_server(
        "127.0.0.1", 0, lambda *asked: made.app(*asked), threaded=True, request_handler=Quiet
    )
    origin = f"http://127.0.0.1:{server.server_port}"
    base = f"unix:{folder / 'run'}" if request.param == "socket" else origin
    env = {
        "RUNNER_BACKEND": "wasm",
        "RUNNER_BUNDLE_STORE": str(folder / "home" / "bundles"),
        "RUNNER_CALLBACK_DIR": str(folder / "run"),
        "RUNNER_LOG_LEVEL": "debug",
        "RUNNER_WASM_CACHE_DIR": str(toolchains.BUILT / "code"),
    }
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        with runner(folder / "runner", **env) as process:
            client = RunnerClient(process.url, ServiceToken(None), callback_base=base)
            with Site(folder, backend=lambda _: DockerBackend(client), plugins=[Weather()]) as made:
                made.principal = Principal("t1", "ada", user_name="Ada")
                made.runner = process
                yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def run(site, tmp_path):
    """Install an extension of this component, under the grants of the test."""

    def install(component, *grants):
        if isinstance(component, str):
            component = bytes(wasmtime.wat2wasm(component))
        packed = pack_files(tmp_path / "source", {**FILES, "dist/main.wasm": component})
        site.bundle = site.store.add(packed)
        site.install(grants=grants, secrets={"token": "s3", "b": "c"}, routes=["GET /x"])
        site.gateway.warm_up(Bundle("t1", EXTENSION, site.bundle.content_hash))

    return install


@pytest.mark.parametrize(
    ("component", "grant", "status", "refused"),
    [
        # A route that is denied is an error for the guest: the second case. What has none traps.
        pytest.param(ROUTES, "cap:ui.proxy", 200, 301, id="ui-proxy"),
        pytest.param(KEYS, "cap:secrets.get", 202, 502, id="secrets"),
        pytest.param(OWN, "cap:weather", 221, 502, id="a plugin's own"),
    ],
)
def test_a_guest_elsewhere_asks_the_gateway(site, run, component, grant, status, refused):
    run(component, grant)
    assert site.call().status == status, "".join(site.runner.said)
    site.install(grants=())
    assert site.call().status == refused


def test_calls_in_every_slot_ask_at_once_and_all_are_answered(site, run):
    run(ROUTES, "cap:ui.proxy")
    with ThreadPoolExecutor(site.settings.slots) as callers:
        statuses = list(callers.map(lambda _: site.call().status, range(20)))
    assert statuses == [200] * 20


def test_no_token_is_in_a_log(site, run, caplog):
    caplog.set_level("DEBUG")
    run(ROUTES, "cap:ui.proxy")
    assert site.call().status == 200
    said = "".join(site.runner.said) + caplog.text
    assert "Bearer" not in said
    assert "eyJ0ZW5hbnRfaWQi" not in said  # how the claims of a token begin


@pytest.mark.toolchain
@pytest.mark.slow
def test_a_guest_of_a_toolchain_keeps_and_finds_its_entries(site, run):
    run(toolchains.python_guest(), "cap:storage.kv", "cap:scheduler.manage")
    kept = site.call(path="store")
    assert kept.status == 201, "".join(site.runner.said)
    assert kept.json == {
        "kept": "00ff80",
        "revision": 1,
        "keys": ["a"],
        "conflict": "CONFLICT",
        "gone": "MISSING",
    }
    assert site.call(path="schedules").json == {"crons": ["0 3 * * *"]}
    assert site.call(path="refused").json == {"refused": "DENIED"}
