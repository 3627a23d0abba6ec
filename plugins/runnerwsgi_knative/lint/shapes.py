"""What a Knative Service may consist of: which fields of Kubernetes, and why not the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .tree import EACH

POD = ("spec", "template", "spec")
CONTAINER = (*POD, "containers", EACH)
ENV = (*CONTAINER, "env", EACH)
PORT = (*CONTAINER, "ports", EACH)
MOUNT = (*CONTAINER, "volumeMounts", EACH)
SECURITY = (*CONTAINER, "securityContext")
VOLUME = (*POD, "volumes", EACH)
TRAFFIC = ("spec", "traffic", EACH)
PROBES = tuple((*CONTAINER, name) for name in ("readinessProbe", "livenessProbe", "startupProbe"))

_METADATA = (
    "name generateName namespace labels annotations finalizers ownerReferences "
    # What `kubectl get` shows besides.
    "uid resourceVersion generation creationTimestamp deletionTimestamp "
    "deletionGracePeriodSeconds managedFields selfLink"
)
_BY_SCALING = "it places and replaces pods by itself"
_HOST = "it opens the node to the container"
_SECURITY = "it weakens the container's isolation"
_VOLUME = "pods come and go: a volume may be a secret, configMap, projected or emptyDir"

# Fields that an administrator may allow, in the ConfigMap config-features.
FLAGS: Mapping[str, str] = {
    "affinity": "kubernetes.podspec-affinity",
    "csi": "kubernetes.podspec-volumes-csi",
    "dnsConfig": "kubernetes.podspec-dnsconfig",
    "dnsPolicy": "kubernetes.podspec-dnspolicy",
    "fieldRef": "kubernetes.podspec-fieldref",
    "hostAliases": "kubernetes.podspec-hostaliases",
    "hostIPC": "kubernetes.podspec-hostipc",
    "hostNetwork": "kubernetes.podspec-hostnetwork",
    "hostPID": "kubernetes.podspec-hostpid",
    "hostPath": "kubernetes.podspec-volumes-hostpath",
    "image": "kubernetes.podspec-volumes-image",
    "initContainers": "kubernetes.podspec-init-containers",
    "mountPropagation": "kubernetes.podspec-volumes-mount-propagation",
    "nodeSelector": "kubernetes.podspec-nodeselector",
    "persistentVolumeClaim": "kubernetes.podspec-persistent-volume-claim",
    "priorityClassName": "kubernetes.podspec-priorityclassname",
    "resourceFieldRef": "kubernetes.podspec-fieldref",
    "runtimeClassName": "kubernetes.podspec-runtimeclassname",
    "schedulerName": "kubernetes.podspec-schedulername",
    "securityContext": "kubernetes.podspec-securitycontext",
    "shareProcessNamespace": "kubernetes.podspec-shareprocessnamespace",
    "tolerations": "kubernetes.podspec-tolerations",
    "topologySpreadConstraints": "kubernetes.podspec-topologyspreadconstraints",
    "add": "kubernetes.containerspec-addcapabilities",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of one kind of mapping.

    Attributes:
        where: it stands.
        allowed: what it may have, as words.
        refused: what Kubernetes knows there and Knative does not take, with the reason.
        rest: why everything else is refused; empty where Kubernetes does not know it either, so
            that it is dropped without a word.
    """

    where: tuple[str, ...]
    allowed: str
    refused: Mapping[str, str] = field(default_factory=dict)
    rest: str = ""


