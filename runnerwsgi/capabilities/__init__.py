"""What a guest may ask of its host: which functions, under which grant, answered by whom."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from runnerwsgi.errors import (
    CapabilityError,
    ConfigurationError,
    RunnerError,
    UnknownCapability,
)
from runnerwsgi.logs import emit
from runnerwsgi.manifest import DEFAULT_GRANTS

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from runnerwsgi.access import Principal
    from runnerwsgi.claims import Claims
    from runnerwsgi.installs import Installs
    from runnerwsgi.protocol import Callback, User
    from runnerwsgi.routes import RouteGrant
    from runnerwsgi.settings import Settings

log = logging.getLogger(__name__)

# What a host function may hand to a guest: engines carry some 3 MB in one value.
MAX_BYTES = 3_000_000

# What is answered where the guest runs, wherever that is; everything else is the gateway's.
AT_THE_RUNNER = frozenset({"context", "logging", "user", "user-v2", "http"})

Functions = Mapping[str, Mapping[str, Callable[..., Any]]]

# True while the application answers a guest's `ui-proxy` call: such calls go one level deep.
inside_route: ContextVar[bool] = ContextVar("runnerwsgi_inside_route", default=False)


@dataclass(frozen=True, slots=True)
class Interface:
    """A row of the table: one WIT interface of ``alga:extension`` (protocol §5).

    Attributes:
        capability: the grant that opens it.
        functions: its functions; those without a ``result`` type have no error case.
        plain: the functions among them without one, which can only trap.
        cases: the cases of its error enum.
        denied: the case for a missing grant; None where the interface has no enum.
        failed: the case for whatever else goes wrong.
    """

    capability: str
    functions: tuple[str, ...]
    cases: tuple[str, ...] = ()
    denied: str | None = None
    failed: str = "internal"
    plain: tuple[str, ...] = ()


_READ_CASES = ("not-allowed", "invalid-input", "internal")
_USER_CASES = ("not-available", "not-allowed")
_SCHEDULE_WRITES = ("create-schedule", "update-schedule", "delete-schedule")

INTERFACES: Mapping[str, Interface] = {
    "context": Interface("cap:context.read", ("get-context",), plain=("get-context",)),
    "logging": Interface(
        "cap:log.emit",
        ("log-info", "log-warn", "log-error"),
        plain=("log-info", "log-warn", "log-error"),
    ),
    "user": Interface(
        "cap:user.read", ("get-user",), _USER_CASES, denied="not-allowed", failed="not-available"
    ),
    "user-v2": Interface(
        "cap:user.read", ("get-user",), _USER_CASES, denied="not-allowed", failed="not-available"
    ),
    "secrets": Interface(
        "cap:secrets.get",
        ("get", "list-keys"),
        ("missing", "denied", "expired", "internal"),
        denied="denied",
        plain=("list-keys",),
    ),
    "http": Interface(
        "cap:http.fetch",
        ("fetch",),
        ("invalid-url", "not-allowed", "transport", "internal"),
        denied="not-allowed",
    ),
    "storage": Interface(
        "cap:storage.kv",
        ("get", "put", "delete", "list-entries"),
        ("missing", "conflict", "denied", "internal"),
        denied="denied",
    ),
    "ui-proxy": Interface(
        "cap:ui.proxy",
        ("call-route",),
        ("route-not-found", "denied", "bad-request", "internal"),
        denied="denied",
    ),
    "scheduler": Interface(
        "cap:scheduler.manage",
        ("list-schedules", "get-schedule", *_SCHEDULE_WRITES, "get-endpoints"),
        ("not-found", "validation-failed", "quota-exceeded", "denied", "internal"),
        denied="denied",
        plain=_SCHEDULE_WRITES,
    ),
    "invoicing": Interface(
        "cap:invoice.manual.create", ("create-manual-invoice",), plain=("create-manual-invoice",)
    ),
    "clients": Interface(
        "cap:client.read", ("list-clients", "get-client"), _READ_CASES, denied="not-allowed"
    ),
    "services": Interface(
        "cap:service.read", ("list-services", "get-service"), _READ_CASES, denied="not-allowed"
    ),
}


@dataclass(frozen=True, slots=True)
class Call:
    """The first argument of every host function: for whom a guest asks.

    Example::

        def list_clients(call: Call, query):
            return clients_of(call.tenant_id, query["search"], timeout=call.timeout)

    Attributes:
        user: the caller as guests see them; None for an anonymous one.
        principal: the caller as the host application named them; None on a runner server.
        timeout: seconds that are left of the call's budget; nobody interrupts a function.
        egress: origins that this install may reach.
        routes: the application's routes that this install may call.
        nested: whether the call came out of another extension's ``ui-proxy`` call.
    """

    tenant_id: str
    extension_id: str
    install_id: str | None = None
    request_id: str | None = None
    user: User | None = None
    principal: Principal | None = None
    timeout: float = 30.0
    egress: tuple[str, ...] = ()
    routes: tuple[RouteGrant, ...] = ()
    # Looked at when the call is made: an engine runs guests in threads of its own.
    nested: bool = field(default_factory=inside_route.get)


class Door(Protocol):
    """Where a runner elsewhere asks: the gateway's route and its sockets."""

    def invite(self, call: Call, grants: Iterable[str], base: str) -> Callback | None:
        """The way there for one call, and a token that is good for its time."""
        ...


