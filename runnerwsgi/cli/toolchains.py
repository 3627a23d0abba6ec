"""From an extension's sources to `dist/main.wasm`: componentize-py, componentize-js, or WAT."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from importlib.resources import as_file
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runnerwsgi import wit
from runnerwsgi.errors import BundleError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

WASM = Path("dist/main.wasm")
# What dist/main.wasm was made from; hidden, so that it goes into no bundle.
RECEIPT = Path("dist/.built-from")

COMPONENTIZE_JS = "@bytecodealliance/componentize-js@0.23.0"

_COMPONENT = b"\0asm\x0d\0\x01\0"
_MODULE = b"\0asm\x01\0\0\0"
_SOURCES = ("src", "wit")
_PROJECT_FILES = ("package.json", "package-lock.json")


class Toolchain(Protocol):
    """Compiles sources of one kind.

    Attributes:
        name: what it is called in messages.
        home: folder for what it has to fetch.
    """

    name: str

    def source(self, folder: Path) -> Path | None:
        """The file that this toolchain would compile in *folder*; None when there is none."""
        ...

    def version(self, folder: Path) -> str:
        """Its version, part of what a build depends on; raises ConfigurationError if missing."""
        ...

    def compile(self, source: Path, wit_path: Path, target: Path, run: Run) -> None:
        """Write the component; raises BundleError when the sources are at fault."""
        ...


class Run:
    """Runs tools: silently unless they fail, or as they are with *verbose*.

    Example::

        Run(print, verbose=False)(["node", "--version"], cwd=folder)
    """

    def __init__(self, tell: Callable[[str], None], *, verbose: bool) -> None:
        self.tell = tell
        self.verbose = verbose

    def __call__(self, command: Sequence[str | Path], cwd: Path) -> None:
        """Run *command* in *cwd*.

        Raises:
            BundleError: it failed; what it printed has been told.
        """
        pipe = None if self.verbose else subprocess.PIPE
        done = subprocess.run(
            command,
            cwd=cwd,
            stdout=pipe,
            stderr=subprocess.STDOUT if pipe else None,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            check=False,
            env=_env(),
        )
        if done.returncode:
            for line in (done.stdout or "").splitlines():
                self.tell(line)
            tool = Path(command[0]).name
            raise BundleError(
                f"{tool} failed with status {done.returncode} in {cwd}. "
                "Mend what it says above, and build again."
            )


class Python:
    """componentize-py, for `src/app.py`."""

    name = "componentize-py"

    def source(self, folder: Path) -> Path | None:
        """``src/app.py``."""
        return _existing(folder / "src" / "app.py")

    def version(self, folder: Path) -> str:
        """What the tool says of itself."""
        return _output([self._tool(), "--version"])

    def compile(self, source: Path, wit_path: Path, target: Path, run: Run) -> None:
        """Compile the module `app` with everything beside it."""
        world = ("-d", wit_path, "-w", wit.WORLD)
        app = (source.stem, "-p", source.parent, "-o", target)
        with pointing_at(lambda: python_fault(source.parent)):
            run((self._tool(), *world, "componentize", *app), cwd=source.parent.parent)

    def _tool(self) -> str:
        return _find_tool(
            "componentize-py",
            "Python extensions are compiled with componentize-py, which is not installed: "
            "run `pip install componentize-py`.",
        )


class JavaScript:
    """componentize-js, for `src/index.js` or what `package.json` names as `main`."""

    name = "componentize-js"

    def __init__(self, home: Path, tell: Callable[[str], None]) -> None:
        self.home = home / "toolchains" / COMPONENTIZE_JS.rpartition("/")[2].replace("@", "-")
        self.tell = tell

    def source(self, folder: Path) -> Path | None:
        """``main`` of ``package.json``, else ``src/index.js``."""
        package = _existing(folder / "package.json")
        return _main_of(package) if package else _existing(folder / "src" / "index.js")

    def version(self, folder: Path) -> str:
        """The pinned version, or that the extension's own is used."""
        return "its own" if self._own(folder) else COMPONENTIZE_JS

    def compile(self, source: Path, wit_path: Path, target: Path, run: Run) -> None:
        """Compile a module with what it imports by relative path."""
        folder = target.parent.parent
        tool = self._own(folder) or self._installed(run)
        with pointing_at(lambda: script_fault(source)):
            run([tool, source, "--wit", wit_path, "-n", wit.WORLD, "-o", target], cwd=folder)

    def _own(self, folder: Path) -> Path | None:
        return _existing(folder / "node_modules" / ".bin" / "componentize-js")

    def _installed(self, run: Run) -> Path:
        tool = self.home / "node_modules" / ".bin" / "componentize-js"
        if not tool.exists():
            self._install(run)
        return tool

    def _install(self, run: Run) -> None:
        npm = _find_tool(
            "npm",
            "JavaScript extensions are compiled with componentize-js, which needs Node.js 20 or "
            "newer with npm; they are not on the PATH: install Node.js.",
        )
        self.tell(f"Installing {COMPONENTIZE_JS} with npm into {self.home} (once) …")
        self.home.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.home.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.home.parent, prefix=".unfinished-") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
            run([npm, "install", *quiet, "--prefix", made, COMPONENTIZE_JS], cwd=made)
            if not self.home.exists():
                made.rename(self.home)


