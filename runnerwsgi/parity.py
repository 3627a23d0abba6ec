"""Whether backends answer alike: requests to try, what came back, and where that differs."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError
from .manifest import Endpoint
from .protocol import METHODS

if TYPE_CHECKING:
    from pathlib import Path

    from .manifest import Manifest
    from .protocol import ExecuteResponse, Headers

FILE = "parity.jsonl"

# What generated requests vary: each once for every endpoint, under the name it is shown with.
QUERIES: Mapping[str, str] = MappingProxyType(
    {
        "a repeated query": "b=2&a=1&a=3&a=",
        "an escaped query": "q=%C3%BC+%26%20%3D&%20=%2B&flag",
    }
)
HEADERS: Headers = (
    ("accept", "application/json, text/*;q=0.5"),
    ("accept-language", "de-CH, de;q=0.9"),
    ("x-ext-parity", 'a, b; c="d"'),
)
BODIES: Mapping[str, tuple[str, bytes]] = MappingProxyType(
    {
        "an empty body": ("text/plain", b""),
        "a JSON body": ("application/json", '{"text": "Grüße 🎉", "n": 1}'.encode()),
        "a broken JSON body": ("application/json", b'{"text": '),
        "every byte": ("application/octet-stream", bytes(range(256))),
        "line ends and zeros": ("application/octet-stream", b"\r\n\x00" * 100),
        "64 KiB": ("text/plain", b"0123456789abcdef" * 4096),
    }
)
# Values of a path's parameters.
SEGMENTS: Mapping[str, str] = MappingProxyType({"": "1", "an escaped path": "%C3%A4%20b"})

_BODY_METHODS = ("POST", "PUT", "PATCH")
_PLACE = re.compile(r"\$\{([a-z0-9_]+)\}")
_PARAMETER = re.compile(r"(?<=/):[^/]+")
_NO_KEEP: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Sample:
    """One request to try.

    Example::

        Sample("POST", "/notes", body=b'{"text": "hi"}', keep={"id": "/note/id"})
        Sample("DELETE", "/notes/${id}", roles=("admin",))

    Attributes:
        path: with its query, as it goes on the wire.
        user: who calls; empty for nobody.
        keep: values of the answer that later requests name as ``${…}``: JSON pointers
            (RFC 6901) by name.
        note: what is special about it, for people.
    """

    method: str
    path: str
    headers: Headers = ()
    body: bytes | None = None
    user: str = "local"
    roles: tuple[str, ...] = ()
    keep: Mapping[str, str] = field(default_factory=lambda: _NO_KEEP)
    note: str = ""

    @property
    def label(self) -> str:
        """How the request is shown."""
        return f"{self.method} {self.path}" + (f" ({self.note})" if self.note else "")

    @property
    def needs(self) -> frozenset[str]:
        """The names of kept values that are in it."""
        return frozenset(_PLACE.findall(self.path) + _PLACE.findall(self._text))

    def filled(self, kept: Mapping[str, str]) -> Sample:
        """The request with kept values in their places; what was not found is empty."""
        if not self.needs:
            return self

        def value(place: re.Match[str]) -> str:
            return kept.get(place[1], "")

        body = _PLACE.sub(value, self._text).encode("utf-8", "surrogateescape")
        return replace(
            self, path=_PLACE.sub(value, self.path), body=None if self.body is None else body
        )

    def kept(self, body: bytes | None) -> dict[str, str]:
        """The values that it keeps of an answer."""
        leaves = dict(_leaves(_json(body)))
        return {name: _plain(leaves[at]) for name, at in self.keep.items() if at in leaves}

    @property
    def _text(self) -> str:
        return (self.body or b"").decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Seen:
    """What came back of a request, as a runner gave it.

    Attributes:
        status: what the caller got.
        outcome: the runner's, or the code of the error that stands in its place.
        logs: the extension's log lines, with their levels.
    """

    status: int
    outcome: str
    headers: Headers = ()
    body: bytes | None = None
    logs: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, status: int, code: str | None, response: ExecuteResponse | None, request_id: str
    ) -> Seen:
        """Put together what a caller got, and what the backend answered behind it.

        Args:
            status: the caller's.
            code: the code of the error that the caller got.
            response: the backend's answer; None where it gave none.
            request_id: this call's; it is another one every time, and taken out.
        """
        if response is None:
            return cls(status, code or "nothing asked")
        logs = tuple(f"{line.level}: {line.message}" for line in response.logs)
        if response.outcome != "ok":
            return cls(status, response.outcome, logs=_without(request_id, logs))
        headers = tuple((n.lower(), v.replace(request_id, "…")) for n, v in response.headers)
        body = response.body and response.body.replace(request_id.encode(), "…".encode())
        # An answer that the gateway itself refused, such as one with a header that is none.
        outcome = code if status >= 500 and code else "ok"
        return cls(status, outcome, headers, body, _without(request_id, logs))

    def facts(self) -> dict[str, str]:
        """Everything about it that is compared, by name; of a JSON body each value, too."""
        found = {"status": str(self.status), "outcome": self.outcome}
        for name, value in self.headers:
            key = f"header {name}"
            found[key] = f"{found[key]} | {value}" if key in found else value
        found["body"] = repr(self.body)
        found |= {f"body {at}": text for at, text in _leaves(_json(self.body)) if at}
        return found | {f"log {number}": line for number, line in enumerate(self.logs, 1)}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that two backends do not do alike; None where one has nothing there."""

    request: str
    field: str
    backend: str
    expected: str | None
    found: str | None


