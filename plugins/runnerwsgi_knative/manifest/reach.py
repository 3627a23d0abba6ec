"""What a runner has to reach, and how a NetworkPolicy says so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Network,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
)
from typing import Any, Self
from urllib.parse import urlsplit

from runnerwsgi.errors import ConfigurationError
from runnerwsgi.origins import INNER_NETWORKS
from runnerwsgi_knative.documents import Noted

Network = IPv4Network | IPv6Network

# Where a URL names no port. A scheme may name a driver as well: postgresql+psycopg.
PORTS: Mapping[str, int] = {
    "http": 80,
    "https": 443,
    "redis": 6379,
    "rediss": 6379,
    "postgresql": 5432,
    "mysql": 3306,
    "mariadb": 3306,
}
# A name that only the cluster's own DNS knows, of a Service in the runner's namespace or another.
_SERVICE = re.compile(r"[a-z0-9-]+(\.(?P<namespace>[a-z0-9-]+)\.svc(\..+)?)?")
NAMESPACE_LABEL = "kubernetes.io/metadata.name"

# Where public addresses are; of IPv6, those that were ever assigned.
_WORLD = ("0.0.0.0/0", "2000::/3")


def _inner(world: str) -> tuple[str, ...]:
    """The networks of *world* that are nobody's own in public: pods, nodes, metadata of clouds."""
    within = ip_network(world)
    found = [ip_network(network) for network, _ in INNER_NETWORKS]
    if isinstance(within, IPv4Network):
        return tuple(map(str, collapse_addresses(n for n in found if isinstance(n, IPv4Network))))
    sixes = (n for n in found if isinstance(n, IPv6Network) and n.subnet_of(within))
    return tuple(map(str, collapse_addresses(sixes)))


PUBLIC: Mapping[str, tuple[str, ...]] = {world: _inner(world) for world in _WORLD}


@dataclass(frozen=True, slots=True)
class Destination:
    """One place that the runner connects to.

    Example::

        Destination.from_url("RUNNER_CALLBACK_BASE", "http://shop.web.svc:8000").rule("extensions")

    Attributes:
        what: it is, in a few words.
        host: its name or address; empty for anywhere in public.
        port: there.
        networks: its addresses, where the name alone does not tell them.
        labels: of its pods, where it is a Service.
    """

    what: str
    host: str
    port: int
    networks: tuple[Network, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_url(cls, what: str, url: str) -> Self:
        """The place that a URL names.

        Raises:
            ConfigurationError: it names no host, or no port and none is known.
        """
        parts = urlsplit(url)
        try:
            port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
        except ValueError:
            port = None
        if not parts.hostname or not port:
            raise ConfigurationError(
                f"{what} names no host and port that pods could be let through to: write it as "
                "scheme://host:port/…"
            )
        return cls(what, parts.hostname, port)

    def rule(self, namespace: str) -> Noted:
        """An entry of a NetworkPolicy's ``egress``; *namespace* is the runner's."""
        where = f"{self.host}:{self.port}" if self.host else f"port {self.port} of any public host"
        return Noted(f"{self.what}: {where}", to=self._peers(namespace), ports=[tcp(self.port)])

    def _peers(self, namespace: str) -> list[dict[str, Any]]:
        if self.networks:
            return [{"ipBlock": {"cidr": str(network)}} for network in self.networks]
        if address := _address(self.host):
            return [{"ipBlock": {"cidr": address}}]
        if service := _SERVICE.fullmatch(self.host):
            return [pods_of(service["namespace"] or namespace, dict(self.labels))]
        return [{"ipBlock": {"cidr": cidr, "except": list(no)}} for cidr, no in PUBLIC.items()]


def namespace_of(host: str) -> str | None:
    """Whose Service a host is; None where it is none, or its name tells no namespace."""
    service = _SERVICE.fullmatch(host)
    return service["namespace"] if service else None


def pods_of(namespace: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """The pods of a namespace, or those with these labels, as a peer of a NetworkPolicy."""
    peer: dict[str, Any] = {"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: namespace}}}
    return {**peer, "podSelector": {"matchLabels": dict(labels)}} if labels else peer


def tcp(port: int) -> dict[str, Any]:
    """A port, as NetworkPolicies have it."""
    return {"protocol": "TCP", "port": port}


def _address(host: str) -> str | None:
    try:
        return str(ip_network(ip_address(host)))
    except ValueError:
        return None


def unique(destinations: Iterable[Destination]) -> list[Destination]:
    """Each place once; what several are for is told together."""
    found: dict[tuple[Any, ...], Destination] = {}
    for each in destinations:
        key = (each.host, each.port, each.networks, each.labels)
        what = f"{found[key].what}, {each.what}" if key in found else each.what
        found[key] = Destination(what, *key)
    return list(found.values())
