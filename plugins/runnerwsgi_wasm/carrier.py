"""Wrap a component so that bodies cross into it as strings instead of lists of bytes.

The library moves a ``list<u8>`` as one value of 32 bytes per byte, and gives up at 2.8 MB. A
``string`` it copies. In the encoding ``latin1+utf16`` of the canonical ABI a string whose
characters are all below 256 is, in memory, one byte for each: exactly the list. So the
component is put into another one that has the same imports, exports ``handler`` as it is,
and beside it three functions of its own (:data:`EXPORTS`)::

    host ── body in, as Latin-1 ───────────> carrier
    host ── request, without the body ─────> carrier ── whole, a copy ──> handler
    host <── response, the body's size ──── carrier <──────────────────── handler
    host <── body out, as Latin-1 ────────── carrier

Request and response are tuples, which lie in memory as the records of the world do. The
texts in them stay UTF-8: guests made with componentize-py cannot take any that has to be
converted. The guest itself is not changed and cannot tell; what cannot be wrapped runs as it
is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

# Part of the names of cached code: another carrier, another number.
VERSION = 2

EXPORTS = ("handler-carried", "handler-carried-in", "handler-carried-out")

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

# The body of a request is at 76 (is there one), 80 (address) and 84 (size). The response is at
# 16, its body at 28, 32 and 36; its size goes to 40, and address and size of a body to 48.
FUNCTIONS_WAT = """(module
  (import "libc" "memory" (memory 1))
  (import "guest" "handler" (func $handler (param i32 i32)))
  (global $at (mut i32) (i32.const 0))
  (global $size (mut i32) (i32.const 0))
  (func (export "in") (param $at i32) (param $size i32)
    (global.set $at (local.get $at))
    (global.set $size (local.get $size)))
  (func (export "call") (param $request i32) (result i32)
    (if (global.get $size) (then
      (i32.store offset=80 (local.get $request) (global.get $at))
      (i32.store offset=84 (local.get $request) (global.get $size))))
    (call $handler (local.get $request) (i32.const 16))
    (if (i32.load8_u (i32.const 28)) (then
      (i32.store (i32.const 48) (i32.load (i32.const 32)))
      (i32.store (i32.const 52) (i32.load (i32.const 36)))
      (i32.store (i32.const 40) (i32.load (i32.const 36)))
      (i32.store (i32.const 36) (i32.const 0))))
    (i32.const 16))
  (func (export "out") (result i32)
    (i32.const 48)))"""

_PREAMBLE = b"\0asm\x0d\0\1\0"

# Section ids and sorts of the component binary format (Binary.md of the component model).
_CORE_MODULE, _CORE_INSTANCE, _COMPONENT, _INSTANCE = 1, 2, 4, 5
_ALIAS, _TYPE, _CANON, _IMPORT, _EXPORT = 6, 7, 8, 10, 11
_CUSTOM = 0
_SORTS = {1: "func", 3: "type", 4: "component", 5: "instance"}
_STRING, _U16, _U32 = 0x73, 0x7B, 0x79
_UTF8, _LATIN1_UTF16 = b"\0", b"\2"


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


def _types(first: int) -> bytes:
    """The type section of the three functions, whose types have the last three indices.

    They are ``func(request: tuple<context, http>) -> response``, ``func(body: string)`` and
    ``func() -> string``, where

    * context: ``tuple<option<string>, string, string, option<string>, option<string>>``
    * http: ``tuple<string, string, headers, option<string>>``
    * headers: ``list<tuple<string, string>>``
    * response: ``tuple<u16, headers, option<string>, u32>``
    """
    text = bytes([_STRING])
    option, pair, headers, context, http, request, response = (
        _type_index(first + n) for n in range(7)
    )
    return _section(
        _TYPE,
        b"\x6b" + text,
        b"\x6f" + _vector([text, text]),
        b"\x70" + pair,
        b"\x6f" + _vector([option, text, text, option, option]),
        b"\x6f" + _vector([text, text, headers, option]),
        b"\x6f" + _vector([context, http]),
        b"\x6f" + _vector([bytes([_U16]), headers, option, bytes([_U32])]),
        b"\x40" + _vector([_name(b"request") + request]) + b"\0" + response,
        b"\x40" + _vector([_name(b"body") + text]) + b"\1\0",
        b"\x40" + _vector([]) + b"\0" + text,
    )


_FIRST_FUNCTION_TYPE = 7


def _options(encoding: bytes) -> bytes:
    return _vector([encoding, b"\3\0", b"\4\0"])  # memory 0, realloc: core function 0


def _lift(core_function: int, encoding: bytes, function_type: int) -> bytes:
    return b"\0\0" + _leb(core_function) + _options(encoding) + _leb(function_type)


def wrap(component: bytes, memory: bytes, functions: bytes) -> bytes:
    """The component inside a carrier.

    Args:
        component: the guest, in binary.
        memory: :data:`MEMORY_WAT` in binary.
        functions: :data:`FUNCTIONS_WAT` in binary.

    Raises:
        CannotWrap: its imports do not come first, or are of a kind that cannot be passed on.
    """
    imports, prefix = _Imports(), bytearray(_PREAMBLE)
    for number, body in _leading(component):
        imports.read(number, body)
        prefix += _raw_section(number, body)
    guest = _section(_INSTANCE, b"\0\0" + _vector(imports.arguments))
    return b"".join(
        (
            prefix,
            _raw_section(_COMPONENT, component),
            guest,
            _raw_section(_CORE_MODULE, memory),
            _raw_section(_CORE_MODULE, functions),
            *_inner(imports),
            *_outer(imports),
        )
    )


def _inner(imports: _Imports) -> Iterator[bytes]:
    """Core instances: 0 the memory, 1 the guest's handler, 2 the carrier's functions."""
    instance, handler = imports.count["instance"], imports.count["func"]
    yield _section(_ALIAS, b"\1\0" + _leb(instance) + _name(b"handler"))
    yield _section(_CORE_INSTANCE, b"\0\0" + _vector([]))
    yield _section(_ALIAS, b"\0\2\1\0" + _name(b"memory"), b"\0\0\1\0" + _name(b"realloc"))
    yield _section(_CANON, b"\1\0" + _leb(handler) + _options(_UTF8))
    yield _section(
        _CORE_INSTANCE,
        b"\1" + _vector([_name(b"handler") + b"\0\1"]),
        b"\0\1" + _vector([_name(b"libc") + b"\x12\0", _name(b"guest") + b"\x12\1"]),
    )


def _outer(imports: _Imports) -> Iterator[bytes]:
    """The carrier's functions as exports, beside the handler itself."""
    handler, first_type = imports.count["func"], imports.count["type"]
    names = (b"call", b"in", b"out")
    yield _section(_ALIAS, *(b"\0\0\1\2" + _name(name) for name in names))
    yield _types(first_type)
    encodings = (_UTF8, _LATIN1_UTF16, _LATIN1_UTF16)
    yield _section(
        _CANON,
        *(
            _lift(2 + n, encoding, first_type + _FIRST_FUNCTION_TYPE + n)
            for n, encoding in enumerate(encodings)
        ),
    )
    exported = ("handler", *EXPORTS)
    yield _section(
        _EXPORT,
        *(
            b"\0" + _name(name.encode()) + _sort_index(1, handler + n) + b"\0"
            for n, name in enumerate(exported)
        ),
    )
