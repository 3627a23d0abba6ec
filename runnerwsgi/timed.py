"""urllib3 connections whose every read has the time that is left, and no time of its own."""

from __future__ import annotations

import io
import time
from functools import partial
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    import socket

    import urllib3


class _TimedReader(io.RawIOBase):
    """A socket's reader that gives each read what is left until *deadline*.

    A peer that sends one byte before each time-out would otherwise hold a thread for ever.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for the whole answer is used up")
        self._sock.settimeout(left)
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(HTTPResponse):
    """Reads status line, headers and body under one deadline."""

    def __init__(self, deadline: float, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_TimedReader(raw, sock, deadline))


class TimedHTTPConnection(HTTPConnection):
    """Takes the read timeout of a call for the whole of its answer."""

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3
        """The answer; its reads end together at the deadline."""
        _set_deadline(self)
        return super().getresponse()


class TimedHTTPSConnection(HTTPSConnection):
    """The same over TLS."""

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3
        """The answer; its reads end together at the deadline."""
        _set_deadline(self)
        return super().getresponse()


def _set_deadline(connection: Any) -> None:
    deadline = time.monotonic() + connection.timeout
    connection.response_class = partial(_TimedResponse, deadline)
