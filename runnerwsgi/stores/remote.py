"""A bundle store on another machine: fetched once, verified, kept here within a size."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from runnerwsgi import canary
from runnerwsgi.bundles import ARCHIVE, MANIFEST, StoredBundle, read_bundle
from runnerwsgi.errors import BundleError, BundleUnavailable
from runnerwsgi.protocol import Bundle, is_content_hash

from .flights import Flights

if TYPE_CHECKING:
    from pathlib import Path

    from .cache import Cache

FETCH_SECONDS = 60.0
MOST_FETCHES = 4
# Of these, what requests that anybody may make leave to calls.
FOR_CALLS = 2
# A trouble that nobody has met for so long may be over.
TROUBLE_SECONDS = 60.0

_TYPES = {ARCHIVE: "application/zstd", MANIFEST: "application/json"}


class Source(Protocol):
    """Objects by key, somewhere else."""

    where: str

    def read(self, key: str, timeout: float) -> bytes | None:
        """The object, or None where there is none.

        Raises:
            BundleUnavailable: it is not to be had; the message says why, in one sentence.
        """
        ...

    def write(self, key: str, data: bytes, content_type: str, timeout: float) -> None:
        """Put an object there.

        Raises:
            StorageError: it was not taken; the message says why, in one sentence.
        """
        ...

    def close(self) -> None:
        """Close connections. Using the source again opens new ones."""
        ...


class RemoteStore:
    """A store whose bundles come from a source, and are kept in a cache.

    Example::

        store = RemoteStore(WebSource("https://bundles.example.com"), Cache(folder, 1 << 30))
        store.fetch(Bundle("acme", "demo.notes", "sha256:…"), timeout=10.0)
    """

    def __init__(self, source: Source, cache: Cache, seconds: float = FETCH_SECONDS) -> None:
        self._source = source
        self._cache = cache
        self._seconds = seconds
        # A little more than a fetch takes, so that who waits to the end hears why it failed.
        self._flights: Flights[Bundle, StoredBundle] = Flights(seconds + 1.0, MOST_FETCHES)
        self._trouble = (0.0, "")

    @property
    def root(self) -> Path:
        """The folder of the cache."""
        return self._cache.root

    @property
    def where(self) -> str:
        """Its URL."""
        return self._source.where

    @property
    def trouble(self) -> str:
        """Why the last fetch failed; empty when it did not, or a minute ago."""
        when, text = self._trouble
        return text if time.monotonic() - when < TROUBLE_SECONDS else ""

    def fetch(
        self, bundle: Bundle, timeout: float | None = None, *, anybodys: bool = False
    ) -> StoredBundle:
        """A bundle, from the cache or from the source; see :meth:`Store.fetch`."""
        try:
            return self._cache.get(bundle.content_hash)
        except BundleUnavailable:
            # Only now does it matter whose it is: AlgaPSA's gateway asks for UI files by hash.
            key = storage_key(bundle)
            leaving = FOR_CALLS if anybodys else 0
            return self._flights.join(
                bundle, lambda: self._bring(bundle, key), timeout, leaving=leaving
            )

    def _bring(self, bundle: Bundle, key: str) -> StoredBundle:
        try:
            # Looked for again: another process, or the fetch before, may have brought it.
            return self._cache.have(bundle.content_hash, lambda: self._read(bundle, key))
        except BundleError as exc:
            raise BundleUnavailable(f"{self.where} has another {key}: {exc}") from exc

    def _read(self, bundle: Bundle, key: str) -> bytes:
        if bundle.content_hash == canary.CONTENT_HASH:
            return canary.archive()
        try:
            data = self._source.read(key, self._seconds)
        except BundleUnavailable as exc:
            self._trouble = time.monotonic(), str(exc)
            raise
        self._trouble = 0.0, ""
        if data is None:
            raise BundleUnavailable(
                f"{self.where} has no {key}: upload it with "
                f"`runnerwsgi push SOURCE --tenant {bundle.tenant_id}`",
                missing=True,
            )
        return data

    def push(self, bundle: Bundle, data: bytes) -> StoredBundle:
        """Verify an archive, upload it with its manifest, and keep it here, too."""
        key = storage_key(bundle)
        read = read_bundle(data, bundle.content_hash, extension=bundle.extension_id)
        beside = f"{key.removesuffix(ARCHIVE)}{MANIFEST}"
        # The archive comes last: where it is, everything is.
        self._write(beside, MANIFEST, read.files[MANIFEST])
        self._write(key, ARCHIVE, data)
        return self._cache.add(data, bundle.content_hash)

    def _write(self, key: str, name: str, data: bytes) -> None:
        self._source.write(key, data, _TYPES[name], self._seconds)

    def close(self) -> None:
        """Close the source's connections."""
        self._source.close()


def storage_key(bundle: Bundle) -> str:
    """The key of a bundle's archive (protocol §4).

    Tenant and extension are percent-encoded, so that neither can reach into another's keys.

    Raises:
        BundleUnavailable: no key can be made of these.
    """
    if not is_content_hash(bundle.content_hash):
        raise BundleUnavailable(f"{bundle.content_hash[:80]!a} is not a content hash")
    for name in (bundle.tenant_id, bundle.extension_id):
        if name in ("", ".", ".."):
            raise BundleUnavailable(f"{name!r} cannot be part of a bundle's key")
    tenant, extension = quote(bundle.tenant_id, safe=""), quote(bundle.extension_id, safe="")
    digest = bundle.content_hash.removeprefix("sha256:")
    return f"tenants/{tenant}/extensions/{extension}/sha256/{digest}/{ARCHIVE}"
