"""Bundles: pack them, verify them, and keep them by their content hash (protocol §4)."""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import re
import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from . import tar, zstd
from .errors import BundleError, BundleUnavailable, ConfigurationError, StorageError
from .manifest import Manifest
from .protocol import is_content_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .protocol import Bundle

MAX_ARCHIVE_BYTES = 64 * 1024 * 1024

ARCHIVE = "bundle.tar.zst"
MANIFEST = "manifest.json"
UI_DIGESTS = "ui-digests.json"
WASM = "dist/main.wasm"

# The top of an archive: what is unpacked, and what `pack` looks for. Anything else, such as
# precompiled/, is left where it is: machine code comes from our own cache only.
_FOLDERS = ("ui", "dist", "artifacts", "wit")
_FILES = (MANIFEST, "SIGNATURE")
_FILE_PREFIX = "sbom."

# Unfinished folders have such names, which no hash has; a killed process leaves them behind.
_UNFINISHED = ".unfinished-"
_ABANDONED_AFTER = 3600.0


def content_hash(data: bytes) -> str:
    """The content hash of an archive: ``sha256:`` and 64 hex digits over its exact bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class UnpackedBundle:
    """A verified archive in memory: its hash, its manifest, and its files by name.

    Example::

        bundle = read_bundle(data)
        page = bundle.files["ui/index.html"]
    """

    content_hash: str
    manifest: Manifest
    files: Mapping[str, bytes]

    @property
    def ui_digests(self) -> dict[str, str]:
        """SHA-256 in hex of every file under ``ui/``, by its path below that folder."""
        return {
            name.removeprefix("ui/"): hashlib.sha256(data).hexdigest()
            for name, data in sorted(self.files.items())
            if name.startswith("ui/")
        }


@dataclass(frozen=True, slots=True)
class StoredBundle:
    """A bundle in a store: a folder with ``manifest.json``, ``ui/`` and ``dist/main.wasm``.

    ``wasm`` is None in an extension that is only a UI. ``ui_digests`` is made when the
    bundle is added; what is served is checked against it.
    """

    content_hash: str
    path: Path
    manifest: Manifest
    ui_digests: Mapping[str, str]
    wasm: Path | None

    @property
    def archive(self) -> Path:
        """The archive as it came."""
        return self.path / ARCHIVE


def read_bundle(
    data: bytes, expected_hash: str | None = None, *, extension: str | None = None
) -> UnpackedBundle:
    """Verify an archive in the order of security §4 and unpack it in memory.

    Args:
        data: the archive, tar compressed with zstd.
        expected_hash: what its content hash must be; nothing is parsed before that holds.
        extension: what its manifest's ``name`` must be.

    Raises:
        BundleError: what is wrong with it, and how to repack.
    """
    found = _check_hash(data, expected_hash)
    files = {
        entry.name: entry.data
        for entry in tar.read(zstd.reader(data))
        if entry.data is not None and _is_kept(entry.name)
    }
    if MANIFEST not in files:
        raise BundleError(f"The bundle has no {MANIFEST} at its top. {tar.REPACK}")
    manifest = Manifest.from_json(files[MANIFEST])
    _check_name(manifest, extension)
    return UnpackedBundle(found, manifest, MappingProxyType(files))


def _check_hash(data: bytes, expected: str | None) -> str:
    if len(data) > MAX_ARCHIVE_BYTES:
        raise BundleError(f"The bundle has {len(data)} bytes, more than {MAX_ARCHIVE_BYTES}.")
    found = content_hash(data)
    if expected is None:
        return found
    if not is_content_hash(expected):
        raise BundleError(
            f"{expected[:80]!a} is not a content hash; "
            "expected sha256: and 64 lower-case hex digits."
        )
    if not hmac.compare_digest(found, expected):
        raise BundleError(
            f"The bundle's content hash is {found}, but {expected} was expected. "
            "Download it again, or ask its publisher for the right hash."
        )
    return found


def _check_name(manifest: Manifest, extension: str | None) -> None:
    if extension is not None and manifest.name != extension:
        raise BundleError(
            f"The bundle is of the extension {manifest.name}, but {extension} was asked for. "
            f"Ask for {manifest.name}, or correct the name in {MANIFEST} and pack again."
        )


def _is_kept(name: str) -> bool:
    top, _, below = name.partition("/")
    if below:
        return top in _FOLDERS
    return top in _FILES or top.startswith(_FILE_PREFIX)


def pack(folder: Path) -> bytes:
    """Make the archive of an extension's folder; the same files always give the same bytes.

    In go ``manifest.json``, ``ui/``, ``dist/main.wasm``, ``artifacts/``, ``wit/``,
    ``SIGNATURE`` and ``sbom.*``; see :func:`left_out` for the rest. (The same bytes, that is,
    from the same version of zstd.)

    Raises:
        BundleError: the folder has no manifest, or something in it cannot go into a bundle.
    """
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder} has no {MANIFEST}. Give the folder of an extension.")
    files = {name: _contents(path) for name, path in _sources(folder)}
    _check_complete(Manifest.from_json(files[MANIFEST]), files)
    data = zstd.compress(tar.write(files))
    read_bundle(data)  # Whatever a reader would refuse is said here, to the one who can mend it.
    return data


def left_out(folder: Path) -> tuple[str, ...]:
    """What :func:`pack` does not take along, as sorted names; a folder's ends with ``/``."""
    top = [path for path in _children(folder) if not _is_wanted_at_top(path)]
    dist = [path for path in _children(folder / "dist") if path != folder / WASM]
    hidden = [path for start in _wanted_folders(folder) for path in _hidden(start)]
    return tuple(
        sorted(
            path.relative_to(folder).as_posix() + ("/" if path.is_dir() else "")
            for path in (*top, *dist, *hidden)
        )
    )


