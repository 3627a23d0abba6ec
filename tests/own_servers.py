"""Redis and PostgreSQL as Debian has them, started by the tests for themselves alone."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from peers import unused_port

START_SECONDS = 20
PASSWORD = "canary-7c31"
_names = count()


class RedisServer:
    """A `redis-server` with a password, which keeps nothing on disk."""

    def __init__(self, *options):
        self._options = options

    def __enter__(self):
        _need("redis-server", "redis-server")
        self.port = unused_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self.start()
        return self

    def __exit__(self, *exc):
        self.stop()

    def start(self):
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        command += ["--requirepass", PASSWORD, *self._options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd="/")
        with self.client() as client:
            _wait_for(client.ping)

    def stop(self):
        self.process.kill()
        self.process.wait(10)

    def client(self):
        import redis

        return redis.Redis.from_url(self.url)

    def new_store(self):
        """The URL of an empty store."""
        with self.client() as client:
            client.flushall()
        return self.url


class PostgresServer:
    """A cluster of its own below /tmp, reached by a UNIX socket; sorted as people sort."""

    def __enter__(self):
        _need("pg_ctlcluster", "postgresql")
        self._bin = max(Path("/usr/lib/postgresql").glob("*/bin"), key=_version)
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        # It refuses to run as root.
        self._user = pwd.getpwnam("nobody").pw_name if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self._folder, self._user)
        try:
            self._initdb()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        if hasattr(self, "process"):
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self):
        off = ("fsync=off", "full_page_writes=off")
        settings = (*off, f"unix_socket_directories={self._folder}", "listen_addresses=")
        command = [self._bin / "postgres", "-D", self._folder / "data"]
        command += [word for setting in settings for word in ("-c", setting)]
        with open(self._folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, **self._as_user())
        _wait_for(lambda: self.run("SELECT 1"))

    def stop(self):
        """End it at once, whoever is connected: SIGQUIT is its immediate shutdown."""
        with suppress(ProcessLookupError):
            self.process.send_signal(3)
        self.process.wait(10)

    def run(self, statement):
        import psycopg

        with psycopg.connect(
            host=str(self._folder), user="runner", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)

    def new_store(self):
        """The URL of what is as good as an empty database, and made sooner: a schema."""
        name = f"store_{next(_names)}"
        self.run(f"CREATE SCHEMA {name}")
        return f"postgresql://runner@/postgres?host={self._folder}&options=-csearch_path%3D{name}"

    def _initdb(self):
        command = [self._bin / "initdb", "-D", self._folder / "data", "-U", "runner", "-A", "trust"]
        command += ["--no-sync", "-E", "UTF8", "--locale=C.UTF-8"]
        command += ["--locale-provider=icu", "--icu-locale=en"]
        subprocess.run(command, check=True, capture_output=True, timeout=60, **self._as_user())

    def _as_user(self):
        return {"user": self._user, "cwd": self._folder} if self._user else {}


@pytest.fixture(scope="session")
def redis_server():
    """A Redis for the whole run."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL for the whole run."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request, tmp_path):
    """The URL of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/runnerwsgi.db"
    return request.getfixturevalue("postgres").new_store()


# For what is so of files alone, or told of them.
sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def _need(command, package):
    if not shutil.which(command):
        pytest.skip(f"there is no {command}: install Debian's {package}")


def _version(path):
    return int(path.parent.name)


def _wait_for(ask):
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            return ask()
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
