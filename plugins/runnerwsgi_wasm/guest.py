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

from . import carrier
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

# Bodies cross as strings, where a component could be wrapped (carrier.py). The request's is
# bounded by what its guest can be expected to hold; the answer's by the engine, which lets
# one crossing have 128 MiB. Without the carrier an answer counts 48 bytes per byte there.
MAX_BODY_BYTES = 64 << 20
MAX_PLAIN_BODY_BYTES = (128 << 20) // 48 - 4096

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 §5.5; TAB may stay


@dataclass(frozen=True, slots=True)
class Answer:
    """What a guest answered."""

    status: int
    headers: Headers
    body: bytes | None


def checked(answer: Answer, max_body_bytes: int) -> Answer:
    """A handler's answer, if it is one that HTTP allows, with header names in lower case.

    Raises:
        BadAnswer: a status outside 200..599, a header that RFC 9110 §5 does not allow, or a
            body above *max_body_bytes*.
    """
    if not 200 <= answer.status <= 599:
        raise BadAnswer(f"status {answer.status}; a handler answers 200 to 599")
    if (size := len(answer.body or b"")) > max_body_bytes:
        raise BadAnswer(f"a body of {size} bytes; at most {max_body_bytes} are allowed")
    for name, value in answer.headers:
        if not _TOKEN.fullmatch(name):
            raise BadAnswer(f"header name {name!r:.80}")
        if _FORBIDDEN.search(value):
            raise BadAnswer(f"header {name} has a control character: {value!r:.80}")
    headers = tuple((name.lower(), value) for name, value in answer.headers)
    return Answer(answer.status, headers, answer.body)


class Plain:
    """The world's own types: records, and bodies as lists of bytes."""

    export = HANDLER
    shape = (
        "func({context: {request-id: option<string>, tenant-id: string, extension-id: string, "
        "install-id: option<string>, version-id: option<string>}, "
        "http: {method: string, url: string, headers: list<{name: string, value: string}>, "
        "body: option<list<u8>>}}) "
        "-> {status: u16, headers: list<{name: string, value: string}>, body: option<list<u8>>}"
    )
    max_body_bytes = MAX_PLAIN_BODY_BYTES

    @staticmethod
    def argument(request: ExecuteRequest) -> Any:
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

    @staticmethod
    def answer(value: Any) -> Answer:
        """An ``execute-response`` as an answer, not yet checked."""
        headers = ((header["name"], header["value"]) for header in value["headers"])
        return Answer(value["status"], tuple(headers), value["body"])


class Carried:
    """The carrier's types: tuples for records, and bodies as strings of Latin-1."""

    export = carrier.NAME
    shape = (
        "func((("
        "option<string>, string, string, option<string>, option<string>), "
        "(string, string, list<(string, string)>, option<string>))) "
        "-> (u16, list<(string, string)>, option<string>)"
    )
    max_body_bytes = MAX_BODY_BYTES

    @staticmethod
    def argument(request: ExecuteRequest) -> Any:
        """The same request, in the order of the records' fields."""
        context, http = request.context, request.http
        body = None if http.body is None else http.body.decode("latin-1")
        return (
            (
                context.request_id,
                context.tenant_id,
                context.extension_id,
                context.install_id,
                context.version_id,
            ),
            (http.method, http.url, http.headers, body),
        )

    @staticmethod
    def answer(value: Any) -> Answer:
        """The same response, likewise."""
        status, headers, body = value
        return Answer(status, tuple(headers), None if body is None else body.encode("latin-1"))


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
        self._way, self._signature = self._handler()
        try:
            self._linker = link(engine.wasmtime, component)
        except WasmtimeError as exc:
            raise NotRunnable(f"it cannot be linked: {exc}") from exc
        self._export = component.get_export_index(self._way.export)

    def _handler(self) -> tuple[type[Plain | Carried], Signature]:
        exports = self._component.type.exports(self._engine.wasmtime)
        types = {name: export.ty for name, export in exports.items()}
        if not isinstance(handler := types.get(HANDLER), FuncType):
            names = ", ".join(types) or "nothing"
            raise NotRunnable(f"it exports {names}; the world `runner` wants `{HANDLER}`")
        if (found := shape(handler)) != Plain.shape:
            raise NotRunnable(f"its `{HANDLER}` is {found}; the world `runner` has {Plain.shape}")
        carried = types.get(Carried.export)
        if isinstance(carried, FuncType) and shape(carried) == Carried.shape:
            return Carried, Signature(carried)
        return Plain, Signature(handler)

    def answer(self, call: Call, max_body_bytes: int) -> Answer:
        """Make an instance, ask it, throw it away.

        Raises:
            BodyTooLarge: the engine cannot carry the request's body; nothing was run.
            BadAnswer: the guest's answer is no HTTP answer.
            WasmtimeError: it trapped; ``call.failure`` is set when a host function did it.
        """
        check_size(call.request.http.body, self._way.max_body_bytes)
        limits = call.request.limits
        store = self._engine.new_store(call.seconds_left, limits.memory_mb, limits.fuel)
        try:
            with self._engine.ticker.running(), Entered(call, store):
                value = self._ask(call, store)
                return checked(self._way.answer(value), max_body_bytes)
        except WasmtimeError:
            before = linear_memories()
            store.close()
            call.memory_at_end = largest_gone(before, linear_memories())
            raise
        finally:
            store.close()

    def _ask(self, call: Call, store: wasmtime.Store) -> Any:
        with _timed(call, "instantiate"):
            instance = self._linker.instantiate(store, self._component)
        assert self._export is not None
        function = instance.get_func(store, self._export)
        assert function is not None
        with _timed(call, "run"):
            return self._invoke(function._func, store, self._way.argument(call.request))

    def _invoke(self, function: Any, store: wasmtime.Store, request: Any) -> Any:
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
            return self._signature.result.decode(result.raw, 0, store)
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


def check_size(body: bytes | None, limit: int = MAX_BODY_BYTES) -> None:
    """Refuse a body that the engine cannot carry.

    Raises:
        BodyTooLarge: it is above *limit*.
    """
    if body is not None and len(body) > limit:
        raise BodyTooLarge(
            f"a body of {len(body)} bytes; the engine carries {limit}",
            detail=f"Send a body of at most {limit} bytes.",
        )
