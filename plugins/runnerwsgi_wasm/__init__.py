"""The embedded engine, backend ``wasm``: extensions as WebAssembly components, in process.

``RUNNER_BACKEND=wasm`` chooses it. The world that guests are built against is
``runnerwsgi/wit/alga.wit``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from runnerwsgi.errors import ConfigurationError
from runnerwsgi.settings import Setting, Settings, integer, path, read

if TYPE_CHECKING:
    from .backend import WasmBackend

__all__ = ["SETTINGS", "plugin"]

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "RUNNER_WASM_CACHE_DIR",
        path,
        None,
        "Folder of compiled code; only the user of the process may have access to it.",
        owner="wasm",
        shown="`RUNNER_HOME/wasm`",
    ),
    Setting(
        "RUNNER_WASM_CACHE_MB",
        integer(64, 1 << 20),
        4096,
        "Size of that folder in MiB; what was used longest ago goes first.",
        owner="wasm",
    ),
    Setting(
        "RUNNER_WASM_LOADED",
        integer(1, 100_000),
        64,
        "Compiled extensions that a process keeps loaded.",
        owner="wasm",
    ),
    Setting(
        "RUNNER_WASM_COMPILE_TIMEOUT_MS",
        integer(1000, 3_600_000),
        60_000,
        "Time for compiling one extension, in milliseconds.",
        owner="wasm",
    ),
    Setting(
        "RUNNER_WASM_COMPILE_MEMORY_MB",
        integer(256, 1 << 20),
        4096,
        "Memory for compiling one extension, in MiB of address space.",
        owner="wasm",
    ),
    Setting(
        "RUNNER_WASM_LOG_BYTES",
        integer(0, 1 << 30),
        65_536,
        "Log lines kept of one call, in bytes.",
        owner="wasm",
    ),
    Setting(
        "RUNNER_WASM_LOG_LINES",
        integer(0, 1_000_000),
        1000,
        "Log lines kept of one call.",
        owner="wasm",
    ),
    Setting(
        "RUNNER_WASM_HOST_THREADS",
        integer(1, 10_000),
        32,
        "Host calls that may hang, each in a thread, before more are refused; one extension may "
        "have a quarter.",
        owner="wasm",
    ),
)


def plugin(env: Mapping[str, str]) -> WasmBackend:
    """The backend of an environment; the entry point ``wasm`` of the group ``runnerwsgi``.

    Raises:
        ConfigurationError: wasmtime is not installed, or a variable has a bad value.
    """
    try:
        from .backend import WasmBackend
        from .process import Options
    except ImportError as exc:
        raise ConfigurationError(
            f"The backend wasm needs wasmtime ({exc}): pip install 'runnerwsgi[wasm]'."
        ) from exc
    from runnerwsgi.stores import open_store

    settings = Settings.from_env(env)
    own = {row.name.removeprefix("RUNNER_WASM_").lower(): row.name for row in SETTINGS}
    values = read(SETTINGS, env)
    chosen = {field: values[name] for field, name in own.items()}
    chosen["cache_dir"] = chosen["cache_dir"] or settings.home / "wasm"
    options = Options(**chosen, max_response_bytes=settings.max_response_bytes)
    return WasmBackend(open_store(settings), options)
