"""`doctor`: look at everything that must be right, and say how to mend what is not."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from runnerwsgi import discovery
from runnerwsgi.database import Database
from runnerwsgi.errors import RunnerError
from runnerwsgi.gateway import Gateway
from runnerwsgi.installs import Installs
from runnerwsgi.protocol import Bundle, Finding
from runnerwsgi.settings import SETTINGS, Settings, warn_of_unknown
from runnerwsgi.stores import open_store

from . import output
from .about import faults_of, plugin_tables, values_of
from .command import Command, json_option, quiet_logs, wants_json
from .serve import DEFAULT_THREADS
from .switch import switches_of

if TYPE_CHECKING:
    from runnerwsgi.installs import Install
    from runnerwsgi.stores import Store

LOW_DISK = 500 * 2**20


@dataclass(frozen=True, slots=True)
class Asked:
    """What the checks look at.

    Attributes:
        no_home: why no data folder can be used; empty where one can.
    """

    settings: Settings
    host: str
    port: int
    no_home: str = ""

    def is_told(self, folder: Path) -> bool:
        """Whether what is wrong with *folder* is told of the data folder, which it is in."""
        return bool(self.no_home) and folder.is_relative_to(self.settings.home)


Check = Callable[[Asked], Iterator[Finding]]


@click.command(cls=Command)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to be served on.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8000,
    show_default=True,
    help="Port to be served on.",
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, host: str, port: int) -> None:
    """Check settings, backend, store, database, caches, port and threads.

    Each finding comes with what to do about it. Exit status 1 when one of them is a failure.
    """
    quiet_logs()
    findings = list(examine(host, port))
    if wants_json():
        output.print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        output.print_table(("", "what", "found"), [row for one in findings for row in _rows(one)])
    if any(finding.state == "fail" for finding in findings):
        ctx.exit(1)


def _rows(finding: Finding) -> Iterator[tuple[str, str, str]]:
    yield finding.state, finding.what, finding.found
    if finding.fix:
        yield "", "", f"→ {finding.fix}"


def examine(host: str, port: int) -> Iterator[Finding]:
    """Run every check; one that fails in an unforeseen way is itself a finding."""
    yield from _environment()
    try:
        settings = Settings.from_env(os.environ)
    except RunnerError:
        return  # its faults are findings already, and everything else depends on it
    asked = Asked(settings, host, port, _no_home(settings))
    for check in CHECKS:
        name = check.__name__
        try:
            yield from check(asked)
        except RunnerError as exc:
            fix = FIXES.get(name, exc.advice)
            yield from (Finding("fail", name, line, fix) for line in output.error_lines(exc))
        except OSError as exc:
            fix = "give it to the user that runs the gateway."
            yield Finding("fail", name, f"{exc.filename}: {exc.strerror}", fix)


def _environment() -> Iterator[Finding]:
    version = f"runnerwsgi {metadata.version('runnerwsgi')}, Python {platform.python_version()}"
    yield Finding("ok", "version", version)
    rows = list(values_of(SETTINGS, os.environ))
    rows += [row for table in plugin_tables() for row in values_of(table, os.environ)]
    faults = faults_of(os.environ, rows)
    for fault in faults:
        yield Finding("fail", "settings", fault, "`runnerwsgi env` lists all and their values.")
    for name in warn_of_unknown(os.environ, discovery.installed()):
        yield Finding("warn", "settings", f"{name} is not a setting", f"correct or unset {name}.")
    if not faults:
        count = sum(row.origin != "default" for row in rows)
        yield Finding("ok", "settings", f"{count} of {len(rows)} are set")


def _no_home(settings: Settings) -> str:
    """Make the data folder, as every command does that needs it; or why there can be none."""
    try:
        settings.make_home()
    except RunnerError as exc:
        reason = exc.__cause__.strerror if isinstance(exc.__cause__, OSError) else str(exc)
        return f"{settings.home} cannot be made: {reason}"
    if not os.access(settings.home, os.W_OK | os.X_OK):
        return f"{settings.home} cannot be written"
    return ""


def backend(asked: Asked) -> Iterator[Finding]:
    """The backend loads, and says how it is; every plugin says what it found."""
    with Gateway.load(asked.settings, os.environ) as gateway:
        health = gateway.health()
        states: dict[str, Literal["ok", "warn", "fail"]] = {
            "ok": "ok",
            "degraded": "warn",
            "unavailable": "fail",
        }
        told = "; ".join(f"{name} {text}" for name, text in health.checks.items())
        fix = "" if health.status == "ok" else "see what it says of itself."
        found = f"{gateway.backend_name}: {health.status}"
        yield Finding(states[health.status], "backend", f"{found} ({told})", fix)
        for about in gateway.metadata().values():
            cache = about.get("cache_dir")
            if cache and not asked.is_told(folder := Path(str(cache))):
                yield _cache(folder)
        yield from gateway.findings()


def _cache(folder: Path) -> Finding:
    if not os.path.exists(folder):  # False where rights do not let one look
        if trouble := _never(folder):
            fix = "name another one: `runnerwsgi env` lists the settings."
            return Finding("fail", "cache", trouble, fix)
        return Finding("ok", "cache", f"{folder} is made at the first install")
    if folder.stat().st_mode & 0o077 or folder.stat().st_uid != os.geteuid():
        fix = f"make it yours alone: chown it, then chmod 700 {folder}."
        return Finding("fail", "cache", f"{folder} is open to other users", fix)
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Finding("ok", "cache", f"{folder}, {output.size(used)}")


def _never(folder: Path) -> str:
    """Why a folder that is not there can never be made; empty where it is there, or can."""
    # Unlike Path.exists, this is False where rights do not let one look.
    if os.path.exists(folder):
        return ""
    above = next(path for path in folder.parents if os.path.exists(path))
    try:
        # Done and undone: rights alone do not tell, for root least of all.
        os.rmdir(tempfile.mkdtemp(dir=above))
    except OSError as exc:
        return f"{folder} cannot be made: {exc.strerror}"
    return ""


def switch(asked: Asked) -> Iterator[Finding]:
    """Nothing overrules RUNNER_BACKEND without being seen."""
    if asked.is_told(Path(Database(asked.settings.database_url).url.database or "")):
        return
    for configured, used in switches_of(asked.settings).items():
        found = f"where RUNNER_BACKEND says {configured}, applications here use {used}"
        yield Finding("warn", "switch", found, "`runnerwsgi switch --reset` ends that.")


def home(asked: Asked) -> Iterator[Finding]:
    """The data folder is ours, closed to others, and on a disk with room."""
    folder = asked.settings.home
    if asked.no_home:
        fix = "chown it, or set RUNNER_HOME to a folder that the gateway's user may write."
        yield Finding("fail", "home", asked.no_home, fix)
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        fix = f"close it: chmod 700 {folder}."
        yield Finding("warn", "home", f"{folder} is open to other users ({mode:o})", fix)
    else:
        yield Finding("ok", "home", str(folder))
    free = shutil.disk_usage(folder).free
    if free < LOW_DISK:
        yield Finding("warn", "disk", f"{output.size(free)} left", "free some space.")


def database(asked: Asked) -> Iterator[Finding]:
    """The database answers, and every install's bundle and secrets are there."""
    with closing(Installs.from_settings(asked.settings)) as known:
        # The name of PostgreSQL's is no path in the data folder.
        if asked.is_told(Path(known.database.url.database or "")):
            return
        found = known.list()
        yield Finding(
            "ok", "database", f"{known.database.where}, {output.counted(len(found), 'install')}"
        )
        yield from _store(asked, known, found)


