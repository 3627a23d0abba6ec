"""Bundles of a remote store that are kept here, within a size."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from runnerwsgi.bundles import ARCHIVE, BundleStore, StoredBundle
from runnerwsgi.errors import BackendStarting, BundleUnavailable, StorageError

log = logging.getLogger(__name__)

# A use is written down at most this often: reading a page's twenty files is one use.
_USE_SECONDS = 30.0
# What a file takes on disk is counted in these, whatever the file system's blocks are.
_BLOCK_BYTES = 512
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Cache:
    """A folder of bundles of which those that were used longest ago go first.

    Several processes may share it. The size is what the files take on disk; it is kept after
    each addition, and the bundle that was just added stays, however large it is. A disk that is
    full sooner costs the half that was used longest ago.

    Example::

        cache = Cache(Path("/var/lib/runnerwsgi/bundle-cache"), 1 << 30)
        cache.add(data, "sha256:…")
        cache.get("sha256:…").wasm
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._store = BundleStore(root, setting="RUNNER_BUNDLE_CACHE_MB")
        self._max_bytes = max_bytes
        self.root = self._store.root

    def get(self, content_hash: str) -> StoredBundle:
        """Look a bundle up.

        Raises:
            BundleUnavailable: it is not here, or it is damaged.
            StorageError: the folder cannot be read.
        """
        bundle = self._store.get(content_hash)
        with suppress(OSError):  # another process has just removed it, or may only read
            if time.time() - bundle.archive.stat().st_mtime > _USE_SECONDS:
                os.utime(bundle.archive)
        return bundle

    def add(self, data: bytes, expected_hash: str) -> StoredBundle:
        """Verify an archive, keep it, and make room.

        Raises:
            BundleError: the archive is refused.
            BackendStarting: it was removed again at once, to make room for another one.
            StorageError: the folder cannot be written.
        """
        try:
            bundle = self._added(data, expected_hash)
        except BundleUnavailable as exc:
            # Another one came at that moment, and this one was what had to go.
            raise BackendStarting("the extension's bundle had to make room for another") from exc
        with suppress(OSError):
            os.utime(bundle.archive)
        self._make_room(self._max_bytes, keep=bundle.path)
        return bundle

    def have(self, content_hash: str, archive: Callable[[], bytes]) -> StoredBundle:
        """Look a bundle up, and add it if it is not here.

        Raises:
            BundleError: what *archive* gives is refused.
            StorageError: the folder can be neither read nor written.
        """
        try:
            return self.get(content_hash)
        except BundleUnavailable:
            return self.add(archive(), content_hash)

    def _added(self, data: bytes, expected_hash: str) -> StoredBundle:
        try:
            return self._store.add(data, expected_hash)
        except StorageError as exc:
            if not (_is_full(exc) and self._make_room(_size(self.root) // 2)):
                raise
            return self._store.add(data, expected_hash)

    def _make_room(self, max_bytes: int, keep: Path | None = None) -> bool:
        """Remove what is above a size, and say whether there was something."""
        total, removed = _size(keep) if keep else 0, False
        others = [path for path in (self.root / "sha256").iterdir() if path != keep]
        for folder in sorted(others, key=_last_used, reverse=True):
            total += _size(folder)
            if total > max_bytes:
                self._remove(f"sha256:{folder.name}")
                removed = True
        return removed

    def _remove(self, content_hash: str) -> None:
        try:
            self._store.remove(content_hash)
        except StorageError as exc:
            log.warning("%s is not used any more and stays: %s", content_hash, exc)


def _is_full(exc: StorageError) -> bool:
    return isinstance(exc.__cause__, OSError) and exc.__cause__.errno in _FULL


def _last_used(folder: Path) -> float:
    try:
        return (folder / ARCHIVE).stat().st_mtime
    except OSError:
        return 0.0


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):  # what another process removes meanwhile is not there
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * _BLOCK_BYTES
    return total
