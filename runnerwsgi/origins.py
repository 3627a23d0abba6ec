"""Places outside: strict http URLs, egress lists, and which addresses are inner ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from itertools import product

from .errors import ConfigurationError

Address = IPv4Address | IPv6Address

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URL_CHARS = 8192

# Nobody's public address: IANA's special-purpose registries (RFC 6890 and its successors),
# and what clouds answer on. The standard library's `is_global` is no help: on CPython 3.11.7
# it is True for 64:ff9b::7f00:1, 2002:7f00:1:: and 224.0.0.1.
INNER_NETWORKS: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a carrier (CGNAT)"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("168.63.129.16/32", "a cloud's own service"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "protocol assignments"),
    ("192.0.2.0/24", "documentation"),
    ("192.52.193.0/24", "multicast relays (AMT)"),
    ("192.88.99.0/24", "6to4 relays"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved or broadcast"),
    ("::1/128", "loopback"),
    ("::/128", "unspecified"),
    ("::ffff:0:0/96", "IPv4 inside IPv6"),
    ("64:ff9b::/96", "NAT64"),
    ("64:ff9b:1::/48", "local NAT64"),
    ("2001::/32", "Teredo"),
    ("2001::/23", "protocol assignments"),
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "6to4"),
    ("2620:4f:8000::/48", "AS112"),
    ("3fff::/20", "documentation"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
)
_INNER: tuple[tuple[IPv4Network | IPv6Network, str], ...] = tuple(
    (ip_network(network), kind) for network, kind in INNER_NETWORKS
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")

# What an operator may open by naming the very address: a service on the same machine or network.
NAMEABLE = frozenset({"loopback", "private", "shared by a carrier (CGNAT)"})

_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<star>\*\.)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][!$%&'()*+,\-./0-9:;=?@A-Z_a-z~\[\]]*)?",
    re.IGNORECASE,
)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# A last label that some resolver would read as a number makes the whole name an address.
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def inner_kind(address: Address) -> str | None:
    """Why *address* is nobody's public one, such as ``"loopback"``; None for a public one."""
    for network, kind in _INNER:
        if address in network:
            return kind
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return "not assigned"
    return None


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: lower case, the port always there, an address canonical.

    ``host`` is a DNS name, an IPv4 address or an IPv6 address without brackets.
    """

    scheme: str
    host: str
    port: int

    @property
    def address(self) -> Address | None:
        """The address, where the host is one."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """``host[:port]`` as the ``Host`` header has it: without a default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """A URL that was parsed strictly. ``target`` is path and query as they go on the wire."""

    origin: Origin
    target: str


def parse_http_url(text: str) -> HttpUrl:
    """Parse *text* in the one way that leaves no room for a second reading.

    ``http`` or ``https``; a DNS name in ASCII or a canonical address; no userinfo, fragment,
    zone, trailing dot, blank, control or character that a URL must encode (RFC 3986).

    Raises:
        ValueError: anything else; the message says what.
    """
    if len(text) > MAX_URL_CHARS:
        raise ValueError(f"longer than {MAX_URL_CHARS} characters")
    found = _URL.fullmatch(text)
    if found is None or found["star"]:
        raise ValueError("not of the form http(s)://host[:port][/path][?query] in plain ASCII")
    target = found["target"] or "/"
    if _BAD_PERCENT.search(target):
        raise ValueError("a percent sign without two hexadecimal digits")
    return HttpUrl(_origin(found), target if target.startswith("/") else f"/{target}")


def _origin(found: re.Match[str]) -> Origin:
    scheme = found["scheme"].lower()
    port = int(found["port"]) if found["port"] else DEFAULT_PORTS[scheme]
    if not 0 < port < 65536:
        raise ValueError(f"port {port} does not exist")
    return Origin(scheme, _host(found["host"].lower()), port)


def _host(text: str) -> str:
    if text.startswith("["):
        return str(IPv6Address(text[1:-1]))
    labels = text.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        return str(IPv4Address(text))
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!r} is not a DNS name")
    return text


@dataclass(frozen=True, slots=True)
class EgressEntry:
    """One line of an egress list: exactly one origin, or the subdomains of one name.

    Example::

        parse_egress_entry("https://api.example.com").allows(url.origin)
        parse_egress_entry("https://*.example.com:8443")  # a.example.com, a.b.example.com
    """

    origin: Origin
    subdomains: bool = False

    def allows(self, origin: Origin) -> bool:
        """Whether *origin* is the one named, or below it where the entry begins with ``*.``."""
        if (origin.scheme, origin.port) != (self.origin.scheme, self.origin.port):
            return False
        if self.subdomains:
            return origin.host.endswith("." + self.origin.host)
        return origin.host == self.origin.host

    def covers(self, other: EgressEntry) -> bool:
        """Whether it allows whatever *other* allows."""
        if not other.subdomains:
            return self.allows(other.origin)
        return self.subdomains and (self.origin == other.origin or self.allows(other.origin))

    def __str__(self) -> str:
        star = "*." if self.subdomains else ""
        return f"{self.origin.scheme}://{star}{self.origin.authority}"


def parse_egress_entry(text: str) -> EgressEntry:
    """Parse an entry of an egress list: ``scheme://host[:port]``, ``scheme://*.name[:port]``.

    Raises:
        ConfigurationError: not of that form, ``*`` alone, or an address that nobody may
            reach (link-local, multicast, an IPv4 address inside an IPv6 one …).
    """
    found = _URL.fullmatch(text.strip())
    if found is None or found["target"] not in (None, "/"):
        raise ConfigurationError(
            f"{text[:120]!r} is not an egress entry: write https://api.example.com, "
            "https://api.example.com:8443 or https://*.example.com, without a path."
        )
    try:
        return _entry(found)
    except ValueError as exc:
        raise ConfigurationError(f"{text[:120]!r} is not an egress entry: {exc}.") from exc


@lru_cache(maxsize=256)
def narrow_egress(entries: tuple[str, ...], bound: tuple[str, ...]) -> tuple[str, ...]:
    """The entries of a list that allows what both lists allow.

    Example::

        narrow_egress(("https://*.example.com",), ("https://api.example.com",))
        # ('https://api.example.com',)

    Raises:
        ConfigurationError: an entry is none.
    """
    pairs = product(map(parse_egress_entry, entries), map(parse_egress_entry, bound))
    both = [one if other.covers(one) else other for one, other in pairs if _meet(one, other)]
    return tuple(dict.fromkeys(map(str, both)))


def _meet(one: EgressEntry, other: EgressEntry) -> bool:
    return one.covers(other) or other.covers(one)


def _entry(found: re.Match[str]) -> EgressEntry:
    origin, star = _origin(found), found["star"] is not None
    if star and (origin.address is not None or "." not in origin.host):
        raise ValueError("after *. comes a name with a dot in it, such as *.example.com")
    kind = inner_kind(origin.address) if origin.address is not None else None
    if kind is not None and kind not in NAMEABLE:
        raise ValueError(f"{origin.host} is {kind}, which no extension may reach")
    return EgressEntry(origin, subdomains=star)
