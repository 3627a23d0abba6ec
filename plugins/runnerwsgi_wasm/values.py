"""WIT values as plain Python values, and back: bodies in one piece, not element by element.

The library converts a ``list<u8>`` with one Python call per byte. Here every type becomes a
:class:`Codec` once, when a component is linked; a value is then packed into, or unpacked
from, the C representation directly:

* every value is a cell of :data:`CELL` bytes: its kind, then its content or a pointer to it;
* an encoder answers the bytes of one cell and allocates what the cell points at;
* a decoder reads a cell out of a buffer and never frees: who owns the cell does that.

Plain values: records are dicts by WIT field name, ``list<u8>`` is bytes, enums are strings,
an absent option is None, a ``result`` is ``("ok", value)`` or ``("err", value)``, another
variant is ``(case, value)``, flags are a set of names, a resource is its number.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable, Mapping
from struct import Struct
from struct import error as StructError
from typing import Any, Protocol, cast

from wasmtime import Store, StoreContext
from wasmtime import _ffi as ffi
from wasmtime.component import _types as wit
from wasmtime.component._resources import ResourceHost

from .faults import GuestFault

Storelike = Store | StoreContext

CELL = ctypes.sizeof(ffi.wasmtime_component_val_t)
_ENTRY = ctypes.sizeof(ffi.wasmtime_component_valrecord_entry_t)
_NAME = ffi.wasmtime_component_valrecord_entry_t.val.offset
_OF = ffi.wasmtime_component_val_t.of.offset

# The packing below is written for these sizes; another wasmtime may lay its values out anew.
if (CELL, _ENTRY, _NAME, _OF) != (32, 48, 16, 8):
    raise ImportError("this wasmtime lays its values out anew: install 'wasmtime>=50,<51'")

# Python makes objects of values while no deadline reaches it: some microseconds for each element
# of a list; and a text is copied and decoded while no other thread can run, 2 ms for each MiB.
MOST_ELEMENTS = 10_000
MOST_TEXT_BYTES = 8 << 20


class _Budget(threading.local):
    """How many elements of lists, in whatever depth, the values being read may still have."""

    elements = MOST_ELEMENTS


_budget = _Budget()

_CHUNK = 1 << 16
_LONGEST = 1 << 31

# Small library functions are called with the GIL held: giving it up costs more than they do.
_held = ctypes.PyDLL(str(ffi.filename))


def _bind(name: str, *argtypes: Any, restype: Any = None) -> Callable[..., Any]:
    function = _held[name]
    function.argtypes = argtypes
    function.restype = restype
    return cast("Callable[..., Any]", function)


_new_bytes = _bind("wasm_byte_vec_new", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
_new_box = _bind("wasmtime_component_val_new", ctypes.c_char_p, restype=ctypes.c_void_p)
_free_box = _bind("wasmtime_component_val_free", ctypes.c_void_p)
_delete_value = _bind("wasmtime_component_val_delete", ctypes.c_void_p)
_new_block = {
    kind: _bind(f"wasmtime_component_val{kind}_new_uninit", ctypes.c_void_p, ctypes.c_size_t)
    for kind in ("list", "record", "tuple", "flags")
}
_delete_block = {
    kind: _bind(f"wasmtime_component_val{kind}_delete", ctypes.c_void_p) for kind in _new_block
} | {"text": _bind("wasm_byte_vec_delete", ctypes.c_void_p)}
_ELEMENT = {"list": CELL, "record": _ENTRY, "tuple": CELL, "flags": 16, "text": 1}

_pack_vec = Struct("=QQ").pack
_unpack_vec = Struct("=QQ").unpack_from
_pack_of_vec = Struct("=B7xQQ8x").pack
_pack_of_pointer = Struct("=B7xQ16x").pack
_pack_of_result = Struct("=B7xB7xQ8x").pack
_pack_of_variant = Struct("=B7xQQQ").pack
_unpack_pointer = Struct("=Q").unpack_from


class Arena:
    """What encoders have allocated, until the finished cell owns it.

    Example::

        with Arena(store) as arena:
            cell = codec.encode(value, arena)
        # after an error everything was freed again; otherwise `cell` owns its blocks
    """

    def __init__(self, store: Storelike | None = None) -> None:
        self.store = store
        self._vec = (ctypes.c_size_t * 2)()
        self._at = ctypes.addressof(self._vec)
        self._owned: list[tuple[str, int, int]] = []

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if failure:
            for kind, count, data in reversed(self._owned):
                self._free(kind, count, data)
        self._owned.clear()

    def text(self, value: bytes) -> tuple[int, int]:
        """Copy *value* into the library's memory; its size and address."""
        _new_bytes(self._at, len(value), value)
        size, data = self._vec
        self._owned.append(("text", size, data))
        return size, data

    def block(self, kind: str, count: int) -> tuple[int, int]:
        """Allocate *count* elements, which the caller fills at once; their count and address."""
        _new_block[kind](self._at, count)
        count, data = self._vec
        self._owned.append((kind, count, data))
        return count, data

    def filled(self, kind: str, count: int, content: bytes) -> tuple[int, int]:
        """Allocate *count* elements and copy *content* there; their count and address."""
        count, data = self.block(kind, count)
        ctypes.memmove(data, content, len(content))
        return count, data

    def box(self, cell: bytes) -> int:
        """Move *cell* into a block of its own; its address."""
        data: int = _new_box(cell)
        self._owned.append(("box", 1, data))
        return data

    def _free(self, kind: str, count: int, data: int) -> None:
        # Zero is a valid element (false) that owns nothing: what these pointed at has an
        # entry of its own.
        if kind == "box":
            ctypes.memset(data, 0, CELL)
            _free_box(data)
            return
        ctypes.memset(data, 0, count * _ELEMENT[kind])
        self._vec[0], self._vec[1] = count, data
        _delete_block[kind](self._at)


