"""One database for installs and storage: SQLite by default, PostgreSQL for several machines."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.schema import CreateIndex, CreateTable

from .errors import ConfigurationError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T")

metadata = sa.MetaData()

# Numbers that rise with every change of something many processes keep a copy of.
generations = sa.Table(
    "generations",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
)

BUSY_TIMEOUT_MS = 5000
ATTEMPTS = 3

# Set at every connection. WAL lets readers go on while one writes.
PRAGMAS: Mapping[str, str] = {
    "busy_timeout": str(BUSY_TIMEOUT_MS),
    "journal_mode": "WAL",
    "synchronous": "NORMAL",
    "foreign_keys": "ON",
}

# What a database's words mean to the person who has to act on them.
ADVICE: tuple[tuple[str, str], ...] = (
    ("disk is full", "free some space on its disk."),
    ("disk i/o error", "its disk is full, failing or gone: check that one."),
    ("readonly", "make the file and its folder writable for the user that runs the gateway."),
    ("read-only", "make it writable for the user that runs the gateway."),
    ("unable to open", "check that its folder exists and that the gateway's user may write there."),
    ("not a database", "{setting} names a file that something else wrote."),
    ("malformed", "the file is damaged: restore it from a backup."),
    ("locked", "another process holds it for longer than 5 seconds: find and stop that one."),
    ("authentication failed", "check user and password in {setting}."),
    ("fatal:  role", "check user and password in {setting}."),
    ("failed to resolve host", "there is no server of that name: correct {setting}."),
    ("fatal:  database", "make that database on the server, or correct {setting}."),
    ("too many clients", "allow more connections there (max_connections), or pool them."),
    ("could not connect", "check that the server runs, and {setting}."),
    ("connection to server", "check that the server runs, and {setting}."),
    ("connection refused", "check that the server runs, and {setting}."),
    ("connection timeout", "check that the server runs and answers, and {setting}."),
    ("permission denied", "give its user the right to make, read and write tables there."),
)
OTHER_ADVICE = "check {setting} and the database's own log."
# A server that does not answer must not hold a caller for the minutes that TCP would wait.
CONNECT_SECONDS = 5
LOST_MS = 10_000

# What pip installs to bring a driver, where that is an extra of ours.
EXTRAS: Mapping[str, str] = {"psycopg": "'runnerwsgi[postgres]'"}

_WRITES = "runnerwsgi_writes"


class Database:
    """A database by its URL, opened at first use, in each process on its own.

    Example::

        database = Database("sqlite:////var/lib/app/runnerwsgi.db")
        with database.begin() as connection:      # a transaction that writes
            connection.execute(table.insert(), {"name": "x"})
        with database.connect() as connection:    # one that reads
            connection.execute(sa.select(table)).all()

    Its tables are made when they are first needed. Every failure of the database leaves as a
    ``StorageError`` that says which database, what was found and what to do; a URL's password
    is never shown.

    Args:
        url: SQLAlchemy's, of SQLite or PostgreSQL.
        tables: what is kept there; those of installs and storage by default.
        setting: where the URL came from, for messages.

    Raises:
        ConfigurationError: the URL is none.
    """

    def __init__(
        self, url: str, *, tables: sa.MetaData = metadata, setting: str = "RUNNER_DATABASE_URL"
    ) -> None:
        self.setting = setting
        self._metadata = tables
        self.url = _parse(url, setting)
        self._engine: Engine | None = None
        self._tables = 0
        self._lock = threading.Lock()
        _databases.add(self)

    def __repr__(self) -> str:
        return f"Database({self.where!r})"

    @property
    def where(self) -> str:
        """The URL without its password, for messages."""
        hidden = {name: "***" for name in self.url.query if "pass" in name}
        return self.url.update_query_dict(hidden).render_as_string(hide_password=True)

    def exists(self) -> bool:
        """Whether there may be something to read: False for an SQLite file that is not there."""
        path = _path(self.url)
        return not _is_sqlite(self.url) or (path is not None and path.exists())

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that writes: committed at the end, rolled back by an exception.

        SQLite takes its one write lock at the start, so that a read followed by a write
        never fails half-way because another process wrote in between.

        Raises:
            StorageError: the database failed; nothing was written.
        """
        with (
            self._connected("written") as connection,
            connection.execution_options(**{_WRITES: True}).begin(),
        ):
            yield connection

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A transaction that reads; what is written in it is rolled back.

        Raises:
            StorageError: the database failed.
        """
        with self._connected("read") as connection:
            yield connection

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run *work* in a transaction, again where another one won a race for the same row.

        Raises:
            StorageError: the database failed, or the race was lost three times.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                with self.begin() as connection:
                    return work(connection)
            except StorageError as exc:
                if not _lost_a_race(exc.__cause__):
                    raise
        with self.begin() as connection:
            return work(connection)

    def close(self) -> None:
        """Close this process's idle connections. Using the database opens it again."""
        # Without the lock: who opens it in another thread may hang for as long as the database
        # does, and a process that is told to end must not wait for that.
        engine, self._engine, self._tables = self._engine, None, 0
        if engine is not None:
            engine.dispose()

    def _open(self) -> Engine:
        engine = self._engine
        if engine is None or self._tables != len(self._metadata.tables):
            with self._lock:
                self._engine = engine = self._engine or _make_engine(self.url, self.setting)
                tables = len(self._metadata.tables)
                with self._using(engine):
                    _create_tables(engine, self._metadata)
                self._tables = tables
        return engine

    @contextmanager
    def _connected(self, done: str) -> Iterator[Connection]:
        with self._translated(done):
            engine = self._open()
            with self._using(engine), engine.connect() as connection:
                yield connection

    @contextmanager
    def _using(self, engine: Engine) -> Iterator[None]:
        """Close at the end what was in use while the database was closed, as nobody else does."""
        pool, pid = engine.pool, os.getpid()
        try:
            yield
        finally:
            # Not in a child that was forked meanwhile: there, it is the parent's.
            if os.getpid() == pid:
                if engine.pool is not pool:
                    pool.dispose()
                if self._engine is not engine:
                    engine.dispose()

    @contextmanager
    def _translated(self, done: str) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as exc:
            reason = _reason(exc)
            raise StorageError(
                f"The database {self.where} cannot be {done}: {reason}: "
                f"{_advice(reason).format(setting=self.setting)}"
            ) from exc

    def _before_fork(self) -> None:
        # The child must inherit no open connection: closing SQLite's there would tidy up
        # files that the parent still uses, and a shared socket mixes up answers.
        if self._engine is not None:
            self._engine.dispose()

    def _after_fork(self) -> None:
        # A connection that another thread used at that moment was inherited after all: kept,
        # so that it is never closed here.
        if self._engine is not None:
            _inherited.append(self._engine)
        self._engine, self._tables, self._lock = None, 0, threading.Lock()


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_inherited: list[Engine] = []


