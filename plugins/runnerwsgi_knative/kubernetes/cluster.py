"""Questions to the Kubernetes API about Knative's objects, and nothing else of it."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote

from runnerwsgi.errors import (
    BackendUnreachable,
    BadRunnerResponse,
    ConfigurationError,
    DeadlineExceeded,
    OutcomeUnknown,
)
from runnerwsgi.origins import Origin
from runnerwsgi.upstream import Answer, Route, Upstream
from runnerwsgi_knative.observed import is_sound

from .access import SERVICE_ACCOUNT, Access, in_cluster
from .kubeconfig import Kubeconfig
from .problems import ClusterError, Kind

if TYPE_CHECKING:
    from .credentials import Proof

__all__ = ["KINDS", "Cluster", "ClusterError"]

GROUP = "serving.knative.dev/v1"
Plural = Literal["services", "revisions"]
# What may be asked for, and what it is called in its own JSON.
KINDS: Mapping[Plural, str] = {"services": "Service", "revisions": "Revision"}
MAX_OBJECT_BYTES = 4 * 1024 * 1024
MOST_SECONDS_TO_WAIT = 300.0

_SECONDS = re.compile(r"[0-9]{1,9}")
# What the API means by a status, where that does not depend on its body.
_MEANINGS: Mapping[int, Kind] = {401: "unauthorized", 403: "forbidden", 429: "busy", 503: "busy"}
# Also what has been replaced by something that is no certificate.
_FAILURES = (
    BackendUnreachable,
    OutcomeUnknown,
    DeadlineExceeded,
    BadRunnerResponse,
    ConfigurationError,
)


class Cluster:
    """The Knative objects of one namespace, asked for with ``get`` and never changed.

    It may be used by several threads, and in processes forked from the one that made it. Tokens
    and certificates are read anew as they rotate. An API that wants to be left alone for a while
    (``Retry-After``) is.

    Example::

        cluster = Cluster.from_env(os.environ, "extensions")
        cluster.get("services", "runner")["status"]["address"]["url"]

    Args:
        access: where the API is, and who asks.
        namespace: of the objects; by default the one that *access* means.
        timeout: seconds for each question, but for a command that gives credentials.
    """

    def __init__(
        self, access: Access, namespace: str | None = None, *, timeout: float = 5.0
    ) -> None:
        self.namespace = namespace or access.namespace
        self._access = access
        self._timeout = timeout
        self._door = Door(access)
        # Until when nothing is asked, and what the API said.
        self._quiet: tuple[float, str] = (0.0, "")

    @classmethod
    def from_env(
        cls,
        env: Mapping[str, str],
        namespace: str | None = None,
        *,
        context: str | None = None,
        timeout: float = 5.0,
        service_account: Path = SERVICE_ACCOUNT,
    ) -> Self:
        """As kubectl finds it: by KUBECONFIG, ``~/.kube/config``, or a pod's service account.

        Args:
            env: the environment.
            namespace: of the objects.
            context: of the kubeconfig, instead of its current one.
            timeout: seconds for each question.
            service_account: the folder of a pod's account.

        Raises:
            ConfigurationError: there is none of them, or it is not right.
        """
        config = Kubeconfig.from_env(env)
        if config is not None:
            return cls(config.access(context), namespace, timeout=timeout)
        pod = in_cluster(env, service_account)
        if pod is None or context:
            raise ConfigurationError(
                "there is no way to the Kubernetes API: KUBECONFIG is not set, there is no "
                "~/.kube/config, and "
                + ("a pod has no contexts." if pod else "this is no pod with a service account.")
            )
        return cls(pod, namespace, timeout=timeout)

    @property
    def server(self) -> str:
        """Address of the API."""
        return f"{self._access.origin}{self._access.prefix}"

    @property
    def is_vouched_for(self) -> bool:
        """Whether its answers may decide where secrets are sent."""
        return self._access.is_vouched_for

    @property
    def source(self) -> str:
        """Where the way there was found: a context and its files, or a folder."""
        return self._access.source

    def get(self, kind: Plural, name: str) -> Mapping[str, Any]:
        """The object *name* as the API has it.

        Args:
            kind: ``services`` or ``revisions``.
            name: of the object.

        Raises:
            ClusterError: the API did not give it, or not in time.
        """
        until, found = self._quiet
        if time.monotonic() < until:
            raise self._problem("busy", found)
        space = quote(self.namespace, safe="")
        path = f"/apis/{GROUP}/namespaces/{space}/{kind}/{quote(name, safe='')}"
        deadline = time.monotonic() + self._timeout
        proof = self._access.credentials.current()
        answer = self._ask(path, proof, deadline)
        if answer.status == 401:
            renewed = self._access.credentials.renewed(proof)
            if renewed != proof:
                answer = self._ask(path, renewed, deadline)
        return self._object(answer, kind, name)

    def close(self) -> None:
        """Close the connections."""
        self._door.close()

    def _ask(self, path: str, proof: Proof, deadline: float) -> Answer:
        headers = [("Accept", "application/json")]
        if proof.token:
            headers.append(("Authorization", f"Bearer {proof.token}"))
        try:
            return self._door.to(proof.certificate).exchange(
                "GET",
                f"{self._access.prefix}{path}",
                headers=headers,
                timeout=max(deadline - time.monotonic(), 0.001),
                max_bytes=MAX_OBJECT_BYTES,
            )
        except _FAILURES as exc:
            raise self._problem("unreachable", f"cannot be reached: {exc}") from exc

    def _object(self, answer: Answer, kind: Plural, name: str) -> Mapping[str, Any]:
        body = _json(answer.body)
        if answer.status == 200:
            is_named = body.get("kind") == KINDS[kind] and body.get("apiVersion") == GROUP
            if not is_named or not is_sound(body):
                raise self._problem("unreachable", "answers with something that is not Knative's")
            return body
        meaning = _MEANINGS.get(answer.status, "unreachable")
        if answer.status == 404:
            meaning = "absent" if _names_object(body) else "not-installed"
        said = str(body.get("message") or "no reason given")[:500]
        found = f"answers {answer.status} for {kind}/{name} of namespace {self.namespace}: {said}"
        self._quiet = time.monotonic() + _retry_after(answer), found
        raise self._problem(meaning, found)

    def _problem(self, kind: Kind, found: str) -> ClusterError:
        text = f"The Kubernetes API at {self.server} ({self.source}) {found.rstrip('.')}."
        return ClusterError(kind, text)


class Door:
    """Connections to the API, made anew when a certificate of either side was replaced."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._upstream: Upstream | None = None
        self._shown: tuple[bytes | None, bytes | None] = (None, None)

    def to(self, certificate: bytes | None) -> Upstream:
        """Connections on which *certificate* is shown."""
        if self._pid != os.getpid():
            # Whoever held it when the process was forked is not there to release it.
            self._lock, self._pid = threading.Lock(), os.getpid()
        authorities = self._access.authorities
        wanted = (authorities.read() if authorities else None, certificate)
        with self._lock:
            if self._upstream is None or wanted != self._shown:
                self._replace(certificate)
                self._shown = wanted
            assert self._upstream is not None
            return self._upstream

    def close(self) -> None:
        """Close them."""
        if self._upstream is not None:
            self._upstream.close()

    def _replace(self, certificate: bytes | None) -> None:
        origin, name = self._access.origin, self._access.server_name
        tls = self._access.tls(certificate) if origin.scheme == "https" else None
        route = Route(tls=tls)
        if name:
            route = Route(connect_to=origin, host=origin.authority, tls=tls)
            origin = Origin(origin.scheme, name, origin.port)
        self.close()
        self._upstream = Upstream(origin, idle=1, route=route)


def _json(body: bytes) -> Mapping[str, Any]:
    """The object of an answer; empty where it is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _names_object(status: Mapping[str, Any]) -> bool:
    """Whether a 404 speaks of an object; else the API knows no such kind of objects."""
    details = status.get("details")
    return status.get("kind") == "Status" and isinstance(details, dict) and "name" in details


def _retry_after(answer: Answer) -> float:
    value = answer.headers.get("retry-after", "")
    return min(float(value), MOST_SECONDS_TO_WAIT) if _SECONDS.fullmatch(value) else 0.0
