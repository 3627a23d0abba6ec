"""A guest in a hardened container asks the gateway on the host, through a folder of sockets."""

import pytest
import wasmtime
from containers import container
from runnerwsgi_docker.backend import DockerBackend
from support import FILES, Site
from wasm.rig import CALL_ROUTE, PROXY, ROUTE, guest

from runnerwsgi.client import RunnerClient
from runnerwsgi.service_token import ServiceToken

ROUTES = guest(CALL_ROUTE, imports=[PROXY], data=ROUTE)


@pytest.fixture
def site(engine, image, tmp_path):
    """An application with its runner in a container; the gateway listens on no port at all."""
    bundles, sockets = tmp_path / "home" / "bundles", tmp_path / "home" / "run"
    sockets.mkdir(parents=True)
    sockets.chmod(0o711)
    tmp_path.joinpath("home").chmod(0o700)
    bundles.mkdir()
    mounts = (f"{bundles}:/bundles:ro", f"{sockets}:/run/runnerwsgi:ro")
    options = [f"--volume={mount}" for mount in mounts]
    name = f"{image.replace(':', '-')}-asking"
    with container(engine, image, name, *options, "--tmpfs=/tmp") as started:
        client = RunnerClient(
            started.url, ServiceToken(None), callback_base=f"unix:{sockets}", greet=True
        )
        files = {**FILES, "dist/main.wasm": bytes(wasmtime.wat2wasm(ROUTES))}
        backend = DockerBackend(client)
        with Site(tmp_path, backend=lambda store: backend, files=files) as site:
            site.container = started
            yield site


def test_a_guest_in_a_container_asks_the_gateway_on_the_host(site):
    site.install(grants=["cap:ui.proxy"], routes=["GET /x"])
    assert site.call().status == 200, site.container.logs()
    site.install(grants=["cap:ui.proxy"])
    # The route was not granted: the guest answers 300 and the number of the case.
    assert site.call().status == 301
