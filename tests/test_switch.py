"""Changing the backend of an application that serves: nothing fails, nothing runs twice."""

import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import EXTENSION, host_app, make_environ, send
from switching import (
    Application,
    call_of,
    calls,
    entries_of,
    prepare,
    states_of,
    switchboard_of,
    until,
)

from runnerwsgi import Gateway, Principal, RunnerMiddleware, Settings
from runnerwsgi import switch as switch_module
from runnerwsgi.switchboard import Process

SWITCHES = 20
CALLERS = 8


@pytest.fixture
def home(tmp_path, monkeypatch):
    return prepare(tmp_path, monkeypatch)


@pytest.fixture
def board(home):
    with switchboard_of(home) as board:
        yield board


def has_settled(board, number, backend):
    processes = board.processes()
    return processes and all(
        (one.number, one.state, one.backend) == (number, "settled", backend) for one in processes
    )


def test_switching_under_load_loses_and_doubles_nothing(home, board):
    with Application(home, RUNNER_THREADS="16") as application:
        with calls(application.call, CALLERS) as answers:
            for turn in range(SWITCHES):
                backend = ("pen", "ink")[turn % 2]
                number = board.wish({"ink": backend})
                until(lambda number=number, backend=backend: has_settled(board, number, backend))
        made = sys.modules["ink"].made + sys.modules["pen"].made
        until(lambda: sum(one.is_open for one in made) == 1)
    assert {answer.status for answer in answers.values()} == {200}
    for answer in answers.values():
        assert answer.header("x-runner-backend") == answer.body.decode()
    written = entries_of(home)
    assert written == {key: (1, answer.body.decode()) for key, answer in answers.items()}
    assert min(Counter(answer.body for answer in answers.values()).values()) > CALLERS


def test_a_call_ends_on_the_backend_that_it_began_on(home, board):
    with Application(home) as application, ThreadPoolExecutor(1) as caller:
        held = caller.submit(application.call, "held")
        until((home / "began").exists)
        (old,) = [one for one in sys.modules["ink"].made if one.is_open]
        number = board.wish({"ink": "pen"})
        application.calls_until("pen")
        assert old.is_open
        (home / "go").touch()
        assert held.result().body == b"ink"
        until(lambda: not old.is_open)
        until(lambda: has_settled(board, number, "pen"))


def ticked(application):
    """Have the application look; a request that is its own but calls nobody."""
    return send(application.app, make_environ(path="/runner/bridge.js"))


def test_requests_that_are_not_ours_do_not_look(home, board):
    with Application(home) as application:
        board.wish({"ink": "pen"})
        for _ in range(5):
            assert send(application.app, make_environ(path="/")).from_host
        assert board.processes() == ()
        application.calls_until("pen")


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        pytest.param("unbuildable", "RUNNER_PEN_FAULT: it cannot be built.", id="cannot be built"),
        pytest.param("silent", "no answer", id="does not answer"),
    ],
)
def test_a_bad_target_changes_nothing_and_says_why(home, board, caplog, fault, text):
    with Application(home, RUNNER_PEN_FAULT=fault) as application:
        application.call()
        number = board.wish({"ink": "pen"})
        until(lambda: application.call() and states_of(board) == {"refused"})
        (process,) = board.processes()
        assert (process.backend, process.number) == ("ink", number)
        assert text in process.error
        assert application.call().body == b"ink"
    (line,) = [one.getMessage() for one in caplog.records if "config_rejected" in one.getMessage()]
    assert "backend=pen kept=ink" in line
    assert text in line
    assert not [one for one in sys.modules["pen"].made if one.is_open]


def test_what_was_refused_is_tried_again(home, board, monkeypatch):
    monkeypatch.setattr(switch_module, "REFUSED_S", 0.05)
    with Application(home, RUNNER_PEN_FAULT="silent") as application:
        board.wish({"ink": "pen"})
        until(lambda: application.call() and states_of(board) == {"refused"})
        (home / "mended").touch()
        application.calls_until("pen")


def test_a_dead_process_is_forgotten(home, board):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    board.report(Process("dead", ended.pid, "1", "ink", "ink", 0, "settled"))
    reused = Process("reused", os.getpid(), "0", "ink", "ink", 0, "settled")
    board.report(reused)
    with Application(home) as application:
        until(lambda: application.call() and board.processes())
        (process,) = board.processes()
        assert process.pid == os.getpid()
        assert process.process_id not in ("dead", "reused")
    assert board.processes() == ()


def test_a_switch_lasts_until_the_environment_names_another_backend(home, board, caplog):
    with Application(home) as application:
        board.wish({"ink": "pen"})
        application.calls_until("pen")
    caplog.clear()
    with Application(home) as again:
        assert again.call().body == b"pen"
    assert "RUNNER_BACKEND says ink, and this application was switched to pen" in caplog.text
    with Application(home, "pen") as other:
        assert other.call().body == b"pen"
        board.wish({"ink": "ink"})
    with Application(home) as last:
        assert last.call().body == b"ink"
    assert board.switches() == {}


