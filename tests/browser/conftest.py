"""The Flask example with the demo's extension behind a real server, and a real Chromium."""

import os
import re
import subprocess
import sys
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
    notes = str(ROOT / "examples/extensions/notes-panel")
    install = [sys.executable, "-m", "runnerwsgi", "install", notes]
    subprocess.run([*install, "--yes", "--config", "greeting=Welcome back"], env=env, check=True)
    serve = [sys.executable, "-m", "waitress", "--listen=127.0.0.1:0", "app:application"]
    folder = ROOT / "examples/flask_app"
    server = subprocess.Popen(serve, env=env, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        yield next(filter(None, map(address, server.stderr)))
    finally:
        server.terminate()
        server.communicate(timeout=10)


def address(line):
    found = re.search(r"Serving on (http://\S+)", line)
    return found and found[1]


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
