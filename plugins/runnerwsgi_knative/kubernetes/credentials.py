"""How a caller of the Kubernetes API proves who it is, with what rotates read again."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from runnerwsgi.errors import ConfigurationError

from .problems import ClusterError

log = logging.getLogger("runnerwsgi.plugins.knative")

EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
EXEC_SECONDS = 60.0
# A credential that ends while the request is on its way is of no use.
_SPARE = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Proof:
    """What is shown to the API: a bearer token, a client certificate with its key, or both.

    ``certificate`` is PEM: the certificates, then the private key.
    """

    token: str | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)


class Credentials(Protocol):
    """Where proofs come from."""

    def current(self) -> Proof:
        """What is valid now.

        Raises:
            ClusterError: there is none.
        """
        ...

    def renewed(self, refused: Proof) -> Proof:
        """What is valid after the API said 401 to *refused*; maybe the same.

        Raises:
            ClusterError: there is none.
        """
        ...


class Material:
    """Bytes that somebody wrote down, or those of a file, which may be replaced at any time.

    Example::

        authorities = Material(file=Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"))
        authorities.read()

    Raises:
        ConfigurationError: the file cannot be read.
    """

    def __init__(self, data: bytes = b"", file: Path | None = None) -> None:
        self._file = file
        self._last = data
        if file is not None:
            try:
                self._last = file.read_bytes()
            except OSError as exc:
                raise ConfigurationError(
                    f"{file} cannot be read: {exc.strerror or exc}. The kubeconfig or the "
                    "service account names it: put it there, readable for this user."
                ) from exc

    def read(self) -> bytes:
        """What it holds now; the last content stays while the file cannot be read."""
        if self._file is not None:
            try:
                self._last = self._file.read_bytes() or self._last
            except OSError as exc:
                log.warning("%s cannot be read (%s): what it held stays in use", self._file, exc)
        return self._last


class Kept:
    """Credentials from a kubeconfig or a pod's folder; files are read anew for each request.

    Example::

        Kept(token=Material(file=Path("/var/run/secrets/kubernetes.io/serviceaccount/token")))
    """

    def __init__(
        self,
        token: Material | None = None,
        certificate: Material | None = None,
        key: Material | None = None,
    ) -> None:
        self._token = token
        self._pair = (certificate, key) if certificate and key else None

    def current(self) -> Proof:
        """What the files hold."""
        pair = self._pair and b"\n".join(part.read() for part in self._pair)
        return Proof(header_value(self._token.read()) if self._token else None, pair)

    def renewed(self, refused: Proof) -> Proof:
        """What the files hold, though *refused* did."""
        return self.current()


def header_value(data: bytes) -> str:
    """A token as a header can carry it.

    Raises:
        ClusterError: it is none.
    """
    token = data.decode("ascii", "replace").strip()
    if not token.isascii() or not token.isprintable() or " " in token or not token:
        raise ClusterError("unauthorized", "The token for the Kubernetes API is no token.")
    return token


class Command:
    """Credentials that a program gives, as the command-line tools of clouds do.

    The program runs when its last answer has expired or was refused, without a terminal.

    Args:
        spec: what a kubeconfig says below ``exec``.
        folder: of the kubeconfig; a command with a slash is looked for from there.
        cluster: told to the program, where the kubeconfig says so.
        env: the environment it runs in, without what is ours (``RUNNER_*``).

    Raises:
        ConfigurationError: *spec* asks for what we cannot do.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        *,
        folder: Path,
        cluster: Mapping[str, Any],
        env: Mapping[str, str],
    ) -> None:
        _check(spec)
        self._version: str = spec["apiVersion"]
        name = str(spec["command"])
        self._command = [str(folder / name) if "/" in name else name, *_words(spec.get("args"))]
        self._hint = str(spec.get("installHint") or "")
        info: dict[str, Any] = {"interactive": False}
        if spec.get("provideClusterInfo"):
            info["cluster"] = dict(cluster)
        told = {"apiVersion": self._version, "kind": "ExecCredential", "spec": info}
        own = {str(one["name"]): str(one["value"]) for one in spec.get("env") or ()}
        # The gateway's secrets are none of a cloud's.
        kept = {name: value for name, value in env.items() if not name.startswith("RUNNER_")}
        self._env = {**kept, **own, "KUBERNETES_EXEC_INFO": json.dumps(told)}
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._proof: Proof | None = None
        self._until: datetime | None = None

    def current(self) -> Proof:
        """What the program said last, until that expires."""
        self._forget_parents()
        with self._lock:
            if self._proof is None or (self._until and datetime.now(UTC) >= self._until):
                self._ask()
            assert self._proof is not None
            return self._proof

    def renewed(self, refused: Proof) -> Proof:
        """What the program says now, unless somebody has asked it since *refused*."""
        self._forget_parents()
        with self._lock:
            if self._proof is None or self._proof == refused:
                self._ask()
            assert self._proof is not None
            return self._proof

    def _forget_parents(self) -> None:
        # Who asked when the process was forked is not there to release it.
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()

    def _ask(self) -> None:
        self._proof = None
        try:
            answer = json.loads(self._run())
            status = answer["status"]
            if answer.get("apiVersion") != self._version or answer.get("kind") != "ExecCredential":
                raise ValueError(f"it is no ExecCredential of {self._version}")
            self._proof, self._until = _given(status), _expiry(status)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise self._failure(f"what it printed cannot be used: {exc!r}") from exc

    def _run(self) -> str:
        try:
            return subprocess.run(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=EXEC_SECONDS,
                check=True,
            ).stdout
        except subprocess.TimeoutExpired:
            raise self._failure(f"it took more than {EXEC_SECONDS:.0f} s") from None
        except subprocess.CalledProcessError as exc:
            said = (exc.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
            raise self._failure(f"it ended with status {exc.returncode}: {said}") from exc
        except OSError as exc:
            raise self._failure(f"{exc.strerror or exc}. {self._hint}".rstrip()) from exc

    def _failure(self, found: str) -> ClusterError:
        text = f"The kubeconfig's command {self._command[0]} gave no credentials: {found}."
        return ClusterError("unauthorized", text.replace("..", "."))


def _check(spec: Mapping[str, Any]) -> None:
    if not isinstance(spec, Mapping) or not _is_command(spec):
        raise ConfigurationError(
            "the kubeconfig's exec is no command: it has command, a list of args, and a list of "
            "env with name and value each."
        )
    if spec.get("apiVersion") not in EXEC_VERSIONS or not spec.get("command"):
        raise ConfigurationError(
            f"the kubeconfig's exec command speaks {spec.get('apiVersion')!r}: "
            f"{' or '.join(EXEC_VERSIONS)} and a command are needed. Update the tool that wrote it."
        )
    if spec.get("interactiveMode") == "Always":
        raise ConfigurationError(
            f"the kubeconfig's command {spec['command']} wants a terminal (interactiveMode: "
            "Always), which a gateway does not have. Use a service account's token."
        )


def _is_command(spec: Mapping[str, Any]) -> bool:
    args, variables = spec.get("args") or [], spec.get("env") or []
    return (
        isinstance(spec.get("command") or "", str)
        and isinstance(args, list)
        and isinstance(variables, list)
        and all(isinstance(one, dict) and {"name", "value"} <= one.keys() for one in variables)
    )


def _words(args: Sequence[Any] | None) -> list[str]:
    return [str(one) for one in args or ()]


def _given(status: Mapping[str, Any]) -> Proof:
    token, certificate = status.get("token"), status.get("clientCertificateData")
    if not token and not certificate:
        raise ValueError("neither a token nor a certificate is in it")
    pair = f"{certificate}\n{status['clientKeyData']}".encode() if certificate else None
    return Proof(header_value(token.encode()) if token else None, pair)


def _expiry(status: Mapping[str, Any]) -> datetime | None:
    until = status.get("expirationTimestamp")
    return datetime.fromisoformat(until).astimezone(UTC) - _SPARE if until else None


def decoded(value: Any, name: str) -> bytes:
    """What a ``-data`` field of a kubeconfig holds.

    Raises:
        ConfigurationError: it is not base64.
    """
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError) as exc:
        raise ConfigurationError(f"{name} is not base64: {exc}.") from exc
