"""Requests of a guest to the outside, to listed origins only: ``http.fetch`` (security §5)."""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import time
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from runnerwsgi import headers as header_rules
from runnerwsgi._version import __version__
from runnerwsgi.errors import CapabilityError
from runnerwsgi.logs import emit
from runnerwsgi.lookup import Resolve, resolve_within, system_resolve
from runnerwsgi.origins import (
    EgressEntry,
    HttpUrl,
    inner_kind,
    parse_egress_entry,
    parse_http_url,
)
from runnerwsgi.protocol import METHODS
from runnerwsgi.timed import TimedSocket, time_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from runnerwsgi.capabilities import Call, Functions
    from runnerwsgi.origins import Address

    Connect = Callable[[str, int, float], socket.socket]

log = logging.getLogger(__name__)

MAX_RESPONSE_FIELDS = 64
MAX_RESPONSE_BLOCK = 32 * 1024

# Ours to set, or another party's word on who is calling: dropped, as browsers drop them.
FORBIDDEN_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "metadata",
        "metadata-flavor",
        "te",
        "trailer",
        "transfer-encoding",
        "true-client-ip",
        "upgrade",
        "via",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-real-ip",
        "x-runner",
    }
)
FORBIDDEN_PREFIXES = (
    "proxy-",
    "sec-",
    "x-forwarded-",
    "x-alga-",
    "x-runner-",
    "x-envoy-",
    "x-aws-ec2-metadata-",
    "k-",
    "knative-",
    "cf-",
)
# Of this one hop, or undone by us already.
DROPPED_ANSWER_HEADERS = frozenset(
    {"connection", "keep-alive", "proxy-connection", "trailer", "transfer-encoding", "upgrade"}
)