def _is_wanted_at_top(path: Path) -> bool:
    return path.name in (*_FOLDERS, *_FILES) or path.name.startswith(_FILE_PREFIX)


def _wanted_folders(folder: Path) -> list[Path]:
    return [folder / name for name in _FOLDERS if name != "dist" and (folder / name).is_dir()]


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _hidden(folder: Path) -> Iterator[Path]:
    """What is hidden below a folder: editors' and file managers' files, never an extension's."""
    for path in _children(folder):
        if path.name.startswith("."):
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _hidden(path)


def _sources(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file that goes into the bundle, by its name there."""
    root = folder.resolve()
    wasm = folder / WASM
    top = [path for path in _children(folder) if _is_wanted_at_top(path) and not path.is_dir()]
    below = [path for start in _wanted_folders(folder) for path in _files_below(start)]
    for path in (*top, *below, *([wasm] if wasm.exists() else [])):
        name = path.relative_to(folder).as_posix()
        _check_source(path, name, root)
        yield name, path


def _files_below(folder: Path) -> Iterator[Path]:
    for path in _children(folder):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files_below(path)
        else:
            yield path


def _check_source(path: Path, name: str, root: Path) -> None:
    if fault := tar.name_fault(name):
        raise BundleError(f"The name {name!a} {fault}. Rename it and pack again.")
    target = path.resolve()
    if not target.is_relative_to(root):
        raise BundleError(f"{path} is a link that leaves the folder. Copy its target instead.")
    if not target.is_file():
        raise BundleError(f"{path} is not a regular file. Copy its target instead, or remove it.")


def _contents(path: Path) -> bytes:
    try:
        if path.stat().st_size > tar.MAX_FILE_BYTES:
            raise BundleError(f"{path} has more than {tar.MAX_FILE_BYTES} bytes. Make it smaller.")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from error


def _check_complete(manifest: Manifest, files: Iterable[str]) -> None:
    if manifest.ui is not None and manifest.ui.entry not in files:
        raise BundleError(
            f"{MANIFEST} names the entry {manifest.ui.entry}, which is not in the folder. "
            "Build the UI, or correct $.ui.entry."
        )
    if manifest.endpoints and WASM not in files:
        raise BundleError(
            f"{MANIFEST} declares endpoints, but there is no {WASM}. Run `runnerwsgi build` first."
        )


class BundleStore:
    """A folder of verified bundles by content hash, which several processes may share.

    A bundle appears in it whole or not at all: it is written aside and then renamed. Only its
    owner writes; everybody who can reach the folder may read, so that a container of another
    user can, through a mount. Reading never writes: a read-only folder is a store like any other.

    Example::

        store = BundleStore(Path("/var/lib/runnerwsgi/bundles"))
        bundle = store.add(pack(Path("hello")))
        store.get(bundle.content_hash).ui_digests
    """

    def __init__(self, root: Path, *, setting: str = "RUNNER_BUNDLE_STORE") -> None:
        self.root = root.absolute()
        self._setting = setting

    @classmethod
    def from_url(cls, url: str) -> BundleStore:
        """Open the store that ``RUNNER_BUNDLE_STORE`` names: a path or a ``file:`` URL.

        Raises:
            ConfigurationError: another kind of URL.
        """
        if "://" not in url and not url.startswith("file:"):
            return cls(Path(url))
        parts = urlsplit(url)
        path = unquote(parts.path)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost") or path[:1] != "/":
            raise ConfigurationError(
                f"RUNNER_BUNDLE_STORE is {_without_secrets(url)!r}; expected a folder, such as "
                "/var/lib/bundles or file:///var/lib/bundles, or a URL of https: or s3:."
            )
        return cls(Path(path))

    def add(
        self, data: bytes, expected_hash: str | None = None, *, extension: str | None = None
    ) -> StoredBundle:
        """Verify an archive and keep it; one that is there already is not written again.

        Takes the arguments of :func:`read_bundle`.

        Raises:
            BundleError: the archive is refused; the store is as it was.
            StorageError: the store cannot be written; it is as it was.
        """
        found = _check_hash(data, expected_hash)
        stored = self._intact(found)
        if stored is None:
            bundle = read_bundle(data, found, extension=extension)
            self._commit(bundle, data)
            return self.get(found)
        _check_name(stored.manifest, extension)
        return stored

    def get(self, content_hash: str) -> StoredBundle:
        """Look a bundle up.

        Raises:
            BundleUnavailable: it is not here, or it is damaged.
            StorageError: the store cannot be read.
        """
        folder = self._folder(content_hash)
        with self._storage_errors("read"):
            try:
                status = folder.stat()
            except FileNotFoundError:
                raise BundleUnavailable(
                    f"{content_hash} is not in {self.root}", missing=True
                ) from None
            return _load(folder, status.st_ino, status.st_mtime_ns)

    def fetch(
        self, bundle: Bundle, timeout: float | None = None, *, anybodys: bool = False
    ) -> StoredBundle:
        """Look a bundle up, as :meth:`get` does; a folder needs neither tenant nor time."""
        return self.get(bundle.content_hash)

    def push(self, bundle: Bundle, data: bytes) -> StoredBundle:
        """Keep a bundle, as :meth:`add` does; a folder keeps one for all tenants."""
        return self.add(data, bundle.content_hash, extension=bundle.extension_id)

    @property
    def where(self) -> str:
        """Its path."""
        return str(self.root)

    @property
    def trouble(self) -> str:
        """Why it cannot be read; empty when it can, or when it is not made yet."""
        if os.access(self.root, os.R_OK | os.X_OK):
            return ""
        reason = ""
        try:
            self.root.stat()
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as exc:  # a folder above it is closed, for one
            reason = f": {exc.strerror}"
        return f"{self.root} cannot be read by user {os.geteuid()}{reason}"

    def close(self) -> None:
        """Nothing is open."""

    def remove(self, content_hash: str) -> bool:
        """Forget a bundle; return whether it was there.

        Raises:
            StorageError: the store cannot be written.
        """
        folder = self._folder(content_hash)
        with self._storage_errors("written"):
            if not folder.exists():
                return False
            with self._scratch() as scratch, _lost_races():
                folder.rename(scratch / "removed")
        return True

    def _folder(self, content_hash: str) -> Path:
        if not is_content_hash(content_hash):
            raise BundleUnavailable(f"{content_hash[:80]!a} is not a content hash")
        return self.root / "sha256" / content_hash.removeprefix("sha256:")

    def _intact(self, content_hash: str) -> StoredBundle | None:
        # Asked first: between a get that finds nothing and a removal, another may have added it.
        if not self._folder(content_hash).exists():
            return None
        try:
            return self.get(content_hash)
        except BundleUnavailable:
            self.remove(content_hash)  # what is damaged makes room for what is whole
            return None

    def _commit(self, bundle: UnpackedBundle, data: bytes) -> None:
        digests = json.dumps(bundle.ui_digests, indent=1).encode()
        files = {**bundle.files, ARCHIVE: data, UI_DIGESTS: digests}
        with self._storage_errors("written"), self._scratch() as scratch:
            ready = scratch / "ready"
            _write_tree(ready, files)
            with _lost_races():
                ready.rename(self._folder(bundle.content_hash))
            _sync(self.root / "sha256")

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder of our own on the store's file system; gone afterwards, whatever happens."""
        self._prepare()
        self._sweep()
        scratch = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self.root))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def prepare(self) -> None:
        """Make the folder, which a mount needs before its first bundle.

        Raises:
            StorageError: it cannot be made, or it is another user's.
        """
        with self._storage_errors("written"):
            self._prepare()

    def _prepare(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        owner = self.root.stat().st_uid
        if owner != os.geteuid():
            raise StorageError(
                f"The bundle store {self.root} belongs to user {owner}. Give it to user "
                f"{os.geteuid()}, or set RUNNER_BUNDLE_STORE to a folder of this user."
            )
        (self.root / "sha256").mkdir(exist_ok=True)
        for folder in (self.root, self.root / "sha256"):
            folder.chmod(0o755)  # whatever the umask is

    def _sweep(self) -> None:
        """Remove what a killed process has left behind."""
        for path in self.root.glob(f"{_UNFINISHED}*"):
            with _lost_races():
                if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                    shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _storage_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"The bundle store {self.root} cannot be {what}: {error.strerror}. "
                f"Check its free space, inodes and permissions ({self._setting})."
            ) from error


