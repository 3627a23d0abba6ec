"""Where a Kubernetes API is, what vouches for it, and who asks."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runnerwsgi.errors import ConfigurationError
from runnerwsgi.origins import parse_http_url

from .credentials import Credentials, Kept, Material

if TYPE_CHECKING:
    from runnerwsgi.origins import Origin

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Access:
    """Where a Kubernetes API is, what vouches for it, and who asks.

    Attributes:
        origin: its scheme, host and port.
        prefix: what its paths begin with, without a slash at the end.
        credentials: who asks.
        authorities: PEM certificates that vouch for it; without, the system's.
        server_name: the name that its certificate has, where it is not the origin's host.
        verified: whether its certificate is looked at.
        namespace: the one that is meant where nobody names another.
        source: where all this was found, for messages.
    """

    origin: Origin
    prefix: str
    credentials: Credentials
    authorities: Material | None = None
    server_name: str | None = None
    verified: bool = True
    namespace: str = "default"
    source: str = ""

    @property
    def is_vouched_for(self) -> bool:
        """Whether what is read there is the API's own, and nobody's on the way."""
        if self.origin.scheme == "https":
            return self.verified
        address = self.origin.address
        return self.origin.host == "localhost" or (address is not None and address.is_loopback)

    def tls(self, certificate: bytes | None) -> ssl.SSLContext:
        """What verifies the API, and shows it *certificate* with its key.

        Raises:
            ConfigurationError: one of them is not PEM.
        """
        try:
            context = ssl.create_default_context(cadata=self._trusted())
            # 3.13 refuses authorities without key identifiers: many a cluster's was made so.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if not self.verified:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if certificate:
                _show(context, certificate)
        except (ssl.SSLError, ValueError) as exc:
            raise ConfigurationError(
                f"{self.source}: a certificate or a key cannot be used: {exc}. Each must be PEM."
            ) from exc
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _trusted(self) -> str | None:
        return self.authorities.read().decode("ascii", "replace") if self.authorities else None


def parse_server(text: str, source: str) -> tuple[Origin, str]:
    """Origin and path of a Kubernetes API; any address will do, as k3d's 0.0.0.0.

    Raises:
        ConfigurationError: it is no strict http(s) URL.
    """
    try:
        parsed = parse_http_url(text)
    except ValueError as exc:
        raise ConfigurationError(
            f"{source}: server is not the address of a Kubernetes API: {exc}. Write it as "
            "https://kubernetes.example.com:6443."
        ) from exc
    return parsed.origin, parsed.target.partition("?")[0].rstrip("/")


def _show(context: ssl.SSLContext, certificate: bytes) -> None:
    # OpenSSL reads a private key from a file only: one that no other user can open.
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate)
        file.flush()
        context.load_cert_chain(file.name)


def in_cluster(env: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Access | None:
    """What a pod's service account may use; None where this is no pod, or it has none.

    Args:
        env: of the pod.
        folder: where the kubelet keeps the account's files.

    Raises:
        ConfigurationError: a file is missing.
    """
    host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT")
    if not host or not port or not (folder / "token").exists():
        return None
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    origin, _ = parse_server(f"https://{place}", "KUBERNETES_SERVICE_HOST")
    return Access(
        origin,
        "",
        Kept(token=Material(file=folder / "token")),
        authorities=Material(file=folder / "ca.crt"),
        namespace=Material(file=folder / "namespace").read().decode("ascii", "replace").strip(),
        source=str(folder),
    )
