"""A look at the way to a Knative Service that wakes none of its pods."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runnerwsgi.errors import Overloaded, RunnerError
from runnerwsgi.upstream import MARKER

from .layers import Layer

if TYPE_CHECKING:
    from runnerwsgi.client import RunnerClient
    from runnerwsgi.upstream import Answer

TIMEOUT_SECONDS = 2.0
# A queue-proxy that ends serves calls all the same.
_ENDING = b"shutting down"


def look(client: RunnerClient, timeout: float = TIMEOUT_SECONDS) -> Layer:
    """Whether the way to the runner is open.

    Knative's activator or queue-proxy, whichever is there, sends a network probe's hash back and
    passes nothing on: no pod is started for it, and none is kept.
    """
    nonce = secrets.token_hex(8)
    target = urlsplit(client.base).path + "/healthz"
    headers = (("K-Network-Probe", "probe"), ("K-Network-Hash", nonce))
    try:
        answer = client.look(target, headers, timeout)
        if answer.headers.get("k-network-hash") == nonce:
            return Layer("open", "ok", f"Knative answers at {client.base}")
        return _of_another(client, answer)
    except Overloaded as exc:
        return Layer("unknown", detail=str(exc))
    except RunnerError as exc:
        return Layer("down", "unavailable", str(exc))


def _of_another(client: RunnerClient, answer: Answer) -> Layer:
    """What it means that somebody else than Knative answered.

    Raises:
        RunnerError: the way ends there.
    """
    if MARKER in answer.headers:
        return Layer("direct", "ok", f"the runner itself answers at {client.base}, not Knative")
    if answer.status == 503 and answer.body.strip() == _ENDING:
        return Layer("open", "ok", "a pod answers that is being ended; it still serves")
    client.route.check(answer)
    return Layer("unknown", detail=f"something answers {answer.status}, neither Knative nor ours")
