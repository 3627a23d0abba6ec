"""The host's side of a component: every import defined, by the component's own types."""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from wasmtime import StoreContext, WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime._slab import Slab
from wasmtime.component import Component, Linker, LinkerInstance, ResourceType
from wasmtime.component import _types as wit

from runnerwsgi.errors import CapabilityError, UnknownCapability

from . import wasi
from .faults import GuestFault, OutOfTime, Unprovided
from .values import CELL, Enum, Result, Signature

if TYPE_CHECKING:
    import wasmtime

    from .call import Call

log = logging.getLogger("runnerwsgi.plugins.wasm")

PACKAGE = "alga:extension/"

# What an extension is to use instead of a part of WASI; it is named when a call of it fails.
CAPABILITIES: Mapping[str, str] = {
    "wasi:http": "cap:http.fetch",
    "wasi:sockets": "cap:http.fetch",
}

# Two interfaces spell the same refusal differently.
_SAME_REFUSAL = {"denied": "not-allowed", "not-allowed": "denied"}


def _context(call: Call) -> dict[str, Any]:
    context = call.request.context
    return {
        "request-id": context.request_id,
        "tenant-id": context.tenant_id,
        "extension-id": context.extension_id,
        "install-id": context.install_id,
        "version-id": context.version_id,
    }


# What the engine answers itself: the request's own data and its log.
OWN: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "alga:extension/context": {"get-context": _context},
    "alga:extension/logging": {
        "log-info": lambda call, message: call.add_log("info", message),
        "log-warn": lambda call, message: call.add_log("warn", message),
        "log-error": lambda call, message: call.add_log("error", message),
    },
}


class HostFunction:
    """One imported function: converts, runs, and turns a refusal into the error case.

    The types are read at the first call: most imports of a language runtime are never used.
    """

    def __init__(
        self, interface: str, name: str, ty: wit.FuncType, resource_id: Callable[[Any], int]
    ) -> None:
        self.interface = interface
        self.name = name
        self._type = ty
        self._resource_id = resource_id
        self._signature: Signature | None = None
        own = OWN.get(interface) or wasi.FUNCTIONS.get(interface) or {}
        self._function = own.get(name) or self._elsewhere()

    def _elsewhere(self) -> Callable[..., Any]:
        is_asked = self.interface.startswith(PACKAGE) and self.interface not in OWN
        return self._ask if is_asked else self._fail

    def _fail(self, call: Call, *args: Any) -> Any:
        capability = CAPABILITIES.get(self.interface.partition("/")[0], "no known capability")
        raise Unprovided(f"{self.interface}#{self.name} is provided by nobody here ({capability})")

    @property
    def signature(self) -> Signature:
        """The function's types."""
        if self._signature is None:
            self._signature = Signature(self._type, self._resource_id)
        return self._signature

    def __call__(self, call: Call, store: StoreContext, arguments: bytes) -> bytes:
        """Run the function for *call*; cells in, cell out."""
        signature = self.signature
        values = signature.decode_arguments(arguments, store)
        return signature.encode_result(self._function(call, *values), store)

    def _ask(self, call: Call, *args: Any) -> Any:
        result = self.signature.result
        try:
            value = call.ask(self.interface.removeprefix(PACKAGE), self.name, args)
        except CapabilityError as exc:
            return self._refusal(exc, result)
        except UnknownCapability as exc:
            raise Unprovided(f"{self.interface}#{self.name}: {exc}") from exc
        except OutOfTime:
            raise
        except Exception as exc:
            log.exception("the host function %s#%s failed", self.interface, self.name)
            return self._refusal(CapabilityError("internal", type(exc).__name__), result)
        return ("ok", value) if isinstance(result, Result) else value

    def _refusal(self, exc: CapabilityError, result: Any) -> tuple[str, Any]:
        errors = result.cases["err"] if isinstance(result, Result) else None
        if isinstance(errors, Enum):
            for case in (exc.case, _SAME_REFUSAL.get(exc.case), "internal"):
                if case in errors.names:
                    return "err", case
        raise GuestFault(f"{self.interface}#{self.name} was refused: {exc}") from exc


_functions: Slab[HostFunction] = Slab()
_calls: dict[int, Call] = {}


