"""The wasmtime engine of a process, and the clock that ends guests that take too long."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

import wasmtime

from . import carrier

VERSION = metadata.version("wasmtime")

# Bounds on one guest besides its memory; both toolchains stay far below them. Memory and table
# elements are limited one by one, so their number multiplies what a guest may take. Toolchains
# give a guest one memory; it may have two, beside that of the carrier.
TABLE_ELEMENTS = 200_000
INSTANCES = 100
TABLES = 10
MEMORIES = 3
STACK_BYTES = 1 << 20

TICK_SECONDS = 0.01


def new_engine(fuel: bool) -> wasmtime.Engine:
    """An engine for calls with or without a fuel limit: the two need different machine code.

    Whatever changes here must change :data:`SETTINGS` too, which names it in the cache.
    """
    config = wasmtime.Config()
    config.wasm_component_model = True
    config.epoch_interruption = True
    config.consume_fuel = fuel
    config.max_wasm_stack = STACK_BYTES
    config.wasm_threads = False
    config.shared_memory = False
    return wasmtime.Engine(config)


# What the machine code depends on besides the component, the library and the processor.
SETTINGS = f"carrier={carrier.VERSION} epoch threads=off stack={STACK_BYTES}"


class Ticker:
    """Advances the epoch of an engine while calls run, one step each 10 ms of wall clock.

    A guest is stopped when its engine's epoch passes its deadline. One thread serves all
    calls of an engine; it sleeps for good while there are none, and when the interpreter is
    busy it catches up by the clock instead of counting its own wake-ups.

    Example::

        with ticker.running():
            store.set_epoch_deadline(Ticker.ticks(0.5))
            ...
    """

    def __init__(self, engine: wasmtime.Engine) -> None:
        self._engine = engine
        self._wanted = threading.Condition()
        self._active = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    @staticmethod
    def ticks(seconds: float) -> int:
        """How many steps ahead a deadline in *seconds* is; never before its time."""
        return math.ceil(max(0.0, seconds) / TICK_SECONDS) + 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep the epoch going until the block ends."""
        with self._wanted:
            self._active += 1
            if self._active == 1:
                self._start()
        try:
            yield
        finally:
            with self._wanted:
                self._active -= 1

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="runnerwsgi-wasm-ticker", daemon=True
            )
            self._thread.start()
        self._wanted.notify()

    def _run(self) -> None:
        while self._wait_for_calls():
            due = time.monotonic()
            while self._active:
                time.sleep(TICK_SECONDS)
                while due + TICK_SECONDS <= time.monotonic():
                    due += TICK_SECONDS
                    self._engine.increment_epoch()

    def _wait_for_calls(self) -> bool:
        with self._wanted:
            self._wanted.wait_for(lambda: self._active or self._closed)
            return not self._closed

    def close(self) -> None:
        """End the thread once the last call is through."""
        with self._wanted:
            self._closed = True
            self._wanted.notify()


class Engine:
    """One wasmtime engine with its clock.

    Example::

        engine = Engine(fuel=False)
        component = engine.load(path)
        engine.close()
    """

    def __init__(self, fuel: bool) -> None:
        self.fuel = fuel
        self.wasmtime = new_engine(fuel)
        self.ticker = Ticker(self.wasmtime)

    def new_store(self, seconds: float, memory_mb: int, fuel: int | None) -> wasmtime.Store:
        """A store for one call, limited in time, memory, tables, instances and fuel."""
        store = wasmtime.Store(self.wasmtime)
        store.set_epoch_deadline(Ticker.ticks(seconds))
        store.set_limits(
            memory_size=memory_mb << 20,
            table_elements=TABLE_ELEMENTS,
            instances=INSTANCES,
            tables=TABLES,
            memories=MEMORIES,
        )
        if fuel is not None:
            store.set_fuel(fuel)
        return store

    def close(self) -> None:
        """Stop the clock."""
        self.ticker.close()
