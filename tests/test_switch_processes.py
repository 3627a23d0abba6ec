"""Switching between the engine in the processes and a runner beside them, under real servers."""

import os
import signal

import pytest
from counting import (
    GUNICORN,
    WORKERS,
    calling,
    counting_home,
    environment,
    processes_of,
    switch,
    switch_under_load,
)
from servers import runner, serving
from switching import until


@pytest.fixture
def home(tmp_path):
    return counting_home(tmp_path)


@pytest.fixture
def env(home, tmp_path):
    """An application's environment, beside which a runner runs with the same bundles."""
    with runner(
        tmp_path / "runner",
        RUNNER_BUNDLE_STORE=str(home / "bundles"),
        RUNNER_CALLBACK_DIR=str(home / "run"),
    ) as beside:
        yield environment(home, beside.url)


def test_switching_under_load_loses_and_doubles_nothing(home, env):
    switch_under_load(home, env, switches=4)


def test_workers_that_come_later_begin_with_what_was_switched_to(home, env):
    with serving(*GUNICORN, "--preload", "app:application", cwd=home, env=env) as server:
        with calling(server, callers=2):
            until(lambda: len(processes_of(env)) == WORKERS)
            assert switch(env, "docker").count("settled") == WORKERS
        old = {process["pid"] for process in processes_of(env)}
        for pid in old:
            os.kill(pid, signal.SIGTERM)  # as gunicorn does after --max-requests
        until(lambda: not old & {one["pid"] for one in processes_of(env)}, 20)
        with calling(server, callers=2) as answers:
            until(lambda: len(processes_of(env)) == WORKERS, 20)
        assert {status for status, _, _ in answers.values()} == {200}
        assert {one["backend"] for one in processes_of(env)} == {"docker"}
        assert "idle" in switch(env, "--reset")
    assert processes_of(env) == []