class HostCapabilities:
    """Answers one guest call's host functions, under its grants.

    Implements :class:`~runnerwsgi.protocol.Capabilities`. What a function raises never
    reaches a guest: it is logged with the request id, and the guest sees ``internal``.

    Example::

        host = HostCapabilities(call, ("cap:storage.kv",), functions)
        host.call("storage", "get", ("notes", "n1"), timeout=5.0)

    Args:
        call: for whom.
        grants: the install's capabilities; the default ones need not be among them.
        functions: who answers, by interface and function.
        door: where a runner elsewhere asks for the same; None where it cannot.
    """

    def __init__(
        self, call: Call, grants: Iterable[str], functions: Functions, door: Door | None = None
    ) -> None:
        self._call = call
        self._deadline = time.monotonic() + call.timeout
        self._door = door
        self._grants = frozenset(grants).union(DEFAULT_GRANTS)
        self._functions = functions
        self._told: set[str] = set()

    def call(self, interface: str, function: str, args: Sequence[Any], timeout: float) -> Any:
        """Run one host function (see :meth:`runnerwsgi.protocol.Capabilities.call`).

        Raises:
            CapabilityError: an error case of the interface's own enum.
            UnknownCapability: nobody provides the function, or it is not granted and has no
                error case to say so; the message names the capability.
        """
        row = interface_of(interface, function)
        found = self._find(interface, function)
        if row.capability not in self._grants:
            self._tell_denial(interface, row)
            raise not_granted(interface, function, row)
        if found is None:
            raise UnknownCapability(
                f"{interface}.{function} ({row.capability}) is provided by nobody: name a plugin "
                "that does in RUNNER_PLUGINS."
            )
        try:
            return found(replace(self._call, timeout=timeout), *args)
        except UnknownCapability:
            raise
        except CapabilityError as exc:
            raise self._checked(exc, interface, function, row) from exc
        except Exception as exc:
            self._log(f"{type(exc).__name__}: {exc}", interface, function, exc)
            raise CapabilityError(row.failed, f"{interface}.{function} failed") from exc

    def ask_back(self, base: str | None) -> Callback | None:
        """How a runner elsewhere makes the same calls (protocol §7); None where it cannot."""
        if base is None or self._door is None:
            return None
        call = replace(self._call, timeout=self._deadline - time.monotonic())
        return self._door.invite(call, sorted(self._grants), base)

    def _find(self, interface: str, function: str) -> Callable[..., Any] | None:
        return self._functions.get(interface, {}).get(function)

    def _tell_denial(self, interface: str, row: Interface) -> None:
        # Once a call and interface: a guest must not be able to fill the log.
        if interface in self._told:
            return
        self._told.add(interface)
        tell_denial(interface, row, self._call)

    def _checked(
        self, exc: CapabilityError, interface: str, function: str, row: Interface
    ) -> CapabilityError:
        if exc.case in row.cases or not row.cases:
            return CapabilityError(exc.case, str(exc))
        self._log(f"the error case {exc.case!r} is not one of its enum", interface, function, exc)
        return CapabilityError(row.failed, str(exc))

    def _log(self, text: str, interface: str, function: str, exc: BaseException) -> None:
        log.error(
            "host function %s.%s failed: %s (request_id=%s extension_id=%s tenant_id=%s)",
            interface,
            function,
            text,
            self._call.request_id,
            self._call.extension_id,
            self._call.tenant_id,
            exc_info=exc,
        )