def _without_secrets(url: str) -> str:
    """A URL, with dots for what may be a password in it."""
    return re.sub(r"[?#].*", "?…", re.sub(r"//[^/]*@", "//…@", url))


@contextmanager
def _lost_races() -> Iterator[None]:
    """Let another process have done it first: its bundle is as good as ours, its removal too."""
    try:
        yield
    except (FileExistsError, FileNotFoundError):
        pass
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise


# A folder never changes after its rename; another one of the same name has another inode or time.
@lru_cache(maxsize=256)
def _load(folder: Path, _inode: int, _changed_ns: int) -> StoredBundle:
    found = f"sha256:{folder.name}"
    try:
        manifest = Manifest.from_json((folder / MANIFEST).read_bytes())
        digests = json.loads((folder / UI_DIGESTS).read_bytes())
    except (BundleError, FileNotFoundError, ValueError) as error:
        raise BundleUnavailable(f"{found} in {folder.parent} is damaged: {error}") from error
    wasm = folder / WASM
    return StoredBundle(
        found, folder, manifest, MappingProxyType(digests), wasm if wasm.is_file() else None
    )


def _write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files and folders durably, with our modes and never the archive's."""
    parents = {folder, *(parent for name in files for parent in (folder / name).parents)}
    folders = sorted(path for path in parents if path == folder or folder in path.parents)
    for path in folders:
        path.mkdir()
        path.chmod(0o755)
    for name, data in files.items():
        _write(folder / name, data)
    for path in folders:
        _sync(path)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
