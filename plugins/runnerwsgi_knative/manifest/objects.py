"""The objects of Kubernetes that a runner on Knative is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runnerwsgi_knative.documents import Document, Noted

from .deployment import CACHES_MB, TOKEN_KEY
from .reach import pods_of, tcp

if TYPE_CHECKING:
    from .deployment import Deployment

SERVING = "serving.knative.dev/v1"
PORT = 8080
# The image's own facts (the Dockerfile of the backend `docker`).
USER = 65532
FOLDER = "/var/lib/runnerwsgi"
SECRETS = "/run/secrets/runnerwsgi"

# Of queue-proxy, which stands before the runner in its pod: requests (HTTP/1, HTTP/2, TLS), and
# what the autoscaler and a Prometheus ask.
QUEUE_PROXY_PORTS = (8012, 8013, 8112, 9090, 9091)

# Why a field is as it is, for whoever reads or changes what was written.
REASONS: Mapping[str, str] = {
    "labels.networking.knative.dev/visibility": "No address outside of the cluster.",
    "annotations.autoscaling.knative.dev/min-scale": (
        "Those that are always there: with 0 the first call waits until a pod has started."
    ),
    "annotations.autoscaling.knative.dev/target-burst-capacity": (
        "Calls wait in the activator's long queue, not in the short one of a pod."
    ),
    "annotations.autoscaling.knative.dev/scale-to-zero-pod-retention-period": (
        "The last pod stays a while: a cold start costs seconds."
    ),
    "spec.automountServiceAccountToken": "The runner asks Kubernetes nothing.",
    "spec.containerConcurrency": (
        "What a pod executes at a time, and as many threads as RUNNER_THREADS leaves for calls."
    ),
    "spec.timeoutSeconds": (
        "Longer than the gateway waits: Knative's 504 does not say whether anything was executed."
    ),
    "readinessProbe.periodSeconds": (
        "0: asked every 50 ms while a pod starts. A startupProbe would slow each cold start."
    ),
    "secret.items": (
        "A file is read again when the Secret changes. Without a mode: the user must be able to."
    ),
}


def objects(deployment: Deployment) -> list[Document]:
    """Everything that a namespace needs, in the order in which it is needed."""
    return [
        _account(deployment),
        *([] if deployment.options.secret else [_secret(deployment)]),
        *_health(deployment),
        _network(deployment),
        _service(deployment),
        *_domain(deployment),
    ]


def _meta(deployment: Deployment, name: str = "", **more: Any) -> Document:
    options = deployment.options
    labels = {
        "app.kubernetes.io/name": "runnerwsgi",
        "app.kubernetes.io/instance": options.name,
        **more.pop("labels", {}),
    }
    return {"name": name or options.name, "namespace": options.namespace, "labels": labels, **more}


def _account(deployment: Deployment) -> Noted:
    return Noted(
        "Who the runner's pods are: nobody who may do anything.",
        apiVersion="v1",
        kind="ServiceAccount",
        metadata=_meta(deployment),
        automountServiceAccountToken=False,
    )


def _secret(deployment: Deployment) -> Noted:
    return Noted(
        "Keep this out of version control; --secret names one that comes from elsewhere instead.\n"
        "The token is the gateway's, too. It may change at any time; other values need new pods.\n"
        "Whose credentials these are should be able to read the bundle store, and no more.",
        apiVersion="v1",
        kind="Secret",
        metadata=_meta(deployment, deployment.secret_name),
        type="Opaque",
        stringData=dict(deployment.secrets),
    )


def _health(deployment: Deployment) -> Iterator[Noted]:
    """What a gateway may ask Kubernetes: how the Service and its revisions are."""
    options = deployment.options
    name = f"{options.name}-gateway"
    if options.reader is None:
        yield Noted(
            "For a gateway that asks how the runner is: its pods run as this account, which is\n"
            "of their namespace. --gateway-account names one that there is already.",
            apiVersion="v1",
            kind="ServiceAccount",
            metadata=_meta(deployment, name, namespace=deployment.gateway_namespace),
        )
    yield Noted(
        "All that it may: read.",
        apiVersion="rbac.authorization.k8s.io/v1",
        kind="Role",
        metadata=_meta(deployment, name),
        rules=[
            _may_read("services", options.name),
            # Their names are made anew with each.
            _may_read("revisions"),
        ],
    )
    namespace, account = options.reader or (deployment.gateway_namespace, name)
    yield Noted(
        'Without it the gateway works, and its health says "unknown" of the control plane.',
        apiVersion="rbac.authorization.k8s.io/v1",
        kind="RoleBinding",
        metadata=_meta(deployment, name),
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        subjects=[{"kind": "ServiceAccount", "namespace": namespace, "name": account}],
    )


def _may_read(resource: str, *names: str) -> Document:
    rule: Document = {
        "apiGroups": [SERVING.partition("/")[0]],
        "resources": [resource],
        "verbs": ["get"],
    }
    return {**rule, "resourceNames": list(names)} if names else rule


def _network(deployment: Deployment) -> Noted:
    options = deployment.options
    namespace, port = options.dns
    dns = Noted(
        "Names. --dns says where, if they are not asked here.",
        to=[pods_of(namespace, {})],
        ports=[{"protocol": "UDP", "port": port}, tcp(port)],
    )
    reached = [place.rule(options.namespace) for place in deployment.destinations]
    return Noted(
        "What the runner may reach. It executes what others wrote: this holds even for code that\n"
        "broke out of its sandbox. A network plugin has to enforce it.",
        apiVersion="networking.k8s.io/v1",
        kind="NetworkPolicy",
        metadata=_meta(deployment),
        spec={
            "podSelector": {"matchLabels": {f"{SERVING[:-3]}/service": options.name}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                Noted(
                    "Requests come through queue-proxy, which counts them, and never past it.",
                    ports=[tcp(each) for each in QUEUE_PROXY_PORTS],
                )
            ],
            "egress": [dns, *reached],
        },
    )


def _service(deployment: Deployment) -> Noted:
    return Noted(
        "The runner itself.",
        apiVersion=SERVING,
        kind="Service",
        metadata=_meta(deployment, labels={"networking.knative.dev/visibility": "cluster-local"}),
        spec={
            "template": {
                "metadata": {"annotations": _scaling(deployment)},
                "spec": _pod(deployment),
            },
            "traffic": [{"latestRevision": True, "percent": 100}],
        },
    )


def _scaling(deployment: Deployment) -> dict[str, str]:
    options = deployment.options
    scaling = {
        "metric": "concurrency",
        "target-utilization-percentage": "70",
        "min-scale": str(options.least),
        "max-scale": str(options.most),
        "scale-down-delay": "60s",
        "target-burst-capacity": "-1",
        **({} if options.least else {"scale-to-zero-pod-retention-period": "5m"}),
    }
    annotations = {f"autoscaling.knative.dev/{name}": value for name, value in scaling.items()}
    return {**annotations, "serving.knative.dev/progress-deadline": "300s"}


def _pod(deployment: Deployment) -> Document:
    pull_secret = deployment.options.pull_secret
    return {
        **({"imagePullSecrets": [{"name": pull_secret}]} if pull_secret else {}),
        "serviceAccountName": deployment.options.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containerConcurrency": deployment.options.concurrency,
        "timeoutSeconds": deployment.timeout_seconds,
        "containers": [_container(deployment)],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            # Bundles and code, and those that are being fetched and compiled.
            {"name": "home", "emptyDir": {"sizeLimit": f"{3 * CACHES_MB}Mi"}},
            {
                "name": "secrets",
                "secret": {
                    "secretName": deployment.secret_name,
                    "items": [{"key": TOKEN_KEY, "path": TOKEN_KEY}],
                },
            },
        ],
    }


def _container(deployment: Deployment) -> Document:
    return {
        "name": "runner",
        "image": deployment.options.image,
        "ports": [{"name": "http1", "containerPort": PORT}],
        "env": list(_env(deployment)),
        "resources": _resources(deployment),
        "readinessProbe": {"httpGet": {"path": "/health/readiness"}, "periodSeconds": 0},
        "livenessProbe": {
            "httpGet": {"path": "/health/liveness"},
            "initialDelaySeconds": 10,
            "periodSeconds": 10,
            "timeoutSeconds": 2,
            "failureThreshold": 3,
        },
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 # the container's own
            {"name": "home", "mountPath": FOLDER},
            {"name": "secrets", "mountPath": SECRETS, "readOnly": True},
        ],
    }


def _env(deployment: Deployment) -> Iterator[Document]:
    yield {"name": "RUNNER_SERVICE_TOKEN_FILE", "value": f"{SECRETS}/{TOKEN_KEY}"}
    # A folder in the volume: the volume itself belongs to root, and everybody may write to it.
    yield {"name": "RUNNER_HOME", "value": f"{FOLDER}/home"}
    for name, value in sorted(deployment.environment.items()):
        yield {"name": name, "value": value}
    for name in sorted(deployment.secrets.keys() - {TOKEN_KEY}):
        key = {"name": deployment.secret_name, "key": name}
        yield {"name": name, "valueFrom": {"secretKeyRef": key}}


def _resources(deployment: Deployment) -> Document:
    cpu = round(deployment.options.cpu * 1000)
    memory = deployment.memory_mib
    return {
        "requests": {"cpu": f"{min(250, cpu)}m", "memory": f"{min(512, memory)}Mi"},
        "limits": {"cpu": f"{cpu}m", "memory": f"{memory}Mi"},
    }


def _domain(deployment: Deployment) -> Iterator[Noted]:
    options = deployment.options
    if options.domain is None:
        return
    yield Noted(
        "An administrator's: which namespace may use the name.",
        apiVersion="networking.internal.knative.dev/v1alpha1",
        kind="ClusterDomainClaim",
        metadata={"name": options.domain},
        spec={"namespace": options.namespace},
    )
    spec: Document = {"ref": {"apiVersion": SERVING, "kind": "Service", "name": options.name}}
    if options.tls_secret:
        spec["tls"] = {"secretName": options.tls_secret}
    yield Noted(
        "Publishes the runner, although it is cluster-local: its UI files to everybody, calls to\n"
        "whoever has the token.",
        apiVersion="serving.knative.dev/v1beta1",
        kind="DomainMapping",
        metadata=_meta(deployment, options.domain),
        spec=spec,
    )
