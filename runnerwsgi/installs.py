"""Which extension is installed for which tenant: version, configuration, grants and secrets."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa

from .database import Database, advance, generation, metadata
from .errors import BundleError, ConfigurationError, NotFound, StorageError
from .headers import SANDBOX_OPTIONS
from .manifest import DEFAULT_GRANTS, Manifest
from .origins import parse_egress_entry
from .paths import is_extension_id
from .protocol import is_content_hash
from .routes import RouteGrant
from .secrets import Vault

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Row

    from .settings import Settings

log = logging.getLogger(__name__)

REFRESH_S = 1.0
# After a failure the database is left alone for longer: each try may cost a caller seconds.
RETRY_S = 5.0
_GENERATION = "installs"

_installs = sa.Table(
    "installs",
    metadata,
    sa.Column("install_id", sa.String(64), primary_key=True),
    sa.Column("tenant_id", sa.String(256), nullable=False),
    sa.Column("extension_id", sa.String(128), nullable=False),
    sa.Column("content_hash", sa.String(71), nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
    # Everything else is read whole and never searched.
    sa.Column("record", sa.Text, nullable=False),
    sa.UniqueConstraint("tenant_id", "extension_id"),
)
_secrets = sa.Table(
    "install_secrets",
    metadata,
    sa.Column(
        "install_id",
        sa.ForeignKey(_installs.c.install_id, ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column("key", sa.String(256), primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)

_GRANT = re.compile(r"cap:[a-z0-9]+(?:[._-][a-z0-9]+)*")
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}")


@dataclass(frozen=True, slots=True)
class Install:
    """One version of one extension, installed for one tenant.

    Attributes:
        config: what a guest reads from its context. No secrets.
        grants: the capabilities, the default ones included.
        egress: origins that ``http.fetch`` may reach, below ``RUNNER_EGRESS_ALLOW``.
        routes: the application's own routes that ``ui-proxy`` may call.
        ui_digests: SHA-256 in hex of every file under ``ui/``; None when nobody knows them,
            and then no file is cached (security §3).
        memory_mb: memory of a guest in MiB; None for ``RUNNER_MEMORY_MB``.
        timeout_ms: time of a call; None for ``RUNNER_TIMEOUT_MS``.
        sandbox: ``allow-…`` words that the operator grants the page beyond scripts (security §1).
        created_at: when the extension was first installed, in UTC.
    """

    install_id: str
    tenant_id: str
    extension_id: str
    content_hash: str
    version: str
    manifest: Manifest
    config: Mapping[str, str]
    grants: tuple[str, ...]
    egress: tuple[str, ...]
    routes: tuple[RouteGrant, ...]
    ui_digests: Mapping[str, str] | None
    memory_mb: int | None
    timeout_ms: int | None
    sandbox: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """Every install as it was at one generation; looked up without the database."""

    generation: int
    read_at: float
    by_name: Mapping[tuple[str, str], Install]
    by_hash: Mapping[tuple[str, str], Install]
    known: Mapping[str, tuple[int, Install]]


class Installs:
    """The installs of all tenants. Reads are dictionary look-ups in an in-process copy.

    The copy is compared with the database at most once a second, and after each change of
    one's own at once. A database that fails leaves the copy in use: extensions go on.

    Example::

        installs = Installs.from_settings(settings)
        installs.add("acme", "demo.notes", content_hash, manifest, grants=["cap:storage.kv"])
        installs.find("acme", "demo.notes")

    Args:
        database: where the rows are.
        vault: seals and opens the secrets.
    """

    def __init__(self, database: Database, vault: Vault) -> None:
        self.database = database
        self.vault = vault
        self._snapshot: _Snapshot | None = None
        self._next_look = 0.0
        self._failing = False

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The installs of ``RUNNER_DATABASE_URL``, with the key in ``RUNNER_HOME``."""
        return cls(Database(settings.database_url), Vault(settings.home / "secret.key"))

    def close(self) -> None:
        """Close this process's connections."""
        self.database.close()

    def find(self, tenant_id: str, extension_id: str) -> Install | None:
        """The install of an extension for a tenant; None when there is none.

        Raises:
            StorageError: the database failed before it was ever read.
        """
        return self._current().by_name.get((tenant_id, extension_id))

    def get(self, tenant_id: str, extension_id: str) -> Install:
        """The install of an extension for a tenant.

        Raises:
            NotFound: there is none; the same as for an extension that does not exist.
            StorageError: the database failed before it was ever read.
        """
        install = self.find(tenant_id, extension_id)
        if install is None:
            raise NotFound(f"{extension_id} is not installed for tenant {tenant_id}")
        return install

    def by_hash(self, extension_id: str, content_hash: str) -> Install | None:
        """The oldest install of exactly this content: UI files are the same for all tenants.

        Its ``sandbox`` has the words of every tenant's install.
        """
        return self._current().by_hash.get((extension_id, content_hash))

    def list(self, tenant_id: str | None = None) -> tuple[Install, ...]:
        """The installs of a tenant, or all, by tenant and extension."""
        found = self._current().by_name
        return tuple(found[key] for key in sorted(found) if tenant_id in (None, key[0]))

    def add(
        self,
        tenant_id: str,
        extension_id: str,
        content_hash: str,
        manifest: Manifest,
        *,
        config: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        grants: Iterable[str] = (),
        egress: Iterable[str] = (),
        routes: Iterable[RouteGrant | str] = (),
        ui_digests: Mapping[str, str] | None = None,
        memory_mb: int | None = None,
        timeout_ms: int | None = None,
        sandbox: Iterable[str] = (),
    ) -> Install:
        """Install, or replace what is installed under this tenant and extension.

        The arguments are the whole new state: what is left out is empty afterwards. Two
        things stay: the install's id with its age, and, where *secrets* is None, its secrets.

        Raises:
            ConfigurationError: with every argument that is wrong.
            StorageError: the database failed; nothing was changed.
        """
        _check_secrets(secrets or {})
        record = _record(
            tenant_id=tenant_id,
            extension_id=extension_id,
            content_hash=content_hash,
            manifest=manifest,
            config=dict(config or {}),
            grants=[*DEFAULT_GRANTS, *grants],
            egress=list(egress),
            routes=list(routes),
            ui_digests=None if ui_digests is None else dict(ui_digests),
            memory_mb=memory_mb,
            timeout_ms=timeout_ms,
            sandbox=list(sandbox),
        )

        def work(connection: Connection) -> None:
            row = self._put(connection, tenant_id, extension_id, content_hash, record)
            if secrets is not None:
                self._put_secrets(connection, row, secrets)

        self.database.write(work)
        return self._reload().by_name[(tenant_id, extension_id)]

    def remove(self, tenant_id: str, extension_id: str) -> bool:
        """Uninstall, secrets included; stored entries stay. False when it was not installed.

        Raises:
            StorageError: the database failed; nothing was changed.
        """

        def work(connection: Connection) -> bool:
            row = connection.execute(_select_one(tenant_id, extension_id)).first()
            if row is None:
                return False
            for table in (_secrets, _installs):
                connection.execute(table.delete().where(table.c.install_id == row.install_id))
            advance(connection, _GENERATION)
            return True

        removed = self.database.write(work)
        self._reload()
        return removed

    def copy(self, install: Install, other: Installs) -> None:
        """Write an install as it is, with id, age and secrets, into another database.

        Args:
            install: one of these.
            other: must have the same key; what it has under this tenant and extension stays.

        Raises:
            StorageError: a database failed, or *other* has this extension; nothing was changed.
        """
        with self.database.connect() as connection:
            rows = [
                (table, dict(row._mapping))
                for table in (_installs, _secrets)
                for row in connection.execute(
                    sa.select(table).where(table.c.install_id == install.install_id)
                )
            ]

        def work(connection: Connection) -> None:
            number = advance(connection, _GENERATION)
            for table, row in rows:
                fields = {"generation": number} if table is _installs else {}
                connection.execute(table.insert(), row | fields)

        other.database.write(work)
        other._reload()

    def secret(self, install_id: str, key: str) -> str | None:
        """One secret of an install, decrypted; None when there is none of this name.

        Raises:
            SecretsUnavailable: the key file is another one, or gone.
            StorageError: the database failed.
        """
        query = sa.select(_secrets.c.sealed).where(
            _secrets.c.install_id == install_id, _secrets.c.key == key
        )
        with self.database.connect() as connection:
            sealed = connection.execute(query).scalar()
        return None if sealed is None else self.vault.open(f"{install_id}/{key}", bytes(sealed))

    def secret_keys(self, install_id: str) -> tuple[str, ...]:
        """The names of an install's secrets, sorted.

        Raises:
            StorageError: the database failed.
        """
        query = sa.select(_secrets.c.key).where(_secrets.c.install_id == install_id)
        with self.database.connect() as connection:
            return tuple(sorted(connection.execute(query).scalars()))

    def _put(
        self,
        connection: Connection,
        tenant_id: str,
        extension_id: str,
        content_hash: str,
        record: dict[str, Any],
    ) -> str:
        number = advance(connection, _GENERATION)
        old = connection.execute(_select_one(tenant_id, extension_id)).first()
        created = json.loads(old.record)["created_at"] if old else datetime.now(UTC).isoformat()
        values = {
            "content_hash": content_hash,
            "generation": number,
            "record": json.dumps({**record, "created_at": created}),
        }
        if old:
            same = _installs.c.install_id == old.install_id
            connection.execute(_installs.update().where(same).values(values))
            return str(old.install_id)
        names = {"tenant_id": tenant_id, "extension_id": extension_id}
        install_id = uuid.uuid4().hex
        connection.execute(_installs.insert(), {"install_id": install_id, **names, **values})
        return install_id

    def _put_secrets(
        self, connection: Connection, install_id: str, secrets: Mapping[str, str]
    ) -> None:
        connection.execute(_secrets.delete().where(_secrets.c.install_id == install_id))
        rows = [
            {
                "install_id": install_id,
                "key": key,
                "sealed": self.vault.seal(f"{install_id}/{key}", value),
            }
            for key, value in secrets.items()
        ]
        if rows:
            connection.execute(_secrets.insert(), rows)

    def _current(self) -> _Snapshot:
        now = time.monotonic()
        if self._snapshot is not None and now < self._next_look:
            return self._snapshot
        # Set before looking, so that other threads go on with the copy meanwhile.
        self._next_look = now + REFRESH_S
        try:
            return self._refresh()
        except StorageError as exc:
            if self._snapshot is None:
                raise
            self._on_failure(exc)
            return self._snapshot

    def _refresh(self) -> _Snapshot:
        old = self._snapshot
        if old is None:
            return self._reload()
        with self.database.connect() as connection:
            number = generation(connection, _GENERATION)
        self._on_success()
        return old if number == old.generation else self._reload()

    def _reload(self) -> _Snapshot:
        started = time.monotonic()
        old = self._snapshot
        with self.database.connect() as connection:
            number = generation(connection, _GENERATION)
            rows = connection.execute(sa.select(_installs)).all()
        snapshot = _snapshot(number, started, rows, old.known if old else {})
        # A slower thread must not put an older copy over a newer one.
        if self._snapshot is None or self._snapshot.read_at <= started:
            self._snapshot = snapshot
        return snapshot

    def _on_failure(self, exc: StorageError) -> None:
        self._next_look = time.monotonic() + RETRY_S
        if not self._failing:
            log.error("Installs are served from memory until the database is back: %s", exc)
        self._failing = True

    def _on_success(self) -> None:
        if self._failing:
            log.info("The database of installs is back.")
        self._failing = False


