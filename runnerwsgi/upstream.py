"""Exchanges with one upstream: strict, under one deadline, over connections that are kept.

No redirects, no proxies of the environment, no decoding; whatever is doubtful about an answer's
framing ends its connection (security §3).
"""

from __future__ import annotations

import email.errors
import http.client
import os
import re
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Protocol, Self, runtime_checkable
from urllib.parse import quote

from ._version import __version__
from .errors import (
    BackendStarting,
    BackendUnreachable,
    BadRunnerResponse,
    DeadlineExceeded,
    OutcomeUnknown,
)
from .lookup import resolve_within
from .timed import TimedSocket, time_left

if TYPE_CHECKING:
    import ssl

    from .errors import RunnerError
    from .origins import Origin
    from .retries import Retries

MARKER = "x-runner"  # on every answer of a runner of ours, in lower case
IDLE_SECONDS = 15.0
MAX_UNIX_PATH = 107 if sys.platform == "linux" else 103
MAX_FIELDS = 64
MAX_BLOCK_BYTES = 32 * 1024
USER_AGENT = f"runnerwsgi/{__version__}"

_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_MAX_LINE = 4096
_TIMEOUT_WORDS = "deadline exceeded ({:.1f} s) in {}, {}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; ``headers`` by lower-case name, repeated ones joined with commas."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Route:
    """How the way to a server differs from what its URL says, and who else answers on it.

    The address to connect to, the ``Host`` and the name that TLS verifies (the URL's) are three
    things: an ingress is found at its own address, and picks a service by the name it is asked for.

    Example::

        Route(connect_to=Origin("http", "10.0.0.7", 80), host="runner.apps.example.com")

    Attributes:
        connect_to: host and port to connect to, instead of the URL's.
        host: the ``Host`` to send, instead of the URL's.
        tls: verifies a server of ``https``; by default against the system's authorities.
        headers: go with every request.
        platform: reads an answer that has not the mark of a runner, and returns the error that it
            is, or None where it may be the runner's nevertheless.
        retries: tries again what failed; by default nothing.
    """

    connect_to: Origin | None = None
    host: str | None = None
    tls: ssl.SSLContext | None = None
    headers: tuple[tuple[str, str], ...] = ()
    platform: Callable[[Answer], RunnerError | None] | None = None
    retries: Retries | None = None

    def check(self, answer: Answer) -> None:
        """Let an answer through that is the runner's, or may be.

        Raises:
            RunnerError: what stands before the runner gave it.
        """
        if self.platform is None or MARKER in answer.headers:
            return
        error = self.platform(answer)
        if error is not None:
            raise error


DIRECT = Route()


class RoutedUrl(str):
    """A URL with the route to it, from ``runner_resolve_ui_url`` to whoever fetches the file."""

    __slots__ = ("route",)

    def __new__(cls, url: str, route: Route) -> Self:
        """*url*, to be reached by *route*."""
        routed = super().__new__(cls, url)
        routed.route = route
        return routed

    route: Route


def sendable(value: str) -> str:
    """*value* as a header can carry it; what is not printable ASCII is percent-encoded."""
    return value if value.isascii() and value.isprintable() else quote(value, safe="")


