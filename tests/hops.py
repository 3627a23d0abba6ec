"""One hop of a platform: takes HTTP/1.1, says something itself, or passes on what came.

What the hops of Knative have in common; which of them says what, and when, is in
`knative_double`.
"""

import io
import math
import select
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse, IncompleteRead
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from urllib.parse import urlsplit

PIECE = 64 * 1024
PLAIN = (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))
# What concerns one connection only (RFC 9110 §7.6.1).
HOP_BY_HOP = {
    *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
    *("upgrade", "proxy-authenticate", "proxy-authorization"),
}
PHRASES = {number: words[0] for number, words in BaseHTTPRequestHandler.responses.items()}


class Gone(Exception):
    """The client has gone away: nobody wants an answer."""


class Lost(Exception):
    """The next hop gave no whole answer: not in the phase `connect`, `head` or `body`."""

    def __init__(self, phase, reason):
        super().__init__(f"{phase}: {reason!r}")
        self.phase, self.reason = phase, reason


class Late(Exception):
    """The clock has run out."""


class Clock:
    """What a hop's timers leave of the time since a request came.

    Args:
        timeout: seconds for all of it.
        start: seconds until an answer begins.
        idle: seconds between two writes, and before the first.
    """

    def __init__(self, timeout=math.inf, start=math.inf, idle=math.inf):
        self._came = self._wrote_at = time.monotonic()
        self._timeout, self._start, self._idle = timeout, start, idle
        self._begun = False

    @property
    def left(self):
        """Seconds; `inf` without timers, 0 when they have run out."""
        start = math.inf if self._begun else self._came + self._start
        until = min(self._came + self._timeout, self._wrote_at + self._idle, start)
        return max(0, until - time.monotonic())

    def wrote(self):
        """Something of an answer is there."""
        self._begun, self._wrote_at = True, time.monotonic()


class Request:
    """A request on its way: `method`, `target` as it was on the wire, `fields` in their order."""

    def __init__(self, handler):
        self._handler = handler
        self.sock = handler.connection
        self.method, self.target = handler.requestline.split()[:2]
        self.path = urlsplit(self.target).path
        self.fields = handler.headers.items()
        self.is_chunked = self.get("Transfer-Encoding").lower() == "chunked"
        self._left = int(self.get("Content-Length") or 0)
        self.unread = self.is_chunked or bool(self._left)

    def get(self, name):
        """A header's first value, or the empty text."""
        return next((value for key, value in self.fields if key.lower() == name.lower()), "")

    def set(self, name, value):
        """Put one header in the place of all of its name; None only removes them."""
        self.fields = [pair for pair in self.fields if pair[0].lower() != name.lower()]
        self.fields += [(name, value)] if value is not None else []

    def pieces(self):
        """The body as it comes."""
        yield from self._chunks() if self.is_chunked else self._parts()
        self.unread = False

    def has_gone(self):
        """Whether the client left. Go looks for that when it has read the body, not before."""
        return not self.unread and _has_left(self.sock)

    def say(self, status, body=b"", fields=PLAIN):
        """Answer it here."""
        self.begin(status, [*fields, ("Content-Length", str(len(body)))])
        self.send(b"" if self.method == "HEAD" else body)

    def begin(self, status, fields):
        """Send the head of an answer; after a body that nobody read the connection ends."""
        if self.unread:
            fields = [*fields, ("Connection", "close")]
            self.hang_up()
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        self.send(f"HTTP/1.1 {status} {PHRASES[status]}\r\n{lines}\r\n".encode("latin-1"))

    def send(self, data):
        """Send bytes of an answer."""
        try:
            self.sock.sendall(data)
        except OSError as exc:
            raise Gone from exc

    def hang_up(self):
        """End the connection after this, whatever was said."""
        self._handler.close_connection = True

    def _parts(self):
        while self._left:
            yield self._read(min(PIECE, self._left))

    def _read(self, size):
        data = self._handler.rfile.read(size)
        if len(data) < size:
            raise Gone
        self._left -= len(data)
        return data

    def _chunks(self):
        stream = self._handler.rfile
        while size := int(stream.readline().split(b";")[0] or b"0", 16):
            yield self._read(size)
            stream.readline()
        while stream.readline().strip():
            pass


def _has_left(sock):
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


class _Watched(io.RawIOBase):
    """What the next hop sends, while there is time for it and a client."""

    def __init__(self, sock, clock, client):
        self.sock, self.clock, self.client = sock, clock, client

    def readable(self):
        return True

    def readinto(self, buffer):
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        poll.register(self.client, select.POLLRDHUP)
        left = self.clock.left
        ready = [number for number, _ in poll.poll(None if left == math.inf else left * 1000)]
        if not ready:
            raise Late
        if self.sock.fileno() not in ready:
            raise Gone
        return self.sock.recv_into(buffer)

    def makefile(self, mode):
        return io.BufferedReader(self)


