"""The whole thing under real servers: components of WebAssembly behind an application's URLs."""

import json
import os
import re
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest
import wasmtime
from servers import serving
from support import pack_files
from switching import until
from wasm.rig import guest

from runnerwsgi import Gateway, Installs, Settings
from runnerwsgi.bundles import BundleStore
from runnerwsgi.protocol import Bundle
from runnerwsgi.wit import ECHO

EXAMPLES = Path(__file__).parents[1] / "examples"
WAITRESS = ("waitress-serve", "--listen=127.0.0.1:0")
GUNICORN = ("gunicorn", "--bind=127.0.0.1:0", "--worker-class=gthread", "--threads=4")
OWN = {"Sec_Fetch_Site": "same-origin"}
TIMEOUT_MS = 2000

GUESTS = {
    "acme.echo": ECHO.read_text("utf-8"),
    "acme.loop": guest("(loop $again (br $again)) unreachable"),
    "acme.trap": guest("unreachable"),
    "acme.hog": guest(
        "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))"
        " unreachable"
    ),
}
APP = """
import logging

from runnerwsgi import Principal, RunnerMiddleware

logging.basicConfig(level=logging.INFO)


def identify(environ):
    user = environ.get("HTTP_X_TEST_USER", "ada")
    return Principal("default", user) if user != "nobody" else None


def pages(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"host"]


def create_app():
    return RunnerMiddleware.from_env(pages, identify=identify)
"""


def install(settings, gateway, folder, name, component):
    """What `runnerwsgi install` does: keep the bundle, compile it, grant the rest."""
    files = {
        "manifest.json": json.dumps({"name": name, "version": "1.0.0"}).encode(),
        "ui/index.html": f"page of {name}".encode(),
        "dist/main.wasm": bytes(wasmtime.wat2wasm(component)),
    }
    bundle = BundleStore.from_url(settings.bundle_store).add(pack_files(folder / name, files))
    gateway.warm_up(Bundle("default", name, bundle.content_hash))
    installs = Installs.from_settings(settings)
    at = ("default", name, bundle.content_hash, bundle.manifest)
    installs.add(*at, ui_digests=bundle.ui_digests)
    installs.close()


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """An environment in which all guests are installed and compiled."""
    home = tmp_path_factory.mktemp("home")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")},
        "RUNNER_BACKEND": "wasm",
        "RUNNER_HOME": str(home),
        "RUNNER_TIMEOUT_MS": str(TIMEOUT_MS),
        "RUNNER_MEMORY_MB": "16",
        "PYTHONWARNINGS": "error",
    }
    settings = Settings.from_env(env)
    with Gateway.load(settings, env) as gateway:
        for name, component in {**GUESTS, "demo.notes": GUESTS["acme.echo"]}.items():
            install(settings, gateway, home / "sources", name, component)
    (home / "served.py").write_text(APP)
    (home / "factory.py").write_text(
        "def create_app():\n    from app import application\n\n    return application\n"
    )
    return env


@pytest.fixture(scope="module")
def server(env):
    """waitress with its four threads, as nobody told it otherwise."""
    with serving(
        *WAITRESS, "--call", "served:create_app", cwd=env["RUNNER_HOME"], env=env
    ) as server:
        yield server


def call(server, extension, method="GET", body=None, **headers):
    return server.send(method, f"/api/ext/{extension}/x", body, **{**OWN, **headers})


def code_of(answer):
    return answer[0], json.loads(answer[2])["code"]


def test_a_component_answers_through_the_applications_server(server):
    for body in (b"hi", b"\0\xff" * 50_000, b""):
        status, headers, found = call(server, "acme.echo", "POST", body)
        assert (status, found) == (200, body)
        assert headers["x-runner-backend"] == "wasm"
        assert headers["cache-control"] == "no-store"
        assert "total;dur=" in headers["server-timing"]


def test_its_page_and_the_applications_are_one_origin(server):
    status, _, body = server.send(path="/runner/extensions/acme.echo", **OWN)
    assert status == 200
    status, headers, page = server.send(path=json.loads(body)["ui"])
    assert (status, page) == (200, b"page of acme.echo")
    assert headers["content-security-policy"].startswith("sandbox allow-scripts;")
    assert server.send()[2] == b"host"
    assert json.loads(server.send(path="/runner/healthz")[2])["status"] == "ok"


