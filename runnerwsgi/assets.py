"""The bytes behind a resolved URL: fetched, capped, checked against their digest, cached."""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from . import headers
from .errors import (
    BadRunnerResponse,
    DeadlineExceeded,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    StorageError,
)
from .origins import parse_http_url
from .retries import ONCE
from .upstream import DIRECT, Answer, Route, RoutedUrl, Upstream, sendable

if TYPE_CHECKING:
    from .origins import HttpUrl, Origin
    from .protocol import Headers

CACHE_BYTES = 64 * 1024 * 1024
CACHED_FILE_BYTES = CACHE_BYTES // 8
PATIENCE_SECONDS = 1.0
TENANT_HEADER = "X-Tenant-Id"
# What opening a file says where there is none of this name.
_ABSENT = frozenset({errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG})


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
        connections: most fetches from remotes at a time. Each holds a thread of the host, so
            leave some for its own pages.
    """

    def __init__(self, bundles: Path | None, max_bytes: int, connections: int = 1) -> None:
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

    def load(
        self, url: str, path: str, digest: str | None, timeout: float, tenant_id: str | None = None
    ) -> Asset:
        """The file behind *url*.

        Args:
            url: what the backend resolved; ``file:``, ``http:`` or ``https:``.
            path: the file's path in the bundle; its name decides the content type.
            digest: SHA-256 in hex from the install, or None where there is no list.
            timeout: seconds for the whole fetch.
            tenant_id: whose install it is, for a runner that keeps bundles by tenant.

        Raises:
            NotFound: there is no such file.
            BadRunnerResponse: the bytes are too many, or not those of the digest.
            BackendUnreachable, DeadlineExceeded, Overloaded, StorageError: it cannot be had.
        """
        if url.startswith("file:"):
            data = self._read_file(url)
        else:
            data = self._fetch(url, timeout, tenant_id)
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
        file = Path(os.path.realpath(unquote(urlsplit(url).path)))
        if self.bundles is None or not file.is_relative_to(os.path.realpath(self.bundles)):
            raise BadRunnerResponse("the backend named a file outside of its bundle store")
        try:
            with file.open("rb") as stream:
                data = stream.read(self.max_bytes + 1)
        except OSError as exc:
            if exc.errno in _ABSENT:
                raise NotFound(f"not in the bundle store: {headers.printable(file.name)}") from None
            raise StorageError(f"{file}: {exc.strerror}") from exc
        return self._capped(data)

    def _fetch(self, url: str, timeout: float, tenant_id: str | None) -> bytes:
        tenant = () if tenant_id is None else ((TENANT_HEADER, sendable(tenant_id)),)
        status, body = self._remotes.get(url, timeout, self.max_bytes, tenant)
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
    """The origins that backends resolved to, and how many files may be fetched at a time."""

    def __init__(self, connections: int) -> None:
        self.connections = connections
        self._upstreams: dict[tuple[Origin, Route], Upstream] = {}
        self._turns = _Turns(connections)
        self._lock = threading.Lock()

    def get(
        self, url: str, timeout: float, max_bytes: int, headers: Headers = ()
    ) -> tuple[int, bytes]:
        """Status and body of a GET.

        Raises:
            Overloaded: every connection is busy, and stays so.
            BackendUnreachable, DeadlineExceeded, BadRunnerResponse: the exchange failed.
        """
        parsed = parse_remote(url)
        route = url.route if isinstance(url, RoutedUrl) else DIRECT
        upstream = self._upstream(parsed.origin, route)
        deadline = time.monotonic() + timeout

        def fetch(number: int) -> Answer:
            answer = upstream.exchange(
                "GET",
                parsed.target,
                headers=headers,
                timeout=max(0.001, deadline - time.monotonic()),
                max_bytes=max_bytes,
                fresh=number > 0,
            )
            route.check(answer)
            return answer

        with self._turns.one(timeout):
            try:
                tries = route.retries or ONCE
                answer = tries.run(fetch, deadline=deadline, again=lambda: True)
            except OutcomeUnknown as exc:
                raise BadRunnerResponse(f"no answer for a UI file: {exc}") from exc
        return answer.status, answer.body

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            upstreams, self._upstreams = list(self._upstreams.values()), {}
        for upstream in upstreams:
            upstream.close()

    def _upstream(self, origin: Origin, route: Route) -> Upstream:
        with self._lock:
            if (origin, route) not in self._upstreams:
                upstream = Upstream(origin, idle=self.connections, route=route)
                self._upstreams[origin, route] = upstream
            return self._upstreams[origin, route]


class _Turns:
    """Lets a few fetch at a time; the others wait, for pages ask for many files at once.

    Nobody waits behind a remote that hangs: who waits holds a thread of the host as well.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = count
        self._hangs = False
        self._pid = os.getpid()
        self._changed = threading.Condition()

    @contextmanager
    def one(self, timeout: float) -> Iterator[None]:
        self._forget_parents()
        with self._changed:
            patience = 0.0 if self._hangs else min(PATIENCE_SECONDS, timeout)
            if not self._changed.wait_for(lambda: self._free > 0, patience):
                self._hangs = True
                raise Overloaded("every connection for UI files is in use")
            self._free -= 1
        hangs = False
        try:
            yield
        except DeadlineExceeded:
            hangs = True
            raise
        finally:
            with self._changed:
                self._free += 1
                self._hangs = hangs
                self._changed.notify()

    def _forget_parents(self) -> None:
        # What the parent fetched while it forked never ends here.
        if self._pid != os.getpid():
            self._changed, self._free = threading.Condition(), self._count
            self._pid = os.getpid()


def parse_remote(url: str) -> HttpUrl:
    """An ``http:`` or ``https:`` URL that a backend resolved (security §3).

    Raises:
        BadRunnerResponse: it could be read in two ways, or it is link-local.
    """
    try:
        parsed = parse_http_url(url)
    except ValueError as exc:
        raise BadRunnerResponse(f"the backend resolved a UI file to no strict URL: {exc}") from exc
    address = parsed.origin.address
    if address is not None and address.is_link_local:
        raise BadRunnerResponse("the backend resolved a UI file to a link-local address")
    return parsed


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
