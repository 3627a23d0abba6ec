"""Several runners on one store of keys: a call that reaches them all is executed by one."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from counted import caller, runner_variables
from counting import counting_home
from keyed import SHARED, TTL, Guest, call, store_url
from own_servers import PASSWORD, PostgresServer, RedisServer
from peers import unused_port
from servers import runner
from support import make_environ, send

from runnerwsgi.errors import StorageError
from runnerwsgi.idempotency import Once, open_keys
from runnerwsgi.settings import Settings

RUNNERS = 2
ROUNDS = 10


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return counting_home(tmp_path_factory.mktemp("shared"))


def variables(home, url):
    """Of a runner with its keys at *url*; what the home has compiled is not compiled again."""
    compiled = {"RUNNER_WASM_CACHE_DIR": str(home / "wasm"), "RUNNER_THREADS": "8"}
    return {**runner_variables(home), **compiled, "RUNNER_IDEMPOTENCY_URL": url}


@pytest.fixture(scope="module", params=SHARED)
def applications(request, home, tmp_path_factory):
    """As many applications as runners, each before one of them."""
    folder = tmp_path_factory.mktemp("runners")
    url = store_url(request, folder)
    env = variables(home, url)
    with ExitStack() as stack:
        # Together: they race for making the table, too.
        with ThreadPoolExecutor(RUNNERS) as pool:
            started = pool.map(lambda name: stack.enter_context(runner(folder / name, **env)), "ab")
        yield [stack.enter_context(caller(home, urlsplit(each.url).netloc)) for each in started]


def told(answer):
    """Status and, of a problem, its code."""
    is_problem = ("Content-Type", "application/problem+json") in answer.headers
    return answer.status, json.loads(answer.body)["code"] if is_problem else None


def test_of_calls_with_one_key_at_all_runners_one_is_executed(applications, request):
    one = applications[0]
    with ThreadPoolExecutor(2 * RUNNERS) as pool:
        for number in range(ROUNDS):
            name = f"{request.node.callspec.id}-{number}"
            answers = pool.map(lambda app, name=name: app.call(name, key=name), applications * 2)
            found = set(map(told, answers))
            assert (200, None) in found
            assert found <= {(200, None), (409, "idempotency-in-flight")}
            assert [app.call(name, key=name).status for app in applications] == [200] * RUNNERS
            assert one.executed(name) == 1


def test_another_request_with_the_key_is_refused_by_all(applications, request):
    name = f"{request.node.callspec.id}-mismatch"
    assert applications[0].call(name, key=name).status == 200
    other = make_environ(
        "POST", f"/api/ext/acme.counter/{name}", QUERY_STRING="b=1", HTTP_IDEMPOTENCY_KEY=name
    )
    answers = [send(app.app, {**other}) for app in applications]
    assert {told(answer) for answer in answers} == {(422, "idempotency-mismatch")}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(RedisServer, marks=pytest.mark.redis, id="redis"),
        pytest.param(PostgresServer, marks=pytest.mark.postgres, id="postgres"),
    ],
)
def test_a_store_that_goes_away_and_comes_back(kind, caplog):
    guest = Guest()
    with kind() as server:
        once = Once(open_keys(Settings(idempotency_url=server.new_store())), TTL)

        def stops_it():
            server.stop()
            return guest()

        # The call has ended: its caller is told so, and the log that its key was not kept.
        assert once.run(call("a"), stops_it) == guest.envelope
        assert "key_not_kept" in caplog.text
        assert PASSWORD not in caplog.text
        with pytest.raises(StorageError):
            once.run(call("b"), guest)
        assert guest.count == 1
        server.start()
        assert once.run(call("b"), guest) == guest.envelope
        once.close()


def test_a_runner_whose_store_is_gone_executes_nothing_and_stays_ready(home, tmp_path):
    url = f"redis://127.0.0.1:{unused_port()}/0"
    env = variables(home, url)
    with (
        runner(tmp_path / "home", **env) as server,
        caller(home, urlsplit(server.url).netloc) as app,
    ):
        assert told(app.call("gone")) == (503, "storage-unavailable")
        assert app.executed("gone") == 0
        # Calls without a key need no store.
        assert app.call("gone", method="GET").status == 200
        assert server.send(path="/health/readiness")[0] == 200
