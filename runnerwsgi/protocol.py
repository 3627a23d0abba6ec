"""The values that cross between a gateway and a runner (protocol, version 1)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args
from urllib.parse import parse_qsl

from .errors import (
    BadRunnerResponse,
    BundleUnavailable,
    GuestOutOfMemory,
    GuestTimeout,
    GuestTrap,
    UpstreamError,
)

if TYPE_CHECKING:
    from .secrets import Secret

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

Outcome = Literal[
    "ok",
    "guest_trap",
    "timeout",
    "out_of_memory",
    "out_of_fuel",
    "not_found",
    "refused",
    "bad_request",
    "internal",
]

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

# What an outcome other than `ok` is answered with (protocol §2).
OUTCOME_ERRORS: Mapping[str, type[UpstreamError]] = {
    "guest_trap": GuestTrap,
    "timeout": GuestTimeout,
    "out_of_memory": GuestOutOfMemory,
    "out_of_fuel": GuestTimeout,
    "not_found": BundleUnavailable,
    "refused": BundleUnavailable,
    "bad_request": BadRunnerResponse,
    "internal": BadRunnerResponse,
}

Level = Literal["info", "warn", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)
Headers = tuple[tuple[str, str], ...]

_EMPTY: Mapping[str, Any] = MappingProxyType({})
_CONTENT_HASH = re.compile(r"sha256:[0-9a-f]{64}")


def is_content_hash(text: str) -> bool:
    """Whether *text* is ``sha256:`` and 64 lower-case hex digits (protocol §4)."""
    return _CONTENT_HASH.fullmatch(text) is not None


class Capabilities(Protocol):
    """What a guest may ask of its host, whichever process the guest runs in.

    An engine calls this and nothing else for every interface except ``context`` and
    ``logging``, which are the request's own. In process it is the gateway's object;
    on a runner server it asks back over HTTP (protocol §7).
    """

    def call(self, interface: str, function: str, args: Sequence[Any], timeout: float) -> Any:
        """Run one host function.

        Args:
            interface: the WIT interface of ``alga:extension``, such as ``"storage"``.
            function: the WIT function, such as ``"list-entries"``.
            args: plain values: records are dicts by WIT field name, ``list<u8>`` is bytes,
                enums are strings, an absent ``option`` is None, tuples are tuples.
            timeout: seconds that are left of the call's budget.

        Returns:
            The function's plain value; for a ``result<T, E>`` the value of ``T``.

        Raises:
            CapabilityError: the function's error case, such as ``missing`` or ``denied``.
            UnknownCapability: nobody provides the interface or the function.
        """
        ...

    def ask_back(self, base: str | None) -> Callback | None:
        """How a runner elsewhere makes the same calls (protocol §7); None where it cannot.

        Args:
            base: ``RUNNER_CALLBACK_BASE``, or what a backend has in its place: the address of
                this gateway as its runner sees it, or ``unix:`` and a folder of sockets.
        """
        ...


@dataclass(frozen=True, slots=True)
class Callback:
    """Where a runner asks back, and what it shows there; for one call, until its deadline."""

    url: str
    token: Secret


@dataclass(frozen=True, slots=True)
class Context:
    """Which tenant's install of which extension a call is for (protocol §2, ``context``)."""

    tenant_id: str
    extension_id: str
    content_hash: str
    request_id: str | None = None
    install_id: str | None = None
    version_id: str | None = None
    config: Mapping[str, str] = field(default_factory=lambda: _EMPTY)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The call itself, after the header tables had their say (protocol §2, ``http``).

    ``path`` begins with ``/`` and is decoded text; ``url`` is what a guest sees.
    ``body`` is None when there was none, ``b""`` when it was empty.
    """

    method: str
    path: str
    query_string: str = ""
    headers: Headers = ()
    body: bytes | None = None

    @property
    def url(self) -> str:
        """``path[?query]``, as the guest's ``http-request.url``."""
        return f"{self.path}?{self.query_string}" if self.query_string else self.path

    @property
    def query(self) -> dict[str, str]:
        """The query with one value a name, the last one, for runners that know no better."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may use. ``timeout_ms`` is what is left of the caller's budget."""

    timeout_ms: int
    memory_mb: int = 256
    fuel: int | None = None


@dataclass(frozen=True, slots=True)
class User:
    """The calling user as a guest with ``cap:user.read`` sees them (protocol §5)."""

    user_id: str
    user_email: str = ""
    user_name: str = ""
    user_type: str = ""
    client_name: str | None = None
    client_id: str | None = None
    additional_fields: Mapping[str, str] = field(default_factory=lambda: _EMPTY)


@dataclass(frozen=True, slots=True)
class ExecuteRequest:
    """One handler call, as a backend's ``runner_execute`` gets it.

    ``callback`` is there on a runner only: how the gateway that called is asked back.

    Example::

        ExecuteRequest(
            Context("acme", "demo.notes", "sha256:" + "0" * 64),
            HttpRequest("GET", "/notes"),
            Limits(timeout_ms=5000),
        )
    """

    context: Context
    http: HttpRequest
    limits: Limits
    providers: tuple[str, ...] = ()
    user: User | None = None
    egress: tuple[str, ...] = ()
    idempotency_key: str | None = None
    traceparent: str | None = None
    callback: Callback | None = None
    capabilities: Capabilities | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of an extension's log: its own calls, stdout (info) and stderr (warn)."""

    level: Level
    message: str


@dataclass(frozen=True, slots=True)
class ExecuteResponse:
    """What came of a handler call.

    With ``outcome == "ok"`` status, headers and body are the guest's own. With any other
    outcome they mean nothing and ``error`` says, for the log only, what happened.

    Attributes:
        logs: the extension's log lines, where the backend has them.
        timings: where the time went, by phase, in milliseconds.
    """

    status: int
    headers: Headers = ()
    body: bytes | None = None
    outcome: Outcome = "ok"
    error: str | None = None
    logs: tuple[LogLine, ...] = ()
    timings: Mapping[str, float] = field(default_factory=lambda: _EMPTY)


@dataclass(frozen=True, slots=True)
class UiAsset:
    """One file of one bundle's ``ui/`` folder. ``path`` is relative, checked and decoded."""

    tenant_id: str
    extension_id: str
    content_hash: str
    path: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """Which bundle to make ready (protocol §1, ``/warmup``)."""

    tenant_id: str
    extension_id: str
    content_hash: str


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What making a bundle ready took: whether code was compiled, and milliseconds in all."""

    compiled: bool
    ms: int


@dataclass(frozen=True, slots=True)
class Health:
    """A backend's own word about itself.

    ``ok`` serves, ``degraded`` serves with something amiss, ``unavailable`` does not.
    ``checks`` holds one short text per thing looked at, shown to administrators only.
    """

    status: Literal["ok", "degraded", "unavailable"]
    checks: Mapping[str, str] = field(default_factory=lambda: _EMPTY)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `runnerwsgi doctor` looked at.

    Attributes:
        state: ``ok``; ``warn``, it works but should not stay so; ``fail``, it does not work.
        what: was looked at, in a word or two.
        found: how it is, in one line.
        fix: what to do about it, a sentence; nothing where all is well.
    """

    state: Literal["ok", "warn", "fail"]
    what: str
    found: str
    fix: str = ""
