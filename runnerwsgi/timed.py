"""A socket whose every read and write has the time that is left, and no time of its own."""

from __future__ import annotations

import http.client
import io
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket


def time_left(deadline: float) -> float:
    """Seconds until *deadline*, a time of ``time.monotonic``.

    Raises:
        TimeoutError: it is over.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for the whole exchange is used up")
    return left


class TimedSocket:
    """What ``http.client`` needs of a socket, under one deadline.

    A peer that sends one byte before each time-out would otherwise hold a thread for ever.

    Example::

        connection = http.client.HTTPConnection(host)
        connection.sock = TimedSocket(sock, time.monotonic() + 5)

    Attributes:
        left_over: whether more bytes had arrived than the last answer had.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self.left_over = False

    def sendall(self, data: bytes) -> None:
        """Send all of *data*."""
        self._sock.settimeout(time_left(self._deadline))
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """A reader of the answer."""
        return _Reader(_Timed(self._sock, self._deadline), self)

    def close(self) -> None:
        """Nothing: http.client calls it before the body is read; who connected closes."""


class _Timed(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._ended:
            return 0
        self._sock.settimeout(time_left(self._deadline))
        return self._sock.recv_into(buffer)

    def end(self) -> None:
        """Answer nothing more: what is buffered now is all that came."""
        self._ended = True


class _Reader(io.BufferedReader):
    def __init__(self, raw: _Timed, owner: TimedSocket) -> None:
        super().__init__(raw)
        self._timed = raw
        self._owner = owner

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        # email.parser ends a line there, and nobody else does: a header hides in a header.
        if b"\r" in line[:-2]:
            raise http.client.HTTPException("a carriage return within a line")
        return line

    def close(self) -> None:
        if not self.closed:
            self._timed.end()
            self._owner.left_over = bool(self.peek(1))
        super().close()
