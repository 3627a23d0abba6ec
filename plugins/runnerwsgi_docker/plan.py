"""What an environment asks for: which container, from which image, in which network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runnerwsgi import Installs, Settings
from runnerwsgi.client import RunnerClient
from runnerwsgi.errors import ConfigurationError
from runnerwsgi.settings import SETTINGS as SHARED
from runnerwsgi.settings import read
from runnerwsgi.stores import is_remote

from . import DEFAULT_HOST, SETTINGS, service_token
from .container import Container
from .image import Recipe
from .shared import Shared

if TYPE_CHECKING:
    from .engine import Engine

# Settings that mean the same for the runner, and are passed on where they are set. Threads do not:
# the application's number counts its own server's.
PASSED = (
    "RUNNER_LOG_LEVEL",
    "RUNNER_MAX_ASSET_BYTES",
    "RUNNER_MAX_BODY_BYTES",
    "RUNNER_MAX_RESPONSE_BYTES",
    "RUNNER_MEMORY_MB",
    "RUNNER_PUBLIC_ORIGINS",  # who may frame a page that it serves itself
    "RUNNER_TIMEOUT_MS",
)
# For a store elsewhere. By name only: their values belong on no command line.
STORE_CREDENTIALS = re.compile(r"AWS_[A-Z0-9_]+|RUNNER_BUNDLE_STORE_TOKEN|RUNNER_ALLOW_INSECURE")


@dataclass(frozen=True, slots=True)
class Plan:
    """An environment's container, before Docker was asked for anything.

    Attributes:
        settings: the shared ones.
        own: the plugin's, by variable.
        env: the environment itself.
        address: where the application finds the runner.
        shared: the folders of its ``RUNNER_HOME``.
    """

    settings: Settings
    own: Mapping[str, Any]
    env: Mapping[str, str]
    address: str
    shared: Shared

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Plan:
        """The plan of an environment.

        Raises:
            ConfigurationError: a variable has a bad value.
        """
        settings, own = Settings.from_env(env), read(SETTINGS, env)
        address = own["RUNNER_DOCKER_HOST"] or settings.base_url or DEFAULT_HOST
        return cls(settings, own, env, address.rstrip("/"), Shared.of(settings))

    @property
    def name(self) -> str:
        """The container's."""
        return str(self.own["RUNNER_DOCKER_CONTAINER"])

    @property
    def recipe(self) -> Recipe:
        """How its image is made."""
        return Recipe.from_env(self.env)

    @property
    def port(self) -> int:
        """Where the container's port is published, on loopback.

        Raises:
            ConfigurationError: the application looks for the runner somewhere else.
        """
        parts = urlsplit(self.address)
        if parts.scheme != "http" or not _is_loopback(parts.hostname or "") or parts.path:
            raise ConfigurationError(
                f"RUNNER_DOCKER_HOST is {self.address}, and a container of `runnerwsgi docker up` "
                "is reached on this machine only: write it as http://127.0.0.1:8085, or unset it."
            )
        return parts.port or 80

    def container(self, engine: Engine) -> Container:
        """The container as it should be, on this engine.

        Raises:
            ConfigurationError: a setting does not fit.
            StorageError: the installs cannot be read.
        """
        return Container(
            name=self.name,
            image=self.recipe.tag,
            port=self.port,
            home=self.shared.home,
            bundles=self.shared.bundles,
            sockets=self.shared.sockets,
            secrets=self.shared.secrets,
            memory=self.own["RUNNER_DOCKER_MEMORY"],
            cpus=self.own["RUNNER_DOCKER_CPUS"] or min(2, _cpus(engine)),
            pids=self.own["RUNNER_DOCKER_PIDS"],
            is_closed=not self.reasons_for_a_way_out(),
            environment=self._environment(),
            inherited=self._inherited(),
        )

    def reasons_for_a_way_out(self) -> list[str]:
        """Why the container must reach other machines; empty when it need not.

        Raises:
            StorageError: the installs cannot be read.
        """
        reasons = []
        if is_remote(self.settings):
            reasons.append(f"bundles are in {self.settings.bundle_store.partition('?')[0]}")
        with closing(Installs.from_settings(self.settings)) as installs:
            reasons += [
                f"{one.extension_id} of tenant {one.tenant_id} was granted cap:http.fetch"
                for one in installs.list()
                if "cap:http.fetch" in one.grants
            ]
        return reasons

    def client(self) -> RunnerClient:
        """Asks the runner with the token that an application would use."""
        return RunnerClient(
            self.address, service_token(self.settings), variable="RUNNER_DOCKER_HOST"
        )

    def token(self) -> str | None:
        """The token that an application would use."""
        found = service_token(self.settings).current()
        return found.reveal() if found else None

    def environment(self) -> dict[str, str]:
        """What the application needs to use this container."""
        told = {"RUNNER_BACKEND": "docker", "RUNNER_HOME": str(self.shared.home)}
        if self.address != DEFAULT_HOST:
            told["RUNNER_DOCKER_HOST"] = self.address
        for name in ("RUNNER_SERVICE_TOKEN_FILE", "RUNNER_DATABASE_URL", "RUNNER_BUNDLE_STORE"):
            if self.env.get(name):
                told[name] = self.env[name]
        return told

    def _environment(self) -> dict[str, str]:
        passed = {name: self.env[name] for name in PASSED if self.env.get(name)}
        if is_remote(self.settings):
            passed["RUNNER_BUNDLE_STORE"] = self.settings.bundle_store
            passed["RUNNER_BUNDLE_CACHE_MB"] = str(self.settings.bundle_cache_mb)
        return passed

    def _inherited(self) -> tuple[str, ...]:
        if not is_remote(self.settings):
            return ()
        return tuple(name for name in self.env if STORE_CREDENTIALS.fullmatch(name))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _cpus(engine: Engine) -> int:
    """How many the engine may give: more are refused."""
    return int(engine.run("info", "--format={{.NCPU}}"))


if missing := set(PASSED) - {row.name for row in SHARED}:
    raise AssertionError(f"There are no such settings to pass on: {missing}.")
