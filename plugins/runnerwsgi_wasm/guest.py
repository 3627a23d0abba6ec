"""A compiled component, linked and ready: one instance and one answer per call."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wasmtime import WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime.component import Component, FuncType

from runnerwsgi.errors import BodyTooLarge

from .faults import BadAnswer, NotRunnable
from .host import Entered, link
from .memory import largest_gone, linear_memories
from .values import CELL, Signature, free_cells, shape

if TYPE_CHECKING:
    import wasmtime

    from runnerwsgi.protocol import ExecuteRequest, Headers

    from .call import Call
    from .engine import Engine

HANDLER = "handler"

# The engine carries a `list<u8>` at 32 bytes of its own per byte, and lets one crossing have
# 128 MiB of them; the library has no setting for it. What is left is for url and headers.
ENGINE_COPY_BYTES = 128 << 20
MAX_BODY_BYTES = (ENGINE_COPY_BYTES - (4 << 20)) // CELL

_CONTEXT = (
    "{request-id: option<string>, tenant-id: string, extension-id: string, "
    "install-id: option<string>, version-id: option<string>}"
)
_HEADERS = "list<{name: string, value: string}>"
_BODY = "body: option<list<u8>>"
_WORLD = (
    f"func({{context: {_CONTEXT}, "
    f"http: {{method: string, url: string, headers: {_HEADERS}, {_BODY}}}}}) "
    f"-> {{status: u16, headers: {_HEADERS}, {_BODY}}}"
)

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 §5.5; TAB may stay


@dataclass(frozen=True, slots=True)
class Answer:
    """A guest's answer, checked."""

    status: int
    headers: Headers
    body: bytes | None


def _shape_of(ty: FuncType) -> str:
    parameters = ", ".join(shape(inner) for _, inner in ty.params)
    return f"func({parameters}) -> {shape(ty.result)}"


def checked(value: dict[str, Any], max_body_bytes: int) -> Answer:
    """A handler's ``execute-response`` as an answer.

    Raises:
        BadAnswer: a status outside 200..599, a header that RFC 9110 §5 does not allow, or a
            body above *max_body_bytes*.
    """
    status, body = value["status"], value["body"]
    if not 200 <= status <= 599:
        raise BadAnswer(f"status {status}; a handler answers 200 to 599")
    if body is not None and len(body) > max_body_bytes:
        raise BadAnswer(f"a body of {len(body)} bytes; at most {max_body_bytes} are allowed")
    headers = tuple((header["name"].lower(), header["value"]) for header in value["headers"])
    for name, content in headers:
        if not _TOKEN.fullmatch(name):
            raise BadAnswer(f"header name {name!r:.80}")
        if _FORBIDDEN.search(content):
            raise BadAnswer(f"header {name} has a control character: {content!r:.80}")
    return Answer(status, headers, body)


def as_arguments(request: ExecuteRequest) -> dict[str, Any]:
    """The ``execute-request`` of a call (protocol §5)."""
    context, http = request.context, request.http
    return {
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
            "headers": [{"name": name, "value": value} for name, value in http.headers],
            "body": http.body,
        },
    }


class Guest:
    """One component, linked once and called from any number of threads.

    Example::

        guest = Guest(engine, component)
        answer = guest.answer(call)

    Raises:
        NotRunnable: it exports no ``handler`` of the world's type.
    """

    def __init__(self, engine: Engine, component: Component) -> None:
        self._engine = engine
        self._component = component
        self._signature = self._handler_type()
        try:
            self._linker = link(engine.wasmtime, component)
        except WasmtimeError as exc:
            raise NotRunnable(f"it cannot be linked: {exc}") from exc
        self._export = component.get_export_index(HANDLER)

    def _handler_type(self) -> Signature:
        exports = self._component.type.exports(self._engine.wasmtime)
        ty = exports[HANDLER].ty if HANDLER in exports else None
        if not isinstance(ty, FuncType):
            names = ", ".join(exports) or "nothing"
            raise NotRunnable(f"it exports {names}; the world `runner` wants `{HANDLER}`")
        if (found := _shape_of(ty)) != _WORLD:
            raise NotRunnable(f"its `{HANDLER}` is {found}; the world `runner` has {_WORLD}")
        return Signature(ty)

    def answer(self, call: Call, max_body_bytes: int) -> Answer:
        """Make an instance, ask it, throw it away.

        Raises:
            BodyTooLarge: the engine cannot carry the request's body; nothing was run.
            BadAnswer: the guest's answer is no HTTP answer.
            WasmtimeError: it trapped; ``call.failure`` is set when a host function did it.
        """
        check_size(call.request.http.body)
        limits = call.request.limits
        store = self._engine.new_store(call.seconds_left, limits.memory_mb, limits.fuel)
        try:
            with self._engine.ticker.running(), Entered(call, store):
                return checked(self._ask(call, store), max_body_bytes)
        except WasmtimeError:
            before = linear_memories()
            store.close()
            call.memory_at_end = largest_gone(before, linear_memories())
            raise
        finally:
            store.close()

    def _ask(self, call: Call, store: wasmtime.Store) -> dict[str, Any]:
        with _timed(call, "instantiate"):
            instance = self._linker.instantiate(store, self._component)
        assert self._export is not None
        function = instance.get_func(store, self._export)
        assert function is not None
        with _timed(call, "run"):
            return self._invoke(function._func, store, as_arguments(call.request))

    def _invoke(
        self, function: Any, store: wasmtime.Store, request: dict[str, Any]
    ) -> dict[str, Any]:
        cells = self._signature.encode_arguments([request])
        argument = ctypes.create_string_buffer(cells, CELL)
        result = ctypes.create_string_buffer(CELL)
        try:
            error = ffi.wasmtime_component_func_call(
                ctypes.byref(function),
                store._context(),
                ctypes.cast(argument, ctypes.POINTER(ffi.wasmtime_component_val_t)),
                1,
                ctypes.cast(result, ctypes.POINTER(ffi.wasmtime_component_val_t)),
                1,
            )
            if error:
                raise WasmtimeError._from_ptr(error)
            assert self._signature.result is not None
            answer: dict[str, Any] = self._signature.result.decode(result.raw, 0, store)
            return answer
        finally:
            free_cells(ctypes.addressof(argument), 1)
            free_cells(ctypes.addressof(result), 1)


@contextmanager
def _timed(call: Call, phase: str) -> Iterator[None]:
    """Note how long a phase took, less what the guest waited for the host in it."""
    started, waited = time.monotonic(), call.host_seconds
    try:
        yield
    finally:
        took = time.monotonic() - started - (call.host_seconds - waited)
        call.timings[phase] = round(took * 1000, 3)
        call.timings["host"] = round(call.host_seconds * 1000, 3)


def check_size(body: bytes | None) -> None:
    """Refuse a body that the engine cannot carry.

    Raises:
        BodyTooLarge: it is above :data:`MAX_BODY_BYTES`.
    """
    if body is not None and len(body) > MAX_BODY_BYTES:
        raise BodyTooLarge(
            f"a body of {len(body)} bytes; the engine carries {MAX_BODY_BYTES}",
            detail=f"Send a body of at most {MAX_BODY_BYTES} bytes.",
        )
