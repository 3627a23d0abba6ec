"""Questions of guests that run elsewhere: ``{RUNNER_PUBLIC_BASE}/internal/v1`` (protocol §7)."""

from __future__ import annotations

import logging
import re
import time
from contextlib import ExitStack, contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .bulkhead import Bulkhead
from .capabilities import (
    AT_THE_RUNNER,
    INTERFACES,
    Call,
    HostCapabilities,
    interface_of,
    tell_denial,
)
from .capabilities.questions import (
    MAX_QUESTION_BYTES,
    answer_to_json,
    question_from_json,
    refusal_to_json,
)
from .claims import Claims, Seal
from .errors import (
    CapabilityError,
    CrossSite,
    Forbidden,
    NotFound,
    Overloaded,
    TooManyRequests,
    Unauthenticated,
    UnknownCapability,
)
from .protocol import Callback
from .sockets import SOCKET_KEY, Sockets
from .wsgi import Response, check_json, check_method, read_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

    from .capabilities import Functions, Interface
    from .installs import Install, Installs
    from .settings import Settings

log = logging.getLogger(__name__)

PATH = "/internal/v1"
# Over a server's own threads: one, of those that calls leave free. A nested call's questions have
# another, or the question that it came out of would keep it waiting.
SLOTS = 1

_ASKED = re.compile(r"/(?P<interface>[a-z][a-z0-9-]{0,63})/(?P<function>[a-z][a-z0-9-]{0,63})")
_BROWSER = ("HTTP_COOKIE", "HTTP_ORIGIN")
_LOCAL = frozenset(INTERFACES[name].capability for name in AT_THE_RUNNER)