def tell_denial(interface: str, row: Interface, whose: Call | Claims) -> None:
    """Log that a guest asked for what it was not granted."""
    emit(
        log,
        logging.WARNING,
        "capability.denied",
        interface=interface,
        capability=row.capability,
        request_id=whose.request_id,
        tenant_id=whose.tenant_id,
        extension_id=whose.extension_id,
    )


def not_granted(interface: str, function: str, row: Interface) -> RunnerError:
    """How a guest learns that it was not granted *function*: its error case, or a trap."""
    text = (
        f"{interface}.{function} needs {row.capability}, which was not granted: install the "
        f"extension with --grant {row.capability}."
    )
    if row.denied is None or function in row.plain:
        return UnknownCapability(text)
    return CapabilityError(row.denied, text)


def interface_of(interface: str, function: str) -> Interface:
    """The table's row; for an interface of a plugin's own, one opened by ``cap:<interface>``."""
    return INTERFACES.get(interface) or Interface(
        f"cap:{interface}", (function,), plain=(function,)
    )


def merge(builtin: Functions, provided: Functions) -> Functions:
    """The built-in functions, and those of plugins, which win where both have one."""
    merged = {interface: dict(functions) for interface, functions in builtin.items()}
    for interface, functions in provided.items():
        merged.setdefault(interface, {}).update(functions)
    return merged


def check_provided(plugin: str, functions: Functions) -> None:
    """Refuse functions that no guest could ever call.

    Raises:
        ConfigurationError: *plugin* spells a function of a known interface wrongly, or provides
            one of ``context`` and ``logging``, which are the engine's own.
    """
    for interface, table in functions.items():
        if interface in ("context", "logging"):
            raise ConfigurationError(f"{plugin} provides {interface}, which is the engine's own.")
        row = INTERFACES.get(interface)
        unknown = sorted(set(table).difference(row.functions)) if row else []
        if row and unknown:
            raise ConfigurationError(
                f"{plugin} provides {interface}.{unknown[0]}, which is not a function of that "
                f"interface: it has {', '.join(row.functions)}."
            )


def functions(
    app: WSGIApplication, installs: Installs, settings: Settings, provided: Functions
) -> Functions:
    """Everything a guest can call: the built-in functions and the plugins'.

    Args:
        app: the wrapped application, for ``ui-proxy``.
        installs: for ``secrets``; its database also holds ``storage``.
        settings: ``RUNNER_EGRESS_ALLOW`` and the size limits.
        provided: what plugins' ``runner_capabilities`` gave.

    Raises:
        ConfigurationError: an egress entry is wrong.
    """
    from .egress import Egress
    from .secrets import InstallSecrets
    from .storage import Storage
    from .ui_proxy import UiProxy
    from .user import FUNCTIONS as USER

    origin = next(iter(settings.public_origins), "http://localhost")
    max_bytes = min(settings.max_response_bytes, MAX_BYTES)
    providers: tuple[Functions, ...] = (
        USER,
        InstallSecrets(installs).functions(),
        Storage(installs.database).functions(),
        UiProxy(app, max_bytes=max_bytes, base_url=origin).functions(),
        Egress(settings.egress_allow, max_bytes=max_bytes).functions(),
    )
    builtin = {name: table for provider in providers for name, table in provider.items()}
    return merge(builtin, provided)