class Codec(Protocol):
    """One WIT type: how its plain values become cells, and back."""

    def encode(self, value: Any, arena: Arena) -> bytes:
        """The cell of *value*; raises TypeError or ValueError when it is not of the type."""
        ...

    def decode(self, raw: bytes, at: int, store: Storelike | None) -> Any:
        """The plain value of the cell at *raw[at:]*."""
        ...


def _string(raw: bytes, at: int) -> str:
    size, data = _unpack_vec(raw, at)
    return ctypes.string_at(data, size).decode() if size else ""


def _block(raw: bytes, at: int, element: int) -> tuple[int, bytes]:
    count, data = _unpack_vec(raw, at)
    return count, ctypes.string_at(data, count * element) if count else b""


def _boxed(address: int) -> bytes:
    return ctypes.string_at(address, CELL)


class Number:
    """``bool``, ``u8`` … ``f64``: the content is the value."""

    def __init__(self, kind: int, form: str, *python: type) -> None:
        packing = Struct(f"=B7x{form}")
        self._kind = kind
        self._python = python
        self._pack = packing.pack
        self._pad = bytes(CELL - packing.size)
        self._unpack = Struct(f"={form}").unpack_from

    def encode(self, value: Any, arena: Arena) -> bytes:
        """The number, checked for type and range."""
        if not isinstance(value, self._python) or (value is True and bool not in self._python):
            raise TypeError(f"expected {self._python[0].__name__}, found {value!r:.40}")
        try:
            return self._pack(self._kind, value) + self._pad
        except StructError as exc:
            raise ValueError(f"{value!r:.40} is out of range: {exc}") from None

    def decode(self, raw: bytes, at: int, store: Storelike | None) -> Any:
        """The number."""
        return self._unpack(raw, at + _OF)[0]


class Char(Number):
    """``char``: a string of one character."""

    def encode(self, value: Any, arena: Arena) -> bytes:
        """The character's code point."""
        return super().encode(ord(value), arena)

    def decode(self, raw: bytes, at: int, store: Storelike | None) -> str:
        """The character."""
        return chr(super().decode(raw, at, store))


