"""RunnerServer: the runner's end of the protocol, around any gateway."""

from __future__ import annotations

import hmac
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs

from . import access, files, headers, wire
from ._version import __version__
from .assets import Asset, Assets
from .bulkhead import Bulkhead
from .capabilities.remote import AskingBack
from .errors import (
    BackendUnreachable,
    BadHeader,
    BadRequest,
    BodyTooLarge,
    BundleUnavailable,
    CrossSite,
    DeadlineExceeded,
    NotFound,
    Overloaded,
    Refused,
    RunnerError,
    StorageError,
    Unauthenticated,
)
from .gateway import Gateway
from .idempotency import Ended, Once, open_keys
from .idempotency.watch import KeyWatch
from .logs import emit, emit_call
from .protocol import ExecuteResponse, UiAsset
from .self_test import EVERY_SECONDS, SelfTest
from .service_token import ServiceToken
from .settings import Settings
from .stores import root_of
from .upstream import sendable
from .wsgi import (
    READ,
    Response,
    check_json,
    check_method,
    json_response,
    new_request_id,
    read_body,
    refused,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from .protocol import ExecuteRequest

log = logging.getLogger(__name__)

MARK = ("X-Runner", f"runnerwsgi/{__version__}")
# What settings allow a gateway of ours at most; a foreign one gets no more.
MAX_TIMEOUT_MS = 600_000
MAX_MEMORY_MB = 4096
# Above what a body may have, in base64: headers, configuration and the rest of the request.
REQUEST_ROOM = 1 << 20
MAX_BUNDLE_BYTES = 16 * 1024
# A tenant's name is part of a gateway's keys, and may be 256 characters of any script, encoded.
MAX_KEY_CHARS = 4096
# Threads that are kept for health, however many calls and files are asked for.
FOR_HEALTH = 2
FILE_WAIT_SECONDS = 1.0
# Outcomes of calls whose guest never began.
NOT_EXECUTED = frozenset({"not_found", "refused", "bad_request"})
_INDEX = "index.html"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_DIGITS = re.compile(r"[0-9]{1,9}")
_TEXT = ("Content-Type", "text/plain; charset=utf-8")
_NO_STORE = ("Cache-Control", "no-store")


class RunnerServer:
    """A WSGI application that other gateways drive (protocol §1 to §3).

    Example::

        application = RunnerServer.from_env()

    Args:
        gateway: runs the calls.
        settings: limits, threads and the bundle store; default: ``Settings()``.
        token: without one, whoever reaches this server may execute.
        every: seconds between two looks at itself.
        revision: what this process is a revision of, told to callers; Knative's K_REVISION.

    Raises:
        ConfigurationError: the idempotency keys cannot be kept where the settings say.
    """

    def __init__(
        self,
        gateway: Gateway,
        settings: Settings | None = None,
        *,
        token: ServiceToken | None = None,
        every: float = EVERY_SECONDS,
        revision: str | None = None,
    ) -> None:
        self.gateway = gateway
        self.settings = settings = settings or Settings()
        self.token = token
        self._asking = AskingBack(settings)
        keys = open_keys(settings)
        self.once = Once(keys, settings.idempotency_ttl_s)
        self._about_us = [MARK, ("X-Runner-Idempotency", self.once.scope)]
        if revision:
            self._about_us.append(("X-Runner-Revision", sendable(revision)))
        self.test = SelfTest(gateway, every, KeyWatch(keys, every))
        self.bulkhead = Bulkhead(settings.slots, settings.slots_per_extension)
        reserved = settings.threads - settings.slots
        self._file_slots = threading.BoundedSemaphore(max(1, reserved - FOR_HEALTH))
        self._assets = Assets(root_of(settings), settings.max_asset_bytes)
        self.max_request_bytes = settings.max_body_bytes * 4 // 3 + REQUEST_ROOM
        self._started = time.monotonic()
        self._draining = False
        self._routes: Mapping[str, Callable[[WSGIEnvironment, str], Response]] = {
            "/v1/execute": self._on_execute,
            "/warmup": self._on_warm_up,
            "/healthz": self._on_health,
            "/health/readiness": self._on_readiness,
            "/health/liveness": self._on_liveness,
            # Where browsers fetch files from here, a page finds it beside them.
            "/client.js": lambda environ, _: files.script("client.js", environ),
        }

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """The runner that an environment describes; ``os.environ`` by default.

        Raises:
            ConfigurationError: with every fault of settings and plugins, told together.
        """
        env = os.environ if env is None else env
        settings, gateway = Gateway.configure(env)
        settings.make_home()
        token = ServiceToken.from_settings(settings)
        return cls(gateway, settings, token=token, revision=env.get("K_REVISION"))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        self.test.start()
        request_id = _request_id(environ)
        try:
            response = self._respond(environ, request_id)
        except RunnerError as error:
            response = self._refuse(error, environ, request_id)
        except Exception as exc:
            log.exception("internal error request_id=%s", request_id)
            response = self._refuse(RunnerError(repr(exc)), environ, request_id)
        response.headers += [*self._about_us, ("X-Request-Id", request_id)]
        return response(environ, start_response)

    def drain(self) -> None:
        """Be ready no more: the process is about to end. Calls that come are still answered."""
        self._draining = True

    def close(self) -> None:
        """Close the gateway and end the self-test."""
        self.test.close()
        self._assets.close()
        self._asking.close()
        self.once.close()
        self.gateway.close()

    def _respond(self, environ: WSGIEnvironment, request_id: str) -> Response:
        path: str = environ.get("PATH_INFO") or ""
        if path.startswith("/ext-ui/"):
            return self._on_file(path.removeprefix("/ext-ui/"), environ)
        route = self._routes.get(path)
        if route is None:
            raise NotFound("no route of a runner", detail="A runner has no such route.")
        return route(environ, request_id)

    def _on_execute(self, environ: WSGIEnvironment, request_id: str) -> Response:
        check_method(environ, ("POST",))
        self._check_token(environ)
        started = time.monotonic()
        allowed_ms = _deadline_ms(environ)
        request = self._parse(environ, request_id)
        # A call that finds no slot costs the store of keys nothing, and no store that hangs holds
        # the threads that are kept for health.
        with self.bulkhead.slot(request.context.extension_id):
            envelope = self._run(request, started, started + allowed_ms / 1000)
        response = _envelope(envelope)
        now = time.monotonic()
        times = f"call;dur={_ms_since(started):.1f}, up;dur={(now - self._started) * 1000:.0f}"
        response.headers.append(("Server-Timing", times))
        return response

    def _run(self, request: ExecuteRequest, started: float, deadline: float) -> bytes:
        try:
            bounded = _bounded(request, deadline)
        except DeadlineExceeded as error:
            return self._ended(request, error, started).envelope
        return self.once.run(bounded, lambda: self._execute(bounded, started, deadline))

    def _execute(self, request: ExecuteRequest, started: float, deadline: float) -> Ended:
        """Run the call; its envelope, whatever came of it."""
        try:
            # To claim its key took time, too.
            bounded = _bounded(request, deadline)
            # Whoever executes keeps its key: a runner behind this one must not do so again.
            response = self.gateway.execute(replace(bounded, idempotency_key=None))
        except (Refused, BodyTooLarge, StorageError):
            raise  # nothing was executed, and the transport has a status that says so
        except RunnerError as error:
            return self._ended(request, error, started)
        emit_call(log, self.gateway.backend_name, request, response, _ms_since(started))
        return Ended(wire.response_to_json(response), response.outcome not in NOT_EXECUTED)

    def _parse(self, environ: WSGIEnvironment, request_id: str) -> ExecuteRequest:
        check_json(environ)
        body = read_body(environ, self.max_request_bytes)
        try:
            request = wire.request_from_json(body or b"")
        except BadRequest as exc:
            raise BadRequest(str(exc), detail=f"The call cannot be read: {exc}.") from exc
        if len(request.http.body or b"") > self.settings.max_body_bytes:
            raise BodyTooLarge(f"a body above {self.settings.max_body_bytes} bytes")
        context = replace(request.context, request_id=request.context.request_id or request_id)
        trace = environ.get("HTTP_TRACEPARENT", "")
        request = replace(
            request,
            context=context,
            idempotency_key=_idempotency_key(environ),
            traceparent=trace if _TRACEPARENT.fullmatch(trace) else None,
        )
        return replace(request, capabilities=self._asking.of(request))

    def _ended(self, request: ExecuteRequest, error: RunnerError, started: float) -> Ended:
        outcome = wire.outcome_of(error)
        response = ExecuteResponse(error.status, outcome=outcome, error=str(error))
        emit_call(log, self.gateway.backend_name, request, response, _ms_since(started))
        return Ended(wire.error_to_json(error), _has_begun(error, outcome))

    def _on_warm_up(self, environ: WSGIEnvironment, request_id: str) -> Response:
        check_method(environ, ("POST",))
        self._check_token(environ)
        check_json(environ)
        try:
            bundle = wire.bundle_from_json(read_body(environ, MAX_BUNDLE_BYTES) or b"")
        except BadRequest as exc:
            raise BadRequest(str(exc), detail=f"The bundle cannot be read: {exc}.") from exc
        with self.bulkhead.slot(bundle.extension_id):
            done = self.gateway.warm_up(bundle)
        emit(
            log,
            logging.INFO,
            "warm_up",
            request_id=request_id,
            tenant_id=bundle.tenant_id,
            extension_id=bundle.extension_id,
            content_hash=bundle.content_hash,
            compiled=done.compiled,
            duration_ms=done.ms,
        )
        return _envelope(wire.warm_up_to_json(done))

    def _on_health(self, environ: WSGIEnvironment, request_id: str) -> Response:
        check_method(environ, READ)
        health = self.test.health()
        status = "unavailable" if self._draining else health.status
        answer: dict[str, Any] = {"status": status}
        if self._has_token(environ):
            answer["checks"] = dict(health.checks)
            answer["runner"] = self._about()
        return json_response(503 if status == "unavailable" else 200, answer)

    def _on_readiness(self, environ: WSGIEnvironment, request_id: str) -> Response:
        check_method(environ, READ)
        if self._draining:
            return Response(503, [_TEXT, _NO_STORE], b"stopping\n")
        if not self.test.ready:
            return Response(503, [_TEXT, _NO_STORE], b"not ready\n")
        return Response(200, [_TEXT, _NO_STORE], b"ready\n")

    def _on_liveness(self, environ: WSGIEnvironment, request_id: str) -> Response:
        check_method(environ, READ)
        if self.test.hangs:
            return Response(503, [_TEXT, _NO_STORE], b"hangs\n")
        return Response(200, [_TEXT, _NO_STORE], b"alive\n")

    def _about(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "image": self.settings.image,
            "revision": self.settings.revision,
            "uptime_s": int(time.monotonic() - self._started),
            "backend": self.gateway.backend_name,
            "threads": self.settings.threads,
            "slots": self.bulkhead.slots,
            "running": self.bulkhead.in_use,
            "refused": self.bulkhead.refused,
            "plugins": self.test.plugins,
        }

    def _on_file(self, rest: str, environ: WSGIEnvironment) -> Response:
        name = files.parse(rest)
        check_method(environ, READ)
        headers.check_request(headers.of_environ(environ))
        access.check_asset_site(environ)
        tenant = _tenant(environ)
        with self._file_slot():
            try:
                return self._file(tenant, name, environ, files.IMMUTABLE)
            except NotFound:
                if not files.is_navigation(environ, name.path):
                    raise
                return self._file(tenant, replace(name, path=_INDEX), environ, "no-cache")

    def _file(
        self, tenant: str, name: files.FileName, environ: WSGIEnvironment, caching: str
    ) -> Response:
        try:
            asset = self._asset(tenant, name)
        except NotFound:
            # The bundle may have had to make room for others after it was found: then it is
            # fetched again. A file that never was is not there a second time either.
            asset = self._asset(tenant, name)
        # Who frames a file on its runner's own origin is not known unless we are told.
        origins = self.settings.public_origins
        words = ("allow-scripts",)
        policy = headers.page_policy(words, origins) if origins else headers.SANDBOX
        head = [*headers.ISOLATION, ("Content-Security-Policy", policy)]
        return files.respond(asset, caching, head, environ)

    def _asset(self, tenant: str, name: files.FileName) -> Asset:
        wanted = UiAsset(tenant, name.extension_id, name.content_hash, name.path)
        try:
            url = self.gateway.resolve_ui_url(wanted)
        except BundleUnavailable as exc:
            if exc.missing:
                raise NotFound(str(exc)) from exc
            raise
        return self._assets.load(url, name.path, None, self.settings.timeout_ms / 1000, tenant)

    @contextmanager
    def _file_slot(self) -> Iterator[None]:
        if not self._file_slots.acquire(timeout=FILE_WAIT_SECONDS):
            raise Overloaded("every thread for UI files is in use")
        try:
            yield
        finally:
            self._file_slots.release()

    def _check_token(self, environ: WSGIEnvironment) -> None:
        # A page may have taken our name for its own (DNS rebinding), and it has no token.
        if "HTTP_ORIGIN" in environ and self.accepts_token(""):
            raise CrossSite("a call that a browser could have sent")
        if not self._has_token(environ):
            raise Unauthenticated(
                "no service token, or another one",
                detail="Send this runner's token as X-Runner-Service-Token.",
            )

    def _has_token(self, environ: WSGIEnvironment) -> bool:
        return self.accepts_token(environ.get("HTTP_X_RUNNER_SERVICE_TOKEN", ""))

    def accepts_token(self, given: str) -> bool:
        """Whether this is the service token; anything is, where none is configured.

        Args:
            given: what came in the header, as WSGI has it.
        """
        token = self.token.current() if self.token else None
        if token is None:
            return True
        return hmac.compare_digest(given.encode("latin-1"), token.reveal().encode("latin-1"))

    def _refuse(self, error: RunnerError, environ: WSGIEnvironment, request_id: str) -> Response:
        return refused(
            log,
            error,
            environ,
            request_id,
            self.gateway.backend_name,
            tenant_id=environ.get("HTTP_X_ALGA_TENANT"),
            extension_id=environ.get("HTTP_X_ALGA_EXTENSION"),
        )


def _request_id(environ: WSGIEnvironment) -> str:
    """The caller's, so that both logs have the same; a new one where it cannot be that."""
    given: str = environ.get("HTTP_X_REQUEST_ID", "")
    usable = 0 < len(given) <= 128 and given.isascii() and given.isprintable()
    return given if usable else new_request_id()


def _deadline_ms(environ: WSGIEnvironment) -> int:
    """What the caller's budget has left."""
    given: str = environ.get("HTTP_X_RUNNER_DEADLINE_MS", str(MAX_TIMEOUT_MS))
    if not _DIGITS.fullmatch(given):
        raise BadHeader("X-Runner-Deadline-Ms", detail="X-Runner-Deadline-Ms is not a number.")
    return min(int(given), MAX_TIMEOUT_MS)


def _idempotency_key(environ: WSGIEnvironment) -> str | None:
    key: str | None = environ.get("HTTP_X_IDEMPOTENCY_KEY")
    if key is not None and not (0 < len(key) <= MAX_KEY_CHARS and key.isascii()):
        raise BadHeader(
            "X-Idempotency-Key",
            detail=f"X-Idempotency-Key must have 1 to {MAX_KEY_CHARS} ASCII characters.",
        )
    return key


def _has_begun(error: RunnerError, outcome: str) -> bool:
    """Whether a call that ended with *error* may have been executed."""
    if isinstance(error, DeadlineExceeded):
        return error.sent
    return not isinstance(error, BackendUnreachable) and outcome not in NOT_EXECUTED


def _bounded(request: ExecuteRequest, deadline: float) -> ExecuteRequest:
    """The call with the smaller of its own time limit and what its caller has left."""
    left_ms = int((deadline - time.monotonic()) * 1000)
    if left_ms <= 0:
        raise DeadlineExceeded("the caller's time was over before the call began")
    limits = replace(
        request.limits,
        timeout_ms=min(left_ms, request.limits.timeout_ms),
        memory_mb=min(MAX_MEMORY_MB, request.limits.memory_mb),
    )
    return replace(request, limits=limits)


def _tenant(environ: WSGIEnvironment) -> str:
    """Whose bundle it is, for stores that keep bundles by tenant; the bytes are public."""
    try:
        asked = parse_qs(environ.get("QUERY_STRING", ""), max_num_fields=100).get("tenant", [""])
    except ValueError:
        raise BadRequest("a query of more than 100 fields") from None
    tenant: str = environ.get("HTTP_X_TENANT_ID") or asked[0] or "default"
    if len(tenant) > 256 or not tenant.isprintable():
        raise BadRequest("no tenant can be called that")
    return tenant


def _envelope(body: bytes) -> Response:
    return Response(200, [("Content-Type", "application/json"), _NO_STORE], body)


def _ms_since(started: float) -> float:
    return (time.monotonic() - started) * 1000
