import gc
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from peers import peer, silence

from runnerwsgi.database import Database, advance, generation, generations
from runnerwsgi.errors import ConfigurationError, StorageError


@pytest.fixture
def file(tmp_path):
    return tmp_path / "home" / "test.db"


@pytest.fixture
def on_disk(file):
    database = Database(f"sqlite:///{file}")
    yield database
    database.close()


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    yield database
    database.close()


def raise_generation(database, name="x"):
    return database.write(lambda connection: advance(connection, name))


def read_generation(database, name="x"):
    with database.connect() as connection:
        return generation(connection, name)


def test_nothing_is_opened_before_it_is_needed(on_disk, file):
    assert not file.exists()
    assert read_generation(on_disk) == 0
    assert file.exists()


def test_what_was_written_is_read_by_another_database_object(on_disk, file):
    assert [raise_generation(on_disk) for _ in range(3)] == [1, 2, 3]
    other = Database(f"sqlite:///{file}")
    assert read_generation(other) == 3
    other.close()


def test_an_exception_writes_nothing(database):
    def work(connection):
        advance(connection, "x")
        raise KeyError("the caller's own")

    with pytest.raises(KeyError):
        database.write(work)
    assert read_generation(database) == 0


def test_a_reading_transaction_keeps_nothing(database):
    with database.connect() as connection:
        advance(connection, "x")
    assert read_generation(database) == 0


def test_files_and_folder_are_their_owners_alone(on_disk, file):
    with on_disk.begin() as connection:
        advance(connection, "x")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
    assert modes == {"test.db": 0o600, "test.db-wal": 0o600, "test.db-shm": 0o600}
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("busy_timeout", 5000), ("foreign_keys", 1), ("synchronous", 1)],
)
def test_every_connection_is_set_up(on_disk, pragma, value):
    with on_disk.connect() as connection:
        assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value


def test_threads_that_read_and_write_lose_no_update(database):
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: raise_generation(database), range(40)))
    assert sorted(numbers) == list(range(1, 41))


def test_readers_go_on_while_one_writes(database):
    raise_generation(database)
    with database.begin() as connection:
        advance(connection, "x")
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(read_generation, database).result(timeout=2) == 1


def test_processes_that_start_together_make_one_database(database, database_url):
    code = (
        "import sys; from runnerwsgi.database import *\n"
        "Database(sys.argv[1]).write(lambda connection: advance(connection, 'x'))"
    )
    command = [sys.executable, "-c", code, database_url]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(timeout=30) for process in processes] == [0] * 4
    assert read_generation(database) == 4


def test_the_switch_to_wal_waits_for_another_process_to_let_go(on_disk, file):
    file.parent.mkdir()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute("BEGIN IMMEDIATE")  # a lock for which SQLite does not wait by itself
        with ThreadPoolExecutor(1) as pool:
            raised = pool.submit(raise_generation, on_disk)
            time.sleep(0.3)
            assert not raised.done()
            other.execute("COMMIT")
            assert raised.result(timeout=5) == 1


def test_closing_does_not_wait_for_who_opens_a_database_that_hangs(on_disk, file):
    file.parent.mkdir()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as pool:
            raised = pool.submit(raise_generation, on_disk)
            time.sleep(0.3)
            on_disk.close()
            assert not raised.done()
            other.execute("COMMIT")
            assert raised.result(timeout=5) == 1
    assert read_generation(on_disk) == 1
    del raised
    gc.collect()


