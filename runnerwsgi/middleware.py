"""RunnerMiddleware: one origin for an application and its extensions."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Self

from . import access, capabilities, paths
from .assets import Assets
from .bundles import BundleStore
from .errors import RunnerError
from .execute import Handlers
from .gateway import Gateway
from .installs import Installs
from .logs import emit
from .pages import ExtensionPages
from .settings import Settings
from .wsgi import Response, new_request_id, problem

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)


class RunnerMiddleware:
    """Wraps a WSGI application and answers for its extensions, before it and beside it.

    A request that is not under one of our two mounts reaches the application with the same
    environ object, to which one key is added: ``environ["runnerwsgi.gateway"]``.

    Example::

        application = RunnerMiddleware.from_env(application, identify=who_is_signed_in)

    Args:
        app: the application.
        gateway: the backend and its observers.
        identify: says who calls, from the environ: a Principal, or None for nobody. Without
            it, ``RUNNER_IDENTITY`` decides, and without that nobody is let in.
        installs: which extensions are installed; default: those of the settings' database.
        settings: default: ``Settings()``, which reads no environment.
    """

    def __init__(
        self,
        app: WSGIApplication,
        gateway: Gateway,
        *,
        identify: access.Identify | None = None,
        installs: Installs | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.app = app
        self.gateway = gateway
        self.settings = settings = settings or Settings()
        settings.make_home()
        self.installs = installs = installs or Installs.from_settings(settings)
        self.identify = identify = identify or access.identifier(settings)
        assets = Assets(BundleStore.from_url(settings.bundle_store).root, settings.max_asset_bytes)
        functions = capabilities.functions(app, installs, settings, gateway.capabilities)
        self._assets = assets
        self._handlers = Handlers(gateway, identify, installs, functions, settings)
        self._pages = ExtensionPages(gateway, identify, installs, assets, settings)
        self._prefixes = (settings.mount, settings.execute_mount)
        gateway.serve_pages(self._pages)

    @classmethod
    def from_env(
        cls,
        app: WSGIApplication,
        identify: access.Identify | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Self:
        """Wrap *app* as the ``RUNNER_*`` variables say.

        Raises:
            ConfigurationError: with every fault of the environment, told together.
        """
        env = os.environ if env is None else env
        settings, gateway = Gateway.configure(env)
        return cls(app, gateway, identify=identify, settings=settings)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request of ours, hand every other one to the application (PEP 3333)."""
        path = environ.get("PATH_INFO") or ""
        if path.startswith(self._prefixes) and (surface := self._surface(path)):
            return self._respond(surface, environ)(environ, start_response)
        environ["runnerwsgi.gateway"] = self.gateway
        return self.app(environ, start_response)

    def close(self) -> None:
        """Close the gateway, its backend and every connection."""
        self.gateway.close()
        self._assets.close()
        self.installs.close()

    def _surface(self, path: str) -> Callable[[WSGIEnvironment, str], Response] | None:
        """Which of our two surfaces *path* lies on: pages, handlers, or neither."""
        if (rest := paths.under(self.settings.mount, path)) is not None:
            return partial(self._pages.respond, rest)
        if (rest := paths.under(self.settings.execute_mount, path)) is not None:
            return partial(self._handlers.respond, rest)
        return None

    def _respond(
        self, surface: Callable[[WSGIEnvironment, str], Response], environ: WSGIEnvironment
    ) -> Response:
        request_id = new_request_id()
        try:
            response = surface(environ, request_id)
        except RunnerError as error:
            response = self._refuse(error, environ, request_id)
        except Exception as exc:
            log.exception("internal error request_id=%s", request_id)
            response = self._refuse(RunnerError(repr(exc)), environ, request_id)
        response.headers.append(("X-Request-Id", request_id))
        response.headers.append(("X-Runner-Backend", self.gateway.backend_name))
        return response

    def _refuse(self, error: RunnerError, environ: WSGIEnvironment, request_id: str) -> Response:
        emit(
            log,
            logging.ERROR if error.status >= 500 else logging.INFO,
            "refused",
            backend=self.gateway.backend_name,
            request_id=request_id,
            status=error.status,
            code=error.code,
            method=environ.get("REQUEST_METHOD"),
            path=environ.get("PATH_INFO"),
            error=error,
        )
        return problem(error, request_id, self.gateway.backend_name)
