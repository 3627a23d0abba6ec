"""A certificate authority of the tests' own, for servers and for clients."""

import inspect
import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from itertools import count

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class Authority:
    """Vouches for whom the tests want, with files in *folder*.

    With *sparing* it leaves out of its certificates what many a cluster's authority lacks, and
    the strict checks of Python 3.13 look for.

    Attributes:
        pem: its own certificate, as bytes.
        file: the file of it.
        client: a context of clients that trust it alone.
    """

    def __init__(self, folder, *, sparing=False):
        self._sparing = sparing
        self._folder = folder
        self._numbers = count()
        self._key, self._name = new_key(), name_of("Test authority")
        certificate = self._certify(self._name, self._key, None)
        self.pem = certificate.public_bytes(Encoding.PEM)
        self.file = folder / "authority.pem"
        self.file.write_bytes(self.pem)
        self.client = ssl.create_default_context(cadata=self.pem.decode())

    def issue(self, *hosts, user="server"):
        """A certificate for *hosts*, or of a user, and its key: PEM, in this order."""
        key = new_key()
        certificate = self._certify(name_of(user), key, hosts)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return certificate.public_bytes(Encoding.PEM), private

    def server(self, *hosts):
        """A context of a server with one of these names."""
        file = self._folder / f"server-{next(self._numbers)}.pem"
        file.write_bytes(b"".join(self.issue(*hosts)))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _certify(self, name, key, hosts):
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=hosts is None, path_length=None), critical=True)
        )
        if not self._sparing:
            builder = self._identified(builder, key, signs_certificates=hosts is None)
        if hosts:
            alternatives = x509.SubjectAlternativeName([general_name(host) for host in hosts])
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _identified(self, builder, key, *, signs_certificates):
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        # All three are required by the strict checks that Python 3.13 turned on.
        return (
            builder.add_extension(key_usage(signs_certificates=signs_certificates), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(issuer, False)
        )


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def name_of(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def key_usage(*, signs_certificates):
    names = inspect.signature(x509.KeyUsage).parameters
    wanted = {"key_cert_sign"} if signs_certificates else {"digital_signature"}
    return x509.KeyUsage(**{name: name in wanted for name in names})


def general_name(host):
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