def in_child(work):
    """Run *work* in a forked child; True when it raised nothing."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def test_a_forked_child_opens_the_database_on_its_own(database):
    raise_generation(database)
    inherited = database._open()

    def work():
        assert read_generation(database) == 1
        assert raise_generation(database) == 2
        assert database._open() is not inherited

    assert in_child(work)
    assert read_generation(database) == 2
    assert raise_generation(database) == 3


def test_a_forked_child_inherits_no_idle_connection(on_disk, file):
    raise_generation(on_disk)

    def is_the_database(descriptor):
        try:
            return os.path.samestat(os.fstat(descriptor), file.stat())
        except OSError:
            return False

    assert any(map(is_the_database, range(256)))
    assert in_child(lambda: sys.exit(1) if any(map(is_the_database, range(256))) else None)


def test_a_fork_in_the_middle_of_a_transaction_harms_neither_side(database):
    with database.begin() as connection:
        advance(connection, "x")
        assert in_child(lambda: read_generation(database) == 0 or sys.exit(1))
    assert read_generation(database) == 1
    del connection
    gc.collect()


def test_a_table_that_is_declared_later_is_made_when_it_is_used(database):
    from runnerwsgi.database import metadata

    read_generation(database)
    late = sa.Table("late", metadata, sa.Column("id", sa.Integer, primary_key=True))
    try:
        with database.begin() as connection:
            connection.execute(late.insert(), {"id": 1})
    finally:
        metadata.remove(late)


def test_a_lost_race_is_run_again(database):
    tried = []

    def work(connection):
        tried.append(len(tried))
        name = "taken" if len(tried) < 2 else "free"
        connection.execute(generations.insert(), {"name": name, "number": 1})
        return name

    with database.begin() as connection:
        connection.execute(generations.insert(), {"name": "taken", "number": 1})
    assert database.write(work) == "free"
    assert tried == [0, 1]


def test_a_race_that_is_always_lost_is_an_error(on_disk):
    with on_disk.begin() as connection:
        connection.execute(generations.insert(), {"name": "taken", "number": 1})
    insert = generations.insert().values(name="taken", number=1)
    with pytest.raises(StorageError, match="UNIQUE"):
        on_disk.write(lambda connection: connection.execute(insert))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("", "not a database URL", id="empty"),
        pytest.param("just text", "not a database URL", id="no scheme"),
        pytest.param("oracel://host/db", "not a database URL", id="unknown database"),
        pytest.param("sqlite://", "names no file", id="in memory"),
        pytest.param("sqlite:///:memory:", "names no file", id="in memory by name"),
    ],
)
def test_a_wrong_url_is_a_configuration_error(url, says):
    with pytest.raises(ConfigurationError, match=says):
        Database(url)


def test_a_missing_driver_names_what_to_install():
    missing = next(
        name for name in ("pymssql", "cx_Oracle", "pg8000", "asyncmy") if not _installed(name)
    )
    dialect = {"pymssql": "mssql+pymssql", "cx_Oracle": "oracle+cx_oracle"}.get(
        missing, f"postgresql+{missing}"
    )
    database = Database(f"{dialect}://user:canary@127.0.0.1/x")
    with pytest.raises(ConfigurationError, match=f"pip install {missing}"):
        read_generation(database)


def _installed(name):
    from importlib.util import find_spec

    return find_spec(name) is not None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("postgresql://me:canary-pw@127.0.0.1:1/x", "that the server runs", id="port"),
        pytest.param("postgresql://me@no-such-host.invalid/x", "no server of that name", id="name"),
        pytest.param("postgres://runner@/none?{rest}", "make that database", id="database"),
        pytest.param("postgresql+psycopg://me@/postgres?{rest}", "user and password", id="user"),
    ],
)
def test_a_server_that_lets_nobody_in_says_what_to_do(postgres, url, says):
    rest = postgres.new_store().partition("?")[2]
    with pytest.raises(StorageError, match=says) as raised:
        read_generation(Database(url.format(rest=rest)))
    assert "canary-pw" not in str(raised.value)


@pytest.mark.postgres
def test_a_server_that_does_not_answer_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr("runnerwsgi.database.CONNECT_SECONDS", 2)  # the least that libpq takes
    with peer(silence) as silent:
        started = time.monotonic()
        with pytest.raises(StorageError, match="runs and answers"):
            read_generation(Database(f"postgresql://me@127.0.0.1:{silent.port}/x"))
        assert time.monotonic() - started < 4.5


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:canary-pw@127.0.0.1:1/x", "postgresql://me@127.0.0.1:1/x?password=canary-pw"],
    ids=["before the host", "among the options"],
)
def test_a_password_is_never_shown(url):
    database = Database(url)
    assert "canary-pw" not in repr(database)
    assert "canary-pw" not in database.where


@contextmanager
def as_somebody_else(home):
    """Take the file permissions seriously, which the superuser does not have to."""
    if os.geteuid() != 0:
        yield
        return
    for path in (home, *home.iterdir()):
        os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def file_size_limit(size):
    """Let no file of this process grow beyond *size*: a full disk, without filling one."""
    import resource
    import signal

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_path_below_a_file_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"x\.db cannot be made: .+\. Make its folder writable"):
        read_generation(Database(f"sqlite:///{tmp_path}/file/x.db"))


def test_a_file_of_something_else_says_so(file):
    file.parent.mkdir()
    file.write_bytes(b"This is a letter, not a database. " * 100)
    with pytest.raises(StorageError, match="that something else wrote"):
        read_generation(Database(f"sqlite:///{file}"))


def test_a_folder_instead_of_a_file_says_so(file):
    file.mkdir(parents=True)
    with pytest.raises(StorageError, match="unable to open"):
        read_generation(Database(f"sqlite:///{file}"))


def test_a_full_disk_says_so_and_keeps_what_was_there(on_disk, file):
    raise_generation(on_disk)
    rows = [{"name": f"{number:064}", "number": number} for number in range(5000)]
    with file_size_limit(150_000), pytest.raises(StorageError, match="its disk is full"):
        on_disk.write(lambda connection: connection.execute(generations.insert(), rows))
    assert read_generation(on_disk) == 1
    assert raise_generation(on_disk) == 2


def test_a_lock_that_is_held_too_long_says_so(on_disk, file):
    import sqlite3

    raise_generation(on_disk)
    with on_disk.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(StorageError, match="another process holds it"):
            raise_generation(on_disk)
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert raise_generation(on_disk) == 2


def test_a_read_only_file_says_so():
    # Not pytest's own folder: nobody but its owner may look into that one.
    with tempfile.TemporaryDirectory() as home:
        file = Path(home, "test.db")
        database = Database(f"sqlite:///{file}")
        raise_generation(database)
        database.close()
        file.chmod(0o400)
        Path(home).chmod(0o500)
        with as_somebody_else(Path(home)), pytest.raises(StorageError, match="writable"):
            raise_generation(database)
        Path(home).chmod(0o700)
