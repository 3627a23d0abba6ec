"""Ways between servers that break when a test says so."""

import select
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

from peers import reset

HEAD_ENDS = b"\r\n\r\n"


class Wires:
    """Carry bytes to servers and back.

    Attributes:
        urls: where each begins, in the order of the servers.
        cuts: how many answers were cut.
    """

    def __init__(self):
        self.urls = []
        self.cuts = 0
        self._left, self._in_body, self._also = 0, False, None
        self._patience = None
        self._lock = threading.Lock()

    def cut(self, times=1, *, in_body=False, also=lambda: None):
        """Break off the next answers, whoever gives them: before they begin, or before they end.

        The server has done its work by then. *also* is called before the connection ends.
        """
        with self._lock:
            self._left, self._in_body, self._also = times, in_body, also

    def cut_running(self, after):
        """Break off the next call that has had no answer for *after* seconds, while it runs."""
        with self._lock:
            self._left, self._patience = 1, after

    def carry(self, near, url):
        """Carry one connection until an end closes it, or an answer is cut."""
        with near, socket.create_connection((url.hostname, url.port)) as far:
            other = {near: far, far: near}
            waits = False
            while True:
                ready = select.select([near, far], [], [], self._patience)[0]
                if not ready and waits and self._is_cut():
                    self._patience = None
                    return reset(near)
                for end in ready:
                    data = end.recv(65536)
                    if end is far and data and self._patience is None and self._is_cut():
                        return self._end(near, far, data)
                    if not data:
                        return None
                    waits = end is near
                    other[end].sendall(data)

    def _end(self, near, far, data):
        self._also()
        if not self._in_body:
            return reset(near)
        # The head comes alone, often.
        while data.endswith(HEAD_ENDS) or HEAD_ENDS not in data:
            data += far.recv(65536)
        return near.sendall(data[:-1])

    def _is_cut(self):
        with self._lock:
            if not self._left:
                return False
            self._left -= 1
            self.cuts += 1
            return True


@contextmanager
def wires(*urls):
    """A wire to each of *urls* until the block ends."""
    made = Wires()
    with ExitStack() as stack:
        for url in urls:
            made.urls.append(stack.enter_context(_listening(made, urlsplit(url))))
        yield made


@contextmanager
def _listening(made, url):
    listener = socket.create_server(("127.0.0.1", 0))
    ends = []

    def carry(near):
        with suppress(OSError, ValueError):  # an end that was closed meanwhile
            made.carry(near, url)

    def accept():
        with suppress(OSError):
            while True:
                near = listener.accept()[0]
                thread = threading.Thread(target=carry, args=(near,))
                ends.append((near, thread))
                thread.start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield "http://{}:{}".format(*listener.getsockname())
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for near, thread in ends:
            with suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)
            thread.join(5)
