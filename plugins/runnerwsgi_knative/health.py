"""How a Knative Service is, in three layers that are looked at apart, and told at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from runnerwsgi.client import RunnerState
from runnerwsgi.errors import BackendUnreachable
from runnerwsgi.latest import Latest
from runnerwsgi.protocol import Health

from . import about, layers, route
from .layers import NOT_YET, Layer, Seen

if TYPE_CHECKING:
    from .control import Control, Sight
    from .place import Place

Probe = Literal["network", "http", "none"]

# For who asks first: afterwards everything is known, and looked at again in the background.
FIRST_SECONDS = 0.75
# It may wake a pod.
RUNNER_SECONDS = 10.0


class Watch:
    """Looks at the control plane, the route and the runner of one service.

    The runner is asked only where that wakes no pod and keeps none from being scaled away; what
    it answers to calls tells of it in any case.

    Example::

        watch = Watch(Fixed(client))
        watch.health().status

    Args:
        place: where the service is.
        control: what Kubernetes knows of it, where it may be asked.
        probe: ``network`` looks at the route by a probe that Knative answers itself; ``http``
            asks the runner for its health, which wakes it; ``none`` sends nothing.
    """

    def __init__(
        self, place: Place, control: Control | None = None, probe: Probe = "network"
    ) -> None:
        self._place = place
        self._control = control
        self._probe = probe
        failed = "the look failed"
        self._route = Latest(self._look_at_route, lost=Layer("unknown", detail=failed))
        self._runner = Latest(self._look_at_runner, lost=(RunnerState("silent", failed), ""))

    def health(self) -> Health:
        """What was found lately; waits for nothing but, for a moment, for the first looks."""
        seen = self.look(FIRST_SECONDS)
        told = {name: str(layer) for name, layer in seen.layers.items()}
        return Health(seen.status, {**seen.checks, **told})

    def look(self, wait: float) -> Seen:
        """The same with the objects that Kubernetes has.

        Args:
            wait: seconds for what nobody has looked at yet.
        """
        until = time.monotonic() + wait
        # It is under way while the route is looked at.
        self._sight(0.0)
        way = self._of_route(until)
        sight = self._sight(_left(until))
        control = self._of_control(sight)
        runner, checks = self._of_runner(sight, way, until)
        return Seen(control, way, runner, sight, checks)

    def renew(self) -> None:
        """Look at the control plane and the route now, for who waits for a change."""
        if self._control is not None:
            self._control.renew()
        if self._place.known is not None and self._probe == "network":
            self._route.told(self._look_at_route())

    def metadata(self) -> Mapping[str, Any]:
        """The service's address, what Kubernetes has of it, and what its runner said last."""
        client, sight = self._place.known, self._sight(FIRST_SECONDS)
        last = client and client.last_answer
        return {
            "address": client and client.base,
            **(about.of_sight(sight) if sight else {}),
            **({"last_answer": about.of_answer(last)} if last else {}),
        }

    def close(self) -> None:
        """Ask Kubernetes no more."""
        if self._control is not None:
            self._control.close()

    def _sight(self, wait: float) -> Sight | None:
        return self._control.get(wait) if self._control else None

    def _of_control(self, sight: Sight | None) -> Layer:
        if self._control is None:
            return Layer("not asked", detail="RUNNER_KNATIVE_SERVICE is not set")
        return layers.of_state(sight.state) if sight else NOT_YET

    def _of_route(self, until: float) -> Layer:
        try:
            self._place.client(_left(until))
        except BackendUnreachable as exc:
            return Layer("down", "unavailable", str(exc))
        if self._probe != "network":
            return Layer("not asked", detail=f"RUNNER_KNATIVE_PROBE={self._probe}")
        return self._route.get(_left(until)) or NOT_YET

    def _of_runner(
        self, sight: Sight | None, way: Layer, until: float
    ) -> tuple[Layer, Mapping[str, str]]:
        """The runner's layer, and its own checks."""
        client = self._place.known
        if client is None or not self._may_ask(sight, way):
            return layers.of_answer(client.last_answer if client else None), {}
        found = self._runner.get(_left(until))
        if found is None:
            return NOT_YET, {}
        state, base = found
        if state.kind == "silent" and sight and sight.state.word in ("idle", "activating"):
            return Layer("unknown", detail="it is being started"), {}
        return layers.of_runner(state, base), state.checks

    def _may_ask(self, sight: Sight | None, way: Layer) -> bool:
        """Whether a question to the runner costs nothing, or is wanted nevertheless."""
        if self._probe != "network":
            return self._probe == "http"
        if way.word == "direct":
            return True
        # One that could not be started is started again by nothing but a request.
        return sight is not None and (sight.always_on or sight.state.word == "failing")

    def _look_at_route(self) -> Layer:
        client = self._place.known
        return route.look(client) if client else NOT_YET

    def _look_at_runner(self) -> tuple[RunnerState, str]:
        client = self._place.known
        if client is None:
            return RunnerState("silent", "its address is not known"), ""
        return client.probe(RUNNER_SECONDS), client.base


def _left(until: float) -> float:
    return max(0.0, until - time.monotonic())
