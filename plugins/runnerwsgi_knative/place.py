"""Which address calls go to: one that was set, or the one that Kubernetes knows of a Service."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from runnerwsgi.errors import BackendUnreachable, ConfigurationError
from runnerwsgi.latest import Latest

from .kubernetes.problems import ClusterError
from .observed import Object, part, traffic

if TYPE_CHECKING:
    from runnerwsgi.client import RunnerClient

    from .kubernetes.cluster import Cluster

log = logging.getLogger("runnerwsgi.plugins.knative")

# A look of its own, beside `control.Control`'s: that one reads each revision, too, and only while
# somebody asks for health. For calls one small answer is enough: they must not make every process
# of a gateway ask for nine, nor learn of a new address only when slow revisions have been read.
RESOLVE_SECONDS = 5.0


class Place(Protocol):
    """Where the runner is."""

    @property
    def known(self) -> RunnerClient | None:
        """Who calls it; None while the address is not known."""
        ...

    def client(self, wait: float) -> RunnerClient:
        """Who calls it.

        Args:
            wait: seconds for an address that is not known yet.

        Raises:
            BackendUnreachable: the address is not known, and was not found out in time.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class Fixed:
    """An address that was set: ``RUNNER_BASE_URL``."""

    def __init__(self, client: RunnerClient) -> None:
        self._client = client

    @property
    def known(self) -> RunnerClient:
        """Who calls it."""
        return self._client

    def client(self, wait: float) -> RunnerClient:
        """Who calls it, at once."""
        return self._client

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


@dataclass(frozen=True, slots=True)
class _Found:
    """What a look came to: who calls, of an address of lately or of long ago, and why no newer."""

    client: RunnerClient | None = None
    problem: str = ""


class Resolved:
    """The address that a Service's status has, looked up in the background.

    The first look begins with the object, and no call asks the API: while one address is known,
    calls go there, whatever becomes of the API and of the Service.

    Example::

        place = Resolved(cluster, "runner", lambda url: RunnerClient(url, token))
        place.client(wait=5.0).base

    Args:
        cluster: asked for the Service.
        name: of the Service.
        connect: makes the client of an address.
        tag: of the traffic whose address is wanted, instead of the Service's own.
        seconds: how long an address is good before it is looked up again.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        connect: Callable[[str], RunnerClient],
        *,
        tag: str | None = None,
        seconds: float = RESOLVE_SECONDS,
    ) -> None:
        self._cluster = cluster
        self._name = name
        self._connect = connect
        self._tag = tag
        self._last = _Found()
        lost = _Found(problem="the look for its address failed")
        self._latest = Latest(self._look, lost=lost, seconds=seconds)
        self._latest.get(0.0)

    @property
    def known(self) -> RunnerClient | None:
        """Who calls it; None while the address is not known."""
        self._latest.get(0.0)
        return self._last.client

    def client(self, wait: float) -> RunnerClient:
        """Who calls it."""
        known = self.known
        if known is None:
            self._latest.get(wait)
            known = self._last.client
        if known is None:
            raise BackendUnreachable(
                f"the address of the Knative Service {self._cluster.namespace}/{self._name} is "
                f"not known: {self._last.problem or 'the Kubernetes API has not answered yet'}",
                reason="name",
            )
        return known

    def close(self) -> None:
        """Close the connections."""
        self._cluster.close()
        if self._last.client is not None:
            self._last.client.close()

    def _look(self) -> _Found:
        self._last = self._next()
        return self._last

    def _next(self) -> _Found:
        last = self._last.client
        try:
            url = address_of(self._cluster.get("services", self._name), self._tag)
            if last is not None and last.base == url.rstrip("/"):
                return _Found(last)
            client = self._connect(url)
        except (ClusterError, ConfigurationError) as exc:
            self._tell(str(exc))
            return _Found(last, str(exc))
        if last is not None:
            last.close()
        log.info("Calls of %s go to %s.", self._name, client.base)
        return _Found(client)

    def _tell(self, problem: str) -> None:
        # Each problem once, and not each look at it.
        if problem != self._last.problem:
            stays = self._last.client and f" Calls go on to {self._last.client.base}."
            log.warning("%s%s", problem, stays or "")


def address_of(service: Object, tag: str | None = None) -> str:
    """The URL that a Service's status has for calls from within the cluster, or for *tag*.

    Raises:
        ConfigurationError: it has none.
    """
    what = "address" if tag is None else f"address of the tag {tag}"
    if tag is None:
        url = part(service, "status", "address").get("url")
    else:
        url = next((one.url for one in traffic(service) if one.tag == tag), None)
    if not url:
        name = "{namespace}/{name}".format_map(service["metadata"])
        raise ConfigurationError(
            f"The Knative Service {name} has no {what}: `kubectl describe ksvc` shows why."
        )
    return str(url)
