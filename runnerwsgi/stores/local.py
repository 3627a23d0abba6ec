"""A folder of bundles, and the canary, which no folder needs to have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runnerwsgi import canary
from runnerwsgi.bundles import BundleStore, StoredBundle

if TYPE_CHECKING:
    from pathlib import Path

    from runnerwsgi.protocol import Bundle

    from .cache import Cache


class LocalStore(BundleStore):
    """A folder that may be read-only; what ships with this package is unpacked beside it.

    Example::

        store = LocalStore(Path("/bundles"), Cache(home / "bundle-cache", 1 << 30))
        store.fetch(canary.BUNDLE)
    """

    def __init__(self, root: Path, beside: Cache) -> None:
        super().__init__(root)
        self._beside = beside

    def fetch(
        self, bundle: Bundle, timeout: float | None = None, *, anybodys: bool = False
    ) -> StoredBundle:
        """Look a bundle up; a folder needs neither tenant nor time.

        Raises:
            BundleUnavailable: it is not here, or it is damaged.
            StorageError: the store cannot be read, or the cache cannot be written.
        """
        if bundle.content_hash != canary.CONTENT_HASH:
            return self.get(bundle.content_hash)
        return self._beside.have(canary.CONTENT_HASH, canary.archive)
