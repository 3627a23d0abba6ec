"""The container's life: started, replaced, restarted, ended; and waited for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runnerwsgi.errors import ConfigurationError

from .container import (
    HOME_LABEL,
    NETWORK_LABEL,
    SPEC_LABEL,
    STOP_SECONDS,
    Container,
    Network,
    networks_of,
    volume_of,
)
from .engine import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from runnerwsgi.client import RunnerClient

    from .engine import Engine

POLL_SECONDS = 0.2
LAST_LINES = 12
KILLED = 128 + 9
_STOP_WITHIN = STOP_SECONDS + 20.0


@dataclass(frozen=True, slots=True)
class Found:
    """A container as Docker has it; what `docker container inspect` says."""

    raw: Mapping[str, Any]

    @property
    def state(self) -> str:
        """``running``, ``exited``, ``restarting``, ``paused`` or ``created``."""
        return str(self.raw["State"]["Status"])

    @property
    def health(self) -> str:
        """``healthy``, ``unhealthy``, ``starting``; what Docker's own checks say."""
        return str(self.raw["State"].get("Health", {}).get("Status", "unknown"))

    @property
    def labels(self) -> Mapping[str, str]:
        """Ours and the image's."""
        return self.raw["Config"]["Labels"] or {}

    @property
    def image_id(self) -> str:
        """What it really runs, whatever the image's name means by now."""
        return str(self.raw["Image"])

    @property
    def restarts(self) -> int:
        """How often Docker has started it again."""
        return int(self.raw["RestartCount"])

    @property
    def networks(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.raw["NetworkSettings"]["Networks"])

    @property
    def port(self) -> str | None:
        """Where it is published: ``127.0.0.1:8085``."""
        for bindings in (self.raw["HostConfig"]["PortBindings"] or {}).values():
            for one in bindings or ():
                return f"{one['HostIp'] or '0.0.0.0'}:{one['HostPort']}"  # noqa: S104 # shown
        return None

    @property
    def mounts(self) -> list[dict[str, Any]]:
        """What it has of the host: source or volume, target, and whether it may write."""
        return [
            {
                "source": one.get("Name") or one["Source"],
                "target": one["Destination"],
                "read_only": not one["RW"],
            }
            for one in sorted(self.raw["Mounts"], key=lambda one: str(one["Destination"]))
        ]

    @property
    def ending(self) -> str:
        """How it ended last."""
        state = self.raw["State"]
        if state.get("OOMKilled"):
            return "was killed by the kernel: it needs more memory than RUNNER_DOCKER_MEMORY"
        if state["ExitCode"] == KILLED:
            return (
                "was killed: by the kernel, where nobody else did it, because it needs more "
                "memory than RUNNER_DOCKER_MEMORY"
            )
        return f"ended with status {state['ExitCode']}"


def find(engine: Engine, name: str) -> Found | None:
    """The container of this name; None when there is none."""
    raw = engine.inspect("container", name)
    return None if raw is None else Found(raw)


def find_ours(engine: Engine, name: str, home: Path) -> Found | None:
    """The container of this name, which belongs to this ``RUNNER_HOME``; None without one.

    Raises:
        ConfigurationError: it is somebody else's.
    """
    found = find(engine, name)
    if found is None or found.labels.get(HOME_LABEL) == str(home):
        return found
    owner = found.labels.get(HOME_LABEL)
    whose = f"belongs to the RUNNER_HOME {owner}" if owner else "is not one of runnerwsgi"
    raise ConfigurationError(
        f"The container {name} {whose}, so it is left alone. Set RUNNER_DOCKER_CONTAINER to "
        "another name, and RUNNER_DOCKER_HOST to another port, such as http://127.0.0.1:8086."
    )


def is_as_wanted(found: Found | None, wanted: Container, image_id: str) -> bool:
    """Whether nothing needs to be done to it."""
    return (
        found is not None
        and found.state == "running"
        and found.image_id == image_id
        and found.labels.get(SPEC_LABEL) == wanted.spec
    )


def start(engine: Engine, wanted: Container) -> None:
    """Start the container, in place of an earlier one.

    Raises:
        EngineError: Docker says no.
    """
    remove(engine, wanted.name)
    _make_network(engine, wanted.network)
    try:
        engine.run("run", "--detach", *wanted.arguments())
    except EngineError:
        # One that was made and could not be started has the name, and nothing in it.
        engine.run("container", "rm", "--force", wanted.name)
        raise


def remove(engine: Engine, name: str) -> bool:
    """End the container, calls that run included, and remove it. False without one."""
    if engine.inspect("container", name) is None:
        return False
    stop = ("container", "stop", "-t", str(STOP_SECONDS), name)
    engine.run(*stop, timeout=_STOP_WITHIN)
    engine.run("container", "rm", "--force", name)
    return True


def tidy(engine: Engine, name: str, *, volume: bool) -> None:
    """Remove the container's networks, and the volume of what it has compiled if so wished."""
    for network in networks_of(name):
        if engine.inspect("network", network.name) is not None:
            engine.run("network", "rm", network.name)
    if volume and engine.inspect("volume", volume_of(name)) is not None:
        engine.run("volume", "rm", volume_of(name))


def restart(engine: Engine, name: str) -> None:
    """End it and start it again, as it is."""
    engine.run("container", "restart", "-t", str(STOP_SECONDS), name, timeout=_STOP_WITHIN)


def wait_until_ready(engine: Engine, name: str, client: RunnerClient, seconds: float) -> str:
    """Wait until the runner can execute; what it says of its version.

    Raises:
        ConfigurationError: it ends again and again, or is not ready in time; with what it said.
    """
    end = time.monotonic() + seconds
    restarts = _restarts(engine, name)
    while True:
        state = client.probe()
        if state.kind in ("ok", "degraded"):
            return str(state.about.get("version", "of unknown version"))
        # How it ended is known only until Docker starts it again, which it does ever later.
        found = find(engine, name)
        if found is None or found.state != "running":
            ending = found.ending if found else "is gone"
            raise ConfigurationError(_failed(engine, name, ending))
        if time.monotonic() > end:
            again = found.restarts - restarts
            often = f", though Docker has started it again {again} times" if again else ""
            reason = f"is not ready after {seconds:.0f} s{often}: {state.kind}"
            detail = f", {state.detail}" if state.detail else ""
            checks = "".join(f"; {check}: {text}" for check, text in state.checks.items())
            raise ConfigurationError(_failed(engine, name, f"{reason}{detail}{checks}"))
        time.sleep(POLL_SECONDS)


def _restarts(engine: Engine, name: str) -> int:
    found = find(engine, name)
    return found.restarts if found else 0


def _failed(engine: Engine, name: str, what: str) -> str:
    try:
        said = list(engine.lines("container", "logs", f"--tail={LAST_LINES}", name))
    except EngineError:
        said = []
    advice = "`runnerwsgi docker logs` shows all that it said"
    return "\n".join([f"The container {name} {what}; {advice}.", *said])


def _make_network(engine: Engine, wanted: Network) -> None:
    found = engine.inspect("network", wanted.name)
    if found is None:
        engine.run("network", "create", *wanted.arguments())
    elif (found.get("Labels") or {}).get(NETWORK_LABEL) != wanted.kind:
        raise ConfigurationError(
            f"There is a network {wanted.name} that runnerwsgi did not make. Remove it with "
            f"`docker network rm {wanted.name}`, or set RUNNER_DOCKER_CONTAINER to another name."
        )
