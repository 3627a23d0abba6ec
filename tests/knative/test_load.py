"""A thousand calls while runners are killed: none is executed twice, and each is told the truth."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from counted import gateway_variables, only, runner_variables
from counting import counting_home
from envoy import PROFILES, envoy
from fleet import fleet, repeating
from servers import serving
from switching import entries_of

# Contour repeats calls by itself: the harder case has all of them.
CALLS = {"contour": 1000, "kourier": 400}
CONCURRENCY = 32
RUNNERS = 3
GUNICORN = (
    *("gunicorn", "--bind=127.0.0.1:0", "--workers=2"),
    *("--worker-class=gthread", f"--threads={CONCURRENCY}"),
)
# Room for all callers in each process: refusals for want of threads are another test's.
THREADS = {"RUNNER_THREADS": str(2 * CONCURRENCY)}
# What an answer says of a call: it was not executed, or nobody can tell yet.
NOT_EXECUTED = {"backend-unreachable", "backend-starting", "overloaded"}
UNKNOWN = {"outcome-unknown", "idempotency-in-flight"}


class Calls:
    """What became of calls, by their names.

    Attributes:
        told: of each call, what its last answer said.
    """

    def __init__(self, server):
        self._server = server
        self.told = {}

    def call(self, name):
        """Call once; each name has a key of its own."""
        path, key = f"/api/ext/acme.counter/{name}", f"key-{name}"
        status, head, body = self._server.send("POST", path, b"", timeout=60, Idempotency_Key=key)
        is_ours = head["content-type"] == "application/problem+json"
        self.told[name] = json.loads(body)["code"] if is_ours else {200: "ok"}.get(status, status)

    def all(self, names):
        """Call each of these once, so many at a time."""
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            list(pool.map(self.call, names))

    def of(self, codes):
        """Those calls that were told one of *codes*."""
        return {name for name, code in self.told.items() if code in codes}


def check(calls, home):
    """Hold what callers were told against what the guest wrote down."""
    executed = {int(path.strip("/")): times for path, (times, _) in entries_of(home).items()}
    assert set(executed.values()) == {1}
    assert set(calls.told.values()) <= {"ok", *NOT_EXECUTED, *UNKNOWN}
    assert calls.of({"ok"}) <= set(executed)
    assert set(executed) <= calls.of({"ok", *UNKNOWN})


@contextmanager
def service(profile, folder):
    """Runners behind an ingress, the calls of an application, and its home."""
    home = counting_home(folder)
    keys = {"RUNNER_IDEMPOTENCY_URL": f"sqlite:///{folder}/keys.db"}
    env = runner_variables(home) | THREADS | keys
    with envoy(profile) as ingress, fleet(folder, ingress, RUNNERS, **env) as runners:
        variables = only(gateway_variables(home, ingress.address, **THREADS))
        with serving(*GUNICORN, "app:application", cwd=home, env=variables) as server:
            yield runners, Calls(server), home


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
def test_runners_that_are_killed_lose_and_double_nothing(profile, tmp_path):
    with service(profile, tmp_path) as (runners, calls, home):
        with repeating(runners.kill):
            calls.all(range(CALLS[profile]))
        check(calls, home)
        assert runners.killed >= CALLS[profile] // 400
        assert len(calls.of({"ok"})) > 0.9 * CALLS[profile], calls.told
        # Whoever asks again, with the same key, is told what came of it, or that it is unknown.
        calls.all(calls.of(NOT_EXECUTED | UNKNOWN))
        check(calls, home)


@pytest.mark.slow
def test_runners_that_are_replaced_cost_no_call_anything(tmp_path):
    names = itertools.count()
    with service("kourier", tmp_path) as (runners, calls, home):
        with repeating(lambda: calls.all([next(names) for _ in range(CONCURRENCY)]), pause=0):
            for _ in range(RUNNERS):
                runners.replace()
        check(calls, home)
        assert len(calls.told) > CONCURRENCY
        assert set(calls.told.values()) == {"ok"}, calls.told
