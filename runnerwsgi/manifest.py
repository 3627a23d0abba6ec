"""What an extension says about itself: name, version, UI, endpoints, wishes (protocol §4)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from .errors import BundleError
from .protocol import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

# What every install may do without being asked (protocol §5).
DEFAULT_GRANTS = ("cap:context.read", "cap:log.emit", "cap:user.read")

MAX_BYTES = 256 * 1024
_MAX_FAULTS = 20

Access = Literal["public", "user", "admin"]
_Methods = Mapping[str, "Endpoint"]

_NO_METHODS: _Methods = MappingProxyType({})
_NO_FIELDS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One call that an extension answers.

    ``path`` is a pattern: a segment ``:name`` stands for any one segment that is not empty.

    Example::

        Endpoint("GET", "/notes/:id", access="public")
    """

    method: str
    path: str
    handler: str = "dist/main"
    access: Access | None = None
    schedulable: bool = False

    @property
    def level(self) -> Access:
        """Who may call it; a signed-in user where the manifest does not say."""
        return self.access or "user"


@dataclass(frozen=True, slots=True)
class Ui:
    """An extension's page: its entry in the bundle and where the host may offer it.

    ``sandbox`` holds the ``allow-…`` words the page asks for beyond scripts (security §1).
    """

    entry: str
    hooks: Mapping[str, Any] = field(default_factory=lambda: _NO_FIELDS)
    sandbox: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """An extension's manifest, version 2; checked when it was made by :meth:`from_json`.

    Unknown fields are kept in ``raw`` and mean nothing here.

    Example::

        manifest = Manifest.from_json('{"name": "acme.hello", "version": "1.0.0"}')
        manifest.endpoint("GET", "/anything")
    """

    name: str
    version: str
    publisher: str | None = None
    runtime: str | None = None
    capabilities: tuple[str, ...] = ()
    ui: Ui | None = None
    endpoints: tuple[Endpoint, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=lambda: _NO_FIELDS, compare=False, repr=False)
    _routes: _Routes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_routes", _Routes(self.endpoints))

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Parse and check a manifest.

        Raises:
            BundleError: it is not strict JSON in UTF-8 (RFC 7493), or breaks the schema; the
                message lists every fault with its JSON path.
        """
        if len(text) > MAX_BYTES:
            _refuse([f"$: found {len(text)} bytes; expected at most {MAX_BYTES}"])
        return _parse(text)

    @property
    def entry(self) -> str:
        """The page's file below ``ui/``."""
        return self.ui.entry.removeprefix("ui/") if self.ui else "index.html"

    @property
    def is_complete(self) -> bool:
        """Whether the endpoints are all there are: one of them carries an ``access``.

        A manifest without any is advisory, as it is for the predecessor: a handler may
        answer more than it lists.
        """
        return any(endpoint.access is not None for endpoint in self.endpoints)

    def endpoint(self, method: str, path: str) -> Endpoint | None:
        """The endpoint listed for *method* at *path*, decoded text that begins with ``/``.

        A fixed segment wins over a parameter. GET answers HEAD (RFC 9110 §9.3.2).
        """
        methods = self._routes.at(path)
        return methods.get(method) or (methods.get("GET") if method == "HEAD" else None)

    def allowed_methods(self, path: str) -> tuple[str, ...]:
        """The methods listed for *path*; empty when it is not listed."""
        methods = self._routes.at(path)
        return tuple(
            method
            for method in METHODS
            if method in methods or (method == "HEAD" and "GET" in methods)
        )


class _Routes:
    """Endpoints by path: a table for fixed paths, patterns from the most to the least specific."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._fixed: dict[str, dict[str, Endpoint]] = {}
        patterns: dict[str, dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            table = patterns if "/:" in endpoint.path else self._fixed
            table.setdefault(_shape(endpoint.path), {})[endpoint.method] = endpoint
        # A fixed segment sorts before a parameter, and the leftmost difference decides.
        ordered = sorted(patterns, key=lambda shape: [part == ":" for part in shape.split("/")])
        self._patterns = [(_compiled(shape), patterns[shape]) for shape in ordered]

    def at(self, path: str) -> _Methods:
        methods = self._fixed.get(path, _NO_METHODS)
        for pattern, others in self._patterns:
            if pattern.fullmatch(path):
                methods = {**others, **methods}
        return methods


def _shape(path: str) -> str:
    """The path without its parameters' names: two endpoints of one shape are the same place."""
    return "/".join(":" if part.startswith(":") else part for part in path.split("/"))


