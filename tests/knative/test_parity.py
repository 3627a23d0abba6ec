"""The same answers from the process, from a runner beside it and from a service's pods."""

import mirror
import pytest
from click.testing import CliRunner
from ways import WAYS, way

from runnerwsgi.cli import cli


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    mirror.install(home, tmp_path_factory.mktemp("mirror"))
    return home


@pytest.fixture(scope="module", params=WAYS)
def found(request, home, tmp_path_factory):
    env = {"RUNNER_BACKEND": "wasm", "RUNNER_BUNDLE_STORE": str(home / "bundles")}
    with way(request.param, tmp_path_factory.mktemp("runner"), env=env) as found:
        yield found


@pytest.fixture
def parity(home, found):
    beside = {"RUNNER_DOCKER_HOST": found.service.pods[0].runner.url, "RUNNER_HOME": str(home)}

    def compare(*options):
        command = ("parity", "--backends", "wasm,docker,knative", *options)
        return CliRunner().invoke(cli, command, env={**found.env, **beside})

    return compare


def test_all_three_answer_alike(parity):
    said = parity("demo.mirror")
    assert said.exit_code == 0, said.output
    assert said.stdout == (
        "demo.mirror on wasm, docker and knative: no difference in 27 requests.\n"
    )
