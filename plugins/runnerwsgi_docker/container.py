"""The container: what it is started with, whoever starts it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# The image's own facts (Dockerfile).
PORT = 8080
USER = "65532:65532"
BUNDLES = "/bundles"
SOCKETS = "/run/runnerwsgi"
SECRETS = "/run/secrets"
TOKEN = f"{SECRETS}/runner-token"
CACHE = "/var/lib/runnerwsgi"

# Longer than the runner's own grace time, so that it ends by itself.
STOP_SECONDS = 40

# What every container of ours is started with; compose.yaml says the same in its words.
HARDENING = (
    f"--user={USER}",
    "--read-only",
    "--tmpfs=/tmp:rw,noexec,nosuid,nodev,size=64m,mode=1777",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges:true",
)
KEEPING = (
    "--restart=unless-stopped",
    f"--stop-timeout={STOP_SECONDS}",
    "--log-driver=local",  # rotates by itself; Docker's default log grows for ever
)

# Labels of ours: they tell our container from another of the same name, and an old one from new.
HOME_LABEL = "runnerwsgi.home"
SPEC_LABEL = "runnerwsgi.spec"
NETWORK_LABEL = "runnerwsgi.network"


@dataclass(frozen=True, slots=True)
class Network:
    """A network of the container: closed, or with a way out.

    The closed one is a bridge without masquerade: the published port works, and packets to
    elsewhere carry an address to which no answer finds back.
    """

    name: str
    is_closed: bool

    def arguments(self) -> list[str]:
        """For `docker network create`."""
        options = ["--driver=bridge", f"--label={NETWORK_LABEL}={self.kind}"]
        # Not even to other containers of its network.
        options.append("--opt=com.docker.network.bridge.enable_icc=false")
        if self.is_closed:
            options.append("--opt=com.docker.network.bridge.enable_ip_masquerade=false")
        return [*options, self.name]

    @property
    def kind(self) -> str:
        """``closed`` or ``open``."""
        return "closed" if self.is_closed else "open"


@dataclass(frozen=True, slots=True)
class Container:
    """One container as it should be.

    Example::

        docker("run", "--detach", *Container("extension-runner", "runnerwsgi:0.1.0", …).arguments())

    Attributes:
        name: of the container; its networks and its volume begin with it.
        image: what it runs.
        port: on 127.0.0.1, where its own port is published.
        home: ``RUNNER_HOME``, which it belongs to.
        bundles, sockets, secrets: folders that it may read.
        is_closed: it has no way out.
        environment: variables beside those of the image.
        inherited: names of variables that it gets from whoever starts it; for credentials, which
            belong on no command line.
    """

    name: str
    image: str
    port: int
    home: Path
    bundles: Path
    sockets: Path
    secrets: Path
    memory: str = "2g"
    cpus: float = 2
    pids: int = 256
    is_closed: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    inherited: tuple[str, ...] = ()

    @property
    def network(self) -> Network:
        """The one that it is in."""
        return self.networks[0 if self.is_closed else 1]

    @property
    def networks(self) -> tuple[Network, Network]:
        """The closed one, and the one with a way out."""
        return networks_of(self.name)

    @property
    def volume(self) -> str:
        """The volume of what it has compiled."""
        return volume_of(self.name)

    def arguments(self) -> list[str]:
        """For `docker run` or `docker create`, its labels and image included."""
        arguments = self._arguments()
        return [
            f"--name={self.name}",
            *arguments,
            f"--label={HOME_LABEL}={self.home}",
            f"--label={SPEC_LABEL}={_digest(arguments)}",
            self.image,
        ]

    @property
    def spec(self) -> str:
        """A digest of everything but the image: another one means another container."""
        return _digest(self._arguments())

    def _arguments(self) -> list[str]:
        return [
            *HARDENING,
            *KEEPING,
            f"--memory={self.memory}",
            f"--memory-swap={self.memory}",  # as much as the memory: none of it is swap
            f"--cpus={self.cpus:g}",
            f"--pids-limit={self.pids}",
            f"--network={self.network.name}",
            # Docker's own resolver would carry questions, and what is in them, to the outside.
            *(["--dns=127.0.0.1"] if self.is_closed else []),
            f"--publish=127.0.0.1:{self.port}:{PORT}",
            *_mount("bind", self.bundles, BUNDLES, "readonly"),
            *_mount("bind", self.sockets, SOCKETS, "readonly"),
            *_mount("bind", self.secrets, SECRETS, "readonly"),
            *_mount("volume", self.volume, CACHE),
            f"--env=RUNNER_SERVICE_TOKEN_FILE={TOKEN}",
            *(f"--env={name}={value}" for name, value in sorted(self.environment.items())),
            *(f"--env={name}" for name in sorted(self.inherited)),
        ]


def networks_of(name: str) -> tuple[Network, Network]:
    """The closed network of a container, and its open one."""
    return Network(f"{name}-closed", True), Network(f"{name}-open", False)


def volume_of(name: str) -> str:
    """The volume of what a container has compiled."""
    return f"{name}-cache"


def _mount(kind: str, source: object, target: str, *flags: str) -> list[str]:
    """`--mount` takes CSV: a comma in a path needs quotes."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(
        [f"type={kind}", f"source={source}", f"target={target}", *flags]
    )
    return ["--mount", line.getvalue()]


def _digest(arguments: list[str]) -> str:
    return hashlib.sha256(json.dumps(arguments).encode()).hexdigest()[:16]
