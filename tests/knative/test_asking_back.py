"""Guests in pods ask back, and any process of the gateway answers, on any of its machines."""

import os
from contextlib import closing

import pytest
import wasmtime
from peers import unused_port
from servers import serving
from support import EXTENSION, FILES, pack_files
from switching import calls, until
from wasm import toolchains
from wasm.rig import CALL_ROUTE, PROXY, ROUTE, guest
from ways import way

from runnerwsgi import Installs, Settings
from runnerwsgi.bundles import BundleStore

# Asks for the route `/x` of the application; a file has who was called, and who was asked.
APP = """
import os

from runnerwsgi import Principal, RunnerMiddleware


def note(what):
    with open("seen.txt", "a") as seen:
        seen.write(f"{what} {os.getpid()}\\n")


def identify(environ):
    note("called")
    return Principal("t1", "ada", credential="bearer")


def plain(environ, start_response):
    note("asked")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"host"]


application = RunnerMiddleware.from_env(plain, identify=identify)
"""
ROUTES = guest(CALL_ROUTE, imports=[PROXY], data=ROUTE)
GUNICORN = ("gunicorn", "--workers=2", "--worker-class=gthread", "--threads=12")
WAITRESS = ("waitress-serve", "--listen=127.0.0.1:0", "app:application")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An application's, whose extension asks for a route of it."""
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    settings.make_home()
    files = {**FILES, "dist/main.wasm": bytes(wasmtime.wat2wasm(ROUTES))}
    source = tmp_path_factory.mktemp("source")
    bundle = BundleStore.from_url(settings.bundle_store).add(pack_files(source, files))
    at = ("t1", EXTENSION, bundle.content_hash, bundle.manifest)
    with closing(Installs.from_settings(settings)) as installs:
        installs.add(*at, grants=["cap:ui.proxy"], routes=["GET /x"])
    (settings.home / "app.py").write_text(APP)
    return settings.home


@pytest.fixture(scope="module")
def service(home, tmp_path_factory):
    """Its variables; the runner is a service of two pods behind an ingress."""
    pods = {"RUNNER_BUNDLE_STORE": str(home / "bundles")}
    pods["RUNNER_WASM_CACHE_DIR"] = str(toolchains.BUILT / "code")
    with way("kourier", tmp_path_factory.mktemp("runner"), pods=2, env=pods) as found:
        clean = {name: text for name, text in os.environ.items() if not name.startswith("RUNNER_")}
        yield clean | found.env | {"RUNNER_HOME": str(home), "RUNNER_THREADS": "12"}


@pytest.fixture
def env(home, service):
    """The same for a test of its own, before which nobody was called."""
    (home / "seen.txt").unlink(missing_ok=True)
    return dict(service)


def call(server):
    return server.send("POST", f"/api/ext/{EXTENSION}/x", b"")[0]


def seen(home):
    """Who was called, and who was asked: process ids, in order."""
    text = (home / "seen.txt").read_text() if (home / "seen.txt").exists() else ""
    lines = [line.split() for line in text.splitlines()]
    return tuple([pid for what, pid in lines if what == word] for word in ("called", "asked"))


def test_all_processes_of_a_server_answer(home, env):
    port = unused_port()
    env["RUNNER_CALLBACK_BASE"] = f"http://127.0.0.1:{port}"
    command = (*GUNICORN, f"--bind=127.0.0.1:{port}", "app:application")
    with (
        serving(*command, cwd=home, env=env) as server,
        calls(lambda _: call(server), callers=8) as answers,
    ):
        until(lambda: len(answers) > 40 and len(set(seen(home)[1])) == 2)
    assert set(answers.values()) == {200}
    assert tuple(map(len, seen(home))) == (len(answers), len(answers))


def test_another_machine_of_the_gateway_answers(home, env):
    with serving(*WAITRESS, cwd=home, env=env) as other:
        env["RUNNER_CALLBACK_BASE"] = other.url
        with serving(*WAITRESS, cwd=home, env=env) as server:
            assert call(server) == 200
            assert seen(home) == ([str(server.process.pid)], [str(other.process.pid)])


def test_a_machine_with_another_key_does_not(home, env, tmp_path):
    strange = env | {"RUNNER_HOME": str(tmp_path / "strange")}
    with serving(*WAITRESS, cwd=home, env=strange) as other:
        env["RUNNER_CALLBACK_BASE"] = other.url
        with serving(*WAITRESS, cwd=home, env=env) as server:
            # 300 and the number of the guest's case: nothing that it could do about.
            assert call(server) == 303
            assert seen(home)[1] == []
