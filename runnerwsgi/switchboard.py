"""Switchboard: which backend applications on this machine are to use, and which they do use."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa

from .database import Database, advance, generation, metadata

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_GENERATION = "backend"

# A switch is kept for one RUNNER_BACKEND: whoever names another one there has changed his mind.
_switches = sa.Table(
    "backend_switches",
    metadata,
    sa.Column("host", sa.String(255), primary_key=True),
    sa.Column("configured", sa.String(255), primary_key=True),
    sa.Column("backend", sa.String(255), nullable=False),
)
_processes = sa.Table(
    "backend_processes",
    metadata,
    sa.Column("process_id", sa.String(32), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("born", sa.String(64), nullable=False),
    sa.Column("configured", sa.String(255), nullable=False),
    sa.Column("backend", sa.String(255), nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("error", sa.Text, nullable=False),
)

State = Literal["settled", "changing", "refused", "fixed"]


@dataclass(frozen=True, slots=True)
class Process:
    """One process of an application, as it has last described itself.

    Attributes:
        process_id: one RunnerMiddleware in one process.
        pid: the operating system's.
        born: when the process was started, in the system's own words: ids are used again.
        configured: what its ``RUNNER_BACKEND`` says.
        backend: what answers its calls now.
        number: of the last wish that it has seen.
        state: ``settled``, ``changing`` to what is wished, ``refused`` to, or ``fixed``: unable
            to change at all.
        error: why it refused, or is fixed.
    """

    process_id: str
    pid: int
    born: str
    configured: str
    backend: str
    number: int
    state: State
    error: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return birth(self.pid) in (self.born, "")


class Switchboard:
    """The wishes for this machine, and what its processes have answered.

    Example::

        switchboard = Switchboard(Database("sqlite:////var/lib/app/runnerwsgi.db"))
        number = switchboard.wish({"wasm": "docker"})     # where RUNNER_BACKEND says wasm
        switchboard.processes()                           # who of them has seen this number?

    Args:
        database: the one of the installs.
        host: this machine's name; processes of others do not listen.
    """

    def __init__(self, database: Database, host: str = "") -> None:
        self._database = database
        self._host = (host or socket.gethostname())[:255]

    def look(self, configured: str) -> tuple[int, str | None]:
        """The number of the last wish, and the backend wished in place of *configured*, if any.

        Raises:
            StorageError: the database failed.
        """
        query = sa.select(_switches.c.backend).where(self._here(_switches, configured))
        with self._database.connect() as connection:
            return generation(connection, _GENERATION), connection.execute(query).scalar()

    def number(self) -> int:
        """The number of the last wish.

        Raises:
            StorageError: the database failed.
        """
        with self._database.connect() as connection:
            return generation(connection, _GENERATION)

    def switches(self) -> dict[str, str]:
        """The backend that is wished, by the one that ``RUNNER_BACKEND`` names.

        Raises:
            StorageError: the database failed.
        """
        query = sa.select(_switches).where(_switches.c.host == self._host)
        with self._database.connect() as connection:
            return {row.configured: row.backend for row in connection.execute(query)}

    def wish(self, wishes: Mapping[str, str]) -> int:
        """Wish a backend for each ``RUNNER_BACKEND``; the same one ends a switch.

        Raises:
            StorageError: the database failed; nothing was wished.
        """

        def work(connection: Connection) -> int:
            for configured, backend in wishes.items():
                connection.execute(_switches.delete().where(self._here(_switches, configured)))
                if backend != configured:
                    row = {"host": self._host, "configured": configured, "backend": backend}
                    connection.execute(_switches.insert(), row)
            return advance(connection, _GENERATION)

        return self._database.write(work)

    def report(self, process: Process) -> None:
        """Write down how a process is.

        Raises:
            StorageError: the database failed.
        """

        def work(connection: Connection) -> None:
            same = _processes.c.process_id == process.process_id
            connection.execute(_processes.delete().where(same))
            connection.execute(_processes.insert(), {"host": self._host, **asdict(process)})

        self._database.write(work)

    def leave(self, *process_ids: str) -> None:
        """Forget processes.

        Raises:
            StorageError: the database failed.
        """
        gone = _processes.c.process_id.in_(process_ids)
        with self._database.begin() as connection:
            connection.execute(_processes.delete().where(gone))

    def processes(self) -> tuple[Process, ...]:
        """The living processes of this machine, by pid; what the dead have left is removed.

        Raises:
            StorageError: the database failed.
        """
        columns = [column for column in _processes.c if column.name != "host"]
        query = sa.select(*columns).where(_processes.c.host == self._host)
        with self._database.connect() as connection:
            rows = [Process(**row._mapping) for row in connection.execute(query)]
        alive = [row for row in rows if row.is_alive]
        if len(alive) < len(rows):
            self.leave(*(row.process_id for row in rows if row not in alive))
        return tuple(sorted(alive, key=lambda row: (row.pid, row.process_id)))

    def _here(self, table: sa.Table, configured: str) -> sa.ColumnElement[bool]:
        return sa.and_(table.c.host == self._host, table.c.configured == configured)


def birth(pid: int) -> str:
    """When a process was started, where ``/proc`` says it; "" elsewhere."""
    with suppress(OSError):
        # The name, in parentheses, may have blanks of its own; state and start come after it.
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return "ended" if fields[0] == "Z" else fields[19]
    return ""