def differences(
    request: str, backend: str, first: Seen, other: Seen, again: Seen
) -> list[Difference]:
    """Where *other* differs from *first*, which differs from itself in nothing of it.

    What an answer holds of clocks and chance is another value each time. The first backend was
    asked twice, the second time after the other: what changed there is not compared.
    """
    facts, theirs = first.facts(), other.facts()
    moving = varying(first, again)
    found = [
        Difference(request, name, backend, facts.get(name), theirs.get(name))
        for name in dict.fromkeys((*facts, *theirs))
        if facts.get(name) != theirs.get(name) and name not in moving
    ]
    # A JSON body's values say it better than its bytes.
    parts = any(each.field.startswith("body /") for each in found)
    return [each for each in found if not (parts and each.field == "body")]


def varying(first: Seen, again: Seen) -> frozenset[str]:
    """The names of the facts in which a backend differs from itself."""
    facts, later = first.facts(), again.facts()
    return frozenset(
        name for name in facts.keys() | later.keys() if facts.get(name) != later.get(name)
    )


def generated(manifest: Manifest) -> Iterator[Sample]:
    """Requests for every endpoint of a manifest, and for an address that it does not name."""
    endpoints = manifest.endpoints or (Endpoint("GET", "/"), Endpoint("POST", "/"))
    for endpoint in endpoints:
        yield from _of_endpoint(endpoint)
    yield Sample("GET", "/parity/no-such-route", note="an unknown route")


def _of_endpoint(endpoint: Endpoint) -> Iterator[Sample]:
    roles = ("admin",) if endpoint.level == "admin" else ()
    plain = Sample(endpoint.method, _path(endpoint, "1"), roles=roles)
    yield plain
    if endpoint.method == "GET":
        yield replace(plain, method="HEAD")
    yield replace(plain, headers=HEADERS, note="headers")
    for note, query in QUERIES.items():
        yield replace(plain, path=f"{plain.path}?{query}", note=note)
    for note, value in SEGMENTS.items():
        if (path := _path(endpoint, value)) != plain.path:
            yield replace(plain, path=path, note=note)
    if endpoint.method in _BODY_METHODS:
        for note, (kind, body) in BODIES.items():
            yield replace(plain, headers=(("content-type", kind),), body=body, note=note)


def _path(endpoint: Endpoint, value: str) -> str:
    return _PARAMETER.sub(value, endpoint.path)


