"""The ways in which the Kubernetes API does not answer what it was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from runnerwsgi.errors import UpstreamError

Kind = Literal["unreachable", "unauthorized", "forbidden", "absent", "not-installed", "busy"]

# What to do about each.
ADVICE: Mapping[Kind, str] = {
    "unreachable": "See whether `kubectl get --raw /version` answers from here.",
    "unauthorized": "See whether `kubectl auth whoami` knows you; sign in again.",
    "forbidden": "`runnerwsgi knative manifest` writes the Role that allows it.",
    "absent": "`kubectl get ksvc --all-namespaces` lists what is there.",
    "not-installed": "See whether this is the right cluster, and Knative Serving is installed.",
    "busy": "It is asked again later.",
}


class ClusterError(UpstreamError):
    """The Kubernetes API did not give what it was asked for.

    Only ``absent`` and ``not-installed`` say something of the service; all others say that nobody
    knows.

    Attributes:
        kind: ``unreachable`` (no answer, or not one of Kubernetes), ``unauthorized`` (no valid
            credentials), ``forbidden`` (a Role is missing), ``absent`` (no such object),
            ``not-installed`` (no Knative in the cluster) or ``busy``.
    """

    def __init__(self, kind: Kind, found: str) -> None:
        super().__init__(f"{_on_one_line(found)} {ADVICE[kind]}")
        self.kind = kind


def _on_one_line(text: str) -> str:
    """What the API or a program said, with nothing in it that steers a terminal or forges a log."""
    return "".join(char if char.isprintable() else " " for char in text)
