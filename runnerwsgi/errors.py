"""Every error of runnerwsgi, its HTTP status, its code and its advice.

::

    RunnerError                     anything of ours that fails
    ├── ConfigurationError          a setting, a plugin or a hook is wrong         500
    ├── BundleError                 an archive or a manifest is refused
    ├── StorageError                the disk or the database failed                503
    ├── CapabilityError             a host function says no; carries the WIT enum case
    ├── RequestError                the client's request
    │   ├── BadRequest 400 · BadPath 400 · BadHeader 400
    │   ├── Unauthenticated 401 · Forbidden 403 · CrossSite 403 · NotFound 404
    │   ├── MethodNotAllowed 405 · BodyTooLarge 413 · UriTooLong 414
    │   ├── UnsupportedMediaType 415 · HeaderTooLarge 431
    │   └── IdempotencyMismatch 422
    ├── Refused                     we could, but not now; carries ``retry_after``
    │   ├── TooManyRequests 429 · IdempotencyInFlight 409
    │   └── Overloaded 503 · BackendStarting 503
    ├── IdentityUnavailable         the host's ``identify`` or an authoriser raised 503
    └── UpstreamError               the backend, the runner or the guest failed
        ├── BackendUnreachable 502 · BadRunnerResponse 502 · BundleUnavailable 502
        ├── GuestTrap 502 · GuestOutOfMemory 502
        ├── UnknownCapability 502 · SecretsUnavailable 502
        └── DeadlineExceeded 504 · GuestTimeout 504 · OutcomeUnknown 504

A class says what kind of failure it is; its message says what failed, what was
found and what to do. Only ``title`` and ``detail`` ever reach a client: ``detail``
defaults to the class's own advice, so that no text of a runner, a guest or a
foreign exception can leak by accident.
"""

from __future__ import annotations

from typing import ClassVar


class RunnerError(Exception):
    """Anything of runnerwsgi that fails.

    Attributes:
        status: the HTTP status this error is answered with.
        code: the stable, kebab-case name clients may switch on.
        title: one short phrase, the same for every error of this code.
        advice: what the reader can do about it; safe to show to anybody.
        detail: what a client is told about this one failure (default: ``advice``).
        idempotency_key: with which a call may be sent again that may have been executed, or whose
            way to the runner may have repeated it: where the runner keeps keys, it is executed at
            most once.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    advice: ClassVar[str] = (
        "Something failed inside the gateway. The request id finds it in the log."
    )
    idempotency_key: str | None = None

    def __init__(self, message: str = "", *, detail: str | None = None) -> None:
        super().__init__(message or self.title)
        self.detail = detail if detail is not None else self.advice


class ConfigurationError(RunnerError):
    """A setting, a plugin or a hook is wrong; raised at start wherever that is possible.

    Attributes:
        faults: every fault found, one sentence each, told together.
    """

    code = "misconfigured"
    title = "Misconfigured"
    advice = "The gateway is not set up correctly. `runnerwsgi doctor` says what is wrong."

    def __init__(self, message: str = "", *, faults: tuple[str, ...] = ()) -> None:
        self.faults = faults or (message,)
        super().__init__(message or "\n".join(self.faults))


class BundleError(RunnerError):
    """An archive or a manifest that is refused as a whole; nothing of it was kept."""

    status = 502
    code = "bundle-unavailable"
    title = "Bundle unavailable"
    advice = "The extension's bundle is missing or damaged. Install it again."


class StorageError(RunnerError):
    """The disk or the database failed: full, read-only or gone. Nothing was half written."""

    status = 503
    code = "storage-unavailable"
    title = "Storage unavailable"
    advice = "The gateway cannot read or write its data. Check RUNNER_HOME and RUNNER_DATABASE_URL."


class CapabilityError(RunnerError):
    """A host function's refusal, as its WIT interface spells it (protocol §5).

    Args:
        case: a case of the interface's error enum: ``missing``, ``denied``, ``internal`` …
        message: for the log; a guest sees the case and nothing else.
    """

    code = "capability-refused"
    title = "Capability refused"

    def __init__(self, case: str, message: str = "") -> None:
        super().__init__(message or case)
        self.case = case


class RequestError(RunnerError):
    """The client's request cannot be served as it is."""

    status = 400
    code = "bad-request"
    title = "Bad request"
    advice = "The request is malformed."


