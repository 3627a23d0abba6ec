"""The docker backend keeps the contract: over a real runner process, and over its container."""

import pytest
import runnerwsgi_docker
from containers import container
from echoes import Echoes, guests_in
from servers import runner

from runnerwsgi.testing import BackendContract, RemoteBackendContract


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return guests_in(tmp_path_factory.mktemp("home"))


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


class OfDocker(Echoes):
    @pytest.fixture(autouse=True)
    def _there(self, address):
        self.address = address

    def make_backend(self):
        return self.make_backend_at(self.address)

    def make_backend_at(self, base):
        env = {"RUNNER_HOME": str(self.home), "RUNNER_DOCKER_HOST": base}
        return runnerwsgi_docker.plugin(env)


class TestOverAProcess(OfDocker, RemoteBackendContract):
    @pytest.fixture
    def address(self, process):
        return process


class TestOverAContainer(OfDocker, BackendContract):
    @pytest.fixture
    def address(self, contained):
        return contained
