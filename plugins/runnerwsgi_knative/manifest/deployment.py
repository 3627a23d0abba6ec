"""What an environment and the options of `runnerwsgi knative manifest` ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from runnerwsgi.errors import ConfigurationError
from runnerwsgi.service_token import ServiceToken
from runnerwsgi.settings import SETTINGS as SHARED
from runnerwsgi.settings import Settings
from runnerwsgi.stores import is_remote
from runnerwsgi_knative.agreement import MOST_SECONDS, SPARE_SECONDS
from runnerwsgi_knative.lint.hazards import ENDING_SECONDS

from .reach import Destination, Network, namespace_of, unique

# Settings that mean the same for the runner, and are passed on where they are set. Threads do not:
# the gateway's number counts its own server's.
PASSED = (
    "RUNNER_ALLOW_INSECURE",
    "RUNNER_IDEMPOTENCY_TTL_S",
    "RUNNER_LOG_LEVEL",
    "RUNNER_MAX_ASSET_BYTES",
    "RUNNER_MAX_BODY_BYTES",
    "RUNNER_MAX_RESPONSE_BYTES",
    "RUNNER_MEMORY_MB",
    "RUNNER_PUBLIC_ORIGINS",  # who may frame a page that it serves itself
    "RUNNER_TIMEOUT_MS",
)
# How boto3 finds a bucket; whose it is, is among the secrets.
PASSED_FOR_S3 = ("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION")
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "RUNNER_BUNDLE_STORE_TOKEN")
IDEMPOTENCY = "RUNNER_IDEMPOTENCY_URL"
# Of the Secret: the file of the service token. All others are named as their variables.
TOKEN_KEY = "token"  # noqa: S105 # a name

# Threads for UI files and health, beside those that calls may have.
RESERVED_THREADS = 6
# The runner itself, and what it compiles.
BASE_MEMORY_MIB = 1024
# Compiled code, and bundles: what the pod's folder of its own holds at most.
CACHES_MB = 1024
# timeoutSeconds is also the time that a pod has to end in, beside the longest call.
MARGIN_SECONDS = ENDING_SECONDS + SPARE_SECONDS

_NO_HOST = (
    "--address {}: nothing that the runner has to reach is there. It names a host of "
    "RUNNER_CALLBACK_BASE, RUNNER_BUNDLE_STORE, RUNNER_IDEMPOTENCY_URL or RUNNER_EGRESS_ALLOW."
)
_LOCAL_KEYS = ("memory:", "sqlite")
_MAKE_TOKEN = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > token"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Options:
    """What is typed, for lack of a setting.

    Attributes:
        namespace, name: of the Knative Service.
        image: with its registry.
        concurrency: calls that a pod executes at a time.
        least, most: pods.
        cpu: processors of a pod.
        memory_mib: of a pod; None for as much as its calls may need.
        secret: the name of a Secret that is there already.
        pull_secret: the name of a Secret with which the image is pulled.
        reader: namespace and name of the gateway's ServiceAccount, where it has one.
        gateway_port: of the gateway's pods; None for that of its address.
        gateway_labels: of the gateway's pods.
        networks: the addresses of hosts whose names do not tell them.
        dns: the namespace of the cluster's DNS, and its pods' port.
        domain: a public name of the runner.
        tls_secret: the name of that domain's certificate.
    """

    namespace: str
    name: str
    image: str
    concurrency: int
    least: int
    most: int
    cpu: float
    memory_mib: int | None
    secret: str | None
    pull_secret: str | None
    reader: tuple[str, str] | None
    gateway_port: int | None
    gateway_labels: tuple[tuple[str, str], ...]
    networks: Mapping[str, tuple[Network, ...]]
    dns: tuple[str, int]
    domain: str | None
    tls_secret: str | None


@dataclass(frozen=True, slots=True)
class Deployment:
    """A runner on Knative, before anything is written of it.

    Example::

        Deployment.from_env(os.environ, options).destinations

    Attributes:
        options: what was typed.
        environment: the container's variables, but for those below.
        secrets: its secret ones, by variable, and the service token under ``token``; without
            values where they are in a Secret that is there already.
        destinations: what it has to reach.
        gateway_namespace: where the gateway's pods are; the runner's own where nothing tells it.
        timeout_seconds: after which the platform gives a request up.
        memory_mib: of a pod.
    """

    options: Options
    environment: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)
    destinations: tuple[Destination, ...]
    gateway_namespace: str
    timeout_seconds: int
    memory_mib: int

    @classmethod
    def from_env(cls, env: Mapping[str, str], options: Options) -> Self:
        """The runner for a gateway of this environment.

        Raises:
            ConfigurationError: with everything that is missing, or fits no pod.
        """
        settings = Settings.from_env(env)
        asked = _Asked(settings, env, options)
        found: dict[str, Any] = {}
        faults: list[str] = []
        for name, ask in asked.parts().items():
            try:
                found[name] = ask()
            except ConfigurationError as exc:
                faults += exc.faults
        if faults:
            raise ConfigurationError(faults=tuple(faults))
        return cls(options, **found)

    @property
    def secret_name(self) -> str:
        """The Secret that the pods get their secrets from."""
        return self.options.secret or f"{self.options.name}-secrets"

    @property
    def asks_for_a_role(self) -> bool:
        """Whether bundles are in S3, and nobody's keys are given."""
        is_s3 = self.environment["RUNNER_BUNDLE_STORE"].lower().startswith("s3://")
        return is_s3 and "AWS_ACCESS_KEY_ID" not in self.secrets


