"""A guest's own key-value store, apart for each tenant and extension: the interface ``storage``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from runnerwsgi.database import metadata
from runnerwsgi.errors import CapabilityError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection, Row

    from runnerwsgi.database import Database

    from . import Call, Functions

MAX_NAMESPACE_BYTES = 128
MAX_KEY_BYTES = 512
MAX_VALUE_BYTES = 1_048_576
PAGE_ENTRIES = 100
# A page is one value of the guest's world, and engines carry some 3 MB at most.
PAGE_BYTES = 2 * MAX_VALUE_BYTES

_entries = sa.Table(
    "storage_entries",
    metadata,
    sa.Column("tenant_id", sa.String(256), primary_key=True),
    sa.Column("extension_id", sa.String(128), primary_key=True),
    sa.Column("namespace", sa.String(MAX_NAMESPACE_BYTES), primary_key=True),
    # Pages are in the order of code points, and not of the language of a PostgreSQL.
    sa.Column(
        "key",
        sa.String(MAX_KEY_BYTES, collation="C").with_variant(sa.String(MAX_KEY_BYTES), "sqlite"),
        primary_key=True,
    ),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
)
# What an extension uses, counted as it writes: a quota must not cost a walk over all entries.
_usage = sa.Table(
    "storage_usage",
    metadata,
    sa.Column("tenant_id", sa.String(256), primary_key=True),
    sa.Column("extension_id", sa.String(128), primary_key=True),
    sa.Column("entries", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    # The highest revision that was ever deleted: a key that comes back continues above it,
    # or a stale compare-and-set would succeed.
    sa.Column("deleted_revision", sa.BigInteger, nullable=False),
)

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Storage:
    """Entries of bytes by namespace and key, each with a revision that only rises.

    Example::

        storage = Storage(database)
        entry = storage.put(call, {"namespace": "notes", "key": "n1", "value": b"hi"})
        storage.put(call, {**entry, "value": b"ho"})  # only where nobody else wrote meanwhile

    Args:
        database: where the entries are.
        max_entries: how many entries one extension may keep for one tenant.
        max_bytes: how many bytes of values in all.
    """

    def __init__(
        self, database: Database, *, max_entries: int = 100_000, max_bytes: int = 256 * 2**20
    ) -> None:
        self._database = database
        self._max_entries = max_entries
        self._max_bytes = max_bytes

    def get(self, call: Call, namespace: str, key: str) -> dict[str, Any]:
        """``storage.get``.

        Raises:
            CapabilityError: ``missing``; ``denied`` for a name that is too long.
        """
        place = _place(call, namespace, key)
        with self._database.connect() as connection:
            row = connection.execute(sa.select(_entries).where(*_at(_entries, place))).first()
        if row is None:
            raise CapabilityError("missing")
        return _entry(row)

    def put(self, call: Call, entry: Mapping[str, Any]) -> dict[str, Any]:
        """``storage.put``: the entry as it is stored, with its new revision.

        With a revision it is a compare-and-set: the entry must have just that revision, and
        with revision 0 it must not exist. Without one the last write wins.

        Raises:
            CapabilityError: ``conflict`` when the entry has another revision; ``denied`` for
                a name or value that is too long, or a quota that is used up.
        """
        place = _place(call, entry["namespace"], entry["key"])
        value, expected = bytes(entry["value"]), entry.get("revision")
        if len(value) > MAX_VALUE_BYTES:
            raise CapabilityError("denied", f"a value of {len(value)} bytes is too long")
        revision = self._database.write(lambda at: self._put(at, place, value, expected))
        return {
            "namespace": place["namespace"],
            "key": place["key"],
            "value": value,
            "revision": revision,
        }

    def delete(self, call: Call, namespace: str, key: str) -> None:
        """``storage.delete``.

        Raises:
            CapabilityError: ``missing``; ``denied`` for a name that is too long.
        """
        place = _place(call, namespace, key)
        self._database.write(lambda connection: _delete(connection, place))

    def list_entries(self, call: Call, namespace: str, cursor: str | None) -> list[dict[str, Any]]:
        """``storage.list-entries``: a page of a namespace, by key.

        The cursor of the next page is the key of the last entry of this one; an empty page
        is the end. A page has at most 100 entries, and fewer where values are large.

        Raises:
            CapabilityError: ``denied`` for a name or a cursor that is too long.
        """
        place = _place(call, namespace)
        if cursor is not None:
            _check_name(cursor, MAX_KEY_BYTES)
        after = (*_at(_entries, place), _entries.c.key > (cursor or ""))
        with self._database.connect() as connection:
            last = _last_key_of_page(connection, after)
            if last is None:
                return []
            query = sa.select(_entries).where(*after, _entries.c.key <= last)
            rows = connection.execute(query.order_by(_entries.c.key)).all()
        return [_entry(row) for row in rows]

    def functions(self) -> Functions:
        """The host functions by their WIT names."""
        return {
            "storage": {
                "get": self.get,
                "put": self.put,
                "delete": self.delete,
                "list-entries": self.list_entries,
            }
        }

    def _put(
        self,
        connection: Connection,
        place: Mapping[str, str],
        value: bytes,
        expected: int | None,
    ) -> int:
        usage = _lock_usage(connection, place)
        old = _size_and_revision(connection, place)
        if expected is not None and expected != (old.revision if old else 0):
            raise CapabilityError("conflict")
        entries = usage.entries + (0 if old else 1)
        size = usage.bytes + len(value) - (old.size if old else 0)
        if (entries > self._max_entries and not old) or (size > max(self._max_bytes, usage.bytes)):
            raise CapabilityError("denied", "the extension's storage quota is used up")
        revision = (old.revision if old else usage.deleted_revision) + 1
        content = {"value": value, "revision": revision}
        if old:
            connection.execute(_entries.update().where(*_at(_entries, place)).values(content))
        else:
            connection.execute(_entries.insert(), {**place, **content})
        _count(connection, place, entries=entries, bytes=size)
        return int(revision)


def _delete(connection: Connection, place: Mapping[str, str]) -> None:
    usage = _lock_usage(connection, place)
    old = _size_and_revision(connection, place)
    if old is None:
        raise CapabilityError("missing")
    connection.execute(_entries.delete().where(*_at(_entries, place)))
    _count(
        connection,
        place,
        entries=usage.entries - 1,
        bytes=usage.bytes - old.size,
        deleted_revision=max(usage.deleted_revision, old.revision),
    )


def _place(call: Call, namespace: str, key: str | None = None) -> dict[str, str]:
    """The columns that name an entry, or a namespace where *key* is None."""
    _check_name(namespace, MAX_NAMESPACE_BYTES)
    place = {
        "tenant_id": call.tenant_id,
        "extension_id": call.extension_id,
        "namespace": namespace,
    }
    if key is not None:
        _check_name(key, MAX_KEY_BYTES)
        place["key"] = key
    return place


def _check_name(text: str, limit: int) -> None:
    if not text or _CONTROL.search(text) or len(text.encode()) > limit:
        raise CapabilityError("denied", f"names have 1 to {limit} bytes and no controls")


def _at(table: sa.Table, place: Mapping[str, str]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in place.items() if name in table.c]


def _lock_usage(connection: Connection, place: Mapping[str, str]) -> Row[Any]:
    """The counters, locked until the transaction ends: writers of one extension take turns."""
    query = sa.select(_usage).where(*_at(_usage, place)).with_for_update()
    row = connection.execute(query).first()
    if row is None:
        names = {name: value for name, value in place.items() if name in _usage.c}
        zero = {"entries": 0, "bytes": 0, "deleted_revision": 0}
        connection.execute(_usage.insert(), {**names, **zero})
        row = connection.execute(query).one()
    return row


def _size_and_revision(connection: Connection, place: Mapping[str, str]) -> Row[Any, Any] | None:
    size = sa.func.length(_entries.c.value).label("size")
    query = sa.select(size, _entries.c.revision).where(*_at(_entries, place))
    return connection.execute(query).first()


def _count(connection: Connection, place: Mapping[str, str], **counters: int) -> None:
    connection.execute(_usage.update().where(*_at(_usage, place)).values(counters))


def _last_key_of_page(
    connection: Connection, after: tuple[sa.ColumnElement[bool], ...]
) -> str | None:
    """The key that ends a page which begins after a cursor; None when nothing follows."""
    size = sa.func.length(_entries.c.value).label("size")
    query = sa.select(_entries.c.key, size).where(*after)
    last, total = None, 0
    for row in connection.execute(query.order_by(_entries.c.key).limit(PAGE_ENTRIES)):
        total += row.size
        if last is not None and total > PAGE_BYTES:
            break
        last = row.key
    return last


def _entry(row: Row[Any]) -> dict[str, Any]:
    return {
        "namespace": row.namespace,
        "key": row.key,
        "value": bytes(row.value),
        "revision": row.revision,
    }
