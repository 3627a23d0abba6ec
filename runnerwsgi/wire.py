"""The JSON in which a call and its answer cross between a gateway and a runner (protocol §2)."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlencode

from . import headers
from .errors import (
    BadRequest,
    BadRunnerResponse,
    BundleError,
    BundleUnavailable,
    DeadlineExceeded,
    GuestOutOfMemory,
    GuestTimeout,
    GuestTrap,
    RequestError,
    RunnerError,
    SecretsUnavailable,
    UnknownCapability,
    UpstreamError,
)
from .protocol import (
    LEVELS,
    METHODS,
    OUTCOMES,
    Bundle,
    Callback,
    Context,
    ExecuteRequest,
    ExecuteResponse,
    Headers,
    HttpRequest,
    Limits,
    LogLine,
    Outcome,
    User,
    WarmUp,
    is_content_hash,
)
from .secrets import Secret

# What the first word of an envelope's `error` means, where the runner sends no `outcome`. An
# error class stands where no outcome says as much.
ERROR_PREFIXES: Mapping[str, Outcome | type[UpstreamError]] = {
    "missing_routing_headers": "bad_request",
    "unknown_capabilities": UnknownCapability,
    "engine_init_failed": "internal",
    "bundle_fetch_failed": "not_found",
    "secret_decrypt_failed": SecretsUnavailable,
    "execute_failed": "guest_trap",
}
# Of one answer, whatever a runner sends: each log line is a record of the gateway's log, and all
# timings go into one header.
MAX_LOG_LINES = 10_000
MAX_TIMINGS = 32
MAX_TIMING_NAME = 64
# The Rust runner has one word for every failed execution; its text tells a timeout apart.
_CODE = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_TIMEOUT_WORDS = ("epoch deadline", "epoch_deadline", "interrupt")

# Status and first word under which an outcome is sent, for gateways that know no `outcome`.
OUTCOME_ENVELOPES: Mapping[Outcome, tuple[int, str]] = {
    "guest_trap": (500, "execute_failed"),
    "timeout": (500, "execute_failed: epoch deadline reached"),
    "out_of_memory": (500, "execute_failed"),
    "out_of_fuel": (500, "execute_failed"),
    "not_found": (502, "bundle_fetch_failed"),
    "refused": (502, "bundle_fetch_failed"),
    "bad_request": (400, "bad_request"),
    "internal": (500, "engine_init_failed"),
}
# The same for an error that kept a runner from executing; any other one is `internal`.
ERROR_OUTCOMES: Mapping[type[RunnerError], Outcome] = {
    BundleUnavailable: "not_found",
    BundleError: "refused",
    GuestTrap: "guest_trap",
    GuestTimeout: "timeout",
    GuestOutOfMemory: "out_of_memory",
    DeadlineExceeded: "timeout",
    RequestError: "bad_request",
}
# These have a word of their own in `error`, and no outcome that says as much.
ERROR_WORDS: Mapping[type[RunnerError], tuple[int, str]] = {
    UnknownCapability: (400, "unknown_capabilities"),
    SecretsUnavailable: (500, "secret_decrypt_failed"),
}


def request_to_json(request: ExecuteRequest) -> bytes:
    """*request* as the body of ``POST /v1/execute``.

    What is not in the JSON goes in headers (``idempotency_key``, ``traceparent``) or stays
    here (``capabilities``).
    """
    http = request.http
    called = _without_none(
        method=http.method,
        path=http.path,
        query=http.query,
        query_string=http.query_string,
        headers=_joined(http.headers),
    )
    rest = {
        "limits": _without_none(
            timeout_ms=request.limits.timeout_ms,
            memory_mb=request.limits.memory_mb,
            fuel=request.limits.fuel,
        ),
        "providers": list(request.providers),
        **_without_none(
            user=_user_to_json(request.user),
            egress=list(request.egress) or None,
            callback=_callback_to_json(request.callback),
        ),
    }
    return _together(
        b'{"context":' + _dump(_context_to_json(request.context)) + b"}",
        b'{"http":' + _together(_dump(called), _body_to_json(http.body)) + b"}",
        _dump(rest),
    )


def request_from_json(data: bytes) -> ExecuteRequest:
    """The call that a gateway sent. Unknown fields are ignored.

    Raises:
        BadRequest: it is not strict JSON, or a field is missing or of the wrong type; the
            message names the field.
    """
    root = _Object.parse(data, BadRequest)
    return ExecuteRequest(
        context=_context(root.object("context")),
        http=_http(root.object("http")),
        limits=_limits(root.object("limits")),
        providers=root.texts("providers"),
        user=_user(root.object("user")) if root.has("user") else None,
        egress=root.texts("egress"),
        callback=_callback(root.object("callback")) if root.has("callback") else None,
    )


def response_to_json(response: ExecuteResponse) -> bytes:
    """*response* as an envelope; ``header_list`` is added when a header repeats.

    ``logs`` and ``timings`` are ours, too: they let an extension's author see the same,
    wherever it runs.
    """
    status, error = response.status, response.error
    if response.outcome != "ok":
        status, word = OUTCOME_ENVELOPES[response.outcome]
        error = f"{word}: {error}" if error else word
    joined = _joined(response.headers)
    rest: dict[str, Any] = {"error": error, "outcome": response.outcome}
    if len(joined) < len(response.headers):
        rest["header_list"] = [list(pair) for pair in response.headers]
    if response.logs:
        rest["logs"] = [[line.level, line.message] for line in response.logs]
    if response.timings:
        rest["timings"] = dict(response.timings)
    return _together(
        _dump({"status": status, "headers": joined}),
        _body_to_json(response.body) or b'{"body_b64":null}',
        _dump(rest),
    )


def error_to_json(error: RunnerError) -> bytes:
    """The envelope of a call that *error* ended; its text is for the gateway's log."""
    for kind, (status, word) in ERROR_WORDS.items():
        if isinstance(error, kind):
            envelope = {"status": status, "headers": {}, "body_b64": None}
            return _dump({**envelope, "error": f"{word}: {error}", "outcome": "bad_request"})
    return response_to_json(
        ExecuteResponse(error.status, outcome=outcome_of(error), error=str(error))
    )


