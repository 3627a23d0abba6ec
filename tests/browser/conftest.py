"""The Flask example with the demo's extension behind a real server, and a real Chromium."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from browser.pages import MANAGER, open_panel, sign_in

VIEWPORT = {"width": 1280, "height": 900}
ROOT = Path(__file__).parents[2]
ARGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update"


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """The shop's address. The extension is built and installed as a user does it."""
    home = tmp_path_factory.mktemp("home")
    env = {**os.environ, "RUNNER_BACKEND": "wasm", "RUNNER_HOME": str(home)}
    notes = shutil.copytree(ROOT / "examples/extensions/notes-panel", home / "notes-panel")
    install = [Path(sys.executable).with_name("runnerwsgi"), "install", notes, "--yes"]
    subprocess.run([*install, "--config", "greeting=Welcome back"], env=env, check=True)
    serve = [sys.executable, "-m", "waitress", "--listen=127.0.0.1:0", "app:application"]
    log = home / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(serve, env=env, cwd=ROOT / "examples/flask_app", stderr=out)
    try:
        yield address(server, log)
    finally:
        server.terminate()
        server.wait(timeout=10)


def address(server, log):
    """Where the server says that it serves."""
    while server.poll() is None:
        if found := re.search(r"Serving on (http://\S+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    pytest.fail(f"The server did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS.split())
        yield browser
        browser.close()


@pytest.fixture
def visitor(chromium):
    """A page of a browser that knows nothing yet: no cookies, no cache."""
    with chromium.new_context(viewport=VIEWPORT) as context:
        yield context.new_page()


@pytest.fixture(scope="session")
def session(chromium, shop):
    """The cookies of a manager."""
    with chromium.new_context() as context:
        sign_in(context.new_page(), shop, MANAGER)
        return context.storage_state()


@pytest.fixture
def page(chromium, session):
    """A page of a manager's browser."""
    with chromium.new_context(viewport=VIEWPORT, storage_state=session) as context:
        yield context.new_page()


@pytest.fixture
def frame(page, shop):
    """The extension's frame on the manager's dashboard."""
    return open_panel(page, shop)
