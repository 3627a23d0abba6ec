"""Handler calls: from a request under the execute mount to the guest's answer."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from . import access, headers, paths
from .capabilities import Call, HostCapabilities
from .errors import (
    BadHeader,
    DeadlineExceeded,
    IdempotencyInFlight,
    MethodNotAllowed,
    NotFound,
    OutcomeUnknown,
)
from .logs import emit_call
from .origins import narrow_egress
from .protocol import (
    METHODS,
    OUTCOME_ERRORS,
    SAFE_METHODS,
    Context,
    ExecuteRequest,
    ExecuteResponse,
    HttpRequest,
    Limits,
)
from .retries import OF_THE_WAY, tried, while_running
from .wsgi import Response, guest_response, read_body

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .bulkhead import Bulkhead
    from .capabilities import Door, Functions
    from .gateway import Gateway
    from .installs import Install, Installs
    from .settings import Settings

log = logging.getLogger(__name__)

# The runner gets this much less than is left, so that the inner layer fails first and cleanly.
MARGIN_MS = 200
MAX_IDEMPOTENCY_KEY = 255
# Of callers without a name, who have nothing but their keys to be told apart by: as many as a key
# of ours has, and fewer than a UUID.
MIN_SECRET_KEY = 16


class Handlers:
    """Answers ``{RUNNER_EXECUTE_MOUNT}/{extension}/{path}``.

    Example::

        handlers = Handlers(gateway, identify, installs, functions, Settings(), Bulkhead(2, 2))
        handlers.respond("/demo.notes/notes", environ, request_id)

    Args:
        gateway: runs the calls.
        identify: the host application's word on who calls.
        installs: which extension, in which version, with which grants.
        functions: the host functions of guests, by interface and function.
        settings: mounts and limits.
        bulkhead: slots for calls; a gateway that takes over from this one shares them.
        door: where a runner that is elsewhere asks for a guest.
    """

    def __init__(
        self,
        gateway: Gateway,
        identify: access.Identify,
        installs: Installs,
        functions: Functions,
        settings: Settings,
        bulkhead: Bulkhead,
        door: Door | None = None,
    ) -> None:
        self.gateway = gateway
        self.identify = identify
        self.installs = installs
        self.functions = functions
        self.settings = settings
        self.door = door
        self.bulkhead = bulkhead

    def respond(self, rest: str, environ: WSGIEnvironment, request_id: str) -> Response:
        """Run the call that *environ* asks for.

        Args:
            rest: the path below the mount, as WSGI has it.
            environ: the request's.
            request_id: ours.

        Raises:
            RunnerError: whatever kept the guest from answering.
        """
        started = time.monotonic()
        extension_id, path = _split(paths.decode(rest))
        method = _method(environ)
        request_headers = headers.of_environ(environ)
        headers.check_request(request_headers)
        access.check_host(environ)
        query = paths.check_query(environ.get("QUERY_STRING", ""))
        key = _idempotency_key(environ)

        principal = access.who(self.identify, environ)
        access.check_site(environ, principal, self.settings.public_origins)
        install = self.installs.get(principal.tenant_id, extension_id)
        access.check_level(principal, install.manifest, method, path)
        self.gateway.authorize(principal, install, method, path)
        _check_secret(key, principal)

        body = read_body(environ, self.settings.max_body_bytes)
        http = HttpRequest(
            method, path, query, headers.to_guest(request_headers, install.config), body
        )
        # What sends a call twice need not be its caller: an ingress may do it.
        used = key or (None if method in SAFE_METHODS else request_id)
        with self.bulkhead.slot(extension_id):
            request = self._request(install, principal, http, request_id, used, started)
            response = self._execute(request, used, is_given=key is not None)
        mount = f"{paths.script_name(environ)}{self.settings.execute_mount}/{extension_id}"
        return self._answer(request, response, mount, started)

    def _execute(
        self, request: ExecuteRequest, key: str | None, *, is_given: bool
    ) -> ExecuteResponse:
        """Run the call; with the key in the error, where it may be asked again with that.

        Args:
            request: the call.
            key: as the caller knows it, or may know it from now on.
            is_given: whether it was the caller who chose it.
        """
        try:
            return self.gateway.execute(request) if is_given else self._answered(request)
        except IdempotencyInFlight:
            raise
        except OF_THE_WAY as exc:
            # Of an ingress that repeats calls "not executed" tells of its last try alone.
            exc.idempotency_key = key
            raise

    def _answered(self, request: ExecuteRequest) -> ExecuteResponse:
        """Run a call that nobody but us has the key of.

        Where it runs already, something on the way to the runner sent it twice, and its answer is
        the one to wait for, for a moment: its process may be gone.
        """
        deadline = time.monotonic() + request.limits.timeout_ms / 1000
        try:
            return tried(
                lambda _: self.gateway.execute(_until(deadline, request)), while_running(deadline)
            )
        except IdempotencyInFlight as exc:
            raise OutcomeUnknown(f"the call was sent twice on its way: {exc}") from exc

    def _request(
        self,
        install: Install,
        principal: access.Principal,
        http: HttpRequest,
        request_id: str,
        key: str | None,
        started: float,
    ) -> ExecuteRequest:
        timeout_ms = self._time_left(install, started)
        user = principal.to_user()
        call = Call(
            tenant_id=install.tenant_id,
            extension_id=install.extension_id,
            install_id=install.install_id,
            request_id=request_id,
            user=user,
            principal=principal,
            timeout=timeout_ms / 1000,
            egress=install.egress,
            routes=install.routes,
        )
        return ExecuteRequest(
            context=Context(
                tenant_id=install.tenant_id,
                extension_id=install.extension_id,
                content_hash=install.content_hash,
                request_id=request_id,
                install_id=install.install_id,
                version_id=install.version,
                config=install.config,
            ),
            http=http,
            limits=Limits(timeout_ms, install.memory_mb or self.settings.memory_mb),
            providers=install.grants,
            user=user,
            # A runner has no list of the operator's: what it gets is bounded already.
            egress=narrow_egress(install.egress, self.settings.egress_allow),
            idempotency_key=key and _scoped(key, install, principal, http),
            capabilities=HostCapabilities(call, install.grants, self.functions, self.door),
        )

    def _time_left(self, install: Install, started: float) -> int:
        """Milliseconds for the guest: what is left of the budget, less a margin to fail in."""
        budget = min(self.settings.timeout_ms, install.timeout_ms or self.settings.timeout_ms)
        left = budget - int((time.monotonic() - started) * 1000)
        if left <= 0:
            raise DeadlineExceeded(
                f"deadline exceeded ({budget / 1000:.1f} s) before the call, "
                f"backend={self.gateway.backend_name}"
            )
        return max(left - MARGIN_MS, left // 2, 1)

    def _answer(
        self, request: ExecuteRequest, response: ExecuteResponse, mount: str, started: float
    ) -> Response:
        total = (time.monotonic() - started) * 1000
        emit_call(log, self.gateway.backend_name, request, response, total)
        if response.outcome != "ok":
            raise OUTCOME_ERRORS[response.outcome](response.error or response.outcome)
        if len(response.body or b"") > self.settings.max_response_bytes:
            raise OUTCOME_ERRORS["internal"](
                "the handler's answer is above RUNNER_MAX_RESPONSE_BYTES"
            )
        answer = guest_response(response.status, response.headers, response.body, mount)
        answer.headers.append(
            ("Server-Timing", _server_timing({**response.timings, "total": total}))
        )
        return answer


def _split(rest: str) -> tuple[str, str]:
    """``/demo.notes/a/b`` is the extension ``demo.notes`` and the path ``/a/b``."""
    if rest in ("", "/"):
        raise NotFound("no extension is named")
    extension_id, slash, path = rest[1:].partition("/")
    return paths.parse_extension_id(extension_id), slash + path or "/"


def _method(environ: WSGIEnvironment) -> str:
    method: str = environ["REQUEST_METHOD"]
    if method not in METHODS:
        raise MethodNotAllowed(METHODS, f"method {headers.printable(method, 32)}")
    return method


def _until(deadline: float, request: ExecuteRequest) -> ExecuteRequest:
    """The call with no more time than is left."""
    left_ms = max(1, round((deadline - time.monotonic()) * 1000))
    limits = replace(request.limits, timeout_ms=min(request.limits.timeout_ms, left_ms))
    return replace(request, limits=limits)


def _idempotency_key(environ: WSGIEnvironment) -> str | None:
    key: str | None = environ.get("HTTP_IDEMPOTENCY_KEY")
    if key is None:
        return None
    if not (0 < len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
        raise BadHeader(f"Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY} ASCII characters")
    return key


def _check_secret(key: str | None, principal: access.Principal) -> None:
    """Refuse a key that two visitors without a name may both think of.

    Who has an anonymous caller's key, and sends the same request, gets that caller's answer.

    Raises:
        BadHeader: it is short enough to be guessed.
    """
    if key is not None and not principal.user_id and len(key) < MIN_SECRET_KEY:
        raise BadHeader(
            f"an anonymous caller's Idempotency-Key of {len(key)} characters",
            detail=f"Without a login, Idempotency-Key must have {MIN_SECRET_KEY} characters or "
            "more, and be made by chance for each thing that is to be done, as a UUID is.",
        )


def _scoped(key: str, install: Install, principal: access.Principal, http: HttpRequest) -> str:
    """*key* for this tenant, extension, user, method and path only (security §6)."""
    scope = (install.tenant_id, install.extension_id, principal.user_id, http.method, http.path)
    digest = hashlib.sha256(json.dumps([*scope, key]).encode()).hexdigest()
    return f"{install.tenant_id}:{install.extension_id}:{digest[:32]}"


def _server_timing(timings: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name};dur={value:.1f}" for name, value in timings.items() if headers.is_token(name)
    )
