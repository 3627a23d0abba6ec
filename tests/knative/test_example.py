"""The example application's main job, with its runner as a Knative service on each way."""

import os
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from peers import unused_port
from servers import serving
from visitor import Visitor
from wasm import toolchains
from ways import WAYS, way
from wheels import ROOT

from runnerwsgi.cli import cli

pytestmark = [pytest.mark.slow, pytest.mark.toolchain]

SHOP = ROOT / "examples" / "flask_app"
GUNICORN = ("gunicorn", "--workers=2", "--worker-class=gthread", "--threads=8")
SIGNED_IN = {"email": "mara@fernhill.example", "password": "fernhill"}


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    """The example's extension, compiled."""
    return toolchains.notes(tmp_path_factory.mktemp("source") / "notes")


@pytest.fixture(params=WAYS)
def found(request, tmp_path):
    """A service without a pod."""
    env = {
        "RUNNER_BUNDLE_STORE": str(tmp_path / "home" / "bundles"),
        "RUNNER_WASM_CACHE_DIR": str(toolchains.BUILT / "code"),
    }
    with way(request.param, tmp_path / "runner", pods=0, env=env) as found:
        yield found


@pytest.fixture
def env(found, tmp_path):
    clean = {name: text for name, text in os.environ.items() if not name.startswith("RUNNER_")}
    own = {"RUNNER_HOME": str(tmp_path / "home"), "RUNNER_TIMEOUT_MS": "60000"}
    return clean | found.env | own


def run(env, *command):
    said = CliRunner().invoke(cli, list(map(str, command)), env=env)
    assert said.exit_code == 0, said.output
    return said.output


@contextmanager
def shop(env):
    """The application under two workers, which its guests ask back; somebody visits it."""
    port = unused_port()
    env = env | {"RUNNER_CALLBACK_BASE": f"http://127.0.0.1:{port}", "RUNNER_THREADS": "8"}
    command = (*GUNICORN, f"--bind=127.0.0.1:{port}", "app:application")
    with serving(*command, cwd=SHOP, env=env) as server:
        yield Visitor(server.url, timeout=60)


def test_notes_are_kept_and_shown_by_whoever_is_signed_in(found, env, notes, tmp_path):
    run(env, "pack", notes, "--output", tmp_path / "notes.tar.zst")
    run(env, "install", tmp_path / "notes.tar.zst", "--yes")
    # It was compiled in a pod that was started for that; the first call starts another one.
    assert found.service.started == 1
    found.service.scale(0)
    with shop(env) as visitor:
        assert visitor.extension()[0] == 401
        assert visitor.send("/login", "/login", **SIGNED_IN)[0] == 200
        status, page = visitor.extension()
        assert (status, page["version"]) == (200, "1.0.0")
        assert "<script" in visitor.get(page["ui"])[1]
        at = f"{page['api']}/notes?customer=greenway"
        status, kept = visitor.call("POST", at, {"text": "Grüße 🎉"})
        assert status == 200, kept
        shown = visitor.call("GET", at)[1]
        assert (shown["count"], shown["notes"][0]["text"]) == (1, "Grüße 🎉")
    assert (found.service.started, found.service.executed) == (2, 2)
