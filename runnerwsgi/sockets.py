"""UNIX sockets of this process's own, in folders that it shares, with a WSGI application behind."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import re
import socket
import stat
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import StorageError
from .upstream import unix_address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_queue_log = logging.getLogger(f"{__name__}.waiting")
_queue_log.setLevel(logging.ERROR)

# In the environ of whatever came through one of our sockets: no client can set such a key.
SOCKET_KEY = "runnerwsgi.socket"
MAX_THREADS = 32
BACKLOG = 128
MAX_CONNECTIONS = 32
IDLE_SECONDS = 120
FOLDER_MODE, SOCKET_MODE = 0o711, 0o666
# A socket gets its name when it listens; one that never got there is nobody's after a minute.
DRAFT_SECONDS = 60.0

_SOCKET = re.compile(r"\.?gateway-[0-9]+-[0-9a-f]{8}\.sock")


class SocketListener:
    """Answers on a socket in *folder*, from the first time that its name is asked for.

    Each process has a socket of its own, in threads of its own, so that a caller reaches the very
    process that it was called by. Whoever can enter the folder and knows the name can connect;
    the folder does not tell names. Sockets of processes that are gone are removed.

    Example::

        listener = SocketListener(app, Path("/run/app"), threads=4, max_body=65536)
        listener.name()  # 'gateway-4711-9f86d081.sock'

    Args:
        app: what answers.
        folder: where the socket goes; made where it does not exist.
        threads: how many requests are answered at once; others wait.
        max_body: the longest body of a request, in bytes.
    """

    def __init__(self, app: WSGIApplication, folder: Path, *, threads: int, max_body: int) -> None:
        self._app = app
        self._folder = folder
        self._threads = threads
        self._max_body = max_body
        self._path: Path | None = None
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        _listeners.add(self)

    def name(self) -> str:
        """The name of the socket in the folder; the socket is there.

        Raises:
            StorageError: it cannot be made.
        """
        path = self._path
        # Somebody may have tidied up the folder, or made it anew.
        if path is None or not path.exists():
            path = self._listen(path)
        return path.name

    def close(self) -> None:
        """Stop listening, and remove the socket."""
        with self._lock:
            self._stop()

    def _listen(self, missing: Path | None) -> Path:
        with self._lock:
            if self._path is None or self._path == missing:
                self._stop()
                try:
                    _make(self._folder)
                    _sweep(self._folder)
                    self._path, sock = _bind(self._folder)
                except OSError as exc:
                    raise StorageError(
                        f"No socket for the questions of extensions can be made in {self._folder}: "
                        f"{exc.strerror or exc}. Let the user that runs the gateway write there, "
                        "or name another folder in RUNNER_CALLBACK_BASE."
                    ) from exc
                self._start(sock)
            return self._path

    def _start(self, sock: socket.socket) -> None:
        # Only gateways of remote runners pay for the import.
        from waitress import create_server  # type: ignore[import-untyped]  # it ships no types

        self._server = create_server(
            self._app,
            sockets=[sock],
            threads=self._threads,
            channel_timeout=IDLE_SECONDS,
            # Each can have a question's size kept for it, before its token is read.
            connection_limit=MAX_CONNECTIONS,
            max_request_body_size=self._max_body,
            clear_untrusted_proxy_headers=True,
            asyncore_use_poll=True,
            ident=None,
        )
        # It warns of each request that waits; here some may.
        self._server.task_dispatcher.queue_logger = _queue_log
        self._thread = threading.Thread(
            target=_run, args=(self._server,), name="runnerwsgi-callbacks", daemon=True
        )
        self._thread.start()

    def _stop(self) -> None:
        path, server, thread = self._path, self._server, self._thread
        self._path = self._server = self._thread = None
        if path is not None:
            path.unlink(missing_ok=True)
        if server is not None and thread is not None:
            server.trigger.pull_trigger(lambda: server.asyncore.close_all(server._map))
            thread.join(timeout=5)

    def _before_exit(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _after_fork(self) -> None:
        # What the parent listens on is the parent's: a copy that stays open here would take
        # connections that nobody answers. Kept, so that nothing of it is closed a second time.
        if self._server is not None:
            _inherited.append(self._server)
            for channel in tuple(self._server._map.values()):
                with suppress(OSError):
                    channel.socket.close()
        self._path = self._server = self._thread = None
        self._lock = threading.Lock()


class Sockets:
    """The sockets of one application in this process, one in each folder that was asked for.

    Example::

        sockets = Sockets(app, threads=4, max_body=65536)
        sockets.name_in(Path("/run/app"))

    Args:
        app: answers, with ``environ["runnerwsgi.socket"]``.
        threads: how many requests are answered at once on a socket.
        max_body: the longest body of a request, in bytes.
    """

    def __init__(self, app: WSGIApplication, *, threads: int, max_body: int) -> None:
        self._app = _marking(app)
        self._threads = min(threads, MAX_THREADS)
        self._max_body = max_body
        self._listeners: dict[Path, SocketListener] = {}

    def name_in(self, folder: Path) -> str:
        """The name of the socket in *folder*, which is there.

        Raises:
            StorageError: it cannot be made.
        """
        listener = self._listeners.get(folder)
        if listener is None:
            new = SocketListener(self._app, folder, threads=self._threads, max_body=self._max_body)
            listener = self._listeners.setdefault(folder, new)
        return listener.name()

    def close(self) -> None:
        """Stop listening, and remove the sockets."""
        for listener in self._listeners.values():
            listener.close()


def _marking(app: WSGIApplication) -> WSGIApplication:
    def marked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ[SOCKET_KEY] = True
        return app(environ, start_response)

    return marked


_listeners: weakref.WeakSet[SocketListener] = weakref.WeakSet()
_inherited: list[Any] = []


def _after_fork() -> None:
    for listener in tuple(_listeners):
        listener._after_fork()


def _before_exit() -> None:
    for listener in tuple(_listeners):
        listener._before_exit()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_before_exit)


def _run(server: Any) -> None:
    try:
        server.run()
    finally:
        server.task_dispatcher.shutdown()


def _make(folder: Path) -> None:
    """Make *folder* so that others may enter it and not look around."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        owner = folder.stat().st_uid
        # Whoever owns it could put another socket in our place, and be sent our tokens.
        if os.geteuid() != 0 and owner not in (0, os.geteuid()):
            raise PermissionError(errno.EPERM, f"it belongs to user {owner}") from None
        return
    # Whatever the umask says: a container's user has to pass.
    folder.chmod(FOLDER_MODE)


