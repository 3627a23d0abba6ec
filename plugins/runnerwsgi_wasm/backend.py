"""The hooks of the ``wasm`` backend."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runnerwsgi import hookimpl
from runnerwsgi.errors import BundleUnavailable, RunnerError, StorageError
from runnerwsgi.protocol import (
    Bundle,
    ExecuteRequest,
    ExecuteResponse,
    Health,
    Outcome,
    UiAsset,
    WarmUp,
)

from . import engine
from .call import Call
from .faults import NotRunnable
from .guest import Guest, check_size
from .handler import MAX_BODY_BYTES
from .logbook import Logbook
from .outcomes import outcome_of
from .process import Options, PerProcess, Process

if TYPE_CHECKING:
    from runnerwsgi.stores import Store

log = logging.getLogger("runnerwsgi.plugins.wasm")

# What other gateways see beside an outcome; ours goes by the outcome (protocol §2).
_STATUSES: Mapping[Outcome, int] = {"timeout": 504, "out_of_fuel": 504, "internal": 500}
_FAILED = 502
# A page waits this long for a bundle that must be fetched; the fetch goes on for its next try.
_UI_SECONDS = 10.0


class WasmBackend:
    """Runs extensions in this process, each call in a WebAssembly sandbox of its own.

    Example::

        backend = WasmBackend(BundleStore(Path("bundles")), Options(Path("cache")))
        gateway = Gateway(backend)

    Args:
        store: where the bundles are.
        options: what the engine may use.
    """

    def __init__(self, store: Store, options: Options) -> None:
        self._store = store
        self._options = options
        self._processes = PerProcess(lambda: Process(options))
        self._trouble = ""

    @hookimpl
    def runner_execute(self, request: ExecuteRequest) -> ExecuteResponse:
        """Run one handler call in a new instance.

        Raises:
            BodyTooLarge: the engine cannot carry the body; nothing was run.
            BackendStarting: the bundle is still being compiled; nothing was run.
            StorageError: the code cache or the bundle store cannot be used.
            ConfigurationError: others could write to the code cache.
        """
        check_size(request.http.body)
        process = self._processes.current()
        lines = Logbook(self._options.log_bytes, self._options.log_lines)
        call = Call(request, lines, process.workers)
        try:
            guest = self._guest(process, request, call)
            return self._ask(guest, call)
        except BundleUnavailable as exc:
            return _ended("not_found", str(exc), call)
        except RunnerError:
            raise
        except Exception as exc:
            return self._failed(exc, call)

    def _guest(self, process: Process, request: ExecuteRequest, call: Call) -> Guest:
        started = time.monotonic()
        guest = self._load(
            process,
            Bundle(
                request.context.tenant_id,
                request.context.extension_id,
                request.context.content_hash,
            ),
            fuel=request.limits.fuel is not None,
            timeout=call.seconds_left,
        )
        call.timings["load"] = _ms(time.monotonic() - started)
        return guest

    def _load(self, process: Process, bundle: Bundle, *, fuel: bool, timeout: float) -> Guest:
        try:
            guest = process.guests.get(
                bundle.content_hash, fuel, wasm=lambda: self._wasm(bundle), timeout=timeout
            )
        except StorageError as exc:
            self._trouble = str(exc)
            raise
        self._trouble = ""
        return guest

    def _wasm(self, bundle: Bundle) -> Path:
        stored = self._store.fetch(bundle)
        if stored.wasm is None:
            raise NotRunnable("the bundle has no dist/main.wasm: the extension is only a UI")
        return stored.wasm

    def _ask(self, guest: Guest, call: Call) -> ExecuteResponse:
        answer = guest.answer(call, self._options.max_response_bytes)
        return ExecuteResponse(
            answer.status,
            answer.headers,
            answer.body,
            logs=call.log.close(),
            timings=call.timings,
        )

    @staticmethod
    def _failed(exc: Exception, call: Call) -> ExecuteResponse:
        if call.failure and not isinstance(call.failure, Exception):
            raise call.failure  # the process is being ended: KeyboardInterrupt, SystemExit
        outcome, text = outcome_of(exc, call)
        if outcome == "internal":
            log.error("the engine failed in a call", exc_info=call.failure or exc)
        return _ended(outcome, text, call)

    @hookimpl
    def runner_resolve_ui_url(self, asset: UiAsset) -> str:
        """The file in the bundle's unpacked ``ui/`` folder; the bundle is fetched if need be.

        Raises:
            BundleUnavailable: the bundle is not in the store.
            BackendStarting: it is still being fetched.
        """
        bundle = Bundle(asset.tenant_id, asset.extension_id, asset.content_hash)
        stored = self._store.fetch(bundle, _UI_SECONDS, anybodys=True)
        return (stored.path / "ui" / asset.path).as_uri()

    @hookimpl
    def runner_warm_up(self, bundle: Bundle) -> WarmUp:
        """Compile a bundle's component, or find that it is; one without a component is ready.

        Raises:
            BundleUnavailable: the bundle is not in the store, or its component cannot be run.
        """
        started = time.monotonic()
        if self._store.fetch(bundle).wasm is None:
            return WarmUp(compiled=False, ms=0)
        process = self._processes.current()
        before = process.guests.counters.compiled
        try:
            self._load(
                process,
                bundle,
                fuel=False,
                # Its own budget, and that of another process that may be at it already.
                timeout=self._options.compile_timeout_ms / 500 + 10,
            )
        except NotRunnable as exc:
            raise BundleUnavailable(f"{bundle.extension_id} cannot be run: {exc}") from exc
        compiled = process.guests.counters.compiled > before
        return WarmUp(compiled, int(_ms(time.monotonic() - started)))

    @hookimpl
    def runner_health(self) -> Health:
        """What the calls so far have shown; nothing is tried."""
        process = self._processes.known()
        loaded = f"{len(process.guests)} loaded" if process else "not used yet"
        checks = {
            "engine": f"wasmtime {engine.VERSION}",
            "guests": loaded,
            "store": self._store.where,
        }
        if trouble := self._store.trouble:
            return Health("degraded", checks | {"store": trouble})
        if self._trouble:
            return Health("degraded", checks | {"cache": self._trouble})
        return Health("ok", checks | {"cache": str(self._options.cache_dir)})

    @hookimpl
    def runner_metadata(self) -> Mapping[str, Any]:
        """Version, limits and counters."""
        process = self._processes.known()
        counters = process.guests.counters if process else None
        return {
            "engine": f"wasmtime {engine.VERSION}",
            "max_body_bytes": MAX_BODY_BYTES,
            "max_response_bytes": self._options.max_response_bytes,
            "limits": {
                "stack_bytes": engine.STACK_BYTES,
                "table_elements": engine.TABLE_ELEMENTS,
                "instances": engine.INSTANCES,
                "log_bytes": self._options.log_bytes,
                "log_lines": self._options.log_lines,
            },
            "cache_dir": str(self._options.cache_dir),
            "compiled": counters.compiled if counters else 0,
            "loaded": counters.loaded if counters else 0,
            "hits": counters.hits if counters else 0,
        }

    @hookimpl
    def runner_close(self) -> None:
        """End the engine's threads, close the store's connections."""
        self._processes.close()
        self._store.close()


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _ended(outcome: Outcome, error: str, call: Call) -> ExecuteResponse:
    return ExecuteResponse(
        _STATUSES.get(outcome, _FAILED),
        outcome=outcome,
        error=error,
        logs=call.log.close(),
        timings=call.timings,
    )
