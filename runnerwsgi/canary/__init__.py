"""The canary: a tiny extension that every runner has, executed to see whether it can execute.

It answers with the body that it is sent, so that an answer proves a run and not a memory of one.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from runnerwsgi.errors import BadRunnerResponse
from runnerwsgi.protocol import (
    OUTCOME_ERRORS,
    Bundle,
    Context,
    ExecuteRequest,
    ExecuteResponse,
    HttpRequest,
    Limits,
)

CONTENT_HASH = "sha256:9bd1a4a38babeb5d62891c4f7bfac5dc0804bcf4956524516b4ea20c1971cda6"
BUNDLE = Bundle("runnerwsgi", "runnerwsgi.canary", CONTENT_HASH)
MEMORY_MB = 16


@cache
def archive() -> bytes:
    """The canary's bundle, as every store has it under :data:`CONTENT_HASH`."""
    return files(__name__).joinpath("bundle.tar.zst").read_bytes()


def call(nonce: str, timeout_ms: int) -> ExecuteRequest:
    """A call of the canary.

    Args:
        nonce: what nobody can answer without having executed it.
        timeout_ms: time for it, in milliseconds.
    """
    return ExecuteRequest(
        Context(BUNDLE.tenant_id, BUNDLE.extension_id, CONTENT_HASH, request_id=nonce),
        HttpRequest("POST", "/", body=nonce.encode()),
        Limits(timeout_ms, MEMORY_MB),
        idempotency_key=f"{BUNDLE.tenant_id}:{BUNDLE.extension_id}:{nonce}",
    )


def check(response: ExecuteResponse, nonce: str) -> bool:
    """Whether *response* is the canary's to *nonce*; False from a runner without a canary.

    Such a one, as AlgaPSA's is, answers ``not_found``: it was reached, and knows the protocol.

    Raises:
        UpstreamError: the call failed, or something else answered.
    """
    if response.outcome == "not_found":
        return False
    if response.outcome != "ok":
        raise OUTCOME_ERRORS[response.outcome](
            f"the canary ended as {response.outcome}: {response.error}"
        )
    if (response.status, response.body) != (200, nonce.encode()):
        raise BadRunnerResponse(
            f"the canary was answered with status {response.status} and another body than it sent"
        )
    return True
