"""Who calls, and may they: identity, cross-site rules, access levels. All of it fails closed."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from . import headers
from .errors import (
    BadHeader,
    BadRequest,
    ConfigurationError,
    CrossSite,
    Forbidden,
    IdentityUnavailable,
    MethodNotAllowed,
    NotFound,
    RequestError,
    Unauthenticated,
)
from .protocol import SAFE_METHODS, User

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .manifest import Manifest
    from .settings import Settings

log = logging.getLogger(__name__)

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_FORWARDING = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_HOST", "HTTP_X_REAL_IP")
_CODE_DESTINATIONS = frozenset(
    (
        "script",
        "style",
        "worker",
        "sharedworker",
        "serviceworker",
        "object",
        "embed",
        "xslt",
        "manifest",
    )
)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, as the host application says it.

    Example::

        Principal("acme", "u1", roles={"admin"}, user_name="Ada", credential="bearer")

    Attributes:
        tenant_id: whose installs are used. Empty means nobody.
        user_id: who, within the tenant; None is an anonymous caller, who reaches routes
            with the access level ``public`` and no others.
        roles: ``admin`` opens routes with the access level ``admin``.
        credential: ``ambient`` where a browser sends it by itself (a cookie), ``bearer``
            where the caller attached it on purpose. The cross-site rules depend on it.
    """

    tenant_id: str
    user_id: str | None
    roles: frozenset[str] = frozenset()
    user_email: str = ""
    user_name: str = ""
    user_type: str = "internal"
    client_name: str | None = None
    client_id: str | None = None
    additional_fields: Mapping[str, str] = field(default_factory=dict)
    credential: Literal["ambient", "bearer"] = "ambient"

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", frozenset(self.roles))
        for name in ("tenant_id", "user_id"):
            value = getattr(self, name) or ""
            if not isinstance(value, str) or not headers.is_value(value) or len(value) > 256:
                raise ConfigurationError(
                    f"Principal.{name} must be a text of at most 256 characters without "
                    f"controls; found {headers.printable(repr(value))}."
                )

    @property
    def is_admin(self) -> bool:
        """Whether the caller has the role ``admin``."""
        return "admin" in self.roles

    def to_user(self) -> User | None:
        """The caller as a guest sees them; None for an anonymous one."""
        if self.user_id is None:
            return None
        return User(
            self.user_id,
            self.user_email,
            self.user_name,
            self.user_type,
            self.client_name,
            self.client_id,
            self.additional_fields,
        )


Identify = Callable[["WSGIEnvironment"], Principal | None]


def identifier(settings: Settings) -> Identify:
    """The ``identify`` that ``RUNNER_IDENTITY`` chooses; without it, one that knows nobody."""
    if settings.identity == "local":
        log.warning(
            "RUNNER_IDENTITY=local: every caller on this machine is the administrator `local` of "
            "tenant `default`. For development only."
        )
        return identify_local
    if settings.identity == "header":
        return TrustedHeader(settings.identity_header or "", settings.trusted_proxies)
    return identify_nobody


def identify_nobody(environ: WSGIEnvironment) -> Principal | None:
    """Nobody is let in by default."""
    return None


