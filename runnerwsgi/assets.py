"""The bytes behind a resolved URL: fetched, capped, checked against their digest, cached."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from . import headers
from .errors import (
    BackendUnreachable,
    BadRunnerResponse,
    DeadlineExceeded,
    NotFound,
    Overloaded,
    StorageError,
)

if TYPE_CHECKING:
    import urllib3

CACHE_BYTES = 64 * 1024 * 1024
CACHED_FILE_BYTES = CACHE_BYTES // 8
CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Asset:
    """One UI file. ``verified`` files were checked against the install's digest list."""

    data: bytes
    digest: str
    content_type: str
    verified: bool

    @property
    def etag(self) -> str:
        """A strong entity tag (RFC 9110 §8.8.3)."""
        return f'"{self.digest[:32]}"'


class Assets:
    """Fetches UI files and keeps verified ones in memory, least recently used first out.

    Example::

        assets = Assets(bundles=Path("/var/lib/app/bundles"), max_bytes=33_554_432)
        assets.load("file:///var/lib/app/bundles/…/ui/index.html", "ui/index.html", digest, 30.0)

    Args:
        bundles: folder under which ``file:`` URLs must lie; None refuses them all.
        max_bytes: largest file that is served.
        connections: most fetches from one remote at a time.
    """

    def __init__(self, bundles: Path | None, max_bytes: int, connections: int = 4) -> None:
        self.bundles = bundles
        self.max_bytes = max_bytes
        self._remotes = Remotes(connections)
        self._cache: OrderedDict[tuple[str, str], Asset] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def cached(self, path: str, digest: str) -> Asset | None:
        """The file from memory, if it is there."""
        key = (digest, headers.content_type(path))
        with self._lock:
            asset = self._cache.get(key)
            if asset is not None:
                self._cache.move_to_end(key)
        return asset

    def load(self, url: str, path: str, digest: str | None, timeout: float) -> Asset:
        """The file behind *url*.

        Args:
            url: what the backend resolved; ``file:``, ``http:`` or ``https:``.
            path: the file's path in the bundle; its name decides the content type.
            digest: SHA-256 in hex from the install, or None where there is no list.
            timeout: seconds for the whole fetch.

        Raises:
            NotFound: there is no such file.
            BadRunnerResponse: the bytes are too many, or not those of the digest.
            BackendUnreachable, DeadlineExceeded, Overloaded, StorageError: it cannot be had.
        """
        data = self._read_file(url) if url.startswith("file:") else self._fetch(url, timeout)
        found = hashlib.sha256(data).hexdigest()
        if digest is not None and not hmac.compare_digest(found, digest):
            raise BadRunnerResponse(f"{path}: its bytes are not those that were installed")
        asset = Asset(data, found, headers.content_type(path), verified=digest is not None)
        if asset.verified:
            self._keep(asset)
        return asset

    def close(self) -> None:
        """Close connections and forget the cache."""
        self._remotes.close()
        with self._lock:
            self._cache.clear()
            self._cached_bytes = 0

    def _keep(self, asset: Asset) -> None:
        if len(asset.data) > CACHED_FILE_BYTES:
            return
        key = (asset.digest, asset.content_type)
        with self._lock:
            if key in self._cache:
                return
            self._cache[key] = asset
            self._cached_bytes += len(asset.data)
            while self._cached_bytes > CACHE_BYTES:
                _, oldest = self._cache.popitem(last=False)
                self._cached_bytes -= len(oldest.data)

    def _read_file(self, url: str) -> bytes:
        file = Path(unquote(urlsplit(url).path))
        if self.bundles is None or not file.resolve().is_relative_to(self.bundles.resolve()):
            raise BadRunnerResponse("the backend named a file outside of its bundle store")
        try:
            with file.open("rb") as stream:
                data = stream.read(self.max_bytes + 1)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NotFound(f"no such file in the bundle store: {file.name}") from None
        except OSError as exc:
            raise StorageError(f"{file}: {exc.strerror}") from exc
        return self._capped(data)

    def _fetch(self, url: str, timeout: float) -> bytes:
        status, body = self._remotes.get(url, timeout, self.max_bytes)
        if status == 404:
            raise NotFound("the runner has no such file")
        if status != 200:
            raise BadRunnerResponse(f"the runner answered {status} for a file")
        return self._capped(body)

    def _capped(self, data: bytes) -> bytes:
        if len(data) > self.max_bytes:
            raise BadRunnerResponse(f"a file above RUNNER_MAX_ASSET_BYTES ({self.max_bytes})")
        return data


