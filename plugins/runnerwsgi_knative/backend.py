"""The hooks of the ``knative`` backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runnerwsgi import hookimpl

from .health import Watch

if TYPE_CHECKING:
    from runnerwsgi.protocol import (
        Bundle,
        ExecuteRequest,
        ExecuteResponse,
        Finding,
        Health,
        UiAsset,
        WarmUp,
    )

    from .place import Place

# A pod may have to be started, fetch the bundle and compile it.
WARM_UP_SECONDS = 180.0
# For an address that is not known yet: where no call says how much time there is.
PLACE_SECONDS = 5.0


class KnativeBackend:
    """Runs extensions on a runner that is a Knative Service.

    Calls go to its address and nothing else is asked for them: not the Kubernetes API, ever.

    Example::

        client = RunnerClient("http://runner.extensions.svc.cluster.local", token)
        gateway = Gateway(KnativeBackend(Fixed(client)))

    Args:
        place: where the service is.
        watch: looks at how it is; by default at nothing of Kubernetes.
        examine: looks at everything that must be right, for `runnerwsgi doctor`.
    """

    name = "knative"

    def __init__(
        self,
        place: Place,
        watch: Watch | None = None,
        examine: Callable[[], Iterable[Finding]] = tuple,
    ) -> None:
        self._place = place
        self.watch = watch or Watch(place)
        self._examine = examine

    @hookimpl
    def runner_execute(self, request: ExecuteRequest) -> ExecuteResponse:
        """Run one handler call on a pod of the service.

        Raises:
            RunnerError: the service did not take the call, or nobody can tell what became of it.
        """
        started = time.monotonic()
        client = self._place.client(request.limits.timeout_ms / 1000)
        return client.execute(_later(request, time.monotonic() - started))

    @hookimpl
    def runner_resolve_ui_url(self, asset: UiAsset) -> str:
        """The service's own address of the file, and the route there."""
        return self._place.client(PLACE_SECONDS).ui_url(asset)

    @hookimpl
    def runner_warm_up(self, bundle: Bundle) -> WarmUp:
        """Have a pod make the bundle ready, after it was started for that where there is none."""
        return self._place.client(PLACE_SECONDS).warm_up(bundle, WARM_UP_SECONDS)

    @hookimpl
    def runner_health(self) -> Health:
        """What was found lately: of the control plane, the route and the runner, each apart."""
        return self.watch.health()

    @hookimpl
    def runner_metadata(self) -> Mapping[str, Any]:
        """The address, what Kubernetes has of the service, and what its last answer said."""
        return self.watch.metadata()

    @hookimpl
    def runner_findings(self) -> Sequence[Finding]:
        """Whether the runner takes our calls, and what is deployed fits them; it may wake a pod."""
        return tuple(self._examine())

    @hookimpl
    def runner_close(self) -> None:
        """Close the connections."""
        self.watch.close()
        self._place.close()


def _later(request: ExecuteRequest, seconds: float) -> ExecuteRequest:
    """*request* with as much less time as it has waited."""
    waited_ms = round(seconds * 1000)
    if not waited_ms:
        return request
    limits = request.limits
    left_ms = max(limits.timeout_ms - waited_ms, 1)
    return replace(request, limits=replace(limits, timeout_ms=left_ms))
