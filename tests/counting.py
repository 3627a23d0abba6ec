"""An extension that counts its calls, its application under a real server, and many callers."""

import json
import os

import wasmtime
from click.testing import CliRunner
from servers import serving
from support import FILES, pack_files
from switching import calls, entries_of, until
from wasm.rig import Import, guest

from runnerwsgi import Gateway, Installs, Settings
from runnerwsgi.bundles import BundleStore
from runnerwsgi.cli import cli
from runnerwsgi.protocol import Bundle

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


def counting_home(folder, **more):
    """An application's home in *folder*, where `acme.counter` is installed and compiled.

    *more* are further variables of the application.
    """
    env = {"RUNNER_HOME": str(folder / "home"), "RUNNER_BACKEND": "wasm", **more}
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


def environment(home, url):
    """The variables of an application whose runner is at *url*."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")},
        "RUNNER_HOME": str(home),
        "RUNNER_BACKEND": "wasm",
        "RUNNER_DOCKER_HOST": url,
        "RUNNER_THREADS": "12",
    }


def calling(server, callers=CALLERS):
    """Call from many threads; gives status, backend and body by key."""

    def call(key):
        status, headers, body = server.send("POST", f"/api/ext/acme.counter/{key}", b"")
        return status, headers.get("x-runner-backend"), body

    return calls(call, callers)


def switch(env, *arguments):
    """Type `runnerwsgi switch` in the application's environment."""
    said = CliRunner().invoke(cli, ["switch", *arguments], env=env)
    assert said.exit_code == 0, said.output
    return said.stdout


def processes_of(env):
    """What `runnerwsgi switch` lists."""
    return json.loads(switch(env, "--json"))["processes"]


def switch_under_load(home, env, switches):
    """Switch again and again while all call; every call must be answered, and counted once."""
    with serving(*GUNICORN, "app:application", cwd=home, env=env) as server:
        with calling(server) as answers:
            until(lambda: len(answers) > 10 * CALLERS)
            for turn in range(switches):
                before = len(answers)
                said = switch(env, ("docker", "wasm")[turn % 2])
                assert said.count("settled") == WORKERS, said
                until(lambda before=before: len(answers) > before + CALLERS)
        assert server.send()[2] == b"host"
    assert [answer for answer in answers.values() if answer[0] != 200] == []
    assert {backend for _, backend, _ in answers.values()} == {"wasm", "docker"}
    assert entries_of(home) == {f"/{key}": (1, "calls") for key in answers}
