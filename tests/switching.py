"""Applications whose backend is changed while they serve, and backends to change between."""

import threading
import time
from contextlib import closing, contextmanager
from itertools import count

import sqlalchemy as sa
from support import EXTENSION, host_app, make_environ, pack_files, send, write_plugin

from runnerwsgi import Installs, Principal, RunnerMiddleware, Settings, switch
from runnerwsgi.bundles import BundleStore
from runnerwsgi.database import Database
from runnerwsgi.switchboard import Switchboard

# A backend that counts its calls in the extension's storage, as a guest would, and says its name.
SOURCE = """
import os
import pathlib
import time
from runnerwsgi import ConfigurationError, ExecuteResponse, Health, hookimpl

made = []


class Backend:
    def __init__(self, env):
        self.is_open = True
        self.seconds = float(env.get("RUNNER_{NAME}_SECONDS", 0))
        self.fault = env.get("RUNNER_{NAME}_FAULT", "")
        self.home = env["RUNNER_HOME"]
        made.append(self)

    @hookimpl
    def runner_execute(self, request):
        if self.fault == "silent" and not os.path.exists(self.home + "/mended"):
            raise RuntimeError("no answer")
        time.sleep(self.seconds)
        if request.capabilities is None:
            return ExecuteResponse(200, (), request.http.body)
        key = request.http.path.strip("/")
        if key == "held":
            pathlib.Path(self.home, "began").touch()
            while not os.path.exists(self.home + "/go"):
                time.sleep(0.01)
        if key == "client":
            whose = request.capabilities.call("clients", "get-client", ("c1",), 5.0)
            return ExecuteResponse(200, (("content-type", "text/plain"),), whose)
        assert self.is_open, "closed while it was in use"
        entry = {{"namespace": "calls", "key": key, "value": b"{name}", "revision": None}}
        request.capabilities.call("storage", "put", (entry,), 5.0)
        return ExecuteResponse(200, (("content-type", "text/plain"),), b"{name}")

    @hookimpl
    def runner_resolve_ui_url(self, asset):
        folder = self.home + "/bundles/sha256/" + asset.content_hash.removeprefix("sha256:")
        return "file://" + folder + "/ui/" + asset.path

    @hookimpl
    def runner_health(self):
        return Health("ok")

    @hookimpl
    def runner_capabilities(self):
        return {{"clients": {{"get-client": lambda call, client: b"a client of {name}'s"}}}}

    @hookimpl
    def runner_close(self):
        self.is_open = False


def plugin(env):
    if env.get("RUNNER_{NAME}_FAULT") == "unbuildable":
        raise ConfigurationError("RUNNER_{NAME}_FAULT: it cannot be built.")
    return Backend(env)
"""


def write_backends(folder, *names):
    """Distributions with one backend each."""
    for name in names:
        write_plugin(folder, name, SOURCE.format(name=name, NAME=name.upper()))


def prepare(folder, monkeypatch):
    """An application's home, the backends `ink` and `pen`, and looks that are a moment apart."""
    write_backends(folder, "ink", "pen")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(switch, "LOOK_S", 0.02)
    home = folder / "home"
    install(home)
    return home


def install(home):
    """Install the extension for tenant t1 in an application's home."""
    settings = Settings(home=home)
    settings.make_home()
    bundle = BundleStore.from_url(settings.bundle_store).add(pack_files(home / "source"))
    installs = Installs.from_settings(settings)
    grants = {"ui_digests": bundle.ui_digests, "grants": ["cap:storage.kv", "cap:client.read"]}
    installs.add("t1", EXTENSION, bundle.content_hash, bundle.manifest, **grants)
    installs.close()


class Application:
    """One process's worth of an application, built from an environment."""

    def __init__(self, home, backend="ink", app=host_app, **env):
        self.env = {"RUNNER_HOME": str(home), "RUNNER_BACKEND": backend, **env}
        self.app = RunnerMiddleware.from_env(
            app, identify=lambda environ: Principal("t1", "u1"), env=self.env
        )

    def call(self, key="hello"):
        """Call the extension; its answer's body is the name of the backend."""
        return send(self.app, call_of(key))

    def health(self):
        """What the application's health page says."""
        return send(self.app, make_environ(path="/runner/healthz")).json

    def calls_until(self, backend, seconds=10):
        """Call until *backend* answers."""
        until(lambda: self.call().body == backend.encode(), seconds)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.app.close()


def call_of(key):
    """The environ of a call."""
    path = f"/api/ext/{EXTENSION}/{key}"
    return make_environ("POST", path, HTTP_SEC_FETCH_SITE="same-origin")


def until(holds, seconds=10):
    """Wait until *holds*, and fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.02)


@contextmanager
def switchboard_of(home):
    """The switchboard of an application's home."""
    with closing(Database(Settings(home=home).database_url)) as database:
        yield Switchboard(database)


@contextmanager
def calls(call, callers):
    """Call from many threads, each time with another key; gives what was answered by key."""
    answers, stop = {}, threading.Event()

    def go_on(caller):
        for number in count():
            if stop.is_set():
                return
            key = f"{caller}-{number}"
            answers[key] = call(key)

    threads = [threading.Thread(target=go_on, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def states_of(board):
    """The states of all processes."""
    return {process.state for process in board.processes()}


def entries_of(home, database_url=""):
    """How often each key was written, and by whom last."""
    query = sa.text("SELECT key, revision, value FROM storage_entries")
    with (
        closing(Database(database_url or Settings(home=home).database_url)) as database,
        database.connect() as connection,
    ):
        rows = connection.execute(query).all()
    return {row.key: (row.revision, bytes(row.value).decode()) for row in rows}
