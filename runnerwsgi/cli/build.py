"""Building an extension's folder: find the toolchain, compile if something changed."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runnerwsgi.bundles import MANIFEST
from runnerwsgi.errors import BundleError, ConfigurationError
from runnerwsgi.manifest import Manifest

from .toolchains import (
    RECEIPT,
    WASM,
    JavaScript,
    Python,
    Run,
    Toolchain,
    Wat,
    check_component,
    digest,
    inputs,
    world,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Built:
    """What a build did: ``unchanged``, ``compiled``, or ``nothing`` for a mere UI."""

    folder: Path
    action: str
    toolchain: str | None = None
    wasm: Path | None = None
    size: int = 0
    seconds: float = 0.0


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an extension's folder.

    Raises:
        BundleError: there is none, or it is refused.
    """
    path = folder / MANIFEST
    try:
        return Manifest.from_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(
            f"{folder} has no {MANIFEST}, so it is not an extension's folder. Name one, or make "
            "one with `runnerwsgi new extension`."
        ) from None


def build_folder(
    folder: Path, home: Path, tell: Callable[[str], None], *, verbose: bool = False
) -> Built:
    """Compile an extension's folder into ``dist/main.wasm``, unless nothing changed.

    Args:
        folder: the extension's.
        home: where toolchains are kept.
        tell: called with lines for the one who waits.
        verbose: let the tools print as they like.

    Raises:
        BundleError: the sources are at fault.
        ConfigurationError: a tool is missing that is needed.
    """
    manifest = read_manifest(folder)
    folder = folder.resolve()
    toolchain, source = _toolchain(folder, home, tell)
    if toolchain is None or source is None:
        return _without_sources(folder, manifest)
    wasm = folder / WASM
    with world(folder) as wit_path:
        sources = digest(folder, toolchain, wit_path)
        try:
            wanted = [sources, _short(toolchain.version(folder))]
            if wasm.is_file() and _receipt(folder) == [*wanted, _sha256(wasm)]:
                return _unchanged(folder, toolchain)
            started = time.monotonic()
            tell(f"Compiling {source.relative_to(folder)} with {toolchain.name} …")
            _compile(toolchain, source, wit_path, wasm, Run(tell, verbose=verbose))
        except ConfigurationError:
            # Its toolchain is not here: whoever was given the folder need not have it.
            if not _is_built(folder, sources):
                raise
            tell(f"{toolchain.name} is not here, and nothing has changed since the last build.")
            return _unchanged(folder, toolchain)
    (folder / RECEIPT).write_text("\n".join([*wanted, _sha256(wasm), ""]))
    spent = time.monotonic() - started
    return Built(folder, "compiled", toolchain.name, wasm, wasm.stat().st_size, spent)


def _toolchain(
    folder: Path, home: Path, tell: Callable[[str], None]
) -> tuple[Toolchain | None, Path | None]:
    for toolchain in (Python(), JavaScript(home, tell), Wat()):
        if source := toolchain.source(folder):
            return toolchain, source
    return None, None


def _without_sources(folder: Path, manifest: Manifest) -> Built:
    wasm = folder / WASM
    if wasm.is_file():
        return Built(folder, "unchanged", None, wasm, wasm.stat().st_size)
    if manifest.endpoints or manifest.runtime:
        raise BundleError(
            f"{folder} has no source that can be compiled: add src/app.py, src/index.js or "
            f"src/main.wat, or put a component at {WASM}."
        )
    return Built(folder, "nothing")


def _compile(toolchain: Toolchain, source: Path, wit_path: Path, wasm: Path, run: Run) -> None:
    """Compile beside the old file, so that a failure leaves that one as it was."""
    wasm.parent.mkdir(exist_ok=True)
    fresh = wasm.with_name(".main.wasm")
    try:
        toolchain.compile(source, wit_path, fresh, run)
        check_component(fresh)
        fresh.replace(wasm)
    finally:
        fresh.unlink(missing_ok=True)


def _unchanged(folder: Path, toolchain: Toolchain) -> Built:
    wasm = folder / WASM
    return Built(folder, "unchanged", toolchain.name, wasm, wasm.stat().st_size)


def _is_built(folder: Path, sources: str) -> bool:
    """Whether what is there was made from these sources, by whichever version of the toolchain.

    Without a receipt, as where a folder was copied without hidden files, the newer file tells.
    """
    wasm = folder / WASM
    if not wasm.is_file():
        return False
    if receipt := _receipt(folder):
        return [receipt[0], receipt[-1]] == [sources, _sha256(wasm)]
    made = wasm.stat().st_mtime_ns
    return all(path.stat().st_mtime_ns <= made for path in inputs(folder))


def _receipt(folder: Path) -> list[str]:
    """What the component was made from: its sources, the toolchain, and what came of it."""
    path = folder / RECEIPT
    return path.read_text(errors="replace").split() if path.is_file() else []


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
