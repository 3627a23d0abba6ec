"""`runner`: extensions run here for gateways elsewhere."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import closing
from types import FrameType
from typing import NoReturn

import click

from runnerwsgi import logs
from runnerwsgi.server import MARK, RunnerServer
from runnerwsgi.settings import Settings

from .command import Command
from .listener import Listener, threads_option

DEFAULT_PORT = 8080
DEFAULT_THREADS = 16
# Threads for UI files and health, beside those that calls may have.
RESERVED_THREADS = 6
DEFAULT_GRACE = 30
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_CONNECTIONS = 1000
RECEIVED_AT_ONCE = 64 * 1024
MAX_HEADER_BYTES = 64 * 1024
# Gateways keep idle connections; the runner must not be the first to close one.
IDLE_SECONDS = 120
# What a runner is where nothing else is said: it executes here, and machines read its log.
DEFAULTS = {"RUNNER_BACKEND": "wasm", "RUNNER_LOG_FORMAT": "json"}

log = logging.getLogger(__name__)


@click.command(cls=Command)
@click.option(
    "--host",
    show_default="127.0.0.1; 0.0.0.0 where the environment has a PORT",
    help="Address to listen on.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    envvar="PORT",
    default=DEFAULT_PORT,
    show_default="PORT, else 8080",
    help="Port to listen on; 0 for a free one.",
)
@threads_option(DEFAULT_THREADS)
@click.option(
    "--grace",
    type=click.IntRange(0, 3600),
    metavar="SECONDS",
    default=DEFAULT_GRACE,
    show_default=True,
    help="Time for calls to finish when it is told to end.",
)
def runner(host: str | None, port: int, threads: int, grace: int) -> None:
    """Run extensions for gateways elsewhere.

    Serves the runner protocol with the backend `wasm`, unless RUNNER_BACKEND names another one,
    and logs JSON to stderr. It needs no database and no installs: bundles come from
    RUNNER_BUNDLE_STORE, everything else with each call.
    """
    # The first process of a container has no handler of its own, and would not hear.
    signal.signal(signal.SIGTERM, _leave)
    for name, value in DEFAULTS.items():
        os.environ[name] = os.environ.get(name) or value
    os.environ["RUNNER_THREADS"] = str(threads)
    reserved = os.environ.get("RUNNER_RESERVED_THREADS") or str(min(RESERVED_THREADS, threads // 2))
    os.environ["RUNNER_RESERVED_THREADS"] = reserved
    logs.configure(Settings.from_env(os.environ))
    host = host or ("0.0.0.0" if os.environ.get("PORT") else "127.0.0.1")  # noqa: S104 # in a box
    with closing(RunnerServer.from_env(os.environ)) as server:
        _warn_of_openness(server, host)
        unfinished = _serve(server, host, port, grace)
    logs.emit(log, logging.INFO, "stopped", unfinished=unfinished)
    if unfinished:
        sys.exit(1)


def _serve(server: RunnerServer, host: str, port: int, grace: int) -> int:
    """Serve until told to end; how many calls were cut off by that."""
    threads, room = server.settings.threads, server.max_request_bytes
    with Listener(
        server,
        host,
        port,
        grace=grace,
        on_end=server.drain,
        marks=(MARK,),
        is_known=lambda given: server.accepts_token(given.get("X_RUNNER_SERVICE_TOKEN", "")),
        threads=threads,
        channel_timeout=IDLE_SECONDS,
        connection_limit=MAX_CONNECTIONS,
        recv_bytes=RECEIVED_AT_ONCE,
        # What is a little too large is read and refused in our words; more is cut off.
        max_request_body_size=4 * room,
        max_request_header_size=MAX_HEADER_BYTES,
        # Requests and answers stay in memory: a full disk must not fail a call.
        inbuf_overflow=4 * room,
        outbuf_overflow=4 * room,
    ) as listener:
        logs.emit(log, logging.INFO, "serving", url=listener.origin, threads=threads)
        server.test.start()
        return listener.run()


def _warn_of_openness(server: RunnerServer, host: str) -> None:
    if server.token and server.token.current() is None and host not in LOOPBACK:
        log.warning(
            "There is no RUNNER_SERVICE_TOKEN: whoever reaches this port may run extensions."
        )


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)
