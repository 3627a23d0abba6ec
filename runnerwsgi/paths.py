"""Extension ids, asset paths and handler paths: parse them, or refuse them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from .errors import BadPath, UriTooLong
from .protocol import is_content_hash

MAX_PATH_BYTES = 2048
MAX_QUERY_BYTES = 8192

_EXTENSION_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.))*")
# C0, DEL, C1, line and paragraph separators, direction overrides and isolates.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# In a guest's `url` the path ends at these: an access level must not hold for a longer one.
_CUTTING = re.compile(r"[\\?#]")
# What a second percent-decoding would turn into a dot, a slash, a backslash or a control.
_ENCODED_TWICE = re.compile(r"%(?:2[eEfF]|5[cC]|[01][0-9a-fA-F]|7[fF]|25)")


def is_extension_id(text: str) -> bool:
    """Whether *text* may name an extension: letters, digits, ``.``, ``_``, ``-``; at most 128."""
    return len(text) <= 128 and _EXTENSION_ID.fullmatch(text) is not None


def parse_extension_id(text: str) -> str:
    """*text*, if it may name an extension.

    Raises:
        BadPath: it may not.
    """
    if not is_extension_id(text):
        raise BadPath(f"not an extension id: {text[:80]!r}")
    return text


def parse_content_hash(text: str) -> str:
    """*text*, if it is a content hash.

    Raises:
        BadPath: it is not.
    """
    if not is_content_hash(text):
        raise BadPath(f"not a content hash: {text[:80]!r}")
    return text


def decode(path_info: str) -> str:
    """A path inside our mounts, from WSGI's bytes-in-latin-1 to text (PEP 3333).

    Nothing is normalised: what would need it is refused.

    Raises:
        BadPath: invalid UTF-8, a dot segment, a backslash, a control character, or a ``?`` or
            ``#``: whoever reads the path as part of a URL would find another path there.
        UriTooLong: more than 2 KiB.
    """
    try:
        raw = path_info.encode("latin-1")
        text = raw.decode("utf-8")
    except UnicodeError:
        raise BadPath("the path is not valid UTF-8") from None
    if len(raw) > MAX_PATH_BYTES:
        raise UriTooLong(f"the path has {len(raw)} bytes")
    if _CUTTING.search(text) or _CONTROL.search(text):
        raise BadPath("the path has a backslash, a `?`, a `#` or a control character")
    if _ENCODED_TWICE.search(text) or has_dot_segment(text):
        raise BadPath("the path has a dot segment, or is encoded twice")
    return text


def has_dot_segment(text: str) -> bool:
    """Whether a part of the path is ``.`` or ``..``: it is another path to whoever follows it."""
    return "." in text and any(part.partition(";")[0] in (".", "..") for part in text.split("/"))


def check_query(query_string: str) -> str:
    """The raw query, if it is of bearable length and ASCII.

    Raises:
        UriTooLong: more than 8 KiB.
        BadPath: a byte that no URL has.
    """
    if len(query_string) > MAX_QUERY_BYTES:
        raise UriTooLong(f"the query has {len(query_string)} bytes")
    if not query_string.isascii() or _CONTROL.search(query_string):
        raise BadPath("the query has bytes that must be percent-encoded")
    return query_string


def under(mount: str, path: str) -> str | None:
    """What follows *mount* in *path*: ``""``, or text that begins with ``/``; None if elsewhere."""
    if not path.startswith(mount):
        return None
    rest = path[len(mount) :]
    return rest if not rest or rest[0] == "/" else None


def script_name(environ: Mapping[str, Any]) -> str:
    """``SCRIPT_NAME`` as it stands in a URL. It only builds URLs, it never matches anything."""
    raw: str = environ.get("SCRIPT_NAME", "").rstrip("/")
    return quote(raw.encode("latin-1"), safe="/:@!$&'()*+,;=~-._") if raw else ""


def ui_path(extension_id: str, content_hash: str, path: str) -> str:
    """The public path of a UI file, below the mount."""
    return f"/ext-ui/{extension_id}/{content_hash}/{quote(path, safe='/@+~!$&()=,.-_')}"