@dataclass(frozen=True, slots=True)
class _Asked:
    settings: Settings
    env: Mapping[str, str]
    options: Options

    def parts(self) -> dict[str, Callable[[], Any]]:
        return {
            "environment": self.environment,
            "secrets": self.secrets,
            "destinations": self.destinations,
            "gateway_namespace": self.gateway_namespace,
            "timeout_seconds": self.timeout_seconds,
            "memory_mib": self.memory_mib,
        }

    def environment(self) -> dict[str, str]:
        calls = self.options.concurrency
        names = PASSED + (PASSED_FOR_S3 if self._is_s3 else ())
        return {
            "RUNNER_BUNDLE_STORE": self.settings.bundle_store,
            "RUNNER_THREADS": str(calls + RESERVED_THREADS),
            "RUNNER_RESERVED_THREADS": str(RESERVED_THREADS),
            "RUNNER_MAX_PER_EXTENSION": str(calls),
            "RUNNER_BUNDLE_CACHE_MB": str(CACHES_MB),
            "RUNNER_WASM_CACHE_MB": str(CACHES_MB),
            **{name: self.env[name] for name in names if self.env.get(name)},
        }

    def secrets(self) -> dict[str, str]:
        found = {TOKEN_KEY: self._token()}
        if self.settings.idempotency_url != "memory:":
            found[IDEMPOTENCY] = self.settings.idempotency_url
        found |= {name: self.env[name] for name in self._credentials()}
        return dict.fromkeys(found, "") if self.options.secret else found

    def _token(self) -> str:
        token = ServiceToken.from_settings(self.settings).current()
        if token is None and self.options.secret is None:
            raise ConfigurationError(
                "No service token is set, and without one whoever reaches the runner may run "
                f"extensions: make one with `{_MAKE_TOKEN}`, and name that file in "
                "RUNNER_SERVICE_TOKEN_FILE, here and for the gateway; or name a Secret that is "
                "in the cluster already with --secret."
            )
        return token.reveal() if token else ""

    def _credentials(self) -> Iterator[str]:
        if self._is_s3 and self.env.get("AWS_SESSION_TOKEN") and not self.options.secret:
            raise ConfigurationError(
                "AWS_SESSION_TOKEN is set: such credentials end within hours, and pods would keep "
                "them. Use lasting ones that may only read the bucket; or unset AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, and give the pods' ServiceAccount a "
                "role."
            )
        for name in CREDENTIALS:
            if self.env.get(name) and name.startswith("AWS_") == self._is_s3:
                yield name

    def destinations(self) -> tuple[Destination, ...]:
        places: list[Destination] = []
        faults: list[str] = []
        for find in (self._gateway, self._store, self._keys, self._egress):
            try:
                places += find()
            except ConfigurationError as exc:
                faults += exc.faults
        hosts = {place.host for place in places}
        faults += [_NO_HOST.format(host) for host in self.options.networks if host not in hosts]
        if faults:
            raise ConfigurationError(faults=tuple(faults))
        return tuple(unique(map(self._placed, places)))

    def _placed(self, place: Destination) -> Destination:
        networks = self.options.networks.get(place.host, ())
        return Destination(place.what, place.host, place.port, networks, place.labels)

    def gateway_namespace(self) -> str:
        base = self.settings.callback_base or ""
        return namespace_of(urlsplit(base).hostname or "") or self.options.namespace

    def _gateway(self) -> list[Destination]:
        base = self.settings.callback_base
        if base is None or base.startswith("unix:"):
            raise ConfigurationError(
                "RUNNER_CALLBACK_BASE is not the address at which pods reach the gateway, so no "
                "extension could store or read anything: set it to an origin such as "
                "http://shop.web.svc:8000, here and for the gateway."
            )
        place = Destination.from_url("RUNNER_CALLBACK_BASE", base)
        port = self.options.gateway_port or place.port
        return [Destination("The gateway", place.host, port, labels=self.options.gateway_labels)]

    @property
    def _is_s3(self) -> bool:
        return self.settings.bundle_store.lower().startswith("s3://")

    def _store(self) -> list[Destination]:
        if not is_remote(self.settings):
            raise ConfigurationError(
                f"RUNNER_BUNDLE_STORE is {self.settings.bundle_store}, a folder of this machine, "
                "which pods do not have: set it to s3://bucket/prefix or https://…, here and for "
                "the gateway, and `runnerwsgi push` what is installed."
            )
        what, url = "The bundle store", self.settings.bundle_store
        if self._is_s3:
            url = self.env.get("AWS_ENDPOINT_URL_S3") or self.env.get("AWS_ENDPOINT_URL") or ""
        if not url:
            return [Destination(f"{what} ({self.settings.bundle_store})", "", 443)]
        if "@" in url or "?" in url:
            raise ConfigurationError(
                "The address of the bundle store has a user or a query, which everybody who may "
                "look at the Service would read: leave it away, and use RUNNER_BUNDLE_STORE_TOKEN "
                "or AWS_ACCESS_KEY_ID."
            )
        place = Destination.from_url("The address of the bundle store", url)
        return [Destination(what, place.host, place.port)]

    def _keys(self) -> list[Destination]:
        url = self.settings.idempotency_url
        if not url.startswith(_LOCAL_KEYS):
            place = Destination.from_url(IDEMPOTENCY, url)
            return [Destination("The idempotency store", place.host, place.port)]
        if self.options.most == 1 and url == "memory:":
            return []
        raise ConfigurationError(
            f"{IDEMPOTENCY} is {url}, which one pod alone sees: an ingress that repeats a call "
            "may have it executed twice. Set it to redis://… or the URL of a database; for a "
            "trial, --max-scale 1 makes do with memory: as long as its pod lives."
        )

    def _egress(self) -> list[Destination]:
        entries = self.settings.egress_allow
        places = [Destination.from_url("RUNNER_EGRESS_ALLOW", entry) for entry in entries]
        return [Destination("Extensions, by http.fetch", p.host, p.port) for p in places]

    def timeout_seconds(self) -> int:
        deadline = -(-self.settings.timeout_ms // 1000)
        if deadline + SPARE_SECONDS > MOST_SECONDS:
            raise ConfigurationError(
                f"RUNNER_TIMEOUT_MS is {self.settings.timeout_ms}, and Knative gives a request up "
                f"after {MOST_SECONDS} s unless an administrator allows more: set it to "
                f"{(MOST_SECONDS - SPARE_SECONDS) * 1000} at most."
            )
        return min(deadline + MARGIN_SECONDS, MOST_SECONDS)

    def memory_mib(self) -> int:
        calls = self.options.concurrency * self.settings.memory_mb
        return self.options.memory_mib or BASE_MEMORY_MIB + calls


if missing := set(PASSED) - {row.name for row in SHARED}:
    raise AssertionError(f"There are no such settings to pass on: {missing}.")
