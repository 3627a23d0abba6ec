"""Which headers may cross between browser, guest and gateway, as tables (security §1, §2)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .errors import BadHeader, BadRunnerResponse, HeaderTooLarge

MAX_FIELDS = 100
MAX_GUEST_FIELDS = 64
MAX_BLOCK_BYTES = 32 * 1024

# From the client to a guest. Everything else stays outside, cookies first of all.
REQUEST = frozenset(
    {"accept", "accept-language", "content-type", "if-none-match", "if-modified-since"}
)
# From a guest to the client. `cache-control` is the gateway's.
RESPONSE = frozenset(
    {
        "content-type",
        "content-language",
        "content-disposition",
        "etag",
        "last-modified",
        "retry-after",
        "vary",
        "location",
    }
)
OWN_PREFIX = "x-ext-"
# The install's configuration, set by the gateway: a client that sends one is not heard.
CONFIG_PREFIX = "x-ext-config-"

SANDBOX = "sandbox allow-scripts"
# What an operator and a manifest may both add to the sandbox; `allow-same-origin`,
# `allow-top-navigation*` and `allow-popups-to-escape-sandbox` never are.
SANDBOX_OPTIONS = ("allow-forms", "allow-modals", "allow-downloads", "allow-popups")

_FEATURES = (
    "accelerometer",
    "autoplay",
    "camera",
    "clipboard-read",
    "display-capture",
    "encrypted-media",
    "fullscreen",
    "gamepad",
    "geolocation",
    "gyroscope",
    "hid",
    "identity-credentials-get",
    "idle-detection",
    "magnetometer",
    "microphone",
    "midi",
    "payment",
    "picture-in-picture",
    "publickey-credentials-create",
    "publickey-credentials-get",
    "screen-wake-lock",
    "serial",
    "storage-access",
    "usb",
    "xr-spatial-tracking",
)

# Written onto every UI file, beside its own sandbox; no header of a backend's answer is copied.
ISOLATION: tuple[tuple[str, str], ...] = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    ("Access-Control-Allow-Origin", "*"),
    ("Permissions-Policy", ", ".join(f"{feature}=()" for feature in _FEATURES)),
    ("Vary", "Sec-Fetch-Site, Sec-Fetch-Dest, Service-Worker"),
)

CONTENT_TYPES: Mapping[str, str] = {
    "html": "text/html; charset=utf-8",
    "htm": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "json": "application/json; charset=utf-8",
    "map": "application/json; charset=utf-8",
    "webmanifest": "application/manifest+json; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "avif": "image/avif",
    "ico": "image/x-icon",
    "bmp": "image/bmp",
    "wasm": "application/wasm",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "ttf": "font/ttf",
    "otf": "font/otf",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "wav": "audio/wav",
    "mp4": "video/mp4",
    "webm": "video/webm",
    "pdf": "application/pdf",
    "zip": "application/zip",
}
# XML families run scripts through stylesheets and XHTML: they and all unknown types are bytes.
UNKNOWN_TYPE = "application/octet-stream"

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_UNSENDABLE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


def page_policy(sandbox: Iterable[str], origins: Iterable[str]) -> str:
    """The ``Content-Security-Policy`` of a UI file.

    Args:
        sandbox: the keywords of its sandbox.
        origins: the application's own, which may frame it besides the file's own origin.
    """
    return "; ".join(
        (" ".join(("sandbox", *sandbox)), " ".join(("frame-ancestors 'self'", *origins)))
    )


def content_type(path: str) -> str:
    """The type of a UI file, by its name alone."""
    name = path.rpartition("/")[2]
    suffix = name.rpartition(".")[2].lower() if "." in name else ""
    return CONTENT_TYPES.get(suffix, UNKNOWN_TYPE)


def is_token(name: str) -> bool:
    """Whether *name* may be a header's name (RFC 9110 §5.6.2)."""
    return _TOKEN.fullmatch(name) is not None


def is_value(value: str) -> bool:
    """Whether *value* may be a header's value: latin-1, no controls but TAB (RFC 9110 §5.5)."""
    return _UNSENDABLE.search(value) is None


def of_environ(environ: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The request's headers by lower-case name, as the server put them into *environ*."""
    found = [
        (key[5:].replace("_", "-").lower(), value)
        for key, value in environ.items()
        if key.startswith("HTTP_")
    ]
    if environ.get("CONTENT_TYPE"):
        found.append(("content-type", environ["CONTENT_TYPE"]))
    return found


def check_request(headers: Iterable[tuple[str, str]]) -> None:
    """Refuse a header block that is too large or has controls in a value.

    Raises:
        HeaderTooLarge: more than 100 fields or 32 KiB.
        BadHeader: a control character in a value.
    """
    size = 0
    for count, (name, value) in enumerate(headers, 1):
        size += len(name) + len(value)
        if count > MAX_FIELDS or size > MAX_BLOCK_BYTES:
            raise HeaderTooLarge(
                f"more than {MAX_FIELDS} fields or {MAX_BLOCK_BYTES} bytes of headers"
            )
        if _CONTROL.search(value) and name != "x-request-id":
            raise BadHeader(f"control character in the value of {name!r}")


def check_guest(headers: Collection[tuple[str, str]]) -> None:
    """Refuse a guest's header block that is too large or cannot be sent (security §2, §3).

    Raises:
        BadRunnerResponse: more than 64 fields or 32 KiB, a name that is no token, or a control
            in a value.
    """
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_GUEST_FIELDS or size > MAX_BLOCK_BYTES:
        raise BadRunnerResponse(
            f"the handler sent {len(headers)} headers of {size} bytes; "
            f"{MAX_GUEST_FIELDS} of {MAX_BLOCK_BYTES} are allowed"
        )
    for name, value in headers:
        if not is_token(name) or not is_value(value):
            raise BadRunnerResponse(f"the handler sent a malformed header {printable(name)}")


def to_guest(
    headers: Iterable[tuple[str, str]], config: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """What a guest gets to see: the client's headers that may cross, then the configuration.

    Args:
        headers: the client's, by lower-case name.
        config: the install's; each key arrives as ``x-ext-config-<key>``.
    """
    crossing = [(name, value) for name, value in headers if _may_cross(name) and value.isascii()]
    return (*crossing, *((CONFIG_PREFIX + key, value) for key, value in sorted(config.items())))


def _may_cross(name: str) -> bool:
    if name in REQUEST:
        return True
    return name.startswith(OWN_PREFIX) and not name.startswith(CONFIG_PREFIX) and is_token(name)


def from_guest(headers: Iterable[tuple[str, str]]) -> tuple[list[tuple[str, str]], int]:
    """Those of a guest's headers that a browser gets to see, and how many were dropped."""
    kept: list[tuple[str, str]] = []
    dropped = 0
    for name, value in headers:
        lower = name.lower()
        if lower in RESPONSE or lower.startswith(OWN_PREFIX):
            kept.append((lower, value))
        else:
            dropped += 1
    return kept, dropped


def printable(value: str, limit: int = 128) -> str:
    """*value* cut and with every control escaped, fit for one line of a log."""
    return value[:limit].encode("unicode_escape").decode("ascii")