class Entered:
    """Makes a call findable by its store while the guest runs.

    Example::

        with Entered(call, store):
            linked.instantiate(store)
    """

    def __init__(self, call: Call, store: wasmtime.Store) -> None:
        self._call = call
        self._at = ctypes.addressof(store._context().contents)

    def __enter__(self) -> None:
        _calls[self._at] = self._call

    def __exit__(self, *_: object) -> None:
        del _calls[self._at]


def in_host_function(store: wasmtime.Store) -> bool:
    """Whether the store's guest is waiting for a host function right now."""
    call = _calls.get(ctypes.addressof(store._context().contents))
    return call is not None and call.in_host_function


def _run(function: HostFunction, context: Any, args: Any, count: int, results: Any) -> None:
    store = StoreContext(context)
    call = _calls[ctypes.addressof(context.contents)]
    started = time.monotonic()
    call.in_host_function = True
    try:
        raw = ctypes.string_at(args, count * CELL) if count else b""
        cell = function(call, store, raw)
        if cell:
            ctypes.memmove(results, cell, CELL)
    except BaseException as exc:
        call.failure = exc
        raise
    finally:
        call.in_host_function = False
        call.host_seconds += time.monotonic() - started
        store._invalidate()


@ffi.wasmtime_component_func_callback_t  # type: ignore[untyped-decorator]
def _on_host_call(
    index: int, context: Any, ty: Any, args: Any, count: int, results: Any, expected: int
) -> int:
    try:
        _run(_functions.get(index), context, args, count, results)
    except BaseException:
        # The reason stays on our side (Call.failure): a guest learns only that it ends.
        error = WasmtimeError("the host ended the call")
        return int(ctypes.cast(error._consume(), ctypes.c_void_p).value or 0)
    return 0


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # type: ignore[untyped-decorator]
def _on_function_gone(index: int) -> None:
    # At the end of the interpreter the module may be gone before the linker is.
    if _functions:
        _functions.deallocate(index)


def _on_resource_gone(store: StoreContext, handle: int) -> None:
    # The only resources with something behind their number are those to wait for.
    if call := _calls.get(ctypes.addressof(store._context().contents)):
        call.pollables.drop(handle)


class Resources:
    """Numbers for the resource types of one component, equal ones being one."""

    def __init__(self) -> None:
        self._types: list[Any] = []

    def number(self, ty: Any) -> int:
        """The number of a resource type; the same for an alias of it."""
        for index, known in enumerate(self._types):
            if known == ty:
                return index
        self._types.append(ty)
        return len(self._types) - 1


def _without_version(interface: str) -> str:
    return interface.partition("@")[0]


class _Importer:
    """Defines the imports of one component in a linker."""

    def __init__(self, engine: wasmtime.Engine) -> None:
        self._engine = engine
        self._resources = Resources()

    def define(self, instance: LinkerInstance, interface: str, items: Mapping[str, Any]) -> None:
        for name, item in items.items():
            self._define_one(instance, interface, name, item.ty)

    def _define_one(self, instance: LinkerInstance, interface: str, name: str, ty: Any) -> None:
        if isinstance(ty, wit.ComponentInstanceType):
            with instance.add_instance(name) as nested:
                self.define(nested, _without_version(name), ty.exports(self._engine))
        elif isinstance(ty, wit.FuncType):
            _add_function(
                instance,
                name,
                HostFunction(interface, name, ty, self._resources.number),
            )
        elif isinstance(ty, ResourceType):
            host = ResourceType.host(self._resources.number(ty))
            instance.add_resource(name, host, _on_resource_gone)
        # A plain type needs no definition. A module or a component cannot be given: linking
        # then fails and says which.


def _add_function(instance: LinkerInstance, name: str, function: HostFunction) -> None:
    raw = name.encode()
    error = ffi.wasmtime_component_linker_instance_add_func(
        instance.ptr(),
        ctypes.create_string_buffer(raw),
        len(raw),
        _on_host_call,
        _functions.allocate(function),
        _on_function_gone,
    )
    if error:
        raise WasmtimeError._from_ptr(error)


def link(engine: wasmtime.Engine, component: Component) -> Linker:
    """A linker that has everything the component imports.

    What nobody provides is there too, and traps when it is called: a component that was
    built with more imports than it uses runs.
    """
    linker = Linker(engine)
    with linker.root() as root:
        _Importer(engine).define(root, "", component.type.imports(engine))
    return linker
