"""Sandboxed third-party extensions inside any WSGI application, under its one origin.

::

    from runnerwsgi import Principal, RunnerMiddleware

    def identify(environ):
        user = my_session(environ)
        return Principal("default", user.id, roles=user.roles) if user else None

    application = RunnerMiddleware.from_env(application, identify=identify)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .access import Principal
    from .errors import CapabilityError, ConfigurationError, RunnerError
    from .gateway import Gateway
    from .hookspecs import hookimpl
    from .installs import Install, Installs
    from .middleware import RunnerMiddleware
    from .protocol import ExecuteRequest, ExecuteResponse, Health, UiAsset
    from .server import RunnerServer
    from .settings import Settings

__all__ = [
    "CapabilityError",
    "ConfigurationError",
    "ExecuteRequest",
    "ExecuteResponse",
    "Gateway",
    "Health",
    "Install",
    "Installs",
    "Principal",
    "RunnerError",
    "RunnerMiddleware",
    "RunnerServer",
    "Settings",
    "UiAsset",
    "__version__",
    "hookimpl",
]

# Imported when first used: a plugin that wants `hookimpl`, or `runnerwsgi --help`, need not
# wait for the database library.
_HOMES = {
    "CapabilityError": "errors",
    "ConfigurationError": "errors",
    "ExecuteRequest": "protocol",
    "ExecuteResponse": "protocol",
    "Gateway": "gateway",
    "Health": "protocol",
    "Install": "installs",
    "Installs": "installs",
    "Principal": "access",
    "RunnerError": "errors",
    "RunnerMiddleware": "middleware",
    "RunnerServer": "server",
    "Settings": "settings",
    "UiAsset": "protocol",
    "hookimpl": "hookspecs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
