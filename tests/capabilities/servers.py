"""Real servers on loopback that answer with exact bytes, and the two ends an Egress is given."""

import socket
import threading
from contextlib import contextmanager


@contextmanager
def serving(answer):
    """Serve connections with ``answer(connection, request_bytes)``; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections = []

    def handle(connection):
        with connection:
            try:
                answer(connection, read_request(connection))
            except OSError:
                return

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        # `shutdown` wakes the accepting thread; `close` alone would leave it waiting.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in connections:
            connection.close()


def read_request(connection):
    """One request: head and, by its Content-Length, body."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return data
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = [line.split(b":")[1] for line in head.split(b"\r\n") if b"ontent-Length" in line]
    while length and len(body) < int(length[0]):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def reply(status="200 OK", body=b"hello", headers=()):
    """An answer function: a plain HTTP/1.1 answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    data = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
    return lambda connection, request: connection.sendall(data)


class Dialler:
    """A connector that notes where it was sent, and goes to one local port whatever that was."""

    def __init__(self, port=None):
        self.port = port
        self.dialled = []

    def __call__(self, address, port, timeout):
        self.dialled.append((address, port))
        if self.port is None:
            raise ConnectionRefusedError("nobody is there")
        return socket.create_connection(("127.0.0.1", self.port), timeout)


class Names:
    """A resolver of a few names that counts how often it was asked."""

    def __init__(self, **addresses):
        self.addresses = {name.replace("_", "."): found for name, found in addresses.items()}
        self.asked = []

    def __call__(self, host, port):
        self.asked.append(host)
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.addresses[host]