class _Relay:
    """An answer on its way back; its head leaves with the first of its bytes."""

    def __init__(self, request, response, clock, more):
        self.request, self.response, self.clock = request, response, clock
        self.sized = response.length is not None
        lost = HOP_BY_HOP | {name.lower() for name, _ in more}
        kept = [pair for pair in response.getheaders() if pair[0].lower() not in lost]
        self.fields = [*kept, *more, *([] if self.sized else [("Transfer-Encoding", "chunked")])]
        self._began = False

    def run(self):
        try:
            while data := self.response.read1(PIECE):
                self._send(data)
        except (OSError, HTTPException) as exc:
            raise Lost("body", exc) from exc
        if self.response.length:
            raise Lost("body", IncompleteRead(b"", self.response.length))
        self.end()

    def end(self, words=b""):
        """Send what is left, and after it *words* that the answer never had."""
        self._send(words)
        if not self.sized:
            self.request.send(b"0\r\n\r\n")
        elif words:
            self.request.hang_up()

    def _send(self, data):
        if not self._began:
            self._began = True
            self.request.begin(self.response.status, self.fields)
        if data:
            self.request.send(data if self.sized else _chunk(data))
            self.clock.wrote()


def _chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024


class Hop:
    """A server that answers, or passes on; it serves until its block ends.

    Attributes:
        url: where it listens.
        arrived: how many requests came.
        forwarded: how many were given to the next hop, to their last byte.
        busy: how many are there now; `peak` the most there were at once.
        said: what the hop said itself, and how often, by (status, body).
        seen: what was given to the next hop, as (method, target, headers).
        late: what is said when the clock has run out.
    """

    late = b""

    def __init__(self, port=0, tls=None):
        self.arrived = self.forwarded = self.busy = self.peak = 0
        self.said = Counter()
        self.seen = []
        self.lock = threading.Lock()
        self._open = set()
        self._server = _Server(("127.0.0.1", port), self._handler())
        if tls:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def answer(self, request):
        """Answer one request."""
        raise NotImplementedError

    def say(self, request, status, text="", fields=PLAIN):
        """Answer in the hop's own words."""
        with self.lock:
            self.said[status, text] += 1
        request.say(status, text.encode(), fields)

    def forward(self, request, url, clock, more=(), *, mute=False):
        """Pass a request on to *url*, and the answer back.

        Args:
            more: headers that the answer gets.
            mute: the answer is read, and nobody hears of it.

        Raises:
            Lost: there was no whole answer; in the phase `body` a part may have been sent.
        """
        place, relay = urlsplit(url), None
        try:
            with self._busy(), _connected((place.hostname, place.port), clock) as sock:
                self._pass_on(request, sock)
                response = HTTPResponse(_Watched(sock, clock, request.sock), method=request.method)
                relay = self._hear(request, response, clock, more)
                response.read() if mute else relay.run()
        except Late:
            self.say_late(request) if relay is None else relay.end(self.late)

    def say_late(self, request):
        """Answer that the clock has run out."""
        self.say(request, 504, self.late.decode(), PLAIN[:1])

    def close(self):
        """Listen no more, and end every connection."""
        self.shut()
        for sock in list(self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def shut(self):
        """Listen no more; what is under way goes on."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self):
        serve = {"target": self._server.serve_forever, "kwargs": {"poll_interval": 0.02}}
        self._thread = threading.Thread(**serve)
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self.close()
        self._thread.join()

    def _pass_on(self, request, sock):
        fields = [pair for pair in request.fields if pair[0].lower() not in HOP_BY_HOP]
        fields += [("Transfer-Encoding", "chunked")] if request.is_chunked else []
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        head = f"{request.method} {request.target} HTTP/1.1\r\n{lines}\r\n"
        with suppress(OSError):  # it ended the connection; what it said before comes next
            sock.sendall(head.encode("latin-1"))
            for data in request.pieces():
                sock.sendall(_chunk(data) if request.is_chunked else data)
            sock.sendall(b"0\r\n\r\n" if request.is_chunked else b"")
            with self.lock:
                self.forwarded += 1
                self.seen.append((request.method, request.target, dict(fields)))

    @staticmethod
    def _hear(request, response, clock, more):
        try:
            response.begin()
        except (OSError, HTTPException) as exc:
            raise Lost("head", exc) from exc
        clock.wrote()
        return _Relay(request, response, clock, more)

    @contextmanager
    def _busy(self):
        with self.lock:
            self.busy += 1
            self.peak = max(self.peak, self.busy)
        try:
            yield
        finally:
            with self.lock:
                self.busy -= 1

    def _handler(self):
        hop = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle(self):
                hop._open.add(self.connection)
                try:
                    super().handle()
                except OSError:
                    pass  # the client has gone
                finally:
                    hop._open.discard(self.connection)

            def do_GET(self):
                with hop.lock:
                    hop.arrived += 1
                try:
                    hop.answer(Request(self))
                except Gone:
                    self.close_connection = True

            do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

            def log_message(self, *args):
                pass

        return Handler


@contextmanager
def _connected(address, clock):
    try:
        sock = socket.create_connection(address, None if clock.left == math.inf else clock.left)
    except OSError as exc:
        if not clock.left:
            raise Late from exc
        raise Lost("connect", exc) from exc
    with sock:
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock
