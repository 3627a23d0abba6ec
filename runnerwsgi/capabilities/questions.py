"""The JSON in which a guest's question goes back to the gateway, and its answer (protocol §7)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from runnerwsgi.errors import BadRequest, BadRunnerResponse, RunnerError
from runnerwsgi.wire import strict_base64, strict_object

# The longest question, and the longest answer. The largest value is some 4 MB in base64.
MAX_QUESTION_BYTES = 8 << 20

# The functions' parameters, in the words of WIT. A plugin's own interface is not here:
# nobody but the guest knows its names, so its arguments go in a list, `args`.
PARAMETERS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "secrets": {
        "get": {"key": "string"},
        "list-keys": {},
    },
    "storage": {
        "get": {"namespace": "string", "key": "string"},
        "put": {"entry": "storage-entry"},
        "delete": {"namespace": "string", "key": "string"},
        "list-entries": {"namespace": "string", "cursor": "option<string>"},
    },
    "ui-proxy": {
        "call-route": {"route": "string", "payload": "option<list<u8>>"},
    },
    "scheduler": {
        "list-schedules": {},
        "get-schedule": {"schedule-id": "string"},
        "create-schedule": {"input": "create-schedule-input"},
        "update-schedule": {"schedule-id": "string", "input": "update-schedule-input"},
        "delete-schedule": {"schedule-id": "string"},
        "get-endpoints": {},
    },
    "invoicing": {
        "create-manual-invoice": {"input": "create-manual-invoice-input"},
    },
    "clients": {
        "list-clients": {"input": "clients-list-input"},
        "get-client": {"client-id": "string"},
    },
    "services": {
        "list-services": {"input": "services-list-input"},
        "get-service": {"service-id": "string"},
    },
}
RECORDS: Mapping[str, Mapping[str, str]] = {
    "storage-entry": {
        "namespace": "string",
        "key": "string",
        "value": "list<u8>",
        "revision": "option<u64>",
    },
    "create-schedule-input": {
        "endpoint": "string",
        "cron": "string",
        "timezone": "option<string>",
        "enabled": "option<bool>",
        "name": "option<string>",
        "payload": "option<string>",
    },
    "update-schedule-input": {
        "endpoint": "option<string>",
        "cron": "option<string>",
        "timezone": "option<string>",
        "enabled": "option<bool>",
        "name": "option<string>",
        "payload": "option<string>",
    },
    "manual-invoice-item-input": {
        "service-id": "string",
        "quantity": "f64",
        "description": "string",
        "rate": "f64",
        "is-discount": "option<bool>",
        "discount-type": "option<discount-type>",
        "applies-to-item-id": "option<string>",
        "applies-to-service-id": "option<string>",
    },
    "create-manual-invoice-input": {
        "client-id": "string",
        "items": "list<manual-invoice-item-input>",
        "invoice-date": "option<string>",
        "due-date": "option<string>",
        "po-number": "option<string>",
    },
    "clients-list-input": {
        "search": "option<string>",
        "include-inactive": "option<bool>",
        "page": "option<u32>",
        "page-size": "option<u32>",
    },
    "services-list-input": {
        "search": "option<string>",
        "item-kind": "option<service-item-kind>",
        "is-active": "option<bool>",
        "billing-method": "option<service-billing-method>",
        "page": "option<u32>",
        "page-size": "option<u32>",
    },
}
ENUMS: Mapping[str, frozenset[str]] = {
    "discount-type": frozenset({"percentage", "fixed"}),
    "service-item-kind": frozenset({"service", "product"}),
    "service-billing-method": frozenset({"fixed", "hourly", "usage"}),
}

# Where bytes are in the interfaces of the table: the fields that hold base64.
_BYTES: Mapping[str, frozenset[str]] = {
    "storage": frozenset({"value"}),
    "ui-proxy": frozenset({"payload", "ok"}),
}
# In a plugin's own interface nothing says what a text stands for, so the value itself does.
# No WIT name begins with a dollar sign.
_TAGS: Mapping[str, Callable[[Any], Any]] = {
    "$bytes": lambda text: strict_base64(_checked(text, str)),
    "$tuple": lambda items: tuple(_checked(items, list)),
    "$flags": lambda names: frozenset(_checked(names, list)),
}


def question_to_json(interface: str, function: str, args: Sequence[Any]) -> bytes:
    """The arguments of a host function as the body of ``POST …/{interface}/{function}``.

    Raises:
        ValueError: an argument is no value that JSON can carry, such as a NaN.
    """
    names = PARAMETERS.get(interface, {}).get(function)
    if names is None:
        return _dump({"args": _tagged(list(args))})
    return _dump(_plain(dict(zip(names, args, strict=True))))


def question_from_json(interface: str, function: str, data: bytes) -> tuple[Any, ...]:
    """The arguments that a runner sent, in their order.

    Raises:
        BadRequest: not strict JSON, no base64, or a parameter that is missing, unknown or of
            another type.
    """
    found = strict_object(data, BadRequest)
    names = PARAMETERS.get(interface, {}).get(function)
    if names is None:
        args = _read(found, interface, BadRequest).get("args")
        if not isinstance(args, list) or len(found) > 1:
            raise BadRequest("the arguments of a plugin's own function go in a list, args")
        return tuple(args)
    values = _read(found, interface, BadRequest)
    # An engine holds a guest to these types; whoever is at the other end here may be no engine.
    if not _is_record(values, names):
        takes = ", ".join(f"{name}: {kind}" for name, kind in names.items())
        raise BadRequest(f"{interface}.{function} takes ({takes})")
    return tuple(values.get(name) for name in names)


def _is_record(value: Any, fields: Mapping[str, str]) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= fields.keys()
        and all(_is_of(value.get(name), kind) for name, kind in fields.items())
    )


def _is_of(value: Any, kind: str) -> bool:
    """Whether a value is of a type of WIT."""
    if kind in _PLAIN:
        return _PLAIN[kind](value)
    if kind in RECORDS:
        return _is_record(value, RECORDS[kind])
    if kind in ENUMS:
        return isinstance(value, str) and value in ENUMS[kind]
    outer, _, inner = kind.removesuffix(">").partition("<")
    if outer == "option":
        return value is None or _is_of(value, inner)
    return isinstance(value, list) and all(_is_of(item, inner) for item in value)


def _is_whole(value: Any, below: int) -> bool:
    return type(value) is int and 0 <= value < below


_PLAIN: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "u32": lambda value: _is_whole(value, 2**32),
    "u64": lambda value: _is_whole(value, 2**64),
    "f64": lambda value: type(value) in (int, float),
    "list<u8>": lambda value: isinstance(value, bytes),
}


def answer_to_json(interface: str, value: Any) -> bytes:
    """``{"ok": value}``.

    Raises:
        ValueError: *value* is none that JSON can carry.
    """
    form = _plain if interface in PARAMETERS else _tagged
    return _dump({"ok": form(value)})


def refusal_to_json(case: str) -> bytes:
    """``{"err": case}``: an error case of the interface's enum."""
    return _dump({"err": case})