class BadRequest(RequestError):
    """The request breaks HTTP's or our rules in a way that has no name of its own."""


class BadPath(RequestError):
    """The path has a dot segment, a control character, a backslash or invalid UTF-8."""

    code = "bad-path"
    title = "Bad path"
    advice = (
        "The path is not allowed: no dot segments, backslashes, control characters or bad UTF-8."
    )


class BadHeader(RequestError):
    """A header value has a control character, or a header that must be single is a list."""

    code = "bad-header"
    title = "Bad header"
    advice = "A request header is malformed."


class Unauthenticated(RequestError):
    """The host application's ``identify`` named nobody."""

    status = 401
    code = "unauthenticated"
    title = "Not signed in"
    advice = "Sign in to the application first."


class Forbidden(RequestError):
    """The caller is known and may not do this."""

    status = 403
    code = "forbidden"
    title = "Forbidden"
    advice = "You are not allowed to do this."


class CrossSite(RequestError):
    """The request came from another site, or a page wants to load an extension's code."""

    status = 403
    code = "cross-site"
    title = "Cross-site request refused"
    advice = "Extensions are called from the application's own pages, through its bridge."


class NotFound(RequestError):
    """No such thing, or not installed for the caller: one answer for both."""

    status = 404
    code = "not-found"
    title = "Not found"
    advice = "There is no such extension, version or file here."


class MethodNotAllowed(RequestError):
    """The method is not served here.

    Attributes:
        allow: the methods that are, for the ``Allow`` header (RFC 9110 §15.5.6).
    """

    status = 405
    code = "method-not-allowed"
    title = "Method not allowed"
    advice = "Use one of the methods that the Allow header names."

    def __init__(self, allow: tuple[str, ...], message: str = "") -> None:
        super().__init__(message)
        self.allow = allow


class BodyTooLarge(RequestError):
    """The request's body is above ``RUNNER_MAX_BODY_BYTES`` or what the engine can carry."""

    status = 413
    code = "body-too-large"
    title = "Body too large"
    advice = "Send a smaller body."


class UriTooLong(RequestError):
    """The path is above 2 KiB or the query above 8 KiB (RFC 9110 §15.5.15)."""

    status = 414
    code = "uri-too-long"
    title = "URI too long"
    advice = "Use a path of at most 2 KiB and a query of at most 8 KiB."


class UnsupportedMediaType(RequestError):
    """The body is encoded; extensions get bodies as they are (RFC 9110 §15.5.16)."""

    status = 415
    code = "unsupported-media-type"
    title = "Unsupported media type"
    advice = "Send the body without Content-Encoding."


class HeaderTooLarge(RequestError):
    """More than 100 header fields, or more than 32 KiB of them (RFC 6585 §5)."""

    status = 431
    code = "header-too-large"
    title = "Header too large"
    advice = "Send fewer or shorter headers."


class IdempotencyMismatch(RequestError):
    """The idempotency key was used before, for another request: a mistake of the client's."""

    status = 422
    code = "idempotency-mismatch"
    title = "Idempotency key already used"
    advice = "This Idempotency-Key belongs to another request. Use a new key for a new request."