def test_an_application_starts_though_its_switch_cannot_be_followed(home, board, caplog):
    board.wish({"ink": "pen"})
    with Application(home, RUNNER_PEN_FAULT="unbuildable") as application:
        assert application.call().body == b"ink"
    assert "config_rejected backend=pen kept=ink" in caplog.text


def test_an_application_starts_without_a_database(home, caplog):
    (home / "runnerwsgi.db").write_bytes(b"something else" * 100)
    with Application(home) as application:
        assert send(application.app, make_environ(path="/")).from_host
    assert "Started without looking for a switch" in caplog.text


def test_looking_makes_no_database(tmp_path, home):
    with Application(tmp_path / "new") as application:
        assert application.app.gateway.backend_name == "ink"
    assert not (tmp_path / "new" / "runnerwsgi.db").exists()


def test_a_middleware_that_was_given_its_gateway_cannot_change(home, board):
    backend = sys.modules["ink"].Backend({"RUNNER_HOME": str(home)})
    app = RunnerMiddleware(
        host_app,
        Gateway(backend, names=["ink"]),
        identify=lambda environ: Principal("t1", "u1"),
        settings=Settings(home=home),
    )
    try:
        board.wish({"ink": "pen"})
        until(lambda: send(app, call_of("hello")) and board.processes())
        (process,) = board.processes()
        assert process.state == "fixed"
        assert "RunnerMiddleware.from_env" in process.error
        assert send(app, call_of("hello")).body == b"ink"
    finally:
        app.close()


def test_a_gateway_that_was_kept_hands_over_to_its_successor(home, board):
    with Application(home) as application:
        kept = send(application.app, make_environ(path="/")).environ["runnerwsgi.gateway"]
        url = kept.ui_url(EXTENSION, "/", call_of("x"))
        board.wish({"ink": "pen"})
        application.calls_until("pen")
        until(lambda: kept.plugin_names == ())
        assert kept.health().status == "ok"
        assert kept.metadata() == {}
        assert kept.ui_url(EXTENSION, "/", call_of("x")) == url
        current = send(application.app, make_environ(path="/")).environ["runnerwsgi.gateway"]
        assert current is application.app.gateway is not kept
        assert send(application.app, make_environ(path=url.partition("?")[0])).body == b"hello"


def test_what_was_switched_to_answers_the_first_call_after_a_pause(home, board, monkeypatch):
    monkeypatch.setattr(switch_module, "PAUSE_S", 0.1)
    with Application(home, RUNNER_THREADS="16") as application:
        for backend in (b"pen", b"ink"):
            board.wish({"ink": backend.decode()})
            time.sleep(0.2)
            with ThreadPoolExecutor(4) as pool:
                answers = [pool.submit(application.call) for _ in range(4)]
                assert {answer.result().body for answer in answers} == {backend}


def test_what_plugins_provide_changes_with_their_gateway(home, board):
    with Application(home) as application:
        assert application.call("client").body == b"a client of ink's"
        board.wish({"ink": "pen"})
        application.calls_until("pen")
        assert application.call("client").body == b"a client of pen's"


def test_a_database_that_fails_is_told_once_and_looked_at_again(home, board, monkeypatch, caplog):
    monkeypatch.setattr(switch_module, "RETRY_S", 0.02)
    with Application(home) as application:
        until(lambda: application.call() and board.processes())
        board.wish({"ink": "pen"})
        application.app.installs.close()
        home.rename(home.with_name("elsewhere"))
        home.touch()
        until(lambda: ticked(application).status == 200 and "Nobody can switch" in caplog.text)
        for _ in range(5):
            time.sleep(0.03)
            assert ticked(application).header("x-runner-backend") == "ink"
        home.unlink()
        home.with_name("elsewhere").rename(home)
        until(lambda: ticked(application).header("x-runner-backend") == "pen")
    assert caplog.text.count("Nobody can switch") == 1


def test_a_forked_process_follows_by_itself(home, board):
    with Application(home) as application:
        until(lambda: application.call() and board.processes())
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(ours)
            try:
                application.calls_until("pen")
                os.write(theirs, b"pen")
            finally:
                os._exit(0)
        os.close(theirs)
        until(lambda: len(board.processes()) == 2)
        number = board.wish({"ink": "pen"})
        with os.fdopen(ours, "rb") as pipe:
            assert pipe.read() == b"pen"
        os.waitpid(pid, 0)
        (parent,) = board.processes()
        assert (parent.pid, parent.backend) == (os.getpid(), "ink")
        application.calls_until("pen")
        until(lambda: application.call() and has_settled(board, number, "pen"))
