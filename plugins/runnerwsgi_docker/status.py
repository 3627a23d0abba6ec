"""How the container is: what Docker says of it, what the runner says, and what disagrees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runnerwsgi import __version__

from . import life
from .container import HOME_LABEL, networks_of

if TYPE_CHECKING:
    from runnerwsgi.client import RunnerState

    from .engine import Engine
    from .life import Found
    from .plan import Plan

VERSION_LABEL = "org.opencontainers.image.version"
REVISION_LABEL = "org.opencontainers.image.revision"
_GOOD = ("ok", "degraded")
SAME = "same"


@dataclass(frozen=True, slots=True)
class Status:
    """One look at a container.

    Attributes:
        plan: what the environment asks for.
        found: the container; None when there is none.
        image: what Docker knows of the image that the plan names; None when it is not there.
        runner: what was found at the address.
        reasons: why the container needs a way out.
    """

    plan: Plan
    found: Found | None
    image: Mapping[str, Any] | None
    runner: RunnerState
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, engine: Engine, plan: Plan) -> Status:
        """Look at everything now.

        Raises:
            ConfigurationError: Docker cannot be asked.
        """
        with closing(plan.client()) as client:
            runner = client.probe()
        found = life.find(engine, plan.name)
        image = engine.inspect("image", plan.recipe.tag)
        return cls(plan, found, image, runner, tuple(plan.reasons_for_a_way_out()))

    @property
    def is_well(self) -> bool:
        """Whether an application can use it as it is."""
        return self.found is not None and self.runner.kind in _GOOD and not self.faults

    @property
    def is_closed(self) -> bool | None:
        """Whether it has no way out; None where its network is not one of ours."""
        kinds = {one.name: one.is_closed for one in networks_of(self.plan.name)}
        inside = self.found.networks if self.found else ()
        known = [kinds[name] for name in inside if name in kinds]
        return all(known) if known and len(known) == len(inside) else None

    @property
    def token(self) -> str:
        """Whether container and application have the same: ``same``, ``differs``, ``missing``."""
        token = self.plan.token()
        if token is None or not self.plan.shared.copy.exists():
            return "missing"
        is_same = self.plan.shared.has_token(token) and self.runner.kind != "wrong-token"
        return SAME if is_same else "differs"

    @property
    def faults(self) -> list[str]:
        """What does not agree, each with what to do."""
        return list(self._faults(self.found)) if self.found else []

    def _faults(self, found: Found) -> Iterator[str]:
        if found.labels.get(HOME_LABEL) != str(self.plan.shared.home):
            owner = found.labels.get(HOME_LABEL)
            whose = f"it belongs to the RUNNER_HOME {owner}" if owner else "it is not ours"
            yield f"{whose}: choose another RUNNER_DOCKER_CONTAINER and port"
            return  # and `up` leaves it alone
        if found.state != "running":
            yield f"it is {found.state} and {found.ending}: see `runnerwsgi docker logs`"
        if found.port and not self.plan.address.endswith(f":{found.port.rpartition(':')[2]}"):
            yield (
                f"it is at http://{found.port}, and applications look at {self.plan.address}: "
                "set RUNNER_DOCKER_HOST to where it is, or `runnerwsgi docker up` moves it"
            )
        if self.token != SAME:
            yield f"the token {TOKENS[self.token]}: `runnerwsgi docker up` hands it over"
        if self.is_closed and self.reasons:
            yield (
                f"it has no way out, but {self.reasons[0]}: `runnerwsgi docker up` puts it into an "
                "open network"
            )
        if self.is_closed is False and not self.reasons:
            yield "it has a way out that nothing needs: `runnerwsgi docker up` closes it"
        if self.image is not None and self.image["Id"] != found.image_id:
            yield (
                f"the image {self.plan.recipe.tag} was built again since it was started: "
                "`runnerwsgi docker up` replaces it"
            )
        if (theirs := self.runner.about.get("version", __version__)) != __version__:
            yield (
                f"the runner is version {theirs}, and this is {__version__}: "
                "`runnerwsgi docker up --build` makes it the same"
            )

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        found = self.found
        labels = found.labels if found else {}
        return {
            "container": self.plan.name,
            "state": found.state if found else "absent",
            "health": found.health if found else "unknown",
            "restarts": found.restarts if found else 0,
            "image": {
                "name": self.plan.recipe.tag,
                "id": found.image_id if found else (self.image or {}).get("Id"),
                "version": labels.get(VERSION_LABEL),
                "revision": labels.get(REVISION_LABEL),
            },
            "address": self.plan.address,
            "port": found.port if found else None,
            "mounts": found.mounts if found else [],
            "network": {
                "names": list(found.networks) if found else [],
                "is_closed": self.is_closed,
                "reasons_for_a_way_out": list(self.reasons),
            },
            "token": self.token,
            "runner": {
                "state": self.runner.kind,
                "detail": self.runner.detail,
                "checks": dict(self.runner.checks),
                **self.runner.about,
            },
            "faults": self.faults,
            "is_well": self.is_well,
        }

    def rows(self) -> Iterator[tuple[str, str]]:
        """For people."""
        found = self.found
        if found is None:
            yield "container", f"there is no {self.plan.name}: `runnerwsgi docker up` starts it"
            yield "image", self._image() if self.image else f"{self.plan.recipe.tag}, not built yet"
            yield "runner", self._runner()
            return
        again = f", started again {found.restarts} times" if found.restarts else ""
        yield "container", f"{self.plan.name}: {found.state}, {found.health}{again}"
        yield "image", self._image()
        yield "port", f"{found.port or 'none'}, for {self.plan.address}"
        for one in found.mounts:
            kind = "read-only" if one["read_only"] else "writable"
            yield "mount", f"{one['target']} is {one['source']}, {kind}"
        yield "network", f"{', '.join(found.networks) or 'none'}: {NETWORKS[self.is_closed]}"
        yield "token", TOKENS[self.token]
        yield "runner", self._runner()
        for name, text in self.runner.checks.items():
            yield f"  {name}", text

    def _image(self) -> str:
        labels = (self.found.labels if self.found else {}) or {}
        identity = self.found.image_id if self.found else str((self.image or {}).get("Id", ""))
        told = [labels.get(VERSION_LABEL), labels.get(REVISION_LABEL)]
        what = ", ".join(one for one in told if one)
        return f"{self.plan.recipe.tag} ({identity.removeprefix('sha256:')[:12]}) {what}".rstrip()

    def _runner(self) -> str:
        about = self.runner.about
        uptime = f", up {about['uptime_s']:.0f} s" if "uptime_s" in about else ""
        version = f", version {about['version']}" if "version" in about else ""
        told = self.runner.detail or self.runner.kind
        is_told = self.runner.kind in _GOOD or self.plan.address in told
        where = "" if is_told else f"{self.plan.address}: "
        return f"{where}{told}{version}{uptime}"


NETWORKS = {
    True: "no way out",
    False: "with a way out",
    None: "not one of `runnerwsgi docker up`",
}
TOKENS = {
    SAME: "is the same here and in the container",
    "differs": "differs between here and the container",
    "missing": "is missing",
}
