"""Compile a component in a process of its own.

Compiling a hostile component can take minutes and gigabytes. The child has limits on
processor time and memory, and can be killed; the host application cannot.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .faults import CompileError

if TYPE_CHECKING:
    from wasmtime.component import Component

REFUSED = 3
NOT_WRITTEN = 4
GONE = 5

# The host's module path comes behind the interpreter's own: a file of the application that is
# named like one of the standard library's must not take its place.
_START = (
    "import os, sys; sys.path += sys.argv.pop(1).split(os.pathsep); "
    "from runnerwsgi_wasm.compile import main; sys.exit(main(*sys.argv[1:]))"
)


class BundleGone(Exception):
    """The bundle was removed between being fetched and being read."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """Starts the child and judges how it ended.

    Example::

        Compiler(seconds=60, memory_mb=4096).compile(Path("main.wasm"), Path("out"), fuel=False)

    Attributes:
        seconds: wall-clock budget; processor time is limited to as much on every core.
        memory_mb: address space the child may use.
    """

    seconds: float
    memory_mb: int

    def compile(self, wasm: Path, out: Path, *, fuel: bool) -> None:
        """Write the machine code of *wasm* to *out*.

        Raises:
            CompileError: the component was refused, or the budget is used up.
            BundleGone: the component is not there any more.
            OSError: the machine code could not be written; the component may be good.
        """
        command = [_python(), "-I", "-c", _START, os.pathsep.join(sys.path), str(wasm), str(out)]
        command += [str(int(fuel)), str(self._cpu_seconds()), str(self.memory_mb)]
        try:
            ended = subprocess.run(
                command,
                env={},  # no tokens, no passwords of the host's
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=self.seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CompileError(f"compiling took more than {self.seconds:g} s") from None
        self._judge(ended.returncode, ended.stderr.decode(errors="replace").strip())

    def _cpu_seconds(self) -> int:
        return max(1, int(self.seconds * (os.cpu_count() or 1)))

    def _judge(self, status: int, message: str) -> None:
        if status == REFUSED:
            raise CompileError(f"the component is refused: {message[:2000]}")
        if status == GONE:
            raise BundleGone(message)
        if status == NOT_WRITTEN:
            raise OSError(int(message), os.strerror(int(message)))
        if status < 0:
            raise CompileError(
                f"compiling was ended by signal {-status}: it needs more than "
                f"{self._cpu_seconds()} s of processor time or {self.memory_mb} MiB of memory"
            )
        if status:
            raise CompileError(f"compiling failed (status {status}): {message[-2000:]}")


def _python() -> str:
    """A Python interpreter: under some servers ``sys.executable`` is the server."""
    if Path(sys.executable or "").name.startswith("python"):
        return sys.executable
    return str(Path(sys.exec_prefix) / "bin" / "python3")


def _limit(cpu_seconds: int, memory_mb: int) -> None:
    import resource

    os.nice(5)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(wasm: str, out: str, fuel: str, cpu_seconds: str, memory_mb: str) -> int:
    """The child's work; the exit status says how it went, stderr why."""
    _limit(int(cpu_seconds), int(memory_mb))
    from wasmtime import WasmtimeError

    try:
        binary = Path(wasm).read_bytes()
    except FileNotFoundError:
        return GONE
    try:
        component = _compiled(binary, fuel == "1")
    except WasmtimeError as exc:
        sys.stderr.write(str(exc))
        return REFUSED
    try:
        _write(Path(out), component.serialize())
    except OSError as exc:
        sys.stderr.write(str(exc.errno))
        return NOT_WRITTEN
    return 0


def _compiled(wasm: bytes, fuel: bool) -> Component:
    """The component in its carrier, or as it is where that cannot be."""
    from wasmtime import WasmtimeError, wat2wasm
    from wasmtime.component import Component

    from . import carrier
    from .engine import new_engine

    engine = new_engine(fuel)
    parts = (bytes(wat2wasm(text)) for text in (carrier.MEMORY_WAT, carrier.FUNCTIONS_WAT))
    with suppress(carrier.CannotWrap, WasmtimeError):
        return Component(engine, carrier.wrap(wasm, *parts))
    return Component(engine, wasm)


def _write(path: Path, code: bytearray) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(code)
        file.flush()
        # A file cut short by a power failure would be loaded as machine code.
        os.fsync(file.fileno())
