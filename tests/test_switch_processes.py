"""Switching between the engine in the processes and a runner beside them, under real servers."""

import json
import os
import signal
import threading
from contextlib import contextmanager

import pytest
import wasmtime
from click.testing import CliRunner
from servers import runner, serving
from support import FILES, pack_files
from switching import entries_of, until
from wasm.rig import Import, guest

from runnerwsgi import Gateway, Installs, Settings
from runnerwsgi.bundles import BundleStore
from runnerwsgi.cli import cli
from runnerwsgi.protocol import Bundle

SWITCHES = 20
CALLERS = 8
WORKERS = 2
GUNICORN = (
    *("gunicorn", "--bind=127.0.0.1:0", f"--workers={WORKERS}"),
    *("--worker-class=gthread", "--threads=12"),
)
APP = """
from runnerwsgi import Principal, RunnerMiddleware

def identify(environ):
    return Principal("default", "ada", credential="bearer")

def plain(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"host"]

application = RunnerMiddleware.from_env(plain, identify=identify)
"""

STORAGE = Import(
    "alga:extension/storage",
    '(type $r (record (field "namespace" string) (field "key" string) (field "value" (list u8))'
    ' (field "revision" (option u64))))'
    '(export "storage-entry" (type $entry (eq $r)))'
    '(type $e (enum "missing" "conflict" "denied" "internal"))'
    '(export "storage-error" (type $error (eq $e)))'
    '(export "put" (func (param "entry" $entry) (result (result $entry (error $error)))))',
    "put",
    "(param i32 i32 i32 i32 i32 i32 i32 i64 i32)",
)
# Writes an entry under the URL that it was called with; its revision says how often. The URL is
# the second field of the request's second record; the result is at 600: 0, or 1 for an error.
COUNTER = guest(
    """(call $f0 (i32.const 1024) (i32.const 5)
      (i32.load (i32.add (local.get $request) (i32.const 60)))
      (i32.load (i32.add (local.get $request) (i32.const 64)))
      (i32.const 1024) (i32.const 5) (i32.const 0) (i64.const 0) (i32.const 600))
    (i32.store16 (i32.const 512)
      (if (result i32) (i32.load8_u (i32.const 600)) (then (i32.const 500)) (else (i32.const 200))))
    (i32.const 512)""",
    imports=[STORAGE],
    data='(data (i32.const 1024) "calls")',
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An application's home, in which `acme.counter` is installed and compiled."""
    folder = tmp_path_factory.mktemp("switch")
    env = {"RUNNER_HOME": str(folder / "home"), "RUNNER_BACKEND": "wasm"}
    settings = Settings.from_env(env)
    settings.make_home()
    files = {**FILES, "manifest.json": b'{"name":"acme.counter","version":"1.0.0"}'}
    files["dist/main.wasm"] = bytes(wasmtime.wat2wasm(COUNTER))
    bundle = BundleStore.from_url(settings.bundle_store).add(pack_files(folder / "source", files))
    with Gateway.load(settings, env) as gateway:
        gateway.warm_up(Bundle("default", "acme.counter", bundle.content_hash))
    installs = Installs.from_settings(settings)
    at = ("default", "acme.counter", bundle.content_hash, bundle.manifest)
    installs.add(*at, grants=["cap:storage.kv"], ui_digests=bundle.ui_digests)
    installs.close()
    (settings.home / "app.py").write_text(APP)
    return settings.home


@pytest.fixture
def env(home, tmp_path):
    """An application's environment, beside which a runner runs with the same bundles."""
    sockets = home / "run"
    with runner(
        tmp_path / "runner",
        RUNNER_BUNDLE_STORE=str(home / "bundles"),
        RUNNER_CALLBACK_DIR=str(sockets),
    ) as beside:
        yield {
            **{name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")},
            "RUNNER_HOME": str(home),
            "RUNNER_BACKEND": "wasm",
            "RUNNER_DOCKER_HOST": beside.url,
            "RUNNER_CALLBACK_BASE": f"unix:{sockets}",
            "RUNNER_THREADS": "12",
        }


@contextmanager
def calling(server, callers=CALLERS):
    """Call from many threads, each time another path; gives status and backend by path."""
    answers, stop = {}, threading.Event()

    def call(caller):
        number = 0
        while not stop.is_set():
            path = f"/{caller}-{number}"
            status, headers, body = server.send("POST", f"/api/ext/acme.counter{path}", b"")
            answers[path] = (status, headers.get("x-runner-backend"), body)
            number += 1

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def switch(env, *arguments):
    """Type `runnerwsgi switch` in the application's environment."""
    said = CliRunner().invoke(cli, ["switch", *arguments], env=env)
    assert said.exit_code == 0, said.output
    return said.stdout


@pytest.mark.slow
def test_twenty_switches_under_load_lose_and_double_nothing(home, env):
    with serving(*GUNICORN, "app:application", cwd=home, env=env) as server:
        with calling(server) as answers:
            until(lambda: len(answers) > 10 * CALLERS)
            for turn in range(SWITCHES):
                before = len(answers)
                said = switch(env, ("docker", "wasm")[turn % 2])
                assert said.count("settled") == WORKERS, said
                until(lambda before=before: len(answers) > before + CALLERS)
        assert server.send()[2] == b"host"
    assert [answer for answer in answers.values() if answer[0] != 200] == []
    assert {backend for _, backend, _ in answers.values()} == {"wasm", "docker"}
    assert entries_of(home) == dict.fromkeys(answers, (1, "calls"))


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


def processes_of(env):
    """What `runnerwsgi switch` lists."""
    return json.loads(switch(env, "--json"))["processes"]
