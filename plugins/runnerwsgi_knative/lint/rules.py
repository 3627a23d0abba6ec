"""What the values in a Knative Service have to be, each with its reason."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .remarks import IGNORED, REFUSED, UNWISE
from .shapes import CONTAINER, ENV, MOUNT, POD, PORT, PROBES, SECURITY, TRAFFIC, VOLUME
from .tree import EACH

Holds = Callable[[Any], bool]

SERVICE_NOTES = ("metadata", "annotations")
POD_NOTES = ("spec", "template", "metadata", "annotations")

_DNS_1035 = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s|us|µs|ns))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")
_SECONDS = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_RESERVED_PORTS = (8008, 8012, 8013, 8022, 9090, 9091)
_RESERVED_ENV = ("PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION")
_RESERVED_PATHS = ("/", "/dev", "/dev/log")


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for a value, wherever it stands.

    Attributes:
        where: as :func:`~runnerwsgi_knative.lint.tree.find` takes it.
        holds: whether a value is right.
        reason: what it should be, and why.
        effect: of a value that is not.
    """

    where: tuple[str, ...]
    holds: Holds
    reason: str
    effect: str = REFUSED


def whole(low: int, high: int = 2**31 - 1) -> Holds:
    """A whole number in a range."""
    return lambda value: type(value) is int and low <= value <= high


def none_of(*words: object) -> Holds:
    """Anything else than a few values."""
    return lambda value: value not in words


def one_of(*words: object) -> Holds:
    """One of a few values."""
    return lambda value: value in words


def is_text(value: object) -> bool:
    """A text; YAML takes ``1`` and ``true`` for something else."""
    return isinstance(value, str)


def is_name(value: object) -> bool:
    """A label of DNS that begins with a letter (RFC 1035)."""
    return isinstance(value, str) and _DNS_1035.fullmatch(value) is not None


def _is_free_path(value: object) -> bool:
    if not isinstance(value, str) or not value.startswith("/"):
        return False
    return posixpath.normpath(value).replace("//", "/") not in _RESERVED_PATHS


_QUOTE = "it has to be a text: put it in quotes"

RULES: tuple[Rule, ...] = (
    Rule(
        ("apiVersion",),
        one_of("serving.knative.dev/v1"),
        "older versions are not served any more: write serving.knative.dev/v1",
    ),
    Rule(
        ("metadata", "name"),
        is_name,
        "a Service's name becomes part of a host name: 63 small "
        "letters, digits and dashes at most, a letter first and no dot",
    ),
    Rule((*SERVICE_NOTES, EACH), is_text, _QUOTE),
    Rule((*POD_NOTES, EACH), is_text, _QUOTE),
    Rule(("metadata", "labels", EACH), is_text, _QUOTE),
    Rule(("spec", "template", "metadata", "labels", EACH), is_text, _QUOTE),
    Rule(
        ("metadata", "labels", "networking.knative.dev/visibility"),
        one_of("cluster-local"),
        "the only value is cluster-local; without the label the Service is public",
    ),
    Rule(
        (*POD, "timeoutSeconds"),
        whole(0, 600),
        "600 at most, unless an administrator sets max-revision-timeout-seconds in config-defaults",
    ),
    Rule(
        (*POD, "containerConcurrency"),
        whole(0, 1000),
        "0 to 1000, unless an administrator sets "
        "container-concurrency-max-limit in config-defaults",
    ),
    Rule((*POD, "responseStartTimeoutSeconds"), whole(0), "a number of seconds"),
    Rule((*POD, "idleTimeoutSeconds"), whole(0), "a number of seconds"),
    Rule(
        (*POD, "automountServiceAccountToken"),
        one_of(False),
        "only false is taken: a runner needs no token of Kubernetes",
    ),
    Rule((*CONTAINER, "name"), none_of("queue-proxy"), "queue-proxy is Knative's own container"),
    Rule((*PORT, "containerPort"), whole(1, 65535), "a port is a number from 1 to 65535"),
    Rule(
        (*PORT, "containerPort"),
        none_of(*_RESERVED_PORTS),
        "queue-proxy has this port: 8008, 8012, 8013, 8022, 9090 and 9091 are its own",
    ),
    Rule(
        (*PORT, "containerPort"),
        none_of(8112),
        "queue-proxy takes this port when the cluster encrypts its own traffic",
        UNWISE,
    ),
    Rule((*PORT, "name"), one_of("", "http1", "h2c"), "the name says the protocol: http1 or h2c"),
    Rule((*PORT, "protocol"), one_of("", "TCP"), "only TCP is served"),
    Rule((*ENV, "name"), none_of(*_RESERVED_ENV), "Knative sets it itself"),
    Rule((*ENV, "value"), is_text, _QUOTE),
    Rule((*SECURITY, "privileged"), one_of(False), "a privileged container is not isolated"),
    Rule((*SECURITY, "runAsUser"), whole(0), "a number"),
    Rule((*SECURITY, "runAsGroup"), whole(0), "a number"),
    Rule(
        (*SECURITY, "capabilities", "drop", EACH),
        none_of("all"),
        "no capability is dropped: write ALL in capitals",
        IGNORED,
    ),
    Rule((*MOUNT, "mountPath"), _is_free_path, "an absolute path, and not /, /dev or /dev/log"),
    Rule(
        (*MOUNT, "subPath"),
        one_of(""),
        "a file that is mounted alone stays as it was when the pod began: mount the folder",
        UNWISE,
    ),
    Rule((*VOLUME, "emptyDir", "medium"), one_of("", "Memory"), "the medium is Memory or nothing"),
    Rule((*TRAFFIC, "percent"), whole(0, 100), "a share of 100"),
    Rule(
        (*TRAFFIC, "tag"),
        is_name,
        "a tag becomes part of a host name: small letters, digits and dashes, a letter first",
    ),
    *(
        Rule(
            (*probe, "exec"),
            lambda value: False,
            "it starts a program for each look, and slows every cold start: use httpGet",
            UNWISE,
        )
        for probe in PROBES
    ),
)