class Callbacks:
    """Answers the questions of guests that run elsewhere, and tells runners how to ask.

    A question carries a token of ours: for which call, by whom, under which grants, until when.
    What it grants is held against the install as it is now.

    Example::

        callbacks = Callbacks(installs, settings, app).answering(functions)
        callback = callbacks.invite(call, install.grants, "unix:/home/app/.local/share/…/run")
        callbacks.respond("/storage/get", environ, request_id)

    Args:
        installs: which extension, with which grants; their vault has the key of the tokens.
        settings: the mount, the slots.
        app: answers on the sockets that are made here; it has ``environ["runnerwsgi.socket"]``.

    Attributes:
        path: below which everything here is.
        functions: the host functions, by interface and function.
    """

    def __init__(self, installs: Installs, settings: Settings, app: WSGIApplication) -> None:
        self.installs = installs
        self.settings = settings
        self.path = settings.mount + PATH
        self.functions: Functions = {}
        # Not from the service token: every runner knows that one.
        self._seal = Seal(lambda: installs.vault.derive("runnerwsgi callback"))
        self._slots = {nested: Bulkhead(SLOTS, SLOTS) for nested in (False, True)}
        self._sockets = Sockets(app, threads=settings.slots, max_body=MAX_QUESTION_BYTES)

    def answering(self, functions: Functions) -> Self:
        """The same doors, behind which *functions* answer: those of one gateway."""
        answering = copy(self)
        answering.functions = functions
        return answering

    def invite(self, call: Call, grants: Iterable[str], base: str) -> Callback | None:
        """Where a runner may ask for *call*, and the token for it.

        None where the grants leave nothing to ask for: what every guest may do is done where
        it runs.

        Args:
            call: its timeout is how long the token is valid.
            grants: the capabilities of the install.
            base: the origin at which the runner reaches this gateway; or ``unix:`` and a folder,
                where this process then listens on a socket.

        Raises:
            StorageError: there can be no socket in that folder, or the key cannot be read.
        """
        asked = tuple(capability for capability in grants if capability not in _LOCAL)
        if not asked:
            return None
        claims = Claims(
            tenant_id=call.tenant_id,
            extension_id=call.extension_id,
            install_id=call.install_id,
            request_id=call.request_id,
            principal=call.principal,
            capabilities=asked,
            nested=call.nested,
            expires=time.time() + call.timeout,
        )
        return Callback(self._url(base), self._seal.sign(claims))

    def respond(self, rest: str, environ: WSGIEnvironment, request_id: str) -> Response:
        """Answer one question that came through the application's own server.

        Args:
            rest: the path below ``{RUNNER_PUBLIC_BASE}/internal/v1``.
            environ: the request's.
            request_id: ours.

        Raises:
            RunnerError: it was not one, or not one that is answered.
        """
        _check_peer(environ)
        claims = self._seal.read(_bearer(environ))
        found = _ASKED.fullmatch(rest)
        if found is None or found["interface"] in AT_THE_RUNNER:
            raise NotFound("no function that is asked back is named")
        check_method(environ, ("POST",))
        interface, function = found["interface"], found["function"]
        row = interface_of(interface, function)
        install = self._install(claims)
        _check_grant(interface, row, claims, install)
        if function not in self.functions.get(interface, {}):
            raise NotFound(f"{interface}.{function} is provided by nobody here")
        args = question_from_json(interface, function, _read_question(environ))
        with self._slot(claims, environ):
            answer = self._ask(interface, function, row, args, _call(claims, install), install)
        return Response(
            200, [("Content-Type", "application/json"), ("Cache-Control", "no-store")], answer
        )

    def close(self) -> None:
        """Stop listening on sockets."""
        self._sockets.close()

    def _url(self, base: str) -> str:
        if not base.startswith("unix:"):
            return base + self.path
        return f"unix://{self._sockets.name_in(Path(base.removeprefix('unix:')))}{self.path}"

    @contextmanager
    def _slot(self, claims: Claims, environ: WSGIEnvironment) -> Iterator[None]:
        """Hold a slot, where a host thread is held: our own socket has its own threads."""
        with ExitStack() as held:
            if SOCKET_KEY not in environ:
                try:
                    held.enter_context(self._slots[claims.nested].slot(claims.extension_id))
                except Overloaded as exc:
                    raise TooManyRequests(f"another question is being answered: {exc}") from exc
            yield

    def _ask(
        self,
        interface: str,
        function: str,
        row: Interface,
        args: tuple[Any, ...],
        call: Call,
        install: Install,
    ) -> bytes:
        host = HostCapabilities(call, install.grants, self.functions)
        try:
            value = host.call(interface, function, args, call.timeout)
            return answer_to_json(interface, value)
        except CapabilityError as exc:
            return refusal_to_json(exc.case)
        except UnknownCapability as exc:
            raise NotFound(str(exc)) from exc
        except ValueError:
            log.exception("the answer of %s.%s is no value of WIT", interface, function)
            return refusal_to_json(row.failed)

    def _install(self, claims: Claims) -> Install:
        """The install of the call, as it is now."""
        install = self.installs.find(claims.tenant_id, claims.extension_id)
        if install is None or install.install_id != claims.install_id:
            raise Forbidden("the install of the call is gone")
        return install


def _check_grant(interface: str, row: Interface, claims: Claims, install: Install) -> None:
    """Hold what was granted when the call began against what is granted now."""
    if row.capability in claims.capabilities and row.capability in install.grants:
        return
    tell_denial(interface, row, claims)
    raise Forbidden(f"{row.capability} was not granted")


def _check_peer(environ: WSGIEnvironment) -> None:
    """Refuse browsers, and whoever is in one: a runner sends none of this."""
    if any(key in environ for key in _BROWSER) or any(
        key.startswith("HTTP_SEC_FETCH_") for key in environ
    ):
        raise CrossSite("a question that a browser could have sent")


def _bearer(environ: WSGIEnvironment) -> str:
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("a question without a token", detail="A token is missing.")
    return str(token)


def _read_question(environ: WSGIEnvironment) -> bytes:
    check_json(environ)
    return read_body(environ, MAX_QUESTION_BYTES) or b""


def _call(claims: Claims, install: Install) -> Call:
    principal = claims.principal
    return Call(
        tenant_id=claims.tenant_id,
        extension_id=claims.extension_id,
        install_id=claims.install_id,
        request_id=claims.request_id,
        user=principal.to_user() if principal else None,
        principal=principal,
        timeout=claims.expires - time.time(),
        egress=install.egress,
        routes=install.routes,
        nested=claims.nested,
    )