def _each(act: Callable[[Database], None]) -> Callable[[], None]:
    def run() -> None:
        for database in tuple(_databases):
            act(database)

    return run


os.register_at_fork(before=_each(Database._before_fork), after_in_child=_each(Database._after_fork))


def generation(connection: Connection, name: str) -> int:
    """The number of the last change of *name*; 0 when there was none."""
    query = sa.select(generations.c.number).where(generations.c.name == name)
    return connection.execute(query).scalar() or 0


def advance(connection: Connection, name: str) -> int:
    """Raise the number of *name* within the change's own transaction, and give it back."""
    raised = (
        generations.update()
        .where(generations.c.name == name)
        .values(number=generations.c.number + 1)
        .returning(generations.c.number)
    )
    number = connection.execute(raised).scalar()
    if number is None:
        connection.execute(generations.insert(), {"name": name, "number": 1})
    return number or 1


def _parse(url: str, setting: str) -> URL:
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgres", "postgresql"):
            # As other programs write it; the driver is the one of our extra.
            parsed = parsed.set(drivername="postgresql+psycopg")
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as exc:
        # Not quoted: what cannot be parsed may still hold a password.
        raise ConfigurationError(
            f"{setting} is not a database URL that SQLAlchemy knows: write it as "
            "sqlite:////absolute/path.db or postgresql://user:password@host/name."
        ) from exc
    if _is_sqlite(parsed) and _path(parsed) is None:
        raise ConfigurationError(
            f"{setting} names no file. In memory each process would have a database of its own: "
            "write sqlite:////absolute/path.db."
        )
    return parsed


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _path(url: URL) -> Path | None:
    named = url.database
    return None if not named or named == ":memory:" or named.startswith("file:") else Path(named)


