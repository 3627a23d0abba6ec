"""Calls of `acme.counter` on runners elsewhere: each is written down by the guest that it ran."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from envoy import SERVICE
from support import host_app, make_environ, send
from switching import entries_of

from runnerwsgi import Principal, RunnerMiddleware


def runner_variables(home):
    """What a runner needs to share bundles with the application of *home*, and to ask it back."""
    return {"RUNNER_BUNDLE_STORE": str(home / "bundles"), "RUNNER_CALLBACK_DIR": str(home / "run")}


def gateway_variables(home, address, **more):
    """What the application of *home* needs to call the service whose ingress is at *address*."""
    return {
        "RUNNER_HOME": str(home),
        "RUNNER_BACKEND": "knative",
        "RUNNER_BASE_URL": f"http://{SERVICE}",
        "RUNNER_KNATIVE_CONNECT_TO": address,
        "RUNNER_CALLBACK_BASE": f"unix:{home / 'run'}",
        **more,
    }


def only(variables):
    """An environment for a process: the test's own without what is ours in it, and *variables*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")}
    return kept | variables


class Caller:
    """The application in this process; `home` is where its counter was installed."""

    def __init__(self, home, address, **env):
        self.home = home
        self.app = RunnerMiddleware.from_env(
            host_app,
            identify=lambda environ: Principal("default", "ada", credential="bearer"),
            env=gateway_variables(home, address, **env),
        )

    def call(self, name, method="POST", key=None):
        """One call, counted as *name*; with an idempotency key where one is given."""
        more = {} if key is None else {"HTTP_IDEMPOTENCY_KEY": key}
        return send(self.app, make_environ(method, f"/api/ext/acme.counter/{name}", **more))

    def calls(self, names):
        """All of these at once, each in a thread of its own; the answers in their order."""
        with ThreadPoolExecutor(len(names)) as pool:
            return list(pool.map(self.call, names))

    def executed(self, name):
        """How often a call was executed."""
        return entries_of(self.home).get(f"/{name}", (0,))[0]


@contextmanager
def caller(home, address, **env):
    """A caller until the block ends."""
    made = Caller(home, address, **env)
    try:
        yield made
    finally:
        made.app.close()