class Upstream:
    """One origin, or one UNIX socket, and the idle connections to it.

    Connections are made in the process that uses them, are never shared across a fork, and
    live idle for 15 seconds. One that has something to read while it is idle is dead.

    Example::

        upstream = Upstream(Origin("http", "127.0.0.1", 8085))
        upstream.exchange("GET", "/healthz", timeout=2.0, max_bytes=65536).status

    Args:
        place: where to connect; a path is a UNIX socket's.
        idle: most connections that are kept.
        route: how the way there differs from what *place* says.
        greeting: asked with GET on every new connection, before anything else goes over it.
            A request that must not be sent twice then never meets a door behind which nobody
            is: 503 is BackendStarting, a lost connection BackendUnreachable.
    """

    def __init__(
        self,
        place: Origin | Path,
        *,
        idle: int = 8,
        route: Route = DIRECT,
        greeting: str | None = None,
    ) -> None:
        self.place = place
        self._greeting = greeting
        self._authority = route.host or (
            "localhost" if isinstance(place, Path) else place.authority
        )
        self._headers = route.headers
        self._connect = _connector(place, route)
        self._limit = idle
        self._idle: deque[_Connection] = deque()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def exchange(
        self,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
        timeout: float,
        max_bytes: int,
        repeatable: bool | None = None,
        fresh: bool = False,
    ) -> Answer:
        """Send one request and read the whole of its answer.

        Args:
            method: the request's method.
            target: path and query, as they go on the wire.
            headers: besides ``Host``, ``User-Agent``, ``Accept-Encoding`` and framing.
            body: with ``Content-Length``; never chunked.
            timeout: seconds for everything, from the look-up of the name to the last byte.
            max_bytes: the longest body that is read.
            repeatable: whether it may be sent twice, where a kept connection turns out to be
                dead before any answer; by default for GET and HEAD. What cannot have been
                executed is sent again in any case.
            fresh: whether to leave kept connections alone and make a new one.

        Raises:
            BackendUnreachable: no connection; nothing was executed.
            OutcomeUnknown: it was sent, and no answer came, or not the whole of one.
            DeadlineExceeded: the time is over.
            BadRunnerResponse: the answer is broken, encoded or too long.
        """
        deadline = time.monotonic() + timeout
        request = _Request(method, target, self._block(headers, body), body, deadline)
        again = method in ("GET", "HEAD") if repeatable is None else repeatable
        try:
            connection, response = self._ask(request, again=again, fresh=fresh)
            return self._finish(connection, response, max_bytes)
        except TimeoutError as exc:
            text = _TIMEOUT_WORDS.format(timeout, request.phase, f"upstream={self.place}")
            # A server that has not seen the end of a request does not execute it.
            raise DeadlineExceeded(text, sent=request.phase == "read") from exc
        except _Stale as exc:
            raise self._lost(exc) from exc

    def _ask(
        self, request: _Request, *, again: bool, fresh: bool
    ) -> tuple[_Connection, http.client.HTTPResponse]:
        """The head of the answer, and whence its body comes."""
        connection = (None if fresh else self._take()) or self._open(request.deadline)
        try:
            return connection, connection.ask(request)
        except _Stale as stale:
            if not (connection.uses and (again or not stale.sent)):
                raise
        request.phase = "connect"
        connection = self._open(request.deadline)
        return connection, connection.ask(request)

    def close(self) -> None:
        """Close the idle connections, and keep no other: exchanges may still be under way."""
        self._limit = 0
        self._drop_idle()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.close()

    def _open(self, deadline: float) -> _Connection:
        connection = self._connect(deadline)
        if self._greeting:
            try:
                self._greet(connection, self._greeting, deadline)
            except BaseException:
                connection.close()
                raise
        return connection

    def _greet(self, connection: _Connection, target: str, deadline: float) -> None:
        try:
            request = _Request("GET", target, self._block((), None), None, deadline)
            response = connection.ask(request)
            fields = _checked_head(response)
            _body(response, MAX_BLOCK_BYTES)
        except TimeoutError:
            raise
        except (_Stale, http.client.HTTPException, OSError) as exc:
            if isinstance(exc, _Stale) and exc.broken:
                raise BadRunnerResponse(f"{self.place}: {exc}") from exc
            raise BackendUnreachable(f"{self.place}: {exc}", reason="lost") from exc
        if response.status == 503 and "x-runner" in fields:
            raise BackendStarting(f"{self.place}: the runner is not ready")
        if response.will_close:
            raise BadRunnerResponse(f"{self.place}: it keeps no connection, as a runner does")
        if connection.timed.left_over:
            raise BadRunnerResponse(f"{self.place}: more bytes than the answer has")
        connection.rest()

    def _block(
        self, headers: Iterable[tuple[str, str]], body: bytes | None
    ) -> list[tuple[str, str]]:
        block = [
            ("Host", self._authority),
            ("User-Agent", USER_AGENT),
            ("Accept-Encoding", "identity"),
            *self._headers,
            *headers,
        ]
        if body is not None:
            block.append(("Content-Length", str(len(body))))
        return block

    def _take(self) -> _Connection | None:
        self._forget_parents()
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_fresh():
                return connection
            connection.close()

    def _forget_parents(self) -> None:
        # A socket that two processes share gives one the other's answer.
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()
            self._drop_idle()

    def _finish(
        self,
        connection: _Connection,
        response: http.client.HTTPResponse,
        max_bytes: int,
    ) -> Answer:
        try:
            fields = _checked_head(response)
            body = _body(response, max_bytes)
        except BaseException as exc:
            connection.close()
            if isinstance(exc, TimeoutError):
                raise
            if isinstance(exc, OSError | http.client.IncompleteRead):
                raise OutcomeUnknown(f"{self.place}: the answer broke off") from exc
            if isinstance(exc, http.client.HTTPException):
                text = f"{self.place}: no answer of HTTP: {type(exc).__name__}"
                raise BadRunnerResponse(text) from exc
            raise
        self._give_back(connection, response)
        return Answer(response.status, fields, body)

    def _give_back(self, connection: _Connection, response: http.client.HTTPResponse) -> None:
        if response.will_close or connection.timed.left_over:
            connection.close()
            return
        connection.rest()
        with self._lock:
            self._idle.append(connection)
            surplus = self._idle.popleft() if len(self._idle) > self._limit else None
        if surplus:
            surplus.close()

    def _lost(self, stale: _Stale) -> BackendUnreachable | OutcomeUnknown | BadRunnerResponse:
        if stale.broken:
            return BadRunnerResponse(f"{self.place}: {stale}")
        if not stale.sent:
            return BackendUnreachable(f"{self.place}: {stale}", reason="lost")
        return OutcomeUnknown(f"{self.place}: {stale} after the request was sent")