def outcome_of(error: RunnerError) -> Outcome:
    """The outcome that says the most of *error*."""
    found = (outcome for kind, outcome in ERROR_OUTCOMES.items() if isinstance(error, kind))
    return next(found, "internal")


def response_from_json(data: bytes, max_bytes: int) -> ExecuteResponse:
    """The answer that a runner sent, parsed strictly (security §3).

    Args:
        data: the envelope.
        max_bytes: largest envelope that is looked at.

    Raises:
        BadRunnerResponse: anything in it is not as the protocol has it. No text of the runner
            is in the message.
        UnknownCapability, SecretsUnavailable: the runner says so in its ``error``.
    """
    if len(data) > max_bytes:
        raise BadRunnerResponse(f"an envelope of {len(data)} bytes, {max_bytes} allowed")
    root = _Object.parse(data, BadRunnerResponse)
    if root.has("body"):
        root.refuse("body", "not there: a body travels in body_b64")
    status = root.integer("status", low=200, high=599)
    error = root.text("error", None)
    return ExecuteResponse(
        status=status,
        headers=_response_headers(root),
        body=root.data("body_b64"),
        outcome=_outcome(root.text("outcome", None), error),
        error=error,
        logs=_logs(root),
        timings=root.numbers("timings"),
    )


def warm_up_to_json(done: WarmUp) -> bytes:
    """The answer of ``POST /warmup`` (protocol §1)."""
    return _dump({"compiled": done.compiled, "ms": done.ms})


def warm_up_from_json(data: bytes) -> WarmUp:
    """What making a bundle ready took, as a runner says it.

    Raises:
        BadRunnerResponse: it is not as the protocol has it.
    """
    root = _Object.parse(data, BadRunnerResponse)
    compiled = root.fields.get("compiled")
    if not isinstance(compiled, bool):
        root.refuse("compiled", "true or false")
    return WarmUp(compiled, root.integer("ms", low=0))


def problem_code(data: bytes) -> str:
    """The ``code`` of an ``application/problem+json``; empty where there is none."""
    try:
        code = strict_object(data, BadRunnerResponse).get("code")
    except BadRunnerResponse:
        return ""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


def bundle_from_json(data: bytes) -> Bundle:
    """The bundle that ``POST /warmup`` names.

    Raises:
        BadRequest: a field is missing or of the wrong type; the message names it.
    """
    root = _Object.parse(data, BadRequest)
    return Bundle(root.text("tenant_id"), root.text("extension_id"), root.content_hash())


