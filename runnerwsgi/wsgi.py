"""The WSGI ends of things: bodies in, validated answers out, errors as problem+json (RFC 9457)."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from . import headers
from .errors import (
    BadHeader,
    BadRequest,
    BadRunnerResponse,
    BodyTooLarge,
    MethodNotAllowed,
    Refused,
    RunnerError,
    UnsupportedMediaType,
)
from .logs import emit

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from .protocol import Headers

log = logging.getLogger(__name__)

# waitress spills larger bytes into a temporary file and copies them slowly; a file-like
# handed over through `wsgi.file_wrapper` is several times as fast.
WRAPPED_BYTES = 256 * 1024
_BODILESS = frozenset({204, 304})
_EMPTY = _BODILESS | {205}
_PLAIN_URL = re.compile(r"[!-\[\]-~]+")
_NO_STORE = ("Cache-Control", "no-store")
READ = ("GET", "HEAD")


@dataclass(slots=True)
class Response:
    """An answer of ours, complete before the server hears of it.

    Example::

        Response(200, [("Content-Type", "text/plain")], b"hello")
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Send the answer (PEP 3333)."""
        bodiless = self.status in _BODILESS
        start_response(f"{self.status} {_reason(self.status)}", _checked(self._framed()))
        if bodiless or environ.get("REQUEST_METHOD") == "HEAD":
            return []
        wrapper = environ.get("wsgi.file_wrapper")
        if wrapper is not None and len(self.body) >= WRAPPED_BYTES:
            wrapped: Iterable[bytes] = wrapper(io.BytesIO(self.body), WRAPPED_BYTES)
            return wrapped
        return [self.body]

    def _framed(self) -> list[tuple[str, str]]:
        """The headers with what describes the body, or without it where there is none."""
        typed = any(name.lower() == "content-type" for name, _ in self.headers)
        if self.status in _BODILESS:
            return [pair for pair in self.headers if pair[0].lower() != "content-type"]
        untyped = [] if typed else [("Content-Type", headers.UNKNOWN_TYPE)]
        return [*self.headers, *untyped, ("Content-Length", str(len(self.body)))]


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _checked(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    for name, value in pairs:
        if not headers.is_token(name) or not headers.is_value(value):
            raise BadRunnerResponse(f"a header that cannot be sent: {headers.printable(name)}")
    return pairs


def json_response(
    status: int, value: Mapping[str, Any], media: str = "application/json"
) -> Response:
    """*value* as a JSON answer that nobody stores."""
    body = json.dumps(value, ensure_ascii=True).encode() + b"\n"
    return Response(status, [("Content-Type", media), _NO_STORE], body)


def problem(error: RunnerError, request_id: str, backend: str) -> Response:
    """*error* as ``application/problem+json``. None of its message is shown, only its detail."""
    told: dict[str, Any] = {
        "type": f"urn:runnerwsgi:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
        "backend": backend,
    }
    if error.idempotency_key:
        told["idempotency_key"] = error.idempotency_key
    response = json_response(error.status, told, "application/problem+json")
    response.headers.append(("X-Content-Type-Options", "nosniff"))
    if isinstance(error, Refused):
        response.headers.append(("Retry-After", str(error.retry_after)))
    if isinstance(error, MethodNotAllowed):
        response.headers.append(("Allow", ", ".join(error.allow)))
    return response


def refused(
    logger: logging.Logger,
    error: RunnerError,
    environ: WSGIEnvironment,
    request_id: str,
    backend: str,
    **whose: str | None,
) -> Response:
    """Log that a request ended in *error*, and tell its client what it may know of that."""
    emit(
        logger,
        logging.ERROR if error.status >= 500 else logging.INFO,
        "refused",
        backend=backend,
        request_id=request_id,
        **whose,
        status=error.status,
        code=error.code,
        method=environ.get("REQUEST_METHOD"),
        path=environ.get("PATH_INFO"),
        error=error,
    )
    return problem(error, request_id, backend)


def guest_response(status: int, pairs: Headers, body: bytes | None, mount: str) -> Response:
    """A guest's answer with what may cross of its headers (security §1.6).

    Args:
        status: the guest's own.
        pairs: the guest's headers.
        body: its body.
        mount: the public path of the extension's handlers, in which ``Location`` must lie.

    Raises:
        BadRunnerResponse: a status outside 200..599, a body where none may be, a malformed
            header, a redirect that leaves the mount.
    """
    headers.check_guest(pairs)
    _check_guest_status(status, body)
    kept, dropped = headers.from_guest(pairs)
    out = [
        (name, value)
        for name, value in kept
        if name != "location" or _may_lead_to(status, value, mount)
    ]
    out += [
        _NO_STORE,
        ("Content-Security-Policy", headers.SANDBOX),
        ("X-Content-Type-Options", "nosniff"),
    ]
    if dropped:
        emit(log, logging.DEBUG, "headers.dropped", count=dropped, mount=mount)
    return Response(status, out, body or b"")


def _check_guest_status(status: int, body: bytes | None) -> None:
    # 407 is a proxy's word: a browser would ask for the password of one (RFC 9110 §15.5.8).
    if not 200 <= status <= 599 or status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        raise BadRunnerResponse(f"the handler answered with status {status}")
    if body and status in _EMPTY:
        raise BadRunnerResponse(f"the handler answered {status} with a body")


def _may_lead_to(status: int, location: str, mount: str) -> bool:
    """Whether ``Location`` is sent: with 201 and 3xx, inside the extension's own mount."""
    redirects = 300 <= status <= 399
    if (redirects or status == HTTPStatus.CREATED) and _lies_in(mount, location):
        return True
    if redirects:
        raise BadRunnerResponse("the handler redirected to a place outside of its own paths")
    return False


