"""Where bundles come from: the folder or the remote store that ``RUNNER_BUNDLE_STORE`` names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from runnerwsgi.bundles import BundleStore

if TYPE_CHECKING:
    from pathlib import Path

    from runnerwsgi.bundles import StoredBundle
    from runnerwsgi.protocol import Bundle
    from runnerwsgi.settings import Settings

__all__ = ["Store", "open_store"]


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

    def fetch(self, bundle: Bundle, timeout: float | None = None) -> StoredBundle:
        """A bundle, verified and unpacked here.

        Args:
            bundle: which one; tenant and extension are part of its key in a remote store.
            timeout: seconds to wait; a fetch goes on for others when they are over. None waits
                for as long as the store gives a fetch.

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

    def status(self) -> str:
        """One line: where the store is, and what is wrong with it if something is."""
        ...

    def close(self) -> None:
        """Close connections. Using the store again opens new ones."""
        ...


def open_store(settings: Settings) -> Store:
    """The store of some settings; nothing is connected to yet.

    Raises:
        ConfigurationError: ``RUNNER_BUNDLE_STORE`` names none.
    """
    return BundleStore.from_url(settings.bundle_store)
