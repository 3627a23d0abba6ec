"""Claims: for whom a runner may ask the gateway back, signed so that any process can tell."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from .access import Principal
from .errors import Unauthenticated
from .secrets import Secret

MAX_TOKEN_CHARS = 64 * 1024

_REFUSED = "The token of this call is not valid, or not any more."


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says: one call, its caller and its grants, until its deadline.

    Attributes:
        capabilities: the grants of the install when the call began.
        nested: whether the call came out of another extension's ``ui-proxy`` call.
        expires: when the call's time is over, as ``time.time()`` has it.
    """

    tenant_id: str
    extension_id: str
    install_id: str | None
    request_id: str | None
    principal: Principal | None
    capabilities: tuple[str, ...]
    nested: bool
    expires: float


class Seal:
    """Signs claims and reads signed ones: HMAC-SHA256, nothing stored.

    Example::

        seal = Seal(lambda: vault.derive("callback"))
        token = seal.sign(claims)
        seal.read(token.reveal())  # the same claims, in whichever process

    Args:
        keys: the keys, asked for once: the first signs, each of them may have signed.
    """

    def __init__(self, keys: Callable[[], tuple[bytes, ...]]) -> None:
        self._ask = keys

    @cached_property
    def _keys(self) -> tuple[bytes, ...]:
        return self._ask()

    def sign(self, claims: Claims) -> Secret:
        """The token of *claims*."""
        text = _encode(json.dumps(_to_json(claims), separators=(",", ":")).encode())
        return Secret(f"{text}.{_mac(self._keys[0], text)}")

    def read(self, token: str) -> Claims:
        """The claims of a token.

        Raises:
            Unauthenticated: it is none of ours, or its time is over.
        """
        text, _, mac = token.partition(".")
        if len(token) > MAX_TOKEN_CHARS or not self._is_ours(text, mac):
            raise Unauthenticated("a token that is not of our making", detail=_REFUSED)
        claims = _from_json(json.loads(_decode(text)))
        if claims.expires <= time.time():
            raise Unauthenticated("the token of a call whose time is over", detail=_REFUSED)
        return claims

    def _is_ours(self, text: str, mac: str) -> bool:
        if not (text.isascii() and mac.isascii()):
            return False
        return any(hmac.compare_digest(_mac(key, text), mac) for key in self._keys)


def _mac(key: bytes, text: str) -> str:
    return _encode(hmac.digest(key, text.encode(), "sha256"))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _to_json(claims: Claims) -> dict[str, Any]:
    found = {name: getattr(claims, name) for name in Claims.__slots__}
    principal = claims.principal
    if principal is not None:
        found["principal"] = {
            **asdict(principal),
            "roles": sorted(principal.roles),
            "additional_fields": dict(principal.additional_fields),
        }
    return found


def _from_json(found: dict[str, Any]) -> Claims:
    principal = found["principal"]
    return Claims(
        **{
            **found,
            "principal": None if principal is None else Principal(**principal),
            "capabilities": tuple(found["capabilities"]),
        }
    )