def _store(asked: Asked, known: Installs, found: Iterable[Install]) -> Iterator[Finding]:
    fix = "mend that, or correct RUNNER_BUNDLE_STORE."
    try:
        opened = open_store(asked.settings)
    except RunnerError as exc:
        yield Finding("fail", "store", " ".join(output.error_lines(exc)), fix)
        return
    with closing(opened) as store:
        if asked.is_told(store.root):
            return
        if trouble := store.trouble or _never(store.root):
            yield Finding("fail", "store", trouble, fix)
            return
        broken = [finding for one in found for finding in _install(one, known, store)]
        yield from broken
        if not broken:
            yield Finding("ok", "store", store.where)


def _install(one: Install, known: Installs, store: Store) -> Iterator[Finding]:
    what = f"{one.extension_id} ({one.tenant_id})"
    try:
        store.fetch(Bundle(one.tenant_id, one.extension_id, one.content_hash))
        for key in known.secret_keys(one.install_id):
            known.secret(one.install_id, key)
    except RunnerError as exc:
        yield Finding("fail", what, " ".join(output.error_lines(exc)), "install it again.")


def port(asked: Asked) -> Iterator[Finding]:
    """Somebody could listen there."""
    place = f"{asked.host}:{asked.port}"
    family = socket.AF_INET6 if ":" in asked.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((asked.host, asked.port))
        except OSError as exc:
            taken = exc.errno == errno.EADDRINUSE
            found = f"{place} is taken" if taken else f"{place}: {exc.strerror}"
            fix = "fine if that is your server; else use `runnerwsgi serve --port`."
            yield Finding("warn", "port", found, fix)
        else:
            yield Finding("ok", "port", f"{place} is free")


def threads(asked: Asked) -> Iterator[Finding]:
    """Threads are left for the application while extensions are called."""
    settings = asked.settings
    is_set = bool(os.environ.get("RUNNER_THREADS"))
    count = settings.threads if is_set else DEFAULT_THREADS
    servers = f"waitress {metadata.version('waitress')} in `runnerwsgi serve`, {count} threads"
    slots = max(1, count - settings.reserved_threads)
    found = f"{servers}, {slots} for extensions at once"
    if count <= settings.reserved_threads:
        fix = "raise RUNNER_THREADS above RUNNER_RESERVED_THREADS."
        yield Finding("warn", "server", found, fix)
    else:
        yield Finding("ok", "server", found)
    if not is_set:
        found = f"counted as {settings.threads} threads, as RUNNER_THREADS is not set"
        yield Finding("ok", "other servers", found)


def identity(asked: Asked) -> Iterator[Finding]:
    """Somebody says who calls."""
    chosen = asked.settings.identity
    if chosen == "local":
        fix = "for development only: pass identify= to RunnerMiddleware elsewhere."
        yield Finding("warn", "identity", "every local caller is an administrator", fix)
    elif chosen == "header":
        yield Finding("ok", "identity", f"header {asked.settings.identity_header}")
    else:
        yield Finding("ok", "identity", "the application's own identify=, or nobody gets in")


# What to do where a check could not even be made.
FIXES = {
    "backend": "mend that, or name another plugin; `runnerwsgi plugins` lists them.",
    "database": "correct RUNNER_DATABASE_URL, or make it reachable and writable.",
}
CHECKS: tuple[Check, ...] = (home, backend, switch, database, port, threads, identity)
