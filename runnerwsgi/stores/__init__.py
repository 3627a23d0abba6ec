"""Where bundles come from: the folder or the remote store that ``RUNNER_BUNDLE_STORE`` names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from runnerwsgi.bundles import BundleStore

from .cache import Cache
from .local import LocalStore
from .remote import RemoteStore
from .s3 import S3Source
from .web import WebSource

if TYPE_CHECKING:
    from pathlib import Path

    from runnerwsgi.bundles import StoredBundle
    from runnerwsgi.protocol import Bundle
    from runnerwsgi.settings import Settings

    from .remote import Source

__all__ = ["Store", "is_remote", "open_store", "root_of"]

_REMOTE = ("https", "http", "s3")


class Store(Protocol):
    """What a backend, a gateway and the commands need of a bundle store.

    Example::

        store = open_store(settings)
        stored = store.fetch(Bundle("acme", "demo.notes", "sha256:…"), timeout=10.0)
    """

    @property
    def root(self) -> Path:
        """The folder below which every bundle that was fetched is unpacked."""
        ...

    def fetch(
        self, bundle: Bundle, timeout: float | None = None, *, anybodys: bool = False
    ) -> StoredBundle:
        """A bundle, verified and unpacked here.

        Args:
            bundle: which one; tenant and extension are part of its key in a remote store.
            timeout: seconds to wait; a fetch goes on for others when they are over. None waits
                for as long as the store gives a fetch.
            anybodys: who asks may be a stranger, naming bundles at will: calls come first.

        Raises:
            BundleUnavailable: it is not there, is not to be had, or has another hash.
            BackendStarting: it is still being fetched; nothing was executed.
            StorageError: the folder cannot be read or written.
        """
        ...

    def push(self, bundle: Bundle, data: bytes) -> StoredBundle:
        """Verify an archive and put it into the store, for everybody who reads it.

        Raises:
            BundleError: the archive is refused.
            StorageError: the store does not take it.
        """
        ...

    @property
    def where(self) -> str:
        """Its path or URL."""
        ...

    @property
    def trouble(self) -> str:
        """Why it cannot be used, as far as is known without trying; empty when it can."""
        ...

    def close(self) -> None:
        """Close connections. Using the store again opens new ones."""
        ...


def open_store(settings: Settings) -> Store:
    """The store of some settings; nothing is connected to yet.

    Raises:
        ConfigurationError: ``RUNNER_BUNDLE_STORE`` names none.
    """
    cache = Cache(_cache_folder(settings), settings.bundle_cache_mb << 20)
    if is_remote(settings):
        return RemoteStore(_source(settings), cache)
    return LocalStore(root_of(settings), cache)


def root_of(settings: Settings) -> Path:
    """The ``root`` of the settings' store, which need not be opened for that.

    Raises:
        ConfigurationError: ``RUNNER_BUNDLE_STORE`` names none.
    """
    if is_remote(settings):
        return _cache_folder(settings)
    return BundleStore.from_url(settings.bundle_store).root


def is_remote(settings: Settings) -> bool:
    """Whether bundles come over the network."""
    return _scheme(settings) in _REMOTE


def _cache_folder(settings: Settings) -> Path:
    return settings.home / "bundle-cache"


def _scheme(settings: Settings) -> str:
    scheme, found, _ = settings.bundle_store.partition("://")
    return scheme.lower() if found else "file"


def _source(settings: Settings) -> Source:
    if _scheme(settings) == "s3":
        return S3Source(settings.bundle_store)
    return WebSource(
        settings.bundle_store,
        settings.bundle_store_token,
        allow_insecure=settings.allow_insecure,
    )