def _logs(root: _Object) -> tuple[LogLine, ...]:
    pairs = root.pairs("logs")
    lines = tuple(_log_line(root, pair) for pair in pairs[:MAX_LOG_LINES])
    if (surplus := len(pairs) - len(lines)) > 0:
        return (*lines, LogLine("warn", f"{surplus} more log lines were dropped: too many"))
    return lines


def _log_line(root: _Object, pair: tuple[str, str]) -> LogLine:
    if pair[0] not in LEVELS:
        root.refuse("logs", "levels of " + ", ".join(LEVELS))
    return LogLine(pair[0], pair[1])


def _outcome(outcome: str | None, error: str | None) -> Outcome:
    """Our own runners say an outcome; of a Rust runner it is read from the error's first word."""
    meaning = _meaning(error)
    if isinstance(meaning, type):
        raise meaning("the runner said so")
    if outcome is None:
        return meaning
    if outcome not in OUTCOMES:
        raise BadRunnerResponse("the envelope's outcome is none that is known")
    return outcome


def _meaning(error: str | None) -> Outcome | type[UpstreamError]:
    if error is None:
        return "ok"
    found = ERROR_PREFIXES.get(error.partition(":")[0].strip(), "internal")
    if found == "guest_trap" and any(words in error for words in _TIMEOUT_WORDS):
        return "timeout"
    return found


def _response_headers(root: _Object) -> Headers:
    if root.has("header_list"):
        pairs = root.pairs("header_list")
    else:
        pairs = tuple(root.mapping("headers").items())
    headers.check_guest(pairs)
    return pairs


def _context_to_json(context: Context) -> dict[str, Any]:
    return _without_none(
        request_id=context.request_id,
        tenant_id=context.tenant_id,
        extension_id=context.extension_id,
        install_id=context.install_id,
        version_id=context.version_id,
        content_hash=context.content_hash,
        config=dict(context.config),
    )


def _context(found: _Object) -> Context:
    return Context(
        tenant_id=found.text("tenant_id"),
        extension_id=found.text("extension_id"),
        content_hash=found.content_hash(),
        request_id=found.text("request_id", None),
        install_id=found.text("install_id", None),
        version_id=found.text("version_id", None),
        config=found.mapping("config"),
    )


def _http(found: _Object) -> HttpRequest:
    method, path = found.text("method"), found.text("path")
    if method not in METHODS:
        found.refuse("method", " or ".join(METHODS))
    if not path.startswith("/"):
        found.refuse("path", "a path that begins with /")
    query = found.text("query_string", None)
    return HttpRequest(
        method=method,
        path=path,
        query_string=urlencode(found.mapping("query")) if query is None else query,
        headers=tuple((name.lower(), value) for name, value in found.mapping("headers").items()),
        body=found.data("body_b64"),
    )


def _limits(found: _Object) -> Limits:
    return Limits(
        timeout_ms=found.integer("timeout_ms", low=1),
        memory_mb=found.integer("memory_mb", low=1) if found.has("memory_mb") else 256,
        fuel=found.integer("fuel", low=0) if found.has("fuel") else None,
    )


def _user_to_json(user: User | None) -> dict[str, Any] | None:
    if user is None:
        return None
    return _without_none(
        user_id=user.user_id,
        user_email=user.user_email,
        user_name=user.user_name,
        user_type=user.user_type,
        client_name=user.client_name,
        client_id=user.client_id,
        additional_fields=dict(user.additional_fields) or None,
    )


def _user(found: _Object) -> User:
    return User(
        user_id=found.text("user_id"),
        user_email=found.text("user_email"),
        user_name=found.text("user_name"),
        user_type=found.text("user_type"),
        client_name=found.text("client_name", None) or found.text("company_name", None),
        client_id=found.text("client_id", None),
        additional_fields=found.mapping("additional_fields"),
    )


def _callback_to_json(callback: Callback | None) -> dict[str, str] | None:
    if callback is None:
        return None
    return {"url": callback.url, "token": callback.token.reveal()}