def _make_engine(url: URL, setting: str) -> Engine:
    if not _is_sqlite(url):
        return _driver(url, setting)
    _create_file(url, setting)
    engine = _driver(url, setting)
    sa.event.listen(engine, "connect", _on_connect)
    sa.event.listen(engine, "begin", _on_begin)
    return engine


def _driver(url: URL, setting: str) -> Engine:
    try:
        if _is_sqlite(url):
            return sa.create_engine(url)
        return sa.create_engine(
            url,
            pool_pre_ping=True,
            pool_timeout=CONNECT_SECONDS,
            connect_args=_patience(url),
        )
    except ImportError as exc:
        # Not always the module's own name: psycopg fails where it finds no libpq.
        driver = exc.name or url.get_driver_name()
        what = EXTRAS.get(driver, driver)
        raise ConfigurationError(
            f"{setting} needs the driver {driver}, which is not installed: "
            f"python -m pip install {what}"
        ) from exc


def _patience(url: URL) -> dict[str, Any]:
    """How long the driver waits, where the URL does not say it (libpq's words)."""
    if url.get_driver_name() not in ("psycopg", "psycopg2"):
        return {}
    waits = {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": LOST_MS}
    return {name: value for name, value in waits.items() if name not in url.query}


def _create_file(url: URL, setting: str) -> None:
    """Make the file with mode 0600 before SQLite does; its WAL files inherit the mode."""
    path = _path(url)
    assert path is not None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as exc:
        raise StorageError(
            f"The database file {path} cannot be made: {exc.strerror}. Make its folder writable "
            f"for the user that runs the gateway, or set RUNNER_HOME or {setting}."
        ) from exc


def _on_connect(connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself: `_on_begin` does, of the right kind.
    connection.isolation_level = None
    try:
        for name, value in PRAGMAS.items():
            _set_pragma(connection, f"PRAGMA {name}={value}")
    except BaseException:
        connection.close()  # nobody else knows of it yet
        raise


def _set_pragma(connection: Any, statement: str) -> None:
    """Run it, again where another process just turns the file to WAL, too.

    SQLite does not wait for its busy timeout there: the switch holds a read lock already, and
    two that wait for each other would wait in vain. Whoever loses finds the switch made.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _create_tables(engine: Engine, tables: sa.MetaData) -> None:
    """Make what is missing; processes that start together may race, so a failure looks again."""
    for last in (False, True):
        if not _missing(engine, tables):
            return
        try:
            with engine.connect().execution_options(**{_WRITES: True}) as connection:
                _create_all(connection, tables)
                connection.commit()
            return
        except DBAPIError:
            if last:
                raise


def _missing(engine: Engine, tables: sa.MetaData) -> bool:
    present = set(sa.inspect(engine).get_table_names())
    return any(name not in present for name in tables.tables)


def _create_all(connection: Connection, tables: sa.MetaData) -> None:
    for table in tables.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in table.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))


def _lost_a_race(cause: BaseException | None) -> bool:
    if isinstance(cause, IntegrityError):
        return True
    # Serialisation failure and deadlock (PostgreSQL's SQLSTATE class 40).
    state = getattr(getattr(cause, "orig", None), "sqlstate", None) or ""
    return isinstance(cause, OperationalError) and str(state).startswith("40")


def _reason(exc: SQLAlchemyError) -> str:
    # Neither the statement nor its values: they may hold a secret.
    original = exc.orig if isinstance(exc, DBAPIError) else None
    text = str(original if original is not None else type(exc).__name__)
    return text.strip().splitlines()[0].rstrip(".:") if text.strip() else type(exc).__name__


def _advice(reason: str) -> str:
    return next((advice for word, advice in ADVICE if word in reason.lower()), OTHER_ADVICE)
