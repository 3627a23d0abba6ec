"""`runner`: extensions run here for gateways elsewhere."""

from __future__ import annotations

import logging
import os
from contextlib import closing, suppress

import click

from runnerwsgi import logs
from runnerwsgi.gateway import Gateway
from runnerwsgi.server import RunnerServer
from runnerwsgi.service_token import ServiceToken

from .command import Command
from .listener import listening, origin

DEFAULT_PORT = 8080
DEFAULT_THREADS = 16
# Threads for UI files and health, beside those that calls may have.
RESERVED_THREADS = 6
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
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    envvar="RUNNER_THREADS",
    default=DEFAULT_THREADS,
    show_default="RUNNER_THREADS, else 16",
    help="Threads that answer requests.",
)
def runner(host: str | None, port: int, threads: int) -> None:
    """Run extensions for gateways elsewhere.

    Serves the runner protocol with the backend `wasm`, unless RUNNER_BACKEND names another one,
    and logs JSON to stderr. It needs no database and no installs: bundles come from
    RUNNER_BUNDLE_STORE, everything else with each call.
    """
    for name, value in DEFAULTS.items():
        os.environ[name] = os.environ.get(name) or value
    os.environ["RUNNER_THREADS"] = str(threads)
    reserved = os.environ.get("RUNNER_RESERVED_THREADS") or str(min(RESERVED_THREADS, threads // 2))
    os.environ["RUNNER_RESERVED_THREADS"] = reserved
    settings, gateway = Gateway.configure(os.environ)
    logs.configure(settings)
    settings.make_home()
    host = host or ("0.0.0.0" if os.environ.get("PORT") else "127.0.0.1")  # noqa: S104 # in a box
    with (
        closing(RunnerServer(gateway, settings, token=ServiceToken.from_settings(settings))) as app,
        listening(app, host, port, threads=threads, channel_timeout=IDLE_SECONDS) as server,
        suppress(KeyboardInterrupt),
    ):
        app.test.start()
        logs.emit(log, logging.INFO, "serving", url=origin(server, host), threads=threads)
        server.run()
    logs.emit(log, logging.INFO, "stopped")