def _select_one(tenant_id: str, extension_id: str) -> sa.Select[Any]:
    return (
        sa.select(_installs)
        .where(_installs.c.tenant_id == tenant_id, _installs.c.extension_id == extension_id)
        .with_for_update()
    )


def _snapshot(
    number: int,
    read_at: float,
    rows: Iterable[Row[Any]],
    known: Mapping[str, tuple[int, Install]],
) -> _Snapshot:
    """Build the look-up tables; rows that did not change since *known* are not parsed again."""
    found: dict[str, tuple[int, Install]] = {}
    for row in rows:
        old = known.get(row.install_id)
        if old is not None and old[0] == row.generation:
            found[row.install_id] = old
        elif (install := _install(row)) is not None:
            found[row.install_id] = (row.generation, install)
    ordered = sorted((install for _, install in found.values()), key=lambda one: one.created_at)
    return _Snapshot(
        generation=number,
        read_at=read_at,
        by_name={(one.tenant_id, one.extension_id): one for one in ordered},
        by_hash=_by_hash(ordered),
        known=found,
    )


def _by_hash(ordered: Iterable[Install]) -> dict[tuple[str, str], Install]:
    """The oldest install of each content, with the sandbox words of all: its files are shared."""
    found: dict[tuple[str, str], Install] = {}
    for one in ordered:
        first = found.setdefault((one.extension_id, one.content_hash), one)
        if more := [word for word in one.sandbox if word not in first.sandbox]:
            shared = replace(first, sandbox=(*first.sandbox, *more))
            found[one.extension_id, one.content_hash] = shared
    return found


