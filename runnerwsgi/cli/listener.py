"""The waitress server of `serve` and `runner`: bound with words for what goes wrong, and ended."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from runnerwsgi.errors import ConfigurationError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


@contextmanager
def listening(app: WSGIApplication, host: str, port: int, **options: Any) -> Iterator[Any]:
    """A waitress server for *app*, which ends its threads on SIGTERM and Ctrl-C.

    Args:
        app: what is served.
        host: address to listen on.
        port: port to listen on; 0 for a free one.
        options: waitress's own, such as ``threads``.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    from waitress import create_server  # type: ignore[import-untyped]  # it ships no types

    try:
        server = create_server(
            app,
            host=host,
            port=port,
            ident="runnerwsgi",
            clear_untrusted_proxy_headers=True,
            **options,
        )
    except OSError as exc:
        raise ConfigurationError(_not_bound(exc, host, port)) from exc
    before = signal.signal(signal.SIGTERM, _on_term)
    try:
        yield server
    finally:
        signal.signal(signal.SIGTERM, before)
        server.close()


def _on_term(number: int, frame: FrameType | None) -> NoReturn:
    # waitress ends its threads on this as it does on Ctrl-C.
    raise KeyboardInterrupt


def _not_bound(exc: OSError, host: str, port: int) -> str:
    if exc.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is taken by another program: choose another one with --port, "
            "or --port 0 for any free one."
        )
    if exc.errno == errno.EACCES:
        return f"Port {port} needs more rights than yours: choose one above 1023 with --port."
    return f"{host}:{port} cannot be listened on: {exc.strerror or exc}. Change --host or --port."


def origin(server: Any, host: str) -> str:
    """Where *server* is reached from this machine."""
    listening = getattr(server, "effective_listen", None) or [("", server.effective_port)]
    name = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 # shown, not bound
    return f"http://{f'[{name}]' if ':' in name else name}:{listening[0][1]}"
