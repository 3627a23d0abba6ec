"""What Kubernetes knows of a Knative Service, looked at in the background."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from runnerwsgi.latest import Latest

from . import state
from .kubernetes.problems import ClusterError
from .observed import Object, part, scale, targets, traffic
from .state import State

if TYPE_CHECKING:
    from .kubernetes.cluster import Cluster

LOOK_EVERY_SECONDS = 8.0
# Of a service whose traffic is split among very many, these are told of.
MOST_REVISIONS = 8


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen: the state now, and the objects as they were read last.

    Attributes:
        state: of the service.
        service: the object; empty where none could ever be read.
        revisions: by name, those that could be read.
        at: when the objects were read, in seconds since the epoch; 0 for never.
        always_on: whether a pod of each revision that gets calls is kept in any case.
    """

    state: State
    service: Object = field(default_factory=dict)
    revisions: Mapping[str, Object] = field(default_factory=dict)
    at: float = 0.0
    always_on: bool = False


class Control:
    """Sights of one service, a few seconds old at most while somebody asks for them.

    Example::

        control = Control(Cluster.from_env(os.environ, "extensions"), "runner")
        control.get(wait=5.0).state.word

    Args:
        cluster: asked for the objects.
        name: of the service.
        tag: of the traffic that is ours.
    """

    def __init__(self, cluster: Cluster, name: str, *, tag: str | None = None) -> None:
        self._cluster = cluster
        self._name = name
        self._tag = tag
        self._last = Sight(State("unknown", None, "no answer yet"))
        lost = Sight(State("unknown", None, "the look at the Kubernetes API failed"))
        self._latest = Latest(self.look, lost=lost, seconds=LOOK_EVERY_SECONDS)

    def get(self, wait: float) -> Sight | None:
        """The latest sight; None where there is none after *wait* seconds."""
        return self._latest.get(wait)

    def renew(self) -> None:
        """Have the next sight be one of now."""
        self._latest.told(self.look())

    def close(self) -> None:
        """Close the connections to the API."""
        self._cluster.close()

    def look(self) -> Sight:
        """Ask now."""
        self._last = self._next()
        return self._last

    def _next(self) -> Sight:
        try:
            service = self._cluster.get("services", self._name)
        except ClusterError as exc:
            return self._unanswered(exc)
        revisions = dict(self._revisions(service))
        mine = targets(service, self._tag)
        return Sight(
            state=state.of(service, revisions, self._tag),
            service=service,
            revisions=revisions,
            at=time.time(),
            always_on=bool(mine) and all(scale(revisions.get(one.revision, {}))[0] for one in mine),
        )

    def _unanswered(self, exc: ClusterError) -> Sight:
        found = state.unanswered(exc.kind, str(exc))
        # What is not there any more has no properties either.
        return replace(self._last, state=found) if found.serves is None else Sight(found)

    def _revisions(self, service: Object) -> Iterator[tuple[str, Object]]:
        """Those that get calls, and the newest; without those that nobody may read."""
        newest = part(service, "status").get("latestCreatedRevisionName")
        mine = (one.revision for one in (*targets(service, self._tag), *traffic(service)))
        names = dict.fromkeys(name for name in (newest, *mine) if name)
        for name in tuple(names)[:MOST_REVISIONS]:
            try:
                yield name, self._cluster.get("revisions", name)
            except ClusterError as exc:
                if exc.kind != "absent":
                    return