def _install(row: Row[Any]) -> Install | None:
    """The install of a row; None, and a line in the log, for one that cannot be read."""
    try:
        record = json.loads(row.record)
        manifest = Manifest.from_json(json.dumps(record["manifest"]))
        digests = record["ui_digests"]
        return Install(
            install_id=row.install_id,
            tenant_id=row.tenant_id,
            extension_id=row.extension_id,
            content_hash=row.content_hash,
            version=manifest.version,
            manifest=manifest,
            config=MappingProxyType(record["config"]),
            grants=tuple(record["grants"]),
            egress=tuple(record["egress"]),
            routes=tuple(map(RouteGrant.parse, record["routes"])),
            ui_digests=None if digests is None else MappingProxyType(digests),
            memory_mb=record["memory_mb"],
            timeout_ms=record["timeout_ms"],
            sandbox=tuple(record.get("sandbox", ())),
            created_at=datetime.fromisoformat(record["created_at"]),
        )
    except (ValueError, KeyError, TypeError, BundleError, ConfigurationError) as exc:
        log.error(
            "The install of %s for tenant %s cannot be read and is left out: %s. Install it again.",
            row.extension_id,
            row.tenant_id,
            exc,
        )
        return None


def _record(**given: Any) -> dict[str, Any]:
    """Check an install's fields; what is stored of it as JSON.

    Raises:
        ConfigurationError: with every fault.
    """
    faults: list[str] = []
    for name, is_right, expected in _RULES:
        if not is_right(given[name]):
            faults.append(f"{name} is {expected}; found {given[name]!r}.")
    faults += [
        f"{grant!r} is not a capability: write cap:storage.kv."
        for grant in given["grants"]
        if not (isinstance(grant, str) and _GRANT.fullmatch(grant))
    ]
    faults += [
        f"{word!r} cannot be granted to a page: use {', '.join(SANDBOX_OPTIONS)}."
        for word in given["sandbox"]
        if word not in SANDBOX_OPTIONS
    ]
    egress = _parsed(given["egress"], lambda text: str(parse_egress_entry(text)), faults)
    routes = _parsed(given["routes"], lambda route: str(RouteGrant.parse(str(route))), faults)
    if faults:
        raise ConfigurationError(faults=tuple(faults))
    return {
        "manifest": dict(given["manifest"].raw),
        "config": given["config"],
        "grants": list(dict.fromkeys(given["grants"])),
        "egress": egress,
        "routes": routes,
        "ui_digests": given["ui_digests"],
        "memory_mb": given["memory_mb"],
        "timeout_ms": given["timeout_ms"],
        "sandbox": list(dict.fromkeys(given["sandbox"])),
    }