class Wat:
    """wasmtime's assembler, for one `*.wat` file in `src/` or beside the manifest."""

    name = "wat2wasm"

    def source(self, folder: Path) -> Path | None:
        """The one ``.wat`` file."""
        found = sorted([*folder.glob("src/*.wat"), *folder.glob("*.wat")])
        if len(found) > 1:
            names = ", ".join(path.relative_to(folder).as_posix() for path in found)
            raise BundleError(f"{folder} has more than one .wat file: {names}. Keep one.")
        return found[0] if found else None

    def version(self, folder: Path) -> str:
        """The assembler's version."""
        self._wasmtime()
        return metadata.version("wasmtime")

    def compile(self, source: Path, wit_path: Path, target: Path, run: Run) -> None:
        """Assemble the text."""
        wasmtime = self._wasmtime()
        try:
            target.write_bytes(wasmtime.wat2wasm(source.read_text("utf-8")))
        except (wasmtime.WasmtimeError, UnicodeError) as exc:
            for line in str(exc).splitlines():
                run.tell(line)
            raise BundleError(f"{source} cannot be assembled. Mend what is said above.") from exc

    @staticmethod
    def _wasmtime() -> Any:
        try:
            import wasmtime
        except ImportError:
            raise ConfigurationError(
                "WebAssembly text is assembled with wasmtime, which is not installed: "
                "run `pip install 'runnerwsgi[wasm]'`."
            ) from None
        return wasmtime


@contextmanager
def pointing_at(find: Callable[[], str | None]) -> Iterator[None]:
    """When a compiler fails, say where the sources are at fault, if *find* finds the place.

    Raises:
        BundleError: the compiler's, or one that names file and line.
    """
    try:
        yield
    except BundleError as exc:
        if place := find():
            raise BundleError(f"{place}. Mend it, and build again.") from exc
        raise


def python_fault(folder: Path) -> str | None:
    """The first syntax error of the modules in *folder*, which componentize-py buries."""
    for path in sorted(folder.rglob("*.py")):
        try:
            compile(path.read_bytes(), path.name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as exc:
            line = getattr(exc, "lineno", None) or 1
            return f"{path}, line {line}: {getattr(exc, 'msg', exc)}"
    return None


def script_fault(source: Path) -> str | None:
    """The syntax error of a JavaScript module, of which componentize-js shows no line."""
    node = shutil.which("node")
    if node is None:
        return None
    check = [node, "--check", "--input-type=module", "-"]
    done = subprocess.run(
        check, input=source.read_bytes(), capture_output=True, check=False, env=_env()
    )
    said = done.stderr.decode(errors="replace").splitlines()
    fault = next((line for line in said if line.startswith("SyntaxError:")), None)
    line = said[0].rpartition(":")[2] if said else "1"
    return f"{source}, line {line}: {fault.removeprefix('SyntaxError: ')}" if fault else None


def _env() -> dict[str, str]:
    # Where in the compiler's own code it failed tells an extension's author nothing.
    return {"RUST_BACKTRACE": "0", "RUST_LIB_BACKTRACE": "0", **os.environ}


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _main_of(package: Path) -> Path:
    try:
        main: str = json.loads(package.read_bytes()).get("main", "src/index.js")
        source = package.parent / main
    except (ValueError, AttributeError, TypeError) as exc:
        raise BundleError(f"{package} is not a package's description: {exc}.") from exc
    if not source.is_file():
        raise BundleError(
            f'{package} names {main} as its main file, which does not exist. Correct "main".'
        )
    return source


def _find_tool(name: str, advice: str) -> str:
    # A virtual environment's own tools come first, although it was not activated.
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=beside) or shutil.which(name)
    if found is None:
        raise ConfigurationError(advice)
    return found


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def inputs(folder: Path) -> Iterator[Path]:
    """Every file that a build of *folder* depends on, sorted."""
    below = [path for name in _SOURCES for path in (folder / name).rglob("*") if path.is_file()]
    beside = [folder / name for name in _PROJECT_FILES if (folder / name).is_file()]
    for path in sorted([*below, *beside, *folder.glob("*.wat")]):
        parts = path.relative_to(folder).parts
        if not any(part.startswith(".") or part == "__pycache__" for part in parts):
            yield path


def digest(folder: Path, toolchain: Toolchain, wit_path: Path) -> str:
    """One number for all that is compiled, and by what: sources, world, kind of toolchain."""
    found = hashlib.sha256(f"{toolchain.name}\0".encode())
    for path in (*inputs(folder), *([wit_path] if wit_path.is_file() else [])):
        name = os.path.relpath(path, folder) if path != wit_path else "world"
        found.update(f"{name}\0{path.stat().st_size}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


@contextmanager
def world(folder: Path) -> Iterator[Path]:
    """The WIT to compile against: the extension's own folder `wit`, or the shipped file."""
    own = folder / "wit"
    if own.is_dir():
        yield own
    else:
        with as_file(wit.ALGA) as path:
            yield path


def check_component(path: Path) -> None:
    """Hold what was built to being a component.

    Raises:
        BundleError: it is a core module, or no WebAssembly at all.
    """
    with path.open("rb") as stream:
        start = stream.read(8)
    if start == _COMPONENT:
        return
    found = "a core module" if start == _MODULE else "no WebAssembly"
    raise BundleError(
        f"What was built is {found}, but an extension is a WebAssembly component of the world "
        f"`{wit.WORLD}`: compile for the component model."
    )
