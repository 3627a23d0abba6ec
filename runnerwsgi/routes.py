"""Which of the application's own routes an extension may call (protocol §7)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Self

from .errors import ConfigurationError
from .protocol import METHODS

_SEGMENT = r"/(?:\*(?!\*)|:[A-Za-z_][A-Za-z0-9_]*|(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()+,;=@-]+)"
_PATTERN = re.compile(rf"/|(?:{_SEGMENT})+/?|(?:{_SEGMENT})*/\*\*")
_HIDDEN = re.compile(r"[\x00-\x1f\x7f\\]|%(?:2[eEfF]|5[cC]|[01][0-9a-fA-F]|25)")


@dataclass(frozen=True, slots=True)
class RouteGrant:
    """One method and path of the host application that an extension may call (protocol §7).

    Segments match exactly; ``:name`` and ``*`` stand for one that is not empty, ``/**`` at the
    end for whatever follows.

    Example::

        grant = RouteGrant.parse("GET /api/customers/*")
        grant.match("GET", "/api/customers/42")         # True
        grant.match("GET", "/api/customers/42/delete")  # False
    """

    method: str
    pattern: str
    _compiled: re.Pattern[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigurationError(
                f"The route grant {str(self)!r} begins with no method: write {METHODS[0]} "
                f"/api/things, with one of {', '.join(METHODS)}."
            )
        object.__setattr__(self, "_compiled", _compile_route(self.pattern))

    @classmethod
    def parse(cls, text: str) -> Self:
        """A grant as people write it: ``GET /api/things/*``.

        Raises:
            ConfigurationError: an unknown method, or a path that could mean two things.
        """
        method, _, pattern = text.strip().partition(" ")
        return cls(method, pattern.strip())

    def match(self, method: str, path: str) -> bool:
        """Whether a call of *path*, decoded text without a query, is granted.

        A path with a dot segment, an empty segment, a backslash or a percent sign that would
        hide a slash or a dot matches nothing.
        """
        return (
            method == self.method
            and is_plain_path(path)
            and self._compiled.fullmatch(path) is not None
        )

    def __str__(self) -> str:
        return f"{self.method} {self.pattern}"


def is_plain_path(path: str) -> bool:
    """Whether decoded *path* means one place to every reader: nothing in it walks or hides."""
    if not path.startswith("/") or _HIDDEN.search(path):
        return False
    *inner, last = path[1:].split("/")
    # Servlet-style parameters are stripped by some applications: `..;x` walks for them.
    names = [segment.partition(";")[0] for segment in (*inner, last)]
    return "" not in inner and not {".", ".."} & set(names)


def _compile_route(pattern: str) -> re.Pattern[str]:
    if not _PATTERN.fullmatch(pattern):
        raise ConfigurationError(
            f"{pattern!r} is not a path of a route grant: write /api/things, /api/things/:id, "
            "/api/things/* or /api/things/**, without dot segments, percent signs or a query."
        )
    head, rest = (pattern[:-3], "/.*") if pattern.endswith("/**") else (pattern, "")
    return re.compile("/".join(map(_segment, head.split("/"))) + rest)


def _segment(text: str) -> str:
    return "[^/]+" if text == "*" or text.startswith(":") else re.escape(text)
