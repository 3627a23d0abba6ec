"""Wrap a component so that bodies cross into it as one string instead of a list of bytes.

The library moves a ``list<u8>`` as one value of 32 bytes per byte, and gives up at 2.8 MB. A
``string`` it copies. In the encoding ``latin1+utf16`` of the canonical ABI a string whose
characters are all below 256 is, in memory, one byte for each: exactly the list. So the
component is put into another one that has the same imports, exports ``handler`` as it is,
and beside it the same function under the name :data:`NAME`, with tuples for the records (a
tuple lies in memory as a record does) and a string for each body::

    host ── string, decoded as Latin-1 ──> carrier ── list<u8>, a copy ──> handler

The guest itself is not changed and cannot tell. What cannot be wrapped runs as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

NAME = "handler-carried"

# The carrier's own code. Both sides agree on where everything lies, so it only passes the
# addresses on: of the request, and of the 24 bytes at 16 for the response.
MEMORY_WAT = """(module
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 64))
  (func (export "realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32)
    (result i32) (local $at i32) (local $end i64)
    (if (i32.le_u (local.get $new) (local.get $size)) (then (return (local.get $old))))
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (local.set $end (i64.add
      (i64.extend_i32_u (local.get $at)) (i64.extend_i32_u (local.get $new))))
    (block $fits
      (br_if $fits (i64.le_u (local.get $end)
        (i64.shl (i64.extend_i32_u (memory.size)) (i64.const 16))))
      (br_if $fits (i32.ne (i32.const -1) (memory.grow (i32.wrap_i64 (i64.shr_u
        (i64.sub (i64.add (local.get $end) (i64.const 65535))
          (i64.shl (i64.extend_i32_u (memory.size)) (i64.const 16)))
        (i64.const 16))))))
      unreachable)
    (global.set $top (i32.wrap_i64 (local.get $end)))
    (memory.copy (local.get $at) (local.get $old) (local.get $size))
    (local.get $at)))"""
FUNCTION_WAT = """(module
  (import "guest" "handler" (func $handler (param i32 i32)))
  (func (export "carry") (param $request i32) (result i32)
    (call $handler (local.get $request) (i32.const 16))
    (i32.const 16)))"""

_PREAMBLE = b"\0asm\x0d\0\1\0"

# Section ids and sorts of the component binary format (Binary.md of the component model).
_CORE_MODULE, _CORE_INSTANCE, _COMPONENT, _INSTANCE = 1, 2, 4, 5
_ALIAS, _TYPE, _CANON, _IMPORT, _EXPORT = 6, 7, 8, 10, 11
_CUSTOM = 0
_SORTS = {1: "func", 3: "type", 4: "component", 5: "instance"}
_STRING, _U16 = 0x73, 0x7B
_LATIN1_UTF16 = b"\x02"


class CannotWrap(Exception):
    """The component is not built as both toolchains build theirs: imports first."""


@dataclass
class _Reader:
    """Reads a binary from front to back."""

    data: bytes
    at: int = 0

    def byte(self) -> int:
        if self.at >= len(self.data):
            raise CannotWrap("it ends too early")
        self.at += 1
        return self.data[self.at - 1]

    def number(self) -> int:
        """An unsigned LEB128."""
        value = shift = 0
        while (part := self.byte()) & 0x80:
            value |= (part & 0x7F) << shift
            shift += 7
        return value | part << shift

    def bytes(self) -> bytes:
        """A length, and as many bytes."""
        size = self.number()
        if size > len(self.data) - self.at:
            raise CannotWrap("it ends too early")
        self.at += size
        return self.data[self.at - size : self.at]


@dataclass
class _Imports:
    """What the leading sections of a component import and define."""

    count: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_SORTS.values(), 0))
    arguments: list[bytes] = field(default_factory=list)

    def add(self, sort: int) -> int:
        """Count one more of a sort; its index."""
        if sort not in _SORTS:
            raise CannotWrap(f"it imports or aliases sort {sort}")
        self.count[_SORTS[sort]] += 1
        return self.count[_SORTS[sort]] - 1

    def read(self, section: int, body: bytes) -> None:
        """Take one section in."""
        reader = _Reader(body)
        for _ in range(reader.number()):
            if section == _TYPE:
                self.add(3)  # only their number matters
            elif section == _IMPORT:
                self._import(reader)
            else:
                self._alias(reader)

    def _import(self, reader: _Reader) -> None:
        if reader.byte() > 1:
            raise CannotWrap("it has a name of a newer kind")
        name, sort = reader.bytes(), reader.byte()
        if sort == 3 and reader.byte() == 1:
            self.arguments.append(_name(name) + _sort_index(sort, self.add(sort)))
            return
        reader.number()
        self.arguments.append(_name(name) + _sort_index(sort, self.add(sort)))

    def _alias(self, reader: _Reader) -> None:
        sort, target = reader.byte(), reader.byte()
        if target != 0:
            raise CannotWrap("it aliases something that is no export")
        reader.number()
        reader.bytes()
        self.add(sort)


def _leb(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _type_index(index: int) -> bytes:
    """A type by its index where a primitive, a negative number, could stand: a signed LEB128."""
    out = _leb(index)
    return out if out[-1] < 0x40 else out[:-1] + bytes([out[-1] | 0x80, 0])


def _name(name: bytes) -> bytes:
    return _leb(len(name)) + name


def _vector(items: Iterable[bytes]) -> bytes:
    listed = list(items)
    return _leb(len(listed)) + b"".join(listed)


def _section(number: int, *items: bytes) -> bytes:
    return _raw_section(number, _vector(items))


def _raw_section(number: int, body: bytes) -> bytes:
    return bytes([number]) + _leb(len(body)) + body


def _sort_index(sort: int, index: int) -> bytes:
    return bytes([sort]) + _leb(index)


def _leading(component: bytes) -> Iterator[tuple[int, bytes]]:
    """The sections before the first that holds code; without names for debuggers."""
    if not component.startswith(_PREAMBLE):
        raise CannotWrap("it is no component")
    reader = _Reader(component, len(_PREAMBLE))
    while reader.at < len(component):
        number, body = reader.byte(), reader.bytes()
        if number in (_TYPE, _IMPORT, _ALIAS):
            yield number, body
        elif number != _CUSTOM:
            return


def _types(first: int) -> tuple[bytes, int]:
    """The type section of the carried function, and the function type's index.

    It is ``func(request: tuple<context, http>) -> response``, where

    * context: ``tuple<option<string>, string, string, option<string>, option<string>>``
    * http: ``tuple<string, string, headers, option<string>>``
    * headers: ``list<tuple<string, string>>``
    * response: ``tuple<u16, headers, option<string>>``
    """
    text = bytes([_STRING])
    option, pair, headers, context, http, request, response = (
        _type_index(first + n) for n in range(7)
    )
    definitions = (
        b"\x6b" + text,
        b"\x6f" + _vector([text, text]),
        b"\x70" + pair,
        b"\x6f" + _vector([option, text, text, option, option]),
        b"\x6f" + _vector([text, text, headers, option]),
        b"\x6f" + _vector([context, http]),
        b"\x6f" + _vector([bytes([_U16]), headers, option]),
        b"\x40" + _vector([_name(b"request") + request]) + b"\0" + response,
    )
    return _section(_TYPE, *definitions), first + 7


def wrap(component: bytes, memory: bytes, passing: bytes) -> bytes:
    """The component inside a carrier.

    Args:
        component: the guest, in binary.
        memory: :data:`MEMORY_WAT` in binary.
        passing: :data:`FUNCTION_WAT` in binary.

    Raises:
        CannotWrap: its imports do not come first, or are of a kind that cannot be passed on.
    """
    imports, prefix = _Imports(), bytearray(_PREAMBLE)
    for number, body in _leading(component):
        imports.read(number, body)
        prefix += _raw_section(number, body)
    instance, handler = imports.count["instance"], imports.count["func"]
    types, function_type = _types(imports.count["type"])
    options = _vector([_LATIN1_UTF16, b"\3\0", b"\4\0"])  # memory 0, realloc: core function 0
    return b"".join(
        (
            prefix,
            _raw_section(_COMPONENT, component),
            _section(_INSTANCE, b"\0" + _leb(0) + _vector(imports.arguments)),
            _section(_ALIAS, b"\1\0" + _leb(instance) + _name(b"handler")),
            _raw_section(_CORE_MODULE, memory),
            _raw_section(_CORE_MODULE, passing),
            _section(_CORE_INSTANCE, b"\0\0\0"),
            _section(
                _ALIAS,
                b"\0\2\1\0" + _name(b"memory"),
                b"\0\0\1\0" + _name(b"realloc"),
            ),
            _section(_CANON, b"\1\0" + _leb(handler) + options),
            _section(
                _CORE_INSTANCE,
                b"\1" + _vector([_name(b"handler") + b"\0\1"]),
                b"\0\1" + _vector([_name(b"guest") + b"\x12\1"]),
            ),
            _section(_ALIAS, b"\0\0\1\2" + _name(b"carry")),
            types,
            _section(_CANON, b"\0\0\2" + options + _leb(function_type)),
            _section(
                _EXPORT,
                b"\0" + _name(b"handler") + _sort_index(1, handler) + b"\0",
                b"\0" + _name(NAME.encode()) + _sort_index(1, handler + 1) + b"\0",
            ),
        )
    )
