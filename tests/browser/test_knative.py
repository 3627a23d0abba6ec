"""The demo in a real browser, when its extension runs in a pod behind an ingress."""

import pytest
from peers import unused_port
from wasm import toolchains
from ways import way

from browser.pages import MANAGER, add_note, panel, sign_in
from browser.shop import serving

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service without a pod, and the folder that its application keeps everything in."""
    home = tmp_path_factory.mktemp("home")
    env = {
        "RUNNER_BUNDLE_STORE": str(home / "bundles"),
        "RUNNER_WASM_CACHE_DIR": str(toolchains.BUILT / "code"),
    }
    with way("contour", tmp_path_factory.mktemp("runner"), pods=0, env=env) as found:
        yield found, home


def test_a_note_is_there_after_a_reload(visitor, service):
    found, home = service
    port = unused_port()
    env = found.env | {"RUNNER_CALLBACK_BASE": f"http://127.0.0.1:{port}"}
    with serving(home, port, RUNNER_TIMEOUT_MS="60000", **env) as shop:
        found.service.scale(0)  # what was started to compile it
        sign_in(visitor, shop, MANAGER)
        text = add_note(panel(visitor))
        visitor.reload()
        assert text in panel(visitor).inner_text("#notes")
    assert found.service.started == 2
