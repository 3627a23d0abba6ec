"""The handler of a component: how a request gets into it, and its answer out."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wasmtime import WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime.component import FuncType

from . import carrier
from .faults import BadAnswer, NotRunnable
from .host import in_host_function
from .values import CELL, Signature, Text, decoded, free_cells, shape

if TYPE_CHECKING:
    from wasmtime import Store
    from wasmtime.component import Component, Instance

    from runnerwsgi.protocol import ExecuteRequest, Headers

    from .values import Codec

NAME = "handler"

# What the engine lets one crossing carry to the host: 128 MiB, of which it takes 48 bytes for
# each byte of a list. The library has no setting for it.
_MOST_PLAIN_BYTES = (128 << 20) // 48 - 4096
# As strings a body may be larger than guests can be expected to hold.
MAX_BODY_BYTES = 64 << 20

_CONTEXT = (
    "request-id: option<string>, tenant-id: string, extension-id: string, "
    "install-id: option<string>, version-id: option<string>"
)
_HEADERS = "headers: list<{name: string, value: string}>, body: option<list<u8>>"
WORLD = (
    f"func({{context: {{{_CONTEXT}}}, http: {{method: string, url: string, {_HEADERS}}}}}) "
    f"-> {{status: u16, {_HEADERS}}}"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a guest answered, as it came."""

    status: int
    headers: Headers
    body: bytes | None


class Function:
    """One exported function, called with plain values.

    Example::

        function = Function(component, "handler", function_type)
        value = function(store, instance, request)
    """

    def __init__(self, component: Component, name: str, ty: FuncType) -> None:
        export = component.get_export_index(name)
        assert export is not None
        self._export = export
        self._signature = Signature(ty)

    def __call__(
        self, store: Store, instance: Instance, *values: Any, result_codec: Codec | None = None
    ) -> Any:
        """Call it in *instance*; its result is read by *result_codec*, by default its type's.

        Raises:
            WasmtimeError: the guest trapped.
            RuntimeError: a host function calls back into the guest that waits for it.
        """
        if in_host_function(store):
            raise RuntimeError("a guest cannot be entered while it waits for a host function")
        function = instance.get_func(store, self._export)
        assert function is not None
        count = len(values)
        arguments = ctypes.create_string_buffer(
            self._signature.encode_arguments(values), max(1, count) * CELL
        )
        result = ctypes.create_string_buffer(CELL)
        codec = result_codec or self._signature.result
        try:
            error = ffi.wasmtime_component_func_call(
                ctypes.byref(function._func),
                store._context(),
                ctypes.cast(arguments, ctypes.POINTER(ffi.wasmtime_component_val_t)),
                count,
                ctypes.cast(result, ctypes.POINTER(ffi.wasmtime_component_val_t)),
                0 if codec is None else 1,
            )
            if error:
                raise WasmtimeError._from_ptr(error)
            return None if codec is None else decoded(codec, result.raw, store)
        finally:
            free_cells(ctypes.addressof(arguments), count)
            free_cells(ctypes.addressof(result), 1)


class Plain:
    """The world's own function, with records, and bodies as lists of bytes."""

    max_body_bytes = _MOST_PLAIN_BYTES

    def __init__(self, component: Component, types: Mapping[str, FuncType]) -> None:
        self._function = Function(component, NAME, types[NAME])

    def ask(
        self,
        store: Store,
        instance: Instance,
        request: ExecuteRequest,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> Answer:
        """Send the ``execute-request`` of a call (protocol §5); the ``execute-response``.

        The library itself carries no body that would be worth a check beforehand.
        """
        context, http = request.context, request.http
        value = self._function(
            store,
            instance,
            {
                "context": {
                    "request-id": context.request_id,
                    "tenant-id": context.tenant_id,
                    "extension-id": context.extension_id,
                    "install-id": context.install_id,
                    "version-id": context.version_id,
                },
                "http": {
                    "method": http.method,
                    "url": http.url,
                    "headers": [{"name": name, "value": text} for name, text in http.headers],
                    "body": http.body,
                },
            },
        )
        headers = tuple((header["name"], header["value"]) for header in value["headers"])
        return Answer(value["status"], headers, value["body"])


class Carried:
    """The carrier's functions: the same in tuples, with bodies as strings beside them."""

    max_body_bytes = MAX_BODY_BYTES
    shapes = (
        "func(((option<string>, string, string, option<string>, option<string>), "
        "(string, string, list<(string, string)>, option<string>))) "
        "-> (u16, list<(string, string)>, option<string>, u32)",
        "func(string) -> NoneType",
        "func() -> string",
    )

    def __init__(self, component: Component, types: Mapping[str, FuncType]) -> None:
        self._call, self._put, self._take = (
            Function(component, name, types[name]) for name in carrier.EXPORTS
        )

    def ask(
        self,
        store: Store,
        instance: Instance,
        request: ExecuteRequest,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> Answer:
        """Put the body there, send the rest, and take the answer's body if it has one."""
        context, http = request.context, request.http
        if http.body:
            self._put(store, instance, http.body.decode("latin-1"))
        value = (
            (
                context.request_id,
                context.tenant_id,
                context.extension_id,
                context.install_id,
                context.version_id,
            ),
            (http.method, http.url, http.headers, None if http.body is None else ""),
        )
        status, headers, body, size = self._call(store, instance, value)
        if size > max_body_bytes:
            raise BadAnswer(f"a body of {size} bytes; at most {max_body_bytes} are allowed")
        if size:
            return Answer(status, tuple(headers), self._take_body(store, instance, size))
        return Answer(status, tuple(headers), None if body is None else b"")

    def _take_body(self, store: Store, instance: Instance, size: int) -> bytes:
        # As UTF-8 a body is at most twice as long. The functions may be the guest's own.
        text: str = self._take(store, instance, result_codec=Text(most_bytes=2 * size))
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            raise BadAnswer("a body that holds something else than bytes") from None


def handler_of(component: Component, exports: Mapping[str, Any]) -> Plain | Carried:
    """The best way into a component.

    Args:
        component: the component.
        exports: the types of its exports, by name.

    Raises:
        NotRunnable: it exports no ``handler`` of the world's type.
    """
    types = {name: ty for name, ty in exports.items() if isinstance(ty, FuncType)}
    if NAME not in types:
        names = ", ".join(exports) or "nothing"
        raise NotRunnable(f"it exports {names}; the world `runner` wants `{NAME}`")
    if (found := shape(types[NAME])) != WORLD:
        raise NotRunnable(f"its `{NAME}` is {found}; the world `runner` has {WORLD}")
    if tuple(shape(types.get(name)) for name in carrier.EXPORTS) == Carried.shapes:
        return Carried(component, types)
    return Plain(component, types)
