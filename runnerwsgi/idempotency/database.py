"""Idempotency keys in a database: PostgreSQL for several machines, SQLite for several processes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from runnerwsgi.database import Database
from runnerwsgi.errors import ConfigurationError, StorageError

from . import Record

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

SETTING = "RUNNER_IDEMPOTENCY_URL"
# Each so many claims, a process removes at most so many keys whose time is over: more than came.
SWEEP_EVERY = 50
SWEEP_KEYS = 500
ATTEMPTS = 3

# Apart from the tables of installs: a runner need not be able to see those.
_metadata = sa.MetaData()
_keys = sa.Table(
    "idempotency_keys",
    _metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(16), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("until", sa.Double, nullable=False),
    sa.Column("answer", sa.LargeBinary),
    # By the database's clock, which is the same for every process.
    sa.Column("ends", sa.Double, nullable=False, index=True),
)
_INSERT: Mapping[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
_NOW: Mapping[str, sa.ColumnClause[float]] = {
    "postgresql": sa.literal_column("extract(epoch from clock_timestamp())", sa.Double),
    "sqlite": sa.literal_column("(julianday('now') - 2440587.5) * 86400.0", sa.Double),
}


class DatabaseKeys:
    """Keeps keys in one table, which is made when it is first needed.

    Example::

        Once(DatabaseKeys("postgresql://runner:password@db/keys"), ttl=86400)

    Args:
        url: SQLAlchemy's, of PostgreSQL or SQLite.

    Raises:
        ConfigurationError: it is no such URL.
    """

    is_shared = True

    def __init__(self, url: str) -> None:
        self._database = Database(url, tables=_metadata, setting=SETTING)
        self._kind = self._database.url.get_backend_name()
        if self._kind not in _INSERT:
            raise ConfigurationError(
                f"{SETTING} is a database of {self._kind}: keys are kept in PostgreSQL or SQLite."
            )
        self._claims = itertools.count()

    def claim(self, key: str, record: Record, ttl: float) -> Record | None:
        """Keep *record*, or return the one that is there.

        Raises:
            StorageError: the database failed.
        """
        if next(self._claims) % SWEEP_EVERY == 0:
            self._sweep()
        return self._database.write(lambda at: self._claim(at, key, record, ttl))

    def finish(self, key: str, record: Record, ttl: float) -> None:
        """Keep the answer.

        Raises:
            StorageError: the database failed.
        """
        mine = _keys.c.owner == record.owner
        self._database.write(lambda at: at.execute(self._put(key, record, ttl, mine)))

    def release(self, key: str, record: Record) -> None:
        """Forget the key.

        Raises:
            StorageError: the database failed.
        """
        mine = sa.and_(_keys.c.key == key, _keys.c.owner == record.owner)
        self._database.write(lambda at: at.execute(_keys.delete().where(mine)))

    def close(self) -> None:
        """Close this process's connections."""
        self._database.close()

    @property
    def _now(self) -> sa.ColumnClause[float]:
        return _NOW[self._kind]

    def _claim(self, connection: Connection, key: str, record: Record, ttl: float) -> Record | None:
        # One statement decides; what it finds may be released before it is read.
        for _ in range(ATTEMPTS):
            over = _keys.c.ends <= self._now
            put = self._put(key, record, ttl, over).returning(_keys.c.owner)
            if connection.execute(put).first():
                return None
            row = connection.execute(sa.select(_keys).where(_keys.c.key == key)).first()
            if row is not None:
                answer = None if row.answer is None else bytes(row.answer)
                return Record(row.fingerprint, row.until, row.owner, answer)
        raise StorageError("An idempotency key came and went: others ask for it all the time.")

    def _put(
        self, key: str, record: Record, ttl: float, replaces: sa.ColumnElement[bool]
    ) -> sqlite.Insert:
        """Write a row where there is none, or where *replaces* holds for the one there is."""
        values = {
            "owner": record.owner,
            "fingerprint": record.fingerprint,
            "until": record.until,
            "answer": record.answer,
            "ends": self._now + ttl,
        }
        put = _INSERT[self._kind](_keys).values(key=key, **values)
        # Of either dialect: both write it in the same words.
        made: sqlite.Insert = put.on_conflict_do_update(
            index_elements=["key"], set_=values, where=replaces
        )
        return made

    def _sweep(self) -> None:
        over = sa.select(_keys.c.key).where(_keys.c.ends <= self._now).limit(SWEEP_KEYS)
        # Two that sweep must not wait for each other.
        over = over.with_for_update(skip_locked=True)
        # A database that fails says so in what follows.
        with suppress(StorageError), self._database.begin() as connection:
            connection.execute(_keys.delete().where(_keys.c.key.in_(over)))