def number(low: float, high: float = float("inf")) -> Holds:
    """The text of a number in a range."""

    def holds(value: Any) -> bool:
        try:
            return low <= float(value) <= high
        except (TypeError, ValueError):
            return False

    return holds


def digits(low: int) -> Holds:
    """The text of a whole number from *low* on."""
    return lambda value: bool(re.fullmatch("[0-9]{1,10}", str(value))) and low <= int(value) < 2**31


def duration(low: float, high: float) -> Holds:
    """The text of a time such as ``60s`` or ``1h30m``, in whole seconds."""

    def holds(value: Any) -> bool:
        if value == "0":
            return low <= 0
        if not isinstance(value, str) or not _DURATION.fullmatch(value):
            return False
        seconds = sum(float(count) * _SECONDS[unit] for count, unit in _PART.findall(value))
        return low <= seconds <= high and seconds == int(seconds)

    return holds


def any_value(value: object) -> bool:
    """Whatever it is: another rule judges it, or nobody does."""
    return True


_PODS = "a number of pods, as text"
_HOUR = 3600.0

# The annotations of a revision for its autoscaler, by their names after autoscaling.knative.dev/,
# each with what it should be.
AUTOSCALING: Mapping[str, tuple[Holds, str]] = {
    "class": (any_value, ""),
    "metric": (any_value, ""),
    "metric-aggregation-algorithm": (any_value, ""),
    "min-scale": (digits(0), _PODS),
    "max-scale": (digits(0), _PODS),
    "activation-scale": (digits(2), "a number of pods from 2 on, as text"),
    "initial-scale": (
        digits(1),
        'at least "1", unless an administrator sets allow-zero-initial-scale in config-autoscaler',
    ),
    "scale-down-delay": (duration(0, _HOUR), "whole seconds up to an hour, such as 60s"),
    "scale-to-zero-pod-retention-period": (duration(0, _HOUR), "up to an hour, such as 5m"),
    "window": (duration(6, _HOUR), "whole seconds from 6s to 1h"),
    "target": (number(0.01), "at least 0.01 calls, or calls a second"),
    "target-utilization-percentage": (number(1, 100), "a percentage from 1 to 100"),
    "target-burst-capacity": (
        lambda value: number(0)(value) or number(-1, -1)(value),
        "a number of calls, or -1 for any",
    ),
    "panic-window-percentage": (number(1, 100), "a percentage from 1 to 100"),
    "panic-threshold-percentage": (number(110, 1000), "a percentage from 110 to 1000"),
}
CLASSES = {
    "kpa.autoscaling.knative.dev": ("concurrency", "rps"),
    # Any metric of Kubernetes.
    "hpa.autoscaling.knative.dev": (),
}
