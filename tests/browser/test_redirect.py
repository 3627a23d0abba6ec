"""RUNNER_UI=redirect: the page comes from the runner's own address, and works as it did."""

import os

import pytest
import wasmtime
from servers import runner, serving
from support import FILES, pack_files
from wheels import ROOT

from runnerwsgi import Installs, Settings
from runnerwsgi.stores import open_store
from runnerwsgi.wit import ECHO

pytestmark = [pytest.mark.browser, pytest.mark.slow]

APPLICATION = """
from runnerwsgi import RunnerMiddleware

PAGE = b'''<!doctype html><link rel="icon" href="data:,">
<script src="/runner/bridge.js" defer></script>
<runner-extension extension="acme.hello"></runner-extension>'''

def host(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(PAGE)))])
    return [PAGE]

application = RunnerMiddleware.from_env(host)
"""
PAGE = b"""<!doctype html><script src="../../../client.js"></script>
<p id="answer"></p><script src="app.js"></script>"""
SCRIPT = b"""runner.fetch("/echo", {method: "POST", body: "from the page"})
    .then((response) => response.text())
    .then((text) => { document.querySelector("#answer").textContent = text; });"""


@pytest.fixture
def home(tmp_path):
    """An application, and an extension whose page asks its handler."""
    (tmp_path / "application.py").write_text(APPLICATION)
    settings = Settings(home=tmp_path / "home")
    wasm = bytes(wasmtime.wat2wasm(ECHO.read_text("utf-8")))
    files = {**FILES, "ui/index.html": PAGE, "ui/app.js": SCRIPT, "dist/main.wasm": wasm}
    manifest = b'{"name":"acme.hello","version":"1.0.0","ui":{"type":"iframe"}}'
    files["manifest.json"] = manifest.replace(b'"iframe"', b'"iframe","entry":"ui/index.html"')
    bundle = open_store(settings).add(pack_files(tmp_path / "source", files))
    installs = Installs.from_settings(settings)
    digests = {"ui_digests": bundle.ui_digests}
    installs.add("default", "acme.hello", bundle.content_hash, bundle.manifest, **digests)
    installs.close()
    return settings.home


def test_the_page_is_on_the_runners_origin_and_its_calls_go_through_the_application(home, visitor):
    said = []
    visitor.on("console", lambda message: said.append(message.text))
    env = {name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")}
    with runner(home, RUNNER_BACKEND="wasm") as server:
        env |= {
            "PYTHONPATH": f"{home.parent}{os.pathsep}{ROOT / 'tests'}",
            "RUNNER_HOME": str(home),
            "RUNNER_IDENTITY": "local",
            "RUNNER_UI": "redirect",
            "RUNNER_BACKEND": "docker",
            "RUNNER_DOCKER_HOST": server.url,
        }
        command = ("waitress-serve", "--listen=127.0.0.1:0", "application:application")
        with serving(*command, cwd=home.parent, env=env) as app:
            visitor.goto(app.url)
            answer = visitor.frame_locator("runner-extension iframe").locator("#answer")
            answer.filter(has_text="from the page").wait_for(timeout=15_000)
            inside = next(one for one in visitor.frames if "/ext-ui/" in one.url)
            assert inside.url.startswith(f"{server.url}/ext-ui/acme.hello/")
            assert inside.evaluate("self.origin") == "null"
    assert said == []
