"""What `runnerwsgi doctor` looks at where the backend is ``knative``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from runnerwsgi.errors import BackendUnreachable, RunnerError
from runnerwsgi.protocol import Finding
from runnerwsgi.stores import is_remote

from . import agreement, layers
from . import state as states
from .kubernetes.problems import ADVICE

if TYPE_CHECKING:
    from runnerwsgi.client import Kind, RunnerClient, RunnerState
    from runnerwsgi.settings import Settings

    from .control import Control
    from .place import Place
    from .state import State

# What a look takes beside the start of a pod.
LOOK_SECONDS = 2.0
PLACE_SECONDS = 6.0
# What fails to give a service its address, and has told so.
_ADDRESSED_BY = ("kubernetes", "tag")
_LOOPBACK = re.compile(r"https?://(?:localhost|127\.[0-9.]+|\[::1\])(?::|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Setup:
    """What the checks look at.

    Attributes:
        settings: the gateway's own.
        env: where they came from.
        cold_start_ms: what a call leaves for the start of a pod.
        place: where the service is.
        tag: of the traffic that is called.
        control: what is deployed; None where no Service is named.
    """

    settings: Settings
    env: Mapping[str, str]
    cold_start_ms: int
    place: Place
    tag: str | None = None
    control: Control | None = None


def findings(setup: Setup) -> Iterator[Finding]:
    """Look at everything. The runner itself is asked, for which a pod is started if need be."""
    yield from callbacks(setup)
    yield from bundles(setup)
    try:
        client = setup.place.client(PLACE_SECONDS)
    except BackendUnreachable as exc:
        found = list(deployed(setup, None))
        yield from found
        if not any(one.state == "fail" and one.what in _ADDRESSED_BY for one in found):
            fix = "mend what keeps Kubernetes from telling the address, or set RUNNER_BASE_URL."
            yield Finding("fail", "runner", str(exc), fix)
        return
    state = client.probe(LOOK_SECONDS + setup.cold_start_ms / 1000)
    yield from proxy(setup, client)
    yield from runner(client, state)
    yield from deployed(setup, state.about.get("slots"))


def proxy(setup: Setup, client: RunnerClient) -> Iterator[Finding]:
    """No proxy of the environment makes other programs go another way than the gateway."""
    scheme, host = client.origin.scheme, client.origin.host
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    name = next((name for name in names if setup.env.get(name)), None)
    spared = setup.env.get("no_proxy") or setup.env.get("NO_PROXY") or ""
    if name is None or _is_spared(host, spared):
        yield Finding("ok", "proxy", f"none for {host}")
        return
    yield Finding(
        "warn",
        "proxy",
        f"{name} is set: curl and others go through it to {host}, and the gateway never does",
        f"add {host} to NO_PROXY, so that all go one way. A runner that is behind the proxy "
        "cannot be reached.",
    )


def _is_spared(host: str, spared: str) -> bool:
    """Whether NO_PROXY has *host*, one of the domains that it is in, or everything."""
    names = [name.strip().lstrip(".") for name in spared.split(",")]
    return "*" in names or any(f".{host}".endswith(f".{name}") for name in names if name)


def callbacks(setup: Setup) -> Iterator[Finding]:
    """Extensions in a pod can ask this gateway for storage, secrets and the like."""
    base = setup.settings.callback_base
    fix = "set it to where pods find this gateway, as http://gateway.web.svc.cluster.local:8000."
    if base is None:
        found = "RUNNER_CALLBACK_BASE is not set: extensions in pods have no storage and no secrets"
        yield Finding("warn", "callbacks", found, fix)
    elif base.startswith("unix:") or _LOOPBACK.match(base):
        found = f"RUNNER_CALLBACK_BASE={base} is on this machine, and pods are not"
        yield Finding("fail", "callbacks", found, fix)
    else:
        yield Finding("ok", "callbacks", f"pods ask {base}")


def bundles(setup: Setup) -> Iterator[Finding]:
    """What is installed here is where pods find it."""
    store = setup.settings.bundle_store
    if is_remote(setup.settings):
        yield Finding("ok", "bundles", f"pods fetch them from {store}")
        return
    found = f"RUNNER_BUNDLE_STORE is {store}, a folder of this machine, which pods do not have"
    fix = "set it to s3://bucket/prefix or https://…, here and for the runner, then push."
    yield Finding("warn", "bundles", found, fix)


# What each answer to a look at the runner is, and what to do about it.
_STATES: Mapping[Kind, tuple[Literal["ok", "warn", "fail"], str]] = {
    "ok": ("ok", ""),
    "degraded": ("warn", "see what it says of itself."),
    "unavailable": ("fail", "see what it says of itself."),
    "no-name": (
        "fail",
        "names of a cluster are known in its pods only: elsewhere set RUNNER_KNATIVE_CONNECT_TO to "
        "the address of the cluster's ingress.",
    ),
    "no-route": (
        "fail",
        "`kubectl get ksvc` shows the service's URLs: RUNNER_BASE_URL or RUNNER_KNATIVE_HOST has "
        "to be the host of one of them.",
    ),
    "refused": ("fail", "set RUNNER_BASE_URL or RUNNER_KNATIVE_CONNECT_TO to where it listens."),
    "tls": ("fail", "set RUNNER_KNATIVE_CA_FILE to the certificates of who signed the ingress's."),
    "silent": (
        "fail",
        "`kubectl get pods` shows whether one starts; raise RUNNER_KNATIVE_COLD_START_MS where "
        "they take longer.",
    ),
    "starting": ("fail", "`kubectl get pods` shows whether one starts; `kubectl logs` why not."),
    "no-runner": ("fail", "correct RUNNER_BASE_URL: something else answers there."),
    "wrong-token": (
        "fail",
        "give gateway and runner the same token: RUNNER_SERVICE_TOKEN_FILE here, and the Secret "
        "that the Service mounts. Pods read a Secret that changed within a minute or two.",
    ),
}


def runner(client: RunnerClient, state: RunnerState) -> Iterator[Finding]:
    """A runner answers at the address, and takes the token."""
    how, fix = _STATES[state.kind]
    told = _told(state)
    where = "" if client.base in told else f"{client.base}: "
    yield Finding(how, "runner", f"{where}{told}", fix)
    if how == "ok" and state.about:
        yield from keys(client)


def _told(state: RunnerState) -> str:
    version = state.about.get("version")
    parts = (
        state.kind if state.kind in ("ok", "degraded", "unavailable") else "",
        state.detail,
        f"version {version}" if version else "",
        *(f"{name} {text}" for name, text in state.checks.items() if state.kind != "ok"),
    )
    return ", ".join(filter(None, parts))


def keys(client: RunnerClient) -> Iterator[Finding]:
    """What an ingress sends twice is executed once, whichever pod gets it."""
    try:
        answer = client.look("/health/liveness")
    except RunnerError:
        return  # it answered a moment ago, and nothing is known of this
    if answer.headers.get("x-runner-idempotency") == "process":
        yield Finding(
            "warn",
            "idempotency",
            "each pod knows its own keys only: what an ingress sends twice, two pods may execute",
            "give the runner a RUNNER_IDEMPOTENCY_URL that its pods share, redis://… or a "
            "database's.",
        )


def deployed(setup: Setup, slots: object) -> Iterator[Finding]:
    """What is deployed fits the gateway's settings."""
    if setup.control is None:
        text = "not asked what is deployed: RUNNER_KNATIVE_SERVICE is not set"
        yield Finding("ok", "kubernetes", text)
        return
    sight = setup.control.look()
    if not sight.service:
        yield _of_state(sight.state)
        return
    # A Service that is there and counts as absent lacks the tag, which has a finding of its own.
    lacks_tag = sight.state.word == "absent"
    yield _of_state(states.of(sight.service, sight.revisions) if lacks_tag else sight.state)
    wanted = agreement.Wanted(
        host=_asked_host(setup),
        tag=setup.tag,
        timeout_ms=setup.settings.timeout_ms,
        cold_start_ms=setup.cold_start_ms,
        slots=slots if isinstance(slots, int) else None,
    )
    yield from agreement.findings(wanted, sight.service, sight.revisions)


def _asked_host(setup: Setup) -> str | None:
    """The host by which the service is asked for; None where Kubernetes says it."""
    client = setup.place.known
    if client is None or not setup.settings.base_url:
        return None
    return (client.route.host or client.origin.host).partition(":")[0]


def _of_state(state: State) -> Finding:
    """How the Service is. What may not be asked harms no call."""
    layer = layers.of_state(state)
    how: Literal["ok", "warn", "fail"] = _LAYERS[layer.means]
    detail, advice = _split(state.detail)
    told = detail if state.word == "unknown" else f"{state.word}: {detail}"
    return Finding(how, "kubernetes", told, "" if how == "ok" else advice)


_LAYERS: Mapping[str | None, Literal["ok", "warn", "fail"]] = {
    "ok": "ok",
    "degraded": "warn",
    "unavailable": "fail",
    None: "warn",
}


def _split(detail: str) -> tuple[str, str]:
    """What a problem is, and what to do about it."""
    for advice in ADVICE.values():
        if detail.endswith(advice):
            return detail.removesuffix(advice).rstrip(), advice
    return detail, "`runnerwsgi knative status` shows the conditions."