def answer_from_json(interface: str, data: bytes) -> dict[str, Any]:
    """What a gateway answered: a dict of one key, ``ok`` or ``err``.

    Raises:
        BadRunnerResponse: neither, or not strict JSON.
    """
    found = strict_object(data, BadRunnerResponse)
    if found.keys() == {"err"} and isinstance(found["err"], str):
        return found
    if found.keys() != {"ok"}:
        raise BadRunnerResponse("the gateway answered neither ok nor err")
    return _read(found, interface, BadRunnerResponse)


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    """A value of an interface of the table: bytes are base64, and the reader knows where."""
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _scalar(value)


def _tagged(value: Any) -> Any:
    """A value of a plugin's own interface: what JSON has no form for says what it is."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, tuple):
        return {"$tuple": [_tagged(item) for item in value]}
    if isinstance(value, AbstractSet):
        return {"$flags": sorted(value)}
    if isinstance(value, Mapping):
        return {name: _tagged(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_tagged(item) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"a value of type {type(value).__name__} is none of WIT's")


def _read(
    found: dict[str, Any], interface: str, error: Callable[[str], RunnerError]
) -> dict[str, Any]:
    own = interface not in PARAMETERS
    try:
        value = _untagged(found) if own else _with_bytes(found, _BYTES.get(interface, frozenset()))
        result: dict[str, Any] = _checked(value, dict)
    except (ValueError, TypeError, RecursionError) as exc:
        raise error(f"a value that cannot be read: {exc}") from None
    return result


def _with_bytes(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {
            name: strict_base64(item)
            if name in names and isinstance(item, str)
            else _with_bytes(item, names)
            for name, item in value.items()
        }
    return [_with_bytes(item, names) for item in value] if isinstance(value, list) else value


def _untagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    items = {name: _untagged(item) for name, item in value.items()}
    tag = next(iter(items), "")
    if not tag.startswith("$"):
        return items
    if len(items) > 1 or tag not in _TAGS:
        raise ValueError(f"{tag[:32]!r} is not one of {', '.join(_TAGS)}")
    return _TAGS[tag](items[tag])


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"found {type(value).__name__}; expected {kind.__name__}")
    return value