def _callback(found: _Object) -> Callback:
    return Callback(found.text("url"), Secret(found.text("token")))


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """One value a name, for peers that know no better (RFC 9110 §5.3)."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name.lower(), []).append(value)
    return {name: ", ".join(values) for name, values in found.items()}


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


def _body_to_json(body: bytes | None) -> bytes | None:
    # Base64 needs no escaping, and to look through a megabyte for what to escape takes longer
    # than the rest of the JSON.
    return None if body is None else b'{"body_b64":"' + base64.b64encode(body) + b'"}'


def _together(*objects: bytes | None) -> bytes:
    """One object with the fields of several, none of them empty."""
    return b"{" + b",".join(text[1:-1] for text in objects if text) + b"}"


def strict_object(data: bytes, error: Callable[[str], RunnerError]) -> dict[str, Any]:
    """One JSON object in UTF-8: no key twice, no ``NaN``.

    Raises:
        RunnerError: what *error* makes of a text that says what else it is.
    """
    try:
        # Decoded first: given bytes, json would guess UTF-16 and UTF-32 as well.
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as exc:
        raise error(f"not strict JSON in UTF-8: {type(exc).__name__}") from None
    if not isinstance(value, dict):
        raise error("not a JSON object")
    return value


def strict_base64(text: str) -> bytes:
    """The bytes of standard base64.

    Raises:
        ValueError: it is not, or not as an encoder writes it.
    """
    try:
        decoded = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise ValueError("standard base64") from None
    # Trailing bits that decoding drops would give one body several spellings.
    last = decoded[len(decoded) - (len(decoded) % 3 or 3) :]
    if not text.endswith(base64.b64encode(last).decode("ascii")):
        raise ValueError("canonical base64")
    return decoded


_REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class _Object:
    """A JSON object whose fields are read by type; a fault names its place, never its value."""

    fields: Mapping[str, Any]
    place: str
    error: Callable[[str], RunnerError]

    @classmethod
    def parse(cls, data: bytes, error: Callable[[str], RunnerError]) -> _Object:
        return cls(strict_object(data, error), "", error)

    def refuse(self, name: str, expected: str) -> NoReturn:
        found = type(self.fields[name]).__name__ if name in self.fields else "nothing"
        raise self.error(f"{self.place}{name}: found {found}; expected {expected}")

    def has(self, name: str) -> bool:
        return self.fields.get(name) is not None

    def text(self, name: str, default: Any = _REQUIRED) -> Any:
        value = self.fields.get(name)
        if value is None and default is not _REQUIRED:
            return default
        if not isinstance(value, str):
            self.refuse(name, "a string")
        return value

    def content_hash(self) -> str:
        value: str = self.text("content_hash")
        if not is_content_hash(value):
            self.refuse("content_hash", "sha256: and 64 lower-case hex digits")
        return value

    def integer(self, name: str, low: int, high: int = 2**63 - 1) -> int:
        value = self.fields.get(name)
        # A bool is an int for Python, and not for anybody else.
        if type(value) is not int or not low <= value <= high:
            self.refuse(name, f"an integer from {low} to {high}")
        return value

    def object(self, name: str) -> _Object:
        value = self.fields.get(name)
        if not isinstance(value, dict):
            self.refuse(name, "an object")
        return _Object(value, f"{self.place}{name}.", self.error)

    def mapping(self, name: str) -> dict[str, str]:
        value = self.fields.get(name, {})
        if not isinstance(value, dict) or not _are_texts(value.values()):
            self.refuse(name, "an object of strings")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.fields.get(name, [])
        if not isinstance(value, list) or not _are_texts(value):
            self.refuse(name, "a list of strings")
        return tuple(value)

    def numbers(self, name: str) -> dict[str, float]:
        value = self.fields.get(name, {})
        if not isinstance(value, dict) or not all(map(_is_duration, value.values())):
            self.refuse(name, "an object of numbers")
        if len(value) > MAX_TIMINGS or any(len(key) > MAX_TIMING_NAME for key in value):
            self.refuse(name, f"at most {MAX_TIMINGS} short names")
        return {key: float(number) for key, number in value.items()}

    def pairs(self, name: str) -> Headers:
        value = self.fields.get(name, [])
        if not isinstance(value, list) or not all(map(_is_pair, value)):
            self.refuse(name, "a list of [name, value]")
        return tuple((key, text) for key, text in value)

    def data(self, name: str) -> bytes | None:
        value = self.text(name, None)
        if value is None:
            return None
        try:
            return strict_base64(value)
        except ValueError as exc:
            self.refuse(name, str(exc))


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_duration(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e12


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _are_texts(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")
