"""The hooks of the ``knative`` backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runnerwsgi import hookimpl
from runnerwsgi.protocol import Bundle, ExecuteRequest, ExecuteResponse, Health, UiAsset, WarmUp

if TYPE_CHECKING:
    import click

    from runnerwsgi.client import RunnerClient

# A pod may have to be started, fetch the bundle and compile it.
WARM_UP_SECONDS = 180.0


class KnativeBackend:
    """Runs extensions on a runner that is a Knative Service.

    Calls go to its address and nothing else is asked for them: not the Kubernetes API, ever.

    Example::

        backend = KnativeBackend(RunnerClient("http://runner.extensions.svc.cluster.local", token))
        gateway = Gateway(backend)
    """

    name = "knative"

    def __init__(self, client: RunnerClient) -> None:
        self._client = client

    @hookimpl
    def runner_execute(self, request: ExecuteRequest) -> ExecuteResponse:
        """Run one handler call on a pod of the service.

        Raises:
            RunnerError: the service did not take the call, or nobody can tell what became of it.
        """
        return self._client.execute(request)

    @hookimpl
    def runner_resolve_ui_url(self, asset: UiAsset) -> str:
        """The service's own address of the file, and the route there."""
        return self._client.ui_url(asset)

    @hookimpl
    def runner_warm_up(self, bundle: Bundle) -> WarmUp:
        """Have a pod make the bundle ready, after it was started for that where there is none."""
        return self._client.warm_up(bundle, WARM_UP_SECONDS)

    @hookimpl
    def runner_health(self) -> Health:
        """What was found at the service's address lately."""
        state = self._client.state()
        if state.kind in ("ok", "degraded"):
            return Health(state.kind, {"runner": self._client.base, **state.checks})
        return Health("unavailable", {"runner": f"{state.kind}: {state.detail}", **state.checks})

    @hookimpl
    def runner_metadata(self) -> Mapping[str, Any]:
        """What the last answer said."""
        return {"address": self._client.base}

    @hookimpl
    def runner_close(self) -> None:
        """Close the connections."""
        self._client.close()

    @hookimpl
    def runner_register_commands(self, group: click.Group) -> None:
        """Add `runnerwsgi knative manifest`, `lint` and `status`."""
        from .commands import register

        register(group)