def _compiled(shape: str) -> re.Pattern[str]:
    parts = ("[^/]+" if part == ":" else re.escape(part) for part in shape.split("/"))
    return re.compile("/".join(parts))


# Installs are read again whenever one of them changes; their manifests hardly ever do.
@lru_cache(maxsize=512)
def _parse(text: str | bytes) -> Manifest:
    raw = _load(text)
    if faults := [*_schema_faults(raw), *_repeated_endpoints(raw)]:
        _refuse(faults)
    return _build(cast("dict[str, Any]", raw))


def _refuse(faults: list[str]) -> NoReturn:
    more = f"\n… and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
    raise BundleError("manifest.json is refused:\n" + "\n".join(faults[:_MAX_FAULTS]) + more)


def _load(text: str | bytes) -> object:
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        raw = json.loads(decoded, object_pairs_hook=_unique, parse_constant=_no_constant)
        # Writing it finds what reading let pass: halves of surrogate pairs, and 1e999.
        json.dumps(raw, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        _refuse([f"$: not strict JSON in UTF-8: {error}"])
    return raw


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {_shown(twice)} is there twice")
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


@cache
def _validator() -> Draft202012Validator:
    # jsonschema takes longer to import than the rest of the gateway.
    from jsonschema import Draft202012Validator

    schema = resources.files(__package__).joinpath("manifest.schema.json").read_text("utf-8")
    return Draft202012Validator(json.loads(schema))


def _schema_faults(raw: object) -> list[str]:
    errors = sorted(_validator().iter_errors(raw), key=lambda error: error.json_path)
    return list(dict.fromkeys(fault for error in errors for fault in _sentences(error)))


def _sentences(error: ValidationError) -> Iterator[str]:
    """A fault as: where, what was found, what is expected."""
    schema, found = cast("dict[str, Any]", error.schema), cast("Any", error.instance)
    if error.validator != "required":
        expected = schema["description"]
        yield f"{error.json_path}: found {_shown(found)}; expected {expected}"
        return
    for name in schema["required"]:
        if name not in found:
            expected = schema["properties"][name]["description"]
            yield f"{error.json_path}.{name}: missing; expected {expected}"


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _repeated_endpoints(raw: object) -> Iterator[str]:
    """Faults of endpoints with one method and one place; said even beside other faults."""
    seen: dict[tuple[str, str], int] = {}
    for index, (method, path) in _declared(raw):
        first = seen.setdefault((method, _shape(path)), index)
        if first != index:
            yield (
                f"$.api.endpoints[{index}]: found {method} {_shown(path)} again; "
                f"expected it once, as in $.api.endpoints[{first}]"
            )


def _declared(raw: object) -> Iterator[tuple[int, tuple[str, str]]]:
    """The method and path of every endpoint that has both, whatever else is wrong."""
    match raw:
        case {"api": {"endpoints": [*endpoints]}}:
            for index, endpoint in enumerate(endpoints):
                match endpoint:
                    case {"method": str() as method, "path": str() as path}:
                        yield index, (method, path)


def _build(raw: dict[str, Any]) -> Manifest:
    wanted = raw.get("capabilities", ())
    return Manifest(
        name=raw["name"],
        version=raw["version"],
        publisher=raw.get("publisher"),
        runtime=raw.get("runtime"),
        # Older manifests of the predecessor leave the prefix out.
        capabilities=tuple(dict.fromkeys("cap:" + name.removeprefix("cap:") for name in wanted)),
        ui=_build_ui(raw["ui"]) if "ui" in raw else None,
        endpoints=tuple(map(_build_endpoint, raw.get("api", {}).get("endpoints", ()))),
        raw=MappingProxyType(raw),
    )


def _build_ui(raw: dict[str, Any]) -> Ui:
    return Ui(raw["entry"], MappingProxyType(raw.get("hooks", {})), tuple(raw.get("sandbox", ())))


def _build_endpoint(raw: dict[str, Any]) -> Endpoint:
    known = ("method", "path", "handler", "access", "schedulable")
    return Endpoint(**{name: raw[name] for name in known if name in raw})
