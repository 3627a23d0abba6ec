"""The server of `serve` and `runner`: waitress, told to end without losing what it accepted."""

from __future__ import annotations

import ctypes
import errno
import logging
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click
from waitress import create_server, wasyncore  # type: ignore[import-untyped]  # ships no types
from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
from waitress.parser import HTTPRequestParser, ParsingError  # type: ignore[import-untyped]
from waitress.server import BaseWSGIServer  # type: ignore[import-untyped]
from waitress.task import ErrorTask, WSGITask  # type: ignore[import-untyped]
from waitress.utilities import Error  # type: ignore[import-untyped]

from runnerwsgi.errors import ConfigurationError
from runnerwsgi.logs import emit

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

C = TypeVar("C", bound="Callable[..., Any] | click.Command")

# A connection on which nothing has come for so long is idle, and its client will not mind.
QUIET_SECONDS = 0.5
# How long connections are still taken that the kernel has already accepted.
LAST_ARRIVALS_SECONDS = 0.1
# What is read of a body before anybody looks at it: with all connections together, not much.
STRANGERS_BODY_BYTES = 64 * 1024
_TURN_SECONDS = 0.02


def threads_option(default: int) -> Callable[[C], C]:
    """``--threads``, of a command that serves: as many as given, set, or else *default*."""
    return click.option(
        "--threads",
        type=click.IntRange(1, 1024),
        envvar="RUNNER_THREADS",
        default=default,
        show_default=f"RUNNER_THREADS, else {default}",
        help="Threads that answer requests.",
    )


class _Closing:
    """A task whose answer ends the connection, once the server is ending."""

    channel: Any
    response_headers: list[tuple[str, str]]

    def build_response_header(self) -> bytes:
        if self.channel.listener.ending:
            self.set_close_on_finish()  # type: ignore[attr-defined]  # waitress's own
        header: bytes = super().build_response_header()  # type: ignore[misc]
        return header


class _Task(_Closing, WSGITask):  # type: ignore[misc]  # waitress has no types
    """An answer of the application."""


class _ErrorTask(_Closing, ErrorTask):  # type: ignore[misc]
    """An answer of waitress itself, to what it cannot read."""

    def build_response_header(self) -> bytes:
        self.response_headers += self.channel.listener.marks
        return super().build_response_header()


class _Unauthorized(Error):  # type: ignore[misc]
    """To whoever sends much and may not."""

    code = 401
    reason = "Unauthorized"


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """Reads a request, whose body is kept in memory until all of it is there."""

    listener: Any
    error: Any
    _is_known = False

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as exc:
            raise ParsingError("the target is no URL") from exc
        # A proxy may have gone by the other one, and what follows is then another's request.
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("both Content-Length and Transfer-Encoding")

    def received(self, data: bytes) -> int:
        consumed: int = super().received(data)
        size = max(self.content_length, self.body_bytes_received)
        if size > STRANGERS_BODY_BYTES and self.error is None and not self._is_known:
            self._is_known = self.listener.is_known(self.headers)
            if not self._is_known:
                self.error = _Unauthorized("a long body, from nobody who is known")
                self.completed = True
        return consumed