@pytest.mark.parametrize(
    ("extension", "status", "code"),
    [
        ("acme.trap", 502, "guest-trap"),
        ("acme.hog", 502, "guest-out-of-memory"),
        ("acme.none", 404, "not-found"),
    ],
)
def test_a_handler_that_fails_has_its_status(server, extension, status, code):
    assert code_of(call(server, extension)) == (status, code)
    assert server.send()[2] == b"host"


def test_nobody_and_another_site_are_kept_out(server):
    assert code_of(call(server, "acme.echo", X_Test_User="nobody")) == (401, "unauthenticated")
    assert code_of(call(server, "acme.echo", Sec_Fetch_Site="cross-site")) == (403, "cross-site")


def test_the_application_answers_while_an_extension_hangs(server):
    answers, slowest = [], 0.0
    hanging = [
        threading.Thread(target=lambda: answers.append(call(server, "acme.loop"))) for _ in range(2)
    ]
    started = time.monotonic()
    for thread in hanging:
        thread.start()
    time.sleep(0.3)
    refused = call(server, "acme.loop")
    while time.monotonic() - started < TIMEOUT_MS / 1000 - 0.8:
        before = time.monotonic()
        assert server.send()[2] == b"host"
        slowest = max(slowest, time.monotonic() - before)
        time.sleep(0.02)
    assert answers == []
    for thread in hanging:
        thread.join()
    # Four threads, two of them kept: the third call was refused, not queued.
    assert code_of(refused) == (503, "overloaded")
    assert refused[1]["retry-after"] == "1"
    assert slowest < 1
    assert [code_of(answer) for answer in answers] == [(504, "guest-timeout")] * 2
    assert call(server, "acme.echo", "POST", b"again")[2] == b"again"
    for _, headers, _ in answers:
        told = {headers["x-request-id"], "extension_id=acme.loop"}
        until(lambda told=told: any(all(t in line for t in told) for line in server.said))


@pytest.mark.parametrize(
    "command",
    [
        pytest.param((*WAITRESS, "--call", "factory:create_app"), id="waitress-serve --call"),
        pytest.param((*GUNICORN, "app:application"), id="gunicorn"),
        pytest.param(
            (*GUNICORN, "--workers=2", "--preload", "app:application"),
            id="gunicorn that forks after loading",
        ),
    ],
)
@pytest.mark.parametrize("example", ["plain_wsgi", "flask_app"])
def test_an_example_under_the_servers_that_users_have(env, command, example):
    folder = EXAMPLES / example
    env = {**env, "PYTHONPATH": os.pathsep.join([str(folder), env["RUNNER_HOME"]])}
    if example == "plain_wsgi":
        env["RUNNER_IDENTITY"] = "local"
    with serving(*command, cwd=folder, env=env) as server:
        session = {} if example == "plain_wsgi" else sign_in(server)
        for number in range(4):
            body = b"call %d" % number
            status, headers, found = call(server, "demo.notes", "POST", body, **session)
            assert (status, found) == (200, body)
            assert headers["x-runner-backend"] == "wasm"
        assert b"runner-extension" in server.send(path="/", **session)[2]
        assert b"runner-extension" in server.send(path="/runner/bridge.js")[2]


def sign_in(server):
    """Fill in the login form of the Flask example; the headers of whoever is signed in."""
    assert code_of(call(server, "demo.notes")) == (401, "unauthenticated")
    _, headers, page = server.send(path="/login")
    session = {"Cookie": headers["set-cookie"].partition(";")[0]}
    token = re.search(rb'name="csrf" value="([^"]+)"', page)[1].decode()
    form = {"email": "jonas@fernhill.example", "password": "fernhill", "csrf": token}
    media = {"Content_Type": "application/x-www-form-urlencoded"}
    status, headers, _ = server.send("POST", "/login", urlencode(form), **session, **media)
    assert status == 302
    return {"Cookie": headers["set-cookie"].partition(";")[0]}


def test_a_server_that_is_told_to_end_ends_cleanly(env):
    with serving(
        *WAITRESS, "--call", "served:create_app", cwd=env["RUNNER_HOME"], env=env
    ) as server:
        assert call(server, "acme.echo")[0] == 200
        status = server.stop()
        assert "Traceback" not in "".join(server.said)
    assert status in (0, -15)