class Text:
    """``string``: a str."""

    kind = ffi.WASMTIME_COMPONENT_STRING.value

    def __init__(self, most_bytes: int = MOST_TEXT_BYTES) -> None:
        self._most_bytes = most_bytes

    def encode(self, value: Any, arena: Arena) -> bytes:
        """The text as UTF-8, which has no lone surrogates."""
        if not isinstance(value, str):
            raise TypeError(f"expected str, found {type(value).__name__}")
        return _pack_of_vec(self.kind, *arena.text(value.encode()))

    def decode(self, raw: bytes, at: int, store: Storelike | None) -> str:
        """The text; a guest that sends more than eight MiB at once is ended."""
        size, _ = _unpack_vec(raw, at + _OF)
        if size > self._most_bytes:
            raise GuestFault(f"a text of {size} bytes; at most {self._most_bytes}")
        return _string(raw, at + _OF)


class Enum(Text):
    """``enum``: one of its names."""

    kind = ffi.WASMTIME_COMPONENT_ENUM.value

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = tuple(names)

    def encode(self, value: Any, arena: Arena) -> bytes:
        """The name, which must be one of the enum's."""
        if value not in self.names:
            raise ValueError(f"{value!r:.40} is not one of {', '.join(self.names)}")
        return super().encode(value, arena)


class Bytes:
    """``list<u8>``: bytes, in pieces that stay in the processor's cache."""

    _kind = bytes([ffi.WASMTIME_COMPONENT_U8.value])

    def encode(self, value: Any, arena: Arena) -> bytes:
        """One cell per byte, sixty-four thousand at a time."""
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"expected bytes, found {type(value).__name__}")
        count, address = arena.block("list", len(value))
        size = min(_CHUNK, count)
        cells = bytearray(size * CELL)
        cells[::CELL] = self._kind * size
        source = (ctypes.c_char * len(cells)).from_buffer(cells)
        for start in range(0, count, _CHUNK):
            part = value[start : start + _CHUNK]
            cells[_OF : len(part) * CELL : CELL] = part
            ctypes.memmove(address + start * CELL, source, len(part) * CELL)
        return _pack_of_vec(ffi.WASMTIME_COMPONENT_LIST.value, count, address)

    def decode(self, raw: bytes, at: int, store: Storelike | None) -> bytes:
        """The content byte of every cell."""
        count, address = _unpack_vec(raw, at + _OF)
        return b"".join(
            ctypes.string_at(address + start * CELL, min(_CHUNK, count - start) * CELL)[_OF::CELL]
            for start in range(0, count, _CHUNK)
        )


class Sequence:
    """``list<T>`` of anything but bytes."""

    def __init__(self, element: Codec) -> None:
        self._element = element

    def encode(self, value: Any, arena: Arena) -> bytes:
        """One cell per element."""
        if not isinstance(value, list | tuple):
            raise TypeError(f"expected list, found {type(value).__name__}")
        cells = b"".join(self._element.encode(item, arena) for item in value)
        return _pack_of_vec(
            ffi.WASMTIME_COMPONENT_LIST.value, *arena.filled("list", len(value), cells)
        )

    def decode(self, raw: bytes, at: int, store: Storelike | None) -> list[Any]:
        """The elements; a guest that sends more than ten thousand at once is ended."""
        count, _ = _unpack_vec(raw, at + _OF)
        _budget.elements -= count
        if _budget.elements < 0:
            raise GuestFault(f"lists with more than {MOST_ELEMENTS} elements in all")
        _, cells = _block(raw, at + _OF, CELL)
        return [self._element.decode(cells, i * CELL, store) for i in range(count)]


class Tuple:
    """``tuple<A, B>``: a tuple."""

    def __init__(self, elements: Iterable[Codec]) -> None:
        self._elements = tuple(elements)

    def encode(self, value: Any, arena: Arena) -> bytes:
        """One cell per element."""
        pairs = zip(self._elements, value, strict=True)
        cells = b"".join(codec.encode(item, arena) for codec, item in pairs)
        return _pack_of_vec(
            ffi.WASMTIME_COMPONENT_TUPLE.value, *arena.filled("tuple", len(self._elements), cells)
        )

    def decode(self, raw: bytes, at: int, store: Storelike | None) -> tuple[Any, ...]:
        """The elements."""
        _, cells = _block(raw, at + _OF, CELL)
        return tuple(c.decode(cells, i * CELL, store) for i, c in enumerate(self._elements))


class Record:
    """``record``: a dict by field name; what is missing is None, what is more is left out."""

    def __init__(self, fields: Iterable[tuple[str, Codec]]) -> None:
        self._fields = tuple((name, name.encode(), codec) for name, codec in fields)

    def encode(self, value: Any, arena: Arena) -> bytes:
        """One named cell per field."""
        if not isinstance(value, Mapping):
            raise TypeError(f"expected a dict by field name, found {type(value).__name__}")
        entries = b"".join(
            _pack_vec(*arena.text(raw)) + self._field(name, codec, value, arena)
            for name, raw, codec in self._fields
        )
        return _pack_of_vec(
            ffi.WASMTIME_COMPONENT_RECORD.value,
            *arena.filled("record", len(self._fields), entries),
        )

    @staticmethod
    def _field(name: str, codec: Codec, value: Mapping[str, Any], arena: Arena) -> bytes:
        try:
            return codec.encode(value.get(name), arena)
        except (TypeError, ValueError) as exc:
            raise type(exc)(f"{name}: {exc}") from None

    def decode(self, raw: bytes, at: int, store: Storelike | None) -> dict[str, Any]:
        """The fields."""
        _, entries = _block(raw, at + _OF, _ENTRY)
        return {
            name: codec.decode(entries, i * _ENTRY + _NAME, store)
            for i, (name, _, codec) in enumerate(self._fields)
        }


class Option:
    """``option<T>``: the value, or None."""

    def __init__(self, payload: Codec) -> None:
        self._payload = payload

    def encode(self, value: Any, arena: Arena) -> bytes:
        """A pointer to the value's cell, or to nothing."""
        box = 0 if value is None else arena.box(self._payload.encode(value, arena))
        return _pack_of_pointer(ffi.WASMTIME_COMPONENT_OPTION.value, box)

    def decode(self, raw: bytes, at: int, store: Storelike | None) -> Any:
        """The value, or None."""
        (box,) = _unpack_pointer(raw, at + _OF)
        return self._payload.decode(_boxed(box), 0, store) if box else None


class Variant:
    """``variant``: ``(case, value)``, the value None where the case has none."""

    def __init__(self, cases: Mapping[str, Codec | None]) -> None:
        self.cases = dict(cases)

    def encode(self, value: Any, arena: Arena) -> bytes:
        """The case's name and a pointer to its value."""
        case, payload = value
        name = _pack_vec(*arena.text(case.encode()))
        return _pack_of_variant_named(name, self._box(case, payload, arena))

    def _box(self, case: str, payload: Any, arena: Arena) -> int:
        if case not in self.cases:
            raise ValueError(f"{case!r:.40} is not one of {', '.join(self.cases)}")
        codec = self.cases[case]
        return 0 if codec is None else arena.box(codec.encode(payload, arena))

    def decode(self, raw: bytes, at: int, store: Storelike | None) -> tuple[str, Any]:
        """The case and its value."""
        return self._unbox(_string(raw, at + _OF), raw, at + _OF + 16, store)

    def _unbox(self, case: str, raw: bytes, at: int, store: Storelike | None) -> tuple[str, Any]:
        (box,) = _unpack_pointer(raw, at)
        codec = self.cases[case]
        return case, codec.decode(_boxed(box), 0, store) if codec and box else None


class Result(Variant):
    """``result<T, E>``: ``("ok", value)`` or ``("err", value)``."""

    def __init__(self, ok: Codec | None, err: Codec | None) -> None:
        super().__init__({"ok": ok, "err": err})

    def encode(self, value: Any, arena: Arena) -> bytes:
        """The flag and a pointer to the value."""
        case, payload = value
        box = self._box(case, payload, arena)
        return _pack_of_result(ffi.WASMTIME_COMPONENT_RESULT.value, case == "ok", box)

    def decode(self, raw: bytes, at: int, store: Storelike | None) -> tuple[str, Any]:
        """The flag's word and the value."""
        return self._unbox("ok" if raw[at + _OF] else "err", raw, at + _OF + 8, store)