class Listener:
    """A waitress server that ends on SIGTERM and SIGINT when everything accepted is answered.

    Example::

        with Listener(app, "127.0.0.1", 8080, grace=30, threads=8) as listener:
            unfinished = listener.run()

    Args:
        app: what is served.
        host: address to listen on.
        port: port to listen on; 0 for a free one.
        grace: seconds that requests get to finish.
        on_end: called when the end begins.
        marks: headers of answers that waitress gives itself.
        is_known: whether a request with these headers, by name in capitals with underscores,
            may have a body of more than 64 KiB.
        options: waitress's own, such as ``threads``.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """

    def __init__(
        self,
        app: WSGIApplication,
        host: str,
        port: int,
        *,
        grace: float,
        on_end: Callable[[], None] = lambda: None,
        marks: tuple[tuple[str, str], ...] = (),
        is_known: Callable[[Mapping[str, str]], bool] = lambda headers: True,
        **options: Any,
    ) -> None:
        self.grace = grace
        self.on_end = on_end
        self.marks = marks
        self.is_known = is_known
        self.ending = False
        self._at_once = False
        self._told = 0.0
        self._host = host
        self._map: dict[int, Any] = {}
        try:
            self._server = create_server(
                app,
                map=self._map,
                host=host,
                port=port,
                ident="runnerwsgi",
                clear_untrusted_proxy_headers=True,
                asyncore_use_poll=True,
                **options,
            )
        except OSError as exc:
            raise ConfigurationError(_not_bound(exc, host, port)) from exc
        self._doors = [one for one in self._map.values() if isinstance(one, BaseWSGIServer)]
        channel_class = type(
            "Channel",
            (HTTPChannel,),
            {
                "task_class": _Task,
                "error_task_class": _ErrorTask,
                "parser_class": type("Parser", (_Parser,), {"listener": self}),
                "listener": self,
            },
        )
        for door in self._doors:
            door.channel_class = channel_class

    @property
    def origin(self) -> str:
        """Where the server is reached from this machine."""
        name = "127.0.0.1" if self._host in ("0.0.0.0", "::", "") else self._host  # noqa: S104
        return f"http://{f'[{name}]' if ':' in name else name}:{self._doors[0].effective_port}"

    def run(self) -> int:
        """Serve until a signal comes; then answer what was accepted.

        Returns:
            How many requests were not answered when the grace was over, or when a second
            signal came.
        """
        while not self.ending:
            self._turn(1.0)
        self.on_end()
        emit(log, logging.INFO, "ending", open=len(self._channels), grace_s=self.grace)
        self._told = time.monotonic()
        end = self._told + self.grace
        self._shut()
        while self._channels and time.monotonic() < end and not self._at_once:
            self._turn(_TURN_SECONDS)
            self._close_idle()
        return sum(map(_is_busy, self._channels))

    def end(self) -> None:
        """Have :meth:`run` come to its end; told a second time, at once."""
        self._at_once = self.ending
        self.ending = True
        self._doors[0].trigger.pull_trigger()

    def __enter__(self) -> Self:
        self._before = {one: signal.signal(one, self._on_signal) for one in _SIGNALS}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._doors[0].task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._map)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.end()

    @property
    def _channels(self) -> list[Any]:
        return [channel for door in self._doors for channel in door.active_channels.values()]

    def _turn(self, timeout: float) -> None:
        wasyncore.loop(timeout, use_poll=True, map=self._map, count=1)

    def _shut(self) -> None:
        """Listen no more, when every connection is taken that a client believes to have."""
        for door in self._doors:
            _open_no_more(door.socket)
        quiet = time.monotonic() + LAST_ARRIVALS_SECONDS
        while (now := time.monotonic()) < quiet:
            before = len(self._channels)
            self._turn(_TURN_SECONDS)
            # Where new ones cannot be kept out, the door is closed on them after a while.
            if len(self._channels) > before and now < self._told + 10 * LAST_ARRIVALS_SECONDS:
                quiet = now + LAST_ARRIVALS_SECONDS
        for door in self._doors:
            wasyncore.dispatcher.close(door)

    def _close_idle(self) -> None:
        for channel in self._channels:
            idle = not _is_busy(channel) and time.time() - channel.last_activity > QUIET_SECONDS
            if idle and not _has_something_to_read(channel.socket):
                channel.handle_close()


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _open_no_more(listening: socket.socket) -> None:
    """Have the kernel drop what would open a further connection (Linux).

    One that it accepts while the socket is being closed is reset, and its client cannot know
    that nothing was executed. Who knocks now knocks again after a second, and is refused.
    """
    if not sys.platform.startswith("linux"):
        return
    filters = ctypes.create_string_buffer(b"".join(_NO_SYN), 8 * len(_NO_SYN))
    program = struct.pack("HP", len(_NO_SYN), ctypes.addressof(filters))
    with suppress(OSError):  # a sandbox whose kernel has no filters
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


_SO_ATTACH_FILTER = 26
# A filter of the kernel: load the flags of a TCP header; if SYN is among them, drop it.
_NO_SYN = (
    struct.pack("HBBI", 0x30, 0, 0, 13),
    struct.pack("HBBI", 0x45, 0, 1, 0x02),
    struct.pack("HBBI", 0x06, 0, 0, 0),
    struct.pack("HBBI", 0x06, 0, 0, 0xFFFFFFFF),
)


def _is_busy(channel: Any) -> bool:
    """Whether a request is being read, worked at, or answered on a connection."""
    return bool(channel.requests or channel.request or channel.total_outbufs_len)


def _has_something_to_read(connection: socket.socket) -> bool:
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(0))


def _not_bound(exc: OSError, host: str, port: int) -> str:
    if exc.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is taken by another program: choose another one with --port, "
            "or --port 0 for any free one."
        )
    if exc.errno == errno.EACCES:
        return f"Port {port} needs more rights than yours: choose one above 1023 with --port."
    return f"{host}:{port} cannot be listened on: {exc.strerror or exc}. Change --host or --port."
