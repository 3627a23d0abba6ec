"""Kubeconfig files, read as kubectl reads them.

Of several files in ``KUBECONFIG`` the first that has an entry of a name counts, with all that the
entry says; a file that does not exist is left out. Relative paths begin at their own file's folder.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from runnerwsgi.errors import ConfigurationError
from runnerwsgi_knative.documents import yaml_fault

from .access import Access, parse_server
from .credentials import Command, Credentials, Kept, Material, decoded

# What would have to be obeyed to be safe, and is not: rather no access than another one.
REFUSED_USERS: Mapping[str, str] = {
    "auth-provider": "auth-provider was removed from Kubernetes in 1.26; let the cloud's tool "
    "write an exec entry",
    "username": "names and passwords were removed from Kubernetes in 1.19; use a token",
    "as": "to act as somebody else is not supported; use a token of that account",
    "as-uid": "to act as somebody else is not supported; use a token of that account",
    "as-groups": "to act as somebody else is not supported; use a token of that account",
    "as-user-extra": "to act as somebody else is not supported; use a token of that account",
}
REFUSED_CLUSTERS: Mapping[str, str] = {
    "proxy-url": "a proxy before the API is not supported; connect without, or by `kubectl proxy`",
}
_SECTIONS = {"clusters": "cluster", "users": "user", "contexts": "context"}
_EXEC_EXTENSION = "client.authentication.k8s.io/exec"


@dataclass(frozen=True, slots=True)
class Entry:
    """A cluster, user or context: what is said of it, and the file that says so."""

    name: str
    said: Mapping[str, Any]
    file: Path

    def material(self, name: str) -> Material | None:
        """What *name* holds: its ``-data``, else its file; None where it has neither.

        Raises:
            ConfigurationError: it cannot be read.
        """
        if data := self.said.get(f"{name}-data"):
            return Material(decoded(data, f"{self.file}: {name}-data of {self.name}"))
        return self.file_of(name)

    def file_of(self, name: str) -> Material | None:
        """What the file holds that *name* is the path of; None where it names none.

        Raises:
            ConfigurationError: it cannot be read.
        """
        path = self.said.get(name)
        return Material(file=self.file.parent / str(path)) if path else None

    def refuse(self, table: Mapping[str, str]) -> None:
        """Refuse what is in *table*.

        Raises:
            ConfigurationError: the entry has it.
        """
        for name, reason in table.items():
            if self.said.get(name):
                raise ConfigurationError(f"{self.file}: {self.name} has {name}: {reason}.")


class Kubeconfig:
    """Some kubeconfig files, merged.

    Example::

        Kubeconfig.from_env(os.environ).access("production").origin

    Args:
        files: the first that has an entry counts.
        env: the environment of commands that give credentials.

    Raises:
        ConfigurationError: no file exists, or one is no kubeconfig.
    """

    def __init__(self, files: Sequence[Path], env: Mapping[str, str]) -> None:
        self._env = env
        self._shown = os.pathsep.join(map(str, files))
        self._entries: dict[str, dict[str, Entry]] = {section: {} for section in _SECTIONS}
        self._context = ""
        found = [file for file in files if file.exists()]
        if not found:
            raise ConfigurationError(f"there is no file {self._shown}: correct KUBECONFIG.")
        for file in found:
            self._merge(file, _loaded(file))

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        """The files of ``KUBECONFIG``, else ``~/.kube/config``; None where neither is there.

        Raises:
            ConfigurationError: as the constructor's.
        """
        listed = [
            Path(part).absolute() for part in env.get("KUBECONFIG", "").split(os.pathsep) if part
        ]
        if listed:
            return cls(listed, env)
        usual = Path(env["HOME"] if env.get("HOME") else Path.home()) / ".kube" / "config"
        return cls([usual], env) if usual.exists() else None

    def access(self, context: str | None = None) -> Access:
        """What *context*, by default the current one, leads to.

        Raises:
            ConfigurationError: something is missing, contradictory or not supported.
        """
        by = "RUNNER_KNATIVE_CONTEXT" if context else "current-context"
        chosen = self._entry("contexts", context or self._context, by)
        cluster = self._entry("clusters", chosen.said.get("cluster"), chosen.name)
        user = chosen.said.get("user")
        who = self._entry("users", user, chosen.name) if user else None
        return self._access(chosen, cluster, who)

    def _access(self, context: Entry, cluster: Entry, who: Entry | None) -> Access:
        cluster.refuse(REFUSED_CLUSTERS)
        authorities = cluster.material("certificate-authority")
        insecure = cluster.said.get("insecure-skip-tls-verify") or False
        source = f"context {context.name} of {self._shown}"
        if not isinstance(insecure, bool):
            raise ConfigurationError(
                f"{source}: its cluster's insecure-skip-tls-verify is neither true nor false."
            )
        if insecure and authorities:
            raise ConfigurationError(
                f"{source}: its cluster has a certificate-authority and insecure-skip-tls-verify: "
                "take the second out."
            )
        origin, prefix = parse_server(str(cluster.said.get("server") or ""), source)
        # In the clear everybody on the way could take them.
        secret = who if origin.scheme == "https" else None
        return Access(
            origin,
            prefix,
            self._credentials(secret, cluster) if secret else Kept(),
            authorities=authorities,
            server_name=cluster.said.get("tls-server-name"),
            verified=not insecure,
            namespace=str(context.said.get("namespace") or "default"),
            source=source,
        )

    def _credentials(self, who: Entry, cluster: Entry) -> Credentials:
        who.refuse(REFUSED_USERS)
        certificate, key = who.material("client-certificate"), who.material("client-key")
        if (certificate is None) != (key is None):
            raise ConfigurationError(
                f"{who.file}: {who.name} has a client-certificate or a client-key, but not both."
            )
        token = who.file_of("tokenFile")
        if token is None and who.said.get("token"):
            token = Material(str(who.said["token"]).encode())
        if token is None and certificate is None and who.said.get("exec"):
            return Command(
                who.said["exec"],
                folder=who.file.parent,
                cluster=_told(cluster),
                env=self._env,
            )
        return Kept(token, certificate, key)

    def _merge(self, file: Path, content: Mapping[str, Any]) -> None:
        self._context = self._context or str(content.get("current-context") or "")
        for section, noun in _SECTIONS.items():
            names = set()
            for one in content.get(section) or ():
                name = str(one["name"])
                if name in names:
                    raise ConfigurationError(f"{file}: there are two {section} named {name}.")
                names.add(name)
                self._entries[section].setdefault(name, Entry(name, one.get(noun) or {}, file))

    def _entry(self, section: str, name: object, asker: str) -> Entry:
        entry = self._entries[section].get(str(name or ""))
        if entry is None:
            there = ", ".join(sorted(self._entries[section])) or "none"
            raise ConfigurationError(
                f"{self._shown}: {asker} names {_SECTIONS[section]} {name or 'none'}, which is not "
                f"there; there are: {there}."
            )
        return entry


def _loaded(file: Path) -> Mapping[str, Any]:
    try:
        import yaml
    except ImportError as exc:
        raise ConfigurationError(
            "a kubeconfig cannot be read without PyYAML: `pip install 'runnerwsgi[knative]'`."
        ) from exc
    try:
        content = yaml.safe_load(file.read_bytes())
    except OSError as exc:
        raise ConfigurationError(f"{file} cannot be read: {exc.strerror or exc}.") from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{file} cannot be read: {yaml_fault(exc)}.") from None
    if content is None:
        return {}
    if not _is_config(content):
        raise ConfigurationError(f"{file} is no kubeconfig: `kubectl config view` shows one.")
    found: Mapping[str, Any] = content
    return found


def _is_config(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(content.get(section) or [], list)
        and all(
            isinstance(one, dict) and "name" in one and isinstance(one.get(noun) or {}, dict)
            for one in content.get(section) or ()
        )
        for section, noun in _SECTIONS.items()
    )


def _told(cluster: Entry) -> Mapping[str, Any]:
    """What a command for credentials may be told of the cluster."""
    names = ("server", "tls-server-name", "insecure-skip-tls-verify")
    told = {name: cluster.said[name] for name in names if cluster.said.get(name)}
    authorities = cluster.material("certificate-authority")
    if authorities:
        told["certificate-authority-data"] = base64.b64encode(authorities.read()).decode()
    extensions = {one.get("name"): one for one in cluster.said.get("extensions") or ()}
    return told | {"config": extensions.get(_EXEC_EXTENSION, {}).get("extension")}
