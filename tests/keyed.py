"""Calls with idempotency keys, a guest that counts them, and every store that keeps them."""

import pytest

from runnerwsgi.idempotency import Ended
from runnerwsgi.protocol import Context, ExecuteRequest, HttpRequest, Limits, User

# Parameters of a fixture: the stores that several processes may have in common.
SHARED = (
    "sqlite",
    pytest.param("redis", marks=pytest.mark.redis),
    pytest.param("postgres", marks=pytest.mark.postgres),
)
TTL = 3600


class Guest:
    """Counts how often it was executed."""

    def __init__(self, envelope=b"{}", *, executed=True):
        self.envelope = envelope
        self.executed = executed
        self.count = 0

    def __call__(self):
        self.count += 1
        return Ended(self.envelope, self.executed)


def call(key="k", body=b"hi", path="/notes", query="", tenant="acme", user=None, timeout_ms=5000):
    return ExecuteRequest(
        Context(tenant, "demo.notes", "sha256:" + "0" * 64),
        HttpRequest("POST", path, query, (), body),
        Limits(timeout_ms),
        user=User(user) if user else None,
        idempotency_key=key,
    )


def store_url(request, folder):
    """The URL of an empty store of the kind that is the fixture's parameter."""
    if request.param == "memory":
        return "memory:"
    if request.param == "sqlite":
        return f"sqlite:///{folder}/keys.db"
    server = {"redis": "redis_server", "postgres": "postgres"}[request.param]
    return request.getfixturevalue(server).new_store()
