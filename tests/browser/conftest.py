"""A served shop, and a real Chromium to look at it."""

import os

import pytest

from browser.pages import MANAGER, open_panel, sign_in
from browser.shop import serving

VIEWPORT = {"width": 1280, "height": 900}
ARGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update"


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """The shop's address."""
    with serving(tmp_path_factory.mktemp("home")) as url:
        yield url


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
