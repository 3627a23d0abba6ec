"""Everything under ``RUNNER_PUBLIC_BASE``: UI files, the two scripts, what is installed, health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from . import access, files, headers, paths
from .assets import Assets, digest_of, parse_remote
from .browser import SCRIPTS
from .errors import NotFound, RunnerError
from .protocol import UiAsset
from .wsgi import READ, Response, check_method, json_response

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .access import Identify, Principal
    from .gateway import Gateway
    from .installs import Install, Installs
    from .settings import Settings


class ExtensionPages:
    """Answers ``{RUNNER_PUBLIC_BASE}/…`` and knows the public URL of every page.

    Example::

        pages = ExtensionPages(gateway, identify, installs, assets, Settings())
        pages.respond("/ext-ui/demo.notes/sha256:…/index.html", environ, request_id)
        pages.url("demo.notes", "/", environ)
    """

    def __init__(
        self,
        gateway: Gateway,
        identify: Identify,
        installs: Installs,
        assets: Assets,
        settings: Settings,
    ) -> None:
        self.gateway = gateway
        self.identify = identify
        self.installs = installs
        self.assets = assets
        self.settings = settings

    def respond(self, rest: str, environ: WSGIEnvironment, request_id: str) -> Response:
        """Answer one request.

        Args:
            rest: the path below the mount, as WSGI has it.
            environ: the request's.
            request_id: ours.

        Raises:
            RunnerError: there is nothing there, or it may not be had.
        """
        if rest.startswith("/ext-ui/"):
            return self._on_file(rest.removeprefix("/ext-ui/"), environ)
        path = paths.decode(rest)
        if path[1:] in SCRIPTS:
            return files.script(path[1:], environ)
        if path == "/healthz":
            return self._on_health(environ)
        if path.startswith("/extensions/"):
            return self._on_extension(path.removeprefix("/extensions/"), environ)
        raise NotFound("nothing of ours is there")

    def url(self, extension_id: str, path: str, environ: WSGIEnvironment | None) -> str:
        """The public URL of an extension's page for the caller of *environ*.

        Without *environ* it is the one of tenant ``default``.

        Raises:
            NotFound: not installed, or an extension without pages.
        """
        tenant = access.who(self.identify, environ).tenant_id if environ is not None else "default"
        return self._url(self.installs.get(tenant, extension_id), path, environ or {})

    def _url(self, install: Install, path: str, environ: WSGIEnvironment) -> str:
        if install.manifest.ui is None and not install.ui_digests:
            raise NotFound(f"{install.extension_id} has no pages")
        query = {"path": path, "tenant": install.tenant_id, "extensionId": install.extension_id}
        file = paths.ui_path(install.extension_id, install.content_hash, install.manifest.entry)
        return f"{self._base(environ)}{file}?{urlencode(query)}"

    def _base(self, environ: WSGIEnvironment) -> str:
        if "://" in self.settings.public_base:
            return self.settings.public_base
        return paths.script_name(environ) + self.settings.mount

    def _on_health(self, environ: WSGIEnvironment) -> Response:
        check_method(environ, READ)
        health = self.gateway.health()
        answer: dict[str, Any] = {"status": health.status, "backend": self.gateway.backend_name}
        if self._is_admin(environ):
            answer["checks"] = dict(health.checks)
            answer["plugins"] = self.gateway.metadata()
        return json_response(503 if health.status == "unavailable" else 200, answer)

    def _is_admin(self, environ: WSGIEnvironment) -> bool:
        try:
            return access.who(self.identify, environ).is_admin
        except RunnerError:
            return False

    def _on_extension(self, extension_id: str, environ: WSGIEnvironment) -> Response:
        """What the bridge asks for: where the caller's version of an extension is."""
        check_method(environ, READ)
        principal: Principal = access.who(self.identify, environ)
        access.check_site(environ, principal, self.settings.public_origins)
        paths.parse_extension_id(extension_id)
        install = self.installs.get(principal.tenant_id, extension_id)
        mount = paths.script_name(environ) + self.settings.execute_mount
        return json_response(
            200,
            {
                "extension": install.extension_id,
                "version": install.version,
                "ui": self._url(install, "/", environ),
                "api": f"{mount}/{install.extension_id}",
                "sandbox": _sandbox(install),
                "max_body_bytes": self.settings.max_body_bytes,
            },
        )

    def _on_file(self, rest: str, environ: WSGIEnvironment) -> Response:
        name = files.parse(rest)
        check_method(environ, READ)
        headers.check_request(headers.of_environ(environ))
        access.check_asset_site(environ)
        install = self.installs.by_hash(name.extension_id, name.content_hash)
        if install is None:
            raise NotFound(f"{name.extension_id} is not installed with this hash")
        try:
            return self._file(install, name.path, environ)
        except NotFound:
            if files.is_navigation(environ, name.path):
                return self._file(install, install.manifest.entry, environ, fallback=True)
            raise

    def _file(
        self, install: Install, path: str, environ: WSGIEnvironment, *, fallback: bool = False
    ) -> Response:
        digest = digest_of(install.ui_digests, path)
        asset = self.assets.cached(path, digest) if digest else None
        if asset is None:
            url = self.gateway.resolve_ui_url(
                UiAsset(install.tenant_id, install.extension_id, install.content_hash, path)
            )
            if self.settings.ui == "redirect" and not url.startswith("file:"):
                parse_remote(url)
                return Response(307, [("Location", url), ("Cache-Control", "no-store")])
            asset = self.assets.load(
                url, path, digest, self.settings.timeout_ms / 1000, install.tenant_id
            )
        head = [
            *headers.ISOLATION,
            ("Content-Security-Policy", self._policy(install)),
        ]
        caching = files.IMMUTABLE if asset.verified and not fallback else "no-cache"
        return files.respond(asset, caching, head, environ)

    def _policy(self, install: Install) -> str:
        return headers.page_policy(_sandbox(install), self.settings.public_origins)


def _sandbox(install: Install) -> list[str]:
    """Scripts, and what both the manifest asks for and the operator granted (security §1.1)."""
    asked = install.manifest.ui.sandbox if install.manifest.ui else ()
    options = [word for word in headers.SANDBOX_OPTIONS if word in asked]
    return ["allow-scripts", *(word for word in options if word in install.sandbox)]
