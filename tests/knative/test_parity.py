"""The same answers from the process, from a runner beside it and from a service's pods."""

import json

import mirror
import pytest
from click.testing import CliRunner
from counting import counting_home
from peers import unused_port
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


@pytest.fixture(scope="module")
def compare(tmp_path_factory):
    """Compare how a guest that asks back does in a pod, which has no folder of sockets."""
    home = counting_home(tmp_path_factory.mktemp("counter"))
    pods = {"RUNNER_BACKEND": "wasm", "RUNNER_BUNDLE_STORE": str(home / "bundles")}
    with way("double", tmp_path_factory.mktemp("runner"), env=pods) as found:
        env = {**found.env, "RUNNER_HOME": str(home)}
        # Where the application is: its data are not what is compared.
        env |= {"RUNNER_CALLBACK_BASE": "http://127.0.0.1:9"}
        command = ("parity", "acme.counter", "--backends", "wasm,knative", "--json")
        yield lambda *options: CliRunner().invoke(cli, (*command, *options), env=env)


def test_guests_in_pods_ask_back_where_it_is_told_to_answer(compare):
    said = compare("--answer-at", f"127.0.0.1:{unused_port()}")
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["differences"] == []


def test_and_not_at_the_application(compare):
    found = json.loads(compare().stdout)["differences"]
    assert {each["field"] for each in found} > {"status"}


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("127.0.0.1", "such as 10.0.0.7:8001"),
        ("http://127.0.0.1:1", "not of the form"),
        ("192.0.2.1:8001", "cannot be listened on"),
    ],
    ids=["no port", "a URL", "another machine's address"],
)
def test_a_place_that_is_none(compare, place, told):
    said = compare("--answer-at", place)
    assert said.exit_code in (1, 2)
    assert told in " ".join(said.stderr.split())
