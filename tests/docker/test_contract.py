"""The docker backend keeps the contract: over a real runner process, and over its container."""

import pytest
import runnerwsgi_docker
from containers import container
from servers import runner
from support import pack_files
from wasm.rig import guest
from wasmtime import wat2wasm

from runnerwsgi import ExecuteRequest
from runnerwsgi.bundles import BundleStore
from runnerwsgi.protocol import Context, HttpRequest, Limits
from runnerwsgi.testing import BackendContract, RemoteBackendContract
from runnerwsgi.wit import ECHO

TENANT, EXTENSION = "acme", "demo.echo"
MANIFEST = b'{"name":"demo.echo","version":"1.0.0"}'
GUESTS = {"echo": ECHO.read_text("utf-8"), "endless": guest("(loop $l (br $l)) unreachable")}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """A store with a bundle of each guest, and their content hashes by name."""
    store = BundleStore(tmp_path_factory.mktemp("home") / "bundles")
    hashes = {}
    for name, text in GUESTS.items():
        files = {"manifest.json": MANIFEST, "dist/main.wasm": bytes(wat2wasm(text))}
        hashes[name] = store.add(pack_files(tmp_path_factory.mktemp(name), files)).content_hash
    return store.root, hashes


@pytest.fixture(scope="module")
def process(bundles, tmp_path_factory):
    """The address of a runner process."""
    env = {"RUNNER_BACKEND": "wasm", "RUNNER_BUNDLE_STORE": str(bundles[0])}
    with runner(tmp_path_factory.mktemp("runner"), **env) as started:
        yield started.url


@pytest.fixture(scope="module")
def contained(engine, image, bundles):
    """The address of a runner in a container of the image."""
    mount = f"--volume={bundles[0]}:/bundles:ro"
    with container(engine, image, f"{image.replace(':', '-')}-contract", mount) as started:
        yield started.url


class Echoes:
    """What the kit asks its authors for."""

    @pytest.fixture(autouse=True)
    def _place(self, bundles, address, tmp_path):
        self.hashes, self.address, self.home = bundles[1], address, tmp_path

    def make_backend(self):
        return self.make_backend_at(self.address)

    def make_backend_at(self, base):
        env = {"RUNNER_HOME": str(self.home), "RUNNER_DOCKER_HOST": base}
        return runnerwsgi_docker.plugin(env)

    def call(self, name="echo", body=None):
        context = Context(TENANT, EXTENSION, self.hashes[name], "r-1", "i-1", "1.0.0")
        return ExecuteRequest(context, HttpRequest("POST", "/", "a=1", body=body), Limits(10_000))

    def sample_request(self):
        return self.call()

    def echo_request(self, body):
        return self.call(body=body)

    def endless_request(self):
        return self.call("endless")


class TestOverAProcess(Echoes, RemoteBackendContract):
    @pytest.fixture
    def address(self, process):
        return process


class TestOverAContainer(Echoes, BackendContract):
    @pytest.fixture
    def address(self, contained):
        return contained
