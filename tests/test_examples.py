"""Each example is served as its users start it, and lets in whom it knows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import pack_files
from visitor import Visitor

from runnerwsgi import Installs, Settings
from runnerwsgi.bundles import BundleStore

EXAMPLES = Path(__file__).parents[1] / "examples"
MANIFEST = b'{"name": "demo.notes", "version": "1.0.0"}'
FILES = {"manifest.json": MANIFEST, "ui/index.html": b"notes"}


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """An environment in which `demo.notes` is installed: its pages only, nothing to compile."""
    home = tmp_path_factory.mktemp("home")
    env = os.environ | {"RUNNER_BACKEND": "wasm", "RUNNER_HOME": str(home)}
    settings = Settings.from_env(env)
    data = pack_files(tmp_path_factory.mktemp("notes"), FILES)
    bundle = BundleStore.from_url(settings.bundle_store).add(data)
    installs = Installs.from_settings(settings)
    at = ("default", "demo.notes", bundle.content_hash, bundle.manifest)
    installs.add(*at, ui_digests=bundle.ui_digests)
    installs.close()
    return env


@pytest.fixture
def serve(env):
    """Serves an example's folder with waitress, on a port of the system's choice."""
    servers = []

    def start(folder, app="app:application", **more):
        server = subprocess.Popen(
            [sys.executable, "-m", "waitress", "--listen=127.0.0.1:0", app],
            env=env | more,
            cwd=EXAMPLES / folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        servers.append(server)
        said = []
        for line in server.stderr:
            said.append(line)
            if found := re.search(r"Serving on (http://\S+)", line):
                return Visitor(found[1])
        raise AssertionError(f"{folder} did not start:\n{''.join(said)}")

    yield start
    for server in servers:
        server.terminate()
        server.communicate(timeout=10)


def test_flask_lets_in_whoever_is_signed_in(serve):
    site = serve("flask_app")
    assert site.extension()[0] == 401
    assert site.get("/api/orders")[0] == 401
    form = {"email": "jonas@fernhill.example", "password": "fernhill"}
    status, page = site.send("/login", "/login", **form)
    assert status == 200
    assert '<runner-extension extension="demo.notes" path="/customers/greenway"' in page
    status, found = site.extension()
    assert (status, found["api"], found["version"]) == (200, "/api/ext/demo.notes", "1.0.0")
    assert site.get(found["ui"]) == (200, "notes")
    assert "#4312" in site.get("/orders")[1]
    assert len(json.loads(site.get("/api/orders")[1])["orders"]) == 9
    site.send("/", "/logout")
    assert site.extension()[0] == 401


@pytest.mark.parametrize(
    ("form", "status"),
    [({"password": "wrong"}, 401), ({"password": "fernhill", "csrf": "made up"}, 400)],
    ids=["a wrong password", "a form of another site"],
)
def test_flask_does_not_let_in(serve, form, status):
    site = serve("flask_app")
    assert site.send("/login", "/login", email="mara@fernhill.example", **form)[0] == status
    assert site.extension()[0] == 401


def test_django_lets_in_whoever_has_a_session(serve):
    site = serve("django_app", "workshop.wsgi:application")
    assert "Clock in" in site.get("/")[1]
    assert site.extension()[0] == 401
    status, page = site.send("/", "/clock-in", person="ada")
    assert status == 200
    assert '<runner-extension extension="demo.notes" path="/bikes/frame-7731"' in page
    assert site.extension()[0] == 200
    site.send("/", "/clock-out")
    assert site.extension()[0] == 401


def test_django_does_not_let_in_a_forged_session(serve):
    site = serve("django_app", "workshop.wsgi:application")
    site.opener.addheaders = [("Cookie", "sessionid=eyJwZXJzb24iOiJhZGEifQ:1abc:forged")]
    assert site.extension()[0] == 401


def test_django_itself_finds_no_fault_with_its_project(env):
    check = [sys.executable, "manage.py", "check", "--fail-level", "WARNING"]
    folder = EXAMPLES / "django_app"
    assert subprocess.run(check, cwd=folder, env=env, check=True, capture_output=True)


def test_plain_wsgi_lets_in_this_machine_when_it_is_told_to(serve):
    site = serve("plain_wsgi", RUNNER_IDENTITY="local")
    assert "<runner-extension" in site.get("/")[1]
    assert site.extension()[0] == 200
    assert site.get("/runner/bridge.js")[0] == 200


def test_plain_wsgi_lets_in_nobody_when_it_is_not(serve):
    site = serve("plain_wsgi")
    assert site.get("/")[0] == 200
    assert site.extension()[0] == 401
