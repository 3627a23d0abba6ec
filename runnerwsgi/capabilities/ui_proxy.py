"""The application's own routes, called in process by a guest: the interface ``ui-proxy``."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

from runnerwsgi.capabilities import inside_route
from runnerwsgi.errors import CapabilityError
from runnerwsgi.protocol import METHODS
from runnerwsgi.routes import is_plain_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from runnerwsgi.capabilities import Call, Functions

log = logging.getLogger(__name__)

MAX_ROUTE_CHARS = 8192

# What a status of the application means to a guest; others go by their hundred.
CASES: dict[int, str] = {404: "route-not-found", 401: "denied", 403: "denied"}
CASES_BY_HUNDRED: dict[int, str] = {4: "bad-request"}

_ROUTE = re.compile(r"(?:(?P<method>[A-Z]+) )?(?P<path>/[!-\"$->@-~]*)(?:\?(?P<query>[!-\"$-~]*))?")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class UiProxy:
    """Calls the wrapped application as the guest's caller, on routes the install was granted.

    The application sees a fresh request: no cookies, no authorization and no header of the
    browser's, but ``environ["runnerwsgi.principal"]``, which it must itself choose to trust.

    Example::

        proxy = UiProxy(app)
        proxy.call_route(call, "/api/customers?active=1", None)         # GET
        proxy.call_route(call, "PUT /api/customers/42", b'{"name":…}')

    Args:
        app: the wrapped application.
        max_bytes: the longest answer, in bytes.
        base_url: scheme, host and port that the application sees.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        max_bytes: int = 3_000_000,
        base_url: str = "http://localhost",
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._base = urlsplit(base_url)

    def call_route(self, call: Call, route: str, payload: bytes | None) -> bytes:
        """``ui-proxy.call-route``: the body of a 2xx answer.

        Args:
            call: for whom.
            route: ``/path[?query]``, a GET, or a POST where there is a payload; or
                ``METHOD /path[?query]``.
            payload: JSON for the application; None for no body.

        Raises:
            CapabilityError: ``denied`` when the route was not granted, when the application
                answers 401 or 403, or inside another such call; ``route-not-found`` for its
                404; ``bad-request`` for a malformed route or another 4xx; ``internal`` for
                everything else.
        """
        if call.nested or inside_route.get():
            raise CapabilityError("denied", "ui-proxy calls go one level deep")
        if call.principal is None:
            raise CapabilityError("denied", "there is no principal to call the application as")
        method, path, query = _parse(route, payload)
        if not any(grant.match(method, path) for grant in call.routes):
            raise CapabilityError("denied", f"the route {method} {path} was not granted")
        environ = self._environ(call, method, path, query, payload)
        token = inside_route.set(True)
        try:
            return self._run(environ, time.monotonic() + call.timeout)
        finally:
            inside_route.reset(token)

    def functions(self) -> Functions:
        """The host functions by their WIT names."""
        return {"ui-proxy": {"call-route": self.call_route}}

    def _environ(
        self, call: Call, method: str, path: str, query: str, payload: bytes | None
    ) -> WSGIEnvironment:
        base, body = self._base, payload or b""
        port = base.port or (443 if base.scheme == "https" else 80)
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path.encode().decode("latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": base.hostname or "localhost",
            "SERVER_PORT": str(port),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": base.netloc,
            "HTTP_ACCEPT": "application/json, */*;q=0.1",
            "HTTP_X_REQUEST_ID": call.request_id or "",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": base.scheme,
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "runnerwsgi.principal": call.principal,
            "runnerwsgi.extension": call.extension_id,
        }
        if payload is not None:
            environ["CONTENT_TYPE"] = "application/json"
        return environ

    def _run(self, environ: WSGIEnvironment, deadline: float) -> bytes:
        answer = _Answer(self._max_bytes)
        chunks = self._app(environ, answer.start_response)
        try:
            self._read(answer, chunks, deadline)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        if answer.case is not None:
            raise CapabilityError(answer.case, f"the application answered {answer.status}")
        return answer.body()

    @staticmethod
    def _read(answer: _Answer, chunks: Iterable[bytes], deadline: float) -> None:
        for chunk in chunks:
            if answer.case is not None:
                break
            answer.write(chunk)
            if time.monotonic() > deadline:
                raise CapabilityError("internal", "the application did not answer in time")


class _Answer:
    """What an application says through ``start_response``, ``write`` and chunks (PEP 3333)."""

    def __init__(self, max_bytes: int) -> None:
        self.status = 0
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self._size = 0

    @property
    def start_response(self) -> StartResponse:
        def start_response(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
        ) -> Any:
            self.status = int(status[:3])
            return self.write

        return start_response

    def write(self, data: bytes) -> None:
        """Keep a piece of the body, whichever way it came."""
        self._size += len(data)
        self._check_size()
        self._chunks.append(data)

    def body(self) -> bytes:
        """The whole body; none where an application went on after it was too long."""
        self._check_size()
        return b"".join(self._chunks)

    def _check_size(self) -> None:
        if self._size > self._max_bytes:
            raise CapabilityError(
                "internal", f"the application's answer is above {self._max_bytes} bytes"
            )

    @property
    def case(self) -> str | None:
        """The error case of the status; None for a 2xx."""
        if 200 <= self.status < 300:
            return None
        return CASES.get(self.status) or CASES_BY_HUNDRED.get(self.status // 100, "internal")


def _parse(route: str, payload: bytes | None) -> tuple[str, str, str]:
    """Method, decoded path and raw query of a route as guests write it."""
    found = _ROUTE.fullmatch(route) if len(route) <= MAX_ROUTE_CHARS else None
    if found is None or _BAD_PERCENT.search(route):
        raise CapabilityError("bad-request", "a route is [METHOD ]/path[?query] in plain ASCII")
    method = found["method"] or ("GET" if payload is None else "POST")
    if method not in METHODS or (payload is not None and method in ("GET", "HEAD")):
        raise CapabilityError("bad-request", f"{method} is no method for this call")
    return method, _decode(found["path"]), found["query"] or ""


def _decode(path: str) -> str:
    # A slash that arrives encoded would make two segments of one.
    if "%2f" in path.lower():
        raise CapabilityError("bad-request", "the path has an encoded slash")
    try:
        decoded = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise CapabilityError("bad-request", "the path is not valid UTF-8") from None
    if not is_plain_path(decoded):
        raise CapabilityError(
            "bad-request", "the path has dot segments, empty ones or hidden characters"
        )
    return decoded
