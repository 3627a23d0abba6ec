"""Servers that say exact bytes at exact moments: on TCP, under TLS or on a UNIX socket."""

import random
import socket
import ssl
import struct
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Talk:
    """One connection, as the peer's script sees it."""

    def __init__(self, sock, requests):
        self.sock = sock
        self._requests = requests

    def head(self):
        """The next request up to its empty line; empty where the client has gone."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            byte = self.sock.recv(1)
            if not byte:
                return b""
            data += byte
        return data

    def request(self):
        """The next whole request, noted for the test; empty where the client has gone."""
        data = self.head()
        for line in data.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
                with self.sock.makefile("rb", buffering=0) as stream:
                    while length and (part := stream.read(length)):
                        data, length = data + part, length - len(part)
        if data:
            self._requests.append(data)
        return data

    def send(self, data):
        self.sock.sendall(data)

    def reset(self):
        """End the connection with RST instead of FIN."""
        reset(self.sock)


def reset(sock):
    """Close a socket with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def each(*answers):
    """A script that answers the requests of a connection in turn, and then closes it."""

    def script(talk):
        for answer in answers:
            if not talk.request():
                return
            talk.send(answer)

    return script


def always(answer=OK):
    """A script that answers every request with the same bytes."""

    def script(talk):
        while talk.request():
            talk.send(answer)

    return script


def silence(talk):
    """A script that says nothing, for as long as the client stays."""
    while talk.sock.recv(65_536):
        pass


class Peer:
    """What has come to a peer so far.

    Attributes:
        requests: every whole request, as bytes.
        connections: how many were accepted.
    """

    def __init__(self, listener):
        self.requests = []
        self.connections = 0
        name = listener.getsockname()
        self.port = name[1] if isinstance(name, tuple) else None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def peer(*scripts, path=None, tls=None):
    """Serve; the first connection runs the first script, the last script runs all further ones.

    Args:
        path: of a UNIX socket to listen on instead.
        tls: a server's SSLContext.
    """
    if path is not None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
    else:
        listener = socket.create_server(("127.0.0.1", 0))
    made, open_sockets, threads = Peer(listener), [], []

    def handle(sock, script):
        with suppress(OSError):
            if tls is not None:
                sock = tls.wrap_socket(sock, server_side=True)
                open_sockets.append(sock)
            script(Talk(sock, made.requests))
        sock.close()

    def accept():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            script = scripts[min(made.connections, len(scripts) - 1)]
            made.connections += 1
            open_sockets.append(sock)
            threads.append(threading.Thread(target=handle, args=(sock, script), daemon=True))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield made
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for sock in open_sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)
        for sock in open_sockets:
            sock.close()


def unused_port():
    """A port of loopback on which nobody listens, nor will by chance.

    It lies below those that the kernel gives to whoever asks for any: one of these may be another
    test's a moment later.
    """
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def self_signed(folder):
    """A certificate for 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName(
        [x509.DNSName("runner.test"), x509.IPAddress(ip_address("127.0.0.1"))]
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / "server.pem"
    file.write_bytes(key.private_bytes(*private) + certificate.public_bytes(Encoding.PEM))
    return file


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trust(certificate):
    return ssl.create_default_context(cafile=certificate)