class Remotes:
    """One pool of connections per origin; no redirects, no retries, no decoding (security §3)."""

    def __init__(self, connections: int) -> None:
        self.connections = connections
        self._pools: dict[str, urllib3.HTTPConnectionPool] = {}
        self._slots = threading.BoundedSemaphore(connections)
        self._lock = threading.Lock()

    def get(self, url: str, timeout: float, max_bytes: int) -> tuple[int, bytes]:
        """Status and body of a GET; the body is cut one byte above *max_bytes*.

        Raises:
            Overloaded: every connection is busy for a second.
            BackendUnreachable, DeadlineExceeded, BadRunnerResponse: the exchange failed.
        """
        if not self._slots.acquire(timeout=min(1.0, timeout)):
            raise Overloaded("every connection for UI files is in use")
        try:
            return self._exchange(url, time.monotonic() + timeout, max_bytes)
        finally:
            self._slots.release()

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()

    def _exchange(self, url: str, deadline: float, max_bytes: int) -> tuple[int, bytes]:
        from urllib3.exceptions import (
            HTTPError,
            NameResolutionError,
            NewConnectionError,
            TimeoutError,
        )

        try:
            return self._read(url, deadline, max_bytes)
        # A refused connection is a subclass of the connect timeout: it must be caught first.
        except (NewConnectionError, NameResolutionError) as exc:
            raise BackendUnreachable(f"cannot connect for a UI file: {type(exc).__name__}") from exc
        except TimeoutError as exc:
            raise DeadlineExceeded("deadline exceeded while fetching a UI file") from exc
        except HTTPError as exc:
            raise BadRunnerResponse(f"broken answer for a UI file: {type(exc).__name__}") from exc

    def _read(self, url: str, deadline: float, max_bytes: int) -> tuple[int, bytes]:
        response = self._pool(url).urlopen(
            "GET",
            _target(url),
            headers={"Accept-Encoding": "identity", "User-Agent": "runnerwsgi"},
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
            timeout=max(0.001, deadline - time.monotonic()),
        )
        try:
            body = _body(response, deadline, max_bytes)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return response.status, body

    def _pool(self, url: str) -> urllib3.HTTPConnectionPool:
        import urllib3

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise BadRunnerResponse("the backend resolved a UI file to something that is no URL")
        origin = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            if origin not in self._pools:
                kind = (
                    urllib3.HTTPSConnectionPool
                    if parts.scheme == "https"
                    else urllib3.HTTPConnectionPool
                )
                self._pools[origin] = kind(parts.hostname, parts.port, maxsize=self.connections)
            return self._pools[origin]


def _target(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"


def _body(response: urllib3.BaseHTTPResponse, deadline: float, max_bytes: int) -> bytes:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise BadRunnerResponse("an encoded UI file, though identity was asked for")
    parts: list[bytes] = []
    size = 0
    while size <= max_bytes:
        left = deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("deadline exceeded while reading a UI file")
        # A slow drip must not reset the clock: every read gets what is left, no more.
        if (connection := getattr(response, "connection", None)) is not None and connection.sock:
            connection.sock.settimeout(left)
        chunk = response.read1(CHUNK)
        if not chunk:
            return b"".join(parts)
        parts.append(chunk)
        size += len(chunk)
    response.close()
    return b"".join(parts)


def digest_of(digests: Mapping[str, str] | None, path: str) -> str | None:
    """The digest of *path*, or None where the install has no list.

    Raises:
        NotFound: there is a list, and the file is not in it.
    """
    if digests is None:
        return None
    if path not in digests:
        raise NotFound(f"not a file of this bundle: {headers.printable(path)}")
    return digests[path]
