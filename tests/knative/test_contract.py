"""The knative backend keeps the contract: through the double, and through both ingresses."""

import pytest
import runnerwsgi_knative
from echoes import Echoes, guests_in
from envoy import PROFILES, SERVICE
from ways import variables, way

from runnerwsgi.testing import RemoteBackendContract


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return guests_in(tmp_path_factory.mktemp("home"))


def go(name, bundles, folders):
    env = {"RUNNER_BACKEND": "wasm", "RUNNER_BUNDLE_STORE": str(bundles[0])}
    return way(name, folders.mktemp("runner"), env=env)


@pytest.fixture(scope="module")
def directly(bundles, tmp_path_factory):
    with go("double", bundles, tmp_path_factory) as found:
        yield found


@pytest.fixture(scope="module", params=PROFILES)
def through(request, bundles, tmp_path_factory):
    with go(request.param, bundles, tmp_path_factory) as found:
        yield found


class OfKnative(Echoes, RemoteBackendContract):
    def backend_of(self, env):
        return runnerwsgi_knative.plugin({"RUNNER_HOME": str(self.home), **env})

    def make_backend(self):
        return self.backend_of(self.way.env)


class TestThroughTheDouble(OfKnative):
    @pytest.fixture(autouse=True)
    def _on(self, directly):
        self.way = directly

    def make_backend_at(self, base):
        return self.backend_of({"RUNNER_BACKEND": "knative", "RUNNER_BASE_URL": base})


class TestThroughAnIngress(OfKnative):
    """What the kit puts in a runner's place stands behind a real Envoy, which says its own part."""

    @pytest.fixture(autouse=True)
    def _on(self, through):
        self.way = through
        yield
        through.ingress.point(through.service.activator.url)

    def make_backend_at(self, base):
        self.way.ingress.point(base)
        return self.backend_of(variables(self.way.ingress, SERVICE))

    def test_an_unsafe_call_is_sent_once(self):
        """By the backend: Contour repeats it, whoever sent it, so runners go by its key."""
        if self.way.name != "contour":
            super().test_an_unsafe_call_is_sent_once()
