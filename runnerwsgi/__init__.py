"""Sandboxed third-party extensions inside any WSGI application, under its one origin.

::

    from runnerwsgi import Principal, RunnerMiddleware

    def identify(environ):
        user = my_session(environ)
        return Principal("default", user.id, roles=user.roles) if user else None

    application = RunnerMiddleware.from_env(application, identify=identify)
"""

from ._version import __version__
from .access import Principal
from .errors import (
    CapabilityError,
    ConfigurationError,
    RunnerError,
)
from .gateway import Gateway
from .hookspecs import hookimpl
from .installs import Install, Installs
from .middleware import RunnerMiddleware
from .protocol import (
    ExecuteRequest,
    ExecuteResponse,
    Health,
    UiAsset,
)
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
    "Settings",
    "UiAsset",
    "__version__",
    "hookimpl",
]
