"""`switch`: the command, and the applications that it is about."""

import json
import os
import threading
from contextlib import contextmanager

import pytest
from support import host_app, make_environ, send
from switching import Application, call_of, prepare, states_of, switchboard_of, until

from runnerwsgi import Gateway, Principal, RunnerMiddleware, Settings
from runnerwsgi import switch as switch_module
from runnerwsgi.cli import switch as command


@pytest.fixture
def home(folder, monkeypatch):
    """An application's home, which is the command's, too."""
    home = prepare(folder, monkeypatch)
    monkeypatch.setenv("RUNNER_HOME", str(home))
    monkeypatch.setenv("RUNNER_BACKEND", "ink")
    monkeypatch.setattr(command, "IDLE_S", 1.0)
    return home


@pytest.fixture
def board(home):
    with switchboard_of(home) as board:
        yield board


@contextmanager
def called(*applications):
    """Call the applications again and again, as their users do."""
    stop = threading.Event()

    def call():
        while not stop.wait(0.01):
            for application in applications:
                application.call()

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield
    finally:
        stop.set()
        caller.join()


@pytest.fixture
def application(home, board):
    """One that has answered a call."""
    with Application(home) as application:
        until(lambda: application.call() and board.processes())
        yield application


def test_there_and_back(run, board, application):
    with called(application):
        said = run("switch", "pen")
        assert said.exit_code == 0, said.stderr
        assert application.call().body == b"pen"
        assert said.stdout.split()[-4:] == [str(os.getpid()), "ink", "pen", "settled"]
        listed = run("switch").stdout
        assert "Where RUNNER_BACKEND says ink, applications on this machine use pen" in listed
        assert run("switch", "--reset").exit_code == 0
        assert application.call().body == b"ink"
    assert board.switches() == {}


def test_switching_to_what_is_configured_ends_the_switch(run, board, application):
    with called(application):
        assert run("switch", "pen").exit_code == 0
        assert run("switch", "ink").exit_code == 0
    assert application.call().body == b"ink"
    assert board.switches() == {}


def test_where_one_process_refuses_all_stay(run, home, board, application):
    with (
        Application(home, RUNNER_PEN_FAULT="unbuildable") as other,
        called(application, other),
    ):
        until(lambda: len(board.processes()) == 2)
        said = run("switch", "pen")
        assert said.exit_code == 1
        until(lambda: {one.backend for one in board.processes()} == {"ink"})
        until(lambda: states_of(board) == {"settled"})
    assert f"The process {os.getpid()} refused, and nothing has changed" in said.stderr
    assert "RUNNER_PEN_FAULT: it cannot be built." in said.stderr
    assert board.switches() == {}


@pytest.mark.parametrize(
    ("backend", "fault", "text"),
    [
        pytest.param("pen", "silent", "no answer", id="does not answer"),
        pytest.param("pen", "unbuildable", "it cannot be built", id="cannot be built"),
        pytest.param("penn", "", "Did you mean pen?", id="no such backend"),
    ],
)
def test_what_does_not_work_here_is_asked_of_nobody(
    run, board, application, monkeypatch, backend, fault, text
):
    monkeypatch.setenv("RUNNER_PEN_FAULT", fault)
    before = board.number()
    said = run("switch", backend)
    assert said.exit_code == 1
    assert "nothing has changed" in said.stderr
    assert text in said.stderr
    assert board.number() == before


def test_who_is_idle_is_told_and_changes_at_the_next_call(run, application, monkeypatch):
    monkeypatch.setattr(switch_module, "PAUSE_S", 0.5)
    said = run("switch", "pen")
    assert said.exit_code == 0
    assert "idle: changes to pen at its next call" in said.stdout
    assert application.call().body == b"pen"


def test_who_takes_too_long_goes_back(run, home, board):
    with Application(home, RUNNER_PEN_SECONDS="3") as application, called(application):
        until(board.processes)
        said = run("switch", "pen", "--timeout", "1")
        assert said.exit_code == 1
        assert "Not ready after 1 seconds" in said.stderr
        assert str(os.getpid()) in said.stderr
        until(lambda: states_of(board) == {"settled"})
        until(lambda: application.call().body == b"ink")
    assert board.switches() == {}


def test_another_switch_meanwhile_is_the_one_that_counts(run, home, board):
    with Application(home, RUNNER_PEN_SECONDS="2") as application, called(application):
        until(board.processes)
        other = threading.Timer(0.8, lambda: board.wish({"ink": "ink"}))
        other.start()
        said = run("switch", "pen")
        other.join()
        assert said.exit_code == 1
        assert "Somebody else has switched meanwhile" in said.stderr
    assert board.switches() == {}


def test_a_middleware_that_was_given_its_gateway_says_so(run, home, board):
    app = RunnerMiddleware(
        host_app,
        Gateway.from_env({"RUNNER_HOME": str(home), "RUNNER_BACKEND": "ink"}),
        identify=lambda environ: Principal("t1", "u1"),
        settings=Settings(home=home),
    )
    try:
        until(lambda: send(app, call_of("hello")) and board.processes())
        said = run("switch", "pen")
    finally:
        app.close()
    assert said.exit_code == 1
    assert "cannot change its backend" in said.stderr
    assert "RunnerMiddleware.from_env" in said.stderr
    assert board.switches() == {}


def test_without_a_process_it_is_kept_for_those_to_come(run, home):
    said = run("switch", "pen")
    assert said.exit_code == 0
    assert "has answered an extension's call yet" in said.stdout
    assert "Those where RUNNER_BACKEND says ink will begin with pen." in said.stdout
    with Application(home) as application:
        assert application.call().body == b"pen"


def test_other_commands_say_what_overrules_the_environment(run, home):
    assert run("switch", "pen").exit_code == 0
    assert "says ink, applications on this machine use pen" in run("env").stderr
    assert json.loads(run("env", "--json").stdout)["switches"] == {"ink": "pen"}
    found = json.loads(run("doctor", "--json").stdout)["findings"]
    assert [one["state"] for one in found if one["what"] == "switch"] == ["warn"]
    assert run("switch", "--reset").exit_code == 0
    assert "switch" not in run("env").stderr


def test_for_programs(run, board, application):
    with called(application):
        said = json.loads(run("switch", "pen", "--json").stdout)
    mine = {"pid": os.getpid(), "configured": "ink", "backend": "pen", "state": "settled"}
    assert said == {
        "switches": {"ink": "pen"},
        "processes": [{**mine, "error": "", "idle": False}],
    }
    assert json.loads(run("switch", "--json").stdout) == {
        "switches": {"ink": "pen"},
        "processes": [{**mine, "error": ""}],
    }
    assert send(application.app, make_environ(path="/runner/healthz")).json["backend"] == "pen"


@pytest.mark.parametrize("arguments", [("pen", "--reset"), ("pen", "--timeout", "0")])
def test_wrong_usage(run, home, arguments):
    assert run("switch", *arguments).exit_code == 2
