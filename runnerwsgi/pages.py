"""Everything under ``RUNNER_PUBLIC_BASE``: UI files, the two scripts, what is installed, health."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from werkzeug.http import parse_etags, parse_range_header

from . import access, headers, paths
from .assets import Asset, Assets, digest_of, parse_remote
from .browser import SCRIPTS
from .errors import BadPath, MethodNotAllowed, NotFound, RunnerError, UriTooLong
from .protocol import UiAsset
from .wsgi import Response, json_response

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .access import Identify, Principal
    from .gateway import Gateway
    from .installs import Install, Installs
    from .settings import Settings

READ = ("GET", "HEAD")
IMMUTABLE = "public, max-age=31536000, immutable"
MAX_FILE_PATH_BYTES = 2048
_INDEX = "index.html"
# client.js is loaded by sandboxed pages, whose origin is opaque; bridge.js by our own.
_SHARING = {
    "bridge.js": [("Cross-Origin-Resource-Policy", "same-origin")],
    "client.js": [
        ("Cross-Origin-Resource-Policy", "cross-origin"),
        ("Access-Control-Allow-Origin", "*"),
    ],
}


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
        self._scripts = {f"/{name}": _script(name, data) for name, data in SCRIPTS.items()}

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
        if path in self._scripts:
            return self._on_script(path, environ)
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

    def _on_script(self, path: str, environ: WSGIEnvironment) -> Response:
        _only(environ, READ)
        asset = self._scripts[path]
        common = [
            ("Content-Type", asset.content_type),
            ("Cache-Control", "no-cache"),
            ("ETag", asset.etag),
            ("X-Content-Type-Options", "nosniff"),
        ]
        common += _SHARING[path[1:]]
        if _unchanged(environ, asset):
            return Response(304, common)
        return Response(200, common, asset.data)

    def _on_health(self, environ: WSGIEnvironment) -> Response:
        _only(environ, READ)
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
        _only(environ, READ)
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
        extension_id, content_hash, path = self._parse_file(rest)
        _only(environ, READ)
        headers.check_request(headers.of_environ(environ))
        access.check_asset_site(environ)
        install = self.installs.by_hash(extension_id, content_hash)
        if install is None:
            raise NotFound(f"{extension_id} is not installed with this hash")
        try:
            return self._file(install, path, environ)
        except NotFound:
            if path != _INDEX and _is_navigation(environ, path):
                return self._file(install, install.manifest.entry, environ, fallback=True)
            raise

    @staticmethod
    def _parse_file(rest: str) -> tuple[str, str, str]:
        extension_id, _, more = rest.partition("/")
        content_hash, slash, raw_path = more.partition("/")
        if not slash and not content_hash:
            raise NotFound("no file is named")
        if len(raw_path) > MAX_FILE_PATH_BYTES:
            raise UriTooLong(f"the file's path has {len(raw_path)} bytes")
        paths.parse_extension_id(extension_id)
        paths.parse_content_hash(content_hash)
        path = paths.decode(raw_path)
        if "%" in path:
            raise BadPath("a percent sign is left after decoding")
        return extension_id, content_hash, path

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
            ("Cache-Control", IMMUTABLE if asset.verified and not fallback else "no-cache"),
        ]
        return _file_response(asset, head, environ)

    def _policy(self, install: Install) -> str:
        return headers.page_policy(_sandbox(install), self.settings.public_origins)


def _script(name: str, data: bytes) -> Asset:
    return Asset(data, hashlib.sha256(data).hexdigest(), headers.content_type(name), verified=True)


def _only(environ: WSGIEnvironment, methods: tuple[str, ...]) -> None:
    if environ["REQUEST_METHOD"] not in methods:
        raise MethodNotAllowed(methods)


def _is_navigation(environ: WSGIEnvironment, path: str) -> bool:
    """Whether a missing *path* is a page of the extension's own router (protocol §3)."""
    last = path.rpartition("/")[2]
    if "." in last and headers.content_type(last) != headers.UNKNOWN_TYPE:
        return False
    if (mode := environ.get("HTTP_SEC_FETCH_MODE")) is not None:
        return bool(mode == "navigate")
    return "text/html" in environ.get("HTTP_ACCEPT", "")


def _unchanged(environ: WSGIEnvironment, asset: Asset) -> bool:
    given = environ.get("HTTP_IF_NONE_MATCH")
    return bool(given) and parse_etags(given).contains_weak(asset.etag.strip('"'))


def _sandbox(install: Install) -> list[str]:
    """Scripts, and what both the manifest asks for and the operator granted (security §1.1)."""
    asked = install.manifest.ui.sandbox if install.manifest.ui else ()
    options = [word for word in headers.SANDBOX_OPTIONS if word in asked]
    return ["allow-scripts", *(word for word in options if word in install.sandbox)]


def _file_response(asset: Asset, head: list[tuple[str, str]], environ: WSGIEnvironment) -> Response:
    head += [
        ("ETag", asset.etag),
        ("Content-Type", asset.content_type),
        ("Accept-Ranges", "bytes"),
    ]
    if _unchanged(environ, asset):
        return Response(304, head)
    wanted = _range(environ, asset)
    if wanted is None:
        return Response(200, head, asset.data)
    start, stop = wanted
    if start >= stop:
        return Response(416, [*head, ("Content-Range", f"bytes */{len(asset.data)}")])
    head.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(asset.data)}"))
    return Response(206, head, asset.data[start:stop])


def _range(environ: WSGIEnvironment, asset: Asset) -> tuple[int, int] | None:
    """The one range asked for, as (start, stop); None to send everything (RFC 9110 §14.2)."""
    # A range of anything but a GET means nothing (RFC 9110 §14.2).
    given: str = environ.get("HTTP_RANGE", "") if environ["REQUEST_METHOD"] == "GET" else ""
    if not given or len(given) > 64 or environ.get("HTTP_IF_RANGE", asset.etag) != asset.etag:
        return None
    parsed = parse_range_header(given)
    if parsed is None or parsed.units != "bytes" or len(parsed.ranges) != 1:
        return None
    start, stop = parsed.ranges[0]
    size = len(asset.data)
    if start < 0:
        return max(0, size + start), size
    return min(start, size), min(stop if stop is not None else size, size)