class Refused(RunnerError):
    """Not now: the answer carries ``Retry-After``.

    Attributes:
        retry_after: whole seconds after which a new try makes sense.
        soon: whether one makes sense at once, since another process may take it.
    """

    status = 503
    code = "overloaded"
    title = "Overloaded"
    advice = "Too many extension calls are running. Try again shortly."

    def __init__(self, message: str = "", *, retry_after: int = 1, soon: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.soon = soon


class TooManyRequests(Refused):
    """This caller or this extension has used up its share (RFC 6585 §4)."""

    status = 429
    code = "too-many-requests"
    title = "Too many requests"
    advice = "Slow down and try again."


class IdempotencyInFlight(Refused):
    """The first request with this idempotency key is still being executed."""

    status = 409
    code = "idempotency-in-flight"
    title = "Request still running"
    advice = "The first request with this Idempotency-Key is still running. Ask again shortly."


class Overloaded(Refused):
    """The bulkhead is full: no host thread is given to another runner call."""


class BackendStarting(Refused):
    """The backend is not ready yet; nothing was executed."""

    code = "backend-starting"
    title = "Backend starting"
    advice = "The extension runner is starting. Try again shortly."


class IdentityUnavailable(RunnerError):
    """``identify`` or an authoriser raised: nobody is let in on a guess."""

    status = 503
    code = "identity-unavailable"
    title = "Identity unavailable"
    advice = "The application could not say who is calling. Try again."


class UpstreamError(RunnerError):
    """The backend, the runner or the guest failed."""

    status = 502
    code = "bad-runner-response"
    title = "Bad answer from the extension runner"
    advice = "The extension's runner answered with something that is not allowed."


class BackendUnreachable(UpstreamError):
    """Refused, no such name, no route: nothing was executed.

    Attributes:
        reason: ``name`` (there is none), ``refused`` (nobody listens, or no way there), ``tls``,
            ``lost`` (the connection ended before the request was sent), or ``route`` (what
            stands before the runner has no way to it).
    """

    code = "backend-unreachable"
    title = "Backend unreachable"
    advice = "The extension runner cannot be reached."

    def __init__(self, message: str = "", *, reason: str = "refused") -> None:
        super().__init__(message)
        self.reason = reason


class BadRunnerResponse(UpstreamError):
    """The runner's or the guest's answer breaks the protocol; none of its text is shown."""


class BundleUnavailable(UpstreamError):
    """The bundle is missing, unreachable or of another hash.

    Attributes:
        missing: its store was asked, and does not have it.
    """

    code = "bundle-unavailable"
    title = "Bundle unavailable"
    advice = "The extension's bundle is missing or damaged. Install it again."

    def __init__(self, message: str = "", *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


class GuestTrap(UpstreamError):
    """The extension's code failed: it trapped or called what nobody provides."""

    code = "guest-trap"
    title = "The extension failed"
    advice = "The extension stopped with an error. Its author finds it by the request id."


class GuestOutOfMemory(UpstreamError):
    """The extension asked for more memory than its limit."""

    code = "guest-out-of-memory"
    title = "The extension ran out of memory"
    advice = "The extension needs more memory than it may use (RUNNER_MEMORY_MB)."


class UnknownCapability(UpstreamError):
    """The install grants a capability that the runner does not have."""

    code = "unknown-capability"
    title = "Unknown capability"
    advice = "The extension needs a capability that its runner does not provide."


class SecretsUnavailable(UpstreamError):
    """The install's secrets cannot be decrypted."""

    code = "secrets-unavailable"
    title = "Secrets unavailable"
    advice = "The extension's secrets cannot be read. Install them again."


class DeadlineExceeded(UpstreamError):
    """Our own time limit for the whole exchange was reached.

    Attributes:
        sent: the whole request had left us: it may have been executed.
    """

    status = 504
    code = "deadline-exceeded"
    title = "Deadline exceeded"
    advice = "The extension's runner did not answer in time (RUNNER_TIMEOUT_MS)."

    def __init__(self, message: str = "", *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class OutcomeUnknown(UpstreamError):
    """A request was sent and no whole answer came: nobody can tell whether it was executed.

    Attributes:
        final: to ask at once again is no use, since our time is over or the runner knows no more.
    """

    status = 504
    code = "outcome-unknown"
    title = "Outcome unknown"
    advice = "The extension's runner did not finish its answer: the call may have been executed."

    def __init__(self, message: str = "", *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class GuestTimeout(UpstreamError):
    """The extension's code used up its time."""

    status = 504
    code = "guest-timeout"
    title = "The extension took too long"
    advice = "The extension did not finish in time."


def all_errors() -> tuple[type[RunnerError], ...]:
    """Every error class of this module, parents before children; the reference page shows them."""
    found: list[type[RunnerError]] = []
    queue: list[type[RunnerError]] = [RunnerError]
    while queue:
        cls = queue.pop(0)
        found.append(cls)
        queue.extend(sub for sub in cls.__subclasses__() if sub.__module__ == __name__)
    return tuple(found)
