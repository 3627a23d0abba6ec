"""RunnerMiddleware: one origin for an application and its extensions."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from . import access, capabilities, paths, switch
from .assets import Assets
from .bulkhead import Bulkhead
from .callbacks import Callbacks
from .errors import RunnerError
from .execute import Handlers
from .installs import Installs
from .leases import Lease, Leases
from .logs import emit
from .pages import ExtensionPages
from .settings import Settings
from .stores import root_of
from .switch import Switch
from .switchboard import Switchboard
from .wsgi import Response, new_request_id, refused

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from .gateway import Gateway

log = logging.getLogger(__name__)

# How much longer than a call may take a replaced gateway is kept for those who still use it.
RETIRE_S = 5.0


@dataclass(frozen=True, slots=True)
class Service:
    """One gateway and the surfaces that answer with it.

    Attributes:
        surfaces: who answers under which mount: pages, handlers, questions.
    """

    gateway: Gateway
    surfaces: Mapping[str, ExtensionPages | Handlers | Callbacks]


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
        self.settings = settings = settings or Settings()
        settings.make_home()
        self.installs = installs or Installs.from_settings(settings)
        self.identify = identify or access.identifier(settings)
        self._assets = Assets(root_of(settings), settings.max_asset_bytes, settings.fetches)
        self._bulkhead = Bulkhead(settings.slots, settings.slots_per_extension)
        self._callbacks = Callbacks(self.installs, settings, self.questions)
        # The first that fits counts: questions come to a place below the pages'.
        self._prefixes = (self._callbacks.path, settings.mount, settings.execute_mount)
        self.gateway = gateway
        self._services = Leases(self._service(gateway))
        self._retired: list[Lease[Service]] = []
        self._switchboard = Switchboard(self.installs.database)
        self._switch = Switch(self._switchboard, gateway.backend_name, gateway, self._take_over)

    @classmethod
    def from_env(
        cls,
        app: WSGIApplication,
        identify: access.Identify | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Self:
        """Wrap *app* as the ``RUNNER_*`` variables say.

        Its backend can be changed while it runs, by ``runnerwsgi switch``.

        Raises:
            ConfigurationError: with every fault of the environment, told together.
        """
        env = dict(os.environ if env is None else env)
        settings, gateway, number = switch.begin(env)
        made = cls(app, gateway, identify=identify, settings=settings)
        made._switch = Switch(
            made._switchboard,
            settings.backend,
            gateway,
            made._take_over,
            lambda backend: switch.load(settings, env, backend),
            number,
        )
        return made

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request of ours, hand every other one to the application (PEP 3333)."""
        path = environ.get("PATH_INFO") or ""
        if path.startswith(self._prefixes):
            for mount in self._prefixes:
                if (rest := paths.under(mount, path)) is not None:
                    return self._respond(mount, rest, environ)(environ, start_response)
        environ["runnerwsgi.gateway"] = self.gateway
        return self.app(environ, start_response)

    def questions(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer the questions of guests that run elsewhere, and nothing else.

        An application of its own: for a server on an address that runners reach and nobody
        else does.
        """
        path = self._callbacks.path
        rest = paths.under(path, environ.get("PATH_INFO") or "") or ""
        return self._respond(path, rest, environ)(environ, start_response)

    def close(self) -> None:
        """Close the gateway, its backend and every connection."""
        self._switch.close()
        for lease in tuple(self._retired):
            lease.value.gateway.close()
        self.gateway.close()
        self._callbacks.close()
        self._assets.close()
        self.installs.close()

    def _service(self, gateway: Gateway) -> Service:
        """What answers with *gateway*; shares with its predecessor what is the process's."""
        settings, identify, installs = self.settings, self.identify, self.installs
        functions = capabilities.functions(self.app, installs, settings, gateway.capabilities)
        callbacks = self._callbacks.answering(functions)
        pages = ExtensionPages(gateway, identify, installs, self._assets, settings)
        handlers = Handlers(
            gateway, identify, installs, functions, settings, self._bulkhead, callbacks
        )
        gateway.serve_pages(pages)
        return Service(
            gateway,
            {
                callbacks.path: callbacks,
                settings.mount: pages,
                settings.execute_mount: handlers,
            },
        )

    def _take_over(self, gateway: Gateway) -> None:
        """Answer with *gateway* from the next request on."""
        retired = self._services.replace(self._service(gateway))
        self._retired.append(retired)
        self.gateway = gateway
        threading.Thread(
            target=self._retire, args=(retired,), name="runnerwsgi-retire", daemon=True
        ).start()

    def _retire(self, retired: Lease[Service]) -> None:
        """Close a replaced gateway once the last request that began with it has its answer."""
        limit = self.settings.timeout_ms / 1000 + RETIRE_S
        backend = retired.value.gateway.backend_name
        if not self._services.wait(retired, limit):
            emit(log, logging.WARNING, "backend_closed_in_use", backend=backend, after_s=limit)
        retired.value.gateway.hand_over(lambda: self.gateway)
        self._retired.remove(retired)

    def _respond(self, mount: str, rest: str, environ: WSGIEnvironment) -> Response:
        self._switch.tick()
        # A request keeps the gateway that it began with, whatever takes over meanwhile.
        with self._services.hold() as service:
            return self._answer(service, mount, rest, environ)

    def _answer(
        self, service: Service, mount: str, rest: str, environ: WSGIEnvironment
    ) -> Response:
        request_id, backend = new_request_id(), service.gateway.backend_name
        try:
            response = service.surfaces[mount].respond(rest, environ, request_id)
        except RunnerError as error:
            response = refused(log, error, environ, request_id, backend)
        except Exception as exc:
            log.exception("internal error request_id=%s", request_id)
            response = refused(log, RunnerError(repr(exc)), environ, request_id, backend)
        response.headers.append(("X-Request-Id", request_id))
        response.headers.append(("X-Runner-Backend", backend))
        return response