SHAPES: tuple[Shape, ...] = (
    Shape((), "apiVersion kind metadata spec status"),
    Shape(("metadata",), _METADATA),
    Shape(("spec",), "template traffic"),
    Shape(("spec", "template"), "metadata spec"),
    Shape(("spec", "template", "metadata"), "name namespace labels annotations finalizers"),
    Shape(
        POD,
        "containers volumes serviceAccountName imagePullSecrets enableServiceLinks "
        "automountServiceAccountToken containerConcurrency timeoutSeconds "
        "responseStartTimeoutSeconds idleTimeoutSeconds",
        {
            "terminationGracePeriodSeconds": "it is timeoutSeconds",
            "activeDeadlineSeconds": "pods serve until they are scaled away",
            "restartPolicy": "a runner that ends is always started again",
            "hostNetwork": _HOST,
            "hostPID": _HOST,
            "hostIPC": _HOST,
            "hostUsers": "user namespaces are not offered",
            "hostname": "a pod has no name of its own",
            "subdomain": "a pod has no name of its own",
            "nodeName": _BY_SCALING,
            "nodeSelector": _BY_SCALING,
            "affinity": _BY_SCALING,
            "tolerations": _BY_SCALING,
            "topologySpreadConstraints": _BY_SCALING,
            "schedulerName": _BY_SCALING,
            "priority": _BY_SCALING,
            "priorityClassName": _BY_SCALING,
            "runtimeClassName": "the cluster's runtime is used",
            "readinessGates": "queue-proxy tells when a pod is ready",
            "securityContext": "set it for the container; fsGroup cannot be had",
            "initContainers": "they would lengthen every cold start",
            "ephemeralContainers": "they are added to pods that run",
            "dnsPolicy": "the cluster's DNS is used",
            "dnsConfig": "the cluster's DNS is used",
            "hostAliases": "the cluster's DNS is used",
            "shareProcessNamespace": _SECURITY,
            "serviceAccount": "it is an older name: write serviceAccountName",
        },
    ),
    Shape(
        CONTAINER,
        "name image imagePullPolicy command args workingDir env envFrom ports resources "
        "readinessProbe livenessProbe startupProbe securityContext volumeMounts "
        "terminationMessagePath terminationMessagePolicy",
        {
            "lifecycle": "it sets preStop itself, so that pods end without losing calls",
            "stdin": "nobody is attached to a pod that scales",
            "stdinOnce": "nobody is attached to a pod that scales",
            "tty": "nobody is attached to a pod that scales",
            "volumeDevices": _VOLUME,
            "resizePolicy": _BY_SCALING,
            "restartPolicy": "a runner that ends is always started again",
        },
    ),
    Shape(
        PORT,
        "name containerPort protocol",
        {"hostPort": _HOST, "hostIP": _HOST},
    ),
    Shape(ENV, "name value valueFrom"),
    Shape(
        (*ENV, "valueFrom"),
        "configMapKeyRef secretKeyRef",
        {
            "fieldRef": "a value is a text, or comes from a Secret or a ConfigMap",
            "resourceFieldRef": "a value is a text, or comes from a Secret or a ConfigMap",
        },
    ),
    Shape((*ENV, "valueFrom", "configMapKeyRef"), "name key optional"),
    Shape((*ENV, "valueFrom", "secretKeyRef"), "name key optional"),
    Shape(
        (*CONTAINER, "resources"),
        "limits requests",
        {"claims": "devices cannot be claimed"},
    ),
    *(
        Shape(
            probe,
            "httpGet tcpSocket exec grpc initialDelaySeconds periodSeconds timeoutSeconds "
            "successThreshold failureThreshold",
            {"terminationGracePeriodSeconds": "it is timeoutSeconds of the revision"},
        )
        for probe in PROBES
    ),
    *(Shape((*probe, "httpGet"), "path port host scheme httpHeaders") for probe in PROBES),
    *(Shape((*probe, "tcpSocket"), "port host") for probe in PROBES),
    *(Shape((*probe, "exec"), "command") for probe in PROBES),
    Shape(
        SECURITY,
        "runAsUser runAsGroup runAsNonRoot readOnlyRootFilesystem allowPrivilegeEscalation "
        "capabilities seccompProfile privileged",
        {
            "seLinuxOptions": _SECURITY,
            "procMount": _SECURITY,
            "windowsOptions": "the containers are Linux",
            "appArmorProfile": "the cluster's default is used",
        },
    ),
    Shape((*SECURITY, "capabilities"), "drop", {"add": _SECURITY}),
    Shape(
        MOUNT,
        "name mountPath readOnly subPath",
        {
            "subPathExpr": "it needs fields of the pod, which are not given",
            "mountPropagation": _HOST,
            "recursiveReadOnly": "readOnly is all there is",
        },
    ),
    Shape(VOLUME, "name secret configMap projected emptyDir", rest=_VOLUME),
    Shape((*VOLUME, "secret"), "secretName items optional defaultMode"),
    Shape((*VOLUME, "configMap"), "name items optional defaultMode"),
    Shape((*VOLUME, "projected"), "sources defaultMode"),
    Shape((*VOLUME, "emptyDir"), "medium sizeLimit"),
    Shape(
        TRAFFIC,
        "revisionName latestRevision percent tag",
        {
            "url": "it writes this itself, into status.traffic",
            "configurationName": "it is for Routes: a Service has one configuration",
        },
    ),
)