class Egress:
    """Fetches URLs for guests, under two lists: the operator's and the install's.

    A name is resolved once, every address it has must be a public one, and the connection
    goes to the very address that was checked. Redirects are the guest's to follow. A private
    or loopback address is reached only where the operator listed that address itself.

    Example::

        egress = Egress(["https://*.example.com"])
        egress.fetch(call, {"method": "GET", "url": "https://api.example.com/v1", "headers": []})

    Args:
        allow: the operator's entries, ``RUNNER_EGRESS_ALLOW``; an empty list allows nothing, and
            None leaves it to the call's own.
        max_bytes: the longest answer, in bytes.
        resolve: the addresses of ``(host, port)``.
        connect: a connected socket to ``(address, port)`` within a number of seconds.
        tls: verifies servers; by default against the system's authorities.
    """

    def __init__(
        self,
        allow: Iterable[str] | None = (),
        *,
        max_bytes: int = 3_000_000,
        resolve: Resolve | None = None,
        connect: Connect | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allow = None if allow is None else tuple(map(parse_egress_entry, allow))
        self._max_bytes = max_bytes
        self._resolve = resolve or system_resolve
        self._connect = connect or system_connect
        self._tls = tls

    def fetch(self, call: Call, request: Mapping[str, Any]) -> dict[str, Any]:
        """``http.fetch``: the record ``http-response``, of any status.

        Raises:
            CapabilityError: ``invalid-url``; ``not-allowed`` for what a list, the address
                table or the header rules refuse; ``transport`` for whatever happens on the
                way, the time limit and an answer that is too long included.
        """
        deadline = time.monotonic() + call.timeout
        url = _parse_url(request["url"])
        method = _check_method(request["method"])
        fields = _request_headers(request.get("headers") or ())
        self._check_lists(url, call.egress)
        try:
            addresses = self._addresses(url, deadline)
            with self._open(url, addresses, deadline) as sock:
                return self._exchange(sock, url, method, fields, request.get("body"), deadline)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            # The text may be the server's own, line ends and all.
            emit(
                log,
                logging.INFO,
                "fetch.failed",
                error=f"{type(exc).__name__}: {exc}",
                request_id=call.request_id,
                extension_id=call.extension_id,
                origin=url.origin,
            )
            raise CapabilityError("transport", f"{url.origin}: {exc}") from exc

    def functions(self) -> Functions:
        """The host functions by their WIT names."""
        return {"http": {"fetch": self.fetch}}

    def _check_lists(self, url: HttpUrl, granted: Iterable[str]) -> None:
        if self._allow is not None and not _listed(url, self._allow):
            raise CapabilityError("not-allowed", f"{url.origin} is not in RUNNER_EGRESS_ALLOW")
        if not _listed(url, map(parse_egress_entry, granted)):
            raise CapabilityError("not-allowed", f"the install was not granted {url.origin}")

    def _addresses(self, url: HttpUrl, deadline: float) -> list[str]:
        """Where the URL's host is, once every address of it has passed the table."""
        literal = url.origin.address
        if literal is not None:
            # The lists hold this very address: an operator wrote it down, and the parser of
            # entries lets only those pass that one may open.
            return [str(literal)]
        origin = url.origin
        found = resolve_within(origin.host, origin.port, deadline, self._resolve, party="guests")
        texts = list(found)
        if not texts:
            raise OSError("the name has no address")
        for text in texts:
            _check_address(_address(text))
        return texts

    def _open(self, url: HttpUrl, addresses: Sequence[str], deadline: float) -> socket.socket:
        """A connection to the first address that answers, each with its share of the time."""
        failure = OSError("the name has no address")
        for index, address in enumerate(addresses):
            share = time_left(deadline) / (len(addresses) - index)
            try:
                sock = self._connect(address, url.origin.port, share)
            except OSError as exc:
                failure = exc
                continue
            return self._secured(sock, url, deadline)
        raise failure

    def _secured(self, sock: socket.socket, url: HttpUrl, deadline: float) -> socket.socket:
        if url.origin.scheme != "https":
            return sock
        try:
            sock.settimeout(time_left(deadline))
            # The certificate must be of the host in the URL, whatever address was dialled.
            return (self._tls or _default_tls()).wrap_socket(sock, server_hostname=url.origin.host)
        except BaseException:
            sock.close()
            raise

    def _exchange(
        self,
        sock: socket.socket,
        url: HttpUrl,
        method: str,
        fields: Sequence[tuple[str, str]],
        body: bytes | None,
        deadline: float,
    ) -> dict[str, Any]:
        connection = http.client.HTTPConnection(url.origin.host, url.origin.port)
        # Connected already, to the address that was checked; and never again by itself.
        connection.auto_open = 0
        connection.sock = TimedSocket(sock, deadline)
        connection.putrequest(method, url.target, skip_host=True, skip_accept_encoding=True)
        for name, value in _framing(url, method, fields, body):
            connection.putheader(name, value)
        connection.endheaders(body)
        with connection.getresponse() as response:
            return {
                "status": _check_status(response.status),
                "headers": _response_headers(response),
                "body": self._read(response),
            }

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        if response.length is not None and response.length > self._max_bytes:
            raise ValueError(f"the answer has {response.length} bytes, above {self._max_bytes}")
        body = response.read(self._max_bytes + 1)
        if len(body) > self._max_bytes:
            raise ValueError(f"the answer is above {self._max_bytes} bytes")
        if response.length:
            raise http.client.IncompleteRead(body, response.length)
        return body


def system_connect(address: str, port: int, timeout: float) -> socket.socket:
    """A connected socket; *address* is one, never a name."""
    return socket.create_connection((address, port), timeout)


@cache
def _default_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _listed(url: HttpUrl, entries: Iterable[EgressEntry]) -> bool:
    return any(entry.allows(url.origin) for entry in entries)


def _parse_url(text: str) -> HttpUrl:
    try:
        return parse_http_url(text)
    except ValueError as exc:
        raise CapabilityError("invalid-url", f"{header_rules.printable(text)}: {exc}") from exc


def _check_method(method: str) -> str:
    if method.upper() not in METHODS:
        shown = header_rules.printable(method, 32)
        raise CapabilityError("not-allowed", f"method {shown} is not one of {', '.join(METHODS)}")
    return method.upper()


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise CapabilityError("not-allowed", f"the resolver answered {text[:64]!r}") from None


def _check_address(address: Address) -> None:
    kind = inner_kind(address)
    if kind is not None:
        raise CapabilityError("not-allowed", f"{address} is not public: {kind}")


def _request_headers(given: Iterable[Mapping[str, str]]) -> list[tuple[str, str]]:
    """The guest's headers without those that are not its own to set."""
    fields = [(header["name"], header["value"]) for header in given]
    size = sum(len(name) + len(value) for name, value in fields)
    if len(fields) > header_rules.MAX_FIELDS or size > header_rules.MAX_BLOCK_BYTES:
        raise CapabilityError("not-allowed", "too many or too long headers")
    for name, value in fields:
        if not header_rules.is_token(name) or not header_rules.is_value(value):
            shown = header_rules.printable(name)
            raise CapabilityError("not-allowed", f"the header {shown} has characters it must not")
    return [(name, value.strip()) for name, value in fields if not _is_forbidden(name)]


def _is_forbidden(name: str) -> bool:
    # Some servers read `X_Forwarded_For` as `X-Forwarded-For`.
    lower = name.lower().replace("_", "-")
    return lower in FORBIDDEN_HEADERS or lower.startswith(FORBIDDEN_PREFIXES)


def _framing(
    url: HttpUrl, method: str, fields: Sequence[tuple[str, str]], body: bytes | None
) -> list[tuple[str, str]]:
    """The whole header block: ours around the guest's."""
    block = [("Host", url.origin.authority), ("Accept-Encoding", "identity"), *fields]
    if not any(name.lower() == "user-agent" for name, _ in fields):
        block.append(("User-Agent", f"runnerwsgi/{__version__}"))
    if body is not None or method in ("POST", "PUT", "PATCH"):
        block.append(("Content-Length", str(len(body or b""))))
    return [*block, ("Connection", "close")]


def _check_status(status: int) -> int:
    if not 200 <= status < 600:
        raise ValueError(f"the answer has the status {status}")
    return status


def _response_headers(response: http.client.HTTPResponse) -> list[dict[str, str]]:
    fields = response.getheaders()
    size = sum(len(name) + len(value) for name, value in fields)
    if len(fields) > MAX_RESPONSE_FIELDS or size > MAX_RESPONSE_BLOCK:
        raise ValueError(f"the answer has {len(fields)} header fields of {size} bytes")
    return [
        {"name": name, "value": value}
        for name, value in fields
        if name.lower() not in DROPPED_ANSWER_HEADERS
    ]