def _parsed(items: Iterable[Any], parse: Any, faults: list[str]) -> list[str]:
    found: dict[str, None] = {}
    for item in items:
        try:
            found[parse(item)] = None
        except ConfigurationError as exc:
            faults.extend(exc.faults)
    return list(found)


def _check_secrets(secrets: Mapping[str, str]) -> None:
    wrong = [key for key in secrets if not (isinstance(key, str) and _NAME.fullmatch(key))]
    wrong += [key for key, value in secrets.items() if not isinstance(value, str)]
    if wrong:
        # By name only: a value must not get into a message.
        raise ConfigurationError(f"Secrets are texts by name of 1 to 256 characters: {wrong!r}.")


def _is_texts(value: Any) -> bool:
    return all(isinstance(text, str) for item in value.items() for text in item)


def _is_limit(value: Any) -> bool:
    return value is None or (type(value) is int and value > 0)


_RULES: tuple[tuple[str, Any, str], ...] = (
    ("tenant_id", lambda text: _NAME.fullmatch(text), "a text of 1 to 256 printable characters"),
    ("extension_id", is_extension_id, "letters, digits, dots, dashes and underscores"),
    ("content_hash", is_content_hash, "sha256: and 64 lower-case hex digits"),
    ("manifest", lambda manifest: manifest.raw, "one that Manifest.from_json made"),
    ("config", _is_texts, "texts by name"),
    ("ui_digests", lambda value: value is None or _is_texts(value), "digests by path, or None"),
    ("memory_mb", _is_limit, "a number of MiB above 0, or None"),
    ("timeout_ms", _is_limit, "a number of milliseconds above 0, or None"),
)
