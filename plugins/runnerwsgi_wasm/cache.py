"""Compiled components: on disk for every process of ours, in memory for this one."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import stat
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import wasmtime
from wasmtime.component import Component

from runnerwsgi.errors import BackendStarting, ConfigurationError, StorageError

from .compile import BundleGone
from .engine import SETTINGS, VERSION, Engine
from .faults import NotRunnable
from .guest import Guest

if TYPE_CHECKING:
    from .compile import Compiler

_SUFFIX = ".cwasm"
_MOST_REFUSALS = 256
_REFUSED_SECONDS = 60.0


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        flags = platform.processor()
    return f"{platform.system()} {platform.machine()} {flags}"


class CodeFolder:
    """A folder of machine code that nobody else can write.

    Machine code that is loaded runs with all our rights, so it comes from here only.

    Example::

        folder = CodeFolder(Path("/var/lib/app/wasm"), max_bytes=4 << 30)
        path = folder.path("sha256:…", fuel=False)
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self._max_bytes = max_bytes
        self._made_for = f"{VERSION}\0{SETTINGS}\0{_processor()}"

    def path(self, content_hash: str, *, fuel: bool) -> Path:
        """Where the code of a bundle is: named by what it was made from, by and for."""
        made_from = f"{content_hash}\0{fuel}\0{self._made_for}"
        return self.root / (hashlib.sha256(made_from.encode()).hexdigest() + _SUFFIX)

    def prepare(self) -> None:
        """Make the folder, or check the one that is there.

        Raises:
            ConfigurationError: somebody else can write to it.
            StorageError: it cannot be made.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.root.lstat()
        except OSError as exc:
            raise StorageError(f"The code cache {self.root} cannot be made: {exc}") from exc
        if not _is_ours(found) or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
            raise ConfigurationError(
                f"The code cache {self.root} can be used by others (owner {found.st_uid}, "
                f"mode {stat.S_IMODE(found.st_mode):03o}). Machine code is loaded from it: "
                f"make it yours with mode 700, or set RUNNER_WASM_CACHE_DIR to another folder."
            )

    @contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        """Hold the lock of one file against every other process and thread."""
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def commit(self, path: Path, write: Callable[[Path], None]) -> None:
        """Let *write* fill a temporary file and move it to *path* in one step."""
        descriptor, name = tempfile.mkstemp(dir=self.root, prefix=".compiling-")
        os.close(descriptor)
        try:
            write(Path(name))
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        self._prune(keep=path)

    def _prune(self, keep: Path) -> None:
        files = sorted(self.root.glob(f"*{_SUFFIX}"), key=_last_used, reverse=True)
        total = 0
        for file in files:
            total += _size(file)
            # A process that has it loaded keeps its own mapping of a removed file.
            if total > self._max_bytes and file != keep:
                file.unlink(missing_ok=True)


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid()


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@dataclass(slots=True)
class Counters:
    """What the cache did since it was made: how often it compiled, loaded a file, or had it."""

    compiled: int = 0
    loaded: int = 0
    hits: int = 0


class Guests:
    """The guests of this process, made when they are first asked for.

    A warm call is one look into a dict. A cold one loads the code from disk; where there is
    none, it is compiled once, however many calls, threads and processes wait for it.

    Example::

        guests = Guests(folder, Compiler(60, 4096), {False: engine}.__getitem__, most=64)
        guest = guests.get("sha256:…", False, wasm=find_wasm, timeout=30)
    """

    def __init__(
        self,
        folder: CodeFolder,
        compiler: Compiler,
        engine: Callable[[bool], Engine],
        most: int,
    ) -> None:
        self.counters = Counters()
        self._folder = folder
        self._compiler = compiler
        self._engine = engine
        self._most = most
        self._lock = threading.Lock()
        self._loaded: OrderedDict[tuple[str, bool], Guest] = OrderedDict()
        self._making: dict[tuple[str, bool], Future[Guest]] = {}
        self._refused: dict[tuple[str, bool], tuple[float, str]] = {}

    def __len__(self) -> int:
        return len(self._loaded)

    def get(
        self, content_hash: str, fuel: bool, *, wasm: Callable[[], Path], timeout: float
    ) -> Guest:
        """The guest of a bundle, loaded or compiled when need be.

        Args:
            content_hash: which bundle.
            fuel: whether the call counts instructions, which needs code of its own.
            wasm: finds the component's file; called only when the guest is not loaded.
            timeout: seconds to wait for a compilation; it goes on when they are over.

        Raises:
            BackendStarting: it is still being compiled; nothing was executed.
            NotRunnable: it cannot be compiled within the limits, or has no handler.
            StorageError: the cache cannot be written.
        """
        key = content_hash, fuel
        with self._lock:
            if guest := self._loaded.get(key):
                self._loaded.move_to_end(key)
                self.counters.hits += 1
                return guest
            self._raise_refusal(key)
        return self._wait(self._make(key, wasm), timeout)

    def _raise_refusal(self, key: tuple[str, bool]) -> None:
        until, message = self._refused.get(key, (0.0, ""))
        if time.monotonic() < until:
            raise NotRunnable(message)
        self._refused.pop(key, None)

    @staticmethod
    def _wait(future: Future[Guest], timeout: float) -> Guest:
        try:
            return future.result(timeout)
        except FutureTimeout:
            if future.done():
                raise
            raise BackendStarting("the extension is still being compiled", retry_after=5) from None

    def _make(self, key: tuple[str, bool], wasm: Callable[[], Path]) -> Future[Guest]:
        with self._lock:
            if key in self._making:
                return self._making[key]
            future = self._making[key] = Future()
        path = self._folder.path(key[0], fuel=key[1])
        if path.exists():
            self._fill(future, key, wasm)
        else:
            # In a thread of its own: who waits may give up, the work is for the next caller.
            threading.Thread(
                target=self._fill,
                args=(future, key, wasm),
                name="runnerwsgi-wasm-compile",
                daemon=True,
            ).start()
        return future

    def _fill(self, future: Future[Guest], key: tuple[str, bool], wasm: Callable[[], Path]) -> None:
        try:
            guest = self._load(key, wasm)
        except BaseException as exc:
            with self._lock:
                del self._making[key]
                self._remember_refusal(key, exc)
            future.set_exception(exc)
            return
        with self._lock:
            del self._making[key]
            self._keep(key, guest)
        future.set_result(guest)

    def _remember_refusal(self, key: tuple[str, bool], exc: BaseException) -> None:
        # The same bytes will be refused again, and finding out may cost the whole budget.
        if isinstance(exc, NotRunnable) and len(self._refused) < _MOST_REFUSALS:
            self._refused[key] = time.monotonic() + _REFUSED_SECONDS, str(exc)

    def _keep(self, key: tuple[str, bool], guest: Guest) -> None:
        self._loaded[key] = guest
        while len(self._loaded) > self._most:
            self._loaded.popitem(last=False)

    def _load(self, key: tuple[str, bool], wasm: Callable[[], Path]) -> Guest:
        path = self._folder.path(key[0], fuel=key[1])
        self._folder.prepare()
        engine = self._engine(key[1])
        try:
            component = self._load_file(path, engine)
        except (FileNotFoundError, wasmtime.WasmtimeError):
            # None yet, or one that this machine's engine does not take: made anew.
            self._compile(path, key[1], wasm())
            component = self._load_file(path, engine)
        return Guest(engine, component)

    def _load_file(self, path: Path, engine: Engine) -> Component:
        found = path.lstat()
        if not _is_ours(found) or not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
            raise ConfigurationError(
                f"{path} is not ours alone: delete it, somebody else put it there."
            )
        component = Component.deserialize_file(engine.wasmtime, str(path))
        os.utime(path)  # what was used last is pruned last
        with self._lock:
            self.counters.loaded += 1
        return component

    def _compile(self, path: Path, fuel: bool, wasm: Path) -> None:
        try:
            self._compile_once(path, fuel, wasm)
        except BundleGone as exc:
            # The bundle had to make room for others. It is not refused: it is fetched again.
            raise BackendStarting("the bundle went while it was being compiled") from exc
        except OSError as exc:
            raise StorageError(
                f"The code cache {self._folder.root} cannot be written: {exc.strerror}. "
                "Check its free space and permissions (RUNNER_WASM_CACHE_DIR)."
            ) from exc

    def _compile_once(self, path: Path, fuel: bool, wasm: Path) -> None:
        before = _last_used(path)
        with self._folder.locked(path):
            if _last_used(path) > before:
                return  # another process was faster
            self._folder.commit(path, lambda out: self._compiler.compile(wasm, out, fuel=fuel))
            with self._lock:
                self.counters.compiled += 1
