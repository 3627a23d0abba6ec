"""A server for the questions of guests that run elsewhere, for as long as a command runs."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from waitress import create_server  # type: ignore[import-untyped]  # ships no types

from runnerwsgi.capabilities.questions import MAX_QUESTION_BYTES
from runnerwsgi.errors import ConfigurationError
from runnerwsgi.origins import parse_http_url

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from runnerwsgi.origins import Origin

_PLACE = re.compile(r":[0-9]+$")
# A question may lead to a call of the application, whose guest asks another one.
THREADS = 4


def parse_place(ctx: click.Context, param: click.Parameter, text: str | None) -> Origin | None:
    """``10.0.0.7:8001``: an address of this machine, and a port."""
    if text is None:
        return None
    try:
        found = parse_http_url(f"http://{text}")
    except ValueError as exc:
        raise click.BadParameter(f"{exc}.") from exc
    if _PLACE.search(text) is None:
        raise click.BadParameter("give an address and a port, such as 10.0.0.7:8001.")
    return found.origin


@contextmanager
def answering(app: WSGIApplication, place: Origin) -> Iterator[None]:
    """Serve *app* at a place until the block ends.

    Raises:
        ConfigurationError: it cannot be listened on there.
    """
    server = create_server(
        app,
        sockets=[_listen(place)],
        threads=THREADS,
        max_request_body_size=MAX_QUESTION_BYTES,
        clear_untrusted_proxy_headers=True,
        asyncore_use_poll=True,
        ident=None,
    )
    thread = threading.Thread(target=_run, args=(server,), name="runnerwsgi-questions")
    thread.start()
    try:
        yield
    finally:
        server.trigger.pull_trigger(lambda: server.asyncore.close_all(server._map))
        thread.join()


def _listen(place: Origin) -> socket.socket:
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        return socket.create_server((place.host, place.port), family=family)
    except OSError as exc:
        raise ConfigurationError(
            f"{place.authority} cannot be listened on: {exc.strerror or exc}. Name an address of "
            "this machine with a port that is free."
        ) from exc


def _run(server: Any) -> None:
    try:
        server.run()
    finally:
        server.task_dispatcher.shutdown()
