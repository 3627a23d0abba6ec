"""Several gateways on one PostgreSQL, each with several processes: one truth, and no lost write."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle

import pytest
from click.testing import CliRunner
from counting import GUNICORN, counting_home, environment
from servers import serving
from switching import entries_of, until

from runnerwsgi.cli import cli

GATEWAYS = 2
KEYS = 5
CALLS = 60


@pytest.fixture(scope="module")
def url(postgres):
    return postgres.new_store()


@pytest.fixture(scope="module")
def home(tmp_path_factory, url):
    return counting_home(tmp_path_factory.mktemp("gateways"), RUNNER_DATABASE_URL=url)


@pytest.fixture(scope="module")
def env(home, url):
    return {**environment(home, "http://127.0.0.1:9"), "RUNNER_DATABASE_URL": url}


@pytest.fixture(scope="module")
def gateways(home, env):
    with ExitStack() as stack:
        command = (*GUNICORN, "app:application")
        yield [stack.enter_context(serving(*command, cwd=home, env=env)) for _ in range(GATEWAYS)]


def call(server, key):
    return server.send("POST", f"/api/ext/acme.counter/{key}", b"")[0]


def test_writes_to_the_same_entries_through_all_of_them_are_all_counted(gateways, home, url):
    pairs = [(server, f"k{turn % KEYS}") for turn, server in zip(range(CALLS), cycle(gateways))]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda pair: call(*pair), pairs))
    assert answers == [200] * CALLS
    assert entries_of(home, url) == {f"/k{n}": (CALLS // KEYS, "calls") for n in range(KEYS)}


def test_what_one_command_changes_all_processes_see(gateways, env):
    def seen():
        return {call(server, "seen") for server in gateways for _ in range(4)}

    assert seen() == {200}
    said = CliRunner().invoke(cli, ["uninstall", "acme.counter"], env=env)
    assert said.exit_code == 0, said.output
    until(lambda: seen() == {404})
