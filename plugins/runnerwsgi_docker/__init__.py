"""The runner in a container, backend ``docker``: production's shape on one machine.

``runnerwsgi docker up`` starts the container, ``RUNNER_BACKEND=docker`` uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runnerwsgi.service_token import ServiceToken
from runnerwsgi.settings import Setting, Settings, path, read, text

if TYPE_CHECKING:
    from .backend import DockerBackend

__all__ = ["SETTINGS", "plugin"]

DEFAULT_HOST = "http://127.0.0.1:8085"
DEFAULT_BASE = "python:3.12-slim"

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
        "Folder of wheels to build the image from, where containers reach no package index.",
        owner="docker",
        shown="the package index",
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
        _token(settings),
        variable=variable,
        max_response_bytes=settings.max_response_bytes,
        callback_base=settings.callback_base or f"unix:{callback_folder(settings.home)}",
        allow_insecure=settings.allow_insecure,
        idle=settings.slots,
        greet=True,
    )
    return DockerBackend(client)


def _token(settings: Settings) -> ServiceToken:
    kept = token_file(settings.home)
    if settings.service_token_file is None and settings.service_token is None and kept.exists():
        return ServiceToken(file=kept)
    return ServiceToken.from_settings(settings)
