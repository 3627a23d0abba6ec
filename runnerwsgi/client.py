"""RunnerClient: the gateway's end of the protocol, for every backend whose runner is elsewhere."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote

from . import paths, wire
from .errors import (
    BadRunnerResponse,
    ConfigurationError,
    DeadlineExceeded,
    OutcomeUnknown,
    RunnerError,
)
from .latest import Latest
from .logs import emit
from .origins import Origin, inner_kind, parse_http_url
from .protocol import (
    SAFE_METHODS,
    Bundle,
    ExecuteRequest,
    ExecuteResponse,
    UiAsset,
    WarmUp,
)
from .retries import Patience
from .runner_answers import LastAnswer, check, last_answer, waited
from .runner_state import Kind, RunnerState, kind_of, state_after, state_of
from .upstream import DIRECT, MARKER, Answer, Route, RoutedUrl, Upstream, sendable

if TYPE_CHECKING:
    from .protocol import Callback, Headers
    from .secrets import Secret
    from .service_token import ServiceToken

__all__ = ["Kind", "LastAnswer", "RunnerClient", "RunnerState", "kind_of", "parse_base"]

log = logging.getLogger(__name__)

# The runner gets this much less than is left, so that the inner layer fails first and cleanly.
MARGIN_MS = 200
# Above what an answer may have: base64, escaped log lines and the rest of an envelope.
ENVELOPE_ROOM = 1 << 20
MAX_STATE_BYTES = 256 * 1024
PROBE_SECONDS = 2.0
READINESS = "/health/readiness"
ALGA_TICK_MS = 10


class RunnerClient:
    """Drives one runner: ours, AlgaPSA's, or one that we never saw.

    Example::

        client = RunnerClient("http://127.0.0.1:8085", ServiceToken(file=token_file))
        client.execute(request)
        client.state().kind

    Args:
        base: ``http(s)://host[:port][/path]``.
        token: goes with every call that needs it.
        variable: the setting that *base* came from, for messages.
        max_response_bytes: longest body of an answer.
        callback_base: how the runner reaches this gateway; see
            :meth:`runnerwsgi.protocol.Capabilities.ask_back`.
        allow_insecure: take a plain-http address on a public network although there is a token.
        idle: connections that are kept.
        route: how the way to the runner differs from *base*, and who else answers on it.
        greet: ask each new connection whether the runner behind it is ready; for a runner
            behind a door that opens before the runner does, such as a published port.
        patience: seconds after its last answer in which a runner that is gone is waited for, as
            one that restarts is. Nothing was executed then, and a call waits for no longer than
            its own time. Where the route has retries, those alone are made.
        reserve_ms: the part of each call's time that the runner is not given, for what has to
            happen before it begins, such as its own start.

    Raises:
        ConfigurationError: *base* is no such URL, or no runner may be there.
    """

    def __init__(
        self,
        base: str,
        token: ServiceToken,
        *,
        variable: str = "RUNNER_BASE_URL",
        max_response_bytes: int = 4_194_304,
        callback_base: str | None = None,
        allow_insecure: bool = False,
        idle: int = 8,
        route: Route = DIRECT,
        greet: bool = False,
        patience: float = 0.0,
        reserve_ms: int = 0,
    ) -> None:
        self.base = base.rstrip("/")
        self.origin, self._prefix = parse_base(self.base, variable)
        if token.current() is not None and not allow_insecure:
            _check_private(self.origin, variable, "the service token")
            if route.connect_to is not None:
                _check_private(route.connect_to, variable, "the service token")
        if callback_base is not None and not callback_base.startswith("unix:"):
            origin, _ = parse_base(callback_base, "RUNNER_CALLBACK_BASE", "a gateway")
            if not allow_insecure:
                _check_private(origin, "RUNNER_CALLBACK_BASE", "the tokens of calls")
        self._token = token
        self._max_envelope = max_response_bytes * 4 // 3 + ENVELOPE_ROOM
        self._callback_base = callback_base
        greeting = self._prefix + READINESS if greet else None
        self.route = route
        self._upstream = Upstream(self.origin, idle=idle, route=route, greeting=greeting)
        # Apart from the calls': a look at a runner must not be greeted first.
        self._watch = Upstream(self.origin, idle=1, route=route)
        lost = RunnerState("silent", "the look at the runner failed")
        self._latest = Latest(self.probe, lost=lost)
        self._tries = route.retries or Patience(patience)
        self._reserve_ms = reserve_ms
        self.last_answer: LastAnswer | None = None

    def execute(self, request: ExecuteRequest) -> ExecuteResponse:
        """Run one handler call on the runner (protocol §2).

        Raises:
            RunnerError: the runner could not be asked, refused, or answered against the
                protocol; what the guest did wrong is the response's ``outcome``.
        """
        deadline = time.monotonic() + request.limits.timeout_ms / 1000
        context = request.context
        return self._tries.run(
            lambda number: self._execute(request, deadline, fresh=number > 0),
            deadline=deadline,
            again=lambda: self._may_repeat(request),
            on_failure=partial(_tell_failure, context.request_id, context.extension_id),
        )

    def _may_repeat(self, request: ExecuteRequest) -> bool:
        """Whether *request* may be sent again although it may have been executed."""
        if request.http.method in SAFE_METHODS:
            return True
        last = self.last_answer
        return request.idempotency_key is not None and last is not None and last.keeps_keys

    def _execute(self, request: ExecuteRequest, deadline: float, *, fresh: bool) -> ExecuteResponse:
        started = time.monotonic()
        left_ms = max(1, round((deadline - started) * 1000))
        # Half of the time stays the guest's, however little there is.
        timeout_ms = max(left_ms - self._reserve_ms - MARGIN_MS, left_ms // 2, 1)
        limits = replace(request.limits, timeout_ms=timeout_ms)
        callback = self._callback(request)
        answer = self._send(
            replace(request, limits=limits, callback=callback), deadline - started, fresh
        )
        took_ms = (time.monotonic() - started) * 1000
        _tell_answer(request, answer, took_ms)
        self.route.check(answer)
        self.last_answer = last_answer(answer)
        self._check(answer)
        response = self._response(answer)
        # Its words go into our log, and it may be quoting what it was sent.
        response = _without(self._token.current(), response)
        response = _without(callback.token if callback else None, response)
        if MARKER not in answer.headers:
            return _timed(response, took_ms, timeout_ms)
        return replace(response, timings={**waited(answer, took_ms), **response.timings})

    def _send(self, request: ExecuteRequest, timeout: float, fresh: bool) -> Answer:
        left_ms = max(1, round(timeout * 1000))
        is_safe = request.http.method in SAFE_METHODS
        try:
            return self._upstream.exchange(
                "POST",
                f"{self._prefix}/v1/execute",
                headers=self._headers(request, left_ms),
                body=wire.request_to_json(request),
                timeout=timeout,
                max_bytes=self._max_envelope,
                repeatable=is_safe,
                fresh=fresh,
            )
        except DeadlineExceeded as exc:
            if exc.sent and not is_safe:
                raise OutcomeUnknown(str(exc), final=True) from exc
            raise

    def _response(self, answer: Answer) -> ExecuteResponse:
        try:
            return wire.response_from_json(answer.body, self._max_envelope)
        except BadRunnerResponse as exc:
            if self.route.platform and not answer.body.rstrip().endswith(b"}"):
                raise OutcomeUnknown("the runner's answer was cut short") from exc
            raise

    def ui_url(self, asset: UiAsset) -> str:
        """Where the runner has a UI file (protocol §3)."""
        place = paths.ui_path(asset.extension_id, asset.content_hash, asset.path)
        return RoutedUrl(f"{self.base}{place}", self.route)

    def warm_up(self, bundle: Bundle, timeout: float) -> WarmUp:
        """Have the runner fetch, verify and compile a bundle (protocol §1, ``/warmup``).

        A runner that has no such route, or answers 400 as AlgaPSA's does, needs none. To have it
        done twice does no harm: it is tried again whatever may have become of it.

        Raises:
            BundleUnavailable: the runner cannot get the bundle, or not run it.
            RunnerError: the runner could not be asked.
        """
        deadline = time.monotonic() + timeout
        return self._tries.run(
            lambda number: self._warm_up(bundle, deadline - time.monotonic(), fresh=number > 0),
            deadline=deadline,
            again=lambda: True,
            on_failure=partial(_tell_failure, None, bundle.extension_id),
        )

    def _warm_up(self, bundle: Bundle, timeout: float, *, fresh: bool) -> WarmUp:
        body = json.dumps(
            {
                "tenant_id": bundle.tenant_id,
                "extension_id": bundle.extension_id,
                "content_hash": bundle.content_hash,
            }
        ).encode()
        answer = self._upstream.exchange(
            "POST",
            f"{self._prefix}/warmup",
            headers=[("Content-Type", "application/json"), *self._token_header()],
            body=body,
            timeout=timeout,
            max_bytes=MAX_STATE_BYTES,
            repeatable=True,
            fresh=fresh,
        )
        self.route.check(answer)
        if answer.status in (400, 404) and MARKER not in answer.headers:
            return WarmUp(compiled=False, ms=0)
        self._check(answer)
        return wire.warm_up_from_json(answer.body)

    def state(self, wait: float = PROBE_SECONDS) -> RunnerState:
        """What was found at the runner's place lately; looked at again in the background.

        Args:
            wait: seconds to wait where nothing is known yet.
        """
        return self._latest.get(wait) or RunnerState("silent", "no answer yet")

    def probe(self, timeout: float = PROBE_SECONDS) -> RunnerState:
        """Look now (protocol §1, ``/healthz``)."""
        try:
            answer = self._watch.exchange(
                "GET",
                f"{self._prefix}/healthz",
                headers=self._token_header(),
                timeout=timeout,
                max_bytes=MAX_STATE_BYTES,
            )
            self.route.check(answer)
        except RunnerError as exc:
            return state_after(exc)
        return state_of(answer, has_token=self._token.current() is not None)

    def look(self, target: str, headers: Headers = (), timeout: float = PROBE_SECONDS) -> Answer:
        """Whatever answers a GET on the way to the runner, without our token.

        Raises:
            RunnerError: nobody did.
        """
        return self._watch.exchange(
            "GET", target, headers=headers, timeout=timeout, max_bytes=MAX_STATE_BYTES
        )

    def close(self) -> None:
        """Close every idle connection."""
        self._upstream.close()
        self._watch.close()

    def _check(self, answer: Answer) -> None:
        if answer.status == 401:
            self._latest.told(RunnerState("wrong-token", "the runner answered 401"))
        check(answer)

    def _callback(self, request: ExecuteRequest) -> Callback | None:
        if request.capabilities is None:
            return None
        return request.capabilities.ask_back(self._callback_base)

    def _headers(self, request: ExecuteRequest, left_ms: int) -> Headers:
        context = request.context
        sent = {
            "Content-Type": "application/json",
            "X-Request-Id": context.request_id,
            "X-Alga-Tenant": context.tenant_id,
            "X-Alga-Extension": context.extension_id,
            "X-Ext-Install-Id": context.install_id,
            "X-Ext-Version-Id": context.version_id,
            "X-Idempotency-Key": request.idempotency_key,
            "X-Runner-Deadline-Ms": str(left_ms),
            "traceparent": request.traceparent,
        }
        named = tuple((name, sendable(value)) for name, value in sent.items() if value is not None)
        return (*named, *self._token_header())

    def _token_header(self) -> Headers:
        token = self._token.current()
        return (("X-Runner-Service-Token", token.reveal()),) if token else ()


def _without(secret: Secret | None, response: ExecuteResponse) -> ExecuteResponse:
    """The response, with nothing of a secret in what is logged of it."""
    texts = (response.error or "", *(line.message for line in response.logs))
    if secret is None or not any(secret.reveal() in text for text in texts):
        return response

    def hidden(text: str) -> str:
        return text.replace(secret.reveal(), str(secret))

    return replace(
        response,
        error=response.error and hidden(response.error),
        logs=tuple(replace(line, message=hidden(line.message)) for line in response.logs),
    )


def _timed(response: ExecuteResponse, took_ms: float, timeout_ms: int) -> ExecuteResponse:
    """What came of a call on AlgaPSA's runner, whose one word for every failure names no reason.

    It counts time in ticks of 10 ms, and may end a guest one of them early.
    """
    if response.outcome == "guest_trap" and took_ms > timeout_ms - ALGA_TICK_MS:
        return replace(response, outcome="timeout")
    return response


def _tell_answer(request: ExecuteRequest, answer: Answer, took_ms: float) -> None:
    """Who answered, for whoever follows one call through everything that it passes."""
    given = answer.headers
    emit(
        log,
        logging.DEBUG,
        "answered",
        request_id=request.context.request_id,
        extension_id=request.context.extension_id,
        status=answer.status,
        runner=given.get(MARKER),
        revision=given.get("x-runner-revision"),
        server=given.get("server"),
        ingress_ms=given.get("x-envoy-upstream-service-time"),
        duration_ms=round(took_ms, 1),
    )


def _tell_failure(
    request_id: str | None,
    extension_id: str,
    exc: RunnerError,
    number: int,
    pause: float | None,
) -> None:
    emit(
        log,
        logging.WARNING,
        "try_failed",
        request_id=request_id,
        extension_id=extension_id,
        executed="unknown" if isinstance(exc, OutcomeUnknown) else "no",
        tries=number + 1,
        again_in_ms=None if pause is None else round(pause * 1000),
        reason=str(exc),
    )


def parse_base(base: str, variable: str, peer: str = "a runner") -> tuple[Origin, str]:
    """Origin and path of a peer's address.

    Raises:
        ConfigurationError: it is no strict http(s) URL, or one that no *peer* may have.
    """
    try:
        parsed = parse_http_url(base)
    except ValueError as exc:
        raise ConfigurationError(
            f"{variable} is not the address of {peer}: {exc}. Write it as "
            "http://127.0.0.1:8085 or https://runner.example.com."
        ) from exc
    prefix = parsed.target.rstrip("/")
    address = parsed.origin.address
    if "?" in prefix or (address is not None and inner_kind(address) in _NEVER):
        raise ConfigurationError(
            f"{variable}: {peer} cannot be at {parsed.origin}{prefix.partition('?')[0]}: use an "
            "address without a query that is neither link-local nor multicast."
        )
    if paths.has_dot_segment(unquote(prefix)):
        # Whoever is on the way may take them out, and the path with them.
        raise ConfigurationError(
            f"{variable}: the path {prefix} has a dot segment: write it without."
        )
    return parsed.origin, prefix


_NEVER = frozenset(
    {
        "link-local",
        "multicast",
        "unspecified",
        "this network",
        "a cloud's own service",
        "IPv4 inside IPv6",  # a second way to write each of these
    }
)
_PRIVATE = frozenset({"loopback", "private", "shared by a carrier (CGNAT)"})
_LOCAL_NAMES = (".local", ".internal", ".localhost", ".svc", ".home.arpa", ".lan", ".test")


def _check_private(origin: Origin, variable: str, what: str) -> None:
    """A token goes in the clear only where nobody else listens (security §3)."""
    address = origin.address
    near = (
        inner_kind(address) in _PRIVATE
        if address is not None
        else "." not in origin.host or origin.host.endswith(_LOCAL_NAMES)
    )
    if origin.scheme == "http" and not near:
        raise ConfigurationError(
            f"{variable}: {what} would go in the clear to {origin.host}: use https, or set "
            "RUNNER_ALLOW_INSECURE=1."
        )
