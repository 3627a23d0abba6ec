"""One file as an answer: which one is asked for, whether it changed, and which part of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from werkzeug.http import parse_etags, parse_range_header

from . import headers, paths
from .assets import Asset
from .browser import SCRIPTS
from .errors import BadPath, NotFound, UriTooLong
from .wsgi import READ, Response, check_method

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

IMMUTABLE = "public, max-age=31536000, immutable"
MAX_FILE_PATH_BYTES = 2048

_SCRIPTS: Mapping[str, Asset] = {
    name: Asset(data, hashlib.sha256(data).hexdigest(), headers.content_type(name), verified=True)
    for name, data in SCRIPTS.items()
}
# client.js is loaded by sandboxed pages, whose origin is opaque; bridge.js by our own.
_SHARING: Mapping[str, list[tuple[str, str]]] = {
    "bridge.js": [("Cross-Origin-Resource-Policy", "same-origin")],
    "client.js": [
        ("Cross-Origin-Resource-Policy", "cross-origin"),
        ("Access-Control-Allow-Origin", "*"),
    ],
}


@dataclass(frozen=True, slots=True)
class FileName:
    """Which file of which bundle; ``path`` is decoded, and lies below ``ui/``."""

    extension_id: str
    content_hash: str
    path: str


def parse(rest: str) -> FileName:
    """Read ``{extension}/{hash}/{path}``, as WSGI has it.

    Raises:
        NotFound: no file is named.
        BadPath, UriTooLong: no such id, hash or path can be.
    """
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
    return FileName(extension_id, content_hash, path)


def is_navigation(environ: WSGIEnvironment, path: str) -> bool:
    """Whether a missing *path* is a page of the extension's own router (protocol §3)."""
    last = path.rpartition("/")[2]
    if "." in last and headers.content_type(last) != headers.UNKNOWN_TYPE:
        return False
    if (mode := environ.get("HTTP_SEC_FETCH_MODE")) is not None:
        return bool(mode == "navigate")
    return "text/html" in environ.get("HTTP_ACCEPT", "")


def unchanged(environ: WSGIEnvironment, asset: Asset) -> bool:
    """Whether the client has these bytes already (RFC 9110 §13.1.2)."""
    given = environ.get("HTTP_IF_NONE_MATCH")
    return bool(given) and parse_etags(given).contains_weak(asset.etag.strip('"'))


def respond(
    asset: Asset, caching: str, head: list[tuple[str, str]], environ: WSGIEnvironment
) -> Response:
    """The file, a part of it, or word that it did not change.

    Args:
        asset: the file.
        caching: its ``Cache-Control``.
        head: further headers of the answer.
        environ: the request's, whose conditions and range are held.
    """
    kept = [
        *head,
        ("Cache-Control", caching),
        ("ETag", asset.etag),
        ("Content-Type", asset.content_type),
        ("Accept-Ranges", "bytes"),
    ]
    if unchanged(environ, asset):
        return Response(304, kept)
    wanted = _range(environ, asset)
    if wanted is None:
        return Response(200, kept, asset.data)
    start, stop = wanted
    size = len(asset.data)
    if start >= stop:
        refused = [("Cache-Control", "no-store"), ("Content-Range", f"bytes */{size}")]
        return Response(416, [*head, *refused])
    kept.append(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
    return Response(206, kept, asset.data[start:stop])


def script(name: str, environ: WSGIEnvironment) -> Response:
    """One of our own scripts, by a name of :data:`runnerwsgi.browser.SCRIPTS`."""
    check_method(environ, READ)
    asset = _SCRIPTS[name]
    head = [
        ("Content-Type", asset.content_type),
        ("Cache-Control", "no-cache"),
        ("ETag", asset.etag),
        ("X-Content-Type-Options", "nosniff"),
        *_SHARING[name],
    ]
    if unchanged(environ, asset):
        return Response(304, head)
    return Response(200, head, asset.data)


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
