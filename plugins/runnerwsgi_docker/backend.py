"""The hooks of the ``docker`` backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runnerwsgi import hookimpl
from runnerwsgi.client import kind_of
from runnerwsgi.errors import BackendUnreachable, BadRunnerResponse
from runnerwsgi.protocol import Bundle, ExecuteRequest, ExecuteResponse, Health, UiAsset, WarmUp

if TYPE_CHECKING:
    import click

    from runnerwsgi.client import RunnerClient, RunnerState

WARM_UP_SECONDS = 120.0
# What a first failed call waits to learn what is there; later ones know it.
LOOK_SECONDS = 1.0

# What was found at the container's address, and what to do about it.
ADVICE: Mapping[str, str] = {
    "refused": "nothing listens at {base}: start the container with `runnerwsgi docker up`",
    "no-name": "there is no name {host}: is the application in the compose network?",
    "starting": "the container is starting: `runnerwsgi docker logs` shows how far it is",
    "no-runner": "{base} answers, but is no runner: another program has the port",
    "wrong-token": "misconfigured: the runner at {base} has another token than this application; "
    "`runnerwsgi docker status` compares them",
    "silent": "{base} does not answer: is the container paused or overloaded?",
    "tls": "{base} has no certificate that is trusted here",
    "unavailable": "the runner says that it cannot execute",
}


class DockerBackend:
    """Runs extensions in a container that `runnerwsgi docker up` or compose has started.

    It speaks HTTP with the runner and nothing with Docker.

    Example::

        backend = DockerBackend(RunnerClient("http://127.0.0.1:8085", token))
        gateway = Gateway(backend)
    """

    name = "docker"

    def __init__(self, client: RunnerClient) -> None:
        self._client = client

    @hookimpl
    def runner_execute(self, request: ExecuteRequest) -> ExecuteResponse:
        """Run one handler call in the container.

        Raises:
            RunnerError: the runner could not be asked; the message says what was found there.
        """
        with self._advised():
            return self._client.execute(request)

    @hookimpl
    def runner_resolve_ui_url(self, asset: UiAsset) -> str:
        """The runner's own address of the file."""
        return self._client.ui_url(asset)

    @hookimpl
    def runner_warm_up(self, bundle: Bundle) -> WarmUp:
        """Have the runner make the bundle ready."""
        with self._advised():
            return self._client.warm_up(bundle, WARM_UP_SECONDS)

    @hookimpl
    def runner_health(self) -> Health:
        """What was found at the container's address lately."""
        state = self._client.state()
        if state.kind in ("ok", "degraded"):
            return Health(state.kind, {"runner": self._client.base, **state.checks})
        return Health("unavailable", {"runner": self._told(state), **state.checks})

    @hookimpl
    def runner_metadata(self) -> Mapping[str, Any]:
        """Image, version and uptime, as the runner reports them."""
        state = self._client.state()
        return {**state.about, "address": self._client.base, "state": state.kind}

    @hookimpl
    def runner_close(self) -> None:
        """Close the connections."""
        self._client.close()

    @hookimpl
    def runner_register_commands(self, group: click.Group) -> None:
        """Add `runnerwsgi docker up`, `down`, `status` and the rest."""
        from .commands import register

        register(group)

    @contextmanager
    def _advised(self) -> Iterator[None]:
        """Say with an error what was found at the container's address, and what to do about it."""
        try:
            yield
        except BackendUnreachable as exc:
            advice = self._advice(kind_of(exc))
            raise BackendUnreachable(f"{advice} ({exc})", reason=exc.reason) from exc
        except BadRunnerResponse as exc:
            kind = self._client.state(wait=LOOK_SECONDS).kind
            if kind not in ("wrong-token", "no-runner"):
                raise
            raise BadRunnerResponse(f"{self._advice(kind)} ({exc})") from exc

    def _advice(self, kind: str) -> str:
        text = ADVICE.get(kind, ADVICE["refused"])
        return text.format(base=self._client.base, host=self._client.origin.host)

    def _told(self, state: RunnerState) -> str:
        advice = self._advice(state.kind)
        return f"{advice} ({state.detail})" if state.detail else advice