class Flags:
    """``flags``: a set of names."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)

    def encode(self, value: Any, arena: Arena) -> bytes:
        """The names that are set."""
        if unknown := set(value) - set(self.names):
            raise ValueError(f"{unknown} are not among {', '.join(self.names)}")
        names = b"".join(_pack_vec(*arena.text(name.encode())) for name in value)
        return _pack_of_vec(
            ffi.WASMTIME_COMPONENT_FLAGS.value, *arena.filled("flags", len(value), names)
        )

    def decode(self, raw: bytes, at: int, store: Storelike | None) -> set[str]:
        """The names that are set."""
        count, names = _block(raw, at + _OF, 16)
        return {_string(names, i * 16) for i in range(count)}


class Resource:
    """``own<R>`` and ``borrow<R>`` of a resource of ours: the number it was made with."""

    def __init__(self, type_id: int) -> None:
        self._type_id = type_id

    def encode(self, value: Any, arena: Arena) -> bytes:
        """A new handle to the resource of that number, owned by the guest."""
        assert arena.store is not None
        handle = ResourceHost.own(value, self._type_id).to_any(arena.store)
        address = ctypes.addressof(handle._consume().contents)
        return _pack_of_pointer(ffi.WASMTIME_COMPONENT_RESOURCE.value, address)

    def decode(self, raw: bytes, at: int, store: Storelike | None) -> int:
        """The number the handle was made with."""
        assert store is not None
        (address,) = _unpack_pointer(raw, at + _OF)
        host = ctypes.POINTER(ffi.wasmtime_component_resource_host_t)()
        error = ffi.wasmtime_component_resource_any_to_host(
            store._context(),
            ctypes.cast(address, ctypes.POINTER(ffi.wasmtime_component_resource_any_t)),
            ctypes.byref(host),
        )
        if error:
            ffi.wasmtime_error_delete(error)
            raise TypeError("a resource that is not the host's")
        with ResourceHost._from_ptr(host) as resource:
            return int(resource.rep)


class Opaque:
    """A type that no interface of ours uses: it can be linked, not converted."""

    def encode(self, value: Any, arena: Arena) -> bytes:
        """Never possible."""
        raise TypeError("values of this type cannot cross between host and guest")

    def decode(self, raw: bytes, at: int, store: Storelike | None) -> Any:
        """Never possible."""
        raise TypeError("values of this type cannot cross between host and guest")


def _pack_of_variant_named(name: bytes, box: int) -> bytes:
    size, data = _unpack_vec(name, 0)
    return _pack_of_variant(ffi.WASMTIME_COMPONENT_VARIANT.value, size, data, box)


_NUMBERS: dict[type, Codec] = {
    wit.Bool: Number(ffi.WASMTIME_COMPONENT_BOOL.value, "?", bool),
    wit.S8: Number(ffi.WASMTIME_COMPONENT_S8.value, "b", int),
    wit.U8: Number(ffi.WASMTIME_COMPONENT_U8.value, "B", int),
    wit.S16: Number(ffi.WASMTIME_COMPONENT_S16.value, "h", int),
    wit.U16: Number(ffi.WASMTIME_COMPONENT_U16.value, "H", int),
    wit.S32: Number(ffi.WASMTIME_COMPONENT_S32.value, "i", int),
    wit.U32: Number(ffi.WASMTIME_COMPONENT_U32.value, "I", int),
    wit.S64: Number(ffi.WASMTIME_COMPONENT_S64.value, "q", int),
    wit.U64: Number(ffi.WASMTIME_COMPONENT_U64.value, "Q", int),
    wit.F32: Number(ffi.WASMTIME_COMPONENT_F32.value, "f", float, int),
    wit.F64: Number(ffi.WASMTIME_COMPONENT_F64.value, "d", float, int),
    wit.Char: Char(ffi.WASMTIME_COMPONENT_CHAR.value, "I", int),
    wit.String: Text(),
}

ResourceIds = Callable[[Any], int]


def codec_of(ty: Any, resource_id: ResourceIds | None = None) -> Codec:
    """The codec of a type as the library describes it.

    Args:
        ty: a type of ``wasmtime.component``.
        resource_id: gives the number of a resource type; without it handles cannot cross.
    """
    if codec := _NUMBERS.get(type(ty)):
        return codec
    build = _BUILDERS.get(type(ty))
    return (
        build(ty, lambda inner: codec_of(inner, resource_id)) if build else _handle(ty, resource_id)
    )


def _handle(ty: Any, resource_id: ResourceIds | None) -> Codec:
    if resource_id and isinstance(ty, wit.OwnType | wit.BorrowType):
        return Resource(resource_id(ty.ty))
    return Opaque()


def _list(ty: Any, of: Callable[[Any], Codec]) -> Codec:
    element = ty.element
    return Bytes() if isinstance(element, wit.U8) else Sequence(of(element))


_BUILDERS: dict[type, Callable[[Any, Callable[[Any], Codec]], Codec]] = {
    wit.ListType: _list,
    wit.TupleType: lambda ty, of: Tuple(map(of, ty.elements)),
    wit.RecordType: lambda ty, of: Record((name, of(inner)) for name, inner in ty.fields),
    wit.OptionType: lambda ty, of: Option(of(ty.payload)),
    wit.ResultType: lambda ty, of: Result(*(inner and of(inner) for inner in (ty.ok, ty.err))),
    wit.VariantType: lambda ty, of: Variant({n: inner and of(inner) for n, inner in ty.cases}),
    wit.EnumType: lambda ty, of: Enum(ty.names),
    wit.FlagsType: lambda ty, of: Flags(ty.names),
}


_NAMES: dict[type, str] = {kind: kind.__name__.lower() for kind in _NUMBERS}
_SHAPES: dict[type, Callable[[Any], str]] = {
    wit.ListType: lambda ty: f"list<{shape(ty.element)}>",
    wit.OptionType: lambda ty: f"option<{shape(ty.payload)}>",
    wit.TupleType: lambda ty: f"({', '.join(map(shape, ty.elements))})",
    wit.RecordType: lambda ty: (
        "{" + ", ".join(f"{name}: {shape(inner)}" for name, inner in ty.fields) + "}"
    ),
    wit.FuncType: lambda ty: (
        f"func({', '.join(shape(inner) for _, inner in ty.params)}) -> {shape(ty.result)}"
    ),
}


def shape(ty: Any) -> str:
    """A function's or a value's type as text, to compare it."""
    describe = _SHAPES.get(type(ty))
    return describe(ty) if describe else _NAMES.get(type(ty), type(ty).__name__)


class Signature:
    """A function's types, ready to convert its arguments and its result.

    Example::

        signature = Signature(function_type)
        names = signature.names
    """

    def __init__(self, ty: wit.FuncType, resource_id: ResourceIds | None = None) -> None:
        params, result = ty.params, ty.result
        self.names = tuple(name for name, _ in params)
        self.params = tuple(codec_of(inner, resource_id) for _, inner in params)
        self.result = None if result is None else codec_of(result, resource_id)

    def encode_arguments(self, values: Iterable[Any]) -> bytes:
        """The cells of a call's arguments; free them with :func:`free_cells`."""
        with Arena() as arena:
            pairs = zip(self.params, values, strict=True)
            return b"".join(codec.encode(value, arena) for codec, value in pairs)

    def decode_arguments(self, raw: bytes, store: Storelike) -> list[Any]:
        """The plain values of a call's arguments."""
        _budget.elements = MOST_ELEMENTS
        return [c.decode(raw, i * CELL, store) for i, c in enumerate(self.params)]

    def encode_result(self, value: Any, store: Storelike) -> bytes:
        """The cell of a result, which its receiver owns; nothing where there is none."""
        if self.result is None:
            return b""
        with Arena(store) as arena:
            return self.result.encode(value, arena)


def decoded(codec: Codec, raw: bytes, store: Storelike) -> Any:
    """The plain value of one cell, such as a call's result."""
    _budget.elements = MOST_ELEMENTS
    return codec.decode(raw, 0, store)


def free_cells(address: int, count: int) -> None:
    """Free what *count* cells at *address* own."""
    for i in range(count):
        _delete_value(address + i * CELL)
