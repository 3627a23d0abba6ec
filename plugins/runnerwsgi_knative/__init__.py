"""The runner as a Knative Service, backend ``knative``: for production.

``RUNNER_BASE_URL`` says where it is; ``runnerwsgi knative manifest`` writes what makes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runnerwsgi import hookimpl
from runnerwsgi.errors import ConfigurationError
from runnerwsgi.service_token import ServiceToken
from runnerwsgi.settings import Setting, Settings, integer, matching, path, read

if TYPE_CHECKING:
    import ssl

    import click

    from runnerwsgi.origins import Origin

    from .backend import KnativeBackend

__all__ = ["SETTINGS", "plugin", "runner_register_commands"]

_HOST = r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?"

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "RUNNER_KNATIVE_CONNECT_TO",
        matching(re.compile(_HOST), "use host or host:port, such as 10.0.0.7:80"),
        None,
        "Where to connect instead of RUNNER_BASE_URL's own host, such as the ingress's address; "
        "the port is that of RUNNER_BASE_URL where none is given.",
        owner="knative",
        shown="`RUNNER_BASE_URL`'s",
    ),
    Setting(
        "RUNNER_KNATIVE_HOST",
        matching(re.compile(_HOST), "use a host, such as runner.extensions.example.com"),
        None,
        "`Host` by which the ingress finds the service; TLS still verifies RUNNER_BASE_URL's name.",
        owner="knative",
        shown="`RUNNER_BASE_URL`'s",
    ),
    Setting(
        "RUNNER_KNATIVE_CA_FILE",
        path,
        None,
        "Certificates (PEM) that an https RUNNER_BASE_URL is verified with, instead of the "
        "system's.",
        owner="knative",
        shown="the system's",
    ),
    Setting(
        "RUNNER_KNATIVE_TAG",
        matching(re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"), "use a traffic tag's name"),
        None,
        "Traffic tag of the service to call, sent as `Knative-Serving-Tag`; the cluster must have "
        "`tag-header-based-routing` enabled.",
        owner="knative",
    ),
    Setting(
        "RUNNER_KNATIVE_COLD_START_MS",
        integer(0, 600_000),
        10_000,
        "Part of each call's time that the extension is not given, so that a pod can start in it; "
        "half of the time is the extension's in any case.",
        owner="knative",
    ),
)


@hookimpl
def runner_register_commands(group: click.Group) -> None:
    """Add `runnerwsgi knative …`, without settings: a manifest comes before an address."""
    from .commands import register

    register(group)


def plugin(env: Mapping[str, str]) -> KnativeBackend:
    """The backend of an environment; the entry point ``knative`` of the group ``runnerwsgi``.

    Raises:
        ConfigurationError: a variable has a bad value, or there is no address.
    """
    from runnerwsgi.client import RunnerClient, parse_base
    from runnerwsgi.retries import Retries
    from runnerwsgi.upstream import Route

    from . import answers
    from .backend import KnativeBackend

    settings = Settings.from_env(env)
    own = read(SETTINGS, env)
    if not settings.base_url:
        raise ConfigurationError(
            "RUNNER_BASE_URL is not set: set it to the address of the runner's Knative Service, as "
            "`kubectl get ksvc` shows it. Without a cluster, RUNNER_BACKEND=wasm needs no set-up."
        )
    base, _ = parse_base(settings.base_url, "RUNNER_BASE_URL")
    route = Route(
        connect_to=_door(own["RUNNER_KNATIVE_CONNECT_TO"], base),
        host=own["RUNNER_KNATIVE_HOST"],
        tls=_trust(own["RUNNER_KNATIVE_CA_FILE"]),
        headers=_tag_header(own["RUNNER_KNATIVE_TAG"]),
        platform=answers.read,
        retries=Retries(),
    )
    client = RunnerClient(
        settings.base_url,
        ServiceToken.from_settings(settings),
        max_response_bytes=settings.max_response_bytes,
        callback_base=settings.callback_base,
        allow_insecure=settings.allow_insecure,
        idle=settings.slots,
        route=route,
        reserve_ms=own["RUNNER_KNATIVE_COLD_START_MS"],
    )
    return KnativeBackend(client)


def _tag_header(tag: str | None) -> tuple[tuple[str, str], ...]:
    return (("Knative-Serving-Tag", tag),) if tag else ()


def _door(value: str | None, base: Origin) -> Origin | None:
    """Where to connect, of *base*'s scheme and, by default, its port."""
    from runnerwsgi.client import parse_base

    if value is None:
        return None
    has_port = re.search(r":[0-9]+$", value) is not None
    place = value if has_port else f"{value}:{base.port}"
    return parse_base(f"{base.scheme}://{place}", "RUNNER_KNATIVE_CONNECT_TO", "an ingress")[0]


def _trust(file: Path | None) -> ssl.SSLContext | None:
    """What verifies the runner, or its ingress.

    Raises:
        ConfigurationError: there are no certificates in *file*.
    """
    if file is None:
        return None
    import ssl

    try:
        context = ssl.create_default_context(cafile=file)
    except OSError as exc:
        found = exc.strerror or "no certificates are in it"
        raise ConfigurationError(
            f"RUNNER_KNATIVE_CA_FILE={file} cannot be used: {found}. Use a file of PEM "
            "certificates that the gateway can read."
        ) from exc
    context.set_alpn_protocols(["http/1.1"])
    return context
