"""The hooks of the ``knative`` backend."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runnerwsgi import hookimpl
from runnerwsgi.errors import BackendUnreachable
from runnerwsgi.protocol import Bundle, ExecuteRequest, ExecuteResponse, Health, UiAsset, WarmUp

if TYPE_CHECKING:
    import click

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
    """

    name = "knative"

    def __init__(self, place: Place) -> None:
        self._place = place

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
        """What was found at the service's address lately."""
        try:
            client = self._place.client(PLACE_SECONDS)
        except BackendUnreachable as exc:
            return Health("unavailable", {"runner": str(exc)})
        state = client.state()
        if state.kind in ("ok", "degraded"):
            return Health(state.kind, {"runner": client.base, **state.checks})
        return Health("unavailable", {"runner": f"{state.kind}: {state.detail}", **state.checks})

    @hookimpl
    def runner_metadata(self) -> Mapping[str, Any]:
        """What the last answer said."""
        known = self._place.known
        return {"address": known and known.base}

    @hookimpl
    def runner_close(self) -> None:
        """Close the connections."""
        self._place.close()

    @hookimpl
    def runner_register_commands(self, group: click.Group) -> None:
        """Add `runnerwsgi knative manifest`, `lint` and `status`."""
        from .commands import register

        register(group)


def _later(request: ExecuteRequest, seconds: float) -> ExecuteRequest:
    """*request* with as much less time as it has waited."""
    waited_ms = round(seconds * 1000)
    if not waited_ms:
        return request
    limits = request.limits
    left_ms = max(limits.timeout_ms - waited_ms, 1)
    return replace(request, limits=replace(limits, timeout_ms=left_ms))