@runtime_checkable
class _Pending(Protocol):
    """A socket of TLS, whose module is not loaded for those who speak none."""

    def pending(self) -> int: ...


class _Stale(Exception):
    """No head of an answer came. ``sent``: the whole request had left us."""

    def __init__(self, text: str, *, sent: bool, broken: bool = False) -> None:
        super().__init__(text)
        self.sent = sent
        self.broken = broken


@dataclass(slots=True)
class _Request:
    """What is sent, until when an answer counts, and what is being done for it."""

    method: str
    target: str
    block: Sequence[tuple[str, str]]
    body: bytes | None
    deadline: float
    phase: Literal["connect", "send", "read"] = "connect"


class _Connection:
    """A connected socket, and how often it was used."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.uses = 0
        self.timed = TimedSocket(sock, 0)
        self._rested_at = 0.0

    def ask(self, request: _Request) -> http.client.HTTPResponse:
        """Send a request, read the head of its answer.

        Raises:
            _Stale: the connection was lost before that.
            TimeoutError: the deadline is over; the connection is closed.
        """
        self.timed, request.phase = TimedSocket(self.sock, request.deadline), "send"
        sender = http.client.HTTPConnection("upstream")
        sender.auto_open = 0
        sender.sock = self.timed
        try:
            try:
                self._send(sender, request)
            except _Stale as stale:
                return self._early(sender, stale)
            request.phase = "read"
            response = self._head(sender)
            if request.body and response.status >= 400:
                # It may be refused unread: then the connection ends, and nobody says so before.
                response.will_close = True
            return response
        except BaseException:
            self.close()
            raise

    def _early(self, sender: http.client.HTTPConnection, stale: _Stale) -> http.client.HTTPResponse:
        """The answer of a server that did not read the whole request, such as 413."""
        try:
            response = self._head(sender)
        except (_Stale, TimeoutError):
            raise stale from None
        response.will_close = True
        return response

    @staticmethod
    def _send(sender: http.client.HTTPConnection, request: _Request) -> None:
        try:
            sender.putrequest(
                request.method, request.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.block:
                sender.putheader(name, value)
            sender.endheaders(request.body)
        except TimeoutError:
            raise
        except OSError as exc:
            # Not all of it was taken: no server executes a request whose end it never saw.
            raise _Stale(f"the connection was lost: {_reason(exc)}", sent=False) from exc

    @staticmethod
    def _head(sender: http.client.HTTPConnection) -> http.client.HTTPResponse:
        try:
            return sender.getresponse()
        except TimeoutError:
            raise
        except (OSError, http.client.RemoteDisconnected) as exc:
            raise _Stale(f"the connection was lost: {_reason(exc)}", sent=True) from exc
        except (http.client.HTTPException, ValueError) as exc:
            text = f"not an answer of HTTP: {type(exc).__name__}"
            raise _Stale(text, sent=True, broken=True) from exc

    def rest(self) -> None:
        """Begin to be idle."""
        self.uses += 1
        self._rested_at = time.monotonic()

    def is_fresh(self) -> bool:
        """Whether it may be used again: idle not for long, and nothing came meanwhile."""
        if time.monotonic() - self._rested_at > IDLE_SECONDS:
            return False
        # What TLS has decrypted already, poll cannot see.
        if isinstance(self.sock, _Pending) and self.sock.pending():
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | select.POLLHUP | select.POLLERR)
        return not poll.poll(0)

    def close(self) -> None:
        """Close the socket."""
        with suppress(OSError):
            self.sock.close()


def _reason(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or type(exc).__name__


def _connector(place: Origin | Path, route: Route) -> Callable[[float], _Connection]:
    if isinstance(place, Path):
        return lambda deadline: _Connection(_open_unix(place, deadline))
    door = route.connect_to or place
    if place.scheme == "http":
        return lambda deadline: _Connection(_open(door, deadline))
    # A hundred authorities take 20 ms to read: only who speaks TLS pays, and once.
    context = cache(lambda: route.tls or _default_tls())
    return lambda deadline: _Connection(_secured(_open(door, deadline), place, context, deadline))


@contextmanager
def unix_address(path: Path) -> Iterator[str]:
    """What ``bind`` and ``connect`` take for the socket *path*, while the block runs.

    The kernel takes 107 bytes; a longer path is named by its open folder, where there is Linux.

    Raises:
        OSError: the folder cannot be opened, or no such name is short enough either.
    """
    if len(os.fsencode(path)) <= MAX_UNIX_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY))
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _open_unix(path: Path, deadline: float) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(time_left(deadline))
            with unix_address(path) as address:
                sock.connect(address)
        except BaseException:
            sock.close()
            raise
    except TimeoutError:
        raise
    except OSError as exc:
        raise BackendUnreachable(f"{path}: {_reason(exc)}", reason="refused") from exc
    return sock


def _open(origin: Origin, deadline: float) -> socket.socket:
    addresses = [origin.host] if origin.address else _addresses(origin, deadline)
    failure: OSError = OSError("the name has no address")
    for index, address in enumerate(addresses):
        try:
            share = time_left(deadline) / (len(addresses) - index)
            sock = socket.create_connection((address, origin.port), share)
        except OSError as exc:
            failure = exc
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    if isinstance(failure, TimeoutError):
        raise failure
    # Somebody took the connection and threw it away, as Docker's proxy does for a dead port.
    reason = "lost" if isinstance(failure, ConnectionResetError) else "refused"
    raise BackendUnreachable(f"{origin}: {_reason(failure)}", reason=reason) from failure


def _addresses(origin: Origin, deadline: float) -> Sequence[str]:
    try:
        return resolve_within(origin.host, origin.port, deadline)
    except TimeoutError:
        raise
    except OSError as exc:
        raise BackendUnreachable(f"{origin}: there is no such name", reason="name") from exc


def _secured(
    sock: socket.socket, origin: Origin, tls: Callable[[], ssl.SSLContext], deadline: float
) -> socket.socket:
    try:
        sock.settimeout(time_left(deadline))
        return tls().wrap_socket(sock, server_hostname=origin.host)
    except TimeoutError:
        sock.close()
        raise
    except OSError as exc:
        sock.close()
        raise BackendUnreachable(f"{origin}: TLS failed: {_reason(exc)}", reason="tls") from exc


def _default_tls() -> ssl.SSLContext:
    import ssl

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


_HTTP_1_1 = 11
# Behind such a line the parser of http.client reads no more headers, and says nothing.
_HEAD_DEFECTS = (
    email.errors.FirstHeaderLineIsContinuationDefect,
    email.errors.InvalidHeaderDefect,
    email.errors.MisplacedEnvelopeHeaderDefect,
    email.errors.MissingHeaderBodySeparatorDefect,
)


def _checked_head(response: http.client.HTTPResponse) -> dict[str, str]:
    """The header fields of an answer that says beyond doubt where it ends (RFC 9112 §6)."""
    if any(isinstance(defect, _HEAD_DEFECTS) for defect in response.headers.defects):
        raise BadRunnerResponse("an answer with a line among its headers that is none")
    pairs = [(name.lower(), value.strip(" \t")) for name, value in response.getheaders()]
    size = sum(len(name) + len(value) for name, value in pairs)
    if len(pairs) > MAX_FIELDS or size > MAX_BLOCK_BYTES:
        raise BadRunnerResponse(f"an answer with {len(pairs)} header fields of {size} bytes")
    if not 200 <= response.status < 600:
        raise BadRunnerResponse(f"an answer of status {response.status}")
    fields: dict[str, str] = {}
    for name, value in pairs:
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    length, coding = fields.get("content-length"), fields.get("transfer-encoding")
    if length is not None and (coding is not None or not _LENGTH.fullmatch(length)):
        raise BadRunnerResponse("an answer whose length can be read in two ways")
    # HTTP/1.0 knows no chunks; and what http.client reads otherwise than we do is in doubt.
    if coding is not None and not (
        coding.lower() == "chunked" and response.chunked and response.version == _HTTP_1_1
    ):
        raise BadRunnerResponse("an answer with a transfer coding that nobody asked for")
    if fields.get("content-encoding", "identity").lower() != "identity":
        raise BadRunnerResponse("an encoded answer, though identity was asked for")
    return fields


def _body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    if response.length is not None and response.length > max_bytes:
        raise BadRunnerResponse(f"an answer of {response.length} bytes, {max_bytes} allowed")
    if response.chunked:
        body = _chunks(response.fp, max_bytes)
        response.close()
        return body
    body = response.read(max_bytes + 1)
    if len(body) > max_bytes:
        raise BadRunnerResponse(f"an answer of more than {max_bytes} bytes")
    if response.length:
        raise http.client.IncompleteRead(body, response.length)
    return body


def _chunks(stream: IO[bytes], max_bytes: int) -> bytes:
    """A chunked body and its end (RFC 9112 §7.1); http.client takes ``-5`` for a size."""
    body = bytearray()
    while size := _chunk_size(stream):
        if len(body) + size > max_bytes:
            raise BadRunnerResponse(f"an answer of more than {max_bytes} bytes")
        body += _whole(stream.read(size), size)
        if _whole(stream.read(2), 2) != b"\r\n":
            raise BadRunnerResponse("a chunk that does not end where it says")
    for _ in range(MAX_FIELDS):
        if _line(stream) == b"\r\n":
            return bytes(body)
    raise BadRunnerResponse("chunks without an end")


def _whole(data: bytes, size: int) -> bytes:
    """*data*, if it is all of it; else the peer has broken off."""
    if len(data) < size:
        raise http.client.IncompleteRead(data, size - len(data))
    return data


def _line(stream: IO[bytes]) -> bytes:
    line = stream.readline(_MAX_LINE)
    if not line.endswith(b"\n") and len(line) < _MAX_LINE:
        raise http.client.IncompleteRead(line)
    return line


def _chunk_size(stream: IO[bytes]) -> int:
    found = _CHUNK.fullmatch(_line(stream))
    if found is None:
        raise BadRunnerResponse("a chunk without a size")
    return int(found[1], 16)