def read_samples(path: Path) -> list[Sample]:
    """The requests in a file: one JSON object a line; empty lines and ``#`` lines are skipped.

    Raises:
        ConfigurationError: with every line that is wrong.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text in UTF-8"
        raise ConfigurationError(f"{path}: {reason}.") from exc
    samples: list[Sample] = []
    faults: list[str] = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            try:
                sample = _sample(line)
                _check_needs(sample, samples)
                samples.append(sample)
            except ValueError as exc:
                faults.append(f"{path}, line {number}: {exc}.")
    if faults:
        raise ConfigurationError(faults=tuple(faults))
    return samples


def to_line(sample: Sample) -> str:
    """*sample* as :func:`read_samples` reads it."""
    fields: dict[str, Any] = {"method": sample.method, "path": sample.path}
    for name, value in sample.headers:
        found = fields.setdefault("headers", {})
        found[name] = f"{found[name]}, {value}" if name in found else value
    if sample.body is not None:
        try:
            fields["body"] = sample.body.decode()
        except UnicodeDecodeError:
            fields["body_b64"] = base64.b64encode(sample.body).decode()
    if sample.user != "local":
        fields["user"] = sample.user
    if sample.roles:
        fields["roles"] = list(sample.roles)
    return json.dumps(fields, ensure_ascii=False)


_FIELDS = frozenset(
    {"method", "path", "headers", "body", "body_b64", "json", "user", "roles", "keep"}
)


def _sample(line: str) -> Sample:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    if unknown := sorted(found.keys() - _FIELDS):
        raise ValueError(f"{unknown[0]} is none of {', '.join(sorted(_FIELDS))}")
    method, path = found.get("method", "GET"), found.get("path")
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}")
    if not isinstance(path, str) or not path.startswith("/"):
        raise ValueError("path is a text that begins with a slash")
    return Sample(
        method,
        path,
        tuple((name.lower(), value) for name, value in _texts(found, "headers").items()),
        _body(found),
        _text(found, "user", "local"),
        _roles(found),
        _texts(found, "keep"),
    )


def _check_needs(sample: Sample, before: Sequence[Sample]) -> None:
    kept = {name for one in before for name in one.keep}
    if missing := sorted(sample.needs - kept):
        raise ValueError(f"${{{missing[0]}}} is kept by no request before it")


def _text(found: Mapping[str, Any], name: str, default: str) -> str:
    value = found.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"{name} is a text")
    return value


def _texts(found: Mapping[str, Any], name: str) -> dict[str, str]:
    value = found.get(name, {})
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"{name} is an object of texts")
    return value


def _roles(found: Mapping[str, Any]) -> tuple[str, ...]:
    value = found.get("roles", [])
    if not isinstance(value, list) or not all(isinstance(role, str) for role in value):
        raise ValueError("roles is a list of texts")
    return tuple(value)


def _body(found: Mapping[str, Any]) -> bytes | None:
    given = [name for name in ("body", "body_b64", "json") if name in found]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)}: a request has one body")
    if "json" in found:
        return json.dumps(found["json"], ensure_ascii=False).encode()
    if "body_b64" in found:
        try:
            return base64.b64decode(_text(found, "body_b64", ""), validate=True)
        except binascii.Error as exc:
            raise ValueError("body_b64 is standard base64") from exc
    return _text(found, "body", "").encode() if "body" in found else None


def _without(request_id: str, lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(line.replace(request_id, "…") for line in lines)


def _json(body: bytes | None) -> Any:
    try:
        return json.loads(body or b"null")
    except (ValueError, RecursionError):
        return None


def _leaves(value: Any, at: str = "", depth: int = 32) -> Iterator[tuple[str, str]]:
    """Every value that holds no other, by its JSON pointer, as JSON; deep down, whole branches."""
    if isinstance(value, dict | list) and value and depth:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            name = str(key).replace("~", "~0").replace("/", "~1")
            yield from _leaves(item, f"{at}/{name}", depth - 1)
    else:
        yield at, json.dumps(value, ensure_ascii=False)


def _plain(leaf: str) -> str:
    value = json.loads(leaf)
    return value if isinstance(value, str) else leaf