def _bind(folder: Path) -> tuple[Path, socket.socket]:
    """A listening socket and its path, which appears when it listens."""
    path = folder / f"gateway-{os.getpid()}-{os.urandom(4).hex()}.sock"
    draft = folder / f".{path.name}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with unix_address(draft) as address:
            sock.bind(address)
        _open_to_all(draft)
        sock.listen(BACKLOG)
        draft.rename(path)
    except BaseException:
        sock.close()
        draft.unlink(missing_ok=True)
        raise
    return path, sock


def _open_to_all(path: Path) -> None:
    """Let everybody connect. Who writes in the folder, too, must not lead us to another file."""
    if not hasattr(os, "O_PATH"):
        os.chmod(path, SOCKET_MODE, follow_symlinks=False)
        return
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISSOCK(os.fstat(handle).st_mode):
            raise FileExistsError(errno.EEXIST, "another file took the socket's place")
        os.chmod(f"/proc/self/fd/{handle}", SOCKET_MODE)
    finally:
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove the sockets on which nobody listens any more."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if _SOCKET.fullmatch(entry.name) and _is_stale(Path(entry.path)):
                Path(entry.path).unlink(missing_ok=True)


def _is_stale(path: Path) -> bool:
    if path.name.startswith("."):
        return time.time() - path.stat().st_mtime > DRAFT_SECONDS
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            with unix_address(path) as address:
                sock.connect(address)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
