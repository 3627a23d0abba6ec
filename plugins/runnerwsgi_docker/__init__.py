"""The runner in a container, backend ``docker``: production's shape on one machine.

``runnerwsgi docker up`` starts the container, ``RUNNER_BACKEND=docker`` uses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runnerwsgi.service_token import ServiceToken
from runnerwsgi.settings import Setting, Settings, integer, matching, path, read, text

if TYPE_CHECKING:
    from .backend import DockerBackend

__all__ = ["SETTINGS", "plugin"]

# How long a container that restarts is waited for: no longer than one that is gone deserves.
PATIENCE_SECONDS = 10.0
DEFAULT_HOST = "http://127.0.0.1:8085"
DEFAULT_BASE = "python:3.12-slim"


def cpus(value: str) -> float:
    """A number of processors, such as ``1.5``."""
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,2})?", value) or not float(value):
        raise ValueError("use a number such as 1.5")
    return float(value)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "RUNNER_DOCKER_HOST",
        text,
        None,
        "Where the container is; in a compose network `http://extension-runner:8080`.",
        owner="docker",
        shown=f"`RUNNER_BASE_URL`, else `{DEFAULT_HOST}`",
    ),
    Setting(
        "RUNNER_DOCKER_IMAGE",
        text,
        None,
        "Name of the runner's image, built and started by `runnerwsgi docker`.",
        owner="docker",
        shown="`runnerwsgi:` and the version",
    ),
    Setting(
        "RUNNER_DOCKER_BASE",
        text,
        DEFAULT_BASE,
        "Image that the runner's is made from: any with Python 3.11 or newer and its venv module.",
        owner="docker",
    ),
    Setting(
        "RUNNER_DOCKER_WHEELS",
        path,
        None,
        "Folder of wheels to build the image from, where containers reach no package index; filled "
        "by this machine's pip when it is empty.",
        owner="docker",
        shown="the package index",
    ),
    Setting(
        "RUNNER_DOCKER_CONTAINER",
        matching(
            re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,200}"),
            "use a name of letters, digits, dots, dashes and underscores",
        ),
        "extension-runner",
        "Name of the container; the names of its networks and its volume begin with it.",
        owner="docker",
    ),
    Setting(
        "RUNNER_DOCKER_MEMORY",
        matching(re.compile(r"[0-9]{1,12}[bkmg]?"), "use a size such as 512m or 2g"),
        "2g",
        "Memory of the container, all calls together; above it the kernel ends the runner.",
        owner="docker",
    ),
    Setting(
        "RUNNER_DOCKER_CPUS",
        cpus,
        None,
        "Processors that the container may use, such as `1.5`.",
        owner="docker",
        shown="2, or one where there is no more",
    ),
    Setting(
        "RUNNER_DOCKER_PIDS",
        integer(16, 1_000_000),
        256,
        "Threads and processes that the container may have.",
        owner="docker",
    ),
)


def token_file(home: Path) -> Path:
    """The token that `runnerwsgi docker up` makes and keeps."""
    return home / "docker" / "token"


def callback_folder(home: Path) -> Path:
    """The folder of sockets that gateways and the container share."""
    return home / "run"


def plugin(env: Mapping[str, str]) -> DockerBackend:
    """The backend of an environment; the entry point ``docker`` of the group ``runnerwsgi``.

    What `runnerwsgi docker up` has made in ``RUNNER_HOME`` is used without being named: its
    token where none is set, and its folder of sockets where there is no ``RUNNER_CALLBACK_BASE``.

    Raises:
        ConfigurationError: a variable has a bad value.
    """
    from runnerwsgi.client import RunnerClient

    from .backend import DockerBackend

    settings = Settings.from_env(env)
    host = read(SETTINGS, env)["RUNNER_DOCKER_HOST"]
    variable = "RUNNER_DOCKER_HOST" if host or not settings.base_url else "RUNNER_BASE_URL"
    client = RunnerClient(
        host or settings.base_url or DEFAULT_HOST,
        service_token(settings),
        variable=variable,
        max_response_bytes=settings.max_response_bytes,
        callback_base=settings.callback_base or f"unix:{callback_folder(settings.home)}",
        allow_insecure=settings.allow_insecure,
        idle=settings.slots,
        greet=True,
        patience=PATIENCE_SECONDS,
    )
    return DockerBackend(client)


def service_token(settings: Settings) -> ServiceToken:
    """The token that is set, or else the one that `runnerwsgi docker up` has made."""
    kept = token_file(settings.home)
    if settings.service_token_file is None and settings.service_token is None and kept.exists():
        return ServiceToken(file=kept)
    return ServiceToken.from_settings(settings)
