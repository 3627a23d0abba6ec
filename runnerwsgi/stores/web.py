"""Bundles on a web server: GET reads them, PUT uploads them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from runnerwsgi.bundles import MAX_ARCHIVE_BYTES
from runnerwsgi.errors import (
    BundleUnavailable,
    ConfigurationError,
    Refused,
    StorageError,
    UpstreamError,
)
from runnerwsgi.origins import parse_http_url
from runnerwsgi.upstream import Answer, Route, Upstream

if TYPE_CHECKING:
    import ssl

    from runnerwsgi.secrets import Secret

_NO_UPLOADS = "it takes no uploads (PUT): push to where its files come from"
_STATUSES = {
    401: "it wants to know who asks: set RUNNER_BUNDLE_STORE_TOKEN",
    403: "it refuses: check RUNNER_BUNDLE_STORE_TOKEN, and what that token may do there",
    404: "there is no such place: check RUNNER_BUNDLE_STORE",
    405: _NO_UPLOADS,
    413: "it takes no uploads of this size: raise its limit",
    501: _NO_UPLOADS,
    507: "it is full: free some space there",
}


class WebSource:
    """One folder of one web server.

    Example::

        WebSource("https://bundles.example.com/ext").read("tenants/…/bundle.tar.zst", 10.0)

    Args:
        url: ``https://host[:port][/path]``.
        token: goes along as ``Authorization: Bearer``.
        allow_insecure: take ``http:``, over which others can read bundles and token.
        tls: verifies the server; by default against the system's authorities.

    Raises:
        ConfigurationError: *url* is no such URL.
    """

    def __init__(
        self,
        url: str,
        token: Secret | None = None,
        *,
        allow_insecure: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        try:
            parsed = parse_http_url(url)
        except ValueError as exc:
            raise ConfigurationError(f"RUNNER_BUNDLE_STORE is no URL of a store: {exc}.") from exc
        if "?" in parsed.target:
            raise ConfigurationError("RUNNER_BUNDLE_STORE has a query: leave it away.")
        if parsed.origin.scheme == "http" and not allow_insecure:
            raise ConfigurationError(
                f"RUNNER_BUNDLE_STORE would fetch bundles from {parsed.origin} in the clear: use "
                "https, or set RUNNER_ALLOW_INSECURE=1."
            )
        self._prefix = parsed.target.rstrip("/")
        self.where = f"{parsed.origin}{self._prefix}"
        self._headers = (("Authorization", f"Bearer {token.reveal()}"),) if token else ()
        self._upstream = Upstream(parsed.origin, route=Route(tls=tls))

    def read(self, key: str, timeout: float) -> bytes | None:
        """The object, or None where there is none; 404 and 410 say so.

        Raises:
            BundleUnavailable: it is not to be had.
        """
        try:
            answer = self._ask("GET", key, None, (), timeout)
        except (UpstreamError, Refused) as exc:
            raise BundleUnavailable(f"{self.where} cannot be read: {exc}") from exc
        if answer.status in (404, 410):
            return None
        if answer.status != 200:
            raise BundleUnavailable(f"{self.where} cannot be read: {_meaning(answer)}")
        return answer.body

    def write(self, key: str, data: bytes, content_type: str, timeout: float) -> None:
        """Upload an object.

        Raises:
            StorageError: it was not taken.
        """
        try:
            answer = self._ask("PUT", key, data, (("Content-Type", content_type),), timeout)
        except (UpstreamError, Refused) as exc:
            raise StorageError(f"{self.where} cannot be written: {exc}.") from exc
        if answer.status not in (200, 201, 204):
            raise StorageError(f"{self.where} cannot be written: {_meaning(answer)}.")

    def _ask(
        self,
        method: str,
        key: str,
        body: bytes | None,
        headers: tuple[tuple[str, str], ...],
        timeout: float,
    ) -> Answer:
        return self._upstream.exchange(
            method,
            f"{self._prefix}/{quote(key)}",
            headers=(*self._headers, *headers),
            body=body,
            timeout=timeout,
            max_bytes=MAX_ARCHIVE_BYTES,
            repeatable=True,  # the same bytes under the same key, however often
        )

    def close(self) -> None:
        """Close the connections."""
        self._upstream.close()


def _meaning(answer: Answer) -> str:
    if 300 <= answer.status < 400:
        return f"{answer.status}, it redirects, which is not followed: name the place itself"
    meaning = _STATUSES.get(answer.status, "something there is wrong: see its log")
    return f"{answer.status}, {meaning}"