def identify_local(environ: WSGIEnvironment) -> Principal | None:
    """A developer's own machine: a loopback peer, a loopback Host and no proxy in between."""
    host = environ.get("HTTP_HOST", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if not _is_loopback(environ.get("REMOTE_ADDR", "")) or name not in _LOOPBACK_NAMES:
        return None
    if any(key in environ for key in _FORWARDING):
        return None
    return Principal("default", "local", roles=frozenset({"admin"}), user_name="Local developer")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class TrustedHeader:
    """A proxy in front names the tenant in a header, and strips it from clients' requests.

    Example::

        TrustedHeader("X-Auth-Tenant", ("10.0.0.5",))
    """

    def __init__(self, header: str, proxies: Iterable[str]) -> None:
        self.key = "HTTP_" + header.upper().replace("-", "_")
        self.user_key = self.key + "_USER"
        self.proxies = frozenset(proxies)

    def __call__(self, environ: WSGIEnvironment) -> Principal | None:
        """The tenant that a trusted proxy names, or nobody."""
        if environ.get("REMOTE_ADDR") not in self.proxies:
            return None
        tenant = self._single(environ, self.key)
        user = self._single(environ, self.user_key) or "proxy"
        return Principal(tenant, user) if tenant else None

    @staticmethod
    def _single(environ: WSGIEnvironment, key: str) -> str:
        value: str = environ.get(key, "").strip()
        if "," in value:
            raise BadHeader(f"{key} has more than one value")
        return value


def who(identify: Identify, environ: WSGIEnvironment) -> Principal:
    """Ask the host application who calls.

    Raises:
        Unauthenticated: nobody.
        IdentityUnavailable: the host's function raised.
        ConfigurationError: it returned something else than a Principal or None.
    """
    try:
        principal = identify(environ)
    except (RequestError, ConfigurationError):
        raise
    except Exception as exc:
        raise IdentityUnavailable(f"identify raised {type(exc).__name__}") from exc
    if principal is not None and not isinstance(principal, Principal):
        raise ConfigurationError(
            f"identify returned {type(principal).__name__}; return a Principal or None."
        )
    if principal is None or not principal.tenant_id:
        raise Unauthenticated("identify named nobody")
    return principal


def check_host(environ: Mapping[str, Any]) -> None:
    """Refuse a ``Host`` that is a list or carries userinfo or a path.

    Raises:
        BadRequest: it does.
    """
    host = environ.get("HTTP_HOST")
    if host and not _HOST.fullmatch(host):
        raise BadRequest(f"malformed Host {headers.printable(host)}")


def check_site(environ: Mapping[str, Any], principal: Principal, origins: Iterable[str]) -> None:
    """Refuse handler calls that another site could have caused (security §1.5).

    Raises:
        CrossSite: a cross-site or same-site call, a navigation, a subresource, or an unsafe
            method with an ambient credential and no proof of the application's own origin.
    """
    site, origin = environ.get("HTTP_SEC_FETCH_SITE"), environ.get("HTTP_ORIGIN")
    if environ.get("HTTP_SEC_FETCH_MODE") == "navigate":
        raise CrossSite("a navigation to a handler")
    if environ.get("HTTP_SEC_FETCH_DEST", "empty") != "empty":
        raise CrossSite("a subresource load of a handler")
    if site is not None and site not in ("same-origin", "none"):
        raise CrossSite(f"Sec-Fetch-Site {headers.printable(site)}")
    if origin is not None and not _is_own(origin, site, tuple(origins)):
        raise CrossSite(f"Origin {headers.printable(origin)}")
    if environ["REQUEST_METHOD"] in SAFE_METHODS or principal.credential == "bearer":
        return
    if site != "same-origin" and origin is None:
        raise CrossSite("an unsafe method without Sec-Fetch-Site: same-origin or an Origin")


def _is_own(origin: str, site: str | None, origins: tuple[str, ...]) -> bool:
    if origin in origins:
        return True
    # Behind a proxy the public origin is not ours to guess: where none is configured, the
    # browser's own word has to do, and the opaque origin `null` never counts as ours.
    return site == "same-origin" and not origins and origin != "null"


def check_asset_site(environ: Mapping[str, Any]) -> None:
    """Refuse an extension's code to the application's own pages (security §1.3).

    Raises:
        CrossSite: a service worker, or a same-origin load as code.
    """
    if environ.get("HTTP_SERVICE_WORKER") == "script":
        raise CrossSite("a service worker of extension code")
    if (
        environ.get("HTTP_SEC_FETCH_SITE") == "same-origin"
        and environ.get("HTTP_SEC_FETCH_DEST") in _CODE_DESTINATIONS
    ):
        raise CrossSite("extension code as part of an application page")


def check_level(principal: Principal, manifest: Manifest, method: str, path: str) -> None:
    """Hold the access level that the manifest gives a route; ``user`` where it gives none.

    A manifest that gives any level is complete: what it does not name does not exist, so
    that no other spelling of a path gets around its level.

    Raises:
        NotFound, MethodNotAllowed: a route that a complete manifest does not name.
        Unauthenticated: an anonymous caller on a ``user`` route.
        Forbidden: a caller without the role on an ``admin`` route.
    """
    endpoint = manifest.endpoint(method, path)
    if endpoint is None and manifest.is_complete:
        if allowed := manifest.allowed_methods(path):
            raise MethodNotAllowed(allowed)
        raise NotFound("the manifest does not name this route")
    level = endpoint.level if endpoint else "user"
    if level != "public" and principal.user_id is None:
        raise Unauthenticated(f"a {level} route needs a user")
    if level == "admin" and not principal.is_admin:
        raise Forbidden("an admin route needs the role admin")