def _lies_in(mount: str, location: str) -> bool:
    # Browsers strip blanks and TABs, turn backslashes around, and read %2e as a dot.
    if not location.startswith(f"{mount}/") or not _PLAIN_URL.fullmatch(location):
        return False
    path = re.split(r"[?#]", location, maxsplit=1)[0]
    return not {".", ".."} & set(re.sub("%2e", ".", path, flags=re.IGNORECASE).split("/"))


def new_request_id() -> str:
    """Sixteen hex digits that no client can choose."""
    return os.urandom(8).hex()


def check_method(environ: WSGIEnvironment, allowed: tuple[str, ...]) -> None:
    """Refuse every other method.

    Raises:
        MethodNotAllowed: with those that are allowed.
    """
    if environ["REQUEST_METHOD"] not in allowed:
        raise MethodNotAllowed(allowed)


def check_json(environ: WSGIEnvironment) -> None:
    """Refuse a body that does not say that it is JSON.

    Raises:
        UnsupportedMediaType: it says something else, or nothing.
    """
    media: str = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise UnsupportedMediaType("not application/json", detail="Send application/json.")


def read_body(environ: WSGIEnvironment, limit: int) -> bytes | None:
    """The request's body, capped before it is read; None where there is none (security §2).

    Raises:
        BadRequest: a Content-Length that is not digits, a body that ends early, or a
            chunked one that the server does not decode.
        BodyTooLarge: more than *limit* bytes.
        BadHeader, UnsupportedMediaType: a list as Content-Type, or any Content-Encoding.
    """
    length: str = environ.get("CONTENT_LENGTH") or ""
    chunked = "HTTP_TRANSFER_ENCODING" in environ
    if length and chunked:
        raise BadRequest("both Content-Length and Transfer-Encoding")
    if "," in environ.get("CONTENT_TYPE", ""):
        raise BadHeader("more than one Content-Type")
    if environ.get("HTTP_CONTENT_ENCODING", "identity") != "identity":
        raise UnsupportedMediaType("the body has a Content-Encoding")
    if length:
        return _read_exactly(environ, _parse_length(length), limit)
    if environ.get("wsgi.input_terminated"):
        return _read_to_end(environ, limit)
    if chunked:
        raise BadRequest("a chunked body, and this server does not decode it")
    return None


def _parse_length(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise BadRequest(f"Content-Length is not a number: {headers.printable(text, 32)}")
    return int(text)


def _read_exactly(environ: WSGIEnvironment, length: int, limit: int) -> bytes:
    if length > limit:
        raise BodyTooLarge(f"{length} bytes announced, {limit} allowed")
    body = _read(environ, length)
    if len(body) < length:
        raise BadRequest(f"the body ended after {len(body)} of {length} bytes")
    return body


def _read_to_end(environ: WSGIEnvironment, limit: int) -> bytes | None:
    body = _read(environ, limit + 1)
    if len(body) > limit:
        raise BodyTooLarge(f"more than {limit} bytes")
    return body or None


def _read(environ: WSGIEnvironment, size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0:
        chunk = environ["wsgi.input"].read(size)
        if not chunk:
            break
        parts.append(chunk)
        size -= len(chunk)
    return b"".join(parts)
