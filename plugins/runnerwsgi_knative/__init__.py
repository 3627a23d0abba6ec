"""The runner as a Knative Service, backend ``knative``: for production.

``RUNNER_BASE_URL`` says where it is, or ``RUNNER_KNATIVE_SERVICE`` what it is called;
``runnerwsgi knative manifest`` writes what makes it.

- calls: ``backend``; ``place``, where they go; ``answers``, who else than the runner answered
- health: ``health`` looks at three ``layers``; ``control`` at what Kubernetes has (``observed``,
  ``state``), ``route`` at the way; ``about`` tells it all
- doctor: ``checks``, and the ``agreement`` of what is deployed with the gateway's settings
- commands: ``status`` with its ``picture``, ``manifest``, ``lint``; ``documents`` reads and writes
- the API of Kubernetes: ``kubernetes``, never asked for a call
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runnerwsgi import hookimpl
from runnerwsgi.errors import ConfigurationError
from runnerwsgi.service_token import ServiceToken
from runnerwsgi.settings import Setting, Settings, choice, integer, matching, path, read, text

if TYPE_CHECKING:
    import ssl

    import click

    from runnerwsgi.client import RunnerClient
    from runnerwsgi.origins import Origin

    from .backend import KnativeBackend
    from .kubernetes.cluster import Cluster
    from .place import Place

__all__ = ["SETTINGS", "plugin", "runner_register_commands"]

_HOST = r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?"

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "RUNNER_KNATIVE_SERVICE",
        matching(re.compile(f"{_LABEL}/{_LABEL}"), "use namespace/name, such as extensions/runner"),
        None,
        "The Knative Service, as namespace/name: health asks the Kubernetes API how it is, and "
        "without RUNNER_BASE_URL its address is looked up there. The API is found as kubectl finds "
        "it: KUBECONFIG, `~/.kube/config`, or the pod's service account.",
        owner="knative",
    ),
    Setting(
        "RUNNER_KNATIVE_CONTEXT",
        text,
        None,
        "Context of the kubeconfig.",
        owner="knative",
        shown="the current one",
    ),
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
        "Traffic tag of the service to call: its own address with RUNNER_KNATIVE_SERVICE. With "
        "RUNNER_BASE_URL it is sent as `Knative-Serving-Tag`, and the cluster must have "
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
    Setting(
        "RUNNER_KNATIVE_PROBE",
        choice("network", "http", "none"),
        "network",
        "How health looks at the way to the service: `network` wakes no pod, as Knative itself "
        "answers; `http` asks the runner, which wakes one and keeps it; `none` sends nothing.",
        owner="knative",
    ),
)


@hookimpl
def runner_register_commands(group: click.Group) -> None:
    """Add `runnerwsgi knative …`, without settings: a manifest comes before an address."""
    from .lint.command import lint
    from .manifest.command import manifest
    from .status import status

    for command in (manifest, lint, status):
        group.add_command(command)


def plugin(env: Mapping[str, str]) -> KnativeBackend:
    """The backend of an environment; the entry point ``knative`` of the group ``runnerwsgi``.

    Raises:
        ConfigurationError: a variable has a bad value, or there is no address.
    """
    from . import checks
    from .backend import KnativeBackend
    from .control import Control
    from .health import Watch

    settings = Settings.from_env(env)
    own = read(SETTINGS, env)
    service = _service(env, own)
    place = _place(settings, own, service)
    control = Control(*service, tag=own["RUNNER_KNATIVE_TAG"]) if service else None
    watch = Watch(place, control, own["RUNNER_KNATIVE_PROBE"])
    setup = checks.Setup(
        settings,
        env,
        cold_start_ms=own["RUNNER_KNATIVE_COLD_START_MS"],
        tag=own["RUNNER_KNATIVE_TAG"],
        place=place,
        control=control,
    )
    return KnativeBackend(place, watch, partial(checks.findings, setup))


def _service(env: Mapping[str, str], own: Mapping[str, Any]) -> tuple[Cluster, str] | None:
    """Where Kubernetes is asked for the service, and its name."""
    if not own["RUNNER_KNATIVE_SERVICE"]:
        return None
    from .kubernetes.cluster import Cluster

    namespace, name = own["RUNNER_KNATIVE_SERVICE"].split("/")
    return Cluster.from_env(env, namespace, context=own["RUNNER_KNATIVE_CONTEXT"]), name


def _place(
    settings: Settings, own: Mapping[str, Any], service: tuple[Cluster, str] | None
) -> Place:
    """Where calls go: the address that was set, or the one that the service has.

    Raises:
        ConfigurationError: there is neither.
    """
    from .place import Fixed, Resolved

    connect = _connector(settings, own)
    if settings.base_url:
        return Fixed(connect(settings.base_url, _tag_header(own["RUNNER_KNATIVE_TAG"])))
    if service:
        _check_vouched_for(settings, service[0])
        return Resolved(*service, connect, tag=own["RUNNER_KNATIVE_TAG"])
    raise ConfigurationError(
        "neither RUNNER_BASE_URL nor RUNNER_KNATIVE_SERVICE is set: set the first to the "
        "address of the runner's Knative Service, as `kubectl get ksvc` shows it, or the "
        "second to its namespace/name. Without a cluster, RUNNER_BACKEND=wasm needs no set-up."
    )


def _check_vouched_for(settings: Settings, cluster: Cluster) -> None:
    """Calls, and the service token, go where the API says: somebody on the way must not say it.

    Raises:
        ConfigurationError: anybody could.
    """
    token = ServiceToken.from_settings(settings).current()
    if token is None or settings.allow_insecure or cluster.is_vouched_for:
        return
    raise ConfigurationError(
        f"RUNNER_KNATIVE_SERVICE: the service token would go wherever {cluster.server} says "
        f"({cluster.source}), and nothing verifies who that is: give the cluster its "
        "certificate-authority, or set RUNNER_BASE_URL, or RUNNER_ALLOW_INSECURE=1."
    )


def _connector(settings: Settings, own: Mapping[str, Any]) -> Callable[..., RunnerClient]:
    """Makes the client of an address, whether it was set or found."""
    from runnerwsgi.client import RunnerClient, parse_base
    from runnerwsgi.retries import Retries
    from runnerwsgi.upstream import Route

    from . import answers

    variable = "RUNNER_BASE_URL" if settings.base_url else "RUNNER_KNATIVE_SERVICE"
    token, trust = ServiceToken.from_settings(settings), _trust(own["RUNNER_KNATIVE_CA_FILE"])
    # A service that moves is the same service: its calls share their budget of retries.
    retries = Retries()

    def connect(url: str, headers: tuple[tuple[str, str], ...] = ()) -> RunnerClient:
        base, _ = parse_base(url, variable)
        route = Route(
            connect_to=_door(own["RUNNER_KNATIVE_CONNECT_TO"], base),
            host=own["RUNNER_KNATIVE_HOST"],
            tls=trust,
            headers=headers,
            platform=answers.read,
            retries=retries,
        )
        return RunnerClient(
            url,
            token,
            variable=variable,
            max_response_bytes=settings.max_response_bytes,
            callback_base=settings.callback_base,
            allow_insecure=settings.allow_insecure,
            idle=settings.slots,
            route=route,
            reserve_ms=own["RUNNER_KNATIVE_COLD_START_MS"],
        )

    return connect


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
